//! One Redis server: a process, a directory and a port of its own.
//!
//! Its settings are in a file in its directory, which it may rewrite, as under Sentinel; so what a restarted
//! server knows is what the file and the data say.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use redis::{Client, Connection, FromRedisValue, RedisResult, Value};
use tempfile::TempDir;

use super::clock::ServerClock;
use super::eventually;
use super::net::Host;
use super::port::Port;
use super::process::Process;
use super::tls::Tls;

/// What a server keeps of its data when it is killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing.
    #[default]
    None,
    /// Every write that was answered, as long as the machine lives: `appendfsync everysec`.
    Aof,
    /// Every write that was answered: `appendfsync always`.
    AofAlways,
    /// What was there at the last SAVE.
    Rdb,
}

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    persistence: Persistence,
    password: Option<String>,
    users: Option<Vec<String>>,
    kind: Kind,
    clock: Option<ServerClock>,
    tls: Option<Tls>,
    host: Option<Host>,
    lines: Vec<String>,
}

/// The user that speaks for the test, where there are users.
const TESTER: (&str, &str) = ("tester", "tester");

impl Options {
    /// What is kept over a restart; nothing, if it isn't said.
    pub fn persistence(mut self, persistence: Persistence) -> Self {
        self.persistence = persistence;
        self
    }

    /// The password of the default user, also between a primary and its replicas.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// The users, as lines of an ACL file: `user alice on >secret ~lock:* +@all`. Who is not named is not let in:
    /// the default user is off.
    pub fn users(mut self, lines: &[&str]) -> Self {
        self.users = Some(lines.iter().map(|&line| line.to_owned()).collect());
        self
    }

    /// A node of a cluster.
    pub fn cluster(mut self) -> Self {
        self.kind = Kind::ClusterNode;
        self
    }

    /// A server that believes this clock.
    pub fn clock(mut self, clock: &ServerClock) -> Self {
        self.clock = Some(clock.clone());
        self
    }

    /// A Sentinel, whose lines say what it watches. Of the other options it has its password and its machine.
    pub fn sentinel(mut self) -> Self {
        self.kind = Kind::Sentinel;
        self
    }

    /// A server that answers in TLS too, on a port of its own, to clients that show a certificate of its
    /// authority's (`tls-auth-clients no`, as a line of its settings, lets all of them in).
    pub fn tls(mut self, tls: &Tls) -> Self {
        self.tls = Some(tls.clone());
        self
    }

    /// A server on a machine of a network.
    pub fn on(mut self, host: &Host) -> Self {
        self.host = Some(host.clone());
        self
    }

