//! Queues: who waits for what, who goes first, and who is told.

use lockfs::lock::Mode::{Exclusive, Shared};
use lockfs::lock::{Range, Style};
use lockfs::table::{Caller, Command, Outcome, Refusal, Reply};

use super::*;
use crate::house::{GRANTED, Tenant, WAITS, bytes, fcntl, flock, waiting, waiting_alone};

const TAKEN: Outcome = Err(Refusal::Taken);

/// How long something stays reserved for whoever was told, in seconds.
const RESERVED: u64 = 2;

/// Four jobs, each on a mount of its own but for the last, which is on the first; and files that nobody has open.
fn furnished(tree: &dyn Tenant) -> [Caller; 4] {
    tree.attend_all();
    for path in ["f", "g", "h"] {
        tree.create(&agent(), path).expect("it is free");
    }
    [alice(), on(1, alice_elsewhere()), on(2, bob()), alice_next_door()]
}

pub(crate) fn who_came_first_goes_first(tree: &mut dyn Tenant) {
    let [a, b, c, d] = furnished(tree);
    let claim = flock(Exclusive, 1);
    assert_eq!(tree.lock(&a, "f", claim, None), GRANTED);
    let comers = [(&c, 7), (&b, 9), (&d, 3)];
    for (who, request) in comers {
        assert_eq!(tree.lock(who, "f", flock(Exclusive, request), waiting(request)), WAITS);
    }
    assert_eq!((tree.queue("f"), tree.view("f").waiting), (vec![7, 9, 3], 3));
    tree.unlock(&a, "f", claim);
    for (who, request) in comers {
        tree.woken([(who, request)]);
        assert_eq!(tree.lock(who, "f", flock(Exclusive, request), waiting(request)), GRANTED);
        tree.woken([]);
        tree.unlock(who, "f", flock(Exclusive, request));
    }
    assert_eq!((tree.queue("f"), tree.view("f").waiting), (vec![], 0));
}

pub(crate) fn who_asks_again_keeps_its_place(tree: &mut dyn Tenant) {
    let [a, b, c, _] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    for who in [&b, &c, &b, &b] {
        assert_eq!(tree.lock(who, "f", flock(Exclusive, 1), waiting(who.mount.as_u64())), WAITS);
    }
    assert_eq!(tree.queue("f"), [2, 3]);
    assert_eq!(tree.store().counts().expect("the store works").waits, 2);
    tree.create(&a, "x").expect("it is free");
    for who in [&c, &b, &c] {
        assert_eq!(tree.await_name(who, "x", waiting(who.mount.as_u64() + 10)), Ok(None));
    }
    assert_eq!(tree.queue("x"), [13, 12]);
}

pub(crate) fn a_try_does_not_overtake_who_waits(tree: &mut dyn Tenant) {
    let [a, b, c, _] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), waiting(1)), WAITS);
    tree.unlock(&a, "f", flock(Exclusive, 1));
    for who in [&a, &c] {
        assert_eq!(tree.lock(who, "f", flock(Exclusive, 1), None), TAKEN);
        assert_eq!(tree.lock(who, "f", flock(Shared, 1), None), TAKEN);
    }
    assert_eq!(tree.lock(&c, "f", fcntl(Exclusive, 1, Range::WHOLE), None), GRANTED, "that is another kind");
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), waiting(1)), GRANTED);
}

pub(crate) fn a_waiting_writer_stops_new_readers(tree: &mut dyn Tenant) {
    let [a, b, c, d] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", flock(Shared, 1), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), waiting(1)), WAITS);
    assert_eq!(tree.lock(&c, "f", flock(Shared, 1), waiting(1)), WAITS);
    assert_eq!(tree.lock(&d, "f", flock(Shared, 2), waiting(2)), WAITS);
    tree.woken([]);
    tree.unlock(&a, "f", flock(Shared, 1));
    tree.woken([(&b, 1)]);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), waiting(1)), GRANTED);
    tree.unlock(&b, "f", flock(Exclusive, 1));
    tree.woken([(&c, 1), (&d, 2)]);
    for who in [&d, &c] {
        let request = if who.mount == c.mount { 1 } else { 2 };
        assert_eq!(tree.lock(who, "f", flock(Shared, request), waiting(request)), GRANTED);
    }
}

pub(crate) fn readers_are_let_through_up_to_the_next_writer(tree: &mut dyn Tenant) {
    let [a, b, c, d] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", flock(Shared, 1), waiting(1)), WAITS);
    assert_eq!(tree.lock(&c, "f", flock(Shared, 1), waiting(1)), WAITS);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 2), waiting(2)), WAITS);
    assert_eq!(tree.lock(&d, "f", flock(Shared, 2), waiting(2)), WAITS);
    tree.unlock(&a, "f", flock(Exclusive, 1));
    tree.woken([(&b, 1), (&c, 1)]);
}

