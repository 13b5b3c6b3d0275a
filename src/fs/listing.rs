//! Listings: in the order in which entries came, so that an offset stays good while the directory changes.

use super::door::is_way;
use super::node::{Node, door_number};
use super::{Error, LockFs};
use crate::lock::{Ino, Kind, Token};
use crate::table::{Entry, Refusal, Spot};

/// One entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The inode number.
    pub ino: u64,
    /// Where the listing goes on after it.
    pub offset: u64,
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: Vec<u8>,
}

/// Offsets up to this belong to entries that are always there; those of others are tokens.
const FIXED: u64 = 16;

impl LockFs {
    /// Entries of a directory after `offset`, at most about `limit`; none at its end.
    ///
    /// # Errors
    /// [`Refusal::Gone`] where it is not there any more.
    pub fn readdir(&self, number: u64, offset: u64, limit: usize) -> Result<Vec<DirectoryEntry>, Error> {
        let node = self.node(number)?;
        let mut listing = Vec::new();
        let mut fixed = vec![(node.number(), Kind::Directory, "."), (1, Kind::Directory, "..")];
        match node {
            Node::Object(Ino::ROOT) => {
                fixed.push((Node::Sessions.number(), Kind::Directory, ".sessions"));
                fixed.push((Node::Control.number(), Kind::Directory, ".lockfs"));
                fixed.push((Node::WaitDirectory(Ino::ROOT).number(), Kind::Directory, ".wait"));
            }
            Node::Control => {
                let events = Node::Events(self.events.newest(self.service.store()));
                fixed.push((Node::Status.number(), Kind::File, "status"));
                fixed.push((events.number(), Kind::File, "events"));
                fixed.push((Node::Metrics.number(), Kind::File, "metrics"));
                fixed.push((Node::InfoDirectory(Ino::ROOT).number(), Kind::Directory, "info"));
            }
            _ => {}
        }
        for (offset_before, (ino, kind, name)) in (0..).zip(fixed) {
            if offset_before >= offset {
                listing.push(DirectoryEntry { ino, offset: offset_before + 1, kind, name: name.into() });
            }
        }
        let after = (offset > FIXED).then_some(offset);
        listing.extend(self.entries_of(node, after, limit)?);
        Ok(listing)
    }

    fn entries_of(&self, node: Node, after: Option<u64>, limit: usize) -> Result<Vec<DirectoryEntry>, Error> {
        let store = self.service.store();
        let token = after.map(Token::from_u64);
        Ok(match node {
            Node::Object(ino) => {
                let entries = store.list(ino, token, limit)?.ok_or(Refusal::Gone)?;
                entries.into_iter().map(|entry| line(entry, Node::Object)).collect()
            }
            Node::InfoDirectory(ino) => {
                let entries = store.list(ino, token, limit)?.ok_or(Refusal::Gone)?;
                let node = |entry: &Entry| match entry.attributes.kind {
                    Kind::Directory => Node::InfoDirectory(entry.attributes.ino),
                    Kind::File | Kind::Symlink => Node::Info(entry.attributes.ino),
                };
                let as_files = entries.into_iter().map(|entry| {
                    let node = node(&entry);
                    line(entry, |_| node)
                });
                as_files
                    .map(|entry| match entry.kind {
                        Kind::Symlink => DirectoryEntry { kind: Kind::File, ..entry },
                        Kind::File | Kind::Directory => entry,
                    })
                    .collect()
            }
            Node::Sessions => {
                let sessions = store.list_sessions(after.map(Ino::from_u64), limit)?;
                let lines = sessions.into_iter().map(|session| DirectoryEntry {
                    ino: Node::View { session: session.ino, object: Ino::ROOT }.number(),
                    offset: session.ino.as_u64(),
                    kind: Kind::Directory,
                    name: session.id.as_str().into(),
                });
                lines.collect()
            }
            Node::View { session, object } => {
                let id = self.session_at(session)?.id;
                let entries = store.list_held(&id, object, token, limit)?;
                entries
                    .into_iter()
                    .map(|entry| line(entry, |object| Node::View { session, object }))
                    .collect()
            }
            Node::WaitDirectory(ino) => {
                let entries = store.list(ino, token, limit)?.ok_or(Refusal::Gone)?;
                let as_doors = entries.into_iter().map(|entry| match is_way(&entry.attributes) {
                    true => line(entry, Node::WaitDirectory),
                    false => {
                        let spot = Spot { parent: ino, name: entry.name.clone() };
                        DirectoryEntry { kind: Kind::File, ..line(entry, |_| Node::Door(door_number(&spot))) }
                    }
                });
                as_doors.collect()
            }
            Node::Control => Vec::new(),
            Node::Status | Node::Metrics | Node::Events(_) | Node::Info(_) | Node::Door(_) => {
                return Err(Refusal::NotDirectory.into());
            }
        })
    }
}

fn line(entry: Entry, node: impl FnOnce(Ino) -> Node) -> DirectoryEntry {
    DirectoryEntry {
        ino: node(entry.attributes.ino).number(),
        offset: entry.cookie.as_u64(),
        kind: entry.attributes.kind,
        name: entry.name.as_bytes().into(),
    }
}
