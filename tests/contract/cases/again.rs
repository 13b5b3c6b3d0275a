//! Requests asked again by whoever took over the mount: each is carried out once, and has its first outcome.

use std::time::Duration;

use lockfs::lock::Mode::Exclusive;
use lockfs::lock::RequestId;
use lockfs::table::{Command, Existing, New, Opening, Outcome, Refusal, RenameMode, Reply};

use super::*;
use crate::house::{GRANTED, flock};
use crate::world::mount_id;

fn request(number: u64) -> Option<RequestId> {
    Some(RequestId { mount: mount_id(0), number })
}

fn ask(tree: &dyn Tenant, number: u64, command: &Command) -> Outcome {
    tree.store().execute_for(request(number), command).expect("the store works")
}

/// Asked by a thread of its own, which was about to answer.
fn ask_apart(tree: &dyn Tenant, number: u64, command: &Command) -> Outcome {
    let store = tree.store();
    let asked =
        std::thread::scope(|scope| scope.spawn(|| store.execute_for(request(number), command)).join());
    asked.expect("it answers").expect("the store works")
}

fn remembers(tree: &dyn Tenant, number: u64) -> bool {
    tree.store().remembers(request(number).expect("it is one")).expect("nothing was lost")
}

fn acquire(tree: &dyn Tenant, path: &str, new: New) -> Command {
    Command::Acquire { caller: alice(), spot: tree.spot(path), new, mode: 0o644, existing: Existing::Refuse }
}

/// Asks each twice, with an opening between, and in the end each once more under another number.
pub(crate) fn a_request_asked_again_by_a_successor_gets_its_first_outcome(tree: &mut dyn Tenant) {
    tree.attend_all();
    tree.create(&alice(), "linked").expect("it is free");
    tree.create(&alice(), "moved").expect("it is free");
    tree.create(&alice(), "noted").expect("it is free");
    tree.create(&alice(), "freed").expect("it is free");
    tree.create(&alice(), "left").expect("it is free");
    tree.mkdir(&alice(), "removed").expect("it is free");
    let noted = tree.ino("noted");
    let spot = |tree: &dyn Tenant, path: &str| tree.spot(path);
    let commands = [
        acquire(tree, "file", New::File(Opening::Opened)),
        acquire(tree, "made", New::File(Opening::Closed)),
        acquire(tree, "directory", New::Directory),
        acquire(tree, "symlink", New::Symlink((*b"target").into())),
        Command::Link { caller: alice(), ino: tree.ino("linked"), spot: spot(tree, "second") },
        Command::Rename {
            caller: alice(),
            from: spot(tree, "moved"),
            to: spot(tree, "there"),
            mode: RenameMode::NoReplace,
            heir: None,
        },
        Command::Unlink { caller: alice(), spot: spot(tree, "freed") },
        Command::Rmdir { caller: alice(), spot: spot(tree, "removed") },
        Command::Write { caller: alice(), ino: noted, offset: None, data: b"once".to_vec() },
        Command::BeginSession { caller: caller(ALICE, "begun", SessionKind::Named, None, secs(TTL)) },
    ];
    let numbered: Vec<(u64, &Command)> = (2..).step_by(2).zip(&commands).collect();
    let mut first = Vec::new();
    for (number, command) in &numbered {
        first.push(ask_apart(tree, *number, command));
    }
    assert!(first.iter().all(Result::is_ok), "{first:?}");
    for _ in 0..2 {
        tree.reopen(Duration::from_millis(1));
        for ((number, command), first) in numbered.iter().zip(&first) {
            assert!(remembers(tree, *number));
            assert_eq!(ask(tree, *number, command), *first, "{command:?}");
        }
    }
    assert_eq!(tree.note("noted"), "once");
    for (number, command) in &numbered {
        assert!(!remembers(tree, number + 1000));
        let outcome = ask(tree, number + 1000, command);
        let expected = matches!(command, Command::Write { .. });
        assert_eq!(outcome.is_ok(), expected, "{command:?} {outcome:?}");
    }
    assert_eq!(tree.note("noted"), "onceonce");
}

pub(crate) fn a_request_that_was_not_carried_out_is_carried_out_once(tree: &mut dyn Tenant) {
    tree.create(&bob(), "a").expect("it is free");
    let command = acquire(tree, "a", New::File(Opening::Closed));
    assert_eq!(ask(tree, 2, &command), Err(Refusal::Exists));
    tree.reopen(Duration::from_millis(1));
    assert!(!remembers(tree, 2), "a refusal changes nothing, and is decided anew");
    tree.unlink(&bob(), "a").expect("it is his");
    let made = ask(tree, 2, &command);
    assert!(made.is_ok());
    tree.reopen(Duration::from_millis(1));
    assert_eq!(ask(tree, 2, &command), made);
    assert_eq!(ask(tree, 4, &command), Err(Refusal::Exists));
}

