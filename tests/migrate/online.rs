//! Stores that are in use while they are moved.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::{Tree, eventually, sys};
use crate::servers::redis::{Persistence, RedisServer};
use crate::world::*;

/// Who asks, and for how many names in how many directories.
const WORKERS: usize = 8;
const DIRECTORIES: usize = 2;
const NAMES: usize = 6;

/// How many other locks are moved with them.
const STOCK: usize = 3_000;

/// One hold of a name: since it was known to be had, and until it was let go of.
#[derive(Clone, Copy, Debug)]
struct Hold {
    token: u64,
    from: Instant,
    until: Instant,
}

/// What happened.
#[derive(Debug, Default)]
struct History {
    holds: BTreeMap<String, Vec<Hold>>,
    /// For each directory how long a call to the source took at most.
    longest: BTreeMap<String, Duration>,
    /// Holds over the move, whose token was another then or which were not there.
    torn: Vec<String>,
    /// How many were held while it was moved.
    carried: usize,
}

/// Where the workers are, and where they go.
#[derive(Debug, Default)]
struct Stage {
    target: Mutex<Option<PathBuf>>,
    raised: Condvar,
    is_over: AtomicBool,
}

impl Stage {
    /// The target, once it is mounted.
    fn await_target(&self) -> PathBuf {
        let target = self.raised.wait_while(self.target.lock().unwrap(), |target| target.is_none());
        target.unwrap().clone().unwrap()
    }

    fn raise(&self, root: &Path) {
        *self.target.lock().unwrap() = Some(root.to_owned());
        self.raised.notify_all();
    }
}

fn is_closed(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EHOSTDOWN)
}

fn token_at(path: &Path) -> io::Result<u64> {
    let text = sys::getxattr(path, "user.lock.token")?;
    text.parse().map_err(|_| io::Error::other(text))
}

/// Acquires and releases names until it is told to end; at the source, and from its closing on at the target.
fn work(source: &Path, stage: &Stage, seed: u64, history: &Mutex<History>) {
    let mut chance = seed | 1;
    let mut below = |limit: u64| {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        chance % limit
    };
    let (mut root, mut has_moved) = (source.to_owned(), false);
    while !stage.is_over.load(Ordering::Acquire) {
        let directory = format!("way-{}", below(DIRECTORIES as u64));
        let name = format!("{directory}/name-{}", below(NAMES as u64));
        let asked = Instant::now();
        let acquired = File::create_new(root.join(&name));
        let from = Instant::now();
        if !has_moved {
            let mut history = history.lock().unwrap();
            let longest = history.longest.entry(directory.clone()).or_default();
            *longest = (*longest).max(asked.elapsed());
        }
        match acquired {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) if is_closed(&error) && !has_moved => {
                (root, has_moved) = (stage.await_target(), true);
                continue;
            }
            Err(error) => panic!("{name}: {error}"),
        }
        // While the source is there nobody knows whether it will be by then.
        let mut carried = false;
        let mut token = token_at(&root.join(&name));
        if token.as_ref().is_err_and(is_closed) && !has_moved {
            (root, has_moved, carried) = (stage.await_target(), true, true);
            token = token_at(&root.join(&name));
        }
        let token = token.unwrap_or_else(|error| panic!("{name}: {error}"));
        sleep(Duration::from_micros(below(3_000)));
        let mut until = Instant::now();
        let mut released = fs::remove_file(root.join(&name));
        if released.as_ref().is_err_and(is_closed) && !has_moved {
            (root, has_moved, carried) = (stage.await_target(), true, true);
            let there = token_at(&root.join(&name));
            if there.as_ref().ok() != Some(&token) {
                history.lock().unwrap().torn.push(format!("{name}: {token} here, {there:?} there"));
            }
            until = Instant::now();
            released = fs::remove_file(root.join(&name));
        }
        released.unwrap_or_else(|error| panic!("{name} token={token} carried={carried}: {error}"));
        let mut history = history.lock().unwrap();
        history.carried += usize::from(carried);
        history.holds.entry(name).or_default().push(Hold { token, from, until });
    }
}

/// Nobody had a name while another had it, in whichever store; and who had it later has the higher token.
fn judge(history: &History) {
    let mut count = 0;
    for (name, holds) in &history.holds {
        let mut holds = holds.clone();
        holds.sort_by_key(|hold| hold.from);
        count += holds.len();
        for pair in holds.windows(2) {
            assert!(pair[0].until <= pair[1].from, "{name} was held twice: {pair:?}");
            assert!(pair[0].token < pair[1].token, "{name}: its tokens do not rise: {pair:?}");
        }
    }
    assert_eq!(history.torn, Vec::<String>::new());
    println!(
        "{count} holds, {} of them over the move; longest call to the source: {:?}",
        history.carried, history.longest
    );
    assert!(history.longest.values().all(|longest| *longest < Duration::from_secs(5)));
}

