//! A crowd: very many who wait for one name, over two mounts of one Redis.
//!
//! They are threads of a few processes, each with a file description of its own: to flock(2) each is another. While
//! nobody has anything to do nobody should do anything; and then each has it once and lets go at once.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Extent;
use crate::board::{Board, be_patient, now};
use crate::daemon::PATIENCE;
use crate::figures::{figure, goal, heading, micros, millis, percentile};
use crate::place::Place;
use crate::relay::{await_all, flock, open_shared};
use crate::server::Server;

/// The name that all wait for.
const NAME: &str = "crowd";

/// In so many processes.
const PROCESSES: usize = 8;

/// What the daemons may take of one processor while nothing happens, in thousandths.
const IDLE: f64 = 10.0;

/// What was done until some moment.
struct Work {
    at: Instant,
    daemons: Duration,
    redis: Duration,
    reads: u64,
    calls: Vec<(String, u64)>,
}

/// What was done from one moment to another.
struct Done {
    span: Duration,
    daemons: Duration,
    redis: Duration,
    round_trips: u64,
    calls: Vec<(String, u64)>,
}

impl Work {
    fn until_now(server: &Server, places: &[Place]) -> io::Result<Self> {
        let daemons = places.iter().map(Place::work).sum::<io::Result<Duration>>()?;
        let (redis, reads, calls) = (server.work()?, server.reads()?, server.calls()?);
        Ok(Self { at: Instant::now(), daemons, redis, reads, calls })
    }

    fn since(&self, before: &Self) -> Done {
        let was = |name: &str| before.calls.iter().find(|(known, _)| known == name).map_or(0, |(_, n)| *n);
        // INFO is our own question, and how we introduce ourselves before it.
        let is_own = |name: &str| ["info", "hello", "client|setinfo"].contains(&name);
        let calls = self.calls.iter().filter(|(name, _)| !is_own(name));
        let mut calls: Vec<_> = calls.map(|(name, count)| (name.clone(), count - was(name))).collect();
        calls.retain(|(_, count)| *count > 0);
        calls.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let (daemons, redis) = (self.daemons - before.daemons, self.redis - before.redis);
        // Asking for these is a few reads more, which are not worth a digit.
        let round_trips = self.reads - before.reads;
        Done { span: self.at - before.at, daemons, redis, round_trips, calls }
    }
}

impl Done {
    /// How often each second somebody asked the server.
    fn per_second(&self) -> f64 {
        self.round_trips as f64 / self.span.as_secs_f64()
    }

    /// How many commands there were, those of functions too.
    fn commands(&self) -> u64 {
        self.calls.iter().map(|(_, count)| count).sum()
    }

    /// How much of one processor the daemons took, in thousandths.
    fn daemons_share(&self) -> f64 {
        1e3 * self.daemons.as_secs_f64() / self.span.as_secs_f64()
    }

    fn redis_share(&self) -> f64 {
        1e3 * self.redis.as_secs_f64() / self.span.as_secs_f64()
    }

    fn names(&self) -> String {
        let names = self.calls.iter().take(5).map(|(name, count)| format!("{name} {count}"));
        names.collect::<Vec<_>>().join(", ")
    }
}

