//! A table as the mirror of another store, and in its place while that is gone.
//!
//! While the other store decides, the table is told what is there, and asked nothing ([`LockTable::reflect`]). When
//! that store is gone the table stands alone ([`LockTable::stand_alone`]) and decides under the same law, with one
//! difference: what the other store granted ends with the lease that it has there, which nobody can renew. What the
//! table grants itself has numbers above all of the other's
//! ([`HOST_EPOCH`](crate::lock::Token::HOST_EPOCH)), so that both live side by side.

use std::collections::HashSet;

use super::{Change, Directory, Group, LockTable, Object, Spot};
use crate::clock::{BootTime, Now};
use crate::lock::{Body, Ino, Kind, MountId, Name, Record, Session, SessionId, Ttl};

/// Whether what is told of a file comes with its note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// It does; so does a symlink with its target.
    Told,
    /// It has one of so many bytes, which is as it was if the mirror has one as long.
    Kept(u64),
}

/// One thing that the other store has, or has not any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// An object.
    Object(Box<Record>, Note),
    /// A session.
    Session(Box<Session>),
    /// No object of that number.
    Gone(Ino),
    /// No session of that name.
    Over(SessionId),
}

impl LockTable {
    /// Takes over what the other store has. Returns the objects that it must be asked for: what was told of them
    /// makes no whole with the rest.
    pub fn reflect(&mut self, now: Now, told: Vec<Told>) -> (Vec<Change>, Vec<Ino>) {
        let mut doubtful = Vec::new();
        let (mut objects, mut over) = (Vec::new(), Vec::new());
        for one in told {
            match one {
                Told::Session(session) => self.reflect_session(*session),
                Told::Object(record, note) => objects.push((*record, note)),
                Told::Gone(ino) => self.reflect_loss(now, ino, &mut doubtful),
                Told::Over(id) => over.push(id),
            }
        }
        // Directories may come behind what stands in them.
        loop {
            let before = objects.len();
            let (fit, rest): (Vec<_>, Vec<_>) =
                objects.into_iter().partition(|(record, _)| self.has_place_for(record));
            for (record, note) in fit {
                self.reflect_object(now, record, note, &mut doubtful);
            }
            objects = rest;
            if objects.is_empty() || objects.len() == before {
                break;
            }
        }
        doubtful.extend(objects.into_iter().map(|(record, _)| record.ino));
        for id in over {
            self.reflect_end(now, &id, &mut doubtful);
        }
        (self.settle_reflection(), doubtful)
    }

    /// Sessions of other hosts than `host` that hold nothing, and are none of those, are over there.
    pub fn forget_sessions_but(
        &mut self,
        now: Now,
        host: &str,
        sessions: &HashSet<SessionId>,
    ) -> Vec<Change> {
        let is_over = |(id, group): &(&SessionId, &Group)| {
            !sessions.contains(*id) && group.holds.is_empty() && group.session.origin.host != host
        };
        let over: Vec<SessionId> = self.sessions.iter().filter(is_over).map(|(id, _)| id.clone()).collect();
        for id in over {
            self.reflect_end(now, &id, &mut Vec::new());
        }
        self.settle_reflection()
    }

    fn settle_reflection(&mut self) -> Vec<Change> {
        self.emptied.clear();
        self.events.clear();
        let mut changes = std::mem::take(&mut self.changes);
        changes.sort_unstable();
        changes.dedup();
        changes
    }

    fn reflect_session(&mut self, session: Session) {
        let id = session.id.clone();
        if let Some(group) = self.sessions.get_mut(&id) {
            if group.session == session {
                return;
            }
            self.session_numbers.remove(&group.session.ino);
            self.session_numbers.insert(session.ino, id.clone());
            group.session = session;
        } else {
            self.session_numbers.insert(session.ino, id.clone());
            self.sessions.insert(id.clone(), Group::new(session));
        }
        self.changes.push(Change::Session(id));
    }

    fn has_place_for(&self, record: &Record) -> bool {
        record.session.as_ref().is_none_or(|id| self.sessions.contains_key(id))
            && record.places.iter().all(|place| self.directory(place.parent).is_some())
    }

