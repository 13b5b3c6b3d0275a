//! `lockfs watch`: what happens to the locks of a mount, as it happens.
//!
//! It follows the mount's own `.lockfs/events`: no event is missed and none comes twice, whatever becomes of the store or
//! of the daemon meanwhile.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::follow::{Follower, From, Line};
use super::json::Object;
use super::mounts::{Mount, Place, default_mount, mount_at, place, shown};
use super::out::{Paint, cut_front_of_last, is_unread_within, paint, print_painted, width};
use super::session::SessionName;
use super::status::{self, unanswered};
use super::{Exit, Failure, Outcome, say};
use crate::clock::{BootTime, Clock, SystemClock};
use crate::lock::{EventKind, Ttl};

/// Print what happens to locks, as it happens
///
/// One line for each acquire, release, expiry, break, transfer and loss of a lock, and for each beginning and end of
/// a named session; of every host that shares the store, in the order in which it happened. Where the store is not
/// reachable for a while it says so on stderr, and goes on without a gap; so it does over a restart of the daemon. It ends
/// when nobody reads its output, and with code 69 when the mount is gone for longer than --patience.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  $ lockfs watch
  $ lockfs watch build
  $ lockfs watch --event break,lost --session agent-7
  $ lockfs watch --all --json /locks")]
pub(super) struct Watch {
    /// Only this lock, or what is at or below this directory [default: the whole mount]
    path: Option<PathBuf>,
    /// Print JSON: an object a line
    #[arg(long)]
    json: bool,
    /// Begin with all that is remembered: some ten thousand events
    #[arg(long, short)]
    all: bool,
    /// Only these events
    #[arg(long, short, value_name = "EVENT", value_delimiter = ',')]
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(EventKind::ALL.map(EventKind::as_str)))]
    event: Vec<String>,
    /// Only what happens to this session and its locks
    #[arg(long, value_name = "ID")]
    session: Option<SessionName>,
    /// How long it waits for a mount that went to be back
    #[arg(long, value_name = "TIME", default_value = "1m")]
    patience: Patience,
}

/// How long a mount may be gone; 0 is not at all.
#[derive(Clone, Copy, Debug)]
struct Patience(Duration);

impl std::str::FromStr for Patience {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<Ttl>() {
            Ok(Ttl::For(span)) => Ok(Self(span)),
            Ok(Ttl::Never) if text != "never" => Ok(Self(Duration::ZERO)),
            _ => Err("write seconds (30) or units (5m), 0 not to wait".to_owned()),
        }
    }
}

/// How often it looks for more.
const PERIOD: Duration = Duration::from_millis(200);

impl Watch {
    pub(super) fn perform(self) -> Outcome {
        let place = match &self.path {
            Some(path) => place(path)?,
            None => Place { mount: default_mount()?, name: PathBuf::new() },
        };
        let filter = Filter {
            path: Some(shown(place.lock())).filter(|path| !path.is_empty()),
            events: self.event,
            session: self.session.map(|session| session.as_str().to_owned()),
        };
        let mut mount = place.mount;
        let mut follower = Follower::new(if self.all { From::Oldest } else { From::Now });
        let mut store = Store::default();
        let mut gone_since: Option<BootTime> = None;
        loop {
            let mut is_idle = true;
            match look(&mount, &mut follower, &mut store) {
                Ok((lines, news)) => {
                    if gone_since.take().is_some() {
                        say(format_args!("the lockfs on {} is back", shown(&mount.point)));
                    }
                    news.iter().for_each(say);
                    let lines: Vec<_> = lines.into_iter().filter(|line| filter.lets(line)).collect();
                    is_idle = lines.is_empty();
                    if !is_idle {
                        print_painted(&if self.json { as_json(&lines) } else { as_text(&lines, width()) })?;
                    }
                }
                Err(error) => {
                    let now = SystemClock.now().boot;
                    let why = unanswered(&mount, &error);
                    if gone_since.is_none() && !self.patience.0.is_zero() {
                        say(format_args!("{why} (waiting for it to be back)"));
                    }
                    if now.since(*gone_since.get_or_insert(now)) >= self.patience.0 {
                        return Err(Failure::new(Exit::Unavailable, why));
                    }
                    // Another one may be mounted there by now.
                    if let Ok(other) = mount_at(&mount.point).map_err(drop)
                        && other.point == mount.point
                    {
                        mount = other;
                    }
                }
            }
            if is_idle && is_unread_within(PERIOD) {
                return Ok(Exit::Unread);
            }
        }
    }
}

/// What has come, and what is to be said of the store.
fn look(
    mount: &Mount,
    follower: &mut Follower,
    store: &mut Store,
) -> io::Result<(Vec<Line>, Option<String>)> {
    let status = std::fs::read(mount.path(".lockfs/status"))?;
    let status = String::from_utf8_lossy(&status);
    let lines = follower.read(mount, &status::daemon(&status))?;
    Ok((lines, store.hear(&status)))
}

/// Which events are wanted.
#[derive(Debug, Default)]
struct Filter {
    /// As it stands in a line: escaped.
    path: Option<String>,
    events: Vec<String>,
    session: Option<String>,
}

impl Filter {
    /// Whether a line is wanted. That some were forgotten always is: any of them may have been.
    fn lets(&self, line: &Line) -> bool {
        let Line::Event(line) = line else { return true };
        let event = Event::parse(line);
        let is_path = self.path.as_ref().is_none_or(|wanted| {
            let below = event.path.and_then(|path| path.strip_prefix(wanted.as_str()));
            below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
        });
        let is_event = self.events.is_empty() || self.events.iter().any(|wanted| wanted == event.kind);
        let is_session = self.session.as_ref().is_none_or(|wanted| event.fact("session") == Some(wanted));
        is_path && is_event && is_session
    }
}

