//! What a signal does to who waits, for flock(2), for a lock of fcntl(2) and at the door: what signal(7) says of a
//! local disk, and no more.
//!
//! The one that is waited for is on the other host, where there is one. Each test goes through all kinds of waits
//! that its ground has. Latencies are printed, not judged: the machine may be busy.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::ptr;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64};
use std::thread::{scope, sleep};
use std::time::Duration;

use libc::{EINTR, SIGALRM, SIGINT, SIGKILL, SIGTERM, SIGUSR1, pid_t};

use crate::common::eventually;
use crate::fork::{fork, reap};
use crate::ground::{Place, on_every_ground};
use crate::history::Stamp;
use crate::puppet::{Fd, Mode, Puppet, Style, is_asleep_in, state_of};
use crate::shared::Shared;
use crate::workers::wait_for;

/// What is waited with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Flock,
    Fcntl,
    Door,
}

/// What the process does with its signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// What it does by default: it dies.
    Default,
    /// It has a handler, after which calls fail with EINTR.
    Handles,
    /// It has a handler, after which calls go on: `SA_RESTART`.
    Restarts,
    Ignores,
    Blocks,
}

/// Those that are tried.
const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGALRM];

const THREADS: usize = 4;

/// Not an answer.
const WAITS: i32 = -1;

/// What a waiting process says of itself.
#[derive(Debug, Default)]
struct Report {
    /// How often its handler ran.
    handled: AtomicU32,
    /// How often a call was interrupted, and made again.
    interrupted: AtomicU32,
    threads: [Thread; THREADS],
}

#[derive(Debug)]
struct Thread {
    /// Its number, once it has one.
    id: AtomicU32,
    /// 0 for success, or the error number.
    answer: AtomicI32,
    /// When it was answered.
    at: AtomicU64,
}

impl Default for Thread {
    fn default() -> Self {
        Self { id: AtomicU32::new(0), answer: AtomicI32::new(WAITS), at: AtomicU64::new(0) }
    }
}

/// A process that waits with one thread or more.
struct Waiter {
    pid: pid_t,
    wait: Wait,
    report: Shared<Report>,
    threads: usize,
}

/// How a process waits: whether an interrupted call is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Temper {
    GivesUp,
    TriesAgain,
}

impl Wait {
    fn all(place: &Place) -> &'static [Self] {
        if place.is_mounted() { &[Self::Flock, Self::Fcntl, Self::Door] } else { &[Self::Flock, Self::Fcntl] }
    }

    fn call(self) -> libc::c_long {
        match self {
            Self::Flock => libc::SYS_flock,
            Self::Fcntl => libc::SYS_fcntl,
            Self::Door => libc::SYS_openat,
        }
    }

    fn style(self) -> Style {
        if self == Self::Flock { Style::Flock } else { Style::Posix }
    }

    /// The name that it is about: each kind has its own.
    fn name(self) -> &'static str {
        match self {
            Self::Flock => "f",
            Self::Fcntl => "g",
            Self::Door => "d",
        }
    }

    /// Prepares to wait: only [`Wait::wait`] is left then.
    fn prepare(self, root: &Path) -> Option<File> {
        let path = root.join(self.name());
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        (self != Self::Door).then(|| open().unwrap())
    }

    /// Waits until it has it.
    fn wait(self, root: &Path, file: Option<&File>) -> io::Result<()> {
        match file {
            Some(file) => wait_for(file, self.style(), Mode::Exclusive),
            None => {
                let door = root.join(".wait").join(self.name());
                // The standard library makes an interrupted open again by itself.
                let path = std::ffi::CString::new(door.into_os_string().into_encoded_bytes()).unwrap();
                // SAFETY: the path ends with NUL and lives until the call returns.
                let fd = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CREAT, 0o666) };
                if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
            }
        }
    }

    /// Lets go of it.
    fn release(self, root: &Path, file: Option<File>) {
        match file {
            Some(file) => drop(file),
            // Threads of one process are one holder: another of them may have let go of it.
            None => drop(fs::remove_file(root.join(self.name()))),
        }
    }
}

