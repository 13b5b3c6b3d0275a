//! Who may do what to a lock that exists: the table of rights, each row by each column, on a real mount.
//!
//! The columns are: to open it in any mode; to change it (write, utimes, a truncate that changes something,
//! chmod, setxattr); to remove it (unlink, rename away, rename over it).

mod common;

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use common::job::{Job, in_job, in_job_of_this_login};
use common::{Tree, errno, sys};

const ALICE: u32 = 1000;
const BOB: u32 = 1001;

const OK: i32 = 0;

fn number<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.map_or_else(|error| errno::<T>(Err(error)), |_| OK)
}

/// A lock with a note, whatever the umask.
fn acquire(path: impl AsRef<Path>, mode: u32) {
    let mut file = File::options().write(true).create_new(true).mode(mode).open(&path).unwrap();
    file.write_all(b"held\n").unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// The locks that one test needs: one to open, one to change, three to remove in three ways.
#[derive(Debug)]
struct Locks(PathBuf);

impl Locks {
    fn acquire(root: &Path) -> Self {
        Self::acquire_with(root, 0o644)
    }

    fn acquire_with(root: &Path, mode: u32) -> Self {
        for name in ["lock", "unlinked", "moved", "covered"] {
            acquire(root.join(name), mode);
        }
        Self(root.to_owned())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The answers to an open for reading, for writing, for both, and with `O_CREAT`.
    fn open(&self) -> [i32; 4] {
        [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR, libc::O_RDWR | libc::O_CREAT]
            .map(|flags| number(sys::open(self.path("lock"), flags, 0o644)))
    }

    /// The answers to a write, utimes to now and to a given time, a truncate by path, an open with `O_TRUNC`,
    /// a chmod and a setxattr.
    fn change(&self) -> [i32; 7] {
        let lock = self.path("lock");
        [
            number(sys::open(&lock, libc::O_WRONLY, 0).and_then(|mut file| file.write_all(b"mine"))),
            number(sys::touch(&lock)),
            number(sys::utimens(&lock, (1, 2), (1, 2))),
            number(sys::truncate(&lock, 2)),
            number(sys::open(&lock, libc::O_WRONLY | libc::O_TRUNC, 0)),
            number(fs::set_permissions(&lock, Permissions::from_mode(0o600))),
            number(sys::setxattr(&lock, "user.lock.ttl", b"90", 0)),
        ]
    }

    /// The answers to an unlink, a rename away, and a rename of a lock of the caller's own over it.
    fn remove(&self) -> [i32; 3] {
        let own = self.path(&format!("own-{}", std::process::id()));
        File::create_new(&own).unwrap();
        [
            number(fs::remove_file(self.path("unlinked"))),
            number(fs::rename(self.path("moved"), self.path("elsewhere"))),
            number(fs::rename(own, self.path("covered"))),
        ]
    }

    /// Nothing has happened to the one that was to be changed.
    fn assert_unchanged(&self, before: &fs::Metadata) {
        let after = fs::metadata(self.path("lock")).unwrap();
        let facts = |of: &fs::Metadata| (of.mode(), of.size(), of.mtime(), of.mtime_nsec(), of.ctime_nsec());
        assert_eq!(facts(&after), facts(before));
    }
}

const NOBODY_BUT_THE_HOLDER_CHANGES_IT: [i32; 7] = [libc::EBUSY; 7];

// The holding session.

#[test]
fn the_holder_opens() {
    let tree = Tree::new();
    in_job(ALICE, || assert_eq!(Locks::acquire(&tree.root()).open(), [OK; 4]));
}

#[test]
fn the_holder_changes() {
    let tree = Tree::new();
    in_job(ALICE, || assert_eq!(Locks::acquire(&tree.root()).change(), [OK; 7]));
}

#[test]
fn the_holder_removes() {
    let tree = Tree::new();
    in_job(ALICE, || assert_eq!(Locks::acquire(&tree.root()).remove(), [OK; 3]));
}

#[test]
fn a_change_by_the_holder_renews() {
    let tree = Tree::with(&["--ttl", "300s"]);
    in_job(ALICE, || {
        let lock = Locks::acquire(&tree.root()).path("lock");
        sys::setxattr(&lock, "user.lock.ttl", b"100s", 0).unwrap();
        let left = || sys::getxattr(&lock, "user.lock.ttl").unwrap();
        common::eventually("a second is gone", || left() == "99");
        sys::touch(&lock).unwrap();
        assert_eq!(left(), "100");
    });
}

// Whoever descends from a process of the holding job.

#[test]
fn a_descendant_of_the_holding_job_opens() {
    let tree = Tree::new();
    in_job(ALICE, || {
        let locks = Locks::acquire(&tree.root());
        in_job(ALICE, || assert_eq!(locks.open(), [OK; 4]));
    });
}

#[test]
fn a_descendant_of_the_holding_job_changes() {
    let tree = Tree::new();
    in_job(ALICE, || {
        let locks = Locks::acquire(&tree.root());
        in_job(ALICE, || assert_eq!(locks.change(), [OK; 7]));
        assert!(locks.path("lock").exists());
    });
}

#[test]
fn a_descendant_of_the_holding_job_removes() {
    let tree = Tree::new();
    in_job(ALICE, || {
        let locks = Locks::acquire(&tree.root());
        in_job_of_this_login(ALICE, || {
            assert_eq!(number(fs::remove_file(locks.path("unlinked"))), OK);
            assert_eq!(number(fs::rename(locks.path("moved"), locks.path("elsewhere"))), OK);
            assert_eq!(number(fs::rename(locks.path("elsewhere"), locks.path("covered"))), OK);
        });
    });
}

#[test]
fn a_descendant_renames_a_lock_of_its_own_over_one_of_the_holding_job() {
    let tree = Tree::new();
    in_job(ALICE, || {
        let locks = Locks::acquire(&tree.root());
        in_job_of_this_login(ALICE, || assert_eq!(locks.remove(), [OK; 3]));
    });
}

#[test]
fn timeout_rm_in_a_script_is_the_script() {
    let tree = Tree::new();
    let output = tree.run("set -e; set -C; > f; timeout 5 rm f; > f; timeout 5 setsid -w rm f; ! test -e f");
    assert!(output.status.success(), "{output:?}");
}

// The same login as the creating job, which has ended.

/// Runs `act` in a job whose login has had another job, now ended, that holds the locks.
fn after_a_job_of_the_same_login(tree: &Tree, act: impl FnOnce(Locks)) {
    in_job(ALICE, || {
        in_job_of_this_login(ALICE, || drop(Locks::acquire(&tree.root())));
        in_job_of_this_login(ALICE, || act(Locks(tree.root())));
    });
}

#[test]
fn the_same_login_opens_when_the_job_has_ended() {
    let tree = Tree::new();
    after_a_job_of_the_same_login(&tree, |locks| assert_eq!(locks.open(), [OK; 4]));
}

#[test]
fn the_same_login_changes_when_the_job_has_ended_and_takes_the_lock_over() {
    let tree = Tree::new();
    after_a_job_of_the_same_login(&tree, |locks| {
        let lock = locks.path("lock");
        let facts =
            || ["session", "token"].map(|name| sys::getxattr(&lock, &format!("user.lock.{name}")).unwrap());
        let [session, token] = facts();
        assert_eq!(locks.change(), [OK; 7]);
        let [new_session, new_token] = facts();
        assert_ne!(new_session, session);
        assert!(new_token.parse::<u64>().unwrap() > token.parse().unwrap(), "{new_token} after {token}");
        in_job(ALICE, || assert_eq!(locks.change(), [OK; 7], "a descendant of the new holder"));
    });
}

#[test]
fn a_job_of_the_same_login_that_lives_keeps_its_locks() {
    let tree = Tree::new();
    in_job(ALICE, || {
        let _holder = Job::start_in(common::job::Login::Same, ALICE, |turn| {
            Locks::acquire(&tree.root());
            turn.pause();
        });
        in_job_of_this_login(ALICE, || {
            let locks = Locks(tree.root());
            assert_eq!(locks.change(), NOBODY_BUT_THE_HOLDER_CHANGES_IT);
            assert_eq!(locks.remove(), [libc::EPERM; 3]);
        });
    });
}

#[test]
fn the_same_login_removes_when_the_job_has_ended() {
    let tree = Tree::new();
    after_a_job_of_the_same_login(&tree, |locks| assert_eq!(locks.remove(), [OK; 3]));
}

#[test]
fn a_login_touches_writes_and_removes_by_one_job_each() {
    let tree = Tree::new();
    let output = tree.run_as(ALICE, "set -me; touch f; touch f; cat /dev/null; (echo x >f); cat f; rm f");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "x\n", "{output:?}");
    assert!(output.status.success(), "{output:?}");
}

// The same user, the holder alive; or a named session.

/// Runs `act` while a job of Alice's, another than the test's, holds the locks.
fn while_alice_holds(tree: &Tree, act: impl FnOnce(Locks)) {
    let _holder = Job::start(ALICE, |turn| {
        Locks::acquire(&tree.root());
        turn.pause();
    });
    act(Locks(tree.root()));
}

#[test]
fn the_same_user_opens_what_a_living_job_holds() {
    let tree = Tree::new();
    while_alice_holds(&tree, |locks| in_job(ALICE, || assert_eq!(locks.open(), [OK; 4])));
}

#[test]
fn the_same_user_does_not_change_what_a_living_job_holds() {
    let tree = Tree::new();
    while_alice_holds(&tree, |locks| {
        let before = fs::metadata(locks.path("lock")).unwrap();
        in_job(ALICE, || assert_eq!(locks.change(), NOBODY_BUT_THE_HOLDER_CHANGES_IT));
        locks.assert_unchanged(&before);
        assert_eq!(fs::read(locks.path("lock")).unwrap(), b"held\n");
    });
}

#[test]
fn a_truncate_that_changes_nothing_is_no_change() {
    let tree = Tree::new();
    while_alice_holds(&tree, |locks| {
        in_job(ALICE, || {
            assert_eq!(number(sys::truncate(locks.path("lock"), 5)), OK);
            let file = File::options().write(true).open(locks.path("lock")).unwrap();
            assert_eq!(number(file.set_len(5)), OK);
            assert_eq!(number(file.set_len(6)), libc::EBUSY);
        });
    });
}

#[test]
fn an_empty_lock_is_opened_and_truncated_by_everyone() {
    let tree = Tree::new();
    let _holder = tree.holder_as(ALICE, "> f");
    let output = tree.run_as(ALICE, ": > f");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_same_user_does_not_remove_what_a_living_job_holds() {
    let tree = Tree::new();
    while_alice_holds(&tree, |locks| {
        in_job(ALICE, || assert_eq!(locks.remove(), [libc::EPERM; 3]));
        assert!(["unlinked", "moved", "covered"].iter().all(|name| locks.path(name).exists()));
        assert!(!locks.path("elsewhere").exists());
    });
}

#[test]
fn touch_and_echo_and_rm_fail_on_anothers_lock() {
    let tree = Tree::new();
    let _holder = tree.holder_as(ALICE, "echo mine > f");
    for script in ["touch f", "echo x > f", "rm -f f", "mv f g", "echo x >> f", "chmod 600 f"] {
        let output = tree.run_as(ALICE, script);
        assert!(!output.status.success(), "{script}: {output:?}");
    }
    assert_eq!(fs::read(tree.path("f")).unwrap(), b"mine\n");
}

#[test]
fn a_stale_breaker_that_judges_by_age_does_not_break_a_living_lock() {
    let tree = Tree::new();
    let _holder = tree.holder_as(ALICE, "echo $$ > f; touch -d '2 days ago' f");
    let output = tree.run_as(ALICE, "find f -mmin +5 -delete; test -n \"$(find f -mmin +5)\" && rm -f f");
    assert!(!output.status.success(), "{output:?}");
    assert!(tree.path("f").exists());
}

#[test]
fn a_named_session_is_alive_whoever_began_it_has_ended() {
    let tree = Tree::new();
    in_job(ALICE, || {
        fs::create_dir(tree.path(".sessions/agent")).unwrap();
        Locks::acquire(&tree.path(".sessions/agent"));
    });
    let locks = Locks(tree.root());
    in_job(ALICE, || {
        assert_eq!(locks.open(), [OK; 4]);
        assert_eq!(locks.change(), NOBODY_BUT_THE_HOLDER_CHANGES_IT);
        assert_eq!(locks.remove(), [libc::EPERM; 3]);
    });
}

#[test]
fn a_named_session_may_all_through_its_own_directory() {
    let tree = Tree::new();
    in_job(ALICE, || {
        fs::create_dir(tree.path(".sessions/agent")).unwrap();
        Locks::acquire(&tree.path(".sessions/agent"));
    });
    in_job(ALICE, || {
        let locks = Locks(tree.path(".sessions/agent"));
        assert_eq!((locks.open(), locks.change(), locks.remove()), ([OK; 4], [OK; 7], [OK; 3]));
    });
}

// The same user, the holder's job ended, in another login.

fn after_a_job_of_alices(tree: &Tree) -> Locks {
    in_job(ALICE, || drop(Locks::acquire(&tree.root())));
    Locks(tree.root())
}

#[test]
fn the_same_user_opens_what_an_ended_job_left() {
    let tree = Tree::new();
    let locks = after_a_job_of_alices(&tree);
    in_job(ALICE, || assert_eq!(locks.open(), [OK; 4]));
}

#[test]
fn the_same_user_does_not_change_what_an_ended_job_left() {
    let tree = Tree::new();
    let locks = after_a_job_of_alices(&tree);
    let before = fs::metadata(locks.path("lock")).unwrap();
    in_job(ALICE, || assert_eq!(locks.change(), NOBODY_BUT_THE_HOLDER_CHANGES_IT));
    locks.assert_unchanged(&before);
}

#[test]
fn the_same_user_removes_what_an_ended_job_left() {
    let tree = Tree::new();
    let locks = after_a_job_of_alices(&tree);
    in_job(ALICE, || assert_eq!(locks.remove(), [OK; 3]));
}

// Another user.

#[test]
fn another_user_opens_as_the_mode_says() {
    let tree = Tree::new();
    while_alice_holds(&tree, |locks| {
        let [denied, exists] = [libc::EACCES, libc::EEXIST];
        in_job(BOB, || {
            assert_eq!(locks.open(), [OK, denied, denied, denied]);
            assert_eq!(number(File::create_new(locks.path("lock"))), exists);
        });
    });
}

#[test]
fn another_user_does_not_even_read_a_private_lock() {
    let tree = Tree::new();
    let _holder = Job::start(ALICE, |turn| {
        Locks::acquire_with(&tree.root(), 0o600);
        turn.pause();
    });
    in_job(BOB, || assert_eq!(Locks(tree.root()).open(), [libc::EACCES; 4]));
}

#[test]
fn another_user_does_not_change_as_the_mode_says() {
    let tree = Tree::new();
    while_alice_holds(&tree, |locks| {
        let [denied, not_owner] = [libc::EACCES, libc::EPERM];
        let answers = [denied, denied, not_owner, denied, denied, not_owner, denied];
        in_job(BOB, || assert_eq!(locks.change(), answers));
    });
}

#[test]
fn another_user_does_not_change_what_everyone_may_write() {
    let tree = Tree::new();
    let _holder = Job::start(ALICE, |turn| {
        Locks::acquire_with(&tree.root(), 0o666);
        turn.pause();
    });
    let locks = Locks(tree.root());
    let before = fs::metadata(locks.path("lock")).unwrap();
    in_job(BOB, || {
        assert_eq!(locks.open(), [OK; 4]);
        let [held, not_owner] = [libc::EBUSY, libc::EPERM];
        assert_eq!(locks.change(), [held, held, not_owner, held, held, not_owner, held]);
    });
    locks.assert_unchanged(&before);
}

#[test]
fn another_user_does_not_remove() {
    let tree = Tree::new();
    while_alice_holds(&tree, |locks| in_job(BOB, || assert_eq!(locks.remove(), [libc::EPERM; 3])));
}

#[test]
fn another_user_does_not_remove_what_an_ended_job_left() {
    let tree = Tree::new();
    let locks = after_a_job_of_alices(&tree);
    in_job(BOB, || assert_eq!(locks.remove(), [libc::EPERM; 3]));
}

#[test]
fn another_user_does_not_remove_in_anothers_directory() {
    let tree = Tree::new();
    let _holder = tree.holder_as(ALICE, "mkdir -m 755 d; > d/f; mkdir -m 777 open; > open/f");
    in_job(BOB, || {
        assert_eq!(number(fs::remove_file(tree.path("d/f"))), libc::EACCES);
        assert_eq!(number(fs::remove_file(tree.path("open/f"))), libc::EPERM);
        assert_eq!(number(File::create_new(tree.path("d/g"))), libc::EACCES);
        assert_eq!(number(File::create_new(tree.path("open/g"))), OK);
    });
}

// Root, on another user's lock.

#[test]
fn root_opens_anothers_lock() {
    let tree = Tree::new();
    while_alice_holds(&tree, |locks| in_job(0, || assert_eq!(locks.open(), [OK; 4])));
}

#[test]
fn root_does_not_change_anothers_lock() {
    let tree = Tree::new();
    while_alice_holds(&tree, |locks| {
        in_job(0, || assert_eq!(locks.change(), NOBODY_BUT_THE_HOLDER_CHANGES_IT));
    });
}

#[test]
fn root_removes_anothers_lock() {
    let tree = Tree::new();
    while_alice_holds(&tree, |locks| in_job(0, || assert_eq!(locks.remove(), [OK; 3])));
}

#[test]
fn root_does_not_remove_what_another_job_of_its_own_holds() {
    let tree = Tree::new();
    let _holder = Job::start(0, |turn| {
        Locks::acquire(&tree.root());
        turn.pause();
    });
    in_job(0, || assert_eq!(Locks(tree.root()).remove(), [libc::EPERM; 3]));
}
