//! The door: opening `.wait/<name>` for writing waits until `<name>` is free, and holds it then.

use std::fs::{self, File};

use libc::{EEXIST, O_CREAT, O_EXCL, O_NONBLOCK, O_WRONLY, SIGINT, SYS_openat};

use crate::common::programs::succeeds;
use crate::common::{Tree, errno, eventually, sys};
use crate::ground::{Ground, Place, on_every_mount};
use crate::puppet::Puppet;
use crate::script::{Script, prints, run, status};

/// Who holds a name by having made it.
fn holder(place: &Place, name: &str) -> Puppet {
    let puppet = Puppet::new(&place.here());
    puppet.try_open(name, O_CREAT | O_EXCL | O_WRONLY).unwrap();
    puppet
}

/// One who waits at the door, and whom the store knows to wait.
fn at_the_door(place: &Place, side: usize, name: &str, number: usize) -> Puppet {
    let puppet = Puppet::new(&place.roots()[side % 2]);
    // As touch does it.
    puppet.begin_open(&format!(".wait/{name}"), O_WRONLY | O_CREAT | O_NONBLOCK);
    puppet.wait_until_it_waits();
    wait_at_the_door(place.trees()[0], name, number);
    puppet
}

/// Waits until so many wait at a door.
#[track_caller]
fn wait_at_the_door(tree: &Tree, name: &str, count: usize) {
    eventually(&format!("{count} wait for {name}"), || {
        let queue = fs::read_to_string(tree.path(".wait").join(name)).unwrap();
        queue.lines().filter(|line| line.starts_with("waiter: ")).count() == count
    });
}

