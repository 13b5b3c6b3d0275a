//! A LevelDB as one end of a migration, while no daemon has it.
//!
//! Its log is written as it is, without a table: records in any order, a batch at a time. What a migration leaves besides:
//!
//! | key | value |
//! |---|---|
//! | `m` `closing` | why the store is not opened any more |
//! | `m` `before` | while it is filled: why it was closed before, its root, and the keys that it had |

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::codec::{self, Contents};
use super::home::sync_journal;
use super::log::{self, BatchLog, Opened};
use super::{LevelError, Write, borrowed, mirror};
use crate::clock::{BootId, Clock, Now, SystemClock};
use crate::lock::{Ino, Record, Session, SessionId, SessionKind, Token};
use crate::store::Durability;
use crate::store::migrate::{Closing, End, Error, Key, Reading};
use crate::table::{Change, Note, Told};

/// How many records a page or a batch has.
const PAGE: usize = 1_000;

/// How much a batch has at most, about.
const BATCH_BYTES: usize = 4 << 20;

type Entry = (Vec<u8>, Vec<u8>);

/// One end.
#[derive(Debug)]
pub(in crate::store) struct LevelEnd {
    dir: PathBuf,
    clock: Arc<dyn Clock>,
    boot: BootId,
    /// `None` for one that is only read.
    log: Option<BatchLog>,
    identity: Option<u64>,
    /// All that it holds, sorted; what was put since is not in it.
    entries: Vec<Entry>,
    /// Whether something was put since.
    is_stale: bool,
    /// Whether it is a mirror of a Redis.
    is_mirror: bool,
}

impl LevelEnd {
    /// The store in `dir`, of which nothing is changed. Where it `must_be` there and is not, that is an error.
    ///
    /// # Errors
    /// [`LevelError`]: it can't be read.
    pub(in crate::store) fn read_only(dir: &Path, must_be: bool) -> Result<Self, Error> {
        let (identity, entries) = match log::check(dir) {
            Ok((_, entries)) => (log::identity(dir)?, entries),
            Err(LevelError::Absent { .. }) if !must_be => (None, Vec::new()),
            Err(error) => return Err(error.into()),
        };
        Self::of(dir, None, identity, entries)
    }

    /// The store in `dir`, from which all is moved.
    ///
    /// # Errors
    /// [`LevelError`]: there is none, somebody has it, or it is damaged.
    pub(in crate::store) fn source(dir: &Path) -> Result<Self, Error> {
        if log::identity(dir)?.is_none() {
            return Err(LevelError::Absent { dir: dir.to_owned() }.into());
        }
        let end = Self::target(dir)?;
        match end.is_mirror {
            true => Err(Error::Refused(format!(
                "{} is the mirror that the hybrid backend keeps of a redis: move from that redis",
                dir.display()
            ))),
            false => Ok(end),
        }
    }

    /// The store in `dir`, to which all is moved; it is made where there is none.
    ///
    /// # Errors
    /// [`LevelError`]: somebody has it, or it is damaged.
    pub(in crate::store) fn target(dir: &Path) -> Result<Self, Error> {
        let Opened { log, entries, .. } = BatchLog::open(dir, Durability::Power)?;
        let identity = Some(log.store());
        Self::of(dir, Some(log), identity, entries)
    }

    fn of(
        dir: &Path,
        log: Option<BatchLog>,
        identity: Option<u64>,
        entries: Vec<Entry>,
    ) -> Result<Self, Error> {
        let boot = BootId::current()
            .map_err(|source| LevelError::Io { what: "read the id of the boot".to_owned(), source })?;
        let mut end = Self {
            dir: dir.to_owned(),
            clock: Arc::new(SystemClock),
            boot,
            log,
            identity,
            entries,
            is_stale: false,
            is_mirror: false,
        };
        end.is_mirror = end.value(codec::BOOT)?.is_some_and(|boot| boot == mirror::CLOCK.as_bytes());
        if end.closing()?.is_none() {
            end.check_whole()?;
        }
        Ok(end)
    }

