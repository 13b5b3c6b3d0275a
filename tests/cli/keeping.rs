//! SIGHUP: another program goes on with the mount, in the same process, and nobody who uses the mount can tell.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::world::*;

/// A world whose daemon is a copy of the program, which can be replaced. Everything is said relative to the directory.
struct Copied {
    world: World,
    log: PathBuf,
}

impl Copied {
    fn mounted() -> Self {
        let world = World::new();
        let copied = Self { log: world.dir.path().join("log"), world };
        copied.install(&fs::read(env!("CARGO_BIN_EXE_lockfs")).unwrap());
        let mut mount = copied.command(&["mount", "--data-dir", "data", "--log-file", "log", "locks"]);
        assert!(mount.output().unwrap().status.success());
        copied
    }

    fn command(&self, words: &[&str]) -> Command {
        let plain = self.world.command(&[]);
        let mut command = Command::new(self.program());
        let environment = plain.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let environment = environment.filter(|(name, _)| *name != "LOCKFS_DATA_DIR");
        command.args(words).env_clear().envs(environment).current_dir(self.world.dir.path());
        command
    }

    fn program(&self) -> PathBuf {
        self.world.dir.path().join("lockfs")
    }

    /// Puts another program in the place of the copy, as a package does.
    fn install(&self, bytes: &[u8]) {
        let new = self.world.dir.path().join("new");
        fs::write(&new, bytes).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, self.program()).unwrap();
    }

    fn logged(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Sends SIGHUP, and waits until `outcome` has been logged once more.
    fn replace(&self, outcome: &str) {
        let count = || self.logged().matches(outcome).count();
        let before = count();
        kill("HUP", &self.world.daemon());
        eventually(outcome, || count() > before);
    }
}

const REPLACED: &str = "took over the mount";

#[test]
fn the_program_that_is_there_by_now_goes_on_in_the_same_process() {
    let copied = Copied::mounted();
    let world = &copied.world;
    let pid = world.daemon();
    let running = || fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    for _ in 0..3 {
        copied.install(&fs::read(env!("CARGO_BIN_EXE_lockfs")).unwrap());
        assert!(running().to_str().unwrap().ends_with("/lockfs (deleted)"));
        copied.replace(REPLACED);
        assert_eq!((world.daemon(), running()), (pid.clone(), copied.program()));
    }
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
    world.umount(&[]).succeeds_silently();
    assert!(!world.is_mounted() && !is_running(&pid));
}

#[test]
fn what_is_open_and_held_stays_so() {
    let copied = Copied::mounted();
    let world = &copied.world;
    fs::create_dir(world.path(".sessions/agent")).unwrap();
    fs::write(world.path(".sessions/agent/note"), "of the agent").unwrap();
    let mut file = File::options().read(true).write(true).create_new(true).open(world.path("x")).unwrap();
    let mut status = File::open(world.path(".lockfs/status")).unwrap();
    let mut events = File::open(world.path(".lockfs/events")).unwrap();
    let mut seen = String::new();
    events.read_to_string(&mut seen).unwrap();
    // Of each kind of directory that has no number in the store.
    let places = ["", ".sessions/agent", ".lockfs/info", ".wait"];
    let inside = places.map(|place| File::open(world.path(place)).unwrap());
    let before = file.metadata().unwrap().ino();
    for round in 1..=3 {
        copied.replace(REPLACED);
        writeln!(file, "round {round}").unwrap();
        assert_eq!(fs::read_to_string(world.path("x")).unwrap().lines().count(), round);
        assert_eq!(file.metadata().unwrap().ino(), before);
        for (place, directory) in places.iter().zip(&inside) {
            let of_descriptor =
                fs::read_dir(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(directory)));
            let (open, named) =
                (of_descriptor.unwrap().count(), fs::read_dir(world.path(place)).unwrap().count());
            assert_eq!(open, named, "{place}");
        }
        let mut said = String::new();
        status.rewind().unwrap();
        status.read_to_string(&mut said).unwrap();
        assert!(said.contains("restart: keeps the mount\n"), "{said}");
        // The file goes on where it was, for whoever reads on.
        fs::write(world.path(format!("event-{round}").as_str()), "").unwrap();
        let mut more = String::new();
        events.read_to_string(&mut more).unwrap();
        assert!(more.contains(&format!("event-{round}")) && !more.contains("note"), "{more}");
    }
    // Its session is kept alive by it, still, and the lock goes as it would have.
    drop(file);
    fs::remove_file(world.path("x")).unwrap();
    fs::remove_dir(world.path(".sessions/agent")).unwrap();
    assert!(!world.path("note").exists());
}

