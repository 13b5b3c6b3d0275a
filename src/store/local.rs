//! A table in this process's memory, behind a mutex, with a journal that keeps what changes.
//!
//! The memory is the truth; the journal is written and read back, never asked. A step is decided under the
//! mutex and appended to the journal in the same order; its caller waits for the journal outside of the
//! mutex, so that look-ups go on while the disk works, and several steps are kept in one write.
//!
//! Lock order: the table before the journal's queue and before the wakes, the journal's own log before its queue.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::gate::{Gate, Passing};
use super::{Health, LockStore, State as Condition, StoreError, Wakes};
use crate::clock::{Clock, Now};
use crate::lock::{Attributes, Event, Ino, Mount, Session, SessionId, Token, Ttl, WaitId, Waiter};
use crate::table::{Change, Command, Counts, Entry, LockTable, New, Outcome, Reply, Spot, View};

/// How many events a store remembers.
const EVENTS_MAX: usize = 10_000;

/// What keeps the changes of a table.
pub trait Journal: Send + Sync + fmt::Debug {
    /// Says before a step is decided whether it could be kept.
    ///
    /// # Errors
    /// [`StoreError`]: it could not; nothing has happened.
    fn admit(&self, command: &Command) -> Result<(), StoreError>;

    /// Queues what `changes` names, as `table` has it at `now`; returns the number of the step. Called in the order
    /// of the steps.
    fn append(&self, table: &LockTable, now: Now, changes: &[Change]) -> u64;

    /// Returns once the step of that number, and all before it, are kept.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`]: it is not kept yet, and will be with a later step; [`StoreError::Failed`],
    /// from then on for every step: the table is ahead of what is kept.
    fn commit(&self, step: u64) -> Result<(), StoreError>;

    /// Keeps everything and stops.
    ///
    /// # Errors
    /// [`StoreError`]: it could not be kept.
    fn close(&self) -> Result<(), StoreError>;

    /// How the journal is.
    fn health(&self) -> Health;
}

/// Some events, and what is known of those before them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventPage {
    /// The number of the first event below; those asked for before it are forgotten.
    pub first: u64,
    /// The events, oldest first.
    pub events: Vec<Event>,
}

/// A table behind a mutex, with a journal.
#[derive(Debug)]
pub struct TableStore<J> {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
    journal: J,
    wakes: Mutex<Vec<WaitId>>,
    ends_wakes: AtomicBool,
    /// Says that there are more of them.
    woken: Condvar,
    /// Says that the gate has changed.
    thawed: Condvar,
}

#[derive(Debug)]
struct State {
    table: LockTable,
    events: VecDeque<Event>,
    /// The number of the oldest event kept.
    first_event: u64,
    gate: Gate,
}

impl<J: Journal> TableStore<J> {
    /// A store of `table`, whose changes go to `journal`.
    pub(super) fn new(table: LockTable, clock: Arc<dyn Clock>, journal: J) -> Self {
        let state = State { table, events: VecDeque::new(), first_event: 1, gate: Gate::default() };
        Self {
            state: Mutex::new(state),
            clock,
            journal,
            wakes: Mutex::default(),
            ends_wakes: AtomicBool::new(false),
            woken: Condvar::new(),
            thawed: Condvar::new(),
        }
    }

    /// The journal.
    pub(super) fn journal(&self) -> &J {
        &self.journal
    }

    /// Asks or tells the gate something, with what the table is then.
    pub(super) fn gate<T>(&self, act: impl FnOnce(&mut Gate, &LockTable, Now) -> T) -> Result<T, StoreError> {
        let mut state = self.state()?;
        let State { gate, table, .. } = &mut *state;
        let answer = act(gate, table, self.clock.now());
        self.thawed.notify_all();
        Ok(answer)
    }

