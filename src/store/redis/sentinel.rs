//! Sentinels: a majority of them names the primary, or there is none.
//!
//! All are asked at once, each over a connection of its own that stays. One sentinel alone may be cut off
//! together with a deposed primary, so what a minority says counts for nothing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value};

use super::cluster::text;
use super::endpoint::{Address, Endpoint, Login, Node, Tls};
use super::tls;
use super::wire::{Socket, Wire, reason};
use crate::clock::Clock;

/// How long one round of questions takes at most.
pub(super) const ROUND: Duration = Duration::from_millis(700);

/// Those who are asked.
#[derive(Debug)]
pub(super) struct Sentinels {
    service: String,
    askers: Vec<Asker>,
}

/// One sentinel, and the connection to it.
#[derive(Debug)]
struct Asker {
    node: Node,
    login: Login,
    tls: Option<Tls>,
    wire: Option<Wire>,
}

/// What one sentinel says: an address, that it knows none, or nothing.
type Vote = Result<Option<Node>, String>;

impl Sentinels {
    /// The sentinels `nodes` of `service`.
    pub(super) fn new(nodes: &[Node], service: &str, login: &Login, tls: Option<&Tls>) -> Self {
        let asker =
            |node: &Node| Asker { node: node.clone(), login: login.clone(), tls: tls.cloned(), wire: None };
        Self { service: service.to_owned(), askers: nodes.iter().map(asker).collect() }
    }

    /// Asks all of them; takes [`ROUND`] at most.
    ///
    /// # Errors
    /// Why no majority names one primary, sentinel by sentinel.
    pub(super) fn ask(&mut self, clock: &Arc<dyn Clock>) -> Result<Address, String> {
        let service = &self.service;
        let votes: Vec<(String, Vote)> = std::thread::scope(|scope| {
            let asking: Vec<_> = self
                .askers
                .iter_mut()
                .map(|asker| {
                    let name = asker.node.to_string();
                    let ask = move || asker.ask(service, clock);
                    (name, std::thread::Builder::new().name("lockfs-ask".to_owned()).spawn_scoped(scope, ask))
                })
                .collect();
            let answers = asking.into_iter().map(|(name, thread)| {
                let vote = match thread.map(std::thread::ScopedJoinHandle::join) {
                    Ok(Ok(vote)) => vote,
                    Ok(Err(_)) => Err("it could not be asked".to_owned()),
                    Err(error) => Err(format!("no thread: {error}")),
                };
                (name, vote)
            });
            answers.collect()
        });
        elect(service, &votes)
    }
}

/// The address that more than half of `votes` name.
fn elect(service: &str, votes: &[(String, Vote)]) -> Result<Address, String> {
    let majority = votes.len() / 2 + 1;
    for (_, vote) in votes {
        let Ok(Some(node)) = vote else { continue };
        let is_same = |(_, other): &&(String, Vote)| matches!(other, Ok(Some(other)) if other == node);
        if votes.iter().filter(is_same).count() >= majority {
            return Ok(Address::Tcp(node.clone()));
        }
    }
    let said = votes.iter().map(|(name, vote)| match vote {
        Ok(Some(node)) => format!("{name} says {node}"),
        Ok(None) => format!("{name} knows no '{service}'"),
        Err(why) => format!("{name}: {why}"),
    });
    let said = said.collect::<Vec<_>>().join("; ");
    Err(format!("no majority of the sentinels names a primary of '{service}' ({said})"))
}

impl Asker {
    fn ask(&mut self, service: &str, clock: &Arc<dyn Clock>) -> Vote {
        let was_open = self.wire.is_some();
        let start = clock.now().boot;
        match self.ask_once(service, clock, ROUND) {
            // A sentinel that was restarted has closed the connection of the last round.
            Err(Trouble::Network(error)) if was_open && error.kind() != io::ErrorKind::TimedOut => {
                let left = ROUND.saturating_sub(clock.now().boot.since(start));
                self.ask_once(service, clock, left).map_err(Trouble::said)
            }
            other => other.map_err(Trouble::said),
        }
    }

