//! A page of documentation as its reader takes it: the commands in its fences.

use std::fs;

/// A fenced block of a page.
#[derive(Debug)]
pub(crate) struct Block {
    /// What the fence says it is: `sh`, `console`, ...
    pub(crate) kind: String,
    /// The heading above it.
    pub(crate) heading: String,
    /// What is in it.
    pub(crate) lines: Vec<String>,
}

/// The fenced blocks of a page of this repository, in their order.
pub(crate) fn blocks(page: &str) -> Vec<Block> {
    let text = fs::read_to_string(format!("{}/{page}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (mut found, mut open, mut heading): (Vec<Block>, Option<Block>, _) =
        (Vec::new(), None, String::new());
    for line in text.lines() {
        match (line.strip_prefix("```"), open.as_mut()) {
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(kind), None) => {
                open = Some(Block { kind: kind.to_owned(), heading: heading.clone(), lines: Vec::new() });
            }
            (None, Some(block)) => block.lines.push(line.to_owned()),
            (None, None) => {
                if let Some(title) = line.strip_prefix("## ") {
                    title.clone_into(&mut heading);
                }
            }
        }
    }
    assert!(open.is_none(), "{page}: a fence is not closed");
    found
}

/// The commands of a block of shell, one each, without blank lines: what stands on indented lines, or between `if` and
/// `fi`, belongs together.
pub(crate) fn commands(block: &Block) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in block.lines.iter().filter(|line| !line.is_empty()) {
        match found.last_mut() {
            Some(last) if is_open || line.starts_with(' ') => *last = format!("{last}\n{line}"),
            _ => found.push(line.clone()),
        }
        is_open = (is_open || line.starts_with("if ")) && line != "fi";
    }
    found
}
