//! What a daemon finds that is to go on with another's mount: the open device and the ledger.
//!
//! They come from the service manager's store of descriptors (sd_listen_fds(3)), or through exec from the program that
//! was here before. Whoever finds them serves the mount, or takes it away: nobody else is left to answer those who use
//! it. The settings, the kernel and this program must be such that nobody who uses the mount can tell the difference.

use std::ffi::{CString, OsStr};
use std::fmt::Write;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::notify::{DEVICE, LEDGER, Manager};
use crate::config::{RedisSettings, Settings};
use crate::fs::{Ledger, LedgerState, nodes_are_numbered};
use crate::fuse::{Unmounter, can_take_over};
use crate::store::redis::Place;

/// What a program is told by the one that it follows through exec: the numbers of its process, the device and the ledger.
pub(super) const HANDED: &str = "LOCKFS_HANDED_OVER";

/// Where the program was that it follows, for paths that were said relative to that.
pub(super) const HANDED_DIRECTORY: &str = "LOCKFS_HANDED_OVER_IN";

/// What [`HANDED`] says where the program is only asked whether it could start.
pub(super) const REHEARSAL: &str = "rehearsal";

/// The first descriptor of a service manager (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// How many daemons in a row may fail to serve a mount until it is taken away.
const TRIES: u64 = 5;

/// Whether the program is only asked whether it could start, with these settings.
pub fn is_rehearsal() -> bool {
    std::env::var_os(HANDED).is_some_and(|said| said == REHEARSAL)
}

/// How the descriptors came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// A new process got them.
    Manager,
    /// The process goes on with another program.
    Exec,
}

/// What was left, before anybody has looked whether it can be used.
#[derive(Debug)]
pub struct Left {
    device: OwnedFd,
    ledger: Arc<Ledger>,
    state: LedgerState,
    way: Way,
}

impl Left {
    /// Takes what the environment names, and the words that name it out of the environment: they are for nobody else.
    /// To be called once, before the process has a second thread.
    pub fn of_environment() -> Option<Self> {
        if is_rehearsal() {
            return None;
        }
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        let own = std::process::id().to_string();
        let handed = variable(HANDED);
        let (way, numbers) = match handed.split(' ').collect::<Vec<_>>()[..] {
            [pid, device, ledger] if pid == own => (Way::Exec, [device.parse().ok()?, ledger.parse().ok()?]),
            _ if variable("LISTEN_PID") == own => (Way::Manager, listed(&variable("LISTEN_FDNAMES"))?),
            _ => return None,
        };
        let directory = PathBuf::from(variable(HANDED_DIRECTORY));
        for name in [HANDED, HANDED_DIRECTORY, "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
            // SAFETY: the process has one thread.
            unsafe { std::env::remove_var(name) };
        }
        let [device, ledger] = numbers.map(taken);
        let resumed = ledger.and_then(Ledger::resume);
        match (device, resumed) {
            (Ok(device), Ok(Some((ledger, state)))) => {
                if way == Way::Exec {
                    // Where there is no such place any more, a relative path is an error that says so.
                    std::env::set_current_dir(directory).ok();
                }
                Some(Self { device, ledger: Arc::new(ledger), state, way })
            }
            (_, resumed) => {
                let why =
                    resumed.err().map_or("it is of another version".to_owned(), |error| error.to_string());
                log::warn!("what the daemon before this one has left can't be read: {why}");
                // With the last descriptor of the device the kernel gives the mount up.
                Manager::of_environment().forget();
                None
            }
        }
    }

    /// Whether this process went on with another program: it is where it is to be, and has no command that waits for it.
    pub fn is_by_exec(&self) -> bool {
        self.way == Way::Exec
    }

    /// Where the mount is.
    pub fn mountpoint(&self) -> Option<&Path> {
        self.state.began().map(|began| began.mountpoint.as_path())
    }

    /// Accepts what was left, for a daemon with these settings; where they ask for another mount, takes the old one away.
    pub fn accept(mut self, settings: &Settings) -> Option<Heritage> {
        match self.objection(settings) {
            None => {
                self.ledger.tries(self.state.tries() + 1);
                let state = std::mem::take(&mut self.state);
                let Self { device, ledger, way, .. } = self;
                let mountpoint = settings.mountpoint.clone();
                Some(Heritage { device, ledger, state, way, claim: Claim { mountpoint, is_served: false } })
            }
            Some(why) => {
                log::warn!("the mount is not kept, but made anew: {why}");
                self.take_away();
                None
            }
        }
    }

    /// What keeps a daemon with these settings from going on with the mount.
    fn objection(&self, settings: &Settings) -> Option<String> {
        let (Some(began), Some(connection)) = (self.state.began(), self.state.connection()) else {
            return Some("the daemon before this one ended before it had mounted".to_owned());
        };
        if self.state.tries() >= TRIES {
            return Some(format!("{TRIES} daemons have tried to serve it and failed"));
        }
        if began.mountpoint != settings.mountpoint || began.what != description(settings) {
            return Some("the settings are others, which it was made with".to_owned());
        }
        if !self.is_in_place() {
            return Some("it is not where it was".to_owned());
        }
        if !is_connected(&self.device) {
            return Some("the kernel has given it up".to_owned());
        }
        (!can_take_over(&connection.init, &connection.reply))
            .then(|| "the kernel was promised what this version does not keep".to_owned())
    }

