//! Moving a large tree from one store to another, both ways: how fast, with how much memory, and for how long nothing is
//! granted where the source is in use.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lockfs::clock::{BootId, SystemClock};
use lockfs::lock::{Ino, MountId, Name, Origin, SessionId, SessionKind, Ttl};
use lockfs::store::level::LevelStore;
use lockfs::store::{Durability, LockStore};
use lockfs::table::{Begin, Caller, Claimant, Command as Step, Existing, New, Opening, Outcome, Reply, Spot};

use crate::Extent;
use crate::figures::{figure, goal, heading, millis};
use crate::million::EACH;
use crate::place::{Place, disk_directory};
use crate::server::Server;

/// How many locks a session holds.
const OF_A_SESSION: usize = 10;

/// How long nothing may be granted.
const STOP: Duration = Duration::from_secs(1);

pub(crate) fn measure(extent: &Extent) -> io::Result<()> {
    let count = extent.directories * EACH;
    heading(format_args!("Moving {count} locks of {} sessions between stores", count / OF_A_SESSION));
    let (server, dir, back) = (Server::start()?, disk_directory()?, disk_directory()?);
    fill(&dir.path().join("data/default"), extent.directories)?;
    let level = |dir: &Path| format!("leveldb://{}", dir.join("data").display());
    let redis = format!("{}?namespace={}", server.url(0), Place::NAMESPACE);
    tell("LevelDB to Redis", count, &migrate(&level(dir.path()), &redis)?);
    tell("Redis to LevelDB", count, &migrate(&redis, &level(back.path()))?);

    let place = Place::lockfs_on(back.path(), Duration::from_secs(300))?;
    let (moved, longest) = in_use(&place, "used-here", || migrate(&level(back.path()), &redis))?;
    tell("LevelDB to Redis, mounted", count, &moved);
    stop("longest call to the LevelDB meanwhile", longest);
    place.unmount()?;
    let place = Place::lockfs_redis(&server)?;
    let (moved, longest) = in_use(&place, "used-there", || migrate(&redis, &level(back.path())))?;
    tell("Redis to LevelDB, mounted", count, &moved);
    stop("longest call to the Redis meanwhile", longest);
    place.unmount()
}

/// What the command said and took.
struct Moved {
    span: Duration,
    stood_still: Duration,
    /// The most resident memory that a run of it has had so far.
    memory: u64,
}

fn tell(name: &str, count: usize, moved: &Moved) {
    let rate = count as f64 / moved.span.as_secs_f64();
    let (still, memory) = (millis(moved.stood_still), moved.memory >> 20);
    figure(name, format_args!("{rate:.0} locks/s, stood still for {still}, at most {memory} MiB of memory"));
}

fn stop(name: &str, longest: Duration) {
    let value = format!("{}, at most {}", millis(longest), millis(STOP));
    goal(name, value, longest <= STOP);
}

fn migrate(from: &str, to: &str) -> io::Result<Moved> {
    let start = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockfs"));
    let output = command.env("LOCKFS_CONFIG", "").args(["migrate", "--from", from, "--to", to]).output()?;
    let span = start.elapsed();
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(io::Error::other(format!("lockfs migrate: {}", String::from_utf8_lossy(&output.stderr))));
    }
    let value = |key: &str| {
        let found = said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        found.ok_or_else(|| io::Error::other(format!("lockfs migrate does not say {key}")))
    };
    if value("source")? != value("target")? {
        return Err(io::Error::other(format!("not all was moved: {said}")));
    }
    let still = value("stood_still_ms")?.parse().map_err(io::Error::other)?;
    // SAFETY: rusage is plain data, for which zeroes are a value, and the place lives.
    let memory = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage.ru_maxrss.unsigned_abs() << 10
    };
    Ok(Moved { span, stood_still: Duration::from_millis(still), memory })
}

/// Moves what is mounted while somebody acquires and releases a name there; and how long such a call took at most.
fn in_use(
    place: &Place,
    name: &str,
    act: impl FnOnce() -> io::Result<Moved>,
) -> io::Result<(Moved, Duration)> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| -> io::Result<Duration> {
            let path = place.root().join(name);
            let mut longest = Duration::ZERO;
            while !is_over.load(Ordering::Acquire) {
                let asked = Instant::now();
                let outcome = File::create_new(&path).and_then(|_| fs::remove_file(&path));
                match outcome {
                    Ok(()) => longest = longest.max(asked.elapsed()),
                    // It has moved.
                    Err(error) if error.raw_os_error() == Some(libc::EHOSTDOWN) => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(longest)
        });
        let moved = act();
        is_over.store(true, Ordering::Release);
        let longest = worker.join().expect("it does not panic")?;
        Ok((moved?, longest))
    })
}

/// Fills a LevelDB with so many directories of locks.
fn fill(dir: &Path, directories: usize) -> io::Result<()> {
    let store =
        LevelStore::open(dir, Durability::Process, Arc::new(SystemClock), &BootId::current()?, (0, 0));
    let store = store.map_err(io::Error::other)?;
    let mut count = 0;
    for number in 0..directories {
        let mut make = |parent: Ino, name: String, new: New| -> io::Result<Ino> {
            let caller = caller(&format!("agent-{}", count / OF_A_SESSION))?;
            count += usize::from(new != New::Directory);
            let name = Name::parse(name.as_bytes()).map_err(io::Error::other)?;
            let step = Step::Acquire {
                caller,
                spot: Spot { parent, name },
                new,
                mode: 0o644,
                existing: Existing::Refuse,
            };
            made(store.execute(&step).map_err(io::Error::other)?)
        };
        let parent = make(Ino::ROOT, format!("d{number}"), New::Directory)?;
        for lock in 0..EACH {
            make(parent, format!("lock-{lock}"), New::File(Opening::Closed))?;
        }
    }
    store.close().map_err(io::Error::other)
}

fn made(outcome: Outcome) -> io::Result<Ino> {
    match outcome {
        Ok(Reply::Entry(made)) => Ok(made.ino),
        other => Err(io::Error::other(format!("an acquire came to {other:?}"))),
    }
}

fn caller(session: &str) -> io::Result<Caller> {
    let origin = Origin { user: "root".to_owned(), host: "bench".to_owned(), pid: 0, command: String::new() };
    let claimant = Claimant {
        id: SessionId::parse(session.as_bytes()).map_err(io::Error::other)?,
        kind: SessionKind::Named,
        origin,
        login: None,
        ttl: Ttl::For(Duration::from_secs(3_600)),
        begin: Begin::WhereMissing,
    };
    Ok(Caller { uid: 0, gid: 0, session: Arc::new(claimant), also: Vec::new(), mount: MountId::from_u64(1) })
}
