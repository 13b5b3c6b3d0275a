//! The store on Redis beside another: what the hybrid store needs that nobody else does. It is opened though the
//! server is gone, says when the server was last heard, and tells what there is.

use std::sync::Arc;

use super::codec::Reader;
use super::requests::{Gives, Patience, unreadable};
use super::script::Script;
use super::{Options, RedisStore, tap};
use crate::clock::{BootTime, Clock};
use crate::lock::{Attributes, Ino, MountId, Name, RequestId, Token};
use crate::store::StoreError;
use crate::table::{Command, Outcome, Told, View};

/// How many objects one look asks for.
const BATCH: usize = 200;

/// How many a page of a dump has, about.
const PAGE: usize = 500;

/// How it stands with the server.
#[derive(Clone, Debug)]
pub(in crate::store) struct Pulse {
    /// When it last answered.
    pub(in crate::store) heard: BootTime,
    /// Why it counts as gone; `None` while it is there.
    pub(in crate::store) gone: Option<String>,
    /// The server's clock less ours, in nanoseconds.
    pub(in crate::store) offset: i128,
    /// Whether other hosts have the namespace mounted.
    pub(in crate::store) has_others: bool,
}

/// A name that was let go of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Dropped {
    /// The object.
    pub(in crate::store) ino: Ino,
    /// The token by which it was held.
    pub(in crate::store) token: Token,
    /// The directory.
    pub(in crate::store) parent: Ino,
    /// The name in it.
    pub(in crate::store) name: Name,
}

impl RedisStore {
    /// Opens the namespace, and goes on where the server can't be reached: it is there later. `offset` is the
    /// server's clock less ours as it was last known, in nanoseconds.
    ///
    /// # Errors
    /// [`StoreError::Failed`]: the server is not to be used, or another machine has this host's name.
    pub(in crate::store) fn open_beside(
        options: &Options,
        clock: Arc<dyn Clock>,
        offset: i128,
    ) -> Result<Self, StoreError> {
        let store = Self::prepare(options, clock)?;
        store.requests.known(|known| known.offset = offset);
        store.tap().open();
        match store.keeper.settle() {
            Ok(()) => store.warn(),
            Err(StoreError::Unavailable(why) | StoreError::Timeout(why)) => store.requests.note_gone(&why),
            Err(error) => return Err(error),
        }
        store.start().map_err(|error| StoreError::Failed(error.to_string()))?;
        Ok(store)
    }

    fn tap(&self) -> &tap::Tap {
        &self.requests.tap
    }

    /// How it stands with the server.
    pub(in crate::store) fn pulse(&self) -> Pulse {
        let (gone, offset) = self.requests.known(|known| (known.gone.clone(), known.offset));
        let has_others = self.keeper.has_others();
        Pulse { heard: self.requests.heard(), gone: gone.map(|gone| gone.why), offset, has_others }
    }

    /// What a request was answered when the daemon before this one asked for it, as far as that is known here.
    pub(in crate::store) fn first_outcome(
        &self,
        request: RequestId,
        command: &Command,
    ) -> Result<Option<Outcome>, StoreError> {
        let text = self.requests.succession.first((request, command.number()));
        text.map(|text| Reader::new(&text).outcome().map_err(unreadable)).transpose()
    }

    /// Carries out a command on what has no name and is open here, which nobody but this daemon knows.
    pub(in crate::store) fn on_orphan(&self, command: &Command) -> Option<Outcome> {
        let now = self.requests.now();
        let (outcome, wakes) = self.copies(|copies| copies.execute(now, command))?;
        self.waker.tell(&self.requests, wakes);
        Some(outcome)
    }

    /// What stat(2) tells of such a thing.
    pub(in crate::store) fn stat_orphan(&self, ino: Ino) -> Option<Option<Attributes>> {
        self.copies(|copies| copies.stat(self.requests.now(), ino))
    }

    /// Everything known of such a thing.
    pub(in crate::store) fn view_orphan(&self, ino: Ino) -> Option<Option<View>> {
        self.copies(|copies| copies.view(self.requests.now(), ino))
    }

    /// What mounts of this daemon have open, and how often.
    pub(in crate::store) fn opens(&self) -> Vec<(Ino, MountId, u32)> {
        self.copies(|copies| copies.opens.all())
    }