    fn reflect_object(&mut self, now: Now, mut record: Record, note: Note, doubtful: &mut Vec<Ino>) {
        let ino = record.ino;
        let is_directory = record.body.kind() == Kind::Directory;
        if record.places.is_empty() && ino != Ino::ROOT {
            return self.reflect_loss(now, ino, doubtful);
        }
        if let Note::Kept(size) = note {
            match self.object(ino).map(|object| &object.record.body) {
                Some(body) if body.size() == size => record.body = body.clone(),
                _ => doubtful.push(ino),
            }
        }
        let mut directory = is_directory.then(Directory::default);
        if let Some(old) = self.objects.get_mut(&ino) {
            if old.record == record {
                return;
            }
            if is_directory {
                directory = old.directory.take();
                // It must be found while its own names are taken away.
                old.directory = Some(Directory::default());
            }
            let spots: Vec<Spot> = self.spots(ino).collect();
            for spot in &spots {
                self.displace(now, ino, spot);
            }
            self.leave_session(ino);
            self.unschedule(ino);
        } else {
            self.tally.locks += 1;
        }
        let (session, places) = (record.session.take(), std::mem::take(&mut record.places));
        self.objects.insert(ino, Box::new(Object::new(record, directory)));
        for place in places {
            let spot = Spot { parent: place.parent, name: place.name };
            let standing = self.directory(spot.parent).and_then(|above| above.by_name.get(&spot.name));
            if let Some((_, other)) = standing.copied().filter(|(_, other)| *other != ino) {
                // What stood there has gone, and nobody has told of it yet.
                self.displace(now, other, &spot);
                if self.object(other).is_some_and(|object| object.record.places.is_empty()) {
                    self.reflect_loss(now, other, doubtful);
                }
                doubtful.push(other);
            }
            self.place(now, ino, &spot, place.cookie);
        }
        if let Some(id) = session {
            self.join_session(ino, &id);
        }
        self.changes.push(Change::Object(ino));
    }

    /// Takes an object out; what stood in it with it, to be asked for again.
    fn reflect_loss(&mut self, now: Now, ino: Ino, doubtful: &mut Vec<Ino>) {
        if self.object(ino).is_none() || ino == Ino::ROOT {
            return;
        }
        let (mut ends, mut next) = (vec![ino], 0);
        while let Some(directory) = ends.get(next).map(|ino| self.directory(*ino)) {
            let entries = directory.into_iter().flat_map(|directory| directory.by_cookie.values());
            ends.extend(entries.map(|(_, entry)| *entry));
            next += 1;
        }
        doubtful.extend(&ends[1..]);
        for end in ends.into_iter().rev() {
            self.changes.push(Change::Object(end));
            self.remove_with_names(now, end);
        }
    }

    fn reflect_end(&mut self, now: Now, id: &SessionId, doubtful: &mut Vec<Ino>) {
        let holds: Vec<Ino> =
            self.sessions.get(id).map(|group| group.holds.iter().copied().collect()).unwrap_or_default();
        for ino in holds {
            doubtful.push(ino);
            match self.directory(ino) {
                Some(_) => self.leave_session(ino),
                None => self.reflect_loss(now, ino, doubtful),
            }
        }
        if let Some(group) = self.sessions.remove(id) {
            self.session_numbers.remove(&group.session.ino);
            if let Some(at) = group.check_at {
                self.session_checks.remove(&(at, group.session.ino));
            }
            self.changes.push(Change::Session(id.clone()));
        }
    }

    /// Decides from now on by itself, in the place of the store that it mirrors. Sessions of other hosts than
    /// `host` may have been seen there as late as `contact`, whatever was told of them before: renewals are not.
    pub fn stand_alone(&mut self, host: &str, contact: BootTime) -> Vec<Change> {
        let ids: Vec<SessionId> = self.sessions.keys().cloned().collect();
        for id in &ids {
            let session = &self.sessions[id].session;
            if session.origin.host != host && !session.ended && session.seen < contact {
                self.session_mut(id).seen = contact;
            }
        }
        let numbers: Vec<Ino> = self.objects.keys().copied().filter(|ino| *ino != Ino::ROOT).collect();
        for ino in &numbers {
            let record = &self.objects[ino].record;
            let seen = record.session.as_ref().map(|id| self.sessions[id].session.seen);
            // Who has it open or locked is not told, and may have it for as long.
            let seen = seen.or(record.is_advisory().then_some(contact));
            if let Some(seen) = seen.filter(|seen| *seen > record.seen && !record.token.is_of_host()) {
                self.record_mut(*ino).seen = seen;
            }
        }
        self.stand_alone_again();
        self.settle_reflection()
    }

