//! Exclusion while Redis is killed, and while it stands still: who can't be told waits or is told so, nobody is
//! let in besides the holder, and no holder loses what it was granted.

use std::fs::{self, File};

use crate::cluster::Hosts;
use crate::common::job::Job;
use crate::common::{Tree, eventually, sys};
use crate::contest::{Contest, Way};
use crate::servers::redis::{Persistence, RedisServer};

/// How long a call may take, so that a test need not wait for the usual five seconds.
const QUICK: [(&str, &str); 2] = [("REDIS_COMMAND_TIMEOUT", "1000"), ("REDIS_CONNECT_TIMEOUT", "1000")];

const NOCLOBBER: Way = Way::Shell(r#"(set -C; : > "$LOCK")"#, r#"rm "$LOCK""#);

/// Redis loses nothing that it has answered: `appendfsync always`.
fn while_redis_is_killed(way: Way) {
    let hosts = Hosts::with(2, &[], &QUICK);
    Contest { rounds: 12, ..Contest::of(way) }.run_while(hosts, |hosts, progress| {
        for percent in [10, 30, 50, 70] {
            progress.wait_for(percent);
            hosts.redis.kill();
            hosts.redis.restart();
        }
    });
}

fn while_redis_stands_still(way: Way) {
    let hosts = Hosts::with(2, &[], &QUICK);
    Contest { rounds: 12, ..Contest::of(way) }.run_while(hosts, |hosts, progress| {
        for percent in [20, 50] {
            progress.wait_for(percent);
            hosts.redis.pause();
            // That takes longer than a command may.
            progress.wait_for_another_refusal();
            hosts.redis.resume();
        }
    });
}

#[test]
fn o_excl_excludes_while_redis_is_killed() {
    while_redis_is_killed(Way::OpenExcl);
}

#[test]
fn mkdir_excludes_while_redis_is_killed() {
    while_redis_is_killed(Way::Mkdir);
}

#[test]
fn noclobber_excludes_while_redis_is_killed() {
    while_redis_is_killed(NOCLOBBER);
}

#[test]
fn o_excl_excludes_while_redis_is_down_for_longer_than_a_call_may_take() {
    let hosts = Hosts::with(2, &[], &QUICK);
    Contest::of(Way::OpenExcl).run_while(hosts, |hosts, progress| {
        progress.wait_for(40);
        hosts.redis.kill();
        progress.wait_for_another_refusal();
        hosts.redis.restart();
    });
}

#[test]
fn o_excl_excludes_while_redis_stands_still() {
    while_redis_stands_still(Way::OpenExcl);
}

#[test]
fn mkdir_excludes_while_redis_stands_still() {
    while_redis_stands_still(Way::Mkdir);
}

#[test]
fn noclobber_excludes_while_redis_stands_still() {
    while_redis_stands_still(NOCLOBBER);
}

// What a host says again after a restart is what it knew before. It may have been released since.

/// Restarts Redis while `h0` sleeps, after `what` was done on `h1`; returns when `h0` has said what it holds.
fn sleep_through_a_restart_after(hosts: &mut Hosts, what: impl FnOnce(&Tree)) {
    let epoch = |tree: &Tree| tree.status("epoch").parse::<u32>().unwrap();
    let before = epoch(&hosts[0]);
    hosts[0].pause();
    what(&hosts[1]);
    hosts.redis.kill();
    hosts.redis.restart();
    hosts[0].resume();
    eventually("it has said what it holds", || epoch(&hosts[0]) > before && epoch(&hosts[1]) > before);
}

#[test]
fn a_broken_lock_does_not_come_back_with_a_restart_of_redis() {
    let mut hosts = Hosts::with(2, &[], &QUICK);
    let _holder = Job::start(0, |turn| {
        File::create_new(hosts[0].path("f")).unwrap();
        turn.pause();
    });
    sleep_through_a_restart_after(&mut hosts, |other| {
        let token = sys::getxattr(other.path("f"), "user.lock.token").unwrap();
        sys::setxattr(other.path("f"), "user.lock.break", token.as_bytes(), 0).unwrap();
    });
    assert!(hosts.trees().iter().all(|tree| !tree.path("f").exists()));
}

#[test]
fn what_a_session_held_that_was_ended_elsewhere_does_not_come_back_with_a_restart_of_redis() {
    let mut hosts = Hosts::with(2, &[], &QUICK);
    fs::create_dir(hosts[0].path(".sessions/agent")).unwrap();
    File::create_new(hosts[0].path(".sessions/agent/f")).unwrap();
    sleep_through_a_restart_after(&mut hosts, |other| {
        fs::remove_dir(other.path(".sessions/agent")).unwrap();
    });
    assert!(hosts.trees().iter().all(|tree| !tree.path("f").exists()));
}

#[test]
fn what_is_held_stays_held_by_its_holder_over_a_restart_of_redis() {
    let mut hosts = Hosts::with(2, &[], &QUICK);
    let mut holder = Job::start(0, |turn| {
        File::create_new(hosts[0].path("f")).unwrap();
        turn.pause();
        fs::remove_file(hosts[0].path("f")).unwrap();
    });
    let token = sys::getxattr(hosts[1].path("f"), "user.lock.token").unwrap();
    sleep_through_a_restart_after(&mut hosts, |_| {});
    assert_eq!(sys::getxattr(hosts[1].path("f"), "user.lock.token").unwrap(), token);
    holder.resume();
    assert!(!hosts[1].path("f").exists());
}

#[test]
fn what_is_held_comes_back_where_redis_has_lost_it() {
    let server = RedisServer::options().persistence(Persistence::Rdb);
    let mut hosts = Hosts::over(server, 2, &[], &QUICK);
    File::create_new(hosts[1].path("kept")).unwrap();
    hosts.redis.command(&["SAVE"]);
    let mut holder = Job::start(0, |turn| {
        fs::create_dir(hosts[0].path("d")).unwrap();
        File::create_new(hosts[0].path("d/f")).unwrap();
        turn.pause();
        fs::remove_file(hosts[0].path("d/f")).unwrap();
    });
    let token = sys::getxattr(hosts[1].path("d/f"), "user.lock.token").unwrap();
    sleep_through_a_restart_after(&mut hosts, |_| {});
    assert_eq!(sys::getxattr(hosts[1].path("d/f"), "user.lock.token").unwrap(), token);
    assert!(hosts[0].path("kept").exists());
    holder.resume();
    assert!(!hosts[1].path("d/f").exists());
}
