//! The search for a history that breaks a claim, and the shortest one that still does.
//!
//! `LOCKFS_CASES` says how many histories are tried, `LOCKFS_SEED` from which seed on; with the seed that a
//! failure prints, and one case, it comes again.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::world::{Act, Dice};

/// How long a history is.
const ACTS: usize = 60;

/// How a claim judges a history.
pub(crate) type Verdict = Result<(), String>;

fn from_environment(key: &str) -> Option<u64> {
    let text = std::env::var(key).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{key}={text} is no number")))
}

/// Judges `cases` random histories by `claim`.
///
/// # Panics
/// Where one breaks it: with the seed, what is wrong, and the shortest history found that breaks it too.
pub(crate) fn every_history(cases: u64, claim: impl Fn(&[Act]) -> Verdict) {
    every_history_from(1, cases, claim);
}

/// The same, of those that begin with the seed `first`: so two tests share them.
pub(crate) fn every_history_from(first: u64, cases: u64, claim: impl Fn(&[Act]) -> Verdict) {
    let first = from_environment("LOCKFS_SEED").unwrap_or(first);
    let cases = from_environment("LOCKFS_CASES").unwrap_or(cases);
    for seed in first..first + cases {
        let history = Dice::new(seed).history(ACTS);
        if quietly(&claim, &history).is_err() {
            let shortest = shrink(history, |acts| quietly(&claim, acts).is_err());
            let wrong = quietly(&claim, &shortest).expect_err("it broke the claim a moment ago");
            let acts: Vec<String> = shortest.iter().map(|act| format!("    {act:?}")).collect();
            panic!("LOCKFS_SEED={seed} LOCKFS_CASES=1: {wrong}\nafter\n{}\n", acts.join("\n"));
        }
    }
}

/// Takes out what is not needed: first large pieces, then single acts, until nothing more can go.
fn shrink(mut acts: Vec<Act>, breaks: impl Fn(&[Act]) -> bool) -> Vec<Act> {
    let mut piece = acts.len().div_ceil(2);
    while piece > 0 {
        let mut start = 0;
        let before = acts.len();
        while start < acts.len() {
            let mut fewer = acts.clone();
            fewer.drain(start..(start + piece).min(acts.len()));
            if breaks(&fewer) {
                acts = fewer;
            } else {
                start += piece;
            }
        }
        if piece > 1 {
            piece /= 2;
        } else if acts.len() == before {
            break;
        }
    }
    acts
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Judges a history; a panic is a verdict too, and is not printed.
fn quietly(claim: impl Fn(&[Act]) -> Verdict, acts: &[Act]) -> Verdict {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                loud(info);
            }
        }));
    });
    QUIET.set(true);
    let verdict = catch_unwind(AssertUnwindSafe(|| claim(acts)));
    QUIET.set(false);
    verdict.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
    })
}

#[test]
fn a_history_is_shrunk_to_what_breaks_the_claim() {
    let history = Dice::new(3).history(ACTS);
    let sweeps = |acts: &[Act]| acts.iter().filter(|act| matches!(act, Act::Wait(_))).count() >= 2;
    assert!(sweeps(&history));
    assert_eq!(shrink(history, sweeps).len(), 2);
}
