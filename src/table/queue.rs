//! Queues: who waits for what, in the order in which they came.
//!
//! - Nobody overtakes an earlier waiter that is in the way, be it by a try that would not wait.
//! - A wake is a hint. A waiter that could have what it waits for is told so, and has [`RESERVED`] to come and take
//!   it; one that does not come is passed over, with all waiters of its mount, until that mount is heard of again.
//! - So no waiter waits for ever behind one that is gone: each step that lets go of something, takes a waiter out,
//!   or passes one over, looks whom it lets through.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Caller, Change, LockTable, New, Opening, Outcome, Refusal, Reply, Spot, Waiting};
use crate::clock::{BootTime, Now};
use crate::lock::{
    Claim, Grant, Ino, LockOwner, Mode, MountId, Name, Range, SessionId, Style, Token, WaitId, Waiter,
};

/// How long something stays reserved for a waiter that was told.
pub(super) const RESERVED: Duration = Duration::from_secs(2);

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// An advisory lock on an object.
    Object(Ino),
    /// A name, to be free.
    Spot(Ino, Name),
}

impl From<&Spot> for Subject {
    fn from(spot: &Spot) -> Self {
        Self::Spot(spot.parent, spot.name.clone())
    }
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Queues {
    pub(super) by_subject: BTreeMap<Subject, BTreeMap<Token, Waiter>>,
    pub(super) by_id: BTreeMap<WaitId, (Subject, Token)>,
    by_session: BTreeMap<SessionId, BTreeSet<WaitId>>,
    /// Until when something is reserved for whom.
    reserved: BTreeSet<(BootTime, WaitId)>,
    /// Of what somebody let go in this step, in that order.
    stirred: Vec<Subject>,
}

/// A search for who is in the way, by and by.
#[derive(Default)]
struct Search<'a> {
    /// For whom: the session that is alone, and would wait.
    alone: Option<&'a SessionId>,
    /// Whom to look at.
    ahead: Vec<&'a SessionId>,
    lines: BTreeMap<Subject, Line<'a>>,
}

/// Who has a subject, and who waits for it, as far as they were not found to be in the way yet: behind a long queue
/// each is found once.
struct Line<'a> {
    grants: Vec<&'a Grant>,
    waiters: Vec<&'a Waiter>,
}

impl LockTable {
    /// Notes that somebody let go of something.
    pub(super) fn stir(&mut self, subject: Subject) {
        if self.queues.by_subject.contains_key(&subject) && !self.queues.stirred.contains(&subject) {
            self.queues.stirred.push(subject);
        }
    }

