//! What this host let go of while Redis was gone, and Redis has still to hear: a list in a file.
//!
//! A line is written before who let go of it is told. The file is cleared when Redis has heard all; what it has heard
//! already it hears again without harm: only what is held by that very token goes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::lock::{Ino, Name, SessionId, Token};
use crate::store::redis::Dropped;

/// One thing that is owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Debt {
    /// A name was let go of.
    Name(Dropped),
    /// A session was ended.
    End(SessionId),
}

/// All that is owed.
#[derive(Debug)]
pub(super) struct Owed {
    file: PathBuf,
    list: Mutex<Vec<Debt>>,
}

impl Owed {
    /// The list beside the file `state`, with what is on it.
    pub(super) fn open(state: &Path) -> io::Result<Self> {
        let mut file = state.to_owned().into_os_string();
        file.push(".owed");
        let file = PathBuf::from(file);
        let text = match fs::read_to_string(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        // A line that was cut is of what nobody was told.
        let list = text.lines().filter_map(Debt::parse).collect();
        Ok(Self { file, list: Mutex::new(list) })
    }

    fn list(&self) -> MutexGuard<'_, Vec<Debt>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a debt.
    pub(super) fn add(&self, debt: &Debt) {
        let mut list = self.list();
        let written = File::options().create(true).append(true).open(&self.file).and_then(|mut file| {
            file.write_all(debt.line().as_bytes())?;
            file.sync_data()
        });
        if let Err(error) = written {
            log::warn!("redis may not hear of a release: {}: {error}", self.file.display());
        }
        list.push(debt.clone());
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Debt> {
        self.list().clone()
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.list().len()
    }

    /// The first `count` are paid.
    pub(super) fn settle(&self, count: usize) {
        let mut list = self.list();
        list.drain(..count);
        if list.is_empty() {
            fs::remove_file(&self.file).ok();
        }
    }
}

impl Debt {
    fn line(&self) -> String {
        match self {
            Self::Name(Dropped { ino, token, parent, name }) => {
                let name: String = name.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
                format!("name {ino} {token} {parent} {name} .\n")
            }
            Self::End(id) => format!("end {id} .\n"),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["end", id, "."] => SessionId::parse(id.as_bytes()).ok().map(Self::End),
            ["name", ino, token, parent, name, "."] => {
                let digits = (0..name.len()).step_by(2).map(|at| name.get(at..at + 2));
                let bytes =
                    digits.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect::<Option<Vec<u8>>>()?;
                Some(Self::Name(Dropped {
                    ino: Ino::from_u64(ino.parse().ok()?),
                    token: token.parse::<Token>().ok()?,
                    parent: Ino::from_u64(parent.parse().ok()?),
                    name: Name::parse(&bytes).ok()?,
                }))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_owed_survives_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("test");
        let (ino, token) = (Ino::from_u64(7 << 40), Token::from_u64(8 << 40));
        let name = Name::parse(b"a b\xff").unwrap();
        let debts = [
            Debt::Name(Dropped { ino, token, parent: Ino::ROOT, name }),
            Debt::End(SessionId::parse(b"x").unwrap()),
        ];
        let owed = Owed::open(&state).unwrap();
        debts.iter().for_each(|debt| owed.add(debt));
        let mut torn = File::options().append(true).open(&owed.file).unwrap();
        torn.write_all(b"name 7 8").unwrap();
        let again = Owed::open(&state).unwrap();
        assert_eq!(again.all(), debts);
        again.settle(1);
        assert!(again.file.exists());
        again.settle(1);
        assert_eq!((again.len(), again.file.exists()), (0, false));
    }
}
