//! Who may do what to a lock that exists: the table of rights, as a function.

use super::{Caller, Change, LockTable, Object, Refusal, Spot};
use crate::clock::Now;
use crate::lock::{EventKind, Ino, Session, SessionId, SessionKind};

/// How a caller stands to a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It speaks for the session that holds it, or nobody holds it.
    Holder,
    /// It is of the same login as the job that held it, which has ended: it may take over.
    Successor,
    /// It is of the same user, or root, and not of the session.
    Peer {
        /// Whether it may take the lock away: the holder's job has ended, as far as is known, or root means
        /// another user's lock.
        may_remove: bool,
    },
    /// It is another user.
    Stranger,
}

impl LockTable {
    /// A job's processes may run as several users; a named session is its owner's, whoever knows the name.
    pub(super) fn may_speak_for(caller: &Caller, session: &Session) -> bool {
        session.kind != SessionKind::Named || caller.uid == session.uid || caller.uid == 0
    }

    pub(super) fn standing(&self, caller: &Caller, object: &Object) -> Standing {
        let record = &object.record;
        // The kernel has judged by the modes, and there is nothing to add.
        if record.is_advisory() {
            return Standing::Holder;
        }
        let same_user = caller.uid == record.uid || caller.uid == 0;
        let Some(group) = record.session.as_ref().and_then(|id| self.sessions.get(id)) else {
            return if same_user { Standing::Holder } else { Standing::Stranger };
        };
        let session = &group.session;
        let is_own = session.id == caller.session.id && Self::may_speak_for(caller, session);
        if is_own || caller.also.contains(&session.id) {
            return Standing::Holder;
        }
        if !same_user {
            return Standing::Stranger;
        }
        let of_a_job = matches!(session.kind, SessionKind::Job(_));
        if session.ended && of_a_job && session.login.is_some() && session.login == caller.session.login {
            return Standing::Successor;
        }
        Standing::Peer { may_remove: session.ended || caller.uid != record.uid }
    }

    /// Lets the caller change the object, or says why not. A successor takes it over.
    pub(super) fn claim_to_change(&mut self, now: Now, caller: &Caller, ino: Ino) -> Result<(), Refusal> {
        let standing = self.may_change(caller, ino)?;
        self.keep_or_take(now, caller, ino, standing)
    }

    /// What the caller is to an object that it may change, or why it may not.
    pub(super) fn may_change(&self, caller: &Caller, ino: Ino) -> Result<Standing, Refusal> {
        let object = self.object(ino).expect("the caller looked the object up in this step");
        let Some(id) = &object.record.session else {
            return match &object.left_by {
                // It has released it since the caller opened it: a touch must not take that for an acquire.
                Some(last) if *last != caller.session.id && !caller.also.contains(last) => {
                    Err(Refusal::Busy(Some(last.clone())))
                }
                // Nobody holds the root, or a directory that outlived its session; and what is unlinked and
                // open is its last holder's: the kernel has judged by the modes, and there is nothing to add.
                _ => Ok(Standing::Holder),
            };
        };
        match self.standing(caller, object) {
            standing @ (Standing::Holder | Standing::Successor) => Ok(standing),
            Standing::Peer { .. } | Standing::Stranger => Err(Refusal::Busy(Some(id.clone()))),
        }
    }

    /// Lets the caller take the name away from the object, or says why not.
    pub(super) fn may_remove(
        &self,
        now: Now,
        caller: &Caller,
        ino: Ino,
        spot: &Spot,
    ) -> Result<Standing, Refusal> {
        let object = self.object(ino).expect("the caller looked the object up in this step");
        match self.standing(caller, object) {
            // Whatever its rights are: what it means to remove is a lock that it has not got any more.
            standing if standing != Standing::Holder && self.has_lost(now, caller, spot) => {
                Err(Refusal::Lost)
            }
            Standing::Peer { may_remove: false } | Standing::Stranger => {
                Err(Refusal::Held(object.record.session.clone()))
            }
            standing => Ok(standing),
        }
    }

    /// Lets the caller give the object one more name, or says why not: who may remove a lock may move it.
    pub(super) fn may_link(&self, caller: &Caller, ino: Ino) -> Result<Standing, Refusal> {
        let object = self.object(ino).expect("the caller looked the object up in this step");
        match self.standing(caller, object) {
            Standing::Peer { may_remove: false } | Standing::Stranger => {
                Err(Refusal::Held(object.record.session.clone()))
            }
            standing => Ok(standing),
        }
    }

    fn has_lost(&self, now: Now, caller: &Caller, spot: &Spot) -> bool {
        self.live_session(&caller.session.id, now).is_some_and(|group| {
            group.session.lost.iter().any(|(parent, name)| *parent == spot.parent && *name == spot.name)
        })
    }

    /// Leaves a lock with its holder, who was seen alive; one whose holder has ended goes to the caller.
    pub(super) fn keep_or_take(
        &mut self,
        now: Now,
        caller: &Caller,
        ino: Ino,
        standing: Standing,
    ) -> Result<(), Refusal> {
        match self.object(ino).and_then(|object| object.record.session.clone()) {
            Some(id) if standing == Standing::Holder => self.see(now, &id),
            Some(_) => {
                self.ensure_session(now, caller)?;
                self.hand_to(now, ino, &caller.session.id);
            }
            None => {}
        }
        Ok(())
    }

    /// Hands a lock from whoever may to a session that exists; both were seen alive.
    pub(super) fn hand_on(&mut self, now: Now, ino: Ino, standing: Standing, heir: &SessionId) {
        let holder = self.object(ino).and_then(|object| object.record.session.clone());
        if let Some(id) = holder.filter(|_| standing == Standing::Holder) {
            self.see(now, &id);
        }
        self.hand_to(now, ino, heir);
        self.see(now, heir);
    }

    /// Hands an object to a session that exists, with a new token. What it holds already is left alone.
    pub(super) fn hand_to(&mut self, now: Now, ino: Ino, heir: &SessionId) {
        if self.object(ino).is_some_and(|object| object.record.session.as_ref() == Some(heir)) {
            return;
        }
        self.leave_session(ino);
        self.join_session(ino, heir);
        let token = self.next_token();
        let record = self.record_mut(ino);
        record.token = token;
        record.seen = now.boot;
        self.schedule(ino);
        let spots: Vec<Spot> = self.spots(ino).collect();
        for spot in &spots {
            self.forget_loss(heir, spot);
        }
        let path = self.path_of(ino);
        self.tell(now, EventKind::Transfer, path, ino);
    }

    /// Enters an object among what a session holds.
    pub(super) fn join_session(&mut self, ino: Ino, id: &SessionId) {
        let record = self.record_mut(ino);
        record.session = Some(id.clone());
        let ttl = record.ttl;
        let group = self.sessions.get_mut(id).expect("the caller ensured the session in this step");
        group.enter(ino, ttl);
    }

    /// Takes an object from what its session holds: nobody does then, until the caller says who.
    pub(super) fn leave_session(&mut self, ino: Ino) {
        let Some(object) = self.objects.get_mut(&ino) else {
            return;
        };
        let Some(id) = object.record.session.take() else {
            return;
        };
        let ttl = object.record.ttl;
        self.changes.push(Change::Object(ino));
        let group = self.sessions.get_mut(&id).expect("the session of a lock is in the table");
        group.leave(ino, ttl);
        if group.holds.is_empty() {
            self.emptied.push(id);
        }
    }
}
