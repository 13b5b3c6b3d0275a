//! Bytes: how callers, records and answers are written for the scripts, and read from them.
//!
//! Twin of the formats in `law/read.lua` and `law/step.lua`. Whole numbers are written with the most significant
//! byte first; a number that Lua reckons with is a double, exact to 2^53: microseconds, milliseconds, counts.
//! Nothing that comes from the server is believed: what can't be read is a [`Malformed`], never a panic.

use std::fmt;
use std::sync::Arc;

use crate::clock::{BootId, BootTime, WallTime};
use crate::lock::{
    Attributes, Body, Claim, Event, EventKind, Grant, Ino, Job, Kind, LockOwner, LockPath, Login, Mode,
    Mount, MountId, Name, Origin, Place, Range, Record, Session, SessionId, SessionKind, Style, Token, Ttl,
    WaitId, Waiter,
};
use crate::table::{Begin, Caller, Counts, Entry, Outcome, Refusal, Reply, View};

/// The version of records, as `law/read.lua` has it.
const VERSION: u8 = 1;

/// Bytes from the server that are not what a script of this version writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Malformed(String);

impl Malformed {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl From<&str> for Malformed {
    fn from(what: &str) -> Self {
        Self::new(what)
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

type Read<T> = Result<T, Malformed>;

// Writing

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
}

fn put_u32(out: &mut Vec<u8>, number: u32) {
    put(out, &number.to_be_bytes());
}

/// A length of one byte, and the bytes.
fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(usize::from(u8::MAX))];
    out.push(u8::try_from(bytes.len()).expect("cut to fit"));
    put(out, bytes);
}

/// A length of two bytes, and the bytes.
fn put_medium(out: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(usize::from(u16::MAX))];
    put(out, &u16::try_from(bytes.len()).expect("cut to fit").to_be_bytes());
    put(out, bytes);
}

/// A ttl as scripts have it.
#[expect(clippy::cast_precision_loss, reason = "at most a hundred years of milliseconds, below 2^53")]
pub(super) fn millis(ttl: Ttl) -> f64 {
    ttl.as_millis() as f64
}

/// A time of a file, as scripts keep it and never look into.
pub(super) fn wall(time: WallTime) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&time.secs().to_be_bytes());
    bytes[8..].copy_from_slice(&time.subsec_nanos().to_be_bytes());
    bytes
}

/// A caller, as `parse_caller` in `law/step.lua` reads it.
pub(super) fn caller(caller: &Caller) -> Vec<u8> {
    let claimant = &caller.session;
    let mut out = Vec::with_capacity(200);
    put(&mut out, &caller.mount.as_u64().to_be_bytes());
    put_u32(&mut out, caller.uid);
    put_u32(&mut out, caller.gid);
    out.push(kind_code(&claimant.kind));
    out.push(u8::from(claimant.begin == Begin::WhereMissing));
    put(&mut out, &millis(claimant.ttl).to_be_bytes());
    put_short(&mut out, claimant.id.as_str().as_bytes());
    let login = claimant.login.as_ref().map(Login::as_str);
    out.push(u8::from(login.is_some()));
    put_medium(&mut out, login.unwrap_or_default().as_bytes());
    let also = &caller.also[..caller.also.len().min(usize::from(u8::MAX))];
    out.push(u8::try_from(also.len()).expect("cut to fit"));
    also.iter().for_each(|id| put_short(&mut out, id.as_str().as_bytes()));
    put_rest(&mut out, &claimant.kind, &claimant.origin);
    out
}

/// A claim, as `shares.parse_claim` in `law/advisory.lua` reads it.
pub(super) fn claim(claim: &Claim) -> Vec<u8> {
    let mut out = Vec::with_capacity(30);
    out.push(match claim.style {
        Style::Flock => 1,
        Style::Fcntl => 2,
    });
    out.push(match claim.mode {
        Mode::Shared => 1,
        Mode::Exclusive => 2,
    });
    put(&mut out, &claim.range.first().to_be_bytes());
    put(&mut out, &claim.range.last().to_be_bytes());
    put(&mut out, &claim.key.to_be_bytes());
    put_u32(&mut out, claim.pid);
    out
}

