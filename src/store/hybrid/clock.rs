//! The clock of Redis, as far as it was last heard, and what a host remembers of it when it has no daemon.
//!
//! Leases of both stores count on it: what Redis said of a deadline stays true in the mirror.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::{BootId, BootTime, Clock, Now, WallTime};

/// The clock.
#[derive(Debug)]
pub(super) struct ServerClock {
    system: Arc<dyn Clock>,
    /// The server's clock less ours, in nanoseconds.
    offset: Mutex<i128>,
}

impl ServerClock {
    pub(super) fn new(system: Arc<dyn Clock>, offset: i128) -> Self {
        Self { system, offset: Mutex::new(offset) }
    }

    pub(super) fn offset(&self) -> i128 {
        *self.offset.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, offset: i128) {
        *self.offset.lock().unwrap_or_else(PoisonError::into_inner) = offset;
    }

    /// A moment of ours on the server's clock.
    pub(super) fn at(&self, boot: BootTime) -> BootTime {
        let nanos = i128::from(boot.as_nanos()) + self.offset();
        BootTime::from_nanos(u64::try_from(nanos).unwrap_or_default())
    }
}

impl Clock for ServerClock {
    fn now(&self) -> Now {
        let boot = self.at(self.system.now().boot);
        Now { boot, wall: WallTime::default() + boot.since(BootTime::default()) }
    }
}

/// What a daemon left.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Whether it stood alone, and had taken note of what was seen of others.
    pub(super) stood_alone: bool,
    offset: Option<i128>,
}

impl Memory {
    fn file(state: &Path) -> PathBuf {
        let mut name = state.to_owned().into_os_string();
        name.push(".hybrid");
        name.into()
    }

    /// What the last daemon left; nothing where there was none, or what it left makes no sense.
    pub(super) fn read(state: &Path) -> Self {
        let text = fs::read_to_string(Self::file(state)).unwrap_or_default();
        let mut words = text.split_whitespace();
        let stood_alone = words.next() == Some("alone");
        let offset = words.next().and_then(|word| word.parse().ok());
        let is_of_this_boot = BootId::current().is_ok_and(|boot| Some(boot.as_str()) == words.next());
        Self { stood_alone, offset: offset.filter(|_| is_of_this_boot) }
    }

    /// The server's clock less ours: as it was last heard in this boot, else that of our wall clock.
    pub(super) fn offset(&self, now: Now) -> i128 {
        let wall = i128::try_from(now.wall.since(WallTime::default()).as_nanos()).unwrap_or_default();
        self.offset.unwrap_or(wall - i128::from(now.boot.as_nanos()))
    }

    /// Notes it for the next daemon.
    pub(super) fn write(state: &Path, stands_alone: bool, offset: i128) -> io::Result<()> {
        let (file, word) = (Self::file(state), if stands_alone { "alone" } else { "together" });
        let boot = BootId::current()?;
        let next = file.with_extension("hybrid-new");
        let new = fs::File::create(&next)?;
        io::Write::write_all(&mut &new, format!("{word} {offset} {}\n", boot.as_str()).as_bytes())?;
        new.sync_data()?;
        fs::rename(next, file)
    }
}
