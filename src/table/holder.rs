//! Who may do what to a lock that exists: the table of rights, as a function.

use super::{Caller, Change, LockTable, Object, Refusal, Spot};
use crate::clock::Now;
use crate::lock::{EventKind, Ino, SessionId, SessionKind};

/// How a caller stands to a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It speaks for the session that holds it, or nobody holds it.
    Holder,
    /// It is of the same login as the job that held it, which has ended: it may take over.
    Successor,
    /// It is of the same user (or root), and not of the session.
    Peer {
        /// Whether the holder is alive, as far as is known.
        held: bool,
    },
    /// It is another user.
    Stranger,
}

impl LockTable {
    pub(super) fn standing(&self, caller: &Caller, object: &Object) -> Standing {
        let record = &object.record;
        let same_user = caller.uid == record.uid || caller.uid == 0;
        let Some(group) = record.session.as_ref().and_then(|id| self.sessions.get(id)) else {
            return if same_user { Standing::Holder } else { Standing::Stranger };
        };
        let session = &group.session;
        if session.id == caller.session.id {
            return Standing::Holder;
        }
        if !same_user {
            return Standing::Stranger;
        }
        let of_a_job = matches!(session.kind, SessionKind::Job(_));
        if session.ended && of_a_job && session.login.is_some() && session.login == caller.session.login {
            return Standing::Successor;
        }
        Standing::Peer { held: !session.ended }
    }

    /// Lets the caller change the object, or says why not. A successor takes it over.
    pub(super) fn claim_to_change(&mut self, now: Now, caller: &Caller, ino: Ino) -> Result<(), Refusal> {
        let object = self.object(ino).expect("the caller looked the object up in this step");
        // Nobody holds the root, a directory that outlived its session, or a file that is unlinked and
        // open: the kernel has judged by the modes, and there is nothing to add.
        let Some(id) = object.record.session.clone() else {
            return Ok(());
        };
        match self.standing(caller, object) {
            Standing::Holder => self.see(now, &id),
            Standing::Successor => self.take_over(now, caller, ino)?,
            Standing::Peer { .. } | Standing::Stranger => return Err(Refusal::Busy(Some(id))),
        }
        Ok(())
    }

    /// Lets the caller take the name away from the object, or says why not.
    pub(super) fn may_remove(&self, caller: &Caller, ino: Ino, spot: &Spot) -> Result<Standing, Refusal> {
        let object = self.object(ino).expect("the caller looked the object up in this step");
        let standing = self.standing(caller, object);
        match standing {
            Standing::Holder | Standing::Successor | Standing::Peer { held: false } => Ok(standing),
            Standing::Peer { held: true } | Standing::Stranger if self.has_lost(caller, spot) => {
                Err(Refusal::Lost)
            }
            Standing::Peer { held: true } | Standing::Stranger => {
                Err(Refusal::Held(object.record.session.clone()))
            }
        }
    }

    fn has_lost(&self, caller: &Caller, spot: &Spot) -> bool {
        self.sessions.get(&caller.session.id).is_some_and(|group| {
            group.session.lost.iter().any(|(parent, name)| *parent == spot.parent && *name == spot.name)
        })
    }

    /// Makes the caller's session the holder of an object whose own has ended.
    pub(super) fn take_over(&mut self, now: Now, caller: &Caller, ino: Ino) -> Result<(), Refusal> {
        self.ensure_session(now, caller)?;
        self.hand_to(now, ino, &caller.session.id);
        Ok(())
    }

    /// Hands an object to a session that exists, with a new token.
    pub(super) fn hand_to(&mut self, now: Now, ino: Ino, heir: &SessionId) {
        self.leave_session(ino);
        self.join_session(ino, heir);
        let token = self.next_token();
        let record = self.record_mut(ino);
        record.token = token;
        record.seen = now.boot;
        self.schedule(ino);
        let path = self.path_of(ino);
        self.tell(now, EventKind::Transfer, path, ino);
    }

    /// Enters an object among what a session holds.
    pub(super) fn join_session(&mut self, ino: Ino, id: &SessionId) {
        self.record_mut(ino).session = Some(id.clone());
        let group = self.sessions.get_mut(id).expect("the caller ensured the session in this step");
        group.holds.insert(ino);
    }

    /// Takes an object from what its session holds. An implicit session that holds nothing and whose job
    /// has ended goes with its last lock.
    pub(super) fn leave_session(&mut self, ino: Ino) {
        let Some(id) = self.object(ino).and_then(|object| object.record.session.clone()) else {
            return;
        };
        let Some(group) = self.sessions.get_mut(&id) else {
            return;
        };
        group.holds.remove(&ino);
        if group.holds.is_empty() && group.session.ended {
            let number = group.session.ino;
            self.sessions.remove(&id);
            self.session_numbers.remove(&number);
            self.changes.push(Change::Session(id));
        }
    }
}
