//! The servers that tests start do what tests take for granted.

#[path = "servers/mod.rs"]
mod servers;

use std::time::{Duration, Instant};

use servers::clock::ServerClock;
use servers::cluster::RedisCluster;
use servers::net::{Host, Net};
use servers::redis::{Persistence, RedisServer};
use servers::sentinel::SentinelSet;
use servers::tls::Tls;

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

/// 2027-01-15 08:00:00.000123
const MICROS: i64 = 1_800_000_000_000_123;

#[test]
fn a_server_under_a_frozen_clock_has_the_time_that_the_test_sets() {
    let clock = ServerClock::frozen(MICROS);
    let server = RedisServer::options().clock(&clock).start();
    let time = || server.query::<(i64, i64)>(&["TIME"]).unwrap();
    let script = || server.query::<(i64, i64)>(&["EVAL", "return redis.call('TIME')", "0"]).unwrap();
    assert_eq!((time(), script()), ((1_800_000_000, 123), (1_800_000_000, 123)));

    server.command(&["SET", "k", "v", "PX", "1000"]);
    assert_eq!(server.command(&["PTTL", "k"]), "1000");
    clock.advance(Duration::from_millis(1_000));
    assert_eq!((time(), script()), ((1_800_000_001, 123), (1_800_000_001, 123)));
    assert_eq!(server.command(&["PTTL", "k"]), "0");
    clock.advance(Duration::from_millis(1));
    assert_eq!(server.command(&["GET", "k"]), "");

    clock.set(MICROS - 5_000_000);
    assert_eq!(time(), (1_799_999_995, 123));
}

#[test]
fn a_clock_may_run_apart_from_the_machines() {
    let clock = ServerClock::shifted(0);
    let server = RedisServer::options().clock(&clock).start();
    let plain = RedisServer::start();
    let micros = |server: &RedisServer| {
        let (seconds, micros) = server.query::<(i64, i64)>(&["TIME"]).unwrap();
        seconds * 1_000_000 + micros
    };
    for shift in [0, 3_600_000_000, -3_600_000_000] {
        clock.shift(shift);
        let (before, shifted, after) = (micros(&plain), micros(&server), micros(&plain));
        assert!((before..=after).contains(&(shifted - shift)), "{before} {shifted} {after}");
    }
    clock.shift(0);
    clock.advance(Duration::from_secs(60));
    assert!(micros(&server) - micros(&plain) > 59_000_000);
}

#[test]
fn a_frozen_clock_makes_no_answer_late() {
    let clock = ServerClock::frozen(MICROS);
    let server = RedisServer::options().clock(&clock).start();
    let mut connection = server.connect().unwrap();
    let mut worst = Duration::ZERO;
    let start = Instant::now();
    for round in 0..1_000 {
        clock.advance(Duration::from_millis(1));
        let before = Instant::now();
        let (seconds, micros): (i64, i64) = redis::cmd("TIME").query(&mut connection).unwrap();
        worst = worst.max(before.elapsed());
        assert_eq!(seconds * 1_000_000 + micros, MICROS + (round + 1) * 1_000);
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}, the worst {worst:?}", start.elapsed());
    eprintln!("1,000 requests took {:?}, the worst {worst:?}", start.elapsed());
}

#[test]
fn tls_is_spoken_with_those_whom_both_sides_trust() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let tls = Tls::new();
    let server = RedisServer::options().tls(&tls).start();
    let ping = |certificates| {
        let client = redis::Client::build_with_tls(server.tls_url(), certificates)?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
        redis::cmd("PING").query::<String>(&mut connection)
    };
    assert_eq!(ping(tls.own.certificates(Some(&tls.own.client))).unwrap(), "PONG");
    for (certificates, why) in [
        (tls.foreign.certificates(Some(&tls.own.client)), "it trusts another authority"),
        (tls.own.certificates(Some(&tls.foreign.client)), "its certificate is foreign"),
        (tls.own.certificates(None), "it has no certificate"),
    ] {
        let error = ping(certificates).expect_err(why);
        eprintln!("{why}: {error}");
    }
    assert_eq!(server.command(&["PING"]), "PONG");
}

