//! `lockfs path`: the name of a file's lock, for whoever has a clone of the same repository.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::Args;

use super::json::{self, Object};
use super::mounts::{Mount, Place, default_mount, mount_at, shown};
use super::naming::{LockName, Namer};
use super::out::print;
use super::{Exit, Failure, Outcome};

/// Name the lock of a file, the same in every clone
///
/// Prints the name of the lock below the mount: that of the file's repository, and the path of the file in it. So all
/// clones of a repository, its worktrees, and all machines agree on it. The repository is named by the URL of its remote
/// (origin, or the first by name), however that is written; without a remote by the commit that its history begins
/// with; and by "git config lockfs.repository NAME" where that is set. A file in no repository is this machine's, and
/// the name says so: it begins with host/ and the name of the machine. The file need not be there. Symlinks lead to what
/// they name; characters that can't be seen are % and two digits in the name; what is too long ends in a hash.
#[derive(Debug, Args)]
#[command(after_long_help = "\
What it prints is one line, and what lockfs run, who, why and break take:
  repo/example.org/team/app/src/main.rs
  root/4b825dc642cb6eb9a060e54bf8d69288fbee4904/src/main.rs
  host/dev1/home/alice/notes.txt

Examples:
  $ lockfs path src/main.rs
  $ lockfs path --json src/main.rs ../README.md
  $ lockfs path --absolute --mkdir src/main.rs")]
pub(super) struct PathOf {
    /// Print the path that begins with the mountpoint
    #[arg(long, short)]
    absolute: bool,
    /// Make the directories that lead to the lock, for everybody
    #[arg(long)]
    mkdir: bool,
    /// Print a JSON array
    #[arg(long, conflicts_with = "null")]
    json: bool,
    /// End each name with NUL in place of a newline
    #[arg(long = "null", short = '0')]
    null: bool,
    /// Which mount [default: LOCKFS_MOUNT, the mount around here, or the only one]
    #[arg(long, value_name = "MOUNTPOINT")]
    mount: Option<PathBuf>,
    /// The files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl PathOf {
    pub(super) fn perform(self) -> Outcome {
        let mut namer = Namer::default();
        let names = self.files.iter().map(|file| namer.name(file)).collect::<Result<Vec<_>, _>>()?;
        let mount = match &self.mount {
            Some(point) => Some(mount_at(point)?),
            None if self.absolute || self.mkdir => Some(default_mount()?),
            // A name is one without a mount too.
            None => default_mount().ok(),
        };
        if let Some(mount) = mount.as_ref().filter(|_| self.mkdir) {
            for name in &names {
                make_way(&mount.path(""), &name.path).map_err(|error| not_made(&name.path, &error))?;
            }
        }
        print(if self.json {
            as_json(&names, mount.as_ref()).into_bytes()
        } else {
            self.as_text(&names, mount.as_ref())
        })?;
        Ok(Exit::Done)
    }

    fn as_text(&self, names: &[LockName], mount: Option<&Mount>) -> Vec<u8> {
        let mut text = Vec::new();
        for name in names {
            let path = match mount.filter(|_| self.absolute) {
                Some(mount) => mount.path(&name.path),
                None => name.path.clone(),
            };
            text.extend_from_slice(path.as_os_str().as_encoded_bytes());
            text.push(if self.null { 0 } else { b'\n' });
        }
        text
    }
}

fn as_json(names: &[LockName], mount: Option<&Mount>) -> String {
    json::array(names.iter().map(|name| {
        Object::default()
            .text("path", name.path.to_str())
            .text("repository", Some(&name.of))
            .text("basis", Some(name.basis.as_str()))
            .text("file", Some(&shown(&name.file)))
            .text("absolute", mount.map(|mount| shown(&mount.path(&name.path))).as_deref())
    }))
}

fn not_made(name: &Path, error: &io::Error) -> Failure {
    let exit = match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::NotADirectory | ErrorKind::AlreadyExists => Exit::Failed,
        _ => Exit::Unavailable,
    };
    Failure::new(exit, format!("cannot make the directories of {}: {error}", shown(name)))
}

/// Makes the directories that lead to `name` below `base`, which is a mount or a session in it.
///
/// Whoever comes next, as another user too, makes locks and directories in them: they are as open as the root of the
/// mount, where everybody may make what only they may remove.
pub(super) fn make_way(base: &Path, name: &Path) -> io::Result<()> {
    let above: Vec<_> = name.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
    for path in above.iter().rev() {
        let path = base.join(path);
        match DirBuilder::new().mode(0o1777).create(&path) {
            // mkdir(2) takes the umask off.
            Ok(()) => fs::set_permissions(&path, Permissions::from_mode(0o1777))?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The place of the lock that a command line means: a lock, or with `of_file` the lock of a file.
pub(super) fn meant(path: &Path, of_file: bool) -> Result<Place, Failure> {
    if !of_file {
        return super::mounts::place(path);
    }
    let name = Namer::default().name(path)?;
    Ok(Place { mount: default_mount()?, name: name.path })
}
