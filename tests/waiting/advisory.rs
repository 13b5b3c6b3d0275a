//! Held or advisory: from the first flock(2) or fcntl lock on a file, by whomever, its existence means nothing more.
//! Modes alone decide who may change or remove it, and it stays while anybody has it open or locked.

use std::fs;
use std::time::{Duration, Instant};

use libc::{EAGAIN, EBUSY, EEXIST, ENOENT, EPERM, O_CREAT, O_EXCL, O_RDWR, O_TRUNC, O_WRONLY};

use crate::common::{eventually, sys};
use crate::ground::{Ground, on_every_mount};
use crate::puppet::Mode::{Exclusive, None as Unlocked};
use crate::puppet::{Fd, Puppet, STYLES, Style};
use crate::script::{Script, prints, status};

/// Users that are not root.
const ALICE: u32 = 1001;
const BOB: u32 = 1002;

/// A file that a process made which lives: the file is held.
fn made_by(uid: u32, root: &std::path::Path) -> (Puppet, Fd) {
    let maker = Puppet::of(uid, root);
    let fd = Fd::from(maker.try_open("f", O_CREAT | O_EXCL | O_RDWR).unwrap());
    (maker, fd)
}

on_every_mount! {
    fn what_another_made_is_everybodys_from_the_first_lock_on(place) {
        for style in STYLES {
            let (_maker, _) = made_by(0, &place.here());
            let other = Puppet::new(&place.there());
            assert_eq!(other.unlink("f"), Err(EPERM), "{style:?}");
            assert_eq!(other.touch("f"), Err(EBUSY), "{style:?}");
            assert_eq!(other.chmod("f", 0o600), Err(EBUSY), "{style:?}");
            let f = other.open("f");
            other.try_lock(f, style, Exclusive).unwrap();
            other.try_lock(f, style, Unlocked).unwrap();
            let third = Puppet::new(&place.there());
            third.touch("f").unwrap();
            third.chmod("f", 0o644).unwrap();
            let g = third.open("f");
            third.write(g, b"third\n").unwrap();
            third.unlink("f").unwrap();
            assert!(!place.here().join("f").exists());
        }
    }

    fn a_lock_of_its_maker_makes_it_advisory_too(place) {
        let (maker, f) = made_by(0, &place.here());
        maker.try_lock(f, Style::Flock, Exclusive).unwrap();
        let other = Puppet::new(&place.there());
        other.touch("f").unwrap();
        assert_eq!(status(&place.there(), "echo note > f"), 0, "a lock of flock(2) stops no write");
        other.unlink("f").unwrap();
    }

    fn modes_decide_who_may(place) {
        let (alice, f) = made_by(ALICE, &place.here());
        alice.chmod("f", 0o644).unwrap();
        alice.try_lock(f, Style::Flock, Exclusive).unwrap();
        let bob = Puppet::of(BOB, &place.there());
        assert_eq!(bob.touch("f"), Err(libc::EACCES));
        assert_eq!(bob.chmod("f", 0o666), Err(EPERM));
        assert_eq!(bob.unlink("f"), Err(EPERM), "the root of the tree is sticky");
        alice.chmod("f", 0o666).unwrap();
        bob.touch("f").unwrap();
        let again = Puppet::of(ALICE, &place.there());
        again.unlink("f").unwrap();
    }

    fn what_is_unlinked_and_open_is_locked_among_those_who_have_it_open(place) {
        let [a, b] = place.roots().map(|root| Puppet::new(&root));
        let (f, g) = (a.open("f"), b.open("f"));
        a.try_lock(f, Style::Flock, Exclusive).unwrap();
        b.unlink("f").unwrap();
        assert_eq!((a.links(f), b.links(g)), (0, 0), "filelock looks at it");
        assert_eq!(b.try_lock(g, Style::Flock, Exclusive), Err(EAGAIN));
        let new = b.open("f");
        b.try_lock(new, Style::Flock, Exclusive).unwrap();
        a.try_lock(f, Style::Flock, Unlocked).unwrap();
        b.try_lock(g, Style::Flock, Exclusive).unwrap();
        assert_eq!(b.links(new), 1);
    }

    fn who_waits_for_what_is_unlinked_gets_it_all_the_same(place) {
        let [a, b] = place.roots().map(|root| Puppet::new(&root));
        let (f, g) = (a.open("f"), b.open("f"));
        a.try_lock(f, Style::Flock, Exclusive).unwrap();
        b.begin_lock(g, Style::Flock, Exclusive);
        b.wait_until_it_waits();
        a.unlink("f").unwrap();
        a.kill();
        b.end().unwrap();
        assert_eq!(b.links(g), 0);
    }

    fn it_can_be_made_only_once_and_opened_by_all(place) {
        let (maker, f) = made_by(0, &place.here());
        maker.try_lock(f, Style::Flock, Exclusive).unwrap();
        let other = Puppet::new(&place.there());
        assert_eq!(other.try_open("f", O_CREAT | O_EXCL | O_WRONLY), Err(EEXIST));
        other.try_open("f", O_CREAT | O_WRONLY).unwrap();
        other.try_open("f", O_CREAT | O_TRUNC | O_WRONLY).unwrap();
        maker.unlink("f").unwrap();
        assert_eq!(other.try_open("f", O_WRONLY), Err(ENOENT));
    }

    fn what_the_holder_wrote_is_there_for_the_next_one(place) {
        let writer = "exec 9>> f; flock 9; echo 4711 >&9";
        assert_eq!(prints(&place.here(), &format!("{writer}; cat f")), "4711\n");
        assert_eq!(prints(&place.there(), "exec 9>> f; flock 9; cat f"), "4711\n");
    }
}

#[test]
fn it_stays_while_another_host_has_it_open_and_goes_a_ttl_after_that() {
    let place = Ground::Hosts.lay_with(&["--ttl", "1s"]);
    // Whoever made it is gone, and so is its job.
    assert_eq!(status(&place.here(), "flock f true"), 0);
    let opened = Puppet::new(&place.there());
    let f = opened.open("f");
    let number = sys::open(place.here().join("f"), O_RDWR, 0).unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino(&number.metadata().unwrap());
    drop(number);
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        assert_eq!(opened.links(f), 1, "it was taken from who has it open");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&fs::metadata(place.here().join("f")).unwrap()), inode);
    opened.close(f);
    eventually("it goes", || !place.here().join("f").exists() && !place.there().join("f").exists());
}

#[test]
fn it_stays_while_somebody_waits_for_it() {
    let place = Ground::Hosts.lay_with(&["--ttl", "1s"]);
    let mut holder = Script::start(&place.here(), "exec 9> f; flock 9; echo held; read -r _");
    holder.says("held");
    let waiter = Puppet::new(&place.there());
    let f = waiter.open("f");
    waiter.begin_lock(f, Style::Flock, Exclusive);
    waiter.wait_until_it_waits();
    let until = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < until {
        assert!(waiter.is_waiting(), "it got what another holds");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(holder);
    waiter.end().unwrap();
    assert_eq!(waiter.links(f), 1);
}
