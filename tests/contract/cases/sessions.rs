//! Sessions: begin, end in one step, hand over.

use lockfs::clock::WallTime;
use lockfs::lock::{Ino, Ttl};
use lockfs::table::Refusal;

use super::*;

pub(crate) fn a_session_begins_once(tree: &mut dyn Tenant) {
    let session = tree.begin(&agent()).expect("it is new");
    assert_eq!((session.uid, session.ended, session.ttl), (ALICE, false, secs(TTL)));
    assert_eq!(tree.begin(&agent()), Err(Refusal::Exists));
    assert_eq!(tree.store().session_by_number(session.ino), Ok(Some(session)));
    assert_eq!(tree.events(), ["begin / agent"]);
}

pub(crate) fn a_session_begins_with_its_first_lock(tree: &mut dyn Tenant) {
    tree.create(&alice(), "a").expect("it is free");
    tree.create(&agent(), "b").expect("it is free");
    assert_eq!(tree.sessions(), ["dev1-1", "agent"]);
    assert_eq!(
        tree.events(),
        ["acquire a dev1-1", "begin / agent", "acquire b agent"],
        "jobs begin silently"
    );
}

pub(crate) fn a_session_named_by_a_path_must_exist(tree: &mut dyn Tenant) {
    let by_path = world::by_path(agent());
    assert_eq!(tree.create(&by_path, "a"), Err(Refusal::NoSession));
    tree.begin(&agent()).expect("it is new");
    tree.create(&by_path, "a").expect("it is free");
    assert_eq!(tree.holder("a").as_deref(), Some("agent"));
}

pub(crate) fn the_end_of_a_session_releases_all_in_one_step(tree: &mut dyn Tenant) {
    agent_holds(tree);
    tree.create(&bob(), "bobs").expect("it is free");
    assert_eq!(tree.end(&agent(), "agent"), Ok(()));
    assert_eq!((tree.list("/"), tree.sessions()), (names(["bobs"]), vec!["dev1-4".to_owned()]));
    assert_eq!(tree.events().last().map(String::as_str), Some("end / agent"));
    assert_eq!(tree.end(&agent(), "agent"), Err(Refusal::NoSession));
}

pub(crate) fn the_end_of_a_session_leaves_directories_with_others_locks(tree: &mut dyn Tenant) {
    agent_holds(tree);
    tree.create(&bob(), "d/bobs").expect("it is free");
    tree.end(&agent(), "agent").expect("it is hers");
    assert_eq!((tree.list("/"), tree.list("d"), tree.holder("d")), (names(["d"]), names(["bobs"]), None));
    tree.wait_secs(1_000_000);
    tree.sweep(100);
    assert_eq!(tree.list("/"), names(["d"]), "it belongs to no session");
}

pub(crate) fn a_session_is_ended_by_its_owner_root_or_the_daemon(tree: &mut dyn Tenant) {
    for (who, answer) in [(bob(), Err(Refusal::NotPermitted)), (alice(), Ok(())), (root(), Ok(()))] {
        tree.begin(&agent()).expect("it is new");
        assert_eq!(tree.end(&who, "agent"), answer);
        tree.end_by_daemon("agent").ok();
    }
    assert_eq!(tree.session("agent"), None);
}

pub(crate) fn a_touch_of_a_session_is_for_its_owner(tree: &mut dyn Tenant) {
    tree.begin(&agent()).expect("it is new");
    let mtime = WallTime::new(7, 8);
    assert_eq!(tree.touch_session(&agent(), "agent", Some(mtime)).map(|session| session.mtime), Ok(mtime));
    assert_eq!(tree.touch_session(&agent(), "agent", None).map(|session| session.mtime), Ok(mtime));
    assert_eq!(tree.touch_session(&bob(), "agent", None), Err(Refusal::NotPermitted));
    assert_eq!(tree.set_session_ttl(&bob(), "agent", Ttl::Never), Err(Refusal::NotPermitted));
    assert_eq!(tree.touch_session(&agent(), "other", None), Err(Refusal::NoSession));
}

pub(crate) fn a_merge_hands_over_all_with_new_tokens(tree: &mut dyn Tenant) {
    agent_holds(tree);
    tree.begin(&other_agent()).expect("it is new");
    let paths = ["a", "d", "d/e", "d/e/s"];
    let (inodes, before) = (paths.map(|path| tree.ino(path)), paths.map(|path| tree.token(path)));
    let last = before.into_iter().max().expect("some");
    let heir = tree.merge(&agent(), "agent", "other").expect("both are hers");
    assert_eq!((heir.id, tree.session("agent")), (session_id("other"), None));
    assert_eq!(paths.map(|path| tree.ino(path)), inodes);
    assert_eq!(tree.ino("b"), tree.ino("a"));
    for path in paths {
        assert_eq!(tree.holder(path).as_deref(), Some("other"), "{path}");
        assert!(tree.token(path) > last, "{path}");
    }
}

