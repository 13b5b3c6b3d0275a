//! Links to real servers: how they are reached, what they find there, and when they are over.
//!
//! What goes wrong otherwise: the client crate of Redis waits for ever by default, goes on with a connection
//! that is out of step after a timeout, and says OK from a deposed primary for seconds after a failover.

#[path = "servers/mod.rs"]
mod servers;

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockfs::clock::SystemClock;
use lockfs::store::redis::{Endpoint, Fault, Link, LinkError, Login, Place, Primary, Secret, Tls};
use redis::{Cmd, Value};
use servers::cluster::RedisCluster;
use servers::redis::RedisServer;
use servers::sentinel::{SERVICE, SentinelSet};
use servers::{eventually, within};

const TAG: &str = "default";

fn endpoint(url: &str) -> Endpoint {
    Endpoint { command_timeout: Duration::from_secs(2), ..Endpoint::parse(url).unwrap() }
}

fn primary(endpoint: Endpoint) -> Arc<Primary> {
    Primary::start(endpoint, TAG, Arc::new(SystemClock)).unwrap()
}

fn link(url: &str) -> Link {
    Link::connect(&primary(endpoint(url))).unwrap()
}

/// Why there is no link. Nothing that it says has the password `hunter2`.
fn refusal(endpoint: Endpoint) -> LinkError {
    let primary = primary(endpoint);
    let error = Link::connect(&primary).expect_err("no link");
    for text in [error.to_string(), format!("{error:?}"), format!("{primary:?}")] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    assert!(!error.is_unknown(), "{error}");
    error
}

fn command(words: &[&str]) -> Cmd {
    let mut command = Cmd::new();
    for word in words {
        command.arg(*word);
    }
    command
}

fn ask(link: &mut Link, words: &[&str]) -> Result<Value, LinkError> {
    link.query(&command(words))
}

fn text(value: Value) -> String {
    servers::redis::printed(&value)
}

// Reaching

#[test]
fn a_link_reaches_redis_by_tcp_and_by_socket() {
    let server = RedisServer::start();
    let by_name = server.url().replace("127.0.0.1", "localhost");
    for url in [server.url(), by_name, server.unix_url()] {
        let mut link = link(&url);
        assert_eq!(ask(&mut link, &["SET", "k", &url]), Ok(Value::Okay));
        assert_eq!(text(ask(&mut link, &["GET", "k"]).unwrap()), url);
        assert_eq!(text(ask(&mut link, &["CLIENT", "GETNAME"]).unwrap()), "lockfs");
        let about = link.server();
        assert_eq!((about.role.as_str(), about.appendonly), ("master", Some(false)));
        assert!(about.version >= (7, 0, 0), "{about:?}");
        assert_eq!((about.run_id.len(), about.replication_id.len()), (40, 40));
        assert_eq!(about.maxmemory_policy.as_deref(), Some("noeviction"));
        assert!(link.is_usable());
    }
}

#[test]
fn a_link_is_in_its_database() {
    let server = RedisServer::start();
    ask(&mut link(&format!("{}/3", server.url())), &["SET", "k", "v"]).unwrap();
    assert_eq!(server.command(&["GET", "k"]), "");
    let mut socket = link(&format!("{}?db=3", server.unix_url()));
    assert_eq!(text(ask(&mut socket, &["GET", "k"]).unwrap()), "v");
    let error = refusal(endpoint(&format!("{}/99", server.url())));
    assert!(error.to_string().contains("has no database 99 for us"), "{error}");
}

#[test]
fn nobody_there_is_said_at_once_and_nothing_was_sent() {
    let mut server = RedisServer::start();
    let (url, socket) = (server.url(), server.unix_url());
    server.kill();
    let error = refusal(endpoint(&url));
    let address = url.trim_start_matches("redis://");
    assert_eq!(error.to_string(), format!("cannot reach redis at {address}: connection refused"));
    assert!(!error.was_sent());
    assert!(matches!(refusal(endpoint(&socket)), LinkError::Unreachable { .. }));
    assert!(matches!(refusal(endpoint("redis://no-such-host.invalid")), LinkError::Unreachable { .. }));
}

