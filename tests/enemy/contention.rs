//! 64 at one name: exactly one wins, for each kind of entry.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};

use super::common::job::Job;
use super::common::{Tree, eventually, sys};

const MANY: usize = 64;

/// Ways to acquire the name `goal`; the last two need a lock `own` of the contender's.
type Way = (&'static str, fn(goal: &Path, own: &Path) -> io::Result<()>);

const WAYS: [Way; 6] = [
    ("open", |goal, _| File::create_new(goal).map(drop)),
    ("mkdir", |goal, _| fs::create_dir(goal)),
    ("symlink", |goal, _| symlink("target", goal)),
    ("mknod", |goal, _| sys::mknod(goal, libc::S_IFREG | 0o644)),
    ("link", |goal, own| fs::hard_link(own, goal)),
    ("rename", |goal, own| sys::rename2(own, goal, libc::RENAME_NOREPLACE)),
];

#[test]
fn of_64_threads_exactly_one_wins_for_each_kind_of_entry() {
    let tree = Tree::new();
    for (way, acquire) in WAYS {
        for round in 0..4 {
            let goal = tree.path(format!("{way}-{round}"));
            let (barrier, winners) = (Barrier::new(MANY), AtomicU32::new(0));
            std::thread::scope(|scope| {
                for contender in 0..MANY {
                    let (tree, goal, barrier, winners) = (&tree, &goal, &barrier, &winners);
                    scope.spawn(move || {
                        let own = tree.path(format!("own-{way}-{round}-{contender}"));
                        File::create_new(&own).unwrap();
                        barrier.wait();
                        match acquire(goal, &own) {
                            Ok(()) => drop(winners.fetch_add(1, Ordering::Relaxed)),
                            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EEXIST), "{way}"),
                        }
                    });
                }
            });
            assert_eq!(winners.into_inner(), 1, "{way}");
        }
    }
}

#[test]
fn of_64_processes_exactly_one_wins_for_each_kind_of_entry() {
    let tree = Tree::new();
    let scratch = tree.scratch().to_owned();
    fs::create_dir(scratch.join("results")).unwrap();
    let mut jobs: Vec<Job> = (0..MANY)
        .map(|contender| {
            let (tree, scratch) = (&tree, &scratch);
            Job::start(0, move |turn| {
                turn.pause();
                for (way, acquire) in WAYS {
                    let own = tree.path(format!("own-{way}-{contender}"));
                    File::create_new(&own).unwrap();
                    // All wait at the gate, none asleep.
                    fs::write(scratch.join(format!("results/ready-{way}-{contender}")), "").unwrap();
                    while !scratch.join(format!("gate-{way}")).exists() {
                        std::thread::yield_now();
                    }
                    let result = match acquire(&tree.path(way), &own) {
                        Ok(()) => "won",
                        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => "lost",
                        Err(error) => panic!("{way}: {error}"),
                    };
                    fs::write(scratch.join(format!("results/{result}-{way}-{contender}")), "").unwrap();
                }
            })
        })
        .collect();
    let count = |prefix: &str| {
        let entries = fs::read_dir(scratch.join("results")).unwrap();
        entries
            .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with(prefix))
            .count()
    };
    jobs.iter_mut().for_each(Job::go);
    for (way, _) in WAYS {
        eventually("all are at the gate", || count(&format!("ready-{way}-")) == MANY);
        File::create_new(scratch.join(format!("gate-{way}"))).unwrap();
        let [won, lost] = [format!("won-{way}-"), format!("lost-{way}-")];
        eventually("all have tried", || count(&won) + count(&lost) == MANY);
        assert_eq!(count(&won), 1, "{way}");
    }
    jobs.iter_mut().for_each(Job::listen);
}

#[test]
fn a_lock_excludes_over_many_rounds() {
    // A counter outside of the mount, raised by whoever holds the lock: none is lost, no two are inside.
    let tree = Tree::new();
    let counter = tree.scratch().join("counter");
    fs::write(&counter, "0").unwrap();
    let (rounds, workers) = (100, 4);
    let mut jobs: Vec<Job> = (0..workers)
        .map(|_| {
            let (tree, counter) = (&tree, &counter);
            Job::start(0, move |turn| {
                turn.pause();
                for _ in 0..rounds {
                    while File::create_new(tree.path("lock")).is_err() {
                        std::thread::yield_now();
                    }
                    let count: u32 = fs::read_to_string(counter).unwrap().parse().unwrap();
                    fs::write(counter, (count + 1).to_string()).unwrap();
                    fs::remove_file(tree.path("lock")).unwrap();
                }
            })
        })
        .collect();
    jobs.iter_mut().for_each(Job::go);
    jobs.iter_mut().for_each(Job::listen);
    assert_eq!(fs::read_to_string(&counter).unwrap(), (rounds * workers).to_string());
}
