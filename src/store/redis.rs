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
//! | `past` | sorted set | of each epoch before this one the last token that this data knows of; a thousand |
//! | `mounts` | hash | mounts and their leases |
//! | `f:INO` | hash | what each mount has of an object: whether it is open there, and its advisory locks |
//! | `m:MOUNT` | sorted set | of what a mount has something, and for what it waits |
//! | `u:MOUNT` | stream | what a mount is to hear: wakes |
//! | `w:SUBJECT` | sorted set | who waits for a lock on an object or for a name, in their order |
//! | `waits`, `k:ID` | hash, set | who waits, of all; of a session |
//! | `r` | sorted set | until when something is reserved for whom |
//! | `q:DAEMON` | hash | the last answer to each request under way; behind `k` what the kernel calls it; under `/` who serves the mount since |
//! | `a:MOUNT` | set | the keys of answers of the daemons that served a mount |
//! | `changed` | set | while a migration copies the namespace: objects (`o`) and sessions (`s`) that changed since it asked |
//! | `before` | set | while a migration fills the namespace: what was there before, in the same way |
//!
//! No key of locks has an expiry of the server's: a part that goes by itself would tear the tree, and servers
//! evict what has one first (`volatile-*`). A lock past its deadline is dead for every script, and any daemon
//! sweeps it.

mod advisory;
mod beside;
mod cluster;
mod codec;
mod copies;
mod endpoint;
mod follower;
mod handshake;
mod keeper;
mod link;
mod meters;
mod moving;
mod opens;
mod orphan;
mod primary;
mod report;
mod requests;
mod script;
mod sentinel;
mod standing;
mod steps;
mod succession;
mod tap;
mod tls;
mod undo;
mod url;
mod waker;
mod wire;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub(super) use beside::Dropped;
pub use endpoint::{Acks, Address, Database, Endpoint, Login, Node, Place, Secret, Tls};
pub use handshake::Server;
pub use link::{Fault, Link, LinkError};
pub(in crate::store) use moving::{RedisEnd, place};
pub use primary::{Generation, Primary, Unreachable};