#[test]
fn machines_reach_each_other_unless_they_are_cut_off() {
    let net = Net::new(3);
    let [server, near, far] = [0, 1, 2].map(|index| net.host(index));
    let redis = RedisServer::options().on(&server).start();
    let ping = |host: &Host, limit| {
        host.run(|| {
            let client = redis::Client::open(redis.url()).unwrap();
            let mut connection = client.get_connection_with_timeout(limit)?;
            redis::cmd("PING").query::<String>(&mut connection)
        })
    };
    let reached = |host| ping(host, Duration::from_secs(10)).is_ok_and(|answer| answer == "PONG");
    let cut_off = |host| ping(host, Duration::from_millis(200)).is_err_and(|error| error.is_timeout());
    assert!(reached(&near) && reached(&far));

    server.cut_from(&far);
    assert!(reached(&near) && cut_off(&far));
    server.rejoin(&far);
    assert!(reached(&far));

    near.deafen_to(&server);
    assert!(cut_off(&near));
    server.isolate();
    assert!(cut_off(&far));
    assert_eq!(redis.command(&["PING"]), "PONG");
    net.heal_all();
    assert!(reached(&near) && reached(&far));

    let output = far.command("redis-cli").args(["-u", &redis.url(), "PING"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "PONG\n");
}

#[test]
fn a_cut_keeps_connections_and_tells_nobody() {
    let net = Net::new(2);
    let [server, client] = [0, 1].map(|index| net.host(index));
    let redis = RedisServer::options().on(&server).start();
    let mut connection = client.run(|| redis::Client::open(redis.url()).unwrap().get_connection().unwrap());
    connection.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    server.isolate();
    assert!(redis::cmd("INCR").arg("k").query::<i64>(&mut connection).unwrap_err().is_timeout());
    assert_eq!(redis.command(&["GET", "k"]), "");
    net.heal_all();
    servers::eventually("what was sent comes late", || redis.command(&["GET", "k"]) == "1");
}

#[test]
fn sentinels_elect_another_primary_when_the_first_is_killed() {
    let begin = Instant::now();
    let options = RedisServer::options().persistence(Persistence::Aof).password("secret");
    let mut set = SentinelSet::options().servers(options).sentinel_password("watch").start();
    eprintln!("the set took {:?}", begin.elapsed());
    let first = set.primary_address();
    assert_eq!(set.server_at(first), 0);
    set.servers[0].command(&["SET", "k", "v"]);
    assert_eq!(set.servers[0].command(&["WAIT", "2", "5000"]), "2");
    set.servers[0].kill();
    let second = set.wait_for_failover(first);
    eprintln!("with the failover {:?}", begin.elapsed());
    let primary = set.server_at(second);
    assert_ne!(primary, 0);
    assert_eq!(set.servers[primary].command(&["GET", "k"]), "v");

    set.servers[0].restart();
    set.wait_for_replicas(primary, 2);
    set.restart_sentinel(0);
    set.wait_until_watched();
    assert_eq!(set.primary_address(), second);
    eprintln!("with the return {:?}", begin.elapsed());
}

#[test]
fn sentinels_elect_another_primary_when_the_machine_of_the_first_is_cut_off() {
    let net = Net::new(7);
    let users = RedisServer::options().users(&["user alice on >secret ~* +@all"]);
    let set = SentinelSet::options().servers(users).on(&net).start();
    let first = set.primary_address();
    let client = net.host(6);
    let ask = || {
        client.run(|| {
            let client = redis::Client::open(&*set.sentinel_urls()[0]).unwrap();
            let mut connection = client.get_connection_with_timeout(Duration::from_secs(10)).unwrap();
            let request = ["GET-MASTER-ADDR-BY-NAME", "mymaster"];
            redis::cmd("SENTINEL").arg(&request).query::<(String, u16)>(&mut connection).unwrap()
        })
    };
    assert_eq!(ask(), (first.ip().to_string(), first.port()));
    set.server_host(0).isolate();
    let second = set.wait_for_failover(first);
    assert_ne!(second, first);
    // It does not know, and takes what it gets.
    assert_eq!(set.servers[0].command(&["SET", "k", "v"]), "OK");
    servers::eventually("the other Sentinel says the same", || {
        ask() == (second.ip().to_string(), second.port())
    });

    net.heal_all();
    set.wait_for_replicas(set.server_at(second), 2);
    assert_eq!(set.servers[0].command(&["GET", "k"]), "", "what it took is lost");
}

#[test]
fn a_cluster_answers_for_its_keys_and_points_at_others() {
    let options = RedisServer::options().password("secret").persistence(Persistence::Aof);
    let mut cluster = RedisCluster::with(options);
    let key = "{lock}";
    let node = cluster.node_of(key);
    let other = (node + 1) % cluster.nodes.len();
    let set =
        |node: usize| cluster.nodes[node].query::<String>(&["SET", key, "v"]).map_err(|error| error.kind());
    let moved = Err(redis::ErrorKind::Server(redis::ServerErrorKind::Moved));
    assert_eq!((set(node), set(other)), (Ok("OK".to_owned()), moved.clone()));

    cluster.move_slot(cluster.slot_of(key), node, other);
    assert_eq!((set(node), set(other)), (moved, Ok("OK".to_owned())));
    cluster.nodes[other].restart();
    cluster.wait_until_ready();
    assert_eq!(cluster.nodes[other].command(&["GET", key]), "v");
}
