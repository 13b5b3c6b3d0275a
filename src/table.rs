//! The law: [`LockTable`], a pure state machine. A command and a time go in; an outcome, changes and
//! events come out. No I/O, no clock, no threads.
//!
//! It is the in-memory store, and what every other store is compared with. What it keeps:
//!
//! - An object whose deadline has passed is dead for every command, whether or not a sweep has removed it.
//! - A deadline is the object's ttl after the later of its own `seen` and its session's. Renewing a
//!   session is therefore one step, however many locks it holds.
//! - Tokens rise with every step that gives a name to a holder, and are never given twice.
//! - A directory has no entry whose object does not name it, and the other way round.
//! - When things that are dead are swept can't be seen in any answer. So what is dead among a session's
//!   locks is removed before the session is seen again: nothing comes back.
//! - A refused step changes nothing but what had died before it, and the caller's place in a queue.
//! - The same commands at the same times give the same steps: no outcome hangs on the order of a hash map.

mod advisory;
mod command;
mod edit;
mod entry;
mod expiry;
mod holder;
mod kept;
mod mirror;
mod query;
mod queue;
mod session;

use std::collections::{BTreeMap, BTreeSet, HashMap};

pub use command::{
    AttributeChange, Begin, Caller, Change, Claimant, Command, Existing, New, Opening, Outcome, Refusal,
    RenameMode, Reply, Spot, Step, Waiting,
};
pub use kept::Belongings;
pub use mirror::{Note, Told};
pub use query::{Counts, Entry, View};
pub use queue::Subject;

use advisory::{Lease, Shares};
use queue::Queues;

use crate::clock::{BootTime, Now, WallTime};
use crate::lock::{
    Body, Event, EventKind, Ino, Kind, LockOwner, LockPath, MountId, Name, Place, Record, Session, SessionId,
    Token, Ttl, WaitId,
};

/// All locks, directories and sessions of one namespace.
#[derive(Debug)]
pub struct LockTable {
    last_token: Token,
    objects: HashMap<Ino, Box<Object>>,
    sessions: HashMap<SessionId, Group>,
    session_numbers: BTreeMap<Ino, SessionId>,
    /// When to look at an object next: its deadline as it was known, which can only have moved later.
    /// A directory past its deadline is looked at when an entry of it goes, and not before.
    checks: BTreeSet<(BootTime, Ino)>,
    /// The same for sessions, by their numbers: when one that holds nothing may be over.
    session_checks: BTreeSet<(BootTime, Ino)>,
    shares: HashMap<Ino, Shares>,
    mounts: BTreeMap<MountId, Lease>,
    queues: Queues,
    /// Whether it decides in the place of a store that is gone (`mirror.rs`).
    stands_alone: bool,
    tally: Tally,
    changes: Vec<Change>,
    events: Vec<Event>,
    /// Sessions that began in this step, or let a last lock go.
    emptied: Vec<SessionId>,
    wakes: Vec<WaitId>,
}

/// An object, and what the table derives from its record.
#[derive(Debug)]
struct Object {
    record: Record,
    directory: Option<Directory>,
    check_at: Option<BootTime>,
    /// Who held it when its last name went, and it lived on for being open; `None` where it was advisory.
    left_by: Option<SessionId>,
    /// Whether its last name went in an earlier step: it lives on for being open.
    is_nameless: bool,
}

impl Object {
    fn new(record: Record, directory: Option<Directory>) -> Self {
        Self { record, directory, check_at: None, left_by: None, is_nameless: false }
    }

    /// Whether a sweep has passed it over, because it has entries.
    fn waits_for_entries(&self) -> bool {
        self.check_at.is_none() && self.record.ttl != Ttl::Never
    }
}

/// The entries of a directory, by name and in the order of their listing.
#[derive(Debug, Default)]
struct Directory {
    by_name: HashMap<Name, (Token, Ino)>,
    by_cookie: BTreeMap<Token, (Name, Ino)>,
    subdirectories: u32,
    /// When an entry last came or went. Not part of the record: that would be a second write for each
    /// acquire. A directory read back from a store shows the time of its own last change instead.
    changed: Option<WallTime>,
}

