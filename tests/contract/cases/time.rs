//! Time passing: ttls, deadlines, what renews, what was lost.

use std::time::Duration;

use lockfs::lock::{Ino, Ttl};
use lockfs::table::Refusal;

use super::*;

/// How long a loss is remembered: a day after the ttl.
const DAY: u64 = 86_400;

/// One of the things that a session may do.
type Act = fn(&dyn Tenant);

/// One of the ways to hold a name again.
type Regain = fn(&dyn Tenant) -> Answer<Ino>;

pub(crate) fn an_expired_lock_is_free_for_the_next(tree: &mut dyn Tenant) {
    let lost = tree.create(&alice(), "f").expect("it is free");
    tree.wait(Duration::from_secs(TTL) - Duration::from_nanos(1));
    assert_eq!(tree.create(&bob(), "f"), Err(Refusal::Exists));
    tree.wait(Duration::from_nanos(1));
    assert!(tree.is_free("f"));
    assert_eq!(tree.view_of(lost), None);
    tree.create(&bob(), "f").expect("its deadline has passed");
    assert_eq!(tree.events(), ["acquire f dev1-1", "expire f dev1-1", "acquire f dev1-4"]);
}

pub(crate) fn an_expired_lock_is_dead_for_every_call(tree: &mut dyn Tenant) {
    let lost = tree.create(&alice(), "f").expect("it is free");
    tree.create(&bob(), "b").expect("it is free");
    tree.wait_secs(TTL - 1);
    tree.write(&bob(), "b", "alive").expect("it is his");
    tree.wait_secs(1);
    assert_eq!(tree.open_of(&alice(), lost), Err(Refusal::Gone));
    assert_eq!(tree.write_to(&alice(), lost, None, b"x"), Err(Refusal::Gone));
    assert_eq!(tree.link_of(&alice(), lost, "x"), Err(Refusal::Gone));
    assert_eq!(tree.unlink(&alice(), "f"), Err(Refusal::NoEntry));
    assert_eq!(tree.rename(&alice(), "f", "x"), Err(Refusal::NoEntry));
    assert_eq!(tree.rename_no_replace(&bob(), "b", "f"), Ok(tree.ino("f")));
    assert_eq!(tree.list("/"), names(["f"]));
}

pub(crate) fn what_the_holder_does_renews_all_it_holds(tree: &mut dyn Tenant) {
    let acts: [(&str, Act); 8] = [
        ("write", |tree| drop(tree.write(&agent(), "f", "x"))),
        ("chmod", |tree| drop(tree.chmod(&agent(), "f", 0o600))),
        ("create", |tree| drop(tree.create(&agent(), "g"))),
        ("link", |tree| drop(tree.link(&agent(), "f", "g"))),
        ("rename", |tree| drop(tree.rename(&agent(), "f", "g"))),
        ("touch", |tree| drop(tree.touch_session(&agent(), "agent", None))),
        ("renew", |tree| assert_eq!(tree.renew("agent"), 1)),
        ("set the session's ttl", |tree| drop(tree.set_session_ttl(&agent(), "agent", secs(TTL)))),
    ];
    for (what, act) in acts {
        tree.create(&agent(), "f").expect("it is free");
        tree.symlink(&agent(), "s").expect("it is free");
        tree.wait_secs(TTL - 1);
        act(tree);
        tree.wait_secs(TTL - 1);
        assert!(!tree.is_free("s"), "{what}");
        tree.wait_secs(1);
        assert!(tree.is_free("s"), "{what}");
        tree.sweep(100);
        assert_eq!(tree.list("/"), names([]));
    }
}

pub(crate) fn what_others_do_renews_nothing(tree: &mut dyn Tenant) {
    tree.create(&agent(), "f").expect("it is free");
    tree.wait_secs(TTL - 1);
    tree.open(&alice(), "f").expect("it is there");
    assert_eq!(tree.write(&alice(), "f", "x"), busy("agent"));
    tree.renew("dev1-1");
    tree.wait_secs(1);
    assert!(tree.is_free("f"));
}

/// Bug: a session was seen to the second, so locks of less than that could not be renewed by use.
pub(crate) fn a_short_lock_is_renewed_by_use(tree: &mut dyn Tenant) {
    tree.create(&alice(), "f").expect("it is free");
    tree.set_ttl(&alice(), "f", Ttl::from_millis(400)).expect("it is hers");
    for _ in 0..5 {
        tree.wait(Duration::from_millis(300));
        tree.write(&alice(), "f", "alive").expect("it is renewed");
    }
}

