//! What the table is asked, and what it answers.

use std::sync::Arc;

use crate::clock::WallTime;
use crate::lock::{
    Attributes, Claim, Event, Ino, Login, Mount, MountId, Name, Origin, Range, Session, SessionId,
    SessionKind, Style, Token, Ttl, WaitId,
};

/// The session that a caller speaks for, and how to begin it where it does not exist yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// The session's name.
    pub id: SessionId,
    /// What makes it live.
    pub kind: SessionKind,
    /// Who the caller is, for people to read.
    pub origin: Origin,
    /// The caller's login.
    pub login: Option<Login>,
    /// What its locks get where nothing nearer says.
    pub ttl: Ttl,
    /// Whether a missing session begins with the first lock it acquires.
    pub begin: Begin,
}

/// What an acquire does where its session does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// It begins.
    WhereMissing,
    /// The acquire is refused.
    Never,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The file-system user id; 0 may what every user may.
    pub uid: u32,
    /// The file-system group id.
    pub gid: u32,
    /// The session it speaks for, and acquires for.
    pub session: Arc<Claimant>,
    /// Sessions that it speaks for besides: of the jobs that it descends from, as far as they were looked up.
    pub also: Vec<SessionId>,
    /// Through which mount it asks.
    pub mount: MountId,
}

/// One entry of one directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The directory.
    pub parent: Ino,
    /// The name in it.
    pub name: Name,
}

/// What an acquire makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum New {
    /// A regular file; and whether it is opened in the same step.
    File(Opening),
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(Box<[u8]>),
}

/// Whether a file that is made is opened too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// mknod(2): made only.
    Closed,
    /// open(2) with `O_CREAT`: made and opened.
    Opened,
}

/// What an acquire does where the name exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It is refused: `O_EXCL`, mkdir, symlink, mknod.
    Refuse,
    /// It is an open of what is there, with its note left alone.
    Open,
    /// The same, and `O_TRUNC`.
    OpenEmptied,
}

/// How a rename treats what stands at its goal; the flags of renameat2(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// What stands there is released.
    Replace,
    /// Nothing may stand there (`RENAME_NOREPLACE`).
    NoReplace,
    /// Both change places (`RENAME_EXCHANGE`).
    Exchange,
}

/// A call that may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The kernel's number of the request, on the caller's mount.
    pub request: u64,
    /// Whether nobody else of the caller's session could let go of anything meanwhile.
    pub alone: bool,
}

/// What `chmod`, `chown` and `utimes` change; `None` leaves as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttributeChange {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// mtime, and atime with it.
    pub mtime: Option<WallTime>,
}

