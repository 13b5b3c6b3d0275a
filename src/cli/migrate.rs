//! `lockfs migrate`: from one store to another.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::out::print;
use super::signals::Signals;
use super::{Exit, Failure, Outcome, say};
use crate::clock::{BootTime, Clock, SystemClock};
use crate::config::TypedSide;
use crate::store::migrate::{self, Error, Order, Report, Tally, Task, Watch};

/// Move all locks from one store to another
///
/// Locks, directories and sessions go with their tokens, their numbers, and what is left of their ttl. Both stores may
/// be in use: the source goes on while it is copied, stands still for a moment at the end (a second at most; who asks
/// meanwhile waits), and is closed from then on, so that nothing is ever granted by both. Then mount the target.
///
/// What was stopped, by Ctrl-C, a crash or an error, is gone on with by the same command, or taken back by --rollback.
/// What was finished is gone back to by moving it back. flock and fcntl locks belong to a mount and can't be moved:
/// while there are any, the command is refused. Counts and a digest of all records are compared before the source is
/// closed, and printed.
///
/// The exit code is 1 where something is in the way or differs, 69 where a store can't be reached or is in use, 78
/// where one is damaged.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  $ lockfs migrate --from leveldb: --to redis://db.example/0 --dry-run
  $ lockfs migrate --from leveldb: --to redis://db.example/0
  $ lockfs migrate --from leveldb: --to redis://db.example/0 --rollback
  $ lockfs migrate --from redis://db.example/0 --to leveldb:///var/lib/lockfs
  $ lockfs migrate --from redis://old/0?namespace=ci --to rediss://new/0

Stores:
  leveldb:///DIRECTORY  a data directory; leveldb: alone is that of this machine
  redis://HOST:PORT/DB  and every other Redis URL (lockfs mount --help);
                        redis: alone is the one that the settings name
each with ?namespace=NAME behind it where that is another than --namespace.
A hybrid mount keeps its locks in its Redis: name that.

A mounted leveldb can be moved from, by its user or root, and not to. The
password of a Redis is kept elsewhere, as for lockfs mount; where there are two,
in a file each: --from-password-file, --to-password-file.")]
pub(super) struct Migrate {
    /// The store that has the locks
    #[arg(long, value_name = "URL")]
    from: String,
    /// The store that is to have them
    #[arg(long, value_name = "URL")]
    to: String,
    /// Which tree of locks, on both sides where an URL does not say another
    #[arg(long, value_name = "NAME")]
    namespace: Option<OsString>,
    /// The file with the password for the Redis to move from
    #[arg(long, value_name = "FILE")]
    from_password_file: Option<OsString>,
    /// The file with the password for the Redis to move to
    #[arg(long, value_name = "FILE")]
    to_password_file: Option<OsString>,
    /// Say what would be moved and what is in the way, and change nothing
    #[arg(long, conflicts_with_all = ["verify", "rollback"])]
    dry_run: bool,
    /// Compare both sides, and change nothing
    #[arg(long, conflicts_with = "rollback")]
    verify: bool,
    /// Take back what an unfinished migration did, and nothing else
    #[arg(long)]
    rollback: bool,
}

impl Migrate {
    pub(super) fn perform(self) -> Outcome {
        let signals = Signals::hold();
        let side = |flag, url: &str, password_file: &Option<OsString>| TypedSide {
            flag,
            url: url.to_owned(),
            password_file: password_file.clone(),
            namespace: self.namespace.clone(),
        };
        let task = match (self.dry_run, self.verify, self.rollback) {
            (true, ..) => Task::DryRun,
            (_, true, _) => Task::Verify,
            (_, _, true) => Task::RollBack,
            _ => Task::Move,
        };
        // SAFETY: geteuid(2) and getegid(2) take nothing and can't fail.
        let owner = unsafe { (libc::geteuid(), libc::getegid()) };
        let order = Order {
            from: side("--from", &self.from, &self.from_password_file).resolve()?,
            to: side("--to", &self.to, &self.to_password_file).resolve()?,
            task,
            owner,
        };
        let mut progress = Progress::new(&signals);
        let outcome = migrate::migrate(&order, &mut progress);
        progress.clear();
        match outcome {
            Ok(report) => {
                print(described(&report, task))?;
                Ok(if task == Task::Verify && report.different > 0 { Exit::Failed } else { Exit::Done })
            }
            Err(error @ Error::Stopped) => {
                let number = signals.ending().unwrap_or(libc::SIGINT);
                Err(Failure::new(Exit::Code(u8::try_from(128 + number).unwrap_or(130)), error))
            }
            Err(error) => Err(Failure::new(exit_of(&error), error)),
        }
    }
}

