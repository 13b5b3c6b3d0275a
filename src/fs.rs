//! POSIX meaning: what a file system call on the mount means for locks. No FUSE type, and no errno.
//!
//! A call names inodes by number; `node.rs` says what a number stands for. What changes a lock becomes one
//! [`Command`](crate::table::Command) on behalf of the calling process; what only looks asks the store.
//! Nothing is kept here but handles, and what the kernel was told of synthetic inodes; `ledger.rs` keeps that for
//! whoever serves the mount after this daemon.

mod describe;
mod door;
mod error;
mod events;
mod file;
mod handle;
mod ledger;
mod listing;
mod lock;
mod meter;
mod node;
mod tree;
mod xattr;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

pub use error::Error;
pub use file::{Access, Opened};
pub use ledger::{Began, Connection, Ledger, State as LedgerState};
pub use listing::DirectoryEntry;
pub use meter::Meters;
pub use node::nodes_are_numbered;
pub use xattr::SetMode;

use crate::clock::{Now, WallTime};
use crate::lock::{Attributes, Ino, Kind, Session, Ttl};
use crate::locks::{LockService, Requester};
use crate::store::StoreError;
use crate::table::{Caller, Refusal};
use events::EventFile;
use handle::Handles;
use ledger::Entry;
use lock::Uses;
use node::{Node, Nodes};

/// What `status` says of the mount itself.
#[derive(Clone, Debug)]
pub struct About {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The namespace.
    pub namespace: String,
    /// The host's id.
    pub host: String,
    /// What a lock gets where nothing nearer says.
    pub ttl: Ttl,
    /// When it was mounted.
    pub since: Now,
    /// Where its metrics are served over HTTP, if anywhere.
    pub metrics: Option<SocketAddr>,
}

/// What becomes of a mount when its daemon is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// It is kept, with all that is open.
    KeepsTheMount,
    /// It is made anew: the kernel is too old to ask again what was not answered.
    MountsAnew,
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KeepsTheMount => "keeps the mount",
            Self::MountsAnew => "mounts anew (keeping the mount takes Linux 6.9)",
        })
    }
}

/// Whether the kernel may remember what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Not at all: the next call asks again. What locks get.
    No,
    /// For a second. What directories get that are names and not locks.
    Briefly,
}

/// What stands at a name or an inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// What stat(2) tells; the inode number is that of the mount.
    pub attributes: Attributes,
    /// Whether the kernel may remember it.
    pub keep: Keep,
}

/// How full the file system is, for statfs(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Locks and directories.
    pub used: u64,
    /// How many more there could be.
    pub free: u64,
}

/// A mounted namespace.
#[derive(Debug)]
pub struct LockFs {
    service: Arc<LockService>,
    about: About,
    nodes: Nodes,
    handles: Handles,
    events: EventFile,
    meters: Meters,
    uses: Uses,
    restart: OnceLock<Restart>,
}

/// No namespace can have more locks than there are tokens in an epoch.
const LOCKS_MAX: u64 = 1 << 32;

impl LockFs {
    /// The file system of `service`, for a mount that ends with it.
    pub fn new(service: Arc<LockService>, about: About) -> Self {
        Self::resumed(service, about, Arc::default(), LedgerState::default())
    }

    /// The file system of `service` that goes on where an earlier daemon has left its `state`, and notes in `ledger` what
    /// the next one needs.
    pub fn resumed(
        service: Arc<LockService>,
        about: About,
        ledger: Arc<Ledger>,
        mut state: LedgerState,
    ) -> Self {
        let handles = Handles::new(&mut state, Arc::clone(&ledger));
        handles.sessions().iter().for_each(|id| service.session_opened(id));
        let uses = Uses::new(&mut state, Arc::clone(&ledger));
        let book = Arc::clone(&ledger);
        service.hear_leases(move |lease| book.note(&Entry::Lease(lease)));
        Self {
            nodes: Nodes::new(&mut state, Arc::clone(&ledger)),
            handles,
            events: EventFile::new(service.store(), &state, ledger),
            meters: Meters::default(),
            uses,
            restart: OnceLock::new(),
            service,
            about,
        }
    }

    /// Says to the store what is open of a mount that was taken over; before anybody is answered.
    ///
    /// # Errors
    /// The store can't say, or can't keep it.
    pub fn recall_opens(&self) -> Result<(), StoreError> {
        self.service.recall_opens(&self.handles.opens(), self.handles.ended())
    }

    /// Says what becomes of the mount when its daemon is replaced, which is known once it is there.
    pub fn set_restart(&self, restart: Restart) {
        self.restart.set(restart).ok();
    }

    /// The time, for calls that say "now".
    pub fn now(&self) -> Now {
        self.service.store().now()
    }

    /// How often each kind of request came.
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// What `.lockfs/metrics` says. It asks nobody, and so is answered whatever the store does.
    pub fn metrics(&self) -> Vec<u8> {
        describe::metrics(&self.about, self.service.store(), &self.meters)
    }

    fn node(&self, number: u64) -> Result<Node, Error> {
        self.nodes.resolve(number).ok_or(Error::from(Refusal::Gone))
    }

    /// The kernel has forgotten an inode `count` times.
    pub fn forget(&self, number: u64, count: u64) {
        self.nodes.forget(number, count);
    }

