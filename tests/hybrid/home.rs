//! When Redis is back: what was done alone is brought to it.

use std::fs::{self, File};

use crate::common::job::Job;
use crate::common::{errno, eventually};
use crate::world::{World, acquire, attribute, await_alone, await_cluster, events_of};

#[test]
fn what_a_host_granted_alone_is_a_lock_of_the_cluster_after_the_rejoin() {
    let mut world = World::new(2, "local");
    world.lose_redis();
    let host = &world.hosts[0];
    fs::create_dir(host.path("d")).unwrap();
    let _file = acquire(host, "d/f").unwrap();
    fs::write(host.path("d/f"), "mine\n").unwrap();
    world.regain_redis();
    let [host, other] = [&world.hosts[0], &world.hosts[1]];
    assert_eq!(errno(acquire(other, "d/f")), libc::EEXIST);
    assert_eq!(fs::read_to_string(other.path("d/f")).unwrap(), "mine\n");
    assert_eq!(attribute(host, "d/f", "scope").as_deref(), Some("cluster"));
    assert!(attribute(other, "d/f", "token").is_some());
    assert_eq!(host.status("promoted"), "2");
    fs::remove_file(host.path("d/f")).unwrap();
    assert!(!other.path("d/f").exists());
}

#[test]
fn what_is_open_stays_open_over_the_rejoin() {
    let mut world = World::new(1, "local");
    world.lose_redis();
    let mut holder = Job::start(0, |turn| {
        use std::io::Write;
        let mut file = File::create_new(world.hosts[0].path("f")).unwrap();
        turn.pause();
        file.write_all(b"still mine").unwrap();
        assert_eq!(file.metadata().unwrap().len(), 10);
        fs::remove_file(world.hosts[0].path("f")).unwrap();
    });
    world.redis.restart();
    await_cluster(&world.hosts[0]);
    holder.resume();
    assert!(!world.hosts[0].path("f").exists());
}

#[test]
fn after_rejoin_at_most_one_holder_is_left_and_the_other_is_told() {
    let mut world = World::new(2, "local");
    world.lose_redis();
    let mut losers = Vec::new();
    let mut holders = Vec::new();
    for host in &world.hosts {
        let job = Job::start(0, |turn| {
            let file = File::create_new(host.path("f")).unwrap();
            turn.pause();
            match file.metadata() {
                Ok(_) => fs::remove_file(host.path("f")).unwrap(),
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::ESTALE));
                    assert_eq!(errno(fs::remove_file(host.path("f"))), libc::ESTALE);
                }
            }
        });
        holders.push(job);
    }
    world.regain_redis();
    let owner = attribute(&world.hosts[0], "f", "host").unwrap();
    for (host, holder) in world.hosts.iter().zip(holders) {
        let lost = events_of(host, "f").iter().filter(|line| line.contains(" lost ")).count();
        let is_owner = *host.status("host") == owner;
        assert_eq!(lost, usize::from(!is_owner));
        if is_owner { losers.insert(losers.len(), holder) } else { losers.insert(0, holder) }
    }
    // The loser first: its release must not touch the other's lock.
    losers[0].resume();
    assert!(world.hosts[0].path("f").exists());
    losers[1].resume();
    assert!(!world.hosts[0].path("f").exists());
}

#[test]
fn a_release_made_during_the_outage_is_applied_at_rejoin() {
    let mut world = World::new(2, "refuse");
    let _file = acquire(&world.hosts[0], "f").unwrap();
    world.lose_redis();
    fs::remove_file(world.hosts[0].path("f")).unwrap();
    assert_eq!(world.hosts[0].status("owed"), "1");
    world.regain_redis();
    assert!(!world.hosts[1].path("f").exists());
    assert_eq!(world.hosts[0].status("owed"), "0");
    acquire(&world.hosts[1], "f").unwrap();
}

#[test]
fn a_release_made_during_the_outage_never_touches_a_newer_holder() {
    let mut world = World::with(1, "refuse", &["--ttl", "8s"]);
    let mut other = world.prepare("h1", "redis", &["--ttl", "30s"]);
    let host = &world.hosts[0];
    let _file = acquire(host, "f").unwrap();
    world.redis.pause();
    await_alone(&world.hosts[0]);
    fs::remove_file(world.hosts[0].path("f")).unwrap();
    // Nobody but Redis may go on: this host is stopped until another has the name.
    world.hosts[0].pause();
    world.redis.resume();
    other.mount();
    eventually("its lease has ended", || acquire(&other, "f").is_ok());
    let token = attribute(&other, "f", "token");
    world.hosts[0].resume();
    await_cluster(&world.hosts[0]);
    assert_eq!(attribute(&other, "f", "token"), token);
    assert_eq!(world.hosts[0].status("let_go_late"), "0");
}

