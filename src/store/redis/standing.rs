//! How it stands with the server: what is known of it, whether it is there, and who waits for it.
//!
//! A connection is used until the first doubt. From then on the server counts as gone, until the keeper
//! (`keeper.rs`) has made a new one and looked whether the data is what it was. Who asks meanwhile waits for that,
//! but not longer than one command may take since the server was gone: then everybody is told at once.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use super::handshake::Server;
use super::requests::{Generation, Patience, Requests};
use crate::clock::{BootTime, Now, WallTime};
use crate::store::StoreError;

/// What is known of the server's data.
#[derive(Debug)]
pub(super) struct Known {
    /// Its identity; `None` before the first look.
    pub(super) generation: Option<Generation>,
    /// The highest epoch seen.
    pub(super) epoch: u32,
    /// The number of the last event seen.
    pub(super) last_event: u64,
    /// The server's clock less ours, in nanoseconds.
    pub(super) offset: i128,
    /// The same when it was first measured.
    pub(super) first_offset: Option<i128>,
    /// The replication id of the server to which this host has said what it holds.
    pub(super) settled: Option<String>,
    /// Since when it is gone, and why.
    pub(super) gone: Option<Gone>,
    /// What it said of itself last.
    pub(super) server: Option<Server>,
    /// Whether nothing is asked any more.
    pub(super) is_closed: bool,
    /// Whether the keeper is to look at once.
    pub(super) is_called: bool,
    /// Whether a part of the data went, and the keeper is to have it mended.
    pub(super) is_damaged: bool,
    /// Why nothing is done in the namespace any more: it has moved, or is being filled.
    pub(super) closed: Option<String>,
}

/// That the server is gone.
#[derive(Clone, Debug)]
pub(super) struct Gone {
    pub(super) since: BootTime,
    pub(super) why: String,
}

impl Requests {
    /// What is known of the server, for as long as `act` takes and no longer.
    pub(super) fn known<T>(&self, act: impl FnOnce(&mut Known) -> T) -> T {
        act(&mut self.lock_known())
    }

    fn lock_known(&self) -> MutexGuard<'_, Known> {
        // Each field is whole at any time.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time on the server's clock, as far as it was last heard.
    pub(super) fn now(&self) -> Now {
        self.server_time(self.clock.now().boot)
    }

    pub(super) fn server_time(&self, boot: BootTime) -> Now {
        let offset = self.known(|known| known.offset);
        let nanos = u64::try_from(i128::from(boot.as_nanos()) + offset).unwrap_or_default();
        moment(BootTime::from_nanos(nanos))
    }

    /// Notes that the server's clock said `theirs` somewhere between two moments of ours.
    pub(super) fn compare_clocks(&self, theirs: BootTime, sent: BootTime, received: BootTime) {
        let step = self.known(|known| {
            let before = known.first_offset.map(|_| known.offset);
            known.offset = offset(before, theirs, sent, received);
            known.first_offset.get_or_insert(known.offset);
            before.map(|before| known.offset - before)
        });
        if let Some(step) = step.filter(|step| step.abs() > 500_000_000) {
            log::warn!("the clock of redis has stepped, and leases with it by_ms={}", step / 1_000_000);
        }
    }

    /// Ends everything that waits.
    pub(super) fn end(&self) {
        self.known(|known| known.is_closed = true);
        self.changed.notify_all();
    }

    /// Waits at most `span` for the keeper to be called; whether it is to go on.
    pub(super) fn rest(&self, span: Duration) -> bool {
        let known = self.lock_known();
        let wait = self.changed.wait_timeout_while(known, span, |known| !known.is_closed && !known.is_called);
        let (mut known, _) = wait.unwrap_or_else(PoisonError::into_inner);
        known.is_called = false;
        !known.is_closed
    }

    /// Waits at most `span` for the server to come back, or for the end.
    pub(super) fn wait_for_server(&self, span: Duration) {
        let known = self.lock_known();
        let wait =
            self.changed.wait_timeout_while(known, span, |known| !known.is_closed && known.gone.is_some());
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits for `span`, or for the end.
    pub(super) fn rest_unless_closed(&self, span: Duration) {
        let known = self.lock_known();
        let wait = self.changed.wait_timeout_while(known, span, |known| !known.is_closed);
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }

    /// Lets the keeper look at once.
    pub(super) fn call_keeper(&self) {
        self.known(|known| known.is_called = true);
        self.changed.notify_all();
    }

    /// The server is gone, says a request.
    pub(super) fn lose(&self, why: &str) {
        self.note_gone(why);
        self.call_keeper();
    }

    /// The server is gone, says the keeper, or whoever calls it then.
    pub(super) fn note_gone(&self, why: &str) {
        let now = self.clock.now().boot;
        let is_new = self.known(|known| {
            let is_new = known.gone.is_none();
            let since = known.gone.as_ref().map_or(now, |gone| gone.since);
            known.gone = Some(Gone { since, why: why.to_owned() });
            is_new
        });
        if is_new {
            self.meters.outages.count();
            log::warn!("redis is gone: {why}");
        }
    }

    /// The server is back, and its data is what it was or has been settled, says the keeper.
    pub(super) fn regain(&self) {
        let was_gone = self.known(|known| known.gone.take());
        self.changed.notify_all();
        if let Some(gone) = was_gone {
            let span = self.clock.now().boot.since(gone.since);
            log::info!("redis is back after_ms={}", span.as_millis());
        }
    }

    /// Returns when the server is there, as far as anybody knows.
    pub(super) fn await_server(&self, deadline: BootTime, patience: Patience) -> Result<(), StoreError> {
        if patience == Patience::None {
            return Ok(());
        }
        let mut known = self.lock_known();
        loop {
            if known.is_closed {
                return Err(StoreError::Unavailable("lockfs is ending".to_owned()));
            }
            let Some(gone) = &known.gone else {
                return Ok(());
            };
            let last = deadline.min(gone.since + self.limit());
            let now = self.clock.now().boot;
            if now >= last {
                return Err(StoreError::Unavailable(gone.why.clone()));
            }
            let wait = self.changed.wait_timeout(known, last.since(now).min(Duration::from_secs(1)));
            known = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The server's clock less ours, in nanoseconds, where it said `theirs` somewhere between two moments of ours. What
/// was measured before stays where it can be right: a request that waited long says little of the clocks.
fn offset(before: Option<i128>, theirs: BootTime, sent: BootTime, received: BootTime) -> i128 {
    let nanos = |moment: BootTime| i128::from(moment.as_nanos());
    let (least, most) = (nanos(theirs) - nanos(received), nanos(theirs) - nanos(sent));
    match before {
        Some(before) if (least..=most).contains(&before) => before,
        _ => i128::midpoint(least, most),
    }
}

/// A moment on the server's clock, of which wall time and lease time are one.
pub(super) fn moment(boot: BootTime) -> Now {
    Now { boot, wall: WallTime::default() + boot.since(BootTime::default()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_waited_long_moves_no_clock() {
        let at = BootTime::from_nanos;
        assert_eq!(offset(None, at(1_000), at(100), at(120)), 890);
        // It was answered before it waited, or after that: neither is news.
        assert_eq!(offset(Some(890), at(1_900), at(1_000), at(5_000)), 890);
        assert_eq!(offset(Some(890), at(5_880), at(1_000), at(5_000)), 890);
        // The server's clock has stepped.
        assert_eq!(offset(Some(890), at(9_000), at(1_000), at(1_020)), 7_990);
    }
}
