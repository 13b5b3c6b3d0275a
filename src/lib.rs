//! lockfs: a filesystem in which creating a file acquires a lock and deleting it releases the lock.
//!
//! # The map of the house
//! Imports run one way, and `tests/house.rs` holds the tree to it:
//! `cli -> daemon -> fuse -> fs -> locks -> store -> table -> lock`, with `clock` below all of them.
//!
//! | module | what it is |
//! |---|---|
//! | [`clock`] | wall time and `CLOCK_BOOTTIME`; the only place that asks the system for the time |
//! | [`lock`] | the words: name, ino, token, ttl, session, record, event |
//! | [`table`] | the law: a pure state machine, command and time in, outcome, changes and events out |
//! | [`store`] | what keeps a table: in memory, in LevelDB, or on Redis |
//! | [`locks`] | the service around a store: who is calling, which holders live, renewal, expiry |
//! | [`fs`] | POSIX meaning: inodes, handles, attributes, xattrs, the dot directories; no FUSE type |
//! | [`fuse`] | decode a request, call `fs`, send the reply; errno numbers; the mount |
//! | [`config`], [`daemon`], [`cli`] | settings, the process that serves a mount, the command line |
#![warn(missing_docs, missing_debug_implementations, unreachable_pub)]

pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod fs;
pub mod fuse;
pub mod lock;
pub mod locks;
pub mod store;
pub mod table;