/// Moves a mounted source under load, and judges what happened; `raise` mounts the target.
fn move_under_load(source: &Tree, from: &str, to: &str, mut target: Tree) {
    for directory in 0..DIRECTORIES {
        fs::create_dir(source.path(format!("way-{directory}"))).unwrap();
    }
    let (stage, history) = (Stage::default(), Mutex::<History>::default());
    let root = source.root();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let (root, stage, history) = (&root, &stage, &history);
                scope.spawn(move || work(root, stage, 0x9e37_79b9 * (worker as u64 + 1), history))
            })
            .collect();
        let held = || history.lock().unwrap().holds.values().map(Vec::len).sum::<usize>();
        eventually("they work", || held() > 50);
        let moved = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let said = migrate(from, to).has_moved();
            println!("stood_still_ms: {}", said.value("stood_still_ms"));
            target.mount();
        }));
        if moved.is_ok() {
            stage.raise(&target.root());
            let before = held();
            eventually("they work on", || held() > before + 50);
        } else {
            stage.raise(&root);
        }
        stage.is_over.store(true, Ordering::Release);
        for worker in workers {
            worker.join().unwrap();
        }
        moved.unwrap();
    });
    judge(&history.into_inner().unwrap());
    // What was released is nowhere, and what nobody touched is there.
    for directory in 0..DIRECTORIES {
        let left: Vec<_> = fs::read_dir(target.path(format!("way-{directory}"))).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let others = fs::read_dir(target.path("d0")).unwrap().count();
    assert_eq!(others, 100.min(STOCK));
    assert!(target.path(".sessions/agent-7").exists());
}

#[test]
fn a_mounted_leveldb_goes_to_redis_under_load_and_nothing_is_held_twice() {
    let server = RedisServer::start();
    let mut here = on_level();
    stock(&here.data_dir(), STOCK);
    here.mount();
    let there = on_redis(&server);
    move_under_load(&here, &level(&here.data_dir()), &server.url(), there);
    here.unmount();
    ended(&mut here.mount_command()).fails(1, "these locks have moved to redis://");
}

#[test]
fn a_mounted_redis_goes_to_leveldb_under_load_and_nothing_is_held_twice() {
    let server = RedisServer::start();
    let (mut here, there) = (on_redis(&server), on_level());
    stock(&there.data_dir().join("stock"), STOCK);
    migrate(&level(&there.data_dir().join("stock")), &server.url()).has_moved();
    here.mount();
    let to = level(&there.data_dir());
    move_under_load(&here, &server.url(), &to, there);
}

#[test]
fn a_mounted_hybrid_goes_to_another_redis_under_load_and_its_host_does_not_grant_by_itself() {
    let mut server = RedisServer::options().persistence(Persistence::AofAlways).start();
    let other = RedisServer::start();
    let dir = tempfile::tempdir().unwrap();
    stock(dir.path(), STOCK);
    migrate(&level(dir.path()), &server.url()).has_moved();
    let url = server.url();
    let options = ["--host-id", "h0", "--backend", "hybrid", "--on-outage", "local", "--redis-url", &url];
    let mut here = Tree::unmounted(&options, &QUICK);
    here.mount();
    let there = on_redis(&other);
    move_under_load(&here, &server.url(), &other.url(), there);
    eventually("it says so", || here.status("trouble").contains(&format!("have moved to {}", other.url())));
    // Nor when the Redis that has nothing any more is gone.
    server.kill();
    let limit = Instant::now() + Duration::from_secs(8);
    while Instant::now() < limit {
        assert!(File::create_new(here.path("new")).is_err());
        sleep(Duration::from_millis(200));
    }
}

#[test]
fn who_moves_it_and_dies_at_any_point_leaves_nothing_standing_still() {
    let (server, other) = (RedisServer::start(), RedisServer::start());
    let mut chance = Chance::new();
    for on_a_redis in [false, true] {
        let mut here = if on_a_redis { on_redis(&server) } else { on_level() };
        let target = tempfile::tempdir().unwrap();
        stock(&target.path().join("stock"), STOCK);
        let from = match on_a_redis {
            true => {
                migrate(&level(&target.path().join("stock")), &server.url()).has_moved();
                server.url()
            }
            false => {
                stock(&here.data_dir(), STOCK);
                level(&here.data_dir())
            }
        };
        here.mount();
        let mut longest = Duration::ZERO;
        for round in 0..8 {
            let to = format!("{}?namespace=n{round}{on_a_redis}", other.url());
            let mut child = start(&from, &to);
            sleep(Duration::from_millis(chance.below(700)));
            child.kill().unwrap();
            child.wait().unwrap();
            let asked = Instant::now();
            match File::create_new(here.path("f")) {
                Ok(_) => fs::remove_file(here.path("f")).unwrap(),
                // It was killed when it had moved all.
                Err(error) => {
                    assert!(is_closed(&error), "{error}");
                    migrate(&from, &to).succeeds();
                    break;
                }
            }
            longest = longest.max(asked.elapsed());
        }
        println!("longest acquire after a death: {longest:?}");
        assert!(longest < Duration::from_secs(4), "{longest:?}");
    }
}

