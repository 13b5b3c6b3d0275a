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

use super::endpoint::Address;
use super::handshake::{Server, introduce, open};
use super::primary::{Generation, Primary, Registration, Unreachable};
use super::wire::{Raw, Wire, packed, reason};

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
    /// It does not know the function: nobody has loaded the library there, or somebody has flushed it.
    NoFunction,
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
    /// LOCKFS: a function of ours says that something is not as lockfs leaves it.
    Complaint,
    /// LOST: a function of ours says that a part of the namespace went.
    Lost,
    /// Anything else.
    Other,
}

impl Fault {
    pub(super) fn of(code: &str) -> Self {
        match code {
            "READONLY" => Self::ReadOnly,
            "LOADING" => Self::Loading,
            "MASTERDOWN" => Self::MasterDown,
            "CLUSTERDOWN" => Self::ClusterDown,
            "MOVED" => Self::Moved,
            "ASK" => Self::Ask,
            "TRYAGAIN" => Self::TryAgain,
            "BUSY" => Self::Busy,
            "OOM" => Self::OutOfMemory,
            "MISCONF" => Self::Misconfigured,
            "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" => Self::Denied,
            "NOREPLICAS" => Self::NoReplicas,
            "WRONGTYPE" => Self::WrongType,
            "LOCKFS" => Self::Complaint,
            "LOST" => Self::Lost,
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
        Self::connect_within(primary, Duration::MAX)
    }

    /// The same for whoever can't wait that long: both timeouts are `limit` at most.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_within(primary: &Arc<Primary>, limit: Duration) -> Result<Self, LinkError> {
        primary.settle();
        let (address, generation) = primary.current().map_err(LinkError::NoPrimary)?;
        let result = Self::connect_to(primary, address, generation, limit);
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
        most: Duration,
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
        let reaching = endpoint.connect_timeout.min(most);
        let mut wire = open(endpoint, &address, reaching, primary.clock(), &is_wanted, register)?;
        let server = introduce(&mut wire, endpoint, &address, limit.min(most))?;
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

/// The error of a server, as ours.
pub(super) fn said(address: &Address, error: &redis::ServerError) -> LinkError {
    let fault = match error.details() {
        // The one error that has no word of its own (functions.c, `fcallCommandGeneric`).
        Some("Function not found") => Fault::NoFunction,
        // In a function nobody gets to hear TRYAGAIN or ASK (script.c of Redis).
        Some(details) if details.contains("access a non local key") => Fault::TryAgain,
        _ => Fault::of(error.code()),
    };
    // Where in the function it was is of no use to anybody who has not its text.
    let details = error.details().map(|details| details.split(" script: ").next().unwrap_or(details));
    let text = match details {
        Some(details) if matches!(fault, Fault::Complaint | Fault::Lost) => details.to_owned(),
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    };
    LinkError::Server { address: address.clone(), fault, text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redis::Node;

    fn address() -> Address {
        Address::Tcp(Node::new("10.0.0.5", 6379))
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
}
