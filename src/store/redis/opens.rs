//! What mounts of this daemon have open, as the daemon counts it, and what of that the server was told.
//!
//! The server knows who opened what was there, and who opened what a plain `O_CREAT` made: others may take the name
//! away, or lock the file. Of what an exclusive create made only its holder may take the name, so that nobody tells
//! the server of it before that matters: an acquire is one step, and a close none.
//!
//! The invariant: whatever is told carries a number that rises, and the server heeds no number below one that it has
//! seen of an object that is open. So what overtakes something else on the way does no harm.

use std::collections::{BTreeMap, HashMap};

use crate::lock::{Ino, MountId};

/// How often a mount has something open.
#[derive(Clone, Copy, Debug, Default)]
struct Open {
    count: u32,
    /// Whether the server knows, or may know.
    is_told: bool,
}

/// What mounts of this daemon have open.
#[derive(Debug, Default)]
pub(super) struct Opens {
    by_object: HashMap<Ino, BTreeMap<MountId, Open>>,
    last: u64,
    /// How many acquires are under way that may open what is there.
    under_way: u32,
    /// What was closed for the last time meanwhile, and under which number that was told.
    closed: HashMap<(Ino, MountId), u64>,
}

impl Opens {
    /// Numbers go on above this one.
    pub(super) fn begin_above(&mut self, number: u64) {
        self.last = self.last.max(number);
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn open(&mut self, ino: Ino, mount: MountId) -> &mut Open {
        let open = self.by_object.entry(ino).or_default().entry(mount).or_default();
        open.count += 1;
        open
    }

    /// Whether any mount has it open.
    pub(super) fn has(&self, ino: Ino) -> bool {
        self.by_object.contains_key(&ino)
    }

    /// Whether any mount has it open of which the server does not know.
    pub(super) fn has_untold(&self, ino: Ino) -> bool {
        self.by_object.get(&ino).is_some_and(|mounts| mounts.values().any(|open| !open.is_told))
    }

    /// One more is open, of which the server needs not know.
    pub(super) fn open_untold(&mut self, ino: Ino, mount: MountId) {
        self.open(ino, mount);
    }

    /// One more is about to be open; the number under which to tell the server, where it must be told.
    pub(super) fn begin_open(&mut self, ino: Ino, mount: MountId) -> Option<u64> {
        let open = self.open(ino, mount);
        (!std::mem::replace(&mut open.is_told, true)).then(|| self.next())
    }

    /// The server does not know, for certain.
    pub(super) fn not_told(&mut self, ino: Ino, mount: MountId) {
        if let Some(open) = self.by_object.get_mut(&ino).and_then(|mounts| mounts.get_mut(&mount)) {
            open.is_told = false;
        }
    }

    /// One less is open; the number under which to tell the server, where it was the last and the server knows.
    pub(super) fn close(&mut self, ino: Ino, mount: MountId) -> Option<u64> {
        let mounts = self.by_object.get_mut(&ino)?;
        let open = mounts.get_mut(&mount)?;
        open.count -= 1;
        if open.count > 0 {
            return None;
        }
        let is_told = open.is_told;
        mounts.remove(&mount);
        if mounts.is_empty() {
            self.by_object.remove(&ino);
        }
        if !is_told {
            return None;
        }
        let number = self.next();
        if self.under_way > 0 {
            self.closed.insert((ino, mount), number);
        }
        Some(number)
    }

    /// An acquire is about to open what it finds or makes: the number under which it tells the server.
    pub(super) fn begin_acquire(&mut self) -> u64 {
        self.under_way += 1;
        self.next()
    }

    /// An acquire is over; what it has opened, and under which number. Whether the server must be told again: it was
    /// told meanwhile that the last was closed.
    pub(super) fn end_acquire(&mut self, opened: Option<(Ino, MountId, u64)>) -> bool {
        self.under_way -= 1;
        let again = opened.is_some_and(|(ino, mount, number)| {
            self.open(ino, mount).is_told = true;
            self.closed.get(&(ino, mount)).is_some_and(|closed| *closed > number)
        });
        if self.under_way == 0 {
            self.closed.clear();
        }
        again
    }

    /// The mounts that have an object open and have not told the server, and the numbers under which they do. It
    /// stays open until each is closed once more.
    pub(super) fn begin_telling(&mut self, ino: Ino) -> Vec<(MountId, u64)> {
        let mounts = self.by_object.get_mut(&ino).into_iter().flatten();
        let untold = mounts.filter(|(_, open)| !open.is_told);
        let told: Vec<MountId> = untold
            .map(|(mount, open)| {
                open.is_told = true;
                open.count += 1;
                *mount
            })
            .collect();
        told.into_iter().map(|mount| (mount, self.next())).collect()
    }

    /// All that was open of an object, by mount: whoever asks counts it from now on.
    pub(super) fn take(&mut self, ino: Ino) -> Vec<(MountId, u32)> {
        let mounts = self.by_object.remove(&ino).into_iter().flatten();
        mounts.map(|(mount, open)| (mount, open.count)).collect()
    }

    /// All that is open, and how often.
    pub(super) fn all(&self) -> Vec<(Ino, MountId, u32)> {
        let each =
            self.by_object.iter().flat_map(|(ino, mounts)| mounts.iter().map(move |open| (*ino, open)));
        each.map(|(ino, (mount, open))| (ino, *mount, open.count)).collect()
    }

    /// What a mount had is gone.
    pub(super) fn forget_mount(&mut self, mount: MountId) {
        self.by_object.retain(|_, mounts| {
            mounts.remove(&mount);
            !mounts.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INO: Ino = Ino::from_u64(7);
    const MOUNT: MountId = MountId::from_u64(1);

    #[test]
    fn the_server_is_told_of_the_first_and_of_the_last() {
        let mut opens = Opens::default();
        assert_eq!(opens.begin_open(INO, MOUNT), Some(1));
        assert_eq!(opens.begin_open(INO, MOUNT), None);
        assert_eq!(opens.close(INO, MOUNT), None);
        assert_eq!(opens.close(INO, MOUNT), Some(2));
        assert_eq!(opens.close(INO, MOUNT), None);
    }

    #[test]
    fn what_an_exclusive_create_made_is_told_of_when_it_matters() {
        let mut opens = Opens::default();
        opens.open_untold(INO, MOUNT);
        assert_eq!(opens.begin_telling(INO), [(MOUNT, 1)]);
        assert_eq!(opens.begin_telling(INO), []);
        assert_eq!((opens.close(INO, MOUNT), opens.close(INO, MOUNT)), (None, Some(2)));
        opens.open_untold(INO, MOUNT);
        assert_eq!(opens.close(INO, MOUNT), None);
    }

    #[test]
    fn what_was_closed_while_it_was_opened_is_told_of_again() {
        let mut opens = Opens::default();
        let number = opens.begin_acquire();
        opens.begin_open(INO, MOUNT);
        opens.close(INO, MOUNT);
        assert!(opens.end_acquire(Some((INO, MOUNT, number))));
        let number = opens.begin_acquire();
        assert!(!opens.end_acquire(Some((INO, MOUNT, number))));
    }
}
