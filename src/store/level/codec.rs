//! Records and sessions as bytes. The frame around them carries the version and a checksum; these are the
//! bytes of version 1, field by field in the order below, numbers little-endian, strings with their length
//! (4 bytes) before them.
//!
//! `seen` is kept on both clocks: on `CLOCK_BOOTTIME`, good for the boot it was written in, and on the wall
//! clock, from which it is worked out again after another boot. What then remains of a ttl is never more than
//! the whole of it, nor less than nothing, whatever the wall clock says.

use super::Write;
use crate::clock::{BootId, BootTime, Now, WallTime};
use crate::lock::{
    Body, Ino, Job, Login, Name, Origin, Place, Record, Session, SessionId, SessionKind, Token, Ttl,
};
use crate::store::migrate::Key;
use crate::table::{Change, LockTable};

/// The key of the epoch.
pub(super) const EPOCH: &[u8] = b"mepoch";
/// The key of the boot.
pub(super) const BOOT: &[u8] = b"mboot";
/// The key of why the store is not opened any more (`moving.rs`).
pub(super) const CLOSING: &[u8] = b"mclosing";
/// The key of what a store was before it was filled.
pub(super) const BEFORE: &[u8] = b"mbefore";
const OBJECT: u8 = b'o';
const SESSION: u8 = b's';

/// What a change comes to in the log.
pub(super) fn write(table: &LockTable, change: &Change, now: Now) -> Write {
    match change {
        Change::Object(ino) => (key_of(*ino), table.record(*ino).map(|record| encode_record(record, now))),
        Change::Session(id) => {
            (key_of_session(id), table.session_record(id).map(|session| encode_session(session, now)))
        }
    }
}

/// The key of what a change is of.
pub(super) fn key(change: &Change) -> Vec<u8> {
    match change {
        Change::Object(ino) => key_of(*ino),
        Change::Session(id) => key_of_session(id),
    }
}

/// What a record comes to in the log.
pub(super) fn entry_of(record: &Record, now: Now) -> Write {
    (key_of(record.ino), Some(encode_record(record, now)))
}

/// What a session comes to in the log.
pub(super) fn entry_of_session(session: &Session, now: Now) -> Write {
    (key_of_session(&session.id), Some(encode_session(session, now)))
}

/// Whether it is the key of an object or a session.
pub(super) fn is_of_content(key: &[u8]) -> bool {
    matches!(key.first(), Some(&(OBJECT | SESSION)))
}

/// Whether it is the key of an object.
pub(super) fn is_of_object(key: &[u8]) -> bool {
    key.first() == Some(&OBJECT)
}

/// What a key is of.
pub(super) fn parse_key(key: &[u8]) -> Option<Key> {
    match key.split_first()? {
        (&OBJECT, number) => Some(Key::Object(Ino::from_u64(u64::from_be_bytes(number.try_into().ok()?)))),
        (&SESSION, id) => SessionId::parse(id).ok().map(Key::Session),
        _ => None,
    }
}

/// The key of a session.
pub(super) fn key_of_session(id: &SessionId) -> Vec<u8> {
    [&[SESSION][..], id.as_str().as_bytes()].concat()
}

/// The key of an object.
pub(super) fn key_of(ino: Ino) -> Vec<u8> {
    [&[OBJECT][..], &ino.as_u64().to_be_bytes()].concat()
}

/// What a log holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) epoch: Option<u32>,
    pub(super) boot: Option<BootId>,
    /// Why it is not to be opened.
    pub(super) closing: Option<Vec<u8>>,
    pub(super) records: Vec<Record>,
    pub(super) sessions: Vec<Session>,
}

