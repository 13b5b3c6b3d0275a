//! What mounts have, and what requests of theirs were answered, as bytes: the entries that came with version 2 of the
//! store. As the others: field by field in the order below, numbers little-endian, strings with their length before them.

use super::{Reader, Writer, encode_record, encode_session};
use crate::clock::{BootId, BootTime, Now};
use crate::lock::{
    Attributes, Claim, Grant, Ino, Kind, LockOwner, Mode, Mount, MountId, Range, Record, RequestId,
    SessionId, Style, Token, WaitId, Waiter,
};
use crate::store::seats::{Answered, SeatId};
use crate::table::{Reply, Subject};

pub(super) fn encode_nameless((record, left_by): (&Record, Option<&SessionId>), now: Now) -> Vec<u8> {
    let mut out = Writer::default();
    out.bytes(left_by.map_or("", SessionId::as_str).as_bytes());
    out.0.extend_from_slice(&encode_record(record, now));
    out.0
}

pub(super) fn encode_lease((mount, seen): (&Mount, BootTime), now: Now) -> Vec<u8> {
    let Mount { id: _, host, pid, start, boot, ttl } = mount;
    let mut out = Writer::default();
    out.bytes(host.as_bytes());
    out.u32(*pid);
    out.u64(*start);
    out.bytes(boot.as_str().as_bytes());
    out.u64(ttl.as_millis());
    out.seen(seen, now);
    out.0
}

pub(super) fn encode_share((opens, grants): (u32, &[Grant])) -> Vec<u8> {
    let mut out = Writer::default();
    out.u32(opens);
    out.u32(u32::try_from(grants.len()).expect("a file has not that many bytes to lock apart"));
    for grant in grants {
        out.claim(&grant.claim());
        out.bytes(grant.session.as_str().as_bytes());
        out.origin(&grant.origin);
        out.time(grant.since);
    }
    out.0
}

pub(super) fn encode_wait((subject, waiter): (&Subject, &Waiter)) -> Vec<u8> {
    let mut out = Writer::default();
    match subject {
        Subject::Object(ino) => {
            out.u8(0);
            out.u64(ino.as_u64());
        }
        Subject::Spot(parent, name) => {
            out.u8(1);
            out.u64(parent.as_u64());
            out.bytes(name.as_bytes());
        }
    }
    let Waiter { id: _, ticket, claim, session, origin, since, alone, reserved: _ } = waiter;
    out.u64(ticket.as_u64());
    out.claim(claim);
    out.bytes(session.as_str().as_bytes());
    out.origin(origin);
    out.time(*since);
    out.u8(u8::from(*alone));
    out.0
}

/// What a request was answered.
pub(in crate::store::level) fn encode_answer(answered: &Answered, now: Now) -> Vec<u8> {
    let mut out = Writer::default();
    out.u64(answered.request.mount.as_u64());
    out.u64(answered.request.number);
    out.u8(answered.step);
    match &answered.reply {
        Reply::Done => out.u8(0),
        Reply::Count(count) => {
            out.u8(1);
            out.u64(*count as u64);
        }
        Reply::Entry(attributes) => {
            out.u8(2);
            out.attributes(attributes);
        }
        Reply::Opened(attributes) => {
            out.u8(3);
            out.attributes(attributes);
        }
        Reply::Session(session) => {
            out.u8(4);
            out.bytes(session.id.as_str().as_bytes());
            out.0.extend_from_slice(&encode_session(session, now));
        }
        Reply::Waits => out.u8(5),
    }
    out.0
}

impl Writer {
    fn claim(&mut self, claim: &Claim) {
        let Claim { style, mode, range, key, pid } = *claim;
        self.u8(u8::from(style == Style::Fcntl) | u8::from(mode == Mode::Exclusive) << 1);
        self.u64(range.first());
        self.u64(range.last());
        self.u64(key);
        self.u32(pid);
    }

    fn attributes(&mut self, attributes: &Attributes) {
        let Attributes { ino, kind, size, mode, uid, gid, nlink, mtime, ctime, expires } = *attributes;
        self.u64(ino.as_u64());
        self.u8(match kind {
            Kind::File => 0,
            Kind::Directory => 1,
            Kind::Symlink => 2,
        });
        self.u64(size);
        self.u16(mode);
        self.u32(uid);
        self.u32(gid);
        self.u32(nlink);
        self.time(mtime);
        self.time(ctime);
        self.u8(u8::from(expires));
    }
}