/// One atomic step. Those without a [`Caller`] are the daemon's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Make an entry and hold it.
    Acquire {
        /// Who.
        caller: Caller,
        /// Where.
        spot: Spot,
        /// What.
        new: New,
        /// Its permission bits, the umask applied.
        mode: u16,
        /// What if it is there.
        existing: Existing,
    },
    /// Remove a name: unlink(2).
    Unlink {
        /// Who.
        caller: Caller,
        /// Which.
        spot: Spot,
    },
    /// Remove an empty directory: rmdir(2).
    Rmdir {
        /// Who.
        caller: Caller,
        /// Which.
        spot: Spot,
    },
    /// Give an object one more name: link(2).
    Link {
        /// Who.
        caller: Caller,
        /// The object.
        ino: Ino,
        /// The name.
        spot: Spot,
    },
    /// Move a name: renameat2(2).
    Rename {
        /// Who.
        caller: Caller,
        /// From here.
        from: Spot,
        /// To here.
        to: Spot,
        /// What if something is there.
        mode: RenameMode,
        /// Whose it is afterwards, where that is said.
        heir: Option<SessionId>,
    },
    /// Open an object that is there.
    Open {
        /// Who.
        caller: Caller,
        /// The object.
        ino: Ino,
        /// `O_TRUNC`.
        emptied: bool,
    },
    /// One open less.
    Close {
        /// Through which mount it was opened.
        mount: MountId,
        /// The object.
        ino: Ino,
    },
    /// Lock an open file: flock(2), fcntl(2). From the first on, the file is advisory.
    Lock {
        /// Who.
        caller: Caller,
        /// The file.
        ino: Ino,
        /// With what.
        claim: Claim,
        /// `None`: it is refused where others are in the way (`LOCK_NB`, `F_SETLK`). Asked again, it keeps its place.
        waiting: Option<Waiting>,
    },
    /// Let go of an advisory lock, or of a part of it.
    Unlock {
        /// Through which mount it was taken.
        mount: MountId,
        /// The file.
        ino: Ino,
        /// By which call.
        style: Style,
        /// What the kernel calls the owner.
        key: u64,
        /// Which bytes.
        range: Range,
    },
    /// Make a file and hold it, as soon as nothing stands there and nobody came earlier. It is open then.
    Await {
        /// Who.
        caller: Caller,
        /// Where.
        spot: Spot,
        /// Its permission bits, the umask applied.
        mode: u16,
        /// Asked again, it keeps its place.
        waiting: Waiting,
    },
    /// A call waits no longer.
    Withdraw {
        /// Which.
        id: WaitId,
    },
    /// A mount is there: begins or renews its lease.
    Attend {
        /// Which, and who serves it.
        mount: Mount,
    },
    /// Mounts are there no more: all that they have goes.
    Leave {
        /// Which.
        mounts: Vec<MountId>,
    },
    /// Write into the note.
    Write {
        /// Who.
        caller: Caller,
        /// The file.
        ino: Ino,
        /// From which byte; `None` appends.
        offset: Option<u64>,
        /// What.
        data: Vec<u8>,
    },
    /// Cut or extend the note.
    Truncate {
        /// Who.
        caller: Caller,
        /// The file.
        ino: Ino,
        /// To how many bytes.
        size: u64,
    },
    /// chmod, chown, utimes.
    Change {
        /// Who.
        caller: Caller,
        /// The object.
        ino: Ino,
        /// What.
        change: AttributeChange,
    },
    /// Set a ttl, from now.
    SetTtl {
        /// Who.
        caller: Caller,
        /// The object.
        ino: Ino,
        /// The ttl.
        ttl: Ttl,
    },
    /// Set what is inherited below a directory.
    SetDefaultTtl {
        /// Who.
        caller: Caller,
        /// The directory.
        ino: Ino,
        /// `None`: what its parent says.
        ttl: Option<Ttl>,
    },
    /// End someone else's lock on purpose.
    Break {
        /// Who.
        caller: Caller,
        /// The lock.
        ino: Ino,
        /// Its token, as the caller saw it.
        token: Token,
    },
    /// Hand a lock to another session.
    Transfer {
        /// Who.
        caller: Caller,
        /// The lock.
        ino: Ino,
        /// To whom.
        heir: SessionId,
    },
    /// Begin the caller's session, which must not exist.
    BeginSession {
        /// Who.
        caller: Caller,
    },
    /// Release all that a session holds, and end it.
    EndSession {
        /// Who; `None`: the daemon itself.
        caller: Option<Caller>,
        /// The session.
        id: SessionId,
    },
    /// Hand all that a session holds to another, which takes its place where it does not exist.
    MergeSession {
        /// Who.
        caller: Caller,
        /// From this one, which ends.
        from: SessionId,
        /// To this one.
        to: SessionId,
    },
    /// utimes on a session's directory: renews it.
    TouchSession {
        /// Who.
        caller: Caller,
        /// The session.
        id: SessionId,
        /// The mtime to set.
        mtime: Option<WallTime>,
    },
    /// Set the ttl that a session's new locks get.
    SetSessionTtl {
        /// Who.
        caller: Caller,
        /// The session.
        id: SessionId,
        /// The ttl.
        ttl: Ttl,
    },
    /// These sessions were seen alive.
    Renew {
        /// The sessions.
        sessions: Vec<SessionId>,
    },
    /// The jobs of these sessions have no process any more.
    MarkEnded {
        /// The sessions.
        sessions: Vec<SessionId>,
    },
    /// Remove what is past its deadline.
    Sweep {
        /// At most so many.
        limit: usize,
    },
}

/// What a step that was carried out answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The entry was made, or changed, and is so now.
    Entry(Attributes),
    /// The name existed, and was opened.
    Opened(Attributes),
    /// The session is so now.
    Session(Box<Session>),
    /// How many: of sessions found, of locks swept.
    Count(usize),
    /// It has to wait, and has a place in the queue.
    Waits,
    /// Nothing to say.
    Done,
}

/// Why a step was not carried out. Contention is one of these, not an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The name, the object or its directory is not there.
    NoEntry,
    /// The object was there, and is gone: it expired, or was broken.
    Gone,
    /// The name is taken.
    Exists,
    /// It is not a directory.
    NotDirectory,
    /// It is a directory.
    IsDirectory,
    /// The directory has entries.
    NotEmpty,
    /// The session of the caller lost this name, and another holds it now.
    Lost,
    /// A session that is not the caller's holds it, and it is not to be changed.
    Busy(Option<SessionId>),
    /// A session that is not the caller's holds it, and it is not to be removed.
    Held(Option<SessionId>),
    /// The caller may not.
    NotPermitted,
    /// The note would be too long.
    TooLarge,
    /// The object has all the names it can have.
    TooManyLinks,
    /// The argument makes no sense there.
    Invalid,
    /// There is no such session.
    NoSession,
    /// The token names another holder.
    WrongToken,
    /// Others have an advisory lock that is in the way, or have waited longer for it.
    Taken,
    /// Waiting would never end: who is in the way waits for the caller.
    Deadlock,
    /// The lease of the caller's mount has run out, or was never begun: it must be begun first.
    Unattended,
}

