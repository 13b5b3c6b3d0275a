//! The keeper: the thread that says that this host is there, brings a server back that was gone, sees to it that
//! nothing is granted on data that may have lost something, and undoes what nobody knows the outcome of.
//!
//! The order in which a server comes back: a connection to the primary; what went of it in parts is mended;
//! the namespace is there, or is founded anew; the epoch is above all that was given; this host has said what it holds; then requests go on.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::advisory;
use super::codec::Reader;
use super::copies::{Copies, Learn};
use super::requests::{Generation, Gives, Patience, Requests, unreadable};
use super::script::Script;
use super::undo::Undo;
use super::waker::Waker;
use crate::lock::{Attributes, Ino};
use crate::store::StoreError;
use crate::store::migrate::Closing;
use crate::table::Counts;

/// How often this host says that it is there.
const PERIOD: Duration = Duration::from_secs(1);

/// How often a server that is gone is tried.
const RETRY: Duration = Duration::from_millis(100);

/// A host that was not heard of for so long is not waited for when data may have been lost.
const SILENCE: Duration = Duration::from_secs(30);

/// For how long the name of a host stays taken that is not heard of any more.
const TAKEN: Duration = Duration::from_secs(15);

/// For how long hosts may say what they hold where the same data is served by another, or after a restart. Who
/// does not within this time can't reach the server.
const SETTLING: Duration = Duration::from_secs(5);

/// How many locks are said again in one step, and with how many bytes.
const CLAIMS: usize = 200;
const CLAIM_BYTES: usize = 1 << 20;

/// One host of the namespace.
#[derive(Clone, Debug)]
pub(super) struct Neighbour {
    pub(super) name: String,
    /// How long ago it was heard of.
    pub(super) silent: Duration,
}

/// How far an undo is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// The primary has it.
    Done,
    /// As many replicas as a grant needs have it.
    Replicated,
}

/// What the keeper keeps.
#[derive(Debug)]
pub(super) struct Keeper {
    requests: Arc<Requests>,
    copies: Arc<Mutex<Copies>>,
    waker: Arc<Waker>,
    host: String,
    /// The machine, and what no other daemon has.
    who: String,
    owner: (u32, u32),
    /// For how long hosts may say what they hold where the namespace was lost: as long as any lock would live.
    window: Duration,
    memory: Memory,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    hosts: Vec<Neighbour>,
    /// How many, and how often, as the server last said.
    counts: Option<Counts>,
    /// How many replicas the server last had.
    replicas: Option<u32>,
    /// The root, as it was last seen.
    root: Option<Attributes>,
    /// Of which data, and in which epoch, this host has said what it holds.
    settled: Option<(Generation, u32)>,
    /// Whether it has said so since those who wait were last told.
    has_spoken: bool,
    trouble: Option<String>,
    /// In which data this daemon has said where its answers are.
    succeeded: Option<Generation>,
}

/// In which epoch a server gives tokens.
#[derive(Clone, Debug)]
struct Epoch {
    number: u32,
    /// The identity of its data since it last started, or was promoted.
    history: String,
    /// Whether it is that of a server before this one, and must rise.
    is_of_another_server: bool,
}

impl Keeper {
    pub(super) fn new(
        requests: Arc<Requests>,
        copies: Arc<Mutex<Copies>>,
        waker: Arc<Waker>,
        (host, who): (&str, String),
        owner: (u32, u32),
        window: Duration,
        memory: Memory,
    ) -> Self {
        let (host, state) = (host.to_owned(), Mutex::default());
        Self { requests, copies, waker, host, who, owner, window, memory, state }
    }

