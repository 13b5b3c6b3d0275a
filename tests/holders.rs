//! Holders: a lock lives as long as its job, and one ttl longer, whatever ends the job or the daemon.

mod common;

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use common::job::{Job, in_job};
use common::{Tree, eventually, signal, sys};

/// A ttl that tests can outlive.
const SHORT: [&str; 2] = ["--ttl", "1s"];

/// More than twice that.
const LONG: Duration = Duration::from_millis(2_300);

/// Lets time pass; nothing else is waited for.
fn pass(span: Duration) {
    let end = Instant::now() + span;
    eventually("time has passed", || Instant::now() >= end);
}

fn get(tree: &Tree, path: &str, name: &str) -> String {
    sys::getxattr(tree.path(path), &format!("user.lock.{name}")).unwrap()
}

fn holding(tree: &Tree, path: &str) -> Job {
    Job::start(0, |turn| {
        drop(File::create_new(tree.path(path)).unwrap());
        turn.pause();
        fs::remove_file(tree.path(path)).unwrap();
    })
}

#[test]
fn a_lock_lives_as_long_as_its_job() {
    let tree = Tree::with(&SHORT);
    let mut holder = holding(&tree, "f");
    let token = get(&tree, "f", "token");
    pass(LONG);
    assert_eq!(get(&tree, "f", "token"), token);
    holder.resume();
    assert!(!tree.path("f").exists());
}

#[test]
fn all_locks_of_a_job_live_as_long_as_it() {
    let tree = Tree::with(&SHORT);
    let _holder = tree.holder("mkdir d; for i in {1..300}; do > d/$i; done");
    pass(LONG);
    assert_eq!(fs::read_dir(tree.path("d")).unwrap().count(), 300);
}

#[test]
fn a_lock_ends_one_ttl_after_its_job_was_killed() {
    let tree = Tree::with(&SHORT);
    let holder = holding(&tree, "f");
    pass(LONG);
    holder.kill();
    let killed = Instant::now();
    eventually("it expired", || !tree.path("f").exists());
    // It was last seen alive up to a third of a ttl before.
    let lived = killed.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_millis(1_600)).contains(&lived), "{lived:?}");
    eventually("it was swept", || tree.status("expired") == "1");
}

#[test]
fn a_lock_of_a_job_that_is_over_at_once_lives_for_its_ttl() {
    let tree = Tree::with(&SHORT);
    let before = Instant::now();
    assert!(tree.run("> f").status.success());
    assert!(tree.path("f").exists());
    eventually("it expired", || !tree.path("f").exists());
    let lived = before.elapsed();
    assert!((Duration::from_millis(950)..Duration::from_millis(1_600)).contains(&lived), "{lived:?}");
}

#[test]
fn a_job_lives_while_it_has_a_process_though_its_leader_has_gone() {
    let tree = Tree::with(&SHORT);
    let child = tree.run("> f; sleep 60 < /dev/null > /dev/null 2>&1 & echo $!");
    let child: u32 = String::from_utf8(child.stdout).unwrap().trim().parse().unwrap();
    pass(LONG);
    assert_eq!(get(&tree, "f", "state"), "held");
    signal(child, libc::SIGKILL);
    eventually("it expired", || !tree.path("f").exists());
}

#[test]
fn a_job_whose_only_process_waits_to_be_reaped_has_ended() {
    let tree = Tree::with(&SHORT);
    let mut command = tree.shell("> f");
    let mut child = command.spawn().unwrap();
    eventually("it acquired", || tree.path("f").exists());
    eventually("its zombie keeps nothing", || !tree.path("f").exists());
    assert_eq!(child.wait().unwrap().into_raw(), 0);
}

#[test]
fn the_end_of_a_job_is_marked_within_a_second() {
    let tree = Tree::new();
    let holder = holding(&tree, "f");
    assert_eq!(get(&tree, "f", "state"), "held");
    holder.kill();
    let killed = Instant::now();
    eventually("it is marked", || get(&tree, "f", "state") == "ended");
    assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
}

#[test]
fn an_open_descriptor_keeps_the_lock_of_an_ended_job() {
    let tree = Tree::with(&SHORT);
    let script = "exec 9> f; setsid sleep 60 < /dev/null > /dev/null 2>&1 & echo $!";
    let child: u32 = String::from_utf8(tree.run(script).stdout).unwrap().trim().parse().unwrap();
    pass(LONG);
    assert!(tree.path("f").exists());
    signal(child, libc::SIGKILL);
    eventually("it expired, closed", || !tree.path("f").exists());
}

#[test]
fn a_ttl_of_never_outlives_its_job() {
    let tree = Tree::with(&["--ttl", "0"]);
    in_job(0, || drop(File::create_new(tree.path("f")).unwrap()));
    eventually("it is marked", || get(&tree, "f", "state") == "ended");
    assert_eq!((get(&tree, "f", "ttl"), get(&tree, "f", "expires")), ("never".into(), "never".into()));
}