pub(crate) fn ranges_that_do_not_touch_do_not_wait_for_each_other(tree: &mut dyn Tenant) {
    let [a, b, c, d] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", fcntl(Exclusive, 1, bytes(0, 9)), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", fcntl(Exclusive, 1, bytes(8, 19)), waiting(1)), WAITS);
    assert_eq!(tree.lock(&c, "f", fcntl(Exclusive, 1, bytes(0, 7)), waiting(1)), WAITS);
    assert_eq!(
        tree.lock(&d, "f", fcntl(Exclusive, 2, bytes(15, 15)), None),
        TAKEN,
        "the second is in the way"
    );
    assert_eq!(tree.lock(&d, "f", fcntl(Exclusive, 2, bytes(20, 29)), None), GRANTED);
    tree.unlock(&a, "f", fcntl(Exclusive, 1, bytes(0, 3)));
    tree.woken([]);
    tree.unlock(&a, "f", fcntl(Exclusive, 1, bytes(4, 7)));
    tree.woken([(&c, 1)]);
    tree.unlock(&a, "f", fcntl(Exclusive, 1, bytes(8, 9)));
    tree.woken([(&b, 1)]);
}

/// Who has a file locked, and wants it locked otherwise, waits for those who have it locked, too, and for nobody
/// else: whoever came earlier waits for it.
///
/// Bug: it was not told when they let go, because somebody had come earlier.
pub(crate) fn a_conversion_waits_for_nobody_who_waits(tree: &mut dyn Tenant) {
    let [a, b, c, _] = furnished(tree);
    let whole = Range::WHOLE;
    for who in [&a, &b] {
        assert_eq!(tree.lock(who, "f", fcntl(Shared, 1, whole), None), GRANTED);
    }
    assert_eq!(tree.lock(&c, "f", fcntl(Exclusive, 1, whole), waiting(1)), WAITS);
    assert_eq!(tree.lock(&a, "f", fcntl(Exclusive, 1, whole), waiting(2)), WAITS);
    tree.unlock(&b, "f", fcntl(Shared, 1, whole));
    tree.woken([(&a, 2)]);
    assert_eq!(tree.lock(&a, "f", fcntl(Exclusive, 1, whole), waiting(2)), GRANTED);
    tree.unlock(&a, "f", fcntl(Exclusive, 1, whole));
    tree.woken([(&c, 1)]);
}

/// Bug: it was refused as a deadlock, because somebody who had come earlier waited for it.
pub(crate) fn a_conversion_is_no_deadlock_with_who_waits_for_it(tree: &mut dyn Tenant) {
    let [a, b, c, _] = furnished(tree);
    let whole = Range::WHOLE;
    for who in [&a, &b] {
        assert_eq!(tree.lock(who, "f", fcntl(Shared, 1, whole), None), GRANTED);
    }
    assert_eq!(tree.lock(&c, "f", fcntl(Exclusive, 1, whole), waiting_alone(1)), WAITS);
    assert_eq!(tree.lock(&a, "f", fcntl(Exclusive, 1, whole), waiting_alone(2)), WAITS);
    assert_eq!(
        tree.lock(&b, "f", fcntl(Exclusive, 1, whole), waiting_alone(3)),
        Err(Refusal::Deadlock),
        "two who share and would both exclude the other wait for ever"
    );
}

pub(crate) fn a_conversion_that_can_go_overtakes(tree: &mut dyn Tenant) {
    let [a, b, _, _] = furnished(tree);
    for (path, claim) in [("f", flock as fn(_, _) -> _), ("g", |mode, key| fcntl(mode, key, bytes(2, 3)))] {
        assert_eq!(tree.lock(&a, path, claim(Shared, 1), None), GRANTED);
        assert_eq!(tree.lock(&b, path, claim(Exclusive, 1), waiting(path.as_bytes()[0].into())), WAITS);
        assert_eq!(tree.lock(&a, path, claim(Exclusive, 1), None), GRANTED);
        tree.woken([]);
        assert_eq!(tree.lock(&a, path, claim(Shared, 1), None), GRANTED);
        tree.woken([]);
    }
    assert_eq!(
        tree.lock(&a, "g", fcntl(Shared, 1, bytes(2, 4)), None),
        TAKEN,
        "it has not got all of it yet"
    );
}

/// `flock_lock_inode` of fs/locks.c.
pub(crate) fn a_flock_that_waits_for_its_conversion_is_lost_meanwhile(tree: &mut dyn Tenant) {
    let [a, b, c, _] = furnished(tree);
    for who in [&a, &b] {
        assert_eq!(tree.lock(who, "f", flock(Shared, 1), None), GRANTED);
    }
    assert_eq!(tree.lock(&c, "f", flock(Exclusive, 1), waiting(1)), WAITS);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), waiting(1)), WAITS);
    assert_eq!(tree.grants("f").len(), 1);
    tree.unlock(&b, "f", flock(Shared, 1));
    tree.woken([(&c, 1)]);
    assert_eq!(tree.queue("f"), [1, 1]);
}

