//! Acquire and release on Redis: beside the floor, and beside what users pick instead.
//!
//! The floor is the null file system and the store by itself, one after the other. All of a round is on one server.

use std::io;
use std::time::Duration;

use crate::Extent;
use crate::client::{Sample, Task, Work};
use crate::figures::{figure, goal, heading, median, median_span, micros, percentile};
use crate::peer::Peer;
use crate::place::Place;
use crate::processor::On;
use crate::server::Server;

/// How often a turn of slices is repeated within a round.
const TURNS: usize = 3;

/// How many threads are many.
const MANY: usize = 16;

/// How many pairs are counted.
const COUNT: usize = 1_000;

const PEERS: usize = Peer::NAMES.len();

/// What one peer did in one round.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    per_second: f64,
    p50: Duration,
    p99: Duration,
}

/// What all of them did in one round, in the order of [`Peer::NAMES`].
type Rounds = Vec<[Round; PEERS]>;

pub(crate) fn measure(extent: &Extent) -> io::Result<()> {
    let (mut one, mut many) = (Rounds::new(), Rounds::new());
    for _ in 0..extent.rounds {
        let server = Server::start()?;
        let peers = Peer::all(&server)?;
        let put = |on| {
            server.put(on)?;
            peers.iter().try_for_each(|peer| peer.put(on))
        };
        let mut latencies: [Vec<Sample>; PEERS] = Default::default();
        put(On::One)?;
        for _ in 0..TURNS {
            for (peer, latencies) in peers.iter().zip(&mut latencies) {
                let slice = extent.slice / u32::try_from(TURNS).unwrap_or(1);
                latencies.extend(peer.pairs(slice, 1, On::One)?.samples);
            }
        }
        put(On::Any)?;
        let (mut round_of_one, mut round_of_many) = ([Round::default(); PEERS], [Round::default(); PEERS]);
        for (number, peer) in peers.iter().enumerate() {
            let free = peer.pairs(extent.slice, 1, On::Any)?;
            round_of_one[number] = Round::new(free.per_second(), &latencies[number]);
            let free = peer.pairs(extent.slice, MANY, On::Any)?;
            round_of_many[number] = Round::new(free.per_second(), &free.samples);
        }
        one.push(round_of_one);
        many.push(round_of_many);
    }
    tell_one(&one);
    tell_many(&many);
    count()
}

impl Round {
    fn new(per_second: f64, samples: &[Sample]) -> Self {
        let mut spans: Vec<Duration> = samples.iter().map(Sample::pair).collect();
        Self { per_second, p50: percentile(&mut spans, 50), p99: percentile(&mut spans, 99) }
    }
}

/// The median over the rounds of what each says.
fn over(rounds: &Rounds, say: impl Fn(&[Round; PEERS]) -> f64) -> f64 {
    median(rounds.iter().map(say))
}

fn p50(round: &Round) -> f64 {
    round.p50.as_secs_f64()
}

/// The latency that nothing better could have: a null file system, and then the store.
fn floor([null, raw, ..]: &[Round; PEERS]) -> f64 {
    p50(null) + p50(raw)
}

/// A line for each peer; `ratio` of a round says how it compares with the floor.
fn tell_all(rounds: &Rounds, ratio: impl Fn(&[Round; PEERS], &Round) -> f64, floor: &str) {
    for (number, name) in Peer::NAMES.into_iter().enumerate() {
        let rate = over(rounds, |round| round[number].per_second);
        let p50 = micros(median_span(rounds.iter().map(|round| round[number].p50)));
        let p99 = micros(median_span(rounds.iter().map(|round| round[number].p99)));
        let ratio = over(rounds, |round| ratio(round, &round[number]));
        figure(name, format_args!("{rate:>8.0}/s  p50 {p50:>9}  p99 {p99:>10}  {ratio:>5.2} of {floor}"));
    }
}

