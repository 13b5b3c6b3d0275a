//! Where the primary is, as far as anybody knows, and which answers to that count.
//!
//! | place | who knows | when it is asked |
//! |---|---|---|
//! | fixed | the address itself | never |
//! | sentinels | a majority of them | each second, by a thread |
//! | cluster | any node | when somebody asks again |
//!
//! Each answer has a [`Generation`]. The invariant: once the answer has changed, every connection of an
//! earlier generation is shut down, and [`Primary::is_current`] says no to it. An answer of sentinels counts
//! for [`FRESH`] from *before* the question was sent, so nobody believes a deposed primary for two seconds.
//!
//! Lock order: `asking`, then `known`. Neither is held while a socket is shut down.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::cluster::{self, Map, Slot};
use super::endpoint::{Address, Endpoint, Node, Place};
use super::handshake;
use super::sentinel::Sentinels;
use super::wire::Raw;
use crate::clock::{BootTime, Clock};

/// How often sentinels are asked.
const PERIOD: Duration = Duration::from_secs(1);
/// How long an answer of sentinels counts.
const FRESH: Duration = Duration::from_millis(1900);
/// How long one node of a cluster may take to say where a slot is.
const NODE_LIMIT: Duration = Duration::from_secs(1);

/// Which answer: another number for each answer that differs from the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(u64);

/// There is no primary to talk to; says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable(String);

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreachable {}

/// The present primary of one Redis.
#[derive(Debug)]
pub struct Primary {
    shared: Arc<Shared>,
    /// The nodes of a cluster; held while one is asked, so that a hundred who ask at once ask once.
    asking: Mutex<Vec<Node>>,
    /// How often they were asked.
    round: AtomicU64,
    /// The thread that asks sentinels.
    watcher: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    slot: Slot,
    clock: Arc<dyn Clock>,
    generation: AtomicU64,
    /// Nanoseconds since boot until which the answer counts; `u64::MAX` for those that stay true.
    good_until: AtomicU64,
    /// Whether someone has reason to doubt the answer of a cluster.
    is_doubted: AtomicBool,
    known: Mutex<Known>,
    wake: Condvar,
}

/// The answer, and who relies on it.
#[derive(Debug)]
struct Known {
    answer: Result<Address, Unreachable>,
    links: HashMap<u64, Raw>,
    next: u64,
    is_ending: bool,
}

impl Primary {
    /// Begins to know where the primary of `endpoint` is; in a cluster, that of the keys with the hash tag
    /// `hash_tag` (without braces). Sentinels and nodes of a cluster are asked once before it returns, which
    /// takes a second or the connect timeout; that they did not answer is no error.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(endpoint: Endpoint, hash_tag: &str, clock: Arc<dyn Clock>) -> io::Result<Arc<Self>> {
        let answer = match &endpoint.place {
            Place::Fixed(address) => Ok(address.clone()),
            _ => Err(Unreachable("nobody has said yet where the primary is".to_owned())),
        };
        let nodes = match &endpoint.place {
            Place::Cluster { nodes } => nodes.clone(),
            _ => Vec::new(),
        };
        let sentinels = endpoint.sentinels();
        let shared = Arc::new(Shared {
            slot: Slot::of(hash_tag),
            endpoint,
            clock,
            generation: AtomicU64::new(1),
            good_until: AtomicU64::new(u64::MAX),
            is_doubted: AtomicBool::new(!nodes.is_empty()),
            known: Mutex::new(Known { answer, links: HashMap::new(), next: 0, is_ending: false }),
            wake: Condvar::new(),
        });
        let watcher = match sentinels {
            Some(sentinels) => Some(watch(&shared, sentinels)?),
            None => None,
        };
        let primary = Arc::new(Self { shared, asking: Mutex::new(nodes), round: AtomicU64::new(0), watcher });
        primary.settle();
        Ok(primary)
    }

    /// Where the primary is, and which answer that is.
    ///
    /// # Errors
    /// [`Unreachable`]: nobody knows at present, and why.
    pub fn current(&self) -> Result<(Address, Generation), Unreachable> {
        let known = self.shared.known();
        let address = known.answer.clone()?;
        if self.shared.is_stale() {
            return Err(Unreachable(format!("the last answer of the sentinels is older than {FRESH:?}")));
        }
        Ok((address, self.generation()))
    }

    /// Which answer is the present one. It takes no lock.
    pub fn generation(&self) -> Generation {
        Generation(self.shared.generation.load(Ordering::Acquire))
    }

    /// Whether `generation` is still the answer, and not too old. It takes no lock.
    pub fn is_current(&self, generation: Generation) -> bool {
        self.generation() == generation && !self.shared.is_stale()
    }

    /// What is said of Redis.
    pub fn endpoint(&self) -> &Endpoint {
        &self.shared.endpoint
    }

    /// Asks the nodes of a cluster again where the primary is, unless the answer is another one than `seen` by
    /// now, or somebody else has just asked; for other places it does nothing. It takes the connect timeout at
    /// most. Where no node says, the last answer stays, and stays in doubt.
    ///
    /// Whoever connects need not call it: [`Link::connect`](super::Link::connect) does, after a server said
    /// MOVED, ASK, CLUSTERDOWN or READONLY, or could not be reached.
    pub fn rediscover(&self, seen: Generation) {
        if !matches!(self.shared.endpoint.place, Place::Cluster { .. }) {
            return;
        }
        let round = self.round.load(Ordering::Acquire);
        let mut nodes = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        // Who has waited for another's round has its answer.
        if self.generation() != seen || self.round.load(Ordering::Acquire) != round {
            return;
        }
        self.shared.is_doubted.store(false, Ordering::Relaxed);
        self.shared.ask_cluster(&mut nodes);
        self.round.fetch_add(1, Ordering::AcqRel);
    }

    /// Notes that the answer `seen` may be wrong.
    pub(super) fn doubt(&self, seen: Generation) {
        if self.generation() == seen {
            self.shared.is_doubted.store(true, Ordering::Relaxed);
        }
    }

    /// Asks again where the answer is doubted.
    pub(super) fn settle(&self) {
        if self.shared.is_doubted.load(Ordering::Relaxed) {
            self.rediscover(self.generation());
        }
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }

    /// Keeps `socket`, to shut it down when the answer is not `generation` any more; `None` if it is that
    /// already.
    pub(super) fn register(self: &Arc<Self>, socket: Raw, generation: Generation) -> Option<Registration> {
        let mut known = self.shared.known();
        if self.generation() != generation {
            return None;
        }
        let id = known.next;
        known.next += 1;
        known.links.insert(id, socket);
        Some(Registration { primary: Arc::clone(self), id })
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        self.shared.known().is_ending = true;
        self.shared.wake.notify_all();
        if self.watcher.take().is_some_and(|watcher| watcher.join().is_err()) {
            log::error!("the thread that asks the sentinels has panicked");
        }
    }
}

