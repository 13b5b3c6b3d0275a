//! Names: acquire, release, link, rename, open.

use super::holder::Standing;
use super::{
    Caller, Directory, Existing, LockTable, New, Object, Opening, Outcome, Refusal, RenameMode, Reply, Spot,
};
use crate::clock::Now;
use crate::lock::{Body, EventKind, Ino, Kind, Record, SessionId, Ttl};

const SETGID: u16 = 0o2000;

impl LockTable {
    /// What stands at a spot, if it is alive. What is dead there is removed.
    pub(super) fn find(&mut self, now: Now, spot: &Spot) -> Result<Option<Ino>, Refusal> {
        let parent = self.live(spot.parent, now).ok_or(Refusal::NoEntry)?;
        // An unlinked file that is open is nowhere.
        if parent.record.places.is_empty() && spot.parent != Ino::ROOT {
            return Err(Refusal::NoEntry);
        }
        let directory = parent.directory.as_ref().ok_or(Refusal::NotDirectory)?;
        let entry = directory.by_name.get(&spot.name);
        let Some(&(_, ino)) = entry else {
            return Ok(None);
        };
        if self.live(ino, now).is_none() {
            self.reap(now, ino);
            return Ok(None);
        }
        Ok(Some(ino))
    }

    fn is_directory(&self, ino: Ino) -> bool {
        self.directory(ino).is_some()
    }

    /// Whether a directory has live entries; where it has none, what is dead in it is removed.
    fn has_entries(&mut self, now: Now, ino: Ino) -> bool {
        if self.object(ino).is_some_and(|object| self.has_live_entries(object, now)) {
            return true;
        }
        self.reap_entries(now, ino);
        false
    }

    pub(super) fn acquire(
        &mut self,
        now: Now,
        caller: &Caller,
        spot: &Spot,
        new: &New,
        mode: u16,
        existing: Existing,
    ) -> Outcome {
        if let Some(ino) = self.find(now, spot)? {
            return match existing {
                Existing::Refuse => Err(Refusal::Exists),
                _ if self.is_directory(ino) => Err(Refusal::IsDirectory),
                _ => self.open(now, caller, ino, existing == Existing::OpenEmptied),
            };
        }
        // What is reserved for those who wait is as good as held.
        if self.is_name_awaited(now, spot, None) {
            return Err(match existing {
                Existing::Refuse => Refusal::Exists,
                Existing::Open | Existing::OpenEmptied => Refusal::Busy(None),
            });
        }
        self.make(now, caller, spot, new, mode)
    }

    /// Makes an entry where nothing stands.
    pub(super) fn make(&mut self, now: Now, caller: &Caller, spot: &Spot, new: &New, mode: u16) -> Outcome {
        self.ensure_session(now, caller)?;
        let id = &caller.session.id;
        self.forget_loss(id, spot);
        let token = self.next_token();
        let ino = Ino::from(token);
        let parent = &self.object(spot.parent).expect("found above").record;
        // As on ext4: below a set-group-id directory entries get its group, and directories the bit as well.
        let (gid, inherited) = match parent.mode & SETGID {
            0 => (caller.gid, 0),
            _ if *new == New::Directory => (parent.gid, SETGID),
            _ => (parent.gid, 0),
        };
        let body = match new {
            New::File(_) => Body::File(Vec::new()),
            New::Directory => Body::Directory { default_ttl: None },
            New::Symlink(target) => Body::Symlink(target.clone()),
        };
        let kind = body.kind();
        let record = Record {
            ino,
            token,
            body,
            places: Vec::with_capacity(1),
            mode: (mode & 0o7777) | inherited,
            uid: caller.uid,
            gid,
            mtime: now.wall,
            ctime: now.wall,
            since: now.wall,
            session: None,
            ttl: self.ttl_of_new(spot, kind, self.sessions[id].session.ttl),
            seen: now.boot,
        };
        let directory = (kind == Kind::Directory).then(Directory::default);
        self.objects.insert(ino, Box::new(Object::new(record, directory)));
        self.tally.locks += 1;
        self.join_session(ino, id);
        self.place(now, ino, spot, token);
        self.schedule(ino);
        if *new == New::File(Opening::Opened) {
            self.open_on(caller.mount, ino);
        }
        let path = self.path_at(spot.parent, &spot.name);
        self.tell(now, EventKind::Acquire, path, ino);
        Ok(Reply::Entry(self.attributes_of(ino)))
    }

