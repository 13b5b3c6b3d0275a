//! Advisory locks: what flock(2) and fcntl(2) ask of an open file, who has it, and who waits.
//!
//! The invariant: two grants of one style on one object conflict only where they are of one owner.

use std::fmt;

use super::{Origin, SessionId, Token};
use crate::clock::{BootId, BootTime, WallTime};

/// A mount: one connection to the kernel, whichever daemon serves it at the time. Drawn at random when it is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MountId(u64);

impl MountId {
    /// The mount that a record calls `number`.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The number, for a record.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for MountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Who serves a mount. What it has in the store is gone `ttl` after it was last heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Which.
    pub id: MountId,
    /// The host's id.
    pub host: String,
    /// The daemon's process.
    pub pid: u32,
    /// When that process started, in clock ticks since boot (proc_pid_stat(5), field 22).
    pub start: u64,
    /// The boot whose process it is.
    pub boot: BootId,
    /// The mount's lease: `Never` where nobody else could be given what it has.
    pub ttl: super::Ttl,
}

/// A request of the kernel's. Its daemon may end before it has answered: who serves the mount then is asked again, by
/// the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// The mount.
    pub mount: MountId,
    /// The number (`fuse_in_header.unique` of `linux/fuse.h`), without the mark of a request that is sent again.
    pub number: u64,
}

/// Which call locks. The two kinds do not see each other, as on a local disk (flock(2), "NOTES").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Style {
    /// flock(2): of an open file description, the whole file.
    Flock,
    /// fcntl(2): of a process or of an open file description, some bytes.
    Fcntl,
}

impl Style {
    /// The word for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flock => "flock",
            Self::Fcntl => "fcntl",
        }
    }
}

/// How far a lock excludes others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Others may share it (`LOCK_SH`, `F_RDLCK`).
    Shared,
    /// Nobody else may have it (`LOCK_EX`, `F_WRLCK`).
    Exclusive,
}

impl Mode {
    /// The word for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Exclusive => "exclusive",
        }
    }
}

/// Bytes of a file, the first and the last of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    first: u64,
    last: u64,
}

impl Range {
    /// The end of every file, as the kernel tells it (`OFFSET_MAX` of `linux/fs.h`).
    pub const END: u64 = i64::MAX as u64;

    /// All bytes there can be.
    pub const WHOLE: Self = Self { first: 0, last: Self::END };

    /// From `first` to `last`, both included; `None` where that is backwards.
    pub fn new(first: u64, last: u64) -> Option<Self> {
        let last = last.min(Self::END);
        (first <= last).then_some(Self { first, last })
    }

    /// The first byte.
    pub const fn first(self) -> u64 {
        self.first
    }

    /// The last byte.
    pub const fn last(self) -> u64 {
        self.last
    }

    /// Whether some byte is in both.
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Whether every byte of `other` is in this one.
    pub const fn contains(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// Whether nothing is between the two.
    pub const fn touches(self, other: Self) -> bool {
        self.first <= other.last + 1 && other.first <= self.last + 1
    }

    /// From the first byte of either to the last of either.
    #[must_use]
    pub fn joined(self, other: Self) -> Self {
        Self { first: self.first.min(other.first), last: self.last.max(other.last) }
    }

    /// What is left of it before and behind `other`.
    pub fn without(self, other: Self) -> impl Iterator<Item = Self> {
        if !self.overlaps(other) {
            return [Some(self), None].into_iter().flatten();
        }
        let before = (self.first < other.first).then(|| Self { first: self.first, last: other.first - 1 });
        let behind = (other.last < self.last).then(|| Self { first: other.last + 1, last: self.last });
        [before, behind].into_iter().flatten()
    }
}

/// Whose an advisory lock is: the kernel's word for a process or for an open file description, on one mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockOwner {
    /// The mount.
    pub mount: MountId,
    /// What the kernel calls it (`fuse_lk_in.owner` of `linux/fuse.h`).
    pub key: u64,
}

/// What an open file is to be locked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// By which call.
    pub style: Style,
    /// How.
    pub mode: Mode,
    /// Which bytes; of flock(2) all.
    pub range: Range,
    /// What the kernel calls the owner.
    pub key: u64,
    /// The process that asks, as the daemon sees it; 0 where it can't.
    pub pid: u32,
}

