//! Wakes: what tells this daemon that calls that wait should ask again.
//!
//! Each mount has a stream on the server, and one thread of the daemon reads on in it, on a connection of its own, as
//! soon as something comes: a lock is handed over in the time of a round trip. The server holds the question while
//! nothing happens, so that waiting costs it nothing.
//!
//! The invariant: no wake is missed for good. Where one may have been (another connection, another server, a lease that
//! ran out), all that wait are told to ask again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Value;

use super::codec::{Reader, Told};
use super::link::{Fault, Link, LinkError};
use super::requests::Requests;
use crate::lock::{Ino, MountId, WaitId};
use crate::store::{StoreError, Wakes};

/// How long the server holds a question at most.
const HOLD: Duration = Duration::from_secs(30);

/// How many entries are read at once.
const PAGE: usize = 1_000;

/// How long to wait before a server is tried again that was not reached.
const PAUSE: Duration = Duration::from_millis(100);

/// How often, and after how long, a question is ended again that was just about to be asked.
const TRIES: u32 = 50;
const RETRY: Duration = Duration::from_millis(2);

/// What is to be told.
#[derive(Debug, Default)]
struct Pending {
    /// Of what the server does not know.
    wakes: Vec<WaitId>,
    /// Some may have been told, and it was not heard.
    all: bool,
    /// The mounts that this daemon attends, and the last entry read of each.
    read: BTreeMap<MountId, String>,
    is_ended: bool,
}

impl Pending {
    fn is_news(&self) -> bool {
        self.is_ended || self.all || !self.wakes.is_empty()
    }
}

/// A connection, and what the server calls it.
#[derive(Debug)]
struct Line {
    link: Link,
    id: u64,
}

/// What hears the wakes.
///
/// Lock order: `line` before `pending`; neither is held while a step is asked.
#[derive(Debug, Default)]
pub(super) struct Waker {
    pending: Mutex<Pending>,
    changed: Condvar,
    line: Mutex<Option<Line>>,
    /// The server's number of the connection while a question is held there; 0 while none is.
    held: AtomicU64,
}

/// What was heard: wakes, and files that are advisory from now on.
type Heard = (Wakes, Vec<Ino>);

impl Waker {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A mount is attended, and its lease was there or begins.
    pub(super) fn attend(&self, requests: &Requests, mount: MountId, was_there: bool) {
        {
            let mut pending = self.pending();
            if was_there && pending.read.contains_key(&mount) {
                return;
            }
            // A lease that begins begins with nothing to hear.
            pending.all |= was_there;
            pending.read.insert(mount, "0-0".to_owned());
        }
        self.stir(requests);
    }

    /// Mounts are attended no more.
    pub(super) fn leave(&self, mounts: &[MountId]) {
        let mut pending = self.pending();
        mounts.iter().for_each(|mount| drop(pending.read.remove(mount)));
    }

    /// Tells of calls that the server does not know.
    pub(super) fn tell(&self, requests: &Requests, wakes: Vec<WaitId>) {
        if !wakes.is_empty() {
            self.pending().wakes.extend(wakes);
            self.stir(requests);
        }
    }

    /// Tells of all: the server may have forgotten some.
    pub(super) fn tell_all(&self, requests: &Requests) {
        self.pending().all = true;
        self.stir(requests);
    }

    /// Ends the question that the server holds, or is about to.
    fn stir(&self, requests: &Requests) {
        self.changed.notify_all();
        for _ in 0..TRIES {
            let id = self.held.load(Ordering::Acquire);
            // Of a server that is gone nothing is heard: the next connection tells of all.
            if id == 0 || requests.known(|known| known.gone.is_some()) {
                break;
            }
            match requests.query(redis::cmd("CLIENT").arg("UNBLOCK").arg(id)) {
                Ok(Value::Int(0)) => std::thread::sleep(RETRY),
                _ => break,
            }
        }
    }

    /// Nothing is heard any more.
    pub(super) fn end(&self, requests: &Requests) {
        self.pending().is_ended = true;
        self.stir(requests);
        if let Ok(mut line) = self.line.try_lock() {
            *line = None;
        }
    }

    /// Waits, for `limit` at most, until something is heard.
    ///
    /// # Errors
    /// [`StoreError`]: the server can't say.
    pub(super) fn await_wakes(&self, requests: &Requests, limit: Duration) -> Result<Heard, StoreError> {
        let (is_news, mounts) = {
            let idle = |pending: &mut Pending| !pending.is_news() && pending.read.is_empty();
            let waited = self.changed.wait_timeout_while(self.pending(), limit, idle);
            let (pending, _) = waited.unwrap_or_else(PoisonError::into_inner);
            (pending.is_news(), pending.read.clone())
        };
        let heard = match mounts.is_empty() || self.pending().is_ended {
            true => Ok(Vec::new()),
            false => self.read(requests, mounts, if is_news { Duration::ZERO } else { limit }),
        };
        let (wakes, all) = {
            let mut pending = self.pending();
            (std::mem::take(&mut pending.wakes), std::mem::take(&mut pending.all))
        };
        let told = match heard {
            Ok(told) => told,
            Err(error) if wakes.is_empty() && !all && !self.pending().is_ended => return Err(error),
            Err(_) => Vec::new(),
        };
        let (mut heard, mut files) = (Vec::new(), Vec::new());
        for told in told {
            match told {
                Told::Wake(at, id) => heard.push((at, id)),
                Told::Advisory(ino) => files.push(ino),
            }
        }
        // Of several mounts in the order in which they were told.
        heard.sort_by_key(|(at, _)| *at);
        let these = wakes.into_iter().chain(heard.into_iter().map(|(_, id)| id)).collect();
        Ok((if all { Wakes::All } else { Wakes::These(these) }, files))
    }

