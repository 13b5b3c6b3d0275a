//! A large tree on Redis: what a lock takes there, and how long a listing of a thousand of them takes.

use std::io;
use std::time::Instant;

use crate::Extent;
use crate::figures::{figure, heading, millis};
use crate::million::{EACH, list};
use crate::place::Place;
use crate::raw::{self, Raw};
use crate::server::Server;

/// With so many threads, each with directories of its own.
const THREADS: usize = 16;

pub(crate) fn measure(extent: &Extent) -> io::Result<()> {
    let directories = extent.directories;
    let count = directories * EACH;
    heading(format_args!("Redis: {count} locks in {directories} directories"));
    let server = Server::start()?;
    let store = Raw::open(&server.url(0), Place::NAMESPACE)?;
    // What the first of a session costs is not counted.
    store.make_directory("first")?;
    let before = server.memory()?;
    let start = Instant::now();
    std::thread::scope(|scope| {
        let threads = (0..THREADS).map(|thread| {
            let own = (0..directories).skip(thread).step_by(THREADS);
            let store = &store;
            scope.spawn(move || own.into_iter().try_for_each(|directory| fill(store, directory)))
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("it does not panic"))
    })?;
    let rate = count as f64 / start.elapsed().as_secs_f64();
    figure(
        format_args!("filling it, {THREADS} threads, {}", raw::NAME),
        format_args!("{rate:.0} acquires/s"),
    );
    let per_lock = server.memory()?.saturating_sub(before) / count as u64;
    figure("memory per lock in Redis", format_args!("{per_lock} bytes"));

    let start = Instant::now();
    let place = Place::lockfs_redis(&server)?;
    figure("time to mount", millis(start.elapsed()));
    list(&place, "d0", EACH)?;
    place.unmount()
}

/// Makes a directory of locks.
fn fill(store: &Raw, directory: usize) -> io::Result<()> {
    let directory = store.make_directory(&format!("d{directory}"))?;
    (0..EACH).try_for_each(|lock| store.acquire(&raw::spot(directory, &format!("lock-{lock}"))?).map(drop))
}
