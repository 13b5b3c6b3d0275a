//! The ledger: what the daemon alone knows and the kernel will ask for again, kept where the daemon's death does not
//! reach it.
//!
//! It lives in a memfd (memfd_create(2)), of which a service manager, or the program that takes this one's place by
//! exec, has a descriptor. Each change of what the kernel was told is written there before the kernel is answered, and
//! whoever serves the mount next reads it back. The invariant: whatever moment a daemon is killed at, what is read back
//! is all of the entries that were written to their end, in their order. Memory is not written out of order by a kill.
//!
//! | at | what |
//! |---|---|
//! | 0 | [`MAGIC`], with the version of this format |
//! | 8 | where the entries are: the page of the first one |
//! | page | entries: length of the payload, its checksum, payload |
//!
//! Behind the last entry there are zeroes, or a part of one that was not written to its end. Where the entries have
//! filled their room, those that still mean something are written to another place, which was cleared before, and then
//! the word at 8 is changed, which is the moment at which they count.

mod entry;
mod state;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};
use std::sync::{Mutex, PoisonError};

use memmap2::MmapMut;

pub(super) use entry::Entry;
pub use state::{Began, Connection, State};
pub(super) use state::{EventsEnd, Open};

/// What a ledger opens with; another version of what follows has another last byte.
const MAGIC: [u8; 8] = *b"lockfs\0\x01";

/// Where the place of the entries is said.
const PLACE: usize = 8;

/// What room is given in.
const PAGE: usize = 4096;

/// The least room for entries.
const ROOM_MIN: usize = 256 << 10;

/// Length and checksum.
const FRAME: usize = 8;

/// Memory that outlives who writes it. What is put first is there first.
trait Memory {
    fn bytes(&self) -> &[u8];
    fn put(&mut self, at: usize, bytes: &[u8]);
    /// Makes zeroes of a part.
    fn clear(&mut self, at: usize, size: usize);
    /// Says where the entries are, all at once.
    fn publish(&mut self, place: u64);
    /// Makes it so large; what is new is zeroes.
    fn grow(&mut self, size: usize) -> io::Result<()>;
}

/// A memfd, mapped.
#[derive(Debug)]
struct Shared {
    file: File,
    map: MmapMut,
}

impl Shared {
    fn create() -> io::Result<Self> {
        // SAFETY: the name is a string that ends with NUL.
        let file = unsafe { libc::memfd_create(c"lockfs-ledger".as_ptr(), libc::MFD_CLOEXEC) };
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so the descriptor is open and nobody else's.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(file) });
        file.set_len(PAGE as u64)?;
        Self::open(file)
    }

    fn open(file: File) -> io::Result<Self> {
        // SAFETY: nobody else writes to it, or makes it shorter: it has no name, and who kept it for us only keeps it.
        let map = unsafe { MmapMut::map_mut(&file)? };
        Ok(Self { file, map })
    }
}

impl Memory for Shared {
    fn bytes(&self) -> &[u8] {
        &self.map
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.map[at..at + bytes.len()].copy_from_slice(bytes);
        // The next one comes after this one: whoever is killed in between has written this one.
        compiler_fence(Ordering::SeqCst);
    }

    fn clear(&mut self, at: usize, size: usize) {
        self.map[at..at + size].fill(0);
        compiler_fence(Ordering::SeqCst);
    }

    fn publish(&mut self, place: u64) {
        let word = self.map[PLACE..PLACE + 8].as_mut_ptr().cast::<u64>();
        // SAFETY: a mapping begins at a page, so the word is aligned; it lies within, and nobody else has it.
        unsafe { AtomicU64::from_ptr(word) }.store(place.to_le(), Ordering::SeqCst);
    }

    fn grow(&mut self, size: usize) -> io::Result<()> {
        self.file.set_len(size as u64)?;
        // SAFETY: as when it was opened.
        self.map = unsafe { MmapMut::map_mut(&self.file)? };
        Ok(())
    }
}

/// The entries, and where the next one goes.
#[derive(Debug)]
struct Book<M> {
    memory: M,
    /// Where the entries begin.
    start: usize,
    /// How much room they have.
    room: usize,
    /// Where the next one goes.
    end: usize,
    /// For the payload of one entry.
    payload: Vec<u8>,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The entry that stands there, and where the next one would.
fn entry_at(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let length = u32::from_le_bytes(number(bytes, at)?) as usize;
    let sum = u32::from_le_bytes(number(bytes, at + 4)?);
    let end = (at + FRAME).checked_add(length)?;
    let payload = bytes.get(at + FRAME..end)?;
    (length > 0 && sum == crc32c::crc32c(payload)).then_some((payload, end))
}

/// What the bytes of a ledger come to, and where its entries begin and end.
fn replay(bytes: &[u8]) -> Option<(State, (usize, usize))> {
    if number(bytes, 0)? != MAGIC {
        return None;
    }
    let page = u64::from_le_bytes(number(bytes, PLACE)?);
    let start = usize::try_from(page).ok()?.checked_mul(PAGE).filter(|start| *start > 0)?;
    let (mut state, mut at) = (State::default(), start);
    while let Some((payload, end)) = entry_at(bytes, at) {
        // The checksum is right, so it was written so: by another program.
        state.apply(Entry::read(payload)?);
        at = end;
    }
    Some((state, (start, at)))
}

impl<M: Memory> Book<M> {
    /// An empty one.
    fn begin(memory: M) -> io::Result<Self> {
        let mut book = Self { memory, start: PAGE, room: 0, end: PAGE, payload: Vec::new() };
        book.turn(&State::default(), 0)?;
        book.memory.put(0, &MAGIC);
        Ok(book)
    }

