//! Contests for a name, with every hold written down and judged.
//!
//! The stamps of a hold are taken after its acquire and before its release: what is written is shorter than what was.
//! Two holds of one host that overlap, or two that Redis granted, are two holders at once. What one host granted alone
//! may overlap with what another has: that is what its scope says. And of two that Redis granted the later one has
//! the higher token.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Tree, sys};
use crate::world::World;

/// The name that all contend for.
pub(crate) const NAME: &str = "contested";

/// How many contenders a host has.
const CONTENDERS: usize = 3;

/// How long a contender may be held up by faults.
const PATIENCE: Duration = Duration::from_secs(60);

/// One that was told it has the name, for as long as it believed so.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    pub(crate) host: usize,
    pub(crate) scope: String,
    token: Option<u64>,
    pub(crate) begin: Instant,
    /// `None` where its holder was told that it has lost it.
    end: Option<Instant>,
}

/// What became of a call.
enum Became {
    Done,
    /// Certainly not done: nobody decides, or the name is another's.
    Not,
    /// Nobody knows: it may have been done.
    Unknown,
    /// What it was about is lost, or gone.
    Lost,
}

/// What an outcome says.
fn became<T>(outcome: io::Result<T>) -> Became {
    let Err(error) = outcome else {
        return Became::Done;
    };
    match error.raw_os_error().expect("an error of the system") {
        libc::EEXIST | libc::EHOSTDOWN | libc::EPERM | libc::ENOSPC => Became::Not,
        // The daemon was killed while it was asked, or after.
        libc::ETIMEDOUT | libc::ENOTCONN | libc::ECONNABORTED => Became::Unknown,
        libc::ESTALE | libc::ENOENT => Became::Lost,
        _ => panic!("{error}"),
    }
}

/// Takes and releases the name for a session of its own until it is told to stop.
fn contend(host: usize, number: usize, root: &Path, stop: &AtomicBool) -> Vec<Hold> {
    let session = root.join(format!(".sessions/c{host}-{number}"));
    let path = session.join(NAME);
    let mut holds = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let (scope, token, begin) = match became(fs::File::create_new(&path)) {
            Became::Done => {
                let scope = sys::getxattr(&path, "user.lock.scope").unwrap_or_default();
                let token = sys::getxattr(&path, "user.lock.token").ok();
                (scope, token.and_then(|token| token.parse().ok()), Instant::now())
            }
            Became::Not => {
                thread::sleep(Duration::from_millis(3));
                continue;
            }
            Became::Unknown => {
                let_go(root, &path);
                continue;
            }
            Became::Lost => {
                // It has begun nowhere yet, or Redis has forgotten it.
                became(fs::create_dir(&session));
                thread::sleep(Duration::from_millis(3));
                continue;
            }
        };
        thread::sleep(Duration::from_millis(2));
        let end = Instant::now();
        let is_kept = let_go(root, &path);
        holds.push(Hold { host, scope, token, begin, end: is_kept.then_some(end) });
    }
    holds
}

/// Lets go of the name; returns whether it was had until then.
fn let_go(root: &Path, path: &Path) -> bool {
    let (limit, mut is_unknown) = (Instant::now() + PATIENCE, false);
    while Instant::now() < limit {
        let mut outcome = fs::remove_file(path);
        if matches!(&outcome, Err(error) if error.kind() == io::ErrorKind::NotFound) {
            // Perhaps the mount was not there for a moment, after its daemon was killed.
            if !root.join(".lockfs/status").exists() {
                is_unknown = true;
                thread::sleep(Duration::from_millis(3));
                continue;
            }
            outcome = fs::remove_file(path);
        }
        let is_others = matches!(&outcome, Err(error) if error.raw_os_error() == Some(libc::EPERM));
        match became(outcome) {
            Became::Done => return true,
            // Let go of by a call of which nobody knew that.
            Became::Lost | Became::Not if is_unknown && is_others => return true,
            Became::Lost => return is_unknown,
            Became::Not if is_others => return false,
            Became::Unknown => is_unknown = true,
            Became::Not => {}
        }
        thread::sleep(Duration::from_millis(3));
    }
    panic!("it could not be let go of: {}", path.display());
}

/// Lets all hosts contend while `act` does what it does to them. Returns all holds, in order, when they were judged,
/// and nothing is held any more.
pub(crate) fn contest(world: &mut World, act: impl FnOnce(&mut World)) -> Vec<Hold> {
    let stop = AtomicBool::new(false);
    let roots: Vec<PathBuf> = world.hosts.iter().map(Tree::root).collect();
    let mut holds = thread::scope(|scope| {
        let mut contenders = Vec::new();
        for (host, root) in roots.iter().enumerate() {
            for number in 0..CONTENDERS {
                let stop = &stop;
                contenders.push(scope.spawn(move || contend(host, number, root, stop)));
            }
        }
        // They end, too, where it fails.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(world)));
        stop.store(true, Ordering::Relaxed);
        let holds =
            contenders.into_iter().flat_map(|contender| contender.join().unwrap()).collect::<Vec<_>>();
        if let Err(failure) = outcome {
            std::panic::resume_unwind(failure);
        }
        holds
    });
    judge(&mut holds);
    for tree in &world.hosts {
        let left = fs::read_to_string(tree.path(format!(".lockfs/info/{NAME}")));
        assert!(left.is_err(), "it is not free though all have let go of it: {left:?}");
        assert_eq!(tree.status("owed"), "0");
    }
    holds
}

/// Fails where two held a name that may not have.
fn judge(holds: &mut [Hold]) {
    holds.sort_by_key(|hold| hold.begin);
    let mut last: Option<&Hold> = None;
    for (index, one) in holds.iter().enumerate() {
        if one.scope == "cluster" && one.token.is_some() {
            assert!(last.is_none_or(|last| last.token < one.token), "tokens go back: {last:?} and {one:?}");
            last = Some(one);
        }
        let Some(end) = one.end else {
            continue;
        };
        for other in holds[index + 1..].iter().take_while(|other| other.begin < end) {
            let is_same = one.host == other.host;
            let is_of_cluster = one.scope == "cluster" && other.scope == "cluster";
            assert!(!is_same && !is_of_cluster, "two held it at once: {one:?} and {other:?}");
        }
    }
}
