//! What must hold of LevelDB's files before LevelDB may see them.
//!
//! The crate's recovery ends silently at the first bad record of a log or MANIFEST, takes what it read for all there is, and
//! deletes the rest; a missing CURRENT makes it start an empty store over the old one; a damaged table footer makes it
//! panic, or ask for any amount of memory. Here each of these is found first, by reading only.
//!
//! A torn last record is what `kill -9` and power cuts leave, and is fine. The log format (32 KiB blocks of fragments:
//! masked CRC-32C, length, type) is that of <https://github.com/google/leveldb/blob/main/doc/log_format.md>.

use std::fs;
use std::path::Path;

use crate::store::level::error::{Flaw, io_flaw};

const BLOCK: usize = 32 * 1024;
const FRAGMENT_HEAD: usize = 7;
const FULL: u8 = 1;
const FIRST: u8 = 2;
const LAST: u8 = 4;
const FOOTER: usize = 48;
const FOOTER_MAGIC: [u8; 8] = [0x57, 0xfb, 0x80, 0x8b, 0x24, 0x75, 0x47, 0xdb];

/// Checks CURRENT, the MANIFEST it names, and every log in LevelDB's directory `dir`.
pub(crate) fn check_tables(dir: &Path) -> Result<(), Flaw> {
    let current = dir.join("CURRENT");
    let text = match fs::read(&current) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Flaw::Damaged("the file tables/CURRENT is missing".into()));
        }
        Err(e) => return Err(io_flaw("read", &current)(e)),
    };
    let manifest = manifest_named_by(&text)
        .ok_or_else(|| Flaw::Damaged("the file tables/CURRENT does not name a MANIFEST".into()))?;
    if !dir.join(manifest).is_file() {
        return Err(Flaw::Damaged(format!("the file tables/{manifest} is missing, and CURRENT names it")));
    }
    check_log_file(dir, manifest)?;
    for entry in fs::read_dir(dir).map_err(io_flaw("list", dir))? {
        let name = entry.map_err(io_flaw("list", dir))?.file_name();
        if let Some(name) = name.to_str().filter(|name| name.ends_with(".log")) {
            check_log_file(dir, name)?;
        }
    }
    Ok(())
}

fn manifest_named_by(current: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(current.strip_suffix(b"\n")?).ok()?;
    let digits = name.strip_prefix("MANIFEST-")?;
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then_some(name)
}

fn check_log_file(dir: &Path, name: &str) -> Result<(), Flaw> {
    let path = dir.join(name);
    let bytes = fs::read(&path).map_err(io_flaw("read", &path))?;
    match damage_in_log(&bytes) {
        None => Ok(()),
        Some(at) => {
            Err(Flaw::Damaged(format!("tables/{name} has a bad record at byte {at} and good ones behind it")))
        }
    }
}

/// Where the first bad record stands that has a good one behind it.
fn damage_in_log(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    // Inside a record of several fragments: only Middle and Last may follow, and outside only Full and First.
    let mut inside = false;
    while let Some(start) = next_fragment(at, bytes.len()) {
        match read_fragment(bytes, start) {
            Some((kind, end)) if inside != (kind == FULL || kind == FIRST) => {
                inside = kind != FULL && kind != LAST;
                at = end;
            }
            _ => return record_begins_behind(bytes, start).then_some(start),
        }
    }
    None
}

/// The position of the fragment at or after `at`: a block's last six bytes or fewer are filler.
fn next_fragment(at: usize, len: usize) -> Option<usize> {
    let left = BLOCK - at % BLOCK;
    let start = if left < FRAGMENT_HEAD { at + left } else { at };
    (start < len).then_some(start)
}

/// The type and the end of the fragment at `at`, if it is whole and good.
fn read_fragment(bytes: &[u8], at: usize) -> Option<(u8, usize)> {
    let head = bytes.get(at..at + FRAGMENT_HEAD)?;
    let stored = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    let length = usize::from(u16::from_le_bytes([head[4], head[5]]));
    let (kind, start) = (head[6], at + FRAGMENT_HEAD);
    if !(FULL..=LAST).contains(&kind) || start + length > (at / BLOCK + 1) * BLOCK {
        return None;
    }
    let crc = crc32c::crc32c(bytes.get(start - 1..start + length)?);
    (stored == crc.rotate_right(15).wrapping_add(0xa282_ead8)).then_some((kind, start + length))
}

