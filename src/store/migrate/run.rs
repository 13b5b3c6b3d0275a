//! The run: from the look at both ends to the hand-over.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::canon::Key;
use super::closing::{Closing, Kind as ClosingKind};
use super::end::End;
use super::fit::{self, Fit};
use super::pass::{Again, Parts, Seen, Seens, is_kept, note, seen, seen_session, tally};
use super::{Error, Order, Report, Side, Task, Watch};
use crate::clock::{Clock, Now, SystemClock};
use crate::lock::{Ino, Record, Session, SessionId};
use crate::store::level::{LevelEnd, LevelError, RemoteEnd};
use crate::store::redis::RedisEnd;
use crate::table::{Change, Told};

/// How long the source stands still at most: who asks meanwhile waits.
const FREEZE: Duration = Duration::from_secs(1);

/// So few changes are carried over while nothing is granted.
const FEW: usize = 500;

/// How often the source is caught up with before it is frozen all the same, and how often it is frozen.
const ROUNDS: usize = 50;
const FREEZES: u32 = 10;

/// How many differences are named.
const NAMED: usize = 10;

/// Carries out an order.
///
/// # Errors
/// [`Error`]: it was not done, and why.
pub fn migrate(order: &Order, watch: &mut dyn Watch) -> Result<Report, Error> {
    let changes_nothing = matches!(order.task, Task::DryRun | Task::Verify);
    let open = |side: &Side, is_source: bool| -> Result<Box<dyn End>, Error> {
        Ok(match side {
            Side::Level(dir) => {
                let end = match (changes_nothing, is_source) {
                    (true, _) => LevelEnd::read_only(dir, is_source),
                    (false, true) => LevelEnd::source(dir),
                    (false, false) => LevelEnd::target(dir),
                };
                match end {
                    // Its daemon lets it be copied, and not be filled.
                    Err(Error::Level(busy @ LevelError::Busy { .. })) if is_source || changes_nothing => {
                        Box::new(RemoteEnd::connect(dir)?.ok_or(busy)?)
                    }
                    end => Box::new(end?),
                }
            }
            Side::Redis(endpoint, namespace) => {
                let is_founded = !changes_nothing && !is_source && order.task == Task::Move;
                Box::new(RedisEnd::open(endpoint, namespace, is_founded.then_some(order.owner))?)
            }
        })
    };
    if let (Side::Level(from), Side::Level(to)) = (&order.from, &order.to) {
        let same = |a: &std::path::Path| std::fs::canonicalize(a).unwrap_or_else(|_| a.to_owned());
        if same(from) == same(to) {
            return Err(same_store(&from.display().to_string()));
        }
    }
    let from = open(&order.from, true)?;
    // Before anything is made at the other end.
    if order.task == Task::Move && from.identity().is_none() {
        return Err(Error::Refused(format!("there is nothing to move at {}", from.place())));
    }
    let to = open(&order.to, false)?;
    if from.identity().is_some() && from.identity() == to.identity() {
        return Err(same_store(&from.place()));
    }
    let mut run = Run::new(from, to, watch);
    match order.task {
        Task::Move => run.go(),
        Task::DryRun => run.dry(),
        Task::Verify => run.verify(),
        Task::RollBack => run.roll_back(),
    }
}

fn same_store(place: &str) -> Error {
    Error::Usage(format!("--from and --to are the same store ({place}): name two"))
}

struct Run<'a> {
    from: Box<dyn End>,
    to: Box<dyn End>,
    watch: &'a mut dyn Watch,
    moved: Closing,
    filled: Closing,
    fit: Fit,
    /// What the source has, as it goes to the target.
    source: Seens,
    /// What the target has of it.
    target: Seens,
    /// What was carried over since all was compared.
    touched: HashSet<Key>,
    freezes: u32,
    /// Whether the source is closed and the target is all that may be opened.
    is_handed_over: bool,
}

