//! Jobs that run a piece of the test itself: a forked process in a job (and, unless told otherwise, a login)
//! of its own, as a user, which can pause so that the test acts in between.
//!
//! A job descends from the test's process. So where the test itself holds a lock, a job that it starts is no
//! stranger to it; holders that others are to be compared with are jobs.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

/// A running job; killed when it is dropped.
#[derive(Debug)]
pub struct Job {
    pid: libc::pid_t,
    wire: UnixStream,
    ended: bool,
}

/// What a job's act talks to the test with.
#[derive(Debug)]
pub struct Turn(UnixStream);

/// Which login a job belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// One of its own: setsid(2).
    New,
    /// That of the process that starts it; the job alone is its own: setpgid(2).
    Same,
}

const PAUSED: u8 = b'p';
const ENDED: u8 = b'e';
const FAILED: u8 = b'x';

impl Turn {
    /// Lets the test act, until it resumes the job.
    pub fn pause(&self) {
        let mut wire = &self.0;
        wire.write_all(&[PAUSED]).unwrap();
        let mut go = [0];
        if wire.read_exact(&mut go).is_err() {
            // The test has gone.
            // SAFETY: _exit(2) ends the process without unwinding into the test's frames.
            unsafe { libc::_exit(0) };
        }
    }
}

impl Job {
    /// Starts a job in a login of its own and waits for its first pause, or its end. Files that the test has
    /// open are closed in it.
    pub fn start(uid: u32, act: impl FnOnce(&Turn)) -> Self {
        Self::start_in(Login::New, uid, act)
    }

    /// The same, in a login of its own or in the caller's.
    pub fn start_in(login: Login, uid: u32, act: impl FnOnce(&Turn)) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        // SAFETY: the child runs nothing but `child`, which never returns. glibc makes malloc usable in it.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
        if pid == 0 {
            child(login, uid, theirs, act);
        }
        if login == Login::Same {
            // Whoever is first: the group is there for both of them.
            // SAFETY: setpgid(2) has no memory to spoil.
            unsafe { libc::setpgid(pid, pid) };
        }
        drop(theirs);
        let mut job = Self { pid, wire: ours, ended: false };
        job.listen();
        job
    }

    /// The process id, which is the job's number.
    pub fn pid(&self) -> u32 {
        u32::try_from(self.pid).unwrap()
    }

    /// Lets it go on, until its next pause or its end.
    pub fn resume(&mut self) {
        self.go();
        self.listen();
    }

    /// Lets it go on, and does not wait.
    pub fn go(&mut self) {
        assert!(!self.ended, "the job has ended");
        self.wire.write_all(b"g").unwrap();
    }

    /// Waits until it pauses or ends.
    pub fn listen(&mut self) {
        let mut said = [0];
        match self.wire.read_exact(&mut said).map(|()| said[0]) {
            Ok(PAUSED) => {}
            Ok(ENDED) => self.reap(),
            Ok(FAILED) => {
                let mut why = String::new();
                self.wire.read_to_string(&mut why).ok();
                panic!("in a job: {why}");
            }
            other => panic!("a job died: {other:?}"),
        }
    }

    fn reap(&mut self) {
        // SAFETY: waitpid(2) of a child of ours, without a place for its status.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
        self.ended = true;
    }

    /// Kills the whole job at once, and waits until it is gone.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if !self.ended {
            // SAFETY: kill(2) of a process group that we made.
            unsafe { libc::kill(-self.pid, libc::SIGKILL) };
            self.reap();
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.end();
    }
}

/// Runs `act` to its end in a job and a login of its own; by the time it returns, the job has ended.
pub fn in_job(uid: u32, act: impl FnOnce()) {
    assert!(Job::start(uid, |_| act()).ended, "it does not pause");
}

/// The same in the caller's login.
pub fn in_job_of_this_login(uid: u32, act: impl FnOnce()) {
    assert!(Job::start_in(Login::Same, uid, |_| act()).ended, "it does not pause");
}

fn child(login: Login, uid: u32, wire: UnixStream, act: impl FnOnce(&Turn)) -> ! {
    let kept = u32::try_from(wire.as_raw_fd()).unwrap();
    // SAFETY: only numbers are passed; the files of the test are closed in this process alone, which touches
    // none of them.
    unsafe {
        libc::close_range(3, kept - 1, 0);
        libc::close_range(kept + 1, u32::MAX, 0);
        match login {
            Login::New => assert!(libc::setsid() >= 0),
            Login::Same => assert!(libc::setpgid(0, 0) == 0),
        };
        if uid != libc::geteuid() {
            assert!(libc::setgroups(0, std::ptr::null()) == 0);
            assert!(libc::setgid(uid) == 0 && libc::setuid(uid) == 0);
        }
    }
    let why = Arc::new(Mutex::new(String::new()));
    let told = Arc::clone(&why);
    std::panic::set_hook(Box::new(move |panic| *told.lock().unwrap() = panic.to_string()));
    let turn = Turn(wire);
    let outcome = catch_unwind(AssertUnwindSafe(|| act(&turn)));
    let mut wire = &turn.0;
    match outcome {
        Ok(()) => wire.write_all(&[ENDED]).ok(),
        Err(_) => wire.write_all(&[&[FAILED], why.lock().unwrap().as_bytes()].concat()).ok(),
    };
    // SAFETY: _exit(2) ends the process without running what the test would run at its end.
    unsafe { libc::_exit(0) }
}
