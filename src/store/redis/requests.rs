//! Requests: one script, asked until the server has answered or the time is up.
//!
//! The invariant: a step is carried out once or not at all, and not after its time, whatever is lost on the way.
//! So each has a number, which the server remembers with its answer, in a [`Seat`] that has one request under way
//! at a time: asked again, it answers the same. Each has a deadline on the server's own clock. And what nobody
//! knows the outcome of when the time is up goes to the list of what is to be undone.
//!
//! Lock order: none of these mutexes is held while another is taken, or while the server is asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use redis::Value;

use super::codec::{Malformed, Reader};
use super::endpoint;
use super::link::{Fault, Link, LinkError};
use super::meters::Meters;
use super::primary::Primary;
use super::script::{self, Script};
use super::standing::{Known, moment};
use super::succession::Succession;
use super::tap::Tap;
use super::undo::{Undo, UndoList};
use crate::clock::{BootTime, Clock, Now};
use crate::store::{StoreError, Tenure};

/// How long to wait before asking again what the server can't say yet.
const PAUSE: Duration = Duration::from_millis(20);

/// The identity of a namespace's data: another for each time that it was founded.
pub(super) type Generation = [u8; 16];

/// A place from which one request at a time is made.
#[derive(Debug)]
struct Seat {
    link: Option<Link>,
    number: u32,
    requests: u64,
}

/// Where a step is made from: the seat, the number of the request there, and what the kernel calls it.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    seat: u32,
    request: u64,
    name: &'a str,
}

/// What became of a step.
#[derive(Debug)]
pub(super) struct Answer {
    /// When it was carried out, on the server's clock.
    pub(super) now: Now,
    /// What it answered, and what it changed.
    pub(super) text: Vec<u8>,
}

/// What a step gives: with `--acks` what counts only when replicas have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gives {
    /// A name to a holder. Where nobody knows whether it was given it must be taken back.
    Name,
    /// A new token to whoever holds it then; there was a holder before, so nothing is taken back.
    Token,
    /// An advisory lock. Where nobody knows whether it was given, whoever asked sees to it that it is let go.
    Grant,
    /// Nothing of that kind.
    Nothing,
}

impl Gives {
    /// Whether something was given, by what was answered.
    fn has_given(self, answer: &[u8]) -> bool {
        match self {
            Self::Name => answer.first() == Some(&b'E'),
            Self::Token => answer.first() != Some(&b'R'),
            Self::Grant => answer.first() == Some(&b'D'),
            Self::Nothing => false,
        }
    }
}

/// Whether a request may wait for the server to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// As long as one command may take.
    Command,
    /// Not at all: it is the keeper's, who brings the server back.
    None,
}

/// Everything that is needed to ask.
#[derive(Debug)]
pub(super) struct Requests {
    pub(super) primary: Arc<Primary>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) meters: Meters,
    pub(super) undo: UndoList,
    pub(super) tap: Tap,
    pub(super) succession: Succession,
    /// When the server last answered, in nanoseconds on our clock.
    heard: AtomicU64,
    prefix: Vec<u8>,
    meta: Vec<u8>,
    /// The key of this daemon's answers.
    answers: Vec<u8>,
    acks: u8,
    /// Whether the namespace may move to another node while it is used.
    moves: bool,
    seats: Mutex<Vec<Seat>>,
    last_seat: Mutex<u32>,
    pub(super) known: Mutex<Known>,
    /// Says that what is known has changed.
    pub(super) changed: Condvar,
}

