//! A link: one connection to the present primary, from the handshake to the first doubt.
//!
//! The invariant: a reply that [`Link`] hands out came from the server that was the primary when the command
//! left *and* when the reply arrived, and it is the reply to that command. So a link is over (and says so)
//! after any timeout or broken connection, and as soon as the primary is another one; it is never mended.
//!
//! What happened to a command is in the error: [`LinkError::was_sent`].

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value};

use super::endpoint::{Address, Endpoint, Place};
use super::primary::{Generation, Primary, Registration, Unreachable};
use super::tls;
use super::wire::{Raw, Socket, Wire, packed, reason};
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

/// What kind of error a server said: its first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// READONLY: it is a replica.
    ReadOnly,
    /// LOADING: it is reading its data.
    Loading,
    /// MASTERDOWN: a replica that has lost its primary.
    MasterDown,
    /// CLUSTERDOWN: its cluster does not work.
    ClusterDown,
    /// MOVED: the slot is another node's.
    Moved,
    /// ASK: the slot is on its way to another node.
    Ask,
    /// TRYAGAIN: the same.
    TryAgain,
    /// NOSCRIPT: it does not know the script.
    NoScript,
    /// BUSY: another script runs for too long.
    Busy,
    /// OOM: its memory is full.
    OutOfMemory,
    /// MISCONF: it can't write to its disk.
    Misconfigured,
    /// NOAUTH, WRONGPASS, NOPERM, DENIED: it does not let us.
    Denied,
    /// NOREPLICAS: fewer replicas than `min-replicas-to-write`.
    NoReplicas,
    /// WRONGTYPE: the key holds something else than we put there.
    WrongType,
    /// Anything else.
    Other,
}

impl Fault {
    fn of(code: &str) -> Self {
        match code {
            "READONLY" => Self::ReadOnly,
            "LOADING" => Self::Loading,
            "MASTERDOWN" => Self::MasterDown,
            "CLUSTERDOWN" => Self::ClusterDown,
            "MOVED" => Self::Moved,
            "ASK" => Self::Ask,
            "TRYAGAIN" => Self::TryAgain,
            "NOSCRIPT" => Self::NoScript,
            "BUSY" => Self::Busy,
            "OOM" => Self::OutOfMemory,
            "MISCONF" => Self::Misconfigured,
            "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" => Self::Denied,
            "NOREPLICAS" => Self::NoReplicas,
            "WRONGTYPE" => Self::WrongType,
            _ => Self::Other,
        }
    }

    /// Whether it means that the primary is elsewhere, or about to be.
    pub fn is_elsewhere(self) -> bool {
        matches!(self, Self::ReadOnly | Self::MasterDown | Self::ClusterDown | Self::Moved | Self::Ask)
    }
}

/// Why there is no link, or no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// Nobody knows a primary. Nothing was sent.
    NoPrimary(Unreachable),
    /// The server was not reached. Nothing was sent.
    Unreachable {
        /// Which server.
        address: Address,
        /// What happened.
        why: String,
    },
    /// The server was reached, and is not one to work with: login, TLS, version. Nothing was sent.
    Unfit {
        /// Which server.
        address: Address,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The server is a replica. Nothing was sent.
    NotPrimary {
        /// Which server.
        address: Address,
        /// What it says that it is.
        role: String,
    },
    /// The link was over before the command was sent. Nothing was sent.
    Over {
        /// Which server.
        address: Address,
        /// Why it is over.
        why: String,
    },
    /// No answer in time. The command may be carried out, even later.
    TimedOut {
        /// Which server.
        address: Address,
        /// How long the answer was waited for.
        limit: Duration,
    },
    /// The connection broke, or the primary changed, before the answer. The command may have been carried out.
    Broken {
        /// Which server.
        address: Address,
        /// What happened.
        why: String,
    },
    /// The server answered with an error.
    Server {
        /// Which server.
        address: Address,
        /// What kind.
        fault: Fault,
        /// All that it said.
        text: String,
    },
}

