//! `kill -9` after each step of random histories: what a store in LevelDB has then is what the table had.
//!
//! Advisory locks, opens, files without a name and places in queues are among it. The one thing that may be missing is
//! a close that came last: it is kept with the next step.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use lockfs::clock::{BootId, ManualClock};
use lockfs::store::level::{self, LevelStore};
use lockfs::store::{Durability, LockStore};
use lockfs::table::Command;
use tempfile::TempDir;

use crate::differential::{Ranks, reopened, seen_in_store, seen_in_table};
use crate::search::every_history;
use crate::shadow::ensure;
use crate::world::{Act, Bench, OWNER, Story, later};

/// How many histories; each is killed after every one of its steps.
const CASES: u64 = 12;

fn temp() -> TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    dir.expect("a temporary directory")
}

fn open(dir: &Path, clock: &Arc<ManualClock>) -> Result<LevelStore, String> {
    let boot = BootId::new("the test's");
    LevelStore::open(dir, Durability::Process, Arc::clone(clock) as _, &boot, (OWNER, OWNER))
        .map_err(|error| error.to_string())
}

/// What a kill would leave: all that was written, and nothing that was only meant to be.
fn killed(dir: &Path) -> TempDir {
    let copy = temp();
    let mut ahead = vec![(dir.to_owned(), copy.path().to_owned())];
    while let Some((from, to)) = ahead.pop() {
        fs::create_dir_all(&to).expect("a directory of our own");
        for entry in fs::read_dir(from).expect("it is there") {
            let entry = entry.expect("it can be read");
            let to = to.join(entry.file_name());
            match entry.path().is_dir() {
                true => ahead.push((entry.path(), to)),
                false => drop(fs::copy(entry.path(), to).expect("there is space")),
            }
        }
    }
    copy
}

#[test]
fn whenever_the_daemon_is_killed_its_successor_finds_what_mounts_had() {
    every_history(CASES, |acts| {
        let dir = temp();
        let mut bench = Bench::new();
        let clock = Arc::new(ManualClock::new(bench.now));
        let store = open(dir.path(), &clock)?;
        let (mut stories, mut ranks) = ([Story::new(), Story::new()], [Ranks::default(), Ranks::default()]);
        let mut closed_last = false;
        for act in acts {
            if let Act::Wait(span) = act {
                clock.advance(*span);
                bench.now = later(bench.now, *span);
            }
            let there: &dyn LockStore = &store;
            let commands = (stories[0].command(&bench, act), stories[1].command(&there, act));
            let (Some(for_table), Some(for_store)) = commands else {
                continue;
            };
            let step = bench.table.execute(bench.now, &for_table);
            let outcome = store.execute(&for_store).map_err(|error| error.to_string())?;
            // Each token is seen on both sides, in one order.
            let told = ranks[0].rank(&format!("{:?}", step.outcome));
            let got = ranks[1].rank(&format!("{outcome:?}"));
            ensure!(told == got, "{for_table:?} answers {told}, the store {got}");
            stories[0].hear(&step.outcome);
            stories[1].hear(&outcome);
            stories.iter_mut().for_each(|story| story.hear_wakes(&step.wakes));
            closed_last = match for_table {
                Command::Close { .. } => true,
                Command::Sweep { .. } => false,
                _ => closed_last && step.changes.is_empty(),
            };
            if closed_last {
                continue;
            }
            let copy = killed(dir.path());
            level::check(copy.path()).map_err(|error| format!("after {act:?}: {error}"))?;
            let successor = open(copy.path(), &clock)?;
            let table = reopened(&bench);
            let told = ranks[0].rank(&seen_in_table(&table, &stories[0]));
            let got = ranks[1].rank(&seen_in_store(&successor, &stories[1]));
            ensure!(told == got, "killed after {act:?}, the table shows\n{told}\nand the store\n{got}");
        }
        Ok(())
    });
}
