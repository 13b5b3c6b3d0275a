//! The `tail` file: the last batch number, kept beside the journal so that a journal that was cut short is noticed.
//!
//! It is written after the journal and before the reply, 64 bytes at a time into two slots by turns, so that a torn write
//! leaves the other slot. With `Durability::Power` both files are synced in that order before the reply, so the journal
//! never ends before the tail says. With `Process` neither is, and what the pair proves depends on what has happened since:
//!
//! | since the last write | journal ends at | else |
//! |---|---|---|
//! | closed cleanly (either durability) | exactly the tail's number | damaged |
//! | `kill -9`, same boot (page cache kept) | the tail's number, or one more | damaged |
//! | power cut under `Power` | the tail's number, or one more | damaged |
//! | power cut under `Process` (another boot id) | anywhere: either file may be older | accepted, and reported |
//!
//! | bytes | slot (at offset 0 and 512) |
//! |---|---|
//! | 4 | `LKT` and the version, 1 |
//! | 1, 1, 2 | durability (0 process, 1 power), closed cleanly (0, 1), zero |
//! | 8, 8, 8, 8 | write number (the higher slot counts), last batch, newest segment, store id |
//! | 16 | boot id of the writer, zero if unknown |
//! | 8 | zero |
//! | 4 | CRC-32C of the above |

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::store::Durability;
use crate::store::level::error::{Flaw, io_flaw};
use crate::store::level::home::sync_data;

const SLOT_BYTES: usize = 64;
const SLOT_OFFSETS: [u64; 2] = [0, 512];
const MAGIC: &[u8; 3] = b"LKT";
const VERSION: u8 = 1;

/// Names one boot of one machine; all zero when it is unknown, which equals no boot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BootId(pub(crate) [u8; 16]);

impl BootId {
    /// This boot's id, from `/proc/sys/kernel/random/boot_id` (random(4)).
    pub(crate) fn current() -> Self {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let hex: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        Self(u128::from_str_radix(&hex, 16).unwrap_or(0).to_be_bytes())
    }

    /// Whether both are known, and the same boot.
    pub(crate) fn is_same(self, other: Self) -> bool {
        self.0 == other.0 && self.0 != [0; 16]
    }
}

/// What the tail file says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TailState {
    /// The number of the last acknowledged batch, 0 for none.
    pub(crate) last: u64,
    /// The newest journal segment in use.
    pub(crate) segment: u64,
    /// The store this file belongs to.
    pub(crate) store: u64,
    /// What the writer promised.
    pub(crate) durability: Durability,
    /// Whether the log was closed after this batch, everything synced.
    pub(crate) clean: bool,
    /// The boot in which this was written.
    pub(crate) boot: BootId,
}

/// The open tail file.
#[derive(Debug)]
pub(crate) struct Tail {
    file: File,
    writes: u64,
}

impl Tail {
    /// Creates the file with `state` in both slots, and syncs it.
    pub(crate) fn create(path: &Path, state: &TailState) -> Result<(), Flaw> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .map_err(io_flaw("create", path))?;
        let mut tail = Self { file, writes: 0 };
        tail.write_both(state).and_then(|()| tail.file.sync_all()).map_err(io_flaw("write", path))
    }

    /// The newest slot that is whole.
    pub(crate) fn read(path: &Path) -> Result<TailState, Flaw> {
        Self::read_newest(path).map(|(_, state)| state)
    }

    fn read_newest(path: &Path) -> Result<(u64, TailState), Flaw> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Flaw::Damaged("the file tail is missing".into()));
            }
            Err(e) => return Err(io_flaw("read", path)(e)),
        };
        let mut newest: Option<(u64, TailState)> = None;
        for offset in SLOT_OFFSETS {
            let offset = offset as usize;
            let Some(slot) = bytes.get(offset..offset + SLOT_BYTES) else { continue };
            if let Some(found) = decode(slot)?
                && newest.is_none_or(|(writes, _)| found.0 > writes)
            {
                newest = Some(found);
            }
        }
        newest.ok_or_else(|| Flaw::Damaged("both slots of the file tail have bad checksums".into()))
    }

    /// Opens the file to go on writing to it.
    pub(crate) fn open(path: &Path) -> Result<Self, Flaw> {
        let (writes, _) = Self::read_newest(path)?;
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(io_flaw("open", path))?;
        Ok(Self { file, writes })
    }

    /// Writes `state` to the slot whose turn it is.
    pub(crate) fn write(&mut self, state: &TailState) -> io::Result<()> {
        self.writes += 1;
        self.file.write_all_at(&encode(self.writes, state), SLOT_OFFSETS[(self.writes % 2) as usize])
    }

    /// Writes `state` to both slots.
    pub(crate) fn write_both(&mut self, state: &TailState) -> io::Result<()> {
        self.write(state)?;
        self.write(state)
    }

    /// Makes what was written survive a power cut.
    pub(crate) fn sync(&self) -> io::Result<()> {
        sync_data(&self.file)
    }

    /// A second handle, with which another thread can sync.
    pub(crate) fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}

fn encode(writes: u64, state: &TailState) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..3].copy_from_slice(MAGIC);
    slot[3] = VERSION;
    slot[4] = match state.durability {
        Durability::Process => 0,
        Durability::Power => 1,
    };
    slot[5] = u8::from(state.clean);
    slot[8..16].copy_from_slice(&writes.to_le_bytes());
    slot[16..24].copy_from_slice(&state.last.to_le_bytes());
    slot[24..32].copy_from_slice(&state.segment.to_le_bytes());
    slot[32..40].copy_from_slice(&state.store.to_le_bytes());
    slot[40..56].copy_from_slice(&state.boot.0);
    let crc = crc32c::crc32c(&slot[..60]);
    slot[60..].copy_from_slice(&crc.to_le_bytes());
    slot
}

/// `None` for a slot that is torn or was never written.
fn decode(slot: &[u8]) -> Result<Option<(u64, TailState)>, Flaw> {
    let u64_at = |at: usize| u64::from_le_bytes(slot[at..at + 8].try_into().expect("eight bytes"));
    if &slot[..3] != MAGIC || slot[60..64] != crc32c::crc32c(&slot[..60]).to_le_bytes() {
        return Ok(None);
    }
    if slot[3] != VERSION {
        return Err(Flaw::Newer(format!("tail version {}", slot[3])));
    }
    let state = TailState {
        last: u64_at(16),
        segment: u64_at(24),
        store: u64_at(32),
        durability: if slot[4] == 0 { Durability::Process } else { Durability::Power },
        clean: slot[5] == 1,
        boot: BootId(slot[40..56].try_into().expect("sixteen bytes")),
    };
    Ok(Some((u64_at(8), state)))
}
