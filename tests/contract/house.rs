//! A store to try things on, and words for what is tried.

use std::sync::Arc;
use std::time::Duration;

use lockfs::clock::{Clock, ManualClock, Now, WallTime};
use lockfs::lock::{
    Body, Claim, Grant, Ino, Mode, Mount, MountId, Name, Range, Record, Session, Style, Token, Ttl, WaitId,
};
use lockfs::store::LockStore;
use lockfs::table::{
    AttributeChange, Caller, Command, Existing, New, Opening, Outcome, Refusal, RenameMode, Reply, Spot,
    View, Waiting,
};

use crate::differential::wakes_of;
use crate::shadow::ALL;
use crate::world::{MOUNTS, dawn, mount, mount_id, name, session_id};

/// What a store stands on: where it is opened, and opened again.
///
/// To put a store under contract, say here how it is opened, and add one line to `main.rs`.
pub(crate) trait Ground {
    /// A place where no store has been.
    fn lay() -> Self
    where
        Self: Sized;

    /// Opens the store there; its root belongs to [`OWNER`](crate::world::OWNER). One that keeps things has
    /// what it had when it was last closed.
    fn open(&mut self, clock: Arc<ManualClock>) -> Box<dyn LockStore>;

    /// The moment at which histories begin there.
    fn dawn() -> Now
    where
        Self: Sized,
    {
        dawn()
    }

    /// It is so late now.
    fn set(&self, _now: Now) {}
}

/// A store on its ground, and its time.
#[derive(Debug)]
pub(crate) struct House<G> {
    ground: G,
    clock: Arc<ManualClock>,
    store: Option<Box<dyn LockStore>>,
}

/// What may be done in a house, whatever it stands on.
pub(crate) trait Tenant {
    fn store(&self) -> &dyn LockStore;
    fn wait(&self, span: Duration);
    /// Closes the store, and opens it again when it was closed for so long.
    fn reopen(&mut self, closed: Duration);
}

impl<G: Ground> House<G> {
    pub(crate) fn new() -> Self {
        let mut ground = G::lay();
        let clock = Arc::new(ManualClock::new(G::dawn()));
        ground.set(clock.now());
        let store = Some(ground.open(Arc::clone(&clock)));
        Self { ground, clock, store }
    }
}

impl<G: Ground> Tenant for House<G> {
    fn store(&self) -> &dyn LockStore {
        self.store.as_deref().expect("it is open")
    }

    fn wait(&self, span: Duration) {
        self.clock.advance(span);
        self.ground.set(self.clock.now());
    }

    fn reopen(&mut self, closed: Duration) {
        self.store().close().expect("it closes");
        self.store = None;
        self.wait(closed);
        self.store = Some(self.ground.open(Arc::clone(&self.clock)));
    }
}

pub(crate) type Answer<T> = Result<T, Refusal>;

