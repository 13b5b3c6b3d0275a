//! Deadlines: when an object is dead, and what removes it.

use super::{LockTable, Object, Outcome, Reply};
use crate::clock::{BootTime, Now};
use crate::lock::{EventKind, Ino, SessionId};

impl LockTable {
    /// When an object expires, or `None` for never: its ttl after the later of its own and its session's
    /// last sign of life. What has no name (the root; a file that is unlinked and open) never does.
    pub(super) fn deadline(&self, object: &Object) -> Option<BootTime> {
        let record = &object.record;
        let ttl = record.ttl.span()?;
        if record.places.is_empty() {
            return None;
        }
        let session = record.session.as_ref().and_then(|id| self.sessions.get(id));
        Some(session.map_or(record.seen, |group| record.seen.max(group.session.seen)) + ttl)
    }

    /// Whether an object is past its deadline. A directory is not while something alive stands in it.
    pub(super) fn is_dead(&self, object: &Object, now: Now) -> bool {
        let passed = self.deadline(object).is_some_and(|deadline| deadline <= now.boot);
        passed && !self.has_live_entries(object, now)
    }

    pub(super) fn has_live_entries(&self, object: &Object, now: Now) -> bool {
        let entries = object.directory.iter().flat_map(|directory| directory.by_cookie.values());
        entries.into_iter().any(|(_, ino)| self.live(*ino, now).is_some())
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

    /// Takes a lock from its session: it expired, or was broken.
    pub(super) fn end_by_force(&mut self, now: Now, ino: Ino, why: EventKind) {
        self.reap_entries(now, ino);
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
        for entry in entries {
            if self.object(entry).is_some_and(|object| self.is_dead(object, now)) {
                self.reap(now, entry);
            }
        }
    }

    /// Removes locks past their deadline, the longest dead first, and sessions that nobody needs any more.
    pub(super) fn sweep(&mut self, now: Now, limit: usize) -> Outcome {
        let mut swept = 0;
        let mut spared = Vec::new();
        while swept < limit
            && let Some(&(at, ino)) = self.checks.first()
            && at <= now.boot
        {
            self.unschedule(ino);
            let object = self.object(ino).expect("what is scheduled is in the table");
            if self.is_dead(object, now) {
                self.reap(now, ino);
                swept += 1;
            } else if self.deadline(object).is_some_and(|deadline| deadline <= now.boot) {
                spared.push(ino);
            } else {
                self.schedule(ino);
            }
        }
        // Directories past their deadline with something alive in them: looked at again by the next sweep.
        for ino in spared {
            self.schedule(ino);
        }
        let idle: Vec<SessionId> = self.idle_sessions(now).take(limit.saturating_sub(swept)).collect();
        for id in &idle {
            self.forget_session(now, id);
        }
        Ok(Reply::Count(swept + idle.len()))
    }

    /// When the next sweep is due at the latest.
    pub fn next_check(&self) -> Option<BootTime> {
        self.checks.first().map(|(at, _)| *at)
    }
}
