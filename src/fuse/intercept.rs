//! What the kernel sends, before the crate sees it: the program defines `read` itself.
//!
//! The crate decodes a request before it calls anybody, and panics at a time that no `SystemTime` can be
//! (`utimensat` with the lowest second there is): the thread would die, the caller would hang for ever, and
//! after a few of them the mount would, at the hands of any user. So each SETATTR is tamed as it is read.
//! `read` below is the one that the standard library and all crates link to; it is the system call and nothing
//! else for every descriptor but the devices that were [`guard`]ed.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// The farthest from 1970 that a time is kept, in seconds: more than a thousand million years. As on every
/// file system, what is farther is cut to what it can keep (utimensat(2)).
const FARTHEST: i64 = 1 << 55;

/// `FUSE_SETATTR` of `linux/fuse.h`.
const SETATTR: u32 = 4;

/// Where `struct fuse_in_header` has the opcode.
const OPCODE: usize = 4;

/// Where the seconds of atime, mtime and ctime are: `struct fuse_setattr_in` behind the header of 40 bytes.
const SECONDS: [usize; 3] = [72, 80, 88];

/// How many devices a process can serve at once; a daemon has one.
const DEVICES: usize = 64;

const NOBODY: i32 = -1;

static GUARDED: [Device; DEVICES] =
    [const { Device { descriptor: AtomicI32::new(NOBODY), seen: AtomicBool::new(false) } }; DEVICES];

#[derive(Debug)]
struct Device {
    descriptor: AtomicI32,
    seen: AtomicBool,
}

/// A device whose requests are tamed for as long as this lives.
#[derive(Debug)]
pub(super) struct Guard(&'static Device);

/// Guards a device; `None` where the process serves too many.
pub(super) fn guard(descriptor: i32) -> Option<Guard> {
    let free = GUARDED.iter().find(|device| {
        let (old, new, order) = (NOBODY, descriptor, Ordering::AcqRel);
        device.descriptor.compare_exchange(old, new, order, Ordering::Acquire).is_ok()
    });
    free.map(|device| {
        device.seen.store(false, Ordering::Release);
        Guard(device)
    })
}

impl Guard {
    /// Whether a request of the device came by: whether this `read` is the one that the crate calls.
    pub(super) fn has_seen_a_request(&self) -> bool {
        self.0.seen.load(Ordering::Acquire)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.descriptor.store(NOBODY, Ordering::Release);
    }
}

/// read(2).
///
/// # Safety
/// As of read(2): `buffer` must be good for `count` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn read(
    descriptor: libc::c_int,
    buffer: *mut libc::c_void,
    count: libc::size_t,
) -> libc::ssize_t {
    // SAFETY: the arguments are passed on as they came.
    let length = unsafe { libc::syscall(libc::SYS_read, descriptor, buffer, count) };
    let device = GUARDED.iter().find(|device| device.descriptor.load(Ordering::Relaxed) == descriptor);
    if let (Some(device), Ok(filled)) = (device, usize::try_from(length)) {
        device.seen.store(true, Ordering::Release);
        // SAFETY: the call has just filled so many bytes of the caller's buffer, which is the caller's alone.
        tame(unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), filled) });
    }
    libc::ssize_t::try_from(length).unwrap_or(libc::ssize_t::MAX)
}

/// Brings the times of a SETATTR within what can be kept.
fn tame(request: &mut [u8]) {
    let opcode = request.get(OPCODE..OPCODE + 4).and_then(|bytes| bytes.try_into().ok());
    if opcode.map(u32::from_ne_bytes) != Some(SETATTR) {
        return;
    }
    for at in SECONDS {
        if let Some(seconds) = request.get_mut(at..at + 8).and_then(|bytes| bytes.first_chunk_mut::<8>()) {
            let tamed = i64::from_ne_bytes(*seconds).clamp(-FARTHEST, FARTHEST);
            *seconds = tamed.to_ne_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, seconds: i64) -> Vec<u8> {
        let mut request = vec![0xee; 128];
        request[OPCODE..OPCODE + 4].copy_from_slice(&opcode.to_ne_bytes());
        SECONDS.iter().for_each(|&at| request[at..at + 8].copy_from_slice(&seconds.to_ne_bytes()));
        request
    }

    #[test]
    fn only_times_out_of_bounds_are_changed() {
        for (sent, read) in [(i64::MIN, -FARTHEST), (i64::MAX, FARTHEST), (-2, -2), (0, 0)] {
            let mut tamed = request(SETATTR, sent);
            tame(&mut tamed);
            assert_eq!(tamed, request(SETATTR, read));
        }
        let mut other = request(SETATTR + 1, i64::MIN);
        tame(&mut other);
        assert_eq!(other, request(SETATTR + 1, i64::MIN));
    }

    #[test]
    fn a_short_request_is_left_alone() {
        for length in 0..128 {
            let mut short = request(SETATTR, i64::MIN);
            short.truncate(length);
            tame(&mut short);
            assert_eq!(short.len(), length);
        }
    }
}