impl<'a> Run<'a> {
    fn new(from: Box<dyn End>, to: Box<dyn End>, watch: &'a mut dyn Watch) -> Self {
        let moved = Closing::moved(to.identity().unwrap_or_default(), to.place());
        let filled = Closing::filled(from.identity().unwrap_or_default(), from.place());
        let (source, target) = (Seens::new(), Seens::new());
        let (fit, touched) = (Fit::default(), HashSet::new());
        Self {
            from,
            to,
            watch,
            moved,
            filled,
            fit,
            source,
            target,
            touched,
            freezes: 0,
            is_handed_over: false,
        }
    }

    fn report(&self) -> Report {
        Report {
            from: self.from.place(),
            to: self.to.place(),
            source: tally(&self.source),
            target: tally(&self.target),
            others: self.fit.len(),
            freezes: self.freezes,
            ..Report::default()
        }
    }

    /// Moves all.
    fn go(&mut self) -> Result<Report, Error> {
        let (source, target) = (self.from.closing()?, self.to.closing()?);
        let is_ours = target
            .as_ref()
            .is_some_and(|closing| closing.kind == ClosingKind::Filled && closing.peer == self.filled.peer);
        if let Some(closing) = target.as_ref().filter(|_| is_ours) {
            self.filled = closing.clone();
        }
        if let Some(closing) = &source {
            let is_done = closing.kind == ClosingKind::Moved && closing.peer == self.moved.peer;
            return match (is_done, is_ours) {
                (true, true) => self.end_earlier(),
                (true, false) => Ok(Report { was_done: true, ..self.report() }),
                (false, _) => Err(closed(self.from.as_ref(), closing)),
            };
        }
        let returns =
            |closing: &Closing| closing.kind == ClosingKind::Moved && closing.peer == self.filled.peer;
        let is_back = target.as_ref().is_some_and(returns);
        if let Some(closing) = target.as_ref().filter(|_| !is_ours && !is_back) {
            return Err(closed(self.to.as_ref(), closing));
        }
        self.refuse_locked()?;
        self.to.fill(&self.filled, target.as_ref().filter(|_| is_back), is_back)?;
        match self.fill() {
            // Whether the target was opened nobody knows: the source must stay closed. Run again, it is.
            Err(error) if self.is_handed_over => Err(error),
            Err(error @ Error::Refused(_)) => {
                // What is refused has changed nothing.
                self.to.empty(&self.filled, &mut |_| {})?;
                self.from.thaw(&self.moved)?;
                Err(error)
            }
            Err(error) => {
                // Whatever is wrong, the source goes on at once; else it does when its lease is over.
                self.from.thaw(&self.moved).ok();
                Err(error)
            }
            Ok(report) => Ok(report),
        }
    }

    fn refuse_locked(&mut self) -> Result<(), Error> {
        let locked = self.from.locked()?;
        let Some(first) = locked.first() else {
            return Ok(());
        };
        let more = if locked.len() > 1 { format!(" and {} more", locked.len() - 1) } else { String::new() };
        Err(Error::Refused(format!(
            "{} has flock or fcntl locks on {first}{more}, which can't be moved: end what holds them, and run it again \
             (nothing was moved)",
            self.from.place()
        )))
    }

    fn fill(&mut self) -> Result<Report, Error> {
        self.read_target()?;
        self.from.track()?;
        if !self.fit.is_empty() {
            self.refuse_blocking()?;
        }
        self.copy()?;
        self.catch_up()?;
        self.compare()?;
        self.hand_over()
    }

