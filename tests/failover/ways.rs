//! Ways to a server: TLS, sockets, users who may do little, passwords that change, databases, clusters.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use lockfs::clock::BootId;
use lockfs::lock::{Claim, Ino, Mode, Mount, MountId, Name, Range, Style, Token, Ttl, WaitId};
use lockfs::store::redis::{Endpoint, Tls};
use lockfs::store::{LockStore, StoreError};
use lockfs::table::{Command, Refusal, Reply, Spot, Waiting};

use crate::history::{End, History};
use crate::servers::cluster::RedisCluster;
use crate::servers::redis::RedisServer;
use crate::servers::{eventually, tls};
use crate::world::{Host, Plan, caller, session_id};

/// Does what a daemon does in a day.
fn live_a_day(host: &Host) -> Result<(), StoreError> {
    let token = host.acquire("lock")?.expect("it is free");
    assert!(host.holds("lock", token));
    assert_eq!(host.acquire_for("another", "lock")?, Err(Refusal::Exists));
    let id = session_id(&format!("session-{}", host.name));
    let write = Command::Write {
        caller: caller(id.as_str()),
        ino: host.store_ino("lock"),
        offset: None,
        data: b"note".to_vec(),
    };
    assert!(host.execute(&write)?.is_ok());
    assert!(matches!(host.rename("lock", "moved")?, Ok(Reply::Entry(_))));
    assert_eq!(host.execute(&Command::Renew { sessions: vec![id.clone()] })?, Ok(Reply::Count(1)));
    assert!(host.execute(&Command::Sweep { limit: 10 })?.is_ok());
    wait_a_while(host)?;
    let begin = Command::BeginSession { caller: caller("heir") };
    assert!(host.execute(&begin)?.is_ok());
    let merge = Command::MergeSession { caller: caller("heir"), from: id, to: session_id("heir") };
    assert!(host.execute(&merge)?.is_ok());
    assert_eq!(host.release("moved")?, Err(Refusal::Held(Some(session_id("heir")))));
    assert_eq!(host.release_for("heir", "moved")?, Ok(Reply::Done));
    let end = Command::EndSession { caller: None, id: session_id("heir") };
    assert_eq!(host.execute(&end)?, Ok(Reply::Done));
    assert!(host.events().len() > 4);
    Ok(())
}

/// Locks, waits and is woken, as flock(2) and `.wait` do.
fn wait_a_while(host: &Host) -> Result<(), StoreError> {
    let ttl = Ttl::For(Duration::from_secs(60));
    let id = MountId::from_u64(1);
    let mount = Mount { id, host: host.name.clone(), pid: 1, start: 1, boot: BootId::new("boot"), ttl };
    assert_eq!(host.execute(&Command::Attend { mount })?, Ok(Reply::Count(0)));
    host.get("file");
    let ino = host.store_ino("file");
    let (style, range) = (Style::Flock, Range::WHOLE);
    let lock = |key: u64| Command::Lock {
        caller: caller(&format!("waits-{key}")),
        ino,
        claim: Claim { style, mode: Mode::Exclusive, range, key, pid: 7 },
        waiting: Some(Waiting { request: key, alone: true }),
    };
    assert_eq!(host.execute(&lock(1))?, Ok(Reply::Done));
    assert_eq!(host.execute(&lock(2))?, Ok(Reply::Waits));
    let spot = Spot { parent: Ino::ROOT, name: Name::parse(b"moved").expect("a name") };
    let waiting = Waiting { request: 3, alone: true };
    let wait = Command::Await { caller: caller("waits-3"), spot, mode: 0o644, waiting };
    assert_eq!(host.execute(&wait)?, Ok(Reply::Waits));
    assert_eq!(host.execute(&Command::Unlock { mount: id, ino, style, key: 1, range })?, Ok(Reply::Done));
    assert_eq!(host.execute(&lock(2))?, Ok(Reply::Done));
    let withdraw = Command::Withdraw { id: WaitId { mount: id, request: 3 } };
    assert_eq!(host.execute(&withdraw)?, Ok(Reply::Done));
    assert_eq!(host.execute(&Command::Leave { mounts: vec![id] })?, Ok(Reply::Done));
    Ok(())
}

