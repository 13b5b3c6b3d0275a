//! The sessions whose life this host watches, and when each must be renewed. Pure: a tick is told the time
//! and who has died, and says what to do.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::clock::BootTime;
use crate::lock::{Job, SessionId, SessionKind, Ttl};

/// The sessions in this host's care.
#[derive(Debug, Default)]
pub struct Holders(HashMap<SessionId, Holder>);

#[derive(Debug)]
struct Holder {
    /// The job, while it is taken for alive.
    job: Option<Job>,
    /// Descriptors open on its locks and its directory.
    opens: u32,
    /// The shortest ttl among its locks, where it is known.
    ttl: Option<Ttl>,
    /// How many of its steps were seen: what was asked of the store before the last one is out of date.
    steps: u64,
    renewed: Renewed,
}

/// When a session was last renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Renewed {
    /// By a step of its own, since the last tick.
    ByItself,
    /// By us, at this moment.
    At(BootTime),
    /// Unknown: it is due.
    LongAgo,
}

/// What a tick wants done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chores {
    /// To be renewed now.
    pub(super) renew: Vec<SessionId>,
    /// Their jobs have ended.
    pub(super) ended: Vec<(SessionId, Job)>,
}

impl Holders {
    /// Takes a session into care, or notes that it did something.
    pub(super) fn watch(&mut self, id: &SessionId, kind: &SessionKind) {
        let job = match kind {
            SessionKind::Job(job) => Some(job),
            SessionKind::Named | SessionKind::Unseen => None,
        };
        let holder = self.0.entry(id.clone()).or_insert_with(|| Holder {
            job: job.cloned(),
            opens: 0,
            ttl: None,
            steps: 0,
            renewed: Renewed::ByItself,
        });
        holder.ttl = None;
        holder.steps += 1;
    }

    /// One more descriptor is open for a session: on a lock of its, or on its directory.
    pub(super) fn opened(&mut self, id: &SessionId) {
        if !self.0.contains_key(id) {
            self.watch(id, &SessionKind::Named);
        }
        if let Some(holder) = self.0.get_mut(id) {
            holder.opens += 1;
            holder.renewed = Renewed::LongAgo;
        }
    }

    /// One descriptor less is open.
    pub(super) fn closed(&mut self, id: &SessionId) {
        if let Some(holder) = self.0.get_mut(id) {
            holder.opens = holder.opens.saturating_sub(1);
        }
    }

    /// Whether there is nobody to look after.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The jobs whose life is to be looked at.
    pub(super) fn jobs(&self) -> Vec<(SessionId, Job)> {
        self.0.iter().filter_map(|(id, holder)| Some((id.clone(), holder.job.clone()?))).collect()
    }

    /// The sessions of which the shortest ttl is not known, each with a number to hand to [`Self::learn`].
    pub(super) fn unknown(&self) -> Vec<(SessionId, u64)> {
        let unknown = self.0.iter().filter(|(_, holder)| holder.ttl.is_none());
        unknown.map(|(id, holder)| (id.clone(), holder.steps)).collect()
    }

    /// What the store said of a session: its shortest ttl, or that it has gone. Without effect where the
    /// session has made a step since it was asked for.
    pub(super) fn learn(&mut self, id: &SessionId, steps: u64, ttl: Option<Ttl>) {
        let Some(holder) = self.0.get_mut(id).filter(|holder| holder.steps == steps) else {
            return;
        };
        match ttl {
            None if holder.opens == 0 => drop(self.0.remove(id)),
            // It has nothing that could expire, until its next step.
            None => holder.ttl = Some(Ttl::Never),
            _ => holder.ttl = ttl,
        }
    }

