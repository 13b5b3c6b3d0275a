//! Sessions: `.sessions` as a directory, `LOCKFS_SESSION`, jobs; what they hold, and how it changes hands.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use common::job::{Job, Login, in_job, in_job_of_this_login};
use common::{Tree, errno, eventually, sys};

const ALICE: u32 = 1000;
const BOB: u32 = 1001;

fn get(path: impl AsRef<Path>, name: &str) -> String {
    sys::getxattr(path, &format!("user.lock.{name}")).unwrap()
}

fn token(path: impl AsRef<Path>) -> u64 {
    get(path, "token").parse().unwrap()
}

fn list(path: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn create(path: impl AsRef<Path>) -> io::Result<File> {
    File::create_new(path)
}

/// A tree with a session `agent` that holds `a`, `d` and `d/b`.
fn agents() -> Tree {
    let tree = Tree::new();
    fs::create_dir(tree.path(".sessions/agent")).unwrap();
    create(tree.path(".sessions/agent/a")).unwrap();
    fs::create_dir(tree.path(".sessions/agent/d")).unwrap();
    create(tree.path(".sessions/agent/d/b")).unwrap();
    tree
}

#[test]
fn mkdir_begins_a_session_that_is_listed() {
    let tree = Tree::new();
    in_job(ALICE, || {
        fs::create_dir(tree.path(".sessions/agent")).unwrap();
        assert_eq!(errno(fs::create_dir(tree.path(".sessions/agent"))), libc::EEXIST);
    });
    assert_eq!(list(tree.path(".sessions")), ["agent"]);
    let stat = fs::metadata(tree.path(".sessions/agent")).unwrap();
    assert_eq!((stat.uid(), stat.is_dir()), (ALICE, true));
    assert_eq!(get(tree.path(".sessions/agent"), "state"), "held");
}

#[test]
fn creating_in_a_sessions_directory_acquires_for_it() {
    let tree = agents();
    for path in ["a", "d", "d/b"] {
        assert_eq!(get(tree.path(path), "session"), "agent", "{path}");
    }
    symlink("t", tree.path(".sessions/agent/l")).unwrap();
    fs::hard_link(tree.path(".sessions/agent/a"), tree.path(".sessions/agent/a2")).unwrap();
    assert_eq!(errno(create(tree.path(".sessions/agent/a"))), libc::EEXIST);
    assert_eq!(errno(create(tree.path("a"))), libc::EEXIST);
    assert_eq!(fs::read_link(tree.path("l")).unwrap().as_os_str(), "t");
    assert_eq!(fs::metadata(tree.path("a")).unwrap().nlink(), 2);
}

#[test]
fn a_session_does_not_acquire_what_another_holds() {
    let tree = agents();
    fs::create_dir(tree.path(".sessions/other")).unwrap();
    assert_eq!(errno(create(tree.path(".sessions/other/a"))), libc::EEXIST);
    assert_eq!(errno(create(tree.path(".sessions/other/d/b"))), libc::EEXIST);
    create(tree.path(".sessions/other/d/c")).unwrap();
}

#[test]
fn a_view_lists_only_what_the_session_holds_and_the_way_there() {
    let tree = agents();
    create(tree.path("mine")).unwrap();
    fs::create_dir(tree.path("e")).unwrap();
    create(tree.path("d/mine")).unwrap();
    create(tree.path(".sessions/agent/e/deep")).unwrap();
    assert_eq!(list(tree.path(".sessions/agent")), ["a", "d", "e"]);
    assert_eq!(list(tree.path(".sessions/agent/d")), ["b"]);
    assert_eq!(list(tree.path(".sessions/agent/e")), ["deep"]);
    assert_eq!(errno(File::open(tree.path(".sessions/agent/mine"))), libc::ENOENT);
}

#[test]
fn find_over_the_views_ends() {
    let tree = agents();
    let output = tree.run("find . -path './.lockfs' -prune -o -print | sort");
    let found: BTreeSet<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    for path in ["./a", "./d/b", "./.sessions/agent/a", "./.sessions/agent/d/b"] {
        assert!(found.contains(path), "{path} in {found:?}");
    }
}

#[test]
fn rmdir_releases_everything_at_once_though_it_is_not_empty() {
    let tree = agents();
    let before = tree.status("released");
    fs::remove_dir(tree.path(".sessions/agent")).unwrap();
    assert_eq!(list(tree.root()), [".lockfs", ".sessions", ".wait"]);
    assert_eq!(list(tree.path(".sessions")), [""; 0]);
    assert_eq!(tree.status("released").parse::<u32>().unwrap(), before.parse::<u32>().unwrap() + 3);
}

#[test]
fn rm_r_works_too() {
    let tree = agents();
    let output = tree.run("rm -r .sessions/agent");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(list(tree.root()), [".lockfs", ".sessions", ".wait"]);
}

#[test]
fn rmdir_leaves_directories_that_others_locks_stand_in_and_they_belong_to_no_session() {
    let tree = agents();
    let _holder = tree.holder("> d/other");
    fs::remove_dir(tree.path(".sessions/agent")).unwrap();
    assert_eq!(list(tree.path("d")), ["other"]);
    assert_eq!(errno(sys::getxattr(tree.path("d"), "user.lock.session")), libc::ENODATA);
    assert_eq!(get(tree.path("d"), "state"), "free");
}

#[test]
fn rm_r_leaves_directories_that_others_locks_stand_in() {
    let tree = agents();
    let _holder = tree.holder("> d/other");
    let output = tree.run("rm -r .sessions/agent");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(list(tree.path("d")), ["other"]);
    assert!(!tree.path(".sessions/agent").exists());
}

#[test]
fn a_session_is_its_owners_and_roots() {
    let tree = Tree::new();
    in_job(ALICE, || {
        fs::create_dir(tree.path(".sessions/agent")).unwrap();
        create(tree.path(".sessions/agent/a")).unwrap();
    });
    in_job(BOB, || {
        let denied = [libc::EPERM, libc::EACCES];
        assert!(denied.contains(&errno(create(tree.path(".sessions/agent/b")))));
        assert!(denied.contains(&errno(fs::remove_file(tree.path(".sessions/agent/a")))));
        assert!(denied.contains(&errno(fs::remove_dir(tree.path(".sessions/agent")))));
        assert!(denied.contains(&errno(sys::touch(tree.path(".sessions/agent")))));
        let stolen = fs::rename(tree.path(".sessions/agent"), tree.path(".sessions/stolen"));
        assert!(denied.contains(&errno(stolen)));
    });
    in_job(0, || fs::remove_dir(tree.path(".sessions/agent")).unwrap());
    assert!(!tree.path("a").exists());
}

#[test]
fn touch_renews_all_locks_of_a_session_and_moves_the_time_of_its_directory() {
    let tree = agents();
    for path in ["a", "d/b"] {
        sys::setxattr(tree.path(format!(".sessions/agent/{path}")), "user.lock.ttl", b"100s", 0).unwrap();
    }
    eventually("a second is gone", || get(tree.path("a"), "ttl") == "98");
    sys::utimens(tree.path(".sessions/agent"), (1, 2), (1, 2)).unwrap();
    assert_eq!([get(tree.path("a"), "ttl"), get(tree.path("d/b"), "ttl")], ["100", "100"]);
    assert_eq!(fs::metadata(tree.path(".sessions/agent")).unwrap().mtime_nsec(), 2);
    assert!(tree.run("touch .sessions/agent").status.success());
}

#[test]
fn an_untouched_session_loses_its_locks_and_a_touched_or_open_one_does_not() {
    let tree = Tree::with(&["--ttl", "1s"]);
    for name in ["idle", "open", "touched"] {
        fs::create_dir(tree.path(format!(".sessions/{name}"))).unwrap();
        create(tree.path(format!(".sessions/{name}/{name}"))).unwrap();
    }
    let open = File::open(tree.path(".sessions/open")).unwrap();
    eventually("the idle session's lock has expired", || {
        sys::touch(tree.path(".sessions/touched")).unwrap();
        !tree.path("idle").exists()
    });
    assert!(tree.path("touched").exists() && tree.path("open").exists());
    eventually("the touched one's too, untouched", || !tree.path("touched").exists());
    assert!(tree.path("open").exists());
    drop(open);
    eventually("the open one's too, closed", || !tree.path("open").exists());
}

// mv.

#[test]
fn mv_of_a_session_gives_it_another_name_and_new_tokens() {
    let tree = agents();
    let before = token(tree.path("a"));
    let number = fs::metadata(tree.path(".sessions/agent")).unwrap().ino();
    let output = tree.run("mv .sessions/agent .sessions/heir");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(list(tree.path(".sessions")), ["heir"]);
    assert_eq!(fs::metadata(tree.path(".sessions/heir")).unwrap().ino(), number);
    assert_eq!(get(tree.path("d/b"), "session"), "heir");
    assert!(token(tree.path("a")) > before);
}

#[test]
fn mv_t_of_a_session_over_another_hands_it_everything() {
    let tree = agents();
    fs::create_dir(tree.path(".sessions/heir")).unwrap();
    create(tree.path(".sessions/heir/own")).unwrap();
    let before = (token(tree.path("a")), token(tree.path("own")));
    let output = tree.run("mv -T .sessions/agent .sessions/heir");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(list(tree.path(".sessions")), ["heir"]);
    assert_eq!(list(tree.path(".sessions/heir")), ["a", "d", "own"]);
    assert!(token(tree.path("a")) > before.0);
    assert_eq!(token(tree.path("own")), before.1);
}

#[test]
fn mv_of_one_lock_hands_over_that_one() {
    let tree = agents();
    fs::create_dir(tree.path(".sessions/heir")).unwrap();
    let before = token(tree.path("a"));
    let output = tree.run("mv .sessions/agent/a .sessions/heir/a");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(list(tree.path(".sessions/heir")), ["a"]);
    assert_eq!(list(tree.path(".sessions/agent")), ["d"]);
    assert!(token(tree.path("a")) > before);
    fs::rename(tree.path(".sessions/agent/d/b"), tree.path(".sessions/heir/c")).unwrap();
    assert_eq!(get(tree.path("c"), "session"), "heir");
    assert!(!tree.path("d/b").exists());
}

#[test]
fn sessions_move_among_sessions_only() {
    let tree = agents();
    fs::create_dir(tree.path("plain")).unwrap();
    for (from, to) in [(".sessions/agent", "out"), ("plain", ".sessions/plain"), (".sessions", "out")] {
        assert_eq!(errno(fs::rename(tree.path(from), tree.path(to))), libc::EPERM, "{from} {to}");
    }
    let [from, to] = [tree.path(".sessions/agent"), tree.path(".sessions/other")];
    fs::create_dir(&to).unwrap();
    assert_eq!(errno(sys::rename2(&from, &to, libc::RENAME_NOREPLACE)), libc::EEXIST);
    assert_eq!(errno(sys::rename2(&from, &to, libc::RENAME_EXCHANGE)), libc::EINVAL);
    assert_eq!(errno(fs::rename(&from, tree.path(".sessions/bad name"))), libc::EINVAL);
    assert_eq!(errno(create(tree.path(".sessions/file"))), libc::EPERM);
}

#[test]
fn a_session_is_not_moved_over_another_users() {
    let tree = Tree::new();
    in_job(BOB, || fs::create_dir(tree.path(".sessions/bobs")).unwrap());
    in_job(ALICE, || {
        fs::create_dir(tree.path(".sessions/alices")).unwrap();
        let renamed = fs::rename(tree.path(".sessions/alices"), tree.path(".sessions/bobs"));
        assert_eq!(errno(renamed), libc::EPERM);
    });
}

// Names.

#[test]
fn a_session_name_is_1_to_128_plain_bytes_not_starting_with_a_dot() {
    let tree = Tree::new();
    let begin = |name: &[u8]| {
        let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name);
        fs::create_dir(tree.path(".sessions").join(name)).map_err(|error| error.raw_os_error().unwrap())
    };
    for good in ["a", "agent-7@dev1:x+y_z.1", &"x".repeat(128)] {
        assert_eq!(begin(good.as_bytes()), Ok(()), "{good}");
    }
    for bad in ["a b", "a\n", "\u{e9}", ".hidden", "a\x01", "a,b", "a~", &"x".repeat(129), &"x".repeat(255)] {
        assert_eq!(begin(bad.as_bytes()), Err(libc::EINVAL), "{bad:?}");
    }
    assert_eq!(begin(b"\xff"), Err(libc::EINVAL));
    assert_eq!(begin(b"a/b"), Ok(()), "a directory, in the view of session a");
    assert_eq!(list(tree.root()), [".lockfs", ".sessions", ".wait", "b"]);
    assert_eq!(begin(b"missing/b"), Err(libc::ENOENT));
    assert_eq!(begin(b".."), Err(libc::EEXIST));
    assert_eq!(begin("x".repeat(256).as_bytes()), Err(libc::ENAMETOOLONG));
}

