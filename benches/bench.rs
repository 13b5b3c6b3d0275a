//! `make bench`: what lockfs costs, beside what nothing better could cost.
//!
//! Each figure is one line. Floors are measured in the same run, in turn with lockfs: a FUSE file system that
//! only keeps a map ([`null`]), tmpfs, and a plain directory on the disk that the store is on. Latencies are
//! taken with client, daemon and server on one processor, where a hand-off costs the same each time; throughput with
//! all processors free. A figure is the median over rounds, each with daemons of its own, and a ratio the
//! median of the ratios of the rounds: machines are noisy, and two instances of one daemon differ by a quarter.
//!
//! On Redis there are two floors more, the null file system and the store without a file system ([`raw`]), and two
//! peers, which are what users pick instead: the lock of redis-py, and JuiceFS on the same server.
//!
//! Of hybrid it takes what it costs beside Redis alone, and how long nothing is granted when Redis goes and returns.
//!
//! Of waiting it takes the time from a release on one mount to the grant on another beside a message on a Redis
//! channel and beside JuiceFS; flock(2) where nobody waits; and what a crowd of a thousand who wait costs.
//!
//! `--quick` does the same with smaller numbers in less than a minute; `--only WORD` one part of it (`pairs`,
//! `requests`, `million`, `redis`, `redis-million`, `hybrid`, `waiting`). The program runs itself as the client, as the null
//! file system, as the raw floor and as those who wait.

#[path = "bench/board.rs"]
mod board;
#[path = "bench/client.rs"]
mod client;
#[path = "bench/crowd.rs"]
mod crowd;
#[path = "bench/daemon.rs"]
mod daemon;
#[path = "bench/figures.rs"]
mod figures;
#[path = "bench/flocks.rs"]
mod flocks;
#[path = "bench/handover.rs"]
mod handover;
#[path = "bench/million.rs"]
mod million;
#[path = "bench/million_on_redis.rs"]
mod million_on_redis;
#[path = "bench/null.rs"]
mod null;
#[path = "bench/on_hybrid.rs"]
mod on_hybrid;
#[path = "bench/on_redis.rs"]
mod on_redis;
#[path = "bench/pairs.rs"]
mod pairs;
#[path = "bench/peer.rs"]
mod peer;
#[path = "bench/place.rs"]
mod place;
#[path = "bench/processor.rs"]
mod processor;
#[path = "bench/raw.rs"]
mod raw;
#[path = "bench/relay.rs"]
mod relay;
#[path = "bench/requests.rs"]
mod requests;
#[path = "bench/server.rs"]
mod server;

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// Rounds of the pairs, each with new daemons.
    pub(crate) rounds: usize,
    /// How long each measurement of a round takes.
    pub(crate) slice: Duration,
    /// How many directories with a thousand locks each make the large tree.
    pub(crate) directories: usize,
    /// How many entries the large directory has.
    pub(crate) large: usize,
    /// How often the large tree is mounted anew.
    pub(crate) mounts: usize,
    /// Rounds on the large tree for each mount.
    pub(crate) turns: usize,
    /// The ttl of the locks of the large tree: renewals fall into the run.
    pub(crate) ttl: Duration,
    /// How often Redis goes and returns.
    pub(crate) outages: usize,
    /// How often each thing is handed over in a round.
    pub(crate) handovers: usize,
    /// How many wait for one name.
    pub(crate) waiters: usize,
    /// How long is looked at who waits while nothing happens.
    pub(crate) idle: Duration,
}

const FULL: Extent = Extent {
    rounds: 15,
    slice: Duration::from_millis(150),
    directories: 1_000,
    large: 100_000,
    mounts: 3,
    turns: 7,
    ttl: Duration::from_secs(20),
    outages: 5,
    handovers: 150,
    waiters: 1_000,
    idle: Duration::from_secs(20),
};

const QUICK: Extent = Extent {
    rounds: 2,
    slice: Duration::from_millis(24),
    directories: 20,
    large: 2_000,
    mounts: 1,
    turns: 3,
    ttl: Duration::from_secs(2),
    outages: 1,
    handovers: 24,
    waiters: 100,
    idle: Duration::from_secs(2),
};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["client", rest @ ..] => client::run(rest),
        ["null", mountpoint] => null::run(mountpoint.as_ref()),
        ["raw", rest @ ..] => raw::run(rest),
        ["relay", rest @ ..] => relay::run(rest),
        ["crowd", rest @ ..] => crowd::run(rest),
        options => measure(options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &[&str]) -> io::Result<()> {
    let mut extent = FULL;
    let mut only = None;
    let mut options = options.iter();
    while let Some(option) = options.next() {
        match *option {
            "--quick" => extent = QUICK,
            "--only" => only = options.next().copied(),
            // What cargo says to each bench target.
            "--bench" => {}
            other => return Err(io::Error::other(format!("unknown option {other}: --quick, --only WORD"))),
        }
    }
    let start = Instant::now();
    let urgent = processor::be_urgent();
    figures::note(format_args!(
        "{} processors, {}",
        processor::count(),
        if urgent { "niceness -20 for daemons and clients" } else { "no right to a niceness of -20" }
    ));
    let is_wanted = |part| only.is_none_or(|only| only == part);
    if is_wanted("pairs") {
        pairs::measure(&extent)?;
    }
    if is_wanted("requests") {
        requests::measure()?;
    }
    if is_wanted("million") {
        million::measure(&extent)?;
    }
    if is_wanted("redis") {
        on_redis::measure(&extent)?;
    }
    if is_wanted("redis-million") {
        million_on_redis::measure(&extent)?;
    }
    if is_wanted("hybrid") {
        on_hybrid::measure(&extent)?;
    }
    if is_wanted("waiting") {
        flocks::measure(&extent)?;
        handover::measure(&extent)?;
        crowd::measure(&extent)?;
    }
    figures::note(format_args!("took {:.0} s", start.elapsed().as_secs_f64()));
    Ok(())
}