    /// The same where it did so before it was closed: what was seen then is noted already.
    pub fn stand_alone_again(&mut self) {
        self.stands_alone = true;
        let numbers: Vec<Ino> = self.objects.keys().copied().collect();
        numbers.into_iter().for_each(|ino| self.schedule(ino));
        let ids: Vec<SessionId> = self.sessions.keys().cloned().collect();
        ids.iter().for_each(|id| self.schedule_session(id));
    }

    /// Is a mirror again: what the table granted itself goes out of it.
    pub fn stand_by(&mut self, now: Now) -> Vec<Change> {
        self.stands_alone = false;
        // Who has what open or locked, and who waits, asks the other store from now on.
        self.drop_belongings();
        let is_nameless = |ino: &Ino| *ino != Ino::ROOT && self.objects[ino].record.places.is_empty();
        let own: Vec<Ino> =
            self.objects.keys().copied().filter(|ino| self.is_of_host(*ino) || is_nameless(ino)).collect();
        for ino in own {
            self.reflect_loss(now, ino, &mut Vec::new());
        }
        let is_own = |group: &&Group| group.session.ino.is_of_host() && group.holds.is_empty();
        let own = self.sessions.values().filter(is_own).map(|group| group.session.id.clone());
        for id in own.collect::<Vec<_>>() {
            self.reflect_end(now, &id, &mut Vec::new());
        }
        self.settle_reflection()
    }

    fn is_of_host(&self, ino: Ino) -> bool {
        self.object(ino).is_some_and(|object| object.record.token.is_of_host())
    }

    /// What the table granted itself and is alive, directories before what stands in them.
    pub fn granted_alone(&self, now: Now) -> Vec<Record> {
        let mut found = Vec::new();
        let (mut ahead, mut seen) = (vec![Ino::ROOT], HashSet::new());
        let mut next = 0;
        while let Some(ino) = ahead.get(next).copied() {
            next += 1;
            let Some(object) = self.live(ino, now).filter(|_| seen.insert(ino)) else {
                continue;
            };
            if object.record.token.is_of_host() {
                found.push(object.record.clone());
            }
            let entries = object.directory.iter().flat_map(|directory| directory.by_cookie.values());
            ahead.extend(entries.map(|(_, entry)| *entry));
        }
        found
    }

    /// What sessions of `host` hold by the grace of the other store, with the numbers that it knows them by.
    pub fn held_there(&self, now: Now, host: &str) -> Vec<Record> {
        let own = self.sessions.values().filter(|group| group.session.origin.host == host);
        let held = own.flat_map(|group| group.holds.iter()).filter_map(|ino| self.live(*ino, now));
        held.map(|object| &object.record).filter(|record| !record.token.is_of_host()).cloned().collect()
    }

    /// Whether a session of another host than `host` has something that excludes others: a lock; or a directory, while
    /// the session lives.
    pub fn others_hold(&self, now: Now, host: &str) -> bool {
        let others = self.sessions.values().filter(|group| group.session.origin.host != host);
        let mut held = others.flat_map(|group| group.holds.iter().map(move |ino| (group, ino)));
        held.any(|(group, ino)| {
            let object = self.live(*ino, now);
            object.is_some_and(|object| {
                let is_name =
                    matches!(object.record.body, Body::Directory { .. }) && object.record.ttl == Ttl::Never;
                !(is_name && group.session.ended)
            })
        })
    }

    /// Whether there is an advisory file of the other store: who has it locked is not told.
    pub fn has_advisory(&self, now: Now) -> bool {
        let mut records = self.objects.values().map(|object| &object.record);
        records.any(|record| {
            record.is_advisory() && !record.token.is_of_host() && self.live(record.ino, now).is_some()
        })
    }

    /// Notes that mounts have objects open, each so often: the other store was told.
    pub fn note_opens(&mut self, opens: &[(Ino, MountId, u32)]) {
        for (ino, mount, count) in opens {
            if self.object(*ino).is_some() {
                (0..*count).for_each(|_| self.open_on(*mount, *ino));
            }
        }
    }

    /// How often mounts have an object open.
    pub fn opens_of(&self, ino: Ino) -> Vec<(MountId, u32)> {
        let shares = self.shares.get(&ino).into_iter().flatten();
        shares.map(|(mount, share)| (*mount, share.opens)).filter(|(_, opens)| *opens > 0).collect()
    }

    /// The path of a name in a directory, for people to read.
    pub fn shown_path(&self, parent: Ino, name: &Name) -> crate::lock::LockPath {
        self.path_at(parent, name)
    }
}
