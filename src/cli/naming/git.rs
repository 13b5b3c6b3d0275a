//! What git knows of a repository: how the clones of it are recognised.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::super::mounts::shown;
use super::super::{Exit, Failure};
use super::url::{Remote, parse};

/// What is the same in all clones of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// What `lockfs.repository` says, in components.
    Set(String),
    /// The name by its remote's URL: `example.org/owner/name`.
    Remote(String),
    /// The commit that its history begins with.
    RootCommit(String),
    /// Nothing.
    None,
}

/// How far a clone of a clone of a clone is followed.
const CLONES_MAX: usize = 8;

/// Variables that tell git of another repository than the one where it is started: git sets them for its hooks.
const ELSEWHERE: [&str; 9] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_COMMON_DIR",
    "GIT_INDEX_FILE",
    "GIT_PREFIX",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_CONFIG",
    "GIT_CEILING_DIRECTORIES",
];

/// How the repository in `top` is recognised.
///
/// # Errors
/// [`Exit::Failed`] where git is missing, or does not want to say.
pub(super) fn identity(top: &Path) -> Result<Identity, Failure> {
    let settings = Settings::read(top)?;
    if let Some(id) = settings.repository() {
        return id;
    }
    if let Some(id) = hosted(top, settings) {
        return Ok(Identity::Remote(id));
    }
    // It prints nothing and exits 1 where there is no commit yet.
    let head = git(top, &["rev-parse", "--quiet", "--verify", "HEAD"])?;
    if head.status.code() == Some(1) {
        return Ok(Identity::None);
    }
    let roots = said(top, git(top, &["rev-list", "--max-parents=0", "HEAD"])?)?;
    // A history that took in others has several; the last that is printed is the oldest.
    let oldest = roots.split(|&byte| byte == b'\n').rfind(|line| !line.is_empty());
    Ok(match oldest {
        Some(commit) => Identity::RootCommit(String::from_utf8_lossy(commit).into_owned()),
        None => Identity::None,
    })
}

/// The name by the URL of the remote. The remote of a clone of a directory is that of the directory: whoever gives each
/// agent a clone of the clone at hand means one repository by all of them.
fn hosted(top: &Path, settings: Settings) -> Option<String> {
    let (mut place, mut settings) = (top.to_owned(), settings);
    for _ in 0..CLONES_MAX {
        let (name, url) = settings.remote()?;
        let mut remote = parse(&url);
        // A host without a dot may be short for another, by `url.<base>.insteadOf`.
        if matches!(&remote, Remote::Hosted(id) if !id.split('/').next().unwrap_or_default().contains('.')) {
            let full =
                git(&place, &["ls-remote", "--get-url", &name]).ok().filter(|out| out.status.success());
            let full = full.map(|out| String::from_utf8_lossy(&out.stdout).trim_end_matches('\n').to_owned());
            remote = full.map_or(remote, |url| parse(&url));
        }
        match remote {
            Remote::Hosted(id) => return Some(id),
            Remote::Unknown => return None,
            Remote::Directory(path) => {
                place = place.join(path);
                settings = Settings::read(&place).ok()?;
            }
        }
    }
    None
}

/// The settings of a repository that tell what it is.
#[derive(Debug, Default)]
struct Settings {
    repository: Option<String>,
    /// Names and URLs.
    remotes: Vec<(String, String)>,
}

impl Settings {
    fn read(place: &Path) -> Result<Self, Failure> {
        // `--local` fails where git does not take the repository for one, as that of another user; without it git would
        // answer as if there were no remote.
        let pattern = r"^(remote\..*\.url|lockfs\.repository)$";
        let output = git(place, &["config", "--local", "--includes", "-z", "--get-regexp", pattern])?;
        if output.status.code() == Some(1) {
            return Ok(Self::default());
        }
        Ok(Self::parse(&said(place, output)?))
    }

