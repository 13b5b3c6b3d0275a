//! Settings of a mount: what was said on the command line, in mount options, in the environment and in the
//! file, and what it comes to.
//!
//! Each setting has one name. It is looked for in that order, and the first place that names it decides
//! (`Sources::find`); no setting is put together from two places (what is said of Redis is several settings:
//! `redis.rs`). An empty value in the environment or in
//! the file counts as not said. Every error names the place that the bad value came from.

mod listen;
mod options;
mod redis;
mod side;
mod sources;

use std::ffi::{CStr, OsStr};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use self::listen::Listen;
pub use self::redis::RedisSettings;
pub use self::side::TypedSide;
use crate::lock::Ttl;
use crate::store::Durability;
use crate::store::hybrid::Policy;
use crate::store::redis::Endpoint;
pub use options::MountOptions;
pub use sources::{Environment, Flags, Sources};
use sources::{Found, Key, Rank};

/// Which store keeps the locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// An embedded LevelDB in the data directory.
    LevelDb,
    /// A Redis, for many machines.
    Redis,
    /// A Redis, and a LevelDB for when it is gone.
    Hybrid,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LevelDb => "leveldb",
            Self::Redis => "redis",
            Self::Hybrid => "hybrid",
        })
    }
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "leveldb" => Ok(Self::LevelDb),
            "redis" => Ok(Self::Redis),
            "hybrid" => Ok(Self::Hybrid),
            _ => Err("a backend is leveldb, redis or hybrid".to_owned()),
        }
    }
}

/// The name of a tree of locks: 1 to 64 of `A-Z a-z 0-9 . _ -`, not starting with a dot.
///
/// It is also the name of a directory in the data directory, with its log beside it as `NAME.log`, so it
/// does not end in `.log` either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace(String);

impl Namespace {
    /// The longest name, in bytes.
    pub const MAX: usize = 64;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Namespace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if is_plain_name(text) && !text.ends_with(".log") {
            return Ok(Self(text.to_owned()));
        }
        Err("a namespace is 1 to 64 of A-Z a-z 0-9 . _ - and neither starts with a dot nor ends in .log"
            .to_owned())
    }
}

fn is_plain_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=Namespace::MAX).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(allowed)
}

/// The flags of mount(2) that were asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountFlags {
    /// `ro`: no acquire, no release.
    pub read_only: bool,
    /// `noexec`.
    pub noexec: bool,
    /// `nosuid`.
    pub nosuid: bool,
    /// `nodev`.
    pub nodev: bool,
    /// `noatime`.
    pub noatime: bool,
}

/// What a mount runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which store keeps the locks.
    pub backend: Backend,
    /// Where Redis is and how to get in; there exactly when it keeps the locks.
    pub redis: Option<RedisSettings>,
    /// What may be granted while Redis is gone, where a LevelDB takes its place.
    pub on_outage: Policy,
    /// Where the namespaces of this machine are; absolute.
    pub data_dir: PathBuf,
    /// Which of them is mounted.
    pub namespace: Namespace,
    /// What a lock gets where nothing nearer says.
    pub ttl: Ttl,
    /// What this host is called in owners and sessions.
    pub host_id: String,
    /// What an acknowledged lock survives.
    pub durability: Durability,
    /// Where to mount; absolute.
    pub mountpoint: PathBuf,
    /// With which mode the mountpoint is made where there is none; `None`: it must be there.
    pub mkdir: Option<u32>,
    /// What is shown as the source of the mount, as in the first field of fstab(5).
    pub source: String,
    /// Whether the command itself serves the mount, instead of a process in the background.
    pub foreground: bool,
    /// Whether other users may use the mount.
    pub allow_other: bool,
    /// The flags of mount(2).
    pub flags: MountFlags,
    /// Whether each grant, refusal and release is logged.
    pub debug: bool,
    /// Where to log; `None` for stderr.
    pub log_file: Option<PathBuf>,
    /// Where the metrics are served over HTTP, if anywhere.
    pub metrics: Option<Listen>,
}

