//! The table of rights, read again: who may do what to a lock that exists. Written from the README's rows,
//! and not from the code that it judges.

use lockfs::lock::{Event, EventKind, Ino, Kind, Record, SessionId, SessionKind};
use lockfs::table::{Caller, Command, Refusal, Spot, Step};

use crate::search::Verdict;
use crate::shadow::{Shadow, ensure};
use crate::world::ROOT;

/// A row of the table: what the caller is to the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    Holder,
    SameLoginJobEnded,
    SameUidJobEnded,
    SameUidAlive,
    /// Root, on another user's lock, whose holder is alive.
    RootOnAnothers,
    OtherUid,
    /// A directory that outlived its session.
    HeldByNobody {
        own: bool,
    },
    /// What was locked by flock or fcntl: its modes decide, and the kernel has judged by them.
    Advisory,
}

impl Row {
    fn of(caller: &Caller, record: &Record, state: &Shadow) -> Self {
        let own = caller.uid == record.uid || caller.uid == ROOT;
        let Some(holder) = &record.session else {
            return match record.body.kind() {
                Kind::Directory => Self::HeldByNobody { own },
                Kind::File | Kind::Symlink => Self::Advisory,
            };
        };
        let session = &state.sessions[holder];
        let stolen_name =
            session.kind == SessionKind::Named && caller.uid != session.uid && caller.uid != ROOT;
        if caller.session.id == *holder && !stolen_name {
            return Self::Holder;
        }
        let is_job = matches!(session.kind, SessionKind::Job(_));
        let same_login = session.login.is_some() && session.login == caller.session.login;
        match (own, is_job && session.ended) {
            (false, _) => Self::OtherUid,
            (true, false) if caller.uid != record.uid => Self::RootOnAnothers,
            (true, false) => Self::SameUidAlive,
            (true, true) if same_login => Self::SameLoginJobEnded,
            (true, true) => Self::SameUidJobEnded,
        }
    }

    fn may_change(self) -> bool {
        matches!(self, Self::Holder | Self::SameLoginJobEnded | Self::HeldByNobody { .. } | Self::Advisory)
    }

    fn may_remove(self) -> bool {
        match self {
            Self::Holder
            | Self::SameLoginJobEnded
            | Self::SameUidJobEnded
            | Self::RootOnAnothers
            | Self::Advisory => true,
            Self::SameUidAlive | Self::OtherUid => false,
            Self::HeldByNobody { own } => own,
        }
    }
}

/// One step, and what was there before and after it.
#[derive(Debug)]
pub(crate) struct Deed<'a> {
    pub(crate) command: &'a Command,
    pub(crate) step: &'a Step,
    pub(crate) before: &'a Shadow,
    pub(crate) after: &'a Shadow,
    /// The sessions that were not over when the step began.
    pub(crate) living: &'a [SessionId],
}

