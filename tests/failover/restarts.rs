//! Servers that come back, with their data, without it, or with that of yesterday: hosts say what they hold, and
//! nothing is granted before they have.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use lockfs::lock::{EventKind, Token};
use lockfs::store::{LockStore, StoreError};
use lockfs::table::{Command, Existing, New, Refusal, Reply};

use crate::proxy::Proxy;
use crate::servers::redis::{Persistence, RedisServer};
use crate::servers::{eventually, within};
use crate::world::{Host, Plan, caller, spot};

/// Longer than a restart takes.
const PATIENT: Duration = Duration::from_secs(5);

fn plan(server: &RedisServer, host: &str) -> Plan {
    Plan::at(&server.unix_url()).host(host).limit(PATIENT)
}

/// What a host holds: so many locks.
fn holdings(host: &Host, count: usize) -> Vec<(String, Token)> {
    (0..count)
        .map(|number| format!("{}-{number}", host.name))
        .map(|name| (name.clone(), host.get(&name)))
        .collect()
}

fn assert_held(host: &Host, locks: &[(String, Token)]) {
    for (name, token) in locks {
        assert!(host.holds(name, *token), "{name} by {token}: {:?}", host.holder(name));
    }
}

/// Acquires as soon as the server grants again.
fn get_again(host: &Host, name: &str) -> Token {
    let mut token = None;
    within(Duration::from_secs(30), "the server grants again", || {
        token = host.acquire(name).ok().map(|answer| answer.expect("it is free"));
        token.is_some()
    });
    token.unwrap()
}

#[test]
fn a_restart_with_the_log_keeps_locks_and_raises_tokens() {
    let mut server = RedisServer::options().persistence(Persistence::AofAlways).start();
    let [a, b] = ["a", "b"].map(|name| plan(&server, name).open());
    let (of_a, of_b) = (holdings(&a, 20), holdings(&b, 20));
    let last = of_b.last().unwrap().1;
    for _ in 0..2 {
        server.restart();
        let token = get_again(&a, "new");
        assert!(token > last && token.epoch() > last.epoch(), "{token} is above {last}");
        assert_held(&a, &of_a);
        assert_held(&b, &of_b);
        assert_eq!(b.acquire("a-0"), Ok(Err(Refusal::Exists)));
        assert_eq!(a.release("new"), Ok(Ok(Reply::Done)));
    }
    assert_eq!(a.release("a-0"), Ok(Ok(Reply::Done)));
    assert_eq!(a.count(EventKind::Lost, "a-0"), 0);
}

/// Loses all data while two hosts hold something and a third wants it.
fn lose(how: impl FnOnce(&mut RedisServer)) {
    let mut server = RedisServer::start();
    let [a, b, thief] = ["a", "b", "thief"].map(|name| plan(&server, name).open());
    let (of_a, of_b) = (holdings(&a, 300), holdings(&b, 30));
    let noted = a.execute(&Command::Write {
        caller: caller("session-a"),
        ino: a.store_ino("a-7"),
        offset: None,
        data: b"a note".to_vec(),
    });
    assert!(matches!(noted, Ok(Ok(_))), "{noted:?}");
    let first = of_a[0].1;
    let stop = AtomicBool::new(false);
    let (tried, new) = thread::scope(|scope| {
        let stealing = scope.spawn(|| {
            let mut tried = 0;
            while !stop.load(Ordering::Relaxed) {
                for name in ["a-0", "a-299", "b-0", "b-29"] {
                    let answer = thief.acquire(name);
                    assert!(!matches!(answer, Ok(Ok(_))), "{name} was granted to another: {answer:?}");
                    tried += usize::from(answer == Ok(Err(Refusal::Exists)));
                }
            }
            tried
        });
        eventually("it tries", || thief.health("commands") > 20);
        how(&mut server);
        let new = get_again(&b, "new");
        stop.store(true, Ordering::Relaxed);
        (stealing.join().unwrap(), new)
    });
    assert!(tried > 4, "it went on trying: {tried}");
    assert!(new > of_b.last().unwrap().1 && new > first, "{new}");
    assert_held(&a, &of_a);
    assert_held(&b, &of_b);
    let view = b.store.view(b.store_ino("a-7")).unwrap().unwrap();
    assert_eq!(view.attributes.size, 6, "the note is back");
    assert_eq!(a.health("reasserted") + b.health("reasserted"), 330);
    assert_eq!(a.release("a-0"), Ok(Ok(Reply::Done)));
    assert!(get_again(&thief, "a-0") > new);
}

#[test]
fn locks_come_back_after_a_restart_without_data() {
    lose(RedisServer::restart_empty);
}

#[test]
fn locks_come_back_after_flushall() {
    lose(|server| {
        server.command(&["FLUSHALL"]);
    });
}

#[test]
fn nothing_is_granted_while_a_host_has_not_said_what_it_holds() {
    let server = RedisServer::start();
    let proxy = Proxy::before(server.port());
    let window = Duration::from_secs(3);
    let short = Duration::from_millis(600);
    let a = Plan::at(&proxy.url()).limit(short).window(window).open();
    let b = plan(&server, "b").limit(short).window(window).open();
    let token = a.get("lock");
    eventually("b has heard of a", || b.health("hosts") == 2);
    proxy.block();
    server.command(&["FLUSHALL"]);
    let error = b.acquire("lock").unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "certainly not acquired: {error:?}");
    assert!(error.to_string().contains("may have lost data"), "{error}");
    proxy.mend();
    let new = get_again(&b, "new");
    assert!(a.holds("lock", token) && new > token);
}

