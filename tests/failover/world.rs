//! Hosts with a store open, and what their sessions do.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lockfs::clock::SystemClock;
use lockfs::lock::{
    Event, EventKind, Ino, MountId, Name, Origin, Session, SessionId, SessionKind, Token, Ttl,
};
use lockfs::store::redis::{Endpoint, Options, RedisStore};
use lockfs::store::{LockStore, StoreError, Tenure};
use lockfs::table::{
    Begin, Caller, Claimant, Command, Existing, New, Opening, Outcome, Refusal, RenameMode, Reply, Spot,
};

/// How long one command may take here, where the test does not say.
pub(crate) const LIMIT: Duration = Duration::from_secs(2);

/// How a host's store is to be opened.
#[derive(Clone, Debug)]
pub(crate) struct Plan(pub(crate) Options);

impl Plan {
    /// The store at `url`, in the namespace `test`.
    pub(crate) fn at(url: &str) -> Self {
        Self::of(Endpoint::parse(url).expect("a URL"))
    }

    pub(crate) fn of(endpoint: Endpoint) -> Self {
        let endpoint = Endpoint { command_timeout: LIMIT, ..endpoint };
        Self(Options {
            endpoint,
            acks: "0".parse().unwrap(),
            namespace: "test".to_owned(),
            host: "a".to_owned(),
            machine: "machine-a".to_owned(),
            owner: (0, 0),
            state: None,
            tenure: Tenure::begin().expect("random numbers"),
            window: Duration::from_secs(300),
        })
    }

    /// A host of that name, on a machine of its own.
    pub(crate) fn host(mut self, name: &str) -> Self {
        self.0.host = name.to_owned();
        self.0.machine = format!("machine-{name}");
        self
    }

    pub(crate) fn acks(mut self, count: u8) -> Self {
        self.0.acks = count.to_string().parse().unwrap();
        self
    }

    /// How long one command may take.
    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.0.endpoint.command_timeout = limit;
        self
    }

    /// How long hosts may take to say what they hold when data was lost.
    pub(crate) fn window(mut self, window: Duration) -> Self {
        self.0.window = window;
        self
    }

    /// The directory in which a daemon of this host finds what one before it left.
    pub(crate) fn state(mut self, dir: &Path) -> Self {
        self.0.state = Some(dir.join(&self.0.host));
        self
    }

    pub(crate) fn try_open(&self) -> Result<Host, StoreError> {
        let store = RedisStore::open(&self.0, Arc::new(SystemClock))?;
        Ok(Host { name: self.0.host.clone(), store })
    }

    pub(crate) fn open(&self) -> Host {
        self.try_open().unwrap_or_else(|error| panic!("the store of {} opens: {error}", self.0.host))
    }
}

/// A host, whose store is open.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) store: RedisStore,
}

pub(crate) fn spot(name: &str) -> Spot {
    Spot { parent: Ino::ROOT, name: Name::parse(name.as_bytes()).expect("a name") }
}

pub(crate) fn session_id(text: &str) -> SessionId {
    SessionId::parse(text.as_bytes()).expect("a session name")
}

pub(crate) fn caller(session: &str) -> Caller {
    let origin = Origin { user: "alice".into(), host: "dev1".into(), pid: 7, command: "sh".into() };
    let ttl = Ttl::For(Duration::from_secs(300));
    let id = session_id(session);
    let session =
        Claimant { id, kind: SessionKind::Named, origin, login: None, ttl, begin: Begin::WhereMissing };
    Caller {
        uid: 1_000,
        gid: 1_000,
        session: Arc::new(session),
        also: Vec::new(),
        mount: MountId::from_u64(1),
    }
}

/// What an act came to, where the store can say.
pub(crate) type Answer<T> = Result<Result<T, Refusal>, StoreError>;

impl Host {
    pub(crate) fn execute(&self, command: &Command) -> Result<Outcome, StoreError> {
        self.store.execute(command)
    }

