//! The process that reads the mount for the view, so that the view never waits for it.
//!
//! A request that a daemon has read and does not answer can't be interrupted, not even by SIGKILL, and a process ends only
//! when its last thread has (see `probe.rs`). So a child reads, one question at a time, and the view goes on without its
//! answer, and is free to end.
//!
//! What it asks of the mount is bounded: the details of what is on the screen, of others for [`SPARE`] a look; and the walk
//! through all names, which the view asks for the less often the longer it takes.

use std::fs::{self, File, FileType};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::facts::{is_gone, said};
use super::super::follow::{Follower, From};
use super::super::mounts::{Mount, Place, mount_at, shown};
use super::super::probe::{is_readable_within, pipe};
use super::super::walk::{Directories, Finder, walk};
use super::super::{Failure, break_lock, status};
use super::wire::{Answer, Ask, Look, Seen, Tree, taken};
use crate::clock::{Clock, SystemClock};

/// How long the details of locks that are not on the screen may take in one look.
const SPARE: Duration = Duration::from_millis(50);

/// The view's end: asks, and takes answers when they come.
#[derive(Debug)]
pub(super) struct Source {
    mount: Mount,
    child: libc::pid_t,
    asks: File,
    answers: File,
    came: Vec<u8>,
}

impl Source {
    /// Starts the process. Call it before this process has a second thread: it forks.
    ///
    /// # Errors
    /// When there is no pipe or no process to be had.
    pub(super) fn start(mount: &Mount) -> io::Result<Self> {
        let (asked, asks) = pipe()?;
        let (answers, answer) = pipe()?;
        // SAFETY: the process has one thread, so the child may go on as if nothing had happened.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop((asks, answers));
                serve(&mount.point, asked, answer.into())
            }
            child => {
                let (mount, asks) = (mount.clone(), asks.into());
                Ok(Self { mount, child, asks, answers, came: Vec::new() })
            }
        }
    }

    /// Whether another lockfs is mounted by now where the one was that this reads.
    pub(super) fn is_of_the_past(&self) -> bool {
        mount_at(&self.mount.point)
            .is_ok_and(|mount| mount.point == self.mount.point && mount.id != self.mount.id)
    }

    /// A new process, which reads what is mounted there now; errors as [`start`](Self::start).
    pub(super) fn again(&self) -> io::Result<Self> {
        match mount_at(&self.mount.point) {
            Ok(mount) if mount.point == self.mount.point => Self::start(&mount),
            _ => Self::start(&self.mount),
        }
    }

    /// Asks. One question is enough for a pipe, so this does not wait while the last one is answered.
    ///
    /// # Errors
    /// When nobody is there to ask.
    pub(super) fn ask(&mut self, ask: &Ask) -> io::Result<()> {
        self.asks.write_all(&ask.encode())
    }

    /// The answer, if one has come whole.
    ///
    /// # Errors
    /// When none will ever come.
    pub(super) fn answer(&mut self) -> io::Result<Option<Answer>> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match is_readable_within(self.answers.as_raw_fd(), Duration::ZERO) {
                Ok(true) => {}
                Ok(false) => break,
                // A signal: whether there is more is seen the next time.
                Err(error) if error.kind() == ErrorKind::Interrupted => break,
                Err(error) => return Err(error),
            }
            match self.answers.read(&mut buffer)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                length => self.came.extend_from_slice(&buffer[..length]),
            }
        }
        let Some(message) = taken(&mut self.came) else { return Ok(None) };
        Answer::decode(&message).map(Some).ok_or_else(|| ErrorKind::InvalidData.into())
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // It may be beyond the reach of this; it is then left to init.
        // SAFETY: the child is ours and not waited for, so the number is still its own.
        unsafe {
            libc::kill(self.child, libc::SIGKILL);
            libc::waitpid(self.child, std::ptr::null_mut(), libc::WNOHANG);
        }
    }
}

/// The child: answers until nobody asks any more.
fn serve(point: &Path, mut asked: File, mut answer: File) -> ! {
    // SAFETY: plain system calls. What the terminal sends to all of the job is the view's to take; the end of the view ends
    // this process too, wherever it is.
    unsafe {
        for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTSTP] {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        // The terminal is the view's: nothing may be written over it, nor kept open after it.
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        (0..=2).for_each(|stdio| _ = libc::dup2(null, stdio));
    }
    let mut reader = Reader::new(point);
    let (mut came, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        while let Some(message) = taken(&mut came) {
            let said = Ask::decode(&message).map(|ask| reader.answer(&ask));
            if said.is_none_or(|said| answer.write_all(&said.encode()).is_err()) {
                std::process::exit(0);
            }
        }
        match asked.read(&mut buffer) {
            Ok(length) if length > 0 => came.extend_from_slice(&buffer[..length]),
            _ => std::process::exit(0),
        }
    }
}

