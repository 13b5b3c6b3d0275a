//! What a store would have kept: records, sessions and what mounts have, changed by nothing but the changes of each step.

use std::collections::{BTreeMap, BTreeSet};

use lockfs::clock::Now;
use lockfs::lock::{Attributes, Ino, Kind, LockPath, Record, Session, SessionId, Waiter};
use lockfs::table::{Belongings, Change, Command, Entry, LockTable, Spot};

use crate::search::Verdict;
use crate::world::{Bench, names};

/// More than any test has of anything.
pub(crate) const ALL: usize = 1_000_000;

/// The records and sessions of a table, and what mounts have, as a store has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shadow {
    pub(crate) records: BTreeMap<Ino, Record>,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    /// Each with what is said of it alone.
    belongings: BTreeMap<Change, Belongings>,
}

/// Fails with `text` where `claim` does not hold.
macro_rules! ensure {
    ($claim:expr, $($text:tt)+) => {
        if !$claim {
            return Err(format!($($text)+));
        }
    };
}
pub(crate) use ensure;

impl Shadow {
    /// All that a table says a store keeps.
    pub(crate) fn of(table: &LockTable) -> Self {
        let (numbers, ids) = table.contents();
        let record = |ino| table.record(ino).expect("contents name what is there").clone();
        let session = |id: &SessionId| table.session_record(id).expect("contents name what is there").clone();
        Self {
            records: numbers.into_iter().map(|ino| (ino, record(ino))).collect(),
            sessions: ids.into_iter().map(|id| (id.clone(), session(&id))).collect(),
            belongings: table
                .belongings()
                .into_iter()
                .map(|change| (change.clone(), belonging(table, &change).expect("it is there")))
                .collect(),
        }
    }

    /// The table of what was kept, at the moment at which it is opened again. While it was closed nobody could
    /// be seen, nor take what they held: that time does not count.
    pub(crate) fn opened(self, epoch: u32, now: Now) -> LockTable {
        let seen = |session: Session| Session { seen: now.boot, ..session };
        let sessions = self.sessions.into_values().map(seen);
        // Nor can it be known when the last let go of an advisory file.
        let used = |record: Record| match record.is_advisory() {
            true => Record { seen: now.boot, ..record },
            false => record,
        };
        let records = self.records.into_values().map(used);
        let mut table = LockTable::restore(epoch, records, sessions).expect("what was kept is whole");
        table.restore_belongings(together(&self.belongings)).expect("what was kept is whole");
        table
    }

