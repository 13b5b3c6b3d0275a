//! What programs say of a lock that somebody else holds, and what is left of it.

use std::fs;

use crate::common::Tree;
use crate::{ALICE, BOB, fails, need, succeeds};

const BUSY: &str = "Device or resource busy";
const NOT_PERMITTED: &str = "Operation not permitted";
const EXISTS: &str = "File exists";
const DENIED: &str = "Permission denied";

/// A file, one with a note, a directory and a symlink.
const ONE_OF_EACH: &str = "umask 022; : > empty; echo note > note; mkdir directory; ln -s target symlink";

/// What stat(1) tells of everything that [`ONE_OF_EACH`] makes.
fn state(tree: &Tree) -> String {
    let script =
        "stat -c '%n %i %f %h %u %g %s %y %z' empty note directory symlink; cat note; readlink symlink";
    succeeds(&tree.run(script))
}

#[test]
fn nothing_changes_or_removes_what_another_job_holds() {
    need("setfattr");
    let tree = Tree::new();
    fs::write(tree.scratch().join("other"), "other\n").unwrap();
    let _holder = tree.holder(ONE_OF_EACH);
    let before = state(&tree);
    for (command, status, message) in [
        ("touch empty", 1, BUSY),
        ("touch -d yesterday note", 1, BUSY),
        ("touch -h symlink", 1, BUSY),
        ("touch directory", 1, BUSY),
        ("rm empty", 1, NOT_PERMITTED),
        ("rm -f note", 1, NOT_PERMITTED),
        ("rm symlink", 1, NOT_PERMITTED),
        ("rm -r directory", 1, NOT_PERMITTED),
        ("unlink empty", 1, NOT_PERMITTED),
        ("rmdir directory", 1, NOT_PERMITTED),
        ("mkdir directory", 1, EXISTS),
        ("mkdir empty", 1, EXISTS),
        ("set -C; : > empty", 1, "cannot overwrite existing file"),
        ("dash -c 'set -C; : > empty'", 2, EXISTS),
        ("echo x > empty", 1, BUSY),
        ("echo x >> note", 1, BUSY),
        (": > note", 1, BUSY),
        ("echo x | tee -a empty", 1, BUSY),
        ("truncate -s 5 empty", 1, BUSY),
        ("cp ../other empty", 1, BUSY),
        ("cp -f ../other note", 1, NOT_PERMITTED),
        ("cp --remove-destination ../other note", 1, NOT_PERMITTED),
        ("install ../other empty", 1, NOT_PERMITTED),
        ("dd if=../other of=empty conv=excl status=none", 1, EXISTS),
        ("dd if=../other of=empty conv=notrunc status=none", 1, BUSY),
        ("sed -i s/n/m/ note; status=$?; rm -f sed*; exit $status", 4, NOT_PERMITTED),
        ("ln -s a symlink", 1, EXISTS),
        ("ln -sfT a symlink", 1, NOT_PERMITTED),
        (": > mine; ln mine empty", 1, EXISTS),
        ("ln -f mine empty", 1, NOT_PERMITTED),
        ("ln empty mine.too", 1, NOT_PERMITTED),
        ("mv empty elsewhere", 1, NOT_PERMITTED),
        ("mv -T directory elsewhere", 1, NOT_PERMITTED),
        (": > mine.2; mv -f mine.2 note", 1, NOT_PERMITTED),
        ("rm mine mine.2; mkdir mine; mv -T mine directory", 1, NOT_PERMITTED),
        ("chmod 600 empty", 1, BUSY),
        ("chown 5 note", 1, BUSY),
        ("setfattr -n user.lock.ttl -v 5 note", 1, BUSY),
        ("echo m > ../note; tar cf - -C .. note | tar xf -", 2, EXISTS),
        ("tar cf - -C .. note | tar xf - --overwrite", 2, BUSY),
    ] {
        // As in a shell: what was made on the way is left to the next, of the same user.
        let output = tree.run(command);
        println!("{command}");
        fails(&output, status, message);
        assert_eq!(state(&tree), before, "after {command}");
    }
}

#[test]
fn what_does_nothing_to_a_lock_of_another_says_so_as_on_a_local_disk() {
    let tree = Tree::new();
    fs::write(tree.scratch().join("other"), "other\n").unwrap();
    let _holder = tree.holder(ONE_OF_EACH);
    let before = state(&tree);
    for command in [
        "rm -f missing",
        "touch -c missing",
        "mkdir -p directory",
        "cp -n ../other note",
        ": > mine; mv -n mine note; rm mine",
        // Emptying what is empty changes nothing: half of the world's lock files are opened so, and locked then.
        ": > empty",
        "truncate -s 0 empty",
        ": >> note",
        "cat note > /dev/null",
        "dd of=empty if=/dev/null status=none",
    ] {
        succeeds(&tree.run(command));
        assert_eq!(state(&tree), before, "after {command}");
    }
}

#[test]
fn rm_succeeds_at_once_when_the_job_that_held_it_has_ended() {
    let tree = Tree::new();
    let holder = tree.holder(ONE_OF_EACH);
    fails(&tree.run("rm empty"), 1, NOT_PERMITTED);
    holder.kill();
    succeeds(&tree.run("rm empty note symlink && rmdir directory"));
}

#[test]
fn touch_of_what_an_ended_job_left_still_fails() {
    let tree = Tree::new();
    tree.holder(ONE_OF_EACH).kill();
    fails(&tree.run("touch empty"), 1, BUSY);
    fails(&tree.run("echo x > empty"), 1, BUSY);
}

