//! The places a setting may come from, in the order in which they are asked.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{ConfigError, KEYS, MountOptions};

/// Where the file is when `LOCKFS_CONFIG` says nothing.
const FILE: &str = "/etc/lockfs/lockfs.conf";

/// A setting: its name as a flag and as a mount option, and its names in the environment and in the file,
/// the one that counts first.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) env: &'static [&'static str],
    /// Whether it may be typed: as a flag or as a mount option.
    pub(super) is_typed: bool,
    /// What it is, where no flag says so.
    pub(super) about: &'static str,
}

impl Key {
    /// A setting that may be said anywhere.
    pub(super) const fn new(name: &'static str, env: &'static [&'static str]) -> Self {
        Self { name, env, is_typed: true, about: "" }
    }

    /// One for the environment and the file alone: a secret, or what only goes with one.
    pub(super) const fn kept(name: &'static str, env: &'static [&'static str], about: &'static str) -> Self {
        Self { name, env, is_typed: false, about }
    }
}

/// A place, the nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Flag,
    Option,
    Environment,
    File,
}

/// A value, and where it stands.
pub(super) struct Found<'a> {
    pub(super) value: &'a OsStr,
    pub(super) place: String,
    pub(super) rank: Rank,
}

/// The value may be a password.
impl fmt::Debug for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found").field("place", &self.place).finish_non_exhaustive()
    }
}

/// What was typed, by the flag's name without its dashes.
#[derive(Clone, Debug, Default)]
pub struct Flags(Vec<(&'static str, OsString)>);

impl Flags {
    /// Notes that `name` was typed with `value`; `None` where it was not typed.
    pub fn set(&mut self, name: &'static str, value: Option<OsString>) {
        debug_assert!(KEYS.iter().any(|key| key.name == name && key.is_typed), "{name} is a setting");
        self.0.extend(value.map(|value| (name, value)));
    }
}

/// The environment, or a test's idea of one.
#[derive(Clone, Default)]
pub struct Environment(HashMap<OsString, OsString>);

/// Names only: values may be passwords.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Environment {
    /// That of this process.
    pub fn current() -> Self {
        std::env::vars_os().collect()
    }

    /// The value of `name`; `None` where it is empty or not set.
    pub fn get(&self, name: &str) -> Option<OsString> {
        self.look_up(name).map(OsStr::to_owned)
    }

    fn look_up(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }
}

impl FromIterator<(OsString, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(variables: I) -> Self {
        Self(variables.into_iter().collect())
    }
}

/// One `KEY=value` of the file.
#[derive(Clone)]
struct Line {
    number: usize,
    key: String,
    value: OsString,
}

/// Without the value: it may be a password.
impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}=...", self.number, self.key)
    }
}

/// All places together.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    flags: Flags,
    options: MountOptions,
    environment: Environment,
    file: PathBuf,
    lines: Vec<Line>,
}

impl Sources {
    /// These flags, options and environment, and no file.
    pub fn new(flags: Flags, options: MountOptions, environment: Environment) -> Self {
        Self { flags, options, environment, ..Self::default() }
    }

    /// These flags and options, the environment of this process, and the file: `/etc/lockfs/lockfs.conf`, or
    /// the one that `LOCKFS_CONFIG` names (none, if that is empty; the usual one, if there is a dash before the
    /// name and no such file).
    ///
    /// # Errors
    /// [`ConfigError`] when the file can't be read or understood; a missing one only if it was named without a
    /// dash.
    pub fn gather(flags: Flags, options: MountOptions) -> Result<Self, ConfigError> {
        let sources = Self::new(flags, options, Environment::current());
        let named = sources.environment.0.get(OsStr::new("LOCKFS_CONFIG")).cloned();
        for (file, must_be_there) in files(named.as_deref()) {
            match std::fs::read_to_string(file) {
                Ok(text) => return sources.with_file(file, &text),
                Err(error) if !must_be_there && error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(ConfigError::new(format!(
                        "cannot read {}: {error} (LOCKFS_CONFIG names another file, or none if it is empty)",
                        file.display()
                    )));
                }
            }
        }
        Ok(sources)
    }

    /// The same with the file `path`, which says `text`: `KEY=value` lines with the names of the
    /// environment, and `#` comments. Quotes around a value are taken off, as in systemd's `EnvironmentFile=`.
    ///
    /// # Errors
    /// [`ConfigError`] for a line that is neither, and for a key that nobody knows.
    pub fn with_file(mut self, path: &Path, text: &str) -> Result<Self, ConfigError> {
        self.file = path.to_owned();
        for (line, number) in text.lines().map(str::trim).zip(1..) {
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            let at = |what: String| ConfigError::new(format!("{}, line {number}: {what}", path.display()));
            let Some((key, value)) = line.split_once('=') else {
                return Err(at("it is no KEY=value line, as LOCKFS_TTL=5m is".to_owned()));
            };
            let (key, value) = (key.trim_end(), unquoted(value.trim_start()));
            // The file may also be a unit's EnvironmentFile=.
            let is_for_others = key.starts_with("RUST_");
            if !is_for_others && !KEYS.iter().any(|known| known.env.contains(&key)) {
                return Err(at(format!(
                    "lockfs has no setting '{}': lockfs mount --help lists all",
                    key.escape_debug()
                )));
            }
            self.lines.push(Line { number, key: key.to_owned(), value: value.into() });
        }
        Ok(self)
    }

    /// The mount options.
    pub(super) fn options(&self) -> &MountOptions {
        &self.options
    }

    /// The environment.
    pub(super) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The value of `key` from the first place that has one.
    pub(super) fn find(&self, key: &Key) -> Option<Found<'_>> {
        let last =
            |said: &'_ [(&'static str, OsString)]| said.iter().rposition(|(name, _)| *name == key.name);
        if let Some(at) = last(&self.flags.0) {
            let (value, place) = (self.flags.0[at].1.as_os_str(), format!("--{}", key.name));
            return Some(Found { value, place, rank: Rank::Flag });
        }
        if let Some(at) = last(&self.options.settings) {
            let value = self.options.settings[at].1.as_os_str();
            return Some(Found { value, place: format!("mount option {}", key.name), rank: Rank::Option });
        }
        let in_environment = |name: &&'static str| {
            let value = self.environment.look_up(name).filter(|value| !is_of_a_container(name, value))?;
            Some(Found { value, place: (*name).to_owned(), rank: Rank::Environment })
        };
        key.env.iter().find_map(in_environment).or_else(|| self.find_in_file(key))
    }

    fn find_in_file(&self, key: &Key) -> Option<Found<'_>> {
        key.env.iter().find_map(|name| {
            let says = |line: &&Line| line.key == *name && !line.value.is_empty();
            let line = self.lines.iter().rfind(says)?;
            let place = format!("{name} in {}, line {},", self.file.display(), line.number);
            Some(Found { value: &line.value, place, rank: Rank::File })
        })
    }
}

