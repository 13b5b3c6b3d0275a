//! `lockfs run`: a command that runs only while its lock is held.
//!
//! From before the acquire to after the release no signal can end the process but SIGKILL, and after that the
//! lock outlives it no longer than its ttl. The command never runs on without the lock: it is watched on an
//! open descriptor, and lost is what the mount says (ESTALE, or no name left), not what can't be asked. A
//! daemon that is restarted has neither lost nor given away anything, so then the watch waits for it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use clap::Args;

use super::child::{Child, Ending};
use super::claim::{Attempt, Claim, Look, Loss, Release, look, now_held};
use super::mounts::{Place, mount_of, mounted, place};
use super::out::escaped;
use super::session::SessionName;
use super::signals::Signals;
use super::wait::{Waiting, speak_for};
use super::{Exit, Failure, Outcome, say, xattr};
use crate::lock::Ttl;

/// Run a command while holding a lock
///
/// Acquires the lock, runs the command with LOCKFS_PATH (the lock's file) and LOCKFS_TOKEN (its fencing token)
/// in its environment, passes signals on to it, releases the lock, and exits as the command did: with its code,
/// 128 + signal where one ended it, 127 or 126 where it could not be started. If the lock is held by another,
/// nothing runs and the exit code is 1, unless --wait says to wait for it: first come, first served, over all hosts.
/// If the lock is lost meanwhile, the command and what it started are stopped, and the exit code is 1.
#[derive(Debug, Args)]
#[command(after_long_help = "\
The time is in seconds, or has units: 30, 0.5, 5m, 1h30m. Without one --wait has
no limit. What follows it and is a time is its time: a lock of the name 30 is
./30. Ctrl-C ends the wait, and leaves neither a lock nor a place in the queue.

Examples:
  $ lockfs run deploy -- ./deploy.sh
  $ lockfs run --wait deploy -- ./deploy.sh
  $ lockfs run --wait 30s -E 75 nightly -- rsync -a /srv backup:
  $ lockfs run --ttl 30s --grace 5s build/web -- make web
  $ lockfs run ./here -- sh -c 'echo $LOCKFS_TOKEN'")]
pub(super) struct Run {
    #[command(flatten)]
    waiting: Waiting,
    /// Acquire the lock for this session
    #[arg(long, value_name = "NAME")]
    session: Option<SessionName>,
    /// How long the lock outlives its holder [default: what the mount says]
    #[arg(long)]
    ttl: Option<Ttl>,
    /// How long a command may go on after its lock is lost
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = span)]
    grace: Duration,
    /// The lock
    path: PathBuf,
    /// What to run
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// A span of time is spelt as a ttl is.
fn span(text: &str) -> Result<Duration, String> {
    match text.parse::<Ttl>().map_err(|error| error.to_string())? {
        Ttl::For(span) => Ok(span),
        Ttl::Never if text.trim() != "never" => Ok(Duration::ZERO),
        Ttl::Never => Err("a command that lost its lock has to end some time".to_owned()),
    }
}

/// How often the command and its lock are looked at.
const PERIOD: Duration = Duration::from_millis(250);

impl Run {
    pub(super) fn perform(self) -> Outcome {
        let place = place(&self.path)?.of_a_lock()?;
        let limit = self.waiting.begin();
        if let Some(session) = self.session.as_ref().filter(|_| !limit.is_none()) {
            speak_for(session, &place)?;
        }
        let signals = Signals::hold();
        let claim = match Claim::acquire(&place, self.session.as_ref(), &limit, &signals)? {
            Attempt::Granted(claim) => claim,
            Attempt::Held(message) => return Err(self.waiting.conflict(message)),
            Attempt::Signalled(signal) => return Ok(Exit::Code(Ending::code_of_signal(signal))),
        };
        let outcome = self.under(&claim, &place, &signals);
        match (claim.release(), outcome) {
            (Err(error), outcome) => {
                say(format_args!("cannot release {}: {error}", place.shown()));
                outcome
            }
            (Ok(Release::Lost), Ok(_)) => Err(Failure::new(
                Exit::Failed,
                format!("lost {} before the command had ended{}", place.shown(), now_held(&place)),
            )),
            (Ok(_), outcome) => outcome,
        }
    }

