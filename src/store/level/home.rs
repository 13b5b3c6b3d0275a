//! The data directory: whose it is, who has it open, and what must be in it.
//!
//! | name | what |
//! |---|---|
//! | `FORMAT` | `lockfs level store 2`, and the store's random id; written last when a store is made |
//! | `FORMAT.new` | the same, while the store is being made: nothing in it has been acknowledged yet |
//! | `socket` | a Unix socket on which the daemon that has the store open lets a migration copy it (`serve.rs`) |
//! | `lock` | held with flock(2) by the process that has the store open, and names it |
//! | `tail` | the last batch number (`tail.rs`) |
//! | `journal-*` | the latest batches (`journal.rs`) |
//! | `tables/` | LevelDB (`tables.rs`) |
//! | `damaged-*/` | stores that were set aside |
//!
//! Invariant: with `FORMAT` there, all of `tail`, `tables/` and the journal must be; nothing is ever begun in a directory
//! that holds anything else. The lock comes before everything, for opening LevelDB already writes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::store::Durability;
use crate::store::level::error::{Flaw, LevelError, io_flaw};
use crate::store::level::journal::{Header, encode_header, segment_number, segment_path};
use crate::store::level::tables::Tables;
use crate::store::level::tail::{BootId, Tail, TailState};

const FORMAT_WORDS: &str = "lockfs level store";
/// The version that this program writes. It reads all before it: the entries of the first are among those of the second.
const FORMAT_VERSION: u32 = 2;

/// A data directory that this process has locked.
#[derive(Debug)]
pub(crate) struct Home {
    dir: PathBuf,
    /// `None` where nothing can be locked: a check of a store that no process has ever opened.
    lock: Option<File>,
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(lock) = &self.lock {
            // Closing alone would not unlock while a child that another thread has just forked still has the descriptor.
            // SAFETY: the descriptor is open as long as `lock`.
            unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_UN) };
        }
    }
}

/// What a data directory is.
#[derive(Debug)]
pub(crate) enum State {
    /// Nothing is in it.
    Empty,
    /// A store was begun in it, and never finished.
    Begun,
    /// A store with this id.
    Store(u64),
}

