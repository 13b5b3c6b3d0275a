//! `lockfs mount`: from what was said to a mount that answers.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::mounts::{mounted, resolved, shown};
use super::probe::{Answer, read_within};
use super::{Exit, Failure, Outcome, background, umount};
use crate::config::{Flags, MountOptions, Settings, Sources};
use crate::daemon::{self, Heritage, Left};
use crate::store::StoreError;

/// Mount a tree of locks on a directory
///
/// Returns when the mount answers; a daemon in the background serves it until it is unmounted, or gets SIGTERM
/// or SIGINT. Root mounts for all users, others through fusermount3 for themselves. What a crashed daemon left
/// on the directory is detached first.
///
/// On SIGHUP the program that is now at its path goes on in its place, with the settings as they are by then, in the
/// same process: open files, held locks and whoever waits stay, and callers see nothing of it (Linux 6.9 and later).
/// One that cannot start is named in the log, and changes nothing. The same holds for a service that is restarted or
/// crashes, where its unit has FileDescriptorStoreMax=2, as those of lockfs do. Settings that make another mount of it
/// (where, which store and namespace, mount options, host id) have it mounted anew.
///
/// Each setting is taken from the first place that has it: the flag, the mount option of the same name, the
/// environment, the file /etc/lockfs/lockfs.conf (KEY=value lines with the names of the environment;
/// LOCKFS_CONFIG names another file, or none if it is empty).
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  $ lockfs mount /locks
  $ lockfs mount --foreground --ttl 90s --data-dir /srv/locks /locks
  $ lockfs mount -o ro,namespace=ci,ttl=1h /mnt/ci
  $ lockfs mount --backend redis --redis-url rediss://db.example:6379/0 /locks
  $ lockfs mount --backend redis --redis-url redis+sentinel://a,b,c/main /mnt
  $ lockfs mount --backend hybrid --on-outage local /locks

Mount options: ro, noexec, nosuid, nodev, noatime, allow_other, and each setting
as NAME=VALUE; X-mount.mkdir[=MODE] makes the mountpoint where there is none.
Those that mount(8) and fstab(5) have for others are let through.

Redis URLs, over TLS where the scheme begins with rediss:
  redis://[USER@]HOST[:PORT][/DATABASE]
  redis+unix:///PATH[?db=DATABASE]
  redis+sentinel://[USER@]HOST[:PORT],HOST[:PORT],.../SERVICE[/DATABASE]
  redis+cluster://[USER@]HOST[:PORT],HOST[:PORT],...
Hosts may be separated by + too, which a mount option needs: it has no commas.

With the backend hybrid Redis decides while it answers. When it is gone this
host grants by itself, as --on-outage says: refuse, nothing; local, what is free
here; auto, the same if no other host held anything when Redis was last heard.
Such a lock excludes others on this host alone, until Redis is back.

The password is kept elsewhere: the command line and mount options are public.
It is looked for in the environment and in the file, as REDIS_PASSWORD, as
REDIS_PASSWORD_FILE, or within REDIS_URL; then in the systemd credential
lockfs.redis-password. REDIS_SENTINEL_PASSWORD is that of the sentinels.

In the environment and in the file only: REDIS_HOST and REDIS_PORT (instead of a
URL), REDIS_DATABASE, REDIS_USERNAME, REDIS_SENTINEL_USERNAME,
REDIS_SENTINEL_PASSWORD_FILE, and in milliseconds REDIS_CONNECT_TIMEOUT (10000)
and REDIS_COMMAND_TIMEOUT (5000).")]
pub(super) struct Mount {
    /// The directory to mount on; it must exist
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// What keeps the locks: leveldb here, redis for many, or both
    #[arg(long, value_name = "leveldb|redis|hybrid")]
    backend: Option<OsString>,
    /// Where Redis is, without a password
    #[arg(long, value_name = "URL")]
    redis_url: Option<OsString>,
    /// The file with the password for Redis
    #[arg(long, value_name = "FILE")]
    redis_password_file: Option<OsString>,
    /// The authorities that vouch for Redis, instead of the system's
    #[arg(long, value_name = "FILE")]
    redis_ca_file: Option<OsString>,
    /// The certificate to show to Redis
    #[arg(long, value_name = "FILE")]
    redis_cert_file: Option<OsString>,
    /// The key of that certificate
    #[arg(long, value_name = "FILE")]
    redis_key_file: Option<OsString>,
    /// How many replicas of Redis must have a lock before it is granted
    #[arg(long, value_name = "N")]
    acks: Option<OsString>,
    /// Where the locks of this machine are kept
    #[arg(long, value_name = "DIR")]
    data_dir: Option<OsString>,
    /// Which tree of locks to mount
    #[arg(long, value_name = "NAME")]
    namespace: Option<OsString>,
    /// How long a lock outlives its holder: 90, 5m, 1h30m, never
    #[arg(long)]
    ttl: Option<OsString>,
    /// What this host is called in the names of owners
    #[arg(long, value_name = "NAME")]
    host_id: Option<OsString>,
    /// What a lock survives: the death of the process, or a power cut
    #[arg(long, value_name = "process|power")]
    durability: Option<OsString>,
    /// What this host grants by itself while Redis is gone
    #[arg(long, value_name = "auto|local|refuse")]
    on_outage: Option<OsString>,
    /// Where to log
    #[arg(long, value_name = "FILE")]
    log_file: Option<OsString>,
    /// Where to serve metrics over HTTP, at /metrics
    ///
    /// A port alone is one of 127.0.0.1. Whoever can connect can read them.
    #[arg(long, value_name = "[ADDRESS:]PORT")]
    metrics_listen: Option<OsString>,
    /// Serve the mount from this process, and log to stderr
    #[arg(long, short)]
    foreground: bool,
    /// Log each grant, refusal and release
    #[arg(long, short)]
    debug: bool,
    /// Mount options, separated by commas
    #[arg(short = 'o', value_name = "OPT,...")]
    options: Vec<String>,
}