impl LinkError {
    /// Whether the command may have reached the server. Of one that was answered with an error the outcome is
    /// known; of the others that were sent it is not.
    pub fn was_sent(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Broken { .. } | Self::Server { .. })
    }

    /// Whether nobody knows what became of the command.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Broken { .. })
    }

    /// What kind of error the server said, if it did.
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Self::Server { fault, .. } => Some(*fault),
            _ => None,
        }
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPrimary(why) => write!(f, "cannot reach redis: {why}"),
            Self::Unreachable { address, why } => write!(f, "cannot reach redis at {address}: {why}"),
            Self::Unfit { address, why } => write!(f, "redis at {address} {why}"),
            Self::NotPrimary { address, role } => {
                write!(
                    f,
                    "redis at {address} is a {role}, not the primary: name the primary, or its sentinels"
                )
            }
            Self::Over { address, why } => write!(f, "the connection to redis at {address} is over: {why}"),
            Self::TimedOut { address, limit } => {
                write!(f, "redis at {address} did not answer within {limit:?}")
            }
            Self::Broken { address, why } => {
                write!(f, "the connection to redis at {address} broke before the answer: {why}")
            }
            Self::Server { address, text, .. } => write!(f, "redis at {address} says: {text}"),
        }
    }
}

impl std::error::Error for LinkError {}

/// One connection to the present primary.
#[derive(Debug)]
pub struct Link {
    wire: Wire,
    primary: Arc<Primary>,
    generation: Generation,
    server: Server,
    limit: Duration,
    /// Why it is over, once it is.
    over: Option<String>,
    /// Keeps the socket where [`Primary`] can shut it down.
    _registration: Option<Registration>,
}

impl Link {
    /// Connects to the present primary, logs in, and asks it what it is. It takes the connect timeout and one
    /// command timeout at most; in a cluster that is in doubt the connect timeout twice.
    ///
    /// # Errors
    /// [`LinkError`], of those that say that nothing was sent, or `Server` where it can't say what it is yet.
    pub fn connect(primary: &Arc<Primary>) -> Result<Self, LinkError> {
        primary.settle();
        let (address, generation) = primary.current().map_err(LinkError::NoPrimary)?;
        let result = Self::connect_to(primary, address, generation);
        if let Err(error) = &result {
            log::debug!("redis not connected: {error}");
            primary.doubt(generation);
        }
        result
    }

    fn connect_to(
        primary: &Arc<Primary>,
        address: Address,
        generation: Generation,
    ) -> Result<Self, LinkError> {
        let endpoint = primary.endpoint();
        let mut registration = None;
        let register = |socket: Raw| {
            registration = primary.register(socket, generation);
            match &registration {
                Some(_) => Ok(()),
                None => Err("the primary is another one by now".to_owned()),
            }
        };
        let is_wanted = || primary.is_current(generation);
        let limit = endpoint.command_timeout;
        let mut wire =
            open(endpoint, &address, endpoint.connect_timeout, primary.clock(), &is_wanted, register)?;
        let server = introduce(&mut wire, endpoint, &address)?;
        log::debug!("redis connected address={address} run_id={}", server.run_id);
        Ok(Self {
            wire,
            primary: Arc::clone(primary),
            generation,
            server,
            limit,
            over: None,
            _registration: registration,
        })
    }

    /// What the server said of itself when the link was made.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Whether it may be used: false for ever after the first doubt. A look at an atomic and the clock.
    pub fn is_usable(&self) -> bool {
        self.over.is_none() && self.primary.is_current(self.generation)
    }

    /// Sends `command` and returns the reply, which is never an error of the server; both have the command
    /// timeout together.
    ///
    /// # Errors
    /// [`LinkError`]. The link is over after any but `Server`, and after those that say that the primary is
    /// elsewhere.
    pub fn query(&mut self, command: &Cmd) -> Result<Value, LinkError> {
        self.query_within(command, self.limit)
    }

