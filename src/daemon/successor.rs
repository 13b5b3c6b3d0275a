//! The program that takes this one's place, on SIGHUP: whatever stands at its path by now, with the same words and
//! environment, in the same process.
//!
//! It is tried first, while this one still serves: whether it runs at all, and whether it understands the settings as
//! they are now. Where it does not, this one goes on.

use std::ffi::{CString, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use super::heritage::{HANDED, HANDED_DIRECTORY, REHEARSAL};

/// How long a program may take to say whether it can start.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the kernel puts behind the path of a program that is not there any more (proc_pid_exe(5)).
const DELETED: &[u8] = b" (deleted)";

/// What this process was started with.
#[derive(Clone, Debug)]
pub(super) struct Successor {
    program: PathBuf,
    words: Vec<OsString>,
    directory: PathBuf,
    mountpoint: PathBuf,
}

impl Successor {
    /// The one of this process, which serves a mount there, before it has left its directory.
    pub(super) fn of_this_process(mountpoint: &Path) -> io::Result<Self> {
        let program = std::fs::read_link("/proc/self/exe")?.into_os_string();
        let program = program.as_bytes().strip_suffix(DELETED).unwrap_or(program.as_bytes()).to_vec();
        Ok(Self {
            program: OsString::from_vec(program).into(),
            words: std::env::args_os().collect(),
            directory: std::env::current_dir()?,
            mountpoint: mountpoint.to_owned(),
        })
    }

    /// Whether it can take over.
    ///
    /// # Errors
    /// Why not, in a line.
    pub(super) fn try_out(&self) -> Result<(), String> {
        // To get there it would have to ask the mount, which nobody serves by then.
        if self.directory.starts_with(&self.mountpoint) {
            let directory = self.directory.display();
            return Err(format!("lockfs was started in {directory}, where the mount is by now"));
        }
        let mut version = Command::new(&self.program);
        version.arg("--version");
        let mut rehearsal = Command::new(&self.program);
        if let Some((name, words)) = self.words.split_first() {
            rehearsal.arg0(name).args(words);
        }
        rehearsal.env(HANDED, REHEARSAL).current_dir(&self.directory);
        for (what, command) in [("does not run", &mut version), ("refuses the settings", &mut rehearsal)] {
            let fail = |why: &dyn fmt::Display| format!("{} {what}: {why}", self.program.display());
            command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
            let output = output_within(command, PATIENCE).map_err(|error| fail(&error))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                let said = said.trim().lines().last().unwrap_or_default();
                return Err(fail(&if said.is_empty() { output.status.to_string() } else { said.to_owned() }));
            }
        }
        Ok(())
    }

    /// Goes on as it, with the device and the ledger. Returns only where that failed, and then with the reason; where
    /// the new program can't be run, the one that runs is tried again.
    pub(super) fn go_on(&self, device: BorrowedFd<'_>, ledger: BorrowedFd<'_>) -> io::Error {
        for descriptor in [device, ledger] {
            // SAFETY: fcntl(2) has no memory to spoil.
            unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFD, 0) };
        }
        let handed = format!("{} {} {}", std::process::id(), device.as_raw_fd(), ledger.as_raw_fd());
        let is_ours = |name: &OsString| name == HANDED || name == HANDED_DIRECTORY;
        let mut environment: Vec<OsString> = std::env::vars_os()
            .filter(|(name, _)| !is_ours(name))
            .map(|(name, value)| [name, value].join(std::ffi::OsStr::new("=")))
            .collect();
        environment.push(format!("{HANDED}={handed}").into());
        let mut directory = OsString::from(format!("{HANDED_DIRECTORY}="));
        directory.push(&self.directory);
        environment.push(directory);
        let strings = |words: &[OsString]| -> Vec<CString> {
            words.iter().filter_map(|word| CString::new(word.as_bytes()).ok()).collect()
        };
        let (words, environment) = (strings(&self.words), strings(&environment));
        let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
            strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (words, environment) = (pointers(&words), pointers(&environment));
        let program = CString::new(self.program.as_os_str().as_bytes()).unwrap_or_default();
        let mut error = io::ErrorKind::NotFound.into();
        // Not by the standard library, which would let signals come in before the next program waits for them.
        for program in [program.as_c_str(), c"/proc/self/exe"] {
            // SAFETY: all strings end with NUL and live, and both lists end with a null pointer.
            unsafe { libc::execve(program.as_ptr(), words.as_ptr(), environment.as_ptr()) };
            error = io::Error::last_os_error();
        }
        error
    }
}

/// What a command says, if it ends within `limit`.
pub(super) fn output_within(command: &mut Command, limit: Duration) -> io::Result<Output> {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pid = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
    let (ended, end) = channel();
    std::thread::Builder::new().name("lockfs-child".to_owned()).spawn(move || {
        ended.send(child.wait_with_output()).ok();
    })?;
    end.recv_timeout(limit).unwrap_or_else(|_| {
        // SAFETY: kill(2) has no memory to spoil; whoever waits for the child has not heard that it ended.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        Err(io::ErrorKind::TimedOut.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn successor(program: &str, words: &[&str]) -> Successor {
        let words = words.iter().map(OsString::from).collect();
        Successor { program: program.into(), words, directory: "/".into(), mountpoint: "/locks".into() }
    }

    #[test]
    fn a_program_that_cannot_start_is_found_out() {
        assert_eq!(successor("/bin/true", &["true"]).try_out(), Ok(()));
        for program in ["/nowhere/at/all", "/bin/false", "/etc/passwd"] {
            let why = successor(program, &["x"]).try_out().unwrap_err();
            assert!(why.starts_with(&format!("{program} does not run: ")), "{why}");
        }
        // It runs, and does not understand its words.
        let why = successor("/bin/ls", &["ls", "--nonsense"]).try_out().unwrap_err();
        assert!(why.starts_with("/bin/ls refuses the settings: "), "{why}");
    }

    #[test]
    fn a_command_that_hangs_is_given_up() {
        let mut command = Command::new("sleep");
        let outcome = output_within(command.arg("1000"), Duration::from_millis(50));
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
