//! Mount, umount, status, check, and the settings.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use crate::world::*;

// mount and umount

#[test]
fn mount_returns_when_the_mount_answers() {
    let world = World::new();
    world.mount(&[]).succeeds_silently();
    assert!(fs::read_to_string(world.path(".lockfs/status")).unwrap().contains("state: ok\n"));
}

#[test]
fn a_mount_can_follow_an_umount_of_the_same_data_at_once() {
    let world = World::new();
    for _ in 0..5 {
        world.mount(&[]).succeeds_silently();
        let daemon = world.daemon();
        world.umount(&[]).succeeds_silently();
        assert!(!world.is_mounted() && !is_running(&daemon));
    }
}

#[test]
fn umount_of_a_mount_in_use_says_so_and_lazy_takes_it_away() {
    let world = World::mounted();
    let open = fs::File::create(world.path("held")).unwrap();
    world.umount(&[]).fails(1, &["is in use", "--lazy"]);
    world.umount(&["--lazy"]).succeeds_silently();
    assert!(!world.is_mounted());
    drop(open);
}

#[test]
fn umount_of_what_is_no_mount_fails() {
    World::new().umount(&[]).fails(1, &["no lockfs is mounted on"]);
}

#[test]
fn mount_wants_a_directory_that_is_there_and_free() {
    let world = World::mounted();
    world.lockfs(&["mount", "missing"]).fails(1, &["there is no directory", "mkdir -p"]);
    fs::write(world.dir.path().join("file"), "").unwrap();
    world.lockfs(&["mount", "file"]).fails(1, &["is not a directory"]);
    world.mount(&[]).fails(1, &["is mounted on", "already"]);
}

#[test]
fn a_second_daemon_on_the_same_data_is_refused() {
    let world = World::mounted();
    fs::create_dir(world.dir.path().join("second")).unwrap();
    let said = world.lockfs(&["mount", "second"]);
    said.fails(69, &[&world.daemon()]);
    world.lockfs(&["mount", "--namespace", "other", "second"]).succeeds_silently();
    world.lockfs(&["umount", "second"]).succeeds_silently();
}

#[test]
fn the_mount_of_a_dead_daemon_is_cleaned_up_by_the_next() {
    let world = World::mounted();
    kill("KILL", &world.daemon());
    eventually("the mount is dead", || fs::metadata(world.point()).is_err());
    world.lockfs(&["status"]).fails(69, &["has no daemon any more"]);
    world.mount(&[]).succeeds_silently();
    world.umount(&[]).succeeds_silently();
    assert!(!world.is_mounted());
}

#[test]
fn a_mount_in_the_foreground_serves_until_sigterm() {
    let world = World::new();
    let point = world.point();
    let mut command = world.command(&["mount", "--foreground", point.to_str().unwrap()]);
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    eventually("the mount answers", || world.lockfs(&["status"]).code == 0);
    assert_eq!(world.daemon(), child.id().to_string());
    kill("TERM", &child.id().to_string());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!world.is_mounted());
}

#[test]
fn a_user_mounts_and_unmounts_for_themselves() {
    let world = World::new();
    let inner = "./lockfs mount locks
                 ./lockfs run x -- test -e locks/x
                 ./lockfs status | grep -x 'state: ok'
                 ./lockfs umount locks
                 ! grep $PWD/locks /proc/self/mountinfo";
    assert_eq!(world.script_as_nobody(inner).succeeds().stdout, "state: ok\n");
}

#[test]
fn a_daemon_keeps_nothing_of_who_started_it() {
    let world = World::mounted();
    let proc = PathBuf::from("/proc").join(world.daemon());
    assert_eq!(fs::read_link(proc.join("cwd")).unwrap(), Path::new("/"));
    for stdio in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(fs::read_link(proc.join(stdio)).unwrap(), Path::new("/dev/null"));
    }
    let stat = fs::read_to_string(proc.join("stat")).unwrap();
    let session = stat.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap();
    assert_eq!(session, world.daemon());
}

