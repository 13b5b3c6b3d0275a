//! stdout: bytes, columns and safe names.
//!
//! A name may hold any byte but `/` and NUL; on a line it is escaped the way [`LockPath`] prints it, so that
//! one lock is one line whatever its holder called it.

use std::io::{self, ErrorKind, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
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

/// The same of text that was [painted](paint): colours reach stdout where it [has them](has_colours), and nothing else does.
pub(crate) fn print_painted(text: &str) -> Result<(), Failure> {
    let mut stdout = anstream::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| unwritten(&error))
}

/// What a colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    Plain,
    Head,
    Good,
    Warning,
    Bad,
}

/// `text` so that a terminal shows it in colour.
pub(crate) fn paint(paint: Paint, text: &str) -> String {
    let style = match paint {
        Paint::Plain => return text.to_owned(),
        Paint::Head => Style::new().bold(),
        Paint::Good => AnsiColor::Green.on_default(),
        Paint::Warning => AnsiColor::Yellow.on_default(),
        Paint::Bad => AnsiColor::Red.on_default().bold(),
    };
    format!("{style}{text}{style:#}")
}

/// How many columns the terminal has that stdout is; `None` where it is none, and nothing is to be cut.
pub(crate) fn width() -> Option<usize> {
    let (width, _height) = terminal_size::terminal_size_of(io::stdout())?;
    Some(usize::from(width.0)).filter(|width| *width > 0)
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

/// `line` in at most so many columns, where there is room for more than its facts: what is behind `mark` is cut at its
/// front.
pub(crate) fn cut_front_of_last(line: &str, mark: &str, width: usize) -> String {
    match line.find(mark).map(|at| line.split_at(at + mark.len())) {
        Some((facts, last)) if columns(facts) + 2 * DOTS.len() < width => {
            format!("{facts}{}", cut_front(last, width - columns(facts)))
        }
        _ => cut(line, width),
    }
}

const DOTS: &str = "...";

/// `rows` below `head`, each column as wide as its widest cell, the last one ragged.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    fitted(head, rows, None)
}

/// The same, painted; in a terminal of so many columns the first column is cut at its front and the second at its end, as
/// far as it takes for the rest to have room.
pub(crate) fn fitted<const N: usize>(head: [&str; N], rows: &[[String; N]], width: Option<usize>) -> String {
    let mut widths = head.map(columns);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(columns(cell));
        }
    }
    if let Some(width) = width {
        let excess = (widths.iter().sum::<usize>() + 2 * (N - 1)).saturating_sub(width);
        for _ in 0..excess {
            let widest = if widths[0] > widths[1] { 0 } else { 1 };
            if widths[widest] > NARROWEST {
                widths[widest] -= 1;
            }
        }
    }
    let mut text = String::new();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            let cell = match column {
                0 => cut_front(cell, width),
                1 => cut(cell, width),
                _ => cell.clone(),
            };
            let blanks = width.saturating_sub(columns(&cell));
            cell + &" ".repeat(blanks)
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    text += &line(&head.map(str::to_owned));
    if width.is_some() {
        text = paint(Paint::Head, text.trim_end()) + "\n";
    }
    rows.iter().for_each(|row| text += &line(row));
    text
}

/// What a column keeps at least.
const NARROWEST: usize = 8;

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
    fn a_table_fits_a_terminal_and_loses_nothing_in_a_pipe() {
        let path = format!("{}/\u{6f22}\u{5b57}", "long/".repeat(20));
        let rows = [[path.clone(), "alice@dev1 make[7]".into(), "5m".into()]];
        let wide = fitted(["PATH", "HOLDER", "TTL"], &rows, None);
        assert!(wide.contains(&path) && !wide.contains('\x1b'), "{wide}");
        for width in [24, 40, 80] {
            let text = fitted(["PATH", "HOLDER", "TTL"], &rows, Some(width));
            let text = anstream::adapter::strip_str(&text).to_string();
            assert!(text.lines().all(|line| columns(line) <= width), "{width}: {text}");
            assert!(text.contains("\u{6f22}\u{5b57}") && text.contains("  5m"), "{width}: {text}");
        }
    }

    #[test]
    fn wide_letters_line_up() {
        let rows = [["\u{6f22}\u{5b57}", "x"], ["abcd", "y"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(["P", "H"], &rows), "P     H\n\u{6f22}\u{5b57}  x\nabcd  y\n");
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
