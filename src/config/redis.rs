//! What the places say of Redis, and what it comes to.
//!
//! Where Redis is comes from one place: a URL, or `REDIS_HOST` and `REDIS_PORT`; the nearest one that says
//! either decides, and what is farther is ignored, the database with it. User and password are looked for on
//! their own, so that a URL on the command line goes with a password that is kept elsewhere: the command line
//! and mount options are public, and a password there is refused. No error repeats a URL or a password.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::sources::{Found, Key, Rank};
use super::{ConfigError, Sources, absolute};
use crate::store::redis::{Acks, Address, Database, Endpoint, Login, Node, Place, Secret, Tls};

pub(super) const URL: Key = Key::new("redis-url", &["LOCKFS_REDIS_URL", "REDIS_URL"]);
pub(super) const PASSWORD_FILE: Key =
    Key::new("redis-password-file", &["LOCKFS_REDIS_PASSWORD_FILE", "REDIS_PASSWORD_FILE"]);
pub(super) const CA_FILE: Key = Key::new("redis-ca-file", &["LOCKFS_REDIS_CA_FILE", "REDIS_CA_FILE"]);
pub(super) const CERT_FILE: Key = Key::new("redis-cert-file", &["LOCKFS_REDIS_CERT_FILE", "REDIS_CERT_FILE"]);
pub(super) const KEY_FILE: Key = Key::new("redis-key-file", &["LOCKFS_REDIS_KEY_FILE", "REDIS_KEY_FILE"]);
pub(super) const ACKS: Key = Key::new("acks", &["LOCKFS_ACKS"]);
pub(super) const HOST: Key = Key::kept("redis-host", &["REDIS_HOST"], "The host of Redis, instead of a URL");
pub(super) const PORT: Key = Key::kept("redis-port", &["REDIS_PORT"], "Its port, instead of a URL");
pub(super) const USERNAME: Key = Key::kept("redis-username", &["REDIS_USERNAME"], "The user to be at Redis");
pub(super) const PASSWORD: Key = Key::kept(
    "redis-password",
    &["REDIS_PASSWORD"],
    "The password for Redis; REDIS_PASSWORD_FILE keeps it elsewhere",
);
pub(super) const DATABASE: Key =
    Key::kept("redis-database", &["REDIS_DATABASE"], "The number of the database");
pub(super) const CONNECT_TIMEOUT: Key = Key::kept(
    "redis-connect-timeout",
    &["REDIS_CONNECT_TIMEOUT"],
    "How long a connection may take to be made, in milliseconds",
);
pub(super) const COMMAND_TIMEOUT: Key = Key::kept(
    "redis-command-timeout",
    &["REDIS_COMMAND_TIMEOUT"],
    "How long Redis may take to answer, in milliseconds",
);
pub(super) const SENTINEL_USERNAME: Key =
    Key::kept("redis-sentinel-username", &["REDIS_SENTINEL_USERNAME"], "The user to be at the sentinels");
pub(super) const SENTINEL_PASSWORD: Key =
    Key::kept("redis-sentinel-password", &["REDIS_SENTINEL_PASSWORD"], "The password for the sentinels");
pub(super) const SENTINEL_PASSWORD_FILE: Key = Key::kept(
    "redis-sentinel-password-file",
    &["REDIS_SENTINEL_PASSWORD_FILE"],
    "The file with the password for the sentinels",
);

/// The settings that make sense with the redis backend alone, and may be typed.
pub(super) const TYPED: &[Key] = &[URL, PASSWORD_FILE, CA_FILE, CERT_FILE, KEY_FILE, ACKS];

/// The file that systemd makes of `LoadCredential=lockfs.redis-password:...`: systemd.exec(5).
const CREDENTIAL: &str = "lockfs.redis-password";
/// The longest timeout, an hour: longer ones are a slip of units.
const LONGEST: u64 = 3_600_000;

/// What a mount with the redis backend runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisSettings {
    /// Where Redis is, and how to get in.
    pub endpoint: Endpoint,
    /// How many replicas must have a step before it is acknowledged.
    pub acks: Acks,
}

