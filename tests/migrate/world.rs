//! Stores to move between, trees to look at what is in them, and the command.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use lockfs::clock::{BootId, Clock, SystemClock};
use lockfs::lock::{Ino, MountId, Name, Origin, SessionId, SessionKind, Ttl};
use lockfs::store::level::LevelStore;
use lockfs::store::{Durability, LockStore};
use lockfs::table::{Begin, Caller, Claimant, Command as Step, Existing, New, Opening, Reply, Spot};

use crate::common::{LOCKFS, Tree, eventually, sys};
use crate::servers::redis::RedisServer;

/// How long a call may take, so that a test need not wait for the usual five seconds.
pub(crate) const QUICK: [(&str, &str); 2] =
    [("REDIS_COMMAND_TIMEOUT", "2000"), ("REDIS_CONNECT_TIMEOUT", "2000")];

/// What the command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// It did what it was asked.
    #[track_caller]
    pub(crate) fn succeeds(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// It did not, for that reason.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, why: &str) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        let last = self.err.lines().last().unwrap_or_default();
        assert!(last.contains(why), "{why}? {self:#?}");
        self
    }

    /// A value of its `key: value` lines.
    #[track_caller]
    pub(crate) fn value(&self, key: &str) -> &str {
        let found = self.out.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        found.unwrap_or_else(|| panic!("no {key} in {self:#?}"))
    }

    /// It moved all, and both sides had the same.
    #[track_caller]
    pub(crate) fn has_moved(self) -> Self {
        let said = self.succeeds();
        assert_eq!(said.value("state"), "moved");
        assert_eq!(said.value("source"), said.value("target"));
        said
    }
}

/// The command, with these arguments.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(LOCKFS);
    command.env_clear().env("LOCKFS_CONFIG", "").env("PATH", std::env::var_os("PATH").unwrap());
    command.envs(QUICK).arg("migrate").args(args).stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub(crate) fn run(args: &[&str]) -> Said {
    ended(&mut command(args))
}

