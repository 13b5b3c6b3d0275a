//! The `Env` through which LevelDB touches the disk: what it says is durable is, and its first error is its last.
//!
//! The crate never calls fsync, and goes on after failed writes: it installs the result of a compaction that ran out of
//! space, and deletes its inputs. Hence here: `flush` is fdatasync; a created or renamed name is synced into its directory;
//! a file is synced before it is renamed (that is how CURRENT is replaced); and after the first failed call every
//! later write, sync, rename and delete fails too ([`FailStop`]), so that no consequence of the error reaches the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::OnceLock;

use rusty_leveldb::env::{Env, FileLock, Logger, RandomAccess};
use rusty_leveldb::{Result, Status, StatusCode};

use crate::store::level::home::sync_dir;
use crate::store::level::scan::{FOOTER_BYTES, is_footer_sane};

/// The memory of the first failure: once tripped, for good.
#[derive(Debug, Default)]
pub(crate) struct FailStop {
    first: OnceLock<(String, Option<i32>)>,
}

impl FailStop {
    /// What failed first, if anything did.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.first.get().map(|(what, _)| what.as_str())
    }

    /// The system error that came first, if it was one.
    pub(crate) fn io_error(&self) -> Option<(String, io::Error)> {
        let (what, code) = self.first.get()?;
        code.map(|code| (what.clone(), io::Error::from_raw_os_error(code)))
    }

    /// Stops everything because of `what`.
    pub(crate) fn trip(&self, what: String) {
        // Only the first failure is kept: the later ones follow from it.
        let _ = self.first.set((what, None));
    }

    /// An error, if something has failed before.
    fn check(&self) -> io::Result<()> {
        match self.reason() {
            None => Ok(()),
            Some(what) => Err(io::Error::other(format!("stopped after: {what}"))),
        }
    }

    /// Passes on the outcome of `act` on `path`, and trips if it is an error.
    fn watch<T>(&self, act: &str, path: &Path, outcome: io::Result<T>) -> io::Result<T> {
        #[cfg(test)]
        tests::TRACE.with_borrow_mut(|trace| trace.push((act.to_owned(), path.to_owned())));
        outcome.inspect_err(|e| {
            let what = format!("{act} {}", path.display());
            let _ = self.first.set(match e.raw_os_error() {
                Some(code) => (what, Some(code)),
                None => (format!("cannot {what}: {e}"), None),
            });
        })
    }

    /// As `watch`, but a missing file is an answer, not a failure.
    fn watch_lookup<T>(&self, act: &str, path: &Path, outcome: io::Result<T>) -> io::Result<T> {
        match outcome {
            Err(e) if e.kind() == ErrorKind::NotFound => Err(e),
            outcome => self.watch(act, path, outcome),
        }
    }
}

/// The disk, guarded.
#[derive(Debug)]
pub(crate) struct GuardedEnv {
    stop: Rc<FailStop>,
}

impl GuardedEnv {
    /// An environment that trips `stop` at its first error, and obeys it.
    pub(crate) fn new(stop: Rc<FailStop>) -> Self {
        Self { stop }
    }

    fn create(&self, path: &Path, options: &OpenOptions) -> Result<Box<dyn Write>> {
        self.stop.check()?;
        let file = self.stop.watch("create", path, options.open(path))?;
        let parent = path.parent().unwrap_or(Path::new("."));
        self.stop.watch("sync", parent, sync_dir(parent))?;
        Ok(Box::new(GuardedWriter { file, path: path.to_owned(), stop: Rc::clone(&self.stop) }))
    }
}

impl Env for GuardedEnv {
    fn open_sequential_file(&self, path: &Path) -> Result<Box<dyn Read>> {
        open_for_scan(path, &self.stop)
    }

    fn open_random_access_file(&self, path: &Path) -> Result<Box<dyn RandomAccess>> {
        open_table(path, &self.stop)
    }

    fn open_writable_file(&self, path: &Path) -> Result<Box<dyn Write>> {
        self.create(path, OpenOptions::new().write(true).create(true).truncate(true))
    }

