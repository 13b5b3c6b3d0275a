//! Handles: what is open, as far as the inode number does not say it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::lock::{Ino, SessionId};

/// One open file or directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Handle {
    /// The object that the store counts as open.
    pub(super) ino: Option<Ino>,
    /// The session that is kept alive by it.
    pub(super) session: Option<SessionId>,
    /// What a synthetic file, or the description of an empty lock, read like when it was begun.
    pub(super) text: Option<Arc<[u8]>>,
}

/// All handles. Number 0 is nobody's: it is what directories without state are opened with.
#[derive(Debug, Default)]
pub(super) struct Handles(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    last: u64,
    open: HashMap<u64, Handle>,
}

impl Handles {
    /// Enters a handle; returns its number.
    pub(super) fn insert(&self, handle: Handle) -> u64 {
        let mut table = self.table();
        table.last += 1;
        let number = table.last;
        table.open.insert(number, handle);
        number
    }

    /// Takes a handle out.
    pub(super) fn remove(&self, number: u64) -> Option<Handle> {
        self.table().open.remove(&number)
    }

    /// What a handle is of, where the store counts it as open.
    pub(super) fn ino(&self, number: u64) -> Option<Ino> {
        self.table().open.get(&number)?.ino
    }

    /// The text that a handle reads.
    pub(super) fn text(&self, number: u64) -> Option<Arc<[u8]>> {
        self.table().open.get(&number)?.text.clone()
    }

    /// Sets the text that a handle reads from now on.
    pub(super) fn set_text(&self, number: u64, text: &Arc<[u8]>) {
        if let Some(handle) = self.table().open.get_mut(&number) {
            handle.text = Some(Arc::clone(text));
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