impl Contents {
    /// Reads the entries of a log, at `now` in the boot `boot`.
    ///
    /// # Errors
    /// Says which entry can't be read.
    pub(super) fn read(
        entries: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
        now: Now,
        boot: &BootId,
    ) -> Result<Self, String> {
        let mut contents = Self::default();
        let mut values = Vec::new();
        for (key, value) in entries {
            if key == EPOCH {
                let bytes = value.as_slice().try_into().map_err(|_| "the epoch is not 4 bytes".to_owned())?;
                contents.epoch = Some(u32::from_le_bytes(bytes));
            } else if key == BOOT {
                contents.boot = Some(BootId::new(String::from_utf8_lossy(&value)));
            } else if key == CLOSING {
                contents.closing = Some(value);
            } else if key != BEFORE {
                values.push((key, value));
            }
        }
        let same_boot = contents.boot.as_ref() == Some(boot);
        for (key, value) in values {
            let mut reader = Reader { rest: &value, now, same_boot };
            let read = match key.split_first() {
                Some((&OBJECT, number)) => reader.record(number).map(|record| contents.records.push(record)),
                Some((&SESSION, id)) => reader.session(id).map(|session| contents.sessions.push(session)),
                _ => None,
            };
            if read.is_none() || !reader.rest.is_empty() {
                return Err(format!("the record with the key {} can't be read", key.escape_ascii()));
            }
        }
        Ok(contents)
    }

    /// Whether a store could be opened from the entries of a log.
    ///
    /// # Errors
    /// Says what is wrong.
    pub(super) fn verify(entries: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), String> {
        let contents = Self::read(entries, Now::default(), &BootId::new(""))?;
        // What is being filled makes no tree yet.
        if contents.records.is_empty() || contents.closing.is_some() {
            return Ok(());
        }
        LockTable::restore(u32::MAX, contents.records, contents.sessions).map(drop)
    }
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, number: u8) {
        self.0.push(number);
    }

    fn u16(&mut self, number: u16) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn u32(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).expect("no field of a record is longer than a note"));
        self.0.extend_from_slice(bytes);
    }

    fn time(&mut self, time: WallTime) {
        self.0.extend_from_slice(&time.secs().to_le_bytes());
        self.u32(time.subsec_nanos());
    }

    fn seen(&mut self, seen: BootTime, now: Now) {
        self.u64(seen.as_nanos());
        let ago = i64::try_from(now.boot.since(seen).as_secs()).unwrap_or(i64::MAX);
        self.time(WallTime::new(now.wall.secs().saturating_sub(ago), now.wall.subsec_nanos()));
    }
}

fn encode_record(record: &Record, now: Now) -> Vec<u8> {
    let mut out = Writer::default();
    out.u64(record.token.as_u64());
    match &record.body {
        Body::File(note) => {
            out.u8(0);
            out.bytes(note);
        }
        Body::Directory { default_ttl } => {
            out.u8(1);
            out.u8(u8::from(default_ttl.is_some()));
            out.u64(default_ttl.map_or(0, Ttl::as_millis));
        }
        Body::Symlink(target) => {
            out.u8(2);
            out.bytes(target);
        }
    }
    out.u32(u32::try_from(record.places.len()).expect("an object has at most a thousand names"));
    for place in &record.places {
        out.u64(place.parent.as_u64());
        out.bytes(place.name.as_bytes());
        out.u64(place.cookie.as_u64());
    }
    out.u16(record.mode);
    out.u32(record.uid);
    out.u32(record.gid);
    out.time(record.mtime);
    out.time(record.ctime);
    out.time(record.since);
    out.bytes(record.session.as_ref().map_or("", SessionId::as_str).as_bytes());
    out.u64(record.ttl.as_millis());
    out.seen(record.seen, now);
    out.0
}

fn encode_session(session: &Session, now: Now) -> Vec<u8> {
    let mut out = Writer::default();
    out.u64(session.ino.as_u64());
    out.u32(session.uid);
    out.u32(session.gid);
    match &session.kind {
        SessionKind::Named => out.u8(0),
        SessionKind::Unseen => out.u8(1),
        SessionKind::Job(job) => {
            out.u8(2);
            out.u32(job.pgid);
            out.u64(job.start);
            out.bytes(job.boot.as_str().as_bytes());
        }
    }
    let Origin { user, host, pid, command } = &session.origin;
    out.bytes(user.as_bytes());
    out.bytes(host.as_bytes());
    out.u32(*pid);
    out.bytes(command.as_bytes());
    out.bytes(session.login.as_ref().map_or("", Login::as_str).as_bytes());
    out.time(session.since);
    out.time(session.mtime);
    out.u64(session.ttl.as_millis());
    out.u8(u8::from(session.ended));
    out.u32(u32::try_from(session.lost.len()).expect("a session remembers at most a thousand names"));
    for (parent, name) in &session.lost {
        out.u64(parent.as_u64());
        out.bytes(name.as_bytes());
    }
    out.seen(session.seen, now);
    out.0
}