/// Bug: to see a session brought back what it held, where no sweep had come by.
pub(crate) fn what_is_dead_stays_dead(tree: &mut dyn Tenant) {
    let acts: [(&str, Act); 6] = [
        ("renew", |tree| assert_eq!(tree.renew("agent"), 1)),
        ("touch", |tree| drop(tree.touch_session(&agent(), "agent", None))),
        ("create", |tree| drop(tree.create(&agent(), "new"))),
        ("write", |tree| drop(tree.write(&agent(), "kept", "x"))),
        ("begin", |tree| drop(tree.begin(&agent()))),
        ("merge", |tree| drop(tree.merge(&agent(), "agent", "other"))),
    ];
    for (what, act) in acts {
        tree.create(&agent(), "f").expect("it is free");
        tree.create(&agent(), "kept").expect("it is free");
        tree.set_ttl(&agent(), "kept", Ttl::Never).expect("it is hers");
        tree.wait_secs(TTL);
        assert!(tree.is_free("f"));
        act(tree);
        assert!(tree.is_free("f"), "{what}");
        assert_eq!(tree.create(&bob(), "f").map(drop), Ok(()), "{what}");
        for session in tree.sessions() {
            tree.end_by_daemon(&session).expect("it is there");
        }
    }
}

pub(crate) fn a_ttl_counts_from_when_it_is_set(tree: &mut dyn Tenant) {
    tree.create(&alice(), "f").expect("it is free");
    tree.wait_secs(100);
    tree.set_ttl(&alice(), "f", secs(10)).expect("it is hers");
    tree.wait_secs(9);
    assert!(!tree.is_free("f"));
    tree.wait_secs(1);
    assert!(tree.is_free("f"));
}

pub(crate) fn a_lock_without_ttl_never_expires(tree: &mut dyn Tenant) {
    tree.create(&alice(), "f").expect("it is free");
    tree.set_ttl(&alice(), "f", Ttl::Never).expect("it is hers");
    tree.wait_secs(100 * 365 * DAY);
    tree.sweep(100);
    assert_eq!(tree.holder("f").as_deref(), Some("dev1-1"));
}

pub(crate) fn a_ttl_is_inherited_from_the_nearest_that_sets_one(tree: &mut dyn Tenant) {
    for path in ["d", "d/e", "d/e/g"] {
        tree.mkdir(&alice(), path).expect("it is free");
    }
    tree.set_default_ttl(&alice(), "d", Some(secs(20))).expect("it is hers");
    tree.set_default_ttl(&alice(), "d/e/g", Some(Ttl::Never)).expect("it is hers");
    for (path, ttl) in [("f", secs(TTL)), ("d/f", secs(20)), ("d/e/f", secs(20)), ("d/e/g/f", Ttl::Never)] {
        tree.create(&bob(), path).expect("it is free");
        assert_eq!(tree.ttl(path), ttl, "{path}");
    }
    tree.set_default_ttl(&alice(), "d", None).expect("it is hers");
    tree.symlink(&bob(), "d/s").expect("it is free");
    assert_eq!((tree.ttl("d/s"), tree.ttl("d/f")), (secs(TTL), secs(20)), "what is there keeps its own");
}

/// Bug: what a session's ttl was set to, its next locks did not get.
pub(crate) fn a_lock_gets_the_ttl_of_its_session(tree: &mut dyn Tenant) {
    tree.begin(&agent()).expect("it is new");
    tree.create(&agent(), "before").expect("it is free");
    tree.set_session_ttl(&agent(), "agent", secs(7)).expect("it is hers");
    tree.create(&agent(), "after").expect("it is free");
    assert_eq!((tree.ttl("before"), tree.ttl("after")), (secs(TTL), secs(7)));
    assert_eq!(tree.store().shortest_ttls(&[session_id("agent")]), Ok(vec![Some(secs(7))]));
}

pub(crate) fn a_directory_never_expires(tree: &mut dyn Tenant) {
    tree.mkdir(&alice(), "d").expect("it is free");
    tree.wait_secs(100 * DAY);
    tree.sweep(100);
    assert_eq!(tree.holder("d").as_deref(), Some("dev1-1"));
}

pub(crate) fn a_directory_that_is_a_lock_by_its_name_expires(tree: &mut dyn Tenant) {
    tree.mkdir(&alice(), "d.lock").expect("it is free");
    assert_eq!(tree.ttl("d.lock"), secs(TTL));
    tree.wait_secs(TTL);
    assert_eq!(tree.mkdir(&bob(), "d.lock").map(drop), Ok(()));
}

