//! The promises of each command, kept on real mounts.
//!
//! Each test has a [`World`]: a mount of its own on a store of its own, in a directory that goes away with it.
//! The commands get nothing from the environment of the tests but what the world gives them. Locks that another
//! holds are held by a `lockfs run` in a process group of its own: the tests are one job, and whoever descends
//! from a job counts as it.

#[path = "cli/errors.rs"]
mod errors;
#[path = "cli/examples.rs"]
mod examples;
#[path = "cli/hooks.rs"]
mod hooks;
#[path = "cli/keeping.rs"]
mod keeping;
#[path = "cli/locking.rs"]
mod locking;
#[path = "cli/monitoring.rs"]
mod monitoring;
#[path = "cli/mounting.rs"]
mod mounting;
#[path = "cli/naming.rs"]
mod naming;
#[path = "cli/people.rs"]
mod people;
#[path = "servers/mod.rs"]
mod servers;
#[path = "cli/terminal.rs"]
mod terminal;
#[path = "cli/top.rs"]
mod top;
#[path = "cli/waiting.rs"]
mod waiting;
#[path = "cli/watching.rs"]
mod watching;
#[path = "cli/world.rs"]
mod world;
