//! The two numbers of a lock: its inode number, which it keeps, and its token, which rises.

use std::fmt;
use std::str::FromStr;

/// A fencing token: `epoch << 32 | sequence`; rises with every acquire and never repeats in a namespace.
///
/// The epoch rises with every opening of a store whose past may have been lost or forked, so a token given
/// before is below every later one even where the store forgot that it gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

impl Token {
    /// The lowest epoch. Epochs are seconds since 1970 or higher; this floor, which a machine without a
    /// clock starts from, keeps tokens clear of the numbers of synthetic files (see [`Ino`]).
    pub const EPOCH_MIN: u32 = 1 << 30;

    /// The lowest epoch of what a host grants by itself while the store that hosts share is gone. No other epoch
    /// gets there before 2038, and none of those is ever told to that store.
    pub const HOST_EPOCH: u32 = 1 << 31;

    /// The token of `sequence` in `epoch`.
    pub const fn new(epoch: u32, sequence: u32) -> Self {
        Self((epoch as u64) << 32 | sequence as u64)
    }

    /// The token that a record spells `number`.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The whole number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The upper half.
    pub const fn epoch(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Whether a host gave it by itself: it fences nobody off on other hosts.
    pub const fn is_of_host(self) -> bool {
        self.epoch() >= Self::HOST_EPOCH
    }

    /// The token after this one; into the next epoch after 2^32 of them.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hint = "a token is a whole number, as lockfs ls --json and user.lock.token say it";
        text.parse().map(Self).map_err(|_| hint.to_owned())
    }
}

/// An inode number: the token of an object at its birth. The root is [`Ino::ROOT`].
///
/// Numbers below [`Token::EPOCH_MIN`]` << 32` are never tokens; the synthetic files have theirs there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(u64);

impl Ino {
    /// The root of the namespace, as FUSE numbers it (`FUSE_ROOT_ID`).
    pub const ROOT: Self = Self(1);

    /// The inode that the kernel or a record calls `number`.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The number, for the kernel or a record.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Whether a host gave it by itself, while the store that hosts share was gone.
    pub const fn is_of_host(self) -> bool {
        Token::from_u64(self.0).is_of_host()
    }
}

impl From<Token> for Ino {
    fn from(birth: Token) -> Self {
        Self(birth.0)
    }
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
