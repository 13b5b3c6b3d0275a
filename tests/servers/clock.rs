//! The wall clock of a server, which the test sets: frozen at a time, or apart from the machine's.
//!
//! `clock.c` says how the server comes to believe it. Only the wall clock is the test's: what a server does every
//! so often, and how long it waits for a peer, goes by the monotonic clock, so a server under a frozen clock
//! answers as any other. But what Redis reckons in wall time stands still with it: keys do not expire, and the
//! limits of blocking commands (WAIT, BLPOP, XREAD BLOCK) do not come.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{fs, ptr};

use tempfile::NamedTempFile;

/// A wall clock that the test sets. Clones are the same clock.
#[derive(Clone, Debug)]
pub struct ServerClock(Arc<Word>);

impl ServerClock {
    /// A clock that stands still, at microseconds since 1970.
    pub fn frozen(at_micros: i64) -> Self {
        Self(Arc::new(Word::holding(frozen(at_micros))))
    }

    /// A clock that runs as the machine's does, apart from it by microseconds.
    pub fn shifted(by_micros: i64) -> Self {
        Self(Arc::new(Word::holding(shifted(by_micros))))
    }

    /// Stands still from now on, at microseconds since 1970.
    pub fn set(&self, at_micros: i64) {
        self.0.cell().store(frozen(at_micros), Ordering::SeqCst);
    }

    /// Runs from now on as the machine's does, apart from it by microseconds.
    pub fn shift(&self, by_micros: i64) {
        self.0.cell().store(shifted(by_micros), Ordering::SeqCst);
    }

    /// Goes forward: a frozen clock stands at a later time, one that runs is further ahead.
    pub fn advance(&self, by: Duration) {
        self.step(i64::try_from(by.as_micros()).unwrap());
    }

    /// Goes forward or back by microseconds.
    pub fn step(&self, by_micros: i64) {
        self.0.cell().fetch_add(by_micros << 1, Ordering::SeqCst);
    }

    /// Lets a program that is to be started believe this clock.
    pub fn rule(&self, command: &mut Command) {
        command.env("LD_PRELOAD", shim()).env("LOCKFS_TEST_CLOCK", self.0.file.path());
    }
}

fn frozen(at_micros: i64) -> i64 {
    at_micros << 1 | 1
}

fn shifted(by_micros: i64) -> i64 {
    by_micros << 1
}

/// The word in a file of its own, mapped.
#[derive(Debug)]
struct Word {
    file: NamedTempFile,
    mapped: ptr::NonNull<AtomicI64>,
}

impl Word {
    fn holding(value: i64) -> Self {
        let file = tempfile::Builder::new().prefix("lockfs-clock-").tempfile().expect("a temporary file");
        fs::write(file.path(), value.to_ne_bytes()).unwrap();
        // SAFETY: a new mapping, of a file that is as long as it and is never cut.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size_of::<AtomicI64>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_file().as_raw_fd(),
                0,
            )
        };
        assert_ne!(page, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Self { file, mapped: ptr::NonNull::new(page.cast()).unwrap() }
    }

    fn cell(&self) -> &AtomicI64 {
        // SAFETY: the mapping is aligned to a page and lives as long as the word.
        unsafe { self.mapped.as_ref() }
    }
}

// SAFETY: the mapping belongs to the process, and is used through an atomic alone.
unsafe impl Send for Word {}
// SAFETY: as above.
unsafe impl Sync for Word {}

impl Drop for Word {
    fn drop(&mut self) {
        // SAFETY: the mapping is the word's own, and nobody uses it after this.
        unsafe { libc::munmap(self.mapped.as_ptr().cast(), size_of::<AtomicI64>()) };
    }
}

/// The library to preload: compiled at first use, by whichever test comes first. Its name says of what source.
fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let source = include_str!("clock.c");
        let mut hasher = DefaultHasher::new();
        source.hash(&mut hasher);
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let library = target.join(format!("clock-{:016x}.so", hasher.finish()));
        if !library.exists() {
            fs::create_dir_all(target).unwrap();
            // Whoever compiles at the same time has another name for it, and the last rename wins.
            let dir = tempfile::Builder::new().prefix("clock-").tempdir_in(target).expect("a directory");
            compile(source, dir.path());
            fs::rename(dir.path().join("clock.so"), &library).unwrap();
        }
        library
    })
}

fn compile(source: &str, dir: &Path) {
    fs::write(dir.join("clock.c"), source).unwrap();
    let words = ["-O2", "-Wall", "-shared", "-fPIC", "-o", "clock.so", "clock.c"];
    let output =
        Command::new("cc").args(words.map(OsStr::new)).current_dir(dir).output().expect("a C compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
