//! What people meet first: each error says what is wrong, where, and what to do, on one line, with the code of `--help`.

use std::fs;
use std::process::Command;

use crate::servers::redis::RedisServer;
use crate::world::*;

/// What is typed, the code it ends with, and what its one line says: the thing, what is wrong, and what to do.
type Case<'a> = (&'a [&'a str], i32, &'a [&'a str]);

#[test]
fn what_can_not_be_done_on_a_mount_says_what_to_do() {
    let world = World::mounted();
    let _holder = world.hold("held");
    fs::write(world.dir.path().join("file"), "").unwrap();
    let point = world.point();
    let point = point.to_str().unwrap();
    let cases: [Case; 20] = [
        (
            &["run", "held", "--", "true"],
            1,
            &["held is held by root@", "expires in", "--wait waits", "lockfs why"],
        ),
        (&["acquire", "held"], 1, &["held is held by root@", "--wait waits"]),
        (&["run", "--wait", "0.1", "held", "--", "true"], 1, &["waited 100ms: held is held by root@"]),
        (&["run", "a/b", "--", "true"], 64, &["there is no directory a", "mkdir -p "]),
        (&["run", "--ttl", "5x", "q", "--", "true"], 64, &["'5x' is no ttl", "5m, 1h30m"]),
        (
            &["run", "--session", "nope", "q", "--", "true"],
            64,
            &["no session nope", "lockfs session begin nope"],
        ),
        (&["break", "nothing"], 1, &["no lock nothing", "lockfs ls"]),
        (&["break", "held"], 64, &["stdin is no terminal", "--yes or --token"]),
        (&["break", "--token", "7", "held"], 1, &["not the lock with token 7", "lockfs why held"]),
        (&["break", "--token", "x", "held"], 64, &["'x'", "a token is a whole number"]),
        (&["ls", "nothing"], 1, &["there is no lock ", "nothing", "lockfs ls"]),
        (&["ls", "/"], 69, &["/ is not in a lockfs mount", "lockfs mount"]),
        (&["session", "end", "nope"], 1, &["no session nope", "lockfs session list"]),
        (&["session", "begin", "a/b"], 64, &["'a/b'", "a session name is 1 to 128 of"]),
        (&["mount", point], 1, &["a lockfs is mounted on ", "lockfs umount "]),
        (&["mount", "file"], 1, &["file is not a directory"]),
        (&["mount", "nowhere"], 1, &["there is no directory ", "mkdir -p "]),
        (&["status", "/"], 69, &["no lockfs is mounted at /", "lockfs mount / mounts one"]),
        (&["umount", "/"], 1, &["no lockfs is mounted on /", "nothing to unmount"]),
        (&["watch", "--event", "x"], 64, &["'x'", "acquire, release"]),
    ];
    for (words, code, parts) in cases {
        world.lockfs(words).fails(code, parts);
    }
    fs::create_dir(world.dir.path().join("second")).unwrap();
    // One data directory has one daemon.
    world.lockfs(&["mount", "second"]).fails(69, &["is in use by pid ", "stop it, or name another"]);
}

#[test]
fn a_daemon_that_is_gone_is_named_by_all_who_need_it() {
    let world = World::mounted();
    kill("KILL", &world.daemon());
    eventually("it is gone", || {
        fs::metadata(world.path("x")).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
    });
    let commands: [&[&str]; 10] = [
        &["ls"],
        &["who"],
        &["status"],
        &["why", "x"],
        &["watch", "--patience", "0"],
        &["break", "--yes", "x"],
        &["run", "x", "--", "true"],
        &["session", "list"],
        &["session", "begin", "s"],
        &["top"],
    ];
    for words in commands {
        world.lockfs(words).fails(69, &["has no daemon any more", "lockfs mount "]);
    }
    // Which is true.
    world.mount(&[]).succeeds_silently();
    world.lockfs(&["ls"]).succeeds();
}

#[test]
fn a_setting_that_makes_no_sense_is_named_with_those_that_do() {
    let world = World::new();
    let cases: [Case; 8] = [
        (&["--ttl", "5x"], 64, &["--ttl", "'5x' is no ttl", "5m, 1h30m"]),
        (&["--backend", "x"], 64, &["--backend", "leveldb, redis or hybrid"]),
        (&["--durability", "x"], 64, &["--durability", "process or power"]),
        (&["--namespace", "a b"], 64, &["--namespace", "'a b'", "A-Z a-z 0-9"]),
        (&["--redis-url", "redis://x"], 64, &["--redis-url", "--backend redis"]),
        (&["--backend", "redis", "--redis-url", "http://x"], 64, &["--redis-url", "redis://host:port"]),
        (&["-o", "bogus=1"], 64, &["'bogus=1'", "ro noexec"]),
        (&["--bogus"], 64, &["'--bogus'", "--help"]),
    ];
    for (flags, code, parts) in cases {
        world.mount(flags).fails(code, parts);
    }
    let file = world.dir.path().join("conf");
    let with_file = || {
        let point = world.point();
        let mut command = world.command(&["mount", point.to_str().unwrap()]);
        Said::from(command.env("LOCKFS_CONFIG", &file).output().unwrap())
    };
    with_file().fails(64, &["cannot read ", "conf: No such file", "LOCKFS_CONFIG"]);
    for (text, parts) in [
        ("LOCKFS_BOGUS=1\n", ["conf, line 1", "'LOCKFS_BOGUS'", "lockfs mount --help"]),
        ("# a\nnonsense\n", ["conf, line 2", "no KEY=value line", "LOCKFS_TTL=5m"]),
    ] {
        fs::write(&file, text).unwrap();
        with_file().fails(64, &parts);
    }
}

#[test]
fn a_redis_that_does_not_let_us_says_why_and_what_to_do() {
    let world = World::new();
    let mount = |url: &str, password: &str| {
        let point = world.point();
        let words = ["mount", "--backend", "redis", "--redis-url", url, point.to_str().unwrap()];
        let mut command = world.command(&words);
        if !password.is_empty() {
            command.env("REDIS_PASSWORD", password);
        }
        Said::from(command.output().unwrap())
    };
    mount("redis://127.0.0.1:1", "")
        .fails(69, &["127.0.0.1:1", "connection refused", "--redis-url", "REDIS_HOST"]);
    let server = RedisServer::start();
    let url = server.url();
    server.command(&["CONFIG", "SET", "requirepass", "right"]);
    mount(&url, "").fails(69, &["127.0.0.1:", "password", "REDIS_PASSWORD"]);
    mount(&url, "wrong")
        .fails(69, &["127.0.0.1:", "refused the password of user 'default'", "REDIS_PASSWORD"]);
    mount(&url, "right").succeeds_silently();
}

#[test]
fn a_machine_without_fuse_is_told_how_to_get_it() {
    let world = World::new();
    let point = world.point();
    let mounting = world.command(&["mount", point.to_str().unwrap()]);
    let mut command = Command::new("unshare");
    let script =
        "mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9 && exec \"$@\"";
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(mounting.get_program()).args(mounting.get_args());
    command.env_clear().envs(mounting.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let said = Said::from(command.output().unwrap());
    said.fails(1, &["cannot mount on ", "there is no /dev/fuse", "modprobe fuse", "--device /dev/fuse"]);
}

#[test]
fn help_names_every_exit_code() {
    let help = World::new().lockfs(&["--help"]).succeeds().stdout;
    for code in ["  0 ", "  1 ", "  64 ", "  69 ", "  70 ", "  78 ", "  141 ", "128 + signal"] {
        assert!(help.contains(code), "no{code}in {help}");
    }
}
