//! How long a command waits for a lock, as it is typed and as it passes; and who waits besides.
//!
//! `--wait` takes a time or none, and no time can be told from a path by the shape of the command line alone. So what
//! follows it and is a time is its time, as flock(1) and timeout(1) spell it: `--wait 30 x`, `-w 5m x`; before
//! anything else it stands alone: `--wait x`. A lock that is called as a time is, is `./30`.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use clap::Args;

use super::mounts::Place;
use super::out::escaped;
use super::session::SessionName;
use super::{Exit, Failure};
use crate::clock::{BootTime, Clock, SystemClock};
use crate::lock::Ttl;

/// How a command waits for a lock.
#[derive(Debug, Args)]
pub(super) struct Waiting {
    /// Wait until the lock is free, at most that long: 30, 5m, 1h30m
    #[arg(short = 'w', long, value_name = "TIME", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = FOREVER, value_parser = patience)]
    wait: Option<Patience>,
    /// The exit code when another holds the lock, or the time is up
    #[arg(short = 'E', long, value_name = "CODE", default_value_t = 1)]
    conflict_exit_code: u8,
}

impl Waiting {
    /// Begins to count.
    pub(super) fn begin(&self) -> Limit {
        let deadline = match self.wait {
            Some(Patience::For(span)) => Some(SystemClock.now().boot + span),
            Some(Patience::Forever) | None => None,
        };
        Limit { patience: self.wait, deadline }
    }

    /// How the process ends when another holds the lock.
    pub(super) fn conflict(&self, mut message: String) -> Failure {
        if self.wait.is_none() {
            message += " (--wait waits for it; lockfs why says more)";
        }
        Failure::new(Exit::Code(self.conflict_exit_code), message)
    }
}

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    For(Duration),
    Forever,
}

const FOREVER: &str = "forever";

/// The commands that wait, and so take a time behind `--wait`.
const WAITING: [&str; 2] = ["acquire", "run"];

/// A time as it is typed: as a ttl is, with a decimal fraction, or `forever`. 0 is not to wait, as for flock(1).
fn patience(text: &str) -> Result<Patience, String> {
    match text.parse::<Ttl>() {
        Ok(Ttl::For(span)) => Ok(Patience::For(span)),
        Ok(Ttl::Never) if text != "never" => Ok(Patience::For(Duration::ZERO)),
        _ if text == FOREVER => Ok(Patience::Forever),
        _ => fraction(text).map(Patience::For).ok_or_else(|| {
            format!("'{text}' is no time: write seconds (30, 0.5), units (5m, 1h30m) or nothing; a lock of that name is ./{text}")
        }),
    }
}

/// `0.5`, `1.5m`
fn fraction(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let unit = match &text[digits..] {
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    let span = Duration::try_from_secs_f64(text[..digits].parse::<f64>().ok()? * unit).ok()?;
    (span <= Ttl::MAX).then_some(span)
}

/// Whether what follows `--wait` was meant for a time: a good one, or one whose unit is none (`30sec`), which must not
/// pass for the name of a lock.
fn looks_like_a_time(text: &str) -> bool {
    let letters = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let is_number = text.starts_with(|c: char| c.is_ascii_digit());
    patience(text).is_ok() || (is_number && letters.bytes().all(|byte| byte.is_ascii_lowercase()))
}

/// The command line with each time behind a `--wait` made part of that word.
pub(super) fn joined(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::new();
    let mut words = words.into_iter().peekable();
    joined.extend(words.next());
    joined.extend(words.next());
    if !joined.get(1).is_some_and(|command| WAITING.iter().any(|waiting| command == waiting)) {
        joined.extend(words);
        return joined;
    }
    while let Some(word) = words.next() {
        let as_time = |word: &OsString| word.to_str().is_some_and(looks_like_a_time);
        if word == "--" {
            joined.push(word);
            break;
        }
        let attached =
            word.to_str().and_then(|word| word.strip_prefix("-w")).filter(|rest| looks_like_a_time(rest));
        if let Some(time) = attached {
            joined.push(format!("--wait={time}").into());
        } else if (word == "--wait" || word == "-w")
            && let Some(time) = words.next_if(as_time)
        {
            let mut word = OsString::from("--wait=");
            word.push(time);
            joined.push(word);
        } else {
            joined.push(word);
        }
    }
    joined.extend(words);
    joined
}

/// A wait that has begun.
#[derive(Debug)]
pub(super) struct Limit {
    patience: Option<Patience>,
    deadline: Option<BootTime>,
}

impl Limit {
    /// Whether nothing is waited for.
    pub(super) fn is_none(&self) -> bool {
        matches!(self.patience, None | Some(Patience::For(Duration::ZERO)))
    }

    /// When it ends; `None` for never.
    pub(super) fn deadline(&self) -> Option<BootTime> {
        self.deadline
    }
}

/// The time that was typed, in its largest whole unit.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.patience {
            Some(Patience::For(span)) if !span.is_zero() => Ttl::For(span).fmt(f),
            Some(Patience::For(_)) | None => f.write_str("0s"),
            Some(Patience::Forever) => f.write_str(FOREVER),
        }
    }
}