    /// What own steps changed since the last time.
    pub(in crate::store) fn drain_own(&self) -> Vec<Told> {
        self.tap().drain(self.requests.now().boot)
    }

    /// Whether own steps changed something since the last time.
    pub(in crate::store) fn has_own(&self) -> bool {
        !self.tap().is_empty()
    }

    /// What other hosts' steps changed since the last time.
    pub(in crate::store) fn drain_foreign(&self) -> Vec<Ino> {
        self.tap().drain_foreign()
    }

    /// Whether steps of others may have gone unheard since the last time.
    pub(in crate::store) fn has_missed(&self) -> bool {
        self.tap().take_gap()
    }

    /// What a look at `at` said, without what an own step has changed since.
    pub(in crate::store) fn news(&self, at: BootTime, told: Vec<Told>) -> Vec<Told> {
        self.tap().news(at, told)
    }

    /// What the server has of some objects, and at what time on its clock it was asked first.
    ///
    /// # Errors
    /// [`StoreError`]: it can't say.
    pub(in crate::store) fn tell(&self, objects: &[Ino]) -> Result<(BootTime, Vec<Told>), StoreError> {
        let (mut told, mut first) = (Vec::new(), None);
        for batch in objects.chunks(BATCH) {
            let numbers: Vec<[u8; 8]> = batch.iter().map(|ino| ino.as_u64().to_be_bytes()).collect();
            let args: Vec<&[u8]> = numbers.iter().map(<[u8; 8]>::as_slice).collect();
            let seen = self.requests.look(Script::Tell, &args)?;
            if !seen.is_settled {
                return Err(super::unsettled());
            }
            let changes = Reader::new(&seen.text).changes().map_err(unreadable)?;
            told.extend(tap::read_told(&changes));
            first = first.or(Some(seen.now.boot));
        }
        Ok((first.unwrap_or_default(), told))
    }

    /// A page of all that the server has of a kind, from `cursor` on; when it was asked, and where the next begins.
    ///
    /// # Errors
    /// [`StoreError`]: it can't say.
    pub(in crate::store) fn dump(
        &self,
        kind: &[u8],
        cursor: &[u8],
    ) -> Result<(BootTime, Vec<u8>, Vec<Told>), StoreError> {
        let args = [kind, cursor, PAGE.to_string().as_bytes()].map(<[u8]>::to_vec);
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        let seen = self.requests.look(Script::Dump, &args)?;
        if !seen.is_settled {
            return Err(super::unsettled());
        }
        let mut reader = Reader::new(&seen.text);
        let next = reader.long().map_err(unreadable)?.to_vec();
        let changes = reader.changes().map_err(unreadable)?;
        Ok((seen.now.boot, next, tap::read_told(&changes)))
    }

    /// Lets go of names that this host let go of when the server could not be reached; of each only where it is
    /// held by the token that it was held by then. Returns how many were.
    ///
    /// # Errors
    /// [`StoreError`]: it can't say; they are to be let go of again.
    pub(in crate::store) fn settle_names(&self, names: &[Dropped]) -> Result<u64, StoreError> {
        let mut count = 0;
        for batch in names.chunks(BATCH) {
            let words: Vec<[Vec<u8>; 4]> = batch
                .iter()
                .map(|name| {
                    let number = |number: u64| number.to_be_bytes().to_vec();
                    [
                        number(name.ino.as_u64()),
                        number(name.token.as_u64()),
                        number(name.parent.as_u64()),
                        name.name.as_bytes().to_vec(),
                    ]
                })
                .collect();
            let args: Vec<&[u8]> = words.iter().flatten().map(Vec::as_slice).collect();
            let answer = self.requests.step_with(Script::Settle, &args, Gives::Nothing, Patience::Command)?;
            let mut reader = Reader::new(&answer.text);
            reader.byte().map_err(unreadable)?;
            count += reader.number().map_err(unreadable)?;
            let changes = reader.changes().map_err(unreadable)?;
            self.copies(|copies| copies.learn(&changes, answer.now, super::copies::Learn::Known))
                .map_err(unreadable)?;
            self.tap().tell(&changes, answer.now);
        }
        Ok(count)
    }
}
