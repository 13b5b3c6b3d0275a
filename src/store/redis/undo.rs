//! The list of what is to be undone: acquires of which nobody knows whether they happened.
//!
//! It is kept in a file, for their callers were told that they have not got the lock, and a lock that nobody
//! knows of would stand for as long as its job lives. A line is written before the caller is told, and the file
//! is cleared once nothing is left to undo; what was undone already is undone again without harm.
//!
//! With `--acks` what was undone stays on the list until as many replicas have that too: one that had got the
//! acquire and not the undo would bring the lock back when it is promoted.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::requests::Generation;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Undo {
    /// The key of answers of the daemon that made it.
    pub(super) answers: Vec<u8>,
    /// The field there.
    pub(super) seat: u32,
    /// Its number.
    pub(super) request: u64,
    /// Of which data.
    pub(super) generation: Generation,
}

/// All of them.
#[derive(Debug)]
pub(super) struct UndoList {
    file: Option<PathBuf>,
    list: Mutex<Vec<Entry>>,
}

/// One request on the list.
#[derive(Debug)]
struct Entry {
    undo: Undo,
    /// In which epoch it was undone, where the replicas are still to have that.
    undone_in: Option<u32>,
}

impl Entry {
    fn new(undo: Undo) -> Self {
        Self { undo, undone_in: None }
    }
}

impl UndoList {
    /// The list that `file` keeps, with what is in it already; without a file it is forgotten at the end.
    pub(super) fn open(file: Option<&Path>) -> io::Result<Self> {
        let text = match file.map(fs::read_to_string) {
            None => String::new(),
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Some(text) => text?,
        };
        // A line that was cut when the machine stopped is of a request whose caller was not told yet.
        let list = text.lines().filter_map(Undo::parse).map(Entry::new).collect();
        Ok(Self { file: file.map(Path::to_owned), list: Mutex::new(list) })
    }

    /// Enters a request.
    pub(super) fn add(&self, undo: Undo) {
        let mut list = self.list();
        if let Some(file) = &self.file
            && let Err(error) = append(file, &undo.line())
        {
            log::warn!(
                "a lock may stay that nobody holds, should lockfs end now: {}: {error}",
                file.display()
            );
        }
        list.push(Entry::new(undo));
    }

    /// What is to be undone at the server of `epoch`.
    pub(super) fn to_do(&self, epoch: u32) -> Vec<Undo> {
        let list = self.list();
        list.iter().filter(|entry| entry.undone_in != Some(epoch)).map(|entry| entry.undo.clone()).collect()
    }

    /// One that was undone at the server of `epoch`, of those that are still listed.
    pub(super) fn done(&self, epoch: u32) -> Option<Undo> {
        let list = self.list();
        list.iter().rev().find(|entry| entry.undone_in == Some(epoch)).map(|entry| entry.undo.clone())
    }

    /// Notes that a request was undone at the server of `epoch`.
    pub(super) fn note(&self, undone: &Undo, epoch: u32) {
        let mut list = self.list();
        list.iter_mut().filter(|entry| entry.undo == *undone).for_each(|entry| entry.undone_in = Some(epoch));
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.list().len()
    }

    /// Takes out what was undone at the server of `epoch`.
    pub(super) fn remove_done(&self, epoch: u32) {
        let mut list = self.list();
        list.retain(|entry| entry.undone_in != Some(epoch));
        if list.is_empty()
            && let Some(file) = &self.file
        {
            fs::remove_file(file).ok();
        }
    }

    fn list(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn append(file: &Path, line: &str) -> io::Result<()> {
    let mut file = File::options().create(true).append(true).open(file)?;
    file.write_all(line.as_bytes())?;
    file.sync_data()
}

impl Undo {
    fn line(&self) -> String {
        let generation: String = self.generation.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{generation} {} {} {} .\n", self.seat, self.request, self.answers.escape_ascii())
    }

    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let &[generation, seat, request, answers, "."] = words.as_slice() else {
            return None;
        };
        let mut bytes = Generation::default();
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(generation.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        let (seat, request) = (seat.parse().ok()?, request.parse().ok()?);
        Some(Self { answers: answers.into(), seat, request, generation: bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_undone_survives_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("undo");
        let undo =
            |request| Undo { answers: b"lockfs:{a}:q:x".to_vec(), seat: 3, request, generation: [7; 16] };
        let list = UndoList::open(Some(&file)).unwrap();
        list.add(undo(1));
        list.add(undo(2));
        append(&file, "0707 cut off").unwrap();
        let again = UndoList::open(Some(&file)).unwrap();
        assert_eq!(again.to_do(7), [undo(1), undo(2)]);
        again.note(&undo(1), 7);
        assert_eq!((again.to_do(7), again.done(7)), (vec![undo(2)], Some(undo(1))));
        again.remove_done(7);
        assert!(file.exists());
        again.note(&undo(2), 7);
        assert_eq!(again.to_do(8), [undo(2)], "another server may not know");
        again.note(&undo(2), 8);
        again.remove_done(8);
        assert!(!file.exists());
    }
}
