//! A small world for random histories: who acts, on which names, and what they may do.
//!
//! An [`Act`] names things as a user would (by path, or as "the seventh thing I ever saw"), and becomes a
//! [`Command`] only when it is carried out. So a history stays meaningful when acts are taken out of it,
//! and can be carried out on two stores whose numbers differ.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use lockfs::clock::{BootId, BootTime, Now, WallTime};
use lockfs::lock::{
    Claim, Ino, Job, Login, Mode, Mount, MountId, Name, Origin, Range, SessionId, SessionKind, Style, Token,
    Ttl, WaitId,
};
use lockfs::table::{
    AttributeChange, Begin, Caller, Claimant, Command, Existing, LockTable, New, Opening, Outcome,
    RenameMode, Reply, Spot, Waiting,
};

pub(crate) const ROOT: u32 = 0;
pub(crate) const ALICE: u32 = 1_000;
pub(crate) const BOB: u32 = 2_000;

/// The uid and gid of every root directory here.
pub(crate) const OWNER: u32 = 0;

pub(crate) fn secs(secs: u64) -> Ttl {
    Ttl::For(Duration::from_secs(secs))
}

/// The moment at which every history begins.
pub(crate) fn dawn() -> Now {
    Now { boot: BootTime::from_nanos(1_000_000_000_000), wall: WallTime::new(1_900_000_000, 0) }
}

pub(crate) fn later(now: Now, span: Duration) -> Now {
    Now { boot: now.boot + span, wall: now.wall + span }
}

pub(crate) fn session_id(text: &str) -> SessionId {
    SessionId::parse(text.as_bytes()).expect("a session name")
}

/// A caller of the session `id`.
pub(crate) fn caller(uid: u32, id: &str, kind: SessionKind, login: Option<&str>, ttl: Ttl) -> Caller {
    let origin = Origin { user: uid.to_string(), host: "dev1".into(), pid: 7, command: "sh".into() };
    let id = session_id(id);
    let login = login.map(Login::new);
    let session = Claimant { id, kind, origin, login, ttl, begin: Begin::WhereMissing };
    Caller { uid, gid: uid, session: Arc::new(session), also: Vec::new(), mount: MountId::from_u64(1) }
}

pub(crate) fn job(pgid: u32) -> SessionKind {
    SessionKind::Job(Job { pgid, start: 1, boot: BootId::new("boot") })
}

/// The same caller, whose session must exist.
pub(crate) fn by_path(mut caller: Caller) -> Caller {
    Arc::make_mut(&mut caller.session).begin = Begin::Never;
    caller
}

/// How many mounts there are: the first is never given up, the others are when they were not heard of for long.
pub(crate) const MOUNTS: usize = 3;

/// The nth mount, counted from 0.
pub(crate) fn mount_id(nth: usize) -> MountId {
    MountId::from_u64(nth as u64 + 1)
}

/// The same, as its daemon tells of it.
pub(crate) fn mount(nth: usize) -> Mount {
    let ttl = [Ttl::Never, secs(6), secs(2)][nth];
    let pid = u32::try_from(nth).expect("few mounts") + 100;
    Mount {
        id: mount_id(nth),
        host: format!("dev{}", nth + 1),
        pid,
        start: 7,
        boot: BootId::new("boot"),
        ttl,
    }
}

/// Who acts: two users and root; jobs of one login and of others; named sessions, also someone else's; one
/// whose process nobody sees. Neighbours are on different mounts.
pub(crate) fn cast() -> Vec<Caller> {
    let named = SessionKind::Named;
    let mut cast = vec![
        caller(ALICE, "dev1-1", job(1), Some("tty1"), secs(8)),
        caller(ALICE, "dev1-2", job(2), Some("tty1"), secs(8)),
        caller(ALICE, "dev1-3", job(3), Some("tty2"), secs(3)),
        caller(ALICE, "agent", named.clone(), Some("tty1"), secs(5)),
        by_path(caller(ALICE, "agent", named.clone(), Some("tty2"), secs(5))),
        by_path(caller(ALICE, "late", named.clone(), Some("tty2"), secs(5))),
        caller(BOB, "dev1-4", job(4), Some("tty3"), secs(8)),
        caller(BOB, "agent", named.clone(), Some("tty3"), secs(5)),
        caller(BOB, "bobs", named, Some("tty3"), Ttl::Never),
        caller(ROOT, "dev1-5", job(5), Some("tty1"), Ttl::Never),
        caller(ALICE, "1000@dev1", SessionKind::Unseen, None, secs(8)),
    ];
    for (nth, caller) in cast.iter_mut().enumerate() {
        caller.mount = mount_id(nth % MOUNTS);
    }
    cast
}

