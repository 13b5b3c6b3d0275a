//! Calls that make, move and remove names, by the three columns of the table: free, held by the caller, held
//! by another.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};

use super::common::job::in_job;
use super::common::{Tree, errno, sys};
use super::{OK, held_by_another, held_by_the_caller, number, one_of_each};

const EXCHANGE: u32 = libc::RENAME_EXCHANGE;
const NOREPLACE: u32 = libc::RENAME_NOREPLACE;

fn ino(tree: &Tree, name: &str) -> u64 {
    fs::symlink_metadata(tree.path(name)).unwrap().ino()
}

/// The token, by way of `info`: of a symlink the kernel asks for no user.* attribute (xattr(7)).
fn token(tree: &Tree, name: &str) -> u64 {
    if tree.path(name).is_dir() {
        return sys::getxattr(tree.path(name), "user.lock.token").unwrap().parse().unwrap();
    }
    let info = fs::read_to_string(tree.path(format!(".lockfs/info/{name}"))).unwrap();
    info.lines().find_map(|line| line.strip_prefix("token: ")).unwrap().parse().unwrap()
}

// open(2) with O_CREAT|O_EXCL, and without O_EXCL.

#[test]
fn an_exclusive_create_acquires_a_free_name_and_no_other() {
    let tree = held_by_the_caller();
    assert_eq!(number(File::create_new(tree.path("free"))), OK);
    for held in one_of_each(&tree) {
        assert_eq!(number(File::create_new(held)), libc::EEXIST);
    }
}

#[test]
fn an_exclusive_create_of_anothers_lock_is_refused() {
    let (tree, _holder) = held_by_another();
    for held in one_of_each(&tree) {
        assert_eq!(number(File::create_new(held)), libc::EEXIST);
    }
}

#[test]
fn a_plain_create_acquires_what_is_free_and_opens_what_is_held() {
    let tree = held_by_the_caller();
    let create = |name| sys::open(tree.path(name), libc::O_CREAT | libc::O_RDWR, 0o644);
    assert_eq!(number(create("free")), OK);
    assert_eq!(sys::getxattr(tree.path("free"), "user.lock.state").unwrap(), "held");
    let before = (ino(&tree, "file"), token(&tree, "file"));
    assert_eq!(number(create("file")), OK);
    assert_eq!((ino(&tree, "file"), token(&tree, "file")), before);
}

#[test]
fn a_plain_create_opens_anothers_lock_and_leaves_it_its_holder() {
    let (tree, _holder) = held_by_another();
    let session = || sys::getxattr(tree.path("file"), "user.lock.session").unwrap();
    let before = session();
    assert_eq!(number(sys::open(tree.path("file"), libc::O_CREAT | libc::O_RDWR, 0o644)), OK);
    assert_eq!(session(), before);
}

#[test]
fn a_temporary_file_without_a_name_is_no_lock() {
    let tree = Tree::new();
    let open = sys::open(tree.root(), libc::O_TMPFILE | libc::O_RDWR, 0o600);
    assert_eq!(errno(open), libc::EOPNOTSUPP);
}

// open, read, stat, readlink, getxattr.

#[test]
fn looking_at_a_free_name_finds_nothing() {
    let tree = Tree::new();
    let path = tree.path("free");
    assert_eq!(errno(File::open(&path)), libc::ENOENT);
    assert_eq!(errno(fs::symlink_metadata(&path)), libc::ENOENT);
    assert_eq!(errno(fs::read_link(&path)), libc::ENOENT);
    assert_eq!(errno(sys::getxattr(&path, "user.lock.token")), libc::ENOENT);
}

#[test]
fn everyone_looks_at_what_is_held() {
    let (tree, mut holder) = held_by_another();
    let look = || {
        assert_eq!(number(fs::read(tree.path("file"))), OK);
        assert_eq!(number(fs::read_dir(tree.path("dir"))), OK);
        assert_eq!(fs::read_link(tree.path("symlink")).unwrap().as_os_str(), "target");
        for held in one_of_each(&tree) {
            assert_eq!(number(fs::symlink_metadata(&held)), OK);
        }
        // Of a symlink the kernel asks for no user.* attribute (xattr(7)).
        for (name, answer) in [("file", OK), ("dir", OK), ("symlink", libc::ENODATA)] {
            assert_eq!(number(sys::getxattr(tree.path(name), "user.lock.token")), answer);
        }
    };
    look();
    in_job(1001, look);
    holder.resume();
    look();
}

