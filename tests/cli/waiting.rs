//! Waiting for a lock, and acquiring several: acquire, and run --wait.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::world::*;

// waiting

#[test]
fn a_waiter_has_the_lock_when_its_holder_releases_it() {
    let world = World::mounted();
    let holder = world.hold("x");
    let script = "test -e \"$LOCKFS_PATH\" && test \"$LOCKFS_TOKEN\" -gt 0 && exit 7";
    let mut running = world.start_waiting("x", &["run", "--wait", "x", "--", "sh", "-c", script]);
    let mut acquiring = world.start_waiting("x", &["acquire", "--wait", "15m", "--note", "hello", "x"]);
    drop(holder);
    assert_eq!(running.end(), 7, "{}", running.stderr());
    assert_eq!(acquiring.end(), 0, "{}", acquiring.stderr());
    assert_eq!(fs::read_to_string(world.path("x")).unwrap(), "hello");
    let line = world.listed("x");
    assert!(line.contains(&format!("\"pid\":{},", acquiring.pid())), "{line}");
}

#[test]
fn waiters_have_the_lock_in_the_order_in_which_they_came() {
    let world = World::mounted();
    let holder = world.hold("x");
    let mut waiters: Vec<_> = ["first", "second", "third"]
        .into_iter()
        .map(|name| {
            let script = format!("echo {name} >> order; test $(ls locks) = x");
            world.start_waiting("x", &["run", "-w", "x", "--", "sh", "-c", &script])
        })
        .collect();
    drop(holder);
    for waiter in &mut waiters {
        assert_eq!(waiter.end(), 0, "{}", waiter.stderr());
    }
    assert_eq!(fs::read_to_string(world.dir.path().join("order")).unwrap(), "first\nsecond\nthird\n");
    assert!(!world.path("x").exists());
}

#[test]
fn a_wait_ends_when_its_time_is_up() {
    let world = World::mounted();
    let holder = world.hold("x");
    let held = format!("x is held by root@{} lockfs[{}]", host(&world), holder.pid());
    let parts = ["waited 300ms: ", &held, "; number 1 of 1 in the queue"];
    let start = Instant::now();
    world.lockfs(&["run", "--wait", "0.3", "x", "--", "echo", "ran"]).fails(1, &parts);
    assert!(start.elapsed() >= Duration::from_millis(300));
    world.lockfs(&["acquire", "-E", "75", "--wait=300ms", "x"]).fails(75, &parts);
    assert_eq!(world.waiting("x"), 0);

    let _earlier = world.start_waiting("x", &["acquire", "--wait", "x"]);
    let late = world.lockfs(&["acquire", "--wait", "300ms", "x"]);
    late.fails(1, &["; number 2 of 2 in the queue"]);
    assert_eq!(world.waiting("x"), 1);
}

#[test]
fn no_time_at_all_is_no_wait() {
    let world = World::mounted();
    let _holder = world.hold("x");
    world.lockfs(&["run", "--wait", "0", "x", "--", "echo", "ran"]).fails(1, &["x is held by "]);
    world.lockfs(&["acquire", "-w0", "x"]).fails(1, &["x is held by "]);
    world.lockfs(&["acquire", "--wait", "1s", "free"]).succeeds_silently();
    world.lockfs(&["acquire", "--wait", "30sec", "x"]).fails(64, &["30sec", "./30sec"]);
    world.lockfs(&["acquire", "--wait", "a/x"]).fails(64, &["there is no directory a", "mkdir -p"]);
}

#[test]
fn a_signal_ends_a_wait_and_leaves_neither_a_lock_nor_a_place() {
    let world = World::mounted();
    let holder = world.hold("x");
    let ways: [&[&str]; 3] = [
        &["acquire", "--wait", "a", "x"],
        &["acquire", "--wait", "15m", "a", "x"],
        &["run", "--wait", "x", "--", "echo", "ran"],
    ];
    for (signal, number) in [("INT", 2), ("TERM", 15), ("HUP", 1), ("QUIT", 3), ("ALRM", 14)] {
        for way in ways {
            let mut waiter = world.start_waiting("x", way);
            kill(signal, &waiter.pid());
            assert_eq!(waiter.end(), 128 + number, "{signal} {way:?}");
            assert_eq!(waiter.stderr(), "");
            assert_eq!(world.waiting("x"), 0, "{signal} {way:?}");
            assert!(!world.path("a").exists(), "{signal} {way:?}");
        }
    }
    drop(holder);
    eventually("it is released", || !world.path("x").exists());
}

