//! How long a lock outlives the last sight of its holder.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A lock expires this long after its holder was last seen alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ttl {
    /// It expires after this span: at least a millisecond, at most [`Ttl::MAX`].
    For(Duration),
    /// It never expires.
    Never,
}

impl Ttl {
    /// Five minutes: what a lock has where nothing else was said.
    pub const DEFAULT: Self = Self::For(Duration::from_secs(300));

    /// The longest span: a hundred years of 365 days. What should last longer is [`Ttl::Never`].
    pub const MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

    /// The span, or `None` for never.
    pub const fn span(self) -> Option<Duration> {
        match self {
            Self::For(span) => Some(span),
            Self::Never => None,
        }
    }

    /// Milliseconds, 0 for never: how a record spells it.
    pub fn as_millis(self) -> u64 {
        self.span().map_or(0, |span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
    }

    /// The ttl that a record spells `millis`.
    pub const fn from_millis(millis: u64) -> Self {
        match millis {
            0 => Self::Never,
            _ => Self::For(Duration::from_millis(millis)),
        }
    }
}

impl Default for Ttl {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// `never`, or the span in its largest whole unit: `90s`, `5m`, `1500ms`.
impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.as_millis();
        match millis {
            0 => f.write_str("never"),
            _ if millis.is_multiple_of(3_600_000) => write!(f, "{}h", millis / 3_600_000),
            _ if millis.is_multiple_of(60_000) => write!(f, "{}m", millis / 60_000),
            _ if millis.is_multiple_of(1_000) => write!(f, "{}s", millis / 1_000),
            _ => write!(f, "{millis}ms"),
        }
    }
}

/// A number of seconds, or numbers with units (`ms`, `s`, `m`, `h`, `d`), largest first: `90`, `5m`,
/// `1h30m`. `0` and `never` mean never.
impl FromStr for Ttl {
    type Err = TtlError;

    fn from_str(text: &str) -> Result<Self, TtlError> {
        let text = text.trim();
        if text == "never" {
            return Ok(Self::Never);
        }
        let mut rest = text;
        let (mut millis, mut last_unit) = (0_u64, u64::MAX);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let count: u64 = rest[..digits].parse().map_err(|_| TtlError::new(text))?;
            let tail = &rest[digits..];
            let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let unit = match &tail[..letters] {
                "" if rest.len() == text.len() => 1_000,
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(TtlError::new(text)),
            };
            if unit >= last_unit {
                return Err(TtlError::new(text));
            }
            last_unit = unit;
            let span = count.checked_mul(unit).and_then(|span| millis.checked_add(span));
            millis = span.ok_or_else(|| TtlError::new(text))?;
            rest = &tail[letters..];
        }
        if text.is_empty() || Duration::from_millis(millis) > Self::MAX {
            return Err(TtlError::new(text));
        }
        Ok(Self::from_millis(millis))
    }
}

/// Text that is no [`Ttl`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TtlError(String);

impl TtlError {
    fn new(text: &str) -> Self {
        Self(text.escape_debug().to_string())
    }
}

impl fmt::Display for TtlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is no ttl: write seconds (90), units (5m, 1h30m, 500ms) or never", self.0)
    }
}

impl std::error::Error for TtlError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_seconds_units_or_never() {
        let secs = |secs| Ok(Ttl::For(Duration::from_secs(secs)));
        assert_eq!("90".parse(), secs(90));
        assert_eq!("5m".parse(), secs(300));
        assert_eq!("1h30m".parse(), secs(5_400));
        assert_eq!("1500ms".parse(), Ok(Ttl::For(Duration::from_millis(1_500))));
        assert_eq!("0".parse(), Ok(Ttl::Never));
        assert_eq!("never\n".parse(), Ok(Ttl::Never));
        for bad in ["", "-1", "5x", "m", "5 m", "1m1h", "1.5", "99999999999999999999", "4000000d", "5m5"] {
            assert!(bad.parse::<Ttl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_ttl_prints_as_it_parses() {
        for text in ["never", "90s", "5m", "2h", "1500ms"] {
            assert_eq!(text.parse::<Ttl>().map(|ttl| ttl.to_string()), Ok(text.to_owned()));
        }
    }
}
