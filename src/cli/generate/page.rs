//! The manual page of a command, from its definition.
//!
//! Names, options and descriptions are clap's. What follows the options in `--help` is cut into sections by its
//! headings (`Examples:`, `Exit codes:`), and the rest is `NOTES`.

use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

use super::super::EXIT_CODES;

/// What every page has at its foot.
const FOOT: &str = concat!("lockfs ", env!("CARGO_PKG_VERSION"));

/// What the commands that are clients of a mount read.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("LOCKFS_MOUNT", "The mount that is meant where none is named, and the working directory is in none."),
    (
        "LOCKFS_SESSION",
        "The session that locks are acquired for, instead of that of the job (the process group).",
    ),
    (
        "LOCKFS_CONFIG",
        "Another file than /etc/lockfs/lockfs.conf; none, if it is empty; one that may be missing, with a dash before its name.",
    ),
    ("LOCKFS_TTL and the like", "Every setting of a mount: lockfs.conf(5)."),
];

/// Where things are.
const FILES: [(&str, &str); 6] = [
    ("/etc/lockfs/lockfs.conf", "Settings: lockfs.conf(5)."),
    (
        "/var/lib/lockfs, ~/.local/state/lockfs",
        "The store of this machine, of root's mounts and of a user's, and their logs.",
    ),
    (
        "MOUNTPOINT/.lockfs/status, metrics, events",
        "The health of a mount, the same for Prometheus, and what happens.",
    ),
    ("MOUNTPOINT/.lockfs/info/PATH", "Everything that is known of one lock."),
    ("MOUNTPOINT/.sessions/NAME", "The locks of a session; rmdir releases all of them."),
    ("MOUNTPOINT/.wait/PATH", "Opening it for writing waits until PATH is free, and then holds it."),
];

/// A page for each command, by its name.
pub(super) fn of_commands(root: &clap::Command) -> Vec<(String, String)> {
    let mut pages = Vec::new();
    let mut open = vec![("lockfs".to_owned(), root)];
    while let Some((name, command)) = open.pop() {
        let inner = command.get_subcommands().map(|inner| (format!("{name}-{}", inner.get_name()), inner));
        open.extend(inner);
        pages.push((name.clone(), page(&name, command)));
    }
    pages.sort();
    pages
}

fn page(name: &str, command: &clap::Command) -> String {
    let mut roff = Roff::new();
    // clap_mangen leaves an empty date out, and what follows it is then taken for it.
    roff.control("TH", [name.to_uppercase().as_str(), "1", "", FOOT, "User commands"]);
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    roff.control("SH", ["NAME"]).text([roman(format!("{name} - {}", uncapitalised(&about)))]);
    roff.control("SH", ["SYNOPSIS"]).text(synopsis(command));
    roff.control("SH", ["DESCRIPTION"]);
    let long = command.get_long_about().map_or_else(|| about.clone(), ToString::to_string);
    // It begins with the line that stands under NAME.
    let long = long.strip_prefix(&about).filter(|rest| !rest.is_empty()).unwrap_or(&long);
    for (index, paragraph) in long.trim_start().split("\n\n").enumerate() {
        if index > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(paragraph)]);
    }
    let mut text = Vec::new();
    Man::new(command.clone()).render_options_section(&mut text).expect("a Vec takes everything");
    let mut text =
        roff.render() + std::str::from_utf8(&text).expect("roff is made of the UTF-8 of the command line");
    let mut roff = Roff::new();
    if command.has_subcommands() {
        roff.control("SH", ["COMMANDS"]);
        for inner in command.get_subcommands() {
            let about = inner.get_about().map(ToString::to_string).unwrap_or_default();
            let name = [bold(format!("{name}-{}", inner.get_name())), roman("(1)")];
            roff.control("TP", []).text(name).text([roman(about)]);
        }
    }
    let after = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let (notes, examples) = notes_and_examples(&after);
    if !notes.is_empty() {
        roff.control("SH", ["NOTES"]);
        for block in notes {
            as_written(&mut roff, block);
        }
    }
    text.push_str(&roff.to_roff());
    text.push_str(".SH \"EXIT STATUS\"\n");
    text.push_str(&exit_codes());
    text.push_str(&listed("ENVIRONMENT", &ENVIRONMENT));
    text.push_str(&listed("FILES", &FILES));
    let mut roff = Roff::new();
    roff.control("SH", ["EXAMPLES"]).control("nf", []);
    for line in examples.lines() {
        roff.text([roman(line.trim_start())]);
    }
    roff.control("fi", []);
    text.push_str(&roff.to_roff());
    text.push_str(&see_also(name));
    with_one_preamble(&text)
}

