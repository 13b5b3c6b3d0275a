//! Follows `.lockfs/events` of a mount, over the ends and beginnings of its daemon.
//!
//! No event is missed and none comes twice. The file is opened anew each time, so that nobody who follows it keeps a mount
//! from being unmounted. As long as it is the same file of the same daemon, reading goes on at its offset; otherwise it
//! is read from its beginning, and goes on behind the last lines that were read before.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::mounts::Mount;

/// How many bytes are asked for at a time.
const CHUNK: usize = 64 << 10;

/// How many lines are remembered to know where another file goes on. One line may come twice: a session that begins,
/// ends and begins in one second.
const REMEMBERED: usize = 16;

/// Where the following begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// With all that is remembered.
    Oldest,
    /// Now; what happened before is no news.
    Now,
}

/// One line, or what stands for some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// An event, as it stands in the file.
    Event(String),
    /// Some were forgotten before they were read; how many, where that is known.
    Forgotten(Option<u64>),
}

/// Where the following is.
#[derive(Debug)]
pub(super) struct Follower {
    /// Of which daemon, and which file; none before the first look.
    of: Option<(String, u64)>,
    offset: u64,
    /// The beginning of a line whose end has not come yet.
    rest: Vec<u8>,
    /// The last lines that were read, or that were there when the following began.
    last: VecDeque<String>,
    from: From,
}

impl Follower {
    pub(super) fn new(from: From) -> Self {
        Self { of: None, offset: 0, rest: Vec::new(), last: VecDeque::new(), from }
    }

    /// What has come; `daemon` tells one daemon of the mount from the next.
    ///
    /// # Errors
    /// As open(2) and read(2) of the file.
    pub(super) fn read(&mut self, mount: &Mount, daemon: &str) -> io::Result<Vec<Line>> {
        let events = File::open(mount.path(".lockfs/events"))?;
        let of = (daemon.to_owned(), events.metadata()?.ino());
        if self.of.as_ref() == Some(&of) {
            let bytes = read_from(&events, self.offset)?;
            self.offset += bytes.len() as u64;
            return Ok(self.take(&bytes));
        }
        let bytes = read_from(&events, 0)?;
        let is_first = self.of.replace(of).is_none();
        self.offset = bytes.len() as u64;
        self.rest.clear();
        let before = std::mem::take(&mut self.last);
        let lines = self.take(&bytes);
        Ok(match (is_first, self.from) {
            (true, From::Oldest) => lines,
            (true, From::Now) => Vec::new(),
            (false, _) => news(lines, &before),
        })
    }

    /// The lines that have ended with `bytes`. Empty ones stand for what was forgotten before it was read.
    fn take(&mut self, bytes: &[u8]) -> Vec<Line> {
        self.rest.extend_from_slice(bytes);
        let Some(end) = self.rest.iter().rposition(|&byte| byte == b'\n') else {
            return Vec::new();
        };
        let rest = self.rest.split_off(end + 1);
        let text = std::mem::replace(&mut self.rest, rest);
        let mut lines: Vec<_> = String::from_utf8_lossy(&text).lines().map(Line::parse).collect();
        lines.dedup_by(|line, before| *line == Line::Forgotten(None) && line == before);
        for line in &lines {
            if let Line::Event(line) = line {
                self.last.push_back(line.clone());
            }
        }
        self.last.drain(..self.last.len().saturating_sub(REMEMBERED));
        lines
    }
}

impl Line {
    fn parse(line: &str) -> Self {
        match line.strip_prefix("# ") {
            Some(rest) => Self::Forgotten(rest.split(' ').next().and_then(|count| count.parse().ok())),
            None if line.is_empty() => Self::Forgotten(None),
            None => Self::Event(line.to_owned()),
        }
    }
}

/// Everything from `offset` to the end there is now.
fn read_from(events: &File, offset: u64) -> io::Result<Vec<u8>> {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; CHUNK]);
    loop {
        match events.read_at(&mut buffer, offset + bytes.len() as u64) {
            Ok(0) => return Ok(bytes),
            Ok(length) => bytes.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What of `lines` comes after those `before`. Where none of them is there any more, all of it is new: they were
/// forgotten with their daemon or long ago, and what else was, nobody can say.
fn news(mut lines: Vec<Line>, before: &VecDeque<String>) -> Vec<Line> {
    let before: Vec<_> = before.iter().map(|line| Line::Event(line.clone())).collect();
    // The more of them stand there in a row, the surer it is the place.
    let known = (1..=before.len()).rev().find_map(|length| {
        let tail = &before[before.len() - length..];
        lines.windows(length).rposition(|window| window == tail).map(|at| at + length)
    });
    match known {
        Some(known) => lines.split_off(known),
        None => lines,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(lines: &[&str]) -> Vec<Line> {
        lines.iter().map(|line| Line::parse(line)).collect()
    }

    #[test]
    fn a_line_comes_when_it_has_ended() {
        let mut follower = Follower::new(From::Oldest);
        assert_eq!(follower.take(b"a b"), []);
        assert_eq!(follower.take(b"c\nd\n\n\n\n"), events(&["a bc", "d", ""]));
        assert_eq!(follower.take(b"e\nf"), events(&["e"]));
        assert_eq!(follower.take(b"\n"), events(&["f"]));
        let gap = follower.take(b"# 12 events were forgotten before they were asked for\n");
        assert_eq!(gap, [Line::Forgotten(Some(12))]);
    }

    #[test]
    fn another_file_goes_on_behind_the_last_lines_that_were_read() {
        let before: VecDeque<String> = ["x", "a", "b"].map(str::to_owned).into();
        let after = |lines: &[&str]| news(events(lines), &before);
        assert_eq!(after(&["w", "x", "a", "b", "c", "d"]), events(&["c", "d"]));
        // The same line a second time is news; a row that is longer is the place.
        assert_eq!(after(&["a", "b", "c", "b"]), events(&["c", "b"]));
        assert_eq!(after(&["c", "d"]), events(&["c", "d"]));
        assert_eq!(after(&["a", "b"]), []);
        assert_eq!(after(&[]), []);
    }

    #[test]
    fn only_the_last_lines_are_remembered() {
        let mut follower = Follower::new(From::Now);
        (0..100).for_each(|number| _ = follower.take(format!("{number}\n").as_bytes()));
        assert_eq!((follower.last.len(), follower.last[0].as_str()), (REMEMBERED, "84"));
    }
}
