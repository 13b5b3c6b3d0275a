//! Time: the wall clock for what people read, `CLOCK_BOOTTIME` for what leases count.
//!
//! Leases never use the wall clock, which steps, nor `CLOCK_MONOTONIC`, which stands still while the
//! machine sleeps. This is the only file that asks the system for the time; everything else is handed
//! a [`Now`], so that a test can say what time it is.

use std::fmt;
use std::ops::Add;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment on `CLOCK_BOOTTIME`: nanoseconds since this machine booted, sleep included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(u64);

impl BootTime {
    /// The moment `nanos` nanoseconds after boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this moment is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// A moment on the wall clock, to the nanosecond, as timespec(3type) has it: any second a client may set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime {
    secs: i64,
    nanos: u32,
}

impl WallTime {
    /// The moment `secs` seconds after 1970 and `nanos` (below one second) nanoseconds.
    pub const fn new(secs: i64, nanos: u32) -> Self {
        Self { secs, nanos }
    }

    /// Whole seconds since 1970; negative before it.
    pub const fn secs(self) -> i64 {
        self.secs
    }

    /// Nanoseconds within the second.
    pub const fn subsec_nanos(self) -> u32 {
        self.nanos
    }

    /// How long after `earlier` this moment is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        self.nanos_since_1970()
            .checked_sub(earlier.nanos_since_1970())
            .and_then(|nanos| u64::try_from(nanos).ok())
            .map_or(Duration::ZERO, Duration::from_nanos)
    }

    fn nanos_since_1970(self) -> i128 {
        i128::from(self.secs) * 1_000_000_000 + i128::from(self.nanos)
    }
}

impl Add<Duration> for WallTime {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        let nanos = u64::from(self.nanos) + u64::from(span.subsec_nanos());
        let carry = i64::try_from(nanos / 1_000_000_000).expect("less than two seconds of nanoseconds");
        let secs = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        Self {
            secs: self.secs.saturating_add(secs).saturating_add(carry),
            nanos: u32::try_from(nanos % 1_000_000_000).expect("a remainder below one second"),
        }
    }
}

impl From<SystemTime> for WallTime {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self::default() + after,
            Err(error) => {
                let before = error.duration();
                let secs = -i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
                match before.subsec_nanos() {
                    0 => Self::new(secs, 0),
                    nanos => Self::new(secs - 1, 1_000_000_000 - nanos),
                }
            }
        }
    }
}

impl From<WallTime> for SystemTime {
    fn from(time: WallTime) -> Self {
        let whole = Duration::from_secs(time.secs.unsigned_abs());
        let start = if time.secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
        start.unwrap_or(UNIX_EPOCH) + Duration::from_nanos(u64::from(time.nanos))
    }
}

/// RFC 3339 in UTC, to the second: `2031-05-04T03:02:01Z`.
impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, second) = (self.secs.div_euclid(86_400), self.secs.rem_euclid(86_400));
        // Days to a civil date: the era arithmetic of Howard Hinnant's `civil_from_days`.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// What leases count.
    pub boot: BootTime,
    /// What people read, and what file times are made of.
    pub wall: WallTime,
}

/// Where a [`Now`] comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Reads both clocks.
    fn now(&self) -> Now;
}

/// The machine's own clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let boot = read_clock(libc::CLOCK_BOOTTIME);
        let wall = read_clock(libc::CLOCK_REALTIME);
        Now { boot: BootTime(boot.secs.unsigned_abs() * 1_000_000_000 + u64::from(boot.nanos)), wall }
    }
}

fn read_clock(id: libc::clockid_t) -> WallTime {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the call to fill, and both ids exist on every Linux since 2.6.39.
    unsafe { libc::clock_gettime(id, &raw mut time) };
    WallTime::new(time.tv_sec, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A clock that a test moves by hand.
#[derive(Debug)]
pub struct ManualClock(Mutex<Now>);

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn new(now: Now) -> Self {
        Self(Mutex::new(now))
    }

    /// Moves both clocks forward by `span`.
    pub fn advance(&self, span: Duration) {
        let mut now = self.0.lock().expect("no code panics while it holds the clock");
        *now = Now { boot: now.boot + span, wall: now.wall + span };
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Now {
        *self.0.lock().expect("no code panics while it holds the clock")
    }
}

/// Which clock a [`BootTime`] belongs to: one boot of one machine, seen from one time namespace.
///
/// Two boot times may be compared only where this is equal (time_namespaces(7): a namespace may shift
/// `CLOCK_BOOTTIME`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BootId(String);

impl BootId {
    /// The identity of the running system's boot.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current() -> std::io::Result<Self> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let namespace = std::fs::read_link("/proc/self/ns/time").unwrap_or_default();
        Ok(Self(format!("{}/{}", boot.trim(), namespace.display())))
    }

    /// The identity that a record spells `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The identity as text, for a record.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_time_prints_as_rfc_3339() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(WallTime::new(secs, 0).to_string(), text);
        }
    }

    #[test]
    fn a_wall_time_survives_the_way_through_the_standard_library() {
        for time in [WallTime::new(0, 1), WallTime::new(-3, 999_999_999), WallTime::new(1 << 40, 5)] {
            assert_eq!(WallTime::from(SystemTime::from(time)), time);
        }
    }
}