/// A session and what it holds.
#[derive(Debug)]
struct Group {
    session: Session,
    holds: BTreeSet<Ino>,
    /// How many of what it holds have which ttl.
    ttls: BTreeMap<Ttl, usize>,
    check_at: Option<BootTime>,
}

impl Group {
    fn new(session: Session) -> Self {
        Self { session, holds: BTreeSet::new(), ttls: BTreeMap::new(), check_at: None }
    }

    fn enter(&mut self, ino: Ino, ttl: Ttl) {
        if self.holds.insert(ino) {
            *self.ttls.entry(ttl).or_default() += 1;
        }
    }

    fn leave(&mut self, ino: Ino, ttl: Ttl) {
        if self.holds.remove(&ino)
            && let Some(count) = self.ttls.get_mut(&ttl)
        {
            *count -= 1;
            if *count == 0 {
                self.ttls.remove(&ttl);
            }
        }
    }

    /// The shortest ttl among what it holds.
    fn shortest_ttl(&self) -> Option<Ttl> {
        self.ttls.keys().next().copied()
    }
}

/// How often things happened since the table was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    locks: u64,
    events: [u64; EventKind::ALL.len()],
}

impl LockTable {
    /// The most names an object can have, so that its record stays small.
    pub const LINK_MAX: usize = 1_000;

    /// A namespace with nothing in it but its root, whose owner and group are `uid` and `gid`.
    ///
    /// Tokens begin in `epoch`, which must be above every epoch that the namespace ever had.
    pub fn new(epoch: u32, uid: u32, gid: u32, now: Now) -> Self {
        let root = Record {
            ino: Ino::ROOT,
            token: Token::from_u64(Ino::ROOT.as_u64()),
            body: Body::Directory { default_ttl: None },
            places: Vec::new(),
            mode: 0o1777,
            uid,
            gid,
            mtime: now.wall,
            ctime: now.wall,
            since: now.wall,
            session: None,
            ttl: Ttl::Never,
            seen: now.boot,
        };
        Self::restore(epoch, [root], []).expect("a root alone is a whole tree")
    }

    /// The namespace that `records` and `sessions` describe, as a store kept them.
    ///
    /// # Errors
    /// Says what is wrong where they don't make one tree: an entry in a directory that isn't there, two
    /// objects of one name, a lock of no session, a number that was not given yet.
    pub fn restore(
        epoch: u32,
        records: impl IntoIterator<Item = Record>,
        sessions: impl IntoIterator<Item = Session>,
    ) -> Result<Self, String> {
        let mut table = Self {
            last_token: Token::new(epoch.max(Token::EPOCH_MIN), 0),
            objects: HashMap::new(),
            sessions: HashMap::new(),
            session_numbers: BTreeMap::new(),
            checks: BTreeSet::new(),
            session_checks: BTreeSet::new(),
            shares: HashMap::new(),
            mounts: BTreeMap::new(),
            queues: Queues::default(),
            stands_alone: false,
            tally: Tally::default(),
            changes: Vec::new(),
            events: Vec::new(),
            emptied: Vec::new(),
            wakes: Vec::new(),
        };
        for session in sessions {
            table.restore_session(session)?;
        }
        for record in records {
            table.restore_record(record)?;
        }
        if table.directory(Ino::ROOT).is_none() {
            return Err("the root is missing".to_owned());
        }
        let mut numbers: Vec<Ino> = table.objects.keys().copied().collect();
        numbers.sort_unstable();
        for ino in &numbers {
            table.index(*ino)?;
        }
        table.check_reach()?;
        let ids: Vec<SessionId> = table.session_numbers.values().cloned().collect();
        for id in &ids {
            table.schedule_session(id);
        }
        Ok(table)
    }

    fn restore_session(&mut self, session: Session) -> Result<(), String> {
        let id = session.id.clone();
        if session.ino >= Ino::from(self.last_token) {
            return Err(format!("number {} of session {id} is of a later epoch", session.ino));
        }
        if let Some(other) = self.session_numbers.insert(session.ino, id.clone()) {
            return Err(format!("sessions {other} and {id} have one number, {}", session.ino));
        }
        match self.sessions.insert(id.clone(), Group::new(session)) {
            Some(_) => Err(format!("two sessions {id}")),
            None => Ok(()),
        }
    }

