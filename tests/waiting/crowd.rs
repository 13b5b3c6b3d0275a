//! 1,000 who wait for one lock: while nothing happens they cost nothing, and afterwards each has it once.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::{self, Builder, sleep};
use std::time::{Duration, Instant};

use crate::common::{Tree, eventually};
use crate::fork::{fork, reap};
use crate::ground::{Ground, Place};
use crate::history::Stamp;
use crate::holders::wait_for_waiters;
use crate::puppet::Mode::{Exclusive, None as Unlocked};
use crate::puppet::{Puppet, Style};
use crate::shared::Shared;
use crate::workers::wait_for;

/// How many wait.
const WAITERS: usize = 1_000;

/// How many processes they are the threads of.
const PROCESSES: usize = 10;

/// For how long nothing happens.
const WINDOW: Duration = Duration::from_secs(3);

/// So that in each window there are renewals.
const TTL: &str = "9s";

/// What they did.
#[derive(Debug, Default)]
struct Report {
    inside: AtomicU32,
    overlaps: AtomicU32,
    had_it: AtomicU32,
}

/// How often each command was called, since Redis started. What functions call is counted too.
fn commands(place: &mut Place) -> BTreeMap<String, u64> {
    let said: String = place.hosts().redis.query(&["INFO", "commandstats"]).unwrap();
    let lines = said.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="));
    let count = |text: &str| text.split(',').next().unwrap().parse().unwrap();
    lines.map(|(name, rest)| (name.to_owned(), count(rest))).collect()
}

/// What was called in a window in which nothing happens, but the question itself.
fn traffic(place: &mut Place) -> BTreeMap<String, u64> {
    let before = commands(place);
    sleep(WINDOW);
    let after = commands(place);
    let used = |(name, count): (String, u64)| {
        let more = count - before.get(&name).copied().unwrap_or(0);
        (name != "info" && more > 0).then_some((name, more))
    };
    after.into_iter().filter_map(used).collect()
}

/// The calls that daemons make: what else there is, their functions call.
fn round_trips(traffic: &BTreeMap<String, u64>) -> u64 {
    let of_daemons = ["fcall", "fcall_ro", "xread", "ping", "function|load", "wait", "multi", "exec", "eval"];
    of_daemons.iter().filter_map(|name| traffic.get(*name)).sum()
}

/// The processor time of a daemon, in ticks of 10 ms.
fn ticks(tree: &Tree) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", tree.pid())).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[test]
fn a_thousand_waiters_are_silent_and_each_gets_it_once() {
    let mut place = Ground::Hosts.lay_with(&["--ttl", TTL]);
    let owner = Puppet::new(&place.here());
    let f = owner.open("f");
    owner.try_lock(f, Style::Flock, Exclusive).unwrap();
    let alone = traffic(&mut place);
    let report = Shared::new(Report::default());
    let roots = place.roots();
    let pids: Vec<_> =
        (0..PROCESSES).map(|number| fork(None, || crowd(&roots[number % 2], &report))).collect();
    wait_for_waiters(place.trees()[0], "f", WAITERS);
    let before: Vec<u64> = place.trees().iter().map(|tree| ticks(tree)).collect();
    let crowded = traffic(&mut place);
    let after: Vec<u64> = place.trees().iter().map(|tree| ticks(tree)).collect();
    println!("alone: {alone:?}\nwith {WAITERS} who wait: {crowded:?}\nticks: {before:?} to {after:?}");
    assert_eq!(report.had_it.load(SeqCst), 0, "it is another's");
    // One batch for each host, and what a loaded machine does a moment later: a crowd that asks makes thousands.
    let (few, many) = (round_trips(&alone), round_trips(&crowded));
    assert!(many <= few + 8, "{few} calls without waiters, {many} with {WAITERS}");
    let began = Instant::now();
    owner.try_lock(f, Style::Flock, Unlocked).unwrap();
    for pid in pids {
        assert_eq!(reap(pid), 0, "a process of the crowd failed");
    }
    println!("all had it once within {:?}", began.elapsed());
    assert_eq!(report.overlaps.load(SeqCst), 0);
    assert_eq!(report.had_it.load(SeqCst) as usize, WAITERS);
    eventually("nobody waits any more", || owner.try_lock(f, Style::Flock, Exclusive).is_ok());
}

/// A part of the crowd: threads of one process, each with an open file of its own.
fn crowd(root: &std::path::Path, report: &Report) {
    thread::scope(|scope| {
        for _ in 0..WAITERS / PROCESSES {
            let wait = || {
                let file = OpenOptions::new().read(true).write(true).open(root.join("f")).unwrap();
                wait_for(&file, Style::Flock, Exclusive).unwrap();
                if report.inside.fetch_add(1, SeqCst) != 0 {
                    report.overlaps.fetch_add(1, SeqCst);
                }
                std::hint::black_box(Stamp::now());
                report.inside.fetch_sub(1, SeqCst);
                report.had_it.fetch_add(1, SeqCst);
            };
            Builder::new().stack_size(64 * 1024).spawn_scoped(scope, wait).unwrap();
        }
    });
}
