//! The two ends of a migration, and what it asks of a store: the same of each kind, whether a daemon has it or not.

use std::time::Duration;

use super::Error;
use super::canon::Key;
use super::closing::Closing;
use crate::clock::Now;
use crate::lock::{Ino, SessionId};
use crate::table::{Change, Told};

/// Who takes over what is read, a page at a time: with the time on the store's clock at which it was asked for. All
/// sessions come before the first object.
pub(in crate::store) type Reading<'a> = &'a mut dyn FnMut(Now, Vec<Told>) -> Result<(), Error>;

/// A store, as a migration sees it.
pub(in crate::store) trait End {
    /// Where it is, for people.
    fn place(&self) -> String;

    /// What no other store has; `None` where there is no store yet.
    fn identity(&self) -> Option<String>;

    /// Its own time.
    fn now(&self) -> Now;

    /// Why nothing is done in it any more.
    fn closing(&mut self) -> Result<Option<Closing>, Error>;

    /// Of all tokens that were given the highest epoch.
    fn epoch(&mut self) -> Result<u32, Error>;

    /// Paths of what is locked by flock(2) or fcntl(2) at the moment.
    fn locked(&mut self) -> Result<Vec<String>, Error>;

    /// About how many objects there are.
    fn count(&mut self) -> Result<u64, Error>;

    /// Reads all of it, as it is kept: what changes meanwhile may be missing, or there twice.
    fn read(&mut self, each: Reading<'_>) -> Result<(), Error>;

    /// What some objects are now, with the sessions that hold them, and some sessions; `None` from one that is written
    /// and can't be asked before it is read anew.
    fn look(&mut self, objects: &[Ino], sessions: &[SessionId]) -> Result<Option<(Now, Vec<Told>)>, Error>;

    /// From now on what changes is noted, as long as it is asked for every now and then.
    fn track(&mut self) -> Result<(), Error>;

    /// Says that its changes will be asked for, though that takes a while: to be called every few seconds.
    fn keep(&mut self) -> Result<(), Error>;

    /// What has changed since it was asked last.
    fn changes(&mut self) -> Result<Vec<Change>, Error>;

    /// From now on nothing changes, for so long at most.
    fn freeze(&mut self, lease: Duration) -> Result<(), Error>;

    /// Closes what was frozen until this very moment; false where it was not any more, or something changed.
    fn close(&mut self, closing: &Closing) -> Result<bool, Error>;

    /// Lets it go on: it is neither frozen nor tracked, nor closed if it is for that reason.
    fn thaw(&mut self, closing: &Closing) -> Result<(), Error>;

    /// Closes what is to be filled, and notes what it has, unless it `is_fresh`: then all of it is of no account. `known`
    /// is why it may be closed already.
    fn fill(&mut self, closing: &Closing, known: Option<&Closing>, is_fresh: bool) -> Result<(), Error>;

    /// What it had before it was filled.
    fn before(&mut self) -> Result<Vec<Key>, Error>;

    /// Puts things into what is filled, and takes out what is told to be gone.
    fn put(&mut self, closing: &Closing, told: Vec<Told>) -> Result<(), Error>;

    /// Makes sure that what was put is kept as a grant is.
    fn settle(&mut self) -> Result<(), Error>;

    /// Opens what was filled: its tokens go on above `epoch`.
    fn open(&mut self, closing: &Closing, epoch: u32) -> Result<(), Error>;

    /// Takes out all that was put, and leaves it as it was before; `each` hears how many went.
    fn empty(&mut self, closing: &Closing, each: &mut dyn FnMut(u64)) -> Result<(), Error>;
}
