//! Sessions: begin, end, hand over, renew.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Begin, Caller, Change, Group, LockTable, Outcome, Refusal, Reply, Spot};
use crate::clock::{Now, WallTime};
use crate::lock::{EventKind, Ino, Session, SessionId, SessionKind, Token, Ttl};

/// Moves of `seen` below this are not written: an acquire would else write its session as well as its lock.
const SEEN_GRAIN: Duration = Duration::from_secs(1);

/// How many lost names a session remembers.
const LOST_MAX: usize = 1_000;

impl LockTable {
    /// The session of that name, unless it is idle past its time and only waits to be swept.
    pub(super) fn live_session(&self, id: &SessionId, now: Now) -> Option<&Group> {
        self.sessions.get(id).filter(|group| !Self::is_idle(group, now))
    }

    /// Whether a session holds nothing, and was last seen longer than its ttl ago.
    fn is_idle(group: &Group, now: Now) -> bool {
        let span = group.session.ttl.span();
        group.holds.is_empty() && span.is_some_and(|span| group.session.seen + span <= now.boot)
    }

    pub(super) fn idle_sessions(&self, now: Now) -> impl Iterator<Item = SessionId> {
        let idle = self.sessions.values().filter(move |group| Self::is_idle(group, now));
        idle.map(|group| group.session.id.clone())
    }

    /// Makes sure that the caller's session exists, is the caller's, and was seen now.
    pub(super) fn ensure_session(&mut self, now: Now, caller: &Caller) -> Result<(), Refusal> {
        let id = &caller.session.id;
        match self.live_session(id, now) {
            Some(group) => {
                let session = &group.session;
                let own = caller.uid == session.uid || caller.uid == 0;
                if session.kind == SessionKind::Named && !own {
                    return Err(Refusal::NotPermitted);
                }
                self.see(now, id);
                Ok(())
            }
            None if caller.session.begin == Begin::Never => Err(Refusal::NoSession),
            None => {
                self.insert_session(now, caller);
                Ok(())
            }
        }
    }

    fn insert_session(&mut self, now: Now, caller: &Caller) {
        let claimant = &caller.session;
        self.forget_session(now, &claimant.id);
        let session = Session {
            id: claimant.id.clone(),
            ino: Ino::from(self.next_token()),
            uid: caller.uid,
            gid: caller.gid,
            kind: claimant.kind.clone(),
            origin: claimant.origin.clone(),
            login: claimant.login.clone(),
            since: now.wall,
            mtime: now.wall,
            seen: now.boot,
            ttl: claimant.ttl,
            ended: false,
            lost: Vec::new(),
        };
        let id = session.id.clone();
        let named = session.kind == SessionKind::Named;
        self.session_numbers.insert(session.ino, id.clone());
        self.sessions.insert(id.clone(), Group { session, holds: BTreeSet::new() });
        self.changes.push(Change::Session(id.clone()));
        if named {
            self.tell_of_session(now, EventKind::Begin, &id);
        }
    }

    /// Notes that a session's holder is alive.
    pub(super) fn see(&mut self, now: Now, id: &SessionId) {
        let session = self.sessions.get(id).map(|group| &group.session);
        if session.is_some_and(|session| now.boot.since(session.seen) >= SEEN_GRAIN) {
            self.session_mut(id).seen = now.boot;
        }
    }

    pub(super) fn note_loss(&mut self, id: &SessionId, spots: &[Spot]) {
        if !self.sessions.contains_key(id) {
            return;
        }
        let lost = &mut self.session_mut(id).lost;
        lost.extend(spots.iter().map(|spot| (spot.parent, spot.name.clone())));
        let excess = lost.len().saturating_sub(LOST_MAX);
        lost.drain(..excess);
    }

    pub(super) fn forget_loss(&mut self, id: &SessionId, spot: &Spot) {
        let is_spot = |(parent, name): &(Ino, _)| *parent == spot.parent && *name == spot.name;
        if self.sessions.get(id).is_some_and(|group| group.session.lost.iter().any(is_spot)) {
            self.session_mut(id).lost.retain(|lost| !is_spot(lost));
        }
    }

    /// Takes a session that holds nothing out of the table, if it is there.
    pub(super) fn forget_session(&mut self, now: Now, id: &SessionId) {
        if let Some(group) = self.sessions.remove(id) {
            debug_assert!(group.holds.is_empty(), "a session that holds locks is not forgotten");
            self.session_numbers.remove(&group.session.ino);
            self.changes.push(Change::Session(id.clone()));
            if group.session.kind == SessionKind::Named {
                self.tell_of_session(now, EventKind::End, id);
            }
        }
    }

    pub(super) fn begin_session(&mut self, now: Now, caller: &Caller) -> Outcome {
        if self.live_session(&caller.session.id, now).is_some() {
            return Err(Refusal::Exists);
        }
        self.insert_session(now, caller);
        self.reply_session(&caller.session.id)
    }

    fn reply_session(&self, id: &SessionId) -> Outcome {
        Ok(Reply::Session(Box::new(self.sessions[id].session.clone())))
    }

    /// The session, if the caller may decide about it.
    fn own_session(&self, now: Now, caller: Option<&Caller>, id: &SessionId) -> Result<&Group, Refusal> {
        let group = self.live_session(id, now).ok_or(Refusal::NoSession)?;
        match caller {
            Some(caller) if caller.uid != 0 && caller.uid != group.session.uid => Err(Refusal::NotPermitted),
            _ => Ok(group),
        }
    }

