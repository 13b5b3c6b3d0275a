//! The hybrid store: Redis decides while it answers, and this host by itself while it does not.
//!
//! Every command goes to Redis. Beside it stands a mirror, a LevelDB store that is told what this host's steps
//! changed, and what those of others did, and is asked nothing. When Redis has not answered for 5 s (`state.rs`) the
//! mirror decides, under the same law, by the policy (`alone.rs`). When Redis is back all of that is brought to it
//! (`rejoin.rs`), and it decides again.
//!
//! The invariants: one of the two decides, never both. What Redis grants while this host takes it for gone is
//! given back. What this host grants has numbers of its own and no token: nobody takes it for a lock of the
//! cluster. What Redis granted ends with its lease there.
//!
//! | kept in the data directory | what |
//! |---|---|
//! | `NAMESPACE/` | the mirror: an ordinary LevelDB store, which the leveldb backend opens as well |
//! | `NAMESPACE.hybrid` | whether this host stood alone, and the clock of Redis less its own |
//! | `NAMESPACE.owed` | what it let go of meanwhile, and Redis has still to hear |
//!
//! Lock order: `local`, then `standing`; the others are leaves. None is held while Redis is asked.

mod alias;
mod alone;
mod chronicle;
mod clock;
mod owed;
mod rejoin;
mod report;
mod state;
mod sync;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::level::{LevelError, LevelStore};
use super::redis::{self, RedisStore};
use super::{Durability, EventPage, Health, LockStore, StoreError, Wakes};
use crate::clock::{BootTime, Clock, Now};
use crate::lock::{Attributes, Ino, Mount, Name, Session, SessionId, Token, Ttl, Waiter};
use crate::table::{Command, Counts, Entry, Outcome, Refusal, Reply, Spot, View};
use alias::Aliases;
use chronicle::Chronicle;
use clock::ServerClock;
use owed::Owed;
pub use state::Policy;
use state::{Grants, Machine, Others, Signal, State};

/// How often the state is looked at.
const PERIOD: Duration = Duration::from_millis(50);

/// How long one wait for wakes lasts at most: who decides may change meanwhile.
const SLICE: Duration = Duration::from_millis(500);

/// What a hybrid store is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// How to open the store on Redis.
    pub redis: redis::Options,
    /// The directory of the mirror.
    pub dir: PathBuf,
    /// What a step of the mirror survives.
    pub durability: Durability,
    /// Where small state is kept: the path of a file, to which endings are added.
    pub state: PathBuf,
    /// What may be granted while Redis is gone.
    pub policy: Policy,
}

/// The hybrid store.
#[derive(Debug)]
pub struct HybridStore {
    pair: Arc<Pair>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Both stores, and who of them decides.
#[derive(Debug)]
struct Pair {
    redis: RedisStore,
    mirror: LevelStore,
    system: Arc<dyn Clock>,
    clock: Arc<ServerClock>,
    host: String,
    policy: Policy,
    limit: Duration,
    state: PathBuf,
    standing: Mutex<Standing>,
    /// Says that who decides has changed.
    changed: Condvar,
    /// Held by each step that this host decides by itself.
    local: Mutex<Replay>,
    /// Held while the mirror is told something.
    telling: Mutex<()>,
    owed: Owed,
    aliases: Aliases,
    chronicle: Mutex<Chronicle>,
    /// Names that sessions had from this host alone, and lost to who had them from Redis.
    lost: Mutex<HashSet<(SessionId, Ino, Name)>>,
    attended: Mutex<Attended>,
    /// Up to which change of who decides waiting calls were told to ask again.
    woken: AtomicU64,
}

/// The lease of the mount that is served.
#[derive(Debug, Default)]
struct Attended {
    /// The mount, and when it last took or renewed its lease.
    last: Option<(Mount, BootTime)>,
    /// Whether the lease had run out at a rejoin, and the mount was not told.
    has_lapsed: bool,
}

/// What has to be asked of Redis once more when it is back: it is of this daemon, and goes with it.
type Replay = Vec<Command>;

#[derive(Debug)]
struct Standing {
    machine: Machine,
    /// Another for each change of who decides.
    era: u64,
    others: Others,
    /// Whether the mirror is in the place in which the state has it.
    is_ready: bool,
    /// Whether the mirror has all that Redis has.
    is_synced: bool,
    /// When the mirror was last told what others did, and whether it was said that it can't be.
    told: BootTime,
    is_in_trouble: bool,
    is_closed: bool,
    tally: Tally,
}

/// How often things happened since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    outages: u64,
    rejoins: u64,
    promoted: u64,
    lost: u64,
    let_go: u64,
}

