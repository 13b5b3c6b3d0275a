//! How a store is: one list of facts, from which `status` and the metrics are both made.

use std::fmt;
use std::time::Duration;

use crate::table::Counts;

/// How a store is, as far as it is known without asking anybody.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// `leveldb`, `memory`, `redis`, `hybrid`.
    pub backend: &'static str,
    /// How far its locks exclude others: `host`, `cluster`.
    pub scope: &'static str,
    /// Whether it works.
    pub state: State,
    /// How many, and how often, when it was last known.
    pub counts: Option<Counts>,
    /// More about it.
    pub facts: Vec<Fact>,
}

/// Whether a store works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It does.
    Ok,
    /// It works, but not as it should. Says since when and why.
    Degraded(String),
    /// It can't be reached at present: it is tried again and again. Says since when and why.
    Unreachable(String),
    /// It does not, until somebody does something. Says what is wrong and what to do.
    Failed(String),
}

impl State {
    /// The word in `status`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded(_) => "degraded",
            Self::Unreachable(_) => "unreachable",
            Self::Failed(_) => "failed",
        }
    }

    /// What is wrong.
    pub fn trouble(&self) -> Option<&str> {
        match self {
            Self::Ok => None,
            Self::Degraded(why) | Self::Unreachable(why) | Self::Failed(why) => Some(why),
        }
    }
}

/// One thing that a store says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// Its word in `status`.
    pub key: &'static str,
    /// What it is.
    pub value: Value,
    /// Which metric it is a sample of; words are labels of the store's `info` instead.
    pub metric: Option<Metric>,
}

/// A metric, as Prometheus has them (prometheus.io, "Metric and label naming").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name without `lockfs_`, with its unit, and `_total` for what only rises.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
}

/// What a fact is. Prints as `status` has it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Words.
    Text(String),
    /// Words that change by themselves. They are no label: each change of one begins another series.
    Passing(String),
    /// How often something happened since the start.
    Count(u64),
    /// How many there are.
    Number(u64),
    /// A difference of times in seconds, which may be negative.
    Seconds(f64),
    /// How long the given part of all took at most: `0.5` is the median.
    Quantile(&'static str, Duration),
}

impl Fact {
    /// A fact in words.
    pub fn text(key: &'static str, text: impl Into<String>) -> Self {
        Self { key, value: Value::Text(text.into()), metric: None }
    }

    /// A fact in words that change by themselves.
    pub fn passing(key: &'static str, text: impl Into<String>) -> Self {
        Self { key, value: Value::Passing(text.into()), metric: None }
    }

    /// A fact in numbers.
    pub fn measured(key: &'static str, value: Value, name: &'static str, help: &'static str) -> Self {
        Self { key, value, metric: Some(Metric { name, help }) }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) | Self::Passing(text) => f.write_str(text),
            Self::Count(number) | Self::Number(number) => number.fmt(f),
            Self::Seconds(seconds) => write!(f, "{seconds:+.3}s"),
            Self::Quantile(_, span) => write!(f, "{}us", span.as_micros()),
        }
    }
}
