//! Extended attributes: every name, and what is answered to wrong names, values and buffers.

use std::fs::{self, File};

use super::common::job::{Job, in_job};
use super::common::{Tree, errno, sys};
use super::{OK, number};

const READABLE: [&str; 12] = [
    "owner", "session", "ttl", "expires", "token", "host", "pid", "command", "since", "scope", "state",
    "waiting",
];

fn get(tree: &Tree, path: &str, name: &str) -> String {
    sys::getxattr(tree.path(path), &format!("user.lock.{name}")).unwrap()
}

fn set(tree: &Tree, path: &str, name: &str, value: &str) -> i32 {
    number(sys::setxattr(tree.path(path), &format!("user.lock.{name}"), value.as_bytes(), 0))
}

fn is_rfc_3339(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == "0000-00-00T00:00:00Z"
}

#[test]
fn every_attribute_says_what_its_name_says() {
    let tree = Tree::with(&["--host-id", "dev1"]);
    let holder = tree.holder_as(1000, "mkdir d; > d/f");
    let value = |name| get(&tree, "d/f", name);
    let user = String::from_utf8(tree.run("id -nu 1000").stdout).unwrap();
    assert_eq!(value("owner"), format!("{}@dev1", user.trim()));
    assert!(value("session").starts_with(&format!("dev1-{}-", holder.pid())), "{}", value("session"));
    assert!((295..=300).contains(&value("ttl").parse::<u32>().unwrap()));
    assert!(is_rfc_3339(&value("expires")) && is_rfc_3339(&value("since")));
    assert!(value("expires") > value("since"));
    assert!(value("token").parse::<u64>().unwrap() > 0);
    assert_eq!(value("host"), "dev1");
    assert_eq!(value("pid"), holder.pid().to_string());
    assert_eq!(value("command"), "bash");
    assert_eq!(value("scope"), "host");
    assert_eq!(value("state"), "held");
    assert_eq!(value("waiting"), "0");
}

#[test]
fn the_state_says_that_the_job_has_ended() {
    let tree = Tree::new();
    tree.holder("> f").kill();
    super::common::eventually("it is marked", || get(&tree, "f", "state") == "ended");
    assert!(fs::read_to_string(tree.path("f")).unwrap().contains("\nstate: ended\n"));
}

#[test]
fn the_attributes_are_listed() {
    let tree = Tree::new();
    fs::create_dir(tree.path("d")).unwrap();
    File::create_new(tree.path("f")).unwrap();
    let mut names: Vec<String> = READABLE.iter().map(|name| format!("user.lock.{name}")).collect();
    assert_eq!(sys::listxattr(tree.path("f")).unwrap(), names);
    assert_eq!(sys::listxattr(tree.path("d")).unwrap(), names);
    sys::setxattr(tree.path("d"), "user.lock.default_ttl", b"5m", 0).unwrap();
    names.push("user.lock.default_ttl".to_owned());
    assert_eq!(sys::listxattr(tree.path("d")).unwrap(), names);
    assert_eq!(sys::listxattr(tree.root()).unwrap(), [""; 0]);
}

#[test]
fn what_is_listed_can_be_read() {
    let tree = Tree::new();
    fs::create_dir(tree.path(".sessions/s")).unwrap();
    File::create_new(tree.path("f")).unwrap();
    fs::write(tree.path(".sessions/s/g"), "note").unwrap();
    for path in ["f", ".sessions/s", ".sessions/s/g", ".lockfs/info/f", ".lockfs", ".lockfs/status", "."] {
        for name in sys::listxattr(tree.path(path)).unwrap() {
            assert!(!sys::getxattr(tree.path(path), &name).unwrap().is_empty(), "{path} {name}");
        }
    }
    let output = tree.run("getfattr -d f");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.contains('=')).count(), 12);
}

#[test]
fn a_ttl_is_set_from_now_in_seconds_units_or_never() {
    let tree = Tree::new();
    File::create_new(tree.path("f")).unwrap();
    for (value, left) in
        [("90", "90"), ("5m", "300"), ("1h30m\n", "5400"), ("never", "never"), ("0", "never")]
    {
        assert_eq!(set(&tree, "f", "ttl", value), OK, "{value}");
        assert_eq!(get(&tree, "f", "ttl"), left, "{value}");
    }
    assert_eq!(get(&tree, "f", "expires"), "never");
}