#[test]
fn settings_come_from_flag_option_environment_and_file_in_that_order() {
    let world = World::new();
    let file = world.dir.path().join("conf");
    fs::write(&file, "# ours\nLOCKFS_TTL=never\nLOCKFS_NAMESPACE=of-file\n").unwrap();
    let point = world.point();
    let mut command =
        world.command(&["mount", "-o", "rw,ttl=1h,x-systemd.automount", point.to_str().unwrap()]);
    command.env("LOCKFS_CONFIG", &file).env("LOCKFS_NAMESPACE", "of-env").env("LOCKFS_HOST_ID", "host-7");
    Said::from(command.output().unwrap()).succeeds_silently();
    assert!(world.data().join("of-env").is_dir());
    let _holder = world.hold("x");
    let line = world.listed("x");
    assert!(line.contains("@host-7\"") && line.contains("\"ttl_seconds\":3"), "{line}");
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    let world = World::new();
    world.lockfs(&["mount", "--tll", "5m", "locks"]).fails(64, &["--tll"]);
    world.lockfs(&["mount", "--ttl", "soon", "locks"]).fails(64, &["--ttl is 'soon'"]);
    world.lockfs(&["mount", "-o", "tll=5m", "locks"]).fails(64, &["unknown mount option 'tll=5m'"]);
    world.lockfs(&["mount", "--namespace", "../x", "locks"]).fails(64, &["a namespace is"]);
    let mut command = world.command(&["mount", "locks"]);
    let said = Said::from(command.env("FILE_LOCK_CACHE_BACKEND", "both").output().unwrap());
    said.fails(64, &["a backend is leveldb, redis or hybrid"]);
    let mut command = world.command(&["check"]);
    let said = Said::from(command.env("LOCKFS_BACKEND", "redis").output().unwrap());
    said.fails(64, &["the backend is redis"]);
    let with_password = ["mount", "--backend", "redis", "--redis-url", "redis://:hunter2@db", "locks"];
    let said = world.lockfs(&with_password);
    assert!(!said.stderr.contains("hunter2"), "{}", said.stderr);
    said.fails(64, &["--redis-url: there is a password in it"]);
    assert!(!world.is_mounted());
}

// status

#[test]
fn status_prints_what_the_mount_says() {
    let world = World::mounted();
    let said = world.lockfs(&["status"]).succeeds();
    assert!(said.stdout.lines().any(|line| line == "state: ok"), "{}", said.stdout);
    let json = world.lockfs(&["status", "--json", "locks"]).succeeds().stdout;
    assert!(
        json.contains("\"state\":\"ok\"") && json.contains(&format!("\"pid\":{}", world.daemon())),
        "{json}"
    );
}

#[test]
fn status_without_a_mount_is_unavailable() {
    let world = World::new();
    world.lockfs(&["status", "locks"]).fails(69, &["no lockfs is mounted at locks"]);
}

#[test]
fn status_of_a_daemon_that_hangs_ends_all_the_same() {
    let world = World::mounted();
    let daemon = world.daemon();
    kill("STOP", &daemon);
    let start = Instant::now();
    let said = world.lockfs(&["status"]);
    let umount = world.umount(&[]);
    kill("CONT", &daemon);
    said.fails(69, &["did not answer within 5s"]);
    umount.fails(69, &["does not answer", "--lazy"]);
    assert!(start.elapsed() < LIMIT);
}

// check

#[test]
fn check_tells_a_sound_store_from_one_in_use() {
    let world = World::mounted();
    world.lockfs(&["check"]).fails(69, &[&world.daemon()]);
    world.umount(&[]).succeeds_silently();
    world.lockfs(&["check"]).succeeds();
}

/// Changes a byte in the middle of every file of a store.
fn damage(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            damage(&path);
            continue;
        }
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 0x55;
        }
        fs::write(&path, bytes).unwrap();
    }
}

#[test]
fn check_sets_a_damaged_store_aside() {
    let world = World::mounted();
    fs::write(world.path("x"), "a note").unwrap();
    world.umount(&[]).succeeds_silently();
    damage(&world.data().join("default"));
    world.lockfs(&["check"]).fails(78, &["default"]);
    world.mount(&[]).fails(78, &["check", "--repair"]);
    let said = world.lockfs(&["check", "--repair"]).succeeds().stdout;
    let aside = said.trim().strip_prefix("set aside: ").unwrap();
    assert!(fs::read_dir(aside).unwrap().next().is_some(), "{aside}");
    world.mount(&[]).succeeds_silently();
    assert!(!world.path("x").exists());
}

