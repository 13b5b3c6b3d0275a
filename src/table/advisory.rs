//! Advisory locks: what mounts have of an object, and what flock(2) and fcntl(2) change.
//!
//! A file that nobody holds, though it has a name, is advisory: its existence means nothing, its modes alone say
//! who may do what, and it stays for its ttl after the last mount has let go of it.

use std::collections::BTreeMap;

use super::queue::Subject;
use super::{Caller, Change, LockTable, Outcome, Refusal, Reply, Waiting};
use crate::clock::{BootTime, Now};
use crate::lock::{Body, Claim, Grant, Ino, LockOwner, Mount, MountId, Range, Record, Style, WaitId};

/// What one mount has of an object.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// How often it has it open.
    pub(super) opens: u32,
    pub(super) grants: Vec<Grant>,
}

/// What all mounts have of an object.
pub(super) type Shares = BTreeMap<MountId, Share>;

/// A mount's lease.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) mount: Mount,
    /// When it was last heard of.
    pub(super) seen: BootTime,
    /// It was told that a wait of its has an end, and did not come: its other waits are passed over, too.
    pub(super) is_mute: bool,
}

impl Lease {
    /// When all that the mount has goes; `None` for never.
    fn ends_at(&self) -> Option<BootTime> {
        Some(self.seen + self.mount.ttl.span()?)
    }
}

impl Record {
    /// Whether it is an advisory file: nobody holds it, and it has a name.
    pub fn is_advisory(&self) -> bool {
        matches!(self.body, Body::File(_)) && self.session.is_none() && !self.places.is_empty()
    }
}

impl LockTable {
    /// Whether a mount may still be there. Of one that never took a lease nobody knows otherwise.
    pub(super) fn mount_lives(&self, id: MountId, now: Now) -> bool {
        let end = self.mounts.get(&id).and_then(Lease::ends_at);
        end.is_none_or(|end| end > now.boot)
    }

    /// The mounts that have something of an object, dead or alive.
    pub(super) fn users(&self, ino: Ino) -> impl Iterator<Item = MountId> {
        let shares = self.shares.get(&ino).into_iter().flat_map(BTreeMap::keys).copied();
        shares.chain(self.queue_of(&Subject::Object(ino)).map(|waiter| waiter.id.mount))
    }

    /// Whether a living mount has an object open or locked, or waits for it.
    pub(super) fn is_used(&self, ino: Ino, now: Now) -> bool {
        self.users(ino).any(|mount| self.mount_lives(mount, now))
    }

    /// Until when an object is used at least; `None` for as long as its mounts please.
    pub(super) fn used_until(&self, ino: Ino) -> Option<BootTime> {
        let mut until = BootTime::default();
        for mount in self.users(ino) {
            until = until.max(self.mounts.get(&mount)?.ends_at()?);
        }
        Some(until)
    }

    /// What a mount has of an object, to change it; notes the change.
    fn share_mut(&mut self, ino: Ino, mount: MountId) -> &mut Share {
        self.changes.push(Change::Share(ino, mount));
        self.shares.entry(ino).or_default().entry(mount).or_default()
    }

    /// Notes that a mount has an object open once more.
    pub(super) fn open_on(&mut self, mount: MountId, ino: Ino) {
        self.share_mut(ino, mount).opens += 1;
    }

    pub(super) fn close(&mut self, now: Now, mount: MountId, ino: Ino) -> Outcome {
        if let Some(share) = self.shares.get_mut(&ino).and_then(|shares| shares.get_mut(&mount)) {
            share.opens = share.opens.saturating_sub(1);
            self.changes.push(Change::Share(ino, mount));
            self.tidy_share(now, mount, ino);
        }
        Ok(Reply::Done)
    }

