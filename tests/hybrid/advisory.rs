//! Advisory locks over an outage.

use std::fs::File;
use std::os::fd::AsRawFd;

use crate::common::job::Job;
use crate::common::{errno, eventually};
use crate::world::{World, acquire, await_cluster};

/// Locks a file by flock(2), without waiting.
fn try_lock(file: &File) -> std::io::Result<()> {
    // SAFETY: the descriptor is open as long as `file` lives.
    match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn open(path: std::path::PathBuf) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

#[test]
fn an_advisory_lock_that_a_host_granted_alone_is_one_of_the_cluster_after_the_rejoin() {
    let mut world = World::new(2, "local");
    world.lose_redis();
    let mut holder = Job::start(0, |turn| {
        let file = open(world.hosts[0].path("f"));
        try_lock(&file).unwrap();
        turn.pause();
    });
    let same = open(world.hosts[0].path("f"));
    assert_eq!(errno(try_lock(&same)), libc::EAGAIN);
    drop(same);
    world.redis.restart();
    world.hosts.iter().for_each(await_cluster);
    let other = open(world.hosts[1].path("f"));
    assert_eq!(errno(try_lock(&other)), libc::EAGAIN);
    holder.resume();
    eventually("it is free", || try_lock(&other).is_ok());
}

#[test]
fn an_advisory_lock_that_redis_granted_is_held_over_an_outage_shorter_than_the_lease() {
    let mut world = World::new(2, "local");
    let mut holder = Job::start(0, |turn| {
        let file = open(world.hosts[0].path("f"));
        try_lock(&file).unwrap();
        turn.pause();
    });
    world.lose_redis();
    let same = open(world.hosts[0].path("f"));
    assert_eq!(errno(try_lock(&same)), libc::EHOSTDOWN);
    drop(same);
    world.redis.restart();
    world.hosts.iter().for_each(await_cluster);
    let other = open(world.hosts[1].path("f"));
    assert_eq!(errno(try_lock(&other)), libc::EAGAIN);
    holder.resume();
    eventually("it is free", || try_lock(&other).is_ok());
}

#[test]
fn who_waits_at_one_waits_at_the_other_when_that_decides() {
    let mut world = World::new(2, "local");
    world.lose_redis();
    let mut holder = Job::start(0, |turn| {
        let _file = File::create_new(world.hosts[0].path("f")).unwrap();
        turn.pause();
        std::fs::remove_file(world.hosts[0].path("f")).unwrap();
    });
    let mut waiter =
        world.hosts[0].shell(": > .wait/f && echo got").stdout(std::process::Stdio::piped()).spawn().unwrap();
    eventually("it waits", || world.hosts[0].status("waiting") == "1");
    world.redis.restart();
    world.hosts.iter().for_each(await_cluster);
    eventually("it waits in redis", || world.hosts[1].status("waiting") == "1");
    assert_eq!(errno(acquire(&world.hosts[1], "f")), libc::EEXIST);
    holder.resume();
    assert!(waiter.wait().unwrap().success());
    assert!(world.hosts[1].path("f").exists());
}
