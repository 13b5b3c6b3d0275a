//! Commands: each becomes one script and its arguments, and the answer an outcome.
//!
//! What a step changed is noted on the way back: for what this host must be able to say again (`copies.rs`), and
//! for the looks that the kernel takes right after it (`glance`).

use super::codec::{self, Changed, Reader};
use super::copies::Learn;
use super::requests::{Answer, Gives, unreadable};
use super::script::Script;
use super::{FRESH, RedisStore, StoreError};
use crate::lock::{Ino, SessionId};
use crate::table::{
    AttributeChange, Caller, Command, Existing, New, Opening, Outcome, Refusal, RenameMode, Reply, Spot,
};

impl RedisStore {
    /// Carries out a command that is about no orphan.
    pub(super) fn carry_out(&self, command: &Command) -> Result<Outcome, StoreError> {
        match command {
            Command::Acquire { .. } => self.acquire(command),
            Command::Unlink { .. } | Command::Rmdir { .. } => self.release(command),
            Command::Link { caller, ino, spot } => {
                let (caller, ino) = (codec::caller(caller), ino.as_u64().to_be_bytes());
                let parent = spot.parent.as_u64().to_be_bytes();
                self.step(Script::Link, &[&caller, &ino, &parent, spot.name.as_bytes()], Gives::Name)
            }
            Command::Rename { caller, from, to, mode, heir } => {
                self.rename(caller, (from, to), *mode, heir.as_ref())
            }
            Command::Open { .. } => self.open_object(command),
            Command::Lock { .. } => self.lock(command),
            Command::Unlock { .. } => self.unlock(command),
            Command::Await { .. } => self.await_name(command),
            Command::Withdraw { .. } | Command::Attend { .. } | Command::Leave { .. } => {
                self.mount_step(command)
            }
            Command::Close { mount, ino } => self.close_object(*mount, *ino),
            Command::Write { caller, ino, offset, data } => {
                let offset = offset.map(|offset| offset.to_string()).unwrap_or_default();
                self.edit("write", caller, *ino, [offset.as_bytes(), data, b"", b""])
            }
            Command::Truncate { caller, ino, size } => {
                self.edit("truncate", caller, *ino, [size.to_string().as_bytes(), b"", b"", b""])
            }
            Command::Change { caller, ino, change } => self.change(caller, *ino, change),
            Command::SetTtl { caller, ino, ttl } => {
                self.edit("ttl", caller, *ino, [ttl.as_millis().to_string().as_bytes(), b"", b"", b""])
            }
            Command::SetDefaultTtl { caller, ino, ttl } => {
                let ttl = ttl.map_or("-1".to_owned(), |ttl| ttl.as_millis().to_string());
                self.edit("default-ttl", caller, *ino, [ttl.as_bytes(), b"", b"", b""])
            }
            Command::Break { caller, ino, token } => {
                let (caller, ino) = (codec::caller(caller), ino.as_u64().to_be_bytes());
                self.step(
                    Script::Hand,
                    &[b"break", &caller, &ino, &token.as_u64().to_be_bytes()],
                    Gives::Nothing,
                )
            }
            Command::Transfer { caller, ino, heir } => {
                let (caller, ino) = (codec::caller(caller), ino.as_u64().to_be_bytes());
                self.step(Script::Hand, &[b"transfer", &caller, &ino, heir.as_str().as_bytes()], Gives::Token)
            }
            Command::BeginSession { caller } => {
                self.session_step("begin", Some(caller), &caller.session.id, b"")
            }
            Command::EndSession { caller, id } => self.session_step("end", caller.as_ref(), id, b""),
            Command::MergeSession { caller, from, to } => {
                self.session_step("merge", Some(caller), from, to.as_str().as_bytes())
            }
            Command::TouchSession { caller, id, mtime } => {
                let mtime = mtime.map(|mtime| codec::wall(mtime).to_vec()).unwrap_or_default();
                self.session_step("touch", Some(caller), id, &mtime)
            }
            Command::SetSessionTtl { caller, id, ttl } => {
                self.session_step("ttl", Some(caller), id, ttl.as_millis().to_string().as_bytes())
            }
            Command::Renew { sessions } => {
                let ids: Vec<&[u8]> = sessions.iter().map(|id| id.as_str().as_bytes()).collect();
                let outcome = self.tend("renew", &ids)?;
                self.adopt(sessions)?;
                Ok(outcome)
            }
            Command::MarkEnded { sessions } => {
                let ids: Vec<&[u8]> = sessions.iter().map(|id| id.as_str().as_bytes()).collect();
                self.tend("mark", &ids)
            }
            Command::Sweep { limit } => {
                let limit = (*limit).min(1 << 30).to_string();
                let outcome = self.tend("sweep", &[limit.as_bytes()])?;
                self.tell_orphans(self.requests.now(), command);
                Ok(outcome)
            }
        }
    }