    /// A mount has objects open so often and no more: what it closed last, nobody may have heard. Returns what changed.
    pub fn close_but(&mut self, now: Now, mount: MountId, opens: &BTreeMap<Ino, u32>) -> Vec<Change> {
        let had = self.shares.iter().filter_map(|(ino, shares)| Some((*ino, shares.get(&mount)?.opens)));
        let mut more: Vec<(Ino, u32)> = had
            .map(|(ino, had)| (ino, had.saturating_sub(opens.get(&ino).copied().unwrap_or(0))))
            .filter(|(_, more)| *more > 0)
            .collect();
        more.sort_unstable();
        for (ino, more) in more {
            self.share_mut(ino, mount).opens -= more;
            self.tidy_share(now, mount, ino);
        }
        let mut changes = std::mem::take(&mut self.changes);
        changes.sort_unstable();
        changes.dedup();
        changes
    }

    /// Forgets what a mount has of an object where that is nothing any more.
    fn tidy_share(&mut self, now: Now, mount: MountId, ino: Ino) {
        let share = self.shares.get(&ino).and_then(|shares| shares.get(&mount));
        if share.is_some_and(|share| share.opens == 0 && share.grants.is_empty()) {
            self.drop_share(mount, ino);
            self.end_use(now, ino, self.used_by(mount, now));
        }
    }

    /// Until when a mount that lets go of something had it: till now, or till its lease ran out.
    pub(super) fn used_by(&self, mount: MountId, now: Now) -> BootTime {
        let end = self.mounts.get(&mount).and_then(Lease::ends_at);
        end.map_or(now.boot, |end| end.min(now.boot))
    }

    fn drop_share(&mut self, mount: MountId, ino: Ino) {
        if let Some(shares) = self.shares.get_mut(&ino) {
            if shares.remove(&mount).is_some() {
                self.changes.push(Change::Share(ino, mount));
            }
            if shares.is_empty() {
                self.shares.remove(&ino);
            }
        }
    }

    /// Some mount let go of an object at `at`: what had no name goes with the last living one, and of an advisory
    /// file the ttl begins to run.
    pub(super) fn end_use(&mut self, now: Now, ino: Ino, at: BootTime) {
        if self.is_used(ino, now) {
            return;
        }
        let Some(object) = self.object(ino) else {
            return;
        };
        if object.record.places.is_empty() && ino != Ino::ROOT {
            self.remove(ino);
        } else if object.record.is_advisory() {
            if at.since(object.record.seen) >= Self::grain_of(object.record.ttl) || at < now.boot {
                let record = self.record_mut(ino);
                record.seen = record.seen.max(at);
            }
            self.schedule(ino);
        }
    }

    /// Nobody holds the file from now on: whoever locks it means its locks.
    fn make_advisory(&mut self, now: Now, ino: Ino) {
        let object = self.objects.get_mut(&ino).expect("the caller looked the object up in this step");
        if object.left_by.take().is_some() {
            self.changes.push(Change::Nameless(ino));
        }
        if self.object(ino).is_some_and(|object| object.record.session.is_some()) {
            self.leave_session(ino);
            self.record_mut(ino).seen = now.boot;
            self.schedule(ino);
        }
    }

    /// The grants on an object of mounts that may still be there.
    pub(super) fn grants(&self, now: Now, ino: Ino) -> impl Iterator<Item = &Grant> {
        let shares = self.shares.get(&ino).into_iter().flatten();
        let living = shares.filter(move |(mount, _)| self.mount_lives(**mount, now));
        living.flat_map(|(_, share)| &share.grants)
    }

    /// What an owner has of an object by one of the two calls.
    fn own_grants(&self, ino: Ino, owner: LockOwner, style: Style) -> impl Iterator<Item = &Grant> {
        let share = self.shares.get(&ino).and_then(|shares| shares.get(&owner.mount));
        let grants = share.into_iter().flat_map(|share| &share.grants);
        grants.filter(move |grant| grant.owner == owner && grant.style == style)
    }

