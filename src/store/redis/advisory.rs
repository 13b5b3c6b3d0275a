//! What mounts do: what they have open, lock, wait for and let go of.
//!
//! What is let go of while the server is gone is owed: the keeper sees to it. So is what was locked where nobody knows
//! whether it was. Each request that locks has a number that rises, and whatever lets go says of which: so that what
//! is owed takes nothing away that was locked since.

use std::sync::{Mutex, PoisonError};

use super::codec::{self, Reader};
use super::copies::{Copies, Debt, Learn};
use super::requests::{Gives, Patience, Requests, unreadable};
use super::script::Script;
use super::{LockStore, RedisStore, StoreError};
use crate::clock::Now;
use crate::lock::{Claim, Ino, Kind, Mode, MountId};
use crate::table::{Command, Outcome, Refusal, Reply};

fn number(ino: Ino) -> Vec<u8> {
    ino.as_u64().to_be_bytes().to_vec()
}

fn mount_bytes(mount: MountId) -> Vec<u8> {
    mount.as_u64().to_be_bytes().to_vec()
}

fn closing(mount: MountId, ino: Ino, told: u64) -> Debt {
    vec![b"close".to_vec(), mount_bytes(mount), number(ino), told.to_string().into_bytes()]
}

/// Tells the server what mounts of this daemon have open that it should know.
///
/// # Errors
/// [`StoreError`]: it could not be told; it is to be told later.
pub(super) fn tell_opens(
    requests: &Requests,
    copies: &Mutex<Copies>,
    patience: Patience,
) -> Result<(), StoreError> {
    let copies = || copies.lock().unwrap_or_else(PoisonError::into_inner);
    let told = copies().begin_telling();
    if told.is_empty() {
        return Ok(());
    }
    let mut args = vec![b"register".to_vec()];
    for (ino, mount, told) in &told {
        args.extend([mount_bytes(*mount), number(*ino), told.to_string().into_bytes()]);
    }
    let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
    let answer = requests.step_with(Script::Share, &args, Gives::Nothing, patience);
    for (ino, mount, _) in told {
        let mut copies = copies();
        if answer.is_err() {
            copies.tell_again(ino, mount);
        }
        if let Some(told) = copies.opens.close(ino, mount) {
            copies.owe(closing(mount, ino, told));
        }
    }
    let answer = answer?;
    let mut reader = Reader::new(&answer.text);
    reader.outcome().map_err(unreadable)?.ok();
    let changes = reader.changes().map_err(unreadable)?;
    copies().learn(&changes, answer.now, Learn::Known).map_err(unreadable)
}

/// Lets go of what was owed, the oldest first.
///
/// # Errors
/// [`StoreError`]: the server can't be told now.
pub(super) fn pay_debts(requests: &Requests, copies: &Mutex<Copies>) -> Result<(), StoreError> {
    let copies = || copies.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let Some(debt) = copies().first_debt() else {
            return Ok(());
        };
        let args: Vec<&[u8]> = debt.iter().map(Vec::as_slice).collect();
        let answer = requests.step_with(Script::Share, &args, Gives::Nothing, Patience::None)?;
        let mut reader = Reader::new(&answer.text);
        reader.outcome().map_err(unreadable)?.ok();
        let changes = reader.changes().map_err(unreadable)?;
        let mut copies = copies();
        copies.paid();
        copies.learn(&changes, answer.now, Learn::Known).map_err(unreadable)?;
    }
}

impl RedisStore {
    /// A step that mounts take for themselves.
    fn share(&self, command: &Command, args: &[Vec<u8>]) -> Result<Outcome, StoreError> {
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        let answer = self.requests.step(Script::Share, &args, Gives::Nothing)?;
        let outcome = self.take(&answer, Learn::Known)?;
        self.tell_orphans(answer.now, command);
        Ok(outcome)
    }

