//! Contests over hosts: contenders of several mounts raise one counter, and write down each hold.
//!
//! A contender is a job of its own. Every other one of a host comes to the lock by a session of its own,
//! `.sessions/<name>/<lock>`, where nothing but the answer to the call itself excludes (see
//! `tests/programs/contest.rs`). It takes `EHOSTDOWN` and `ETIMEDOUT` for what they are: it has not got the lock.
//! A release of which nobody knows whether it happened it tries again, until it is told.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::cluster::Hosts;
use crate::common::arena::Arena;
use crate::common::job::{Job, Turn};
use crate::common::{Tree, sys};
use crate::history::{End, Hold, Law, Stamp, Tokens, parse, violations};

/// The lock that all fight over. A directory of such a name is a lock too, which expires.
pub(crate) const LOCK: &str = "contended.lock";

/// How long a contender tries.
const LIMIT: Duration = Duration::from_secs(55);

/// How the lock is taken, and let go of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// open(2) with `O_CREAT | O_EXCL`, unlink(2).
    OpenExcl,
    /// mkdir(2), rmdir(2).
    Mkdir,
    /// link(2) of a file of one's own, unlink(2).
    Link,
    /// symlink(2), unlink(2).
    Symlink,
    /// What bash runs: an acquire and a release of `$LOCK`, by whom no other is called: `$ME`.
    Shell(&'static str, &'static str),
    /// A program that does one for each line that it reads, and answers `ok`, or `no` and why: the words are
    /// `acquire` and `release`, the lock `$LOCK`.
    Program(fn() -> Command),
}

/// The shape of a contest.
pub(crate) struct Contest {
    /// How many contenders each host has.
    pub(crate) contenders: usize,
    /// How often each of them raises the counter; where locks may be lost, they go on until it is enough.
    pub(crate) rounds: usize,
    pub(crate) way: Way,
    pub(crate) tokens: Tokens,
    pub(crate) losses: Losses,
}

/// Whether a holder may lose its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Losses {
    /// It may not.
    Wrong,
    /// By expiry, of this ttl, while its daemon stands still. It may be inside still when another is: what they do
    /// there is left out, and the history alone judges.
    AfterTtl(Duration),
}

/// What is said by who did not get what it called for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum No {
    /// Another holds it; or so it seems.
    Held,
    /// Nobody knows; or nobody can tell yet.
    Unknown,
    /// There is nothing.
    Gone,
    /// It is another's by now.
    Stale,
    /// What no contender can explain.
    Wrong(String),
}

impl From<io::Error> for No {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EEXIST | libc::EPERM | libc::EBUSY) => Self::Held,
            Some(libc::EHOSTDOWN | libc::ETIMEDOUT) => Self::Unknown,
            Some(libc::ENOENT) => Self::Gone,
            Some(libc::ESTALE) => Self::Stale,
            _ => Self::Wrong(error.to_string()),
        }
    }
}

impl Contest {
    /// A contest of jobs, with tokens that rise.
    pub(crate) fn of(way: Way) -> Self {
        Self { contenders: 2, rounds: 10, way, tokens: Tokens::Rise, losses: Losses::Wrong }
    }

    /// Runs it on as many hosts.
    #[track_caller]
    pub(crate) fn run(&self, hosts: usize) {
        self.run_while(Hosts::new(hosts), |_, _| {});
    }

