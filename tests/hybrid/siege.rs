//! Faults under contention: each thing that can happen to Redis, to the network and to a daemon, while three on each
//! of two hosts contend for one name. What is judged is the history: see [`crate::contest`].

use std::thread;
use std::time::{Duration, Instant};

use crate::common::eventually;
use crate::contest::{Hold, contest};
use crate::servers::net::Net;
use crate::servers::redis::{Options, Persistence, RedisServer};
use crate::world::{World, await_alone, await_cluster};

/// How long contenders go on in each state.
const SPELL: Duration = Duration::from_secs(1);

fn server() -> Options {
    RedisServer::options().persistence(Persistence::AofAlways).config("enable-debug-command yes")
}

/// Two hosts that decide by themselves when Redis is gone.
fn world() -> World {
    World::over(server(), 2, "local", &[])
}

fn await_all(world: &World) {
    world.hosts.iter().for_each(await_cluster);
}

/// Contends before, while and after `fault` is there; fails where nobody got anything afterwards.
fn besiege(world: &mut World, fault: impl FnOnce(&mut World)) -> Vec<Hold> {
    let mut mended = None;
    let holds = contest(world, |world| {
        thread::sleep(SPELL);
        fault(world);
        await_all(world);
        mended = Some(Instant::now());
        thread::sleep(SPELL);
    });
    let after = holds.iter().filter(|hold| Some(hold.begin) > mended).count();
    assert!(after > 0, "nothing was granted afterwards");
    holds
}

fn has(holds: &[Hold], scope: &str) -> bool {
    holds.iter().any(|hold| hold.scope == scope)
}

#[test]
fn a_redis_that_flaps_every_second() {
    besiege(&mut world(), |world| {
        for _ in 0..6 {
            world.redis.kill();
            thread::sleep(Duration::from_secs(1));
            world.redis.restart();
            thread::sleep(Duration::from_secs(1));
        }
    });
}

#[test]
fn a_redis_that_is_restarted_empty() {
    let holds = besiege(&mut world(), |world| {
        for _ in 0..2 {
            world.redis.restart_empty();
            await_all(world);
            thread::sleep(SPELL);
        }
        world.lose_redis();
        thread::sleep(SPELL);
        world.redis.restart_empty();
    });
    assert!(has(&holds, "host"));
}

#[test]
fn a_redis_that_stands_still() {
    let holds = besiege(&mut world(), |world| {
        for pause in [300, 1_500, 4_000] {
            world.redis.pause();
            thread::sleep(Duration::from_millis(pause));
            world.redis.resume();
            thread::sleep(SPELL);
        }
        world.redis.pause();
        world.hosts.iter().for_each(await_alone);
        thread::sleep(SPELL);
        world.redis.resume();
    });
    assert!(has(&holds, "host"));
}

#[test]
fn a_redis_that_is_slow() {
    besiege(&mut world(), |world| {
        // Slower than usual, and then slower than a call may take.
        for (seconds, times) in [("0.2", 20), ("1.3", 6)] {
            for _ in 0..times {
                world.redis.query::<String>(&["DEBUG", "SLEEP", seconds]).unwrap();
            }
        }
    });
}

#[test]
fn a_redis_that_refuses() {
    let holds = besiege(&mut world(), |world| {
        world.redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
        thread::sleep(SPELL);
        world.redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
        thread::sleep(SPELL);
        world.redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
        world.hosts.iter().for_each(await_alone);
        thread::sleep(SPELL);
        world.redis.command(&["REPLICAOF", "NO", "ONE"]);
        await_all(world);
        thread::sleep(SPELL);
        let admin = world.redis.connect().unwrap();
        change_password(admin, world);
    });
    assert!(has(&holds, "host"));
}

/// Lets nobody in for a while.
fn change_password(mut admin: redis::Connection, world: &World) {
    let mut tell = |words: &[&str]| {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query::<redis::Value>(&mut admin).unwrap();
    };
    tell(&["CONFIG", "SET", "requirepass", "another"]);
    tell(&["AUTH", "another"]);
    tell(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    world.hosts.iter().for_each(await_alone);
    thread::sleep(SPELL);
    tell(&["CONFIG", "SET", "requirepass", ""]);
}

#[test]
fn a_host_that_is_cut_off_and_comes_back() {
    let net = Net::new(3);
    let [there, cut, near] = [net.host(0), net.host(1), net.host(2)];
    let mut world = World::over(server().on(&there), 0, "local", &[]);
    for (host, name) in [(&cut, "h0"), (&near, "h1")] {
        let mut tree = world.prepare(name, "hybrid", &["--on-outage", "local"]);
        host.run(|| tree.mount());
        await_cluster(&tree);
        world.hosts.push(tree);
    }
    let holds = besiege(&mut world, |world| {
        for cable in [true, false] {
            match cable {
                true => cut.cut_from(&there),
                // What the host says arrives; what it is answered does not.
                false => cut.deafen_to(&there),
            }
            await_alone(&world.hosts[0]);
            thread::sleep(SPELL);
            net.heal_all();
            await_all(world);
            thread::sleep(SPELL);
        }
    });
    assert!(holds.iter().any(|hold| hold.host == 0 && hold.scope == "host"));
    assert!(
        holds.iter().all(|hold| hold.host == 0 || hold.scope != "host"),
        "the other one had Redis all the time"
    );
}

#[test]
fn a_daemon_that_is_killed_in_each_state() {
    let mut world = world();
    let holds = besiege(&mut world, |world| {
        let kill = |world: &mut World| {
            world.hosts[0].kill();
            world.hosts[0].mount();
            thread::sleep(SPELL / 2);
        };
        kill(world);
        await_all(world);
        world.redis.pause();
        thread::sleep(SPELL * 2);
        assert_eq!(world.hosts[0].status("mode"), "doubt");
        kill(world);
        world.hosts.iter().for_each(await_alone);
        thread::sleep(SPELL / 2);
        kill(world);
        world.redis.resume();
        eventually("it is seen", || world.hosts[0].status("mode") == "returning");
        kill(world);
        await_all(world);
        world.redis.pause();
        world.hosts.iter().for_each(await_alone);
        thread::sleep(SPELL / 2);
        world.redis.resume();
        eventually("it is seen", || world.hosts[0].status("mode") == "returning");
        // What it brings to Redis is held up there, in the middle.
        thread::sleep(Duration::from_millis(2_500));
        world.redis.command(&["CLIENT", "PAUSE", "900", "WRITE"]);
        eventually("it rejoins", || world.hosts[0].status("mode") == "rejoining");
        kill(world);
    });
    assert!(has(&holds, "host"));
}
