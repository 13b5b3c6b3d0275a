//! A namespace of a Redis as one end of a migration: `move.lua`, `import.lua`, `empty.lua`.
//!
//! One connection, and nothing is asked twice: what goes wrong ends the migration, which is run again. Its leases run
//! out by themselves.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;

use super::codec::{self, Malformed, Reader};
use super::endpoint::{Acks, Endpoint};
use super::link::{Fault, Link, LinkError};
use super::primary::Primary;
use super::requests::{Generation, unreadable};
use super::script::{self, Script};
use super::standing::moment;
use super::{Place, tap};
use crate::clock::{BootTime, Clock, Now, SystemClock};
use crate::lock::{Body, Ino, SessionId};
use crate::store::StoreError;
use crate::store::migrate::{Closing, End, Error, Key, Reading};
use crate::table::{Change, Note, Told};

/// For how long changes are noted that nobody asks for.
const TRACKED: Duration = Duration::from_secs(30);

/// How many things a page has, about, and how many one step puts.
const PAGE: usize = 1_000;

/// How many bytes one step puts at most, about.
const PUT_BYTES: usize = 1 << 20;

/// How long one command may take that goes over all of a namespace.
const LONG: Duration = Duration::from_secs(120);

/// One end.
#[derive(Debug)]
pub(in crate::store) struct RedisEnd {
    endpoint: Endpoint,
    namespace: String,
    prefix: String,
    primary: Arc<Primary>,
    link: Link,
    clock: Arc<dyn Clock>,
    /// The server's clock less ours, in nanoseconds.
    offset: i128,
    generation: Option<Generation>,
    /// When its changes were last asked for; `None` where they are not noted.
    tracked: Option<BootTime>,
}

impl RedisEnd {
    /// The namespace at `endpoint`; where there is none it is founded if it `is_founded`, with a root of that user and
    /// group.
    ///
    /// # Errors
    /// The server can't be reached, or is not to be used.
    pub(in crate::store) fn open(
        endpoint: &Endpoint,
        namespace: &str,
        is_founded: Option<(u32, u32)>,
    ) -> Result<Self, Error> {
        let place = place(endpoint, namespace);
        let failed = |error: StoreError| Error::Store { place: place.clone(), error };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let primary = Primary::start(endpoint.clone(), namespace, Arc::clone(&clock))
            .map_err(|error| failed(StoreError::Failed(error.to_string())))?;
        let link = Link::connect(&primary).map_err(|error| failed(unavailable(&error)))?;
        let mut end = Self {
            endpoint: endpoint.clone(),
            namespace: namespace.to_owned(),
            prefix: format!("lockfs:{{{namespace}}}:"),
            primary,
            link,
            clock,
            offset: 0,
            generation: None,
            tracked: None,
        };
        end.generation = end.find(is_founded).map_err(&failed)?;
        if end.generation.is_some() {
            // It says what time it is.
            end.act(&[b"state"]).map_err(failed)?;
        }
        Ok(end)
    }

    /// Which data it has; `None` where it has none, and none is founded.
    fn find(&mut self, is_founded: Option<(u32, u32)>) -> Result<Option<Generation>, StoreError> {
        let meta = format!("{}meta", self.prefix);
        let answer = self.link.query_within(redis::cmd("GET").arg(&meta), self.endpoint.command_timeout);
        if let Value::BulkString(text) = answer.map_err(|error| unavailable(&error))? {
            // A version, and behind it the generation: `parse_meta` in `law/read.lua`.
            let generation = text.get(1..17).and_then(|bytes| bytes.try_into().ok());
            return generation.map(Some).ok_or_else(|| StoreError::Failed("its head is damaged".to_owned()));
        }
        let Some((uid, gid)) = is_founded else { return Ok(None) };
        let new: Generation =
            crate::store::random().map_err(|error| StoreError::Failed(error.to_string()))?;
        let (uid, gid) = (uid.to_string(), gid.to_string());
        let args: [&[u8]; 7] = [&new, b"0", b"0", uid.as_bytes(), gid.as_bytes(), b"0", b""];
        let answer = self.send(Script::Found, &args, self.endpoint.command_timeout)?;
        let found = answer.strip_prefix(b"K").and_then(|found| Generation::try_from(found).ok());
        found.map(Some).ok_or_else(|| StoreError::Failed("it does not say which namespace it has".to_owned()))
    }