on_every_mount! {
    fn what_is_free_is_held_at_once(place) {
        let script = "timeout 30 touch .wait/x && ls x && rm x && [ ! -e x ]";
        assert_eq!(prints(&place.there(), script), "x\n");
        let mut holder = Script::start(&place.here(), ": > .wait/x; echo held; read -r _");
        holder.says("held");
        assert_eq!(errno(File::create_new(place.there().join("x"))), EEXIST);
        assert_eq!(status(&place.there(), "rm -f x"), 1, "its holder lives");
        assert_eq!(sys::getxattr(place.there().join("x"), "user.lock.pid").unwrap(), holder.pid().to_string());
    }

    fn who_waits_holds_it_when_it_is_released(place) {
        for script in ["timeout 30 touch .wait/x", "touch .wait/x", ": > .wait/x", "echo mine >> .wait/x"] {
            let holder = holder(&place, "x");
            let mut waiter = Script::start(&place.there(), &format!("{script} && echo held && read -r _ && rm x"));
            waiter.wait_until_it_waits_in(SYS_openat);
            holder.unlink("x").unwrap();
            waiter.says("held");
            assert_eq!(errno(File::create_new(place.here().join("x"))), EEXIST, "{script}");
            waiter.go();
            succeeds(&waiter.end());
            assert!(!place.here().join("x").exists(), "{script}");
        }
    }

    fn what_is_written_through_it_is_the_note_of_the_lock(place) {
        let mut script = Script::start(&place.here(), "echo deploying > .wait/x && echo held; read -r _");
        script.says("held");
        assert_eq!(fs::read_to_string(place.there().join("x")).unwrap(), "deploying\n");
    }

    fn timeout_ends_the_wait_and_leaves_no_ghost(place) {
        let holder = holder(&place, "x");
        assert_eq!(status(&place.there(), "timeout 0.3 touch .wait/x"), 124);
        wait_at_the_door(place.trees()[0], "x", 0);
        holder.unlink("x").unwrap();
        let next = Puppet::new(&place.there());
        next.try_open("x", O_CREAT | O_EXCL | O_WRONLY).unwrap();
    }

    fn ctrl_c_ends_the_wait(place) {
        let holder = holder(&place, "x");
        let mut waiter = Script::start(&place.there(), "touch .wait/x; echo went on");
        waiter.wait_until_it_waits_in(SYS_openat);
        waiter.signal(SIGINT);
        let output = waiter.end();
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
        holder.unlink("x").unwrap();
        succeeds(&run(&place.there(), "set -C; : > x && rm x"));
    }

    fn who_came_first_gets_it_first(place) {
        let holder = holder(&place, "x");
        let waiters: Vec<_> = (0..5).map(|number| at_the_door(&place, number, "x", number + 1)).collect();
        holder.unlink("x").unwrap();
        for (index, waiter) in waiters.iter().enumerate() {
            waiter.end().unwrap();
            assert!(waiters[index + 1..].iter().all(Puppet::is_waiting));
            waiter.unlink("x").unwrap();
        }
    }

    fn who_creates_the_name_overtakes_nobody(place) {
        for _ in 0..8 {
            let holder = holder(&place, "x");
            let waiter = at_the_door(&place, 1, "x", 1);
            let others = place.roots().map(|root| Puppet::new(&root));
            holder.unlink("x").unwrap();
            for other in &others {
                assert_eq!(other.try_open("x", O_CREAT | O_EXCL | O_WRONLY), Err(EEXIST));
            }
            waiter.end().unwrap();
            waiter.unlink("x").unwrap();
        }
    }

    fn who_is_killed_at_the_door_is_passed_over(place) {
        let holder = holder(&place, "x");
        let waiters: Vec<_> = (0..3).map(|number| at_the_door(&place, number, "x", number + 1)).collect();
        waiters[0].kill();
        waiters[1].kill();
        wait_at_the_door(place.trees()[0], "x", 1);
        holder.unlink("x").unwrap();
        waiters[2].end().unwrap();
    }

    fn every_name_is_there_and_made_by_nobody(place) {
        let script = "[ -e .wait/x ] && [ -e .wait/whatever ] && [ ! -e x ] && ls .wait > /dev/null";
        succeeds(&run(&place.there(), script));
        let puppet = Puppet::new(&place.here());
        assert_eq!(puppet.try_open(".wait/x", O_CREAT | O_EXCL | O_WRONLY), Err(EEXIST));
    }

    fn reading_it_shows_the_queue(place) {
        let holder = holder(&place, "x");
        let waiters: Vec<_> = (0..2).map(|number| at_the_door(&place, number, "x", number + 1)).collect();
        let queue = prints(&place.here(), "cat .wait/x");
        let at = waiters.iter().map(|waiter| queue.find(&waiter.pid().to_string()));
        let at: Vec<_> = at.collect::<Option<_>>().unwrap_or_else(|| panic!("not both of them:\n{queue}"));
        assert!(at.is_sorted(), "the first first:\n{queue}");
        holder.unlink("x").unwrap();
    }

    fn names_in_directories_have_a_door_too(place) {
        fs::create_dir(place.here().join("build")).unwrap();
        let holder = holder(&place, "build/web");
        let mut waiter = Script::start(&place.there(), "touch .wait/build/web && echo held; read -r _");
        waiter.wait_until_it_waits_in(SYS_openat);
        holder.unlink("build/web").unwrap();
        waiter.says("held");
    }

    fn a_lock_that_is_a_directory_is_waited_for(place) {
        let mut holder = Script::start(&place.here(), "mkdir d.lock && echo held && read -r _ && rmdir d.lock");
        holder.says("held");
        let mut waiter = Script::start(&place.there(), "touch .wait/d.lock && echo held; read -r _");
        waiter.wait_until_it_waits_in(SYS_openat);
        holder.go();
        succeeds(&holder.end());
        waiter.says("held");
        assert!(place.here().join("d.lock").is_file());
    }
}

#[test]
fn a_waiter_gets_what_a_dead_holder_held_after_its_ttl() {
    let place = Ground::Hosts.lay_with(&["--ttl", "2s"]);
    let holder = holder(&place, "x");
    let waiter = at_the_door(&place, 1, "x", 1);
    holder.kill();
    waiter.end().unwrap();
    let owner = waiter.pid().to_string();
    eventually("it is shown", || {
        sys::getxattr(place.here().join("x"), "user.lock.pid").is_ok_and(|pid| pid == owner)
    });
}
