//! A lock that a command acquires, and releases again.
//!
//! It is acquired by creating its file, and where that is there already and the command waits, by opening its door below
//! `.wait`: then the mount has a place for it in the queue. It is released only if it is still the one that was
//! acquired: a name that was lost may be another's by now.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::facts::{Facts, is_gone};
use super::mounts::{Place, shown};
use super::session::SessionName;
use super::signals::{Signals, Waited};
use super::status::explained;
use super::wait::{Limit, Queue};
use super::{Exit, Failure, xattr};
use crate::lock::Ttl;

/// What an acquire came to.
pub(super) enum Attempt {
    Granted(Claim),
    /// Another holds it, or the time was up; says who and how.
    Held(String),
    /// A signal of this number came while it waited.
    Signalled(i32),
}

/// A lock that this process acquired.
#[derive(Debug)]
pub(super) struct Claim {
    /// Open as long as the lock is held.
    pub(super) file: File,
    /// The path that it was created by: below `.sessions` for a named session.
    pub(super) path: PathBuf,
    /// Its inode number: another lock of that name has another.
    pub(super) ino: u64,
}

/// What became of a lock by the time of its release.
pub(super) enum Release {
    /// It was released.
    Done,
    /// The holder had removed it itself.
    Gone,
    /// It was lost before.
    Lost,
}

impl Claim {
    /// Acquires the lock at `place`, for `session` or for the session of this process, waiting as long as `limit`
    /// says.
    ///
    /// # Errors
    /// [`Failure`]: nothing was acquired, and not because another holds it.
    pub(super) fn acquire(
        place: &Place,
        session: Option<&SessionName>,
        limit: &Limit,
        signals: &Signals,
    ) -> Result<Attempt, Failure> {
        let path = match session {
            Some(session) => session.directory(&place.mount).join(place.lock()),
            None => place.path(),
        };
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => Self::of(place, path, file).map(Attempt::Granted),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && limit.is_none() => {
                Ok(Attempt::Held(who_is_in_the_way(place)))
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Self::wait(place, path, limit, signals),
            Err(error) => Err(refusal(place, session, &error)),
        }
    }

    fn of(place: &Place, path: PathBuf, file: File) -> Result<Self, Failure> {
        let name = place.shown();
        let unread = |error| Failure::new(Exit::Unavailable, format!("cannot read {name}: {error}"));
        let ino = file.metadata().map_err(unread)?.ino();
        Ok(Self { file, path, ino })
    }

    fn wait(place: &Place, path: PathBuf, limit: &Limit, signals: &Signals) -> Result<Attempt, Failure> {
        let name = place.shown();
        let door = CString::new(place.door().as_os_str().as_bytes())
            .map_err(|_| Failure::new(Exit::Usage, format!("{name}: a NUL in a name")))?;
        let before = Queue::of(place);
        match signals.wait_for(limit.deadline(), || open(&door)) {
            Ok(Waited::Done(opened)) => match Self::through(path.clone(), opened) {
                Ok(claim) => Ok(Attempt::Granted(claim)),
                Err(error) if is_gone(&error) => {
                    Ok(Attempt::Held(format!("{name} was acquired and lost at once{}", now_held(place))))
                }
                Err(error) => {
                    // It is ours and of no use, as one that a umask made unreadable.
                    let _ = fs::remove_file(path);
                    Err(refusal(place, None, &error))
                }
            },
            Ok(Waited::Signalled(signal)) => Ok(Attempt::Signalled(signal)),
            Ok(Waited::TimedOut) => {
                let (now, who) = (Queue::of(place), who_is_in_the_way(place));
                Ok(Attempt::Held(format!("waited {limit}: {who}{}", now.place_behind(&before))))
            }
            Err(error) => not_waited(place, &error),
        }
    }

    /// The lock that an opened door has led to. The door says nothing of a lock but that it was lost: so the lock's own
    /// file is opened, and while the door is not lost after that, that file is the lock.
    fn through(path: PathBuf, mut door: File) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let ino = file.metadata()?.ino();
        _ = door.read(&mut [0])?;
        Ok(Self { file, path, ino })
    }

    /// Sets how long the lock outlives its holder.
    ///
    /// # Errors
    /// [`Failure`]: it stays as it is.
    pub(super) fn set_ttl(&self, ttl: Ttl, name: &str) -> Result<(), Failure> {
        xattr::set_of(&self.file, "ttl", &ttl.to_string()).map_err(|error| {
            Failure::new(Exit::Unavailable, format!("cannot set the ttl of {name}: {error}"))
        })
    }

    /// Writes the note.
    ///
    /// # Errors
    /// [`Failure`]: it is not written, or not all of it.
    pub(super) fn write_note(&self, note: &[u8], name: &str) -> Result<(), Failure> {
        (&self.file).write_all(note).map_err(|error| {
            Failure::new(Exit::Unavailable, format!("cannot write the note of {name}: {error}"))
        })
    }

    /// Releases the lock, unless it is not ours any more.
    ///
    /// # Errors
    /// As unlink(2); nobody knows then what became of it.
    pub(super) fn release(self) -> io::Result<Release> {
        // Asked first: once the lock is lost its name may be another's, and later ours again.
        let seen = look(&self.file);
        if seen == Look::Lost(Loss::Lost) {
            return Ok(Release::Lost);
        }
        match fs::symlink_metadata(&self.path) {
            Ok(data) if data.ino() != self.ino => {
                return Ok(if seen == Look::Unknown { Release::Lost } else { Release::Gone });
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Release::Gone),
            Err(error) => return Err(error),
        }
        match fs::remove_file(&self.path) {
            Ok(()) => Ok(Release::Done),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Release::Gone),
            // Another's by now: the mount keeps a late unlink away from it (DESIGN 4).
            Err(error) if error.kind() == ErrorKind::StaleNetworkFileHandle => Ok(Release::Lost),
            Err(error) => Err(error),
        }
    }
}