    /// Changes what a step says it changed, and nothing else.
    pub(crate) fn apply(&mut self, table: &LockTable, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Object(ino) => match table.record(*ino) {
                    Some(record) => drop(self.records.insert(*ino, record.clone())),
                    None => drop(self.records.remove(ino)),
                },
                Change::Session(id) => match table.session_record(id) {
                    Some(session) => drop(self.sessions.insert(id.clone(), session.clone())),
                    None => drop(self.sessions.remove(id)),
                },
                other => match belonging(table, other) {
                    Some(kept) => drop(self.belongings.insert(other.clone(), kept)),
                    None => drop(self.belongings.remove(other)),
                },
            }
        }
    }

    /// The paths of everything, dead or alive.
    pub(crate) fn paths(&self) -> BTreeMap<LockPath, Ino> {
        let places =
            self.records.values().flat_map(|record| record.places.iter().map(|place| (place, record.ino)));
        places.map(|(place, ino)| (self.path(place.parent, place.name.as_bytes()), ino)).collect()
    }

    /// The path of an entry.
    pub(crate) fn path(&self, parent: Ino, name: &[u8]) -> LockPath {
        let mut names = vec![name];
        let mut above = parent;
        while let Some(place) = self.records.get(&above).and_then(|record| record.places.first()) {
            names.push(place.name.as_bytes());
            above = place.parent;
        }
        LockPath::join(names.into_iter().rev())
    }

    /// What stands at a spot, dead or alive.
    pub(crate) fn at(&self, spot: &Spot) -> Option<&Record> {
        let stands = |record: &&Record| {
            record.places.iter().any(|place| place.parent == spot.parent && place.name == spot.name)
        };
        self.records.values().find(stands)
    }

    /// The entries of a directory, dead or alive.
    pub(crate) fn entries(&self, ino: Ino) -> impl Iterator<Item = &Record> {
        self.records.values().filter(move |record| record.places.iter().any(|place| place.parent == ino))
    }

    /// Names, objects and sessions agree, as the table answers now and as it was kept.
    pub(crate) fn check(&self, bench: &Bench) -> Verdict {
        ensure!(
            *self == Self::of(&bench.table),
            "the changes were not all: {self:#?}\n{:#?}",
            Self::of(&bench.table)
        );
        self.check_numbers()?;
        self.check_answers(bench)?;
        let epoch = bench.table.last_token().epoch() + 1;
        let kept = self.clone();
        let restored =
            LockTable::restore(epoch, kept.records.values().cloned(), kept.sessions.values().cloned());
        let mut restored = Bench { table: restored?, now: bench.now };
        restored.table.restore_belongings(together(&kept.belongings))?;
        ensure!(kept == Self::of(&restored.table), "restored, other things are kept");
        kept.check_answers(&restored)?;
        for ino in self.records.keys() {
            let views = [bench, &restored].map(|bench| bench.table.view(bench.now, *ino));
            let [before, after] = views.map(|view| {
                view.map(|mut view| {
                    view.attributes = without_times(view.attributes);
                    view
                })
            });
            ensure!(before == after, "restored, inode {ino} is another: {before:?} {after:?}");
        }
        for spot in names().into_iter().flat_map(|name| {
            self.records.keys().map(move |parent| Spot { parent: *parent, name: name.clone() })
        }) {
            let [before, after] = [bench, &restored].map(|bench| bench.table.queue(bench.now, &spot));
            // What was reserved is told again.
            let before: Vec<Waiter> =
                before.into_iter().map(|waiter| Waiter { reserved: None, ..waiter }).collect();
            ensure!(before == after, "restored, others wait at {spot:?}: {before:?} {after:?}");
        }
        let counts = |bench: &Bench| (bench.table.counts().locks, bench.table.counts().waits);
        ensure!(counts(bench) == counts(&restored), "restored, there are more or fewer");
        let sessions = |bench: &Bench| bench.table.list_sessions(bench.now, None, ALL);
        ensure!(sessions(bench) == sessions(&restored), "restored, the sessions are others");
        for id in self.sessions.keys() {
            let [before, after] = [bench, &restored].map(|bench| bench.table.shortest_ttl(id));
            ensure!(
                before == after,
                "restored, session {id} is to be renewed every {after:?}, not {before:?}"
            );
        }
        Ok(())
    }

    /// No number is used for two things.
    fn check_numbers(&self) -> Verdict {
        let births = self.records.keys().chain(self.sessions.values().map(|session| &session.ino));
        let mut numbers = BTreeSet::new();
        for number in births {
            ensure!(numbers.insert(*number), "two things have the number {number}");
        }
        let mut tokens = BTreeSet::new();
        for record in self.records.values() {
            ensure!(tokens.insert(record.token), "two locks have the token {}", record.token);
            ensure!(Ino::from(record.token) >= record.ino, "a token below its inode: {record:?}");
        }
        let mut spots = BTreeSet::new();
        for place in self.records.values().flat_map(|record| &record.places) {
            ensure!(spots.insert((place.parent, place.name.clone())), "two entries are called {place:?}");
        }
        Ok(())
    }

    /// Every answer about names follows from the records of what is alive.
    fn check_answers(&self, bench: &Bench) -> Verdict {
        let Bench { table, now } = bench;
        let is_live = |record: &&Record| table.stat(*now, record.ino).is_some();
        for record in self.records.values() {
            let Some(attributes) = table.stat(*now, record.ino) else {
                continue;
            };
            for place in &record.places {
                let spot = Spot { parent: place.parent, name: place.name.clone() };
                let found = table.lookup(*now, &spot);
                ensure!(found == Some(attributes), "{spot:?} shows {found:?}, and is {attributes:?}");
            }
            if attributes.kind != Kind::Directory {
                ensure!(attributes.nlink as usize == record.places.len(), "{record:?} has {attributes:?}");
                continue;
            }
            let subdirectories =
                self.entries(record.ino).filter(|entry| entry.body.kind() == Kind::Directory);
            ensure!(attributes.nlink as usize == 2 + subdirectories.count(), "{record:?} has {attributes:?}");
            let listed = table.list(*now, record.ino, None, ALL).ok_or("a living directory is not listed")?;
            ensure!(
                listed == paged(|after| table.list(*now, record.ino, after, 1).unwrap_or_default()),
                "pages differ"
            );
            let shown: BTreeSet<_> =
                listed.iter().map(|entry| (entry.name.clone(), entry.attributes.ino)).collect();
            let living = self.entries(record.ino).filter(is_live);
            let standing = living.flat_map(|entry| entry.places.iter().map(move |place| (place, entry.ino)));
            let standing = standing.filter(|(place, _)| place.parent == record.ino);
            let standing: BTreeSet<_> = standing.map(|(place, ino)| (place.name.clone(), ino)).collect();
            ensure!(shown == standing, "directory {} shows {shown:?}, and has {standing:?}", record.ino);
            for id in self.sessions.keys() {
                self.check_held(bench, id, record.ino, &listed)?;
            }
        }
        for session in table.list_sessions(*now, None, ALL) {
            ensure!(self.sessions.get(&session.id) == Some(&session), "another session: {session:?}");
            ensure!(table.session(*now, &session.id).as_ref() == Some(&session), "not found: {session:?}");
            let same = table.session_by_number(*now, session.ino);
            ensure!(same.as_ref() == Some(&session), "number {} leads to {same:?}", session.ino);
        }
        for record in self.records.values().filter(is_live) {
            let alive = record.session.as_ref().is_none_or(|id| table.session(*now, id).is_some());
            ensure!(alive, "{record:?} lives, and its session does not");
        }
        Ok(())
    }

    /// The view of a session shows what it holds, and what leads there.
    fn check_held(&self, bench: &Bench, id: &SessionId, ino: Ino, listed: &[Entry]) -> Verdict {
        let Bench { table, now } = bench;
        let held: Vec<&Record> =
            self.records.values().filter(|record| record.session.as_ref() == Some(id)).collect();
        let held: Vec<&Record> =
            held.into_iter().filter(|record| table.stat(*now, record.ino).is_some()).collect();
        let leads = |entry: &&Entry| {
            let own = held.iter().any(|record| record.ino == entry.attributes.ino);
            own || held
                .iter()
                .flat_map(|record| &record.places)
                .any(|place| self.is_within(place.parent, entry))
        };
        let expected: Vec<Entry> = listed.iter().filter(leads).cloned().collect();
        let shown = paged(|after| table.list_held(*now, id, ino, after, 1));
        ensure!(shown == expected, "{id} sees {shown:?} in {ino}, not {expected:?}");
        let below = held.iter().any(|record| {
            record.ino == ino || record.places.iter().any(|place| self.ancestors(place.parent).contains(&ino))
        });
        ensure!(table.holds_below(*now, id, ino) == below, "{id} holds below {ino}: {below}");
        Ok(())
    }

    fn is_within(&self, ino: Ino, entry: &Entry) -> bool {
        self.ancestors(ino).contains(&entry.attributes.ino)
    }

    /// A directory, and those above it.
    fn ancestors(&self, ino: Ino) -> BTreeSet<Ino> {
        let mut found = BTreeSet::from([ino]);
        let mut above = ino;
        while let Some(place) = self.records.get(&above).and_then(|record| record.places.first()) {
            above = place.parent;
            found.insert(above);
        }
        found
    }

    /// What is left after a sweep that was not cut short is alive, and the next one is not due yet.
    pub(crate) fn check_swept(&self, bench: &Bench, command: &Command, count: usize) -> Verdict {
        let Command::Sweep { limit } = command else {
            return Ok(());
        };
        ensure!(count <= *limit, "{count} were swept of at most {limit}");
        if count < *limit {
            let dead = self.records.keys().find(|ino| bench.table.stat(bench.now, **ino).is_none());
            ensure!(dead.is_none(), "inode {dead:?} was left");
            let over = self.sessions.keys().find(|id| bench.table.session(bench.now, id).is_none());
            ensure!(over.is_none(), "session {over:?} was left");
            let next = bench.table.next_check();
            ensure!(
                next.is_none_or(|next| next > bench.now.boot),
                "the next sweep is due at once, and for ever"
            );
        }
        Ok(())
    }
}

