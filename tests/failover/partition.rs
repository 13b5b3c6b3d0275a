//! The primary is cut off from its replicas and from the Sentinels, with a client on either side: packets are
//! dropped, nobody is told. Another primary is elected, and the old one follows it when the cut is over.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lockfs::lock::EventKind;

use crate::history::{End, History};
use crate::servers::net::Net;
use crate::servers::redis::{Persistence, RedisServer};
use crate::servers::sentinel::{SERVICE, SentinelSet};
use crate::servers::within;
use crate::world::{Host, Plan};

/// How long after the cut the minority may have been granted something, at most: two seconds are promised, and
/// half a second is for a machine that is busy.
const LAST_GRANT: Duration = Duration::from_millis(2_500);

/// Names that are fought for.
const CONTESTED: [&str; 3] = ["contested-0", "contested-1", "contested-2"];

/// The machines of the two clients: `a` stays with the old primary.
const A: usize = 6;
const B: usize = 7;

/// What a failover came to.
struct Course {
    /// What was done on the side of the old primary, and on the other.
    a: History,
    b: History,
    cut: Instant,
    /// Of the locks that were acknowledged and not released, those that the new primary knows otherwise.
    missing: usize,
    /// Of those, the ones that their session was told of.
    told: usize,
    /// How many the new primary had not, and has from their hosts.
    reasserted: u64,
    /// Unknown acquires that stand all the same, and contested names, all of which were released.
    ghosts: usize,
}

#[derive(Default)]
struct Signals {
    is_over: AtomicBool,
    /// How many grants each has got.
    grants_of_b: AtomicUsize,
    grants_of_a: AtomicUsize,
    /// The last name that `a` has got.
    last_of_a: AtomicUsize,
}

/// Acquires until it is over: ever new names, which are kept; contested ones, which are released at once; and
/// what the other has.
fn keep_acquiring(host: &Host, signals: &Signals, count: &AtomicUsize) -> History {
    let go_on = || !signals.is_over.load(Ordering::Relaxed);
    let name = &host.name;
    thread::scope(|scope| {
        let collecting = scope.spawn(move || {
            let mut history = History::default();
            let session = format!("{name}-keeper");
            for number in 0.. {
                if !go_on() {
                    break;
                }
                if history.acquire(host, &session, &format!("{name}-{number}")) {
                    count.store(history.grants.len(), Ordering::Relaxed);
                    if name == "a" {
                        signals.last_of_a.store(number, Ordering::Relaxed);
                    }
                }
            }
            history
        });
        let stealing = (name != "a").then(|| {
            scope.spawn(move || {
                let mut history = History::default();
                let session = format!("{name}-thief");
                for turn in 0.. {
                    if !go_on() {
                        break;
                    }
                    // What `a` got lately is what another primary may not know.
                    let number = signals.last_of_a.load(Ordering::Relaxed).saturating_sub(turn % 1_000);
                    history.acquire(host, &session, &format!("a-{number}"));
                }
                history
            })
        });
        let contesting = (0..2).map(|worker| {
            scope.spawn(move || {
                let mut history = History::default();
                let session = format!("{name}-contestant-{worker}");
                for turn in 0.. {
                    if !go_on() {
                        break;
                    }
                    if history.acquire(host, &session, CONTESTED[turn % CONTESTED.len()]) {
                        history.release_last(host);
                    }
                }
                history
            })
        });
        let threads: Vec<_> = contesting.chain([collecting]).chain(stealing).collect();
        History::merge(threads.into_iter().map(|thread| thread.join().unwrap()))
    })
}

fn fail_over(acks: u8) -> Course {
    let net = Net::new(8);
    let servers = RedisServer::options().persistence(Persistence::Aof);
    let set = SentinelSet::options().servers(servers).on(&net).start();
    let old = set.primary_address();
    let sentinels: Vec<_> =
        set.sentinels.iter().map(|sentinel| format!("{}:{}", sentinel.address(), sentinel.port())).collect();
    let url = format!("redis+sentinel://{}/{SERVICE}", sentinels.join(","));
    let (signals, ready) = (Signals::default(), Barrier::new(3));
    let client = |machine: usize, name: &'static str, count: fn(&Signals) -> &AtomicUsize| {
        let (plan, signals, ready) = (Plan::at(&url).host(name).acks(acks), &signals, &ready);
        let machine = net.host(machine);
        move || {
            machine.run(|| {
                let host = plan.open();
                ready.wait();
                let history = keep_acquiring(&host, signals, count(signals));
                (host, history)
            })
        }
    };
    thread::scope(|scope| {
        let a = scope.spawn(client(A, "a", |signals| &signals.grants_of_a));
        let b = scope.spawn(client(B, "b", |signals| &signals.grants_of_b));
        ready.wait();
        let granted = |count: &AtomicUsize, least: usize| {
            within(Duration::from_secs(30), "grants go on", || count.load(Ordering::Relaxed) >= least);
        };
        granted(&signals.grants_of_a, 200);
        granted(&signals.grants_of_b, 200);

        let (primary, with_it) = (net.host(0), net.host(A));
        for other in (1..A).chain([B]).map(|machine| net.host(machine)) {
            primary.cut_from(&other);
            with_it.cut_from(&other);
        }
        let cut = Instant::now();
        let new = set.wait_for_failover(old);
        let before = signals.grants_of_b.load(Ordering::Relaxed);
        granted(&signals.grants_of_b, before + 200);

        net.heal_all();
        let before = signals.grants_of_a.load(Ordering::Relaxed);
        granted(&signals.grants_of_a, before + 200);
        signals.is_over.store(true, Ordering::Relaxed);
        let ((host_a, a), (host_b, b)) = (a.join().unwrap(), b.join().unwrap());
        assert_eq!(set.primary_address(), new, "there was one failover");
        let new = &set.servers[set.server_at(new)];
        look_around(&[&host_a, &host_b], (a, b), cut, new)
    })
}

