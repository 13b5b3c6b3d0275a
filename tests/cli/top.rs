//! top: on a terminal, driven by keys, over mounts that hang, go and come back.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use crate::terminal::Terminal;
use crate::world::*;

fn top(world: &World, words: &[&str], size: (u16, u16)) -> Terminal {
    Terminal::start(world.command(&[&["top", "--delay", "1s"], words].concat()), size)
}

#[test]
fn top_shows_the_locks_as_they_come_and_go() {
    let world = World::mounted();
    let _holder = world.hold("deploy");
    let mut screen = top(&world, &[], (24, 100));
    screen.shows("deploy ");
    screen.comes_to("who holds it, and what is left", |_| {
        let line = screen.line("deploy");
        line.contains("root@") && line.contains("lockfs[") && line.contains("4m") && line.contains("#######")
    });
    screen.shows("1 lock,");
    fs::write(world.path("x"), "").unwrap();
    screen.comes_to("the new lock", |_| screen.line("x ").contains("root@"));
    screen.shows("acquire  x ");
    fs::remove_file(world.path("x")).unwrap();
    screen.comes_to("no old lock", |_| screen.line("x ").is_empty());
    let _waiter = world.start_waiting("deploy", &["run", "--wait", "1000", "deploy", "--", "true"]);
    screen.shows("1 waiting");
    screen.comes_to("that it waits", |_| screen.line("deploy").trim_end().ends_with(" 1"));
    // Enter, and all about it.
    screen.press("\r");
    screen.shows("waiter    root@");
    screen.shows("expires   2");
    screen.press("q");
    screen.hides("waiter ");
    screen.press("?");
    screen.shows("reverse the order");
    screen.press("?");
    screen.hides("reverse the order");
    screen.press("q");
    assert_eq!(screen.end().code(), Some(0));
}

#[test]
fn top_sorts_filters_and_selects() {
    let world = World::mounted();
    let _holder = world.hold("middle");
    let _waiter = world.start_waiting("middle", &["run", "--wait", "1000", "middle", "--", "true"]);
    world.lockfs(&["session", "begin", "agent-7"]).succeeds_silently();
    for name in ["zebra", "apple"] {
        fs::write(world.path(".sessions/agent-7").join(name), "").unwrap();
    }
    let mut screen = top(&world, &["--sort", "waiting"], (24, 100));
    let order = |first: &'static str, last: &'static str| {
        move |text: &str| {
            let at =
                |name: &str| text.lines().position(|line| line.starts_with(name) && line.contains("root@"));
            at(first).is_some() && at(first) < at(last)
        }
    };
    screen.comes_to("the one that is waited for first", order("middle", "apple"));
    screen.press("p");
    screen.comes_to("by name", order("apple", "middle"));
    screen.shows("PATHv");
    screen.press("r");
    screen.comes_to("by name, reversed", order("zebra", "apple"));
    screen.press("r");
    screen.press("/AGENT");
    screen.shows("filter: AGENT_");
    screen.comes_to("only its", |_| screen.line("middle ").is_empty() && !screen.line("apple ").is_empty());
    screen.press("\r");
    // The second of two: down, down again, and up and down.
    screen.press("jj\x1b[A\x1b[B\r");
    screen.shows("lock      zebra");
    screen.press("\x1b");
    screen.hides("lock      zebra");
    screen.press("\x1b");
    screen.comes_to("all again", |_| !screen.line("middle ").is_empty());
    screen.press("\x03");
    assert_eq!(screen.end().code(), Some(0));
}

