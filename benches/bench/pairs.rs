//! Acquire and release, beside the floors.

use std::io;
use std::time::Duration;

use crate::Extent;
use crate::client::{Sample, Task, Work};
use crate::figures::{figure, goal, heading, median, median_span, micros, percentile};
use crate::place::Place;
use crate::processor::On;

/// How often a pair of slices is repeated within a round.
const TURNS: usize = 3;

/// What is compared: threads, directories, and what to call it.
const SHAPES: [(usize, usize, &str); 3] =
    [(1, 1, "1 thread"), (16, 16, "16 threads, a directory each"), (16, 1, "16 threads, one directory")];

/// The rounds of one file system in one shape.
#[derive(Clone, Debug, Default)]
struct Rounds {
    p50: Vec<Duration>,
    p99: Vec<Duration>,
    per_second: Vec<f64>,
}

pub(crate) fn measure(extent: &Extent) -> io::Result<()> {
    const NAMES: usize = 4;
    let mut rounds = vec![vec![Rounds::default(); NAMES]; SHAPES.len()];
    let mut names = [""; NAMES];
    for _ in 0..extent.rounds {
        let places = [Place::lockfs()?, Place::null()?, Place::tmpfs()?, Place::disk()?];
        names = places.each_ref().map(|place| place.name);
        for (shape, (threads, directories, _)) in rounds.iter_mut().zip(SHAPES) {
            let mut latencies: [Vec<Sample>; NAMES] = Default::default();
            let slice = extent.slice / u32::try_from(TURNS).unwrap_or(1);
            for _ in 0..TURNS {
                let work = Work { task: Task::Pairs(slice), threads, directories, on: On::One };
                for (place, latencies) in places.iter().zip(&mut latencies) {
                    place.put(On::One)?;
                    latencies.extend(work.run(place.root())?.samples);
                }
            }
            let work = Work { task: Task::Pairs(extent.slice), threads, directories, on: On::Any };
            for ((place, latencies), rounds) in places.iter().zip(latencies).zip(shape) {
                place.put(On::Any)?;
                rounds.per_second.push(work.run(place.root())?.per_second());
                let mut spans: Vec<Duration> = latencies.iter().map(Sample::pair).collect();
                rounds.p50.push(percentile(&mut spans, 50));
                rounds.p99.push(percentile(&mut spans, 99));
            }
        }
    }
    heading("acquire + release: pairs/s with free processors, latency of a pair on one processor");
    for (shape, (.., what)) in rounds.iter().zip(SHAPES) {
        for (rounds, name) in shape.iter().zip(names) {
            let p50 = micros(median_span(rounds.p50.iter().copied()));
            let p99 = micros(median_span(rounds.p99.iter().copied()));
            let rate = median(rounds.per_second.iter().copied());
            figure(
                format_args!("{what}: {name}"),
                format_args!("{rate:>8.0}/s  p50 {p50:>9}  p99 {p99:>10}"),
            );
        }
    }
    for (shape, (threads, _, what)) in rounds.iter().zip(SHAPES) {
        let [lockfs, null, ..] = shape.as_slice() else { continue };
        let pairs = lockfs.p50.iter().zip(&null.p50);
        let ratio = median(pairs.map(|(lockfs, null)| lockfs.as_secs_f64() / null.as_secs_f64()));
        let name = format!("{what}: p50, lockfs / null");
        if threads == 1 {
            goal(name, format_args!("{ratio:.2}, at most 1.30"), ratio <= 1.3);
        } else {
            figure(name, format_args!("{ratio:.2}"));
        }
    }
    Ok(())
}
