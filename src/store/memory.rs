//! The store in memory: the table behind a mutex, gone with the process. For tests, and as the measure of
//! the others.

use std::sync::Arc;

use super::local::{Journal, Seated, TableStore};
use super::{Health, State, StoreError};
use crate::clock::{Clock, Now};
use crate::table::{Change, Command, LockTable};

/// The table behind a mutex.
pub type MemoryStore = TableStore<Unkept>;

/// A journal that keeps nothing.
#[derive(Debug)]
pub struct Unkept;

impl Journal for Unkept {
    fn admit(&self, _: &Command) -> Result<(), StoreError> {
        Ok(())
    }

    fn append(&self, _: &LockTable, _: Now, _: &[Change], _: &[Seated<'_>]) -> u64 {
        0
    }

    fn commit(&self, _: u64) -> Result<(), StoreError> {
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn health(&self) -> Health {
        Health { backend: "memory", scope: "host", state: State::Ok, counts: None, facts: Vec::new() }
    }
}

impl MemoryStore {
    /// An empty namespace whose root belongs to `uid` and `gid`.
    pub fn empty(clock: Arc<dyn Clock>, uid: u32, gid: u32) -> Self {
        let now = clock.now();
        let seconds = u32::try_from(now.wall.secs()).unwrap_or(0);
        Self::new(LockTable::new(seconds, uid, gid, now), clock, Unkept, Vec::new())
    }
}