    /// Whether an owner has all of what it claims already, and wants it otherwise: then it has had its turn, and
    /// nobody who waits is to be let through before it.
    pub(super) fn converts(&self, subject: &Subject, owner: LockOwner, claim: &Claim) -> bool {
        let Subject::Object(ino) = subject else {
            return false;
        };
        let mut left = vec![claim.range];
        for grant in self.own_grants(*ino, owner, claim.style) {
            left = left.into_iter().flat_map(|part| part.without(grant.range)).collect();
        }
        left.is_empty()
    }

    /// Makes sure that the caller's mount has a lease, and notes that it is there.
    pub(super) fn attended(&mut self, now: Now, mount: MountId) -> Result<(), Refusal> {
        if !self.mounts.contains_key(&mount) || !self.mount_lives(mount, now) {
            return Err(Refusal::Unattended);
        }
        self.unmute(mount);
        Ok(())
    }

    pub(super) fn lock(
        &mut self,
        now: Now,
        caller: &Caller,
        ino: Ino,
        claim: &Claim,
        waiting: Option<Waiting>,
    ) -> Outcome {
        let id = waiting.map(|waiting| WaitId { mount: caller.mount, request: waiting.request });
        let decided = self.may_lock(now, caller, ino);
        let decided = decided.and_then(|()| self.decide_lock(now, caller, ino, claim, waiting));
        // Whatever the answer is, if it is not to wait the call waits no longer.
        if let Some(id) = id.filter(|_| decided != Ok(Reply::Waits)) {
            self.dequeue(now, id);
        }
        // A flock that was to be converted is lost, and may have been all that the mount had.
        self.tidy_share(now, caller.mount, ino);
        decided
    }

    fn may_lock(&mut self, now: Now, caller: &Caller, ino: Ino) -> Result<(), Refusal> {
        match self.live(ino, now).ok_or(Refusal::Gone)?.record.body {
            Body::File(_) => self.attended(now, caller.mount),
            Body::Directory { .. } | Body::Symlink(_) => Err(Refusal::Invalid),
        }
    }

    fn decide_lock(
        &mut self,
        now: Now,
        caller: &Caller,
        ino: Ino,
        claim: &Claim,
        waiting: Option<Waiting>,
    ) -> Outcome {
        self.make_advisory(now, ino);
        let owner = LockOwner { mount: caller.mount, key: claim.key };
        let mut own = self.own_grants(ino, owner, claim.style);
        if own.any(|grant| grant.mode == claim.mode && grant.range.contains(claim.range)) {
            return Ok(Reply::Done);
        }
        drop(own);
        let subject = Subject::Object(ino);
        let converts = self.converts(&subject, owner, claim);
        if converts && claim.style == Style::Flock {
            // The old lock goes first, and is lost where the new one can't be had (`flock_lock_inode` of fs/locks.c).
            self.take_away(ino, owner, claim.style, claim.range);
        }
        let place = waiting.and_then(|waiting| self.place_of(caller.mount, waiting.request));
        let is_taken = self.grants(now, ino).any(|grant| grant.conflicts(owner, claim))
            || (!converts && self.is_awaited(now, &subject, owner, claim, place));
        if is_taken {
            let waiting = waiting.ok_or(Refusal::Taken)?;
            return self.queue_up(now, caller, subject, claim, waiting);
        }
        self.take_away(ino, owner, claim.style, claim.range);
        let share = self.share_mut(ino, owner.mount);
        // What touches it and is like it becomes one with it (`posix_lock_inode` of fs/locks.c).
        let mut range = claim.range;
        share.grants.retain(|grant| {
            let is_like = grant.owner == owner && grant.style == claim.style && grant.mode == claim.mode;
            let joins = is_like && grant.range.touches(claim.range);
            if joins {
                range = range.joined(grant.range);
            }
            !joins
        });
        share.grants.push(Grant {
            style: claim.style,
            mode: claim.mode,
            range,
            owner,
            pid: claim.pid,
            session: caller.session.id.clone(),
            origin: caller.session.origin.clone(),
            since: now.wall,
        });
        Ok(Reply::Done)
    }

