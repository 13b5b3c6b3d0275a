//! watch, and what the mount says of itself, on Redis too: over its end, its silence and its return.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::servers::redis::{Persistence, RedisServer};
use crate::terminal::Terminal;
use crate::world::*;

/// A running `lockfs watch`.
struct Watcher {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    errors: Receiver<String>,
    /// What it said on stderr.
    said: String,
}

impl Watcher {
    /// Starts it, and waits until it is watching: what happens from now on is seen.
    fn start(world: &World, flags: &[&str]) -> Self {
        let mut child = world.command(&[&["watch"], flags].concat()).spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let errors = lines_of(child.stderr.take().unwrap());
        let mut watcher = Self { child, lines, seen: Vec::new(), errors, said: String::new() };
        let mut count = 0;
        eventually("the watcher watches", || {
            count += 1;
            let name = format!("probe-{count}");
            fs::write(world.path(&name), "").unwrap();
            fs::remove_file(world.path(&name)).unwrap();
            std::thread::sleep(Duration::from_millis(100));
            watcher.take();
            !watcher.seen.is_empty()
        });
        watcher
    }

    fn take(&mut self) {
        self.seen.extend(self.lines.try_iter());
        self.said.extend(self.errors.try_iter().map(|line| line + "\n"));
    }

    /// Waits until it has said so on stderr.
    fn says(&mut self, part: &str) {
        eventually(&format!("the watcher says {part}"), || {
            self.take();
            self.said.contains(part)
        });
    }

    /// Waits until a line has all of `parts`.
    fn sees(&mut self, parts: &[&str]) {
        let mut seen = Vec::new();
        eventually(&format!("the watcher sees {parts:?}"), || {
            self.take();
            seen.clone_from(&self.seen);
            seen.iter().any(|line| parts.iter().all(|part| line.contains(part)))
        });
    }

    /// The names of locks that begin with `start`, as they were acquired.
    fn acquired(&mut self, start: &str) -> Vec<String> {
        self.take();
        let acquires = self.seen.iter().filter(|line| line.contains("\"event\":\"acquire\""));
        let names = acquires.map(|line| line.split("\"path\":\"").nth(1).unwrap().trim_end_matches("\"}"));
        names.filter(|name| name.starts_with(start)).map(str::to_owned).collect()
    }

    /// Ends it as Ctrl-C does; what it said on stderr.
    fn end(mut self) -> String {
        kill("INT", &self.child.id().to_string());
        self.child.wait().unwrap();
        self.said.extend(self.errors.iter().map(|line| line + "\n"));
        self.said
    }
}

fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            if sender.send(line.unwrap()).is_err() {
                break;
            }
        }
    });
    lines
}

/// A mount of the namespace that `server` has, on a host of that name.
fn host(server: &RedisServer, name: &str) -> World {
    let world = World::new();
    let words = ["--backend", "redis", "--redis-url", &server.url(), "--host-id", name, "-o", "ttl=1h"];
    world.mount(&words).succeeds_silently();
    world
}

/// What `act` answers, which must come at once.
fn at_once<T>(what: &str, act: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let answer = act();
    assert!(start.elapsed() < Duration::from_secs(1), "{what} took {:?}", start.elapsed());
    answer
}

fn status(world: &World) -> String {
    at_once("status", || fs::read_to_string(world.path(".lockfs/status")).unwrap())
}

