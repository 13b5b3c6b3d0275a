//! The handshake: into a server, and what it says that it is.
//!
//! The text of a refused login is never repeated: a server that does not know AUTH, because it was renamed,
//! answers with its arguments.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value};

use super::endpoint::{Address, Endpoint, Place};
use super::link::{Fault, LinkError, said};
use super::tls;
use super::wire::{Raw, Socket, Wire, reason};
use crate::clock::Clock;

/// The oldest server that is good enough: `INFO` with several sections, and scripts that may call it.
const OLDEST: (u32, u32, u32) = (7, 0, 0);

/// What a server said of itself in the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it listens.
    pub address: Address,
    /// Its version.
    pub version: (u32, u32, u32),
    /// Another for each start of the process.
    pub run_id: String,
    /// Another for each history of the data: a restart without data, a failover.
    pub replication_id: String,
    /// `master`: a link is never to anything else.
    pub role: String,
    /// How many replicas are connected to it.
    pub replicas: u32,
    /// Whether it keeps an append-only file; `None` if it does not say.
    pub appendonly: Option<bool>,
    /// What it does when its memory is full; `None` if it does not say.
    pub maxmemory_policy: Option<String>,
    /// How much memory it may use, in bytes; 0 for no limit.
    pub maxmemory: u64,
}

/// Connects to `address` and logs in, within `limit`; `register` gets a handle of the socket before the
/// server can keep anybody waiting.
pub(super) fn open(
    endpoint: &Endpoint,
    address: &Address,
    limit: Duration,
    clock: &Arc<dyn Clock>,
    is_wanted: &dyn Fn() -> bool,
    register: impl FnOnce(Raw) -> Result<(), String>,
) -> Result<Wire, LinkError> {
    let start = clock.now().boot;
    let left = || limit.saturating_sub(clock.now().boot.since(start));
    let unreachable = |why: String| LinkError::Unreachable { address: address.clone(), why };
    let unfit = |why: String| LinkError::Unfit { address: address.clone(), why };
    let client = match &endpoint.tls {
        Some(tls) => Some(tls::client(tls, address).map_err(|why| unfit(format!("needs TLS: {why}")))?),
        None => None,
    };
    let is_encrypted = client.is_some();
    let socket = Socket::connect(address, limit, clock, is_wanted)
        .map_err(|error| unreachable(reason(&error, limit)))?;
    let handle = socket.handle().map_err(|error| unreachable(reason(&error, limit)))?;
    register(handle).map_err(unreachable)?;
    let mut wire = Wire::over(socket, client, left()).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => unfit(format!("can't be spoken to over TLS: {error}")),
        _ => unreachable(format!("{} in the TLS handshake", reason(&error, limit))),
    })?;
    log_in(&mut wire, endpoint, left()).map_err(|trouble| match trouble {
        // With TLS 1.3 a refused certificate of ours shows at the first read.
        Trouble::Network(error) if is_encrypted && error.kind() == io::ErrorKind::InvalidData => {
            unfit(format!("can't be spoken to over TLS: {error}"))
        }
        Trouble::Network(error) => unreachable(reason(&error, limit)),
        Trouble::Refused(why) => unfit(why),
    })?;
    Ok(wire)
}

enum Trouble {
    Network(io::Error),
    Refused(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Network(error)
    }
}