    pub(super) fn unlock(
        &mut self,
        now: Now,
        owner: LockOwner,
        ino: Ino,
        style: Style,
        range: Range,
    ) -> Outcome {
        self.take_away(ino, owner, style, range);
        self.tidy_share(now, owner.mount, ino);
        Ok(Reply::Done)
    }

    /// Takes `range` away from what an owner has; of a lock that reaches farther the rest stays.
    fn take_away(&mut self, ino: Ino, owner: LockOwner, style: Style, range: Range) {
        let Some(share) = self.shares.get_mut(&ino).and_then(|shares| shares.get_mut(&owner.mount)) else {
            return;
        };
        let is_meant =
            |grant: &Grant| grant.owner == owner && grant.style == style && grant.range.overlaps(range);
        if !share.grants.iter().any(is_meant) {
            return;
        }
        let mut left = Vec::with_capacity(share.grants.len());
        for grant in std::mem::take(&mut share.grants) {
            match is_meant(&grant) {
                true => left.extend(grant.range.without(range).map(|range| Grant { range, ..grant.clone() })),
                false => left.push(grant),
            }
        }
        share.grants = left;
        self.changes.push(Change::Share(ino, owner.mount));
        self.stir(Subject::Object(ino));
    }

    pub(super) fn attend(&mut self, now: Now, mount: &Mount) -> Outcome {
        let was_there = self.mounts.contains_key(&mount.id) && self.mount_lives(mount.id, now);
        if !was_there {
            self.leave_mount(now, mount.id);
        }
        let lease = Lease { mount: mount.clone(), seen: now.boot, is_mute: false };
        self.changes.push(Change::Mount(mount.id));
        let was_mute = self.mounts.insert(mount.id, lease).is_some_and(|lease| lease.is_mute);
        if was_mute {
            self.stir_waits_of(mount.id);
        }
        Ok(Reply::Count(usize::from(was_there)))
    }

    pub(super) fn leave(&mut self, now: Now, mounts: &[MountId]) -> Outcome {
        for mount in mounts {
            self.leave_mount(now, *mount);
        }
        Ok(Reply::Done)
    }

    /// All that a mount has goes, and its lease; at the end of that where it has run out.
    fn leave_mount(&mut self, now: Now, mount: MountId) {
        let end = self.used_by(mount, now);
        for id in self.waits_of(mount) {
            self.dequeue(now, id);
        }
        let has_some = self.shares.iter().filter(|(_, shares)| shares.contains_key(&mount));
        let mut objects: Vec<Ino> = has_some.map(|(ino, _)| *ino).collect();
        objects.sort_unstable();
        for ino in objects {
            self.drop_share(mount, ino);
            self.stir(Subject::Object(ino));
            self.end_use(now, ino, end);
        }
        if self.mounts.remove(&mount).is_some() {
            self.changes.push(Change::Mount(mount));
        }
    }

    /// When a lease runs out next.
    pub(super) fn next_lapse(&self) -> Option<BootTime> {
        self.mounts.values().filter_map(Lease::ends_at).min()
    }

    /// Lets mounts go whose lease has run out.
    pub(super) fn sweep_mounts(&mut self, now: Now) {
        let dead = self.mounts.keys().copied().filter(|mount| !self.mount_lives(*mount, now));
        for mount in dead.collect::<Vec<_>>() {
            self.leave_mount(now, mount);
        }
    }

    /// Forgets what mounts have of an object that goes.
    pub(super) fn drop_shares(&mut self, ino: Ino) {
        let mounts = self.shares.remove(&ino).into_iter().flat_map(BTreeMap::into_keys);
        self.changes.extend(mounts.map(|mount| Change::Share(ino, mount)));
        self.stir(Subject::Object(ino));
    }

    /// The mounts that have a lease, dead or alive.
    pub fn mounts(&self) -> Vec<Mount> {
        self.mounts.values().map(|lease| lease.mount.clone()).collect()
    }
}