    fn is_in_place(&self) -> bool {
        let (began, connection) = (self.state.began(), self.state.connection());
        began.zip(connection).is_some_and(|(began, connection)| {
            device_at(&began.mountpoint).is_ok_and(|device| device == connection.device)
        })
    }

    /// Takes the mount out of the tree, and has the manager let go of it: who uses it is told that it is gone.
    pub fn take_away(self) {
        if let Some(point) = self.mountpoint()
            && self.is_in_place()
            && let Err(error) = Unmounter::of(point).unmount()
        {
            log::warn!("can't take away the mount that nobody serves at={}: {error}", point.display());
        }
        Manager::of_environment().forget();
    }
}

/// What a daemon goes on with.
#[derive(Debug)]
pub struct Heritage {
    pub(super) device: OwnedFd,
    pub(super) ledger: Arc<Ledger>,
    pub(super) state: LedgerState,
    way: Way,
    pub(super) claim: Claim,
}

impl Heritage {
    /// Whether this process went on with another program.
    pub fn is_by_exec(&self) -> bool {
        self.way == Way::Exec
    }
}

/// A mount that somebody has promised to serve. Who does not come to it takes it away: nobody waits for ever.
#[derive(Debug)]
pub(super) struct Claim {
    mountpoint: PathBuf,
    is_served: bool,
}

impl Claim {
    /// The mount answers.
    pub(super) fn settle(mut self) {
        self.is_served = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.is_served {
            log::warn!("the mount that was to be kept is taken away: nobody serves it");
            Unmounter::of(&self.mountpoint).unmount().ok();
            Manager::of_environment().forget();
        }
    }
}

/// What is mounted, and how, as far as who uses the mount would see another one; without secrets.
pub(super) fn description(settings: &Settings) -> String {
    let mut text = format!(
        "nodes {:x}\nsource {}\nflags {:?}\nallow_other {}\nhost {}\nbackend {}\nnamespace {}\n",
        nodes_are_numbered(),
        settings.source,
        settings.flags,
        settings.allow_other,
        settings.host_id,
        settings.backend,
        settings.namespace,
    );
    let add = match &settings.redis {
        None => writeln!(text, "data {}", settings.data_dir.display()),
        Some(RedisSettings { endpoint, .. }) => {
            let database = endpoint.database.unwrap_or_default().number();
            match &endpoint.place {
                Place::Fixed(address) => writeln!(text, "redis {address} {database}"),
                Place::Sentinel { service, .. } => writeln!(text, "redis {service} {database}"),
                Place::Cluster { .. } => writeln!(text, "redis cluster"),
            }
        }
    };
    add.expect("a text takes what is written to it");
    text
}

/// The device and the ledger among the descriptors that a service manager has named.
fn listed(names: &str) -> Option<[RawFd; 2]> {
    let names: Vec<&str> = names.split(':').collect();
    let number = |name| names.iter().position(|listed| *listed == name);
    let number = |name| number(name).and_then(|place| RawFd::try_from(place).ok()).map(|place| FIRST + place);
    Some([number(DEVICE)?, number(LEDGER)?])
}

/// A descriptor that was handed to this process.
fn taken(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl(2) has no memory to spoil, and says where there is no such descriptor.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and whoever handed it over has left it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Whether the kernel still asks there (`fuse_dev_poll` of fs/fuse/dev.c).
fn is_connected(device: &OwnedFd) -> bool {
    let mut poll = libc::pollfd { fd: device.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: `poll` is one pollfd and lives.
    let answer = unsafe { libc::poll(&raw mut poll, 1, 0) };
    answer >= 0 && poll.revents & (libc::POLLERR | libc::POLLNVAL) == 0
}

/// The number of the file system at a path, as mountinfo has it, without asking whoever serves it (statx(2)).
pub(super) fn device_at(path: &Path) -> io::Result<String> {
    let path = CString::new(OsStr::as_bytes(path.as_os_str()))?;
    // SAFETY: zeroes are a value of it.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    let flags = libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
    // SAFETY: the path ends with NUL, and `stat` lives.
    match unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, 0, &raw mut stat) } {
        0 => Ok(format!("{}:{}", stat.stx_dev_major, stat.stx_dev_minor)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptors_are_found_by_their_names() {
        assert_eq!(listed("lockfs-device:lockfs-ledger"), Some([3, 4]));
        assert_eq!(listed("stored:lockfs-ledger:other:lockfs-device"), Some([6, 4]));
        assert_eq!(listed("lockfs-ledger"), None);
        assert_eq!(listed(""), None);
    }

    #[test]
    fn the_number_of_a_file_system_is_the_one_of_mountinfo() {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let proc = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/proc")).unwrap();
        assert_eq!(device_at(Path::new("/proc")).unwrap(), proc.split(' ').nth(2).unwrap());
        assert!(device_at(Path::new("/nowhere/at/all")).is_err());
    }
}
