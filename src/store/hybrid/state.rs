//! Who decides: a pure state machine. Signals and times go in; who decides, and what may be granted, comes out. No
//! clock, no I/O, no threads.
//!
//! | state | who decides | it ends |
//! |---|---|---|
//! | `Cluster` | Redis | in `Doubt`, with the first sign that Redis is gone |
//! | `Doubt` | Redis, as far as it answers | in `Cluster`, with an answer; in `Alone` 5 s after the last one |
//! | `Alone` | this host | in `Returning`, with a handshake |
//! | `Returning` | this host still | in `Rejoining` 3 s after the handshake; in `Alone`, where Redis is gone again |
//! | `Rejoining` | nobody: who asks waits | in `Cluster`, when all is brought to Redis; else in `Alone` |
//!
//! The invariants: Redis decides again only after a rejoin; one bad command ends nothing; and a Redis that goes three
//! times within a minute lets this host grant nothing for a minute. Held back is then only what this host would grant
//! by itself. A Redis that answers may always decide: what it grants is right, however soon it goes again.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::clock::BootTime;

/// How long after its last answer Redis counts as gone.
pub(super) const GONE_AFTER: Duration = Duration::from_secs(5);

/// How long a handshake must have held before Redis counts as back.
pub(super) const BACK_AFTER: Duration = Duration::from_secs(3);

/// How often Redis may go within [`FLAPS_WITHIN`] before this host grants nothing by itself.
pub(super) const FLAPS: usize = 3;

/// Within how long.
pub(super) const FLAPS_WITHIN: Duration = Duration::from_secs(60);

/// For how long nothing is granted then.
pub(super) const REFUSES_FOR: Duration = Duration::from_secs(60);

/// What this host may grant by itself while Redis is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// All that is free here, if no other host held anything when Redis was last heard.
    #[default]
    Auto,
    /// All that is free here.
    Local,
    /// Nothing.
    Refuse,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Local => "local",
            Self::Refuse => "refuse",
        })
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "local" => Ok(Self::Local),
            "refuse" => Ok(Self::Refuse),
            _ => Err("say auto, local or refuse".to_owned()),
        }
    }
}

/// What was last known of other hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// None of them held anything.
    HoldNothing,
    /// One of them did.
    HoldSome,
    /// Nobody knows: not all of Redis was seen.
    Unknown,
}

/// What is heard of Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// It has answered.
    Answer,
    /// It counts as gone: a command failed, or the connection.
    Silence,
    /// It is there, and its data is what it was, or has been settled.
    Handshake,
    /// Nothing new; time has passed.
    Nothing,
    /// All was brought to it.
    Rejoined,
    /// It was not possible.
    NotRejoined,
}

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Redis.
    Cluster,
    /// Redis, if it answers.
    Doubt,
    /// This host, by policy.
    Alone,
    /// This host still; since when Redis is there again.
    Returning(BootTime),
    /// Nobody, for a moment.
    Rejoining,
}

/// Who may grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grants {
    /// Redis.
    There,
    /// This host.
    Here,
    /// Nobody; says why.
    Nowhere(Why),
    /// Who asks has to wait for the answer to this.
    Soon,
}

/// Why nobody may grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The policy is to refuse.
    Refuses,
    /// Another host held something.
    OthersHold,
    /// What other hosts hold is not known.
    OthersUnknown,
    /// Redis comes and goes.
    Flaps,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refuses => "--on-outage is refuse",
            Self::OthersHold => "another host held something when redis was last heard (--on-outage auto)",
            Self::OthersUnknown => "what other hosts hold is not known (--on-outage auto)",
            Self::Flaps => "redis comes and goes: nothing is granted for a minute",
        })
    }
}

