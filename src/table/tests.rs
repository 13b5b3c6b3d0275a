//! What only the table itself shows: its changes, when it is to be swept, and what it takes for whole when it
//! is restored. What every store promises is tried in `tests/contract`, on the table too.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::BootId;
use crate::lock::{Claim, Mode, Mount, Origin, Range, SessionKind, Style};

const ALICE: u32 = 1_000;
const TTL: Duration = Duration::from_secs(300);

fn dawn() -> Now {
    Now { boot: BootTime::from_nanos(1_000_000_000), wall: WallTime::new(1_900_000_000, 0) }
}

fn after(span: Duration) -> Now {
    Now { boot: dawn().boot + span, wall: dawn().wall + span }
}

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).expect("a name")
}

fn id(text: &str) -> SessionId {
    SessionId::parse(text.as_bytes()).expect("a session name")
}

fn agent(text: &str) -> Caller {
    let origin = Origin { user: "alice".into(), host: "dev1".into(), pid: 7, command: "sh".into() };
    let (kind, ttl, begin) = (SessionKind::Named, Ttl::For(TTL), Begin::WhereMissing);
    let session = Claimant { id: id(text), kind, origin, login: None, ttl, begin };
    Caller {
        uid: ALICE,
        gid: ALICE,
        session: Arc::new(session),
        also: Vec::new(),
        mount: MountId::from_u64(1),
    }
}

fn below(parent: Ino, text: &str) -> Spot {
    Spot { parent, name: name(text) }
}

fn table() -> LockTable {
    LockTable::new(Token::EPOCH_MIN, 0, 0, dawn())
}

/// Makes an entry at `now`, and says what the step was.
fn make(table: &mut LockTable, now: Now, who: &str, spot: Spot, new: New) -> (Ino, Step) {
    let caller = agent(who);
    let step =
        table.execute(now, &Command::Acquire { caller, spot, new, mode: 0o600, existing: Existing::Refuse });
    match &step.outcome {
        Ok(Reply::Entry(attributes)) => (attributes.ino, step),
        other => panic!("it is free, and not {other:?}"),
    }
}

fn make_file(table: &mut LockTable, now: Now, who: &str, spot: Spot) -> Ino {
    make(table, now, who, spot, New::File(Opening::Closed)).0
}

fn make_directory(table: &mut LockTable, now: Now, who: &str, spot: Spot) -> Ino {
    make(table, now, who, spot, New::Directory).0
}

fn sweep(table: &mut LockTable, now: Now, limit: usize) -> usize {
    match table.execute(now, &Command::Sweep { limit }).outcome {
        Ok(Reply::Count(count)) => count,
        other => panic!("a sweep counts, and answers not {other:?}"),
    }
}

/// Records and sessions, as a store has them.
fn kept(table: &LockTable) -> (Vec<Record>, Vec<Session>) {
    let (numbers, ids) = table.contents();
    let records = numbers.into_iter().map(|ino| table.record(ino).expect("it is kept").clone());
    let sessions = ids.iter().map(|id| table.session_record(id).expect("it is kept").clone());
    (records.collect(), sessions.collect())
}

/// A directory `d` with a file `f` in it, both of the session `a`; and a file `g` of the session `b`.
fn furnished() -> LockTable {
    let mut table = table();
    let directory = make_directory(&mut table, dawn(), "a", below(Ino::ROOT, "d"));
    make_file(&mut table, dawn(), "a", below(directory, "f"));
    make_file(&mut table, dawn(), "b", below(Ino::ROOT, "g"));
    table
}

/// Restores the furnished table, damaged by `damage`.
fn restore(damage: impl FnOnce(&mut Vec<Record>, &mut Vec<Session>)) -> Result<LockTable, String> {
    let (mut records, mut sessions) = kept(&furnished());
    records.sort_by_key(|record| record.ino);
    sessions.sort_by_key(|session| session.ino);
    damage(&mut records, &mut sessions);
    LockTable::restore(Token::EPOCH_MIN + 1, records, sessions)
}

const ROOT: usize = 0;
const D: usize = 1;
const F: usize = 2;
const G: usize = 3;