    /// What a step answered; takes note of what it changed.
    pub(super) fn take(&self, answer: &Answer, learn: Learn) -> Result<Outcome, StoreError> {
        let mut reader = Reader::new(&answer.text);
        let outcome = reader.outcome().map_err(unreadable)?;
        let changes = reader.changes().map_err(unreadable)?;
        self.copies(|copies| copies.learn(&changes, answer.now, learn)).map_err(unreadable)?;
        self.requests.tap.tell(&changes, answer.now);
        self.glances(|glances| {
            for change in &changes {
                match change {
                    Changed::Entries(ino, entries) => {
                        if let Some(glance) = glances.get_mut(ino) {
                            entries.complete(&mut glance.attributes);
                        }
                    }
                    Changed::Object(ino, _) | Changed::Gone(ino) | Changed::Released(ino) => {
                        glances.remove(ino);
                    }
                    _ => {}
                }
            }
        });
        Ok(outcome)
    }

    pub(super) fn step(&self, script: Script, args: &[&[u8]], gives: Gives) -> Result<Outcome, StoreError> {
        let answer = self.requests.step(script, args, gives)?;
        let outcome = self.take(&answer, Learn::All)?;
        self.note_found(&answer.text)?;
        if self.copies(|copies| copies.has_untold()) {
            self.tell_opens();
        }
        Ok(outcome)
    }

    fn acquire(&self, command: &Command) -> Result<Outcome, StoreError> {
        let Command::Acquire { caller, spot, new, mode, existing } = command else {
            return Ok(Err(Refusal::Invalid));
        };
        let (kind, target): (&[u8], &[u8]) = match new {
            New::File(_) => (b"1", b""),
            New::Directory => (b"2", b""),
            New::Symlink(target) => (b"3", target),
        };
        let how: &[u8] = match existing {
            Existing::Refuse => b"refuse",
            Existing::Open => b"open",
            Existing::OpenEmptied => b"empty",
        };
        let (who, parent) = (codec::caller(caller), spot.parent.as_u64().to_be_bytes());
        let mode = (*mode & 0o7777).to_string();
        // What an exclusive create makes the server is not told to be open.
        let told = match existing {
            Existing::Refuse => None,
            Existing::Open | Existing::OpenEmptied => {
                Some(self.copies(|copies| copies.opens.begin_acquire()))
            }
        };
        let told_as = told.map(|told| told.to_string()).unwrap_or_default();
        let opens = *new == New::File(Opening::Opened);
        let opening: &[u8] = if opens { b"1" } else { b"" };
        let args: [&[u8]; 9] = [
            &who,
            &parent,
            spot.name.as_bytes(),
            kind,
            mode.as_bytes(),
            how,
            target,
            told_as.as_bytes(),
            opening,
        ];
        let has_handle = self.requests.succession.has_handle();
        let outcome = self.step(Script::Acquire, &args, Gives::Name);
        let opened = match &outcome {
            _ if has_handle => None,
            Ok(Ok(Reply::Entry(made))) if opens => Some(made.ino),
            Ok(Ok(Reply::Opened(found))) => Some(found.ino),
            _ => None,
        };
        let again = self.copies(|copies| match (told, opened) {
            (Some(told), opened) => {
                let again = copies.opens.end_acquire(opened.map(|ino| (ino, caller.mount, told)));
                if let Some(ino) = opened.filter(|_| again) {
                    copies.tell_again(ino, caller.mount);
                }
                again
            }
            (None, Some(ino)) => {
                copies.opens.open_untold(ino, caller.mount);
                false
            }
            (None, None) => false,
        });
        if again {
            self.tell_opens();
        }
        if let Ok(Ok(Reply::Entry(made))) = &outcome {
            self.keep(*made, FRESH, false);
        }
        outcome
    }

