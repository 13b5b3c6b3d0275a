//! What stat(2) and statvfs(3) say, and chmod, chown and utimensat change.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::time::SystemTime;

use super::common::job::{Job, in_job};
use super::common::{Tree, errno, eventually, sys};
use super::{OK, number};

fn times(of: &Metadata) -> [(i64, i64); 3] {
    [(of.atime(), of.atime_nsec()), (of.mtime(), of.mtime_nsec()), (of.ctime(), of.ctime_nsec())]
}

#[test]
fn owner_group_and_mode_are_the_creators() {
    let tree = Tree::new();
    in_job(1000, || {
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o751).open(tree.path("f")).unwrap();
        let stat = fs::metadata(tree.path("f")).unwrap();
        assert_eq!((stat.uid(), stat.gid(), stat.mode()), (1000, 1000, libc::S_IFREG | 0o751 & !0o022));
    });
}

#[test]
fn the_umask_is_applied() {
    let tree = Tree::new();
    let script = "umask 027; > f; mkdir d; ln -s t l; stat -c %a f d l";
    assert_eq!(String::from_utf8_lossy(&tree.run(script).stdout), "640\n750\n777\n");
}

#[test]
fn the_root_is_a_sticky_directory_for_everyone() {
    let tree = Tree::new();
    let stat = fs::metadata(tree.root()).unwrap();
    assert_eq!((stat.mode(), stat.uid()), (libc::S_IFDIR | 0o1777, 0));
    let other = fs::metadata(tree.path(".sessions")).unwrap();
    assert_eq!(other.mode(), libc::S_IFDIR | 0o1777);
}

#[test]
fn chmod_sets_every_bit() {
    let tree = Tree::new();
    in_job(0, || {
        File::create_new(tree.path("f")).unwrap();
        for mode in [0o4755, 0o2070, 0o1777, 0] {
            fs::set_permissions(tree.path("f"), Permissions::from_mode(mode)).unwrap();
            assert_eq!(fs::metadata(tree.path("f")).unwrap().mode(), libc::S_IFREG | mode);
        }
    });
}

#[test]
fn chown_is_roots_and_chgrp_to_another_group_too() {
    let tree = Tree::new();
    in_job(0, || {
        File::create_new(tree.path("f")).unwrap();
        chown(tree.path("f"), Some(1000), Some(1001)).unwrap();
        let stat = fs::metadata(tree.path("f")).unwrap();
        assert_eq!((stat.uid(), stat.gid()), (1000, 1001));
        symlink("nowhere", tree.path("l")).unwrap();
        lchown(tree.path("l"), Some(1001), None).unwrap();
        assert_eq!(fs::symlink_metadata(tree.path("l")).unwrap().uid(), 1001);
    });
    in_job(1000, || {
        File::create_new(tree.path("g")).unwrap();
        assert_eq!(number(chown(tree.path("g"), Some(1001), None)), libc::EPERM);
        assert_eq!(number(chown(tree.path("g"), None, Some(1001))), libc::EPERM);
        assert_eq!(number(chown(tree.path("g"), Some(1000), Some(1000))), OK);
    });
}

#[test]
fn times_are_kept_to_the_nanosecond() {
    let tree = Tree::new();
    File::create_new(tree.path("f")).unwrap();
    symlink("nowhere", tree.path("l")).unwrap();
    fs::create_dir(tree.path("d")).unwrap();
    for name in ["f", "l", "d"] {
        for time in [(1_234_567_890, 123_456_789), (0, 0), (4_102_444_800, 999_999_999), (-2, 5)] {
            sys::utimens(tree.path(name), time, time).unwrap();
            let stat = fs::symlink_metadata(tree.path(name)).unwrap();
            assert_eq!(times(&stat)[..2], [time, time], "{name}");
        }
    }
}

#[test]
fn times_beyond_all_bounds_do_the_mount_no_harm() {
    let tree = Tree::new();
    File::create_new(tree.path("f")).unwrap();
    for time in [(i64::MIN, 1), (i64::MIN, 0), (i64::MAX, 999_999_999)] {
        // More often than there are threads to answer.
        for _ in 0..8 {
            sys::utimens(tree.path("f"), time, time).ok();
        }
    }
    sys::utimens(tree.path("f"), (1, 2), (1, 2)).unwrap();
    assert_eq!(fs::metadata(tree.path("f")).unwrap().mtime(), 1);
}

#[test]
fn atime_is_mtime_whatever_is_set() {
    let tree = Tree::new();
    File::create_new(tree.path("f")).unwrap();
    sys::utimens(tree.path("f"), (11, 12), (21, 22)).unwrap();
    assert_eq!(times(&fs::metadata(tree.path("f")).unwrap())[..2], [(21, 22); 2]);
    // To set atime alone moves nothing but ctime.
    sys::utimens(tree.path("f"), (31, 32), (0, libc::UTIME_OMIT)).unwrap();
    assert_eq!(times(&fs::metadata(tree.path("f")).unwrap())[..2], [(21, 22); 2]);
}

#[test]
fn reading_moves_no_time() {
    let tree = Tree::new();
    fs::write(tree.path("f"), "note").unwrap();
    let before = times(&fs::metadata(tree.path("f")).unwrap());
    assert_eq!(before[0], before[1]);
    in_job(0, || {
        fs::read(tree.path("f")).unwrap();
        fs::read_dir(tree.root()).unwrap().for_each(drop);
        sys::getxattr(tree.path("f"), "user.lock.ttl").unwrap();
    });
    assert_eq!(times(&fs::metadata(tree.path("f")).unwrap()), before);
}

