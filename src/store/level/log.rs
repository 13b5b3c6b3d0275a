//! The guarded batch log: bytes in, bytes out, read back once when it is opened.
//!
//! A commit appends one record to the journal and the batch's number to the tail, and is done: two small writes, and
//! under [`Durability::Power`] a sync of each. LevelDB hears of it later, from a thread of its own (`feeder.rs`), for a
//! compaction inside a put takes up to 0.3 s.
//!
//! Invariants: a batch is whole or absent; batches count up by one and none is missing before another; whatever was
//! acknowledged is there when the log is opened again, or the opening is refused with the place of the damage. Any error
//! that leaves it unknown what is on disk fails the log for good. What each crash may leave behind, and how a journal that
//! was cut short is told from one, is in `tail.rs`; how the whole is judged in `verify.rs`; the files in `home.rs`.
//!
//! What may be lost: with [`Durability::Process`], the last batches before a power cut, never without `clean: false`.
//! What cannot be seen: the same loss, and a journal cut between two records by something else, where both happen before
//! the first opening after a power cut.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::store::Durability;
use crate::store::level::error::{Flaw, LevelError, io_flaw};
use crate::store::level::feeder::{Feeder, Sealed, SegmentFile, Start};
use crate::store::level::home::{Home, State, sync_data, sync_dir};
use crate::store::level::journal::{Change, Header, encode_header, encode_record, segment_path};
use crate::store::level::space::{Space, TooLittle, Writer, is_no_space};
use crate::store::level::tables::Record;
use crate::store::level::tail::{BootId, Tail, TailState};
use crate::store::level::verify::{Verified, verify};

/// A segment this long is sealed. The longer, the more short-lived locks never reach LevelDB, and the more an opening
/// has to replay: this much takes it some 20 ms.
const SEGMENT_BYTES: u64 = if cfg!(test) { 16 << 10 } else { 8 << 20 };
/// Without space, a segment this long is sealed too: fed to LevelDB, it may shrink.
const SEGMENT_BYTES_WITHOUT_SPACE: u64 = 64 << 10;

/// An open batch log. Dropping it is not a clean close; [`BatchLog::close`] is.
#[derive(Debug)]
pub(crate) struct BatchLog {
    feeder: Feeder,
    segment: SegmentFile,
    segment_len: u64,
    tail: Tail,
    state: TailState,
    space: Space,
    buffer: Vec<u8>,
    failed: Option<String>,
    // Last, so that the directory is unlocked when everything else is closed.
    home: Home,
}

/// A log that was just opened.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The log.
    pub(crate) log: BatchLog,
    /// Every record, sorted by key.
    pub(crate) entries: Vec<Record>,
    /// Whether it was closed cleanly last time; true for a new one.
    pub(crate) clean: bool,
    /// How many acknowledged batches are known to have gone with the power; 0 unless `Process` was promised.
    pub(crate) lost: u64,
}

/// What `check` found in a store that is sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Live records.
    pub records: u64,
    /// The number of the last batch.
    pub batches: u64,
    /// Whether it was closed cleanly last time.
    pub clean: bool,
    /// How many acknowledged batches are known to have gone with the power.
    pub lost: u64,
    /// What the last process to open it promised.
    pub durability: Durability,
}

impl BatchLog {
    /// Opens the log in `dir`, or makes one if there is nothing in `dir`; reads it back, and checks it as [`check`] does.
    ///
    /// A damaged, newer or foreign directory is refused, and left as it is.
    pub(crate) fn open(dir: &Path, durability: Durability) -> Result<Opened, LevelError> {
        let home = Home::claim(dir)?;
        let store = match home.state()? {
            State::Store(store) => store,
            State::Empty | State::Begun => home.found().map_err(|flaw| flaw.at(dir))?,
        };
        let verified = verify(&home, store)?;
        home.raise_format(store).map_err(|flaw| flaw.at(dir))?;
        let (clean, lost) = (verified.tail.clean, verified.verdict.lost);
        if lost > 0 {
            log::warn!("acknowledged batches were lost with the power: dir={} batches={lost}", dir.display());
        }
        let (log, entries) = Self::take_up(home, verified, durability).map_err(|flaw| flaw.at(dir))?;
        Ok(Opened { log, entries, clean, lost })
    }

