//! What a caller may do to a lock that exists: the rows of the table of rights.

use lockfs::clock::WallTime;
use lockfs::lock::Ttl;
use lockfs::table::{Caller, Refusal};

use super::*;

/// What changes a lock and leaves its name.
const CHANGES: [&str; 6] = ["write", "append", "truncate", "chmod", "utimes", "set_ttl"];

/// What takes a lock's name away, or gives it one more.
const REMOVALS: [&str; 7] =
    ["unlink", "rmdir", "rename away", "rename over", "exchange", "exchange back", "link"];

/// Alice holds a lock at `a` with a note, and a directory at `d`.
fn alice_holds(tree: &dyn Tenant) {
    tree.create(&alice(), "a").expect("it is free");
    tree.write(&alice(), "a", "note").expect("it is hers");
    tree.mkdir(&alice(), "d").expect("it is free");
}

fn let_go(tree: &dyn Tenant) {
    for session in tree.sessions() {
        tree.end_by_daemon(&session).expect("it is there");
    }
}

fn change(tree: &dyn Tenant, who: &Caller, how: &str) -> Answer<()> {
    let done = match how {
        "write" => tree.write(who, "a", "x"),
        "append" => tree.write_to(who, tree.ino("a"), None, b"x"),
        "truncate" => tree.truncate(who, "a", 0),
        "chmod" => tree.chmod(who, "a", 0o600),
        "utimes" => tree.utimes(who, "a", WallTime::new(7, 7)),
        "set_ttl" => tree.set_ttl(who, "a", Ttl::Never),
        _ => unreachable!("no such change"),
    };
    done.map(drop)
}

fn remove(tree: &dyn Tenant, who: &Caller, how: &str) -> Answer<()> {
    tree.create(who, "mine").expect("it is free");
    let done = match how {
        "unlink" => return tree.unlink(who, "a"),
        "rmdir" => return tree.rmdir(who, "d"),
        "rename away" => tree.rename(who, "a", "b"),
        "rename over" => tree.rename(who, "mine", "a"),
        "exchange" => tree.exchange(who, "mine", "a"),
        "exchange back" => tree.exchange(who, "a", "mine"),
        "link" => tree.link(who, "a", "b"),
        _ => unreachable!("no such removal"),
    };
    done.map(drop)
}

/// What each change answers the caller, each tried on a lock of its own, after `stage` was set.
fn changes(tree: &dyn Tenant, who: &Caller, stage: impl Fn(&dyn Tenant)) -> Vec<Answer<()>> {
    let try_one = |how: &&str| {
        alice_holds(tree);
        stage(tree);
        let before = tree.record("a");
        let answer = change(tree, who, how);
        let after = tree.record("a");
        assert_eq!(
            answer.is_err(),
            before == after,
            "{how} was {answer:?}, and made of {before:?} {after:?}"
        );
        let_go(tree);
        answer
    };
    CHANGES.iter().map(try_one).collect()
}

/// The same for each removal.
fn removals(tree: &dyn Tenant, who: &Caller, stage: impl Fn(&dyn Tenant)) -> Vec<Answer<()>> {
    let try_one = |how: &&str| {
        alice_holds(tree);
        stage(tree);
        let look = || ["a", "b", "d"].map(|path| tree.find(path).map(|ino| tree.view_of(ino)));
        let before = look();
        let answer = remove(tree, who, how);
        assert_eq!(answer.is_err(), before == look(), "{how} was {answer:?}");
        let_go(tree);
        answer
    };
    REMOVALS.iter().map(try_one).collect()
}

fn nothing(_: &dyn Tenant) {}

fn job_ended(tree: &dyn Tenant) {
    assert_eq!(tree.mark_ended("dev1-1"), 1);
}

pub(crate) fn the_holder_may_change_its_lock(tree: &mut dyn Tenant) {
    assert_eq!(changes(tree, &alice(), nothing), vec![Ok(()); CHANGES.len()]);
}

pub(crate) fn the_holder_may_remove_its_lock(tree: &mut dyn Tenant) {
    assert_eq!(removals(tree, &alice(), nothing), vec![Ok(()); REMOVALS.len()]);
}

pub(crate) fn the_holder_keeps_its_rights_when_its_job_was_taken_for_ended(tree: &mut dyn Tenant) {
    assert_eq!(changes(tree, &alice(), job_ended), vec![Ok(()); CHANGES.len()]);
    assert_eq!(removals(tree, &alice(), job_ended), vec![Ok(()); REMOVALS.len()]);
}

pub(crate) fn the_same_login_may_change_when_the_job_has_ended(tree: &mut dyn Tenant) {
    assert_eq!(changes(tree, &alice_next_door(), job_ended), vec![Ok(()); CHANGES.len()]);
}

