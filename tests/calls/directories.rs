//! Directories: names first, which expire only where they are locks; what is inherited below them.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::common::job::in_job;
use super::common::{Tree, errno, eventually, sys};
use super::{OK, number};

fn ttl(tree: &Tree, path: &str) -> String {
    sys::getxattr(tree.path(path), "user.lock.ttl").unwrap()
}

#[test]
fn a_plain_directory_never_expires() {
    let tree = Tree::with(&["--ttl", "1s"]);
    in_job(0, || {
        fs::create_dir(tree.path("d")).unwrap();
        File::create_new(tree.path("f")).unwrap();
        assert_eq!(ttl(&tree, "d"), "never");
    });
    eventually("the file expired", || !tree.path("f").exists());
    assert!(tree.path("d").exists());
}

#[test]
fn a_directory_named_lock_is_a_lock() {
    let tree = Tree::with(&["--ttl", "1s"]);
    in_job(0, || {
        fs::create_dir(tree.path("x.lock")).unwrap();
        assert_eq!(ttl(&tree, "x.lock"), "1");
    });
    eventually("it expired", || !tree.path("x.lock").exists());
    assert_eq!(number(fs::create_dir(tree.path("x.lock"))), OK);
}

#[test]
fn a_directory_with_a_ttl_of_its_own_expires() {
    let tree = Tree::new();
    in_job(0, || {
        fs::create_dir(tree.path("d")).unwrap();
        sys::setxattr(tree.path("d"), "user.lock.ttl", b"1s", 0).unwrap();
    });
    eventually("it expired", || !tree.path("d").exists());
}

#[test]
fn a_directory_does_not_expire_while_it_has_children() {
    let tree = Tree::new();
    in_job(0, || {
        fs::create_dir(tree.path("d.lock")).unwrap();
        fs::create_dir(tree.path("witness.lock")).unwrap();
        sys::setxattr(tree.path("d.lock"), "user.lock.ttl", b"500ms", 0).unwrap();
        sys::setxattr(tree.path("witness.lock"), "user.lock.ttl", b"1500ms", 0).unwrap();
        fs::create_dir(tree.path("d.lock/child")).unwrap();
    });
    eventually("its time has come", || !tree.path("witness.lock").exists());
    assert!(tree.path("d.lock/child").exists());
    in_job(0, || fs::remove_dir(tree.path("d.lock/child")).unwrap());
    eventually("it expired", || !tree.path("d.lock").exists());
}

#[test]
fn a_default_ttl_is_inherited_by_what_is_created_below() {
    let tree = Tree::new();
    fs::create_dir_all(tree.path("d/sub/deep")).unwrap();
    sys::setxattr(tree.path("d"), "user.lock.default_ttl", b"77s", 0).unwrap();
    assert_eq!(sys::getxattr(tree.path("d"), "user.lock.default_ttl").unwrap(), "77");
    for path in ["d/f", "d/sub/deep/f"] {
        File::create_new(tree.path(path)).unwrap();
        assert_eq!(ttl(&tree, path), "77", "{path}");
    }
    sys::setxattr(tree.path("d/sub"), "user.lock.default_ttl", b"never", 0).unwrap();
    for (path, left) in [("d/sub/deep/g", "never"), ("d/g", "77")] {
        File::create_new(tree.path(path)).unwrap();
        assert_eq!(ttl(&tree, path), left, "{path}");
    }
    fs::create_dir(tree.path("d/plain")).unwrap();
    assert_eq!(ttl(&tree, "d/plain"), "never");
    fs::create_dir(tree.path("d/x.lock")).unwrap();
    assert_eq!(ttl(&tree, "d/x.lock"), "77");
    sys::removexattr(tree.path("d"), "user.lock.default_ttl").unwrap();
    File::create_new(tree.path("d/h")).unwrap();
    assert_eq!(ttl(&tree, "d/h"), "300");
    assert_eq!(errno(sys::removexattr(tree.path("d"), "user.lock.default_ttl")), libc::ENODATA);
}