/// The sessions that acts name: those of the cast, and one that only a migration makes.
pub(crate) const SESSIONS: [&str; 10] =
    ["dev1-1", "dev1-2", "dev1-3", "agent", "late", "dev1-4", "bobs", "dev1-5", "1000@dev1", "heir"];

const NAMES: [&str; 3] = ["a", "b", "c.lock"];

/// The names of everything here.
pub(crate) fn names() -> [Name; 3] {
    NAMES.map(name)
}

/// What fcntl locks are about, most often.
const RANGES: [(u64, u64); 6] = [(0, 3), (4, 7), (2, 5), (0, u64::MAX), (5, 5), (8, u64::MAX)];

/// An entry, as a user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    /// By names of [`NAMES`], from the root.
    At(Vec<usize>),
    /// By a name in the directory that was the nth thing seen, wherever that is by now.
    Below(usize, usize),
}

/// A thing, as a user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// What stands there.
    At(Where),
    /// The nth thing seen, counted round; the root is the first.
    Seen(usize),
}

/// What is done by whom; persons are places in [`cast`], sessions in [`SESSIONS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Wait(Duration),
    Make {
        who: usize,
        at: Where,
        new: usize,
        existing: Existing,
    },
    Unlink {
        who: usize,
        at: Where,
    },
    Rmdir {
        who: usize,
        at: Where,
    },
    Link {
        who: usize,
        what: What,
        to: Where,
    },
    Rename {
        who: usize,
        from: Where,
        to: Where,
        mode: RenameMode,
        heir: Option<usize>,
    },
    Open {
        who: usize,
        what: What,
        emptied: bool,
    },
    Close {
        mount: usize,
        what: What,
    },
    Lock {
        who: usize,
        what: What,
        ask: Ask,
        patience: Patience,
    },
    Unlock {
        mount: usize,
        what: What,
        ask: Ask,
    },
    Await {
        who: usize,
        at: Where,
        patience: Patience,
    },
    /// Whoever was told first that its wait has an end asks again.
    Come,
    /// The nth last call that ever waited asks again, told or not.
    Again {
        nth: usize,
    },
    /// It waits no longer.
    Withdraw {
        nth: usize,
    },
    Attend {
        mount: usize,
    },
    Leave {
        mount: usize,
    },
    Write {
        who: usize,
        what: What,
        offset: Option<u64>,
        length: usize,
    },
    Truncate {
        who: usize,
        what: What,
        size: u64,
    },
    Change {
        who: usize,
        what: What,
        mode: Option<u16>,
        mtime: Option<i64>,
    },
    SetTtl {
        who: usize,
        what: What,
        ttl: Ttl,
    },
    SetDefaultTtl {
        who: usize,
        what: What,
        ttl: Option<Ttl>,
    },
    Break {
        who: usize,
        what: What,
        right: bool,
    },
    Transfer {
        who: usize,
        what: What,
        heir: usize,
    },
    Begin {
        who: usize,
    },
    End {
        who: Option<usize>,
        session: usize,
    },
    Merge {
        who: usize,
        from: usize,
        to: usize,
    },
    Touch {
        who: usize,
        session: usize,
    },
    SetSessionTtl {
        who: usize,
        session: usize,
        ttl: Ttl,
    },
    Renew {
        sessions: Vec<usize>,
    },
    MarkEnded {
        sessions: Vec<usize>,
    },
    Sweep {
        limit: usize,
    },
    /// The store is closed and opened again, where it keeps anything.
    Reopen,
}

/// What is asked of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) style: Style,
    pub(crate) mode: Mode,
    /// Which of [`RANGES`]; flock(2) locks all.
    pub(crate) range: usize,
    pub(crate) key: u64,
}

impl Ask {
    fn range(&self) -> Range {
        let (first, last) = RANGES[self.range];
        match self.style {
            Style::Flock => Range::WHOLE,
            Style::Fcntl => Range::new(first, last).expect("not backwards"),
        }
    }

    fn claim(&self) -> Claim {
        let Self { style, mode, key, .. } = *self;
        Claim { style, mode, range: self.range(), key, pid: 7 }
    }
}