use super::{EventPage, Health, LockStore, StoreError, Tenure, Wakes};
use crate::clock::{BootTime, Clock, Now};
use crate::lock::{Attributes, Ino, Kind, Mount, MountId, RequestId, Session, SessionId, Token, Ttl, Waiter};
use crate::table::{Command, Counts, Entry, Outcome, Spot, View};
use codec::Reader;
use copies::Copies;
use follower::Heard;
use keeper::{Keeper, Memory};
use requests::{Requests, Seen, unreadable};
use script::Script;
use undo::UndoList;
use waker::Waker;

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
    /// The mount that is served, and whether another daemon has served it before.
    pub tenure: Tenure,
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
    waker: Arc<Waker>,
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
        let store = Self::prepare(options, clock)?;
        store.keeper.settle()?;
        store.refuse_closed()?;
        store.warn();
        store.start().map_err(|error| StoreError::Failed(error.to_string()))?;
        Ok(store)
    }

    /// All of it, before anything is asked.
    fn prepare(options: &Options, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
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
        let requests =
            Requests::new(primary.map_err(failed)?, clock, &prefix, &instance, acks, (undo, options.tenure));
        let (requests, copies) = (Arc::new(requests), Arc::<Mutex<Copies>>::default());
        let who = (options.host.as_str(), format!("{} {instance}", options.machine));
        let memory = Memory(file(".namespace"));
        let waker = Arc::<Waker>::default();
        let keeper = Keeper::new(
            Arc::clone(&requests),
            Arc::clone(&copies),
            Arc::clone(&waker),
            who,
            options.owner,
            options.window,
            memory,
        );
        Ok(Self {
            requests,
            copies,
            keeper: Arc::new(keeper),
            heard: Arc::default(),
            waker,
            glances: Mutex::default(),
            threads: Mutex::default(),
            acks: options.acks,
        })
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

    /// A namespace that has moved, or is being filled, is nothing to mount.
    fn refuse_closed(&self) -> Result<(), StoreError> {
        self.requests.known(|known| known.closed.clone()).map_or(Ok(()), |why| Err(StoreError::Failed(why)))
    }

    /// Says what the server is set to that puts locks at risk.
    fn warn(&self) {
        let Some(server) = self.requests.known(|known| known.server.clone()) else {
            return;
        };
        if server.appendonly == Some(false) {
            log::warn!("redis keeps no append-only file: a restart loses locks (appendonly yes)");
        }
        if let Some(policy) =
            server.maxmemory_policy.filter(|policy| server.maxmemory > 0 && policy != "noeviction")
        {
            log::warn!(
                "redis may evict locks when its memory is full (maxmemory-policy is {policy}: say noeviction)"
            );
        }
    }

    fn copies<T>(&self, act: impl FnOnce(&mut Copies) -> T) -> T {
        act(&mut self.copies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn glances<T>(&self, act: impl FnOnce(&mut HashMap<Ino, Glance>) -> T) -> T {
        act(&mut self.glances.lock().unwrap_or_else(PoisonError::into_inner))
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
            if attributes.ino == Ino::ROOT {
                self.keeper.see_root(*attributes);
            }
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
}

impl LockStore for RedisStore {
    fn execute_for(&self, request: Option<RequestId>, command: &Command) -> Result<Outcome, StoreError> {
        let now = self.requests.now();
        if let Some((outcome, wakes)) = self.copies(|copies| copies.execute(now, command)) {
            self.waker.tell(&self.requests, wakes);
            return Ok(outcome);
        }
        // What a mount says for itself is so however often it says it.
        let asked = request.filter(|_| command.caller().is_some());
        let _asked = self.requests.succession.begin(asked, command.number());
        self.carry_out(command)
    }

    fn recall_opens(&self, mount: MountId, opens: &[(Ino, u64)], ended: &[u64]) -> Result<(), StoreError> {
        self.requests
            .succession
            .note_handles(opens.iter().map(|(_, request)| *request).chain(ended.iter().copied()));
        self.copies(|copies| {
            for (ino, _) in opens {
                copies.opens.open_untold(*ino, mount);
                copies.tell_again(*ino, mount);
            }
        });
        self.tell_opens();
        Ok(())
    }

    fn remembers(&self, request: RequestId) -> Result<bool, StoreError> {
        self.requests.succession.remembers(request)
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
            return Ok(orphan);
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
            // Whatever the server does: `.lockfs/status` stands in the root. The keeper looks at it each second.
            _ if ino == Ino::ROOT => match self.keeper.root().or(known.map(|glance| glance.attributes)) {
                Some(attributes) => Ok(Some(attributes)),
                None => self.stat(ino),
            },
            _ => self.stat(ino),
        }
    }

    fn view(&self, ino: Ino) -> Result<Option<View>, StoreError> {
        if let Some(orphan) = self.copies(|copies| copies.view(self.requests.now(), ino)) {
            return Ok(orphan);
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

    fn queue(&self, spot: &Spot) -> Result<Vec<Waiter>, StoreError> {
        let parent = spot.parent.as_u64().to_be_bytes();
        let seen = self.requests.look(Script::Waiting, &[&parent, spot.name.as_bytes()])?;
        Reader::new(&seen.text).waiters().map_err(unreadable)
    }

    fn mounts(&self) -> Result<Vec<Mount>, StoreError> {
        let seen = self.requests.look(Script::Waiting, &[b""])?;
        Reader::new(&seen.text).mounts().map_err(unreadable)
    }

    fn end_wakes(&self) {
        self.waker.end(&self.requests);
    }

    fn await_wakes(&self, limit: Duration) -> Result<Wakes, StoreError> {
        let (wakes, advisory) = self.waker.await_wakes(&self.requests, limit)?;
        // Each is to be heard.
        let news =
            self.copies(|copies| advisory.into_iter().filter(|ino| copies.hear_advisory(*ino)).count());
        if news > 0 {
            self.requests.call_keeper();
        }
        Ok(wakes)
    }

    fn events(&self, after: u64, limit: usize) -> Result<EventPage, StoreError> {
        let (is_there, last) = self.requests.known(|known| (known.gone.is_none(), known.last_event));
        if is_there {
            self.heard.await_event(last);
        }
        Ok(self.heard.page(after, limit.min(EVENTS)))
    }

    fn counts(&self) -> Result<Counts, StoreError> {
        let seen = self.requests.look(Script::Counts, &[])?;
        let mut counts = Reader::new(&seen.text).counts().map_err(unreadable)?;
        let (orphans, waits) = self.copies(|copies| copies.orphans());
        counts.locks += orphans;
        counts.waits += waits;
        Ok(counts)
    }

    fn health(&self) -> Health {
        self.report()
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
        self.waker.end(&self.requests);
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

fn cookie(after: Option<Token>) -> Vec<u8> {
    after.map(|token| token.as_u64().to_be_bytes().to_vec()).unwrap_or_default()
}

fn unsettled() -> StoreError {
    StoreError::Unavailable(
        "redis may have lost data, and its hosts still say what they hold: try again".to_owned(),
    )
}

/// What no other daemon has.
fn instance(host: &str) -> std::io::Result<String> {
    Ok(format!("{host}:{:016x}", u64::from_be_bytes(super::random()?)))
}