#[test]
fn values_that_make_no_sense_are_refused_and_change_nothing() {
    let tree = Tree::new();
    File::create_new(tree.path("f")).unwrap();
    fs::create_dir(tree.path("d")).unwrap();
    let before = get(&tree, "f", "token");
    let ttls =
        ["", " ", "-1", "5x", "m", "1.5", "99999999999999999999", "1 h", "\u{0663}", "never!", "5m\0x"];
    for value in ttls {
        assert_eq!(set(&tree, "f", "ttl", value), libc::EINVAL, "{value:?}");
        assert_eq!(set(&tree, "d", "default_ttl", value), libc::EINVAL, "{value:?}");
    }
    for value in ["", "x", "-1", "1e3", "0x10", "99999999999999999999", "1 1"] {
        assert_eq!(set(&tree, "f", "break", value), libc::EINVAL, "{value:?}");
    }
    for value in ["", ".x", "a/b", "a b", "\u{e9}", &"x".repeat(129)] {
        assert_eq!(set(&tree, "f", "transfer", value), libc::EINVAL, "{value:?}");
    }
    for name in ["ttl", "break", "transfer"] {
        let wrong = sys::setxattr(tree.path("f"), &format!("user.lock.{name}"), b"\xff\xfe", 0);
        assert_eq!(errno(wrong), libc::EINVAL);
        let long = sys::setxattr(tree.path("f"), &format!("user.lock.{name}"), &[b'1'; 60_000], 0);
        assert_eq!(errno(long), libc::EINVAL);
    }
    assert_eq!((get(&tree, "f", "token"), get(&tree, "f", "ttl").as_str()), (before, "300"));
}

#[test]
fn a_file_has_no_default_ttl() {
    let tree = Tree::new();
    File::create_new(tree.path("f")).unwrap();
    assert_eq!(set(&tree, "f", "default_ttl", "5m"), libc::ENOTDIR);
    assert_eq!(errno(sys::getxattr(tree.path("f"), "user.lock.default_ttl")), libc::ENODATA);
}

#[test]
fn what_is_for_reading_is_not_written() {
    let tree = Tree::new();
    File::create_new(tree.path("f")).unwrap();
    for name in READABLE.into_iter().filter(|name| *name != "ttl") {
        assert_eq!(set(&tree, "f", name, "1"), libc::EPERM, "{name}");
        let removed = sys::removexattr(tree.path("f"), &format!("user.lock.{name}"));
        assert_eq!(errno(removed), libc::EPERM, "{name}");
    }
}

#[test]
fn what_is_for_writing_is_not_read() {
    let tree = Tree::new();
    File::create_new(tree.path("f")).unwrap();
    for name in ["break", "transfer"] {
        let read = sys::getxattr(tree.path("f"), &format!("user.lock.{name}"));
        assert_eq!(errno(read), libc::ENODATA, "{name}");
    }
}

#[test]
fn unknown_names_have_no_data_and_are_not_supported() {
    let tree = Tree::new();
    File::create_new(tree.path("f")).unwrap();
    for name in ["user.lock.unknown", "user.lock.", "user.lock.TTL"] {
        assert_eq!(errno(sys::getxattr(tree.path("f"), name)), libc::ENODATA, "{name}");
        assert_eq!(errno(sys::setxattr(tree.path("f"), name, b"1", 0)), libc::EOPNOTSUPP, "{name}");
        assert_eq!(errno(sys::removexattr(tree.path("f"), name)), libc::ENODATA, "{name}");
    }
}

#[test]
fn other_namespaces_are_not_supported_at_once_and_without_asking_the_store() {
    let tree = Tree::new();
    File::create_new(tree.path("f")).unwrap();
    // The kernel asks for this one before each write, and judges by itself what may be written there.
    assert_eq!(errno(sys::getxattr(tree.path("f"), "security.capability")), libc::EOPNOTSUPP);
    for name in ["user.mime_type", "user.lockx", "security.other", "trusted.x"] {
        assert_eq!(errno(sys::getxattr(tree.path("f"), name)), libc::EOPNOTSUPP, "{name}");
        assert_eq!(errno(sys::setxattr(tree.path("f"), name, b"1", 0)), libc::EOPNOTSUPP, "{name}");
        assert_eq!(errno(sys::removexattr(tree.path("f"), name)), libc::EOPNOTSUPP, "{name}");
    }
    // `system.` is refused by the kernel itself, `cp -a` and `ls -l` go on.
    assert_eq!(errno(sys::getxattr(tree.path("f"), "system.posix_acl_access")), libc::EOPNOTSUPP);
    assert!(tree.run("ls -l && cp -a f ../copy").status.success());
}