impl Mount {
    pub(super) fn perform(self) -> Outcome {
        let mut flags = Flags::default();
        flags.set("backend", self.backend);
        flags.set("redis-url", self.redis_url);
        flags.set("redis-password-file", self.redis_password_file);
        flags.set("redis-ca-file", self.redis_ca_file);
        flags.set("redis-cert-file", self.redis_cert_file);
        flags.set("redis-key-file", self.redis_key_file);
        flags.set("acks", self.acks);
        flags.set("data-dir", self.data_dir);
        flags.set("namespace", self.namespace);
        flags.set("ttl", self.ttl);
        flags.set("host-id", self.host_id);
        flags.set("durability", self.durability);
        flags.set("on-outage", self.on_outage);
        flags.set("log-file", self.log_file);
        flags.set("metrics-listen", self.metrics_listen);
        flags.set("foreground", self.foreground.then(|| "yes".into()));
        flags.set("debug", self.debug.then(|| "yes".into()));
        let options = MountOptions::parse(self.options.iter().map(String::as_str))?;
        let left = Left::of_environment();
        let gathered = Sources::gather(flags, options).map_err(Failure::from);
        let point = place(&self.mountpoint, left.as_ref());
        start(gathered.and_then(|sources| settings(&sources, point)), left)
    }
}

/// Where to mount: where it was said; a program that goes on in the place of another one is told by that.
pub(super) fn place<'a>(said: &'a Path, left: Option<&'a Left>) -> &'a Path {
    left.filter(|left| left.is_by_exec()).and_then(Left::mountpoint).unwrap_or(said)
}

/// What the flag `name` is for, in a line; `None` where there is no such flag.
pub(super) fn help_of(name: &str) -> Option<String> {
    let command = Mount::augment_args(clap::Command::new("mount"));
    let flag = command.get_arguments().find(|arg| arg.get_long() == Some(name))?;
    flag.get_help().map(ToString::to_string)
}

/// What `sources` come to for a mount at `mountpoint`, as it was typed.
pub(super) fn settings(sources: &Sources, mountpoint: &Path) -> Result<Settings, Failure> {
    let mountpoint = resolved(mountpoint, &mounted()?)?;
    Ok(Settings::resolve(sources, &mountpoint)?)
}

/// Mounts, or goes on with the mount that another daemon has left; serves it, or leaves that to a process in the
/// background, as the settings say.
pub(super) fn start(settings: Result<Settings, Failure>, left: Option<Left>) -> Outcome {
    let settings = match settings {
        Ok(settings) => settings,
        Err(failure) => {
            left.into_iter().for_each(Left::take_away);
            return Err(failure);
        }
    };
    if daemon::is_rehearsal() {
        return Ok(Exit::Done);
    }
    // Whoever goes on in the same process is in the background already, if that is where it belongs.
    if settings.foreground || left.as_ref().is_some_and(Left::is_by_exec) {
        start_log(&settings)?;
        let heritage = prepare(&settings, left)?;
        let outcome = serve(&settings, heritage, || {
            if !settings.foreground {
                background::leave_directory();
            }
        });
        if let (Err(failure), false) = (&outcome, settings.foreground) {
            log::error!("{}", failure.message);
        }
        return outcome;
    }
    background::start(|report| {
        start_log(&settings)?;
        prepare(&settings, None)?;
        let outcome = serve(&settings, None, || {
            if let Some(Err(error)) = report.take().map(background::Report::ready) {
                log::warn!("cannot leave the terminal: {error}");
            }
        });
        if let (Err(failure), None) = (&outcome, report) {
            log::error!("{}", failure.message);
        }
        outcome
    })
}

