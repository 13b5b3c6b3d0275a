//! `lockfs session`: groups of locks that end together, as directories of `.sessions`.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::json::{self, Object};
use super::mounts::{Mount, default_mount, mount_at};
use super::out::{print, table};
use super::status::explained;
use super::{Exit, Failure, Outcome, xattr};
use crate::lock::SessionId;

/// Begin, renew, list and end sessions
///
/// A session is a group of locks that ends together. It is a directory of .sessions in the mount: a lock that
/// is created there, or by a process with LOCKFS_SESSION=NAME in its environment, belongs to it.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  $ lockfs session begin agent-7
  $ lockfs run --session agent-7 build/web -- make web
  $ lockfs session renew agent-7
  $ lockfs session end agent-7")]
pub(super) struct Session {
    #[command(subcommand)]
    act: Act,
    /// Which mount [default: LOCKFS_MOUNT, the mount around here, or the only one]
    #[arg(long, value_name = "MOUNTPOINT", global = true)]
    mount: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Begin a session
    ///
    /// It lives until it is ended, or until nobody has renewed it for its ttl.
    #[command(after_long_help = "Examples:\n  $ lockfs session begin agent-7")]
    Begin {
        /// 1 to 128 of A-Z a-z 0-9 . _ @ : + -, not starting with a dot
        name: SessionName,
    },
    /// Release all locks of a session, and end it
    ///
    /// All of them are released in one step.
    #[command(after_long_help = "Examples:\n  $ lockfs session end agent-7")]
    End {
        /// Which session
        name: SessionName,
    },
    /// Renew all locks of a session
    ///
    /// Their deadlines move to a ttl from now.
    #[command(after_long_help = "Examples:\n  $ lockfs session renew agent-7")]
    Renew {
        /// Which session
        name: SessionName,
    },
    /// List the live sessions
    ///
    /// With those that nobody began: each process group that holds a lock has one.
    #[command(after_long_help = "Examples:\n  $ lockfs session list\n  $ lockfs session list --json")]
    List {
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
}

/// The name of a session as it was typed: it can't lead out of `.sessions`.
#[derive(Clone, Debug)]
pub(super) struct SessionName(SessionId);

impl SessionName {
    /// Its directory in `mount`.
    pub(super) fn directory(&self, mount: &Mount) -> PathBuf {
        mount.path(Path::new(".sessions").join(self.as_str()))
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Refuses a session that nobody has begun.
    pub(super) fn must_exist(&self, mount: &Mount) -> Result<(), Failure> {
        if self.directory(mount).is_dir() {
            return Ok(());
        }
        let message = format!("there is no session {self}: lockfs session begin {self} begins it");
        Err(Failure::new(Exit::Usage, message))
    }
}

impl std::fmt::Display for SessionName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for SessionName {
    type Err = crate::lock::SessionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        SessionId::parse(text.as_bytes()).map(Self)
    }
}

impl Session {
    pub(super) fn perform(self) -> Outcome {
        let mount = match &self.mount {
            Some(point) => mount_at(point)?,
            None => default_mount()?,
        };
        let (name, result) = match &self.act {
            Act::Begin { name } => (name, fs::create_dir(name.directory(&mount))),
            Act::End { name } => (name, fs::remove_dir(name.directory(&mount))),
            Act::Renew { name } => (name, touch(&name.directory(&mount))),
            Act::List { json } => return list(&mount, *json),
        };
        let name = name.as_str();
        result.map(|()| Exit::Done).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => {
                Failure::new(Exit::Failed, format!("session {name} has begun already: lockfs session renew {name} renews it"))
            }
            ErrorKind::NotFound => Failure::new(Exit::Failed, format!("there is no session {name}: lockfs session list lists them")),
            ErrorKind::PermissionDenied => {
                Failure::new(Exit::Failed, format!("session {name} belongs to someone else ({error}): only its user and root may end or renew it"))
            }
            _ => Failure::new(Exit::Unavailable, format!("session {name}: {}", explained(&mount, &error))),
        })
    }
}

/// Sets the times of `directory` to now, as touch(1) does.
pub(super) fn touch(directory: &Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: the path is NUL-terminated, and no times mean now (utimensat(2)).
    let result = unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), std::ptr::null(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A session as it is listed.
struct Row {
    name: String,
    owner: Option<String>,
    locks: u64,
}

fn list(mount: &Mount, as_json: bool) -> Outcome {
    let unavailable = |error: io::Error| {
        Failure::new(Exit::Unavailable, format!("cannot list the sessions: {}", explained(mount, &error)))
    };
    let directory = mount.path(".sessions");
    let mut rows = Vec::new();
    for entry in fs::read_dir(directory).map_err(unavailable)? {
        let entry = entry.map_err(unavailable)?;
        // One that ended meanwhile is left out; one that may not be entered still lives.
        let locks = match count(&entry.path()) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            counted => counted.unwrap_or(0),
        };
        let name = entry.file_name().to_string_lossy().into_owned();
        rows.push(Row { name, owner: xattr::get(&entry.path(), "owner").ok(), locks });
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    if as_json {
        print(json::array(rows.iter().map(|row| {
            let object = Object::default().text("session", Some(&row.name));
            object.text("owner", row.owner.as_deref()).number("locks", Some(row.locks))
        })))?;
    } else {
        let rows: Vec<_> = rows
            .into_iter()
            .map(|row| [row.name, row.owner.unwrap_or_else(|| "-".to_owned()), row.locks.to_string()])
            .collect();
        print(table(["SESSION", "OWNER", "LOCKS"], &rows))?;
    }
    Ok(Exit::Done)
}

/// How many locks are below `directory`, which mirrors what the session holds: files, symlinks, and
/// directories whose name says so.
fn count(directory: &Path) -> io::Result<u64> {
    let mut locks = 0;
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let is_directory = entry.file_type()?.is_dir();
            if !is_directory || entry.file_name().as_encoded_bytes().ends_with(b".lock") {
                locks += 1;
            }
            if is_directory {
                open.push(entry.path());
            }
        }
    }
    Ok(locks)
}