    /// Runs it while `trouble` makes trouble, which is told how far it is.
    #[track_caller]
    pub(crate) fn run_while(&self, mut hosts: Hosts, trouble: impl FnOnce(&mut Hosts, &Progress<'_>)) {
        let arena = Arena::new(hosts[0].scratch());
        let mut jobs = Vec::new();
        for number in 0..self.contenders {
            for (host, tree) in hosts.trees().iter().enumerate() {
                let me = format!("contender.{host}.{number}");
                // A session of which nothing is heard for its ttl is over.
                let is_plain = number % 2 == 0 || self.losses != Losses::Wrong;
                let path = if is_plain { Path::new("") } else { Path::new(".sessions") };
                jobs.push(Job::start(0, |turn| {
                    self.contend(turn, &arena, tree, &format!("h{host}"), me, path)
                }));
            }
        }
        let raised = jobs.len() * self.rounds;
        for job in &mut jobs {
            job.go();
        }
        let reached =
            catch_unwind(AssertUnwindSafe(|| trouble(&mut hosts, &Progress { arena: &arena, raised })));
        for job in &mut jobs {
            job.listen();
        }
        if reached.is_err() || !arena.read("wrong").is_empty() {
            tell(hosts.trees());
        }
        if let Err(panic) = reached {
            resume_unwind(panic);
        }
        let holds = parse(&arena.read("history"));
        let ttl = if let Losses::AfterTtl(ttl) = self.losses { ttl } else { Duration::from_secs(300) };
        let found = violations(&holds, Law { ttl, tokens: self.tokens });
        assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
        if self.losses == Losses::Wrong {
            arena.judge(raised);
            assert_eq!(holds.len(), raised);
        } else {
            arena.judge(0);
        }
        for (number, tree) in hosts.trees().iter().enumerate() {
            assert!(holds.iter().any(|hold| hold.host == format!("h{number}")), "h{number} never got it");
            let left: Vec<_> =
                fs::read_dir(tree.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert!(
                left.iter().all(|name| name.as_encoded_bytes().starts_with(b".")),
                "left behind: {left:?}"
            );
        }
    }

    fn contend(&self, turn: &Turn, arena: &Arena, tree: &Tree, host: &str, me: String, place: &Path) {
        let has_session = place != Path::new("");
        let place = if has_session { tree.path(place).join(&me) } else { tree.root() };
        if has_session {
            fs::create_dir(&place).unwrap();
        }
        let mut contender = Contender {
            arena,
            host: host.to_owned(),
            lock: place.join(LOCK),
            info: tree.path(".lockfs/info").join(LOCK),
            own: place.join(&me),
            hand: Hand::of(self.way, &place, &me),
            me,
            losses: self.losses,
            limit: Instant::now() + LIMIT,
        };
        turn.pause();
        contender.limit = Instant::now() + LIMIT;
        let is_over = |round| match self.losses {
            Losses::Wrong => round == self.rounds,
            Losses::AfterTtl(_) => arena.path().join("enough").exists(),
        };
        for _ in (0..).take_while(|&round| !is_over(round)) {
            let Some(hold) = contender.acquire() else { return };
            match self.losses {
                Losses::Wrong => contender.raise(),
                Losses::AfterTtl(_) => contender.nap(),
            }
            contender.let_go(hold);
        }
        drop(contender.hand);
        if contender.own.exists() {
            fs::remove_file(&contender.own).unwrap();
        }
        if has_session {
            fs::remove_dir(&place).unwrap();
        }
    }
}

/// Prints what there is to say of a contest that went wrong.
fn tell(trees: &[Tree]) {
    for tree in trees {
        let info = fs::read_to_string(tree.path(".lockfs/info").join(LOCK));
        eprintln!("{}\nlock: {info:?}\nlog:\n{}", tree.root().display(), tree.log());
    }
    let events = fs::read_to_string(trees[0].path(".lockfs/events")).unwrap_or_default();
    let last: Vec<&str> = events.lines().rev().take(30).collect();
    eprintln!("the last events, the last first:\n{}", last.join("\n"));
}

/// How far a contest is.
pub(crate) struct Progress<'a> {
    arena: &'a Arena,
    raised: usize,
}

impl Progress<'_> {
    /// Waits until this share of the work is done, in percent.
    pub(crate) fn wait_for(&self, percent: usize) {
        let count = self.raised * percent / 100;
        self.wait_until(&format!("{percent}% is done"), || self.arena.count() >= count);
    }

    /// Waits until somebody else is told that nobody knows, or that nobody can tell.
    pub(crate) fn wait_for_another_refusal(&self) {
        let before = self.refusals();
        self.wait_until("somebody is told that redis is gone", || self.refusals() > before);
    }

    /// Waits until a host holds it once more.
    pub(crate) fn wait_for_a_hold_of(&self, host: &str) {
        let word = format!("begin {host} ");
        let holds = || self.arena.read("history").lines().filter(|line| line.starts_with(&word)).count();
        let before = holds();
        self.wait_until(&format!("{host} gets it"), || holds() > before);
    }

    /// How many holds were lost.
    pub(crate) fn losses(&self) -> usize {
        self.arena.read("history").lines().filter(|line| line.contains(" lost ")).count()
    }

    /// Ends a contest that goes on until it is enough.
    pub(crate) fn enough(&self) {
        self.arena.note("enough", "");
    }

    /// How many calls were told that nobody knows.
    pub(crate) fn refusals(&self) -> usize {
        self.arena.read("unknown").lines().count()
    }