pub(crate) fn the_same_login_may_remove_when_the_job_has_ended(tree: &mut dyn Tenant) {
    assert_eq!(removals(tree, &alice_next_door(), job_ended), vec![Ok(()); REMOVALS.len()]);
}

pub(crate) fn the_same_login_takes_over_what_it_changes(tree: &mut dyn Tenant) {
    for how in CHANGES {
        alice_holds(tree);
        job_ended(tree);
        let token = tree.token("a");
        change(tree, &alice_next_door(), how).expect("it may");
        assert_eq!(tree.holder("a").as_deref(), Some("dev1-2"), "after {how}");
        assert!(tree.token("a") > token, "after {how}");
        assert_eq!(tree.holder("d").as_deref(), Some("dev1-1"), "{how} is about one lock");
        let_go(tree);
    }
}

pub(crate) fn the_same_login_may_not_while_the_job_lives(tree: &mut dyn Tenant) {
    assert_eq!(changes(tree, &alice_next_door(), nothing), vec![busy("dev1-1"); CHANGES.len()]);
    assert_eq!(removals(tree, &alice_next_door(), nothing), vec![held("dev1-1"); REMOVALS.len()]);
}

pub(crate) fn the_same_user_may_not_change_while_the_holder_lives(tree: &mut dyn Tenant) {
    assert_eq!(changes(tree, &alice_elsewhere(), nothing), vec![busy("dev1-1"); CHANGES.len()]);
}

pub(crate) fn the_same_user_may_not_remove_while_the_holder_lives(tree: &mut dyn Tenant) {
    assert_eq!(removals(tree, &alice_elsewhere(), nothing), vec![held("dev1-1"); REMOVALS.len()]);
}

pub(crate) fn the_same_user_may_not_change_when_the_job_has_ended(tree: &mut dyn Tenant) {
    assert_eq!(changes(tree, &alice_elsewhere(), job_ended), vec![busy("dev1-1"); CHANGES.len()]);
}

pub(crate) fn the_same_user_may_remove_when_the_job_has_ended(tree: &mut dyn Tenant) {
    assert_eq!(removals(tree, &alice_elsewhere(), job_ended), vec![Ok(()); REMOVALS.len()]);
}

pub(crate) fn another_user_may_not_change(tree: &mut dyn Tenant) {
    assert_eq!(changes(tree, &bob(), nothing), vec![busy("dev1-1"); CHANGES.len()]);
    assert_eq!(changes(tree, &bob(), job_ended), vec![busy("dev1-1"); CHANGES.len()]);
}

pub(crate) fn another_user_may_not_remove(tree: &mut dyn Tenant) {
    assert_eq!(removals(tree, &bob(), nothing), vec![held("dev1-1"); REMOVALS.len()]);
    assert_eq!(removals(tree, &bob(), job_ended), vec![held("dev1-1"); REMOVALS.len()]);
}

pub(crate) fn root_removes_another_users_lock_and_changes_it_not(tree: &mut dyn Tenant) {
    assert_eq!(changes(tree, &root(), nothing), vec![busy("dev1-1"); CHANGES.len()]);
    assert_eq!(removals(tree, &root(), nothing), vec![Ok(()); REMOVALS.len()]);
    assert_eq!(changes(tree, &root(), job_ended), vec![busy("dev1-1"); CHANGES.len()]);
    assert_eq!(removals(tree, &root(), job_ended), vec![Ok(()); REMOVALS.len()]);
}

pub(crate) fn a_named_session_never_ends_by_itself(tree: &mut dyn Tenant) {
    tree.create(&agent(), "a").expect("it is free");
    assert_eq!(tree.mark_ended("agent"), 0);
    assert_eq!(tree.unlink(&alice_elsewhere(), "a"), held("agent"));
    assert_eq!(tree.write(&alice_elsewhere(), "a", "x"), busy("agent"));
}

pub(crate) fn a_session_that_nobody_sees_never_ends_by_itself(tree: &mut dyn Tenant) {
    let unseen = caller(ALICE, "1000@dev1", SessionKind::Unseen, None, secs(TTL));
    tree.create(&unseen, "a").expect("it is free");
    assert_eq!(tree.mark_ended("1000@dev1"), 0);
    assert_eq!(tree.unlink(&alice(), "a"), held("1000@dev1"));
}

pub(crate) fn the_name_of_a_session_gives_no_rights_to_another_user(tree: &mut dyn Tenant) {
    tree.create(&agent(), "a").expect("it is free");
    let thief = caller(BOB, "agent", SessionKind::Named, Some("tty3"), secs(TTL));
    assert_eq!(tree.unlink(&thief, "a"), held("agent"));
    assert_eq!(tree.write(&thief, "a", "x"), busy("agent"));
    assert_eq!(tree.create(&thief, "b"), Err(Refusal::NotPermitted));
    let as_root = caller(ROOT, "agent", SessionKind::Named, Some("tty9"), secs(TTL));
    assert_eq!(tree.unlink(&as_root, "a"), Ok(()));
}

