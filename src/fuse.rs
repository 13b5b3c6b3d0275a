//! FUSE: decode a request, call [`LockFs`], send the reply. The only place that knows the crate `fuser`.
//!
//! Each request is answered by the thread that read it, or, where it waits for a lock, parked: its reply is then a
//! value that another thread sends later. No thread here waits for a lock. A panic answers its own request with EIO,
//! and the mount lives on.

mod adapter;
mod errno;
mod handshake;
mod intercept;
mod lock;
mod mount;

pub use mount::{Leaver, Mount, MountError, MountFlag, MountOptions, Unmounter, can_take_over};

use std::sync::Arc;

use crate::fs::LockFs;

/// A [`LockFs`] as FUSE sees it.
#[derive(Debug)]
struct Adapter {
    fs: Arc<LockFs>,
}