    /// Sees to it that it makes a whole: what stands in a directory or is held by a session, of which there is none, is no
    /// tree that could be moved.
    fn check_whole(&self) -> Result<(), Error> {
        let content = || self.entries.iter().filter(|(key, _)| codec::is_of_content(key));
        let keys: HashSet<&[u8]> = content().map(|(key, _)| key.as_slice()).collect();
        let is_there = |key: Vec<u8>| keys.contains(key.as_slice());
        if !keys.is_empty() && !is_there(codec::key_of(Ino::ROOT)) {
            return Err(self.damaged("the root is missing".to_owned()).into());
        }
        let entries: Vec<&Entry> = content().collect();
        for page in entries.chunks(PAGE) {
            let page: Vec<Entry> = page.iter().map(|entry| (*entry).clone()).collect();
            for record in self.contents(&page, self.clock.now())?.records {
                let parent = record.places.iter().find(|place| !is_there(codec::key_of(place.parent)));
                let holder = record.session.as_ref().filter(|id| !is_there(codec::key_of_session(id)));
                if parent.is_some() || holder.is_some() {
                    let what =
                        format!("inode {} is in a directory or of a session that is missing", record.ino);
                    return Err(self.damaged(what).into());
                }
            }
        }
        Ok(())
    }

    fn damaged(&self, what: String) -> LevelError {
        LevelError::Damaged { dir: self.dir.clone(), what }
    }

    fn log(&mut self) -> Result<&mut BatchLog, Error> {
        self.log.as_mut().ok_or_else(|| {
            LevelError::Failed("it was opened to be read, and not to be written".to_owned()).into()
        })
    }

    fn commit(&mut self, writes: &[Write]) -> Result<(), Error> {
        self.is_stale = true;
        Ok(self.log()?.commit(&borrowed(writes))?)
    }

    /// All that is on the disk by now.
    fn refresh(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.is_stale)
            && let Some(log) = self.log.take()
        {
            log.close()?;
            let Opened { log, entries, .. } = BatchLog::open(&self.dir, Durability::Power)?;
            self.entries = entries;
            self.log = Some(log);
        }
        Ok(())
    }

    fn value(&mut self, key: &[u8]) -> Result<Option<&[u8]>, Error> {
        self.refresh()?;
        let found = self.entries.binary_search_by(|(other, _)| other.as_slice().cmp(key));
        Ok(found.ok().map(|at| self.entries[at].1.as_slice()))
    }

    /// Some entries as records and sessions; a session was seen just now, as whoever opens the store has it.
    fn contents(&self, entries: &[Entry], now: Now) -> Result<Contents, Error> {
        let boot = self.value_of(codec::BOOT).map(<[u8]>::to_vec);
        let boot = boot.map(|boot| (codec::BOOT.to_vec(), boot));
        let entries = entries.iter().cloned().chain(boot);
        let mut contents = Contents::read(entries, now, &self.boot).map_err(|what| self.damaged(what))?;
        for session in &mut contents.sessions {
            session.seen = now.boot;
        }
        for record in contents.records.iter_mut().filter(|record| record.is_advisory()) {
            record.seen = now.boot;
        }
        Ok(contents)
    }

    fn value_of(&self, key: &[u8]) -> Option<&[u8]> {
        let found = self.entries.binary_search_by(|(other, _)| other.as_slice().cmp(key));
        found.ok().map(|at| self.entries[at].1.as_slice())
    }

    fn told(&self, entries: &[Entry], now: Now) -> Result<Vec<Told>, Error> {
        let Contents { records, sessions, .. } = self.contents(entries, now)?;
        if let Some(record) = records.iter().find(|record| record.token.is_of_host()) {
            return Err(Error::Refused(format!(
                "{} has what a host granted by itself while its redis was gone (inode {}): mount it with --backend \
                 hybrid, so that redis hears of it, and move from that redis",
                self.dir.display(),
                record.ino
            )));
        }
        let sessions = sessions.into_iter().map(|session| Told::Session(Box::new(session)));
        let records = records.into_iter().map(|record| Told::Object(Box::new(record), Note::Told));
        Ok(sessions.chain(records).collect())
    }

    fn sync(&self) -> Result<(), Error> {
        let failed = |source| LevelError::Io { what: format!("sync {}", self.dir.display()), source };
        Ok(sync_journal(&self.dir).map_err(failed)?)
    }

    /// Whether a host has granted or released something in the place of the Redis that this is a mirror of.
    fn stood_alone(&self) -> Result<bool, Error> {
        // As `hybrid/owed.rs` has it.
        let mut owed = self.dir.clone().into_os_string();
        owed.push(".owed");
        let owes = std::fs::metadata(owed).is_ok_and(|data| data.len() > 0);
        let boot = BootId::new(mirror::CLOCK);
        let contents = Contents::read(self.entries.iter().cloned(), self.clock.now(), &boot);
        let contents = contents.map_err(|what| self.damaged(what))?;
        Ok(owes || contents.records.iter().any(|record| record.token.is_of_host()))
    }

    fn delete_all_but(&mut self, kept: &HashSet<Vec<u8>>, each: &mut dyn FnMut(u64)) -> Result<(), Error> {
        self.refresh()?;
        let gone: Vec<Write> = self
            .entries
            .iter()
            .map(|(key, _)| key)
            .filter(|key| codec::is_of_content(key) && !kept.contains(*key))
            .map(|key| (key.clone(), None))
            .collect();
        for batch in gone.chunks(PAGE) {
            self.commit(batch)?;
            each(batch.len() as u64);
        }
        Ok(())
    }
}

