//! hook: what agents are told before they edit.

use std::fs;
use std::path::{Path, PathBuf};

use crate::naming::repository;
use crate::servers::redis::RedisServer;
use crate::world::*;

const URL: &str = "git@example.org:team/app.git";
const NAME: &str = "repo/example.org/team/app";

/// A mount, and two clones of one repository.
pub(crate) fn two_clones() -> (World, [PathBuf; 2]) {
    let world = World::mounted();
    let clones = ["a", "b"].map(|name| repository(&world, name, Some(URL)));
    (world, clones)
}

fn acquire(world: &World, session: &str, files: &[&Path]) -> Said {
    let files = files.iter().map(|file| file.to_str().unwrap());
    world.lockfs(&["hook", "acquire", "--session", session].into_iter().chain(files).collect::<Vec<_>>())
}

#[test]
fn two_agents_do_not_edit_one_file() {
    let (world, [a, b]) = two_clones();
    acquire(&world, "s1", &[&a.join("src/main.rs")]).succeeds_silently();
    acquire(&world, "s1", &[&a.join("src/main.rs")]).succeeds_silently();
    let parts = ["is held by root@", "session s1", "lockfs why", "lockfs break", "src/main.rs"];
    acquire(&world, "s2", &[&b.join("src/main.rs")]).fails(1, &parts);
    acquire(&world, "s2", &[&b.join("src/lib.rs")]).succeeds_silently();
    world.lockfs(&["hook", "release", "--session", "s1"]).succeeds_silently();
    acquire(&world, "s2", &[&b.join("src/main.rs")]).succeeds_silently();
    for session in ["s1", "s2"] {
        world.lockfs(&["hook", "release", "--session", session]).succeeds_silently();
        assert!(!world.path(".sessions").join(session).exists());
    }
    // The kernel may know a directory for a second longer.
    eventually("the directories go with the last session", || !world.path("repo").exists());
}

#[test]
fn an_agent_gets_all_of_the_files_or_none() {
    let (world, [a, b]) = two_clones();
    acquire(&world, "s1", &[&a.join("b")]).succeeds_silently();
    acquire(&world, "s2", &[&b.join("c"), &b.join("a"), &b.join("b")]).fails(1, &["/b is being edited"]);
    assert!(!world.path(NAME).join("a").exists());
    acquire(&world, "s2", &[&b.join("c"), &b.join("a"), &b.join("a")]).succeeds_silently();
    acquire(&world, "s2", &[&b.join("a"), &b.join("b")]).fails(1, &[]);
    assert!(world.path(NAME).join("a").exists(), "what it had before it has still");
}

#[test]
fn a_lock_above_or_below_is_in_the_way_too() {
    let (world, [a, b]) = two_clones();
    acquire(&world, "s1", &[&a.join("module")]).succeeds_silently();
    acquire(&world, "s2", &[&b.join("module/part")]).fails(1, &["below repo/", "session s1"]);
    acquire(&world, "s1", &[&a.join("deep/part")]).succeeds_silently();
    acquire(&world, "s2", &[&b.join("deep")]).fails(69, &["a directory of locks has its name"]);
}

#[test]
fn a_crashed_agent_keeps_nothing_and_a_live_one_all() {
    let world = World::new();
    world.mount(&["--ttl", "2s"]).succeeds_silently();
    let clone = repository(&world, "a", Some(URL));
    let file = clone.join("x");
    acquire(&world, "dead", &[&file]).succeeds_silently();
    acquire(&world, "live", &[&clone.join("y")]).succeeds_silently();
    eventually("the lock of the dead is free", || {
        world.lockfs(&["hook", "renew", "--session", "live"]).succeeds_silently();
        acquire(&world, "other", &[&file]).code == 0
    });
    let events = fs::read_to_string(world.path(".lockfs/events")).unwrap();
    assert!(events.contains("expire session=dead") && !events.contains("expire session=live"), "{events}");
    acquire(&world, "third", &[&clone.join("y")]).fails(1, &["session live"]);
}

#[test]
fn a_lock_gets_the_ttl_that_its_agent_asks_for() {
    let (world, [a, _]) = two_clones();
    let file = a.join("x");
    let words = ["hook", "acquire", "--session", "s", "--ttl", "30m", file.to_str().unwrap()];
    world.lockfs(&words).succeeds_silently();
    let ttl = || world.lockfs(&["why", &format!("{NAME}/x")]).stdout;
    assert!(ttl().contains("nobody has renewed session s for 30m"), "{}", ttl());
}

