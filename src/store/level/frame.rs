//! How one value looks on disk, and the fingerprint of all of them together.
//!
//! A value is stored as a *frame* that proves it belongs to its key; the set of all live records has a [`Fingerprint`] that
//! is stored beside them, so that a record that is missing, stale or risen from the dead is noticed, whoever lost it.
//!
//! | bytes | frame |
//! |---|---|
//! | 1 | version, 1 |
//! | 4 | CRC-32C over version, length of the key, key, value |
//! | rest | the value |

use crate::store::level::error::Flaw;

/// The frame version this program writes, and the highest it reads.
pub(crate) const FRAME_VERSION: u8 = 1;
const FRAME_HEAD: usize = 5;

fn frame_crc(version: u8, key: &[u8], value: &[u8]) -> u32 {
    let mut head = [0; FRAME_HEAD];
    head[0] = version;
    head[1..].copy_from_slice(&(key.len() as u32).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&head), key), value)
}

/// The length of the frame around a value of `len` bytes.
pub(crate) fn framed_len(len: usize) -> usize {
    FRAME_HEAD + len
}

/// Appends the frame of `value` under `key` to `out`.
pub(crate) fn append_frame(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    out.push(FRAME_VERSION);
    out.extend_from_slice(&frame_crc(FRAME_VERSION, key, value).to_le_bytes());
    out.extend_from_slice(value);
}

/// The value inside `frame`, after checking that it is whole, of a known version, and of this `key`.
pub(crate) fn open_frame<'a>(key: &[u8], frame: &'a [u8]) -> Result<&'a [u8], Flaw> {
    let Some((head, value)) = frame.split_at_checked(FRAME_HEAD) else {
        return Err(Flaw::Damaged(format!("a record of {} bytes is too short", frame.len())));
    };
    // The checksum comes first: a flipped version byte is damage, not the future. Later versions keep these five bytes.
    if head[1..] != frame_crc(head[0], key, value).to_le_bytes() {
        return Err(Flaw::Damaged(format!("the record of key {} has a bad checksum", key.escape_ascii())));
    }
    if head[0] != FRAME_VERSION {
        return Err(Flaw::Newer(format!("record version {}", head[0])));
    }
    Ok(value)
}

/// What one record adds to the fingerprint. Stored on disk (as a sum of all), so it must never change for version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHash(u64);

impl RecordHash {
    /// The hash of a key and its frame: FNV-1a of the key, joined with the frame's checksum, finished with SplitMix64.
    pub(crate) fn of(key: &[u8], frame: &[u8]) -> Self {
        let mut h = 0xcbf2_9ce4_8422_2325_u64;
        for &byte in key {
            h = (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        let crc = frame.get(1..FRAME_HEAD).map_or(0, |c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]));
        let mut z = h.wrapping_add(u64::from(crc).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(z ^ (z >> 31))
    }

    /// As two words, low first.
    pub(crate) fn to_words(self) -> [u32; 2] {
        [self.0 as u32, (self.0 >> 32) as u32]
    }

    /// From two words, low first.
    pub(crate) fn from_words([low, high]: [u32; 2]) -> Self {
        Self(u64::from(low) | u64::from(high) << 32)
    }
}

/// How many records are live, and the exclusive or of their hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Fingerprint {
    /// Live records.
    pub(crate) count: u64,
    /// Exclusive or of their [`RecordHash`]es.
    pub(crate) xor: u64,
}

impl Fingerprint {
    /// Counts a record in.
    pub(crate) fn add(&mut self, record: RecordHash) {
        self.count += 1;
        self.xor ^= record.0;
    }

    /// Counts a record out that was counted in before.
    pub(crate) fn remove(&mut self, record: RecordHash) {
        self.count -= 1;
        self.xor ^= record.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(key: &[u8], value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        append_frame(&mut out, key, value);
        assert_eq!(out.len(), framed_len(value.len()));
        out
    }

    #[test]
    fn a_frame_gives_back_its_value_and_only_under_its_key() {
        let f = frame(b"k", b"value");
        assert_eq!(open_frame(b"k", &f).unwrap(), b"value");
        assert!(matches!(open_frame(b"q", &f), Err(Flaw::Damaged(_))));
    }

    #[test]
    fn every_flipped_bit_of_a_frame_is_damage() {
        let f = frame(b"key", b"value");
        for bit in 0..f.len() * 8 {
            let mut g = f.clone();
            g[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(open_frame(b"key", &g), Err(Flaw::Damaged(_))), "bit {bit}");
        }
    }

    #[test]
    fn a_whole_frame_of_a_later_version_is_newer() {
        let mut f = vec![2];
        f.extend_from_slice(&frame_crc(2, b"k", b"v").to_le_bytes());
        f.push(b'v');
        assert!(matches!(open_frame(b"k", &f), Err(Flaw::Newer(_))));
    }

    #[test]
    fn frames_and_hashes_of_version_1_never_change() {
        assert_eq!(frame(b"key", b"value"), [1, 31, 218, 51, 187, 118, 97, 108, 117, 101]);
        assert_eq!(RecordHash::of(b"key", &frame(b"key", b"value")), RecordHash(6_171_899_310_221_845_558));
    }
}
