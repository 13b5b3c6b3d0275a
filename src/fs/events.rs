//! `.lockfs/events`: the recent history as a file that only grows.
//!
//! The store numbers its events and forgets the oldest; a file has byte offsets that stay. So each event
//! gets the offset behind the one before it, for ever, and the file comes in generations: one that has
//! grown by more than [`GENERATION`] bytes is followed by another inode, which begins with what is recent.
//! Whoever has the old one open (`tail -f`) reads on in it.
//!
//! While the store can't say, the file ends where it was last known to: `tail -f` and `lockfs watch` go on when
//! the store does.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::LockStore;

/// How many bytes a generation grows before the next begins.
const GENERATION: u64 = 4 << 20;

/// How many bytes are kept for slow readers and for the beginning of a generation.
const KEPT: usize = 2 << 20;

/// How many events are asked of the store at a time.
const PAGE: usize = 1_000;

/// The text of the events so far, by offset.
#[derive(Debug, Default)]
pub(super) struct EventFile(Mutex<Text>);

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
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Ok(page) = store.events(text.last, PAGE)
            && !page.events.is_empty()
        {
            text.add(page.first, page.events.iter().map(|event| format!("{event}\n")));
        }
        text
    }
}

impl Text {
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