    /// Goes on where a sound store ends.
    fn take_up(home: Home, verified: Verified, durability: Durability) -> Result<(Self, Vec<Record>), Flaw> {
        let dir = home.dir();
        let Verified { records, live, meta, tail, verdict } = verified;
        // Newest first, and the cut last: whenever this is interrupted, the next opening judges the same.
        for number in verdict.discard.iter().rev() {
            let path = segment_path(dir, *number);
            fs::remove_file(&path).map_err(io_flaw("delete", &path))?;
        }
        sync_dir(dir).map_err(io_flaw("sync", dir))?;
        let mut sealed = Vec::new();
        for &(number, last) in &verdict.keep {
            let path = segment_path(dir, number);
            let file =
                OpenOptions::new().read(true).write(true).open(&path).map_err(io_flaw("open", &path))?;
            if let Some((_, len)) = verdict.cut.filter(|(cut, _)| *cut == number) {
                file.set_len(len).and_then(|()| file.sync_all()).map_err(io_flaw("truncate", &path))?;
            }
            let len = file.metadata().map_err(io_flaw("stat", &path))?.len();
            sealed.push(Sealed { segment: SegmentFile { number, file }, last, len });
        }

        // Nothing is appended to what a crash may have left: a new segment begins.
        let number = verdict.newest + 1;
        let before = verdict.keep.last().map_or(0, |(number, _)| *number);
        let path = segment_path(dir, number);
        let header = encode_header(meta.store, Header { number, first: verdict.last + 1, before });
        let create = || -> io::Result<SegmentFile> {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
            file.write_all_at(&header, 0)?;
            file.sync_all()?;
            sync_dir(dir)?;
            Ok(SegmentFile { number, file })
        };
        let segment = create().map_err(io_flaw("create", &path))?;

        let state = TailState {
            last: verdict.last,
            segment: number,
            store: tail.store,
            durability,
            clean: false,
            boot: BootId::current(),
        };
        let tail_path = home.tail();
        let mut tail = Tail::open(&tail_path)?;
        tail.write_both(&state).and_then(|()| tail.sync()).map_err(io_flaw("write", &tail_path))?;

        let feeder = Feeder::start(Start {
            dir: dir.to_owned(),
            tables: home.tables(),
            store: meta.store,
            live,
            meta,
            sealed,
            next_segment: number + 1,
            tail: tail.handle().map_err(io_flaw("open", &tail_path))?,
        })?;
        let space = Space::of(dir).map_err(io_flaw("stat", dir))?;
        let segment_len = header.len() as u64;
        let log =
            Self { feeder, segment, segment_len, tail, state, space, buffer: Vec::new(), failed: None, home };
        Ok((log, records))
    }

    /// What no other store has.
    pub(crate) fn store(&self) -> u64 {
        self.state.store
    }

    /// Writes one batch, all or nothing, durable on return as promised to `open`: for each key the value to put, or
    /// `None` to delete it. Later changes of a key in a batch win.
    ///
    /// # Errors
    /// [`LevelError::NoSpace`] if the disk is almost full: nothing was written, and the log goes on. Every other error
    /// fails the log for good, and leaves it unknown whether the batch is in it.
    pub(crate) fn commit(&mut self, batch: &[Change<'_>]) -> Result<(), LevelError> {
        let puts = batch.iter().any(|(_, value)| value.is_some());
        self.commit_as(if puts { Writer::Put } else { Writer::Delete }, batch)
    }

    /// The same for a batch of which the caller knows better how far it may fill the disk.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub(crate) fn commit_as(&mut self, writer: Writer, batch: &[Change<'_>]) -> Result<(), LevelError> {
        if let Some(reason) = self.failed.as_deref().or(self.feeder.broken()) {
            return Err(LevelError::Failed(reason.to_owned()));
        }
        if batch.is_empty() {
            return Ok(());
        }
        let number = self.state.last + 1;
        if !encode_record(&mut self.buffer, self.state.store, number, batch) {
            let source = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(LevelError::Io { what: "write a batch of more than 256 MiB".into(), source });
        }
        match self.space.take(writer, self.buffer.len() as u64) {
            Ok(Ok(())) => {}
            Ok(Err(too_little)) => return self.without_space(too_little),
            Err(e) => return Err(self.fail("stat", e)),
        }
        match self.append(number) {
            Ok(()) => {}
            Err(Append::NoSpace) => {
                let found = self.space.none_left();
                return self.without_space(found);
            }
            Err(Append::Failed(act, e)) => return Err(self.fail(act, e)),
        }
        if self.segment_len >= SEGMENT_BYTES
            && let Err(e) = self.rotate()
        {
            // This batch is durable; the next one will hear of it.
            self.fail("begin", e);
        }
        Ok(())
    }

    /// Closes the log: everything is synced, and the next `open` will find it clean.
    ///
    /// # Errors
    /// [`LevelError::Failed`] if the log has failed before; it is then closed as it is.
    pub(crate) fn close(mut self) -> Result<(), LevelError> {
        self.feeder.stop();
        if let Some(reason) = self.failed.as_deref().or(self.feeder.broken()) {
            return Err(LevelError::Failed(reason.to_owned()));
        }
        sync_data(&self.segment.file).map_err(|e| self.fail("sync", e))?;
        self.state.clean = true;
        self.tail.write(&self.state).and_then(|()| self.tail.sync()).map_err(|e| self.fail("close", e))
    }