/// A mount and a number, as `shares.lock` in `law/advisory.lua` reads them.
#[expect(clippy::cast_precision_loss, reason = "a count, below 2^53")]
pub(super) fn numbered(mount: MountId, number: u64) -> Vec<u8> {
    [mount.as_u64().to_be_bytes(), (number as f64).to_be_bytes()].concat()
}

/// A lease, as `parse_lease` in `law/advisory.lua` reads it; when it was renewed the server says.
pub(super) fn lease(mount: &Mount) -> Vec<u8> {
    let mut out = vec![VERSION];
    put(&mut out, &0.0_f64.to_be_bytes());
    put(&mut out, &millis(mount.ttl).to_be_bytes());
    out.push(0);
    put_u32(&mut out, mount.pid);
    put(&mut out, &mount.start.to_be_bytes());
    put_short(&mut out, mount.host.as_bytes());
    put_medium(&mut out, mount.boot.as_str().as_bytes());
    out
}

fn kind_code(kind: &SessionKind) -> u8 {
    match kind {
        SessionKind::Named => 1,
        SessionKind::Job(_) => 2,
        SessionKind::Unseen => 3,
    }
}

/// What no script looks into: who began the session, and behind it the job, which a session keeps in its record
/// when it gets a name and is none any more.
fn put_rest(out: &mut Vec<u8>, kind: &SessionKind, origin: &Origin) {
    put_u32(out, origin.pid);
    put_medium(out, origin.user.as_bytes());
    put_medium(out, origin.host.as_bytes());
    put_medium(out, origin.command.as_bytes());
    if let SessionKind::Job(job) = kind {
        put_u32(out, job.pgid);
        put(out, &job.start.to_be_bytes());
        put_medium(out, job.boot.as_str().as_bytes());
    }
}

// Reading

