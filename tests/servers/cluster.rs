//! Three primaries of a cluster on loopback, without replicas, each with a third of the slots.
//!
//! It takes two seconds to start: a node of a cluster takes no requests before (`CLUSTER_WRITABLE_DELAY` in
//! cluster.c of Redis), and so it is when a node is restarted.

use std::ops::RangeInclusive;

use ::redis::Value;

use super::eventually;
use super::redis::{Options, RedisServer};

/// The slots of each node at the start.
const SLOTS: [RangeInclusive<u16>; 3] = [0..=5_460, 5_461..=10_922, 10_923..=16_383];

/// A cluster of three nodes.
#[derive(Debug)]
pub struct RedisCluster {
    /// The nodes.
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts a cluster that keeps nothing and needs no password.
    pub fn start() -> Self {
        Self::with(RedisServer::options())
    }

    /// Starts a cluster whose nodes are started so. Returns when each node takes requests.
    pub fn with(options: Options) -> Self {
        let nodes: Vec<_> = SLOTS.iter().map(|_| options.clone().cluster().start()).collect();
        for (index, (node, slots)) in nodes.iter().zip(SLOTS).enumerate() {
            let [first, last] = [slots.start(), slots.end()].map(u16::to_string);
            node.command(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
            // Nodes that meet with the same epoch would have to settle it first.
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
            for other in &nodes[..index] {
                node.command(&["CLUSTER", "MEET", &other.address().to_string(), &other.port().to_string()]);
            }
        }
        let cluster = Self { nodes };
        cluster.wait_until_ready();
        cluster
    }

    /// Waits until each node knows all, and all slots are served.
    pub fn wait_until_ready(&self) {
        for node in &self.nodes {
            eventually(&format!("the cluster of {} is well", node.url()), || {
                let about = node.query::<String>(&["CLUSTER", "INFO"]).unwrap_or_default();
                let says = |line: String| about.lines().any(|said| said == line);
                says("cluster_state:ok".to_owned()) && says(format!("cluster_known_nodes:{}", SLOTS.len()))
            });
        }
    }

    /// The URLs of the nodes, without a password.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(RedisServer::url).collect()
    }

    /// The slot of a key.
    pub fn slot_of(&self, key: &str) -> u16 {
        self.nodes[0].query(&["CLUSTER", "KEYSLOT", key]).unwrap()
    }

    /// The node that had a key's slot at the start.
    pub fn node_of(&self, key: &str) -> usize {
        let slot = self.slot_of(key);
        SLOTS.iter().position(|slots| slots.contains(&slot)).expect("a slot is below 16384")
    }

    /// Moves a slot, with what is in it, from one node to another. Whoever asks the old one then hears MOVED.
    pub fn move_slot(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let [old, new] = [&self.nodes[from], &self.nodes[to]];
        let [old_id, new_id] = [old, new].map(|node| node.command(&["CLUSTER", "MYID"]));
        new.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &old_id]);
        old.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &new_id]);
        let (address, port) = (new.address().to_string(), new.port().to_string());
        loop {
            // Those of mounts are no text.
            let keys: Vec<Vec<u8>> = old.query(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]).unwrap();
            if keys.is_empty() {
                break;
            }
            for key in keys {
                let mut migrate = ::redis::cmd("MIGRATE");
                migrate.arg(&address).arg(&port).arg(&key).arg(&["0", "5000"]);
                let (user, password) = old.started().credentials();
                match (user, password) {
                    (Some(user), Some(password)) => migrate.arg(&["AUTH2", user, password]),
                    (None, Some(password)) => migrate.arg(&["AUTH", password]),
                    (_, None) => &mut migrate,
                };
                migrate.query::<Value>(&mut old.connect().unwrap()).unwrap();
            }
        }
        for node in [new, old].into_iter().chain(&self.nodes) {
            node.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &new_id]);
        }
    }
}