/// Who has what all wait for.
struct Owner {
    puppet: Puppet,
    wait: Wait,
    fd: Fd,
}

impl Owner {
    fn of(wait: Wait, place: &Place) -> Self {
        let puppet = Puppet::new(&place.there());
        let fd = if wait == Wait::Door {
            Fd::from(puppet.try_open(wait.name(), libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY).unwrap())
        } else {
            let fd = puppet.open(wait.name());
            puppet.try_lock(fd, wait.style(), Mode::Exclusive).unwrap();
            fd
        };
        Self { puppet, wait, fd }
    }

    fn release(&self) {
        if self.wait == Wait::Door {
            self.puppet.unlink(self.wait.name()).unwrap();
        } else {
            self.puppet.try_lock(self.fd, self.wait.style(), Mode::None).unwrap();
        }
    }

    /// Whether nobody has it or waits for it any more; it has let go of it.
    #[track_caller]
    fn finds_it_free(&self) {
        eventually("what a dead one waited for is free", || {
            if self.wait == Wait::Door {
                let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
                self.puppet.try_open(self.wait.name(), flags).is_ok()
            } else {
                self.puppet.try_lock(self.fd, self.wait.style(), Mode::Exclusive).is_ok()
            }
        });
        self.release();
    }
}

/// The report of this process, for its handler.
static OWN: AtomicPtr<Report> = AtomicPtr::new(ptr::null_mut());

extern "C" fn handle(_: i32) {
    // SAFETY: the report lives as long as the process.
    unsafe { &*OWN.load(SeqCst) }.handled.fetch_add(1, SeqCst);
}

/// What the process does with the signal; where it blocks it, this thread does, and those that it starts.
fn set(manner: Manner, signal: i32) {
    // SAFETY: both structs are made of numbers, and live until the calls return; the handler is async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = match manner {
            Manner::Default => libc::SIG_DFL,
            Manner::Ignores => libc::SIG_IGN,
            _ => handle as *const () as usize,
        };
        action.sa_flags = if manner == Manner::Restarts { libc::SA_RESTART } else { 0 };
        assert_eq!(libc::sigaction(signal, &raw const action, ptr::null_mut()), 0);
    }
    mask(signal, if manner == Manner::Blocks { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK });
}

fn mask(signal: i32, how: i32) {
    // SAFETY: the set is made of numbers, and lives until the calls return.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        assert_eq!(libc::pthread_sigmask(how, &raw const set, ptr::null_mut()), 0);
    }
}

impl Waiter {
    /// Starts it on the first root. One of several threads is not the main one, which only looks on, and to which no
    /// signal goes.
    fn start(place: &Place, wait: Wait, threads: usize, temper: Temper, signal: i32, manner: Manner) -> Self {
        let report = Shared::new(Report::default());
        let root = place.here();
        let pid = fork(None, || {
            OWN.store(ptr::from_ref(&*report).cast_mut(), SeqCst);
            set(manner, signal);
            if threads == 1 {
                run(wait, temper, &root, &report, &report.threads[0]);
                return;
            }
            scope(|scope| {
                for thread in &report.threads[..threads] {
                    scope.spawn(|| run(wait, temper, &root, &report, thread));
                }
                // What the main thread blocks is ignored no longer: it wakes another (`sig_ignored` of kernel/signal.c).
                if manner != Manner::Ignores {
                    mask(signal, libc::SIG_BLOCK);
                }
            });
        });
        let waiter = Self { pid, wait, report, threads };
        waiter.sleeps(threads);
        waiter
    }

    fn threads(&self) -> &[Thread] {
        &self.report.threads[..self.threads]
    }

    /// Waits until so many of its threads wait.
    #[track_caller]
    fn sleeps(&self, count: usize) {
        let pid = u32::try_from(self.pid).unwrap();
        let is_asleep = |thread: &&Thread| is_asleep_in(pid, thread.id.load(SeqCst), self.wait.call());
        eventually(&format!("{count} of its threads wait ({:?})", self.wait), || {
            self.threads().iter().filter(is_asleep).count() == count
        });
    }