impl RedisSettings {
    /// What `sources` say of Redis; `redis://localhost:6379/0` when they say nothing.
    ///
    /// # Errors
    /// [`ConfigError`] when a value is not one of its setting, or two do not go together.
    pub(super) fn resolve(sources: &Sources) -> Result<Self, ConfigError> {
        let url = url(sources)?;
        let (place, said_at) = match &url {
            Some((endpoint, found)) => (endpoint.place.clone(), found.rank),
            None => (parts(sources)?, Rank::File),
        };
        let mut endpoint = Endpoint {
            login: Login { user: user(sources, url.as_ref())?, password: password(sources, url.as_ref())? },
            database: database(sources, url.as_ref(), said_at)?,
            tls: tls(sources, url.as_ref())?,
            connect_timeout: timeout(sources, &CONNECT_TIMEOUT)?.unwrap_or(Endpoint::CONNECT_TIMEOUT),
            command_timeout: timeout(sources, &COMMAND_TIMEOUT)?.unwrap_or(Endpoint::COMMAND_TIMEOUT),
            ..Endpoint::at(place)
        };
        if let Place::Sentinel { login, .. } = &mut endpoint.place {
            *login = sentinel_login(sources)?;
        }
        endpoint.check().map_err(|why| ConfigError::new(format!("redis: {why}")))?;
        let acks = sources.parse(&ACKS)?.unwrap_or_else(|| Acks::default_of(&endpoint.place));
        Ok(Self { endpoint, acks })
    }
}

type Url<'a> = (Endpoint, Found<'a>);

/// The URL that decides, unless a nearer place says host or port.
fn url(sources: &Sources) -> Result<Option<Url<'_>>, ConfigError> {
    let Some(found) = sources.find(&URL) else { return Ok(None) };
    let part = [&HOST, &PORT].into_iter().filter_map(|key| sources.find(key)).min_by_key(|found| found.rank);
    match part {
        Some(part) if part.rank < found.rank => return Ok(None),
        Some(part) if part.rank == found.rank => {
            return Err(both(&found, &part, "where Redis is"));
        }
        _ => {}
    }
    let text = found.value.to_str().ok_or_else(|| found.hide("it is not UTF-8"))?;
    let endpoint = Endpoint::parse(text).map_err(|why| found.hide(why))?;
    if endpoint.login.password.is_some() && found.rank <= Rank::Option {
        return Err(found.hide(
            "there is a password in it, and everyone may read this: leave it out, and set REDIS_PASSWORD_FILE \
             or REDIS_PASSWORD in the environment or in the configuration file",
        ));
    }
    Ok(Some((endpoint, found)))
}

fn parts(sources: &Sources) -> Result<Place, ConfigError> {
    let host = match sources.find(&HOST) {
        None => "localhost",
        Some(found) => {
            let host = found.value.to_str().unwrap_or_default();
            match Node::is_host(host) {
                true => host,
                false => return Err(found.hide("a host is a name or an IP address; a port is REDIS_PORT")),
            }
        }
    };
    let port = match sources.find(&PORT) {
        None => Endpoint::PORT,
        Some(found) => {
            let port = found.value.to_str().and_then(|port| port.parse().ok()).filter(|port| *port != 0);
            port.ok_or_else(|| found.refuse("a port is a number from 1 to 65535"))?
        }
    };
    Ok(Place::Fixed(Address::Tcp(Node::new(host, port))))
}

fn database(
    sources: &Sources,
    url: Option<&Url<'_>>,
    said_at: Rank,
) -> Result<Option<Database>, ConfigError> {
    let in_url = url.and_then(|(endpoint, _)| endpoint.database);
    let Some(found) = sources.find(&DATABASE).filter(|found| found.rank <= said_at) else {
        return Ok(in_url);
    };
    let said = sources.parse(&DATABASE)?;
    match (url, in_url) {
        (Some((_, url)), Some(_)) if url.rank == found.rank && said != in_url => {
            Err(both(url, &found, "the database"))
        }
        _ => Ok(said),
    }
}

