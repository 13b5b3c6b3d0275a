//! Hand-over: how long it takes from a release on one mount to the grant on another, both on one Redis.
//!
//! The floor is a message on a channel of the same server, from just before PUBLISH until the subscriber has it; the
//! peer is JuiceFS, whose waiters poll. All of a round is on one server, slice by slice in turn.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::Extent;
use crate::figures::{figure, goal, heading, median, median_span, micros, percentile};
use crate::place::Place;
use crate::processor::On;
use crate::relay::{Baton, Relay};
use crate::server::Server;

/// How often a turn of slices is repeated within a round.
const TURNS: usize = 3;

/// How many waiters are many.
const MANY: usize = 16;

/// Who waits, and where.
const SHAPES: [(usize, On); 4] = [(1, On::One), (1, On::Any), (MANY, On::One), (MANY, On::Any)];

/// What is handed over.
const NAMES: [&str; 4] = ["publish/subscribe", "lockfs, flock", "lockfs, .wait", "JuiceFS, flock"];

/// What one did in one round.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    p50: Duration,
    p99: Duration,
}

/// What all did in each round, in the order of [`NAMES`].
type Rounds = Vec<[Round; NAMES.len()]>;

pub(crate) fn measure(extent: &Extent) -> io::Result<()> {
    let mut shapes = SHAPES.map(|_| Rounds::new());
    for _ in 0..extent.rounds {
        let server = Server::start()?;
        let lockfs = [Place::lockfs_redis(&server)?, Place::lockfs_redis_of(&server, "bench-b")?];
        let juicefs = [Place::juicefs(&server)?, Place::juicefs_again(&server)?];
        let address = server.address();
        let address: &Path = address.as_ref();
        let own = lockfs.each_ref().map(Place::root);
        let peer = juicefs.each_ref().map(Place::root);
        let relays = [
            (Baton::Message, [address, address]),
            (Baton::Flock, own),
            (Baton::Door, own),
            (Baton::Flock, peer),
        ];
        for ((waiters, on), rounds) in SHAPES.into_iter().zip(&mut shapes) {
            server.put(on)?;
            lockfs.iter().chain(&juicefs).try_for_each(|place| place.put(on))?;
            let mut spans: [Vec<Duration>; NAMES.len()] = Default::default();
            for _ in 0..TURNS {
                for ((baton, roots), spans) in relays.into_iter().zip(&mut spans) {
                    // Two who tell each other whose turn it is: more would be something else.
                    let waiters = if baton == Baton::Message { 1 } else { waiters };
                    let times = extent.handovers / TURNS;
                    spans.extend(Relay { baton, roots, waiters, times, on }.run()?);
                }
            }
            rounds.push(
                spans.map(|mut spans| Round {
                    p50: percentile(&mut spans, 50),
                    p99: percentile(&mut spans, 99),
                }),
            );
        }
    }
    for ((waiters, on), rounds) in SHAPES.into_iter().zip(&shapes) {
        tell(waiters, on, rounds);
    }
    Ok(())
}

/// The median over the rounds of how often the one goes into the other.
fn ratio(rounds: &Rounds, one: usize, other: usize, say: impl Fn(&Round) -> Duration) -> f64 {
    median(rounds.iter().map(|round| say(&round[one]).as_secs_f64() / say(&round[other]).as_secs_f64()))
}

fn p50(round: &Round) -> Duration {
    round.p50
}

fn p99(round: &Round) -> Duration {
    round.p99
}

fn tell(waiters: usize, on: On, rounds: &Rounds) {
    let who = if waiters == 1 { "1 waiter".to_owned() } else { format!("{waiters} waiters") };
    let place = if on == On::One { "on one processor" } else { "with free processors" };
    heading(format_args!("Redis, from release on one mount to grant on another, {who}: {place}"));
    for (number, name) in NAMES.into_iter().enumerate() {
        let [p50, p99] = [p50, p99].map(|say: fn(&Round) -> Duration| {
            let span = median_span(rounds.iter().map(|round| say(&round[number])));
            format!("{:>10}  {:>5.2} of floor", micros(span), ratio(rounds, number, 0, say))
        });
        figure(name, format_args!("p50 {p50}  p99 {p99}"));
    }
    if waiters == 1 {
        for (number, name) in [(1, "flock"), (2, ".wait")] {
            for (say, percentile) in [(p50 as fn(&Round) -> Duration, "p50"), (p99, "p99")] {
                let ratio = ratio(rounds, number, 0, say);
                let name = format!("{name}: {percentile}, lockfs / publish/subscribe");
                if on == On::One {
                    goal(name, format_args!("{ratio:.2}, at most 3.00"), ratio <= 3.0);
                } else {
                    figure(name, format_args!("{ratio:.2}"));
                }
            }
        }
        let ratio = ratio(rounds, 3, 1, p50);
        figure("flock: p50, JuiceFS / lockfs", format_args!("{ratio:.1}"));
    } else {
        let ratio = ratio(rounds, 3, 1, p50);
        let name = format!("flock, {who}: p50, JuiceFS / lockfs");
        goal(name, format_args!("{ratio:.1}, at least 10.0"), ratio >= 10.0);
    }
}
