//! What can be asked of the table without changing it.

use std::ops::Bound;

use super::{LockTable, Object, Spot, Tally};
use crate::clock::{BootTime, Now};
use crate::lock::{
    Attributes, EventKind, Grant, Ino, LockPath, Name, Record, Session, SessionId, Token, Ttl,
};

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where the listing goes on after it.
    pub cookie: Token,
    /// Its name.
    pub name: Name,
    /// What stands there.
    pub attributes: Attributes,
}

/// Everything known of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its record.
    pub record: Record,
    /// What stat(2) tells.
    pub attributes: Attributes,
    /// The path of its first name; empty of the root and of what is unlinked.
    pub path: LockPath,
    /// The session that holds it.
    pub session: Option<Session>,
    /// When it expires.
    pub deadline: Option<BootTime>,
    /// Advisory locks on it.
    pub grants: Vec<Grant>,
    /// How many wait for one, or for its name.
    pub waiting: usize,
}

/// How many, and how often since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Locks and directories, the root not counted.
    pub locks: u64,
    /// Sessions.
    pub sessions: u64,
    /// Calls that wait.
    pub waits: u64,
    /// Events of each kind, in the order of [`EventKind`].
    pub events: [u64; EventKind::ALL.len()],
}

impl Counts {
    /// How often `kind` happened.
    pub fn of(&self, kind: EventKind) -> u64 {
        self.events[kind as usize]
    }
}

impl LockTable {
    /// What stands at a spot, if anything alive does.
    pub fn lookup(&self, now: Now, spot: &Spot) -> Option<Attributes> {
        let directory = self.live(spot.parent, now)?.directory.as_ref()?;
        let (_, ino) = directory.by_name.get(&spot.name)?;
        self.live(*ino, now).map(|object| self.attributes(object))
    }

    /// What stat(2) tells of an object, if it is alive.
    pub fn stat(&self, now: Now, ino: Ino) -> Option<Attributes> {
        self.live(ino, now).map(|object| self.attributes(object))
    }

    /// Everything known of an object, if it is alive.
    pub fn view(&self, now: Now, ino: Ino) -> Option<View> {
        let object = self.live(ino, now)?;
        let record = object.record.clone();
        let session = record.session.as_ref().and_then(|id| self.sessions.get(id));
        Some(View {
            attributes: self.attributes(object),
            path: self.path_of(ino),
            session: session.map(|group| group.session.clone()),
            deadline: self.deadline(object),
            grants: self.grants(now, ino).cloned().collect(),
            waiting: self.waiting(now, ino),
            record,
        })
    }

    /// At most `limit` living entries of a directory after `after`, in the order in which they came; `None`
    /// if it is no living directory.
    pub fn list(&self, now: Now, ino: Ino, after: Option<Token>, limit: usize) -> Option<Vec<Entry>> {
        let directory = self.live(ino, now)?.directory.as_ref()?;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = directory.by_cookie.range((start, Bound::Unbounded));
        let living = entries.filter_map(|(cookie, (name, ino))| {
            let attributes = self.attributes(self.live(*ino, now)?);
            Some(Entry { cookie: *cookie, name: name.clone(), attributes })
        });
        Some(living.take(limit).collect())
    }

    /// A session by its name, if it is alive.
    pub fn session(&self, now: Now, id: &SessionId) -> Option<Session> {
        self.live_session(id, now).map(|group| group.session.clone())
    }

    /// A session by the number of its directory, if it is alive.
    pub fn session_by_number(&self, now: Now, ino: Ino) -> Option<Session> {
        self.session(now, self.session_numbers.get(&ino)?)
    }

