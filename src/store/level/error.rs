//! What can go wrong with a level store, in words a user can act on.
//!
//! Two kinds: [`Flaw`] is what a part finds in its own file, without knowing the data directory; [`LevelError`] is a flaw
//! with its place and its remedy, and the only error that leaves this module.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a level store cannot be opened, checked or written.
#[derive(Debug)]
pub enum LevelError {
    /// Another process has the data directory open.
    Busy {
        /// The data directory.
        dir: PathBuf,
        /// Who has it, as `pid 123 (lockfs mount /locks)`.
        holder: String,
    },
    /// The files contradict each other or themselves; nothing was changed.
    Damaged {
        /// The data directory.
        dir: PathBuf,
        /// What was found, and in which file.
        what: String,
    },
    /// A later version of the program wrote this store.
    Newer {
        /// The data directory.
        dir: PathBuf,
        /// The format that was found.
        found: String,
    },
    /// The directory holds something, and it is not a level store.
    Foreign {
        /// The data directory.
        dir: PathBuf,
        /// The first strange thing found in it.
        what: String,
    },
    /// There is no store here (only from calls that never create one).
    Absent {
        /// The data directory.
        dir: PathBuf,
    },
    /// A migration has closed the store: it has moved, or is being filled.
    Closed {
        /// The data directory.
        dir: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// Too little free space to write; nothing was written, and the log goes on working.
    NoSpace {
        /// The data directory.
        dir: PathBuf,
        /// Bytes free when last asked.
        free: u64,
        /// Bytes that must stay free.
        floor: u64,
    },
    /// The log has stopped for good; it must be opened again, and read back. It is unknown whether the batch of the
    /// call that failed first is in it; no later one is.
    Failed(String),
    /// The operating system refused something outside the log proper.
    Io {
        /// What was tried, and on which file.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for LevelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy { dir, holder } => {
                write!(
                    f,
                    "data directory {} is in use by {holder}: stop it, or name another directory",
                    dir.display()
                )
            }
            Self::Damaged { dir, what } => write!(
                f,
                "data directory {} is damaged: {what}: run `lockfs check --repair` to set it aside and start empty",
                dir.display()
            ),
            Self::Newer { dir, found } => write!(
                f,
                "data directory {} was written by a newer lockfs ({found}): use that version, or name another directory",
                dir.display()
            ),
            Self::Foreign { dir, what } => write!(
                f,
                "data directory {} holds something that is not a lockfs store ({what}): name an empty directory",
                dir.display()
            ),
            Self::Absent { dir } => write!(f, "data directory {} holds no lockfs store", dir.display()),
            Self::Closed { dir, why } => write!(f, "data directory {}: {why}", dir.display()),
            Self::NoSpace { dir, free, floor } => write!(
                f,
                "no space left for data directory {}: {} KiB are free, {} KiB must stay free: free some space",
                dir.display(),
                free / 1024,
                floor / 1024
            ),
            Self::Failed(why) => {
                write!(f, "the store has failed and takes no more writes: {why}: restart lockfs")
            }
            Self::Io { what, source } => write!(f, "cannot {what}: {source}"),
        }
    }
}

// No `source`: the message of `Io` already ends with it.
impl std::error::Error for LevelError {}

/// What one part of the store finds wrong in its own files.
#[derive(Debug)]
pub(crate) enum Flaw {
    /// Contents that no crash can explain.
    Damaged(String),
    /// A version this program does not know.
    Newer(String),
    /// The system refused a call.
    Io(String, io::Error),
}

impl Flaw {
    /// The flaw as an error about the store in `dir`.
    pub(crate) fn at(self, dir: &Path) -> LevelError {
        match self {
            Self::Damaged(what) => LevelError::Damaged { dir: dir.to_owned(), what },
            Self::Newer(found) => LevelError::Newer { dir: dir.to_owned(), found },
            Self::Io(what, source) => LevelError::Io { what, source },
        }
    }

    /// The flaw as the reason why a log that was open has failed.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Damaged(what) => what.clone(),
            Self::Newer(found) => format!("unknown format: {found}"),
            Self::Io(what, source) => format!("cannot {what}: {source}"),
        }
    }
}

/// Names the act and the file in an I/O error: `.map_err(io_flaw("read", &path))`.
pub(crate) fn io_flaw<'a>(act: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> Flaw + 'a {
    move |e| Flaw::Io(format!("{act} {}", path.display()), e)
}
