//! Advisory locks: flock(2), fcntl(2), and what a file is that somebody locked so.

use std::time::Duration;

use lockfs::lock::Mode::{Exclusive, Shared};
use lockfs::lock::{LockOwner, Mode, Range, Ttl};
use lockfs::table::{Caller, Refusal};

use super::*;
use crate::house::{GRANTED, Tenant, WAITS, bytes, fcntl, flock, waiting};
use crate::world::mount_id;

const TAKEN: lockfs::table::Outcome = Err(Refusal::Taken);

/// Two jobs of Alice's on two mounts, and a file that nobody has open.
fn furnished(tree: &dyn Tenant) -> [Caller; 2] {
    tree.attend_all();
    tree.create(&bob(), "f").expect("it is free");
    [alice(), on(1, alice_elsewhere())]
}

pub(crate) fn an_exclusive_lock_excludes_and_shared_ones_do_not(tree: &mut dyn Tenant) {
    let [a, b] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", flock(Shared, 1), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", flock(Shared, 1), None), GRANTED);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 2), None), TAKEN);
    tree.unlock(&a, "f", flock(Shared, 1));
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 2), None), TAKEN);
    tree.unlock(&b, "f", flock(Shared, 1));
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 2), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", flock(Shared, 1), None), TAKEN);
}

pub(crate) fn one_key_on_two_mounts_is_two_owners(tree: &mut dyn Tenant) {
    let [a, b] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), None), TAKEN);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    tree.unlock(&b, "f", flock(Exclusive, 1));
    assert_eq!(tree.grants("f").len(), 1, "another's lock is not to be let go of");
}

pub(crate) fn flock_and_fcntl_do_not_see_each_other(tree: &mut dyn Tenant) {
    let [a, b] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", fcntl(Exclusive, 1, Range::WHOLE), None), GRANTED);
    tree.unlock(&a, "f", fcntl(Exclusive, 1, Range::WHOLE));
    tree.unlock(&b, "f", flock(Exclusive, 1));
    assert_eq!(tree.grants("f").len(), 2);
}

/// `flock_lock_inode` of fs/locks.c.
pub(crate) fn a_flock_that_is_converted_in_vain_is_lost(tree: &mut dyn Tenant) {
    let [a, b] = furnished(tree);
    for who in [&a, &b] {
        assert_eq!(tree.lock(who, "f", flock(Shared, 1), None), GRANTED);
    }
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), TAKEN);
    assert_eq!(tree.grants("f").len(), 1);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.grants("f"), [(Exclusive, 0, Range::END, 1)]);
}

/// `posix_lock_inode` of fs/locks.c.
pub(crate) fn an_fcntl_lock_that_is_converted_in_vain_stays(tree: &mut dyn Tenant) {
    let [a, b] = furnished(tree);
    for who in [&a, &b] {
        assert_eq!(tree.lock(who, "f", fcntl(Shared, 1, bytes(0, 9)), None), GRANTED);
    }
    assert_eq!(tree.lock(&a, "f", fcntl(Exclusive, 1, bytes(0, 9)), None), TAKEN);
    assert_eq!(tree.grants("f").len(), 2);
    tree.unlock(&b, "f", fcntl(Shared, 1, bytes(0, 9)));
    assert_eq!(tree.lock(&a, "f", fcntl(Exclusive, 1, bytes(0, 9)), None), GRANTED);
    assert_eq!(tree.grants("f"), [(Exclusive, 0, 9, 1)]);
}

/// Bug: a mount that lost its only lock so had the file in use for ever.
pub(crate) fn a_flock_that_is_lost_is_no_use_of_the_file(tree: &mut dyn Tenant) {
    let [a, b] = furnished(tree);
    for who in [&a, &b] {
        assert_eq!(tree.lock(who, "f", flock(Shared, 1), None), GRANTED);
    }
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), TAKEN);
    tree.unlock(&b, "f", flock(Shared, 1));
    tree.wait_secs(TTL);
    assert!(tree.is_free("f"));
}

pub(crate) fn what_is_downgraded_is_shared_from_then_on(tree: &mut dyn Tenant) {
    let [a, b] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", fcntl(Exclusive, 1, bytes(0, 9)), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", fcntl(Shared, 1, bytes(3, 5)), waiting(1)), WAITS);
    assert_eq!(tree.lock(&a, "f", fcntl(Shared, 1, bytes(4, 5)), None), GRANTED);
    tree.woken([]);
    assert_eq!(tree.lock(&a, "f", fcntl(Shared, 1, bytes(0, 3)), None), GRANTED);
    tree.woken([(&b, 1)]);
    assert_eq!(tree.lock(&b, "f", fcntl(Shared, 1, bytes(3, 5)), waiting(1)), GRANTED);
}

