//! Reading everything and judging it, before anything is written.
//!
//! Opening and `lockfs check` both begin here, and nothing here changes a byte on disk: a store that is refused is as it was.
//! [`judge`] is the whole decision, over what was read: which batches are there, and whether the tail, the tables and the
//! boot id allow them to end there. `tail.rs` has the table of what is allowed; everything else is damage.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::store::Durability;
use crate::store::level::error::{Flaw, LevelError};
use crate::store::level::frame::open_frame;
use crate::store::level::home::Home;
use crate::store::level::journal::{Change, End, Header, Segment};
use crate::store::level::scan;
use crate::store::level::tables::{self, Live, Meta, Record};
use crate::store::level::tail::{BootId, Tail, TailState};

/// A store that is sound.
#[derive(Debug)]
pub(crate) struct Verified {
    /// Every record, sorted by key.
    pub(crate) records: Vec<Record>,
    /// What of them is in the tables.
    pub(crate) live: Live,
    /// The tables' meta record.
    pub(crate) meta: Meta,
    /// What the tail file said.
    pub(crate) tail: TailState,
    /// Where the journal ends, and what is behind that.
    pub(crate) verdict: Verdict,
}

/// What [`judge`] finds a journal to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The last batch that is there.
    pub(crate) last: u64,
    /// The segments that hold batches, or could, each with its last batch.
    pub(crate) keep: Vec<(u64, u64)>,
    /// Segments with nothing in them that counts.
    pub(crate) discard: Vec<u64>,
    /// The last kept segment ends in bytes that were never acknowledged: cut it to this length.
    pub(crate) cut: Option<(u64, u64)>,
    /// At least this many acknowledged batches went with the power.
    pub(crate) lost: u64,
    /// The highest number that any segment has or had.
    pub(crate) newest: u64,
}

/// Reads and judges the store with id `store` in `home`.
pub(crate) fn verify(home: &Home, store: u64) -> Result<Verified, LevelError> {
    read_and_judge(home, store).map_err(|flaw| flaw.at(home.dir()))
}

fn read_and_judge(home: &Home, store: u64) -> Result<Verified, Flaw> {
    let tail = Tail::read(&home.tail())?;
    scan::check_tables(&home.tables())?;
    let tables::Contents { records, live, meta } = tables::read_all(&home.tables())?;
    if tail.store != store || meta.store != store {
        let which = if tail.store == store { "tables" } else { "tail" };
        return Err(Flaw::Damaged(format!("{which} belongs to another store than FORMAT")));
    }
    let segments: Result<Vec<Segment>, Flaw> =
        home.segments()?.into_iter().map(|number| Segment::read(home.dir(), number, store)).collect();
    let segments = segments?;
    let verdict = judge(&segments, &tail, meta.applied, meta.feeding, BootId::current())?;
    let fed = changes(&segments, &verdict, meta.applied + 1..=meta.feeding)?;
    let (found, expected) = (live.print_after(fed.into_iter()), meta.print);
    if found != expected {
        let (found, expected, differ) = (found.count, expected.count, found.count != expected.count);
        let how = if differ { "" } else { ", but not the same" };
        return Err(Flaw::Damaged(format!(
            "the tables hold {found} records where {expected} are expected{how}"
        )));
    }
    let records = merge(records, changes(&segments, &verdict, meta.applied + 1..=u64::MAX)?)?;
    Ok(Verified { records, live, meta, tail, verdict })
}