#[test]
fn what_nobody_knows_is_not_free() {
    let world = World::new();
    let clone = repository(&world, "a", Some(URL));
    let file = clone.join("x");
    acquire(&world, "s", &[&file]).fails(69, &["nobody knows", "no lockfs is mounted"]);
    world.mount(&[]).succeeds_silently();
    let git = clone.join(".git/config");
    fs::write(&git, "[broken").unwrap();
    acquire(&world, "s", &[&file]).fails(69, &["nobody knows", "cannot tell which repository"]);
    fs::write(&git, "").unwrap();
    // The daemon stands still: no answer at all.
    let daemon = world.daemon();
    kill("STOP", &daemon);
    let words = ["hook", "--limit", "1s", "acquire", "--session", "s", file.to_str().unwrap()];
    let said = world.lockfs(&words);
    kill("CONT", &daemon);
    said.fails(69, &["no answer within 1s"]);
    // The daemon is gone, and its mount is there.
    kill("KILL", &daemon);
    eventually("the mount is dead", || fs::metadata(world.point()).is_err());
    acquire(&world, "s", &[&file]).fails(69, &["nobody knows"]);
}

#[test]
fn a_store_that_is_gone_is_not_free() {
    let mut server = RedisServer::start();
    let world = World::new();
    world.mount(&["--backend", "redis", "--redis-url", &server.url()]).succeeds_silently();
    let clone = repository(&world, "a", Some(URL));
    acquire(&world, "s", &[&clone.join("x")]).succeeds_silently();
    server.kill();
    for session in ["s", "other"] {
        acquire(&world, session, &[&clone.join("x")]).fails(69, &["nobody knows"]);
    }
}

#[test]
fn an_odd_session_of_an_agent_is_a_session_all_the_same() {
    let (world, [a, b]) = two_clones();
    let odd = "../../x y\u{e9}";
    acquire(&world, odd, &[&a.join("x")]).succeeds_silently();
    acquire(&world, "../../x-y\u{e9}", &[&b.join("x")]).fails(1, &["session agent-"]);
    world.lockfs(&["hook", "release", "--session", odd]).succeeds_silently();
    eventually("it has ended", || !world.path(NAME).exists());
}

#[test]
fn agents_on_two_machines_do_not_edit_one_file() {
    let server = RedisServer::start();
    let [one, other] = ["dev1", "dev2"].map(|host| {
        let world = World::new();
        let words = ["--backend", "redis", "--redis-url", &server.url(), "--host-id", host];
        world.mount(&words).succeeds_silently();
        let clone = repository(&world, "clone", Some(URL));
        (world, clone)
    });
    acquire(&one.0, "s1", &[&one.1.join("src/x")]).succeeds_silently();
    acquire(&other.0, "s2", &[&other.1.join("src/x")]).fails(1, &["held by root@dev1, session s1"]);
    one.0.lockfs(&["hook", "release", "--session", "s1"]).succeeds_silently();
    acquire(&other.0, "s2", &[&other.1.join("src/x")]).succeeds_silently();
}

/// Sessions begin and end all the time, and with them the directories that lead to the locks.
#[test]
fn agents_that_come_and_go_exclude_each_other_and_never_know_nothing() {
    const AGENTS: usize = 4;
    const ROUNDS: usize = 12;
    let (world, [clone, _]) = two_clones();
    let inside = world.dir.path().join("inside");
    let granted: usize = std::thread::scope(|scope| {
        let agents = (0..AGENTS).map(|agent| {
            let (world, clone, inside) = (&world, &clone, &inside);
            scope.spawn(move || {
                let session = format!("s{agent}");
                let mut granted = 0;
                for _ in 0..ROUNDS {
                    match acquire(world, &session, &[&clone.join("deep/er/x")]) {
                        Said { code: 0, .. } => {
                            fs::create_dir(inside).expect("nobody else is inside");
                            fs::remove_dir(inside).unwrap();
                            granted += 1;
                        }
                        said => said.fails(1, &["is being edited by another", "is held by root@"]),
                    }
                    world.lockfs(&["hook", "release", "--session", &session]).succeeds_silently();
                }
                granted
            })
        });
        let agents: Vec<_> = agents.collect();
        agents.into_iter().map(|agent| agent.join().unwrap()).sum()
    });
    assert!(granted >= ROUNDS, "{granted} of {} tries", AGENTS * ROUNDS);
    acquire(&world, "last", &[&clone.join("deep/er/x")]).succeeds_silently();
}

#[test]
fn agents_of_two_users_exclude_each_other() {
    let world = World::mounted();
    world.lockfs_as_nobody(&["--version"]).succeeds();
    let [file, other] = ["x", "y"].map(|name| world.dir.path().join(name).to_str().unwrap().to_owned());
    world.lockfs(&["hook", "acquire", "--session", "roots", &file]).succeeds_silently();
    let acquire = |file: &str| world.lockfs_as_nobody(&["hook", "acquire", "--session", "anybodys", file]);
    acquire(&file).fails(1, &["held by root@", "session roots"]);
    // In a directory that the other one made.
    acquire(&other).succeeds_silently();
    world.lockfs(&["hook", "release", "--session", "roots"]).succeeds_silently();
    acquire(&file).succeeds_silently();
    world.lockfs(&["hook", "acquire", "--session", "roots", &other]).fails(1, &["session anybodys"]);
    world
        .lockfs_as_nobody(&["hook", "acquire", "--session", "roots", &file])
        .fails(69, &["cannot begin its session"]);
}