fn uncapitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// As `--help` has it.
fn synopsis(command: &clap::Command) -> [Inline; 2] {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let name = command.get_bin_name().unwrap_or("lockfs");
    match usage.strip_prefix(name) {
        Some(rest) => [bold(name), roman(rest)],
        None => [roman(usage), roman("")],
    }
}

/// Each piece of roff defines the apostrophe anew; once a page is enough.
fn with_one_preamble(text: &str) -> String {
    let is_preamble = |line: &&str| line.starts_with(".ie \\n(.g") || line.starts_with(".el .ds Aq");
    let first = text.lines().take_while(is_preamble);
    let rest = text.lines().filter(|line| !is_preamble(line));
    first.chain(rest).map(|line| format!("{line}\n")).collect()
}

/// What `text` has besides examples and exit codes, by paragraphs, and the examples.
fn notes_and_examples(text: &str) -> (Vec<&str>, &str) {
    let (mut notes, mut examples) = (Vec::new(), "");
    for block in text.split("\n\n") {
        if let Some(lines) = block.strip_prefix("Examples:\n") {
            examples = lines;
        } else if !block.is_empty() && !block.starts_with("Exit codes:\n") {
            notes.push(block);
        }
    }
    (notes, examples)
}

/// A paragraph of `--help`: flowing text, but for lines that are indented.
fn as_written(roff: &mut Roff, block: &str) {
    roff.control("PP", []);
    let mut is_verbatim = false;
    for line in block.lines() {
        if line.starts_with("  ") != is_verbatim {
            is_verbatim = !is_verbatim;
            if is_verbatim {
                roff.control("PP", []).control("nf", []).control("RS", ["4"]);
            } else {
                roff.control("RE", []).control("fi", []);
            }
        }
        roff.text([roman(line.trim_start())]);
    }
    if is_verbatim {
        roff.control("RE", []).control("fi", []);
    }
}

/// The exit codes of every command, as a list.
pub(super) fn exit_codes() -> String {
    EXIT_CODES.lines().fold(String::new(), |text, line| {
        let (code, what) = line.trim().split_once(' ').unwrap_or((line, ""));
        text + &format!(".TP\n\\fB{code}\\fR\n{}\n", escaped(what.trim()))
    })
}

fn listed(heading: &str, items: &[(&str, &str)]) -> String {
    items.iter().fold(format!(".SH {heading}\n"), |text, (name, what)| {
        text + &format!(".TP\n\\fB{}\\fR\n{}\n", escaped(name), escaped(what))
    })
}

fn see_also(name: &str) -> String {
    let above = name.rsplit_once('-').map_or("lockfs-mount", |(above, _)| above);
    let mut names = vec![format!("\\fB{}\\fR(1)", escaped(above))];
    names.extend(
        ["lockfs.conf\\fR(5)", "lockfs\\fR(8)", "mount.lockfs\\fR(8)"].map(|name| format!("\\fB{name}")),
    );
    format!(".SH \"SEE ALSO\"\n{}\n", names.join(",\n"))
}

/// Text as roff takes it.
pub(super) fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('~', "\\(ti").replace('\'', "\\(aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}
