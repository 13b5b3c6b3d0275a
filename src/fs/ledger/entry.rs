//! One change as bytes: a letter for its kind, then its parts. Numbers are of eight bytes, the lowest first; what has a
//! length has it in front.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::state::{Began, Connection, EventsEnd};
use crate::clock::{BootTime, Now, WallTime};
use crate::fs::lock::Use;
use crate::fs::node::Node;
use crate::lock::{Ino, MountId, Name, Style};
use crate::table::Spot;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::fs) enum Entry<'a> {
    Began(Began),
    Connected(Connection),
    /// Which lease the mount has.
    Lease(u64),
    /// How many daemons in a row have tried to serve the mount and did not come to it.
    Tries(u64),
    /// The kernel is told of a number `count` times more.
    Told {
        number: u64,
        node: Node,
        count: u64,
    },
    Forgot {
        number: u64,
        count: u64,
    },
    /// What a number leads to that the kernel is to be told of.
    Door {
        number: u64,
        spot: Spot,
    },
    /// A session was merged into another.
    Redirected {
        from: Ino,
        to: Ino,
    },
    Opened {
        number: u64,
        ino: Option<Ino>,
        session: Option<&'a [u8]>,
        request: u64,
    },
    Closed(u64),
    /// A lock may be had through a handle. It is written before the store is asked: whoever closes the handle lets go
    /// of it, and nothing is lost if there is none.
    Used(Ino, Use),
    Unused(Ino, Use),
    /// A request whose handle was closed.
    Ended(u64),
    /// The highest number that a handle ever had.
    LastHandle(u64),
    Events(EventsEnd),
}

/// Writes the parts of a payload.
struct Parts<'a>(&'a mut Vec<u8>);

impl Parts<'_> {
    fn number(&mut self, number: u64) -> &mut Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn optional(&mut self, number: Option<u64>) -> &mut Self {
        self.0.push(number.is_some().into());
        self.number(number.unwrap_or(0))
    }

    fn node(&mut self, node: Node) -> &mut Self {
        let (kind, first, second) = match node {
            Node::Object(ino) => (0, ino.as_u64(), 0),
            Node::Sessions => (1, 0, 0),
            Node::View { session, object } => (2, session.as_u64(), object.as_u64()),
            Node::Control => (3, 0, 0),
            Node::Status => (4, 0, 0),
            Node::Metrics => (5, 0, 0),
            Node::Events(generation) => (6, generation, 0),
            Node::InfoDirectory(ino) => (7, ino.as_u64(), 0),
            Node::Info(ino) => (8, ino.as_u64(), 0),
            Node::WaitDirectory(ino) => (9, ino.as_u64(), 0),
            Node::Door(number) => (10, number, 0),
        };
        self.number(kind).number(first).number(second)
    }

    fn one_use(&mut self, one: Use) -> &mut Self {
        let style = match one.style {
            Style::Flock => 0,
            Style::Fcntl => 1,
        };
        self.number(style).number(one.key).number(one.handle).number(one.lease)
    }
}

/// Reads the parts of a payload; `None` where it is not what [`Parts`] wrote.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn optional(&mut self) -> Option<Option<u64>> {
        let is_there = self.byte()? != 0;
        let number = self.number()?;
        Some(is_there.then_some(number))
    }

    fn ino(&mut self) -> Option<Ino> {
        self.number().map(Ino::from_u64)
    }

    fn node(&mut self) -> Option<Node> {
        let (kind, first, second) = (self.number()?, self.number()?, self.ino()?);
        let ino = Ino::from_u64(first);
        Some(match kind {
            0 => Node::Object(ino),
            1 => Node::Sessions,
            2 => Node::View { session: ino, object: second },
            3 => Node::Control,
            4 => Node::Status,
            5 => Node::Metrics,
            6 => Node::Events(first),
            7 => Node::InfoDirectory(ino),
            8 => Node::Info(ino),
            9 => Node::WaitDirectory(ino),
            10 => Node::Door(first),
            _ => return None,
        })
    }

    fn one_use(&mut self) -> Option<Use> {
        let style = match self.number()? {
            0 => Style::Flock,
            1 => Style::Fcntl,
            _ => return None,
        };
        Some(Use { style, key: self.number()?, handle: self.number()?, lease: self.number()? })
    }
}

