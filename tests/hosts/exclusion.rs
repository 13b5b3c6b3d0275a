//! What excludes on one host excludes over hosts: no two contenders are ever inside at once.

use std::process::Command;

use crate::common::programs::{need, need_library};
use crate::contest::{Contest, Way};
use crate::history::Tokens;
use crate::script;

const NOCLOBBER: Way = Way::Shell(r#"(set -C; : > "$LOCK")"#, r#"rm "$LOCK""#);

/// A lock that is linked to its name has the token of its birth.
fn linked(way: Way) -> Contest {
    Contest { tokens: Tokens::Differ, ..Contest::of(way) }
}

/// Four hosts have one contender each on the plain path, and one by a session.
fn on_four(contest: &Contest) {
    Contest { rounds: 6, ..*contest }.run(4);
}

#[test]
fn o_excl_excludes_over_two_hosts() {
    Contest { contenders: 4, ..Contest::of(Way::OpenExcl) }.run(2);
}

#[test]
fn o_excl_excludes_over_four_hosts() {
    on_four(&Contest::of(Way::OpenExcl));
}

#[test]
fn mkdir_excludes_over_two_hosts() {
    Contest { contenders: 4, ..Contest::of(Way::Mkdir) }.run(2);
}

#[test]
fn mkdir_excludes_over_four_hosts() {
    on_four(&Contest::of(Way::Mkdir));
}

#[test]
fn link_excludes_over_two_hosts() {
    linked(Way::Link).run(2);
}

#[test]
fn symlink_excludes_over_two_hosts() {
    Contest::of(Way::Symlink).run(2);
}

#[test]
fn ln_excludes_over_two_hosts() {
    linked(Way::Shell(r#": > "$ME" && ln "$ME" "$LOCK" && rm "$ME""#, r#"rm "$LOCK""#)).run(2);
}

#[test]
fn ln_excludes_over_four_hosts() {
    on_four(&linked(Way::Shell(r#": > "$ME" && ln "$ME" "$LOCK" && rm "$ME""#, r#"rm "$LOCK""#)));
}

#[test]
fn ln_s_excludes_over_two_hosts() {
    Contest::of(Way::Shell(r#"ln -sT "$ME" "$LOCK""#, r#"rm "$LOCK""#)).run(2);
}

#[test]
fn ln_s_excludes_over_four_hosts() {
    on_four(&Contest::of(Way::Shell(r#"ln -sT "$ME" "$LOCK""#, r#"rm "$LOCK""#)));
}

#[test]
fn noclobber_excludes_over_two_hosts() {
    Contest::of(NOCLOBBER).run(2);
}

#[test]
fn noclobber_excludes_over_four_hosts() {
    on_four(&Contest::of(NOCLOBBER));
}

#[test]
fn dotlockfile_excludes_over_two_hosts() {
    need("dotlockfile");
    linked(Way::Shell(r#"dotlockfile -r 0 "$LOCK""#, r#"dotlockfile -u "$LOCK""#)).run(2);
}

#[test]
fn dotlockfile_excludes_over_four_hosts() {
    need("dotlockfile");
    on_four(&linked(Way::Shell(r#"dotlockfile -r 0 "$LOCK""#, r#"dotlockfile -u "$LOCK""#)));
}

fn soft_file_lock() -> Command {
    need("python3");
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", need_library("python", "filelock")).arg(script("soft_file_lock.py"));
    command
}

#[test]
fn soft_file_lock_of_python_excludes_over_two_hosts() {
    Contest::of(Way::Program(soft_file_lock)).run(2);
}

#[test]
fn soft_file_lock_of_python_excludes_over_four_hosts() {
    on_four(&Contest::of(Way::Program(soft_file_lock)));
}

fn proper_lockfile() -> Command {
    need("node");
    let modules = need_library("node", "node_modules/proper-lockfile").join("node_modules");
    let mut command = Command::new("node");
    command.env("NODE_PATH", modules).arg(script("proper_lockfile.js"));
    command
}

#[test]
fn proper_lockfile_of_npm_excludes_over_two_hosts() {
    Contest { tokens: Tokens::Rise, ..Contest::of(Way::Program(proper_lockfile)) }.run(2);
}

#[test]
fn proper_lockfile_of_npm_excludes_over_four_hosts() {
    on_four(&Contest::of(Way::Program(proper_lockfile)));
}
