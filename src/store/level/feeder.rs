//! The thread that moves batches from the journal to LevelDB, so that no commit waits for a compaction.
//!
//! It owns LevelDB. It gets sealed journal segments, oldest first; it syncs those that wait, drops all but the last change
//! of a key (a lock taken and released within a segment never reaches LevelDB), writes the rest, and deletes the segments.
//! Nothing waits for it: while it is behind, the journal grows. It also lays out the empty files of the next segments, so
//! that no commit creates one.
//!
//! Lock order: the mailbox is the only lock, held for lines, never across I/O.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::store::level::error::{Flaw, io_flaw};
use crate::store::level::home::sync_dir;
use crate::store::level::journal::{Change, End, Segment, segment_path};
use crate::store::level::space::{Space, Writer, is_no_space};
use crate::store::level::tables::{Live, Meta, Tables};

/// How much LevelDB gets in one batch.
const FEED_BYTES: usize = if cfg!(test) { 4 << 10 } else { 256 << 10 };
/// How much of the journal is fed in one go, if so much waits: the more, the fewer and narrower the writes.
const FEED_TOGETHER_BYTES: u64 = if cfg!(test) { 40 << 10 } else { 64 << 20 };
const SPARES: usize = 2;
const SPACE_RETRY: Duration = Duration::from_secs(1);

/// A journal segment's open file.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    /// The number in its name.
    pub(crate) number: u64,
    /// The file.
    pub(crate) file: File,
}

/// A segment to which nothing will be added.
#[derive(Debug)]
pub(crate) struct Sealed {
    /// Its file.
    pub(crate) segment: SegmentFile,
    /// Its last batch.
    pub(crate) last: u64,
    /// Its length in bytes.
    pub(crate) len: u64,
}

#[derive(Debug, Default)]
struct Mail {
    spares: VecDeque<SegmentFile>,
    sealed: VecDeque<Sealed>,
    is_stopping: bool,
}

#[derive(Debug, Default)]
struct Mailbox {
    mail: Mutex<Mail>,
    bell: Condvar,
    broken: OnceLock<String>,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Mail> {
        // Nothing that can panic runs under it.
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the feeder starts from.
#[derive(Debug)]
pub(crate) struct Start {
    /// The data directory.
    pub(crate) dir: PathBuf,
    /// LevelDB's directory in it.
    pub(crate) tables: PathBuf,
    /// The store's id.
    pub(crate) store: u64,
    /// What was read from LevelDB.
    pub(crate) live: Live,
    /// What its meta record said.
    pub(crate) meta: Meta,
    /// Segments to feed, oldest first.
    pub(crate) sealed: Vec<Sealed>,
    /// The number of the next segment to lay out.
    pub(crate) next_segment: u64,
    /// The tail file, synced before a segment that it may name is deleted.
    pub(crate) tail: File,
}

/// The owner's end of the thread. Dropping it stops and joins the thread.
#[derive(Debug)]
pub(crate) struct Feeder {
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
}

impl Feeder {
    /// Starts the thread; returns when it has opened LevelDB.
    pub(crate) fn start(start: Start) -> Result<Self, Flaw> {
        let mailbox = Arc::new(Mailbox::default());
        mailbox.lock().sealed.extend(start.sealed);
        let (ready, opened) = mpsc::channel();
        let (dir, theirs) = (start.dir, Arc::clone(&mailbox));
        let thread = thread::Builder::new().name("lockfs-level".into()).spawn(move || {
            let open = || -> Result<Worker, Flaw> {
                let space = Space::of(&dir).map_err(io_flaw("stat", &dir))?;
                // LevelDB is full of Rc: it is opened, used and dropped by this thread alone.
                let tables = Tables::open(&start.tables, start.live, start.meta)?;
                let next_segment = start.next_segment;
                let mailbox = Arc::clone(&theirs);
                Ok(Worker {
                    dir: dir.clone(),
                    store: start.store,
                    tables,
                    tail: start.tail,
                    next_segment,
                    space,
                    mailbox,
                })
            };
            run(open, &ready, &theirs);
        });
        let thread = Some(thread.map_err(|e| Flaw::Io("start the thread lockfs-level".into(), e))?);
        let feeder = Self { mailbox, thread };
        match opened.recv() {
            Ok(outcome) => outcome.map(|()| feeder),
            Err(_) => Err(Flaw::Damaged("the thread lockfs-level died opening the tables".into())),
        }
    }

    /// Why the thread has stopped for good, if it has.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.mailbox.broken.get().map(String::as_str)
    }

    /// An empty file for the next segment, if one is laid out.
    pub(crate) fn take_spare(&self) -> Option<SegmentFile> {
        self.mailbox.lock().spares.pop_front()
    }

    /// Puts back a spare that could not be used.
    pub(crate) fn return_spare(&self, spare: SegmentFile) {
        self.mailbox.lock().spares.push_front(spare);
    }

    /// Hands over a segment to which nothing will be added.
    pub(crate) fn feed(&self, sealed: Sealed) {
        self.mailbox.lock().sealed.push_back(sealed);
        self.mailbox.bell.notify_one();
    }

    /// Stops and joins the thread; it finishes the LevelDB batch that it is at, and no more.
    pub(crate) fn stop(&mut self) {
        self.mailbox.lock().is_stopping = true;
        self.mailbox.bell.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been caught and kept in `broken`.
            let _ = thread.join();
        }
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The life of the thread.
fn run(open: impl FnOnce() -> Result<Worker, Flaw>, ready: &Sender<Result<(), Flaw>>, mailbox: &Mailbox) {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        match open() {
            Err(flaw) => {
                // If nobody listens any more, nobody needs to know.
                let _ = ready.send(Err(flaw));
                Ok(())
            }
            Ok(mut worker) => {
                worker.lay_out_spares()?;
                let _ = ready.send(Ok(()));
                worker.work()
            }
        }
    }));
    let reason = match outcome {
        Ok(Ok(())) => return,
        Ok(Err(flaw)) => flaw.reason(),
        Err(_) => "the thread lockfs-level panicked".to_owned(),
    };
    log::error!("the level store has failed: {reason}");
    // Only the first reason counts, and this thread gives no second.
    let _ = mailbox.broken.set(reason);
}