    /// Runs a script once; its answer is a text of whatever status.
    fn send(&mut self, script: Script, args: &[&[u8]], limit: Duration) -> Result<Vec<u8>, StoreError> {
        let meta = format!("{}meta", self.prefix).into_bytes();
        let keys = [meta.as_slice(), &meta];
        // Servers close what idles (`timeout`) while the other end is read.
        if !self.link.is_usable() {
            self.link = Link::connect(&self.primary).map_err(|error| unavailable(&error))?;
        }
        let moves = matches!(self.endpoint.place, Place::Cluster { .. });
        let command = script.command(if moves { &keys } else { &keys[..1] }, args);
        let mut answer = self.link.query_within(&command, limit);
        if answer.as_ref().is_err_and(|error| error.fault() == Some(Fault::NoFunction)) {
            match self.link.query_within(&script::load(), limit) {
                Err(LinkError::Server { text, .. }) if text.contains("already exists") => {}
                loaded => drop(loaded.map_err(|error| unavailable(&error))?),
            }
            answer = self.link.query_within(&command, limit);
        }
        match answer.map_err(|error| unavailable(&error))? {
            Value::BulkString(text) => Ok(text),
            other => Err(StoreError::Failed(format!("it answers what no script of lockfs does: {other:?}"))),
        }
    }

    /// Runs a script on the data that is known; what it answers behind its time, or why it does not.
    fn ask(&mut self, script: Script, args: &[&[u8]]) -> Result<(Now, Answer), StoreError> {
        let Some(generation) = self.generation else {
            return Err(StoreError::Failed("there is no such namespace".to_owned()));
        };
        let mut argv: Vec<&[u8]> = vec![&generation];
        argv.extend(args);
        let limit = match script {
            Script::Move => LONG,
            _ => self.endpoint.command_timeout,
        };
        let sent = self.clock.now().boot;
        let answer = self.send(script, &argv, limit)?;
        let received = self.clock.now().boot;
        match answer.split_first() {
            Some((b'K', rest)) if rest.len() >= 9 => {
                let at = Reader::new(rest).time().map_err(unreadable)?;
                let middle = i128::midpoint(sent.as_nanos().into(), received.as_nanos().into());
                self.offset = i128::from(at.as_nanos()) - middle;
                if rest[8] != 0 {
                    return Err(StoreError::Unavailable(
                        "it may have lost data, and its hosts still say what they hold: try again".to_owned(),
                    ));
                }
                Ok((moment(at), Answer::Done(rest[9..].to_vec())))
            }
            Some((b'X', why)) => Ok((Now::default(), Answer::Closed(why.to_vec()))),
            Some((b'G', _)) => Err(StoreError::Unavailable("its data is not what it was".to_owned())),
            _ => Err(StoreError::Failed(format!("it answers {}", answer.escape_ascii()))),
        }
    }

    fn act(&mut self, args: &[&[u8]]) -> Result<(Now, Answer), StoreError> {
        self.ask(Script::Move, args)
    }