/// Opens a door to wait at. The standard library would open it again after a signal.
fn open(door: &CString) -> io::Result<File> {
    // SAFETY: the path is NUL-terminated.
    let fd = unsafe { libc::open(door.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the descriptor is open and nobody else's.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Who has the lock, or will have it, for a message.
fn who_is_in_the_way(place: &Place) -> String {
    let name = place.shown();
    match (Facts::read(place), Queue::of(place).first()) {
        (Ok(facts), _) => format!("{name} is {}", facts.sentence()),
        (Err(_), Some(next)) => format!("{name} goes to {next} next, who waits for it"),
        (Err(_), None) => format!("{name} is held by another"),
    }
}

/// Who has it now, for a message.
pub(super) fn now_held(place: &Place) -> String {
    Facts::read(place).map_or_else(|_| String::new(), |facts| format!(" and is {}", facts.sentence()))
}

/// Why a wait ended that neither the lock nor the time ended.
fn not_waited(place: &Place, error: &io::Error) -> Result<Attempt, Failure> {
    let name = place.shown();
    let point = shown(&place.mount.point);
    let unavailable = |what: String| Err(Failure::new(Exit::Unavailable, what));
    match error.kind() {
        // A later try may succeed: it is as good as held.
        ErrorKind::Deadlock => Ok(Attempt::Held(format!(
            "to wait for {name} would never end, for whoever is in the way waits for this session: release what it \
             holds, or acquire all with one lockfs acquire; {}",
            who_is_in_the_way(place)
        ))),
        ErrorKind::NotFound if !place.mount.path(".wait").is_dir() => unavailable(format!(
            "{}, and the lockfs on {point} is too old to be waited with: mount it anew, or leave out --wait",
            who_is_in_the_way(place)
        )),
        ErrorKind::IsADirectory => {
            Err(Failure::new(Exit::Usage, format!("{name} is a directory: name a lock in it")))
        }
        ErrorKind::NotConnected | ErrorKind::ConnectionAborted => unavailable(format!(
            "the lockfs on {point} ended while {name} was waited for: try again when it is back"
        )),
        _ => Err(refusal(place, None, error)),
    }
}

/// Why nothing was acquired although nobody holds the lock.
fn refusal(place: &Place, session: Option<&SessionName>, error: &io::Error) -> Failure {
    let name = place.shown();
    if error.kind() == ErrorKind::NotFound {
        if let Some(Err(failure)) = session.map(|session| session.must_exist(&place.mount)) {
            return failure;
        }
        let missing = place.name.ancestors().skip(1).filter(|above| !place.mount.path(above).is_dir()).last();
        if let Some(missing) = missing {
            let path = shown(&place.path().parent().map(Path::to_owned).unwrap_or_default());
            let message = format!("there is no directory {}: mkdir -p {path} makes it", shown(missing));
            return Failure::new(Exit::Usage, message);
        }
    }
    let exit = match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::NotADirectory | ErrorKind::InvalidFilename => Exit::Usage,
        _ => Exit::Unavailable,
    };
    Failure::new(exit, format!("cannot acquire {name}: {}", explained(&place.mount, error)))
}

/// How a held lock ends without its holder's release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// It expired, was broken or handed on.
    Lost,
    /// Its file was removed, by the command itself or by whoever may.
    Removed,
}

/// What a look at an open lock shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Held,
    Lost(Loss),
    /// The mount can't be asked.
    Unknown,
}

pub(super) fn look(file: &File) -> Look {
    match file.metadata() {
        Ok(data) if data.nlink() == 0 => Look::Lost(Loss::Removed),
        Ok(_) => Look::Held,
        Err(error) if is_gone(&error) => Look::Lost(Loss::Lost),
        Err(_) => Look::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::mounts::Mount;

    #[test]
    fn a_file_is_held_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let file = File::create_new(&path).unwrap();
        assert_eq!(look(&file), Look::Held);
        fs::remove_file(&path).unwrap();
        assert_eq!(look(&file), Look::Lost(Loss::Removed));
    }

    #[test]
    fn a_wait_that_is_refused_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let mount = Mount { id: 1, point: dir.path().to_owned() };
        let place = Place { mount, name: "x".into() };
        let refused = |kind: ErrorKind| not_waited(&place, &kind.into());
        let old = refused(ErrorKind::NotFound).err().unwrap();
        assert_eq!(old.exit, Exit::Unavailable);
        assert!(old.message.contains("too old") && old.message.contains("mount it anew"), "{}", old.message);
        let Ok(Attempt::Held(message)) = refused(ErrorKind::Deadlock) else { panic!("no conflict") };
        assert!(
            message.contains("would never end") && message.contains("release what it holds"),
            "{message}"
        );
        assert_eq!(refused(ErrorKind::IsADirectory).err().unwrap().exit, Exit::Usage);
        assert_eq!(refused(ErrorKind::NotConnected).err().unwrap().exit, Exit::Unavailable);
    }

    #[test]
    fn a_release_leaves_the_lock_of_another_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let file = File::create_new(&path).unwrap();
        let ino = file.metadata().unwrap().ino();
        let claim = Claim { file, path: path.clone(), ino };
        fs::rename(&path, dir.path().join("kept")).unwrap();
        File::create_new(&path).unwrap();
        assert!(matches!(claim.release(), Ok(Release::Gone)));
        assert!(path.exists());
    }
}
