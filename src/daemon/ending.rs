//! The end of a daemon, by a signal: of the mount with it, or without.
//!
//! SIGTERM and SIGINT end the mount, unless the service manager starts the daemon again: then another one goes on with
//! the mount. SIGHUP puts the program that is now there in the place of this one, in the same process. A terminal that
//! hangs up ends the mount.
//!
//! Whoever leaves a mount takes no more requests, answers those that it has, and closes the store. What it has not
//! answered by then, those who wait for a lock among it, the kernel asks the next one. One that can't finish in time ends
//! as if it was killed, which loses nothing either.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::notify::{Manager, Watch};
use super::scrape::Scrape;
use super::successor::Successor;
use crate::fs::Ledger;
use crate::fuse::{Leaver, Unmounter};
use crate::locks::{LockService, Tending, Waking};
use crate::store::LockStore;

/// How long an unmounted mount may go on answering before the daemon ends all the same.
const GRACE: Duration = Duration::from_secs(3);

/// How long requests may take that were read when the daemon leaves its mount.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// SIGTERM, SIGINT and SIGHUP; blocked in every thread, and waited for by one.
pub(super) struct Signals(libc::sigset_t);

/// What a signal asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    End,
    Replace,
}

impl Signals {
    /// Blocks them in this thread and all that it starts from now on.
    pub(super) fn block() -> io::Result<Self> {
        // SAFETY: a zeroed set is memory for sigemptyset(3) to set up.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` lives, and the numbers are signals.
        let result = unsafe {
            libc::sigemptyset(&raw mut set);
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                libc::sigaddset(&raw mut set, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
        };
        if result == 0 { Ok(Self(set)) } else { Err(io::Error::from_raw_os_error(result)) }
    }

    /// Waits for the next one.
    fn next(&self) -> Told {
        loop {
            // SAFETY: siginfo_t is plain data, for which zeroes are a value.
            let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
            // SAFETY: the set is the one that was blocked, and `info` lives.
            let signal = unsafe { libc::sigwaitinfo(&raw const self.0, &raw mut info) };
            match signal {
                // Interrupted by one that is none of these.
                -1 => {}
                // A terminal's hang-up comes from the kernel.
                libc::SIGHUP if info.si_code != libc::SI_KERNEL => return Told::Replace,
                _ => {
                    log::info!("told to end signal={signal}");
                    return Told::End;
                }
            }
        }
    }
}

/// The threads beside those that answer. They go in this order.
pub(super) struct Helpers {
    pub(super) watch: Option<Watch>,
    pub(super) scrape: Option<Scrape>,
    pub(super) tending: Tending,
    pub(super) waking: Waking,
}

/// Ends the helpers, unless they have ended.
pub(super) fn let_go(helpers: &Mutex<Option<Helpers>>) {
    let taken = helpers.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(Helpers { watch, scrape, tending, waking }) = taken {
        drop(watch);
        drop(scrape);
        drop(tending);
        drop(waking);
    }
}

/// What is there to be ended or left.
pub(super) struct Ending {
    pub(super) unmounter: Unmounter,
    pub(super) leaver: Leaver,
    pub(super) device: OwnedFd,
    /// Whether the kernel lets another daemon go on.
    pub(super) can_be_left: bool,
    pub(super) ledger: Arc<Ledger>,
    pub(super) service: Arc<LockService>,
    pub(super) store: Arc<dyn LockStore>,
    pub(super) helpers: Arc<Mutex<Option<Helpers>>>,
    pub(super) manager: Manager,
    pub(super) successor: Successor,
}

impl Ending {
    /// Does what the signals say, in a thread that stays behind when the mount ends by itself; it goes with the process.
    pub(super) fn wait_for(self, signals: Signals) -> io::Result<()> {
        let wait = move || {
            loop {
                match signals.next() {
                    Told::Replace => self.replace(),
                    Told::End if self.can_be_left && self.manager.restarts() => self.leave(),
                    Told::End => self.end(),
                }
            }
        };
        std::thread::Builder::new().name("lockfs-signals".to_owned()).spawn(wait).map(drop)
    }

    /// Ends the mount, and the process where that does not end it: another mount namespace may have a copy of the mount,
    /// which nobody here can take away. Returns where it can't be unmounted.
    fn end(&self) {
        self.manager.stopping();
        match self.unmounter.unmount() {
            Ok(()) => {}
            // It was taken out of the tree before, and serves those who are still in it.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            Err(error) => return log::warn!("can't unmount: {error}"),
        }
        self.service.end_all_waits();
        std::thread::sleep(GRACE);
        log::warn!("ended, though the mount is still there in another mount namespace");
        let closed = self.store.close();
        std::process::exit(i32::from(closed.is_err()));
    }

    /// Ends the process, and leaves the mount to the daemon that comes next.
    fn leave(&self) {
        self.manager.leaving();
        let exit = match self.stop() {
            Ok(()) => 0,
            Err(error) => {
                log::error!("{error}");
                1
            }
        };
        log::info!("left the mount to the next daemon");
        // SAFETY: it ends the process, and nothing else in it: no thread is to answer anything from now on.
        unsafe { libc::_exit(exit) };
    }

    /// Puts the program that is now there in the place of this one. Returns where it can't be.
    fn replace(&self) {
        let Some(ledger) = self.ledger.file() else { return };
        log::info!("told to go on as the program that is now there");
        self.manager.reloading();
        let tried = match self.can_be_left {
            true => self.successor.try_out(),
            false => Err("the kernel is older than 6.9: restart lockfs instead".to_owned()),
        };
        if let Err(why) = tried {
            log::error!("not replaced, and going on as before: {why}");
            return self.manager.not_reloaded(format_args!("not reloaded: {why}"));
        }
        if let Err(error) = self.stop() {
            log::error!("{error}");
        }
        let error = self.successor.go_on(self.device.as_fd(), ledger);
        log::error!("no program can take over, and the mount ends: {error}");
        self.unmounter.unmount().ok();
        // SAFETY: as when it is left.
        unsafe { libc::_exit(1) };
    }

    /// Brings everything to rest but the mount.
    fn stop(&self) -> Result<(), crate::store::StoreError> {
        // It asks the mount how it is, and wants an answer.
        let watch =
            self.helpers.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(|all| all.watch.take());
        drop(watch);
        if !self.leaver.leave(LAST_ANSWERS) {
            log::warn!("some requests take too long, and are left to the next daemon");
            return Ok(());
        }
        let_go(&self.helpers);
        self.store.close()
    }
}
