//! Nodes: what an inode number of the mount stands for.
//!
//! Objects of the store have the store's numbers. Synthetic files have fixed numbers, or, where there is one
//! for each session or each directory, a number made by hashing what they stand for: the same on every mount
//! and after every restart. What such a number stands for is remembered until the kernel forgets it.
//!
//! It stands in the [ledger](super::ledger) too: the kernel may ask for it after a restart.
//!
//! Lock order: the nodes before the doors before the ledger.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ledger::{Entry, Ledger, State};
use crate::lock::Ino;
use crate::table::Spot;

/// What an inode number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Node {
    /// A lock or a directory of the store, the root included.
    Object(Ino),
    /// `.sessions`
    Sessions,
    /// `.sessions/NAME` and, below it, what that session holds and the directories on the way. A lock has a
    /// number of its own there, because who comes that way acts for the session.
    View {
        /// The number of the session.
        session: Ino,
        /// The object of the tree; the root for `.sessions/NAME` itself.
        object: Ino,
    },
    /// `.lockfs`
    Control,
    /// `.lockfs/status`
    Status,
    /// `.lockfs/metrics`
    Metrics,
    /// `.lockfs/events`, of the generation of that number.
    Events(u64),
    /// `.lockfs/info` and, below it, each directory of the tree.
    InfoDirectory(Ino),
    /// `.lockfs/info/<path>` of a lock.
    Info(Ino),
    /// `.wait` and, below it, each directory of the tree.
    WaitDirectory(Ino),
    /// `.wait/<path>`, by its number: what it leads to is asked of [`Nodes::door`].
    Door(u64),
}

/// A bit that no token has, for it would have to be given before 1978 (see [`crate::lock::Token::EPOCH_MIN`]).
const HASHED: u64 = 1 << 60;

impl Node {
    /// The inode number.
    pub(super) fn number(self) -> u64 {
        match self {
            Self::Object(ino) => ino.as_u64(),
            Self::Sessions => 2,
            Self::WaitDirectory(Ino::ROOT) => 3,
            Self::Door(number) => number,
            Self::Control => 4,
            Self::Status => 5,
            Self::Metrics => 6,
            Self::View { .. }
            | Self::Events(_)
            | Self::InfoDirectory(_)
            | Self::Info(_)
            | Self::WaitDirectory(_) => hashed(&self),
        }
    }

    /// The session numbered `from` was merged into the one numbered `to`.
    pub(super) fn redirect(&mut self, from: Ino, to: Ino) {
        if let Self::View { session, .. } = self
            && *session == from
        {
            *session = to;
        }
    }
}

/// A number made of what it stands for, by the hasher of the standard library with its fixed keys: stable for one
/// version of the program. What the kernel remembers for longer stands in the ledger with its number.
fn hashed(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    HASHED | (hasher.finish() >> 4)
}

/// A number for how nodes are numbered: the same where the kernel may be told the same numbers.
pub fn nodes_are_numbered() -> u64 {
    let [one, two] = [1, 2].map(Ino::from_u64);
    let kinds = [
        Node::View { session: one, object: two },
        Node::Events(1),
        Node::InfoDirectory(two),
        Node::Info(two),
        Node::WaitDirectory(two),
        Node::Sessions,
        Node::WaitDirectory(Ino::ROOT),
        Node::Control,
        Node::Status,
        Node::Metrics,
    ];
    hashed(&kinds.map(Node::number))
}

/// The number of a door.
pub(super) fn door_number(spot: &Spot) -> u64 {
    hashed(&(spot.parent, &spot.name))
}

/// What the hashed numbers that the kernel knows stand for.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    known: Mutex<HashMap<u64, (Node, u64)>>,
    doors: Mutex<HashMap<u64, Spot>>,
    ledger: Arc<Ledger>,
}

impl Nodes {
    /// Those that `state` has, and all that come, in `ledger`.
    pub(super) fn new(state: &mut State, ledger: Arc<Ledger>) -> Self {
        let (known, doors) = (std::mem::take(&mut state.nodes), std::mem::take(&mut state.doors));
        Self { known: Mutex::new(known), doors: Mutex::new(doors), ledger }
    }

    /// The node of a number; `None` where it was never told to the kernel, or was forgotten.
    pub(super) fn resolve(&self, number: u64) -> Option<Node> {
        match number {
            2 => Some(Node::Sessions),
            3 => Some(Node::WaitDirectory(Ino::ROOT)),
            4 => Some(Node::Control),
            5 => Some(Node::Status),
            6 => Some(Node::Metrics),
            _ if number & (0xf << 60) == HASHED => self.known().get(&number).map(|(node, _)| *node),
            _ => Some(Node::Object(Ino::from_u64(number))),
        }
    }

    /// Notes that the kernel is told of a node once more.
    pub(super) fn remember(&self, node: Node) {
        let number = node.number();
        if number & (0xf << 60) == HASHED {
            let mut known = self.known();
            known.entry(number).or_insert((node, 0)).1 += 1;
            self.ledger.note(&Entry::Told { number, node, count: 1 });
        }
    }

    /// Notes that the kernel has forgotten `count` of the times it was told.
    pub(super) fn forget(&self, number: u64, count: u64) {
        if number & (0xf << 60) != HASHED {
            return;
        }
        let mut known = self.known();
        if let Some((_, told)) = known.get_mut(&number) {
            *told = told.saturating_sub(count);
            self.ledger.note(&Entry::Forgot { number, count });
            if *told == 0 {
                known.remove(&number);
                self.doors().remove(&number);
            }
        }
    }

    /// The door to a name; the kernel is to be told of it.
    pub(super) fn remember_door(&self, spot: Spot) -> Node {
        let number = door_number(&spot);
        let mut doors = self.doors();
        self.ledger.note(&Entry::Door { number, spot: spot.clone() });
        doors.insert(number, spot);
        Node::Door(number)
    }

    /// The name that a door leads to.
    pub(super) fn door(&self, number: u64) -> Option<Spot> {
        self.doors().get(&number).cloned()
    }

    fn doors(&self) -> MutexGuard<'_, HashMap<u64, Spot>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the session numbered `from` was merged into the one numbered `to`. The kernel has moved what
    /// it knows of the one's directory to the other's name, and may use it for as long as it may remember it.
    pub(super) fn redirect(&self, from: Ino, to: Ino) {
        let mut known = self.known();
        known.values_mut().for_each(|(node, _)| node.redirect(from, to));
        self.ledger.note(&Entry::Redirected { from, to });
    }

    fn known(&self) -> MutexGuard<'_, HashMap<u64, (Node, u64)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
