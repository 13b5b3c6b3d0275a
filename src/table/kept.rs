//! What a store keeps of mounts: their leases, what they have open and locked, who waits, and the files without a name
//! that live by them. A daemon that takes over a mount finds it as it was.
//!
//! Not kept is what the next few steps say again: which mounts are mute, and what was reserved for whom.

use std::collections::BTreeSet;

use super::advisory::Share;
use super::queue::Subject;
use super::{Change, LockTable, Object};
use crate::clock::BootTime;
use crate::lock::{Grant, Ino, Mount, MountId, Record, SessionId, Ttl, WaitId, Waiter};

/// What mounts have, as a store kept it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Belongings {
    /// Mounts, and when each was last heard of.
    pub leases: Vec<(Mount, BootTime)>,
    /// Files without a name, and who held each when its last name went; nobody, where it was advisory.
    pub nameless: Vec<(Record, Option<SessionId>)>,
    /// What each mount has of an object: how often it is open, and its advisory locks.
    pub shares: Vec<(Ino, MountId, u32, Vec<Grant>)>,
    /// Who waits, and for what.
    pub waits: Vec<(Subject, Waiter)>,
}

impl LockTable {
    /// A mount's lease as it is, and when it was last heard of: what a store writes after a [`Change`].
    pub fn lease(&self, mount: MountId) -> Option<(&Mount, BootTime)> {
        self.mounts.get(&mount).map(|lease| (&lease.mount, lease.seen))
    }

    /// What a mount has of an object as it is, how often it is open and its locks: what a store writes after a
    /// [`Change`].
    pub fn share(&self, ino: Ino, mount: MountId) -> Option<(u32, &[Grant])> {
        let share = self.shares.get(&ino)?.get(&mount)?;
        Some((share.opens, &share.grants))
    }

    /// A call that waits, and for what: what a store writes after a [`Change`].
    pub fn wait(&self, id: WaitId) -> Option<(&Subject, &Waiter)> {
        let (subject, ticket) = self.queues.by_id.get(&id)?;
        Some((subject, self.queues.by_subject.get(subject)?.get(ticket)?))
    }

    /// A file without a name, and who held it when the last went: what a store writes after a [`Change`].
    pub fn nameless(&self, ino: Ino) -> Option<(&Record, Option<&SessionId>)> {
        let object = self.object(ino).filter(|object| object.is_nameless)?;
        Some((&object.record, object.left_by.as_ref()))
    }

    /// Every thing that a store keeps of mounts.
    pub fn belongings(&self) -> Vec<Change> {
        let leases = self.mounts.keys().map(|mount| Change::Mount(*mount));
        let nameless = self.objects.values().filter(|object| object.is_nameless);
        let nameless = nameless.map(|object| Change::Nameless(object.record.ino));
        let shares = self.shares.iter();
        let shares = shares.flat_map(|(ino, mounts)| mounts.keys().map(|mount| Change::Share(*ino, *mount)));
        let waits = self.queues.by_id.keys().map(|id| Change::Wait(*id));
        leases.chain(nameless).chain(shares).chain(waits).collect()
    }

    /// Forgets all that mounts have; notes the changes.
    pub(super) fn drop_belongings(&mut self) {
        let gone = self.belongings();
        self.changes.extend(gone);
        self.shares.clear();
        self.mounts.clear();
        self.queues = super::Queues::default();
    }

