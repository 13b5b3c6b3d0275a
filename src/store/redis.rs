//! The store on Redis: one tree of locks for many machines. The server decides; the law is `law/*.lua`, a twin
//! of [`LockTable`](crate::table::LockTable) that the differential test holds to it.
//!
//! Every step is one script in one slot, so a step is atomic, and a cluster scales by namespaces. The server's
//! clock decides what has expired. What a daemon keeps besides is never an answer to who holds what.
//!
//! | key, behind `lockfs:{NAMESPACE}:` | type | what it holds |
//! |---|---|---|
//! | `meta` | string | generation, epoch, last token, replication id, last event, counters |
//! | `o` | hash | of each object, by its number, the record |
//! | `b` | hash | of each file and symlink its note or target, where it has one |
//! | `d:INO` | hash | of a directory, by name: cookie and number; under `/` what it says of its entries |
//! | `l:INO` | sorted set | the same by cookie: the order of listings |
//! | `s`, `n` | hash, sorted set | sessions by their names; their numbers, in order |
//! | `h:ID` | sorted set | what a session holds, by ttl |
//! | `lost:ID` | list | names that it held and lost |
//! | `x`, `y` | sorted sets | when to look at an object, at a session that holds nothing |
//! | `events` | stream | what happened, numbered; the last ten thousand |
//! | `hosts`, `seen` | hash, sorted set | hosts: which daemon it is, when it was last heard of |
//! | `recover` | set | hosts that still have to say what they hold |
//! | `q:DAEMON` | hash | the last answer to each request under way |
//!
//! No key of locks has an expiry of the server's: a part that goes by itself would tear the tree, and servers
//! evict what has one first (`volatile-*`). A lock past its deadline is dead for every script, and any daemon
//! sweeps it.

mod cluster;
mod codec;
mod copies;
mod endpoint;
mod follower;
mod handshake;
mod keeper;
mod link;
mod meters;
mod primary;
mod requests;
mod script;
mod sentinel;
mod tls;
mod undo;
mod url;
mod wire;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub use endpoint::{Acks, Address, Database, Endpoint, Login, Node, Place, Secret, Tls};
pub use handshake::Server;
pub use link::{Fault, Link, LinkError};
pub use primary::{Generation, Primary, Unreachable};

use super::{EventPage, Health, LockStore, StoreError};
use crate::clock::{BootTime, Clock, Now};
use crate::lock::{Attributes, Ino, Kind, Session, SessionId, Token, Ttl};
use crate::table::{
    AttributeChange, Command, Counts, Entry, Existing, New, Opening, Outcome, RenameMode, Reply, Spot, View,
};
use codec::{Changed, Reader};
use copies::{Copies, Learn};
use follower::Heard;
use keeper::{Keeper, Memory};
use requests::{Answer, Gives, Requests, Seen, unreadable};
use script::Script;
use undo::UndoList;

/// How long an answer about a directory may be used again: as long as the kernel itself remembers it.
const GLANCE: Duration = Duration::from_secs(1);

/// How long the answer to an acquire is the answer to the look that the kernel takes right after it.
const FRESH: Duration = Duration::from_millis(10);

/// How many answers are remembered for a glance.
const GLANCES: usize = 4096;

/// How many entries a question for events may return.
const EVENTS: usize = 10_000;

/// What a store on Redis is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where Redis is.
    pub endpoint: Endpoint,
    /// How many replicas must have a grant before it counts; one that they have not in time is undone.
    pub acks: Acks,
    /// The namespace.
    pub namespace: String,
    /// What this host is called in it.
    pub host: String,
    /// What tells this machine from all others, without spaces.
    pub machine: String,
    /// Who owns the root of a namespace that is new.
    pub owner: (u32, u32),
    /// Where small state is kept that outlives the daemon: the path of a file, to which endings are added.
    pub state: Option<PathBuf>,
    /// How long hosts may take to say what they hold where the server has lost the namespace; longer than that
    /// no lock lives untouched.
    pub window: Duration,
}

/// The store on Redis.
#[derive(Debug)]
pub struct RedisStore {
    requests: Arc<Requests>,
    copies: Arc<Mutex<Copies>>,
    keeper: Arc<Keeper>,
    heard: Arc<Heard>,
    glances: Mutex<HashMap<Ino, Glance>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    acks: Acks,
}