impl Settings {
    /// What `sources` come to, for a mount at `mountpoint`.
    ///
    /// # Errors
    /// [`ConfigError`] when a value is not one of its setting.
    pub fn resolve(sources: &Sources, mountpoint: &Path) -> Result<Self, ConfigError> {
        let data_dir = sources.data_dir()?;
        let namespace = sources.namespace()?;
        let foreground = sources.switch(&FOREGROUND)?;
        let log_file = match sources.find(&LOG_FILE) {
            Some(found) => Some(found.path()?),
            None if foreground => None,
            None => Some(data_dir.join(format!("{namespace}.log"))),
        };
        let backend = sources.backend()?;
        let redis = match backend {
            Backend::LevelDb => None,
            Backend::Redis | Backend::Hybrid => Some(RedisSettings::resolve(sources)?),
        };
        let foreign: &[(&[Key], Backend)] = match backend {
            Backend::LevelDb => &[(redis::TYPED, Backend::Redis), (&[ON_OUTAGE], Backend::Hybrid)],
            Backend::Redis => &[(&[DURABILITY], Backend::LevelDb), (&[ON_OUTAGE], Backend::Hybrid)],
            Backend::Hybrid => &[],
        };
        let typed = |keys: &[Key]| keys.iter().find_map(|key| sources.find(key).filter(Found::is_typed));
        if let Some((found, other)) = foreign.iter().find_map(|(keys, other)| Some((typed(keys)?, other))) {
            let place = found.place;
            return Err(ConfigError::new(format!(
                "{place} is for the {other} backend: say --backend {other}"
            )));
        }
        Ok(Self {
            backend,
            redis,
            on_outage: sources.parse(&ON_OUTAGE)?.unwrap_or_default(),
            ttl: sources.parse(&TTL)?.unwrap_or_default(),
            host_id: sources.host_id()?,
            durability: sources.parse(&DURABILITY)?.unwrap_or_default(),
            mountpoint: absolute(mountpoint)?,
            mkdir: sources.options().mkdir,
            source: SOURCE.to_owned(),
            foreground,
            allow_other: sources.options().allow_other || is_root(),
            flags: sources.options().flags,
            debug: sources.switch(&DEBUG)?,
            metrics: sources.parse(&METRICS_LISTEN)?,
            log_file,
            data_dir,
            namespace,
        })
    }

    /// The directory of this namespace's store: nothing but the store writes there.
    pub fn store_dir(&self) -> PathBuf {
        store_dir(&self.data_dir, &self.namespace)
    }
}

/// The source of a mount for which nobody names one.
const SOURCE: &str = "lockfs";

fn store_dir(data_dir: &Path, namespace: &Namespace) -> PathBuf {
    data_dir.join(namespace.as_str())
}

const BACKEND: Key = Key::new("backend", &["LOCKFS_BACKEND", "FILE_LOCK_CACHE_BACKEND"]);
const DATA_DIR: Key = Key::new("data-dir", &["LOCKFS_DATA_DIR"]);
const NAMESPACE: Key = Key::new("namespace", &["LOCKFS_NAMESPACE"]);
const TTL: Key = Key::new("ttl", &["LOCKFS_TTL"]);
const HOST_ID: Key = Key::new("host-id", &["LOCKFS_HOST_ID"]);
const DURABILITY: Key = Key::new("durability", &["LOCKFS_DURABILITY"]);
const ON_OUTAGE: Key = Key::new("on-outage", &["LOCKFS_ON_OUTAGE"]);
const FOREGROUND: Key = Key::new("foreground", &["LOCKFS_FOREGROUND"]);
const DEBUG: Key = Key::new("debug", &["LOCKFS_DEBUG", "DEBUG_FILE_LOCK_CACHE"]);
const LOG_FILE: Key = Key::new("log-file", &["LOCKFS_LOG_FILE"]);
const METRICS_LISTEN: Key = Key::new("metrics-listen", &["LOCKFS_METRICS_LISTEN"]);

/// Every setting there is.
const KEYS: &[Key] = &[
    BACKEND,
    DATA_DIR,
    NAMESPACE,
    TTL,
    HOST_ID,
    DURABILITY,
    ON_OUTAGE,
    FOREGROUND,
    DEBUG,
    LOG_FILE,
    METRICS_LISTEN,
    redis::URL,
    redis::PASSWORD_FILE,
    redis::CA_FILE,
    redis::CERT_FILE,
    redis::KEY_FILE,
    redis::ACKS,
    redis::HOST,
    redis::PORT,
    redis::USERNAME,
    redis::PASSWORD,
    redis::DATABASE,
    redis::CONNECT_TIMEOUT,
    redis::COMMAND_TIMEOUT,
    redis::SENTINEL_USERNAME,
    redis::SENTINEL_PASSWORD,
    redis::SENTINEL_PASSWORD_FILE,
];

