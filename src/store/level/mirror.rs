//! The LevelDB store as the mirror of another store, in the place of which it decides while that is gone.
//!
//! It is an ordinary store, which the leveldb backend opens as well. What tells it apart is the clock that its
//! records count on: that of the other store, which has a name of its own where others have a boot. What is found in
//! a store that counts on a boot is this host's alone: it gets numbers as such, and is brought to the other store as
//! soon as that can be reached.

use std::path::Path;
use std::sync::Arc;

use super::log::{BatchLog, Opened};
use super::{LevelError, LevelJournal, LevelStore, Write, borrowed, codec};
use crate::clock::{BootId, Clock};
use crate::lock::{Ino, Record, Session, Token};
use crate::store::Durability;
use crate::store::migrate::{Closing, ClosingKind};
use crate::table::{Change, LockTable};

/// The name of the other store's clock.
pub(super) const CLOCK: &str = "clock of redis";

/// What makes a number one that a host gave by itself.
const OF_HOST: u64 = (Token::HOST_EPOCH as u64) << 32;

impl LevelStore {
    /// Opens the store in `dir` as a mirror, or makes one there; `clock` is that of the store that it mirrors, which is at
    /// `place`: what has moved there is told by it again.
    ///
    /// # Errors
    /// [`LevelError`]: someone else has it, it is damaged, or the system refuses something.
    pub(in crate::store) fn open_mirror(
        dir: &Path,
        durability: Durability,
        clock: Arc<dyn Clock>,
        place: &str,
        (uid, gid): (u32, u32),
    ) -> Result<Self, LevelError> {
        let Opened { mut log, mut entries, .. } = BatchLog::open(dir, durability)?;
        if let Some((_, why)) = entries.iter().find(|(key, _)| key == codec::CLOSING) {
            let has_moved_there =
                |closing: &Closing| closing.kind == ClosingKind::Moved && closing.place == place;
            if !Closing::parse(why).as_ref().is_some_and(has_moved_there) {
                return Err(LevelError::Closed { dir: dir.to_owned(), why: Closing::shown(why) });
            }
            let moved: Vec<Write> = entries.iter().map(|(key, _)| (key.clone(), None)).collect();
            log.commit(&borrowed(&moved))?;
            entries.clear();
        }
        let damaged = |what: String| LevelError::Damaged { dir: dir.to_owned(), what };
        let (now, counts_on) = (clock.now(), BootId::new(CLOCK));
        let mut kept = codec::Contents::read(entries, now, &counts_on).map_err(damaged)?;
        let is_mirror = kept.boot.as_ref() == Some(&counts_on);
        let seconds = Token::HOST_EPOCH | u32::try_from(now.wall.secs()).unwrap_or(0);
        let epoch = kept.epoch.map_or(seconds, |last| seconds.max(last.saturating_add(1)));
        log.commit(&[(codec::EPOCH, Some(&epoch.to_le_bytes()))])?;
        let mut outdated = Vec::new();
        if !is_mirror {
            outdated.extend(kept.records.iter().map(|record| codec::key_of(record.ino)));
            kept.records.iter_mut().for_each(number_as_own);
            kept.sessions.iter_mut().for_each(|session| number_session_as_own(session, now.boot));
        }
        let is_new = kept.records.is_empty();
        let table = match is_new {
            true => LockTable::new(epoch, uid, gid, now),
            false => LockTable::restore(epoch, kept.records, kept.sessions).map_err(damaged)?,
        };
        if !is_mirror {
            // All of it in one batch: a store of two kinds of numbers is none.
            let (objects, sessions) = table.contents();
            let objects = objects.into_iter().map(Change::Object);
            let changes = objects.chain(sessions.into_iter().map(Change::Session));
            let mut writes: Vec<Write> = outdated.into_iter().map(|key| (key, None)).collect();
            writes.extend(changes.map(|change| codec::write(&table, &change, now)));
            writes.push((codec::BOOT.to_vec(), Some(CLOCK.as_bytes().to_vec())));
            log.commit(&borrowed(&writes))?;
        }
        Ok(Self::new(table, clock, LevelJournal::new(dir, durability, log)?))
    }
}

fn own(number: u64) -> u64 {
    if number == Ino::ROOT.as_u64() { number } else { number | OF_HOST }
}

fn number_as_own(record: &mut Record) {
    record.ino = Ino::from_u64(own(record.ino.as_u64()));
    record.token = Token::from_u64(own(record.token.as_u64()));
    for place in &mut record.places {
        place.parent = Ino::from_u64(own(place.parent.as_u64()));
        place.cookie = Token::from_u64(own(place.cookie.as_u64()));
    }
}

fn number_session_as_own(session: &mut Session, now: crate::clock::BootTime) {
    session.ino = Ino::from_u64(own(session.ino.as_u64()));
    session.lost.iter_mut().for_each(|(parent, _)| *parent = Ino::from_u64(own(parent.as_u64())));
    // While no daemon was there nobody could be granted what it held: that time does not count.
    session.seen = now;
}