pub(crate) fn what_is_reserved_is_so_for_two_seconds(tree: &mut dyn Tenant) {
    let [a, b, c, d] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    for who in [&b, &c, &d] {
        assert_eq!(tree.lock(who, "f", flock(Exclusive, 2), waiting(2)), WAITS);
    }
    tree.unlock(&a, "f", flock(Exclusive, 1));
    tree.woken([(&b, 2)]);
    tree.wait_secs(RESERVED - 1);
    tree.sweep(100);
    tree.woken([]);
    tree.wait_secs(1);
    tree.sweep(100);
    tree.woken([(&c, 2)]);
    assert_eq!(tree.lock(&d, "f", flock(Exclusive, 3), None), TAKEN, "it is reserved for the next");
    assert_eq!(tree.lock(&c, "f", flock(Exclusive, 2), waiting(2)), GRANTED);
}

pub(crate) fn all_who_wait_on_a_mute_mount_are_passed_over(tree: &mut dyn Tenant) {
    let [a, b, c, _] = furnished(tree);
    for path in ["f", "g"] {
        assert_eq!(tree.lock(&a, path, flock(Exclusive, 1), None), GRANTED);
    }
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), waiting(1)), WAITS);
    assert_eq!(tree.lock(&b, "g", flock(Exclusive, 1), waiting(2)), WAITS);
    assert_eq!(tree.lock(&c, "g", flock(Exclusive, 1), waiting(1)), WAITS);
    tree.unlock(&a, "f", flock(Exclusive, 1));
    tree.woken([(&b, 1)]);
    tree.wait_secs(RESERVED);
    tree.sweep(100);
    tree.unlock(&a, "g", flock(Exclusive, 1));
    tree.woken([(&c, 1)]);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED, "nobody else waits there");
    assert_eq!(tree.queue("f"), [1], "it has its place still");
}

pub(crate) fn a_mount_that_is_heard_of_again_has_its_places(tree: &mut dyn Tenant) {
    let [a, b, c, _] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    for who in [&b, &c] {
        assert_eq!(tree.lock(who, "f", flock(Exclusive, 2), waiting(2)), WAITS);
    }
    tree.unlock(&a, "f", flock(Exclusive, 1));
    tree.woken([(&b, 2)]);
    tree.wait_secs(RESERVED);
    tree.sweep(100);
    tree.woken([(&c, 2)]);
    assert!(tree.attend(1, lockfs::lock::Ttl::Never));
    tree.woken([(&b, 2)]);
    assert_eq!(tree.lock(&c, "f", flock(Exclusive, 2), waiting(2)), WAITS, "the first is there again");
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 2), waiting(2)), GRANTED);
    tree.unlock(&b, "f", flock(Exclusive, 2));
    tree.woken([(&c, 2)]);
}

pub(crate) fn a_mount_is_heard_of_by_any_lock_of_its(tree: &mut dyn Tenant) {
    let [a, b, c, _] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 2), waiting(2)), WAITS);
    tree.unlock(&a, "f", flock(Exclusive, 1));
    tree.woken([(&b, 2)]);
    tree.wait_secs(RESERVED);
    tree.sweep(100);
    tree.sweep(100);
    tree.woken([]);
    assert_eq!(tree.lock(&b, "g", flock(Exclusive, 7), None), GRANTED);
    tree.woken([(&b, 2)]);
    assert_eq!(tree.lock(&c, "f", flock(Exclusive, 1), None), TAKEN);
}

