//! Contests: workers on both roots of a place lock one file, write down each hold, and raise a counter that
//! nothing but the lock keeps them from losing work at. Some are killed while they hold it or wait for it, and
//! others follow them.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{io, os::unix::process::CommandExt};

use crate::common::Tree;
use crate::common::arena::Arena;
use crate::common::job::Job;
use crate::ground::Place;
use crate::history::{Hold, Stamp, overtaken, parse, violations};
use crate::workers::{Way, work};

/// How long a contest may take: nothing stalls.
const LIMIT: Duration = Duration::from_secs(45);

/// The shape of a contest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contest {
    pub(crate) way: Way,
    /// How many workers there are on each root.
    pub(crate) workers: usize,
    /// How many holds there are at least; and each worker that lives has one.
    pub(crate) holds: usize,
    /// How many workers are killed, every other one of them while it holds the lock.
    pub(crate) kills: usize,
    /// By how much one may ask later and still get it first; `None` where nobody queues, because all try again
    /// and again.
    pub(crate) tolerance: Option<Duration>,
}

/// What a worker knows.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    pub(crate) me: String,
    /// Where it works.
    pub(crate) root: PathBuf,
    pub(crate) arena: PathBuf,
}

impl Orders {
    /// The file that all lock, by its name in the root.
    pub(crate) const LOCK: &str = "contended";

    /// Where it writes down its holds.
    pub(crate) fn history(&self) -> PathBuf {
        self.arena.join("history")
    }

    /// What is to be raised.
    pub(crate) fn counter(&self) -> PathBuf {
        self.arena.join("counter")
    }

    /// When this is there, it ends.
    pub(crate) fn enough(&self) -> PathBuf {
        self.arena.join("enough")
    }

    fn tell(&self, command: &mut Command) {
        command.current_dir(&self.root).env_remove("LOCKFS_SESSION").env("LC_ALL", "C");
        command.env("ME", &self.me).env("LOCK", Self::LOCK).env("ARENA", &self.arena);
        command.env("HISTORY", self.history()).env("COUNTER", self.counter()).env("ENOUGH", self.enough());
    }
}

enum Body {
    Job(Job),
    Program(Child),
}

struct Worker {
    orders: Orders,
    body: Body,
}

impl Worker {
    fn start(way: Way, orders: Orders) -> Self {
        let body = if let Way::Program(program) = way {
            let mut command = program();
            orders.tell(&mut command);
            let said = fs::File::options().create(true).append(true).open(orders.arena.join("said")).unwrap();
            command.stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said);
            // SAFETY: setsid(2) and prctl(2) are async-signal-safe.
            unsafe {
                command.pre_exec(|| {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    if libc::setsid() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
                });
            }
            Body::Program(command.spawn().unwrap())
        } else {
            let mut job = Job::start(0, |turn| {
                turn.pause();
                work(way, &orders);
            });
            job.go();
            Body::Job(job)
        };
        Self { orders, body }
    }

    /// Whether a program ended before it was told to. Of a job that fails the end says why.
    fn has_ended(&mut self) -> bool {
        if let Body::Program(child) = &mut self.body { child.try_wait().unwrap().is_some() } else { false }
    }

    /// Waits until it ends by itself; whether it did, and all was well.
    fn finish(&mut self, limit: Instant) -> bool {
        match &mut self.body {
            Body::Job(job) => {
                job.listen();
                true
            }
            Body::Program(child) => loop {
                if let Some(status) = child.try_wait().unwrap() {
                    return status.success();
                }
                if Instant::now() > limit {
                    return false;
                }
                sleep(Duration::from_millis(2));
            },
        }
    }
}

/// It is killed, with all that it started, and is gone then.
impl Drop for Worker {
    fn drop(&mut self) {
        if let Body::Program(child) = &mut self.body
            && child.try_wait().is_ok_and(|status| status.is_none())
        {
            // SAFETY: kill(2) of a process group that we made, and whose leader is not waited for.
            unsafe { libc::kill(-libc::pid_t::try_from(child.id()).unwrap(), libc::SIGKILL) };
            let _ = child.wait();
        }
    }
}

impl Contest {
    /// A contest of few, in which some are killed.
    pub(crate) fn of(way: Way) -> Self {
        Self { way, workers: 3, holds: 50, kills: 6, tolerance: None }
    }

