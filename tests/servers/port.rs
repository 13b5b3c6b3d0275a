//! A free port, kept until the server is done with it.
//!
//! It stays the server's own while the server is down: a restart gets it back. Two measures see to that. Ports are
//! below those that the kernel gives to connections (ip(7), `ip_local_port_range`). And each is bespoken among
//! all tests of this machine, by an abstract socket with its name (unix(7)), which ends with its process at the
//! latest. A program that knows nothing of this may still take it, so whoever starts a server tries again.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// A port of this machine's loopback that no other test takes.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claims: Vec<UnixListener>,
}

/// How far a cluster's bus is from the port of its clients.
pub const BUS: u16 = 10_000;

impl Port {
    /// A free port.
    pub fn free() -> Self {
        Self::with(&[0])
    }

    /// A free port whose cluster bus is free too.
    pub fn free_with_bus() -> Self {
        Self::with(&[0, BUS])
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    fn with(offsets: &[u16]) -> Self {
        let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        let end = range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(32_768);
        let first = 10_000;
        let count = u16::max(end, 32_768) - offsets.last().unwrap() - first;
        for _ in 0..1_000 {
            let random = RandomState::new().hash_one(()) % u64::from(count);
            let number = first + u16::try_from(random).unwrap();
            let claims = offsets.iter().map(|offset| claim(number + offset)).collect::<Option<_>>();
            if let Some(_claims) = claims {
                return Self { number, _claims };
            }
        }
        panic!("there is no free port");
    }
}

fn claim(number: u16) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("lockfs-test-port-{number}")).unwrap();
    let claim = UnixListener::bind_addr(&name).ok()?;
    TcpListener::bind(("127.0.0.1", number)).ok().map(|_| claim)
}
