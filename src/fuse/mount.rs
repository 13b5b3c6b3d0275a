//! The mount: by mount(2) as root, through `fusermount3` otherwise; and its end.

use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fuser::BackgroundSession;

use super::handshake::{self, Failure};
use super::intercept;
use crate::fs::{LockFs, Restart};

/// What `/proc/mounts` calls the type of the file system.
const SUBTYPE: &str = "lockfs";

/// How to mount.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// What `/proc/mounts` shows as the source.
    pub source: String,
    /// Whether other users than the one that mounts may enter; always so for root.
    pub allow_other: bool,
    /// Options of mount(8) that the kernel takes: `ro`, `noexec`, `noatime`.
    pub flags: Vec<MountFlag>,
    /// How many threads answer requests: more than there are processors, for a step waits for the store.
    pub threads: usize,
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

impl std::error::Error for MountError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// A mounted [`LockFs`], served by threads of its own.
#[derive(Debug)]
pub struct Mount {
    mountpoint: PathBuf,
    session: Option<BackgroundSession>,
    /// The device once more, to hand on.
    device: OwnedFd,
    init: Vec<u8>,
    reply: Vec<u8>,
    // Last, so that the device is guarded until nobody reads from it.
    guard: intercept::Guard,
}

impl Mount {
    /// Mounts `fs` on a directory and begins to serve it.
    ///
    /// # Errors
    /// [`MountError`]: `/dev/fuse` can't be opened, or the kernel or `fusermount3` refuses.
    pub fn start(fs: Arc<LockFs>, mountpoint: &Path, options: &MountOptions) -> Result<Self, MountError> {
        let mountpoint = mountpoint
            .canonicalize()
            .map_err(|source| failed(mountpoint, ("the directory can't be entered", source)))?;
        let device = if is_root() { as_root(&mountpoint, options) } else { by_helper(&mountpoint, options) };
        let device = device.map_err(|failure| failed(&mountpoint, failure))?;
        let served = handshake::first_request(device.as_fd()).map_err(|error| ("fuse", error));
        let served = served.and_then(|init| Self::serve(fs, mountpoint.clone(), device, init, None, options));
        served.map_err(|failure| {
            // Mounted, and nobody answers: better not there at all.
            Unmounter(mountpoint.clone()).unmount().ok();
            failed(&mountpoint, failure)
        })
    }

    /// Goes on serving a mount that another daemon has left, from its `device`: the kernel once began with `init`, and
    /// was answered with `reply`. What it was not answered it asks again, before all that is new.
    ///
    /// # Errors
    /// [`MountError`]: the kernel does not let it.
    pub fn take_over(
        fs: Arc<LockFs>,
        mountpoint: &Path,
        device: OwnedFd,
        (init, reply): (&[u8], &[u8]),
        options: &MountOptions,
    ) -> Result<Self, MountError> {
        let served =
            Self::serve(fs, mountpoint.to_owned(), device, init.to_vec(), Some(reply.to_vec()), options);
        served.map_err(|failure| failed(mountpoint, failure))
    }

    fn serve(
        fs: Arc<LockFs>,
        mountpoint: PathBuf,
        device: OwnedFd,
        init: Vec<u8>,
        answered: Option<Vec<u8>>,
        options: &MountOptions,
    ) -> Result<Self, Failure> {
        fs.set_restart(match handshake::can_resend(&init) {
            true => Restart::KeepsTheMount,
            false => Restart::MountsAnew,
        });
        let (session, descriptor, reply, guard) = handshake::session(fs, &init, options.threads)?;
        handshake::put(device.as_fd(), descriptor).map_err(|error| ("the device", error))?;
        match answered {
            None => handshake::send(device.as_fd(), &reply).map_err(|error| ("the handshake", error))?,
            Some(answered) if answered != reply => {
                let error =
                    io::Error::new(io::ErrorKind::Unsupported, "the kernel was promised something else");
                return Err(("the handshake", error));
            }
            Some(_) => handshake::resend(device.as_fd()).map_err(|error| ("asking again", error))?,
        }
        let session = session.spawn().map_err(|error| ("fuse", error))?;
        Ok(Self { mountpoint, session: Some(session), device, init, reply, guard })
    }

