//! What is said of Redis: where it is, who we are there, and how long it may take.
//!
//! Values only; nothing here touches the network or a file. A password is a [`Secret`], which prints as
//! `***`, and no error made here repeats any part of a URL: what stands at the wrong place may be a password.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// A password. It prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The password that `text` is.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The password itself, to be sent and never to be printed.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Who we are to a server: `AUTH [user] password`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// The ACL user; `None` is `default`.
    pub user: Option<String>,
    /// The password; `None` where the server wants none.
    pub password: Option<Secret>,
}

/// A port of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    host: Arc<str>,
    port: u16,
}

impl Node {
    /// The port `port` of `host`, which is a name or an IP address without brackets.
    pub fn new(host: impl Into<Arc<str>>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// Whether `text` is a name or an IP address without brackets.
    pub fn is_host(text: &str) -> bool {
        super::url::is_name(text) || text.parse::<std::net::Ipv6Addr>().is_ok()
    }

    /// A name or an IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Where one server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP port.
    Tcp(Node),
    /// A Unix socket.
    Unix(Arc<Path>),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(node) => node.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Where Redis is, or who knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// One server at one address, for ever.
    Fixed(Address),
    /// Sentinels know.
    Sentinel {
        /// The sentinels, all of them: a majority of these decides.
        nodes: Vec<Node>,
        /// What the sentinels call the group of servers.
        service: String,
        /// Who we are to the sentinels; the servers have a login of their own.
        login: Login,
    },
    /// Any node of a cluster knows.
    Cluster {
        /// Some of the nodes; the others are learnt from them.
        nodes: Vec<Node>,
    },
}

/// The number of a database, as SELECT has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Database(u16);

impl Database {
    /// The number.
    pub fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Database {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| "a database is a number from 0, as in SELECT".to_owned())
    }
}

/// How many replicas must have a step before it is acknowledged, as WAIT has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acks(u8);

impl Acks {
    /// The most that may be asked for.
    pub const MAX: u8 = 16;

    /// How many.
    pub fn count(self) -> u8 {
        self.0
    }

    /// What it is when nobody says: 1 where Sentinel may promote a replica, else 0.
    pub fn default_of(place: &Place) -> Self {
        Self(u8::from(matches!(place, Place::Sentinel { .. })))
    }
}

impl fmt::Display for Acks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Acks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let count = text.parse().ok().filter(|count| *count <= Self::MAX);
        count.map(Self).ok_or_else(|| format!("say how many replicas: 0 to {}", Self::MAX))
    }
}

/// That connections are encrypted, and with which files. They are read at each connecting, so that a
/// certificate may be renewed under a running daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authorities that may vouch for a server, in PEM; `None` for those of the system.
    pub ca_file: Option<PathBuf>,
    /// Our certificate and what leads to its authority, in PEM.
    pub cert_file: Option<PathBuf>,
    /// The key of our certificate, in PEM.
    pub key_file: Option<PathBuf>,
}

/// All that is said of a Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub place: Place,
    /// The database; `None` where nobody said, which is 0.
    pub database: Option<Database>,
    /// Who we are to the servers.
    pub login: Login,
    /// Whether connections are encrypted: to the servers, and to the sentinels.
    pub tls: Option<Tls>,
    /// How long it may take until a server has been reached, all its addresses together.
    pub connect_timeout: Duration,
    /// How long an answer may take.
    pub command_timeout: Duration,
}

