//! A relay: processes that hand one thing over from each to the next, and take the time from just before the release
//! to the grant.
//!
//! Half of them are on one mount, half on the other, and only what goes from one mount to the other counts. Whoever has
//! got it keeps it until all others wait, and a moment more; whoever has released it asks again when somebody else has
//! it. So there are always as many waiters, and no poll of somebody who has just released is luckier than the others.
//!
//! Each is a process in a group of its own, and so a job and a session of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::Duration;

use crate::board::{Board, a_moment, be_patient, now};
use crate::processor::{self, On};

/// The name that they hand over.
const NAME: &str = "relay";

/// What is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Baton {
    /// A message on a Redis channel: the floor. Two run.
    Message,
    /// flock(2) of a file that all have open.
    Flock,
    /// A name, acquired through `.wait/` and released by unlink(2).
    Door,
}

impl Baton {
    fn word(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Flock => "flock",
            Self::Door => "door",
        }
    }

    fn said(word: &str) -> Option<Self> {
        [Self::Message, Self::Flock, Self::Door].into_iter().find(|baton| baton.word() == word)
    }
}

/// One relay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Relay<'a> {
    pub(crate) baton: Baton,
    /// The two mounts; for messages the address of the server, twice.
    pub(crate) roots: [&'a Path; 2],
    /// How many wait while one has it.
    pub(crate) waiters: usize,
    /// How often it is handed over.
    pub(crate) times: usize,
    pub(crate) on: On,
}

impl Relay<'_> {
    /// How long each hand-over from one mount to the other took.
    pub(crate) fn run(&self) -> io::Result<Vec<Duration>> {
        let board = Board::new(self.times)?;
        let program = std::env::current_exe()?;
        let runners = (0..=self.waiters).map(|number| {
            let mut runner = Command::new(&program);
            runner.args(["relay", self.baton.word(), self.on.word()]);
            runner.args([number, self.waiters + 1].map(|number| number.to_string()));
            runner.arg(board.path()).arg(self.roots[number % 2]).process_group(0).spawn()
        });
        let runners: Vec<Child> = runners.collect::<Result<_, _>>()?;
        await_all(runners)?;
        let spans =
            board.places().iter().map(|place| place.load(Ordering::Acquire)).filter(|span| *span != 0);
        Ok(spans.map(Duration::from_nanos).collect())
    }
}

/// Waits until all have ended; if one fails, the others are not waited for.
pub(crate) fn await_all(mut children: Vec<Child>) -> io::Result<()> {
    let mut outcome = Ok(());
    for child in &mut children {
        if outcome.is_err() {
            child.kill().ok();
        }
        let status = child.wait()?;
        if !status.success() && outcome.is_ok() {
            outcome = Err(io::Error::other(format!("a process that waits failed: {status}")));
        }
    }
    outcome
}

/// One of the processes.
pub(crate) fn run(words: &[&str]) -> io::Result<()> {
    let usage = || io::Error::other("relay message|flock|door one|any NUMBER RUNNERS BOARD ROOT");
    let [baton, on, number, runners, board, root] = words else {
        return Err(usage());
    };
    let baton = Baton::said(baton).ok_or_else(usage)?;
    let (number, runners) =
        (number.parse().map_err(|_| usage())?, runners.parse::<u32>().map_err(|_| usage())?);
    be_patient();
    processor::place(0, On::said(on))?;
    let board = Board::open(board.as_ref())?;
    match baton {
        Baton::Message => take_part(&board, number, runners, &mut Messenger::open(root, number)?),
        Baton::Flock => take_part(&board, number, runners, &mut Locker::open(root.as_ref())?),
        Baton::Door => take_part(&board, number, runners, &mut Visitor::new(root.as_ref())),
    }
}

/// Takes the baton and hands it over.
trait Runner {
    /// Waits until it has it.
    fn take(&mut self) -> io::Result<()>;

    /// Lets go of it.
    fn give(&mut self) -> io::Result<()>;
}