    /// The same, where it must be done.
    fn must(&mut self, args: &[&[u8]]) -> Result<Vec<u8>, Error> {
        let answer = self.act(args);
        match answer {
            Ok((_, Answer::Done(text))) => Ok(text),
            Ok((_, Answer::Closed(why))) => Err(self.closed(&why)),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&self, error: StoreError) -> Error {
        Error::Store { place: self.place(), error }
    }

    fn malformed(&self, error: Malformed) -> Error {
        self.failed(unreadable(error))
    }

    fn closed(&self, why: &[u8]) -> Error {
        let why = match why {
            [] => "nobody has asked for its changes for too long: run it again".to_owned(),
            why => Closing::shown(why),
        };
        self.failed(StoreError::Unavailable(why))
    }

    fn state(&mut self) -> Result<State, Error> {
        let text = self.must(&[b"state"])?;
        State::read(&text).map_err(|error| self.malformed(error))
    }

    /// What a script tells of objects and sessions.
    fn told(&self, reader: &mut Reader<'_>) -> Result<Vec<Told>, Error> {
        let changes = reader.changes().map_err(|error| self.malformed(error))?;
        let told = tap::read_told(&changes);
        let is_short = |one: &&Told| matches!(one, Told::Object(_, Note::Kept(_)));
        match told.iter().find(is_short) {
            Some(Told::Object(record, _)) => Err(self.failed(StoreError::Failed(format!(
                "the note of inode {} is not there, or can't be read",
                record.ino
            )))),
            _ if told.len() < changes.iter().filter(|change| tap::is_told(change)).count() => {
                Err(self.failed(StoreError::Failed("it holds a record that lockfs can't read".to_owned())))
            }
            _ => Ok(told),
        }
    }

    fn page(&mut self, kind: &[u8], cursor: &[u8]) -> Result<(Now, Vec<u8>, Vec<Told>), Error> {
        let count = PAGE.to_string();
        let asked = self.ask(Script::Dump, &[kind, cursor, count.as_bytes()]);
        let (now, answer) = asked.map_err(|error| self.failed(error))?;
        let text = match answer {
            Answer::Done(text) => text,
            Answer::Closed(why) => return Err(self.closed(&why)),
        };
        let mut reader = Reader::new(&text);
        let next = reader.long().map_err(|error| self.malformed(error))?.to_vec();
        Ok((now, next, self.told(&mut reader)?))
    }

    fn import(&mut self, closing: &str, words: &[Vec<u8>]) -> Result<(), Error> {
        let mut args: Vec<&[u8]> = vec![closing.as_bytes()];
        args.extend(words.iter().map(Vec::as_slice));
        match self.ask(Script::Import, &args).map_err(|error| self.failed(error))? {
            (_, Answer::Done(_)) => Ok(()),
            (_, Answer::Closed(why)) => Err(self.closed(&why)),
        }
    }
}

/// What a script of these answers.
enum Answer {
    Done(Vec<u8>),
    /// It is closed for that reason; where there is none, a lease is over.
    Closed(Vec<u8>),
}

/// How it stands with a namespace.
struct State {
    epoch: u32,
    objects: u64,
    closing: Vec<u8>,
    locked: Vec<String>,
}

impl State {
    fn read(text: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(text);
        let epoch = reader.u32()?;
        let objects = reader.number()?;
        let closing = reader.long()?.to_vec();
        let mut locked = Vec::new();
        while !reader.is_empty() {
            let path = reader.long()?;
            let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
            locked.push(crate::lock::LockPath::join(names).to_string());
        }
        Ok(Self { epoch, objects, closing, locked })
    }
}

fn unavailable(error: &LinkError) -> StoreError {
    match error.fault() {
        Some(Fault::OutOfMemory) => StoreError::Unavailable(
            "its memory is full (maxmemory): give it more and run it again, or take back what was done with \
             --rollback"
                .to_owned(),
        ),
        _ => StoreError::Unavailable(error.to_string()),
    }
}

/// Where a namespace is, for people.
pub(in crate::store) fn place(endpoint: &Endpoint, namespace: &str) -> String {
    format!("{} (namespace {namespace})", endpoint.describe())
}

fn micros(span: Duration) -> String {
    span.as_micros().to_string()
}

/// The four words of one thing, as `import.lua` takes them.
fn words(told: Told) -> [Vec<u8>; 4] {
    let number = |ino: Ino| ino.as_u64().to_be_bytes().to_vec();
    match told {
        Told::Session(session) => {
            let (record, lost) = codec::session(&session, session.seen);
            [b"s".to_vec(), session.id.as_str().as_bytes().to_vec(), record, lost]
        }
        Told::Object(record, _) => {
            let text = codec::record(&record, record.seen);
            let body = match record.body {
                Body::File(note) => note,
                Body::Symlink(target) => target.into_vec(),
                Body::Directory { .. } => Vec::new(),
            };
            [b"o".to_vec(), number(record.ino), text, body]
        }
        Told::Gone(ino) => [b"g".to_vec(), number(ino), Vec::new(), Vec::new()],
        Told::Over(id) => [b"x".to_vec(), id.as_str().as_bytes().to_vec(), Vec::new(), Vec::new()],
    }
}

impl End for RedisEnd {
    fn place(&self) -> String {
        place(&self.endpoint, &self.namespace)
    }

