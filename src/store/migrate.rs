//! Migration: all that one store has goes to another, exactly as it is, while both may be in use.
//!
//! | step | source | target |
//! |---|---|---|
//! | begin | goes on; what changes is noted | is closed, and remembers what it had |
//! | copy | goes on | is filled |
//! | catch up | goes on | gets what has changed; then all of it is read back and compared |
//! | hand over | stands still for a moment, and is closed | gets the rest; counts and digests are compared |
//! | end | stays closed, and says where to | is opened, above all tokens of the source |
//!
//! The invariant: at any moment one of the two grants at most. The target is closed from before the first record to
//! after the closing of the source, which is one atomic step that fails unless the source has stood still until then.
//! What stops at any point leaves the source as it was but for leases that run out within a second, or closed with the
//! target complete; run again, it goes on; rolled back, the target has what it had before.
//!
//! What belongs to mounts stays behind: who has a file open or locked by flock(2), and who waits.

mod canon;
mod closing;
mod end;
mod fit;
mod pass;
mod run;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use canon::Digest;
pub(in crate::store) use canon::Key;
pub(in crate::store) use closing::{Closing, Kind as ClosingKind};
pub(in crate::store) use end::{End, Reading};
pub use run::migrate;

use super::StoreError;
use super::level::LevelError;
use super::redis::Endpoint;

/// One of the two stores.
#[derive(Clone, Debug)]
pub enum Side {
    /// A LevelDB in this directory: a data directory and a namespace in it.
    Level(PathBuf),
    /// A namespace of a Redis.
    Redis(Box<Endpoint>, String),
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Move all.
    Move,
    /// Say what would be moved, and what is in the way.
    DryRun,
    /// Compare the two, and change neither.
    Verify,
    /// Take back what an unfinished migration did.
    RollBack,
}

/// What is to be done with which stores.
#[derive(Clone, Debug)]
pub struct Order {
    /// From here.
    pub from: Side,
    /// To there.
    pub to: Side,
    /// What.
    pub task: Task,
    /// Who owns the root of a namespace that is new.
    pub owner: (u32, u32),
}

/// Who is told how it goes.
pub trait Watch {
    /// A step begins; it is of `total` parts, as far as that is known.
    fn begin(&mut self, what: &str, total: u64);
    /// So many parts more are done.
    fn advance(&mut self, parts: u64);
    /// Whether it is to stop where it is.
    fn is_stopped(&self) -> bool;
}

/// What one side has of what is moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Locks, advisory files among them.
    pub locks: u64,
    /// Directories that are names.
    pub directories: u64,
    /// Sessions.
    pub sessions: u64,
    /// All of it.
    pub digest: Digest,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Where from, for people.
    pub from: String,
    /// Where to.
    pub to: String,
    /// What the source has.
    pub source: Tally,
    /// What the target has of it.
    pub target: Tally,
    /// What the target has besides.
    pub others: u64,
    /// What is not the same on both sides, by name; some of it.
    pub differences: Vec<String>,
    /// How many there are.
    pub different: u64,
    /// How long nothing was granted by the source; `None` where it was not closed by this run.
    pub stopped: Option<Duration>,
    /// How often the source was asked to stand still before it was closed.
    pub freezes: u32,
    /// It had been moved before.
    pub was_done: bool,
}

/// Why it was not done.
#[derive(Debug)]
pub enum Error {
    /// The stores named make no sense together.
    Usage(String),
    /// Something is in the way, and nothing was changed.
    Refused(String),
    /// A LevelDB can't be used.
    Level(LevelError),
    /// A store does not do what is asked.
    Store {
        /// Which.
        place: String,
        /// Why.
        error: StoreError,
    },
    /// It was stopped; what to do then.
    Stopped,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) | Self::Refused(why) => f.write_str(why),
            Self::Level(error) => error.fmt(f),
            Self::Store { place, error } => write!(f, "{place}: {error}"),
            Self::Stopped => {
                f.write_str("stopped: run it again to go on, or with --rollback to take back what it did")
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<LevelError> for Error {
    fn from(error: LevelError) -> Self {
        Self::Level(error)
    }
}
