//! The words: what a lock is made of, before anything is decided about it.
//!
//! Values only. Nothing here asks the time, the disk or another lock; each type parses what it accepts
//! and can't hold anything else.

mod advisory;
mod event;
mod name;
mod number;
mod record;
mod session;
mod ttl;

pub use advisory::{Claim, Grant, LockOwner, Mode, Mount, MountId, Range, RequestId, Style, WaitId, Waiter};
pub use event::{Event, EventKind};
pub use name::{LockPath, Name, NameError};
pub use number::{Ino, Token};
pub use record::{Attributes, Body, Kind, NOTE_MAX, Place, Record};
pub use session::{Job, Login, Origin, Session, SessionError, SessionId, SessionKind};
pub use ttl::{Ttl, TtlError};
