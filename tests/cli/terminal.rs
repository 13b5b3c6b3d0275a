//! A terminal with a program on it: keys go in, and the screen is what a terminal would show.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::{io, thread};

use crate::world::*;

/// A program on a terminal of its own.
pub(crate) struct Terminal {
    pub(crate) child: Child,
    /// The end that a person would sit at.
    master: File,
    /// The program's end, kept open so that its modes can be asked for after the program's end.
    slave: OwnedFd,
    /// The modes that the program found.
    pub(crate) found: Modes,
    shown: Arc<Mutex<Shown>>,
}

/// What the program has written.
struct Shown {
    parser: vt100::Parser,
    bytes: Vec<u8>,
}

/// The modes of a terminal that a program may leave changed (termios(3)).
pub(crate) type Modes = (u32, u32, u32);

impl Terminal {
    /// Starts `command` on a terminal of that many lines and columns.
    pub(crate) fn start(mut command: Command, (lines, columns): (u16, u16)) -> Self {
        let (master, slave) = pair(lines, columns);
        for stdio in [Command::stdin, Command::stdout, Command::stderr] {
            stdio(&mut command, slave.try_clone().unwrap());
        }
        if !command.get_envs().any(|(name, _)| name == "TERM") {
            command.env("TERM", "xterm-256color");
        }
        // SAFETY: both are async-signal-safe. 0 is the terminal, which becomes that of the new login.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let found = modes(&slave);
        let child = command.spawn().unwrap();
        let parser = vt100::Parser::new(some(lines), some(columns), 0);
        let shown = Arc::new(Mutex::new(Shown { parser, bytes: Vec::new() }));
        let (mut from, to) = (master.try_clone().unwrap(), Arc::clone(&shown));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                let mut shown = to.lock().unwrap();
                shown.parser.process(&buffer[..length]);
                shown.bytes.extend_from_slice(&buffer[..length]);
            }
        });
        Self { child, master, slave, found, shown }
    }

    pub(crate) fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// The lines of the screen as they are now.
    pub(crate) fn screen(&self) -> String {
        self.shown.lock().unwrap().parser.screen().contents()
    }

    /// All bytes that were written so far.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.shown.lock().unwrap().bytes.clone()
    }

    /// Whether the screen is the one beside that of the shell.
    pub(crate) fn is_alternate(&self) -> bool {
        self.shown.lock().unwrap().parser.screen().alternate_screen()
    }

    /// Whether no cursor is shown.
    pub(crate) fn is_cursor_hidden(&self) -> bool {
        self.shown.lock().unwrap().parser.screen().hide_cursor()
    }

    /// Whether anything on the screen has a colour.
    pub(crate) fn has_colours(&self) -> bool {
        let shown = self.shown.lock().unwrap();
        let screen = shown.parser.screen();
        let (lines, columns) = screen.size();
        let mut cells =
            (0..lines.get()).flat_map(|line| (0..columns.get()).map(move |column| (line, column)));
        cells.any(|(line, column)| {
            screen.cell(line, column).is_some_and(|cell| cell.fgcolor() != vt100::Color::Default)
        })
    }

    /// The line of the screen that begins with `start`, once there is one.
    pub(crate) fn line(&self, start: &str) -> String {
        let screen = self.screen();
        let line = screen.lines().find(|line| line.trim_start_matches(['\u{2502}', ' ']).starts_with(start));
        line.unwrap_or_default().to_owned()
    }

    /// Waits until the screen has `part`.
    #[track_caller]
    pub(crate) fn shows(&self, part: &str) {
        self.comes_to(part, |screen| screen.contains(part));
    }

    /// Waits until the screen has no `part`.
    #[track_caller]
    pub(crate) fn hides(&self, part: &str) {
        self.comes_to(&format!("no {part}"), |screen| !screen.contains(part));
    }

    #[track_caller]
    pub(crate) fn comes_to(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let start = std::time::Instant::now();
        while !is_so(&self.screen()) {
            assert!(start.elapsed() < LIMIT, "the screen does not show {what}:\n{}", self.screen());
            thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    pub(crate) fn resize(&mut self, lines: u16, columns: u16) {
        self.shown.lock().unwrap().parser.screen_mut().set_size(some(lines), some(columns));
        let size = libc::winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor is open, and the size lives until the call returns.
        assert_eq!(unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }, 0);
    }

    /// The modes of the terminal as they are.
    pub(crate) fn modes(&self) -> Modes {
        modes(&self.slave)
    }

    pub(crate) fn signal(&self, name: &str) {
        kill(name, &self.child.id().to_string());
    }

    /// How the program ended.
    #[track_caller]
    pub(crate) fn end(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the program on the terminal ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn modes(slave: &OwnedFd) -> Modes {
    // SAFETY: termios is plain data, for which zeroes are a value; the call fills it in.
    let modes = unsafe {
        let mut modes: libc::termios = std::mem::zeroed();
        assert_eq!(libc::tcgetattr(slave.as_raw_fd(), &raw mut modes), 0);
        modes
    };
    (modes.c_iflag, modes.c_oflag, modes.c_lflag)
}

fn some(number: u16) -> NonZero<u16> {
    NonZero::new(number).expect("a terminal has lines and columns")
}

fn pair(lines: u16, columns: u16) -> (File, OwnedFd) {
    let size = libc::winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: the call fills in two descriptors, which are nobody else's, and reads `size`.
    unsafe {
        let null = std::ptr::null_mut();
        let result = libc::openpty(&raw mut master, &raw mut slave, null, std::ptr::null(), &raw const size);
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        for end in [master, slave] {
            libc::fcntl(end, libc::F_SETFD, libc::FD_CLOEXEC);
        }
        (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
    }
}