    /// The table, once a step may pass.
    fn passed(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let mut state = self.state()?;
        loop {
            match state.gate.passing(self.clock.now().boot) {
                Passing::Now => return Ok(state),
                Passing::Never(why) => return Err(StoreError::Unavailable(why)),
                Passing::After(wait) => {
                    let waited = self.thawed.wait_timeout(state, wait);
                    state = waited.map_err(|_| bug())?.0;
                }
            }
        }
    }

    /// What is asked of the table: of one that is closed nobody knows what is true by now.
    fn ask<T>(&self, ask: impl FnOnce(&LockTable, Now) -> T) -> Result<T, StoreError> {
        let state = self.state()?;
        match state.gate.closed() {
            Some(why) => Err(StoreError::Unavailable(why.to_owned())),
            None => Ok(ask(&state.table, self.clock.now())),
        }
    }

    /// A panic under the mutex may have left a step half done: from then on the store has failed.
    fn state(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        self.state.lock().map_err(|_| bug())
    }

    /// Takes back an acquire that was not kept: its caller is told that it has not got the lock.
    fn undo(&self, command: &Command, outcome: &Outcome) {
        let (caller, spot, is_directory) = match (command, outcome) {
            (Command::Acquire { caller, spot, new, .. }, Ok(Reply::Entry(_))) => {
                (caller.clone(), spot.clone(), *new == New::Directory)
            }
            (Command::Await { caller, spot, .. }, Ok(Reply::Entry(_))) => {
                (caller.clone(), spot.clone(), false)
            }
            _ => return,
        };
        let release = match is_directory {
            true => Command::Rmdir { caller, spot },
            false => Command::Unlink { caller, spot },
        };
        if let Ok(mut state) = self.state() {
            let now = self.clock.now();
            let step = state.table.execute(now, &release);
            state.remember(step.events);
            state.gate.note(&step.changes, now.boot);
            self.tell(step.wakes);
            self.journal.append(&state.table, now, &step.changes);
        }
    }

    fn tell(&self, wakes: Vec<WaitId>) {
        if !wakes.is_empty() {
            self.wakes.lock().unwrap_or_else(PoisonError::into_inner).extend(wakes);
            self.woken.notify_all();
        }
    }

    /// Does something to the table besides the steps of the law, and keeps what it says that it changed.
    pub(super) fn amend<T>(
        &self,
        act: impl FnOnce(&mut LockTable, Now) -> (Vec<Change>, T),
    ) -> Result<T, StoreError> {
        let (answer, kept) = {
            let mut state = self.state()?;
            let now = self.clock.now();
            let (changes, answer) = act(&mut state.table, now);
            let kept = match changes.as_slice() {
                [] => None,
                changes => Some(self.journal.append(&state.table, now, changes)),
            };
            (answer, kept)
        };
        kept.map_or(Ok(()), |number| self.journal.commit(number))?;
        Ok(answer)
    }

    pub(super) fn read<T>(&self, ask: impl FnOnce(&LockTable, Now) -> T) -> Result<T, StoreError> {
        let state = self.state()?;
        Ok(ask(&state.table, self.clock.now()))
    }
}

/// A step panicked under the mutex.
fn bug() -> StoreError {
    StoreError::Failed("a step ended in a bug: restart lockfs, and report it with the log".to_owned())
}

impl State {
    fn remember(&mut self, events: Vec<Event>) {
        self.events.extend(events);
        let excess = self.events.len().saturating_sub(EVENTS_MAX);
        self.events.drain(..excess);
        self.first_event += excess as u64;
    }
}

impl<J: Journal> LockStore for TableStore<J> {
    fn execute(&self, command: &Command) -> Result<Outcome, StoreError> {
        self.journal.admit(command)?;
        let (outcome, kept) = {
            let mut state = self.passed()?;
            let now = self.clock.now();
            let step = state.table.execute(now, command);
            step.events.iter().for_each(|event| log::debug!("{event}"));
            state.remember(step.events);
            state.gate.note(&step.changes, now.boot);
            self.tell(step.wakes);
            let kept = match step.changes.as_slice() {
                [] => None,
                changes => Some(self.journal.append(&state.table, now, changes)),
            };
            (step.outcome, kept)
        };
        if let Some(number) = kept
            && let Err(error) = self.journal.commit(number)
        {
            self.undo(command, &outcome);
            return Err(error);
        }
        Ok(outcome)
    }