    fn identity(&self) -> Option<String> {
        let digits =
            |generation: &Generation| generation.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        self.generation.as_ref().map(|generation| format!("redis-{}", digits(generation)))
    }

    fn now(&self) -> Now {
        let nanos = i128::from(self.clock.now().boot.as_nanos()) + self.offset;
        moment(BootTime::from_nanos(u64::try_from(nanos).unwrap_or_default()))
    }

    fn closing(&mut self) -> Result<Option<Closing>, Error> {
        if self.generation.is_none() {
            return Ok(None);
        }
        let text = self.state()?.closing;
        match text.as_slice() {
            [] => Ok(None),
            text => match Closing::parse(text) {
                Some(closing) => Ok(Some(closing)),
                None => Err(self.closed(text)),
            },
        }
    }

    fn epoch(&mut self) -> Result<u32, Error> {
        Ok(self.state()?.epoch)
    }

    fn locked(&mut self) -> Result<Vec<String>, Error> {
        Ok(self.state()?.locked)
    }

    fn count(&mut self) -> Result<u64, Error> {
        match self.generation {
            Some(_) => Ok(self.state()?.objects),
            None => Ok(0),
        }
    }

    fn read(&mut self, each: Reading<'_>) -> Result<(), Error> {
        for kind in [&b"s"[..], b"o"] {
            let mut cursor = b"0".to_vec();
            loop {
                let (now, next, told) = self.page(kind, &cursor)?;
                each(now, told)?;
                self.keep()?;
                if next == b"0" {
                    break;
                }
                cursor = next;
            }
        }
        Ok(())
    }

    fn look(&mut self, objects: &[Ino], sessions: &[SessionId]) -> Result<Option<(Now, Vec<Told>)>, Error> {
        if objects.is_empty() && sessions.is_empty() {
            return Ok(Some((self.now(), Vec::new())));
        }
        let numbers: Vec<[u8; 8]> = objects.iter().map(|ino| ino.as_u64().to_be_bytes()).collect();
        let mut args: Vec<&[u8]> = numbers.iter().map(<[u8; 8]>::as_slice).collect();
        args.push(b"");
        args.extend(sessions.iter().map(|id| id.as_str().as_bytes()));
        let asked = self.ask(Script::Tell, &args);
        match asked.map_err(|error| self.failed(error))? {
            (now, Answer::Done(text)) => Ok(Some((now, self.told(&mut Reader::new(&text))?))),
            (_, Answer::Closed(why)) => Err(self.closed(&why)),
        }
    }

    fn track(&mut self) -> Result<(), Error> {
        self.tracked = Some(self.clock.now().boot);
        self.must(&[b"track", micros(TRACKED).as_bytes()]).map(drop)
    }

    fn keep(&mut self) -> Result<(), Error> {
        let now = self.clock.now().boot;
        if self.tracked.is_some_and(|then| now.since(then) >= TRACKED / 10) {
            self.tracked = Some(now);
            self.must(&[b"keep", micros(TRACKED).as_bytes()])?;
        }
        Ok(())
    }

    fn changes(&mut self) -> Result<Vec<Change>, Error> {
        self.tracked = Some(self.clock.now().boot);
        let text = self.must(&[b"changes", micros(TRACKED).as_bytes()])?;
        let mut reader = Reader::new(&text);
        let mut changes = Vec::new();
        while !reader.is_empty() {
            let key = reader.long().map_err(|error| self.malformed(error))?;
            changes.push(match parse_key(key).ok_or_else(|| self.malformed("a change".into()))? {
                Key::Object(ino) => Change::Object(ino),
                Key::Session(id) => Change::Session(id),
            });
        }
        Ok(changes)
    }

    fn freeze(&mut self, lease: Duration) -> Result<(), Error> {
        self.must(&[b"freeze", micros(lease).as_bytes()]).map(drop)
    }

