//! How it looks: a frame of what the model knows, pure.
//!
//! Nothing reaches the screen but what [`Model`] holds, in which no name has a control character any more. Every size of a
//! terminal has a frame, down to none at all: what has no room is left out, the list last.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Clear, Paragraph, Row as TableRow, Table, Wrap};

use super::super::out::{columns, cut, cut_front, span};
use super::model::{Column, Detail, Doomed, Health, Left, Mode, Model, Row};
use crate::clock::WallTime;

/// Whether there are colours, beside bold and reverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Palette {
    Colours,
    Plain,
}

impl Palette {
    fn of(self, colour: Color) -> Style {
        match self {
            Self::Colours => Style::new().fg(colour),
            Self::Plain => Style::new(),
        }
    }
}

/// From how many lines on there is room for events.
const EVENTS_FROM: u16 = 14;

/// From how many columns on there is room for bars, and for the scope.
const BARS_FROM: u16 = 72;
const SCOPE_FROM: u16 = 100;

/// How many cells a bar has.
const BAR: u16 = 10;

/// How many locks have room on a screen of that size.
pub(super) fn room(model: &Model, area: Rect) -> usize {
    // Without the line of heads.
    usize::from(parts(model, area).list.height.saturating_sub(1))
}

struct Parts {
    head: Rect,
    trouble: Rect,
    list: Rect,
    events: Rect,
    foot: Rect,
}

fn parts(model: &Model, area: Rect) -> Parts {
    let trouble = u16::from(trouble(model).is_some() && area.height > 3);
    let events = if area.height >= EVENTS_FROM { (area.height / 4).min(12) } else { 0 };
    let head = u16::from(area.height > 2);
    let foot = u16::from(area.height > 1);
    let heights = [
        Constraint::Length(head),
        Constraint::Length(trouble),
        Constraint::Min(0),
        Constraint::Length(events),
        Constraint::Length(foot),
    ];
    let [head, trouble, list, events, foot] = Layout::vertical(heights).areas(area);
    Parts { head, trouble, list, events, foot }
}

/// Draws all of it.
pub(super) fn draw(model: &Model, palette: Palette, frame: &mut Frame<'_>) {
    let parts = parts(model, frame.area());
    frame.render_widget(head(model, palette, parts.head.width), parts.head);
    if let Some(trouble) = trouble(model) {
        let style = palette.of(Color::Red).add_modifier(Modifier::BOLD);
        frame.render_widget(Line::styled(cut(&trouble, parts.trouble.width.into()), style), parts.trouble);
    }
    draw_list(model, palette, parts.list, frame);
    draw_events(model, palette, parts.events, frame);
    frame.render_widget(foot(model, palette, parts.foot.width), parts.foot);
    match &model.mode {
        Mode::Help => draw_help(palette, frame),
        Mode::Details(line) => draw_details(model, *line, palette, frame),
        Mode::Confirm(doomed) => draw_question(doomed, palette, frame),
        Mode::List | Mode::Filter(_) => {}
    }
}

fn head(model: &Model, palette: Palette, width: u16) -> Line<'static> {
    let (title, state, rest) = words(model);
    let colour = if state == "ok" { Color::Green } else { Color::Red };
    let left = usize::from(width).saturating_sub(columns(&title) + columns(&state) + 3);
    Line::from(vec![
        Span::styled(title, Modifier::BOLD),
        Span::raw(" "),
        Span::styled(state, palette.of(colour).add_modifier(Modifier::BOLD)),
        Span::raw("  "),
        Span::raw(cut(&rest, left)),
    ])
}

/// The first line, where nothing is drawn.
pub(super) fn summary(model: &Model) -> String {
    let (title, state, rest) = words(model);
    format!("{title}: {state}, {rest}")
}

