//! A machine with a systemd of its own, booted for one test and gone with it.
//!
//! `boot.sh` makes it out of namespaces, over a copy of the files of the machine that runs the test. Commands run
//! in it as root; its files are seen through `/proc` too.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take on a loaded machine.
const LIMIT: Duration = Duration::from_secs(40);

/// The user that is there besides root.
pub(crate) const DEV: &str = "setpriv --reuid=4711 --regid=4711 --clear-groups \
                              env HOME=/home/dev XDG_RUNTIME_DIR=/run/user/4711";

/// A booted machine.
pub(crate) struct Machine {
    work: TempDir,
    /// The parent of the machine's first process.
    outer: Child,
    /// The machine's first process, by its number out here.
    init: u32,
}

impl Machine {
    /// Boots one with lockfs, its units and its helper; returns when all that starts at boot has.
    pub(crate) fn boot() -> Self {
        Self::boot_with(&[env!("CARGO_BIN_EXE_lockfs"), concat!(env!("CARGO_MANIFEST_DIR"), "/systemd")])
    }

    /// Boots one that has nothing of lockfs.
    pub(crate) fn boot_bare() -> Self {
        Self::boot_with(&[])
    }

    fn boot_with(installed: &[&str]) -> Self {
        let work = tempfile::Builder::new().prefix("lockfs-systemd-").tempdir().unwrap();
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/systemd/boot.sh");
        let log = fs::File::create(work.path().join("log")).unwrap();
        let mut boot = Command::new("bash");
        boot.arg(here).arg(work.path()).args(installed).process_group(0);
        boot.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let outer = boot.spawn().unwrap();
        let mut machine = Self { work, outer, init: 0 };
        machine.eventually("systemd is started", |machine| {
            let ended = machine.outer.try_wait().unwrap();
            assert!(ended.is_none(), "the machine does not boot: {}", machine.console());
            let outer = machine.outer.id();
            let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"));
            machine.init = children.unwrap_or_default().trim().parse().unwrap_or(0);
            fs::read_to_string(format!("/proc/{}/comm", machine.init)).is_ok_and(|name| name == "systemd\n")
        });
        machine.eventually("the machine has booted", |machine| {
            let state = machine.said("systemctl is-system-running 2>/dev/null");
            assert_ne!(state, "degraded", "{}", machine.said("systemctl --failed; journalctl --no-pager"));
            state == "running"
        });
        machine
    }

    /// What was said while it booted.
    fn console(&self) -> String {
        fs::read_to_string(self.outside("log")).unwrap_or_default()
    }

    /// Starts a Redis on its usual port, as long as the machine runs.
    pub(crate) fn start_redis(&self) {
        self.run("ip link set lo up; systemd-run --quiet --unit=a-redis redis-server --port 6379 --save ''");
        self.run("until redis-cli ping >/dev/null 2>&1; do :; done");
    }

    /// A file out here that the machine knows as `/mnt/outside/NAME`.
    pub(crate) fn outside(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    /// A file of the machine, as it is seen from here.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.init)).join(path.trim_start_matches('/'))
    }

    /// Writes a file of the machine, and the directories above it.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A shell in the machine, in a session of its own.
    pub(crate) fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args([
            "-t",
            &self.init.to_string(),
            "-m",
            "-u",
            "-i",
            "-n",
            "-p",
            "-C",
            "--",
            "setsid",
            "-w",
        ]);
        command.args(["bash", "-c", script]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("LC_ALL", "C").env("SYSTEMD_PAGER", "").current_dir("/").stdin(Stdio::null());
        command
    }

    fn output(&self, script: &str) -> Output {
        self.command(script).output().unwrap()
    }

    /// Runs a script that must succeed; returns what it printed.
    #[track_caller]
    pub(crate) fn run(&self, script: &str) -> String {
        let output = self.output(script);
        let [stdout, stderr] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        assert!(
            output.status.success(),
            "{script}: {}\n{stdout}{stderr}\n{}",
            output.status,
            self.said("journalctl --no-pager | tail -n 50")
        );
        stdout.trim().to_owned()
    }

    /// Runs a script that must fail; returns its exit code, and what it said on stderr.
    #[track_caller]
    pub(crate) fn fails(&self, script: &str) -> (i32, String) {
        let output = self.output(script);
        assert!(!output.status.success(), "{script}: it should fail");
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    /// What a script prints, whether or not it succeeds.
    pub(crate) fn said(&self, script: &str) -> String {
        String::from_utf8_lossy(&self.output(script).stdout).trim().to_owned()
    }

    /// A property of a unit, as systemctl(1) shows it.
    pub(crate) fn property(&self, unit: &str, property: &str) -> String {
        self.said(&format!("systemctl show --value -p {property} {unit}"))
    }

    /// Whether a lockfs is mounted there.
    pub(crate) fn is_mounted(&self, point: &str) -> bool {
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.init)).unwrap();
        let ours = |line: &str| line.contains(&format!(" {point} ")) && line.contains(" - fuse.lockfs ");
        mounts.lines().any(ours)
    }

    /// Waits until `claim` holds.
    #[track_caller]
    pub(crate) fn eventually(&mut self, what: &str, mut claim: impl FnMut(&mut Self) -> bool) {
        let limit = Instant::now() + LIMIT;
        while !claim(self) {
            if Instant::now() > limit {
                let journal = self.said("journalctl --no-pager | tail -n 50");
                panic!("it never came true that {what}\n{}\n{journal}", self.console());
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// Switches it off, and waits until it is.
    pub(crate) fn power_off(&mut self) {
        // systemd(1), "Signals": SIGRTMIN+4 starts poweroff.target.
        signal(self.init, libc::SIGRTMIN() + 4);
        self.eventually("the machine is off", |machine| machine.outer.try_wait().unwrap().is_some());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.outer.try_wait().is_ok_and(|ended| ended.is_none()) {
            // The first process of a process namespace takes all others with it.
            if self.init == 0 {
                signal(self.outer.id(), libc::SIGKILL);
            } else {
                signal(self.init, libc::SIGKILL);
            }
            let _ = self.outer.wait();
        }
        let groups = fs::read_to_string(self.outside("cgroup")).unwrap_or_default();
        if !groups.trim().is_empty() {
            let limit = Instant::now() + LIMIT;
            while remove_groups(Path::new(groups.trim())).is_err() && Instant::now() < limit {
                sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Waits until `claim` holds, of what is not the machine's to say.
#[track_caller]
pub(crate) fn eventually(what: &str, claim: impl Fn() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !claim() {
        assert!(Instant::now() < limit, "it never came true that {what}");
        sleep(Duration::from_millis(10));
    }
}

/// Removes a control group and those in it; a group whose last process is just ending is busy still.
fn remove_groups(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

fn signal(pid: u32, signal: i32) {
    // SAFETY: kill(2) has no memory to spoil.
    unsafe { libc::kill(libc::pid_t::try_from(pid).unwrap(), signal) };
}