    fn ask_once(
        &mut self,
        service: &str,
        clock: &Arc<dyn Clock>,
        limit: Duration,
    ) -> Result<Option<Node>, Trouble> {
        let start = clock.now().boot;
        let left = || limit.saturating_sub(clock.now().boot.since(start));
        let mut wire = match self.wire.take() {
            Some(wire) => wire,
            None => self.open(clock, &left)?,
        };
        let mut question = Cmd::new();
        question.arg("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(service);
        let answer = wire.ask(&[&question], left())?.pop();
        let node = match answer {
            Some(Value::Array(parts)) => match parts.iter().map(text).collect::<Vec<_>>().as_slice() {
                [Some(host), Some(port)] => port.parse().ok().map(|port| Node::new(*host, port)),
                _ => None,
            }
            .ok_or_else(|| Trouble::Refused("its answer makes no sense".to_owned()))
            .map(Some)?,
            Some(Value::Nil) => None,
            Some(Value::ServerError(error)) => {
                return Err(Trouble::Refused(match error.code() {
                    "NOAUTH" => "it wants a password (REDIS_SENTINEL_PASSWORD)".to_owned(),
                    code => format!("it refuses to say ({code})"),
                }));
            }
            _ => return Err(Trouble::Refused("its answer makes no sense: is it a sentinel?".to_owned())),
        };
        self.wire = Some(wire);
        Ok(node)
    }

    fn open(&self, clock: &Arc<dyn Clock>, left: &dyn Fn() -> Duration) -> Result<Wire, Trouble> {
        let address = Address::Tcp(self.node.clone());
        let client = self.tls.as_ref().map(|tls| tls::client(tls, &address)).transpose();
        let client = client.map_err(Trouble::Refused)?;
        let socket = Socket::connect(&address, left(), clock, &|| true)?;
        let mut wire = Wire::over(socket, client, left())?;
        if let Some(password) = &self.login.password {
            let mut command = Cmd::new();
            command.arg("AUTH").arg(self.login.user.as_deref()).arg(password.reveal());
            if !matches!(wire.ask(&[&command], left())?.as_slice(), [Value::Okay]) {
                let what = "it refused the password (REDIS_SENTINEL_PASSWORD)".to_owned();
                return Err(Trouble::Refused(what));
            }
        }
        Ok(wire)
    }
}

/// Why a sentinel gave no vote.
#[derive(Debug)]
enum Trouble {
    Network(io::Error),
    Refused(String),
}

impl Trouble {
    fn said(self) -> String {
        match self {
            Self::Network(error) => reason(&error, ROUND),
            Self::Refused(why) => why,
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Network(error)
    }
}

impl Endpoint {
    /// The sentinels that it names, if any.
    pub(super) fn sentinels(&self) -> Option<Sentinels> {
        match &self.place {
            super::Place::Sentinel { nodes, service, login } => {
                Some(Sentinels::new(nodes, service, login, self.tls.as_ref()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn votes(said: &[Option<&str>]) -> Vec<(String, Vote)> {
        let vote = |(index, host): (usize, &Option<&str>)| {
            let vote = match host {
                Some("") => Ok(None),
                Some(host) => Ok(Some(Node::new(*host, 6379))),
                None => Err("timed out after 0.7s".to_owned()),
            };
            (format!("s{index}:26379"), vote)
        };
        said.iter().enumerate().map(vote).collect()
    }

    #[test]
    fn a_majority_of_all_sentinels_decides() {
        let elected =
            |said: &[Option<&str>]| elect("m", &votes(said)).ok().map(|address| address.to_string());
        let a = || Some("a:6379".to_owned());
        assert_eq!(elected(&[Some("a")]), a());
        assert_eq!(elected(&[Some("a"), Some("a"), None]), a());
        assert_eq!(elected(&[Some("b"), Some("a"), Some("a")]), a());
        assert_eq!(elected(&[Some("a"), None, None]), None);
        assert_eq!(elected(&[Some("a"), None]), None);
        assert_eq!(elected(&[Some("a"), Some("b"), None]), None);
        assert_eq!(elected(&[Some("a"), Some("a"), Some("b"), Some("b")]), None);
        assert_eq!(elected(&[Some(""), Some(""), Some("")]), None);
    }

    #[test]
    fn who_said_what_is_in_the_error() {
        let error = elect("m", &votes(&[Some("a"), Some(""), None])).unwrap_err();
        for part in ["s0:26379 says a:6379", "s1:26379 knows no 'm'", "s2:26379: timed out"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
