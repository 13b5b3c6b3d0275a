//! The process that serves a mount: opens the store, takes up what this host holds, mounts, tends, and ends
//! on SIGTERM or SIGINT or when someone unmounts.
//!
//! Order of the start: the port for metrics, store, its socket for migrations, service, take-up, mount, tending, waking, metrics, watch. Order of
//! the end: the mount first, so that nobody is answered any more, then the watch, metrics, tending, waking, the store.

mod notify;
mod scrape;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{BootId, Clock, Now, SystemClock};
use crate::config::{Backend, RedisSettings, Settings};
use crate::fs::{About, LockFs};
use crate::fuse::{Mount, MountError, MountFlag, MountOptions, Unmounter};
use crate::locks::{HostId, HostIdError, LockService, Processes, Tending, Waking, machine_id};
use crate::store::hybrid::{self, HybridStore, OpenError};
use crate::store::level::{LevelError, LevelStore, Serving};
use crate::store::redis::{Address, Options, Place, RedisStore};
use crate::store::{LockStore, StoreError};
use notify::Manager;
use scrape::Port;

/// How long an unmounted mount may go on answering before the daemon ends all the same.
const GRACE: Duration = Duration::from_secs(3);

/// How many threads answer requests where a step waits for the disk at most.
const NEAR_THREADS: usize = 4;

/// The same where each step waits for another machine: measured, sixteen callers are served half as fast by four.
const FAR_THREADS: usize = 16;

/// How long hosts may take at most to say what they hold after Redis has lost it, however long a lock may live.
const LONGEST_WINDOW: Duration = Duration::from_secs(300);

