//! A LevelDB as the end of a migration from which all is moved, while a daemon has it open: over its socket (`serve.rs`).

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::codec::{self, Contents};
use super::serve::{Fields, PATIENCE, SOCKET, put_bytes, receive, send};
use crate::clock::{BootId, BootTime, Clock, Now, SystemClock};
use crate::lock::{Ino, SessionId};
use crate::store::StoreError;
use crate::store::migrate::{Closing, End, Error, Key, Reading};
use crate::table::{Change, Note, Told};

/// For how long changes are noted that nobody asks for.
const TRACKED: Duration = Duration::from_secs(30);

/// How many things a page has.
const PAGE: u64 = 1_000;

/// One end.
pub(in crate::store) struct RemoteEnd {
    dir: PathBuf,
    stream: UnixStream,
    clock: Arc<dyn Clock>,
    boot: BootId,
    identity: u64,
    /// When its changes were last asked for; `None` where they are not noted.
    tracked: Option<BootTime>,
}

impl fmt::Debug for RemoteEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteEnd").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// How it stands with the store.
struct State {
    identity: u64,
    epoch: u32,
    objects: u64,
    closing: Vec<u8>,
    locked: Vec<String>,
}

impl RemoteEnd {
    /// The store in `dir`; `None` where no daemon lets it be copied.
    ///
    /// # Errors
    /// The daemon does not answer, or not to this user.
    pub(in crate::store) fn connect(dir: &Path) -> Result<Option<Self>, Error> {
        let Ok(stream) = UnixStream::connect(dir.join(SOCKET)) else { return Ok(None) };
        let system = |error: io::Error| Error::Store {
            place: shown(dir),
            error: StoreError::Unavailable(format!("its daemon does not answer: {error}")),
        };
        stream.set_read_timeout(Some(PATIENCE)).map_err(system)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(system)?;
        let boot = BootId::current().map_err(system)?;
        let clock = Arc::new(SystemClock);
        let mut end = Self { dir: dir.to_owned(), stream, clock, boot, identity: 0, tracked: None };
        end.identity = end.state()?.identity;
        Ok(Some(end))
    }

    fn failed(&self, why: String) -> Error {
        Error::Store { place: shown(&self.dir), error: StoreError::Unavailable(why) }
    }

    /// What is answered; `None` where a lease is over.
    fn ask(&mut self, question: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let answer = send(&mut self.stream, question).and_then(|()| receive(&mut self.stream));
        let answer =
            answer.map_err(|error| self.failed(format!("its daemon has gone ({error}): run it again")))?;
        match answer.split_first() {
            Some((b'K', rest)) => Ok(Some(rest.to_vec())),
            Some((b'L', _)) => Ok(None),
            Some((b'E', why)) => Err(self.failed(String::from_utf8_lossy(why).into_owned())),
            _ => Err(self.strange()),
        }
    }

    fn strange(&self) -> Error {
        self.failed("its daemon is another version of lockfs: restart it".to_owned())
    }

    fn must(&mut self, question: &[u8]) -> Result<Vec<u8>, Error> {
        let answer = self.ask(question)?;
        answer.ok_or_else(|| {
            self.failed("nobody has asked for its changes for too long: run it again".to_owned())
        })
    }

    fn with_millis(&mut self, what: u8, span: Duration) -> Result<Vec<u8>, Error> {
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.must(&[&[what][..], &millis.to_le_bytes()].concat())
    }

    fn state(&mut self) -> Result<State, Error> {
        let answer = self.must(b"i")?;
        let mut fields = Fields(&answer);
        let mut read = || {
            let (identity, epoch, objects) = (fields.number()?, fields.number()?, fields.number()?);
            let (epoch, closing) = (u32::try_from(epoch).ok()?, fields.bytes()?.to_vec());
            let mut locked = Vec::new();
            while !fields.is_empty() {
                locked.push(String::from_utf8_lossy(fields.bytes()?).into_owned());
            }
            Some(State { identity, epoch, objects, closing, locked })
        };
        read().ok_or_else(|| self.strange())
    }

    /// Entries as a daemon answers them.
    fn told(&self, answer: &[u8]) -> Result<(Now, Vec<Told>), Error> {
        let now = self.clock.now();
        let (mut fields, mut entries, mut told) = (Fields(answer), Vec::new(), Vec::new());
        while !fields.is_empty() {
            let (Some(key), Some(value)) = (fields.bytes(), fields.bytes()) else {
                return Err(self.strange());
            };
            match (codec::parse_key(key), value) {
                (Some(Key::Object(ino)), []) => told.push(Told::Gone(ino)),
                (Some(Key::Session(id)), []) => told.push(Told::Over(id)),
                _ => entries.push((key.to_vec(), value.to_vec())),
            }
        }
        // It counts on this boot, as we do.
        entries.push((codec::BOOT.to_vec(), self.boot.as_str().as_bytes().to_vec()));
        let contents = Contents::read(entries, now, &self.boot).map_err(|_| self.strange())?;
        if let Some(record) = contents.records.iter().find(|record| record.token.is_of_host()) {
            return Err(Error::Refused(format!(
                "{} has what a host granted by itself while its redis was gone (inode {}): mount it with --backend \
                 hybrid, so that redis hears of it, and move from that redis",
                shown(&self.dir),
                record.ino
            )));
        }
        told.extend(contents.sessions.into_iter().map(|session| Told::Session(Box::new(session))));
        told.extend(contents.records.into_iter().map(|record| Told::Object(Box::new(record), Note::Told)));
        Ok((now, told))
    }

