//! What can happen to Redis and to the daemon, in each state.

use std::fs;

use crate::common::{errno, eventually};
use crate::servers::redis::{Persistence, RedisServer};
use crate::world::{World, acquire, attribute, await_alone, await_cluster};

#[test]
fn a_daemon_that_is_killed_alone_goes_on_alone_and_brings_all_home() {
    let mut world = World::new(1, "local");
    let _before = world.hosts[0].holder(": > before");
    let _gone = world.hosts[0].holder(": > gone; trap 'rm gone; echo done' USR1");
    world.lose_redis();
    let _own = world.hosts[0].holder(": > own");
    fs::create_dir(world.hosts[0].path(".sessions/agent")).unwrap();
    acquire(&world.hosts[0], ".sessions/agent/named").unwrap();
    world.hosts[0].kill();
    world.hosts[0].mount();
    assert_eq!(world.hosts[0].status("mode"), "alone");
    for name in ["before", "own", "named"] {
        assert_eq!(errno(acquire(&world.hosts[0], name)), libc::EEXIST, "{name}");
    }
    world.regain_redis();
    for name in ["before", "own", "named"] {
        assert_eq!(attribute(&world.hosts[0], name, "scope").as_deref(), Some("cluster"), "{name}");
        assert_eq!(errno(acquire(&world.hosts[0], name)), libc::EEXIST, "{name}");
    }
}

#[test]
fn a_daemon_that_is_killed_while_redis_decides_knows_what_it_granted() {
    let mut world = World::new(1, "local");
    let _before = world.hosts[0].holder(": > before");
    world.hosts[0].kill();
    world.redis.kill();
    world.hosts[0].mount();
    assert_eq!(world.hosts[0].status("mode"), "alone");
    assert_eq!(errno(acquire(&world.hosts[0], "before")), libc::EEXIST);
    let _own = acquire(&world.hosts[0], "own").unwrap();
    world.regain_redis();
    assert_eq!(errno(acquire(&world.hosts[0], "before")), libc::EEXIST);
}

#[test]
fn what_a_daemon_left_alone_is_brought_home_by_the_next() {
    let mut world = World::new(2, "local");
    let _before = world.hosts[0].holder(": > before; : > let-go");
    world.lose_redis();
    let _own = world.hosts[0].holder(": > own");
    world.hosts[0].kill();
    world.redis.restart();
    world.hosts[0].mount();
    await_cluster(&world.hosts[0]);
    await_cluster(&world.hosts[1]);
    for name in ["before", "own"] {
        assert_eq!(errno(acquire(&world.hosts[1], name)), libc::EEXIST, "{name}");
    }
}

#[test]
fn a_redis_that_is_restarted_empty_gets_all_back() {
    let server = RedisServer::options().persistence(Persistence::None);
    let mut world = World::over(server, 2, "local", &[]);
    let _before = world.hosts[0].holder("mkdir d; : > d/before; : > let-go");
    let token = attribute(&world.hosts[1], "d/before", "token");
    world.lose_redis();
    let _own = world.hosts[0].holder(": > d/own");
    world.redis.restart_empty();
    world.hosts.iter().for_each(await_cluster);
    assert_eq!(attribute(&world.hosts[1], "d/before", "token"), token);
    assert_eq!(errno(acquire(&world.hosts[1], "d/own")), libc::EEXIST);
}

#[test]
fn a_redis_that_stands_still_is_gone_and_grants_nothing_late() {
    let mut world = World::new(2, "local");
    world.redis.pause();
    // It may be asked of Redis before that counts as gone; it must not be granted there later.
    let first = acquire(&world.hosts[0], "f");
    world.hosts.iter().for_each(await_alone);
    if first.is_err() {
        acquire(&world.hosts[0], "f").unwrap();
    }
    world.redis.resume();
    world.hosts.iter().for_each(await_cluster);
    assert_eq!(errno(acquire(&world.hosts[1], "f")), libc::EEXIST);
    fs::remove_file(world.hosts[0].path("f")).unwrap();
    assert!(!world.hosts[1].path("f").exists());
}

#[test]
fn a_full_redis_decides_still() {
    let world = World::new(1, "local");
    acquire(&world.hosts[0], "f").unwrap();
    world.redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    eventually("nothing can be granted", || {
        let refused = acquire(&world.hosts[0], "g").err();
        refused.and_then(|error| error.raw_os_error()) == Some(libc::ENOSPC)
    });
    assert_eq!(world.hosts[0].status("mode"), "cluster");
    fs::remove_file(world.hosts[0].path("f")).unwrap();
    assert_eq!(world.hosts[0].status("mode"), "cluster");
    world.redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    acquire(&world.hosts[0], "g").unwrap();
}

#[test]
fn a_redis_that_is_a_replica_now_is_gone() {
    let world = World::new(1, "local");
    world.redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
    await_alone(&world.hosts[0]);
    let _own = acquire(&world.hosts[0], "own").unwrap();
    world.redis.command(&["REPLICAOF", "NO", "ONE"]);
    await_cluster(&world.hosts[0]);
    assert_eq!(attribute(&world.hosts[0], "own", "scope").as_deref(), Some("cluster"));
}

#[test]
fn a_redis_that_wants_another_password_is_gone() {
    let world = World::new(1, "local");
    world.redis.command(&["CONFIG", "SET", "requirepass", "another"]);
    world.redis.query::<String>(&["PING"]).unwrap_err();
    // Connections that are there stay so: Redis asks each for the password once.
    let _own = acquire(&world.hosts[0], "own").unwrap();
    assert_eq!(world.hosts[0].status("mode"), "cluster");
}

#[test]
fn a_redis_that_flaps_lets_nothing_be_granted_here() {
    let mut world = World::new(1, "local");
    world.lose_redis();
    for _ in 0..2 {
        world.redis.restart();
        eventually("it is seen", || world.hosts[0].status("mode") == "returning");
        world.lose_redis();
    }
    assert_eq!(errno(acquire(&world.hosts[0], "f")), libc::EHOSTDOWN);
    assert!(world.hosts[0].status("grants").contains("comes and goes"));
    // What it grants is right, however often it goes.
    world.regain_redis();
    acquire(&world.hosts[0], "f").unwrap();
}
