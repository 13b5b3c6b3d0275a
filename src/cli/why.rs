//! `lockfs why`: why a lock can't be had, for whoever wants it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use clap::Args;

use super::facts::{Facts, TtlLeft, is_gone};
use super::fresh;
use super::json::Object;
use super::mounts::{Place, shown};
use super::out::{Paint, paint, print_painted};
use super::path::meant;
use super::status::explained;
use super::who::{described, is_a_jobs};
use super::{Exit, Failure, Outcome};

/// Explain why a lock can't be had, and what to do
///
/// Says who holds the lock, since when, until when at most and what would end it, who waits, what happened to it lately,
/// and what you can do. The exit code is 0 if it is free, 1 if it is not, and 69 where nobody knows.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  $ lockfs why build/web
  $ lockfs why --file src/main.rs
  $ lockfs why --json deploy")]
pub(super) struct Why {
    /// PATH is a file outside of the mount: its lock is meant, as lockfs path names it
    #[arg(long, short)]
    file: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    /// How many events of its history are shown
    #[arg(long, value_name = "N", default_value_t = 10)]
    history: usize,
    /// The lock
    path: PathBuf,
}

/// What there is to say of one lock.
#[derive(Debug)]
struct Case {
    place: Place,
    /// What stands there.
    facts: Option<Facts>,
    /// Why nothing can be made there, though nothing stands there.
    hindrance: Option<String>,
    /// Who waits, the first in front.
    waiters: Vec<String>,
    /// Lines of `.lockfs/events`, the last one last.
    history: Vec<String>,
}

impl Why {
    pub(super) fn perform(self) -> Outcome {
        let place = meant(&self.path, self.file)?.of_a_lock()?;
        let case = Case::read(place, self.history)?;
        print_painted(&if self.json { case.as_json() } else { case.as_text() })?;
        Ok(if case.is_free() { Exit::Done } else { Exit::Failed })
    }
}

impl Case {
    fn read(place: Place, events: usize) -> Result<Self, Failure> {
        // "Unknown" is never "free".
        let unknown = |error: io::Error| {
            let name = place.shown();
            let message = format!(
                "nobody knows whether {name} is free: {} (what is held stays held)",
                explained(&place.mount, &error)
            );
            Failure::new(Exit::Unavailable, message)
        };
        // What has a note or is advisory says who waits at its door alone.
        let facts = match fresh::facts(&place) {
            Ok(facts) => Some(facts),
            Err(error) if is_gone(&error) => None,
            Err(error) => return Err(unknown(error)),
        };
        let door = match fresh::seen(&place.mount.path(".wait"), place.lock(), || fs::read(place.door())) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) if is_gone(&error) || error.kind() == ErrorKind::IsADirectory => String::new(),
            Err(error) => return Err(unknown(error)),
        };
        let waiters =
            door.lines().filter_map(|line| line.strip_prefix("waiter: ")).map(str::to_owned).collect();
        let hindrance = if facts.is_none() { hindrance(&place) } else { None };
        let text = fs::read(place.mount.path(".lockfs/events")).unwrap_or_default();
        let mut history = history(&String::from_utf8_lossy(&text), &shown(place.lock()));
        history.drain(..history.len().saturating_sub(events));
        Ok(Self { place, facts, hindrance, waiters, history })
    }

    /// Whether it could be had now.
    fn is_free(&self) -> bool {
        self.facts.is_none() && self.hindrance.is_none() && self.waiters.is_empty()
    }

    /// The first line: what is the case.
    fn sentence(&self) -> String {
        let name = shown(self.place.lock());
        match (&self.facts, &self.hindrance) {
            (Some(facts), _) => format!("{name} is {}", described(facts)),
            (None, Some(hindrance)) => format!("{name} is free, but {hindrance}"),
            (None, None) if !self.waiters.is_empty() => {
                format!("{name} is free, and kept for a moment for the first who waits")
            }
            (None, None) => format!("{name} is free"),
        }
    }

    /// What would end it, without anybody's doing more.
    fn endings(&self) -> Vec<String> {
        let Some(facts) = &self.facts else { return Vec::new() };
        let mut endings = Vec::new();
        if !facts.grants().is_empty() {
            endings.push("each who has it locked unlocks it, closes the file or ends".to_owned());
            return endings;
        }
        if facts.get("state") == Some("free") {
            return endings;
        }
        let session = facts.get("session").unwrap_or_default();
        let is_job = is_a_jobs(session, facts.get("host").unwrap_or_default());
        let ttl = facts.get("ttl").filter(|_| matches!(facts.ttl(), TtlLeft::Seconds(_)));
        endings.push("its holder removes it".to_owned());
        match (is_job, ttl) {
            (true, Some(_)) if facts.get("state") == Some("ended") => {
                endings.push("it expires: its job has ended, and nobody renews it any more".to_owned());
            }
            (true, Some(ttl)) => endings.push(format!("its job, {}, has ended since {ttl}", facts.holder())),
            (true, None) => {}
            (false, ttl) => {
                endings.push(format!("session {session} ends: lockfs session end {session}"));
                endings.extend(ttl.map(|ttl| format!("nobody has renewed session {session} for {ttl}")));
            }
        }
        endings
    }

    /// What whoever asks can do.
    fn advice(&self) -> Vec<String> {
        let lock = shown(self.place.lock());
        let quoted = quoted(&lock);
        let door = quoted_path(&self.place.door());
        let Some(facts) = &self.facts else {
            return match &self.hindrance {
                Some(_) => vec![format!(
                    "make its directories: mkdir -p {}",
                    quoted_path(
                        self.place.mount.path(self.place.lock()).parent().unwrap_or(&self.place.path())
                    )
                )],
                None if self.waiters.is_empty() => vec![format!("take it: lockfs run {quoted} -- COMMAND")],
                None => vec![format!("wait behind them: touch {door}")],
            };
        };
        if !facts.grants().is_empty() || facts.get("state") == Some("free") {
            return vec![format!(
                "lock it when it is free: flock {} COMMAND",
                quoted_path(&self.place.path())
            )];
        }
        vec![
            format!("wait for it: lockfs run --wait 5m {quoted} -- COMMAND, or touch {door}"),
            format!("ask {} to release it", facts.get("owner").unwrap_or("its owner")),
            format!(
                "see what else the session holds: lockfs who --session {}",
                facts.get("session").unwrap_or("ID")
            ),
            format!("end it, once you know that its holder is done or gone: lockfs break {quoted}"),
        ]
    }

    fn as_text(&self) -> String {
        let colour = if self.is_free() { Paint::Good } else { Paint::Warning };
        let mut text = paint(colour, &self.sentence()) + "\n";
        let mut block = |head: &str, lines: &[String]| {
            if !lines.is_empty() {
                text += &(paint(Paint::Head, head) + "\n");
                lines.iter().for_each(|line| text += &format!("  {line}\n"));
            }
        };
        if let Some(facts) = &self.facts {
            let is_renewed = facts.get("state") == Some("held") && matches!(facts.ttl(), TtlLeft::Seconds(_));
            let renewed = if is_renewed { " at most, unless it is renewed" } else { "" };
            let until = facts.get("expires").map(|time| format!("{time}{renewed}"));
            let facts = [
                ("owner", facts.get("owner")),
                ("session", facts.get("session")),
                ("since", facts.get("since")),
                ("until", until.as_deref()),
                ("scope", facts.get("scope")),
            ];
            let lines: Vec<_> = facts
                .iter()
                .filter_map(|(name, value)| Some(format!("{name:8} {}", value.as_ref()?)))
                .collect();
            block("it is", &lines);
        }
        let hold: Vec<_> = self
            .facts
            .iter()
            .flat_map(Facts::grants)
            .map(|grant| format!("{} with {}", super::out::escaped(&grant.holder), grant.how()))
            .collect();
        block("locked by", &hold);
        block("it ends when", &self.endings());
        block("who waits", &self.waiters);
        block("lately", &self.history);
        block("you can", &self.advice());
        text
    }

    fn as_json(&self) -> String {
        let facts = self.facts.clone().unwrap_or_default();
        let state = match (&self.facts, self.is_free()) {
            (None, true) => "free",
            (None, false) => "kept",
            (Some(facts), _) => facts.get("state").unwrap_or("held"),
        };
        let lines = |name: &'static str, lines: &[String]| {
            lines.iter().map(|line| Object::default().text(name, Some(line))).collect::<Vec<_>>()
        };
        let object = Object::default()
            .text("path", Some(&shown(self.place.lock())))
            .text("state", Some(state))
            .text("why", Some(&self.sentence()))
            .text("owner", facts.get("owner"))
            .text("session", facts.get("session"))
            .text("token", facts.get("token"))
            .text("since", facts.get("since"))
            .text("expires", facts.get("expires"))
            .list("ends", lines("when", &self.endings()))
            .list("waiting", lines("waiter", &self.waiters))
            .list("history", lines("event", &self.history))
            .list("advice", lines("you_can", &self.advice()));
        object.end() + "\n"
    }
}

