//! The LevelDB store: the table in memory, its changes in a guarded log, read back when it is opened.
//!
//! | key | value |
//! |---|---|
//! | `m` `epoch` | the epoch of the last opening, 4 bytes, little-endian |
//! | `m` `boot` | the boot whose `CLOCK_BOOTTIME` the records count on |
//! | `o` inode number, 8 bytes, big-endian | a record (`codec.rs`) |
//! | `s` session name | a session (`codec.rs`) |
//! | `u` inode number | a file without a name that a mount has open, locked or waits for |
//! | `l` mount | its lease |
//! | `h` inode number, mount | how often the mount has it open, and its advisory locks |
//! | `w` mount, request | a call that waits, and for what |
//! | `a` seat | the outcome of a request that may not be answered yet (`seats.rs`) |
//!
//! Numbers of keys are of 8 bytes, big-endian. The five last came with version 2.
//!
//! What a migration leaves besides stands in `moving.rs`.
//!
//! A step is acknowledged once its changes are in the log. Several threads that wait share one write: whoever
//! comes first takes what all of them queued. After an error of the log the memory may be ahead of the disk,
//! so the store takes no step any more until it is opened again; what is read goes on.

mod codec;
mod env;
mod error;
mod feeder;
mod frame;
mod home;
mod journal;
mod log;
mod mirror;
mod moving;
mod overlay;
mod remote;
mod scan;
mod serve;
mod space;
mod tables;
mod tail;
mod verify;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::error::LevelError;
pub use self::log::Report;
pub(crate) use self::log::set_aside;
use self::log::{BatchLog, Opened};
pub(in crate::store) use self::moving::LevelEnd;
pub(in crate::store) use self::remote::RemoteEnd;
pub use self::serve::Serving;
use self::space::{Space, Writer};
use super::local::{Journal, Seated, TableStore};
use super::migrate::Closing;
use super::{Durability, Fact, Health, State, StoreError, Value};
use crate::clock::{BootId, Clock, Now};
use crate::table::{Change, Command, LockTable};

/// A table whose changes are kept in a LevelDB.
pub type LevelStore = TableStore<LevelJournal>;

/// How many records one batch of a rewrite holds.
const BATCH: usize = 1_000;

/// What a step adds to the log at most, beside its data.
const STEP_BYTES: u64 = 4 << 10;

/// What is written besides a change.
type Write = (Vec<u8>, Option<Vec<u8>>);

/// The log behind a table.
#[derive(Debug)]
pub struct LevelJournal {
    dir: PathBuf,
    durability: Durability,
    space: Mutex<Space>,
    queue: Mutex<Queue>,
    writer: Mutex<Writing>,
    /// What tells the store from all others.
    store: u64,
    /// Why it is closed, as it is kept.
    closing: Mutex<Option<String>>,
}

impl LevelJournal {
    fn new(dir: &Path, durability: Durability, log: BatchLog) -> Result<Self, LevelError> {
        let space = Space::of(dir)
            .map_err(|source| LevelError::Io { what: format!("stat {}", dir.display()), source })?;
        Ok(Self {
            dir: dir.to_owned(),
            durability,
            space: Mutex::new(space),
            queue: Mutex::default(),
            store: log.store(),
            writer: Mutex::new(Writing { log: Some(log), kept: 0, failed: None }),
            closing: Mutex::default(),
        })
    }

    fn dir(&self) -> &Path {
        &self.dir
    }

    fn store(&self) -> u64 {
        self.store
    }

    /// Why the store is closed.
    fn closing(&self) -> Option<String> {
        locked(&self.closing).clone()
    }

    fn note_closing(&self, closing: Option<String>) {
        *locked(&self.closing) = closing;
    }

    /// Keeps what is no change of the table, behind all that was decided before.
    fn keep(&self, write: Write) -> Result<(), StoreError> {
        let step = {
            let mut queue = locked(&self.queue);
            queue.writes.push(write);
            queue.last += 1;
            queue.last
        };
        self.commit(step)
    }
}

/// What was decided and is not written.
#[derive(Debug, Default)]
struct Queue {
    writes: Vec<Write>,
    /// Whether some of it makes locks, or changes them: on a full disk that has to wait.
    grows: bool,
    /// The number of the last step in it.
    last: u64,
}