pub(crate) fn a_lock_splits_where_a_part_of_it_is_let_go(tree: &mut dyn Tenant) {
    let [a, b] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", fcntl(Exclusive, 1, bytes(0, 9)), None), GRANTED);
    tree.unlock(&a, "f", fcntl(Exclusive, 1, bytes(3, 5)));
    assert_eq!(tree.grants("f"), [(Exclusive, 0, 2, 1), (Exclusive, 6, 9, 1)]);
    assert_eq!(tree.lock(&b, "f", fcntl(Exclusive, 1, bytes(3, 6)), None), TAKEN);
    assert_eq!(tree.lock(&b, "f", fcntl(Exclusive, 1, bytes(3, 5)), None), GRANTED);
    assert_eq!(tree.lock(&a, "f", fcntl(Shared, 1, bytes(7, 7)), None), GRANTED);
    let expected =
        [(Exclusive, 0, 2), (Exclusive, 3, 5), (Exclusive, 6, 6), (Shared, 7, 7), (Exclusive, 8, 9)];
    assert_eq!(tree.grants("f"), expected.map(|(mode, first, last)| (mode, first, last, 1)));
}

/// Bug: a lock that was taken byte by byte was as many locks, and F_GETLK told of the first.
pub(crate) fn locks_that_touch_are_one(tree: &mut dyn Tenant) {
    let [a, b] = furnished(tree);
    for (first, last) in [(4, 5), (8, 9), (0, 1), (2, 3), (5, 8)] {
        assert_eq!(tree.lock(&a, "f", fcntl(Shared, 1, bytes(first, last)), None), GRANTED);
    }
    assert_eq!(tree.grants("f"), [(Shared, 0, 9, 1)]);
    assert_eq!(tree.lock(&a, "f", fcntl(Exclusive, 1, bytes(10, 11)), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", fcntl(Shared, 1, bytes(0, 0)), None), GRANTED);
    assert_eq!(tree.lock(&a, "f", fcntl(Shared, 2, bytes(12, 12)), None), GRANTED);
    assert_eq!(tree.grants("f").len(), 4, "neither do modes grow together, nor owners");
    let end = bytes(Range::END, Range::END);
    assert_eq!(tree.lock(&a, "f", fcntl(Shared, 1, end), None), GRANTED, "there is nothing behind the end");
    assert_eq!(tree.grants("f").len(), 5);
}

/// What F_GETLK tells.
pub(crate) fn a_view_tells_who_has_a_file_locked(tree: &mut dyn Tenant) {
    let [_, b] = furnished(tree);
    assert_eq!(tree.lock(&b, "f", fcntl(Exclusive, 3, bytes(2, 5)), None), GRANTED);
    let grants = tree.view("f").grants;
    let grant = grants.first().expect("it is locked");
    assert_eq!((grant.mode, grant.range, grant.pid), (Exclusive, bytes(2, 5), 7));
    assert_eq!(grant.owner, LockOwner { mount: mount_id(1), key: 3 });
    assert_eq!((&grant.session, &grant.origin), (&b.session.id, &b.session.origin));
    assert_eq!(grant.since, tree.store().now().wall);
    assert_eq!(grants.len(), 1);
}

pub(crate) fn only_files_are_locked(tree: &mut dyn Tenant) {
    tree.attend_all();
    tree.mkdir(&alice(), "d").expect("it is free");
    tree.symlink(&alice(), "s").expect("it is free");
    for path in ["/", "d", "s"] {
        assert_eq!(tree.lock(&alice(), path, flock(Shared, 1), None), Err(Refusal::Invalid));
    }
    let nothing = lockfs::lock::Ino::from_u64(999);
    assert_eq!(tree.lock_of(&alice(), nothing, flock(Shared, 1), None), Err(Refusal::Gone));
}

pub(crate) fn nobody_holds_what_was_locked(tree: &mut dyn Tenant) {
    tree.attend_all();
    let ino = tree.create(&alice(), "f").expect("it is free");
    let token = tree.token("f");
    assert_eq!(tree.lock_of(&bob(), ino, flock(Shared, 1), None), GRANTED);
    assert!(tree.record("f").is_advisory());
    assert_eq!((tree.holder("f"), tree.token("f")), (None, token));
    assert_eq!(tree.list_held("dev1-1", "/"), names([]));
    tree.unlock(&bob(), "f", flock(Shared, 1));
    assert_eq!(tree.holder("f"), None, "it stays so");
}

pub(crate) fn anybody_may_change_and_remove_what_was_locked(tree: &mut dyn Tenant) {
    tree.attend_all();
    tree.create(&alice(), "f").expect("it is free");
    tree.create(&bob(), "h").expect("it is free");
    assert_eq!(tree.write(&bob(), "f", "x"), busy("dev1-1"));
    assert_eq!(tree.lock(&alice(), "f", flock(Exclusive, 1), None), GRANTED);
    tree.write(&bob(), "f", "x").expect("the kernel has judged by the modes");
    tree.chmod(&bob(), "f", 0o600).expect("the kernel has judged by the modes");
    tree.link(&bob(), "f", "g").expect("the kernel has judged by the modes");
    tree.rename(&bob(), "f", "i").expect("the kernel has judged by the modes");
    assert!(tree.record("i").is_advisory(), "a new name makes nobody its holder");
    assert_eq!(tree.grants("i").len(), 1, "a lock follows the inode");
    tree.rename(&bob(), "h", "i").expect("and so may be replaced");
    tree.unlink(&bob(), "g").expect("and removed");
}

pub(crate) fn what_was_locked_is_handed_to_nobody(tree: &mut dyn Tenant) {
    tree.attend_all();
    tree.create(&agent(), "f").expect("it is free");
    tree.begin(&other_agent()).expect("it is new");
    assert_eq!(tree.lock(&agent(), "f", flock(Shared, 1), None), GRANTED);
    assert_eq!(tree.transfer(&agent(), "f", "other"), Err(Refusal::Invalid));
    assert_eq!(tree.rename_to(&agent(), "f", "g", "other"), Err(Refusal::Invalid));
    assert_eq!(tree.rename_to(&agent(), "f", "f", "other"), Err(Refusal::Invalid));
    tree.merge(&agent(), "agent", "other").expect("both are hers");
    tree.end(&other_agent(), "other").expect("it is hers");
    assert_eq!((tree.holder("f"), tree.find("g")), (None, None));
}

pub(crate) fn what_was_locked_expires_after_its_last_user(tree: &mut dyn Tenant) {
    let [a, b] = furnished(tree);
    let ino = tree.open(&a, "f").expect("it is there");
    assert_eq!(tree.lock(&b, "f", flock(Shared, 1), None), GRANTED);
    tree.wait_secs(2 * TTL);
    tree.sweep(100);
    assert_eq!(tree.view("f").deadline, None);
    tree.close_on(0, ino);
    tree.wait_secs(2 * TTL);
    tree.sweep(100);
    assert!(!tree.is_free("f"), "it is locked");
    let end = tree.store().now();
    tree.unlock(&b, "f", flock(Shared, 1));
    assert_eq!(tree.view("f").deadline, Some(end.boot + Duration::from_secs(TTL)));
    tree.wait_secs(TTL - 1);
    assert_eq!(tree.sweep(100), 0);
    tree.wait_secs(1);
    assert!(tree.is_free("f"));
    assert_eq!(tree.sweep(100), 1);
}

pub(crate) fn what_is_waited_for_does_not_expire(tree: &mut dyn Tenant) {
    let [a, b] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), waiting(1)), WAITS);
    tree.unlock(&a, "f", flock(Exclusive, 1));
    tree.wait_secs(2 * TTL);
    tree.sweep(100);
    assert!(!tree.is_free("f"));
    tree.withdraw(&b, 1);
    tree.wait_secs(TTL);
    assert!(tree.is_free("f"));
}

