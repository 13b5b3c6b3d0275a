//! What the view and the one who reads for it say to each other, and how it goes down a pipe.
//!
//! A message is a length of four bytes and that many bytes: words, each a tag, a length and its bytes. Both ends are the
//! same program, so a message that makes no sense is a bug, and ends the conversation.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::follow::Line;

/// What the view wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Look(Look),
    /// End the lock at `path` if its token is this one.
    Break {
        path: PathBuf,
        token: String,
    },
}

/// What is to be looked at: always the status and the events, and besides:
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// Which names are locks.
    pub(super) tree: bool,
    /// What is known of these, all of them.
    pub(super) shown: Vec<PathBuf>,
    /// What is known of these, as many as there is time for.
    pub(super) others: Vec<PathBuf>,
    /// Who waits for this one.
    pub(super) open: Option<PathBuf>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Boxed, for it is much.
    Seen(Box<Seen>),
    /// The mount can't be looked at: why.
    Gone(String),
    /// What a break of this path came to, as a sentence.
    Broken(PathBuf, Result<(), String>),
}

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// `.lockfs/status`
    pub(super) status: String,
    /// What has happened since the last look.
    pub(super) events: Vec<Line>,
    /// The locks, by name, where they were asked for.
    pub(super) tree: Option<Tree>,
    /// What `.lockfs/info` says of those that were asked about; none of those that are not there.
    pub(super) info: BTreeMap<PathBuf, Option<String>>,
    /// What the door of the open one says.
    pub(super) door: Option<String>,
    /// Why the rest of what was asked about could not be read.
    pub(super) trouble: Option<String>,
}

/// The names of all locks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) names: Vec<PathBuf>,
    /// How long it took to walk through them.
    pub(super) took: Duration,
    /// How many directories and locks could not be read.
    pub(super) unread: u64,
}

/// One message, word by word.
#[derive(Debug, Default)]
struct Words(Vec<u8>);

impl Words {
    fn add(&mut self, tag: u8, bytes: &[u8]) {
        self.0.push(tag);
        let length = u32::try_from(bytes.len()).expect("no word has 4 GiB");
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(bytes);
    }

    fn add_path(&mut self, tag: u8, path: &Path) {
        self.add(tag, path.as_os_str().as_bytes());
    }

    /// The message as it goes down the pipe.
    fn end(self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).expect("no message has 4 GiB");
        let mut message = length.to_be_bytes().to_vec();
        message.extend(self.0);
        message
    }
}

fn words(mut message: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut words = Vec::new();
    while let Some((&tag, rest)) = message.split_first() {
        let (length, rest) = rest.split_first_chunk()?;
        let (bytes, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        words.push((tag, bytes));
        message = rest;
    }
    Some(words)
}

/// Takes the first whole message from what came down a pipe.
pub(super) fn taken(came: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::try_from(u32::from_be_bytes(*came.first_chunk()?)).ok()?;
    if came.len() < 4 + length {
        return None;
    }
    let rest = came.split_off(4 + length);
    let mut message = std::mem::replace(came, rest);
    message.drain(..4);
    Some(message)
}

fn path(bytes: &[u8]) -> PathBuf {
    OsString::from_vec(bytes.to_vec()).into()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

impl Ask {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut words = Words::default();
        match self {
            Self::Break { path, token } => {
                words.add_path(b'b', path);
                words.add(b't', token.as_bytes());
            }
            Self::Look(look) => {
                if look.tree {
                    words.add(b'w', &[]);
                }
                look.shown.iter().for_each(|path| words.add_path(b's', path));
                look.others.iter().for_each(|path| words.add_path(b'o', path));
                look.open.iter().for_each(|path| words.add_path(b'q', path));
            }
        }
        words.end()
    }

    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        let words = words(message)?;
        if let [(b'b', name), (b't', token)] = words.as_slice() {
            return Some(Self::Break { path: path(name), token: text(token) });
        }
        let mut look = Look::default();
        for (tag, bytes) in words {
            match tag {
                b'w' => look.tree = true,
                b's' => look.shown.push(path(bytes)),
                b'o' => look.others.push(path(bytes)),
                b'q' => look.open = Some(path(bytes)),
                _ => return None,
            }
        }
        Some(Self::Look(look))
    }
}