/// Of the steps of one request each has its own outcome: made, closed and taken back.
pub(crate) fn each_step_of_a_request_is_remembered(tree: &mut dyn Tenant) {
    tree.attend_all();
    let make = acquire(tree, "a", New::File(Opening::Opened));
    let unlink = Command::Unlink { caller: alice(), spot: tree.spot("a") };
    let made = ask(tree, 2, &make);
    assert_eq!((made.is_ok(), ask(tree, 2, &unlink)), (true, Ok(Reply::Done)));
    tree.reopen(Duration::from_millis(1));
    let bobs = tree.create(&bob(), "a").expect("it is free");
    assert_eq!(ask(tree, 2, &make), made);
    assert_eq!(ask(tree, 2, &unlink), Ok(Reply::Done));
    assert_eq!(tree.ino("a"), bobs, "it was taken back once");
}

/// What a thread was asked before its last request it has answered.
pub(crate) fn a_request_that_was_answered_is_forgotten_and_its_seat_used_again(tree: &mut dyn Tenant) {
    for number in 1..200 {
        let command = acquire(tree, "a", New::File(Opening::Closed));
        assert!(ask(tree, 2 * number, &command).is_ok());
        tree.unlink(&alice(), "a").expect("it is hers");
    }
    tree.reopen(Duration::from_millis(1));
    let remembered: Vec<u64> = (1..200).filter(|number| remembers(tree, 2 * number)).collect();
    assert_eq!(remembered, [199]);
}

pub(crate) fn requests_of_another_mount_are_others(tree: &mut dyn Tenant) {
    let command = acquire(tree, "a", New::File(Opening::Closed));
    assert!(ask(tree, 2, &command).is_ok());
    tree.reopen(Duration::from_millis(1));
    let other = Some(RequestId { mount: mount_id(1), number: 2 });
    let outcome = tree.store().execute_for(other, &command).expect("the store works");
    assert_eq!(outcome, Err(Refusal::Exists));
}

/// A lock that was granted and not answered is had once; one that waited has its place.
pub(crate) fn a_lock_asked_for_again_is_had_once(tree: &mut dyn Tenant) {
    tree.attend_all();
    tree.create(&alice(), "f").expect("it is free");
    let ino = tree.ino("f");
    let lock = Command::Lock { caller: alice(), ino, claim: flock(Exclusive, 1), waiting: None };
    // Whoever comes next has not counted these.
    for _ in 0..3 {
        assert_eq!(tree.ask(lock.clone()), GRANTED);
        tree.unlock(&alice(), "f", flock(Exclusive, 1));
    }
    assert_eq!(ask(tree, 2, &lock), GRANTED);
    tree.reopen(Duration::from_millis(1));
    assert_eq!(ask(tree, 2, &lock), GRANTED);
    assert_eq!(tree.view("f").grants.len(), 1);
    tree.unlock(&alice(), "f", flock(Exclusive, 1));
    assert_eq!(tree.view("f").grants.len(), 0);
}

/// A close is kept late, and the handles say what is open.
pub(crate) fn what_is_open_is_what_the_handles_say(tree: &mut dyn Tenant) {
    tree.attend_all();
    let open = |tree: &dyn Tenant, number: u64, path: &str| {
        let outcome = ask(tree, number, &acquire(tree, path, New::File(Opening::Opened)));
        assert!(outcome.is_ok(), "{outcome:?}");
        tree.ino(path)
    };
    // Of the first two there were handles, and the first was closed: nobody heard of that. The third was not answered.
    let (closed, kept) = (open(tree, 2, "closed"), open(tree, 4, "kept"));
    let made = acquire(tree, "unanswered", New::File(Opening::Opened));
    assert!(ask_apart(tree, 6, &made).is_ok());
    let unanswered = tree.ino("unanswered");
    tree.reopen(Duration::from_millis(1));
    // As whoever takes up the mount does.
    tree.ask(Command::Renew { sessions: vec![session_id("dev1-1")] }).expect("it is there");
    tree.attend_all();
    tree.store().recall_opens(mount_id(0), &[(kept, 4)], &[]).expect("the store works");
    assert!(ask(tree, 6, &made).is_ok());
    for path in ["closed", "kept", "unanswered"] {
        tree.unlink(&alice(), path).expect("it is hers");
    }
    let lives = |tree: &dyn Tenant| [closed, kept, unanswered].map(|ino| tree.view_of(ino).is_some());
    assert_eq!(lives(tree), [false, true, true]);
    tree.close(kept);
    tree.close(unanswered);
    assert_eq!(lives(tree), [false, false, false]);
}
