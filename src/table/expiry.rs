//! Deadlines: when an object is dead, and what removes it.

use std::time::Duration;

use super::{LockTable, Object, Outcome, Reply};
use crate::clock::{BootTime, Now};
use crate::lock::{EventKind, Ino, Record, SessionId, Ttl};

/// Moves of `seen` below this are not written: an acquire would else write its session as well as its lock.
const SEEN_GRAIN: Duration = Duration::from_secs(1);

/// The grain of what expires sooner than eight seconds is this part of its ttl.
const SEEN_PART: u32 = 8;

/// How many deadlines a sweep looks at, for each lock that it may remove.
const LOOKS: usize = 10;

impl LockTable {
    /// How far `seen` of what has this ttl must move to be worth a write.
    pub(super) fn grain_of(ttl: Ttl) -> Duration {
        ttl.span().map_or(SEEN_GRAIN, |span| SEEN_GRAIN.min(span / SEEN_PART))
    }

    /// When an object expires, or `None` for never: its ttl after the later of its own and its session's
    /// last sign of life; of an advisory file, after the last mount has let go of it. What has no name (the root; a
    /// file that is unlinked and open) never does.
    pub(super) fn deadline(&self, object: &Object) -> Option<BootTime> {
        let record = &object.record;
        let ttl = record.ttl.span()?;
        if record.places.is_empty() {
            return None;
        }
        if record.is_advisory() {
            return Some(record.seen.max(self.used_until(record.ino)?) + ttl);
        }
        let session = record.session.as_ref().and_then(|id| self.sessions.get(id));
        Some(session.map_or(record.seen, |group| record.seen.max(group.session.seen)) + ttl)
    }

    /// Whether an object is past its deadline. A directory is not while something alive stands in it; what has no
    /// name is when no living mount uses it.
    pub(super) fn is_dead(&self, object: &Object, now: Now) -> bool {
        let Record { ino, places, .. } = &object.record;
        if places.is_empty() && *ino != Ino::ROOT {
            return !self.is_used(*ino, now);
        }
        self.has_passed(object, now) && !self.has_live_entries(object, now)
    }

    fn has_passed(&self, object: &Object, now: Now) -> bool {
        self.deadline(object).is_some_and(|deadline| deadline <= now.boot)
    }

    /// Whether something alive stands in a directory, however far down: users can nest deeper than a stack.
    pub(super) fn has_live_entries(&self, object: &Object, now: Now) -> bool {
        let mut past = vec![object];
        while let Some(object) = past.pop() {
            let entries = object.directory.iter().flat_map(|directory| directory.by_cookie.values());
            for entry in entries.filter_map(|(_, ino)| self.object(*ino)) {
                if !self.has_passed(entry, now) {
                    return true;
                }
                if entry.directory.is_some() {
                    past.push(entry);
                }
            }
        }
        false
    }

    /// The object of that number, if it is there and not dead.
    pub(super) fn live(&self, ino: Ino, now: Now) -> Option<&Object> {
        self.object(ino).filter(|object| !self.is_dead(object, now))
    }

    /// Plans the next look at an object: at its deadline as it is known now.
    pub(super) fn schedule(&mut self, ino: Ino) {
        self.unschedule(ino);
        let deadline = self.object(ino).and_then(|object| self.deadline(object));
        if let Some(at) = deadline {
            self.checks.insert((at, ino));
        }
        if let Some(object) = self.objects.get_mut(&ino) {
            object.check_at = deadline;
        }
    }

    pub(super) fn unschedule(&mut self, ino: Ino) {
        if let Some(object) = self.objects.get_mut(&ino)
            && let Some(at) = object.check_at.take()
        {
            self.checks.remove(&(at, ino));
        }
    }

    /// Removes a dead object, and what is dead in it; its session lost it.
    pub(super) fn reap(&mut self, now: Now, ino: Ino) {
        self.end_by_force(now, ino, EventKind::Expire);
    }

    /// Takes a lock from its session: it expired, or was broken. What is in it is dead.
    pub(super) fn end_by_force(&mut self, now: Now, ino: Ino, why: EventKind) {
        let mut ends = vec![ino];
        let mut next = 0;
        while let Some(directory) = ends.get(next).map(|ino| self.directory(*ino)) {
            let entries = directory.into_iter().flat_map(|directory| directory.by_cookie.values());
            ends.extend(entries.map(|(_, entry)| *entry));
            next += 1;
        }
        // The deepest first; of two names of one object the second time finds nothing.
        for end in ends.into_iter().rev() {
            self.end_one(now, end, if end == ino { why } else { EventKind::Expire });
        }
    }

    fn end_one(&mut self, now: Now, ino: Ino, why: EventKind) {
        let spots: Vec<_> = self.spots(ino).collect();
        for spot in &spots {
            let path = self.path_at(spot.parent, &spot.name);
            self.tell(now, why, path, ino);
        }
        let loser = self.object(ino).and_then(|object| object.record.session.clone());
        self.remove_with_names(now, ino);
        if let Some(id) = loser {
            self.note_loss(&id, &spots);
        }
    }

    /// Removes what is dead in a directory.
    pub(super) fn reap_entries(&mut self, now: Now, ino: Ino) {
        let entries = self.directory(ino).map(|directory| directory.by_cookie.values());
        let entries: Vec<Ino> = entries.into_iter().flatten().map(|(_, entry)| *entry).collect();
        self.reap_all(now, entries);
    }

    /// Removes what is dead among what a session holds, so that seeing the session brings nothing back.
    pub(super) fn reap_held(&mut self, now: Now, id: &SessionId) {
        let Some(group) = self.sessions.get(id) else {
            return;
        };
        // Deadlines count from here, or later: where the shortest has not passed, none has.
        let earliest = group.shortest_ttl().and_then(Ttl::span).map(|span| group.session.seen + span);
        if earliest.is_some_and(|earliest| earliest <= now.boot) {
            let held = group.holds.iter().copied().collect();
            self.reap_all(now, held);
        }
    }

    fn reap_all(&mut self, now: Now, objects: Vec<Ino>) {
        for ino in objects {
            if self.object(ino).is_some_and(|object| self.is_dead(object, now)) {
                self.reap(now, ino);
            }
        }
    }

    /// Removes locks past their deadline, the longest dead first, and sessions that nobody needs any more.
    pub(super) fn sweep(&mut self, now: Now, limit: usize) -> Outcome {
        self.sweep_mounts(now);
        let (mut swept, mut looks) = (0, 0);
        // A deadline that has moved costs a look and removes nothing: after a restart all of a session are due at once.
        while swept < limit
            && looks < limit.saturating_mul(LOOKS)
            && let Some(&(at, ino)) = self.checks.first()
            && at <= now.boot
        {
            looks += 1;
            self.unschedule(ino);
            let object = self.object(ino).expect("what is scheduled is in the table");
            if !self.has_passed(object, now) {
                self.schedule(ino);
            } else if object.directory.as_ref().is_none_or(|directory| directory.by_cookie.is_empty()) {
                self.reap(now, ino);
                swept += 1;
            }
            // Else a directory with entries: alive, or they are due as well, and it is when the last has gone.
        }
        self.settle_sessions(now);
        swept += self.sweep_sessions(now, limit - swept);
        self.sweep_reservations(now);
        Ok(Reply::Count(swept))
    }

    /// When the next sweep is due at the latest.
    pub fn next_check(&self) -> Option<BootTime> {
        let firsts = [self.checks.first(), self.session_checks.first()];
        let ends = firsts.into_iter().flatten().map(|(at, _)| *at);
        ends.chain(self.next_reservation()).chain(self.next_lapse()).min()
    }
}
