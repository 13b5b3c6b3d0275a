//! Programs that walk, copy and describe whole trees.

use std::fs;

use crate::common::Tree;
use crate::{fails, need, said, succeeds};

/// A tree with everything that a tree here can have.
const GROW: &str = "mkdir -p tree/directory/empty tree/x.lock
    echo note > tree/note; : > tree/directory/file; ln tree/note tree/directory/link; ln -s ../note tree/directory/symlink
    chmod 601 tree/note; chmod 1750 tree/directory
    touch -d '2001-02-03 04:05:06.123456789' tree/note tree/directory; touch -h -d '2002-02-03 04:05:06.1' tree/directory/symlink";

/// A tree's names, and of each all that a copy has to keep. The holder has to look: others read a description
/// of its empty locks.
const PICTURE: &str = r#"
    picture() { (
        cd "$1" && find . -printf '%P %y %m %U %G %n %l ' \( -type d -o -printf '%T@ %s' \) -printf '\n' | sort
        find . -name 'd*' -type d -printf '%P %T@\n'
        grep -r '' . | sort
    ) }
    same() { diff <(picture "$1") <(picture "$2"); }
"#;

#[test]
fn find_ends_and_sees_the_dot_directories() {
    let tree = Tree::new();
    let _holder = tree.holder(&format!("{GROW}\nmkdir .sessions/S && touch .sessions/S/s"));
    let found = succeeds(&tree.run("timeout 20 find . | sort"));
    for name in [
        "./tree/directory/symlink",
        "./s",
        "./.sessions/S/s",
        "./.lockfs/status",
        "./.lockfs/events",
        "./.lockfs/info/tree/directory/link",
    ] {
        assert!(found.lines().any(|line| line == name), "{name} is not in {found}");
    }
    assert_eq!(succeeds(&tree.run("timeout 20 find . -noleaf | sort")), found, "st_nlink misleads find");
    // 1 says that subdirectories are not counted; any other number has to be true.
    let directories =
        "[ $(stat -c %h .) = 1 ] || [ $(stat -c %h .) = $(($(find . -maxdepth 1 -type d | wc -l) + 1)) ]";
    succeeds(&tree.run(directories));
    let of_type = "timeout 20 find . -mindepth 1 -type";
    let count = |script: &str| succeeds(&tree.run(script)).lines().count();
    assert_eq!(
        count(&format!("{of_type} f")) + count(&format!("{of_type} d")) + count(&format!("{of_type} l")) + 1,
        found.lines().count()
    );
}

#[test]
fn reading_every_file_of_the_mount_ends() {
    let tree = Tree::new();
    let _holder = tree.holder(GROW);
    let text = succeeds(&tree.run("timeout 20 find . -type f -exec cat {} +"));
    assert!(
        text.contains("note\n") && text.contains("lock: tree/directory/file\n") && text.contains("backend: ")
    );
    succeeds(&tree.run("timeout 20 grep -r note . > /dev/null"));
}

#[test]
fn du_and_ls_of_the_whole_mount_end() {
    let tree = Tree::new();
    let _holder = tree.holder(GROW);
    succeeds(&tree.run("timeout 20 du -a . && timeout 20 ls -laR . && df . && df -i ."));
    assert_eq!(succeeds(&tree.run("du -b tree/note; du --inodes -s tree")), "5\ttree/note\n7\ttree\n");
}

