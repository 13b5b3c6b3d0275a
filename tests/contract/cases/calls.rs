//! Calls that make and change an entry: what is free, what is held, what is written.

use lockfs::clock::WallTime;
use lockfs::lock::{Ino, Kind, NOTE_MAX};
use lockfs::table::Refusal;

use super::*;

pub(crate) fn what_exists_is_not_acquired_again(tree: &mut dyn Tenant) {
    tree.create(&alice(), "f").expect("it is free");
    tree.mkdir(&alice(), "d").expect("it is free");
    tree.symlink(&alice(), "s").expect("it is free");
    for who in [alice(), bob()] {
        for path in ["f", "d", "s"] {
            assert_eq!(tree.create(&who, path), Err(Refusal::Exists));
            assert_eq!(tree.mkdir(&who, path), Err(Refusal::Exists));
            assert_eq!(tree.symlink(&who, path), Err(Refusal::Exists));
            assert_eq!(tree.link(&who, "f", path), Err(Refusal::Exists));
        }
    }
}

pub(crate) fn a_refused_acquire_begins_no_session(tree: &mut dyn Tenant) {
    tree.create(&alice(), "f").expect("it is free");
    assert_eq!(tree.create(&bob(), "f"), Err(Refusal::Exists));
    assert_eq!(tree.sessions(), ["dev1-1"]);
}

pub(crate) fn an_open_that_may_create_acquires_what_is_free(tree: &mut dyn Tenant) {
    let ino = tree.open_or_create(&alice(), "f").expect("it is free");
    assert_eq!(tree.holder("f").as_deref(), Some("dev1-1"));
    assert_eq!(tree.open_or_create(&bob(), "f"), Ok(ino));
    assert_eq!(tree.holder("f").as_deref(), Some("dev1-1"));
    tree.mkdir(&alice(), "d").expect("it is free");
    assert_eq!(tree.open_or_create(&bob(), "d"), Err(Refusal::IsDirectory));
}

pub(crate) fn nothing_is_made_where_no_directory_is(tree: &mut dyn Tenant) {
    tree.create(&alice(), "f").expect("it is free");
    assert_eq!(tree.create(&alice(), "no/f"), Err(Refusal::NoEntry));
    assert_eq!(tree.mkdir(&alice(), "f/d"), Err(Refusal::NotDirectory));
    assert_eq!(tree.link(&alice(), "f", "no/f"), Err(Refusal::NoEntry));
    assert_eq!(tree.rename(&alice(), "f", "no/f"), Err(Refusal::NoEntry));
    assert_eq!(tree.unlink(&alice(), "no/f"), Err(Refusal::NoEntry));
    assert_eq!(tree.rmdir(&alice(), "f/d"), Err(Refusal::NotDirectory));
}

pub(crate) fn nothing_is_made_in_a_directory_that_was_removed(tree: &mut dyn Tenant) {
    let ino = tree.mkdir(&alice(), "d").expect("it is free");
    tree.create(&alice(), "f").expect("it is free");
    tree.open(&alice(), "d").expect("it is there");
    let inside = tree.spot("d/x");
    tree.rmdir(&alice(), "d").expect("it is hers");
    assert_eq!(tree.view_of(ino), None, "though it is open");
    let (caller, spot) = (alice(), inside);
    let command = lockfs::table::Command::Link { caller, ino: tree.ino("f"), spot };
    assert_eq!(tree.ask(command), Err(Refusal::NoEntry));
    tree.close(ino);
}

pub(crate) fn what_is_made_is_its_makers(tree: &mut dyn Tenant) {
    let ino = tree.create(&alice(), "f").expect("it is free");
    let view = tree.view("f");
    assert_eq!((view.record.uid, view.record.gid, view.record.mode), (ALICE, ALICE, 0o644));
    assert_eq!((view.attributes.kind, view.attributes.size, view.attributes.nlink), (Kind::File, 0, 1));
    let now = tree.store().now().wall;
    assert_eq!((view.record.mtime, view.record.ctime, view.record.since), (now, now, now));
    assert_eq!((Ino::from(view.record.token), view.path.to_string()), (ino, "f".to_owned()));
    assert_eq!(view.session.map(|session| session.origin.holder()), Some("1000@dev1 sh[7]".to_owned()));
}