    /// Notes what the target has: before, and by an earlier run.
    fn read_target(&mut self) -> Result<(), Error> {
        let before: HashSet<Key> = self.to.before()?.into_iter().collect();
        let (fit, target) = (&mut self.fit, &mut self.target);
        *fit = Fit::default();
        target.clear();
        let total = self.to.count()?;
        let mut origins = HashMap::new();
        self.watch.begin("looking at the target", total);
        let watch = &mut *self.watch;
        self.to.read(&mut |_, told| {
            watch.advance(told.len() as u64);
            for one in told {
                match one {
                    Told::Object(record, _) if record.ino == Ino::ROOT && !before.is_empty() => {}
                    Told::Object(record, _) if before.contains(&Key::Object(record.ino)) => {
                        fit.keep(&record, fit::holder(&record, &origins));
                    }
                    Told::Object(record, _) if is_kept(&record) => {
                        target.insert(Key::Object(record.ino), seen(&record));
                    }
                    Told::Session(session) => {
                        origins.insert(session.id.clone(), session.origin.holder());
                        let key = Key::Session(session.id.clone());
                        match before.contains(&key) {
                            true => fit.keep_session(&session),
                            false => drop(target.insert(key, seen_session(&session))),
                        }
                    }
                    Told::Object(..) | Told::Gone(_) | Told::Over(_) => {}
                }
            }
            Ok(())
        })
    }

    /// Looks for what is in the way before anything is copied.
    fn refuse_blocking(&mut self) -> Result<(), Error> {
        let (mut objects, mut sessions) = (Vec::new(), Vec::new());
        self.read_source("looking at the source", |_, _, told| {
            for one in told {
                match one {
                    Told::Object(mut record, _) => {
                        record.body = without_note(record.body);
                        objects.push(*record);
                    }
                    Told::Session(session) => sessions.push(*session),
                    Told::Gone(_) | Told::Over(_) => {}
                }
            }
            Ok(())
        })?;
        // A note counts in what is the same: those that are there already are read with it.
        let kept: Vec<Ino> =
            objects.iter().map(|record| record.ino).filter(|ino| self.fit.has(&Key::Object(*ino))).collect();
        let mut whole: HashMap<Ino, Record> = HashMap::new();
        for batch in kept.chunks(FEW) {
            if let Some((_, told)) = self.from.look(batch, &[])? {
                whole.extend(told.into_iter().filter_map(|one| match one {
                    Told::Object(record, _) => Some((record.ino, *record)),
                    _ => None,
                }));
            }
        }
        for record in &mut objects {
            if let Some(record_with_note) = whole.remove(&record.ino) {
                *record = record_with_note;
            }
        }
        let blocking = self.fit.resolve(&objects, &sessions);
        match blocking.is_empty() {
            true => Ok(()),
            false => Err(Error::Refused(fit::refusal(&self.to.place(), &blocking))),
        }
    }

