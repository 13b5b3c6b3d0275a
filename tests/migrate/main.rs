//! `lockfs migrate` on real stores and real mounts: all goes over as it is, once, and nothing is granted by both.
//!
//! What would go wrong otherwise: a lock that is forgotten on the way, and is granted to another; one that comes back
//! after it was released; a token that goes back; two holders, one in each store; a migration that died, and left a
//! store standing still, or half of the locks in one that goes on.
#![allow(dead_code, reason = "what the tests of other binaries share is used in parts")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../servers/mod.rs"]
mod servers;

mod conflicts;
mod hostile;
mod offline;
mod online;
mod resume;
mod world;
