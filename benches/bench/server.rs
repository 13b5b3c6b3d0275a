//! A Redis server of the benchmark's own, on the loopback interface. Unless it is to come back it keeps nothing on
//! disk: what a step costs is measured, and not what a disk does.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::daemon::Daemon;
use crate::place::disk_directory;
use crate::processor::On;

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    port: u16,
    daemon: Daemon,
    keeps: bool,
    dir: TempDir,
}

impl Server {
    pub(crate) fn start() -> io::Result<Self> {
        Self::begin(false)
    }

    /// One that has all again when it is restarted.
    pub(crate) fn start_kept() -> io::Result<Self> {
        Self::begin(true)
    }

    fn begin(keeps: bool) -> io::Result<Self> {
        let dir = disk_directory()?;
        // Free a moment ago: whoever takes it first makes this fail, and say so.
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let daemon = Self::spawn(port, keeps, &dir)?;
        let mut server = Self { port, daemon, keeps, dir };
        server.await_ready()?;
        Ok(server)
    }

    fn spawn(port: u16, keeps: bool, dir: &TempDir) -> io::Result<Daemon> {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--daemonize", "no", "--dir"]);
        command.arg(dir.path()).args(["--save", "", "--appendonly", if keeps { "yes" } else { "no" }]);
        command.stdout(File::options().create(true).append(true).open(dir.path().join("log"))?);
        Daemon::start(command)
    }

    fn await_ready(&mut self) -> io::Result<()> {
        let client = self.client()?;
        self.daemon.await_ready("redis-server", || {
            let ping = || redis::cmd("PING").query::<String>(&mut client.get_connection()?);
            Ok(ping().is_ok())
        })
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.daemon.kill()
    }

    /// Starts a killed one again, and waits until it answers.
    pub(crate) fn restart(&mut self) -> io::Result<()> {
        self.daemon = Self::spawn(self.port, self.keeps, &self.dir)?;
        self.await_ready()
    }

    /// Where its database of that number is.
    pub(crate) fn url(&self, database: u32) -> String {
        format!("redis://127.0.0.1:{}/{database}", self.port)
    }

    pub(crate) fn put(&self, on: On) -> io::Result<()> {
        self.daemon.put(on)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The processor time that it has taken so far.
    pub(crate) fn work(&self) -> io::Result<Duration> {
        self.daemon.work()
    }

    fn client(&self) -> io::Result<redis::Client> {
        redis::Client::open(self.url(0)).map_err(io::Error::other)
    }

    /// What INFO says in a section.
    fn info(&self, section: &str) -> io::Result<redis::InfoDict> {
        let mut connection = self.client()?.get_connection().map_err(io::Error::other)?;
        redis::cmd("INFO").arg(section).query(&mut connection).map_err(io::Error::other)
    }

    fn number(&self, section: &str, field: &str) -> io::Result<u64> {
        self.info(section)?.get(field).ok_or_else(|| io::Error::other(format!("INFO has no {field}")))
    }

    /// What it keeps takes so many bytes.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        self.number("memory", "used_memory")
    }

    /// How often it read from a client: a round trip each, where nobody sends more before the answer has come.
    pub(crate) fn reads(&self) -> io::Result<u64> {
        self.number("stats", "total_reads_processed")
    }

    /// How often each command was called, by clients or by their scripts.
    pub(crate) fn calls(&self) -> io::Result<Vec<(String, u64)>> {
        let mut connection = self.client()?.get_connection().map_err(io::Error::other)?;
        let text: String =
            redis::cmd("INFO").arg("commandstats").query(&mut connection).map_err(io::Error::other)?;
        let calls = text.lines().filter_map(|line| {
            let (name, numbers) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), numbers.split_once(',')?.0.parse().ok()?))
        });
        Ok(calls.collect())
    }
}
