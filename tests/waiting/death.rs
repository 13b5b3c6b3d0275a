//! The end of a daemon that others wait with, or for: what a dead host held is free after its ttl, its waiters are
//! passed over; a daemon that comes back says at once what is left.

use std::fs::{self, File};

use libc::EAGAIN;

use crate::common::job::Job;
use crate::common::{errno, eventually};
use crate::ground::{Ground, Place};
use crate::holders::wait_for_waiters;
use crate::puppet::Mode::{Exclusive, None as Unlocked};
use crate::puppet::{Fd, Puppet, STYLES, Style};

const TTL: &str = "2s";

fn two_hosts() -> Place {
    Ground::Hosts.lay_with(&["--ttl", TTL])
}

fn holder(place: &Place, side: usize, style: Style) -> (Puppet, Fd) {
    let puppet = Puppet::new(&place.roots()[side]);
    let fd = puppet.open("f");
    puppet.try_lock(fd, style, Exclusive).unwrap();
    (puppet, fd)
}

fn waiter(place: &Place, side: usize, style: Style, number: usize) -> (Puppet, Fd) {
    let puppet = Puppet::new(&place.roots()[side]);
    let fd = puppet.open("f");
    puppet.begin_lock(fd, style, Exclusive);
    puppet.wait_until_it_waits();
    wait_for_waiters(place.trees()[1], "f", number);
    (puppet, fd)
}

#[test]
fn what_a_dead_host_held_is_free_after_its_ttl() {
    for style in [Style::Flock, Style::Posix] {
        let mut place = two_hosts();
        let (_dead, _) = holder(&place, 0, style);
        let other = Puppet::new(&place.there());
        let f = other.open("f");
        place.first().kill();
        assert_eq!(other.try_lock(f, style, Exclusive), Err(EAGAIN), "its ttl is not over");
        eventually("its ttl is over", || other.try_lock(f, style, Exclusive).is_ok());
    }
}

#[test]
fn who_waits_for_a_dead_host_gets_it_after_its_ttl() {
    for style in STYLES {
        let mut place = two_hosts();
        let (_dead, _) = holder(&place, 0, style);
        let (waiter, _) = waiter(&place, 1, style, 1);
        place.first().kill();
        assert!(waiter.is_waiting());
        waiter.end().unwrap();
    }
}

#[test]
fn the_waiters_of_a_dead_host_are_passed_over() {
    for style in STYLES {
        let mut place = two_hosts();
        let (owner, f) = holder(&place, 1, style);
        let (dead, _) = waiter(&place, 0, style, 1);
        let (living, _) = waiter(&place, 1, style, 2);
        place.first().kill();
        assert!(matches!(dead.end(), Err(libc::ECONNABORTED | libc::ENOTCONN | libc::EIO | libc::EINTR)));
        owner.try_lock(f, style, Unlocked).unwrap();
        living.end().unwrap();
    }
}

#[test]
fn a_daemon_that_stands_still_is_passed_over_and_waits_on_afterwards() {
    // It stands still for longer than a place is kept, and not for as long as a lease lasts.
    let place = Ground::Hosts.lay_with(&["--ttl", "60s"]);
    let (owner, f) = holder(&place, 1, Style::Flock);
    let (still, g) = waiter(&place, 0, Style::Flock, 1);
    let (other, h) = waiter(&place, 1, Style::Flock, 2);
    place.trees()[0].pause();
    owner.try_lock(f, Style::Flock, Unlocked).unwrap();
    other.end().unwrap();
    place.trees()[0].resume();
    assert!(still.is_waiting(), "it is another's");
    other.try_lock(h, Style::Flock, Unlocked).unwrap();
    still.end().unwrap();
    still.try_lock(g, Style::Flock, Unlocked).unwrap();
}

/// Kills the daemon of the first root, and starts another one.
fn restart(place: &mut Place) {
    let tree = place.first();
    tree.kill();
    tree.mount();
}

fn a_restart_lets_go_of_what_was_locked(mut place: Place) {
    // The ttl is long: nothing is free because time passed. The descriptors of the old mount are dead, and with
    // them all that was locked through them.
    let (dead, f) = holder(&place, 0, Style::Flock);
    restart(&mut place);
    assert!(dead.try_lock(f, Style::Flock, Exclusive).is_err());
    let again = Puppet::new(&place.here());
    let g = again.open("f");
    eventually("it is free", || again.try_lock(g, Style::Flock, Exclusive).is_ok());
}

#[test]
fn a_restarted_daemon_lets_go_of_what_was_locked_on_one_mount() {
    a_restart_lets_go_of_what_was_locked(Ground::Mount.lay());
}

#[test]
fn a_restarted_daemon_lets_go_of_what_was_locked_over_two_hosts() {
    a_restart_lets_go_of_what_was_locked(Ground::Hosts.lay());
}

#[test]
fn who_waits_for_a_daemon_that_is_restarted_gets_it() {
    for style in STYLES {
        let mut place = Ground::Hosts.lay();
        let (_dead, _) = holder(&place, 0, style);
        let (living, _) = waiter(&place, 1, style, 1);
        restart(&mut place);
        living.end().unwrap();
        let again = Puppet::new(&place.here());
        let f = again.open("f");
        assert_eq!(again.try_lock(f, style, Exclusive), Err(EAGAIN));
    }
}

#[test]
fn what_is_held_by_its_name_is_waited_for_over_a_restart_of_its_daemon() {
    let mut place = Ground::Hosts.lay();
    let root = place.here();
    let mut holder = Job::start(0, |turn| {
        File::create_new(root.join("x")).unwrap();
        turn.pause();
        fs::remove_file(root.join("x")).unwrap();
    });
    let waiter = Puppet::new(&place.there());
    waiter.begin_open(".wait/x", libc::O_WRONLY | libc::O_CREAT);
    waiter.wait_until_it_waits();
    restart(&mut place);
    assert_eq!(errno(File::create_new(place.there().join("x"))), libc::EEXIST);
    assert!(waiter.is_waiting());
    holder.resume();
    waiter.end().unwrap();
}