    /// One more line of redis.conf; it wins over all that the other options say.
    pub fn config(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// The user and the password with which a test may do all.
    pub(super) fn credentials(&self) -> (Option<&str>, Option<&str>) {
        match (&self.users, &self.password) {
            (Some(_), _) => (Some(TESTER.0), Some(TESTER.1)),
            (None, password) => (None, password.as_deref()),
        }
    }

    /// Starts the server, and waits until it answers.
    pub fn start(self) -> RedisServer {
        for _ in 0..20 {
            let mut server = RedisServer::prepare(self.clone());
            if server.spawn() == Start::Answers {
                return server;
            }
        }
        panic!("no port is free for redis-server");
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Server,
    ClusterNode,
    Sentinel,
}

#[derive(Debug, PartialEq, Eq)]
enum Start {
    Answers,
    PortIsTaken,
}

/// A Redis server, which ends with the test at the latest.
#[derive(Debug)]
pub struct RedisServer {
    // It ends before its directory and its port do: fields are dropped in this order.
    process: Option<Process>,
    options: Options,
    dir: TempDir,
    port: Port,
    tls_port: Option<Port>,
}

impl RedisServer {
    /// Starts a server that keeps nothing, needs no password, and answers on loopback and on a Unix socket.
    pub fn start() -> Self {
        Self::options().start()
    }

    /// A server that is to be started otherwise.
    pub fn options() -> Options {
        Options::default()
    }

    /// How it was started.
    pub(super) fn started(&self) -> &Options {
        &self.options
    }

    fn prepare(options: Options) -> Self {
        let dir = tempfile::Builder::new().prefix("lockfs-redis-").tempdir().expect("a temporary directory");
        let port = if options.kind == Kind::ClusterNode { Port::free_with_bus() } else { Port::free() };
        let tls_port = options.tls.as_ref().map(|_| Port::free());
        let server = Self { process: None, options, dir, port, tls_port };
        fs::create_dir(server.data_dir()).unwrap();
        fs::write(server.dir().join("redis.conf"), server.settings()).unwrap();
        if let Some(users) = &server.options.users {
            let (name, password) = TESTER;
            let tester = format!("user {name} on >{password} ~* &* +@all");
            let lines = [tester, "user default off".to_owned()];
            let text: String = lines.iter().chain(users).map(|line| format!("{line}\n")).collect();
            fs::write(server.dir().join("users.acl"), text).unwrap();
        }
        server
    }

    fn settings(&self) -> String {
        let options = &self.options;
        let mut lines = vec![
            "daemonize no".to_owned(),
            "always-show-logo no".to_owned(),
            format!("bind {}", self.address()),
            "protected-mode no".to_owned(),
            format!("port {}", self.port()),
            format!("unixsocket {}", self.socket().display()),
            format!("dir {}", self.data_dir().display()),
        ];
        if let Some(password) = &options.password {
            lines.push(format!("requirepass {password}"));
        }
        if options.kind != Kind::Sentinel {
            lines.extend(self.data_settings());
        }
        lines.extend(options.lines.iter().cloned());
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// What a Sentinel has no use for.
    fn data_settings(&self) -> Vec<String> {
        let options = &self.options;
        // A replica gets its data at once.
        let mut lines = vec!["repl-diskless-sync-delay 0".to_owned(), "enable-debug-command yes".to_owned()];
        let persistence: &[&str] = match options.persistence {
            Persistence::None => &["save \"\"", "appendonly no"],
            Persistence::Aof => &["save \"\"", "appendonly yes", "appendfsync everysec"],
            Persistence::AofAlways => &["save \"\"", "appendonly yes", "appendfsync always"],
            Persistence::Rdb => &["save 3600 1", "appendonly no"],
        };
        lines.extend(persistence.iter().map(|&line| line.to_owned()));
        let (user, password) = options.credentials();
        lines.extend(user.map(|user| format!("masteruser {user}")));
        lines.extend(password.map(|password| format!("masterauth {password}")));
        if options.users.is_some() {
            lines.push(format!("aclfile {}", self.dir().join("users.acl").display()));
        }
        if options.kind == Kind::ClusterNode {
            lines.push("cluster-enabled yes".to_owned());
            lines.push("cluster-node-timeout 1000".to_owned());
        }
        if let Some(tls) = &options.tls {
            lines.push(format!("tls-port {}", self.tls_port()));
            lines.extend(tls.settings());
        }
        lines
    }

    /// Where it answers.
    pub fn address(&self) -> Ipv4Addr {
        self.options.host.as_ref().map_or(Ipv4Addr::LOCALHOST, Host::address)
    }

    /// The port on which it answers.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The port on which it answers in TLS.
    pub fn tls_port(&self) -> u16 {
        self.tls_port.as_ref().expect("the server was started with TLS").number()
    }

    /// Its URL in TLS, without a password.
    pub fn tls_url(&self) -> String {
        format!("rediss://{}:{}", self.address(), self.tls_port())
    }

    /// Its URL, without a password.
    pub fn url(&self) -> String {
        format!("redis://{}:{}", self.address(), self.port())
    }

    /// Its URL for a user; the user "" is the default one.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        format!("redis://{user}:{password}@{}:{}", self.address(), self.port())
    }

    /// The URL of its Unix socket, without a password.
    pub fn unix_url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("redis.sock")
    }

    /// Its own directory, with its redis.conf and its log.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where its data is.
    pub fn data_dir(&self) -> PathBuf {
        self.dir().join("data")
    }

    /// What it logged, in all its runs.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir().join("log")).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the server runs").id()
    }

