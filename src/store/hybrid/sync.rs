//! How the mirror is told what Redis has.

use std::collections::HashSet;
use std::sync::PoisonError;
use std::time::Duration;

use super::Pair;
use crate::lock::{Ino, SessionId};
use crate::store::StoreError;
use crate::table::Told;

/// How often the mirror is told what others did: each time costs the server a look.
const PERIOD: Duration = Duration::from_millis(200);

/// How often what does not fit is asked for again.
const ROUNDS: usize = 4;

impl Pair {
    /// Tells the mirror what this host's own steps changed.
    pub(super) fn tell_own(&self) {
        if !self.redis.has_own() {
            return;
        }
        let _telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        let told = self.redis.drain_own();
        if let Err(error) = self.mirror.amend(|table, now| table.reflect(now, told)) {
            log::error!("the mirror does not keep what redis says: {error}");
        }
    }

    /// Follows Redis while that decides.
    pub(super) fn follow(&self) {
        self.tell_own();
        let now = self.system.now().boot;
        let (is_synced, is_due) = self.standing(|standing| {
            let is_due = now.since(standing.told) >= PERIOD;
            if is_due {
                standing.told = now;
            }
            (standing.is_synced, is_due)
        });
        if !is_due {
            return;
        }
        let outcome = match is_synced && !self.redis.has_missed() {
            true => self.tell_foreign(self.redis.drain_foreign()),
            false => self.tell_all(),
        };
        let is_said = self.standing(|standing| {
            let is_failure = matches!(outcome, Err(StoreError::Failed(_)));
            standing.is_synced &= outcome.is_ok();
            std::mem::replace(&mut standing.is_in_trouble, is_failure)
        });
        match outcome {
            Err(error @ StoreError::Failed(_)) if !is_said => {
                log::warn!("the mirror can't be told what redis has, and grants nothing by auto: {error}");
            }
            Err(error) => log::debug!("the mirror can't follow for a moment: {error}"),
            Ok(()) => {}
        }
    }

    /// Tells the mirror what Redis has of some objects, and of what that leads to.
    fn tell_foreign(&self, objects: Vec<Ino>) -> Result<(), StoreError> {
        let mut doubtful = objects;
        for _ in 0..ROUNDS {
            if doubtful.is_empty() {
                return Ok(());
            }
            let (at, told) = self.redis.tell(&doubtful)?;
            let _telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
            let told = self.redis.news(at, told);
            doubtful = self.mirror.amend(|table, now| table.reflect(now, told))?;
        }
        Ok(())
    }

    /// Tells the mirror all that Redis has.
    fn tell_all(&self) -> Result<(), StoreError> {
        self.redis.drain_foreign();
        let mut doubtful = Vec::new();
        let (mut objects, mut sessions) = (HashSet::<Ino>::new(), HashSet::<SessionId>::new());
        for kind in [&b"s"[..], b"o"] {
            let mut cursor = b"0".to_vec();
            loop {
                let (at, next, told) = self.redis.dump(kind, &cursor)?;
                for one in &told {
                    match one {
                        Told::Object(record, _) => drop(objects.insert(record.ino)),
                        Told::Session(session) => drop(sessions.insert(session.id.clone())),
                        Told::Gone(_) | Told::Over(_) => {}
                    }
                }
                let _telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
                let told = self.redis.news(at, told);
                doubtful.extend(self.mirror.amend(|table, now| table.reflect(now, told))?);
                if next == b"0" {
                    break;
                }
                cursor = next;
            }
        }
        // What came meanwhile is not in it.
        let absent = {
            let _telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
            self.mirror.read(|table, _| table.contents().0)?
        };
        let is_absent = |ino: &Ino| *ino != Ino::ROOT && !ino.is_of_host() && !objects.contains(ino);
        doubtful.extend(absent.into_iter().filter(is_absent));
        doubtful.sort_unstable();
        doubtful.dedup();
        self.tell_foreign(doubtful)?;
        {
            let _telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
            self.mirror.amend(|table, now| (table.forget_sessions_but(now, &self.host, &sessions), ()))?;
        }
        self.standing(|standing| standing.is_synced = true);
        Ok(())
    }
}
