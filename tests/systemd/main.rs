//! lockfs under a real systemd: its units, its mount helper, and what happens to a mount when services start, stop,
//! crash and hang.
//!
//! Each test boots a machine of its own (`boot.sh`), which takes about a second.

mod document;
mod documents;
mod helper;
mod kept;
mod machine;
mod package;
mod service;
mod units;