// metrics over HTTP

/// What a mount that was started with `flags` says of where its metrics are: `127.0.0.1:PORT`.
fn metrics_of(world: &World) -> String {
    let status = fs::read_to_string(world.path(".lockfs/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("metrics: http://")).unwrap().to_owned();
    line.strip_suffix("/metrics").unwrap().to_owned()
}

#[test]
fn metrics_are_served_where_the_mount_says() {
    let world = World::new();
    world.mount(&["--metrics-listen", "0"]).succeeds_silently();
    let address = metrics_of(&world);
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    fs::write(world.path("x"), "").unwrap();
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    let lines =
        |text: &str| text.lines().filter(|line| line.starts_with("# HELP")).collect::<Vec<_>>().join("\n");
    assert_eq!(lines(body), lines(&fs::read_to_string(world.path(".lockfs/metrics")).unwrap()));
    assert!(body.contains("\nlockfs_up 1\n") && body.contains("\nlockfs_locks 1\n"), "{body}");
    // The log names the port too, and the port is free when the mount is gone.
    let log = fs::read_to_string(world.data().join("default.log")).unwrap();
    assert!(log.contains(&format!("serving metrics at=http://{address}/metrics")), "{log}");
    world.umount(&[]).succeeds_silently();
    assert!(TcpStream::connect(&address).is_err());
}

#[test]
fn metrics_go_to_another_address_only_if_it_is_said_in_full() {
    let world = World::mounted();
    assert!(!fs::read_to_string(world.path(".lockfs/status")).unwrap().contains("metrics:"));
    world.umount(&[]).succeeds_silently();
    for bad in [":9464", "*:9464", "db.example:9464"] {
        world.mount(&["--metrics-listen", bad]).fails(64, &[bad, "127.0.0.1"]);
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    world.mount(&["-o", &format!("metrics-listen={address}")]).fails(1, &[&address, "in use"]);
    world.mount(&["--metrics-listen", "0.0.0.0:0"]).succeeds_silently();
    assert!(metrics_of(&world).starts_with("0.0.0.0:"));
}

// what a service manager hears

#[test]
fn a_service_manager_hears_of_readiness_state_and_end() {
    let world = World::new();
    let name = format!("lockfs-notify-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let manager = UnixDatagram::bind_addr(&address).unwrap();
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    let hear = || {
        let mut buffer = [0; 4_096];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let point = world.point();
    let mut command = world.command(&["mount", "--foreground", point.to_str().unwrap()]);
    command.env("NOTIFY_SOCKET", format!("@{name}")).env("WATCHDOG_USEC", "60000000").stderr(Stdio::null());
    let mut daemon = command.spawn().unwrap();
    assert_eq!(hear(), "STATUS=opening the leveldb store\n");
    // What the next daemon needs is kept, and nothing of a mount before.
    let names = ["lockfs-device", "lockfs-ledger"];
    let _ = names.map(|name| assert_eq!(hear(), format!("FDSTOREREMOVE=1\nFDNAME={name}\n")));
    let _ = names.map(|name| assert_eq!(hear(), format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n")));
    assert_eq!(hear(), format!("READY=1\nSTATUS=mounted at {}\n", point.display()));
    assert!(world.path(".lockfs/status").exists(), "it said so before the mount answered");
    assert_eq!(hear(), "WATCHDOG=1\nSTATUS=leveldb: ok, 0 locks, 0 waiting\n");
    kill("TERM", &daemon.id().to_string());
    assert_eq!(hear(), "STOPPING=1\nSTATUS=unmounting\n");
    assert!(daemon.wait().unwrap().success());
    // One in the background is not the process that a manager started.
    while manager.set_nonblocking(true).is_ok() && manager.recv(&mut [0; 64]).is_ok() {}
    let mut command = world.command(&["mount", point.to_str().unwrap()]);
    Said::from(command.env("NOTIFY_SOCKET", format!("@{name}")).output().unwrap()).succeeds_silently();
    assert!(manager.recv(&mut [0; 64]).is_err());
}
