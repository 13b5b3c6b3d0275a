//! Redis as a store: where it is, how it is reached, and one connection to its primary.

mod cluster;
mod endpoint;
mod handshake;
mod link;
mod primary;
mod sentinel;
mod tls;
mod url;
mod wire;

pub use endpoint::{Acks, Address, Database, Endpoint, Login, Node, Place, Secret, Tls};
pub use handshake::Server;
pub use link::{Fault, Link, LinkError};
pub use primary::{Generation, Primary, Unreachable};
