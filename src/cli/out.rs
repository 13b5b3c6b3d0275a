//! stdout: bytes, columns and safe names.
//!
//! A name may hold any byte but `/` and NUL; on a line it is escaped the way [`LockPath`] prints it, so that
//! one lock is one line whatever its holder called it.

use std::io::{self, ErrorKind, Write};
use std::time::Duration;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::{Exit, Failure};
use crate::lock::LockPath;

/// Writes `data` to stdout.
///
/// A reader that went away ends the command quietly: `lockfs ls | head -1` is no error.
pub(crate) fn print(data: impl AsRef<[u8]>) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(data.as_ref()).and_then(|()| stdout.flush()).map_err(|error| unwritten(&error))
}

/// Whether stdout gets colours: as `--color` says, else where it is a terminal that has them, and neither `NO_COLOR` nor
/// its like says otherwise.
pub(crate) fn has_colours() -> bool {
    anstream::AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never
}

/// Waits for `span`, or until nobody reads stdout any more, which it says.
pub(crate) fn is_unread_within(span: Duration) -> bool {
    let mut poll = libc::pollfd { fd: libc::STDOUT_FILENO, events: 0, revents: 0 };
    let millis = i32::try_from(span.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: `poll` is one pollfd and lives.
    let ready = unsafe { libc::poll(&raw mut poll, 1, millis) };
    // Nothing is asked for, so only an error or a hang-up of the other end comes (poll(2)).
    ready > 0
}

/// What it means that stdout could not be written.
pub(crate) fn unwritten(error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::BrokenPipe => Failure::new(Exit::Unread, ""),
        _ => Failure::new(Exit::Failed, format!("cannot write to stdout: {error}")),
    }
}

/// `bytes` on one line: what is neither printable ASCII nor UTF-8 is escaped.
pub(crate) fn escaped(bytes: impl AsRef<[u8]>) -> String {
    match bytes.as_ref() {
        [] => String::new(),
        bytes => LockPath::join([bytes]).to_string(),
    }
}

/// How many columns of a terminal `text` takes (Unicode Standard Annex 11).
pub(crate) fn columns(text: &str) -> usize {
    text.width()
}

/// `text` in at most so many columns: its beginning, and `...` for the rest.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let dots = &DOTS[..width.min(DOTS.len())];
    let (mut kept, mut left) = (String::new(), width - dots.len());
    for character in text.chars() {
        let Some(rest) = left.checked_sub(character.width().unwrap_or(0)) else { break };
        kept.push(character);
        left = rest;
    }
    kept + dots
}

/// `text` in at most so many columns: its end, behind `...` for the rest.
pub(crate) fn cut_front(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let dots = &DOTS[..width.min(DOTS.len())];
    let (mut kept, mut left) = (text.len(), width - dots.len());
    for (at, character) in text.char_indices().rev() {
        let Some(rest) = left.checked_sub(character.width().unwrap_or(0)) else { break };
        (kept, left) = (at, rest);
    }
    format!("{dots}{}", &text[kept..])
}

const DOTS: &str = "...";

/// `rows` below `head`, each column as wide as its widest cell, the last one ragged.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&head.map(str::to_owned)).chain(rows) {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A span as people say it, in its two largest units: `42s`, `4m10s`, `3h05m`, `2d04h`.
pub(crate) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match () {
        () if days > 0 => format!("{days}d{:02}h", hours % 24),
        () if hours > 0 => format!("{hours}h{:02}m", minutes % 60),
        () if minutes > 0 => format!("{minutes}m{:02}s", seconds % 60),
        () => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_leave_no_blanks_at_the_end() {
        let rows = [["caf\u{e9}", "x", ""], ["a", "alice@dev1", "5"]].map(|row| row.map(str::to_owned));
        let text = table(["PATH", "HOLDER", "W"], &rows);
        assert_eq!(text, "PATH  HOLDER      W\ncaf\u{e9}  x\na     alice@dev1  5\n");
    }

    #[test]
    fn what_is_cut_fits_whatever_its_letters_are() {
        let wide = "\u{6f22}\u{5b57}\u{6f22}\u{5b57}/x";
        assert_eq!((columns(wide), columns("e\u{301}")), (10, 1));
        assert_eq!((cut(wide, 10).as_str(), cut(wide, 8).as_str()), (wide, "\u{6f22}\u{5b57}..."));
        assert_eq!(cut_front(wide, 8), "...\u{5b57}/x");
        for width in 0..12 {
            assert!(
                columns(&cut(wide, width)) <= width && columns(&cut_front(wide, width)) <= width,
                "{width}"
            );
        }
        assert_eq!((cut("abcdef", 2).as_str(), cut_front("abcdef", 5).as_str()), ("..", "...ef"));
    }

    #[test]
    fn a_table_without_rows_is_its_head() {
        assert_eq!(table(["A", "B"], &[]), "A  B\n");
    }

    #[test]
    fn one_name_is_one_line() {
        assert_eq!(escaped(b"a\nb\x1b[0m\xff\\ caf\xc3\xa9"), "a\\nb\\u{1b}[0m\\xff\\\\ caf\u{e9}");
        assert_eq!(escaped(b""), "");
    }

    #[test]
    fn a_span_has_two_units() {
        let spans = [(0, "0s"), (59, "59s"), (250, "4m10s"), (11_100, "3h05m"), (187_200, "2d04h")];
        for (seconds, text) in spans {
            assert_eq!(span(seconds), text);
        }
    }
}
