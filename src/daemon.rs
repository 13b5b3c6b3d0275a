//! The process that serves a mount: opens the store, takes up what this host holds, mounts, tends, and ends
//! on SIGTERM or SIGINT or when someone unmounts.
//!
//! Order of the start: the port for metrics, store, its socket for migrations, service, take-up, mount, tending, waking,
//! metrics, watch. Order of the end: the mount first, so that nobody is answered any more, then the watch, metrics,
//! tending, waking, the store.
//!
//! Where a service manager restarts the daemon, and on SIGHUP, the mount stays, and another daemon goes on with it: see
//! `heritage.rs`. This one then ends in the order watch, requests, metrics, tending, waking, store; who waits is left
//! unanswered, and asked again.

mod ending;
mod heritage;
mod notify;
mod scrape;
mod successor;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clock::{BootId, Clock, Now, SystemClock};
use crate::config::{Backend, RedisSettings, Settings};
use crate::fs::{About, Began, Connection, Ledger, LedgerState, LockFs};
use crate::fuse::{Mount, MountError, MountFlag, MountOptions};
use crate::locks::{HostId, HostIdError, LockService, Processes, Tending, Waking, machine_id};
use crate::store::hybrid::{self, HybridStore, OpenError};
use crate::store::level::{LevelError, LevelStore, Serving};
use crate::store::redis::{Address, Options, Place, RedisStore};
use crate::store::{LockStore, StoreError, Tenure};
use ending::{Ending, Helpers, Signals};
use heritage::Claim;
pub use heritage::{Heritage, Left, is_rehearsal};
use notify::Manager;
use scrape::Port;
use successor::Successor;

/// How long a store may be out of reach until a mount that was to be kept is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long until it is tried again.
const PAUSE: Duration = Duration::from_millis(100);

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

/// Mounts as `settings` say, or goes on with the mount of `heritage`; calls `ready` once the mount answers, and serves
/// until it is unmounted or told to end.
///
/// # Errors
/// [`Error`]: the store, or the mount; nothing is mounted then.
pub fn serve(settings: &Settings, heritage: Option<Heritage>, ready: impl FnOnce()) -> Result<(), Error> {
    // A daemon in the background is not the process that a service manager waits for.
    let manager = if settings.foreground { Manager::of_environment() } else { Manager::default() };
    let served = serve_to(settings, heritage, &manager, ready);
    if let Err(error) = &served {
        manager.failed(error);
    }
    served
}

/// What a mount is begun with, or gone on with.
struct Beginning {
    tenure: Tenure,
    ledger: Arc<Ledger>,
    state: LedgerState,
    /// The device of a mount that is there, and the promise to serve it.
    kept: Option<(OwnedFd, Claim)>,
}

impl Beginning {
    fn of(heritage: Option<Heritage>) -> io::Result<Self> {
        if let Some(Heritage { device, ledger, state, claim, .. }) = heritage
            && let Some(began) = state.began()
        {
            let tenure = Tenure::TakenOver(began.mount);
            return Ok(Self { tenure, ledger, state, kept: Some((device, claim)) });
        }
        let ledger = Arc::new(Ledger::create()?);
        Ok(Self { tenure: Tenure::begin()?, ledger, state: LedgerState::default(), kept: None })
    }
}

fn serve_to(
    settings: &Settings,
    heritage: Option<Heritage>,
    manager: &Manager,
    ready: impl FnOnce(),
) -> Result<(), Error> {
    let signals = Signals::block()?;
    let successor = Successor::of_this_process(&settings.mountpoint)?;
    let beginning = Beginning::of(heritage)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    manager.starting(format_args!("opening the {} store", settings.backend));
    let port = settings.metrics.map(|listen| Port::open(listen.address()));
    let port = port.transpose().map_err(|error| network_is_allowed().err().unwrap_or(error))?;
    let (store, moving) = open_for(settings, &beginning, clock)?;
    let served =
        serve_store(settings, Arc::clone(&store), beginning, port, (signals, successor), manager, ready);
    manager.stopping();
    drop(moving);
    let closed = store.close();
    served?;
    Ok(closed?)
}

