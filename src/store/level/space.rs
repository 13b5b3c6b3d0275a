//! How much space is left, and how much must be.
//!
//! LevelDB loses data when the disk fills up under a compaction, so it never gets that far: the log refuses to grow while
//! enough is left. The floor is 128 MiB (a compaction rewrites some 30 MiB, and its inputs stay until it is done), or an
//! eighth of a small disk. Feeding LevelDB, which frees journal segments, goes on to three quarters of it; batches that only
//! delete, which need little, to a quarter of it, for a full disk is no reason to keep locks.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

const FLOOR_BYTES: u64 = 128 << 20;
/// How much may be written before the system is asked again.
const ASK_AFTER_BYTES: u64 = 64 << 10;

/// Who wants to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writer {
    /// A batch that puts something.
    Put,
    /// A batch that only deletes.
    Delete,
    /// The feeder.
    Feed,
}

/// The free space of the file system that a directory is on.
#[derive(Debug)]
pub(crate) struct Space {
    dir: File,
    floor: u64,
    free: u64,
    written: u64,
}

/// Too little is left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TooLittle {
    /// Bytes free when last asked.
    pub(crate) free: u64,
    /// Bytes that must stay free.
    pub(crate) floor: u64,
}

impl Space {
    /// The space of the file system of `dir`.
    pub(crate) fn of(dir: &Path) -> io::Result<Self> {
        let dir = File::open(dir)?;
        let (free, total) = ask(&dir)?;
        Ok(Self { dir, floor: FLOOR_BYTES.min(total / 8), free, written: 0 })
    }

    /// Takes `bytes` for a `writer` if enough stays free. The system is asked when little is left, and every 64 KiB.
    pub(crate) fn take(&mut self, writer: Writer, bytes: u64) -> io::Result<Result<(), TooLittle>> {
        let floor = match writer {
            Writer::Put => self.floor,
            Writer::Feed => self.floor / 4 * 3,
            Writer::Delete => self.floor / 4,
        };
        let lacks = |space: &Self| space.free.saturating_sub(space.written + bytes) < floor;
        if self.written >= ASK_AFTER_BYTES || lacks(self) {
            (self.free, self.written) = (ask(&self.dir)?.0, 0);
        }
        if lacks(self) {
            return Ok(Err(TooLittle { free: self.free, floor }));
        }
        self.written += bytes;
        Ok(Ok(()))
    }

    /// What to say when the system found no space where some seemed to be; it is asked again next time.
    pub(crate) fn none_left(&mut self) -> TooLittle {
        self.free = 0;
        TooLittle { free: 0, floor: self.floor }
    }
}

/// Free and total bytes, for an unprivileged user.
fn ask(dir: &File) -> io::Result<(u64, u64)> {
    // SAFETY: statvfs is plain numbers, for which zero is a value.
    let mut answer: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open as long as `dir`, and `answer` is a statvfs to write to.
    if unsafe { libc::fstatvfs(dir.as_raw_fd(), &mut answer) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((answer.f_bavail * answer.f_frsize, answer.f_blocks * answer.f_frsize))
}

/// Whether an error of a write says that there is no space, which leaves the file as good as it was.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}
