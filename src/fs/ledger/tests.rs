//! A ledger that is read back after its writer was killed: at every byte that it wrote.

use super::*;
use crate::clock::BootTime;
use crate::clock::{Now, WallTime};
use crate::fs::lock::Use;
use crate::fs::node::Node;
use crate::lock::{Ino, MountId, Name, Style};
use crate::table::Spot;

/// Memory that remembers in which order it was written.
#[derive(Clone, Debug, Default)]
struct Tape {
    bytes: Vec<u8>,
    written: Vec<(usize, Vec<u8>)>,
}

impl Memory for Tape {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        // Byte by byte, as a kill may end it.
        self.written.extend(bytes.iter().enumerate().map(|(index, byte)| (at + index, vec![*byte])));
    }

    fn clear(&mut self, at: usize, size: usize) {
        self.bytes[at..at + size].fill(0);
        let half = size / 2;
        self.written.extend([(at, vec![0; half]), (at + half, vec![0; size - half])]);
    }

    fn publish(&mut self, place: u64) {
        self.bytes[PLACE..PLACE + 8].copy_from_slice(&place.to_le_bytes());
        self.written.push((PLACE, place.to_le_bytes().to_vec()));
    }

    fn grow(&mut self, size: usize) -> io::Result<()> {
        self.bytes.resize(size, 0);
        Ok(())
    }
}

/// A generator of numbers that seem random (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn node(dice: &mut Dice) -> Node {
    let (one, two) = (Ino::from_u64(dice.below(5)), Ino::from_u64(dice.below(5)));
    match dice.below(11) {
        0 => Node::Object(one),
        1 => Node::Sessions,
        2 => Node::View { session: one, object: two },
        3 => Node::Control,
        4 => Node::Status,
        5 => Node::Metrics,
        6 => Node::Events(dice.below(5)),
        7 => Node::InfoDirectory(one),
        8 => Node::Info(one),
        9 => Node::WaitDirectory(one),
        _ => Node::Door(dice.below(5)),
    }
}

/// An entry of any kind, about few things, so that entries meet. `session` is where its name is kept.
fn entry<'a>(dice: &mut Dice, session: &'a mut String) -> Entry<'a> {
    *session = format!("dev1-{}-tag", dice.below(1 << 30));
    let ino = Ino::from_u64(dice.below(4));
    let style = if dice.below(2) == 0 { Style::Flock } else { Style::Fcntl };
    let one = Use { style, key: dice.below(2), handle: dice.below(3), lease: dice.below(3) };
    match dice.below(15) {
        0 => Entry::Told { number: dice.below(6), node: node(dice), count: 1 + dice.below(3) },
        1 => Entry::Forgot { number: dice.below(6), count: dice.below(4) },
        2 => {
            let name = Name::parse(session.as_bytes()).unwrap();
            Entry::Door { number: dice.below(6), spot: Spot { parent: ino, name } }
        }
        3 => Entry::Redirected { from: ino, to: Ino::from_u64(dice.below(4)) },
        4 => Entry::Opened { number: dice.below(9), ino: None, session: None, request: dice.below(99) },
        5 => {
            let session = Some(session.as_bytes());
            Entry::Opened { number: dice.below(9), ino: Some(ino), session, request: dice.below(99) }
        }
        6 => Entry::Closed(dice.below(9)),
        7 => Entry::Used(ino, one),
        8 => Entry::Unused(ino, one),
        9 => Entry::LastHandle(dice.below(99)),
        10 => Entry::Events(EventsEnd { last: dice.below(99), sum: 7, end: dice.below(99) }),
        11 => Entry::Lease(dice.below(9)),
        12 => Entry::Tries(dice.below(9)),
        13 => Entry::Ended(dice.below(99)),
        _ => {
            let since = Now { boot: BootTime::from_nanos(7), wall: WallTime::new(-5, 3) };
            let mount = MountId::from_u64(dice.below(9));
            Entry::Began(Began { mountpoint: "/locks".into(), what: session.clone(), mount, since })
        }
    }
}