struct Worker {
    dir: PathBuf,
    store: u64,
    tables: Tables,
    tail: File,
    next_segment: u64,
    space: Space,
    mailbox: Arc<Mailbox>,
}

impl Worker {
    fn work(&mut self) -> Result<(), Flaw> {
        while let Some(waiting) = self.next_feed() {
            self.lay_out_spares()?;
            if !self.feed(&waiting)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Waits for segments; `None` to stop.
    fn next_feed(&self) -> Option<Vec<Sealed>> {
        let mut mail = self.mailbox.lock();
        while mail.sealed.is_empty() && !mail.is_stopping {
            mail = self.mailbox.bell.wait(mail).unwrap_or_else(PoisonError::into_inner);
        }
        if mail.is_stopping {
            return None;
        }
        let (mut taken, mut bytes, mut last) = (Vec::new(), 0, 0);
        // A feed that was interrupted must be covered by one: its changes of a key may come from any of its batches.
        while let Some(next) = mail.sealed.pop_front() {
            if !taken.is_empty() && last >= self.tables.feeding() && bytes + next.len > FEED_TOGETHER_BYTES {
                mail.sealed.push_front(next);
                break;
            }
            (bytes, last) = (bytes + next.len, next.last);
            taken.push(next);
        }
        Some(taken)
    }

    /// Feeds some segments; false if it was interrupted by `stop`, which loses nothing.
    fn feed(&mut self, waiting: &[Sealed]) -> Result<bool, Flaw> {
        let mut segments = Vec::with_capacity(waiting.len());
        for Sealed { segment: SegmentFile { number, file }, last, .. } in waiting {
            let path = segment_path(&self.dir, *number);
            // The journal first: LevelDB must never know of a batch that a power cut can take out of the journal.
            file.sync_data().map_err(io_flaw("sync", &path))?;
            let segment = Segment::read(&self.dir, *number, self.store)?;
            if segment.end != End::Whole || segment.last() != Some(*last) {
                return Err(Flaw::Damaged(format!("{} changed while it was in use", path.display())));
            }
            segments.push(segment);
        }
        let last = waiting.last().map_or(0, |sealed| sealed.last);
        if last > self.tables.applied() && !self.feed_changes(&segments, last)? {
            return Ok(false);
        }
        // The tail names a newer segment since before these were sealed; make that durable before the names go.
        self.tail.sync_data().map_err(io_flaw("sync", &self.dir.join("tail")))?;
        for segment in segments {
            let path = segment_path(&self.dir, segment.number);
            fs::remove_file(&path).map_err(io_flaw("delete", &path))?;
        }
        Ok(true)
    }

    fn feed_changes(&mut self, segments: &[Segment], last: u64) -> Result<bool, Flaw> {
        let changes = coalesced(segments, self.tables.applied(), |key| self.tables.holds(key))?;
        self.tables.begin_feed(last, &changes)?;
        let mut rest = &changes[..];
        while !rest.is_empty() {
            if !self.wait_for_space()? {
                return Ok(false);
            }
            let (batch, later) = rest.split_at(fitting(rest));
            self.tables.write(batch)?;
            self.lay_out_spares()?;
            rest = later;
        }
        self.tables.end_feed()?;
        Ok(true)
    }

    /// Waits until LevelDB has room to work; false to stop.
    fn wait_for_space(&mut self) -> Result<bool, Flaw> {
        loop {
            let outcome =
                self.space.take(Writer::Feed, FEED_BYTES as u64).map_err(io_flaw("stat", &self.dir))?;
            let mail = self.mailbox.lock();
            if mail.is_stopping || outcome.is_ok() {
                return Ok(!mail.is_stopping);
            }
            // Woken early or late, it only asks again.
            drop(self.mailbox.bell.wait_timeout(mail, SPACE_RETRY));
        }
    }

    /// Keeps files ready for the next segments, their names synced. Without space the journal goes on in the segment it has.
    fn lay_out_spares(&mut self) -> Result<(), Flaw> {
        while self.mailbox.lock().spares.len() < SPARES {
            let path = segment_path(&self.dir, self.next_segment);
            let lay_out = || -> io::Result<File> {
                let file =
                    OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
                sync_dir(&self.dir)?;
                Ok(file)
            };
            match lay_out() {
                Ok(file) => {
                    self.mailbox.lock().spares.push_back(SegmentFile { number: self.next_segment, file })
                }
                Err(e) if is_no_space(&e) => return Ok(()),
                Err(e) => return Err(io_flaw("create", &path)(e)),
            }
            self.next_segment += 1;
        }
        Ok(())
    }
}

/// The last change of each key in the batches after `applied`, sorted, without deletions of what LevelDB does not hold.
fn coalesced(
    segments: &[Segment],
    applied: u64,
    is_held: impl Fn(&[u8]) -> bool,
) -> Result<Vec<Change<'_>>, Flaw> {
    let mut changes = HashMap::new();
    for (_, batch) in segments.iter().flat_map(Segment::batches).filter(|(number, _)| *number > applied) {
        for change in batch {
            let (key, frame) = change?;
            changes.insert(key, frame);
        }
    }
    changes.retain(|key, frame| frame.is_some() || is_held(key));
    let mut changes: Vec<Change<'_>> = changes.into_iter().collect();
    changes.sort_unstable_by_key(|(key, _)| *key);
    Ok(changes)
}

/// How many of `changes` make one LevelDB batch; at least one, if there is one.
fn fitting(changes: &[Change<'_>]) -> usize {
    let mut bytes = 0;
    let fits = |(key, frame): &&Change<'_>| {
        bytes += key.len() + frame.map_or(0, <[u8]>::len) + 16;
        bytes <= FEED_BYTES
    };
    changes.iter().take_while(fits).count().max(1).min(changes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::level::frame::open_frame;
    use crate::store::level::journal::{Header, encode_header, encode_record};

    #[test]
    fn leveldb_gets_the_last_change_of_a_key_and_no_deletion_of_what_it_does_not_hold() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = encode_header(1, Header { number: 1, first: 5, before: 0 }).to_vec();
        let mut record = Vec::new();
        let batches: [&[Change<'_>]; 4] = [
            &[(b"before", Some(b"applied"))],
            &[(b"held", Some(b"1")), (b"brief", Some(b"1"))],
            &[(b"b", Some(b"2")), (b"brief", None), (b"held", None)],
            &[(b"b", Some(b"3")), (b"a", Some(b"4")), (b"absent", None)],
        ];
        for (number, batch) in (5..).zip(batches) {
            assert!(encode_record(&mut record, 1, number, batch));
            bytes.extend_from_slice(&record);
        }
        fs::write(segment_path(dir.path(), 1), bytes).unwrap();
        let segments = [Segment::read(dir.path(), 1, 1).unwrap()];
        let changes = coalesced(&segments, 5, |key| key == b"held").unwrap();
        let values: Vec<_> =
            changes.iter().map(|(k, f)| (*k, f.map(|f| open_frame(k, f).unwrap()))).collect();
        assert_eq!(values, [(&b"a"[..], Some(&b"4"[..])), (b"b", Some(b"3")), (b"held", None)]);
    }

    #[test]
    fn a_leveldb_batch_is_never_empty_and_seldom_long() {
        let frame = vec![0; FEED_BYTES / 3];
        let changes: [Change<'_>; 5] = [(b"k", Some(&frame)); 5];
        assert_eq!(fitting(&changes), 2);
        assert_eq!(fitting(&[(b"k", Some(&[0; 2 * FEED_BYTES]))]), 1);
        assert_eq!(fitting(&[]), 0);
    }
}
