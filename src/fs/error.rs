//! Why a call on the file system fails, in words. `fuse/errno.rs` gives each its number.

use crate::lock::NameError;
use crate::locks::Denial;
use crate::store::StoreError;
use crate::table::Refusal;

/// Why a call fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The law refuses, or the store can't say.
    Denied(Denial),
    /// The name can't be in any directory.
    Name(NameError),
    /// The synthetic files and their names are not to be changed.
    Synthetic,
    /// The object is not what the call needs.
    WrongKind,
    /// No such extended attribute.
    NoAttribute,
    /// Extended attributes of that name are not kept.
    ForeignAttribute,
    /// The extended attribute is for reading only.
    ReadOnlyAttribute,
    /// The extended attribute is there already (`XATTR_CREATE`).
    AttributeExists,
    /// The value makes no sense for that attribute, or the name none for a session.
    BadValue,
    /// The kind of file is not a lock: devices, sockets, pipes.
    NotALock,
}

impl From<Denial> for Error {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Denied(Denial::Store(error))
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Denied(Denial::Refused(refusal))
    }
}

impl From<NameError> for Error {
    fn from(error: NameError) -> Self {
        Self::Name(error)
    }
}
