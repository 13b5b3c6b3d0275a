//! What the mount says of one lock, from its own files.
//!
//! The extended attributes of the lock say it all. Two kinds of caller can't read them: `user.*` attributes
//! exist on regular files and directories only, and need read permission (xattr(7)). For a symlink, and for
//! the file of someone who keeps it private, `.lockfs/info/<path>` has the same ones.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::mounts::Place;
use super::out::{escaped, span};
use super::xattr;
use crate::clock::WallTime;

/// Every attribute, without its `user.lock.`.
pub(crate) const ALL: &[&str] = &[
    "owner", "session", "ttl", "expires", "token", "host", "pid", "command", "since", "scope", "state",
    "waiting",
];

/// The attributes that say in a line who holds a lock: each costs a request.
pub(crate) const SUMMARY: &[&str] =
    &["owner", "session", "pid", "command", "since", "ttl", "scope", "waiting"];

/// What the mount says of one lock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    values: HashMap<String, String>,
}

impl Facts {
    /// Asks the mount for the attributes `names` of the lock at `place`, which is not followed where it is a
    /// symlink.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] or [`ErrorKind::StaleNetworkFileHandle`] when there is no such lock (any
    /// more); others when it can't be asked.
    pub(crate) fn read(place: &Place, names: &[&str]) -> io::Result<Self> {
        let handle = Handle::open(&place.path())?;
        if !handle.is_symlink()? {
            match Self::of(&handle, names) {
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
                read => return read,
            }
        }
        Self::of(&Handle::open(&place.info())?, names)
    }

    fn of(handle: &Handle, names: &[&str]) -> io::Result<Self> {
        let mut facts = Self::default();
        for name in names {
            match xattr::get(&handle.path(), name) {
                Ok(value) => _ = facts.values.insert((*name).to_owned(), value),
                Err(error) if is_gone(&error) || error.kind() == ErrorKind::PermissionDenied => {
                    return Err(error);
                }
                // ENODATA, for which there is no kind: what nobody holds has no owner.
                Err(_) => {}
            }
        }
        Ok(facts)
    }

    /// The attribute `name`; `None` where the mount does not say.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The attribute `name` as a number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// Who holds it: `alice@dev1 make[4711]`, or with the session where no process is known.
    pub(crate) fn holder(&self) -> String {
        let owner = self.get("owner").unwrap_or("nobody");
        let holder = match (self.get("pid"), self.get("session")) {
            (Some(pid), _) if pid != "0" => format!("{owner} {}[{pid}]", self.get("command").unwrap_or("")),
            (_, Some(session)) => format!("{owner} {session}"),
            _ => owner.to_owned(),
        };
        escaped(holder)
    }

    /// For how many seconds it has been held at `now`.
    pub(crate) fn age(&self, now: WallTime) -> Option<u64> {
        Some(now.since(parse_time(self.get("since")?)?).as_secs())
    }

    /// How long it still lives: seconds, or `never` expires.
    pub(crate) fn ttl(&self) -> TtlLeft {
        match self.get("ttl") {
            None => TtlLeft::Unknown,
            Some("never") => TtlLeft::Never,
            // As a number of seconds, whole or not; older words for it, as 4m58s, are shown as they are.
            Some(seconds) => seconds.parse().map_or(TtlLeft::Unknown, TtlLeft::Seconds),
        }
    }

    /// Who holds it since when and for how long, for a message.
    pub(crate) fn sentence(&self) -> String {
        let mut text = format!("held by {}", self.holder());
        if let Some(since) = self.get("since") {
            text.push_str(&format!(" since {since}"));
        }
        match self.ttl() {
            TtlLeft::Seconds(left) => text.push_str(&format!(", expires in {} unless renewed", span(left))),
            TtlLeft::Never => text.push_str(", never expires"),
            TtlLeft::Unknown => {}
        }
        text
    }
}

/// What is left of a ttl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TtlLeft {
    /// So many seconds.
    Seconds(u64),
    /// It does not expire.
    Never,
    /// The mount does not say.
    Unknown,
}

/// Whether `error` means that the lock went away, or never was.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::StaleNetworkFileHandle | ErrorKind::NotADirectory)
}

/// A handle on an entry that opens nothing: one look-up for all attributes, and no open for the daemon, which
/// would take it for use (open(2), `O_PATH`).
#[derive(Debug)]
struct Handle(File);

impl Handle {
    fn open(path: &Path) -> io::Result<Self> {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        Ok(Self(OpenOptions::new().read(true).custom_flags(flags).open(path)?))
    }

    fn is_symlink(&self) -> io::Result<bool> {
        // SAFETY: statx is plain data, for which zeroes are a value; the descriptor is open, the path empty,
        // and the buffer lives. The type never changes, so the kernel need not ask the daemon for it.
        let (result, found) = unsafe {
            let mut found: libc::statx = std::mem::zeroed();
            let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
            let fd = self.0.as_raw_fd();
            (libc::statx(fd, c"".as_ptr(), flags, libc::STATX_TYPE, &raw mut found), found)
        };
        match result {
            0 => Ok(u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFLNK),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// A path that leads to it without another look-up (proc_pid_fd(5)).
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

/// A time as the mount prints it, RFC 3339 in UTC: `2031-05-04T03:02:01Z`, with a fraction or without.
fn parse_time(text: &str) -> Option<WallTime> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, separator| {
        text.split(separator).map(|part: &str| part.parse().ok()).collect::<Option<Vec<i64>>>()
    };
    let whole = time.split('.').next()?;
    let [year, month, day] = numbers(date, '-')?.try_into().ok()?;
    let [hour, minute, second] = numbers(whole, ':')?.try_into().ok()?;
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Howard Hinnant's `days_from_civil`: years start in March, so that the leap day is their last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    Some(WallTime::new(days * 86_400 + hour * 3_600 + minute * 60 + second, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_back_as_it_was_printed() {
        for secs in [0, 951_827_696, -1, 4_102_444_800, 1_709_164_800] {
            let time = WallTime::new(secs, 0);
            assert_eq!(parse_time(&time.to_string()), Some(time));
        }
        assert_eq!(parse_time("2031-05-04T03:02:01.250Z"), parse_time("2031-05-04T03:02:01Z"));
        for bad in ["", "2031-05-04", "2031-05-04T03:02Z", "2031-13-04T03:02:01Z", "aT:Z", "now"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }

    fn facts(values: &[(&str, &str)]) -> Facts {
        Facts {
            values: values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        }
    }

    #[test]
    fn facts_make_a_sentence() {
        let facts = facts(&[
            ("owner", "alice@dev1"),
            ("pid", "4711"),
            ("command", "make"),
            ("ttl", "298"),
            ("since", "2031-05-04T03:02:01Z"),
            ("waiting", "0"),
            ("host", ""),
        ]);
        assert_eq!(facts.ttl(), TtlLeft::Seconds(298));
        assert_eq!(facts.age(parse_time("2031-05-04T03:02:11Z").unwrap()), Some(10));
        assert_eq!((facts.get("host"), facts.number("waiting")), (None, Some(0)));
        assert_eq!(
            facts.sentence(),
            "held by alice@dev1 make[4711] since 2031-05-04T03:02:01Z, expires in 4m58s unless renewed"
        );
    }

    #[test]
    fn a_holder_without_a_process_is_its_session() {
        let facts =
            facts(&[("owner", "alice@dev1"), ("session", "agent\x1b"), ("pid", "0"), ("ttl", "never")]);
        assert_eq!(facts.holder(), "alice@dev1 agent\\u{1b}");
        assert_eq!(facts.ttl(), TtlLeft::Never);
    }
}