    fn read_source(
        &mut self,
        what: &str,
        mut each: impl FnMut(&mut Parts<'_>, Now, Vec<Told>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let total = self.from.count()?;
        self.watch.begin(what, total);
        let mut parts = Parts {
            to: self.to.as_mut(),
            filled: &self.filled,
            fit: &mut self.fit,
            source: &mut self.source,
            target: &mut self.target,
            unplaced: Vec::new(),
        };
        let watch = &mut *self.watch;
        self.from.read(&mut |now, told| {
            let count = told.iter().filter(|one| matches!(one, Told::Object(..))).count();
            each(&mut parts, now, told)?;
            watch.advance(count as u64);
            if watch.is_stopped() { Err(Error::Stopped) } else { Ok(()) }
        })?;
        let unplaced = std::mem::take(&mut parts.unplaced);
        for batch in unplaced.chunks(FEW) {
            self.carry_over(batch, &[])?;
        }
        Ok(())
    }

    /// Copies all that the target has not.
    fn copy(&mut self) -> Result<(), Error> {
        self.source.clear();
        self.read_source("copying", |parts, now, told| parts.pass(now, told, Again::IfChanged))?;
        // What an earlier run copied, and is gone since.
        let stale: Vec<Key> =
            self.target.keys().filter(|key| !self.source.contains_key(*key)).cloned().collect();
        for batch in stale.chunks(FEW) {
            let (objects, sessions) = split(batch.iter().cloned());
            // It may have come since it was read.
            self.carry_over(&objects, &sessions)?;
        }
        Ok(())
    }

    /// Follows the source until little is left; while that stands still, all of it.
    fn catch_up(&mut self) -> Result<(), Error> {
        self.watch.begin("catching up", 0);
        for _ in 0..ROUNDS {
            if self.take_changes()? < FEW {
                return Ok(());
            }
            if self.watch.is_stopped() {
                return Err(Error::Stopped);
            }
        }
        Ok(())
    }

    /// Carries over what has changed; says how much.
    fn take_changes(&mut self) -> Result<usize, Error> {
        let changes = self.from.changes()?;
        let count = changes.len();
        let keys = changes.into_iter().filter_map(|change| match change {
            Change::Object(ino) => Some(Key::Object(ino)),
            Change::Session(id) => Some(Key::Session(id)),
            // What mounts have stays with them.
            Change::Nameless(_) | Change::Mount(_) | Change::Share(..) | Change::Wait(_) => None,
        });
        let (objects, sessions) = split(keys);
        let (mut objects, mut sessions) = (objects.as_slice(), sessions.as_slice());
        // Sessions that came before what they hold, those that went after it.
        while !objects.is_empty() || !sessions.is_empty() {
            let (some, rest) = objects.split_at(objects.len().min(FEW));
            let last: &[SessionId] = if rest.is_empty() { std::mem::take(&mut sessions) } else { &[] };
            self.carry_over(some, last)?;
            objects = rest;
        }
        Ok(count)
    }

    /// Looks what some things are now, and has the target the same.
    fn carry_over(&mut self, objects: &[Ino], sessions: &[SessionId]) -> Result<(), Error> {
        let Some((now, told)) = self.from.look(objects, sessions)? else {
            return Ok(());
        };
        self.touched.extend(told.iter().map(|one| match one {
            Told::Object(record, _) => Key::Object(record.ino),
            Told::Session(session) => Key::Session(session.id.clone()),
            Told::Gone(ino) => Key::Object(*ino),
            Told::Over(id) => Key::Session(id.clone()),
        }));
        let mut parts = Parts {
            to: self.to.as_mut(),
            filled: &self.filled,
            fit: &mut self.fit,
            source: &mut self.source,
            target: &mut self.target,
            unplaced: Vec::new(),
        };
        parts.pass(now, told, Again::Always)
    }

    /// Reads all of the target back, and puts there again what is not as it was put.
    fn compare(&mut self) -> Result<(), Error> {
        self.read_back()?;
        for _ in 0..2 {
            let wrong = self.differing();
            self.touched.clear();
            if wrong.is_empty() {
                return Ok(());
            }
            for batch in wrong.chunks(FEW) {
                let (objects, sessions) = split(batch.iter().cloned());
                self.carry_over(&objects, &sessions)?;
            }
            self.read_back()?;
        }
        match self.differing().as_slice() {
            [] => Ok(()),
            wrong => Err(Error::Refused(format!(
                "{} does not keep what it is given: {} of {} records differ, {} first (it has been emptied again)",
                self.to.place(),
                wrong.len(),
                self.source.len(),
                named(&wrong[0])
            ))),
        }
    }

    fn read_back(&mut self) -> Result<(), Error> {
        let total = self.to.count()?;
        self.watch.begin("verifying", total);
        let (fit, target, watch) = (&self.fit, &mut self.target, &mut *self.watch);
        let from = &mut self.from;
        target.clear();
        self.to.read(&mut |_, told| {
            watch.advance(told.len() as u64);
            note(fit, target, told);
            from.keep()?;
            if watch.is_stopped() { Err(Error::Stopped) } else { Ok(()) }
        })
    }

    /// What is not the same on both sides.
    fn differing(&self) -> Vec<Key> {
        let is_missing = |(key, seen): &(&Key, &Seen)| self.target.get(key) != Some(seen);
        let missing = self.source.iter().filter(is_missing).map(|(key, _)| key.clone());
        let extra = self.target.keys().filter(|key| !self.source.contains_key(*key)).cloned();
        missing.chain(extra).collect()
    }

    /// Has the source stand still, carries over the rest, compares, and closes the source; then opens the target.
    fn hand_over(&mut self) -> Result<Report, Error> {
        self.watch.begin("handing over", 0);
        let clock = SystemClock;
        for _ in 0..FREEZES {
            if self.watch.is_stopped() {
                return Err(Error::Stopped);
            }
            self.catch_up()?;
            self.compare_touched()?;
            self.freezes += 1;
            self.from.freeze(FREEZE)?;
            let frozen = clock.now().boot;
            let rest = self.take_rest();
            if rest.is_err() {
                self.from.thaw(&self.moved)?;
            }
            let epoch = rest?;
            if !self.from.close(&self.moved)? {
                // It stood still for too long, and has gone on since: what changed was noted.
                continue;
            }
            let stopped = clock.now().boot.since(frozen);
            self.is_handed_over = true;
            self.to.open(&self.filled, epoch)?;
            return Ok(Report { stopped: Some(stopped), ..self.report() });
        }
        self.from.thaw(&self.moved)?;
        Err(Error::Refused(format!(
            "{} changes faster than it can be followed: run it again in a quieter moment, or unmount it first",
            self.from.place()
        )))
    }

    /// While the source stands still.
    fn take_rest(&mut self) -> Result<u32, Error> {
        self.take_changes()?;
        self.to.settle()?;
        self.refuse_locked()?;
        self.compare_touched()?;
        self.from.epoch()
    }

    /// Compares what was carried over since all was: a moment's work, however much there is.
    fn compare_touched(&mut self) -> Result<(), Error> {
        let wrong = self.touched.iter().find(|key| self.source.get(key) != self.target.get(key));
        if let Some(wrong) = wrong {
            return Err(Error::Refused(format!(
                "{} has not kept the last of what it was given: {} differs (it has been emptied again)",
                self.to.place(),
                named(wrong)
            )));
        }
        self.touched.clear();
        Ok(())
    }

    /// An earlier run ended between the closing of the source and the opening of the target.
    fn end_earlier(&mut self) -> Result<Report, Error> {
        self.read_target()?;
        self.read_all_of_source()?;
        if let Some(wrong) = self.differing().first() {
            return Err(Error::Refused(format!(
                "{} is not what {} was when it was closed: {} differs: go back with --rollback",
                self.to.place(),
                self.from.place(),
                named(wrong)
            )));
        }
        let epoch = self.from.epoch()?;
        self.to.open(&self.filled, epoch)?;
        Ok(self.report())
    }

    fn read_all_of_source(&mut self) -> Result<(), Error> {
        self.source.clear();
        if !self.fit.is_empty() {
            self.refuse_blocking()?;
        }
        self.read_source("reading the source", |parts, _, told| {
            parts.note_source(told);
            Ok(())
        })
    }

    /// Says what would be moved.
    fn dry(&mut self) -> Result<Report, Error> {
        let (source, target) = (self.from.closing()?, self.to.closing()?);
        if let Some(closing) = source {
            let is_done = closing.kind == ClosingKind::Moved && closing.peer == self.moved.peer;
            let is_ended = target.is_none();
            return match is_done && is_ended {
                true => Ok(Report { was_done: true, ..self.report() }),
                false if is_done => Err(Error::Refused(
                    "an earlier run has not ended: run it again, or with --rollback".to_owned(),
                )),
                false => Err(closed(self.from.as_ref(), &closing)),
            };
        }
        let is_ours = |closing: &Closing| closing.peer == self.filled.peer;
        if let Some(closing) = target.as_ref().filter(|closing| !is_ours(closing)) {
            return Err(closed(self.to.as_ref(), closing));
        }
        self.refuse_locked()?;
        if self.to.identity().is_some() {
            match target {
                // All of it is what was moved from there, or what an earlier run copied.
                Some(_) => self.read_target()?,
                None => self.read_as_before()?,
            }
        }
        self.target.clear();
        self.read_all_of_source()?;
        Ok(self.report())
    }

    /// Takes all that the target has for what it had before.
    fn read_as_before(&mut self) -> Result<(), Error> {
        let (fit, mut origins) = (&mut self.fit, HashMap::new());
        let mut sessions: HashMap<SessionId, (Session, bool)> = HashMap::new();
        self.to.read(&mut |_, told| {
            for one in told {
                match one {
                    Told::Object(record, _) if record.ino != Ino::ROOT => {
                        if let Some((_, holds)) = record.session.as_ref().and_then(|id| sessions.get_mut(id))
                        {
                            *holds = true;
                        }
                        fit.keep(&record, fit::holder(&record, &origins));
                    }
                    Told::Session(session) => {
                        origins.insert(session.id.clone(), session.origin.holder());
                        let is_named = session.kind == crate::lock::SessionKind::Named;
                        sessions.insert(session.id.clone(), (*session, is_named));
                    }
                    Told::Object(..) | Told::Gone(_) | Told::Over(_) => {}
                }
            }
            Ok(())
        })?;
        sessions.values().filter(|(_, holds)| *holds).for_each(|(session, _)| fit.keep_session(session));
        Ok(())
    }

    /// Compares both.
    fn verify(&mut self) -> Result<Report, Error> {
        for end in [&self.from, &self.to] {
            if end.identity().is_none() {
                return Err(Error::Refused(format!("there is no store at {}", end.place())));
            }
        }
        self.read_target()?;
        self.read_all_of_source()?;
        let mut others = self.fit.len();
        if self.to.closing()?.is_none() {
            // It is in use, or was before: what it has besides is its own.
            let count = self.target.len();
            self.target.retain(|key, _| self.source.contains_key(key));
            others += (count - self.target.len()) as u64;
        }
        let wrong = self.differing();
        let differences = wrong.iter().take(NAMED).map(named).collect();
        Ok(Report { differences, different: wrong.len() as u64, others, ..self.report() })
    }

    /// Takes back what an unfinished migration did.
    fn roll_back(&mut self) -> Result<Report, Error> {
        let (source, target) = (self.from.closing()?, self.to.closing()?);
        let is_ours = |closing: &Option<Closing>, kind: ClosingKind, peer: &str| {
            closing.as_ref().is_some_and(|closing| closing.kind == kind && closing.peer == peer)
        };
        let is_filled = is_ours(&target, ClosingKind::Filled, &self.filled.peer);
        let has_moved = is_ours(&source, ClosingKind::Moved, &self.moved.peer);
        match (is_filled, has_moved) {
            (false, true) => {
                return Err(Error::Refused(format!(
                    "that migration is finished: go back with lockfs migrate, from {} to {}",
                    self.to.place(),
                    self.from.place()
                )));
            }
            (false, false) => {
                // What was only tracked or frozen goes on.
                self.from.thaw(&self.moved)?;
                return Ok(Report { was_done: true, ..self.report() });
            }
            (true, _) => {}
        }
        if let Some(closing) = target {
            self.filled = closing;
        }
        let total = self.to.count()?;
        self.watch.begin("taking out what was copied", total);
        // First the source: the target stays closed until all is out of it, and what is stopped between is taken back by
        // the same command.
        if let Some(closing) = source.filter(|_| has_moved) {
            self.moved = closing;
        }
        self.from.thaw(&self.moved)?;
        let watch = &mut *self.watch;
        self.to.empty(&self.filled, &mut |gone| watch.advance(gone))?;
        Ok(self.report())
    }
}

fn split(keys: impl Iterator<Item = Key>) -> (Vec<Ino>, Vec<SessionId>) {
    let (mut objects, mut sessions) = (Vec::new(), Vec::new());
    for key in keys {
        match key {
            Key::Object(ino) => objects.push(ino),
            Key::Session(id) => sessions.push(id),
        }
    }
    (objects, sessions)
}

fn named(key: &Key) -> String {
    match key {
        Key::Object(ino) => format!("inode {ino}"),
        Key::Session(id) => format!("session {id}"),
    }
}

fn without_note(body: crate::lock::Body) -> crate::lock::Body {
    match body {
        crate::lock::Body::File(_) => crate::lock::Body::File(Vec::new()),
        other => other,
    }
}

fn closed(end: &dyn End, closing: &Closing) -> Error {
    Error::Refused(format!("{}: {closing}", end.place()))
}
