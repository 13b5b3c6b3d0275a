//! The thread that keeps holders alive, notes the dead ones, and removes what has expired.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::LockService;
use super::holders::Chores;
use crate::lock::{Mount, MountId, Session, SessionId, SessionKind};
use crate::store::StoreError;
use crate::table::Command;

/// How often holders are looked at: a job that ends is noted within a second.
const PERIOD: Duration = Duration::from_millis(250);

/// How often the store is swept while nobody is in care.
const IDLE_PERIOD: Duration = Duration::from_secs(1);

/// How many locks one sweep removes at most, so that none holds the store for long.
const SWEEP_MAX: usize = 500;

/// How many sessions one step renews.
const BATCH: usize = 500;

impl LockService {
    /// Takes up what this host held when its last daemon stopped: a job of an earlier boot is released at
    /// once, one that has ended is marked, and what lives is renewed; what mounts have that nobody serves any more
    /// goes. To be called before the first sweep.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't say.
    pub fn take_up(&self) -> Result<(), StoreError> {
        let mut sessions = Vec::new();
        let mut last = None;
        loop {
            let page = self.store.list_sessions(last, BATCH)?;
            let Some(session) = page.last() else {
                break;
            };
            last = Some(session.ino);
            sessions.extend(page.into_iter().filter(|session| self.is_of_this_host(&session.origin.host)));
        }
        let is_of_this_boot = |session: &Session| match &session.kind {
            SessionKind::Job(job) => job.boot == *self.processes.boot(),
            SessionKind::Named | SessionKind::Unseen => true,
        };
        let (current, earlier): (Vec<_>, Vec<_>) = sessions.into_iter().partition(is_of_this_boot);
        for Session { id, .. } in earlier {
            log::info!("released all of a job of an earlier boot session={id}");
            self.store.execute(&Command::EndSession { caller: None, id })?.ok();
        }
        let is_held = |session: &Session| match &session.kind {
            SessionKind::Job(job) => self.processes.is_alive(job),
            SessionKind::Named | SessionKind::Unseen => true,
        };
        let (held, ended): (Vec<_>, Vec<_>) = current.into_iter().partition(is_held);
        for session in &held {
            if let SessionKind::Job(job) = &session.kind {
                self.processes.recall(job);
            }
            self.holders(|holders| holders.watch(&session.id, &session.kind));
        }
        let names =
            |sessions: Vec<Session>| sessions.into_iter().map(|session| session.id).collect::<Vec<_>>();
        for batch in names(ended).chunks(BATCH) {
            self.store.execute(&Command::MarkEnded { sessions: batch.to_vec() })?.ok();
        }
        for batch in names(held).chunks(BATCH) {
            self.store.execute(&Command::Renew { sessions: batch.to_vec() })?.ok();
        }
        // A store of one host has one daemon: what else it serves is the mount of a dead one. Our own may have been
        // another's until now.
        let is_unserved = |mount: &Mount| self.scope == "host" || !self.processes.is_served(mount);
        let is_left = |mount: &Mount| {
            mount.id != self.mount.id && self.is_of_this_host(&mount.host) && is_unserved(mount)
        };
        let left: Vec<MountId> =
            self.store.mounts()?.iter().filter(|mount| is_left(mount)).map(|mount| mount.id).collect();
        if !left.is_empty() {
            self.store.execute(&Command::Leave { mounts: left })?.ok();
        }
        self.attend()
    }

    /// Removes what has expired. Of a store that other hosts sweep too, not in every round.
    fn sweep(&self) -> Result<(), StoreError> {
        let now = self.store.now().boot;
        let swept = *self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = self.scope == "host" || now < swept || now.since(swept) + PERIOD / 2 >= IDLE_PERIOD;
        if is_due {
            self.store.execute(&Command::Sweep { limit: SWEEP_MAX })?.ok();
            *self.swept.lock().unwrap_or_else(PoisonError::into_inner) = now;
        }
        Ok(())
    }

    /// One round: renews who lives, marks whose job has ended, removes what has expired. Returns how long
    /// the next one can wait.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't say; what could not be done is due again.
    pub fn tend(&self) -> Result<Duration, StoreError> {
        for batch in self.holders(|holders| holders.unknown()).chunks(BATCH) {
            let ids: Vec<SessionId> = batch.iter().map(|(id, _)| id.clone()).collect();
            for ((id, steps), ttl) in batch.iter().zip(self.store.shortest_ttls(&ids)?) {
                self.holders(|holders| holders.learn(id, *steps, ttl));
            }
        }
        let jobs = self.holders(|holders| holders.jobs());
        let dead = jobs.into_iter().filter(|(_, job)| !self.processes.is_alive(job));
        let dead: HashSet<SessionId> = dead.map(|(id, _)| id).collect();
        let Chores { renew, ended } = {
            let now = self.store.now().boot;
            self.holders(|holders| holders.tick(now, PERIOD, &dead))
        };
        self.renew_lease(IDLE_PERIOD)?;
        self.settle_owed();
        if self.queue_again.swap(false, Ordering::AcqRel) {
            self.wake_all();
        }
        if let Some(limit) = longest_request() {
            self.end_waits_older_than(limit);
        }
        for batch in renew.chunks(BATCH) {
            self.store.execute(&Command::Renew { sessions: batch.to_vec() })?.ok();
        }
        for batch in ended.chunks(BATCH) {
            let sessions = batch.iter().map(|(id, _)| id.clone()).collect();
            self.store.execute(&Command::MarkEnded { sessions })?.ok();
            batch.iter().for_each(|(_, job)| self.processes.forget(job));
        }
        self.sweep()?;
        let is_short = self.mount.ttl.span().is_some_and(|span| span < IDLE_PERIOD * 6);
        let is_idle = !is_short && self.holders(|holders| holders.is_empty());
        Ok(if is_idle { IDLE_PERIOD } else { PERIOD })
    }
}

/// How long a request may take before the kernel ends the mount for it, less what it takes us to notice.
fn longest_request() -> Option<Duration> {
    // Documentation/admin-guide/sysctl/fs.rst: seconds, 0 for no limit.
    let limit = |name| {
        let text = std::fs::read_to_string(format!("/proc/sys/fs/fuse/{name}_request_timeout")).ok()?;
        text.trim().parse::<u64>().ok().filter(|limit| *limit > 0)
    };
    let limit = limit("default").into_iter().chain(limit("max")).min()?;
    Some(Duration::from_secs(limit) / 2)
}

/// The running thread; dropping it stops and joins it.
#[derive(Debug)]
pub struct Tending {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Tending {
    /// Begins to tend `service`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(service: Arc<LockService>) -> std::io::Result<Self> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let told = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("lockfs-tend".to_owned()).spawn(move || {
            let mut in_trouble = false;
            let mut wait = PERIOD;
            let mut stopped = told.0.lock().unwrap_or_else(PoisonError::into_inner);
            while !*stopped {
                let (guard, _) = told.1.wait_timeout(stopped, wait).unwrap_or_else(PoisonError::into_inner);
                drop(guard);
                let round = service.tend();
                if let Err(error) = &round
                    && !in_trouble
                {
                    log::warn!("can't renew or expire locks: {error}");
                }
                in_trouble = round.is_err();
                wait = round.unwrap_or(PERIOD);
                stopped = told.0.lock().unwrap_or_else(PoisonError::into_inner);
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Tending {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has been printed by the panic hook; there is nothing to add at the end.
            thread.join().ok();
        }
    }
}
