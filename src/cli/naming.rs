//! What the lock of a file is called, so that every clone on every machine calls it the same.
//!
//! The name is the repository's and the path inside it: `repo/<host>/<owner>/<name>/<path>` by the URL of its remote,
//! else `root/<commit>/<path>` by the commit that its history begins with. What is in no repository, or in one without
//! either, is of this machine alone, and its name says so: `host/<this host>/<absolute path>`. Git is asked only where
//! there is a repository; where it does not answer there is no name at all, for another one would exclude nobody.

pub(super) mod git;
mod url;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use self::git::Identity;
use super::mounts::{mount_of, mounted, resolved, shown};
use super::{Exit, Failure};
use crate::config::Sources;

/// How many bytes a component may have: `NAME_MAX`, and [`crate::lock::Name::MAX`].
const COMPONENT_MAX: usize = 255;

/// How many bytes a name may have: below it `PATH_MAX` leaves a mountpoint and `.sessions/NAME` their room.
const NAME_MAX: usize = 3_000;

/// What a repository is named by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    /// `lockfs.repository` in its configuration.
    Setting,
    /// The URL of its remote.
    Remote,
    /// The first commit of its history.
    RootCommit,
    /// Nothing that others have too: the name is this machine's.
    Host,
}

impl Basis {
    /// The word for it in JSON.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Setting => "setting",
            Self::Remote => "remote",
            Self::RootCommit => "root-commit",
            Self::Host => "host",
        }
    }
}

/// The name of a file's lock, and what it is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LockName {
    /// The path of the lock, below the mountpoint. It is UTF-8 and one line whatever the file is called.
    pub(super) path: PathBuf,
    /// What it begins with: all of the repository, or all of the host.
    pub(super) of: String,
    /// What that was taken from.
    pub(super) basis: Basis,
    /// The file: without symlinks, inside the repository if there is one.
    pub(super) file: PathBuf,
}

/// Names files, and asks git once for each repository.
#[derive(Debug, Default)]
pub(super) struct Namer {
    known: HashMap<PathBuf, Identity>,
}

impl Namer {
    /// The name of the lock of `file`, which need not be there; symlinks lead to what they name.
    ///
    /// # Errors
    /// [`Exit::Usage`] for what can have no lock, [`Exit::Failed`] where the repository can't be told.
    pub(super) fn name(&mut self, file: &Path) -> Result<LockName, Failure> {
        if file.as_os_str().is_empty() {
            return Err(Failure::new(Exit::Usage, "an empty path names no file"));
        }
        let mounts = mounted()?;
        let file = resolved(file, &mounts)?;
        if mount_of(&file, &mounts).is_some() {
            let message = format!("{} is in a lockfs mount: it is a lock itself", shown(&file));
            return Err(Failure::new(Exit::Usage, message));
        }
        let of_host =
            |file: &Path| LockName::new(&host(), Basis::Host, file.strip_prefix("/").unwrap_or(file));
        let Some(top) = top_of(&file) else { return Ok(of_host(&file)) };
        let inside = file.strip_prefix(&top).unwrap_or(&file);
        // Each clone has a .git of its own.
        if inside.components().any(|part| part == Component::Normal(OsStr::new(".git"))) {
            return Ok(of_host(&file));
        }
        let identity = match self.known.get(&top) {
            Some(identity) => identity.clone(),
            None => {
                let identity = git::identity(&top)?;
                self.known.insert(top.clone(), identity.clone());
                identity
            }
        };
        Ok(match identity {
            Identity::Set(id) => LockName::new(&format!("repo/{id}"), Basis::Setting, inside),
            Identity::Remote(id) => LockName::new(&format!("repo/{id}"), Basis::Remote, inside),
            Identity::RootCommit(id) => LockName::new(&format!("root/{id}"), Basis::RootCommit, inside),
            Identity::None => of_host(&file),
        })
    }
}

impl LockName {
    fn new(of: &str, basis: Basis, file: &Path) -> Self {
        let parts = of.split('/').map(|part| component(part.as_bytes()));
        let parts = parts.chain(file.components().map(|part| component(part.as_os_str().as_bytes())));
        Self { path: shortened(parts), of: of.to_owned(), basis, file: file.to_owned() }
    }
}

/// The first of the name of what is this machine's alone.
fn host() -> String {
    format!("host/{}", Sources::default_host_id())
}