    /// The same within `limit`, for a command that waits: XREAD BLOCK, WAIT. Be generous: the time of a
    /// command that blocks is the server's, and the answer has a way to go.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub fn query_within(&mut self, command: &Cmd, limit: Duration) -> Result<Value, LinkError> {
        self.begin(&packed(&[command]), limit)?;
        self.take(limit)
    }

    /// The same for a command that is packed already, as [`Cmd::get_packed_command`] has it.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub fn query_packed(&mut self, packed: &[u8]) -> Result<Value, LinkError> {
        self.begin(packed, self.limit)?;
        self.take(self.limit)
    }

    /// Sends two commands in one write, and returns both replies, each with an error of its own: the first
    /// may be known while the second is not. Both together have `limit`.
    ///
    /// The server carries out the second whatever it says to the first (NOSCRIPT, for one).
    pub fn query_two(
        &mut self,
        first: &Cmd,
        second: &Cmd,
        limit: Duration,
    ) -> (Result<Value, LinkError>, Result<Value, LinkError>) {
        if let Err(error) = self.begin(&packed(&[first, second]), limit) {
            return (Err(error.clone()), Err(error));
        }
        let first = self.take(limit);
        let second = match &first {
            Err(error) if error.is_unknown() => Err(error.clone()),
            _ => self.take(limit),
        };
        (first, second)
    }

    /// Sends, if the link is still good.
    fn begin(&mut self, packed: &[u8], limit: Duration) -> Result<(), LinkError> {
        let address = || self.server.address.clone();
        if let Some(why) = &self.over {
            return Err(LinkError::Over { address: address(), why: why.clone() });
        }
        if !self.primary.is_current(self.generation) {
            return Err(self.give_up("the primary is another one by now"));
        }
        if !self.wire.is_sound() {
            return Err(self.give_up("it closed the connection"));
        }
        self.wire.send(packed, limit).map_err(|error| match self.wire.has_sent() {
            true => self.fail(&error, limit),
            false => self.give_up(&reason(&error, limit)),
        })
    }

    /// The next reply.
    fn take(&mut self, limit: Duration) -> Result<Value, LinkError> {
        let value = self.wire.receive().map_err(|error| self.fail(&error, limit))?;
        if !self.primary.is_current(self.generation) {
            let why = "the primary is another one by now";
            self.over = Some(why.to_owned());
            return Err(LinkError::Broken { address: self.server.address.clone(), why: why.to_owned() });
        }
        let Value::ServerError(error) = value else { return Ok(value) };
        let error = said(&self.server.address, &error);
        if error.fault().is_some_and(Fault::is_elsewhere) {
            self.over = Some(error.to_string());
            self.primary.doubt(self.generation);
        }
        Err(error)
    }

    /// The end of the link, with nothing sent.
    fn give_up(&mut self, why: &str) -> LinkError {
        self.over = Some(why.to_owned());
        LinkError::Over { address: self.server.address.clone(), why: why.to_owned() }
    }

    /// The end of the link, with something sent.
    fn fail(&mut self, error: &io::Error, limit: Duration) -> LinkError {
        let why = reason(error, limit);
        self.over = Some(why.clone());
        self.primary.doubt(self.generation);
        let address = self.server.address.clone();
        match error.kind() {
            io::ErrorKind::TimedOut => LinkError::TimedOut { address, limit },
            _ => LinkError::Broken { address, why },
        }
    }
}

fn said(address: &Address, error: &redis::ServerError) -> LinkError {
    let fault = Fault::of(error.code());
    let text = match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    };
    LinkError::Server { address: address.clone(), fault, text }
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

/// AUTH, SELECT and CLIENT SETNAME in one write. The text of a refusal of AUTH is never repeated: a server
/// that does not know the command answers with its arguments.
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

/// Asks the server what it is; refuses a replica, an old one, and one that is still reading its data.
///
/// ROLE would say no more than INFO does, and needs one more permission.
fn introduce(wire: &mut Wire, endpoint: &Endpoint, address: &Address) -> Result<Server, LinkError> {
    let unfit = |why: String| LinkError::Unfit { address: address.clone(), why };
    let mut info = Cmd::new();
    info.arg("INFO");
    let limit = endpoint.command_timeout;
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
    fn an_error_says_whether_the_command_was_sent() {
        let (address, why) = (address(), "connection refused".to_owned());
        let error = LinkError::Unreachable { address: address.clone(), why };
        assert_eq!(error.to_string(), "cannot reach redis at 10.0.0.5:6379: connection refused");
        assert!(!error.was_sent() && !error.is_unknown());
        let error = LinkError::TimedOut { address: address.clone(), limit: Duration::from_secs(5) };
        assert_eq!(error.to_string(), "redis at 10.0.0.5:6379 did not answer within 5s");
        assert!(error.was_sent() && error.is_unknown());
        let value = redis::parse_redis_value(b"-OOM command not allowed\r\n").unwrap();
        let Value::ServerError(error) = value else { panic!("{value:?}") };
        let error = said(&address, &error);
        assert_eq!(error.to_string(), "redis at 10.0.0.5:6379 says: OOM command not allowed");
        assert_eq!(error.fault(), Some(Fault::OutOfMemory));
        assert!(error.was_sent() && !error.is_unknown());
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
