//! Hybrid: what it costs while Redis decides, beside Redis alone on the same server; and how long nothing is granted
//! when Redis is killed, and how long grants are of one host only when it is there again.

use std::fs::File;
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Extent;
use crate::client::{Sample, Task, Work};
use crate::daemon::PATIENCE;
use crate::figures::{figure, goal, heading, median, median_span, micros, millis, percentile};
use crate::place::Place;
use crate::processor::On;
use crate::server::Server;

/// How often a turn of slices is repeated within a round.
const TURNS: usize = 3;

const NAMES: [&str; 2] = ["lockfs, redis", "lockfs, hybrid"];

pub(crate) fn measure(extent: &Extent) -> io::Result<()> {
    pairs(extent)?;
    outages(extent)
}

fn pairs(extent: &Extent) -> io::Result<()> {
    let mut rounds: Vec<[(Duration, Duration, f64); NAMES.len()]> = Vec::new();
    for _ in 0..extent.rounds {
        let server = Server::start()?;
        let places = [Place::lockfs_redis(&server)?, Place::lockfs_hybrid(&server)?];
        let put = |on| {
            server.put(on)?;
            places.iter().try_for_each(|place| place.put(on))
        };
        let work = |task, on| Work { task, threads: 1, directories: 1, on };
        let mut latencies: [Vec<Sample>; NAMES.len()] = Default::default();
        put(On::One)?;
        for _ in 0..TURNS {
            let slice = extent.slice / u32::try_from(TURNS).unwrap_or(1);
            for (place, latencies) in places.iter().zip(&mut latencies) {
                latencies.extend(work(Task::Pairs(slice), On::One).run(place.root())?.samples);
            }
        }
        put(On::Any)?;
        let mut round = [(Duration::ZERO, Duration::ZERO, 0.0); NAMES.len()];
        for ((place, latencies), round) in places.iter().zip(latencies).zip(&mut round) {
            let mut spans: Vec<Duration> = latencies.iter().map(Sample::pair).collect();
            let rate = work(Task::Pairs(extent.slice), On::Any).run(place.root())?.per_second();
            *round = (percentile(&mut spans, 50), percentile(&mut spans, 99), rate);
        }
        rounds.push(round);
    }
    heading("hybrid while Redis decides: pairs/s with free processors, latency of a pair on one processor");
    for (number, name) in NAMES.into_iter().enumerate() {
        let p50 = micros(median_span(rounds.iter().map(|round| round[number].0)));
        let p99 = micros(median_span(rounds.iter().map(|round| round[number].1)));
        let rate = median(rounds.iter().map(|round| round[number].2));
        figure(name, format_args!("{rate:>8.0}/s  p50 {p50:>9}  p99 {p99:>10}"));
    }
    let ratio = median(rounds.iter().map(|[redis, hybrid]| hybrid.0.as_secs_f64() / redis.0.as_secs_f64()));
    goal("p50, hybrid / redis", format_args!("{ratio:.2}, at most 1.15"), ratio <= 1.15);
    Ok(())
}

fn outages(extent: &Extent) -> io::Result<()> {
    let (mut to_grant, mut to_cluster) = (Vec::new(), Vec::new());
    for _ in 0..extent.outages {
        let mut server = Server::start_kept()?;
        let place = Place::lockfs_hybrid(&server)?;
        until(|| Ok(place.status("mirrored")? == "1"))?;
        let name = place.root().join("first");
        acquire(&name)?;
        std::fs::remove_file(&name)?;
        server.kill()?;
        let start = Instant::now();
        until(|| Ok(acquire(&name).is_ok()))?;
        to_grant.push(start.elapsed());
        server.restart()?;
        let start = Instant::now();
        until(|| Ok(place.status("mode")? == "cluster"))?;
        to_cluster.push(start.elapsed());
    }
    heading("hybrid, --on-outage local, when Redis goes and returns");
    figure("from kill -9 of Redis to the first grant", millis(median_span(to_grant)));
    figure("from Redis' first answer to scope cluster", millis(median_span(to_cluster)));
    Ok(())
}

fn acquire(name: &Path) -> io::Result<()> {
    File::create_new(name).map(drop)
}

/// Waits for something, looking often.
fn until(mut is_so: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let limit = Instant::now() + PATIENCE;
    while !is_so()? {
        if Instant::now() > limit {
            return Err(io::Error::other("hybrid does not come to decide"));
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}
