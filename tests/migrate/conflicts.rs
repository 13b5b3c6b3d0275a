//! What the target has already.

use std::fs;
use std::process::Command;

use crate::common::{Tree, eventually};
use crate::servers::redis::RedisServer;
use crate::world::*;

/// A tree of another host on a Redis.
fn of_another(server: &RedisServer) -> Tree {
    let url = server.url();
    Tree::unmounted(&["--host-id", "h1", "--backend", "redis", "--redis-url", &url], &QUICK)
}

#[test]
fn a_lock_that_another_holds_there_is_named_and_nothing_is_moved() {
    let server = RedisServer::start();
    let (mut here, mut there) = (on_level(), of_another(&server));
    here.mount();
    another_second();
    there.mount();
    here.run("mkdir d; touch a d/b mine");
    let holder = there.holder("mkdir d; touch d/b theirs");
    here.unmount();
    let (from, to) = (level(&here.data_dir()), server.url());
    // Its mount goes on, and renews what it has: what stands where, and who holds it, is as it was.
    let standing = || {
        let dump = dump(&server);
        let is_of_names = |line: &&str| [":d:", ":l:", ":h:", ":before"].iter().any(|key| line.contains(key));
        dump.split(" | ").filter(is_of_names).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = standing();
    for option in [&["--dry-run"][..], &[]] {
        let said = run(&[&["--from", &from, "--to", &to], option].concat());
        let what = format!(
            "in the way at redis://127.0.0.1:{}/0 (namespace default): d/b (root@h1 bash[",
            server.port()
        );
        said.fails(1, &what);
        assert_eq!(standing(), before);
    }
    // Both go on.
    fs::File::create_new(there.path("new")).unwrap();
    here.mount();
    fs::File::create_new(here.path("new-too")).unwrap();
    assert!(here.path("mine").exists() && here.path("d/b").exists());
    drop(holder);
}

#[test]
fn what_the_target_has_besides_stays_and_directories_of_one_name_are_one() {
    let server = RedisServer::start();
    let (mut here, mut there) = (on_level(), of_another(&server));
    here.mount();
    another_second();
    there.mount();
    here.run("mkdir d d/e; touch d/a d/e/deep only-here");
    let holder = there.holder("mkdir d; touch d/b only-there");
    let said = migrate(&level(&here.data_dir()), &server.url()).has_moved();
    // d, d/b, only-there and the session that holds them.
    assert_eq!(said.value("others_in_target"), "4");
    for name in ["d/a", "d/b", "d/e/deep", "only-here", "only-there"] {
        eventually(name, || there.path(name).exists());
        assert!(fs::File::create_new(there.path(name)).is_err(), "{name}");
    }
    assert_eq!(fs::read_dir(there.path("d")).unwrap().count(), 3);
    fs::File::create_new(there.path("d/e/new")).unwrap();
    drop(holder);
}

#[test]
fn what_an_earlier_migration_left_there_is_not_in_the_way() {
    let server = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    stock(dir.path(), 250);
    // Somebody puts back the source from a backup.
    let backup = dir.path().join("backup");
    let copied = Command::new("cp").arg("-a").arg(dir.path().join("default")).arg(&backup).status().unwrap();
    assert!(copied.success());
    migrate(&level(dir.path()), &server.url()).has_moved();
    fs::remove_dir_all(dir.path().join("default")).unwrap();
    fs::rename(&backup, dir.path().join("default")).unwrap();
    let said = migrate(&level(dir.path()), &server.url()).has_moved();
    assert!(said.value("source").starts_with("locks=0 "), "{said:?}");
}

#[test]
fn what_is_locked_by_flock_can_not_be_moved_and_is_named() {
    let server = RedisServer::start();
    for there in [false, true] {
        let target = tempfile::tempdir().unwrap();
        let mut here = if there { on_redis(&server) } else { on_level() };
        here.mount();
        here.run("mkdir d");
        let (from, to) = match there {
            true => (server.url(), level(target.path())),
            false => (level(&here.data_dir()), level(target.path())),
        };
        let holder = here.holder("exec 9> d/file; flock 9");
        migrate(&from, &to).fails(1, "has flock or fcntl locks on d/file, which can't be moved");
        fs::File::create_new(here.path("goes-on")).unwrap();
        holder.kill();
        eventually("nobody has it any more", || migrate_with(&from, &to, "--dry-run").code == Some(0));
        migrate(&from, &to).has_moved();
    }
}

#[test]
fn what_has_moved_elsewhere_is_neither_moved_nor_filled() {
    let (server, other) = (RedisServer::start(), RedisServer::start());
    let (dir, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    stock(dir.path(), 20);
    stock(second.path(), 20);
    migrate(&level(dir.path()), &server.url()).has_moved();
    migrate(&level(dir.path()), &other.url()).fails(1, "these locks have moved to redis://");
    migrate(&level(second.path()), &level(dir.path())).fails(1, "these locks have moved to redis://");
    migrate_with(&level(dir.path()), &server.url(), "--rollback").fails(1, "that migration is finished");
    let said = migrate_with(&level(second.path()), &other.url(), "--rollback").succeeds();
    assert_eq!(said.value("state"), "nothing to take back");
}