    /// All that happens while the lock is held.
    fn under(&self, claim: &Claim, place: &Place, signals: &Signals) -> Outcome {
        let name = place.shown();
        if let Some(ttl) = self.ttl {
            claim.set_ttl(ttl, &name)?;
        }
        // A lock that excludes on this host only has no token: DESIGN 6, hybrid.
        let token = xattr::get_of(&claim.file, "token").ok();
        let watch = Watch::start(claim)
            .map_err(|error| Failure::new(Exit::Unavailable, format!("cannot watch {name}: {error}")))?;
        if let Some(signal) = signals.ending() {
            return Ok(Exit::Code(Ending::code_of_signal(signal)));
        }
        let path = place.path();
        let mut environment =
            vec![("LOCKFS_PATH", Some(path.as_os_str())), ("LOCKFS_TOKEN", token.as_deref().map(OsStr::new))];
        if let Some(session) = &self.session {
            environment.push(("LOCKFS_SESSION", Some(OsStr::new(session.as_str()))));
        }
        let mut child = Child::start(&self.command, &environment, signals).map_err(|error| {
            let code = if error.kind() == ErrorKind::NotFound { 127 } else { 126 };
            let program = escaped(self.command[0].as_encoded_bytes());
            Failure::new(Exit::Code(code), format!("cannot run {program}: {error}"))
        })?;
        loop {
            if let Some(ending) = child.ended_within(PERIOD) {
                return Ok(Exit::Code(ending.code()));
            }
            if let Some(loss) = watch.loss() {
                let how = match loss {
                    Loss::Lost => format!("lost{}", now_held(place)),
                    Loss::Removed => "removed".to_owned(),
                };
                say(format_args!("{name} was {how}: stopping the command"));
                child.stop(self.grace);
                return Err(Failure::new(Exit::Failed, ""));
            }
        }
    }
}

/// A thread that looks at a lock, since a look at a mount that does not answer may take for ever.
struct Watch {
    loss: Arc<OnceLock<Loss>>,
    /// Dropped with the watch, which ends the thread. Nobody joins it: it may hang where this must not.
    _end: mpsc::Sender<()>,
}

impl Watch {
    fn start(claim: &Claim) -> io::Result<Self> {
        let loss = Arc::new(OnceLock::new());
        let (end, ended) = mpsc::channel();
        let mut eye = Eye { file: claim.file.try_clone()?, path: claim.path.clone(), ino: claim.ino };
        let found = Arc::clone(&loss);
        thread::Builder::new().name("lock-watch".to_owned()).spawn(move || {
            while ended.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                if let Look::Lost(loss) = eye.look() {
                    found.get_or_init(|| loss);
                    return;
                }
            }
        })?;
        Ok(Self { loss, _end: end })
    }

    fn loss(&self) -> Option<Loss> {
        self.loss.get().copied()
    }
}

/// What looks at one lock, over restarts of its daemon.
struct Eye {
    file: File,
    path: PathBuf,
    ino: u64,
}

impl Eye {
    fn look(&mut self) -> Look {
        match look(&self.file) {
            Look::Unknown => self.look_again(),
            seen => seen,
        }
    }

    /// A descriptor of a daemon that died answers ENOTCONN for ever; the lock is in the store, and the next
    /// daemon shows it under its path with the same inode number. Until one is there, nothing is known, and
    /// nothing can be granted to others.
    fn look_again(&mut self) -> Look {
        let is_in_a_mount = mounted().is_ok_and(|mounts| mount_of(&self.path, &mounts).is_some());
        if !is_in_a_mount {
            return Look::Unknown;
        }
        match fs::symlink_metadata(&self.path) {
            Ok(data) if data.ino() == self.ino => {
                if let Ok(file) = File::open(&self.path) {
                    self.file = file;
                }
                Look::Held
            }
            Ok(_) => Look::Lost(Loss::Lost),
            Err(error) if error.kind() == ErrorKind::NotFound => Look::Lost(Loss::Lost),
            Err(_) => Look::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grace_is_a_span() {
        assert_eq!(span("0"), Ok(Duration::ZERO));
        assert_eq!(span("1m30s"), Ok(Duration::from_secs(90)));
        assert!(span("never").is_err() && span("x").is_err());
    }
}