/// Where the file is looked for when `LOCKFS_CONFIG` is `named`, and whether it must be there; the first one
/// that is there counts.
fn files(named: Option<&OsStr>) -> Vec<(&Path, bool)> {
    let usual = (Path::new(FILE), false);
    match named.map(OsStr::as_encoded_bytes) {
        None => vec![usual],
        Some(b"") => Vec::new(),
        // As in systemd's `EnvironmentFile=-`.
        Some([b'-', name @ ..]) => vec![(Path::new(OsStr::from_bytes(name)), false), usual],
        Some(name) => vec![(Path::new(OsStr::from_bytes(name)), true)],
    }
}

/// Kubernetes, and links of Docker, say `REDIS_PORT=tcp://address:port` to whoever runs beside a service that
/// is called redis; nobody meant us.
fn is_of_a_container(name: &str, value: &OsStr) -> bool {
    name == "REDIS_PORT" && value.as_encoded_bytes().starts_with(b"tcp://")
}

fn unquoted(value: &str) -> &str {
    ['"', '\''].iter().find_map(|&quote| value.strip_prefix(quote)?.strip_suffix(quote)).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Sources, String> {
        Sources::default().with_file(Path::new("/conf"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn the_file_has_comments_quotes_and_blank_lines() {
        let sources =
            read("# one\n\n  LOCKFS_TTL = \"90s\"\nREDIS_HOST=db\nLOCKFS_NAMESPACE='ci'\n").unwrap();
        let values: Vec<_> = sources.lines.iter().map(|line| line.value.to_str().unwrap()).collect();
        assert_eq!(values, ["90s", "db", "ci"]);
    }

    #[test]
    fn a_misspelt_key_is_an_error_not_silence() {
        assert_eq!(
            read("LOCKFS_TLL=5m").unwrap_err(),
            "/conf, line 1: lockfs has no setting 'LOCKFS_TLL': lockfs mount --help lists all"
        );
        assert!(read("REDIS_PROT=1").unwrap_err().contains("lockfs has no setting 'REDIS_PROT': "));
        assert_eq!(
            read("\nnonsense").unwrap_err(),
            "/conf, line 2: it is no KEY=value line, as LOCKFS_TTL=5m is"
        );
    }

    #[test]
    fn a_file_after_a_dash_may_be_missing() {
        let [named, usual] = [Path::new("/etc/lockfs/ci.conf"), Path::new(FILE)];
        assert_eq!(files(None), [(usual, false)]);
        assert_eq!(files(Some(OsStr::new(""))), []);
        assert_eq!(files(Some(named.as_os_str())), [(named, true)]);
        assert_eq!(files(Some(OsStr::new("-/etc/lockfs/ci.conf"))), [(named, false), (usual, false)]);
    }

    #[test]
    fn the_first_name_of_a_setting_counts() {
        let env = [("FILE_LOCK_CACHE_BACKEND", "redis"), ("LOCKFS_BACKEND", "leveldb")];
        let env = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let sources = Sources::new(Flags::default(), MountOptions::default(), env.collect());
        assert_eq!(sources.find(&super::super::BACKEND).unwrap().place, "LOCKFS_BACKEND");
    }
}