    /// Appends the record in the buffer, batch `number`.
    fn append(&mut self, number: u64) -> Result<(), Append> {
        let file = &self.segment.file;
        match file.write_all_at(&self.buffer, self.segment_len) {
            Ok(()) => {}
            // What was written of it is taken back, and then the file is as it was.
            Err(e) if is_no_space(&e) && file.set_len(self.segment_len).is_ok() => {
                return Err(Append::NoSpace);
            }
            Err(e) => return Err(Append::Failed("write", e)),
        }
        let is_power = self.state.durability == Durability::Power;
        if is_power {
            sync_data(file).map_err(|e| Append::Failed("sync", e))?;
        }
        self.segment_len += self.buffer.len() as u64;
        self.state.last = number;
        // Only now: the tail never promises what the journal does not have.
        self.tail.write(&self.state).map_err(|e| Append::Failed("write the tail beside", e))?;
        if is_power {
            self.tail.sync().map_err(|e| Append::Failed("sync the tail beside", e))?;
        }
        Ok(())
    }

    /// Begins the next segment, if its file is laid out, and hands this one to the feeder.
    fn rotate(&mut self) -> io::Result<()> {
        let Some(spare) = self.feeder.take_spare() else { return Ok(()) };
        let header = Header { number: spare.number, first: self.state.last + 1, before: self.segment.number };
        let header = encode_header(self.state.store, header);
        if let Err(e) = spare.file.write_all_at(&header, 0) {
            if is_no_space(&e) && spare.file.set_len(0).is_ok() {
                self.feeder.return_spare(spare);
                return Ok(());
            }
            return Err(e);
        }
        self.state.segment = spare.number;
        self.tail.write(&self.state)?;
        let len = std::mem::replace(&mut self.segment_len, header.len() as u64);
        let segment = std::mem::replace(&mut self.segment, spare);
        self.feeder.feed(Sealed { segment, last: self.state.last, len });
        Ok(())
    }

    /// The answer to a batch for which there is no space, after an attempt to make some.
    fn without_space(&mut self, found: TooLittle) -> Result<(), LevelError> {
        if self.segment_len >= SEGMENT_BYTES_WITHOUT_SPACE
            && let Err(e) = self.rotate()
        {
            return Err(self.fail("begin", e));
        }
        Err(LevelError::NoSpace { dir: self.home.dir().to_owned(), free: found.free, floor: found.floor })
    }

    /// Fails the log for good.
    fn fail(&mut self, act: &str, error: io::Error) -> LevelError {
        let reason =
            format!("cannot {act} {}: {error}", segment_path(self.home.dir(), self.segment.number).display());
        log::error!("the level store has failed: {reason}");
        self.failed = Some(reason.clone());
        LevelError::Failed(reason)
    }
}

/// How an append can fail.
enum Append {
    /// Nothing was written.
    NoSpace,
    /// Nobody knows what was written.
    Failed(&'static str, io::Error),
}

/// Reads and checks the whole store in `dir`, and changes nothing; returns its records too.
pub(crate) fn check(dir: &Path) -> Result<(Report, Vec<Record>), LevelError> {
    let home = Home::claim_to_read(dir)?;
    let State::Store(store) = home.state()? else { return Err(LevelError::Absent { dir: dir.to_owned() }) };
    let verified = verify(&home, store)?;
    let report = Report {
        records: verified.records.len() as u64,
        batches: verified.verdict.last,
        clean: verified.tail.clean,
        lost: verified.verdict.lost,
        durability: verified.tail.durability,
    };
    Ok((report, verified.records))
}

/// What the store in `dir` has that no other has; `None` where there is none.
pub(crate) fn identity(dir: &Path) -> Result<Option<u64>, LevelError> {
    // Whoever has it open does not change that.
    match Home::of(dir).state()? {
        State::Store(store) => Ok(Some(store)),
        State::Empty | State::Begun => Ok(None),
    }
}

/// Moves the store in `dir` aside, whatever is wrong with it, so that the next `open` makes a new one; returns where to.
/// Nothing is deleted, and nothing is taken over into the new store.
pub(crate) fn set_aside(dir: &Path) -> Result<PathBuf, LevelError> {
    if !dir.is_dir() {
        return Err(LevelError::Absent { dir: dir.to_owned() });
    }
    Home::claim(dir)?.set_aside()
}

#[cfg(test)]
mod tests;