pub(crate) fn who_is_told_and_can_not_go_keeps_its_place(tree: &mut dyn Tenant) {
    let [a, b, c, _] = furnished(tree);
    let whole = |mode, key| fcntl(mode, key, Range::WHOLE);
    assert_eq!(tree.lock(&a, "f", whole(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", whole(Shared, 1), waiting(1)), WAITS);
    assert_eq!(tree.lock(&a, "f", whole(Shared, 1), None), GRANTED);
    tree.woken([(&b, 1)]);
    assert_eq!(tree.lock(&a, "f", whole(Exclusive, 1), None), GRANTED, "it had its turn");
    assert_eq!(tree.lock(&b, "f", whole(Shared, 1), waiting(1)), WAITS);
    assert_eq!(tree.lock(&c, "f", whole(Exclusive, 1), waiting(1)), WAITS);
    tree.wait_secs(RESERVED);
    tree.sweep(100);
    tree.unlock(&a, "f", whole(Exclusive, 1));
    tree.woken([(&b, 1)]);
}

pub(crate) fn who_waits_is_told_once(tree: &mut dyn Tenant) {
    let [a, b, _, d] = furnished(tree);
    for who in [&a, &d] {
        assert_eq!(tree.lock(who, "f", flock(Shared, who.session.origin.pid.into()), None), GRANTED);
    }
    tree.unlock(&d, "f", flock(Shared, 7));
    assert_eq!(tree.lock(&a, "f", fcntl(Exclusive, 1, bytes(0, 9)), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", fcntl(Exclusive, 1, bytes(0, 3)), waiting(1)), WAITS);
    tree.unlock(&a, "f", fcntl(Exclusive, 1, bytes(0, 5)));
    tree.woken([(&b, 1)]);
    tree.unlock(&a, "f", fcntl(Exclusive, 1, bytes(6, 9)));
    tree.woken([]);
}

pub(crate) fn who_withdraws_lets_the_next_through(tree: &mut dyn Tenant) {
    let [a, b, c, d] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", flock(Shared, 1), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), waiting(1)), WAITS);
    assert_eq!(tree.lock(&c, "f", flock(Shared, 1), waiting(1)), WAITS);
    assert_eq!(tree.lock(&d, "f", flock(Shared, 2), None), TAKEN);
    tree.withdraw(&b, 1);
    tree.woken([(&c, 1)]);
    assert_eq!(tree.lock(&d, "f", flock(Shared, 2), None), GRANTED);
    tree.withdraw(&b, 1);
    tree.withdraw(&b, 99);
    tree.woken([]);
    assert_eq!(tree.queue("f"), [1]);
}

/// Bug: whoever was told, and withdrew, took the reservation along.
pub(crate) fn who_was_told_and_withdraws_lets_the_next_through(tree: &mut dyn Tenant) {
    let [a, b, c, _] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    for who in [&b, &c] {
        assert_eq!(tree.lock(who, "f", flock(Exclusive, 2), waiting(2)), WAITS);
    }
    tree.unlock(&a, "f", flock(Exclusive, 1));
    tree.woken([(&b, 2)]);
    tree.withdraw(&b, 2);
    tree.woken([(&c, 2)]);
    tree.wait_secs(RESERVED);
    tree.sweep(100);
    tree.woken([]);
    assert_eq!(
        tree.lock(&b, "f", flock(Exclusive, 2), None),
        GRANTED,
        "the third is mute, the second is not"
    );
}

pub(crate) fn who_waited_on_a_mount_that_is_gone_is_in_nobodys_way(tree: &mut dyn Tenant) {
    let [a, b, c, _] = furnished(tree);
    tree.leave(1);
    tree.attend(1, secs(60));
    assert_eq!(tree.lock(&a, "f", flock(Shared, 1), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), waiting(1)), WAITS);
    assert_eq!(tree.lock(&c, "f", flock(Shared, 1), waiting(1)), WAITS);
    tree.wait_secs(59);
    tree.sweep(100);
    assert_eq!(tree.lock(&a, "f", flock(Shared, 2), None), TAKEN);
    tree.wait_secs(1);
    assert_eq!(tree.lock(&a, "f", flock(Shared, 2), None), GRANTED);
    assert_eq!((tree.queue("f"), tree.view("f").waiting), (vec![1], 1));
    tree.woken([]);
    tree.sweep(100);
    tree.woken([(&c, 1)]);
    assert_eq!(tree.store().counts().expect("the store works").waits, 1);
}

pub(crate) fn who_opens_what_is_free_holds_it(tree: &mut dyn Tenant) {
    let [a, _, _, _] = furnished(tree);
    let ino = tree.await_name(&a, "x", waiting(1)).expect("it may").expect("it is free");
    assert_eq!((tree.ino("x"), tree.holder("x").as_deref()), (ino, Some("dev1-1")));
    assert_eq!(tree.queue("x"), []);
    tree.unlink(&a, "x").expect("it is hers");
    assert!(tree.view_of(ino).is_some(), "it is open");
    tree.close_on(0, ino);
    assert_eq!(tree.view_of(ino), None);
}

pub(crate) fn who_waits_for_a_name_holds_it_when_it_is_free(tree: &mut dyn Tenant) {
    let [a, b, c, _] = furnished(tree);
    tree.create(&a, "x").expect("it is free");
    let first = tree.token("x");
    assert_eq!(tree.await_name(&b, "x", waiting(1)), Ok(None));
    assert_eq!(tree.await_name(&c, "x", waiting(1)), Ok(None));
    assert_eq!((tree.queue("x"), tree.view("x").waiting), (vec![1, 1], 2));
    tree.unlink(&a, "x").expect("it is hers");
    tree.woken([(&b, 1)]);
    assert_eq!(tree.await_name(&c, "x", waiting(1)), Ok(None), "it was not told");
    assert!(tree.await_name(&b, "x", waiting(1)).is_ok_and(|made| made.is_some()));
    assert_eq!(tree.holder("x").as_deref(), Some("dev1-3"));
    assert!(tree.token("x") > first);
    tree.woken([]);
    tree.unlink(&b, "x").expect("it is hers");
    tree.woken([(&c, 1)]);
}

pub(crate) fn a_name_is_free_however_its_lock_ends(tree: &mut dyn Tenant) {
    let [_, b, c, _] = furnished(tree);
    let waits = |path: &str, request| assert_eq!(tree.await_name(&b, path, waiting(request)), Ok(None));
    for path in ["broken", "moved", "ended", "expired"] {
        tree.create(&agent(), path).expect("it is free");
    }
    tree.mkdir(&agent(), "removed").expect("it is free");
    tree.create(&agent(), "over").expect("it is free");
    for (path, request) in [("broken", 1), ("moved", 2), ("ended", 3), ("removed", 4), ("over", 5)] {
        waits(path, request);
    }
    tree.break_lock(&agent(), "broken", tree.token("broken")).expect("it is hers");
    tree.woken([(&b, 1)]);
    tree.rename(&agent(), "moved", "elsewhere").expect("it is hers");
    tree.woken([(&b, 2)]);
    tree.rmdir(&agent(), "removed").expect("it is hers");
    tree.woken([(&b, 4)]);
    tree.rename(&agent(), "expired", "over").expect("both are hers");
    tree.woken([]);
    tree.rename(&agent(), "over", "expired").expect("it is hers");
    tree.woken([(&b, 5)]);
    tree.end(&agent(), "agent").expect("it is hers");
    tree.woken([(&b, 3)]);
    for request in 1..=5 {
        tree.withdraw(&b, request);
    }
    tree.create(&agent(), "expired").expect("it is free");
    waits("expired", 6);
    tree.wait_secs(TTL - 1);
    tree.renew("dev1-3");
    tree.sweep(100);
    tree.woken([]);
    tree.wait_secs(1);
    tree.sweep(100);
    tree.woken([(&b, 6)]);
    assert_eq!(tree.create(&c, "expired"), Err(Refusal::Exists));
    assert!(tree.await_name(&b, "expired", waiting(6)).is_ok_and(|made| made.is_some()));
}

/// Whoever finds that it has expired makes it free, too.
pub(crate) fn a_name_is_free_when_its_lock_is_found_expired(tree: &mut dyn Tenant) {
    let [_, b, c, _] = furnished(tree);
    tree.create(&agent(), "x").expect("it is free");
    assert_eq!(tree.await_name(&b, "x", waiting(1)), Ok(None));
    tree.wait_secs(TTL);
    tree.woken([]);
    assert_eq!(tree.create(&c, "x"), Err(Refusal::Exists));
    tree.woken([(&b, 1)]);
}

pub(crate) fn an_exchange_frees_no_name(tree: &mut dyn Tenant) {
    let [_, b, _, _] = furnished(tree);
    assert_eq!(tree.await_name(&b, "f", waiting(1)), Ok(None));
    assert_eq!(tree.await_name(&b, "g", waiting(2)), Ok(None));
    tree.exchange(&agent(), "f", "g").expect("both are hers");
    tree.rename(&agent(), "h", "g").expect("both are hers");
    tree.woken([]);
}

pub(crate) fn nobody_makes_a_name_that_others_wait_for(tree: &mut dyn Tenant) {
    let [a, b, _, _] = furnished(tree);
    tree.create(&a, "x").expect("it is free");
    assert_eq!(tree.await_name(&b, "x", waiting(1)), Ok(None));
    tree.unlink(&a, "x").expect("it is hers");
    assert_eq!(tree.create(&a, "x"), Err(Refusal::Exists));
    assert_eq!(tree.mkdir(&a, "x"), Err(Refusal::Exists));
    assert_eq!(tree.symlink(&a, "x"), Err(Refusal::Exists));
    assert_eq!(tree.open_or_create(&a, "x"), Err(Refusal::Busy(None)));
    assert_eq!(tree.open_emptied(&a, "x"), Err(Refusal::Busy(None)));
    assert_eq!(tree.link(&agent(), "f", "x"), Err(Refusal::Exists));
    assert_eq!(tree.rename(&agent(), "f", "x"), Err(Refusal::Busy(None)));
    assert_eq!(tree.rename_no_replace(&agent(), "f", "x"), Err(Refusal::Exists));
    assert_eq!(tree.exchange(&agent(), "f", "x"), Err(Refusal::NoEntry));
    assert!(tree.is_free("x"));
    tree.woken([(&b, 1)]);
    tree.wait_secs(RESERVED);
    tree.sweep(100);
    tree.rename(&agent(), "f", "x").expect("the mount is mute");
    tree.link(&agent(), "x", "y").expect("it is free");
}

/// It is replaced there where it stands: nobody gets in between.
pub(crate) fn a_rename_over_what_others_wait_for_is_no_acquire(tree: &mut dyn Tenant) {
    let [_, b, _, _] = furnished(tree);
    assert_eq!(tree.await_name(&b, "f", waiting(1)), Ok(None));
    tree.rename(&agent(), "g", "f").expect("both are hers");
    tree.woken([]);
    assert_eq!(tree.queue("f"), [1]);
}

pub(crate) fn who_waits_in_a_directory_that_is_removed_waits_no_more(tree: &mut dyn Tenant) {
    let [a, b, c, _] = furnished(tree);
    tree.mkdir(&a, "d").expect("it is free");
    tree.create(&a, "d/x").expect("it is free");
    let spot = tree.spot("d/x");
    assert_eq!(tree.await_at(&b, spot.clone(), waiting(1)), Ok(None));
    assert_eq!(tree.await_at(&c, spot.clone(), waiting(1)), Ok(None));
    tree.unlink(&a, "d/x").expect("it is hers");
    tree.woken([(&b, 1)]);
    tree.rmdir(&a, "d").expect("nothing is in it");
    assert_eq!(tree.await_at(&b, spot.clone(), waiting(1)), Err(Refusal::NoEntry));
    tree.woken([(&c, 1)]);
    assert_eq!(tree.await_at(&c, spot, waiting(1)), Err(Refusal::NoEntry));
    assert_eq!(tree.store().counts().expect("the store works").waits, 0);
}

pub(crate) fn who_waits_in_a_directory_waits_there_wherever_it_is(tree: &mut dyn Tenant) {
    let [a, b, _, _] = furnished(tree);
    tree.mkdir(&a, "d").expect("it is free");
    tree.create(&a, "d/x").expect("it is free");
    assert_eq!(tree.await_name(&b, "d/x", waiting(1)), Ok(None));
    tree.unlink(&a, "d/x").expect("it is hers");
    tree.rename(&a, "d", "e").expect("it is hers");
    assert_eq!(tree.queue("e/x"), [1]);
    let spot = tree.spot("e/x");
    assert!(tree.await_at(&b, spot, waiting(1)).is_ok_and(|made| made.is_some()));
}

pub(crate) fn whatever_stands_at_a_name_is_waited_for(tree: &mut dyn Tenant) {
    let [a, b, c, _] = furnished(tree);
    tree.mkdir(&a, "d").expect("it is free");
    tree.symlink(&a, "s").expect("it is free");
    assert_eq!(tree.lock(&c, "f", flock(Shared, 1), None), GRANTED);
    for (path, request) in [("d", 1), ("s", 2), ("f", 3)] {
        assert_eq!(tree.await_name(&b, path, waiting_alone(request)), Ok(None));
    }
    tree.unlock(&c, "f", flock(Shared, 1));
    tree.woken([]);
    tree.rmdir(&a, "d").expect("it is hers");
    tree.unlink(&a, "s").expect("it is hers");
    tree.unlink(&a, "f").expect("it is nobody's");
    tree.woken([(&b, 1), (&b, 2), (&b, 3)]);
}

pub(crate) fn a_name_of_nowhere_is_not_waited_for(tree: &mut dyn Tenant) {
    let [a, b, _, _] = furnished(tree);
    assert_eq!(tree.await_name(&b, "nowhere/x", waiting(1)), Err(Refusal::NoEntry));
    assert_eq!(tree.await_name(&b, "f/x", waiting(1)), Err(Refusal::NotDirectory));
    let late = crate::world::by_path(other_agent());
    assert_eq!(tree.await_name(&late, "x", waiting(1)), Err(Refusal::NoSession));
    tree.create(&a, "x").expect("who was refused does not wait");
}

pub(crate) fn a_queue_tells_who_waits_for_what(tree: &mut dyn Tenant) {
    let [a, b, c, _] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.await_name(&b, "f", waiting_alone(5)), Ok(None));
    let since = tree.store().now().wall;
    tree.wait_secs(1);
    assert_eq!(tree.lock(&c, "f", fcntl(Shared, 1, bytes(0, 3)), None), GRANTED);
    assert_eq!(tree.lock(&a, "f", fcntl(Exclusive, 4, bytes(2, 9)), waiting(6)), WAITS);
    let waiters = tree.store().queue(&tree.spot("f")).expect("the store works");
    let [first, second] = waiters.as_slice() else { panic!("two wait, and not {waiters:?}") };
    assert_eq!((first.id.mount, first.id.request, first.since), (b.mount, 5, since));
    assert_eq!((&first.session, &first.origin), (&b.session.id, &b.session.origin));
    assert_eq!(
        (first.claim.style, first.claim.mode, first.claim.range),
        (Style::Flock, Exclusive, Range::WHOLE)
    );
    assert_eq!((first.alone, second.alone, first.reserved), (true, false, None));
    assert_eq!((second.id.request, second.claim), (6, fcntl(Exclusive, 4, bytes(2, 9))));
    assert!(first.ticket < second.ticket);
    tree.unlock(&c, "f", fcntl(Shared, 1, bytes(0, 3)));
    let waiters = tree.store().queue(&tree.spot("f")).expect("the store works");
    let until = tree.store().now().boot + std::time::Duration::from_secs(RESERVED);
    assert_eq!(waiters[1].reserved, Some(until));
    tree.woken([(&a, 6)]);
}

/// A wait for one that waits for the first.
pub(crate) fn two_who_would_wait_for_each_other_are_a_deadlock(tree: &mut dyn Tenant) {
    let [a, b, _, _] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.lock(&b, "g", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.lock(&a, "g", flock(Exclusive, 2), waiting_alone(1)), WAITS);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 2), waiting_alone(1)), Err(Refusal::Deadlock));
    assert_eq!(tree.queue("f"), [], "it does not wait");
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 2), waiting(1)), WAITS, "another of it could let go");
    assert_eq!(tree.lock(&b, "h", flock(Exclusive, 2), waiting_alone(2)), GRANTED);
}