/// One setting, for `--help` and the manual.
#[derive(Clone, Debug)]
pub struct Described {
    /// Its name as a flag, without the dashes, and as a mount option.
    pub name: &'static str,
    /// Its names in the environment and in the file.
    pub env: &'static [&'static str],
    /// Whether it may be typed: as a flag and as a mount option.
    pub is_typed: bool,
    /// What it is, where no flag says so.
    pub about: &'static str,
    /// What it is on this machine when nobody says; `None` where there is nothing to say.
    pub default: Option<String>,
    /// The same in words that are true of every machine, where the default is no value that could be written down.
    pub default_anywhere: Option<&'static str>,
}

/// Every setting, and what it comes to on this machine when nobody says.
pub fn described() -> Vec<Described> {
    let sources = Sources::new(Flags::default(), MountOptions::default(), Environment::current());
    let default_of = |key: &Key| match key.name {
        "backend" => Some(Backend::LevelDb.to_string()),
        "redis-url" => Some("redis://localhost:6379/0".to_owned()),
        "redis-host" => Some("localhost".to_owned()),
        "redis-port" => Some(Endpoint::PORT.to_string()),
        "redis-database" => Some("0".to_owned()),
        "redis-connect-timeout" => Some(Endpoint::CONNECT_TIMEOUT.as_millis().to_string()),
        "redis-command-timeout" => Some(Endpoint::COMMAND_TIMEOUT.as_millis().to_string()),
        "data-dir" => sources.default_data_dir().ok().map(|dir| dir.display().to_string()),
        "namespace" => Some(Namespace::default().to_string()),
        "ttl" => Some(Ttl::default().to_string()),
        "host-id" => Some(Sources::default_host_id()),
        "on-outage" => Some(Policy::default().to_string()),
        "durability" => Some(Durability::default().to_string()),
        "foreground" | "debug" => Some("no".to_owned()),
        _ => default_anywhere(key).map(str::to_owned),
    };
    let describe = |key: &Key| Described {
        name: key.name,
        env: key.env,
        is_typed: key.is_typed,
        about: key.about,
        default: default_of(key),
        default_anywhere: default_anywhere(key),
    };
    KEYS.iter().map(describe).collect()
}

fn default_anywhere(key: &Key) -> Option<&'static str> {
    match key.name {
        "acks" => Some("1 with Sentinel, else 0"),
        "data-dir" => Some(
            "the directory that the service manager names in STATE_DIRECTORY; else /var/lib/lockfs for root, and lockfs \
             in the XDG state home (~/.local/state) for others",
        ),
        "host-id" => Some("the name of the host"),
        "metrics-listen" => Some("nowhere"),
        "log-file" => Some("stderr in the foreground, else DATA-DIR/NAMESPACE.log"),
        _ => None,
    }
}

impl Sources {
    /// The data directory: as said, else `$STATE_DIRECTORY` as systemd.exec(5) sets it, else
    /// `/var/lib/lockfs` for root and the XDG state home for others.
    ///
    /// # Errors
    /// [`ConfigError`] when nothing says where.
    pub fn data_dir(&self) -> Result<PathBuf, ConfigError> {
        match self.find(&DATA_DIR) {
            Some(found) => found.path(),
            None => self.default_data_dir(),
        }
    }

    /// The backend: as said, else LevelDB.
    ///
    /// # Errors
    /// [`ConfigError`] when what was said is no [`Backend`].
    pub fn backend(&self) -> Result<Backend, ConfigError> {
        Ok(self.parse(&BACKEND)?.unwrap_or(Backend::LevelDb))
    }

    /// The namespace: as said, else `default`.
    ///
    /// # Errors
    /// [`ConfigError`] when what was said is no [`Namespace`].
    pub fn namespace(&self) -> Result<Namespace, ConfigError> {
        Ok(self.parse(&NAMESPACE)?.unwrap_or_default())
    }

    /// The directory of the store that these sources name; errors as [`data_dir`](Self::data_dir) and
    /// [`namespace`](Self::namespace).
    pub fn store_dir(&self) -> Result<PathBuf, ConfigError> {
        Ok(store_dir(&self.data_dir()?, &self.namespace()?))
    }

