//! The library: every step and every look is a function of one Redis library, in Lua, that share the law.
//!
//! Functions (redis.io, "Redis functions", since 7.0) and no scripts: the server takes the text once and keeps what
//! it makes of it, with its data and its replicas, where a script's 30 KB would make all their closures anew at
//! each call. Measured: a step took 38 microseconds before it did anything. A library has the hash of its text in
//! its name and in those of its functions, so that daemons of two versions do not get in each other's way.

use std::sync::LazyLock;

use redis::Cmd;

/// The files of the library: first the law, then what is built on it, in the order of [`Script`].
const LAW: [&str; 4] = [
    include_str!("law/read.lua"),
    include_str!("law/step.lua"),
    include_str!("law/advisory.lua"),
    include_str!("law/queue.lua"),
];

/// Of how many of them what a file names is known to those behind it.
const SHARED: usize = 2;

macro_rules! scripts {
    ($($script:ident = $name:literal,)*) => {
        /// One function of the library.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Script {
            $($script,)*
        }

        /// Each with the name and the text of its file.
        const FILES: &[(Script, &str, &str)] =
            &[$((Script::$script, $name, include_str!(concat!($name, ".lua"))),)*];
    };
}

scripts! {
    Look = "look",
    View = "view",
    List = "list",
    Held = "held",
    Sessions = "sessions",
    Counts = "counts",
    Waiting = "waiting",
    Mine = "mine",
    Host = "host",
    Acquire = "acquire",
    Release = "release",
    Link = "link",
    Rename = "rename",
    Edit = "edit",
    Open = "open",
    Lock = "lock",
    Await = "await",
    Share = "share",
    Hand = "hand",
    Session = "session",
    Tend = "tend",
    Undo = "undo",
    Reassert = "reassert",
    Found = "found",
    Epoch = "epoch",
    Mend = "mend",
    Tell = "tell",
    Dump = "dump",
    Settle = "settle",
    Succeed = "succeed",
}

struct Library {
    text: String,
    names: Vec<String>,
}

static LIBRARY: LazyLock<Library> = LazyLock::new(|| {
    let (shared, closed) = LAW.split_at(SHARED);
    let mut body = shared.concat();
    for text in closed {
        // They name too much for themselves: a function has 200 local names at most.
        body.extend(["do\nlocal function part()\n", text, "end\npart()\nend\n"]);
    }
    for (_, _, text) in FILES {
        // What a file names for itself is its own: a function has 200 local names at most.
        body.extend(["do\n", text, "end\n"]);
    }
    let hash = &redis::Script::new(&body).get_hash()[..12].to_owned();
    let text = format!("#!lua name=lockfs_{hash}\nlocal PREFIX = 'lockfs_{hash}_'\n{body}");
    let names = FILES.iter().map(|(_, name, _)| format!("lockfs_{hash}_{name}")).collect();
    Library { text, names }
});

impl Script {
    /// The command that calls it on the namespace whose `keys` are those.
    pub(super) fn command(self, keys: &[&[u8]], args: &[&[u8]]) -> Cmd {
        let mut command = redis::cmd("FCALL");
        command.arg(&LIBRARY.names[self as usize]).arg(keys.len());
        for word in keys.iter().chain(args) {
            command.arg(*word);
        }
        command
    }
}

/// The command that gives the server the library.
pub(super) fn load() -> Cmd {
    let mut command = redis::cmd("FUNCTION");
    command.arg("LOAD").arg(&LIBRARY.text);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_stands_at_its_number() {
        for (index, (script, ..)) in FILES.iter().enumerate() {
            assert_eq!(*script as usize, index);
        }
    }

    #[test]
    fn every_file_says_what_it_is_and_makes_the_function_of_its_name() {
        for text in LAW {
            assert!(text.starts_with("-- The "), "{text:.40}");
        }
        for (_, name, text) in FILES {
            assert!(text.starts_with("-- ") && text.contains("-- Returns"), "{name} does not say what it is");
            assert!(text.contains(&format!("('{name}', function()")), "{name} makes another function");
        }
    }
}
