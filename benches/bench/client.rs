//! The client: acquires and releases, or locks and unlocks, and takes the time of each call. The same code on every
//! file system.
//!
//! It runs as a process of its own, in the process group of the benchmark, which is therefore the job that
//! holds the locks. Samples go to stdout as numbers; [`Measured::by`] starts it and reads them, as it does with clients
//! that need no file system.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::processor::{self, On};
use crate::relay::{flock, open_shared};

/// Pairs that each thread makes before it measures.
const WARM_UP: usize = 50;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Pairs of acquire and release for so long.
    Pairs(Duration),
    /// Pairs of flock(2), lock and unlock, of a file that stays open, for so long.
    Flocks(Duration),
    /// So many acquires a directory; nothing is released.
    Acquire(usize),
    /// Releases what `Acquire` acquired.
    Release(usize),
}

/// A client's work on one file system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// What it does.
    pub(crate) task: Task,
    /// With how many threads.
    pub(crate) threads: usize,
    /// In how many directories: thread `t` has its `k`th pair in directory `t + k * threads` of them. With
    /// as many directories as threads each has its own, with one directory all share it.
    pub(crate) directories: usize,
    /// On which processors.
    pub(crate) on: On,
}

/// One acquire and release: open, close, unlink. Of a pair of flock(2) the first is what is told as open, the second
/// as unlink.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// When the pair began, from the beginning of the run.
    pub(crate) at: Duration,
    pub(crate) open: Duration,
    pub(crate) close: Duration,
    pub(crate) unlink: Duration,
}

impl Sample {
    /// open(2) and close(2).
    pub(crate) fn acquire(&self) -> Duration {
        self.open + self.close
    }

    /// All three.
    pub(crate) fn pair(&self) -> Duration {
        self.open + self.close + self.unlink
    }

    /// The longest of the three.
    pub(crate) fn worst(&self) -> (Duration, &'static str) {
        let calls = [(self.open, "open"), (self.close, "close"), (self.unlink, "unlink")];
        calls.into_iter().max().expect("three calls")
    }

    fn to_bytes(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        let at = u64::try_from(self.at.as_nanos()).unwrap_or(u64::MAX);
        bytes[..8].copy_from_slice(&at.to_le_bytes());
        for (slot, span) in bytes[8..].chunks_mut(4).zip([self.open, self.close, self.unlink]) {
            slot.copy_from_slice(&u32::try_from(span.as_nanos()).unwrap_or(u32::MAX).to_le_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let at = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
        let call = |n: usize| {
            let bytes = bytes[8 + 4 * n..12 + 4 * n].try_into().expect("four bytes");
            Duration::from_nanos(u32::from_le_bytes(bytes).into())
        };
        Self { at: Duration::from_nanos(at), open: call(0), close: call(1), unlink: call(2) }
    }
}

/// What a client measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    /// From the first call to the last.
    pub(crate) elapsed: Duration,
    pub(crate) samples: Vec<Sample>,
}

impl Measured {
    /// What a client measured that tells it as [`tell`] does.
    pub(crate) fn by(client: &mut Command) -> io::Result<Self> {
        let mut child = client.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut bytes = Vec::new();
        child.stdout.take().expect("it is piped").read_to_end(&mut bytes)?;
        let status = child.wait()?;
        let Some((elapsed, samples)) = bytes.split_first_chunk::<8>().filter(|_| status.success()) else {
            return Err(io::Error::other(format!("the client failed: {status}")));
        };
        let samples = samples.chunks_exact(20).map(Sample::from_bytes).collect();
        Ok(Self { elapsed: Duration::from_nanos(u64::from_le_bytes(*elapsed)), samples })
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.samples.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// The longest single call of all, its name, and when it was.
    pub(crate) fn worst(&self) -> Worst {
        let worst = self.samples.iter().max_by_key(|sample| sample.worst().0).copied().unwrap_or_default();
        let (span, call) = worst.worst();
        Worst { span, call, at: worst.at }
    }
}

/// The longest single call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Worst {
    pub(crate) span: Duration,
    call: &'static str,
    at: Duration,
}

impl std::fmt::Display for Worst {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (span, at) = (crate::figures::millis(self.span), self.at.as_secs_f64());
        write!(f, "{span} ({} after {at:.1} s)", self.call)
    }
}

impl Work {
    /// Does the work in the directory `root` as a process of its own.
    pub(crate) fn run(&self, root: &Path) -> io::Result<Measured> {
        let (task, count) = match self.task {
            Task::Pairs(span) => ("pairs", span.as_micros()),
            Task::Flocks(span) => ("flocks", span.as_micros()),
            Task::Acquire(count) => ("acquire", count as u128),
            Task::Release(count) => ("release", count as u128),
        };
        let numbers = [self.threads as u128, self.directories as u128, count];
        let mut client = Command::new(std::env::current_exe()?);
        client.arg("client").arg(root).args([task, self.on.word()]);
        Measured::by(client.args(numbers.map(|number| number.to_string())))
            .map_err(|error| io::Error::other(format!("on {}: {error}", root.display())))
    }
}

