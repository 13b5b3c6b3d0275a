//! Numbers that the kernel still knows things by: of what this host granted by itself, and Redis knows by another.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use crate::lock::{Ino, SessionId};
use crate::table::{Command, Spot};

/// The numbers.
#[derive(Debug, Default)]
pub(super) struct Aliases(RwLock<Known>);

#[derive(Debug, Default)]
struct Known {
    objects: HashMap<Ino, Ino>,
    sessions: HashMap<Ino, SessionId>,
}

impl Aliases {
    fn known<T>(&self, ask: impl FnOnce(&Known) -> T) -> T {
        ask(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes what became of some objects and sessions.
    pub(super) fn add(
        &self,
        objects: impl IntoIterator<Item = (Ino, Ino)>,
        sessions: impl IntoIterator<Item = (Ino, SessionId)>,
    ) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.objects.extend(objects);
        known.sessions.extend(sessions);
    }

    /// The number by which an object is known now.
    pub(super) fn ino(&self, ino: Ino) -> Ino {
        // All others are known by their first.
        if !ino.is_of_host() {
            return ino;
        }
        self.known(|known| known.objects.get(&ino).copied().unwrap_or(ino))
    }

    /// The session that had that number.
    pub(super) fn session(&self, ino: Ino) -> Option<SessionId> {
        if !ino.is_of_host() {
            return None;
        }
        self.known(|known| known.sessions.get(&ino).cloned())
    }

    /// The same spot, by the number by which its directory is known now.
    pub(super) fn spot<'a>(&self, spot: &'a Spot) -> Cow<'a, Spot> {
        match self.ino(spot.parent) {
            parent if parent == spot.parent => Cow::Borrowed(spot),
            parent => Cow::Owned(Spot { parent, name: spot.name.clone() }),
        }
    }

    /// The same command, by the numbers by which things are known now.
    pub(super) fn command<'a>(&self, command: &'a Command) -> Cow<'a, Command> {
        let (spots, ino) = subjects(command);
        let is_known = |old: Ino| self.ino(old) == old;
        if spots.into_iter().flatten().all(|spot| is_known(spot.parent)) && ino.is_none_or(is_known) {
            return Cow::Borrowed(command);
        }
        let mut command = command.clone();
        match &mut command {
            Command::Acquire { spot, .. }
            | Command::Await { spot, .. }
            | Command::Unlink { spot, .. }
            | Command::Rmdir { spot, .. } => spot.parent = self.ino(spot.parent),
            Command::Link { ino, spot, .. } => {
                (*ino, spot.parent) = (self.ino(*ino), self.ino(spot.parent));
            }
            Command::Rename { from, to, .. } => {
                (from.parent, to.parent) = (self.ino(from.parent), self.ino(to.parent));
            }
            Command::Open { ino, .. }
            | Command::Close { ino, .. }
            | Command::Lock { ino, .. }
            | Command::Unlock { ino, .. }
            | Command::Write { ino, .. }
            | Command::Truncate { ino, .. }
            | Command::Change { ino, .. }
            | Command::SetTtl { ino, .. }
            | Command::SetDefaultTtl { ino, .. }
            | Command::Break { ino, .. }
            | Command::Transfer { ino, .. } => *ino = self.ino(*ino),
            _ => {}
        }
        Cow::Owned(command)
    }
}

/// The entries and the object that a command is about.
pub(super) fn subjects(command: &Command) -> ([Option<&Spot>; 2], Option<Ino>) {
    let spots = match command {
        Command::Acquire { spot, .. }
        | Command::Await { spot, .. }
        | Command::Unlink { spot, .. }
        | Command::Rmdir { spot, .. }
        | Command::Link { spot, .. } => [Some(spot), None],
        Command::Rename { from, to, .. } => [Some(from), Some(to)],
        _ => [None, None],
    };
    (spots, command.object())
}