pub(crate) fn ended(command: &mut Command) -> Said {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Moves from one to another.
pub(crate) fn migrate(from: &str, to: &str) -> Said {
    run(&["--from", from, "--to", to])
}

/// The same with one more option.
pub(crate) fn migrate_with(from: &str, to: &str, option: &str) -> Said {
    run(&["--from", from, "--to", to, option])
}

/// Starts it, and leaves it running.
pub(crate) fn start(from: &str, to: &str) -> Child {
    let mut command = command(&["--from", from, "--to", to]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The URL of a data directory.
pub(crate) fn level(dir: &Path) -> String {
    format!("leveldb://{}", dir.display())
}

/// A tree on a LevelDB, of the host `h0`, that is not mounted yet.
pub(crate) fn on_level() -> Tree {
    Tree::unmounted(&["--host-id", "h0"], &QUICK)
}

/// A tree on a Redis, of the host `h0`, that is not mounted yet.
pub(crate) fn on_redis(server: &RedisServer) -> Tree {
    let url = server.url();
    Tree::unmounted(&["--host-id", "h0", "--backend", "redis", "--redis-url", &url], &QUICK)
}

/// All that a mount says of all that is in it, but what hangs on the time of the question.
pub(crate) fn facts(tree: &Tree) -> BTreeMap<PathBuf, Vec<String>> {
    let mut found = BTreeMap::new();
    let root = tree.root();
    let mut ahead = vec![root.clone()];
    while let Some(path) = ahead.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let mut facts = vec![
            format!("ino={} nlink={} mode={:o}", meta.ino(), meta.nlink(), meta.mode()),
            format!("uid={} gid={} size={}", meta.uid(), meta.gid(), meta.size()),
        ];
        if !meta.is_dir() {
            // When an entry came or went is not kept of a directory.
            facts.push(format!("mtime={}.{:09}", meta.mtime(), meta.mtime_nsec()));
            facts.push(format!("ctime={}.{:09}", meta.ctime(), meta.ctime_nsec()));
        }
        if meta.is_symlink() {
            facts.push(format!("to={}", fs::read_link(&path).unwrap().display()));
        } else {
            for name in ["owner", "session", "token", "host", "pid", "command", "since", "default_ttl"] {
                let value = sys::getxattr(&path, &format!("user.lock.{name}"));
                facts.push(format!("{name}={:?}", value.ok()));
            }
            let left = sys::getxattr(&path, "user.lock.ttl").unwrap_or_default();
            facts.push(format!("never={}", left == "never"));
        }
        if meta.is_file() {
            let info = root.join(".lockfs/info").join(path.strip_prefix(&root).unwrap());
            let info = fs::read_to_string(info).unwrap();
            let ttl = info.lines().filter(|line| line.starts_with("ttl:") || line.starts_with("state:"));
            facts.extend(ttl.map(str::to_owned));
            if meta.size() > 0 {
                facts.push(format!("note={:?}", fs::read(&path).unwrap()));
            }
        }
        if meta.is_dir() {
            let entries = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap());
            let named = entries.filter(|entry| {
                ![".sessions", ".wait", ".lockfs"].map(Into::into).contains(&entry.file_name())
            });
            ahead.extend(named.map(|entry| entry.path()));
        }
        found.insert(path.strip_prefix(&root).unwrap().to_owned(), facts);
    }
    let sessions = fs::read_dir(root.join(".sessions")).unwrap();
    for session in sessions.map(|session| session.unwrap()) {
        let meta = session.metadata().unwrap();
        let facts = vec![format!("ino={} mtime={} uid={}", meta.ino(), meta.mtime(), meta.uid())];
        found.insert(Path::new(".sessions").join(session.file_name()), facts);
    }
    found
}

/// Two trees show the same; what they don't is named.
#[track_caller]
pub(crate) fn same(tree: &Tree, before: &BTreeMap<PathBuf, Vec<String>>) {
    let now = facts(tree);
    for (path, facts) in before {
        assert_eq!(now.get(path), Some(facts), "{}", path.display());
    }
    assert_eq!(now.len(), before.len(), "{:?}", now.keys());
}

/// Makes a bit of everything in a mounted tree.
pub(crate) fn furnish(tree: &Tree) {
    let root = tree.root();
    let at = |name: &str| root.join(name);
    let script = "
        touch plain
        printf 'by hand\\n\\0\\377' > noted
        head -c 65536 /dev/zero > long
        mkdir -p way/below/deep
        echo x > way/below/deep/lock
        mkdir way/idiom.lock
        ln -s 'nowhere at all' link
        touch one; ln one two; ln one way/three
        mkdir way/short; setfattr -n user.lock.default_ttl -v 7m way/short; touch way/short/inherits
        touch ever; setfattr -n user.lock.ttl -v never ever
        touch hour; setfattr -n user.lock.ttl -v 1h hour
        mkdir .sessions/agent-7 .sessions/idle
        touch .sessions/agent-7/task
        mkdir .sessions/agent-7/way/of-agent
    ";
    let output = tree.run(&format!("set -e; {script}"));
    assert!(output.status.success(), "{output:?}");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o1777)).unwrap();
    let output = tree.run_as(1000, "set -e; umask 077; touch theirs; mkdir home; echo secret > home/mine");
    assert!(output.status.success(), "{output:?}");
    fs::write(at("odd \n\u{e9}"), "odd").unwrap();
    fs::set_permissions(at("odd \n\u{e9}"), fs::Permissions::from_mode(0o444)).unwrap();
    sys::utimens(at("odd \n\u{e9}"), (1_000_000_000, 1), (1_000_000_000, 123_456_789)).unwrap();
    // The kernel remembers what a directory looks like for a second.
    eventually("all subdirectories are counted", || fs::metadata(at("way")).unwrap().nlink() == 6);
    for name in ["plain", "home/mine"] {
        eventually("its job has ended", || {
            fs::read_to_string(at(".lockfs/info").join(name)).unwrap().contains("state: ended")
        });
    }
}

/// The highest token of all that a mount shows.
pub(crate) fn highest(facts: &BTreeMap<PathBuf, Vec<String>>) -> u64 {
    let tokens = facts.values().flatten().filter_map(|fact| fact.strip_prefix("token=Some(\""));
    tokens.filter_map(|token| token.trim_end_matches("\")").parse().ok()).max().unwrap()
}

