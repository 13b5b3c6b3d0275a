//! `lockfs ls`: the locks of a tree, by walking it.

use std::fs::FileType;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::facts::{Facts, Grant, TtlLeft, is_gone};
use super::json::{self, Object};
use super::mounts::{Place, default_mount, place, shown};
use super::out::{escaped, fitted, print_painted, span, width};
use super::status::explained;
use super::walk::{Directories, Finder, walk};
use super::{Exit, Failure, Outcome, say};

/// List the locks: who holds what, since when
///
/// Walks the tree and reads what each lock says of itself. A directory is listed if it is a lock, that is named
/// *.lock or has a ttl; with --all each is. A lock that is released meanwhile is left out. WAITING is how many wait for
/// it. Of a file that flock(2) or fcntl(2) is used on, HOLDER is the first of those who have it locked, and how; JSON
/// has all of them as grants. On a terminal lines are cut to its width, in a pipe never.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  $ lockfs ls
  $ lockfs ls build
  $ lockfs ls --json /locks")]
pub(super) struct Ls {
    /// A lock or a directory of locks [default: the whole mount]
    path: Option<PathBuf>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    /// List plain directories too
    #[arg(long, short)]
    all: bool,
}

/// What one lock is, and says.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: PathBuf,
    kind: FileType,
    pub(super) facts: Facts,
}

impl Ls {
    pub(super) fn perform(self) -> Outcome {
        let top = match &self.path {
            Some(path) => place(path)?,
            None => Place { mount: default_mount()?, name: PathBuf::new() },
        };
        let (rows, exit) = locks(&top, self.all)?;
        print_painted(&if self.json { as_json(&rows) } else { as_table(&rows, width()) })?;
        Ok(exit)
    }
}

/// The locks at `top` and below it, by name; with `all` plain directories too. What could not be read was said, and
/// makes the exit code.
pub(super) fn locks(top: &Place, all: bool) -> Result<(Vec<Row>, Exit), Failure> {
    let mut listing = Listing { rows: Vec::new(), exit: Exit::Done };
    let directories = if all { Directories::All } else { Directories::Locks };
    walk(top, directories, &mut listing).map_err(|error| {
        let exit = if is_gone(&error) { Exit::Failed } else { Exit::Unavailable };
        let path = shown(&top.path());
        let message = match exit {
            Exit::Failed => format!("there is no lock {path}: lockfs ls lists those there are"),
            _ => format!("cannot list {path}: {}", explained(&top.mount, &error)),
        };
        Failure::new(exit, message)
    })?;
    listing.rows.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((listing.rows, listing.exit))
}

/// What a walk found, and whether all of it could be read.
struct Listing {
    rows: Vec<Row>,
    exit: Exit,
}

impl Finder for Listing {
    fn found(&mut self, place: Place, kind: FileType) {
        match Facts::read(&place) {
            Ok(facts) => self.rows.push(Row { name: place.name, kind, facts }),
            // What went away while we looked is not there.
            Err(error) if is_gone(&error) => {}
            Err(error) => self.failed(&place, &error),
        }
    }

    fn failed(&mut self, place: &Place, error: &io::Error) {
        say(format_args!("cannot read {}: {}", shown(&place.path()), explained(&place.mount, error)));
        self.exit = Exit::Failed;
    }
}

fn as_table(rows: &[Row], width: Option<usize>) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|Row { name, facts, .. }| {
            let ttl = match facts.ttl() {
                TtlLeft::Seconds(left) => span(left),
                TtlLeft::Never => "never".to_owned(),
                TtlLeft::Unknown => "-".to_owned(),
            };
            let age = facts.age().map_or("-".to_owned(), span);
            let scope = escaped(facts.get("scope").unwrap_or("-"));
            let waiting = escaped(facts.get("waiting").unwrap_or("-"));
            [shown(name), holder(facts), age, ttl, scope, waiting]
        })
        .collect();
    fitted(["PATH", "HOLDER", "AGE", "TTL-LEFT", "SCOPE", "WAITING"], &rows, width)
}

/// Who holds it; of an advisory file the first of them, and how: `bob@dev1 make[7] (flock shared, 2 more)`.
fn holder(facts: &Facts) -> String {
    let holder = facts.holder();
    match facts.grants() {
        [] => holder,
        [only] => format!("{holder} ({})", only.how()),
        [first, others @ ..] => format!("{holder} ({}, {} more)", first.how(), others.len()),
    }
}

fn as_json(rows: &[Row]) -> String {
    json::array(rows.iter().map(|row| {
        let facts = &row.facts;
        let object = path_members(&row.name)
            .text("kind", Some(kind_name(row.kind)))
            .text("state", facts.get("state"))
            .text("holder", Some(&facts.holder()))
            .text("owner", facts.get("owner"))
            .text("session", facts.get("session"))
            .text("host", facts.get("host"))
            .number("pid", facts.number("pid").filter(|pid| *pid > 0))
            .text("command", facts.get("command"))
            .text("token", facts.get("token"))
            .text("since", facts.get("since"))
            .number("age_seconds", facts.age());
        let object = match facts.ttl() {
            TtlLeft::Seconds(left) => object.number("ttl_seconds", Some(left)),
            TtlLeft::Never | TtlLeft::Unknown => object.number("ttl_seconds", None),
        };
        object
            .text("expires", facts.get("expires"))
            .text("scope", facts.get("scope"))
            .number("waiting", facts.number("waiting"))
            .list("grants", facts.grants().iter().map(grant))
    }))
}

/// An advisory lock that somebody has. The bytes of flock(2) are all there are; the last may be without end.
fn grant(grant: &Grant) -> Object {
    let (first, last) = grant.range.as_deref().unwrap_or("0-").split_once('-').unwrap_or_default();
    Object::default()
        .text("style", Some(&grant.style))
        .text("mode", Some(&grant.mode))
        .number("first", first.parse().ok())
        .number("last", last.parse().ok())
        .text("holder", Some(&escaped(&grant.holder)))
        .number("pid", grant.pid)
        .text("since", grant.since.as_deref())
}

/// JSON has no strings but of characters: a path that is not UTF-8 is shown, and exact in hex beside it.
fn path_members(path: &Path) -> Object {
    let bytes = path.as_os_str().as_bytes();
    match path.to_str() {
        Some(text) => Object::default().text("path", Some(text)),
        None => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            Object::default().text("path", Some(&escaped(bytes))).text("path_hex", Some(&hex))
        }
    }
}

fn kind_name(kind: FileType) -> &'static str {
    match () {
        () if kind.is_dir() => "directory",
        () if kind.is_symlink() => "symlink",
        () => "file",
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn a_path_that_is_not_utf_8_is_exact_in_hex() {
        let plain = path_members(Path::new("a\nb")).end();
        assert_eq!(plain, r#"{"path":"a\nb"}"#);
        let path = Path::new(OsStr::from_bytes(b"a\xff"));
        assert_eq!(path_members(path).end(), r#"{"path":"a\\xff","path_hex":"61ff"}"#);
    }
}
