//! While Redis is gone: what may be granted, and what is said of it.

use std::fs::{self, File};

use crate::common::job::Job;
use crate::common::{errno, eventually};
use crate::world::{World, acquire, attribute, await_alone, await_mirrored, events_of};

#[test]
fn redis_decides_while_it_answers() {
    let world = World::new(2, "local");
    let _file = acquire(&world.hosts[0], "f").unwrap();
    assert_eq!(errno(acquire(&world.hosts[1], "f")), libc::EEXIST);
    assert_eq!(attribute(&world.hosts[1], "f", "scope").as_deref(), Some("cluster"));
    assert!(attribute(&world.hosts[1], "f", "token").is_some());
    assert_eq!(attribute(&world.hosts[0], "f", "state").as_deref(), Some("held"));
    assert_eq!(world.hosts[0].status("state"), "ok");
    assert_eq!(world.hosts[0].status("scope"), "cluster");
}

#[test]
fn what_a_host_grants_alone_says_so() {
    let mut world = World::new(1, "local");
    let _before = acquire(&world.hosts[0], "before").unwrap();
    world.lose_redis();
    let host = &world.hosts[0];
    let _file = acquire(host, "f").unwrap();
    assert_eq!(attribute(host, "f", "scope").as_deref(), Some("host"));
    assert_eq!(attribute(host, "f", "token"), None);
    assert_eq!(attribute(host, "f", "state").as_deref(), Some("degraded"));
    assert_eq!(attribute(host, "before", "scope").as_deref(), Some("cluster"));
    assert!(attribute(host, "before", "token").is_some());
    assert_eq!(attribute(host, "before", "state").as_deref(), Some("degraded"));
    assert_eq!((host.status("state"), host.status("scope")), ("degraded".to_owned(), "host".to_owned()));
    assert_eq!(host.status("host_locks"), "1");
    let events = events_of(host, "/f").concat() + &events_of(host, "f").concat();
    assert!(events.contains("scope=host") && !events.contains("token="), "{events}");
}

#[test]
fn at_most_one_holder_per_host_always() {
    let mut world = World::new(1, "local");
    let _before = acquire(&world.hosts[0], "before").unwrap();
    world.lose_redis();
    assert_eq!(errno(acquire(&world.hosts[0], "before")), libc::EEXIST);
    let _file = acquire(&world.hosts[0], "f").unwrap();
    assert_eq!(errno(acquire(&world.hosts[0], "f")), libc::EEXIST);
    world.regain_redis();
    for name in ["before", "f"] {
        assert_eq!(errno(acquire(&world.hosts[0], name)), libc::EEXIST, "{name}");
    }
}

#[test]
fn a_path_last_seen_held_elsewhere_is_not_granted_before_its_deadline() {
    let mut world = World::with(2, "local", &["--ttl", "20s"]);
    let _file = acquire(&world.hosts[1], "f").unwrap();
    await_mirrored(&world.hosts[0], "1");
    world.redis.kill();
    await_alone(&world.hosts[0]);
    assert_eq!(errno(acquire(&world.hosts[0], "f")), libc::EEXIST);
    let left: u64 = attribute(&world.hosts[0], "f", "ttl").unwrap().parse().unwrap();
    assert!((5..=20).contains(&left), "{left}");
    // Its host renews it there as long as it can, and nobody hears of that.
    eventually("its deadline has passed", || acquire(&world.hosts[0], "f").is_ok());
    assert_eq!(attribute(&world.hosts[0], "f", "scope").as_deref(), Some("host"));
}

#[test]
fn by_auto_nothing_is_granted_where_another_host_held_something() {
    let mut world = World::new(2, "auto");
    let _file = acquire(&world.hosts[1], "f").unwrap();
    await_mirrored(&world.hosts[0], "1");
    world.lose_redis();
    assert_eq!(errno(acquire(&world.hosts[0], "g")), libc::EHOSTDOWN);
    assert_eq!(errno(fs::metadata(world.hosts[0].path("g"))), libc::EHOSTDOWN);
    assert!(world.hosts[0].path("f").exists());
    // No other host held anything when this one last looked.
    acquire(&world.hosts[1], "g").unwrap();
}

#[test]
fn by_refuse_nothing_is_granted_and_what_is_held_stays() {
    let mut world = World::new(1, "refuse");
    let file = acquire(&world.hosts[0], "f").unwrap();
    world.lose_redis();
    let host = &world.hosts[0];
    assert_eq!(errno(acquire(host, "g")), libc::EHOSTDOWN);
    assert_eq!(errno(fs::create_dir(host.path("d"))), libc::EHOSTDOWN);
    assert_eq!(errno(acquire(host, "f")), libc::EEXIST);
    assert!(file.metadata().is_ok());
    fs::remove_file(host.path("f")).unwrap();
    assert_eq!(errno(acquire(host, "f")), libc::EHOSTDOWN);
}

#[test]
fn what_redis_granted_ends_with_its_lease_there_and_its_holder_is_told() {
    let mut world = World::with(1, "local", &["--ttl", "9s"]);
    let mut holder = Job::start(0, |turn| {
        let file = File::create_new(world.hosts[0].path("f")).unwrap();
        turn.pause();
        assert_eq!(errno(file.metadata()), libc::ESTALE);
        turn.pause();
        assert_eq!(errno(fs::remove_file(world.hosts[0].path("f"))), libc::ESTALE);
    });
    world.lose_redis();
    let _own = Job::start(0, |turn| {
        File::create_new(world.hosts[0].path("own")).unwrap();
        turn.pause();
    });
    eventually("its lease has ended", || !world.hosts[0].path("f").exists());
    holder.resume();
    let _other = Job::start(0, |turn| {
        File::create_new(world.hosts[0].path("f")).unwrap();
        turn.pause();
    });
    holder.resume();
    assert!(world.hosts[0].path("own").exists());
    assert!(events_of(&world.hosts[0], "f").concat().contains("expire"));
}
