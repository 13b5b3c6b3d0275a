//! Replies that are lost, requests that come late, servers that stand still.

use std::thread;
use std::time::{Duration, Instant};

use lockfs::lock::EventKind;
use lockfs::store::StoreError;
use lockfs::table::{Refusal, Reply};

use crate::proxy::{Loss, Proxy};
use crate::servers::eventually;
use crate::servers::redis::RedisServer;
use crate::world::{Host, Plan};

const SHORT: Duration = Duration::from_millis(800);

/// A server, a wire to it, and a host at its end to which all scripts are known.
fn wired() -> (RedisServer, Proxy, Host) {
    let server = RedisServer::start();
    let proxy = Proxy::before(server.port());
    let host = Plan::at(&proxy.url()).limit(SHORT).open();
    host.get("warm");
    assert!(matches!(host.rename("warm", "warmer"), Ok(Ok(_))));
    assert_eq!(host.release("warmer"), Ok(Ok(Reply::Done)));
    (server, proxy, host)
}

#[test]
fn a_lost_reply_to_an_acquire_is_asked_for_again() {
    let (_server, proxy, host) = wired();
    for loss in [Loss::Closed, Loss::Silent] {
        let name = format!("lock-{loss:?}");
        proxy.catch(&name, loss);
        let token = host.get(&name);
        assert!(proxy.has_caught());
        assert!(host.holds(&name, token));
        assert_eq!(host.count(EventKind::Acquire, &name), 1, "it is acquired once");
    }
    assert_eq!(host.health("commands_repeated"), 2);
    assert_eq!(host.health("commands_unknown"), 0);
}

#[test]
fn a_lost_refusal_is_asked_for_again() {
    let (server, proxy, host) = wired();
    let other = Plan::at(&server.url()).host("b").open();
    let token = other.get("lock");
    proxy.catch("lock", Loss::Closed);
    assert_eq!(host.acquire("lock"), Ok(Err(Refusal::Exists)));
    assert!(proxy.has_caught() && other.holds("lock", token));
}

#[test]
fn a_lost_reply_to_a_release_is_asked_for_again() {
    let (_server, proxy, host) = wired();
    for loss in [Loss::Closed, Loss::Silent] {
        let name = format!("lock-{loss:?}");
        host.get(&name);
        proxy.catch(&name, loss);
        assert_eq!(host.release(&name), Ok(Ok(Reply::Done)), "not that there is no such lock");
        assert!(proxy.has_caught());
        assert_eq!(host.count(EventKind::Release, &name), 1);
    }
}

#[test]
fn a_lost_reply_to_a_rename_is_asked_for_again() {
    let (_server, proxy, host) = wired();
    for loss in [Loss::Closed, Loss::Silent] {
        let (from, to) = (format!("from-{loss:?}"), format!("to-{loss:?}"));
        host.get(&from);
        proxy.catch(&to, loss);
        assert!(matches!(host.rename(&from, &to), Ok(Ok(Reply::Entry(_)))));
        assert!(proxy.has_caught() && host.is_free(&from) && !host.is_free(&to));
        assert_eq!(host.count(EventKind::Release, &from), 1);
    }
}

#[test]
fn a_lost_reply_to_the_end_of_a_session_is_asked_for_again() {
    let (_server, proxy, host) = wired();
    for loss in [Loss::Closed, Loss::Silent] {
        for name in ["x", "y"] {
            host.get(name);
        }
        proxy.catch("session-a", loss);
        assert_eq!(host.end_session(), Ok(Ok(Reply::Done)), "not that there is no such session");
        assert!(proxy.has_caught() && host.is_free("x") && host.is_free("y"));
        assert_eq!(host.session_record(), None);
    }
}