/// Who looks at the mount.
#[derive(Debug)]
pub(super) struct Reader {
    point: PathBuf,
    follower: Follower,
}

impl Reader {
    pub(super) fn new(point: &Path) -> Self {
        Self { point: point.to_owned(), follower: Follower::new(From::Oldest) }
    }

    /// Looks, or acts.
    pub(super) fn answer(&mut self, ask: &Ask) -> Answer {
        let mount = match mount_at(&self.point) {
            // What is mounted around a mount that went is another one.
            Ok(mount) if mount.point == self.point => mount,
            Ok(_) => return Answer::Gone(format!("no lockfs is mounted at {}", shown(&self.point))),
            Err(Failure { message, .. }) => return Answer::Gone(message),
        };
        match ask {
            Ask::Look(look) => match self.look(&mount, look) {
                Ok(seen) => Answer::Seen(Box::new(seen)),
                Err(error) => Answer::Gone(status::unanswered(&mount, &error)),
            },
            Ask::Break { path, token } => {
                let place = Place { mount, name: path.clone() };
                let result = break_lock::end(&place, token)
                    .map_err(|error| break_lock::not_ended(&place, token, &error));
                Answer::Broken(path.clone(), result)
            }
        }
    }

    fn look(&mut self, mount: &Mount, look: &Look) -> io::Result<Seen> {
        let status = fs::read(mount.path(".lockfs/status"))?;
        let status = String::from_utf8_lossy(&status).into_owned();
        let events = self.follower.read(mount, &status::daemon(&status))?;
        let mut seen = Seen { status, events, ..Seen::default() };
        // The mount answers for itself whatever its store does; what the store has to say may be missing.
        let error = look_closer(mount, look, &mut seen).err();
        seen.trouble = error.map(|error| status::explained(mount, &error));
        Ok(seen)
    }
}

/// Asks for what the store knows.
fn look_closer(mount: &Mount, look: &Look, seen: &mut Seen) -> io::Result<()> {
    if look.tree {
        seen.tree = Some(tree(mount)?);
    }
    for path in &look.shown {
        seen.info.insert(path.clone(), info(mount, path)?);
    }
    let start = SystemClock.now().boot;
    for path in &look.others {
        if SystemClock.now().boot.since(start) > SPARE {
            break;
        }
        seen.info.insert(path.clone(), info(mount, path)?);
    }
    if let Some(path) = &look.open {
        let place = Place { mount: mount.clone(), name: path.clone() };
        // A directory has no door.
        seen.door = fs::read(place.door()).ok().map(|door| String::from_utf8_lossy(&door).into_owned());
    }
    Ok(())
}

fn info(mount: &Mount, path: &Path) -> io::Result<Option<String>> {
    match said(&Place { mount: mount.clone(), name: path.to_owned() }) {
        Ok((text, _)) => Ok(Some(text)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) if is_unknown(&error) => Err(error),
        // One that can't be read is no reason not to read the others.
        Err(error) => Ok(Some(format!("state: unreadable: {error}\n"))),
    }
}

/// Whether the store can't say, or nobody answers at all.
fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EHOSTDOWN | libc::ETIMEDOUT | libc::ENOTCONN))
}

/// The names that a walk finds, and why it is not worth going on.
#[derive(Debug, Default)]
struct Names {
    tree: Tree,
    error: Option<io::Error>,
}

impl Finder for Names {
    fn found(&mut self, place: Place, _kind: FileType) {
        self.tree.names.push(place.name);
    }

    fn failed(&mut self, _place: &Place, error: &io::Error) {
        self.tree.unread += 1;
        if is_unknown(error) {
            self.error = error.raw_os_error().map(io::Error::from_raw_os_error);
        }
    }
}

fn tree(mount: &Mount) -> io::Result<Tree> {
    let start = SystemClock.now().boot;
    let mut names = Names::default();
    let root = Place { mount: mount.clone(), name: PathBuf::new() };
    walk(&root, Directories::Locks, &mut names)?;
    // What is not known is not gone: half of the names are none.
    if let Some(error) = names.error {
        return Err(error);
    }
    let mut tree = names.tree;
    tree.names.sort_unstable();
    tree.took = SystemClock.now().boot.since(start);
    Ok(tree)
}
