//! A daemon that stands still for longer than the ttl while its clients hold: another host gets their locks, and
//! the late holders are told, and release nothing that is not theirs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::cluster::Hosts;
use crate::common::job::Job;
use crate::common::{Tree, errno, eventually, sys};
use crate::contest::{Contest, LOCK, Losses, Way};
use crate::history::{End, Hold, Law, Stamp, Tokens, violations};

const TTL: Duration = Duration::from_secs(2);

fn two_hosts() -> Hosts {
    Hosts::with(2, &["--ttl", "2s"], &[])
}

fn token(tree: &Tree, name: &str) -> u64 {
    sys::getxattr(tree.path(name), "user.lock.token").unwrap().parse().unwrap()
}

/// A job of `tree` that acquires by `acquire` and pauses twice, the second time after `late`.
fn holder(
    tree: &Tree,
    acquire: impl FnOnce(&Tree) -> Option<File>,
    late: impl FnOnce(&Tree, Option<File>),
) -> Job {
    Job::start(0, |turn| {
        let file = acquire(tree);
        turn.pause();
        late(tree, file);
        turn.pause();
    })
}

/// Lets a lock `name` pass from a host that stands still to another, where `acquire` succeeds as soon as it can.
fn passes_after_the_ttl(
    name: &str,
    acquire: fn(&Tree) -> std::io::Result<Option<File>>,
    late: fn(&Tree, Option<File>),
) {
    let hosts = two_hosts();
    let [first, second] = hosts.pair();
    let mut old = holder(first, |tree| acquire(tree).unwrap(), late);
    let before = token(first, name);
    assert_eq!(errno(acquire(second)), libc::EEXIST);
    first.pause();
    let acquired = |tree: &Tree| {
        let mut file = None;
        eventually("another host gets it after the ttl", || acquire(tree).map(|got| file = got).is_ok());
        file
    };
    let _new = holder(second, acquired, |_, _| {});
    first.resume();
    old.resume();
    assert!(token(second, name) > before);
    assert_eq!(token(second, name), token(first, name));
    assert_eq!(sys::getxattr(first.path(name), "user.lock.host").unwrap(), "h1");
}

#[test]
fn a_file_passes_after_the_ttl_and_its_late_holder_is_told() {
    passes_after_the_ttl(
        "f",
        |tree| File::create_new(tree.path("f")).map(Some),
        |tree, file| {
            let file = file.unwrap();
            assert_eq!(errno(file.write_at(b"late", 0)), libc::ESTALE);
            assert_eq!(errno(fs::remove_file(tree.path("f"))), libc::ESTALE);
            assert_eq!(errno(fs::remove_file(tree.path("f"))), libc::ESTALE, "however often it tries");
        },
    );
}

#[test]
fn a_directory_passes_after_the_ttl_and_its_late_holder_is_told() {
    passes_after_the_ttl(
        "d.lock",
        |tree| fs::create_dir(tree.path("d.lock")).map(|()| None),
        |tree, _| {
            sys::touch(tree.path("d.lock")).expect_err("it is another's");
            assert_eq!(errno(fs::remove_dir(tree.path("d.lock"))), libc::ESTALE);
        },
    );
}

#[test]
fn a_lock_of_noclobber_passes_after_the_ttl_and_its_late_rm_is_told() {
    let hosts = two_hosts();
    let [first, second] = hosts.pair();
    let script = "set -C; : > f; echo ready; read -r _; echo late > f; rm f; read -r _";
    let mut old = first.shell(script);
    old.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut old = old.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(old.stdout.as_mut().unwrap(), &mut ready).unwrap();
    first.pause();
    let _new = second.holder("set -C; until : > f; do sleep 0.05; done 2> /dev/null");
    first.resume();
    let mut input = old.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"go\nend\n").unwrap();
    let output = old.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cannot overwrite existing file"), "{said}");
    assert!(said.contains("rm: cannot remove 'f': Stale file handle"), "{said}");
    assert_eq!(sys::getxattr(first.path("f"), "user.lock.host").unwrap(), "h1");
}

#[test]
fn the_history_of_a_lock_that_passed_by_expiry_is_right() {
    let hosts = two_hosts();
    let [first, second] = hosts.pair();
    let record = |tree: &Tree, holder: &str, tries: &str| {
        let mut hold = None;
        eventually(tries, || {
            let asked = Stamp::now();
            let Ok(file) = File::create_new(tree.path("f")) else { return false };
            let begin = Stamp::now();
            let token = sys::fgetxattr(&file, "user.lock.token").unwrap().parse().unwrap();
            let (host, holder) = (tree.status("host"), holder.to_owned());
            hold = Some((
                Hold { host, holder, name: "f".to_owned(), token, asked, begin, end: End::Missing },
                file,
            ));
            true
        });
        hold.unwrap()
    };
    let (mut old, old_file) = record(first, "old", "it is free");
    first.pause();
    let (mut new, new_file) = record(second, "new", "it passes after the ttl");
    first.resume();
    assert_eq!(errno(old_file.write_at(b"late", 0)), libc::ESTALE);
    old.end = End::Lost(Stamp::now());
    new_file.write_at(b"mine", 0).unwrap();
    new.end = End::Kept(Stamp::now());
    assert_eq!(violations(&[old, new], Law { ttl: TTL, tokens: Tokens::Rise }), [""; 0]);
}

#[test]
fn o_excl_excludes_while_a_daemon_stands_still_for_longer_than_the_ttl() {
    let losses = Losses::AfterTtl(TTL);
    Contest { losses, ..Contest::of(Way::OpenExcl) }.run_while(two_hosts(), |hosts, progress| {
        let [first, second] = hosts.pair();
        let is_of_the_first = || {
            let holder = sys::getxattr(second.path(LOCK), "user.lock.host");
            holder.is_ok_and(|holder| holder == "h0")
        };
        // Whether it was stopped within a hold shows afterwards.
        let limit = Instant::now() + Duration::from_secs(40);
        while progress.losses() < 2 && Instant::now() < limit {
            progress.wait_for_a_hold_of("h0");
            first.pause();
            if is_of_the_first() {
                eventually("it passes after the ttl", || !is_of_the_first());
            }
            first.resume();
        }
        progress.enough();
        assert!(progress.losses() > 0, "no holder has lost it");
    });
}