impl Requests {
    /// Asks `primary` about the keys that begin with `prefix`; no other daemon has the name `instance`.
    pub(super) fn new(
        primary: Arc<Primary>,
        clock: Arc<dyn Clock>,
        prefix: &str,
        instance: &str,
        acks: u8,
        (undo, tenure): (UndoList, Tenure),
    ) -> Self {
        let known = Known {
            generation: None,
            epoch: 0,
            last_event: 0,
            offset: 0,
            first_offset: None,
            settled: None,
            gone: None,
            server: None,
            is_closed: false,
            is_called: false,
            is_damaged: false,
        };
        Self {
            moves: matches!(primary.endpoint().place, endpoint::Place::Cluster { .. }),
            primary,
            clock,
            meters: Meters::default(),
            undo,
            tap: Tap::default(),
            succession: Succession::new(tenure),
            heard: AtomicU64::new(0),
            prefix: prefix.into(),
            meta: format!("{prefix}meta").into(),
            answers: format!("{prefix}q:{instance}").into(),
            acks,
            seats: Mutex::default(),
            last_seat: Mutex::default(),
            known: Mutex::new(known),
            changed: Condvar::new(),
        }
    }

    /// The key of this daemon's answers.
    pub(super) fn answers(&self) -> &[u8] {
        &self.answers
    }

    /// A key of the namespace.
    pub(super) fn key(&self, name: &str) -> Vec<u8> {
        [self.prefix.as_slice(), name.as_bytes()].concat()
    }

    /// How long one command may take.
    pub(super) fn limit(&self) -> Duration {
        self.primary.endpoint().command_timeout
    }

    /// When the server last answered a question of ours.
    pub(super) fn heard(&self) -> BootTime {
        BootTime::from_nanos(self.heard.load(Ordering::Relaxed))
    }

    /// How many connections wait to be used.
    pub(super) fn idle(&self) -> usize {
        self.seats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter(|seat| seat.link.is_some())
            .count()
    }

    /// Closes all connections.
    pub(super) fn disconnect(&self) {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn seat(&self) -> Seat {
        let free = self.seats.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| {
            let mut last = self.last_seat.lock().unwrap_or_else(PoisonError::into_inner);
            *last += 1;
            Seat { link: None, number: *last, requests: 0 }
        })
    }