#[test]
fn a_server_that_trickles_does_not_stretch_the_connect_timeout() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let trickle = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        while stream.write_all(b"+").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let start = Instant::now();
    let error = refusal(Endpoint { connect_timeout: Duration::from_millis(300), ..endpoint(&url) });
    assert!(error.to_string().ends_with("timed out after 0.3s"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    trickle.join().unwrap();
}

#[test]
fn what_is_no_redis_is_no_redis() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let web = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        stream
    });
    let error = refusal(endpoint(&url));
    assert!(error.to_string().ends_with("what it says is not the protocol of Redis"), "{error}");
    drop(web.join());
}

// Getting in

#[test]
fn a_password_opens_and_a_wrong_one_does_not() {
    let server = RedisServer::options().password("right").start();
    let mut open = link(&server.url_as("", "right"));
    assert_eq!(ask(&mut open, &["SET", "k", "v"]), Ok(Value::Okay));
    let error = refusal(endpoint(&server.url_as("", "hunter2")));
    assert!(
        error
            .to_string()
            .ends_with("refused the password of user 'default' (REDIS_PASSWORD, REDIS_PASSWORD_FILE)"),
        "{error}"
    );
    let error = refusal(endpoint(&server.url()));
    assert!(error.to_string().contains("wants a password: set REDIS_PASSWORD"), "{error}");
    let server = RedisServer::start();
    let error = refusal(endpoint(&server.url_as("", "hunter2")));
    assert!(error.to_string().contains("has no password, but one is set here"), "{error}");
}

#[test]
fn an_acl_user_sees_its_keys_alone() {
    let users =
        ["user locks on >hunter2 ~lockfs:* +@all -@dangerous +info", "user blind on >hunter2 ~* +get"];
    let server = RedisServer::options().users(&users).start();
    let mut link = link(&server.url_as("locks", "hunter2"));
    assert_eq!(ask(&mut link, &["SET", "lockfs:k", "v"]), Ok(Value::Okay));
    let error = ask(&mut link, &["SET", "other", "v"]).unwrap_err();
    assert_eq!(error.fault(), Some(Fault::Denied), "{error}");
    assert!(link.is_usable() && !error.is_unknown());
    assert!(!format!("{link:?}").contains("hunter2"), "{link:?}");
    let error = refusal(endpoint(&server.url_as("locks", "wrong")));
    assert!(error.to_string().contains("refused the password of user 'locks'"), "{error}");
    let error = refusal(endpoint(&server.url_as("blind", "hunter2")));
    assert!(error.to_string().contains("give the user +info"), "{error}");
}

