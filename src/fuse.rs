//! FUSE: decode a request, call [`LockFs`], send the reply. The only place that knows the crate `fuser`.
//!
//! Each request is answered by the thread that read it, from the store's memory; nothing here waits for a
//! lock. A panic answers its own request with EIO, and the mount lives on.

mod adapter;
mod errno;
mod intercept;
mod mount;

pub use mount::{Mount, MountError, MountFlag, MountOptions, Unmounter};

use crate::fs::LockFs;

/// A [`LockFs`] as FUSE sees it.
#[derive(Debug)]
struct Adapter {
    fs: LockFs,
}
