//! Requests asked again of a hybrid store by whoever took over the mount: whichever of the two decided them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lockfs::clock::{Clock, SystemClock};
use lockfs::lock::{
    Claim, Ino, Mode, Mount, MountId, Name, Origin, Range, RequestId, SessionId, SessionKind, Style, Ttl,
};
use lockfs::store::hybrid::{HybridStore, Options, Policy};
use lockfs::store::redis::{Acks, Endpoint, Options as OnRedis};
use lockfs::store::{Durability, LockStore, StoreError, Tenure};
use lockfs::table::{Begin, Caller, Claimant, Command, Existing, New, Opening, Outcome, Reply, Spot};

use super::servers::redis::RedisServer;

const MOUNT: MountId = MountId::from_u64(7);

fn open(dir: &Path, url: &str, tenure: Tenure) -> HybridStore {
    let endpoint = Endpoint::parse(url).expect("a URL");
    let endpoint = Endpoint {
        connect_timeout: Duration::from_millis(300),
        command_timeout: Duration::from_millis(300),
        ..endpoint
    };
    let options = Options {
        redis: OnRedis {
            endpoint,
            acks: Acks::default(),
            namespace: "again".to_owned(),
            host: "dev1".to_owned(),
            machine: "machine".to_owned(),
            owner: (0, 0),
            state: Some(dir.join("again.redis")),
            tenure,
            window: Duration::from_secs(30),
        },
        dir: dir.join("again"),
        durability: Durability::Process,
        state: dir.join("again"),
        policy: Policy::Local,
    };
    HybridStore::open(&options, Arc::new(SystemClock) as Arc<dyn Clock>)
        .expect("it opens, with redis or without")
}

fn caller() -> Caller {
    let origin = Origin { user: "alice".into(), host: "dev1".into(), pid: 7, command: "make".into() };
    let claimant = Claimant {
        id: SessionId::parse(b"agent").expect("a session name"),
        kind: SessionKind::Named,
        origin,
        login: None,
        ttl: Ttl::For(Duration::from_secs(300)),
        begin: Begin::WhereMissing,
    };
    Caller { uid: 0, gid: 0, session: Arc::new(claimant), also: Vec::new(), mount: MOUNT }
}

fn attend(store: &dyn LockStore) -> Outcome {
    let mount = Mount {
        id: MOUNT,
        host: "dev1".into(),
        pid: 1,
        start: 1,
        boot: lockfs::clock::BootId::new("boot"),
        ttl: Ttl::For(Duration::from_secs(300)),
    };
    store.execute(&Command::Attend { mount }).expect("somebody decides")
}

fn acquire(store: &dyn LockStore, number: u64, name: &str) -> Result<Outcome, StoreError> {
    let command = Command::Acquire {
        caller: caller(),
        spot: Spot { parent: Ino::ROOT, name: Name::parse(name.as_bytes()).expect("a name") },
        new: New::File(Opening::Closed),
        mode: 0o644,
        existing: Existing::Refuse,
    };
    store.execute_for(Some(RequestId { mount: MOUNT, number }), &command)
}

const LOCK: Claim = Claim { style: Style::Flock, mode: Mode::Exclusive, range: Range::WHOLE, key: 5, pid: 7 };

#[test]
fn what_a_host_alone_has_answered_and_locked_its_next_daemon_knows() {
    let dir = tempfile::tempdir().expect("a directory");
    // Nobody listens there.
    let url = "redis://127.0.0.1:1";
    let store = open(dir.path(), url, Tenure::Begun(MOUNT));
    attend(&store).expect("it is there");
    // By a thread of its own, which was about to answer.
    let asked = std::thread::scope(|scope| scope.spawn(|| acquire(&store, 2, "a")).join());
    let Ok(Ok(Ok(Reply::Entry(made)))) = asked else { panic!("this host decides, and not {asked:?}") };
    let lock = |store: &dyn LockStore, number| {
        let lock = Command::Lock { caller: caller(), ino: made.ino, claim: LOCK, waiting: None };
        store.execute_for(Some(RequestId { mount: MOUNT, number }), &lock)
    };
    assert_eq!(lock(&store, 4), Ok(Ok(Reply::Done)));
    drop(store);
    let store = open(dir.path(), url, Tenure::TakenOver(MOUNT));
    assert_eq!(attend(&store), Ok(Reply::Count(1)), "its lease goes on");
    assert_eq!(acquire(&store, 2, "a"), Ok(Ok(Reply::Entry(made))));
    let grants =
        |store: &dyn LockStore| store.view(made.ino).expect("it is here").expect("it is there").grants.len();
    assert_eq!(grants(&store), 1);
    // What Redis may have been asked before nobody can tell.
    let unknown = store.remembers(RequestId { mount: MOUNT, number: 6 });
    assert!(matches!(unknown, Err(StoreError::Timeout(_))), "{unknown:?}");
    drop(store);
    let store = open(dir.path(), url, Tenure::Begun(MountId::from_u64(8)));
    assert_eq!(grants(&store), 0, "nobody serves that mount any more");
}

#[test]
fn what_redis_has_answered_the_next_daemon_of_the_host_knows() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = RedisServer::options().start();
    let url = server.unix_url();
    let store = open(dir.path(), &url, Tenure::Begun(MOUNT));
    attend(&store).expect("it is there");
    let made = acquire(&store, 2, "a");
    assert!(matches!(made, Ok(Ok(_))), "{made:?}");
    drop(store);
    let store = open(dir.path(), &url, Tenure::TakenOver(MOUNT));
    assert_eq!(store.remembers(RequestId { mount: MOUNT, number: 2 }), Ok(true));
    assert_eq!(acquire(&store, 2, "a"), made);
    assert_eq!(store.remembers(RequestId { mount: MOUNT, number: 4 }), Ok(false));
    assert!(matches!(acquire(&store, 4, "a"), Ok(Err(_))));
}

/// Bug: what the daemon before did not know the outcome of was answered as given, and then undone.
#[test]
fn what_is_to_be_undone_is_no_answer() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = RedisServer::options().start();
    let url = server.unix_url();
    let store = open(dir.path(), &url, Tenure::Begun(MOUNT));
    assert!(matches!(acquire(&store, 2, "a"), Ok(Ok(_))));
    drop(store);
    // As it would have noted it, had the answer been lost.
    let mut link = server.connect().expect("the server is there");
    let [key] = redis::cmd("KEYS")
        .arg("lockfs:{again}:q:*")
        .query::<[String; 1]>(&mut link)
        .expect("one daemon was answered");
    let answers: std::collections::HashMap<String, Vec<u8>> =
        redis::cmd("HGETALL").arg(&key).query(&mut link).expect("it was answered");
    let seat =
        answers.keys().find_map(|field| field.strip_prefix('k')).expect("one of the kernel's requests");
    let number = f64::from_be_bytes(answers[seat][..8].try_into().expect("a number"));
    let known = std::fs::read_to_string(dir.path().join("again.redis.namespace")).expect("it was noted");
    let generation = known.split(' ').next().expect("a generation");
    let line = format!("{generation} {seat} {number} {key} .\n");
    std::fs::write(dir.path().join("again.redis.undo"), line).expect("it is ours");
    let store = open(dir.path(), &url, Tenure::TakenOver(MOUNT));
    assert_eq!(store.remembers(RequestId { mount: MOUNT, number: 2 }), Ok(false));
    assert!(matches!(acquire(&store, 2, "a"), Ok(Ok(_))), "it is free");
}
