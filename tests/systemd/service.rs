//! `lockfs.service` and its like: start, order, stop, crash, watchdog, credential, user, shutdown.

use std::fs;

use crate::machine::{DEV, Machine, eventually};

/// A service that can do something only with the mount.
const CONSUMER: &str = "\
[Unit]
Requires=lockfs.service
After=lockfs.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'set -C; echo from a service >/locks/consumer'
ExecStop=/bin/sh -c 'rm /locks/consumer && echo released >/mnt/outside/consumer'
";

#[test]
fn a_service_that_needs_the_mount_finds_it() {
    let machine = Machine::boot();
    machine.write("/etc/systemd/system/consumer.service", CONSUMER);
    machine.run("systemctl daemon-reload; systemctl start consumer");
    assert_eq!(fs::read_to_string(machine.path("/locks/consumer")).unwrap(), "from a service\n");
    assert_eq!(machine.property("lockfs", "ActiveState"), "active");
    // Stopping what it needs stops it first, while the mount answers.
    machine.run("systemctl stop lockfs");
    assert_eq!(fs::read_to_string(machine.outside("consumer")).unwrap(), "released\n");
    assert!(!machine.is_mounted("/locks"));
}

#[test]
fn the_service_starts_at_boot_says_how_it_is_and_unmounts_when_it_is_stopped() {
    let mut machine = Machine::boot();
    machine.run("systemctl enable lockfs; systemctl isolate multi-user.target");
    machine.eventually("the status has the locks", |machine| {
        machine.property("lockfs", "StatusText") == "leveldb: ok, 0 locks, 0 waiting"
    });
    // All users have it, and what they are is seen, whoever they are.
    machine.run(&format!("{DEV} LOCKFS_SESSION=agent-7 touch /locks/x"));
    assert_eq!(machine.run("getfattr --only-values -n user.lock.session /locks/x"), "agent-7");
    // A file that is open does not keep the service from ending.
    let script = "exec 9</locks/x; echo open >/mnt/outside/open; read -r _ <&8";
    let mut holder = machine.command(&format!("exec 8<>/mnt/outside/fifo; {script}"));
    machine.run("mkfifo /mnt/outside/fifo");
    let mut holder = holder.spawn().unwrap();
    machine.eventually("the lock is open", |machine| machine.outside("open").exists());
    machine.run("systemctl stop lockfs");
    assert!(!machine.is_mounted("/locks"));
    assert_eq!(machine.property("lockfs", "Result"), "success");
    // Nobody but root takes the bare directory for locks.
    machine.fails(&format!("{DEV} touch /locks/y"));
    fs::write(machine.outside("fifo"), "\n").unwrap();
    holder.wait().unwrap();
}

#[test]
fn a_crash_brings_the_mount_back_with_its_locks() {
    let mut machine = Machine::boot();
    machine.run("systemctl start lockfs; mkdir /locks/.sessions/s; touch /locks/.sessions/s/held");
    let token = "getfattr --only-values -n user.lock.token /locks/held";
    let before = machine.run(token);
    machine.run("systemctl kill --kill-whom=main -s KILL lockfs");
    machine.eventually("the mount is back", |machine| {
        machine.property("lockfs", "NRestarts") == "1"
            && machine.property("lockfs", "ActiveState") == "active"
    });
    assert_eq!(machine.run(token), before);
    // What the dead daemon left was taken away, not covered.
    machine.run("systemctl stop lockfs");
    assert!(!machine.is_mounted("/locks"));
}

#[test]
fn a_setting_that_makes_no_sense_is_not_tried_again() {
    let mut machine = Machine::boot();
    machine.write("/etc/lockfs/lockfs.conf", "LOCKFS_TTL=soon\n");
    machine.fails("systemctl start lockfs");
    machine.eventually("it has failed", |machine| machine.property("lockfs", "ActiveState") == "failed");
    let unit = ["ExecMainStatus", "NRestarts"].map(|property| machine.property("lockfs", property));
    assert_eq!(unit, ["64", "0"]);
    // The line is in the journal, with the place.
    let said = machine.run("journalctl -u lockfs --no-pager");
    assert!(said.contains("LOCKFS_TTL in /etc/lockfs/lockfs.conf, line 1, is 'soon'"), "{said}");
}