    /// stat(2) by inode number.
    ///
    /// # Errors
    /// [`Refusal::Gone`] where it is not there any more.
    pub fn getattr(&self, number: u64) -> Result<Found, Error> {
        self.found(self.node(number)?)
    }

    fn found(&self, node: Node) -> Result<Found, Error> {
        let stat = |ino: Ino| -> Result<Attributes, Error> {
            Ok(self.service.store().glance(ino)?.ok_or(Refusal::Gone)?)
        };
        let (attributes, keep) = match node {
            // The dot directories stand in it too, and are not counted: see `synthetic`.
            Node::Object(Ino::ROOT) => (Attributes { nlink: 1, ..stat(Ino::ROOT)? }, Keep::Briefly),
            Node::Object(ino) => {
                let attributes = stat(ino)?;
                (attributes, keep(&attributes))
            }
            Node::Sessions => (self.synthetic(node, Kind::Directory, 0o1777)?, Keep::Briefly),
            Node::Control => (self.synthetic(node, Kind::Directory, 0o555)?, Keep::Briefly),
            // As private as the directory itself.
            Node::InfoDirectory(ino) => {
                let directory = stat(ino)?;
                (Attributes { mode: directory.mode & 0o555, nlink: 1, ..directory }, Keep::Briefly)
            }
            // As private as the directory itself, and nothing is made or removed in it.
            Node::WaitDirectory(Ino::ROOT) => (self.synthetic(node, Kind::Directory, 0o555)?, Keep::Briefly),
            Node::WaitDirectory(ino) => {
                let directory = stat(ino)?;
                (Attributes { mode: directory.mode & 0o555, nlink: 1, ..directory }, Keep::Briefly)
            }
            // Who may hold what is behind it is asked when it is opened.
            Node::Door(_) => (self.synthetic(node, Kind::File, 0o666)?, Keep::No),
            Node::Status | Node::Metrics => (self.synthetic(node, Kind::File, 0o444)?, Keep::No),
            Node::Events(generation) => {
                let size = self.events.size(self.service.store(), generation);
                (Attributes { size, ..self.synthetic(node, Kind::File, 0o444)? }, Keep::No)
            }
            // Its owner may write, for setxattr(2) asks: a symlink can have no attributes, so this has them.
            Node::Info(ino) => {
                let Attributes { mtime, ctime, uid, gid, .. } = stat(ino)?;
                let file = self.synthetic(node, Kind::File, 0o644)?;
                (Attributes { mtime, ctime, uid, gid, ..file }, Keep::No)
            }
            Node::View { session, object: Ino::ROOT } => {
                let session = self.session_at(session)?;
                let attributes = Attributes {
                    uid: session.uid,
                    gid: session.gid,
                    mtime: session.mtime,
                    ctime: session.mtime,
                    ..self.synthetic(node, Kind::Directory, 0o755)?
                };
                (attributes, Keep::Briefly)
            }
            Node::View { object, .. } => match stat(object)? {
                directory if directory.kind == Kind::Directory => {
                    (Attributes { nlink: 1, ..directory }, Keep::Briefly)
                }
                attributes => (attributes, Keep::No),
            },
        };
        Ok(Found { attributes: Attributes { ino: Ino::from_u64(node.number()), ..attributes }, keep })
    }

    fn synthetic(&self, node: Node, kind: Kind, mode: u16) -> Result<Attributes, Error> {
        let root = self.service.store().glance(Ino::ROOT)?.ok_or(Refusal::Gone)?;
        let since: WallTime = self.about.since.wall;
        Ok(Attributes {
            ino: Ino::from_u64(node.number()),
            kind,
            size: 0,
            mode,
            uid: root.uid,
            gid: root.gid,
            // 1 says of a directory that its subdirectories are not counted (find(1), fts(3)).
            nlink: 1,
            mtime: since,
            ctime: since,
            expires: false,
        })
    }

    /// The object of a node that can be changed, and on whose behalf `who` comes to it.
    fn actor(&self, who: Requester, node: Node) -> Result<(Ino, Caller), Error> {
        match node {
            Node::Object(ino) => Ok((ino, self.service.caller(who)?)),
            Node::View { session, object } => {
                let session = match self.session_at(session) {
                    // It may have ended with what the daemon before this one did: nothing is done a second time.
                    Err(_) if self.service.was_carried_out(who)? => {
                        return Ok((object, self.service.onlooker(who)));
                    }
                    session => session?,
                };
                if who.uid != 0 && who.uid != session.uid {
                    return Err(Refusal::NotPermitted.into());
                }
                Ok((object, self.service.caller_in(who, &session.id)))
            }
            _ => Err(Error::Synthetic),
        }
    }

    fn session_at(&self, number: Ino) -> Result<Session, Error> {
        Ok(self.service.store().session_by_number(number)?.ok_or(Refusal::NoSession)?)
    }

    /// How full it is.
    ///
    /// # Errors
    /// The store can't say.
    pub fn usage(&self) -> Result<Usage, Error> {
        let used = self.service.store().counts()?.locks;
        Ok(Usage { used, free: LOCKS_MAX.saturating_sub(used) })
    }
}

/// A directory that is a name, and not a lock, may be remembered: the kernel asks for its mode and owner
/// before each entry that is made or removed in it, and the store checks the parent again at each step.
fn keep(attributes: &Attributes) -> Keep {
    let is_name = attributes.kind == Kind::Directory && !attributes.expires;
    if is_name { Keep::Briefly } else { Keep::No }
}