#[test]
fn cp_a_keeps_a_tree_as_it_is_within_the_mount_out_of_it_and_into_it() {
    let tree = Tree::new();
    let script = "cp -a tree within && same tree within && cp -a tree ../copy && same tree ../copy
        cp -a ../copy back && same tree back && [ \"$(cat back/directory/symlink)\" = note ]";
    assert_eq!(succeeds(&tree.run(&format!("set -e; {PICTURE}\n{GROW}\n{script}"))), "");
}

#[test]
fn cp_a_of_the_whole_mount_ends() {
    let tree = Tree::new();
    succeeds(&tree.run(&format!("{GROW}\ntimeout 20 cp -a . ../all")));
    assert_eq!(fs::read_to_string(tree.scratch().join("all/tree/note")).unwrap(), "note\n");
}

#[test]
fn tar_keeps_a_tree_as_it_is_out_of_the_mount_and_into_it() {
    let tree = Tree::new();
    let script = "tar cf ../tree.tar --format=posix tree && mkdir back && tar xpf ../tree.tar -C back
        tar df ../tree.tar -C back && same tree back/tree";
    assert_eq!(succeeds(&tree.run(&format!("set -e; {PICTURE}\n{GROW}\n{script}"))), "");
}

#[test]
fn tar_of_the_whole_mount_ends() {
    let tree = Tree::new();
    let listing =
        succeeds(&tree.run(&format!("{GROW}\ntimeout 20 tar cf ../all.tar . && tar tf ../all.tar")));
    assert!(listing.lines().any(|line| line == "./tree/directory/file"), "{listing}");
}

#[test]
fn tar_extracts_over_ones_own_locks() {
    let tree = Tree::new();
    let script =
        "tar cf ../tree.tar tree && echo changed > tree/note && tar xpf ../tree.tar && cat tree/note";
    assert_eq!(succeeds(&tree.run(&format!("{GROW}\n{script}"))), "note\n");
}

#[test]
fn rm_r_of_ones_own_tree_releases_it_all() {
    let tree = Tree::new();
    succeeds(&tree.run(&format!("{GROW}\nrm -r tree")));
    assert_eq!(tree.status("locks"), "0");
}

#[test]
fn install_makes_directories_and_keeps_backups() {
    let tree = Tree::new();
    let script =
        "echo 1 > ../f; install -D -m 640 ../f a/b/f; echo 2 > ../f; install -b ../f a/b/f; install -d c/d
        cat a/b/f a/b/f~; stat -c %a a/b/f a/b/f~ c/d";
    assert_eq!(succeeds(&tree.run(script)), "2\n1\n755\n640\n755\n");
}

#[test]
fn vim_saves_a_note_and_keeps_its_mode_and_its_names() {
    need("vim");
    let tree = Tree::new();
    let save = |options: &str| {
        format!(
            "vim -N -u NONE -i NONE -es -c 'set {options}' -c 'call setline(1, \"{options}\")' -c 'wq' tree/note"
        )
    };
    let script = format!(
        "{GROW}\n{}\ncat tree/directory/link\n{}\ncat tree/directory/link; stat -c '%a %h' tree/note; ls -A tree",
        save("nowritebackup"),
        save("backupcopy=auto")
    );
    let expected = "nowritebackup\nbackupcopy=auto\n601 2\ndirectory\nnote\nx.lock\n";
    assert_eq!(succeeds(&tree.run(&script)), expected);
}

#[test]
fn getfattr_prints_who_holds_a_lock() {
    need("getfattr");
    let tree = Tree::new();
    let holder = tree.holder("touch f; ln -s f l");
    let text = succeeds(&tree.run("getfattr -d f"));
    for line in [r#"user.lock.owner="root@"#, r#"user.lock.state="held""#, r#"user.lock.command="bash""#] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(text.contains(&format!("user.lock.pid=\"{}\"", holder.pid())), "{text}");
    fails(&tree.run("getfattr -n user.lock.nonsense f"), 1, "No such attribute");
    // The kernel reads no user attributes of a symlink: naming them would make a program fail at each.
    assert_eq!(said(&tree.run("getfattr -h -d -m - l")), "exit status: 0\n");
    // What stands for it in the dot directory has them.
    assert!(succeeds(&tree.run("getfattr -d .lockfs/info/l")).contains("user.lock.state=\"held\""));
}

#[test]
fn setfattr_sets_the_ttl_and_what_is_inherited() {
    need("setfattr");
    let tree = Tree::new();
    let script =
        "mkdir d; touch f; setfattr -n user.lock.ttl -v 90 f; getfattr --only-values -n user.lock.ttl f; echo
        setfattr -n user.lock.ttl -v never f; getfattr --only-values -n user.lock.ttl f; echo
        setfattr -n user.lock.default_ttl -v 2m d; touch d/f; getfattr --only-values -n user.lock.ttl d/f";
    assert_eq!(succeeds(&tree.run(script)), "90\nnever\n120");
}

#[test]
fn setfattr_of_anything_else_is_refused() {
    need("setfattr");
    let tree = Tree::new();
    let _holder = tree.holder("touch f");
    fails(&tree.run("setfattr -n user.lock.token -v 5 f"), 1, "Operation not permitted");
    fails(&tree.run("setfattr -n user.lock.nonsense -v 5 f"), 1, "Operation not supported");
    fails(&tree.run("setfattr -n user.other -v 5 f"), 1, "Operation not supported");
    fails(&tree.run("touch own; setfattr -n user.lock.ttl -v soon own"), 1, "Invalid argument");
}

#[test]
fn setfattr_breaks_a_lock_whose_token_it_names() {
    need("setfattr");
    let tree = Tree::new();
    let _holder = tree.holder("touch f");
    fails(&tree.run("setfattr -n user.lock.break -v 5 f"), 1, "Stale file handle");
    assert!(tree.path("f").exists());
    succeeds(
        &tree.run("setfattr -n user.lock.break -v \"$(getfattr --only-values -n user.lock.token f)\" f"),
    );
    assert!(!tree.path("f").exists());
}
