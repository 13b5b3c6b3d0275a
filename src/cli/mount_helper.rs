//! `mount.lockfs`: what mount(8), fstab(5) and systemd call to mount a `lockfs`; the same program by another name.
//!
//! The protocol is that of mount(8), "External helpers": `mount.lockfs SOURCE DIR [-sfnv] [-N namespace]
//! [-o options] [-t type]`, exit code 0, 1 for usage, 32 for a mount that failed, and one line on stderr. It may
//! run without PATH, HOME, and anything else in its environment.
//!
//! SOURCE is a name and no more: `/proc/mounts` shows it, so that `mount -a` knows the mount again. Settings are
//! options, or come from the configuration file.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;

use super::mounts::{Mount, mounted, resolved, shown};
use super::probe::{Answer, read_within};
use super::{Exit, Failure, Outcome, mount, one_line};
use crate::config::{Flags, MountFlags, MountOptions, Settings, Sources};
use crate::daemon::{Left, is_rehearsal};

/// How the program is called, as a helper of mount(8): the second name is that of the type in `/proc/mounts`, which
/// mount(8) goes by where it has no line of fstab(5).
const NAMES: [&str; 2] = ["mount.lockfs", "mount.fuse.lockfs"];

/// Exit codes of mount(8).
const USAGE: u8 = 1;
/// A bug in lockfs.
const INTERNAL: u8 = 4;
/// Nothing was mounted.
const FAILED: u8 = 32;

/// The same, for the manual.
pub(super) const CODES: [(u8, &str); 4] = [
    (0, "The tree is mounted and answers."),
    (USAGE, "The command line or a setting makes no sense."),
    (INTERNAL, "A bug in lockfs."),
    (FAILED, "Nothing was mounted, or remounted."),
];

/// How long a mount may take to say who serves it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Mount a tree of locks, on behalf of mount(8)
#[derive(Debug, Parser)]
#[command(name = "mount.lockfs", version, disable_help_subcommand = true)]
pub(super) struct Helper {
    /// A name for /proc/mounts: lockfs
    #[arg(value_name = "SOURCE")]
    source: String,
    /// The directory to mount on
    #[arg(value_name = "DIR")]
    mountpoint: PathBuf,
    /// Pass over options that nobody knows
    #[arg(short)]
    sloppy: bool,
    /// Do everything but mount
    #[arg(short)]
    fake: bool,
    /// Accepted: there is no /etc/mtab to write
    #[arg(short)]
    no_mtab: bool,
    /// Say what is done
    #[arg(short, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Mount in the mount namespace of a process, by number, or of a file
    #[arg(short = 'N', value_name = "NAMESPACE")]
    namespace: Option<OsString>,
    /// Mount options, separated by commas
    #[arg(short = 'o', value_name = "OPT,...")]
    options: Vec<String>,
    /// Accepted: the type is lockfs
    #[arg(short = 't', value_name = "TYPE")]
    kind: Option<String>,
}

/// Whether the process was started by the name of a helper.
pub(super) fn is_called(program: Option<OsString>) -> bool {
    let program = program.unwrap_or_default();
    NAMES.iter().any(|name| Path::new(&program).file_name().is_some_and(|last| last == *name))
}

/// Does what the helper was called for; the exit code is one of mount(8).
pub(super) fn run() -> ExitCode {
    let outcome = super::caught(|| match Helper::try_parse() {
        Ok(helper) => helper.perform(),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            super::explain(&error)
        }
        Err(error) => Err(Failure::new(Exit::Usage, one_line(&error.render().to_string(), NAMES[0]))),
    });
    let exit = outcome.unwrap_or_else(|failure| {
        if !failure.message.is_empty() {
            super::say_as(NAMES[0], &failure.message);
        }
        failure.exit
    });
    ExitCode::from(match exit {
        Exit::Done => 0,
        Exit::Usage => USAGE,
        Exit::Bug => INTERNAL,
        Exit::Code(code) if code == Exit::Usage.code() => USAGE,
        _ => FAILED,
    })
}

impl Helper {
    fn perform(self) -> Outcome {
        call_ourselves_lockfs();
        let left = Left::of_environment();
        // Whoever goes on in the same process is there.
        if let Some(namespace) = self.namespace.as_ref().filter(|_| left.is_none() && !is_rehearsal()) {
            enter(namespace)?;
        }
        let words: Vec<_> = self.options.iter().flat_map(|list| list.split(',')).map(str::trim).collect();
        if words.contains(&"remount") {
            return self.remount(&words);
        }
        let settings = self.settings(&words, mount::place(&self.mountpoint, left.as_ref()));
        let point = settings.as_ref().map(|settings| shown(&settings.mountpoint)).unwrap_or_default();
        if self.fake && settings.is_ok() {
            self.tell(format_args!("would mount {} on {point}", self.source));
            return Ok(Exit::Done);
        }
        let exit = mount::start(settings, left)?;
        self.tell(format_args!("mounted {} on {point}", self.source));
        Ok(exit)
    }

