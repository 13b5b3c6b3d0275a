//! What each store stands on.

use std::sync::{Arc, Mutex};

use lockfs::clock::{BootId, Clock, ManualClock, Now};
use lockfs::lock::{Attributes, Event, Ino, Session, SessionId, Token, Ttl};
use lockfs::store::level::LevelStore;
use lockfs::store::{Durability, EventPage, Health, LockStore, MemoryStore, StoreError};
use lockfs::table::{Command, Counts, Entry, LockTable, Outcome, Spot, View};
use tempfile::TempDir;

use crate::house::Ground;
use crate::shadow::Shadow;
use crate::world::{OWNER, dawn};

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

/// Paper, on which each step's changes are noted and nothing else: what every store relies on that keeps
/// its table by writing changes through.
#[derive(Debug)]
pub(crate) struct Paper {
    kept: Arc<Mutex<Shadow>>,
    epoch: u32,
}

impl Ground for Paper {
    fn lay() -> Self {
        let kept = Shadow::of(&LockTable::new(0, OWNER, OWNER, dawn()));
        Self { kept: Arc::new(Mutex::new(kept)), epoch: Token::EPOCH_MIN }
    }

    fn open(&mut self, clock: Arc<ManualClock>) -> Box<dyn LockStore> {
        self.epoch += 1;
        let noted = self.kept.lock().expect("no test panics with it").clone();
        let state = Mutex::new((noted.opened(self.epoch, clock.now()), Vec::new()));
        Box::new(Scribe { state, clock, paper: Arc::clone(&self.kept) })
    }
}

/// A table that notes its changes on [`Paper`].
#[derive(Debug)]
struct Scribe {
    state: Mutex<(LockTable, Vec<Event>)>,
    clock: Arc<ManualClock>,
    paper: Arc<Mutex<Shadow>>,
}

impl Scribe {
    fn read<T>(&self, ask: impl FnOnce(&LockTable, Now) -> T) -> Result<T, StoreError> {
        Ok(ask(&self.state.lock().expect("no test panics with it").0, self.clock.now()))
    }
}

impl LockStore for Scribe {
    fn execute(&self, command: &Command) -> Result<Outcome, StoreError> {
        let (table, events) = &mut *self.state.lock().expect("no test panics with it");
        let step = table.execute(self.clock.now(), command);
        self.paper.lock().expect("no test panics with it").apply(table, &step.changes);
        events.extend(step.events);
        Ok(step.outcome)
    }

    fn now(&self) -> Now {
        self.clock.now()
    }

    fn lookup(&self, spot: &Spot) -> Result<Option<Attributes>, StoreError> {
        self.read(|table, now| table.lookup(now, spot))
    }

    fn stat(&self, ino: Ino) -> Result<Option<Attributes>, StoreError> {
        self.read(|table, now| table.stat(now, ino))
    }

    fn view(&self, ino: Ino) -> Result<Option<View>, StoreError> {
        self.read(|table, now| table.view(now, ino))
    }

    fn list(&self, ino: Ino, after: Option<Token>, limit: usize) -> Result<Option<Vec<Entry>>, StoreError> {
        self.read(|table, now| table.list(now, ino, after, limit))
    }

    fn list_held(
        &self,
        id: &SessionId,
        ino: Ino,
        after: Option<Token>,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.read(|table, now| table.list_held(now, id, ino, after, limit))
    }

    fn session(&self, id: &SessionId) -> Result<Option<Session>, StoreError> {
        self.read(|table, now| table.session(now, id))
    }

    fn session_by_number(&self, ino: Ino) -> Result<Option<Session>, StoreError> {
        self.read(|table, now| table.session_by_number(now, ino))
    }

    fn list_sessions(&self, after: Option<Ino>, limit: usize) -> Result<Vec<Session>, StoreError> {
        self.read(|table, now| table.list_sessions(now, after, limit))
    }

    fn shortest_ttl(&self, id: &SessionId) -> Result<Option<Ttl>, StoreError> {
        self.read(|table, _| table.shortest_ttl(id))
    }

    fn events(&self, after: u64, limit: usize) -> Result<EventPage, StoreError> {
        let events = &self.state.lock().expect("no test panics with it").1;
        let skip = usize::try_from(after).expect("few events");
        Ok(EventPage { first: after + 1, events: events.iter().skip(skip).take(limit).cloned().collect() })
    }

    fn counts(&self) -> Result<Counts, StoreError> {
        self.read(|table, _| table.counts())
    }

    fn health(&self) -> Health {
        Health { backend: "paper", scope: "host", trouble: None, details: Vec::new() }
    }

    fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
