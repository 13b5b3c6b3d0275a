//! A mount outlives its daemon: restart, reload, crash; and goes with it where no other daemon comes.

use std::fs;
use std::process::{Child, Stdio};

use crate::machine::Machine;

/// A machine whose service keeps its locks in `backend`, and is up.
fn machine_on(backend: &str) -> Machine {
    let machine = Machine::boot();
    if backend != "leveldb" {
        machine.start_redis();
        let network = include_str!("../../systemd/examples/network.conf");
        machine.write("/etc/systemd/system/lockfs.service.d/network.conf", network);
        let settings = format!("FILE_LOCK_CACHE_BACKEND={backend}\nREDIS_HOST=127.0.0.1\n");
        machine.write("/etc/lockfs/lockfs.conf", &settings);
        machine.run("systemctl daemon-reload");
    }
    machine.run("systemctl start lockfs");
    machine
}

/// What goes on while daemons come and go. Each part writes what it saw to a file in `/mnt/outside`.
struct Life {
    held: Child,
    writer: Child,
}

/// A shell whose working directory is in the mount, with a lock of its own held and open. It does one thing for each
/// line that it reads.
const HOLDER: &str = "\
cd /locks/work && exec 7<>/locks/held 8<>/mnt/outside/holder && exec 9>/locks/mutex && flock 9 && echo 0 >/mnt/outside/held
n=0
while read -r word <&8; do
    [ $word = end ] && exit 0
    n=$((n + 1))
    { echo line $n >&7 && cat /locks/held && pwd -P && stat -c %n . && mkdir below && rmdir below; } >/mnt/outside/said 2>&1
    echo $n >/mnt/outside/held
done
";

impl Life {
    fn begin(machine: &mut Machine) -> Self {
        machine.run("mkfifo /mnt/outside/holder; mkdir /locks/work");
        let held = machine.command(&format!("set -C; : >/locks/held; set +C; {HOLDER}")).spawn().unwrap();
        let writer = fs::OpenOptions::new().read(true).write(true).open(machine.outside("holder"));
        let writer =
            machine.command("sleep 1000 >>/mnt/outside/holder").stdin(Stdio::from(writer.unwrap())).spawn();
        machine.eventually("the locks are held", |machine| machine.outside("held").exists());
        Self { held, writer: writer.unwrap() }
    }

    /// Has the shell use what it has, and looks at it from outside.
    fn check(&self, machine: &mut Machine, round: u32, token: &str) {
        machine.run("echo go >/mnt/outside/holder");
        let round = round.to_string();
        machine.eventually("it has used what it has", |machine| {
            fs::read_to_string(machine.outside("held")).unwrap().trim() == round
        });
        let said = fs::read_to_string(machine.outside("said")).unwrap();
        assert!(said.ends_with(&format!("line {round}\n/locks/work\n.\n")), "{said}");
        assert_eq!(machine.run("getfattr --only-values -n user.lock.token /locks/held"), token);
        machine.fails("flock -n /locks/mutex true");
    }

    fn end(mut self, machine: &Machine) {
        machine.run("echo end >/mnt/outside/holder");
        assert!(self.held.wait().unwrap().success());
        self.writer.kill().unwrap();
        self.writer.wait().unwrap();
    }
}

/// Acquires and releases one name again and again, and counts those who hold it at once.
const CONTEST: &str = "\
until [ -e /mnt/outside/enough ]; do
    if ( set -C; : >/locks/contest ) 2>/run/error.$$; then
        mkdir /run/inside || echo overlap >>/mnt/outside/wrong
        rmdir /run/inside
        rm /locks/contest || echo 'not released' >>/mnt/outside/wrong
        echo >>/mnt/outside/turns
    else
        grep -q 'File exists\\|cannot overwrite' /run/error.$$ || cat /run/error.$$ >>/mnt/outside/wrong
    fi
done
";