fn tell_one(rounds: &Rounds) {
    heading("Redis, one thread: pairs/s with free processors, latency of a pair on one processor");
    tell_all(rounds, |round, peer| p50(peer) / floor(round), "floor");
    let sum = median_span(rounds.iter().map(|[null, raw, ..]| null.p50 + raw.p50));
    figure("floor: p50, null + raw", micros(sum));
    let ratio = over(rounds, |round @ [_, _, lockfs, ..]| p50(lockfs) / floor(round));
    let aim = if ratio <= 1.15 { "which is met" } else { "which is missed" };
    goal(
        "p50, lockfs / (null + raw)",
        format_args!("{ratio:.2}, at most 1.30; the aim is 1.15, {aim}"),
        ratio <= 1.3,
    );
    let ratio = over(rounds, |[_, _, lockfs, redis_py, _]| p50(lockfs) / p50(redis_py));
    goal("p50, lockfs / redis-py", format_args!("{ratio:.2}, at most 1.00"), ratio <= 1.0);
    let ratio = over(rounds, |[_, _, lockfs, redis_py, _]| lockfs.per_second / redis_py.per_second);
    goal("pairs/s, lockfs / redis-py", format_args!("{ratio:.2}, at least 1.00"), ratio >= 1.0);
    let ratio = over(rounds, |[_, _, lockfs, _, juicefs]| lockfs.per_second / juicefs.per_second);
    goal("pairs/s, lockfs / JuiceFS", format_args!("{ratio:.1}, at least 6.0"), ratio >= 6.0);
}

fn tell_many(rounds: &Rounds) {
    heading(format_args!("Redis, {MANY} threads, a directory or a key each: with free processors"));
    tell_all(rounds, |[_, raw, ..], peer| peer.per_second / raw.per_second, "raw");
    let ratio = over(rounds, |[_, _, lockfs, redis_py, _]| lockfs.per_second / redis_py.per_second);
    figure("pairs/s, lockfs / redis-py", format_args!("{ratio:.2}"));
    let ratio = over(rounds, |[_, _, lockfs, _, juicefs]| lockfs.per_second / juicefs.per_second);
    goal("pairs/s, lockfs / JuiceFS", format_args!("{ratio:.1}, at least 7.5"), ratio >= 7.5);
}

/// Counts what a pair asks of the server.
fn count() -> io::Result<()> {
    heading("Redis: what a pair asks for, on average of a thousand (commands: those of scripts too)");
    let server = Server::start()?;
    for place in [Place::lockfs_redis(&server)?, Place::juicefs(&server)?] {
        let run = |task| {
            let work = Work { task, threads: 1, directories: 1, on: On::Any };
            work.run(place.root()).map(drop)
        };
        // The directory is made by the first, which is not counted.
        run(Task::Acquire(1))?;
        run(Task::Release(1))?;
        let (reads, calls) = (server.reads()?, server.calls()?);
        run(Task::Acquire(COUNT))?;
        run(Task::Release(COUNT))?;
        let mean = |rise: u64| rise as f64 / COUNT as f64;
        // Asking for these is a few reads more, which are not worth a digit.
        let reads = mean(server.reads()? - reads);
        let before =
            |name: &str| calls.iter().find(|(known, _)| known == name).map_or(0, |(_, count)| *count);
        let after = server.calls()?.into_iter();
        let means = after.map(|(name, count)| (mean(count - before(&name)), name));
        let mut means: Vec<_> = means.filter(|(mean, _)| *mean >= 0.05).collect();
        means.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        let sum = means.iter().fold(0.0, |sum, (mean, _)| sum + mean);
        let words: Vec<String> = means.iter().map(|(mean, name)| format!("{name} {mean:.1}")).collect();
        figure(format_args!("round trips a pair: {}", place.name), format_args!("{reads:.2}"));
        figure(
            format_args!("commands a pair: {}", place.name),
            format_args!("{sum:.1}: {}", words.join(", ")),
        );
    }
    Ok(())
}