    fn wait_until(&self, what: &str, mut claim: impl FnMut() -> bool) {
        let limit = Instant::now() + LIMIT;
        while !claim() {
            let wrong = self.arena.read("wrong");
            assert!(Instant::now() < limit && wrong.is_empty(), "it never came true that {what}: {wrong}");
            sleep(Duration::from_millis(2));
        }
    }
}

/// One who fights for the lock.
struct Contender<'a> {
    arena: &'a Arena,
    host: String,
    me: String,
    lock: PathBuf,
    info: PathBuf,
    own: PathBuf,
    hand: Hand,
    losses: Losses,
    limit: Instant,
}

impl Contender<'_> {
    fn wrong(&self, what: &str) {
        self.arena.note("wrong", &format!("{}: {what}", self.me));
    }

    fn nap(&self) {
        let millis = Stamp::now().dice(5) + 4;
        sleep(Duration::from_millis(millis));
    }

    /// Tries until it is told; `None` where the time is up, which is wrong.
    fn until_told<T>(
        &mut self,
        what: &str,
        mut act: impl FnMut(&mut Self) -> Result<T, No>,
    ) -> Result<T, No> {
        loop {
            match act(self) {
                Err(No::Unknown) if Instant::now() < self.limit => {
                    self.arena.note("unknown", &format!("{} {what}", self.me));
                    self.nap();
                }
                other => return other,
            }
        }
    }

    /// Holds it; `None` where something is wrong.
    fn acquire(&mut self) -> Option<Hold> {
        loop {
            let asked = self.take()?;
            let begin = Stamp::now();
            let token = self.until_told("token", |all| Ok(all.hand.token(&all.lock, &all.info)?));
            let (host, holder, name) = (self.host.clone(), self.me.clone(), LOCK.to_owned());
            match token {
                Ok(token) => {
                    let token = token.parse().unwrap();
                    let hold = Hold { host, holder, name, token, asked, begin, end: End::Missing };
                    self.arena.note("history", &hold.begin_line());
                    return Some(hold);
                }
                // It was lost before anything was known of it.
                Err(No::Stale) if self.losses != Losses::Wrong => {}
                Err(no) => {
                    self.wrong(&format!("can't read the token of what it holds: {no:?}"));
                    return None;
                }
            }
        }
    }

    /// Acquires it; when it asked.
    fn take(&mut self) -> Option<Stamp> {
        loop {
            let asked = Stamp::now();
            match self.hand.acquire(&self.lock, &self.own, &self.me) {
                Ok(()) => return Some(asked),
                Err(No::Wrong(why)) => {
                    self.wrong(&format!("can't acquire: {why}"));
                    return None;
                }
                Err(no) if Instant::now() > self.limit => {
                    self.wrong(&format!("never got it: {no:?}"));
                    return None;
                }
                Err(no) => {
                    if no == No::Unknown {
                        self.arena.note("unknown", &format!("{} acquire", self.me));
                    }
                    self.nap();
                }
            }
        }
    }

    /// What only one may do at a time.
    fn raise(&self) {
        let [inside, counter] = ["inside", "counter"].map(|name| self.arena.path().join(name));
        if fs::create_dir(&inside).is_err() {
            self.wrong("somebody else is inside");
        }
        let count = self.arena.count();
        sleep(Duration::from_millis(2));
        fs::write(&counter, format!("{}\n", count + 1)).unwrap();
        if fs::remove_dir(&inside).is_err() {
            self.wrong("somebody else was inside");
        }
    }

    fn let_go(&mut self, mut hold: Hold) {
        let used = self.until_told("use", |all| all.hand.make_use(&all.lock));
        hold.end = if used.is_ok() { End::Kept(Stamp::now()) } else { End::Lost(Stamp::now()) };
        self.arena.note("history", &hold.end_line());
        if let Err(no) = &used
            && (self.losses == Losses::Wrong || *no != No::Stale)
        {
            self.wrong(&format!("it lost the lock: {no:?}"));
        }
        let mut doubts = 0;
        let released = self.until_told("release", |all| {
            let answer = all.hand.release(&all.lock);
            doubts += usize::from(answer == Err(No::Unknown));
            answer
        });
        match released {
            Ok(()) => {}
            // It was released the time before, and may be another's by now.
            Err(No::Gone | No::Held) if doubts > 0 => {}
            // It is free, or another's: it was lost, at the latest since its last use.
            Err(No::Gone | No::Stale) if self.losses != Losses::Wrong => {}
            Err(no) => self.wrong(&format!("can't release: {no:?}")),
        }
    }
}

