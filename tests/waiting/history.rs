//! A recorded history of holds, shared and exclusive, and its judge.
//!
//! Every worker, of whatever host, writes down each hold: a line when it has it, and a line before it lets go of
//! it; and the test writes down whom it is about to kill. All of them are on one machine, so their stamps are of
//! one clock, `CLOCK_MONOTONIC`. The begin is taken after the call returned, the end before it is let go: what is
//! written is shorter than what was. So where an exclusive hold overlaps another one here, it did.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

/// A moment on `CLOCK_MONOTONIC`, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp(u64);

impl Stamp {
    pub(crate) fn now() -> Self {
        // SAFETY: a timespec of zeros is a valid value for the call to fill, and lives until it returns.
        let now = unsafe {
            let mut now: libc::timespec = std::mem::zeroed();
            assert_eq!(libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now), 0);
            now
        };
        Self(u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap())
    }

    /// How long after `before` it is; nothing where it is not.
    pub(crate) fn since(self, before: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(before.0))
    }

    /// A number below `limit` that differs from one moment to the next.
    pub(crate) fn dice(self, limit: usize) -> usize {
        // The multiplier of Knuth's generator: the last digits of a clock repeat.
        usize::try_from(self.0.wrapping_mul(6_364_136_223_846_793_005) >> 33).unwrap() % limit
    }

    /// The moment that its number was written of.
    pub(crate) fn parse(word: &str) -> Self {
        Self(word.parse().unwrap_or_else(|_| panic!("no stamp: {word:?}")))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its holder let go of it.
    Released(Stamp),
    /// Its holder was killed, not before this.
    Killed(Stamp),
    /// Its holder has not said.
    Missing,
}

/// One hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) who: String,
    pub(crate) is_exclusive: bool,
    /// Before the call.
    pub(crate) asked: Stamp,
    /// After it had returned.
    pub(crate) begin: Stamp,
    pub(crate) end: End,
}

impl Hold {
    /// The line for a hold that has begun.
    pub(crate) fn begin_line(&self) -> String {
        let Self { who, is_exclusive, asked, begin, .. } = self;
        format!("begin {who} {} {asked} {begin}", if *is_exclusive { "exclusive" } else { "shared" })
    }

    /// The line for its end.
    pub(crate) fn end_line(who: &str) -> String {
        format!("end {who} {}", Stamp::now())
    }

    /// The line for who is about to be killed.
    pub(crate) fn killed_line(who: &str) -> String {
        format!("killed {who} {}", Stamp::now())
    }

    /// Until when it was held at least.
    fn until(&self) -> Stamp {
        match self.end {
            End::Released(at) | End::Killed(at) => at,
            End::Missing => self.begin,
        }
    }

    fn excludes(&self, other: &Self) -> bool {
        self.is_exclusive || other.is_exclusive
    }
}

/// All holds that were written down, in no order.
pub(crate) fn parse(text: &str) -> Vec<Hold> {
    let mut holds: Vec<Hold> = Vec::new();
    let mut open: HashMap<&str, usize> = HashMap::new();
    for line in text.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["begin", who, mode, asked, begin] => {
                assert_eq!(
                    open.insert(who, holds.len()),
                    None,
                    "{who} begins anew what it has not ended: {line}"
                );
                let (asked, begin) = (Stamp::parse(asked), Stamp::parse(begin));
                let is_exclusive = mode == "exclusive";
                holds.push(Hold { who: who.to_owned(), is_exclusive, asked, begin, end: End::Missing });
            }
            ["end", who, at] => {
                let hold = open.remove(who).unwrap_or_else(|| panic!("an end without a begin: {line}"));
                holds[hold].end = End::Released(Stamp::parse(at));
            }
            ["killed", _, _] => {}
            _ => panic!("not a line of a history: {line:?}"),
        }
    }
    // The killed one may have written its last line after the test had written that it would kill it.
    for line in text.lines().filter(|line| line.starts_with("killed ")) {
        let [_, who, at] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
        if let Some(hold) = open.remove(who) {
            holds[hold].end = End::Killed(Stamp::parse(at));
        }
    }
    holds
}

