//! How often each kind of request came.

use std::sync::atomic::{AtomicU64, Ordering};

const NAMES: [&str; 33] = [
    "lookup",
    "forget",
    "getattr",
    "setattr",
    "readlink",
    "mknod",
    "mkdir",
    "unlink",
    "rmdir",
    "symlink",
    "rename",
    "link",
    "open",
    "read",
    "write",
    "flush",
    "release",
    "fsync",
    "opendir",
    "readdir",
    "releasedir",
    "fsyncdir",
    "statfs",
    "setxattr",
    "getxattr",
    "listxattr",
    "removexattr",
    "create",
    "getlk",
    "setlk",
    "ioctl",
    "lseek",
    "other",
];

/// A counter for each kind of request.
#[derive(Debug)]
pub struct Meters([AtomicU64; NAMES.len()]);

impl Default for Meters {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; NAMES.len()])
    }
}

impl Meters {
    /// Counts one request. A name that is not listed counts as `other`.
    pub fn count(&self, request: &str) {
        let index = NAMES.iter().position(|name| *name == request).unwrap_or(NAMES.len() - 1);
        self.0[index].fetch_add(1, Ordering::Relaxed);
    }

    /// All counters, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &AtomicU64)> {
        NAMES.into_iter().zip(&self.0)
    }
}
