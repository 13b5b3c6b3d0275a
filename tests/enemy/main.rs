//! Bad input, contention, crashes, full disks, bugs: what must not lose a lock, grant one twice, or end a mount.

#[path = "../common/mod.rs"]
mod common;

mod contention;
mod crash;
mod failing;
mod names;