/// How a step answers.
pub type Outcome = Result<Reply, Refusal>;

/// What a step changed: after it, the thing is as the table has it, or gone if the table hasn't got it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// An object's record.
    Object(Ino),
    /// A session.
    Session(SessionId),
    /// A file without a name.
    Nameless(Ino),
    /// A mount's lease.
    Mount(MountId),
    /// What a mount has of an object: how often it is open, and its advisory locks.
    Share(Ino, MountId),
    /// A call's place in a queue.
    Wait(WaitId),
}

/// All that one step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its answer.
    pub outcome: Outcome,
    /// What it changed, each thing once. A refused step may have found something past its deadline.
    pub changes: Vec<Change>,
    /// What happened.
    pub events: Vec<Event>,
    /// Calls that wait, and should ask again now.
    pub wakes: Vec<WaitId>,
}

/// The caller of a command, by reference or by mutable reference as the command is.
macro_rules! caller_of {
    ($command:expr, $borrow:ident) => {
        match $command {
            Self::Acquire { caller, .. }
            | Self::Unlink { caller, .. }
            | Self::Rmdir { caller, .. }
            | Self::Link { caller, .. }
            | Self::Rename { caller, .. }
            | Self::Open { caller, .. }
            | Self::Write { caller, .. }
            | Self::Truncate { caller, .. }
            | Self::Change { caller, .. }
            | Self::SetTtl { caller, .. }
            | Self::SetDefaultTtl { caller, .. }
            | Self::Break { caller, .. }
            | Self::Transfer { caller, .. }
            | Self::BeginSession { caller }
            | Self::MergeSession { caller, .. }
            | Self::TouchSession { caller, .. }
            | Self::SetSessionTtl { caller, .. }
            | Self::Lock { caller, .. }
            | Self::Await { caller, .. } => Some(caller),
            Self::EndSession { caller, .. } => caller.$borrow(),
            Self::Close { .. }
            | Self::Unlock { .. }
            | Self::Withdraw { .. }
            | Self::Attend { .. }
            | Self::Leave { .. }
            | Self::Renew { .. }
            | Self::MarkEnded { .. }
            | Self::Sweep { .. } => None,
        }
    };
}

impl Command {
    /// Who asks; `None` where the daemon does.
    pub fn caller(&self) -> Option<&Caller> {
        caller_of!(self, as_ref)
    }

    /// A number for what kind of step it is, the same for ever: stores keep it.
    pub const fn number(&self) -> u8 {
        match self {
            Self::Acquire { .. } => 1,
            Self::Unlink { .. } => 2,
            Self::Rmdir { .. } => 3,
            Self::Link { .. } => 4,
            Self::Rename { .. } => 5,
            Self::Open { .. } => 6,
            Self::Close { .. } => 7,
            Self::Lock { .. } => 8,
            Self::Unlock { .. } => 9,
            Self::Await { .. } => 10,
            Self::Withdraw { .. } => 11,
            Self::Attend { .. } => 12,
            Self::Leave { .. } => 13,
            Self::Write { .. } => 14,
            Self::Truncate { .. } => 15,
            Self::Change { .. } => 16,
            Self::SetTtl { .. } => 17,
            Self::SetDefaultTtl { .. } => 18,
            Self::Break { .. } => 19,
            Self::Transfer { .. } => 20,
            Self::BeginSession { .. } => 21,
            Self::EndSession { .. } => 22,
            Self::MergeSession { .. } => 23,
            Self::TouchSession { .. } => 24,
            Self::SetSessionTtl { .. } => 25,
            Self::Renew { .. } => 26,
            Self::MarkEnded { .. } => 27,
            Self::Sweep { .. } => 28,
        }
    }

    /// The object that it names by its number.
    pub fn object(&self) -> Option<Ino> {
        match self {
            Self::Link { ino, .. }
            | Self::Open { ino, .. }
            | Self::Close { ino, .. }
            | Self::Lock { ino, .. }
            | Self::Unlock { ino, .. }
            | Self::Write { ino, .. }
            | Self::Truncate { ino, .. }
            | Self::Change { ino, .. }
            | Self::SetTtl { ino, .. }
            | Self::SetDefaultTtl { ino, .. }
            | Self::Break { ino, .. }
            | Self::Transfer { ino, .. } => Some(*ino),
            _ => None,
        }
    }

    /// The same command, of a caller that speaks for one more session.
    #[must_use]
    pub fn speaking_also_for(mut self, id: SessionId) -> Self {
        if let Some(caller) = caller_of!(&mut self, as_mut) {
            caller.also.push(id);
        }
        self
    }
}
