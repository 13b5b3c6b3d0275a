//! Places to measure: a directory on some file system, with the daemon behind it if there is one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::daemon::Daemon;
use crate::peer::library;
use crate::processor::On;
use crate::server::Server;

/// A directory that clients work in.
pub(crate) struct Place {
    pub(crate) name: &'static str,
    root: PathBuf,
    daemon: Option<Daemon>,
    // Last, so that nothing is mounted any more when it is deleted.
    _dir: Option<TempDir>,
}

fn directory_in(parent: &Path) -> io::Result<TempDir> {
    tempfile::Builder::new().prefix("lockfs-bench-").tempdir_in(parent)
}

/// A directory on the disk that holds the build, and holds the stores too.
pub(crate) fn disk_directory() -> io::Result<TempDir> {
    directory_in(Path::new(env!("CARGO_TARGET_TMPDIR")))
}

impl Place {
    /// A plain directory on the disk.
    pub(crate) fn disk() -> io::Result<Self> {
        Ok(Self::plain("disk", disk_directory()?))
    }

    /// A plain directory in memory.
    pub(crate) fn tmpfs() -> io::Result<Self> {
        Ok(Self::plain("tmpfs", directory_in(Path::new("/dev/shm"))?))
    }

    fn plain(name: &'static str, dir: TempDir) -> Self {
        Self { name, root: dir.path().to_owned(), daemon: None, _dir: Some(dir) }
    }

    /// The null file system.
    pub(crate) fn null() -> io::Result<Self> {
        let dir = disk_directory()?;
        let root = dir.path().join("mount");
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("null").arg(&root);
        Self::mount("null", command, root, Some(dir))
    }

    /// lockfs with a new store of its own.
    pub(crate) fn lockfs() -> io::Result<Self> {
        let dir = disk_directory()?;
        let mut place = Self::lockfs_on(dir.path(), Duration::from_secs(300))?;
        place._dir = Some(dir);
        Ok(place)
    }

    /// lockfs with the store `dir/data`, mounted on `dir/mount`.
    pub(crate) fn lockfs_on(dir: &Path, ttl: Duration) -> io::Result<Self> {
        let root = dir.join("mount");
        let log = File::options().create(true).append(true).open(dir.join("log"))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockfs"));
        command.env("LOCKFS_CONFIG", "").args(["mount", "--foreground", "--data-dir"]).arg(dir.join("data"));
        command.arg("--ttl").arg(format!("{}s", ttl.as_secs())).arg(&root).stderr(log);
        Self::mount("lockfs", command, root, None)
    }

    /// The namespace of lockfs on Redis.
    pub(crate) const NAMESPACE: &str = "bench";

    /// lockfs on a Redis server.
    pub(crate) fn lockfs_redis(server: &Server) -> io::Result<Self> {
        Self::lockfs_redis_of(server, "bench-a")
    }

    /// The same, as a host of that name.
    pub(crate) fn lockfs_redis_of(server: &Server, host: &str) -> io::Result<Self> {
        Self::lockfs_over(server, &["--backend", "redis", "--namespace", Self::NAMESPACE, "--host-id", host])
    }

    /// lockfs on a Redis server with LevelDB beside it, which decides by itself when the server is gone.
    pub(crate) fn lockfs_hybrid(server: &Server) -> io::Result<Self> {
        let place =
            Self::lockfs_over(server, &["--backend", "hybrid", "--namespace", "h", "--on-outage", "local"])?;
        Ok(Self { name: "lockfs, hybrid", ..place })
    }

    fn lockfs_over(server: &Server, options: &[&str]) -> io::Result<Self> {
        let dir = disk_directory()?;
        let root = dir.path().join("mount");
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockfs"));
        command.env("LOCKFS_CONFIG", "").env("STATE_DIRECTORY", dir.path().join("state"));
        command.args(["mount", "--foreground", "--redis-url", &server.url(0)]).args(options).arg(&root);
        command.stderr(File::create(dir.path().join("log"))?);
        Self::mount("lockfs", command, root, Some(dir))
    }