/// Becomes a process of `session`: a door lets in for the session that the environment names, and the environment that
/// counts is the one that a process was started with (proc_pid_environ(5)).
///
/// # Errors
/// [`Failure`]: there is no such session, or the process can't be started anew.
pub(super) fn speak_for(session: &SessionName, place: &Place) -> Result<(), Failure> {
    if std::env::var_os("LOCKFS_SESSION").is_some_and(|name| name == session.as_str()) {
        return Ok(());
    }
    session.must_exist(&place.mount)?;
    let mut words = std::env::args_os();
    // Not by /proc/self/exe, by which the holder would be called exe.
    let error = match std::env::current_exe() {
        Ok(program) => {
            let mut command = Command::new(program);
            words.next().into_iter().for_each(|name| _ = command.arg0(name));
            command.args(words).env("LOCKFS_SESSION", session.as_str()).exec()
        }
        Err(error) => error,
    };
    Err(Failure::new(Exit::Failed, format!("cannot wait for session {}: {error}", session.as_str())))
}

/// Who waits for a lock, as its door says it, the first in front.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Queue(Vec<String>);

impl Queue {
    /// Asks the mount; one that does not say has no queue.
    pub(super) fn of(place: &Place) -> Self {
        let text = fs::read(place.door()).unwrap_or_default();
        Self::parse(&String::from_utf8_lossy(&text))
    }

    fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(|line| line.strip_prefix("waiter: ")).map(str::to_owned).collect())
    }

    /// Who is the first: `alice@dev1 make[4711]`.
    pub(super) fn first(&self) -> Option<String> {
        let line = self.0.first()?;
        let who = line.rsplit_once(" since ").map_or(line.as_str(), |(who, _)| who);
        let who = who.strip_suffix(" fcntl").unwrap_or(who);
        let who = who.strip_suffix(" exclusive").or_else(|| who.strip_suffix(" shared")).unwrap_or(who);
        Some(escaped(who))
    }

    /// Which place somebody had in this queue that had lined up behind `before` and has just left, for a message:
    /// those ahead are the ones that were there before and still are.
    pub(super) fn place_behind(&self, before: &Self) -> String {
        let ahead = self.0.iter().filter(|waiter| before.0.contains(waiter)).count();
        format!("; number {} of {} in the queue", ahead + 1, self.0.len() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(line: &str) -> String {
        let words = joined(line.split(' ').map(OsString::from));
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_time_behind_wait_belongs_to_it_and_a_path_does_not() {
        for (typed, meant) in [
            ("lockfs run --wait 30s x -- true", "lockfs run --wait=30s x -- true"),
            ("lockfs run -w 5 x -- true", "lockfs run --wait=5 x -- true"),
            ("lockfs run -w5 x -- true", "lockfs run --wait=5 x -- true"),
            ("lockfs acquire x --wait 0.5", "lockfs acquire x --wait=0.5"),
            ("lockfs acquire --wait 30sec x", "lockfs acquire --wait=30sec x"),
            ("lockfs acquire --wait forever x", "lockfs acquire --wait=forever x"),
        ] {
            assert_eq!(join(typed), meant);
        }
        for same in [
            "lockfs",
            "lockfs ls --wait 30s",
            "lockfs run --wait x -- cmd --wait 30s",
            "lockfs acquire --wait build/web 30s",
            "lockfs acquire --wait ./30 x",
            "lockfs acquire --wait=30s 5 x",
            "lockfs acquire --wait 3fa9c1",
            "lockfs acquire --wait -- 30s",
            "lockfs acquire -w",
        ] {
            assert_eq!(join(same), same);
        }
    }

    #[test]
    fn a_time_is_spelt_as_flock_and_timeout_spell_it() {
        let millis = |millis| Ok(Patience::For(Duration::from_millis(millis)));
        for (text, span) in
            [("30", 30_000), ("0", 0), ("0.5", 500), ("1.5m", 90_000), ("1h30m", 5_400_000), (".25s", 250)]
        {
            assert_eq!(patience(text), millis(span), "{text}");
        }
        assert_eq!(patience("forever"), Ok(Patience::Forever));
        for bad in ["", "never", "30sec", "-1", "1.2.3", "1e3", "inf", "nan", "999999999999999.5d", "."] {
            assert!(patience(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_place_in_the_queue_is_behind_those_that_were_there_before() {
        let queue = |names: &[&str]| {
            let lines =
                names.iter().map(|name| format!("waiter: {name}@dev1 make[7] exclusive since 2031\n"));
            Queue::parse(&format!("state: held\nwaiting: 3\n{}", lines.collect::<String>()))
        };
        let (before, now) = (queue(&["alice", "bob"]), queue(&["bob", "carol"]));
        assert_eq!(now.place_behind(&before), "; number 2 of 3 in the queue");
        assert_eq!(Queue::default().place_behind(&before), "; number 1 of 1 in the queue");
        assert_eq!(now.first().as_deref(), Some("bob@dev1 make[7]"));
        assert_eq!(Queue::default().first(), None);
    }
}
