//! Open files: create, open, read, write, close; and open directories.

use std::sync::Arc;

use super::describe;
use super::handle::Handle;
use super::node::Node;
use super::tree::{Site, entry};
use super::{Error, Found, LockFs};
use crate::lock::{Body, Ino, Kind, SessionId};
use crate::locks::Requester;
use crate::table::{Command, Existing, New, Opening, Refusal, Reply, View};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// It may be written to.
    pub writes: bool,
    /// `O_TRUNC`.
    pub emptied: bool,
    /// `O_EXCL`, with `O_CREAT`.
    pub exclusive: bool,
}

/// A file that was made and opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What it is.
    pub found: Found,
    /// Its handle.
    pub handle: u64,
    /// Whether it was not there before.
    pub was_made: bool,
}

impl LockFs {
    /// open(2) with `O_CREAT`.
    ///
    /// # Errors
    /// The law's refusals.
    pub fn create(
        &self,
        who: Requester,
        parent: u64,
        name: &[u8],
        mode: u16,
        access: Access,
    ) -> Result<Opened, Error> {
        let Site { caller, spot, .. } = self.site(who, parent, name)?;
        let existing = match access {
            Access { exclusive: true, .. } => Existing::Refuse,
            Access { emptied: true, .. } => Existing::OpenEmptied,
            Access { .. } => Existing::Open,
        };
        let session = caller.session.id.clone();
        let new = New::File(Opening::Opened);
        let reply = self.service.step(who, Command::Acquire { caller, spot, new, mode, existing })?;
        let was_made = matches!(reply, Reply::Entry(_));
        let attributes = entry(reply)?;
        let handle = self.open_for(Some(attributes.ino), session, who.request);
        Ok(Opened { found: self.made(parent, attributes)?, handle, was_made })
    }

    /// open(2) of what is there.
    ///
    /// # Errors
    /// [`Refusal::Gone`] where it is not there any more; the law's where it is to be emptied.
    pub fn open(&self, who: Requester, number: u64, access: Access) -> Result<u64, Error> {
        let node = self.node(number)?;
        match node {
            Node::Object(_) | Node::View { .. } => {
                // Whoever only reads needs no right to act for the session whose view it came through, nor
                // an environment that makes sense.
                let (ino, caller) = match node {
                    Node::Object(ino) | Node::View { object: ino, .. } if !access.writes => {
                        (ino, self.service.onlooker(who))
                    }
                    _ => self.actor(who, node)?,
                };
                let session = caller.session.id.clone();
                self.service.step(who, Command::Open { caller, ino, emptied: access.emptied })?;
                Ok(self.open_for(Some(ino), session, who.request))
            }
            Node::Status | Node::Metrics | Node::Events(_) | Node::Info(_) if access.writes => {
                Err(Error::Synthetic)
            }
            Node::Events(_) => Ok(self.handles.insert(Handle::default(), who.request)),
            Node::Status | Node::Metrics | Node::Info(_) | Node::Door(_) => {
                let text = Some(self.text_of(node)?);
                Ok(self.handles.insert(Handle { text, ..Handle::default() }, who.request))
            }
            Node::Sessions | Node::Control | Node::InfoDirectory(_) | Node::WaitDirectory(_) => {
                Err(Refusal::IsDirectory.into())
            }
        }
    }

    /// The handle of what a request has opened for a session. One that an earlier daemon carried out, and did not answer,
    /// has it already.
    pub(super) fn open_for(&self, ino: Option<Ino>, session: SessionId, request: u64) -> u64 {
        if let Some(handle) = self.handles.of_earlier(request) {
            return handle;
        }
        self.service.session_opened(&session);
        self.handles.insert(Handle { ino, session: Some(session), text: None }, request)
    }

    /// What a synthetic file says now.
    fn text_of(&self, node: Node) -> Result<Arc<[u8]>, Error> {
        Ok(match node {
            Node::Status => {
                describe::status(&self.about, self.restart.get().copied(), self.service.store()).into()
            }
            Node::Metrics => self.metrics().into(),
            Node::Info(ino) => {
                let view = self.service.store().view(ino)?.ok_or(Refusal::Gone)?;
                describe::info(&view, self.service.store().now(), self.service.bearing(&view)).into()
            }
            Node::Door(number) => self.queue_text(number)?.into(),
            _ => Arc::default(),
        })
    }

