//! Records: what the store keeps of each lock and directory.

use super::{Ino, Name, SessionId, Token, Ttl};
use crate::clock::{BootTime, WallTime};

/// The longest note, in bytes.
pub const NOTE_MAX: usize = 64 * 1024;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// What an object holds, by its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A file and its note.
    File(Vec<u8>),
    /// A directory, and the ttl that is inherited by what is created below it.
    Directory {
        /// `None` where it inherits its parent's.
        default_ttl: Option<Ttl>,
    },
    /// A symbolic link and its target.
    Symlink(Box<[u8]>),
}

impl Body {
    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::File(_) => Kind::File,
            Self::Directory { .. } => Kind::Directory,
            Self::Symlink(_) => Kind::Symlink,
        }
    }

    /// `st_size`: of a note or a target its length, of a directory 0.
    pub fn size(&self) -> u64 {
        match self {
            Self::File(note) => note.len() as u64,
            Self::Symlink(target) => target.len() as u64,
            Self::Directory { .. } => 0,
        }
    }
}

/// One name of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The directory that it stands in.
    pub parent: Ino,
    /// The name there.
    pub name: Name,
    /// Where it stands in the listing: the token of the step that put it there.
    pub cookie: Token,
}

/// What the store keeps of an object: a lock, or a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its inode number: the token at its birth.
    pub ino: Ino,
    /// Its fencing token: raised by every acquire, rename and transfer.
    pub token: Token,
    /// What it is and holds.
    pub body: Body,
    /// Its names; none once it is unlinked but still open.
    pub places: Vec<Place>,
    /// Permission bits, set-id and sticky bits: `st_mode & 07777`.
    pub mode: u16,
    /// Who made it.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// mtime, and atime with it.
    pub mtime: WallTime,
    /// The time of the last change.
    pub ctime: WallTime,
    /// When it was acquired.
    pub since: WallTime,
    /// Who holds it; `None` for a directory that outlived its session, and for the root.
    pub session: Option<SessionId>,
    /// How long it outlives the last sight of its holder.
    pub ttl: Ttl,
    /// When it was acquired, or its ttl set. Its deadline is ttl after the later of this and the moment its
    /// session was last seen alive.
    pub seen: BootTime,
}

/// What stat(2) tells of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// `st_ino`.
    pub ino: Ino,
    /// The file type.
    pub kind: Kind,
    /// `st_size`.
    pub size: u64,
    /// `st_mode & 07777`.
    pub mode: u16,
    /// `st_uid`.
    pub uid: u32,
    /// `st_gid`.
    pub gid: u32,
    /// `st_nlink`: names of a file, 2 + subdirectories of a directory.
    pub nlink: u32,
    /// `st_mtime`, and `st_atime` with it.
    pub mtime: WallTime,
    /// `st_ctime`.
    pub ctime: WallTime,
    /// Whether it has a ttl: of directories, those that are locks.
    pub expires: bool,
}
