//! Handles: what is open, as far as the inode number does not say it; and in the [ledger](super::ledger), for whoever
//! serves the mount next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ledger::{Entry, Ledger, Open, State};
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
pub(super) struct Handles {
    table: Mutex<Table>,
    /// The requests whose handles were closed last at an earlier daemon.
    ended: Vec<u64>,
    ledger: Arc<Ledger>,
}

#[derive(Debug, Default)]
struct Table {
    last: u64,
    open: HashMap<u64, Handle>,
    /// What an earlier daemon has opened, by the requests: one that was not answered comes again.
    earlier: HashMap<u64, u64>,
}

impl Handles {
    /// Those that `state` has, and all that come, in `ledger`.
    pub(super) fn new(state: &mut State, ledger: Arc<Ledger>) -> Self {
        let mut table = Table { last: state.last_handle, ..Table::default() };
        for (number, Open { ino, session, request }) in std::mem::take(&mut state.handles) {
            table.earlier.insert(request, number);
            table.open.insert(number, Handle { ino, session, text: None });
        }
        let ended = std::mem::take(&mut state.ended).into();
        Self { table: Mutex::new(table), ended, ledger }
    }

    /// Enters what a request has opened; returns its number.
    pub(super) fn insert(&self, handle: Handle, request: u64) -> u64 {
        let mut table = self.table();
        table.last += 1;
        let number = table.last;
        let session = handle.session.as_ref().map(|id| id.as_str().as_bytes());
        self.ledger.note(&Entry::Opened { number, ino: handle.ino, session, request });
        table.open.insert(number, handle);
        number
    }

    /// What an earlier daemon has opened for a request, without an answer to it.
    pub(super) fn of_earlier(&self, request: u64) -> Option<u64> {
        self.table().earlier.get(&request).copied()
    }

    /// The objects that an earlier daemon has opened, each with the request.
    pub(super) fn opens(&self) -> Vec<(Ino, u64)> {
        let table = self.table();
        let ino = |number| table.open.get(number).and_then(|handle: &Handle| handle.ino);
        table.earlier.iter().filter_map(|(request, number)| Some((ino(number)?, *request))).collect()
    }

    /// The requests whose handles an earlier daemon has closed again, the last of them.
    pub(super) fn ended(&self) -> &[u64] {
        &self.ended
    }

    /// The sessions that are kept alive, once for each handle.
    pub(super) fn sessions(&self) -> Vec<SessionId> {
        self.table().open.values().filter_map(|handle| handle.session.clone()).collect()
    }

    /// Takes a handle out. It stays in the ledger until it is [forgotten](Self::forget): a daemon that ends before what
    /// follows from its close is done leaves that to the next.
    pub(super) fn remove(&self, number: u64) -> Option<Handle> {
        self.table().open.remove(&number)
    }

    /// Notes that all is done that follows from the close of a handle.
    pub(super) fn forget(&self, number: u64) {
        self.ledger.note(&Entry::Closed(number));
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
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
