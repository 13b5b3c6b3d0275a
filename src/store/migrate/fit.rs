//! How what is moved fits into a target that has something already.
//!
//! A directory that is a name, and stands there by that name too, is the same directory: what stands in it goes in there.
//! Anything else that has the name, the number or the session's name of what is moved is in the way, unless it is that
//! very thing, as an earlier migration left it.

use std::collections::{HashMap, HashSet};

use super::canon::{self, Key, Print};
use crate::lock::{Ino, Kind, Name, Record, Session, SessionId, Ttl};

/// How many names a refusal has at most.
const SHOWN: usize = 5;

/// What the target had before, and how what comes fits in.
#[derive(Debug, Default)]
pub(super) struct Fit {
    /// What stood there by name: the number, and whether it is a directory that is a name.
    names: HashMap<(Ino, Name), Ino>,
    kept: HashMap<Key, Print>,
    ways: HashSet<Ino>,
    holders: HashMap<Ino, String>,
    /// Directories of the source, and what they are in the target.
    same: HashMap<Ino, Ino>,
}

/// What becomes of a thing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fitted<T> {
    /// It is put there so.
    Put(T),
    /// It is there already.
    IsThere,
    /// It can't be put there; says what is in the way.
    InTheWay(String),
}

impl Fit {
    /// Notes an object that the target had.
    pub(super) fn keep(&mut self, record: &Record, holder: Option<String>) {
        self.kept.insert(Key::Object(record.ino), canon::of_record(record));
        for place in &record.places {
            self.names.insert((place.parent, place.name.clone()), record.ino);
        }
        if is_way(record) {
            self.ways.insert(record.ino);
        }
        self.holders.insert(record.ino, holder.unwrap_or_else(|| "held by nobody".to_owned()));
    }

    /// Notes a session that the target had.
    pub(super) fn keep_session(&mut self, session: &Session) {
        self.kept.insert(Key::Session(session.id.clone()), canon::of_session(session));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    pub(super) fn len(&self) -> u64 {
        self.kept.len() as u64
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        self.kept.contains_key(key)
    }

    /// Finds out which directories are the same in both, and what is in the way: `objects` are all of the source.
    pub(super) fn resolve(&mut self, objects: &[Record], sessions: &[Session]) -> Vec<String> {
        let mut entries: HashMap<Ino, Vec<&Record>> = HashMap::new();
        for record in objects {
            for place in &record.places {
                entries.entry(place.parent).or_default().push(record);
            }
        }
        let mut blocking = Vec::new();
        let mut ahead = vec![Ino::ROOT];
        while let Some(directory) = ahead.pop() {
            for record in entries.get(&directory).into_iter().flatten() {
                if let Fitted::InTheWay(what) = self.object((*record).clone()) {
                    blocking.push(what);
                } else if record.body.kind() == Kind::Directory {
                    ahead.push(record.ino);
                }
            }
        }
        for session in sessions {
            if let Fitted::InTheWay(what) = self.session(session.clone()) {
                blocking.push(what);
            }
        }
        blocking.sort_unstable();
        blocking.dedup();
        blocking
    }

    /// How an object fits; the directories on the way to it were asked before.
    pub(super) fn object(&mut self, mut record: Record) -> Fitted<Record> {
        if self.is_empty() {
            return Fitted::Put(record);
        }
        if record.ino == Ino::ROOT || self.same.contains_key(&record.ino) {
            return Fitted::IsThere;
        }
        for place in &mut record.places {
            place.parent = self.same.get(&place.parent).copied().unwrap_or(place.parent);
        }
        let same_number = self.kept.get(&Key::Object(record.ino));
        if same_number.is_some_and(|print| *print == canon::of_record(&record)) {
            return Fitted::IsThere;
        }
        let standing = record
            .places
            .iter()
            .find_map(|place| self.names.get(&(place.parent, place.name.clone())))
            .copied();
        match standing {
            None if same_number.is_some() => Fitted::InTheWay(format!(
                "inode number {} of {}, which another has there",
                record.ino,
                self.describe(record.ino, &record)
            )),
            None => Fitted::Put(record),
            Some(other) if is_way(&record) && self.ways.contains(&other) => {
                self.same.insert(record.ino, other);
                Fitted::IsThere
            }
            Some(other) => Fitted::InTheWay(self.describe(other, &record)),
        }
    }

    /// How a session fits.
    pub(super) fn session(&self, mut session: Session) -> Fitted<Session> {
        for (parent, _) in &mut session.lost {
            *parent = self.same.get(parent).copied().unwrap_or(*parent);
        }
        match self.kept.get(&Key::Session(session.id.clone())) {
            None => Fitted::Put(session),
            Some(print) if *print == canon::of_session(&session) => Fitted::IsThere,
            Some(_) => Fitted::InTheWay(format!("session {}", session.id)),
        }
    }

    fn describe(&self, standing: Ino, record: &Record) -> String {
        let name = record.places.first().map_or_else(String::new, |place| {
            let mut names = vec![place.name.as_bytes().to_vec()];
            let mut above = place.parent;
            let up =
                |ino: Ino| self.names.iter().find(|(_, named)| **named == ino).map(|(spot, _)| spot.clone());
            while let Some((parent, name)) = up(above) {
                names.push(name.as_bytes().to_vec());
                above = parent;
            }
            crate::lock::LockPath::join(names.iter().rev().map(Vec::as_slice)).to_string()
        });
        let holder = self.holders.get(&standing).map_or("held by nobody", String::as_str);
        format!("{name} ({holder})")
    }
}

/// A directory that is a name, and no lock.
fn is_way(record: &Record) -> bool {
    record.body.kind() == Kind::Directory && record.ttl == Ttl::Never
}

/// What is in the way, for people.
pub(super) fn refusal(place: &str, blocking: &[String]) -> String {
    let shown = blocking.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    let more = match blocking.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "in the way at {place}: {shown}{more}: release them there, or name another namespace (nothing was moved)"
    )
}

/// The session of a record.
pub(super) fn holder(record: &Record, origins: &HashMap<SessionId, String>) -> Option<String> {
    let id = record.session.as_ref()?;
    Some(format!("{}, session {id}", origins.get(id).map_or("somebody", String::as_str)))
}
