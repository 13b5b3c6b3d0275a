//! Who holds what, and until when, as events tell it: the history of each name, kept apart from the table.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lockfs::clock::BootTime;
use lockfs::lock::{Event, EventKind, Ino, Kind, LockPath, Record, SessionId, Token, Ttl};
use lockfs::table::{Command, Reply, Step};

use crate::crowd::{Crowd, Use};
use crate::search::Verdict;
use crate::shadow::{Shadow, ensure};
use crate::world::{Bench, Story};

/// How much earlier than its ttl says a lock may go: moves of a session's last sign of life by less than
/// this need not be kept.
const GRAIN: Duration = Duration::from_secs(1);

/// A lock or directory, as events made it.
#[derive(Clone, Debug)]
struct Thing {
    session: Option<SessionId>,
    token: Token,
    ttl: Ttl,
    seen: BootTime,
    kind: Kind,
}

/// When a session was seen alive.
#[derive(Clone, Copy, Debug)]
struct Signs {
    /// It did what the law promises to count.
    certain: BootTime,
    /// It did something, or something was asked about it.
    possible: BootTime,
}

/// What follows from all events so far.
#[derive(Debug, Default)]
pub(crate) struct Model {
    names: BTreeMap<LockPath, Ino>,
    things: BTreeMap<Ino, Thing>,
    signs: BTreeMap<SessionId, Signs>,
    default_ttls: BTreeMap<Ino, Ttl>,
    /// The highest token that each name ever had.
    granted: BTreeMap<LockPath, Token>,
    /// What was seen dead.
    gone: BTreeSet<Ino>,
}

impl Model {
    /// Follows one step; `last` is the last token before it.
    pub(crate) fn follow(
        &mut self,
        command: &Command,
        step: &Step,
        after: &Shadow,
        crowd: &Crowd,
        bench: &Bench,
        last: Token,
    ) -> Verdict {
        let paths = after.paths();
        for event in &step.events {
            self.hear(event, &paths, after, crowd, bench, last)
                .map_err(|wrong| format!("{wrong}: {event} by {command:?}"))?;
        }
        let is_done = step.outcome.is_ok();
        match command {
            Command::EndSession { id, .. } if is_done => {
                for (ino, thing) in
                    self.things.iter_mut().filter(|(_, thing)| thing.session.as_ref() == Some(id))
                {
                    let stays = thing.kind == Kind::Directory && after.entries(*ino).next().is_some();
                    let named = self.names.values().any(|named| named == ino);
                    ensure!(stays || !named, "inode {ino} outlived its session without need");
                    thing.session = None;
                }
            }
            Command::Lock { ino, .. } if is_done => {
                if let Some(thing) = self.things.get_mut(ino)
                    && thing.session.take().is_some()
                {
                    thing.seen = bench.now.boot;
                }
            }
            Command::SetTtl { ino, ttl, .. } if is_done => {
                let thing = self.things.get_mut(ino).ok_or("a ttl was set of nothing")?;
                (thing.ttl, thing.seen) = (*ttl, bench.now.boot);
            }
            Command::SetDefaultTtl { ino, ttl, .. } if is_done => {
                self.default_ttls.remove(ino);
                self.default_ttls.extend(ttl.map(|ttl| (*ino, ttl)));
            }
            _ => {}
        }
        self.things.retain(|ino, _| self.names.values().any(|named| named == ino));
        self.note_signs(command, step, bench);
        Ok(())
    }

