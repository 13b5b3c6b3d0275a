//! The pass: what is told by the source, as it goes to the target, and what is known of both then.

use std::collections::HashMap;

use super::canon::{self, Key, Print};
use super::closing::Closing;
use super::end::End;
use super::fit::{self, Fit, Fitted};
use super::{Error, Tally};
use crate::clock::{BootTime, Now};
use crate::lock::{Ino, Kind, Record, Session, Ttl};
use crate::table::{Note, Told};

/// What is known of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) print: Print,
    pub(super) is_directory: bool,
}

pub(super) type Seens = HashMap<Key, Seen>;

pub(super) fn tally(seens: &Seens) -> Tally {
    let mut tally = Tally::default();
    for (key, seen) in seens {
        match key {
            Key::Session(_) => tally.sessions += 1,
            Key::Object(Ino::ROOT) => {}
            Key::Object(_) if seen.is_directory => tally.directories += 1,
            Key::Object(_) => tally.locks += 1,
        }
        tally.digest.add(seen.print);
    }
    tally
}

pub(super) fn seen(record: &Record) -> Seen {
    let is_directory = record.body.kind() == Kind::Directory && record.ttl == Ttl::Never;
    Seen { print: canon::of_record(record), is_directory }
}

pub(super) fn seen_session(session: &Session) -> Seen {
    Seen { print: canon::of_session(session), is_directory: false }
}

/// Whether a store keeps it: what has no name left lives on for who has it open, and goes with them.
pub(super) fn is_kept(record: &Record) -> bool {
    record.ino == Ino::ROOT || !record.places.is_empty()
}

/// What a page of the source goes through.
pub(super) struct Parts<'a> {
    pub(super) to: &'a mut dyn End,
    pub(super) filled: &'a Closing,
    pub(super) fit: &'a mut Fit,
    pub(super) source: &'a mut Seens,
    pub(super) target: &'a mut Seens,
    /// Objects whose session was not told yet.
    pub(super) unplaced: Vec<Ino>,
}

/// Whether what the target has already is put there again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    IfChanged,
    /// When it was last seen may have changed.
    Always,
}