#[test]
fn too_small_a_buffer_is_a_range_error_and_none_asks_for_the_size() {
    let tree = Tree::new();
    File::create_new(tree.path("f")).unwrap();
    let [path, name] = [tree.path("f"), "user.lock.token".into()];
    let name = name.to_str().unwrap();
    let token = sys::getxattr(&path, name).unwrap();
    assert_eq!(sys::getxattr_into(&path, name, 0).unwrap().len(), token.len());
    assert_eq!(sys::getxattr_into(&path, name, token.len()).unwrap(), token.as_bytes());
    assert_eq!(errno(sys::getxattr_into(&path, name, token.len() - 1)), libc::ERANGE);
    let names = sys::listxattr_into(&path, 4096).unwrap();
    assert_eq!(sys::listxattr_into(&path, 0).unwrap().len(), names.len());
    assert_eq!(sys::listxattr_into(&path, names.len()).unwrap(), names);
    assert_eq!(errno(sys::listxattr_into(&path, names.len() - 1)), libc::ERANGE);
}

#[test]
fn create_and_replace_judge_whether_the_attribute_is_there() {
    let tree = Tree::new();
    fs::create_dir(tree.path("d")).unwrap();
    let set = |name: &str, flags| number(sys::setxattr(tree.path("d"), name, b"5m", flags));
    let (create, replace) = (libc::XATTR_CREATE, libc::XATTR_REPLACE);
    assert_eq!(set("user.lock.default_ttl", replace), libc::ENODATA);
    assert_eq!(set("user.lock.default_ttl", create), OK);
    assert_eq!(set("user.lock.default_ttl", create), libc::EEXIST);
    assert_eq!(set("user.lock.default_ttl", replace), OK);
    assert_eq!(set("user.lock.ttl", create), libc::EEXIST);
    assert_eq!(set("user.lock.ttl", replace), OK);
}

// .break and .transfer.

#[test]
fn break_ends_anothers_lock_by_its_token_and_by_no_other() {
    let tree = Tree::new();
    let _holder = tree.holder("> f");
    let token: u64 = get(&tree, "f", "token").parse().unwrap();
    for wrong in [0, token - 1, token + 1] {
        assert_eq!(set(&tree, "f", "break", &wrong.to_string()), libc::ESTALE);
    }
    assert!(tree.path("f").exists());
    assert_eq!(set(&tree, "f", "break", &format!("{token}\n")), OK);
    assert_eq!(number(File::create_new(tree.path("f"))), OK);
}

#[test]
fn break_is_for_the_locks_user_and_root() {
    let tree = Tree::new();
    let _holder = tree.holder_as(1000, "umask 0; > f; > g");
    let [f, g] = ["f", "g"].map(|path| get(&tree, path, "token"));
    in_job(1001, || assert_eq!(set(&tree, "f", "break", &f), libc::EPERM));
    in_job(1000, || assert_eq!(set(&tree, "f", "break", &f), OK));
    in_job(0, || assert_eq!(set(&tree, "g", "break", &g), OK));
}

#[test]
fn transfer_hands_a_lock_to_a_session_with_a_new_token() {
    let tree = Tree::new();
    in_job(1000, || {
        fs::create_dir(tree.path(".sessions/heir")).unwrap();
        File::create_new(tree.path("f")).unwrap();
        let before: u64 = get(&tree, "f", "token").parse().unwrap();
        assert_eq!(set(&tree, "f", "transfer", "nobody"), libc::ENOENT);
        assert_eq!(set(&tree, "f", "transfer", "heir"), OK);
        assert_eq!(get(&tree, "f", "session"), "heir");
        assert!(get(&tree, "f", "token").parse::<u64>().unwrap() > before);
        assert_eq!(set(&tree, "f", "ttl", "90"), libc::EBUSY, "it is not ours any more");
        assert!(tree.path(".sessions/heir/f").exists());
    });
}

#[test]
fn only_the_holder_transfers_and_only_to_a_session_of_its_user() {
    let tree = Tree::new();
    in_job(1001, || fs::create_dir(tree.path(".sessions/bobs")).unwrap());
    let mut holder = Job::start(1000, |turn| {
        fs::create_dir(tree.path(".sessions/alices")).unwrap();
        File::create_new(tree.path("f")).unwrap();
        turn.pause();
        assert_eq!(set(&tree, "f", "transfer", "bobs"), libc::EPERM);
        turn.pause();
    });
    in_job(1000, || assert_eq!(set(&tree, "f", "transfer", "alices"), libc::EBUSY));
    in_job(0, || assert_eq!(set(&tree, "f", "transfer", "alices"), libc::EBUSY));
    holder.resume();
}
