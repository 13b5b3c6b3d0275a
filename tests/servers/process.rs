//! A program that ends with the test, at the latest.
//!
//! It is killed and waited for when it is dropped, with all that it started; and the kernel kills it if the test
//! is killed. The kernel means the thread that started it (prctl(2), `PR_SET_PDEATHSIG`), so one thread starts
//! all of them, which lives as long as the test does.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use super::eventually;

/// A program that the test started.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts it, in a process group of its own.
    pub fn start(mut command: Command) -> Self {
        command.process_group(0);
        die_with_the_test(&mut command);
        let said = format!("{command:?}");
        Self(spawn(command).unwrap_or_else(|error| panic!("cannot start {said}: {error}")))
    }

    /// Its process id, and the number of its group.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }

    /// Kills it at once, with all that it started, and waits until it is gone.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            // SAFETY: kill(2) of a process group that we made, and whose leader is not waited for.
            unsafe { libc::kill(-self.raw_id(), libc::SIGKILL) };
            self.0.wait().unwrap();
        }
    }

    /// Stops it, and waits until it stands still.
    pub fn pause(&mut self) {
        self.signal(libc::SIGSTOP);
        eventually("a stopped process stands still", || self.state() == Some('T'));
    }

    /// Lets it go on.
    pub fn resume(&mut self) {
        self.signal(libc::SIGCONT);
    }

    /// Sends it a signal, unless it has ended.
    pub fn signal(&mut self, signal: i32) {
        assert!(self.ended().is_none(), "a process that has ended gets no signal");
        // SAFETY: kill(2) has no memory to spoil, and the process is not waited for.
        unsafe { libc::kill(self.raw_id(), signal) };
    }

    /// The letter of its state: proc_pid_stat(5).
    fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    fn raw_id(&self) -> libc::pid_t {
        libc::pid_t::try_from(self.id()).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn die_with_the_test(command: &mut Command) {
    let test = libc::pid_t::try_from(std::process::id()).unwrap();
    // SAFETY: prctl(2) and getppid(2) are async-signal-safe, and no memory is allocated.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 {
                return Err(io::Error::last_os_error());
            }
            // It may have died before the call, so that nothing would ever come.
            if libc::getppid() == test { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
        });
    }
}

type Order = (Command, Sender<io::Result<Child>>);

/// Starts a program on the thread that never ends.
fn spawn(command: Command) -> io::Result<Child> {
    static STARTER: OnceLock<Sender<Order>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        let work = move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        };
        thread::Builder::new().name("starter".to_owned()).spawn(work).unwrap();
        orders
    });
    let (answer, child) = channel();
    starter.send((command, answer)).unwrap();
    child.recv().unwrap()
}
