//! dpkg, whose lock is fcntl(2)'s on a file that stays for ever, and which says who has it.
//!
//! Its files are no business of the mount's but its two locks: they are symbolic links into it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::programs::{need, said, succeeds};
use crate::ground::{Place, on_every_ground};
use crate::puppet::Mode::{Exclusive, None as Unlocked};
use crate::puppet::{Puppet, Style};
use crate::script::Script;

/// A place where dpkg has its files, outside of the mount, with the locks in `root`.
fn prepare(place: &Place, name: &str, root: &Path) -> PathBuf {
    let admin = place.scratch().join(name);
    for dir in ["", "updates", "info", "triggers"] {
        fs::create_dir(admin.join(dir)).unwrap();
    }
    for file in ["status", "available"] {
        fs::write(admin.join(file), "").unwrap();
    }
    for lock in ["lock", "lock-frontend"] {
        std::os::unix::fs::symlink(root.join(lock), admin.join(lock)).unwrap();
    }
    admin
}

fn dpkg(admin: &Path) -> Command {
    let mut command = Command::new("dpkg");
    command.env("LC_ALL", "C").env_remove("DPKG_FRONTEND_LOCKED").arg("--admindir").arg(admin);
    command.args(["--force-not-root", "--force-script-chrootless", "--log=/dev/null"]);
    command
}

fn configure(admin: &Path) -> Output {
    dpkg(admin).args(["--configure", "-a"]).output().unwrap()
}

/// A package that does nothing but run `script` while dpkg has its locks.
fn package(place: &Place, script: &str) -> PathBuf {
    let dir = place.scratch().join("package");
    fs::create_dir_all(dir.join("DEBIAN")).unwrap();
    let control = "Package: locked\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: none\n";
    fs::write(dir.join("DEBIAN/control"), control).unwrap();
    let preinst = dir.join("DEBIAN/preinst");
    fs::write(&preinst, format!("#!/bin/sh\nset -e\n{script}\n")).unwrap();
    fs::set_permissions(&preinst, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let package = place.scratch().join("locked.deb");
    let mut build = Command::new("dpkg-deb");
    succeeds(&build.arg("--build").arg(&dir).arg(&package).output().unwrap());
    package
}

on_every_ground! {
    fn it_names_who_has_its_lock(place) {
        need("dpkg");
        let admin = prepare(&place, "admin", &place.there());
        succeeds(&configure(&admin));
        for lock in ["lock-frontend", "lock"] {
            let owner = Puppet::new(&place.here());
            let fd = owner.open(lock);
            owner.try_lock(fd, Style::Posix, Exclusive).unwrap();
            let output = configure(&admin);
            assert_eq!(output.status.code(), Some(2), "{}", said(&output));
            // A number of another host's would name a stranger here.
            let pid = if place.is_of_two_hosts() { 0 } else { owner.pid() };
            let message = format!("was locked by another process with pid {pid}\n");
            assert!(said(&output).contains(&message), "{}", said(&output));
            owner.try_lock(fd, Style::Posix, Unlocked).unwrap();
            succeeds(&configure(&admin));
        }
    }

    fn two_exclude_each_other(place) {
        need("dpkg-deb");
        let package = package(&place, "echo inside; read -r word");
        let [a, b] = [("a", place.here()), ("b", place.there())].map(|(name, root)| prepare(&place, name, &root));
        let mut install = dpkg(&a);
        let instdir = place.scratch().join("installed");
        fs::create_dir(&instdir).unwrap();
        install.arg("--instdir").arg(instdir).arg("--install").arg(&package);
        let mut first = Script::of(0, &place.here(), install);
        while first.line() != "inside" {}
        let output = configure(&b);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains("dpkg frontend lock was locked"), "{}", said(&output));
        first.go();
        succeeds(&first.end());
        succeeds(&configure(&b));
    }
}
