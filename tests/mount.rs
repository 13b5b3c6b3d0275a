//! The shortest way through a real mount: create, list, delete.

mod common;

use std::fs::{self, File};

use common::{Tree, errno};

#[test]
fn creating_a_file_acquires_and_deleting_it_releases() {
    let tree = Tree::new();
    File::create_new(tree.path("a")).unwrap();
    assert_eq!(errno(File::create_new(tree.path("a"))), libc::EEXIST);
    assert!(fs::read_dir(tree.root()).unwrap().any(|entry| entry.unwrap().file_name() == "a"));
    fs::remove_file(tree.path("a")).unwrap();
    File::create_new(tree.path("a")).unwrap();
}
