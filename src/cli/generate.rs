//! `lockfs generate`: what a package installs beside the program, made of the program's own definitions.
//!
//! The manual of each command, the completions of shells, the default configuration: nothing in them is written down
//! twice. The command is for packagers, and hidden; its output is the same on every machine.
//!
//! | file | from |
//! |---|---|
//! | `man1/lockfs.1`, `man1/lockfs-COMMAND.1` | the command line: [`page`] |
//! | `man5/lockfs.conf.5`, `lockfs.conf` | the settings: [`settings`] |
//! | `man8/lockfs.8`, `man8/mount.lockfs.8` | `generate/*.8`, with the exit codes and mount options filled in |
//! | `completions/lockfs.bash`, `_lockfs`, `lockfs.fish` | the command line, by clap_complete |

mod page;
mod settings;

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use clap_complete::Shell;

use super::mounts::shown;
use super::{Exit, Failure, Outcome, mount_helper};
use crate::config::Described;

/// Write manual, completions and default configuration
///
/// For packages: into DIR, which is made where there is none. The same program writes the same files everywhere.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  $ lockfs generate target/package")]
pub(super) struct Generate {
    /// Where to write them
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Generate {
    pub(super) fn perform(self) -> Outcome {
        for (path, text) in files() {
            let path = self.directory.join(path);
            write(&path, &text).map_err(|error| {
                Failure::new(Exit::Failed, format!("cannot write {}: {error}", shown(&path)))
            })?;
        }
        Ok(Exit::Done)
    }
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, text)
}

/// Everything, by the path in the directory.
fn files() -> Vec<(String, String)> {
    let command = public();
    let mut files: Vec<_> = page::of_commands(&command)
        .into_iter()
        .map(|(name, text)| (format!("man1/{name}.1"), text))
        .collect();
    files.push(("man5/lockfs.conf.5".to_owned(), settings::page()));
    files.push(("man8/lockfs.8".to_owned(), filled(include_str!("generate/lockfs.8"))));
    files.push(("man8/mount.lockfs.8".to_owned(), filled(include_str!("generate/mount.lockfs.8"))));
    // The other name is the same page: man(7), "so".
    files.push(("man8/mount.fuse.lockfs.8".to_owned(), ".so man8/mount.lockfs.8\n".to_owned()));
    files.push(("lockfs.conf".to_owned(), settings::file()));
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command.clone(), "lockfs", &mut text);
        let name = match shell {
            Shell::Zsh => "_lockfs",
            Shell::Fish => "lockfs.fish",
            _ => "lockfs.bash",
        };
        let text = String::from_utf8(text).expect("completions are made of the UTF-8 of the command line");
        files.push((format!("completions/{name}"), text));
    }
    files
}

/// The command line as it is told to people: without what is hidden, and without what only this machine knows.
fn public() -> clap::Command {
    let command = super::command_with(anywhere);
    let kept = command.get_subcommands().filter(|inner| !inner.is_hide_set()).cloned();
    let mut public = clap::Command::new("lockfs")
        .version(env!("CARGO_PKG_VERSION"))
        .about(command.get_about().cloned().unwrap_or_default())
        .long_about(command.get_long_about().cloned().unwrap_or_default())
        .after_long_help(command.get_after_long_help().cloned().unwrap_or_default())
        .disable_help_subcommand(true)
        .subcommand_required(true)
        // lockfs session help is there, and nothing to tell of.
        .subcommands(kept.map(|inner| inner.disable_help_subcommand(true)));
    public.build();
    public
}

/// What a setting is when nobody says, on any machine.
fn anywhere(setting: &Described) -> Option<String> {
    setting.default_anywhere.map(str::to_owned).or_else(|| setting.default.clone())
}