#[test]
fn a_store_works_by_socket_by_tls_and_in_a_database() {
    let files = tls::Tls::new();
    let server = RedisServer::options().tls(&files).start();
    live_a_day(&Plan::at(&server.unix_url()).open()).unwrap();
    live_a_day(&Plan::at(&format!("{}/3", server.url())).open()).unwrap();
    let keys = |database: &str| {
        let mut connection = server.connect().unwrap();
        redis::cmd("SELECT").arg(database).exec(&mut connection).unwrap();
        redis::cmd("DBSIZE").query::<usize>(&mut connection).unwrap()
    };
    assert!(keys("3") > 0 && keys("0") > 0);
    server.command(&["FLUSHALL"]);
    let tls = Tls {
        ca_file: Some(files.own.ca.clone()),
        cert_file: Some(files.own.client.certificate.clone()),
        key_file: Some(files.own.client.key.clone()),
    };
    let endpoint = Endpoint { tls: Some(tls), ..Endpoint::parse(&server.tls_url()).unwrap() };
    let host = Plan::of(endpoint).open();
    live_a_day(&host).unwrap();
    assert_eq!(Plan::at(&server.url()).host("b").open().get("other").epoch(), host.get("another").epoch());
}

/// What a user of Redis must be allowed, as README.md says it.
fn allowed() -> String {
    let text = include_str!("../../README.md");
    let (_, rule) = text.split_once("ACL SETUSER lockfs").expect("README.md says how a user is made");
    let (rule, _) = rule.split_once("```").expect("it ends");
    rule.split_whitespace().filter(|word| word.starts_with('+')).collect::<Vec<_>>().join(" ")
}

fn user(allowed: &str) -> String {
    format!("user locks on >hunter2 resetkeys ~lockfs:{{test}}:* resetchannels -@all {allowed}")
}

#[test]
fn a_user_needs_few_rights() {
    let server = RedisServer::options().users(&[&user(&allowed())]).start();
    let plan = Plan::at(&server.url_as("locks", "hunter2"));
    let host = plan.open();
    live_a_day(&host).unwrap();
    assert_eq!(server.command(&["ACL", "LOG"]), "", "nothing was refused");
    // Data that is lost and found again, a backup, an undo: all that may come.
    let token = host.get("lock");
    server.command(&["FLUSHALL"]);
    eventually("it is said again", || host.holds("lock", token));
    server.command(&["DEBUG", "CHANGE-REPL-ID"]);
    eventually("the epoch rises", || host.acquire("new").is_ok_and(|answer| answer.is_ok()));
    // What went is mended, and an event that is none of ours is given up.
    for index in ["n", "b"] {
        server.command(&["DEL", &format!("lockfs:{{test}}:{index}")]);
    }
    server.command(&["XADD", "lockfs:{test}:events", "*", "foreign", "event"]);
    eventually("it is mended", || server.command(&["EXISTS", "lockfs:{test}:n"]) == "1");
    eventually("it goes on", || host.acquire("newer").is_ok_and(|answer| answer.is_ok()));
    drop(host);
    let refused = server.command(&["ACL", "LOG"]);
    assert_eq!(refused, "", "nothing was refused");

    let mut other = plan.clone();
    other.0.namespace = "other".to_owned();
    let error = other.try_open().expect_err("the keys of another namespace are not for this user");
    assert!(!format!("{error:?}").contains("hunter2"), "{error}");
    assert!(error.to_string().to_lowercase().contains("permission"), "{error}");
}

#[test]
fn a_right_that_is_missing_is_named() {
    let server = RedisServer::options().users(&[&user(&allowed())]).start();
    let plan = Plan::at(&server.url_as("locks", "hunter2"));
    // Of what a script does redis says only that something is missing.
    let named = [("fcall", "fcall"), ("info", "info"), ("xadd", "README.md"), ("zrangebyscore", "README.md")];
    for (command, word) in named {
        server.command(&["ACL", "SETUSER", "locks", &format!("-{command}")]);
        let error = plan.try_open().and_then(|host| live_a_day(&host)).expect_err("a right is missing");
        assert!(error.to_string().contains(word), "{command}: {error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error}");
        server.command(&["ACL", "SETUSER", "locks", &format!("+{command}")]);
        server.command(&["FLUSHALL"]);
    }
}

