//! LevelDB as the resting place of records: written in the background, read by iterator, never asked for a key.
//!
//! Invariant: the journal keeps each batch until LevelDB has it synced, and LevelDB gets none that the journal has not
//! synced. Batches come in *feeds*: of all batches up to one, the last change of each key, sorted. The meta record says
//! before the first write of a feed what will be true after its last, so a feed that was interrupted anywhere can be judged.
//!
//! | key | value (framed, see `frame.rs`) |
//! |---|---|
//! | `r` and the caller's key | the caller's value |
//! | `m` | store id, `applied`, `feeding`, count of records, xor of their hashes; 8 bytes each |
//!
//! Everything up to batch `applied` is in; of those from there to `feeding`, some may be, so the journal must reach
//! `feeding`. Count and xor are those of the tables with the journal replayed from `applied` to `feeding`.
//!
//! Sorted feeds make tables of narrow ranges, which compact cheaply; a meta record in each batch would spoil that.

use std::collections::HashMap;
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
const WRITE_BUFFER_BYTES: usize = if cfg!(test) { 16 << 10 } else { 1 << 20 };
/// The size of a compacted table. The crate makes at most one step of compaction each time the buffer is full, and every
/// fourth goes to level 0; with a step of four buffers the other levels keep up.
const MAX_TABLE_BYTES: usize = 4 * WRITE_BUFFER_BYTES;
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
    /// What records are in, with the journal replayed to `feeding`.
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
    records: HashMap<[u32; 3], [u32; 2], BuildHasherDefault<FirstWords>>,
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

    /// The fingerprint there will be after `changes`, a put as its frame, of keys that differ.
    pub(crate) fn print_after<'a>(&self, changes: impl Iterator<Item = Change<'a>>) -> Fingerprint {
        let mut print = self.print;
        for (key, frame) in changes {
            if let Some(old) = self.records.get(&self.slot(key)) {
                print.remove(RecordHash::from_words(*old));
            }
            if let Some(frame) = frame {
                print.add(RecordHash::of(key, frame));
            }
        }
        print
    }

    fn slot(&self, key: &[u8]) -> [u32; 3] {
        let [a, b] = self.hashers.each_ref().map(|hasher| hasher.hash_one(key));
        [a as u32, (a >> 32) as u32, b as u32]
    }

    fn put(&mut self, key: &[u8], frame: &[u8]) {
        let hash = RecordHash::of(key, frame);
        // Two words, aligned as the three of the key, so that an entry takes 20 bytes.
        let old = self.records.insert(self.slot(key), hash.to_words());
        self.forget(old);
        self.print.add(hash);
    }

    fn delete(&mut self, key: &[u8]) {
        let old = self.records.remove(&self.slot(key));
        self.forget(old);
    }

    fn forget(&mut self, old: Option<[u32; 2]>) {
        if let Some(old) = old {
            self.print.remove(RecordHash::from_words(old));
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

/// What is in the tables; whether that is all there should be is for `verify.rs` to say.
#[derive(Debug)]
pub(crate) struct Contents {
    /// Every record, sorted by key.
    pub(crate) records: Vec<Record>,
    /// The same, as hashes.
    pub(crate) live: Live,
    /// What the meta record says, which agrees.
    pub(crate) meta: Meta,
}

/// Reads everything in LevelDB's directory `dir`, checks each record, and changes nothing.
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
        Self::open_db(dir, Live::new(), meta, Creation::Asked)?.write_meta()
    }

    /// Opens LevelDB in `dir`, in which [`read_all`] found `live` and `meta`.
    ///
    /// That is not looked at again: the crate never drops an overwritten record in a `DB` that ever had an iterator
    /// (`SnapshotList::empty` stays false, and `oldest` is then 0), and its `get` does not find every key.
    pub(crate) fn open(dir: &Path, live: Live, meta: Meta) -> Result<Self, Flaw> {
        Self::open_db(dir, live, meta, Creation::Refused)
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

    /// The last batch of a feed that was begun, and perhaps not ended.
    pub(crate) fn feeding(&self) -> u64 {
        self.meta.feeding
    }

    /// Whether a deletion of `key` would change anything.
    pub(crate) fn holds(&self, key: &[u8]) -> bool {
        self.live.records.contains_key(&self.live.slot(key))
    }

    /// Begins a feed: `changes`, a put as its frame, are those of all batches after `applied` up to `last`, which is not
    /// before `feeding`. They must then be written, all of them and nothing else.
    pub(crate) fn begin_feed(&mut self, last: u64, changes: &[Change<'_>]) -> Result<(), Flaw> {
        self.meta.feeding = last;
        self.meta.print = self.live.print_after(changes.iter().copied());
        self.write_meta()
    }

    /// Writes and syncs some changes of the feed: all or nothing.
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
        self.write_synced(batch)
    }

    /// Ends the feed.
    pub(crate) fn end_feed(&mut self) -> Result<(), Flaw> {
        self.meta.applied = self.meta.feeding;
        self.write_meta()
    }

    fn write_meta(&mut self) -> Result<(), Flaw> {
        let mut batch = WriteBatch::default();
        batch.put(META_KEY, &self.meta.frame());
        self.write_synced(batch)
    }

    fn write_synced(&mut self, batch: WriteBatch) -> Result<(), Flaw> {
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
        max_file_size: MAX_TABLE_BYTES,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_an_error_and_a_swallowed_disk_error_each_stop_leveldb_for_good() {
        let stop = FailStop::default();
        let flaw = guarded(&stop, || -> rusty_leveldb::Result<()> { panic!("on purpose") }).unwrap_err();
        assert!(flaw.reason().contains("panicked: on purpose"), "{}", flaw.reason());
        assert!(guarded(&stop, || Ok(())).is_err());

        let stop = FailStop::default();
        stop.trip("a disk error that LevelDB swallowed".into());
        assert!(guarded(&stop, || Ok(())).is_err());
    }

    #[test]
    fn overwritten_records_leave_leveldb() {
        // In a DB that ever had an iterator they never do: SnapshotList::empty stays false, and oldest is then 0.
        let dir =
            tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
        Tables::create(dir.path(), 1).unwrap();
        let mut tables = Tables::open(dir.path(), Live::new(), Meta { store: 1, ..Meta::default() }).unwrap();
        for n in 0..3000_u32 {
            let keys: [Vec<u8>; 4] =
                std::array::from_fn(|i| (n as usize % 10 * 4 + i).to_string().into_bytes());
            let value = [n as u8; 500];
            tables.write(&keys.each_ref().map(|key| (&key[..], Some(&value[..])))).unwrap();
        }
        drop(tables);
        // Six megabytes came in; forty records are left, and what has not yet been compacted.
        let files = std::fs::read_dir(dir.path()).unwrap();
        let bytes: u64 = files.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes < 600_000, "{bytes} bytes");
    }

    #[test]
    fn a_fingerprint_foretold_is_the_one_that_comes() {
        let mut live = Live::new();
        let frame = |key: &[u8], value: &[u8]| {
            let mut out = Vec::new();
            append_frame(&mut out, key, value);
            out
        };
        let [a1, a2, b] = [frame(b"a", b"1"), frame(b"a", b"2"), frame(b"b", b"")];
        live.put(b"a", &a1);
        live.put(b"b", &b);
        let changes: [Change<'_>; 3] = [(b"a", Some(&a2)), (b"b", None), (b"c", None)];
        let foretold = live.print_after(changes.into_iter());
        live.put(b"a", &a2);
        live.delete(b"b");
        live.delete(b"c");
        assert_eq!(foretold, live.print);
        assert_eq!(foretold.count, 1);
    }

    #[test]
    fn meta_records_of_version_1_never_change() {
        let meta = Meta { store: 1, applied: 2, feeding: 3, print: Fingerprint { count: 4, xor: 5 } };
        let mut golden = vec![1, 0, 0, 0, 0];
        golden[1..].copy_from_slice(&meta.frame()[1..5]);
        for field in 1..=5_u64 {
            golden.extend_from_slice(&field.to_le_bytes());
        }
        assert_eq!(meta.frame(), golden);
        assert_eq!(Meta::parse(&golden).unwrap(), meta);
    }
}
