//! The command line: one file a subcommand, each a client of the mount's own files.
//!
//! A command returns how the process ends, or a failure: one line for stderr and an exit code. Nothing
//! else ends the process, writes that line, or knows the numbers. stdout is data, stderr is talk.

mod acquire;
mod background;
mod break_lock;
mod check;
mod child;
mod claim;
mod facts;
mod follow;
mod fresh;
mod generate;
mod hook;
mod json;
mod ls;
mod migrate;
mod mount;
mod mount_helper;
mod mounts;
mod naming;
mod out;
mod path;
mod probe;
mod reader;
mod run;
mod session;
mod signals;
mod status;
mod top;
mod umount;
mod wait;
mod walk;
mod watch;
mod who;
mod why;
mod xattr;

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::config::Described;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: what was asked for is done.
    Done,
    /// 1: the lock is held by another, was lost, or what was asked for could not be done.
    Failed,
    /// 64, `EX_USAGE` of sysexits.h: the command line or a setting makes no sense.
    Usage,
    /// 69, `EX_UNAVAILABLE`: the mount or its store does not answer.
    Unavailable,
    /// 70, `EX_SOFTWARE`: a bug in lockfs.
    Bug,
    /// 78, `EX_CONFIG`: the store is damaged, or not one that this lockfs can read.
    Damaged,
    /// 141, as 128 + SIGPIPE: nobody reads our stdout any more.
    Unread,
    /// The code of a command that was run, 128 + signal where one ended it; or the one that `-E` asked for.
    Code(u8),
}

impl Exit {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Bug => 70,
            Self::Damaged => 78,
            Self::Unread => 141,
            Self::Code(code) => code,
        }
    }
}

/// Why a command did not do what it was asked: an exit code, and a line for stderr unless it is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Display) -> Self {
        Self { exit, message: message.to_string() }
    }
}

impl From<crate::config::ConfigError> for Failure {
    fn from(error: crate::config::ConfigError) -> Self {
        Self::new(Exit::Usage, error)
    }
}

/// What a command comes to.
pub(crate) type Outcome = Result<Exit, Failure>;

/// Says one line on stderr. A closed stderr is no reason to stop.
pub(crate) fn say(message: impl Display) {
    say_as("lockfs", message);
}

/// The same, by the name that the program was called by.
fn say_as(name: &str, message: impl Display) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{name}: {message}");
}

/// Turn files into locks: create to acquire, delete to release
///
/// A lockfs mount is a directory in which creating a file acquires a lock and deleting it releases the lock,
/// for every program that can create a file. These commands are clients of that directory: what they do,
/// touch, rm, cat, getfattr and setfattr do too.
#[derive(Debug, Parser)]
#[command(name = "lockfs", version, max_term_width = 100, after_long_help = format!("Exit codes:\n{EXIT_CODES}\n\n{EXAMPLES}"))]
#[command(disable_help_subcommand = true, arg_required_else_help = true)]
struct Cli {
    /// When to colour what is printed [default: auto: on a terminal, unless NO_COLOR is set]
    #[arg(long, value_name = "WHEN", value_enum, global = true, hide_default_value = true)]
    #[arg(default_value_t = Colour::Auto, display_order = 900)]
    color: Colour,
    #[command(subcommand)]
    command: Command,
}

/// When what is printed has colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Colour {
    /// On a terminal that has them; `NO_COLOR`, `CLICOLOR`, `CLICOLOR_FORCE` and `TERM=dumb` count.
    Auto,
    Always,
    Never,
}

impl Colour {
    /// Makes it so for all that is printed through [`out`].
    fn set(self) {
        let choice = match self {
            Self::Auto => anstream::ColorChoice::Auto,
            Self::Always => anstream::ColorChoice::Always,
            Self::Never => anstream::ColorChoice::Never,
        };
        choice.write_global();
    }
}