/// Acts by path, as a user has them; answers are the numbers of what they are about.
impl dyn Tenant + '_ {
    pub(crate) fn ask(&self, command: Command) -> Outcome {
        self.store().execute(&command).expect("the store works")
    }

    /// For acts that answer with an entry.
    fn ask_entry(&self, command: Command) -> Answer<Ino> {
        self.ask(command).map(|reply| match reply {
            Reply::Entry(attributes) | Reply::Opened(attributes) => attributes.ino,
            other => panic!("an entry is answered, not {other:?}"),
        })
    }

    fn ask_session(&self, command: Command) -> Answer<Session> {
        self.ask(command).map(|reply| match reply {
            Reply::Session(session) => *session,
            other => panic!("a session is answered, not {other:?}"),
        })
    }

    fn ask_done(&self, command: Command) -> Answer<()> {
        self.ask(command).map(|reply| assert_eq!(reply, Reply::Done))
    }

    fn ask_count(&self, command: Command) -> usize {
        match self.ask(command) {
            Ok(Reply::Count(count)) => count,
            other => panic!("a number is answered, not {other:?}"),
        }
    }

    pub(crate) fn wait_secs(&self, secs: u64) {
        self.wait(Duration::from_secs(secs));
    }

    pub(crate) fn spot(&self, path: &str) -> Spot {
        let mut names: Vec<&str> = path.split('/').collect();
        let last = names.pop().expect("a path has a name");
        let parent = names.iter().fold(Ino::ROOT, |parent, component| {
            let spot = Spot { parent, name: name(component) };
            self.store().lookup(&spot).expect("the store works").map_or(Ino::from_u64(999), |found| found.ino)
        });
        Spot { parent, name: name(last) }
    }

    pub(crate) fn find(&self, path: &str) -> Option<Ino> {
        self.store().lookup(&self.spot(path)).expect("the store works").map(|found| found.ino)
    }

    pub(crate) fn is_free(&self, path: &str) -> bool {
        self.find(path).is_none()
    }

    pub(crate) fn ino(&self, path: &str) -> Ino {
        match path {
            "/" => Ino::ROOT,
            _ => self.find(path).unwrap_or_else(|| panic!("nothing is at {path}")),
        }
    }

    pub(crate) fn view_of(&self, ino: Ino) -> Option<View> {
        self.store().view(ino).expect("the store works")
    }

    pub(crate) fn view(&self, path: &str) -> View {
        self.view_of(self.ino(path)).expect("what is found is there")
    }

    pub(crate) fn record(&self, path: &str) -> Record {
        self.view(path).record
    }

    pub(crate) fn token(&self, path: &str) -> Token {
        self.record(path).token
    }

    pub(crate) fn holder(&self, path: &str) -> Option<String> {
        self.record(path).session.map(|id| id.to_string())
    }

    pub(crate) fn ttl(&self, path: &str) -> Ttl {
        self.record(path).ttl
    }

    pub(crate) fn nlink(&self, path: &str) -> u32 {
        self.view(path).attributes.nlink
    }

    pub(crate) fn note(&self, path: &str) -> String {
        match self.record(path).body {
            Body::File(note) => String::from_utf8(note).expect("notes here are text"),
            other => panic!("{path} is {other:?}"),
        }
    }

    fn names(entries: Vec<lockfs::table::Entry>) -> Vec<Name> {
        entries.into_iter().map(|entry| entry.name).collect()
    }

    pub(crate) fn list(&self, path: &str) -> Vec<Name> {
        let entries = self.store().list(self.ino(path), None, ALL).expect("the store works");
        Self::names(entries.expect("a directory"))
    }

    pub(crate) fn list_held(&self, session: &str, path: &str) -> Vec<Name> {
        let listed = self.store().list_held(&session_id(session), self.ino(path), None, ALL);
        Self::names(listed.expect("the store works"))
    }

    pub(crate) fn session(&self, id: &str) -> Option<Session> {
        self.store().session(&session_id(id)).expect("the store works")
    }

    pub(crate) fn sessions(&self) -> Vec<String> {
        let sessions = self.store().list_sessions(None, ALL).expect("the store works");
        sessions.into_iter().map(|session| session.id.to_string()).collect()
    }

    /// What happened so far, as `acquire a/b dev1-1`.
    pub(crate) fn events(&self) -> Vec<String> {
        let page = self.store().events(0, ALL).expect("the store works");
        let text = |event: lockfs::lock::Event| {
            let session = event.session.map(|id| id.to_string()).unwrap_or_default();
            format!("{} {} {session}", event.kind.as_str(), event.path)
        };
        page.events.into_iter().map(text).collect()
    }

    fn make(&self, who: &Caller, path: &str, new: New, existing: Existing) -> Answer<Ino> {
        let (caller, spot) = (who.clone(), self.spot(path));
        self.ask_entry(Command::Acquire { caller, spot, new, mode: 0o644, existing })
    }

    /// `O_CREAT|O_EXCL`.
    pub(crate) fn create(&self, who: &Caller, path: &str) -> Answer<Ino> {
        self.make(who, path, New::File(Opening::Closed), Existing::Refuse)
    }

    /// The same, and the file stays open.
    pub(crate) fn create_open(&self, who: &Caller, path: &str) -> Answer<Ino> {
        self.make(who, path, New::File(Opening::Opened), Existing::Refuse)
    }

    /// `O_CREAT`.
    pub(crate) fn open_or_create(&self, who: &Caller, path: &str) -> Answer<Ino> {
        self.make(who, path, New::File(Opening::Opened), Existing::Open)
    }

    /// `O_CREAT|O_TRUNC`.
    pub(crate) fn open_emptied(&self, who: &Caller, path: &str) -> Answer<Ino> {
        self.make(who, path, New::File(Opening::Opened), Existing::OpenEmptied)
    }

    pub(crate) fn mkdir(&self, who: &Caller, path: &str) -> Answer<Ino> {
        self.make(who, path, New::Directory, Existing::Refuse)
    }

    pub(crate) fn symlink(&self, who: &Caller, path: &str) -> Answer<Ino> {
        self.make(who, path, New::Symlink((*b"target").into()), Existing::Refuse)
    }

    pub(crate) fn unlink(&self, who: &Caller, path: &str) -> Answer<()> {
        self.ask_done(Command::Unlink { caller: who.clone(), spot: self.spot(path) })
    }

    pub(crate) fn rmdir(&self, who: &Caller, path: &str) -> Answer<()> {
        self.ask_done(Command::Rmdir { caller: who.clone(), spot: self.spot(path) })
    }

    pub(crate) fn link(&self, who: &Caller, from: &str, to: &str) -> Answer<Ino> {
        self.link_of(who, self.ino(from), to)
    }

    pub(crate) fn link_of(&self, who: &Caller, ino: Ino, to: &str) -> Answer<Ino> {
        self.ask_entry(Command::Link { caller: who.clone(), ino, spot: self.spot(to) })
    }

    pub(crate) fn rename(&self, who: &Caller, from: &str, to: &str) -> Answer<Ino> {
        self.rename_as(who, from, to, RenameMode::Replace, None)
    }

    pub(crate) fn rename_no_replace(&self, who: &Caller, from: &str, to: &str) -> Answer<Ino> {
        self.rename_as(who, from, to, RenameMode::NoReplace, None)
    }

    pub(crate) fn exchange(&self, who: &Caller, from: &str, to: &str) -> Answer<Ino> {
        self.rename_as(who, from, to, RenameMode::Exchange, None)
    }

    /// `mv .sessions/A/from .sessions/heir/to`.
    pub(crate) fn rename_to(&self, who: &Caller, from: &str, to: &str, heir: &str) -> Answer<Ino> {
        self.rename_as(who, from, to, RenameMode::Replace, Some(heir))
    }

    fn rename_as(
        &self,
        who: &Caller,
        from: &str,
        to: &str,
        mode: RenameMode,
        heir: Option<&str>,
    ) -> Answer<Ino> {
        let (from, to, heir) = (self.spot(from), self.spot(to), heir.map(session_id));
        self.ask_entry(Command::Rename { caller: who.clone(), from, to, mode, heir })
    }

    pub(crate) fn open(&self, who: &Caller, path: &str) -> Answer<Ino> {
        self.open_of(who, self.ino(path))
    }

    pub(crate) fn open_of(&self, who: &Caller, ino: Ino) -> Answer<Ino> {
        self.ask_entry(Command::Open { caller: who.clone(), ino, emptied: false })
    }

    pub(crate) fn close(&self, ino: Ino) {
        self.ask_done(Command::Close { mount: MountId::from_u64(1), ino }).expect("closing is never refused");
    }

    pub(crate) fn write(&self, who: &Caller, path: &str, text: &str) -> Answer<Ino> {
        self.write_to(who, self.ino(path), Some(0), text.as_bytes())
    }

    pub(crate) fn write_to(&self, who: &Caller, ino: Ino, offset: Option<u64>, data: &[u8]) -> Answer<Ino> {
        let data = data.to_vec();
        self.ask_entry(Command::Write { caller: who.clone(), ino, offset, data })
    }

    pub(crate) fn truncate(&self, who: &Caller, path: &str, size: u64) -> Answer<Ino> {
        self.ask_entry(Command::Truncate { caller: who.clone(), ino: self.ino(path), size })
    }

    fn change(&self, who: &Caller, path: &str, change: AttributeChange) -> Answer<Ino> {
        self.ask_entry(Command::Change { caller: who.clone(), ino: self.ino(path), change })
    }

    pub(crate) fn chmod(&self, who: &Caller, path: &str, mode: u16) -> Answer<Ino> {
        self.change(who, path, AttributeChange { mode: Some(mode), ..AttributeChange::default() })
    }

    pub(crate) fn chown(&self, who: &Caller, path: &str, uid: u32) -> Answer<Ino> {
        self.change(
            who,
            path,
            AttributeChange { uid: Some(uid), gid: Some(uid), ..AttributeChange::default() },
        )
    }

    pub(crate) fn utimes(&self, who: &Caller, path: &str, mtime: WallTime) -> Answer<Ino> {
        self.change(who, path, AttributeChange { mtime: Some(mtime), ..AttributeChange::default() })
    }

    pub(crate) fn set_ttl(&self, who: &Caller, path: &str, ttl: Ttl) -> Answer<Ino> {
        self.ask_entry(Command::SetTtl { caller: who.clone(), ino: self.ino(path), ttl })
    }

    pub(crate) fn set_default_ttl(&self, who: &Caller, path: &str, ttl: Option<Ttl>) -> Answer<Ino> {
        self.ask_entry(Command::SetDefaultTtl { caller: who.clone(), ino: self.ino(path), ttl })
    }

    pub(crate) fn break_lock(&self, who: &Caller, path: &str, token: Token) -> Answer<()> {
        self.ask_done(Command::Break { caller: who.clone(), ino: self.ino(path), token })
    }

    pub(crate) fn transfer(&self, who: &Caller, path: &str, heir: &str) -> Answer<Ino> {
        self.ask_entry(Command::Transfer { caller: who.clone(), ino: self.ino(path), heir: session_id(heir) })
    }

    pub(crate) fn begin(&self, who: &Caller) -> Answer<Session> {
        self.ask_session(Command::BeginSession { caller: who.clone() })
    }

    pub(crate) fn end(&self, who: &Caller, id: &str) -> Answer<()> {
        self.ask_done(Command::EndSession { caller: Some(who.clone()), id: session_id(id) })
    }

    /// The daemon itself ends a session.
    pub(crate) fn end_by_daemon(&self, id: &str) -> Answer<()> {
        self.ask_done(Command::EndSession { caller: None, id: session_id(id) })
    }

    pub(crate) fn merge(&self, who: &Caller, from: &str, to: &str) -> Answer<Session> {
        self.ask_session(Command::MergeSession {
            caller: who.clone(),
            from: session_id(from),
            to: session_id(to),
        })
    }

    pub(crate) fn touch_session(&self, who: &Caller, id: &str, mtime: Option<WallTime>) -> Answer<Session> {
        self.ask_session(Command::TouchSession { caller: who.clone(), id: session_id(id), mtime })
    }

    pub(crate) fn set_session_ttl(&self, who: &Caller, id: &str, ttl: Ttl) -> Answer<Session> {
        self.ask_session(Command::SetSessionTtl { caller: who.clone(), id: session_id(id), ttl })
    }

    pub(crate) fn renew(&self, id: &str) -> usize {
        self.ask_count(Command::Renew { sessions: vec![session_id(id)] })
    }

    pub(crate) fn mark_ended(&self, id: &str) -> usize {
        self.ask_count(Command::MarkEnded { sessions: vec![session_id(id)] })
    }

    pub(crate) fn sweep(&self, limit: usize) -> usize {
        self.ask_count(Command::Sweep { limit })
    }
}

