//! Real servers for tests: Redis alone, under Sentinel, as a cluster, behind TLS, in machines of their own that
//! can be cut off, and under a clock that the test sets.
//!
//! | file | what it is |
//! |---|---|
//! | `process` | a program that ends with the test, at the latest |
//! | `port` | a free port, kept until the server is done with it |
//! | `redis` | one Redis server |
//! | `sentinel` | a primary, two replicas, three Sentinels |
//! | `cluster` | three primaries of a cluster |
//! | `clock` | the wall clock of a server, which the test sets |
//! | `net` | machines that can be cut off from each other |
//! | `tls` | certificates, and foreign ones |
//!
//! Whoever needs it says `#[path = "../servers/mod.rs"] mod servers;`. All of it speaks to its servers over Unix
//! sockets, which no partition cuts. It takes Redis 7 or later, and root for `net`. What can't be started fails
//! the test; it never passes by skipping.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(unreachable_pub, reason = "a module of several test binaries is nobody's crate")]

pub mod clock;
pub mod cluster;
pub mod net;
pub mod port;
pub mod process;
pub mod redis;
pub mod sentinel;
pub mod tls;

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Waits until `claim` holds; fails if it does not within 20 seconds.
pub fn eventually(what: &str, claim: impl FnMut() -> bool) {
    within(Duration::from_secs(20), what, claim);
}

/// Waits until `claim` holds; fails if it does not within the limit.
pub fn within(limit: Duration, what: &str, mut claim: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !claim() {
        assert!(Instant::now() < end, "it never came true that {what}");
        sleep(Duration::from_millis(2));
    }
}