/// Whether a call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    None,
    /// It waits, and others of its session could let go of something meanwhile.
    InCompany,
    Alone,
}

/// xorshift64*, from Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled".
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        // Neighbouring seeds shall not begin alike, and 0 is the one state that must not be.
        Self((seed ^ 0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9) | 1)
    }

    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, sides: usize) -> usize {
        usize::try_from((self.roll() >> 33) % sides as u64).expect("below a usize")
    }

    pub(crate) fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    fn place(&mut self) -> Where {
        if self.chance(12) {
            return Where::Below(self.below(24), self.below(NAMES.len()));
        }
        let depth = self.pick(&[1, 1, 1, 2, 2, 3]);
        Where::At((0..depth).map(|_| self.below(NAMES.len())).collect())
    }

    fn thing(&mut self) -> What {
        match self.chance(3) {
            true => What::Seen(self.below(24)),
            false => What::At(self.place()),
        }
    }

    fn ttl(&mut self) -> Ttl {
        self.pick(&[Ttl::from_millis(400), secs(1), secs(4), secs(20), Ttl::Never])
    }

    fn sessions(&mut self) -> Vec<usize> {
        (0..=self.below(3)).map(|_| self.below(SESSIONS.len())).collect()
    }

    fn patience(&mut self) -> Patience {
        self.pick(&[Patience::None, Patience::None, Patience::InCompany, Patience::Alone, Patience::Alone])
    }

    fn ask(&mut self) -> Ask {
        Ask {
            style: self.pick(&[Style::Flock, Style::Fcntl]),
            mode: self.pick(&[Mode::Shared, Mode::Exclusive]),
            range: self.below(RANGES.len()),
            key: self.below(2) as u64,
        }
    }

    /// One of few things, so that many want the same.
    fn coveted(&mut self) -> Where {
        match self.chance(5) {
            true => self.place(),
            false => Where::At(vec![self.below(2)]),
        }
    }

    fn coveted_thing(&mut self) -> What {
        match self.chance(6) {
            true => self.thing(),
            false => What::At(self.coveted()),
        }
    }

    /// What is about advisory locks, and about waiting.
    fn crowded_act(&mut self, who: usize) -> Act {
        match self.below(40) {
            0..=11 => {
                let (ask, patience) = (self.ask(), self.patience());
                Act::Lock { who, what: self.coveted_thing(), ask, patience }
            }
            12..=15 => Act::Unlock { mount: who % MOUNTS, what: self.coveted_thing(), ask: self.ask() },
            16..=19 => Act::Await {
                who,
                at: self.coveted(),
                patience: self.pick(&[Patience::InCompany, Patience::Alone]),
            },
            20..=24 => Act::Come,
            25..=26 => Act::Again { nth: self.below(4) },
            27 => Act::Withdraw { nth: self.below(4) },
            28..=30 => Act::Attend { mount: who % MOUNTS },
            31 => Act::Leave { mount: self.below(MOUNTS) },
            32 => Act::Close { mount: who % MOUNTS, what: self.coveted_thing() },
            33 => Act::Open { who, what: self.coveted_thing(), emptied: false },
            34..=35 => Act::Unlink { who, at: self.coveted() },
            36..=37 => {
                let existing = self.pick(&[Existing::Refuse, Existing::Open]);
                Act::Make { who, at: self.coveted(), new: 4, existing }
            }
            38 => Act::Sweep { limit: 100 },
            _ => Act::Wait(Duration::from_millis(self.pick(&[10, 500, 1_000, 2_100, 7_000]))),
        }
    }

    fn act(&mut self, who: usize) -> Act {
        let existing =
            self.pick(&[Existing::Refuse, Existing::Refuse, Existing::Open, Existing::OpenEmptied]);
        let mode = self.pick(&[
            RenameMode::Replace,
            RenameMode::Replace,
            RenameMode::NoReplace,
            RenameMode::Exchange,
        ]);
        match self.below(60) {
            0..=9 => {
                Act::Wait(Duration::from_millis(self.pick(&[0, 10, 300, 900, 1_000, 2_500, 5_000, 9_000])))
            }
            10 => Act::Wait(Duration::from_secs(self.pick(&[30, 86_000, 86_400, 90_000]))),
            11..=24 => Act::Make { who, at: self.place(), new: self.below(6), existing },
            25..=27 => Act::Unlink { who, at: self.place() },
            28..=29 => Act::Rmdir { who, at: self.place() },
            30..=31 => Act::Link { who, what: self.thing(), to: self.place() },
            32..=36 => {
                let heir = self.chance(4).then(|| self.below(SESSIONS.len()));
                Act::Rename { who, from: self.place(), to: self.place(), mode, heir }
            }
            37..=38 => Act::Open { who, what: self.thing(), emptied: self.chance(3) },
            39 => Act::Close { mount: who % MOUNTS, what: self.thing() },
            40..=42 => {
                let offset = self.pick(&[None, Some(0), Some(3), Some(65_530), Some(1 << 40)]);
                Act::Write { who, what: self.thing(), offset, length: self.below(9) }
            }
            43 => Act::Truncate { who, what: self.thing(), size: self.pick(&[0, 0, 2, 70_000]) },
            44 => {
                let mode = self.chance(2).then_some(0o600);
                Act::Change { who, what: self.thing(), mode, mtime: self.chance(2).then_some(77) }
            }
            45..=46 => Act::SetTtl { who, what: self.thing(), ttl: self.ttl() },
            47 => {
                let ttl = self.chance(2).then(|| self.ttl());
                Act::SetDefaultTtl { who, what: self.thing(), ttl }
            }
            48 => Act::Break { who, what: self.thing(), right: !self.chance(3) },
            49 => Act::Transfer { who, what: self.thing(), heir: self.below(SESSIONS.len()) },
            50 => Act::Begin { who },
            51 => Act::End { who: (!self.chance(4)).then_some(who), session: self.below(SESSIONS.len()) },
            52 => Act::Merge { who, from: self.below(SESSIONS.len()), to: self.below(SESSIONS.len()) },
            53 => Act::Touch { who, session: self.below(SESSIONS.len()) },
            54 => Act::SetSessionTtl { who, session: self.below(SESSIONS.len()), ttl: self.ttl() },
            55..=56 => Act::Renew { sessions: self.sessions() },
            57 => Act::MarkEnded { sessions: self.sessions() },
            58 => Act::Sweep { limit: self.pick(&[1, 2, 100]) },
            _ => Act::Reopen,
        }
    }

    /// A history of `length` acts. Each has a few persons only, so that they meet. In every other one they want the
    /// same few things, and wait for them.
    pub(crate) fn history(&mut self, length: usize) -> Vec<Act> {
        let people = cast().len();
        let crowd: Vec<usize> = (0..2 + self.below(3)).map(|_| self.below(people)).collect();
        let crowded = self.chance(2).then_some(4);
        let mut acts = Vec::with_capacity(length);
        if crowded.is_some() {
            acts.extend((0..MOUNTS).map(|mount| Act::Attend { mount }));
        }
        while acts.len() < length {
            let who = self.pick(&crowd);
            acts.push(match crowded {
                Some(parts) if !self.chance(parts) => self.crowded_act(who),
                _ => self.act(who),
            });
        }
        acts
    }
}

