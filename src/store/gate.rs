//! The gate before a table: whether steps are carried out while a migration copies it, and what they change.
//!
//! Twin of `moves` in `redis/law/*.lua`: changes are noted and the table stands still as leases, which run out by
//! themselves; it is closed until somebody opens it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::clock::BootTime;
use crate::table::Change;

/// The gate; open, unless somebody said otherwise.
#[derive(Debug, Default)]
pub(super) struct Gate {
    noted: Option<Noted>,
    /// Until when nothing changes.
    frozen: Option<BootTime>,
    /// Why nothing is done any more.
    closed: Option<String>,
}

/// What has changed since it was asked for.
#[derive(Debug)]
struct Noted {
    changes: BTreeSet<Change>,
    until: BootTime,
}

/// Whether a step may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Passing {
    /// It may.
    Now,
    /// Not before then.
    After(Duration),
    /// Never; says why.
    Never(String),
}

impl Gate {
    /// A gate that is closed for that reason.
    pub(super) fn passing(&self, now: BootTime) -> Passing {
        match (&self.closed, self.frozen) {
            (Some(why), _) => Passing::Never(why.clone()),
            (None, Some(until)) if until > now => Passing::After(until.since(now)),
            _ => Passing::Now,
        }
    }

    /// Why nothing is done any more.
    pub(super) fn closed(&self) -> Option<&str> {
        self.closed.as_deref()
    }

    /// Notes what a step changed. What mounts have is not moved.
    pub(super) fn note(&mut self, changes: &[Change], now: BootTime) {
        if let Some(noted) = self.noted.as_mut().filter(|noted| noted.until > now) {
            let is_moved = |change: &&Change| matches!(change, Change::Object(_) | Change::Session(_));
            noted.changes.extend(changes.iter().filter(is_moved).cloned());
        } else {
            self.noted = None;
        }
    }

    /// Notes changes from now on, for as long.
    pub(super) fn track(&mut self, now: BootTime, lease: Duration) {
        *self = Self { closed: self.closed.take(), ..Self::default() };
        self.noted = Some(Noted { changes: BTreeSet::new(), until: now + lease });
    }

    /// Notes changes for so long from now on; whether none was missed.
    pub(super) fn keep(&mut self, now: BootTime, lease: Duration) -> bool {
        let noted = self.noted.as_mut().filter(|noted| noted.until > now);
        noted.map(|noted| noted.until = now + lease).is_some()
    }

    /// What has changed since the last time; `None` where not all of it was noted. It is noted for as long again.
    pub(super) fn changes(&mut self, now: BootTime, lease: Duration) -> Option<Vec<Change>> {
        let noted = self.noted.as_mut().filter(|noted| noted.until > now)?;
        noted.until = now + lease;
        Some(std::mem::take(&mut noted.changes).into_iter().collect())
    }

    /// Lets nothing change for so long; whether all changes are noted until then.
    pub(super) fn freeze(&mut self, now: BootTime, lease: Duration) -> bool {
        let is_tracked = self.noted.as_ref().is_some_and(|noted| noted.until > now);
        if is_tracked {
            self.frozen = Some(now + lease);
        }
        is_tracked
    }

    /// Closes what has been frozen until now, and of which all changes were asked for; whether it was so.
    pub(super) fn close(&mut self, now: BootTime, why: String) -> bool {
        let is_frozen = self.frozen.is_some_and(|until| until > now);
        let is_known = self.noted.as_ref().is_some_and(|noted| noted.changes.is_empty());
        if is_frozen && is_known {
            *self = Self { closed: Some(why), ..Self::default() };
        }
        is_frozen && is_known
    }

    /// Lets everything pass, and notes nothing; what is closed stays so.
    pub(super) fn thaw(&mut self) {
        *self = Self { closed: self.closed.take(), ..Self::default() };
    }

    /// Opens what is closed, too.
    pub(super) fn open(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::Ino;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(secs: u64) -> BootTime {
        BootTime::default() + Duration::from_secs(secs)
    }

    #[test]
    fn what_was_frozen_goes_on_by_itself_and_can_not_be_closed_then() {
        let mut gate = Gate::default();
        gate.track(at(0), SECOND * 30);
        assert!(gate.freeze(at(1), SECOND));
        assert_eq!(gate.passing(at(1)), Passing::After(SECOND));
        assert_eq!(gate.passing(at(2)), Passing::Now);
        assert!(!gate.close(at(2), "moved".to_owned()));
        assert_eq!(gate.passing(at(2)), Passing::Now);
    }

    #[test]
    fn what_changed_and_was_not_asked_for_keeps_it_open() {
        let mut gate = Gate::default();
        gate.track(at(0), SECOND * 30);
        gate.note(&[Change::Object(Ino::from_u64(7))], at(0));
        assert!(gate.freeze(at(1), SECOND));
        assert!(!gate.close(at(1), "moved".to_owned()));
        assert_eq!(gate.changes(at(1), SECOND), Some(vec![Change::Object(Ino::from_u64(7))]));
        assert!(gate.close(at(1), "moved".to_owned()));
        assert_eq!(gate.passing(at(9)), Passing::Never("moved".to_owned()));
        gate.thaw();
        assert_eq!(gate.closed(), Some("moved"));
        gate.open();
        assert_eq!(gate.passing(at(9)), Passing::Now);
    }

    #[test]
    fn changes_that_nobody_asked_for_in_time_are_not_known() {
        let mut gate = Gate::default();
        assert_eq!(gate.changes(at(0), SECOND), None);
        assert!(!gate.freeze(at(0), SECOND));
        gate.track(at(0), SECOND);
        assert!(gate.keep(at(0), SECOND * 3) && gate.keep(at(2), SECOND) && !gate.keep(at(3), SECOND));
        assert_eq!(gate.changes(at(3), SECOND), None);
    }
}
