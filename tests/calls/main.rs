//! What each call of POSIX does on a real mount: with a name that is free, held by the caller, held by
//! another; and what stat, read, write, xattrs and listings say.

#[path = "../common/mod.rs"]
mod common;

mod attributes;
mod directories;
mod listing;
mod loss;
mod names;
mod notes;
mod xattrs;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use common::Tree;
use common::job::Job;

const OK: i32 = 0;

/// The error number of a call, 0 where it succeeded.
fn number<T>(result: io::Result<T>) -> i32 {
    result.map_or_else(|error| error.raw_os_error().expect("an error of the system"), |_| OK)
}

/// A tree in which the test itself holds `file`, `dir` and `symlink`, as every test here may need them.
fn held_by_the_caller() -> Tree {
    let tree = Tree::new();
    acquire_one_of_each(&tree);
    tree
}

/// A tree in which a job that lives holds `file`, `dir` and `symlink`.
fn held_by_another() -> (Tree, Job) {
    let tree = Tree::new();
    let holder = Job::start(0, |turn| {
        acquire_one_of_each(&tree);
        turn.pause();
    });
    (tree, holder)
}

fn acquire_one_of_each(tree: &Tree) {
    File::create_new(tree.path("file")).unwrap();
    fs::create_dir(tree.path("dir")).unwrap();
    symlink("target", tree.path("symlink")).unwrap();
}

/// The names of `file`, `dir` and `symlink`.
fn one_of_each(tree: &Tree) -> [PathBuf; 3] {
    ["file", "dir", "symlink"].map(|name| tree.path(name))
}