// LOCKFS_SESSION.

#[test]
fn the_environment_names_the_session() {
    let tree = Tree::new();
    assert!(tree.run("export LOCKFS_SESSION=agent; touch a; mkdir d; touch d/b").status.success());
    assert_eq!(list(tree.path(".sessions/agent")), ["a", "d"]);
    let other = tree.run("touch a");
    assert!(!other.status.success());
    let same = tree.run("LOCKFS_SESSION=agent bash -c 'touch a && rm a d/b && rmdir d'");
    assert!(same.status.success(), "{same:?}");
}

#[test]
fn an_empty_session_in_the_environment_is_none() {
    let tree = Tree::new();
    assert!(tree.run("LOCKFS_SESSION= touch a").status.success());
    assert_ne!(get(tree.path("a"), "session"), "");
}

#[test]
fn an_invalid_session_in_the_environment_is_refused() {
    let tree = Tree::new();
    for name in ["a/b", "a b", ".a", &"x".repeat(129)] {
        let output = tree.run(&format!("LOCKFS_SESSION='{name}' touch a"));
        assert!(String::from_utf8_lossy(&output.stderr).contains("Invalid argument"), "{output:?}");
    }
    assert!(!tree.path("a").exists());
    assert!(tree.run("LOCKFS_SESSION=a/b ls -la").status.success(), "looking needs no session");
}