/// What is shown, how it is, and the rest.
fn words(model: &Model) -> (String, String, String) {
    let (all, listed, known) = model.counts();
    let state = match &model.health {
        Health::Unknown => "...".to_owned(),
        Health::Gone(_) => "gone".to_owned(),
        Health::Answers if model.is_stale() => "silent".to_owned(),
        Health::Answers => model.status("state").unwrap_or("?").to_owned(),
    };
    let mut words = vec![count(all, "lock")];
    if listed != all {
        words[0] += &format!(" ({listed} listed)");
    }
    if known < listed && model.sort != Column::Path {
        words.push(format!("sorted by what is known of {known}"));
    }
    for key in ["sessions", "waiting"] {
        words.extend(model.status(key).map(|value| format!("{value} {key}")));
    }
    words.extend(["backend", "mode"].iter().filter_map(|key| model.status(key)).map(str::to_owned));
    if model.unread > 0 {
        words.push(format!("{} unreadable", model.unread));
    }
    if model.is_paused {
        words.push("paused".to_owned());
    }
    (format!("lockfs {}", model.mount), state, words.join(", "))
}

fn count(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// What is wrong, if something is.
pub(super) fn trouble(model: &Model) -> Option<String> {
    if let Some(silent) = model.silent_for() {
        let of = model.mount.as_str();
        return Some(format!(
            "the lockfs on {of} has not answered for {}: what is shown is old",
            span(silent.as_secs())
        ));
    }
    match &model.health {
        Health::Gone(why) => Some(format!("{why} (this goes on when it is back)")),
        Health::Unknown | Health::Answers => {
            let trouble = model.status("trouble").map(str::to_owned);
            trouble.or_else(|| model.trouble.as_ref().map(|why| format!("not all could be read: {why}")))
        }
    }
}

fn draw_list(model: &Model, palette: Palette, area: Rect, frame: &mut Frame<'_>) {
    if area.is_empty() {
        return;
    }
    let has_bars = area.width >= BARS_FROM;
    let has_scope = area.width >= SCOPE_FROM;
    let ttl = if has_bars { BAR + 8 } else { 8 };
    let scope = if has_scope { 8 } else { 0 };
    // AGE, TTL, WAITING, and a blank between the columns.
    let fixed = 7 + ttl + scope + 7 + 4;
    let rest = area.width.saturating_sub(fixed);
    let holder = if rest < 24 { rest / 2 } else { (rest * 2 / 5).max(12) };
    let path = rest.saturating_sub(holder + 1);
    let widths = [path, holder, 7, ttl, scope, 7];
    let title = |column: Column| {
        let is_sorted = model.sort == column;
        let mark = match (is_sorted, model.is_reversed) {
            (false, _) => "",
            (true, false) => "v",
            (true, true) => "^",
        };
        let style = if is_sorted { Modifier::UNDERLINED } else { Modifier::empty() };
        Cell::from(Line::styled(format!("{}{mark}", column.title()), style))
    };
    let heads = [
        title(Column::Path),
        title(Column::Holder),
        title(Column::Age),
        title(Column::Ttl),
        Cell::from("SCOPE"),
        title(Column::Waiting),
    ];
    let head = TableRow::new(heads).style(Modifier::BOLD);
    let rows = model.visible().map(|(row, is_selected)| {
        let cells = cells(row, model.now.wall, (path, holder), has_bars, palette);
        let style = if is_selected { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
        TableRow::new(cells).style(style)
    });
    let widths = widths.map(Constraint::Length);
    let mut table = Table::new(rows, widths).header(head).column_spacing(1);
    if model.is_stale() {
        table = table.style(Modifier::DIM);
    }
    frame.render_widget(table, area);
    let is_empty = model.visible().next().is_none();
    if is_empty && area.height > 1 && model.health == Health::Answers {
        let text = if model.filter.is_empty() { "no locks" } else { "no lock matches the filter" };
        let below = Rect { y: area.y + 1, height: 1, ..area };
        frame.render_widget(Line::raw(cut(text, below.width.into())), below);
    }
}

fn cells(
    row: &Row,
    now: WallTime,
    (path, holder): (u16, u16),
    has_bars: bool,
    palette: Palette,
) -> [Cell<'static>; 6] {
    // The end of a path says more than its beginning.
    let name = Cell::from(cut_front(&row.name, path.into()));
    let Some(detail) = &row.detail else {
        return [name, "...".into(), "".into(), "".into(), "".into(), "".into()];
    };
    let age = detail.since.map_or("-".to_owned(), |since| span(now.since(since).as_secs()));
    let waiting = match detail.waiting {
        0 => Cell::from("0"),
        waiting => Cell::from(Span::styled(waiting.to_string(), palette.of(Color::Yellow))),
    };
    let colour = match detail.state.as_str() {
        "held" | "locked" => Style::new(),
        "free" => palette.of(Color::DarkGray),
        _ => palette.of(Color::Yellow),
    };
    [
        name,
        Cell::from(Span::styled(cut(&who(detail), holder.into()), colour)),
        age.into(),
        ttl(detail.left, now, has_bars, palette).into(),
        detail.scope.clone().into(),
        waiting,
    ]
}

/// Who holds it, and how where that is out of the common.
pub(super) fn who(detail: &Detail) -> String {
    match (&detail.how, detail.state.as_str()) {
        (Some(how), _) => format!("{} ({how})", detail.holder),
        (None, "held" | "free") => detail.holder.clone(),
        (None, state) => format!("{} ({state})", detail.holder),
    }
}

/// What is left of a ttl, with a bar of it where the whole is known.
fn ttl(left: Left, now: WallTime, has_bar: bool, palette: Palette) -> Line<'static> {
    let text = match left.at(now) {
        Some(left) => span(left.as_secs()),
        None if left == Left::Never => "never".to_owned(),
        None => "-".to_owned(),
    };
    let mut spans = vec![Span::raw(format!("{text:<7} "))];
    if let (true, Left::Until(deadline, Some(whole))) = (has_bar, left) {
        let (full, colour) = bar(deadline.since(now), whole);
        let bar = "#".repeat(full.into()) + &"-".repeat((BAR - full).into());
        spans.push(Span::styled(bar, palette.of(colour)));
    }
    Line::from(spans)
}

/// How many cells of a bar are full, and its colour. What has anything left has a cell.
fn bar(left: Duration, whole: Duration) -> (u16, Color) {
    let part = if whole.is_zero() { 1.0 } else { (left.as_secs_f64() / whole.as_secs_f64()).min(1.0) };
    let cells = (1..=BAR).rev().find(|&cells| part >= f64::from(cells) / f64::from(BAR) - 1e-9);
    let full = cells.unwrap_or(u16::from(!left.is_zero()));
    let colour = match () {
        () if part < 0.2 => Color::Red,
        () if part < 0.5 => Color::Yellow,
        () => Color::Green,
    };
    (full, colour)
}

fn draw_events(model: &Model, palette: Palette, area: Rect, frame: &mut Frame<'_>) {
    if area.height < 2 {
        return;
    }
    let block = Block::new().borders(Borders::TOP).title(" events ");
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let skipped = model.events.len().saturating_sub(inside.height.into());
    let lines = model.events.iter().skip(skipped).map(|event| {
        let kind = event.split(' ').nth(1).unwrap_or_default();
        Line::styled(event_line(event, inside.width.into()), event_style(kind, palette))
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), inside);
}

/// `03:02:01 acquire build/web session=agent-7 token=7451`, so that what says most is left where there is little room.
fn event_line(event: &str, width: usize) -> String {
    let (facts, path) = match event.split_once(" path=") {
        Some((facts, path)) => (facts, format!("{path} ")),
        None => (event, String::new()),
    };
    let mut words = facts.splitn(3, ' ');
    let (Some(time), Some(kind)) = (words.next(), words.next()) else { return cut(event, width) };
    if time == "#" {
        return cut(event, width);
    }
    let time = time.split_once('T').map_or(time, |(_, time)| time.trim_end_matches('Z'));
    cut(&format!("{time} {kind:8} {path}{}", words.next().unwrap_or_default()), width)
}

fn event_style(kind: &str, palette: Palette) -> Style {
    match kind {
        "break" | "lost" => palette.of(Color::Red),
        "expire" => palette.of(Color::Yellow),
        _ => Style::new(),
    }
}

fn foot(model: &Model, palette: Palette, width: u16) -> Line<'static> {
    let width = usize::from(width);
    match (&model.mode, &model.message) {
        (Mode::Filter(_), _) => Line::raw(cut_front(&format!("filter: {}_", model.filter), width)),
        (_, Some(message)) => {
            Line::styled(cut(message, width), palette.of(Color::Yellow).add_modifier(Modifier::BOLD))
        }
        _ if !model.filter.is_empty() => {
            Line::raw(cut(&format!("filter: {}  (Esc clears it)  ? help  q quit", model.filter), width))
        }
        _ => Line::raw(cut("? help  q quit  / filter  < > sort  r reverse  Enter details  b break", width)),
    }
}