/// AUTH, SELECT and CLIENT SETNAME in one write.
fn log_in(wire: &mut Wire, endpoint: &Endpoint, limit: Duration) -> Result<(), Trouble> {
    let (mut auth, mut select, mut name) = (Cmd::new(), Cmd::new(), Cmd::new());
    name.arg("CLIENT").arg("SETNAME").arg("lockfs");
    let mut commands = Vec::new();
    if let Some(password) = &endpoint.login.password {
        auth.arg("AUTH").arg(endpoint.login.user.as_deref()).arg(password.reveal());
        commands.push((&auth, Greeting::Auth));
    }
    if endpoint.database().number() != 0 {
        select.arg("SELECT").arg(endpoint.database().number());
        commands.push((&select, Greeting::Select));
    }
    commands.push((&name, Greeting::Name));
    let packed: Vec<&Cmd> = commands.iter().map(|(command, _)| *command).collect();
    let replies = wire.ask(&packed, limit)?;
    for ((_, greeting), reply) in commands.iter().zip(replies) {
        if let Value::ServerError(error) = reply
            && let Some(why) = greeting.refusal(endpoint, &error)
        {
            return Err(Trouble::Refused(why));
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Greeting {
    Auth,
    Select,
    Name,
}

impl Greeting {
    /// What the refusal means, if it matters: nobody needs the name.
    fn refusal(self, endpoint: &Endpoint, error: &redis::ServerError) -> Option<String> {
        let user = endpoint.login.user.as_deref().unwrap_or("default");
        let details = error.details().unwrap_or_default();
        match (self, error.code()) {
            (Self::Auth, "WRONGPASS") => {
                Some(format!("refused the password of user '{user}' (REDIS_PASSWORD, REDIS_PASSWORD_FILE)"))
            }
            (Self::Auth, "ERR") if details.contains("without any password configured") => Some(
                "has no password, but one is set here: unset REDIS_PASSWORD, or set requirepass there"
                    .to_owned(),
            ),
            (Self::Auth, code) => Some(format!("refused the login of user '{user}' ({code})")),
            (_, "NOAUTH") => Some("wants a password: set REDIS_PASSWORD or REDIS_PASSWORD_FILE".to_owned()),
            (_, "DENIED") => Some(
                "is in protected mode and takes no connections from other machines: set a password there"
                    .to_owned(),
            ),
            (Self::Select, _) => Some(format!("has no database {} for us: {details}", endpoint.database())),
            (Self::Name, _) => None,
        }
    }
}

/// Asks the server what it is, within `limit`; refuses a replica, an old one, and one that is still reading its data.
///
/// ROLE would say no more than INFO does, and needs one more permission.
pub(super) fn introduce(
    wire: &mut Wire,
    endpoint: &Endpoint,
    address: &Address,
    limit: Duration,
) -> Result<Server, LinkError> {
    let unfit = |why: String| LinkError::Unfit { address: address.clone(), why };
    let mut info = Cmd::new();
    info.arg("INFO");
    let why =
        |error: io::Error| LinkError::Unreachable { address: address.clone(), why: reason(&error, limit) };
    let text = match wire.ask(&[&info], limit).map_err(why)?.pop() {
        Some(Value::BulkString(text)) => text,
        Some(Value::ServerError(error)) => {
            return Err(match Fault::of(error.code()) {
                Fault::Denied => unfit("does not let us ask INFO: give the user +info".to_owned()),
                _ => said(address, &error),
            });
        }
        _ => return Err(unfit("does not answer INFO as Redis does".to_owned())),
    };
    let info = Info(String::from_utf8_lossy(&text).into_owned());
    let server = info.server(address).map_err(unfit)?;
    if server.version < OLDEST {
        let (major, minor, patch) = server.version;
        return Err(unfit(format!("is version {major}.{minor}.{patch}: lockfs needs 7.0 or later")));
    }
    if info.get("loading") == Some("1") {
        let text = "LOADING it is reading its data".to_owned();
        return Err(LinkError::Server { address: address.clone(), fault: Fault::Loading, text });
    }
    if server.role != "master" {
        let role = if server.role == "slave" { "replica".to_owned() } else { server.role };
        return Err(LinkError::NotPrimary { address: address.clone(), role });
    }
    let is_node = info.get("cluster_enabled") == Some("1");
    if let (Place::Cluster { .. }, false) = (&endpoint.place, is_node) {
        return Err(unfit("is no node of a cluster: use redis://".to_owned()));
    }
    Ok(server)
}

/// What INFO says: `key:value` lines, and `# Section` ones.
struct Info(String);

impl Info {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
    }

    fn server(&self, address: &Address) -> Result<Server, String> {
        let need = |key: &str| self.get(key).ok_or_else(|| format!("does not say {key} in INFO"));
        let version = need("redis_version")?;
        let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
        let mut part = || parts.next().flatten();
        let version = match (part(), part(), part()) {
            (Some(major), Some(minor), patch) => (major, minor, patch.unwrap_or(0)),
            _ => return Err(format!("says that its version is '{}'", version.escape_debug())),
        };
        Ok(Server {
            address: address.clone(),
            version,
            run_id: need("run_id")?.to_owned(),
            replication_id: need("master_replid")?.to_owned(),
            role: need("role")?.to_owned(),
            replicas: self.get("connected_slaves").and_then(|count| count.parse().ok()).unwrap_or(0),
            appendonly: self.get("aof_enabled").map(|enabled| enabled == "1"),
            maxmemory_policy: self.get("maxmemory_policy").map(str::to_owned),
            maxmemory: self.get("maxmemory").and_then(|bytes| bytes.parse().ok()).unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redis::{Node, Secret};

    fn address() -> Address {
        Address::Tcp(Node::new("10.0.0.5", 6379))
    }

    const INFO: &str = "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\n# Memory\r\nmaxmemory:1048576\r\n\
        maxmemory_human:1M\r\nmaxmemory_policy:noeviction\r\n# Persistence\r\nloading:0\r\naof_enabled:1\r\n\
        # Replication\r\nrole:master\r\nconnected_slaves:2\r\nmaster_replid:def\r\nmaster_replid2:000\r\n";

    #[test]
    fn a_server_says_what_it_is() {
        let server = Info(INFO.to_owned()).server(&address()).unwrap();
        assert_eq!(server.version, (7, 0, 15));
        assert_eq!((server.run_id.as_str(), server.replication_id.as_str()), ("abc", "def"));
        assert_eq!((server.role.as_str(), server.replicas, server.appendonly), ("master", 2, Some(true)));
        assert_eq!((server.maxmemory_policy.as_deref(), server.maxmemory), (Some("noeviction"), 1_048_576));
        let quiet = "redis_version:255.0.0-rc1\nrun_id:a\nmaster_replid:b\nrole:master\n";
        let server = Info(quiet.to_owned()).server(&address()).unwrap();
        assert_eq!((server.version, server.appendonly, server.maxmemory_policy), ((255, 0, 0), None, None));
        assert!(Info("redis_version:x\n".to_owned()).server(&address()).is_err());
    }

    #[test]
    fn a_refused_login_never_repeats_what_the_server_says() {
        let mut endpoint = Endpoint::parse("redis://ci@db").unwrap();
        endpoint.login.password = Some(Secret::new("hunter2"));
        let line = b"-ERR unknown command 'AUTH', with args beginning with: 'ci' 'hunter2'\r\n";
        let Value::ServerError(error) = redis::parse_redis_value(line).unwrap() else { panic!() };
        let why = Greeting::Auth.refusal(&endpoint, &error).unwrap();
        assert_eq!(why, "refused the login of user 'ci' (ERR)");
    }
}