/// The value of a metric, by its name with its labels.
fn metric(world: &World, name: &str) -> f64 {
    let text = at_once("metrics", || fs::read_to_string(world.path(".lockfs/metrics")).unwrap());
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

#[test]
fn watch_prints_what_happens_from_now_on() {
    let world = World::mounted();
    fs::write(world.path("before"), "").unwrap();
    let mut watcher = Watcher::start(&world, &[]);
    world.lockfs(&["session", "begin", "agent-7"]).succeeds_silently();
    fs::write(world.path(".sessions/agent-7/a b"), "").unwrap();
    world.lockfs(&["break", "--yes", "a b"]).succeeds_silently();
    world.lockfs(&["session", "end", "agent-7"]).succeeds_silently();
    watcher.sees(&[" end session=agent-7"]);
    for parts in [[" begin ", ""], [" acquire ", "path=a b"], [" break ", "path=a b"]] {
        watcher.sees(&[&parts[..], &["session=agent-7"]].concat());
    }
    assert!(!watcher.seen.iter().any(|line| line.contains("before")), "{:?}", watcher.seen);
    let mut all = Watcher::start(&world, &["--all", "--json"]);
    all.sees(&["\"event\":\"acquire\"", "\"path\":\"before\""]);
    assert_eq!(all.acquired("a"), ["a b"]);
    assert_eq!(watcher.end() + &all.end(), "");
}

#[test]
fn watch_ends_when_nobody_reads_it_and_when_the_mount_goes() {
    let world = World::mounted();
    let mut child = world.command(&["watch"]).spawn().unwrap();
    drop(child.stdout.take());
    let said = Said::from(child.wait_with_output().unwrap());
    assert_eq!((said.code, said.stderr.as_str()), (141, ""));

    let child = world.command(&["watch", "--patience", "0"]).stdin(Stdio::null()).spawn().unwrap();
    let daemon = world.daemon();
    kill("KILL", &daemon);
    Said::from(child.wait_with_output().unwrap()).fails(69, &["has no daemon any more"]);
    World::new().lockfs(&["watch"]).fails(69, &["no lockfs"]);
}

/// Redis remembers what happened over the end of a daemon; the embedded store begins a new history.
#[test]
fn watch_follows_over_a_restart_of_the_daemon() {
    let server = RedisServer::start();
    let url = server.url();
    let on_redis = ["--backend", "redis", "--redis-url", &url, "--host-id", "dev1", "-o", "ttl=1h"];
    for flags in [&on_redis[..], &[]] {
        let world = World::new();
        world.mount(flags).succeeds_silently();
        let mut watcher = Watcher::start(&world, &["--json"]);
        fs::write(world.path("x-0"), "").unwrap();
        watcher.sees(&["x-0"]);
        for (number, how) in [(1, "TERM"), (2, "KILL")] {
            kill(how, &world.daemon());
            watcher.says(if how == "TERM" { "waiting for it to be back" } else { "has no daemon any more" });
            eventually("it is mounted anew", || world.mount(flags).code == 0);
            // Nobody is watching yet, perhaps.
            fs::write(world.path(&format!("x-{number}")), "").unwrap();
            watcher.sees(&[&format!("x-{number}")]);
            watcher.says("is back");
        }
        assert_eq!(watcher.acquired("x-"), ["x-0", "x-1", "x-2"]);
        watcher.end();
    }
}

#[test]
fn watch_keeps_no_mount_busy() {
    let world = World::mounted();
    let mut watcher = Watcher::start(&world, &[]);
    world.umount(&[]).succeeds_silently();
    watcher.says("waiting for it to be back");
    watcher.end();
}

#[test]
fn watch_prints_what_was_asked_for() {
    let world = World::mounted();
    world.lockfs(&["session", "begin", "agent-7"]).succeeds_silently();
    for directory in ["build", "builder"] {
        fs::create_dir(world.path(directory)).unwrap();
    }
    fs::write(world.path("build/web"), "").unwrap();
    fs::write(world.path("builder/x"), "").unwrap();
    fs::write(world.path(".sessions/agent-7/build/y"), "").unwrap();
    fs::remove_file(world.path("build/web")).unwrap();
    fs::write(world.path("last"), "").unwrap();
    let seen = |flags: &[&str], last: &str| {
        let mut child = world.command(&[&["watch", "--all"], flags].concat()).spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let mut seen = Vec::new();
        eventually("the last one is seen", || {
            seen.extend(lines.try_iter());
            seen.iter().any(|line: &String| line.contains(last))
        });
        kill("INT", &child.id().to_string());
        child.wait().unwrap();
        seen
    };
    let below = seen(&["build"], "release ");
    assert!(
        below.iter().all(|line| line.contains("path=build/") || line.ends_with("path=build")),
        "{below:?}"
    );
    assert_eq!(below.iter().filter(|line| line.contains("path=build/")).count(), 3, "{below:?}");
    let only = seen(&["--event", "release,begin"], "release ");
    assert!(only.iter().all(|line| line.contains(" release ") || line.contains(" begin ")), "{only:?}");
    let its = seen(&["--session", "agent-7"], "path=build/y");
    assert!(its.iter().all(|line| line.contains("session=agent-7")) && its.len() == 2, "{its:?}");
}

/// Where it is a terminal each line has its width and colours; in a pipe all of it, and none.
#[test]
fn what_is_printed_fits_the_terminal_and_is_whole_in_a_pipe() {
    let world = World::mounted();
    let long = format!("{}\u{6f22}\u{5b57}", "long-".repeat(30));
    fs::write(world.path(&long), "").unwrap();
    for words in [&["ls"][..], &["who"], &["watch", "--all"]] {
        let screen = |environment: &[(&str, &str)], flags: &[&str]| {
            let mut command = world.command(&[words, flags].concat());
            command.envs(environment.iter().copied());
            let screen = Terminal::start(command, (24, 120));
            screen.shows("\u{6f22}\u{5b57}");
            eventually("the line has ended", || screen.bytes().ends_with(b"\r\n"));
            let text = screen.screen();
            let of_the_lock =
                text.lines().filter(|line| line.contains("...") && line.contains("\u{6f22}\u{5b57}")).count();
            assert_eq!(of_the_lock, 1, "{words:?}: {text}");
            screen.bytes().contains(&b'\x1b')
        };
        assert!(screen(&[], &[]), "{words:?}");
        assert!(!screen(&[("NO_COLOR", "1")], &[]) && !screen(&[("TERM", "dumb")], &[]), "{words:?}");
        assert!(!screen(&[], &["--color", "never"]) && screen(&[("NO_COLOR", "1")], &["--color", "always"]));
        if words[0] == "watch" {
            continue;
        }
        let piped = world.lockfs(words).succeeds().stdout;
        assert!(piped.contains(&long) && !piped.contains('\x1b'), "{piped}");
        let mut forced = world.command(words);
        let forced = Said::from(forced.env("CLICOLOR_FORCE", "1").output().unwrap()).succeeds().stdout;
        assert_eq!(forced.contains('\x1b'), words[0] == "who", "{words:?}: {forced:?}");
    }
}

#[test]
fn watch_sees_all_hosts_in_one_order_over_a_restart_of_redis() {
    let mut server = RedisServer::options().persistence(Persistence::AofAlways).start();
    let [a, b] = ["dev1", "dev2"].map(|name| host(&server, name));
    let mut watchers = [&a, &b].map(|world| Watcher::start(world, &["--json"]));
    let mut expected = Vec::new();
    let mut acquire = |name: &str| {
        for (world, host) in [(&a, "a"), (&b, "b")] {
            let name = format!("x-{name}-{host}");
            fs::write(world.path(&name), "").unwrap();
            expected.push(name);
        }
    };
    (0..20).for_each(|number| acquire(&format!("before-{number}")));
    server.kill();
    watchers.iter_mut().for_each(|watcher| watcher.says("redis is gone"));
    let tail = at_once("events", || fs::read_to_string(a.path(".lockfs/events")).unwrap());
    assert!(tail.contains("path=x-before-0-a\n"), "{tail}");
    server.restart();
    eventually("it works again", || {
        fs::write(a.path("again"), "").is_ok() && fs::metadata(b.path("again")).is_ok()
    });
    (0..20).for_each(|number| acquire(&format!("after-{number}")));
    for watcher in &mut watchers {
        watcher.sees(&["x-after-19-b"]);
        assert_eq!(watcher.acquired("x-"), expected);
        watcher.says("works again");
    }
    let said = watchers.map(Watcher::end);
    for said in said {
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines.len(), 2, "{said}");
        assert!(lines[0].contains("redis is gone") && lines[1].contains("works again"), "{said}");
    }
}

