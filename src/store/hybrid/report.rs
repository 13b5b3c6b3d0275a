//! What the pair says of itself, and of each of the two. Nobody is asked.

use super::Pair;
use super::state::{Grants, State};
use crate::store::{Fact, Health, LockStore, State as Condition, Value};

impl Pair {
    pub(super) fn report(&self) -> Health {
        let there = self.redis.health();
        let here = self.mirror.health();
        let pulse = self.redis.pulse();
        let now = self.system.now().boot;
        let (state, grants, since, heard, is_synced, tally) = self.standing(|standing| {
            let machine = &standing.machine;
            let grants = standing.turn().grants;
            (machine.state(), grants, machine.since(), machine.heard(), standing.is_synced, standing.tally)
        });
        let is_alone = !matches!(state, State::Cluster | State::Doubt);
        let mode = match state {
            State::Cluster => "cluster",
            State::Doubt => "doubt",
            State::Alone => "alone",
            State::Returning(_) => "returning",
            State::Rejoining => "rejoining",
        };
        let grants = match grants {
            Grants::There => "cluster".to_owned(),
            Grants::Here => "host".to_owned(),
            Grants::Nowhere(why) => format!("none: {why}"),
            Grants::Soon => "soon".to_owned(),
        };
        let condition = match (&here.state, &there.state) {
            (Condition::Failed(why), _) => Condition::Failed(format!("the mirror: {why}")),
            (_, Condition::Failed(why)) => Condition::Failed(why.clone()),
            _ if is_alone => Condition::Degraded(format!(
                "this host stands alone since {}s: {}",
                now.since(since).as_secs(),
                pulse.gone.as_deref().unwrap_or("redis is back, and is soon brought what was done"),
            )),
            (_, state) => state.clone(),
        };
        let alone = self.mirror.read(|table, now| table.granted_alone(now).len() as u64).unwrap_or_default();
        let owed = self.owed.len() as u64;
        let number = |value: u64| Value::Number(value);
        let mut facts = vec![
            Fact::text("mode", mode),
            Fact::text("grants", grants),
            Fact::text("on_outage", self.policy.to_string()),
            Fact::passing("mode_since", format!("{}s", now.since(since).as_secs())),
            Fact::passing("redis_heard", format!("{}ms ago", now.since(heard).as_millis())),
            Fact::text("redis_state", there.state.as_str()),
            Fact::text("leveldb_state", here.state.as_str()),
        ];
        if let Some(why) = there.state.trouble() {
            facts.push(Fact::passing("redis_trouble", why));
        }
        let measured = [
            ("alone", number(is_alone.into()), "hybrid_alone", "Whether this host decides by itself."),
            (
                "mirrored",
                number(is_synced.into()),
                "hybrid_mirrored",
                "Whether the mirror has all that Redis has.",
            ),
            (
                "mirror_locks",
                number(here.counts.map_or(0, |counts| counts.locks)),
                "hybrid_mirror_locks",
                "Locks and directories in the mirror.",
            ),
            ("host_locks", number(alone), "hybrid_host_locks", "Locks that this host granted by itself."),
            ("owed", number(owed), "hybrid_owed", "Releases that Redis has still to hear of."),
            (
                "times_alone",
                Value::Count(tally.outages),
                "hybrid_outages_total",
                "How often this host stood alone.",
            ),
            (
                "rejoins",
                Value::Count(tally.rejoins),
                "hybrid_rejoins_total",
                "How often all was brought back to Redis.",
            ),
            (
                "promoted",
                Value::Count(tally.promoted),
                "hybrid_promoted_total",
                "Locks of this host alone that Redis gave.",
            ),
            (
                "lost_at_rejoin",
                Value::Count(tally.lost),
                "hybrid_lost_total",
                "Locks of this host alone that another had from Redis.",
            ),
            (
                "let_go_late",
                Value::Count(tally.let_go),
                "hybrid_let_go_total",
                "Releases that Redis heard of late.",
            ),
        ];
        facts.extend(measured.map(|(key, value, name, help)| Fact::measured(key, value, name, help)));
        facts.extend(there.facts);
        facts.extend(here.facts);
        let counts = if is_alone { here.counts } else { there.counts };
        let scope = if is_alone { "host" } else { "cluster" };
        Health { backend: "hybrid", scope, state: condition, counts, facts }
    }
}
