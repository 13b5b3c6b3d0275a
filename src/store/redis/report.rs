//! What the store says of itself, of what it knows: nobody is asked, so that `status` and the metrics answer at
//! once while Redis does not.

use super::RedisStore;
use crate::store::{Fact, Health, State, Value};

impl RedisStore {
    pub(super) fn report(&self) -> Health {
        let mut counts = self.keeper.counts();
        if let Some(counts) = &mut counts {
            let (orphans, waits) = self.copies(|copies| copies.orphans());
            counts.locks += orphans;
            counts.waits += waits;
        }
        let facts = [self.of_the_server(), self.of_the_connections(), self.of_the_namespace()].concat();
        Health { backend: "redis", scope: "cluster", state: self.condition(), counts, facts }
    }

    fn condition(&self) -> State {
        if let Some(why) = self.requests.known(|known| known.closed.clone()) {
            return State::Failed(why);
        }
        match (self.requests.known(|known| known.gone.clone()), self.keeper.trouble()) {
            (_, Some(why)) => State::Failed(why),
            (Some(gone), None) => {
                let span = self.requests.clock.now().boot.since(gone.since);
                State::Unreachable(format!("redis is gone since {}s: {}", span.as_secs(), gone.why))
            }
            (None, None) => State::Ok,
        }
    }

    fn of_the_server(&self) -> Vec<Fact> {
        let (is_there, server) = self.requests.known(|known| (known.gone.is_none(), known.server.clone()));
        let mut facts = vec![
            Fact::measured("redis_up", Value::Number(is_there.into()), "redis_up", "Whether Redis answers."),
            Fact::text("redis_url", self.requests.primary.endpoint().describe()),
        ];
        let Some(server) = server else {
            return facts;
        };
        let (major, minor, patch) = server.version;
        let appendonly = match server.appendonly {
            None => "unknown",
            Some(true) => "yes",
            Some(false) => "no",
        };
        facts.extend([
            Fact::text("redis_address", server.address.to_string()),
            Fact::text("redis_version", format!("{major}.{minor}.{patch}")),
            Fact::text("redis_role", server.role),
            Fact::text("redis_appendonly", appendonly),
            Fact::measured(
                "redis_replicas",
                Value::Number(self.keeper.replicas().unwrap_or(server.replicas).into()),
                "redis_replicas",
                "Replicas that are connected to the primary.",
            ),
        ]);
        facts
    }

    fn of_the_connections(&self) -> Vec<Fact> {
        let (meters, count) = (&self.requests.meters, |count: u64| Value::Count(count));
        let mut facts = Vec::new();
        if let Some((median, p99)) = meters.percentiles() {
            let trips = [("round_trip_p50", "0.5", median), ("round_trip_p99", "0.99", p99)];
            facts.extend(trips.map(|(key, part, span)| {
                let name = "redis_round_trip_seconds";
                Fact::measured(key, Value::Quantile(part, span), name, "How long Redis takes to answer.")
            }));
        }
        facts.extend([
            Fact::measured(
                "connections_idle",
                Value::Number(self.requests.idle() as u64),
                "redis_connections_idle",
                "Connections that wait to be used.",
            ),
            Fact::measured(
                "connections_made",
                count(meters.connected.get()),
                "redis_connections_made_total",
                "Connections that were made.",
            ),
            Fact::measured(
                "commands",
                count(meters.commands.get()),
                "redis_commands_total",
                "Commands that were answered.",
            ),
            Fact::measured(
                "commands_repeated",
                count(meters.repeated.get()),
                "redis_commands_repeated_total",
                "Commands that were sent again.",
            ),
            Fact::measured(
                "commands_unknown",
                count(meters.unknown.get()),
                "redis_commands_unknown_total",
                "Commands of which nobody knew the outcome when the time was up.",
            ),
            Fact::measured(
                "outages",
                count(meters.outages.get()),
                "redis_outages_total",
                "How often Redis was gone.",
            ),
        ]);
        facts
    }

    fn of_the_namespace(&self) -> Vec<Fact> {
        let (last_event, epoch, drift) = self.requests.known(|known| {
            let drift = known.offset - known.first_offset.unwrap_or(known.offset);
            (known.last_event, known.epoch, drift)
        });
        let (ours, theirs) = (self.requests.clock.now().wall, self.requests.now().wall);
        let offset = theirs.since(ours).as_secs_f64() - ours.since(theirs).as_secs_f64();
        #[expect(
            clippy::cast_precision_loss,
            reason = "a difference of clocks that is shown in milliseconds"
        )]
        let drift = drift as f64 / 1e9;
        let meters = &self.requests.meters;
        vec![
            Fact::measured(
                "clock_offset",
                Value::Seconds(offset),
                "redis_clock_offset_seconds",
                "The clock of Redis less that of this host.",
            ),
            Fact::measured(
                "clock_drift",
                Value::Seconds(drift),
                "redis_clock_drift_seconds",
                "How far the clock of Redis has moved since the start, beyond the time that has passed.",
            ),
            Fact::measured(
                "events_lag",
                Value::Number(last_event.saturating_sub(self.heard.last())),
                "events_lag",
                "Events that are known to have happened and were not heard yet.",
            ),
            Fact::measured(
                "hosts",
                Value::Number(self.keeper.hosts().len() as u64),
                "hosts",
                "Hosts that have the namespace mounted, or had within a day and did not unmount it.",
            ),
            Fact::measured(
                "epoch",
                Value::Number(epoch.into()),
                "redis_epoch",
                "Rises whenever Redis may have lost something.",
            ),
            Fact::measured(
                "acks",
                Value::Number(self.acks.count().into()),
                "redis_acks",
                "Replicas that must have a grant.",
            ),
            Fact::measured(
                "acquires_undone",
                Value::Count(meters.undone.get()),
                "redis_acquires_undone_total",
                "Acquires of which nobody knew the outcome, and that were undone.",
            ),
            Fact::measured(
                "acquires_to_undo",
                Value::Number(self.requests.undo.len() as u64),
                "redis_acquires_to_undo",
                "Acquires that are still to be undone.",
            ),
            Fact::measured(
                "reasserted",
                Value::Count(meters.reasserted.get()),
                "redis_reasserted_total",
                "Locks that Redis had lost and got back from this host.",
            ),
        ]
    }
}
