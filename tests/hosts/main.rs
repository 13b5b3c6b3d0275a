//! Several hosts over one Redis, on real mounts: that they exclude each other, whatever happens to the server or
//! to a daemon, and that each sees what the others do.
//!
//! What would go wrong otherwise: two hosts in one lock at once. Nobody notices it where each host looks right by
//! itself; so contenders write down each hold, and the history of all hosts is judged as one (`history.rs`).

#[path = "../common/mod.rs"]
mod common;
#[path = "../servers/mod.rs"]
mod servers;

mod cluster;
mod contest;
mod exclusion;
mod expiry;
mod history;
mod outages;
mod sight;

use std::path::{Path, PathBuf};

/// A script that stands beside this file.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts").join(name)
}
