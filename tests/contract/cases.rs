//! The cases that every store is tried on: each a promise of the law, asked as a store is asked.

pub(crate) mod advisory;
pub(crate) mod again;
pub(crate) mod calls;
pub(crate) mod kept;
pub(crate) mod names;
pub(crate) mod queues;
pub(crate) mod rights;
pub(crate) mod sessions;
pub(crate) mod time;

use lockfs::lock::{Name, SessionKind};
use lockfs::table::{Caller, Refusal};

use crate::house::{Answer, Tenant};
use crate::world::{self, ALICE, BOB, ROOT, caller, job, secs, session_id};

/// What every session here has said its new locks live for.
const TTL: u64 = 300;

/// Alice's script.
fn alice() -> Caller {
    caller(ALICE, "dev1-1", job(1), Some("tty1"), secs(TTL))
}

/// Another job of hers, in the same terminal.
fn alice_next_door() -> Caller {
    caller(ALICE, "dev1-2", job(2), Some("tty1"), secs(TTL))
}

/// A job of hers in another terminal.
fn alice_elsewhere() -> Caller {
    caller(ALICE, "dev1-3", job(3), Some("tty2"), secs(TTL))
}

/// Her agent, which named its session.
fn agent() -> Caller {
    caller(ALICE, "agent", SessionKind::Named, Some("tty2"), secs(TTL))
}

/// Another of her named sessions.
fn other_agent() -> Caller {
    caller(ALICE, "other", SessionKind::Named, Some("tty2"), secs(TTL))
}

fn bob() -> Caller {
    caller(BOB, "dev1-4", job(4), Some("tty3"), secs(TTL))
}

fn root() -> Caller {
    caller(ROOT, "dev1-5", job(5), Some("tty9"), secs(TTL))
}

/// The same, and it asks through the nth mount.
fn on(nth: usize, who: Caller) -> Caller {
    Caller { mount: world::mount_id(nth), ..who }
}

fn names<const N: usize>(names: [&str; N]) -> Vec<Name> {
    names.map(world::name).to_vec()
}

fn busy<T>(holder: &str) -> Answer<T> {
    Err(Refusal::Busy(Some(session_id(holder))))
}

fn held<T>(holder: &str) -> Answer<T> {
    Err(Refusal::Held(Some(session_id(holder))))
}

/// What the agent holds in every case that hands over or ends.
fn agent_holds(tree: &dyn Tenant) {
    tree.create(&agent(), "a").expect("it is free");
    tree.link(&agent(), "a", "b").expect("it is free");
    tree.mkdir(&agent(), "d").expect("it is free");
    tree.mkdir(&agent(), "d/e").expect("it is free");
    tree.symlink(&agent(), "d/e/s").expect("it is free");
}