/// Bug: the new session had the caller's name, not the one asked for.
pub(crate) fn a_session_that_moves_to_a_new_name_keeps_its_number_and_its_owner(tree: &mut dyn Tenant) {
    agent_holds(tree);
    let before = tree.session("agent").expect("it is there");
    let after = tree.merge(&root(), "agent", "other").expect("root may");
    assert_eq!((after.ino, after.uid, after.since), (before.ino, ALICE, before.since));
    assert_eq!(tree.store().session_by_number(before.ino), Ok(Some(after)));
    assert_eq!((tree.holder("d/e/s").as_deref(), tree.session("agent")), (Some("other"), None));
    assert_eq!(tree.sessions(), ["other"]);
}

pub(crate) fn a_merge_is_for_the_owner_of_both(tree: &mut dyn Tenant) {
    agent_holds(tree);
    tree.create(&bob(), "bobs").expect("it is free");
    assert_eq!(tree.merge(&bob(), "agent", "dev1-4"), Err(Refusal::NotPermitted));
    assert_eq!(tree.merge(&agent(), "agent", "dev1-4"), Err(Refusal::NotPermitted));
    assert_eq!(tree.merge(&agent(), "other", "agent"), Err(Refusal::NoSession));
    let same = tree.merge(&agent(), "agent", "agent").expect("it is nothing");
    assert_eq!((same.id, tree.holder("a").as_deref()), (session_id("agent"), Some("agent")));
}

pub(crate) fn a_job_that_ended_gives_its_locks_to_a_living_session(tree: &mut dyn Tenant) {
    tree.create(&alice(), "a").expect("it is free");
    tree.mark_ended("dev1-1");
    let heir = tree.merge(&alice_elsewhere(), "dev1-1", "agent").expect("both are hers");
    assert!(!heir.ended);
    assert_eq!(tree.unlink(&alice_elsewhere(), "a"), held("agent"));
}

pub(crate) fn a_transfer_hands_over_one_with_a_new_token(tree: &mut dyn Tenant) {
    agent_holds(tree);
    tree.begin(&other_agent()).expect("it is new");
    let (ino, token) = (tree.ino("a"), tree.token("a"));
    assert_eq!(tree.transfer(&agent(), "a", "other"), Ok(ino));
    assert_eq!((tree.holder("a").as_deref(), tree.holder("d").as_deref()), (Some("other"), Some("agent")));
    assert!(tree.token("a") > token);
    assert_eq!(tree.unlink(&agent(), "a"), held("other"));
    assert_eq!(tree.unlink(&other_agent(), "a"), Ok(()));
}

pub(crate) fn a_transfer_is_for_the_holder_to_a_session_of_its_own(tree: &mut dyn Tenant) {
    agent_holds(tree);
    tree.create(&bob(), "bobs").expect("it is free");
    assert_eq!(tree.transfer(&agent(), "a", "dev1-4"), Err(Refusal::NotPermitted));
    assert_eq!(tree.transfer(&agent(), "a", "other"), Err(Refusal::NoSession));
    assert_eq!(tree.transfer(&bob(), "a", "dev1-4"), busy("agent"));
    assert_eq!(tree.transfer(&agent(), "/", "agent"), Err(Refusal::Invalid));
}

/// Bug: a job that ended let its last lock go to itself, and the daemon with it.
pub(crate) fn a_transfer_to_the_holder_changes_nothing(tree: &mut dyn Tenant) {
    tree.create(&alice(), "a").expect("it is free");
    tree.mark_ended("dev1-1");
    let before = tree.record("a");
    assert_eq!(tree.transfer(&alice(), "a", "dev1-1"), Ok(before.ino));
    assert_eq!(tree.record("a"), before);
}

pub(crate) fn a_rename_from_one_session_to_another_hands_over(tree: &mut dyn Tenant) {
    agent_holds(tree);
    tree.begin(&other_agent()).expect("it is new");
    tree.rename_to(&agent(), "a", "x", "other").expect("it is hers");
    assert_eq!((tree.holder("x").as_deref(), tree.ino("b")), (Some("other"), tree.ino("x")));
    tree.rename_to(&agent(), "d/e/s", "d/e/s", "other").expect("it is hers");
    assert_eq!(tree.holder("d/e/s").as_deref(), Some("other"));
    assert_eq!(tree.rename_to(&agent(), "d/e", "y", "nobody"), Err(Refusal::NoSession));
}

/// Bug: the heir was forgotten when the rename released what it held last.
pub(crate) fn an_heir_may_hold_the_name_that_is_replaced(tree: &mut dyn Tenant) {
    tree.create(&alice(), "a").expect("it is free");
    tree.create(&agent(), "b").expect("it is free");
    tree.mark_ended("dev1-1");
    tree.rename_to(&agent(), "b", "a", "dev1-1").expect("the job has ended");
    assert_eq!((tree.holder("a").as_deref(), tree.is_free("b")), (Some("dev1-1"), true));
}

