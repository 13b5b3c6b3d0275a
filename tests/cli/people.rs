//! who and why: what people ask of locks.

use std::fs;
use std::os::unix::process::CommandExt;

use crate::naming::{git, repository};
use crate::servers::redis::RedisServer;
use crate::world::*;

#[test]
fn who_shows_sessions_and_what_they_hold() {
    let world = World::mounted();
    let holder = world.hold("deploy");
    world.lockfs(&["session", "begin", "agent-7"]).succeeds_silently();
    world.lockfs(&["session", "begin", "idle"]).succeeds_silently();
    fs::create_dir(world.path("build")).unwrap();
    fs::write(world.path(".sessions/agent-7/build/web"), "").unwrap();
    let said = world.lockfs(&["who"]).succeeds().stdout;
    let line = |start: &str| {
        said.lines().position(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {said}"))
    };
    let agent = line("agent-7  root@");
    let lines: Vec<_> = said.lines().collect();
    assert!(
        lines[agent].ends_with("  1 lock") && lines[line("idle  root@")].ends_with("  0 locks"),
        "{said}"
    );
    assert!(
        lines[agent + 1].starts_with("  build/web  since ") && lines[agent + 1].contains("expires in "),
        "{said}"
    );
    let job = line("  deploy  ") - 1;
    assert!(lines[job].contains(&format!("lockfs[{}]", holder.0.id())), "{said}");
    let only = |words: &[&str]| world.lockfs(words).succeeds().stdout;
    assert!(!only(&["who", "--session", "agent-7"]).contains("deploy"));
    assert!(!only(&["who", "build"]).contains("idle"));
    assert_eq!(only(&["who", "nothing/here"]), "");
    assert_eq!(only(&["who", "--user", "nobody-at-all"]), "");
    assert!(only(&["who", "--user", "root"]).contains("deploy"));
    let json = only(&["who", "--json", "build"]);
    assert!(
        json.contains("{\"session\":\"agent-7\",\"owner\":\"root@")
            && json.contains("\"path\":\"build/web\""),
        "{json}"
    );
}

#[test]
fn who_shows_each_who_has_a_file_locked() {
    let world = World::mounted();
    let path = world.path("shared");
    let mut command = std::process::Command::new("flock");
    command.args(["-s", "--no-fork"]).arg(&path).args(["sleep", "1000"]).process_group(0);
    let _flock = Holder(command.stderr(std::process::Stdio::piped()).spawn().unwrap());
    eventually("it is locked", || world.lockfs(&["who"]).stdout.contains("  shared  flock shared"));
}

#[test]
fn why_says_who_holds_it_who_waits_what_happened_and_what_to_do() {
    let world = World::mounted();
    let top = repository(&world, "one", Some("git@example.org:team/app.git"));
    let file = top.join("src/main.rs").to_str().unwrap().to_owned();
    world.lockfs(&["hook", "acquire", "--session", "agent-7", &file]).succeeds_silently();
    let name = "repo/example.org/team/app/src/main.rs";
    let waiter =
        world.command(&["run", "--wait", "1000", name, "--", "true"]).process_group(0).spawn().unwrap();
    let _waiter = Holder(waiter);
    eventually("somebody waits", || {
        let said = world.lockfs(&["why", "--file", &file]);
        said.stdout.contains("who waits\n  root@")
    });
    let said = world.lockfs(&["why", name]);
    assert_eq!((said.code, said.stderr.as_str()), (1, ""));
    for part in [
        &format!("{name} is held by root@"),
        "session agent-7, since 2",
        "lockfs session end agent-7",
        "nobody has renewed session agent-7 for 5m",
        " acquire session=agent-7 token=",
        &format!("lockfs break {name}"),
    ] {
        assert!(said.stdout.contains(part), "no '{part}' in: {}", said.stdout);
    }
    let json = world.lockfs(&["why", "--json", name]).stdout;
    assert!(json.contains("\"state\":\"held\"") && json.contains("\"waiter\":\"root@"), "{json}");
}

#[test]
fn why_says_what_is_free_and_what_stands_in_the_way() {
    let world = World::mounted();
    let said = world.lockfs(&["why", "x"]).succeeds().stdout;
    assert!(said.starts_with("x is free\n"), "{said}");
    fs::write(world.path("x"), "").unwrap();
    fs::remove_file(world.path("x")).unwrap();
    eventually("it has a history", || world.lockfs(&["why", "x"]).stdout.contains(" release "));
    let said = world.lockfs(&["why", "a/b"]);
    assert!(
        said.code == 1
            && said.stdout.contains("there is no directory a")
            && said.stdout.contains("mkdir -p ")
    );
    fs::write(world.path("a"), "").unwrap();
    let said = world.lockfs(&["why", "a/b"]);
    assert!(said.code == 1 && said.stdout.contains("a is a lock, and no directory"), "{}", said.stdout);
    world.lockfs(&["why", world.point().to_str().unwrap()]).fails(64, &["the mount itself"]);
}

#[test]
fn why_does_not_take_what_nobody_knows_for_free() {
    let mut server = RedisServer::start();
    let world = World::new();
    world.mount(&["--backend", "redis", "--redis-url", &server.url()]).succeeds_silently();
    server.kill();
    eventually("the store is gone", || {
        fs::metadata(world.path("x")).is_err_and(|error| error.raw_os_error() == Some(libc::EHOSTDOWN))
    });
    world.lockfs(&["why", "x"]).fails(69, &["nobody knows whether x is free"]);
}

/// The kernel knows directories for a second, and those of sessions that ended are gone.
#[test]
fn why_and_commits_see_a_lock_in_directories_that_were_made_anew() {
    let world = World::mounted();
    let top = repository(&world, "one", Some("git@example.org:team/app.git"));
    fs::create_dir(top.join("deep")).unwrap();
    fs::write(top.join("deep/x"), "").unwrap();
    git(&top, &["add", "deep/x"]);
    let file = top.join("deep/x").to_str().unwrap().to_owned();
    let commit = || {
        let mut command = world.command(&["hook", "pre-commit"]);
        Said::from(command.current_dir(&top).output().unwrap())
    };
    for session in ["s1", "s2", "s3"] {
        assert_eq!(
            world.lockfs(&["why", "--file", &file]).stdout.lines().next(),
            Some("repo/example.org/team/app/deep/x is free, but there is no directory repo")
        );
        commit().succeeds_silently();
        world.lockfs(&["hook", "acquire", "--session", session, &file]).succeeds_silently();
        let said = world.lockfs(&["why", "--file", &file]).stdout;
        assert!(said.contains("held by root@") && said.contains(&format!("session {session},")), "{said}");
        commit().fails(1, &[&format!("session {session},")]);
        world.lockfs(&["hook", "release", "--session", session]).succeeds_silently();
    }
}