#[test]
fn tls_needs_the_right_authority_and_the_right_client() {
    let files = servers::tls::Tls::new();
    let server = RedisServer::options().tls(&files).start();
    let with = |ca: Option<&std::path::Path>, client: Option<&servers::tls::Identity>| {
        let tls = Tls {
            ca_file: ca.map(Into::into),
            cert_file: client.map(|client| client.certificate.clone()),
            key_file: client.map(|client| client.key.clone()),
        };
        Endpoint { tls: Some(tls), ..endpoint(&server.tls_url()) }
    };
    let (own, foreign) = (&files.own, &files.foreign);
    let mut link = Link::connect(&primary(with(Some(&own.ca), Some(&own.client)))).unwrap();
    let long = "x".repeat(200_000);
    assert_eq!(ask(&mut link, &["SET", "k", &long]), Ok(Value::Okay));
    assert_eq!(text(ask(&mut link, &["GET", "k"]).unwrap()), long);
    assert!(ask(&mut link, &["PING"]).is_ok() && link.is_usable());

    // It says farewell, which is in the way of a look at the socket alone.
    let mut other = Link::connect(&primary(with(Some(&own.ca), Some(&own.client)))).unwrap();
    ask(&mut link, &["CLIENT", "KILL", "TYPE", "normal"]).unwrap();
    let error = ask(&mut other, &["PING"]).unwrap_err();
    assert!(matches!(error, LinkError::Over { .. }), "{error:?}");

    let unfit = |endpoint| match refusal(endpoint) {
        LinkError::Unfit { why, .. } => why,
        other => panic!("{other:?}"),
    };
    let why = unfit(with(Some(&foreign.ca), Some(&own.client)));
    assert!(why.contains("invalid peer certificate"), "{why}");
    let why = unfit(with(Some(&own.ca), None));
    assert!(why.contains("CertificateRequired"), "{why}");
    let why = unfit(with(Some(&own.ca), Some(&foreign.client)));
    assert!(why.contains("can't be spoken to over TLS"), "{why}");
    let why = unfit(with(Some(&own.client.key), None));
    assert!(why.contains("there is no certificate in"), "{why}");
    // Its certificate is for 127.0.0.1 and localhost, not for every name that leads there.
    let elsewhere = server.tls_url().replace("127.0.0.1", "127.0.0.2");
    let tls = with(Some(&own.ca), Some(&own.client)).tls;
    let error = refusal(Endpoint { tls, ..endpoint(&elsewhere) });
    assert!(matches!(error, LinkError::Unreachable { .. } | LinkError::Unfit { .. }), "{error}");
    // Neither side speaks the other's language.
    let plain = server.tls_url().replace("rediss", "redis");
    assert!(!refusal(endpoint(&plain)).was_sent());
    let tls = with(Some(&own.ca), None).tls;
    let error = refusal(Endpoint { tls, ..endpoint(&server.url().replace("redis", "rediss")) });
    assert!(!error.was_sent(), "{error}");
}

#[test]
fn a_replica_is_refused() {
    let main = RedisServer::start();
    let line = format!("replicaof 127.0.0.1 {}", main.port());
    let replica = RedisServer::options().config(&line).start();
    within(Duration::from_secs(20), "the replica has its data", || {
        replica.command(&["INFO", "replication"]).contains("master_link_status:up")
    });
    let error = refusal(endpoint(&replica.url()));
    assert!(matches!(error, LinkError::NotPrimary { .. }), "{error:?}");
    assert!(error.to_string().contains("is a replica, not the primary"), "{error}");
    assert_eq!(link(&main.url()).server().replicas, 1);
}

// The end of a link

