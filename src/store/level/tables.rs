//! LevelDB as the resting place of records: written in the background, read by iterator, never asked for a key.
//!
//! Invariant: every batch that LevelDB gets carries the meta record that is true after it, so that whatever prefix of
//! batches survives can be judged by itself. The journal keeps each batch until LevelDB has it synced, and LevelDB gets
//! none that the journal has not synced.
//!
//! | key | value (framed, see `frame.rs`) |
//! |---|---|
//! | `r` and the caller's key | the caller's value |
//! | `m` | store id, `applied`, `feeding`, count of records, xor of their hashes; 8 bytes each |
//!
//! Everything up to batch `applied` is in; of those from there to `feeding`, some may be: they are fed in one go with
//! repeated changes of a key dropped, so the journal must reach `feeding`, and is replayed from `applied`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;

use rusty_leveldb::env::Env;
use rusty_leveldb::infolog::Logger;
use rusty_leveldb::{DB, FilterPolicy, LdbIterator, Options, WriteBatch};

use crate::store::level::env::{FailStop, GuardedEnv};
use crate::store::level::error::Flaw;
use crate::store::level::frame::{Fingerprint, RecordHash, append_frame, open_frame};
use crate::store::level::journal::Change;
use crate::store::level::overlay::OverlayEnv;

const META_KEY: &[u8] = b"m";
const RECORD_PREFIX: u8 = b'r';
/// LevelDB's buffer, and so the size of the tables that fall out of it.
const WRITE_BUFFER_BYTES: usize = if cfg!(test) { 16 << 10 } else { 4 << 20 };
/// Open tables; the default would take all of the usual 1,024 descriptors of a process.
const MAX_OPEN_TABLES: usize = 100;

/// A record as the caller knows it: key and value.
pub(crate) type Record = (Vec<u8>, Vec<u8>);

/// The meta record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Meta {
    /// The store's random id.
    pub(crate) store: u64,
    /// Every batch up to this one is in.
    pub(crate) applied: u64,
    /// No batch above this one is.
    pub(crate) feeding: u64,
    /// What records are in.
    pub(crate) print: Fingerprint,
}

impl Meta {
    fn frame(&self) -> Vec<u8> {
        let fields = [self.store, self.applied, self.feeding, self.print.count, self.print.xor];
        let value: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
        let mut frame = Vec::new();
        append_frame(&mut frame, META_KEY, &value);
        frame
    }

    fn parse(frame: &[u8]) -> Result<Self, Flaw> {
        let value = open_frame(META_KEY, frame)?;
        if value.len() != 40 {
            return Err(Flaw::Damaged(format!("the meta record has {} bytes", value.len())));
        }
        let field = |i: usize| u64::from_le_bytes(value[i * 8..i * 8 + 8].try_into().expect("eight bytes"));
        let print = Fingerprint { count: field(3), xor: field(4) };
        Ok(Self { store: field(0), applied: field(1), feeding: field(2), print })
    }
}

/// Which keys are in the tables, and with which record: 96 bits of a keyed hash stand for the key (two of a million keys
/// meet with a chance of 1 in 10^17, and nobody can look for such keys).
pub(crate) struct Live {
    records: HashMap<[u32; 3], RecordHash, BuildHasherDefault<FirstWords>>,
    hashers: [RandomState; 2],
    print: Fingerprint,
}

impl Live {
    /// No records.
    pub(crate) fn new() -> Self {
        Self {
            records: HashMap::default(),
            hashers: [RandomState::new(), RandomState::new()],
            print: Fingerprint::default(),
        }
    }

    /// What records are in.
    pub(crate) fn print(&self) -> Fingerprint {
        self.print
    }

    fn slot(&self, key: &[u8]) -> [u32; 3] {
        let [a, b] = self.hashers.each_ref().map(|hasher| hasher.hash_one(key));
        [a as u32, (a >> 32) as u32, b as u32]
    }

    fn put(&mut self, key: &[u8], frame: &[u8]) {
        let new = RecordHash::of(key, frame);
        if let Some(old) = self.records.insert(self.slot(key), new) {
            self.print.remove(old);
        }
        self.print.add(new);
    }