fn take_part(board: &Board, number: usize, runners: u32, runner: &mut impl Runner) -> io::Result<()> {
    // One after the other, so that in a queue the mounts follow one another in turn.
    board.await_asks(u32::try_from(number).unwrap_or(u32::MAX))?;
    if number > 0 {
        sleep(a_moment());
    }
    loop {
        board.ask();
        runner.take()?;
        let taken = now();
        let (releaser, released) = board.released();
        let grants = board.grant();
        if (grants as usize) > board.places().len() {
            return runner.give();
        }
        if grants > 0 && releaser % 2 != number as u64 % 2 {
            board.places()[grants as usize - 1].store(taken - released, Ordering::Release);
        }
        board.await_asks(runners + grants)?;
        sleep(a_moment());
        board.release(number);
        runner.give()?;
        board.await_grants(grants + 2)?;
    }
}

/// Waits for a message that it is its turn, and sends one to the other. It begins if it is the first.
struct Messenger {
    receive: TcpStream,
    send: TcpStream,
    publish: Vec<u8>,
    begins: bool,
}

impl Messenger {
    const CHANNELS: [&str; 2] = ["relay-0", "relay-1"];

    fn open(address: &str, number: usize) -> io::Result<Self> {
        let connect = || {
            let connection = TcpStream::connect(address)?;
            connection.set_nodelay(true)?;
            Ok::<_, io::Error>(connection)
        };
        let (mut receive, send) = (connect()?, connect()?);
        let [own, other] = [Self::CHANNELS[number % 2], Self::CHANNELS[(number + 1) % 2]];
        receive.write_all(&command(&["SUBSCRIBE", own]))?;
        let expected = [b"*3", &command(&["subscribe", own])[2..], b":1\r\n"].concat();
        let mut said = vec![0; expected.len()];
        receive.read_exact(&mut said)?;
        if said != expected {
            return Err(io::Error::other("the server lets nobody subscribe"));
        }
        Ok(Self { receive, send, publish: command(&["PUBLISH", other, "go"]), begins: number == 0 })
    }
}

/// As Redis reads a command, and tells a message.
fn command(words: &[&str]) -> Vec<u8> {
    let words = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
    format!("*{}\r\n{}", words.len(), words.collect::<String>()).into_bytes()
}

impl Runner for Messenger {
    fn take(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.begins) {
            return Ok(());
        }
        let mut message = [0; 128];
        let read = self.receive.read(&mut message)?;
        if message[..read].ends_with(b"go\r\n") { Ok(()) } else { Err(io::Error::other("no message")) }
    }

    fn give(&mut self) -> io::Result<()> {
        self.send.write_all(&self.publish)?;
        // How many heard it.
        let mut heard = [0; 4];
        self.send.read_exact(&mut heard)
    }
}

/// Locks a file with flock(2).
struct Locker(File);

impl Locker {
    fn open(root: &Path) -> io::Result<Self> {
        open_shared(&root.join(NAME)).map(Self)
    }
}

/// A file that several have open.
pub(crate) fn open_shared(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// flock(2).
pub(crate) fn flock(file: &File, operation: libc::c_int) -> io::Result<()> {
    // SAFETY: flock(2) of a descriptor that is open.
    match unsafe { libc::flock(file.as_raw_fd(), operation) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Runner for Locker {
    fn take(&mut self) -> io::Result<()> {
        flock(&self.0, libc::LOCK_EX)
    }

    fn give(&mut self) -> io::Result<()> {
        flock(&self.0, libc::LOCK_UN)
    }
}

/// Comes through the door that waits, and releases by unlink(2).
struct Visitor {
    door: PathBuf,
    name: PathBuf,
}

impl Visitor {
    fn new(root: &Path) -> Self {
        Self { door: root.join(".wait/door"), name: root.join("door") }
    }
}

impl Runner for Visitor {
    fn take(&mut self) -> io::Result<()> {
        OpenOptions::new().write(true).open(&self.door).map(drop)
    }

    fn give(&mut self) -> io::Result<()> {
        fs::remove_file(&self.name)
    }
}