/// Where acts are carried out: what they need to know of a table or a store.
pub(crate) trait Stand {
    fn now(&self) -> Now;
    fn lookup(&self, spot: &Spot) -> Option<Ino>;
    fn token(&self, ino: Ino) -> Option<Token>;
}

/// A table and its time, as a stand.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) table: LockTable,
    pub(crate) now: Now,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::at(dawn())
    }

    pub(crate) fn at(now: Now) -> Self {
        let epoch = u32::try_from(now.wall.secs()).expect("a time of this century");
        Self { table: LockTable::new(epoch, OWNER, OWNER, now), now }
    }
}

impl Stand for Bench {
    fn now(&self) -> Now {
        self.now
    }

    fn lookup(&self, spot: &Spot) -> Option<Ino> {
        self.table.lookup(self.now, spot).map(|attributes| attributes.ino)
    }

    fn token(&self, ino: Ino) -> Option<Token> {
        self.table.view(self.now, ino).map(|view| view.record.token)
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).expect("a name")
}

/// What a history has seen so far, and who its persons are.
#[derive(Debug)]
pub(crate) struct Story {
    cast: Vec<Caller>,
    seen: Vec<Ino>,
    /// The calls that may wait: each is told apart by its place.
    calls: Vec<Command>,
    told: VecDeque<WaitId>,
    /// Until when the mounts have a lease, as far as they took one.
    leases: [Option<BootTime>; MOUNTS],
}

