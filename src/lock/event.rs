//! Events: what happened in a namespace, one line each.

use std::fmt;

use super::{LockPath, SessionId, Token};
use crate::clock::WallTime;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A session came to hold a lock.
    Acquire,
    /// Its holder, or whoever may, let it go.
    Release,
    /// Its deadline passed.
    Expire,
    /// Someone ended another's lock on purpose.
    Break,
    /// A lock went to another session, or to another name.
    Transfer,
    /// A session began.
    Begin,
    /// A session ended.
    End,
    /// A lock was gone with lost data, and when its host said that it holds it another had its name already.
    Lost,
}

impl EventKind {
    /// Every kind, each at its own number.
    pub const ALL: [Self; 8] = [
        Self::Acquire,
        Self::Release,
        Self::Expire,
        Self::Break,
        Self::Transfer,
        Self::Begin,
        Self::End,
        Self::Lost,
    ];

    /// The word in `.lockfs/events`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Acquire => "acquire",
            Self::Release => "release",
            Self::Expire => "expire",
            Self::Break => "break",
            Self::Transfer => "transfer",
            Self::Begin => "begin",
            Self::End => "end",
            Self::Lost => "lost",
        }
    }
}

/// One thing that happened. Prints as one line of `.lockfs/events`, without its line feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, on the store's clock.
    pub at: WallTime,
    /// What.
    pub kind: EventKind,
    /// To which lock; the empty path where it happened to a whole session.
    pub path: LockPath,
    /// The lock's token after it; `None` where it happened to a session.
    pub token: Option<Token>,
    /// Of which session, after it.
    pub session: Option<SessionId>,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.at, self.kind.as_str())?;
        if let Some(session) = &self.session {
            write!(f, " session={session}")?;
        }
        // The path is last: it alone may hold spaces.
        match self.token {
            // What one host granted by itself fences nobody off.
            Some(token) if token.is_of_host() => write!(f, " scope=host path={}", self.path),
            Some(token) => write!(f, " token={token} path={}", self.path),
            None => Ok(()),
        }
    }
}