/// The machine.
#[derive(Debug)]
pub(super) struct Machine {
    state: State,
    policy: Policy,
    /// When Redis last answered.
    heard: BootTime,
    /// When it went, of late.
    went: VecDeque<BootTime>,
    /// Until when nothing is granted here.
    refuses_until: Option<BootTime>,
    /// Since when the state is what it is.
    since: BootTime,
}

impl Machine {
    /// Redis answered just now, and decides.
    pub(super) fn new(policy: Policy, now: BootTime) -> Self {
        Self {
            state: State::Cluster,
            policy,
            heard: now,
            went: VecDeque::new(),
            refuses_until: None,
            since: now,
        }
    }

    /// Redis could not be reached when it was first asked.
    pub(super) fn alone(policy: Policy, now: BootTime) -> Self {
        let mut machine = Self::new(policy, now);
        machine.go(now);
        machine
    }

    /// Takes in a signal; returns who decides now.
    pub(super) fn hear(&mut self, now: BootTime, signal: Signal) -> State {
        let is_asked = matches!(self.state, State::Cluster | State::Doubt);
        if signal == Signal::Answer || (signal == Signal::Handshake && is_asked) {
            self.heard = self.heard.max(now);
        }
        match (self.state, signal) {
            (State::Cluster, Signal::Silence) => self.enter(now, State::Doubt),
            (State::Doubt, Signal::Answer | Signal::Handshake) => self.enter(now, State::Cluster),
            (State::Cluster | State::Doubt, _) if now.since(self.heard) >= GONE_AFTER => self.go(now),
            (State::Alone, Signal::Handshake) => self.enter(now, State::Returning(now)),
            (State::Returning(_) | State::Rejoining, Signal::Silence) => self.go(now),
            (State::Returning(since), _) if now.since(since) >= BACK_AFTER => {
                self.enter(now, State::Rejoining);
            }
            (State::Rejoining, Signal::Rejoined) => {
                self.heard = now;
                self.enter(now, State::Cluster);
            }
            (State::Rejoining, Signal::NotRejoined) => self.enter(now, State::Alone),
            _ => {}
        }
        if self.refuses_until.is_some_and(|until| until <= now) {
            self.refuses_until = None;
        }
        self.state
    }

    fn enter(&mut self, now: BootTime, state: State) {
        self.state = state;
        self.since = now;
    }

    /// Redis goes.
    fn go(&mut self, now: BootTime) {
        self.went.push_back(now);
        while self.went.front().is_some_and(|then| now.since(*then) >= FLAPS_WITHIN) {
            self.went.pop_front();
        }
        if self.went.len() >= FLAPS {
            self.refuses_until = Some(now + REFUSES_FOR);
        }
        self.enter(now, State::Alone);
    }

    /// Who decides.
    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Since when.
    pub(super) fn since(&self) -> BootTime {
        self.since
    }

    /// When Redis last answered.
    pub(super) fn heard(&self) -> BootTime {
        self.heard
    }