    fn open_appendable_file(&self, path: &Path) -> Result<Box<dyn Write>> {
        self.create(path, OpenOptions::new().append(true).create(true))
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        Ok(self.stop.watch("look up", path, path.try_exists())?)
    }

    fn children(&self, path: &Path) -> Result<Vec<PathBuf>> {
        Ok(self.stop.watch("list", path, list(path))?)
    }

    fn size_of(&self, path: &Path) -> Result<usize> {
        Ok(self.stop.watch_lookup("stat", path, fs::metadata(path))?.len() as usize)
    }

    fn delete(&self, path: &Path) -> Result<()> {
        self.stop.check()?;
        Ok(self.stop.watch("delete", path, fs::remove_file(path))?)
    }

    fn mkdir(&self, path: &Path) -> Result<()> {
        self.stop.check()?;
        Ok(self.stop.watch("create", path, fs::create_dir_all(path))?)
    }

    fn rmdir(&self, _: &Path) -> Result<()> {
        not_supported("rmdir")
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.stop.check()?;
        // Not `sync_data`: the name is new, and so is the inode behind it.
        self.stop.watch("sync", from, File::open(from).and_then(|file| file.sync_all()))?;
        self.stop.watch("rename", from, fs::rename(from, to))?;
        let parent = to.parent().unwrap_or(Path::new("."));
        Ok(self.stop.watch("sync", parent, sync_dir(parent))?)
    }

    fn lock(&self, path: &Path) -> Result<FileLock> {
        // The whole data directory is locked before LevelDB is asked.
        Ok(FileLock { id: path.display().to_string() })
    }

    fn unlock(&self, _: FileLock) -> Result<()> {
        Ok(())
    }

    fn new_logger(&self, _: &Path) -> Result<Logger> {
        Ok(Logger::new(Box::new(io::sink())))
    }

    fn micros(&self) -> u64 {
        // Only for statistics that nobody reads.
        0
    }

    fn sleep_for(&self, _: u32) {}
}

/// The error for what LevelDB never asks of us.
pub(crate) fn not_supported<T>(what: &str) -> Result<T> {
    Err(Status::new(StatusCode::NotSupported, what))
}

/// The names in `dir`, without their directory.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| Ok(PathBuf::from(entry?.file_name()))).collect()
}

/// Opens a log or MANIFEST for reading from its start; a read error trips `stop`, for LevelDB takes it for the end.
pub(crate) fn open_for_scan(path: &Path, stop: &Rc<FailStop>) -> Result<Box<dyn Read>> {
    let file = stop.watch_lookup("open", path, File::open(path))?;
    Ok(Box::new(GuardedReader { file, path: path.to_owned(), stop: Rc::clone(stop) }))
}

/// Opens a table whose footer is sane; a read error trips `stop`, for LevelDB takes it for absent keys.
pub(crate) fn open_table(path: &Path, stop: &Rc<FailStop>) -> Result<Box<dyn RandomAccess>> {
    let file = stop.watch("open", path, File::open(path))?;
    let len = stop.watch("stat", path, file.metadata())?.len();
    let mut footer = [0; FOOTER_BYTES];
    if let Some(offset) = len.checked_sub(FOOTER_BYTES as u64) {
        stop.watch("read", path, file.read_exact_at(&mut footer, offset))?;
    }
    if !is_footer_sane(&footer, len) {
        let name = path.file_name().unwrap_or_default().display();
        stop.trip(format!("the table tables/{name} has no sound footer"));
        return Err(Status::new(StatusCode::Corruption, "no sound footer"));
    }
    Ok(Box::new(GuardedTable { file, path: path.to_owned(), stop: Rc::clone(stop) }))
}

struct GuardedReader {
    file: File,
    path: PathBuf,
    stop: Rc<FailStop>,
}

impl Read for GuardedReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // LevelDB takes a short read for the end of the file.
        let mut done = 0;
        while done < buf.len() {
            match self.file.read(&mut buf[done..]) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return self.stop.watch("read", &self.path, Err(e)),
            }
        }
        Ok(done)
    }
}