#[test]
fn what_stands_still_waits_and_goes_on_by_itself_though_nobody_lets_it() {
    // On a LevelDB: whoever had it frozen hangs, and does not hang up.
    let mut here = on_level();
    here.mount();
    let mut socket = UnixStream::connect(here.data_dir().join("default/socket")).unwrap();
    let mut ask = |what: &[u8], millis: u64| {
        let message = [what, &millis.to_le_bytes()].concat();
        socket.write_all(&u32::try_from(message.len()).unwrap().to_le_bytes()).unwrap();
        socket.write_all(&message).unwrap();
        let mut answer = [0; 5];
        socket.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"\x01\0\0\0K");
    };
    ask(b"t", 30_000);
    ask(b"f", 1_000);
    let asked = Instant::now();
    File::create_new(here.path("f")).unwrap();
    println!("waited {:?} on a leveldb", asked.elapsed());
    assert!(asked.elapsed() > Duration::from_millis(300), "it did not stand still: {:?}", asked.elapsed());
    // On a Redis: its head says so, and nobody is there any more.
    let server = RedisServer::start();
    let mut there = on_redis(&server);
    there.mount();
    let script = "local meta = redis.call('GET', KEYS[1]) local time = redis.call('TIME') \
                  local now = time[1] * 1000000 + time[2] \
                  meta = '\\3' .. string.sub(meta, 2) .. struct.pack('>ddI2', now + 1500000, now + 1000000, 0) \
                  redis.call('SET', KEYS[1], meta) return 1";
    server.command(&["EVAL", script, "1", "lockfs:{default}:meta"]);
    let asked = Instant::now();
    File::create_new(there.path("f")).unwrap();
    println!("waited {:?} on redis", asked.elapsed());
    assert!(asked.elapsed() > Duration::from_millis(300), "it did not stand still: {:?}", asked.elapsed());
    // What it noted for the migration goes too.
    eventually("nothing is left of it", || {
        fs::write(there.path("f"), "x").unwrap();
        server.command(&["EXISTS", "lockfs:{default}:changed"]) == "0"
    });
}

#[test]
fn taken_back_a_mounted_source_grants_again() {
    // Both are closed, as by a death between the closing of the source and the opening of the target.
    let (server, other) = (RedisServer::start(), RedisServer::start());
    for on_a_redis in [false, true] {
        let mut here = if on_a_redis { on_redis(&server) } else { on_level() };
        here.mount();
        let holder = here.holder("touch held");
        let from = if on_a_redis { server.url() } else { level(&here.data_dir()) };
        let namespace = format!("n{on_a_redis}");
        let to = format!("{}?namespace={namespace}", other.url());
        let identity = identity(&here, on_a_redis.then_some(&server));
        let said = migrate(&from, &to).has_moved();
        assert_eq!(crate::common::errno(File::create_new(here.path("f"))), libc::EHOSTDOWN);
        migrate_with(&from, &to, "--rollback").fails(1, "that migration is finished");
        reclose(&other, &namespace, &said, &identity);
        let said = migrate_with(&from, &to, "--rollback").succeeds();
        assert_eq!(said.value("state"), "taken back");
        File::create_new(here.path("f")).unwrap();
        assert!(here.path("held").exists());
        drop(holder);
        // And the other way: it is ended.
        let second = format!("{}?namespace={namespace}-second", other.url());
        let said = migrate(&from, &second).has_moved();
        reclose(&other, &format!("{namespace}-second"), &said, &identity);
        migrate(&from, &second).has_moved();
        let mut there = {
            let (url, namespace) = (other.url(), format!("{namespace}-second"));
            let options =
                ["--host-id", "h0", "--backend", "redis", "--redis-url", &url, "--namespace", &namespace];
            Tree::unmounted(&options, &QUICK)
        };
        there.mount();
        assert!(there.path("held").exists());
    }
}

/// Has a target say that it is still being filled, as it does between the closing of the source and its own opening: its
/// head is of the third version then, with the reason behind it.
fn reclose(server: &RedisServer, namespace: &str, said: &Said, identity: &str) {
    let why = format!("filled\n{identity}\n{}", said.value("from"));
    let script = "local meta = redis.call('GET', KEYS[1]) \
                  redis.call('SET', KEYS[1], '\\3' .. string.sub(meta, 2) .. struct.pack('>ddI2', 0, 0, #ARGV[1]) .. ARGV[1]) \
                  return 1";
    server.command(&["EVAL", script, "1", &format!("lockfs:{{{namespace}}}:meta"), &why]);
}

/// What a source is that no other is.
fn identity(tree: &Tree, server: Option<&RedisServer>) -> String {
    match server {
        Some(server) => {
            let script = "local gen = string.sub(redis.call('GET', KEYS[1]), 2, 17) \
                          return (string.gsub(gen, '.', function(c) return string.format('%02x', string.byte(c)) end))";
            format!("redis-{}", server.command(&["EVAL", script, "1", "lockfs:{default}:meta"]))
        }
        None => {
            let format = fs::read_to_string(tree.data_dir().join("default/FORMAT")).unwrap();
            format!("leveldb-{}", format.lines().find_map(|line| line.strip_prefix("id ")).unwrap())
        }
    }
}
