//! The locks of an agent: acquired for its session, renewed with it, released with it.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::cli::Failure;
use crate::cli::facts::{Facts, is_gone};
use crate::cli::fresh;
use crate::cli::mounts::{Mount, Place, default_mount, shown};
use crate::cli::naming::{Namer, hash};
use crate::cli::path::make_way;
use crate::cli::session::{SessionName, touch};
use crate::cli::wait::Queue;
use crate::cli::who::described;
use crate::cli::xattr;
use crate::lock::{SessionId, Ttl};

/// What a hook has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The files are the agent's; or what was asked for is done.
    Granted,
    /// Another holds one of them: who, and what to do.
    Held(String),
    /// Nobody knows: why.
    Unknown(String),
}

impl Verdict {
    /// As bytes, for another process.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (kind, text) = match self {
            Self::Granted => ('g', ""),
            Self::Held(text) => ('h', text.as_str()),
            Self::Unknown(text) => ('u', text.as_str()),
        };
        format!("{kind}{text}").into_bytes()
    }

    /// What [`Verdict::encode`] has made; nothing else.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        match text.split_at_checked(1)? {
            ("g", "") => Some(Self::Granted),
            ("h", text) => Some(Self::Held(text.to_owned())),
            ("u", text) => Some(Self::Unknown(text.to_owned())),
            _ => None,
        }
    }
}

/// How often a name is tried that is neither made nor found: others make and remove it meanwhile.
const ROUNDS: usize = 16;

/// The session of an agent that calls its own `id`: of the same name, as far as the names of sessions go.
pub(super) fn session_of(id: &str) -> Result<SessionName, String> {
    if id.is_empty() {
        return Err("an agent without a session has no name".to_owned());
    }
    if let Ok(name) = id.parse() {
        return Ok(name);
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._@:+-".contains(c) { c } else { '-' };
    let hash = format!("+{:032x}", hash(id.as_bytes()));
    let head: String =
        "agent-".chars().chain(id.chars().map(plain)).take(SessionId::MAX - hash.len()).collect();
    (head + &hash).parse().map_err(|error: crate::lock::SessionError| error.to_string())
}

/// Acquires the locks of `files` for `session`, all of them or none; what it holds already it holds on.
pub(super) fn acquire(session: &SessionName, files: &[PathBuf], ttl: Option<Ttl>) -> Verdict {
    match try_acquire(session, files, ttl) {
        Ok(verdict) => verdict,
        Err(failure) => {
            let files: Vec<_> = files.iter().map(|file| shown(file)).collect();
            let files = files.join(", ");
            Verdict::Unknown(format!("nobody knows whether another is editing {files}: {}", failure.message))
        }
    }
}

fn try_acquire(session: &SessionName, files: &[PathBuf], ttl: Option<Ttl>) -> Result<Verdict, Failure> {
    let mount = default_mount()?;
    let mut namer = Namer::default();
    let mut names = Vec::new();
    for file in files {
        names.push((namer.name(file)?.path, file));
    }
    // The same order for everybody, so that of two who want the same files one gets all of them.
    names.sort();
    names.dedup_by(|a, b| a.0 == b.0);
    begin_or_renew(&mount, session).map_err(|error| unknown("cannot begin its session", &error))?;
    let mut acquired = Vec::new();
    for (name, file) in names {
        let place = Place { mount: mount.clone(), name };
        let undo = |acquired: Vec<PathBuf>| acquired.into_iter().for_each(|path| _ = fs::remove_file(path));
        match claim(&place, session, ttl) {
            Ok(Claimed::Now(path)) => acquired.push(path),
            Ok(Claimed::Before) => {}
            Ok(Claimed::Not(who)) => {
                undo(acquired);
                return Ok(Verdict::Held(refusal(&place, file, &who)));
            }
            Err(failure) => {
                undo(acquired);
                return Err(failure);
            }
        }
    }
    Ok(Verdict::Granted)
}

/// What the acquire of one lock came to.
enum Claimed {
    /// It was acquired, by this path.
    Now(PathBuf),
    /// The session had it.
    Before,
    /// Another is in the way; who.
    Not(String),
}

fn claim(place: &Place, session: &SessionName, ttl: Option<Ttl>) -> Result<Claimed, Failure> {
    let directory = session.directory(&place.mount);
    let path = directory.join(&place.name);
    for _ in 0..ROUNDS {
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => {
                if let Some(ttl) = ttl {
                    xattr::set_of(&file, "ttl", &ttl.to_string()).map_err(|error| {
                        let _ = fs::remove_file(&path);
                        unknown("cannot set its ttl", &error)
                    })?;
                }
                return Ok(Claimed::Now(path));
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => match fresh::facts(place) {
                Ok(facts) if is_of(&facts, session) => return Ok(Claimed::Before),
                Ok(facts) => return stands(place, &facts),
                // Released since; or it is kept for one who waits, which ends within seconds.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(unknown("cannot read its lock", &error)),
            },
            // No session, or no directory, which others' ends may take away again; or a lock where one would have to be.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                if let Some(claimed) = above(place)? {
                    return Ok(claimed);
                }
                begin_or_renew(&place.mount, session)
                    .map_err(|error| unknown("cannot begin its session", &error))?;
                match make_way(&directory, &place.name) {
                    Err(error) if !is_gone(&error) => {
                        return Err(unknown("cannot make its directories", &error));
                    }
                    _ => {}
                }
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(unknown("cannot acquire its lock", &error)),
        }
    }
    let first = Queue::of(place).first();
    Ok(Claimed::Not(
        first
            .map_or("taken and released all the time".to_owned(), |who| format!("kept for {who}, who waits")),
    ))
}