#[test]
fn who_comes_back_too_late_has_lost_what_another_got_and_is_told() {
    let server = RedisServer::start();
    let proxy = Proxy::before(server.port());
    let window = Duration::from_millis(1_500);
    let short = Duration::from_millis(600);
    let a = Plan::at(&proxy.url()).limit(short).window(window).open();
    let b = plan(&server, "b").limit(short).window(window).open();
    let (x, y) = (a.get("x"), a.get("y"));
    eventually("b has heard of a", || b.health("hosts") == 2);
    proxy.block();
    server.command(&["FLUSHALL"]);
    let of_b = get_again(&b, "x");
    assert!(of_b > x);
    proxy.mend();
    eventually("a says what it holds", || a.holds("y", y));
    assert!(b.holds("x", of_b), "the higher token keeps it");
    eventually("b has heard of the loss", || b.count(EventKind::Lost, "x") == 1);
    let lost: Vec<_> = b.events_of("x").into_iter().filter(|event| event.kind == EventKind::Lost).collect();
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!((lost[0].token, lost[0].session.as_ref().map(|id| id.as_str())), (Some(x), Some("session-a")));
    assert_eq!(a.release("x"), Ok(Err(Refusal::Lost)));
    assert!(b.holds("x", of_b));
    assert_eq!(a.release("y"), Ok(Ok(Reply::Done)));
}

#[test]
fn what_changed_hands_since_a_backup_is_its_last_holders() {
    let mut server = RedisServer::options().persistence(Persistence::Rdb).start();
    let [a, b] = ["a", "b"].map(|name| plan(&server, name).open());
    let of_b = b.get("lock");
    let kept = b.get("kept");
    server.command(&["SAVE"]);
    assert_eq!(b.release("lock"), Ok(Ok(Reply::Done)));
    let of_a = a.get("lock");
    // Its next daemon does not know that it was released.
    drop(b);
    let b = plan(&server, "b").open();
    server.restart();
    let new = get_again(&b, "new");
    assert!(of_b < of_a && of_a < new);
    assert!(a.holds("lock", of_a), "{:?}", a.holder("lock"));
    assert!(b.holds("kept", kept));
    assert_eq!(b.release("lock"), Ok(Err(Refusal::Lost)));
    assert_eq!(a.release("lock"), Ok(Ok(Reply::Done)));
}

#[test]
fn what_was_released_since_a_backup_is_free() {
    let mut server = RedisServer::options().persistence(Persistence::Rdb).start();
    let host = plan(&server, "a").open();
    let directory = Command::Acquire {
        caller: caller("session-a"),
        spot: spot("directory"),
        new: New::Directory,
        mode: 0o755,
        existing: Existing::Refuse,
    };
    assert!(matches!(host.execute(&directory), Ok(Ok(_))));
    host.get("lock");
    let kept = host.get("kept");
    server.command(&["SAVE"]);
    let rmdir = Command::Rmdir { caller: caller("session-a"), spot: spot("directory") };
    assert_eq!(host.execute(&rmdir), Ok(Ok(Reply::Done)));
    assert_eq!(host.release("lock"), Ok(Ok(Reply::Done)));
    server.restart();
    get_again(&host, "new");
    assert!(host.is_free("lock") && host.is_free("directory") && host.holds("kept", kept));
    assert_eq!(host.count(EventKind::Lost, "lock"), 0);
}

#[test]
fn a_daemon_that_only_remembers_the_namespace_leaves_hosts_time_to_speak() {
    let server = RedisServer::start();
    let state = tempfile::tempdir().unwrap();
    let proxy = Proxy::before(server.port());
    let short = Duration::from_millis(800);
    let a = Plan::at(&proxy.url()).limit(short).open();
    let plan_b = plan(&server, "b").limit(short).state(state.path());
    let b = plan_b.open();
    let token = a.get("lock");
    eventually("b has heard of a", || b.health("hosts") == 2);
    drop(b);
    proxy.block();
    server.command(&["FLUSHALL"]);
    let b = plan_b.open();
    let answer = b.acquire("lock");
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "a may hold it: {answer:?}");
    proxy.mend();
    get_again(&b, "new");
    assert!(a.holds("lock", token));
}

#[test]
fn tokens_rise_although_a_stranger_founded_the_namespace_anew() {
    let server = RedisServer::start();
    let proxy = Proxy::before(server.port());
    let a = Plan::at(&proxy.url()).limit(Duration::from_millis(800)).open();
    let mut last = a.get("lock");
    // Restarts raise the epoch, each by one at least: it runs ahead of the clock.
    for _ in 0..3 {
        server.command(&["DEBUG", "CHANGE-REPL-ID"]);
        assert_eq!(a.release("lock"), Ok(Ok(Reply::Done)));
        let token = get_again(&a, "lock");
        assert!(token > last);
        last = token;
    }
    proxy.block();
    server.command(&["FLUSHALL"]);
    let stranger = plan(&server, "stranger").open();
    stranger.get("other");
    proxy.mend();
    eventually("a says what it holds", || stranger.holder("lock").is_ok_and(|found| found.is_some()));
    assert!(a.holds("lock", last));
    let new = get_again(&stranger, "new");
    assert!(new > last, "{new} is above {last}");
}