    /// JuiceFS with a database of its own on the same server, and its files beside the mount. Without a trash:
    /// what is unlinked is gone.
    pub(crate) fn juicefs(server: &Server) -> io::Result<Self> {
        let dir = disk_directory()?;
        let log = File::create(dir.path().join("log"))?;
        let program = library()?.join("bin/juicefs");
        let mut format = Command::new(&program);
        // Buckets of files are the prefix of their paths: a directory ends with a slash.
        format.args(["--no-agent", "format", "--storage", "file", "--trash-days", "0", "--bucket"]);
        format.arg(dir.path().join("data/")).arg(server.url(1)).arg("bench");
        let status = format.stdout(log.try_clone()?).stderr(log.try_clone()?).status()?;
        if !status.success() {
            return Err(io::Error::other(format!("juicefs format failed: {status}")));
        }
        Self::juicefs_on(server, dir)
    }

    /// One mount more of what [`Place::juicefs`] made, as on another host.
    pub(crate) fn juicefs_again(server: &Server) -> io::Result<Self> {
        Self::juicefs_on(server, disk_directory()?)
    }

    fn juicefs_on(server: &Server, dir: TempDir) -> io::Result<Self> {
        let (root, log) = (
            dir.path().join("mount"),
            File::options().append(true).create(true).open(dir.path().join("log"))?,
        );
        let program = library()?.join("bin/juicefs");
        let mut command = Command::new(&program);
        command.args(["--no-agent", "mount", "--no-usage-report", "--no-bgjob", "--backup-meta", "0"]);
        command.args(["--metrics", "127.0.0.1:0", "--cache-dir"]).arg(dir.path().join("cache"));
        command.arg(server.url(1)).arg(&root).stdout(log.try_clone()?).stderr(log);
        Self::mount("JuiceFS", command, root, Some(dir))
    }

    fn mount(name: &'static str, command: Command, root: PathBuf, dir: Option<TempDir>) -> io::Result<Self> {
        fs::create_dir_all(&root)?;
        let device = fs::metadata(&root)?.dev();
        let mut daemon = Daemon::start(command)?;
        daemon.await_ready(name, || Ok(fs::metadata(&root)?.dev() != device)).map_err(|error| {
            let log = fs::read_to_string(root.with_file_name("log")).unwrap_or_default();
            io::Error::other(format!("{error}: {}", log.trim_end().lines().last().unwrap_or_default()))
        })?;
        Ok(Self { name, root, daemon: Some(daemon), _dir: dir })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Puts the daemon, if there is one, on some processors.
    pub(crate) fn put(&self, on: On) -> io::Result<()> {
        self.daemon.as_ref().map_or(Ok(()), |daemon| daemon.put(on))
    }

    /// The daemon's resident memory in bytes.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        self.daemon.as_ref().ok_or_else(|| io::Error::other("no daemon"))?.memory()
    }

    /// The processor time that the daemon has taken so far.
    pub(crate) fn work(&self) -> io::Result<Duration> {
        self.daemon.as_ref().ok_or_else(|| io::Error::other("no daemon"))?.work()
    }

    /// How often each kind of request came to lockfs so far, by name.
    pub(crate) fn requests(&self) -> io::Result<Vec<(String, u64)>> {
        let metrics = fs::read_to_string(self.root.join(".lockfs/metrics"))?;
        let samples = metrics.lines().filter_map(|line| {
            let (name, count) = line.strip_prefix("lockfs_requests_total{request=\"")?.split_once("\"} ")?;
            Some((name.to_owned(), count.parse().ok()?))
        });
        Ok(samples.collect())
    }

    /// A value of `.lockfs/status`.
    pub(crate) fn status(&self, key: &str) -> io::Result<String> {
        let status = fs::read_to_string(self.root.join(".lockfs/status"))?;
        let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        value.map(str::to_owned).ok_or_else(|| io::Error::other(format!("the status has no {key}")))
    }

    /// Unmounts, and waits until the daemon has ended.
    pub(crate) fn unmount(mut self) -> io::Result<()> {
        self.daemon.as_mut().map_or(Ok(()), Daemon::end)
    }
}