/// The top of the work tree that `file` is in: the next directory upwards that has a `.git`, as git itself looks for it
/// (gitrepository-layout(5)). A worktree's and a submodule's is a file that says where the rest is.
fn top_of(file: &Path) -> Option<PathBuf> {
    let is_git = |directory: &Path| {
        let git = directory.join(".git");
        match fs::metadata(&git) {
            Ok(data) if data.is_dir() => git.join("HEAD").symlink_metadata().is_ok(),
            Ok(data) => data.is_file() && fs::read(&git).is_ok_and(|text| text.starts_with(b"gitdir:")),
            Err(_) => false,
        }
    };
    file.ancestors().find(|directory| is_git(directory)).map(Path::to_owned)
}

/// A component as it is in the name of a lock: what is no character, or none to be seen, is `%` and two digits, so that
/// a name is one line and the same text wherever it is shown; and what is too long ends in a hash of the whole.
fn component(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let hex =
        |text: &mut String, bytes: &[u8]| bytes.iter().for_each(|byte| *text += &format!("%{byte:02X}"));
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '%' || character.is_control() {
                hex(&mut text, character.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.push(character);
            }
        }
        hex(&mut text, chunk.invalid());
    }
    if text.len() <= COMPONENT_MAX { text } else { cut(&text, COMPONENT_MAX, bytes) }
}

/// `parts` as a path; one that is too long keeps its beginning, and ends in a hash of the rest.
fn shortened(parts: impl Iterator<Item = String>) -> PathBuf {
    let parts: Vec<_> = parts.collect();
    let mut path = String::new();
    for (index, part) in parts.iter().enumerate() {
        let rest = parts[index..].join("/");
        // Where the rest does not fit, this component may still be the last that does.
        if path.len() + 1 + rest.len() > NAME_MAX && path.len() + 1 + part.len() > NAME_MAX - COMPONENT_MAX {
            path = format!("{path}/{}", cut(part, COMPONENT_MAX, rest.as_bytes()));
            break;
        }
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(part);
    }
    PathBuf::from(path)
}

/// The beginning of `text`, and a hash of `whole`: at most `max` bytes.
fn cut(text: &str, max: usize, whole: &[u8]) -> String {
    let hash = format!("~{:032x}", hash(whole));
    let mut end = text.len().min(max - hash.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{hash}", &text[..end])
}

/// FNV-1a of 128 bits (the IETF draft draft-eastlake-fnv): the same on every machine and of every version, and names
/// need no more. Two names of one hash would exclude each other, no worse.
pub(super) fn hash(bytes: &[u8]) -> u128 {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(BASIS, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_one_line_of_characters() {
        assert_eq!(component("caf\u{e9} au lait.rs".as_bytes()), "caf\u{e9} au lait.rs");
        assert_eq!(component(b"a\nb\x1b\xff100%"), "a%0Ab%1B%FF100%25");
    }

    #[test]
    fn what_is_too_long_ends_in_a_hash_of_the_whole() {
        let long = |last: char| component(format!("{}{last}", "\u{e9}".repeat(200)).as_bytes());
        assert!(long('a').len() <= COMPONENT_MAX && long('a') != long('b'), "{}", long('a'));
        assert_eq!(component(&[b'x'; 255]).len(), 255);
        let deep = |last: &str| {
            let parts = (0..100).map(|_| "d".repeat(100)).chain([last.to_owned()]);
            shortened(parts)
        };
        assert!(deep("a").as_os_str().len() <= NAME_MAX && deep("a") != deep("b"));
        assert!(deep("a").components().all(|part| part.as_os_str().len() <= COMPONENT_MAX));
        let short = ["a", "b"].map(str::to_owned).into_iter();
        assert_eq!(shortened(short), Path::new("a/b"));
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(hash(b""), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(hash(b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }

    #[test]
    fn what_is_in_no_repository_is_of_this_host() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        fs::create_dir_all(top.join("d/.git")).unwrap();
        let name = Namer::default().name(&top.join("d/./x y")).unwrap();
        assert_eq!(name.basis, Basis::Host);
        let expected = format!("{}{}/d/x y", host(), top.display());
        assert_eq!(name.path, Path::new(&expected), "an empty .git is no repository");
        assert!(Namer::default().name(Path::new("")).is_err());
    }
}
