//! What is measured on one Redis server: places, the store by itself, and the lock of redis-py.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::client::{Measured, Task, Work};
use crate::place::Place;
use crate::processor::On;
use crate::raw;
use crate::server::Server;

/// One of them.
pub(crate) enum Peer {
    /// A file system.
    Place(Place),
    /// The store, without a file system; its server is there.
    Raw(String),
    /// redis-py; its server is there.
    RedisPy(String),
}

/// Where `scripts/install-bench-deps` puts what it installs.
pub(crate) fn library() -> io::Result<PathBuf> {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-deps/python");
    if library.join("redis").is_dir() && library.join("bin/juicefs").is_file() {
        return Ok(library);
    }
    Err(io::Error::other(format!("no peers in {}: run scripts/install-bench-deps", library.display())))
}

impl Peer {
    /// All of them, in the order of [`Peer::NAMES`].
    pub(crate) fn all(server: &Server) -> io::Result<[Self; 5]> {
        let url = server.url(0);
        Ok([
            Self::Place(Place::null()?),
            Self::Raw(url.clone()),
            Self::Place(Place::lockfs_redis(server)?),
            Self::RedisPy(url),
            Self::Place(Place::juicefs(server)?),
        ])
    }

    /// What they are called.
    pub(crate) const NAMES: [&str; 5] = ["null", raw::NAME, "lockfs", "redis-py", "JuiceFS"];

    /// Puts its daemon, if it has one, on some processors.
    pub(crate) fn put(&self, on: On) -> io::Result<()> {
        match self {
            Self::Place(place) => place.put(on),
            Self::Raw(_) | Self::RedisPy(_) => Ok(()),
        }
    }

    /// Pairs of flock(2) for so long, by one thread; the steps of the store alone where there is no file.
    pub(crate) fn flocks(&self, span: Duration, on: On) -> io::Result<Measured> {
        let work = Work { task: Task::Flocks(span), threads: 1, directories: 1, on };
        match self {
            Self::Place(place) => work.run(place.root()),
            Self::Raw(url) => raw::measure(&work, span, url),
            Self::RedisPy(_) => Err(io::Error::other("redis-py has no flock")),
        }
    }

    /// Pairs for so long; with several threads each has a directory of its own, where there are directories.
    pub(crate) fn pairs(&self, span: Duration, threads: usize, on: On) -> io::Result<Measured> {
        let work = Work { task: Task::Pairs(span), threads, directories: threads, on };
        match self {
            Self::Place(place) => work.run(place.root()),
            Self::Raw(url) => raw::measure(&work, span, url),
            Self::RedisPy(url) => {
                let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/bench/redis_py.py");
                let numbers = [threads.to_string(), span.as_micros().to_string()];
                // -B: no bytecode is written beside the script.
                let mut python = Command::new("python3");
                python.args(["-B", script]).arg(library()?).args([url, on.word()]).args(numbers);
                Measured::by(&mut python).map_err(|error| io::Error::other(format!("redis-py: {error}")))
            }
        }
    }
}