#[test]
fn tokens_begin_in_the_epoch_that_is_given() {
    assert_eq!(table().last_token(), Token::new(Token::EPOCH_MIN, 0));
    assert_eq!(LockTable::new(5, 0, 0, dawn()).last_token().epoch(), Token::EPOCH_MIN);
    assert_eq!(restore(|_, _| {}).map(|table| table.last_token()), Ok(Token::new(Token::EPOCH_MIN + 1, 0)));
}

#[test]
fn a_restored_table_is_the_same() {
    let table = restore(|_, _| {}).expect("it is whole");
    let (mut before, mut restored) = (kept(&furnished()), kept(&table));
    for (records, sessions) in [&mut before, &mut restored] {
        records.sort_by_key(|record| record.ino);
        sessions.sort_by_key(|session| session.ino);
    }
    assert_eq!(restored, before);
    assert_eq!(table.next_check(), furnished().next_check());
    assert_eq!(table.counts().locks, 3);
}

#[test]
fn a_store_that_is_damaged_is_not_restored() {
    type Damage = fn(&mut Vec<Record>, &mut Vec<Session>);
    let damages: [(&str, Damage); 15] = [
        ("the root is missing", |records, _| drop(records.remove(ROOT))),
        ("the root has a name", |records, _| records[ROOT].places = records[D].places.clone()),
        ("which is no directory", |records, _| drop(records.remove(D))),
        ("which is no directory", |records, _| records[F].places[0].parent = records[G].ino),
        ("has no name", |records, _| records[F].places.clear()),
        ("has 2 names", |records, _| {
            let place = Place { name: name("e"), ..records[D].places[0].clone() };
            records[D].places.push(place);
        }),
        ("two records of inode", |records, _| records[G].ino = records[F].ino),
        ("two entries \"d\"", |records, _| records[G].places[0].name = name("d")),
        ("two entries at", |records, _| records[G].places[0].cookie = records[D].places[0].cookie),
        ("is held by nobody", |records, _| {
            records[G].session = None;
            records[G].body = Body::Symlink((*b"target").into());
        }),
        ("session b, which is missing", |_, sessions| drop(sessions.remove(1))),
        ("of a later epoch", |records, _| records[G].token = Token::new(Token::EPOCH_MIN + 1, 0)),
        ("of a later epoch", |records, _| records[G].places[0].cookie = Token::new(Token::EPOCH_MIN + 2, 0)),
        ("of a later epoch", |_, sessions| sessions[0].ino = Ino::from(Token::new(Token::EPOCH_MIN + 1, 0))),
        ("have one number", |_, sessions| sessions[1].ino = sessions[0].ino),
    ];
    for (nth, (what, damage)) in damages.into_iter().enumerate() {
        let error = restore(damage).err().unwrap_or_default();
        assert!(error.contains(what), "damage {nth}: '{error}' should be: '{what}'");
    }
}

/// Bug: two directories that stand in each other were taken in, and the path of either had no end.
#[test]
fn directories_that_stand_in_each_other_are_not_restored() {
    let error = restore(|records, _| records[D].places[0].parent = records[D].ino).err();
    assert_eq!(error.as_deref(), Some("1 directories stand in no directory below the root"));
}

#[test]
fn a_step_names_each_change_once() {
    let mut table = table();
    let (first, step) = make(&mut table, dawn(), "a", below(Ino::ROOT, "x"), New::File(Opening::Closed));
    assert_eq!(step.changes, [Change::Object(first), Change::Session(id("a"))]);
    let (second, step) = make(&mut table, dawn(), "a", below(Ino::ROOT, "y"), New::File(Opening::Closed));
    assert_eq!(step.changes, [Change::Object(second)], "within a second its session is not written again");
    let late = after(Duration::from_secs(1));
    let (third, step) = make(&mut table, late, "a", below(Ino::ROOT, "z"), New::File(Opening::Closed));
    assert_eq!(step.changes, [Change::Object(third), Change::Session(id("a"))]);
    let step = table.execute(late, &Command::Unlink { caller: agent("a"), spot: below(Ino::ROOT, "x") });
    assert_eq!(step.changes, [Change::Object(first)]);
}

