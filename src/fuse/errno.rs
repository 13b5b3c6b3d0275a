//! The one table from what went wrong to its errno.

use fuser::Errno;

use crate::fs::Error;
use crate::lock::NameError;
use crate::locks::Denial;
use crate::store::StoreError;
use crate::table::Refusal;

/// The number that the caller gets.
pub(super) fn of(error: &Error) -> Errno {
    match error {
        Error::Denied(Denial::Refused(refusal)) => of_refusal(refusal),
        Error::Denied(Denial::Store(StoreError::Unavailable(_))) => Errno::EHOSTDOWN,
        Error::Denied(Denial::Store(StoreError::Timeout(_))) => Errno::ETIMEDOUT,
        Error::Denied(Denial::Store(StoreError::Failed(_))) => Errno::EIO,
        Error::Denied(Denial::Store(StoreError::NoSpace)) => Errno::ENOSPC,
        Error::Denied(Denial::Interrupted) => Errno::EINTR,
        // As the kernel itself answers whoever is left when a daemon ends.
        Error::Denied(Denial::Ending) => Errno::ECONNABORTED,
        Error::Denied(Denial::WaitedTooLong) => Errno::ETIMEDOUT,
        Error::Denied(Denial::Session(_)) | Error::BadValue | Error::WrongKind => Errno::EINVAL,
        Error::Name(NameError::TooLong) => Errno::ENAMETOOLONG,
        Error::Name(NameError::Empty | NameError::Separator | NameError::Reserved) => Errno::EINVAL,
        Error::Synthetic | Error::ReadOnlyAttribute | Error::NotALock => Errno::EPERM,
        Error::NoAttribute => Errno::ENODATA,
        Error::ForeignAttribute => Errno::EOPNOTSUPP,
        Error::AttributeExists => Errno::EEXIST,
    }
}

fn of_refusal(refusal: &Refusal) -> Errno {
    match refusal {
        Refusal::NoEntry | Refusal::NoSession => Errno::ENOENT,
        Refusal::Gone | Refusal::Lost | Refusal::WrongToken | Refusal::Unattended => Errno::ESTALE,
        Refusal::Taken => Errno::EAGAIN,
        Refusal::Deadlock => Errno::EDEADLK,
        Refusal::Exists => Errno::EEXIST,
        Refusal::NotDirectory => Errno::ENOTDIR,
        Refusal::IsDirectory => Errno::EISDIR,
        Refusal::NotEmpty => Errno::ENOTEMPTY,
        Refusal::Busy(_) => Errno::EBUSY,
        Refusal::Held(_) | Refusal::NotPermitted => Errno::EPERM,
        Refusal::TooLarge => Errno::EFBIG,
        Refusal::TooManyLinks => Errno::EMLINK,
        Refusal::Invalid => Errno::EINVAL,
    }
}