    /// The same, and owed where it can't be done now.
    fn let_go(&self, args: Debt) -> Result<Outcome, StoreError> {
        let borrowed: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        let answer = match self.requests.step(Script::Share, &borrowed, Gives::Nothing) {
            Ok(answer) => answer,
            Err(error) => {
                self.copies(|copies| copies.owe(args));
                self.requests.call_keeper();
                return Err(error);
            }
        };
        self.take(&answer, Learn::Known)
    }

    /// It is as open as before it was told of.
    fn end_telling(&self, mount: MountId, ino: Ino, is_told: bool) {
        let closed = self.copies(|copies| {
            if !is_told {
                copies.opens.not_told(ino, mount);
            }
            copies.opens.close(ino, mount)
        });
        if let Some(told) = closed {
            self.let_go(closing(mount, ino, told)).ok();
        }
    }

    pub(super) fn open_object(&self, command: &Command) -> Result<Outcome, StoreError> {
        let Command::Open { caller, ino, emptied } = command else {
            return Ok(Err(Refusal::Invalid));
        };
        if self.requests.succession.has_handle() {
            return self.stat_again(*ino);
        }
        // From before it is asked: whoever closes it meanwhile must not tell the server that it was the last.
        let told = self.copies(|copies| copies.opens.begin_open(*ino, caller.mount));
        let outcome = match told {
            None if !emptied => self.stat_again(*ino),
            _ => {
                let (who, object) = (codec::caller(caller), number(*ino));
                let how: &[u8] = if *emptied { b"empty" } else { b"" };
                let told = told.map(|told| told.to_string()).unwrap_or_default();
                self.step(Script::Open, &[&who, &object, how, told.as_bytes()], Gives::Nothing)
            }
        };
        if !matches!(&outcome, Ok(Ok(Reply::Opened(found))) if found.kind != Kind::Directory) {
            // The server may know all the same, where nobody knows what became of it.
            self.end_telling(caller.mount, *ino, outcome.is_err() || told.is_none());
        }
        outcome
    }

    fn stat_again(&self, ino: Ino) -> Result<Outcome, StoreError> {
        let found = LockStore::stat(self, ino)?;
        Ok(found.ok_or(Refusal::Gone).map(Reply::Opened))
    }

    pub(super) fn close_object(&self, mount: MountId, ino: Ino) -> Result<Outcome, StoreError> {
        match self.copies(|copies| copies.opens.close(ino, mount)) {
            Some(told) => self.let_go(closing(mount, ino, told)),
            None => Ok(Ok(Reply::Done)),
        }
    }

    pub(super) fn lock(&self, command: &Command) -> Result<Outcome, StoreError> {
        let Command::Lock { caller, ino, claim, waiting } = command else {
            return Ok(Err(Refusal::Invalid));
        };
        let (mark, opens) = self.copies(|copies| (copies.next_mark(), copies.opens.begin_telling(*ino)));
        let (who, object, what) = (codec::caller(caller), number(*ino), codec::claim(claim));
        let request = waiting.map(|waiting| waiting.request.to_be_bytes().to_vec()).unwrap_or_default();
        let alone: &[u8] = if waiting.is_some_and(|waiting| waiting.alone) { b"1" } else { b"0" };
        let text = mark.to_string();
        let told: Vec<u8> = opens.iter().flat_map(|(mount, told)| codec::numbered(*mount, *told)).collect();
        let args: [&[u8]; 7] = [&who, &object, &what, &request, alone, text.as_bytes(), &told];
        let outcome = self.step(Script::Lock, &args, Gives::Grant);
        let is_told = !matches!(outcome, Ok(Err(Refusal::Gone | Refusal::Invalid)));
        opens.iter().for_each(|(mount, _)| self.end_telling(*mount, *ino, is_told));
        if outcome.is_err() {
            let only = [mark.to_string().into_bytes(), mark.to_string().into_bytes()];
            let [upto, from] = only;
            let debt = vec![b"unlock".to_vec(), mount_bytes(caller.mount), object, what, upto, from];
            self.copies(|copies| copies.owe(debt));
            self.requests.call_keeper();
        }
        outcome
    }