    /// read(2): the note; of a lock with an empty one, to others than its holder, a description.
    ///
    /// # Errors
    /// [`Refusal::Gone`] where it is not there any more.
    pub fn read(
        &self,
        who: Requester,
        number: u64,
        handle: u64,
        offset: u64,
        size: usize,
    ) -> Result<Vec<u8>, Error> {
        let node = self.node(number)?;
        let object = self.opened_object(node, handle);
        if let Some(ino) = object {
            self.check_lease(ino, handle)?;
        }
        let text = match (node, object) {
            (_, Some(ino)) => {
                let view = self.service.store().view(ino)?.ok_or(Refusal::Gone)?;
                match &view.record.body {
                    Body::File(note) if note.is_empty() => self.description(who, &view, handle, offset),
                    Body::File(note) => note.as_slice().into(),
                    Body::Directory { .. } => return Err(Refusal::IsDirectory.into()),
                    Body::Symlink(_) => return Err(Error::WrongKind),
                }
            }
            (Node::Events(generation), _) => {
                return Ok(self.events.read(self.service.store(), generation, offset, size));
            }
            _ => match self.handles.text(handle) {
                Some(text) => text,
                // Opened at an earlier daemon.
                None => {
                    let text = self.text_of(node)?;
                    self.handles.set_text(handle, &text);
                    text
                }
            },
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
        let end = start.saturating_add(size).min(text.len());
        Ok(text[start..end].to_vec())
    }

    /// The description of an empty lock; nothing for its holder, and of what nobody holds. One reading from
    /// the beginning to the end is of one moment.
    fn description(&self, who: Requester, view: &View, handle: u64, offset: u64) -> Arc<[u8]> {
        let Some(session) = &view.session else {
            return Arc::default();
        };
        if self.service.speaks_for(who, session) {
            return Arc::default();
        }
        if offset > 0
            && let Some(text) = self.handles.text(handle)
        {
            return text;
        }
        let text = describe::describe(view, self.service.store().now(), self.service.bearing(view)).into();
        self.handles.set_text(handle, &text);
        text
    }

    /// write(2); `offset` is `None` where the file was opened with `O_APPEND`.
    ///
    /// # Errors
    /// The law's refusals.
    pub fn write(
        &self,
        who: Requester,
        (number, handle): (u64, u64),
        offset: Option<u64>,
        data: &[u8],
    ) -> Result<(), Error> {
        let node = self.node(number)?;
        let (ino, caller) = match self.opened_object(node, handle) {
            Some(ino) if matches!(node, Node::Door(_)) => (ino, self.service.caller(who)?),
            _ => self.actor(who, node)?,
        };
        self.check_lease(ino, handle)?;
        self.service.step(who, Command::Write { caller, ino, offset, data: data.to_vec() })?;
        Ok(())
    }

    /// The last close of an open file.
    pub fn release(&self, who: Requester, number: u64) {
        let Some(handle) = self.handles.remove(number) else {
            return;
        };
        if let Some(ino) = handle.ino {
            self.let_go_of_handle(ino, number);
        }
        if let Some(session) = &handle.session {
            self.service.session_closed(session);
        }
        if let Some(ino) = handle.ino {
            self.service.settle_of(who, Command::Close { mount: self.service.mount(), ino });
        }
        self.handles.forget(number);
    }

    /// opendir(3). A session lives while its owner has its directory open.
    ///
    /// # Errors
    /// [`Refusal::Gone`] where it is not there any more.
    pub fn opendir(&self, who: Requester, number: u64) -> Result<u64, Error> {
        let node = self.node(number)?;
        if self.found(node)?.attributes.kind != Kind::Directory {
            return Err(Refusal::NotDirectory.into());
        }
        let Node::View { session, object: Ino::ROOT } = node else {
            return Ok(0);
        };
        let session = self.session_at(session)?;
        if session.uid != who.uid {
            return Ok(0);
        }
        Ok(self.open_for(None, session.id, who.request))
    }
}