pub(crate) fn who_is_in_company_closes_no_cycle(tree: &mut dyn Tenant) {
    let [a, b, _, _] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.lock(&b, "g", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.lock(&a, "g", flock(Exclusive, 2), waiting(1)), WAITS);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 2), waiting_alone(1)), WAITS);
}

pub(crate) fn three_who_would_wait_in_a_ring_are_a_deadlock(tree: &mut dyn Tenant) {
    let [a, b, c, d] = furnished(tree);
    for (who, path) in [(&a, "f"), (&b, "g"), (&c, "h")] {
        assert_eq!(tree.lock(who, path, flock(Exclusive, 1), None), GRANTED);
    }
    assert_eq!(tree.lock(&d, "f", flock(Exclusive, 2), waiting_alone(9)), WAITS, "a tail is no ring");
    assert_eq!(tree.lock(&a, "g", flock(Exclusive, 3), waiting_alone(1)), WAITS);
    assert_eq!(tree.lock(&b, "h", fcntl(Exclusive, 3, Range::WHOLE), waiting_alone(1)), GRANTED);
    assert_eq!(tree.lock(&b, "h", flock(Exclusive, 3), waiting_alone(1)), WAITS);
    assert_eq!(tree.lock(&c, "f", flock(Exclusive, 3), waiting_alone(1)), Err(Refusal::Deadlock));
    tree.withdraw(&a, 1);
    assert_eq!(tree.lock(&c, "f", flock(Exclusive, 3), waiting_alone(1)), WAITS);
}

