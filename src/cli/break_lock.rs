//! `lockfs break`: end someone else's lock on purpose, and only the one that was seen.

use std::io::{self, BufRead, ErrorKind, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;

use super::facts::{Facts, is_gone};
use super::mounts::{Place, place};
use super::status::explained;
use super::{Exit, Failure, Outcome, xattr};
use crate::lock::Token;

/// End someone else's lock, naming its token
///
/// Shows who holds the lock and asks. The lock ends only if it is still the one that was shown, or the one that
/// --token names: one that was released and acquired anew has another token, and stays.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  $ lockfs break build/web
  $ lockfs break --yes build/web
  $ lockfs break --token 7563842910394777601 build/web")]
pub(super) struct Break {
    /// The lock
    path: PathBuf,
    /// End it only if this is its token, and do not ask
    #[arg(long, value_name = "N")]
    token: Option<Token>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Break {
    pub(super) fn perform(self) -> Outcome {
        let place = place(&self.path)?.of_a_lock()?;
        let name = place.shown();
        let facts = Facts::read(&place).map_err(|error| match is_gone(&error) {
            true => Failure::new(
                Exit::Failed,
                format!("there is no lock {name}: lockfs ls lists those there are"),
            ),
            false => Failure::new(
                Exit::Unavailable,
                format!("cannot read {name}: {}", explained(&place.mount, &error)),
            ),
        })?;
        let token = match self.token {
            Some(token) => token.to_string(),
            None => {
                let token = facts.get("token").map(str::to_owned);
                let token = token.ok_or_else(|| {
                    Failure::new(
                        Exit::Failed,
                        format!("{name} is not a lock that has a token: lockfs why {name} says what it is"),
                    )
                })?;
                if !self.yes && !confirm(&format!("{name} is {}", facts.sentence()))? {
                    return Err(Failure::new(Exit::Failed, format!("{name} stays as it is")));
                }
                token
            }
        };
        end(&place, &token).map_err(|error| {
            let is_unknown = matches!(error.raw_os_error(), Some(libc::EHOSTDOWN | libc::ETIMEDOUT));
            let exit = if is_unknown { Exit::Unavailable } else { Exit::Failed };
            Failure::new(exit, not_ended(&place, &token, &error))
        })?;
        Ok(Exit::Done)
    }
}

/// Ends the lock at `place`, if its token is this one.
///
/// A symlink has no `user.*` attributes (xattr(7)): what describes it takes the word for it.
///
/// # Errors
/// As setxattr(2); [`not_ended`] says what they mean.
pub(super) fn end(place: &Place, token: &str) -> io::Result<()> {
    if std::fs::symlink_metadata(place.path())?.is_symlink() {
        return xattr::set(&place.info(), "break", token);
    }
    xattr::set(&place.path(), "break", token)
}

/// Why a lock was not ended, for whoever wanted it.
pub(super) fn not_ended(place: &Place, token: &str, error: &io::Error) -> String {
    let name = place.shown();
    match error.kind() {
        ErrorKind::PermissionDenied => {
            let whose = Facts::read(place).map_or_else(|_| "another's".to_owned(), |facts| facts.sentence());
            format!("may not break {name}: {whose} (only its user and root may)")
        }
        _ if is_gone(error) => {
            format!(
                "{name} is not the lock with token {token} any more: lockfs why {name} says whose it is now"
            )
        }
        _ => format!("cannot break {name}: {}", explained(&place.mount, error)),
    }
}

fn confirm(what: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        let message = "nobody can be asked, stdin is no terminal: say --yes or --token";
        return Err(Failure::new(Exit::Usage, message));
    }
    let mut stderr = io::stderr();
    let _ = write!(stderr, "{what}; break it? [y/N] ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(|error| Failure::new(Exit::Failed, error))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
