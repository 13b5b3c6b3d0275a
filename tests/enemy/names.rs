//! Names and paths that no one expects, and trees that are huge or never still.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::common::{Tree, errno};

/// Names that a shell, a line reader, or a text would get wrong.
fn names() -> Vec<Vec<u8>> {
    let every_byte = (1..=255).filter(|byte| *byte != b'/').collect::<Vec<u8>>();
    let mut names: Vec<Vec<u8>> = every_byte.chunks(50).map(<[u8]>::to_vec).collect();
    for name in ["new\nline", "-rf", "a b", "*", "...", "$(rm)", "\\", "caf\u{e9}", "\u{202e}", " ", "\n"] {
        names.push(name.as_bytes().to_vec());
    }
    names.extend([
        vec![0xff; 255],
        vec![b'x'; 255],
        b"\xc3\x28".to_vec(),
        "\u{1f512}".repeat(63).into_bytes(),
    ]);
    names
}

fn listed(directory: &Path) -> BTreeSet<Vec<u8>> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_vec());
    names.collect()
}

#[test]
fn every_name_is_kept_byte_for_byte_also_over_a_restart() {
    let mut tree = Tree::new();
    fs::create_dir(tree.path("d")).unwrap();
    let names = names();
    for name in &names {
        let path = tree.path("d").join(OsStr::from_bytes(name));
        File::create_new(&path).unwrap_or_else(|error| panic!("{}: {error}", name.escape_ascii()));
        assert_eq!(errno(File::create_new(&path)), libc::EEXIST);
    }
    let expected: BTreeSet<Vec<u8>> = names.iter().cloned().collect();
    assert_eq!(listed(&tree.path("d")), expected);
    assert_eq!(listed(&tree.path(".lockfs/info/d")), expected);
    tree.kill();
    tree.mount();
    assert_eq!(listed(&tree.path("d")), expected);
    for name in &names {
        let name = OsStr::from_bytes(name);
        let info = fs::read_to_string(tree.path(".lockfs/info/d").join(name)).unwrap();
        assert!(info.starts_with("lock: d/") && info.contains("\nstate: "), "{info}");
        fs::remove_file(tree.path("d").join(name)).unwrap();
    }
    assert_eq!(listed(&tree.path("d")), BTreeSet::new());
}

#[test]
fn an_event_stays_on_its_line_whatever_the_name() {
    let tree = Tree::new();
    File::create_new(tree.path("evil\n2031-01-01T00:00:00Z acquire path=fake")).unwrap();
    let events = fs::read_to_string(tree.path(".lockfs/events")).unwrap();
    assert!(events.lines().all(|line| !line.ends_with("path=fake") || line.contains("\\n")), "{events}");
    assert_eq!(events.lines().count(), 1, "{events}");
}

#[test]
fn a_name_of_256_bytes_is_too_long() {
    let tree = Tree::new();
    let path = tree.path("x".repeat(256));
    for error in [errno(File::create_new(&path)), errno(fs::create_dir(&path)), errno(fs::metadata(&path))] {
        assert_eq!(error, libc::ENAMETOOLONG);
    }
}

#[test]
fn a_path_of_4095_bytes_is_a_lock() {
    let tree = Tree::new();
    let mut path = tree.root();
    let length = |path: &Path| path.as_os_str().len();
    while length(&path) + 1 + 255 < 4_095 - 2 {
        path.push("d".repeat(255));
        fs::create_dir(&path).unwrap();
    }
    let lock = path.join("f".repeat(4_095 - length(&path) - 1));
    assert_eq!(length(&lock), 4_095);
    fs::write(&lock, "note").unwrap();
    assert_eq!(errno(File::create_new(&lock)), libc::EEXIST);
    assert_eq!(fs::read(&lock).unwrap(), b"note");
    fs::remove_file(&lock).unwrap();
}

#[test]
fn a_tree_deeper_than_any_path_is_kept_listed_and_removed() {
    let mut tree = Tree::new();
    let script =
        "n=$(printf 'd%.0s' {1..200}); for i in {1..60}; do mkdir $n && cd -P $n || exit 1; done; > f";
    let made = tree.run(script);
    assert!(made.status.success(), "{made:?}");
    tree.kill();
    tree.mount();
    let found = tree.run("timeout 20 find d* -type d | wc -l");
    assert_eq!(String::from_utf8_lossy(&found.stdout).trim(), "60", "{found:?}");
    let removed = tree.run("timeout 20 rm -r d*");
    assert!(removed.status.success(), "{removed:?}");
}

#[test]
fn a_directory_of_10000_is_listed_whole_and_kept() {
    const COUNT: usize = 10_000;
    let mut tree = Tree::new();
    fs::create_dir(tree.path("d")).unwrap();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let tree = &tree;
            scope.spawn(move || {
                for index in (worker..COUNT).step_by(4) {
                    File::create_new(tree.path(format!("d/{index}"))).unwrap();
                }
            });
        }
    });
    assert_eq!(listed(&tree.path("d")).len(), COUNT);
    tree.kill();
    tree.mount();
    assert_eq!(listed(&tree.path("d")).len(), COUNT);
    assert_eq!(errno(File::create_new(tree.path("d/9999"))), libc::EEXIST);
}

#[test]
fn find_over_everything_ends_while_things_change() {
    let tree = Tree::new();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let (tree, stop) = (&tree, &stop);
            scope.spawn(move || {
                let at = |name: &str| -> PathBuf { tree.path(format!("{name}-{worker}")) };
                while !stop.load(Ordering::Relaxed) {
                    fs::create_dir(at("d")).unwrap();
                    for index in 0..20 {
                        File::create_new(at("d").join(index.to_string())).unwrap();
                    }
                    fs::create_dir(tree.path(format!(".sessions/s-{worker}"))).unwrap();
                    File::create_new(tree.path(format!(".sessions/s-{worker}/f-{worker}"))).unwrap();
                    fs::rename(at("d").join("3"), at("moved")).unwrap();
                    fs::remove_file(at("moved")).unwrap();
                    fs::remove_dir(tree.path(format!(".sessions/s-{worker}"))).unwrap();
                    fs::remove_dir_all(at("d")).unwrap();
                }
            });
        }
        for _ in 0..5 {
            // 1: something has gone between its listing and a look at it. 124 would be the timeout's.
            let output = tree.run("timeout 20 find . -ls > /dev/null");
            assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
            let loops = String::from_utf8_lossy(&output.stderr).contains("loop");
            assert!(!loops, "{output:?}");
            assert!(tree.run("timeout 20 du -a . > /dev/null").status.code() < Some(2));
        }
        stop.store(true, Ordering::Relaxed);
    });
}
