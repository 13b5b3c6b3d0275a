//! `lockfs run`: a command that runs only while its lock is held.
//!
//! From before the acquire to after the release no signal can end the process but SIGKILL, and after that the
//! lock outlives it no longer than its ttl. The command never runs on without the lock: it is watched on an
//! open descriptor, and lost is what the mount says (ESTALE, or no name left), not what can't be asked. A
//! daemon that is restarted has neither lost nor given away anything, so then the watch waits for it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use clap::Args;

use super::child::{Child, Ending, Signals};
use super::facts::{Facts, SUMMARY, is_gone};
use super::mounts::{Place, mount_of, mounted, place, shown};
use super::out::escaped;
use super::session::SessionName;
use super::{Exit, Failure, Outcome, say, xattr};
use crate::lock::Ttl;

/// Run a command while holding a lock
///
/// Acquires the lock, runs the command with LOCKFS_PATH (the lock's file) and LOCKFS_TOKEN (its fencing token)
/// in its environment, passes signals on to it, releases the lock, and exits as the command did: with its code,
/// 128 + signal where one ended it, 127 or 126 where it could not be started. If the lock is held by another,
/// nothing runs and the exit code is 1. If the lock is lost meanwhile, the command and what it started are
/// stopped, and the exit code is 1.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  $ lockfs run deploy -- ./deploy.sh
  $ lockfs run -E 75 nightly -- rsync -a /srv backup:
  $ lockfs run --ttl 30s --grace 5s build/web -- make web
  $ lockfs run ./here -- sh -c 'echo $LOCKFS_TOKEN'")]
pub(super) struct Run {
    /// The exit code when another holds the lock
    #[arg(short = 'E', long, value_name = "CODE", default_value_t = 1)]
    conflict_exit_code: u8,
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
        let place = place(&self.path)?.not_the_root()?;
        let signals = Signals::hold();
        let claim = match Claim::acquire(&place, self.session.as_ref())? {
            Attempt::Granted(claim) => claim,
            Attempt::Held(message) => {
                return Err(Failure::new(Exit::Code(self.conflict_exit_code), message));
            }
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
            xattr::set_of(&claim.file, "ttl", &ttl.to_string()).map_err(|error| {
                Failure::new(Exit::Unavailable, format!("cannot set the ttl of {name}: {error}"))
            })?;
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

/// Who has it now, for a message.
fn now_held(place: &Place) -> String {
    Facts::read(place, SUMMARY)
        .map_or_else(|_| String::new(), |facts| format!(" and is {}", facts.sentence()))
}

/// What an acquire came to.
enum Attempt {
    Granted(Claim),
    /// Another holds it; says who.
    Held(String),
}

/// A lock that this process acquired.
struct Claim {
    /// Open as long as the lock is held.
    file: File,
    /// The path that it was created by: below `.sessions` for a named session.
    path: PathBuf,
    /// Its inode number: another lock of that name has another.
    ino: u64,
}

/// What became of a lock by the time of its release.
enum Release {
    /// It was released.
    Done,
    /// The holder had removed it itself.
    Gone,
    /// It was lost before.
    Lost,
}

impl Claim {
    fn acquire(place: &Place, session: Option<&SessionName>) -> Result<Attempt, Failure> {
        let path = match session {
            Some(session) => session.directory(&place.mount).join(place.lock()),
            None => place.path(),
        };
        let name = place.shown();
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => {
                let unread = |error| Failure::new(Exit::Unavailable, format!("cannot read {name}: {error}"));
                let ino = file.metadata().map_err(unread)?.ino();
                Ok(Attempt::Granted(Self { file, path, ino }))
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Ok(Attempt::Held(match Facts::read(place, SUMMARY) {
                    Ok(facts) => format!("{name} is {}", facts.sentence()),
                    Err(_) => format!("{name} is held by another"),
                }))
            }
            Err(error) => Err(refusal(place, session, &error)),
        }
    }

    /// Releases the lock, unless it is not ours any more.
    fn release(self) -> io::Result<Release> {
        // Asked first: once the lock is lost its name may be another's, and later ours again.
        let seen = look(&self.file);
        if seen == Look::Lost(Loss::Lost) {
            return Ok(Release::Lost);
        }
        match fs::symlink_metadata(&self.path) {
            Ok(data) if data.ino() != self.ino => {
                return Ok(if seen == Look::Unknown { Release::Lost } else { Release::Gone });
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Release::Gone),
            Err(error) => return Err(error),
        }
        match fs::remove_file(&self.path) {
            Ok(()) => Ok(Release::Done),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Release::Gone),
            // Another's by now: the mount keeps a late unlink away from it (DESIGN 4).
            Err(error) if error.kind() == ErrorKind::StaleNetworkFileHandle => Ok(Release::Lost),
            Err(error) => Err(error),
        }
    }
}

/// Why nothing was acquired although nobody holds the lock.
fn refusal(place: &Place, session: Option<&SessionName>, error: &io::Error) -> Failure {
    let name = place.shown();
    if error.kind() == ErrorKind::NotFound {
        if let Some(session) = session.filter(|session| !session.directory(&place.mount).is_dir()) {
            let session = session.as_str();
            let message = format!("there is no session {session}: lockfs session begin {session} begins it");
            return Failure::new(Exit::Usage, message);
        }
        let missing = place.name.ancestors().skip(1).filter(|above| !place.mount.path(above).is_dir()).last();
        if let Some(missing) = missing {
            let path = shown(&place.path().parent().map(Path::to_owned).unwrap_or_default());
            let message = format!("there is no directory {}: mkdir -p {path} makes it", shown(missing));
            return Failure::new(Exit::Usage, message);
        }
    }
    let exit = match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::NotADirectory | ErrorKind::InvalidFilename => Exit::Usage,
        _ => Exit::Unavailable,
    };
    Failure::new(exit, format!("cannot acquire {name}: {error}"))
}

/// How a held lock ends without its holder's release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// It expired, was broken or handed on.
    Lost,
    /// Its file was removed, by the command itself or by whoever may.
    Removed,
}

/// What a look at an open lock shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Held,
    Lost(Loss),
    /// The mount can't be asked.
    Unknown,
}

fn look(file: &File) -> Look {
    match file.metadata() {
        Ok(data) if data.nlink() == 0 => Look::Lost(Loss::Removed),
        Ok(_) => Look::Held,
        Err(error) if is_gone(&error) => Look::Lost(Loss::Lost),
        Err(_) => Look::Unknown,
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

    #[test]
    fn a_file_is_held_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let file = File::create_new(&path).unwrap();
        assert_eq!(look(&file), Look::Held);
        fs::remove_file(&path).unwrap();
        assert_eq!(look(&file), Look::Lost(Loss::Removed));
    }

    #[test]
    fn a_release_leaves_the_lock_of_another_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let file = File::create_new(&path).unwrap();
        let ino = file.metadata().unwrap().ino();
        let claim = Claim { file, path: path.clone(), ino };
        fs::rename(&path, dir.path().join("kept")).unwrap();
        File::create_new(&path).unwrap();
        assert!(matches!(claim.release(), Ok(Release::Gone)));
        assert!(path.exists());
    }
}
