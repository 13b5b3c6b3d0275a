//! `lockfs who`: the sessions, and what each of them holds, for people.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use clap::Args;

use super::facts::{Facts, TtlLeft, is_gone};
use super::fresh::seen;
use super::json::{self, Object};
use super::ls::locks;
use super::mounts::{Mount, Place, default_mount, shown};
use super::out::{Paint, columns, cut, cut_front, escaped, paint, print_painted, span, width};
use super::path::meant;
use super::session::SessionName;
use super::status::explained;
use super::{Exit, Failure, Outcome, xattr};

/// Show who holds what: sessions, and their locks
///
/// Each session with its owner, and below it the locks that it holds: since when, for how long yet, and how many wait.
/// The session of a job is shown with its process. Of a file that flock(2) or fcntl(2) is used on, each who has it
/// locked is listed. Nothing is printed where nobody holds anything.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  $ lockfs who
  $ lockfs who build
  $ lockfs who --file src/main.rs
  $ lockfs who --session agent-7
  $ lockfs who --user alice --json")]
pub(super) struct Who {
    /// A lock or a directory of locks [default: the whole mount]
    path: Option<PathBuf>,
    /// PATH is a file or a directory outside of the mount: its lock is meant, as lockfs path names it
    #[arg(long, short, requires = "path")]
    file: bool,
    /// Only what this session holds
    #[arg(long, value_name = "ID", conflicts_with = "user")]
    session: Option<SessionName>,
    /// Only what this user holds: alice, or alice@dev1
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Somebody who holds locks.
#[derive(Debug, Default)]
struct Party {
    /// `alice@dev1`
    owner: String,
    /// `alice@dev1 make[4711]`, where a process is what holds.
    holder: String,
    locks: Vec<Held>,
}

/// A lock in somebody's hands.
#[derive(Debug)]
struct Held {
    path: PathBuf,
    /// How it is locked, where by flock(2) or fcntl(2).
    how: Option<String>,
    facts: Facts,
}

/// Parties by session; those without one, who have an advisory file locked, by their process behind an empty one.
type Parties = BTreeMap<(String, String), Party>;

impl Who {
    pub(super) fn perform(self) -> Outcome {
        let top = match &self.path {
            Some(path) => meant(path, self.file)?,
            None => Place { mount: default_mount()?, name: PathBuf::new() },
        };
        let mut parties = match self.path {
            // Sessions that hold nothing are somebody too.
            None => sessions(&top.mount)?,
            Some(_) => Parties::new(),
        };
        // A lock that nobody has yet, below a directory that nobody has made, is held by nobody.
        let there = seen(&top.mount.path(""), &top.name, || fs::symlink_metadata(top.path()));
        let is_nothing = there.is_err_and(|error| is_gone(&error));
        let (rows, exit) = if is_nothing { (Vec::new(), Exit::Done) } else { locks(&top, false)? };
        for row in rows {
            add(&mut parties, row.name, row.facts);
        }
        parties.retain(|(session, _), party| {
            let is_session = self.session.as_ref().is_none_or(|wanted| wanted.as_str() == session.as_str());
            let is_user = self.user.as_ref().is_none_or(|wanted| is_of(&party.owner, wanted));
            is_session && is_user
        });
        print_painted(&if self.json { as_json(&parties) } else { as_text(&parties, width()) })?;
        Ok(exit)
    }
}

/// Whether `owner`, as `alice@dev1`, is the user `wanted`.
fn is_of(owner: &str, wanted: &str) -> bool {
    owner == wanted || owner.rsplit_once('@').is_some_and(|(user, _host)| user == wanted)
}

fn sessions(mount: &Mount) -> Result<Parties, Failure> {
    let unavailable = |error| {
        let message = format!("cannot list the sessions: {}", explained(mount, &error));
        Failure::new(Exit::Unavailable, message)
    };
    let mut parties = Parties::new();
    for entry in fs::read_dir(mount.path(".sessions")).map_err(unavailable)? {
        let entry = entry.map_err(unavailable)?;
        let said = |name| xattr::get(&entry.path(), name).ok().filter(|value| !value.is_empty());
        // One that ended meanwhile is left out.
        let Some(owner) = said("owner") else { continue };
        let session = entry.file_name().to_string_lossy().into_owned();
        let process = match (said("command"), said("pid"), said("host")) {
            (command, Some(pid), Some(host)) if is_a_jobs(&session, &host) => {
                format!("{owner} {}[{pid}]", command.unwrap_or_default())
            }
            _ => owner.clone(),
        };
        parties.insert((session, String::new()), Party { owner, holder: process, locks: Vec::new() });
    }
    Ok(parties)
}

/// Who holds a lock, since when and for how long. A named session is who holds; the process that acquired, as a hook, may
/// be long gone.
pub(super) fn described(facts: &Facts) -> String {
    let Some(session) = facts.get("session").filter(|_| facts.grants().is_empty()) else {
        return facts.sentence();
    };
    if is_a_jobs(session, facts.get("host").unwrap_or_default()) {
        return facts.sentence();
    }
    let owner = facts.get("owner").unwrap_or("nobody");
    facts.sentence().replacen(&facts.holder(), &escaped(format!("{owner}, session {session},")), 1)
}

/// Whether a session was begun by nobody, but is that of a job: `<host>-<pgid>-<tag>`.
pub(super) fn is_a_jobs(session: &str, host: &str) -> bool {
    let rest = session.strip_prefix(host).and_then(|rest| rest.strip_prefix('-'));
    let number = rest.and_then(|rest| rest.split_once('-')).map(|(number, _tag)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn add(parties: &mut Parties, path: PathBuf, facts: Facts) {
    let owner = facts.get("owner").unwrap_or("nobody").to_owned();
    if facts.grants().is_empty() {
        // An advisory file that nobody has locked is in nobody's hands.
        let Some(session) = facts.get("session") else { return };
        let is_job = is_a_jobs(session, facts.get("host").unwrap_or_default());
        let holder = if is_job { facts.holder() } else { owner.clone() };
        let party = parties.entry((session.to_owned(), String::new())).or_default();
        (party.owner, party.holder) = (owner, holder);
        party.locks.push(Held { path, how: None, facts });
        return;
    }
    for grant in facts.grants() {
        let party = parties.entry((String::new(), grant.holder.clone())).or_default();
        party.owner = grant.holder.split(' ').next().unwrap_or_default().to_owned();
        party.holder.clone_from(&grant.holder);
        party.locks.push(Held { path: path.clone(), how: Some(grant.how()), facts: facts.clone() });
    }
}

fn as_text(parties: &Parties, width: Option<usize>) -> String {
    let mut text = String::new();
    for ((session, _), party) in parties {
        let who = [session.as_str(), &party.holder].into_iter().filter(|word| !word.is_empty());
        let count = match party.locks.len() {
            1 => "1 lock".to_owned(),
            count => format!("{count} locks"),
        };
        let who = who.map(escaped).collect::<Vec<_>>().join("  ");
        let who = width.map_or(who.clone(), |width| cut(&who, width.saturating_sub(columns(&count) + 2)));
        text += &format!("{}  {count}\n", paint(Paint::Head, &who));
        for held in &party.locks {
            let (name, words) = (shown(&held.path), held.words().join(", "));
            // Of a path the end says most, and since when it is held more than where.
            let left = width.map(|width| width.saturating_sub(columns(&words) + 4).max(16));
            let name = left.map_or(name.clone(), |left| cut_front(&name, left));
            text += &format!("  {name}  {words}\n");
        }
    }
    text
}

impl Held {
    /// What there is to say of it: `flock exclusive`, `since 3m12s`, `expires in 4m50s`, `1 waits`.
    fn words(&self) -> Vec<String> {
        let mut words: Vec<_> = self.how.iter().cloned().collect();
        if self.facts.get("state") == Some("ended") {
            words.push("its job has ended".to_owned());
        }
        words.extend(self.facts.age().map(|age| format!("since {}", span(age))));
        match self.facts.ttl() {
            TtlLeft::Seconds(left) => words.push(format!("expires in {}", span(left))),
            TtlLeft::Never if self.how.is_none() => words.push("never expires".to_owned()),
            TtlLeft::Never | TtlLeft::Unknown => {}
        }
        match self.facts.number("waiting") {
            None | Some(0) => {}
            Some(1) => words.push("1 waits".to_owned()),
            Some(count) => words.push(format!("{count} wait")),
        }
        words
    }
}

fn as_json(parties: &Parties) -> String {
    json::array(parties.iter().map(|((session, _), party)| {
        let session = Some(session.as_str()).filter(|session| !session.is_empty());
        let locks = party.locks.iter().map(|held| {
            Object::default()
                .text("path", Some(&shown(&held.path)))
                .text("how", held.how.as_deref())
                .text("state", held.facts.get("state"))
                .text("since", held.facts.get("since"))
                .text("expires", held.facts.get("expires"))
                .text("token", held.facts.get("token"))
                .number("waiting", held.facts.number("waiting"))
        });
        Object::default()
            .text("session", session)
            .text("owner", Some(&party.owner))
            .text("holder", Some(&party.holder))
            .list("locks", locks)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_meant_with_a_host_or_without() {
        for (wanted, is_meant) in
            [("alice", true), ("alice@dev1", true), ("alice@dev2", false), ("ali", false)]
        {
            assert_eq!(is_of("alice@dev1", wanted), is_meant, "{wanted}");
        }
    }

    #[test]
    fn the_session_of_a_job_is_known_by_its_name() {
        assert!(is_a_jobs("dev-1-4711-k3f9", "dev-1"));
        for other in ["agent-7", "dev-1", "dev-1-x-y", "dev-1-4711", "dev-1--k"] {
            assert!(!is_a_jobs(other, "dev-1"), "{other}");
        }
    }
}
