//! What the mount says of one lock, from its own files.
//!
//! `.lockfs/info/<path>` says it all in one piece: what is read there is of one moment, whatever its note says, and
//! whoever asks. A directory has the same words as extended attributes, for there `.lockfs/info` has a directory too.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::mounts::Place;
use super::out::{escaped, span};
use super::xattr;
use crate::clock::{Clock, SystemClock, WallTime};
use crate::lock::Kind;

/// The attributes of a directory that are words of its lock too.
const ATTRIBUTES: &[&str] =
    &["owner", "session", "expires", "token", "host", "pid", "command", "since", "scope", "state", "waiting"];

/// What the mount says of one lock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    values: HashMap<String, String>,
    grants: Vec<Grant>,
    /// It is a directory, and no lock.
    is_way: bool,
    /// When they were read.
    read: WallTime,
}

/// An advisory lock that somebody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// `flock` or `fcntl`: by which call.
    pub(crate) style: String,
    /// `shared` or `exclusive`.
    pub(crate) mode: String,
    /// The bytes, of fcntl(2): `0-99`, or `100-` to the end of every file.
    pub(crate) range: Option<String>,
    /// `alice@dev1 make[4711]`
    pub(crate) holder: String,
    /// The process that locked, on its host.
    pub(crate) pid: Option<u64>,
    /// Since when.
    pub(crate) since: Option<String>,
}

impl Grant {
    /// The value of a `flock:` or `fcntl:` line: `exclusive alice@dev1 make[4711] pid 4712 since ...`; of fcntl with
    /// the bytes behind the mode.
    fn parse(style: &str, text: &str) -> Option<Self> {
        let (mode, mut rest) = text.split_once(' ')?;
        let mut range = None;
        if style == "fcntl" {
            let (bytes, behind) = rest.split_once(' ')?;
            (range, rest) = (Some(bytes.to_owned()), behind);
        }
        // From behind, for a process may be called anything.
        let (rest, since) = match rest.rsplit_once(" since ") {
            Some((rest, since)) => (rest, Some(since.to_owned())),
            None => (rest, None),
        };
        let (holder, pid) = match rest.rsplit_once(" pid ") {
            Some((holder, pid)) => (holder, pid.parse().ok()),
            None => (rest, None),
        };
        let (style, mode, holder) = (style.to_owned(), mode.to_owned(), holder.to_owned());
        Some(Self { style, mode, range, holder, pid, since })
    }

    /// How it locks: `flock exclusive`, `fcntl shared 0-99`.
    pub(crate) fn how(&self) -> String {
        let words = [Some(&self.style), Some(&self.mode), self.range.as_ref()];
        escaped(words.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" "))
    }

    /// The name of the process in `alice@dev1 make[4711]`.
    fn command(&self) -> Option<&str> {
        let (_, process) = self.holder.split_once(' ')?;
        process.rfind('[').map(|end| &process[..end])
    }
}

impl Facts {
    /// Asks the mount about the lock at `place`, which is not followed where it is a symlink.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] or [`ErrorKind::StaleNetworkFileHandle`] when there is no such lock (any
    /// more); others when it can't be asked.
    pub(crate) fn read(place: &Place) -> io::Result<Self> {
        let (text, kind) = said(place)?;
        let mut facts = Self::parse(&text);
        // A directory is a lock if it says so by its name or by having a ttl (DESIGN 5).
        let is_named_a_lock = place.lock().as_os_str().as_bytes().ends_with(b".lock");
        facts.is_way = kind == Kind::Directory && facts.ttl() == TtlLeft::Never && !is_named_a_lock;
        Ok(facts)
    }

    /// The facts of what [`said`] returned, just now.
    pub(crate) fn parse(text: &str) -> Self {
        let mut facts = Self { read: SystemClock.now().wall, ..Self::default() };
        for (key, value) in text.lines().filter_map(|line| line.split_once(": ")) {
            match key {
                "flock" | "fcntl" => facts.grants.extend(Grant::parse(key, value)),
                _ => _ = facts.values.insert(key.to_owned(), value.to_owned()),
            }
        }
        facts.complete();
        facts
    }