#[test]
fn a_password_that_changes_under_way_is_said_and_locks_stay() {
    let server = RedisServer::options().users(&[&user(&allowed())]).start();
    let host = Plan::at(&server.url_as("locks", "hunter2")).limit(Duration::from_millis(800)).open();
    let token = host.get("lock");
    // Who is in stays in (redis.io, AUTH); a new connection is refused.
    server.command(&["ACL", "SETUSER", "locks", "resetpass", ">another"]);
    assert!(host.holds("lock", token));
    server.command(&["CLIENT", "KILL", "USER", "locks"]);
    let mut said = String::new();
    eventually("it is refused", || match host.acquire("new") {
        Err(error) => {
            said = error.to_string();
            true
        }
        Ok(_) => false,
    });
    assert!(said.contains("refused the password of user 'locks'"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    server.command(&["ACL", "SETUSER", "locks", ">hunter2"]);
    let mut new: Option<Token> = None;
    eventually("it is let in again", || {
        new = host.acquire("new").ok().and_then(Result::ok);
        new.is_some()
    });
    assert!(host.holds("lock", token) && new > Some(token));
}

#[test]
fn a_store_on_a_cluster_follows_its_slot() {
    let cluster = RedisCluster::start();
    let nodes: Vec<_> = cluster.urls().iter().map(|url| url.replace("redis://", "")).collect();
    let plan = Plan::at(&format!("redis+cluster://{}", nodes.join(",")));
    let [a, b] = ["a", "b"].map(|name| plan.clone().host(name).open());
    live_a_day(&a).unwrap();
    let (x, y) = (a.get("x"), b.get("y"));
    let key = "lockfs:{test}:meta";
    let home = cluster.node_of(key);
    let mut last = x.max(y);
    for step in 1..=2 {
        let [from, to] = [home + step - 1, home + step].map(|node| node % nodes.len());
        cluster.move_slot(cluster.slot_of(key), from, to);
        let mut new = None;
        eventually("grants go on", || {
            new = a.acquire("new").ok().and_then(Result::ok);
            new.is_some()
        });
        assert!(new > Some(last), "{new:?} is above {last}");
        last = new.unwrap();
        assert!(a.holds("x", x) && b.holds("y", y));
        eventually("b goes on", || b.acquire("new") == Ok(Err(Refusal::Exists)));
        assert_eq!(a.release("new"), Ok(Ok(Reply::Done)));
    }
}

#[test]
fn a_slot_may_move_while_locks_are_taken() {
    let cluster = RedisCluster::start();
    let nodes: Vec<_> = cluster.urls().iter().map(|url| url.replace("redis://", "")).collect();
    let plan = Plan::at(&format!("redis+cluster://{}", nodes.join(",")));
    let [a, b] = ["a", "b"].map(|name| plan.clone().host(name).open());
    let key = "lockfs:{test}:meta";
    let home = cluster.node_of(key);
    let (is_over, granted) = (AtomicBool::new(false), AtomicUsize::new(0));
    let history = thread::scope(|scope| {
        let act = |host: &'static str, store| {
            let (is_over, granted) = (&is_over, &granted);
            scope.spawn(move || {
                let mut history = History::default();
                for turn in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    // Each has a session of its own: steps begin keys, and end them.
                    let session = format!("{host}-{}", turn % 7);
                    let name =
                        if turn % 3 == 0 { format!("{host}-{turn}") } else { format!("both-{}", turn % 5) };
                    if history.acquire(store, &session, &name) {
                        granted.fetch_add(1, Ordering::Relaxed);
                        if turn % 3 != 0 || turn % 2 == 0 {
                            history.release_last(store);
                        }
                    }
                }
                history
            })
        };
        let threads = [act("a", &a), act("a2", &a), act("b", &b), act("b2", &b)];
        for step in 0..3 {
            let before = granted.load(Ordering::Relaxed);
            eventually("grants go on", || granted.load(Ordering::Relaxed) > before + 100);
            let [from, to] = [home + step, home + step + 1].map(|node| node % nodes.len());
            cluster.move_slot(cluster.slot_of(key), from, to);
        }
        let before = granted.load(Ordering::Relaxed);
        eventually("grants go on", || granted.load(Ordering::Relaxed) > before + 100);
        is_over.store(true, Ordering::Relaxed);
        History::merge(threads.map(|thread| thread.join().unwrap()))
    });
    println!("{} grants, {} failed, {} unknown", history.grants.len(), history.failed, history.unknown.len());
    assert_eq!(history.repeated_tokens(), []);
    assert!(history.falling_tokens().is_empty() && history.overlaps().is_empty());
    let held: Vec<_> = history.grants.iter().filter(|grant| grant.end == End::Held).collect();
    assert!(history.grants.iter().all(|grant| grant.end != End::Lost));
    for grant in &held {
        assert_eq!(a.holder(&grant.name), Ok(Some((grant.session.clone(), grant.token))));
    }
    eventually("nothing is left to undo", || {
        [&a, &b].iter().all(|host| host.health("acquires_to_undo") == 0)
    });
    let listed = a.store.list(Ino::ROOT, None, 10_000).unwrap().unwrap();
    assert_eq!(listed.len(), held.len(), "and no more");
    assert_eq!(a.store.counts().unwrap().locks, held.len() as u64);
}

