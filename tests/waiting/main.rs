//! Waiting, on real mounts: flock(2), fcntl locks and the door `.wait`, by real programs, on one mount and over two.
//!
//! What would go wrong otherwise: a lock that works on one mount and excludes nobody over two, because the kernel
//! keeps what the daemon did not take; a waiter that no signal ends; a ghost at the head of the queue. So each claim
//! is tried wherever it should hold (`ground.rs`): on a plain file system too, which says what Linux does.
//!
//! | file | what it is |
//! |---|---|
//! | `ground` | where a test runs: a plain file system, one mount, two hosts |
//! | `fork`, `shared` | processes of the test's own code, and memory in common with them |
//! | `puppet` | a process that makes the calls that the test tells it to |
//! | `script` | what a user types |
//! | `history`, `contest`, `workers` | many who lock at once, what they wrote down, and its judge |
//! | `excludes` | contests of real programs, with holders and waiters killed at random |
//! | `order` | first come, first served |
//! | `flock_program`, `libraries`, `java`, `dpkg`, `door` | what real programs say and return |
//! | `calls`, `ends`, `holders`, `advisory` | what the calls mean: kinds, ranges, conversions, ends; who is shown |
//! | `signals` | what a signal does to a waiter |
//! | `crowd` | 1,000 waiters |
//! | `death` | the end of a daemon that others wait with, or for |

#[allow(dead_code, reason = "it uses its own part")]
#[path = "../hosts/cluster.rs"]
mod cluster;
#[path = "../common/mod.rs"]
mod common;
#[path = "../servers/mod.rs"]
mod servers;

mod advisory;
mod calls;
mod contest;
mod crowd;
mod death;
mod door;
mod dpkg;
mod ends;
mod excludes;
mod flock_program;
mod fork;
mod ground;
mod history;
mod holders;
mod java;
mod libraries;
mod order;
mod puppet;
mod script;
mod shared;
mod signals;
mod workers;

use std::path::{Path, PathBuf};

/// A file that stands beside this one.
fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/waiting").join(name)
}
