//! `lockfs watch`: what happens to the locks of a mount, as it happens.
//!
//! It reads the mount's own `.lockfs/events`, which only grows, from where it stopped: no event is missed and none
//! comes twice, whatever becomes of the store meanwhile.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::json::Object;
use super::mounts::{Mount, default_mount, mount_at, shown};
use super::out::{is_unread_within, print};
use super::{Exit, Failure, Outcome, say};

/// Print what happens to locks, as it happens
///
/// One line for each acquire, release, expiry, break, transfer and loss of a lock, and for each beginning and end of
/// a named session; of every host that shares the store, in the order in which it happened. Where the store is not
/// reachable for a while it says so on stderr, and goes on without a gap. It ends when nobody reads its output, or
/// when the mount goes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  $ lockfs watch
  $ lockfs watch --all --json /locks")]
pub(super) struct Watch {
    /// Which mount [default: LOCKFS_MOUNT, the mount around here, or the only one]
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: Option<PathBuf>,
    /// Print JSON: an object a line
    #[arg(long)]
    json: bool,
    /// Begin with all that is remembered: some ten thousand events
    #[arg(long, short)]
    all: bool,
}

/// How often it looks for more.
const PERIOD: Duration = Duration::from_millis(200);

/// How many bytes are asked for at a time.
const CHUNK: usize = 64 << 10;

impl Watch {
    pub(super) fn perform(self) -> Outcome {
        let mount = match &self.mountpoint {
            Some(point) => mount_at(point)?,
            None => default_mount()?,
        };
        let gone = |error: io::Error| {
            let point = shown(&mount.point);
            Failure::new(Exit::Unavailable, format!("the lockfs on {point} does not answer: {error}"))
        };
        let events = File::open(mount.path(".lockfs/events")).map_err(gone)?;
        let mut tail = Tail::default();
        if !self.all {
            tail.offset = events.metadata().map_err(gone)?.len();
        }
        let mut store = Store::default();
        loop {
            let lines = tail.read(&events).map_err(gone)?;
            if let Some(news) = store.look(&mount).map_err(gone)? {
                say(news);
            }
            if !lines.is_empty() {
                print(if self.json { as_json(&lines) } else { as_text(&lines) })?;
            } else if is_unread_within(PERIOD) {
                return Ok(Exit::Unread);
            }
        }
    }
}

/// Where the reading is.
#[derive(Debug, Default)]
struct Tail {
    offset: u64,
    /// The beginning of a line whose end has not come yet.
    rest: Vec<u8>,
}

impl Tail {
    /// The lines that have come; an empty one stands for what was forgotten before it was read.
    fn read(&mut self, events: &File) -> io::Result<Vec<String>> {
        let mut buffer = vec![0; CHUNK];
        let length = match events.read_at(&mut buffer, self.offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            length => length?,
        };
        self.offset += length as u64;
        Ok(self.take(&buffer[..length]))
    }

    fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(bytes);
        let Some(end) = self.rest.iter().rposition(|&byte| byte == b'\n') else {
            return Vec::new();
        };
        let rest = self.rest.split_off(end + 1);
        let lines = std::mem::replace(&mut self.rest, rest);
        let mut lines: Vec<_> = String::from_utf8_lossy(&lines).lines().map(str::to_owned).collect();
        lines.dedup_by(|line, before| line.is_empty() && before.is_empty());
        lines
    }
}

/// Whether the store was there when it was last looked at.
#[derive(Debug, Default)]
struct Store {
    is_gone: bool,
}

impl Store {
    /// What is to be said of the store, if that is something new.
    fn look(&mut self, mount: &Mount) -> io::Result<Option<String>> {
        let status = std::fs::read(mount.path(".lockfs/status"))?;
        Ok(self.hear(&String::from_utf8_lossy(&status)))
    }

    fn hear(&mut self, status: &str) -> Option<String> {
        let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        let was_gone = std::mem::replace(&mut self.is_gone, value("state") != Some("ok"));
        match (was_gone, self.is_gone) {
            (false, true) => Some(value("trouble").unwrap_or("the store does not work").to_owned()),
            (true, false) => Some("the store works again".to_owned()),
            _ => None,
        }
    }
}

const FORGOTTEN: &str = "# events were forgotten before they were read";

fn as_text(lines: &[String]) -> String {
    lines
        .iter()
        .map(|line| if line.is_empty() { FORGOTTEN } else { line })
        .fold(String::new(), |text, line| text + line + "\n")
}

fn as_json(lines: &[String]) -> String {
    lines.iter().map(|line| object(line).end()).fold(String::new(), |text, line| text + &line + "\n")
}

/// The object of a line of `.lockfs/events`; the path stays escaped as it is there, for it may be no UTF-8.
fn object(line: &str) -> Object {
    let mut words = line.splitn(3, ' ');
    let (time, event, rest) = (words.next(), words.next(), words.next().unwrap_or_default());
    if line.is_empty() || time == Some("#") {
        return Object::default().number("forgotten", event.and_then(|count| count.parse().ok()));
    }
    // The path is last, and may hold anything.
    let (facts, path) = match rest.find("path=") {
        Some(at) => (&rest[..at], Some(&rest[at + "path=".len()..])),
        None => (rest, None),
    };
    let fact = |key: &str| facts.split(' ').find_map(|fact| fact.strip_prefix(key)?.strip_prefix('='));
    let object = Object::default().text("time", time).text("event", event).text("session", fact("session"));
    // A token is a string in all of them: beyond 2^53 it would be one anyway.
    object.text("token", fact("token")).text("path", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_object() {
        let line = "2026-11-24T15:55:14Z acquire session=dev1-1-k token=7451 path=a b/path=\\xff\"";
        let expected = "{\"time\":\"2026-11-24T15:55:14Z\",\"event\":\"acquire\",\"session\":\"dev1-1-k\",\
            \"token\":\"7451\",\"path\":\"a b/path=\\\\xff\\\"\"}";
        assert_eq!(object(line).end(), expected);
        let expected =
            "{\"time\":\"T\",\"event\":\"begin\",\"session\":\"path\",\"token\":null,\"path\":null}";
        assert_eq!(object("T begin session=path").end(), expected);
        let of_nobody = object("T release token=3 path=x").end();
        assert!(of_nobody.contains("\"session\":null,\"token\":\"3\",\"path\":\"x\""), "{of_nobody}");
        let gap = object("# 12 events were forgotten before they were asked for");
        assert_eq!(gap.end(), "{\"forgotten\":12}");
        assert_eq!(object("").end(), "{\"forgotten\":null}");
    }

    #[test]
    fn a_line_comes_when_it_has_ended() {
        let mut tail = Tail::default();
        assert_eq!(tail.take(b"a b"), Vec::<String>::new());
        assert_eq!(tail.take(b"c\nd\n\n\n\n"), ["a bc", "d", ""]);
        assert_eq!(tail.take(b"e\nf"), ["e"]);
        assert_eq!(tail.take(b"\n"), ["f"]);
    }

    #[test]
    fn an_outage_is_said_once() {
        let mut store = Store::default();
        let gone = "state: unreachable\ntrouble: redis is gone since 1s: refused\n";
        assert_eq!(store.hear("state: ok\n"), None);
        assert_eq!(store.hear(gone).as_deref(), Some("redis is gone since 1s: refused"));
        assert_eq!(store.hear(gone), None);
        assert_eq!(store.hear("state: ok\n").as_deref(), Some("the store works again"));
    }
}
