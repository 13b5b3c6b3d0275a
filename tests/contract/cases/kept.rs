//! What a store that keeps things has when it is opened again.

use std::time::Duration;

use lockfs::clock::WallTime;
use lockfs::lock::Ttl;
use lockfs::table::Refusal;

use super::*;

pub(crate) fn everything_is_there_when_it_is_opened_again(tree: &mut dyn Tenant) {
    agent_holds(tree);
    tree.write(&agent(), "a", "a note\0\n").expect("it is hers");
    tree.utimes(&agent(), "a", WallTime::new(-5, 6)).expect("it is hers");
    tree.chmod(&agent(), "a", 0o4711).expect("it is hers");
    tree.set_ttl(&agent(), "a", Ttl::from_millis(1_234_567)).expect("it is hers");
    tree.set_default_ttl(&agent(), "d", Some(secs(9))).expect("it is hers");
    tree.create(&alice(), "j").expect("it is free");
    tree.mark_ended("dev1-1");
    tree.create(&bob(), "d/bobs").expect("it is free");
    let look = |tree: &dyn Tenant| {
        let paths = ["/", "a", "b", "d", "d/e", "d/e/s", "d/bobs", "j"];
        let views = paths.map(|path| {
            let view = tree.view(path);
            (view.record, view.path, view.session, view.deadline)
        });
        (views, tree.list("/"), tree.list("d"), tree.sessions(), tree.list_held("agent", "/"))
    };
    let before = look(tree);
    for _ in 0..3 {
        tree.reopen(Duration::ZERO);
        assert_eq!(look(tree), before);
    }
}

pub(crate) fn tokens_rise_over_an_opening(tree: &mut dyn Tenant) {
    tree.create(&alice(), "a").expect("it is free");
    let last = tree.token("a");
    tree.unlink(&alice(), "a").expect("it is hers");
    tree.end_by_daemon("dev1-1").expect("it is there");
    tree.reopen(Duration::ZERO);
    tree.reopen(Duration::ZERO);
    tree.create(&alice(), "a").expect("it is free");
    assert!(tree.token("a") > last && tree.token("a").epoch() > last.epoch());
}

pub(crate) fn the_time_in_which_it_is_closed_does_not_count(tree: &mut dyn Tenant) {
    tree.create(&alice(), "a").expect("it is free");
    tree.wait_secs(TTL - 1);
    tree.reopen(Duration::from_secs(100 * TTL));
    tree.wait_secs(TTL - 1);
    assert_eq!(tree.holder("a").as_deref(), Some("dev1-1"));
    tree.wait_secs(1);
    assert!(tree.is_free("a"));
}

pub(crate) fn losses_are_remembered_over_an_opening(tree: &mut dyn Tenant) {
    tree.create(&alice(), "a").expect("it is free");
    tree.wait_secs(TTL);
    tree.sweep(100);
    tree.reopen(Duration::ZERO);
    tree.create(&bob(), "a").expect("it has expired");
    tree.reopen(Duration::ZERO);
    assert_eq!(tree.unlink(&alice(), "a"), Err(Refusal::Lost));
}

pub(crate) fn a_file_without_names_lives_on_while_its_mount_does(tree: &mut dyn Tenant) {
    let ino = tree.create_open(&alice(), "a").expect("it is free");
    tree.unlink(&alice(), "a").expect("it is hers");
    tree.reopen(Duration::ZERO);
    assert!(tree.view_of(ino).is_some_and(|view| view.attributes.nlink == 0));
    tree.reopen(Duration::ZERO);
    tree.close(ino);
    assert_eq!((tree.view_of(ino), tree.list("/")), (None, names([])));
    tree.reopen(Duration::ZERO);
    assert_eq!((tree.view_of(ino), tree.list("/")), (None, names([])));
}