struct GuardedTable {
    file: File,
    path: PathBuf,
    stop: Rc<FailStop>,
}

impl RandomAccess for GuardedTable {
    fn read_at(&self, offset: usize, buf: &mut [u8]) -> Result<usize> {
        let outcome = self.file.read_exact_at(buf, offset as u64);
        self.stop.watch("read", &self.path, outcome)?;
        Ok(buf.len())
    }
}

struct GuardedWriter {
    file: File,
    path: PathBuf,
    stop: Rc<FailStop>,
}

impl Write for GuardedWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stop.check()?;
        // All of it: LevelDB does not look at short writes.
        let outcome = self.file.write_all(buf);
        self.stop.watch("write", &self.path, outcome)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stop.check()?;
        self.stop.watch("sync", &self.path, self.file.sync_data())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use super::*;
    use crate::store::level::tables::{Live, Meta, Tables};

    thread_local! {
        /// Every call that was made, in order.
        pub(super) static TRACE: RefCell<Vec<(String, PathBuf)>> = const { RefCell::new(Vec::new()) };
    }

    fn trace_in(dir: &Path) -> Vec<String> {
        let name = |path: PathBuf| path.strip_prefix(dir).unwrap().display().to_string();
        TRACE.take().into_iter().map(|(act, path)| format!("{act} {}", name(path))).collect()
    }

    #[test]
    fn what_is_said_to_be_durable_is_synced_and_so_are_names() {
        let dir = tempfile::tempdir().unwrap();
        let env = GuardedEnv::new(Rc::default());
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        TRACE.take();
        let mut file = env.open_writable_file(&a).unwrap();
        file.write_all(b"x").unwrap();
        file.flush().unwrap();
        assert_eq!(trace_in(dir.path()), ["create a", "sync ", "write a", "sync a"]);
        env.rename(&a, &b).unwrap();
        assert_eq!(trace_in(dir.path()), ["sync a", "rename a", "sync "]);
    }

    #[test]
    fn after_the_first_error_nothing_more_is_written_renamed_or_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let env = GuardedEnv::new(Rc::default());
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        let mut sound = env.open_writable_file(&a).unwrap();
        sound.write_all(b"before").unwrap();
        // Its every write fails: full(4).
        assert!(env.open_writable_file(Path::new("/dev/full")).unwrap().write_all(b"x").is_err());
        assert!(sound.write_all(b"after").is_err());
        assert!(sound.flush().is_err());
        assert!(env.rename(&a, &b).is_err());
        assert!(env.delete(&a).is_err());
        assert!(env.open_writable_file(&b).is_err());
        assert_eq!(fs::read(&a).unwrap(), b"before");
        assert!(!b.exists());
    }

    #[test]
    fn leveldb_renames_and_deletes_nothing_while_a_write_is_not_synced() {
        let dir = tempfile::tempdir().unwrap();
        Tables::create(dir.path(), 1).unwrap();
        TRACE.take();
        let meta = Meta { store: 1, ..Meta::default() };
        let mut tables = Tables::open(dir.path(), Live::new(), meta).unwrap();
        for n in 0..400_u32 {
            let keys = [n % 77, n % 13 + 100].map(|n| n.to_string().into_bytes());
            let value = [n as u8; 300];
            let changes = keys.each_ref().map(|key| (&key[..], Some(&value[..])));
            tables.write(&changes).unwrap();
        }
        let (mut dirty, mut compactions) = (BTreeSet::new(), 0);
        for (act, path) in TRACE.take() {
            match act.as_str() {
                "write" => drop(dirty.insert(path)),
                "sync" => drop(dirty.remove(&path)),
                "rename" | "delete" => {
                    assert!(dirty.is_empty(), "{act} {path:?} while not synced: {dirty:?}");
                    compactions += 1;
                }
                _ => {}
            }
        }
        assert!(compactions > 20, "{compactions}");
        assert!(dirty.is_empty(), "never synced: {dirty:?}");
    }
}
