//! Stores that can't be reached, are full or damaged, or are the same: one line, the usual exit codes, and no harm.

use std::fs;
use std::os::unix::fs::FileExt;

use crate::common::{Tree, eventually};
use crate::servers::redis::{Persistence, RedisServer};
use crate::world::*;

#[test]
fn a_wrong_password_is_said_and_none_is_shown() {
    let (server, other) =
        (RedisServer::options().password("right").start(), RedisServer::options().password("other").start());
    let dir = tempfile::tempdir().unwrap();
    stock(dir.path(), 20);
    let from = level(dir.path());
    let url = |server: &RedisServer| format!("redis://127.0.0.1:{}/0", server.port());
    let (wrong, right, second) =
        (dir.path().join("wrong"), dir.path().join("right"), dir.path().join("second"));
    fs::write(&wrong, "hunter2\n").unwrap();
    fs::write(&right, "right\n").unwrap();
    fs::write(&second, "other\n").unwrap();
    let with = |file: &std::path::Path| {
        run(&["--from", &from, "--to", &url(&server), "--to-password-file", file.to_str().unwrap()])
    };
    let said = with(&wrong).fails(69, "redis://127.0.0.1:");
    assert!(!said.err.contains("hunter2"), "{said:?}");
    migrate(&from, &url(&server)).fails(69, "redis://127.0.0.1:");
    let typed = format!("redis://:hunter2@127.0.0.1:{}/0", server.port());
    let said = migrate(&from, &typed).fails(64, "--to: there is a password in it");
    assert!(!said.err.contains("hunter2"), "{said:?}");
    with(&right).has_moved();
    // Two servers, two passwords.
    let (right, second) = (right.to_str().unwrap(), second.to_str().unwrap());
    let (here, there) = (url(&server), url(&other));
    let args = ["--from", &here, "--to", &there, "--from-password-file", right, "--to-password-file", second];
    run(&args).has_moved();
    // One of them may come from the environment.
    let mut command = command(&["--from", &there, "--to", &level(&dir.path().join("back"))]);
    ended(command.env("REDIS_PASSWORD", "other")).has_moved();
}

#[test]
fn a_redis_whose_memory_is_full_is_left_as_it_was_by_rollback_or_goes_on_when_it_has_more() {
    let server = RedisServer::start();
    let mut here = on_level();
    stock(&here.data_dir(), 4_000);
    here.mount();
    let (from, to) = (level(&here.data_dir()), server.url());
    // The library has to be there, or there is no room for it.
    migrate_with(&from, &to, "--rollback").succeeds();
    let used: u64 = server
        .command(&["INFO", "memory"])
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    server.command(&["CONFIG", "SET", "maxmemory", &(used + (700 << 10)).to_string()]);
    migrate(&from, &to).fails(69, "its memory is full (maxmemory)");
    fs::File::create_new(here.path("goes-on")).unwrap();
    migrate_with(&from, &to, "--rollback").succeeds();
    assert_eq!(server.command(&["HLEN", "lockfs:{default}:o"]), "1");
    migrate(&from, &to).fails(69, "its memory is full (maxmemory)");
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    migrate(&from, &to).has_moved();
}