    /// Whether the key was in.
    fn delete(&mut self, key: &[u8]) -> bool {
        match self.records.entry(self.slot(key)) {
            Entry::Vacant(_) => false,
            Entry::Occupied(entry) => {
                self.print.remove(entry.remove());
                true
            }
        }
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Live").field(&self.print).finish()
    }
}

/// The hash of a key that already is one.
#[derive(Debug, Default)]
pub(crate) struct FirstWords(u64);

impl Hasher for FirstWords {
    fn write(&mut self, bytes: &[u8]) {
        // The key is three words in one slice; whatever else is hashed (the length of the array) adds nothing.
        if let Some(words) = bytes.first_chunk::<8>()
            && bytes.len() >= 12
        {
            self.0 = u64::from_ne_bytes(*words);
        }
    }

    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What is in the tables.
#[derive(Debug)]
pub(crate) struct Contents {
    /// Every record, sorted by key.
    pub(crate) records: Vec<Record>,
    /// The same, as hashes.
    pub(crate) live: Live,
    /// What the meta record says, which agrees.
    pub(crate) meta: Meta,
}

/// Reads and checks everything in LevelDB's directory `dir` without changing it.
pub(crate) fn read_all(dir: &Path) -> Result<Contents, Flaw> {
    let stop = Rc::new(FailStop::default());
    let mut contents = Contents { records: Vec::new(), live: Live::new(), meta: Meta::default() };
    let mut meta = None;
    let mut first_flaw = None;
    guarded(&stop, || {
        let mut db = DB::open(dir, options(Box::new(OverlayEnv::new(Rc::clone(&stop))), Creation::Refused))?;
        let mut iter = db.new_iter()?;
        while iter.advance()
            && let Some((key, frame)) = iter.current()
        {
            let outcome = match key.split_first() {
                Some((&RECORD_PREFIX, key)) => open_frame(key, &frame).map(|value| {
                    contents.live.put(key, &frame);
                    contents.records.push((key.to_vec(), value.to_vec()));
                }),
                _ if &key[..] == META_KEY => Meta::parse(&frame).map(|found| meta = Some(found)),
                _ => Err(Flaw::Damaged(format!("the tables hold a strange key, {}", key.escape_ascii()))),
            };
            if let Err(flaw) = outcome {
                first_flaw = Some(flaw);
                break;
            }
        }
        Ok(())
    })?;
    if let Some(flaw) = first_flaw {
        return Err(flaw);
    }
    contents.meta = meta.ok_or_else(|| Flaw::Damaged("the tables hold no meta record".into()))?;
    let (found, expected) = (contents.live.print(), contents.meta.print);
    if found != expected {
        return Err(Flaw::Damaged(format!(
            "the tables hold {} records where {} are expected{}",
            found.count,
            expected.count,
            if found.count == expected.count { ", but not the same" } else { "" }
        )));
    }
    Ok(contents)
}

/// LevelDB, open for writing.
pub(crate) struct Tables {
    db: DB,
    stop: Rc<FailStop>,
    live: Live,
    meta: Meta,
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tables").field("meta", &self.meta).finish_non_exhaustive()
    }
}

impl Tables {
    /// Makes an empty LevelDB in the empty directory `dir`.
    pub(crate) fn create(dir: &Path, store: u64) -> Result<(), Flaw> {
        let meta = Meta { store, ..Meta::default() };
        let mut tables = Self::open_db(dir, Live::new(), meta, Creation::Asked)?;
        tables.write(&[])
    }

    /// Opens LevelDB in `dir`, in which [`read_all`] found `live` and `meta`.
    pub(crate) fn open(dir: &Path, live: Live, meta: Meta) -> Result<Self, Flaw> {
        let mut tables = Self::open_db(dir, live, meta, Creation::Refused)?;
        let (db, mut found) = (&mut tables.db, None);
        guarded(&tables.stop, || {
            let mut iter = db.new_iter()?;
            iter.seek(META_KEY);
            found = iter.current();
            Ok(())
        })?;
        match found {
            Some((key, frame)) if &key[..] == META_KEY && Meta::parse(&frame)? == meta => Ok(tables),
            _ => Err(Flaw::Damaged("the tables changed while they were opened".into())),
        }
    }