/// Why this host stood alone, and more, for those who ask.
#[derive(Debug)]
pub enum OpenError {
    /// The mirror can't be opened.
    Mirror(LevelError),
    /// Redis is not to be used, or the system refuses something.
    Store(StoreError),
}

impl From<LevelError> for OpenError {
    fn from(error: LevelError) -> Self {
        Self::Mirror(error)
    }
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Who decides at the moment.
#[derive(Clone, Copy, Debug)]
struct Turn {
    grants: Grants,
    era: u64,
}

impl HybridStore {
    /// Opens both stores. Where Redis can't be reached this host stands alone until it can.
    ///
    /// # Errors
    /// [`OpenError`]: one of them is not to be used.
    pub fn open(options: &Options, system: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let failed = |error: std::io::Error| StoreError::Failed(error.to_string());
        let before = clock::Memory::read(&options.state);
        let clock = Arc::new(ServerClock::new(Arc::clone(&system), before.offset(system.now())));
        let mirror = LevelStore::open_mirror(
            &options.dir,
            options.durability,
            Arc::clone(&clock) as Arc<dyn Clock>,
            options.redis.owner,
        )?;
        let owed = Owed::open(&options.state).map_err(failed)?;
        let redis = RedisStore::open_beside(&options.redis, Arc::clone(&system), clock.offset())?;
        let now = system.now().boot;
        let pulse = redis.pulse();
        clock.set(pulse.offset);
        let machine = match pulse.gone {
            None => Machine::new(options.policy, now),
            Some(_) => Machine::alone(options.policy, now),
        };
        let standing = Standing {
            machine,
            era: 1,
            others: Others::Unknown,
            is_ready: true,
            is_synced: false,
            told: BootTime::default(),
            is_in_trouble: false,
            is_closed: false,
            tally: Tally { outages: pulse.gone.is_some().into(), ..Tally::default() },
        };
        let pair = Pair {
            redis,
            mirror,
            system,
            clock,
            host: options.redis.host.clone(),
            policy: options.policy,
            limit: options.redis.endpoint.command_timeout,
            state: options.state.clone(),
            standing: Mutex::new(standing),
            changed: Condvar::new(),
            local: Mutex::default(),
            telling: Mutex::default(),
            owed,
            aliases: Aliases::default(),
            chronicle: Mutex::default(),
            lost: Mutex::default(),
            attended: Mutex::default(),
            woken: AtomicU64::new(1),
        };
        pair.begin(before.stood_alone, pulse.gone)?;
        let pair = Arc::new(pair);
        let looks = Arc::clone(&pair);
        let thread = std::thread::Builder::new().name("lockfs-hybrid".to_owned()).spawn(move || looks.run());
        Ok(Self { pair, thread: Mutex::new(Some(thread.map_err(failed)?)) })
    }
}

impl Pair {
    /// Goes on where the daemon before this one ended.
    fn begin(&self, stood_alone: bool, gone: Option<String>) -> Result<(), StoreError> {
        if let Some(why) = gone {
            log::warn!("redis can't be reached, and this host stands alone: {why}");
            if stood_alone {
                self.mirror.amend(|table, _| {
                    table.stand_alone_again();
                    (Vec::new(), ())
                })?;
            } else {
                let contact = self.clock.now().boot;
                self.mirror.amend(|table, _| (table.stand_alone(&self.host, contact), ()))?;
            }
            return self.remember(true);
        }
        // What it granted by itself then, Redis has still to hear of.
        match self.bring_home() {
            Ok(()) => self.remember(false),
            Err(StoreError::Unavailable(why) | StoreError::Timeout(why)) => {
                log::warn!("redis has gone again, and this host stands alone: {why}");
                let contact = self.clock.now().boot;
                self.mirror.amend(|table, _| (table.stand_alone(&self.host, contact), ()))?;
                self.standing(|standing| {
                    standing.machine = Machine::alone(self.policy, self.system.now().boot);
                });
                self.remember(true)
            }
            Err(error) => Err(error),
        }
    }

