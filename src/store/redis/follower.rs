//! The follower: the thread that hears the events of all hosts, on a connection of its own.
//!
//! It reads on from the last event that it heard, whatever happens to the connection: none is missed, and none
//! heard twice, as long as the server remembers them. What it has heard it keeps, so that whoever asks for events
//! asks nobody: they can be read while the server is gone.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Value;

use super::codec::Reader;
use super::copies::Copies;
use super::link::{Link, LinkError};
use super::requests::Requests;
use crate::lock::{Event, Ino};
use crate::store::EventPage;

/// How long the server holds a question while nothing happens.
const HOLD: Duration = Duration::from_secs(1);

/// How long events are left to gather before they are heard: each question costs the server as much as a look.
const GATHER: Duration = Duration::from_millis(20);

/// How many events are heard at once.
const PAGE: usize = 500;

/// How many events are kept: as many as the server keeps at least.
const KEPT: usize = 10_000;

/// How long to wait at most for an event that is known to have happened.
const LAG: Duration = Duration::from_secs(1);

/// An event with its number, and the inode that it is about.
type Heeded = (u64, Event, Ino);

/// What the follower has heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    recent: Mutex<Recent>,
    /// Says that more was heard.
    more: Condvar,
    /// The server's connection id while the follower waits there; 0 while it does not.
    pub(super) client: AtomicU64,
}

#[derive(Debug, Default)]
struct Recent {
    /// The number of the last event heard.
    last: u64,
    /// The last events, each with its number; numbers rise.
    events: VecDeque<(u64, Event)>,
    /// The number of an event that was waited for already.
    awaited: u64,
}

impl Heard {
    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the last event heard.
    pub(super) fn last(&self) -> u64 {
        self.recent().last
    }

    /// Waits for the event of that number, as long as it should take at most, and only once.
    pub(super) fn await_event(&self, number: u64) {
        let mut recent = self.recent();
        if recent.awaited < number {
            let lags = |recent: &mut Recent| recent.last < number;
            let wait = self.more.wait_timeout_while(recent, LAG, lags);
            recent = wait.unwrap_or_else(PoisonError::into_inner).0;
            recent.awaited = recent.awaited.max(number);
        }
    }

    /// Events after the one numbered `after`, up to the first that is missing.
    pub(super) fn page(&self, after: u64, limit: usize) -> EventPage {
        let recent = self.recent();
        let begin = recent.events.partition_point(|(number, _)| *number <= after);
        let mut events = recent.events.iter().skip(begin);
        let Some((first, event)) = events.next() else {
            return EventPage { first: after + 1, events: Vec::new() };
        };
        let numbered = events.zip(first + 1..).take_while(|((number, _), expected)| number == expected);
        let next = numbered.map(|((_, event), _)| event.clone());
        EventPage { first: *first, events: std::iter::once(event.clone()).chain(next).take(limit).collect() }
    }

    fn skip_to(&self, number: u64) {
        let mut recent = self.recent();
        recent.last = recent.last.max(number);
    }

    fn add(&self, number: u64, event: Event) {
        let mut recent = self.recent();
        if number <= recent.last {
            return;
        }
        recent.last = number;
        recent.events.push_back((number, event));
        if recent.events.len() > KEPT {
            recent.events.pop_front();
        }
    }
}