    fn now(&self) -> Now {
        self.clock.now()
    }

    fn lookup(&self, spot: &Spot) -> Result<Option<Attributes>, StoreError> {
        self.ask(|table, now| table.lookup(now, spot))
    }

    fn stat(&self, ino: Ino) -> Result<Option<Attributes>, StoreError> {
        // `.lockfs/status` stands in the root, and says why it is closed.
        if ino == Ino::ROOT {
            return self.read(|table, now| table.stat(now, ino));
        }
        self.ask(|table, now| table.stat(now, ino))
    }

    fn view(&self, ino: Ino) -> Result<Option<View>, StoreError> {
        self.ask(|table, now| table.view(now, ino))
    }

    fn list(&self, ino: Ino, after: Option<Token>, limit: usize) -> Result<Option<Vec<Entry>>, StoreError> {
        self.ask(|table, now| table.list(now, ino, after, limit))
    }

    fn list_held(
        &self,
        id: &SessionId,
        ino: Ino,
        after: Option<Token>,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.ask(|table, now| table.list_held(now, id, ino, after, limit))
    }

    fn session(&self, id: &SessionId) -> Result<Option<Session>, StoreError> {
        self.ask(|table, now| table.session(now, id))
    }

    fn session_by_number(&self, ino: Ino) -> Result<Option<Session>, StoreError> {
        self.ask(|table, now| table.session_by_number(now, ino))
    }

    fn list_sessions(&self, after: Option<Ino>, limit: usize) -> Result<Vec<Session>, StoreError> {
        self.ask(|table, now| table.list_sessions(now, after, limit))
    }

    fn shortest_ttls(&self, ids: &[SessionId]) -> Result<Vec<Option<Ttl>>, StoreError> {
        self.ask(|table, _| ids.iter().map(|id| table.shortest_ttl(id)).collect())
    }

    fn queue(&self, spot: &Spot) -> Result<Vec<Waiter>, StoreError> {
        self.ask(|table, now| table.queue(now, spot))
    }

    fn mounts(&self) -> Result<Vec<Mount>, StoreError> {
        self.read(|table, _| table.mounts())
    }

    fn await_wakes(&self, limit: Duration) -> Result<Wakes, StoreError> {
        let wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |wakes: &mut Vec<WaitId>| wakes.is_empty() && !self.ends_wakes.load(Ordering::Acquire);
        let waited = self.woken.wait_timeout_while(wakes, limit, waits);
        let (mut wakes, _) = waited.unwrap_or_else(PoisonError::into_inner);
        Ok(Wakes::These(std::mem::take(&mut wakes)))
    }

    fn end_wakes(&self) {
        let _wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner);
        self.ends_wakes.store(true, Ordering::Release);
        self.woken.notify_all();
    }

    fn events(&self, after: u64, limit: usize) -> Result<EventPage, StoreError> {
        let state = self.state()?;
        let first = state.first_event.max(after + 1);
        let skip = usize::try_from(first - state.first_event).unwrap_or(usize::MAX);
        Ok(EventPage { first, events: state.events.iter().skip(skip).take(limit).cloned().collect() })
    }

    fn counts(&self) -> Result<Counts, StoreError> {
        self.read(|table, _| table.counts())
    }

    fn health(&self) -> Health {
        let mut health = self.journal.health();
        if let Ok(Some(why)) = self.gate(|gate, _, _| gate.closed().map(str::to_owned)) {
            health.state = Condition::Failed(why);
        }
        match self.counts() {
            Ok(counts) => Health { counts: Some(counts), ..health },
            Err(error) => Health { state: Condition::Failed(error.to_string()), ..health },
        }
    }

    fn close(&self) -> Result<(), StoreError> {
        self.journal.close()
    }
}
