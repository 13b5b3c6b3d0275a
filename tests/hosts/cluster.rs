//! Hosts: several mounts of one namespace, each with a mountpoint, a data directory and a name of its own, over
//! one Redis.

use std::ops::Index;

use crate::common::Tree;
use crate::servers::redis::{Options, Persistence, RedisServer};

/// What all hosts know the namespace as.
pub(crate) const NAMESPACE: &str = "shared";

/// Some hosts, and the Redis that they share. `hosts[0]` is called `h0`.
pub(crate) struct Hosts {
    // They end before their server does: fields are dropped in this order.
    trees: Vec<Tree>,
    pub(crate) redis: RedisServer,
}

impl Hosts {
    /// Mounts on as many hosts.
    pub(crate) fn new(count: usize) -> Self {
        Self::with(count, &[], &[])
    }

    /// The same with more options of `lockfs mount`, and variables of the daemons' environment.
    pub(crate) fn with(count: usize, options: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::over(RedisServer::options().persistence(Persistence::AofAlways), count, options, environment)
    }

    /// The same over a Redis that is started otherwise.
    pub(crate) fn over(
        server: Options,
        count: usize,
        options: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let mut hosts = Self { trees: Vec::new(), redis: server.start() };
        for number in 0..count {
            let mut tree = hosts.prepare(&format!("h{number}"), options, environment);
            tree.mount();
            hosts.trees.push(tree);
        }
        hosts
    }

    /// One more host, which is not mounted yet.
    pub(crate) fn prepare(&self, host: &str, options: &[&str], environment: &[(&str, &str)]) -> Tree {
        let url = self.redis.url();
        let fixed = ["--backend", "redis", "--redis-url", &url, "--namespace", NAMESPACE, "--host-id", host];
        Tree::unmounted(&[&fixed, options].concat(), environment)
    }

    /// All of them.
    pub(crate) fn trees(&self) -> &[Tree] {
        &self.trees
    }

    /// One of them, to kill it or to mount it again.
    pub(crate) fn host(&mut self, number: usize) -> &mut Tree {
        &mut self.trees[number]
    }

    /// The first two.
    pub(crate) fn pair(&self) -> [&Tree; 2] {
        [&self.trees[0], &self.trees[1]]
    }
}

impl Index<usize> for Hosts {
    type Output = Tree;

    fn index(&self, number: usize) -> &Tree {
        &self.trees[number]
    }
}