/// What [`Exit`] comes to, for people.
const EXIT_CODES: &str = "  \
  0    done
  1    held by another, not had in time, lost, or not possible
  64   the command line or a setting makes no sense
  69   the mount or its store does not answer
  70   a bug in lockfs
  78   the store is damaged
  141  nobody reads the output any more
  else that of the command that was run; 128 + signal where one ended it";

const EXAMPLES: &str = "\
Examples:
  $ lockfs mount /locks
  $ lockfs run deploy -- ./deploy.sh
  $ lockfs acquire --wait 30s build/web
  $ lockfs ls
  $ lockfs top
  $ lockfs umount /locks";

#[derive(Debug, Subcommand)]
enum Command {
    Mount(Box<mount::Mount>),
    Umount(umount::Umount),
    Status(status::Status),
    Ls(ls::Ls),
    Who(who::Who),
    Why(why::Why),
    Top(top::Top),
    Watch(watch::Watch),
    Acquire(acquire::Acquire),
    Run(run::Run),
    Break(break_lock::Break),
    Session(session::Session),
    Path(path::PathOf),
    Hook(hook::Hook),
    Check(check::Check),
    Migrate(Box<migrate::Migrate>),
    #[command(hide = true)]
    Generate(generate::Generate),
}

impl Command {
    fn perform(self) -> Outcome {
        match self {
            Self::Mount(command) => command.perform(),
            Self::Umount(command) => command.perform(),
            Self::Status(command) => command.perform(),
            Self::Ls(command) => command.perform(),
            Self::Who(command) => command.perform(),
            Self::Why(command) => command.perform(),
            Self::Top(command) => command.perform(),
            Self::Watch(command) => command.perform(),
            Self::Acquire(command) => command.perform(),
            Self::Run(command) => command.perform(),
            Self::Break(command) => command.perform(),
            Self::Session(command) => command.perform(),
            Self::Path(command) => command.perform(),
            Self::Hook(command) => command.perform(),
            Self::Check(command) => command.perform(),
            Self::Migrate(command) => command.perform(),
            Self::Generate(command) => command.perform(),
        }
    }
}

/// Runs the command that the process was started with; returns its exit code.
pub fn main() -> ExitCode {
    if mount_helper::is_called(std::env::args_os().next()) {
        return mount_helper::run();
    }
    let outcome = caught(|| match parse() {
        Ok(cli) => {
            cli.color.set();
            cli.command.perform()
        }
        Err(error) => explain(&error),
    });
    let exit = outcome.unwrap_or_else(|failure| {
        if !failure.message.is_empty() {
            say(&failure.message);
        }
        failure.exit
    });
    ExitCode::from(exit.code())
}

/// What `command` comes to; a panic is a bug.
fn caught(command: impl FnOnce() -> Outcome) -> Outcome {
    let bug = "this is a bug in lockfs: please report it with the lines above";
    catch_unwind(AssertUnwindSafe(command)).unwrap_or_else(|_panic| Err(Failure::new(Exit::Bug, bug)))
}

/// The command line as clap knows it, with what only this machine knows: the computed defaults.
fn command() -> clap::Command {
    command_with(|setting| setting.default.clone())
}

/// The command line with the names of each setting in the environment, and what `default_of` says that it is when
/// nobody says.
fn command_with(default_of: impl Fn(&Described) -> Option<String>) -> clap::Command {
    let mut command = Cli::command();
    for setting in crate::config::described() {
        let note = match default_of(&setting) {
            Some(default) => format!("[env: {}] [default: {default}]", setting.env.join(", ")),
            None => format!("[env: {}]", setting.env.join(", ")),
        };
        for name in ["mount", "check", "migrate"] {
            command = command.mut_subcommand(name, |subcommand| {
                subcommand.mut_args(|arg| {
                    if arg.get_long() != Some(setting.name) {
                        return arg;
                    }
                    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                    let long = arg.get_long_help().map(|long| format!("{long} {note}"));
                    let arg = arg.help(format!("{help} {note}"));
                    match long {
                        Some(long) => arg.long_help(long),
                        None => arg,
                    }
                })
            });
        }
    }
    command
}

