//! A contest: many contenders raise one counter by reading it, waiting, and writing it back, and nothing but
//! the lock under test keeps them from losing each other's work.
//!
//! The counter and all that watches over it stand outside of the mount. Every other job comes to the lock by a
//! session of its own for each contender, `.sessions/<name>/<lock>`. On the plain path the kernel itself keeps
//! two from one name: it looks it up and makes it under the lock of the directory. Those directories are others,
//! and show only what their session holds: there nothing but the answer to the call itself excludes.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::common::Tree;
use crate::common::arena::Arena;
use crate::said;

/// What each contender runs: it needs `acquire` and `release`, which know the lock as `$LOCK` and a name that no
/// other contender uses as `$ME`.
const CONTENDER: &str = r#"
nap() { read -rt "$1" <> "$ARENA/never"; }
wrong() { echo "$ME: $*" >> "$ARENA/wrong"; }
raise() {
    mkdir "$ARENA/inside" || wrong 'somebody else is inside'
    read -r count < "$ARENA/counter"
    nap 0.002
    echo $((count + 1)) > "$ARENA/counter"
    rmdir "$ARENA/inside" || wrong 'somebody else was inside'
}
contend() {
    for ((round = 0; round < ROUNDS; round++)); do
        until acquire 2> "$ARENA/log.$ME"; do
            if ((SECONDS > 60)); then wrong "never got it: $(cat "$ARENA/log.$ME")"; return; fi
            nap "0.00$((RANDOM % 5 + 5))"
        done
        raise
        release 2>> "$ARENA/wrong" || wrong "can't release"
    done
    rm -f "$ME"
}
"#;

/// Makes the contender one by a session of its own.
const ENTER_SESSION: &str = "mkdir .sessions/$ME && cd .sessions/$ME || exit";
const LEAVE_SESSION: &str = "status=$?; cd ../.. && rmdir .sessions/$ME && exit $status";

/// The shape of a contest.
pub(crate) struct Contest {
    /// How many jobs there are, each a login of its own, as scripts that cron starts.
    pub(crate) jobs: usize,
    /// How many contenders each job has: the background children of one script, which are one holder.
    pub(crate) children: usize,
    /// How often each contender raises the counter.
    pub(crate) rounds: usize,
    /// The users that jobs run as, in turn.
    pub(crate) users: &'static [u32],
}

impl Default for Contest {
    fn default() -> Self {
        Self { jobs: 4, children: 2, rounds: 12, users: &[0] }
    }
}

impl Contest {
    /// Runs it with an acquire and a release in bash.
    #[track_caller]
    pub(crate) fn run(&self, acquire: &str, release: &str) {
        let functions = format!("acquire() {{ {acquire}; }}\nrelease() {{ {release}; }}\n{CONTENDER}");
        self.run_contenders(&functions, "contend");
    }

    /// Runs it with contenders that raise the counter themselves, by the rules of [`CONTENDER`].
    #[track_caller]
    pub(crate) fn run_contenders(&self, functions: &str, contender: &str) {
        let tree = Tree::new();
        let arena = Arena::new(tree.scratch());
        let jobs: Vec<Child> = (0..self.jobs)
            .map(|job| {
                let (enter, leave) = if job % 2 == 0 { ("", "") } else { (ENTER_SESSION, LEAVE_SESSION) };
                let child =
                    |child| format!("(export ME=contender.{job}.{child}\n{enter}\n{contender}\n{leave}) &");
                let children = (0..self.children).map(child).collect::<Vec<_>>().join("\n");
                // Each child answers for itself: `wait` without an argument would hide how it ended.
                let script =
                    format!("{functions}\n{children}\nfor child in $(jobs -p); do wait $child || exit; done");
                start(&arena, tree.shell_as(self.users[job % self.users.len()], &script), self.rounds)
            })
            .collect();
        // All of them end before one is judged: none is left without its mount.
        let outputs: Vec<_> = jobs.into_iter().map(|job| job.wait_with_output().unwrap()).collect();
        for output in outputs {
            assert!(output.status.success(), "a contender failed: {}", said(&output));
        }
        arena.judge(self.jobs * self.children * self.rounds);
        let left: Vec<_> =
            fs::read_dir(tree.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name.as_encoded_bytes().starts_with(b".")), "left behind: {left:?}");
    }
}

fn start(arena: &Arena, mut job: Command, rounds: usize) -> Child {
    job.env("ARENA", arena.path()).env("LOCK", "contended").env("ROUNDS", rounds.to_string());
    job.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}