    /// At most `limit` living sessions after `after`, in the order in which they began.
    pub fn list_sessions(&self, now: Now, after: Option<Ino>, limit: usize) -> Vec<Session> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let ids = self.session_numbers.range((start, Bound::Unbounded)).map(|(_, id)| id);
        ids.filter_map(|id| self.session(now, id)).take(limit).collect()
    }

    /// Whether a session holds an object, or something below it.
    pub fn holds_below(&self, now: Now, id: &SessionId, ino: Ino) -> bool {
        let Some(group) = self.sessions.get(id) else {
            return false;
        };
        let mut held = group.holds.iter().filter_map(|held| self.live(*held, now));
        held.any(|object| {
            let mut places = object.record.places.iter();
            object.record.ino == ino || places.any(|place| self.is_at_or_below(place.parent, ino))
        })
    }

    fn is_at_or_below(&self, ino: Ino, above: Ino) -> bool {
        let mut current = Some(ino);
        while let Some(ino) = current {
            if ino == above {
                return true;
            }
            let object = self.object(ino);
            current = object.and_then(|object| object.record.places.first()).map(|place| place.parent);
        }
        false
    }

    /// At most `limit` entries, after `after`, that a session's view of a directory shows: what it holds
    /// there, and the directories on the way to what it holds further down.
    pub fn list_held(
        &self,
        now: Now,
        id: &SessionId,
        ino: Ino,
        after: Option<Token>,
        limit: usize,
    ) -> Vec<Entry> {
        let mut entries = std::collections::BTreeMap::new();
        let holds = self.sessions.get(id).map(|group| &group.holds);
        for held in holds.into_iter().flatten() {
            let Some(object) = self.live(*held, now) else {
                continue;
            };
            for place in &object.record.places {
                // Upwards until the directory asked for: the name there is the entry, seen once.
                let mut step = Some((place, *held));
                while let Some((place, child)) = step {
                    if place.parent == ino {
                        entries.insert(place.cookie, (place.name.clone(), child));
                        break;
                    }
                    let parent = self.object(place.parent);
                    step = parent.and_then(|object| Some((object.record.places.first()?, place.parent)));
                }
            }
        }
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let shown = entries.range((start, Bound::Unbounded)).take(limit);
        let shown = shown.filter_map(|(cookie, (name, child))| {
            let attributes = self.attributes(self.live(*child, now)?);
            Some(Entry { cookie: *cookie, name: name.clone(), attributes })
        });
        shown.collect()
    }

    /// The shortest ttl among what a session holds and its own: how often it must be renewed.
    pub fn shortest_ttl(&self, id: &SessionId) -> Option<Ttl> {
        let group = self.sessions.get(id)?;
        Some(group.shortest_ttl().map_or(group.session.ttl, |held| held.min(group.session.ttl)))
    }

    /// How many, and how often.
    pub fn counts(&self) -> Counts {
        let Tally { locks, events } = self.tally;
        Counts { locks, sessions: self.sessions.len() as u64, waits: self.waits(), events }
    }

    /// The record of an object as it is, dead or alive: what a store writes after a [`Change`](super::Change).
    /// A file that has no name left is not kept.
    pub fn record(&self, ino: Ino) -> Option<&Record> {
        let record = &self.object(ino)?.record;
        (ino == Ino::ROOT || !record.places.is_empty()).then_some(record)
    }

    /// A session as it is: what a store writes after a [`Change`](super::Change).
    pub fn session_record(&self, id: &SessionId) -> Option<&Session> {
        self.sessions.get(id).map(|group| &group.session)
    }

    /// The numbers of all objects and the names of all sessions that a store keeps.
    pub fn contents(&self) -> (Vec<Ino>, Vec<SessionId>) {
        let kept = self.objects.keys().filter(|ino| self.record(**ino).is_some());
        (kept.copied().collect(), self.sessions.keys().cloned().collect())
    }

    /// Paths of what somebody has locked by flock(2) or fcntl(2).
    pub fn locked(&self, now: Now) -> Vec<LockPath> {
        let is_locked = |ino: &&Ino| self.grants(now, **ino).next().is_some();
        let mut locked: Vec<Ino> = self.shares.keys().filter(is_locked).copied().collect();
        locked.sort_unstable();
        locked.into_iter().map(|ino| self.path_of(ino)).collect()
    }

    /// The last token given.
    pub fn last_token(&self) -> Token {
        self.last_token
    }

    pub(super) fn attributes_of(&self, ino: Ino) -> Attributes {
        self.attributes(self.object(ino).expect("the caller looked the object up in this step"))
    }

    fn attributes(&self, object: &Object) -> Attributes {
        let record = &object.record;
        let names = u32::try_from(record.places.len()).unwrap_or(u32::MAX);
        let directory = object.directory.as_ref();
        let changed = directory.and_then(|directory| directory.changed);
        Attributes {
            ino: record.ino,
            kind: record.body.kind(),
            size: record.body.size(),
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
            nlink: directory.map_or(names, |directory| 2 + directory.subdirectories),
            mtime: changed.unwrap_or(record.mtime),
            ctime: changed.map_or(record.ctime, |changed| changed.max(record.ctime)),
            expires: record.ttl != Ttl::Never,
        }
    }
}
