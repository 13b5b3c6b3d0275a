//! A daemon in the background, and a command that returns when it is at work.
//!
//! The command forks before it has a second thread and waits for one report down a pipe: ready, or an exit
//! code and a line. The child leaves its terminal, its directory and its stdio only when it is ready: until
//! then Ctrl-C reaches it, and an automount waits for its process group. It keeps no
//! descriptor that it inherited: a lock on one of them would be held as long as the mount.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use super::probe::pipe;
use super::{Exit, Failure, Outcome};

/// The child's end of the pipe; takes one report.
#[derive(Debug)]
pub(crate) struct Report {
    pipe: File,
    /// `/dev/null`, opened before anything depends on it.
    null: File,
}

impl Report {
    /// Lets the command that waits return with success, and cuts what still ties this process to it.
    pub(crate) fn ready(mut self) -> io::Result<()> {
        // SAFETY: plain system calls on descriptors of this process; the child of a fork leads no process
        // group, so setsid(2) makes a session, as does chdir(2) to a constant path.
        unsafe {
            libc::setsid();
            libc::chdir(c"/".as_ptr());
            for stdio in 0..=2 {
                libc::dup2(self.null.as_raw_fd(), stdio);
            }
        }
        self.pipe.write_all(&[Exit::Done.code()])
    }
}

/// Leaves the directory that a program was told to begin in, and that is nobody's to keep busy.
pub(crate) fn leave_directory() {
    // SAFETY: a system call on a constant path.
    unsafe { libc::chdir(c"/".as_ptr()) };
}

/// Lets the command that waits end with `failure`.
fn tell(pipe: &mut File, failure: &Failure) {
    let mut report = vec![failure.exit.code()];
    report.extend_from_slice(failure.message.as_bytes());
    // Who waits may have been killed; then nobody wants to know.
    let _ = pipe.write_all(&report);
}

/// Runs `daemon` in a child process until it calls [`Report::ready`], and returns what that came to.
///
/// In the child it does not return.
pub(crate) fn start(daemon: impl FnOnce(&mut Option<Report>) -> Outcome) -> Outcome {
    let no_process =
        |error: io::Error| Failure::new(Exit::Failed, format!("cannot start a process: {error}"));
    let (reports, report) = pipe().map_err(no_process)?;
    // SAFETY: the process has one thread, so the child may go on as if nothing had happened.
    match unsafe { libc::fork() } {
        -1 => Err(no_process(io::Error::last_os_error())),
        0 => {
            drop(reports);
            close_inherited(&report);
            let mut pipe = File::from(report);
            let null = match File::options().read(true).write(true).open("/dev/null") {
                Ok(null) => null,
                Err(error) => {
                    let failure = Failure::new(Exit::Failed, format!("cannot open /dev/null: {error}"));
                    tell(&mut pipe, &failure);
                    std::process::exit(failure.exit.code().into())
                }
            };
            let mut report = Some(Report { pipe, null });
            let outcome = daemon(&mut report);
            let exit = match (&outcome, report) {
                (Err(failure), Some(mut report)) => {
                    tell(&mut report.pipe, failure);
                    failure.exit
                }
                (Ok(_), Some(mut report)) => {
                    let failure = Failure::new(Exit::Failed, "stopped before the mount answered");
                    tell(&mut report.pipe, &failure);
                    failure.exit
                }
                (Err(failure), None) => failure.exit,
                (Ok(exit), None) => *exit,
            };
            std::process::exit(exit.code().into())
        }
        child => {
            drop(report);
            wait(reports, child)
        }
    }
}

/// Closes everything beyond stdio but `keep`.
fn close_inherited(keep: &OwnedFd) {
    let keep = keep.as_raw_fd().unsigned_abs();
    // SAFETY: close_range(2) on numbers that nothing in this process stands for: it has opened no file yet
    // but `keep`, which stays.
    unsafe {
        if keep > 3 {
            libc::syscall(libc::SYS_close_range, 3, keep - 1, 0);
        }
        libc::syscall(libc::SYS_close_range, keep + 1, u32::MAX, 0);
    }
}

fn wait(mut reports: File, child: libc::pid_t) -> Outcome {
    let mut code = [0];
    match reports.read(&mut code) {
        Ok(1) if code[0] == Exit::Done.code() => Ok(Exit::Done),
        Ok(1) => {
            let mut message = Vec::new();
            let _ = reports.read_to_end(&mut message);
            Err(Failure::new(Exit::Code(code[0]), String::from_utf8_lossy(&message)))
        }
        _ => {
            let mut status = 0;
            // SAFETY: `child` is ours and not waited for, and `status` lives.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            let how = match libc::WIFSIGNALED(status) {
                true => format!("signal {}", libc::WTERMSIG(status)),
                false => format!("exit code {}", libc::WEXITSTATUS(status)),
            };
            Err(Failure::new(Exit::Bug, format!("the daemon ended before the mount answered: {how}")))
        }
    }
}