    pub(super) fn end_session(&mut self, now: Now, caller: Option<&Caller>, id: &SessionId) -> Outcome {
        let holds: Vec<Ino> = self.own_session(now, caller, id)?.holds.iter().copied().collect();
        let (mut directories, others): (Vec<Ino>, Vec<Ino>) =
            holds.into_iter().partition(|ino| self.directory(*ino).is_some());
        for ino in others {
            self.release_all_names(now, ino);
        }
        // The deepest first, so that what held only its own goes too.
        directories.sort_by_cached_key(|ino| std::cmp::Reverse(self.depth_of(*ino)));
        for ino in directories {
            self.reap_entries(now, ino);
            let is_empty = self.directory(ino).is_some_and(|directory| directory.by_cookie.is_empty());
            if is_empty {
                self.release_all_names(now, ino);
            } else if self.object(ino).is_some() {
                self.leave_session(ino);
                self.record_mut(ino).session = None;
                self.schedule(ino);
            }
        }
        self.forget_session(now, id);
        Ok(Reply::Done)
    }

    fn release_all_names(&mut self, now: Now, ino: Ino) {
        let spots: Vec<Spot> = self.spots(ino).collect();
        for spot in &spots {
            self.release(now, ino, spot);
        }
    }

    fn depth_of(&self, ino: Ino) -> usize {
        let mut depth = 0;
        let mut above = ino;
        while let Some(place) = self.object(above).and_then(|object| object.record.places.first()) {
            above = place.parent;
            depth += 1;
        }
        depth
    }

    pub(super) fn merge_session(
        &mut self,
        now: Now,
        caller: &Caller,
        from: &SessionId,
        to: &SessionId,
    ) -> Outcome {
        let giver = self.own_session(now, Some(caller), from)?;
        if from == to {
            return self.reply_session(to);
        }
        let (number, holds) = (giver.session.ino, giver.holds.clone());
        let moves = match self.own_session(now, Some(caller), to) {
            Ok(_) => false,
            Err(Refusal::NoSession) => true,
            Err(refusal) => return Err(refusal),
        };
        if moves {
            self.insert_session(now, caller);
        }
        for ino in holds {
            self.hand_to(now, ino, to);
        }
        self.see(now, to);
        self.forget_session(now, from);
        // A directory that moves to a new name keeps its number.
        if moves {
            let unused = std::mem::replace(&mut self.session_mut(to).ino, number);
            self.session_numbers.remove(&unused);
            self.session_numbers.insert(number, to.clone());
        }
        self.reply_session(to)
    }

    pub(super) fn touch_session(
        &mut self,
        now: Now,
        caller: &Caller,
        id: &SessionId,
        mtime: Option<WallTime>,
    ) -> Outcome {
        self.own_session(now, Some(caller), id)?;
        let session = self.session_mut(id);
        session.seen = now.boot;
        session.mtime = mtime.unwrap_or(session.mtime);
        self.reply_session(id)
    }

    pub(super) fn set_session_ttl(&mut self, now: Now, caller: &Caller, id: &SessionId, ttl: Ttl) -> Outcome {
        self.own_session(now, Some(caller), id)?;
        let session = self.session_mut(id);
        session.seen = now.boot;
        session.ttl = ttl;
        self.reply_session(id)
    }

    pub(super) fn transfer(&mut self, now: Now, caller: &Caller, ino: Ino, heir: &SessionId) -> Outcome {
        let object = self.live(ino, now).ok_or(Refusal::Gone)?;
        if object.record.places.is_empty() {
            return Err(Refusal::Invalid);
        }
        self.own_session(now, Some(caller), heir)?;
        self.claim_to_change(now, caller, ino)?;
        self.hand_to(now, ino, heir);
        self.see(now, heir);
        Ok(Reply::Entry(self.attributes_of(ino)))
    }

    pub(super) fn break_lock(&mut self, now: Now, caller: &Caller, ino: Ino, token: Token) -> Outcome {
        let object = self.live(ino, now).ok_or(Refusal::Gone)?;
        let record = &object.record;
        if record.places.is_empty() {
            return Err(Refusal::Invalid);
        }
        if caller.uid != record.uid && caller.uid != 0 {
            return Err(Refusal::NotPermitted);
        }
        if record.token != token {
            return Err(Refusal::WrongToken);
        }
        if self.has_live_entries(object, now) {
            return Err(Refusal::NotEmpty);
        }
        self.end_by_force(now, ino, EventKind::Break);
        Ok(Reply::Done)
    }

    pub(super) fn renew(&mut self, now: Now, sessions: &[SessionId]) -> Outcome {
        let mut found = 0;
        for id in sessions {
            if self.live_session(id, now).is_some() {
                self.session_mut(id).seen = now.boot;
                found += 1;
            }
        }
        Ok(Reply::Count(found))
    }

    pub(super) fn mark_ended(&mut self, sessions: &[SessionId]) -> Outcome {
        let mut found = 0;
        for id in sessions {
            let Some(group) = self.sessions.get(id).filter(|group| !group.session.ended) else {
                continue;
            };
            found += 1;
            if group.holds.is_empty() {
                let number = group.session.ino;
                self.sessions.remove(id);
                self.session_numbers.remove(&number);
                self.changes.push(Change::Session(id.clone()));
            } else {
                self.session_mut(id).ended = true;
            }
        }
        Ok(Reply::Count(found))
    }
}
