//! A table in this process's memory, behind a mutex, with a journal that keeps what changes.
//!
//! The memory is the truth; the journal is written and read back, never asked. A step is decided under the
//! mutex and appended to the journal in the same order; its caller waits for the journal outside of the
//! mutex, so that look-ups go on while the disk works, and several steps are kept in one write.
//!
//! Lock order: the table before the seats, the journal's queue and the wakes, the journal's own log before its queue.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::gate::{Gate, Passing};
use super::seats::{Answered, Answers, SeatId, Seats};
use super::{Health, LockStore, State as Condition, StoreError, Wakes};
use crate::clock::{Clock, Now};
use crate::lock::{
    Attributes, Claim, Event, Ino, Mount, MountId, RequestId, Session, SessionId, Token, Ttl, WaitId, Waiter,
};
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

    /// Queues what `changes` names, as `table` has it at `now`, and what is remembered in some seats; returns the number
    /// of the step. Called in the order of the steps.
    fn append(&self, table: &LockTable, now: Now, changes: &[Change], seats: &[Seated<'_>]) -> u64;

    /// Returns once the step of that number, and all before it, are kept.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`]: it is not kept yet, and will be with a later step; [`StoreError::Failed`],
    /// from then on for every step: the table is ahead of what is kept.
    fn commit(&self, step: u64) -> Result<(), StoreError>;

    /// Returns once all that is queued is kept.
    ///
    /// # Errors
    /// As [`Self::commit`].
    fn flush(&self) -> Result<(), StoreError>;

    /// Keeps everything and stops.
    ///
    /// # Errors
    /// [`StoreError`]: it could not be kept.
    fn close(&self) -> Result<(), StoreError>;

    /// How the journal is.
    fn health(&self) -> Health;
}

/// A seat, and what is remembered in it from now on.
pub(super) type Seated<'a> = (SeatId, Option<&'a Answered>);

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
    seats: Seats,
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
    answers: Answers,
    gate: Gate,
}

