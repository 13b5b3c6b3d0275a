//! The floor of the Redis store: the steps of a pair on a mount, asked of the store itself, with no file system.
//!
//! A pair of a name is a look-up, an acquire, a look-up and a release, as the kernel asks for them, one of flock(2) a
//! lock and an unlock; the caller is found as the daemon finds it. Nothing here knows which store it is but [`open`].

use std::io;
use std::path::Path;
use std::process::Command as Program;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockfs::clock::SystemClock;
use lockfs::lock::{Claim, Ino, Mode, Name, Range, Style, Ttl};
use lockfs::locks::{LockService, Processes, Requester};
use lockfs::store::redis::{Acks, Endpoint, Options, RedisStore};
use lockfs::store::{LockStore, Tenure};
use lockfs::table::{Caller, Command, Existing, New, Opening, Reply, Spot};

use crate::client::{self, Measured, Sample, Task, Work};

/// What is measured, in a figure's name.
pub(crate) const NAME: &str = "raw scripts";

/// What this host is called by what asks the store without a daemon.
const HOST: &str = "bench";

/// What the kernel would call the owner of a lock.
const KEY: u64 = 1;

/// How long locks live untouched.
const TTL: Duration = Duration::from_secs(300);

/// A namespace of the server at `url`, as the daemon opens it.
fn open(url: &str, namespace: &str, tenure: Tenure) -> io::Result<Arc<dyn LockStore>> {
    let endpoint = Endpoint::parse(url).map_err(io::Error::other)?;
    let options = Options {
        acks: Acks::default_of(&endpoint.place),
        endpoint,
        namespace: namespace.to_owned(),
        host: HOST.to_owned(),
        machine: "bench".to_owned(),
        owner: (0, 0),
        state: None,
        tenure,
        window: TTL,
    };
    Ok(Arc::new(RedisStore::open(&options, Arc::new(SystemClock)).map_err(io::Error::other)?))
}

/// A store, and this process as a caller of it.
#[derive(Debug)]
pub(crate) struct Raw {
    service: LockService,
    caller: Caller,
}

impl Raw {
    pub(crate) fn open(url: &str, namespace: &str) -> io::Result<Self> {
        let tenure = Tenure::begin()?;
        let processes = Processes::new(HOST.parse().map_err(|_| io::Error::other("no host id"))?)?;
        let service = LockService::new(open(url, namespace, tenure)?, processes, Ttl::For(TTL), tenure);
        let who = Requester { uid: 0, gid: 0, pid: std::process::id(), request: 0, resent: false };
        let caller = service.caller(who).map_err(io::Error::other)?;
        Ok(Self { service, caller })
    }

    fn execute(&self, command: &Command) -> io::Result<Reply> {
        let outcome = self.service.store().execute(command).map_err(io::Error::other)?;
        outcome.map_err(|refusal| io::Error::other(format!("refused: {refusal:?}")))
    }

    fn make(&self, spot: Spot, new: New, mode: u16) -> io::Result<Ino> {
        let caller = self.caller.clone();
        match self.execute(&Command::Acquire { caller, spot, new, mode, existing: Existing::Refuse })? {
            Reply::Entry(attributes) => Ok(attributes.ino),
            other => Err(io::Error::other(format!("{other:?} to an acquire"))),
        }
    }

    /// Makes a directory in the root.
    pub(crate) fn make_directory(&self, name: &str) -> io::Result<Ino> {
        self.make(spot(Ino::ROOT, name)?, New::Directory, 0o755)
    }

    /// Acquires. Closed, for there is no descriptor that keeps it open once it is released.
    pub(crate) fn acquire(&self, spot: &Spot) -> io::Result<Ino> {
        self.make(spot.clone(), New::File(Opening::Closed), 0o644)
    }

    fn release(&self, spot: &Spot) -> io::Result<()> {
        self.execute(&Command::Unlink { caller: self.caller.clone(), spot: spot.clone() }).map(drop)
    }

    fn look_up(&self, spot: &Spot, is_there: bool) -> io::Result<()> {
        match self.service.store().lookup(spot).map_err(io::Error::other)? {
            found if found.is_some() == is_there => Ok(()),
            found => Err(io::Error::other(format!("{found:?} at {spot:?}"))),
        }
    }

    fn pair(&self, spot: &Spot) -> io::Result<Sample> {
        let before = Instant::now();
        self.look_up(spot, false)?;
        self.acquire(spot)?;
        let acquired = Instant::now();
        self.look_up(spot, true)?;
        self.release(spot)?;
        Ok(Sample { open: acquired - before, unlink: acquired.elapsed(), ..Sample::default() })
    }

    /// Locks and unlocks a file as flock(2) does.
    fn flock_pair(&self, ino: Ino) -> io::Result<Sample> {
        let (style, range, pid) = (Style::Flock, Range::WHOLE, std::process::id());
        let claim = Claim { style, mode: Mode::Exclusive, range, key: KEY, pid };
        let lock = Command::Lock { caller: self.caller.clone(), ino, claim, waiting: None };
        let unlock = Command::Unlock { mount: self.caller.mount, ino, style, key: KEY, range };
        let before = Instant::now();
        self.execute(&lock)?;
        let locked = Instant::now();
        self.execute(&unlock)?;
        Ok(Sample { open: locked - before, unlink: locked.elapsed(), ..Sample::default() })
    }
}

/// A name in a directory.
pub(crate) fn spot(parent: Ino, name: &str) -> io::Result<Spot> {
    let name = Name::parse(name.as_bytes()).map_err(|_| io::Error::other("no name"))?;
    Ok(Spot { parent, name })
}

/// Pairs on the server at `url`, by a process of its own.
pub(crate) fn measure(work: &Work, span: Duration, url: &str) -> io::Result<Measured> {
    let program: &Path = &std::env::current_exe()?;
    let what = if matches!(work.task, Task::Flocks(_)) { "flocks" } else { "pairs" };
    let numbers = [work.threads.to_string(), span.as_micros().to_string()];
    Measured::by(Program::new(program).args(["raw", url, what, work.on.word()]).args(numbers))
}

/// That process. Each thread has a directory of its own; all have one store.
pub(crate) fn run(words: &[&str]) -> io::Result<()> {
    let usage = || io::Error::other("raw URL pairs|flocks one|any THREADS MICROSECONDS");
    let [url, what, on, threads, micros] = words else {
        return Err(usage());
    };
    let threads: usize = threads.parse().map_err(|_| usage())?;
    let span = Duration::from_micros(micros.parse().map_err(|_| usage())?);
    crate::processor::place(0, crate::processor::On::said(on))?;
    let raw = Raw::open(url, &format!("raw-{}", std::process::id()))?;
    client::tell(threads, |thread, start_line| {
        let spot = spot(raw.make_directory(&format!("d{thread}"))?, "pair")?;
        if *what == "flocks" {
            raw.service.attend().map_err(io::Error::other)?;
            let ino = raw.acquire(&spot)?;
            client::pairs(span, &[ino], start_line, |ino| raw.flock_pair(*ino))
        } else {
            client::pairs(span, &[spot], start_line, |spot| raw.pair(spot))
        }
    })
}
