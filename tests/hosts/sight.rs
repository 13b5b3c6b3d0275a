//! What one host does the others see, at once: there is one tree, and every mount shows it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::Arc;
use std::time::Duration;

use lockfs::clock::SystemClock;
use lockfs::store::redis::{Acks, Endpoint, Options, RedisStore};
use lockfs::store::{LockStore, Tenure, Value};

use crate::cluster::Hosts;
use crate::common::job::{Job, in_job};
use crate::common::{LOCKFS, Tree, errno, eventually, sys};
use crate::servers::redis::RedisServer;

const ALICE: u32 = 1001;
const BOB: u32 = 1002;

fn two_hosts() -> Hosts {
    Hosts::new(2)
}

fn get(tree: &Tree, path: &str, name: &str) -> io::Result<String> {
    sys::getxattr(tree.path(path), &format!("user.lock.{name}"))
}

fn token(tree: &Tree, path: &str) -> u64 {
    get(tree, path, "token").unwrap().parse().unwrap()
}

fn list(tree: &Tree, path: &str) -> Vec<String> {
    let entries = fs::read_dir(tree.path(path)).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A job of a host that creates `name` and pauses; it goes on with `then`.
fn holder(tree: &Tree, uid: u32, name: &str, then: impl FnOnce()) -> Job {
    Job::start(uid, |turn| {
        File::create_new(tree.path(name)).unwrap();
        turn.pause();
        then();
    })
}

#[test]
fn what_one_host_makes_the_other_lists() {
    let hosts = two_hosts();
    let [a, b] = hosts.pair();
    for round in 0..20 {
        let name = format!("f{round}");
        File::create_new(a.path(&name)).unwrap();
        assert!(list(b, "").contains(&name));
        fs::remove_file(a.path(&name)).unwrap();
        assert!(!list(b, "").contains(&name) && !b.path(&name).exists());
    }
    fs::create_dir(a.path("d")).unwrap();
    assert_eq!(list(b, "d"), [""; 0]);
    symlink("there", a.path("d/l")).unwrap();
    assert_eq!(list(b, "d"), ["l"]);
    assert_eq!(fs::read_link(b.path("d/l")).unwrap().as_os_str(), "there");
}

#[test]
fn what_one_host_holds_the_other_does_not_get() {
    let hosts = two_hosts();
    let [a, b] = hosts.pair();
    let _holder = holder(a, 0, "f", || {});
    assert_eq!(errno(File::create_new(b.path("f"))), libc::EEXIST);
    assert_eq!(errno(fs::create_dir(b.path("f"))), libc::EEXIST);
    assert_eq!(errno(symlink("x", b.path("f"))), libc::EEXIST);
    File::create_new(b.path("own")).unwrap();
    assert_eq!(errno(fs::hard_link(b.path("own"), b.path("f"))), libc::EEXIST);
    let moved = sys::rename2(b.path("own"), b.path("f"), libc::RENAME_NOREPLACE);
    assert_eq!(errno(moved), libc::EEXIST);
    assert_eq!(errno(fs::rename(b.path("own"), b.path("f"))), libc::EPERM);
}

#[test]
fn all_that_is_said_of_a_lock_is_the_same_on_both() {
    let hosts = two_hosts();
    let [a, b] = hosts.pair();
    let _holder = holder(a, ALICE, "f", || {});
    for name in ["owner", "session", "token", "host", "pid", "command", "since", "scope", "state", "expires"]
    {
        assert_eq!(get(a, "f", name).unwrap(), get(b, "f", name).unwrap(), "{name}");
    }
    assert_eq!(get(b, "f", "host").unwrap(), "h0");
    assert!(get(b, "f", "owner").unwrap().ends_with("@h0"));
    assert!(get(b, "f", "session").unwrap().starts_with("h0-"));
    let cat = |tree: &Tree| fs::read_to_string(tree.path("f")).unwrap();
    assert_eq!(cat(a), cat(b));
    assert!(cat(b).contains("@h0 "), "{}", cat(b));
    let stat = |tree: &Tree| {
        let stat = fs::symlink_metadata(tree.path("f")).unwrap();
        (stat.ino(), stat.mode(), stat.uid(), stat.nlink(), stat.size(), stat.mtime_nsec(), stat.ctime_nsec())
    };
    assert_eq!(stat(a), stat(b));
}

#[test]
fn link_counts_and_numbers_are_true_on_every_host() {
    let hosts = two_hosts();
    let [a, b] = hosts.pair();
    let stat = |tree: &Tree, name: &str| {
        let stat = fs::metadata(tree.path(name)).unwrap();
        (stat.ino(), stat.nlink())
    };
    in_job(0, || {
        drop(File::create_new(a.path("f")).unwrap());
        let (number, links) = stat(b, "f");
        assert_eq!(links, 1);
        fs::hard_link(a.path("f"), a.path("g")).unwrap();
        assert_eq!([stat(b, "f"), stat(b, "g")], [(number, 2); 2]);
        fs::remove_file(a.path("f")).unwrap();
        assert_eq!(stat(b, "g"), (number, 1));
        fs::create_dir(a.path("d")).unwrap();
        assert_eq!(stat(b, "d").1, 2);
        fs::create_dir(a.path("d/e")).unwrap();
        eventually("the other sees the link", || stat(b, "d").1 == 3);
    });
}

#[test]
fn what_is_written_and_changed_is_seen() {
    let hosts = two_hosts();
    let [a, b] = hosts.pair();
    in_job(0, || {
        for note in ["first", "second\nline\n", ""] {
            fs::write(a.path("f"), note).unwrap();
            assert_eq!(fs::metadata(b.path("f")).unwrap().len(), note.len() as u64);
            if !note.is_empty() {
                assert_eq!(fs::read_to_string(b.path("f")).unwrap(), note);
            }
        }
        fs::set_permissions(a.path("f"), Permissions::from_mode(0o604)).unwrap();
        sys::utimens(a.path("f"), (1, 2), (12, 345_678_901)).unwrap();
        let stat = fs::metadata(b.path("f")).unwrap();
        assert_eq!((stat.mode() & 0o7777, stat.mtime(), stat.mtime_nsec()), (0o604, 12, 345_678_901));
        sys::setxattr(a.path("f"), "user.lock.ttl", b"90", 0).unwrap();
        let left: u64 = get(b, "f", "ttl").unwrap().parse().unwrap();
        assert!((1..=90).contains(&left), "{left}");
    });
}

#[test]
fn a_reader_of_another_host_sees_what_is_written_after_it_opened() {
    let hosts = two_hosts();
    let [a, b] = hosts.pair();
    fs::write(a.path("f"), "old").unwrap();
    let file = File::open(b.path("f")).unwrap();
    fs::write(a.path("f"), "newer").unwrap();
    assert_eq!(io::read_to_string(file).unwrap(), "newer");
}

#[test]
fn a_lock_is_not_removed_from_another_host_while_its_job_lives_and_is_once_it_has_ended() {
    let hosts = two_hosts();
    let [a, b] = hosts.pair();
    let holder = holder(a, ALICE, "f", || {});
    in_job(ALICE, || assert_eq!(errno(fs::remove_file(b.path("f"))), libc::EPERM));
    in_job(ALICE, || assert_eq!(errno(sys::touch(b.path("f"))), libc::EBUSY));
    holder.kill();
    eventually("its host has marked it", || get(b, "f", "state").unwrap() == "ended");
    in_job(BOB, || assert_eq!(errno(fs::remove_file(b.path("f"))), libc::EPERM));
    in_job(ALICE, || fs::remove_file(b.path("f")).unwrap());
    assert!(!a.path("f").exists());
}

#[test]
fn a_session_of_one_host_is_listed_and_ended_on_the_other() {
    let hosts = two_hosts();
    let [a, b] = hosts.pair();
    fs::create_dir(a.path(".sessions/agent")).unwrap();
    File::create_new(a.path(".sessions/agent/x")).unwrap();
    fs::create_dir(a.path(".sessions/agent/d")).unwrap();
    File::create_new(a.path(".sessions/agent/d/y")).unwrap();
    assert_eq!(list(b, ".sessions"), ["agent"]);
    assert_eq!(list(b, ".sessions/agent"), ["d", "x"]);
    File::create_new(b.path(".sessions/agent/z")).unwrap();
    assert_eq!(list(a, ".sessions/agent"), ["d", "x", "z"]);
    fs::remove_dir(b.path(".sessions/agent")).unwrap();
    for tree in [a, b] {
        assert_eq!(list(tree, ""), [".lockfs", ".sessions", ".wait"]);
        assert_eq!(list(tree, ".sessions"), [""; 0]);
    }
}

#[test]
fn mv_hands_over_from_one_host_to_the_other() {
    let hosts = two_hosts();
    let [a, b] = hosts.pair();
    fs::create_dir(a.path(".sessions/giver")).unwrap();
    File::create_new(a.path(".sessions/giver/x")).unwrap();
    File::create_new(a.path(".sessions/giver/y")).unwrap();
    fs::create_dir(b.path(".sessions/heir")).unwrap();
    let before = [token(b, "x"), token(b, "y")];
    fs::rename(b.path(".sessions/giver/x"), b.path(".sessions/heir/x")).unwrap();
    assert_eq!([get(a, "x", "session").unwrap(), get(a, "y", "session").unwrap()], ["heir", "giver"]);
    assert!(token(a, "x") > before[0]);
    fs::rename(b.path(".sessions/giver"), b.path(".sessions/heir")).unwrap();
    assert_eq!(list(a, ".sessions"), ["heir"]);
    assert_eq!(list(a, ".sessions/heir"), ["x", "y"]);
    assert!(token(a, "y") > before[1]);
}

#[test]
fn a_lock_is_broken_from_another_host_and_its_holder_is_told() {
    let hosts = two_hosts();
    let [a, b] = hosts.pair();
    let mut old = Job::start(0, |turn| {
        let file = File::create_new(a.path("f")).unwrap();
        turn.pause();
        assert_eq!(errno(io::Write::write(&mut &file, b"x")), libc::ESTALE);
        assert_eq!(errno(fs::remove_file(a.path("f"))), libc::ESTALE);
    });
    let before = token(b, "f");
    let wrong = (before + 1).to_string();
    assert_eq!(errno(sys::setxattr(b.path("f"), "user.lock.break", wrong.as_bytes(), 0)), libc::ESTALE);
    sys::setxattr(b.path("f"), "user.lock.break", before.to_string().as_bytes(), 0).unwrap();
    assert!(!a.path("f").exists());
    let _new = holder(b, 0, "f", || {});
    old.resume();
    assert!(token(a, "f") > before);
}

#[test]
fn expiry_is_seen_on_both() {
    let hosts = Hosts::with(2, &["--ttl", "1s"], &[]);
    let [a, b] = hosts.pair();
    in_job(0, || drop(File::create_new(a.path("f")).unwrap()));
    assert!(b.path("f").exists());
    eventually("it expired", || !b.path("f").exists());
    assert!(!a.path("f").exists());
    for tree in [a, b] {
        eventually("it is told", || {
            let events = fs::read_to_string(tree.path(".lockfs/events")).unwrap();
            events.lines().any(|line| line.contains(" expire ") && line.ends_with(" path=f"))
        });
    }
}

#[test]
fn the_events_of_both_are_the_same_in_the_same_order() {
    let hosts = two_hosts();
    let [a, b] = hosts.pair();
    std::thread::scope(|scope| {
        for tree in [a, b] {
            scope.spawn(move || {
                for round in 0..20 {
                    let name = tree.path(format!("{}-{round}", tree.status("host")));
                    File::create_new(&name).unwrap();
                    fs::remove_file(&name).unwrap();
                }
            });
        }
    });
    let events = |tree: &Tree| fs::read_to_string(tree.path(".lockfs/events")).unwrap();
    for tree in [a, b] {
        eventually("all are heard", || events(tree).matches(" release ").count() == 40);
    }
    assert_eq!(events(a), events(b));
    assert_eq!(events(a).matches(" acquire ").count(), 40);
}

#[test]
fn a_host_that_comes_later_tells_the_recent_history_too() {
    let hosts = two_hosts();
    in_job(0, || {
        drop(File::create_new(hosts[0].path("f")).unwrap());
        fs::remove_file(hosts[0].path("f")).unwrap();
    });
    let mut late = hosts.prepare("late", &[], &[]);
    late.mount();
    let events = |tree: &Tree| fs::read_to_string(tree.path(".lockfs/events")).unwrap();
    eventually("it tells all", || events(&late) == events(&hosts[0]));
    assert_eq!(events(&late).lines().count(), 2);
}

#[test]
fn events_of_another_host_reach_a_tail_f() {
    let hosts = two_hosts();
    let [a, b] = hosts.pair();
    let mut file = File::open(b.path(".lockfs/events")).unwrap();
    let mut text = String::new();
    File::create_new(a.path("f")).unwrap();
    eventually("the reader sees it", || {
        io::Read::read_to_string(&mut file, &mut text).unwrap();
        text.contains(" path=f\n")
    });
}

#[test]
fn a_lock_stays_its_hosts_over_a_kill_of_its_daemon_while_its_job_lives() {
    let mut hosts = two_hosts();
    let root = hosts[0].path("f");
    let mut holder = holder(&hosts[0], 0, "f", || fs::remove_file(root).unwrap());
    let before = token(&hosts[1], "f");
    hosts.host(0).kill();
    assert_eq!(errno(File::create_new(hosts[1].path("f"))), libc::EEXIST);
    in_job(0, || assert_eq!(errno(fs::remove_file(hosts[1].path("f"))), libc::EPERM));
    hosts.host(0).mount();
    assert_eq!([token(&hosts[0], "f"), token(&hosts[1], "f")], [before; 2]);
    in_job(0, || assert_eq!(errno(fs::remove_file(hosts[1].path("f"))), libc::EPERM));
    holder.resume();
    assert!(!hosts[1].path("f").exists());
}

#[test]
fn a_lock_outlives_its_ttl_over_a_kill_of_its_daemon_while_its_job_lives() {
    let mut hosts = Hosts::with(2, &["--ttl", "3s"], &[]);
    let _holder = holder(&hosts[0], 0, "f", || {});
    hosts.host(0).kill();
    hosts.host(0).mount();
    let before = token(&hosts[1], "f");
    // Nobody renews it: what it would be gone with, had it not been taken up.
    in_job(0, || drop(File::create_new(hosts[1].path("control")).unwrap()));
    eventually("a ttl has passed", || !hosts[1].path("control").exists());
    assert_eq!(token(&hosts[1], "f"), before);
}

#[test]
fn what_a_job_held_that_ended_while_its_host_had_no_daemon_is_marked_by_the_next() {
    let mut hosts = two_hosts();
    let holder = holder(&hosts[0], 0, "f", || {});
    hosts.host(0).kill();
    holder.kill();
    assert_eq!(get(&hosts[1], "f", "state").unwrap(), "held");
    hosts.host(0).mount();
    eventually("it is marked", || get(&hosts[1], "f", "state").unwrap() == "ended");
}

#[test]
fn unmounting_a_host_keeps_its_locks_while_their_job_lives() {
    let mut hosts = two_hosts();
    let root = hosts[0].path("f");
    let mut holder = Job::start(0, |turn| {
        drop(File::create_new(&root).unwrap());
        turn.pause();
        fs::remove_file(&root).unwrap();
    });
    hosts.host(0).unmount();
    assert_eq!(errno(File::create_new(hosts[1].path("f"))), libc::EEXIST);
    in_job(0, || assert_eq!(errno(fs::remove_file(hosts[1].path("f"))), libc::EPERM));
    eventually("it is one host less", || hosts[1].status("hosts") == "1");
    hosts.host(0).mount();
    in_job(0, || assert_eq!(errno(fs::remove_file(hosts[1].path("f"))), libc::EPERM));
    holder.resume();
    assert!(!hosts[1].path("f").exists());
}

#[test]
fn status_counts_the_hosts() {
    let hosts = two_hosts();
    for (number, tree) in hosts.trees().iter().enumerate() {
        assert_eq!(tree.status("host"), format!("h{number}"));
        eventually("each knows of both", || tree.status("hosts") == "2");
        let output = std::process::Command::new(LOCKFS).arg("status").arg(tree.root()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).lines().any(|line| line == "hosts: 2"), "{output:?}");
    }
}