pub(crate) fn a_directory_that_was_given_a_ttl_expires(tree: &mut dyn Tenant) {
    tree.mkdir(&alice(), "d").expect("it is free");
    tree.set_ttl(&alice(), "d", secs(10)).expect("it is hers");
    tree.wait_secs(10);
    assert!(tree.is_free("d"));
}

pub(crate) fn a_directory_does_not_expire_while_something_stands_in_it(tree: &mut dyn Tenant) {
    tree.mkdir(&agent(), "d.lock").expect("it is free");
    tree.mkdir(&agent(), "d.lock/e.lock").expect("it is free");
    tree.create(&bob(), "d.lock/e.lock/f").expect("it is free");
    for _ in 0..3 {
        tree.wait_secs(TTL - 1);
        tree.sweep(100);
        assert_eq!(tree.renew("dev1-4"), 1);
    }
    assert_eq!(tree.create(&alice(), "d.lock/g").map(drop), Ok(()));
    tree.unlink(&alice(), "d.lock/g").expect("it is hers");
    tree.unlink(&bob(), "d.lock/e.lock/f").expect("it is his");
    assert!(tree.is_free("d.lock"), "it expires with its last entry");
    assert_eq!(tree.create(&bob(), "d.lock/f"), Err(Refusal::NoEntry));
}

pub(crate) fn a_directory_expires_with_what_has_expired_in_it(tree: &mut dyn Tenant) {
    tree.mkdir(&alice(), "d.lock").expect("it is free");
    tree.create(&bob(), "d.lock/f").expect("it is free");
    tree.wait_secs(TTL);
    assert!(tree.is_free("d.lock"));
    tree.mkdir(&bob(), "d.lock").expect("it is free");
    assert_eq!(tree.list("d.lock"), names([]));
    assert!(tree.events().contains(&"expire d.lock/f dev1-4".to_owned()));
}

pub(crate) fn dead_entries_do_not_count(tree: &mut dyn Tenant) {
    tree.mkdir(&alice(), "d").expect("it is free");
    tree.create(&bob(), "d/f").expect("it is free");
    tree.wait_secs(TTL);
    assert_eq!(tree.list("d"), names([]));
    assert_eq!(tree.rename(&alice(), "d", "e"), Ok(tree.ino("e")));
    assert_eq!(tree.rmdir(&alice(), "e"), Ok(()));
}

pub(crate) fn a_sweep_removes_what_is_dead_and_no_more_than_asked(tree: &mut dyn Tenant) {
    for path in ["a", "b", "c"] {
        tree.create(&alice(), path).expect("it is free");
    }
    tree.create(&bob(), "f").expect("it is free");
    tree.set_ttl(&bob(), "f", Ttl::Never).expect("it is his");
    assert_eq!(tree.sweep(100), 0);
    tree.wait_secs(TTL);
    assert_eq!((tree.sweep(2), tree.sweep(100), tree.sweep(100)), (2, 1, 0));
    assert_eq!(tree.events()[4..], ["expire a dev1-1", "expire b dev1-1", "expire c dev1-1"]);
    assert_eq!(tree.list("/"), names(["f"]));
}

pub(crate) fn a_session_that_holds_nothing_is_over_after_its_ttl(tree: &mut dyn Tenant) {
    tree.begin(&agent()).expect("it is new");
    tree.wait_secs(TTL - 1);
    assert_eq!(tree.begin(&agent()), Err(Refusal::Exists));
    tree.wait_secs(1);
    assert_eq!((tree.session("agent"), tree.sessions()), (None, vec![]));
    assert_eq!(tree.touch_session(&agent(), "agent", None), Err(Refusal::NoSession));
    assert_eq!(tree.sweep(100), 1);
    assert_eq!(tree.events(), ["begin / agent", "end / agent"]);
}

pub(crate) fn a_late_unlink_can_not_release_anothers_lock(tree: &mut dyn Tenant) {
    for next in [bob(), alice_next_door(), root()] {
        tree.create(&alice(), "f").expect("it is free");
        tree.wait_secs(TTL);
        tree.sweep(100);
        tree.create(&next, "f").expect("it has expired");
        let token = tree.token("f");
        tree.wait_secs(60);
        assert_eq!(tree.unlink(&alice(), "f"), Err(Refusal::Lost));
        tree.create(&alice(), "mine").expect("it is free");
        assert_eq!(tree.rename(&alice(), "mine", "f"), Err(Refusal::Lost));
        assert_eq!(tree.rename(&alice(), "f", "x"), Err(Refusal::Lost));
        assert_eq!(tree.token("f"), token);
        tree.unlink(&next, "f").expect("it is the next one's");
        tree.unlink(&alice(), "mine").expect("it is hers");
    }
}

