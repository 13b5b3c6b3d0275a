//! What tests on a real mount share: a mounted tree of its own for each test, and words to talk about it.
//!
//! A test that can't mount fails; it never passes by skipping.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(unreachable_pub, reason = "a module of several test binaries is nobody's crate")]

pub mod arena;
pub mod job;
pub mod programs;
pub mod sys;

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The program under test.
pub const LOCKFS: &str = env!("CARGO_BIN_EXE_lockfs");

/// A mounted tree with a store of its own; unmounted and deleted at the end.
pub struct Tree {
    dir: TempDir,
    daemon: Option<Child>,
    options: Vec<String>,
    /// Variables of the daemon's environment.
    environment: Vec<(String, String)>,
}

impl Tree {
    /// Mounts an empty tree.
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// Mounts an empty tree with more options of `lockfs mount`.
    pub fn with(options: &[&str]) -> Self {
        Self::prepared(options, |_| {})
    }

    /// The same, after `prepare` was shown where the store will be.
    pub fn prepared(options: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let mut tree = Self::unmounted(options, &[]);
        prepare(&tree.data_dir());
        tree.mount();
        tree
    }

    /// A tree that is not mounted yet, with variables of its daemon's environment.
    pub fn unmounted(options: &[&str], environment: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("lockfs-test-").tempdir().expect("a temporary directory");
        // Other users than root must be able to get to the mountpoint.
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("locks")).unwrap();
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let environment =
            environment.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        Self { dir, daemon: None, options, environment }
    }

    /// Sets a variable of the daemon's environment, for the next mount.
    pub fn set(&mut self, key: &str, value: &str) {
        self.environment.retain(|(other, _)| other != key);
        self.environment.push((key.to_owned(), value.to_owned()));
    }

    /// The root of the tree.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("locks")
    }

    /// The path of a lock.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root().join(name)
    }

    /// Where the store is, besides the mount.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A directory of the test's own, on a plain file system.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// The arguments that mount the tree in the foreground.
    pub fn mount_command(&self) -> Command {
        let mut command = Command::new(LOCKFS);
        command.env_remove("LOCKFS_SESSION").env("LOCKFS_CONFIG", "/dev/null");
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command.args(["mount", "--foreground", "--data-dir"]).arg(self.data_dir()).args(&self.options);
        command.arg(self.root());
        // A process group of its own, so that nothing that happens to the test's reaches it.
        command.process_group(0);
        command
    }

    /// Starts the daemon and waits until the mount answers.
    pub fn mount(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut daemon = self.mount_command().stdin(Stdio::null()).stderr(log).spawn().unwrap();
        eventually(&format!("the mount answers; its log: {}", self.dir.path().join("log").display()), || {
            assert!(daemon.try_wait().unwrap().is_none(), "the daemon ended: {}", self.log());
            self.root().join(".lockfs/status").exists()
        });
        self.daemon = Some(daemon);
    }

    /// What the daemon logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("it is mounted").id()
    }

    /// Kills the daemon as a crash would; the mountpoint stays behind, stale.
    pub fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("it is mounted");
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// Stops the daemon; returns when all of it stands still. What is asked of it waits.
    pub fn pause(&self) {
        signal(self.pid(), libc::SIGSTOP);
        // SAFETY: the place for the answer lives until the call returns; a child that stops is not reaped.
        let stopped = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_PID, self.pid(), &raw mut info, libc::WSTOPPED)
        };
        assert_eq!(stopped, 0, "{}", io::Error::last_os_error());
    }

    /// Lets a stopped daemon go on.
    pub fn resume(&self) {
        signal(self.pid(), libc::SIGCONT);
    }

    /// Tells the daemon to end, and waits for it.
    pub fn unmount(&mut self) {
        let mut daemon = self.daemon.take().expect("it is mounted");
        signal(daemon.id(), libc::SIGTERM);
        assert!(daemon.wait().unwrap().success(), "{}", self.log());
    }

    /// A value of `.lockfs/status`.
    pub fn status(&self, key: &str) -> String {
        let status = fs::read_to_string(self.path(".lockfs/status")).unwrap();
        let value = status.lines().find_map(|line| line.strip_prefix(&format!("{key}: ")));
        value.unwrap_or_else(|| panic!("no {key} in {status}")).to_owned()
    }

    /// A shell in a job and a login of its own, working in the root of the tree: another holder.
    pub fn shell(&self, script: &str) -> Command {
        self.shell_as(0, script)
    }

    /// The same, as a user.
    pub fn shell_as(&self, uid: u32, script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", script]).current_dir(self.root()).env_remove("LOCKFS_SESSION");
        if uid != 0 {
            command.uid(uid).gid(uid);
        }
        // SAFETY: setsid(2) is async-signal-safe.
        unsafe {
            command.pre_exec(|| if libc::setsid() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) });
        }
        command
    }

    /// Runs a script to its end, in a job of its own whose parent is not the test: it descends from nobody
    /// that holds locks. Returns what it printed.
    pub fn run(&self, script: &str) -> Output {
        self.run_as(0, script)
    }

    /// The same, as a user.
    pub fn run_as(&self, uid: u32, script: &str) -> Output {
        self.shell_as(uid, script).output().unwrap()
    }

    /// A holder that stays alive: it runs `script` in a job of its own, says so, and waits until it is dropped.
    pub fn holder(&self, script: &str) -> Holder {
        self.holder_as(0, script)
    }

    /// The same, as a user.
    pub fn holder_as(&self, uid: u32, script: &str) -> Holder {
        Holder::start(self.shell_as(uid, &format!("{script}\necho ready; read -r _")))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let root = std::ffi::CString::new(self.root().into_os_string().into_encoded_bytes()).unwrap();
        // SAFETY: the path is a string that ends with NUL.
        unsafe { libc::umount2(root.as_ptr(), libc::MNT_DETACH) };
        if let Some(mut daemon) = self.daemon.take() {
            // A test may have failed while it stood still.
            signal(daemon.id(), libc::SIGCONT);
            signal(daemon.id(), libc::SIGTERM);
            let limit = Instant::now() + Duration::from_secs(10);
            while daemon.try_wait().is_ok_and(|status| status.is_none()) && Instant::now() < limit {
                sleep(Duration::from_millis(5));
            }
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// A job that holds what its script acquired until it is told to end, or killed.
pub struct Holder(Child);

impl Holder {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line).unwrap();
        assert_eq!(line, "ready\n", "the holder's script failed");
        Self(child)
    }

    /// The process id of the shell, and number of its job.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Kills the whole job at once, and waits until it is gone.
    pub fn kill(mut self) {
        // SAFETY: kill(2) of a process group that we made.
        unsafe { libc::kill(-libc::pid_t::try_from(self.pid()).unwrap(), libc::SIGKILL) };
        self.0.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // SAFETY: kill(2) of a process group that we made.
        unsafe { libc::kill(-libc::pid_t::try_from(self.0.id()).unwrap(), libc::SIGKILL) };
        let _ = self.0.wait();
    }
}

/// Sends a signal to a process that the test started.
pub fn signal(pid: u32, signal: i32) {
    // SAFETY: kill(2) has no memory to spoil.
    unsafe { libc::kill(libc::pid_t::try_from(pid).unwrap(), signal) };
}

/// Waits until `claim` holds; fails if it does not within 20 seconds.
pub fn eventually(what: &str, mut claim: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !claim() {
        assert!(Instant::now() < limit, "it never came true that {what}");
        sleep(Duration::from_millis(5));
    }
}

/// The error number of a call that must fail.
pub fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.expect_err("the call should fail").raw_os_error().expect("an error of the system")
}
