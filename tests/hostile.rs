//! Foreign and damaged contents of Redis: keys of other types, records that are none, keys that went, memory that
//! is full. What is damaged is never read as free; what was lost comes back from the hosts that hold it; and when
//! the foreign thing is gone, all works again without a restart.
//!
//! Each case has a namespace of its own with two hosts, and locks of both.

#[path = "servers/mod.rs"]
mod servers;

use std::fmt::Debug;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use lockfs::clock::{BootId, SystemClock};
use lockfs::lock::{
    Body, Claim, Ino, Mode, Mount, MountId, Name, Origin, Range, SessionId, SessionKind, Style, Ttl,
};
use lockfs::store::redis::{Acks, Endpoint, Options, RedisStore};
use lockfs::store::{Fact, LockStore, State, StoreError, Tenure, Value};
use lockfs::table::{
    Begin, Caller, Claimant, Command, Existing, New, Opening, Outcome, Refusal, Reply, Spot,
};
use servers::redis::{RedisServer, printed};
use servers::{eventually, within};

/// What panicked on a thread of the store.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn watch_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if std::thread::current().name().is_some_and(|name| name.starts_with("lockfs")) {
                PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(info.to_string());
            }
            before(info);
        }));
    });
}

fn caller(session: &str) -> Caller {
    let origin = Origin { user: "root".into(), host: session.into(), pid: 7, command: "sh".into() };
    let id = SessionId::parse(session.as_bytes()).unwrap();
    let ttl = Ttl::For(Duration::from_secs(600));
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

fn spot(parent: Ino, name: &str) -> Spot {
    Spot { parent, name: Name::parse(name.as_bytes()).unwrap() }
}

/// One host: its store, and the one session that acts there.
struct Host {
    store: RedisStore,
    caller: Caller,
}

impl Host {
    fn make(&self, parent: Ino, name: &str, new: New) -> Result<Outcome, StoreError> {
        let (caller, spot) = (self.caller.clone(), spot(parent, name));
        self.store.execute(&Command::Acquire { caller, spot, new, mode: 0o644, existing: Existing::Refuse })
    }

    fn acquire(&self, parent: Ino, name: &str) -> Result<Outcome, StoreError> {
        self.make(parent, name, New::File(Opening::Closed))
    }

    fn release(&self, parent: Ino, name: &str) -> Result<Outcome, StoreError> {
        self.store.execute(&Command::Unlink { caller: self.caller.clone(), spot: spot(parent, name) })
    }

    fn find(&self, parent: Ino, name: &str) -> Result<Option<Ino>, StoreError> {
        Ok(self.store.lookup(&spot(parent, name))?.map(|found| found.ino))
    }

    fn write(&self, ino: Ino, note: &str) -> Result<Outcome, StoreError> {
        let (caller, data) = (self.caller.clone(), note.as_bytes().to_vec());
        self.store.execute(&Command::Write { caller, ino, offset: Some(0), data })
    }

    fn renew(&self) -> Result<Outcome, StoreError> {
        self.store.execute(&Command::Renew { sessions: vec![self.caller.session.id.clone()] })
    }
}

fn made(outcome: Result<Outcome, StoreError>) -> Ino {
    match outcome {
        Ok(Ok(Reply::Entry(made))) => made.ino,
        other => panic!("an entry is made, not {other:?}"),
    }
}

/// Two hosts, what they hold, and the keys of it.
struct Scene<'a> {
    server: &'a RedisServer,
    prefix: String,
    a: Host,
    b: Host,
    directory: Ino,
    /// Each held name, and its number.
    held: Vec<(Ino, &'static str, Ino)>,
}

type Key = Vec<u8>;

impl<'a> Scene<'a> {
    fn new(server: &'a RedisServer, namespace: &str) -> Self {
        watch_for_panics();
        let host = |name: &str| {
            let mut endpoint = Endpoint::parse(&server.unix_url()).unwrap();
            endpoint.command_timeout = Duration::from_secs(2);
            let options = Options {
                endpoint,
                acks: Acks::default(),
                namespace: namespace.to_owned(),
                host: name.to_owned(),
                machine: name.to_owned(),
                owner: (0, 0),
                state: None,
                tenure: Tenure::begin().expect("random numbers"),
                window: Duration::from_secs(30),
            };
            let store = RedisStore::open(&options, Arc::new(SystemClock)).unwrap();
            Host { store, caller: caller(name) }
        };
        let (a, b) = (host("a"), host("b"));
        let root = Ino::ROOT;
        let directory = made(a.make(root, "d", New::Directory));
        let mut held = vec![
            (root, "top", made(a.acquire(root, "top"))),
            (directory, "inner", made(a.acquire(directory, "inner"))),
            (root, "sym", made(a.make(root, "sym", New::Symlink((*b"target").into())))),
            (root, "other", made(b.acquire(root, "other"))),
        ];
        a.write(held[0].2, "note").unwrap().unwrap();
        held.push((root, "d", directory));
        let prefix = format!("lockfs:{{{namespace}}}:");
        for host in [&a, &b] {
            let knows_both = |fact: &Fact| fact.key == "hosts" && fact.value == Value::Number(2);
            eventually("they know of each other", || host.store.health().facts.iter().any(knows_both));
        }
        Self { server, prefix, a, b, directory, held }
    }

    fn hosts(&self) -> [&Host; 2] {
        [&self.a, &self.b]
    }

    fn keys(&self) -> Vec<Key> {
        let mut connection = self.server.connect().unwrap();
        let mut keys: Vec<Key> =
            redis::cmd("KEYS").arg(format!("{}*", self.prefix)).query(&mut connection).unwrap();
        keys.sort();
        keys
    }

    fn key(&self, name: &str) -> Key {
        [self.prefix.as_bytes(), name.as_bytes()].concat()
    }

    fn ask(&self, words: &[&[u8]]) -> redis::Value {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command.query(&mut self.server.connect().unwrap()).unwrap()
    }

    /// Tries everything on both hosts. Whatever is said, nobody panics, and what is held is not free. Returns the
    /// errors.
    fn try_all(&self) -> Vec<String> {
        let mut errors = Vec::new();
        let mut note = |what: &str, error: Option<StoreError>| {
            errors.extend(error.map(|error| format!("{what}: {error}")));
        };
        for host in self.hosts() {
            for (parent, name, ino) in &self.held {
                match host.find(*parent, name) {
                    Ok(found) => assert_eq!(found, Some(*ino), "{name} is held"),
                    Err(error) => note("lookup", Some(error)),
                }
                let view = host.store.view(*ino);
                assert!(!matches!(view, Ok(None)), "{name} is held");
                note("view", view.err());
                note("stat", host.store.stat(*ino).err());
                match host.acquire(*parent, name) {
                    Ok(outcome) => assert_eq!(outcome, Err(Refusal::Exists), "{name} is held"),
                    Err(error) => note("acquire", Some(error)),
                }
                if host.caller.session.id != self.holder(name).caller.session.id && *name != "d" {
                    match host.release(*parent, name) {
                        Ok(outcome) => {
                            assert!(matches!(outcome, Err(Refusal::Held(_))), "{name}: {outcome:?}")
                        }
                        Err(error) => note("release", Some(error)),
                    }
                }
            }
            note("write", self.a.write(self.held[0].2, "note").err());
            match host.acquire(Ino::ROOT, "new") {
                Ok(outcome) => drop(outcome.expect("it is free")),
                Err(error) => note("acquire", Some(error)),
            }
            note("release", host.release(Ino::ROOT, "new").err());
            note("list", host.store.list(Ino::ROOT, None, 100).err());
            note("list", host.store.list(self.directory, None, 100).err());
            let id = &host.caller.session.id;
            note("list_held", host.store.list_held(id, Ino::ROOT, None, 100).err());
            note("session", host.store.session(id).err());
            note("sessions", host.store.list_sessions(None, 100).err());
            note("ttls", host.store.shortest_ttls(std::slice::from_ref(id)).err());
            note("renew", host.renew().err());
            note("sweep", host.store.execute(&Command::Sweep { limit: 100 }).err());
            note("counts", host.store.counts().err());
            note("events", host.store.events(0, 100).err());
            host.store.health();
        }
        assert_eq!(*PANICS.lock().unwrap_or_else(PoisonError::into_inner), Vec::<String>::new());
        errors
    }

    fn holder(&self, name: &str) -> &Host {
        if name == "other" { &self.b } else { &self.a }
    }

    /// Whether everything is as it was and works; or what is not.
    fn works(&self) -> Result<(), String> {
        let or = |what: &str, error: &dyn Debug| format!("{what}: {error:?}");
        for host in self.hosts() {
            let id = &host.caller.session.id;
            for (parent, name, ino) in &self.held {
                let found = host.find(*parent, name).map_err(|error| or(name, &error))?;
                if found != Some(*ino) {
                    return Err(or(name, &found));
                }
                let view = host.store.view(*ino).map_err(|error| or(name, &error))?.ok_or(*name)?;
                let holder = view.session.map(|session| session.id);
                if holder.as_ref() != Some(&self.holder(name).caller.session.id) {
                    return Err(or(name, &holder));
                }
                if *name == "top" && view.record.body != Body::File(b"note".to_vec()) {
                    return Err(or("note", &view.record.body));
                }
                let again = host.acquire(*parent, name).map_err(|error| or(name, &error))?;
                if again != Err(Refusal::Exists) {
                    return Err(or(name, &again));
                }
            }
            made_and_gone(host)?;
            let entries = host.store.list(Ino::ROOT, None, 100).map_err(|error| or("list", &error))?;
            let count = entries.map(|entries| entries.len());
            if count != Some(4) {
                return Err(or("entries", &count));
            }
            let sessions = host.store.list_sessions(None, 100).map_err(|error| or("sessions", &error))?;
            if sessions.len() != 2 {
                return Err(or("sessions", &sessions.len()));
            }
            let view = host.store.list_held(id, Ino::ROOT, None, 100).map_err(|error| or("held", &error))?;
            if view.is_empty() {
                return Err("holds nothing".to_owned());
            }
            if host.renew() != Ok(Ok(Reply::Count(1))) {
                return Err(or("renew", &host.renew()));
            }
            host.store.execute(&Command::Sweep { limit: 100 }).map_err(|error| or("sweep", &error))?.ok();
            let counts = host.store.counts().map_err(|error| or("counts", &error))?;
            if (counts.locks, counts.sessions) != (5, 2) {
                return Err(or("counts", &counts));
            }
            let state = host.store.health().state;
            if state != State::Ok {
                return Err(or("state", &state));
            }
        }
        Ok(())
    }

    fn works_again(&self, case: &str) {
        let mut last = Ok(());
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            last = self.works();
            if last.is_ok() {
                assert_eq!(*PANICS.lock().unwrap_or_else(PoisonError::into_inner), Vec::<String>::new());
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{case}: it never worked again: {last:?}");
    }
}

fn made_and_gone(host: &Host) -> Result<(), String> {
    let made = host.acquire(Ino::ROOT, "new").map_err(|error| format!("new: {error:?}"))?;
    made.map_err(|refusal| format!("new: {refusal:?}"))?;
    host.release(Ino::ROOT, "new")
        .map_err(|error| format!("gone: {error:?}"))?
        .map(drop)
        .map_err(|refusal| format!("gone: {refusal:?}"))
}

/// A key as the store shows it.
fn shown(key: &[u8]) -> String {
    let show = |byte: &u8| match byte {
        b' '..=b'~' => char::from(*byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    key.iter().map(show).collect()
}

/// Tries a case for each key that a scene has, each in a namespace of its own, all at once.
fn for_each_key(name: &str, case: impl Fn(&Scene, &Key) + Sync) {
    let server = RedisServer::start();
    let count = Scene::new(&server, "count").keys().len();
    assert!(count > 15, "{count}");
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for number in 0..count {
            let (server, case, failures) = (&server, &case, &failures);
            scope.spawn(move || {
                let scene = Scene::new(server, &format!("{name}-{number}"));
                let keys = scene.keys();
                let key = &keys[number.min(keys.len() - 1)];
                let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&scene, key)));
                if let Err(panic) = tried {
                    let said = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                    failures.lock().unwrap().push(format!("{}: {said}", shown(key)));
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {count}:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn a_key_of_another_type_is_named_and_harms_nothing_for_good() {
    for_each_key("types", |scene, key| {
        let kind = printed(&scene.ask(&[b"TYPE", key]));
        // At once, so that no daemon makes it anew in between.
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("DEL").arg(key.as_slice());
        match kind.as_str() {
            "string" => pipe.cmd("RPUSH").arg(key.as_slice()).arg("foreign"),
            _ => pipe.cmd("SET").arg(key.as_slice()).arg("foreign"),
        };
        pipe.query::<()>(&mut scene.server.connect().unwrap()).unwrap();
        let name = shown(key);
        let mut errors = Vec::new();
        within(Duration::from_secs(5), &format!("somebody names {name}"), || {
            errors = scene.try_all();
            errors.extend(
                scene.hosts().iter().filter_map(|host| Some(host.store.health().state.trouble()?.to_owned())),
            );
            errors.iter().any(|error| error.contains(&name) && error.contains("remove it"))
        });
        let unclear = errors.iter().find(|error| error.contains("user_function"));
        assert_eq!(unclear, None);
        scene.ask(&[b"DEL", key]);
        scene.works_again(&shown(key));
    });
}

#[test]
fn a_key_that_went_is_not_read_as_free_and_comes_back() {
    for_each_key("gone", |scene, key| {
        scene.ask(&[b"DEL", key]);
        scene.try_all();
        scene.works_again(&shown(key));
    });
}

/// What somebody may make of a record.
fn damages(record: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut made = vec![
        ("empty".to_owned(), Vec::new()),
        ("garbage".to_owned(), b"garbage".to_vec()),
        ("huge".to_owned(), vec![b'x'; 1 << 20]),
        ("long".to_owned(), [record, b"more"].concat()),
        ("newer".to_owned(), [&[9], &record[1..]].concat()),
    ];
    for length in [1, record.len() / 2, record.len() - 1] {
        made.push((format!("cut to {length}"), record[..length].to_vec()));
    }
    made
}

/// The same with a bit turned: nobody can always tell, but nobody panics.
fn turned_bits(record: &[u8]) -> Vec<Vec<u8>> {
    let turned = (0..record.len()).map(|at| {
        let mut record = record.to_vec();
        record[at] ^= 1 << (at % 8);
        record
    });
    turned.collect()
}

#[test]
fn a_damaged_record_is_named_and_is_not_free() {
    let server = RedisServer::start();
    let scene = Scene::new(&server, "records");
    let ino = scene.held[0].2.as_u64().to_be_bytes();
    let field = |key: &str, field: &[u8]| (scene.key(key), field.to_vec());
    let records = [field("o", &ino), field("s", b"a"), field("o", &1_u64.to_be_bytes())];
    for (key, field) in records {
        let redis::Value::BulkString(record) = scene.ask(&[b"HGET", &key, &field]) else {
            panic!("a record")
        };
        // What follows in the record of a session is no script's business, and of another version nobody's.
        let is_told = |(how, _): &(String, Vec<u8>)| field != b"a" || how != "long";
        for (how, damaged) in damages(&record).into_iter().filter(is_told) {
            scene.ask(&[b"HSET", &key, &field, &damaged]);
            let errors = scene.try_all();
            let word = if how == "newer" { "another version of lockfs (9)" } else { "is damaged" };
            let is_named = |error: &String| error.contains(&shown(&key)) && error.contains(word);
            assert!(errors.iter().any(is_named), "{} {how}: {errors:#?}", shown(&key));
            scene.ask(&[b"HSET", &key, &field, &record]);
            scene.works_again(&how);
        }
    }
}

#[test]
fn a_damaged_head_is_named_and_nothing_is_free() {
    let server = RedisServer::start();
    let scene = Scene::new(&server, "head");
    let key = scene.key("meta");
    let redis::Value::BulkString(head) = scene.ask(&[b"GET", &key]) else { panic!("a head") };
    for (how, damaged) in damages(&head) {
        scene.ask(&[b"SET", &key, &damaged]);
        let errors = scene.try_all();
        assert!(errors.iter().any(|error| error.contains(&shown(&key))), "{how}: {errors:#?}");
        scene.ask(&[b"SET", &key, &head]);
        scene.works_again(&how);
    }
}

#[test]
fn a_turned_bit_ends_no_daemon() {
    let server = RedisServer::start();
    let scene = Scene::new(&server, "bits");
    let ino = scene.held[0].2.as_u64().to_be_bytes();
    for (key, field) in [("o", ino.to_vec()), ("s", b"a".to_vec()), ("d:\0\0\0\0\0\0\0\x01", b"top".to_vec())]
    {
        let key = scene.key(key);
        let redis::Value::BulkString(record) = scene.ask(&[b"HGET", &key, &field]) else {
            panic!("a record")
        };
        for damaged in turned_bits(&record) {
            scene.ask(&[b"HSET", &key, &field, &damaged]);
            for host in scene.hosts() {
                host.find(Ino::ROOT, "top").ok();
                host.store.view(scene.held[0].2).ok();
                host.store.list(Ino::ROOT, None, 100).ok();
                host.store.list_sessions(None, 100).ok();
                host.store.session(&host.caller.session.id).ok();
            }
        }
    }
    assert_eq!(*PANICS.lock().unwrap_or_else(PoisonError::into_inner), Vec::<String>::new());
}

#[test]
fn foreign_members_of_our_keys_harm_nothing() {
    let server = RedisServer::start();
    let scene = Scene::new(&server, "members");
    let root = [&scene.key("d:")[..], &1_u64.to_be_bytes()].concat();
    let list = [&scene.key("l:")[..], &1_u64.to_be_bytes()].concat();
    scene.ask(&[b"ZADD", &list, b"0", b"foreign"]);
    scene.ask(&[b"ZADD", &scene.key("x"), b"1", b"foreign"]);
    scene.ask(&[b"ZADD", &scene.key("y"), b"1", b"foreign"]);
    scene.ask(&[b"ZADD", &scene.key("h:a"), b"1", b"foreign"]);
    scene.ask(&[b"ZADD", &scene.key("n"), b"0", b"foreign"]);
    scene.ask(&[b"SADD", &scene.key("recover"), b"foreign"]);
    scene.ask(&[b"HSET", &scene.key("foreign"), b"a", b"b"]);
    scene.try_all();
    scene.works_again("foreign members");
    // An entry that nobody made is of nothing.
    scene.ask(&[b"HSET", &root, b"foreign", b"12345678"]);
    assert!(scene.a.find(Ino::ROOT, "foreign").unwrap_err().to_string().contains("is damaged: remove it"));
    scene.ask(&[b"HDEL", &root, b"foreign"]);
    scene.works_again("a foreign entry");
}

#[test]
fn a_foreign_event_stops_no_step_and_events_go_on() {
    let server = RedisServer::start();
    let scene = Scene::new(&server, "events");
    let count = |host: &Host| {
        let mut events = Vec::new();
        let mut last = 0;
        loop {
            let page = host.store.events(last, 100).unwrap();
            if page.events.is_empty() {
                return events.len();
            }
            last = page.first + page.events.len() as u64 - 1;
            events.extend(page.events);
        }
    };
    let before = count(&scene.b);
    scene.ask(&[b"XADD", &scene.key("events"), b"*", b"foreign", b"event"]);
    made_and_gone(&scene.a).unwrap();
    eventually("they are heard", || count(&scene.b) == before + 2);
    scene.works_again("a foreign event");
}

#[test]
fn all_comes_back_after_flushall_and_after_the_library_went() {
    let server = RedisServer::start();
    let scene = Scene::new(&server, "flushed");
    for words in [&["FLUSHALL"][..], &["FUNCTION", "FLUSH"], &["SCRIPT", "FLUSH"], &["FLUSHALL"]] {
        server.command(words);
        scene.try_all();
        scene.works_again(&words.join(" "));
    }
}

/// What a mount has of a file, and who waits: two hosts of a scene, each a mount of its own.
struct Contest<'a> {
    scene: &'a Scene<'a>,
    ino: Ino,
}

impl<'a> Contest<'a> {
    fn new(scene: &'a Scene<'a>) -> Self {
        let (caller, ino) = (scene.a.caller.clone(), scene.held[0].2);
        let contest = Self { scene, ino };
        for number in [1, 2] {
            assert_eq!(contest.attend(number), Ok(Ok(Reply::Count(0))));
        }
        scene.a.store.execute(&Command::Open { caller, ino, emptied: false }).unwrap().unwrap();
        assert_eq!(contest.lock(1), Ok(Ok(Reply::Done)));
        assert_eq!(contest.lock(2), Ok(Err(Refusal::Taken)));
        contest
    }

    fn host(&self, number: u64) -> &Host {
        self.scene.hosts()[usize::from(number == 2)]
    }

    fn attend(&self, number: u64) -> Result<Outcome, StoreError> {
        let host = self.host(number);
        let mount = Mount {
            id: MountId::from_u64(number),
            host: host.caller.session.id.to_string(),
            pid: 1,
            start: 1,
            boot: BootId::new("boot"),
            ttl: Ttl::For(Duration::from_secs(600)),
        };
        host.store.execute(&Command::Attend { mount })
    }

    fn lock(&self, number: u64) -> Result<Outcome, StoreError> {
        let host = self.host(number);
        let (style, mode, range) = (Style::Flock, Mode::Exclusive, Range::WHOLE);
        let claim = Claim { style, mode, range, key: number, pid: 7 };
        let caller = Caller { mount: MountId::from_u64(number), ..host.caller.clone() };
        host.store.execute(&Command::Lock { caller, ino: self.ino, claim, waiting: None })
    }

    /// The lock is where it was, and nobody else ever gets it.
    fn stands(&self) -> bool {
        for number in [1, 2] {
            self.attend(number).ok();
        }
        let other = self.lock(2);
        assert_ne!(other, Ok(Ok(Reply::Done)), "the lock is another's");
        other == Ok(Err(Refusal::Taken))
    }
}

#[test]
fn an_advisory_lock_comes_back_with_the_rest() {
    let server = RedisServer::start();
    let scene = Scene::new(&server, "advisory");
    let contest = Contest::new(&scene);
    server.command(&["FLUSHALL"]);
    eventually("it is said again", || contest.stands());
    server.command(&["DEBUG", "CHANGE-REPL-ID"]);
    eventually("it is said again to another server", || contest.stands());
    let mine = [&scene.key("f:")[..], &contest.ino.as_u64().to_be_bytes()].concat();
    for key in [scene.key("mounts"), mine] {
        scene.ask(&[b"DEL", &key]);
        eventually("it is said again where a part went", || contest.stands());
    }
    assert_eq!(contest.lock(1), Ok(Ok(Reply::Done)));
}

#[test]
fn what_mounts_have_is_named_where_it_is_damaged_and_is_not_free() {
    let server = RedisServer::start();
    let scene = Scene::new(&server, "shares");
    let contest = Contest::new(&scene);
    let mount = 1_u64.to_be_bytes();
    let shares = [&scene.key("f:")[..], &contest.ino.as_u64().to_be_bytes()].concat();
    for key in [shares, scene.key("mounts")] {
        let redis::Value::BulkString(record) = scene.ask(&[b"HGET", &key, &mount]) else {
            panic!("a record")
        };
        for (how, damaged) in damages(&record) {
            scene.ask(&[b"HSET", &key, &mount, &damaged]);
            let error = contest.lock(2).expect_err(&how).to_string();
            assert!(error.contains(&shown(&key)), "{how}: {error}");
            scene.ask(&[b"HSET", &key, &mount, &record]);
            eventually("it works again", || contest.stands());
        }
    }
}

#[test]
fn a_full_memory_refuses_what_takes_room_and_releases_all_the_same() {
    let server = RedisServer::start();
    let scene = Scene::new(&server, "full");
    let second = made(scene.a.acquire(Ino::ROOT, "second"));
    server.command(&["CONFIG", "SET", "maxmemory", "1mb"]);
    assert_eq!(scene.a.acquire(Ino::ROOT, "new"), Err(StoreError::NoSpace));
    assert_eq!(scene.a.write(second, "more"), Err(StoreError::NoSpace));
    assert_eq!(scene.a.find(Ino::ROOT, "new"), Ok(None));
    assert_eq!(scene.b.find(Ino::ROOT, "second"), Ok(Some(second)));
    assert_eq!(scene.a.renew(), Ok(Ok(Reply::Count(1))));
    assert_eq!(scene.a.release(Ino::ROOT, "second"), Ok(Ok(Reply::Done)));
    let id = scene.b.caller.session.id.clone();
    let end = Command::EndSession { caller: None, id };
    assert_eq!(scene.b.store.execute(&end), Ok(Ok(Reply::Done)));
    assert_eq!(scene.a.find(Ino::ROOT, "other"), Ok(None));
    assert_eq!(scene.a.store.execute(&Command::Sweep { limit: 10 }), Ok(Ok(Reply::Count(0))));
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(made(scene.b.acquire(Ino::ROOT, "other")), scene.a.find(Ino::ROOT, "other").unwrap().unwrap());
    scene.a.write(scene.held[0].2, "more").unwrap().unwrap();
    assert_eq!(scene.a.store.health().state, State::Ok);
}

#[test]
fn a_server_that_wants_replicas_is_said_to_want_them() {
    let server = RedisServer::start();
    let scene = Scene::new(&server, "replicas");
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let error = scene.a.acquire(Ino::ROOT, "new").unwrap_err();
    assert!(
        matches!(error, StoreError::Unavailable(_)) && error.to_string().contains("NOREPLICAS"),
        "{error:?}"
    );
    assert_eq!(scene.a.find(Ino::ROOT, "top"), Ok(Some(scene.held[0].2)));
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    scene.works_again("min-replicas-to-write");
}