/// An answer that may be used again.
#[derive(Clone, Copy, Debug)]
struct Glance {
    attributes: Attributes,
    until: BootTime,
    /// Whether it may be used more than once.
    stays: bool,
}

impl RedisStore {
    /// Opens the namespace, and founds it where it is new.
    ///
    /// # Errors
    /// [`StoreError`]: the server can't be reached or is not to be used, or another machine has this host's name.
    pub fn open(options: &Options, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let failed = |error: std::io::Error| StoreError::Failed(error.to_string());
        let file = |ending: &str| {
            let mut name = options.state.as_ref()?.clone().into_os_string();
            name.push(ending);
            Some(PathBuf::from(name))
        };
        let instance = instance(&options.host).map_err(failed)?;
        let primary = Primary::start(options.endpoint.clone(), &options.namespace, Arc::clone(&clock));
        let undo = UndoList::open(file(".undo").as_deref()).map_err(failed)?;
        let prefix = format!("lockfs:{{{}}}:", options.namespace);
        let acks = options.acks.count();
        let requests = Requests::new(primary.map_err(failed)?, clock, &prefix, &instance, acks, undo);
        let (requests, copies) = (Arc::new(requests), Arc::<Mutex<Copies>>::default());
        let who = (options.host.as_str(), format!("{} {instance}", options.machine));
        let memory = Memory(file(".namespace"));
        let keeper =
            Keeper::new(Arc::clone(&requests), Arc::clone(&copies), who, options.owner, options.window, memory);
        keeper.settle()?;
        let store = Self {
            requests,
            copies,
            keeper: Arc::new(keeper),
            heard: Arc::default(),
            glances: Mutex::default(),
            threads: Mutex::default(),
            acks: options.acks,
        };
        store.heard.begin(store.tally()?.last_event);
        store.warn();
        store.start().map_err(failed)?;
        Ok(store)
    }

