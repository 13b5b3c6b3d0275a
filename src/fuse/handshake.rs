//! The handshake with the kernel, once for each mount: its first request, INIT, and what it is answered.
//!
//! The crate begins each session with it. So a session is begun over one end of a pair of sockets, which is fed with the
//! INIT that the kernel once sent; what the crate answers comes out of the other end, and is passed on to the kernel,
//! or dropped where the kernel has its answer from a daemon before. Then the device takes the place of the socket.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use fuser::{Config, Filesystem, InitFlags, KernelConfig, Request, Session, SessionACL};

use super::intercept::Guard;
use super::{Adapter, intercept};
use crate::fs::LockFs;

/// More than any INIT or answer to one.
const LONGEST: usize = 4096;

/// Where `struct fuse_init_in` has its flags, behind the header of 40 bytes.
const FLAGS: [usize; 2] = [52, 56];

/// `FUSE_INIT_EXT`, and `FUSE_HAS_RESEND` among the flags that are then behind the others.
const EXTENDED: u32 = 1 << 30;
const HAS_RESEND: u32 = 1 << 7;

/// What could not be done, and why.
pub(super) type Failure = (&'static str, io::Error);

/// Asks the kernel for what locks need.
pub(super) fn ask_for(config: &mut KernelConfig) {
    // Look-ups in one directory side by side; O_TRUNC with the open instead of a request of its own.
    // A kernel that lacks one of them does without.
    // Locks of open files are ours to decide: another host may have them.
    let wanted = [
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_ATOMIC_O_TRUNC,
        InitFlags::FUSE_POSIX_LOCKS,
        InitFlags::FUSE_FLOCK_LOCKS,
    ];
    for wanted in wanted {
        config.add_capabilities(wanted).ok();
    }
}

/// Answers INIT as the mount does, and nothing else.
struct Greeter;

impl Filesystem for Greeter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        ask_for(config);
        Ok(())
    }
}

/// The kernel's first request, from a device that was just mounted.
pub(super) fn first_request(device: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    // As large as the kernel wants a buffer to be at least (`FUSE_MIN_READ_BUFFER`), and more.
    let mut request = vec![0; 4 * LONGEST];
    loop {
        let length = receive(device, &mut request);
        match length {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            length => {
                request.truncate(length?);
                return Ok(request);
            }
        }
    }
}

/// Whether a kernel that begins so can be asked to send again what was not answered: Linux 6.9 and later.
pub(super) fn can_resend(init: &[u8]) -> bool {
    let flags = FLAGS.map(|at| {
        let bytes = init.get(at..at + size_of::<u32>()).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes)
    });
    flags[0] & EXTENDED != 0 && flags[1] & HAS_RESEND != 0
}

/// Has the kernel send again what was read and not answered (`FUSE_NOTIFY_RESEND` of `linux/fuse.h`).
pub(super) fn resend(device: BorrowedFd<'_>) -> io::Result<()> {
    let (length, code, unique) = (16_u32, 7_i32, 0_u64);
    let mut notice = Vec::new();
    notice.extend_from_slice(&length.to_ne_bytes());
    notice.extend_from_slice(&code.to_ne_bytes());
    notice.extend_from_slice(&unique.to_ne_bytes());
    send(device, &notice)
}

/// What this program answers to `init`.
///
/// # Errors
/// When it can't serve such a kernel.
pub(super) fn reply_to(init: &[u8]) -> io::Result<Vec<u8>> {
    let (session, theirs) = sockets(init)?;
    Session::from_fd(Greeter, session, SessionACL::All, Config::default())?;
    reply(theirs.as_fd())
}

