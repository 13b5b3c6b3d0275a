//! The laws of the house: imports run one way, and each foreign thing has one place.

use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom upwards: a module may import those before it.
const LAYERS: [&str; 10] =
    ["clock", "lock", "table", "store", "locks", "fs", "fuse", "config", "daemon", "cli"];

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let relative = path.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap();
                found.push((relative.to_owned(), text));
            }
        }
    }
    assert!(found.len() > 40, "the sources are where they are looked for");
    found
}

/// The lines of a source that are code, with their numbers.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    lines.filter(|(_, line)| !line.starts_with("//"))
}

fn layer_of(path: &Path) -> Option<usize> {
    let first = path.iter().next()?.to_str()?.trim_end_matches(".rs");
    LAYERS.iter().position(|layer| *layer == first)
}

#[test]
fn imports_run_one_way() {
    let mut breaches = Vec::new();
    for (path, text) in sources() {
        let Some(own) = layer_of(&path) else {
            continue;
        };
        for (number, line) in code(&text) {
            for (index, _) in line.match_indices("crate::") {
                let name: String =
                    line[index + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if LAYERS.iter().position(|layer| *layer == name).is_some_and(|layer| layer > own) {
                    breaches.push(format!("{}:{number}: {line}", path.display()));
                }
            }
        }
    }
    assert!(breaches.is_empty(), "imports against the order {LAYERS:?}:\n{}", breaches.join("\n"));
}

/// What stands in one place only: the word, and how the paths begin that may use it.
const PLACES: [(&str, &[&str]); 11] = [
    ("fuser::", &["fuse/"]),
    ("Errno::E", &["fuse/"]),
    ("rusty_leveldb::", &["store/level/"]),
    ("use redis::", &["store/redis"]),
    ("use rustls::", &["store/redis/"]),
    ("SystemTime::now", &["clock.rs"]),
    ("Instant::now", &["clock.rs"]),
    ("clock_gettime", &["clock.rs"]),
    ("mod.rs", &[]),
    ("todo!(", &[]),
    ("unimplemented!(", &[]),
];

#[test]
fn each_foreign_thing_has_its_place() {
    let mut breaches = Vec::new();
    for (path, text) in sources() {
        for (word, places) in PLACES {
            let shown = path.display().to_string();
            if places.iter().any(|place| shown.starts_with(place)) || shown.contains("tests") {
                continue;
            }
            let lines = code(&text).filter(|(_, line)| line.contains(word));
            breaches.extend(lines.map(|(number, line)| format!("{shown}:{number}: {line}")));
        }
    }
    assert!(breaches.is_empty(), "out of place:\n{}", breaches.join("\n"));
}

#[test]
fn the_map_of_the_house_names_every_module() {
    let map = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/lib.rs")).unwrap();
    for layer in LAYERS {
        assert!(map.contains(&format!("[`{layer}`]")), "{layer} is not on the map");
    }
}

#[test]
fn every_file_opens_with_what_it_is() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{} does not say what it is", path.display());
    }
}