#[test]
fn what_has_no_name_is_kept_apart_and_no_longer_than_it_is_open() {
    let mut table = table();
    let (ino, _) = make(&mut table, dawn(), "a", below(Ino::ROOT, "x"), New::File(Opening::Opened));
    let step = table.execute(dawn(), &Command::Unlink { caller: agent("a"), spot: below(Ino::ROOT, "x") });
    assert!(step.changes.contains(&Change::Object(ino)) && step.changes.contains(&Change::Nameless(ino)));
    assert_eq!((table.record(ino), table.contents().0.len()), (None, 1));
    assert_eq!(table.nameless(ino).and_then(|(_, left_by)| left_by), Some(&id("a")));
    let data = b"x".to_vec();
    let written = table.execute(dawn(), &Command::Write { caller: agent("a"), ino, offset: None, data });
    assert_eq!(written.changes, [Change::Nameless(ino)]);
    assert_eq!(table.stat(dawn(), ino).map(|attributes| attributes.size), Some(1));
    let mount = MountId::from_u64(1);
    let closed = table.execute(dawn(), &Command::Close { mount, ino });
    assert_eq!(closed.changes, [Change::Nameless(ino), Change::Share(ino, mount)]);
    assert_eq!((table.stat(dawn(), ino), table.nameless(ino)), (None, None));
}

#[test]
fn a_sweep_is_due_at_the_first_deadline() {
    let mut table = table();
    assert_eq!(table.next_check(), None);
    make_file(&mut table, dawn(), "a", below(Ino::ROOT, "x"));
    make_file(&mut table, after(TTL / 2), "b", below(Ino::ROOT, "y"));
    assert_eq!(table.next_check(), Some(after(TTL).boot));
    assert_eq!(sweep(&mut table, after(TTL), 100), 1);
    assert_eq!(table.next_check(), Some(after(TTL + TTL / 2).boot));
}

/// Bug: sessions were swept when something else was due, and else never.
#[test]
fn a_sweep_is_due_when_an_empty_session_is_over() {
    let mut table = table();
    table.execute(dawn(), &Command::BeginSession { caller: agent("a") }).outcome.expect("it is new");
    assert_eq!(table.next_check(), Some(after(TTL).boot));
    assert_eq!(sweep(&mut table, after(TTL), 100), 1);
    assert_eq!((table.next_check(), table.contents().1), (None, vec![]));
}

/// Bug: a directory past its deadline made the next sweep due at once, for as long as something stood in it.
#[test]
fn a_directory_that_outlives_its_deadline_is_not_swept_again_and_again() {
    let mut table = table();
    let directory = make_directory(&mut table, dawn(), "a", below(Ino::ROOT, "d.lock"));
    make_file(&mut table, after(TTL / 2), "b", below(directory, "x"));
    assert_eq!(sweep(&mut table, after(TTL), 100), 0);
    assert_eq!(table.next_check(), Some(after(TTL + TTL / 2).boot));
    assert_eq!(sweep(&mut table, after(TTL + TTL / 2), 100), 2, "it goes with its last entry");
    assert_eq!(table.contents().0, [Ino::ROOT]);
}

/// Bug: a directory took all that was dead in it along, however much that was.
#[test]
fn a_sweep_of_a_full_directory_keeps_to_its_limit() {
    let mut table = table();
    let directory = make_directory(&mut table, dawn(), "a", below(Ino::ROOT, "d.lock"));
    for nth in 0..10 {
        make_file(&mut table, dawn(), "a", below(directory, &format!("x{nth}")));
    }
    for left in [9, 6, 3] {
        assert_eq!(sweep(&mut table, after(TTL), 3), 3);
        assert_eq!(table.counts().locks, left - 1);
    }
    assert_eq!(sweep(&mut table, after(TTL), 3), 2);
}

/// Bug: idle sessions were ended in the order of a hash map, another in each process.
#[test]
fn sessions_that_are_over_end_in_the_order_in_which_they_began() {
    let names = ["q", "a", "z", "m", "c", "x"];
    for _ in 0..4 {
        let mut table = table();
        for name in names {
            table.execute(dawn(), &Command::BeginSession { caller: agent(name) }).outcome.expect("it is new");
        }
        let step = table.execute(after(TTL), &Command::Sweep { limit: 4 });
        let ended: Vec<_> = step.events.into_iter().filter_map(|event| event.session).collect();
        assert_eq!(ended, names[..4].iter().map(|name| id(name)).collect::<Vec<_>>());
    }
}

