//! Stores that nobody has mounted.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{LOCKFS, Tree, eventually, sys};
use crate::servers::clock::ServerClock;
use crate::servers::redis::RedisServer;
use crate::world::*;

#[test]
fn everything_goes_over_as_it_is_and_comes_back_so_and_tokens_rise() {
    let server = RedisServer::start();
    let (mut here, mut there) = (on_level(), on_redis(&server));
    here.mount();
    furnish(&here);
    let before = facts(&here);
    here.unmount();
    let said = migrate(&level(&here.data_dir()), &server.url()).has_moved();
    assert!(said.value("source").contains("directories=6 "), "{said:?}");
    there.mount();
    same(&there, &before);
    let file = fs::File::create_new(there.path("new")).unwrap();
    assert!(token(&there, "new") > highest(&before));
    drop(file);
    let before = facts(&there);
    there.unmount();
    migrate(&server.url(), &level(&here.data_dir())).has_moved();
    here.mount();
    same(&here, &before);
    fs::File::create_new(here.path("newer")).unwrap();
    assert!(token(&here, "newer") > highest(&before));
}

#[test]
fn a_token_given_after_the_move_is_above_all_before_it_whatever_the_clocks_say() {
    let server = RedisServer::start();
    let (mut there, mut back) = (on_redis(&server), on_level());
    let dir = tempfile::tempdir().unwrap();
    // Each opening begins an epoch, and epochs are seconds or more: these are far ahead of the clock.
    stock_in_epochs(dir.path(), 10, 40);
    migrate(&level(dir.path()), &server.url()).has_moved();
    there.mount();
    let before = highest(&facts(&there));
    fs::File::create_new(there.path("new")).unwrap();
    let given = token(&there, "new");
    assert!(given > before, "{given} after {before}");
    there.unmount();
    migrate(&server.url(), &level(&back.data_dir())).has_moved();
    back.mount();
    fs::File::create_new(back.path("newer")).unwrap();
    assert!(token(&back, "newer") > given);
}

#[test]
fn what_has_moved_is_not_mounted_any_more_and_says_where_it_is() {
    let server = RedisServer::start();
    let mut here = on_level();
    here.mount();
    fs::write(here.path("a"), "").unwrap();
    here.unmount();
    migrate(&level(&here.data_dir()), &server.url()).has_moved();
    let said = ended(&mut here.mount_command());
    let said = said.fails(1, "these locks have moved to redis://127.0.0.1:");
    assert!(said.err.contains("lockfs migrate"), "{said:?}");
    let check = Command::new(LOCKFS).arg("check").arg("--data-dir").arg(here.data_dir()).output().unwrap();
    let said = String::from_utf8(check.stdout).unwrap();
    assert!(
        check.status.success() && said.contains("\nclosed: these locks have moved to redis://"),
        "{said}"
    );
    // And the other way.
    migrate(&server.url(), &level(&here.data_dir())).has_moved();
    let said = ended(&mut on_redis(&server).mount_command());
    said.fails(69, "these locks have moved to leveldb:///");
    here.mount();
    assert!(here.path("a").exists());
}

#[test]
fn moved_again_it_says_so_and_does_nothing() {
    let server = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    stock(dir.path(), 250);
    migrate(&level(dir.path()), &server.url()).has_moved();
    let before = dump(&server);
    for option in [&[][..], &["--dry-run"]] {
        let said = run(&[&["--from", &level(dir.path()), "--to", &server.url()], option].concat());
        assert_eq!(said.succeeds().value("state"), "moved before");
    }
    assert_eq!(dump(&server), before);
}

#[test]
fn a_dry_run_says_what_would_be_moved_and_changes_nothing() {
    let (server, other) = (RedisServer::start(), RedisServer::start());
    let dir = tempfile::tempdir().unwrap();
    stock(dir.path(), 250);
    let files = |dir: &Path| {
        let mut files: Vec<_> = fs::read_dir(dir.join("default"))
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| path.is_file())
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        files.sort();
        files
    };
    let before = files(dir.path());
    let said = migrate_with(&level(dir.path()), &server.url(), "--dry-run").succeeds();
    assert_eq!(said.value("state"), "would be moved");
    assert!(said.value("source").starts_with("locks=250 directories=3 sessions=25 "), "{said:?}");
    assert_eq!(files(dir.path()), before);
    assert_eq!(server.command(&["DBSIZE"]), "0");
    migrate(&level(dir.path()), &server.url()).has_moved();
    let before = dump(&server);
    let absent = dir.path().join("absent");
    migrate_with(&server.url(), &level(&absent), "--dry-run").succeeds();
    migrate_with(&server.url(), &other.url(), "--dry-run").succeeds();
    assert_eq!((dump(&server), absent.exists(), other.command(&["DBSIZE"]).as_str()), (before, false, "0"));
}

