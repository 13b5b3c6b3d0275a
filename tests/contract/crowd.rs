//! Locks and queues, read again: who has what, who waits for it in which order, and who must be told. Written from the
//! words of the law, byte by byte and one by one, and not from the code that it judges.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lockfs::clock::{BootTime, Now};
use lockfs::lock::{Claim, Grant, Ino, Kind, LockOwner, Mode, MountId, Range, SessionId, Style, Ttl, WaitId};
use lockfs::table::{Caller, Command, Existing, New, Opening, Outcome, Refusal, Reply, Spot, Step, Waiting};

use crate::search::Verdict;
use crate::shadow::ensure;
use crate::world::Bench;

/// How long something stays reserved for whoever was told.
const RESERVED: Duration = Duration::from_secs(2);

/// The bytes that are looked at: at least one of each range of the world, and of each cut of two.
const BYTES: [u64; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, Range::END];

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Object(Ino),
    Name(Spot),
}

/// A call that waits.
#[derive(Clone, Debug)]
struct Wait {
    id: WaitId,
    target: Target,
    claim: Claim,
    session: SessionId,
    alone: bool,
    /// Until when what it waits for is reserved for it, since it was told.
    told: Option<BootTime>,
}

impl Wait {
    fn owner(&self) -> LockOwner {
        LockOwner { mount: self.id.mount, key: self.claim.key }
    }
}

/// Which bytes who has, how.
type Locks = BTreeMap<(Style, LockOwner, u64), Mode>;

/// What was there before a step, at its time.
#[derive(Debug)]
pub(crate) struct Scene {
    locks: BTreeMap<Ino, Locks>,
    /// The sessions of the grants.
    sessions: BTreeMap<Ino, Vec<Grant>>,
    /// Those who could have gone already: what was in the way is dead, and nobody has noticed yet.
    could: BTreeSet<WaitId>,
    /// What the command locks, or in what it wants a name.
    kind: Option<Kind>,
    /// Whether something stands where the command wants a name.
    is_taken: bool,
    nameless: BTreeSet<Ino>,
}

/// Until when a file was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Nobody knows its end.
    Endless,
    Until(BootTime),
}

/// All mounts, and what they have and wait for.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    /// When they were last heard of, and how long that is good for.
    leases: BTreeMap<MountId, (BootTime, Ttl)>,
    mute: BTreeSet<MountId>,
    opens: BTreeMap<(Ino, MountId), u32>,
    waits: Vec<Wait>,
    locked: BTreeSet<Ino>,
    /// The mounts that have something locked, or had till their lease ran out.
    grantees: BTreeSet<(Ino, MountId)>,
    last_use: BTreeMap<Ino, BootTime>,
}

fn locks_of(grants: &[Grant]) -> Locks {
    let mut locks = Locks::new();
    for grant in grants {
        for byte in bytes(grant.range) {
            locks.insert((grant.style, grant.owner, byte), grant.mode);
        }
    }
    locks
}

fn bytes(range: Range) -> impl Iterator<Item = u64> {
    BYTES.into_iter().filter(move |byte| (range.first()..=range.last()).contains(byte))
}

fn exclude(one: Mode, other: Mode) -> bool {
    one == Mode::Exclusive || other == Mode::Exclusive
}

/// Whether a lock is in the way of a claim.
fn is_locked(locks: &Locks, owner: LockOwner, claim: &Claim) -> bool {
    locks.iter().any(|((style, other, byte), mode)| {
        *style == claim.style
            && *other != owner
            && exclude(*mode, claim.mode)
            && bytes(claim.range).any(|claimed| claimed == *byte)
    })
}

/// Whether an owner has all that it claims, however.
fn has_all(locks: &Locks, owner: LockOwner, claim: &Claim) -> bool {
    bytes(claim.range).all(|byte| locks.contains_key(&(claim.style, owner, byte)))
}

fn without(locks: &Locks, owner: LockOwner, style: Style, range: Range) -> Locks {
    let is_meant = |(its, whose, byte): &(Style, LockOwner, u64)| {
        *its == style && *whose == owner && bytes(range).any(|meant| meant == *byte)
    };
    locks.iter().filter(|(key, _)| !is_meant(key)).map(|(key, mode)| (*key, *mode)).collect()
}

