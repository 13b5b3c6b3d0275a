//! Orphans: files without a name that only this daemon has open, each in a table of its own under the same law.
//!
//! The server keeps a nameless file that it knows somebody has open. Of one that an exclusive create made, and that was
//! open nowhere but here when its name went, it was never told: its owner unlinks it, and it lives on here.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::codec::Malformed;
use crate::clock::Now;
use crate::lock::{
    Attributes, Ino, Mount, MountId, Name, Origin, Place, Record, SessionId, SessionKind, Token, Ttl, WaitId,
};
use crate::table::{Begin, Caller, Claimant, Command, LockTable, Outcome, Refusal, Reply, Spot, View};

/// A file without a name that is open here.
#[derive(Debug)]
pub(super) struct Orphan {
    table: LockTable,
    ino: Ino,
    /// Calls that may wait for it.
    waits: HashSet<WaitId>,
}

impl Orphan {
    /// The object of `record` after its last name went at `now`: in a small world where its holder unlinks it while
    /// mounts have it open so many times each. `None` where none of them is there any more.
    pub(super) fn of(
        mut record: Record,
        opens: &[(MountId, u32)],
        leases: &BTreeMap<MountId, (Mount, Now)>,
        now: Now,
    ) -> Result<Option<Self>, Malformed> {
        let ino = record.ino;
        let name = Name::parse(b"orphan").expect("a name");
        record.places = vec![Place { parent: Ino::ROOT, name: name.clone(), cookie: record.token }];
        let epoch = record.token.epoch().max(Token::from_u64(ino.as_u64()).epoch()).saturating_add(1);
        let holder = record.session.clone();
        let (uid, gid) = (record.uid, record.gid);
        let seen = Now { boot: record.seen, ..now };
        let by = |id: SessionId, mount: MountId| Caller {
            uid,
            gid,
            session: Arc::new(Claimant {
                id,
                kind: SessionKind::Named,
                origin: Origin { user: String::new(), host: String::new(), pid: 0, command: String::new() },
                login: None,
                ttl: Ttl::Never,
                begin: Begin::WhereMissing,
            }),
            also: Vec::new(),
            mount,
        };
        let nobody = || SessionId::parse(b"nobody").expect("a session name");
        let caller = |mount| by(holder.clone().unwrap_or_else(nobody), mount);
        let mut table = LockTable::new(epoch, uid, gid, now);
        let root = table.record(Ino::ROOT).expect("every table has a root").clone();
        let mut sessions = Vec::new();
        if let Some(id) = &holder {
            let begin = Command::BeginSession { caller: caller(MountId::from_u64(0)) };
            table.execute(now, &begin).outcome.ok();
            sessions.extend(table.session_record(id).cloned());
        }
        let restored = LockTable::restore(epoch.saturating_add(1), [root, record], sessions);
        let mut table = restored.map_err(|why| Malformed::from(why.as_str()))?;
        for (mount, seen) in leases.values() {
            table.execute(*seen, &Command::Attend { mount: mount.clone() }).outcome.ok();
        }
        let carry_out = |table: &mut LockTable, now, command: &Command| {
            let outcome = table.execute(now, command).outcome;
            outcome.map_err(|refusal| Malformed::of_refusal(&refusal))
        };
        for (mount, count) in opens {
            let open = Command::Open { caller: caller(*mount), ino, emptied: false };
            for _ in 0..*count {
                // When it was alive for certain: by now it may be so for those only who have it open.
                carry_out(&mut table, seen, &open)?;
            }
        }
        let spot = Spot { parent: Ino::ROOT, name };
        let unlink = Command::Unlink { caller: caller(MountId::from_u64(0)), spot };
        if table.stat(now, ino).is_none() {
            return Ok(None);
        }
        carry_out(&mut table, now, &unlink)?;
        let orphan = Self { table, ino, waits: HashSet::new() };
        Ok(orphan.is_there().then_some(orphan))
    }

    /// Carries out a command; returns whom it wakes as well.
    pub(super) fn execute(&mut self, now: Now, command: &Command) -> (Outcome, Vec<WaitId>) {
        let step = self.table.execute(now, command);
        match command {
            Command::Lock { caller, waiting: Some(waiting), .. } => {
                let id = WaitId { mount: caller.mount, request: waiting.request };
                if step.outcome == Ok(Reply::Waits) {
                    self.waits.insert(id);
                } else {
                    self.waits.remove(&id);
                }
            }
            Command::Withdraw { id } => drop(self.waits.remove(id)),
            _ => {}
        }
        (step.outcome, step.wakes)
    }

    /// Whether anybody had it open when that was looked at last.
    pub(super) fn is_there(&self) -> bool {
        self.table.counts().locks > 0
    }

    /// How many wait for it.
    pub(super) fn waits(&self) -> u64 {
        self.table.counts().waits
    }

    /// Whether a call waits for it.
    pub(super) fn awaits(&self, id: WaitId) -> bool {
        self.waits.contains(&id)
    }

    pub(super) fn stat(&self, now: Now) -> Option<Attributes> {
        self.table.stat(now, self.ino)
    }

    pub(super) fn view(&self, now: Now) -> Option<View> {
        self.table.view(now, self.ino)
    }
}

impl Malformed {
    fn of_refusal(refusal: &Refusal) -> Self {
        Self::from(format!("what was unlinked can't be kept: {refusal:?}").as_str())
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        log::trace!("closed what had no name ino={}", self.ino);
    }
}
