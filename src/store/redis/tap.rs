//! The tap: what this store's own steps changed, and which objects those of others did, for whoever mirrors it.
//!
//! Of each thing only the last word is kept, by the time on the server's clock at which it was said: the answers of
//! two steps may come in the wrong order. Nothing is kept while nobody mirrors the store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::codec::{Changed, Malformed, Reader, Stored};
use crate::clock::{BootTime, Now};
use crate::lock::{Event, Ino, SessionId};
use crate::table::{Note, Told};

/// For how long it is known what an own step was the last to change: longer than its event is on its way.
const REMEMBERED: Duration = Duration::from_secs(10);

/// Bytes of a session: its record, and the names that it lost.
type SessionBytes = (Arc<[u8]>, Arc<[u8]>);

/// The tap.
#[derive(Debug, Default)]
pub(super) struct Tap {
    is_open: AtomicBool,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// What the record of each is; `None` where it is gone.
    objects: HashMap<Ino, Option<Arc<[u8]>>>,
    notes: HashMap<Ino, (BootTime, Arc<[u8]>)>,
    sessions: HashMap<SessionId, (BootTime, Option<SessionBytes>)>,
    /// When an own step last changed it.
    own: HashMap<Ino, BootTime>,
    /// What others changed, and when.
    foreign: HashMap<Ino, BootTime>,
    /// Whether events may have been missed.
    has_gap: bool,
}

impl Tap {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on somebody mirrors the store.
    pub(super) fn open(&self) {
        self.is_open.store(true, Ordering::Release);
    }

    /// A step of this store changed these at `now`.
    pub(super) fn tell(&self, changes: &[Changed], now: Now) {
        if changes.is_empty() || !self.is_open.load(Ordering::Acquire) {
            return;
        }
        let at = now.boot;
        let mut kept = self.kept();
        for change in changes {
            match change {
                Changed::Object(ino, record) => kept.object(*ino, at, Some(Arc::clone(record))),
                Changed::Released(ino) | Changed::Gone(ino) => kept.object(*ino, at, None),
                Changed::Note(ino, note) => {
                    let newest = kept.notes.get(ino).is_none_or(|(then, _)| *then <= at);
                    if newest {
                        kept.notes.insert(*ino, (at, Arc::clone(note)));
                    }
                }
                Changed::Session(id, record, lost) => {
                    kept.session(id, at, Some((Arc::clone(record), Arc::clone(lost))));
                }
                Changed::SessionGone(id) => kept.session(id, at, None),
                Changed::Entries(..) | Changed::Share(..) | Changed::MountGone(_) => {}
            }
        }
    }

    /// An event of any host was heard.
    pub(super) fn hear(&self, event: &Event, ino: Ino) {
        if ino.as_u64() == 0 || !self.is_open.load(Ordering::Acquire) {
            return;
        }
        let nanos = event.at.since(crate::clock::WallTime::default()).as_nanos();
        let at = BootTime::from_nanos(u64::try_from(nanos).unwrap_or_default());
        let mut kept = self.kept();
        if kept.own.get(&ino).is_none_or(|own| *own < at) {
            kept.foreign.insert(ino, at);
        }
    }

    /// Events were missed.
    pub(super) fn miss(&self) {
        self.kept().has_gap = true;
    }

    /// What own steps changed since the last time.
    pub(super) fn drain(&self, now: BootTime) -> Vec<Told> {
        let (objects, mut notes, sessions) = {
            let mut kept = self.kept();
            kept.own.retain(|_, at| now.since(*at) < REMEMBERED);
            (
                std::mem::take(&mut kept.objects),
                std::mem::take(&mut kept.notes),
                std::mem::take(&mut kept.sessions),
            )
        };
        let mut told = Vec::with_capacity(objects.len() + sessions.len());
        for (id, (_, session)) in sessions {
            told.push(match session {
                Some(bytes) => read_session(id, &bytes),
                None => Ok(Told::Over(id)),
            });
        }
        for (ino, record) in objects {
            let note = notes.remove(&ino).map(|(_, note)| note);
            told.push(match record {
                Some(record) => read_object(ino, &record, note.as_deref()),
                None => Ok(Told::Gone(ino)),
            });
        }
        let readable = told.into_iter().filter_map(|one| {
            one.inspect_err(|error| log::warn!("redis said what can't be mirrored: {error}")).ok()
        });
        readable.collect()
    }

    /// Whether anything of own steps waits.
    pub(super) fn is_empty(&self) -> bool {
        let kept = self.kept();
        kept.objects.is_empty() && kept.sessions.is_empty()
    }

    /// What others changed since the last time, as far as no own step did since.
    pub(super) fn drain_foreign(&self) -> Vec<Ino> {
        let mut kept = self.kept();
        let foreign = std::mem::take(&mut kept.foreign);
        let is_news = |(ino, at): &(Ino, BootTime)| kept.own.get(ino).is_none_or(|own| own < at);
        foreign.into_iter().filter(is_news).map(|(ino, _)| ino).collect()
    }

    /// What a look at `at` said, without what an own step has changed since.
    pub(super) fn news(&self, at: BootTime, mut told: Vec<Told>) -> Vec<Told> {
        let kept = self.kept();
        let is_news = |ino: &Ino| kept.own.get(ino).is_none_or(|own| *own <= at);
        told.retain(|one| match one {
            Told::Object(record, _) => is_news(&record.ino),
            Told::Gone(ino) => is_news(ino),
            Told::Session(_) | Told::Over(_) => true,
        });
        told
    }

    /// Whether events were missed since the last time.
    pub(super) fn take_gap(&self) -> bool {
        std::mem::take(&mut self.kept().has_gap)
    }
}

impl Kept {
    fn object(&mut self, ino: Ino, at: BootTime, record: Option<Arc<[u8]>>) {
        let newest = self.own.get(&ino).is_none_or(|then| *then <= at);
        if newest {
            self.own.insert(ino, at);
            self.objects.insert(ino, record);
        }
    }

    fn session(&mut self, id: &SessionId, at: BootTime, session: Option<SessionBytes>) {
        if self.sessions.get(id).is_none_or(|(then, _)| *then <= at) {
            self.sessions.insert(id.clone(), (at, session));
        }
    }
}

fn read_object(ino: Ino, record: &[u8], note: Option<&[u8]>) -> Result<Told, Malformed> {
    let stored = Stored::parse(ino, record)?;
    let size = stored.attributes().size;
    Ok(match note {
        Some(note) if note.len() as u64 == size => Told::Object(Box::new(stored.with(note)), Note::Told),
        _ if size == 0 => Told::Object(Box::new(stored.with(b"")), Note::Told),
        _ => Told::Object(Box::new(stored.with(b"")), Note::Kept(size)),
    })
}

fn read_session(id: SessionId, (record, lost): &SessionBytes) -> Result<Told, Malformed> {
    Reader::new(record).session_with(id, lost).map(|session| Told::Session(Box::new(session)))
}

/// Whether a change is told of.
pub(super) fn is_told(change: &Changed) -> bool {
    !matches!(change, Changed::Note(..) | Changed::Entries(..) | Changed::Share(..) | Changed::MountGone(_))
}

/// What a look said of all that it was asked for: its last words count.
pub(super) fn read_told(changes: &[Changed]) -> Vec<Told> {
    let tap = Tap::default();
    tap.open();
    tap.tell(changes, Now::default());
    tap.drain(BootTime::default())
}