// What the server answered when it founded a namespace was taken for a time. It is random: every fourth one is a
// moment in 1970, and leases count from there.
#[test]
fn a_namespace_that_was_just_founded_shows_no_drift_of_clocks() {
    let server = RedisServer::start();
    for number in 0..40 {
        let options = Options {
            endpoint: Endpoint::parse(&server.unix_url()).unwrap(),
            acks: Acks::default(),
            namespace: format!("n{number}"),
            host: "h0".to_owned(),
            machine: "machine".to_owned(),
            owner: (0, 0),
            state: None,
            tenure: Tenure::begin().expect("random numbers"),
            window: Duration::from_secs(300),
        };
        let store = RedisStore::open(&options, Arc::new(SystemClock)).unwrap();
        let facts = store.health().facts;
        let drift = &facts.iter().find(|fact| fact.key == "clock_drift").unwrap().value;
        assert!(matches!(drift, Value::Seconds(drift) if drift.abs() < 60.0), "{drift}");
    }
}

#[test]
fn a_name_of_a_host_that_another_machine_has_is_refused() {
    let hosts = two_hosts();
    let key = |name: &str| format!("lockfs:{{{}}}:{name}", crate::cluster::NAMESPACE);
    let clock = hosts.redis.command(&["TIME"]);
    let (seconds, micros) = clock.split_once('\n').unwrap();
    let now = (seconds.parse::<u64>().unwrap() * 1_000_000 + micros.parse::<u64>().unwrap()).to_string();
    hosts.redis.command(&["HSET", &key("hosts"), "taken", "another/machine taken:0123456789abcdef"]);
    hosts.redis.command(&["ZADD", &key("seen"), &now, "taken"]);
    let output = hosts.prepare("taken", &[], &[]).mount_command().output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("another machine is called taken in this namespace"), "{said}");
    assert!(said.contains("say --host-id"), "{said}");
    let mut other = hosts.prepare("free", &[], &[]);
    other.mount();
    assert!(other.path("").exists());
}
