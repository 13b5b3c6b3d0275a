//! How long the server takes to answer, and how often what happened on the way to it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How many round trips are remembered.
const KEPT: usize = 1024;

/// Round trips, and counters.
#[derive(Debug, Default)]
pub(super) struct Meters {
    trips: Mutex<Trips>,
    /// Commands that were answered.
    pub(super) commands: Counter,
    /// Commands that were sent again, because nobody knew whether they had arrived.
    pub(super) repeated: Counter,
    /// Commands that nobody knew the outcome of when the time was up.
    pub(super) unknown: Counter,
    /// Acquires that were undone.
    pub(super) undone: Counter,
    /// Connections made.
    pub(super) connected: Counter,
    /// Times that the server was gone.
    pub(super) outages: Counter,
    /// Locks that were said again after the server had lost data, or may have.
    pub(super) reasserted: Counter,
}

/// A number that rises.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub(super) fn count(&self) {
        self.add(1);
    }

    /// So many more.
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// How many so far.
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The last round trips, in microseconds.
#[derive(Debug, Default)]
struct Trips {
    last: Vec<u32>,
    next: usize,
}

impl Meters {
    /// Notes one round trip.
    pub(super) fn trip(&self, took: Duration) {
        self.commands.count();
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let mut trips = self.trips.lock().unwrap_or_else(PoisonError::into_inner);
        let next = trips.next;
        match trips.last.get_mut(next) {
            Some(oldest) => *oldest = micros,
            None => trips.last.push(micros),
        }
        trips.next = (next + 1) % KEPT;
    }

    /// The median and the 99th percentile of the last round trips; `None` where there was none.
    pub(super) fn percentiles(&self) -> Option<(Duration, Duration)> {
        let mut sorted = self.trips.lock().unwrap_or_else(PoisonError::into_inner).last.clone();
        sorted.sort_unstable();
        let at = |part: usize| Some(Duration::from_micros((*sorted.get(sorted.len() * part / 100)?).into()));
        Some((at(50)?, at(99)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_last_thousand() {
        let meters = Meters::default();
        assert_eq!(meters.percentiles(), None);
        for micros in 0..3_000 {
            meters.trip(Duration::from_micros(micros));
        }
        let (median, p99) = meters.percentiles().expect("there were some");
        assert!(median > Duration::from_micros(2_400) && p99 > Duration::from_micros(2_950));
        assert_eq!(meters.commands.get(), 3_000);
    }
}