/// One thing that a store keeps of mounts, as the table has it.
fn belonging(table: &LockTable, change: &Change) -> Option<Belongings> {
    let mut kept = Belongings::default();
    match change {
        Change::Nameless(ino) => {
            let (record, left_by) = table.nameless(*ino)?;
            kept.nameless.push((record.clone(), left_by.cloned()));
        }
        Change::Mount(mount) => {
            let (mount, seen) = table.lease(*mount)?;
            kept.leases.push((mount.clone(), seen));
        }
        Change::Share(ino, mount) => {
            let (opens, grants) = table.share(*ino, *mount)?;
            kept.shares.push((*ino, *mount, opens, grants.to_vec()));
        }
        Change::Wait(id) => {
            let (subject, waiter) = table.wait(*id)?;
            kept.waits.push((subject.clone(), Waiter { reserved: None, ..waiter.clone() }));
        }
        Change::Object(_) | Change::Session(_) => return None,
    }
    Some(kept)
}

fn together(kept: &BTreeMap<Change, Belongings>) -> Belongings {
    let mut all = Belongings::default();
    for Belongings { leases, nameless, shares, waits } in kept.values().cloned() {
        all.leases.extend(leases);
        all.nameless.extend(nameless);
        all.shares.extend(shares);
        all.waits.extend(waits);
    }
    all
}

/// All pages of a listing.
fn paged(page: impl Fn(Option<lockfs::lock::Token>) -> Vec<Entry>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let next = page(entries.last().map(|entry| entry.cookie));
        if next.is_empty() {
            return entries;
        }
        entries.extend(next);
    }
}

/// The times of a directory are not kept with every entry that comes and goes.
fn without_times(attributes: Attributes) -> Attributes {
    match attributes.kind {
        Kind::Directory => Attributes { mtime: Default::default(), ctime: Default::default(), ..attributes },
        Kind::File | Kind::Symlink => attributes,
    }
}