#[test]
fn what_an_ended_job_left_can_be_moved_away_and_replaced() {
    let tree = Tree::new();
    tree.holder(ONE_OF_EACH).kill();
    succeeds(&tree.run("mv note elsewhere && echo new > elsewhere && echo mine > mine && mv mine empty"));
    assert_eq!(fs::read_to_string(tree.path("empty")).unwrap(), "mine\n");
}

#[test]
fn the_command_lines_of_one_shell_hold_one_anothers_locks() {
    // With job control each command line is a job, which ends before the next begins.
    let tree = Tree::new();
    succeeds(&tree.run("set -m; touch a; touch -d yesterday a; echo note > a; chmod 600 a; mv a b; rm b"));
}

#[test]
fn the_commands_of_a_script_hold_its_locks_whatever_group_they_run_in() {
    let tree = Tree::new();
    succeeds(
        &tree.run("touch a; timeout 5 touch a; timeout 5 bash -c 'echo note > a'; setsid -w timeout 5 rm a"),
    );
    assert!(!tree.path("a").exists());
}

#[test]
fn touch_of_ones_own_lock_moves_its_times() {
    let tree = Tree::new();
    let script = "touch -d @1000000000.125 a; stat -c %.9Y a; touch a; stat -c %Y a; date +%s";
    let times = succeeds(&tree.run(script));
    let times: Vec<f64> = times.lines().map(|line| line.parse().unwrap()).collect();
    assert!((times[0] - 1_000_000_000.125).abs() < 1e-6, "{times:?}");
    assert!((times[1] - times[2]).abs() < 5.0, "{times:?}");
}

#[test]
fn cat_of_a_lock_says_who_holds_it_and_to_its_holder_nothing() {
    let tree = Tree::new();
    let _holder = tree.holder("touch a; cat a > ../own");
    let text = succeeds(&tree.run("cat a"));
    assert!(text.starts_with("lock: a\nstate: held\nholder: root@"), "{text}");
    assert_eq!(fs::read_to_string(tree.scratch().join("own")).unwrap_or_default(), "");
}

#[test]
fn a_file_of_git_is_not_renamed_over_while_its_holder_lives() {
    need("git");
    let tree = Tree::new();
    let setup = r#"
        export GIT_DIR=$PWD/../repository GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a
        commit() { git commit-tree -m "$1" "$(git hash-object -t tree -w /dev/null)"; }
    "#;
    let begin = "git init -q --bare \"$GIT_DIR\" && mkdir heads && rmdir \"$GIT_DIR/refs/heads\" && ln -s \"$PWD/heads\" \
        \"$GIT_DIR/refs/heads\" && git update-ref refs/heads/main \"$(commit one)\"";
    let holder = tree.holder(&format!("{setup}{begin}"));
    let before = fs::read_to_string(tree.path("heads/main")).unwrap();
    let update = format!("{setup}git update-ref refs/heads/main \"$(commit two)\"");
    fails(&tree.run(&update), 128, "couldn't set 'refs/heads/main'");
    assert_eq!(fs::read_to_string(tree.path("heads/main")).unwrap(), before);
    assert!(!tree.path("heads/main.lock").exists(), "git left its lock behind");
    holder.kill();
    succeeds(&tree.run(&update));
    assert_ne!(fs::read_to_string(tree.path("heads/main")).unwrap(), before);
}

#[test]
fn another_user_gets_the_answers_of_a_sticky_directory() {
    let tree = Tree::new();
    let holder = tree.holder_as(ALICE, ONE_OF_EACH);
    let before = state(&tree);
    let refused = || {
        for (command, message) in [
            ("touch empty", DENIED),
            ("echo x > empty", DENIED),
            ("chmod 600 empty", NOT_PERMITTED),
            ("touch -d yesterday empty", DENIED),
            ("rm -f empty", NOT_PERMITTED),
            ("rmdir directory", NOT_PERMITTED),
            ("rm symlink", NOT_PERMITTED),
            ("mv note elsewhere", NOT_PERMITTED),
            (": > mine.$$; mv -f mine.$$ note", NOT_PERMITTED),
            ("touch directory/mine", DENIED),
            ("mkdir directory", EXISTS),
        ] {
            fails(&tree.run_as(BOB, command), 1, message);
            assert_eq!(state(&tree), before, "after {command}");
        }
    };
    refused();
    assert!(succeeds(&tree.run_as(BOB, "cat empty")).starts_with("lock: empty\nstate: held\n"));
    holder.kill();
    refused();
    succeeds(&tree.run_as(ALICE, "rm empty note symlink && rmdir directory"));
}

#[test]
fn root_removes_what_a_user_holds_and_does_not_touch_it() {
    let tree = Tree::new();
    let _holder = tree.holder_as(ALICE, "touch a");
    // Without O_CREAT, to which the kernel may answer itself (`fs.protected_regular`).
    fails(&tree.run("touch -c a"), 1, BUSY);
    succeeds(&tree.run("rm a"));
    assert!(!tree.path("a").exists());
}

#[test]
fn a_lock_is_its_creators_with_the_mode_that_the_program_gave_it() {
    let tree = Tree::new();
    fs::write(tree.scratch().join("other"), "other\n").unwrap();
    let script = "umask 027; touch a; mkdir b; mktemp -p . c.XXX >&2; install -m 4601 ../other d; stat -c '%a %u %g' a b c.* d";
    assert_eq!(
        succeeds(&tree.run_as(ALICE, script)),
        "640 1001 1001\n750 1001 1001\n600 1001 1001\n4601 1001 1001\n"
    );
    assert_eq!(fs::read_to_string(tree.path("d")).unwrap(), "other\n");
}