impl Stamp {
    /// A number below `limit` that differs from one moment to the next.
    fn dice(self, limit: u64) -> u64 {
        self.to_string().parse::<u64>().unwrap() / 1_000 % limit
    }
}

/// What takes the lock and lets go of it.
enum Hand {
    Open(Option<File>),
    Mkdir,
    Link,
    Symlink,
    Program { child: Child, answers: BufReader<std::process::ChildStdout> },
}

impl Hand {
    fn of(way: Way, place: &Path, me: &str) -> Self {
        let mut command = match way {
            Way::OpenExcl => return Self::Open(None),
            Way::Mkdir => return Self::Mkdir,
            Way::Link => return Self::Link,
            Way::Symlink => return Self::Symlink,
            Way::Program(program) => program(),
            Way::Shell(acquire, release) => {
                let script = format!(
                    "acquire() {{ {acquire}; }}\nrelease() {{ {release}; }}\n
                    while read -r word; do
                        if said=$($word 2>&1); then echo ok; else echo \"no ${{said//$'\\n'/; }}\"; fi
                    done"
                );
                let mut command = Command::new("bash");
                command.args(["-c", &script]);
                command
            }
        };
        command.env_remove("LOCKFS_SESSION").env("LOCK", LOCK).env("ME", me);
        command.env("LC_ALL", "C").current_dir(place).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self::Program { child, answers }
    }

    fn acquire(&mut self, lock: &Path, own: &Path, me: &str) -> Result<(), No> {
        match self {
            Self::Open(file) => *file = Some(File::create_new(lock)?),
            Self::Mkdir => fs::create_dir(lock)?,
            Self::Symlink => std::os::unix::fs::symlink(me, lock)?,
            Self::Link => {
                match File::create_new(own).map_err(No::from) {
                    // Made before, perhaps without an answer.
                    Ok(_) | Err(No::Held) => {}
                    Err(no) => return Err(no),
                }
                fs::hard_link(own, lock)?;
                fs::remove_file(own).ok();
            }
            Self::Program { .. } => return self.ask("acquire"),
        }
        Ok(())
    }

    fn token(&self, lock: &Path, info: &Path) -> io::Result<String> {
        if let Self::Open(Some(file)) = self {
            return sys::fgetxattr(file, "user.lock.token");
        }
        if !lock.is_symlink() {
            return sys::getxattr(lock, "user.lock.token");
        }
        // The kernel itself says of a symlink that it has no attribute of the user's: xattr(7).
        let info = fs::read_to_string(info)?;
        let token = info.lines().find_map(|line| line.strip_prefix("token: "));
        Ok(token.expect("every lock has a token").to_owned())
    }

    /// What only its holder can do.
    fn make_use(&self, lock: &Path) -> Result<(), No> {
        match self {
            Self::Open(file) => Ok(file.as_ref().expect("it holds it").write_all_at(b"used\n", 0)?),
            _ => Ok(sys::touch(lock)?),
        }
    }

    fn release(&mut self, lock: &Path) -> Result<(), No> {
        match self {
            Self::Open(_) | Self::Link | Self::Symlink => Ok(fs::remove_file(lock)?),
            Self::Mkdir => Ok(fs::remove_dir(lock)?),
            Self::Program { .. } => self.ask("release"),
        }
    }

    fn ask(&mut self, word: &str) -> Result<(), No> {
        let Self::Program { child, answers } = self else { unreachable!("there is nobody to ask") };
        writeln!(child.stdin.as_mut().expect("it is piped"), "{word}").unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        match answer.trim_end() {
            "ok" => Ok(()),
            no if ["Host is down", "timed out", "EHOSTDOWN", "ETIMEDOUT"]
                .iter()
                .any(|why| no.contains(why)) =>
            {
                Err(No::Unknown)
            }
            no if no.contains("No such file") => Err(No::Gone),
            no if no.contains("Stale file") => Err(No::Stale),
            no if word == "acquire" && no.starts_with("no") => Err(No::Held),
            no if no.contains("not permitted") => Err(No::Held),
            no => Err(No::Wrong(no.to_owned())),
        }
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        if let Self::Program { child, .. } = self {
            // It ends with its input.
            drop(child.stdin.take());
            child.wait().ok();
        }
    }
}