#[test]
fn a_waiter_that_is_killed_leaves_no_place() {
    let world = World::mounted();
    let holder = world.hold("x");
    let waiter = world.start_waiting("x", &["acquire", "--wait", "x"]);
    kill("KILL", &waiter.pid());
    eventually("its place is gone", || world.waiting("x") == 0);
    drop(holder);
    eventually("it is released", || !world.path("x").exists());
}

/// A stop from the terminal interrupts the call: it is made again, and neither ends the wait nor its time.
#[test]
fn a_waiter_that_was_stopped_waits_on() {
    let world = World::mounted();
    let holder = world.hold("x");
    let mut waiter = world.start_waiting("x", &["acquire", "--wait", "15m", "x"]);
    kill("STOP", &waiter.pid());
    eventually("it has lost its place", || world.waiting("x") == 0);
    kill("CONT", &waiter.pid());
    eventually("it waits again", || world.waiting("x") == 1);
    drop(holder);
    assert_eq!(waiter.end(), 0, "{}", waiter.stderr());
    assert!(world.path("x").exists());
}

#[test]
fn a_wait_ends_with_the_daemon_and_says_so() {
    let world = World::mounted();
    let _holder = world.hold("x");
    let mut waiter = world.start_waiting("x", &["acquire", "--wait", "x"]);
    kill("KILL", &world.daemon());
    assert_eq!(waiter.end(), 69);
    let said = waiter.stderr();
    assert!(said.contains("ended while x was waited for") && said.lines().count() == 1, "{said}");
}

#[test]
fn a_wait_that_would_never_end_says_so() {
    let world = World::mounted();
    let lockfs = env!("CARGO_BIN_EXE_lockfs");
    let script = format!("{lockfs} acquire x && {lockfs} acquire --wait -E 75 x; exit $?");
    let mut command = world.command(&[]);
    let inherited = command.get_envs().map(|(name, value)| (name.to_owned(), value.unwrap().to_owned()));
    let inherited: Vec<_> = inherited.collect();
    command = Command::new("sh");
    command.args(["-c", &script]).env_clear().envs(inherited).current_dir(world.dir.path());
    let said = Said::from(command.process_group(0).output().unwrap());
    said.fails(75, &["to wait for x would never end", "release what it holds", "x is held by root@"]);
}

#[test]
fn a_lock_is_waited_for_on_behalf_of_a_session() {
    let world = World::mounted();
    world.lockfs(&["session", "begin", "agent-7"]).succeeds_silently();
    let (x, y) = (world.hold("x"), world.hold("y"));
    let words = ["acquire", "--session", "agent-7", "--wait", "x"];
    let mut acquiring = world.start_waiting("x", &words);
    let script = "test $LOCKFS_SESSION = agent-7 && test -e locks/.sessions/agent-7/y";
    let words = ["run", "--session", "agent-7", "--wait", "y", "--", "sh", "-c", script];
    let mut running = world.start_waiting("y", &words);
    drop((x, y));
    assert_eq!(acquiring.end(), 0, "{}", acquiring.stderr());
    assert_eq!(running.end(), 0, "{}", running.stderr());
    assert!(!world.path("y").exists());
    assert!(world.listed("x").contains("\"session\":\"agent-7\""), "{}", world.listed("x"));
    world.lockfs(&["acquire", "--session", "s", "--wait", "z"]).fails(64, &["there is no session s"]);
}

#[test]
fn who_waits_is_shown() {
    let world = World::mounted();
    let holder = world.hold("x");
    let _waiters: Vec<_> = (0..2).map(|_| world.start_waiting("x", &["acquire", "--wait", "x"])).collect();
    let line = world.listed("x");
    assert!(
        line.contains("\"waiting\":2,") && line.contains(&format!("\"pid\":{},", holder.pid())),
        "{line}"
    );
    let said = world.lockfs(&["ls"]).succeeds().stdout;
    assert!(said.lines().nth(1).unwrap().ends_with(" 2"), "{said}");
    eventually("it is counted", || {
        let status = world.lockfs(&["status", "--json"]).succeeds().stdout;
        status.contains("\"waiting\":2,")
    });
}

#[test]
fn who_has_an_advisory_file_locked_is_shown() {
    let world = World::mounted();
    let lock = || {
        let mut command = Command::new("flock");
        command.arg("-s").arg(world.path("x")).arg("cat").stdin(Stdio::piped()).stdout(Stdio::null());
        Holder(command.process_group(0).spawn().unwrap())
    };
    let [first, _second] = [lock(), lock()];
    eventually("both have it locked", || world.listed("x").matches("\"style\":\"flock\"").count() == 2);
    let line = world.listed("x");
    for part in [
        "\"state\":\"locked\"",
        "\"command\":\"flock\"",
        "\"mode\":\"shared\",\"first\":0,\"last\":null",
        &format!("flock[{}]", first.pid()),
    ] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    let said = world.lockfs(&["ls"]).succeeds().stdout;
    assert!(said.contains(" (flock shared, 1 more) "), "{said}");
    let parts = ["x is an advisory file, locked by root@", " and 1 more with flock shared since "];
    world.lockfs(&["run", "x", "--", "echo", "ran"]).fails(1, &parts);
}