#[test]
fn readlink_of_a_file_is_refused_and_a_symlink_can_have_a_long_target() {
    let tree = held_by_the_caller();
    assert_eq!(errno(fs::read_link(tree.path("file"))), libc::EINVAL);
    let target = "t".repeat(4_095);
    symlink(&target, tree.path("long")).unwrap();
    assert_eq!(fs::read_link(tree.path("long")).unwrap().as_os_str(), target.as_str());
    assert_eq!(fs::symlink_metadata(tree.path("long")).unwrap().size(), 4_095);
    assert_eq!(errno(File::open(tree.path("symlink"))), libc::ENOENT);
}

// unlink.

#[test]
fn unlink_releases_the_callers_lock_and_finds_no_free_one() {
    let tree = held_by_the_caller();
    assert_eq!(errno(fs::remove_file(tree.path("free"))), libc::ENOENT);
    for name in ["file", "symlink"] {
        fs::remove_file(tree.path(name)).unwrap();
        assert_eq!(number(File::create_new(tree.path(name))), OK);
    }
    assert_eq!(errno(fs::remove_file(tree.path("dir"))), libc::EISDIR);
}

#[test]
fn unlink_of_anothers_lock_is_refused() {
    let (tree, _holder) = held_by_another();
    assert_eq!(errno(fs::remove_file(tree.path("file"))), libc::EPERM);
    assert_eq!(errno(fs::remove_file(tree.path("symlink"))), libc::EPERM);
}

// mkdir and rmdir.

#[test]
fn mkdir_acquires_a_free_name_and_no_other() {
    let tree = held_by_the_caller();
    assert_eq!(number(fs::create_dir(tree.path("free"))), OK);
    for held in one_of_each(&tree) {
        assert_eq!(number(fs::create_dir(held)), libc::EEXIST);
    }
}

#[test]
fn mkdir_of_anothers_lock_is_refused() {
    let (tree, _holder) = held_by_another();
    for held in one_of_each(&tree) {
        assert_eq!(number(fs::create_dir(held)), libc::EEXIST);
    }
}

#[test]
fn rmdir_releases_the_callers_directory_when_it_is_empty() {
    let tree = held_by_the_caller();
    File::create_new(tree.path("dir/child")).unwrap();
    assert_eq!(errno(fs::remove_dir(tree.path("free"))), libc::ENOENT);
    assert_eq!(errno(fs::remove_dir(tree.path("file"))), libc::ENOTDIR);
    assert_eq!(errno(fs::remove_dir(tree.path("dir"))), libc::ENOTEMPTY);
    fs::remove_file(tree.path("dir/child")).unwrap();
    fs::remove_dir(tree.path("dir")).unwrap();
    assert_eq!(number(fs::create_dir(tree.path("dir"))), OK);
}

#[test]
fn rmdir_of_anothers_directory_is_refused() {
    let (tree, _holder) = held_by_another();
    assert_eq!(errno(fs::remove_dir(tree.path("dir"))), libc::EPERM);
}

// symlink, link, mknod.

#[test]
fn symlink_and_link_and_mknod_acquire_a_free_name_and_no_other() {
    let tree = held_by_the_caller();
    File::create_new(tree.path("object")).unwrap();
    let regular = libc::S_IFREG | 0o644;
    assert_eq!(number(symlink("t", tree.path("free-symlink"))), OK);
    assert_eq!(number(fs::hard_link(tree.path("object"), tree.path("free-link"))), OK);
    assert_eq!(number(sys::mknod(tree.path("free-node"), regular)), OK);
    for held in one_of_each(&tree) {
        assert_eq!(number(symlink("t", &held)), libc::EEXIST);
        assert_eq!(number(fs::hard_link(tree.path("object"), &held)), libc::EEXIST);
        assert_eq!(number(sys::mknod(&held, regular)), libc::EEXIST);
    }
}

#[test]
fn symlink_and_link_and_mknod_of_anothers_lock_are_refused() {
    let (tree, _holder) = held_by_another();
    in_job(0, || {
        File::create_new(tree.path("object")).unwrap();
        for held in one_of_each(&tree) {
            assert_eq!(number(symlink("t", &held)), libc::EEXIST);
            assert_eq!(number(fs::hard_link(tree.path("object"), &held)), libc::EEXIST);
            assert_eq!(number(sys::mknod(&held, libc::S_IFREG | 0o644)), libc::EEXIST);
        }
    });
}

#[test]
fn what_is_neither_file_nor_directory_nor_symlink_is_no_lock() {
    let tree = Tree::new();
    for kind in [libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFCHR, libc::S_IFBLK] {
        assert_eq!(number(sys::mknod(tree.path("node"), kind | 0o644)), libc::EPERM);
    }
    assert!(!tree.path("node").exists());
}