pub(crate) fn who_waits_for_itself_is_a_deadlock(tree: &mut dyn Tenant) {
    let [a, _, _, _] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 2), waiting_alone(1)), Err(Refusal::Deadlock));
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 2), waiting(1)), WAITS);
    tree.create(&a, "x").expect("it is free");
    assert_eq!(tree.await_name(&a, "x", waiting_alone(2)), Err(Refusal::Deadlock));
    assert_eq!(tree.await_name(&a, "x", waiting(2)), Ok(None));
}

pub(crate) fn a_wait_for_a_name_closes_a_cycle_with_locks(tree: &mut dyn Tenant) {
    let [a, b, _, _] = furnished(tree);
    tree.create(&a, "x").expect("it is free");
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.await_name(&b, "x", waiting_alone(1)), Ok(None));
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), waiting_alone(1)), Err(Refusal::Deadlock));
    tree.withdraw(&b, 1);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), waiting_alone(1)), WAITS);
    assert_eq!(tree.await_name(&b, "x", waiting_alone(1)), Err(Refusal::Deadlock));
}

/// Those who wait are in the way, too: whoever holds what the first waits for must not wait behind it.
pub(crate) fn who_waits_before_one_is_waited_for(tree: &mut dyn Tenant) {
    let [a, b, c, _] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", flock(Shared, 1), None), GRANTED);
    assert_eq!(tree.lock(&c, "g", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), waiting_alone(1)), WAITS);
    assert_eq!(tree.lock(&a, "f", flock(Shared, 2), waiting_alone(1)), Err(Refusal::Deadlock));
    assert_eq!(tree.lock(&c, "f", flock(Shared, 2), waiting_alone(1)), WAITS);
    assert_eq!(tree.lock(&a, "g", flock(Shared, 2), waiting_alone(2)), Err(Refusal::Deadlock));
}