    /// The ttl of what is made at a spot: of the nearest directory above that sets one, else the session's.
    /// A directory expires only where it is a lock by its name, `*.lock`.
    fn ttl_of_new(&self, spot: &Spot, kind: Kind, otherwise: Ttl) -> Ttl {
        if kind == Kind::Directory && !spot.name.as_bytes().ends_with(b".lock") {
            return Ttl::Never;
        }
        let mut above = Some(spot.parent);
        while let Some(object) = above.and_then(|ino| self.object(ino)) {
            if let Body::Directory { default_ttl: Some(ttl) } = object.record.body {
                return ttl;
            }
            above = object.record.places.first().map(|place| place.parent);
        }
        otherwise
    }

    pub(super) fn unlink(&mut self, now: Now, caller: &Caller, spot: &Spot) -> Outcome {
        let ino = self.find(now, spot)?.ok_or(Refusal::NoEntry)?;
        if self.is_directory(ino) {
            return Err(Refusal::IsDirectory);
        }
        self.may_remove(now, caller, ino, spot)?;
        self.release(now, ino, spot);
        Ok(Reply::Done)
    }

    pub(super) fn rmdir(&mut self, now: Now, caller: &Caller, spot: &Spot) -> Outcome {
        let ino = self.find(now, spot)?.ok_or(Refusal::NoEntry)?;
        if !self.is_directory(ino) {
            return Err(Refusal::NotDirectory);
        }
        self.may_remove(now, caller, ino, spot)?;
        if self.has_entries(now, ino) {
            return Err(Refusal::NotEmpty);
        }
        self.release(now, ino, spot);
        Ok(Reply::Done)
    }

    pub(super) fn link(&mut self, now: Now, caller: &Caller, ino: Ino, spot: &Spot) -> Outcome {
        let object = self.live(ino, now).ok_or(Refusal::Gone)?;
        let names = object.record.places.len();
        if object.directory.is_some() {
            return Err(Refusal::NotPermitted);
        }
        // No name is left to link: the same answer as link(2) of an unlinked file through /proc/self/fd.
        if names == 0 {
            return Err(Refusal::NoEntry);
        }
        if names >= Self::LINK_MAX {
            return Err(Refusal::TooManyLinks);
        }
        if self.find(now, spot)?.is_some() || self.is_name_awaited(now, spot, None) {
            return Err(Refusal::Exists);
        }
        let standing = self.may_link(caller, ino)?;
        self.keep_or_take(now, caller, ino, standing)?;
        // Whoever gets a name gets a token above those of all who had the name before.
        self.add_name(now, ino, spot);
        Ok(Reply::Entry(self.attributes_of(ino)))
    }

    fn add_name(&mut self, now: Now, ino: Ino, spot: &Spot) {
        let token = self.next_token();
        self.place(now, ino, spot, token);
        let record = self.record_mut(ino);
        record.token = token;
        record.ctime = now.wall;
        if let Some(id) = record.session.clone() {
            self.forget_loss(&id, spot);
        }
        let path = self.path_at(spot.parent, &spot.name);
        self.tell(now, EventKind::Acquire, path, ino);
    }