    fn is_only_read<T>(&self) -> Result<T, Error> {
        Err(self.failed("a daemon has it: unmount it first".to_owned()))
    }
}

fn shown(dir: &Path) -> String {
    super::moving::shown(dir)
}

impl End for RemoteEnd {
    fn place(&self) -> String {
        shown(&self.dir)
    }

    fn identity(&self) -> Option<String> {
        Some(super::moving::named(self.identity))
    }

    fn now(&self) -> Now {
        self.clock.now()
    }

    fn closing(&mut self) -> Result<Option<Closing>, Error> {
        let text = self.state()?.closing;
        match (text.is_empty(), Closing::parse(&text)) {
            (true, _) => Ok(None),
            (false, Some(closing)) => Ok(Some(closing)),
            (false, None) => Err(self.strange()),
        }
    }

    fn epoch(&mut self) -> Result<u32, Error> {
        Ok(self.state()?.epoch)
    }

    fn locked(&mut self) -> Result<Vec<String>, Error> {
        Ok(self.state()?.locked)
    }

    fn count(&mut self) -> Result<u64, Error> {
        Ok(self.state()?.objects)
    }

    fn read(&mut self, each: Reading<'_>) -> Result<(), Error> {
        for kind in [b"as", b"ao"] {
            let answer = self.must(kind)?;
            let count = Fields(&answer).number().ok_or_else(|| self.strange())?;
            let mut from = 0;
            while from < count {
                let question = [&b"p"[..], &from.to_le_bytes(), &(from + PAGE).to_le_bytes()].concat();
                let answer = self.must(&question)?;
                let (now, told) = self.told(&answer)?;
                each(now, told)?;
                self.keep()?;
                from += PAGE;
            }
        }
        Ok(())
    }

    fn look(&mut self, objects: &[Ino], sessions: &[SessionId]) -> Result<Option<(Now, Vec<Told>)>, Error> {
        let mut question = b"l".to_vec();
        objects.iter().for_each(|ino| put_bytes(&mut question, &codec::key_of(*ino)));
        let answer = self.must(&question)?;
        let (now, mut told) = self.told(&answer)?;
        // Who holds them comes later than they do: of one that went meanwhile, the changes tell.
        let mut ids: Vec<SessionId> = sessions.to_vec();
        ids.extend(told.iter().filter_map(|one| match one {
            Told::Object(record, _) => record.session.clone(),
            _ => None,
        }));
        ids.sort_unstable();
        ids.dedup();
        let mut question = b"l".to_vec();
        ids.iter().for_each(|id| put_bytes(&mut question, &codec::key_of_session(id)));
        let answer = self.must(&question)?;
        told.extend(self.told(&answer)?.1);
        Ok(Some((now, told)))
    }

    fn track(&mut self) -> Result<(), Error> {
        self.tracked = Some(self.clock.now().boot);
        self.with_millis(b't', TRACKED).map(drop)
    }

    fn keep(&mut self) -> Result<(), Error> {
        let now = self.clock.now().boot;
        if self.tracked.is_some_and(|then| now.since(then) >= TRACKED / 10) {
            self.tracked = Some(now);
            self.with_millis(b'k', TRACKED)?;
        }
        Ok(())
    }

    fn changes(&mut self) -> Result<Vec<Change>, Error> {
        self.tracked = Some(self.clock.now().boot);
        let answer = self.with_millis(b'c', TRACKED)?;
        let (mut fields, mut changes) = (Fields(&answer), Vec::new());
        while !fields.is_empty() {
            let key = fields.bytes().and_then(codec::parse_key);
            changes.push(match key.ok_or_else(|| self.strange())? {
                Key::Object(ino) => Change::Object(ino),
                Key::Session(id) => Change::Session(id),
            });
        }
        Ok(changes)
    }

    fn freeze(&mut self, lease: Duration) -> Result<(), Error> {
        self.with_millis(b'f', lease).map(drop)
    }

    fn close(&mut self, closing: &Closing) -> Result<bool, Error> {
        self.tracked = None;
        let mut question = b"x".to_vec();
        put_bytes(&mut question, closing.text().as_bytes());
        Ok(self.ask(&question)?.is_some())
    }

    fn thaw(&mut self, closing: &Closing) -> Result<(), Error> {
        self.tracked = None;
        let mut question = b"w".to_vec();
        put_bytes(&mut question, closing.text().as_bytes());
        self.must(&question).map(drop)
    }

    fn fill(&mut self, _: &Closing, _: Option<&Closing>, _: bool) -> Result<(), Error> {
        self.is_only_read()
    }

    fn before(&mut self) -> Result<Vec<Key>, Error> {
        Ok(Vec::new())
    }

    fn put(&mut self, _: &Closing, _: Vec<Told>) -> Result<(), Error> {
        self.is_only_read()
    }

    fn settle(&mut self) -> Result<(), Error> {
        self.is_only_read()
    }

    fn open(&mut self, _: &Closing, _: u32) -> Result<(), Error> {
        self.is_only_read()
    }

    fn empty(&mut self, _: &Closing, _: &mut dyn FnMut(u64)) -> Result<(), Error> {
        self.is_only_read()
    }
}
