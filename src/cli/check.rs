//! `lockfs check`: is the store sound, and if not, set it aside.

use std::ffi::OsString;

use clap::Args;

use super::mounts::shown;
use super::out::print;
use super::{Exit, Failure, Outcome};
use crate::config::{Backend, Flags, MountOptions, Sources};
use crate::store::level::{self, LevelError};

/// Verify the store of an unmounted tree
///
/// Reads all of it and changes nothing. The exit code is 0 for a sound store, 78 for a damaged one, and 69 for
/// one that a mount has open. With --repair a damaged store is set aside under another name, and the next mount
/// starts with an empty one: every lock in it counts as released then.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  $ lockfs check
  $ lockfs check --data-dir /srv/locks --namespace ci --repair")]
pub(super) struct Check {
    /// Where the locks of this machine are kept
    #[arg(long, value_name = "DIR")]
    data_dir: Option<OsString>,
    /// Which tree of locks to verify
    #[arg(long, value_name = "NAME")]
    namespace: Option<OsString>,
    /// Set a damaged store aside
    #[arg(long)]
    repair: bool,
}

impl Check {
    pub(super) fn perform(self) -> Outcome {
        let mut flags = Flags::default();
        flags.set("data-dir", self.data_dir);
        flags.set("namespace", self.namespace);
        let sources = Sources::gather(flags, MountOptions::default())?;
        if sources.backend()? == Backend::Redis {
            let what =
                "this verifies a leveldb store, and the backend is redis: lockfs status says how it is";
            return Err(Failure::new(Exit::Usage, what));
        }
        let store = sources.store_dir()?;
        match level::check(&store) {
            Ok((report, closed)) => {
                let report = report.to_string();
                let closed = closed.map(|why| format!("closed: {why}\n")).unwrap_or_default();
                print(format!("{}\n{closed}", report.trim_end()))?;
                Ok(Exit::Done)
            }
            Err(error) if self.repair && matches!(error, LevelError::Damaged { .. }) => {
                let aside = level::set_aside(&store).map_err(failure)?;
                print(format!("set aside: {}\n", shown(&aside)))?;
                Ok(Exit::Done)
            }
            Err(error) => Err(failure(error)),
        }
    }
}

fn failure(error: LevelError) -> Failure {
    Failure::new(exit_of(&error), error)
}

/// How a command ends that could not open a store.
pub(super) fn exit_of(error: &LevelError) -> Exit {
    match error {
        LevelError::Busy { .. } | LevelError::NoSpace { .. } | LevelError::Failed(_) => Exit::Unavailable,
        LevelError::Damaged { .. } | LevelError::Newer { .. } | LevelError::Foreign { .. } => Exit::Damaged,
        LevelError::Absent { .. } | LevelError::Closed { .. } | LevelError::Io { .. } => Exit::Failed,
    }
}
