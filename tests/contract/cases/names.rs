//! Calls that move names: link, unlink, rename, rmdir, listings.

use lockfs::lock::Token;
use lockfs::table::{LockTable, Refusal};

use super::*;

/// Alice holds files `a` and `b` and directories `d` and `e`; Bob holds `bobs`.
fn furnish(tree: &dyn Tenant) {
    for path in ["a", "b"] {
        tree.create(&alice(), path).expect("it is free");
    }
    for path in ["d", "e"] {
        tree.mkdir(&alice(), path).expect("it is free");
    }
    tree.create(&bob(), "bobs").expect("it is free");
}

pub(crate) fn a_link_is_one_more_name_of_the_same(tree: &mut dyn Tenant) {
    furnish(tree);
    let token = tree.token("a");
    assert_eq!(tree.link(&alice(), "a", "d/x"), Ok(tree.ino("a")));
    assert_eq!(tree.ino("d/x"), tree.ino("a"));
    assert_eq!(tree.nlink("a"), 2);
    assert!(tree.token("d/x") > token, "whoever gets a name gets a new token");
}

pub(crate) fn unlinking_one_of_two_names_releases_that_name(tree: &mut dyn Tenant) {
    furnish(tree);
    let ino = tree.link(&alice(), "a", "d/x").expect("it is free");
    tree.unlink(&alice(), "a").expect("it is hers");
    assert!(tree.is_free("a"));
    assert_eq!((tree.ino("d/x"), tree.nlink("d/x"), tree.holder("d/x")), (ino, 1, Some("dev1-1".into())));
    assert_eq!(tree.create(&bob(), "a").map(drop), Ok(()));
}

pub(crate) fn a_link_of_what_another_holds_is_refused(tree: &mut dyn Tenant) {
    furnish(tree);
    assert_eq!(tree.link(&alice(), "bobs", "x"), held("dev1-4"));
    assert!(tree.is_free("x"));
}

pub(crate) fn a_directory_has_one_name(tree: &mut dyn Tenant) {
    furnish(tree);
    assert_eq!(tree.link(&alice(), "d", "x"), Err(Refusal::NotPermitted));
}

pub(crate) fn a_lock_has_so_many_names_and_no_more(tree: &mut dyn Tenant) {
    tree.create(&alice(), "a").expect("it is free");
    for count in 1..LockTable::LINK_MAX {
        tree.link(&alice(), "a", &format!("a{count}")).expect("there is room");
    }
    assert_eq!(tree.link(&alice(), "a", "x"), Err(Refusal::TooManyLinks));
    assert_eq!(tree.rename(&alice(), "a1", "x"), Ok(tree.ino("a")), "a rename needs no more");
    assert_eq!(tree.nlink("a") as usize, LockTable::LINK_MAX);
}

pub(crate) fn a_rename_moves_a_lock_and_raises_its_token(tree: &mut dyn Tenant) {
    furnish(tree);
    let (ino, token) = (tree.ino("a"), tree.token("a"));
    assert_eq!(tree.rename(&alice(), "a", "d/x"), Ok(ino));
    assert!(tree.is_free("a"));
    assert_eq!((tree.ino("d/x"), tree.nlink("d/x"), tree.holder("d/x")), (ino, 1, Some("dev1-1".into())));
    assert!(tree.token("d/x") > token);
    assert_eq!(tree.rename(&alice(), "a", "x"), Err(Refusal::NoEntry));
}

pub(crate) fn a_rename_over_a_lock_releases_it(tree: &mut dyn Tenant) {
    furnish(tree);
    let (ino, goal) = (tree.ino("a"), tree.ino("b"));
    assert_eq!(tree.rename(&alice(), "a", "b"), Ok(ino));
    assert_eq!(tree.ino("b"), ino);
    assert_eq!(tree.view_of(goal), None);
    let events = tree.events();
    assert_eq!(events[events.len() - 3..], ["release b dev1-1", "release a dev1-1", "acquire b dev1-1"]);
}

