//! The workers of a contest that are made here: they lock by the calls themselves.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use crate::contest::Orders;
use crate::history::{End, Hold, Stamp};
use crate::puppet::{Mode, Style};

/// How the workers of a contest lock.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// By a call that waits. Every third hold is a writer's, the others share.
    Calls(Style),
    /// By a call that waits, and always alone.
    Alone(Style),
    /// By opening a name in `.wait`, and unlinking the name that is held then.
    Door,
    /// By a program that does what [`work`] does, with what its environment says.
    Program(fn() -> Command),
}

/// Holds the lock again and again, until it is enough.
pub(crate) fn work(way: Way, orders: &Orders) {
    let history = OpenOptions::new().create(true).append(true).open(orders.history()).unwrap();
    let lock = orders.root.join(Orders::LOCK);
    while !orders.enough().exists() {
        let is_exclusive = !matches!(way, Way::Calls(_)) || Stamp::now().dice(3) == 0;
        let mode = if is_exclusive { Mode::Exclusive } else { Mode::Shared };
        let file = match way {
            Way::Calls(_) | Way::Alone(_) => {
                let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&lock);
                Some(file.unwrap())
            }
            Way::Door | Way::Program(_) => None,
        };
        let asked = Stamp::now();
        match way {
            Way::Calls(style) | Way::Alone(style) => wait_for(file.as_ref().unwrap(), style, mode).unwrap(),
            Way::Door => enter(orders).unwrap(),
            Way::Program(_) => unreachable!("it is not made here"),
        }
        let begin = Stamp::now();
        let hold = Hold { who: orders.me.clone(), is_exclusive, asked, begin, end: End::Missing };
        note(&history, &hold.begin_line());
        if is_exclusive {
            raise(orders);
        } else {
            nap(4);
        }
        note(&history, &Hold::end_line(&orders.me));
        if let Way::Door = way {
            std::fs::remove_file(&lock).unwrap();
        }
        drop(file);
        nap(3);
    }
}

/// Locks a file by a call that waits. Fails with what the call fails with.
pub(crate) fn wait_for(file: &File, style: Style, mode: Mode) -> io::Result<()> {
    let fd = file.as_raw_fd();
    let answer = match style {
        Style::Flock => {
            let operation = match mode {
                Mode::Shared => libc::LOCK_SH,
                Mode::Exclusive => libc::LOCK_EX,
                Mode::None => libc::LOCK_UN,
            };
            // SAFETY: flock(2) has no memory to spoil.
            unsafe { libc::flock(fd, operation) }
        }
        Style::Posix | Style::Ofd => {
            let kind = match mode {
                Mode::Shared => libc::F_RDLCK,
                Mode::Exclusive => libc::F_WRLCK,
                Mode::None => libc::F_UNLCK,
            };
            // SAFETY: a flock is made of numbers.
            let mut lock: libc::flock = unsafe { std::mem::zeroed() };
            lock.l_type = i16::try_from(kind).unwrap();
            let command = if style == Style::Posix { libc::F_SETLKW } else { libc::F_OFD_SETLKW };
            // SAFETY: the lock lives until the call returns.
            unsafe { libc::fcntl(fd, command, &raw mut lock) }
        }
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn enter(orders: &Orders) -> io::Result<()> {
    let door = orders.root.join(".wait").join(Orders::LOCK);
    OpenOptions::new().write(true).create(true).truncate(false).custom_flags(libc::O_NONBLOCK).open(door)?;
    Ok(())
}

/// What only one may do at a time. It is written in place, so that it is never empty.
fn raise(orders: &Orders) {
    let counter = OpenOptions::new().read(true).write(true).open(orders.counter()).unwrap();
    let mut text = [0; 20];
    let length = counter.read_at(&mut text, 0).unwrap();
    let count: usize = std::str::from_utf8(&text[..length]).unwrap().trim().parse().unwrap();
    nap(4);
    counter.write_all_at(format!("{}\n", count + 1).as_bytes(), 0).unwrap();
}

fn nap(below: usize) {
    sleep(Duration::from_micros(u64::try_from(Stamp::now().dice(below * 1_000) + 500).unwrap()));
}

fn note(mut file: &File, line: &str) {
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}
