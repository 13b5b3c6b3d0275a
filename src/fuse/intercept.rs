//! What the kernel sends, before the crate sees it: the program defines `read` itself.
//!
//! The crate decodes a request before it calls anybody, and panics at a time that no `SystemTime` can be
//! (`utimensat` with the lowest second there is): the thread would die, the caller would hang for ever, and
//! after a few of them the mount would, at the hands of any user. So each SETATTR is tamed as it is read.
//!
//! It drops two more things that locks need. INTERRUPT it answers with ENOSYS, after which the kernel tells nobody
//! of a signal any more, and whoever waits sleeps on, killed or not (`fuse_dev_do_write` of fs/fuse/dev.c): so each is
//! heard and swallowed here. And of a SETLK it drops the flag that tells flock(2) from fcntl(2): so that is marked
//! in a field that it keeps.
//!
//! A daemon that [leaves](Leaver::leave) its mount to the next one takes no more requests here: those that it has not
//! answered the kernel sends again.
//!
//! `read` below is the one that the standard library and all crates link to; it is the system call and nothing
//! else for every descriptor but the devices that were [`guard`]ed.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The farthest from 1970 that a time is kept, in seconds: more than a thousand million years. As on every
/// file system, what is farther is cut to what it can keep (utimensat(2)).
const FARTHEST: i64 = 1 << 55;

/// `FUSE_SETATTR` of `linux/fuse.h`.
const SETATTR: u32 = 4;

/// `FUSE_GETLK`, `FUSE_SETLK` and `FUSE_SETLKW`.
const LOCKS: [u32; 3] = [31, 32, 33];

/// `FUSE_INIT`.
const INIT: u32 = 26;

/// `FUSE_INTERRUPT`.
const INTERRUPT: u32 = 36;

/// What marks the number of a request that the kernel sends again (`FUSE_UNIQUE_RESEND` of `linux/fuse.h`).
pub(super) const RESENT: u64 = 1 << 63;

/// What the type of a lock is marked with where it is one of flock(2). The kernel sends small numbers there.
pub(super) const FLOCK: i32 = 1 << 30;

/// Where `struct fuse_lk_in` has the type and the flags, behind the header of 40 bytes, and which of these is flock's
/// (`FUSE_LK_FLOCK`).
const LOCK_TYPE: usize = 72;
const LOCK_FLAGS: usize = 80;
const FLAG_FLOCK: u32 = 1;

/// Where `struct fuse_interrupt_in` has the number of the request that is interrupted.
const INTERRUPTED: usize = 40;

/// Where `struct fuse_in_header` has the opcode.
const OPCODE: usize = 4;

/// Where the seconds of atime, mtime and ctime are: `struct fuse_setattr_in` behind the header of 40 bytes.
const SECONDS: [usize; 3] = [72, 80, 88];

/// How many devices a process can serve at once; a daemon has one.
const DEVICES: usize = 64;

const NOBODY: i32 = -1;

static GUARDED: [Device; DEVICES] = [const {
    Device {
        descriptor: AtomicI32::new(NOBODY),
        seen: AtomicBool::new(false),
        is_left: AtomicBool::new(false),
        busy: AtomicUsize::new(0),
        hear: Mutex::new(None),
    }
}; DEVICES];

thread_local! {
    /// Whether this thread has a request that it may not have answered.
    static IS_BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Hears the number of each request whose caller is interrupted.
pub(super) type Hear = Arc<dyn Fn(u64) + Send + Sync>;

struct Device {
    descriptor: AtomicI32,
    seen: AtomicBool,
    /// No more requests are taken.
    is_left: AtomicBool,
    /// How many threads have one.
    busy: AtomicUsize,
    hear: Mutex<Option<Hear>>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("descriptor", &self.descriptor).finish_non_exhaustive()
    }
}

impl Device {
    fn set_hearer(&self, hear: Option<Hear>) {
        *self.hear.lock().unwrap_or_else(PoisonError::into_inner) = hear;
    }

