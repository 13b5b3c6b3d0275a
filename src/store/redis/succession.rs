//! What the daemon before this one was answered, where the mount was taken over: the kernel asks again for what it has
//! not been told.
//!
//! The invariant: nothing is asked of the server before it has said what it answered the other daemon, and from then on
//! it carries out nothing more of that one's (`succeed.lua`).

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::codec::{Malformed, Reader};
use crate::lock::{MountId, RequestId};
use crate::store::seats::Seats;
use crate::store::{StoreError, Tenure};
use crate::table::Reply;

/// Seats of threads are numbered from here, those that nobody remembers below.
const OF_THREADS: u32 = 1 << 31;

thread_local! {
    /// The step of the kernel's request that this thread is about to ask for.
    static ASKED: Cell<Option<(RequestId, u8)>> = const { Cell::new(None) };
}

/// What a server answered another daemon.
#[derive(Debug)]
enum Memory {
    /// It was not asked yet.
    Unasked,
    /// These, of all that the other was answered last.
    Known(HashMap<(RequestId, u8), Vec<u8>>),
    /// It does not know any more.
    Lost,
}

/// A daemon after another, or the first of its mount.
#[derive(Debug)]
pub(super) struct Succession {
    tenure: Tenure,
    memory: Mutex<Memory>,
    /// Requests that have opened something of which there is a handle already.
    handles: Mutex<HashSet<u64>>,
    seats: Seats,
    /// How many requests were made from each seat.
    made: Mutex<HashMap<u32, u64>>,
}

/// A step is asked for as long as this lives.
#[derive(Debug)]
pub(super) struct Asked;

impl Drop for Asked {
    fn drop(&mut self) {
        ASKED.set(None);
    }
}

/// The seat of a step, and what the kernel calls its request.
#[derive(Clone, Debug)]
pub(super) struct Seated {
    /// The number of the seat.
    pub(super) seat: u32,
    /// The number of the request there.
    pub(super) request: u64,
    /// For the server to remember.
    pub(super) name: String,
}

impl Succession {
    pub(super) fn new(tenure: Tenure) -> Self {
        let memory = match tenure {
            Tenure::Begun(_) => Memory::Known(HashMap::new()),
            Tenure::TakenOver(_) => Memory::Unasked,
        };
        Self {
            tenure,
            memory: Mutex::new(memory),
            handles: Mutex::default(),
            seats: Seats::default(),
            made: Mutex::default(),
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mount that is served.
    pub(super) fn mount(&self) -> MountId {
        self.tenure.mount()
    }

    /// Whether another daemon has served it before.
    pub(super) fn is_taken_over(&self) -> bool {
        matches!(self.tenure, Tenure::TakenOver(_))
    }

    /// The next step that this thread asks for is a part of `request`.
    pub(super) fn begin(&self, request: Option<RequestId>, step: u8) -> Asked {
        ASKED.set(request.map(|request| (request, step)));
        Asked
    }

    /// The step of a request that is asked for now, once.
    pub(super) fn take_asked(&self) -> Option<(RequestId, u8)> {
        ASKED.take()
    }

    /// Whether what is asked for now opened something of which there is a handle already.
    pub(super) fn has_handle(&self) -> bool {
        let handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        ASKED.get().is_some_and(|(request, _)| handles.contains(&request.number))
    }

    /// Notes the requests that have opened something of which there are handles.
    pub(super) fn note_handles(&self, requests: impl Iterator<Item = u64>) {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner).extend(requests);
    }

    /// What the other daemon was answered.
    pub(super) fn first(&self, (request, step): (RequestId, u8)) -> Option<Vec<u8>> {
        match &*self.memory() {
            Memory::Known(known) => known.get(&(request, step)).cloned(),
            Memory::Unasked | Memory::Lost => None,
        }
    }

    /// Whether a step of a request was carried out for the other daemon.
    ///
    /// # Errors
    /// [`StoreError::Timeout`]: nobody knows.
    pub(super) fn remembers(&self, request: RequestId) -> Result<bool, StoreError> {
        match &*self.memory() {
            Memory::Known(known) => Ok(known.keys().any(|(known, _)| *known == request)),
            Memory::Unasked => Err(StoreError::Timeout(
                "redis can't be asked what it answered the daemon before this one".to_owned(),
            )),
            Memory::Lost => Err(StoreError::Timeout(
                "redis has lost what it answered the daemon before this one".to_owned(),
            )),
        }
    }

    /// A seat for a step of a request.
    pub(super) fn seat(&self, (request, step): (RequestId, u8)) -> Seated {
        let seat = OF_THREADS | self.seats.take(request);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let made = made.entry(seat).or_default();
        *made += 1;
        let name = format!("{}{:016x}{step:02x}", request.mount, request.number);
        Seated { seat, request: *made, name }
    }

    /// A seat is not used again.
    pub(super) fn give_up(&self, seat: u32) {
        self.seats.give_up(seat & !OF_THREADS);
    }

    /// Whether the server is still to be asked.
    pub(super) fn is_unasked(&self) -> bool {
        matches!(*self.memory(), Memory::Unasked)
    }

    /// Learns what the server answered the other daemon.
    pub(super) fn learn(&self, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        let is_known = reader.byte()? == b'1';
        let mut known = HashMap::new();
        while !reader.is_empty() {
            let (name, answer) = (reader.long()?, reader.long()?);
            let Some(step) = parse_name(name) else {
                continue;
            };
            let Some(text) = answer.strip_prefix(b"K").and_then(|rest| rest.get(16..)) else {
                continue;
            };
            // What was refused, or has to wait, is asked anew; and what it changed is known by now.
            let mut outcome = Reader::new(text);
            if outcome.outcome()?.is_ok_and(|reply| reply != Reply::Waits) {
                let length = text.len() - outcome.left();
                known.insert(step, text[..length].to_vec());
            }
        }
        if self.is_taken_over() {
            *self.memory() = if is_known { Memory::Known(known) } else { Memory::Lost };
        }
        Ok(())
    }
}

fn parse_name(name: &[u8]) -> Option<(RequestId, u8)> {
    let name = std::str::from_utf8(name).ok()?;
    let number = |from: usize, to: usize| u64::from_str_radix(name.get(from..to)?, 16).ok();
    let request = RequestId { mount: MountId::from_u64(number(0, 16)?), number: number(16, 32)? };
    Some((request, u8::from_str_radix(name.get(32..34)?, 16).ok()?))
}