#[test]
fn a_silent_server_ends_the_link_for_good() {
    let mut server = RedisServer::start();
    let limit = Duration::from_millis(200);
    let primary = primary(Endpoint { command_timeout: limit, ..endpoint(&server.url()) });
    let mut link = Link::connect(&primary).unwrap();
    server.pause();
    let start = Instant::now();
    let error = ask(&mut link, &["SET", "k", "late"]).unwrap_err();
    assert!(matches!(error, LinkError::TimedOut { .. }) && error.is_unknown(), "{error:?}");
    assert!((limit..limit * 8).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert!(!link.is_usable());
    server.resume();
    // The late reply to SET is there by now; nobody may take it for that to GET.
    eventually("what came meanwhile is done", || server.command(&["GET", "k"]) == "late");
    let error = ask(&mut link, &["GET", "k"]).unwrap_err();
    assert!(matches!(error, LinkError::Over { .. }) && !error.was_sent(), "{error:?}");
    let mut link = Link::connect(&primary).unwrap();
    assert_eq!(text(ask(&mut link, &["GET", "k"]).unwrap()), "late");
}

#[test]
fn a_paused_server_is_not_reached_within_the_connect_timeout() {
    let mut server = RedisServer::start();
    server.pause();
    let error = refusal(Endpoint { connect_timeout: Duration::from_millis(200), ..endpoint(&server.url()) });
    assert!(error.to_string().ends_with("timed out after 0.2s"), "{error}");
    server.resume();
}

#[test]
fn a_server_that_went_while_the_link_was_idle_gets_nothing() {
    let mut server = RedisServer::start();
    for url in [server.url(), server.unix_url()] {
        let mut link = link(&url);
        server.kill();
        let error = ask(&mut link, &["SET", "k", "v"]).unwrap_err();
        assert!(matches!(error, LinkError::Over { .. }) && !error.was_sent(), "{error:?}");
        assert!(!link.is_usable());
        server.restart();
    }
}

#[test]
fn a_server_that_goes_before_the_answer_leaves_the_outcome_unknown() {
    let mut server = RedisServer::start();
    let mut link = link(&server.url());
    let waiting = std::thread::spawn(move || {
        let result = link.query_within(&command(&["BLPOP", "none", "0"]), Duration::from_secs(20));
        (result, link.is_usable())
    });
    eventually("it waits", || server.command(&["INFO", "clients"]).contains("blocked_clients:1"));
    server.kill();
    let (result, is_usable) = waiting.join().unwrap();
    assert!(matches!(result, Err(LinkError::Broken { .. })), "{result:?}");
    assert!(!is_usable);
}

#[test]
fn an_event_link_waits_longer_than_the_command_timeout() {
    let server = RedisServer::start();
    let primary =
        primary(Endpoint { command_timeout: Duration::from_millis(100), ..endpoint(&server.url()) });
    let mut link = Link::connect(&primary).unwrap();
    let read = command(&["XREAD", "BLOCK", "400", "STREAMS", "events", "$"]);
    assert_eq!(link.query_within(&read, Duration::from_secs(5)), Ok(Value::Nil));
    assert!(link.is_usable());
}

#[test]
fn errors_of_the_server_have_their_kinds() {
    let server = RedisServer::start();
    let mut link = link(&server.url());
    ask(&mut link, &["SET", "k", "v"]).unwrap();
    let kind = |link: &mut Link, words: &[&str]| ask(link, words).unwrap_err().fault().unwrap();
    assert_eq!(kind(&mut link, &["LPUSH", "k", "v"]), Fault::WrongType);
    assert_eq!(kind(&mut link, &["NONSENSE"]), Fault::Other);
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    assert_eq!(kind(&mut link, &["SET", "k", "v"]), Fault::NoReplicas);
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(kind(&mut link, &["SET", "k", "v"]), Fault::OutOfMemory);
    assert!(link.is_usable());
    // One that is a replica all of a sudden is nobody to go on with.
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    server.command(&["REPLICAOF", "127.0.0.1", "1"]);
    assert_eq!(kind(&mut link, &["SET", "k", "v"]), Fault::ReadOnly);
    assert!(!link.is_usable());
}

// Sentinel

fn sentinel_url(set: &SentinelSet) -> String {
    let hosts: Vec<_> = set.sentinels.iter().map(|s| format!("{}:{}", s.address(), s.port())).collect();
    format!("redis+sentinel://{}/{SERVICE}", hosts.join(","))
}

#[test]
fn links_follow_a_failover() {
    let set = SentinelSet::start();
    let old = set.primary_address();
    let primary = primary(endpoint(&sentinel_url(&set)));
    let generation = primary.generation();
    let mut link = Link::connect(&primary).unwrap();
    assert_eq!(link.server().address.to_string(), old.to_string());
    ask(&mut link, &["SET", "k", "v"]).unwrap();

    set.sentinels[0].command(&["SENTINEL", "FAILOVER", SERVICE]);
    let new = set.wait_for_failover(old);
    within(Duration::from_secs(5), "the link is over", || !link.is_usable());
    let error = ask(&mut link, &["GET", "k"]).unwrap_err();
    assert!(matches!(error, LinkError::Over { .. }), "{error:?}");
    within(Duration::from_secs(10), "another link is made", || match Link::connect(&primary) {
        Ok(link) => link.server().address.to_string() == new.to_string(),
        Err(_) => false,
    });
    assert_ne!(primary.generation(), generation);
}

#[test]
fn without_a_majority_there_is_no_primary_within_two_seconds() {
    let mut set = SentinelSet::start();
    let primary = primary(endpoint(&sentinel_url(&set)));
    let mut link = Link::connect(&primary).unwrap();
    set.sentinels[0].kill();
    std::thread::sleep(Duration::from_millis(2_500));
    assert!(ask(&mut link, &["PING"]).is_ok(), "two of three are a majority");
    let waiting = std::thread::spawn(move || {
        let result = link.query_within(&command(&["BLPOP", "none", "0"]), Duration::from_secs(30));
        (result, Instant::now())
    });
    let main = set.primary();
    eventually("it waits", || set.servers[main].command(&["INFO", "clients"]).contains("blocked_clients:1"));
    let start = Instant::now();
    // It is stopped, not gone: its silence counts as no vote too.
    set.sentinels[1].pause();
    let (result, end) = waiting.join().unwrap();
    assert!(matches!(result, Err(LinkError::Broken { .. })), "{result:?}");
    assert!(end - start < Duration::from_millis(2_500), "{:?}", end - start);
    let error = Link::connect(&primary).unwrap_err().to_string();
    assert!(error.contains("no majority of the sentinels names a primary of 'mymaster'"), "{error}");
    set.sentinels[1].resume();
    within(Duration::from_secs(10), "there is a primary again", || Link::connect(&primary).is_ok());
}

#[test]
fn sentinels_and_servers_have_passwords_of_their_own() {
    let set = SentinelSet::options()
        .servers(RedisServer::options().password("of-server"))
        .sentinel_password("of-sentinel")
        .start();
    let url = sentinel_url(&set);
    let told = |password: &str| {
        let mut endpoint = endpoint(&url);
        endpoint.login.password = Some(Secret::new("of-server"));
        let Place::Sentinel { login, .. } = &mut endpoint.place else { panic!() };
        *login = Login { user: None, password: Some(Secret::new(password)) };
        endpoint
    };
    assert!(Link::connect(&primary(told("of-sentinel"))).is_ok());
    let error = refusal(told("hunter2"));
    assert!(error.to_string().contains("refused the password (REDIS_SENTINEL_PASSWORD)"), "{error}");
    let error = refusal(endpoint(&url));
    assert!(error.to_string().contains("wants a password (REDIS_SENTINEL_PASSWORD)"), "{error}");
}

// Cluster

#[test]
fn a_link_goes_to_the_node_of_the_slot_and_follows_it() {
    let cluster = RedisCluster::start();
    let hosts: Vec<_> = cluster.urls().iter().map(|url| url.replace("redis://", "")).collect();
    let primary = primary(endpoint(&format!("redis+cluster://{}", hosts.join(","))));
    let key = format!("lockfs:{{{TAG}}}:gen");
    let home = cluster.node_of(&key);
    let mut link = Link::connect(&primary).unwrap();
    assert_eq!(link.server().address.to_string(), hosts[home]);
    assert_eq!(ask(&mut link, &["SET", &key, "v"]), Ok(Value::Okay));

    let next = (home + 1) % hosts.len();
    cluster.move_slot(cluster.slot_of(&key), home, next);
    let error = ask(&mut link, &["GET", &key]).unwrap_err();
    assert_eq!(error.fault(), Some(Fault::Moved), "{error}");
    assert!(!link.is_usable());
    // The nodes tell each other in their own time.
    within(Duration::from_secs(20), "the other node is found", || {
        let mut link = Link::connect(&primary).unwrap();
        ask(&mut link, &["GET", &key]).is_ok_and(|value| text(value) == "v")
    });
}

#[test]
fn one_node_that_answers_is_enough() {
    let cluster = RedisCluster::start();
    let home = cluster.node_of(&format!("{{{TAG}}}"));
    let live = cluster.urls()[home].replace("redis://", "");
    let url = format!("redis+cluster://127.0.0.1:1,{live}");
    assert!(Link::connect(&primary(endpoint(&url))).is_ok());
    let error = refusal(endpoint("redis+cluster://127.0.0.1:1"));
    assert!(error.to_string().contains("no node of the cluster says where the locks are"), "{error}");
    let alone = RedisServer::start();
    let error = refusal(endpoint(&alone.url().replace("redis://", "redis+cluster://")));
    assert!(error.to_string().contains("is no node of a cluster: use redis://"), "{error}");
}