#[test]
fn link_gives_the_same_object_one_more_name() {
    let tree = held_by_the_caller();
    let [file, other] = [tree.path("file"), tree.path("other")];
    fs::hard_link(&file, &other).unwrap();
    let [one, two] = [&file, &other].map(|path| fs::metadata(path).unwrap());
    assert_eq!((one.ino(), one.nlink(), one.uid()), (two.ino(), 2, two.uid()));
    for name in ["token", "session"] {
        let name = format!("user.lock.{name}");
        assert_eq!(sys::getxattr(&file, &name).unwrap(), sys::getxattr(&other, &name).unwrap());
    }
}

#[test]
fn unlinking_one_of_two_names_releases_that_name_only() {
    let tree = held_by_the_caller();
    fs::hard_link(tree.path("file"), tree.path("other")).unwrap();
    let number_before = ino(&tree, "file");
    fs::remove_file(tree.path("file")).unwrap();
    let left = fs::metadata(tree.path("other")).unwrap();
    assert_eq!((left.ino(), left.nlink()), (number_before, 1));
    assert_eq!(number(File::create_new(tree.path("file"))), OK);
    assert_ne!(ino(&tree, "file"), number_before);
}

#[test]
fn a_directory_has_no_second_name() {
    let tree = held_by_the_caller();
    assert_eq!(errno(fs::hard_link(tree.path("dir"), tree.path("other"))), libc::EPERM);
}

// rename.

#[test]
fn rename_to_a_free_name_moves_the_lock_with_a_new_token() {
    let tree = held_by_the_caller();
    for name in ["file", "dir", "symlink"] {
        let before = (ino(&tree, name), token(&tree, name));
        fs::rename(tree.path(name), tree.path("moved")).unwrap();
        assert_eq!(ino(&tree, "moved"), before.0);
        assert!(token(&tree, "moved") > before.1);
        assert_eq!(errno(fs::symlink_metadata(tree.path(name))), libc::ENOENT);
        fs::rename(tree.path("moved"), tree.path(name)).unwrap();
    }
    assert_eq!(errno(fs::rename(tree.path("free"), tree.path("moved"))), libc::ENOENT);
}

#[test]
fn rename_over_the_callers_lock_releases_that() {
    let tree = held_by_the_caller();
    File::create_new(tree.path("goal")).unwrap();
    let moved = ino(&tree, "file");
    fs::rename(tree.path("file"), tree.path("goal")).unwrap();
    assert_eq!(ino(&tree, "goal"), moved);
    assert!(!tree.path("file").exists());
}

#[test]
fn rename_over_anothers_lock_is_refused() {
    let (tree, _holder) = held_by_another();
    in_job(0, || {
        File::create_new(tree.path("own")).unwrap();
        assert_eq!(errno(fs::rename(tree.path("own"), tree.path("file"))), libc::EPERM);
        assert_eq!(errno(fs::rename(tree.path("own"), tree.path("symlink"))), libc::EPERM);
        fs::create_dir(tree.path("own-dir")).unwrap();
        assert_eq!(errno(fs::rename(tree.path("own-dir"), tree.path("dir"))), libc::EPERM);
        assert!(tree.path("own").exists());
    });
}

#[test]
fn rename_of_anothers_lock_is_refused() {
    let (tree, _holder) = held_by_another();
    for held in one_of_each(&tree) {
        assert_eq!(errno(fs::rename(held, tree.path("moved"))), libc::EPERM);
    }
}

#[test]
fn rename_without_replacing_takes_a_free_name_and_no_other() {
    let (tree, _holder) = held_by_another();
    in_job(0, || {
        for name in ["own", "second"] {
            File::create_new(tree.path(name)).unwrap();
        }
        let [own, second] = [tree.path("own"), tree.path("second")];
        assert_eq!(number(sys::rename2(&own, &second, NOREPLACE)), libc::EEXIST);
        for held in one_of_each(&tree) {
            assert_eq!(number(sys::rename2(&own, held, NOREPLACE)), libc::EEXIST);
        }
        assert_eq!(number(sys::rename2(&own, tree.path("free"), NOREPLACE)), OK);
        assert!(tree.path("free").exists() && !own.exists());
    });
}