    /// Sends it a signal: to the process.
    fn send(&self, signal: i32) -> Stamp {
        let sent = Stamp::now();
        // SAFETY: kill(2) has no memory to spoil, and the process is not waited for yet.
        assert_eq!(unsafe { libc::kill(self.pid, signal) }, 0);
        sent
    }

    /// Sends a signal to one of its threads.
    fn send_to(&self, thread: usize, signal: i32) {
        let id = self.threads()[thread].id.load(SeqCst);
        // SAFETY: tgkill(2) has no memory to spoil, and the process is not waited for yet.
        assert_eq!(unsafe { libc::syscall(libc::SYS_tgkill, self.pid, id, signal) }, 0);
    }

    fn answers(&self) -> Vec<i32> {
        self.threads().iter().map(|thread| thread.answer.load(SeqCst)).collect()
    }

    /// Waits until so many of its threads were answered so.
    #[track_caller]
    fn answered(&self, count: usize, answer: i32) {
        eventually(&format!("{count} of its threads are answered {answer} ({:?})", self.wait), || {
            let answers = self.answers();
            assert!(answers.iter().all(|other| [WAITS, 0, EINTR].contains(other)), "{answers:?} leaked");
            answers.iter().filter(|&&other| other == answer).count() == count
        });
    }

    fn handled(&self) -> u32 {
        self.report.handled.load(SeqCst)
    }

    /// Waits until its handler ran.
    #[track_caller]
    fn has_handled(&self, count: u32) {
        eventually("the handler runs", || self.handled() == count);
    }

    /// Waits until it ends by itself, well.
    #[track_caller]
    fn ends(self) {
        assert_eq!(reap(self.pid), 0, "it panicked");
        std::mem::forget(self);
    }

    /// Waits until it ends by this signal. Says how long that took.
    #[track_caller]
    fn dies_by(self, signal: i32, sent: Stamp) {
        let status = reap(self.pid);
        println!(
            "{:?} of {} threads: dead by {signal} after {:?}",
            self.wait,
            self.threads,
            Stamp::now().since(sent)
        );
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == signal, "{status:#x}");
        std::mem::forget(self);
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // SAFETY: kill(2) of a process that is not waited for yet.
        unsafe { libc::kill(self.pid, SIGKILL) };
        reap(self.pid);
    }
}

fn run(wait: Wait, temper: Temper, root: &Path, report: &Report, own: &Thread) {
    let file = wait.prepare(root);
    // SAFETY: gettid(2) has no memory to spoil.
    own.id.store(u32::try_from(unsafe { libc::gettid() }).unwrap(), SeqCst);
    let answer = loop {
        let answer = wait.wait(root, file.as_ref());
        let answer = answer.map_or_else(|error| error.raw_os_error().unwrap(), |()| 0);
        if answer != EINTR || temper == Temper::GivesUp {
            break answer;
        }
        report.interrupted.fetch_add(1, SeqCst);
    };
    own.at.store(Stamp::now().to_string().parse().unwrap(), SeqCst);
    own.answer.store(answer, SeqCst);
    if answer == 0 {
        wait.release(root, file);
    }
}

