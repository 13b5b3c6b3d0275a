//! `lockfs status`: the health of a mount, for people and for scripts.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::json::Object;
use super::mounts::{Mount, default_mount, mount_at, shown};
use super::out::print;
use super::probe::{Answer, read_within};
use super::{Exit, Failure, Outcome};

/// Show the health of a mount
///
/// Prints the mount's own .lockfs/status. The exit code is 0 while its state is ok, and 69 when it is not, when
/// nothing is mounted, or when the mount does not answer within 5 seconds.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  $ lockfs status
  $ lockfs status --json /locks")]
pub(super) struct Status {
    /// Which mount [default: LOCKFS_MOUNT, the mount around here, or the only one]
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: Option<PathBuf>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// How long a mount may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

impl Status {
    pub(super) fn perform(self) -> Outcome {
        let mount = match &self.mountpoint {
            Some(point) => mount_at(point)?,
            None => default_mount()?,
        };
        let point = shown(&mount.point);
        let unavailable = |what: String| Failure::new(Exit::Unavailable, what);
        let status = match read_within(&mount.path(".lockfs/status"), PATIENCE) {
            Ok(Answer::Contents(status)) => String::from_utf8_lossy(&status).into_owned(),
            Ok(Answer::Silence) => {
                return Err(unavailable(format!("the lockfs on {point} did not answer within 5s")));
            }
            Ok(Answer::Refused(error)) => {
                return Err(unavailable(unanswered(&mount, &error)));
            }
            Err(error) => return Err(unavailable(format!("cannot ask the lockfs on {point}: {error}"))),
        };
        print(if self.json { as_json(&status) } else { status.clone() })?;
        let is_ok = pairs(&status).any(|pair| pair == ("state", "ok"));
        Ok(if is_ok { Exit::Done } else { Exit::Unavailable })
    }
}

/// What tells the daemon of a mount from the next one there, from its status.
pub(super) fn daemon(status: &str) -> String {
    pairs(status)
        .filter(|(key, _)| ["pid", "since"].contains(key))
        .fold(String::new(), |daemon, (_, value)| daemon + value + " ")
}

/// What it means that a mount can't be asked.
pub(super) fn unanswered(mount: &Mount, error: &io::Error) -> String {
    match reason(mount, error) {
        Some(reason) => reason,
        None => format!("the lockfs on {} does not answer: {error}", shown(&mount.point)),
    }
}

/// What is wrong with the mount or its store, where it is that of which `error` tells, and what to do.
fn reason(mount: &Mount, error: &io::Error) -> Option<String> {
    let point = shown(&mount.point);
    Some(match error.raw_os_error()? {
        libc::ENOTCONN | libc::ECONNABORTED => {
            format!("the lockfs on {point} has no daemon any more: lockfs mount {point} begins anew")
        }
        libc::EHOSTDOWN => format!("the store of {point} can't be reached: lockfs status {point} says why"),
        libc::ETIMEDOUT => {
            format!(
                "the store of {point} did not answer in time: lockfs status {point} says how it is; try again"
            )
        }
        libc::EIO => format!("the store of {point} has failed: lockfs status {point} and its log say how"),
        libc::ENOSPC => format!("the disk or memory of the store of {point} is full: make room there"),
        _ => return None,
    })
}

/// An error of a file of the mount, for a message that says what was tried.
pub(super) fn explained(mount: &Mount, error: &io::Error) -> String {
    reason(mount, error).unwrap_or_else(|| error.to_string())
}

pub(super) fn pairs(status: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = status.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(key, value)| (key.trim(), value.trim()))
}

fn as_json(status: &str) -> String {
    let object = pairs(status).fold(Object::default(), |object, (key, value)| object.scalar(key, value));
    format!("{}\n", object.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_a_flat_object_whose_numbers_are_numbers() {
        let json = as_json("state: ok\nlocks: 12\nuptime: 1.5\nversion: 0.1.0\ndata: /a: b\n");
        assert_eq!(
            json,
            "{\"state\":\"ok\",\"locks\":12,\"uptime\":1.5,\"version\":\"0.1.0\",\"data\":\"/a: b\"}\n"
        );
    }
}