pub(crate) fn what_was_locked_is_broken_like_a_lock(tree: &mut dyn Tenant) {
    let [a, b] = furnished(tree);
    let ino = tree.ino("f");
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), waiting(1)), WAITS);
    assert_eq!(tree.break_lock(&a, "f", tree.token("f")), Err(Refusal::NotPermitted));
    tree.break_lock(&bob(), "f", tree.token("f")).expect("it is his");
    assert!(tree.is_free("f"));
    tree.woken([(&b, 1)]);
    assert_eq!(tree.lock_of(&b, ino, flock(Exclusive, 1), waiting(1)), Err(Refusal::Gone));
    assert_eq!(tree.store().counts().expect("the store works").waits, 0);
}

pub(crate) fn what_has_no_name_lives_while_it_is_locked_or_waited_for(tree: &mut dyn Tenant) {
    let [a, b] = furnished(tree);
    let ino = tree.open(&a, "f").expect("it is there");
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), waiting(1)), WAITS);
    tree.unlink(&bob(), "f").expect("it is nobody's");
    tree.close_on(0, ino);
    assert_eq!(tree.view_of(ino).map(|view| (view.grants.len(), view.waiting)), Some((1, 1)));
    tree.unlock_of(&a, ino, flock(Exclusive, 1));
    tree.woken([(&b, 1)]);
    assert_eq!(tree.lock_of(&b, ino, flock(Exclusive, 1), waiting(1)), GRANTED);
    tree.unlock_of(&b, ino, flock(Exclusive, 1));
    assert_eq!(tree.view_of(ino), None);
}

