//! `--acks N`: a grant counts when N replicas have it, or it is undone.

use std::thread;
use std::time::{Duration, Instant};

use lockfs::lock::EventKind;
use lockfs::store::StoreError;
use lockfs::table::{Command, Reply};

use crate::proxy::{Loss, Proxy};
use crate::servers::net::Net;
use crate::servers::redis::RedisServer;
use crate::servers::{eventually, within};
use crate::world::{Plan, caller, session_id};

const SHORT: Duration = Duration::from_millis(800);

/// A primary, and so many replicas that have all of it.
pub(crate) fn replicated(replicas: usize) -> (RedisServer, Vec<RedisServer>) {
    let primary = RedisServer::start();
    let line = format!("replicaof {} {}", primary.address(), primary.port());
    let replicas: Vec<_> = (0..replicas).map(|_| RedisServer::options().config(&line).start()).collect();
    wait_for_replicas(&primary, replicas.len());
    (primary, replicas)
}

fn wait_for_replicas(primary: &RedisServer, count: usize) {
    within(Duration::from_secs(30), "the replicas have everything", || {
        primary.command(&["INFO", "replication"]).matches("state=online").count() == count
    });
    // One that has just come is online before it takes anything: who answers is there.
    let mut connection = primary.connect().unwrap();
    eventually("the replicas answer", || {
        redis::cmd("SET").arg("unrelated").arg("1").exec(&mut connection).unwrap();
        redis::cmd("WAIT").arg(count).arg(100).query::<usize>(&mut connection) == Ok(count)
    });
}

fn is_timeout<T: std::fmt::Debug>(answer: &Result<T, StoreError>) -> bool {
    matches!(answer, Err(StoreError::Timeout(_)))
}

#[test]
fn a_grant_that_replicas_have_is_a_grant() {
    let (primary, _replicas) = replicated(2);
    let host = Plan::at(&primary.url()).acks(2).open();
    let token = host.get("lock");
    assert!(host.holds("lock", token));
    let error = Plan::at(&primary.url()).host("b").acks(3).limit(SHORT).open().acquire("other");
    assert!(is_timeout(&error), "there are two: {error:?}");
}

#[test]
fn a_grant_that_no_replica_has_is_undone() {
    let (primary, mut replicas) = replicated(2);
    let host = Plan::at(&primary.url()).acks(1).limit(SHORT).open();
    replicas.iter_mut().for_each(RedisServer::pause);
    let start = Instant::now();
    let answer = host.acquire("lock");
    assert!(is_timeout(&answer), "{answer:?}");
    assert!(start.elapsed() < SHORT * 2, "{:?}", start.elapsed());
    eventually("it is undone", || host.is_free("lock"));
    eventually("and said to be", || host.count(EventKind::Release, "lock") == 1);

    replicas.iter_mut().for_each(RedisServer::resume);
    wait_for_replicas(&primary, 2);
    let token = host.get("lock");
    eventually("nothing is left to undo", || host.health("acquires_to_undo") == 0);
    assert!(host.holds("lock", token), "what was acquired since is nobody's to undo");
}

#[test]
fn one_replica_of_two_is_enough_where_one_is_asked_for() {
    let (primary, mut replicas) = replicated(2);
    let host = Plan::at(&primary.url()).acks(1).limit(SHORT).open();
    replicas[0].pause();
    let token = host.get("lock");
    assert!(host.holds("lock", token));
    replicas[0].resume();
}

#[test]
fn without_acks_nobody_waits_for_replicas() {
    let (primary, mut replicas) = replicated(1);
    let host = Plan::at(&primary.url()).limit(SHORT).open();
    replicas[0].pause();
    let token = host.get("lock");
    assert!(host.holds("lock", token));
    replicas[0].resume();
}

#[test]
fn a_grant_is_undone_by_the_next_daemon_of_the_host() {
    let state = tempfile::tempdir().unwrap();
    let (primary, mut replicas) = replicated(1);
    let proxy = Proxy::before(primary.port());
    let plan = Plan::at(&proxy.url()).acks(1).limit(SHORT).state(state.path());
    let host = plan.open();
    let other = Plan::at(&primary.url()).host("b").open();
    host.get("before");
    replicas[0].pause();
    // The grant stands at the primary, and the daemon ends before it can take it back.
    let waiting = thread::spawn(move || (host.acquire("lock"), host));
    eventually("the server has it", || !other.is_free("lock"));
    proxy.block();
    let (answer, host) = waiting.join().unwrap();
    assert!(is_timeout(&answer), "{answer:?}");
    drop(host);
    assert!(!other.is_free("lock"), "nobody has undone it yet");
    replicas[0].resume();
    proxy.mend();
    wait_for_replicas(&primary, 1);

    let again = plan.open();
    eventually("it is undone", || other.is_free("lock"));
    assert!(!again.is_free("before"), "what was acknowledged stands");
    eventually("nothing is left to undo", || again.health("acquires_to_undo") == 0);
    drop(again);
    let left: Vec<_> =
        std::fs::read_dir(state.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".undo")), "{left:?}");
}

