//! The mount: by mount(2) as root, through `fusermount3` otherwise; and its end.

use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};

use super::Adapter;
use crate::fs::LockFs;

/// What `/proc/mounts` calls the type of the file system.
const SUBTYPE: &str = "lockfs";

/// How many threads answer requests. More than there are processors, for a step may wait for the disk.
const THREADS: usize = 4;

/// How to mount.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// Whether other users than the one that mounts may enter; always so for root.
    pub allow_other: bool,
    /// Options of mount(8) that the kernel takes: `ro`, `noexec`, `noatime`.
    pub flags: Vec<MountFlag>,
}

/// An option of mount(8) that the kernel takes as a flag. `nosuid` and `nodev` are always on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountFlag {
    /// Nothing can be acquired or released there.
    ReadOnly,
    /// No program can be started from there.
    NoExec,
    /// Times of access are not kept; they never are.
    NoAtime,
}

/// What went wrong, with the place.
#[derive(Debug)]
pub struct MountError {
    mountpoint: PathBuf,
    step: &'static str,
    source: io::Error,
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mountpoint, step, source } = self;
        write!(f, "cannot mount on {}: {step}: {source}", mountpoint.display())
    }
}

impl std::error::Error for MountError {}

/// A mounted [`LockFs`], served by threads of its own.
#[derive(Debug)]
pub struct Mount {
    mountpoint: PathBuf,
    session: Option<BackgroundSession>,
}

impl Mount {
    /// Mounts `fs` on a directory and begins to serve it.
    ///
    /// # Errors
    /// [`MountError`]: `/dev/fuse` can't be opened, or the kernel or `fusermount3` refuses.
    pub fn start(fs: LockFs, mountpoint: &Path, options: &MountOptions) -> Result<Self, MountError> {
        let failed = |step| {
            let mountpoint = mountpoint.to_owned();
            move |source| MountError { mountpoint, step, source }
        };
        let mountpoint = mountpoint.canonicalize().map_err(failed("the directory can't be entered"))?;
        let adapter = Adapter { fs };
        let session = if is_root() {
            let device = mount_as_root(&mountpoint, options).map_err(|(step, error)| failed(step)(error))?;
            let mut config = Config::default();
            config.n_threads = Some(THREADS);
            Session::from_fd(adapter, device, SessionACL::All, config)
        } else {
            Session::new(adapter, &mountpoint, &config(options))
        };
        let session = session.and_then(Session::spawn).map_err(failed("fuse"))?;
        Ok(Self { mountpoint, session: Some(session) })
    }

    /// What ends it from another thread.
    pub fn unmounter(&self) -> Unmounter {
        Unmounter(self.mountpoint.clone())
    }

    /// Waits until it is unmounted, by whomever.
    ///
    /// # Errors
    /// When the connection to the kernel broke.
    pub fn wait(mut self) -> io::Result<()> {
        self.session.take().map_or(Ok(()), BackgroundSession::join)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.unmounter().unmount().ok();
            session.join().ok();
        }
    }
}

/// Ends a mount.
#[derive(Clone, Debug)]
pub struct Unmounter(PathBuf);

impl Unmounter {
    /// Takes the mount out of the tree. What is open in it stays open until the daemon is gone.
    ///
    /// # Errors
    /// When the kernel or `fusermount3` refuses.
    pub fn unmount(&self) -> io::Result<()> {
        if is_root() {
            return detach(&self.0);
        }
        let status =
            std::process::Command::new("fusermount3").args(["-u", "-z", "--"]).arg(&self.0).status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("fusermount3 -u: {status}"))) }
    }
}

fn is_root() -> bool {
    // SAFETY: geteuid(2) has no arguments and can't fail.
    unsafe { libc::geteuid() == 0 }
}

fn detach(mountpoint: &Path) -> io::Result<()> {
    let path = CString::new(mountpoint.as_os_str().as_bytes())?;
    // SAFETY: the path is a string that ends with NUL and lives until the call returns.
    match unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn config(options: &MountOptions) -> Config {
    let mut config = Config::default();
    config.n_threads = Some(THREADS);
    config.mount_options = vec![
        MountOption::FSName(SUBTYPE.to_owned()),
        MountOption::Subtype(SUBTYPE.to_owned()),
        MountOption::DefaultPermissions,
    ];
    config.mount_options.extend(options.flags.iter().map(|flag| match flag {
        MountFlag::ReadOnly => MountOption::RO,
        MountFlag::NoExec => MountOption::NoExec,
        MountFlag::NoAtime => MountOption::NoAtime,
    }));
    if options.allow_other {
        config.acl = SessionACL::All;
    }
    config
}

/// mount(2) by ourselves: the type is then `fuse.lockfs`, and no helper has to be there.
fn mount_as_root(mountpoint: &Path, options: &MountOptions) -> Result<OwnedFd, (&'static str, io::Error)> {
    let device = File::options().read(true).write(true).open("/dev/fuse");
    let device: OwnedFd = device.map_err(|error| ("/dev/fuse (try 'modprobe fuse')", error))?.into();
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        device.as_raw_fd()
    );
    let flags = options.flags.iter().map(|flag| match flag {
        MountFlag::ReadOnly => libc::MS_RDONLY,
        MountFlag::NoExec => libc::MS_NOEXEC,
        MountFlag::NoAtime => libc::MS_NOATIME,
    });
    let flags = flags.fold(libc::MS_NOSUID | libc::MS_NODEV, |all, flag| all | flag);
    let string = |bytes: &[u8]| CString::new(bytes).map_err(|error| ("the path", error.into()));
    let (source, target) = (string(SUBTYPE.as_bytes())?, string(mountpoint.as_os_str().as_bytes())?);
    let (kind, data) = (string(format!("fuse.{SUBTYPE}").as_bytes())?, string(data.as_bytes())?);
    // SAFETY: every pointer is to a string that ends with NUL and lives until the call returns.
    let answer =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) };
    match answer {
        0 => Ok(device),
        _ => Err(("mount", io::Error::last_os_error())),
    }
}