    fn remember(&self, stands_alone: bool) -> Result<(), StoreError> {
        clock::Memory::write(&self.state, stands_alone, self.clock.offset())
            .map_err(|error| StoreError::Failed(format!("{}: {error}", self.state.display())))
    }

    fn standing<T>(&self, act: impl FnOnce(&mut Standing) -> T) -> T {
        act(&mut self.lock_standing())
    }

    fn lock_standing(&self) -> MutexGuard<'_, Standing> {
        // Each field is whole at any time.
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who decides.
    fn turn(&self) -> Turn {
        self.lock_standing().turn()
    }

    fn era(&self) -> u64 {
        self.standing(|standing| standing.era)
    }

    /// Waits until it is known who decides, at most until `deadline`.
    fn await_turn(&self, deadline: BootTime) -> Result<Turn, StoreError> {
        let mut standing = self.lock_standing();
        loop {
            let turn = standing.turn();
            if turn.grants != Grants::Soon {
                return Ok(turn);
            }
            let now = self.system.now().boot;
            if now >= deadline || standing.is_closed {
                return Err(StoreError::Unavailable(
                    "this host brings to redis what it did while that was gone: try again".to_owned(),
                ));
            }
            let wait = self.changed.wait_timeout(standing, deadline.since(now).min(SLICE));
            standing = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn run(&self) {
        loop {
            {
                let standing = self.lock_standing();
                let wait = self.changed.wait_timeout_while(standing, PERIOD, |standing| !standing.is_closed);
                if wait.unwrap_or_else(PoisonError::into_inner).0.is_closed {
                    return;
                }
            }
            self.look();
        }
    }

    /// One look at how it stands with Redis, and what that comes to.
    fn look(&self) {
        let pulse = self.redis.pulse();
        self.clock.set(pulse.offset);
        let now = self.system.now().boot;
        let (before, after, goes) = self.standing(|standing| {
            let before = standing.machine.state();
            if pulse.heard > standing.machine.heard() && pulse.gone.is_none() {
                standing.machine.hear(now, Signal::Answer);
            }
            let signal = match (&pulse.gone, standing.machine.state()) {
                (Some(_), _) => Signal::Silence,
                // Whatever was answered: it is there when its keeper says so.
                (None, State::Doubt | State::Alone) => Signal::Handshake,
                (None, _) => Signal::Nothing,
            };
            let after = standing.machine.hear(now, signal);
            let goes = after == State::Alone && matches!(before, State::Cluster | State::Doubt);
            if goes {
                standing.era += 1;
                standing.is_ready = false;
                standing.tally.outages += 1;
            }
            (before, after, goes)
        });
        if goes {
            log::warn!(
                "redis is gone, and this host decides by itself: {}",
                pulse.gone.as_deref().unwrap_or("it does not answer")
            );
            self.go_alone();
        }
        match (before, after) {
            (_, State::Rejoining) => self.rejoin(),
            (_, State::Cluster) => self.follow(),
            _ => {}
        }
    }

    /// The mirror takes the place of Redis.
    fn go_alone(&self) {
        let contact = self.clock.at(self.standing(|standing| standing.machine.heard()));
        let has_others = self.redis.pulse().has_others;
        let _local = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell_own();
        let opens = self.redis.opens();
        let others = self.mirror.amend(|table, now| {
            table.note_opens(&opens);
            let changes = table.stand_alone(&self.host, contact);
            let is_locked = has_others && table.has_advisory(now);
            let others = match is_locked || table.others_hold(now, &self.host) {
                true => Others::HoldSome,
                false => Others::HoldNothing,
            };
            (changes, others)
        });
        let others = others.and_then(|others| self.remember(true).map(|()| others));
        if let Err(error) = &others {
            log::error!("the mirror does not keep what this host does by itself: {error}");
        }
        self.standing(|standing| {
            let is_known = standing.is_synced;
            standing.others = others.ok().filter(|_| is_known).unwrap_or(Others::Unknown);
            standing.is_ready = true;
        });
        self.changed.notify_all();
    }

    /// What is asked of whoever decides, and changes nothing.
    fn ask<T>(
        &self,
        there: impl Fn(&RedisStore) -> Result<T, StoreError>,
        here: impl Fn(&LevelStore, Grants) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        loop {
            let turn = self.turn();
            if turn.grants != Grants::There {
                return here(&self.mirror, turn.grants);
            }
            match there(&self.redis) {
                // Somebody else decides by now.
                Err(StoreError::Unavailable(_) | StoreError::Timeout(_)) if self.era() != turn.era => {}
                answer => return answer,
            }
        }
    }
}

impl Standing {
    fn turn(&self) -> Turn {
        let grants = if self.is_ready { self.machine.grants(self.others) } else { Grants::Soon };
        Turn { grants, era: self.era }
    }
}

/// What is refused because nobody may grant it.
fn refused(grants: Grants) -> StoreError {
    StoreError::Unavailable(match grants {
        Grants::Nowhere(why) => format!("redis is gone, and {why}"),
        _ => "redis is gone, and this is its to decide".to_owned(),
    })
}

impl LockStore for HybridStore {
    fn execute(&self, command: &Command) -> Result<Outcome, StoreError> {
        self.pair.execute(command)
    }

    fn now(&self) -> Now {
        self.pair.clock.now()
    }

    fn scope(&self) -> &'static str {
        "cluster"
    }

    fn is_degraded(&self) -> bool {
        !matches!(self.pair.standing(|standing| standing.machine.state()), State::Cluster | State::Doubt)
    }

    fn lookup(&self, spot: &Spot) -> Result<Option<Attributes>, StoreError> {
        let deadline = self.pair.system.now().boot + self.pair.limit;
        loop {
            let spot = self.pair.aliases.spot(spot);
            let found = self.pair.ask(
                |redis| redis.lookup(&spot).map(Ok::<_, Grants>),
                |mirror, grants| {
                    mirror.lookup(&spot).map(|found| found.map_or(Err(grants), |found| Ok(Some(found))))
                },
            )?;
            match found {
                Ok(found) => return Ok(found),
                Err(Grants::Here) => return Ok(None),
                Err(Grants::Soon) => {
                    self.pair.await_turn(deadline)?;
                }
                // That nothing stands there is as good as a grant to who asks.
                Err(grants) => return Err(refused(grants)),
            }
        }
    }

    fn stat(&self, ino: Ino) -> Result<Option<Attributes>, StoreError> {
        let ino = self.pair.aliases.ino(ino);
        self.pair.ask(
            |redis| redis.stat(ino),
            |mirror, _| match self.pair.redis.stat_orphan(ino) {
                Some(orphan) => Ok(orphan),
                None => mirror.stat(ino),
            },
        )
    }

    fn glance(&self, ino: Ino) -> Result<Option<Attributes>, StoreError> {
        let ino = self.pair.aliases.ino(ino);
        match self.pair.turn().grants {
            Grants::There => self.pair.ask(|redis| redis.glance(ino), |mirror, _| mirror.stat(ino)),
            _ => self.stat(ino),
        }
    }

    fn view(&self, ino: Ino) -> Result<Option<View>, StoreError> {
        let ino = self.pair.aliases.ino(ino);
        self.pair.ask(
            |redis| redis.view(ino),
            |mirror, _| match self.pair.redis.view_orphan(ino) {
                Some(orphan) => Ok(orphan),
                None => mirror.view(ino),
            },
        )
    }

    fn list(&self, ino: Ino, after: Option<Token>, limit: usize) -> Result<Option<Vec<Entry>>, StoreError> {
        let ino = self.pair.aliases.ino(ino);
        self.pair.ask(|redis| redis.list(ino, after, limit), |mirror, _| mirror.list(ino, after, limit))
    }

    fn list_held(
        &self,
        id: &SessionId,
        ino: Ino,
        after: Option<Token>,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let ino = self.pair.aliases.ino(ino);
        self.pair.ask(
            |redis| redis.list_held(id, ino, after, limit),
            |mirror, _| mirror.list_held(id, ino, after, limit),
        )
    }

    fn session(&self, id: &SessionId) -> Result<Option<Session>, StoreError> {
        self.pair.ask(|redis| redis.session(id), |mirror, _| mirror.session(id))
    }

    fn session_by_number(&self, ino: Ino) -> Result<Option<Session>, StoreError> {
        if let Some(id) = self.pair.aliases.session(ino) {
            return self.session(&id);
        }
        self.pair.ask(|redis| redis.session_by_number(ino), |mirror, _| mirror.session_by_number(ino))
    }

    fn list_sessions(&self, after: Option<Ino>, limit: usize) -> Result<Vec<Session>, StoreError> {
        self.pair
            .ask(|redis| redis.list_sessions(after, limit), |mirror, _| mirror.list_sessions(after, limit))
    }

    fn shortest_ttls(&self, ids: &[SessionId]) -> Result<Vec<Option<Ttl>>, StoreError> {
        self.pair.ask(|redis| redis.shortest_ttls(ids), |mirror, _| mirror.shortest_ttls(ids))
    }

    fn queue(&self, spot: &Spot) -> Result<Vec<Waiter>, StoreError> {
        let spot = self.pair.aliases.spot(spot);
        self.pair.ask(|redis| redis.queue(&spot), |mirror, _| mirror.queue(&spot))
    }

    fn mounts(&self) -> Result<Vec<Mount>, StoreError> {
        self.pair.ask(LockStore::mounts, |mirror, _| mirror.mounts())
    }

    fn await_wakes(&self, limit: Duration) -> Result<Wakes, StoreError> {
        let turn = self.pair.turn();
        let limit = limit.min(SLICE);
        let wakes = match turn.grants {
            Grants::There => self.pair.redis.await_wakes(limit),
            _ => self.pair.mirror.await_wakes(limit),
        };
        let era = self.pair.era();
        if self.pair.woken.swap(era, Ordering::AcqRel) != era {
            // Who waited at one asks the other now.
            return Ok(Wakes::All);
        }
        wakes
    }

    fn end_wakes(&self) {
        self.pair.redis.end_wakes();
        self.pair.mirror.end_wakes();
    }

    fn events(&self, after: u64, limit: usize) -> Result<EventPage, StoreError> {
        let mut chronicle = self.pair.chronicle.lock().unwrap_or_else(PoisonError::into_inner);
        chronicle.catch_up(&self.pair.redis, &self.pair.mirror);
        Ok(chronicle.page(after, limit))
    }

    fn counts(&self) -> Result<Counts, StoreError> {
        self.pair.ask(LockStore::counts, |mirror, _| mirror.counts())
    }

    fn health(&self) -> Health {
        self.pair.report()
    }

    fn close(&self) -> Result<(), StoreError> {
        self.pair.standing(|standing| standing.is_closed = true);
        self.pair.changed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else {
            return Ok(());
        };
        // A panic in it has been printed by the panic hook.
        thread.join().ok();
        if self.pair.turn().grants == Grants::There {
            self.pair.tell_own();
        }
        self.pair.remember(self.is_degraded())?;
        self.pair.redis.close()?;
        self.pair.mirror.close()
    }
}

impl Drop for HybridStore {
    fn drop(&mut self) {
        self.close().ok();
    }
}

/// Whether an outcome gave something that nobody may have who was told otherwise.
fn given<'a>(command: &'a Command, outcome: &Outcome) -> Option<(Ino, &'a Spot)> {
    match (command, outcome) {
        (
            Command::Acquire { spot, .. } | Command::Await { spot, .. } | Command::Link { spot, .. },
            Ok(Reply::Entry(made)),
        ) => Some((made.ino, spot)),
        _ => None,
    }
}

impl Pair {
    fn execute(&self, command: &Command) -> Result<Outcome, StoreError> {
        let deadline = self.system.now().boot + self.limit;
        loop {
            let turn = self.await_turn(deadline)?;
            let command = self.aliases.command(command);
            if turn.grants != Grants::There {
                match self.alone(&command, turn.era)? {
                    Some(outcome) => return Ok(outcome),
                    None => continue,
                }
            }
            if let Some(refusal) = self.has_lost(&command)? {
                return Ok(Err(refusal));
            }
            match self.redis.execute(&command) {
                Err(StoreError::Unavailable(_)) if self.era() != turn.era => {}
                Ok(outcome) => return self.accept(&command, outcome, turn.era),
                Err(error) => return Err(error),
            }
        }
    }