#[test]
fn the_digest_is_of_what_is_kept_and_not_of_the_store() {
    let (server, other) = (RedisServer::start(), RedisServer::start());
    let dir = tempfile::tempdir().unwrap();
    stock(dir.path(), 1_200);
    let first = migrate(&level(dir.path()), &server.url()).has_moved();
    let second = migrate(&server.url(), &other.url()).has_moved();
    let third = migrate(&other.url(), &level(&dir.path().join("third"))).has_moved();
    assert_eq!(first.value("source"), second.value("target"));
    assert_eq!(first.value("source"), third.value("target"));
}

#[test]
fn a_record_that_somebody_changed_is_named_by_verify() {
    let server = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    stock(dir.path(), 250);
    migrate(&level(dir.path()), &server.url()).has_moved();
    let said = migrate_with(&level(dir.path()), &server.url(), "--verify").succeeds();
    assert_eq!((said.value("state"), said.value("different")), ("the same", "0"));
    // One bit of a mode, in a record that is whole otherwise.
    let tamper = "local key = 'lockfs:{default}:o' local all = redis.call('HKEYS', key) local ino = all[7] \
                  local text = redis.call('HGET', key, ino) local mode = string.byte(text, 12) \
                  mode = mode % 2 == 0 and mode + 1 or mode - 1 \
                  redis.call('HSET', key, ino, string.sub(text, 1, 11) .. string.char(mode) .. string.sub(text, 13)) \
                  return 1";
    server.command(&["EVAL", tamper, "0"]);
    let said = migrate_with(&level(dir.path()), &server.url(), "--verify");
    assert_eq!((said.code, said.value("state"), said.value("different")), (Some(1), "different", "1"));
    assert!(said.value("differs").starts_with("inode "), "{said:?}");
    assert_ne!(said.value("source"), said.value("target"));
}

#[test]
fn what_is_left_of_a_ttl_goes_with_the_lock_whatever_the_clocks_say() {
    let clock = ServerClock::shifted(0);
    let server = RedisServer::options().clock(&clock).start();
    let other = RedisServer::start();
    let mut here = on_redis(&server);
    here.mount();
    // Its job has ended, so that nobody renews it.
    here.run("touch f; setfattr -n user.lock.ttl -v 1000 f");
    eventually("its job has ended", || {
        fs::read_to_string(here.path(".lockfs/info/f")).unwrap().contains("state: ended")
    });
    here.unmount();
    clock.shift(300_000_000);
    migrate(&server.url(), &other.url()).has_moved();
    let mut there = on_redis(&other);
    there.mount();
    let left: u64 = sys::getxattr(there.path("f"), "user.lock.ttl").unwrap().parse().unwrap();
    assert!((600..=700).contains(&left), "{left}");
}

/// A job, outside of the tree, that does what it is told: it holds what it acquires.
struct Worker {
    child: std::process::Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Worker {
    fn start() -> Self {
        let mut command = Command::new("bash");
        command.arg("-c").arg("while read -r line; do eval \"$line\" 2>&1; echo \"$?\"; done");
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child =
            command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Whether a line of shell did what it should.
    fn does(&mut self, line: &str) -> bool {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
        let mut answer = String::new();
        loop {
            answer.clear();
            assert!(self.lines.read_line(&mut answer).unwrap() > 0);
            if let Ok(code) = answer.trim().parse::<i32>() {
                return code == 0;
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Sets the backend as the environment does, and mounts.
fn mount_as(tree: &mut Tree, backend: &str) {
    tree.set("FILE_LOCK_CACHE_BACKEND", backend);
    tree.mount();
}

#[test]
fn another_backend_and_a_restart_keep_every_lock_that_was_moved_and_its_holder_can_release_it() {
    let server = RedisServer::start();
    let mut tree = Tree::unmounted(&["--host-id", "h0"], &QUICK);
    tree.set("REDIS_URL", &server.url());
    let (here, there) = (level(&tree.data_dir()), server.url());
    mount_as(&mut tree, "leveldb");
    let root = tree.root();
    let mut holder = Worker::start();
    for name in ["a", "b", "c", "d"] {
        assert!(holder.does(&format!("(set -C; : > {}/{name})", root.display())));
    }
    let is_held = |tree: &Tree, name: &str| fs::File::create_new(tree.path(name)).is_err();
    let held = facts(&tree);
    // Forward in two steps, and back in one.
    for (backend, moves, released) in [
        ("redis", Some((&here, &there)), "a"),
        ("hybrid", None, "b"),
        ("leveldb", Some((&there, &here)), "c"),
    ] {
        let before = facts(&tree);
        tree.unmount();
        if let Some((from, to)) = moves {
            migrate(from, to).has_moved();
        }
        mount_as(&mut tree, backend);
        same(&tree, &before);
        assert!(is_held(&tree, released), "{backend}");
        assert!(holder.does(&format!("rm {}/{released}", root.display())), "{backend}: {}", tree.log());
        fs::File::create_new(tree.path("new")).unwrap();
        assert!(token(&tree, "new") > highest(&held), "{backend}");
        fs::remove_file(tree.path("new")).unwrap();
    }
    assert!(is_held(&tree, "d"));
}
