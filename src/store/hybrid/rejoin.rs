//! The way back to Redis, in this order: its generation and epoch are seen to already, by its keeper, who has also
//! said what this host held when it went. What this host holds there still is renewed, and the rest was lost; it
//! hears what was let go of; what this host granted alone is acquired there, as by anybody. Then it decides again.
//!
//! The invariants: nothing that others hold by now is touched. A lock that Redis can't give, because another has it,
//! is lost, and its holder is told. What breaks off can be done again: what was acquired for a session is its own.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use super::owed::Debt;
use super::state::{Signal, State};
use super::{Pair, Replay};
use crate::lock::Claim;
use crate::lock::{
    Attributes, Body, Event, EventKind, Grant, Ino, Kind, MountId, Record, Session, SessionId, SessionKind,
    Token, Ttl,
};
use crate::store::redis::Dropped;
use crate::store::{LockStore, StoreError};
use crate::table::{
    AttributeChange, Begin, Caller, Claimant, Command, Existing, New, Opening, Outcome, Refusal, Reply, Spot,
};

/// How many sessions one step renews.
const BATCH: usize = 500;

/// What came of it.
#[derive(Debug, Default)]
struct Home {
    /// By which number Redis knows what this host granted.
    objects: HashMap<Ino, Ino>,
    promoted: Vec<Dropped>,
    lost: Vec<(SessionId, Spot)>,
    let_go: u64,
}

impl Pair {
    /// Brings all to Redis, and lets it decide again.
    pub(super) fn rejoin(&self) {
        // Who decided something by himself has finished.
        let replay = std::mem::take(&mut *self.local.lock().unwrap_or_else(PoisonError::into_inner));
        let outcome = self.replay(replay).and_then(|()| self.bring_home());
        let outcome = outcome.and_then(|()| self.remember(false));
        let now = self.system.now().boot;
        let state = self.standing(|standing| {
            let signal = if outcome.is_ok() { Signal::Rejoined } else { Signal::NotRejoined };
            standing.era += 1;
            standing.is_synced = false;
            standing.tally.rejoins += u64::from(outcome.is_ok());
            standing.machine.hear(now, signal)
        });
        self.changed.notify_all();
        match outcome {
            Ok(()) if state == State::Cluster => log::info!("redis is back, and decides again"),
            Ok(()) => {}
            Err(error) => log::warn!("what this host did by itself could not be brought to redis: {error}"),
        }
    }

