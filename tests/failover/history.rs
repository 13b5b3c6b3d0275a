//! What hosts did, and whether it may have happened so.

use std::collections::{BTreeMap, HashMap};
use std::thread;
use std::time::{Duration, Instant};

use lockfs::lock::Token;
use lockfs::store::StoreError;
use lockfs::table::Refusal;

use crate::world::Host;

/// One acquire that was granted, and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) session: String,
    pub(crate) name: String,
    pub(crate) token: Token,
    pub(crate) asked: Instant,
    pub(crate) told: Instant,
    /// When its holder began to release it.
    pub(crate) let_go: Option<Instant>,
    /// What the release said, where it was said.
    pub(crate) end: End,
}

/// How a grant ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It has not.
    Held,
    /// Its holder released it.
    Released,
    /// When its holder wanted to release it, it was gone.
    Lost,
}

/// All that some sessions did.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) grants: Vec<Grant>,
    /// Acquires that were refused, as the name was held.
    pub(crate) refused: usize,
    /// Acquires that certainly did not happen, as the store could not be asked.
    pub(crate) failed: usize,
    /// Names whose acquire nobody knows the outcome of: they are undone.
    pub(crate) unknown: Vec<(String, String)>,
}

impl History {
    /// Asks for a name, and writes down what came of it. Returns whether it was granted.
    pub(crate) fn acquire(&mut self, host: &Host, session: &str, name: &str) -> bool {
        let asked = Instant::now();
        let answer = host.acquire_for(session, name);
        let told = Instant::now();
        match answer {
            Ok(Ok(token)) => {
                let (session, name) = (session.to_owned(), name.to_owned());
                self.grants.push(Grant { session, name, token, asked, told, let_go: None, end: End::Held });
                return true;
            }
            Ok(Err(Refusal::Exists)) => self.refused += 1,
            Err(StoreError::Timeout(_)) => self.unknown.push((session.to_owned(), name.to_owned())),
            Err(StoreError::Unavailable(_)) => {
                self.failed += 1;
                // It fails at once while Redis is gone: whoever tries again leaves others the processor.
                thread::sleep(Duration::from_millis(2));
            }
            other => panic!("{name} of {session}: {other:?}"),
        }
        false
    }

    /// Releases the last grant, however long that takes.
    pub(crate) fn release_last(&mut self, host: &Host) {
        let grant = self.grants.last_mut().expect("there is one");
        grant.let_go = Some(Instant::now());
        let mut is_unknown = false;
        grant.end = loop {
            match host.release_for(&grant.session, &grant.name) {
                Ok(Ok(_)) => break End::Released,
                // What an earlier try did, of which nobody knew.
                Ok(Err(Refusal::NoEntry | Refusal::Held(_))) if is_unknown => break End::Released,
                Ok(Err(Refusal::NoEntry | Refusal::Held(_) | Refusal::Lost)) => break End::Lost,
                Err(StoreError::Timeout(_)) => is_unknown = true,
                Err(StoreError::Unavailable(_)) => thread::sleep(Duration::from_millis(2)),
                other => panic!("{} of {}: {other:?}", grant.name, grant.session),
            }
        };
    }

    pub(crate) fn merge(histories: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Self::default();
        for history in histories {
            all.grants.extend(history.grants);
            all.unknown.extend(history.unknown);
            all.refused += history.refused;
            all.failed += history.failed;
        }
        all
    }

    /// The tokens that were told more than once.
    pub(crate) fn repeated_tokens(&self) -> Vec<Token> {
        let mut tokens: Vec<_> = self.grants.iter().map(|grant| grant.token).collect();
        tokens.sort_unstable();
        tokens.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect()
    }

    /// Pairs of grants of a name of which the later has the lower token.
    pub(crate) fn falling_tokens(&self) -> Vec<(Grant, Grant)> {
        self.neighbours(|one, next| one.told < next.asked && one.token >= next.token)
    }

    /// Pairs of grants of a name that were held at once: from when one was told to when its release began.
    pub(crate) fn overlaps(&self) -> Vec<(Grant, Grant)> {
        self.neighbours(|one, next| {
            // One that its holder found lost was held for an unknown time: it is counted among the lost.
            let is_over = |grant: &Grant, by: &Grant| grant.let_go.is_some_and(|end| end <= by.told);
            one.end != End::Lost && next.end != End::Lost && !is_over(one, next) && !is_over(next, one)
        })
    }

    /// Pairs of grants of a name that neighbour in the order in which they were told.
    fn neighbours(&self, is_bad: impl Fn(&Grant, &Grant) -> bool) -> Vec<(Grant, Grant)> {
        let mut by_name: HashMap<&str, BTreeMap<(Instant, Token), &Grant>> = HashMap::new();
        for grant in &self.grants {
            by_name.entry(&grant.name).or_default().insert((grant.told, grant.token), grant);
        }
        let ordered = by_name.values().map(|grants| grants.values().copied().collect::<Vec<_>>());
        let pairs = ordered.flat_map(|grants| {
            let bad = grants.windows(2).filter(|pair| is_bad(pair[0], pair[1]));
            bad.map(|pair| (pair[0].clone(), pair[1].clone())).collect::<Vec<_>>()
        });
        pairs.collect()
    }
}