#[test]
fn a_request_that_comes_late_is_not_carried_out_again() {
    let (_server, proxy, host) = wired();
    proxy.catch("lock", Loss::Late);
    host.get("lock");
    assert!(proxy.has_caught());
    assert_eq!(host.release("lock"), Ok(Ok(Reply::Done)));
    eventually("its events are heard", || host.events_of("lock").len() == 2);
    let before = host.events_of("lock");
    proxy.let_go();
    // Whatever is asked now is behind it on the server or beside it: it has had its turn a command later.
    eventually("the late one had its turn", || {
        host.get("other");
        host.release("other").unwrap().unwrap();
        host.count(EventKind::Acquire, "other") > 20
    });
    assert!(host.is_free("lock"));
    assert_eq!(host.events_of("lock"), before);
}

#[test]
fn an_acquire_of_which_nobody_knows_is_undone() {
    let (server, proxy, host) = wired();
    let other = Plan::at(&server.url()).host("b").open();
    proxy.block_replies();
    let start = Instant::now();
    let error = host.acquire("lock").unwrap_err();
    assert!(matches!(error, StoreError::Timeout(_)), "{error:?}");
    assert!(start.elapsed() < SHORT * 2, "{:?}", start.elapsed());
    assert!(!other.is_free("lock"), "the server has it");
    proxy.mend();
    eventually("it is undone", || other.is_free("lock"));
    let kinds: Vec<_> = other.events_of("lock").iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Acquire, EventKind::Release]);
    eventually("nothing is left to undo", || host.health("acquires_to_undo") == 0);
    let token = other.get("lock");
    assert!(host.holder("lock").unwrap().is_some_and(|(_, held)| held == token));
}

#[test]
fn an_acquire_that_never_arrived_is_not_carried_out_when_the_wire_is_mended() {
    let (server, proxy, host) = wired();
    let other = Plan::at(&server.url()).host("b").open();
    proxy.block();
    let error = host.acquire("lock").unwrap_err();
    assert!(matches!(error, StoreError::Timeout(_)), "{error:?}");
    proxy.mend();
    eventually("nothing is left to undo", || host.health("acquires_to_undo") == 0);
    eventually("the host goes on", || host.acquire("another").is_ok_and(|answer| answer.is_ok()));
    assert!(other.is_free("lock"));
    let acquired = other.count(EventKind::Acquire, "lock");
    assert_eq!(other.count(EventKind::Release, "lock"), acquired);
}

#[test]
fn nothing_that_timed_out_at_a_stopped_server_is_carried_out_when_it_goes_on() {
    let mut server = RedisServer::start();
    let host = Plan::at(&server.url()).limit(SHORT).open();
    let names: Vec<String> = (0..40).map(|number| format!("late-{number}")).collect();
    // As many connections as there are names, so that each has a request on its way.
    thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| (host.get(name), host.release(name).unwrap().unwrap()));
        }
    });
    let before = host.events().len();
    server.pause();
    let start = Instant::now();
    thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| host.acquire(name).expect_err("the server stands still"));
        }
    });
    assert!(start.elapsed() < SHORT * 2, "nobody waits longer than a command may: {:?}", start.elapsed());
    server.resume();
    eventually("nothing is left to undo", || host.health("acquires_to_undo") == 0);
    let after = host.events();
    assert_eq!(after.len(), before, "nothing has happened: {:?}", &after[before.min(after.len())..]);
    assert!(names.iter().all(|name| host.is_free(name)));
}

#[test]
fn nobody_waits_longer_for_a_connection_than_for_a_command() {
    let mut server = RedisServer::start();
    // There is one connection for many, and a connect timeout that is much longer than a command may take.
    let host = Plan::at(&server.url()).limit(SHORT).open();
    server.pause();
    let start = Instant::now();
    thread::scope(|scope| {
        for number in 0..8 {
            let host = &host;
            scope
                .spawn(move || host.acquire(&format!("lock-{number}")).expect_err("the server stands still"));
        }
    });
    assert!(start.elapsed() < SHORT * 2, "{:?}", start.elapsed());
    server.resume();
    eventually("the host goes on", || host.acquire("another").is_ok_and(|answer| answer.is_ok()));
}
