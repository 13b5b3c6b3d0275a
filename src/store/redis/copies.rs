//! What this host knows of the objects that it made, changed or has open, as of its own last step on them.
//!
//! Two things need it. A file that is unlinked while it is open lives on for its descriptors, but not on the
//! server: it becomes an [`Orphan`], a table of its own under the same law. And where the server has lost data,
//! its hosts say again what they hold (`reassert.lua`).
//!
//! The invariant: nothing here is ever an answer to who holds what. That only the server says.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::codec::{self, Changed, Malformed, Stored};
use super::opens::Opens;
use super::orphan::Orphan;
use crate::clock::{BootTime, Now};
use crate::lock::{Attributes, EventKind, Ino, Kind, Mount, MountId, SessionId, Token, WaitId};
use crate::table::{Command, Outcome, View};

/// How many directories are remembered that only lead to locks.
const WAYS_MAX: usize = 10_000;

/// How many sessions are remembered that hold nothing: others may have ended them, and nobody says so.
const SESSIONS_MAX: usize = 1_000;

/// For how long it is remembered what was released, and of how many locks: much longer than a replica that may
/// be promoted is behind.
const RELEASED_SPAN: Duration = Duration::from_secs(60);
const RELEASED_MAX: usize = 10_000;

/// The records of one object, as the server had them.
#[derive(Clone, Debug, Default)]
pub(super) struct Copy {
    record: Arc<[u8]>,
    note: Arc<[u8]>,
}

/// The records of a session, as the server had them: its own, and the names that it lost.
type SessionCopy = (Arc<[u8]>, Arc<[u8]>);

/// Arguments of `share.lua`: what a mount let go of.
pub(super) type Debt = Vec<Vec<u8>>;

/// What this host knows.
#[derive(Debug, Default)]
pub(super) struct Copies {
    objects: HashMap<Ino, Copy>,
    sessions: HashMap<SessionId, SessionCopy>,
    /// Directories that lead to locks of this host, whoever holds them.
    ways: HashMap<Ino, Arc<[u8]>>,
    pub(super) opens: Opens,
    orphans: HashMap<Ino, Orphan>,
    /// What mounts of this host have of objects, as the server has it.
    shares: BTreeMap<(Ino, MountId), Arc<[u8]>>,
    /// The leases of mounts of this host, and when they were renewed.
    leases: BTreeMap<MountId, (Mount, Now)>,
    /// Objects that the server has and this host has open: it is to be told.
    untold: Vec<Ino>,
    /// What was let go of while the server was gone.
    debts: VecDeque<Debt>,
    /// The number of the last request that locks something.
    last_mark: u64,
    /// Objects of which somebody else may have taken a name away.
    suspects: HashSet<Ino>,
    /// What this host released lately, and when, oldest first: another primary may not know it.
    released: VecDeque<(BootTime, Ino, Arc<[u8]>)>,
}

/// Whether what a step changed is worth knowing: what a sweep removes for others is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Learn {
    /// All of it.
    All,
    /// Only of what is known already.
    Known,
}

impl Copies {
    /// Takes note of what a step of this host changed at `now`.
    pub(super) fn learn(&mut self, changes: &[Changed], now: Now, what: Learn) -> Result<(), Malformed> {
        for change in changes {
            match change {
                Changed::Object(ino, record) => {
                    if what == Learn::All || self.objects.contains_key(ino) {
                        self.objects.entry(*ino).or_default().record = Arc::clone(record);
                    }
                    // Others use what has no name any more: the server keeps it.
                    if self.opens.has(*ino) && Stored::parse(*ino, record)?.record().places.is_empty() {
                        self.untold.push(*ino);
                    }
                }
                Changed::Note(ino, note) if what == Learn::All || self.objects.contains_key(ino) => {
                    self.objects.entry(*ino).or_default().note = Arc::clone(note);
                }
                Changed::Released(ino) => {
                    if self.opens.has(*ino)
                        && let Some(copy) = self.objects.get(ino)
                    {
                        let record = Stored::parse(*ino, &copy.record)?.with(&copy.note);
                        let opens = self.opens.take(*ino);
                        self.orphans
                            .extend(Orphan::of(record, &opens, &self.leases, now)?.map(|o| (*ino, o)));
                    }
                    if let Some(copy) = self.objects.remove(ino) {
                        self.forget_releases(now.boot);
                        self.released.push_back((now.boot, *ino, copy.record));
                    }
                }
                Changed::Gone(ino) => {
                    self.objects.remove(ino);
                    self.opens.take(*ino);
                }
                Changed::Share(ino, mount, share) => self.learn_share(*ino, *mount, share),
                Changed::MountGone(mount) => self.forget_mount(*mount),
                Changed::Session(id, record, lost)
                    if what == Learn::All || self.sessions.contains_key(id) =>
                {
                    self.forget_idle_sessions();
                    self.sessions.insert(id.clone(), (Arc::clone(record), Arc::clone(lost)));
                }
                Changed::SessionGone(id) => drop(self.sessions.remove(id)),
                Changed::Note(..) | Changed::Session(..) | Changed::Entries(..) => {}
            }
        }
        Ok(())
    }