/// What is remembered of a store that is filled.
#[derive(Debug, Default, PartialEq, Eq)]
struct Before {
    closing: Vec<u8>,
    root: Vec<u8>,
    keys: Vec<Vec<u8>>,
}

impl Before {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for part in [&self.closing, &self.root].into_iter().chain(&self.keys) {
            out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
            out.extend_from_slice(part);
        }
        out
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut parts = Vec::new();
        while !bytes.is_empty() {
            let (length, rest) = bytes.split_first_chunk::<4>()?;
            let (part, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            parts.push(part.to_vec());
            bytes = rest;
        }
        let mut parts = parts.into_iter();
        Some(Self { closing: parts.next()?, root: parts.next()?, keys: parts.collect() })
    }
}

/// Where a store is, for people.
pub(super) fn shown(dir: &Path) -> String {
    let (above, name) = (dir.parent(), dir.file_name());
    let (above, name) = (above.unwrap_or(dir), name.unwrap_or_default());
    format!("leveldb://{} (namespace {})", above.display(), name.display())
}

/// The store of that id among all stores.
pub(super) fn named(id: u64) -> String {
    format!("leveldb-{id:016x}")
}

/// What is put, as it is written.
fn write(told: Told, now: Now) -> Write {
    match told {
        Told::Object(record, _) => codec::entry_of(&record, now),
        Told::Session(session) => codec::entry_of_session(&session, now),
        Told::Gone(ino) => (codec::key_of(ino), None),
        Told::Over(id) => (codec::key_of_session(&id), None),
    }
}

impl End for LevelEnd {
    fn place(&self) -> String {
        shown(&self.dir)
    }

    fn identity(&self) -> Option<String> {
        self.identity.map(named)
    }

    fn now(&self) -> Now {
        self.clock.now()
    }

    fn closing(&mut self) -> Result<Option<Closing>, Error> {
        let text = self.value(codec::CLOSING)?.map(<[u8]>::to_vec);
        let Some(text) = text else { return Ok(None) };
        let closing = Closing::parse(&text);
        closing.map(Some).ok_or_else(|| self.damaged(Closing::shown(&text)).into())
    }

    fn epoch(&mut self) -> Result<u32, Error> {
        let epoch = self.value(codec::EPOCH)?.and_then(|epoch| epoch.try_into().ok());
        Ok(epoch.map_or(Token::EPOCH_MIN, u32::from_le_bytes))
    }

    fn locked(&mut self) -> Result<Vec<String>, Error> {
        // Whoever had something locked ended with the daemon.
        Ok(Vec::new())
    }

    fn count(&mut self) -> Result<u64, Error> {
        Ok(self.entries.iter().filter(|(key, _)| codec::is_of_content(key)).count() as u64)
    }