/// What is wrong with a history: holds without an end, or that end before they begin, and holds that overlap one
/// that excludes them.
pub(crate) fn violations(holds: &[Hold]) -> Vec<String> {
    let mut found = Vec::new();
    for hold in holds {
        match hold.end {
            End::Missing => found.push(format!("it has no end: {hold:?}")),
            End::Released(end) if end < hold.begin => {
                found.push(format!("it ends before it begins: {hold:?}"))
            }
            End::Released(_) | End::Killed(_) => {}
        }
    }
    // Whoever was about to be killed before it had it held it for no moment that is known.
    let mut known: Vec<&Hold> = holds.iter().filter(|hold| hold.until() >= hold.begin).collect();
    known.sort_by_key(|hold| hold.begin);
    for (index, hold) in known.iter().enumerate() {
        let later = known[index + 1..].iter().take_while(|later| later.begin < hold.until());
        found.extend(
            later
                .filter(|later| hold.excludes(later))
                .map(|later| format!("they overlap: {hold:?} and {later:?}")),
        );
    }
    found
}

/// Who was overtaken: of two holds that exclude each other, the one that was asked for later by more than the
/// tolerance came first.
pub(crate) fn overtaken(holds: &[Hold], tolerance: Duration) -> Vec<String> {
    let mut found = Vec::new();
    for hold in holds {
        let overtakers = holds.iter().filter(|other| {
            other.excludes(hold) && other.begin < hold.begin && other.asked.since(hold.asked) > tolerance
        });
        found.extend(overtakers.map(|other| format!("{hold:?} was overtaken by {other:?}")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(is_exclusive: bool, asked: u64, begin: u64, end: End) -> Hold {
        Hold { who: format!("w{begin}"), is_exclusive, asked: Stamp(asked), begin: Stamp(begin), end }
    }

    fn writer(begin: u64, end: u64) -> Hold {
        hold(true, begin - 1, begin, End::Released(Stamp(end)))
    }

    fn reader(begin: u64, end: u64) -> Hold {
        hold(false, begin - 1, begin, End::Released(Stamp(end)))
    }

    #[track_caller]
    fn finds(what: &str, holds: &[Hold]) {
        let found = violations(holds);
        assert!(found.len() == 1 && found[0].starts_with(what), "{found:?}");
    }

    #[test]
    fn what_is_written_is_read() {
        let killed = hold(true, 5, 6, End::Killed(Stamp(8)));
        let text = format!("killed w6 8\n{}\nbegin w9 shared 7 9\nend w9 11\n", killed.begin_line());
        assert_eq!(parse(&text), [killed, hold(false, 7, 9, End::Released(Stamp(11)))]);
    }

    #[test]
    fn readers_may_overlap() {
        assert_eq!(violations(&[reader(10, 30), reader(20, 40), writer(40, 50)]), [""; 0]);
    }

    #[test]
    fn a_writer_excludes_writers_and_readers() {
        finds("they overlap", &[writer(10, 30), writer(29, 40)]);
        finds("they overlap", &[writer(10, 30), reader(29, 40)]);
        finds("they overlap", &[reader(10, 30), writer(29, 40)]);
    }

    #[test]
    fn an_overlap_with_one_long_before_is_found() {
        finds("they overlap", &[reader(10, 100), reader(20, 30), writer(99, 120)]);
    }

    #[test]
    fn who_was_killed_excludes_until_then_and_no_longer() {
        let killed = hold(true, 9, 10, End::Killed(Stamp(30)));
        finds("they overlap", &[killed.clone(), writer(29, 40)]);
        assert_eq!(violations(&[killed, writer(31, 40)]), [""; 0]);
        let before = hold(true, 9, 10, End::Killed(Stamp(5)));
        assert_eq!(violations(&[before, writer(9, 40)]), [""; 0]);
    }

    #[test]
    fn a_missing_end_is_found() {
        finds("it has no end", &[hold(true, 9, 10, End::Missing)]);
        finds("it ends before", &[writer(10, 9)]);
    }

    #[test]
    fn who_is_overtaken_by_more_than_the_tolerance_is_found() {
        let first = hold(true, 100, 500, End::Released(Stamp(501)));
        let second = hold(true, 150, 400, End::Released(Stamp(401)));
        let tolerance =
            |nanos| overtaken(&[first.clone(), second.clone()], Duration::from_nanos(nanos)).len();
        assert_eq!((tolerance(50), tolerance(49)), (0, 1));
    }

    #[test]
    fn readers_do_not_overtake_each_other() {
        let first = hold(false, 100, 500, End::Released(Stamp(501)));
        let second = hold(false, 150, 400, End::Released(Stamp(401)));
        assert_eq!(overtaken(&[first, second], Duration::ZERO), [""; 0]);
    }
}
