//! Journal segments: where a batch is durable before anything else hears of it.
//!
//! Invariant: the records of all segments, in the order of their names, are numbered without a gap, and each segment says
//! in its header which number its first record has, and which segment was before it. A segment is only ever appended to, by one writer; what stands behind
//! a bad record is never appended to: a new segment begins instead. Checksums are seeded with the store's random id, so
//! that no bytes that a user can put in a value look like a record.
//!
//! | bytes | header of `journal-<number>` | | bytes | record |
//! |---|---|---|---|---|
//! | 8 | `LKJOURNL` | | 4 | `LKR` and the version, 1 |
//! | 4 | version, 1 | | 4 | length of the payload |
//! | 4 | zero | | 8 | batch number |
//! | 8 | store id | | 4 | seeded CRC-32C of the number and the payload |
//! | 8 | number of the segment | | 4 | seeded CRC-32C of the 20 bytes above |
//! | 8 | batch number of the first record | | n | payload: operations |
//! | 8 | number of the segment before | | | |
//! | 4 | seeded CRC-32C of the above | | | |
//!
//! An operation is a tag (1 put, 2 delete), the key's length (4 bytes) and the key, and for a put the frame's length
//! (4 bytes) and the frame (`frame.rs`). Numbers are little-endian.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::store::level::error::{Flaw, io_flaw};
use crate::store::level::frame;

/// The length of a segment's header.
pub(crate) const HEADER_BYTES: usize = 52;
const RECORD_HEAD: usize = 24;
const HEADER_MAGIC: &[u8; 8] = b"LKJOURNL";
const RECORD_MAGIC: &[u8; 3] = b"LKR";
const VERSION: u8 = 1;
const PUT: u8 = 1;
const DELETE: u8 = 2;
const PAGE: usize = 4096;
/// The longest payload: far above any step of the lock table, far below what a length field can say.
pub(crate) const MAX_PAYLOAD: usize = 256 << 20;

/// A change: a key with the value to put, or `None` to delete it.
pub(crate) type Change<'a> = (&'a [u8], Option<&'a [u8]>);

fn seeded(store: u64, parts: &[&[u8]]) -> u32 {
    parts.iter().fold(crc32c::crc32c(&store.to_le_bytes()), |crc, part| crc32c::crc32c_append(crc, part))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The path of segment `number` in `dir`.
pub(crate) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("journal-{number:08}"))
}

/// The number in a segment's file name.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("journal-")?;
    let number = digits.parse().ok()?;
    (format!("{number:08}") == digits).then_some(number)
}

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// The number in its name.
    pub(crate) number: u64,
    /// The batch number that its first record has.
    pub(crate) first: u64,
    /// The number of the segment that was written before it.
    pub(crate) before: u64,
}

