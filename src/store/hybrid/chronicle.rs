//! The events of both stores, and of the way from one to the other, in one order with numbers of its own.

use std::collections::VecDeque;

use crate::lock::Event;
use crate::store::level::LevelStore;
use crate::store::redis::RedisStore;
use crate::store::{EventPage, LockStore};

/// How many events are kept.
const KEPT: usize = 10_000;

/// How many are asked of a store at once.
const PAGE: usize = 1_000;

/// The events so far.
#[derive(Debug, Default)]
pub(super) struct Chronicle {
    events: VecDeque<Event>,
    /// How many are forgotten.
    forgotten: u64,
    /// The numbers of the last events heard of each store.
    there: u64,
    here: u64,
}

impl Chronicle {
    /// Takes in what the stores have heard since.
    pub(super) fn catch_up(&mut self, redis: &RedisStore, mirror: &LevelStore) {
        for (store, last) in
            [(redis as &dyn LockStore, &mut self.there), (mirror as &dyn LockStore, &mut self.here)]
        {
            while let Ok(page) = store.events(*last, PAGE)
                && !page.events.is_empty()
            {
                *last = page.first + page.events.len() as u64 - 1;
                self.events.extend(page.events);
            }
        }
        self.forget();
    }

    /// Notes an event of neither.
    pub(super) fn add(&mut self, event: Event) {
        self.events.push_back(event);
        self.forget();
    }

    fn forget(&mut self) {
        let excess = self.events.len().saturating_sub(KEPT);
        self.events.drain(..excess);
        self.forgotten += excess as u64;
    }

    /// Events after the one numbered `after`.
    pub(super) fn page(&self, after: u64, limit: usize) -> EventPage {
        let skip = after.saturating_sub(self.forgotten);
        let first = self.forgotten + skip + 1;
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        EventPage { first, events: self.events.iter().skip(skip).take(limit).cloned().collect() }
    }
}