    /// The words that follow from others: the owner, and of an advisory file those of the first who has it locked, as
    /// its attributes have them.
    fn complete(&mut self) {
        let mut add = |key: &str, value: Option<String>| {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                self.values.insert(key.to_owned(), value);
            }
        };
        if let Some(first) = self.grants.first() {
            let owner = first.holder.split(' ').next().unwrap_or_default();
            add("holder", Some(first.holder.clone()));
            add("owner", Some(owner.to_owned()));
            add("host", owner.rsplit_once('@').map(|(_, host)| host.to_owned()));
            add("pid", first.pid.map(|pid| pid.to_string()));
            add("command", first.command().map(str::to_owned));
            add("since", first.since.clone());
        } else if let (Some(user), Some(host)) = (self.get("user"), self.get("host")) {
            let owner = format!("{user}@{host}");
            self.values.insert("owner".to_owned(), owner);
        }
    }

    /// What is said of `name`; `None` where the mount does not say.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The same as a number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// The advisory locks that somebody has, in the order in which they were granted.
    pub(crate) fn grants(&self) -> &[Grant] {
        &self.grants
    }

    /// Who holds it: `alice@dev1 make[4711]`, or with the session where no process is known.
    pub(crate) fn holder(&self) -> String {
        if let Some(first) = self.grants.first() {
            return escaped(&first.holder);
        }
        let owner = self.get("owner").unwrap_or("nobody");
        let holder = match (self.get("pid"), self.get("session")) {
            (Some(pid), _) if pid != "0" => format!("{owner} {}[{pid}]", self.get("command").unwrap_or("")),
            (_, Some(session)) => format!("{owner} {session}"),
            _ => owner.to_owned(),
        };
        escaped(holder)
    }

    /// Since when it has been held.
    pub(crate) fn since(&self) -> Option<WallTime> {
        parse_time(self.get("since")?)
    }

    /// When it expires, unless it is renewed.
    pub(crate) fn deadline(&self) -> Option<WallTime> {
        parse_time(self.get("expires")?)
    }

    /// For how many seconds it has been held.
    pub(crate) fn age(&self) -> Option<u64> {
        Some(self.read.since(self.since()?).as_secs())
    }

    /// How long it still lives: seconds, to a second, or `never` expires.
    pub(crate) fn ttl(&self) -> TtlLeft {
        match self.get("expires") {
            None => TtlLeft::Unknown,
            Some("never") => TtlLeft::Never,
            // The mount prints no fraction of a second, so that none of now counts.
            Some(time) => parse_time(time).map_or(TtlLeft::Unknown, |time| {
                TtlLeft::Seconds(time.since(WallTime::new(self.read.secs(), 0)).as_secs())
            }),
        }
    }

    /// Who holds it since when and for how long, for a message.
    pub(crate) fn sentence(&self) -> String {
        let state = self.get("state");
        let mut text = match (state, self.grants.as_slice()) {
            _ if self.is_way => format!("a directory, made by {}", self.holder()),
            (_, [first, others @ ..]) => {
                let others = match others.len() {
                    0 => String::new(),
                    count => format!(" and {count} more"),
                };
                format!("an advisory file, locked by {}{others} with {}", self.holder(), first.how())
            }
            (Some("free"), []) => {
                "an advisory file that nobody has locked: use flock(1), or remove it".to_owned()
            }
            (Some("ended"), []) => format!("held by {}, whose job has ended,", self.holder()),
            _ => format!("held by {}", self.holder()),
        };
        if state == Some("free") && !self.is_way {
            return text;
        }
        if let Some(since) = self.get("since") {
            text.push_str(&format!(" since {since}"));
        }
        match self.ttl() {
            _ if self.is_way || !self.grants.is_empty() => {}
            TtlLeft::Seconds(left) if state == Some("ended") => {
                text.push_str(&format!(", expires in {}", span(left)));
            }
            TtlLeft::Seconds(left) => text.push_str(&format!(", expires in {} unless renewed", span(left))),
            TtlLeft::Never => text.push_str(", never expires"),
            TtlLeft::Unknown => {}
        }
        text
    }
}

/// What the mount says of the lock at `place`, as the lines that [`Facts::parse`] reads; and whether it is a directory.
///
/// # Errors
/// As [`Facts::read`].
pub(crate) fn said(place: &Place) -> io::Result<(String, Kind)> {
    match read_at_once(&place.info()) {
        Ok(text) => Ok((String::from_utf8_lossy(&text).into_owned(), Kind::File)),
        Err(error) if error.kind() == ErrorKind::IsADirectory => {
            Ok((said_of_directory(place)?, Kind::Directory))
        }
        Err(error) => Err(error),
    }
}

fn said_of_directory(place: &Place) -> io::Result<String> {
    let handle = Handle::open(place)?;
    let mut text = String::new();
    for name in ATTRIBUTES {
        match xattr::get(&handle.path(), name) {
            // A value stays on its line, as in `.lockfs/info`.
            Ok(value) => text += &format!("{name}: {}\n", value.replace(|c: char| c.is_control(), "?")),
            Err(error) if is_gone(&error) => return Err(error),
            // ENODATA, for which there is no kind: what nobody holds has no owner.
            Err(_) => {}
        }
    }
    Ok(text)
}