#[test]
fn a_renewal_moves_no_time() {
    let tree = Tree::with(&["--ttl", "1s"]);
    let _holder = Job::start(0, |turn| {
        fs::write(tree.path("f"), "note").unwrap();
        sys::utimens(tree.path("f"), (1, 2), (1_000_000_000, 1)).unwrap();
        turn.pause();
    });
    let expires = || sys::getxattr(tree.path("f"), "user.lock.expires").unwrap();
    let before = (times(&fs::metadata(tree.path("f")).unwrap()), expires());
    eventually("it was renewed twice", || {
        let seconds = |text: &str| text[17..19].parse::<i32>().unwrap();
        (seconds(&expires()) - seconds(&before.1)).rem_euclid(60) >= 2
    });
    assert_eq!(times(&fs::metadata(tree.path("f")).unwrap()), before.0);
}

#[test]
fn a_write_moves_mtime_and_a_chmod_only_ctime() {
    let tree = Tree::new();
    let mut file = File::create_new(tree.path("f")).unwrap();
    sys::utimens(tree.path("f"), (1, 0), (1, 0)).unwrap();
    fs::set_permissions(tree.path("f"), Permissions::from_mode(0o600)).unwrap();
    let stat = fs::metadata(tree.path("f")).unwrap();
    assert_eq!(stat.mtime(), 1);
    assert!(stat.ctime() > 1);
    file.write_all(b"x").unwrap();
    let age = SystemTime::now().duration_since(file.metadata().unwrap().modified().unwrap()).unwrap();
    assert!(age.as_secs() < 5, "{age:?}");
}

#[test]
fn mtime_is_when_it_was_acquired() {
    let tree = Tree::new();
    let before = SystemTime::now();
    File::create_new(tree.path("f")).unwrap();
    let stat = fs::metadata(tree.path("f")).unwrap();
    assert!((before..=SystemTime::now()).contains(&stat.modified().unwrap()));
    assert_eq!(times(&stat)[1], times(&stat)[2]);
}

#[test]
fn the_inode_number_is_the_token_at_birth_and_never_comes_again() {
    let tree = Tree::new();
    let mut last = 0;
    for _ in 0..5 {
        File::create_new(tree.path("f")).unwrap();
        let number = fs::metadata(tree.path("f")).unwrap().ino();
        assert_eq!(sys::getxattr(tree.path("f"), "user.lock.token").unwrap(), number.to_string());
        assert!(number > last);
        last = number;
        fs::rename(tree.path("f"), tree.path("g")).unwrap();
        assert_eq!(fs::metadata(tree.path("g")).unwrap().ino(), number);
        fs::remove_file(tree.path("g")).unwrap();
    }
}

#[test]
fn inode_numbers_are_the_same_after_a_restart() {
    let mut tree = Tree::new();
    fs::create_dir(tree.path("d")).unwrap();
    File::create_new(tree.path("d/f")).unwrap();
    let numbers = |tree: &Tree| {
        [".", "d", "d/f", ".sessions", ".lockfs", ".lockfs/status", ".lockfs/info/d/f"]
            .map(|name| fs::metadata(tree.path(name)).unwrap().ino())
    };
    let before = numbers(&tree);
    tree.unmount();
    tree.mount();
    assert_eq!(numbers(&tree), before);
    let mut unique = before.to_vec();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), before.len());
}

#[test]
fn the_numbers_of_a_listing_are_those_of_stat() {
    use std::os::unix::fs::DirEntryExt;
    let tree = Tree::new();
    File::create_new(tree.path("f")).unwrap();
    fs::create_dir(tree.path("d")).unwrap();
    for directory in [tree.root(), tree.path(".lockfs"), tree.path(".lockfs/info"), tree.path(".sessions")] {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            assert_eq!(entry.ino(), entry.metadata().unwrap().ino(), "{entry:?}");
            assert_eq!(entry.file_type().unwrap(), entry.metadata().unwrap().file_type(), "{entry:?}");
        }
    }
}

#[test]
fn statfs_counts_locks() {
    let tree = Tree::new();
    let used = || {
        let all = sys::statvfs(tree.root()).unwrap();
        (all.f_files - all.f_ffree, all.f_namemax)
    };
    assert_eq!(used(), (0, 255));
    File::create_new(tree.path("f")).unwrap();
    fs::create_dir(tree.path("d")).unwrap();
    assert_eq!(used(), (2, 255));
    fs::remove_file(tree.path("f")).unwrap();
    assert_eq!(used(), (1, 255));
    assert!(tree.run("df . && df -i .").status.success());
}

#[test]
fn a_client_may_write_to_what_it_made_read_only() {
    let tree = Tree::new();
    in_job(1000, || {
        let mut options = File::options();
        let mut file =
            options.read(true).write(true).create_new(true).mode(0o444).open(tree.path("f")).unwrap();
        file.write_all(b"x").unwrap();
        let mut text = String::new();
        File::open(tree.path("f")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        assert_eq!(errno(File::options().write(true).open(tree.path("f"))), libc::EACCES);
        assert_eq!(number(sys::access(tree.path("f"), libc::W_OK)), libc::EACCES);
    });
}