impl Story {
    pub(crate) fn new() -> Self {
        Self {
            cast: cast(),
            seen: vec![Ino::ROOT],
            calls: Vec::new(),
            told: VecDeque::new(),
            leases: [None; MOUNTS],
        }
    }

    /// Everything seen, oldest first.
    pub(crate) fn seen(&self) -> &[Ino] {
        &self.seen
    }

    /// Takes note of what an answer shows.
    pub(crate) fn hear(&mut self, outcome: &Outcome) {
        if let Ok(Reply::Entry(attributes) | Reply::Opened(attributes)) = outcome
            && !self.seen.contains(&attributes.ino)
        {
            self.seen.push(attributes.ino);
        }
    }

    /// Takes note of who was told to ask again.
    pub(crate) fn hear_wakes(&mut self, wakes: &[WaitId]) {
        self.told.extend(wakes);
    }

    /// Whether a mount would open something though its lease has run out. A daemon begins it anew first; what is
    /// opened before that goes then, or when somebody sweeps.
    fn opens_unattended(&self, now: Now, command: &Command) -> bool {
        let (Command::Acquire { caller, new: New::File(Opening::Opened), .. } | Command::Open { caller, .. }) =
            command
        else {
            return false;
        };
        let lease = (0..MOUNTS).find(|nth| mount_id(*nth) == caller.mount).and_then(|nth| self.leases[nth]);
        lease.is_some_and(|end| end <= now.boot)
    }

    fn note_lease(&mut self, now: Now, act: &Act) {
        match act {
            Act::Attend { mount: nth } => {
                self.leases[*nth] = mount(*nth).ttl.span().map(|span| now.boot + span);
            }
            Act::Leave { mount } => self.leases[*mount] = None,
            _ => {}
        }
    }

    fn patience(&self, patience: Patience) -> Option<Waiting> {
        let request = self.calls.len() as u64;
        match patience {
            Patience::None => None,
            Patience::InCompany => Some(Waiting { request, alone: false }),
            Patience::Alone => Some(Waiting { request, alone: true }),
        }
    }

    fn call(&self, nth: usize) -> Option<&Command> {
        self.calls.iter().nth_back(nth)
    }

    fn spot(&self, stand: &impl Stand, place: &Where) -> Spot {
        match place {
            Where::Below(nth, last) => {
                Spot { parent: self.seen[nth % self.seen.len()], name: name(NAMES[*last]) }
            }
            Where::At(path) => {
                let (last, above) = path.split_last().expect("a path has a name");
                let nowhere = Ino::from_u64(999);
                let parent = above.iter().fold(Ino::ROOT, |parent, component| {
                    let spot = Spot { parent, name: name(NAMES[*component]) };
                    stand.lookup(&spot).unwrap_or(nowhere)
                });
                Spot { parent, name: name(NAMES[*last]) }
            }
        }
    }

    fn ino(&self, stand: &impl Stand, what: &What) -> Ino {
        match what {
            What::At(place) => stand.lookup(&self.spot(stand, place)).unwrap_or(Ino::from_u64(999)),
            What::Seen(nth) => self.seen[nth % self.seen.len()],
        }
    }

    /// The command that `act` is on this stand; `None` for what is no command.
    pub(crate) fn command(&mut self, stand: &impl Stand, act: &Act) -> Option<Command> {
        if *act == Act::Come {
            let told = self.told.pop_front()?;
            return self.calls.iter().find(|call| wait_id(call) == Some(told)).cloned();
        }
        let command = self.command_of(stand, act)?;
        if self.opens_unattended(stand.now(), &command) {
            return None;
        }
        self.note_lease(stand.now(), act);
        if wait_id(&command).is_some() && !self.calls.contains(&command) {
            self.calls.push(command.clone());
        }
        Some(command)
    }