#[test]
fn an_exchange_needs_both_and_gives_each_the_others_name() {
    let tree = held_by_the_caller();
    let [file, dir] = [tree.path("file"), tree.path("dir")];
    let before = [(ino(&tree, "file"), token(&tree, "file")), (ino(&tree, "dir"), token(&tree, "dir"))];
    assert_eq!(number(sys::rename2(&file, tree.path("free"), EXCHANGE)), libc::ENOENT);
    assert_eq!(number(sys::rename2(tree.path("free"), &file, EXCHANGE)), libc::ENOENT);
    assert_eq!(number(sys::rename2(&file, &dir, EXCHANGE)), OK);
    assert_eq!([ino(&tree, "dir"), ino(&tree, "file")], before.map(|(ino, _)| ino));
    assert!(token(&tree, "dir").min(token(&tree, "file")) > before[0].1.max(before[1].1));
}

#[test]
fn an_exchange_with_anothers_lock_is_refused() {
    let (tree, _holder) = held_by_another();
    in_job(0, || {
        File::create_new(tree.path("own")).unwrap();
        let [own, held] = [tree.path("own"), tree.path("file")];
        assert_eq!(number(sys::rename2(&own, &held, EXCHANGE)), libc::EPERM);
        assert_eq!(number(sys::rename2(&held, &own, EXCHANGE)), libc::EPERM);
    });
}

#[test]
fn rename_of_one_name_of_an_object_over_another_does_nothing() {
    let tree = held_by_the_caller();
    fs::hard_link(tree.path("file"), tree.path("other")).unwrap();
    fs::rename(tree.path("file"), tree.path("other")).unwrap();
    assert_eq!(fs::metadata(tree.path("file")).unwrap().nlink(), 2);
}

#[test]
fn a_whiteout_is_no_lock() {
    let tree = held_by_the_caller();
    let rename = sys::rename2(tree.path("file"), tree.path("moved"), libc::RENAME_WHITEOUT);
    assert_eq!(errno(rename), libc::EINVAL);
}

#[test]
fn rename_between_kinds_answers_as_everywhere() {
    let tree = held_by_the_caller();
    fs::create_dir(tree.path("full")).unwrap();
    File::create_new(tree.path("full/child")).unwrap();
    let rename = |from, to| number(fs::rename(tree.path(from), tree.path(to)));
    assert_eq!(rename("file", "dir"), libc::EISDIR);
    assert_eq!(rename("dir", "file"), libc::ENOTDIR);
    assert_eq!(rename("dir", "full"), libc::ENOTEMPTY);
    assert_eq!(rename("dir", "dir/inside"), libc::EINVAL);
    assert_eq!(rename("full", "elsewhere"), libc::EBUSY);
    assert_eq!(rename("full/child", "full"), libc::ENOTEMPTY);
}

// Reserved names.

#[test]
fn reserved_names_are_nobodys_to_make_or_move() {
    let tree = held_by_the_caller();
    for name in [".sessions", ".wait", ".lockfs"] {
        let path = tree.path(name);
        let there = path.exists();
        let taken = if there { libc::EEXIST } else { libc::EPERM };
        assert_eq!(number(File::create_new(&path)), taken, "{name}");
        assert_eq!(number(fs::create_dir(&path)), taken, "{name}");
        assert_eq!(number(symlink("t", &path)), taken, "{name}");
        assert_eq!(number(fs::hard_link(tree.path("file"), &path)), taken, "{name}");
        // The kernel compares kinds before it asks: a file is not renamed over a directory.
        assert!([libc::EPERM, libc::EISDIR].contains(&number(fs::rename(tree.path("file"), &path))));
        assert_eq!(number(fs::rename(tree.path("dir"), &path)), libc::EPERM, "{name}");
        if there {
            assert_eq!(number(fs::rename(&path, tree.path("moved"))), libc::EPERM, "{name}");
            assert_eq!(number(fs::remove_dir(&path)), libc::EPERM, "{name}");
        }
    }
    fs::create_dir(tree.path("dir/.sessions")).expect("below the root the names are free");
}

#[test]
fn synthetic_files_are_for_reading() {
    let tree = Tree::new();
    for name in ["status", "events", "metrics"] {
        let path = tree.path(format!(".lockfs/{name}"));
        assert!(!fs::read(&path).unwrap().is_empty() || name == "events");
        assert_eq!(number(File::options().append(true).open(&path)), libc::EPERM, "{name}");
        assert_eq!(number(fs::remove_file(&path)), libc::EPERM, "{name}");
        assert_eq!(number(sys::touch(&path)), libc::EPERM, "{name}");
    }
    assert_eq!(number(File::create_new(tree.path(".lockfs/new"))), libc::EPERM);
    assert_eq!(number(fs::create_dir(tree.path(".lockfs/info/new"))), libc::EPERM);
}