/// A frame in the middle, as large as there is room, at most as its contents need.
fn popup(frame: &mut Frame<'_>, title: String, height: u16, width: u16) -> Rect {
    let screen = frame.area();
    let (width, height) = (width.min(screen.width), height.min(screen.height));
    let area = Rect {
        x: screen.x + (screen.width - width) / 2,
        y: screen.y + (screen.height - height) / 2,
        width,
        height,
    };
    frame.render_widget(Clear, area);
    if height < 4 || width < 8 {
        return area;
    }
    let block = Block::bordered().title(title);
    let inside = block.inner(area);
    frame.render_widget(block, area);
    inside
}

fn draw_question(doomed: &Doomed, palette: Palette, frame: &mut Frame<'_>) {
    let Doomed { name, holder, token, .. } = doomed;
    let screen = frame.area();
    let width = screen.width.min(72);
    let text = |width: usize| {
        let style = palette.of(Color::Red).add_modifier(Modifier::BOLD);
        // What must not be lost where there is little room comes first; a long name must not push it out.
        vec![
            Line::styled(cut("break it? y/N", width), style),
            Line::raw(format!("lock   {}", cut_front(name, width.saturating_sub(7)))),
            Line::raw(cut(&format!("holder {holder}"), width)),
            Line::raw(cut(&format!("token  {token}"), width)),
        ]
    };
    let inside = popup(frame, " break ".to_owned(), 6, width);
    frame.render_widget(Paragraph::new(text(inside.width.into())), inside);
}