#[test]
fn a_damaged_leveldb_is_refused_as_everywhere() {
    let server = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    stock(dir.path(), 250);
    let segment = fs::read_dir(dir.path().join("default"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("journal-"))
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap();
    let file = fs::File::options().write(true).open(&segment).unwrap();
    file.write_all_at(b"damaged", 5_000).unwrap();
    for (from, to) in [(level(dir.path()), server.url()), (server.url(), level(dir.path()))] {
        if from == server.url() {
            // Something must be there to be moved.
            let other = tempfile::tempdir().unwrap();
            stock(other.path(), 10);
            migrate(&level(other.path()), &server.url()).has_moved();
        }
        migrate(&from, &to).fails(78, "is damaged: ");
    }
}

#[test]
fn one_store_is_not_moved_to_itself_by_whatever_name() {
    let server = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    stock(dir.path(), 20);
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(dir.path(), &link).unwrap();
    migrate(&level(dir.path()), &level(dir.path())).fails(64, "are the same store");
    migrate(&level(dir.path()), &level(&link)).fails(64, "are the same store");
    migrate(&level(dir.path()), &server.url()).has_moved();
    let before = dump(&server);
    migrate(&server.url(), &server.url()).fails(64, "are the same store");
    migrate(&server.url(), &server.unix_url()).fails(64, "are the same store");
    assert_eq!(dump(&server), before);
    // Another namespace of it is another store.
    let other = format!("{}?namespace=other", server.url());
    migrate(&server.url(), &other).has_moved();
}

#[test]
fn what_is_not_there_is_said_and_not_made() {
    let server = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    migrate(&level(&absent), &server.url()).fails(1, "holds no lockfs store");
    migrate(&server.url(), &level(&absent)).fails(1, "there is nothing to move at redis://");
    assert!(!absent.exists());
    assert_eq!(server.command(&["DBSIZE"]), "0");
    stock(dir.path(), 10);
    migrate(&level(dir.path()), "redis://127.0.0.1:1/0").fails(69, "127.0.0.1:1");
    migrate(&level(dir.path()), "hybrid:").fails(64, "name the redis");
    migrate(&level(dir.path()), "/var/lib").fails(64, "leveldb:///DIRECTORY");
}

#[test]
fn a_mounted_leveldb_is_not_filled() {
    let server = RedisServer::start();
    let mut here = on_level();
    let other = tempfile::tempdir().unwrap();
    stock(other.path(), 10);
    migrate(&level(other.path()), &server.url()).has_moved();
    another_second();
    here.mount();
    migrate(&server.url(), &level(&here.data_dir())).fails(69, "is in use by pid");
    fs::File::create_new(here.path("goes-on")).unwrap();
    here.unmount();
    migrate(&server.url(), &level(&here.data_dir())).has_moved();
}

#[test]
fn a_target_that_dies_in_the_middle_does_not_stop_the_source() {
    let mut server = RedisServer::start();
    let mut here = on_level();
    stock(&here.data_dir(), 4_000);
    here.mount();
    let mut child = start(&level(&here.data_dir()), &server.url());
    eventually("some have been copied", || {
        server.command(&["HLEN", "lockfs:{default}:o"]).parse::<usize>().unwrap() > 1_000
    });
    server.kill();
    assert_eq!(child.wait().unwrap().code(), Some(69));
    fs::File::create_new(here.path("goes-on")).unwrap();
    // It has forgotten all of it: it is filled from the start.
    server.restart_empty();
    migrate(&level(&here.data_dir()), &server.url()).has_moved();
}

#[test]
fn the_rights_that_the_readme_names_are_enough_on_both_sides() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let start = readme.find("ACL SETUSER lockfs").expect("the readme says which rights");
    let rights = &readme[start..start + readme[start..].find("```").unwrap()];
    let words: Vec<&str> = rights.split_whitespace().skip(3).collect();
    let user = format!("user lockfs on {}", words[1..].join(" ").replace(">PASSWORD", ">secret"));
    let start = || RedisServer::options().users(&[&user]).start();
    let (server, other) = (start(), start());
    let dir = tempfile::tempdir().unwrap();
    stock(dir.path(), 250);
    let url = |server: &RedisServer| format!("redis://lockfs@127.0.0.1:{}/0", server.port());
    let with =
        |from: &str, to: &str| ended(command(&["--from", from, "--to", to]).env("REDIS_PASSWORD", "secret"));
    with(&level(dir.path()), &url(&server)).has_moved();
    with(&url(&server), &url(&other)).has_moved();
    with(&url(&other), &level(&dir.path().join("back"))).has_moved();
}

#[test]
fn a_mirror_that_did_things_by_itself_is_not_filled_until_its_redis_has_heard_of_them() {
    let mut server = RedisServer::options().persistence(Persistence::AofAlways).start();
    let other = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    stock(dir.path(), 20);
    migrate(&level(dir.path()), &other.url()).has_moved();
    let url = server.url();
    let options = ["--host-id", "h0", "--backend", "hybrid", "--on-outage", "local", "--redis-url", &url];
    let mut here = Tree::unmounted(&options, &QUICK);
    here.mount();
    eventually("the mirror has all", || here.status("mirrored") == "1");
    server.kill();
    eventually("it stands alone", || here.status("mode") == "alone");
    fs::File::create_new(here.path("alone")).unwrap();
    here.unmount();
    migrate(&other.url(), &level(&here.data_dir())).fails(1, "did things by itself");
    migrate(&level(&here.data_dir()), &other.url()).fails(1, "move from that redis");
    server.restart();
    here.mount();
    eventually("redis decides", || here.status("mode") == "cluster" && here.status("owed") == "0");
    assert!(here.path("alone").exists());
    here.unmount();
    migrate(&server.url(), &level(&here.data_dir())).has_moved();
}
