//! Names: lookup, mknod, mkdir, symlink, link, unlink, rmdir, rename; and what changes an inode's attributes.

use super::node::Node;
use super::{Error, Found, Keep, LockFs, keep};
use crate::lock::{Attributes, Ino, Kind, Name, SessionId};
use crate::locks::{Denial, Requester};
use crate::table::{
    AttributeChange, Begin, Caller, Claimant, Command, Existing, New, Opening, Refusal, RenameMode, Reply,
    Spot,
};

const SESSIONS: &[u8] = b".sessions";
const WAIT: &[u8] = b".wait";
const CONTROL: &[u8] = b".lockfs";
const RESERVED: [&[u8]; 3] = [SESSIONS, WAIT, CONTROL];

/// Where an entry is made or removed, and on whose behalf.
pub(super) struct Site {
    pub(super) caller: Caller,
    pub(super) spot: Spot,
    /// The session whose view it is.
    pub(super) view: Option<SessionId>,
}

impl LockFs {
    /// What stands at a name.
    ///
    /// # Errors
    /// [`Refusal::NoEntry`] where nothing does.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Found, Error> {
        let name = Name::parse(name)?;
        let node = match self.node(parent)? {
            Node::Object(Ino::ROOT) if name.as_bytes() == SESSIONS => Node::Sessions,
            Node::Object(Ino::ROOT) if name.as_bytes() == CONTROL => Node::Control,
            Node::Object(Ino::ROOT) if name.as_bytes() == WAIT => Node::WaitDirectory(Ino::ROOT),
            Node::Object(parent) => {
                let attributes = self.at(parent, &name)?;
                return Ok(Found { attributes, keep: keep(&attributes) });
            }
            Node::Sessions => {
                let id = SessionId::parse(name.as_bytes()).map_err(|_| Refusal::NoEntry)?;
                let session = self.service.store().session(&id)?.ok_or(Refusal::NoEntry)?;
                Node::View { session: session.ino, object: Ino::ROOT }
            }
            Node::View { session, object } => {
                let attributes = self.at(object, &name)?;
                if attributes.kind != Kind::Directory {
                    let view = self.service.store().view(attributes.ino)?.ok_or(Refusal::NoEntry)?;
                    view.session.filter(|holder| holder.ino == session).ok_or(Refusal::NoEntry)?;
                }
                Node::View { session, object: attributes.ino }
            }
            Node::Control => match name.as_bytes() {
                b"status" => Node::Status,
                b"metrics" => Node::Metrics,
                b"events" => Node::Events(self.events.newest(self.service.store())),
                b"info" => Node::InfoDirectory(Ino::ROOT),
                _ => return Err(Refusal::NoEntry.into()),
            },
            Node::InfoDirectory(parent) => {
                let attributes = self.at(parent, &name)?;
                match attributes.kind {
                    Kind::Directory => Node::InfoDirectory(attributes.ino),
                    Kind::File | Kind::Symlink => Node::Info(attributes.ino),
                }
            }
            // What can't be held can't be waited for.
            Node::WaitDirectory(Ino::ROOT) if RESERVED.contains(&name.as_bytes()) => {
                return Err(Refusal::NoEntry.into());
            }
            Node::WaitDirectory(parent) => self.wait_node(Spot { parent, name })?,
            Node::Status | Node::Metrics | Node::Events(_) | Node::Info(_) | Node::Door(_) => {
                return Err(Refusal::NotDirectory.into());
            }
        };
        let found = self.found(node)?;
        self.nodes.remember(node);
        Ok(found)
    }

    fn at(&self, parent: Ino, name: &Name) -> Result<Attributes, Error> {
        let spot = Spot { parent, name: name.clone() };
        Ok(self.service.store().lookup(&spot)?.ok_or(Refusal::NoEntry)?)
    }

    /// Where the entry `name` of `parent` is to change, and on whose behalf.
    pub(super) fn site(&self, who: Requester, parent: u64, name: &[u8]) -> Result<Site, Error> {
        let name = Name::parse(name)?;
        let node = self.node(parent)?;
        let (directory, caller) = self.actor(who, node)?;
        let view = matches!(node, Node::View { .. }).then(|| caller.session.id.clone());
        if directory == Ino::ROOT && RESERVED.contains(&name.as_bytes()) {
            return Err(Error::Synthetic);
        }
        Ok(Site { caller, spot: Spot { parent: directory, name }, view })
    }

    fn make(
        &self,
        who: Requester,
        (parent, name): (u64, &[u8]),
        new: New,
        mode: u16,
    ) -> Result<Found, Error> {
        let Site { caller, spot, .. } = self.site(who, parent, name)?;
        let command = Command::Acquire { caller, spot, new, mode, existing: Existing::Refuse };
        let attributes = entry(self.service.step(who, command)?)?;
        self.made(parent, attributes)
    }

    /// What the kernel is told of an entry that was made in `parent`: in a session's view, a view.
    pub(super) fn made(&self, parent: u64, attributes: Attributes) -> Result<Found, Error> {
        let Node::View { session, .. } = self.node(parent)? else {
            return Ok(Found { attributes, keep: keep(&attributes) });
        };
        let node = Node::View { session, object: attributes.ino };
        self.nodes.remember(node);
        let ino = Ino::from_u64(node.number());
        Ok(Found { attributes: Attributes { ino, ..attributes }, keep: keep(&attributes) })
    }

    /// mknod(2) of a regular file.
    ///
    /// # Errors
    /// The law's refusals.
    pub fn mknod(&self, who: Requester, parent: u64, name: &[u8], mode: u16) -> Result<Found, Error> {
        self.make(who, (parent, name), New::File(Opening::Closed), mode)
    }

    /// mkdir(2); in `.sessions` it begins a session.
    ///
    /// # Errors
    /// The law's refusals; [`Error::BadValue`] for what is no session name.
    pub fn mkdir(&self, who: Requester, parent: u64, name: &[u8], mode: u16) -> Result<Found, Error> {
        if self.node(parent)? == Node::Sessions {
            let id = SessionId::parse(name).map_err(|_| Error::BadValue)?;
            let caller = self.caller_to_be(who, &id);
            let Reply::Session(session) = self.service.step(who, Command::BeginSession { caller })? else {
                return Err(Refusal::NoSession.into());
            };
            let node = Node::View { session: session.ino, object: Ino::ROOT };
            let found = self.found(node)?;
            self.nodes.remember(node);
            return Ok(found);
        }
        self.make(who, (parent, name), New::Directory, mode)
    }

    /// A caller for a session that need not exist.
    fn caller_to_be(&self, who: Requester, id: &SessionId) -> Caller {
        let caller = self.service.caller_in(who, id);
        let session = Claimant { begin: Begin::WhereMissing, ..Claimant::clone(&caller.session) };
        Caller { session: session.into(), ..caller }
    }

    /// symlink(2).
    ///
    /// # Errors
    /// The law's refusals.
    pub fn symlink(&self, who: Requester, parent: u64, name: &[u8], target: &[u8]) -> Result<Found, Error> {
        self.make(who, (parent, name), New::Symlink(target.into()), 0o777)
    }

    /// link(2).
    ///
    /// # Errors
    /// The law's refusals.
    pub fn link(&self, who: Requester, number: u64, parent: u64, name: &[u8]) -> Result<Found, Error> {
        let (ino, _) = self.actor(who, self.node(number)?)?;
        let Site { caller, spot, .. } = self.site(who, parent, name)?;
        let attributes = entry(self.service.step(who, Command::Link { caller, ino, spot })?)?;
        self.nodes.remember(self.node(number)?);
        Ok(Found { attributes: Attributes { ino: Ino::from_u64(number), ..attributes }, keep: Keep::No })
    }

    /// readlink(2).
    ///
    /// # Errors
    /// [`Refusal::Gone`] where it is not there any more.
    pub fn readlink(&self, number: u64) -> Result<Vec<u8>, Error> {
        let (Node::Object(ino) | Node::View { object: ino, .. }) = self.node(number)? else {
            return Err(Error::WrongKind);
        };
        match self.service.store().view(ino)?.ok_or(Refusal::Gone)?.record.body {
            crate::lock::Body::Symlink(target) => Ok(target.into()),
            _ => Err(Error::WrongKind),
        }
    }

    /// unlink(2): releases.
    ///
    /// # Errors
    /// The law's refusals.
    pub fn unlink(&self, who: Requester, parent: u64, name: &[u8]) -> Result<(), Error> {
        let Site { caller, spot, .. } = self.site(who, parent, name)?;
        self.service.step(who, Command::Unlink { caller, spot })?;
        Ok(())
    }

    /// rmdir(2); in `.sessions` it releases all that the session holds.
    ///
    /// # Errors
    /// The law's refusals.
    pub fn rmdir(&self, who: Requester, parent: u64, name: &[u8]) -> Result<(), Error> {
        if self.node(parent)? == Node::Sessions {
            let id = SessionId::parse(name).map_err(|_| Refusal::NoEntry)?;
            let caller = Some(self.service.caller_in(who, &id));
            self.service.step(who, Command::EndSession { caller, id })?;
            return Ok(());
        }
        let Site { caller, spot, view } = self.site(who, parent, name)?;
        let command = Command::Rmdir { caller, spot: spot.clone() };
        let outcome = self.service.step(who, command);
        // In a session's view a directory is empty when the session holds nothing in it. Where others' locks
        // stand in it, or it is another's, it stays; the view has nothing left to show of it.
        if let (Some(id), Err(Denial::Refused(Refusal::NotEmpty | Refusal::Held(_)))) = (view, &outcome) {
            let directory = self.at(spot.parent, &spot.name)?.ino;
            if self.service.store().list_held(&id, directory, None, 1)?.is_empty() {
                return Ok(());
            }
            return Err(Refusal::NotEmpty.into());
        }
        outcome?;
        Ok(())
    }

    /// renameat2(2); in `.sessions` it hands all locks of one session to another, and between the views of
    /// two sessions one lock.
    ///
    /// # Errors
    /// The law's refusals.
    pub fn rename(
        &self,
        who: Requester,
        (parent, name): (u64, &[u8]),
        (new_parent, new_name): (u64, &[u8]),
        mode: RenameMode,
    ) -> Result<(), Error> {
        match (self.node(parent)?, self.node(new_parent)?) {
            (Node::Sessions, Node::Sessions) => {
                return self.rename_session(who, name, new_name, mode);
            }
            (Node::Sessions, _) | (_, Node::Sessions) => return Err(Error::Synthetic),
            _ => {}
        }
        let from = self.site(who, parent, name)?;
        let to = self.site(who, new_parent, new_name)?;
        let heir = to.view.filter(|heir| from.view.as_ref() != Some(heir));
        // A lock that stands at the goal's name because it is the one to be handed over is in nobody's way:
        // the heir's view does not show it. mv(1) asks with RENAME_NOREPLACE first.
        let mode = match mode {
            RenameMode::NoReplace if heir.is_some() && from.spot == to.spot => RenameMode::Replace,
            mode => mode,
        };
        let command = Command::Rename { caller: from.caller, from: from.spot, to: to.spot, mode, heir };
        self.service.step(who, command)?;
        Ok(())
    }

    fn rename_session(&self, who: Requester, from: &[u8], to: &[u8], mode: RenameMode) -> Result<(), Error> {
        let from = SessionId::parse(from).map_err(|_| Refusal::NoEntry)?;
        let to = SessionId::parse(to).map_err(|_| Error::BadValue)?;
        match mode {
            RenameMode::Exchange => return Err(Refusal::Invalid.into()),
            // It may be there because the daemon before this one has handed over to it.
            RenameMode::NoReplace
                if self.service.store().session(&to)?.is_some() && !self.service.was_carried_out(who)? =>
            {
                return Err(Refusal::Exists.into());
            }
            RenameMode::NoReplace | RenameMode::Replace => {}
        }
        let caller = self.caller_to_be(who, &to);
        let giver = self.service.store().session(&from)?;
        let reply = self.service.step(who, Command::MergeSession { caller, from, to })?;
        if let (Some(giver), Reply::Session(heir)) = (giver, reply) {
            self.nodes.redirect(giver.ino, heir.ino);
        }
        Ok(())
    }

    /// chmod, chown, utimes, truncate.
    ///
    /// # Errors
    /// The law's refusals.
    pub fn setattr(
        &self,
        who: Requester,
        number: u64,
        change: AttributeChange,
        size: Option<u64>,
    ) -> Result<Found, Error> {
        let node = self.node(number)?;
        if let Node::Door(number) = node {
            // What it leads to is new when it is opened: there is nothing to cut.
            if change != AttributeChange::default() {
                self.touch_door(who, number, change)?;
            }
            return self.found(node);
        }
        let (ino, caller) = self.actor(who, node)?;
        if let Node::View { object: Ino::ROOT, .. } = node {
            if change.mode.is_some() || change.uid.is_some() || change.gid.is_some() || size.is_some() {
                return Err(Error::Synthetic);
            }
            let id = caller.session.id.clone();
            self.service.step(who, Command::TouchSession { caller, id, mtime: change.mtime })?;
            return self.found(node);
        }
        if let Some(size) = size {
            let command = Command::Truncate { caller: caller.clone(), ino, size };
            self.service.step(who, command)?;
        }
        // ftruncate(2) alone sets the times itself; what else came with it is a change of its own.
        if size.is_none() || change != AttributeChange::default() {
            self.service.step(who, Command::Change { caller, ino, change })?;
        }
        self.found(node)
    }
}

pub(super) fn entry(reply: Reply) -> Result<Attributes, Error> {
    match reply {
        Reply::Entry(attributes) | Reply::Opened(attributes) => Ok(attributes),
        Reply::Session(_) | Reply::Count(_) | Reply::Waits | Reply::Done => Err(Refusal::Invalid.into()),
    }
}