    fn settings(&self, words: &[&str], mountpoint: &Path) -> Result<Settings, Failure> {
        let options = self.parse(words)?;
        let mut settings = mount::settings(&Sources::gather(Flags::default(), options)?, mountpoint)?;
        settings.source.clone_from(&self.source);
        if settings.foreground {
            let what = "mount(8) waits for its helper: foreground is for lockfs mount and for services";
            return Err(Failure::new(Exit::Usage, what));
        }
        Ok(settings)
    }

    fn tell(&self, what: impl std::fmt::Display) {
        if self.verbose > 0 {
            super::say_as(NAMES[0], what);
        }
    }

    fn parse(&self, words: &[&str]) -> Result<MountOptions, Failure> {
        let is_known = |word: &&str| !self.sloppy || MountOptions::parse([*word]).is_ok();
        Ok(MountOptions::parse(words.iter().copied().filter(is_known))?)
    }

    /// Changes what the kernel alone keeps of a mount: ro, rw, noexec, exec, noatime, atime. The settings belong to
    /// the daemon and its store, and stay as they were said when it was mounted.
    fn remount(&self, words: &[&str]) -> Outcome {
        let words: Vec<_> =
            words.iter().copied().filter(|word| *word != "remount" && !is_said_by_fuse(word)).collect();
        let options = self.parse(&words)?;
        let mounts = mounted()?;
        let point = resolved(&self.mountpoint, &mounts)?;
        let point_shown = shown(&point);
        let Some(mount) = mounts.into_iter().find(|mount| mount.point == point) else {
            return Err(Failure::new(Exit::Failed, format!("no lockfs is mounted on {point_shown}")));
        };
        let mut asked = options.settings().peekable();
        if asked.peek().is_some() {
            let said = said_at_its_start(&mount);
            let is_new = |(name, value): &(&str, &std::ffi::OsStr)| {
                !said.as_ref().is_some_and(|said| was_said(said, name, value))
            };
            let new: Vec<_> = asked.filter(is_new).map(|(name, _)| name).collect();
            if !new.is_empty() {
                let new = new.join(", ");
                return Err(Failure::new(
                    Exit::Usage,
                    format!(
                        "a remount can't change {new}: umount {point_shown} and mount it again (ro, rw, noexec, exec, \
                         noatime and atime can change)"
                    ),
                ));
            }
        }
        if self.fake {
            self.tell(format_args!("would remount {point_shown}"));
            return Ok(Exit::Done);
        }
        change(&point, options.flags)
            .map_err(|error| Failure::new(Exit::Failed, format!("cannot remount {point_shown}: {error}")))?;
        self.tell(format_args!("remounted {point_shown}"));
        Ok(Exit::Done)
    }
}

/// What `/proc/mounts` shows of a FUSE mount (fs/fuse/inode.c, `fuse_show_options`), and mount(8) hands back.
fn is_said_by_fuse(word: &str) -> bool {
    let starts =
        ["user_id=", "group_id=", "rootmode=", "fd=", "max_read=", "blksize=", "subtype=", "fsname="];
    starts.iter().any(|start| word.starts_with(start))
}

/// The command line of the daemon that serves `mount`; `None` where it can't be seen from here.
fn said_at_its_start(mount: &Mount) -> Option<Vec<Vec<u8>>> {
    let Ok(Answer::Contents(status)) = read_within(&mount.path(".lockfs/status"), PATIENCE) else {
        return None;
    };
    let status = String::from_utf8_lossy(&status);
    let pid: u32 = status.lines().find_map(|line| line.strip_prefix("pid: ")?.parse().ok())?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(line.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect())
}

/// Whether a command line says `name=value` in mount options, or `--name value`. What is said again in the same
/// words changes nothing: mount(8) repeats the line of fstab(5) when it remounts.
fn was_said(line: &[Vec<u8>], name: &str, value: &std::ffi::OsStr) -> bool {
    let value = value.as_bytes();
    let pair = [name.as_bytes(), b"=", value].concat();
    let flag = [b"--", name.as_bytes()].concat();
    let long = [b"--", pair.as_slice()].concat();
    let is_switch = value == b"yes";
    line.iter().enumerate().any(|(at, word)| {
        let mut parts = word.split(|byte| *byte == b',');
        let next = line.get(at + 1).map(Vec::as_slice);
        parts.any(|part| part == pair || (is_switch && part == name.as_bytes()))
            || *word == long
            || (*word == flag && (is_switch || next == Some(value)))
    })
}