fn exit_of(error: &Error) -> Exit {
    match error {
        Error::Usage(_) => Exit::Usage,
        Error::Refused(_) | Error::Stopped => Exit::Failed,
        Error::Level(error) => super::check::exit_of(error),
        Error::Store { .. } => Exit::Unavailable,
    }
}

/// `key: value` lines.
fn described(report: &Report, task: Task) -> String {
    let state = match (task, report.was_done) {
        (Task::Move, true) => "moved before",
        (Task::Move, false) => "moved",
        (Task::DryRun, true) => "moved before",
        (Task::DryRun, false) => "would be moved",
        (Task::Verify, _) if report.different > 0 => "different",
        (Task::Verify, _) => "the same",
        (Task::RollBack, true) => "nothing to take back",
        (Task::RollBack, false) => "taken back",
    };
    let mut text = format!("state: {state}\nfrom: {}\nto: {}\n", report.from, report.to);
    let side = |name: &str, tally: &Tally| {
        let Tally { locks, directories, sessions, digest } = tally;
        format!("{name}: locks={locks} directories={directories} sessions={sessions} digest={digest}\n")
    };
    match task {
        Task::RollBack => return text,
        Task::Move | Task::DryRun if report.was_done => return text,
        Task::DryRun => text += &side("source", &report.source),
        Task::Move | Task::Verify => {
            text += &side("source", &report.source);
            text += &side("target", &report.target);
        }
    }
    text += &format!("others_in_target: {}\n", report.others);
    if let Some(stopped) = report.stopped {
        text += &format!("stood_still_ms: {}\n", stopped.as_millis());
    }
    if task == Task::Verify {
        text += &format!("different: {}\n", report.different);
        report.differences.iter().for_each(|what| text += &format!("differs: {what}\n"));
    }
    text
}

/// How often a line says how far it is, where there is no terminal.
const PERIOD: Duration = Duration::from_secs(2);

/// How it goes, on stderr: a bar on a terminal, plain lines elsewhere. Without colours, whatever NO_COLOR says.
struct Progress<'a> {
    signals: &'a Signals,
    bar: Option<ProgressBar>,
    what: String,
    total: u64,
    done: u64,
    said: BootTime,
}

impl<'a> Progress<'a> {
    fn new(signals: &'a Signals) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(
                ProgressStyle::with_template("{msg:28} {bar:30} {pos}/{len} {per_sec} {eta}")
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            )
        });
        Self { signals, bar, what: String::new(), total: 0, done: 0, said: BootTime::default() }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Watch for Progress<'_> {
    fn begin(&mut self, what: &str, total: u64) {
        if self.what == what {
            return;
        }
        (self.what, self.total, self.done) = (what.to_owned(), total, 0);
        self.said = SystemClock.now().boot;
        match &self.bar {
            Some(bar) => {
                bar.reset();
                bar.set_length(total);
                bar.set_message(what.to_owned());
            }
            None if total > 0 => say(format_args!("{what}: {total}")),
            None => say(what),
        }
    }

    fn advance(&mut self, parts: u64) {
        self.done += parts;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done.min(self.total.max(self.done)));
            return;
        }
        let now = SystemClock.now().boot;
        if now.since(self.said) >= PERIOD {
            self.said = now;
            say(format_args!("{}: {} of {}", self.what, self.done, self.total));
        }
    }

    fn is_stopped(&self) -> bool {
        self.signals.ending().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_key_value_lines() {
        let report = Report {
            from: "leveldb:///a".to_owned(),
            to: "redis://b".to_owned(),
            stopped: Some(Duration::from_millis(7)),
            ..Report::default()
        };
        let text = described(&report, Task::Move);
        assert!(
            text.starts_with("state: moved\nfrom: leveldb:///a\nto: redis://b\nsource: locks=0 "),
            "{text}"
        );
        assert!(text.ends_with("others_in_target: 0\nstood_still_ms: 7\n"), "{text}");
        assert!(
            described(&Report { different: 1, ..report }, Task::Verify).starts_with("state: different\n")
        );
    }
}
