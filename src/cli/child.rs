//! A command under supervision: the signals that are passed on to it, and its end, by itself or by force.
//!
//! The supervisor takes its signals one by one from a mask ([`Signals::next`]), so nothing happens between two
//! lines, and a command is never left alone. It adopts what its command leaves behind (`PR_SET_CHILD_SUBREAPER`),
//! so that a stop reaches all of it: of `sh -c 'make; deploy'` the make too.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use libc::{c_int, pid_t};

use super::signals::{Signal, Signals};
use crate::clock::{Clock, SystemClock};

/// How often a stop looks for what is left.
const GLANCE: Duration = Duration::from_millis(20);

/// How long the kernel may take to end what was killed.
const BURIAL: Duration = Duration::from_secs(5);

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending(c_int);

impl Ending {
    /// The exit code that a shell would show: its own, or 128 + signal.
    pub(crate) fn code(self) -> u8 {
        match libc::WIFSIGNALED(self.0) {
            true => Self::code_of_signal(libc::WTERMSIG(self.0)),
            false => u8::try_from(libc::WEXITSTATUS(self.0)).unwrap_or(u8::MAX),
        }
    }

    /// The exit code of a process that `signal` ended.
    pub(crate) fn code_of_signal(signal: c_int) -> u8 {
        u8::try_from(128 + signal).unwrap_or(u8::MAX)
    }
}

/// A command that runs.
pub(crate) struct Child<'a> {
    pid: pid_t,
    ending: Option<Ending>,
    signals: &'a Signals,
}

impl<'a> Child<'a> {
    /// Starts `command`, whose first word is the program, with `environment` added to this process' own (or
    /// taken out of it, where there is no value).
    ///
    /// # Errors
    /// As execve(2).
    pub(crate) fn start(
        command: &[OsString],
        environment: &[(&str, Option<&OsStr>)],
        signals: &'a Signals,
    ) -> io::Result<Self> {
        let (program, arguments) = command.split_first().expect("clap asks for at least one word");
        let mut command = Command::new(program);
        command.args(arguments);
        for (name, value) in environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mask = signals.before;
        // SAFETY: between fork and exec this calls one async-signal-safe function on a copy of a set. The
        // standard library hands the mask on as it is, and the command would never see a signal.
        unsafe {
            command.pre_exec(move || {
                libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
                Ok(())
            });
        }
        // SAFETY: prctl(2) with numbers only.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
        let pid = command.spawn()?.id();
        let pid = pid_t::try_from(pid).expect("a process number is one");
        Ok(Self { pid, ending: None, signals })
    }

    /// How the command ended, if it did within `limit`, passing signals on meanwhile.
    pub(crate) fn ended_within(&mut self, limit: Duration) -> Option<Ending> {
        self.reap();
        if self.ending.is_none() {
            if let Some(signal) = self.signals.next(limit) {
                self.pass_on(signal);
            }
            self.reap();
        }
        self.ending
    }

    /// Stops the command and all that it started: asks, waits for at most `grace`, and kills what is left.
    pub(crate) fn stop(&mut self, grace: Duration) {
        for pid in descendants() {
            send(pid, libc::SIGTERM);
            // One that is stopped hears nothing until it goes on.
            send(pid, libc::SIGCONT);
        }
        if self.is_alone_within(grace) {
            return;
        }
        let deadline = SystemClock.now().boot + BURIAL;
        loop {
            for pid in descendants() {
                send(pid, libc::SIGKILL);
            }
            // What forked between the look and the blow is met the next time.
            if self.is_alone_within(GLANCE) || SystemClock.now().boot >= deadline {
                return;
            }
        }
    }

    /// Whether nothing that this process started is left, within `limit`.
    fn is_alone_within(&mut self, limit: Duration) -> bool {
        let deadline = SystemClock.now().boot + limit;
        loop {
            self.reap();
            if descendants().is_empty() {
                return true;
            }
            let left = deadline.since(SystemClock.now().boot);
            if left.is_zero() {
                return false;
            }
            if let Some(signal) = self.signals.next(left.min(GLANCE)) {
                self.pass_on(signal);
            }
        }
    }

    fn pass_on(&self, signal: Signal) {
        let is_for_us = signal.number == libc::SIGCHLD || signal.is_from_terminal;
        if !is_for_us && self.ending.is_none() {
            send(self.pid, signal.number);
        }
    }

    /// Takes note of every child that ended; the command is one of them, the others were adopted.
    fn reap(&mut self) {
        loop {
            let mut status = 0;
            // SAFETY: `status` lives.
            match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
                pid if pid == self.pid => self.ending = Some(Ending(status)),
                pid if pid > 0 => {}
                _ => return,
            }
        }
    }
}

fn send(pid: pid_t, signal: c_int) {
    // SAFETY: plain numbers. `pid` is a descendant that we have not waited for, so it is still its own
    // process unless another descendant waited for it this instant.
    unsafe { libc::kill(pid, signal) };
}

/// The living processes that this one started, and that those started.
fn descendants() -> Vec<pid_t> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut children: HashMap<pid_t, Vec<pid_t>> = HashMap::new();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = std::fs::read(entry.path().join("stat")) else { continue };
        if let Some(parent) = parent_of(&String::from_utf8_lossy(&stat)) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![pid_t::try_from(std::process::id()).expect("a process number is one")];
    while let Some(parent) = open.pop() {
        let below = children.remove(&parent).unwrap_or_default();
        found.extend_from_slice(&below);
        open.extend(below);
    }
    found
}

/// The parent of the process of which proc_pid_stat(5) says `stat`; `None` once it is dead. Its name, in
/// parentheses, may hold any character.
fn parent_of(stat: &str) -> Option<pid_t> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.next()?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent_of("42 (a) R 1) S 7 42 42 0"), Some(7));
        assert_eq!(parent_of("42 (sh) Z 7 42"), None);
        assert_eq!(parent_of("42 (sh"), None);
    }

    #[test]
    fn a_code_is_what_a_shell_shows() {
        assert_eq!(Ending(3 << 8).code(), 3);
        assert_eq!(Ending(libc::SIGKILL).code(), 137);
    }
}
