//! What the service manager is told, as sd_notify(3) has it: ready, how it goes, alive, about to end.
//!
//! Alive means that the mount answers: the watchdog is fed only after `lockfs status`, a process of its own, has
//! read through the mount what this daemon says of itself. No thread of the daemon asks, for a request that is
//! read and never answered can't be interrupted by anything, and a process ends only when its last thread has:
//! a daemon that hangs could then not be killed. Where the mount has left its place, nobody is served there any
//! more, and the watchdog is not fed either.
//!
//! The manager also keeps two descriptors for the daemon that comes after this one (`FDSTORE=` of sd_notify(3)), and knows
//! whether one comes at all.

use std::env;
use std::fmt::Display;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::successor::output_within;

/// How often the mount is asked how it is where no watchdog wants it sooner.
const PERIOD: Duration = Duration::from_secs(10);

/// How long the manager may take to read what it was told before.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long it may take to say what it is about to do.
const ANSWER: Duration = Duration::from_secs(5);

/// Where the manager of the system is told things; every other one is that of a user.
const SYSTEM: &str = "/run/systemd/notify";

/// What the descriptors are called that it keeps: the open `/dev/fuse`, and the ledger.
pub(super) const DEVICE: &str = "lockfs-device";
pub(super) const LEDGER: &str = "lockfs-ledger";

/// The service manager that started this process, if one did and wants to be told.
#[derive(Clone, Debug, Default)]
pub(super) struct Manager(Option<Arc<Wire>>);

#[derive(Debug)]
struct Wire {
    socket: UnixDatagram,
    address: SocketAddr,
    /// How long it may hear nothing until it takes the service for dead.
    watchdog: Option<Duration>,
}

impl Manager {
    /// The one that the environment names. Where it can't be reached there is none: a service that serves is
    /// worth more than one that reports.
    pub(super) fn of_environment() -> Self {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        let text = |name| env::var(name).ok();
        let watchdog = watchdog(text("WATCHDOG_USEC"), text("WATCHDOG_PID"), std::process::id());
        match Wire::open(name.as_bytes(), watchdog) {
            Ok(wire) => Self(Some(Arc::new(wire))),
            Err(error) => {
                log::warn!("cannot tell the service manager anything at {}: {error}", name.display());
                Self::default()
            }
        }
    }

    /// The start is under way.
    pub(super) fn starting(&self, what: impl Display) {
        self.tell(&[("STATUS", &what)]);
    }

    /// The mount answers.
    pub(super) fn ready(&self, mountpoint: &Path) {
        self.tell(&[("READY", &1), ("STATUS", &format_args!("mounted at {}", mountpoint.display()))]);
    }

    /// Another program takes the place of this one. systemd wants to know when, by its own clock.
    pub(super) fn reloading(&self) {
        self.tell(&[("RELOADING", &1), ("STATUS", &"starting the program that is now there")]);
    }

    /// It goes on as it was.
    pub(super) fn not_reloaded(&self, why: impl Display) {
        self.tell(&[("READY", &1), ("STATUS", &why)]);
    }

    /// Has it keep what the next daemon needs. What it keeps already it keeps once.
    pub(super) fn keep(&self, device: BorrowedFd<'_>, ledger: BorrowedFd<'_>) {
        let Some(wire) = &self.0 else { return };
        for (name, descriptor) in [(DEVICE, device), (LEDGER, ledger)] {
            // Not watched: that the mount is gone it would take for a reason to forget the device, as is right, but it is
            // told so anyway, and each request would wake it.
            let words: [(&str, &dyn Display); 3] = [("FDSTORE", &1), ("FDNAME", &name), ("FDPOLL", &0)];
            if let Err(error) = wire.send_descriptor(message(&words).as_bytes(), descriptor) {
                log::warn!("the service manager does not keep the mount over a restart: {error}");
            }
        }
    }

    /// Has it forget what it keeps: the mount is gone.
    pub(super) fn forget(&self) {
        for name in [DEVICE, LEDGER] {
            self.tell(&[("FDSTOREREMOVE", &1), ("FDNAME", &name)]);
        }
    }

    /// Whether it ends this process in order to start it again. SIGTERM does not say, and the manager does not tell: it
    /// is asked for what it has under way. Where it does not answer, it is not.
    pub(super) fn restarts(&self) -> bool {
        if self.0.is_none() {
            return false;
        }
        let Some(unit) = own_unit() else { return false };
        let mut systemctl = Command::new("systemctl");
        if env::var_os("NOTIFY_SOCKET").is_none_or(|socket| socket != SYSTEM) {
            systemctl.arg("--user");
        }
        systemctl.args(["list-jobs", "--no-legend", "--plain", &unit]).stdin(Stdio::null());
        match output_within(&mut systemctl, ANSWER) {
            Ok(output) => has_start(&String::from_utf8_lossy(&output.stdout), &unit),
            Err(error) => {
                log::warn!("the service manager does not say whether it restarts {unit}: {error}");
                false
            }
        }
    }