    fn state<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn copies<T>(&self, act: impl FnOnce(&mut Copies) -> T) -> T {
        act(&mut self.copies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The hosts of the namespace, this one too.
    pub(super) fn hosts(&self) -> Vec<Neighbour> {
        self.state(|state| state.hosts.clone())
    }

    /// Whether another host was heard of when the server was.
    pub(super) fn has_others(&self) -> bool {
        self.state(|state| state.hosts.iter().any(|host| host.name != self.host && host.silent < SILENCE))
    }

    /// How many, and how often; at most a second old while the server answers.
    pub(super) fn counts(&self) -> Option<Counts> {
        self.state(|state| state.counts)
    }

    /// How many replicas the server has; at most a second old while it answers.
    pub(super) fn replicas(&self) -> Option<u32> {
        self.state(|state| state.replicas)
    }

    /// The root of the tree; at most a second old while the server answers.
    pub(super) fn root(&self) -> Option<Attributes> {
        self.state(|state| state.root)
    }

    /// Notes what the root looks like.
    pub(super) fn see_root(&self, attributes: Attributes) {
        self.state(|state| state.root = Some(attributes));
    }

    /// What is wrong with this host's place in the namespace.
    pub(super) fn trouble(&self) -> Option<String> {
        self.state(|state| state.trouble.clone())
    }

    /// Goes on until the store is closed.
    pub(super) fn run(&self) {
        let mut pause = PERIOD;
        while self.requests.rest(pause) {
            let round = self.round();
            let is_gone = self.requests.known(|known| known.gone.is_some());
            pause = if is_gone || self.requests.undo.len() > 0 || self.copies(|copies| copies.is_owing()) {
                RETRY
            } else {
                PERIOD
            };
            let trouble = match round {
                Err(StoreError::Failed(why)) => Some(why),
                Err(error @ StoreError::NoSpace) => Some(error.to_string()),
                _ => None,
            };
            let is_new =
                self.state(|state| std::mem::replace(&mut state.trouble, trouble.clone()) != trouble);
            if let Some(why) = trouble.filter(|_| is_new) {
                log::error!("{why}");
            }
        }
    }

    fn round(&self) -> Result<(), StoreError> {
        if let Err(error) = self.settle() {
            if let StoreError::Unavailable(why) | StoreError::Timeout(why) = &error {
                self.requests.note_gone(why);
            }
            return Err(error);
        }
        self.requests.regain();
        if self.state(|state| std::mem::take(&mut state.has_spoken)) {
            // What was told through the server as it was may be lost.
            self.waker.tell_all(&self.requests);
        }
        self.undo_all()?;
        advisory::pay_debts(&self.requests, &self.copies)?;
        self.look_at_root()?;
        for ino in self.copies(Copies::take_suspects) {
            self.confirm(ino)?;
        }
        advisory::tell_opens(&self.requests, &self.copies, Patience::None)?;
        Ok(())
    }

    /// Says that this host is there, and sees to the data.
    ///
    /// # Errors
    /// [`StoreError`]: the server is not there, or not to be used.
    pub(super) fn settle(&self) -> Result<(), StoreError> {
        if self.requests.known(|known| known.generation.is_none()) {
            self.found()?;
        }
        if self.requests.known(|known| known.is_damaged) {
            self.mend()?;
        }
        let mut epoch = match self.tell(b"")? {
            Some(epoch) => epoch,
            // It has lost the namespace, or has another one of that name.
            None => {
                self.found()?;
                self.tell(b"")?
                    .ok_or_else(|| StoreError::Unavailable("redis loses what it is told".to_owned()))?
            }
        };
        let generation = self.requests.known(|known| known.generation).unwrap_or_default();
        if epoch.is_of_another_server {
            epoch = self.raise_epoch()?;
        }
        if self.state(|state| state.settled) != Some((generation, epoch.number)) {
            self.reassert()?;
            // Another server may have come while we spoke.
            epoch = self.raise_epoch()?;
            self.state(|state| {
                state.has_spoken |= state.settled.is_some();
                state.settled = Some((generation, epoch.number));
            });
            self.memory.write(&generation, epoch.number, self.requests.known(|known| known.last_event));
        }
        self.succeed()?;
        self.requests.known(|known| {
            known.epoch = known.epoch.max(epoch.number);
            known.settled = Some(epoch.history);
        });
        Ok(())
    }

    /// Says where this daemon's answers are, and hears those of the daemon before it.
    fn succeed(&self) -> Result<(), StoreError> {
        let generation = self.requests.known(|known| known.generation).unwrap_or_default();
        if self.state(|state| state.succeeded) == Some(generation) {
            return Ok(());
        }
        let succession = &self.requests.succession;
        if succession.is_unasked() {
            // What the daemon before this one did not know the outcome of is no outcome.
            self.undo_all()?;
        }
        let mount = succession.mount().to_string();
        let before: &[u8] = if succession.is_unasked() { b"1" } else { b"" };
        let args: [&[u8]; 4] = [&generation, mount.as_bytes(), self.requests.answers(), before];
        let answer = self.requests.run(Script::Succeed, &args)?;
        let Some((b'K', rest)) = answer.split_first() else {
            return Err(StoreError::Unavailable("redis has lost the namespace".to_owned()));
        };
        let mut reader = Reader::new(rest);
        let now = reader.time().map_err(unreadable)?;
        reader.byte().map_err(unreadable)?;
        if succession.is_unasked() {
            succession.learn(&mut reader).map_err(unreadable)?;
            // What the daemon before told under its numbers is not to be taken for later than what this one tells.
            self.copies(|copies| copies.begin_above(now));
        }
        self.state(|state| state.succeeded = Some(generation));
        Ok(())
    }

    /// Has the namespace mended. Where that is not possible it has no head any more, as if all had been lost.
    fn mend(&self) -> Result<(), StoreError> {
        let generation = self.requests.known(|known| known.generation).unwrap_or_default();
        match self.requests.run(Script::Mend, &[&generation])?.first() {
            Some(b'K') => log::warn!("a part of the data of redis went, and was made anew from the rest"),
            _ => log::warn!("a part of the data of redis went, and its hosts say again what they hold"),
        }
        self.requests.known(|known| known.is_damaged = false);
        Ok(())
    }

    /// Tells the others of this host, and hears of them; returns the epoch, or `None` where the data is not what
    /// it was.
    fn tell(&self, word: &[u8]) -> Result<Option<Epoch>, StoreError> {
        let taken = TAKEN.as_micros().to_string();
        let generation = self.requests.known(|known| known.generation).unwrap_or_default();
        let (host, who, answers) = (self.host.as_bytes(), self.who.as_bytes(), self.requests.answers());
        let last = self.requests.known(|known| known.last_event).to_string();
        let mount = self.requests.succession.mount().to_string();
        let args: [&[u8]; 8] =
            [&generation, host, who, taken.as_bytes(), answers, word, last.as_bytes(), mount.as_bytes()];
        let answer = self.requests.run(Script::Host, &args)?;
        let mut reader = match answer.split_first() {
            Some((b'K', rest)) => Reader::new(rest),
            Some((b'B', other)) => {
                let other = String::from_utf8_lossy(other);
                return Err(StoreError::Failed(format!(
                    "another machine is called {} in this namespace ({}): say --host-id",
                    self.host,
                    other.split(' ').next().unwrap_or_default()
                )));
            }
            _ => return Ok(None),
        };
        reader.time().map_err(unreadable)?;
        let is_settled = reader.byte().map_err(unreadable)? == 0;
        if reader.is_empty() {
            return Ok(None);
        }
        let number = reader.u32().map_err(unreadable)?;
        let is_of_another_server = reader.byte().map_err(unreadable)? == 0;
        let history = String::from_utf8_lossy(reader.short().map_err(unreadable)?).into_owned();
        let epoch = Epoch { number, history, is_of_another_server };
        let replicas = reader.u32().map_err(unreadable)?;
        let last_event = reader.number().map_err(unreadable)?;
        self.requests.known(|known| known.last_event = known.last_event.max(last_event));
        let counts = reader.counts().map_err(unreadable)?;
        let closed = reader.long().map_err(unreadable)?;
        let closed = if closed.is_empty() { None } else { Some(Closing::shown(closed)) };
        let was_closed = self.requests.known(|known| std::mem::replace(&mut known.closed, closed.clone()));
        if let Some(why) = closed.filter(|_| was_closed.is_none()) {
            log::warn!("nothing is granted here any more: {why}");
        }
        let mut hosts = Vec::new();
        while !reader.is_empty() {
            let name = String::from_utf8_lossy(reader.long().map_err(unreadable)?).into_owned();
            let silent = Duration::from_micros(reader.number().unwrap_or_default());
            hosts.push(Neighbour { name, silent });
        }
        self.state(|state| {
            if !is_settled {
                // Data was lost, and not all may have said yet that they are there: they are still waited for.
                let mut silent = std::mem::take(&mut state.hosts);
                silent.retain(|old| !hosts.iter().any(|host| host.name == old.name));
                hosts.extend(silent);
            }
            state.hosts = hosts;
            state.replicas = Some(replicas);
            state.counts = Some(counts);
        });
        Ok(Some(epoch))
    }

    /// Founds the namespace, or finds it; where this host knows that there was one, its data was lost.
    fn found(&self) -> Result<(), StoreError> {
        // What has moved does not begin anew here, whatever this server has lost.
        if let Some(why) = self.requests.known(|known| known.closed.clone()) {
            return Err(StoreError::Unavailable(why));
        }
        let past = self
            .requests
            .known(|known| known.generation.map(|known_as| (known_as, known.epoch, known.last_event)));
        let is_new_here = past.is_none();
        let past = past.or_else(|| self.memory.read());
        let (known_as, epoch, event) = past.unwrap_or_default();
        let window = if past.is_some() { self.window } else { Duration::ZERO };
        let generation: Generation =
            crate::store::random().map_err(|error| StoreError::Failed(error.to_string()))?;
        let (uid, gid) = (self.owner.0.to_string(), self.owner.1.to_string());
        let numbers = [epoch.to_string(), event.to_string(), uid, gid, window.as_micros().to_string()];
        let mut args: Vec<&[u8]> = vec![&generation];
        args.extend(numbers.iter().map(String::as_bytes));
        args.push(if past.is_some() { &known_as } else { b"" });
        let hosts = self.hosts();
        let awaited = hosts.iter().filter(|host| host.silent < SILENCE && host.name != self.host);
        args.extend(awaited.map(|host| host.name.as_bytes()));
        args.push(self.host.as_bytes());
        if is_new_here {
            // Hosts may have come while this one had no daemon.
            args.push(b"?");
        }
        let answer = self.requests.run(Script::Found, &args)?;
        let Some(found) = answer.strip_prefix(b"K").and_then(|found| Generation::try_from(found).ok()) else {
            return Err(StoreError::Failed("redis does not say which namespace it has".to_owned()));
        };
        if past.is_some() && found != known_as {
            log::warn!(
                "redis has lost the namespace: hosts say what they hold, before anything else is granted"
            );
        }
        self.requests.known(|known| known.generation = Some(found));
        Ok(())
    }

    /// Makes sure that tokens go on above all that were given, whatever server answers now.
    fn raise_epoch(&self) -> Result<Epoch, StoreError> {
        let (generation, epoch) =
            self.requests.known(|known| (known.generation.unwrap_or_default(), known.epoch));
        let numbers = [epoch.to_string(), SETTLING.as_micros().to_string(), SILENCE.as_micros().to_string()];
        let mut args: Vec<&[u8]> = vec![&generation];
        args.extend(numbers.iter().map(String::as_bytes));
        let answer = self.requests.run(Script::Epoch, &args)?;
        match answer.split_first() {
            Some((b'K', rest)) if rest.len() > 4 => {
                let number = Reader::new(rest).u32().map_err(unreadable)?;
                let history = String::from_utf8_lossy(&rest[4..]).into_owned();
                Ok(Epoch { number, history, is_of_another_server: false })
            }
            _ => Err(StoreError::Unavailable("redis has lost the namespace".to_owned())),
        }
    }

    /// Says again what this host holds, and what it has released.
    fn reassert(&self) -> Result<(), StoreError> {
        let now = self.requests.now();
        let claims = self.copies(|copies| copies.claims(now));
        let mut rest = claims.as_slice();
        loop {
            let mut bytes = 0;
            let fits = |claim: &&[Vec<u8>; 4]| {
                bytes += claim.iter().map(Vec::len).sum::<usize>();
                bytes <= CLAIM_BYTES
            };
            let count = rest.iter().take(CLAIMS).take_while(fits).count().max(1).min(rest.len());
            let (some, others) = rest.split_at(count);
            let word: &[u8] = if others.is_empty() { b"all" } else { b"more" };
            let mut args: Vec<&[u8]> = vec![self.host.as_bytes(), word];
            args.extend(some.iter().flatten().map(Vec::as_slice));
            let answer = self.requests.step_with(Script::Reassert, &args, Gives::Nothing, Patience::None)?;
            let mut reader = Reader::new(&answer.text);
            reader.byte().map_err(unreadable)?;
            let back = reader.number().map_err(unreadable)?;
            self.requests.meters.reasserted.add(back);
            if back > 0 {
                log::warn!("redis had lost what this host holds, and has it again locks={back}");
            }
            let changes = reader.changes().map_err(unreadable)?;
            let lost = self.copies(|copies| copies.count_lost(&changes));
            if lost > 0 {
                log::warn!("advisory locks were lost with the data of redis files={lost}");
            }
            self.copies(|copies| copies.learn(&changes, answer.now, Learn::All)).map_err(unreadable)?;
            self.requests.tap.tell(&changes, answer.now);
            if others.is_empty() {
                return Ok(());
            }
            rest = others;
        }
    }

    /// Undoes what is on the list, at this server and at as many replicas as a grant needs.
    fn undo_all(&self) -> Result<(), StoreError> {
        let list = &self.requests.undo;
        if list.len() == 0 {
            return Ok(());
        }
        let epoch = self.requests.known(|known| known.epoch);
        for undo in list.to_do(epoch) {
            if self.undo(&undo, Until::Done)? {
                self.requests.meters.undone.count();
                log::info!("undid an acquire whose outcome nobody knew");
            }
            list.note(&undo, epoch);
        }
        // Undoing one again is a write behind all the others: who has it has them.
        let has_replicas = match list.done(epoch) {
            Some(undo) => self.undo(&undo, Until::Replicated)?,
            None => false,
        };
        // Another server may have come while we spoke: it was not told of all.
        if has_replicas && self.raise_epoch()?.number == epoch {
            list.remove_done(epoch);
        }
        Ok(())
    }

    /// Undoes one; whether it was of this data, and is done so far.
    fn undo(&self, undo: &Undo, until: Until) -> Result<bool, StoreError> {
        let generation = self.requests.known(|known| known.generation).unwrap_or_default();
        if undo.generation != generation {
            return Ok(until == Until::Replicated);
        }
        let (seat, request) = (undo.seat.to_string(), undo.request.to_string());
        let args: [&[u8]; 5] = [&generation, b"0", &undo.answers, seat.as_bytes(), request.as_bytes()];
        let (answer, is_done) = match until {
            Until::Done => (self.requests.run(Script::Undo, &args)?, true),
            Until::Replicated => self.requests.run_replicated(Script::Undo, &args)?,
        };
        match answer.first() {
            Some(b'K') => Ok(is_done),
            _ => Err(StoreError::Unavailable("redis could not undo an acquire".to_owned())),
        }
    }

    fn look_at_root(&self) -> Result<(), StoreError> {
        let root = Ino::ROOT.as_u64().to_be_bytes();
        let seen = self.requests.look_with(Script::Look, &[&root], Patience::None)?;
        if !seen.text.is_empty() {
            self.see_root(Reader::new(&seen.text).found_with_record().map_err(unreadable)?.0);
        }
        Ok(())
    }

    fn confirm(&self, ino: Ino) -> Result<(), StoreError> {
        let seen = self.requests.look_with(Script::Look, &[&ino.as_u64().to_be_bytes()], Patience::None)?;
        if seen.text.is_empty() && !seen.is_settled {
            return Ok(());
        }
        let record = Reader::new(&seen.text).found_record().map_err(unreadable)?;
        self.copies(|copies| copies.confirm(ino, record));
        Ok(())
    }

    /// Says that this host goes.
    pub(super) fn leave(&self) {
        // Of a server that is gone nobody can take leave.
        if self.requests.known(|known| known.gone.is_none())
            && let Err(error) = self.tell(b"leave")
        {
            log::debug!("could not say goodbye: {error}");
        }
        let known = self.requests.known(|known| Some((known.generation?, known.epoch, known.last_event)));
        // Of a namespace that was never found there is nothing to remember.
        if let Some((generation, epoch, event)) = known {
            self.memory.write(&generation, epoch, event);
        }
    }
}

/// What a host remembers of a namespace when it has no daemon: that it was there, and how far its numbers were.
#[derive(Debug)]
pub(super) struct Memory(pub(super) Option<PathBuf>);

impl Memory {
    fn write(&self, generation: &Generation, epoch: u32, event: u64) {
        let Some(file) = &self.0 else {
            return;
        };
        let generation: String = generation.iter().map(|byte| format!("{byte:02x}")).collect();
        if let Err(error) = fs::write(file, format!("{generation} {epoch} {event}\n")) {
            log::warn!("can't note which namespace was mounted: {}: {error}", file.display());
        }
    }

    /// The generation, the epoch and the number of the last event.
    fn read(&self) -> Option<(Generation, u32, u64)> {
        let text = fs::read_to_string(self.0.as_ref()?).ok()?;
        let mut words = text.split_whitespace();
        let digits = words.next()?;
        let mut generation = Generation::default();
        for (index, byte) in generation.iter_mut().enumerate() {
            *byte = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some((generation, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    }
}