/// Bug: whether a directory is alive, and its end, took a frame of the stack for each level below it.
#[test]
fn a_tree_may_be_deeper_than_the_stack() {
    const DEPTH: usize = 2_000;
    let deep = || {
        let mut table = table();
        let mut directory = Ino::ROOT;
        for _ in 0..DEPTH {
            directory = make_directory(&mut table, dawn(), "a", below(directory, "d.lock"));
        }
        assert_eq!(table.lookup(after(TTL), &below(Ino::ROOT, "d.lock")), None);
        let step = table
            .execute(after(TTL), &Command::Rmdir { caller: agent("a"), spot: below(Ino::ROOT, "d.lock") });
        assert_eq!((step.outcome, step.events.len()), (Err(Refusal::NoEntry), DEPTH));
        assert_eq!(table.counts().locks, 0);
    };
    let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(deep).expect("a thread");
    thread.join().expect("it ends well");
}

/// Bug: only the first name of a lock was looked at.
#[test]
fn a_session_holds_what_has_any_name_below() {
    let mut table = furnished();
    let directory = table.lookup(dawn(), &below(Ino::ROOT, "d")).expect("it is there").ino;
    assert!(!table.holds_below(dawn(), &id("b"), directory));
    let ino = table.lookup(dawn(), &below(Ino::ROOT, "g")).expect("it is there").ino;
    let spot = below(directory, "h");
    table.execute(dawn(), &Command::Link { caller: agent("b"), ino, spot }).outcome.expect("it is free");
    assert!(table.holds_below(dawn(), &id("b"), directory));
    assert!(!table.holds_below(after(TTL), &id("b"), directory), "what is dead is not held");
}

#[test]
fn a_path_in_an_event_is_that_of_the_name_it_is_about() {
    let mut table = furnished();
    let ino = table.lookup(dawn(), &below(Ino::ROOT, "g")).expect("it is there").ino;
    let directory = table.lookup(dawn(), &below(Ino::ROOT, "d")).expect("it is there").ino;
    let spot = below(directory, "h");
    let link = Command::Link { caller: agent("b"), ino, spot: spot.clone() };
    let unlink = Command::Unlink { caller: agent("b"), spot };
    for (command, line) in [(link, "acquire session=b token="), (unlink, "release session=b token=")] {
        let event = table.execute(dawn(), &command).events.remove(0).to_string();
        assert!(event.contains(line) && event.ends_with(" path=d/h"), "{event}");
    }
}

fn mount(number: u64, ttl: Ttl) -> Mount {
    let (host, boot) = ("dev1".to_owned(), BootId::new("boot"));
    Mount { id: MountId::from_u64(number), host, pid: 100, start: 7, boot, ttl }
}

fn attend(table: &mut LockTable, now: Now, number: u64, ttl: Ttl) {
    let step = table.execute(now, &Command::Attend { mount: mount(number, ttl) });
    let lease = Change::Mount(MountId::from_u64(number));
    assert_eq!((step.outcome, step.changes), (Ok(Reply::Count(0)), vec![lease]));
}

/// flock(2), exclusive, of the open file description `key` on the mount of the same number.
fn flock(table: &mut LockTable, now: Now, ino: Ino, key: u64, request: Option<u64>) -> Step {
    let caller = Caller { mount: MountId::from_u64(key), ..agent("c") };
    let claim = Claim { style: Style::Flock, mode: Mode::Exclusive, range: Range::WHOLE, key, pid: 7 };
    let waiting = request.map(|request| Waiting { request, alone: false });
    table.execute(now, &Command::Lock { caller, ino, claim, waiting })
}

fn unlock(table: &mut LockTable, now: Now, ino: Ino, key: u64) -> Step {
    let (mount, style, range) = (MountId::from_u64(key), Style::Flock, Range::WHOLE);
    table.execute(now, &Command::Unlock { mount, ino, style, key, range })
}