    /// What Redis decided counts, if it is still the one who decides.
    fn accept(&self, command: &Command, outcome: Outcome, era: u64) -> Result<Outcome, StoreError> {
        if let Command::Attend { mount } = command {
            let mut attended = self.attended.lock().unwrap_or_else(PoisonError::into_inner);
            attended.last = Some((mount.clone(), self.system.now().boot));
            if std::mem::take(&mut attended.has_lapsed) && outcome.is_ok() {
                return Ok(Ok(Reply::Count(0)));
            }
        }
        let Some((ino, spot)) = given(command, &outcome) else {
            return Ok(outcome);
        };
        if let Some(caller) = command.caller() {
            let key = (caller.session.id.clone(), spot.parent, spot.name.clone());
            self.lost.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        }
        // Before it is answered: a daemon that is killed then, and finds Redis gone, has to know of it.
        self.tell_own();
        if self.era() == era {
            return Ok(outcome);
        }
        // What was made just now has its number for a token; what was linked has the token that it had before.
        let known = match command {
            Command::Link { .. } => self.mirror.view(ino)?.map(|view| view.record.token),
            _ => None,
        };
        let token = known.unwrap_or(Token::from_u64(ino.as_u64()));
        let name = redis::Dropped { ino, token, parent: spot.parent, name: spot.name.clone() };
        self.owed.add(&owed::Debt::Name(name));
        Err(StoreError::Timeout("redis granted it when it was taken for gone: it is given back".to_owned()))
    }

    /// Whether the caller means to remove a lock that it had from this host alone, and lost.
    fn has_lost(&self, command: &Command) -> Result<Option<Refusal>, StoreError> {
        let (Command::Unlink { caller, spot } | Command::Rmdir { caller, spot }) = command else {
            return Ok(None);
        };
        let key = (caller.session.id.clone(), spot.parent, spot.name.clone());
        if !self.lost.lock().unwrap_or_else(PoisonError::into_inner).contains(&key) {
            return Ok(None);
        }
        if let Some(found) = self.redis.lookup(spot)?
            && let Some(view) = self.redis.view(found.ino)?
            && view.record.session.as_ref() != Some(&key.0)
        {
            return Ok(Some(Refusal::Lost));
        }
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        Ok(None)
    }
}