    /// Who may grant, where that is known of other hosts.
    pub(super) fn grants(&self, others: Others) -> Grants {
        match (self.state, self.policy, others) {
            (State::Cluster | State::Doubt, ..) => Grants::There,
            (State::Rejoining, ..) => Grants::Soon,
            (_, Policy::Refuse, _) => Grants::Nowhere(Why::Refuses),
            _ if self.refuses_until.is_some() => Grants::Nowhere(Why::Flaps),
            (_, Policy::Local, _) | (_, Policy::Auto, Others::HoldNothing) => Grants::Here,
            (_, Policy::Auto, Others::HoldSome) => Grants::Nowhere(Why::OthersHold),
            (_, Policy::Auto, Others::Unknown) => Grants::Nowhere(Why::OthersUnknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime::from_nanos((1_000_000 + millis) * 1_000_000)
    }

    fn machine() -> Machine {
        Machine::new(Policy::Local, at(0))
    }

    /// A machine that stands alone from the moment 5000 on.
    fn alone() -> Machine {
        let mut machine = machine();
        machine.hear(at(100), Signal::Silence);
        assert_eq!(machine.hear(at(5_000), Signal::Silence), State::Alone);
        machine
    }

    #[test]
    fn one_bad_command_ends_nothing() {
        let mut machine = machine();
        assert_eq!(machine.hear(at(10), Signal::Silence), State::Doubt);
        assert_eq!(machine.grants(Others::HoldNothing), Grants::There);
        assert_eq!(machine.hear(at(4_999), Signal::Nothing), State::Doubt);
        assert_eq!(machine.hear(at(4_999), Signal::Answer), State::Cluster);
        assert_eq!(machine.hear(at(9_000), Signal::Nothing), State::Cluster);
    }

    #[test]
    fn redis_is_gone_five_seconds_after_its_last_answer() {
        let mut machine = machine();
        machine.hear(at(2_000), Signal::Answer);
        machine.hear(at(2_001), Signal::Silence);
        assert_eq!(machine.hear(at(6_999), Signal::Silence), State::Doubt);
        assert_eq!(machine.hear(at(7_000), Signal::Nothing), State::Alone);
        assert_eq!(machine.grants(Others::Unknown), Grants::Here);
    }

    #[test]
    fn redis_is_back_when_a_handshake_has_held_for_three_seconds_and_all_was_brought_to_it() {
        let mut machine = alone();
        assert_eq!(machine.hear(at(20_000), Signal::Answer), State::Alone);
        assert_eq!(machine.hear(at(20_000), Signal::Handshake), State::Returning(at(20_000)));
        assert_eq!(machine.grants(Others::HoldNothing), Grants::Here);
        assert_eq!(machine.hear(at(22_999), Signal::Answer), State::Returning(at(20_000)));
        assert_eq!(machine.hear(at(23_000), Signal::Handshake), State::Rejoining);
        assert_eq!(machine.grants(Others::HoldNothing), Grants::Soon);
        assert_eq!(machine.hear(at(24_000), Signal::Handshake), State::Rejoining);
        assert_eq!(machine.hear(at(24_000), Signal::Rejoined), State::Cluster);
        assert_eq!(machine.hear(at(28_999), Signal::Nothing), State::Cluster);
    }

    #[test]
    fn a_handshake_that_did_not_hold_counts_from_anew() {
        let mut machine = alone();
        machine.hear(at(10_000), Signal::Handshake);
        assert_eq!(machine.hear(at(12_900), Signal::Silence), State::Alone);
        machine.hear(at(13_000), Signal::Handshake);
        assert_eq!(machine.hear(at(15_900), Signal::Nothing), State::Returning(at(13_000)));
    }

    #[test]
    fn what_could_not_be_brought_to_redis_leaves_this_host_alone() {
        let mut machine = alone();
        machine.hear(at(10_000), Signal::Handshake);
        machine.hear(at(13_000), Signal::Nothing);
        assert_eq!(machine.hear(at(13_100), Signal::NotRejoined), State::Alone);
        assert_eq!(machine.grants(Others::HoldNothing), Grants::Here);
    }

    #[test]
    fn a_redis_that_goes_three_times_a_minute_lets_nothing_be_granted_for_a_minute() {
        let mut machine = alone();
        for start in [10_000, 20_000] {
            machine.hear(at(start), Signal::Handshake);
            machine.hear(at(start + 1_000), Signal::Silence);
        }
        assert_eq!(machine.state(), State::Alone);
        assert_eq!(machine.grants(Others::HoldNothing), Grants::Nowhere(Why::Flaps));
        machine.hear(at(80_999), Signal::Nothing);
        assert_eq!(machine.grants(Others::HoldNothing), Grants::Nowhere(Why::Flaps));
        machine.hear(at(81_000), Signal::Nothing);
        assert_eq!(machine.grants(Others::HoldNothing), Grants::Here);
    }

    #[test]
    fn a_redis_that_goes_three_times_in_more_than_a_minute_is_only_gone() {
        let mut machine = alone();
        for start in [30_000, 64_000] {
            machine.hear(at(start), Signal::Handshake);
            machine.hear(at(start + 1_000), Signal::Silence);
        }
        assert_eq!(machine.grants(Others::HoldNothing), Grants::Here);
    }

    /// In each state, by each policy, whatever is known of others.
    #[test]
    fn what_may_be_granted_in_each_state_is_what_the_policy_says() {
        use Others::{HoldNothing, HoldSome, Unknown};
        let nowhere = Grants::Nowhere;
        let expected = [
            (Policy::Auto, HoldNothing, Grants::Here),
            (Policy::Auto, HoldSome, nowhere(Why::OthersHold)),
            (Policy::Auto, Unknown, nowhere(Why::OthersUnknown)),
            (Policy::Local, HoldNothing, Grants::Here),
            (Policy::Local, HoldSome, Grants::Here),
            (Policy::Local, Unknown, Grants::Here),
            (Policy::Refuse, HoldNothing, nowhere(Why::Refuses)),
            (Policy::Refuse, HoldSome, nowhere(Why::Refuses)),
            (Policy::Refuse, Unknown, nowhere(Why::Refuses)),
        ];
        for (policy, others, grants) in expected {
            let mut machine = Machine::new(policy, at(0));
            for state in
                [State::Cluster, State::Doubt, State::Alone, State::Returning(at(0)), State::Rejoining]
            {
                machine.state = state;
                let expected = match state {
                    State::Cluster | State::Doubt => Grants::There,
                    State::Alone | State::Returning(_) => grants,
                    State::Rejoining => Grants::Soon,
                };
                assert_eq!(machine.grants(others), expected, "{policy} {others:?} {state:?}");
            }
        }
    }

    /// All sequences of nine signals, a second and a half apart.
    #[test]
    fn whatever_is_heard_nothing_is_granted_here_without_silence_and_redis_comes_back_by_a_rejoin_alone() {
        const SIGNALS: [Signal; 6] = [
            Signal::Answer,
            Signal::Silence,
            Signal::Handshake,
            Signal::Nothing,
            Signal::Rejoined,
            Signal::NotRejoined,
        ];
        let (length, step) = (8_u32, 1_500);
        for number in 0..SIGNALS.len().pow(length) {
            let mut machine = machine();
            let (mut rest, mut heard, mut shook) = (number, 0, None);
            for index in 1..=u64::from(length) {
                let signal = SIGNALS[rest % SIGNALS.len()];
                rest /= SIGNALS.len();
                let (now, before) = (index * step, machine.state());
                let after = machine.hear(at(now), signal);
                let answers = matches!(signal, Signal::Answer | Signal::Handshake);
                let decides_there = |state| matches!(state, State::Cluster | State::Doubt);
                if answers && decides_there(before) || after == State::Cluster && before == State::Rejoining {
                    heard = now;
                }
                match (before, after) {
                    (State::Cluster | State::Doubt, State::Alone) => {
                        assert!(now - heard >= 5_000, "{number}");
                    }
                    (before, State::Cluster | State::Doubt) => assert!(
                        decides_there(before) || signal == Signal::Rejoined && before == State::Rejoining,
                        "{number}"
                    ),
                    (State::Alone, State::Returning(since)) => {
                        assert_eq!((since, signal), (at(now), Signal::Handshake), "{number}");
                        shook = Some(now);
                    }
                    (State::Returning(_), State::Rejoining) => {
                        assert!(now - shook.unwrap() >= 3_000, "{number}");
                    }
                    (State::Returning(_) | State::Rejoining, State::Alone) => {
                        assert!(matches!(signal, Signal::Silence | Signal::NotRejoined), "{number}");
                    }
                    (before, after) => assert_eq!(before, after, "{number}"),
                }
            }
        }
    }
}