fn state_of(bytes: &[u8]) -> Option<State> {
    replay(bytes).map(|(state, _)| state)
}

#[test]
fn whatever_moment_the_writer_is_killed_at_all_that_was_written_is_read_back() {
    for seed in 1..=20 {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.rotate_left(seed));
        let mut book = Book::begin(Tape::default()).unwrap();
        let mut states = vec![(0, State::default())];
        for index in 0..60 {
            let mut session = String::new();
            let entry = entry(&mut dice, &mut session);
            let mut after = states.last().unwrap().1.clone();
            after.apply(entry.clone());
            if index % 20 == 19 {
                // As where it is full.
                let before = state_of(book.memory.bytes()).unwrap();
                book.turn(&before, 0).unwrap();
            }
            book.note(&entry).unwrap();
            states.push((book.memory.written.len(), after));
        }
        let size = book.memory.bytes.len();
        let mut killed = Tape { bytes: vec![0; size], written: Vec::new() };
        let mut done = 0;
        for (count, (at, bytes)) in book.memory.written.iter().enumerate() {
            killed.bytes[*at..at + bytes.len()].copy_from_slice(bytes);
            while states.get(done + 1).is_some_and(|(end, _)| *end <= count + 1) {
                done += 1;
            }
            let Some(state) = state_of(&killed.bytes) else {
                assert_eq!(done, 0, "nothing is read back of {done} entries");
                continue;
            };
            // The last byte of its length may be a zero that was there before.
            let next = states.get(done + 1).map(|(_, next)| next);
            let is_right = state == states[done].1 || Some(&state) == next;
            assert!(is_right, "seed {seed}, byte {count}, entry {done}: {state:?}");
        }
        assert_eq!(done, 60);
    }
}

#[test]
fn a_ledger_that_is_full_goes_on_elsewhere_and_does_not_grow_for_ever() {
    let mut book = Book::begin(Tape::default()).unwrap();
    let mut expected = State::default();
    let mut places = std::collections::HashSet::new();
    for number in 0..20_000 {
        let session = Some(&b"dev1-4711-abcdefg"[..]);
        for entry in [
            Entry::Opened { number, ino: Some(Ino::from_u64(number)), session, request: number },
            Entry::Closed(number),
        ] {
            expected.apply(entry.clone());
            book.note(&entry).unwrap();
        }
        book.memory.written.clear();
        places.insert(book.start);
    }
    assert_eq!(state_of(book.memory.bytes()), Some(expected));
    assert_eq!(places.len(), 2, "two places, in turns");
    assert!(book.memory.bytes.len() <= PAGE + 2 * ROOM_MIN);
}

#[test]
fn what_is_not_of_this_version_is_not_read() {
    let book = Book::begin(Tape::default()).unwrap();
    let mut bytes = book.memory.bytes.clone();
    assert!(state_of(&bytes).is_some());
    bytes[MAGIC.len() - 1] ^= 1;
    assert!(state_of(&bytes).is_none());
    for bytes in [&b""[..], b"lockfs", &[0; 8192], &[0xff; 8192]] {
        assert!(state_of(bytes).is_none());
    }
}

#[test]
fn who_resumes_a_ledger_reads_what_was_noted_and_goes_on() {
    let ledger = Ledger::create().unwrap();
    let told = |number| Entry::Told { number, node: Node::Events(number), count: 1 };
    ledger.note(&told(1));
    let file = ledger.file().unwrap().try_clone_to_owned().unwrap();
    // Killed: nothing of it is dropped.
    std::mem::forget(ledger);
    let (second, state) = Ledger::resume(file).unwrap().unwrap();
    assert_eq!(state.nodes.len(), 1);
    second.note(&told(2));
    let file = second.file().unwrap().try_clone_to_owned().unwrap();
    let (_, state) = Ledger::resume(file).unwrap().unwrap();
    assert_eq!(state.nodes.len(), 2);
    assert!(Ledger::resume(std::fs::File::open("/dev/null").unwrap().into()).is_err());
}
