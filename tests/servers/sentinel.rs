//! A primary with two replicas, watched by three Sentinels that elect another when it is gone.
//!
//! All are on loopback, or each on a machine of its own, of a network in which they can be cut off. What the test
//! asks them goes over Unix sockets, so it learns what a server thinks that nobody else reaches.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::net::{Host, Net};
use super::redis::{Options, RedisServer};
use super::{eventually, within};

/// The name under which the Sentinels know the primary.
pub const SERVICE: &str = "mymaster";

const SERVERS: usize = 3;
const SENTINELS: usize = 3;
const QUORUM: usize = 2;

/// How the set is started.
#[derive(Clone, Debug, Default)]
pub struct SentinelOptions {
    servers: Options,
    password: Option<String>,
    lines: Vec<String>,
    net: Option<Net>,
}

impl SentinelOptions {
    /// How the three Redis servers are started: persistence, a password, users, more settings.
    pub fn servers(mut self, options: Options) -> Self {
        self.servers = options;
        self
    }

    /// The password of the Sentinels themselves.
    pub fn sentinel_password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// One more line of the Sentinels' settings; it wins over all that is said here.
    pub fn sentinel_config(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// Starts each on a machine of its own: the servers on the first three, the Sentinels on the next three.
    pub fn on(mut self, net: &Net) -> Self {
        self.net = Some(net.clone());
        self
    }

    /// Starts all of them. Returns when the replicas have what the primary has, and the Sentinels know each other
    /// and both replicas.
    pub fn start(self) -> SentinelSet {
        let at = |options: Options, index: usize| match &self.net {
            Some(net) => options.on(&net.host(index)),
            None => options,
        };
        let mut servers = vec![at(self.servers.clone(), 0).start()];
        let primary = (servers[0].address(), servers[0].port());
        for index in 1..SERVERS {
            let line = format!("replicaof {} {}", primary.0, primary.1);
            servers.push(at(self.servers.clone(), index).config(&line).start());
        }
        let mut options = watching(primary, &self.servers);
        for line in &self.lines {
            options = options.config(line);
        }
        if let Some(password) = &self.password {
            options = options.password(password);
        }
        let sentinels = (SERVERS..SERVERS + SENTINELS).map(|index| at(options.clone(), index).start());
        let set = SentinelSet { servers, sentinels: sentinels.collect(), net: self.net };
        (0..SENTINELS).for_each(|index| set.hasten(index));
        set.wait_for_replicas(0, SERVERS - 1);
        set.wait_until_watched();
        set
    }
}

fn watching((address, port): (Ipv4Addr, u16), servers: &Options) -> Options {
    let mut options = RedisServer::options()
        .sentinel()
        .config(&format!("sentinel monitor {SERVICE} {address} {port} {QUORUM}"))
        .config(&format!("sentinel down-after-milliseconds {SERVICE} 1000"))
        .config(&format!("sentinel failover-timeout {SERVICE} 3000"))
        .config(&format!("sentinel parallel-syncs {SERVICE} 2"));
    let (user, password) = servers.credentials();
    if let Some(user) = user {
        options = options.config(&format!("sentinel auth-user {SERVICE} {user}"));
    }
    if let Some(password) = password {
        options = options.config(&format!("sentinel auth-pass {SERVICE} {password}"));
    }
    options
}

/// Three Redis servers and three Sentinels.
#[derive(Debug)]
pub struct SentinelSet {
    /// The servers; the first one is the primary at the start.
    pub servers: Vec<RedisServer>,
    /// The Sentinels.
    pub sentinels: Vec<RedisServer>,
    net: Option<Net>,
}

impl SentinelSet {
    /// Starts a set on loopback, without passwords or persistence.
    pub fn start() -> Self {
        Self::options().start()
    }

    /// A set that is to be started otherwise.
    pub fn options() -> SentinelOptions {
        SentinelOptions::default()
    }

    /// The URLs of the Sentinels, without a password.
    pub fn sentinel_urls(&self) -> Vec<String> {
        self.sentinels.iter().map(RedisServer::url).collect()
    }

    /// The machine of a server.
    pub fn server_host(&self, index: usize) -> Host {
        self.net.as_ref().expect("the set is on a network").host(index)
    }