fn user(sources: &Sources, url: Option<&Url<'_>>) -> Result<Option<String>, ConfigError> {
    let in_url = url.and_then(|(endpoint, found)| Some((endpoint.login.user.clone()?, found)));
    let found = sources.find(&USERNAME);
    let said = found.as_ref().map(|found| found.text().map(str::to_owned)).transpose()?;
    match (in_url, found) {
        (Some((user, url)), Some(found)) if found.rank == url.rank && said.as_ref() != Some(&user) => {
            Err(both(url, &found, "the user"))
        }
        (Some((_, url)), Some(found)) if found.rank <= url.rank => Ok(said),
        (Some((user, _)), _) => Ok(Some(user)),
        (None, _) => Ok(said),
    }
}

fn password(sources: &Sources, url: Option<&Url<'_>>) -> Result<Option<Secret>, ConfigError> {
    let in_url = url.and_then(|(endpoint, found)| Some((endpoint.login.password.clone()?, found)));
    let kept = kept_password(sources, &PASSWORD, &PASSWORD_FILE)?;
    match (in_url, kept) {
        (Some((_, url)), Some((_, found))) if url.rank == found.rank => {
            Err(both(url, &found, "the password"))
        }
        (Some((_, url)), Some((how, found))) if found.rank < url.rank => how.read(&found).map(Some),
        (Some((password, _)), _) => Ok(Some(password)),
        (None, Some((how, found))) => how.read(&found).map(Some),
        (None, None) => credential(sources),
    }
}

fn sentinel_login(sources: &Sources) -> Result<Login, ConfigError> {
    let user = sources.find(&SENTINEL_USERNAME);
    let password = match kept_password(sources, &SENTINEL_PASSWORD, &SENTINEL_PASSWORD_FILE)? {
        Some((how, found)) => Some(how.read(&found)?),
        None => None,
    };
    if let (Some(found), None) = (&user, &password) {
        return Err(found.refuse("there is no password: set REDIS_SENTINEL_PASSWORD"));
    }
    Ok(Login { user: user.map(|found| found.text().map(str::to_owned)).transpose()?, password })
}

/// Where a password is kept: here, or in the file that is named here.
#[derive(Clone, Copy)]
enum Keeping {
    Here,
    InFile,
}

impl Keeping {
    fn read(self, found: &Found<'_>) -> Result<Secret, ConfigError> {
        match self {
            Self::Here => found
                .value
                .to_str()
                .map(Secret::new)
                .ok_or_else(|| found.hide("a password is UTF-8, without a NUL")),
            Self::InFile => read_secret(&found.path()?).map_err(|why| found.refuse(why)),
        }
    }
}

fn kept_password<'a>(
    sources: &'a Sources,
    here: &Key,
    in_file: &Key,
) -> Result<Option<(Keeping, Found<'a>)>, ConfigError> {
    match (sources.find(here), sources.find(in_file)) {
        (Some(here), Some(file)) if here.rank == file.rank => Err(both(&here, &file, "the password")),
        (Some(here), Some(file)) if file.rank < here.rank => Ok(Some((Keeping::InFile, file))),
        (Some(here), _) => Ok(Some((Keeping::Here, here))),
        (None, file) => Ok(file.map(|file| (Keeping::InFile, file))),
    }
}

fn credential(sources: &Sources) -> Result<Option<Secret>, ConfigError> {
    let Some(directory) = sources.environment().get("CREDENTIALS_DIRECTORY") else { return Ok(None) };
    let path = Path::new(&directory).join(CREDENTIAL);
    if !path.exists() {
        return Ok(None);
    }
    let told = |why| ConfigError::new(format!("the credential {}: {why}", path.display()));
    read_secret(&path).map(Some).map_err(told)
}

/// The content of a file, without the newline at its end.
fn read_secret(path: &Path) -> Result<Secret, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read the password: {error}"))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    match text.strip_suffix('\r').unwrap_or(text) {
        "" => Err("the file is empty: it holds the password, and nothing else".to_owned()),
        text => Ok(Secret::new(text)),
    }
}

