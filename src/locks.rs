//! The service around a store: who is calling, which holders live, what expires.
//!
//! [`LockService::step`] is the one door to the store for what a process asks. Where the law refuses because
//! another session holds the lock, the service looks again at what the store can't see: whether the caller
//! descends from the holding job, and whether that job has just ended. Everybody else gets the law's answer
//! at once; only contention costs a look into `/proc`.

mod holders;
mod process;
mod tending;
mod waiters;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

pub use holders::Holders;
pub use process::{HostId, HostIdError, Processes, machine_id};
pub use tending::Tending;
pub use waiters::{Answer, Waking};

use crate::clock::BootTime;
use crate::lock::{Ino, Mount, MountId, RequestId, Session, SessionError, SessionId, SessionKind, Ttl};
use crate::store::{LockStore, StoreError, Tenure};
use crate::table::{Caller, Command, Refusal, Reply, View};
use waiters::Waiters;

/// The process behind a request, as the kernel names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requester {
    /// The file-system user id.
    pub uid: u32,
    /// The file-system group id.
    pub gid: u32,
    /// The thread's id; 0 where it is of a pid namespace that the daemon can't see into.
    pub pid: u32,
    /// The kernel's number of the request, without the mark of one that is sent again; 0 where there is none, which
    /// the kernel gives to no request.
    pub request: u64,
    /// Whether the kernel sends the request again: the daemon before this one may have carried it out.
    pub resent: bool,
}

/// Why a process did not get what it asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The law refuses.
    Refused(Refusal),
    /// The store can't say.
    Store(StoreError),
    /// The caller's `LOCKFS_SESSION` names no session that could be.
    Session(SessionError),
    /// The caller was interrupted while it waited.
    Interrupted,
    /// The daemon ends, and nobody waits any more.
    Ending,
    /// The kernel does not let a call wait as long (`fs.fuse.max_request_timeout`).
    WaitedTooLong,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => write!(f, "refused: {refusal:?}"),
            Self::Store(error) => error.fmt(f),
            Self::Session(error) => write!(f, "LOCKFS_SESSION: {error}"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Ending => f.write_str("lockfs is ending"),
            Self::WaitedTooLong => f.write_str("waited as long as the kernel lets a call wait"),
        }
    }
}

impl std::error::Error for Denial {}

impl From<StoreError> for Denial {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<SessionError> for Denial {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

/// What to do about a refusal, after a look at the holder.
enum Second {
    /// It stands.
    AsBefore,
    /// Ask once more: the holder is not what the store took it for.
    Again,
    /// Ask once more, for the holder's session as well: the caller descends from its job.
    AsWell,
}

/// How a lock stands to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bearing {
    /// How far it excludes them: `host`, `cluster`.
    pub scope: &'static str,
    /// Whether its token fences them off wherever the store's locks reach.
    pub has_token: bool,
    /// Whether it is held without the store that should say so.
    pub is_degraded: bool,
}

struct Hear(Box<dyn Fn(u64) + Send + Sync>);

impl fmt::Debug for Hear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hear")
    }
}

/// A store, and what this host knows besides.
#[derive(Debug)]
pub struct LockService {
    store: Arc<dyn LockStore>,
    processes: Processes,
    holders: Mutex<Holders>,
    ttl: Ttl,
    scope: &'static str,
    mount: Mount,
    /// How often the mount took a lease: what it had in an earlier one is lost.
    leases: AtomicU64,
    /// Hears of each new one.
    leases_heard: OnceLock<Hear>,
    /// When the lease was last renewed, on the store's clock.
    renewed: Mutex<BootTime>,
    /// When the store was last swept, on its clock.
    swept: Mutex<BootTime>,
    /// Whether who waits has to ask again.
    queue_again: AtomicBool,
    waiters: Waiters,
    /// What could not be carried out, and has to be.
    owed: Mutex<Vec<Command>>,
}

impl LockService {
    /// The service of `store` on the host that `processes` looks at, for one mount; locks get `ttl` where nothing
    /// nearer says.
    pub fn new(store: Arc<dyn LockStore>, processes: Processes, ttl: Ttl, tenure: Tenure) -> Self {
        let scope = store.scope();
        // Where no other host is, nobody else could be given what this mount has.
        let mount = processes.mount(tenure.mount(), if scope == "host" { Ttl::Never } else { ttl });
        Self {
            store,
            processes,
            holders: Mutex::default(),
            ttl,
            scope,
            mount,
            // The lease of the daemon before this one goes on, if it is still there.
            leases: AtomicU64::new(matches!(tenure, Tenure::TakenOver(_)).into()),
            leases_heard: OnceLock::new(),
            renewed: Mutex::default(),
            swept: Mutex::default(),
            queue_again: AtomicBool::new(false),
            waiters: Waiters::default(),
            owed: Mutex::default(),
        }
    }

