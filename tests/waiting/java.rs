//! Java's `FileChannel.lock`, which is fcntl(2)'s.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use crate::beside;
use crate::common::programs::{need, said};
use crate::contest::Contest;
use crate::ground::{Ground, on_every_ground};
use crate::libraries::{Locker, two_exclude_each_other};
use crate::workers::Way;

/// Java, with `Locking.java`, which is compiled at first use, by whichever test comes first.
fn java() -> Command {
    need("java");
    let mut command = Command::new("java");
    // What starts fastest.
    command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp"]);
    command.arg(classes()).arg("Locking");
    command
}

fn classes() -> PathBuf {
    let source = beside("Locking.java");
    let mut hasher = DefaultHasher::new();
    fs::read(&source).unwrap().hash(&mut hasher);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let classes = target.join(format!("java-{:016x}", hasher.finish()));
    if !classes.exists() {
        need("javac");
        fs::create_dir_all(target).unwrap();
        // Whoever compiles at the same time has another directory, and the first rename wins.
        let dir = tempfile::Builder::new().prefix("java-").tempdir_in(target).unwrap();
        let output = Command::new("javac").arg("-d").arg(dir.path()).arg(source).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        match fs::rename(dir.path(), &classes) {
            Ok(()) => drop(dir.keep()),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::DirectoryNotEmpty),
        }
    }
    classes
}

fn worker() -> Command {
    let mut command = java();
    command.arg("worker");
    command
}

on_every_ground! {
    fn channels_exclude_and_share(place) {
        two_exclude_each_other(&place, java);
        let [mut a, mut b] = place.roots().map(|root| Locker::start(&root, java()));
        assert_eq!(a.asked("try-to-share"), "ok");
        assert_eq!(b.asked("try-to-share"), "ok");
        b.asked("release");
        assert_eq!(b.asked("try"), "busy");
    }
}

#[test]
fn channels_that_wait_exclude_over_two_hosts() {
    Contest { workers: 2, kills: 2, ..Contest::of(Way::Program(worker)) }.run(&Ground::Hosts.lay());
}