impl Answer {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut words = Words::default();
        match self {
            Self::Gone(why) => words.add(b'g', why.as_bytes()),
            Self::Broken(path, result) => {
                words.add_path(b'b', path);
                result.iter().for_each(|()| words.add(b'd', &[]));
                result.as_ref().err().iter().for_each(|why| words.add(b'x', why.as_bytes()));
            }
            Self::Seen(seen) => {
                words.add(b'S', seen.status.as_bytes());
                for line in &seen.events {
                    match line {
                        Line::Event(line) => words.add(b'e', line.as_bytes()),
                        Line::Forgotten(Some(count)) => words.add(b'f', &count.to_be_bytes()),
                        Line::Forgotten(None) => words.add(b'f', &[]),
                    }
                }
                if let Some(tree) = &seen.tree {
                    words.add(b'w', &u64::try_from(tree.took.as_nanos()).unwrap_or(u64::MAX).to_be_bytes());
                    words.add(b'u', &tree.unread.to_be_bytes());
                    tree.names.iter().for_each(|name| words.add_path(b'n', name));
                }
                for (path, info) in &seen.info {
                    words.add_path(b'p', path);
                    info.iter().for_each(|info| words.add(b'i', info.as_bytes()));
                }
                seen.door.iter().for_each(|door| words.add(b'q', door.as_bytes()));
                seen.trouble.iter().for_each(|trouble| words.add(b't', trouble.as_bytes()));
            }
        }
        words.end()
    }

    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        let words = words(message)?;
        match words.as_slice() {
            [(b'g', why)] => return Some(Self::Gone(text(why))),
            [(b'b', name), (b'd', [])] => return Some(Self::Broken(path(name), Ok(()))),
            [(b'b', name), (b'x', why)] => return Some(Self::Broken(path(name), Err(text(why)))),
            _ => {}
        }
        let mut seen = Seen::default();
        let mut subject = None;
        for (tag, bytes) in words {
            match tag {
                b'S' => seen.status = text(bytes),
                b'e' => seen.events.push(Line::Event(text(bytes))),
                b'f' => seen.events.push(Line::Forgotten(number(bytes))),
                b'w' => {
                    seen.tree = Some(Tree { took: Duration::from_nanos(number(bytes)?), ..Tree::default() });
                }
                b'u' => seen.tree.as_mut()?.unread = number(bytes)?,
                b'n' => seen.tree.as_mut()?.names.push(path(bytes)),
                b'p' => {
                    seen.info.insert(path(bytes), None);
                    subject = Some(path(bytes));
                }
                b'i' => _ = seen.info.insert(subject.take()?, Some(text(bytes))),
                b'q' => seen.door = Some(text(bytes)),
                b't' => seen.trouble = Some(text(bytes)),
                _ => return None,
            }
        }
        Some(Self::Seen(Box::new(seen)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(message: &[u8]) -> Vec<u8> {
        // It comes in pieces, and another one follows.
        let mut came = message[..message.len() - 1].to_vec();
        assert_eq!(taken(&mut came), None);
        came.push(message[message.len() - 1]);
        came.extend_from_slice(&[0, 0]);
        let taken = taken(&mut came).unwrap();
        assert_eq!(came, [0, 0]);
        taken
    }

    #[test]
    fn what_is_said_arrives() {
        let odd = path(b"a\n\xff b");
        let look = Look {
            tree: true,
            shown: vec![odd.clone(), "b".into()],
            others: vec!["c".into()],
            open: Some("d".into()),
        };
        let asks = [
            Ask::Look(Look::default()),
            Ask::Look(look),
            Ask::Break { path: odd.clone(), token: "7".into() },
        ];
        for ask in asks {
            assert_eq!(Ask::decode(&through(&ask.encode())), Some(ask));
        }
        let tree = Tree { names: vec![odd.clone(), "b".into()], took: Duration::from_millis(7), unread: 2 };
        let seen = Seen {
            status: "state: ok\n".into(),
            events: vec![Line::Event("x".into()), Line::Forgotten(Some(3)), Line::Forgotten(None)],
            tree: Some(tree),
            info: [(odd.clone(), Some("lock: a\n".into())), ("b".into(), None)].into(),
            door: Some("state: free\n".into()),
            trouble: Some("why".into()),
        };
        let answers = [
            Answer::Seen(Box::default()),
            Answer::Seen(Box::new(seen)),
            Answer::Gone("why".into()),
            Answer::Broken(odd.clone(), Ok(())),
            Answer::Broken(odd, Err("no".into())),
        ];
        for answer in answers {
            assert_eq!(Answer::decode(&through(&answer.encode())), Some(answer));
        }
    }

    #[test]
    fn what_makes_no_sense_is_none() {
        for message in [&b"?"[..], b"?\0\0\0\0", b"s\0\0\0\x09abc", b"i\0\0\0\x01a"] {
            assert_eq!((Ask::decode(message), Answer::decode(message)), (None, None), "{message:?}");
        }
    }
}