fn tls(sources: &Sources, url: Option<&Url<'_>>) -> Result<Option<Tls>, ConfigError> {
    let file = |key: &Key| -> Result<Option<PathBuf>, ConfigError> {
        sources.find(key).map(|found| absolute(Path::new(found.value))).transpose()
    };
    let is_encrypted = url.is_some_and(|(endpoint, _)| endpoint.tls.is_some());
    if !is_encrypted {
        let named = [&CA_FILE, &CERT_FILE, &KEY_FILE].into_iter().find_map(|key| sources.find(key));
        return match named {
            None => Ok(None),
            Some(found) => Err(found.refuse("it is for TLS: use a rediss:// URL")),
        };
    }
    Ok(Some(Tls { ca_file: file(&CA_FILE)?, cert_file: file(&CERT_FILE)?, key_file: file(&KEY_FILE)? }))
}

fn timeout(sources: &Sources, key: &Key) -> Result<Option<Duration>, ConfigError> {
    let Some(found) = sources.find(key) else { return Ok(None) };
    let millis = found.text()?.parse().ok().filter(|millis| (1..=LONGEST).contains(millis));
    match millis {
        Some(millis) => Ok(Some(Duration::from_millis(millis))),
        None => Err(found.refuse(format!("a timeout is 1 to {LONGEST}, in milliseconds"))),
    }
}