    fn start(&self) -> std::io::Result<()> {
        let keeper = Arc::clone(&self.keeper);
        let (requests, heard, copies) =
            (Arc::clone(&self.requests), Arc::clone(&self.heard), Arc::clone(&self.copies));
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let threads = [
            thread("lockfs-redis").spawn(move || keeper.run())?,
            thread("lockfs-events").spawn(move || follower::follow(&requests, &heard, &copies))?,
        ];
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).extend(threads);
        Ok(())
    }

    /// Says what the server is set to that puts locks at risk.
    fn warn(&self) {
        let Some(server) = self.requests.known(|known| known.server.clone()) else {
            return;
        };
        if server.appendonly == Some(false) {
            log::warn!("redis keeps no append-only file: a restart loses locks (appendonly yes)");
        }
        if let Some(policy) = server.maxmemory_policy.filter(|policy| server.maxmemory > 0 && policy != "noeviction")
        {
            log::warn!("redis may evict locks when its memory is full (maxmemory-policy is {policy}: say noeviction)");
        }
    }

    fn copies<T>(&self, act: impl FnOnce(&mut Copies) -> T) -> T {
        act(&mut self.copies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn glances<T>(&self, act: impl FnOnce(&mut HashMap<Ino, Glance>) -> T) -> T {
        act(&mut self.glances.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn tally(&self) -> Result<codec::Tally, StoreError> {
        let seen = self.requests.look(Script::Counts, &[])?;
        Reader::new(&seen.text).counts().map_err(unreadable)
    }

    /// Attributes, of which there are none where nothing is: certainly, or for want of an answer.
    fn read_attributes(&self, seen: &Seen) -> Result<Option<Attributes>, StoreError> {
        if seen.text.is_empty() {
            return if seen.is_settled { Ok(None) } else { Err(unsettled()) };
        }
        let (attributes, record) = Reader::new(&seen.text).found_with_record().map_err(unreadable)?;
        if attributes.kind == Kind::Directory {
            self.remember(&attributes);
            self.copies(|copies| copies.pass(attributes.ino, record));
        }
        Ok(Some(attributes))
    }

    /// Notes what a directory that is a name looks like now.
    fn remember(&self, attributes: &Attributes) {
        if attributes.kind == Kind::Directory && !attributes.expires {
            self.keep(*attributes, GLANCE, true);
        }
    }

    fn keep(&self, attributes: Attributes, span: Duration, stays: bool) {
        let now = self.requests.clock.now().boot;
        self.glances(|glances| {
            if glances.len() >= GLANCES {
                glances.retain(|_, glance| glance.until > now);
            }
            if glances.len() < GLANCES {
                glances.insert(attributes.ino, Glance { attributes, until: now + span, stays });
            }
        });
    }

    /// What a step answered; takes note of what it changed.
    fn take(&self, answer: &Answer, learn: Learn) -> Result<Outcome, StoreError> {
        let mut reader = Reader::new(&answer.text);
        let outcome = reader.outcome().map_err(unreadable)?;
        let changes = reader.changes().map_err(unreadable)?;
        self.copies(|copies| copies.learn(&changes, answer.now, learn)).map_err(unreadable)?;
        self.glances(|glances| {
            for change in &changes {
                match change {
                    Changed::Entries(ino, entries) => {
                        if let Some(glance) = glances.get_mut(ino) {
                            entries.complete(&mut glance.attributes);
                        }
                    }
                    Changed::Object(ino, _) | Changed::Gone(ino) | Changed::Released(ino) => {
                        glances.remove(ino);
                    }
                    _ => {}
                }
            }
        });
        Ok(outcome)
    }

    fn step(&self, script: Script, args: &[&[u8]], gives: Gives) -> Result<Outcome, StoreError> {
        let answer = self.requests.step(script, args, gives)?;
        self.take(&answer, Learn::All)
    }

    fn acquire(&self, command: &Command) -> Result<Outcome, StoreError> {
        let Command::Acquire { caller, spot, new, mode, existing } = command else {
            return Ok(Err(crate::table::Refusal::Invalid));
        };
        let (kind, target): (&[u8], &[u8]) = match new {
            New::File(_) => (b"1", b""),
            New::Directory => (b"2", b""),
            New::Symlink(target) => (b"3", target),
        };
        let how: &[u8] = match existing {
            Existing::Refuse => b"refuse",
            Existing::Open => b"open",
            Existing::OpenEmptied => b"empty",
        };
        let (caller, parent) = (codec::caller(caller), spot.parent.as_u64().to_be_bytes());
        let mode = mode_text(*mode & 0o7777);
        let args: [&[u8]; 7] = [&caller, &parent, spot.name.as_bytes(), kind, mode.as_bytes(), how, target];
        let outcome = self.step(Script::Acquire, &args, Gives::Name)?;
        match &outcome {
            Ok(Reply::Entry(made)) => {
                if *new == New::File(Opening::Opened) {
                    self.copies(|copies| copies.opened(made.ino));
                }
                self.keep(*made, FRESH, false);
            }
            Ok(Reply::Opened(found)) => self.copies(|copies| copies.opened(found.ino)),
            _ => {}
        }
        Ok(outcome)
    }

    fn open_object(&self, command: &Command) -> Result<Outcome, StoreError> {
        let Command::Open { caller, ino, emptied } = command else {
            return Ok(Err(crate::table::Refusal::Invalid));
        };
        let outcome = match emptied {
            false => {
                let found = self.stat(*ino)?;
                found.ok_or(crate::table::Refusal::Gone).map(Reply::Opened)
            }
            true => self.edit("truncate", caller, *ino, [b"0", b"", b"", b""])?.map(|reply| match reply {
                Reply::Entry(found) => Reply::Opened(found),
                other => other,
            }),
        };
        if matches!(&outcome, Ok(Reply::Opened(found)) if found.kind != Kind::Directory) {
            self.copies(|copies| copies.opened(*ino));
        }
        Ok(outcome)
    }

    fn edit(
        &self,
        what: &str,
        caller: &crate::table::Caller,
        ino: Ino,
        values: [&[u8]; 4],
    ) -> Result<Outcome, StoreError> {
        let (caller, ino) = (codec::caller(caller), ino.as_u64().to_be_bytes());
        let [a, b, c, d] = values;
        self.step(Script::Edit, &[what.as_bytes(), &caller, &ino, a, b, c, d], Gives::Nothing)
    }

    fn change(
        &self,
        caller: &crate::table::Caller,
        ino: Ino,
        change: &AttributeChange,
    ) -> Result<Outcome, StoreError> {
        let text = |number: Option<u32>| number.map(|number| number.to_string()).unwrap_or_default();
        let mode = text(change.mode.map(u32::from));
        let (uid, gid) = (text(change.uid), text(change.gid));
        let mtime = change.mtime.map(|mtime| codec::wall(mtime).to_vec()).unwrap_or_default();
        self.edit("change", caller, ino, [mode.as_bytes(), uid.as_bytes(), gid.as_bytes(), &mtime])
    }

    fn session_step(
        &self,
        what: &str,
        caller: Option<&crate::table::Caller>,
        id: &SessionId,
        value: &[u8],
    ) -> Result<Outcome, StoreError> {
        let caller = caller.map(codec::caller).unwrap_or_default();
        let gives = if what == "merge" { Gives::Token } else { Gives::Nothing };
        self.step(Script::Session, &[what.as_bytes(), &caller, id.as_str().as_bytes(), value], gives)
    }

    fn tend(&self, what: &str, args: &[&[u8]]) -> Result<Outcome, StoreError> {
        let mut all = vec![what.as_bytes()];
        all.extend(args);
        let answer = self.requests.step(Script::Tend, &all, Gives::Nothing)?;
        self.take(&answer, Learn::Known)
    }

    /// Learns what sessions hold that this daemon has not seen: those of the daemon before it.
    fn adopt(&self, sessions: &[SessionId]) -> Result<(), StoreError> {
        let unknown = self.copies(|copies| {
            let unknown = sessions.iter().filter(|id| !copies.knows(id));
            unknown.map(|id| id.as_str().as_bytes().to_vec()).collect::<Vec<_>>()
        });
        for batch in unknown.chunks(50) {
            let args: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
            let seen = self.requests.look(Script::Mine, &args)?;
            let changes = Reader::new(&seen.text).changes().map_err(unreadable)?;
            self.copies(|copies| copies.learn(&changes, seen.now, Learn::All)).map_err(unreadable)?;
        }
        Ok(())
    }

    fn release(&self, command: &Command) -> Result<Outcome, StoreError> {
        let (caller, spot, what): (_, _, &[u8]) = match command {
            Command::Unlink { caller, spot } => (caller, spot, b"file"),
            Command::Rmdir { caller, spot } => (caller, spot, b"directory"),
            _ => return Ok(Err(crate::table::Refusal::Invalid)),
        };
        let (caller, parent) = (codec::caller(caller), spot.parent.as_u64().to_be_bytes());
        self.step(Script::Release, &[&caller, &parent, spot.name.as_bytes(), what], Gives::Nothing)
    }

    fn rename(
        &self,
        caller: &crate::table::Caller,
        (from, to): (&Spot, &Spot),
        mode: RenameMode,
        heir: Option<&SessionId>,
    ) -> Result<Outcome, StoreError> {
        let mode: &[u8] = match mode {
            RenameMode::Replace => b"replace",
            RenameMode::NoReplace => b"no-replace",
            RenameMode::Exchange => b"exchange",
        };
        let caller = codec::caller(caller);
        let parents = [from, to].map(|spot| spot.parent.as_u64().to_be_bytes());
        let heir = heir.map(SessionId::as_str).unwrap_or_default().as_bytes();
        let (from, to) = (from.name.as_bytes(), to.name.as_bytes());
        self.step(Script::Rename, &[&caller, &parents[0], from, &parents[1], to, mode, heir], Gives::Token)
    }
}

impl LockStore for RedisStore {
    fn execute(&self, command: &Command) -> Result<Outcome, StoreError> {
        let now = self.requests.now();
        if let Some(outcome) = self.copies(|copies| copies.execute(now, command)) {
            return Ok(outcome);
        }
        match command {
            Command::Acquire { .. } => self.acquire(command),
            Command::Unlink { .. } | Command::Rmdir { .. } => self.release(command),
            Command::Link { caller, ino, spot } => {
                let (caller, ino) = (codec::caller(caller), ino.as_u64().to_be_bytes());
                let parent = spot.parent.as_u64().to_be_bytes();
                self.step(Script::Link, &[&caller, &ino, &parent, spot.name.as_bytes()], Gives::Name)
            }
            Command::Rename { caller, from, to, mode, heir } => {
                self.rename(caller, (from, to), *mode, heir.as_ref())
            }
            Command::Open { .. } => self.open_object(command),
            Command::Close { ino } => {
                self.copies(|copies| copies.closed(*ino));
                Ok(Ok(Reply::Done))
            }
            Command::Write { caller, ino, offset, data } => {
                let offset = offset.map(|offset| offset.to_string()).unwrap_or_default();
                self.edit("write", caller, *ino, [offset.as_bytes(), data, b"", b""])
            }
            Command::Truncate { caller, ino, size } => {
                self.edit("truncate", caller, *ino, [size.to_string().as_bytes(), b"", b"", b""])
            }
            Command::Change { caller, ino, change } => self.change(caller, *ino, change),
            Command::SetTtl { caller, ino, ttl } => {
                self.edit("ttl", caller, *ino, [ttl.as_millis().to_string().as_bytes(), b"", b"", b""])
            }
            Command::SetDefaultTtl { caller, ino, ttl } => {
                let ttl = ttl.map_or("-1".to_owned(), |ttl| ttl.as_millis().to_string());
                self.edit("default-ttl", caller, *ino, [ttl.as_bytes(), b"", b"", b""])
            }
            Command::Break { caller, ino, token } => {
                let (caller, ino) = (codec::caller(caller), ino.as_u64().to_be_bytes());
                self.step(Script::Hand, &[b"break", &caller, &ino, &token.as_u64().to_be_bytes()], Gives::Nothing)
            }
            Command::Transfer { caller, ino, heir } => {
                let (caller, ino) = (codec::caller(caller), ino.as_u64().to_be_bytes());
                self.step(Script::Hand, &[b"transfer", &caller, &ino, heir.as_str().as_bytes()], Gives::Token)
            }
            Command::BeginSession { caller } => self.session_step("begin", Some(caller), &caller.session.id, b""),
            Command::EndSession { caller, id } => self.session_step("end", caller.as_ref(), id, b""),
            Command::MergeSession { caller, from, to } => {
                self.session_step("merge", Some(caller), from, to.as_str().as_bytes())
            }
            Command::TouchSession { caller, id, mtime } => {
                let mtime = mtime.map(|mtime| codec::wall(mtime).to_vec()).unwrap_or_default();
                self.session_step("touch", Some(caller), id, &mtime)
            }
            Command::SetSessionTtl { caller, id, ttl } => {
                self.session_step("ttl", Some(caller), id, ttl.as_millis().to_string().as_bytes())
            }
            Command::Renew { sessions } => {
                let ids: Vec<&[u8]> = sessions.iter().map(|id| id.as_str().as_bytes()).collect();
                let outcome = self.tend("renew", &ids)?;
                self.adopt(sessions)?;
                Ok(outcome)
            }
            Command::MarkEnded { sessions } => {
                let ids: Vec<&[u8]> = sessions.iter().map(|id| id.as_str().as_bytes()).collect();
                self.tend("mark", &ids)
            }
            Command::Sweep { limit } => self.tend("sweep", &[(*limit).min(1 << 30).to_string().as_bytes()]),
        }
    }

    fn now(&self) -> Now {
        self.requests.now()
    }

    fn lookup(&self, spot: &Spot) -> Result<Option<Attributes>, StoreError> {
        let parent = spot.parent.as_u64().to_be_bytes();
        self.read_attributes(&self.requests.look(Script::Look, &[&parent, spot.name.as_bytes()])?)
    }

    fn stat(&self, ino: Ino) -> Result<Option<Attributes>, StoreError> {
        if let Some(orphan) = self.copies(|copies| copies.stat(self.requests.now(), ino)) {
            return Ok(Some(orphan));
        }
        self.read_attributes(&self.requests.look(Script::Look, &[&ino.as_u64().to_be_bytes()])?)
    }

    fn glance(&self, ino: Ino) -> Result<Option<Attributes>, StoreError> {
        let now = self.requests.clock.now().boot;
        let known = self.glances(|glances| match glances.get(&ino).copied() {
            Some(glance) if glance.stays => Some(glance),
            _ => glances.remove(&ino),
        });
        match known {
            Some(glance) if glance.until > now => Ok(Some(glance.attributes)),
            // Whatever the server does: `.lockfs/status` stands in the root.
            Some(glance) if ino == Ino::ROOT => match self.stat(ino) {
                Err(StoreError::Unavailable(_) | StoreError::Timeout(_)) => Ok(Some(glance.attributes)),
                answer => answer,
            },
            _ => self.stat(ino),
        }
    }

    fn view(&self, ino: Ino) -> Result<Option<View>, StoreError> {
        if let Some(orphan) = self.copies(|copies| copies.view(self.requests.now(), ino)) {
            return Ok(Some(orphan));
        }
        let seen = self.requests.look(Script::View, &[&ino.as_u64().to_be_bytes()])?;
        match Reader::new(&seen.text).view().map_err(unreadable)? {
            None if !seen.is_settled => Err(unsettled()),
            view => Ok(view),
        }
    }

    fn list(&self, ino: Ino, after: Option<Token>, limit: usize) -> Result<Option<Vec<Entry>>, StoreError> {
        let number = ino.as_u64().to_be_bytes();
        let (after, limit) = (cookie(after), limit.min(EVENTS).to_string());
        let seen = self.requests.look(Script::List, &[&number, &after, limit.as_bytes()])?;
        Reader::new(&seen.text).entries().map_err(unreadable)
    }

    fn list_held(
        &self,
        id: &SessionId,
        ino: Ino,
        after: Option<Token>,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let number = ino.as_u64().to_be_bytes();
        let (after, limit) = (cookie(after), limit.min(EVENTS).to_string());
        let args: [&[u8]; 4] = [id.as_str().as_bytes(), &number, &after, limit.as_bytes()];
        let seen = self.requests.look(Script::Held, &args)?;
        Ok(Reader::new(&seen.text).entries().map_err(unreadable)?.unwrap_or_default())
    }

    fn session(&self, id: &SessionId) -> Result<Option<Session>, StoreError> {
        let seen = self.requests.look(Script::Sessions, &[b"name", id.as_str().as_bytes()])?;
        Ok(Reader::new(&seen.text).sessions().map_err(unreadable)?.pop())
    }

    fn session_by_number(&self, ino: Ino) -> Result<Option<Session>, StoreError> {
        let seen = self.requests.look(Script::Sessions, &[b"number", &ino.as_u64().to_be_bytes()])?;
        Ok(Reader::new(&seen.text).sessions().map_err(unreadable)?.pop())
    }

    fn list_sessions(&self, after: Option<Ino>, limit: usize) -> Result<Vec<Session>, StoreError> {
        let after = after.map(|ino| ino.as_u64().to_be_bytes().to_vec()).unwrap_or_default();
        let limit = limit.min(EVENTS).to_string();
        let seen = self.requests.look(Script::Sessions, &[b"after", &after, limit.as_bytes()])?;
        Reader::new(&seen.text).sessions().map_err(unreadable)
    }

    fn shortest_ttls(&self, ids: &[SessionId]) -> Result<Vec<Option<Ttl>>, StoreError> {
        let mut args: Vec<&[u8]> = vec![b"ttls"];
        args.extend(ids.iter().map(|id| id.as_str().as_bytes()));
        let seen = self.requests.look(Script::Sessions, &args)?;
        Reader::new(&seen.text).ttls().map_err(unreadable)
    }

    fn events(&self, after: u64, limit: usize) -> Result<EventPage, StoreError> {
        let mut command = redis::cmd("XRANGE");
        command.arg(self.requests.key("events")).arg(format!("({after}-0")).arg("+");
        command.arg("COUNT").arg(limit.min(EVENTS));
        let events = follower::read_events(&self.requests.query(&command)?).map_err(unreadable)?;
        let first = events.first().map_or(after + 1, |(number, ..)| *number);
        Ok(EventPage { first, events: events.into_iter().map(|(_, event, _)| event).collect() })
    }

    fn counts(&self) -> Result<Counts, StoreError> {
        let mut counts = self.tally()?.counts;
        counts.locks += self.copies(|copies| copies.orphans());
        Ok(counts)
    }

    fn health(&self) -> Health {
        let (gone, server, last_event, epoch, drift) = self.requests.known(|known| {
            let drift = known.offset - known.first_offset.unwrap_or(known.offset);
            (known.gone.clone(), known.server.clone(), known.last_event, known.epoch, drift)
        });
        let wall = self.requests.clock.now().wall;
        let offset = self.requests.now().wall.since(wall).as_secs_f64() - wall.since(self.requests.now().wall).as_secs_f64();
        let meters = &self.requests.meters;
        let mut details = vec![("redis", self.requests.primary.endpoint().describe())];
        if let Some(server) = server {
            let (major, minor, patch) = server.version;
            details.push(("redis_address", server.address.to_string()));
            details.push(("redis_version", format!("{major}.{minor}.{patch}")));
            details.push(("redis_role", server.role));
            details.push(("redis_replicas", server.replicas.to_string()));
            details.push(("redis_appendonly", server.appendonly.map_or("unknown", yes_no).to_owned()));
        }
        if let Some((median, p99)) = meters.percentiles() {
            details.push(("round_trip_p50", format!("{}us", median.as_micros())));
            details.push(("round_trip_p99", format!("{}us", p99.as_micros())));
        }
        details.push(("clock_offset", format!("{offset:+.3}s")));
        details.push(("clock_drift", format!("{:+}ms", drift / 1_000_000)));
        details.push(("epoch", epoch.to_string()));
        details.push(("acks", self.acks.count().to_string()));
        details.push(("connections_idle", self.requests.idle().to_string()));
        details.push(("connections_made", meters.connected.get().to_string()));
        details.push(("commands", meters.commands.get().to_string()));
        details.push(("commands_repeated", meters.repeated.get().to_string()));
        details.push(("commands_unknown", meters.unknown.get().to_string()));
        details.push(("acquires_undone", meters.undone.get().to_string()));
        details.push(("acquires_to_undo", self.requests.undo.len().to_string()));
        details.push(("outages", meters.outages.get().to_string()));
        details.push(("reasserted", meters.reasserted.get().to_string()));
        details.push(("events_lag", last_event.saturating_sub(self.heard.last()).to_string()));
        let hosts = self.keeper.hosts();
        details.push(("hosts", hosts.len().to_string()));
        let trouble = match gone {
            Some(gone) => {
                let span = self.requests.clock.now().boot.since(gone.since);
                Some(format!("redis is gone since {}s: {}", span.as_secs(), gone.why))
            }
            None => self.keeper.trouble(),
        };
        Health { backend: "redis", scope: "cluster", trouble, details }
    }

    fn close(&self) -> Result<(), StoreError> {
        if self.requests.known(|known| known.is_closed) {
            return Ok(());
        }
        self.keeper.leave();
        self.requests.end();
        let client = self.heard.client.load(std::sync::atomic::Ordering::Relaxed);
        if client != 0 {
            // It waits there for the next event; where this is not allowed it ends a second later.
            self.requests.query(redis::cmd("CLIENT").arg("UNBLOCK").arg(client)).ok();
        }
        self.requests.disconnect();
        for thread in std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner)) {
            // A panic in it has been printed by the panic hook.
            thread.join().ok();
        }
        Ok(())
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.close().ok();
    }
}

fn yes_no(answer: bool) -> &'static str {
    if answer { "yes" } else { "no" }
}

fn mode_text(mode: u16) -> String {
    mode.to_string()
}

fn cookie(after: Option<Token>) -> Vec<u8> {
    after.map(|token| token.as_u64().to_be_bytes().to_vec()).unwrap_or_default()
}

fn unsettled() -> StoreError {
    StoreError::Unavailable("redis may have lost data, and its hosts still say what they hold: try again".to_owned())
}

/// What no other daemon has.
fn instance(host: &str) -> std::io::Result<String> {
    let mut bytes = [0; 8];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(format!("{host}:{:016x}", u64::from_be_bytes(bytes)))
}

impl fmt::Display for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.requests.primary.endpoint().describe())
    }
}