#[test]
fn who_waits_goes_on_waiting_and_is_granted() {
    let copied = Copied::mounted();
    let world = &copied.world;
    let mut holder = world.hold("x");
    let flock = |words: &[&str]| {
        let mut command = Command::new("flock");
        command.args(words).current_dir(world.point()).stdin(Stdio::null());
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Holder(command.spawn().unwrap())
    };
    let mut locker = flock(&["m", "sleep", "1000"]);
    let info = world.path(".lockfs/info/m");
    eventually("it is locked", || fs::read_to_string(&info).is_ok_and(|info| info.contains("flock")));
    let mut door = world.start_waiting("x", &["acquire", "--wait", "1h", "x"]);
    let mut second = flock(&["m", "true"]);
    eventually("it waits", || world.waiting("m") == 1);
    let mut impatient = flock(&["-w", "1", "-E", "7", "m", "true"]);
    for _ in 0..2 {
        copied.replace(REPLACED);
        assert_eq!((world.waiting("x"), door.0.try_wait().unwrap()), (1, None));
        assert_eq!(second.0.try_wait().unwrap(), None);
    }
    // A signal ends a wait that was begun at a daemon before.
    assert_eq!(impatient.end(), 7);
    for job in [&mut holder, &mut locker] {
        Command::new("kill").args(["-s", "TERM", "--", &format!("-{}", job.pid())]).status().unwrap();
        job.0.wait().unwrap();
    }
    assert_eq!((door.end(), second.end()), (0, 0));
    assert_eq!(world.waiting("m"), 0);
}

#[test]
fn a_program_that_cannot_start_changes_nothing() {
    let copied = Copied::mounted();
    let world = &copied.world;
    let file = File::create_new(world.path("x")).unwrap();
    let of_now = fs::read(copied.program()).unwrap();
    for (program, why) in [(&b"no program"[..], "does not run"), (b"#!/bin/sh\nexit 3\n", "exit status: 3")] {
        copied.install(program);
        copied.replace("not replaced, and going on as before: ");
        assert!(copied.logged().lines().last().unwrap().contains(why), "{}", copied.logged());
        file.set_len(3).unwrap();
    }
    fs::remove_file(copied.program()).unwrap();
    copied.replace("not replaced, and going on as before: ");
    // Neither does one that finds settings that make no sense; here the place of its data.
    copied.install(&of_now);
    copied.replace(REPLACED);
    file.set_len(0).unwrap();
}

#[test]
fn a_user_can_have_their_daemon_replaced() {
    let world = World::new();
    let inner = "./lockfs mount --log-file log locks
                 exec 9>locks/x
                 kill -HUP $(sed -n 's/^pid: //p' locks/.lockfs/status)
                 until grep 'took over the mount' log; do :; done
                 echo still there >&9
                 cat locks/x
                 exec 9>&-
                 ./lockfs umount locks
                 ! grep $PWD/locks /proc/self/mountinfo";
    let said = world.script_as_nobody(inner).succeeds().stdout;
    assert!(said.ends_with("\nstill there\n"), "{said}");
}

#[test]
fn a_daemon_in_the_foreground_is_replaced_and_ends_by_sigterm() {
    let world = World::new();
    let point = world.point();
    let mut command = world.command(&["mount", "--foreground", point.to_str().unwrap()]);
    let mut child = command.spawn().unwrap();
    let pid = child.id().to_string();
    eventually("the mount answers", || world.lockfs(&["status"]).code == 0);
    fs::write(world.path("x"), "").unwrap();
    kill("HUP", &pid);
    kill("HUP", &pid);
    kill("TERM", &pid);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains(REPLACED) && !log.contains("WARN"), "{log}");
    assert!(!world.is_mounted());
}
