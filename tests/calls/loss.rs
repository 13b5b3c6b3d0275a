//! Loss: a lock that was broken or has expired is gone for whoever held it, and a late release is told so.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::common::job::{Job, in_job};
use super::common::{Tree, errno, eventually, signal, sys};
use super::{OK, number};

fn break_it(tree: &Tree, path: &str) {
    let token = sys::getxattr(tree.path(path), "user.lock.token").unwrap();
    sys::setxattr(tree.path(path), "user.lock.break", token.as_bytes(), 0).unwrap();
}

/// Keeps the daemon from running for longer than a ttl of one second, as a suspended machine would.
fn outsleep_a_ttl_of_one_second(tree: &Tree) {
    signal(tree.pid(), libc::SIGSTOP);
    let until = Instant::now() + Duration::from_millis(1_200);
    eventually("the ttl has passed", || Instant::now() > until);
    signal(tree.pid(), libc::SIGCONT);
}

fn assert_stale(file: &mut File) {
    assert_eq!(errno(file.metadata()), libc::ESTALE);
    assert_eq!(errno(file.write(b"x")), libc::ESTALE);
    assert_eq!(errno(file.read(&mut [0; 8])), libc::ESTALE);
    assert_eq!(errno(file.set_len(7)), libc::ESTALE);
}

#[test]
fn descriptors_of_a_broken_lock_are_stale() {
    let tree = Tree::new();
    let mut holder = Job::start(0, |turn| {
        let mut options = File::options();
        let mut file = options.read(true).write(true).create_new(true).open(tree.path("f")).unwrap();
        turn.pause();
        assert_stale(&mut file);
    });
    break_it(&tree, "f");
    holder.resume();
}

#[test]
fn descriptors_of_an_expired_lock_are_stale() {
    let tree = Tree::with(&["--ttl", "1s"]);
    let mut holder = Job::start(0, |turn| {
        let mut options = File::options();
        let mut file = options.read(true).write(true).create_new(true).open(tree.path("f")).unwrap();
        turn.pause();
        assert_stale(&mut file);
        assert_eq!(errno(fs::remove_file(tree.path("f"))), libc::ENOENT);
    });
    outsleep_a_ttl_of_one_second(&tree);
    holder.resume();
}

#[test]
fn anothers_descriptor_does_not_keep_a_lock_and_is_stale_when_it_has_expired() {
    let tree = Tree::with(&["--ttl", "1s"]);
    in_job(0, || fs::write(tree.path("f"), "note").unwrap());
    let mut file = File::options().read(true).write(true).open(tree.path("f")).unwrap();
    eventually("it expired", || !tree.path("f").exists());
    assert_stale(&mut file);
}

#[test]
fn a_late_unlink_never_releases_anothers_lock() {
    let tree = Tree::new();
    let mut holder = Job::start(0, |turn| {
        File::create_new(tree.path("f")).unwrap();
        turn.pause();
        assert_eq!(errno(fs::remove_file(tree.path("f"))), libc::ESTALE);
        assert_eq!(errno(fs::remove_file(tree.path("f"))), libc::ESTALE, "however often it tries");
    });
    break_it(&tree, "f");
    let _other = Job::start(0, |turn| {
        File::create_new(tree.path("f")).unwrap();
        turn.pause();
    });
    holder.resume();
    assert!(tree.path("f").exists());
}

#[test]
fn a_late_unlink_of_an_expired_lock_never_releases_anothers() {
    let tree = Tree::with(&["--ttl", "1s"]);
    let mut holder = Job::start(0, |turn| {
        File::create_new(tree.path("f")).unwrap();
        turn.pause();
        assert_eq!(errno(fs::remove_file(tree.path("f"))), libc::ESTALE);
    });
    outsleep_a_ttl_of_one_second(&tree);
    let _other = Job::start(0, |turn| {
        File::create_new(tree.path("f")).unwrap();
        turn.pause();
    });
    holder.resume();
    assert!(tree.path("f").exists());
}

#[test]
fn a_late_unlink_never_releases_what_another_left_behind() {
    let tree = Tree::new();
    let mut holder = Job::start(0, |turn| {
        File::create_new(tree.path("f")).unwrap();
        turn.pause();
        assert_eq!(errno(fs::remove_file(tree.path("f"))), libc::ESTALE);
    });
    break_it(&tree, "f");
    in_job(0, || drop(File::create_new(tree.path("f")).unwrap()));
    holder.resume();
    assert!(tree.path("f").exists());
}

#[test]
fn a_late_rename_and_a_late_rmdir_are_told_as_well() {
    let tree = Tree::new();
    let mut holder = Job::start(0, |turn| {
        File::create_new(tree.path("f")).unwrap();
        fs::create_dir(tree.path("d.lock")).unwrap();
        turn.pause();
        File::create_new(tree.path("own")).unwrap();
        assert_eq!(errno(fs::rename(tree.path("f"), tree.path("g"))), libc::ESTALE);
        assert_eq!(errno(fs::rename(tree.path("own"), tree.path("f"))), libc::ESTALE);
        assert_eq!(errno(fs::remove_dir(tree.path("d.lock"))), libc::ESTALE);
    });
    break_it(&tree, "f");
    break_it(&tree, "d.lock");
    let _other = Job::start(0, |turn| {
        File::create_new(tree.path("f")).unwrap();
        fs::create_dir(tree.path("d.lock")).unwrap();
        turn.pause();
    });
    holder.resume();
}

#[test]
fn a_late_unlink_of_what_nobody_holds_finds_nothing() {
    let tree = Tree::new();
    let mut holder = Job::start(0, |turn| {
        File::create_new(tree.path("f")).unwrap();
        turn.pause();
        assert_eq!(errno(fs::remove_file(tree.path("f"))), libc::ENOENT);
    });
    break_it(&tree, "f");
    holder.resume();
}

#[test]
fn who_lost_a_name_and_acquires_it_again_releases_its_own() {
    let tree = Tree::new();
    let mut holder = Job::start(0, |turn| {
        File::create_new(tree.path("f")).unwrap();
        turn.pause();
        File::create_new(tree.path("f")).unwrap();
        assert_eq!(number(fs::remove_file(tree.path("f"))), OK);
    });
    break_it(&tree, "f");
    holder.resume();
}

#[test]
fn a_named_session_that_lost_a_name_is_told_after_a_restart_too() {
    let mut tree = Tree::new();
    tree.run("LOCKFS_SESSION=agent bash -c '> f'");
    break_it(&tree, "f");
    let holder = tree.holder("> f");
    tree.kill();
    tree.mount();
    let output = tree.run("LOCKFS_SESSION=agent rm f");
    assert!(String::from_utf8_lossy(&output.stderr).contains("Stale file handle"), "{output:?}");
    drop(holder);
}