/// The token of a lock.
pub(crate) fn token(tree: &Tree, name: &str) -> u64 {
    sys::getxattr(tree.path(name), "user.lock.token").unwrap().parse().unwrap()
}

/// Fills the LevelDB in a data directory with so many locks, in directories of a hundred, of sessions of ten.
pub(crate) fn stock(data_dir: &Path, locks: usize) {
    stock_in_epochs(data_dir, locks, 1);
}

/// The same, after it was opened so often.
pub(crate) fn stock_in_epochs(data_dir: &Path, locks: usize, epochs: usize) {
    let boot = BootId::current().unwrap();
    let open = || {
        let (dir, clock) = (data_dir.join("default"), Arc::new(SystemClock));
        LevelStore::open(&dir, Durability::Process, clock, &boot, (0, 0)).unwrap()
    };
    (1..epochs).for_each(|_| open().close().unwrap());
    let store = open();
    let made = |outcome| match outcome {
        Reply::Entry(made) => made.ino,
        other => panic!("{other:?}"),
    };
    let mut parent = Ino::ROOT;
    for number in 0..locks {
        let caller = caller(&format!("agent-{}", number / 10));
        if number % 100 == 0 {
            let spot = spot(Ino::ROOT, &format!("d{}", number / 100));
            let make = Step::Acquire {
                caller: caller.clone(),
                spot,
                new: New::Directory,
                mode: 0o755,
                existing: Existing::Refuse,
            };
            parent = made(store.execute(&make).unwrap().unwrap());
        }
        let make = Step::Acquire {
            caller,
            spot: spot(parent, &format!("lock-{number}")),
            new: New::File(Opening::Closed),
            mode: 0o644,
            existing: Existing::Refuse,
        };
        made(store.execute(&make).unwrap().unwrap());
    }
    store.close().unwrap();
}

fn spot(parent: Ino, name: &str) -> Spot {
    Spot { parent, name: Name::parse(name.as_bytes()).unwrap() }
}

fn caller(session: &str) -> Caller {
    let origin = Origin { user: "root".to_owned(), host: "h0".to_owned(), pid: 0, command: String::new() };
    let claimant = Claimant {
        id: SessionId::parse(session.as_bytes()).unwrap(),
        kind: SessionKind::Named,
        origin,
        login: None,
        ttl: Ttl::DEFAULT,
        begin: Begin::WhereMissing,
    };
    Caller { uid: 0, gid: 0, session: Arc::new(claimant), also: Vec::new(), mount: MountId::from_u64(1) }
}

/// Everything in a database, in order: to see that nothing was changed. Who is there and what was answered is left out.
pub(crate) fn dump(server: &RedisServer) -> String {
    let script = "
        local keys, all = redis.call('KEYS', '*'), {}
        for _, key in ipairs(keys) do
            local kind, value = redis.call('TYPE', key).ok, {}
            if kind == 'string' then value = {redis.call('GET', key)}
            elseif kind == 'list' then value = redis.call('LRANGE', key, 0, -1)
            elseif kind == 'zset' then value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
            elseif kind == 'set' then value = redis.call('SMEMBERS', key) table.sort(value)
            elseif kind == 'hash' then
                for _, field in ipairs(redis.call('HKEYS', key)) do
                    value[#value + 1] = field .. '=' .. redis.call('HGET', key, field)
                end
                table.sort(value)
            end
            if not string.find(key, ':seen$') and not string.find(key, ':hosts$') and not string.find(key, ':q:') then
                all[#all + 1] = key .. ' ' .. kind .. ' ' .. #value .. ' ' .. redis.sha1hex(table.concat(value, ' '))
            end
        end
        table.sort(all)
        return table.concat(all, ' | ')";
    server.command(&["EVAL", script, "0"])
}

/// Returns in another second: stores that are founded in one may give the same numbers.
pub(crate) fn another_second() {
    let second = || SystemClock.now().wall.secs();
    let begin = second();
    eventually("the second is over", || second() > begin);
}

/// Numbers that look like chance; where they begin is said where a test fails.
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = u64::try_from(now.as_nanos() % u128::from(u32::MAX)).unwrap() | 1;
        println!("chance begins with {seed}");
        Self(seed)
    }

    /// A number below `limit`: xorshift of Marsaglia.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