/// mount(2) with `MS_REMOUNT`. FUSE keeps its own options over it, and takes the flags.
fn change(point: &Path, flags: MountFlags) -> io::Result<()> {
    let asked = [
        (flags.read_only, libc::MS_RDONLY),
        (flags.noexec, libc::MS_NOEXEC),
        (flags.noatime, libc::MS_NOATIME),
        // Never without, as when it is mounted.
        (true, libc::MS_REMOUNT | libc::MS_NOSUID | libc::MS_NODEV),
    ];
    let flags = asked.into_iter().filter_map(|(is_asked, flag)| is_asked.then_some(flag));
    let flags = flags.fold(0, |all, flag| all | flag);
    let target = CString::new(point.as_os_str().as_bytes())?;
    // SAFETY: the path ends with NUL and lives until the call returns; a remount reads no other string.
    let answer =
        unsafe { libc::mount(std::ptr::null(), target.as_ptr(), std::ptr::null(), flags, std::ptr::null()) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Goes to another mount namespace, for good; files are then those that are seen there.
fn enter(namespace: &OsString) -> Result<(), Failure> {
    let is_pid = namespace.as_bytes().iter().all(u8::is_ascii_digit);
    let path = match is_pid {
        true => PathBuf::from(format!("/proc/{}/ns/mnt", namespace.display())),
        false => PathBuf::from(namespace),
    };
    let entered = File::open(&path).and_then(|file| {
        // SAFETY: a plain system call on an open descriptor; the process has one thread, as it must have here.
        match unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNS) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    });
    entered.map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot enter the mount namespace {}: {error}", shown(&path)))
    })
}

/// A daemon is called the same, whoever started it: `ps`, `pidof` and `lockfs umount` go by it.
fn call_ourselves_lockfs() {
    // SAFETY: prctl(2) reads a string that ends with NUL and lives for ever.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"lockfs".as_ptr()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_that_of_mount() {
        <Helper as clap::CommandFactory>::command().debug_assert();
        let words = "mount.lockfs lockfs /locks -sfnv -N /proc/1/ns/mnt -o rw,ttl=1h -t lockfs.x";
        let helper = Helper::try_parse_from(words.split(' ')).unwrap();
        assert!(helper.sloppy && helper.fake && helper.no_mtab && helper.verbose == 1);
        assert_eq!((helper.options, helper.source.as_str()), (vec!["rw,ttl=1h".to_owned()], "lockfs"));
    }

    #[test]
    fn the_program_is_a_helper_by_its_last_name() {
        for name in ["/sbin/mount.lockfs", "mount.lockfs", "/usr/sbin/mount.fuse.lockfs"] {
            assert!(is_called(Some(name.into())), "{name}");
        }
        for name in ["lockfs", "/mount.lockfs/lockfs", "umount.lockfs"] {
            assert!(!is_called(Some(name.into())), "{name}");
        }
        assert!(!is_called(None));
    }

    #[test]
    fn a_sloppy_mount_passes_over_what_it_does_not_know() {
        let parse = |words: &str| {
            let helper = Helper::try_parse_from(words.split(' ')).unwrap();
            let words: Vec<_> = helper.options.iter().flat_map(|list| list.split(',')).collect();
            helper.parse(&words)
        };
        assert!(parse("mount.lockfs lockfs /locks -o ro,colour=red").is_err());
        assert!(parse("mount.lockfs lockfs /locks -s -o ro,colour=red").unwrap().flags.read_only);
    }

    #[test]
    fn a_setting_that_was_said_in_the_same_words_is_no_change() {
        let line = |text: &str| text.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
        let by_helper = line("/sbin/mount.lockfs lockfs /locks -o rw,ttl=1h,debug");
        let by_hand = line("lockfs mount --ttl 1h --debug --namespace=ci /locks");
        for said in [&by_helper, &by_hand] {
            assert!(was_said(said, "ttl", "1h".as_ref()) && was_said(said, "debug", "yes".as_ref()));
            assert!(!was_said(said, "ttl", "2h".as_ref()) && !was_said(said, "host-id", "a".as_ref()));
        }
        assert!(was_said(&by_hand, "namespace", "ci".as_ref()));
    }
}