/// Takes fields from the front; `None` where they end early or make no sense.
struct Reader<'a> {
    rest: &'a [u8],
    now: Now,
    same_boot: bool,
}

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.take(length).map(<[u8]>::to_vec)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?).ok()
    }

    fn name(&mut self) -> Option<Name> {
        Name::parse(&self.bytes()?).ok()
    }

    fn time(&mut self) -> Option<WallTime> {
        let secs = i64::from_le_bytes(self.array()?);
        let nanos = self.u32()?;
        (nanos < 1_000_000_000).then(|| WallTime::new(secs, nanos))
    }

    fn seen(&mut self) -> Option<BootTime> {
        let boot = BootTime::from_nanos(self.u64()?);
        let wall = self.time()?;
        if self.same_boot {
            return Some(boot);
        }
        // A wall clock that went back says "seen now": the whole ttl remains. Before this boot there is no
        // moment, so what was seen before it counts as seen when it began.
        let ago = self.now.wall.since(wall).as_nanos();
        let ago = u64::try_from(ago).unwrap_or(u64::MAX);
        Some(BootTime::from_nanos(self.now.boot.as_nanos().saturating_sub(ago)))
    }

    fn ttl(&mut self) -> Option<Ttl> {
        let ttl = Ttl::from_millis(self.u64()?);
        ttl.span().is_none_or(|span| span <= Ttl::MAX).then_some(ttl)
    }

    fn record(&mut self, number: &[u8]) -> Option<Record> {
        let ino = Ino::from_u64(u64::from_be_bytes(number.try_into().ok()?));
        let token = Token::from_u64(self.u64()?);
        let body = match self.u8()? {
            0 => Body::File(self.bytes()?),
            1 => {
                let is_set = self.u8()? == 1;
                let ttl = self.ttl()?;
                Body::Directory { default_ttl: is_set.then_some(ttl) }
            }
            2 => Body::Symlink(self.bytes()?.into()),
            _ => return None,
        };
        let mut places = Vec::new();
        for _ in 0..self.u32()? {
            let parent = Ino::from_u64(self.u64()?);
            let name = self.name()?;
            places.push(Place { parent, name, cookie: Token::from_u64(self.u64()?) });
        }
        let (mode, uid, gid) = (self.u16()?, self.u32()?, self.u32()?);
        let (mtime, ctime, since) = (self.time()?, self.time()?, self.time()?);
        let session = self.bytes()?;
        let session = if session.is_empty() { None } else { Some(SessionId::parse(&session).ok()?) };
        let (ttl, seen) = (self.ttl()?, self.seen()?);
        Some(Record { ino, token, body, places, mode, uid, gid, mtime, ctime, since, session, ttl, seen })
    }

    fn session(&mut self, id: &[u8]) -> Option<Session> {
        let id = SessionId::parse(id).ok()?;
        let (ino, uid, gid) = (Ino::from_u64(self.u64()?), self.u32()?, self.u32()?);
        let kind = match self.u8()? {
            0 => SessionKind::Named,
            1 => SessionKind::Unseen,
            2 => {
                let (pgid, start) = (self.u32()?, self.u64()?);
                SessionKind::Job(Job { pgid, start, boot: BootId::new(self.text()?) })
            }
            _ => return None,
        };
        let (user, host) = (self.text()?, self.text()?);
        let origin = Origin { user, host, pid: self.u32()?, command: self.text()? };
        let login = self.text()?;
        let login = (!login.is_empty()).then(|| Login::new(&login));
        let (since, mtime, ttl) = (self.time()?, self.time()?, self.ttl()?);
        let ended = self.u8()? == 1;
        let mut lost = Vec::new();
        for _ in 0..self.u32()? {
            lost.push((Ino::from_u64(self.u64()?), self.name()?));
        }
        let seen = self.seen()?;
        Some(Session { id, ino, uid, gid, kind, origin, login, since, mtime, seen, ttl, ended, lost })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Now = Now { boot: BootTime::from_nanos(5_000_000_000), wall: WallTime::new(1_700_000_000, 7) };

    fn record() -> Record {
        Record {
            ino: Ino::from_u64(0x6553_f100_0000_0001),
            token: Token::from_u64(0x6553_f100_0000_0002),
            body: Body::File(b"note".to_vec()),
            places: vec![Place {
                parent: Ino::ROOT,
                name: Name::parse(b"a\xff").unwrap(),
                cookie: Token::from_u64(0x6553_f100_0000_0001),
            }],
            mode: 0o644,
            uid: 1000,
            gid: 100,
            mtime: WallTime::new(-1, 999_999_999),
            ctime: WallTime::new(1_700_000_000, 1),
            since: WallTime::new(1_699_999_999, 0),
            session: Some(SessionId::parse(b"dev1-7-abc").unwrap()),
            ttl: Ttl::For(Duration::from_secs(300)),
            seen: BootTime::from_nanos(3_000_000_000),
        }
    }

    fn session() -> Session {
        Session {
            id: SessionId::parse(b"dev1-7-abc").unwrap(),
            ino: Ino::from_u64(0x6553_f100_0000_0000),
            uid: 1000,
            gid: 100,
            kind: SessionKind::Job(Job { pgid: 7, start: 99, boot: BootId::new("boot") }),
            origin: Origin { user: "alice".into(), host: "dev1".into(), pid: 7, command: "make".into() },
            login: Some(Login::new("dev1-3-xyz")),
            since: WallTime::new(1_699_999_999, 0),
            mtime: WallTime::new(1_699_999_999, 0),
            seen: BootTime::from_nanos(4_000_000_000),
            ttl: Ttl::Never,
            ended: true,
            lost: vec![(Ino::ROOT, Name::parse(b"b").unwrap())],
        }
    }

    fn key(prefix: u8, rest: &[u8]) -> Vec<u8> {
        [&[prefix], rest].concat()
    }

    fn entries() -> Vec<(Vec<u8>, Vec<u8>)> {
        vec![
            (EPOCH.to_vec(), 5_u32.to_le_bytes().to_vec()),
            (BOOT.to_vec(), b"boot".to_vec()),
            (key(OBJECT, &record().ino.as_u64().to_be_bytes()), encode_record(&record(), NOW)),
            (key(SESSION, b"dev1-7-abc"), encode_session(&session(), NOW)),
        ]
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let contents = Contents::read(entries(), NOW, &BootId::new("boot")).unwrap();
        assert_eq!(contents.epoch, Some(5));
        assert_eq!(contents.records, [record()]);
        assert_eq!(contents.sessions, [session()]);
    }

    /// These bytes are on users' disks: if this fails, the version of the frame must rise, and the old one
    /// be read as before.
    #[test]
    fn version_1_is_these_bytes() {
        let golden = include_str!("golden-v1.txt");
        let now =
            format!("{}\n{}\n", hex(&encode_record(&record(), NOW)), hex(&encode_session(&session(), NOW)));
        assert_eq!(now, golden);
    }

    #[test]
    fn after_another_boot_a_ttl_goes_on_by_the_wall_clock() {
        let seen_at = |later: Duration| {
            // The machine has been up for an hour.
            let now = Now { boot: BootTime::from_nanos(3_600_000_000_000), wall: NOW.wall + later };
            let contents = Contents::read(entries(), now, &BootId::new("another")).unwrap();
            now.boot.since(contents.records[0].seen)
        };
        // It was written two seconds after it was seen.
        assert_eq!(seen_at(Duration::from_secs(10)).as_secs(), 12);
        let before = Now { wall: WallTime::new(0, 0), ..NOW };
        let contents = Contents::read(entries(), before, &BootId::new("another")).unwrap();
        assert_eq!(contents.records[0].seen, before.boot, "a wall clock from before it leaves the whole ttl");
    }

    #[test]
    fn no_cut_or_flip_of_a_record_panics_or_passes_as_another_length() {
        for (key, value) in entries() {
            if key == EPOCH || key == BOOT {
                continue;
            }
            for length in 0..value.len() {
                let cut = vec![(key.clone(), value[..length].to_vec())];
                assert!(Contents::read(cut, NOW, &BootId::new("boot")).is_err(), "cut to {length}");
            }
            for bit in 0..value.len() * 8 {
                let mut flipped = value.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                Contents::read(vec![(key.clone(), flipped)], NOW, &BootId::new("boot")).ok();
            }
        }
    }
}
