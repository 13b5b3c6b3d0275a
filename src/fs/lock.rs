//! flock(2) and fcntl(2) on open files.
//!
//! The store decides. What is remembered here is only which owner has locked through which handle, for that is what
//! the kernel tells of a close: FLUSH names the process whose fcntl locks go, RELEASE the handle with all the rest. It
//! stands in the [ledger](super::ledger) too, from before the store is asked: what is locked is let go of, whoever serves
//! the mount by then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::ledger::{Entry, Ledger, State};
use super::{Error, LockFs};
use crate::lock::{Claim, Grant, Ino, LockOwner, Range, Style};
use crate::locks::{Denial, Requester};
use crate::table::{Command, Refusal, Reply, Waiting};

/// Who locked what through which handle.
#[derive(Debug, Default)]
pub(super) struct Uses {
    uses: Mutex<HashMap<Ino, Vec<Use>>>,
    ledger: Arc<Ledger>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) style: Style,
    pub(super) key: u64,
    pub(super) handle: u64,
    /// In which lease of the mount.
    pub(super) lease: u64,
}

impl Use {
    /// Whether it is of the same owner, through the same handle.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.style, self.key, self.handle) == (other.style, other.key, other.handle)
    }
}

impl Uses {
    /// Those that `state` has, and all that come, in `ledger`. The lease that a mount was taken over with is the first
    /// again: what was locked in an earlier one is of none.
    pub(super) fn new(state: &mut State, ledger: Arc<Ledger>) -> Self {
        let mut uses = std::mem::take(&mut state.uses);
        for (ino, one) in uses.iter_mut().flat_map(|(ino, uses)| uses.iter_mut().map(move |one| (*ino, one)))
        {
            let lease = (one.lease == state.lease).into();
            if one.lease != lease {
                one.lease = lease;
                ledger.note(&Entry::Used(ino, *one));
            }
        }
        Self { uses: Mutex::new(uses), ledger }
    }

    fn uses(&self) -> MutexGuard<'_, HashMap<Ino, Vec<Use>>> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that there may be one from now on.
    fn intend(&self, ino: Ino, new: Use) {
        self.ledger.note(&Entry::Used(ino, new));
    }

    /// Notes that what was intended did not come to be.
    fn give_up(&self, ino: Ino, new: Use) {
        let uses = self.uses();
        if !uses.get(&ino).into_iter().flatten().any(|old| old.is_same(&new)) {
            self.ledger.note(&Entry::Unused(ino, new));
        }
    }

    fn note(&self, ino: Ino, new: Use) {
        let mut uses = self.uses();
        let of_object = uses.entry(ino).or_default();
        if !of_object.iter().any(|old| old.is_same(&new)) {
            of_object.push(new);
        }
        // Once more: another thread of the same owner may have given it up.
        self.ledger.note(&Entry::Used(ino, new));
    }

    /// Takes out the uses that `is_meant` says; they stay in the ledger until they are [forgotten](Self::forget). Returns
    /// them, and those among them of which no other of the same owner is left.
    fn take(&self, ino: Ino, is_meant: impl Fn(&Use) -> bool) -> (Vec<Use>, Vec<Use>) {
        let mut uses = self.uses();
        let Some(of_object) = uses.get_mut(&ino) else {
            return (Vec::new(), Vec::new());
        };
        let (taken, left): (Vec<Use>, Vec<Use>) = of_object.iter().partition(|one| is_meant(one));
        let mut last = taken.clone();
        last.retain(|one| !left.iter().any(|other| (other.style, other.key) == (one.style, one.key)));
        last.dedup_by_key(|one| (one.style, one.key));
        match left.is_empty() {
            true => drop(uses.remove(&ino)),
            false => *of_object = left,
        }
        (taken, last)
    }

    /// Notes that all is done that follows from the end of uses.
    fn forget(&self, ino: Ino, taken: &[Use]) {
        let uses = self.uses();
        let is_there = |one: &Use| uses.get(&ino).into_iter().flatten().any(|other| other.is_same(one));
        let gone = taken.iter().filter(|one| !is_there(one));
        gone.for_each(|one| self.ledger.note(&Entry::Unused(ino, *one)));
    }

    /// Whether something was locked through a handle in an earlier lease of the mount than `lease`.
    fn is_lost(&self, ino: Ino, handle: u64, lease: u64) -> bool {
        let uses = self.uses();
        uses.get(&ino).into_iter().flatten().any(|one| one.handle == handle && one.lease != lease)
    }
}

impl LockFs {
    /// What an open handle is of.
    fn locked_object(&self, number: u64, handle: u64) -> Result<Ino, Error> {
        self.node(number)?;
        let ino = self.handles.ino(handle).ok_or(Error::Synthetic)?;
        self.check_lease(ino, handle)?;
        Ok(ino)
    }

    /// Whoever had locks when the lease of the mount ran out has lost them, and is told so at the next use.
    pub(super) fn check_lease(&self, ino: Ino, handle: u64) -> Result<(), Error> {
        match self.uses.is_lost(ino, handle, self.service.lease()) {
            true => Err(Refusal::Gone.into()),
            false => Ok(()),
        }
    }

