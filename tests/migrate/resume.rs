//! What was stopped anywhere, goes on or is taken back.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::signal;
use crate::servers::redis::RedisServer;
use crate::world::*;

/// How many locks are moved: a second or so.
const LOCKS: usize = 4_000;

/// How often the command is killed at most before it may come to its end.
const KILLS: usize = 12;

/// How long a whole run takes, on stores that are thrown away.
fn span(from: &str, to: &str) -> Duration {
    let start = Instant::now();
    migrate(from, to).has_moved();
    start.elapsed()
}

/// Runs it again and again, killed each time after a while; says how often it was.
fn killed(from: &str, to: &str, span: Duration, chance: &mut Chance) -> usize {
    for kills in 0..KILLS {
        let mut child = start(from, to);
        let micros = u64::try_from(span.as_micros()).unwrap();
        sleep(Duration::from_micros(chance.below(micros + micros / 4)));
        child.kill().unwrap();
        if child.wait().unwrap().signal().is_none() {
            return kills;
        }
    }
    KILLS
}

#[test]
fn killed_at_any_point_and_run_again_it_ends_in_the_same_state_both_ways() {
    let (server, scratch) = (RedisServer::start(), RedisServer::start());
    let (dir, pattern) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut chance = Chance::new();
    stock(dir.path(), LOCKS);
    stock(pattern.path(), LOCKS);
    let forth = span(&level(pattern.path()), &scratch.url());
    let back = span(&scratch.url(), &level(&pattern.path().join("back")));
    let digest = |said: Said| said.succeeds().value("source").to_owned();
    let (here, there) = (level(dir.path()), server.url());
    let before = digest(migrate_with(&here, &there, "--dry-run"));
    let kills = killed(&here, &there, forth, &mut chance);
    println!("killed {kills} times on the way to redis");
    // It has ended by itself, or does now.
    migrate(&here, &there).succeeds();
    assert_eq!(migrate_with(&here, &there, "--verify").succeeds().value("target"), before);
    let again = level(&dir.path().join("again"));
    let kills = killed(&there, &again, back, &mut chance);
    println!("killed {kills} times on the way back");
    migrate(&there, &again).succeeds();
    assert_eq!(migrate_with(&there, &again, "--verify").succeeds().value("target"), before);
}

#[test]
fn a_copy_that_was_changed_while_it_was_not_complete_is_made_anew() {
    let server = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    stock(dir.path(), LOCKS);
    let mut child = start(&level(dir.path()), &server.url());
    crate::common::eventually("some have been copied", || {
        server.command(&["HLEN", "lockfs:{default}:o"]).parse::<usize>().unwrap() > LOCKS / 4
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let tamper = "local key = 'lockfs:{default}:o' local ino = redis.call('HKEYS', key)[7] \
                  local text = redis.call('HGET', key, ino) \
                  redis.call('HSET', key, ino, string.sub(text, 1, 11) .. '\\1' .. string.sub(text, 13)) return 1";
    server.command(&["EVAL", tamper, "0"]);
    migrate(&level(dir.path()), &server.url()).has_moved();
}

#[test]
fn rolled_back_from_any_point_the_target_has_what_it_had_and_the_source_goes_on() {
    let (server, scratch) = (RedisServer::start(), RedisServer::start());
    let pattern = tempfile::tempdir().unwrap();
    stock(pattern.path(), LOCKS);
    let forth = span(&level(pattern.path()), &scratch.url());
    let (mut here, mut there) = (on_level(), on_redis(&server));
    stock(&here.data_dir(), LOCKS);
    another_second();
    there.mount();
    there.run("mkdir kept; touch kept/theirs; setfattr -n user.lock.ttl -v never kept/theirs");
    there.unmount();
    let (from, to) = (level(&here.data_dir()), server.url());
    // What is idle is begun anew by whoever needs it, and goes.
    let mut chance = Chance::new();
    let before = dump(&server);
    let mut took_back = 0;
    while took_back < 4 {
        let mut child = start(&from, &to);
        sleep(Duration::from_micros(chance.below(u64::try_from(forth.as_micros()).unwrap())));
        child.kill().unwrap();
        if child.wait().unwrap().signal().is_none() {
            // It was quicker: back by a move, which ends the experiment.
            break;
        }
        let said = migrate_with(&from, &to, "--rollback");
        if said.code == Some(1) {
            // It was killed after its end.
            said.fails(1, "that migration is finished");
            break;
        }
        said.succeeds();
        assert_eq!(dump(&server), before);
        took_back += 1;
        here.mount();
        assert!(here.path("d0/lock-7").exists());
        fs::remove_dir(here.path(".sessions/agent-0")).unwrap();
        assert!(!here.path("d0/lock-7").exists());
        fs::create_dir(here.path(".sessions/agent-0")).unwrap();
        fs::File::create_new(here.path(".sessions/agent-0/d0/lock-7")).unwrap();
        here.unmount();
    }
    println!("taken back {took_back} times");
}

#[test]
fn interrupted_it_says_what_to_do_and_what_it_moves_goes_on() {
    let server = RedisServer::start();
    let mut here = on_level();
    stock(&here.data_dir(), LOCKS);
    here.mount();
    let (from, to) = (level(&here.data_dir()), server.url());
    let mut command = command(&["--from", &from, "--to", &to]);
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = child.spawn().unwrap();
    crate::common::eventually("some have been copied", || {
        server.command(&["HLEN", "lockfs:{default}:o"]).parse::<usize>().unwrap() > LOCKS / 4
    });
    signal(child.id(), libc::SIGINT);
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{err}");
    assert!(err.lines().last().unwrap().contains("run it again to go on, or with --rollback"), "{err}");
    fs::File::create_new(here.path("new")).unwrap();
    let said = ended(&mut on_redis(&server).mount_command());
    said.fails(69, "it is being filled from leveldb:///");
    migrate(&from, &to).has_moved();
}
