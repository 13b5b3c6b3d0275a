//! Calls that wait: parked answers, and the thread that asks again when the store says so.
//!
//! The invariant: a call is answered once, by whoever takes it out of the table: the thread that got an outcome, or
//! the one that was told of an interrupt while it waited. What an interrupted call was granted meanwhile is given back
//! before it is answered. No thread waits for a lock; the queue is the store's, and a wake is a hint.
//!
//! An interrupt may be heard before its call is known here, for the kernel sends it as soon as the request was
//! read. So the last of those that nobody knew are remembered.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Denial, LockService, Requester};
use crate::clock::BootTime;
use crate::lock::{RequestId, WaitId};
use crate::store::{StoreError, Wakes};
use crate::table::{Command, Refusal, Reply};

/// How long one question for wakes is held.
const HOLD: Duration = Duration::from_secs(30);

/// How long to rest where the store can't say who is to wake.
const PAUSE: Duration = Duration::from_millis(100);

/// A call that lasts longer may have been given up.
const LONG: Duration = Duration::from_millis(20);

/// How long a deadlock is doubted: the kernel tells of the last close of a file after close(2) has returned, so that
/// what seems to be held may be let go of already (`fuse_file_put` in fs/fuse/file.c).
const DOUBT: Duration = Duration::from_millis(50);

/// How many interrupts are remembered of calls that nobody knows.
const EARLY_MAX: usize = 1024;

/// Takes the outcome of a call that may wait.
pub type Answer = Box<dyn FnOnce(Result<Reply, Denial>) + Send>;

/// All calls that wait on this mount.
#[derive(Debug, Default)]
pub(super) struct Waiters(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    calls: HashMap<u64, Call>,
    /// Interrupts of calls that were not known when they came, oldest first.
    early: VecDeque<u64>,
    /// Nobody may wait any more.
    is_ending: bool,
}

struct Call {
    who: Requester,
    command: Arc<Command>,
    answer: Answer,
    /// Its caller was interrupted while the store was asked.
    is_interrupted: bool,
    since: BootTime,
    stage: Stage,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("command", &self.command)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

/// Where a call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A thread asks the store.
    Asking {
        /// It was told to ask again meanwhile.
        again: bool,
        /// It has a place in the queue.
        is_queued: bool,
    },
    /// It has a place in the queue, and waits.
    Parked,
}

/// What a thread is to do that has an outcome.
enum Next {
    Answer(Answer),
    AskAgain,
    GiveBack(Answer),
    Nothing,
}

impl Waiters {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a call was interrupted before it was known here.
    fn was_interrupted(&self, request: u64) -> bool {
        self.table().take_early(request)
    }
}

impl Table {
    fn take_early(&mut self, request: u64) -> bool {
        let place = self.early.iter().rposition(|early| *early == request);
        place.is_some_and(|place| self.early.remove(place).is_some())
    }

    fn note_early(&mut self, request: u64) {
        if self.early.len() == EARLY_MAX {
            self.early.pop_front();
        }
        self.early.push_back(request);
    }

    /// Decides what becomes of a call whose thread got `outcome`.
    fn next(&mut self, request: u64, outcome: &Result<Reply, Denial>) -> Next {
        let Some(call) = self.calls.get_mut(&request) else {
            return Next::Nothing;
        };
        let Stage::Asking { again, is_queued } = call.stage else {
            return Next::Nothing;
        };
        match outcome {
            _ if call.is_interrupted => self.take(request, Next::GiveBack),
            Ok(Reply::Waits) if again => {
                call.stage = Stage::Asking { again: false, is_queued: true };
                Next::AskAgain
            }
            Ok(Reply::Waits) => {
                call.stage = Stage::Parked;
                Next::Nothing
            }
            // Whoever waits already waits on: it is asked for again when the store is back.
            Err(Denial::Store(StoreError::Unavailable(_) | StoreError::Timeout(_))) if is_queued => {
                call.stage = Stage::Parked;
                Next::Nothing
            }
            _ => self.take(request, Next::Answer),
        }
    }

    fn take(&mut self, request: u64, next: fn(Answer) -> Next) -> Next {
        self.calls.remove(&request).map_or(Next::Nothing, |call| next(call.answer))
    }
}