    /// The host's own session, of which it has one where the test does not say.
    fn session(&self) -> String {
        format!("session-{}", self.name)
    }

    /// Acquires a name as `O_EXCL` does, for the host's own session.
    pub(crate) fn acquire(&self, name: &str) -> Answer<Token> {
        self.acquire_for(&self.session(), name)
    }

    pub(crate) fn acquire_for(&self, session: &str, name: &str) -> Answer<Token> {
        let command = Command::Acquire {
            caller: caller(session),
            spot: spot(name),
            new: New::File(Opening::Closed),
            mode: 0o644,
            existing: Existing::Refuse,
        };
        Ok(self.execute(&command)?.map(|reply| match reply {
            // The number of what was made is its first token.
            Reply::Entry(made) => Token::from_u64(made.ino.as_u64()),
            other => panic!("an acquire is answered by an entry, not {other:?}"),
        }))
    }

    /// Acquires what is free, of a server that works.
    pub(crate) fn get(&self, name: &str) -> Token {
        self.acquire(name).expect("the store works").expect("it is free")
    }

    pub(crate) fn release(&self, name: &str) -> Answer<Reply> {
        self.release_for(&self.session(), name)
    }

    pub(crate) fn release_for(&self, session: &str, name: &str) -> Answer<Reply> {
        self.execute(&Command::Unlink { caller: caller(session), spot: spot(name) })
    }

    pub(crate) fn rename(&self, from: &str, to: &str) -> Answer<Reply> {
        self.execute(&Command::Rename {
            caller: caller(&self.session()),
            from: spot(from),
            to: spot(to),
            mode: RenameMode::Replace,
            heir: None,
        })
    }

    pub(crate) fn end_session(&self) -> Answer<Reply> {
        let caller = caller(&self.session());
        let id = caller.session.id.clone();
        self.execute(&Command::EndSession { caller: Some(caller), id })
    }

    /// Who holds a name, by which token.
    pub(crate) fn holder(&self, name: &str) -> Result<Option<(String, Token)>, StoreError> {
        let Some(found) = self.store.lookup(&spot(name))? else {
            return Ok(None);
        };
        let view = self.store.view(found.ino)?;
        Ok(view.map(|view| {
            let session = view.record.session.map(|id| id.as_str().to_owned()).unwrap_or_default();
            (session, view.record.token)
        }))
    }

    /// The number of what stands at a name.
    pub(crate) fn store_ino(&self, name: &str) -> Ino {
        self.store.lookup(&spot(name)).expect("the store works").expect("it is there").ino
    }

    /// Whether this host holds a name by that token, for its own session.
    pub(crate) fn holds(&self, name: &str, token: Token) -> bool {
        self.holder(name) == Ok(Some((self.session(), token)))
    }

    pub(crate) fn is_free(&self, name: &str) -> bool {
        self.holder(name) == Ok(None)
    }

    pub(crate) fn session_record(&self) -> Option<Session> {
        self.store.session(&session_id(&self.session())).expect("the store works")
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        // A page ends where numbers are missing: those of a server that has lost some.
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let page = self.store.events(after, 10_000).expect("the store works");
            if page.events.is_empty() {
                return all;
            }
            after = page.first + page.events.len() as u64 - 1;
            all.extend(page.events);
        }
    }

    /// All events of a name.
    pub(crate) fn events_of(&self, name: &str) -> Vec<Event> {
        self.events().into_iter().filter(|event| event.path.to_string().trim_matches('/') == name).collect()
    }

    /// How often something happened to a name.
    pub(crate) fn count(&self, kind: EventKind, name: &str) -> usize {
        self.events_of(name).iter().filter(|event| event.kind == kind).count()
    }

    /// A number of its health.
    pub(crate) fn health(&self, key: &str) -> u64 {
        let health = self.store.health();
        let found = health.facts.iter().find(|fact| fact.key == key);
        found.unwrap_or_else(|| panic!("{key} is told")).value.to_string().parse().expect("a number")
    }
}
