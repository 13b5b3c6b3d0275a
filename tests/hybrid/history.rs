//! Contests over an outage and a partition, with every hold written down and judged.

use std::thread;
use std::time::Duration;

use crate::common::{errno, eventually};
use crate::contest::contest;
use crate::servers::net::Net;
use crate::servers::redis::{Persistence, RedisServer};
use crate::world::{World, acquire, attribute, await_alone, await_cluster, events_of};

/// How long contenders go on in each state.
const SPELL: Duration = Duration::from_millis(1_500);

#[test]
fn at_most_one_cluster_scope_holder_among_hosts_that_reach_the_same_primary() {
    let mut world = World::new(2, "local");
    let holds = contest(&mut world, |world| {
        for _ in 0..2 {
            thread::sleep(SPELL);
            world.lose_redis();
            thread::sleep(SPELL);
            world.regain_redis();
        }
        thread::sleep(SPELL);
    });
    for (host, scope) in [(0, "cluster"), (1, "cluster"), (0, "host"), (1, "host")] {
        assert!(holds.iter().any(|hold| hold.host == host && hold.scope == scope), "{host} {scope}");
    }
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