/// Whether a record begins behind the bad fragment at `at`: where that says it ends and from there on, or from the
/// beginning of any later block. (Not at any byte: values may hold bytes that look like fragments.)
fn record_begins_behind(bytes: &[u8], at: usize) -> bool {
    let claimed_end = bytes
        .get(at..at + FRAGMENT_HEAD)
        .map(|head| at + FRAGMENT_HEAD + usize::from(u16::from_le_bytes([head[4], head[5]])))
        .filter(|end| *end <= (at / BLOCK + 1) * BLOCK);
    let blocks = (at / BLOCK + 1..).map(|block| block * BLOCK).take_while(|start| *start < bytes.len());
    claimed_end.into_iter().chain(blocks).any(|mut from| {
        while let Some(start) = next_fragment(from, bytes.len()) {
            match read_fragment(bytes, start) {
                Some((FULL | FIRST, _)) => return true,
                Some((_, end)) => from = end,
                None => return false,
            }
        }
        false
    })
}

/// Whether the last bytes of a table of `len` bytes are a footer whose two blocks lie inside it.
pub(crate) fn is_footer_sane(footer: &[u8; FOOTER], len: u64) -> bool {
    let mut rest = &footer[..FOOTER - 8];
    let mut number = || -> Option<u64> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let (&byte, tail) = rest.split_first()?;
            rest = tail;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    };
    let mut block_is_inside = || {
        let (offset, size) = (number()?, number()?);
        // A type byte and a checksum stand behind each block.
        offset.checked_add(size)?.checked_add(5).filter(|end| *end <= len - FOOTER as u64)
    };
    footer[FOOTER - 8..] == FOOTER_MAGIC && block_is_inside().is_some() && block_is_inside().is_some()
}

/// The length of a table's footer.
pub(crate) const FOOTER_BYTES: usize = FOOTER;

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(kind: u8, data: &[u8]) -> Vec<u8> {
        let mut checked = vec![kind];
        checked.extend_from_slice(data);
        let crc = crc32c::crc32c(&checked).rotate_right(15).wrapping_add(0xa282_ead8);
        let mut out = crc.to_le_bytes().to_vec();
        out.extend_from_slice(&(data.len() as u16).to_le_bytes());
        out.extend_from_slice(&checked);
        out
    }

    fn log_of(records: usize) -> Vec<u8> {
        (0..records).flat_map(|i| fragment(FULL, &[i as u8; 100])).collect()
    }

    #[test]
    fn a_whole_log_and_every_torn_one_pass() {
        let log = log_of(5);
        for len in 0..=log.len() {
            assert_eq!(damage_in_log(&log[..len]), None, "cut at {len}");
        }
    }

    #[test]
    fn a_bad_record_before_a_good_one_is_damage() {
        for at in 0..3 * 107 {
            // A wrong length hides where the next record begins; the journal's numbers catch that.
            if (4..6).contains(&(at % 107)) {
                continue;
            }
            let mut log = log_of(4);
            log[at] ^= 0x10;
            assert_eq!(damage_in_log(&log), Some(at / 107 * 107), "flip at {at}");
        }
    }

    #[test]
    fn a_bad_fragment_before_the_rest_of_its_own_record_is_torn() {
        // A power cut may leave a later page of one record on disk without an earlier one.
        let mut log = fragment(FULL, b"before");
        log.resize(log.len() + 50, 0);
        let fill = BLOCK - log.len();
        log.resize(log.len() + fill, 0);
        log.extend(fragment(LAST, b"rest"));
        assert_eq!(damage_in_log(&log), None);
        log.extend(fragment(FULL, b"another"));
        assert_eq!(damage_in_log(&log), Some(13));
    }

    #[test]
    fn a_footer_that_points_outside_its_table_is_not_sane() {
        let mut footer = [0; FOOTER];
        footer[FOOTER - 8..].copy_from_slice(&FOOTER_MAGIC);
        footer[..4].copy_from_slice(&[10, 20, 35, 20]);
        assert!(is_footer_sane(&footer, 35 + 20 + 5 + 48));
        assert!(!is_footer_sane(&footer, 35 + 20 + 4 + 48));
        footer[..4].copy_from_slice(&[0xff; 4]);
        assert!(!is_footer_sane(&footer, 1 << 20));
    }
}