impl Deed<'_> {
    /// Nothing was done to a lock that the caller had no right to, and nothing refused that it had.
    pub(crate) fn check(&self) -> Verdict {
        for event in &self.step.events {
            self.check_event(event).map_err(|wrong| format!("{wrong}: {event} by {:?}", self.command))?;
        }
        for (ino, before) in &self.before.records {
            if let Some(after) = self.after.records.get(ino)
                && contents(before) != contents(after)
            {
                ensure!(self.target() == Some(*ino), "inode {ino} was changed by {:?}", self.command);
                let row = self.row(*ino).ok_or("nobody changed it")?;
                ensure!(row.may_change(), "{row:?} changed {before:?} by {:?}", self.command);
            }
        }
        match &self.step.outcome {
            Ok(_) => Ok(()),
            Err(refusal) => self.check_refusal(refusal).map_err(|wrong| format!("{wrong}: {self:#?}")),
        }
    }

    /// What the caller was to an object before the step.
    fn row(&self, ino: Ino) -> Option<Row> {
        let record = self.before.records.get(&ino)?;
        Some(Row::of(self.command.caller()?, record, self.before))
    }

    /// The object whose contents the command is about.
    fn target(&self) -> Option<Ino> {
        match self.command {
            Command::Open { ino, .. }
            | Command::Write { ino, .. }
            | Command::Truncate { ino, .. }
            | Command::Change { ino, .. }
            | Command::SetTtl { ino, .. }
            | Command::SetDefaultTtl { ino, .. }
            | Command::Transfer { ino, .. } => Some(*ino),
            Command::Acquire { spot, .. } => Some(self.before.at(spot)?.ino),
            Command::Rename { from, .. } => Some(self.before.at(from)?.ino),
            _ => None,
        }
    }

    /// The names that the command is to take away.
    fn removed(&self) -> Vec<&Spot> {
        match self.command {
            Command::Unlink { spot, .. } | Command::Rmdir { spot, .. } => vec![spot],
            Command::Rename { from, to, .. } => vec![from, to],
            _ => Vec::new(),
        }
    }

    fn has_lost(&self, spot: &Spot) -> bool {
        let session = self.command.caller().map(|caller| &caller.session.id);
        let session =
            session.filter(|id| self.living.contains(id)).and_then(|id| self.after.sessions.get(id));
        session.is_some_and(|session| session.lost.contains(&(spot.parent, spot.name.clone())))
    }

    fn check_event(&self, event: &Event) -> Verdict {
        let caller = self.command.caller();
        match event.kind {
            // When a lock may expire is not a matter of rights.
            EventKind::Expire | EventKind::Begin | EventKind::End => Ok(()),
            EventKind::Acquire => {
                let caller = caller.ok_or("nobody acquired it")?;
                let record = &self.after.records[&self.after.paths()[&event.path]];
                let is_new = !self.before.records.contains_key(&record.ino);
                match self.command {
                    Command::Acquire { .. } | Command::Await { .. } => {
                        ensure!(is_new, "something old was acquired");
                    }
                    Command::Link { .. } | Command::Rename { .. } => {
                        ensure!(!is_new, "something new was named")
                    }
                    _ => return Err("no command to acquire".to_owned()),
                }
                let own = !is_new || event.session.as_ref() == Some(&caller.session.id);
                ensure!(own, "it was acquired for another session");
                Ok(())
            }
            EventKind::Release => {
                let ino = self.before.paths()[&event.path];
                let record = &self.before.records[&ino];
                if let Command::EndSession { caller, id } = self.command {
                    let owner = self.before.sessions[id].uid;
                    ensure!(record.session.as_ref() == Some(id), "it was of another session");
                    ensure!(
                        caller.as_ref().is_none_or(|who| [ROOT, owner].contains(&who.uid)),
                        "not its owner"
                    );
                    return Ok(());
                }
                let spots = self.removed();
                let spot =
                    spots.into_iter().find(|spot| self.before.at(spot).is_some_and(|at| at.ino == ino));
                let spot = spot.ok_or("it was not asked for")?;
                let row = self.row(ino).ok_or("nobody released it")?;
                ensure!(row.may_remove(), "{row:?} must not");
                ensure!(
                    matches!(row, Row::Holder | Row::Advisory) || !self.has_lost(spot),
                    "{row:?} means the lock it lost"
                );
                Ok(())
            }
            EventKind::Break => {
                let Command::Break { caller, ino, token } = self.command else {
                    return Err("it was not asked for".to_owned());
                };
                let record = &self.before.records[ino];
                ensure!(self.before.paths()[&event.path] == *ino, "another was meant");
                ensure!(record.token == *token, "the token was another");
                ensure!([ROOT, record.uid].contains(&caller.uid), "another user's");
                Ok(())
            }
            EventKind::Transfer => self.check_transfer(event),
            EventKind::Lost => Err("no step loses data".to_owned()),
        }
    }

    fn check_transfer(&self, event: &Event) -> Verdict {
        // Whoever takes over in order to move does so before it moves.
        let paths = [self.before.paths(), self.after.paths()];
        let ino =
            paths.iter().filter_map(|paths| paths.get(&event.path)).find(|ino| self.hands_over(**ino, event));
        let ino = *ino.ok_or("nothing there was handed over")?;
        let record = &self.before.records[&ino];
        let row = self.row(ino).ok_or("nobody handed it over")?;
        let caller = self.command.caller().ok_or("nobody handed it over")?;
        let to = event.session.as_ref().ok_or("to nobody")?;
        let takes = *to == caller.session.id;
        let gives = |heir: Option<&SessionId>| heir == Some(to) && self.owns(caller, to);
        let rightly = match self.command {
            Command::MergeSession { from, to: heir, .. } => {
                record.session.as_ref() == Some(from) && to == heir && self.owns(caller, from)
            }
            Command::Transfer { heir, .. } => row.may_change() && (takes || gives(Some(heir))),
            Command::Rename { from, to, heir, .. }
                if self.before.at(from).map(|at| at.ino) == self.before.at(to).map(|at| at.ino) =>
            {
                row.may_change() && (takes || gives(heir.as_ref()))
            }
            Command::Rename { heir, .. } => row.may_remove() && (takes || gives(heir.as_ref())),
            Command::Link { .. } => row.may_remove() && row != Row::Holder && takes,
            _ => self.target() == Some(ino) && row == Row::SameLoginJobEnded && takes,
        };
        ensure!(rightly, "{row:?} must not hand it over");
        Ok(())
    }

    /// Whether the object changed its holder in this step, by this event or a later one.
    fn hands_over(&self, ino: Ino, event: &Event) -> bool {
        let record = self.before.records.get(&ino).filter(|record| record.session != event.session);
        record.is_some_and(|record| event.token.is_some_and(|token| token > record.token))
    }

    fn owns(&self, caller: &Caller, id: &SessionId) -> bool {
        let session = self.before.sessions.get(id).or_else(|| self.after.sessions.get(id));
        session.is_some_and(|session| [ROOT, session.uid].contains(&caller.uid))
    }

    /// A refusal is justified, and has changed nothing.
    fn check_refusal(&self, refusal: &Refusal) -> Verdict {
        let forced = |event: &Event| matches!(event.kind, EventKind::Expire | EventKind::End);
        ensure!(self.step.events.iter().all(forced), "a refused step did something");
        for (ino, record) in &self.before.records {
            // A refused call waits no longer, and may have been the last that used the file.
            let seen = |after: &Record| if record.is_advisory() { after.seen } else { record.seen };
            let unused = |after: &Record| Record { seen: seen(after), ..record.clone() };
            let same = self.after.records.get(ino).is_none_or(|after| *after == unused(after));
            ensure!(same, "a refused step changed inode {ino}");
        }
        for (id, session) in &self.before.sessions {
            let Some(after) = self.after.sessions.get(id) else {
                continue;
            };
            let mut after = after.clone();
            after.lost.clone_from(&session.lost);
            ensure!(after == *session, "a refused step changed session {id}");
        }
        let rows = self.removed().into_iter().filter_map(|spot| self.row(self.before.at(spot)?.ino));
        let rows: Vec<Row> = rows.collect();
        let target = self.target().and_then(|ino| self.row(ino));
        match refusal {
            Refusal::Busy(Some(_)) => {
                // What is unlinked and open has no row: it is its last holder's, who may be of any.
                ensure!(target.is_none_or(|row| !row.may_change()), "{target:?} may change it");
            }
            Refusal::Held(_) => {
                let linked = match self.command {
                    Command::Link { ino, .. } => self.row(*ino),
                    _ => None,
                };
                let refused = rows.iter().chain(&linked).any(|row| !row.may_remove());
                ensure!(refused, "{rows:?} {linked:?} may remove it");
            }
            Refusal::Lost => {
                let mut spots = self.removed().into_iter();
                let lost = spots.any(|spot| {
                    let row = self.before.at(spot).and_then(|at| self.row(at.ino));
                    self.has_lost(spot) && row.is_some_and(|row| row != Row::Holder)
                });
                ensure!(lost, "it never lost it");
            }
            Refusal::NotPermitted => match self.command {
                Command::Break { caller, ino, .. } => {
                    let owner = self.before.records[ino].uid;
                    ensure!(![ROOT, owner].contains(&caller.uid), "its owner may break it");
                }
                Command::EndSession { caller: Some(caller), id }
                | Command::TouchSession { caller, id, .. }
                | Command::SetSessionTtl { caller, id, .. } => {
                    ensure!(!self.owns(caller, id), "its owner may decide about {id}");
                }
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }
}

/// What nobody but who has the right may change; not who holds it, which events tell.
fn contents(record: &Record) -> Record {
    let mut record = record.clone();
    record.session = None;
    record.token = lockfs::lock::Token::from_u64(0);
    record.places.clear();
    record.ctime = Default::default();
    record.seen = Default::default();
    record
}