    fn learn_share(&mut self, ino: Ino, mount: MountId, share: &Arc<[u8]>) {
        if !share.is_empty() {
            if self.leases.contains_key(&mount) {
                self.shares.insert((ino, mount), Arc::clone(share));
            }
            return;
        }
        let had_it = self.shares.remove(&(ino, mount)).is_some();
        if had_it && !self.has_shares(ino) && self.objects.get(&ino).is_some_and(Copy::is_nobodys) {
            self.objects.remove(&ino);
        }
    }

    /// Of how many files a mount has less, after a step, than it had.
    pub(super) fn count_lost(&self, changes: &[Changed]) -> usize {
        let is_less = |change: &&Changed| match change {
            Changed::Share(ino, mount, share) => {
                self.shares.get(&(*ino, *mount)).is_some_and(|had| had.len() > share.len())
            }
            _ => false,
        };
        changes.iter().filter(is_less).count()
    }

    fn has_shares(&self, ino: Ino) -> bool {
        let (first, last) = (MountId::from_u64(0), MountId::from_u64(u64::MAX));
        self.shares.range((ino, first)..=(ino, last)).next().is_some()
    }

    fn forget_mount(&mut self, mount: MountId) {
        self.opens.forget_mount(mount);
        self.leases.remove(&mount);
        let shares = self.shares.keys().filter(|(_, of)| *of == mount);
        for (ino, _) in shares.copied().collect::<Vec<_>>() {
            self.learn_share(ino, mount, &Arc::default());
        }
    }

    /// Notes that the lease of a mount was begun or renewed.
    pub(super) fn attended(&mut self, mount: &Mount, now: Now) {
        self.leases.insert(mount.id, (mount.clone(), now));
    }

    /// Whether the lease of a mount of this host has not run out, whatever the clocks say to a quarter of it.
    pub(super) fn is_attended(&self, mount: MountId, now: Now) -> bool {
        self.leases.get(&mount).is_some_and(|(mount, seen)| {
            mount.ttl.span().is_none_or(|span| now.boot < seen.boot + span * 3 / 4)
        })
    }

    /// Notes what was found when it was opened: of a file that nobody holds whoever uses it must be able to say it.
    pub(super) fn found(&mut self, attributes: &Attributes, record: Arc<[u8]>) {
        let copy = Copy { record, note: Arc::default() };
        if attributes.kind == Kind::File && copy.is_nobodys() {
            self.objects.entry(attributes.ino).or_default().record = copy.record;
        }
    }

    /// A file is advisory from now on, perhaps by another host's step; whether that is news.
    pub(super) fn hear_advisory(&mut self, ino: Ino) -> bool {
        let is_held = self.objects.get(&ino).is_some_and(|copy| !copy.is_nobodys());
        let is_untold = self.opens.has_untold(ino);
        if is_held {
            self.suspects.insert(ino);
        }
        if is_untold {
            self.untold.push(ino);
        }
        is_held || is_untold
    }

    /// What the server is to be told that mounts have open, and the number of each. Each is to be closed once more
    /// then.
    pub(super) fn begin_telling(&mut self) -> Vec<(Ino, MountId, u64)> {
        let untold = std::mem::take(&mut self.untold);
        let told = untold.into_iter().flat_map(|ino| {
            let told = self.opens.begin_telling(ino);
            told.into_iter().map(move |(mount, number)| (ino, mount, number)).collect::<Vec<_>>()
        });
        told.collect()
    }

    /// Notes that the server is to be told again of what it may have been told is closed.
    pub(super) fn tell_again(&mut self, ino: Ino, mount: MountId) {
        self.opens.not_told(ino, mount);
        self.untold.push(ino);
    }

    /// Another daemon told the server something under numbers that it counted up from an earlier moment: from now on
    /// they are above those.
    pub(super) fn begin_above(&mut self, now: BootTime) {
        let micros = now.as_nanos() / 1_000;
        self.last_mark = self.last_mark.max(micros);
        self.opens.begin_above(micros);
    }