    /// What came after what was read last; waits for it, for `limit` at most.
    fn read(
        &self,
        requests: &Requests,
        mounts: BTreeMap<MountId, String>,
        limit: Duration,
    ) -> Result<Vec<Told>, StoreError> {
        let mut place = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = place.is_none();
        let line = match place.take().filter(|line| line.link.is_usable()) {
            Some(line) => place.insert(line),
            None => {
                // What was told through the one before may be lost.
                self.pending().all |= !is_first;
                let line = self.connect(requests, limit)?;
                place.insert(line)
            }
        };
        let told = self.ask(requests, line, &mounts, None)?;
        let hold = limit.min(HOLD);
        if !told.is_empty() || hold < Duration::from_millis(1) {
            return Ok(told);
        }
        self.held.store(line.id, Ordering::Release);
        let is_news = self.pending().is_news();
        let told = match is_news {
            true => Ok(Vec::new()),
            false => self.ask(requests, line, &mounts, Some(hold)),
        };
        self.held.store(0, Ordering::Release);
        told
    }

    fn connect(&self, requests: &Requests, limit: Duration) -> Result<Line, StoreError> {
        if requests.known(|known| known.gone.is_some()) {
            requests.wait_for_server(limit);
        }
        let asked = Link::connect(&requests.primary).and_then(|mut link| {
            let id = link.query(redis::cmd("CLIENT").arg("ID"))?;
            Ok((link, id))
        });
        match asked {
            Ok((link, Value::Int(id))) => Ok(Line { link, id: id.unsigned_abs() }),
            Ok((_, other)) => Err(StoreError::Failed(format!("redis calls a connection {other:?}"))),
            Err(error) => {
                // Nobody else may have noticed.
                requests.rest_unless_closed(PAUSE.min(limit));
                self.pending().all = true;
                Err(StoreError::Unavailable(error.to_string()))
            }
        }
    }

    /// One question; the server holds it for `hold`.
    fn ask(
        &self,
        requests: &Requests,
        line: &mut Line,
        mounts: &BTreeMap<MountId, String>,
        hold: Option<Duration>,
    ) -> Result<Vec<Told>, StoreError> {
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(PAGE);
        if let Some(hold) = hold {
            command.arg("BLOCK").arg(u64::try_from(hold.as_millis()).unwrap_or(u64::MAX));
        }
        command.arg("STREAMS");
        for mount in mounts.keys() {
            command.arg([requests.key("u:"), mount.as_u64().to_be_bytes().to_vec()].concat());
        }
        for last in mounts.values() {
            command.arg(last);
        }
        let limit = hold.unwrap_or_default() + requests.limit();
        let streams = match line.link.query_within(&command, limit) {
            Ok(Value::Array(streams)) => streams,
            Ok(_) => return Ok(Vec::new()),
            Err(error) => {
                self.pending().all = true;
                return Err(said(requests, &error));
            }
        };
        let mut told = Vec::new();
        for stream in &streams {
            let Some((mount, entries)) = read_stream(requests, stream) else { continue };
            for (id, text) in entries {
                // What is none of ours is passed over.
                told.extend(Reader::new(text).told(mount).unwrap_or_default());
                if let Some(last) = self.pending().read.get_mut(&mount) {
                    *last = id;
                }
            }
        }
        Ok(told)
    }
}

/// An entry of a stream: its number, and what it says.
type Entry<'a> = (String, &'a [u8]);

/// The mount whose stream it is, and its entries: of each the number and what it says.
fn read_stream<'a>(requests: &Requests, stream: &'a Value) -> Option<(MountId, Vec<Entry<'a>>)> {
    let Value::Array(parts) = stream else { return None };
    let [Value::BulkString(key), Value::Array(entries)] = parts.as_slice() else { return None };
    let mount = key.strip_prefix(requests.key("u:").as_slice())?;
    let mount = MountId::from_u64(u64::from_be_bytes(mount.try_into().ok()?));
    let read = |entry: &'a Value| {
        let Value::Array(parts) = entry else { return None };
        let [Value::BulkString(id), Value::Array(fields)] = parts.as_slice() else { return None };
        let text: &[u8] = match fields.as_slice() {
            [_, Value::BulkString(text)] => text,
            _ => b"",
        };
        Some((String::from_utf8(id.clone()).ok()?, text))
    };
    Some((mount, entries.iter().filter_map(read).collect()))
}

fn said(requests: &Requests, error: &LinkError) -> StoreError {
    match error.fault() {
        Some(Fault::WrongType) => {
            let key = requests.key("u:");
            let key = String::from_utf8_lossy(&key);
            StoreError::Failed(format!("{error} (a key {key}* is not of lockfs: remove it)"))
        }
        Some(Fault::Denied | Fault::Other) => StoreError::Failed(error.to_string()),
        _ => StoreError::Unavailable(error.to_string()),
    }
}
