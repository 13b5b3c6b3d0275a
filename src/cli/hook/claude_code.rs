//! The hooks of Claude Code: an object of JSON on stdin, one on stdout (code.claude.com/docs/en/hooks).
//!
//! A granted edit is answered with nothing: "allow" would go past what the user has to be asked for. What goes wrong
//! before an edit is answered with "ask" and exit code 0, for any exit code but 2 lets the edit happen.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::apart::{Silent, within};
use super::claims::{self, Verdict};
use super::{Exit, Failure, Outcome, ReleaseAt};
use crate::cli::json::Object;
use crate::cli::out::print;
use crate::cli::reader::Value;
use crate::cli::session::SessionName;
use crate::lock::Ttl;

/// The tools that edit a file, and where their input names it.
const EDITORS: [(&str, &str); 4] = [
    ("Edit", "file_path"),
    ("MultiEdit", "file_path"),
    ("Write", "file_path"),
    ("NotebookEdit", "notebook_path"),
];

/// What a hook is called for.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    /// A session begins: what it runs in a shell is to be of the same session of locks.
    Begin(String),
    /// An edit is about to happen.
    Edit(String, PathBuf),
    /// Anything else that shows that the session lives.
    Alive(String),
    /// It has answered, and waits for its user.
    Turn(String),
    /// It ends.
    End(String),
}

/// Answers the hook on stdin.
pub(super) fn answer(limit: Duration, release_at: ReleaseAt, ttl: Option<Ttl>) -> Outcome {
    let mut text = Vec::new();
    let event = match std::io::stdin().read_to_end(&mut text) {
        Ok(_) => Event::parse(&String::from_utf8_lossy(&text)),
        Err(error) => Err(format!("cannot read stdin: {error}")),
    };
    let session = |id: &str| claims::session_of(id);
    let verdict = match event {
        Ok(Event::Edit(id, file)) => match session(&id) {
            Ok(session) => within(limit, Silent::IsEnded, || claims::acquire(&session, &[file], ttl)),
            Err(error) => Verdict::Unknown(error),
        },
        // What was asked can't be told, so it may have been an edit.
        Err(why) => Verdict::Unknown(format!("lockfs does not understand its hook: {why}")),
        Ok(other) => return aside(other, limit, release_at),
    };
    match verdict {
        Verdict::Granted => Ok(Exit::Done),
        Verdict::Held(why) => decide("deny", &why),
        Verdict::Unknown(why) => decide("ask", &format!("{why}. Edit it only if your user says so")),
    }
}

/// What no edit waits for. Nothing is said, and a failure is one line for who debugs hooks.
fn aside(event: Event, limit: Duration, release_at: ReleaseAt) -> Outcome {
    let session = |id: &str| claims::session_of(id).map_err(|error| Failure::new(Exit::Failed, error));
    let verdict = match event {
        Event::Begin(id) => {
            hand_on(&session(&id)?)?;
            return Ok(Exit::Done);
        }
        Event::Turn(id) if release_at == ReleaseAt::Turn => {
            let session = session(&id)?;
            within(limit, Silent::GoesOn, || claims::release(&session))
        }
        Event::End(id) => {
            let session = session(&id)?;
            within(limit, Silent::GoesOn, || claims::release(&session))
        }
        Event::Alive(id) | Event::Turn(id) | Event::Edit(id, _) => {
            let session = session(&id)?;
            within(limit, Silent::IsEnded, || claims::renew(&session))
        }
    };
    match verdict {
        Verdict::Granted => Ok(Exit::Done),
        Verdict::Held(why) | Verdict::Unknown(why) => Err(Failure::new(Exit::Failed, why)),
    }
}