/// Decides which batches of the journal count, or what is wrong with it.
fn judge(
    segments: &[Segment],
    tail: &TailState,
    applied: u64,
    feeding: u64,
    boot: BootId,
) -> Result<Verdict, Flaw> {
    // Only here may acknowledged batches be missing, or pages in the middle: they were never promised to be on disk.
    let may_lose = !tail.clean && tail.durability == Durability::Process && !tail.boot.is_same(boot);
    if !segments.iter().any(|segment| segment.number == tail.segment) {
        return Err(Flaw::Damaged(format!("the file journal-{:08} is missing", tail.segment)));
    }

    let newest = segments.iter().map(|segment| segment.number).max().unwrap_or(0).max(tail.segment);
    let mut verdict = Verdict { last: applied, keep: vec![], discard: vec![], cut: None, lost: 0, newest };
    let mut expected = None;
    let mut broken: Option<&Segment> = None;
    let mut previous = None;
    for segment in segments {
        let before = previous.replace(segment.number);
        let name = format!("journal-{:08}", segment.number);
        if let (Some(header), Some(before)) = (segment.header, before)
            && header.before != before
        {
            return Err(Flaw::Damaged(format!("the file journal-{:08} is missing", header.before)));
        }
        if let Some(before) = broken {
            // Behind a break, only a segment that was never used may follow, or anything that a power cut mixed up.
            let is_unused =
                segment.header.is_none() && matches!(segment.end, End::Torn { good_follows: false });
            if !is_unused && !may_lose {
                return Err(Flaw::Damaged(format!(
                    "journal-{:08} ends badly, and {name} follows",
                    before.number
                )));
            }
            verdict.discard.push(segment.number);
            continue;
        }
        match segment.end {
            End::Whole => {}
            End::Bad => {
                return Err(Flaw::Damaged(format!("{name} has a bad record at byte {}", segment.good_len)));
            }
            End::Torn { good_follows } if good_follows && !may_lose => {
                let at = segment.good_len;
                return Err(Flaw::Damaged(format!(
                    "{name} has a bad record at byte {at} and good ones behind it"
                )));
            }
            End::Torn { .. } => broken = Some(segment),
        }
        let (Some(Header { first, .. }), Some(last)) = (segment.header, segment.last()) else {
            verdict.discard.push(segment.number);
            continue;
        };
        let is_next = expected.map_or(first <= applied + 1, |expected| first == expected);
        if !is_next {
            // A power cut may leave a segment with fewer records than it had, and yet the next one.
            if may_lose && expected.is_some_and(|expected| first > expected) {
                broken = Some(segment);
                verdict.discard.push(segment.number);
                continue;
            }
            let from = expected.unwrap_or(applied + 1);
            return Err(Flaw::Damaged(format!(
                "{name} begins with batch {first}, and batch {from} should be next"
            )));
        }
        expected = Some(last + 1);
        verdict.last = last;
        verdict.keep.push((segment.number, last));
        if segment.end != End::Whole {
            verdict.cut = Some((segment.number, segment.good_len as u64));
        }
    }

    let last = verdict.last;
    if last < feeding {
        return Err(Flaw::Damaged(format!(
            "the journal ends at batch {last}, and the tables have batch {feeding}"
        )));
    }
    if may_lose {
        verdict.lost = tail.last.saturating_sub(last);
    } else if last < tail.last {
        return Err(Flaw::Damaged(format!(
            "the journal was cut short: it ends at batch {last}, not at {}",
            tail.last
        )));
    } else if last > tail.last + u64::from(!tail.clean) || (tail.clean && verdict.cut.is_some()) {
        return Err(Flaw::Damaged(format!(
            "the journal goes on behind batch {}, where the tail ends",
            tail.last
        )));
    }
    Ok(verdict)
}

/// The last change of each key in some batches, a put as its frame.
fn changes<'a>(
    segments: &'a [Segment],
    verdict: &Verdict,
    numbers: RangeInclusive<u64>,
) -> Result<BTreeMap<&'a [u8], Option<&'a [u8]>>, Flaw> {
    let kept = segments.iter().filter(|segment| !verdict.discard.contains(&segment.number));
    let batches = kept.flat_map(Segment::batches).filter(|(number, _)| numbers.contains(number));
    batches.flat_map(|(_, batch)| batch).collect()
}

