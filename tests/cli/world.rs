//! What the tests of the command line share: a mount of their own, other jobs, and what commands say.

use std::fs;
use std::io::Read;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A user who is nobody in particular.
pub(crate) const NOBODY: u32 = 65_534;

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A place to mount on and a place for data; a mount, once [`mount`](World::mount) was called.
pub(crate) struct World {
    pub(crate) dir: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        assert!(Path::new("/dev/fuse").exists(), "these tests need /dev/fuse");
        let dir = tempfile::Builder::new().prefix("lockfs-cli-").tempdir().unwrap();
        fs::create_dir(dir.path().join("locks")).unwrap();
        Self { dir }
    }

    /// A world whose mount answers.
    pub(crate) fn mounted() -> Self {
        let world = Self::new();
        world.mount(&[]).succeeds();
        world
    }

    pub(crate) fn mount(&self, flags: &[&str]) -> Said {
        let point = self.point();
        let mut words = vec!["mount"];
        words.extend_from_slice(flags);
        words.push(point.to_str().unwrap());
        self.lockfs(&words)
    }

    pub(crate) fn umount(&self, flags: &[&str]) -> Said {
        let point = self.point();
        let mut words = vec!["umount"];
        words.extend_from_slice(flags);
        words.push(point.to_str().unwrap());
        self.lockfs(&words)
    }

    /// Where the tree is.
    pub(crate) fn point(&self) -> PathBuf {
        self.dir.path().join("locks")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.point().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockfs"));
        let inherited = ["PATH", "HOME"].map(|name| (name, std::env::var_os(name).unwrap_or_default()));
        command.args(words).env_clear().envs(inherited).current_dir(self.dir.path());
        command
            .env("LOCKFS_CONFIG", "")
            .env("LOCKFS_DATA_DIR", self.data())
            .env("LOCKFS_MOUNT", self.point());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a script as another user, to whom the mountpoint belongs and who has a copy of the program beside it, in a
    /// mount namespace where that one may open `/dev/fuse`, whatever this machine allows.
    pub(crate) fn script_as_nobody(&self, script: &str) -> Said {
        chown(self.point(), Some(NOBODY), Some(NOBODY)).expect("this test needs root");
        self.lockfs_as_nobody(&["--version"]).succeeds();
        let outer = "mknod -m 666 fuse c 10 229 && mount --bind fuse /dev/fuse && \
                     exec setpriv --reuid=65534 --regid=65534 --clear-groups sh -ec \"$1\"";
        let command = self.command(&[]);
        let environment = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let words = ["--mount", "--propagation", "private", "sh", "-ec", outer, "sh", script];
        let mut unshare = Command::new("unshare");
        unshare.args(words).env_clear().envs(environment).current_dir(self.dir.path()).stdin(Stdio::null());
        Said::from(unshare.output().unwrap())
    }

    /// The same as another user, who has a copy of the program that everybody may run.
    pub(crate) fn lockfs_as_nobody(&self, words: &[&str]) -> Said {
        let program = self.dir.path().join("lockfs");
        if !program.exists() {
            fs::copy(env!("CARGO_BIN_EXE_lockfs"), &program).unwrap();
            chown(self.dir.path(), Some(NOBODY), Some(NOBODY)).expect("this test needs root");
        }
        let command = self.command(words);
        let environment =
            command.get_envs().map(|(name, value)| (name.to_owned(), value.unwrap().to_owned()));
        let environment: Vec<_> = environment.collect();
        let mut command = Command::new(program);
        command.args(words).env_clear().envs(environment).current_dir("/").stdin(Stdio::null());
        Said::from(command.uid(NOBODY).gid(NOBODY).process_group(0).output().unwrap())
    }

    pub(crate) fn lockfs(&self, words: &[&str]) -> Said {
        Said::from(self.command(words).output().unwrap())
    }

    /// Holds `name` from another job, until the holder is dropped.
    pub(crate) fn hold(&self, name: &str) -> Holder {
        let child = self.command(&["run", name, "--", "sleep", "1000"]).process_group(0).spawn().unwrap();
        eventually("the lock is held", || self.path(name).exists());
        Holder(child)
    }

    /// Starts a command in a job of its own.
    pub(crate) fn start(&self, words: &[&str]) -> Holder {
        Holder(self.command(words).process_group(0).spawn().unwrap())
    }

    /// Starts a command in a job of its own that is to wait for `name`, and waits until it does.
    pub(crate) fn start_waiting(&self, name: &str, words: &[&str]) -> Holder {
        let before = self.waiting(name);
        let waiter = self.start(words);
        eventually("it waits", || self.waiting(name) == before + 1);
        waiter
    }

    /// How many wait for `name`, as its door says.
    pub(crate) fn waiting(&self, name: &str) -> usize {
        let door = fs::read_to_string(self.path(".wait").join(name)).unwrap();
        door.lines().filter(|line| line.starts_with("waiter: ")).count()
    }

    /// The number of the daemon's process.
    pub(crate) fn daemon(&self) -> String {
        let status = fs::read_to_string(self.path(".lockfs/status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix("pid:")).unwrap().trim().to_owned()
    }

    pub(crate) fn is_mounted(&self) -> bool {
        fs::read_to_string("/proc/self/mountinfo").unwrap().contains(self.point().to_str().unwrap())
    }

    /// The one lock `name` as `lockfs ls --json` has it, as the text of its line.
    pub(crate) fn listed(&self, name: &str) -> String {
        let said = self.lockfs(&["ls", "--json"]).succeeds();
        let start = format!("{{\"path\":\"{name}\",");
        said.stdout.lines().find(|line| line.starts_with(&start)).unwrap_or_default().to_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        while self.is_mounted() && self.umount(&["--lazy"]).code == 0 {}
    }
}

/// Another job that holds a lock.
pub(crate) struct Holder(pub(crate) Child);

impl Holder {
    /// How it ended, within the limit.
    pub(crate) fn end(&mut self) -> i32 {
        let mut code = None;
        eventually("the holder ends", || {
            code = self.0.try_wait().unwrap();
            code.is_some()
        });
        code.unwrap().code().unwrap()
    }

    pub(crate) fn pid(&self) -> String {
        self.0.id().to_string()
    }

    pub(crate) fn stderr(&mut self) -> String {
        let mut text = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            kill("TERM", &self.0.id().to_string());
            let start = Instant::now();
            while matches!(self.0.try_wait(), Ok(None)) && start.elapsed() < LIMIT / 10 {
                sleep(Duration::from_millis(10));
            }
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("what is said is UTF-8");
        Self { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Said {
    #[track_caller]
    pub(crate) fn succeeds(self) -> Self {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{}", self.stdout);
        self
    }

    /// Success, and not a word.
    #[track_caller]
    pub(crate) fn succeeds_silently(self) {
        assert_eq!(self.succeeds().stdout, "");
    }

    /// Failure with `code`, nothing on stdout, and one line on stderr that has all of `parts`.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, parts: &[&str]) {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{}", self.stderr);
        assert!(self.stderr.starts_with("lockfs: ") && self.stderr.lines().count() == 1, "{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "no '{part}' in: {}", self.stderr);
        }
    }
}

#[track_caller]
pub(crate) fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        sleep(Duration::from_millis(10));
    }
}

pub(crate) fn kill(signal: &str, pid: &str) {
    Command::new("kill").args(["-s", signal, pid]).status().unwrap();
}

pub(crate) fn is_running(pid: &str) -> bool {
    // A zombie of another's is gone for our purposes.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}