    /// The device, for whoever serves the mount next.
    pub fn device(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// The kernel's first request, and what it was answered.
    pub fn handshake(&self) -> (&[u8], &[u8]) {
        (&self.init, &self.reply)
    }

    /// Whether another daemon can go on where this one ends: the kernel asks again what it was not answered.
    pub fn can_be_left(&self) -> bool {
        handshake::can_resend(&self.init)
    }

    /// What ends it from another thread.
    pub fn unmounter(&self) -> Unmounter {
        Unmounter(self.mountpoint.clone())
    }

    /// What leaves it to another daemon, from another thread.
    pub fn leaver(&self) -> Leaver {
        Leaver(self.guard.leaver())
    }

    /// Waits until it is unmounted, by whomever.
    ///
    /// # Errors
    /// When the connection to the kernel broke.
    pub fn wait(mut self) -> io::Result<()> {
        self.session.take().map_or(Ok(()), BackgroundSession::join)
    }
}

/// Whether this program can go on with a kernel that began with `init` and was answered with `reply`.
pub fn can_take_over(init: &[u8], reply: &[u8]) -> bool {
    handshake::can_resend(init) && handshake::reply_to(init).is_ok_and(|ours| ours == reply)
}

fn failed(mountpoint: &Path, (step, source): Failure) -> MountError {
    MountError { mountpoint: mountpoint.to_owned(), step, source }
}

/// Leaves a mount to another daemon.
#[derive(Clone, Copy, Debug)]
pub struct Leaver(intercept::Leaver);

impl Leaver {
    /// From now on no request is taken. Waits until those that were are answered or parked; says whether they are,
    /// within about `limit`. The mount is still there, and who uses it waits for the next daemon.
    pub fn leave(self, limit: Duration) -> bool {
        self.0.leave(limit)
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
    /// What ends the mount at a path, whoever serves it.
    pub fn of(mountpoint: &Path) -> Self {
        Self(mountpoint.to_owned())
    }

    /// Takes the mount out of the tree. What is open in it stays open until the daemon is gone.
    ///
    /// # Errors
    /// When the kernel or `fusermount3` refuses.
    pub fn unmount(&self) -> io::Result<()> {
        if is_root() {
            return detach(&self.0);
        }
        let status = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(&self.0).status()?;
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

/// mount(2) by ourselves: the type is then `fuse.lockfs`, and no helper has to be there.
fn as_root(mountpoint: &Path, options: &MountOptions) -> Result<OwnedFd, Failure> {
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
    let (source, target) = (string(options.source.as_bytes())?, string(mountpoint.as_os_str().as_bytes())?);
    let (kind, data) = (string(format!("fuse.{SUBTYPE}").as_bytes())?, string(data.as_bytes())?);
    // SAFETY: every pointer is to a string that ends with NUL and lives until the call returns.
    let answer =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) };
    match answer {
        0 => Ok(device),
        _ => Err(("mount", io::Error::last_os_error())),
    }
}

/// `fusermount3` mounts for who is not root, and sends the open device down a socket whose number is in its
/// environment (fusermount3(1), libfuse's `mount.c`).
fn by_helper(mountpoint: &Path, options: &MountOptions) -> Result<OwnedFd, Failure> {
    // fusermount3 takes a backslash as the sign before a comma of the name (`do_mount` in its source).
    let source = options.source.replace('\\', "\\\\").replace(',', "\\,");
    let mut words = vec![format!("fsname={source}"), format!("subtype={SUBTYPE}")];
    words.extend(["default_permissions", "nosuid", "nodev"].map(str::to_owned));
    words.extend(options.allow_other.then(|| "allow_other".to_owned()));
    words.extend(options.flags.iter().map(|flag| match flag {
        MountFlag::ReadOnly => "ro".to_owned(),
        MountFlag::NoExec => "noexec".to_owned(),
        MountFlag::NoAtime => "noatime".to_owned(),
    }));
    let (ours, theirs) = UnixStream::pair().map_err(|error| ("a socket", error))?;
    let number = theirs.as_raw_fd();
    let mut helper = Command::new("fusermount3");
    helper.args(["-o", &words.join(","), "--"]).arg(mountpoint);
    helper.env("_FUSE_COMMFD", number.to_string()).stdin(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: fcntl(2) is async-signal-safe, and the descriptor is open in the child as it is here.
    unsafe {
        helper.pre_exec(move || match libc::fcntl(number, libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let output = helper.output().map_err(|error| ("fusermount3 (install the package fuse3)", error))?;
    drop(theirs);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', ": ");
        return Err(("fusermount3", io::Error::other(said)));
    }
    receive_descriptor(&ours).map_err(|error| ("fusermount3 sent no device", error))
}

/// One descriptor from a socket (unix(7), `SCM_RIGHTS`).
fn receive_descriptor(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = 0_u8;
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // Aligned as a control message must be, and larger than one with a descriptor in it.
    let mut control = [0_u64; 8];
    // SAFETY: a zeroed header is a valid one, without buffers.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the header's pointers are to live locals, with their lengths.
    if unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: recvmsg(2) filled the header; the first control message, if any, lies in `control`.
    let descriptor = unsafe {
        let first = libc::CMSG_FIRSTHDR(&raw const message);
        let is_rights = !first.is_null()
            && (*first).cmsg_level == libc::SOL_SOCKET
            && (*first).cmsg_type == libc::SCM_RIGHTS;
        is_rights.then(|| libc::CMSG_DATA(first).cast::<RawFd>().read_unaligned())
    };
    let descriptor = descriptor.ok_or(io::ErrorKind::UnexpectedEof)?;
    // SAFETY: the kernel has just made the descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