    /// Where the data directory is when nobody says.
    ///
    /// # Errors
    /// [`ConfigError`] when the environment has no home directory either.
    pub fn default_data_dir(&self) -> Result<PathBuf, ConfigError> {
        let environment = self.environment();
        if let Some(list) = environment.get("STATE_DIRECTORY") {
            // systemd.exec(5): several directories are separated by colons.
            let first = list.as_encoded_bytes().split(|&byte| byte == b':').next().unwrap_or_default();
            return absolute(Path::new(<OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(first)));
        }
        if is_root() {
            return Ok(PathBuf::from("/var/lib/lockfs"));
        }
        // The XDG base directory specification: a relative path counts as not set.
        let state_home = environment.get("XDG_STATE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
        // mount(8) takes HOME away for a user; the system's database knows it too.
        let home = || environment.get("HOME").map(PathBuf::from).or_else(std::env::home_dir);
        let home = || home().map(|home| home.join(".local/state"));
        match state_home.or_else(home) {
            Some(state) => absolute(&state.join("lockfs")),
            None => Err(ConfigError::new("no data directory: set --data-dir, XDG_STATE_HOME or HOME")),
        }
    }

    /// What this host is called when nobody says: its host name.
    pub fn default_host_id() -> String {
        let mut buffer = [0_u8; 256];
        // SAFETY: the call writes at most `len` bytes into `buffer`, which lives as long.
        let result = unsafe { libc::gethostname(buffer.as_mut_ptr().cast(), buffer.len() - 1) };
        let name = CStr::from_bytes_until_nul(&buffer).unwrap_or_default().to_string_lossy();
        let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '-' };
        let name: String = name.trim_start_matches('.').chars().map(plain).take(Namespace::MAX).collect();
        if result == 0 && !name.is_empty() { name } else { "localhost".to_owned() }
    }

    fn host_id(&self) -> Result<String, ConfigError> {
        match self.find(&HOST_ID) {
            None => Ok(Self::default_host_id()),
            Some(found) => {
                let text = found.text()?;
                if is_plain_name(text) {
                    return Ok(text.to_owned());
                }
                Err(found.refuse("a host id is 1 to 64 of A-Z a-z 0-9 . _ - and does not start with a dot"))
            }
        }
    }

    fn switch(&self, key: &Key) -> Result<bool, ConfigError> {
        match self.find(key) {
            None => Ok(false),
            Some(found) => match found.text()?.to_ascii_lowercase().as_str() {
                "1" | "true" | "yes" | "on" => Ok(true),
                "0" | "false" | "no" | "off" => Ok(false),
                _ => Err(found.refuse("say yes or no")),
            },
        }
    }

    fn parse<T: FromStr<Err: fmt::Display>>(&self, key: &Key) -> Result<Option<T>, ConfigError> {
        let Some(found) = self.find(key) else { return Ok(None) };
        found.text()?.parse().map(Some).map_err(|error: T::Err| found.refuse(error))
    }
}

impl Found<'_> {
    fn text(&self) -> Result<&str, ConfigError> {
        self.value.to_str().ok_or_else(|| self.refuse("it is not UTF-8"))
    }

    /// A relative path starts from where the command was typed: the daemon works in `/`.
    fn path(&self) -> Result<PathBuf, ConfigError> {
        absolute(Path::new(self.value))
    }

    fn refuse(&self, why: impl fmt::Display) -> ConfigError {
        ConfigError::new(format!("{} is '{}': {why}", self.place, self.value.display()))
    }

    /// The same without the value, which may be a secret or have one in it.
    fn hide(&self, why: impl fmt::Display) -> ConfigError {
        ConfigError::new(format!("{}: {why}", self.place.trim_end_matches(',')))
    }

    /// Whether it is on the command line, which everyone may read.
    fn is_typed(&self) -> bool {
        self.rank <= Rank::Option
    }
}

fn absolute(path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path)
        .map_err(|error| ConfigError::new(format!("no path can be made of '{}': {error}", path.display())))
}

fn is_root() -> bool {
    // SAFETY: geteuid(2) takes nothing and can't fail.
    unsafe { libc::geteuid() == 0 }
}