fn is_of(facts: &Facts, session: &SessionName) -> bool {
    facts.grants().is_empty() && facts.get("session") == Some(session.as_str())
}

/// What stands at the name of the lock, and is not the session's.
fn stands(place: &Place, facts: &Facts) -> Result<Claimed, Failure> {
    if fs::symlink_metadata(place.path()).is_ok_and(|data| data.is_dir()) {
        let error =
            io::Error::other("a directory of locks has its name (rmdir removes it, once it is empty)");
        return Err(unknown("cannot acquire its lock", &error));
    }
    Ok(Claimed::Not(described(facts)))
}

/// A lock stands where a directory would have to.
fn above(place: &Place) -> Result<Option<Claimed>, Failure> {
    for name in place.name.ancestors().skip(1).filter(|name| !name.as_os_str().is_empty()) {
        let place = Place { mount: place.mount.clone(), name: name.to_owned() };
        if fs::symlink_metadata(place.path()).is_ok_and(|data| !data.is_dir()) {
            return match fresh::facts(&place) {
                Ok(facts) => {
                    let who = format!("below {}, which is {}", place.shown(), described(&facts));
                    Ok(Some(Claimed::Not(who)))
                }
                Err(error) if is_gone(&error) => Ok(None),
                Err(error) => Err(unknown("cannot read the lock above it", &error)),
            };
        }
    }
    Ok(None)
}

/// Says who is in the way, to an agent and to whoever reads along.
fn refusal(place: &Place, file: &Path, who: &str) -> String {
    let (file, lock) = (shown(file), place.shown());
    format!(
        "{file} is being edited by another: its lock {lock} is {who}. Leave it alone: work on something else and try \
         again later, or tell your user. People see more with: lockfs why {lock}; and can end it, once they know that \
         its holder is gone, with: lockfs break {lock}"
    )
}

fn unknown(what: &str, error: &io::Error) -> Failure {
    Failure::new(crate::cli::Exit::Unavailable, format!("{what}: {error}"))
}

/// Moves the deadlines of all that the session holds; begins it where it has not begun, or has expired.
fn begin_or_renew(mount: &Mount, session: &SessionName) -> io::Result<()> {
    let directory = session.directory(mount);
    for _ in 0..ROUNDS {
        match touch(&directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            touched => return touched,
        }
        match fs::create_dir(&directory) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => return made,
        }
    }
    Err(io::Error::other("it begins and ends all the time"))
}

/// Renews what the session holds. One that is not there holds nothing.
pub(super) fn renew(session: &SessionName) -> Verdict {
    with_directory(session, |_mount, directory| touch(directory))
}

/// Releases what the session holds, and ends it. One that is not there has ended.
pub(super) fn release(session: &SessionName) -> Verdict {
    with_directory(session, |mount, directory| {
        // What it made goes with it, unless it led to others' locks: then nobody's, it goes with the last of these.
        let ways = ways(directory);
        fs::remove_dir(directory)?;
        ways.iter().rev().for_each(|way| _ = fs::remove_dir(mount.path(way)));
        Ok(())
    })
}

/// The directories that lead to what a session holds, each before those in it.
fn ways(session: &Path) -> Vec<PathBuf> {
    let mut ways: Vec<PathBuf> = vec![PathBuf::new()];
    let mut next = 0;
    while let Some(way) = ways.get(next).cloned() {
        next += 1;
        let entries = fs::read_dir(session.join(&way)).into_iter().flatten().flatten();
        let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        ways.extend(directories.map(|entry| way.join(entry.file_name())));
    }
    ways.split_off(1)
}

fn with_directory(session: &SessionName, act: impl FnOnce(&Mount, &Path) -> io::Result<()>) -> Verdict {
    let mount = match default_mount() {
        Ok(mount) => mount,
        Err(failure) => return Verdict::Unknown(failure.message),
    };
    match act(&mount, &session.directory(&mount)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Verdict::Unknown(format!("session {session}: {error}"))
        }
        _ => Verdict::Granted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_of_an_agent_is_called_as_the_agent_calls_it() {
        for id in ["0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0", "ses_0a1b2c3dXYZ"] {
            assert_eq!(session_of(id).unwrap().as_str(), id);
        }
        let odd = session_of("../a b").unwrap();
        assert!(odd.as_str().starts_with("agent-..-a-b+"), "{odd}");
        assert_ne!(odd.as_str(), session_of("../a-b").unwrap().as_str());
        assert_eq!(session_of(&"x".repeat(500)).unwrap().as_str().len(), SessionId::MAX);
        assert!(session_of("").is_err());
    }
}