/// The records with the changes on top.
fn merge(records: Vec<Record>, changes: BTreeMap<&[u8], Option<&[u8]>>) -> Result<Vec<Record>, Flaw> {
    if changes.is_empty() {
        return Ok(records);
    }
    let mut merged = Vec::with_capacity(records.len() + changes.len());
    let put = |merged: &mut Vec<Record>, (key, frame): Change<'_>| -> Result<(), Flaw> {
        if let Some(frame) = frame {
            merged.push((key.to_vec(), open_frame(key, frame)?.to_vec()));
        }
        Ok(())
    };
    let mut changes = changes.into_iter().peekable();
    for record in records {
        while let Some(change) = changes.next_if(|(key, _)| *key < &record.0[..]) {
            put(&mut merged, change)?;
        }
        match changes.next_if(|(key, _)| *key == &record.0[..]) {
            Some(change) => put(&mut merged, change)?,
            None => merged.push(record),
        }
    }
    changes.try_for_each(|change| put(&mut merged, change))?;
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THIS_BOOT: BootId = BootId([1; 16]);
    const EARLIER_BOOT: BootId = BootId([2; 16]);

    /// Segment `number` behind segment `before`, with batches `first` to `last`.
    fn segment(number: u64, before: u64, first: u64, last: u64) -> Segment {
        let header = Some(Header { number, first, before });
        let payloads = vec![0..0; (last + 1 - first) as usize];
        Segment { number, header, payloads, good_len: 500, end: End::Whole, bytes: vec![] }
    }

    fn torn(segment: Segment, good_follows: bool) -> Segment {
        Segment { end: End::Torn { good_follows }, ..segment }
    }

    fn unused(number: u64) -> Segment {
        torn(Segment { header: None, payloads: vec![], good_len: 0, ..segment(number, 0, 1, 0) }, false)
    }

    fn tail(last: u64, segment: u64, boot: BootId) -> TailState {
        TailState { last, segment, store: 1, durability: Durability::Process, clean: false, boot }
    }

    /// The last batch and the lost ones, or what is wrong.
    fn judged(
        segments: &[Segment],
        tail: &TailState,
        applied: u64,
        feeding: u64,
    ) -> Result<(u64, u64), String> {
        let verdict = judge(segments, tail, applied, feeding, THIS_BOOT).map_err(|flaw| flaw.reason())?;
        Ok((verdict.last, verdict.lost))
    }

    #[track_caller]
    fn assert_refused(segments: &[Segment], tail: &TailState, applied: u64, feeding: u64, why: &str) {
        let refusal = judged(segments, tail, applied, feeding).unwrap_err();
        assert!(refusal.contains(why), "{refusal}");
    }

    #[test]
    fn within_a_boot_the_journal_ends_where_the_tail_says_or_one_batch_later() {
        let segments = [segment(4, 3, 10, 19), segment(5, 4, 20, 25), unused(6), unused(7)];
        for (last, is_right) in [(23, false), (24, true), (25, true), (26, false)] {
            let outcome = judged(&segments, &tail(last, 5, THIS_BOOT), 12, 15);
            assert_eq!(outcome.is_ok(), is_right, "{last}: {outcome:?}");
        }
        let closed = TailState { clean: true, ..tail(24, 5, THIS_BOOT) };
        assert_refused(&segments, &closed, 12, 15, "goes on behind batch 24");
    }

    #[test]
    fn an_unknown_boot_is_never_this_boot() {
        let state = tail(30, 5, BootId([0; 16]));
        let verdict = judge(&[segment(5, 4, 20, 25)], &state, 19, 19, BootId([0; 16])).unwrap();
        assert_eq!((verdict.last, verdict.lost), (25, 5));
    }

    #[test]
    fn a_missing_segment_is_damage_wherever_it_was_and_whatever_happened() {
        for boot in [THIS_BOOT, EARLIER_BOOT] {
            let state = tail(39, 6, boot);
            let all = || vec![segment(4, 3, 10, 19), segment(5, 4, 20, 29), segment(6, 5, 30, 39)];
            assert_eq!(judged(&all(), &state, 9, 9), Ok((39, 0)));
            for (missing, why) in [
                (0, "journal-00000005 begins with batch 20, and batch 10 should be next"),
                (1, "journal-00000005 is missing"),
                (2, "journal-00000006 is missing"),
            ] {
                let mut segments = all();
                segments.remove(missing);
                assert_refused(&segments, &state, 9, 9, why);
            }
        }
    }

    #[test]
    fn the_journal_reaches_what_leveldb_was_fed() {
        for boot in [THIS_BOOT, EARLIER_BOOT] {
            let state = tail(15, 4, boot);
            assert_eq!(judged(&[segment(4, 3, 10, 15)], &state, 12, 15), Ok((15, 0)));
            assert_refused(&[segment(4, 3, 10, 15)], &state, 12, 16, "and the tables have batch 16");
        }
    }

    #[test]
    fn a_segment_shorter_than_the_next_one_says_is_a_power_cut_or_damage() {
        let segments = [segment(4, 3, 10, 15), segment(5, 4, 20, 25)];
        assert_refused(&segments, &tail(25, 5, THIS_BOOT), 9, 9, "batch 16 should be next");
        assert_eq!(judged(&segments, &tail(25, 5, EARLIER_BOOT), 9, 9), Ok((15, 10)));
        let verdict = judge(&segments, &tail(25, 5, EARLIER_BOOT), 9, 9, THIS_BOOT).unwrap();
        assert_eq!((verdict.discard, verdict.newest), (vec![5], 5));
    }

    #[test]
    fn a_torn_end_is_cut_off_and_good_records_behind_it_are_damage_unless_the_power_went() {
        let at_end = [segment(4, 3, 10, 19), torn(segment(5, 4, 20, 25), false)];
        let verdict = judge(&at_end, &tail(25, 5, THIS_BOOT), 9, 9, THIS_BOOT).unwrap();
        assert_eq!((verdict.last, verdict.cut), (25, Some((5, 500))));
        let inside = [torn(segment(4, 3, 10, 19), true), unused(5)];
        assert_refused(&inside, &tail(25, 4, THIS_BOOT), 9, 9, "good ones behind it");
        assert_eq!(judged(&inside, &tail(25, 4, EARLIER_BOOT), 9, 9), Ok((19, 6)));
        let before_another = [torn(segment(4, 3, 10, 19), false), segment(5, 4, 20, 25)];
        assert_refused(&before_another, &tail(25, 5, THIS_BOOT), 9, 9, "ends badly");
        let bad = [Segment { end: End::Bad, ..segment(4, 3, 10, 19) }];
        assert_refused(&bad, &tail(19, 4, EARLIER_BOOT), 9, 9, "bad record at byte 500");
    }

    #[test]
    fn a_segment_whose_header_went_with_the_power_is_empty() {
        let segments = [unused(5)];
        assert_eq!(judged(&segments, &tail(22, 5, EARLIER_BOOT), 19, 19), Ok((19, 3)));
        assert_refused(
            &segments,
            &tail(22, 5, THIS_BOOT),
            19,
            19,
            "cut short: it ends at batch 19, not at 22",
        );
    }
}