    /// The end has begun.
    pub(super) fn stopping(&self) {
        self.tell(&[("STOPPING", &1), ("STATUS", &"unmounting")]);
    }

    /// The end has begun, and the mount stays.
    pub(super) fn leaving(&self) {
        self.tell(&[("STOPPING", &1), ("STATUS", &"leaving the mount to the next daemon")]);
    }

    /// The start, or the service, has failed for good.
    pub(super) fn failed(&self, error: &super::Error) {
        match errno(error) {
            Some(number) => self.tell(&[("STATUS", error), ("ERRNO", &number)]),
            None => self.tell(&[("STATUS", error)]),
        }
    }

    /// Begins to ask the mount how it is, to say so, and to feed the watchdog; ends when it is dropped.
    ///
    /// # Errors
    /// When no thread can be made.
    pub(super) fn watch(&self, mountpoint: &Path) -> io::Result<Option<Watch>> {
        let Some(wire) = &self.0 else { return Ok(None) };
        // A third: one answer may be late, and the next one still comes in time.
        let period = wire.watchdog.map_or(PERIOD, |limit| PERIOD.min(limit / 3));
        let (end, ended) = channel();
        let (manager, mountpoint) = (self.clone(), mountpoint.to_owned());
        let thread = std::thread::Builder::new().name("lockfs-watchdog".to_owned());
        let thread = thread.spawn(move || manager.keep_telling(&mountpoint, period, &ended))?;
        Ok(Some(Watch { end: Some(end), thread: Some(thread) }))
    }

    fn keep_telling(&self, mountpoint: &Path, period: Duration, ended: &Receiver<()>) {
        let mut last = None;
        loop {
            let answer = ask(mountpoint);
            match &answer {
                Ok(said) if last.as_ref() == Some(&answer) => {
                    log::trace!("fed the watchdog status={said:?}");
                    self.tell(&[("WATCHDOG", &1)]);
                }
                Ok(said) => self.tell(&[("WATCHDOG", &1), ("STATUS", said)]),
                Err(why) => {
                    log::warn!("the mount does not answer: {why} at={}", mountpoint.display());
                    self.tell(&[("STATUS", &format_args!("the mount does not answer: {why}"))]);
                }
            }
            last = Some(answer);
            match ended.recv_timeout(period) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn tell(&self, words: &[(&str, &dyn Display)]) {
        let Some(wire) = &self.0 else { return };
        if let Err(error) = wire.socket.send_to_addr(message(words).as_bytes(), &wire.address) {
            log::debug!("the service manager was not told: {error}");
        }
    }
}

impl Wire {
    fn open(name: &[u8], watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match name {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "neither a path nor an abstract name",
                ));
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket, address, watchdog })
    }

    /// Sends a message with a descriptor (unix(7), `SCM_RIGHTS`).
    fn send_descriptor(&self, message: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let mut part = libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
        // Aligned as a control message must be, and large enough for one with a descriptor in it.
        let mut control = [0_u64; 8];
        let size = u32::try_from(size_of::<RawFd>()).expect("a descriptor is small");
        // SAFETY: a zeroed header is a valid one, without buffers.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        // SAFETY: the macros of cmsg(3) only count, or point into `control`, which has room for the message.
        unsafe {
            header.msg_controllen = libc::CMSG_SPACE(size) as usize;
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(size) as usize;
            libc::CMSG_DATA(first).cast::<RawFd>().write_unaligned(descriptor.as_raw_fd());
        }
        self.socket.connect_addr(&self.address)?;
        // SAFETY: the header's pointers are to live locals and to the message, with their lengths.
        match unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) } {
            length if length < 0 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

/// The unit of this process: the innermost service of its control group (`UNIT.service` of systemd.unit(5)).
fn own_unit() -> Option<String> {
    unit_of(&std::fs::read_to_string("/proc/self/cgroup").ok()?)
}

fn unit_of(groups: &str) -> Option<String> {
    let units = |line: &str| {
        let path = line.splitn(3, ':').nth(2)?;
        path.rsplit('/').find(|part| part.ends_with(".service")).map(str::to_owned)
    };
    groups.lines().find_map(units)
}

/// Whether a list of jobs (`systemctl list-jobs`: number, unit, what, how far) has one that starts the unit.
fn has_start(jobs: &str, unit: &str) -> bool {
    let starts = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(unit) && matches!(words.next(), Some("start" | "restart"))
    };
    jobs.lines().any(starts)
}

