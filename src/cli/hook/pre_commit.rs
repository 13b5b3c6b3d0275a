//! The pre-commit hook of git (githooks(5)): no commit of what another is editing.
//!
//! It looks, and acquires nothing: a commit takes what is staged, and is over before the lock would help.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::apart::{Silent, within};
use super::claims::Verdict;
use super::{Exit, Failure, Outcome};
use crate::cli::facts::is_gone;
use crate::cli::fresh;
use crate::cli::mounts::{Place, default_mount, shown};
use crate::cli::naming::Namer;
use crate::cli::naming::git::staged;
use crate::cli::who::described;

/// How many files are named in a refusal.
const NAMED_MAX: usize = 10;

/// Answers for the commit that is under way here.
pub(super) fn answer(limit: Duration) -> Outcome {
    match within(limit, Silent::IsEnded, look) {
        Verdict::Granted => Ok(Exit::Done),
        Verdict::Held(who) => Err(Failure::new(
            Exit::Failed,
            format!(
                "others are editing what is to be committed: {who}. Wait for them, or look with lockfs why; git commit --no-verify commits all the same"
            ),
        )),
        Verdict::Unknown(why) => {
            let question = format!("nobody knows whether others are editing what is to be committed: {why}");
            match asked(&question) {
                Some(true) => Ok(Exit::Done),
                Some(false) => Err(Failure::new(Exit::Failed, "nothing is committed")),
                None => Err(Failure::new(
                    Exit::Unavailable,
                    format!(
                        "{question}; and nobody can be asked. git commit --no-verify commits all the same"
                    ),
                )),
            }
        }
    }
}

fn look() -> Verdict {
    match held() {
        Ok(held) if held.is_empty() => Verdict::Granted,
        Ok(held) => {
            let more = held.len().saturating_sub(NAMED_MAX);
            let mut text = held.into_iter().take(NAMED_MAX).collect::<Vec<_>>().join("; ");
            if more > 0 {
                text.push_str(&format!("; and {more} more"));
            }
            Verdict::Held(text)
        }
        Err(failure) => Verdict::Unknown(failure.message),
    }
}

/// What others hold of what is staged.
fn held() -> Result<Vec<String>, Failure> {
    let files = staged()?;
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let mount = default_mount()?;
    let (session, path) =
        (std::env::var("LOCKFS_SESSION").ok(), std::env::var_os("LOCKFS_PATH").map(PathBuf::from));
    let mut namer = Namer::default();
    let mut held = Vec::new();
    for file in files {
        let name = namer.name(&file)?;
        let place = Place { mount: mount.clone(), name: name.path };
        // `lockfs run` tells the command that it runs which lock it runs under.
        let is_own_path = path.as_deref() == Some(place.path().as_path());
        if let Some(who) = held_by_another(&place, session.as_deref())?.filter(|_| !is_own_path) {
            held.push(format!("{} (lock {}) is {who}", shown(&file), place.shown()));
        }
    }
    Ok(held)
}

fn held_by_another(place: &Place, session: Option<&str>) -> Result<Option<String>, Failure> {
    let unknown = |error| Failure::new(Exit::Unavailable, format!("cannot read {}: {error}", place.shown()));
    let data = match fresh::seen(&place.mount.path(""), &place.name, || fs::symlink_metadata(place.path())) {
        Ok(data) => data,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(unknown(error)),
    };
    // A submodule has the name of a directory of locks.
    if data.is_dir() {
        return Ok(None);
    }
    match fresh::facts(place) {
        Ok(facts) => {
            let is_own = session.is_some() && facts.get("session") == session && facts.grants().is_empty();
            let is_nobodys = facts.grants().is_empty() && facts.get("state") == Some("free");
            Ok((!is_own && !is_nobodys).then(|| described(&facts)))
        }
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(unknown(error)),
    }
}

/// Asks on the terminal; `None` where there is none. git runs its hooks without its own stdin.
fn asked(question: &str) -> Option<bool> {
    let mut terminal = OpenOptions::new().read(true).write(true).open(Path::new("/dev/tty")).ok()?;
    write!(terminal, "lockfs: {question}\ncommit all the same? [y/N] ")
        .and_then(|()| terminal.flush())
        .ok()?;
    let mut answer = String::new();
    BufReader::new(terminal).read_line(&mut answer).ok()?;
    Some(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
