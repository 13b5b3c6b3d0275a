//! Sessions: begin, end, hand over, renew.

use std::time::Duration;

use super::{Begin, Caller, Change, Group, LockTable, Outcome, Refusal, Reply, Spot};
use crate::clock::{BootTime, Now, WallTime};
use crate::lock::{EventKind, Ino, Session, SessionId, SessionKind, Token, Ttl};

/// How many lost names a session remembers.
const LOST_MAX: usize = 1_000;

/// How much longer than its ttl a session that lost something is remembered, to be told.
const LOST_KEPT: Duration = Duration::from_secs(86_400);

impl LockTable {
    /// The session of that name, unless it is over and only waits to be swept.
    pub(super) fn live_session(&self, id: &SessionId, now: Now) -> Option<&Group> {
        self.sessions.get(id).filter(|group| !self.is_over(group, now))
    }

    /// Whether a session holds nothing, and nobody needs it: its job has ended, or it was last seen too
    /// long ago.
    fn is_over(&self, group: &Group, now: Now) -> bool {
        let ended = group.session.ended || Self::ends_at(group).is_some_and(|end| end <= now.boot);
        ended && !self.holds_live(group, now)
    }

    fn holds_live(&self, group: &Group, now: Now) -> bool {
        group.holds.iter().any(|ino| self.live(*ino, now).is_some())
    }

    /// When a session that holds nothing alive is over: what it still holds then, it will have lost.
    fn ends_at(group: &Group) -> Option<BootTime> {
        let kept = match group.session.lost.is_empty() && group.holds.is_empty() {
            true => Duration::ZERO,
            false => LOST_KEPT,
        };
        Some(Self::lapses_at(group)? + kept)
    }

    /// When a session that holds nothing alive may be begun anew.
    fn lapses_at(group: &Group) -> Option<BootTime> {
        Some(group.session.seen + group.session.ttl.span()?)
    }

    /// At the end of a step: a session whose job has ended goes with its last lock, others after a while.
    pub(super) fn settle_sessions(&mut self, now: Now) {
        for id in std::mem::take(&mut self.emptied) {
            let Some(group) = self.sessions.get(&id).filter(|group| group.holds.is_empty()) else {
                continue;
            };
            if group.session.ended {
                self.forget_session(now, &id);
            } else {
                self.schedule_session(&id);
            }
        }
    }

    /// Plans the next look at a session that holds nothing: when it lapses as it is known now, or earlier.
    pub(super) fn schedule_session(&mut self, id: &SessionId) {
        let Some(group) = self.sessions.get(id).filter(|group| group.holds.is_empty()) else {
            return;
        };
        if let Some(at) = Self::lapses_at(group)
            && group.check_at.is_none_or(|check| check > at)
        {
            self.check_session_at(id, Some(at));
        }
    }

    fn check_session_at(&mut self, id: &SessionId, at: Option<BootTime>) {
        let group = self.sessions.get_mut(id).expect("the caller looked the session up in this step");
        if let Some(before) = std::mem::replace(&mut group.check_at, at) {
            self.session_checks.remove(&(before, group.session.ino));
        }
        self.session_checks.extend(at.map(|at| (at, group.session.ino)));
    }

    /// Forgets at most `limit` sessions that are over, and says how many.
    pub(super) fn sweep_sessions(&mut self, now: Now, limit: usize) -> usize {
        let mut swept = 0;
        while swept < limit
            && let Some(&(at, number)) = self.session_checks.first()
            && at <= now.boot
        {
            let id = self.session_numbers[&number].clone();
            self.check_session_at(&id, None);
            let group = &self.sessions[&id];
            // One that holds something is planned again when it has let go of it.
            if !group.holds.is_empty() {
                continue;
            }
            if self.is_over(group, now) {
                self.forget_session(now, &id);
                swept += 1;
            } else {
                let end = Self::ends_at(group);
                self.check_session_at(&id, end);
            }
        }
        swept
    }