impl Home {
    /// Makes `dir` if need be, and locks it.
    pub(crate) fn claim(dir: &Path) -> Result<Self, LevelError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| io_flaw("create", dir)(e).at(dir))?;
        // Not even a lock file is put into what is not ours.
        if let Err(foreign @ LevelError::Foreign { .. }) = (Self { dir: dir.to_owned(), lock: None }).state()
        {
            return Err(foreign);
        }
        let path = dir.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| io_flaw("open", &path)(e).at(dir))?;
        lock_or_name_holder(&mut lock, dir)?;
        let name_me = || -> io::Result<()> {
            lock.set_len(0)?;
            (&lock).write_all(format!("pid {} ({})\n", std::process::id(), command_line()).as_bytes())
        };
        // Only a courtesy to the next one who asks; on a full disk the lock is as good without.
        if let Err(e) = name_me() {
            log::warn!("cannot write {}: {e}", path.display());
        }
        Ok(Self { dir: dir.to_owned(), lock: Some(lock) })
    }

    /// `dir`, without a lock: for what never changes.
    pub(crate) fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), lock: None }
    }

    /// Locks `dir` without writing anything.
    pub(crate) fn claim_to_read(dir: &Path) -> Result<Self, LevelError> {
        let path = dir.join("lock");
        let lock = match File::open(&path) {
            Ok(mut lock) => {
                lock_or_name_holder(&mut lock, dir)?;
                Some(lock)
            }
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(io_flaw("open", &path)(e).at(dir)),
        };
        Ok(Self { dir: dir.to_owned(), lock })
    }

    /// The data directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// LevelDB's directory.
    pub(crate) fn tables(&self) -> PathBuf {
        self.dir.join("tables")
    }

    /// The tail file.
    pub(crate) fn tail(&self) -> PathBuf {
        self.dir.join("tail")
    }

    /// The numbers of the journal segments that are there, ascending.
    pub(crate) fn segments(&self) -> Result<Vec<u64>, Flaw> {
        let names = names_in(&self.dir)?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// What is in the directory.
    pub(crate) fn state(&self) -> Result<State, LevelError> {
        let here = |flaw: Flaw| flaw.at(&self.dir);
        if let Some(text) = read_if_there(&self.dir.join("FORMAT")).map_err(here)? {
            return parse_format(&text).map(State::Store).map_err(here);
        }
        let names: Vec<String> = match names_in(&self.dir) {
            Ok(names) => names.into_iter().filter(|name| !is_beside_the_store(name)).collect(),
            Err(Flaw::Io(_, e)) if e.kind() == ErrorKind::NotFound => return Ok(State::Empty),
            Err(flaw) => return Err(here(flaw)),
        };
        let Some(first) = names.first() else { return Ok(State::Empty) };
        if let Some(stranger) = names.iter().find(|name| !is_of_a_store(name)) {
            let what = format!("{stranger:?}");
            return Err(LevelError::Foreign { dir: self.dir.clone(), what });
        }
        let was_begun = names.iter().any(|name| name == "FORMAT.new");
        let was_used = Tail::read(&self.tail()).is_ok_and(|tail| tail.last > 0);
        if was_begun && !was_used {
            return Ok(State::Begun);
        }
        Err(here(Flaw::Damaged(format!("the file FORMAT is missing beside {first}"))))
    }

    /// Makes a store in a directory that is [`State::Empty`] or [`State::Begun`]; returns its id.
    pub(crate) fn found(&self) -> Result<u64, Flaw> {
        let (begun, format) = (self.dir.join("FORMAT.new"), self.dir.join("FORMAT"));
        let store = RandomState::new().hash_one(std::process::id());
        write_synced(&begun, format_text(store).as_bytes())?;
        sync_dir(&self.dir).map_err(io_flaw("sync", &self.dir))?;

        // What an earlier attempt left: it never got as far as acknowledging anything.
        let tables = self.tables();
        match fs::remove_dir_all(&tables) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(io_flaw("delete", &tables)(e)),
            _ => {}
        }
        for number in self.segments()? {
            let path = segment_path(&self.dir, number);
            fs::remove_file(&path).map_err(io_flaw("delete", &path))?;
        }

        fs::create_dir(&tables).map_err(io_flaw("create", &tables))?;
        Tables::create(&tables, store)?;
        write_synced(
            &segment_path(&self.dir, 1),
            &encode_header(store, Header { number: 1, first: 1, before: 0 }),
        )?;
        let tail = TailState {
            last: 0,
            segment: 1,
            store,
            durability: Durability::Power,
            clean: true,
            boot: BootId::current(),
        };
        Tail::create(&self.tail(), &tail)?;
        sync_dir(&self.dir).map_err(io_flaw("sync", &self.dir))?;
        fs::rename(&begun, &format).map_err(io_flaw("rename", &begun))?;
        sync_dir(&self.dir).map_err(io_flaw("sync", &self.dir))?;
        Ok(store)
    }

    /// Says from now on that the store may hold what this version writes: a version that can't read that refuses it.
    pub(crate) fn raise_format(&self, store: u64) -> Result<(), Flaw> {
        let (raised, format) = (self.dir.join("FORMAT.new"), self.dir.join("FORMAT"));
        let text = format_text(store);
        if read_if_there(&format)?.as_deref() == Some(text.as_bytes()) {
            return Ok(());
        }
        write_synced(&raised, text.as_bytes())?;
        fs::rename(&raised, &format).map_err(io_flaw("rename", &raised))?;
        sync_dir(&self.dir).map_err(io_flaw("sync", &self.dir))
    }

    /// Moves the store, whatever its state, into `damaged-<n>/` within the directory; returns that path. A directory of
    /// its own beside it would need rights to the parent, which the daemon's user seldom has.
    pub(crate) fn set_aside(&self) -> Result<PathBuf, LevelError> {
        let here = |flaw: Flaw| flaw.at(&self.dir);
        let names = names_in(&self.dir).map_err(here)?;
        let mut ours: Vec<&String> = names.iter().filter(|name| is_of_a_store(name)).collect();
        if ours.is_empty() {
            return Err(LevelError::Absent { dir: self.dir.clone() });
        }
        let aside = (1..)
            .map(|n| self.dir.join(format!("damaged-{n}")))
            .find(|path| !path.exists())
            .expect("some number is free");
        fs::create_dir(&aside).map_err(io_flaw("create", &aside)).map_err(here)?;
        // FORMAT goes last: should this be interrupted, what is left is still a damaged store, and never an empty directory.
        ours.sort_by_key(|name| name.starts_with("FORMAT"));
        for name in ours {
            let from = self.dir.join(name);
            fs::rename(&from, aside.join(name)).map_err(io_flaw("rename", &from)).map_err(here)?;
        }
        sync_dir(&aside).and_then(|()| sync_dir(&self.dir)).map_err(io_flaw("sync", &aside)).map_err(here)?;
        Ok(aside)
    }
}

