//! The canonical form of records and sessions, whatever store they are of, and the digest over all of them.
//!
//! The digest of a set is the sum of the prints of its members, so that it hangs on no order, and a member that comes,
//! goes or changes is an addition. It is there against mistakes, and no proof against who means to forge one. When a
//! thing was last seen alive is not in it: each clock says that otherwise, and every renewal moves it.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::clock::WallTime;
use crate::lock::{Body, Ino, Login, Record, Session, SessionId, SessionKind, Ttl};

/// What tells one thing from all others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::store) enum Key {
    /// A lock or a directory.
    Object(Ino),
    /// A session.
    Session(SessionId),
}

/// What a thing is, in 128 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Print([u64; 2]);

/// What a set of things is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest([u64; 2]);

impl Digest {
    pub(in crate::store) fn add(&mut self, print: Print) {
        self.0.iter_mut().zip(print.0).for_each(|(sum, part)| *sum = sum.wrapping_add(part));
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0[0], self.0[1])
    }
}

/// Fields, one behind the other: strings with their length, numbers of eight bytes.
#[derive(Default)]
struct Fields(Sha256);

impl Fields {
    fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(number.to_be_bytes());
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64).0.update(bytes);
        self
    }

    fn time(&mut self, time: WallTime) -> &mut Self {
        self.0.update(time.secs().to_be_bytes());
        self.number(time.subsec_nanos().into())
    }

    fn print(self) -> Print {
        let hash = self.0.finalize();
        let part = |at: usize| u64::from_be_bytes(hash[at..at + 8].try_into().expect("eight bytes"));
        Print([part(0), part(8)])
    }
}

/// The print of a record.
pub(in crate::store) fn of_record(record: &Record) -> Print {
    let mut fields = Fields::default();
    fields.bytes(b"object").number(record.ino.as_u64()).number(record.token.as_u64());
    match &record.body {
        Body::File(note) => fields.bytes(b"file").bytes(note),
        Body::Directory { default_ttl } => {
            let ttl = default_ttl.map(Ttl::as_millis);
            fields.bytes(b"directory").number(ttl.is_some().into()).number(ttl.unwrap_or(0))
        }
        Body::Symlink(target) => fields.bytes(b"symlink").bytes(target),
    };
    fields.number(record.places.len() as u64);
    for place in &record.places {
        fields.number(place.parent.as_u64()).bytes(place.name.as_bytes()).number(place.cookie.as_u64());
    }
    fields.number(record.mode.into()).number(record.uid.into()).number(record.gid.into());
    fields.time(record.mtime).time(record.ctime).time(record.since);
    fields.bytes(record.session.as_ref().map_or("", SessionId::as_str).as_bytes());
    fields.number(record.ttl.as_millis());
    fields.print()
}

/// The print of a session.
pub(in crate::store) fn of_session(session: &Session) -> Print {
    let mut fields = Fields::default();
    fields.bytes(b"session").bytes(session.id.as_str().as_bytes()).number(session.ino.as_u64());
    fields.number(session.uid.into()).number(session.gid.into());
    match &session.kind {
        SessionKind::Named => fields.bytes(b"named"),
        SessionKind::Unseen => fields.bytes(b"unseen"),
        SessionKind::Job(job) => {
            let boot = job.boot.as_str().as_bytes();
            fields.bytes(b"job").number(job.pgid.into()).number(job.start).bytes(boot)
        }
    };
    let origin = &session.origin;
    fields.bytes(origin.user.as_bytes()).bytes(origin.host.as_bytes()).number(origin.pid.into());
    fields.bytes(origin.command.as_bytes());
    let login = session.login.as_ref().map(Login::as_str);
    fields.number(login.is_some().into()).bytes(login.unwrap_or_default().as_bytes());
    fields.time(session.since).time(session.mtime).number(session.ttl.as_millis());
    fields.number(session.ended.into()).number(session.lost.len() as u64);
    for (parent, name) in &session.lost {
        fields.number(parent.as_u64()).bytes(name.as_bytes());
    }
    fields.print()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::{Name, Place, Token};

    fn record() -> Record {
        Record {
            ino: Ino::from_u64(7),
            token: Token::from_u64(9),
            body: Body::File(b"note".to_vec()),
            places: vec![Place {
                parent: Ino::ROOT,
                name: Name::parse(b"f").unwrap(),
                cookie: Token::from_u64(7),
            }],
            mode: 0o644,
            uid: 1,
            gid: 2,
            mtime: WallTime::new(3, 4),
            ctime: WallTime::new(5, 6),
            since: WallTime::new(7, 8),
            session: Some(SessionId::parse(b"s").unwrap()),
            ttl: Ttl::DEFAULT,
            seen: crate::clock::BootTime::from_nanos(1),
        }
    }

    #[test]
    fn each_field_but_when_it_was_seen_is_in_the_print() {
        let print = of_record(&record());
        assert_eq!(of_record(&Record { seen: crate::clock::BootTime::from_nanos(2), ..record() }), print);
        let others = [
            Record { token: Token::from_u64(10), ..record() },
            Record { body: Body::File(b"nota".to_vec()), ..record() },
            Record { body: Body::Symlink((*b"note").into()), ..record() },
            Record { places: Vec::new(), ..record() },
            Record { mode: 0o600, ..record() },
            Record { uid: 2, gid: 1, ..record() },
            Record { mtime: WallTime::new(3, 5), ..record() },
            Record { session: None, ..record() },
            Record { ttl: Ttl::Never, ..record() },
        ];
        assert!(others.iter().all(|other| of_record(other) != print));
    }

    #[test]
    fn a_digest_hangs_on_no_order() {
        let prints = [of_record(&record()), of_record(&Record { uid: 5, ..record() })];
        let (mut a, mut b) = (Digest::default(), Digest::default());
        prints.iter().for_each(|print| a.add(*print));
        prints.iter().rev().for_each(|print| b.add(*print));
        assert_eq!(a, b);
        assert_ne!(a, Digest::default());
    }
}