/// Why no lock can be made at a place where nothing is: no directory, or none of a lock's own.
fn hindrance(place: &Place) -> Option<String> {
    let above = place.lock().ancestors().skip(1).filter(|name| !name.as_os_str().is_empty());
    let above: Vec<_> = above.collect();
    for name in above.iter().rev() {
        match fs::symlink_metadata(place.mount.path(name)) {
            Ok(data) if data.is_dir() => {}
            Ok(_) => return Some(format!("{} is a lock, and no directory", shown(name))),
            Err(_) => return Some(format!("there is no directory {}", shown(name))),
        }
    }
    None
}

/// The events of `text` that are about `path`, which is escaped as it is there.
fn history(text: &str, path: &str) -> Vec<String> {
    let is_its = |line: &&str| line.split_once(" path=").is_some_and(|(_, of)| of == path);
    text.lines()
        .filter(is_its)
        .map(|line| line[..line.len() - path.len() - " path=".len()].to_owned())
        .collect()
}

/// `text` as a shell takes it for one word.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%~,=".contains(c);
    let is_plain = text.chars().all(plain) && !text.starts_with(['~', '-']);
    if is_plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

fn quoted_path(path: &Path) -> String {
    quoted(&shown(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_is_that_of_one_path() {
        let text = "T1 acquire session=s token=1 path=a\nT2 acquire session=s token=2 path=a/b\n\
                    T3 release token=1 path=a\nT4 end session=a\nT5 acquire session=s token=3 path=x path=a\n";
        assert_eq!(history(text, "a"), ["T1 acquire session=s token=1", "T3 release token=1"]);
        assert_eq!(history(text, "x path=a"), ["T5 acquire session=s token=3"]);
    }

    #[test]
    fn a_command_can_be_copied() {
        assert_eq!(quoted("repo/a_b/c.rs"), "repo/a_b/c.rs");
        assert_eq!(quoted("it's a lock"), "'it'\\''s a lock'");
        assert_eq!(quoted("~x"), "'~x'");
    }
}