    /// The machine of a Sentinel.
    pub fn sentinel_host(&self, index: usize) -> Host {
        self.net.as_ref().expect("the set is on a network").host(SERVERS + index)
    }

    /// Where the primary is, as a majority of the Sentinels says.
    pub fn primary_address(&self) -> SocketAddrV4 {
        let mut found = None;
        eventually("most Sentinels name one primary", || {
            found = self.agreed_address();
            found.is_some()
        });
        found.unwrap()
    }

    /// Which server the primary is, as a majority of the Sentinels says.
    pub fn primary(&self) -> usize {
        self.server_at(self.primary_address())
    }

    /// Which server has this address.
    pub fn server_at(&self, address: SocketAddrV4) -> usize {
        let found = self.servers.iter().position(|server| socket_of(server) == address);
        found.unwrap_or_else(|| panic!("no server is at {address}"))
    }

    /// Waits until most Sentinels name another primary than this, which takes itself for one. Returns its address.
    pub fn wait_for_failover(&self, from: SocketAddrV4) -> SocketAddrV4 {
        let mut found = from;
        within(Duration::from_secs(60), &format!("another primary follows {from}"), || {
            found = self.agreed_address().unwrap_or(from);
            found != from && self.is_primary(self.server_at(found))
        });
        found
    }

    /// Waits until a server has at least so many replicas that follow it closely.
    pub fn wait_for_replicas(&self, index: usize, count: usize) {
        let server = &self.servers[index];
        within(Duration::from_secs(60), &format!("{} has {count} replicas", server.url()), || {
            let about = server.query::<String>(&["INFO", "replication"]).unwrap_or_default();
            about.matches("state=online").count() >= count
        });
    }

    /// Waits until all Sentinels take the primary for well, know the others, and both replicas.
    pub fn wait_until_watched(&self) {
        for sentinel in &self.sentinels {
            within(Duration::from_secs(60), &format!("{} knows all", sentinel.url()), || {
                let about: Vec<String> = sentinel.query(&["SENTINEL", "MASTER", SERVICE]).unwrap_or_default();
                let says = |key: &str, value: &str| about.chunks(2).any(|pair| pair == [key, value]);
                says("flags", "master")
                    && says("num-slaves", &(SERVERS - 1).to_string())
                    && says("num-other-sentinels", &(SENTINELS - 1).to_string())
                    && sentinel.query::<String>(&["SENTINEL", "CKQUORUM", SERVICE]).is_ok()
            });
        }
    }

    /// Kills a Sentinel if it runs, and starts it again with what it knew.
    pub fn restart_sentinel(&mut self, index: usize) {
        self.sentinels[index].restart();
        self.hasten(index);
    }

    /// Lets a Sentinel look around more often than by default, and bear a slow machine. This is not in its file.
    fn hasten(&self, index: usize) {
        let periods =
            ["INFO-PERIOD", "200", "PING-PERIOD", "200", "ASK-PERIOD", "200", "PUBLISH-PERIOD", "200"];
        let words = ["SENTINEL", "DEBUG"].into_iter().chain(periods).chain(["TILT-TRIGGER", "20000"]);
        self.sentinels[index].command(&words.collect::<Vec<_>>());
    }

    fn is_primary(&self, index: usize) -> bool {
        let about = self.servers[index].query::<String>(&["INFO", "replication"]);
        about.is_ok_and(|about| about.contains("role:master"))
    }

    fn agreed_address(&self) -> Option<SocketAddrV4> {
        let said: Vec<_> = self.sentinels.iter().filter_map(address_of_primary).collect();
        said.iter().find(|&one| said.iter().filter(|&other| other == one).count() >= QUORUM).copied()
    }
}

fn socket_of(server: &RedisServer) -> SocketAddrV4 {
    SocketAddrV4::new(server.address(), server.port())
}

fn address_of_primary(sentinel: &RedisServer) -> Option<SocketAddrV4> {
    let request = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE];
    let (address, port) = sentinel.query::<(String, u16)>(&request).ok()?;
    Some(SocketAddrV4::new(address.parse().unwrap(), port))
}
