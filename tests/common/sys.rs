//! System calls that the standard library has no words for, with their errors.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn c(path: impl AsRef<Path>) -> CString {
    CString::new(path.as_ref().as_os_str().as_bytes()).unwrap()
}

fn done(answer: i64) -> io::Result<usize> {
    usize::try_from(answer).map_err(|_| io::Error::last_os_error())
}

/// open(2).
pub fn open(path: impl AsRef<Path>, flags: i32, mode: u32) -> io::Result<File> {
    let path = c(path);
    // SAFETY: the path ends with NUL and lives until the call returns.
    let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, mode) };
    // SAFETY: a descriptor that open(2) has just returned is nobody else's.
    done(fd.into()).map(|_| unsafe { File::from_raw_fd(fd) })
}

/// renameat2(2).
pub fn rename2(from: impl AsRef<Path>, to: impl AsRef<Path>, flags: u32) -> io::Result<()> {
    let (from, to) = (c(from), c(to));
    // SAFETY: both paths end with NUL and live until the call returns.
    let answer =
        unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) };
    done(answer.into()).map(drop)
}

/// mknod(2) without a device.
pub fn mknod(path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
    // SAFETY: the path ends with NUL and lives until the call returns.
    done(unsafe { libc::mknod(c(path).as_ptr(), mode, 0) }.into()).map(drop)
}

/// truncate(2).
pub fn truncate(path: impl AsRef<Path>, size: i64) -> io::Result<()> {
    // SAFETY: the path ends with NUL and lives until the call returns.
    done(unsafe { libc::truncate(c(path).as_ptr(), size) }.into()).map(drop)
}

/// access(2).
pub fn access(path: impl AsRef<Path>, mode: i32) -> io::Result<()> {
    // SAFETY: the path ends with NUL and lives until the call returns.
    done(unsafe { libc::access(c(path).as_ptr(), mode) }.into()).map(drop)
}

/// utimensat(2): atime and mtime, of the link itself where it is one.
pub fn utimens(path: impl AsRef<Path>, atime: (i64, i64), mtime: (i64, i64)) -> io::Result<()> {
    let times = [atime, mtime].map(|(tv_sec, tv_nsec)| libc::timespec { tv_sec, tv_nsec });
    // SAFETY: the path ends with NUL, two times are passed, and both live until the call returns.
    let answer = unsafe {
        libc::utimensat(libc::AT_FDCWD, c(path).as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW)
    };
    done(answer.into()).map(drop)
}

/// utimes(2) to now: `touch` of what is there.
pub fn touch(path: impl AsRef<Path>) -> io::Result<()> {
    utimens(path, (0, libc::UTIME_NOW), (0, libc::UTIME_NOW))
}

/// lsetxattr(2).
pub fn setxattr(path: impl AsRef<Path>, name: &str, value: &[u8], flags: i32) -> io::Result<()> {
    let (path, name) = (c(path), c(name));
    // SAFETY: the strings end with NUL, the length is the value's, and all live until the call returns.
    let answer =
        unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) };
    done(answer.into()).map(drop)
}

/// lgetxattr(2) into a buffer of `size` bytes; returns what it filled, or with size 0 that many zeros.
pub fn getxattr_into(path: impl AsRef<Path>, name: &str, size: usize) -> io::Result<Vec<u8>> {
    let (path, name) = (c(path), c(name));
    let mut value = vec![0; size];
    // SAFETY: the strings end with NUL, the length is the buffer's, and all live until the call returns.
    let answer =
        unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.resize(done(answer as i64)?, 0);
    Ok(value)
}

/// lgetxattr(2) as text.
pub fn getxattr(path: impl AsRef<Path>, name: &str) -> io::Result<String> {
    getxattr_into(path, name, 4096).map(|value| String::from_utf8(value).unwrap())
}

/// fgetxattr(2) as text.
pub fn fgetxattr(file: &File, name: &str) -> io::Result<String> {
    let name = c(name);
    let mut value = vec![0; 4096];
    // SAFETY: the name ends with NUL, the length is the buffer's, the descriptor is open as long as the file lives,
    // and all live until the call returns.
    let answer =
        unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(done(answer as i64)?);
    Ok(String::from_utf8(value).unwrap())
}

/// llistxattr(2) into a buffer of `size` bytes.
pub fn listxattr_into(path: impl AsRef<Path>, size: usize) -> io::Result<Vec<u8>> {
    let path = c(path);
    let mut names = vec![0_u8; size];
    // SAFETY: the path ends with NUL, the length is the buffer's, and both live until the call returns.
    let answer = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.resize(done(answer as i64)?, 0);
    Ok(names)
}

/// The names of the extended attributes.
pub fn listxattr(path: impl AsRef<Path>) -> io::Result<Vec<String>> {
    let names = String::from_utf8(listxattr_into(path, 4096)?).unwrap();
    Ok(names.split_terminator('\0').map(str::to_owned).collect())
}

/// lremovexattr(2).
pub fn removexattr(path: impl AsRef<Path>, name: &str) -> io::Result<()> {
    let (path, name) = (c(path), c(name));
    // SAFETY: the strings end with NUL and live until the call returns.
    done(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) }.into()).map(drop)
}

/// fsync(2) and fdatasync(2), of files and of directories.
pub fn sync(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as the file lives.
    done(unsafe { libc::fsync(file.as_raw_fd()) }.into())?;
    // SAFETY: as above.
    done(unsafe { libc::fdatasync(file.as_raw_fd()) }.into()).map(drop)
}

/// statvfs(3).
pub fn statvfs(path: impl AsRef<Path>) -> io::Result<libc::statvfs> {
    // SAFETY: a statvfs of zeros is a valid value for the call to fill.
    let mut all: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with NUL, and both live until the call returns.
    done(unsafe { libc::statvfs(c(path).as_ptr(), &raw mut all) }.into()).map(|_| all)
}

/// An open directory, entry by entry.
#[derive(Debug)]
pub struct Dir(*mut libc::DIR);

impl Dir {
    /// opendir(3).
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        // SAFETY: the path ends with NUL and lives until the call returns.
        let dir = unsafe { libc::opendir(c(path).as_ptr()) };
        if dir.is_null() { Err(io::Error::last_os_error()) } else { Ok(Self(dir)) }
    }

    /// telldir(3).
    pub fn tell(&self) -> i64 {
        // SAFETY: the stream is open.
        unsafe { libc::telldir(self.0) }
    }

    /// seekdir(3) to what telldir(3) returned.
    pub fn seek(&self, offset: i64) {
        // SAFETY: the stream is open.
        unsafe { libc::seekdir(self.0, offset) };
    }
}

impl Iterator for Dir {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        // SAFETY: the stream is open; the entry is copied before the next call.
        let name = unsafe {
            let entry = libc::readdir(self.0);
            if entry.is_null() {
                return None;
            }
            std::ffi::CStr::from_ptr((*entry).d_name.as_ptr()).to_bytes().to_vec()
        };
        Some(String::from_utf8_lossy(&name).into_owned())
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // SAFETY: the stream is open, and nobody uses it after this.
        unsafe { libc::closedir(self.0) };
    }
}
