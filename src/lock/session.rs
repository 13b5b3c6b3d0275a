//! Sessions: groups of locks that end together.

use std::fmt;
use std::sync::Arc;

use super::{Ino, Name, Ttl};
use crate::clock::{BootId, BootTime, WallTime};

/// What a session is called: 1 to 128 bytes of `A-Za-z0-9._@:+-`, not starting with a dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(Arc<str>);

impl SessionId {
    /// The longest name, in bytes.
    pub const MAX: usize = 128;

    /// Takes `bytes` as the name of a session.
    ///
    /// # Errors
    /// [`SessionError`] where they break the rule above.
    pub fn parse(bytes: &[u8]) -> Result<Self, SessionError> {
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._@:+-".contains(byte);
        let text = std::str::from_utf8(bytes).map_err(|_| SessionError)?;
        if text.is_empty() || text.len() > Self::MAX || text.starts_with('.') || !bytes.iter().all(allowed) {
            return Err(SessionError);
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Bytes that name no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionError;

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a session name is 1 to 128 of A-Z a-z 0-9 . _ @ : + - and does not start with a dot")
    }
}

impl std::error::Error for SessionError {}

/// A process group of one boot of one host: what a shell calls a job.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Job {
    /// The process group's number.
    pub pgid: u32,
    /// When its leader started, in clock ticks since boot (proc_pid_stat(5), field 22); 0 where the leader
    /// was gone before anyone asked. With it a reused number is another job.
    pub start: u64,
    /// The boot whose process it is.
    pub boot: BootId,
}

/// A login: the POSIX session (setsid(2)) of a job, by a text that no other login has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Login(Arc<str>);

impl Login {
    /// The login that a record spells `text`.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The login as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What makes a session live.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SessionKind {
    /// Begun by `mkdir .sessions/NAME` or by `LOCKFS_SESSION`; lives by being touched.
    Named,
    /// The implicit session of a job; lives as long as the job has a process.
    Job(Job),
    /// Of callers whose process this host can't see; lives by being touched.
    Unseen,
}

/// Who began a session, for people to read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The user's name on that host, or the number where it has none.
    pub user: String,
    /// The host's id.
    pub host: String,
    /// The process: of a job its leader, else the process that began the session; 0 where it can't be seen.
    pub pid: u32,
    /// The name of that process (proc_pid_comm(5)), empty where it can't be seen.
    pub command: String,
}

/// What the store keeps of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// The number of its directory below `.sessions`: the token at its birth.
    pub ino: Ino,
    /// Whose it is.
    pub uid: u32,
    /// The group of its directory.
    pub gid: u32,
    /// What makes it live.
    pub kind: SessionKind,
    /// Who began it.
    pub origin: Origin,
    /// The login of the process that began it; `None` where it can't be seen.
    pub login: Option<Login>,
    /// When it began.
    pub since: WallTime,
    /// The mtime of its directory: when it began, or what `touch` set.
    pub mtime: WallTime,
    /// When it was last seen alive, to a second: moves of less than that are not worth a write.
    pub seen: BootTime,
    /// What its new locks get where no directory says otherwise, and how long it lives untouched while empty.
    pub ttl: Ttl,
    /// Its job has no process any more.
    pub ended: bool,
    /// Names that it held and lost, by their directory; it is told when it next unlinks one.
    pub lost: Vec<(Ino, Name)>,
}

impl Origin {
    /// `alice@dev1 make[4711]`: who it is, for `cat` and `ls`.
    pub fn holder(&self) -> String {
        let Origin { user, host, pid, command } = self;
        match pid {
            0 => format!("{user}@{host}"),
            _ => format!("{user}@{host} {command}[{pid}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_name_has_no_surprises() {
        for good in ["a", "agent-7@dev1:x+y_z.1", &"x".repeat(128)] {
            assert!(SessionId::parse(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".a", "a/b", "a b", "a\n", "\u{e9}", "a\0", &"x".repeat(129)] {
            assert!(SessionId::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(SessionId::parse(b"\xff").is_err());
    }
}