    /// Makes sure that the caller's session exists, is the caller's, and was seen now.
    pub(super) fn ensure_session(&mut self, now: Now, caller: &Caller) -> Result<(), Refusal> {
        let id = &caller.session.id;
        match self.live_session(id, now) {
            Some(group) if !Self::may_speak_for(caller, &group.session) => Err(Refusal::NotPermitted),
            Some(group) => {
                // What acquires is alive, whatever was taken for its job's end.
                if group.session.ended {
                    self.session_mut(id).ended = false;
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
        self.enter_session(now, session);
    }

    /// Enters a session that begins, in the place of one that is over.
    fn enter_session(&mut self, now: Now, session: Session) {
        let id = session.id.clone();
        let named = session.kind == SessionKind::Named;
        self.reap_held(now, &id);
        self.forget_session(now, &id);
        self.session_numbers.insert(session.ino, id.clone());
        self.sessions.insert(id.clone(), Group::new(session));
        self.changes.push(Change::Session(id.clone()));
        if named {
            self.tell_of_session(now, EventKind::Begin, &id);
        }
        self.emptied.push(id);
    }

    /// Notes that a session's holder is alive.
    pub(super) fn see(&mut self, now: Now, id: &SessionId) {
        self.reap_held(now, id);
        let Some(group) = self.sessions.get(id) else {
            return;
        };
        let grain = Self::grain_of(group.shortest_ttl().unwrap_or(Ttl::Never));
        if now.boot.since(group.session.seen) >= grain {
            self.see_exactly(now, id);
        }
    }

    /// The same, to the nanosecond. What had expired before stays so.
    fn see_exactly(&mut self, now: Now, id: &SessionId) -> &mut Session {
        self.reap_held(now, id);
        let session = self.session_mut(id);
        session.seen = now.boot;
        session
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
            if let Some(at) = group.check_at {
                self.session_checks.remove(&(at, group.session.ino));
            }
            self.changes.push(Change::Session(id.clone()));
            if group.session.kind == SessionKind::Named {
                self.tell_of_session(now, EventKind::End, id);
            }
        }
    }

    pub(super) fn begin_session(&mut self, now: Now, caller: &Caller) -> Outcome {
        let id = &caller.session.id;
        if let Some(group) = self.live_session(id, now) {
            // One that is only kept to be told what it lost gives way, to its owner.
            let lapsed = Self::lapses_at(group).is_some_and(|lapse| lapse <= now.boot);
            if !lapsed || self.holds_live(group, now) || !Self::may_decide(caller, &group.session) {
                return Err(Refusal::Exists);
            }
        }
        self.insert_session(now, caller);
        self.reply_session(id)
    }

    fn reply_session(&self, id: &SessionId) -> Outcome {
        Ok(Reply::Session(Box::new(self.sessions[id].session.clone())))
    }

    /// The session, if the caller may decide about it.
    pub(super) fn own_session(
        &self,
        now: Now,
        caller: Option<&Caller>,
        id: &SessionId,
    ) -> Result<&Group, Refusal> {
        let group = self.live_session(id, now).ok_or(Refusal::NoSession)?;
        match caller.is_none_or(|caller| Self::may_decide(caller, &group.session)) {
            true => Ok(group),
            false => Err(Refusal::NotPermitted),
        }
    }

    pub(super) fn may_decide(caller: &Caller, session: &Session) -> bool {
        caller.uid == 0 || caller.uid == session.uid
    }

    pub(super) fn end_session(&mut self, now: Now, caller: Option<&Caller>, id: &SessionId) -> Outcome {
        self.own_session(now, caller, id)?;
        self.reap_held(now, id);
        let holds = self.sessions[id].holds.clone();
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
        self.own_session(now, Some(caller), from)?;
        if from == to {
            return self.reply_session(to);
        }
        let moves = match self.own_session(now, Some(caller), to) {
            Ok(_) => false,
            Err(Refusal::NoSession) => true,
            Err(refusal) => return Err(refusal),
        };
        self.reap_held(now, from);
        let giver = &self.sessions[from];
        let (number, holds) = (giver.session.ino, giver.holds.clone());
        if moves {
            // A directory that moves to a new name keeps its number, its owner and its times; what was lost
            // under the old name stays lost under the new one.
            let mut heir = Session { id: to.clone(), kind: SessionKind::Named, ..giver.session.clone() };
            heir.ended = false;
            heir.seen = now.boot;
            self.enter_session(now, heir);
        }
        for ino in holds {
            self.hand_to(now, ino, to);
        }
        self.see(now, to);
        self.forget_session(now, from);
        if moves {
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
        let session = self.see_exactly(now, id);
        session.mtime = mtime.unwrap_or(session.mtime);
        self.reply_session(id)
    }

    pub(super) fn set_session_ttl(&mut self, now: Now, caller: &Caller, id: &SessionId, ttl: Ttl) -> Outcome {
        self.own_session(now, Some(caller), id)?;
        self.see_exactly(now, id).ttl = ttl;
        self.schedule_session(id);
        self.reply_session(id)
    }

    pub(super) fn transfer(&mut self, now: Now, caller: &Caller, ino: Ino, heir: &SessionId) -> Outcome {
        let object = self.live(ino, now).ok_or(Refusal::Gone)?;
        // What is advisory is nobody's, and what has no name can't be held.
        if object.record.places.is_empty() || object.record.is_advisory() {
            return Err(Refusal::Invalid);
        }
        self.own_session(now, Some(caller), heir)?;
        let standing = self.may_change(caller, ino)?;
        self.hand_on(now, ino, standing, heir);
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
                self.see_exactly(now, id);
                found += 1;
            }
        }
        Ok(Reply::Count(found))
    }

    pub(super) fn mark_ended(&mut self, now: Now, sessions: &[SessionId]) -> Outcome {
        let mut found = 0;
        for id in sessions {
            let group = self.live_session(id, now).filter(|group| !group.session.ended);
            // Only a job can end by itself.
            if group.is_some_and(|group| matches!(group.session.kind, SessionKind::Job(_))) {
                self.session_mut(id).ended = true;
                self.emptied.push(id.clone());
                found += 1;
            }
        }
        Ok(Reply::Count(found))
    }
}
