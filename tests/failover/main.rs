//! The store on Redis when servers fail and connections break: what was granted stays granted, nothing is granted
//! twice, and what nobody knows the outcome of is undone.
//!
//! What goes wrong otherwise is measured: a primary that is cut off goes on granting, and its locks are lost and
//! granted again; INCR repeats tokens after a failover; a request that timed out is carried out later.
//!
//! | file | what it is |
//! |---|---|
//! | `partition` | the primary is cut off from its replicas and Sentinels, with a client on either side |
//! | `acks` | replicas that do not answer: a grant that they have not is undone |
//! | `wire` | replies lost, requests late, servers stopped |
//! | `restarts` | servers that come back, with their data or without |
//! | `mounts` | what programs see of it |
//! | `ways` | TLS, sockets, users, databases, clusters |
//! | `world`, `history`, `proxy` | who acts; what they did, and whether it may be; a wire that can be broken |

mod acks;
#[path = "../common/mod.rs"]
mod common;
mod history;
mod mounts;
mod partition;
mod proxy;
mod restarts;
#[path = "../servers/mod.rs"]
mod servers;
mod ways;
mod wire;
mod world;
