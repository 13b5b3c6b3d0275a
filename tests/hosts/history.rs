//! A recorded history of holds, and its judge.
//!
//! Every holder, of whatever host, writes down each hold: a line when it has it, and a line before it lets go of
//! it. All hosts are on one machine, so their stamps are of one clock, `CLOCK_MONOTONIC`. The begin is taken after
//! the acquire returned, the end before the release is called: what is written is shorter than what was. So where
//! two holds of one name overlap here, two held it.
//!
//! A holder may lose its lock without knowing: by expiry, while its daemon stood still. It counts as its holder
//! only as long as it could still use it. So it tries at the end: who fails has `lost` it, nobody knows when; but
//! not before the ttl had passed since it asked for it, and until then nobody else may hold it.

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

    fn after(self, span: Duration) -> Self {
        Self(self.0 + u64::try_from(span.as_nanos()).unwrap())
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
    /// Its holder could use it still.
    Kept(Stamp),
    /// Its holder was told that it has lost it.
    Lost(Stamp),
    /// Its holder has not said.
    Missing,
}

/// One hold of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) host: String,
    pub(crate) holder: String,
    pub(crate) name: String,
    pub(crate) token: u64,
    /// Before the acquire was called.
    pub(crate) asked: Stamp,
    /// After it had returned.
    pub(crate) begin: Stamp,
    pub(crate) end: End,
}

/// What the tokens of a name do from one hold to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tokens {
    /// They rise: the name is made by the acquire.
    Rise,
    /// They differ: what is there already is linked to the name, and has its token from its birth.
    Differ,
}

/// What the holds of a history are held to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Law {
    /// For how long a lock lives at least that is not renewed.
    pub(crate) ttl: Duration,
    pub(crate) tokens: Tokens,
}

impl Hold {
    /// The line for a hold that has begun.
    pub(crate) fn begin_line(&self) -> String {
        let Self { host, holder, name, token, asked, begin, .. } = self;
        format!("begin {host} {holder} {name} {token} {asked} {begin}")
    }

    /// The line for its end.
    pub(crate) fn end_line(&self) -> String {
        let (how, at) = match self.end {
            End::Kept(at) => ("kept", at),
            End::Lost(at) => ("lost", at),
            End::Missing => unreachable!("there is nothing to write of an end that is missing"),
        };
        format!("end {} {} {how} {at}", self.holder, self.token)
    }

    /// Until when it was held at least.
    fn until(&self, law: Law) -> Stamp {
        match self.end {
            End::Kept(end) => end,
            // The server's clock is the wall clock, which may be slewed against ours by 500 ppm: adjtime(3).
            End::Lost(_) => self.asked.after(law.ttl - law.ttl / 1_000),
            End::Missing => self.begin,
        }
    }
}

/// All holds that were written down, in no order.
pub(crate) fn parse(text: &str) -> Vec<Hold> {
    let mut holds: Vec<Hold> = Vec::new();
    let mut open: HashMap<(&str, u64), usize> = HashMap::new();
    let stamp = |word: &str| Stamp(word.parse().unwrap());
    for line in text.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["begin", host, holder, name, token, asked, begin] => {
                let token = token.parse().unwrap();
                let before = open.insert((holder, token), holds.len());
                assert_eq!(before, None, "{holder} begins anew what it has not ended: {line}");
                let [host, holder, name] = [host, holder, name].map(str::to_owned);
                let (asked, begin) = (stamp(asked), stamp(begin));
                holds.push(Hold { host, holder, name, token, asked, begin, end: End::Missing });
            }
            ["end", holder, token, how, at] => {
                let hold = open.remove(&(holder, token.parse().unwrap()));
                let hold = hold.unwrap_or_else(|| panic!("an end without a begin: {line}"));
                holds[hold].end = if how == "kept" { End::Kept(stamp(at)) } else { End::Lost(stamp(at)) };
            }
            _ => panic!("a history has no such line: {line}"),
        }
    }
    holds
}

/// Everything in a history that must not be.
pub(crate) fn violations(holds: &[Hold], law: Law) -> Vec<String> {
    let mut found = Vec::new();
    let mut names: HashMap<&str, Vec<&Hold>> = HashMap::new();
    for hold in holds {
        match hold.end {
            End::Missing => found.push(format!("it has no end: {hold:?}")),
            End::Kept(end) if end < hold.begin => found.push(format!("it ends before it begins: {hold:?}")),
            End::Lost(told) if told < hold.until(law) => {
                found.push(format!("it was lost before its ttl had passed: {hold:?}"));
            }
            End::Kept(_) | End::Lost(_) => names.entry(&hold.name).or_default().push(hold),
        }
    }
    for holds in names.values_mut() {
        judge_name(holds, law, &mut found);
    }
    let mut tokens: HashMap<u64, &Hold> = HashMap::new();
    for hold in holds {
        if let Some(other) = tokens.insert(hold.token, hold) {
            found.push(format!("the token repeats: {other:?} and {hold:?}"));
        }
    }
    found
}