impl LockService {
    /// Carries out a command that may wait, and hands its outcome to `answer`: at once, or later and from another
    /// thread. The command's request number must be the caller's own.
    pub fn wait(&self, who: Requester, request: u64, command: Command, answer: Answer) {
        let command = Arc::new(command);
        {
            let mut table = self.waiters.table();
            if table.is_ending || table.take_early(request) {
                let denial = if table.is_ending { Denial::Ending } else { Denial::Interrupted };
                drop(table);
                return answer(Err(denial));
            }
            let since = self.store.now().boot;
            let stage = Stage::Asking { again: false, is_queued: false };
            table.calls.insert(request, Call { who, command, answer, is_interrupted: false, since, stage });
        }
        self.ask(request);
    }

    /// Asks the store for a call that is in the table, and does what follows from its outcome.
    fn ask(&self, request: u64) {
        let mut is_doubted = true;
        loop {
            let known =
                self.waiters.table().calls.get(&request).map(|call| (call.who, Arc::clone(&call.command)));
            let Some((who, command)) = known else {
                return;
            };
            let outcome = self.step(who, Command::clone(&command));
            if is_doubted && outcome == Err(Denial::Refused(Refusal::Deadlock)) {
                is_doubted = false;
                std::thread::sleep(DOUBT);
                continue;
            }
            let next = self.waiters.table().next(request, &outcome);
            match next {
                Next::Answer(answer) => return answer(outcome),
                Next::GiveBack(answer) => {
                    self.give_back(&command, outcome);
                    return answer(Err(Denial::Interrupted));
                }
                Next::AskAgain => {}
                Next::Nothing => return,
            }
        }
    }

    /// Takes back what a call was given that does not want it any more: the lock, or its place in the queue.
    fn give_back(&self, command: &Command, outcome: Result<Reply, Denial>) {
        let is_waiting = matches!(outcome, Ok(Reply::Waits) | Err(Denial::Store(_)));
        match command {
            Command::Lock { caller, claim, ino, waiting } => {
                if let Some(waiting) = waiting.filter(|_| is_waiting) {
                    self.settle(Command::Withdraw {
                        id: WaitId { mount: caller.mount, request: waiting.request },
                    });
                }
                // Also where nobody knows whether it was granted.
                if outcome == Ok(Reply::Done) || matches!(outcome, Err(Denial::Store(_))) {
                    let (mount, style, key) = (caller.mount, claim.style, claim.key);
                    self.settle(Command::Unlock { mount, ino: *ino, style, key, range: claim.range });
                }
            }
            Command::Await { caller, spot, waiting, .. } => {
                if is_waiting {
                    self.settle(Command::Withdraw {
                        id: WaitId { mount: caller.mount, request: waiting.request },
                    });
                }
                if let Ok(Reply::Entry(made)) = outcome {
                    self.settle(Command::Unlink { caller: caller.clone(), spot: spot.clone() });
                    self.settle(Command::Close { mount: caller.mount, ino: made.ino });
                }
            }
            _ => {}
        }
    }

    /// Carries out a step that nobody waits for; where the store can't, it is owed, and carried out later.
    pub fn settle(&self, command: Command) {
        self.settle_for(None, command);
    }

    /// The same, as a part of the request that `who` made.
    pub fn settle_of(&self, who: Requester, command: Command) {
        self.settle_for(self.request(who), command);
    }

    fn settle_for(&self, request: Option<RequestId>, command: Command) {
        if self.store.execute_for(request, &command).is_err() {
            self.owed.lock().unwrap_or_else(PoisonError::into_inner).push(command);
        }
    }

    /// Carries out what is owed.
    pub(super) fn settle_owed(&self) {
        let owed = std::mem::take(&mut *self.owed.lock().unwrap_or_else(PoisonError::into_inner));
        owed.into_iter().for_each(|command| self.settle(command));
    }

