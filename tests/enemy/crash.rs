//! `kill -9` of the daemon at any moment: what was acknowledged before is so after the restart.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::Duration;

use super::common::{Tree, errno, sys};

const KILLS: u32 = 200;
const CLIENTS: usize = 4;
const NAMES: usize = 8;

/// What a client was told of a name of its own, last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Released,
    /// With the inode number, where that could be asked in time.
    Acquired(Option<u64>),
    /// The answer never came.
    Nothing,
}

/// A generator of numbers that seem random (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Whether an error says that the daemon is not there to answer.
fn is_gone(error: &std::io::Error) -> bool {
    let number = error.raw_os_error().unwrap_or(0);
    [libc::ENOTCONN, libc::ECONNABORTED, libc::EIO, libc::ECONNREFUSED].contains(&number)
}

/// One acquire or release of a name; what was told afterwards.
fn act(tree: &Tree, name: &str, before: Told) -> Told {
    let path = tree.path(name);
    if before != Told::Released && before != Told::Nothing {
        return match fs::remove_file(path) {
            Ok(()) => Told::Released,
            Err(error) if is_gone(&error) => Told::Nothing,
            Err(error) => panic!("{name} was {before:?}, and its release fails: {error}"),
        };
    }
    let made = match name.as_bytes()[0] {
        b'd' => fs::create_dir(&path).map(|()| None),
        _ => File::create_new(&path).map(|file| file.metadata().ok().map(|stat| stat.ino())),
    };
    match made {
        Ok(ino) => Told::Acquired(ino),
        Err(error) if is_gone(&error) => Told::Nothing,
        Err(error) => panic!("{name} was {before:?}, and its acquire fails: {error}"),
    }
}

#[test]
fn what_was_acknowledged_before_any_of_200_kills_is_so_after_the_restart() {
    let tree = RwLock::new(Tree::new());
    let told: Mutex<HashMap<String, Told>> = Mutex::default();
    let stop = AtomicBool::new(false);
    let (mut acquired, mut released, mut unknown) = (0, 0, 0);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (tree, told, stop) = (&tree, &told, &stop);
            scope.spawn(move || {
                let mut dice = Dice(client as u64 + 1);
                while !stop.load(Ordering::Relaxed) {
                    let name = format!("f-{client}-{}", dice.below(NAMES as u64));
                    let tree = tree.read().unwrap();
                    let before = told.lock().unwrap().get(&name).copied().unwrap_or(Told::Released);
                    if before != Told::Nothing {
                        let after = act(&tree, &name, before);
                        told.lock().unwrap().insert(name, after);
                    }
                    drop(tree);
                    std::thread::yield_now();
                }
            });
        }
        let mut dice = Dice(4711);
        for kill in 0..KILLS {
            // Not to wait for anything: to hit another moment each time.
            std::thread::sleep(Duration::from_micros(dice.below(30_000)));
            let pid = tree.read().unwrap().pid();
            super::common::signal(pid, libc::SIGKILL);
            // Clients run into the dead mount, and wait here for the next.
            let mut tree = tree.write().unwrap();
            tree.kill();
            tree.mount();
            for (name, told) in told.lock().unwrap().iter_mut() {
                let there = fs::symlink_metadata(tree.path(name)).ok();
                match (*told, &there) {
                    (Told::Released, None) => released += 1,
                    (Told::Acquired(ino), Some(stat)) => {
                        assert!(ino.is_none_or(|ino| ino == stat.ino()), "{name} after kill {kill}");
                        acquired += 1;
                    }
                    (Told::Nothing, _) => {
                        unknown += 1;
                        *told = there.map_or(Told::Released, |stat| Told::Acquired(Some(stat.ino())));
                    }
                    lost => panic!("{name} after kill {kill}: {lost:?}; {}", tree.log()),
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("found after the kills: {acquired} acquired, {released} released, {unknown} without an answer");
    assert!(acquired > 100 && released > 100, "{acquired} {released}");
}

#[test]
fn tokens_rise_over_a_kill() {
    let mut tree = Tree::new();
    let mut last = 0;
    for _ in 0..5 {
        File::create_new(tree.path("f")).unwrap();
        let token: u64 = sys::getxattr(tree.path("f"), "user.lock.token").unwrap().parse().unwrap();
        assert!(token > last, "{token} after {last}");
        last = token;
        fs::remove_file(tree.path("f")).unwrap();
        tree.kill();
        tree.mount();
    }
}

#[test]
fn calls_under_way_when_the_daemon_is_killed_are_told_so() {
    let mut tree = Tree::new();
    let file = File::create_new(tree.path("f")).unwrap();
    tree.kill();
    assert_eq!(errno(file.metadata()), libc::ENOTCONN);
    assert_eq!(errno(fs::metadata(tree.path("f"))), libc::ENOTCONN);
    assert_eq!(errno(File::create_new(tree.path("g"))), libc::ENOTCONN);
}

#[test]
fn a_stale_mountpoint_is_cleaned_up_at_the_next_mount() {
    let mut tree = Tree::new();
    File::create_new(tree.path("f")).unwrap();
    tree.kill();
    assert_eq!(errno(fs::metadata(tree.root())), libc::ENOTCONN);
    tree.mount();
    assert!(tree.path("f").exists());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert_eq!(mounts.lines().filter(|line| line.contains(tree.root().to_str().unwrap())).count(), 1);
}
