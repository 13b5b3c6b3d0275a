//! Extended attributes of the mount's files, by path and by descriptor.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// More than the longest value that lockfs has.
const VALUE_MAX: usize = 4_096;

/// The value of `user.lock.<name>` of `path`, symlinks followed.
///
/// # Errors
/// As getxattr(2); a value that is not UTF-8 is [`io::ErrorKind::InvalidData`].
pub(crate) fn get(path: &Path, name: &str) -> io::Result<String> {
    let (path, name) = (c_string(path.as_os_str().as_bytes())?, key(name)?);
    let mut value = vec![0; VALUE_MAX];
    // SAFETY: both names are NUL-terminated, and the call writes at most `value.len()` bytes into `value`.
    let length =
        unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    text(value, length)
}

/// The value of `user.lock.<name>` of the open `file`; errors as [`get`].
pub(crate) fn get_of(file: &File, name: &str) -> io::Result<String> {
    let name = key(name)?;
    let mut value = vec![0; VALUE_MAX];
    let fd = file.as_raw_fd();
    // SAFETY: `fd` is open, the name is NUL-terminated, and the call writes at most `value.len()` bytes.
    let length = unsafe { libc::fgetxattr(fd, name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    text(value, length)
}

/// Sets `user.lock.<name>` of `path`, symlinks followed, to `value`.
///
/// # Errors
/// As setxattr(2).
pub(crate) fn set(path: &Path, name: &str, value: &str) -> io::Result<()> {
    let (path, name) = (c_string(path.as_os_str().as_bytes())?, key(name)?);
    // SAFETY: both names are NUL-terminated, and `value` is as long as it says.
    let result =
        unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    done(result)
}

/// Sets `user.lock.<name>` of the open `file`; errors as [`set`].
pub(crate) fn set_of(file: &File, name: &str, value: &str) -> io::Result<()> {
    let name = key(name)?;
    // SAFETY: the descriptor is open, the name is NUL-terminated, and `value` is as long as it says.
    let result =
        unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    done(result)
}

fn key(name: &str) -> io::Result<CString> {
    c_string(format!("user.lock.{name}").as_bytes())
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a NUL in a name"))
}

fn text(mut value: Vec<u8>, length: isize) -> io::Result<String> {
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    value.truncate(length);
    String::from_utf8(value)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a value that is not UTF-8"))
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