/// A watchdog that a test can wait for.
fn with_watchdog(machine: &Machine) {
    machine.write("/etc/systemd/system/lockfs.service.d/w.conf", "[Service]\nWatchdogSec=3s\n");
    machine.run("systemctl daemon-reload; systemctl start lockfs");
}

#[test]
fn a_daemon_that_hangs_is_replaced_and_one_that_answers_is_not() {
    let mut machine = Machine::boot();
    with_watchdog(&machine);
    let pid = machine.property("lockfs", "MainPID");
    let fed = |machine: &mut Machine| machine.property("lockfs", "WatchdogTimestampMonotonic");
    for _ in 0..4 {
        let before = fed(&mut machine);
        machine.eventually("it is fed", |machine| fed(machine) != before);
    }
    assert_eq!(machine.property("lockfs", "MainPID"), pid);
    machine.run("touch /locks/x; systemctl kill --kill-whom=main -s STOP lockfs");
    machine.eventually("another answers", |machine| {
        machine.property("lockfs", "MainPID") != pid && machine.property("lockfs", "ActiveState") == "active"
    });
    assert!(machine.path("/locks/x").exists());
    let said = machine.run("journalctl -u lockfs --no-pager");
    assert!(said.contains("lockfs.service: Watchdog timeout"), "{said}");
}

#[test]
fn a_mount_that_has_left_its_place_is_brought_back() {
    let mut machine = Machine::boot();
    with_watchdog(&machine);
    machine.run("mkfifo /mnt/outside/fifo");
    // Held open, the mount lives on where nobody can get to it, and its daemon with it.
    let mut holder = machine.command("exec 9>/locks/x 8<>/mnt/outside/fifo; umount -l /locks; read -r _ <&8");
    let mut holder = holder.spawn().unwrap();
    machine.eventually("the mount is gone", |machine| !machine.is_mounted("/locks"));
    machine.eventually("the mount is back", |machine| machine.is_mounted("/locks"));
    fs::write(machine.outside("fifo"), "\n").unwrap();
    holder.wait().unwrap();
}