    fn hear(
        &mut self,
        event: &Event,
        paths: &BTreeMap<LockPath, Ino>,
        after: &Shadow,
        crowd: &Crowd,
        bench: &Bench,
        last: Token,
    ) -> Verdict {
        match event.kind {
            EventKind::Begin => Ok(()),
            EventKind::Lost => Err("no step loses data".to_owned()),
            EventKind::End => {
                let locks = self.names.values().map(|ino| &self.things[ino]);
                let mut locks = locks.filter(|thing| thing.kind != Kind::Directory);
                let holds = locks.any(|thing| thing.session == event.session);
                ensure!(!holds, "a session ended that holds locks");
                Ok(())
            }
            EventKind::Acquire => {
                ensure!(!self.names.contains_key(&event.path), "the name was not free");
                let ino = *paths.get(&event.path).ok_or("nothing stands there")?;
                let token = event.token.ok_or("a grant without a token")?;
                ensure!(token > last, "a token was given before");
                let record = &after.records[&ino];
                self.names.insert(event.path.clone(), ino);
                if let Some(thing) = self.things.get_mut(&ino) {
                    thing.token = token;
                } else {
                    ensure!(Ino::from(token) == ino, "the birth of {ino} is not its token");
                    let expected = self.ttl_of_new(record, after, bench);
                    ensure!(record.ttl == expected, "it got {} and not {expected}", record.ttl);
                    let session = event.session.clone();
                    let (ttl, kind) = (record.ttl, record.body.kind());
                    self.things.insert(ino, Thing { session, token, ttl, seen: bench.now.boot, kind });
                }
                self.grant(&event.path, token)
            }
            EventKind::Transfer => {
                let ino = *self.names.get(&event.path).ok_or("there is no such name")?;
                let thing = self.things.get_mut(&ino).ok_or("there is no such thing")?;
                let token = event.token.ok_or("a grant without a token")?;
                ensure!(token > last, "a token was given before");
                *thing =
                    Thing { session: event.session.clone(), token, seen: bench.now.boot, ..thing.clone() };
                let names: Vec<_> = self.names.iter().filter(|(_, named)| **named == ino).collect();
                let names: Vec<LockPath> = names.into_iter().map(|(path, _)| path.clone()).collect();
                names.iter().try_for_each(|path| self.grant(path, token))
            }
            EventKind::Release | EventKind::Expire | EventKind::Break => {
                let ino = self.names.remove(&event.path).ok_or("there is no such name")?;
                let thing = &self.things[&ino];
                ensure!(thing.session == event.session, "its holder was {:?}", thing.session);
                ensure!(Some(thing.token) == event.token, "its token was {}", thing.token);
                if event.kind == EventKind::Expire {
                    let (earliest, _) = self.deadlines(ino, thing, crowd);
                    let passed = earliest.is_some_and(|earliest| earliest <= bench.now.boot);
                    ensure!(passed, "its deadline was {earliest:?}, it is {:?}", bench.now.boot);
                }
                Ok(())
            }
        }
    }

    fn grant(&mut self, path: &LockPath, token: Token) -> Verdict {
        let before = self.granted.insert(path.clone(), token);
        ensure!(
            before.is_none_or(|before| before < token),
            "the token of {path} fell from {before:?} to {token}"
        );
        Ok(())
    }

    /// The ttl that something new gets: of the nearest directory that sets one, else of its session.
    fn ttl_of_new(&self, record: &Record, after: &Shadow, bench: &Bench) -> Ttl {
        let place = &record.places[0];
        if record.body.kind() == Kind::Directory && !place.name.as_bytes().ends_with(b".lock") {
            return Ttl::Never;
        }
        let mut above = Some(place.parent);
        while let Some(ino) = above {
            if let Some(ttl) = self.default_ttls.get(&ino) {
                return *ttl;
            }
            above = after.records[&ino].places.first().map(|place| place.parent);
        }
        let session = record.session.as_ref().and_then(|id| bench.table.session(bench.now, id));
        session.map_or(Ttl::DEFAULT, |session| session.ttl)
    }

