//! Daemons of one mount, one after the other, on one server: the later one asks, and the earlier one is heard no more.

use std::sync::Arc;

use lockfs::clock::ManualClock;
use lockfs::lock::{Ino, RequestId, SessionKind};
use lockfs::store::{LockStore, StoreError};
use lockfs::table::{Command, Existing, New, Opening, Outcome, Refusal, Spot};

use crate::grounds::Redis;
use crate::house::Ground;
use crate::world::{ALICE, caller, mount_id, name, secs};

/// A ground, its clock, and the store of the daemon that was there first.
fn first() -> (Redis, Arc<ManualClock>, Box<dyn LockStore>) {
    let mut ground = Redis::lay();
    let clock = Arc::new(ManualClock::new(Redis::dawn()));
    ground.set(Redis::dawn());
    let store = ground.open(Arc::clone(&clock));
    (ground, clock, store)
}

fn acquire(store: &dyn LockStore, number: u64, what: usize) -> Result<Outcome, StoreError> {
    let command = Command::Acquire {
        caller: caller(ALICE, "agent", SessionKind::Named, None, secs(300)),
        spot: Spot { parent: Ino::ROOT, name: name(["a", "b", "c"][what]) },
        new: New::File(Opening::Closed),
        mode: 0o644,
        existing: Existing::Refuse,
    };
    store.execute_for(Some(RequestId { mount: mount_id(0), number }), &command)
}

/// Bug: what a daemon had sent when it was killed was carried out after its successor had been asked it again.
#[test]
fn nothing_of_a_daemon_is_carried_out_after_its_successor_has_come() {
    let (mut ground, clock, before) = first();
    let made = acquire(before.as_ref(), 2, 0).expect("the store works");
    let after = ground.open(clock);
    let late = acquire(before.as_ref(), 4, 1);
    assert!(matches!(late, Err(StoreError::Unavailable(_))), "{late:?}");
    // It was answered that before, and hears it once more.
    assert_eq!(acquire(after.as_ref(), 2, 0).expect("the store works"), made);
    assert!(acquire(after.as_ref(), 4, 1).expect("the store works").is_ok(), "it was free");
    assert_eq!(acquire(after.as_ref(), 6, 1).expect("the store works"), Err(Refusal::Exists));
}

/// Bug: a third daemon did not hear what the first was answered, where the second had not been asked yet.
#[test]
fn a_successor_of_a_successor_knows_what_both_were_answered() {
    let (mut ground, clock, first) = first();
    let made = [acquire(first.as_ref(), 2, 0).expect("the store works")];
    drop(first);
    let second = ground.open(Arc::clone(&clock));
    let made = [made[0].clone(), acquire(second.as_ref(), 4, 1).expect("the store works")];
    drop(second);
    let third = ground.open(clock);
    for (nth, made) in made.iter().enumerate() {
        let again = acquire(third.as_ref(), 2 * nth as u64 + 2, nth).expect("the store works");
        assert_eq!(again, *made);
    }
}

#[test]
fn where_the_server_has_lost_what_it_answered_nobody_takes_that_for_nothing() {
    let (mut ground, clock, before) = first();
    assert!(acquire(before.as_ref(), 2, 0).expect("the store works").is_ok());
    drop(before);
    ground.lose("a:");
    let after = ground.open(clock);
    let asked = RequestId { mount: mount_id(0), number: 2 };
    let known = after.remembers(asked);
    assert!(matches!(known, Err(StoreError::Timeout(_))), "{known:?}");
    // What is new is carried out all the same.
    assert!(acquire(after.as_ref(), 1 << 40, 1).expect("the store works").is_ok());
}