/// The client process.
pub(crate) fn run(words: &[&str]) -> io::Result<()> {
    let usage = || io::Error::other("client ROOT TASK one|any THREADS DIRECTORIES COUNT");
    let [root, task, on, threads, directories, count] = words else {
        return Err(usage());
    };
    let number = |text: &str| text.parse::<usize>().map_err(|_| usage());
    let count = number(count)?;
    let task = match *task {
        "pairs" => Task::Pairs(Duration::from_micros(count as u64)),
        "flocks" => Task::Flocks(Duration::from_micros(count as u64)),
        "acquire" => Task::Acquire(count),
        _ => Task::Release(count),
    };
    let (threads, directories) = (number(threads)?, number(directories)?);
    let work = Work { task, threads, directories, on: On::said(on) };
    processor::place(0, work.on)?;
    std::env::set_current_dir(root)?;
    for directory in 0..work.directories {
        match fs::create_dir(format!("d{directory}")) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    tell(work.threads, |thread, start_line| work.perform(thread, start_line))
}

/// Tells on stdout what threads measured that begin together.
pub(crate) fn tell(
    threads: usize,
    perform: impl Fn(usize, &Barrier) -> io::Result<Measured> + Sync,
) -> io::Result<()> {
    let start_line = Barrier::new(threads);
    let runs: Vec<io::Result<Measured>> = std::thread::scope(|scope| {
        let threads = (0..threads).map(|thread| {
            let (perform, start_line) = (&perform, &start_line);
            scope.spawn(move || perform(thread, start_line))
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    });
    let mut bytes = vec![0; 8];
    let mut elapsed = Duration::ZERO;
    for run in runs {
        let run = run?;
        elapsed = elapsed.max(run.elapsed);
        run.samples.iter().for_each(|sample| bytes.extend_from_slice(&sample.to_bytes()));
    }
    bytes[..8].copy_from_slice(&u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
    io::stdout().write_all(&bytes)
}

/// Pairs on each of `names` in turn, for so long.
pub(crate) fn pairs<T>(
    span: Duration,
    names: &[T],
    start_line: &Barrier,
    mut pair: impl FnMut(&T) -> io::Result<Sample>,
) -> io::Result<Measured> {
    for name in names.iter().cycle().take(WARM_UP) {
        pair(name)?;
    }
    let mut samples = Vec::with_capacity(1 << 16);
    start_line.wait();
    let start = Instant::now();
    for name in names.iter().cycle() {
        let at = start.elapsed();
        samples.push(Sample { at, ..pair(name)? });
        if start.elapsed() >= span {
            break;
        }
    }
    Ok(Measured { elapsed: start.elapsed(), samples })
}

impl Work {
    fn perform(&self, thread: usize, start_line: &Barrier) -> io::Result<Measured> {
        match self.task {
            Task::Pairs(span) => {
                let paths: Vec<String> = (0..self.directories)
                    .map(|pair| {
                        format!("d{}/pair-{thread}", (thread + pair * self.threads) % self.directories)
                    })
                    .collect();
                pairs(span, &paths, start_line, |path| {
                    let sample = acquire(path)?;
                    let acquired = Instant::now();
                    fs::remove_file(path)?;
                    Ok(Sample { unlink: acquired.elapsed(), ..sample })
                })
            }
            Task::Flocks(span) => {
                let file = open_shared(format!("d{}/flock-{thread}", thread % self.directories).as_ref())?;
                pairs(span, &[file], start_line, |file| {
                    let before = Instant::now();
                    flock(file, libc::LOCK_EX)?;
                    let locked = Instant::now();
                    flock(file, libc::LOCK_UN)?;
                    Ok(Sample { open: locked - before, unlink: locked.elapsed(), ..Sample::default() })
                })
            }
            Task::Acquire(count) | Task::Release(count) => {
                let own = (0..self.directories).skip(thread).step_by(self.threads);
                let mut samples = Vec::with_capacity(count * self.directories / self.threads + count);
                start_line.wait();
                let start = Instant::now();
                for (directory, lock) in
                    own.flat_map(|directory| (0..count).map(move |lock| (directory, lock)))
                {
                    let path = format!("d{directory}/lock-{lock}");
                    let before = Instant::now();
                    let sample = if let Task::Acquire(_) = self.task {
                        acquire(&path)?
                    } else {
                        fs::remove_file(&path)?;
                        Sample { unlink: before.elapsed(), ..Sample::default() }
                    };
                    samples.push(Sample { at: before - start, ..sample });
                }
                Ok(Measured { elapsed: start.elapsed(), samples })
            }
        }
    }
}

fn acquire(path: &str) -> io::Result<Sample> {
    let before = Instant::now();
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let opened = Instant::now();
    drop(file);
    Ok(Sample { open: opened - before, close: opened.elapsed(), ..Sample::default() })
}