    /// Whether there is something to tell.
    pub(super) fn has_untold(&self) -> bool {
        !self.untold.is_empty()
    }

    /// The number of a request that locks something.
    pub(super) fn next_mark(&mut self) -> u64 {
        self.last_mark += 1;
        self.last_mark
    }

    /// The number of the last one.
    pub(super) fn last_mark(&self) -> u64 {
        self.last_mark
    }

    /// Notes what the server is still to hear.
    pub(super) fn owe(&mut self, debt: Debt) {
        self.debts.push_back(debt);
    }

    /// What the server is still to hear, the oldest of it.
    pub(super) fn first_debt(&self) -> Option<Debt> {
        self.debts.front().cloned()
    }

    /// Whether the server is still to hear something.
    pub(super) fn is_owing(&self) -> bool {
        !self.debts.is_empty()
    }

    /// It has heard it.
    pub(super) fn paid(&mut self) {
        self.debts.pop_front();
    }

    fn forget_idle_sessions(&mut self) {
        if self.sessions.len() >= SESSIONS_MAX + self.objects.len() {
            let holders: HashSet<SessionId> = self.objects.values().filter_map(Copy::holder).collect();
            self.sessions.retain(|id, _| holders.contains(id));
        }
    }

    fn forget_releases(&mut self, now: BootTime) {
        let is_old = |(at, ..): &(BootTime, _, _)| now.since(*at) > RELEASED_SPAN;
        while self.released.len() >= RELEASED_MAX || self.released.front().is_some_and(is_old) {
            self.released.pop_front();
        }
    }

    /// Notes a directory that may lead to a lock of this host.
    pub(super) fn pass(&mut self, ino: Ino, record: Arc<[u8]>) {
        if self.ways.len() >= WAYS_MAX && !self.ways.contains_key(&ino) {
            let needed: HashSet<Ino> = self.objects.values().flat_map(Copy::parents).collect();
            self.ways.retain(|ino, _| needed.contains(ino));
        }
        self.ways.insert(ino, record);
    }

    /// Notes what somebody, perhaps of another host, did to an object.
    pub(super) fn hear(&mut self, kind: EventKind, ino: Ino, token: Option<Token>) {
        let Some(copy) = self.objects.get(&ino) else {
            return;
        };
        let known = Stored::parse(ino, &copy.record).ok().map(|stored| stored.record().token);
        match kind {
            // It is another host's by now, which knows it better; its own step is known already.
            EventKind::Transfer if token > known => drop(self.objects.remove(&ino)),
            EventKind::Release | EventKind::Expire | EventKind::Break | EventKind::Lost => {
                self.suspects.insert(ino);
            }
            _ => {}
        }
    }

    /// Objects to be asked for again. What this host itself let go is known to be gone by now, though its event
    /// may have been heard before its answer.
    pub(super) fn take_suspects(&mut self) -> Vec<Ino> {
        let suspects = std::mem::take(&mut self.suspects);
        suspects.into_iter().filter(|ino| self.objects.contains_key(ino) || self.has_shares(*ino)).collect()
    }

    /// What the server says of a suspect: its record, or that it is not there.
    pub(super) fn confirm(&mut self, ino: Ino, found: Option<Arc<[u8]>>) {
        match found {
            Some(record) => {
                let copy = Copy { record, note: Arc::default() };
                if self.opens.has(ino) && copy.is_nobodys() {
                    self.untold.push(ino);
                }
                if let Some(known) = self.objects.get_mut(&ino) {
                    known.record = copy.record;
                } else if copy.is_nobodys() {
                    self.objects.insert(ino, copy);
                }
            }
            // Its last record is wanted still, should it turn out that a step of our own released it.
            None if !self.opens.has(ino) => drop(self.objects.remove(&ino)),
            None => {}
        }
    }

    /// How many live on without a name, and how many wait for one of them.
    pub(super) fn orphans(&self) -> (u64, u64) {
        (self.orphans.len() as u64, self.orphans.values().map(Orphan::waits).sum())
    }

    /// Whether a session is known.
    pub(super) fn knows(&self, id: &SessionId) -> bool {
        self.sessions.contains_key(id)
    }

    /// Carries out a command on an orphan; `None` where it is about none.
    pub(super) fn execute(&mut self, now: Now, command: &Command) -> Option<(Outcome, Vec<WaitId>)> {
        if let Command::Withdraw { id } = command {
            let orphan = self.orphans.values_mut().find(|orphan| orphan.awaits(*id))?;
            return Some(orphan.execute(now, command));
        }
        let ino = &command.object()?;
        let done = self.orphans.get_mut(ino)?.execute(now, command);
        self.orphans.retain(|_, orphan| orphan.is_there());
        Some(done)
    }