impl<'a> Entry<'a> {
    pub(super) fn write(&self, payload: &mut Vec<u8>) {
        payload.push(match self {
            Self::Began(_) => 1,
            Self::Connected(_) => 2,
            Self::Lease(_) => 3,
            Self::Tries(_) => 4,
            Self::Told { .. } => 5,
            Self::Forgot { .. } => 6,
            Self::Door { .. } => 7,
            Self::Redirected { .. } => 8,
            Self::Opened { .. } => 9,
            Self::Closed(_) => 10,
            Self::Used(..) => 11,
            Self::Unused(..) => 12,
            Self::LastHandle(_) => 13,
            Self::Events(_) => 14,
            Self::Ended(_) => 15,
        });
        let mut parts = Parts(payload);
        match self {
            Self::Began(Began { mountpoint, what, mount, since }) => {
                parts.bytes(mountpoint.as_os_str().as_bytes()).bytes(what.as_bytes());
                parts.number(mount.as_u64()).number(since.boot.as_nanos());
                let wall = since.wall;
                parts.number(wall.secs().cast_unsigned()).number(wall.subsec_nanos().into())
            }
            Self::Connected(Connection { init, reply, device }) => {
                parts.bytes(init).bytes(reply).bytes(device.as_bytes())
            }
            Self::Lease(number)
            | Self::Tries(number)
            | Self::Closed(number)
            | Self::Ended(number)
            | Self::LastHandle(number) => parts.number(*number),
            Self::Told { number, node, count } => parts.number(*number).node(*node).number(*count),
            Self::Forgot { number, count } => parts.number(*number).number(*count),
            Self::Door { number, spot } => {
                parts.number(*number).number(spot.parent.as_u64()).bytes(spot.name.as_bytes())
            }
            Self::Redirected { from, to } => parts.number(from.as_u64()).number(to.as_u64()),
            Self::Opened { number, ino, session, request } => {
                parts.number(*number).optional(ino.map(Ino::as_u64)).number(*request);
                match session {
                    Some(session) => parts.bytes(session),
                    None => &mut parts,
                }
            }
            Self::Used(ino, one) | Self::Unused(ino, one) => parts.number(ino.as_u64()).one_use(*one),
            Self::Events(EventsEnd { last, sum, end }) => {
                parts.number(*last).number((*sum).into()).number(*end)
            }
        };
    }

    pub(super) fn read(payload: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        Some(match reader.byte()? {
            1 => {
                let mountpoint = OsStr::from_bytes(reader.bytes()?).into();
                let (what, mount) = (reader.text()?, MountId::from_u64(reader.number()?));
                let boot = BootTime::from_nanos(reader.number()?);
                let secs = reader.number()?.cast_signed();
                let wall = WallTime::new(secs, u32::try_from(reader.number()?).ok()?);
                Self::Began(Began { mountpoint, what, mount, since: Now { boot, wall } })
            }
            2 => Self::Connected(Connection {
                init: reader.bytes()?.to_vec(),
                reply: reader.bytes()?.to_vec(),
                device: reader.text()?,
            }),
            3 => Self::Lease(reader.number()?),
            4 => Self::Tries(reader.number()?),
            5 => Self::Told { number: reader.number()?, node: reader.node()?, count: reader.number()? },
            6 => Self::Forgot { number: reader.number()?, count: reader.number()? },
            7 => {
                let (number, parent) = (reader.number()?, reader.ino()?);
                Self::Door { number, spot: Spot { parent, name: Name::parse(reader.bytes()?).ok()? } }
            }
            8 => Self::Redirected { from: reader.ino()?, to: reader.ino()? },
            9 => Self::Opened {
                number: reader.number()?,
                ino: reader.optional()?.map(Ino::from_u64),
                request: reader.number()?,
                session: if reader.0.is_empty() { None } else { Some(reader.bytes()?) },
            },
            10 => Self::Closed(reader.number()?),
            11 => Self::Used(reader.ino()?, reader.one_use()?),
            12 => Self::Unused(reader.ino()?, reader.one_use()?),
            13 => Self::LastHandle(reader.number()?),
            15 => Self::Ended(reader.number()?),
            14 => Self::Events(EventsEnd {
                last: reader.number()?,
                sum: u32::try_from(reader.number()?).ok()?,
                end: reader.number()?,
            }),
            _ => return None,
        })
    }
}
