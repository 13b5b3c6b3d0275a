//! What the kernel says of advisory locks, in the words of [`crate::lock`].

use crate::fs::Error;
use crate::lock::{Claim, Grant, Mode, Range, Style};

use super::intercept::FLOCK;

/// What a SETLK asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// To have a lock.
    Lock(Claim),
    /// To have none.
    Unlock(Style, Range),
}

/// Reads the fields of `struct fuse_lk_in`; `kind` carries the mark of flock(2) that `intercept.rs` puts there.
///
/// # Errors
/// [`Error::BadValue`] for what no call of the kernel's sends.
pub(super) fn read((first, last): (u64, u64), kind: i32, key: u64, pid: u32) -> Result<Request, Error> {
    let style = if kind & FLOCK != 0 { Style::Flock } else { Style::Fcntl };
    let range = Range::new(first, last).ok_or(Error::BadValue)?;
    let mode = match kind & !FLOCK {
        libc::F_RDLCK => Mode::Shared,
        libc::F_WRLCK => Mode::Exclusive,
        libc::F_UNLCK => return Ok(Request::Unlock(style, range)),
        _ => return Err(Error::BadValue),
    };
    Ok(Request::Lock(Claim { style, mode, range, key, pid }))
}

/// What `F_GETLK` is answered where a grant is in the way: range, kind, and the process, 0 for one of another host,
/// whose number means nothing here.
pub(super) fn write(grant: &Grant, is_ours: bool) -> (u64, u64, i32, u32) {
    let kind = match grant.mode {
        Mode::Shared => libc::F_RDLCK,
        Mode::Exclusive => libc::F_WRLCK,
    };
    (grant.range.first(), grant.range.last(), kind, if is_ours { grant.pid } else { 0 })
}