#[test]
fn top_breaks_the_lock_that_it_named_and_no_newer_one() {
    let world = World::mounted();
    world.lockfs(&["session", "begin", "agent-7"]).succeeds_silently();
    fs::write(world.path(".sessions/agent-7/x"), "").unwrap();
    let token = |world: &World| {
        let listed = world.listed("x");
        listed.split("\"token\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
    };
    let first = token(&world);
    let mut screen = top(&world, &[], (24, 80));
    screen.comes_to("the lock", |_| screen.line("x ").contains("agent-7"));
    // No is no, and so is a slip.
    for key in ["n", "\x1b"] {
        screen.press("b");
        screen.shows("break it? y/N");
        assert!(screen.line("holder").contains("root@") && screen.line("holder").contains("agent-7"));
        assert!(screen.line("token").contains(&first), "{}", screen.screen());
        screen.press("x");
        screen.press(key);
        screen.shows("x stays as it is");
    }
    assert!(world.path("x").exists());
    // While the question stands there, another comes to hold it.
    screen.press("b");
    screen.shows("break it? y/N");
    fs::remove_file(world.path(".sessions/agent-7/x")).unwrap();
    let _newer = world.hold("x");
    let second = token(&world);
    assert_ne!(first, second);
    screen.press("y");
    screen.shows(&format!("x is not the lock with token {first} any more"));
    assert_eq!(token(&world), second);
    // This one is the one that is meant.
    screen.comes_to("the newer one", |_| screen.line("x ").contains(" lockfs"));
    screen.press("b");
    screen.comes_to("its token", |_| screen.line("token").contains(&second));
    screen.press("y");
    screen.shows("broke x");
    assert!(!world.path("x").exists());
    screen.comes_to("that it is gone", |_| screen.line("x ").is_empty());
    screen.shows("break ");
}

#[test]
fn top_goes_on_over_a_mount_that_hangs_and_one_that_goes() {
    let world = World::mounted();
    fs::write(world.path("x"), "").unwrap();
    let mut screen = top(&world, &[], (24, 100));
    screen.comes_to("the lock", |_| screen.line("x ").contains("root@"));
    let daemon = world.daemon();
    kill("STOP", &daemon);
    screen.shows("has not answered for ");
    // Keys work all the same.
    screen.press("?");
    screen.shows("reverse the order");
    screen.press("?");
    kill("CONT", &daemon);
    screen.hides("has not answered for ");
    // One that is killed where it hangs, and another in its place.
    kill("STOP", &daemon);
    screen.shows("has not answered for ");
    kill("KILL", &daemon);
    screen.shows("has no daemon any more");
    world.umount(&["--lazy"]).succeeds_silently();
    screen.shows("no lockfs is mounted");
    world.mount(&[]).succeeds();
    screen.hides("this goes on when it is back");
    fs::write(world.path("y"), "").unwrap();
    screen.comes_to("a lock of the new one", |_| screen.line("y ").contains("root@"));
    // And it ends, though nobody answers.
    let daemon = world.daemon();
    kill("STOP", &daemon);
    screen.shows("has not answered for ");
    screen.press("q");
    let end = screen.end();
    kill("CONT", &daemon);
    assert_eq!(end.code(), Some(0));
}

#[test]
fn top_leaves_the_terminal_as_it_was() {
    let world = World::mounted();
    for (how, code) in [("key", Some(0)), ("TERM", Some(143)), ("HUP", Some(129)), ("INT", Some(130))] {
        let mut screen = top(&world, &[], (24, 80));
        let before = screen.found;
        screen.shows("? help");
        assert!(screen.is_alternate() && screen.modes() != before);
        if how == "key" {
            screen.press("q")
        } else {
            screen.signal(how)
        }
        assert_eq!(screen.end().code(), code, "{how}");
        eventually("the screen is as before", || !screen.is_alternate() && !screen.is_cursor_hidden());
        assert_eq!(screen.modes(), before, "{how}");
    }
}

/// As from a shell with job control.
#[test]
fn top_stops_and_goes_on() {
    let world = World::mounted();
    let mut shell = world.command(&[]);
    shell = {
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-i"]).env_clear().current_dir(world.dir.path());
        bash.envs(shell.get_envs().filter_map(|(name, value)| Some((name, value?))));
        bash.env("PS1", "ready> ").env("LOCKFS", env!("CARGO_BIN_EXE_lockfs"));
        bash
    };
    let mut screen = Terminal::start(shell, (24, 80));
    screen.shows("ready>");
    screen.press("\"$LOCKFS\" top\r");
    screen.shows("? help");
    screen.press("\x1a");
    screen.shows("Stopped");
    assert!(!screen.is_alternate() && !screen.is_cursor_hidden());
    screen.press("stty -a | grep -q -- -isig && echo r''aw || echo coo''ked\r");
    screen.shows("cooked");
    screen.press("fg\r");
    screen.shows("? help");
    assert!(screen.is_alternate());
    screen.press("?");
    screen.shows("reverse the order");
    screen.press("?q");
    screen.comes_to("the shell", |text| text.trim_end().ends_with("ready>"));
}

#[test]
fn top_fits_every_terminal() {
    let world = World::mounted();
    for number in 0..100 {
        fs::write(world.path(&format!("lock-{number:03}")), "").unwrap();
    }
    let mut screen = top(&world, &[], (24, 80));
    screen.comes_to("the first of many", |_| screen.line("lock-000").contains("root@"));
    for (lines, columns) in [(1, 1), (2, 3), (3, 10), (5, 20), (200, 400), (24, 80)] {
        screen.resize(lines, columns);
        screen.press("?");
        screen.press("?\r");
        screen.press("q");
        screen.press("b");
        screen.press("n");
    }
    screen.press("g");
    screen.shows("? help");
    screen.resize(130, 100);
    screen.shows("lock-099");
    screen.resize(5, 60);
    screen.hides("lock-099");
    screen.press("G");
    screen.comes_to("the last, with all about it", |_| screen.line("lock-099").contains("root@"));
    screen.press("q");
    assert_eq!(screen.end().code(), Some(0));
}

#[test]
fn no_name_reaches_the_terminal_as_it_is() {
    let world = World::mounted();
    let evil = b"\x1b]0;evil\x07\x1b[31mred\x1b[2Jnew\nline\xff\xc2\x9b2J\x7f";
    fs::write(world.path("a"), "").unwrap();
    fs::write(world.point().join(OsStr::from_bytes(evil)), "").unwrap();
    let mut screen = top(&world, &[], (24, 200));
    screen.shows("\\u{1b}]0;evil\\u{7}\\u{1b}[31mred\\u{1b}[2Jnew\\nline\\xff\\u{9b}2J\\u{7f}");
    screen.comes_to("who holds it", |_| screen.line("\\u{1b}").contains("root@"));
    screen.press("\r");
    screen.shows("lock  ");
    screen.press("qb");
    screen.shows("break it?");
    screen.press("n");
    screen.shows("stays as it is");
    let bytes = screen.bytes();
    for part in [&b"\x1b]0;evil"[..], b"\x1b[31mred", b"\x07", b"\xff", b"\xc2\x9b", b"new\n"] {
        assert!(!bytes.windows(part.len()).any(|window| window == part), "{part:?}");
    }
}

#[test]
fn top_has_colours_where_they_are_wanted() {
    let world = World::mounted();
    let _holder = world.hold("deploy");
    let seen = |environment: &[(&str, &str)], words: &[&str]| {
        let mut command = world.command(&[&["top"], words].concat());
        command.envs(environment.iter().copied());
        let screen = Terminal::start(command, (24, 100));
        screen.comes_to("the lock", |_| screen.line("deploy").contains("root@"));
        screen.has_colours()
    };
    assert!(seen(&[], &[]));
    assert!(!seen(&[("NO_COLOR", "1")], &[]));
    assert!(!seen(&[], &["--color", "never"]));
    assert!(seen(&[("NO_COLOR", "1")], &["--color", "always"]));
    assert!(!seen(&[("TERM", "dumb")], &[]));
}

#[test]
fn top_prints_the_list_where_nothing_can_be_drawn() {
    let world = World::mounted();
    let _holder = world.hold("deploy");
    let said = world.lockfs(&["top"]).succeeds().stdout;
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].starts_with("lockfs ") && lines[0].contains(": ok, 1 lock,"), "{said}");
    assert!(lines[1].starts_with("PATH ") && lines[2].starts_with("deploy  root@"), "{said}");
    let said = world.lockfs(&["top", "-n", "2", "-d", "1s", "--filter", "nothing"]).succeeds().stdout;
    assert_eq!((said.matches("PATH ").count(), said.matches("deploy").count()), (2, 0), "{said}");
    World::new().lockfs(&["top"]).fails(69, &["no lockfs is mounted at"]);
}

/// One that goes with its terminal, though nobody tells it by a signal.
#[test]
fn top_ends_with_its_terminal() {
    let world = World::mounted();
    let pid = world.dir.path().join("pid");
    let line = format!("trap '' HUP; echo $$ > {}; exec {} top", pid.display(), env!("CARGO_BIN_EXE_lockfs"));
    let mut of_world = Command::new("script");
    of_world
        .args(["--quiet", "--command", &line, "/dev/null"])
        .env_clear()
        .env("TERM", "xterm")
        .env("SHELL", "/bin/sh");
    of_world.envs(world.command(&[]).get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut screen = Terminal::start(of_world, (24, 80));
    screen.shows("? help");
    let pid = fs::read_to_string(pid).unwrap().trim().to_owned();
    assert!(is_running(&pid));
    screen.child.kill().unwrap();
    eventually("it is gone", || !is_running(&pid));
}
