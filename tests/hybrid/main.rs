//! The hybrid store on real mounts over real servers: who decides, what is granted by whom, and that all comes home.
//!
//! What would go wrong otherwise: two holders of one lock on one host, or on two that reach the same Redis; a lock
//! that is forgotten over an outage; one that is let go of and comes back; one that its holder has lost and still
//! believes in.
#![allow(dead_code, reason = "what the tests of other binaries share is used in parts")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../servers/mod.rs"]
mod servers;

mod advisory;
mod contest;
mod faults;
mod history;
mod home;
mod outage;
mod siege;
mod world;