impl Parts<'_> {
    /// Puts what was told into the target.
    pub(super) fn pass(&mut self, now: Now, told: Vec<Told>, again: Again) -> Result<(), Error> {
        let there = self.to.now().boot;
        let (mut gone, mut over) = (Vec::new(), Vec::new());
        let (mut sessions, mut objects) = (Vec::new(), Vec::new());
        let mut blocking = Vec::new();
        for one in told {
            match one {
                Told::Session(session) => match self.fit.session(*session) {
                    Fitted::Put(mut session) => {
                        session.seen = moved(session.seen, now.boot, there);
                        self.source.insert(Key::Session(session.id.clone()), seen_session(&session));
                        // When it was last seen is in no print.
                        sessions.push(Told::Session(Box::new(session)));
                    }
                    Fitted::IsThere => {}
                    Fitted::InTheWay(what) => blocking.push(what),
                },
                Told::Object(record, _) if !is_kept(&record) => gone.push(record.ino),
                Told::Object(record, _) => objects.push(*record),
                Told::Gone(ino) => gone.push(ino),
                Told::Over(id) => over.push(id),
            }
        }
        let mut puts = Vec::new();
        for record in objects {
            let ino = record.ino;
            match self.fit.object(record) {
                Fitted::Put(mut record) => {
                    let holder = record.session.clone().map(Key::Session);
                    if holder.is_some_and(|key| !self.source.contains_key(&key) && !self.fit.has(&key)) {
                        self.unplaced.push(ino);
                        continue;
                    }
                    record.seen = moved(record.seen, now.boot, there);
                    let key = Key::Object(ino);
                    self.source.insert(key.clone(), seen(&record));
                    let is_there = self.target.get(&key) == self.source.get(&key);
                    // Nor is when an advisory file was last used.
                    if again == Again::Always || !is_there || record.is_advisory() {
                        puts.push(Told::Object(Box::new(record), Note::Told));
                    }
                }
                Fitted::IsThere => {}
                Fitted::InTheWay(what) => blocking.push(what),
            }
        }
        if !blocking.is_empty() {
            return Err(Error::Refused(fit::refusal(&self.to.place(), &blocking)));
        }
        gone.retain(|ino| self.forget(&Key::Object(*ino)));
        over.retain(|id| self.forget(&Key::Session(id.clone())));
        let mut all: Vec<Told> = gone.into_iter().map(Told::Gone).collect();
        all.append(&mut sessions);
        all.append(&mut puts);
        all.extend(over.into_iter().map(Told::Over));
        self.put(all, again)
    }

    /// Forgets what the source has not any more; whether the target has it.
    fn forget(&mut self, key: &Key) -> bool {
        self.source.remove(key);
        !self.fit.has(key)
    }

    /// Puts it there. All that is copied is read back in the end; what comes later is read back at once.
    fn put(&mut self, told: Vec<Told>, again: Again) -> Result<(), Error> {
        if told.is_empty() {
            return Ok(());
        }
        let (mut objects, mut sessions) = (Vec::new(), Vec::new());
        for one in &told {
            match one {
                Told::Object(record, _) => objects.push(record.ino),
                Told::Session(session) => sessions.push(session.id.clone()),
                Told::Gone(ino) => drop(self.target.remove(&Key::Object(*ino))),
                Told::Over(id) => drop(self.target.remove(&Key::Session(id.clone()))),
            }
        }
        self.to.put(self.filled, told)?;
        let there = match again {
            Again::IfChanged => None,
            Again::Always => self.to.look(&objects, &sessions)?,
        };
        match there {
            Some((_, told)) => note(self.fit, self.target, told),
            // It has acknowledged it, and that is as much as is known now.
            None => {
                let keys = objects.into_iter().map(Key::Object).chain(sessions.into_iter().map(Key::Session));
                for key in keys {
                    let seen = self.source[&key];
                    self.target.insert(key, seen);
                }
            }
        }
        Ok(())
    }

    /// Notes what the source has, and puts it nowhere.
    pub(super) fn note_source(&mut self, told: Vec<Told>) {
        for one in told {
            match one {
                Told::Session(session) => {
                    if let Fitted::Put(session) = self.fit.session(*session) {
                        self.source.insert(Key::Session(session.id.clone()), seen_session(&session));
                    }
                }
                Told::Object(record, _) if is_kept(&record) => {
                    if let Fitted::Put(record) = self.fit.object(*record) {
                        self.source.insert(Key::Object(record.ino), seen(&record));
                    }
                }
                Told::Object(..) | Told::Gone(_) | Told::Over(_) => {}
            }
        }
    }
}

/// Notes what the target has of what was moved.
pub(super) fn note(fit: &Fit, target: &mut Seens, told: Vec<Told>) {
    for one in told {
        match one {
            Told::Object(record, _) => {
                let key = Key::Object(record.ino);
                let is_moved = !fit.has(&key) && (record.ino != Ino::ROOT || fit.is_empty());
                if is_moved && is_kept(&record) {
                    target.insert(key, seen(&record));
                }
            }
            Told::Session(session) => {
                let key = Key::Session(session.id.clone());
                if !fit.has(&key) {
                    target.insert(key, seen_session(&session));
                }
            }
            Told::Gone(ino) => drop(target.remove(&Key::Object(ino))),
            Told::Over(id) => drop(target.remove(&Key::Session(id))),
        }
    }
}

/// A moment on one clock that is as long ago on another.
pub(super) fn moved(seen: BootTime, here: BootTime, there: BootTime) -> BootTime {
    let ago = i128::from(here.as_nanos()) - i128::from(seen.as_nanos());
    BootTime::from_nanos(u64::try_from(i128::from(there.as_nanos()) - ago).unwrap_or_default())
}
