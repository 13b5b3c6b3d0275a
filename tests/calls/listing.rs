//! Listings while the directory changes: what stayed is listed once, an offset stays good.

use std::collections::HashMap;
use std::fs::{self, File};
use std::sync::atomic::{AtomicBool, Ordering};

use super::common::Tree;
use super::common::sys::Dir;

fn names(dir: &mut Dir) -> Vec<String> {
    dir.filter(|name| !name.starts_with('.')).collect()
}

fn fill(tree: &Tree, directory: &str, count: usize) {
    fs::create_dir(tree.path(directory)).unwrap();
    for index in 0..count {
        File::create_new(tree.path(format!("{directory}/{index:05}"))).unwrap();
    }
}

#[test]
fn entries_come_in_the_order_in_which_they_were_acquired() {
    let tree = Tree::new();
    for name in ["c", "a", "b"] {
        File::create_new(tree.path(name)).unwrap();
    }
    assert_eq!(names(&mut Dir::open(tree.root()).unwrap()), ["c", "a", "b"]);
}

#[test]
fn the_dot_names_are_listed_at_the_root_alone() {
    let tree = Tree::new();
    fs::create_dir(tree.path("d")).unwrap();
    let dots = |path: &str| {
        let mut dots: Vec<String> =
            Dir::open(tree.path(path)).unwrap().filter(|name| name.starts_with('.')).collect();
        dots.sort();
        dots
    };
    let at_root = dots("");
    assert!(["..", ".lockfs", ".sessions"].iter().all(|name| at_root.iter().any(|dot| dot == name)));
    assert_eq!(dots("d"), [".", ".."]);
    assert_eq!(dots(".sessions"), [".", ".."]);
}

#[test]
fn every_offset_leads_back_to_the_entry_behind_it() {
    let tree = Tree::new();
    fill(&tree, "d", 300);
    let mut dir = Dir::open(tree.path("d")).unwrap();
    let mut steps = Vec::new();
    loop {
        let offset = dir.tell();
        match dir.next() {
            Some(name) => steps.push((offset, name)),
            None => break,
        }
    }
    assert_eq!(steps.len(), 302);
    for (offset, name) in steps.iter().rev().step_by(7) {
        dir.seek(*offset);
        assert_eq!(dir.next().as_ref(), Some(name));
    }
}

#[test]
fn an_offset_stays_good_while_entries_around_it_come_and_go() {
    let tree = Tree::new();
    fill(&tree, "d", 200);
    let mut dir = Dir::open(tree.path("d")).unwrap();
    let read: Vec<String> = dir.by_ref().take(102).collect();
    let offset = dir.tell();
    // What was read, and what the offset points at, goes; more comes.
    for index in (50..110).chain([199]) {
        fs::remove_file(tree.path(format!("d/{index:05}"))).unwrap();
    }
    File::create_new(tree.path("d/new")).unwrap();
    assert_eq!(read.last().unwrap(), "00099");
    dir.seek(offset);
    let rest: Vec<String> = dir.by_ref().collect();
    let expected = (110..199).map(|index| format!("{index:05}")).chain(["new".to_owned()]);
    assert_eq!(rest, expected.collect::<Vec<_>>());
}

#[test]
fn rewinding_shows_what_is_new() {
    let tree = Tree::new();
    fill(&tree, "d", 3);
    let mut dir = Dir::open(tree.path("d")).unwrap();
    let start = dir.tell();
    assert_eq!(names(&mut dir).len(), 3);
    File::create_new(tree.path("d/new")).unwrap();
    dir.seek(start);
    assert_eq!(names(&mut dir).len(), 4);
}

#[test]
fn what_stays_is_neither_missed_nor_doubled_among_5000_while_others_come_and_go() {
    let tree = Tree::new();
    fill(&tree, "d", 5_000);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (tree, stop) = (&tree, &stop);
            scope.spawn(move || {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    // One that comes and goes at the end, and one in the middle, by a rename.
                    let path = tree.path(format!("d/new-{worker}-{round}"));
                    File::create_new(&path).unwrap();
                    let passing = tree.path(format!("d/{:05}", 1_000 + worker * 1_500 + round % 1_000));
                    fs::remove_file(&passing).unwrap();
                    fs::rename(&path, &passing).unwrap();
                    round += 1;
                }
            });
        }
        let stays = |name: &str| matches!(name.parse(), Ok(0..1_000 | 2_000..2_500 | 3_500..5_000));
        for _ in 0..8 {
            let mut seen: HashMap<String, u32> = HashMap::new();
            for name in Dir::open(tree.path("d")).unwrap().filter(|name| stays(name)) {
                *seen.entry(name).or_default() += 1;
            }
            assert_eq!(seen.len(), 3_000);
            assert!(seen.values().all(|count| *count == 1));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_tree_is_removed_while_it_is_listed() {
    let tree = Tree::new();
    let output = tree.run(
        "mkdir -p d/e/g; for i in {1..500}; do > d/e/$i; > d/$i; done; find d -type f | wc -l; rm -r d; ! test -e d",
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1000\n");
    assert!(output.status.success(), "{output:?}");
}