#[derive(Debug)]
struct Writing {
    log: Option<BatchLog>,
    /// The number of the last step that is kept.
    kept: u64,
    failed: Option<String>,
}

impl LevelStore {
    /// Opens the store in `dir`, or makes one there if there is nothing, whose root belongs to `uid` and `gid`.
    ///
    /// # Errors
    /// [`LevelError`]: someone else has it, it is damaged, or the system refuses something.
    pub fn open(
        dir: &Path,
        durability: Durability,
        clock: Arc<dyn Clock>,
        boot: &BootId,
        (uid, gid): (u32, u32),
    ) -> Result<Self, LevelError> {
        let Opened { mut log, entries, clean, lost } = BatchLog::open(dir, durability)?;
        let damaged = |what: String| LevelError::Damaged { dir: dir.to_owned(), what };
        let now = clock.now();
        let mut kept = codec::Contents::read(entries, now, boot).map_err(damaged)?;
        if let Some(why) = kept.closing {
            return Err(LevelError::Closed { dir: dir.to_owned(), why: Closing::shown(&why) });
        }
        // While no daemon was there, nobody could see a holder alive, and nobody could be granted what it
        // held: that time does not count. Whoever takes up the store says which jobs have ended.
        for session in &mut kept.sessions {
            session.seen = now.boot;
        }
        // Nor does it for files that somebody may have used till the end.
        for record in kept.records.iter_mut().filter(|record| record.is_advisory()) {
            record.seen = now.boot;
        }
        let seconds = u32::try_from(now.wall.secs()).unwrap_or(0);
        let epoch = kept.epoch.map_or(seconds, |last| seconds.max(last.saturating_add(1)));
        let epoch = epoch.max(crate::lock::Token::EPOCH_MIN);
        if !clean && lost == 0 {
            ::log::info!("the store was not closed cleanly, and is whole dir={}", dir.display());
        }
        let mut table = if kept.records.is_empty() {
            LockTable::new(epoch, uid, gid, now)
        } else {
            LockTable::restore(epoch, kept.records, kept.sessions).map_err(damaged)?
        };
        table.restore_belongings(kept.belongings).map_err(damaged)?;
        // The epoch is kept before a token of it is given; the boot after all that counts on it.
        let epoch = epoch.to_le_bytes();
        log.commit(&[(codec::EPOCH, Some(&epoch))])?;
        if kept.boot.as_ref() != Some(boot) {
            let (objects, sessions) = table.contents();
            let objects = objects.into_iter().map(Change::Object);
            let changes = objects.chain(sessions.into_iter().map(Change::Session));
            let changes: Vec<Change> = changes.chain(table.belongings()).collect();
            for batch in changes.chunks(BATCH) {
                let writes: Vec<Write> =
                    batch.iter().map(|change| codec::write(&table, change, now)).collect();
                log.commit(&borrowed(&writes))?;
            }
            log.commit(&[(codec::BOOT, Some(boot.as_str().as_bytes()))])?;
        }
        Ok(Self::new(table, clock, LevelJournal::new(dir, durability, log)?, kept.answers))
    }
}

/// Verifies the store in `dir` as an opening would, down to its records; changes nothing. Says why it is closed, too,
/// where a migration has closed it.
///
/// # Errors
/// [`LevelError`]: what an opening would say of damage.
pub fn check(dir: &Path) -> Result<(Report, Option<String>), LevelError> {
    let (report, entries) = log::check(dir)?;
    let closed = entries.iter().find(|(key, _)| key == codec::CLOSING);
    let closed = closed.map(|(_, why)| Closing::shown(why));
    let damaged = |what| LevelError::Damaged { dir: dir.to_owned(), what };
    codec::Contents::verify(entries).map_err(damaged)?;
    Ok((report, closed))
}

fn borrowed(writes: &[Write]) -> Vec<(&[u8], Option<&[u8]>)> {
    writes.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect()
}

