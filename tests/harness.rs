//! The servers that tests start do what tests take for granted.

#[path = "servers/mod.rs"]
mod servers;

use std::time::{Duration, Instant};

use servers::redis::{Persistence, RedisServer};

#[test]
fn a_server_answers_on_its_port_and_on_its_socket() {
    let server = RedisServer::start();
    assert_eq!(server.command(&["SET", "k", "v"]), "OK");
    for url in [server.url(), server.unix_url()] {
        let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        assert_eq!(redis::cmd("GET").arg("k").query::<String>(&mut connection).unwrap(), "v");
    }
}

#[test]
fn servers_start_side_by_side_and_end_when_they_are_dropped() {
    let start = |_| std::thread::spawn(RedisServer::start);
    let threads: Vec<_> = (0..4).map(start).collect();
    let servers: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let pids: Vec<_> = servers.iter().map(RedisServer::pid).collect();
    for server in &servers {
        assert_eq!(server.command(&["DBSIZE"]), "0");
    }
    drop(servers);
    for pid in pids {
        assert!(!std::fs::exists(format!("/proc/{pid}")).unwrap(), "{pid} is gone");
    }
}

#[test]
fn a_killed_server_has_what_its_log_kept_and_nothing_without_it() {
    for persistence in [Persistence::Aof, Persistence::AofAlways, Persistence::Rdb, Persistence::None] {
        let mut server = RedisServer::options().persistence(persistence).start();
        let port = server.port();
        server.command(&["SET", "k", "v"]);
        if persistence == Persistence::Rdb {
            server.command(&["SAVE"]);
        }
        server.kill();
        assert!(server.query::<String>(&["PING"]).is_err());
        server.restart();
        assert_eq!(server.port(), port);
        let kept = if persistence == Persistence::None { "" } else { "v" };
        assert_eq!(server.command(&["GET", "k"]), kept, "{persistence:?}");
        server.restart_empty();
        assert_eq!(server.command(&["GET", "k"]), "", "{persistence:?}");
    }
}

#[test]
fn a_paused_server_lets_requests_wait_until_it_is_resumed() {
    let mut server = RedisServer::start();
    let mut connection = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    connection.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    server.pause();
    let error = redis::cmd("INCR").arg("k").query::<i64>(&mut connection).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    server.resume();
    servers::eventually("what came meanwhile is done", || server.command(&["GET", "k"]) == "1");
}

#[test]
fn a_password_and_users_are_asked_for() {
    let server = RedisServer::options().password("secret").start();
    assert_eq!(server.command(&["PING"]), "PONG");
    let ping = |url: String| {
        redis::Client::open(url)?
            .get_connection()
            .and_then(|mut to| redis::cmd("PING").query::<String>(&mut to))
    };
    assert!(ping(server.url()).is_err());
    assert!(ping(server.url_as("", "wrong")).is_err());
    assert_eq!(ping(server.url_as("", "secret")).unwrap(), "PONG");

    let server = RedisServer::options().users(&["user alice on >secret ~* +ping"]).start();
    assert!(ping(server.url()).is_err());
    assert_eq!(ping(server.url_as("alice", "secret")).unwrap(), "PONG");
}

#[test]
fn a_server_starts_quickly() {
    let start = Instant::now();
    let _server = RedisServer::start();
    assert!(start.elapsed() < Duration::from_secs(2), "it took {:?}", start.elapsed());
    eprintln!("it took {:?}", start.elapsed());
}