    /// Runs it, and judges it.
    #[track_caller]
    pub(crate) fn run(&self, place: &Place) {
        let arena = Arena::new(place.scratch());
        let mut workers = Vec::new();
        for (side, root) in place.roots().iter().enumerate() {
            for number in 0..self.workers {
                let me = format!("{side}.{number}.0");
                let orders = Orders { me, root: root.clone(), arena: arena.path().to_owned() };
                workers.push(Worker::start(self.way, orders));
            }
        }
        let limit = Instant::now() + LIMIT;
        let killed = self.watch(place, &arena, &mut workers, limit);
        arena.note("enough", "");
        let ended = workers.iter_mut().filter_map(|worker| {
            (!worker.finish(limit)).then(|| format!("{} did not end, or failed", worker.orders.me))
        });
        let ended: Vec<_> = ended.collect();
        let said = arena.read("said");
        assert!(ended.is_empty(), "{ended:?}\n{said}\n{}", logs(place));
        let holds = parse(&arena.read("history"));
        let found = violations(&holds);
        assert!(found.is_empty(), "{} violations:\n{}\n{said}", found.len(), found.join("\n"));
        for worker in &workers {
            let me = &worker.orders.me;
            assert!(holds.iter().any(|hold| hold.who == *me), "{me} never got it: {holds:#?}");
        }
        // Who was killed may have raised it or not.
        let raised = holds.iter().filter(|hold| hold.is_exclusive).count();
        let counted = arena.count();
        assert!(counted <= raised && raised <= counted + killed, "{counted} counted, {raised} held it");
        if let Some(tolerance) = self.tolerance {
            let found = overtaken(&holds, tolerance);
            assert!(found.is_empty(), "{} were overtaken:\n{}", found.len(), found.join("\n"));
        }
    }

    /// Kills some, and returns when there was enough of it; how many it killed.
    fn watch(&self, place: &Place, arena: &Arena, workers: &mut [Worker], limit: Instant) -> usize {
        let (mut killed, mut ends_at_last_kill) = (0, 0);
        loop {
            let history = arena.read("history");
            for worker in &mut *workers {
                assert!(!worker.has_ended(), "{} failed:\n{}", worker.orders.me, arena.read("said"));
            }
            let ends = history.lines().filter(|line| line.starts_with("end ")).count();
            let begun = |who: &str| history.lines().any(|line| line.starts_with(&format!("begin {who} ")));
            let all_had_it = workers.iter().all(|worker| begun(&worker.orders.me));
            if ends >= self.holds && killed >= self.kills && all_had_it {
                return killed;
            }
            assert!(
                Instant::now() < limit,
                "it stalled after {ends} holds and {killed} kills:\n{history}\n{}\n{}",
                arena.read("said"),
                state(place)
            );
            if killed < self.kills && ends >= ends_at_last_kill + 3 {
                let holder = if killed % 2 == 0 { holder(&history) } else { None };
                let victim = holder.and_then(|me| workers.iter().position(|worker| worker.orders.me == me));
                let victim = victim.unwrap_or_else(|| Stamp::now().dice(workers.len()));
                replace(self.way, arena, &mut workers[victim]);
                (killed, ends_at_last_kill) = (killed + 1, ends);
            }
            sleep(Duration::from_millis(3));
        }
    }
}

/// Kills a worker, and starts another in its place.
fn replace(way: Way, arena: &Arena, worker: &mut Worker) {
    let mut orders = worker.orders.clone();
    let (place, number) = orders.me.rsplit_once('.').unwrap();
    orders.me = format!("{place}.{}", number.parse::<usize>().unwrap() + 1);
    arena.note("history", &Hold::killed_line(&worker.orders.me));
    let next = Worker::start(way, orders);
    drop(std::mem::replace(worker, next));
}

/// Who holds it, as far as is written.
fn holder(history: &str) -> Option<&str> {
    let mut last = history.lines().rev().map(|line| line.split(' '));
    let mut words = last.next()?;
    if words.next() == Some("begin") { words.next() } else { None }
}

/// What the mounts say of the lock, and of who waits for it.
fn state(place: &Place) -> String {
    let lock = Orders::LOCK;
    let read = |path| fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
    let tell = |tree: &&Tree| {
        let (info, queue) = (tree.path(".lockfs/info").join(lock), tree.path(".wait").join(lock));
        format!("{}\n{}\n{}", read(info), read(queue), tree.log())
    };
    place.trees().iter().map(tell).collect::<Vec<_>>().join("\n--\n")
}

/// What the daemons logged.
pub(crate) fn logs(place: &Place) -> String {
    place.trees().iter().map(|tree| tree.log()).collect::<Vec<_>>().join("\n--\n")
}
