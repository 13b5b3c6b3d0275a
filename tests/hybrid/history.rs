//! Contests over an outage and a partition, with every hold written down and judged.
//!
//! The stamps of a hold are taken after its acquire and before its release: what is written is shorter than what was.
//! Two holds of one host that overlap, or two that Redis granted, are two holders at once. What one host granted alone
//! may overlap with what another has: that is what its scope says.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Tree, errno, eventually};
use crate::servers::net::Net;
use crate::servers::redis::{Persistence, RedisServer};
use crate::world::{World, acquire, attribute, await_alone, await_cluster, events_of};

/// How long contenders go on in each state.
const SPELL: Duration = Duration::from_millis(1_500);

#[derive(Clone, Debug)]
struct Hold {
    host: usize,
    scope: String,
    begin: Instant,
    /// `None` where its holder was told that it has lost it.
    end: Option<Instant>,
}

/// Takes and releases a name until it is told to stop.
fn contend(host: usize, tree: &Tree, name: &str, stop: &AtomicBool) -> Vec<Hold> {
    let mut holds = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let file = match acquire(tree, name) {
            Ok(file) => file,
            Err(error) => {
                let errno = error.raw_os_error().unwrap();
                assert!([libc::EEXIST, libc::EHOSTDOWN, libc::ETIMEDOUT].contains(&errno), "{error}");
                thread::sleep(Duration::from_millis(if errno == libc::EEXIST { 1 } else { 20 }));
                continue;
            }
        };
        let scope = attribute(tree, name, "scope").unwrap_or_default();
        let begin = Instant::now();
        thread::sleep(Duration::from_millis(2));
        let end = Instant::now();
        drop(file);
        let (mut is_kept, mut is_unknown) = (None, false);
        eventually("it is released", || {
            is_kept = match fs::remove_file(tree.path(name)) {
                Ok(()) => Some(true),
                Err(error) => match error.raw_os_error().unwrap() {
                    libc::ESTALE | libc::ENOENT => Some(false),
                    libc::EHOSTDOWN => None,
                    libc::ETIMEDOUT => {
                        is_unknown = true;
                        None
                    }
                    // It was released by a call of which nobody knew that, and is another's by now.
                    libc::EPERM if is_unknown => Some(true),
                    _ => panic!("{error}"),
                },
            };
            is_kept.is_some()
        });
        holds.push(Hold { host, scope, begin, end: (is_kept == Some(true)).then_some(end) });
    }
    holds
}

/// Fails where two held a name that may not have.
fn judge(holds: &mut [Hold]) {
    holds.sort_by_key(|hold| hold.begin);
    for (index, one) in holds.iter().enumerate() {
        let Some(end) = one.end else {
            continue;
        };
        for other in holds[index + 1..].iter().take_while(|other| other.begin < end) {
            let is_same = one.host == other.host;
            let is_of_cluster = one.scope == "cluster" && other.scope == "cluster";
            assert!(!is_same && !is_of_cluster, "two held it at once: {one:?} and {other:?}");
        }
    }
}

#[test]
fn at_most_one_cluster_scope_holder_among_hosts_that_reach_the_same_primary() {
    let mut world = World::new(2, "local");
    let stop = AtomicBool::new(false);
    let hosts = std::mem::take(&mut world.hosts);
    let mut holds = thread::scope(|scope| {
        let mut contenders = Vec::new();
        for (number, tree) in hosts.iter().enumerate() {
            for _ in 0..3 {
                let stop = &stop;
                contenders.push(scope.spawn(move || contend(number, tree, "contested", stop)));
            }
        }
        for _ in 0..2 {
            thread::sleep(SPELL);
            world.redis.kill();
            hosts.iter().for_each(await_alone);
            thread::sleep(SPELL);
            world.redis.restart();
            hosts.iter().for_each(await_cluster);
        }
        thread::sleep(SPELL);
        stop.store(true, Ordering::Relaxed);
        contenders.into_iter().flat_map(|contender| contender.join().unwrap()).collect::<Vec<_>>()
    });
    judge(&mut holds);
    for (host, scope) in [(0, "cluster"), (1, "cluster"), (0, "host"), (1, "host")] {
        assert!(holds.iter().any(|hold| hold.host == host && hold.scope == scope), "{host} {scope}");
    }
    for tree in &hosts {
        assert!(!tree.path("contested").exists(), "it is free when all have let go of it");
        assert_eq!(tree.status("owed"), "0");
    }
    world.hosts = hosts;
}

#[test]
fn a_host_that_is_cut_off_stands_alone_and_the_others_go_on_with_redis() {
    let net = Net::new(3);
    let [there, cut, near] = [net.host(0), net.host(1), net.host(2)];
    let server = RedisServer::options().persistence(Persistence::AofAlways).on(&there);
    let mut world = World::over(server, 0, "local", &[]);
    for (host, name) in [(&cut, "h0"), (&near, "h1")] {
        let mut tree = world.prepare(name, "hybrid", &["--on-outage", "local"]);
        host.run(|| tree.mount());
        await_cluster(&tree);
        world.hosts.push(tree);
    }
    let before = acquire(&world.hosts[1], "before").unwrap();
    eventually("the mirror follows", || world.hosts[0].status("mirror_locks") == "1");
    cut.cut_from(&there);
    await_alone(&world.hosts[0]);
    assert_eq!(errno(acquire(&world.hosts[0], "before")), libc::EEXIST);
    // That is what a partition does, and what the scopes say.
    let lost = acquire(&world.hosts[0], "f").unwrap();
    let kept = acquire(&world.hosts[1], "f").unwrap();
    assert_eq!(attribute(&world.hosts[0], "f", "scope").as_deref(), Some("host"));
    assert_eq!(attribute(&world.hosts[1], "f", "scope").as_deref(), Some("cluster"));
    assert_eq!(world.hosts[1].status("mode"), "cluster");
    let token = attribute(&world.hosts[1], "f", "token");
    let _own = acquire(&world.hosts[0], "own").unwrap();
    net.heal_all();
    world.hosts.iter().for_each(await_cluster);
    assert_eq!(errno(lost.metadata()), libc::ESTALE);
    assert!(kept.metadata().is_ok() && before.metadata().is_ok());
    assert_eq!(attribute(&world.hosts[0], "f", "token"), token);
    assert!(events_of(&world.hosts[0], "f").concat().contains(" lost "));
    assert_eq!(errno(acquire(&world.hosts[1], "own")), libc::EEXIST);
    assert_eq!(world.hosts[0].status("lost_at_rejoin"), "1");
}