/// Bytes of a file.
pub(crate) fn bytes(first: u64, last: u64) -> Range {
    Range::new(first, last).expect("not backwards")
}

/// flock(2) through the open file description `key`.
pub(crate) fn flock(mode: Mode, key: u64) -> Claim {
    Claim { style: Style::Flock, mode, range: Range::WHOLE, key, pid: 7 }
}

/// fcntl(2) by the process `key`.
pub(crate) fn fcntl(mode: Mode, key: u64, range: Range) -> Claim {
    Claim { style: Style::Fcntl, mode, range, key, pid: 7 }
}

/// Waits for the nth request of the caller's mount; others of its session could let go of something meanwhile.
pub(crate) fn waiting(request: u64) -> Option<Waiting> {
    Some(Waiting { request, alone: false })
}

/// The same, and nobody else of the session could.
pub(crate) fn waiting_alone(request: u64) -> Option<Waiting> {
    Some(Waiting { request, alone: true })
}

/// The answer to what is granted, and to whoever waits.
pub(crate) const GRANTED: Outcome = Ok(Reply::Done);
pub(crate) const WAITS: Outcome = Ok(Reply::Waits);

/// Locks, mounts and queues. Mounts are counted from 0.
impl dyn Tenant + '_ {
    /// Says that mounts are there, which nobody gives up.
    pub(crate) fn attend_all(&self) {
        for nth in 0..MOUNTS {
            self.attend(nth, Ttl::Never);
        }
    }

    /// Whether the lease was there already.
    pub(crate) fn attend(&self, nth: usize, ttl: Ttl) -> bool {
        self.ask_count(Command::Attend { mount: Mount { ttl, ..mount(nth) } }) == 1
    }

    pub(crate) fn leave(&self, nth: usize) {
        self.ask_done(Command::Leave { mounts: vec![mount_id(nth)] }).expect("leaving is never refused");
    }

    pub(crate) fn close_on(&self, nth: usize, ino: Ino) {
        self.ask_done(Command::Close { mount: mount_id(nth), ino }).expect("closing is never refused");
    }

    pub(crate) fn lock(&self, who: &Caller, path: &str, claim: Claim, waiting: Option<Waiting>) -> Outcome {
        self.lock_of(who, self.ino(path), claim, waiting)
    }

    pub(crate) fn lock_of(&self, who: &Caller, ino: Ino, claim: Claim, waiting: Option<Waiting>) -> Outcome {
        self.ask(Command::Lock { caller: who.clone(), ino, claim, waiting })
    }

    /// Lets go of what was claimed so, of the range of `claim`.
    pub(crate) fn unlock(&self, who: &Caller, path: &str, claim: Claim) {
        self.unlock_of(who, self.ino(path), claim);
    }

    pub(crate) fn unlock_of(&self, who: &Caller, ino: Ino, claim: Claim) {
        let Claim { style, key, range, .. } = claim;
        self.ask_done(Command::Unlock { mount: who.mount, ino, style, key, range })
            .expect("unlocking is never refused");
    }

    /// Opens `.wait/path` for writing.
    pub(crate) fn await_name(
        &self,
        who: &Caller,
        path: &str,
        waiting: Option<Waiting>,
    ) -> Answer<Option<Ino>> {
        self.await_at(who, self.spot(path), waiting)
    }

    pub(crate) fn await_at(&self, who: &Caller, spot: Spot, waiting: Option<Waiting>) -> Answer<Option<Ino>> {
        let waiting = waiting.expect("whoever opens it waits");
        self.ask(Command::Await { caller: who.clone(), spot, mode: 0o644, waiting }).map(
            |reply| match reply {
                Reply::Entry(attributes) => Some(attributes.ino),
                Reply::Waits => None,
                other => panic!("an entry or a place is answered, not {other:?}"),
            },
        )
    }

    pub(crate) fn withdraw(&self, who: &Caller, request: u64) {
        let id = WaitId { mount: who.mount, request };
        self.ask_done(Command::Withdraw { id }).expect("withdrawing is never refused");
    }

    /// These were told to ask again since this was asked last, and nobody else: mounts and requests.
    #[track_caller]
    pub(crate) fn woken<const N: usize>(&self, expected: [(&Caller, u64); N]) {
        let mut expected = expected.map(|(who, request)| WaitId { mount: who.mount, request }).to_vec();
        let mut wakes = wakes_of(self.store(), N);
        wakes.sort_by_key(|id| id.mount);
        expected.sort_by_key(|id| id.mount);
        assert_eq!(wakes, expected);
    }

    /// Who waits for a name, or for a lock on what stands there, as requests.
    pub(crate) fn queue(&self, path: &str) -> Vec<u64> {
        let waiters = self.store().queue(&self.spot(path)).expect("the store works");
        waiters.into_iter().map(|waiter| waiter.id.request).collect()
    }

    /// The locks on a file: mode, the first and the last byte, owner; in the order of these.
    pub(crate) fn grants(&self, path: &str) -> Vec<(Mode, u64, u64, u64)> {
        let mut grants = self.view(path).grants;
        grants.sort_by_key(|grant| (grant.range, grant.owner));
        let line = |grant: Grant| (grant.mode, grant.range.first(), grant.range.last(), grant.owner.key);
        grants.into_iter().map(line).collect()
    }

    pub(crate) fn mounts(&self) -> Vec<Mount> {
        let mut mounts = self.store().mounts().expect("the store works");
        mounts.sort_by_key(|mount| mount.id);
        mounts
    }
}