// acquire

#[test]
fn acquire_holds_the_locks_for_the_job_that_asks() {
    let world = World::mounted();
    fs::create_dir(world.path("build")).unwrap();
    world
        .lockfs(&["acquire", "--ttl", "90s", "--note", "a note", "y", "build/x", "./locks/y"])
        .succeeds_silently();
    for name in ["build/x", "y"] {
        assert_eq!(fs::read_to_string(world.path(name)).unwrap(), "a note");
        let line = world.listed(name);
        assert!(line.contains("\"state\":\"held\""), "{line}");
        let info = fs::read_to_string(world.path(".lockfs/info").join(name)).unwrap();
        assert!(info.contains("\nttl: 90s\n"), "{info}");
        fs::remove_file(world.path(name)).unwrap();
    }
}

#[test]
fn acquire_has_all_of_them_or_none() {
    let world = World::mounted();
    let holder = world.hold("m");
    let pid = format!("[{}]", holder.pid());
    world.lockfs(&["acquire", "z", "m", "a"]).fails(1, &["m is held by ", &pid]);
    world
        .lockfs(&["acquire", "-E", "75", "--wait", "300ms", "z", "m", "a"])
        .fails(75, &["waited 300ms: m is held"]);
    world.lockfs(&["acquire", "a", "missing/b"]).fails(64, &["there is no directory missing"]);
    let note = "x".repeat(65_537);
    world.lockfs(&["acquire", "a", "b", "--note", &note]).fails(69, &["cannot write the note of a"]);
    let said = world.lockfs(&["ls"]).succeeds().stdout;
    assert_eq!(said.lines().count(), 2, "{said}");
    let mut waiter = world.start_waiting("m", &["acquire", "--wait", "z", "m", "a"]);
    assert!(world.path("a").exists() && !world.path("z").exists());
    drop(holder);
    assert_eq!(waiter.end(), 0, "{}", waiter.stderr());
    assert!(["a", "m", "z"].iter().all(|name| world.path(name).exists()));
}

/// Each wants both, named the other way round.
#[test]
fn two_that_want_the_same_locks_do_not_wait_for_each_other() {
    let world = World::mounted();
    let lockfs = env!("CARGO_BIN_EXE_lockfs");
    let ours = |order: &str| {
        let script = format!(
            "for i in 1 2 3 4 5 6 7 8 9; do {lockfs} acquire --wait {order} && rm locks/a locks/b || exit 1; done"
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]).current_dir(world.dir.path()).env("LOCKFS_MOUNT", world.point());
        command.stderr(Stdio::piped());
        Holder(command.process_group(0).spawn().unwrap())
    };
    for mut each in [ours("a b"), ours("b a"), ours("a b")] {
        assert_eq!(each.end(), 0, "{}", each.stderr());
    }
}

#[test]
fn acquire_acquires_for_a_session() {
    let world = World::mounted();
    world.lockfs(&["session", "begin", "agent-7"]).succeeds_silently();
    world.lockfs(&["acquire", "--session", "agent-7", "x"]).succeeds_silently();
    let said =
        Said::from(world.command(&["acquire", "y"]).env("LOCKFS_SESSION", "agent-7").output().unwrap());
    said.succeeds_silently();
    for name in ["x", "y"] {
        assert!(world.path(".sessions/agent-7").join(name).exists(), "{name}");
    }
    world.lockfs(&["session", "end", "agent-7"]).succeeds_silently();
    assert!(!world.path("x").exists() && !world.path("y").exists());
}

#[test]
fn what_can_be_no_lock_is_not_acquired() {
    let world = World::mounted();
    fs::create_dir(world.path("d")).unwrap();
    world.lockfs(&["acquire", "d"]).fails(1, &["d is a directory, made by root@"]);
    world.lockfs(&["acquire", "--wait", "d"]).fails(64, &["d is a directory: name a lock in it"]);
    world.lockfs(&["acquire", ".wait/x"]).fails(64, &[".wait/x is where x is waited for"]);
    world.lockfs(&["acquire", ".sessions/s"]).fails(64, &[".sessions/s is no place for a lock"]);
    world.lockfs(&["acquire", world.point().to_str().unwrap()]).fails(64, &["the mount itself"]);
}

fn host(world: &World) -> String {
    let status = fs::read_to_string(world.path(".lockfs/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
}