    /// All who wait for something, in their order.
    pub(super) fn queue_of<'a>(&'a self, subject: &Subject) -> impl Iterator<Item = &'a Waiter> + use<'a> {
        self.queues.by_subject.get(subject).into_iter().flat_map(BTreeMap::values)
    }

    /// How many wait.
    pub(super) fn waits(&self) -> u64 {
        self.queues.by_id.len() as u64
    }

    pub(super) fn waits_of(&self, mount: MountId) -> Vec<WaitId> {
        let (first, last) = (WaitId { mount, request: 0 }, WaitId { mount, request: u64::MAX });
        self.queues.by_id.range(first..=last).map(|(id, _)| *id).collect()
    }

    pub(super) fn stir_waits_of(&mut self, mount: MountId) {
        for id in self.waits_of(mount) {
            self.unreserve(id);
            let (subject, _) = self.queues.by_id[&id].clone();
            self.stir(subject);
        }
    }

    /// Notes that a mount was heard of.
    pub(super) fn unmute(&mut self, mount: MountId) {
        let is_mute = self.mounts.get_mut(&mount).map(|lease| std::mem::take(&mut lease.is_mute));
        if is_mute == Some(true) {
            self.stir_waits_of(mount);
        }
    }

    /// The place that a call has in a queue.
    pub(super) fn place_of(&self, mount: MountId, request: u64) -> Option<Token> {
        self.queues.by_id.get(&WaitId { mount, request }).map(|(_, ticket)| *ticket)
    }

    /// Whether a waiter is to be waited for.
    fn is_heeded(&self, waiter: &Waiter, now: Now) -> bool {
        let lease = self.mounts.get(&waiter.id.mount);
        lease.is_some_and(|lease| !lease.is_mute) && self.mount_lives(waiter.id.mount, now)
    }

    /// Those who came before `place` (all, where it has none) and must be let through before `claim` is granted.
    fn earlier<'a>(
        &'a self,
        now: Now,
        subject: &Subject,
        owner: LockOwner,
        claim: &'a Claim,
        place: Option<Token>,
    ) -> impl Iterator<Item = &'a Waiter> {
        let queue = self.queue_of(subject);
        let earlier = queue.take_while(move |waiter| place.is_none_or(|place| waiter.ticket < place));
        earlier.filter(move |waiter| waiter.conflicts(owner, claim) && self.is_heeded(waiter, now))
    }

    /// Whether somebody came before `place` who must be let through before `claim` is granted.
    pub(super) fn is_awaited(
        &self,
        now: Now,
        subject: &Subject,
        owner: LockOwner,
        claim: &Claim,
        place: Option<Token>,
    ) -> bool {
        self.earlier(now, subject, owner, claim, place).next().is_some()
    }

    /// Whether somebody waits for a name, so that nobody else may take it.
    pub(super) fn is_name_awaited(&self, now: Now, spot: &Spot, place: Option<Token>) -> bool {
        let mut queue = self.queue_of(&Subject::from(spot));
        let is_earlier = |waiter: &Waiter| place.is_none_or(|place| waiter.ticket < place);
        queue.any(|waiter| is_earlier(waiter) && self.is_heeded(waiter, now))
    }

    /// Gives a call a place in a queue, or leaves it the one that it has.
    pub(super) fn queue_up(
        &mut self,
        now: Now,
        caller: &Caller,
        subject: Subject,
        claim: &Claim,
        waiting: Waiting,
    ) -> Outcome {
        let Waiting { request, alone } = waiting;
        let id = WaitId { mount: caller.mount, request };
        let owner = LockOwner { mount: caller.mount, key: claim.key };
        let place = self.place_of(caller.mount, request);
        if alone && self.closes_a_cycle(now, &caller.session.id, &subject, owner, claim, place) {
            return Err(Refusal::Deadlock);
        }
        if place.is_some() {
            self.unreserve(id);
            return Ok(Reply::Waits);
        }
        let ticket = self.next_token();
        let waiter = Waiter {
            id,
            ticket,
            claim: *claim,
            session: caller.session.id.clone(),
            origin: caller.session.origin.clone(),
            since: now.wall,
            alone,
            reserved: None,
        };
        self.changes.push(Change::Wait(id));
        self.enter_queue(subject, waiter);
        Ok(Reply::Waits)
    }

    /// Gives a waiter its place; whether nobody had it.
    pub(super) fn enter_queue(&mut self, subject: Subject, waiter: Waiter) -> bool {
        let Waiter { id, ticket, .. } = waiter;
        self.queues.by_session.entry(waiter.session.clone()).or_default().insert(id);
        let is_new = self.queues.by_id.insert(id, (subject.clone(), ticket)).is_none();
        self.queues.by_subject.entry(subject).or_default().insert(ticket, waiter).is_none() && is_new
    }

    fn waiter_mut(&mut self, id: WaitId) -> Option<&mut Waiter> {
        let (subject, ticket) = self.queues.by_id.get(&id)?;
        self.queues.by_subject.get_mut(subject)?.get_mut(ticket)
    }

    fn unreserve(&mut self, id: WaitId) {
        if let Some(until) = self.waiter_mut(id).and_then(|waiter| waiter.reserved.take()) {
            self.queues.reserved.remove(&(until, id));
        }
    }

    /// Takes a call out of its queue, if it is in one.
    pub(super) fn dequeue(&mut self, now: Now, id: WaitId) {
        self.unreserve(id);
        let Some((subject, ticket)) = self.queues.by_id.remove(&id) else {
            return;
        };
        self.changes.push(Change::Wait(id));
        self.stir(subject.clone());
        let Some(queue) = self.queues.by_subject.get_mut(&subject) else {
            return;
        };
        if let Some(waiter) = queue.remove(&ticket)
            && let Some(waits) = self.queues.by_session.get_mut(&waiter.session)
        {
            waits.remove(&id);
            if waits.is_empty() {
                self.queues.by_session.remove(&waiter.session);
            }
        }
        if self.queues.by_subject.get(&subject).is_some_and(BTreeMap::is_empty) {
            self.queues.by_subject.remove(&subject);
        }
        if let Subject::Object(ino) = subject {
            self.end_use(now, ino, self.used_by(id.mount, now));
        }
    }

    pub(super) fn withdraw(&mut self, now: Now, id: WaitId) -> Outcome {
        self.dequeue(now, id);
        Ok(Reply::Done)
    }

    pub(super) fn await_spot(
        &mut self,
        now: Now,
        caller: &Caller,
        spot: &Spot,
        mode: u16,
        waiting: Waiting,
    ) -> Outcome {
        let decided = self.decide_await(now, caller, spot, mode, waiting);
        if decided != Ok(Reply::Waits) {
            self.dequeue(now, WaitId { mount: caller.mount, request: waiting.request });
        }
        decided
    }

    fn decide_await(
        &mut self,
        now: Now,
        caller: &Caller,
        spot: &Spot,
        mode: u16,
        waiting: Waiting,
    ) -> Outcome {
        self.attended(now, caller.mount)?;
        let is_taken = self.find(now, spot)?.is_some();
        let place = self.place_of(caller.mount, waiting.request);
        if !is_taken && !self.is_name_awaited(now, spot, place) {
            return self.make(now, caller, spot, &New::File(Opening::Opened), mode);
        }
        let pid = caller.session.origin.pid;
        let (style, mode, range) = (Style::Flock, Mode::Exclusive, Range::WHOLE);
        let claim = Claim { style, mode, range, key: waiting.request, pid };
        self.queue_up(now, caller, Subject::from(spot), &claim, waiting)
    }

    /// Whether whoever is in the way waits, by and by, for `session`: each of them with nobody else who could
    /// let go of anything.
    fn closes_a_cycle<'a>(
        &'a self,
        now: Now,
        session: &'a SessionId,
        subject: &Subject,
        owner: LockOwner,
        claim: &Claim,
        place: Option<Token>,
    ) -> bool {
        let mut search = Search { alone: Some(session), ..Search::default() };
        let mut seen = BTreeSet::new();
        self.search_the_way(now, &mut search, subject, owner, claim, place);
        while let Some(next) = search.ahead.pop() {
            if next == session {
                return true;
            }
            let waits = self.queues.by_session.get(next).filter(|_| seen.insert(next));
            for id in waits.into_iter().flatten() {
                let (subject, ticket) = &self.queues.by_id[id];
                let waiter = &self.queues.by_subject[subject][ticket];
                if waiter.alone && self.mount_lives(id.mount, now) {
                    let owner = waiter.owner();
                    self.search_the_way(now, &mut search, subject, owner, &waiter.claim, Some(*ticket));
                }
            }
        }
        false
    }

    /// Adds the sessions that must let go of something before `claim` can be granted.
    fn search_the_way<'a>(
        &'a self,
        now: Now,
        search: &mut Search<'a>,
        subject: &Subject,
        owner: LockOwner,
        claim: &Claim,
        place: Option<Token>,
    ) {
        let Search { alone, ahead, lines } = search;
        let line = lines.entry(subject.clone()).or_insert_with(|| {
            if let Subject::Spot(parent, name) = subject {
                let there = self.lookup(now, &Spot { parent: *parent, name: name.clone() });
                let there = there.and_then(|found| self.object(found.ino));
                ahead.extend(there.and_then(|object| object.record.session.as_ref()));
            }
            let grants = match subject {
                Subject::Object(ino) => self.grants(now, *ino).collect(),
                Subject::Spot(..) => Vec::new(),
            };
            let waiters = self.queue_of(subject).filter(|waiter| self.is_heeded(waiter, now)).collect();
            Line { grants, waiters }
        });
        line.grants.retain(|grant| {
            let conflicts = grant.conflicts(owner, claim);
            ahead.extend(conflicts.then_some(&grant.session));
            !conflicts
        });
        if line.waiters.is_empty() || self.converts(subject, owner, claim) {
            return;
        }
        line.waiters.retain(|waiter| {
            let is_earlier = place.is_none_or(|place| waiter.ticket < place);
            // A session that is alone waits once: what else waits for it was interrupted, and is about to go.
            let conflicts = is_earlier && waiter.conflicts(owner, claim) && Some(&waiter.session) != *alone;
            ahead.extend(conflicts.then_some(&waiter.session));
            !conflicts
        });
    }

    /// At the end of a step: tells whoever could have now what they wait for.
    pub(super) fn settle_queues(&mut self, now: Now) {
        let mut next = 0;
        while let Some(subject) = self.queues.stirred.get(next).cloned() {
            self.wake(now, &subject);
            next += 1;
        }
        self.queues.stirred.clear();
    }

    fn wake(&mut self, now: Now, subject: &Subject) {
        let until = now.boot + RESERVED;
        for id in self.who_could_go(now, subject) {
            if let Some(waiter) = self.waiter_mut(id)
                && waiter.reserved.is_none()
            {
                waiter.reserved = Some(until);
                self.queues.reserved.insert((until, id));
                self.wakes.push(id);
            }
        }
    }

    /// The waiters whom nothing and nobody is in the way of any more.
    fn who_could_go(&self, now: Now, subject: &Subject) -> Vec<WaitId> {
        let mut could = Vec::new();
        if let Subject::Spot(parent, name) = subject
            && self.lookup(now, &Spot { parent: *parent, name: name.clone() }).is_some()
        {
            return could;
        }
        let grants: Vec<&Grant> = match subject {
            Subject::Object(ino) => self.grants(now, *ino).collect(),
            Subject::Spot(..) => Vec::new(),
        };
        // Those that share are in nobody's way who shares: a crowd of readers is looked at once.
        let excluding: Vec<&Grant> =
            grants.iter().copied().filter(|grant| grant.mode == Mode::Exclusive).collect();
        let owners: BTreeSet<LockOwner> = grants.iter().map(|grant| grant.owner).collect();
        let (mut ahead, mut ahead_excluding): (Vec<&Waiter>, Vec<&Waiter>) = (Vec::new(), Vec::new());
        for waiter in self.queue_of(subject).filter(|waiter| self.is_heeded(waiter, now)) {
            let Waiter { claim, .. } = waiter;
            let owner = waiter.owner();
            let (grants, others) = match claim.mode {
                Mode::Shared => (&excluding, &ahead_excluding),
                Mode::Exclusive => (&grants, &ahead),
            };
            let has_turn = || owners.contains(&owner) && self.converts(subject, owner, claim);
            let is_taken = grants.iter().any(|grant| grant.conflicts(owner, claim))
                || (others.iter().any(|other| other.conflicts(owner, claim)) && !has_turn());
            if !is_taken {
                could.push(waiter.id);
            }
            // A name is one's alone.
            if matches!(subject, Subject::Spot(..)) {
                break;
            }
            ahead.push(waiter);
            if claim.mode == Mode::Exclusive {
                ahead_excluding.push(waiter);
            }
        }
        could
    }

    /// Passes over those who were told, and did not come.
    pub(super) fn sweep_reservations(&mut self, now: Now) {
        while let Some(&(until, id)) = self.queues.reserved.first()
            && until <= now.boot
        {
            // The waiter keeps the mark of it, so that it is not told again before its mount is heard of.
            self.queues.reserved.remove(&(until, id));
            if let Some(lease) = self.mounts.get_mut(&id.mount) {
                lease.is_mute = true;
            }
            for id in self.waits_of(id.mount) {
                let (subject, _) = self.queues.by_id[&id].clone();
                self.stir(subject);
            }
        }
    }

    /// Who waits for a name, or for an advisory lock on what stands there, in their order.
    pub fn queue(&self, now: Now, spot: &Spot) -> Vec<Waiter> {
        let ino = self.lookup(now, spot).map(|found| found.ino);
        let object = ino.into_iter().flat_map(|ino| self.queue_of(&Subject::Object(ino)));
        let all = object.chain(self.queue_of(&Subject::from(spot)));
        let mut waiters: Vec<Waiter> =
            all.filter(|waiter| self.mount_lives(waiter.id.mount, now)).cloned().collect();
        waiters.sort_by_key(|waiter| waiter.ticket);
        waiters
    }

    /// How many wait for an advisory lock on an object, or for one of its names.
    pub(super) fn waiting(&self, now: Now, ino: Ino) -> usize {
        let spots = self.spots(ino).map(|spot| Subject::from(&spot));
        let subjects = std::iter::once(Subject::Object(ino)).chain(spots);
        let waiters = subjects.flat_map(|subject| {
            let waiters = self.queue_of(&subject).filter(|waiter| self.mount_lives(waiter.id.mount, now));
            waiters.map(|waiter| waiter.id).collect::<Vec<_>>()
        });
        waiters.count()
    }

    /// When a reservation runs out next.
    pub(super) fn next_reservation(&self) -> Option<BootTime> {
        self.queues.reserved.first().map(|(until, _)| *until)
    }
}