/// Why a mount could not be served.
#[derive(Debug)]
pub enum Error {
    /// The store can't be opened.
    Level(LevelError),
    /// The store failed.
    Store(StoreError),
    /// The mount failed.
    Mount(MountError),
    /// The host id is none.
    Host(HostIdError),
    /// The system refused something.
    System(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Level(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::Mount(error) => error.fmt(f),
            Self::Host(error) => error.fmt(f),
            Self::System(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System(error) => Some(error),
            Self::Mount(error) => error.source(),
            Self::Level(_) | Self::Store(_) | Self::Host(_) => None,
        }
    }
}

impl From<LevelError> for Error {
    fn from(error: LevelError) -> Self {
        Self::Level(error)
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<MountError> for Error {
    fn from(error: MountError) -> Self {
        Self::Mount(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Mounts as `settings` say, calls `ready` once the mount answers, and serves until it is unmounted or told
/// to end.
///
/// # Errors
/// [`Error`]: the store, or the mount; nothing is mounted then.
pub fn serve(settings: &Settings, ready: impl FnOnce()) -> Result<(), Error> {
    // A daemon in the background is not the process that a service manager waits for.
    let manager = if settings.foreground { Manager::of_environment() } else { Manager::default() };
    let served = serve_to(settings, &manager, ready);
    if let Err(error) = &served {
        manager.failed(error);
    }
    served
}

fn serve_to(settings: &Settings, manager: &Manager, ready: impl FnOnce()) -> Result<(), Error> {
    let signals = Signals::block()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    manager.starting(format_args!("opening the {} store", settings.backend));
    let port = settings.metrics.map(|listen| Port::open(listen.address()));
    let port = port.transpose().map_err(|error| network_is_allowed().err().unwrap_or(error))?;
    let (store, moving) = open(settings, clock)?;
    let served = serve_store(settings, Arc::clone(&store), port, signals, manager, ready);
    manager.stopping();
    drop(moving);
    let closed = store.close();
    served?;
    Ok(closed?)
}

fn serve_store(
    settings: &Settings,
    store: Arc<dyn LockStore>,
    port: Option<Port>,
    signals: Signals,
    manager: &Manager,
    ready: impl FnOnce(),
) -> Result<(), Error> {
    let host: HostId = settings.host_id.parse().map_err(Error::Host)?;
    let service = Arc::new(LockService::new(Arc::clone(&store), Processes::new(host)?, settings.ttl));
    service.take_up()?;
    let metrics_at = port.as_ref().map(Port::address).transpose()?;
    let fs = Arc::new(LockFs::new(Arc::clone(&service), about(settings, store.now(), metrics_at)));
    let mount = Mount::start(Arc::clone(&fs), &settings.mountpoint, &mount_options(settings))?;
    let tending = Tending::start(Arc::clone(&service))?;
    let waking = Waking::start(Arc::clone(&service))?;
    let scrape = port.map(|port| port.serve(Box::new(move || fs.metrics()))).transpose()?;
    if let Some(address) = metrics_at {
        log::info!("serving metrics at=http://{address}/metrics");
    }
    answers(&settings.mountpoint)?;
    log::info!("mounted at={}", settings.mountpoint.display());
    ready();
    manager.ready(&settings.mountpoint);
    signals.end_by(mount.unmounter(), service, store, manager.clone())?;
    let watch = manager.watch(&settings.mountpoint)?;
    let served = mount.wait();
    drop(watch);
    drop(scrape);
    drop(tending);
    drop(waking);
    log::info!("unmounted at={}", settings.mountpoint.display());
    Ok(served?)
}

/// A store, and the thread that lets migrations copy it where only this process can.
type Open = (Arc<dyn LockStore>, Option<Serving>);

fn open(settings: &Settings, clock: Arc<dyn Clock>) -> Result<Open, Error> {
    // SAFETY: geteuid(2) and getegid(2) take nothing and can't fail.
    let owner = unsafe { (libc::geteuid(), libc::getegid()) };
    if let Some(RedisSettings { endpoint, acks }) = &settings.redis {
        if !matches!(endpoint.place, Place::Fixed(Address::Unix(_))) {
            network_is_allowed()?;
        }
        std::fs::create_dir_all(&settings.data_dir)?;
        let options = Options {
            endpoint: endpoint.clone(),
            acks: *acks,
            namespace: settings.namespace.to_string(),
            host: settings.host_id.clone(),
            machine: machine_id(&BootId::current()?),
            owner,
            state: Some(settings.data_dir.join(format!("{}.redis", settings.namespace))),
            window: settings.ttl.span().unwrap_or(LONGEST_WINDOW).min(LONGEST_WINDOW),
        };
        if settings.backend == Backend::Hybrid {
            let options = hybrid::Options {
                redis: options,
                dir: settings.store_dir(),
                durability: settings.durability,
                state: settings.data_dir.join(settings.namespace.as_str()),
                policy: settings.on_outage,
            };
            return match HybridStore::open(&options, clock) {
                Ok(store) => Ok((Arc::new(store), None)),
                Err(OpenError::Mirror(error)) => Err(error.into()),
                Err(OpenError::Store(error)) => Err(error.into()),
            };
        }
        return Ok((Arc::new(RedisStore::open(&options, clock)?), None));
    }
    let boot = BootId::current()?;
    let dir = settings.store_dir();
    let store = Arc::new(LevelStore::open(&dir, settings.durability, clock, &boot, owner)?);
    let moving = Serving::start(Arc::clone(&store), &dir);
    if let Err(error) = &moving {
        log::warn!("these locks can't be migrated while they are mounted: {}/socket: {error}", dir.display());
    }
    Ok((store, moving.ok()))
}

/// Whether a service may use the network at all, which its unit says: `RestrictAddressFamilies=` of systemd.exec(5).
/// Redis would seem to be away for ever.
fn network_is_allowed() -> io::Result<()> {
    match UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the unit of this service keeps it from the network: add 'RestrictAddressFamilies=AF_INET AF_INET6' \
             to its [Service] section (systemctl edit)",
        )),
        _ => Ok(()),
    }
}

fn about(settings: &Settings, since: Now, metrics: Option<SocketAddr>) -> About {
    About {
        mountpoint: settings.mountpoint.clone(),
        namespace: settings.namespace.to_string(),
        host: settings.host_id.clone(),
        ttl: settings.ttl,
        since,
        metrics,
    }
}

fn mount_options(settings: &Settings) -> MountOptions {
    let flags = &settings.flags;
    let asked = [
        (flags.read_only, MountFlag::ReadOnly),
        (flags.noexec, MountFlag::NoExec),
        (flags.noatime, MountFlag::NoAtime),
    ];
    MountOptions {
        source: settings.source.clone(),
        allow_other: settings.allow_other,
        flags: asked.into_iter().filter_map(|(is_asked, flag)| is_asked.then_some(flag)).collect(),
        threads: if settings.redis.is_some() { FAR_THREADS } else { NEAR_THREADS },
    }
}

/// One round trip through the kernel: the mount is there for everybody.
fn answers(mountpoint: &Path) -> io::Result<()> {
    std::fs::metadata(mountpoint).map(drop)
}

/// SIGTERM, SIGINT and SIGHUP, which end a mount; blocked in every thread, and waited for by one.
struct Signals(libc::sigset_t);

impl Signals {
    /// Blocks them in this thread and all that it starts from now on.
    fn block() -> io::Result<Self> {
        // SAFETY: a zeroed set is memory for sigemptyset(3) to set up.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` lives, and the numbers are signals.
        let result = unsafe {
            libc::sigemptyset(&raw mut set);
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                libc::sigaddset(&raw mut set, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
        };
        if result == 0 { Ok(Self(set)) } else { Err(io::Error::from_raw_os_error(result)) }
    }

    /// Ends the mount when one of them comes, and the process where that does not end it: another mount
    /// namespace may have a copy of the mount, which nobody here can take away. The thread stays behind when
    /// the mount ends by itself; it goes with the process.
    fn end_by(
        self,
        unmounter: Unmounter,
        service: Arc<LockService>,
        store: Arc<dyn LockStore>,
        manager: Manager,
    ) -> io::Result<()> {
        let wait = move || {
            loop {
                let mut signal = 0;
                // SAFETY: the set is the one that was blocked, and `signal` lives.
                if unsafe { libc::sigwait(&raw const self.0, &raw mut signal) } != 0 {
                    return;
                }
                log::info!("told to end signal={signal}");
                manager.stopping();
                match unmounter.unmount() {
                    Ok(()) => {}
                    // It was taken out of the tree before, and serves those who are still in it.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                    Err(error) => {
                        log::warn!("can't unmount: {error}");
                        continue;
                    }
                }
                service.end_all_waits();
                std::thread::sleep(GRACE);
                log::warn!("ended, though the mount is still there in another mount namespace");
                let closed = store.close();
                std::process::exit(i32::from(closed.is_err()));
            }
        };
        std::thread::Builder::new().name("lockfs-signals".to_owned()).spawn(wait).map(drop)
    }
}
