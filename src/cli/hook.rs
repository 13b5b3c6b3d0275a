//! `lockfs hook`: what the hooks of coding agents and of git call, so that no two edit one file.
//!
//! An agent is a named session, and an edit an acquire for it of the lock that `lockfs path` names: the mount keeps what
//! is held, and a hook keeps nothing. A hook has three answers: granted, held by another, unknown. **Unknown is never
//! granted**: no mount, a store that does not answer, a repository that can't be told, an answer that does not come in
//! time, a bug. Then a person decides.

mod apart;
mod claims;
mod claude_code;
mod pre_commit;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use self::apart::Silent;
use self::claims::Verdict;
use super::session::SessionName;
use super::{Exit, Failure, Outcome};
use crate::lock::Ttl;

/// Keep coding agents out of each other's files
///
/// For the hooks of agents and of git; examples/ of the source has them ready. An agent is a session of the mount, named
/// as the agent names its own, and each file that it edits is a lock of that session, named by lockfs path: so it holds
/// for all clones and machines. The locks are released when the agent's session ends, and expire where it just stops.
/// The exit code is 0 if the files are the agent's, 1 if another holds one of them, and anything else if nobody knows:
/// then ask somebody, and do not take them for free.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  $ lockfs hook claude-code
  $ lockfs hook acquire --session agent-7 src/main.rs src/lib.rs
  $ lockfs hook renew --session agent-7
  $ lockfs hook release --session agent-7
  $ lockfs hook pre-commit")]
pub(super) struct Hook {
    #[command(subcommand)]
    act: Act,
    /// How long the mount and git may take to answer: after that nothing is known
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = limit, global = true)]
    limit: Duration,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Answer a hook of Claude Code, which is on stdin
    ///
    /// Before an edit it acquires the file for the agent's session: granted, it says nothing, so that the agent goes on
    /// as its own permissions say; held by another, it denies; unknown, it has the agent ask. Every other tool call
    /// renews what the session holds; the end of the session releases it.
    #[command(after_long_help = "\
Examples:
  $ lockfs hook claude-code
  $ lockfs hook claude-code --release-at turn --ttl 30m")]
    ClaudeCode {
        /// When the locks are released
        #[arg(long, value_enum, default_value_t = ReleaseAt::Session)]
        release_at: ReleaseAt,
        /// How long a lock outlives the last hook [default: what the mount says]
        #[arg(long)]
        ttl: Option<Ttl>,
    },
    /// Refuse a commit of files that others are editing
    ///
    /// Looks at the lock of each staged file. Held by another session than LOCKFS_SESSION, it refuses. Unknown, it asks
    /// on the terminal, and refuses where there is none.
    #[command(after_long_help = "Examples:\n  $ lockfs hook pre-commit")]
    PreCommit,
    /// Acquire files for an agent, all of them or none
    ///
    /// Begins the session if it has not begun, and renews all that it holds.
    #[command(after_long_help = "Examples:\n  $ lockfs hook acquire --session agent-7 src/main.rs")]
    Acquire {
        /// What the agent calls its session
        #[arg(long, value_name = "ID", value_parser = claims::session_of)]
        session: SessionName,
        /// How long a lock outlives the last hook [default: what the mount says]
        #[arg(long)]
        ttl: Option<Ttl>,
        /// The files, which need not be there yet
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Renew what an agent holds
    #[command(after_long_help = "Examples:\n  $ lockfs hook renew --session agent-7")]
    Renew {
        /// What the agent calls its session
        #[arg(long, value_name = "ID", value_parser = claims::session_of)]
        session: SessionName,
    },
    /// Release all that an agent holds
    #[command(after_long_help = "Examples:\n  $ lockfs hook release --session agent-7")]
    Release {
        /// What the agent calls its session
        #[arg(long, value_name = "ID", value_parser = claims::session_of)]
        session: SessionName,
    },
}

/// When an agent's locks are released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ReleaseAt {
    /// When its session ends.
    Session,
    /// Each time it has answered, too.
    Turn,
}

fn limit(text: &str) -> Result<Duration, String> {
    match text.parse::<Ttl>().map_err(|error| error.to_string())? {
        Ttl::For(span) => Ok(span),
        Ttl::Never => Err("a hook that waits for ever stops its agent".to_owned()),
    }
}

impl Hook {
    pub(super) fn perform(self) -> Outcome {
        let limit = self.limit;
        let verdict = match self.act {
            Act::ClaudeCode { release_at, ttl } => return claude_code::answer(limit, release_at, ttl),
            Act::PreCommit => return pre_commit::answer(limit),
            Act::Acquire { session, ttl, files } => {
                apart::within(limit, Silent::IsEnded, || claims::acquire(&session, &files, ttl))
            }
            Act::Renew { session } => apart::within(limit, Silent::IsEnded, || claims::renew(&session)),
            Act::Release { session } => apart::within(limit, Silent::GoesOn, || claims::release(&session)),
        };
        match verdict {
            Verdict::Granted => Ok(Exit::Done),
            Verdict::Held(message) => Err(Failure::new(Exit::Failed, message)),
            Verdict::Unknown(message) => Err(Failure::new(Exit::Unavailable, message)),
        }
    }
}