    /// Notes that a thread asks for a request: it has answered the one before, or left that to another.
    fn rest(&self) {
        if IS_BUSY.replace(false) {
            self.busy.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Notes that a thread has got a request; says whether it may have it.
    fn begin(&self, opcode: Option<u32>) -> bool {
        // The first of all is read by a thread that asks for no other.
        if opcode == Some(INIT) {
            return true;
        }
        // Counted before it is looked whether nobody takes any more: who leaves looks the other way round.
        self.busy.fetch_add(1, Ordering::SeqCst);
        IS_BUSY.set(true);
        let is_left = self.is_left.load(Ordering::SeqCst);
        if is_left {
            self.rest();
        }
        !is_left
    }

    /// Says that a request was interrupted. A bug in the hearer ends there: this is the program's `read`.
    fn tell(&self, request: u64) {
        let hear = self.hear.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(hear) = hear
            && catch_unwind(AssertUnwindSafe(|| hear(request))).is_err()
        {
            log::error!("an interrupt ended in a bug request={request}");
        }
    }
}

/// A device whose requests are tamed for as long as this lives.
#[derive(Debug)]
pub(super) struct Guard(&'static Device);

/// Guards a device; `hear` hears of interrupts. `None` where the process serves too many.
pub(super) fn guard(descriptor: i32, hear: Hear) -> Option<Guard> {
    let free = GUARDED.iter().find(|device| {
        let (old, new, order) = (NOBODY, descriptor, Ordering::AcqRel);
        device.descriptor.compare_exchange(old, new, order, Ordering::Acquire).is_ok()
    });
    free.map(|device| {
        device.seen.store(false, Ordering::Release);
        device.is_left.store(false, Ordering::SeqCst);
        device.busy.store(0, Ordering::SeqCst);
        device.set_hearer(Some(hear));
        Guard(device)
    })
}

impl Guard {
    /// Whether a request of the device came by: whether this `read` is the one that the crate calls.
    pub(super) fn has_seen_a_request(&self) -> bool {
        self.0.seen.load(Ordering::Acquire)
    }

    /// What ends the taking of requests, from any thread.
    pub(super) fn leaver(&self) -> Leaver {
        Leaver(self.0)
    }
}

/// Ends the taking of requests, so that another daemon can go on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaver(&'static Device);

/// How often it is looked whether all threads have answered.
const GLANCE: Duration = Duration::from_millis(1);

impl Leaver {
    /// From now on no thread gets a request. Waits until those that have one have answered it, or parked it; says
    /// whether they have within about `limit`.
    pub(super) fn leave(self, limit: Duration) -> bool {
        self.0.is_left.store(true, Ordering::SeqCst);
        let is_quiet = || self.0.busy.load(Ordering::SeqCst) == 0;
        for _ in 0..limit.as_millis() {
            if is_quiet() {
                return true;
            }
            // A thread that answers tells nobody, so that it costs nothing to be asked.
            std::thread::sleep(GLANCE);
        }
        is_quiet()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.set_hearer(None);
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
    let device = GUARDED.iter().find(|device| device.descriptor.load(Ordering::Relaxed) == descriptor);
    if let Some(device) = device {
        device.rest();
    }
    loop {
        // SAFETY: the arguments are passed on as they came.
        let length = unsafe { libc::syscall(libc::SYS_read, descriptor, buffer, count) };
        if let (Some(device), Ok(filled)) = (device, usize::try_from(length)) {
            device.seen.store(true, Ordering::Release);
            // SAFETY: the call has just filled so many bytes of the caller's buffer, which is the caller's alone.
            let request = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), filled) };
            while !device.begin(opcode(request)) {
                // It ends with the process. If it returned, the crate would take that for the end of the mount.
                std::thread::park();
            }
            if let Some(interrupted) = interrupted(request) {
                device.tell(interrupted);
                device.rest();
                continue;
            }
            tame(request);
        }
        return libc::ssize_t::try_from(length).unwrap_or(libc::ssize_t::MAX);
    }
}

fn number<const N: usize>(request: &[u8], at: usize) -> Option<[u8; N]> {
    request.get(at..at + N)?.try_into().ok()
}

fn opcode(request: &[u8]) -> Option<u32> {
    number(request, OPCODE).map(u32::from_ne_bytes)
}

/// The request whose caller an INTERRUPT says was interrupted; `None` of all else. Of one that was sent again the kernel
/// names the number as it was sent last (`fuse_read_interrupt` of fs/fuse/dev.c).
fn interrupted(request: &[u8]) -> Option<u64> {
    (opcode(request) == Some(INTERRUPT))
        .then(|| number(request, INTERRUPTED).map(|number| u64::from_ne_bytes(number) & !RESENT))
        .flatten()
}

/// Brings a request into the form in which the crate keeps what it means.
fn tame(request: &mut [u8]) {
    match opcode(request) {
        Some(SETATTR) => tame_times(request),
        Some(opcode) if LOCKS.contains(&opcode) => mark_flock(request),
        _ => {}
    }
}

/// Marks the type of a lock of flock(2).
fn mark_flock(request: &mut [u8]) {
    let flags = number(request, LOCK_FLAGS).map_or(0, u32::from_ne_bytes);
    if let Some(kind) = request.get_mut(LOCK_TYPE..).and_then(|bytes| bytes.first_chunk_mut::<4>())
        && flags & FLAG_FLOCK != 0
    {
        *kind = (i32::from_ne_bytes(*kind) | FLOCK).to_ne_bytes();
    }
}

/// Brings the times of a SETATTR within what can be kept.
fn tame_times(request: &mut [u8]) {
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
        for (opcode, length) in
            [SETATTR, LOCKS[0], INTERRUPT].into_iter().flat_map(|o| (0..128).map(move |l| (o, l)))
        {
            let mut short = request(opcode, i64::MIN);
            short.truncate(length);
            tame(&mut short);
            assert_eq!(short.len(), length);
            assert_eq!(interrupted(&short).is_some(), opcode == INTERRUPT && length >= INTERRUPTED + 8);
        }
    }

    #[test]
    fn flock_is_marked_and_fcntl_is_not() {
        for (opcode, flags, kind) in
            [(LOCKS[1], 1, FLOCK | 1), (LOCKS[2], 1, FLOCK | 1), (LOCKS[0], 0, 1), (30, 1, 1)]
        {
            let mut sent = request(opcode, 0);
            sent[LOCK_TYPE..LOCK_TYPE + 4].copy_from_slice(&1_i32.to_ne_bytes());
            sent[LOCK_FLAGS..LOCK_FLAGS + 4].copy_from_slice(&u32::to_ne_bytes(flags));
            tame(&mut sent);
            assert_eq!(number(&sent, LOCK_TYPE).map(i32::from_ne_bytes), Some(kind), "{opcode} {flags}");
        }
    }
}