    fn edit(&self, what: &str, caller: &Caller, ino: Ino, values: [&[u8]; 4]) -> Result<Outcome, StoreError> {
        let (caller, ino) = (codec::caller(caller), ino.as_u64().to_be_bytes());
        let [a, b, c, d] = values;
        self.step(Script::Edit, &[what.as_bytes(), &caller, &ino, a, b, c, d], Gives::Nothing)
    }

    fn change(&self, caller: &Caller, ino: Ino, change: &AttributeChange) -> Result<Outcome, StoreError> {
        let text = |number: Option<u32>| number.map(|number| number.to_string()).unwrap_or_default();
        let mode = text(change.mode.map(u32::from));
        let (uid, gid) = (text(change.uid), text(change.gid));
        let mtime = change.mtime.map(|mtime| codec::wall(mtime).to_vec()).unwrap_or_default();
        self.edit("change", caller, ino, [mode.as_bytes(), uid.as_bytes(), gid.as_bytes(), &mtime])
    }

    fn session_step(
        &self,
        what: &str,
        caller: Option<&Caller>,
        id: &SessionId,
        value: &[u8],
    ) -> Result<Outcome, StoreError> {
        let caller = caller.map(codec::caller).unwrap_or_default();
        let gives = if what == "merge" { Gives::Token } else { Gives::Nothing };
        self.step(Script::Session, &[what.as_bytes(), &caller, id.as_str().as_bytes(), value], gives)
    }

    fn tend(&self, what: &str, args: &[&[u8]]) -> Result<Outcome, StoreError> {
        let mut all = vec![what.as_bytes()];
        all.extend(args);
        let answer = self.requests.step(Script::Tend, &all, Gives::Nothing)?;
        self.take(&answer, Learn::Known)
    }

    /// Learns what sessions hold that this daemon has not seen: those of the daemon before it.
    fn adopt(&self, sessions: &[SessionId]) -> Result<(), StoreError> {
        let unknown = self.copies(|copies| {
            let unknown = sessions.iter().filter(|id| !copies.knows(id));
            unknown.map(|id| id.as_str().as_bytes().to_vec()).collect::<Vec<_>>()
        });
        for batch in unknown.chunks(50) {
            let args: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
            let seen = self.requests.look(Script::Mine, &args)?;
            let changes = Reader::new(&seen.text).changes().map_err(unreadable)?;
            self.copies(|copies| copies.learn(&changes, seen.now, Learn::All)).map_err(unreadable)?;
            self.requests.tap.tell(&changes, seen.now);
        }
        Ok(())
    }

    fn release(&self, command: &Command) -> Result<Outcome, StoreError> {
        let (caller, spot, what): (_, _, &[u8]) = match command {
            Command::Unlink { caller, spot } => (caller, spot, b"file"),
            Command::Rmdir { caller, spot } => (caller, spot, b"directory"),
            _ => return Ok(Err(Refusal::Invalid)),
        };
        let (caller, parent) = (codec::caller(caller), spot.parent.as_u64().to_be_bytes());
        self.step(Script::Release, &[&caller, &parent, spot.name.as_bytes(), what], Gives::Nothing)
    }

    fn rename(
        &self,
        caller: &Caller,
        (from, to): (&Spot, &Spot),
        mode: RenameMode,
        heir: Option<&SessionId>,
    ) -> Result<Outcome, StoreError> {
        let mode: &[u8] = match mode {
            RenameMode::Replace => b"replace",
            RenameMode::NoReplace => b"no-replace",
            RenameMode::Exchange => b"exchange",
        };
        let caller = codec::caller(caller);
        let parents = [from, to].map(|spot| spot.parent.as_u64().to_be_bytes());
        let heir = heir.map(SessionId::as_str).unwrap_or_default().as_bytes();
        let (from, to) = (from.name.as_bytes(), to.name.as_bytes());
        self.step(Script::Rename, &[&caller, &parents[0], from, &parents[1], to, mode, heir], Gives::Token)
    }
}