pub(crate) fn a_rename_over_anothers_lock_is_refused(tree: &mut dyn Tenant) {
    furnish(tree);
    let before = (tree.record("a"), tree.record("bobs"));
    assert_eq!(tree.rename(&alice(), "a", "bobs"), held("dev1-4"));
    assert_eq!(tree.exchange(&alice(), "a", "bobs"), held("dev1-4"));
    assert_eq!((tree.record("a"), tree.record("bobs")), before);
}

pub(crate) fn a_rename_that_must_not_replace_does_not(tree: &mut dyn Tenant) {
    furnish(tree);
    assert_eq!(tree.rename_no_replace(&alice(), "a", "b"), Err(Refusal::Exists));
    assert_eq!(tree.rename_no_replace(&alice(), "a", "bobs"), Err(Refusal::Exists));
    assert_eq!(tree.rename_no_replace(&alice(), "a", "x"), Ok(tree.ino("x")));
}

pub(crate) fn an_exchange_gives_both_new_tokens(tree: &mut dyn Tenant) {
    furnish(tree);
    let (a, d, last) = (tree.ino("a"), tree.ino("d"), tree.token("bobs"));
    assert_eq!(tree.exchange(&alice(), "a", "d"), Ok(a));
    assert_eq!((tree.ino("a"), tree.ino("d")), (d, a));
    assert!(tree.token("a") > last && tree.token("d") > last && tree.token("a") != tree.token("d"));
    assert_eq!((tree.nlink("a"), tree.nlink("d")), (2, 1));
}

pub(crate) fn an_exchange_needs_both(tree: &mut dyn Tenant) {
    furnish(tree);
    assert_eq!(tree.exchange(&alice(), "a", "x"), Err(Refusal::NoEntry));
    assert_eq!(tree.exchange(&alice(), "x", "a"), Err(Refusal::NoEntry));
}

/// Bug: the second take-over of an exchange could be refused when the first name had gone already.
pub(crate) fn a_refused_exchange_leaves_both(tree: &mut dyn Tenant) {
    tree.mkdir(&alice(), "d").expect("it is free");
    tree.create(&bob(), "d/b").expect("it is free");
    tree.end(&alice(), "dev1-1").expect("it is hers");
    tree.unlink(&bob(), "d/b").expect("it is his");
    tree.create(&alice(), "a").expect("it is free");
    tree.mark_ended("dev1-1");
    let nobody = world::by_path(agent());
    assert_eq!(tree.exchange(&nobody, "a", "d"), Err(Refusal::NoSession));
    assert_eq!(tree.list("/"), names(["d", "a"]));
}

pub(crate) fn files_and_directories_do_not_replace_each_other(tree: &mut dyn Tenant) {
    furnish(tree);
    assert_eq!(tree.rename(&alice(), "d", "a"), Err(Refusal::NotDirectory));
    assert_eq!(tree.rename(&alice(), "a", "d"), Err(Refusal::IsDirectory));
    let ino = tree.ino("d");
    assert_eq!(tree.rename(&alice(), "d", "e"), Ok(ino));
    assert_eq!((tree.is_free("d"), tree.ino("e")), (true, ino));
}

pub(crate) fn a_directory_with_entries_is_neither_moved_nor_replaced(tree: &mut dyn Tenant) {
    furnish(tree);
    tree.create(&alice(), "d/x").expect("it is free");
    assert_eq!(tree.rename(&alice(), "d", "x"), Err(Refusal::Busy(None)));
    assert_eq!(tree.exchange(&alice(), "d", "e"), Err(Refusal::Busy(None)));
    assert_eq!(tree.exchange(&alice(), "e", "d"), Err(Refusal::Busy(None)));
    assert_eq!(tree.rename(&alice(), "e", "d"), Err(Refusal::NotEmpty));
    assert_eq!(tree.rename(&alice(), "d/x", "d"), Err(Refusal::NotEmpty));
}

pub(crate) fn a_directory_is_not_moved_into_itself(tree: &mut dyn Tenant) {
    furnish(tree);
    assert_eq!(tree.rename(&alice(), "d", "d/x"), Err(Refusal::Invalid));
    assert_eq!(tree.exchange(&alice(), "d", "d"), Ok(tree.ino("d")));
}

