//! What this host knows of the objects that it made, changed or has open, as of its own last step on them.
//!
//! Two things need it. A file that is unlinked while it is open lives on for its descriptors, but not on the
//! server: it becomes an [`Orphan`], a table of its own under the same law. And where the server has lost data,
//! its hosts say again what they hold (`reassert.lua`).
//!
//! The invariant: nothing here is ever an answer to who holds what. That only the server says.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::codec::{Changed, Malformed, Stored};
use crate::clock::{BootTime, Now};
use crate::lock::{
    Attributes, EventKind, Ino, MountId, Name, Origin, Place, SessionId, SessionKind, Token, Ttl,
};
use crate::table::{Begin, Caller, Claimant, Command, LockTable, Outcome, Refusal, Spot, View};

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

/// A file without a name that is open here.
#[derive(Debug)]
struct Orphan {
    table: LockTable,
    ino: Ino,
}

/// What this host knows.
#[derive(Debug, Default)]
pub(super) struct Copies {
    objects: HashMap<Ino, Copy>,
    sessions: HashMap<SessionId, SessionCopy>,
    /// Directories that lead to locks of this host, whoever holds them.
    ways: HashMap<Ino, Arc<[u8]>>,
    opens: HashMap<Ino, u32>,
    orphans: HashMap<Ino, Orphan>,
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
                Changed::Object(ino, record) if what == Learn::All || self.objects.contains_key(ino) => {
                    self.objects.entry(*ino).or_default().record = Arc::clone(record);
                }
                Changed::Note(ino, note) if what == Learn::All || self.objects.contains_key(ino) => {
                    self.objects.entry(*ino).or_default().note = Arc::clone(note);
                }
                Changed::Released(ino) => {
                    if self.opens.contains_key(ino)
                        && let Some(copy) = self.objects.get(ino)
                    {
                        self.orphans.insert(*ino, Orphan::of(*ino, copy, now)?);
                    }
                    if let Some(copy) = self.objects.remove(ino) {
                        self.forget_releases(now.boot);
                        self.released.push_back((now.boot, *ino, copy.record));
                    }
                }
                Changed::Gone(ino) => drop(self.objects.remove(ino)),
                Changed::Session(id, record, lost)
                    if what == Learn::All || self.sessions.contains_key(id) =>
                {
                    self.forget_idle_sessions();
                    self.sessions.insert(id.clone(), (Arc::clone(record), Arc::clone(lost)));
                }
                Changed::SessionGone(id) => drop(self.sessions.remove(id)),
                Changed::Object(..) | Changed::Note(..) | Changed::Session(..) | Changed::Entries(..) => {}
            }
        }
        Ok(())
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
        suspects.into_iter().filter(|ino| self.objects.contains_key(ino)).collect()
    }

    /// What the server says of a suspect: its record, or that it is not there.
    pub(super) fn confirm(&mut self, ino: Ino, found: Option<Arc<[u8]>>) {
        match (found, self.objects.get_mut(&ino)) {
            (Some(record), Some(copy)) => copy.record = record,
            // Its last record is wanted still, should it turn out that a step of our own released it.
            (None, Some(_)) if !self.opens.contains_key(&ino) => drop(self.objects.remove(&ino)),
            _ => {}
        }
    }

    /// One more descriptor is open on an object.
    pub(super) fn opened(&mut self, ino: Ino) {
        *self.opens.entry(ino).or_default() += 1;
    }

    /// One descriptor less is open.
    pub(super) fn closed(&mut self, ino: Ino) {
        if let Some(count) = self.opens.get_mut(&ino) {
            *count -= 1;
            if *count == 0 {
                self.opens.remove(&ino);
                self.orphans.remove(&ino);
            }
        }
    }

    /// How many live on without a name.
    pub(super) fn orphans(&self) -> u64 {
        self.orphans.len() as u64
    }

    /// Whether a session is known.
    pub(super) fn knows(&self, id: &SessionId) -> bool {
        self.sessions.contains_key(id)
    }

    /// Carries out a command on an orphan; `None` where it is about none.
    pub(super) fn execute(&mut self, now: Now, command: &Command) -> Option<Outcome> {
        let ino = match command {
            Command::Open { ino, .. }
            | Command::Write { ino, .. }
            | Command::Truncate { ino, .. }
            | Command::Change { ino, .. }
            | Command::SetTtl { ino, .. }
            | Command::SetDefaultTtl { ino, .. }
            | Command::Break { ino, .. }
            | Command::Transfer { ino, .. }
            | Command::Link { ino, .. } => ino,
            _ => return None,
        };
        let orphan = self.orphans.get_mut(ino)?;
        let outcome = orphan.table.execute(now, command).outcome;
        if outcome.is_ok() && matches!(command, Command::Open { .. }) {
            self.opened(*ino);
        }
        Some(outcome)
    }

    /// What stat(2) tells of an orphan.
    pub(super) fn stat(&self, now: Now, ino: Ino) -> Option<Attributes> {
        self.orphans.get(&ino)?.table.stat(now, ino)
    }

    /// Everything known of an orphan.
    pub(super) fn view(&self, now: Now, ino: Ino) -> Option<View> {
        self.orphans.get(&ino)?.table.view(now, ino)
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
            let Some(copy) = copy.filter(|copy| !copy.record.is_empty()) else {
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

    /// The directories that it stands in.
    fn parents(&self) -> Vec<Ino> {
        let stored = Stored::parse(Ino::ROOT, &self.record);
        stored
            .map(|stored| stored.record().places.iter().map(|place| place.parent).collect())
            .unwrap_or_default()
    }
}

impl Orphan {
    /// The object of `copy` after its last name went at `now`: in a small world where its holder unlinks it.
    fn of(ino: Ino, copy: &Copy, now: Now) -> Result<Self, Malformed> {
        let mut record = Stored::parse(ino, &copy.record)?.with(&copy.note);
        let name = Name::parse(b"orphan").expect("a name");
        record.places = vec![Place { parent: Ino::ROOT, name: name.clone(), cookie: record.token }];
        let epoch = record.token.epoch().max(Token::from_u64(ino.as_u64()).epoch()).saturating_add(1);
        let holder = record.session.clone();
        let uid = record.uid;
        let by = |id: SessionId| Caller {
            uid,
            gid: record.gid,
            session: Arc::new(Claimant {
                id,
                kind: SessionKind::Named,
                origin: Origin { user: String::new(), host: String::new(), pid: 0, command: String::new() },
                login: None,
                ttl: Ttl::Never,
                begin: Begin::WhereMissing,
            }),
            also: Vec::new(),
            mount: MountId::from_u64(0),
        };
        let nobody = || SessionId::parse(b"nobody").expect("a session name");
        let caller = by(holder.clone().unwrap_or_else(nobody));
        let mut table = LockTable::new(epoch, uid, record.gid, now);
        let root = table.record(Ino::ROOT).expect("every table has a root").clone();
        let mut sessions = Vec::new();
        if let Some(id) = holder {
            table.execute(now, &Command::BeginSession { caller: by(id.clone()) }).outcome.ok();
            sessions.extend(table.session_record(&id).cloned());
        }
        let restored = LockTable::restore(epoch.saturating_add(1), [root, record], sessions);
        let mut table = restored.map_err(|why| Malformed::from(why.as_str()))?;
        let spot = Spot { parent: Ino::ROOT, name };
        let open = Command::Open { caller: caller.clone(), ino, emptied: false };
        table.execute(now, &open).outcome.map_err(|refusal| Malformed::of_refusal(&refusal))?;
        table
            .execute(now, &Command::Unlink { caller, spot })
            .outcome
            .map_err(|refusal| Malformed::of_refusal(&refusal))?;
        Ok(Self { table, ino })
    }
}

impl Malformed {
    fn of_refusal(refusal: &Refusal) -> Self {
        Self::from(format!("what was unlinked can't be kept: {refusal:?}").as_str())
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        log::trace!("closed what had no name ino={}", self.ino);
    }
}