/// Reads a file of the mount with as few requests as that takes: `fs::read` asks for its size, which is 0, and then for
/// more and more bytes.
fn read_at_once(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let (mut text, mut buffer) = (Vec::new(), [0; 16 << 10]);
    loop {
        let length = file.read(&mut buffer)?;
        text.extend_from_slice(&buffer[..length]);
        // A short read is the end of a file (read(2)).
        if length < buffer.len() {
            return Ok(text);
        }
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

/// Whether a directory has a ttl, so that it is a lock: one attribute tells.
///
/// # Errors
/// As [`Facts::read`].
pub(crate) fn expires(place: &Place) -> io::Result<bool> {
    match xattr::get(&place.info(), "ttl") {
        Ok(left) => Ok(left != "never"),
        Err(error) if is_gone(&error) => Err(error),
        Err(_) => Ok(false),
    }
}

/// Whether `error` means that the lock went away, or never was.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::StaleNetworkFileHandle | ErrorKind::NotADirectory)
}

/// A handle on a directory that opens nothing: one look-up for all attributes (open(2), `O_PATH`). It is the one of
/// `.lockfs/info`, which everybody may read.
#[derive(Debug)]
struct Handle(File);

impl Handle {
    fn open(place: &Place) -> io::Result<Self> {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        Ok(Self(OpenOptions::new().read(true).custom_flags(flags).open(place.info())?))
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

    const HELD: &str = "\
lock: build/web
state: held
holder: alice@dev1 make[4711]
session: dev1-4711-k3
token: 7451
since: 2031-05-04T03:02:01Z
expires: 2031-05-04T03:07:10Z
ttl: 5m
scope: host
waiting: 2
user: alice
host: dev1
pid: 4711
command: make
";

    fn said(text: &str) -> Facts {
        Facts { read: parse_time("2031-05-04T03:02:11Z").unwrap(), ..Facts::parse(text) }
    }

    #[test]
    fn facts_make_a_sentence() {
        let facts = said(HELD);
        assert_eq!((facts.ttl(), facts.age()), (TtlLeft::Seconds(299), Some(10)));
        assert_eq!((facts.get("owner"), facts.number("waiting")), (Some("alice@dev1"), Some(2)));
        assert_eq!(
            facts.sentence(),
            "held by alice@dev1 make[4711] since 2031-05-04T03:02:01Z, expires in 4m59s unless renewed"
        );
        let ended = said(&HELD.replace("state: held", "state: ended"));
        assert_eq!(
            ended.sentence(),
            "held by alice@dev1 make[4711], whose job has ended, since 2031-05-04T03:02:01Z, expires in 4m59s"
        );
    }

    #[test]
    fn a_holder_without_a_process_is_its_session() {
        let facts = said("user: alice\nhost: dev1\nsession: agent\x1b\npid: 0\nexpires: never\n");
        assert_eq!(facts.holder(), "alice@dev1 agent\\u{1b}");
        assert_eq!(facts.ttl(), TtlLeft::Never);
    }

    #[test]
    fn an_advisory_file_is_of_the_first_who_has_it_locked() {
        let since = "since 2031-05-04T03:02:01Z";
        let facts = said(&format!(
            "state: locked\nsince: 2030-01-01T00:00:00Z\nexpires: never\nwaiting: 1\n\
             flock: shared bob@dev2 a pid 7 since b[12] pid 13 {since}\n\
             fcntl: exclusive 100- alice@dev1 make[4711] pid 4712 {since}\n"
        ));
        let [first, second] = facts.grants() else { panic!("{:?}", facts.grants()) };
        assert_eq!((first.holder.as_str(), first.pid), ("bob@dev2 a pid 7 since b[12]", Some(13)));
        assert_eq!((first.how(), second.how()), ("flock shared".into(), "fcntl exclusive 100-".into()));
        assert_eq!((facts.get("owner"), facts.get("host")), (Some("bob@dev2"), Some("dev2")));
        assert_eq!((facts.get("command"), facts.age()), (Some("a pid 7 since b"), Some(10)));
        assert_eq!(
            facts.sentence(),
            format!(
                "an advisory file, locked by bob@dev2 a pid 7 since b[12] and 1 more with flock shared {since}"
            )
        );
        assert!(said("state: free\nexpires: never\n").sentence().contains("nobody has locked"));
    }
}