/// Makes the names in `dir` survive a power cut.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes all that was acknowledged of the store in `dir` survive a power cut, whatever its durability: what is not in its
/// journal any more is in the tables, and synced.
pub(crate) fn sync_journal(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == "tail" || name.to_str().and_then(segment_number).is_some() {
            match File::open(entry.path()).and_then(|file| file.sync_all()) {
                // It has gone to the tables.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                synced => synced?,
            }
        }
    }
    sync_dir(dir)
}

/// fdatasync(2).
pub(crate) fn sync_data(file: &File) -> io::Result<()> {
    #[cfg(test)]
    SYNCS.set(SYNCS.get() + 1);
    file.sync_data()
}

#[cfg(test)]
thread_local! {
    /// How often this thread has called `sync_data`.
    pub(crate) static SYNCS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// Creates `path` with `bytes`, synced; its name is not, see [`sync_dir`].
fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), Flaw> {
    let write = || -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(io_flaw("write", path))
}

fn names_in(dir: &Path) -> Result<Vec<String>, Flaw> {
    let list = || -> io::Result<Vec<String>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    let mut names = list().map_err(io_flaw("list", dir))?;
    names.sort_unstable();
    Ok(names)
}

fn is_of_a_store(name: &str) -> bool {
    ["FORMAT", "FORMAT.new", "tail", "tables"].contains(&name) || segment_number(name).is_some()
}

/// Names that say nothing about whether there is a store.
fn is_beside_the_store(name: &str) -> bool {
    name == "lock" || name == super::serve::SOCKET || name == "lost+found" || name.starts_with("damaged-")
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, Flaw> {
    match fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_flaw("read", path)(e)),
    }
}

fn format_text(store: u64) -> String {
    format!("{FORMAT_WORDS} {FORMAT_VERSION}\nid {store:016x}\n")
}

fn parse_format(text: &[u8]) -> Result<u64, Flaw> {
    let damaged = || Flaw::Damaged("the file FORMAT does not say `lockfs level store 2` and an id".into());
    let mut lines = std::str::from_utf8(text).map_err(|_| damaged())?.lines();
    let version = lines
        .next()
        .and_then(|line| line.strip_prefix(FORMAT_WORDS)?.strip_prefix(' '))
        .ok_or_else(damaged)?;
    match version.parse::<u32>() {
        Ok(1..=FORMAT_VERSION) => {}
        Ok(newer) if newer > FORMAT_VERSION => return Err(Flaw::Newer(format!("{FORMAT_WORDS} {newer}"))),
        _ => return Err(damaged()),
    }
    let id = lines
        .next()
        .and_then(|line| line.strip_prefix("id "))
        .filter(|id| id.len() == 16)
        .ok_or_else(damaged)?;
    u64::from_str_radix(id, 16).map_err(|_| damaged())
}

fn lock_or_name_holder(lock: &mut File, dir: &Path) -> Result<(), LevelError> {
    // SAFETY: the descriptor is open as long as `lock`.
    if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.kind() != ErrorKind::WouldBlock {
        return Err(LevelError::Io { what: format!("lock {}", dir.join("lock").display()), source: error });
    }
    let mut text = String::new();
    // What cannot be read is no worse than an empty file: the holder is unknown.
    let _ = lock.take(512).read_to_string(&mut text);
    let text = text.trim();
    let holder = if text.is_empty() {
        "another process".into()
    } else {
        text.chars().filter(|c| !c.is_control()).collect()
    };
    Err(LevelError::Busy { dir: dir.to_owned(), holder })
}

fn command_line() -> String {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    words.join(" ").chars().filter(|c| !c.is_control()).take(200).collect()
}
