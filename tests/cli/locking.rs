//! The commands about locks: ls, run, break, session.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use crate::world::*;

// ls

#[test]
fn ls_shows_who_holds_what() {
    let world = World::mounted();
    let holder = world.hold("deploy");
    let said = world.lockfs(&["ls"]).succeeds().stdout;
    let [head, line] = said.lines().collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(
        head.split_whitespace().collect::<Vec<_>>().join(" "),
        "PATH HOLDER AGE TTL-LEFT SCOPE WAITING"
    );
    assert!(line.starts_with("deploy ") && line.contains(&format!("[{}]", holder.0.id())), "{line}");
    let cells: Vec<_> = line.split_whitespace().rev().take(2).collect();
    assert_eq!(cells, ["0", "host"], "{line}");
}

#[test]
fn ls_is_sorted_and_shows_plain_directories_on_demand() {
    let world = World::mounted();
    for directory in ["build", "build/deep", "idiom.lock"] {
        fs::create_dir(world.path(directory)).unwrap();
    }
    for file in ["zebra", "build/web", "build/deep/x", "new\nline"] {
        fs::write(world.path(file), "").unwrap();
    }
    symlink("nowhere", world.path("link")).unwrap();
    let names = |flags: &[&str]| {
        let said = world.lockfs(flags).succeeds().stdout;
        let names: Vec<_> =
            said.lines().skip(1).map(|line| line.split(' ').next().unwrap().to_owned()).collect();
        names.join(" ")
    };
    assert_eq!(names(&["ls"]), "build/deep/x build/web idiom.lock link new\\nline zebra");
    assert_eq!(
        names(&["ls", "--all"]),
        "build build/deep build/deep/x build/web idiom.lock link new\\nline zebra"
    );
    assert_eq!(names(&["ls", "build"]), "build/deep/x build/web");
    assert_eq!(names(&["ls", "zebra"]), "zebra");
    let line = world.listed("link");
    assert!(line.contains("\"kind\":\"symlink\"") && !line.contains("nobody"), "{line}");
    world.lockfs(&["ls", "missing"]).fails(1, &["there is no lock"]);
}

#[test]
fn ls_shows_the_holder_of_a_private_lock_to_everybody() {
    let world = World::mounted();
    let private = world.path("private");
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(private).unwrap();
    let said = world.lockfs_as_nobody(&["ls", "--json"]).succeeds().stdout;
    assert!(said.contains("\"owner\":\"root@"), "{said}");
}

