//! The stores that `lockfs migrate` is to move between, as they are typed: `leveldb:///var/lib/lockfs?namespace=ci`,
//! `redis://db:6379/0`. What an URL does not say, the other places do: the password of a Redis, a namespace, and with
//! `leveldb:` or `redis:` alone where it is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{
    ConfigError, DATA_DIR, Flags, MountOptions, Namespace, RedisSettings, Sources, absolute, redis, store_dir,
};
use crate::store::migrate::Side;

/// One of the two ends, as it was typed.
#[derive(Clone, Debug)]
pub struct TypedSide {
    /// The flag: `--from`.
    pub flag: &'static str,
    /// Its value.
    pub url: String,
    /// The file with the password, where one was typed.
    pub password_file: Option<OsString>,
    /// The namespace that was typed for both.
    pub namespace: Option<OsString>,
}

impl TypedSide {
    /// What it comes to.
    ///
    /// # Errors
    /// [`ConfigError`] when it names no store; no part of an URL with a password is in it.
    pub fn resolve(self) -> Result<Side, ConfigError> {
        self.resolve_in(Sources::gather)
    }

    fn resolve_in(
        self,
        gather: impl FnOnce(Flags, MountOptions) -> Result<Sources, ConfigError>,
    ) -> Result<Side, ConfigError> {
        let at_flag = |why: String| ConfigError::new(format!("{}: {why}", self.flag));
        let (url, in_url) = take_namespace(&self.url).map_err(at_flag)?;
        let mut flags = Flags::default();
        flags.set(super::NAMESPACE.name, in_url.map(OsString::from).or(self.namespace));
        if let Some(rest) = url.strip_prefix("leveldb:") {
            if self.password_file.is_some() {
                return Err(at_flag(format!(
                    "a leveldb has no password: leave out {}-password-file",
                    self.flag
                )));
            }
            if let Some(dir) = data_dir(rest).map_err(at_flag)? {
                flags.set(DATA_DIR.name, Some(absolute(&dir)?.into_os_string()));
            }
            let sources = gather(flags, MountOptions::default())?;
            return Ok(Side::Level(store_dir(&sources.data_dir()?, &sources.namespace()?)));
        }
        if url.starts_with("hybrid:") {
            return Err(at_flag(
                "a hybrid keeps its locks in its redis, and tells its leveldb of them: name the redis"
                    .to_owned(),
            ));
        }
        if !["redis", "rediss", "unix"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(at_flag(
                "a store is leveldb:///DIRECTORY or a Redis URL (redis://host:port/database, ...)".to_owned(),
            ));
        }
        if url != "redis:" {
            flags.set(redis::URL.name, Some(url.into()));
        }
        flags.set(redis::PASSWORD_FILE.name, self.password_file);
        // What is wrong with it is said of what was typed.
        let typed = |error: ConfigError| {
            let said = error.to_string();
            let said = said.replace("--redis-url", self.flag);
            ConfigError::new(said.replace("--redis-password-file", &format!("{}-password-file", self.flag)))
        };
        let sources = gather(flags, MountOptions::default())?;
        let settings = RedisSettings::resolve(&sources).map_err(typed)?;
        Ok(Side::Redis(Box::new(settings.endpoint), sources.namespace()?.to_string()))
    }
}

/// Takes `namespace=NAME` out of what stands behind the `?` of an URL.
fn take_namespace(url: &str) -> Result<(String, Option<String>), String> {
    let Some((head, query)) = url.split_once('?') else {
        return Ok((url.to_owned(), None));
    };
    let mut namespace = None;
    let mut rest = Vec::new();
    for part in query.split('&') {
        match part.strip_prefix("namespace=") {
            Some(name) => {
                let name: Namespace = name.parse()?;
                namespace = Some(name.to_string());
            }
            None => rest.push(part),
        }
    }
    let url = if rest.is_empty() { head.to_owned() } else { format!("{head}?{}", rest.join("&")) };
    Ok((url, namespace))
}

/// What stands behind `leveldb:`; `None` where it is the data directory of this machine.
fn data_dir(rest: &str) -> Result<Option<PathBuf>, String> {
    if rest.contains('?') {
        return Err("behind the ? of a leveldb stands namespace=NAME and nothing else".to_owned());
    }
    match rest.strip_prefix("//").unwrap_or(rest) {
        "" => Ok(None),
        path if path.starts_with('/') => Ok(Some(Path::new(path).to_owned())),
        _ => Err("a leveldb is leveldb:///DIRECTORY, with three slashes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Environment;
    use super::*;

    fn resolve(url: &str, env: &[(&str, &str)]) -> Result<Side, String> {
        let env: Vec<_> =
            env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
        let side = TypedSide { flag: "--from", url: url.to_owned(), password_file: None, namespace: None };
        side.resolve_in(|flags, options| Ok(Sources::new(flags, options, Environment::from_iter(env))))
            .map_err(|error| error.to_string())
    }

    fn shown(url: &str, env: &[(&str, &str)]) -> String {
        match resolve(url, env).unwrap() {
            Side::Level(dir) => dir.display().to_string(),
            Side::Redis(endpoint, namespace) => format!("{} {namespace}", endpoint.describe()),
        }
    }

    #[test]
    fn an_url_says_which_store_and_the_other_places_the_rest() {
        let dir = [("LOCKFS_DATA_DIR", "/data"), ("LOCKFS_NAMESPACE", "ci")];
        assert_eq!(shown("leveldb:", &dir), "/data/ci");
        assert_eq!(shown("leveldb:///srv/locks", &dir), "/srv/locks/ci");
        assert_eq!(shown("leveldb:///srv/locks?namespace=x", &dir), "/srv/locks/x");
        assert_eq!(shown("redis://db:1/2", &[]), "redis://db:1/2 default");
        assert_eq!(shown("redis://db:1/2?namespace=x", &dir), "redis://db:1/2 x");
        assert_eq!(
            shown("redis+unix:///run/r.sock?db=3&namespace=x", &[]),
            "redis+unix:///run/r.sock?db=3 x"
        );
        assert_eq!(shown("redis+sentinel://a,b/m", &[]), "sentinel m at a:26379,b:26379 default");
        assert_eq!(shown("redis:", &[("REDIS_HOST", "db")]), "redis://db:6379/0 default");
        assert_eq!(shown("redis://here", &[("REDIS_URL", "redis://there")]), "redis://here:6379/0 default");
    }

    #[test]
    fn what_is_no_store_is_refused_with_what_to_write_and_without_a_password() {
        for (url, said) in [
            ("/var/lib/lockfs", "leveldb:///DIRECTORY"),
            ("leveldb://srv", "three slashes"),
            ("leveldb:///srv?db=1", "nothing else"),
            ("hybrid:", "name the redis"),
            ("redis://:hunter2@db", "there is a password in it"),
            ("redis://:hunter2@db:x", "--from"),
            ("redis://db?namespace=.x", "a namespace is"),
        ] {
            let error = resolve(url, &[]).unwrap_err();
            assert!(error.contains(said) && error.starts_with("--from"), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
