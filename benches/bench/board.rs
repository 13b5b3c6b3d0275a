//! A board that processes share: who has asked, who has got it, and when.
//!
//! It is a file in memory that each of them maps. Times are those of CLOCK_MONOTONIC, which all processes of a machine
//! read alike, in nanoseconds.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tempfile::NamedTempFile;

use crate::daemon::PATIENCE;

/// The counters at its beginning. Each only rises.
#[derive(Debug)]
#[repr(C)]
struct Head {
    asks: AtomicU32,
    grants: AtomicU32,
    releaser: AtomicU64,
    released: AtomicU64,
}

/// The board, as one process has it mapped.
#[derive(Debug)]
pub(crate) struct Board {
    memory: *mut u8,
    length: usize,
    file: Option<NamedTempFile>,
}

// SAFETY: what is in the memory is atomics alone.
unsafe impl Sync for Board {}

/// Now, in nanoseconds.
pub(crate) fn now() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the place for the time lives.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

impl Board {
    /// A new one, with so many places for what is measured.
    pub(crate) fn new(places: usize) -> io::Result<Self> {
        let file = tempfile::Builder::new().prefix("lockfs-bench-").tempfile_in("/dev/shm")?;
        file.as_file().set_len((size_of::<Head>() + places * size_of::<AtomicU64>()) as u64)?;
        let mut board = Self::map(file.as_file())?;
        board.file = Some(file);
        Ok(board)
    }

    /// That of another process.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::map(&File::options().read(true).write(true).open(path)?)
    }

    fn map(file: &File) -> io::Result<Self> {
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        if length < size_of::<Head>() {
            return Err(io::Error::other("this is no board"));
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, wherever there is room; the file is as long as told.
        let memory = unsafe {
            libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { memory: memory.cast(), length, file: None })
    }

    /// Where others find it.
    pub(crate) fn path(&self) -> &Path {
        self.file.as_ref().map_or(Path::new(""), NamedTempFile::path)
    }

    fn head(&self) -> &Head {
        // SAFETY: the mapping begins at a page, is long enough, and lives as long as the board.
        unsafe { &*self.memory.cast() }
    }

    /// The places for what is measured.
    pub(crate) fn places(&self) -> &[AtomicU64] {
        let count = (self.length - size_of::<Head>()) / size_of::<AtomicU64>();
        // SAFETY: behind the head, which leaves it aligned, and within the mapping.
        unsafe { std::slice::from_raw_parts(self.memory.add(size_of::<Head>()).cast(), count) }
    }

    /// Says that one more asks from now on.
    pub(crate) fn ask(&self) {
        rise(&self.head().asks);
    }

    /// Waits until so many have asked.
    pub(crate) fn await_asks(&self, count: u32) -> io::Result<()> {
        await_count(&self.head().asks, count)
    }

    /// Says that one more has got it, and how many had it before.
    pub(crate) fn grant(&self) -> u32 {
        rise(&self.head().grants)
    }

    /// Waits until so many have got it.
    pub(crate) fn await_grants(&self, count: u32) -> io::Result<()> {
        await_count(&self.head().grants, count)
    }

    /// Says that the one of that number is about to release.
    pub(crate) fn release(&self, number: usize) {
        self.head().releaser.store(number as u64, Ordering::Relaxed);
        self.head().released.store(now(), Ordering::Release);
    }

    /// Who released last, and when.
    pub(crate) fn released(&self) -> (u64, u64) {
        let at = self.head().released.load(Ordering::Acquire);
        (self.head().releaser.load(Ordering::Relaxed), at)
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // SAFETY: it was mapped so, and nobody has a reference into it any more.
        unsafe { libc::munmap(self.memory.cast(), self.length) };
    }
}

fn rise(counter: &AtomicU32) -> u32 {
    let before = counter.fetch_add(1, Ordering::AcqRel);
    // SAFETY: futex(2) wakes who waits at an address that lives.
    unsafe { libc::syscall(libc::SYS_futex, counter.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
    before
}

fn await_count(counter: &AtomicU32, count: u32) -> io::Result<()> {
    let limit = now() + u64::try_from(PATIENCE.as_nanos()).unwrap_or(u64::MAX);
    loop {
        let is = counter.load(Ordering::Acquire);
        if is >= count {
            return Ok(());
        }
        if now() > limit {
            return Err(io::Error::other(format!("{is} where {count} should be: somebody waits for ever")));
        }
        let second = libc::timespec { tv_sec: 1, tv_nsec: 0 };
        // SAFETY: futex(2) sleeps while that value is at an address that lives; the limit lives too.
        unsafe { libc::syscall(libc::SYS_futex, counter.as_ptr(), libc::FUTEX_WAIT, is, &raw const second) };
    }
}

/// Ends this process if it is still there after a while: what it waits for does not come.
pub(crate) fn be_patient() {
    let seconds = u32::try_from(2 * PATIENCE.as_secs()).unwrap_or(u32::MAX);
    // SAFETY: alarm(2) takes a number.
    unsafe { libc::alarm(seconds) };
}

/// Between one and a half and three and a half milliseconds, another time each time: no poll falls into step with it.
pub(crate) fn a_moment() -> Duration {
    // What is below a millisecond in the clock is as good as chance here.
    Duration::from_nanos(1_500_000 + now() * 7 % 2_000_000)
}