#[test]
fn ls_in_json_has_every_fact() {
    let world = World::mounted();
    let holder = world.hold("deploy");
    let line = world.listed("deploy");
    let pid = format!("\"pid\":{}", holder.0.id());
    for part in [&pid, "\"kind\":\"file\"", "\"scope\":\"host\"", "\"waiting\":0", "\"command\":\"lockfs\""] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    assert!(!line.contains("null"), "{line}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let world = World::mounted();
    let mut child = world.command(&["ls"]).spawn().unwrap();
    drop(child.stdout.take());
    let said = Said::from(child.wait_with_output().unwrap());
    assert_eq!((said.code, said.stderr.as_str()), (141, ""));
}

// run

#[test]
fn run_holds_the_lock_while_the_command_runs() {
    let world = World::mounted();
    let script = "test -e \"$LOCKFS_PATH\" && echo $LOCKFS_TOKEN $LOCKFS_PATH; exit 7";
    let said = world.lockfs(&["run", "deploy", "--", "sh", "-c", script]);
    let (token, path) = said.stdout.trim().split_once(' ').unwrap();
    assert!(token.parse::<u64>().is_ok(), "{token}");
    assert_eq!((said.code, Path::new(path)), (7, world.path("deploy").as_path()));
    assert!(!world.path("deploy").exists());
}

#[test]
fn the_token_rises_with_every_run() {
    let world = World::mounted();
    let token = || {
        let said = world.lockfs(&["run", "x", "--", "sh", "-c", "echo $LOCKFS_TOKEN"]).succeeds();
        said.stdout.trim().parse::<u64>().unwrap()
    };
    assert!(token() < token());
}

#[test]
fn run_names_the_holder_and_runs_nothing() {
    let world = World::mounted();
    let holder = world.hold("deploy");
    let pid = format!("[{}]", holder.0.id());
    world.lockfs(&["run", "deploy", "--", "echo", "ran"]).fails(1, &["deploy is held by ", &pid]);
    world.lockfs(&["run", "-E", "75", "deploy", "--", "echo", "ran"]).fails(75, &["deploy is held by "]);
    assert!(world.path("deploy").exists());
}

#[test]
fn run_says_why_nothing_was_acquired() {
    let world = World::mounted();
    let missing = world.path("a/b");
    let hint = format!("mkdir -p {}", missing.display());
    world.lockfs(&["run", "a/b/c", "--", "true"]).fails(64, &["there is no directory a", &hint]);
    world.lockfs(&["run", "--session", "s", "x", "--", "true"]).fails(64, &["there is no session s"]);
    world.lockfs(&["run", "/tmp/x", "--", "true"]).fails(69, &["/tmp/x is not in a lockfs mount"]);
    world.lockfs(&["run", world.point().to_str().unwrap(), "--", "true"]).fails(64, &["the mount itself"]);
}

#[test]
fn a_command_that_cannot_start_leaves_no_lock() {
    let world = World::mounted();
    world.lockfs(&["run", "x", "--", "/nonexistent"]).fails(127, &["cannot run /nonexistent"]);
    world.lockfs(&["run", "x", "--", "/etc/passwd"]).fails(126, &["cannot run /etc/passwd"]);
    assert!(!world.path("x").exists());
}

#[test]
fn run_passes_signals_on_and_ends_as_the_command_did() {
    let world = World::mounted();
    let mut holder = world.hold("x");
    kill("TERM", &holder.0.id().to_string());
    assert_eq!(holder.end(), 128 + 15);
    assert!(!world.path("x").exists());

    let script = "trap 'exit 3' USR1; touch ready; while :; do sleep 0.02; done";
    let child = world.command(&["run", "y", "--", "sh", "-c", script]).process_group(0).spawn().unwrap();
    let mut holder = Holder(child);
    eventually("the command is ready", || world.dir.path().join("ready").exists());
    kill("USR1", &holder.0.id().to_string());
    assert_eq!(holder.end(), 3);
}

#[test]
fn a_command_that_lost_its_lock_is_stopped_with_all_it_started() {
    let world = World::mounted();
    let script = "trap '' TERM; sleep 1000 & echo $! > pid; mv pid pids; wait; sleep 1000";
    let words = ["run", "--grace", "300ms", "x", "--", "sh", "-c", script];
    let mut holder = Holder(world.command(&words).process_group(0).spawn().unwrap());
    eventually("the command is ready", || world.dir.path().join("pids").exists());
    let pid = fs::read_to_string(world.dir.path().join("pids")).unwrap();
    world.lockfs(&["break", "--yes", "x"]).succeeds_silently();
    assert_eq!(holder.end(), 1);
    let said = holder.stderr();
    assert!(said.starts_with("lockfs: x was ") && said.contains("stopping the command"), "{said}");
    eventually("what it started is gone", || !is_running(pid.trim()));
}

#[test]
fn run_outlives_a_restart_of_the_daemon() {
    let world = World::mounted();
    let mut holder = world.start(&["run", "x", "--", "sh", "-c", "touch ready; exec sleep 1000"]);
    eventually("the command runs", || world.dir.path().join("ready").exists());
    kill("KILL", &world.daemon());
    eventually("the mount is dead", || fs::metadata(world.point()).is_err());
    world.mount(&[]).succeeds_silently();
    assert!(world.path("x").exists());
    sleep(Duration::from_millis(600));
    assert!(holder.0.try_wait().unwrap().is_none(), "{}", holder.stderr());
    kill("TERM", &holder.0.id().to_string());
    assert_eq!(holder.end(), 128 + 15);
    assert!(!world.path("x").exists());
}

#[test]
fn run_sets_the_ttl_it_is_asked_for() {
    let world = World::mounted();
    let words = ["run", "--ttl", "never", "x", "--", "sleep", "1000"];
    let _holder = Holder(world.command(&words).process_group(0).spawn().unwrap());
    eventually("the ttl is set", || world.listed("x").contains("\"ttl_seconds\":null"));
}

// break

#[test]
fn break_ends_the_lock_that_was_seen() {
    let world = World::mounted();
    let mut holder = world.hold("x");
    world.lockfs(&["break", "x"]).fails(64, &["--yes"]);
    world.lockfs(&["break", "--token", "1", "x"]).fails(1, &["x"]);
    assert!(world.path("x").exists());
    world.lockfs(&["break", "--yes", "x"]).succeeds_silently();
    assert!(!world.path("x").exists());
    assert_eq!(holder.end(), 1);
    world.lockfs(&["break", "--yes", "x"]).fails(1, &["there is no lock x"]);
}

#[test]
fn break_of_the_lock_of_another_user_is_refused() {
    let world = World::mounted();
    let _holder = world.hold("x");
    world.lockfs_as_nobody(&["break", "--yes", "x"]).fails(1, &["may not break x: held by root@"]);
    assert!(world.path("x").exists());
}

#[test]
fn break_ends_a_symlink_too() {
    let world = World::mounted();
    symlink("alice@dev1.4711", world.path("link")).unwrap();
    world.lockfs(&["break", "--yes", "link"]).succeeds_silently();
    assert!(world.path("link").symlink_metadata().is_err());
}

// session

#[test]
fn a_session_ends_with_all_its_locks() {
    let world = World::mounted();
    world.lockfs(&["session", "begin", "agent-7"]).succeeds_silently();
    world.lockfs(&["session", "begin", "agent-7"]).fails(1, &["has begun already"]);
    for name in ["a", "b"] {
        fs::write(world.path(".sessions/agent-7").join(name), "").unwrap();
    }
    let listed = world.lockfs(&["session", "list"]).succeeds().stdout;
    let line = listed.lines().find(|line| line.starts_with("agent-7 ")).unwrap();
    assert!(line.ends_with(" 2"), "{listed}");
    world.lockfs(&["session", "renew", "agent-7"]).succeeds_silently();
    world.lockfs(&["session", "end", "agent-7"]).succeeds_silently();
    assert!(!world.path("a").exists() && !world.path("b").exists());
    world.lockfs(&["session", "end", "agent-7"]).fails(1, &["there is no session agent-7"]);
    world.lockfs(&["session", "end", "../build"]).fails(64, &["a session name is"]);
}

#[test]
fn run_acquires_for_a_session() {
    let world = World::mounted();
    world.lockfs(&["session", "begin", "agent-7"]).succeeds_silently();
    let script = "echo $LOCKFS_SESSION; ls .";
    let mut command = world.command(&["run", "--session", "agent-7", "x", "--", "sh", "-c", script]);
    command.current_dir(world.path(".sessions/agent-7"));
    assert_eq!(Said::from(command.output().unwrap()).succeeds().stdout, "agent-7\nx\n");
    assert!(!world.path("x").exists());
}