/// Opens the store. Where there is a mount whose users wait, it may be out of reach for a while.
fn open_for(settings: &Settings, beginning: &Beginning, clock: Arc<dyn Clock>) -> Result<Open, Error> {
    let deadline = clock.now().boot + PATIENCE;
    loop {
        match open(settings, beginning.tenure, Arc::clone(&clock)) {
            // What a killed daemon had open may be open for a moment in a process that it was just about to start.
            Err(error @ (Error::Store(_) | Error::Level(LevelError::Busy { .. })))
                if beginning.kept.is_some() && clock.now().boot < deadline =>
            {
                log::info!("the store can't be opened, and is tried again: {error}");
                std::thread::sleep(PAUSE);
            }
            opened => return opened,
        }
    }
}

fn serve_store(
    settings: &Settings,
    store: Arc<dyn LockStore>,
    beginning: Beginning,
    port: Option<Port>,
    (signals, successor): (Signals, Successor),
    manager: &Manager,
    ready: impl FnOnce(),
) -> Result<(), Error> {
    let Beginning { tenure, ledger, state, kept } = beginning;
    let host: HostId = settings.host_id.parse().map_err(Error::Host)?;
    let processes = Processes::new(host)?;
    let service = Arc::new(LockService::new(Arc::clone(&store), processes, settings.ttl, tenure));
    service.take_up()?;
    let metrics_at = port.as_ref().map(Port::address).transpose()?;
    let since = state.began().map_or(store.now(), |began| began.since);
    let about = about(settings, since, metrics_at);
    let connection = state.connection().cloned();
    if connection.is_none() {
        let (mountpoint, what) = (settings.mountpoint.clone(), heritage::description(settings));
        ledger.began(Began { mountpoint, what, mount: tenure.mount(), since });
    }
    let fs = Arc::new(LockFs::resumed(Arc::clone(&service), about, Arc::clone(&ledger), state));
    // Before anybody is answered: who waits is woken, and what is asked again may have to wait.
    let tending = Tending::start(Arc::clone(&service))?;
    let waking = Waking::start(Arc::clone(&service))?;
    let (point, options) = (&settings.mountpoint, mount_options(settings));
    let (mount, claim) = match (kept, connection) {
        (Some((device, claim)), Some(Connection { init, reply, .. })) => {
            fs.recall_opens()?;
            let mount = Mount::take_over(Arc::clone(&fs), point, device, (&init, &reply), &options)?;
            (mount, Some(claim))
        }
        _ => (Mount::start(Arc::clone(&fs), point, &options)?, None),
    };
    let scrape = port.map(|port| port.serve(Box::new(move || fs.metrics()))).transpose()?;
    if let Some(address) = metrics_at {
        log::info!("serving metrics at=http://{address}/metrics");
    }
    answers(point)?;
    match claim {
        Some(claim) => {
            claim.settle();
            ledger.tries(0);
            log::info!("took over the mount at={}", point.display());
        }
        None => {
            let (init, reply) = mount.handshake();
            let device = heritage::device_at(point)?;
            ledger.connected(Connection { init: init.to_vec(), reply: reply.to_vec(), device });
            // Of a mount before this one.
            manager.forget();
            log::info!("mounted at={}", point.display());
        }
    }
    let can_be_left = mount.can_be_left();
    if let Some(file) = ledger.file().filter(|_| can_be_left) {
        manager.keep(mount.device(), file);
    } else {
        log::warn!("a restart will mount anew: keeping the mount takes Linux 6.9");
    }
    ready();
    manager.ready(point);
    let watch = manager.watch(point)?;
    let helpers = Arc::new(Mutex::new(Some(Helpers { watch, scrape, tending, waking })));
    let ending = Ending {
        unmounter: mount.unmounter(),
        leaver: mount.leaver(),
        device: mount.device().try_clone_to_owned()?,
        can_be_left,
        ledger,
        service,
        store,
        helpers: Arc::clone(&helpers),
        manager: manager.clone(),
        successor,
    };
    ending.wait_for(signals)?;
    let served = mount.wait();
    ending::let_go(&helpers);
    manager.forget();
    log::info!("unmounted at={}", point.display());
    Ok(served?)
}

/// A store, and the thread that lets migrations copy it where only this process can.
type Open = (Arc<dyn LockStore>, Option<Serving>);

fn open(settings: &Settings, tenure: Tenure, clock: Arc<dyn Clock>) -> Result<Open, Error> {
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
            tenure,
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