    fn restore_record(&mut self, record: Record) -> Result<(), String> {
        let ino = record.ino;
        let newest = record.places.iter().map(|place| place.cookie).fold(record.token, Token::max);
        if newest >= self.last_token || ino >= Ino::from(self.last_token) {
            return Err(format!("token {newest} of inode {ino} is of a later epoch"));
        }
        let is_directory = record.body.kind() == Kind::Directory;
        let names = record.places.len();
        match (ino == Ino::ROOT, is_directory) {
            (true, _) if names > 0 => return Err("the root has a name".to_owned()),
            (false, true) if names > 1 => return Err(format!("directory {ino} has {names} names")),
            (false, _) if names == 0 => return Err(format!("inode {ino} has no name")),
            (false, false) if record.session.is_none() && !record.is_advisory() => {
                return Err(format!("inode {ino} is held by nobody"));
            }
            _ => {}
        }
        let directory = is_directory.then(Directory::default);
        match self.objects.insert(ino, Box::new(Object::new(record, directory))) {
            Some(_) => Err(format!("two records of inode {ino}")),
            None => Ok(()),
        }
    }

    /// Refuses directories that stand in each other, and so lead to no root.
    fn check_reach(&self) -> Result<(), String> {
        let mut reached = 0;
        let mut ahead = vec![Ino::ROOT];
        while let Some(directory) = ahead.pop().and_then(|ino| self.directory(ino)) {
            reached += 1;
            let entries = directory.by_cookie.values().map(|(_, entry)| *entry);
            ahead.extend(entries.filter(|entry| self.directory(*entry).is_some()));
        }
        match self.objects.values().filter(|object| object.directory.is_some()).count() - reached {
            0 => Ok(()),
            lost => Err(format!("{lost} directories stand in no directory below the root")),
        }
    }

    /// Enters a restored object in its directories, its session and the deadlines.
    fn index(&mut self, ino: Ino) -> Result<(), String> {
        let object = &self.objects[&ino];
        let kind = object.record.body.kind();
        for place in object.record.places.clone() {
            let Some(directory) = self.directory_mut(place.parent) else {
                return Err(format!("inode {ino} stands in {}, which is no directory", place.parent));
            };
            if directory.by_name.insert(place.name.clone(), (place.cookie, ino)).is_some() {
                return Err(format!("two entries {:?} in directory {}", place.name, place.parent));
            }
            if directory.by_cookie.insert(place.cookie, (place.name, ino)).is_some() {
                return Err(format!("two entries at {} in directory {}", place.cookie, place.parent));
            }
            directory.subdirectories += u32::from(kind == Kind::Directory);
        }
        if ino != Ino::ROOT {
            self.tally.locks += 1;
        }
        if let Some(id) = self.objects[&ino].record.session.clone() {
            let group = self.sessions.get_mut(&id);
            let group =
                group.ok_or_else(|| format!("inode {ino} is held by session {id}, which is missing"))?;
            group.enter(ino, self.objects[&ino].record.ttl);
        }
        self.schedule(ino);
        Ok(())
    }

    /// Carries out `command` at the time `now`.
    pub fn execute(&mut self, now: Now, command: &Command) -> Step {
        let outcome = self.decide(now, command);
        self.settle_sessions(now);
        self.settle_queues(now);
        let mut changes = std::mem::take(&mut self.changes);
        changes.sort_unstable();
        changes.dedup();
        Step {
            outcome,
            changes,
            events: std::mem::take(&mut self.events),
            wakes: std::mem::take(&mut self.wakes),
        }
    }