#[test]
fn the_default_ttl_of_the_whole_tree_is_set_on_its_root() {
    let mut tree = Tree::new();
    sys::setxattr(tree.root(), "user.lock.default_ttl", b"99s", 0).unwrap();
    File::create_new(tree.path("f")).unwrap();
    assert_eq!(ttl(&tree, "f"), "99");
    tree.unmount();
    tree.mount();
    assert_eq!(sys::getxattr(tree.root(), "user.lock.default_ttl").unwrap(), "99");
    in_job(1000, || {
        let denied = sys::setxattr(tree.root(), "user.lock.default_ttl", b"1s", 0);
        // xattr(7): user.* of a sticky directory is its owner's and root's.
        assert_eq!(errno(denied), libc::EPERM);
    });
}

#[test]
fn a_directory_with_children_is_neither_removed_nor_renamed() {
    let tree = Tree::new();
    fs::create_dir(tree.path("d")).unwrap();
    File::create_new(tree.path("d/child")).unwrap();
    assert_eq!(errno(fs::remove_dir(tree.path("d"))), libc::ENOTEMPTY);
    assert_eq!(errno(fs::rename(tree.path("d"), tree.path("e"))), libc::EBUSY);
    fs::remove_file(tree.path("d/child")).unwrap();
    fs::rename(tree.path("d"), tree.path("e")).unwrap();
    fs::remove_dir(tree.path("e")).unwrap();
}

#[test]
fn mode_and_owner_of_a_directory_govern_who_creates_inside() {
    let tree = Tree::new();
    in_job(1000, || {
        for (name, mode) in [("private", 0o700), ("shown", 0o755), ("open", 0o777), ("sticky", 0o1777)] {
            fs::create_dir(tree.path(name)).unwrap();
            fs::set_permissions(tree.path(name), Permissions::from_mode(mode)).unwrap();
            File::create_new(tree.path(name).join("alices")).unwrap();
        }
    });
    in_job(1001, || {
        let create = |path| number(File::create_new(tree.path(path)));
        assert_eq!(create("private/f"), libc::EACCES);
        assert_eq!(create("private/alices"), libc::EACCES);
        assert_eq!(create("shown/f"), libc::EACCES);
        assert_eq!(create("shown/alices"), libc::EEXIST);
        assert_eq!(create("open/f"), OK);
        assert_eq!(create("sticky/f"), OK);
        // The law keeps it where the mode would not.
        assert_eq!(number(fs::remove_file(tree.path("open/alices"))), libc::EPERM);
    });
}

#[test]
fn the_links_of_a_directory_count_its_subdirectories() {
    let tree = Tree::new();
    let links = |path: &str| fs::metadata(tree.path(path)).unwrap().nlink();
    fs::create_dir_all(tree.path("d/one")).unwrap();
    fs::create_dir(tree.path("d/two")).unwrap();
    File::create_new(tree.path("d/f")).unwrap();
    assert_eq!((links("d"), links("d/one")), (4, 2));
    fs::rename(tree.path("d/one"), tree.path("one")).unwrap();
    fs::remove_dir(tree.path("d/two")).unwrap();
    assert_eq!(links("d"), 2);
}

#[test]
fn a_set_group_id_directory_gives_its_group() {
    let tree = Tree::new();
    let script = "mkdir d; chgrp 1001 d; chmod 2775 d; > d/f; mkdir d/e; stat -c '%g %a' d/f d/e";
    assert_eq!(String::from_utf8_lossy(&tree.run(script).stdout), "1001 644\n1001 2755\n");
}

#[test]
fn a_removed_directory_that_is_open_takes_no_entries() {
    let tree = Tree::new();
    let output = tree.run("mkdir d; cd d; rmdir ../d; > f");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("No such file"), "{output:?}");
}