#[test]
fn a_release_made_during_the_outage_never_touches_who_was_handed_the_lock() {
    let mut world = World::new(1, "refuse");
    let mut other = world.prepare("h1", "redis", &[]);
    fs::create_dir(world.hosts[0].path(".sessions/giver")).unwrap();
    acquire(&world.hosts[0], ".sessions/giver/f").unwrap();
    world.redis.pause();
    await_alone(&world.hosts[0]);
    fs::remove_file(world.hosts[0].path(".sessions/giver/f")).unwrap();
    // Nobody but Redis may go on: this host is stopped until the lock was handed over there.
    world.hosts[0].pause();
    world.redis.resume();
    other.mount();
    fs::create_dir(other.path(".sessions/taker")).unwrap();
    fs::rename(other.path(".sessions/giver/f"), other.path(".sessions/taker/f")).unwrap();
    let token = attribute(&other, "f", "token");
    world.hosts[0].resume();
    await_cluster(&world.hosts[0]);
    assert_eq!(attribute(&other, "f", "token"), token);
    assert_eq!(attribute(&other, "f", "session").as_deref(), Some("taker"));
    assert_eq!(world.hosts[0].status("let_go_late"), "0");
}

#[test]
fn nothing_that_was_held_is_forgotten_by_an_outage_shorter_than_its_ttl() {
    let mut world = World::new(2, "local");
    let _file = acquire(&world.hosts[0], "f").unwrap();
    fs::create_dir(world.hosts[0].path(".sessions/agent")).unwrap();
    acquire(&world.hosts[0], ".sessions/agent/g").unwrap();
    let tokens = ["f", "g"].map(|name| attribute(&world.hosts[0], name, "token"));
    world.lose_redis();
    assert_eq!(["f", "g"].map(|name| attribute(&world.hosts[0], name, "token")), tokens);
    world.regain_redis();
    for host in &world.hosts {
        assert_eq!(["f", "g"].map(|name| attribute(host, name, "token")), tokens);
    }
    fs::remove_dir(world.hosts[0].path(".sessions/agent")).unwrap();
    assert!(!world.hosts[1].path("g").exists());
}

#[test]
fn no_token_is_given_twice_or_goes_back() {
    let mut world = World::new(1, "local");
    let mut last = 0;
    for round in 0..2 {
        drop(acquire(&world.hosts[0], "f").unwrap());
        let token: u64 = attribute(&world.hosts[0], "f", "token").unwrap().parse().unwrap();
        assert!(token > last, "round {round}: {token} after {last}");
        fs::remove_file(world.hosts[0].path("f")).unwrap();
        world.lose_redis();
        drop(acquire(&world.hosts[0], "f").unwrap());
        world.regain_redis();
        let promoted: u64 = attribute(&world.hosts[0], "f", "token").unwrap().parse().unwrap();
        assert!(promoted > token, "round {round}: {promoted} after {token}");
        fs::remove_file(world.hosts[0].path("f")).unwrap();
        last = promoted;
    }
}

#[test]
fn what_is_open_lives_on_though_it_is_let_go_of_during_the_outage() {
    let mut world = World::new(2, "refuse");
    let mut holder = Job::start(0, |turn| {
        use std::io::{Read, Seek, Write};
        let mut file =
            File::options().create_new(true).read(true).write(true).open(world.hosts[0].path("f")).unwrap();
        file.write_all(b"note").unwrap();
        turn.pause();
        fs::remove_file(world.hosts[0].path("f")).unwrap();
        for _ in 0..2 {
            let mut note = String::new();
            file.rewind().unwrap();
            file.read_to_string(&mut note).unwrap();
            assert_eq!(note, "note");
            turn.pause();
        }
    });
    world.lose_redis();
    holder.resume();
    assert!(!world.hosts[0].path("f").try_exists().is_ok_and(|exists| exists));
    world.redis.restart();
    world.hosts.iter().for_each(await_cluster);
    holder.resume();
    holder.resume();
    assert!(!world.hosts[1].path("f").exists());
}