pub(crate) fn each_mount_closes_what_it_opened(tree: &mut dyn Tenant) {
    let [a, b] = furnished(tree);
    let ino = tree.open(&a, "f").expect("it is there");
    tree.open(&b, "f").expect("it is there");
    tree.open(&b, "f").expect("it is there");
    tree.unlink(&bob(), "f").expect("it is his");
    tree.close_on(0, ino);
    tree.close_on(0, ino);
    tree.close_on(1, ino);
    assert!(tree.view_of(ino).is_some());
    tree.close_on(1, ino);
    assert_eq!(tree.view_of(ino), None);
}

pub(crate) fn a_mount_locks_nothing_unattended(tree: &mut dyn Tenant) {
    tree.create(&bob(), "f").expect("it is free");
    let unattended = Err(Refusal::Unattended);
    assert_eq!(tree.lock(&alice(), "f", flock(Shared, 1), None), unattended);
    assert_eq!(tree.await_name(&alice(), "g", waiting(1)), Err(Refusal::Unattended));
    assert_eq!(tree.holder("f").as_deref(), Some("dev1-4"), "a refused lock changes nothing");
    assert!(!tree.attend(0, secs(6)));
    assert_eq!(tree.lock(&alice(), "f", flock(Shared, 1), None), GRANTED);
    tree.wait_secs(5);
    assert!(tree.attend(0, secs(6)));
    tree.wait_secs(6);
    assert_eq!(tree.lock(&alice(), "f", flock(Shared, 2), None), unattended);
    assert!(!tree.attend(0, secs(6)));
    assert_eq!(tree.grants("f"), []);
    assert_eq!(tree.mounts().iter().map(|mount| mount.id).collect::<Vec<_>>(), [mount_id(0)]);
}

pub(crate) fn all_that_a_lapsed_mount_had_is_gone(tree: &mut dyn Tenant) {
    let [a, b] = furnished(tree);
    tree.leave(1);
    assert!(!tree.attend(1, secs(6)));
    tree.create(&alice(), "g").expect("it is free");
    let ino = tree.open(&b, "g").expect("it is there");
    tree.unlink(&alice(), "g").expect("it is hers");
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), waiting(1)), WAITS);
    tree.wait_secs(5);
    assert!(tree.view_of(ino).is_some());
    assert_eq!(tree.lock(&on(2, root()), "f", flock(Exclusive, 1), None), TAKEN);
    tree.wait_secs(1);
    assert_eq!((tree.grants("f"), tree.view_of(ino)), (vec![], None));
    tree.woken([]);
    tree.sweep(100);
    tree.woken([(&a, 1)]);
    assert_eq!(tree.mounts().len(), 2);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), waiting(1)), GRANTED);
}

pub(crate) fn all_that_a_mount_had_is_gone_when_it_leaves(tree: &mut dyn Tenant) {
    let [a, b] = furnished(tree);
    tree.create(&alice(), "g").expect("it is free");
    let ino = tree.open(&b, "g").expect("it is there");
    tree.unlink(&alice(), "g").expect("it is hers");
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.lock(&on(2, root()), "f", flock(Exclusive, 1), waiting(1)), WAITS);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), waiting(1)), WAITS);
    tree.leave(2);
    tree.leave(1);
    tree.leave(1);
    tree.woken([(&a, 1)]);
    assert_eq!((tree.grants("f"), tree.view_of(ino)), (vec![], None));
    assert_eq!(tree.mounts().len(), 1);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), None), Err(Refusal::Unattended));
}

/// Bug: what a mount did after its lease had run out, or when its end was noted, put off the end of a file.
pub(crate) fn a_lapsed_mount_used_a_file_until_its_lease_ran_out(tree: &mut dyn Tenant) {
    let [_, b] = furnished(tree);
    tree.leave(1);
    assert!(!tree.attend(1, secs(6)));
    let end = tree.store().now().boot + Duration::from_secs(6);
    let ino = tree.open(&b, "f").expect("it is there");
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), None), GRANTED);
    let deadline = Some(end + Duration::from_secs(TTL));
    assert_eq!(tree.view("f").deadline, deadline);
    tree.wait_secs(20);
    assert_eq!(tree.view("f").deadline, deadline);
    tree.unlock(&b, "f", flock(Exclusive, 1));
    tree.close_on(1, ino);
    assert_eq!(tree.view("f").deadline, deadline);
    tree.sweep(100);
    assert_eq!(tree.view("f").deadline, deadline);
}

