//! Reads a file of a mount that may never answer.
//!
//! A request that a daemon has read and does not answer can't be interrupted, not even by SIGKILL
//! (`request_wait_answer` in fs/fuse/dev.c), and a process ends only when its last thread has. So a child
//! process asks, and whoever started it is free to go when the time is up. The child holds nothing but its end
//! of a pipe: no stdout, for whose end of file a shell would wait.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};

/// What a mount said within the time.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The file's contents.
    Contents(Vec<u8>),
    /// The file can't be read.
    Refused(io::Error),
    /// Nothing.
    Silence,
}

/// Reads the file `path`, for at most `limit`.
///
/// Call it before the process has a second thread: it forks.
///
/// # Errors
/// When no process can be made to ask.
pub(crate) fn read_within(path: &Path, limit: Duration) -> io::Result<Answer> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let (mut answer, question) = pipe()?;
    // SAFETY: the child calls nothing but async-signal-safe functions before `_exit`, on memory of its own.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => ask(&path, question.as_raw_fd()),
        child => {
            drop(question);
            collect(&mut answer, child, limit)
        }
    }
}

/// A pipe, its reading end first; neither end survives an exec.
pub(crate) fn pipe() -> io::Result<(File, OwnedFd)> {
    let mut ends: [RawFd; 2] = [-1; 2];
    // SAFETY: `ends` has room for the two descriptors that the call fills in.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so both are open and nobody else's.
    Ok(unsafe { (File::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// The child: copies the file into the pipe, and ends with 0 or an errno, all of which fit an exit code.
fn ask(path: &CString, pipe: RawFd) -> ! {
    let mut buffer = [0_u8; 4_096];
    // SAFETY: plain system calls on a valid path, on descriptors of this process, and on `buffer`.
    unsafe {
        let pipe_number = pipe.unsigned_abs();
        libc::syscall(libc::SYS_close_range, pipe_number + 1, u32::MAX, 0);
        if pipe_number > 0 {
            libc::syscall(libc::SYS_close_range, 0, pipe_number - 1, 0);
        }
        let file = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            libc::_exit(*libc::__errno_location());
        }
        loop {
            let length = libc::read(file, buffer.as_mut_ptr().cast(), buffer.len());
            let Ok(length) = usize::try_from(length) else { libc::_exit(*libc::__errno_location()) };
            if length == 0 {
                libc::_exit(0);
            }
            // A pipe takes up to PIPE_BUF, which is 4096, in one piece (pipe(7)).
            libc::write(pipe, buffer.as_ptr().cast(), length);
        }
    }
}

/// The parent: takes what comes until the pipe ends or the time does.
fn collect(pipe: &mut File, child: libc::pid_t, limit: Duration) -> io::Result<Answer> {
    let deadline = SystemClock.now().boot + limit;
    let mut contents = Vec::new();
    loop {
        let left = deadline.since(SystemClock.now().boot);
        if left.is_zero() || !is_readable_within(pipe.as_raw_fd(), left)? {
            // It may be beyond the reach of this too; it is then left to init.
            // SAFETY: `child` is ours and not waited for, so the number is still its own.
            unsafe { libc::kill(child, libc::SIGKILL) };
            return Ok(Answer::Silence);
        }
        let mut buffer = [0; 4_096];
        match pipe.read(&mut buffer)? {
            0 => break,
            length => contents.extend_from_slice(&buffer[..length]),
        }
    }
    let mut status = 0;
    // SAFETY: `child` is ours and not waited for, and `status` lives.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    Ok(match libc::WEXITSTATUS(status) {
        0 if libc::WIFEXITED(status) => Answer::Contents(contents),
        errno if libc::WIFEXITED(status) => Answer::Refused(io::Error::from_raw_os_error(errno)),
        _ => Answer::Silence,
    })
}

/// Waits until `fd` can be read or has ended, for at most `limit`; says whether it did.
pub(crate) fn is_readable_within(fd: RawFd, limit: Duration) -> io::Result<bool> {
    // Rounded up: a wait must not end before its time.
    let millis = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX).saturating_add(1);
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: `poll` is one pollfd and lives.
    match unsafe { libc::poll(&raw mut poll, 1, millis) } {
        -1 => Err(io::Error::last_os_error()),
        ready => Ok(ready > 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn a_file_that_answers_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "x".repeat(10_000)).unwrap();
        let Answer::Contents(contents) = read_within(file.path(), LIMIT).unwrap() else {
            panic!("no answer")
        };
        assert_eq!(contents.len(), 10_000);
    }

    #[test]
    fn a_file_that_is_missing_says_so() {
        let answer = read_within(Path::new("/nonexistent/status"), LIMIT).unwrap();
        assert!(matches!(answer, Answer::Refused(error) if error.kind() == io::ErrorKind::NotFound));
    }

    #[test]
    fn a_file_that_never_answers_is_left_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = CString::new(dir.path().join("fifo").as_os_str().as_bytes()).unwrap();
        // SAFETY: the path is NUL-terminated.
        assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
        // A reader of a pipe whose writer says nothing.
        let writer =
            std::fs::OpenOptions::new().read(true).write(true).open(dir.path().join("fifo")).unwrap();
        let answer = read_within(&dir.path().join("fifo"), Duration::from_millis(50)).unwrap();
        drop(writer);
        assert!(matches!(answer, Answer::Silence), "{answer:?}");
    }
}