/// A session of `fs` with a kernel that began with `init`; its requests come by the guard. The descriptor that the
/// session reads from is not the device's yet.
pub(super) fn session(
    fs: Arc<LockFs>,
    init: &[u8],
    threads: usize,
) -> Result<(Session<Adapter>, RawFd, Vec<u8>, Guard), Failure> {
    let (socket, theirs) = sockets(init).map_err(|error| ("a socket", error))?;
    let descriptor = socket.as_raw_fd();
    let hearer = Arc::clone(&fs);
    let guard = intercept::guard(descriptor, Arc::new(move |request| hearer.interrupt(request)));
    let guard =
        guard.ok_or_else(|| ("too many mounts in one process", io::ErrorKind::QuotaExceeded.into()))?;
    let mut config = Config::default();
    // Never with a device for each thread: what one of them has read is not sent again through another.
    config.n_threads = Some(threads.max(1));
    // The kernel lets in whom the mount is for; there is nothing to check again.
    let session = Session::from_fd(Adapter { fs }, socket, SessionACL::All, config);
    let session = session.map_err(|error| ("fuse", error))?;
    if !guard.has_seen_a_request() {
        return Err(("requests pass by the guard: link no other read(2)", io::ErrorKind::Unsupported.into()));
    }
    let reply = reply(theirs.as_fd()).map_err(|error| ("fuse", error))?;
    Ok((session, descriptor, reply, guard))
}

/// Puts a device in the place of a descriptor.
pub(super) fn put(device: BorrowedFd<'_>, descriptor: RawFd) -> io::Result<()> {
    // SAFETY: the descriptor is the session's, which is told of nothing: it reads and writes whatever stands there.
    match unsafe { libc::dup3(device.as_raw_fd(), descriptor, libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The descriptor for a session, fed with `init`, and the other end.
fn sockets(init: &[u8]) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends: [RawFd; 2] = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `ends` has room for the two descriptors that the call fills in.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so both are open and nobody else's.
    let (ours, theirs) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    send(theirs.as_fd(), init)?;
    Ok((ours, theirs))
}

/// What a session has answered; it is there already.
fn reply(socket: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut reply = vec![0; LONGEST];
    let pointer = reply.as_mut_ptr().cast();
    // SAFETY: the buffer is as long as it is said to be.
    let length = unsafe { libc::recv(socket.as_raw_fd(), pointer, reply.len(), libc::MSG_DONTWAIT) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    reply.truncate(length);
    Ok(reply)
}

fn receive(from: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is as long as it is said to be.
    let length = unsafe { libc::read(from.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

/// Writes a message in one piece, as a device takes it.
pub(super) fn send(to: BorrowedFd<'_>, message: &[u8]) -> io::Result<()> {
    // SAFETY: the message is as long as it is said to be.
    match unsafe { libc::write(to.as_raw_fd(), message.as_ptr().cast(), message.len()) } {
        length if usize::try_from(length) == Ok(message.len()) => Ok(()),
        length if length < 0 => Err(io::Error::last_os_error()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Linux sends: version 7.`minor`, and all flags there are.
    fn init(minor: u32, flags: [u32; 2]) -> Vec<u8> {
        let mut init = vec![0; 104];
        let numbers =
            [(0, 104), (4, 26), (40, 7), (44, minor), (48, 1 << 17), (52, flags[0]), (56, flags[1])];
        for (at, number) in numbers {
            init[at..at + 4].copy_from_slice(&u32::to_ne_bytes(number));
        }
        init[8..16].copy_from_slice(&2_u64.to_ne_bytes());
        init
    }

    #[test]
    fn a_kernel_that_can_send_again_says_so() {
        assert!(can_resend(&init(40, [!0, !0])));
        for flags in [[!0, !HAS_RESEND], [!EXTENDED, !0], [0, 0]] {
            assert!(!can_resend(&init(39, flags)));
        }
        assert!(!can_resend(&init(40, [!0, !0])[..57]));
    }

    #[test]
    fn the_same_init_gets_the_same_answer() {
        let asked = init(40, [!0, !0]);
        assert_eq!(reply_to(&asked).unwrap(), reply_to(&asked).unwrap());
        assert_ne!(reply_to(&asked).unwrap(), reply_to(&init(40, [0, 0])).unwrap());
        assert!(reply_to(&init(40, [!0, !0])[..12]).is_err());
    }
}
