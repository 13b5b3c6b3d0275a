//! Signals: held back and taken one by one, or let through to end a wait.
//!
//! The invariant: from [`Signals::hold`] on no signal but SIGKILL ends the process between two lines. While it waits in
//! the kernel for a lock it can't take signals from a mask; then those that end a process have a handler instead, which
//! notes the first of them and interrupts the call until it returns.

use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};
use std::time::Duration;

use libc::{c_int, sigset_t};

use crate::clock::{BootTime, Clock, SystemClock};

/// What is passed on to the command, unless it is ignored here: then it is ignored there.
const PASSED_ON: &[c_int] = &[
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGWINCH,
];

/// What ends a process that has no command to pass it on to.
const ENDING: &[c_int] = &[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signal {
    pub(super) number: c_int,
    /// From the terminal: then the whole foreground process group got it, the command included.
    pub(super) is_from_terminal: bool,
}

/// The signals of this process, held back until they are asked for.
pub(crate) struct Signals {
    held: sigset_t,
    /// The mask that the process was started with.
    pub(super) before: sigset_t,
}

impl Signals {
    /// Holds back all that is to be passed on, and SIGCHLD. Call it before the process has a second thread.
    pub(crate) fn hold() -> Self {
        Self::hold_these(PASSED_ON)
    }

    /// Holds back what ends, stops or continues a process, for one that must leave its terminal as it was. Call it before
    /// the process has a second thread.
    pub(super) fn hold_for_a_screen() -> Self {
        Self::hold_these(&[ENDING, &[libc::SIGTSTP, libc::SIGCONT]].concat())
    }

    fn hold_these(numbers: &[c_int]) -> Self {
        let (mut held, mut before) = (empty_set(), empty_set());
        // SAFETY: all pointers are to sets and actions on this stack; the numbers are signals.
        unsafe {
            // Whoever ignores SIGCHLD is not told how its children ended (waitpid(2)).
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            libc::sigaddset(&raw mut held, libc::SIGCHLD);
            for &number in numbers {
                let mut action: libc::sigaction = std::mem::zeroed();
                libc::sigaction(number, std::ptr::null(), &raw mut action);
                if action.sa_sigaction != libc::SIG_IGN {
                    libc::sigaddset(&raw mut held, number);
                }
            }
            libc::sigprocmask(libc::SIG_BLOCK, &raw const held, &raw mut before);
        }
        Self { held, before }
    }

    /// The next signal, waiting for at most `limit`.
    pub(super) fn next(&self, limit: Duration) -> Option<Signal> {
        let limit = libc::timespec {
            tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        // SAFETY: siginfo_t is plain data, for which zeroes are a value; all pointers are to this stack.
        let (number, info) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            (libc::sigtimedwait(&raw const self.held, &raw mut info, &raw const limit), info)
        };
        (number > 0).then_some(Signal { number, is_from_terminal: info.si_code == libc::SI_KERNEL })
    }

    /// The number of a signal that came already and that ends a process.
    pub(crate) fn ending(&self) -> Option<c_int> {
        while let Some(signal) = self.next(Duration::ZERO) {
            if ENDING.contains(&signal.number) {
                return Some(signal.number);
            }
        }
        None
    }

    /// Stops the job, as Ctrl-Z does, and returns when it goes on.
    pub(super) fn stop_job(&self) {
        let mut stop = empty_set();
        // SAFETY: all pointers are to sets on this stack; SIGTSTP is a signal, and 0 is this process's group. It stops
        // this process when it is let through, and is held back again before anything else is done.
        unsafe {
            libc::sigaddset(&raw mut stop, libc::SIGTSTP);
            libc::kill(0, libc::SIGTSTP);
            libc::sigprocmask(libc::SIG_UNBLOCK, &raw const stop, std::ptr::null_mut());
            libc::sigprocmask(libc::SIG_BLOCK, &raw const stop, std::ptr::null_mut());
        }
        // What let it go on is known by now.
        while self.next(Duration::ZERO).is_some_and(|signal| signal.number == libc::SIGCONT) {}
    }

    /// Makes a call that waits in the kernel until it is done, a signal comes that ends a process, or `deadline` is
    /// there. The call must return with [`ErrorKind::Interrupted`] when a signal is handled, as open(2) does and
    /// [`std::fs::File::open`] does not; it is made again where it was interrupted for less, as by a stop from the
    /// terminal. The process must have one thread, for a mount takes one of several for somebody who could still act.
    ///
    /// # Errors
    /// Those of the call, and where the system has no timer to give.
    pub(crate) fn wait_for<T>(
        &self,
        deadline: Option<BootTime>,
        mut call: impl FnMut() -> io::Result<T>,
    ) -> io::Result<Waited<T>> {
        let ears = Ears::open(self)?;
        loop {
            match ears.heard() {
                0 => {}
                signal => return Ok(Waited::Signalled(signal)),
            }
            if let Some(deadline) = deadline {
                let left = deadline.since(SystemClock.now().boot);
                if left.is_zero() {
                    return Ok(Waited::TimedOut);
                }
                kick_after(left);
            }
            match call() {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result.map(Waited::Done),
            }
        }
    }
}

/// What became of a call that may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited<T> {
    /// It was done.
    Done(T),
    /// A signal of this number came first.
    Signalled(c_int),
    /// The time was up first.
    TimedOut,
}