/// The ways in which a daemon is replaced.
const WAYS: [&str; 3] =
    ["systemctl restart lockfs", "systemctl kill --kill-whom=main -s KILL lockfs", "systemctl reload lockfs"];

/// When the daemon began that serves now.
fn began(machine: &Machine) -> String {
    machine.said("systemctl show --value -p MainPID lockfs; journalctl -u lockfs --no-pager | grep -c 'took over the mount'")
}

/// Replaces the daemon, and waits until the next one serves.
fn replace(machine: &mut Machine, way: &str) {
    let before = began(machine);
    machine.run(way);
    machine.eventually("another daemon serves", |machine| {
        began(machine) != before && machine.property("lockfs", "ActiveState") == "active"
    });
}

fn all_that_is_open_stays_on(backend: &str) {
    let mut machine = machine_on(backend);
    let life = Life::begin(&mut machine);
    let token = machine.run("getfattr --only-values -n user.lock.token /locks/held");
    let mount = machine.run("grep ' /locks ' /proc/self/mountinfo");
    for (round, way) in (1..).zip(WAYS) {
        let pid = machine.property("lockfs", "MainPID");
        // They wait while the daemon is replaced, and are granted afterwards.
        let name = format!("turn-{round}");
        machine.run(&format!("mkdir /locks/.sessions/{name}; touch /locks/.sessions/{name}/{name}"));
        let script = format!("touch /locks/.wait/{name} && echo granted >/mnt/outside/{name}");
        let mut door = machine.command(&script).spawn().unwrap();
        let script = format!("flock /locks/mutex-{name} echo granted >/mnt/outside/mutex-{name}");
        let mut first = machine
            .command(&format!("exec 9>/locks/mutex-{name}; flock 9; read -r _ <>/mnt/outside/fifo-{name}"));
        machine.run(&format!("mkfifo /mnt/outside/fifo-{name}"));
        let mut first = first.spawn().unwrap();
        let locked = format!("cat /locks/.lockfs/info/mutex-{name}");
        machine.eventually("it is locked", |machine| machine.said(&locked).contains("flock"));
        let mut second = machine.command(&script).spawn().unwrap();
        machine.eventually("both wait", |machine| {
            machine.said("grep '^waiting: ' /locks/.lockfs/status") == "waiting: 2"
        });
        replace(&mut machine, way);
        assert_eq!(machine.property("lockfs", "MainPID") == pid, way.contains("reload"), "{way}");
        life.check(&mut machine, round, &token);
        assert_eq!(machine.run("grep ' /locks ' /proc/self/mountinfo"), mount, "{way}");
        assert_eq!(machine.said("grep '^waiting: ' /locks/.lockfs/status"), "waiting: 2", "{way}");
        machine.run(&format!("rmdir /locks/.sessions/{name}"));
        fs::write(machine.outside(&format!("fifo-{name}")), "\n").unwrap();
        assert!(
            door.wait().unwrap().success()
                && first.wait().unwrap().success()
                && second.wait().unwrap().success()
        );
        for name in [&name, &format!("mutex-{name}")] {
            assert_eq!(fs::read_to_string(machine.outside(name)).unwrap(), "granted\n", "{way}");
        }
    }
    life.end(&machine);
    machine.run("systemctl stop lockfs");
    assert!(!machine.is_mounted("/locks"));
    assert_eq!(machine.property("lockfs", "Result"), "success");
    machine.run("systemctl start lockfs; touch /locks/x");
}

#[test]
fn a_mount_outlives_its_daemon_with_all_that_is_open() {
    all_that_is_open_stays_on("leveldb");
}

#[test]
fn a_mount_on_redis_outlives_its_daemon_with_all_that_is_open() {
    all_that_is_open_stays_on("redis");
}

#[test]
fn a_hybrid_mount_outlives_its_daemon_with_all_that_is_open() {
    all_that_is_open_stays_on("hybrid");
}