    fn close(&mut self, closing: &Closing) -> Result<bool, Error> {
        self.tracked = None;
        match self.act(&[b"close", closing.text().as_bytes()]).map_err(|error| self.failed(error))? {
            (_, Answer::Done(_)) => Ok(true),
            (_, Answer::Closed(why)) if why.is_empty() => Ok(false),
            (_, Answer::Closed(why)) => Err(self.closed(&why)),
        }
    }

    fn thaw(&mut self, closing: &Closing) -> Result<(), Error> {
        self.tracked = None;
        self.must(&[b"thaw", closing.text().as_bytes()]).map(drop)
    }

    fn fill(&mut self, closing: &Closing, known: Option<&Closing>, is_fresh: bool) -> Result<(), Error> {
        let (text, known) = (closing.text(), known.map(Closing::text).unwrap_or_default());
        let fresh: &[u8] = if is_fresh { b"1" } else { b"" };
        self.must(&[b"fill", text.as_bytes(), known.as_bytes(), fresh]).map(drop)
    }

    fn before(&mut self) -> Result<Vec<Key>, Error> {
        let text = self.must(&[b"before"])?;
        let mut reader = Reader::new(&text);
        let mut keys = Vec::new();
        while !reader.is_empty() {
            let key = reader.long().map_err(|error| self.malformed(error))?;
            // Its root and why it was closed are there as well.
            keys.extend(parse_key(key));
        }
        Ok(keys)
    }

    fn put(&mut self, closing: &Closing, told: Vec<Told>) -> Result<(), Error> {
        let text = closing.text();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for one in told {
            let words = words(one);
            bytes += words.iter().map(Vec::len).sum::<usize>();
            batch.extend(words);
            if bytes >= PUT_BYTES || batch.len() >= 4 * PAGE {
                self.import(&text, &std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        if batch.is_empty() { Ok(()) } else { self.import(&text, &batch) }
    }

    fn settle(&mut self) -> Result<(), Error> {
        let acks = Acks::default_of(&self.endpoint.place).count();
        if acks == 0 {
            return Ok(());
        }
        let mut wait = redis::cmd("WAIT");
        wait.arg(acks).arg(500);
        let answer = self.link.query_within(&wait, self.endpoint.command_timeout);
        match answer.map_err(|error| self.failed(unavailable(&error)))? {
            Value::Int(count) if count >= acks.into() => Ok(()),
            _ => Err(self.failed(StoreError::Unavailable(
                "no replica has all of it yet: see to its replicas, and run it again".to_owned(),
            ))),
        }
    }

    fn open(&mut self, closing: &Closing, epoch: u32) -> Result<(), Error> {
        self.must(&[b"open", closing.text().as_bytes(), epoch.to_string().as_bytes()]).map(drop)
    }

    fn empty(&mut self, closing: &Closing, each: &mut dyn FnMut(u64)) -> Result<(), Error> {
        let (text, count) = (closing.text(), PAGE.to_string());
        for kind in [&b"o"[..], b"s"] {
            let mut cursor = b"0".to_vec();
            loop {
                let asked =
                    self.ask(Script::Empty, &[text.as_bytes(), kind, cursor.as_slice(), count.as_bytes()]);
                let answer = match asked.map_err(|error| self.failed(error))? {
                    (_, Answer::Done(answer)) => answer,
                    (_, Answer::Closed(why)) => return Err(self.closed(&why)),
                };
                let mut reader = Reader::new(&answer);
                let next = reader.long().map_err(|error| self.malformed(error))?.to_vec();
                each(reader.number().map_err(|error| self.malformed(error))?);
                if next == b"0" {
                    break;
                }
                cursor = next;
            }
        }
        self.must(&[b"open", text.as_bytes(), b"0"]).map(drop)
    }
}

/// What stands in the sets of changes and of what was there before.
fn parse_key(bytes: &[u8]) -> Option<Key> {
    match bytes.split_first()? {
        (b'o', number) => Some(Key::Object(Ino::from_u64(u64::from_be_bytes(number.try_into().ok()?)))),
        (b's', id) => SessionId::parse(id).ok().map(Key::Session),
        _ => None,
    }
}