/// A setting that can't be used; says where it stands and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl ConfigError {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    /// Sources that say `flags`, then `options`, then `env`, then `file`.
    pub(super) fn said(
        flags: &[(&'static str, &str)],
        options: &str,
        env: &[(&str, &str)],
        file: &str,
    ) -> Sources {
        let mut typed = Flags::default();
        for (name, value) in flags {
            typed.set(name, Some(OsString::from(value)));
        }
        let options = MountOptions::parse([options]).unwrap();
        let env = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        Sources::new(typed, options, Environment::from_iter(env)).with_file(Path::new("/conf"), file).unwrap()
    }

    pub(super) fn settings(sources: &Sources) -> Settings {
        Settings::resolve(sources, Path::new("/locks")).unwrap()
    }

    pub(super) fn refusal(sources: &Sources) -> String {
        Settings::resolve(sources, Path::new("/locks")).unwrap_err().to_string()
    }

    const ENV: &[(&str, &str)] = &[("LOCKFS_TTL", "3s")];

    #[test]
    fn a_flag_beats_an_option_beats_the_environment_beats_the_file() {
        let ttl = |sources: Sources| settings(&sources).ttl.to_string();
        assert_eq!(ttl(said(&[("ttl", "1s")], "ttl=2s", ENV, "LOCKFS_TTL=4s")), "1s");
        assert_eq!(ttl(said(&[], "ttl=2s", ENV, "LOCKFS_TTL=4s")), "2s");
        assert_eq!(ttl(said(&[], "", ENV, "LOCKFS_TTL=4s")), "3s");
        assert_eq!(ttl(said(&[], "", &[("LOCKFS_TTL", "")], "LOCKFS_TTL=4s")), "4s");
        assert_eq!(ttl(said(&[], "", &[], "")), "5m");
    }

    #[test]
    fn the_names_of_the_file_lock_cache_work() {
        let sources =
            said(&[], "", &[("FILE_LOCK_CACHE_BACKEND", "leveldb"), ("DEBUG_FILE_LOCK_CACHE", "true")], "");
        assert_eq!((settings(&sources).backend, settings(&sources).debug), (Backend::LevelDb, true));
        let sources = said(&[], "", &[], "FILE_LOCK_CACHE_BACKEND=hybrid");
        let settings = settings(&sources);
        assert_eq!((settings.backend, settings.on_outage), (Backend::Hybrid, Policy::Auto));
        assert!(settings.redis.is_some());
    }

    #[test]
    fn what_to_do_on_an_outage_is_for_the_hybrid_backend() {
        let sources = said(&[("backend", "hybrid"), ("on-outage", "local")], "", &[], "");
        assert_eq!(settings(&sources).on_outage, Policy::Local);
        let refused = refusal(&said(&[("on-outage", "local")], "", &[], ""));
        assert_eq!(refused, "--on-outage is for the hybrid backend: say --backend hybrid");
        let refused = refusal(&said(&[("backend", "redis")], "on-outage=local", &[], ""));
        assert_eq!(refused, "mount option on-outage is for the hybrid backend: say --backend hybrid");
        let refused = refusal(&said(&[("backend", "hybrid"), ("on-outage", "maybe")], "", &[], ""));
        assert_eq!(refused, "--on-outage is 'maybe': say auto, local or refuse");
    }

    #[test]
    fn an_error_names_the_place_of_the_value() {
        for (sources, start) in [
            (said(&[("ttl", "x")], "", &[], ""), "--ttl is 'x': "),
            (said(&[], "ro,ttl=x", &[], ""), "mount option ttl is 'x': "),
            (said(&[], "", &[("LOCKFS_TTL", "x")], ""), "LOCKFS_TTL is 'x': "),
            (said(&[], "", &[], "# a\n\nLOCKFS_TTL=x"), "LOCKFS_TTL in /conf, line 3, is 'x': "),
        ] {
            assert!(refusal(&sources).starts_with(start), "{}", refusal(&sources));
        }
    }

    #[test]
    fn a_namespace_is_a_plain_directory_name() {
        for good in ["a", "ci-2.x_Y", &"n".repeat(64)] {
            assert_eq!(good.parse::<Namespace>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".a", "a/b", "a b", "a.log", "\u{e9}", &"n".repeat(65)] {
            assert!(bad.parse::<Namespace>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_data_directory_is_the_one_that_systemd_made() {
        let env = [("STATE_DIRECTORY", "/var/lib/a:/var/lib/b")];
        assert_eq!(settings(&said(&[], "", &env, "")).data_dir, Path::new("/var/lib/a"));
        assert_eq!(settings(&said(&[("data-dir", "/x")], "", &env, "")).store_dir(), Path::new("/x/default"));
    }

    #[test]
    fn a_background_mount_logs_beside_its_store() {
        let dir = ("data-dir", "/x");
        let log = |sources: Sources| settings(&sources).log_file;
        assert_eq!(log(said(&[dir], "namespace=ci", &[], "")), Some(PathBuf::from("/x/ci.log")));
        assert_eq!(log(said(&[dir, ("foreground", "yes")], "", &[], "")), None);
        assert_eq!(log(said(&[dir], "log-file=/y", &[], "")), Some(PathBuf::from("/y")));
    }

    #[test]
    fn a_switch_is_yes_or_no() {
        assert!(!settings(&said(&[], "", &[("LOCKFS_DEBUG", "0")], "")).debug);
        assert!(settings(&said(&[], "debug", &[("LOCKFS_DEBUG", "0")], "")).debug);
        assert!(refusal(&said(&[], "", &[("LOCKFS_DEBUG", "perhaps")], "")).contains("say yes or no"));
    }
}