/// What is left to read of some bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.0.len()
    }

    fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let (taken, left) =
            self.0.split_at_checked(count).ok_or_else(|| Malformed::new("it ends too early"))?;
        self.0 = left;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as many bytes as were taken"))
    }

    pub(super) fn byte(&mut self) -> Read<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Read<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Read<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Read<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A number of Lua's that is whole and not negative.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked just before")]
    pub(super) fn number(&mut self) -> Read<u64> {
        match f64::from_be_bytes(self.array()?) {
            number if (0.0..9.1e15).contains(&number) => Ok(number as u64),
            number => Err(Malformed::new(format!("{number} is no number of lockfs"))),
        }
    }

    /// Microseconds on the server's clock.
    pub(super) fn time(&mut self) -> Read<BootTime> {
        Ok(BootTime::from_nanos(self.number()? * 1_000))
    }

    fn ttl(&mut self) -> Read<Ttl> {
        self.number().map(Ttl::from_millis)
    }

    fn optional_ttl(&mut self) -> Read<Option<Ttl>> {
        let mut ahead = *self;
        if f64::from_be_bytes(ahead.array()?) < 0.0 {
            *self = ahead;
            return Ok(None);
        }
        self.ttl().map(Some)
    }

    fn wall(&mut self) -> Read<WallTime> {
        let secs = self.array().map(i64::from_be_bytes)?;
        match self.u32()? {
            nanos if nanos < 1_000_000_000 => Ok(WallTime::new(secs, nanos)),
            nanos => Err(Malformed::new(format!("{nanos} nanoseconds"))),
        }
    }

    fn ino(&mut self) -> Read<Ino> {
        self.u64().map(Ino::from_u64)
    }

    fn token(&mut self) -> Read<Token> {
        self.u64().map(Token::from_u64)
    }

    pub(super) fn short(&mut self) -> Read<&'a [u8]> {
        let length = self.byte()?;
        self.take(length.into())
    }

    fn medium(&mut self) -> Read<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }

    pub(super) fn long(&mut self) -> Read<&'a [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).map_err(|_| Malformed::new("it is too long"))?)
    }

    fn text(&mut self) -> Read<String> {
        let bytes = self.medium()?;
        String::from_utf8(bytes.to_vec()).map_err(|_| Malformed::new("a text is not UTF-8"))
    }

    fn name(&mut self, bytes: &[u8]) -> Read<Name> {
        Name::parse(bytes).map_err(|error| Malformed::new(error.to_string()))
    }

    fn version(&mut self) -> Read<()> {
        match self.byte()? {
            VERSION => Ok(()),
            other => Err(Malformed::new(format!("it was written by another version of lockfs: {other}"))),
        }
    }

    pub(super) fn session_id(&mut self) -> Read<SessionId> {
        session_id(self.long()?)
    }

    /// An object without its note or target.
    fn stored(&mut self, ino: Ino) -> Read<Stored> {
        let mut record = Reader(self.long()?);
        record.record(ino)
    }

    fn record(&mut self, ino: Ino) -> Read<Stored> {
        self.version()?;
        let kind = match self.byte()? {
            1 => Kind::File,
            2 => Kind::Directory,
            3 => Kind::Symlink,
            other => return Err(Malformed::new(format!("{other} is no kind of entry"))),
        };
        let token = self.token()?;
        let (mode, uid, gid) = (self.u16()?, self.u32()?, self.u32()?);
        let (mtime, ctime, since) = (self.wall()?, self.wall()?, self.wall()?);
        let (ttl, seen) = (self.ttl()?, self.time()?);
        let size = self.u32()?.into();
        let default_ttl = self.optional_ttl()?;
        let session = match self.short()? {
            [] => None,
            id => Some(session_id(id)?),
        };
        let mut places = Vec::new();
        for _ in 0..self.u16()? {
            let (parent, cookie) = (self.ino()?, self.token()?);
            let name = self.short()?;
            places.push(Place { parent, name: self.name(name)?, cookie });
        }
        let body = match kind {
            Kind::File => Body::File(Vec::new()),
            Kind::Directory => Body::Directory { default_ttl },
            Kind::Symlink => Body::Symlink(Box::default()),
        };
        let mode = mode & 0o7777;
        let record =
            Record { ino, token, body, places, mode, uid, gid, mtime, ctime, since, session, ttl, seen };
        Ok(Stored { record, size })
    }

    /// What stat(2) tells, and the record that it tells it of.
    fn found(&mut self) -> Read<(Attributes, Stored)> {
        let ino = self.ino()?;
        let stored = self.stored(ino)?;
        let mut attributes = stored.attributes();
        if attributes.kind == Kind::Directory {
            self.directory()?.complete(&mut attributes);
        }
        Ok((attributes, stored))
    }

    /// What a directory says of its entries.
    pub(super) fn directory(&mut self) -> Read<Entries> {
        let subdirectories = self.u32()?;
        let changed = match self.short()? {
            [] => None,
            bytes => Some(Reader(bytes).wall()?),
        };
        Ok(Entries { subdirectories, changed })
    }

    /// What stat(2) tells, and the bytes of the record that it tells it of.
    pub(super) fn found_with_record(&mut self) -> Read<(Attributes, Arc<[u8]>)> {
        let mut ahead = *self;
        ahead.ino()?;
        let record = ahead.long()?.into();
        Ok((self.found()?.0, record))
    }

    /// Nothing, or the bytes of a record.
    pub(super) fn found_record(&mut self) -> Read<Option<Arc<[u8]>>> {
        if self.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.found_with_record()?.1))
    }

    /// What a step answers.
    pub(super) fn outcome(&mut self) -> Read<Outcome> {
        Ok(match self.byte()? {
            b'E' => Ok(Reply::Entry(self.found()?.0)),
            b'O' => Ok(Reply::Opened(self.found()?.0)),
            b'S' => Ok(Reply::Session(Box::new(self.session()?))),
            b'C' => Ok(Reply::Count(usize::try_from(self.number()?).unwrap_or(usize::MAX))),
            b'D' => Ok(Reply::Done),
            b'Q' => Ok(Reply::Waits),
            b'R' => Err(self.refusal()?),
            other => return Err(Malformed::new(format!("{other} is no answer"))),
        })
    }

    /// All that is left: what a step changed.
    pub(super) fn changes(&mut self) -> Read<Vec<Changed>> {
        let mut changes = Vec::new();
        while !self.is_empty() {
            changes.push(self.change()?);
        }
        Ok(changes)
    }

    pub(super) fn session(&mut self) -> Read<Session> {
        let id = self.session_id()?;
        let mut record = Reader(self.long()?);
        let mut lost = Vec::new();
        for _ in 0..self.u32()? {
            let mut spot = Reader(self.long()?);
            let parent = spot.ino()?;
            lost.push((parent, spot.name(spot.0)?));
        }
        record.session_record(id, lost)
    }

    /// A session from its record and the names that it lost, as a step tells what it changed.
    pub(super) fn session_with(&mut self, id: SessionId, names: &[u8]) -> Read<Session> {
        let (mut names, mut lost) = (Reader(names), Vec::new());
        while !names.is_empty() {
            let mut spot = Reader(names.long()?);
            let parent = spot.ino()?;
            lost.push((parent, spot.name(spot.0)?));
        }
        self.session_record(id, lost)
    }

    fn session_record(&mut self, id: SessionId, lost: Vec<(Ino, Name)>) -> Read<Session> {
        self.version()?;
        let code = self.byte()?;
        let (ino, uid, gid) = (self.ino()?, self.u32()?, self.u32()?);
        let (since, mtime) = (self.wall()?, self.wall()?);
        let (seen, ttl) = (self.time()?, self.ttl()?);
        let ended = self.byte()? == 1;
        self.u32()?;
        let has_login = self.byte()? == 1;
        let login = self.text()?;
        let pid = self.u32()?;
        let origin = Origin { pid, user: self.text()?, host: self.text()?, command: self.text()? };
        let kind = match code {
            1 => SessionKind::Named,
            2 => {
                let (pgid, start) = (self.u32()?, self.u64()?);
                SessionKind::Job(Job { pgid, start, boot: BootId::new(self.text()?) })
            }
            3 => SessionKind::Unseen,
            other => return Err(Malformed::new(format!("{other} is no kind of session"))),
        };
        let login = has_login.then(|| Login::new(&login));
        Ok(Session { id, ino, uid, gid, kind, origin, login, since, mtime, seen, ttl, ended, lost })
    }

    pub(super) fn view(&mut self) -> Read<Option<View>> {
        if self.is_empty() {
            return Ok(None);
        }
        let (attributes, stored) = self.found()?;
        let body = self.long()?;
        let path = self.long()?;
        let path = LockPath::join(path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()));
        let session = match self.byte()? {
            0 => None,
            _ => Some(self.session()?),
        };
        let deadline = Some(self.time()?).filter(|deadline| *deadline > BootTime::default());
        let waiting = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        let mut grants = Vec::new();
        while !self.is_empty() {
            let mount = self.mount_id()?;
            grants.push(self.grant(mount)?);
        }
        let record = stored.with(body);
        Ok(Some(View { record, attributes, path, session, deadline, grants, waiting }))
    }

    fn mount_id(&mut self) -> Read<MountId> {
        self.u64().map(MountId::from_u64)
    }

    fn style(&mut self) -> Read<Style> {
        match self.byte()? {
            1 => Ok(Style::Flock),
            2 => Ok(Style::Fcntl),
            other => Err(Malformed::new(format!("{other} is no style of a lock"))),
        }
    }

    fn mode(&mut self) -> Read<Mode> {
        match self.byte()? {
            1 => Ok(Mode::Shared),
            2 => Ok(Mode::Exclusive),
            other => Err(Malformed::new(format!("{other} is no mode of a lock"))),
        }
    }

    fn range(&mut self) -> Read<Range> {
        let (first, last) = (self.u64()?, self.u64()?);
        Range::new(first, last).ok_or_else(|| Malformed::new(format!("bytes {first} to {last}")))
    }

    /// Who somebody is, of what is written of it and of its job.
    fn origin(&mut self) -> Read<Origin> {
        let mut rest = Reader(self.medium()?);
        Ok(Origin { pid: rest.u32()?, user: rest.text()?, host: rest.text()?, command: rest.text()? })
    }

    fn grant(&mut self, mount: MountId) -> Read<Grant> {
        let (style, mode, range, key) = (self.style()?, self.mode()?, self.range()?, self.u64()?);
        let pid = self.u32()?;
        self.number()?;
        let since = self.wall()?;
        let session = session_id(self.short()?)?;
        let owner = LockOwner { mount, key };
        Ok(Grant { style, mode, range, owner, pid, session, origin: self.origin()?, since })
    }

    /// Those who wait, as `waiting.lua` tells of them.
    pub(super) fn waiters(&mut self) -> Read<Vec<Waiter>> {
        let mut waiters = Vec::new();
        while !self.is_empty() {
            let ticket = self.token()?;
            let id = WaitId { mount: self.mount_id()?, request: self.u64()? };
            let (style, mode, range, key) = (self.style()?, self.mode()?, self.range()?, self.u64()?);
            let pid = self.u32()?;
            let alone = self.byte()? == 1;
            let reserved = Some(self.time()?).filter(|until| *until > BootTime::default());
            let session = session_id(self.short()?)?;
            let origin = self.origin()?;
            let claim = Claim { style, mode, range, key, pid };
            let since = self.wall()?;
            waiters.push(Waiter { id, ticket, claim, session, origin, since, alone, reserved });
        }
        Ok(waiters)
    }

    /// Mounts, as `waiting.lua` tells of them.
    pub(super) fn mounts(&mut self) -> Read<Vec<Mount>> {
        let mut mounts = Vec::new();
        while !self.is_empty() {
            let id = self.mount_id()?;
            let mut lease = Reader(self.long()?);
            lease.version()?;
            lease.time()?;
            let ttl = lease.ttl()?;
            lease.byte()?;
            let (pid, start) = (lease.u32()?, lease.u64()?);
            let host = String::from_utf8_lossy(lease.short()?).into_owned();
            let boot = BootId::new(lease.text()?);
            mounts.push(Mount { id, host, pid, start, boot, ttl });
        }
        Ok(mounts)
    }

    /// What a mount is to hear, as `mounts.tell` in `law/advisory.lua` writes it.
    pub(super) fn told(&mut self, mount: MountId) -> Read<Vec<Told>> {
        let kind = self.byte()?;
        let mut told = Vec::new();
        while !self.is_empty() {
            told.push(match kind {
                b'w' => {
                    let at = (self.time()?, self.u32()?);
                    Told::Wake(at, WaitId { mount, request: self.u64()? })
                }
                b'a' => Told::Advisory(self.ino()?),
                other => return Err(Malformed::new(format!("{other} is nothing to hear"))),
            });
        }
        Ok(told)
    }

    /// Nothing where it is no directory, else its entries.
    pub(super) fn entries(&mut self) -> Read<Option<Vec<Entry>>> {
        if self.is_empty() {
            return Ok(None);
        }
        self.byte()?;
        let mut entries = Vec::new();
        while !self.is_empty() {
            let cookie = self.token()?;
            let name = self.long()?;
            let name = self.name(name)?;
            entries.push(Entry { cookie, name, attributes: self.found()?.0 });
        }
        Ok(Some(entries))
    }

    pub(super) fn sessions(&mut self) -> Read<Vec<Session>> {
        let mut sessions = Vec::new();
        while !self.is_empty() {
            sessions.push(self.session()?);
        }
        Ok(sessions)
    }

    pub(super) fn ttls(&mut self) -> Read<Vec<Option<Ttl>>> {
        let mut ttls = Vec::new();
        while !self.is_empty() {
            ttls.push(self.optional_ttl()?);
        }
        Ok(ttls)
    }

    pub(super) fn counts(&mut self) -> Read<Counts> {
        let (locks, sessions, waits) = (self.number()?, self.number()?, self.number()?);
        let mut counts = Counts { locks, sessions, waits, ..Counts::default() };
        for count in &mut counts.events {
            *count = self.number()?;
        }
        Ok(counts)
    }

    pub(super) fn refusal(&mut self) -> Read<Refusal> {
        let (code, who) = self.long()?.split_first().ok_or_else(|| Malformed::new("no refusal"))?;
        let who = match who {
            [] => None,
            id => Some(session_id(id)?),
        };
        Ok(match code {
            b'N' => Refusal::NoEntry,
            b'G' => Refusal::Gone,
            b'E' => Refusal::Exists,
            b'D' => Refusal::NotDirectory,
            b'I' => Refusal::IsDirectory,
            b'F' => Refusal::NotEmpty,
            b'L' => Refusal::Lost,
            b'B' => Refusal::Busy(who),
            b'H' => Refusal::Held(who),
            b'P' => Refusal::NotPermitted,
            b'T' => Refusal::TooLarge,
            b'M' => Refusal::TooManyLinks,
            b'V' => Refusal::Invalid,
            b'S' => Refusal::NoSession,
            b'W' => Refusal::WrongToken,
            b'K' => Refusal::Taken,
            b'X' => Refusal::Deadlock,
            b'U' => Refusal::Unattended,
            other => return Err(Malformed::new(format!("{other} is no refusal"))),
        })
    }

    /// One thing that a step changed.
    pub(super) fn change(&mut self) -> Read<Changed> {
        Ok(match self.byte()? {
            b'o' => {
                let ino = self.ino()?;
                Changed::Object(ino, self.long()?.into())
            }
            b'b' => {
                let ino = self.ino()?;
                Changed::Note(ino, self.long()?.into())
            }
            b'r' => Changed::Released(self.ino()?),
            b'g' => Changed::Gone(self.ino()?),
            b'd' => {
                let ino = self.ino()?;
                Changed::Entries(ino, self.directory()?)
            }
            b's' => {
                let id = self.session_id()?;
                let (record, count) = (self.long()?, self.u32()?);
                let names = self.0;
                for _ in 0..count {
                    self.long()?;
                }
                let losses = &names[..names.len() - self.0.len()];
                Changed::Session(id, record.into(), losses.into())
            }
            b'x' => Changed::SessionGone(self.session_id()?),
            b'f' => {
                let (ino, mount) = (self.ino()?, self.mount_id()?);
                Changed::Share(ino, mount, self.long()?.into())
            }
            b'l' => Changed::MountGone(self.mount_id()?),
            other => return Err(Malformed::new(format!("{other} is no change"))),
        })
    }

    /// What happened, as the stream of events has it.
    pub(super) fn event(&mut self) -> Read<(Event, Ino)> {
        let kind = *EventKind::ALL
            .get(usize::from(self.byte()?))
            .ok_or_else(|| Malformed::new("an event of another version of lockfs"))?;
        let at = self.wall()?;
        let token = Some(self.token()?).filter(|token| token.as_u64() != 0);
        let ino = self.ino()?;
        let session = match self.short()? {
            [] => None,
            id => Some(session_id(id)?),
        };
        let path = LockPath::join(self.0.split(|byte| *byte == b'/').filter(|name| !name.is_empty()));
        Ok((Event { at, kind, path, token, session }, ino))
    }
}