pub(crate) fn a_job_that_has_ended_goes_with_its_last_lock(tree: &mut dyn Tenant) {
    tree.create(&alice(), "a").expect("it is free");
    tree.create(&alice(), "b").expect("it is free");
    assert_eq!((tree.mark_ended("dev1-1"), tree.mark_ended("dev1-1")), (1, 0));
    tree.unlink(&alice(), "a").expect("it is hers");
    assert_eq!(tree.session("dev1-1").map(|session| session.ended), Some(true));
    tree.unlink(&alice(), "b").expect("it is hers");
    assert_eq!((tree.session("dev1-1"), tree.sessions()), (None, vec![]));
}

pub(crate) fn a_job_that_holds_nothing_goes_when_it_ends(tree: &mut dyn Tenant) {
    tree.create(&alice(), "a").expect("it is free");
    tree.unlink(&alice(), "a").expect("it is hers");
    assert_eq!(tree.sessions(), ["dev1-1"]);
    assert_eq!(tree.mark_ended("dev1-1"), 1);
    assert_eq!(tree.sessions(), Vec::<String>::new());
}

pub(crate) fn a_job_that_acquires_has_not_ended(tree: &mut dyn Tenant) {
    tree.create(&alice(), "a").expect("it is free");
    tree.mark_ended("dev1-1");
    tree.create(&alice(), "b").expect("it is free");
    assert_eq!(tree.unlink(&alice_elsewhere(), "b"), held("dev1-1"));
}

pub(crate) fn a_session_that_only_remembers_its_losses_can_begin_anew(tree: &mut dyn Tenant) {
    let first = {
        tree.create(&agent(), "a").expect("it is free");
        tree.session("agent").expect("it is there").ino
    };
    tree.wait_secs(TTL);
    tree.sweep(100);
    let thief = caller(BOB, "agent", SessionKind::Named, Some("tty3"), secs(TTL));
    assert_eq!(tree.begin(&thief), Err(Refusal::Exists), "it is another's");
    let second = tree.begin(&agent()).expect("its time has passed");
    assert!(second.ino > first && second.lost.is_empty());
    assert_eq!(tree.begin(&agent()), Err(Refusal::Exists));
}

pub(crate) fn a_session_shows_what_it_holds_and_the_way_there(tree: &mut dyn Tenant) {
    tree.mkdir(&alice(), "d").expect("it is free");
    tree.mkdir(&alice(), "d/e").expect("it is free");
    tree.create(&alice(), "d/e/f").expect("it is free");
    tree.create(&alice(), "f").expect("it is free");
    tree.create(&agent(), "d/e/g").expect("it is free");
    tree.link(&agent(), "d/e/g", "g").expect("it is free");
    assert_eq!(tree.list_held("agent", "/"), names(["d", "g"]));
    assert_eq!(tree.list_held("agent", "d"), names(["e"]));
    assert_eq!(tree.list_held("agent", "d/e"), names(["g"]));
    assert_eq!(tree.list_held("nobody", "/"), names([]));
    tree.unlink(&agent(), "d/e/g").expect("it is hers");
    assert_eq!(tree.list_held("agent", "/"), names(["g"]));
}

pub(crate) fn sessions_are_listed_in_the_order_in_which_they_began(tree: &mut dyn Tenant) {
    for who in [bob(), agent(), alice(), root()] {
        tree.create(&who, &who.session.id.to_string()).expect("it is free");
    }
    assert_eq!(tree.sessions(), ["dev1-4", "agent", "dev1-1", "dev1-5"]);
    let page = |after: Option<Ino>| tree.store().list_sessions(after, 2).expect("the store works");
    let (first, rest) = (page(None), page(page(None).last().map(|session| session.ino)));
    assert_eq!((first.len(), rest[0].id.as_str(), rest[1].id.as_str()), (2, "dev1-1", "dev1-5"));
}

pub(crate) fn it_is_counted_what_is_there_and_what_happened(tree: &mut dyn Tenant) {
    use lockfs::lock::EventKind::{Acquire, Expire, Release};
    tree.create(&alice(), "a").expect("it is free");
    tree.create(&bob(), "b").expect("it is free");
    tree.unlink(&alice(), "a").expect("it is hers");
    tree.wait_secs(TTL);
    assert_eq!(tree.sweep(1), 1);
    let counts = tree.store().counts().expect("the store works");
    assert_eq!((counts.of(Acquire), counts.of(Release), counts.of(Expire)), (2, 1, 1));
    assert_eq!((counts.locks, counts.sessions), (0, 2));
}

pub(crate) fn events_are_numbered_from_one(tree: &mut dyn Tenant) {
    for path in ["a", "b", "c"] {
        tree.create(&alice(), path).expect("it is free");
    }
    let page = |after, limit| tree.store().events(after, limit).expect("the store works");
    assert_eq!((page(0, 9).first, page(0, 9).events.len(), page(0, 2).events.len()), (1, 3, 2));
    let rest = page(2, 9);
    assert_eq!((rest.first, rest.events.len(), rest.events[0].path.to_string()), (3, 1, "c".to_owned()));
    assert_eq!(page(3, 9).events, []);
}