pub(crate) fn measure(extent: &Extent) -> io::Result<()> {
    let count = extent.waiters;
    heading(format_args!(
        "Redis: {count} wait for one name with flock(2), on two mounts, with free processors"
    ));
    let server = Server::start()?;
    let places = [Place::lockfs_redis(&server)?, Place::lockfs_redis_of(&server, "bench-b")?];
    let path = places[0].root().join(NAME);
    let held = open_shared(&path)?;
    flock(&held, libc::LOCK_EX)?;
    let idle = |name: &str| {
        // What the beginning brought with it shall be over.
        sleep(extent.idle / 4);
        let before = Work::until_now(&server, &places)?;
        sleep(extent.idle);
        let done = Work::until_now(&server, &places)?.since(&before);
        let (daemons, redis) = (done.daemons_share(), done.redis_share());
        let (asked, names) = (done.per_second(), done.names());
        let commands = done.commands() as f64 / done.span.as_secs_f64();
        figure(
            format_args!("for {:.0} s {name}", extent.idle.as_secs_f64()),
            format_args!(
                "daemons {daemons:.1} ms/s, Redis {redis:.1} ms/s, {asked:.1} round trips/s, {commands:.0} commands/s ({names})"
            ),
        );
        Ok::<_, io::Error>(done)
    };
    let without = idle("nobody waits")?;

    let board = Board::new(count)?;
    let before = Work::until_now(&server, &places)?;
    let crowd = gather(&board, &places)?;
    board.await_asks(u32::try_from(count).map_err(io::Error::other)?)?;
    await_queue(&path, count)?;
    let gathered = Work::until_now(&server, &places)?.since(&before);
    figure(format_args!("until all {count} wait"), millis(gathered.span));
    let with = idle(&format!("{count} wait"))?;

    let before = Work::until_now(&server, &places)?;
    let start = now();
    flock(&held, libc::LOCK_UN)?;
    await_all(crowd)?;
    let done = Work::until_now(&server, &places)?.since(&before);
    let mut times: Vec<u64> = board.places().iter().map(|time| time.load(Ordering::Acquire)).collect();
    times.sort_unstable();
    let last = times.last().map_or(0, |last| last - start);
    let mut steps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let [p50, p99] = [50, 99].map(|percent| micros(Duration::from_nanos(percentile(&mut steps, percent))));
    let each = Duration::from_nanos(last / count.max(1) as u64);
    figure(
        format_args!("until all {count} have had it once"),
        format_args!(
            "{}, {} each; from grant to grant p50 {p50}, p99 {p99}",
            millis(Duration::from_nanos(last)),
            micros(each)
        ),
    );
    let per_grant = |work: Duration| micros(work / u32::try_from(count).unwrap_or(1));
    figure(
        "processor time meanwhile",
        format_args!(
            "daemons {} ({} a grant), Redis {} ({} a grant)",
            millis(done.daemons),
            per_grant(done.daemons),
            millis(done.redis),
            per_grant(done.redis)
        ),
    );
    let [asked, commands] = [done.round_trips, done.commands()].map(|number| number as f64 / count as f64);
    figure(
        "round trips and commands a grant",
        format_args!("{asked:.2}, {commands:.1} (those of functions too): {}", done.names()),
    );

    let more = with.daemons_share() - without.daemons_share();
    let name = format!("processor time of the daemons for {count} who wait");
    goal(name, format_args!("{more:.1} ms/s more, at most {IDLE:.0}"), more <= IDLE);
    let more = with.per_second() - without.per_second();
    // One renewal in batches at most.
    let name = format!("round trips for {count} who wait");
    goal(name, format_args!("{more:.1} a second more, at most 1.0"), more <= 1.0);
    Ok(())
}

/// Starts those who wait, in turn on the mounts.
fn gather(board: &Board, places: &[Place]) -> io::Result<Vec<Child>> {
    let (program, count) = (std::env::current_exe()?, board.places().len());
    let processes = (0..PROCESSES).map(|number| {
        let threads = count / PROCESSES + usize::from(number < count % PROCESSES);
        let mut process = Command::new(&program);
        process.arg("crowd").arg(board.path()).arg(places[number % places.len()].root().join(NAME));
        process.arg(threads.to_string()).process_group(0).spawn()
    });
    processes.collect()
}

/// Waits until the store's queue for a file is so long.
fn await_queue(path: &Path, count: usize) -> io::Result<()> {
    let limit = Instant::now() + PATIENCE;
    loop {
        let waiting = attribute(path, c"user.lock.waiting")?;
        if waiting.trim().parse::<usize>().is_ok_and(|waiting| waiting >= count) {
            return Ok(());
        }
        if Instant::now() > limit {
            return Err(io::Error::other(format!("{waiting} wait where {count} should")));
        }
        sleep(Duration::from_millis(2));
    }
}

fn attribute(path: &Path, name: &std::ffi::CStr) -> io::Result<String> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut value = [0_u8; 64];
    // SAFETY: both strings end with NUL, and the buffer is as long as told.
    let length =
        unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    Ok(String::from_utf8_lossy(&value[..length]).into_owned())
}

/// One of the processes.
pub(crate) fn run(words: &[&str]) -> io::Result<()> {
    let usage = || io::Error::other("crowd BOARD PATH THREADS");
    let [board, path, threads] = words else {
        return Err(usage());
    };
    let threads: usize = threads.parse().map_err(|_| usage())?;
    be_patient();
    let board = Board::open(board.as_ref())?;
    let (board, path) = (&board, Path::new(path));
    std::thread::scope(|scope| {
        let threads: Result<Vec<_>, _> = (0..threads)
            .map(|_| {
                // A thread that waits needs little.
                let builder = std::thread::Builder::new().stack_size(64 * 1024);
                builder.spawn_scoped(scope, move || wait_once(board, path))
            })
            .collect();
        threads?.into_iter().try_for_each(|thread| thread.join().expect("it does not panic"))
    })
}

fn wait_once(board: &Board, path: &Path) -> io::Result<()> {
    let file = open_shared(path)?;
    board.ask();
    flock(&file, libc::LOCK_EX)?;
    let number = board.grant() as usize;
    if let Some(place) = board.places().get(number) {
        place.store(now(), Ordering::Release);
    }
    flock(&file, libc::LOCK_UN)
}