impl Crowd {
    fn ends_at(&self, mount: MountId) -> Option<BootTime> {
        let (seen, ttl) = self.leases.get(&mount)?;
        Some(*seen + ttl.span()?)
    }

    fn lives(&self, mount: MountId, now: Now) -> bool {
        self.ends_at(mount).is_none_or(|end| end > now.boot)
    }

    fn is_attended(&self, mount: MountId, now: Now) -> bool {
        self.leases.contains_key(&mount) && self.lives(mount, now)
    }

    fn is_heeded(&self, wait: &Wait, now: Now) -> bool {
        self.is_attended(wait.id.mount, now) && !self.mute.contains(&wait.id.mount)
    }

    /// The mounts that have something of an object or wait for it, dead or alive.
    fn users(&self, ino: Ino) -> impl Iterator<Item = MountId> {
        let opens = self.opens.keys().filter(move |(open, _)| *open == ino).map(|(_, mount)| *mount);
        let waits = self.waits.iter().filter(move |wait| wait.target == Target::Object(ino));
        let grantees = self.grantees.iter().filter(move |(locked, _)| *locked == ino);
        opens.chain(waits.map(|wait| wait.id.mount)).chain(grantees.map(|(_, mount)| *mount))
    }

    /// Until when an advisory file is used, or was.
    pub(crate) fn last_use(&self, ino: Ino) -> Use {
        let mut until = self.last_use.get(&ino).copied().unwrap_or_default();
        for mount in self.users(ino) {
            match self.ends_at(mount) {
                None => return Use::Endless,
                Some(end) => until = until.max(end),
            }
        }
        Use::Until(until)
    }