/// A panic in the log is a failure of it, and noted there; the guard itself is never left half done.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Journal for LevelJournal {
    fn admit(&self, command: &Command) -> Result<(), StoreError> {
        let bytes = match command {
            Command::Write { data, .. } => STEP_BYTES + data.len() as u64,
            Command::Acquire { .. }
            | Command::Await { .. }
            | Command::Lock { .. }
            | Command::Link { .. }
            | Command::BeginSession { .. } => STEP_BYTES,
            // What releases, renews or moves is let through: a full disk is no reason to keep or to lose locks.
            _ => return Ok(()),
        };
        match locked(&self.space).take(Writer::Put, bytes) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(StoreError::NoSpace),
            Err(error) => Err(StoreError::Failed(format!("stat {}: {error}", self.dir.display()))),
        }
    }

    fn append(&self, table: &LockTable, now: Now, changes: &[Change], seats: &[Seated<'_>]) -> u64 {
        let mut queue = locked(&self.queue);
        for change in changes {
            let write = codec::write(table, change, now);
            let is_lock = matches!(change, Change::Object(_) | Change::Session(_));
            queue.grows |= is_lock && write.1.is_some();
            queue.writes.push(write);
        }
        let seats = seats.iter().map(|(seat, answered)| {
            (codec::key_of_answer(*seat), answered.map(|answered| codec::encode_answer(answered, now)))
        });
        queue.writes.extend(seats);
        queue.last += 1;
        queue.last
    }

    fn commit(&self, step: u64) -> Result<(), StoreError> {
        let mut writing = locked(&self.writer);
        if writing.kept >= step {
            return Ok(());
        }
        writing.write(&self.queue)
    }

    fn flush(&self) -> Result<(), StoreError> {
        let last = locked(&self.queue).last;
        self.commit(last)
    }

    fn close(&self) -> Result<(), StoreError> {
        let mut writing = locked(&self.writer);
        writing.write(&self.queue)?;
        match writing.log.take().map(BatchLog::close) {
            None | Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(writing.fail(&error)),
        }
    }

    fn health(&self) -> Health {
        let writing = locked(&self.writer);
        Health {
            backend: "leveldb",
            scope: "host",
            state: writing.failed.clone().map_or(State::Ok, State::Failed),
            counts: None,
            facts: vec![
                Fact::text("data_dir", self.dir.display().to_string()),
                Fact::text("durability", self.durability.to_string()),
                Fact::measured(
                    "steps",
                    Value::Count(writing.kept),
                    "leveldb_steps_total",
                    "Steps that are in the log of the store.",
                ),
            ],
        }
    }
}

impl Writing {
    /// Writes all that is queued.
    fn write(&mut self, queue: &Mutex<Queue>) -> Result<(), StoreError> {
        if let Some(why) = &self.failed {
            return Err(StoreError::Failed(why.clone()));
        }
        let Some(log) = &mut self.log else {
            return Err(StoreError::Failed("it is closed".to_owned()));
        };
        let (mut writes, grows, last) = {
            let mut queue = locked(queue);
            (std::mem::take(&mut queue.writes), std::mem::take(&mut queue.grows), queue.last)
        };
        let writer = if grows { Writer::Put } else { Writer::Delete };
        match log.commit_as(writer, &borrowed(&writes)) {
            Ok(()) => {
                self.kept = last;
                Ok(())
            }
            Err(LevelError::NoSpace { .. }) => {
                // Nothing was written; all of it waits, in its order, for the next who commits.
                let mut queue = locked(queue);
                writes.append(&mut queue.writes);
                queue.writes = writes;
                queue.grows |= grows;
                Err(StoreError::NoSpace)
            }
            Err(error) => Err(self.fail(&error)),
        }
    }

    fn fail(&mut self, error: &LevelError) -> StoreError {
        let why = self.failed.get_or_insert_with(|| error.to_string());
        StoreError::Failed(why.clone())
    }
}

/// `key: value` lines, for `lockfs check`.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "state: sound")?;
        writeln!(f, "records: {}", self.records)?;
        writeln!(f, "batches: {}", self.batches)?;
        writeln!(f, "closed_cleanly: {}", if self.clean { "yes" } else { "no" })?;
        writeln!(f, "lost_with_the_power: {}", self.lost)?;
        write!(f, "durability: {}", self.durability)
    }
}
