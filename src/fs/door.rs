//! The door that waits: `.wait/<path>`. Opening it for writing waits until `<path>` is free, then holds it; reading
//! it shows who waits.
//!
//! It is the OPEN that waits. Every name below `.wait` exists, so that no CREATE ever has to, for the kernel holds
//! the directory's lock over that.

use std::sync::Arc;

use super::describe;
use super::node::Node;
use super::{Error, LockFs};
use crate::lock::{Attributes, Ino, Kind};
use crate::locks::{Denial, Requester};
use crate::table::{AttributeChange, Command, Refusal, Reply, Spot, Waiting};

/// What open(2) of a door asks of a new file, as `touch` and `>` do; less the caller's umask.
const MODE: u16 = 0o666;

impl LockFs {
    /// The name that a door leads to.
    pub(super) fn door(&self, number: u64) -> Result<Spot, Error> {
        self.nodes.door(number).ok_or(Error::from(Refusal::Gone))
    }

    /// What stands below `.wait` at a name: the directories of the tree, and doors.
    pub(super) fn wait_node(&self, spot: Spot) -> Result<Node, Error> {
        let there = self.service.store().lookup(&spot)?;
        Ok(match there {
            Some(found) if is_way(&found) => Node::WaitDirectory(found.ino),
            _ => self.nodes.remember_door(spot),
        })
    }

    /// Whether opening it may wait: a door, for writing.
    pub fn is_door(&self, number: u64) -> bool {
        matches!(self.node(number), Ok(Node::Door(_)))
    }

    /// open(2) of a door for writing: waits in the queue, then holds. The handle is handed to `answer`, when it is
    /// granted or interrupted.
    pub fn open_door(
        self: &Arc<Self>,
        who: Requester,
        number: u64,
        request: u64,
        answer: impl FnOnce(Result<u64, Error>) + Send + 'static,
    ) {
        let ready = self.door(number).and_then(|spot| Ok((spot, self.service.caller(who)?)));
        let (spot, caller) = match ready {
            Ok(ready) => ready,
            Err(error) => return answer(Err(error)),
        };
        let session = caller.session.id.clone();
        let waiting = Waiting { request, alone: self.service.is_alone(who, &caller) };
        let mode = MODE & !self.service.umask(who);
        let command = Command::Await { caller, spot, mode, waiting };
        let fs = Arc::clone(self);
        let answer = Box::new(move |outcome: Result<Reply, Denial>| {
            answer(match outcome {
                Ok(Reply::Entry(made)) => Ok(fs.open_for(Some(made.ino), session, request)),
                Ok(_) => Err(Refusal::Invalid.into()),
                // As open(2) has it, and not to be taken for what a store says: whoever wants to, asks again.
                Err(Denial::WaitedTooLong) => Err(Denial::Interrupted.into()),
                Err(denial) => Err(denial.into()),
            });
        });
        self.service.wait(who, request, command, answer);
    }

    /// What reading a door shows.
    pub(super) fn queue_text(&self, number: u64) -> Result<Vec<u8>, Error> {
        let spot = self.door(number)?;
        let store = self.service.store();
        let there = store.lookup(&spot)?;
        let view = there.map(|found| store.view(found.ino)).transpose()?.flatten();
        let shown = view.as_ref().map(|view| (view, self.service.bearing(view)));
        Ok(describe::queue(shown, &store.queue(&spot)?, store.now()))
    }

    /// `touch` of a door sets the times of what it led to, where the caller holds it.
    pub(super) fn touch_door(
        &self,
        who: Requester,
        number: u64,
        change: AttributeChange,
    ) -> Result<(), Error> {
        let spot = self.door(number)?;
        if let Some(found) = self.service.store().lookup(&spot)? {
            let caller = self.service.caller(who)?;
            self.service.step(who, Command::Change { caller, ino: found.ino, change })?;
        }
        Ok(())
    }

    /// The object that a request is about: of a door what it was opened to.
    pub(super) fn opened_object(&self, node: Node, handle: u64) -> Option<Ino> {
        match node {
            Node::Door(_) => self.handles.ino(handle),
            Node::Object(ino) | Node::View { object: ino, .. } => Some(ino),
            _ => None,
        }
    }
}

/// A directory that is a name, and no lock, leads to what stands in it.
pub(super) fn is_way(attributes: &Attributes) -> bool {
    attributes.kind == Kind::Directory && !attributes.expires
}