/// Numbers of a key, each big-endian.
fn numbers<const N: usize>(key: &[u8]) -> Option<[u64; N]> {
    let mut numbers = [0; N];
    if key.len() != 8 * N {
        return None;
    }
    for (number, bytes) in numbers.iter_mut().zip(key.chunks_exact(8)) {
        *number = u64::from_be_bytes(bytes.try_into().ok()?);
    }
    Some(numbers)
}

impl Reader<'_> {
    pub(super) fn nameless(&mut self, key: &[u8]) -> Option<(Record, Option<SessionId>)> {
        let left_by = self.bytes()?;
        let left_by = if left_by.is_empty() { None } else { Some(SessionId::parse(&left_by).ok()?) };
        Some((self.record(key)?, left_by))
    }

    pub(super) fn lease(&mut self, key: &[u8]) -> Option<(Mount, BootTime)> {
        let [id] = numbers(key)?;
        let (host, pid, start, boot) = (self.text()?, self.u32()?, self.u64()?, BootId::new(self.text()?));
        let ttl = self.ttl()?;
        Some((Mount { id: MountId::from_u64(id), host, pid, start, boot, ttl }, self.seen()?))
    }

    pub(super) fn share(&mut self, key: &[u8]) -> Option<(Ino, MountId, u32, Vec<Grant>)> {
        let [ino, mount] = numbers(key)?;
        let mount = MountId::from_u64(mount);
        let opens = self.u32()?;
        let mut grants = Vec::new();
        for _ in 0..self.u32()? {
            let Claim { style, mode, range, key, pid } = self.claim()?;
            let session = SessionId::parse(&self.bytes()?).ok()?;
            let (origin, since) = (self.origin()?, self.time()?);
            grants.push(Grant {
                style,
                mode,
                range,
                owner: LockOwner { mount, key },
                pid,
                session,
                origin,
                since,
            });
        }
        Some((Ino::from_u64(ino), mount, opens, grants))
    }

    pub(super) fn wait(&mut self, key: &[u8]) -> Option<(Subject, Waiter)> {
        let [mount, request] = numbers(key)?;
        let subject = match self.u8()? {
            0 => Subject::Object(Ino::from_u64(self.u64()?)),
            1 => Subject::Spot(Ino::from_u64(self.u64()?), self.name()?),
            _ => return None,
        };
        let waiter = Waiter {
            id: WaitId { mount: MountId::from_u64(mount), request },
            ticket: Token::from_u64(self.u64()?),
            claim: self.claim()?,
            session: SessionId::parse(&self.bytes()?).ok()?,
            origin: self.origin()?,
            since: self.time()?,
            alone: self.u8()? == 1,
            reserved: None,
        };
        Some((subject, waiter))
    }

    pub(super) fn answer(&mut self, key: &[u8]) -> Option<Answered> {
        let [seat] = numbers(key)?;
        let request = RequestId { mount: MountId::from_u64(self.u64()?), number: self.u64()? };
        let step = self.u8()?;
        let reply = match self.u8()? {
            0 => Reply::Done,
            1 => Reply::Count(usize::try_from(self.u64()?).ok()?),
            2 => Reply::Entry(self.attributes()?),
            3 => Reply::Opened(self.attributes()?),
            4 => {
                let id = self.bytes()?;
                Reply::Session(Box::new(self.session(&id)?))
            }
            5 => Reply::Waits,
            _ => return None,
        };
        Some(Answered { seat: SeatId::from_u64(seat), request, step, reply })
    }

    fn claim(&mut self) -> Option<Claim> {
        let flags = self.u8()?;
        let style = if flags & 1 == 0 { Style::Flock } else { Style::Fcntl };
        let mode = if flags & 2 == 0 { Mode::Shared } else { Mode::Exclusive };
        let range = Range::new(self.u64()?, self.u64()?)?;
        (flags < 4).then_some(Claim { style, mode, range, key: self.u64()?, pid: self.u32()? })
    }

    fn attributes(&mut self) -> Option<Attributes> {
        let ino = Ino::from_u64(self.u64()?);
        let kind = match self.u8()? {
            0 => Kind::File,
            1 => Kind::Directory,
            2 => Kind::Symlink,
            _ => return None,
        };
        let size = self.u64()?;
        let (mode, uid, gid, nlink) = (self.u16()?, self.u32()?, self.u32()?, self.u32()?);
        let (mtime, ctime, expires) = (self.time()?, self.time()?, self.u8()? == 1);
        Some(Attributes { ino, kind, size, mode, uid, gid, nlink, mtime, ctime, expires })
    }
}