pub(crate) fn a_rename_between_names_of_one_lock_does_nothing(tree: &mut dyn Tenant) {
    furnish(tree);
    tree.link(&alice(), "a", "x").expect("it is free");
    let before = tree.record("a");
    assert_eq!(tree.rename(&alice(), "a", "x"), Ok(before.ino));
    assert_eq!(tree.rename(&alice(), "a", "a"), Ok(before.ino));
    assert_eq!(tree.record("a"), before);
}

pub(crate) fn a_directory_with_entries_is_not_removed(tree: &mut dyn Tenant) {
    furnish(tree);
    tree.create(&bob(), "d/x").expect("it is free");
    assert_eq!(tree.rmdir(&alice(), "d"), Err(Refusal::NotEmpty));
    tree.unlink(&bob(), "d/x").expect("it is his");
    assert_eq!(tree.rmdir(&alice(), "d"), Ok(()));
    assert_eq!(tree.rmdir(&alice(), "d"), Err(Refusal::NoEntry));
}

pub(crate) fn unlink_is_for_files_and_rmdir_for_directories(tree: &mut dyn Tenant) {
    furnish(tree);
    assert_eq!(tree.unlink(&alice(), "d"), Err(Refusal::IsDirectory));
    assert_eq!(tree.rmdir(&alice(), "a"), Err(Refusal::NotDirectory));
}

pub(crate) fn a_directory_counts_its_subdirectories(tree: &mut dyn Tenant) {
    furnish(tree);
    assert_eq!((tree.nlink("/"), tree.nlink("d")), (4, 2));
    tree.rename(&alice(), "e", "d/e").expect("it is hers");
    assert_eq!((tree.nlink("/"), tree.nlink("d")), (3, 3));
    tree.rmdir(&alice(), "d/e").expect("it is hers");
    assert_eq!(tree.nlink("d"), 2);
}

pub(crate) fn a_listing_goes_on_where_it_stopped_while_names_come_and_go(tree: &mut dyn Tenant) {
    furnish(tree);
    let page = |after: Option<Token>| {
        let entries =
            tree.store().list(tree.ino("/"), after, 2).expect("the store works").expect("a directory");
        let last = entries.last().map(|entry| entry.cookie);
        (entries.into_iter().map(|entry| entry.name).collect::<Vec<_>>(), last)
    };
    let (first, cookie) = page(None);
    assert_eq!(first, names(["a", "b"]));
    tree.unlink(&alice(), "a").expect("it is hers");
    tree.unlink(&alice(), "b").expect("it is hers");
    tree.create(&alice(), "x").expect("it is free");
    let (second, cookie) = page(cookie);
    assert_eq!(second, names(["d", "e"]));
    let (third, cookie) = page(cookie);
    assert_eq!(third, names(["bobs", "x"]));
    assert_eq!(page(cookie).0, names([]));
}

pub(crate) fn only_directories_are_listed(tree: &mut dyn Tenant) {
    furnish(tree);
    assert_eq!(tree.store().list(tree.ino("a"), None, 9), Ok(None));
    assert_eq!(tree.store().list(lockfs::lock::Ino::from_u64(999), None, 9), Ok(None));
}

pub(crate) fn tokens_of_a_name_only_rise(tree: &mut dyn Tenant) {
    furnish(tree);
    let mut last = tree.token("bobs");
    let mut risen = |tree: &dyn Tenant, what: &str| {
        assert!(tree.token("x") > last, "{what}");
        last = tree.token("x");
    };
    tree.create(&alice(), "x").expect("it is free");
    risen(tree, "acquired");
    tree.unlink(&alice(), "x").expect("it is hers");
    tree.link(&alice(), "a", "x").expect("it is free");
    risen(tree, "linked");
    tree.rename(&alice(), "b", "x").expect("it is hers");
    risen(tree, "renamed over");
    tree.begin(&agent()).expect("it is new");
    tree.transfer(&alice(), "x", "agent").expect("it is hers");
    risen(tree, "transferred");
    tree.merge(&agent(), "agent", "other").expect("it is hers");
    risen(tree, "merged");
    tree.wait_secs(TTL);
    tree.create(&bob(), "x").expect("it is dead");
    risen(tree, "acquired after it expired");
}