    /// `F_GETLK`: what would be in the way of a claim; `None` where nothing is.
    ///
    /// # Errors
    /// [`Refusal::Gone`] where the file is not there any more.
    pub fn getlk(&self, number: u64, handle: u64, claim: &Claim) -> Result<Option<Grant>, Error> {
        let ino = self.locked_object(number, handle)?;
        let owner = LockOwner { mount: self.service.mount(), key: claim.key };
        let grants = self.service.store().view(ino)?.ok_or(Refusal::Gone)?.grants;
        let blocker = grants.into_iter().filter(|grant| grant.conflicts(owner, claim));
        Ok(blocker.min_by_key(|grant| grant.range.first()))
    }

    /// Whether a grant's process is one of this host's that the kernel knows by its number.
    pub fn is_of_this_mount(&self, grant: &Grant) -> bool {
        grant.owner.mount == self.service.mount()
    }

    /// flock(2), `F_SETLK`, `F_SETLKW`. The outcome is handed to `answer`: at once, or where `request` names a call
    /// that waits, when it is granted or interrupted.
    pub fn setlk(
        self: &Arc<Self>,
        who: Requester,
        (number, handle): (u64, u64),
        claim: Claim,
        request: Option<u64>,
        answer: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) {
        let caller = self.locked_object(number, handle).map(|ino| (ino, self.service.onlooker(who)));
        let (ino, caller) = match caller {
            Ok(found) => found,
            Err(error) => return answer(Err(error)),
        };
        let lease = self.service.lease();
        // From when it is granted: a close that comes before takes away what there is.
        let fs = Arc::clone(self);
        let one = Use { style: claim.style, key: claim.key, handle, lease };
        self.uses.intend(ino, one);
        let note = move |outcome: Result<Reply, Denial>| {
            match &outcome {
                Ok(_) => fs.uses.note(ino, one),
                // Whoever serves the mount next may find it granted: it stays noted until a close lets go of it.
                Err(Denial::Store(_)) => {}
                Err(_) => fs.uses.give_up(ino, one),
            }
            answer(outcome.map(|_: Reply| ()).map_err(Error::from));
        };
        let command = |waiting| Command::Lock { caller: caller.clone(), ino, claim, waiting };
        // Asked again it may have its place in the queue, and must not be granted beside that.
        if let Some(request) = request.filter(|_| who.resent) {
            let waiting = Waiting { request, alone: self.service.is_alone(who, &caller) };
            return self.service.wait(who, request, command(Some(waiting)), Box::new(note));
        }
        // Who does not have to wait need not be looked at. What nobody knows the outcome of the store undoes.
        match (self.service.step(who, command(None)), request) {
            (Err(Denial::Refused(Refusal::Taken)), Some(request)) => {
                let waiting = Waiting { request, alone: self.service.is_alone(who, &caller) };
                self.service.wait(who, request, command(Some(waiting)), Box::new(note));
            }
            (outcome, _) => note(outcome),
        }
    }

    /// `LOCK_UN`, `F_UNLCK`.
    ///
    /// # Errors
    /// The store can't say; the lock is let go of when it can.
    pub fn unlock(
        &self,
        who: Requester,
        (number, handle): (u64, u64),
        style: Style,
        key: u64,
        range: Range,
    ) -> Result<(), Error> {
        let ino = self.locked_object(number, handle)?;
        // It has none left, through whichever handle.
        let is_meant = |one: &Use| range == Range::WHOLE && one.style == style && one.key == key;
        let (taken, _) = self.uses.take(ino, is_meant);
        let mount = self.service.mount();
        self.service.settle_of(who, Command::Unlock { mount, ino, style, key, range });
        self.uses.forget(ino, &taken);
        Ok(())
    }

    /// A process closes a descriptor: what it has locked with fcntl goes, through whichever it was (fcntl(2)).
    pub fn flush(&self, handle: u64, key: u64) {
        if let Some(ino) = self.handles.ino(handle) {
            self.let_go(ino, |one| one.style == Style::Fcntl && one.key == key);
        }
    }

    /// A handle is closed for good: what was locked through it goes.
    pub(super) fn let_go_of_handle(&self, ino: Ino, handle: u64) {
        self.let_go(ino, |one| one.handle == handle);
    }

    fn let_go(&self, ino: Ino, is_meant: impl Fn(&Use) -> bool) {
        let (mount, range) = (self.service.mount(), Range::WHOLE);
        let (taken, last) = self.uses.take(ino, is_meant);
        for Use { style, key, lease, .. } in last {
            if lease == self.service.lease() {
                self.service.settle(Command::Unlock { mount, ino, style, key, range });
            }
        }
        self.uses.forget(ino, &taken);
    }

    /// Whether the caller of a request that was carried out, in that time, was killed meanwhile.
    pub fn was_killed(&self, who: Requester, request: u64, lasted: Duration) -> bool {
        self.service.was_killed(who, request, lasted)
    }

    /// The kernel says that a request's caller was interrupted.
    pub fn interrupt(&self, request: u64) {
        self.service.interrupt(request);
    }
}