impl<J: Journal> TableStore<J> {
    /// A store of `table`, whose changes go to `journal`.
    pub(super) fn new(table: LockTable, clock: Arc<dyn Clock>, journal: J, answered: Vec<Answered>) -> Self {
        let answers = Answers::new(table.last_token().epoch(), clock.now().boot, answered);
        let state = State { table, events: VecDeque::new(), first_event: 1, answers, gate: Gate::default() };
        Self {
            state: Mutex::new(state),
            clock,
            journal,
            seats: Seats::default(),
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

    /// Takes back what was given and not kept: its caller is told that it has not got it.
    fn undo(&self, command: &Command, outcome: &Outcome, seat: Option<SeatId>) {
        let mut undo = Vec::new();
        match (command, outcome) {
            (Command::Acquire { caller, spot, new: New::Directory, .. }, Ok(Reply::Entry(_))) => {
                undo.push(Command::Rmdir { caller: caller.clone(), spot: spot.clone() });
            }
            (
                Command::Acquire { caller, spot, .. } | Command::Await { caller, spot, .. },
                Ok(Reply::Entry(made)),
            ) => {
                undo.push(Command::Unlink { caller: caller.clone(), spot: spot.clone() });
                // Nobody will close it.
                undo.push(Command::Close { mount: caller.mount, ino: made.ino });
            }
            (Command::Lock { caller, ino, claim, .. }, Ok(Reply::Done)) => {
                let Claim { style, key, range, .. } = *claim;
                undo.push(Command::Unlock { mount: caller.mount, ino: *ino, style, key, range });
            }
            (
                Command::Lock { caller, waiting: Some(waiting), .. } | Command::Await { caller, waiting, .. },
                Ok(Reply::Waits),
            ) => {
                let id = WaitId { mount: caller.mount, request: waiting.request };
                undo.push(Command::Withdraw { id });
            }
            _ => {}
        }
        if let Ok(mut state) = self.state() {
            let now = self.clock.now();
            let mut changes = Vec::new();
            for command in &undo {
                let step = state.table.execute(now, command);
                state.remember(step.events);
                state.gate.note(&step.changes, now.boot);
                self.tell(step.wakes);
                changes.extend(step.changes);
            }
            let seats: Vec<Seated<'_>> = seat.map(|seat| (seat, None)).into_iter().collect();
            seat.into_iter().for_each(|seat| state.answers.forget(seat));
            self.journal.append(&state.table, now, &changes, &seats);
        }
    }

    /// What a request was answered when it was carried out, if it was.
    pub(super) fn first_outcome(
        &self,
        request: Option<RequestId>,
        command: &Command,
    ) -> Result<Option<Reply>, StoreError> {
        let Some(request) = request else {
            return Ok(None);
        };
        Ok(self.state()?.answers.first(request, command.number()))
    }

    /// What is to be remembered of a step: nothing where it gave and changed nothing, for it may be decided anew then.
    fn answered(
        &self,
        state: &State,
        request: Option<RequestId>,
        command: &Command,
        outcome: &Outcome,
        changes: &[Change],
    ) -> Option<Answered> {
        let (request, reply) = (request?, outcome.as_ref().ok()?);
        // Who waits asks again in any case; and a lock of an open file is had once, and let go of once, however often that
        // is asked.
        let is_once = matches!(command, Command::Lock { .. } | Command::Unlock { .. });
        if changes.is_empty() || *reply == Reply::Waits || is_once {
            return None;
        }
        let seat = state.answers.seat(self.seats.take(request));
        Some(Answered { seat, request, step: command.number(), reply: reply.clone() })
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
                changes => Some(self.journal.append(&state.table, now, changes, &[])),
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

/// Whether a step lets go of something or notes that it is used, and is not carried out twice where it was carried out
/// once.
fn only_lets_go(command: &Command) -> bool {
    matches!(
        command,
        Command::Open { .. }
            | Command::Close { .. }
            | Command::Unlock { .. }
            | Command::Withdraw { .. }
            | Command::Leave { .. }
    )
}

/// A step panicked under the mutex.
fn bug() -> StoreError {
    StoreError::Failed("a step ended in a bug: restart lockfs, and report it with the log".to_owned())
}

impl State {
    /// Forgets what no request is asked for any more.
    fn forget_old(&mut self, now: Now, command: &Command) -> Vec<SeatId> {
        match command {
            Command::Leave { mounts } => self.answers.forget_old(now.boot, mounts),
            Command::Sweep { .. } => self.answers.forget_old(now.boot, &[]),
            _ => Vec::new(),
        }
    }

    fn remember(&mut self, events: Vec<Event>) {
        self.events.extend(events);
        let excess = self.events.len().saturating_sub(EVENTS_MAX);
        self.events.drain(..excess);
        self.first_event += excess as u64;
    }
}

impl<J: Journal> LockStore for TableStore<J> {
    fn execute_for(&self, request: Option<RequestId>, command: &Command) -> Result<Outcome, StoreError> {
        if let Some(reply) = self.first_outcome(request, command)? {
            return Ok(Ok(reply));
        }
        self.journal.admit(command)?;
        let (outcome, kept, seat) = {
            let mut state = self.passed()?;
            let now = self.clock.now();
            let step = state.table.execute(now, command);
            step.events.iter().for_each(|event| log::debug!("{event}"));
            state.remember(step.events);
            state.gate.note(&step.changes, now.boot);
            self.tell(step.wakes);
            let answered = self.answered(&state, request, command, &step.outcome, &step.changes);
            let old = state.forget_old(now, command);
            let mut seats: Vec<Seated<'_>> = old.into_iter().map(|seat| (seat, None)).collect();
            seats.extend(answered.as_ref().map(|answered| (answered.seat, Some(answered))));
            let kept = match step.changes.is_empty() && seats.is_empty() {
                true => None,
                false => Some(self.journal.append(&state.table, now, &step.changes, &seats)),
            };
            let seat = answered.as_ref().map(|answered| answered.seat);
            answered.into_iter().for_each(|answered| state.answers.remember(answered));
            (step.outcome, kept, seat)
        };
        let kept = match (command, kept) {
            // Nobody waits for a close, and a write of its own would be felt at each acquire: it is kept with the next
            // step, or with the next sweep. Should the daemon be killed before, its successor takes the file for open
            // until it is told better (`recall_opens`).
            (Command::Close { .. }, _) => Ok(()),
            (Command::Sweep { .. }, _) => self.journal.flush(),
            (_, kept) => kept.map_or(Ok(()), |number| self.journal.commit(number)),
        };
        match kept {
            Ok(()) => Ok(outcome),
            // It is so, and is kept with a later step: that the disk is full is no reason not to let go of things.
            Err(StoreError::NoSpace) if only_lets_go(command) => Ok(outcome),
            Err(error) => {
                self.undo(command, &outcome, seat);
                Err(error)
            }
        }
    }

    fn recall_opens(&self, mount: MountId, opens: &[(Ino, u64)], ended: &[u64]) -> Result<(), StoreError> {
        // What was opened and may not have been answered will be asked for again, and is no handle yet.
        let is_known =
            |number: u64| ended.contains(&number) || opens.iter().any(|(_, request)| *request == number);
        let unanswered = self.state()?.answers.opened(mount);
        let unanswered = unanswered.into_iter().filter(|(_, number)| !is_known(*number));
        let mut counts = BTreeMap::new();
        for (ino, _) in opens.iter().copied().chain(unanswered) {
            *counts.entry(ino).or_insert(0) += 1;
        }
        self.amend(|table, now| (table.close_but(now, mount, &counts), ()))
    }

    fn remembers(&self, request: RequestId) -> Result<bool, StoreError> {
        Ok(self.state()?.answers.has(request))
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