pub(crate) fn everybody_may_open_what_is_held(tree: &mut dyn Tenant) {
    alice_holds(tree);
    for who in [alice(), alice_next_door(), alice_elsewhere(), bob(), root()] {
        assert_eq!(tree.open(&who, "a"), Ok(tree.ino("a")));
        assert_eq!(tree.open_or_create(&who, "a"), Ok(tree.ino("a")));
    }
    assert_eq!(tree.holder("a").as_deref(), Some("dev1-1"));
    assert_eq!(tree.note("a"), "note");
}

pub(crate) fn a_truncate_that_changes_nothing_is_an_open(tree: &mut dyn Tenant) {
    tree.create(&alice(), "a").expect("it is free");
    let before = tree.record("a");
    assert_eq!(tree.open_emptied(&bob(), "a"), Ok(before.ino));
    assert_eq!(tree.truncate(&bob(), "a", 0), Ok(before.ino));
    assert_eq!(tree.write_to(&bob(), before.ino, Some(9), b""), Ok(before.ino));
    assert_eq!(tree.record("a"), before);
}

pub(crate) fn a_truncate_that_changes_something_is_a_change(tree: &mut dyn Tenant) {
    alice_holds(tree);
    assert_eq!(tree.open_emptied(&alice_elsewhere(), "a"), busy("dev1-1"));
    assert_eq!(tree.truncate(&alice_elsewhere(), "a", 2), busy("dev1-1"));
    assert_eq!(tree.note("a"), "note");
    tree.open_emptied(&alice(), "a").expect("it is hers");
    assert_eq!(tree.note("a"), "");
}

pub(crate) fn whoever_moves_the_lock_of_an_ended_job_holds_it(tree: &mut dyn Tenant) {
    alice_holds(tree);
    job_ended(tree);
    let token = tree.token("a");
    tree.rename(&alice_elsewhere(), "a", "b").expect("the job has ended");
    assert_eq!(tree.holder("b").as_deref(), Some("dev1-3"));
    assert!(tree.token("b") > token);
}

pub(crate) fn a_default_ttl_is_set_by_the_holder_only(tree: &mut dyn Tenant) {
    alice_holds(tree);
    for who in [alice_next_door(), alice_elsewhere(), bob(), root()] {
        assert_eq!(tree.set_default_ttl(&who, "d", Some(secs(1))), busy("dev1-1"));
    }
    assert_eq!(tree.set_default_ttl(&alice(), "d", Some(secs(1))), Ok(tree.ino("d")));
    assert_eq!(tree.set_default_ttl(&alice(), "a", Some(secs(1))), Err(Refusal::NotDirectory));
}

pub(crate) fn a_directory_of_nobody_is_removed_by_its_owner_or_root(tree: &mut dyn Tenant) {
    for who in [alice_elsewhere(), root()] {
        tree.mkdir(&alice(), "d").expect("it is free");
        tree.create(&bob(), "d/b").expect("it is free");
        tree.end(&alice(), "dev1-1").expect("it is hers");
        assert_eq!(tree.holder("d"), None);
        tree.unlink(&bob(), "d/b").expect("it is his");
        assert_eq!(tree.rmdir(&bob(), "d"), Err(Refusal::Held(None)));
        assert_eq!(tree.rmdir(&who, "d"), Ok(()));
    }
}

pub(crate) fn a_lock_is_broken_by_its_owner_who_names_its_token(tree: &mut dyn Tenant) {
    alice_holds(tree);
    let token = tree.token("a");
    assert_eq!(tree.break_lock(&bob(), "a", token), Err(Refusal::NotPermitted));
    tree.write(&alice(), "a", "still here").expect("it is hers");
    assert_eq!(tree.break_lock(&alice_elsewhere(), "a", token.next()), Err(Refusal::WrongToken));
    assert_eq!(tree.break_lock(&alice_elsewhere(), "a", token), Ok(()));
    assert!(tree.is_free("a"));
    assert_eq!(tree.events().last().map(String::as_str), Some("break a dev1-1"));
}

pub(crate) fn root_breaks_any_lock(tree: &mut dyn Tenant) {
    alice_holds(tree);
    assert_eq!(tree.break_lock(&root(), "a", tree.token("a")), Ok(()));
    assert!(tree.is_free("a"));
}

pub(crate) fn a_directory_with_entries_is_not_broken(tree: &mut dyn Tenant) {
    alice_holds(tree);
    tree.create(&bob(), "d/b").expect("it is free");
    assert_eq!(tree.break_lock(&root(), "d", tree.token("d")), Err(Refusal::NotEmpty));
    tree.unlink(&bob(), "d/b").expect("it is his");
    assert_eq!(tree.break_lock(&root(), "d", tree.token("d")), Ok(()));
}