    pub(super) fn rename(
        &mut self,
        now: Now,
        caller: &Caller,
        (from, to): (&Spot, &Spot),
        mode: RenameMode,
        heir: Option<&SessionId>,
    ) -> Outcome {
        let source = self.find(now, from)?.ok_or(Refusal::NoEntry)?;
        let goal = self.find(now, to)?;
        if let Some(heir) = heir {
            self.own_session(now, Some(caller), heir)?;
            // What is advisory is nobody's.
            if self.object(source).is_some_and(|object| object.record.is_advisory()) {
                return Err(Refusal::Invalid);
            }
        }
        if goal.is_some() && mode == RenameMode::NoReplace {
            return Err(Refusal::Exists);
        }
        // Two names of one object: rename(2) does nothing. From one session's view to another's it hands over.
        if goal == Some(source) {
            if let Some(heir) = heir {
                let standing = self.may_change(caller, source)?;
                self.hand_on(now, source, standing, heir);
            }
            return Ok(Reply::Entry(self.attributes_of(source)));
        }
        let standing = self.may_remove(now, caller, source, from)?;
        if to.parent == source || Some(from.parent) == goal {
            return Err(if mode == RenameMode::Replace && Some(from.parent) == goal {
                Refusal::NotEmpty
            } else {
                Refusal::Invalid
            });
        }
        if self.has_entries(now, source) {
            return Err(Refusal::Busy(None));
        }
        match (goal, mode) {
            (None, RenameMode::Exchange) => return Err(Refusal::NoEntry),
            (Some(goal), RenameMode::Exchange) => {
                let goal_standing = self.may_remove(now, caller, goal, to)?;
                if self.has_entries(now, goal) {
                    return Err(Refusal::Busy(None));
                }
                // Nothing is refused any more once something has changed.
                let takes_source = heir.is_none() && standing != Standing::Holder;
                if takes_source || goal_standing != Standing::Holder {
                    self.ensure_session(now, caller)?;
                }
                self.keep_or_take(now, caller, goal, goal_standing)?;
                self.keep_or_hand_on(now, caller, source, standing, heir)?;
                self.leave_name(now, goal, to);
                self.leave_name(now, source, from);
                self.add_name(now, goal, from);
            }
            (None, RenameMode::NoReplace) if self.is_name_awaited(now, to, None) => {
                return Err(Refusal::Exists);
            }
            (None, _) if self.is_name_awaited(now, to, None) => return Err(Refusal::Busy(None)),
            (goal, _) => {
                if let Some(goal) = goal {
                    self.may_remove(now, caller, goal, to)?;
                    match (self.is_directory(source), self.is_directory(goal)) {
                        (true, false) => return Err(Refusal::NotDirectory),
                        (false, true) => return Err(Refusal::IsDirectory),
                        (true, true) if self.has_entries(now, goal) => return Err(Refusal::NotEmpty),
                        _ => {}
                    }
                }
                self.keep_or_hand_on(now, caller, source, standing, heir)?;
                if let Some(goal) = goal {
                    self.release(now, goal, to);
                }
                self.leave_name(now, source, from);
            }
        }
        self.add_name(now, source, to);
        Ok(Reply::Entry(self.attributes_of(source)))
    }

    fn keep_or_hand_on(
        &mut self,
        now: Now,
        caller: &Caller,
        ino: Ino,
        standing: Standing,
        heir: Option<&SessionId>,
    ) -> Result<(), Refusal> {
        match heir {
            Some(heir) => {
                self.hand_on(now, ino, standing, heir);
                Ok(())
            }
            None => self.keep_or_take(now, caller, ino, standing),
        }
    }

    /// Takes a name from an object that gets another in the same step.
    fn leave_name(&mut self, now: Now, ino: Ino, spot: &Spot) {
        let path = self.path_at(spot.parent, &spot.name);
        self.tell(now, EventKind::Release, path, ino);
        self.displace(now, ino, spot);
    }

    pub(super) fn open(&mut self, now: Now, caller: &Caller, ino: Ino, emptied: bool) -> Outcome {
        self.live(ino, now).ok_or(Refusal::Gone)?;
        if emptied {
            self.truncate(now, caller, ino, 0)?;
        }
        // A directory that is removed is gone for those who have it open, too: nothing can be in it any more.
        if !self.is_directory(ino) {
            self.open_on(caller.mount, ino);
        }
        Ok(Reply::Opened(self.attributes_of(ino)))
    }
}