pub(crate) fn a_set_group_id_directory_hands_its_group_down(tree: &mut dyn Tenant) {
    tree.mkdir(&root(), "d").expect("it is free");
    tree.chmod(&root(), "d", 0o2777).expect("it is hers");
    tree.mkdir(&alice(), "d/e").expect("it is free");
    tree.create(&bob(), "d/e/f").expect("it is free");
    assert_eq!((tree.record("d/e").gid, tree.record("d/e").mode & 0o2000), (ROOT, 0o2000));
    assert_eq!((tree.record("d/e/f").gid, tree.record("d/e/f").mode & 0o2000), (ROOT, 0));
}

pub(crate) fn a_new_lock_of_an_old_name_is_another(tree: &mut dyn Tenant) {
    let (first, token) = (tree.create(&alice(), "f").expect("it is free"), tree.token("f"));
    tree.unlink(&alice(), "f").expect("it is hers");
    assert_eq!(tree.unlink(&alice(), "f"), Err(Refusal::NoEntry));
    let second = tree.create(&bob(), "f").expect("it is free");
    assert!(second > first && tree.token("f") > token);
    assert_eq!(tree.open_of(&alice(), first), Err(Refusal::Gone));
}

pub(crate) fn a_note_is_what_was_written(tree: &mut dyn Tenant) {
    let ino = tree.create(&alice(), "f").expect("it is free");
    tree.write_to(&alice(), ino, Some(2), b"cd").expect("it is hers");
    tree.write_to(&alice(), ino, None, b"ef").expect("it is hers");
    tree.write_to(&alice(), ino, Some(0), b"ab").expect("it is hers");
    assert_eq!(tree.note("f"), "abcdef");
    tree.truncate(&alice(), "f", 3).expect("it is hers");
    tree.truncate(&alice(), "f", 4).expect("it is hers");
    assert_eq!((tree.note("f").as_str(), tree.view("f").attributes.size), ("abc\0", 4));
}

pub(crate) fn a_note_has_a_longest_length(tree: &mut dyn Tenant) {
    let ino = tree.create(&alice(), "f").expect("it is free");
    assert_eq!(tree.write_to(&alice(), ino, Some(0), &vec![b'x'; NOTE_MAX]), Ok(ino));
    for offset in [None, Some(NOTE_MAX as u64), Some(u64::MAX)] {
        assert_eq!(tree.write_to(&alice(), ino, offset, b"x"), Err(Refusal::TooLarge), "{offset:?}");
    }
    for size in [NOTE_MAX as u64 + 1, u64::MAX] {
        assert_eq!(tree.truncate(&alice(), "f", size), Err(Refusal::TooLarge));
    }
    assert_eq!(tree.view("f").attributes.size, NOTE_MAX as u64);
}

pub(crate) fn only_files_have_notes(tree: &mut dyn Tenant) {
    let directory = tree.mkdir(&alice(), "d").expect("it is free");
    let symlink = tree.symlink(&alice(), "s").expect("it is free");
    assert_eq!(tree.write_to(&alice(), directory, None, b"x"), Err(Refusal::IsDirectory));
    assert_eq!(tree.write_to(&alice(), symlink, None, b"x"), Err(Refusal::Invalid));
    assert_eq!(tree.view("s").attributes.size, 6);
}