fn judge_name(holds: &mut Vec<&Hold>, law: Law, found: &mut Vec<String>) {
    // Whoever heard of its lock only when its ttl had passed held it for no moment that is known.
    holds.retain(|hold| hold.until(law) >= hold.begin);
    holds.sort_by_key(|hold| hold.begin);
    let mut longest: Option<&Hold> = None;
    for (index, &hold) in holds.iter().enumerate() {
        if let Some(before) = longest
            && hold.begin < before.until(law)
        {
            found.push(format!("two hold it at once: {before:?} and {hold:?}"));
        }
        if longest.is_none_or(|before| before.until(law) < hold.until(law)) {
            longest = Some(hold);
        }
        if law.tokens == Tokens::Rise && index > 0 && holds[index - 1].token > hold.token {
            found.push(format!("the token falls: {:?} and {hold:?}", holds[index - 1]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAW: Law = Law { ttl: Duration::from_nanos(1_000), tokens: Tokens::Rise };

    fn hold(name: &str, token: u64, begin: u64, end: End) -> Hold {
        let (host, holder) = ("h".to_owned(), format!("holder-{token}"));
        Hold { host, holder, name: name.to_owned(), token, asked: Stamp(begin - 1), begin: Stamp(begin), end }
    }

    fn kept(token: u64, begin: u64, end: u64) -> Hold {
        hold("a", token, begin, End::Kept(Stamp(end)))
    }

    #[track_caller]
    fn finds(what: &str, holds: &[Hold]) {
        let found = violations(holds, LAW);
        assert!(found.len() == 1 && found[0].starts_with(what), "{found:?}");
    }

    #[track_caller]
    fn finds_nothing(holds: &[Hold]) {
        assert_eq!(violations(holds, LAW), [""; 0]);
    }

    #[test]
    fn what_is_written_is_read() {
        let holds =
            [kept(1, 10, 20), hold("b", 2, 15, End::Lost(Stamp(2_000))), hold("a", 3, 30, End::Missing)];
        let mut lines: Vec<String> = holds.iter().map(Hold::begin_line).collect();
        lines.extend(holds[..2].iter().map(Hold::end_line));
        assert_eq!(parse(&lines.join("\n")), holds);
    }

    #[test]
    fn holds_one_after_another_are_right_in_whatever_order_they_were_written() {
        finds_nothing(&[kept(3, 30, 40), kept(1, 10, 20), kept(2, 20, 30)]);
    }

    #[test]
    fn names_are_apart() {
        finds_nothing(&[hold("b", 2, 10, End::Kept(Stamp(30))), kept(1, 20, 40)]);
    }

    #[test]
    fn an_overlap_is_found() {
        finds("two hold it at once", &[kept(1, 10, 21), kept(2, 20, 30)]);
    }

    #[test]
    fn an_overlap_with_one_long_before_is_found() {
        finds("two hold it at once", &[kept(1, 10, 100), kept(2, 99, 120), kept(3, 130, 140)]);
        let found = violations(&[kept(1, 10, 100), kept(2, 20, 30), kept(3, 40, 50)], LAW);
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn a_token_that_falls_is_found() {
        finds("the token falls", &[kept(2, 10, 20), kept(1, 20, 30)]);
    }

    #[test]
    fn a_token_may_fall_where_it_is_from_the_birth_of_what_is_linked() {
        let law = Law { tokens: Tokens::Differ, ..LAW };
        assert_eq!(violations(&[kept(2, 10, 20), kept(1, 20, 30)], law), [""; 0]);
    }

    #[test]
    fn a_token_that_repeats_is_found_also_over_names() {
        finds("the token repeats", &[kept(1, 10, 20), kept(1, 20, 30)]);
        finds("the token repeats", &[kept(1, 10, 20), hold("b", 1, 50, End::Kept(Stamp(60)))]);
    }

    #[test]
    fn a_missing_end_is_found() {
        finds("it has no end", &[kept(1, 10, 20), hold("a", 2, 20, End::Missing)]);
    }

    #[test]
    fn an_end_before_the_begin_is_found() {
        finds("it ends before it begins", &[kept(1, 10, 9)]);
    }

    #[test]
    fn what_was_lost_after_its_ttl_excludes_for_its_ttl_and_no_longer() {
        let lost = hold("a", 1, 10, End::Lost(Stamp(5_000)));
        finds_nothing(&[lost.clone(), kept(2, 1_010, 4_000), kept(3, 4_100, 6_000)]);
        finds("two hold it at once", &[lost, kept(2, 900, 4_000)]);
    }

    #[test]
    fn what_was_lost_before_its_ttl_is_found() {
        finds("it was lost before its ttl", &[hold("a", 1, 10, End::Lost(Stamp(900)))]);
    }

    #[test]
    fn who_hears_of_its_lock_after_its_ttl_does_not_count() {
        let late = Hold { asked: Stamp(10), ..hold("a", 1, 3_000, End::Lost(Stamp(3_100))) };
        finds_nothing(&[late, kept(2, 1_500, 4_000)]);
    }
}
