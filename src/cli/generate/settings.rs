//! The settings as a page of the manual, and as the file that a package installs.

use super::super::mount;
use super::{anywhere, page::escaped};
use crate::config::{Described, described};

/// How long a line of the file may be.
const WIDTH: usize = 100;

/// What stands at the top of the file.
const HEAD: &str = "\
# Settings of lockfs: lockfs.conf(5). A line is NAME=VALUE; what is commented out here is the default.
# A flag, a mount option (-o ttl=1h) and the environment (LOCKFS_TTL=1h) go before this file.
#
# Everybody may read this file, and has to: mounts of users take their settings from it too. The password for Redis
# goes to /etc/credstore/lockfs.redis-password, or to a file that REDIS_PASSWORD_FILE names.
# After a change: systemctl restart lockfs
";

/// `lockfs.conf(5)`.
pub(super) fn page() -> String {
    let list = described().iter().fold(String::new(), |text, setting| {
        let names: Vec<_> = setting.env.iter().map(|name| format!("\\fB{}\\fR", escaped(name))).collect();
        let typed = match setting.is_typed {
            true => {
                format!("\n.br\nFlag \\fB\\-\\-{0}\\fR, mount option \\fB{0}\\fR.", escaped(setting.name))
            }
            false => String::new(),
        };
        text + &format!(".TP\n{}\n{}{typed}\n", names.join(", "), about(setting))
    });
    super::filled(include_str!("lockfs.conf.5")).replace("@SETTINGS@\n", &list)
}

/// `lockfs.conf` as it is installed: every setting, commented out.
pub(super) fn file() -> String {
    described().iter().fold(HEAD.to_owned(), |text, setting| {
        let (comment, value) = match setting.default_anywhere {
            Some(words) => (format!("{}. Default: {words}", help(setting)), ""),
            None => (help(setting), setting.default.as_deref().unwrap_or_default()),
        };
        text + &format!("\n{}\n#{}={value}\n", commented(&comment), setting.env[0])
    })
}

/// What a setting is and what it is by default, for the manual.
pub(super) fn about(setting: &Described) -> String {
    let default = anywhere(setting).map(|default| format!(" Default: {}.", escaped(&default)));
    format!("{}.{}", escaped(&help(setting)), default.unwrap_or_default())
}

/// What a setting is, in a line: as the flag has it, where there is one.
fn help(setting: &Described) -> String {
    if !setting.is_typed {
        return setting.about.to_owned();
    }
    mount::help_of(setting.name).expect("every setting that may be typed is a flag of lockfs mount")
}

/// `text` as comments of the file.
fn commented(text: &str) -> String {
    let mut lines = vec!["#".to_owned()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < WIDTH => *line = format!("{line} {word}"),
            _ => lines.push(format!("# {word}")),
        }
    }
    lines.join("\n")
}
