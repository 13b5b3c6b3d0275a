//! What excludes: workers of each kind lock one file on both roots of a place, some are killed while they hold it
//! or wait for it, and no exclusive hold ever overlaps another; nothing stalls, and everybody gets a turn.

use std::process::Command;
use std::time::Duration;

use crate::beside;
use crate::common::programs::{need, need_library};
use crate::contest::Contest;
use crate::ground::{Ground, on_every_ground, on_every_mount};
use crate::puppet::Style;
use crate::workers::Way;

/// By how much one may ask later and still get it first. Between the stamp of who asks and the queue in the store
/// there are a system call, the daemon and Redis, all of which may wait for a busy processor.
const TOLERANCE: Duration = Duration::from_millis(700);

on_every_ground! {
    fn flock_excludes(place) {
        Contest::of(Way::Calls(Style::Flock)).run(&place);
    }

    fn locks_of_processes_exclude(place) {
        Contest::of(Way::Calls(Style::Posix)).run(&place);
    }

    fn locks_of_open_file_descriptions_exclude(place) {
        Contest::of(Way::Calls(Style::Ofd)).run(&place);
    }

    fn flock_1_with_a_command_excludes(place) {
        need("flock");
        Contest::of(Way::Program(|| perl("command"))).run(&place);
    }
}

/// Many of whom each waits for all of the others: 20 holds of 2 to 6 ms are before it, each time.
fn crowd(way: Way) -> Contest {
    let tolerance = Some(TOLERANCE);
    Contest { workers: 10, holds: 200, kills: 10, tolerance, ..Contest::of(way) }
}

on_every_mount! {
    fn flock_is_granted_in_the_order_of_asking(place) {
        crowd(Way::Alone(Style::Flock)).run(&place);
    }
}

/// What one held by its name who was killed is free after its ttl.
#[track_caller]
fn at_the_door(ground: Ground, contest: &Contest) {
    Contest { kills: 3, ..*contest }.run(&ground.lay_with(&["--ttl", "1s"]));
}

#[test]
fn the_door_excludes_in_the_order_of_asking_on_one_mount() {
    at_the_door(Ground::Mount, &crowd(Way::Door));
}

#[test]
fn the_door_excludes_in_the_order_of_asking_over_two_hosts() {
    at_the_door(Ground::Hosts, &crowd(Way::Door));
}

#[test]
fn touch_of_the_door_excludes_on_one_mount() {
    at_the_door(Ground::Mount, &Contest::of(Way::Program(|| perl("door"))));
}

#[test]
fn touch_of_the_door_excludes_over_two_hosts() {
    at_the_door(Ground::Hosts, &Contest::of(Way::Program(|| perl("door"))));
}

fn perl(way: &str) -> Command {
    need("perl");
    let mut command = Command::new("perl");
    command.arg(beside("worker.pl")).arg(way);
    command
}

fn python(way: &str) -> Command {
    need("python3");
    let libraries = need_library("python", "portalocker");
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", libraries).arg(beside("worker.py")).arg(way);
    command
}

#[track_caller]
fn over_two_hosts(program: fn() -> Command) {
    Contest::of(Way::Program(program)).run(&Ground::Hosts.lay());
}

#[test]
fn flock_1_with_a_descriptor_excludes_over_two_hosts() {
    over_two_hosts(|| perl("fd"));
}

#[test]
fn flock_1_with_a_limit_excludes_over_two_hosts() {
    over_two_hosts(|| perl("limit"));
}

#[test]
fn flock_1_that_tries_excludes_over_two_hosts() {
    over_two_hosts(|| perl("try"));
}

#[test]
fn flock_of_perl_excludes_over_two_hosts() {
    over_two_hosts(|| perl("perl"));
}

#[test]
fn file_lock_of_python_excludes_over_two_hosts() {
    over_two_hosts(|| python("filelock"));
}

#[test]
fn portalocker_excludes_over_two_hosts() {
    over_two_hosts(|| python("portalocker"));
}

#[test]
fn portalocker_that_waits_excludes_over_two_hosts() {
    over_two_hosts(|| python("portalocker-that-waits"));
}

#[test]
fn inter_process_lock_of_fasteners_excludes_over_two_hosts() {
    over_two_hosts(|| python("fasteners"));
}

#[test]
fn reader_writer_lock_of_fasteners_excludes_over_two_hosts() {
    over_two_hosts(|| python("fasteners-rw"));
}

#[test]
fn zc_lockfile_excludes_over_two_hosts() {
    over_two_hosts(|| python("zc.lockfile"));
}

#[test]
fn lockf_of_python_excludes_over_two_hosts() {
    over_two_hosts(|| python("lockf"));
}

#[test]
fn ranges_of_bytes_that_overlap_exclude_over_two_hosts() {
    over_two_hosts(|| python("ranges"));
}

#[test]
fn ofd_locks_of_python_exclude_over_two_hosts() {
    over_two_hosts(|| python("ofd"));
}