    fn command_of(&self, stand: &impl Stand, act: &Act) -> Option<Command> {
        let by = |who: &usize| self.cast[*who].clone();
        let spot = |place: &Where| self.spot(stand, place);
        let ino = |what: &What| self.ino(stand, what);
        let id = |session: &usize| session_id(SESSIONS[*session]);
        Some(match act {
            Act::Wait(_) | Act::Reopen | Act::Come => return None,
            Act::Make { who, at, new, existing } => {
                let new = match new {
                    0..=1 => New::Directory,
                    2 => New::Symlink((*b"target").into()),
                    3 => New::File(Opening::Closed),
                    _ => New::File(Opening::Opened),
                };
                let existing = if matches!(new, New::File(_)) { *existing } else { Existing::Refuse };
                Command::Acquire { caller: by(who), spot: spot(at), new, mode: 0o644, existing }
            }
            Act::Unlink { who, at } => Command::Unlink { caller: by(who), spot: spot(at) },
            Act::Rmdir { who, at } => Command::Rmdir { caller: by(who), spot: spot(at) },
            Act::Link { who, what, to } => Command::Link { caller: by(who), ino: ino(what), spot: spot(to) },
            Act::Rename { who, from, to, mode, heir } => Command::Rename {
                caller: by(who),
                from: spot(from),
                to: spot(to),
                mode: *mode,
                heir: heir.as_ref().map(id),
            },
            Act::Open { who, what, emptied } => {
                Command::Open { caller: by(who), ino: ino(what), emptied: *emptied }
            }
            Act::Close { mount, what } => Command::Close { mount: mount_id(*mount), ino: ino(what) },
            Act::Lock { who, what, ask, patience } => {
                let (claim, waiting) = (ask.claim(), self.patience(*patience));
                Command::Lock { caller: by(who), ino: ino(what), claim, waiting }
            }
            Act::Unlock { mount, what, ask } => {
                let (mount, range) = (mount_id(*mount), ask.range());
                Command::Unlock { mount, ino: ino(what), style: ask.style, key: ask.key, range }
            }
            Act::Await { who, at, patience } => {
                let waiting = self.patience(*patience)?;
                Command::Await { caller: by(who), spot: spot(at), mode: 0o644, waiting }
            }
            Act::Again { nth } => self.call(*nth)?.clone(),
            Act::Withdraw { nth } => Command::Withdraw { id: wait_id(self.call(*nth)?)? },
            Act::Attend { mount: nth } => Command::Attend { mount: mount(*nth) },
            Act::Leave { mount } => Command::Leave { mounts: vec![mount_id(*mount)] },
            Act::Write { who, what, offset, length } => {
                let data = vec![b'x'; *length];
                Command::Write { caller: by(who), ino: ino(what), offset: *offset, data }
            }
            Act::Truncate { who, what, size } => {
                Command::Truncate { caller: by(who), ino: ino(what), size: *size }
            }
            Act::Change { who, what, mode, mtime } => {
                let mtime = mtime.map(|secs| WallTime::new(secs, 1));
                let change = AttributeChange { mode: *mode, uid: None, gid: None, mtime };
                Command::Change { caller: by(who), ino: ino(what), change }
            }
            Act::SetTtl { who, what, ttl } => Command::SetTtl { caller: by(who), ino: ino(what), ttl: *ttl },
            Act::SetDefaultTtl { who, what, ttl } => {
                Command::SetDefaultTtl { caller: by(who), ino: ino(what), ttl: *ttl }
            }
            Act::Break { who, what, right } => {
                let ino = ino(what);
                let token = stand.token(ino).filter(|_| *right).unwrap_or(Token::from_u64(5));
                Command::Break { caller: by(who), ino, token }
            }
            Act::Transfer { who, what, heir } => {
                Command::Transfer { caller: by(who), ino: ino(what), heir: id(heir) }
            }
            Act::Begin { who } => Command::BeginSession { caller: by(who) },
            Act::End { who, session } => {
                Command::EndSession { caller: who.as_ref().map(by), id: id(session) }
            }
            Act::Merge { who, from, to } => {
                Command::MergeSession { caller: by(who), from: id(from), to: id(to) }
            }
            Act::Touch { who, session } => {
                Command::TouchSession { caller: by(who), id: id(session), mtime: None }
            }
            Act::SetSessionTtl { who, session, ttl } => {
                Command::SetSessionTtl { caller: by(who), id: id(session), ttl: *ttl }
            }
            Act::Renew { sessions } => Command::Renew { sessions: sessions.iter().map(id).collect() },
            Act::MarkEnded { sessions } => Command::MarkEnded { sessions: sessions.iter().map(id).collect() },
            Act::Sweep { limit } => Command::Sweep { limit: *limit },
        })
    }
}

/// The call that a command is, where it may wait.
pub(crate) fn wait_id(command: &Command) -> Option<WaitId> {
    let (caller, waiting) = match command {
        Command::Lock { caller, waiting, .. } => (caller, (*waiting)?),
        Command::Await { caller, waiting, .. } => (caller, *waiting),
        _ => return None,
    };
    Some(WaitId { mount: caller.mount, request: waiting.request })
}
