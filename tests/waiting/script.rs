//! Scripts: what a user types, run by bash in a job and a login of its own.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::eventually;
use crate::puppet::is_asleep_in;

/// How long one may take.
const LIMIT: Duration = Duration::from_secs(30);

/// A script that runs. It is killed, with all that it started, when it is dropped.
#[derive(Debug)]
pub(crate) struct Script(Option<Child>);

impl Script {
    /// Starts it in `root`.
    pub(crate) fn start(root: &Path, script: &str) -> Self {
        Self::start_as(0, root, script)
    }

    /// The same, as a user.
    pub(crate) fn start_as(uid: u32, root: &Path, script: &str) -> Self {
        let mut command = Command::new("bash");
        command.args(["-c", script]);
        Self::of(uid, root, command)
    }

    /// Starts a program in its stead.
    pub(crate) fn of(uid: u32, root: &Path, mut command: Command) -> Self {
        command.current_dir(root).env_remove("LOCKFS_SESSION").env("LC_ALL", "C");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if uid != 0 {
            command.uid(uid).gid(uid);
        }
        // SAFETY: setsid(2) and prctl(2) are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                if libc::setsid() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
            });
        }
        Self(Some(command.spawn().unwrap()))
    }

    /// The process id of the shell, and number of its job.
    pub(crate) fn pid(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    /// Waits until one of its processes waits in this call.
    #[track_caller]
    pub(crate) fn wait_until_it_waits_in(&mut self, call: libc::c_long) {
        eventually("one of its processes waits", || {
            let ended = self.0.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {ended:?}");
            processes_of(self.pid()).iter().any(|&pid| threads_of(pid).any(|id| is_asleep_in(pid, id, call)))
        });
    }

    /// Waits for a line that it prints.
    #[track_caller]
    pub(crate) fn says(&mut self, line: &str) {
        assert_eq!(self.line(), line);
    }

    /// The next line that it prints; fails where there is none.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        // A byte at a time: what comes after the line is for whoever asks next.
        let mut said = Vec::new();
        let output = self.0.as_mut().unwrap().stdout.as_mut().unwrap();
        let mut byte = [0];
        while byte != *b"\n" {
            let read = io::Read::read(output, &mut byte).unwrap();
            assert_eq!(read, 1, "it ended after {:?}", String::from_utf8_lossy(&said));
            said.push(byte[0]);
        }
        said.pop();
        String::from_utf8(said).unwrap()
    }

    /// Lets a script go on that reads a line.
    pub(crate) fn go(&mut self) {
        io::Write::write_all(self.0.as_mut().unwrap().stdin.as_mut().unwrap(), b"go\n").unwrap();
    }

    /// Sends a signal to all of its processes, as a terminal does.
    pub(crate) fn signal(&self, signal: i32) {
        // SAFETY: kill(2) of a process group that was made here, and whose leader is not waited for.
        unsafe { libc::kill(-libc::pid_t::try_from(self.pid()).unwrap(), signal) };
    }

    /// What it printed, and how it ended.
    #[track_caller]
    pub(crate) fn end(mut self) -> Output {
        let mut child = self.0.take().unwrap();
        drop(child.stdin.take());
        let limit = Instant::now() + LIMIT;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > limit {
                kill(&mut child);
                panic!("a script did not end: {:?}", child.wait_with_output());
            }
            sleep(Duration::from_millis(2));
        }
        child.wait_with_output().unwrap()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            kill(child);
            let _ = child.wait();
        }
    }
}

/// Runs a script to its end.
#[track_caller]
pub(crate) fn run(root: &Path, script: &str) -> Output {
    Script::start(root, script).end()
}

/// What a script printed that succeeds.
#[track_caller]
pub(crate) fn prints(root: &Path, script: &str) -> String {
    crate::common::programs::succeeds(&run(root, script))
}

/// The exit status of a script.
#[track_caller]
pub(crate) fn status(root: &Path, script: &str) -> i32 {
    run(root, script).status.code().expect("no signal ends it")
}

fn kill(child: &mut Child) {
    // SAFETY: kill(2) of a process group that was made here, and whose leader is not waited for.
    unsafe { libc::kill(-libc::pid_t::try_from(child.id()).unwrap(), libc::SIGKILL) };
}

/// The processes of a login: of a script, and of jobs that it begins.
fn processes_of(login: u32) -> Vec<u32> {
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let login = login.to_string();
    let is_of_it = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name: state, parent, process group, login.
        stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(3)) == Some(&login)
    };
    pids.filter(is_of_it).collect()
}

fn threads_of(pid: u32) -> impl Iterator<Item = u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    threads.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}