/// A page that is written by hand, but for what the program knows better.
fn filled(template: &str) -> String {
    // mount(8) waits for its helper, which so refuses to stay.
    let is_option = |setting: &Described| setting.is_typed && setting.name != "foreground";
    let typed = crate::config::described().into_iter().filter(is_option);
    let options: String = typed
        .map(|setting| {
            format!(
                ".TP\n\\fB{}\\fR=\\fIVALUE\\fR\n{}\n",
                page::escaped(setting.name),
                settings::about(&setting)
            )
        })
        .collect();
    let codes: String = mount_helper::CODES
        .iter()
        .map(|(code, what)| format!(".TP\n\\fB{code}\\fR\n{}\n", page::escaped(what)))
        .collect();
    template
        .replace("@VERSION@", env!("CARGO_PKG_VERSION"))
        .replace("@OPTIONS@\n", &options)
        .replace("@MOUNT_CODES@\n", &codes)
        .replace("@CODES@\n", &page::exit_codes())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::{Environment, Flags, MountOptions, Settings, Sources, described};

    fn file(path: &str) -> String {
        let found = files().into_iter().find(|(name, _)| name == path);
        found.unwrap_or_else(|| panic!("there is no {path}")).1
    }

    /// What a page says, without the escapes of roff.
    fn plain(page: &str) -> String {
        page.replace("\\-", "-")
            .replace("\\fB", "")
            .replace("\\fI", "")
            .replace("\\fR", "")
            .replace("\\*(Aq", "'")
    }

    /// Every public command, by the name of its page.
    fn commands() -> Vec<(String, clap::Command)> {
        let (mut found, mut open) = (Vec::new(), vec![("lockfs".to_owned(), public())]);
        while let Some((name, command)) = open.pop() {
            open.extend(
                command
                    .get_subcommands()
                    .map(|inner| (format!("{name}-{}", inner.get_name()), inner.clone())),
            );
            found.push((name, command));
        }
        assert!(found.len() > 20);
        found
    }

    #[test]
    fn every_command_has_a_page_with_all_of_its_options_and_what_people_look_for() {
        for (name, command) in commands() {
            let page = plain(&file(&format!("man1/{name}.1")));
            for arg in command.get_arguments() {
                let long = arg.get_long().map(|long| format!("--{long}"));
                let typed = long.or_else(|| arg.get_short().map(|short| format!("-{short}")));
                let typed = typed.unwrap_or_else(|| arg.get_value_names().unwrap()[0].to_string());
                let section = page.split(".SH OPTIONS").nth(1).unwrap().split(".SH").next().unwrap();
                assert!(section.contains(&typed), "{name}: {typed}");
            }
            for heading in
                ["NAME", "SYNOPSIS", "DESCRIPTION", "\"EXIT STATUS\"", "ENVIRONMENT", "FILES", "EXAMPLES"]
            {
                assert_eq!(page.matches(&format!("\n.SH {heading}\n")).count(), 1, "{name}: {heading}");
            }
            let examples = command.get_after_long_help().unwrap().to_string();
            for line in examples.lines().filter(|line| line.starts_with("  $ ")) {
                assert!(page.contains(&format!("\n{}\n", line.trim())), "{name}: {line}");
            }
            for inner in command.get_subcommands() {
                assert!(page.contains(&format!("{name}-{}(1)", inner.get_name())), "{name}");
            }
        }
    }

    #[test]
    fn every_setting_is_in_the_pages_and_in_the_file() {
        let [page, helper] = ["man5/lockfs.conf.5", "man8/mount.lockfs.8"].map(|name| plain(&file(name)));
        let conf = file("lockfs.conf");
        for setting in described() {
            for name in setting.env {
                assert!(page.contains(name), "{name}");
            }
            assert!(conf.contains(&format!("\n#{}=", setting.env[0])), "{}", setting.name);
            let name = setting.name;
            assert_eq!(page.contains(&format!("Flag --{name}, ")), setting.is_typed, "{name}");
            let is_option = setting.is_typed && name != "foreground";
            assert_eq!(helper.contains(&format!("\n{name}=VALUE\n")), is_option, "{name}");
        }
    }

    #[test]
    fn every_blank_of_the_pages_is_filled_in() {
        for (name, text) in files() {
            for blank in ["@SETTINGS@", "@OPTIONS@", "@CODES@", "@MOUNT_CODES@", "@VERSION@"] {
                assert!(!text.contains(blank), "{name}: {blank}");
            }
        }
    }

    #[test]
    fn the_page_of_the_helper_has_all_of_its_options_and_codes() {
        let page = plain(&file("man8/mount.lockfs.8"));
        for arg in mount_helper::Helper::command().get_arguments() {
            if let Some(short) = arg.get_short() {
                assert!(page.contains(&format!("-{short}")), "-{short}");
            }
        }
        for (code, what) in mount_helper::CODES {
            assert!(page.contains(&format!("\n{code}\n{what}\n")), "{code}");
        }
        assert!(plain(&file("man8/lockfs.8")).contains("\n78\nthe store is damaged\n"));
    }

    #[test]
    fn the_default_configuration_says_what_holds_without_it() {
        let conf = file("lockfs.conf");
        let nothing = || Sources::new(Flags::default(), MountOptions::default(), Environment::default());
        let settings = |text: &str| {
            let sources = nothing().with_file(Path::new("/conf"), text).unwrap();
            Settings::resolve(&sources, Path::new("/locks")).unwrap()
        };
        let uncommented: String = conf
            .lines()
            .map(|line| line.strip_prefix('#').filter(|line| !line.starts_with(' ')).unwrap_or(""))
            .fold(String::new(), |text, line| text + line + "\n");
        assert_eq!(uncommented.matches('=').count(), described().len());
        assert_eq!(settings(&uncommented), settings(""));
        assert_eq!(settings(&conf), settings(""));
    }

    #[test]
    fn nothing_of_this_machine_and_nothing_hidden_is_in_the_files() {
        let host = Sources::default_host_id();
        for (name, text) in files() {
            assert!(!text.contains("generate"), "{name}");
            let words = |c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '.';
            assert!(
                host == "localhost" || !plain(&text).split(words).any(|word| word == host),
                "{name} has {host}"
            );
        }
    }
}