/// A running [`Manager::watch`].
#[derive(Debug)]
pub(super) struct Watch {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// `KEY=value` lines; a value stays on its line.
fn message(words: &[(&str, &dyn Display)]) -> String {
    let line = |(key, value): &(&str, &dyn Display)| {
        format!("{key}={}\n", value.to_string().replace(char::is_control, " "))
    };
    words.iter().map(line).collect()
}

/// How long the manager waits, as sd_watchdog_enabled(3) reads it: for this process, if it says for which.
fn watchdog(limit: Option<String>, of: Option<String>, own: u32) -> Option<Duration> {
    let is_ours = of.is_none_or(|of| of.parse() == Ok(own));
    let limit = limit?.parse().ok().filter(|limit| *limit > 0);
    limit.filter(|_| is_ours).map(Duration::from_micros)
}

/// Asks the mount how it is, through the kernel and back.
fn ask(mountpoint: &Path) -> Result<String, String> {
    // The program that runs, though a newer one may stand at its path by now.
    let mut status = Command::new("/proc/self/exe");
    status.arg0("lockfs").arg("status").arg(mountpoint).env_remove("NOTIFY_SOCKET");
    let output = status.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout);
    if value(&said, "pid") == Some(&std::process::id().to_string()) {
        return Ok(summary(&said));
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    match complaint.trim().trim_start_matches("lockfs: ") {
        "" => Err("another mount is in its place".to_owned()),
        complaint => Err(complaint.to_owned()),
    }
}

/// `.lockfs/status` in a line: `leveldb: ok, 12 locks, 1 waiting`.
fn summary(status: &str) -> String {
    let of = |key| value(status, key);
    let mut line = format!("{}: {}", of("backend").unwrap_or("?"), of("state").unwrap_or("?"));
    for (key, word) in [("locks", "locks"), ("waiting", "waiting")] {
        if let Some(count) = of(key) {
            line += &format!(", {count} {word}");
        }
    }
    match of("trouble") {
        Some(trouble) => format!("{line} ({trouble})"),
        None => line,
    }
}

fn value<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
}

/// The number of the system's error behind it, for `ERRNO=`.
fn errno(error: &super::Error) -> Option<i32> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(at) = cause {
        if let Some(error) = at.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        cause = at.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(address: SocketAddr) -> Manager {
        let socket = UnixDatagram::unbound().unwrap();
        Manager(Some(Arc::new(Wire { socket, address, watchdog: None })))
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 4_096];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_is_told_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("@lockfs-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name[1..]).unwrap();
        let sockets = [UnixDatagram::bind(&path).unwrap(), UnixDatagram::bind_addr(&abstract_name).unwrap()];
        for (socket, name) in sockets.iter().zip([path.as_os_str().as_bytes(), name.as_bytes()]) {
            let wire = Wire::open(name, None).unwrap();
            Manager(Some(Arc::new(wire))).ready(Path::new("/locks"));
            assert_eq!(heard(socket), "READY=1\nSTATUS=mounted at /locks\n");
        }
        assert!(Wire::open(b"relative", None).is_err());
    }

    #[test]
    fn what_is_told_keeps_to_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        let manager = manager(SocketAddr::from_pathname(dir.path().join("notify")).unwrap());
        let error = io::Error::other("one\nREADY=1");
        manager.failed(&crate::daemon::Error::System(error));
        assert_eq!(heard(&socket), "STATUS=one READY=1\n");
        manager.failed(&crate::daemon::Error::System(io::Error::from_raw_os_error(libc::ENOSPC)));
        assert!(heard(&socket).ends_with("\nERRNO=28\n"));
    }

    #[test]
    fn the_unit_is_the_innermost_service() {
        assert_eq!(unit_of("0::/system.slice/lockfs.service\n").as_deref(), Some("lockfs.service"));
        let user = "1:name=systemd:/user.slice/user@1000.service/app.slice/lockfs.service/x\n0::/\n";
        assert_eq!(unit_of(user).as_deref(), Some("lockfs.service"));
        assert_eq!(unit_of("0::/user.slice/session-1.scope\n"), None);
    }

    #[test]
    fn a_job_that_starts_the_unit_is_told_from_one_that_stops_it() {
        assert!(has_start("812 lockfs.service restart running\n", "lockfs.service"));
        assert!(has_start("1 a.service stop waiting\n2 lockfs.service start waiting\n", "lockfs.service"));
        assert!(!has_start("812 lockfs.service stop running\n", "lockfs.service"));
        assert!(!has_start("812 other.service restart running\nNo jobs running.\n", "lockfs.service"));
    }

    #[test]
    fn nobody_is_told_where_nobody_asked() {
        Manager::default().ready(Path::new("/locks"));
        assert!(Manager::default().watch(Path::new("/locks")).unwrap().is_none());
    }

    #[test]
    fn the_watchdog_is_the_one_of_this_process() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(watchdog(text("30000000"), None, 7), Some(Duration::from_secs(30)));
        assert_eq!(watchdog(text("30000000"), text("7"), 7), Some(Duration::from_secs(30)));
        for (limit, of) in [(None, None), (text("0"), None), (text("x"), None), (text("1"), text("8"))] {
            assert_eq!(watchdog(limit, of, 7), None);
        }
    }

    #[test]
    fn the_status_is_summed_up_in_a_line() {
        let ok = "state: ok\nversion: 0.1.0\nbackend: leveldb\nlocks: 3\nwaiting: 1\n";
        assert_eq!(summary(ok), "leveldb: ok, 3 locks, 1 waiting");
        let gone = "state: unreachable\ntrouble: refused: db:6379\nbackend: redis\n";
        assert_eq!(summary(gone), "redis: unreachable (refused: db:6379)");
    }
}