/// Bug: the right to remove what an ended job of the same user left came first.
pub(crate) fn a_late_unlink_can_not_release_what_an_ended_job_holds_by_now(tree: &mut dyn Tenant) {
    for next in [alice_next_door(), alice_elsewhere()] {
        tree.create(&alice(), "f").expect("it is free");
        tree.wait_secs(TTL);
        tree.create(&next, "f").expect("it has expired");
        assert_eq!(tree.mark_ended(next.session.id.as_str()), 1);
        assert_eq!(tree.unlink(&alice(), "f"), Err(Refusal::Lost));
        assert_eq!(tree.unlink(&agent(), "f"), Ok(()), "it is about who lost it");
    }
}

pub(crate) fn a_late_unlink_of_what_is_free_finds_nothing(tree: &mut dyn Tenant) {
    tree.create(&alice(), "f").expect("it is free");
    tree.wait_secs(TTL);
    assert_eq!(tree.unlink(&alice(), "f"), Err(Refusal::NoEntry));
}

/// Bug: a session that held nothing else was forgotten in the sweep that took its lock.
pub(crate) fn a_loss_is_remembered_for_a_day(tree: &mut dyn Tenant) {
    for who in [alice(), agent()] {
        tree.create(&who, "f").expect("it is free");
        tree.wait_secs(TTL);
        tree.sweep(100);
        tree.create(&bob(), "f").expect("it has expired");
        tree.set_ttl(&bob(), "f", Ttl::Never).expect("it is his");
        tree.wait_secs(DAY - 1);
        tree.sweep(100);
        assert_eq!(tree.unlink(&who, "f"), Err(Refusal::Lost));
        tree.wait_secs(1);
        assert_eq!(tree.unlink(&who, "f"), held("dev1-4"));
        tree.sweep(100);
        assert_eq!(tree.sessions(), ["dev1-4"]);
        tree.unlink(&bob(), "f").expect("it is his");
    }
}

pub(crate) fn a_loss_is_forgotten_when_the_name_is_held_again(tree: &mut dyn Tenant) {
    let acts: [(&str, Regain); 4] = [
        ("acquired", |tree| tree.create(&agent(), "f")),
        ("linked", |tree| tree.link(&agent(), "own", "f")),
        ("moved", |tree| tree.rename(&agent(), "own", "f")),
        ("handed over", |tree| {
            tree.create(&alice(), "f").expect("it is free");
            tree.transfer(&alice(), "f", "agent")
        }),
    ];
    for (what, act) in acts {
        tree.create(&agent(), "own").expect("it is free");
        tree.create(&agent(), "f").expect("it is free");
        tree.set_ttl(&agent(), "f", secs(1)).expect("it is hers");
        tree.wait_secs(1);
        act(tree).expect(what);
        tree.unlink(&agent(), "f").expect("it is hers again");
        tree.create(&bob(), "f").expect("it is free");
        assert_eq!(tree.unlink(&agent(), "f"), held("dev1-4"), "{what}");
        for session in tree.sessions() {
            tree.end_by_daemon(&session).expect("it is there");
        }
    }
}

pub(crate) fn who_was_broken_is_told(tree: &mut dyn Tenant) {
    tree.create(&alice(), "f").expect("it is free");
    tree.break_lock(&root(), "f", tree.token("f")).expect("it may");
    assert_eq!(tree.unlink(&alice(), "f"), Err(Refusal::NoEntry));
    tree.create(&bob(), "f").expect("it is free");
    assert_eq!(tree.unlink(&alice(), "f"), Err(Refusal::Lost));
}

pub(crate) fn losses_beyond_a_thousand_push_out_the_oldest(tree: &mut dyn Tenant) {
    for nth in 0..1_001 {
        tree.create(&alice(), &format!("f{nth}")).expect("it is free");
    }
    tree.wait_secs(TTL);
    tree.sweep(10_000);
    for (path, answer) in [("f0", held("dev1-4")), ("f1", Err(Refusal::Lost)), ("f1000", Err(Refusal::Lost))]
    {
        tree.create(&bob(), path).expect("it has expired");
        assert_eq!(tree.unlink(&alice(), path), answer, "{path}");
    }
}
