//! `.lockfs/events`: the recent history as a file that only grows.
//!
//! The store numbers its events and forgets the oldest; a file has byte offsets that stay. So each event
//! gets the offset behind the one before it, for ever, and the file comes in generations: one that has
//! grown by more than [`GENERATION`] bytes is followed by another inode, which begins with what is recent.
//! Whoever has the old one open (`tail -f`) reads on in it.
//!
//! Where it ends stands in the [ledger](super::ledger): after a restart it goes on from there, for whoever reads it.
//!
//! While the store can't say, the file ends where it was last known to: `tail -f` and `lockfs watch` go on when
//! the store does.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ledger::{Entry, EventsEnd, Ledger, State};
use crate::store::LockStore;

/// How many bytes a generation grows before the next begins.
const GENERATION: u64 = 4 << 20;

/// How many bytes are kept for slow readers and for the beginning of a generation.
const KEPT: usize = 2 << 20;

/// How many events are asked of the store at a time.
const PAGE: usize = 1_000;

/// The text of the events so far, by offset.
#[derive(Debug, Default)]
pub(super) struct EventFile {
    text: Mutex<Text>,
    ledger: Arc<Ledger>,
}

#[derive(Debug, Default)]
struct Text {
    /// The number of the last event taken from the store.
    last: u64,
    /// Lines, each with its line feed.
    lines: VecDeque<String>,
    /// The offset of the first line.
    start: u64,
    /// The offset behind the last line.
    end: u64,
    /// Where the newest generation begins.
    generation: u64,
}

impl EventFile {
    /// The file that goes on where `state` says that it ended.
    pub(super) fn new(store: &dyn LockStore, state: &State, ledger: Arc<Ledger>) -> Self {
        Self { text: Mutex::new(Text::resumed(store, state.events)), ledger }
    }

    /// The newest generation, by the offset of its first byte.
    pub(super) fn newest(&self, store: &dyn LockStore) -> u64 {
        self.caught_up(store).generation
    }

    /// How many bytes a generation has.
    pub(super) fn size(&self, store: &dyn LockStore, generation: u64) -> u64 {
        self.caught_up(store).end.saturating_sub(generation)
    }

    /// At most `size` bytes of a generation from `offset`. A reader that is too slow gets line feeds in place
    /// of what is forgotten.
    pub(super) fn read(&self, store: &dyn LockStore, generation: u64, offset: u64, size: usize) -> Vec<u8> {
        let text = self.caught_up(store);
        let mut bytes = Vec::new();
        let mut at = generation.saturating_add(offset);
        if at < text.start {
            let forgotten = usize::try_from(text.start - at).unwrap_or(usize::MAX).min(size);
            bytes.resize(forgotten, b'\n');
            at += forgotten as u64;
        }
        let mut line_start = text.start;
        for line in &text.lines {
            let line_end = line_start + line.len() as u64;
            if at < line_end && bytes.len() < size {
                let skip = usize::try_from(at - line_start).unwrap_or(0);
                let rest = &line.as_bytes()[skip..];
                let taken = rest.len().min(size - bytes.len());
                bytes.extend_from_slice(&rest[..taken]);
                at += taken as u64;
            }
            line_start = line_end;
        }
        bytes
    }

    fn caught_up(&self, store: &dyn LockStore) -> MutexGuard<'_, Text> {
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        let before = text.end;
        while let Ok(page) = store.events(text.last, PAGE)
            && !page.events.is_empty()
        {
            text.add(page.first, page.events.iter().map(|event| format!("{event}\n")));
        }
        if text.end != before {
            let sum = text.lines.back().map_or(0, |line| crc32c::crc32c(line.as_bytes()));
            self.ledger.note(&Entry::Events(EventsEnd { last: text.last, sum, end: text.end }));
        }
        text
    }
}

impl Text {
    /// A text that goes on behind what readers have been given. What came before is put before it where the store
    /// still has it; a store that has begun to count anew has events that nobody was given.
    fn resumed(store: &dyn LockStore, EventsEnd { last, sum, end }: EventsEnd) -> Self {
        let mut text = Self { start: end, end, generation: end, ..Self::default() };
        let before = |number: u64| -> Option<String> {
            let page = store.events(number.checked_sub(1)?, 1).ok()?;
            (page.first == number).then(|| page.events.first().map(|event| format!("{event}\n"))).flatten()
        };
        if before(last).is_none_or(|line| crc32c::crc32c(line.as_bytes()) != sum) {
            return text;
        }
        text.last = last;
        let (mut from, mut lines) = (0, VecDeque::new());
        while let Ok(page) = store.events(from, PAGE)
            && !page.events.is_empty()
            && from < last
        {
            let until = usize::try_from(last + 1 - page.first.min(last + 1)).unwrap_or(usize::MAX);
            lines.extend(page.events.iter().take(until).map(|event| format!("{event}\n")));
            from = page.first + page.events.len() as u64 - 1;
        }
        while let Some(line) = lines.pop_back()
            && line.len() as u64 <= text.start
            && text.end - text.start + line.len() as u64 <= KEPT as u64
        {
            text.start -= line.len() as u64;
            text.lines.push_front(line);
        }
        text.generation = text.start;
        text
    }

    fn add(&mut self, first: u64, lines: impl Iterator<Item = String>) {
        let missed = first.saturating_sub(self.last + 1);
        if missed > 0 {
            let mut line = String::new();
            writeln!(line, "# {missed} events were forgotten before they were asked for").ok();
            self.push(line);
        }
        self.last = first - 1;
        for line in lines {
            self.push(line);
            self.last += 1;
        }
        while self.end - self.start > KEPT as u64
            && let Some(line) = self.lines.pop_front()
        {
            self.start += line.len() as u64;
        }
        if self.end - self.generation > GENERATION {
            self.generation = self.start;
        }
    }

    fn push(&mut self, line: String) {
        self.end += line.len() as u64;
        self.lines.push_back(line);
    }
}