/// An advisory lock that somebody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// By which call.
    pub style: Style,
    /// How.
    pub mode: Mode,
    /// Which bytes.
    pub range: Range,
    /// Whose it is.
    pub owner: LockOwner,
    /// The process that asked, on its host.
    pub pid: u32,
    /// The session it spoke for.
    pub session: SessionId,
    /// Who that is, for people to read.
    pub origin: Origin,
    /// Since when.
    pub since: WallTime,
}

impl Grant {
    /// What was claimed to get it.
    pub fn claim(&self) -> Claim {
        let Self { style, mode, range, owner, pid, .. } = *self;
        Claim { style, mode, range, key: owner.key, pid }
    }

    /// Whether another could not have `claim` beside this.
    pub fn conflicts(&self, owner: LockOwner, claim: &Claim) -> bool {
        self.owner != owner
            && self.style == claim.style
            && (self.mode == Mode::Exclusive || claim.mode == Mode::Exclusive)
            && self.range.overlaps(claim.range)
    }
}

/// A call that waits: the kernel's number of the request, on one mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaitId {
    /// The mount.
    pub mount: MountId,
    /// The request (`fuse_in_header.unique` of `linux/fuse.h`).
    pub request: u64,
}

/// A place in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Which call.
    pub id: WaitId,
    /// Its place: who came earlier has a lower one.
    pub ticket: Token,
    /// What it waits for; at a name of the tree, all of it.
    pub claim: Claim,
    /// The session it speaks for.
    pub session: SessionId,
    /// Who that is, for people to read.
    pub origin: Origin,
    /// Since when.
    pub since: WallTime,
    /// Whether nobody else of its session could let go of anything while it waits.
    pub alone: bool,
    /// It could have it, was told so, and has until then to take it.
    pub reserved: Option<BootTime>,
}

impl Waiter {
    /// Whose it will be.
    pub fn owner(&self) -> LockOwner {
        LockOwner { mount: self.id.mount, key: self.claim.key }
    }

    /// Whether another that comes later must not have `claim` before this one.
    pub fn conflicts(&self, owner: LockOwner, claim: &Claim) -> bool {
        self.owner() != owner
            && self.claim.style == claim.style
            && (self.claim.mode == Mode::Exclusive || claim.mode == Mode::Exclusive)
            && self.claim.range.overlaps(claim.range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, last: u64) -> Range {
        Range::new(first, last).expect("not backwards")
    }

    #[test]
    fn a_range_has_its_ends() {
        assert_eq!(Range::new(3, 2), None);
        assert_eq!(Range::new(0, u64::MAX), Some(Range::WHOLE));
        assert!(range(0, 4).overlaps(range(4, 9)) && !range(0, 4).overlaps(range(5, 9)));
        assert!(range(0, 4).contains(range(4, 4)) && !range(0, 4).contains(range(4, 5)));
    }

    #[test]
    fn ranges_that_touch_are_joined() {
        assert!(range(0, 4).touches(range(5, 9)) && range(5, 9).touches(range(0, 4)));
        assert!(range(0, 4).touches(range(2, 3)) && !range(0, 4).touches(range(6, 9)));
        assert!(Range::WHOLE.touches(range(Range::END, Range::END)));
        assert_eq!(range(0, 4).joined(range(5, 9)), range(0, 9));
        assert_eq!(range(3, 9).joined(range(0, 4)), range(0, 9));
    }

    #[test]
    fn what_is_left_of_a_range_is_before_and_behind() {
        let left = |range: Range, other| range.without(other).map(|r| (r.first, r.last)).collect::<Vec<_>>();
        assert_eq!(left(range(0, 9), range(3, 5)), [(0, 2), (6, 9)]);
        assert_eq!(left(range(0, 9), range(0, 5)), [(6, 9)]);
        assert_eq!(left(range(0, 9), range(5, 20)), [(0, 4)]);
        assert_eq!(left(range(0, 9), range(10, 20)), [(0, 9)]);
        assert_eq!(left(range(3, 4), range(0, 9)), []);
    }
}
