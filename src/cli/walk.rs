//! A walk through the tree: which names are locks, before anything else is asked of them.

use std::ffi::OsStr;
use std::fs::{self, FileType};
use std::io;
use std::os::unix::ffi::OsStrExt;

use super::facts::{expires, is_gone};
use super::mounts::Place;

/// Who is told what a walk comes by.
pub(super) trait Finder {
    /// A lock, or where all are asked for a plain directory.
    fn found(&mut self, place: Place, kind: FileType);

    /// Something that can't be read. What went away meanwhile is not told of.
    fn failed(&mut self, place: &Place, error: &io::Error);
}

/// Which directories are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Directories {
    /// Those that are locks: named `*.lock`, or with a ttl.
    Locks,
    /// All.
    All,
}

/// Tells `finder` of the locks at `top` and below it, however deep, in no order. The directory that was asked for is
/// not one of its locks.
///
/// # Errors
/// Where `top` itself can't be looked at.
pub(super) fn walk(top: &Place, directories: Directories, finder: &mut dyn Finder) -> io::Result<()> {
    let kind = fs::symlink_metadata(top.path())?.file_type();
    if !kind.is_dir() {
        finder.found(top.clone(), kind);
        return Ok(());
    }
    // Without a call in a call, for directories stand in each other as deep as one likes.
    let mut open = vec![top.clone()];
    while let Some(directory) = open.pop() {
        let entries = fs::read_dir(directory.path()).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) if directory == *top => return Err(error),
            Err(error) => {
                fail(finder, &directory, &error);
                continue;
            }
        };
        let is_root = directory.name.as_os_str().is_empty();
        for entry in entries {
            if is_root && is_reserved(&entry.file_name()) {
                continue;
            }
            let child =
                Place { mount: directory.mount.clone(), name: directory.name.join(entry.file_name()) };
            let is_lock = entry.file_type().and_then(|kind| {
                if kind.is_dir() {
                    open.push(child.clone());
                }
                Ok((kind, directories == Directories::All || is_lock(&child, kind)?))
            });
            match is_lock {
                Ok((kind, true)) => finder.found(child, kind),
                Ok((_, false)) => {}
                Err(error) => fail(finder, &child, &error),
            }
        }
    }
    Ok(())
}

fn fail(finder: &mut dyn Finder, place: &Place, error: &io::Error) {
    if !is_gone(error) {
        finder.failed(place, error);
    }
}

fn is_lock(place: &Place, kind: FileType) -> io::Result<bool> {
    Ok(!kind.is_dir() || place.name.as_os_str().as_bytes().ends_with(b".lock") || expires(place)?)
}

fn is_reserved(name: &OsStr) -> bool {
    [".sessions", ".wait", ".lockfs"].iter().any(|reserved| name == *reserved)
}