    pub(super) fn unlock(&self, command: &Command) -> Result<Outcome, StoreError> {
        let Command::Unlock { mount, ino, style, key, range } = command else {
            return Ok(Err(Refusal::Invalid));
        };
        let mode = Mode::Exclusive;
        let claim = Claim { style: *style, mode, range: *range, key: *key, pid: 0 };
        let upto = self.copies(|copies| copies.last_mark()).to_string().into_bytes();
        self.let_go(vec![
            b"unlock".to_vec(),
            mount_bytes(*mount),
            number(*ino),
            codec::claim(&claim),
            upto,
            b"0".to_vec(),
        ])
    }

    pub(super) fn await_name(&self, command: &Command) -> Result<Outcome, StoreError> {
        let Command::Await { caller, spot, mode, waiting } = command else {
            return Ok(Err(Refusal::Invalid));
        };
        let (who, parent) = (codec::caller(caller), number(spot.parent));
        let mode = (*mode & 0o7777).to_string();
        let request = waiting.request.to_be_bytes();
        let alone: &[u8] = if waiting.alone { b"1" } else { b"0" };
        let args: [&[u8]; 6] = [&who, &parent, spot.name.as_bytes(), mode.as_bytes(), &request, alone];
        let has_handle = self.requests.succession.has_handle();
        let outcome = self.step(Script::Await, &args, Gives::Name)?;
        if let Ok(Reply::Entry(made)) = &outcome
            && !has_handle
        {
            self.copies(|copies| copies.opens.open_untold(made.ino, caller.mount));
        }
        Ok(outcome)
    }

    pub(super) fn mount_step(&self, command: &Command) -> Result<Outcome, StoreError> {
        match command {
            Command::Withdraw { id } => {
                let request = id.request.to_be_bytes().to_vec();
                self.let_go(vec![b"withdraw".to_vec(), mount_bytes(id.mount), request])
            }
            Command::Attend { mount } => {
                let now = self.requests.now();
                let must_be_there = self.copies(|copies| copies.is_attended(mount.id, now));
                let state: &[u8] = if must_be_there { b"there" } else { b"" };
                let args = [b"attend".to_vec(), mount_bytes(mount.id), codec::lease(mount), state.to_vec()];
                let borrowed: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
                let answer = self.requests.step(Script::Share, &borrowed, Gives::Nothing)?;
                let outcome = self.take(&answer, Learn::Known)?;
                self.copies(|copies| copies.attended(mount, answer.now));
                self.tell_orphans(answer.now, command);
                let was_there = outcome == Ok(Reply::Count(1));
                self.waker.attend(&self.requests, mount.id, was_there);
                Ok(outcome)
            }
            Command::Leave { mounts } => {
                let mut args = vec![b"leave".to_vec()];
                args.extend(mounts.iter().map(|mount| mount_bytes(*mount)));
                let outcome = self.share(command, &args)?;
                self.waker.leave(mounts);
                Ok(outcome)
            }
            _ => Ok(Err(Refusal::Invalid)),
        }
    }

    /// Lets orphans know of what is about mounts.
    pub(super) fn tell_orphans(&self, now: Now, command: &Command) {
        let wakes = self.copies(|copies| copies.tell_orphans(now, command));
        self.waker.tell(&self.requests, wakes);
    }

    /// Tells the server what it should know, or sees to it that the keeper does.
    pub(super) fn tell_opens(&self) {
        if tell_opens(&self.requests, &self.copies, Patience::Command).is_err() {
            self.requests.call_keeper();
        }
    }

    /// Notes what was found at an open, in an answer that begins with it.
    pub(super) fn note_found(&self, text: &[u8]) -> Result<(), StoreError> {
        if let Some((b'O', rest)) = text.split_first() {
            let (attributes, record) = Reader::new(rest).found_with_record().map_err(unreadable)?;
            self.copies(|copies| copies.found(&attributes, record));
        }
        Ok(())
    }
}