impl Endpoint {
    /// How long connecting may take when nobody says.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
    /// How long an answer may take when nobody says.
    pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);
    /// Where Redis listens when nobody says.
    pub const PORT: u16 = 6379;
    /// Where a sentinel listens when nobody says.
    pub const SENTINEL_PORT: u16 = 26379;

    /// Redis at `place`; nothing else is said yet.
    pub fn at(place: Place) -> Self {
        Self {
            place,
            database: None,
            login: Login::default(),
            tls: None,
            connect_timeout: Self::CONNECT_TIMEOUT,
            command_timeout: Self::COMMAND_TIMEOUT,
        }
    }

    /// What a URL says:
    ///
    /// - `redis://[user[:password]@]host[:port][/database]`
    /// - `redis+unix:///path[?db=database]`, and the same as `unix://`
    /// - `redis+sentinel://[user:password@]host[:port],host[:port]/service[/database]`; user and password are
    ///   those of the servers
    /// - `redis+cluster://[user:password@]host[:port],host[:port]`
    /// - `rediss://`, `rediss+sentinel://`, `rediss+cluster://`: the same over TLS
    ///
    /// Several hosts are separated by `,` or `+`. User, password, path and service may be percent-encoded.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead; no part of the URL is in the message.
    pub fn parse(url: &str) -> Result<Self, String> {
        super::url::parse(url)
    }

    /// Whether what is said goes together.
    ///
    /// # Errors
    /// What does not, and what to do.
    pub fn check(&self) -> Result<(), String> {
        if matches!(self.place, Place::Cluster { .. }) && self.database().number() != 0 {
            return Err("a cluster has one database: leave out the number".to_owned());
        }
        if self.login.user.is_some() && self.login.password.is_none() {
            return Err(
                "there is a user but no password: set REDIS_PASSWORD or REDIS_PASSWORD_FILE".to_owned()
            );
        }
        match &self.tls {
            Some(Tls { cert_file: Some(_), key_file: None, .. }) => {
                Err("there is a client certificate but no key: set --redis-key-file".to_owned())
            }
            Some(Tls { cert_file: None, key_file: Some(_), .. }) => {
                Err("there is a client key but no certificate: set --redis-cert-file".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// The database.
    pub fn database(&self) -> Database {
        self.database.unwrap_or_default()
    }

    /// What it comes to, for `status` and the log: `redis://db:6379/0`,
    /// `sentinel mymaster at a:26379,b:26379`. Neither user nor password is in it.
    pub fn describe(&self) -> String {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        let encrypted = if self.tls.is_some() { " over TLS" } else { "" };
        let listed = |nodes: &[Node]| nodes.iter().map(Node::to_string).collect::<Vec<_>>().join(",");
        let database = self.database();
        match &self.place {
            Place::Fixed(Address::Tcp(node)) => format!("{scheme}://{node}/{database}"),
            Place::Fixed(Address::Unix(path)) => format!("redis+unix://{}?db={database}", path.display()),
            Place::Sentinel { nodes, service, .. } => {
                let database = match database.number() {
                    0 => String::new(),
                    number => format!(" database {number}"),
                };
                format!("sentinel {service} at {}{database}{encrypted}", listed(nodes))
            }
            Place::Cluster { nodes } => format!("cluster at {}{encrypted}", listed(nodes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_stars() {
        let login = Login { user: Some("ci".to_owned()), password: Some(Secret::new("hunter2")) };
        assert_eq!(format!("{:?}", login.password.as_ref().unwrap()), "***");
        assert_eq!(login.password.as_ref().unwrap().to_string(), "***");
        assert!(!format!("{login:?}").contains("hunter2"));
    }

    #[test]
    fn a_description_has_neither_user_nor_password() {
        for (url, described) in [
            ("redis://u:p@db/3", "redis://db:6379/3"),
            ("rediss://:p@[::1]:7000", "rediss://[::1]:7000/0"),
            ("unix://u:p@/run/r.sock?db=2", "redis+unix:///run/r.sock?db=2"),
            ("redis+sentinel://u:p@a,b:1/mymaster", "sentinel mymaster at a:26379,b:1"),
            ("rediss+sentinel://a/m/4", "sentinel m at a:26379 database 4 over TLS"),
            ("rediss+cluster://u:p@a,b:1", "cluster at a:6379,b:1 over TLS"),
        ] {
            assert_eq!(Endpoint::parse(url).unwrap().describe(), described);
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let check = |change: fn(&mut Endpoint)| {
            let mut endpoint = Endpoint::parse("rediss+cluster://a").unwrap();
            change(&mut endpoint);
            endpoint.check()
        };
        assert_eq!(check(|_| {}), Ok(()));
        assert!(check(|endpoint| endpoint.database = Some(Database(1))).is_err());
        assert!(check(|endpoint| endpoint.login.user = Some("u".to_owned())).is_err());
        let files = |cert: Option<&str>, key: Option<&str>| {
            Some(Tls { ca_file: None, cert_file: cert.map(Into::into), key_file: key.map(Into::into) })
        };
        let tls = |tls| Endpoint { tls, ..Endpoint::parse("rediss://a").unwrap() }.check();
        assert_eq!(tls(files(Some("c"), Some("k"))), Ok(()));
        assert!(tls(files(Some("c"), None)).unwrap_err().contains("--redis-key-file"));
        assert!(tls(files(None, Some("k"))).unwrap_err().contains("--redis-cert-file"));
    }

    #[test]
    fn replicas_are_waited_for_where_one_may_be_promoted() {
        let acks = |url| Acks::default_of(&Endpoint::parse(url).unwrap().place).count();
        assert_eq!((acks("redis+sentinel://a/m"), acks("redis://a"), acks("redis+cluster://a")), (1, 0, 0));
        assert!("17".parse::<Acks>().is_err() && "-1".parse::<Acks>().is_err());
    }
}
