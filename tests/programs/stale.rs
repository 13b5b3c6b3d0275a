//! Programs that break what they take for stale: they can not break the lock of a job that lives, however old
//! it looks, and they can once it has ended.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::common::{Holder, Tree, eventually};
use crate::{need, need_library, said, succeeds};

/// Makes the lock `f` look an hour old.
const AGE: &str = "touch -d '1 hour ago' f";

fn number(tree: &Tree) -> u64 {
    fs::symlink_metadata(tree.path("f")).expect("the lock is there").ino()
}

/// Claims that `breaker` fails while the holder lives, leaves the lock as it is, and gets it once the holder is dead.
#[track_caller]
fn breaks_only_the_dead(tree: &Tree, holder: Holder, breaker: &str) {
    let before = number(tree);
    let output = tree.run(breaker);
    assert!(!output.status.success(), "it got a lock that another held: {}", said(&output));
    assert_eq!(number(tree), before, "it broke a lock that was held: {}", said(&output));
    holder.kill();
    succeeds(&tree.run(breaker));
    assert_ne!(number(tree), before, "it did not make a lock of its own");
}

#[test]
fn dotlockfile_breaks_by_age_only_the_locks_of_ended_jobs() {
    need("dotlockfile");
    let tree = Tree::new();
    let holder = tree.holder(&format!("dotlockfile -r 0 f && {AGE}"));
    breaks_only_the_dead(&tree, holder, "dotlockfile -r 0 f");
}

#[test]
fn dotlockfile_breaks_by_process_id_only_the_locks_of_ended_jobs() {
    need("dotlockfile");
    let tree = Tree::new();
    // The recorded process is a subshell that has ended; the script goes on.
    let holder = tree.holder("(dotlockfile -p -r 0 f; exit $?)");
    breaks_only_the_dead(&tree, holder, "dotlockfile -p -r 0 f");
}

#[test]
fn lockfile_create_breaks_by_age_only_the_locks_of_ended_jobs() {
    need("lockfile-create");
    let tree = Tree::new();
    let holder = tree.holder(&format!("lockfile-create -r 0 -l f && {AGE}"));
    breaks_only_the_dead(&tree, holder, "lockfile-create -r 0 -l f");
}

#[test]
fn lockfile_of_procmail_breaks_by_age_only_the_locks_of_ended_jobs() {
    need("lockfile");
    let tree = Tree::new();
    let holder = tree.holder(&format!("lockfile -r 0 f && {AGE}"));
    // Where its forced unlock is refused, it tries again for ever, whatever -r says.
    breaks_only_the_dead(&tree, holder, "timeout 1 lockfile -1 -s 0 -r 0 -l 1 f");
}

#[test]
fn soft_file_lock_breaks_by_process_id_only_the_locks_of_ended_jobs() {
    need("python3");
    let path = need_library("python", "filelock");
    let tree = Tree::new();
    // Without a release, which a process that is killed does not come to.
    let script = "import filelock, os; lock = filelock.SoftFileLock('f'); lock.acquire(timeout=0.5, poll_interval=0.01)";
    let lock = format!("PYTHONPATH='{}' python3 -c \"{script}; os._exit(0)\"", path.display());
    let holder = tree.holder(&lock);
    breaks_only_the_dead(&tree, holder, &lock);
}

#[test]
fn proper_lockfile_breaks_by_age_only_the_locks_of_ended_jobs() {
    need("node");
    let path = need_library("node", "node_modules/proper-lockfile").join("node_modules");
    let tree = Tree::new();
    // It ends without a release, as if it had been killed.
    let script = "require('proper-lockfile').lock('f', { realpath: false, lockfilePath: 'f' }).then(\
        () => process.kill(process.pid, 'SIGKILL'), error => { console.log(error); process.exit(1) })";
    let lock = format!("(NODE_PATH='{}' node -e \"{script}\"; [ $? = 137 ]) 2> /dev/null", path.display());
    let holder = tree.holder(&format!("{lock} && {AGE}"));
    breaks_only_the_dead(&tree, holder, &lock);
}

#[test]
fn renewals_by_the_daemon_do_not_compromise_proper_lockfile() {
    need("node");
    let path = need_library("node", "node_modules/proper-lockfile").join("node_modules");
    // Both renew: the client by setting times that it compares exactly, each second; the daemon three times in that.
    let tree = Tree::with(&["--ttl", "1s"]);
    let script = "require('proper-lockfile').lock('f', { realpath: false, stale: 2000, update: 1000 }).then(\
        release => setTimeout(() => release().then(() => console.log('never compromised')), 3200))";
    let output = tree.run(&format!("NODE_PATH='{}' node -e \"{script}\"", path.display()));
    assert_eq!(succeeds(&output), "never compromised\n");
}

#[test]
fn vim_deletes_only_the_swap_files_of_ended_jobs() {
    need("vim");
    let tree = Tree::new();
    fs::write(tree.scratch().join("text"), "text\n").unwrap();
    let vim = "vim -N -u NONE -i NONE -E -s --cmd \"set directory=$PWD\" \
        --cmd 'autocmd SwapExists * let v:swapchoice = \"d\"' ../text -c 'call writefile([swapname(\"%\")], \"../swap\")'";
    let editor = format!(
        "{vim} -c 'sleep 100' < /dev/null > /dev/null 2>&1 & until [ -s text.swp ]; do sleep 0.01; done"
    );
    let holder = tree.holder(&editor);
    let number = || fs::metadata(tree.path("text.swp")).unwrap().ino();
    let edit = format!("{vim} -c 'quit!' < /dev/null > /dev/null 2>&1; sed 's/.*[.]//' ../swap");
    let before = number();
    assert_eq!(succeeds(&tree.run(&edit)), "swo\n");
    assert_eq!(number(), before);
    holder.kill();
    // The first vim may need a moment longer to die than its script.
    eventually("the swap file is deleted", || succeeds(&tree.run(&edit)) == "swp\n");
}