pub(crate) fn times_are_what_was_set_and_renewing_moves_none(tree: &mut dyn Tenant) {
    tree.create(&alice(), "f").expect("it is free");
    tree.wait_secs(5);
    let mtime = WallTime::new(-3, 999_999_999);
    tree.utimes(&alice(), "f", mtime).expect("it is hers");
    let set = tree.view("f").attributes;
    assert_eq!((set.mtime, set.ctime), (mtime, tree.store().now().wall));
    tree.wait_secs(60);
    assert_eq!(tree.renew("dev1-1"), 1);
    tree.open(&bob(), "f").expect("it is there");
    assert_eq!(tree.view("f").attributes, set);
    tree.write(&alice(), "f", "x").expect("it is hers");
    assert_eq!(tree.view("f").attributes.mtime, tree.store().now().wall);
}

pub(crate) fn a_directory_notes_when_its_entries_come_and_go(tree: &mut dyn Tenant) {
    tree.mkdir(&alice(), "d").expect("it is free");
    for step in 0..3 {
        tree.wait_secs(5);
        match step {
            0 => drop(tree.create(&alice(), "d/f")),
            1 => drop(tree.rename(&alice(), "d/f", "f")),
            _ => drop(tree.rename(&alice(), "f", "d/f")),
        }
        assert_eq!(tree.view("d").attributes.mtime, tree.store().now().wall, "step {step}");
    }
    let mtime = WallTime::new(7, 0);
    tree.utimes(&alice(), "d", mtime).expect("it is hers");
    assert_eq!(tree.view("d").attributes.mtime, mtime);
}

pub(crate) fn an_owner_who_was_changed_is_the_owner(tree: &mut dyn Tenant) {
    tree.create(&root(), "f").expect("it is free");
    tree.chown(&root(), "f", BOB).expect("it is its own");
    assert_eq!((tree.record("f").uid, tree.record("f").gid), (BOB, BOB));
    assert_eq!(tree.break_lock(&bob(), "f", tree.token("f")), Ok(()));
}

pub(crate) fn a_file_without_names_lives_while_it_is_open(tree: &mut dyn Tenant) {
    let ino = tree.create_open(&alice(), "f").expect("it is free");
    tree.open(&bob(), "f").expect("it is there");
    tree.unlink(&alice(), "f").expect("it is hers");
    assert!(tree.is_free("f"));
    let view = tree.view_of(ino).expect("it is open");
    assert_eq!((view.attributes.nlink, view.record.session, view.deadline), (0, None, None));
    assert_eq!(tree.write_to(&alice(), ino, None, b"x"), Ok(ino), "it was hers");
    // A touch that opened it before it was unlinked must not take itself for its next holder.
    assert!(matches!(tree.write_to(&bob(), ino, None, b"x"), Err(Refusal::Busy(Some(_)))), "not his");
    assert_eq!(tree.link_of(&alice(), ino, "g"), Err(Refusal::NoEntry));
    tree.create(&bob(), "f").expect("the name is free");
    tree.wait_secs(1_000_000);
    tree.sweep(100);
    tree.close(ino);
    assert!(tree.view_of(ino).is_some(), "it is still open once");
    tree.close(ino);
    assert_eq!(tree.view_of(ino), None);
    tree.close(ino);
}

pub(crate) fn a_session_without_locks_may_have_files_open(tree: &mut dyn Tenant) {
    let ino = tree.create_open(&agent(), "f").expect("it is free");
    tree.end(&agent(), "agent").expect("it is hers");
    assert_eq!(tree.sessions(), Vec::<String>::new());
    assert_eq!(tree.view_of(ino).map(|view| view.attributes.nlink), Some(0));
}

pub(crate) fn what_expires_is_gone_for_those_who_have_it_open(tree: &mut dyn Tenant) {
    let ino = tree.create_open(&alice(), "f").expect("it is free");
    tree.wait_secs(TTL);
    assert_eq!(tree.write_to(&alice(), ino, None, b"x"), Err(Refusal::Gone));
    tree.sweep(100);
    assert_eq!(tree.write_to(&alice(), ino, None, b"x"), Err(Refusal::Gone));
    tree.close(ino);
    assert_eq!(tree.view_of(ino), None);
}