/// Looks at the new primary for what was told.
fn look_around(
    hosts: &[&Host; 2],
    (a, b): (History, History),
    cut: Instant,
    primary: &RedisServer,
) -> Course {
    for host in hosts {
        within(Duration::from_secs(20), "nothing is left to undo", || host.health("acquires_to_undo") == 0);
    }
    // Over its socket, which is in no network.
    let witness = Plan::at(&primary.unix_url()).host("witness").open();
    let losses: Vec<_> = witness.events().into_iter().filter(|event| event.kind == EventKind::Lost).collect();
    let (mut missing, mut told) = (0, 0);
    for history in [&a, &b] {
        for grant in history.grants.iter().filter(|grant| grant.end == End::Held) {
            let found = witness.holder(&grant.name).unwrap();
            if found.as_ref() != Some(&(grant.session.clone(), grant.token)) {
                missing += 1;
                told += usize::from(losses.iter().any(|event| event.token == Some(grant.token)));
            }
        }
    }
    // Who was told that it has a name stands behind its token; of what stands otherwise nobody knows.
    let is_known = |token| {
        let mut grants = a.grants.iter().chain(&b.grants);
        grants.any(|grant| grant.token == token && grant.end == End::Held)
    };
    let unknown = a.unknown.iter().chain(&b.unknown).map(|(_, name)| name.as_str());
    let doubted: BTreeSet<_> = unknown.chain(CONTESTED).collect();
    let ghosts: Vec<_> = doubted
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), witness.holder(name).unwrap()?)))
        .filter(|(_, (_, token))| !is_known(*token))
        .collect();
    for (name, (session, token)) in &ghosts {
        println!("{name} is held by {session} with {token}: {:?}", witness.events_of(name));
    }
    let ghosts = ghosts.len();
    let reasserted = hosts.iter().map(|host| host.health("reasserted")).sum();
    Course { a, b, cut, missing, told, reasserted, ghosts }
}

impl Course {
    fn all(&self) -> History {
        History::merge([self.a.clone(), self.b.clone()])
    }

    /// How long after the cut the minority was granted something by the old primary.
    fn last_minority_grant(&self) -> Duration {
        let first = self.first_epoch();
        let times = self.a.grants.iter().filter(|grant| grant.token.epoch() == first).map(|grant| grant.told);
        times.max().map(|told| told.saturating_duration_since(self.cut)).unwrap_or_default()
    }

    fn first_epoch(&self) -> u32 {
        self.all().grants.iter().map(|grant| grant.token.epoch()).min().expect("something was granted")
    }

    fn lost_while_contested(&self) -> usize {
        self.all().grants.iter().filter(|grant| grant.end == End::Lost).count()
    }

    fn tell(&self, what: &str) {
        let mut text = String::new();
        let all = self.all();
        let first = self.first_epoch();
        let late = |history: &History| {
            let late =
                history.grants.iter().filter(|grant| grant.token.epoch() == first && grant.asked > self.cut);
            late.count()
        };
        let majority =
            self.b.grants.iter().filter(|grant| grant.token.epoch() > first).map(|grant| grant.told);
        let majority = majority.min().map(|told| told.saturating_duration_since(self.cut));
        let _ = write!(
            text,
            "{what}: {} grants ({} refused, {} failed, {} unknown), of which the minority got {} after the cut, \
             the last {:?} after it; the majority got its first {majority:?} after it; {} came back from their hosts, {} held locks are \
             lost, of which {} were told; {} contested ones lost; {} names held by two; {} stand that nobody holds",
            all.grants.len(),
            all.refused,
            all.failed,
            all.unknown.len(),
            late(&self.a),
            self.last_minority_grant(),
            self.reasserted,
            self.missing,
            self.told,
            self.lost_while_contested(),
            all.overlaps().len(),
            self.ghosts,
        );
        println!("{text}");
    }

    /// What holds whatever is waited for.
    fn assert_tokens(&self) {
        let all = self.all();
        assert_eq!(all.repeated_tokens(), []);
        let falling = all.falling_tokens();
        assert!(falling.is_empty(), "{} fall: {:?}", falling.len(), &falling[..1]);
        let first = self.first_epoch();
        let deposed =
            all.grants.iter().filter(|grant| grant.token.epoch() == first).map(|grant| grant.token).max();
        let later =
            all.grants.iter().filter(|grant| grant.token.epoch() != first).map(|grant| grant.token).min();
        assert!(deposed < later, "{deposed:?} of the deposed primary is below {later:?}");
        assert_eq!(self.ghosts, 0, "what its caller was told it has not got, or has released, is free");
        let last = self.last_minority_grant();
        assert!(last < LAST_GRANT, "the deposed primary was believed for {last:?}");
    }
}

#[test]
fn with_one_replica_to_acknowledge_a_failover_loses_nothing() {
    let course = fail_over(1);
    course.tell("--acks 1");
    course.assert_tokens();
    assert_eq!(course.missing, 0);
    assert_eq!(course.lost_while_contested(), 0);
    let overlaps = course.all().overlaps();
    assert!(overlaps.is_empty(), "{} were held by two: {:?}", overlaps.len(), &overlaps[..1]);
}

#[test]
fn without_acknowledgements_a_failover_loses_locks_but_no_order() {
    let course = fail_over(0);
    course.tell("--acks 0");
    course.assert_tokens();
    // This is what --acks is for: the old primary granted what nobody else ever heard of. Its host says so when
    // it is back; what has another holder by then is lost, and its session is told.
    assert_eq!(course.missing, course.told, "who lost something is told");
}