    /// One that another daemon has written; `None` where it is none, or of another version.
    fn resume(memory: M) -> io::Result<Option<(Self, State)>> {
        let Some((state, (start, end))) = replay(memory.bytes()) else {
            return Ok(None);
        };
        let mut book = Self { memory, start, room: end - start, end, payload: Vec::new() };
        // A place of our own: what lies behind the last entry may be half of one.
        book.turn(&state, 0)?;
        Ok(Some((book, state)))
    }

    fn note(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        self.payload.clear();
        entry.write(&mut self.payload);
        let needed = FRAME + self.payload.len();
        if self.end + needed > self.start + self.room {
            let state = replay(self.memory.bytes()).map(|(state, _)| state);
            let state = state.ok_or(io::ErrorKind::InvalidData)?;
            self.turn(&state, needed)?;
            self.payload.clear();
            entry.write(&mut self.payload);
        }
        self.put_payload();
        Ok(())
    }

    /// The length comes last: without it nothing is there.
    fn put_payload(&mut self) {
        let length = u32::try_from(self.payload.len()).expect("an entry is as short as a request");
        self.memory.put(self.end + FRAME, &self.payload);
        self.memory.put(self.end + 4, &crc32c::crc32c(&self.payload).to_le_bytes());
        self.memory.put(self.end, &length.to_le_bytes());
        self.end += FRAME + self.payload.len();
    }

    /// Writes what still means something to another place, with room for at least `more` bytes.
    fn turn(&mut self, state: &State, more: usize) -> io::Result<()> {
        let mut size = more;
        for entry in state.entries() {
            self.payload.clear();
            entry.write(&mut self.payload);
            size += FRAME + self.payload.len();
        }
        // As much again before it is full, so that each entry is written twice at most.
        let room = (2 * size).max(ROOM_MIN).next_multiple_of(PAGE);
        let old = (self.start, self.room);
        let start = if PAGE + room <= old.0 { PAGE } else { (old.0 + old.1).next_multiple_of(PAGE) };
        if self.memory.bytes().len() < start + room {
            self.memory.grow(start + room)?;
        }
        (self.start, self.room, self.end) = (start, room, start);
        self.memory.clear(start, room);
        for entry in state.entries() {
            self.payload.clear();
            entry.write(&mut self.payload);
            self.put_payload();
        }
        self.memory.publish((start / PAGE) as u64);
        Ok(())
    }
}

/// A ledger; the default one keeps nothing, for a mount that ends with its daemon.
#[derive(Debug, Default)]
pub struct Ledger(Option<Kept>);

#[derive(Debug)]
struct Kept {
    /// The same file once more: it can be handed on while entries are written.
    file: OwnedFd,
    /// `None` once it could not be written: then it says nothing to anybody.
    book: Mutex<Option<Book<Shared>>>,
}

impl Ledger {
    /// An empty one.
    ///
    /// # Errors
    /// When the system has no memory for it.
    pub fn create() -> io::Result<Self> {
        let shared = Shared::create()?;
        let file = shared.file.try_clone()?.into();
        Ok(Self(Some(Kept { file, book: Mutex::new(Some(Book::begin(shared)?)) })))
    }

    /// The one that another daemon has written, and what it says; `None` where it is none that this version reads.
    ///
    /// # Errors
    /// When the system has no memory for it.
    pub fn resume(file: OwnedFd) -> io::Result<Option<(Self, State)>> {
        let copy = file.try_clone()?;
        let shared = Shared::open(file.into())?;
        let resumed = Book::resume(shared)?;
        let ledger = |book| Self(Some(Kept { file: copy, book: Mutex::new(Some(book)) }));
        Ok(resumed.map(|(book, state)| (ledger(book), state)))
    }

    /// The descriptor to hand on.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(|kept| kept.file.as_fd())
    }

    /// Notes what is served.
    pub fn began(&self, began: Began) {
        self.note(&Entry::Began(began));
    }

    /// Notes the connection to the kernel.
    pub fn connected(&self, connection: Connection) {
        self.note(&Entry::Connected(connection));
    }

    /// Notes how many daemons in a row have tried to serve the mount; 0 once one does.
    pub fn tries(&self, tries: u64) {
        self.note(&Entry::Tries(tries));
    }

    /// Notes a change, which is there when this returns. Where it can't be, the ledger is void: whoever serves next
    /// begins anew, with a new mount.
    pub(super) fn note(&self, entry: &Entry<'_>) {
        let Some(kept) = &self.0 else { return };
        let mut book = kept.book.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = book.as_mut() else { return };
        if let Err(error) = open.note(entry) {
            log::warn!("a restart will lose the mount: {error}");
            open.memory.put(0, &[0; MAGIC.len()]);
            *book = None;
        }
    }
}

#[cfg(test)]
mod tests;