#[test]
fn a_shorter_ttl_than_the_others_is_renewed_in_time() {
    let tree = Tree::new();
    let _holder = Job::start(0, |turn| {
        for name in ["short", "long"] {
            drop(File::create_new(tree.path(name)).unwrap());
        }
        sys::setxattr(tree.path("short"), "user.lock.ttl", b"800ms", 0).unwrap();
        turn.pause();
    });
    pass(LONG);
    assert!(tree.path("short").exists());
}

#[test]
fn a_job_that_acquires_again_after_a_rest_is_renewed_again() {
    let tree = Tree::with(&SHORT);
    let _holder = Job::start(0, |turn| {
        drop(File::create_new(tree.path("f")).unwrap());
        fs::remove_file(tree.path("f")).unwrap();
        turn.pause();
    });
    let mut second = Job::start(0, |turn| {
        turn.pause();
        drop(File::create_new(tree.path("g")).unwrap());
        turn.pause();
    });
    pass(Duration::from_millis(1_500));
    second.resume();
    pass(LONG);
    assert!(tree.path("g").exists());
}

// A daemon that starts again.

#[test]
fn a_killed_daemon_takes_up_living_jobs() {
    let mut tree = Tree::with(&SHORT);
    let mut holder = holding(&tree, "f");
    let before = ["token", "session", "since"].map(|name| get(&tree, "f", name));
    tree.kill();
    tree.mount();
    assert_eq!(["token", "session", "since"].map(|name| get(&tree, "f", name)), before);
    pass(LONG);
    assert_eq!(get(&tree, "f", "state"), "held");
    holder.resume();
    assert!(!tree.path("f").exists());
}

#[test]
fn a_daemon_that_was_told_to_end_takes_up_living_jobs() {
    let mut tree = Tree::with(&SHORT);
    let mut holder = holding(&tree, "f");
    tree.unmount();
    tree.mount();
    pass(LONG);
    assert_eq!(get(&tree, "f", "state"), "held");
    holder.resume();
    assert!(!tree.path("f").exists());
}

#[test]
fn a_daemon_marks_the_jobs_that_ended_while_it_was_away() {
    let mut tree = Tree::new();
    let [ended, living] = ["ended", "living"].map(|path| holding(&tree, path));
    tree.kill();
    ended.kill();
    tree.mount();
    assert_eq!(get(&tree, "ended", "state"), "ended");
    assert_eq!(get(&tree, "living", "state"), "held");
    drop(living);
}

#[test]
fn the_time_without_a_daemon_does_not_count() {
    let mut tree = Tree::with(&SHORT);
    let mut holder = holding(&tree, "living");
    in_job(0, || drop(File::create_new(tree.path("ended")).unwrap()));
    tree.unmount();
    pass(LONG);
    tree.mount();
    assert!(tree.path("ended").exists());
    eventually("it expired, seen by the new daemon", || !tree.path("ended").exists());
    holder.resume();
    assert!(!tree.path("living").exists());
}

#[test]
fn a_daemon_takes_up_named_sessions() {
    let mut tree = Tree::with(&["--ttl", "2s"]);
    fs::create_dir(tree.path(".sessions/agent")).unwrap();
    drop(File::create_new(tree.path(".sessions/agent/f")).unwrap());
    pass(Duration::from_millis(1_500));
    tree.kill();
    tree.mount();
    pass(Duration::from_millis(1_000));
    assert_eq!(get(&tree, "f", "session"), "agent");
    eventually("it expires all the same", || !tree.path("f").exists());
}

#[test]
fn everything_of_a_lock_is_there_after_a_restart() {
    let mut tree = Tree::with(&["--host-id", "dev1"]);
    let _holder = tree.holder_as(
        1000,
        "mkdir -m 750 d; setfattr -n user.lock.default_ttl -v 77s d; echo note > d/f; chmod 604 d/f; \
         ln d/f d/g; ln -s target l; mkdir x.lock; touch -d @1000000000.123456789 d d/f",
    );
    let facts = |tree: &Tree| {
        let stats = "stat -c '%n %A %u %g %h %i %s %Y %.9Y %.9X' d d/f d/g l x.lock; readlink l; cat d/f";
        let xattrs = "; getfattr -d d d/f x.lock | grep -v 'lock.ttl=\\|lock.expires='";
        String::from_utf8(tree.run(&format!("{stats}{xattrs}")).stdout).unwrap()
    };
    let before = facts(&tree);
    assert!(before.contains("1000000000.123456789") && before.contains("default_ttl=\"77\""), "{before}");
    tree.kill();
    tree.mount();
    assert_eq!(facts(&tree), before);
    tree.unmount();
    tree.mount();
    assert_eq!(facts(&tree), before);
}