fn both(one: &Found<'_>, other: &Found<'_>, what: &str) -> ConfigError {
    let (one, other) = (&one.place, other.place.trim_end_matches(','));
    ConfigError::new(format!("{one} and {other} both say {what}: leave one out"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::Backend;
    use super::super::tests::{refusal, said, settings};
    use super::*;

    const REDIS: (&str, &str) = ("LOCKFS_BACKEND", "redis");

    /// What comes of `env` and `file`, with the redis backend.
    fn kept(env: &[(&str, &str)], file: &str) -> Sources {
        said(&[], "", &[&[REDIS], env].concat(), file)
    }

    fn redis(sources: &Sources) -> RedisSettings {
        settings(sources).redis.unwrap()
    }

    fn described(sources: &Sources) -> String {
        redis(sources).endpoint.describe()
    }

    fn login(sources: &Sources) -> (Option<String>, Option<Secret>) {
        let login = redis(sources).endpoint.login;
        (login.user, login.password)
    }

    fn secret(text: &str) -> Option<Secret> {
        Some(Secret::new(text))
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn redis_settings_are_there_with_the_redis_backend_alone() {
        let sources = said(&[], "", &[("REDIS_PORT", "nonsense")], "");
        assert_eq!((settings(&sources).backend, settings(&sources).redis), (Backend::LevelDb, None));
        let sources = kept(&[], "");
        assert_eq!(described(&sources), "redis://localhost:6379/0");
        let endpoint = redis(&sources).endpoint;
        assert_eq!(endpoint.connect_timeout, Duration::from_secs(10));
        assert_eq!(endpoint.command_timeout, Duration::from_secs(5));
    }

    #[test]
    fn the_names_of_the_file_lock_cache_say_where_redis_is() {
        let file = "FILE_LOCK_CACHE_BACKEND=redis\nREDIS_HOST=db\nREDIS_PORT=7000\nREDIS_PASSWORD=hunter2\n\
            REDIS_DATABASE=3\nREDIS_CONNECT_TIMEOUT=100\nREDIS_COMMAND_TIMEOUT=200\n";
        let sources = said(&[], "", &[], file);
        assert_eq!(described(&sources), "redis://db:7000/3");
        assert_eq!(login(&sources), (None, secret("hunter2")));
        let endpoint = redis(&sources).endpoint;
        assert_eq!(endpoint.connect_timeout, Duration::from_millis(100));
        assert_eq!(endpoint.command_timeout, Duration::from_millis(200));
    }

    #[test]
    fn a_nearer_place_says_where_redis_is() {
        let near = [("REDIS_HOST", "near")];
        assert_eq!(described(&kept(&near, "REDIS_URL=redis://far/3")), "redis://near:6379/0");
        let near = [("REDIS_URL", "redis://near")];
        assert_eq!(described(&kept(&near, "REDIS_PORT=1\nREDIS_DATABASE=3")), "redis://near:6379/0");
        assert_eq!(described(&kept(&near, "REDIS_URL=redis://far/3")), "redis://near:6379/0");
        let near = [("REDIS_DATABASE", "5")];
        assert_eq!(described(&kept(&near, "REDIS_URL=redis://far/3")), "redis://far:6379/5");
        let typed =
            said(&[("redis-url", "redis://flag")], "redis-url=redis://option", &[REDIS], "REDIS_HOST=x");
        assert_eq!(described(&typed), "redis://flag:6379/0");
    }

    #[test]
    fn the_port_of_a_service_called_redis_is_nobodys_setting() {
        let env = [("REDIS_PORT", "tcp://10.96.0.11:6379")];
        assert_eq!(described(&kept(&env, "REDIS_PORT=7000")), "redis://localhost:7000/0");
        let env = [("REDIS_PORT", "tcp://10.96.0.11:6379"), ("REDIS_URL", "redis://db")];
        assert_eq!(described(&kept(&env, "")), "redis://db:6379/0");
    }

    #[test]
    fn one_place_says_it_once() {
        let file = "REDIS_URL=redis://u:p@a/1\n";
        for (more, what) in [
            ("REDIS_HOST=b", "where Redis is"),
            ("REDIS_PORT=1", "where Redis is"),
            ("REDIS_DATABASE=2", "the database"),
            ("REDIS_USERNAME=v", "the user"),
            ("REDIS_PASSWORD=p", "the password"),
            ("REDIS_PASSWORD_FILE=/p", "the password"),
        ] {
            let name = more.split_once('=').unwrap().0;
            let said = refusal(&kept(&[], &format!("{file}{more}")));
            let expected = format!(
                "REDIS_URL in /conf, line 1, and {name} in /conf, line 2 both say {what}: leave one out"
            );
            assert_eq!(said, expected);
        }
        let same = kept(&[], "REDIS_URL=redis://u:p@a/1\nREDIS_DATABASE=1\nREDIS_USERNAME=u");
        assert_eq!(described(&same), "redis://a:6379/1");
    }

    #[test]
    fn a_password_on_the_command_line_is_refused() {
        let url = "redis://u:hunter2@db";
        for (sources, place) in [
            (said(&[("redis-url", url)], "", &[REDIS], ""), "--redis-url: "),
            (said(&[], &format!("redis-url={url}"), &[REDIS], ""), "mount option redis-url: "),
        ] {
            let error = refusal(&sources);
            assert!(error.starts_with(place) && error.contains("REDIS_PASSWORD_FILE"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert_eq!(login(&kept(&[("REDIS_URL", url)], "")), (Some("u".to_owned()), secret("hunter2")));
    }

    #[test]
    fn a_typed_url_goes_with_a_password_that_is_kept() {
        let sources =
            said(&[("redis-url", "redis://u@db")], "", &[REDIS, ("REDIS_PASSWORD", "p")], "REDIS_USERNAME=v");
        assert_eq!(login(&sources), (Some("u".to_owned()), secret("p")));
    }

    #[test]
    fn a_password_may_be_in_a_file() {
        let (here, empty) = (file("hunter2\n"), file("\n"));
        let path = here.path().to_str().unwrap();
        assert_eq!(login(&kept(&[("REDIS_PASSWORD_FILE", path)], "")), (None, secret("hunter2")));
        // The nearer place has it.
        let sources = said(&[("redis-password-file", path)], "", &[REDIS, ("REDIS_PASSWORD", "p")], "");
        assert_eq!(login(&sources), (None, secret("hunter2")));
        let sources = kept(&[("REDIS_PASSWORD", "p")], &format!("REDIS_PASSWORD_FILE={path}"));
        assert_eq!(login(&sources), (None, secret("p")));
        let error = refusal(&kept(&[("REDIS_PASSWORD_FILE", empty.path().to_str().unwrap())], ""));
        assert!(error.contains("the file is empty"), "{error}");
        let error = refusal(&kept(&[("REDIS_PASSWORD_FILE", "/nowhere")], ""));
        assert!(error.starts_with("REDIS_PASSWORD_FILE is '/nowhere': cannot read"), "{error}");
    }

    #[test]
    fn the_credential_of_systemd_comes_last() {
        let directory = tempfile::tempdir().unwrap();
        let env = [("CREDENTIALS_DIRECTORY", directory.path().to_str().unwrap())];
        assert_eq!(login(&kept(&env, "")), (None, None));
        std::fs::write(directory.path().join("lockfs.redis-password"), "hunter2\n").unwrap();
        assert_eq!(login(&kept(&env, "")), (None, secret("hunter2")));
        assert_eq!(login(&kept(&env, "REDIS_PASSWORD=p")), (None, secret("p")));
    }

    #[test]
    fn sentinels_have_a_password_of_their_own_and_one_replica_to_wait_for() {
        let url = "redis-url=rediss+sentinel://u@a:1+b/m";
        let env = [REDIS, ("REDIS_SENTINEL_PASSWORD", "s"), ("REDIS_PASSWORD", "p")];
        let sources = said(&[], url, &env, "");
        let found = redis(&sources);
        assert_eq!(found.endpoint.describe(), "sentinel m at a:1,b:26379 over TLS");
        let Place::Sentinel { login: sentinel, .. } = found.endpoint.place else { panic!() };
        assert_eq!((sentinel.user, sentinel.password), (None, secret("s")));
        assert_eq!(login(&sources), (Some("u".to_owned()), secret("p")));
        assert_eq!(found.acks.count(), 1);
        let acks = |value| redis(&said(&[("acks", value)], url, &env, "")).acks.count();
        assert_eq!((acks("0"), acks("2")), (0, 2));
    }

    #[test]
    fn files_for_tls_need_tls() {
        let tls = [("REDIS_URL", "rediss://db"), ("REDIS_CA_FILE", "/ca.pem")];
        let found = redis(&kept(&tls, "")).endpoint.tls.unwrap();
        assert_eq!(found.ca_file, Some(PathBuf::from("/ca.pem")));
        let error = refusal(&kept(&[("REDIS_URL", "redis://db"), ("REDIS_CA_FILE", "/ca.pem")], ""));
        assert!(error.contains("rediss://"), "{error}");
        let error = refusal(&kept(&[("REDIS_URL", "rediss://db"), ("REDIS_CERT_FILE", "/c.pem")], ""));
        assert!(error.contains("--redis-key-file"), "{error}");
    }

    #[test]
    fn what_is_typed_for_another_backend_is_refused() {
        for (name, value) in [("acks", "1"), ("redis-url", "redis://:hunter2@db")] {
            let error = refusal(&said(&[(name, value)], "", &[], ""));
            assert_eq!(error, format!("--{name} is for the redis backend: say --backend redis"));
        }
        let error = refusal(&said(&[("durability", "power")], "", &[REDIS], ""));
        assert!(error.starts_with("--durability is for the leveldb backend"), "{error}");
        // What lies about in the environment is for whom it may concern.
        assert_eq!(settings(&said(&[], "", &[("LOCKFS_ACKS", "1")], "")).redis, None);
        redis(&kept(&[("LOCKFS_DURABILITY", "power")], ""));
    }

    #[test]
    fn no_error_and_no_debug_output_has_a_password() {
        let url = "redis://u:hunter2@db";
        let leaking = [
            kept(&[("REDIS_URL", "redis://u:hunter2@d b")], ""),
            kept(&[("REDIS_URL", url), ("REDIS_DATABASE", "x")], ""),
            kept(&[("REDIS_URL", url), ("REDIS_PASSWORD", "hunter2")], ""),
            kept(&[("REDIS_HOST", url)], ""),
            kept(&[("REDIS_USERNAME", "u")], ""),
            kept(&[], &format!("REDIS_URL={url}\nREDIS_HOST=x")),
            kept(&[], "REDIS_URL=hunter2"),
            said(&[("redis-url", url)], "", &[], ""),
        ];
        for sources in leaking {
            let error = refusal(&sources);
            assert!(!error.contains("hunter2"), "{error}");
        }
        let sources = kept(&[("REDIS_PASSWORD", "hunter2")], &format!("REDIS_URL={url}"));
        assert!(!format!("{sources:?}").contains("hunter2"), "{sources:?}");
        let settings = settings(&sources);
        assert!(!format!("{settings:?}").contains("hunter2"), "{settings:?}");
    }

    #[test]
    fn a_password_is_no_mount_option() {
        let error = super::super::MountOptions::parse(["redis-password=hunter2"]).unwrap_err().to_string();
        assert!(error.contains("REDIS_PASSWORD") && !error.contains("hunter2"), "{error}");
    }
}