#[test]
fn another_users_session_in_the_environment_is_refused() {
    let tree = Tree::new();
    assert!(tree.run_as(ALICE, "LOCKFS_SESSION=agent touch a").status.success());
    let output = tree.run_as(BOB, "LOCKFS_SESSION=agent touch b");
    assert!(String::from_utf8_lossy(&output.stderr).contains("Operation not permitted"), "{output:?}");
    assert!(!tree.path("b").exists());
    // To hold the name is not to be the holder.
    assert!(!tree.run_as(BOB, "LOCKFS_SESSION=agent rm -f a").status.success());
}

#[test]
fn the_path_goes_before_the_environment() {
    let tree = agents();
    assert!(tree.run("LOCKFS_SESSION=other touch .sessions/agent/x").status.success());
    assert_eq!(get(tree.path("x"), "session"), "agent");
    assert!(tree.run("LOCKFS_SESSION=/// touch .sessions/agent/y").status.success());
}

// Jobs.

#[test]
fn a_job_is_one_session_whichever_of_its_processes_acquires() {
    let tree = Tree::new();
    let output = tree.run("> a; (> b); touch c; touch d; mkdir e | cat");
    assert!(output.status.success(), "{output:?}");
    let sessions: BTreeSet<String> =
        ["a", "b", "c", "d", "e"].map(|path| get(tree.path(path), "session")).into();
    assert_eq!(sessions.len(), 1, "{sessions:?}");
}

