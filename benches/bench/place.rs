//! Places to measure: a directory on some file system, with the daemon behind it if there is one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::processor::{self, On};

/// How long a daemon may take to mount or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that clients work in.
pub(crate) struct Place {
    pub(crate) name: &'static str,
    root: PathBuf,
    daemon: Option<Child>,
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

    fn mount(
        name: &'static str,
        mut command: Command,
        root: PathBuf,
        dir: Option<TempDir>,
    ) -> io::Result<Self> {
        fs::create_dir_all(&root)?;
        let device = fs::metadata(&root)?.dev();
        // A group of its own: it is not of the job that holds the locks. It ends with this process.
        command.stdin(Stdio::null()).process_group(0);
        // SAFETY: prctl(2) is a plain system call, and async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        let daemon = command.spawn()?;
        let mut place = Self { name, root, daemon: Some(daemon), _dir: dir };
        let limit = Instant::now() + PATIENCE;
        while fs::metadata(&place.root)?.dev() == device {
            let ended = place.daemon.as_mut().and_then(|daemon| daemon.try_wait().transpose());
            if ended.is_some() || Instant::now() > limit {
                return Err(io::Error::other(format!("{name} does not mount: {ended:?}")));
            }
            sleep(Duration::from_micros(200));
        }
        Ok(place)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Puts the daemon, if there is one, on some processors.
    pub(crate) fn put(&self, on: On) -> io::Result<()> {
        self.daemon.as_ref().map_or(Ok(()), |daemon| processor::place(daemon.id(), on))
    }

    /// The daemon's resident memory in bytes.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        let pid = self.daemon.as_ref().map_or(0, Child::id);
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("no VmRSS"))
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

    /// Unmounts, and waits until the daemon has ended.
    pub(crate) fn unmount(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(mut daemon) = self.daemon.take() else {
            return Ok(());
        };
        let pid = libc::pid_t::try_from(daemon.id()).map_err(io::Error::other)?;
        // SAFETY: kill(2) of a child that was not waited for.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let limit = Instant::now() + PATIENCE;
        while daemon.try_wait()?.is_none() {
            if Instant::now() > limit {
                daemon.kill()?;
            }
            sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