pub(crate) fn a_mount_that_is_gone_closes_no_cycle(tree: &mut dyn Tenant) {
    let [a, b, _, _] = furnished(tree);
    tree.leave(1);
    tree.attend(1, secs(6));
    tree.create(&b, "x").expect("it is free");
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), waiting_alone(1)), WAITS);
    assert_eq!(tree.await_name(&a, "x", waiting_alone(1)), Err(Refusal::Deadlock));
    tree.wait_secs(6);
    assert_eq!(tree.await_name(&a, "x", waiting_alone(1)), Ok(None));
}

/// Whoever is passed over is in nobody's way, so nobody waits for it.
pub(crate) fn a_mute_mount_closes_no_cycle(tree: &mut dyn Tenant) {
    let [a, b, c, _] = furnished(tree);
    for path in ["f", "h"] {
        assert_eq!(tree.lock(&a, path, flock(Exclusive, 1), None), GRANTED);
    }
    assert_eq!(tree.lock(&c, "g", flock(Exclusive, 1), None), GRANTED);
    for (path, request) in [("f", 1), ("g", 2), ("h", 3)] {
        assert_eq!(tree.lock(&b, path, flock(Exclusive, 1), waiting_alone(request)), WAITS);
    }
    assert_eq!(tree.lock(&c, "f", flock(Exclusive, 1), waiting_alone(1)), Err(Refusal::Deadlock));
    tree.unlock(&a, "h", flock(Exclusive, 1));
    tree.wait_secs(RESERVED);
    tree.sweep(100);
    assert_eq!(tree.lock(&c, "f", flock(Exclusive, 1), waiting_alone(1)), WAITS);
}

pub(crate) fn what_a_lapsed_mount_has_is_in_nobodys_way(tree: &mut dyn Tenant) {
    let [a, b, c, _] = furnished(tree);
    tree.leave(1);
    tree.attend(1, secs(6));
    for who in [&a, &b] {
        assert_eq!(tree.lock(who, "f", flock(Shared, 1), None), GRANTED);
    }
    assert_eq!(tree.lock(&c, "f", flock(Exclusive, 1), waiting(1)), WAITS);
    tree.wait_secs(6);
    tree.unlock(&a, "f", flock(Shared, 1));
    tree.woken([(&c, 1)]);
    assert_eq!(tree.lock(&c, "f", flock(Exclusive, 1), waiting(1)), GRANTED);
}