/// How often a call is interrupted anew once it is to end: a signal that comes just before the call begins does not
/// interrupt it.
const KICK: Duration = Duration::from_millis(10);

/// The signal that ended the wait, or 0.
static HEARD: AtomicI32 = AtomicI32::new(0);

/// The timer of the wait (timer_create(2)).
static TIMER: AtomicPtr<libc::c_void> = AtomicPtr::new(std::ptr::null_mut());

/// The signals of a wait, handled instead of held back, for as long as this lives.
struct Ears {
    mask: sigset_t,
    actions: Vec<(c_int, libc::sigaction)>,
}

impl Ears {
    fn open(signals: &Signals) -> io::Result<Self> {
        let kick = libc::SIGRTMIN();
        let mut timer = std::ptr::null_mut();
        // SAFETY: sigevent is plain data, for which zeroes are a value; both pointers are to this stack.
        let result = unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_SIGNAL;
            event.sigev_signo = kick;
            libc::timer_create(libc::CLOCK_BOOTTIME, &raw mut event, &raw mut timer)
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        HEARD.store(0, Ordering::SeqCst);
        TIMER.store(timer, Ordering::SeqCst);
        let mut heard = empty_set();
        let mut ears = Self { mask: empty_set(), actions: Vec::new() };
        // SAFETY: all pointers are to sets and actions on this stack; the numbers are signals; the handler does
        // nothing but what signal-safety(7) allows.
        unsafe {
            let ending = ENDING.iter().copied().chain([libc::SIGALRM]);
            // What is not held back is ignored.
            let ending = ending.filter(|&number| libc::sigismember(&raw const signals.held, number) == 1);
            for number in ending.chain([kick]) {
                let mut action: libc::sigaction = std::mem::zeroed();
                let mut before: libc::sigaction = std::mem::zeroed();
                // Without SA_RESTART: the call is to return.
                action.sa_sigaction = hear as extern "C" fn(c_int) as libc::sighandler_t;
                libc::sigfillset(&raw mut action.sa_mask);
                libc::sigaction(number, &raw const action, &raw mut before);
                libc::sigaddset(&raw mut heard, number);
                ears.actions.push((number, before));
            }
            libc::sigprocmask(libc::SIG_UNBLOCK, &raw const heard, &raw mut ears.mask);
        }
        Ok(ears)
    }

    /// The number of the signal that came, or 0.
    fn heard(&self) -> c_int {
        HEARD.load(Ordering::SeqCst)
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        // SAFETY: the timer is this wait's own; the mask and the actions are those that were there before. A kick
        // that is on its way comes when the first call returns, while there is a handler for it.
        unsafe {
            libc::timer_delete(TIMER.load(Ordering::SeqCst));
            libc::sigprocmask(libc::SIG_SETMASK, &raw const self.mask, std::ptr::null_mut());
            for (number, before) in &self.actions {
                libc::sigaction(*number, before, std::ptr::null_mut());
            }
        }
    }
}

/// Interrupts the call in `span` from now, and again and again after that.
fn kick_after(span: Duration) {
    let spec = |span: Duration| libc::timespec {
        tv_sec: libc::time_t::try_from(span.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: span.subsec_nanos().into(),
    };
    let times = libc::itimerspec { it_interval: spec(KICK), it_value: spec(span) };
    // SAFETY: the timer is that of the wait, and `times` lives. Nothing of this is unsafe in a handler.
    unsafe { libc::timer_settime(TIMER.load(Ordering::SeqCst), 0, &raw const times, std::ptr::null_mut()) };
}

extern "C" fn hear(number: c_int) {
    // SAFETY: the place of this thread's errno, which the interrupted code may be about to read.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above; it is valid as long as the thread lives.
    let before = unsafe { *errno };
    if number != libc::SIGRTMIN() {
        let _ = HEARD.compare_exchange(0, number, Ordering::SeqCst, Ordering::SeqCst);
        kick_after(KICK);
    }
    // SAFETY: as above.
    unsafe { *errno = before };
}

fn empty_set() -> sigset_t {
    // SAFETY: sigemptyset(3) makes any memory of that size a set.
    unsafe {
        let mut set: sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each test is a process with one signal mask and several threads, so only what needs no signal of the process
    /// is tried here; the rest is tried with whole commands.
    #[test]
    fn a_call_that_is_done_is_not_waited_for() {
        let signals = Signals { held: empty_set(), before: empty_set() };
        assert_eq!(signals.wait_for(None, || Ok(7)).unwrap(), Waited::Done(7));
        let past = Some(SystemClock.now().boot);
        assert_eq!(signals.wait_for(past, || Ok(7)).unwrap(), Waited::TimedOut);
    }

    #[test]
    fn a_call_that_fails_is_not_made_again_unless_it_was_interrupted() {
        let signals = Signals { held: empty_set(), before: empty_set() };
        let mut errors = vec![ErrorKind::NotFound, ErrorKind::Interrupted, ErrorKind::Interrupted];
        let failed = signals.wait_for(None, || Err::<(), _>(errors.pop().unwrap().into())).unwrap_err();
        assert_eq!((failed.kind(), errors.len()), (ErrorKind::NotFound, 0));
    }
}