/// Hears events until the store is closed.
pub(super) fn follow(requests: &Requests, heard: &Heard, copies: &Mutex<Copies>) {
    let mut link: Option<Link> = None;
    let mut in_trouble = false;
    while !requests.known(|known| known.is_closed) {
        let Some(open) = link.as_mut().filter(|link| link.is_usable()) else {
            heard.client.store(0, Ordering::Relaxed);
            let is_there = requests.known(|known| known.gone.is_none());
            link = if is_there { Link::connect(&requests.primary).ok() } else { None };
            match link.as_mut().map(|link| link.query(redis::cmd("CLIENT").arg("ID"))) {
                Some(Ok(Value::Int(id))) => heard.client.store(id.unsigned_abs(), Ordering::Relaxed),
                Some(_) => {}
                // Nobody else may have noticed.
                None if is_there => requests.rest_unless_closed(GATHER * 10),
                None => requests.wait_for_server(HOLD),
            }
            continue;
        };
        let last = requests.known(|known| known.last_event);
        let pause = match hear(open, requests, heard.last()) {
            // The server has lost those that it does not have.
            Ok(page) if page.is_empty() => {
                if heard.last() < last {
                    requests.tap.miss();
                }
                heard.skip_to(last);
                in_trouble = false;
                GATHER
            }
            Ok(page) => {
                in_trouble = false;
                let is_foreign = page.iter().all(Option::is_none) && !page.is_empty();
                for (number, event, ino) in page.into_iter().flatten() {
                    if number > heard.last() + 1 {
                        requests.tap.miss();
                    }
                    requests.tap.hear(&event, ino);
                    let mut copies = copies.lock().unwrap_or_else(PoisonError::into_inner);
                    copies.hear(event.kind, ino, event.token);
                    drop(copies);
                    heard.add(number, event);
                    requests.known(|known| known.last_event = known.last_event.max(number));
                }
                heard.more.notify_all();
                if is_foreign { HOLD } else { GATHER }
            }
            Err(error) => {
                let is_said = matches!(error, LinkError::Server { .. });
                if is_said && !in_trouble {
                    log::warn!("events are not heard: {error}");
                }
                in_trouble |= is_said;
                log::debug!("events are not heard for a moment: {error}");
                if is_said { HOLD } else { GATHER }
            }
        };
        requests.rest_unless_closed(pause);
    }
}

/// What came after the event numbered `last`; of what is none of our events, nothing.
fn hear(link: &mut Link, requests: &Requests, last: u64) -> Result<Vec<Option<Heeded>>, LinkError> {
    let mut command = redis::cmd("XREAD");
    command.arg("COUNT").arg(PAGE).arg("BLOCK").arg(u64::try_from(HOLD.as_millis()).unwrap_or(1000));
    command.arg("STREAMS").arg(requests.key("events")).arg(format!("{last}-0"));
    let Value::Array(streams) = link.query_within(&command, HOLD + requests.limit())? else {
        return Ok(Vec::new());
    };
    let Some(Value::Array(stream)) = streams.into_iter().next() else {
        return Ok(Vec::new());
    };
    match stream.into_iter().nth(1) {
        Some(Value::Array(entries)) => Ok(entries.iter().map(read_event).collect()),
        _ => Ok(Vec::new()),
    }
}

/// The event of an entry of the stream.
fn read_event(entry: &Value) -> Option<Heeded> {
    let Value::Array(parts) = entry else { return None };
    let [Value::BulkString(id), Value::Array(fields)] = parts.as_slice() else { return None };
    let [_, Value::BulkString(text)] = fields.as_slice() else { return None };
    let number = std::str::from_utf8(id).ok()?.strip_suffix("-0")?.parse().ok()?;
    let (event, ino) = Reader::new(text).event().ok()?;
    Some((number, event, ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallTime;
    use crate::lock::{EventKind, LockPath};

    fn event() -> Event {
        let (at, path) = (WallTime::default(), LockPath::default());
        Event { at, kind: EventKind::Begin, path, token: None, session: None }
    }

    fn shape(page: &EventPage) -> (u64, usize) {
        (page.first, page.events.len())
    }

    #[test]
    fn a_page_ends_where_an_event_is_missing() {
        let heard = Heard::default();
        assert_eq!(shape(&heard.page(7, 100)), (8, 0));
        for number in [3, 4, 4, 2, 5, 9] {
            heard.add(number, event());
        }
        assert_eq!(shape(&heard.page(0, 100)), (3, 3));
        assert_eq!(shape(&heard.page(3, 1)), (4, 1));
        assert_eq!(shape(&heard.page(5, 100)), (9, 1));
        assert_eq!(shape(&heard.page(9, 100)), (10, 0));
    }
}