/// The end of a lease is known to the nanosecond, however short it was: it is the same before a sweep and after it.
pub(crate) fn the_end_of_a_short_lease_counts(tree: &mut dyn Tenant) {
    let [_, b] = furnished(tree);
    tree.leave(1);
    assert!(!tree.attend(1, Ttl::from_millis(500)));
    let end = tree.store().now().boot + Duration::from_millis(500);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), None), GRANTED);
    tree.wait_secs(1);
    tree.sweep(100);
    assert_eq!(tree.view("f").deadline, Some(end + Duration::from_secs(TTL)));
}

/// Bug: as long as a lapsed mount waited for a file, its end was put off, too.
pub(crate) fn a_lapsed_mount_waited_until_its_lease_ran_out(tree: &mut dyn Tenant) {
    let [a, b] = furnished(tree);
    tree.leave(1);
    assert!(!tree.attend(1, secs(60)));
    let end = tree.store().now().boot + Duration::from_secs(60);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", flock(Exclusive, 1), waiting(1)), WAITS);
    tree.unlock(&a, "f", flock(Exclusive, 1));
    let deadline = Some(end + Duration::from_secs(TTL));
    assert_eq!(tree.view("f").deadline, deadline);
    tree.wait_secs(80);
    tree.sweep(100);
    assert_eq!(tree.view("f").deadline, deadline);
}

/// Bug: it was forgotten that somebody had used a file while what a lapsed mount had there was not swept yet.
pub(crate) fn a_lapsed_mount_hides_no_later_use(tree: &mut dyn Tenant) {
    let [a, b] = furnished(tree);
    tree.leave(1);
    assert!(!tree.attend(1, secs(6)));
    assert_eq!(tree.lock(&a, "f", flock(Shared, 1), None), GRANTED);
    assert_eq!(tree.lock(&b, "f", flock(Shared, 1), None), GRANTED);
    tree.wait_secs(100);
    tree.unlock(&a, "f", flock(Shared, 1));
    let deadline = Some(tree.store().now().boot + Duration::from_secs(TTL));
    assert_eq!(tree.view("f").deadline, deadline);
    tree.sweep(100);
    assert_eq!(tree.view("f").deadline, deadline);
}

/// Who has released a file, and has it open still, keeps others from touching it: until somebody locks it.
pub(crate) fn what_has_no_name_is_nobodys_once_it_was_locked(tree: &mut dyn Tenant) {
    tree.attend_all();
    let ino = tree.create_open(&alice(), "f").expect("it is free");
    tree.open(&bob(), "f").expect("it is there");
    tree.unlink(&alice(), "f").expect("it is hers");
    assert_eq!(tree.write_to(&bob(), ino, None, b"x"), busy("dev1-1"));
    assert_eq!(tree.lock_of(&bob(), ino, flock(Exclusive, 1), None), GRANTED);
    tree.write_to(&bob(), ino, None, b"x").expect("the kernel has judged by the modes");
}

pub(crate) fn a_ttl_of_never_is_for_locked_files_too(tree: &mut dyn Tenant) {
    let [a, _] = furnished(tree);
    assert_eq!(tree.lock(&a, "f", flock(Exclusive, 1), None), GRANTED);
    tree.set_ttl(&a, "f", Ttl::Never).expect("the kernel has judged by the modes");
    tree.unlock(&a, "f", flock(Exclusive, 1));
    tree.wait_secs(100 * TTL);
    tree.sweep(100);
    assert_eq!(tree.view("f").deadline, None);
}

/// What is known of modes, in all pairs.
pub(crate) fn two_locks_exclude_each_other_if_either_is_exclusive(tree: &mut dyn Tenant) {
    let [a, b] = furnished(tree);
    let pairs: [(Mode, Mode); 4] =
        [(Shared, Shared), (Shared, Exclusive), (Exclusive, Shared), (Exclusive, Exclusive)];
    for (first, second) in pairs {
        for claim in [|mode| flock(mode, 1), |mode| fcntl(mode, 1, bytes(2, 4))] {
            assert_eq!(tree.lock(&a, "f", claim(first), None), GRANTED);
            let expected = if (first, second) == (Shared, Shared) { GRANTED } else { TAKEN };
            assert_eq!(tree.lock(&b, "f", claim(second), None), expected);
            tree.unlock(&a, "f", claim(first));
            tree.unlock(&b, "f", claim(second));
        }
    }
}