/// The parts of a line of `.lockfs/events`.
#[derive(Debug)]
struct Event<'a> {
    time: &'a str,
    kind: &'a str,
    facts: &'a str,
    /// Escaped as it is there, for it may be no UTF-8.
    path: Option<&'a str>,
}

impl<'a> Event<'a> {
    fn parse(line: &'a str) -> Self {
        let mut words = line.splitn(3, ' ');
        let (time, kind) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let rest = words.next().unwrap_or_default();
        // The path is last, and may hold anything.
        let (facts, path) = match rest.find("path=") {
            Some(at) => (&rest[..at], Some(&rest[at + "path=".len()..])),
            None => (rest, None),
        };
        Self { time, kind, facts, path }
    }

    fn fact(&self, key: &str) -> Option<&'a str> {
        self.facts.split(' ').find_map(|fact| fact.strip_prefix(key)?.strip_prefix('='))
    }
}

/// Whether the store was there when it was last looked at.
#[derive(Debug, Default)]
struct Store {
    is_gone: bool,
}

impl Store {
    /// What is to be said of the store, if that is something new.
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

/// The lines; in a terminal of so many columns, each on one of it.
fn as_text(lines: &[Line], width: Option<usize>) -> String {
    lines
        .iter()
        .map(|line| match line {
            Line::Forgotten(None) => FORGOTTEN.to_owned(),
            Line::Forgotten(Some(count)) => format!("# {count} events were forgotten before they were read"),
            Line::Event(line) => {
                // Of a path the end says most.
                let line = width.map_or(line.clone(), |width| cut_front_of_last(line, "path=", width));
                let kind = Event::parse(&line).kind;
                let colour = match kind {
                    "break" | "lost" => Paint::Bad,
                    "expire" => Paint::Warning,
                    "acquire" => Paint::Good,
                    _ => Paint::Plain,
                };
                line.replacen(kind, &paint(colour, kind), 1)
            }
        })
        .fold(String::new(), |text, line| text + &line + "\n")
}

fn as_json(lines: &[Line]) -> String {
    lines.iter().map(|line| object(line).end()).fold(String::new(), |text, line| text + &line + "\n")
}

fn object(line: &Line) -> Object {
    let line = match line {
        Line::Forgotten(count) => return Object::default().number("forgotten", *count),
        Line::Event(line) => line,
    };
    let event = Event::parse(line);
    let (time, kind) = (Some(event.time), Some(event.kind));
    let object = Object::default().text("time", time).text("event", kind);
    object.text("session", event.fact("session")).text("token", event.fact("token")).text("path", event.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_object() {
        let line = "2026-11-24T15:55:14Z acquire session=dev1-1-k token=7451 path=a b/path=\\xff\"";
        let expected = "{\"time\":\"2026-11-24T15:55:14Z\",\"event\":\"acquire\",\"session\":\"dev1-1-k\",\
            \"token\":\"7451\",\"path\":\"a b/path=\\\\xff\\\"\"}";
        let of = |line: &str| object(&Line::Event(line.to_owned())).end();
        assert_eq!(of(line), expected);
        let expected =
            "{\"time\":\"T\",\"event\":\"begin\",\"session\":\"path\",\"token\":null,\"path\":null}";
        assert_eq!(of("T begin session=path"), expected);
        let of_nobody = of("T release token=3 path=x");
        assert!(of_nobody.contains("\"session\":null,\"token\":\"3\",\"path\":\"x\""), "{of_nobody}");
        assert_eq!(object(&Line::Forgotten(Some(12))).end(), "{\"forgotten\":12}");
        assert_eq!(object(&Line::Forgotten(None)).end(), "{\"forgotten\":null}");
    }

    #[test]
    fn a_filter_lets_through_what_is_wanted() {
        let lets = |path: &str, event: &str, session: &str, line: &str| {
            let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            let events = some(event).into_iter().collect();
            let filter = Filter { path: some(path), events, session: some(session) };
            filter.lets(&Line::Event(line.to_owned()))
        };
        let line = "T acquire session=s token=1 path=build/web";
        for (path, event, session) in [("", "", ""), ("build", "", ""), ("build/web", "acquire", "s")] {
            assert!(lets(path, event, session, line), "{path} {event} {session}");
        }
        for (path, event, session) in [("buil", "", ""), ("web", "", ""), ("", "release", ""), ("", "", "t")]
        {
            assert!(!lets(path, event, session, line), "{path} {event} {session}");
        }
        // What happens to a session happens to no path.
        assert!(lets("", "", "s", "T end session=s") && !lets("s", "", "", "T end session=s"));
        assert!(Filter { path: Some("x".to_owned()), ..Filter::default() }.lets(&Line::Forgotten(None)));
    }

    #[test]
    fn a_line_fits_a_terminal_and_keeps_the_end_of_its_path() {
        let line = Line::Event("T release token=3 path=a/very/long/path/indeed".to_owned());
        let text =
            |width| anstream::adapter::strip_str(&as_text(std::slice::from_ref(&line), width)).to_string();
        assert_eq!(text(None), "T release token=3 path=a/very/long/path/indeed\n");
        assert_eq!(text(Some(34)), "T release token=3 path=...h/indeed\n");
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