    fn decide(&mut self, now: Now, command: &Command) -> Outcome {
        match command {
            Command::Acquire { caller, spot, new, mode, existing } => {
                self.acquire(now, caller, spot, new, *mode, *existing)
            }
            Command::Unlink { caller, spot } => self.unlink(now, caller, spot),
            Command::Rmdir { caller, spot } => self.rmdir(now, caller, spot),
            Command::Link { caller, ino, spot } => self.link(now, caller, *ino, spot),
            Command::Rename { caller, from, to, mode, heir } => {
                self.rename(now, caller, (from, to), *mode, heir.as_ref())
            }
            Command::Open { caller, ino, emptied } => self.open(now, caller, *ino, *emptied),
            Command::Close { mount, ino } => self.close(now, *mount, *ino),
            Command::Lock { caller, ino, claim, waiting } => self.lock(now, caller, *ino, claim, *waiting),
            Command::Unlock { mount, ino, style, key, range } => {
                self.unlock(now, LockOwner { mount: *mount, key: *key }, *ino, *style, *range)
            }
            Command::Await { caller, spot, mode, waiting } => {
                self.await_spot(now, caller, spot, *mode, *waiting)
            }
            Command::Withdraw { id } => self.withdraw(now, *id),
            Command::Attend { mount } => self.attend(now, mount),
            Command::Leave { mounts } => self.leave(now, mounts),
            Command::Write { caller, ino, offset, data } => self.write(now, caller, *ino, *offset, data),
            Command::Truncate { caller, ino, size } => self.truncate(now, caller, *ino, *size),
            Command::Change { caller, ino, change } => self.change(now, caller, *ino, *change),
            Command::SetTtl { caller, ino, ttl } => self.set_ttl(now, caller, *ino, *ttl),
            Command::SetDefaultTtl { caller, ino, ttl } => self.set_default_ttl(now, caller, *ino, *ttl),
            Command::Break { caller, ino, token } => self.break_lock(now, caller, *ino, *token),
            Command::Transfer { caller, ino, heir } => self.transfer(now, caller, *ino, heir),
            Command::BeginSession { caller } => self.begin_session(now, caller),
            Command::EndSession { caller, id } => self.end_session(now, caller.as_ref(), id),
            Command::MergeSession { caller, from, to } => self.merge_session(now, caller, from, to),
            Command::TouchSession { caller, id, mtime } => self.touch_session(now, caller, id, *mtime),
            Command::SetSessionTtl { caller, id, ttl } => self.set_session_ttl(now, caller, id, *ttl),
            Command::Renew { sessions } => self.renew(now, sessions),
            Command::MarkEnded { sessions } => self.mark_ended(now, sessions),
            Command::Sweep { limit } => self.sweep(now, *limit),
        }
    }

    fn next_token(&mut self) -> Token {
        self.last_token = self.last_token.next();
        self.last_token
    }

    fn object(&self, ino: Ino) -> Option<&Object> {
        self.objects.get(&ino).map(Box::as_ref)
    }

    fn directory(&self, ino: Ino) -> Option<&Directory> {
        self.object(ino)?.directory.as_ref()
    }

    fn directory_mut(&mut self, ino: Ino) -> Option<&mut Directory> {
        self.objects.get_mut(&ino)?.directory.as_mut()
    }

    /// The record of an object that is there, to change it; notes the change.
    fn record_mut(&mut self, ino: Ino) -> &mut Record {
        let object = self.objects.get_mut(&ino).expect("the caller looked the object up in this step");
        self.changes.push(if object.is_nameless { Change::Nameless(ino) } else { Change::Object(ino) });
        &mut object.record
    }

    /// The session of that name, to change it; notes the change.
    fn session_mut(&mut self, id: &SessionId) -> &mut Session {
        self.changes.push(Change::Session(id.clone()));
        &mut self.sessions.get_mut(id).expect("the caller looked the session up in this step").session
    }

    /// The path of the first name of an object.
    fn path_of(&self, ino: Ino) -> LockPath {
        match self.object(ino).and_then(|object| object.record.places.first()) {
            Some(place) => self.path_at(place.parent, &place.name),
            None => LockPath::default(),
        }
    }

    /// The path of an entry.
    fn path_at(&self, parent: Ino, name: &Name) -> LockPath {
        let mut names = vec![name.as_bytes()];
        let mut above = parent;
        while let Some(place) = self.object(above).and_then(|object| object.record.places.first()) {
            names.push(place.name.as_bytes());
            above = place.parent;
        }
        LockPath::join(names.into_iter().rev())
    }