    /// Lets all orphans know of a command that was carried out, and is about mounts; returns whom that wakes.
    pub(super) fn tell_orphans(&mut self, now: Now, command: &Command) -> Vec<WaitId> {
        let wakes = self.orphans.values_mut().flat_map(|orphan| orphan.execute(now, command).1).collect();
        self.orphans.retain(|_, orphan| orphan.is_there());
        wakes
    }

    /// What stat(2) tells of an orphan.
    pub(super) fn stat(&self, now: Now, ino: Ino) -> Option<Option<Attributes>> {
        Some(self.orphans.get(&ino)?.stat(now))
    }

    /// Everything known of an orphan.
    pub(super) fn view(&self, now: Now, ino: Ino) -> Option<Option<View>> {
        Some(self.orphans.get(&ino)?.view(now))
    }

    /// All that this host has to say again at `now`: for each session, release, directory and lock four
    /// arguments of `reassert.lua`, in this order, and directories before what stands in them.
    pub(super) fn claims(&mut self, now: Now) -> Vec<[Vec<u8>; 4]> {
        let mut claims = Vec::new();
        self.forget_releases(now.boot);
        for (id, (record, lost)) in &self.sessions {
            claims.push([b"s".to_vec(), id.as_str().into(), record.to_vec(), lost.to_vec()]);
        }
        for (_, ino, record) in &self.released {
            claims.push([b"r".to_vec(), ino.as_u64().to_be_bytes().to_vec(), record.to_vec(), Vec::new()]);
        }
        let mut told = HashSet::from([Ino::ROOT]);
        for ino in self.objects.keys() {
            self.claim(*ino, &mut told, &mut claims);
        }
        for (id, (mount, _)) in self.leases.iter().filter(|(id, _)| self.is_attended(**id, now)) {
            claims.push([b"m".to_vec(), id.as_u64().to_be_bytes().into(), codec::lease(mount), Vec::new()]);
        }
        for ((ino, mount), share) in self.shares.iter().filter(|((_, id), _)| self.is_attended(*id, now)) {
            let share = [&mount.as_u64().to_be_bytes(), share.as_ref()].concat();
            claims.push([b"f".to_vec(), ino.as_u64().to_be_bytes().into(), share, Vec::new()]);
        }
        claims
    }

    fn claim(&self, ino: Ino, told: &mut HashSet<Ino>, claims: &mut Vec<[Vec<u8>; 4]>) {
        // The way up first; whoever nests deeply has a loop to thank, not a recursion.
        let mut ahead = vec![ino];
        let mut order = Vec::new();
        while let Some(ino) = ahead.pop() {
            if !told.insert(ino) {
                continue;
            }
            let copy = self.objects.get(&ino).cloned();
            let copy = copy.or_else(|| Some(Copy { record: self.ways.get(&ino)?.clone(), note: [].into() }));
            let Some(copy) = copy.filter(|copy| !copy.record.is_empty() && !copy.is_nameless()) else {
                continue;
            };
            ahead.extend(copy.parents());
            order.push((ino, copy));
        }
        for (ino, copy) in order.into_iter().rev() {
            let number = ino.as_u64().to_be_bytes().to_vec();
            claims.push([b"o".to_vec(), number, copy.record.to_vec(), copy.note.to_vec()]);
        }
    }
}

impl Copy {
    /// Who holds it.
    fn holder(&self) -> Option<SessionId> {
        Stored::parse(Ino::ROOT, &self.record).ok()?.record().session.clone()
    }

    /// Whether it is a file without a name: what its mounts do not keep alive is gone.
    fn is_nameless(&self) -> bool {
        let stored = Stored::parse(Ino::ROOT, &self.record);
        stored.is_ok_and(|stored| stored.record().places.is_empty())
    }

    /// Whether it is a file that nobody holds.
    fn is_nobodys(&self) -> bool {
        let stored = Stored::parse(Ino::ROOT, &self.record);
        stored.is_ok_and(|stored| stored.record().session.is_none() && stored.attributes().kind == Kind::File)
    }

    /// The directories that it stands in.
    fn parents(&self) -> Vec<Ino> {
        let stored = Stored::parse(Ino::ROOT, &self.record);
        stored
            .map(|stored| stored.record().places.iter().map(|place| place.parent).collect())
            .unwrap_or_default()
    }
}