#[test]
fn numbers_of_events_go_on_when_redis_has_lost_everything() {
    let server = RedisServer::start();
    let [a, b] = ["dev1", "dev2"].map(|name| host(&server, name));
    let mut watchers = [&a, &b].map(|world| Watcher::start(world, &["--json"]));
    // Only one of them acts, and the other one knows how far numbers are all the same.
    (0..50).for_each(|number| fs::write(a.path(&format!("x-{number}")), "").unwrap());
    watchers.iter_mut().for_each(|watcher| watcher.sees(&["x-49"]));
    server.command(&["FLUSHALL"]);
    eventually("what was held is back", || fs::metadata(b.path("x-49")).is_ok());
    eventually("acquires go on", || fs::write(b.path("y-0"), "").is_ok());
    fs::write(a.path("y-1"), "").unwrap();
    for watcher in &mut watchers {
        watcher.sees(&["y-1"]);
        assert_eq!(watcher.acquired("y-"), ["y-0", "y-1"]);
        assert_eq!(watcher.acquired("x-").len(), 50);
    }
}

#[test]
fn status_and_metrics_say_the_same_of_redis() {
    let server = RedisServer::start();
    let [a, _b] = ["dev1", "dev2"].map(|name| host(&server, name));
    for name in ["x", "y", "z"] {
        fs::write(a.path(name), "").unwrap();
    }
    eventually("it is counted", || status(&a).contains("locks: 3\n") && status(&a).contains("hosts: 2\n"));
    let said = status(&a);
    let words =
        ["state: ok", "redis_role: master", "clock_offset: ", "commands_unknown: 0", "redis_version: 7"];
    for word in words {
        assert!(said.contains(word), "no {word} in {said}");
    }
    assert!(said.contains(&format!("redis_address: 127.0.0.1:{}\n", server.port())), "{said}");
    for (name, value) in [
        ("lockfs_up", 1.0),
        ("lockfs_redis_up", 1.0),
        ("lockfs_locks", 3.0),
        ("lockfs_hosts", 2.0),
        ("lockfs_events_lag", 0.0),
        ("lockfs_redis_outages_total", 0.0),
        ("lockfs_redis_commands_repeated_total", 0.0),
        ("lockfs_events_total{event=\"acquire\"}", 3.0),
    ] {
        assert!((metric(&a, name) - value).abs() < 0.001, "{name}");
    }
    let trip = metric(&a, "lockfs_redis_round_trip_seconds{quantile=\"0.5\"}");
    assert!(trip > 0.0 && trip < 1.0, "{trip}");
    assert!(metric(&a, "lockfs_redis_clock_offset_seconds").abs() < 0.1);
    assert!(metric(&a, "lockfs_redis_connections_idle") >= 1.0);
    let text = fs::read_to_string(a.path(".lockfs/metrics")).unwrap();
    let info = text.lines().find(|line| line.starts_with("lockfs_redis_info{")).unwrap();
    for label in ["address=\"127.0.0.1:", "version=\"7.", "role=\"master\""] {
        assert!(info.contains(label) && info.ends_with("} 1"), "{info}");
    }
    // Each family is described once, and its samples stand together (prometheus.io, "Exposition formats").
    let described: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    let mut unique = described.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(described.len(), unique.len(), "{text}");
}

