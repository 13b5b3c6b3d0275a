//! What changes an object and leaves its names: notes, attributes, ttls.

use super::{AttributeChange, Caller, LockTable, Outcome, Refusal, Reply};
use crate::clock::Now;
use crate::lock::{Body, Ino, NOTE_MAX, Ttl};

impl LockTable {
    pub(super) fn write(
        &mut self,
        now: Now,
        caller: &Caller,
        ino: Ino,
        offset: Option<u64>,
        data: &[u8],
    ) -> Outcome {
        let length = self.note_of(now, ino)?.len();
        // write(2) of no bytes does nothing, also beyond the end.
        if data.is_empty() {
            return Ok(Reply::Entry(self.attributes_of(ino)));
        }
        let start = offset.map_or(Some(length), |offset| usize::try_from(offset).ok());
        let end = start.and_then(|start| start.checked_add(data.len()));
        let (Some(start), Some(end)) = (start, end.filter(|end| *end <= NOTE_MAX)) else {
            return Err(Refusal::TooLarge);
        };
        self.claim_to_change(now, caller, ino)?;
        self.edit_note(now, ino, |note| {
            note.resize(note.len().max(end), 0);
            note[start..end].copy_from_slice(data);
        })
    }

    pub(super) fn truncate(&mut self, now: Now, caller: &Caller, ino: Ino, size: u64) -> Outcome {
        let note = self.note_of(now, ino)?;
        let size = usize::try_from(size).ok().filter(|size| *size <= NOTE_MAX).ok_or(Refusal::TooLarge)?;
        // One that changes nothing is no change: `: > lock` by another than the holder only opens it.
        if note.len() != size {
            self.claim_to_change(now, caller, ino)?;
            return self.edit_note(now, ino, |note| note.resize(size, 0));
        }
        Ok(Reply::Entry(self.attributes_of(ino)))
    }

    fn note_of(&self, now: Now, ino: Ino) -> Result<&Vec<u8>, Refusal> {
        match &self.live(ino, now).ok_or(Refusal::Gone)?.record.body {
            Body::File(note) => Ok(note),
            Body::Directory { .. } => Err(Refusal::IsDirectory),
            Body::Symlink(_) => Err(Refusal::Invalid),
        }
    }

    fn edit_note(&mut self, now: Now, ino: Ino, edit: impl FnOnce(&mut Vec<u8>)) -> Outcome {
        let record = self.record_mut(ino);
        if let Body::File(note) = &mut record.body {
            edit(note);
        }
        record.mtime = now.wall;
        record.ctime = now.wall;
        Ok(Reply::Entry(self.attributes_of(ino)))
    }

    pub(super) fn change(&mut self, now: Now, caller: &Caller, ino: Ino, change: AttributeChange) -> Outcome {
        self.live(ino, now).ok_or(Refusal::Gone)?;
        self.claim_to_change(now, caller, ino)?;
        let record = self.record_mut(ino);
        record.mode = change.mode.map_or(record.mode, |mode| mode & 0o7777);
        record.uid = change.uid.unwrap_or(record.uid);
        record.gid = change.gid.unwrap_or(record.gid);
        record.ctime = now.wall;
        if let Some(mtime) = change.mtime {
            record.mtime = mtime;
            if let Some(directory) = self.directory_mut(ino) {
                directory.changed = None;
            }
        }
        Ok(Reply::Entry(self.attributes_of(ino)))
    }

    pub(super) fn set_ttl(&mut self, now: Now, caller: &Caller, ino: Ino, ttl: Ttl) -> Outcome {
        let object = self.live(ino, now).ok_or(Refusal::Gone)?;
        if object.record.places.is_empty() {
            return Err(Refusal::Invalid);
        }
        self.claim_to_change(now, caller, ino)?;
        let record = self.record_mut(ino);
        let before = std::mem::replace(&mut record.ttl, ttl);
        record.seen = now.boot;
        record.ctime = now.wall;
        if let Some(group) = record.session.clone().and_then(|id| self.sessions.get_mut(&id)) {
            group.leave(ino, before);
            group.enter(ino, ttl);
        }
        self.schedule(ino);
        Ok(Reply::Entry(self.attributes_of(ino)))
    }

    pub(super) fn set_default_ttl(
        &mut self,
        now: Now,
        caller: &Caller,
        ino: Ino,
        ttl: Option<Ttl>,
    ) -> Outcome {
        let object = self.live(ino, now).ok_or(Refusal::Gone)?;
        if object.directory.is_none() {
            return Err(Refusal::NotDirectory);
        }
        self.claim_to_change(now, caller, ino)?;
        let record = self.record_mut(ino);
        record.body = Body::Directory { default_ttl: ttl };
        record.ctime = now.wall;
        Ok(Reply::Entry(self.attributes_of(ino)))
    }
}