fn session_id(bytes: &[u8]) -> Read<SessionId> {
    SessionId::parse(bytes).map_err(|error| Malformed::new(error.to_string()))
}

/// A record as the server keeps it: its note or target is elsewhere, and only its length is known.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    record: Record,
    size: u64,
}

impl Stored {
    /// The record of an object, read from `bytes`.
    pub(super) fn parse(ino: Ino, bytes: &[u8]) -> Read<Self> {
        Reader(bytes).record(ino)
    }

    /// The record, with its note or target.
    pub(super) fn with(mut self, body: &[u8]) -> Record {
        match &mut self.record.body {
            Body::File(note) => *note = body.to_vec(),
            Body::Symlink(target) => *target = body.into(),
            Body::Directory { .. } => {}
        }
        self.record
    }

    /// The record, without its note or target.
    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    /// What stat(2) tells of it; of a directory as if nothing ever stood in it.
    pub(super) fn attributes(&self) -> Attributes {
        let record = &self.record;
        let kind = record.body.kind();
        let names = u32::try_from(record.places.len()).unwrap_or(u32::MAX);
        Attributes {
            ino: record.ino,
            kind,
            size: self.size,
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
            nlink: if kind == Kind::Directory { 2 } else { names },
            mtime: record.mtime,
            ctime: record.ctime,
            expires: record.ttl != Ttl::Never,
        }
    }
}