/// Has the shells of the session, and so `git commit` in them, be of the same session of locks: what stands in the file
/// that `CLAUDE_ENV_FILE` names is run before each of them.
fn hand_on(session: &SessionName) -> Result<(), Failure> {
    let Some(file) = std::env::var_os("CLAUDE_ENV_FILE").filter(|file| !file.is_empty()) else {
        return Ok(());
    };
    let line = format!("export LOCKFS_SESSION={session}\n");
    let written = OpenOptions::new().append(true).create(true).open(Path::new(&file));
    written
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot write CLAUDE_ENV_FILE: {error}")))
}

impl Event {
    fn parse(text: &str) -> Result<Self, String> {
        let input = Value::parse(text)?;
        let name = input.text("hook_event_name").ok_or("it has no hook_event_name")?;
        let session = input.text("session_id").ok_or("it has no session_id")?.to_owned();
        Ok(match name {
            "SessionStart" => Self::Begin(session),
            "PreToolUse" => {
                let tool = input.text("tool_name").ok_or("it has no tool_name")?;
                match EDITORS.iter().find(|(editor, _)| *editor == tool) {
                    None => Self::Alive(session),
                    Some((_, member)) => {
                        let file = input.get("tool_input").and_then(|input| input.text(member));
                        let file = file.filter(|file| !file.is_empty());
                        let file = file.ok_or_else(|| format!("{tool} has no {member}"))?;
                        // A path is absolute; were it not, it would be meant from where the agent is.
                        Self::Edit(session, Path::new(input.text("cwd").unwrap_or_default()).join(file))
                    }
                }
            }
            "Stop" => Self::Turn(session),
            "SessionEnd" => Self::End(session),
            _ => Self::Alive(session),
        })
    }
}

/// Prints a decision, and with it the reason: that of "deny" is shown to the agent, that of "ask" to its user.
fn decide(decision: &str, reason: &str) -> Outcome {
    let output = Object::default()
        .text("hookEventName", Some("PreToolUse"))
        .text("permissionDecision", Some(decision))
        .text("permissionDecisionReason", Some(reason));
    print(format!("{{\"hookSpecificOutput\":{}}}\n", output.end()))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rest: &str) -> Result<Event, String> {
        Event::parse(&format!(r#"{{"session_id":"s","cwd":"/w","transcript_path":"/t",{rest}}}"#))
    }

    #[test]
    fn an_edit_is_one_by_its_tool() {
        let edit = |file: &str| Ok(Event::Edit("s".to_owned(), PathBuf::from(file)));
        let tool = |tool: &str, input: &str| {
            parse(&format!(r#""hook_event_name":"PreToolUse","tool_name":"{tool}","tool_input":{input}"#))
        };
        assert_eq!(tool("Edit", r#"{"file_path":"/a","old_string":"x","new_string":"y"}"#), edit("/a"));
        assert_eq!(tool("Write", r#"{"file_path":"b","content":""}"#), edit("/w/b"));
        assert_eq!(tool("NotebookEdit", r#"{"notebook_path":"/n.ipynb"}"#), edit("/n.ipynb"));
        assert_eq!(tool("Read", r#"{"file_path":"/a"}"#), Ok(Event::Alive("s".to_owned())));
        assert!(tool("Edit", "{}").is_err() && tool("Write", r#"{"file_path":""}"#).is_err());
    }

    #[test]
    fn a_session_has_its_events() {
        let event = |name: &str| parse(&format!(r#""hook_event_name":"{name}""#));
        let session = || "s".to_owned();
        assert_eq!(event("SessionStart"), Ok(Event::Begin(session())));
        assert_eq!(event("PostToolUse"), Ok(Event::Alive(session())));
        assert_eq!(event("SubagentStop"), Ok(Event::Alive(session())));
        assert_eq!(event("Stop"), Ok(Event::Turn(session())));
        assert_eq!(event("SessionEnd"), Ok(Event::End(session())));
        for text in ["", "[]", "{}", r#"{"hook_event_name":"Stop"}"#, r#"{"session_id":"s"}"#] {
            assert!(Event::parse(text).is_err(), "{text}");
        }
    }
}
