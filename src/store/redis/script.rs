//! The scripts: each is one atomic step or one look, in Lua, with the part of the law that it needs before it.
//!
//! All are whole texts of their own, so that the server keeps them by their hash (redis.io, EVALSHA): a call
//! carries 40 bytes, and the text only where the server has lost it.

use std::sync::LazyLock;

use redis::Cmd;

/// A script that only reads.
macro_rules! look {
    ($file:literal) => {
        concat!(include_str!("law/read.lua"), include_str!($file))
    };
}

/// A script that changes something.
macro_rules! step {
    ($file:literal) => {
        concat!(include_str!("law/read.lua"), include_str!("law/step.lua"), include_str!($file))
    };
}

/// One of the scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    Look,
    View,
    List,
    Held,
    Sessions,
    Counts,
    Mine,
    Host,
    Acquire,
    Release,
    Link,
    Rename,
    Edit,
    Hand,
    Session,
    Tend,
    Undo,
    Reassert,
    Found,
    Epoch,
}

/// Each with its text, in the order of [`Script`].
const TEXTS: [(Script, &str); 20] = [
    (Script::Look, look!("look.lua")),
    (Script::View, look!("view.lua")),
    (Script::List, look!("list.lua")),
    (Script::Held, look!("held.lua")),
    (Script::Sessions, look!("sessions.lua")),
    (Script::Counts, look!("counts.lua")),
    (Script::Mine, look!("mine.lua")),
    (Script::Host, look!("host.lua")),
    (Script::Acquire, step!("acquire.lua")),
    (Script::Release, step!("release.lua")),
    (Script::Link, step!("link.lua")),
    (Script::Rename, step!("rename.lua")),
    (Script::Edit, step!("edit.lua")),
    (Script::Hand, step!("hand.lua")),
    (Script::Session, step!("session.lua")),
    (Script::Tend, step!("tend.lua")),
    (Script::Undo, step!("undo.lua")),
    (Script::Reassert, step!("reassert.lua")),
    (Script::Found, step!("found.lua")),
    (Script::Epoch, step!("epoch.lua")),
];

static HASHES: LazyLock<Vec<String>> =
    LazyLock::new(|| TEXTS.iter().map(|(_, text)| redis::Script::new(text).get_hash().to_owned()).collect());

impl Script {
    fn index(self) -> usize {
        self as usize
    }

    /// The command that runs it on the namespace whose `keys` are those, by its hash or with its text.
    pub(super) fn command(self, how: By, keys: &[&[u8]], args: &[&[u8]]) -> Cmd {
        let mut command = match how {
            By::Hash => {
                let mut command = redis::cmd("EVALSHA");
                command.arg(&HASHES[self.index()]);
                command
            }
            By::Text => {
                let mut command = redis::cmd("EVAL");
                command.arg(TEXTS[self.index()].1);
                command
            }
        };
        command.arg(keys.len());
        for word in keys.iter().chain(args) {
            command.arg(*word);
        }
        command
    }
}

/// How the server is told which script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// By its hash: the server may have lost it (NOSCRIPT).
    Hash,
    /// With its text, which the server then keeps.
    Text,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_stands_at_its_number() {
        for (index, (script, _)) in TEXTS.iter().enumerate() {
            assert_eq!(script.index(), index);
        }
    }

    #[test]
    fn every_script_says_what_it_is() {
        for file in [include_str!("law/read.lua"), include_str!("law/step.lua"), include_str!("acquire.lua")] {
            assert!(file.starts_with("-- "), "{file:.40}");
        }
    }
}