/// What a directory says of its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entries {
    subdirectories: u32,
    /// When one last came or went.
    changed: Option<WallTime>,
}

impl Entries {
    /// Adds to what stat(2) tells of the directory itself.
    pub(super) fn complete(self, attributes: &mut Attributes) {
        attributes.nlink = 2_u32.saturating_add(self.subdirectories);
        if let Some(changed) = self.changed {
            attributes.mtime = changed;
            attributes.ctime = attributes.ctime.max(changed);
        }
    }
}

/// One thing that a step changed, as the server keeps it now.
#[derive(Clone, Debug)]
pub(super) enum Changed {
    /// The record of an object.
    Object(Ino, Arc<[u8]>),
    /// Its note or target.
    Note(Ino, Arc<[u8]>),
    /// It has lost its last name, because somebody let it go.
    Released(Ino),
    /// It has expired or was broken.
    Gone(Ino),
    /// Entries of a directory.
    Entries(Ino, Entries),
    /// The record of a session, and the names that it lost.
    Session(SessionId, Arc<[u8]>, Arc<[u8]>),
    /// It is over.
    SessionGone(SessionId),
    /// What a mount has of an object; empty for nothing.
    Share(Ino, MountId, Arc<[u8]>),
    /// It has nothing any more.
    MountGone(MountId),
}

