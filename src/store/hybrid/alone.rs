//! What this host decides by itself.
//!
//! What it granted alone is decided as in any store of one host. Of what Redis granted only so much can be done as
//! Redis can be told later without a doubt: it is read, opened, and let go of by whoever holds it here. All else
//! waits for Redis.

use std::sync::PoisonError;

use super::owed::Debt;
use super::state::Grants;
use super::{Pair, alias, refused};
use crate::lock::{Ino, RequestId, SessionId};
use crate::store::redis::Dropped;
use crate::store::{LockStore, StoreError};
use crate::table::{Command, Existing, Outcome, Reply, Spot, View};

impl Pair {
    /// Decides a command; `None` where somebody else decides by now.
    pub(super) fn alone(
        &self,
        request: Option<RequestId>,
        command: &Command,
        era: u64,
    ) -> Result<Option<Outcome>, StoreError> {
        let mut replay = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = self.turn();
        if turn.era != era || matches!(turn.grants, Grants::There | Grants::Soon) {
            return Ok(None);
        }
        if let Some(outcome) = self.redis.on_orphan(command) {
            return Ok(Some(outcome));
        }
        let may_grant = turn.grants == Grants::Here;
        let denied = || Err(refused(turn.grants));
        let theirs = Err(refused(Grants::Here));
        match command {
            Command::Acquire { caller, spot, existing, .. } => {
                match self.mirror.lookup(spot)? {
                    None if !may_grant => return denied(),
                    // A create of what is there is an open of it.
                    Some(found) if *existing != Existing::Refuse && !self.is_ours(found.ino)? => {
                        if *existing == Existing::OpenEmptied {
                            return theirs;
                        }
                        let (caller, ino) = (caller.clone(), found.ino);
                        replay.push(Command::Open { caller, ino, emptied: false });
                    }
                    _ => {}
                }
            }
            Command::Await { .. } | Command::BeginSession { .. } if !may_grant => return denied(),
            Command::Link { ino, .. } if !may_grant || !self.is_ours(*ino)? => {
                return if may_grant { theirs } else { denied() };
            }
            Command::Rename { from, to, .. } => {
                if !may_grant {
                    return denied();
                }
                for spot in [from, to] {
                    if let Some(found) = self.mirror.lookup(spot)?
                        && !self.is_ours(found.ino)?
                    {
                        return theirs;
                    }
                }
            }
            Command::Open { ino, emptied, .. } if !self.is_ours(*ino)? => {
                if *emptied {
                    return theirs;
                }
                replay.push(command.clone());
            }
            Command::Close { ino, .. } | Command::Unlock { ino, .. } if !ino.is_of_host() => {
                replay.push(command.clone());
            }
            Command::Lock { .. }
            | Command::Write { .. }
            | Command::Truncate { .. }
            | Command::Change { .. }
            | Command::SetTtl { .. }
            | Command::SetDefaultTtl { .. }
            | Command::Break { .. }
            | Command::Transfer { .. } => {
                let ([_, _], ino) = alias::subjects(command);
                if let Some(ino) = ino
                    && !self.is_ours(ino)?
                {
                    return theirs;
                }
                if matches!(command, Command::Lock { .. } | Command::Transfer { .. }) && !may_grant {
                    return denied();
                }
            }
            Command::Unlink { spot, .. } | Command::Rmdir { spot, .. } => {
                return self.let_go(request, command, spot, turn.grants).map(Some);
            }
            Command::EndSession { id, .. } => return self.end(request, command, id).map(Some),
            Command::MergeSession { from, to, .. } => {
                for id in [from, to] {
                    if self.mirror.session(id)?.is_some_and(|session| !session.ino.is_of_host()) {
                        return theirs;
                    }
                }
            }
            Command::SetSessionTtl { .. } | Command::MarkEnded { .. } => replay.push(command.clone()),
            Command::Attend { mount } => return self.attend(command, mount).map(Some),
            _ => {}
        }
        self.mirror.execute_for(request, command).map(Some)
    }

    /// Whether this host granted an object by itself; nobody else can be asked of what is not there.
    fn is_ours(&self, ino: Ino) -> Result<bool, StoreError> {
        Ok(match self.mirror.view(ino)? {
            Some(view) => view.record.token.is_of_host(),
            None => ino.is_of_host(),
        })
    }

    /// Whether a session of this host has it by the grace of Redis.
    fn is_held_here(&self, view: &View) -> bool {
        view.session.as_ref().is_some_and(|session| session.origin.host == self.host)
    }

    fn let_go(
        &self,
        request: Option<RequestId>,
        command: &Command,
        spot: &Spot,
        grants: Grants,
    ) -> Result<Outcome, StoreError> {
        let Some(found) = self.mirror.lookup(spot)? else {
            return match grants {
                Grants::Here => self.mirror.execute_for(request, command),
                _ => Err(refused(grants)),
            };
        };
        let view = self.mirror.view(found.ino)?;
        let Some(view) = view.filter(|view| !view.record.token.is_of_host()) else {
            return self.mirror.execute_for(request, command);
        };
        if !self.is_held_here(&view) {
            return Err(refused(Grants::Here));
        }
        let outcome = self.mirror.execute_for(request, command)?;
        if outcome.is_ok() {
            self.owed.add(&Debt::Name(Dropped {
                ino: view.record.ino,
                token: view.record.token,
                parent: spot.parent,
                name: spot.name.clone(),
            }));
        }
        Ok(outcome)
    }

    fn end(
        &self,
        request: Option<RequestId>,
        command: &Command,
        id: &SessionId,
    ) -> Result<Outcome, StoreError> {
        let Some(session) = self.mirror.session(id)? else {
            return self.mirror.execute_for(request, command);
        };
        if session.origin.host != self.host {
            return Err(refused(Grants::Here));
        }
        let held = self.mirror.read(|table, now| table.held_there(now, &self.host))?;
        let outcome = self.mirror.execute_for(request, command)?;
        if outcome.is_ok() {
            for record in held.iter().filter(|record| record.session.as_ref() == Some(id)) {
                // Directories in which others' locks stand stay there as they stay here.
                for place in &record.places {
                    self.owed.add(&Debt::Name(Dropped {
                        ino: record.ino,
                        token: record.token,
                        parent: place.parent,
                        name: place.name.clone(),
                    }));
                }
            }
            self.owed.add(&Debt::End(id.clone()));
        }
        Ok(outcome)
    }

    /// A mount's lease goes on here, if it has not run out since Redis was last told of it.
    fn attend(&self, command: &Command, mount: &crate::lock::Mount) -> Result<Outcome, StoreError> {
        let outcome = self.mirror.execute(command)?;
        let now = self.system.now().boot;
        let mut attended = self.attended.lock().unwrap_or_else(PoisonError::into_inner);
        let before = attended.last.replace((mount.clone(), now));
        let goes_on = before.is_some_and(|(known, then)| {
            known.id == mount.id && mount.ttl.span().is_none_or(|span| now.since(then) < span)
        });
        match outcome {
            Ok(Reply::Count(0)) if goes_on => Ok(Ok(Reply::Count(1))),
            outcome => Ok(outcome),
        }
    }
}