#[test]
fn a_redis_that_wants_a_password_gets_it_from_a_credential() {
    let mut machine = Machine::boot();
    machine.write("/run/redis.conf", "requirepass hunter2\nport 6379\nsave \"\"\n");
    machine.run("ip link set lo up");
    machine.write(
        "/etc/lockfs/lockfs.conf",
        "LOCKFS_BACKEND=redis\nREDIS_HOST=127.0.0.1\nLOCKFS_METRICS_LISTEN=9464\n",
    );
    // The unit alone lets nobody into the network, and the error says so.
    machine.fails("systemctl start lockfs");
    let said = machine.run("journalctl -u lockfs --no-pager");
    assert!(said.contains("RestrictAddressFamilies="), "{said}");
    machine.run("systemctl stop lockfs");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/examples/network.conf");
    machine.write("/etc/systemd/system/lockfs.service.d/network.conf", &fs::read_to_string(example).unwrap());
    machine.write("/etc/credstore/lockfs.redis-password", "hunter2");
    // It comes up by itself once Redis does.
    machine.run("systemctl daemon-reload; systemctl start --no-block lockfs");
    machine.eventually("it has been tried", |machine| machine.property("lockfs", "NRestarts") != "0");
    machine.run("systemd-run --quiet --unit=a-redis redis-server /run/redis.conf");
    machine.eventually("it is there", |machine| machine.property("lockfs", "ActiveState") == "active");
    machine.run("touch /locks/x");
    assert_eq!(machine.run("getfattr --only-values -n user.lock.scope /locks/x"), "cluster");
    let scraped = machine
        .run("exec 3<>/dev/tcp/127.0.0.1/9464; printf 'GET /metrics HTTP/1.1\\r\\n\\r\\n' >&3; cat <&3");
    assert!(scraped.contains("\nlockfs_up 1\n"), "{scraped}");
    let said = machine.run("journalctl --no-pager; cat /locks/.lockfs/status; systemctl status lockfs");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn one_more_mount_has_settings_and_a_store_of_its_own() {
    let machine = Machine::boot();
    machine.write("/etc/lockfs/lockfs.conf", "LOCKFS_TTL=1h\n");
    machine.write("/etc/lockfs/srv-ci-locks.conf", "LOCKFS_TTL=90s\n");
    machine.run("systemctl start lockfs lockfs@srv-ci-locks lockfs@srv-other");
    machine.run("touch /locks/x");
    for (point, ttl) in [("/locks", "1h"), ("/srv/ci/locks", "90s"), ("/srv/other", "1h")] {
        let status = machine.run(&format!("cat {point}/.lockfs/status"));
        assert!(status.contains(&format!("\nttl: {ttl}\n")), "{status}");
        assert_eq!(machine.path(&format!("{point}/x")).exists(), point == "/locks");
    }
    machine.run("systemctl stop lockfs@srv-ci-locks");
    assert!(!machine.is_mounted("/srv/ci/locks") && machine.is_mounted("/srv/other"));
}

/// A manager for the user `dev`, without a login: the unit `user@.service` wants PAM, logind and D-Bus.
const USER_MANAGER: &str = "\
[Service]
Type=notify
User=dev
Delegate=yes
RuntimeDirectory=user/4711
RuntimeDirectoryMode=0700
Environment=XDG_RUNTIME_DIR=/run/user/4711 HOME=/home/dev
ExecStart=/lib/systemd/systemd --user
";

#[test]
fn a_user_has_a_mount_of_their_own() {
    let mut machine = Machine::boot();
    machine.write("/etc/systemd/system/manager-of-dev.service", USER_MANAGER);
    machine.run("systemctl daemon-reload; systemctl start manager-of-dev");
    let user = |script: &str| machine.run(&format!("{DEV} {script}"));
    user("systemctl --user start lockfs");
    assert!(machine.is_mounted("/home/dev/locks"));
    user("touch /home/dev/locks/x");
    assert_eq!(user("cat /proc/self/mounts").matches("user_id=4711").count(), 1);
    // Who is in it stays there, whatever becomes of the daemon.
    let mut inside =
        machine.command(&format!("exec {DEV} sh -c 'cd ~/locks && exec sleep 1000 >>x'")).spawn().unwrap();
    let sleeper = "pgrep -x -u 4711 sleep";
    machine.eventually("somebody is inside", |machine| !machine.said(sleeper).is_empty());
    let user = |script: &str| machine.run(&format!("{DEV} {script}"));
    let main = || user("systemctl --user show --value -p MainPID lockfs");
    for way in ["systemctl --user restart lockfs", "systemctl --user kill --kill-whom=main -s KILL lockfs"] {
        let pid = main();
        user(way);
        let is_back = || main() != pid && user("systemctl --user is-active lockfs || :") == "active";
        eventually("another daemon serves", is_back);
        assert_eq!(user(&format!("ls /proc/$({sleeper})/cwd/")), "x", "{way}");
        user(&format!("stat -L /proc/$({sleeper})/fd/1"));
    }
    inside.kill().unwrap();
    inside.wait().unwrap();
    machine.run(&format!("{DEV} systemctl --user stop lockfs"));
    assert!(!machine.is_mounted("/home/dev/locks"));
    assert!(!machine.path("/var/lib/lockfs").exists());
}

#[test]
fn at_shutdown_who_needs_the_mount_ends_before_it() {
    let mut machine = Machine::boot();
    machine.write("/etc/systemd/system/consumer.service", CONSUMER);
    machine.run("systemctl daemon-reload; systemctl start consumer");
    let released = machine.outside("consumer");
    machine.power_off();
    assert_eq!(fs::read_to_string(released).unwrap(), "released\n");
}