#[test]
fn an_answer_that_is_given_again_is_no_proof_that_replicas_have_it() {
    // What asking again writes is nothing, and WAIT is about what was written.
    let (primary, mut replicas) = replicated(1);
    let proxy = Proxy::before(primary.port());
    let host = Plan::at(&proxy.url()).acks(1).limit(SHORT).open();
    host.get("before");
    proxy.catch("lock", Loss::Closed);
    replicas[0].pause();
    let answer = host.acquire("lock");
    assert!(proxy.has_caught());
    assert!(is_timeout(&answer), "no replica has it: {answer:?}");
    eventually("it is undone", || host.is_free("lock"));
    replicas[0].resume();
}

#[test]
fn a_name_that_moves_waits_for_replicas_too() {
    let (primary, mut replicas) = replicated(1);
    let host = Plan::at(&primary.url()).acks(1).limit(SHORT).open();
    for name in ["renamed", "transferred", "merged"] {
        host.get(name);
    }
    let begin = Command::BeginSession { caller: caller("heir") };
    assert!(matches!(host.execute(&begin), Ok(Ok(_))));
    let ino = host.store_ino("transferred");
    replicas[0].pause();
    let by = || caller("session-a");
    let answers = [
        host.rename("renamed", "moved"),
        host.execute(&Command::Transfer { caller: by(), ino, heir: session_id("heir") }),
        host.execute(&Command::MergeSession {
            caller: by(),
            from: session_id("session-a"),
            to: session_id("heir"),
        }),
    ];
    assert!(answers.iter().all(is_timeout), "{answers:?}");
    replicas[0].resume();
}

/// A primary, a replica and a client, each on a machine of its own.
struct Trio {
    net: Net,
    primary: RedisServer,
    replica: RedisServer,
}

impl Trio {
    fn start() -> Self {
        let net = Net::new(3);
        let primary = RedisServer::options().on(&net.host(0)).start();
        let line = format!("replicaof {} {}", primary.address(), primary.port());
        let replica = RedisServer::options().config(&line).on(&net.host(1)).start();
        wait_for_replicas(&primary, 1);
        Self { net, primary, replica }
    }

    /// Whether a server has a name in the root.
    fn has(server: &RedisServer, name: &str) -> bool {
        let mut connection = server.connect().unwrap();
        let key = b"lockfs:{test}:d:\0\0\0\0\0\0\0\x01";
        redis::cmd("HEXISTS").arg(key).arg(name).query(&mut connection).unwrap()
    }

    /// The replica hears no more, nor is heard.
    fn cut(&self) {
        self.net.host(0).cut_from(&self.net.host(1));
    }

    /// What the replica has is what the primary has: it was promoted, and is where the primary was.
    fn fail_over(&self) {
        self.replica.command(&["REPLICAOF", "NO", "ONE"]);
        self.net.heal_all();
        follow(&self.primary, &self.replica);
        self.primary.command(&["REPLICAOF", "NO", "ONE"]);
        follow(&self.replica, &self.primary);
        wait_for_replicas(&self.primary, 1);
    }
}

fn follow(server: &RedisServer, primary: &RedisServer) {
    server.command(&["REPLICAOF", &primary.address().to_string(), &primary.port().to_string()]);
    within(Duration::from_secs(30), "it follows", || {
        server.command(&["INFO", "replication"]).contains("master_link_status:up")
    });
}

#[test]
fn an_undo_that_a_replica_has_not_is_done_again_at_the_next_primary() {
    let trio = Trio::start();
    trio.net.host(2).run(|| {
        let host = Plan::at(&trio.primary.url()).acks(1).limit(SHORT).open();
        host.get("before");
        // The grant gets to the replica, and its answer does not get back.
        trio.net.host(0).deafen_to(&trio.net.host(1));
        let answer = thread::scope(|scope| {
            let waiting = scope.spawn(|| host.acquire("lock"));
            eventually("the replica has it", || Trio::has(&trio.replica, "lock"));
            trio.cut();
            waiting.join().unwrap()
        });
        assert!(is_timeout(&answer), "{answer:?}");
        eventually("it is undone at the old primary", || !Trio::has(&trio.primary, "lock"));
        assert!(Trio::has(&trio.replica, "lock"));
        trio.fail_over();
        eventually("it is undone there too", || host.is_free("lock"));
        assert!(!host.is_free("before"));
    });
}

#[test]
fn a_release_that_a_replica_has_not_is_done_again_at_the_next_primary() {
    let trio = Trio::start();
    trio.net.host(2).run(|| {
        let host = Plan::at(&trio.primary.url()).acks(1).limit(SHORT).open();
        let token = host.get("kept");
        host.get("lock");
        trio.cut();
        assert_eq!(host.release("lock"), Ok(Ok(Reply::Done)));
        assert!(Trio::has(&trio.replica, "lock"));
        trio.fail_over();
        eventually("it is released there too", || host.is_free("lock"));
        assert!(host.holds("kept", token));
        eventually("others get it", || host.acquire_for("other", "lock").is_ok_and(|answer| answer.is_ok()));
    });
}
