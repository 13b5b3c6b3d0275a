//! What each store stands on.

use std::sync::Arc;

use lockfs::clock::{BootId, ManualClock};
use lockfs::store::level::LevelStore;
use lockfs::store::{Durability, LockStore, MemoryStore};
use tempfile::TempDir;

use crate::house::Ground;
use crate::world::OWNER;

/// Memory, of which nothing is left when it is closed.
#[derive(Debug)]
pub(crate) struct Memory;

impl Ground for Memory {
    fn lay() -> Self {
        Self
    }

    fn open(&mut self, clock: Arc<ManualClock>) -> Box<dyn LockStore> {
        Box::new(MemoryStore::empty(clock, OWNER, OWNER))
    }
}

/// A LevelDB in a directory of its own.
#[derive(Debug)]
pub(crate) struct Level(TempDir);

impl Ground for Level {
    fn lay() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn open(&mut self, clock: Arc<ManualClock>) -> Box<dyn LockStore> {
        let boot = BootId::new("the test's");
        let store = LevelStore::open(self.0.path(), Durability::Process, clock, &boot, (OWNER, OWNER));
        Box::new(store.expect("nobody else has the directory, and nothing is damaged"))
    }
}