    /// The store, for what asks and changes nothing.
    pub fn store(&self) -> &dyn LockStore {
        self.store.as_ref()
    }

    /// The host's name among those that share the store.
    pub fn host(&self) -> &HostId {
        self.processes.host()
    }

    /// How far the store's locks exclude others: `host`, `cluster`.
    pub fn scope(&self) -> &'static str {
        self.scope
    }

    /// How a lock stands to others. What a host granted by itself, where it should have asked, is its own.
    pub fn bearing(&self, view: &View) -> Bearing {
        let has_token = self.scope == "host" || !view.record.token.is_of_host();
        let scope = if has_token { self.scope } else { "host" };
        Bearing { scope, has_token, is_degraded: self.store.is_degraded() }
    }

    /// Asks or tells the holders something, for as long as that takes and no longer.
    fn holders<T>(&self, act: impl FnOnce(&mut Holders) -> T) -> T {
        // What it knows is looked up again at the next tick: a panic elsewhere does not make it wrong.
        act(&mut self.holders.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The caller of a request, with the session of its environment or of its job.
    ///
    /// # Errors
    /// [`Denial::Session`] where its `LOCKFS_SESSION` is no session name.
    pub fn caller(&self, who: Requester) -> Result<Caller, Denial> {
        let session = self.processes.claimant(who, self.ttl)?;
        Ok(Caller { uid: who.uid, gid: who.gid, session, also: Vec::new(), mount: self.mount.id })
    }

    /// The caller of a request that changes nothing: of its user, where its environment makes no sense.
    pub fn onlooker(&self, who: Requester) -> Caller {
        let session = self.processes.onlooker(who, self.ttl);
        Caller { uid: who.uid, gid: who.gid, session, also: Vec::new(), mount: self.mount.id }
    }

    /// The caller of a request that names its session by its path; the session must exist to be used.
    pub fn caller_in(&self, who: Requester, id: &SessionId) -> Caller {
        let session = Arc::new(self.processes.named_claimant(who, id.clone(), self.ttl));
        Caller { uid: who.uid, gid: who.gid, session, also: Vec::new(), mount: self.mount.id }
    }

    /// Carries out what the process `who` asks.
    ///
    /// # Errors
    /// [`Denial`]: the law's refusal, after a second look where the holder's job has ended or the caller
    /// descends from it; or the store's failure.
    pub fn step(&self, who: Requester, mut command: Command) -> Result<Reply, Denial> {
        // Where nobody knows what became of it, it is not carried out a second time.
        self.was_carried_out(who)?;
        let request = self.request(who);
        let mut outcome = self.store.execute_for(request, &command)?;
        if outcome == Err(Refusal::Unattended) {
            self.attend()?;
            outcome = self.store.execute_for(request, &command)?;
        }
        // A rename may meet two holders.
        for _ in 0..2 {
            let Err(Refusal::Busy(Some(holder)) | Refusal::Held(Some(holder))) = &outcome else {
                break;
            };
            command = match self.look_again(who, holder)? {
                Second::AsBefore => break,
                Second::Again => command,
                Second::AsWell => command.speaking_also_for(holder.clone()),
            };
            outcome = self.store.execute_for(request, &command)?;
        }
        match (&outcome, command.caller()) {
            // Who only waits, or locks what nobody holds, has nothing that would have to be renewed.
            (Ok(Reply::Waits), _) => {}
            (Ok(_), _) if matches!(command, Command::Lock { .. }) => {}
            (Ok(_), Some(caller)) => {
                // From now on its holder's life is watched.
                self.holders(|holders| holders.watch(&caller.session.id, &caller.session.kind));
            }
            (Err(refusal), Some(caller)) => {
                log::debug!("refused why={refusal:?} pid={} session={}", who.pid, caller.session.id);
            }
            (_, None) => {}
        }
        outcome.map_err(Denial::Refused)
    }

    /// The request of the kernel's that `who` made, if it is one.
    pub(super) fn request(&self, who: Requester) -> Option<RequestId> {
        (who.request != 0).then_some(RequestId { mount: self.mount.id, number: who.request })
    }

    /// Says what is open of a mount that was taken over, as whoever keeps the handles knows: each object, and the number
    /// of the request that opened it; and requests whose handles were `ended` lately. To be called after the mount was taken up, and before anybody is answered.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't say, or can't keep it.
    pub fn recall_opens(&self, opens: &[(Ino, u64)], ended: &[u64]) -> Result<(), StoreError> {
        self.store.recall_opens(self.mount.id, opens, ended)
    }

    /// Whether the daemon before this one has carried out a step of the request that `who` made. What stands in its
    /// way now is what it has done itself.
    ///
    /// # Errors
    /// [`StoreError`]: nobody knows, and it must not be carried out a second time.
    pub fn was_carried_out(&self, who: Requester) -> Result<bool, StoreError> {
        match self.request(who).filter(|_| who.resent) {
            Some(request) => self.store.remembers(request),
            None => Ok(false),
        }
    }

    /// The mount that this service answers for.
    pub fn mount(&self) -> MountId {
        self.mount.id
    }

    /// Begins or renews the lease of the mount.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't say.
    pub fn attend(&self) -> Result<(), StoreError> {
        // From before it was asked: the store may have counted from then.
        let now = self.store.now().boot;
        let outcome = self.store.execute(&Command::Attend { mount: self.mount.clone() })?;
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = now;
        if outcome == Ok(Reply::Count(0)) {
            if self.leases.fetch_add(1, Ordering::AcqRel) > 0 {
                log::warn!("the lease of the mount ran out: advisory locks that were held are lost");
                // The places of those who wait are lost as well.
                self.queue_again.store(true, Ordering::Release);
            }
            self.tell_lease();
        }
        Ok(())
    }

    /// Has `hear` told which lease of the mount it is, now and whenever there is a new one.
    pub fn hear_leases(&self, hear: impl Fn(u64) + Send + Sync + 'static) {
        self.leases_heard.set(Hear(Box::new(hear))).ok();
        self.tell_lease();
    }

    fn tell_lease(&self) {
        if let Some(Hear(hear)) = self.leases_heard.get() {
            hear(self.lease());
        }
    }

    /// Renews the lease where a third of it will be over before `period` is.
    fn renew_lease(&self, period: Duration) -> Result<(), StoreError> {
        let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.store.now().boot;
        match self.mount.ttl.span() {
            // A clock that has gone back may go forward again.
            Some(span) if now < renewed || now.since(renewed) + period >= span / 3 => self.attend(),
            _ => Ok(()),
        }
    }

    /// Which lease of the mount it is: an advisory lock that was taken in an earlier one is lost.
    pub fn lease(&self) -> u64 {
        self.leases.load(Ordering::Acquire)
    }

    /// Whether a refusal on behalf of the session `holder` would be another now.
    fn look_again(&self, who: Requester, holder: &SessionId) -> Result<Second, StoreError> {
        let Some(session) = self.store.session(holder)? else {
            return Ok(Second::Again);
        };
        let SessionKind::Job(job) = &session.kind else {
            return Ok(Second::AsBefore);
        };
        if !self.is_of_this_host(&session.origin.host) || session.ended {
            return Ok(Second::AsBefore);
        }
        if !self.processes.is_alive(job) {
            self.store.execute(&Command::MarkEnded { sessions: vec![holder.clone()] })?.ok();
            return Ok(Second::Again);
        }
        if self.processes.descends_from(who.pid, job) {
            return Ok(Second::AsWell);
        }
        Ok(Second::AsBefore)
    }

    /// Whether a process is of the session, or descends from its job.
    pub fn speaks_for(&self, who: Requester, session: &Session) -> bool {
        if self.onlooker(who).session.id == session.id {
            return true;
        }
        match &session.kind {
            SessionKind::Job(job) => {
                self.is_of_this_host(&session.origin.host) && self.processes.descends_from(who.pid, job)
            }
            SessionKind::Named | SessionKind::Unseen => false,
        }
    }

    /// A store of one host has the sessions of this host only, whatever the host was called before.
    fn is_of_this_host(&self, host: &str) -> bool {
        self.scope == "host" || host == self.host().as_str()
    }

    /// Whether a caller's thread is all that its session has to act with.
    pub fn is_alone(&self, who: Requester, caller: &Caller) -> bool {
        self.processes.is_alone(who.pid, &caller.session.kind)
    }

    /// The permission bits that a process takes from what it makes.
    pub fn umask(&self, who: Requester) -> u16 {
        self.processes.umask(who.pid)
    }

    /// Notes that a session has one more descriptor open: on a lock, or on its directory.
    pub fn session_opened(&self, id: &SessionId) {
        self.holders(|holders| holders.opened(id));
    }

    /// Notes that a session has one descriptor less open.
    pub fn session_closed(&self, id: &SessionId) {
        self.holders(|holders| holders.closed(id));
    }
}

#[cfg(test)]
mod tests;