fn nobody_sees_an_error_on(backend: &str) {
    let mut machine = machine_on(backend);
    machine.run("rm -f /run/inside");
    let mut contest: Vec<Child> = (0..3).map(|_| machine.command(CONTEST).spawn().unwrap()).collect();
    let turns = |machine: &Machine| fs::read(machine.outside("turns")).unwrap_or_default().len();
    for way in WAYS.iter().cycle().take(9) {
        let before = turns(&machine);
        machine.eventually("they go on", |machine| turns(machine) > before + 20);
        replace(&mut machine, way);
    }
    fs::write(machine.outside("enough"), "").unwrap();
    for one in &mut contest {
        assert!(one.wait().unwrap().success());
    }
    let wrong = fs::read_to_string(machine.outside("wrong")).unwrap_or_default();
    assert!(wrong.is_empty(), "{wrong}\n{}", machine.said("journalctl -u lockfs --no-pager | tail -n 40"));
}

#[test]
fn who_acquires_sees_no_error_and_no_overlap_however_often_the_daemon_is_replaced() {
    nobody_sees_an_error_on("leveldb");
}

#[test]
fn who_acquires_on_redis_sees_no_error_and_no_overlap_however_often_the_daemon_is_replaced() {
    nobody_sees_an_error_on("redis");
}

#[test]
fn a_daemon_that_cannot_start_again_leaves_no_mount_that_hangs() {
    let mut machine = Machine::boot();
    machine.run("systemctl start lockfs; mkdir /locks/dir");
    let mut inside = machine.command("cd /locks/dir; exec 8<>/mnt/outside/fifo; read -r _ <&8; ! ls");
    machine.run("mkfifo /mnt/outside/fifo");
    let mut inside = inside.spawn().unwrap();
    // One that is only asked says so, and nothing changes.
    machine.write("/etc/lockfs/lockfs.conf", "LOCKFS_TTL=soon\n");
    let pid = machine.property("lockfs", "MainPID");
    machine.run("systemctl reload lockfs");
    machine.eventually("it is not replaced", |machine| {
        machine.said("journalctl -u lockfs --no-pager").contains("not replaced, and going on as before: ")
    });
    machine.run("touch /locks/x");
    assert_eq!(machine.property("lockfs", "MainPID"), pid);
    // One that is restarted so has failed, and the mount has gone.
    machine.fails("systemctl restart lockfs");
    machine.eventually("it has failed", |machine| machine.property("lockfs", "ActiveState") == "failed");
    assert_eq!(machine.property("lockfs", "ExecMainStatus"), "64");
    assert!(!machine.is_mounted("/locks"));
    fs::write(machine.outside("fifo"), "\n").unwrap();
    assert!(inside.wait().unwrap().success(), "who was in it is told");
    // A damaged store, found after a crash.
    machine.run("rm /etc/lockfs/lockfs.conf; systemctl start lockfs; mkdir /locks/y");
    let flip = "find /var/lib/lockfs -type f -size +0 -exec perl -0777 -pi -e \
                'substr($_, length($_) / 2, 1) ^= chr(85)' {} + && \
                systemctl kill --kill-whom=main -s KILL lockfs";
    machine.run(flip);
    machine.eventually("it has failed", |machine| machine.property("lockfs", "ActiveState") == "failed");
    assert_eq!(machine.property("lockfs", "ExecMainStatus"), "78");
    assert!(!machine.is_mounted("/locks"));
}

#[test]
fn other_settings_make_the_mount_anew() {
    let machine = Machine::boot();
    machine.run("systemctl start lockfs; touch /locks/x");
    machine.write("/etc/lockfs/lockfs.conf", "LOCKFS_NAMESPACE=other\n");
    machine.run("systemctl restart lockfs");
    assert!(machine.path("/locks").is_dir() && !machine.path("/locks/x").exists());
    let said = machine.run("journalctl -u lockfs --no-pager");
    assert!(said.contains("the mount is not kept, but made anew: the settings are others"), "{said}");
    machine.run("systemctl stop lockfs");
    assert!(!machine.is_mounted("/locks"));
}
