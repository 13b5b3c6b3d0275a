//! Processes that run a piece of the test itself, and nothing of it longer than that.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Forks a process in a job and a login of its own, that has no file of the test's open but one, acts, and exits.
/// The kernel kills it when the test's thread ends. Returns its id.
pub(crate) fn fork(kept: Option<&UnixStream>, act: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the child never returns. glibc makes malloc usable in it.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid > 0 {
        return pid;
    }
    // SAFETY: only numbers are passed; the files of the test are closed in this process alone, which touches none
    // of them.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let kept = kept.map_or(2, |kept| u32::try_from(kept.as_raw_fd()).unwrap());
        if kept > 3 {
            libc::close_range(3, kept - 1, 0);
        }
        libc::close_range(kept + 1, u32::MAX, 0);
    }
    let status = i32::from(catch_unwind(AssertUnwindSafe(act)).is_err());
    // SAFETY: _exit(2) ends the process without unwinding into the test's frames.
    unsafe { libc::_exit(status) }
}

/// Waits for the end of a forked process; its status, as of wait(2).
pub(crate) fn reap(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: the place for the status lives until the call returns.
    let reaped = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(reaped, pid, "{}", std::io::Error::last_os_error());
    status
}
