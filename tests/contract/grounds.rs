//! What each store stands on.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use lockfs::clock::{BootId, BootTime, ManualClock, Now};
use lockfs::store::level::LevelStore;
use lockfs::store::redis::{Acks, Endpoint, Options, RedisStore};
use lockfs::store::{Durability, LockStore, MemoryStore, Tenure};
use tempfile::TempDir;

use crate::house::Ground;
use crate::servers::clock::ServerClock;
use crate::servers::redis::RedisServer;
use crate::world::{OWNER, dawn, mount_id};

/// Memory, of which nothing is left when it is closed.
#[derive(Debug)]
pub(crate) struct Memory;

impl Ground for Memory {
    fn lay() -> Self {
        Self
    }

    fn open(&mut self, clock: Arc<ManualClock>) -> Box<dyn LockStore> {
        Box::new(MemoryStore::empty(clock, OWNER, OWNER))
    }
}

/// A LevelDB in a directory of its own.
#[derive(Debug)]
pub(crate) struct Level(TempDir);

impl Ground for Level {
    fn lay() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn open(&mut self, clock: Arc<ManualClock>) -> Box<dyn LockStore> {
        let boot = BootId::new("the test's");
        let store = LevelStore::open(self.0.path(), Durability::Process, clock, &boot, (OWNER, OWNER));
        Box::new(store.expect("nobody else has the directory, and nothing is damaged"))
    }
}

/// A namespace of its own on a server of this test, whose clock the test sets.
#[derive(Debug)]
pub(crate) struct Redis {
    namespace: String,
    /// Whether a daemon has served the first mount before.
    was_open: bool,
}

struct Server {
    redis: RedisServer,
    clock: ServerClock,
    namespaces: Cell<u32>,
}

thread_local! {
    static SERVER: Server = {
        let clock = ServerClock::frozen(micros(Redis::dawn()));
        let redis = RedisServer::options().clock(&clock).start();
        Server { redis, clock, namespaces: Cell::new(0) }
    };
}

fn micros(now: Now) -> i64 {
    now.wall.secs() * 1_000_000 + i64::from(now.wall.subsec_nanos() / 1_000)
}

impl Redis {
    /// The server loses the keys of that kind.
    pub(crate) fn lose(&self, kind: &str) {
        let keys = format!("lockfs:{{{}}}:{kind}*", self.namespace);
        SERVER.with(|server| {
            let mut link = server.redis.connect().expect("the server is there");
            let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg(keys).query(&mut link).expect("it lists them");
            assert!(!keys.is_empty(), "there is nothing to lose");
            redis::cmd("DEL").arg(keys).query::<()>(&mut link).expect("it forgets them");
        });
    }
}

impl Ground for Redis {
    fn lay() -> Self {
        let number = SERVER.with(|server| {
            server.namespaces.set(server.namespaces.get() + 1);
            server.namespaces.get()
        });
        Self { namespace: format!("test-{number}"), was_open: false }
    }

    fn open(&mut self, clock: Arc<ManualClock>) -> Box<dyn LockStore> {
        let url = SERVER.with(|server| server.redis.unix_url());
        let options = Options {
            endpoint: Endpoint::parse(&url).expect("a URL"),
            acks: Acks::default(),
            namespace: self.namespace.clone(),
            host: "dev1".to_owned(),
            machine: "machine".to_owned(),
            owner: (OWNER, OWNER),
            state: None,
            tenure: match std::mem::replace(&mut self.was_open, true) {
                true => Tenure::TakenOver(mount_id(0)),
                false => Tenure::Begun(mount_id(0)),
            },
            window: Duration::from_secs(300),
        };
        Box::new(RedisStore::open(&options, clock).expect("the server is there, and nobody has the name"))
    }

    /// Of a server's clock wall time and lease time are one.
    fn dawn() -> Now {
        let Now { wall, .. } = dawn();
        Now {
            boot: BootTime::from_nanos(u64::try_from(wall.secs()).expect("after 1970") * 1_000_000_000),
            wall,
        }
    }

    fn set(&self, now: Now) {
        SERVER.with(|server| server.clock.set(micros(now)));
    }
}
