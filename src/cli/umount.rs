//! `lockfs umount`: gone means gone.
//!
//! umount(2) returns when the mount has left the tree, a little before its daemon has closed the store. The
//! command waits for both, so that the next `lockfs mount` finds the data free.

use std::ffi::CString;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;

use super::mounts::{Mount, mounted, resolved, shown};
use super::probe::{Answer, is_readable_within, read_within};
use super::{Exit, Failure, Outcome};

/// Unmount a tree of locks
///
/// Returns when the mount is gone and its daemon has closed the store, so that a mount of the same data can
/// follow at once. Locks stay as they are: those of processes that live are taken up by the next mount.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  $ lockfs umount /locks
  $ lockfs umount --lazy /locks")]
pub(super) struct Umount {
    /// Where the tree is mounted
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// Take the mount away now; its daemon ends with the last open file
    #[arg(long, short)]
    lazy: bool,
}

/// How long a mount may take to tell the number of its process.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a daemon may take to write its store and end.
const FAREWELL: Duration = Duration::from_secs(30);

impl Umount {
    pub(super) fn perform(self) -> Outcome {
        let mounts = mounted()?;
        let point = resolved(&self.mountpoint, &mounts)?;
        let point_shown = shown(&point);
        let Some(mount) = mounts.into_iter().find(|mount| mount.point == point) else {
            return Err(Failure::new(
                Exit::Failed,
                format!("no lockfs is mounted on {point_shown}: there is nothing to unmount"),
            ));
        };
        if self.lazy {
            detach(&point)?;
            return Ok(Exit::Done);
        }
        // Asked before, since nobody answers afterwards.
        let daemon = match read_within(&mount.path(".lockfs/status"), PATIENCE) {
            Ok(Answer::Contents(status)) => daemon_of(&status),
            // umount(2) asks a daemon that does not answer too, and would wait as long.
            Ok(Answer::Silence) => {
                let message = format!(
                    "the lockfs on {point_shown} does not answer: lockfs umount --lazy {point_shown} takes it away"
                );
                return Err(Failure::new(Exit::Unavailable, message));
            }
            Ok(Answer::Refused(_)) | Err(_) => None,
        };
        unmount(&point, How::WhenUnused)?;
        if is_mounted(&mount)? {
            return Err(Failure::new(Exit::Failed, format!("{point_shown} is still mounted")));
        }
        match daemon {
            Some(daemon) if !daemon.ends_within(FAREWELL) => Err(Failure::new(
                Exit::Unavailable,
                format!("unmounted, but the daemon, process {}, still has the store open", daemon.pid),
            )),
            _ => Ok(Exit::Done),
        }
    }
}

fn is_mounted(mount: &Mount) -> Result<bool, Failure> {
    Ok(mounted()?.contains(mount))
}

/// Takes the mount at `point` out of the tree, whoever uses it.
pub(super) fn detach(point: &Path) -> Result<(), Failure> {
    unmount(point, How::Lazily)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    WhenUnused,
    Lazily,
}

fn unmount(point: &Path, how: How) -> Result<(), Failure> {
    // SAFETY: geteuid(2) takes nothing and can't fail.
    let is_root = unsafe { libc::geteuid() == 0 };
    let result = if is_root { unmount_as_root(point, how) } else { unmount_as_user(point, how) };
    let point = shown(point);
    result.map_err(|error| {
        let message = match error.kind() {
            ErrorKind::ResourceBusy => format!(
                "{point} is in use: fuser -vm {point} says by whom, lockfs umount --lazy {point} takes it away"
            ),
            _ => format!("cannot unmount {point}: {error}"),
        };
        Failure::new(Exit::Failed, message)
    })
}

fn unmount_as_root(point: &Path, how: How) -> io::Result<()> {
    let path = CString::new(point.as_os_str().as_bytes())?;
    let flags = match how {
        How::WhenUnused => libc::UMOUNT_NOFOLLOW,
        How::Lazily => libc::UMOUNT_NOFOLLOW | libc::MNT_DETACH,
    };
    // SAFETY: the path is NUL-terminated.
    if unsafe { libc::umount2(path.as_ptr(), flags) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn unmount_as_user(point: &Path, how: How) -> io::Result<()> {
    let mut fusermount = Command::new("fusermount3");
    fusermount.arg("-u").args((how == How::Lazily).then_some("-z")).arg("--").arg(point);
    let output = fusermount.stdin(Stdio::null()).env("LC_ALL", "C").output().map_err(|error| match error
        .kind()
    {
        ErrorKind::NotFound => io::Error::new(ErrorKind::NotFound, "there is no fusermount3: install fuse3"),
        _ => error,
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().to_owned();
    let kind = if said.contains("busy") { ErrorKind::ResourceBusy } else { ErrorKind::Other };
    Err(io::Error::new(kind, said))
}

/// The process that serves a mount, by a handle that never means another one (pidfd_open(2)).
#[derive(Debug)]
struct Daemon {
    pid: u32,
    handle: OwnedFd,
}

impl Daemon {
    /// Whether it has ended, within `limit`. Its files are closed by then: the kernel tells after `exit_files`.
    fn ends_within(&self, limit: Duration) -> bool {
        is_readable_within(self.handle.as_raw_fd(), limit).unwrap_or(false)
    }
}

/// The daemon that `status` names; `None` where that is no process of this machine, seen from here.
fn daemon_of(status: &[u8]) -> Option<Daemon> {
    let status = String::from_utf8_lossy(status);
    let pid: u32 = status.lines().find_map(|line| line.strip_prefix("pid:")?.trim().parse().ok())?;
    // SAFETY: a plain system call on a number.
    let handle = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let handle = i32::try_from(handle).ok().filter(|handle| *handle >= 0)?;
    // SAFETY: the call succeeded, so the descriptor is open and nobody else's.
    let handle = unsafe { OwnedFd::from_raw_fd(handle) };
    // From another pid namespace the number may be another process.
    let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (command.trim_end() == "lockfs").then_some(Daemon { pid, handle })
}
