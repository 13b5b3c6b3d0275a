//! Hosts with a hybrid store, over one Redis.

use std::fs::{self, File};
use std::io;

use crate::common::{Tree, eventually, sys};
use crate::servers::redis::{Options, Persistence, RedisServer};

/// How long a call may take, so that a test need not wait for the usual five seconds.
const QUICK: [(&str, &str); 2] = [("REDIS_COMMAND_TIMEOUT", "1000"), ("REDIS_CONNECT_TIMEOUT", "1000")];

/// Some hosts, and the Redis that they share. They are called `h0`, `h1`.
pub(crate) struct World {
    // They end before their server does: fields are dropped in this order.
    pub(crate) hosts: Vec<Tree>,
    pub(crate) redis: RedisServer,
}

impl World {
    /// So many hosts, that do on an outage as `policy` says.
    pub(crate) fn new(count: usize, policy: &str) -> Self {
        Self::with(count, policy, &[])
    }

    /// The same with more options of `lockfs mount`.
    pub(crate) fn with(count: usize, policy: &str, options: &[&str]) -> Self {
        Self::over(RedisServer::options().persistence(Persistence::AofAlways), count, policy, options)
    }

    /// The same over a Redis that is started otherwise.
    pub(crate) fn over(server: Options, count: usize, policy: &str, options: &[&str]) -> Self {
        let mut world = Self { hosts: Vec::new(), redis: server.start() };
        for number in 0..count {
            let mut tree =
                world.prepare(&format!("h{number}"), "hybrid", &[&["--on-outage", policy], options].concat());
            tree.mount();
            eventually("the mirror has all", || tree.status("mirrored") == "1");
            world.hosts.push(tree);
        }
        world
    }

    /// One more host, which is not mounted yet.
    pub(crate) fn prepare(&self, host: &str, backend: &str, options: &[&str]) -> Tree {
        let url = self.redis.url();
        let fixed = ["--backend", backend, "--redis-url", &url, "--namespace", "shared", "--host-id", host];
        Tree::unmounted(&[&fixed, options].concat(), &QUICK)
    }

    /// Kills Redis, and waits until the hosts stand alone.
    pub(crate) fn lose_redis(&mut self) {
        self.redis.kill();
        self.hosts.iter().for_each(await_alone);
    }

    /// Starts Redis again, and waits until it decides for all.
    pub(crate) fn regain_redis(&mut self) {
        self.redis.restart();
        self.hosts.iter().for_each(await_cluster);
    }
}

/// Waits until a host decides by itself.
pub(crate) fn await_alone(tree: &Tree) {
    eventually("it stands alone", || tree.status("mode") == "alone");
}

/// Waits until Redis decides for a host, and its mirror follows.
pub(crate) fn await_cluster(tree: &Tree) {
    eventually("redis decides", || tree.status("mode") == "cluster" && tree.status("mirrored") == "1");
}

/// Acquires a name as `O_EXCL` does.
pub(crate) fn acquire(tree: &Tree, name: &str) -> io::Result<File> {
    File::create_new(tree.path(name))
}

/// An attribute of a lock; `None` where it has none.
pub(crate) fn attribute(tree: &Tree, name: &str, attribute: &str) -> Option<String> {
    let value = sys::getxattr(tree.path(name), &format!("user.lock.{attribute}")).ok()?;
    Some(String::from_utf8_lossy(value.as_ref()).into_owned())
}

/// The lines of `.lockfs/events` that name a lock.
pub(crate) fn events_of(tree: &Tree, name: &str) -> Vec<String> {
    let events = fs::read_to_string(tree.path(".lockfs/events")).unwrap();
    let end = format!("path={name}");
    events.lines().filter(|line| line.ends_with(&end)).map(str::to_owned).collect()
}

/// Makes the mirrors see what other hosts did: they ask about once a period.
pub(crate) fn await_mirrored(tree: &Tree, locks: &str) {
    eventually("the mirror follows", || tree.status("mirror_locks") == locks);
}
