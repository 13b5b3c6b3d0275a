//! Seats: where the outcome of each request under way is remembered, until its thread makes another.
//!
//! A request of the kernel's that was carried out may not have been answered when its daemon ends; whoever takes over
//! the mount is asked it again. So the outcome of each step that gave or changed something is kept with the step
//! itself, in a seat of the thread that made it.
//!
//! The invariant: a thread that makes another request has answered the one before. So a seat is not overwritten while
//! its request may be asked again, and there are no more seats than threads and steps of one request.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use crate::clock::BootTime;
use crate::lock::{Ino, MountId, RequestId};
use crate::table::Reply;

/// A seat: of which daemon, by the epoch of its store, and which of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeatId(u64);

impl SeatId {
    pub(super) const fn new(epoch: u32, number: u32) -> Self {
        Self((epoch as u64) << 32 | number as u64)
    }

    pub(super) const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    pub(super) const fn as_u64(self) -> u64 {
        self.0
    }
}

/// What a step of a request was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Where that is remembered.
    pub(super) seat: SeatId,
    pub(super) request: RequestId,
    /// Which step of it: a request makes no two of one kind.
    pub(super) step: u8,
    pub(super) reply: Reply,
}

/// How long what daemons before this one were asked may still be asked again: longer than any answer takes.
const ASKED_AGAIN: Duration = Duration::from_secs(60);

/// All that is remembered of a table's steps.
#[derive(Debug, Default)]
pub(super) struct Answers {
    by_step: HashMap<(RequestId, u8), (SeatId, Reply)>,
    by_seat: HashMap<SeatId, (RequestId, u8)>,
    /// The seats of daemons before this one.
    earlier: BTreeSet<SeatId>,
    /// The epoch of this one.
    epoch: u32,
    since: BootTime,
}

impl Answers {
    /// What daemons before this one answered; this one begins in `epoch` at `since`.
    pub(super) fn new(epoch: u32, since: BootTime, earlier: Vec<Answered>) -> Self {
        let mut answers = Self { epoch, since, ..Self::default() };
        for answered in earlier {
            answers.earlier.insert(answered.seat);
            answers.remember(answered);
        }
        answers
    }

    /// The seat of this daemon with that number.
    pub(super) fn seat(&self, number: u32) -> SeatId {
        SeatId::new(self.epoch, number)
    }

    /// What a step was answered when it was carried out.
    pub(super) fn first(&self, request: RequestId, step: u8) -> Option<Reply> {
        self.by_step.get(&(request, step)).map(|(_, reply)| reply.clone())
    }

    /// Whether any step of a request was carried out.
    pub(super) fn has(&self, request: RequestId) -> bool {
        (0..u8::MAX).any(|step| self.by_step.contains_key(&(request, step)))
    }

    /// What requests of a mount have opened that were answered in an earlier daemon, if they were; each by its number.
    pub(super) fn opened(&self, mount: MountId) -> Vec<(Ino, u64)> {
        let earlier = self.by_step.iter().filter(|(_, (seat, _))| self.earlier.contains(seat));
        let of_mount = earlier.filter(|((request, _), _)| request.mount == mount);
        let opened = of_mount.filter_map(|((request, _), (_, reply))| match reply {
            Reply::Entry(found) | Reply::Opened(found) => Some((found.ino, request.number)),
            _ => None,
        });
        opened.collect()
    }

    /// Enters what a step was answered, in the place of what its seat had.
    pub(super) fn remember(&mut self, answered: Answered) {
        let Answered { seat, request, step, reply } = answered;
        self.forget(seat);
        self.by_seat.insert(seat, (request, step));
        self.by_step.insert((request, step), (seat, reply));
    }

    /// Forgets what a seat has.
    pub(super) fn forget(&mut self, seat: SeatId) {
        if let Some(step) = self.by_seat.remove(&seat) {
            self.by_step.remove(&step);
        }
    }

    /// Forgets what is never asked again: of mounts that are gone, and after a while of the daemons before this one.
    /// Returns the seats.
    pub(super) fn forget_old(&mut self, now: BootTime, gone: &[MountId]) -> Vec<SeatId> {
        let mut old = Vec::new();
        if now.since(self.since) >= ASKED_AGAIN {
            old.extend(std::mem::take(&mut self.earlier));
        }
        if !gone.is_empty() {
            let of_gone = self.by_seat.iter().filter(|(_, (request, _))| gone.contains(&request.mount));
            old.extend(of_gone.map(|(seat, _)| *seat));
        }
        old.iter().for_each(|seat| self.forget(*seat));
        old
    }
}

/// The seats of each thread.
#[derive(Debug, Default)]
pub(super) struct Seats(Mutex<Desks>);

#[derive(Debug, Default)]
struct Desks {
    by_thread: HashMap<ThreadId, Desk>,
    last: u32,
}

/// What one thread has.
#[derive(Debug, Default)]
struct Desk {
    request: Option<RequestId>,
    seats: Vec<u32>,
    used: usize,
}

impl Seats {
    /// A seat of this thread for a step of `request` that gives or changes something.
    pub(super) fn take(&self, request: RequestId) -> u32 {
        let mut desks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Desks { by_thread, last } = &mut *desks;
        let desk = by_thread.entry(std::thread::current().id()).or_default();
        if desk.request != Some(request) {
            (desk.request, desk.used) = (Some(request), 0);
        }
        if desk.used == desk.seats.len() {
            *last += 1;
            desk.seats.push(*last);
        }
        desk.used += 1;
        desk.seats[desk.used - 1]
    }

    /// The seat that was taken last is not used again, by whomever.
    pub(super) fn give_up(&self, number: u32) {
        let mut desks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(desk) = desks.by_thread.get_mut(&std::thread::current().id())
            && let Some(at) = desk.seats.iter().position(|seat| *seat == number)
        {
            desk.seats.remove(at);
            desk.used = desk.used.min(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::MountId;

    const fn request(number: u64) -> RequestId {
        RequestId { mount: MountId::from_u64(1), number }
    }

    #[test]
    fn steps_of_one_request_have_seats_of_their_own_and_the_next_request_has_them_again() {
        let seats = Seats::default();
        assert_eq!([1, 1, 2, 2, 2].map(|number| seats.take(request(number))), [1, 2, 1, 2, 3]);
    }

    #[test]
    fn threads_share_no_seat() {
        let seats = Seats::default();
        let ours = seats.take(request(1));
        let theirs =
            std::thread::scope(|scope| scope.spawn(|| seats.take(request(2))).join()).expect("a number");
        assert_ne!(ours, theirs);
        seats.give_up(ours);
        assert!(![ours, theirs].contains(&seats.take(request(3))));
    }
}
