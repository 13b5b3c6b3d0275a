//! flock(2), lock and unlock, of a file that stays open and that nobody else wants: beside the floors and JuiceFS.
//!
//! The floor is the null file system, which answers at once, and on Redis the steps of the store besides.

use std::io;
use std::time::Duration;

use crate::Extent;
use crate::client::Sample;
use crate::figures::{figure, goal, heading, median, median_span, micros, percentile};
use crate::peer::Peer;
use crate::place::Place;
use crate::processor::On;
use crate::raw;
use crate::server::Server;

/// How often a turn of slices is repeated within a round.
const TURNS: usize = 3;

/// Who is measured.
const NAMES: [&str; 5] = ["null", raw::NAME, "lockfs on LevelDB", "lockfs on Redis", "JuiceFS"];

/// What one did in one round.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    per_second: f64,
    p50: Duration,
    p99: Duration,
}

/// What all did in each round, in the order of [`NAMES`].
type Rounds = Vec<[Round; NAMES.len()]>;

pub(crate) fn measure(extent: &Extent) -> io::Result<()> {
    let mut rounds = Rounds::new();
    for _ in 0..extent.rounds {
        let server = Server::start()?;
        let peers = [
            Peer::Place(Place::null()?),
            Peer::Raw(server.url(0)),
            Peer::Place(Place::lockfs()?),
            Peer::Place(Place::lockfs_redis(&server)?),
            Peer::Place(Place::juicefs(&server)?),
        ];
        let put = |on| {
            server.put(on)?;
            peers.iter().try_for_each(|peer| peer.put(on))
        };
        let mut latencies: [Vec<Sample>; NAMES.len()] = Default::default();
        put(On::One)?;
        for _ in 0..TURNS {
            for (peer, latencies) in peers.iter().zip(&mut latencies) {
                let slice = extent.slice / u32::try_from(TURNS).unwrap_or(1);
                latencies.extend(peer.flocks(slice, On::One)?.samples);
            }
        }
        put(On::Any)?;
        let mut round = [Round::default(); NAMES.len()];
        for ((peer, latencies), round) in peers.iter().zip(latencies).zip(&mut round) {
            let per_second = peer.flocks(extent.slice, On::Any)?.per_second();
            let mut spans: Vec<Duration> = latencies.iter().map(Sample::pair).collect();
            *round = Round { per_second, p50: percentile(&mut spans, 50), p99: percentile(&mut spans, 99) };
        }
        rounds.push(round);
    }
    tell(&rounds);
    Ok(())
}

/// The median over the rounds of what each says.
fn over(rounds: &Rounds, say: impl Fn([f64; NAMES.len()]) -> f64) -> f64 {
    median(rounds.iter().map(|round| say(round.map(|round| round.p50.as_secs_f64()))))
}

fn tell(rounds: &Rounds) {
    heading(
        "flock(2), lock + unlock, 1 thread: pairs/s with free processors, latency of a pair on one processor",
    );
    for (number, name) in NAMES.into_iter().enumerate() {
        let rate = median(rounds.iter().map(|round| round[number].per_second));
        let p50 = micros(median_span(rounds.iter().map(|round| round[number].p50)));
        let p99 = micros(median_span(rounds.iter().map(|round| round[number].p99)));
        figure(name, format_args!("{rate:>8.0}/s  p50 {p50:>9}  p99 {p99:>10}"));
    }
    let ratio = over(rounds, |[null, _, level, ..]| level / null);
    goal("LevelDB: p50, lockfs / null", format_args!("{ratio:.2}, at most 1.30"), ratio <= 1.3);
    let ratio = over(rounds, |[null, raw, _, redis, _]| redis / (null + raw));
    goal("Redis: p50, lockfs / (null + raw)", format_args!("{ratio:.2}, at most 1.30"), ratio <= 1.3);
    let ratio = over(rounds, |[_, _, _, redis, juicefs]| juicefs / redis);
    goal("Redis: p50, JuiceFS / lockfs", format_args!("{ratio:.1}, at least 5.0"), ratio >= 5.0);
}
