//! The follower: the thread that hears the events of all hosts, on a connection of its own.
//!
//! It reads on from the last event that it heard, whatever happens to the connection: none is missed, and none
//! heard twice, as long as the server remembers them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::Value;

use super::codec::Reader;
use super::copies::Copies;
use super::link::Link;
use super::requests::Requests;
use crate::lock::{Event, Ino};

/// How long the server holds a question while nothing happens.
const HOLD: Duration = Duration::from_secs(1);

/// How long events are left to gather before they are heard: each question costs the server as much as a look.
const GATHER: Duration = Duration::from_millis(20);

/// How many events are heard at once.
const PAGE: usize = 500;

/// What the follower has heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The number of the last event.
    last: AtomicU64,
    /// The server's connection id while the follower waits there; 0 while it does not.
    pub(super) client: AtomicU64,
}

impl Heard {
    /// The number of the last event heard.
    pub(super) fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// Begins behind the event of that number.
    pub(super) fn begin(&self, last: u64) {
        self.last.store(last, Ordering::Relaxed);
    }
}

/// Hears events until the store is closed.
pub(super) fn follow(requests: &Requests, heard: &Heard, copies: &Mutex<Copies>) {
    let mut link: Option<Link> = None;
    while !requests.known(|known| known.is_closed) {
        let Some(open) = link.as_mut().filter(|link| link.is_usable()) else {
            heard.client.store(0, Ordering::Relaxed);
            let is_there = requests.known(|known| known.gone.is_none());
            link = if is_there { Link::connect(&requests.primary).ok() } else { None };
            match link.as_mut().map(|link| link.query(redis::cmd("CLIENT").arg("ID"))) {
                Some(Ok(Value::Int(id))) => heard.client.store(id.unsigned_abs(), Ordering::Relaxed),
                Some(_) => {}
                None => requests.wait_for_server(HOLD),
            }
            continue;
        };
        match hear(open, requests, heard.last()) {
            Ok(page) => {
                for (number, event, ino) in page {
                    let mut copies = copies.lock().unwrap_or_else(PoisonError::into_inner);
                    copies.hear(event.kind, ino, event.token);
                    drop(copies);
                    heard.last.store(number, Ordering::Relaxed);
                }
                requests.rest_unless_closed(GATHER);
            }
            Err(why) => {
                log::debug!("events are not heard for a moment: {why}");
                link = None;
            }
        }
    }
}

fn hear(link: &mut Link, requests: &Requests, last: u64) -> Result<Vec<(u64, Event, Ino)>, String> {
    let mut command = redis::cmd("XREAD");
    command.arg("COUNT").arg(PAGE).arg("BLOCK").arg(u64::try_from(HOLD.as_millis()).unwrap_or(1000));
    command.arg("STREAMS").arg(requests.key("events")).arg(format!("{last}-0"));
    let answer = link.query_within(&command, HOLD + requests.limit()).map_err(|error| error.to_string())?;
    let Value::Array(streams) = answer else {
        return Ok(Vec::new());
    };
    let Some(Value::Array(stream)) = streams.into_iter().next() else {
        return Ok(Vec::new());
    };
    let entries = stream.into_iter().nth(1).unwrap_or(Value::Nil);
    read_events(&entries).map_err(|error| error.to_string())
}

/// The events of an answer to XRANGE, or of a stream in one to XREAD.
pub(super) fn read_events(entries: &Value) -> Result<Vec<(u64, Event, Ino)>, super::codec::Malformed> {
    let Value::Array(entries) = entries else {
        return Ok(Vec::new());
    };
    let read = |entry: &Value| {
        let malformed = || super::codec::Malformed::from("an event that is none of lockfs");
        let Value::Array(parts) = entry else { return Err(malformed()) };
        let [Value::BulkString(id), Value::Array(fields)] = parts.as_slice() else { return Err(malformed()) };
        let [_, Value::BulkString(text)] = fields.as_slice() else { return Err(malformed()) };
        let number = std::str::from_utf8(id).ok().and_then(|id| id.split('-').next()?.parse().ok());
        let (event, ino) = Reader::new(text).event()?;
        Ok((number.ok_or_else(malformed)?, event, ino))
    };
    entries.iter().map(read).collect()
}