#[test]
fn the_mount_says_how_it_is_while_redis_is_gone_or_stands_still() {
    for how in ["killed", "stopped"] {
        let mut server = RedisServer::start();
        let a = host(&server, "dev1");
        fs::write(a.path("x"), "").unwrap();
        eventually("it is counted", || status(&a).contains("locks: 1\n"));
        if how == "killed" {
            server.kill()
        } else {
            server.pause()
        }
        let all = |a: &World| {
            let said = status(a);
            let listed = at_once("ls", || {
                let ls = std::process::Command::new("ls").arg("-l").arg(a.path(".lockfs")).output().unwrap();
                String::from_utf8(ls.stdout).unwrap()
            });
            assert!(listed.contains("events") && listed.contains("status"), "{listed}");
            let events = at_once("events", || fs::read_to_string(a.path(".lockfs/events")).unwrap());
            assert!(events.contains("path=x\n"), "{events}");
            assert!((metric(a, "lockfs_locks") - 1.0).abs() < 0.001);
            said
        };
        let start = Instant::now();
        let mut said = all(&a);
        while !said.contains("state: unreachable\n") {
            assert!(start.elapsed() < LIMIT, "{how}: {said}");
            std::thread::sleep(Duration::from_millis(50));
            said = all(&a);
        }
        assert!(said.contains("trouble: redis is gone since ") && said.contains("locks: 1\n"), "{said}");
        let exit = at_once("lockfs status", || a.lockfs(&["status"]));
        assert_eq!((exit.code, exit.stderr.as_str()), (69, ""));
        assert!(metric(&a, "lockfs_up") + metric(&a, "lockfs_redis_up") < 0.5);
        assert!((metric(&a, "lockfs_redis_outages_total") - 1.0).abs() < 0.001);
    }
}

#[test]
fn a_foreign_key_is_an_error_and_no_free_lock() {
    let server = RedisServer::start();
    let world = host(&server, "dev1");
    fs::create_dir(world.path("d")).unwrap();
    fs::write(world.path("d/x"), "note").unwrap();
    let daemon = world.daemon();
    for key in ["o", "s", "b", "meta", "events", "x"] {
        let key = format!("lockfs:{{default}}:{key}");
        let kind = server.command(&["TYPE", &key]);
        server.command(&["DEL", &key]);
        let foreign = if kind == "string" { ["RPUSH", &key, "foreign"] } else { ["SET", &key, "foreign"] };
        // The daemon may have made it anew.
        eventually("it is foreign", || server.query::<redis::Value>(&foreign).is_ok());
        let made = fs::File::create_new(world.path("d/x"));
        assert_ne!(made.expect_err("it is held").kind(), std::io::ErrorKind::NotFound);
        let found = fs::metadata(world.path("d/x")).err().map(|error| error.kind());
        assert_ne!(found, Some(std::io::ErrorKind::NotFound), "{key}");
        status(&world);
        server.command(&["DEL", &key]);
        eventually("it works again", || {
            fs::read_to_string(world.path("d/x")).is_ok_and(|note| note == "note")
                && fs::write(world.path("d/y"), "").is_ok()
                && fs::remove_file(world.path("d/y")).is_ok()
                && world.lockfs(&["status"]).code == 0
        });
    }
    assert_eq!(world.daemon(), daemon);
}