fn serve(settings: &Settings, heritage: Option<Heritage>, ready: impl FnOnce()) -> Outcome {
    match daemon::serve(settings, heritage, ready) {
        Ok(()) => Ok(Exit::Done),
        Err(error) => {
            let hint = match &error {
                daemon::Error::Store(StoreError::Unavailable(why))
                    if why.starts_with("cannot reach redis at") =>
                {
                    " (--redis-url, REDIS_URL or REDIS_HOST and REDIS_PORT say where it is)"
                }
                _ => "",
            };
            Err(Failure::new(exit_of(&error), format!("{error}{hint}")))
        }
    }
}

fn exit_of(error: &daemon::Error) -> Exit {
    match error {
        daemon::Error::Level(error) => super::check::exit_of(error),
        daemon::Error::Store(_) => Exit::Unavailable,
        daemon::Error::Host(_) => Exit::Usage,
        daemon::Error::Mount(_) | daemon::Error::System(_) => Exit::Failed,
    }
}

/// Sends the log where the settings say. `RUST_LOG` picks what is in it, as env_logger has it.
fn start_log(settings: &Settings) -> Result<(), Failure> {
    let level = if settings.debug { log::LevelFilter::Debug } else { log::LevelFilter::Info };
    let mut logger = env_logger::Builder::new();
    logger.filter_level(log::LevelFilter::Warn).filter_module("lockfs", level).parse_default_env();
    if let Some(path) = &settings.log_file {
        logger.target(env_logger::Target::Pipe(Box::new(open_log(settings, path)?)));
    }
    logger.init();
    Ok(())
}

/// The log is for whoever runs the mount: it names paths and holders.
fn open_log(settings: &Settings, path: &Path) -> Result<File, Failure> {
    let data_dir = &settings.data_dir;
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(|error| {
        let data_dir = shown(data_dir);
        Failure::new(Exit::Unavailable, format!("cannot make the data directory {data_dir}: {error}"))
    })?;
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    log.map_err(|error| Failure::new(Exit::Failed, format!("cannot open the log {}: {error}", shown(path))))
}

/// How long an old mount may take to say whether it lives.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes sure that what was left can be gone on with, or else that the mountpoint is a directory on which nothing of ours
/// is mounted.
fn prepare(settings: &Settings, left: Option<Left>) -> Result<Option<Heritage>, Failure> {
    match left.and_then(|left| left.accept(settings)) {
        Some(heritage) => Ok(Some(heritage)),
        None => make_room(settings).map(|()| None),
    }
}

fn make_room(settings: &Settings) -> Result<(), Failure> {
    let point = &settings.mountpoint;
    let fail = |what: String| Failure::new(Exit::Failed, what);
    while let Some(old) = mounted()?.into_iter().find(|mount| mount.point == *point) {
        match read_within(&old.path(".lockfs/status"), PATIENCE) {
            Ok(Answer::Refused(error))
                if matches!(error.kind(), ErrorKind::NotConnected | ErrorKind::ConnectionAborted) =>
            {
                log::info!("detaching the mount of a daemon that is gone mountpoint={}", shown(point));
                umount::detach(point)?;
            }
            Ok(Answer::Silence) => {
                let point = shown(point);
                return Err(fail(format!(
                    "the lockfs on {point} does not answer: lockfs umount --lazy {point} takes it away"
                )));
            }
            _ => {
                return Err(fail(format!(
                    "a lockfs is mounted on {0} already: lockfs umount {0} takes it away",
                    shown(point)
                )));
            }
        }
    }
    let point_shown = shown(point);
    if !Path::new("/dev/fuse").exists() {
        let hint = "modprobe fuse makes it; a container is given it with --device /dev/fuse";
        return Err(fail(format!("cannot mount on {point_shown}: there is no /dev/fuse ({hint})")));
    }
    if let Some(mode) = settings.mkdir {
        make(point, mode)?;
    }
    match std::fs::metadata(point) {
        Ok(data) if data.is_dir() => Ok(()),
        Ok(_) => Err(fail(format!("{point_shown} is not a directory: mount on one"))),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(fail(format!("there is no directory {point_shown}: mkdir -p {point_shown} makes it")))
        }
        Err(error) => Err(fail(format!("cannot mount on {point_shown}: {error}"))),
    }
}

/// Makes the mountpoint where there is none. Only the directory itself gets `mode`, those above it are for all.
fn make(point: &Path, mode: u32) -> Result<(), Failure> {
    let make = |point: &Path, mode: u32| match DirBuilder::new().mode(mode).create(point) {
        // The umask of whoever mounts is about files of theirs.
        Ok(()) => std::fs::set_permissions(point, Permissions::from_mode(mode)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    };
    let above = point.parent().map_or(Ok(()), |above| DirBuilder::new().recursive(true).create(above));
    above.and_then(|()| make(point, mode)).map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot make the directory {}: {error}", shown(point)))
    })
}