    fn note_signs(&mut self, command: &Command, step: &Step, bench: &Bench) {
        let caller = command.caller().map(|caller| &caller.session.id);
        let mut possible: Vec<&SessionId> = caller.into_iter().collect();
        let mut certain: Vec<&SessionId> = Vec::new();
        let done = step.outcome.as_ref().ok();
        match command {
            Command::Transfer { heir, .. } | Command::Rename { heir: Some(heir), .. } => possible.push(heir),
            Command::MergeSession { from, to, .. } => possible.extend([from, to]),
            Command::TouchSession { id, .. } | Command::SetSessionTtl { id, .. } => {
                possible.push(id);
                certain.extend(done.map(|_| id));
            }
            Command::Renew { sessions } => {
                possible.extend(sessions);
                certain.extend(sessions.iter().filter(|id| bench.table.session(bench.now, id).is_some()));
            }
            _ => {}
        }
        let used = match command {
            Command::Acquire { .. } => match done {
                Some(Reply::Entry(attributes)) => Some(attributes.ino),
                _ => None,
            },
            Command::Write { ino, data, .. } if !data.is_empty() => Some(*ino),
            Command::Change { ino, .. }
            | Command::SetTtl { ino, .. }
            | Command::SetDefaultTtl { ino, .. } => Some(*ino),
            Command::Link { ino, .. } => Some(*ino),
            _ => None,
        };
        let holder = used.and_then(|ino| self.things.get(&ino)?.session.as_ref());
        certain.extend(caller.filter(|_| done.is_some()).filter(|id| holder == Some(*id)));
        let now = bench.now.boot;
        for id in possible.iter().chain(&certain) {
            self.signs
                .entry((*id).clone())
                .or_insert(Signs { certain: BootTime::default(), possible: now })
                .possible = now;
        }
        for id in certain {
            self.signs.entry(id.clone()).or_insert(Signs { certain: now, possible: now }).certain = now;
        }
    }

    /// Before which moment a thing must not expire, and from which on it must have; not counting what
    /// stands in it.
    fn deadlines(&self, ino: Ino, thing: &Thing, crowd: &Crowd) -> (Option<BootTime>, Option<BootTime>) {
        // Of a file that nobody holds what counts is who last used it.
        if let (Kind::File, None, Some(span)) = (thing.kind, &thing.session, thing.ttl.span()) {
            let Use::Until(last) = crowd.last_use(ino) else {
                return (None, None);
            };
            let earliest = (last + span).since(BootTime::from_nanos(0)).saturating_sub(GRAIN.min(span / 8));
            let earliest = (BootTime::from_nanos(0) + earliest).max(thing.seen + span);
            return (Some(earliest), Some(thing.seen.max(last) + span));
        }
        let signs = thing.session.as_ref().and_then(|id| self.signs.get(id));
        let (certain, possible) = signs.map_or((thing.seen, thing.seen), |signs| {
            (thing.seen.max(signs.certain), thing.seen.max(signs.possible))
        });
        let Some(span) = thing.ttl.span() else {
            return (None, None);
        };
        // Its own `seen` is exact; a session's is kept to its grain.
        let inexact = certain + (span - GRAIN.min(span / 8));
        ((Some(inexact.max(thing.seen + span))), Some(possible + span))
    }

    /// The table says of each name what the events say.
    pub(crate) fn check(&mut self, after: &Shadow, crowd: &Crowd, bench: &Bench, story: &Story) -> Verdict {
        let paths = after.paths();
        ensure!(self.names == paths, "by events there are {:?}, in truth {paths:?}", self.names);
        let now = bench.now;
        for (ino, thing) in &self.things {
            let record = &after.records[ino];
            let told = (&thing.session, thing.token, thing.ttl);
            let kept = (&record.session, record.token, record.ttl);
            ensure!(told == kept, "by events inode {ino} is {told:?}, in truth {kept:?}");
            let (earliest, latest) = self.deadlines(*ino, thing, crowd);
            let full = after.entries(*ino).any(|entry| bench.table.stat(now, entry.ino).is_some());
            let lives = bench.table.stat(now, *ino).is_some();
            let must_live = full || earliest.is_none_or(|earliest| now.boot < earliest);
            let must_be_dead = !full && latest.is_some_and(|latest| latest <= now.boot);
            ensure!(lives || !must_live, "inode {ino} died too early: {thing:?} {record:?}");
            ensure!(!lives || !must_be_dead, "inode {ino} lives too long: {thing:?} {record:?}");
        }
        for ino in story.seen() {
            match bench.table.stat(now, *ino) {
                Some(_) => ensure!(!self.gone.contains(ino), "inode {ino} came back from the dead"),
                None => drop(self.gone.insert(*ino)),
            }
        }
        Ok(())
    }
}
