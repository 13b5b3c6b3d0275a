//! What excludes: no two contenders are ever inside at once, whether they are scripts of their own, of
//! several users, or background children of one script.

use std::collections::HashSet;
use std::fs;
use std::process::Stdio;

use crate::common::Tree;
use crate::contest::Contest;
use crate::{ALICE, BOB, need, need_library, script, succeeds};

/// Contenders of which each is a job: for what takes a lock of the own job for free, as on a local disk.
const JOBS: Contest = Contest { jobs: 8, children: 1, rounds: 12, users: &[0] };

/// Where a lock goes between its look and its stat, liblockfile takes the name for stale and unlinks it: by then
/// the lock of the next. Here no job can unlink another's; within one job that race is the library's, on every disk.
const OF_LIBLOCKFILE: Contest = JOBS;

#[test]
fn noclobber_of_bash_excludes() {
    Contest::default().run(r#"(set -C; : > "$LOCK")"#, r#"rm "$LOCK""#);
}

#[test]
fn noclobber_of_dash_excludes() {
    need("dash");
    Contest::default().run(r#"dash -c 'set -C; : > "$LOCK"'"#, r#"rm "$LOCK""#);
}

#[test]
fn noclobber_excludes_users_from_each_other() {
    Contest { users: &[ALICE, BOB, 0], ..JOBS }.run(r#"(set -C; : > "$LOCK")"#, r#"rm "$LOCK""#);
}

#[test]
fn touch_excludes_jobs_from_each_other() {
    JOBS.run(r#"touch "$LOCK""#, r#"rm "$LOCK""#);
}

#[test]
fn mkdir_excludes() {
    Contest::default().run(r#"mkdir "$LOCK""#, r#"rmdir "$LOCK""#);
}

#[test]
fn mkdir_excludes_users_from_each_other() {
    Contest { users: &[ALICE, BOB, 0], ..JOBS }.run(r#"mkdir "$LOCK""#, r#"rmdir "$LOCK""#);
}

#[test]
fn ln_excludes() {
    Contest::default().run(r#": > "$ME"; ln "$ME" "$LOCK""#, r#"rm "$LOCK""#);
}

#[test]
fn ln_s_excludes() {
    Contest::default().run(r#"ln -sT "$ME" "$LOCK""#, r#"rm "$LOCK""#);
}

#[test]
fn mv_n_excludes() {
    // Refused, it exits 0 and leaves the source where it was.
    Contest::default().run(r#": > "$ME"; mv -nT "$ME" "$LOCK" && [ ! -e "$ME" ]"#, r#"rm "$LOCK""#);
}

#[test]
fn mv_of_the_lock_back_to_a_name_of_ones_own_releases() {
    Contest::default().run(r#": > "$ME"; ln "$ME" "$LOCK" && rm "$ME""#, r#"mv "$LOCK" "$ME""#);
}

#[test]
fn dd_conv_excl_excludes() {
    Contest::default().run(r#"dd if=/dev/null of="$LOCK" conv=excl status=none"#, r#"rm "$LOCK""#);
}

#[test]
fn cp_n_excludes() {
    // Refused, it exits 0 all the same: whose name the file has is who won.
    let acquire = r#"echo "$ME" > "$ARENA/$ME"; cp -n "$ARENA/$ME" "$LOCK"; [ "$(cat "$LOCK")" = "$ME" ]"#;
    Contest::default().run(acquire, r#"rm "$LOCK""#);
}

#[test]
fn install_excludes_jobs_from_each_other() {
    // It unlinks what is there, and then makes it with O_EXCL.
    JOBS.run(r#"install -m 600 /dev/null "$LOCK""#, r#"rm "$LOCK""#);
}

#[test]
fn dotlockfile_excludes() {
    need("dotlockfile");
    OF_LIBLOCKFILE.run(r#"dotlockfile -r 0 "$LOCK""#, r#"dotlockfile -u "$LOCK""#);
}

#[test]
fn dotlockfile_excludes_users_from_each_other() {
    need("dotlockfile");
    Contest { users: &[ALICE, BOB, 0], ..JOBS }
        .run(r#"dotlockfile -p -r 0 "$LOCK""#, r#"dotlockfile -u "$LOCK""#);
}

#[test]
fn lockfile_create_of_lockfile_progs_excludes() {
    need("lockfile-create");
    OF_LIBLOCKFILE
        .run(r#"lockfile-create --retry 0 --lock-name "$LOCK""#, r#"lockfile-remove --lock-name "$LOCK""#);
}

#[test]
fn lockfile_of_procmail_excludes() {
    need("lockfile");
    Contest::default().run(r#"lockfile -r 0 "$LOCK""#, r#"rm -f "$LOCK""#);
}

#[test]
fn lockfile_of_procmail_excludes_users_from_each_other() {
    need("lockfile");
    Contest { users: &[ALICE, BOB, 0], ..JOBS }.run(r#"lockfile -r 0 "$LOCK""#, r#"rm -f "$LOCK""#);
}

#[test]
fn soft_file_lock_of_python_excludes() {
    need("python3");
    let path = need_library("python", "filelock");
    let contender =
        format!("PYTHONPATH='{}' python3 '{}'", path.display(), script("soft_file_lock.py").display());
    Contest::default().run_contenders("", &contender);
}

#[test]
fn proper_lockfile_of_npm_excludes() {
    need("node");
    let path = need_library("node", "node_modules/proper-lockfile").join("node_modules");
    let contender =
        format!("NODE_PATH='{}' node '{}'", path.display(), script("proper_lockfile.js").display());
    Contest::default().run_contenders("", &contender);
}

#[test]
fn swap_files_of_vim_exclude() {
    need("vim");
    // The counter is what they edit. Without a swap file (two may race for one, and vim goes on without) or
    // with one of another name, it is not the vim that has it.
    let contender = r#"contend() {
        for ((round = 0; round < ROUNDS; )); do
            ((SECONDS < 60)) || exit 1
            vim -N -u NONE -i NONE -E -s --cmd "set directory=$PWD shortmess+=A" \
                "$ARENA/counter" \
                -c 'if swapname("%") !~ "counter.swp$" | cquit 9 | endif' \
                -c 'if !mkdir($ARENA . "/inside", "", 0777) | cquit 8 | endif' \
                -c 'sleep 3m' -c 'call setline(1, getline(1) + 1)' -c 'write' \
                -c 'if delete($ARENA . "/inside", "d") | cquit 8 | endif' \
                -c 'quit' < /dev/null > /dev/null 2>&1
            case $? in
                0) round=$((round + 1)) ;;
                8) echo "$ME: two are inside" >> "$ARENA/wrong" ;;
                *) read -rt "0.00$((RANDOM % 9 + 1))" <> "$ARENA/never" ;;
            esac
        done
    }"#;
    Contest { rounds: 6, ..Contest::default() }.run_contenders(contender, "contend");
}

#[test]
fn the_lock_pattern_of_git_excludes() {
    // Create X.lock with O_EXCL, write into it, rename it over X.
    let release = r#"echo "$ME" >> "$LOCK.lock" && mv "$LOCK.lock" "$ME""#;
    Contest::default().run(r#"(set -C; : > "$LOCK.lock")"#, release);
}

#[test]
fn git_update_ref_loses_no_update_of_a_ref_on_the_mount() {
    need("git");
    let tree = Tree::new();
    // The refs are all of the repository that is on the mount.
    let script = r#"
        export GIT_DIR=$SCRATCH/repository GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a
        export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
        set -e
        git init -q --bare "$GIT_DIR"
        mkdir heads
        rmdir "$GIT_DIR/refs/heads"
        ln -s "$PWD/heads" "$GIT_DIR/refs/heads"
        empty=$(git hash-object -t tree -w /dev/null)
        git update-ref refs/heads/main "$(git commit-tree -m start "$empty")"
        contend() {
            for round in 1 2 3 4 5 6; do
                while
                    old=$(git rev-parse refs/heads/main)
                    new=$(git commit-tree -m "$1.$round" -p "$old" "$empty")
                    ! git update-ref refs/heads/main "$new" "$old" 2> "$SCRATCH/error.$1"
                do
                    if ((SECONDS > 60)); then cat "$SCRATCH/error.$1" >&2; exit 1; fi
                done
            done
        }
        for child in 1 2 3 4 5 6 7 8; do contend $child & done
        for child in $(jobs -p); do wait "$child"; done
        git rev-list --count refs/heads/main
    "#;
    let counted = succeeds(&tree.shell(script).env("SCRATCH", tree.scratch()).output().unwrap());
    assert_eq!(counted, "49\n");
    assert_eq!(fs::read_dir(tree.path("heads")).unwrap().count(), 1, "a main.lock was left behind");
}

#[test]
fn mktemp_gives_each_caller_a_name_of_its_own() {
    let tree = Tree::new();
    let script = "for child in 1 2 3 4 5 6 7 8; do
        for round in {1..10}; do mktemp -p . XXX; mktemp -d -p . XXX; done & done; wait";
    let start = || tree.shell(script).stdout(Stdio::piped()).spawn().unwrap();
    let jobs = [start(), start(), start()];
    let printed = jobs.map(|job| succeeds(&job.wait_with_output().unwrap())).concat();
    let names: HashSet<&str> = printed.lines().collect();
    assert_eq!((printed.lines().count(), names.len()), (480, 480));
    assert!(names.iter().all(|name| tree.path(name).exists()));
}