#[test]
fn a_step_that_meets_a_key_on_its_way_has_written_nothing() {
    let cluster = RedisCluster::start();
    let nodes: Vec<_> = cluster.urls().iter().map(|url| url.replace("redis://", "")).collect();
    let plan = Plan::at(&format!("redis+cluster://{}", nodes.join(","))).limit(Duration::from_millis(500));
    let host = plan.open();
    let before = host.get("before");
    let key = |name| format!("lockfs:{{test}}:{name}");
    let home = cluster.node_of(&key("meta"));
    let slot = cluster.slot_of(&key("meta"));
    // What a step writes last has gone, or what it writes earlier.
    for (step, gone) in ["events", "h:session-a"].into_iter().enumerate() {
        let [from, to] = [home + step, home + step + 1].map(|node| node % nodes.len());
        let [old, new] = [from, to].map(|node| &cluster.nodes[node]);
        let [old_id, new_id] = [old, new].map(|node| node.command(&["CLUSTER", "MYID"]));
        new.command(&["CLUSTER", "SETSLOT", &slot.to_string(), "IMPORTING", &old_id]);
        old.command(&["CLUSTER", "SETSLOT", &slot.to_string(), "MIGRATING", &new_id]);
        let moved = ["MIGRATE", &new.address().to_string(), &new.port().to_string(), &key(gone), "0", "5000"];
        assert_eq!(old.command(&moved), "OK");
        // All but what hosts say of themselves.
        let kept =
            ["meta", "o", "s", "n", "x", "y", "d:\0\0\0\0\0\0\0\u{1}", "l:\0\0\0\0\0\0\0\u{1}"].map(key);
        let words: Vec<_> =
            ["DEBUG", "DIGEST-VALUE"].into_iter().chain(kept.iter().map(String::as_str)).collect();
        let digest = || old.command(&words);
        let there = digest();
        let answer = host.acquire("lock");
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "certainly not acquired: {answer:?}");
        assert!(matches!(host.release("before"), Err(StoreError::Unavailable(_))));
        assert_eq!(digest(), there, "half a step was written");
        cluster.move_slot(slot, from, to);
        eventually("grants go on", || host.acquire("lock").is_ok_and(|answer| answer.is_ok()));
        assert!(host.holds("before", before));
        assert_eq!(host.release("lock"), Ok(Ok(Reply::Done)));
        assert_eq!(host.store.counts().unwrap().locks, 1);
    }
}