    /// What this daemon's opens and closes came to meanwhile.
    fn replay(&self, replay: Replay) -> Result<(), StoreError> {
        for (index, command) in replay.iter().enumerate() {
            if let Err(error) = self.redis.execute(command) {
                let mut local = self.local.lock().unwrap_or_else(PoisonError::into_inner);
                local.splice(..0, replay[index..].iter().cloned());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Brings all that was done alone to Redis; the mirror is one again.
    pub(super) fn bring_home(&self) -> Result<(), StoreError> {
        let mut home = Home::default();
        let outcome = self.bring(&mut home);
        if let Err(error) = outcome {
            // It may be let go of here before the next time.
            home.promoted.into_iter().for_each(|name| self.owed.add(&Debt::Name(name)));
            return Err(error);
        }
        let sessions = self.mirror.read(|table, now| table.list_sessions(now, None, usize::MAX))?;
        let sessions = sessions.into_iter().filter(|session| session.ino.is_of_host());
        self.aliases.add(
            home.objects.iter().map(|(old, new)| (*old, *new)),
            sessions.map(|session| (session.ino, session.id)),
        );
        {
            let _telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
            self.mirror.amend(|table, now| (table.stand_by(now), ()))?;
        }
        self.tell_own();
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        self.standing(|standing| {
            standing.tally.promoted += home.promoted.len() as u64;
            standing.tally.lost += home.lost.len() as u64;
            standing.tally.let_go += home.let_go;
        });
        lost.extend(home.lost.into_iter().map(|(id, spot)| (id, spot.parent, spot.name)));
        Ok(())
    }

    fn bring(&self, home: &mut Home) -> Result<(), StoreError> {
        let attended = self.attended.lock().unwrap_or_else(PoisonError::into_inner).last.clone();
        if let Some((mount, _)) = &attended
            && self.redis.execute(&Command::Attend { mount: mount.clone() })? == Ok(Reply::Count(0))
        {
            self.attended.lock().unwrap_or_else(PoisonError::into_inner).has_lapsed = true;
        }
        self.verify()?;
        self.pay(home)?;
        let mount = attended.map_or(MountId::from_u64(0), |(mount, _)| mount.id);
        let sessions = self.mirror.read(|table, now| table.list_sessions(now, None, usize::MAX))?;
        let sessions: HashMap<SessionId, Session> =
            sessions.into_iter().map(|session| (session.id.clone(), session)).collect();
        let began = |session: &&Session| session.kind == SessionKind::Named && session.ino.is_of_host();
        for session in sessions.values().filter(began) {
            let caller = speaker(session, (session.uid, session.gid), mount);
            self.redis.execute(&Command::BeginSession { caller })?.ok();
        }
        let granted = self.mirror.read(|table, now| table.granted_alone(now))?;
        for record in &granted {
            self.promote(record, &sessions, mount, home)?;
        }
        let ended: Vec<SessionId> = sessions
            .values()
            .filter(|session| session.ended && session.origin.host == self.host)
            .map(|session| session.id.clone())
            .collect();
        for batch in ended.chunks(BATCH) {
            self.redis.execute(&Command::MarkEnded { sessions: batch.to_vec() })?.ok();
        }
        Ok(())
    }

    /// Sees which of its locks this host has still, by owner and token, and renews them; tells of the rest.
    fn verify(&self) -> Result<(), StoreError> {
        let held = self.mirror.read(|table, now| table.held_there(now, &self.host))?;
        let mut renew = std::collections::BTreeSet::new();
        let numbers: Vec<Ino> = held.iter().map(|record| record.ino).collect();
        let (_, told) = self.redis.tell(&numbers)?;
        let there: HashMap<Ino, Record> = told
            .into_iter()
            .filter_map(|one| match one {
                crate::table::Told::Object(record, _) => Some((record.ino, *record)),
                _ => None,
            })
            .collect();
        for record in held {
            let Some(id) = record.session.clone() else {
                continue;
            };
            match there.get(&record.ino) {
                Some(found) if found.token == record.token && found.session == record.session => {
                    let session = self.mirror.session(&id)?;
                    let lives =
                        |session: &Session| matches!(session.kind, SessionKind::Job(_)) && !session.ended;
                    if session.as_ref().is_some_and(lives) {
                        renew.insert(id);
                    }
                }
                // It is told by Redis' own events, and by ESTALE to who still uses it.
                _ => log::warn!(
                    "lost while redis was gone ino={} token={} session={id}",
                    record.ino,
                    record.token
                ),
            }
        }
        let renew: Vec<SessionId> = renew.into_iter().collect();
        for batch in renew.chunks(BATCH) {
            self.redis.execute(&Command::Renew { sessions: batch.to_vec() })?.ok();
        }
        Ok(())
    }

    /// Says what was let go of.
    fn pay(&self, home: &mut Home) -> Result<(), StoreError> {
        let debts = self.owed.all();
        let names: Vec<Dropped> = debts
            .iter()
            .filter_map(|debt| match debt {
                Debt::Name(name) => Some(name.clone()),
                Debt::End(_) => None,
            })
            .collect();
        home.let_go += self.redis.settle_names(&names)?;
        for debt in &debts {
            let Debt::End(id) = debt else {
                continue;
            };
            // One of that name may have begun since.
            if self.mirror.session(id)?.is_none() {
                self.redis.execute(&Command::EndSession { caller: None, id: id.clone() })?.ok();
            }
        }
        self.owed.settle(debts.len());
        Ok(())
    }

    /// Acquires in Redis what this host granted by itself.
    fn promote(
        &self,
        record: &Record,
        sessions: &HashMap<SessionId, Session>,
        mount: MountId,
        home: &mut Home,
    ) -> Result<(), StoreError> {
        let grants = self.mirror.view(record.ino)?.map(|view| view.grants).unwrap_or_default();
        let holder = record.session.as_ref().or(grants.first().map(|grant| &grant.session));
        // Directories that outlived their session are wanted for what stands in them.
        let Some(session) = holder.and_then(|id| sessions.get(id)).cloned().or_else(|| self.stand_in(record))
        else {
            return Ok(());
        };
        let caller = speaker(&session, (record.uid, record.gid), mount);
        let mut known: Option<Ino> = None;
        for place in &record.places {
            let parent = home.objects.get(&place.parent).copied().unwrap_or(place.parent);
            let spot = Spot { parent, name: place.name.clone() };
            let made = match known {
                None => self.redis.execute(&Command::Acquire {
                    caller: caller.clone(),
                    spot: spot.clone(),
                    new: match &record.body {
                        Body::File(_) => New::File(Opening::Closed),
                        Body::Directory { .. } => New::Directory,
                        Body::Symlink(target) => New::Symlink(target.clone()),
                    },
                    mode: record.mode,
                    existing: Existing::Refuse,
                })?,
                Some(ino) => {
                    self.redis.execute(&Command::Link { caller: caller.clone(), ino, spot: spot.clone() })?
                }
            };
            match made {
                Ok(Reply::Entry(made)) => {
                    let first = known.is_none();
                    known = Some(made.ino);
                    home.objects.insert(record.ino, made.ino);
                    let token = self
                        .redis
                        .view(made.ino)?
                        .map_or(Token::from_u64(made.ino.as_u64()), |view| view.record.token);
                    home.promoted.push(Dropped { ino: made.ino, token, parent, name: place.name.clone() });
                    if first {
                        self.dress(record, &made, &caller)?;
                    }
                }
                refused => self.meet(record, &spot, &session, refused, &mut known, home)?,
            }
        }
        if let Some(ino) = known {
            for (mount, count) in self.mirror.read(|table, _| table.opens_of(record.ino))? {
                let caller = Caller { mount, ..caller.clone() };
                for _ in 0..count {
                    self.redis.execute(&Command::Open { caller: caller.clone(), ino, emptied: false })?.ok();
                }
            }
            self.lock_again(record, ino, &grants, &caller)?;
        }
        Ok(())
    }

    /// Who acquires a directory that nobody holds, or a file that somebody only locked.
    fn stand_in(&self, record: &Record) -> Option<Session> {
        let is_directory = record.body.kind() == Kind::Directory;
        is_directory.then(|| Session {
            id: SessionId::parse(b"lockfs-rejoin").expect("a session name"),
            ino: Ino::ROOT,
            uid: record.uid,
            gid: record.gid,
            kind: SessionKind::Unseen,
            origin: crate::lock::Origin {
                user: "lockfs".to_owned(),
                host: self.host.clone(),
                pid: 0,
                command: String::new(),
            },
            login: None,
            since: record.since,
            mtime: record.mtime,
            seen: record.seen,
            ttl: Ttl::default(),
            ended: false,
            lost: Vec::new(),
        })
    }

    /// Gives what was acquired what it had.
    fn dress(&self, record: &Record, made: &Attributes, caller: &Caller) -> Result<(), StoreError> {
        let (ino, caller) = (made.ino, || caller.clone());
        let mut steps = Vec::new();
        match &record.body {
            Body::File(note) if !note.is_empty() => {
                steps.push(Command::Write { caller: caller(), ino, offset: Some(0), data: note.clone() });
            }
            Body::Directory { default_ttl: Some(ttl) } => {
                steps.push(Command::SetDefaultTtl { caller: caller(), ino, ttl: Some(*ttl) });
            }
            _ => {}
        }
        let is_name = record.body.kind() == Kind::Directory && record.ttl == Ttl::Never;
        if !is_name {
            steps.push(Command::SetTtl { caller: caller(), ino, ttl: record.ttl });
        }
        let change = AttributeChange {
            mode: Some(record.mode).filter(|mode| *mode != made.mode),
            uid: Some(record.uid).filter(|uid| *uid != made.uid),
            gid: Some(record.gid).filter(|gid| *gid != made.gid),
            mtime: Some(record.mtime).filter(|_| record.body.kind() != Kind::Directory),
        };
        steps.push(Command::Change { caller: caller(), ino, change });
        for step in steps {
            if let Err(refusal) = self.redis.execute(&step)? {
                log::warn!("a lock was brought to redis without all that it had ino={ino} why={refusal:?}");
            }
        }
        Ok(())
    }

    /// Redis has something there.
    fn meet(
        &self,
        record: &Record,
        spot: &Spot,
        session: &Session,
        refused: Outcome,
        known: &mut Option<Ino>,
        home: &mut Home,
    ) -> Result<(), StoreError> {
        let found = match refused {
            Err(Refusal::Exists) => match self.redis.lookup(spot)? {
                Some(found) => self.redis.view(found.ino)?,
                None => None,
            },
            _ => None,
        };
        if let Some(view) = &found {
            let is_same_kind = view.record.body.kind() == record.body.kind();
            if is_same_kind && view.record.session.as_ref() == Some(&session.id) {
                // It was brought there before, and nobody was left to note it.
                home.objects.insert(record.ino, view.record.ino);
                *known = Some(view.record.ino);
                return Ok(());
            }
            if is_same_kind && record.body.kind() == Kind::Directory {
                // What stands in it goes into the one that is there.
                home.objects.insert(record.ino, view.record.ino);
            }
        }
        let path = self.mirror.read(|table, _| {
            let place = record.places.iter().find(|place| place.name == spot.name);
            place.map(|place| table.shown_path(place.parent, &place.name)).unwrap_or_default()
        })?;
        log::warn!("lost to who has it from redis path={path} session={}", session.id);
        let mut chronicle = self.chronicle.lock().unwrap_or_else(PoisonError::into_inner);
        chronicle.add(Event {
            at: self.clock_now(),
            kind: EventKind::Lost,
            path,
            token: Some(found.map_or(record.token, |view| view.record.token)),
            session: Some(session.id.clone()),
        });
        home.lost.push((session.id.clone(), spot.clone()));
        Ok(())
    }

    fn clock_now(&self) -> crate::clock::WallTime {
        crate::clock::Clock::now(self.clock.as_ref()).wall
    }

    /// Takes the advisory locks again that this host granted on a file by itself.
    fn lock_again(
        &self,
        record: &Record,
        ino: Ino,
        grants: &[Grant],
        caller: &Caller,
    ) -> Result<(), StoreError> {
        for grant in grants {
            let mut caller = caller.clone();
            caller.mount = grant.owner.mount;
            let claim = Claim {
                style: grant.style,
                mode: grant.mode,
                range: grant.range,
                key: grant.owner.key,
                pid: grant.pid,
            };
            let outcome = self.redis.execute(&Command::Lock { caller, ino, claim, waiting: None })?;
            if let Err(refusal) = outcome {
                log::warn!("an advisory lock was lost at the rejoin ino={} why={refusal:?}", record.ino);
            }
        }
        Ok(())
    }
}

/// Who speaks for a session.
fn speaker(session: &Session, (uid, gid): (u32, u32), mount: MountId) -> Caller {
    let claimant = Claimant {
        id: session.id.clone(),
        kind: session.kind.clone(),
        origin: session.origin.clone(),
        login: session.login.clone(),
        ttl: session.ttl,
        begin: Begin::WhereMissing,
    };
    Caller { uid, gid, session: Arc::new(claimant), also: Vec::new(), mount }
}
