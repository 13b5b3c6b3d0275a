//! What the kernel asks for an acquire and for a release, by name.

use std::io;

use crate::client::{Task, Work};
use crate::figures::{figure, goal, heading};
use crate::place::Place;
use crate::processor::On;

/// What can't be spared: LOOKUP, CREATE, LOOKUP, UNLINK; with `default_permissions` a GETATTR of the directory
/// before each of the two, for the one before made the kernel forget its mode (`fuse_dir_changed`), and one of the new
/// file, whose attributes are not kept, when open(2) checks what it opened (`may_open`).
const NEEDED: f64 = 7.0;

/// How many of each are counted.
const COUNT: usize = 1_000;

pub(crate) fn measure() -> io::Result<()> {
    heading("FUSE requests, on average of a thousand (directories are asked for again each second)");
    let place = Place::lockfs()?;
    // The directory is made by the first, which is not counted.
    run(&place, Task::Acquire(1))?;
    run(&place, Task::Release(1))?;
    let idle = counted(&place, || Ok(()))?;
    let acquire = counted(&place, || run(&place, Task::Acquire(COUNT)))?;
    // The last close is answered after the client has gone.
    std::thread::sleep(std::time::Duration::from_millis(20));
    let release = counted(&place, || run(&place, Task::Release(COUNT)))?;
    let mut pair = 0.0;
    for (name, counts) in [("acquire (open O_EXCL, close)", acquire), ("release (unlink)", release)] {
        let own = counts.iter().zip(&idle).map(|((name, all), (_, idle))| (name, all.saturating_sub(*idle)));
        let means = own.map(|(name, count)| (name, count as f64 / COUNT as f64));
        let means: Vec<_> = means.filter(|(_, mean)| *mean >= 0.01).collect();
        // Nobody waits for these two.
        let sum: f64 = means
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "forget" | "release"))
            .map(|(_, n)| n)
            .sum();
        pair += sum;
        let words: Vec<String> = means.iter().map(|(name, mean)| format!("{name} {mean:.2}")).collect();
        figure(name, format_args!("{sum:.2} waited for: {}", words.join(", ")));
    }
    goal("acquire + release", format_args!("{pair:.2} waited for, at most {NEEDED}"), pair < NEEDED + 0.1);
    Ok(())
}

fn run(place: &Place, task: Task) -> io::Result<()> {
    Work { task, threads: 1, directories: 1, on: On::Any }.run(place.root()).map(drop)
}

/// How much each counter rises by an act.
fn counted(place: &Place, act: impl FnOnce() -> io::Result<()>) -> io::Result<Vec<(String, u64)>> {
    let before = place.requests()?;
    act()?;
    let after = place.requests()?;
    Ok(after.into_iter().zip(before).map(|((name, after), (_, before))| (name, after - before)).collect())
}
