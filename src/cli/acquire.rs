//! `lockfs acquire`: some locks, or none, for whoever asks.
//!
//! What it acquires outlives it: it belongs to the session of its caller. Several locks are acquired one after the other
//! in the order of their names, the same for everybody, so that no two of these commands wait for each other; when one
//! can't be had those before it are released.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;

use super::child::Ending;
use super::claim::{Attempt, Claim};
use super::mounts::{Place, place};
use super::session::SessionName;
use super::signals::Signals;
use super::wait::{Limit, Waiting, speak_for};
use super::{Exit, Failure, Outcome, say};
use crate::lock::Ttl;

/// Acquire locks, all of them or none
///
/// The locks belong to the session of LOCKFS_SESSION, else to the job that asks: a script holds them until it removes
/// their files (rm), or until a ttl after its end. At a prompt each command is a job of its own, so that a lock lasts
/// for one ttl: name a session there, or use lockfs run. If one of the locks is held by another, nothing is acquired and
/// the exit code is 1, unless --wait says to wait for it: first come, first served, over all hosts.
#[derive(Debug, Args)]
#[command(after_long_help = "\
The time is in seconds, or has units: 30, 0.5, 5m, 1h30m. Without one --wait has
no limit. What follows it and is a time is its time: a lock of the name 30 is
./30. Ctrl-C ends the wait, and leaves neither a lock nor a place in the queue.

Examples:
  $ lockfs acquire deploy
  $ lockfs acquire --wait deploy
  $ lockfs acquire --wait 30s --note 'release 7' deploy
  $ lockfs acquire -w 5m -E 75 --ttl 1h src/main.rs src/lib.rs
  $ lockfs acquire --session agent-7 --wait=10m build/web")]
pub(super) struct Acquire {
    #[command(flatten)]
    waiting: Waiting,
    /// Acquire the locks for this session
    #[arg(long, value_name = "NAME")]
    session: Option<SessionName>,
    /// What their files say: at most 64 KiB
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// How long the locks outlive their holder [default: what the mount says]
    #[arg(long)]
    ttl: Option<Ttl>,
    /// The locks
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

impl Acquire {
    pub(super) fn perform(self) -> Outcome {
        let limit = self.waiting.begin();
        let places = in_order(&self.paths)?;
        if let Some(session) = self.session.as_ref().filter(|_| !limit.is_none()) {
            speak_for(session, &places[0])?;
        }
        let signals = Signals::hold();
        let mut acquired = Vec::new();
        let outcome = self.acquire(&places, &limit, &signals, &mut acquired);
        if outcome != Ok(Exit::Done) {
            release(acquired);
        }
        outcome
    }

    fn acquire(
        &self,
        places: &[Place],
        limit: &Limit,
        signals: &Signals,
        acquired: &mut Vec<(String, Claim)>,
    ) -> Outcome {
        for place in places {
            let name = place.shown();
            match Claim::acquire(place, self.session.as_ref(), limit, signals)? {
                Attempt::Granted(claim) => acquired.push((name, claim)),
                Attempt::Held(message) => return Err(self.waiting.conflict(message)),
                Attempt::Signalled(signal) => return Ok(Exit::Code(Ending::code_of_signal(signal))),
            }
            let (name, claim) = &acquired[acquired.len() - 1];
            if let Some(ttl) = self.ttl {
                claim.set_ttl(ttl, name)?;
            }
            if let Some(note) = &self.note {
                claim.write_note(note.as_bytes(), name)?;
            }
            if let Some(signal) = signals.ending() {
                return Ok(Exit::Code(Ending::code_of_signal(signal)));
            }
        }
        Ok(Exit::Done)
    }
}

/// The locks that `paths` name, each once, by the order of their names.
fn in_order(paths: &[PathBuf]) -> Result<Vec<Place>, Failure> {
    let mut places = BTreeMap::new();
    for path in paths {
        let place = place(path)?.of_a_lock()?;
        places.entry((place.mount.point.clone(), place.lock().to_owned())).or_insert(place);
    }
    Ok(places.into_values().collect())
}

/// Gives back what was acquired before something went wrong, the last first.
fn release(acquired: Vec<(String, Claim)>) {
    for (name, claim) in acquired.into_iter().rev() {
        if let Err(error) = claim.release() {
            say(format_args!("cannot release {name}: {error}"));
        }
    }
}