    /// Kills it as a crash would, and waits until it is gone.
    pub fn kill(&mut self) {
        self.process.take().expect("the server runs").kill();
    }

    /// Kills it if it runs, and starts it again with the same port, directory and data. Returns when it answers.
    pub fn restart(&mut self) {
        self.process = None;
        assert_eq!(self.spawn(), Start::Answers, "the port of a server is taken: {}", self.log());
    }

    /// The same, without the data.
    pub fn restart_empty(&mut self) {
        self.process = None;
        fs::remove_dir_all(self.data_dir()).unwrap();
        fs::create_dir(self.data_dir()).unwrap();
        self.restart();
    }

    /// Stops it: it takes connections and requests, and answers none. Returns when it stands still.
    pub fn pause(&mut self) {
        self.process.as_mut().expect("the server runs").pause();
    }

    /// Lets it go on; it answers what came meanwhile.
    pub fn resume(&mut self) {
        self.process.as_mut().expect("the server runs").resume();
    }

    /// Runs a command and returns its answer, as redis-cli would print it. Fails on an error.
    pub fn command(&self, words: &[&str]) -> String {
        match self.query::<Value>(words) {
            Ok(value) => printed(&value),
            Err(error) => panic!("{}: {error}", words.join(" ")),
        }
    }

    /// Runs a command and returns its answer, or its error, or that there was no answer for 5 seconds.
    pub fn query<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let mut request = redis::Cmd::new();
        for word in words {
            request.arg(word);
        }
        request.query(&mut self.connect()?)
    }

    /// A connection of the test's own over the Unix socket, which no partition cuts.
    pub fn connect(&self) -> RedisResult<Connection> {
        let credentials = match self.options.credentials() {
            (Some(user), Some(password)) => format!("?user={user}&pass={password}"),
            (None, Some(password)) => format!("?pass={password}"),
            (_, None) => String::new(),
        };
        let client = Client::open(self.unix_url() + &credentials)?;
        let limit = Duration::from_secs(5);
        let connection = client.get_connection_with_timeout(limit)?;
        connection.set_read_timeout(Some(limit))?;
        connection.set_write_timeout(Some(limit))?;
        Ok(connection)
    }

    /// Waits until it answers, with its data in place.
    pub fn wait_until_ready(&self) {
        eventually(&format!("{} answers", self.url()), || self.answers());
    }

    fn answers(&self) -> bool {
        self.query::<String>(&["PING"]).is_ok_and(|answer| answer == "PONG")
    }

    fn spawn(&mut self) -> Start {
        // A socket of the last run would refuse connections until the server replaces it.
        let _ = fs::remove_file(self.socket());
        let before = self.log().len();
        let log = fs::File::options().create(true).append(true).open(self.dir().join("log")).unwrap();
        let host = self.options.host.as_ref();
        let mut command =
            host.map_or_else(|| Command::new("redis-server"), |host| host.command("redis-server"));
        command.arg(self.dir().join("redis.conf")).current_dir(self.dir());
        if self.options.kind == Kind::Sentinel {
            command.arg("--sentinel");
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        if let Some(clock) = &self.options.clock {
            clock.rule(&mut command);
        }
        let mut process = Process::start(command);
        let mut ended = false;
        eventually(&format!("redis-server answers; its directory: {}", self.dir().display()), || {
            ended = process.ended().is_some();
            ended || self.answers()
        });
        if !ended {
            self.process = Some(process);
            return Start::Answers;
        }
        let log = self.log();
        let reason = &log[before..];
        assert!(reason.contains("Address already in use"), "redis-server ended: {reason}");
        Start::PortIsTaken
    }
}

/// An answer as redis-cli prints it: elements of arrays a line each.
pub fn printed(value: &Value) -> String {
    match value {
        Value::Nil => String::new(),
        Value::Okay => "OK".to_owned(),
        Value::Int(number) => number.to_string(),
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::Array(values) | Value::Set(values) => {
            values.iter().map(printed).collect::<Vec<_>>().join("\n")
        }
        other => format!("{other:?}"),
    }
}