#[test]
fn a_sweep_is_due_when_a_lease_or_a_reservation_runs_out() {
    let mut table = table();
    attend(&mut table, dawn(), 1, Ttl::Never);
    assert_eq!(table.next_check(), None);
    attend(&mut table, dawn(), 2, Ttl::For(TTL));
    assert_eq!(table.next_check(), Some(after(TTL).boot));
    let ino = make_file(&mut table, dawn(), "a", below(Ino::ROOT, "f"));
    assert_eq!(flock(&mut table, dawn(), ino, 1, None).outcome, Ok(Reply::Done));
    assert_eq!(flock(&mut table, dawn(), ino, 2, Some(1)).outcome, Ok(Reply::Waits));
    assert_eq!(
        unlock(&mut table, dawn(), ino, 1).wakes,
        [WaitId { mount: MountId::from_u64(2), request: 1 }]
    );
    let reserved = Duration::from_secs(2);
    assert_eq!(table.next_check(), Some(after(reserved).boot));
    sweep(&mut table, after(reserved), 100);
    assert_eq!(table.next_check(), Some(after(TTL).boot));
    sweep(&mut table, after(TTL), 100);
    assert_eq!((table.mounts().len(), table.counts().waits), (1, 0));
}

#[test]
fn what_mounts_have_is_kept_with_the_step_that_changes_it() {
    let mut table = table();
    let mounts = [1, 2].map(MountId::from_u64);
    attend(&mut table, dawn(), 1, Ttl::Never);
    attend(&mut table, dawn(), 2, Ttl::Never);
    let ino = make_file(&mut table, dawn(), "a", below(Ino::ROOT, "f"));
    let [first, second] = mounts.map(|mount| Change::Share(ino, mount));
    let wait = Change::Wait(WaitId { mount: mounts[1], request: 1 });
    assert_eq!(
        flock(&mut table, dawn(), ino, 1, None).changes,
        [Change::Object(ino), first.clone()],
        "nobody holds it from then on"
    );
    assert_eq!(flock(&mut table, dawn(), ino, 1, None).changes, [], "it has it already");
    assert_eq!(flock(&mut table, dawn(), ino, 2, Some(1)).changes, std::slice::from_ref(&wait));
    assert_eq!(flock(&mut table, dawn(), ino, 2, Some(1)).changes, [], "it has its place already");
    let late = after(Duration::from_secs(60));
    assert_eq!(unlock(&mut table, late, ino, 1).changes, std::slice::from_ref(&first));
    assert_eq!(flock(&mut table, late, ino, 2, Some(1)).changes, [second.clone(), wait]);
    assert_eq!(unlock(&mut table, late, ino, 2).changes, [Change::Object(ino), second]);
    assert_eq!(table.record(ino).map(|record| record.seen), Some(late.boot));
    for _ in 0..3 {
        assert_eq!(flock(&mut table, late, ino, 1, None).changes, std::slice::from_ref(&first));
        let unlocked = unlock(&mut table, late, ino, 1).changes;
        assert_eq!(unlocked, std::slice::from_ref(&first), "within a second the file is not written again");
    }
}

/// Bug: whoever began to wait behind a long queue had each in it looked at once for each other in it.
#[test]
fn a_long_queue_of_those_who_are_alone_is_no_deadlock() {
    let mut table = table();
    attend(&mut table, dawn(), 1, Ttl::Never);
    let ino = make_file(&mut table, dawn(), "a", below(Ino::ROOT, "f"));
    assert_eq!(flock(&mut table, dawn(), ino, 1, None).outcome, Ok(Reply::Done));
    let wait = |table: &mut LockTable, who: u64| {
        let caller = agent(&format!("w{who}"));
        let claim =
            Claim { style: Style::Flock, mode: Mode::Exclusive, range: Range::WHOLE, key: who + 10, pid: 7 };
        let waiting = Some(Waiting { request: who, alone: true });
        table.execute(dawn(), &Command::Lock { caller, ino, claim, waiting }).outcome
    };
    for who in 0..300 {
        assert_eq!(wait(&mut table, who), Ok(Reply::Waits));
    }
    assert_eq!(table.counts().waits, 300);
}