/// What a mount is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// A call should ask again; when that was told, and as the how manieth of its step.
    Wake((BootTime, u32), WaitId),
    /// A file is advisory from now on.
    Advisory(Ino),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_too_early_is_refused_and_never_a_panic() {
        let mut record = vec![VERSION, 1];
        put(&mut record, &Token::new(Token::EPOCH_MIN, 7).as_u64().to_be_bytes());
        put(&mut record, &0o644_u16.to_be_bytes());
        put_u32(&mut record, 1);
        put_u32(&mut record, 2);
        for _ in 0..3 {
            put(&mut record, &wall(WallTime::new(-3, 999_999_999)));
        }
        put(&mut record, &300_000.0_f64.to_be_bytes());
        put(&mut record, &1.9e15_f64.to_be_bytes());
        put_u32(&mut record, 5);
        put(&mut record, &(-1.0_f64).to_be_bytes());
        put_short(&mut record, b"agent-7");
        put(&mut record, &1_u16.to_be_bytes());
        put(&mut record, &[0; 16]);
        put_short(&mut record, b"deploy");
        let stored = Stored::parse(Ino::from_u64(9), &record).expect("a whole record");
        assert_eq!(stored.attributes().size, 5);
        assert_eq!(stored.with(b"hello").places[0].name.as_bytes(), b"deploy");
        for length in 0..record.len() {
            assert!(Stored::parse(Ino::from_u64(9), &record[..length]).is_err(), "{length} bytes");
        }
        record[0] = VERSION + 1;
        assert!(
            Stored::parse(Ino::from_u64(9), &record).unwrap_err().to_string().contains("another version")
        );
    }

    #[test]
    fn numbers_that_lua_could_not_have_are_refused() {
        for bad in [f64::NAN, f64::INFINITY, -1.0, 1e16] {
            assert!(Reader(&bad.to_be_bytes()).number().is_err(), "{bad}");
        }
        assert_eq!(Reader(&1.9e15_f64.to_be_bytes()).number(), Ok(1_900_000_000_000_000));
    }
}