    fn open_db(dir: &Path, live: Live, meta: Meta, creation: Creation) -> Result<Self, Flaw> {
        let stop = Rc::new(FailStop::default());
        let options = options(Box::new(GuardedEnv::new(Rc::clone(&stop))), creation);
        let db = guarded(&stop, || DB::open(dir, options))?;
        Ok(Self { db, stop, live, meta })
    }

    /// The last batch up to which everything is in.
    pub(crate) fn applied(&self) -> u64 {
        self.meta.applied
    }

    /// Whether a deletion of `key` would change anything.
    pub(crate) fn holds(&self, key: &[u8]) -> bool {
        self.live.records.contains_key(&self.live.slot(key))
    }

    /// Says that changes from batches up to `last` follow.
    pub(crate) fn begin_feed(&mut self, last: u64) {
        self.meta.feeding = last;
    }

    /// Says that with the next write, everything up to the batch named in `begin_feed` is in.
    pub(crate) fn end_feed(&mut self) {
        self.meta.applied = self.meta.feeding;
    }

    /// Writes and syncs `changes`, a put as its frame, with the meta record that is true after them: all or nothing.
    pub(crate) fn write(&mut self, changes: &[Change<'_>]) -> Result<(), Flaw> {
        let mut batch = WriteBatch::default();
        let mut prefixed = Vec::new();
        for (key, frame) in changes {
            prefixed.clear();
            prefixed.push(RECORD_PREFIX);
            prefixed.extend_from_slice(key);
            match frame {
                Some(frame) => {
                    self.live.put(key, frame);
                    batch.put(&prefixed, frame);
                }
                None => {
                    self.live.delete(key);
                    batch.delete(&prefixed);
                }
            }
        }
        self.meta.print = self.live.print();
        batch.put(META_KEY, &self.meta.frame());
        // `true`: flush, which is fdatasync in our `Env`. So at most the last batch of LevelDB's log is ever torn.
        guarded(&self.stop, || self.db.write(batch, true))
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        // Whatever is in LevelDB's buffers has been synced by `write`, or must not be written any more.
        self.stop.trip("closed".into());
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Creation {
    Asked,
    Refused,
}

fn options(env: Box<dyn Env>, creation: Creation) -> Options {
    Options {
        env: Rc::new(env),
        // Else the crate renames and writes a file LOG.
        log: Some(Rc::new(std::cell::RefCell::new(Logger(Box::new(io::sink()))))),
        create_if_missing: creation == Creation::Asked,
        // Reused, a MANIFEST cannot be read after some dozens of `kill -9`, and what is appended behind the torn tail
        // of a log is gone at the next open.
        reuse_logs: false,
        reuse_manifest: false,
        write_buffer_size: WRITE_BUFFER_BYTES,
        max_open_files: MAX_OPEN_TABLES,
        // Everything is read once.
        block_cache_capacity_bytes: 256 << 10,
        filter_policy: Rc::new(Box::new(NoFilter)),
        ..Options::default()
    }
}

/// Tables are never searched for a key, so they need no filter.
struct NoFilter;

impl FilterPolicy for NoFilter {
    fn name(&self) -> &'static str {
        "lockfs.none"
    }

    fn create_filter(&self, _: &[u8], _: &[usize]) -> Vec<u8> {
        Vec::new()
    }

    fn key_may_match(&self, _: &[u8], _: &[u8]) -> bool {
        true
    }
}

/// Runs a call into LevelDB. Its error, its panic, or an error of the disk that it swallowed: each stops it for good.
fn guarded<T>(stop: &FailStop, call: impl FnOnce() -> rusty_leveldb::Result<T>) -> Result<T, Flaw> {
    // Nothing of LevelDB is used after a panic: `stop` has been tripped, and its callers drop it.
    let outcome = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(status)) => Err(format!("leveldb: {status}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(format!("leveldb panicked: {text}"))
        }
    };
    if let Err(what) = &outcome {
        stop.trip(what.clone());
    }
    match (outcome, stop.reason()) {
        (Ok(value), None) => Ok(value),
        (_, reason) => Err(match stop.io_error() {
            Some((what, source)) => Flaw::Io(what, source),
            None => Flaw::Damaged(reason.unwrap_or("leveldb failed").to_owned()),
        }),
    }
}