/// That a socket is to be shut down when its answer ends; forgotten when this is dropped.
#[derive(Debug)]
pub(super) struct Registration {
    primary: Arc<Primary>,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.primary.shared.known().links.remove(&self.id);
    }
}

/// Asks the sentinels once, and then each second.
fn watch(shared: &Arc<Shared>, mut sentinels: Sentinels) -> io::Result<JoinHandle<()>> {
    shared.ask_sentinels(&mut sentinels);
    let shared = Arc::clone(shared);
    let work = move || {
        while shared.pause() {
            shared.ask_sentinels(&mut sentinels);
        }
    };
    std::thread::Builder::new().name("lockfs-sentinel".to_owned()).spawn(work)
}

impl Shared {
    /// Nobody panics while they hold it, but for lack of memory; what it says is whole at any time.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stale(&self) -> bool {
        let good_until = self.good_until.load(Ordering::Acquire);
        good_until != u64::MAX && self.clock.now().boot.as_nanos() > good_until
    }

    /// Waits for the next round; says whether there is one.
    fn pause(&self) -> bool {
        let known = self.known();
        let wait = self.wake.wait_timeout_while(known, self.until_next_round(), |known| !known.is_ending);
        !wait.unwrap_or_else(PoisonError::into_inner).0.is_ending
    }

    /// Rounds begin a period apart: `FRESH` counts from the beginning of one.
    fn until_next_round(&self) -> Duration {
        let began =
            BootTime::from_nanos(self.good_until.load(Ordering::Acquire)).since(BootTime::default() + FRESH);
        let next = BootTime::default() + began + PERIOD;
        next.since(self.clock.now().boot).min(PERIOD)
    }

    fn ask_sentinels(&self, sentinels: &mut Sentinels) {
        let asked = self.clock.now().boot;
        let answer = sentinels.ask(&self.clock);
        self.learn(answer.map_err(Unreachable), (asked + FRESH).as_nanos());
    }

    fn ask_cluster(&self, nodes: &mut Vec<Node>) {
        let start = self.clock.now().boot;
        let mut said = Vec::new();
        for turn in 0..nodes.len() {
            let left = self.endpoint.connect_timeout.saturating_sub(self.clock.now().boot.since(start));
            let node = nodes[turn].clone();
            match self.ask_node(&node, left.min(NODE_LIMIT)) {
                Ok(Map { primary: Some(primary), nodes: others }) => {
                    // Another node is asked first next time: this one may be cut off from the others.
                    nodes.rotate_left(turn + 1);
                    nodes.extend(
                        others.into_iter().filter(|other| !nodes.contains(other)).collect::<Vec<_>>(),
                    );
                    self.learn(Ok(Address::Tcp(primary)), u64::MAX);
                    return;
                }
                Ok(Map { primary: None, .. }) => {
                    said.push(format!("{node} knows no node of slot {}", self.slot.number()));
                }
                Err(why) => said.push(why),
            }
            if left.is_zero() {
                break;
            }
        }
        // The links to the primary of before may well work; if they do not, they say so themselves.
        self.is_doubted.store(true, Ordering::Relaxed);
        let why = format!("no node of the cluster says where the locks are ({})", said.join("; "));
        match &mut self.known().answer {
            Ok(address) => log::debug!("redis primary in doubt address={address}: {why}"),
            answer => *answer = Err(Unreachable(why)),
        }
    }

    fn ask_node(&self, node: &Node, limit: Duration) -> Result<Map, String> {
        let address = Address::Tcp(node.clone());
        let mut wire = handshake::open(&self.endpoint, &address, limit, &self.clock, &|| true, |_| Ok(()))
            .map_err(|error| error.to_string())?;
        let answer = wire.ask(&[&cluster::question()], limit);
        let answer = answer.map_err(|error| format!("{node}: {}", super::wire::reason(&error, limit)))?.pop();
        match answer {
            Some(redis::Value::ServerError(error))
                if error.details().is_some_and(|d| d.contains("disabled")) =>
            {
                Err(format!("{node} is no node of a cluster: use redis://"))
            }
            Some(redis::Value::ServerError(error)) => {
                Err(format!("{node} refuses to say ({})", error.code()))
            }
            answer => answer
                .and_then(|answer| cluster::answer(&answer, self.slot, node))
                .ok_or_else(|| format!("the answer of {node} makes no sense")),
        }
    }

    /// Takes an answer that counts until `good_until`; ends the links of the one before if it is another.
    fn learn(&self, answer: Result<Address, Unreachable>, good_until: u64) {
        let mut known = self.known();
        let is_same = match (&known.answer, &answer) {
            (Ok(old), Ok(new)) => old == new,
            (Err(_), Err(_)) => true,
            _ => false,
        };
        let before = std::mem::replace(&mut known.answer, answer.clone());
        // In this order: a link of the answer before must not take the new date for its own.
        if !is_same {
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        self.good_until.store(good_until, Ordering::Release);
        if is_same {
            return;
        }
        let ended = std::mem::take(&mut known.links);
        drop(known);
        match (before, &answer) {
            (_, Ok(address)) => log::info!("redis primary found address={address}"),
            (Ok(before), Err(why)) => log::warn!("redis primary lost address={before}: {why}"),
            (Err(_), Err(_)) => {}
        }
        ended.values().for_each(Raw::end);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::clock::{ManualClock, Now};

    fn address(host: &str) -> Address {
        Address::Tcp(Node::new(host, 6379))
    }

    fn at(host: &str) -> (Arc<Primary>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(Now::default()));
        let endpoint = Endpoint::at(Place::Fixed(address(host)));
        (Primary::start(endpoint, "ns", Arc::clone(&clock) as Arc<dyn Clock>).unwrap(), clock)
    }

    fn none(why: &str) -> Result<Address, Unreachable> {
        Err(Unreachable(why.to_owned()))
    }

    #[test]
    fn a_fixed_address_is_the_answer_for_ever() {
        let (primary, clock) = at("a");
        let (found, generation) = primary.current().unwrap();
        clock.advance(Duration::from_secs(1_000_000));
        primary.rediscover(generation);
        assert!(found == address("a") && primary.is_current(generation));
        assert_eq!(primary.current(), Ok((found, generation)));
    }

    #[test]
    fn an_answer_that_grows_old_counts_no_more() {
        let (primary, clock) = at("a");
        let fresh = |clock: &ManualClock| (clock.now().boot + FRESH).as_nanos();
        primary.shared.learn(Ok(address("a")), fresh(&clock));
        let generation = primary.generation();
        clock.advance(FRESH);
        assert!(primary.is_current(generation) && primary.current().is_ok());
        clock.advance(Duration::from_millis(1));
        assert!(!primary.is_current(generation) && primary.current().is_err());
        primary.shared.learn(Ok(address("a")), fresh(&clock));
        assert!(primary.is_current(generation) && primary.current().is_ok());
    }

    #[test]
    fn a_generation_is_an_answer() {
        let (primary, _clock) = at("a");
        let mut seen = vec![primary.generation()];
        for (answer, is_new) in [
            (Ok(address("a")), false),
            (Ok(address("b")), true),
            (none("x"), true),
            (none("y"), false),
            (Ok(address("b")), true),
        ] {
            let before = primary.generation();
            primary.shared.learn(answer.clone(), u64::MAX);
            assert_eq!(primary.generation() != before, is_new, "{answer:?}");
            assert_eq!(primary.current().map(|(address, _)| address), answer);
            if is_new {
                assert!(!seen.contains(&primary.generation()));
                seen.push(primary.generation());
            }
        }
    }

    #[test]
    fn another_answer_ends_the_sockets_of_the_one_before() {
        let (primary, _clock) = at("a");
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (kept, _other) = UnixStream::pair().unwrap();
        let generation = primary.generation();
        let registration = primary.register(Raw::Unix(ours), generation);
        drop(primary.register(Raw::Unix(kept), generation));
        assert!(registration.is_some());
        assert_eq!(primary.shared.known().links.len(), 1);
        primary.shared.learn(Ok(address("b")), u64::MAX);
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
        let (late, _other) = UnixStream::pair().unwrap();
        assert!(primary.register(Raw::Unix(late), generation).is_none());
    }
}
