//! What a ledger says: the entries, one after the other, come to a state, and a state to the fewest entries.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;

use super::entry::Entry;
use crate::clock::Now;
use crate::fs::lock::Use;
use crate::fs::node::Node;
use crate::lock::{Ino, MountId, SessionId};
use crate::table::Spot;

/// What a daemon serves, and as whom. Who is to serve something else can't take it over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Began {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// How, and what of; and what the numbers of nodes are made with.
    pub what: String,
    /// The mount by its number in the store.
    pub mount: MountId,
    /// When it was mounted.
    pub since: Now,
}

/// What is known of the connection to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The kernel's first request, as it came.
    pub init: Vec<u8>,
    /// What it was answered.
    pub reply: Vec<u8>,
    /// The number of its file system, as mountinfo has it: `0:40`.
    pub device: String,
}

/// How many requests are remembered whose handles were closed.
const ENDED_MAX: usize = 256;

/// Where `.lockfs/events` ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::fs) struct EventsEnd {
    /// The number of the last event in it.
    pub(in crate::fs) last: u64,
    /// The checksum of its line: another store may have another event of that number.
    pub(in crate::fs) sum: u32,
    /// The offset behind it.
    pub(in crate::fs) end: u64,
}

/// An open file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::fs) struct Open {
    pub(in crate::fs) ino: Option<Ino>,
    pub(in crate::fs) session: Option<SessionId>,
    /// The request that opened it.
    pub(in crate::fs) request: u64,
}

/// What a ledger says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub(in crate::fs) began: Option<Began>,
    pub(in crate::fs) connection: Option<Connection>,
    pub(in crate::fs) lease: u64,
    pub(in crate::fs) tries: u64,
    /// Hashed numbers that the kernel knows, and how often it was told of each.
    pub(in crate::fs) nodes: HashMap<u64, (Node, u64)>,
    pub(in crate::fs) doors: HashMap<u64, Spot>,
    pub(in crate::fs) last_handle: u64,
    pub(in crate::fs) handles: HashMap<u64, Open>,
    /// The requests whose handles were closed last: a store may not have heard that they were answered. Each thread that
    /// answers can have left one behind, and another one takes its turn before so many are closed.
    pub(in crate::fs) ended: VecDeque<u64>,
    pub(in crate::fs) uses: HashMap<Ino, Vec<Use>>,
    pub(in crate::fs) events: EventsEnd,
}

impl State {
    /// What the daemon that wrote it served.
    pub fn began(&self) -> Option<&Began> {
        self.began.as_ref()
    }

    /// The connection to the kernel.
    pub fn connection(&self) -> Option<&Connection> {
        self.connection.as_ref()
    }

    /// How many daemons in a row have tried to serve the mount and did not come to it.
    pub fn tries(&self) -> u64 {
        self.tries
    }

    pub(super) fn apply(&mut self, entry: Entry<'_>) {
        match entry {
            Entry::Began(began) => self.began = Some(began),
            Entry::Connected(connection) => self.connection = Some(connection),
            Entry::Lease(lease) => self.lease = lease,
            Entry::Tries(tries) => self.tries = tries,
            Entry::Told { number, node, count } => {
                let told = self.nodes.entry(number).or_insert((node, 0));
                told.1 = told.1.saturating_add(count);
            }
            Entry::Forgot { number, count } => {
                if let Some((_, told)) = self.nodes.get_mut(&number) {
                    *told = told.saturating_sub(count);
                    if *told == 0 {
                        self.nodes.remove(&number);
                        self.doors.remove(&number);
                    }
                }
            }
            Entry::Door { number, spot } => drop(self.doors.insert(number, spot)),
            Entry::Redirected { from, to } => {
                for (node, _) in self.nodes.values_mut() {
                    node.redirect(from, to);
                }
            }
            Entry::Opened { number, ino, session, request } => {
                let session = session.and_then(|id| SessionId::parse(id).ok());
                self.last_handle = self.last_handle.max(number);
                self.handles.insert(number, Open { ino, session, request });
            }
            Entry::Closed(number) => {
                if let Some(Open { request, .. }) = self.handles.remove(&number) {
                    self.ended(request);
                }
            }
            Entry::Ended(request) => self.ended(request),
            Entry::Used(ino, one) => {
                let uses = self.uses.entry(ino).or_default();
                uses.retain(|other| !other.is_same(&one));
                uses.push(one);
            }
            Entry::Unused(ino, one) => {
                if let Some(uses) = self.uses.get_mut(&ino) {
                    uses.retain(|other| !other.is_same(&one));
                    if uses.is_empty() {
                        self.uses.remove(&ino);
                    }
                }
            }
            Entry::LastHandle(number) => self.last_handle = self.last_handle.max(number),
            Entry::Events(end) => self.events = end,
        }
    }

    fn ended(&mut self, request: u64) {
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(request);
    }

    /// The fewest entries that come to this.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let began = self.began.iter().cloned().map(Entry::Began);
        let connection = self.connection.iter().cloned().map(Entry::Connected);
        let numbers = [
            Entry::Lease(self.lease),
            Entry::Tries(self.tries),
            Entry::LastHandle(self.last_handle),
            Entry::Events(self.events),
        ];
        let nodes = self.nodes.iter().map(|(&number, &(node, count))| Entry::Told { number, node, count });
        let doors = self.doors.iter().map(|(&number, spot)| Entry::Door { number, spot: spot.clone() });
        let handles = self.handles.iter().map(|(&number, open)| Entry::Opened {
            number,
            ino: open.ino,
            session: open.session.as_ref().map(|id| id.as_str().as_bytes()),
            request: open.request,
        });
        let uses =
            self.uses.iter().flat_map(|(&ino, uses)| uses.iter().map(move |&one| Entry::Used(ino, one)));
        let ended = self.ended.iter().copied().map(Entry::Ended);
        began
            .chain(connection)
            .chain(numbers)
            .chain(nodes)
            .chain(doors)
            .chain(handles)
            .chain(ended)
            .chain(uses)
    }
}