    /// The kernel says that a request's caller was interrupted. A call that waits is answered at once.
    pub fn interrupt(&self, request: u64) {
        let mut table = self.waiters.table();
        let Some(call) = table.calls.get_mut(&request) else {
            return table.note_early(request);
        };
        if call.stage != Stage::Parked {
            // Whoever asks for it gives back what it gets, and answers.
            call.is_interrupted = true;
            return;
        }
        let call = table.calls.remove(&request);
        drop(table);
        if let Some(Call { command, answer, .. }) = call {
            answer(Err(Denial::Interrupted));
            self.give_back(&command, Ok(Reply::Waits));
        }
    }

    /// Whether the caller of a request that was carried out was killed meanwhile, and will never know. One that lasted
    /// long is looked at even where no interrupt was heard: it may come after the answer.
    pub fn was_killed(&self, who: Requester, request: u64, lasted: Duration) -> bool {
        (self.waiters.was_interrupted(request) || lasted >= LONG) && self.processes.is_dying(who.pid)
    }

    /// Ends the waits that are `limit` old: the kernel would end the whole mount for them.
    pub(super) fn end_waits_older_than(&self, limit: Duration) {
        let now = self.store.now().boot;
        self.end_waits(&Denial::WaitedTooLong, |call| now.since(call.since) >= limit);
    }

    /// Ends all waits, for the daemon ends; nobody waits from now on.
    pub fn end_all_waits(&self) {
        self.waiters.table().is_ending = true;
        self.end_waits(&Denial::Ending, |_| true);
    }

    /// Ends parked waits with a denial; their places in the queue go.
    fn end_waits(&self, denial: &Denial, is_meant: impl Fn(&Call) -> bool) {
        let ended: Vec<Call> = {
            let mut table = self.waiters.table();
            let is_meant = |_: &u64, call: &mut Call| call.stage == Stage::Parked && is_meant(call);
            table.calls.extract_if(is_meant).map(|(_, call)| call).collect()
        };
        for Call { command, answer, .. } in ended {
            answer(Err(denial.clone()));
            self.give_back(&command, Ok(Reply::Waits));
        }
    }

    /// Lets a call that waits ask again.
    fn wake(&self, request: u64) {
        {
            let mut table = self.waiters.table();
            let Some(call) = table.calls.get_mut(&request) else {
                return;
            };
            match &mut call.stage {
                Stage::Asking { again, .. } => {
                    *again = true;
                    return;
                }
                Stage::Parked => call.stage = Stage::Asking { again: false, is_queued: true },
            }
        }
        self.ask(request);
    }

    /// Lets all calls that wait ask again, those that came first before the others.
    pub(super) fn wake_all(&self) {
        let mut calls: Vec<(BootTime, u64)> = {
            let table = self.waiters.table();
            table.calls.iter().map(|(request, call)| (call.since, *request)).collect()
        };
        calls.sort_unstable();
        calls.into_iter().for_each(|(_, request)| self.wake(request));
    }

    /// Hears once whom the store wakes.
    fn heed_wakes(&self) -> Result<(), StoreError> {
        match self.store.await_wakes(HOLD)? {
            Wakes::These(ids) => {
                let ours = ids.into_iter().filter(|id| id.mount == self.mount.id);
                ours.for_each(|id| self.wake(id.request));
            }
            Wakes::All => self.wake_all(),
        }
        Ok(())
    }
}

/// The running thread that wakes calls; dropping it stops and joins it.
#[derive(Debug)]
pub struct Waking {
    stop: Arc<AtomicBool>,
    service: Arc<LockService>,
    thread: Option<JoinHandle<()>>,
}

impl Waking {
    /// Begins to wake the calls of `service`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(service: Arc<LockService>) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, asks) = (Arc::clone(&stop), Arc::clone(&service));
        let thread = std::thread::Builder::new().name("lockfs-wait".to_owned()).spawn(move || {
            while !told.load(Ordering::Acquire) {
                if let Err(error) = asks.heed_wakes() {
                    log::debug!("who is to wake is not known for a moment: {error}");
                    std::thread::sleep(PAUSE);
                }
            }
        })?;
        Ok(Self { stop, service, thread: Some(thread) })
    }
}

impl Drop for Waking {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.service.store.end_wakes();
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has been printed by the panic hook; there is nothing to add at the end.
            thread.join().ok();
        }
    }
}
