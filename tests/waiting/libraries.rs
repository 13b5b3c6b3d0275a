//! Libraries that lock: what they say where a file is another's, that they get it when it is let go of or its
//! holder is killed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::beside;
use crate::common::eventually;
use crate::common::programs::{need, need_library};
use crate::ground::{Place, on_every_ground};

/// A program that tries, waits or releases as it is told by lines, and says `ok` or `busy`.
pub(crate) struct Locker {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Locker {
    pub(crate) fn start(root: &Path, mut command: Command) -> Self {
        command.current_dir(root).env_remove("LOCKFS_SESSION");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, said }
    }

    /// Tells it what to do.
    pub(crate) fn tell(&mut self, order: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{order}").unwrap();
    }

    /// What it says of that.
    pub(crate) fn says(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Both.
    pub(crate) fn asked(&mut self, order: &str) -> String {
        self.tell(order);
        self.says()
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A library of Python, or what its standard library has.
fn python(way: &str) -> Command {
    need("python3");
    let libraries = need_library("python", "portalocker");
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", libraries).arg(beside("locker.py")).arg(way);
    command
}

/// Two lockers of a kind exclude each other, on both roots of a place.
#[track_caller]
pub(crate) fn two_exclude_each_other(place: &Place, command: impl Fn() -> Command) {
    let [mut a, mut b] = place.roots().map(|root| Locker::start(&root, command()));
    assert_eq!(a.asked("try"), "ok");
    assert_eq!(b.asked("try"), "busy");
    b.tell("wait");
    assert_eq!(a.asked("release"), "ok");
    assert_eq!(b.says(), "ok");
    assert_eq!(a.asked("try"), "busy");
    drop(b);
    eventually("it is free after kill -9", || a.asked("try") == "ok");
}

on_every_ground! {
    fn file_lock(place) {
        two_exclude_each_other(&place, || python("filelock"));
        assert!(place.here().join("f").exists(), "it leaves its file");
    }

    fn portalocker(place) {
        two_exclude_each_other(&place, || python("portalocker"));
    }

    fn inter_process_lock_of_fasteners(place) {
        two_exclude_each_other(&place, || python("fasteners"));
    }

    fn writers_of_fasteners(place) {
        two_exclude_each_other(&place, || python("fasteners-writer"));
    }

    fn readers_of_fasteners(place) {
        let reader = || python("fasteners-reader");
        let [mut a, mut b] = place.roots().map(|root| Locker::start(&root, reader()));
        assert_eq!((a.asked("try"), b.asked("try")), ("ok".to_owned(), "ok".to_owned()));
        let mut writer = Locker::start(&place.there(), python("fasteners-writer"));
        assert_eq!(writer.asked("try"), "busy");
        writer.tell("wait");
        assert_eq!((a.asked("release"), b.asked("release")), ("ok".to_owned(), "ok".to_owned()));
        assert_eq!(writer.says(), "ok");
        assert_eq!(a.asked("try"), "busy");
    }

    fn lock_file_of_zc(place) {
        two_exclude_each_other(&place, || python("zc.lockfile"));
    }

    fn flock_of_python(place) {
        two_exclude_each_other(&place, || python("flock"));
    }

    fn lockf_of_python(place) {
        two_exclude_each_other(&place, || python("lockf"));
        two_exclude_each_other(&place, || python("lockf-of-bytes"));
    }

    fn ofd_locks_of_python(place) {
        two_exclude_each_other(&place, || python("ofd"));
    }
}
