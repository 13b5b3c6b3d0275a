//! A process that serves while something is measured.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::processor::{self, On};

/// How long a daemon may take to begin or to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Daemon(Child);

impl Daemon {
    /// Starts it in a group of its own: it is not of the job that holds the locks. It ends with this process.
    pub(crate) fn start(mut command: Command) -> io::Result<Self> {
        command.stdin(Stdio::null()).process_group(0);
        // SAFETY: prctl(2) is a plain system call, and async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        let program = command.get_program().display().to_string();
        let child = command.spawn().map_err(|error| io::Error::other(format!("{program}: {error}")))?;
        Ok(Self(child))
    }

    /// Waits until it serves.
    pub(crate) fn await_ready(
        &mut self,
        name: &str,
        mut is_ready: impl FnMut() -> io::Result<bool>,
    ) -> io::Result<()> {
        let limit = Instant::now() + PATIENCE;
        while !is_ready()? {
            if let Some(status) = self.ended()? {
                return Err(io::Error::other(format!("{name} ended with {status}")));
            }
            if Instant::now() > limit {
                return Err(io::Error::other(format!("{name} does not begin to serve")));
            }
            sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    /// Puts it, and what it started, on some processors.
    pub(crate) fn put(&self, on: On) -> io::Result<()> {
        processor::place_group(self.0.id(), on)
    }

    /// Its resident memory in bytes.
    pub(crate) fn memory(&self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("no VmRSS"))
    }

    /// The processor time that it has taken so far.
    pub(crate) fn work(&self) -> io::Result<Duration> {
        let pid = libc::pid_t::try_from(self.0.id()).map_err(io::Error::other)?;
        let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
        // SAFETY: the places for the clock and the time live.
        let result = unsafe {
            match libc::clock_getcpuclockid(pid, &raw mut clock) {
                0 => libc::clock_gettime(clock, &raw mut time),
                _ => -1,
            }
        };
        if result != 0 {
            return Err(io::Error::other("it has no clock"));
        }
        let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
        Ok(Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0)))
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.0.kill()?;
        self.0.wait().map(drop)
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        let pid = libc::pid_t::try_from(self.0.id()).map_err(io::Error::other)?;
        // SAFETY: kill(2) of a child that was not waited for.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let limit = Instant::now() + PATIENCE;
        while self.ended()?.is_none() {
            if Instant::now() > limit {
                self.0.kill()?;
            }
            sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