    fn tell(&mut self, now: Now, kind: EventKind, path: LockPath, ino: Ino) {
        let record = self.object(ino).map(|object| &object.record);
        let event = Event {
            at: now.wall,
            kind,
            path,
            token: record.map(|record| record.token),
            session: record.and_then(|record| record.session.clone()),
        };
        self.push_event(event);
    }

    fn tell_of_session(&mut self, now: Now, kind: EventKind, id: &SessionId) {
        let path = LockPath::default();
        self.push_event(Event { at: now.wall, kind, path, token: None, session: Some(id.clone()) });
    }

    fn push_event(&mut self, event: Event) {
        self.tally.events[event.kind as usize] += 1;
        self.events.push(event);
    }

    /// Enters a name of an object in its directory.
    fn place(&mut self, now: Now, ino: Ino, spot: &Spot, cookie: Token) {
        let is_directory = self.directory(ino).is_some();
        let Spot { parent, name } = spot.clone();
        self.record_mut(ino).places.push(Place { parent, name: name.clone(), cookie });
        let directory = self.directory_mut(parent).expect("the caller looked the directory up in this step");
        directory.by_name.insert(name.clone(), (cookie, ino));
        directory.by_cookie.insert(cookie, (name, ino));
        directory.subdirectories += u32::from(is_directory);
        directory.changed = Some(now.wall);
    }

    /// Takes a name of an object out of its directory.
    fn displace(&mut self, now: Now, ino: Ino, spot: &Spot) {
        let is_directory = self.directory(ino).is_some();
        self.record_mut(ino).places.retain(|place| place.parent != spot.parent || place.name != spot.name);
        if let Some(directory) = self.directory_mut(spot.parent)
            && let Some((cookie, _)) = directory.by_name.remove(&spot.name)
        {
            directory.by_cookie.remove(&cookie);
            directory.subdirectories -= u32::from(is_directory);
            directory.changed = Some(now.wall);
        }
        self.stir(Subject::from(spot));
        // One that only its entries kept alive may be dead by now.
        if self.object(spot.parent).is_some_and(|directory| directory.waits_for_entries()) {
            self.schedule(spot.parent);
        }
    }

    /// Takes an object out of the table. It must have no name: that the last went is noted.
    fn remove(&mut self, ino: Ino) {
        self.leave_session(ino);
        self.unschedule(ino);
        self.drop_shares(ino);
        if let Some(object) = self.objects.remove(&ino) {
            self.tally.locks -= 1;
            if object.is_nameless {
                self.changes.push(Change::Nameless(ino));
            }
        }
    }

    /// Takes all names of an object, then the object, out of the table.
    fn remove_with_names(&mut self, now: Now, ino: Ino) {
        let spots: Vec<Spot> = self.spots(ino).collect();
        for spot in &spots {
            self.displace(now, ino, spot);
        }
        self.remove(ino);
    }

    fn spots(&self, ino: Ino) -> impl Iterator<Item = Spot> {
        let places = self.object(ino).map(|object| object.record.places.as_slice()).unwrap_or_default();
        places.iter().map(|place| Spot { parent: place.parent, name: place.name.clone() })
    }

    /// Lets one name of an object go. With its last name goes the object, unless it is open: then it lives
    /// on, held by nobody, until it is closed.
    fn release(&mut self, now: Now, ino: Ino, spot: &Spot) {
        let path = self.path_at(spot.parent, &spot.name);
        self.tell(now, EventKind::Release, path, ino);
        self.displace(now, ino, spot);
        let open = self.is_used(ino, now);
        let record = self.record_mut(ino);
        record.ctime = now.wall;
        if !record.places.is_empty() {
            return;
        }
        if open {
            let holder = record.session.clone();
            self.leave_session(ino);
            self.unschedule(ino);
            let object = self.objects.get_mut(&ino).expect("it is open");
            (object.left_by, object.is_nameless) = (holder, true);
            self.changes.push(Change::Nameless(ino));
        } else {
            self.remove(ino);
        }
    }
}

#[cfg(test)]
mod tests;
