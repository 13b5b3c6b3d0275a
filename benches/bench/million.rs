//! A large tree: memory, mount, listings, and whether an acquire notices.
//!
//! The locks are of a living job and have a short ttl, so that renewals, and looks at deadlines that have
//! moved, fall into the runs.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Extent;
use crate::client::{Measured, Sample, Task, Work};
use crate::figures::{figure, goal, heading, median, median_span, micros, millis, percentile};
use crate::place::{Place, disk_directory};
use crate::processor::On;

/// Locks in each directory.
pub(crate) const EACH: usize = 1_000;

/// No single call may take longer.
const LONGEST: Duration = Duration::from_millis(50);

/// How often a listing is repeated.
const LISTINGS: usize = 5;

pub(crate) fn measure(extent: &Extent) -> io::Result<()> {
    let directories = extent.directories;
    let count = directories * EACH;
    heading(format_args!("{count} locks in {directories} directories, ttl {} s", extent.ttl.as_secs()));
    let (large_dir, empty_dir) = (disk_directory()?, disk_directory()?);
    let large = Place::lockfs_on(large_dir.path(), extent.ttl)?;
    let memory_before = large.memory()?;
    let fill = Work { task: Task::Acquire(EACH), threads: 16, directories, on: On::Any }.run(large.root())?;
    figure("filling it, 16 threads", format_args!("{:.0} acquires/s", fill.per_second()));
    tell_worst("worst single call while filling", &fill);
    drop(fill);
    let per_lock = |memory: u64| memory.saturating_sub(memory_before) / count as u64;
    figure("memory per lock, after filling", format_args!("{} bytes", per_lock(large.memory()?)));
    large.unmount()?;
    // Sixteen threads keep each other waiting on any file system, the more the fewer processors are free.
    let some = directories.min(100);
    let fill = Work { task: Task::Acquire(EACH), threads: 16, directories: some, on: On::Any };
    tell_worst("worst single call while filling the null", &fill.run(Place::null()?.root())?);

    let mut worst = Duration::ZERO;
    let mut mounts = Vec::new();
    let mut ratios = Vec::new();
    let mut p50 = (Vec::new(), Vec::new());
    let mut memory = 0;
    for turn in 0..extent.mounts {
        let start = Instant::now();
        let large = Place::lockfs_on(large_dir.path(), extent.ttl)?;
        mounts.push(start.elapsed());
        memory = large.memory()?;
        let empty = Place::lockfs_on(empty_dir.path(), extent.ttl)?;
        // While nothing else runs: what is due after the restart is due in this run.
        let past_ttl = Task::Pairs(extent.ttl + extent.ttl / 4);
        if turn == 0 {
            let work = Work { task: past_ttl, threads: 1, directories, on: On::Any };
            worst = tell_worst("worst single call, 1 thread, past the ttl", &work.run(large.root())?);
        }
        let work = Work { task: Task::Pairs(extent.slice), threads: 1, directories, on: On::One };
        large.put(On::One)?;
        empty.put(On::One)?;
        for _ in 0..extent.turns {
            let empty = acquire_p50(&work.run(empty.root())?);
            let large = acquire_p50(&work.run(large.root())?);
            ratios.push(large.as_secs_f64() / empty.as_secs_f64());
            p50.0.push(empty);
            p50.1.push(large);
        }
        large.unmount()?;
    }
    // How long a call may take on this machine though the file system does nothing.
    let idle = Work { task: Task::Pairs(extent.ttl), threads: 1, directories, on: On::Any };
    let idle = idle.run(Place::null()?.root())?;
    tell_worst("worst single call, 1 thread, on the null", &idle);
    figure("memory per lock, after mounting", format_args!("{} bytes", per_lock(memory)));
    figure("time to mount", millis(median_span(mounts)));

    let large = Place::lockfs_on(large_dir.path(), extent.ttl)?;
    list(&large, "d0", EACH)?;
    let more = large.root().join("more");
    fs::create_dir(&more)?;
    Work { task: Task::Acquire(extent.large), threads: 1, directories: 1, on: On::Any }.run(&more)?;
    list(&large, "more/d0", extent.large)?;
    large.unmount()?;

    figure("acquire p50, empty tree", micros(median_span(p50.0)));
    figure(format_args!("acquire p50, {count} locks"), micros(median_span(p50.1)));
    let ratio = median(ratios);
    goal("acquire p50, large / empty", format_args!("{ratio:.2}, at most 1.30"), ratio <= 1.3);
    let value = format!("{}, at most {}", millis(worst), millis(LONGEST));
    goal("worst single call, 1 thread, past the ttl", value, worst <= LONGEST);
    Ok(())
}

fn tell_worst(name: &str, run: &Measured) -> Duration {
    let slow = run.samples.iter().filter(|sample| sample.worst().0 > LONGEST).count();
    let worst = run.worst();
    figure(name, format_args!("{worst}, {slow} above {}", millis(LONGEST)));
    worst.span
}

fn acquire_p50(run: &Measured) -> Duration {
    let mut spans: Vec<Duration> = run.samples.iter().map(Sample::acquire).collect();
    percentile(&mut spans, 50)
}

/// Lists a directory: its names, and the attributes of each.
pub(crate) fn list(place: &Place, directory: &str, expected: usize) -> io::Result<()> {
    let path = place.root().join(directory);
    let before = place.requests()?;
    let spans: Vec<Duration> =
        (0..LISTINGS).map(|_| timed(|| names(&path, expected))).collect::<Result<_, _>>()?;
    let requests = rise(&before, &place.requests()?) / LISTINGS as u64;
    figure(
        format_args!("list a directory of {expected}: names"),
        format_args!("{} with {requests} requests", millis(median_span(spans))),
    );
    let before = place.requests()?;
    let span = timed(|| stats(&path))?;
    let requests = rise(&before, &place.requests()?);
    figure(
        format_args!("list a directory of {expected}: stat of each"),
        format_args!("{} with {requests} requests", millis(span)),
    );
    Ok(())
}

fn rise(before: &[(String, u64)], after: &[(String, u64)]) -> u64 {
    after.iter().zip(before).map(|((_, after), (_, before))| after - before).sum()
}

fn timed(act: impl FnOnce() -> io::Result<()>) -> io::Result<Duration> {
    let start = Instant::now();
    act()?;
    Ok(start.elapsed())
}

fn names(path: &Path, expected: usize) -> io::Result<()> {
    let found = fs::read_dir(path)?.count();
    if found == expected { Ok(()) } else { Err(io::Error::other(format!("{found} entries, not {expected}"))) }
}

fn stats(path: &Path) -> io::Result<()> {
    fs::read_dir(path)?.try_for_each(|entry| entry?.metadata().map(drop))
}