#[test]
fn two_jobs_are_two_sessions_also_in_one_login() {
    let tree = Tree::new();
    in_job(0, || {
        in_job_of_this_login(0, || drop(create(tree.path("a")).unwrap()));
        in_job_of_this_login(0, || drop(create(tree.path("b")).unwrap()));
    });
    assert_ne!(get(tree.path("a"), "session"), get(tree.path("b"), "session"));
}

#[test]
fn an_implicit_session_is_called_after_host_and_job_and_is_listed() {
    let tree = Tree::with(&["--host-id", "dev1"]);
    let holder = Job::start_in(Login::New, 0, |turn| {
        create(tree.path("a")).unwrap();
        turn.pause();
    });
    let session = get(tree.path("a"), "session");
    let parts: Vec<&str> = session.split('-').collect();
    assert_eq!((parts[0], parts[1], parts.len()), ("dev1", holder.pid().to_string().as_str(), 3));
    assert_eq!(list(tree.path(".sessions")), [session.as_str()]);
    assert_eq!(list(tree.path(".sessions").join(session)), ["a"]);
}

#[test]
fn a_reused_number_is_another_session() {
    let tree = Tree::new();
    let last_pid = |pid: u32| fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string());
    let first = Job::start(0, |turn| {
        create(tree.path("a")).unwrap();
        turn.pause();
    });
    let number = first.pid();
    first.kill();
    // Start times count in ticks of ten milliseconds.
    let tick = Instant::now() + Duration::from_millis(20);
    eventually("a tick has passed", || Instant::now() > tick);
    // The kernel gives the next free number above the one written; others may be quicker, so try again.
    eventually("the number is given again", || {
        last_pid(number).expect("ns_last_pid can be written by root");
        let again = Job::start(0, |turn| {
            create(tree.path("b")).unwrap();
            turn.pause();
            fs::remove_file(tree.path("b")).unwrap();
        });
        if again.pid() != number {
            let mut other = again;
            other.resume();
            return false;
        }
        assert_ne!(get(tree.path("a"), "session"), get(tree.path("b"), "session"));
        assert_eq!(get(tree.path("a"), "pid"), get(tree.path("b"), "pid"));
        true
    });
    eventually("the first is marked", || get(tree.path("a"), "state") == "ended");
}
