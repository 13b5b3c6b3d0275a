//! Looks at what stands below directories that others may have removed and made anew.
//!
//! The kernel keeps a directory that it has seen for a second (DESIGN 5), and what it asks for in one that is gone is not
//! there: a lock in the new one of that name would pass for free. Only its own calls take a directory away from it, and
//! one that goes with its session, or on another host, goes by none. But a directory that is asked for its attributes
//! (`AT_STATX_FORCE_SYNC`) and is gone answers ESTALE, upon which the kernel walks the whole path anew (`LOOKUP_REVAL`,
//! path-lookup.rst in the kernel's documentation).

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::facts::{Facts, is_gone};
use super::mounts::Place;

/// What `look` sees of `name` below `base`; where that is nothing, what it sees once the directories are those of now.
///
/// # Errors
/// As `look`.
pub(crate) fn seen<T>(base: &Path, name: &Path, look: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match look() {
        Err(error) if is_gone(&error) => {
            refresh(base, name);
            look()
        }
        looked => looked,
    }
}

/// What the mount says of the lock at `place`.
///
/// # Errors
/// As [`Facts::read`].
pub(crate) fn facts(place: &Place) -> io::Result<Facts> {
    seen(&place.mount.path(".lockfs/info"), place.lock(), || Facts::read(place))
}

/// Has the kernel look again for the directories that lead to `name` below `base`.
fn refresh(base: &Path, name: &Path) {
    let mut directory = base.to_owned();
    for part in name.parent().into_iter().flat_map(Path::components) {
        directory.push(part);
        let Ok(path) = CString::new(directory.as_os_str().as_bytes()) else { return };
        // SAFETY: statx is plain data, for which zeroes are a value; the path ends with NUL, and both live until the call
        // returns.
        let result = unsafe {
            let mut found: libc::statx = std::mem::zeroed();
            let flags = libc::AT_STATX_FORCE_SYNC | libc::AT_SYMLINK_NOFOLLOW;
            libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, libc::STATX_BASIC_STATS, &raw mut found)
        };
        if result != 0 {
            return;
        }
    }
}