fn parse() -> Result<Cli, clap::Error> {
    let words = wait::joined(std::env::args_os());
    command().try_get_matches_from(words).and_then(|matches| Cli::from_arg_matches(&matches))
}

/// Help and version are data; anything else is one line on stderr.
fn explain(error: &clap::Error) -> Outcome {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // clap colours its own output, and only for a terminal.
            match error.print() {
                Ok(()) => Ok(Exit::Done),
                Err(error) => Err(out::unwritten(&error)),
            }
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Ok(Exit::Usage)
        }
        _ => Err(Failure::new(Exit::Usage, one_line(&error.render().to_string(), "lockfs"))),
    }
}

/// What clap says in paragraphs, without its usage block, on one line.
fn one_line(text: &str, program: &str) -> String {
    let end = text.find("\n\nUsage:").or_else(|| text.find("\n\nFor more")).unwrap_or(text.len());
    let text = text[..end].trim_start_matches("error:");
    let joined = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let paragraphs: Vec<_> = text.split("\n\n").map(joined).collect();
    format!("{} ({program} --help says more)", paragraphs.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command and subcommand, with its name as it is typed.
    fn commands() -> Vec<(String, clap::Command)> {
        let mut found = Vec::new();
        let mut open = vec![(String::new(), command())];
        while let Some((prefix, command)) = open.pop() {
            let name = format!("{prefix} {}", command.get_name()).trim().to_owned();
            open.extend(command.get_subcommands().map(|inner| (name.clone(), inner.clone())));
            found.push((name, command));
        }
        found
    }

    /// Splits as a shell does, as far as the examples go: words, and quotes around some.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
        for c in line.chars() {
            match (quote, c) {
                (Some(open), _) if open == c => quote = None,
                (None, '\'' | '"') => quote = Some(c),
                (None, ' ') => words.push(std::mem::take(&mut word)),
                _ => word.push(c),
            }
        }
        words.push(word);
        words
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_command_opens_with_a_short_line_and_ends_with_examples() {
        for (name, command) in commands() {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!((1..=60).contains(&about.len()), "{name}: {about}");
            assert!(!about.ends_with('.'), "{name}: {about}");
            let examples = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.contains("\n  $ "), "{name} has no examples");
            assert!(examples.lines().all(|line| line.len() <= 80), "{name}: {examples}");
        }
    }

    #[test]
    fn every_option_is_explained() {
        for (name, command) in commands() {
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{name}: {}", arg.get_id());
            }
        }
    }

    #[test]
    fn every_example_is_a_command_line_of_ours() {
        let mut count = 0;
        for (name, command) in commands() {
            let text = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            for line in text.lines().filter_map(|line| line.trim().strip_prefix("$ ")) {
                let typed = words(line);
                assert_eq!(typed[0], "lockfs", "{name}: {line}");
                let typed = wait::joined(typed.into_iter().map(Into::into));
                let parsed = super::command().try_get_matches_from(typed);
                assert!(parsed.is_ok(), "{name}: {line}: {}", parsed.unwrap_err());
                count += 1;
            }
        }
        assert!(count > 20, "{count}");
    }

    #[test]
    fn a_usage_error_is_one_line() {
        let error = command().try_get_matches_from(["lockfs", "mount", "--tll", "5m", "/x"]).unwrap_err();
        let failure = explain(&error).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.starts_with("unexpected argument '--tll' found"), "{}", failure.message);
        assert!(!failure.message.contains('\n'), "{}", failure.message);
    }

    #[test]
    fn the_help_of_mount_shows_the_computed_defaults() {
        let help = command().find_subcommand_mut("mount").unwrap().render_long_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in ["[default: 5m]", "[env: LOCKFS_BACKEND, FILE_LOCK_CACHE_BACKEND] [default: leveldb]"] {
            assert!(help.contains(part), "{part} in {help}");
        }
    }
}