/// The bytes of a segment's header.
pub(crate) fn encode_header(store: u64, Header { number, first, before }: Header) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(HEADER_MAGIC);
    header[8] = VERSION;
    header[16..24].copy_from_slice(&store.to_le_bytes());
    header[24..32].copy_from_slice(&number.to_le_bytes());
    header[32..40].copy_from_slice(&first.to_le_bytes());
    header[40..48].copy_from_slice(&before.to_le_bytes());
    let crc = seeded(store, &[&header[..48]]);
    header[48..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Overwrites `out` with the record of batch `number`; false if it would be longer than a record may be.
pub(crate) fn encode_record(out: &mut Vec<u8>, store: u64, number: u64, batch: &[Change<'_>]) -> bool {
    out.clear();
    out.resize(RECORD_HEAD, 0);
    for (key, value) in batch {
        out.push(if value.is_some() { PUT } else { DELETE });
        out.extend_from_slice(&(key.len() as u32).to_le_bytes());
        out.extend_from_slice(key);
        if let Some(value) = value {
            out.extend_from_slice(&(frame::framed_len(value.len()) as u32).to_le_bytes());
            frame::append_frame(out, key, value);
        }
        if out.len() > MAX_PAYLOAD {
            return false;
        }
    }
    let length = (out.len() - RECORD_HEAD) as u32;
    let payload_crc = seeded(store, &[&number.to_le_bytes(), &out[RECORD_HEAD..]]);
    out[..3].copy_from_slice(RECORD_MAGIC);
    out[3] = VERSION;
    out[4..8].copy_from_slice(&length.to_le_bytes());
    out[8..16].copy_from_slice(&number.to_le_bytes());
    out[16..20].copy_from_slice(&payload_crc.to_le_bytes());
    let head_crc = seeded(store, &[&out[..20]]);
    out[20..24].copy_from_slice(&head_crc.to_le_bytes());
    true
}

/// What a segment file holds.
#[derive(Debug)]
pub(crate) struct Segment {
    /// The number in its name.
    pub(crate) number: u64,
    /// Its header, if that can be read.
    pub(crate) header: Option<Header>,
    /// The payload of each whole record, in order, numbered from `header.first`.
    pub(crate) payloads: Vec<Range<usize>>,
    /// How many bytes are good from the start.
    pub(crate) good_len: usize,
    /// What stands behind the good bytes.
    pub(crate) end: End,
    /// The file's contents.
    pub(crate) bytes: Vec<u8>,
}

/// How a segment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// With its last record.
    Whole,
    /// With bytes that an interrupted write explains: the file ends inside them, or a page of them was never written.
    Torn {
        /// Whether a whole record stands behind them.
        good_follows: bool,
    },
    /// With bytes that no interrupted write explains.
    Bad,
}

impl Segment {
    /// Reads segment `number` of `dir`. Bad contents are not an error here, but an [`End`].
    pub(crate) fn read(dir: &Path, number: u64, store: u64) -> Result<Self, Flaw> {
        let path = segment_path(dir, number);
        let bytes = std::fs::read(&path).map_err(io_flaw("read", &path))?;
        Self::parse(bytes, number, store)
    }

    fn parse(bytes: Vec<u8>, number: u64, store: u64) -> Result<Self, Flaw> {
        let mut segment =
            Self { number, header: None, payloads: Vec::new(), good_len: 0, end: End::Whole, bytes };
        let bytes = &segment.bytes[..];
        segment.header = parse_header(bytes, number, store)?;
        let Some(Header { first, .. }) = segment.header else {
            segment.end = end_at(bytes, 0, HEADER_BYTES, store, 1);
            return Ok(segment);
        };
        let (mut at, mut batch) = (HEADER_BYTES, first);
        while at < bytes.len() {
            match parse_record(bytes, at, store, batch)? {
                Parsed::Record(payload) => {
                    at = payload.end;
                    segment.payloads.push(payload);
                    batch += 1;
                }
                Parsed::Unreadable { extent } => {
                    segment.end = end_at(bytes, at, extent, store, batch);
                    break;
                }
            }
        }
        segment.good_len = at;
        Ok(segment)
    }

    /// The number of the last whole record, or of the batch before the first; `None` without a header.
    pub(crate) fn last(&self) -> Option<u64> {
        self.header.map(|header| header.first + self.payloads.len() as u64 - 1)
    }

    /// The batches in it: their numbers and changes, a put as its frame.
    pub(crate) fn batches(&self) -> impl Iterator<Item = (u64, Changes<'_>)> {
        let first = self.header.map_or(0, |header| header.first);
        (first..).zip(self.payloads.iter().map(|range| Changes { rest: &self.bytes[range.clone()] }))
    }
}

fn parse_header(bytes: &[u8], number: u64, store: u64) -> Result<Option<Header>, Flaw> {
    let Some(header) = bytes.get(..HEADER_BYTES) else { return Ok(None) };
    if u32_at(header, 48) != seeded(store, &[&header[..48]]) {
        return Ok(None);
    }
    if &header[..8] != HEADER_MAGIC || u64_at(header, 16) != store {
        return Err(Flaw::Damaged(format!("journal-{number:08} belongs to another store")));
    }
    if header[8] != VERSION {
        return Err(Flaw::Newer(format!("journal version {}", header[8])));
    }
    if u64_at(header, 24) != number {
        return Err(Flaw::Damaged(format!(
            "journal-{number:08} is segment {} by its header",
            u64_at(header, 24)
        )));
    }
    Ok(Some(Header { number, first: u64_at(header, 32), before: u64_at(header, 40) }))
}

enum Parsed {
    Record(Range<usize>),
    /// Not a record; `extent` is how long it says it is, or at least the length of a record's head.
    Unreadable {
        extent: usize,
    },
}

fn parse_record(bytes: &[u8], at: usize, store: u64, expected: u64) -> Result<Parsed, Flaw> {
    let unreadable = Parsed::Unreadable { extent: RECORD_HEAD };
    let Some(head) = bytes.get(at..at + RECORD_HEAD) else { return Ok(unreadable) };
    if &head[..3] != RECORD_MAGIC || u32_at(head, 20) != seeded(store, &[&head[..20]]) {
        return Ok(unreadable);
    }
    if head[3] != VERSION {
        return Err(Flaw::Newer(format!("journal record version {}", head[3])));
    }
    let number = u64_at(head, 8);
    if number != expected {
        return Err(Flaw::Damaged(format!(
            "the journal holds batch {number} where batch {expected} should stand"
        )));
    }
    let start = at + RECORD_HEAD;
    let end = start + u32_at(head, 4) as usize;
    match bytes.get(start..end) {
        Some(payload) if seeded(store, &[&number.to_le_bytes(), payload]) == u32_at(head, 16) => {
            Ok(Parsed::Record(start..end))
        }
        _ => Ok(Parsed::Unreadable { extent: end - at }),
    }
}

/// Judges the unreadable bytes at `at`, which should be `extent` long.
fn end_at(bytes: &[u8], at: usize, extent: usize, store: u64, expected: u64) -> End {
    let good_follows = (at + 1..bytes.len()).any(|next| is_later_record(bytes, next, store, expected));
    if at + extent > bytes.len() || has_unwritten_page(bytes, at, extent) {
        End::Torn { good_follows }
    } else {
        End::Bad
    }
}

fn is_later_record(bytes: &[u8], at: usize, store: u64, expected: u64) -> bool {
    bytes.get(at..at + RECORD_HEAD).is_some_and(|head| {
        &head[..3] == RECORD_MAGIC
            && u32_at(head, 20) == seeded(store, &[&head[..20]])
            && u64_at(head, 8) >= expected
            && bytes.get(at + RECORD_HEAD..at + RECORD_HEAD + u32_at(head, 4) as usize).is_some_and(
                |payload| seeded(store, &[&u64_at(head, 8).to_le_bytes(), payload]) == u32_at(head, 16),
            )
    })
}

/// Whether some page of `bytes[at..at + extent]` ends in zeros. A page that the kernel had not written back when the power
/// went reads as zeros, from its start or from where the file ended when it was last written back; files are written back
/// page by page, in no order.
fn has_unwritten_page(bytes: &[u8], at: usize, extent: usize) -> bool {
    const PROOF: usize = 8;
    let last = (at + extent - 1) / PAGE;
    (at / PAGE..=last).any(|page| {
        let end = ((page + 1) * PAGE).min(bytes.len());
        let start = (page * PAGE).max(at).max(end.saturating_sub(PROOF));
        start < end && bytes[start..end].iter().all(|&b| b == 0)
    })
}

/// The changes of one batch, in order.
#[derive(Debug)]
pub(crate) struct Changes<'a> {
    rest: &'a [u8],
}

impl<'a> Changes<'a> {
    fn take(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first_chunk::<4>()?;
        let (bytes, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        self.rest = rest;
        Some(bytes)
    }

    fn next_change(&mut self) -> Option<Change<'a>> {
        let (&tag, rest) = self.rest.split_first()?;
        self.rest = rest;
        let key = self.take()?;
        match tag {
            PUT => Some((key, Some(self.take()?))),
            DELETE => Some((key, None)),
            _ => None,
        }
    }
}

impl<'a> Iterator for Changes<'a> {
    type Item = Result<Change<'a>, Flaw>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        // The record's checksum was right, so only a bug of the writer gets here.
        let change =
            self.next_change().ok_or_else(|| Flaw::Damaged("a journal record cannot be decoded".into()));
        if change.is_err() {
            self.rest = &[];
        }
        Some(change)
    }
}