fn draw_details(model: &Model, first: usize, palette: Palette, frame: &mut Frame<'_>) {
    let screen = frame.area();
    let lines = model.details();
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(2);
    let name = model.selected().map_or(String::new(), |row| row.name.clone());
    let title = format!(" {} ", cut_front(&name, usize::from(screen.width).saturating_sub(6)));
    let inside = popup(frame, title, height, screen.width);
    let lines = lines.into_iter().skip(first).map(|line| match line.split_once(": ") {
        Some((key, value)) => Line::from(vec![
            Span::styled(format!("{key:9} "), palette.of(Color::Cyan)),
            Span::raw(value.to_owned()),
        ]),
        None => Line::raw(line),
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).wrap(Wrap { trim: false }), inside);
}

const HELP: &str = "\
up k, down j       select (PgUp PgDn, g Home, G End)
Enter              all about the selected lock
b, Del             break it: asks, and names its holder and token
/                  filter by name or holder (Esc clears it)
p h a t w          sort by PATH, HOLDER, AGE, TTL-LEFT, WAITING
< >                sort by the column beside
r                  reverse the order
Space              pause
Ctrl-L             draw anew
Ctrl-Z             stop; fg goes on
q, Ctrl-C          quit

'...' is not read yet. TTL-LEFT goes down and jumps up again as
long as the holder lives. 'ended': its job has, and it expires.";

fn draw_help(palette: Palette, frame: &mut Frame<'_>) {
    let height = u16::try_from(HELP.lines().count()).unwrap_or(u16::MAX) + 2;
    let inside = popup(frame, " help ".to_owned(), height, 68);
    let lines: Vec<_> = HELP.lines().map(|line| cut(line, inside.width.into())).map(Line::raw).collect();
    frame.render_widget(Paragraph::new(lines).style(palette.of(Color::Reset)), inside);
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
