//! Stores: what keeps a [`LockTable`](crate::table::LockTable), and who may ask it.
//!
//! One law, several executors. A step that is refused by the law is an [`Outcome`]; an `Err` always means
//! "we do not know, or can't": it is never to be read as free or as held.

mod gate;
mod health;
pub mod hybrid;
pub mod level;
mod local;
mod memory;
pub mod migrate;
pub mod redis;
mod seats;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use std::{fs, io};

pub use health::{Fact, Health, Metric, State, Value};
pub use local::EventPage;
pub use memory::MemoryStore;

use crate::clock::Now;
use crate::lock::{
    Attributes, Ino, Mount, MountId, RequestId, Session, SessionId, Token, Ttl, WaitId, Waiter,
};
use crate::table::{Command, Counts, Entry, Outcome, Spot, View};

/// A namespace of locks. Every method is one atomic step.
pub trait LockStore: Send + Sync + fmt::Debug {
    /// Carries out one command. When it returns `Ok`, the step has happened and is kept as durably as the
    /// store promises; when it returns `Err`, a step that acquires has not happened, or is undone.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't say, or can't keep it.
    fn execute(&self, command: &Command) -> Result<Outcome, StoreError> {
        self.execute_for(None, command)
    }

    /// The same, as a part of a request of the kernel's. What it gave or changed is given once: a daemon that took the
    /// mount over and is asked the request again gets the first outcome, however the one before it ended. A refusal
    /// changes nothing, and is decided anew.
    ///
    /// A thread that asks for another request has answered the one before. A request makes no two steps of one kind
    /// that both change something.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't say, or can't keep it.
    fn execute_for(&self, request: Option<RequestId>, command: &Command) -> Result<Outcome, StoreError>;

    /// What a mount that was taken over has open, as whoever keeps its handles knows: each object, and the request that
    /// opened it; and requests whose handles were closed again, so that nobody asks them any more. The store may have heard of no close that came last, nor of an open that mattered to nobody.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't say, or can't keep it.
    fn recall_opens(&self, mount: MountId, opens: &[(Ino, u64)], ended: &[u64]) -> Result<(), StoreError>;

    /// Whether a step of that request was carried out, and its outcome is still remembered: what its caller sees
    /// now is what it has done itself.
    ///
    /// # Errors
    /// [`StoreError::Timeout`]: what the daemon before this one was answered is lost, and nobody knows.
    fn remembers(&self, request: RequestId) -> Result<bool, StoreError>;

    /// The time on the store's clock, which decides what has expired.
    fn now(&self) -> Now;

    /// How far what it grants excludes others, as long as all is well: `host`, `cluster`.
    fn scope(&self) -> &'static str {
        self.health().scope
    }

    /// Whether it can't ask where it should, and what it holds there can't be renewed at present.
    fn is_degraded(&self) -> bool {
        false
    }

    /// What stands at a spot.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't say.
    fn lookup(&self, spot: &Spot) -> Result<Option<Attributes>, StoreError>;

    /// What stat(2) tells of an object.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't say.
    fn stat(&self, ino: Ino) -> Result<Option<Attributes>, StoreError>;

    /// The same, where an answer of up to a second ago will do: of directories that are names and no locks, and
    /// of what this very store has just made.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't say.
    fn glance(&self, ino: Ino) -> Result<Option<Attributes>, StoreError> {
        self.stat(ino)
    }

    /// Everything known of an object.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't say.
    fn view(&self, ino: Ino) -> Result<Option<View>, StoreError>;

    /// Entries of a directory after `after`, in a stable order; `None` if it is no directory.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't say.
    fn list(&self, ino: Ino, after: Option<Token>, limit: usize) -> Result<Option<Vec<Entry>>, StoreError>;

    /// Entries of a directory that a session holds, or that lead to what it holds.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't say.
    fn list_held(
        &self,
        id: &SessionId,
        ino: Ino,
        after: Option<Token>,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError>;

    /// A session by its name.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't say.
    fn session(&self, id: &SessionId) -> Result<Option<Session>, StoreError>;

    /// A session by the number of its directory.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't say.
    fn session_by_number(&self, ino: Ino) -> Result<Option<Session>, StoreError>;

    /// Sessions after `after`, in the order in which they began.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't say.
    fn list_sessions(&self, after: Option<Ino>, limit: usize) -> Result<Vec<Session>, StoreError>;

    /// How often each of some sessions must be renewed: the shortest ttl among what it holds and its own; `None`
    /// where it is not there.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't say.
    fn shortest_ttls(&self, ids: &[SessionId]) -> Result<Vec<Option<Ttl>>, StoreError>;

    /// Who waits for a name, or for an advisory lock on what stands there, in their order.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't say.
    fn queue(&self, spot: &Spot) -> Result<Vec<Waiter>, StoreError>;

    /// The mounts that have a lease.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't say.
    fn mounts(&self) -> Result<Vec<Mount>, StoreError>;

    /// Waits, for `limit` at most, until calls that wait should ask again. One thread asks, and hears of all calls
    /// of the mounts that this store attends.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't say now. Ask again a moment later.
    fn await_wakes(&self, limit: Duration) -> Result<Wakes, StoreError>;

    /// Nobody waits for wakes any more: who does is answered at once, and so is who still asks.
    fn end_wakes(&self);

    /// Events after the one numbered `after` (they count from 1), oldest first.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't say.
    fn events(&self, after: u64, limit: usize) -> Result<EventPage, StoreError>;

    /// How many, and how often.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't say.
    fn counts(&self) -> Result<Counts, StoreError>;

    /// How the store is, for `status` and the metrics. It answers at once, whatever the store does.
    fn health(&self) -> Health;

    /// Puts everything to rest, so that the next opening finds it clean. Nothing is executed after it.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't keep it.
    fn close(&self) -> Result<(), StoreError>;
}

/// How a daemon came to the mount that it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// It mounted it. What mounts before it had is left behind.
    Begun(MountId),
    /// Another daemon served it until now: what the mount has in the store it keeps.
    TakenOver(MountId),
}

impl Tenure {
    /// That of a mount that is new.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn begin() -> io::Result<Self> {
        Ok(Self::Begun(MountId::from_u64(u64::from_ne_bytes(random()?))))
    }

    /// The mount.
    pub const fn mount(self) -> MountId {
        let (Self::Begun(mount) | Self::TakenOver(mount)) = self;
        mount
    }
}

/// Calls that wait, and should ask again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wakes {
    /// These, in the order in which they were told; none where nothing happened.
    These(Vec<WaitId>),
    /// All: some may have been told, and it was not heard.
    All,
}

/// What an acknowledged step survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The end of the daemon, however it comes: it is acknowledged after write(2).
    #[default]
    Process,
    /// A power cut too: it is acknowledged after fdatasync(2).
    Power,
}

/// Bytes that nobody else has.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes)
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process => "process",
            Self::Power => "power",
        })
    }
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "process" => Ok(Self::Process),
            "power" => Ok(Self::Power),
            _ => Err("a durability is process or power".to_owned()),
        }
    }
}

/// Why a store can't say, or can't keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// It can't be reached: certainly nothing has happened.
    Unavailable(String),
    /// It has not answered in time. What was asked may have happened; an acquire will be undone.
    Timeout(String),
    /// It has failed, and does nothing more until it is opened again.
    Failed(String),
    /// Its disk is full.
    NoSpace,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(why) | Self::Timeout(why) => f.write_str(why),
            Self::Failed(why) => write!(f, "the store has failed: {why}"),
            Self::NoSpace => f.write_str("the disk of the store is full: free some space"),
        }
    }
}

impl std::error::Error for StoreError {}
