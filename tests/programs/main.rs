//! Real programs, unchanged, on a real mount: that what excludes on a local disk excludes here, what refuses
//! refuses, and what merely works works.
//!
//! A test whose program is missing fails, and says what installs it; it never passes by skipping.

#[path = "../common/mod.rs"]
mod common;
mod contest;
mod exclusion;
mod held;
mod stale;
mod trees;

use std::path::{Path, PathBuf};

use common::programs::{fails, need, need_library, said, succeeds};

/// Two users that are not root. They need no entry in `/etc/passwd`.
const ALICE: u32 = 1001;
/// See [`ALICE`].
const BOB: u32 = 1002;

/// A script that stands beside this file.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name)
}