    fn read(&mut self, each: Reading<'_>) -> Result<(), Error> {
        self.refresh()?;
        let (objects, sessions): (Vec<&Entry>, Vec<&Entry>) = self
            .entries
            .iter()
            .filter(|(key, _)| codec::is_of_content(key))
            .partition(|(key, _)| codec::is_of_object(key));
        for page in [sessions, objects].iter().flat_map(|entries| entries.chunks(PAGE)) {
            let page: Vec<Entry> = page.iter().map(|entry| (*entry).clone()).collect();
            let now = self.clock.now();
            each(now, self.told(&page, now)?)?;
        }
        Ok(())
    }

    fn look(&mut self, objects: &[Ino], sessions: &[SessionId]) -> Result<Option<(Now, Vec<Told>)>, Error> {
        if self.is_stale {
            return Ok(None);
        }
        let now = self.clock.now();
        let entry = |key: Vec<u8>| self.value_of(&key).map(|value| (key.clone(), value.to_vec()));
        let mut told = Vec::new();
        let mut ids: Vec<SessionId> = sessions.to_vec();
        for ino in objects {
            match entry(codec::key_of(*ino)) {
                Some(entry) => told.extend(self.told(&[entry], now)?),
                None => told.push(Told::Gone(*ino)),
            }
        }
        ids.extend(told.iter().filter_map(|one| match one {
            Told::Object(record, _) => record.session.clone(),
            _ => None,
        }));
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            match entry(codec::key_of_session(&id)) {
                Some(entry) => told.extend(self.told(&[entry], now)?),
                None => told.push(Told::Over(id)),
            }
        }
        Ok(Some((now, told)))
    }

    fn track(&mut self) -> Result<(), Error> {
        // Nobody else can change it: its directory is locked.
        Ok(())
    }

    fn keep(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn changes(&mut self) -> Result<Vec<Change>, Error> {
        Ok(Vec::new())
    }

    fn freeze(&mut self, _lease: Duration) -> Result<(), Error> {
        // The closing waits for the disk: the less there is to write by then, the shorter.
        self.sync()
    }

    fn close(&mut self, closing: &Closing) -> Result<bool, Error> {
        self.commit(&[(codec::CLOSING.to_vec(), Some(closing.text().into_bytes()))])?;
        // What was written before it may not be on the disk yet, and it counts only behind that.
        self.sync()?;
        Ok(true)
    }

    fn thaw(&mut self, closing: &Closing) -> Result<(), Error> {
        match self.closing()? {
            Some(other) if other == *closing => self.commit(&[(codec::CLOSING.to_vec(), None)]),
            _ => Ok(()),
        }
    }

    fn fill(&mut self, closing: &Closing, known: Option<&Closing>, is_fresh: bool) -> Result<(), Error> {
        let old = self.closing()?;
        if old.as_ref() == Some(closing) {
            return Ok(());
        }
        if let Some(other) = old.as_ref().filter(|old| Some(*old) != known) {
            return Err(Error::Refused(format!("{}: {other}", self.place())));
        }
        if self.is_mirror && self.stood_alone()? {
            return Err(Error::Refused(format!(
                "{} is the mirror of a hybrid mount that did things by itself which its redis has not heard of: mount it \
                 with --backend hybrid until lockfs status says owed: 0 (nothing was moved)",
                self.place()
            )));
        }
        // What a mirror has is its Redis'.
        let is_fresh = is_fresh || self.is_mirror;
        let now = self.clock.now();
        let mut before = Before {
            closing: old.map(|old| old.text().into_bytes()).unwrap_or_default(),
            root: self.value_of(&codec::key_of(Ino::ROOT)).map(<[u8]>::to_vec).unwrap_or_default(),
            keys: Vec::new(),
        };
        let mut writes: Vec<Write> = Vec::new();
        if !is_fresh {
            let Contents { records, sessions, .. } = self.contents(&self.entries, now)?;
            let holders: HashSet<SessionId> =
                records.iter().filter_map(|record: &Record| record.session.clone()).collect();
            // Sessions of jobs that hold nothing are begun again by whoever needs them.
            let is_idle =
                |session: &Session| session.kind != SessionKind::Named && !holders.contains(&session.id);
            for session in &sessions {
                match is_idle(session) {
                    true => writes.push((codec::key_of_session(&session.id), None)),
                    false => writes.push(codec::entry_of_session(session, now)),
                }
            }
            // On the clock of this boot, as all that comes.
            writes.extend(records.iter().map(|record| codec::entry_of(record, now)));
            let kept =
                writes.iter().filter(|(key, value)| value.is_some() && *key != codec::key_of(Ino::ROOT));
            before.keys = kept.map(|(key, _)| key.clone()).collect();
        }
        if self.is_mirror {
            // The epochs of a host by itself are none of the tokens that come.
            writes.push((codec::EPOCH.to_vec(), Some(Token::EPOCH_MIN.to_le_bytes().to_vec())));
            let content = self.entries.iter().filter(|(key, _)| codec::is_of_content(key));
            writes.extend(content.map(|(key, _)| (key.clone(), None)));
            before.root.clear();
            self.is_mirror = false;
        }
        writes.push((codec::BOOT.to_vec(), Some(self.boot.as_str().as_bytes().to_vec())));
        writes.push((codec::BEFORE.to_vec(), Some(before.encode())));
        writes.push((codec::CLOSING.to_vec(), Some(closing.text().into_bytes())));
        self.commit(&writes)
    }

    fn before(&mut self) -> Result<Vec<Key>, Error> {
        let Some(bytes) = self.value(codec::BEFORE)? else { return Ok(Vec::new()) };
        let before = Before::decode(bytes).ok_or_else(|| "what it was before".to_owned());
        let before = before.map_err(|what| self.damaged(format!("{what} can't be read")))?;
        let keys = before.keys.iter().map(|key| codec::parse_key(key));
        let keys: Option<Vec<Key>> = keys.collect();
        Ok(keys.ok_or_else(|| self.damaged("the list of what it had before can't be read".to_owned()))?)
    }

    fn put(&mut self, _closing: &Closing, told: Vec<Told>) -> Result<(), Error> {
        let now = self.clock.now();
        let mut batch: Vec<Write> = Vec::new();
        let mut bytes = 0;
        for one in told {
            let write = write(one, now);
            bytes += write.1.as_ref().map_or(0, Vec::len);
            batch.push(write);
            if bytes >= BATCH_BYTES {
                self.commit(&std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        self.commit(&batch)
    }

    fn settle(&mut self) -> Result<(), Error> {
        // Each batch is on the disk when it is written.
        Ok(())
    }

    fn open(&mut self, _closing: &Closing, epoch: u32) -> Result<(), Error> {
        let epoch = self.epoch()?.max(epoch);
        self.commit(&[
            (codec::EPOCH.to_vec(), Some(epoch.to_le_bytes().to_vec())),
            (codec::BEFORE.to_vec(), None),
            (codec::CLOSING.to_vec(), None),
        ])
    }

    fn empty(&mut self, _closing: &Closing, each: &mut dyn FnMut(u64)) -> Result<(), Error> {
        let before = match self.value(codec::BEFORE)? {
            Some(bytes) => Before::decode(bytes),
            None => Some(Before::default()),
        };
        let before = before.ok_or_else(|| self.damaged("what it was before can't be read".to_owned()))?;
        let root = codec::key_of(Ino::ROOT);
        let kept: HashSet<Vec<u8>> = before.keys.iter().cloned().collect();
        self.delete_all_but(&kept, each)?;
        let as_it_was = |bytes: Vec<u8>| Some(bytes).filter(|bytes| !bytes.is_empty());
        self.commit(&[
            (root, as_it_was(before.root)),
            (codec::BEFORE.to_vec(), None),
            (codec::CLOSING.to_vec(), as_it_was(before.closing)),
        ])
    }
}

impl Drop for LevelEnd {
    fn drop(&mut self) {
        if let Some(log) = self.log.take()
            && let Err(error) = log.close()
        {
            ::log::warn!("{}: {error}", self.dir.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_was_before_is_read_back() {
        let before = Before { closing: b"moved".to_vec(), root: Vec::new(), keys: vec![b"oA".to_vec()] };
        assert_eq!(Before::decode(&before.encode()), Some(before));
        assert_eq!(Before::decode(b"\x05\0\0\0a"), None);
    }
}