    fn give_back(&self, seat: Seat) {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner).push(seat);
    }

    /// A connection for `seat`: its own, or a new one; waits until `deadline` where the server is gone. All but the
    /// keeper get one only to a server to which this host has said what it holds: else a release could find
    /// nothing, and what it should have released be said to be held right after it.
    fn connect<'a>(
        &self,
        seat: &'a mut Seat,
        deadline: BootTime,
        patience: Patience,
    ) -> Result<&'a mut Link, StoreError> {
        let is_fit = |link: &Link| {
            let id = &link.server().replication_id;
            link.is_usable()
                && (patience == Patience::None || self.known(|known| known.settled.as_ref() == Some(id)))
        };
        if !seat.link.as_ref().is_some_and(is_fit) {
            seat.link = None;
        }
        while seat.link.is_none() {
            self.await_server(deadline, patience)?;
            // Who asks waits no longer for a connection than for an answer; the keeper takes the time it needs.
            let left = deadline.since(self.clock.now().boot);
            let connected = match patience {
                Patience::Command => Link::connect_within(&self.primary, left),
                Patience::None => Link::connect(&self.primary),
            };
            match connected {
                Ok(link) => {
                    self.meters.connected.count();
                    self.known(|known| known.server = Some(link.server().clone()));
                    if is_fit(&link) {
                        seat.link = Some(link);
                    } else {
                        self.lose("another server answers, or the same after a restart");
                    }
                }
                // That there was little time left says nothing about the server.
                Err(error) if patience == Patience::None || left < self.limit() / 4 => {
                    return Err(StoreError::Unavailable(error.to_string()));
                }
                Err(error) => self.lose(&error.to_string()),
            }
        }
        Ok(seat.link.as_mut().expect("made just now"))
    }

    /// Sends one script once. The answer is a text, of whatever status.
    fn send(
        &self,
        link: &mut Link,
        script: Script,
        args: &[&[u8]],
        limit: Duration,
    ) -> Result<Vec<u8>, LinkError> {
        let sent = self.clock.now().boot;
        let keys = [self.meta.as_slice(), &self.meta];
        let keys = if self.moves { &keys[..] } else { &keys[..1] };
        let command = script.command(keys, args);
        let mut answer = link.query_within(&command, limit);
        if answer.as_ref().is_err_and(|error| error.fault() == Some(Fault::NoFunction)) {
            match link.query_within(&script::load(), limit) {
                // Another daemon was quicker.
                Err(LinkError::Server { text, .. }) if text.contains("already exists") => {}
                loaded => drop(loaded?),
            }
            answer = link.query_within(&command, limit);
        }
        let received = self.clock.now().boot;
        self.meters.trip(received.since(sent));
        let answer = answer?;
        self.heard.fetch_max(received.as_nanos(), Ordering::Relaxed);
        let text = match answer {
            Value::BulkString(text) => text,
            other => format!("?{other:?}").into_bytes(),
        };
        // What these two answer begins with no time.
        let has_time = !matches!(script, Script::Found | Script::Epoch);
        if has_time
            && let [b'K' | b'L', rest @ ..] = text.as_slice()
            && let Ok(theirs) = Reader::new(rest).time()
        {
            self.compare_clocks(theirs, sent, received);
        }
        Ok(text)
    }

    /// Asks a script that only reads. The answer is what follows its time.
    ///
    /// # Errors
    /// [`StoreError`]: the server can't say.
    pub(super) fn look(&self, script: Script, args: &[&[u8]]) -> Result<Seen, StoreError> {
        self.look_with(script, args, Patience::Command)
    }

    pub(super) fn look_with(
        &self,
        script: Script,
        args: &[&[u8]],
        patience: Patience,
    ) -> Result<Seen, StoreError> {
        let deadline = self.clock.now().boot + self.limit();
        let mut seat = self.seat();
        let seen = self.look_from(&mut seat, script, args, deadline, patience);
        self.give_back(seat);
        seen
    }

    fn look_from(
        &self,
        seat: &mut Seat,
        script: Script,
        args: &[&[u8]],
        deadline: BootTime,
        patience: Patience,
    ) -> Result<Seen, StoreError> {
        loop {
            let generation = self.generation()?;
            let mut argv: Vec<&[u8]> = vec![&generation];
            argv.extend(args);
            let limit = self.time_for_one(deadline);
            let link = self.connect(seat, deadline, patience)?;
            match self.send(link, script, &argv, limit) {
                Ok(text) => match text.split_first() {
                    Some((b'K', rest)) => {
                        let mut reader = Reader::new(rest);
                        let (now, waits) = (reader.time(), reader.byte());
                        let now = moment(now.map_err(unreadable)?);
                        let is_settled = waits.map_err(unreadable)? == 0;
                        return Ok(Seen { now, is_settled, text: rest[9..].to_vec() });
                    }
                    Some((b'G', _)) if patience == Patience::Command => self.lose_data(seat, deadline)?,
                    Some((b'G', _)) => return Err(lost_data()),
                    _ => return Err(foreign(&text)),
                },
                Err(error) => self.weigh(seat, &error, deadline, patience)?,
            }
        }
    }

    /// How long one attempt may take, so that there is time for another.
    fn time_for_one(&self, deadline: BootTime) -> Duration {
        deadline.since(self.clock.now().boot).min(self.limit() / 2).max(PAUSE)
    }

    /// What an error of the connection means for who asks: go on, or give up.
    fn weigh(
        &self,
        seat: &mut Seat,
        error: &LinkError,
        deadline: BootTime,
        patience: Patience,
    ) -> Result<(), StoreError> {
        let is_late = self.clock.now().boot >= deadline;
        // Nothing was sent: servers close what idles (`timeout`), and a new connection says whether it is there.
        if matches!(error, LinkError::Over { .. }) && !is_late {
            seat.link = None;
            return Ok(());
        }
        let gives_up = patience == Patience::None || is_late;
        match error.fault() {
            Some(Fault::OutOfMemory) => return Err(StoreError::NoSpace),
            Some(Fault::WrongType) => {
                return Err(StoreError::Failed(format!(
                    "{error} (a key of {}* is not lockfs': remove it)",
                    String::from_utf8_lossy(&self.prefix)
                )));
            }
            // What redis says of a command in a script names neither the command nor the key.
            Some(Fault::Other) if error.to_string().contains("The user executing the script") => {
                return Err(StoreError::Failed(format!(
                    "{error} (ACL SETUSER: give the user all that README.md says)"
                )));
            }
            Some(Fault::Lost) => {
                seat.link = None;
                self.known(|known| known.is_damaged = true);
                self.lose(&error.to_string());
            }
            Some(Fault::Complaint | Fault::Other) => return Err(StoreError::Failed(error.to_string())),
            Some(Fault::Denied) => return Err(StoreError::Unavailable(error.to_string())),
            Some(fault) if fault.is_elsewhere() => {
                seat.link = None;
                self.lose(&error.to_string());
            }
            // It is there, and will be able to answer soon.
            Some(_) => std::thread::sleep(PAUSE),
            None => {
                seat.link = None;
                if patience == Patience::Command {
                    self.lose(&error.to_string());
                }
            }
        }
        match gives_up {
            true => Err(StoreError::Unavailable(error.to_string())),
            false => Ok(()),
        }
    }

    fn generation(&self) -> Result<Generation, StoreError> {
        let generation = self.known(|known| known.generation);
        generation.ok_or_else(|| StoreError::Unavailable("redis was not asked yet".to_owned()))
    }

    /// The data is not what it was: the keeper has to see to that before anybody goes on.
    fn lose_data(&self, seat: &mut Seat, deadline: BootTime) -> Result<(), StoreError> {
        seat.link = None;
        self.lose(LOST);
        self.await_server(deadline, Patience::Command)
    }

    /// Carries out a step.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: it has not been carried out, and will not be. [`StoreError::Timeout`]: nobody
    /// knows; what it `gives` will be taken back.
    pub(super) fn step(&self, script: Script, args: &[&[u8]], gives: Gives) -> Result<Answer, StoreError> {
        self.step_with(script, args, gives, Patience::Command)
    }

    pub(super) fn step_with(
        &self,
        script: Script,
        args: &[&[u8]],
        gives: Gives,
        patience: Patience,
    ) -> Result<Answer, StoreError> {
        let asked = self.succession.take_asked();
        if let Some(text) = asked.and_then(|asked| self.succession.first(asked)) {
            // Replicas may have it or not: what is written now they have behind it.
            if self.acks > 0 && gives.has_given(&text) {
                let again = self.step_with(Script::Share, &[b"register"], Gives::Grant, patience);
                again.map_err(|error| StoreError::Timeout(error.to_string()))?;
            }
            return Ok(Answer { now: self.now(), text });
        }
        let seated = asked.map(|asked| self.succession.seat(asked));
        let mut seat = self.seat();
        let place = match &seated {
            Some(seated) => Place { seat: seated.seat, request: seated.request, name: &seated.name },
            None => {
                seat.requests += 1;
                Place { seat: seat.number, request: seat.requests, name: "" }
            }
        };
        let mut may_have_happened = false;
        let answer =
            self.step_from((&mut seat, place), script, args, gives, patience, &mut may_have_happened);
        match answer {
            Ok(answer) => {
                self.give_back(seat);
                Ok(answer)
            }
            Err(error) if !may_have_happened => {
                self.give_back(seat);
                Err(error)
            }
            Err(error) => {
                self.meters.unknown.count();
                if gives == Gives::Name {
                    // The seat's number is not used again: the next request in it would cover this one.
                    self.undo.add(Undo {
                        answers: self.answers.clone(),
                        seat: place.seat,
                        request: place.request,
                        generation: self.generation()?,
                    });
                    if seated.is_some() {
                        self.succession.give_up(place.seat);
                        self.give_back(seat);
                    }
                    self.call_keeper();
                } else {
                    self.give_back(seat);
                }
                match error {
                    StoreError::Unavailable(why) => Err(StoreError::Timeout(why)),
                    other => Err(other),
                }
            }
        }
    }

    fn step_from(
        &self,
        (seat, place): (&mut Seat, Place<'_>),
        script: Script,
        args: &[&[u8]],
        gives: Gives,
        patience: Patience,
        may_have_happened: &mut bool,
    ) -> Result<Answer, StoreError> {
        let deadline = self.clock.now().boot + self.limit();
        let number = place.seat.to_string();
        let request = match place.name {
            "" => place.request.to_string(),
            name => format!("{} {name}", place.request),
        };
        let mut sent_before = false;
        loop {
            let generation = self.generation()?;
            let limit = self.time_for_one(deadline);
            let link = self.connect(seat, deadline, patience)?;
            // The server must not do it any more when nobody waits for it.
            let last = self.server_time(self.clock.now().boot + limit).boot.as_nanos() / 1_000;
            let last = last.to_string();
            let mut argv: Vec<&[u8]> =
                vec![&generation, last.as_bytes(), &self.answers, number.as_bytes(), request.as_bytes()];
            argv.extend(args);
            if sent_before {
                self.meters.repeated.count();
            }
            sent_before = true;
            let text = match self.send(link, script, &argv, limit) {
                Ok(text) => text,
                Err(error) => {
                    *may_have_happened |= error.is_unknown();
                    self.weigh(seat, &error, deadline, patience)?;
                    continue;
                }
            };
            match text.split_first() {
                Some((b'K', rest)) => {
                    let mut reader = Reader::new(rest);
                    let (now, event) = (reader.time(), reader.number());
                    let (now, event) = (moment(now.map_err(unreadable)?), event.map_err(unreadable)?);
                    self.known(|known| known.last_event = known.last_event.max(event));
                    let answer = Answer { now, text: rest[16..].to_vec() };
                    if self.acks > 0 && gives.has_given(&answer.text) {
                        *may_have_happened = true;
                        self.await_replicas(seat, deadline)?;
                        *may_have_happened = false;
                    }
                    return Ok(answer);
                }
                // It was too late for the server's clock: ours of it was wrong, and is right now.
                Some((b'L', _)) if self.clock.now().boot < deadline => {}
                Some((b'L', _)) => return Err(StoreError::Unavailable("redis was too slow".to_owned())),
                Some((b'G', _)) if patience == Patience::Command => self.lose_data(seat, deadline)?,
                Some((b'G', _)) => return Err(lost_data()),
                Some((b'U', _)) => {
                    return Err(StoreError::Unavailable("the request was given up already".to_owned()));
                }
                Some((b'F', _)) if patience == Patience::Command => self.lose_data(seat, deadline)?,
                Some((b'F' | b'W', _)) if self.clock.now().boot < deadline => {
                    self.call_keeper();
                    std::thread::sleep(PAUSE);
                }
                Some((b'W', _)) => {
                    return Err(StoreError::Unavailable(
                        "redis may have lost data, and its hosts still say what they hold: try again"
                            .to_owned(),
                    ));
                }
                _ => return Err(foreign(&text)),
            }
        }
    }

    /// Waits until as many replicas as asked for have the last step of this connection (WAIT).
    fn await_replicas(&self, seat: &mut Seat, deadline: BootTime) -> Result<(), StoreError> {
        let Some(link) = seat.link.as_mut().filter(|link| link.is_usable()) else {
            return Err(StoreError::Unavailable("redis was gone before its replicas had it".to_owned()));
        };
        let left = deadline.since(self.clock.now().boot).max(PAUSE);
        let mut wait = redis::cmd("WAIT");
        wait.arg(self.acks).arg(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        match link.query_within(&wait, left + PAUSE * 5) {
            Ok(Value::Int(count)) if count >= self.acks.into() => Ok(()),
            Ok(other) => {
                let count = if let Value::Int(count) = other { count } else { 0 };
                Err(StoreError::Unavailable(format!(
                    "{count} replicas of redis have it, and {} must (--acks)",
                    self.acks
                )))
            }
            Err(error) => {
                seat.link = None;
                self.lose(&error.to_string());
                Err(StoreError::Unavailable(error.to_string()))
            }
        }
    }

    /// Runs a script as it is, once: for the keeper. The answer is a text, of whatever status.
    pub(super) fn run(&self, script: Script, args: &[&[u8]]) -> Result<Vec<u8>, StoreError> {
        self.run_and(script, args, |_| Ok(())).map(|(answer, ())| answer)
    }

    /// The same, and whether as many replicas as a grant needs have all that the server had written until then.
    pub(super) fn run_replicated(
        &self,
        script: Script,
        args: &[&[u8]],
    ) -> Result<(Vec<u8>, bool), StoreError> {
        self.run_and(script, args, |link| {
            if self.acks == 0 {
                return Ok(true);
            }
            let span = PAUSE * 5;
            let mut wait = redis::cmd("WAIT");
            wait.arg(self.acks).arg(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
            let count = link.query_within(&wait, self.limit() / 2 + span)?;
            Ok(matches!(count, Value::Int(count) if count >= self.acks.into()))
        })
    }

    fn run_and<T>(
        &self,
        script: Script,
        args: &[&[u8]],
        then: impl Fn(&mut Link) -> Result<T, LinkError>,
    ) -> Result<(Vec<u8>, T), StoreError> {
        let deadline = self.clock.now().boot + self.limit();
        let mut seat = self.seat();
        let answer = loop {
            let link = match self.connect(&mut seat, deadline, Patience::None) {
                Ok(link) => link,
                Err(error) => break Err(error),
            };
            let answer = self.send(link, script, args, self.limit() / 2);
            match answer.and_then(|answer| Ok((answer, then(link)?))) {
                Ok(answer) => break Ok(answer),
                Err(error) => {
                    if let Err(error) = self.weigh(&mut seat, &error, deadline, Patience::None) {
                        break Err(error);
                    }
                }
            }
        };
        self.give_back(seat);
        answer
    }

    /// One ordinary command that only reads, on a connection of the pool.
    pub(super) fn query(&self, command: &redis::Cmd) -> Result<Value, StoreError> {
        let deadline = self.clock.now().boot + self.limit();
        let mut seat = self.seat();
        let answer = loop {
            let limit = self.time_for_one(deadline);
            let link = match self.connect(&mut seat, deadline, Patience::Command) {
                Ok(link) => link,
                Err(error) => break Err(error),
            };
            match link.query_within(command, limit) {
                Ok(value) => break Ok(value),
                Err(error) => {
                    if let Err(error) = self.weigh(&mut seat, &error, deadline, Patience::Command) {
                        break Err(error);
                    }
                }
            }
        };
        self.give_back(seat);
        answer
    }
}

/// What a look saw.
#[derive(Debug)]
pub(super) struct Seen {
    /// When, on the server's clock.
    pub(super) now: Now,
    /// Whether what is not there is certainly not there.
    pub(super) is_settled: bool,
    /// What.
    pub(super) text: Vec<u8>,
}

/// The server holds what this version can't read.
pub(super) fn unreadable(error: Malformed) -> StoreError {
    StoreError::Failed(format!("redis holds a record that lockfs can't read ({error})"))
}

fn foreign(text: &[u8]) -> StoreError {
    let start = &text[..text.len().min(40)];
    StoreError::Failed(format!("redis answers what no script of lockfs does: {}", start.escape_ascii()))
}

/// What is said while the data is not what it was.
const LOST: &str = "the data of redis is not what it was";

fn lost_data() -> StoreError {
    StoreError::Unavailable(LOST.to_owned())
}