/// Two calls of one owner are not in each other's way.
pub(crate) fn calls_of_one_owner_do_not_wait_for_each_other(tree: &mut dyn Tenant) {
    let [a, b, _, d] = furnished(tree);
    assert_eq!(tree.lock(&b, "f", flock(Shared, 1), None), GRANTED);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), waiting(1)), WAITS);
    assert_eq!(tree.lock(&d, "f", flock(Exclusive, 1), waiting(2)), WAITS);
    assert_eq!(tree.lock(&a, "f", flock(Shared, 1), None), GRANTED);
    tree.unlock(&a, "f", flock(Shared, 1));
    tree.unlock(&b, "f", flock(Shared, 1));
    tree.woken([(&a, 1), (&d, 2)]);
}

/// Whoever takes up a mount again finds it as it was: what it has locked and open, and each place in a queue.
pub(crate) fn a_mount_that_is_taken_over_has_what_it_had(tree: &mut dyn Tenant) {
    let [a, b, c, _] = furnished(tree);
    tree.create(&a, "x").expect("it is free");
    assert_eq!(tree.lock(&a, "f", fcntl(Exclusive, 1, bytes(2, 5)), None), GRANTED);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), waiting(1)), WAITS);
    assert_eq!(tree.lock(&c, "f", flock(Shared, 1), waiting(3)), WAITS);
    assert_eq!(tree.await_name(&b, "x", waiting(2)), Ok(None));
    let look = |tree: &dyn Tenant| {
        let queues = ["f", "x"].map(|path| tree.store().queue(&tree.spot(path)).expect("the store works"));
        (tree.view("f"), tree.view("x"), queues, tree.mounts())
    };
    let before = look(tree);
    for _ in 0..3 {
        tree.reopen(std::time::Duration::ZERO);
        assert_eq!(look(tree), before);
    }
    // Their leases go on, and it may be said that all should ask. They do, and have the places that they had.
    tree.attend_all();
    tree.store().await_wakes(std::time::Duration::ZERO).expect("the store works");
    assert_eq!(tree.lock(&c, "f", flock(Shared, 1), waiting(3)), WAITS);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), waiting(1)), WAITS);
    assert_eq!(tree.lock(&a, "f", flock(Shared, 7), waiting(9)), WAITS);
    assert_eq!(tree.queue("f"), [1, 3, 9]);
    tree.unlock(&a, "f", flock(Exclusive, 1));
    tree.woken([(&b, 1)]);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), waiting(1)), GRANTED);
}

/// Bug: who was told, and whose daemon ended before it heard, was not told again.
pub(crate) fn who_was_told_before_the_store_was_opened_again_is_told_once_more(tree: &mut dyn Tenant) {
    let [a, b, _, _] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), waiting(1)), WAITS);
    tree.unlock(&a, "f", flock(Exclusive, 1));
    tree.reopen(std::time::Duration::from_secs(1));
    tree.sweep(100);
    tree.woken([(&b, 1)]);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), Err(Refusal::Taken));
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), waiting(1)), GRANTED);
}

/// Where nobody takes up the mounts that were there, all that they had goes in one step.
pub(crate) fn nothing_is_left_of_mounts_that_nobody_takes_over(tree: &mut dyn Tenant) {
    let [a, b, _, _] = furnished(tree);
    tree.create(&a, "x").expect("it is free");
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), waiting(1)), WAITS);
    assert_eq!(tree.await_name(&b, "x", waiting(2)), Ok(None));
    let open = tree.create_open(&a, "open").expect("it is free");
    tree.unlink(&a, "open").expect("it is hers");
    tree.reopen(std::time::Duration::from_secs(1));
    let mounts = tree.mounts().iter().map(|mount| mount.id).collect();
    assert_eq!(tree.ask(Command::Leave { mounts }), Ok(Reply::Done));
    for _ in 0..2 {
        tree.woken([]);
        let view = tree.view("f");
        assert!(view.record.is_advisory());
        assert_eq!(
            (view.grants, view.waiting, tree.queue("f"), tree.queue("x")),
            (vec![], 0, vec![], vec![])
        );
        assert_eq!((tree.mounts(), tree.store().counts().expect("the store works").waits), (vec![], 0));
        assert_eq!(tree.view_of(open), None);
        assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), Err(Refusal::Unattended));
        tree.reopen(std::time::Duration::from_secs(1));
    }
}

/// Bug: its ttl had run on while the store was closed, and while the last daemon used it.
pub(crate) fn an_advisory_file_has_its_ttl_when_the_store_is_opened_again(tree: &mut dyn Tenant) {
    let [a, _, _, _] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    tree.wait_secs(2 * TTL);
    tree.reopen(std::time::Duration::from_secs(2 * TTL));
    let mounts = tree.mounts().iter().map(|mount| mount.id).collect();
    assert_eq!(tree.ask(Command::Leave { mounts }), Ok(Reply::Done));
    tree.wait_secs(TTL - 1);
    assert!(!tree.is_free("f"));
    tree.wait_secs(1);
    assert!(tree.is_free("f"));
}
