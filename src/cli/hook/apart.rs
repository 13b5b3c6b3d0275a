//! Asks the mount in a process apart, so that a hook answers in time whatever the mount does.
//!
//! A call into a mount that does not answer may not end, not even by SIGKILL (see `cli::probe`); and an agent takes a hook
//! that does not answer for one that has nothing to say against it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::claims::Verdict;
use crate::cli::probe::{is_readable_within, pipe};
use crate::clock::{Clock, SystemClock};

/// What becomes of work that is not done in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silent {
    /// It is ended: an acquire that nobody waits for any more is undone by the mount.
    IsEnded,
    /// It goes on, and is done when it can be: a release.
    GoesOn,
}

/// What `work` comes to, if it does so within `limit`; else unknown.
///
/// Call it before the process has a second thread: it forks.
pub(super) fn within(limit: Duration, silent: Silent, work: impl FnOnce() -> Verdict) -> Verdict {
    let deadline = SystemClock.now().boot + limit;
    let unknown = |why: &str| Verdict::Unknown(format!("lockfs knows nothing: {why}"));
    let Ok((mut answer, question)) = pipe() else {
        return unknown("cannot make a pipe");
    };
    // SAFETY: the process has one thread, so that the child is as whole as its parent: no lock is held by a thread that is
    // not there.
    let child = match unsafe { libc::fork() } {
        -1 => return unknown("cannot make a process"),
        0 => {
            drop(answer);
            let verdict = alone(work);
            let _ = File::from(question).write_all(&verdict.encode());
            // SAFETY: ends the child at once: what its parent had to write is not its own.
            unsafe { libc::_exit(0) };
        }
        child => child,
    };
    drop(question);
    let mut encoded = Vec::new();
    loop {
        let left = deadline.since(SystemClock.now().boot);
        if left.is_zero() || !is_readable_within(answer.as_raw_fd(), left).unwrap_or(false) {
            if silent == Silent::IsEnded {
                // SAFETY: `child` is ours and not waited for, so the number is still its own.
                unsafe { libc::kill(child, libc::SIGKILL) };
            }
            return unknown(&format!("no answer within {}", crate::lock::Ttl::For(limit)));
        }
        let mut buffer = [0; 4_096];
        match answer.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => encoded.extend_from_slice(&buffer[..length]),
            Err(_) => return unknown("the answer was cut off"),
        }
    }
    // SAFETY: `child` is ours and not waited for; nobody asks how it ended.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    Verdict::decode(&encoded).unwrap_or_else(|| unknown("whoever asked has failed"))
}

/// Does `work` in a session of its own, with nothing of the parent's that somebody waits for the end of.
fn alone(work: impl FnOnce() -> Verdict) -> Verdict {
    // SAFETY: a child of fork(2) leads no process group, so that it may have a session.
    unsafe { libc::setsid() };
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        for fd in [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO] {
            replace(fd, null.as_raw_fd());
        }
    }
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Verdict::Unknown("this is a bug in lockfs: please report it".to_owned()))
}

fn replace(fd: RawFd, by: RawFd) {
    // SAFETY: both descriptors are this process's own.
    unsafe { libc::dup2(by, fd) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_comes_back_as_it_was() {
        for verdict in
            [Verdict::Granted, Verdict::Held("by \u{e9}\nx".to_owned()), Verdict::Unknown("why".to_owned())]
        {
            assert_eq!(Verdict::decode(&verdict.encode()), Some(verdict));
        }
        assert_eq!(Verdict::decode(b""), None);
        assert_eq!(Verdict::decode(b"x"), None);
    }
}