    /// Takes what `git config -z` prints: a key, a newline, a value and a NUL for each.
    fn parse(text: &[u8]) -> Self {
        let mut settings = Self::default();
        for entry in text.split(|&byte| byte == 0) {
            let entry = String::from_utf8_lossy(entry);
            let Some((key, value)) = entry.split_once('\n') else { continue };
            match key.strip_prefix("remote.").and_then(|rest| rest.strip_suffix(".url")) {
                // The first of several URLs is the one that is fetched from.
                Some(name) if settings.remotes.iter().any(|(other, _)| other == name) => {}
                Some(name) => settings.remotes.push((name.to_owned(), value.to_owned())),
                None => settings.repository = Some(value.to_owned()),
            }
        }
        settings
    }

    /// What the repository is set to be, if it is.
    fn repository(&self) -> Option<Result<Identity, Failure>> {
        let set = self.repository.as_deref()?;
        let parts: Vec<_> = set.split('/').filter(|part| !part.is_empty()).collect();
        if parts.is_empty() || parts.iter().any(|part| [".", ".."].contains(part)) {
            let message =
                format!("lockfs.repository is {set:?}, which is no path: git config lockfs.repository");
            return Some(Err(Failure::new(Exit::Failed, message)));
        }
        Some(Ok(Identity::Set(parts.join("/"))))
    }

    /// The remote that names the repository: origin, else the first by name.
    fn remote(&self) -> Option<(String, String)> {
        let origin = self.remotes.iter().find(|(name, _)| name == "origin");
        origin.or_else(|| self.remotes.iter().min()).cloned()
    }
}

/// Runs git in `place`, whatever repository the environment speaks of.
fn git(place: &Path, words: &[&str]) -> Result<Output, Failure> {
    let mut command = Command::new("git");
    for name in ELSEWHERE {
        command.env_remove(name);
    }
    command.arg("-C").arg(place).args(words).stdin(Stdio::null()).env("LC_ALL", "C");
    command.output().map_err(|error| unknown(place, &format!("cannot run git: {error}")))
}

/// What git printed, without what it says of a failure.
fn said(place: &Path, output: Output) -> Result<Vec<u8>, Failure> {
    if output.status.success() {
        return Ok(output.stdout);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(unknown(place, text.lines().next().unwrap_or("git failed")))
}

fn unknown(place: &Path, why: &str) -> Failure {
    Failure::new(Exit::Failed, format!("cannot tell which repository {} is: {why}", shown(place)))
}

/// The files that the next commit changes, below the top of the work tree where this is called; by the index that the
/// environment names, as that of a commit of some files does.
///
/// # Errors
/// [`Exit::Failed`] where git is missing, or does not want to say.
pub(crate) fn staged() -> Result<Vec<PathBuf>, Failure> {
    let here = Path::new(".");
    // Of a renamed file both names, by both of which others may know it.
    let words = ["diff", "--cached", "--name-only", "--no-renames", "--no-ext-diff", "-z"];
    let output = Command::new("git").args(words).stdin(Stdio::null()).env("LC_ALL", "C").output();
    let output = output.map_err(|error| unknown(here, &format!("cannot run git: {error}")))?;
    let names = said(here, output)?;
    let names = names.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| PathBuf::from(OsStr::from_bytes(name))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_names_a_repository_else_the_first_remote() {
        let text = b"remote.upstream.url\nb\0remote.fork.url\na\0remote.fork.url\nc\0";
        let settings = Settings::parse(text);
        assert_eq!(settings.remote(), Some(("fork".to_owned(), "a".to_owned())));
        let text = [text.as_slice(), b"remote.origin.url\nx\0lockfs.repository\n/team/app/\0"].concat();
        let settings = Settings::parse(&text);
        assert_eq!(settings.remote().unwrap().1, "x");
        assert_eq!(settings.repository(), Some(Ok(Identity::Set("team/app".to_owned()))));
        assert!(Settings::parse(b"lockfs.repository\na/../b\0").repository().unwrap().is_err());
        assert_eq!(Settings::parse(b"").remote(), None);
    }
}