    /// Gives mounts back what a store kept. Whoever could have what they wait for is told with the next step.
    ///
    /// # Errors
    /// Says what is wrong where it makes no whole with the rest: a lock of an object that isn't there, two that exclude
    /// each other, a place in a queue that was not given yet.
    pub fn restore_belongings(&mut self, kept: Belongings) -> Result<(), String> {
        for (record, left_by) in kept.nameless {
            self.restore_nameless(record, left_by)?;
        }
        for (mount, seen) in kept.leases {
            let id = mount.id;
            let lease = super::Lease { mount, seen, is_mute: false };
            if self.mounts.insert(id, lease).is_some() {
                return Err(format!("two leases of mount {id}"));
            }
        }
        for (ino, mount, opens, grants) in kept.shares {
            self.restore_share(ino, mount, opens, grants)?;
        }
        for (subject, waiter) in kept.waits {
            self.restore_wait(subject, waiter)?;
        }
        let unused = self.objects.values().filter(|object| object.is_nameless);
        let mut unused = unused.filter(|object| self.users(object.record.ino).next().is_none());
        if let Some(object) = unused.next() {
            return Err(format!("inode {} has no name, and no mount uses it", object.record.ino));
        }
        let subjects: Vec<Subject> = self.queues.by_subject.keys().cloned().collect();
        let awaited = subjects.iter().filter_map(|subject| match subject {
            Subject::Object(ino) => Some(*ino),
            Subject::Spot(..) => None,
        });
        let used: BTreeSet<Ino> = self.shares.keys().copied().chain(awaited).collect();
        used.into_iter().for_each(|ino| self.schedule(ino));
        subjects.into_iter().for_each(|subject| self.stir(subject));
        Ok(())
    }

    fn restore_nameless(&mut self, record: Record, left_by: Option<SessionId>) -> Result<(), String> {
        let ino = record.ino;
        if record.token >= self.last_token || ino >= Ino::from(self.last_token) {
            return Err(format!("token {} of inode {ino} is of a later epoch", record.token));
        }
        if !record.places.is_empty() || record.session.is_some() || ino == Ino::ROOT {
            return Err(format!("inode {ino} is kept as one without a name, and has one or is held"));
        }
        let object = Object { record, directory: None, check_at: None, left_by, is_nameless: true };
        if self.objects.insert(ino, Box::new(object)).is_some() {
            return Err(format!("two records of inode {ino}"));
        }
        self.tally.locks += 1;
        Ok(())
    }

    fn restore_share(
        &mut self,
        ino: Ino,
        mount: MountId,
        opens: u32,
        grants: Vec<Grant>,
    ) -> Result<(), String> {
        if self.object(ino).is_none_or(|object| object.directory.is_some()) {
            return Err(format!("mount {mount} has inode {ino}, which is no file"));
        }
        if opens == 0 && grants.is_empty() {
            return Err(format!("mount {mount} has nothing of inode {ino}"));
        }
        // Of two leases one may have run out before the other mount was granted what it has.
        let stays =
            |mount: &MountId| self.mounts.get(mount).is_some_and(|lease| lease.mount.ttl == Ttl::Never);
        let others =
            self.shares.get(&ino).into_iter().flatten().filter(|(other, _)| stays(other) && stays(&mount));
        let others: Vec<&Grant> = others.flat_map(|(_, share)| &share.grants).collect();
        for (index, grant) in grants.iter().enumerate() {
            let claim = grant.claim();
            let is_in_the_way = |other: &Grant| other.conflicts(grant.owner, &claim);
            if grant.owner.mount != mount
                || grants[..index].iter().any(is_in_the_way)
                || others.iter().copied().any(is_in_the_way)
            {
                return Err(format!("two have inode {ino} locked who exclude each other"));
            }
        }
        match self.shares.entry(ino).or_default().insert(mount, Share { opens, grants }) {
            Some(_) => Err(format!("mount {mount} has inode {ino} twice")),
            None => Ok(()),
        }
    }

    fn restore_wait(&mut self, subject: Subject, waiter: Waiter) -> Result<(), String> {
        let ticket = waiter.ticket;
        if ticket >= self.last_token {
            return Err(format!("place {ticket} in a queue is of a later epoch"));
        }
        // What it waits for may be gone: whoever waits is told so when it asks.
        if !self.enter_queue(subject, Waiter { reserved: None, ..waiter }) {
            return Err(format!("two have the place {ticket} in a queue"));
        }
        Ok(())
    }
}