on_every_ground! {
    fn a_signal_that_kills_ends_the_wait(place) {
        for &wait in Wait::all(&place) {
            let owner = Owner::of(wait, &place);
            for signal in [SIGINT, SIGTERM, SIGALRM, SIGKILL] {
                for threads in [1, THREADS] {
                    let manner = if signal == SIGKILL { SIGUSR1 } else { signal };
                    let waiter =
                        Waiter::start(&place, wait, threads, Temper::GivesUp, manner, Manner::Default);
                    let sent = waiter.send(signal);
                    waiter.dies_by(signal, sent);
                }
            }
            owner.release();
            owner.finds_it_free();
        }
    }

    fn after_a_handler_the_call_fails_with_eintr(place) {
        for &wait in Wait::all(&place) {
            let owner = Owner::of(wait, &place);
            for signal in SIGNALS {
                let waiter = Waiter::start(&place, wait, 1, Temper::GivesUp, signal, Manner::Handles);
                let sent = waiter.send(signal);
                waiter.answered(1, EINTR);
                let at = Stamp::parse(&waiter.threads()[0].at.load(SeqCst).to_string());
                println!("{wait:?}: EINTR {:?} after signal {signal}", at.since(sent));
                assert_eq!(waiter.handled(), 1);
                waiter.ends();
            }
            owner.release();
            owner.finds_it_free();
        }
    }

    fn after_a_handler_that_restarts_the_wait_goes_on(place) {
        for &wait in Wait::all(&place) {
            let owner = Owner::of(wait, &place);
            let waiter = Waiter::start(&place, wait, 1, Temper::GivesUp, SIGUSR1, Manner::Restarts);
            for count in 1..=5 {
                waiter.send(SIGUSR1);
                waiter.has_handled(count);
                if wait == Wait::Door {
                    // The kernel restarts locks alone: fuse_setlk() makes ERESTARTSYS of EINTR, fuse_do_open() does not.
                    waiter.answered(1, EINTR);
                    break;
                }
                waiter.sleeps(1);
            }
            owner.release();
            if wait != Wait::Door {
                waiter.answered(1, 0);
            }
            waiter.ends();
            owner.finds_it_free();
        }
    }

    fn a_signal_that_is_blocked_or_ignored_leaves_the_wait_alone(place) {
        for &wait in Wait::all(&place) {
            for manner in [Manner::Blocks, Manner::Ignores] {
                for threads in [1, THREADS] {
                    let owner = Owner::of(wait, &place);
                    let waiter = Waiter::start(&place, wait, threads, Temper::GivesUp, SIGTERM, manner);
                    for _ in 0..20 {
                        waiter.send(SIGTERM);
                        waiter.send_to(threads - 1, SIGTERM);
                    }
                    assert_eq!(waiter.answers(), vec![WAITS; threads]);
                    owner.release();
                    waiter.answered(threads, 0);
                    assert_eq!(waiter.handled(), 0);
                    waiter.ends();
                    owner.finds_it_free();
                }
            }
        }
    }

    fn one_thread_of_a_process_is_interrupted_and_the_others_wait_on(place) {
        for &wait in Wait::all(&place) {
            let owner = Owner::of(wait, &place);
            let waiter = Waiter::start(&place, wait, THREADS, Temper::GivesUp, SIGINT, Manner::Handles);
            waiter.send(SIGINT);
            waiter.answered(1, EINTR);
            waiter.sleeps(THREADS - 1);
            assert_eq!(waiter.handled(), 1);
            owner.release();
            waiter.answered(THREADS - 1, 0);
            waiter.answered(1, EINTR);
            waiter.ends();
            owner.finds_it_free();
        }
    }

    fn the_thread_that_a_signal_is_for_is_interrupted(place) {
        for &wait in Wait::all(&place) {
            let owner = Owner::of(wait, &place);
            let waiter = Waiter::start(&place, wait, THREADS, Temper::GivesUp, SIGUSR1, Manner::Handles);
            for thread in [2, 0] {
                waiter.send_to(thread, SIGUSR1);
                eventually("the thread is interrupted", || waiter.answers()[thread] == EINTR);
            }
            assert_eq!(waiter.answers(), [EINTR, WAITS, EINTR, WAITS]);
            owner.release();
            waiter.answered(2, 0);
            waiter.ends();
            owner.finds_it_free();
        }
    }

    fn in_a_storm_of_signals_nothing_but_eintr_is_seen_and_nobody_is_stuck(place) {
        for &wait in Wait::all(&place) {
            for manner in [Manner::Handles, Manner::Restarts] {
                let owner = Owner::of(wait, &place);
                let waiter = Waiter::start(&place, wait, THREADS, Temper::TriesAgain, SIGUSR1, manner);
                for round in 0..150 {
                    waiter.send(SIGUSR1);
                    waiter.send_to(round % THREADS, SIGUSR1);
                    if round % 10 == 0 {
                        sleep(Duration::from_micros(300));
                    }
                    assert_eq!(waiter.answers(), [WAITS; THREADS]);
                }
                waiter.sleeps(THREADS);
                owner.release();
                waiter.answered(THREADS, 0);
                let interrupted = waiter.report.interrupted.load(SeqCst);
                println!("{wait:?}, {manner:?}: {} handled, {interrupted} interrupted", waiter.handled());
                assert!(interrupted <= waiter.handled());
                waiter.ends();
                owner.finds_it_free();
            }
        }
    }

    fn a_signal_that_comes_at_any_moment_of_the_call_ends_it(place) {
        for &wait in Wait::all(&place) {
            let owner = Owner::of(wait, &place);
            let root = place.here();
            let report = Shared::new(Report::default());
            let pid = fork(None, || {
                OWN.store(ptr::from_ref(&*report).cast_mut(), SeqCst);
                set(Manner::Handles, SIGALRM);
                let every = libc::timeval { tv_sec: 0, tv_usec: 700 };
                let timer = libc::itimerval { it_interval: every, it_value: every };
                let file = wait.prepare(&root);
                // SAFETY: the timer lives until the call returns.
                unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) };
                for _ in 0..300 {
                    // The time from one alarm to the next is no multiple of that of a round.
                    std::hint::black_box((0..Stamp::now().dice(20_000)).sum::<usize>());
                    let error = wait.wait(&root, file.as_ref()).expect_err("it is another's");
                    assert_eq!(error.raw_os_error(), Some(EINTR));
                    report.interrupted.fetch_add(1, SeqCst);
                }
            });
            let status = reap(pid);
            assert_eq!((status, report.interrupted.load(SeqCst)), (0, 300), "{wait:?}: another answer than EINTR");
            owner.release();
            owner.finds_it_free();
        }
    }

    fn who_is_killed_at_any_moment_of_the_call_leaves_nothing(place) {
        for &wait in Wait::all(&place) {
            let owner = Owner::of(wait, &place);
            let root = place.here();
            for round in 0..30 {
                let began = Shared::new(AtomicU32::new(0));
                let pid = fork(None, || {
                    let file = wait.prepare(&root);
                    began.store(1, SeqCst);
                    wait.wait(&root, file.as_ref()).unwrap();
                });
                eventually("it is about to call", || began.load(SeqCst) == 1);
                sleep(Duration::from_micros(round * 50));
                // SAFETY: kill(2) of a process that is not waited for yet.
                unsafe { libc::kill(pid, SIGKILL) };
                let status = reap(pid);
                assert!(libc::WIFSIGNALED(status), "{status:#x}");
            }
            owner.release();
            owner.finds_it_free();
        }
    }

    fn who_waits_sleeps_so_that_every_signal_wakes_it(place) {
        for &wait in Wait::all(&place) {
            let owner = Owner::of(wait, &place);
            let waiter = Waiter::start(&place, wait, THREADS, Temper::GivesUp, SIGUSR1, Manner::Default);
            for _ in 0..200 {
                for thread in waiter.threads() {
                    let id = thread.id.load(SeqCst);
                    let stat = fs::read_to_string(format!("/proc/{}/task/{id}/stat", waiter.pid)).unwrap();
                    assert_eq!(state_of(&stat), Some('S'), "{wait:?}");
                }
            }
            owner.release();
            waiter.answered(THREADS, 0);
            waiter.ends();
        }
    }

    fn who_was_stopped_gets_it_after_it_goes_on(place) {
        for wait in [Wait::Flock, Wait::Fcntl] {
            let owner = Owner::of(wait, &place);
            let waiter = Waiter::start(&place, wait, THREADS, Temper::GivesUp, SIGUSR1, Manner::Default);
            for _ in 0..3 {
                waiter.send(libc::SIGSTOP);
                let stat = format!("/proc/{}/stat", waiter.pid);
                eventually("it stands still", || {
                    state_of(&fs::read_to_string(&stat).unwrap()) == Some('T')
                });
                waiter.send(libc::SIGCONT);
                waiter.sleeps(THREADS);
            }
            owner.release();
            waiter.answered(THREADS, 0);
            waiter.ends();
        }
    }
}