    /// The waits that come before a place and are in the way of a claim.
    fn earlier<'a>(
        &'a self,
        now: Now,
        target: &'a Target,
        owner: LockOwner,
        claim: &'a Claim,
        place: Option<usize>,
    ) -> impl Iterator<Item = &'a Wait> {
        self.waits[..place.unwrap_or(self.waits.len())].iter().filter(move |wait| {
            let conflicts = match target {
                Target::Name(_) => true,
                Target::Object(_) => {
                    let shares_bytes =
                        bytes(claim.range).any(|byte| bytes(wait.claim.range).any(|b| b == byte));
                    wait.claim.style == claim.style && exclude(wait.claim.mode, claim.mode) && shares_bytes
                }
            };
            wait.target == *target && wait.owner() != owner && conflicts && self.is_heeded(wait, now)
        })
    }

    fn place(&self, id: WaitId) -> Option<usize> {
        self.waits.iter().position(|wait| wait.id == id)
    }

    /// Whether nothing and nobody is in the way of the nth of those who wait.
    fn could_go(&self, bench: &Bench, nth: usize) -> bool {
        let wait = &self.waits[nth];
        let (owner, claim, now) = (wait.owner(), &wait.claim, bench.now);
        if !self.is_heeded(wait, now) {
            return false;
        }
        let waits_first = self.earlier(now, &wait.target, owner, claim, Some(nth)).next().is_some();
        match &wait.target {
            Target::Name(spot) => bench.table.lookup(now, spot).is_none() && !waits_first,
            Target::Object(ino) => {
                let view = bench.table.view(now, *ino);
                let locks = locks_of(&view.map(|view| view.grants).unwrap_or_default());
                !is_locked(&locks, owner, claim) && (!waits_first || has_all(&locks, owner, claim))
            }
        }
    }

    /// What is there before a step.
    pub(crate) fn scene(&mut self, bench: &Bench, command: &Command) -> Scene {
        let Bench { table, now } = bench;
        let grants = |ino: &Ino| table.view(*now, *ino).map(|view| view.grants).unwrap_or_default();
        let sessions: BTreeMap<Ino, Vec<Grant>> = self.locked.iter().map(|ino| (*ino, grants(ino))).collect();
        let used: BTreeSet<Ino> = self.opens.keys().map(|(ino, _)| *ino).chain(self.locked.clone()).collect();
        for ino in &used {
            let users: Vec<MountId> = self.users(*ino).collect();
            for mount in users {
                let until = self.ends_at(mount).map_or(now.boot, |end| end.min(now.boot));
                let last = self.last_use.entry(*ino).or_default();
                *last = until.max(*last);
            }
        }
        let nameless = |ino: &Ino| table.view(*now, *ino).is_some_and(|view| view.record.places.is_empty());
        let (kind, is_taken) = match command {
            Command::Lock { ino, .. } => (table.stat(*now, *ino).map(|found| found.kind), false),
            Command::Acquire { spot, .. }
            | Command::Await { spot, .. }
            | Command::Link { spot, .. }
            | Command::Rename { to: spot, .. } => {
                let parent = table.stat(*now, spot.parent).map(|found| found.kind);
                (parent, table.lookup(*now, spot).is_some())
            }
            _ => (None, false),
        };
        Scene {
            locks: sessions.iter().map(|(ino, grants)| (*ino, locks_of(grants))).collect(),
            could: (0..self.waits.len())
                .filter(|nth| self.could_go(bench, *nth))
                .map(|nth| self.waits[nth].id)
                .collect(),
            nameless: used.into_iter().filter(nameless).collect(),
            sessions,
            kind,
            is_taken,
        }
    }

    /// A mount that was passed over is heeded again, and told again.
    fn hear(&mut self, mount: MountId) {
        if self.mute.remove(&mount) {
            self.waits.iter_mut().filter(|wait| wait.id.mount == mount).for_each(|wait| wait.told = None);
        }
    }

    fn forget(&mut self, mount: MountId) {
        self.leases.remove(&mount);
        self.mute.remove(&mount);
        self.waits.retain(|wait| wait.id.mount != mount);
        self.opens.retain(|(_, user), _| *user != mount);
        self.grantees.retain(|(_, user)| *user != mount);
    }

    /// The sessions that must let go of something before a claim can be granted.
    fn in_the_way(
        &self,
        bench: &Bench,
        grants: &BTreeMap<Ino, Vec<Grant>>,
        wait: &Wait,
        place: Option<usize>,
        alone: &SessionId,
    ) -> Vec<SessionId> {
        let (owner, claim, now) = (wait.owner(), &wait.claim, bench.now);
        let mut sessions = Vec::new();
        let mut converts = false;
        match &wait.target {
            Target::Name(spot) => {
                let view = bench.table.lookup(now, spot).and_then(|found| bench.table.view(now, found.ino));
                sessions.extend(view.and_then(|view| view.record.session));
            }
            Target::Object(ino) => {
                let grants = grants.get(ino).map(Vec::as_slice).unwrap_or_default();
                converts = has_all(&locks_of(grants), owner, claim);
                let conflicts =
                    |grant: &&Grant| is_locked(&locks_of(std::slice::from_ref(*grant)), owner, claim);
                sessions.extend(grants.iter().filter(conflicts).map(|grant| grant.session.clone()));
            }
        }
        if !converts {
            // Who is alone waits once: what else waits for it was interrupted.
            let earlier = self.earlier(now, &wait.target, owner, claim, place);
            let earlier = earlier.filter(|wait| wait.session != *alone);
            sessions.extend(earlier.map(|wait| wait.session.clone()));
        }
        sessions
    }

    /// Whether a wait would wait for itself, by way of others who are alone.
    fn closes_a_cycle(&self, bench: &Bench, grants: &BTreeMap<Ino, Vec<Grant>>, wait: &Wait) -> bool {
        let mut ahead = self.in_the_way(bench, grants, wait, self.place(wait.id), &wait.session);
        let mut seen = BTreeSet::new();
        while let Some(session) = ahead.pop() {
            if session == wait.session {
                return true;
            }
            for (nth, other) in self.waits.iter().enumerate() {
                let counts = other.session == session && other.alone && self.lives(other.id.mount, bench.now);
                if counts && seen.insert(nth) {
                    ahead.extend(self.in_the_way(bench, grants, other, Some(nth), &wait.session));
                }
            }
        }
        false
    }

    /// What a wait that can't go is answered, and its place.
    fn answer_waiting(&mut self, bench: &Bench, grants: &BTreeMap<Ino, Vec<Grant>>, wait: Wait) -> Outcome {
        if wait.alone && self.closes_a_cycle(bench, grants, &wait) {
            return Err(Refusal::Deadlock);
        }
        match self.place(wait.id) {
            Some(nth) => self.waits[nth].told = None,
            None => self.waits.push(wait),
        }
        Ok(Reply::Waits)
    }

    fn wait_of(caller: &Caller, target: Target, claim: Claim, waiting: Waiting) -> Wait {
        let id = WaitId { mount: caller.mount, request: waiting.request };
        let session = caller.session.id.clone();
        Wait { id, target, claim, session, alone: waiting.alone, told: None }
    }

    /// Follows a lock, and says what it is to be answered; `locks` are changed as it changes them.
    fn lock(
        &mut self,
        bench: &Bench,
        scene: &Scene,
        locks: &mut BTreeMap<Ino, Locks>,
        (caller, ino, claim): (&Caller, Ino, &Claim),
        waiting: Option<Waiting>,
    ) -> Outcome {
        match scene.kind {
            None => return Err(Refusal::Gone),
            Some(Kind::Directory | Kind::Symlink) => return Err(Refusal::Invalid),
            Some(Kind::File) if !self.is_attended(caller.mount, bench.now) => {
                return Err(Refusal::Unattended);
            }
            Some(Kind::File) => self.hear(caller.mount),
        }
        self.locked.insert(ino);
        let owner = LockOwner { mount: caller.mount, key: claim.key };
        let target = Target::Object(ino);
        let had = locks.get(&ino).cloned().unwrap_or_default();
        if bytes(claim.range).all(|byte| had.get(&(claim.style, owner, byte)) == Some(&claim.mode)) {
            return Ok(Reply::Done);
        }
        let left = without(&had, owner, claim.style, claim.range);
        let converts = has_all(&had, owner, claim);
        let place = waiting.and_then(|w| self.place(WaitId { mount: caller.mount, request: w.request }));
        let waits_first = self.earlier(bench.now, &target, owner, claim, place).next().is_some();
        if !is_locked(&had, owner, claim) && (converts || !waits_first) {
            let own = bytes(claim.range).map(|byte| ((claim.style, owner, byte), claim.mode));
            locks.insert(ino, left.into_iter().chain(own).collect());
            return Ok(Reply::Done);
        }
        let mut grants = scene.sessions.clone();
        if converts && claim.style == Style::Flock {
            locks.insert(ino, left);
            let of_others = |grant: &Grant| grant.owner != owner || grant.style != Style::Flock;
            grants.entry(ino).or_default().retain(of_others);
        }
        match waiting {
            None => Err(Refusal::Taken),
            Some(waiting) => {
                let wait = Self::wait_of(caller, target, *claim, waiting);
                self.answer_waiting(bench, &grants, wait)
            }
        }
    }

    /// The same of a wait for a name; `None` where it may have it, if its session is in order.
    fn await_name(
        &mut self,
        bench: &Bench,
        scene: &Scene,
        (caller, spot): (&Caller, &Spot),
        waiting: Waiting,
    ) -> Option<Outcome> {
        if !self.is_attended(caller.mount, bench.now) {
            return Some(Err(Refusal::Unattended));
        }
        self.hear(caller.mount);
        match scene.kind {
            None => return Some(Err(Refusal::NoEntry)),
            // A file without names is no place at all.
            Some(Kind::File | Kind::Symlink) if bench.table.record(spot.parent).is_none() => {
                return Some(Err(Refusal::NoEntry));
            }
            Some(Kind::File | Kind::Symlink) => return Some(Err(Refusal::NotDirectory)),
            Some(Kind::Directory) => {}
        }
        let (style, mode, range) = (Style::Flock, Mode::Exclusive, Range::WHOLE);
        let claim = Claim { style, mode, range, key: waiting.request, pid: 0 };
        let wait = Self::wait_of(caller, Target::Name(spot.clone()), claim, waiting);
        let place = self.place(wait.id);
        let first = self.earlier(bench.now, &wait.target, wait.owner(), &claim, place).next();
        (scene.is_taken || first.is_some()).then(|| self.answer_waiting(bench, &scene.sessions, wait))
    }

    /// Nobody gets a name that others wait for.
    fn check_name(&self, bench: &Bench, scene: &Scene, spot: &Spot, outcome: &Outcome) -> Verdict {
        let waits = |wait: &Wait| {
            matches!(&wait.target, Target::Name(name) if name == spot) && self.is_heeded(wait, bench.now)
        };
        let got = matches!(outcome, Ok(Reply::Entry(_))) && !scene.is_taken;
        ensure!(!got || !self.waits.iter().any(waits), "others wait for it");
        Ok(())
    }

    /// Follows one step: `bench` is as it is after it.
    pub(crate) fn follow(&mut self, command: &Command, step: &Step, scene: &Scene, bench: &Bench) -> Verdict {
        self.judge(command, step, scene, bench)
            .map_err(|wrong| format!("{wrong}: {command:?} {step:?}\n{self:#?}"))
    }

    fn judge(&mut self, command: &Command, step: &Step, scene: &Scene, bench: &Bench) -> Verdict {
        let (now, outcome) = (bench.now, &step.outcome);
        let mut locks = scene.locks.clone();
        let mut expected = None;
        let mut gone: Vec<MountId> = Vec::new();
        match command {
            Command::Lock { caller, ino, claim, waiting } => {
                expected = Some(self.lock(bench, scene, &mut locks, (caller, *ino, claim), *waiting));
                if let Some(waiting) = waiting.filter(|_| *outcome != Ok(Reply::Waits)) {
                    self.waits
                        .retain(|wait| wait.id != WaitId { mount: caller.mount, request: waiting.request });
                }
            }
            Command::Await { caller, spot, waiting, .. } => {
                expected = self.await_name(bench, scene, (caller, spot), *waiting);
                if *outcome != Ok(Reply::Waits) {
                    let id = WaitId { mount: caller.mount, request: waiting.request };
                    self.waits.retain(|wait| wait.id != id);
                }
                if let Ok(Reply::Entry(made)) = outcome {
                    *self.opens.entry((made.ino, caller.mount)).or_default() += 1;
                }
                let refused = [Err(Refusal::NotPermitted), Err(Refusal::NoSession)].contains(outcome);
                let made = matches!(outcome, Ok(Reply::Entry(_))) || refused;
                ensure!(expected.is_some() || made, "it may have it");
            }
            Command::Unlock { mount, ino, style, key, range } => {
                let owner = LockOwner { mount: *mount, key: *key };
                if let Some(had) = locks.get_mut(ino) {
                    *had = without(had, owner, *style, *range);
                }
            }
            Command::Acquire { caller, spot, new, existing, .. } => {
                self.check_name(bench, scene, spot, outcome)?;
                let reserved = self.check_name(bench, scene, spot, &Ok(Reply::Done)).is_err();
                let refusal = match existing {
                    Existing::Refuse => Refusal::Exists,
                    Existing::Open | Existing::OpenEmptied => Refusal::Busy(None),
                };
                ensure!(!reserved || *outcome == Err(refusal), "it is not reserved");
                match outcome {
                    Ok(Reply::Entry(made)) if *new == New::File(Opening::Opened) => {
                        *self.opens.entry((made.ino, caller.mount)).or_default() += 1;
                    }
                    Ok(Reply::Opened(found)) if found.kind != Kind::Directory => {
                        *self.opens.entry((found.ino, caller.mount)).or_default() += 1;
                    }
                    _ => {}
                }
            }
            Command::Link { spot, .. } | Command::Rename { to: spot, .. } => {
                self.check_name(bench, scene, spot, outcome)?;
            }
            Command::Open { caller, .. } => {
                if let Ok(Reply::Opened(found)) = outcome
                    && found.kind != Kind::Directory
                {
                    *self.opens.entry((found.ino, caller.mount)).or_default() += 1;
                }
            }
            Command::Close { mount, ino } => {
                let count = self.opens.entry((*ino, *mount)).or_default();
                *count = count.saturating_sub(1);
                self.opens.retain(|_, count| *count > 0);
            }
            Command::Withdraw { id } => self.waits.retain(|wait| wait.id != *id),
            Command::Attend { mount } => {
                let was_there = self.is_attended(mount.id, now);
                expected = Some(Ok(Reply::Count(usize::from(was_there))));
                if was_there {
                    self.hear(mount.id);
                } else {
                    gone.push(mount.id);
                    self.forget(mount.id);
                }
                self.leases.insert(mount.id, (now.boot, mount.ttl));
            }
            Command::Leave { mounts } => {
                gone.extend(mounts);
                mounts.iter().for_each(|mount| self.forget(*mount));
            }
            Command::Sweep { .. } => {
                let dead: Vec<MountId> =
                    self.leases.keys().copied().filter(|mount| !self.lives(*mount, now)).collect();
                dead.into_iter().for_each(|mount| self.forget(mount));
                let late = |wait: &&Wait| wait.told.is_some_and(|until| until <= now.boot);
                self.mute.extend(self.waits.iter().filter(late).map(|wait| wait.id.mount));
            }
            _ => {}
        }
        ensure!(expected.as_ref().is_none_or(|expected| expected == outcome), "it should be {expected:?}");
        for had in locks.values_mut() {
            had.retain(|(_, owner, _), _| !gone.contains(&owner.mount));
        }
        self.check_locks(bench, &locks)?;
        self.check_wakes(command, step, scene, bench)?;
        self.check_nameless(scene, bench)
    }

    /// Who has what is as it should be.
    fn check_locks(&mut self, bench: &Bench, expected: &BTreeMap<Ino, Locks>) -> Verdict {
        self.locked.retain(|ino| bench.table.stat(bench.now, *ino).is_some());
        let dead = |mount: &MountId| !self.lives(*mount, bench.now);
        let mut grantees: BTreeSet<_> =
            self.grantees.iter().filter(|(_, mount)| dead(mount)).copied().collect();
        for ino in &self.locked {
            let Some(view) = bench.table.view(bench.now, *ino) else {
                continue;
            };
            grantees.extend(view.grants.iter().map(|grant| (*ino, grant.owner.mount)));
            let told = locks_of(&view.grants);
            let none = Locks::new();
            let expected = expected.get(ino).unwrap_or(&none);
            ensure!(told == *expected, "{ino} is locked {told:?}, and should be {expected:?}");
            ensure!(view.record.session.is_none(), "{ino} is locked, and held by {:?}", view.record.session);
            for (nth, one) in view.grants.iter().enumerate() {
                for other in &view.grants[nth + 1..] {
                    let is_own = one.owner == other.owner && one.style == other.style;
                    let meet =
                        one.range.first() <= other.range.last() && other.range.first() <= one.range.last();
                    ensure!(!is_own || !meet, "two of one owner: {one:?} {other:?}");
                    let next = one.range.last() + 1 == other.range.first()
                        || other.range.last() + 1 == one.range.first();
                    ensure!(
                        !is_own || one.mode != other.mode || !next,
                        "two that are one: {one:?} {other:?}"
                    );
                    let conflict = one.owner != other.owner
                        && one.style == other.style
                        && exclude(one.mode, other.mode)
                        && meet;
                    ensure!(!conflict, "both are granted: {one:?} {other:?}");
                }
            }
            let waiting = self.waits.iter().filter(|wait| {
                let waits_here = match &wait.target {
                    Target::Object(object) => object == ino,
                    Target::Name(spot) => {
                        let mut places = view.record.places.iter();
                        places.any(|place| place.parent == spot.parent && place.name == spot.name)
                    }
                };
                waits_here && self.lives(wait.id.mount, bench.now)
            });
            let waiting = waiting.count();
            ensure!(view.waiting == waiting, "{} wait for {ino}, and should {waiting}", view.waiting);
        }
        self.grantees = grantees;
        let waits = bench.table.counts().waits;
        ensure!(waits == self.waits.len() as u64, "{waits} wait in all");
        Ok(())
    }

    /// Whoever can go now is told, once; and nobody else is.
    fn check_wakes(&mut self, command: &Command, step: &Step, scene: &Scene, bench: &Bench) -> Verdict {
        let could: BTreeSet<WaitId> = (0..self.waits.len())
            .filter(|nth| self.could_go(bench, *nth))
            .map(|nth| self.waits[nth].id)
            .collect();
        for id in &step.wakes {
            ensure!(could.contains(id), "{id:?} was told, and can't go");
            let nth = self.place(*id).ok_or("it waits")?;
            ensure!(self.waits[nth].told.is_none(), "{id:?} was told again");
            self.waits[nth].told = Some(bench.now.boot + RESERVED);
        }
        let notices_all = matches!(command, Command::Sweep { limit } if *limit >= 100);
        for wait in &self.waits {
            let must = could.contains(&wait.id) && (notices_all || !scene.could.contains(&wait.id));
            ensure!(!must || wait.told.is_some(), "{wait:?} could go, and was not told");
        }
        Ok(())
    }

    /// What has no name lives for as long as somebody who lives uses it.
    fn check_nameless(&self, scene: &Scene, bench: &Bench) -> Verdict {
        for ino in &scene.nameless {
            let view = bench.table.view(bench.now, *ino);
            let is_used = self.users(*ino).any(|mount| self.lives(mount, bench.now));
            ensure!(view.is_some() == is_used, "{ino} has no name, and is used: {is_used}");
        }
        Ok(())
    }
}