    /// Decides for every session in care, of whose jobs `dead` have ended. `period` is how long it is until
    /// the next tick.
    pub(super) fn tick(&mut self, now: BootTime, period: Duration, dead: &HashSet<SessionId>) -> Chores {
        let mut chores = Chores::default();
        self.0.retain(|id, holder| {
            if let Some(job) = holder.job.take_if(|_| dead.contains(id)) {
                chores.ended.push((id.clone(), job));
            }
            if holder.job.is_none() && holder.opens == 0 {
                // Nothing here keeps it alive: its deadlines run, and its next step brings it back.
                return false;
            }
            let Some(ttl) = holder.ttl else {
                return true;
            };
            let due = match (holder.renewed, ttl.span()) {
                (_, None) => false,
                (Renewed::ByItself, _) => {
                    holder.renewed = Renewed::At(now);
                    false
                }
                (Renewed::LongAgo, _) => true,
                // A clock that has gone back may go forward again, and count all that time against the holder.
                (Renewed::At(then), _) if then > now + period => true,
                (Renewed::At(then), Some(span)) => now.since(then) + period >= span / 3,
            };
            if due {
                holder.renewed = Renewed::At(now);
                // Asked for again before the next: locks may have come and gone without a word to us.
                holder.ttl = None;
                chores.renew.push(id.clone());
            }
            true
        });
        chores
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::BootId;

    const PERIOD: Duration = Duration::from_millis(250);

    fn id(name: &str) -> SessionId {
        SessionId::parse(name.as_bytes()).expect("a session name")
    }

    fn job(pgid: u32) -> SessionKind {
        SessionKind::Job(Job { pgid, start: 1, boot: BootId::new("boot") })
    }

    fn at(millis: u64) -> BootTime {
        BootTime::from_nanos(millis * 1_000_000)
    }

    fn know(holders: &mut Holders, secs: u64) {
        for (id, steps) in holders.unknown() {
            holders.learn(&id, steps, Some(Ttl::For(Duration::from_secs(secs))));
        }
    }

    #[test]
    fn a_living_job_is_renewed_about_every_third_of_its_ttl() {
        let mut holders = Holders::default();
        holders.watch(&id("a"), &job(7));
        let mut renewals = Vec::new();
        for tick in 0..400 {
            know(&mut holders, 30);
            let chores = holders.tick(at(tick * 250), PERIOD, &HashSet::new());
            renewals.extend(chores.renew.iter().map(|_| tick * 250));
        }
        assert_eq!(renewals, [9_750, 19_500, 29_250, 39_000, 48_750, 58_500, 68_250, 78_000, 87_750, 97_500]);
    }

    #[test]
    fn a_clock_that_goes_back_has_everybody_renewed_at_once() {
        let mut holders = Holders::default();
        holders.watch(&id("a"), &job(7));
        know(&mut holders, 300);
        assert_eq!(holders.tick(at(600_000), PERIOD, &HashSet::new()), Chores::default());
        assert_eq!(holders.tick(at(599_900), PERIOD, &HashSet::new()), Chores::default());
        assert_eq!(holders.tick(at(500_000), PERIOD, &HashSet::new()).renew.len(), 1);
        know(&mut holders, 300);
        assert_eq!(holders.tick(at(500_250), PERIOD, &HashSet::new()), Chores::default());
    }

    #[test]
    fn an_ended_job_is_told_once_and_not_renewed() {
        let mut holders = Holders::default();
        holders.watch(&id("a"), &job(7));
        know(&mut holders, 1);
        let dead = HashSet::from([id("a")]);
        assert_eq!(holders.tick(at(0), PERIOD, &dead).ended.len(), 1);
        assert!(holders.is_empty());
    }

    #[test]
    fn an_open_descriptor_keeps_an_ended_job_and_a_named_session_renewed() {
        let mut holders = Holders::default();
        holders.watch(&id("a"), &job(7));
        holders.opened(&id("a"));
        holders.opened(&id("named"));
        know(&mut holders, 3);
        let dead = HashSet::from([id("a")]);
        assert_eq!(holders.tick(at(0), PERIOD, &dead).renew.len(), 2);
        know(&mut holders, 3);
        assert_eq!(holders.tick(at(1_000), PERIOD, &HashSet::new()).renew.len(), 2);
        holders.closed(&id("a"));
        holders.closed(&id("named"));
        holders.tick(at(2_000), PERIOD, &HashSet::new());
        assert!(holders.is_empty());
    }

    #[test]
    fn an_answer_from_before_a_step_is_not_believed() {
        let mut holders = Holders::default();
        holders.watch(&id("a"), &job(7));
        let asked = holders.unknown();
        holders.watch(&id("a"), &job(7));
        holders.learn(&asked[0].0, asked[0].1, None);
        assert!(!holders.is_empty(), "its new lock would not be renewed");
    }
}
