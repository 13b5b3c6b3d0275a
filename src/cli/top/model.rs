//! What the view knows, and what comes of each thing that happens: pure, without a terminal, a mount or a clock.
//!
//! The invariants: what is selected is a lock that is listed, or nothing is; one question is on its way at most; a break
//! names the token that the question on the screen named.

use std::cmp::Ordering;
use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::facts::{Facts, TtlLeft};
use super::super::follow::Line;
use super::super::mounts::shown;
use super::super::out::escaped;
use super::super::status::pairs;
use super::super::who::is_a_jobs;
use super::wire::{Answer, Ask, Look, Seen, Tree};
use crate::clock::{BootTime, Now, WallTime};
use crate::lock::Ttl;

/// How many events are remembered.
const EVENTS_MAX: usize = 1_000;

/// How many of the events of a lock stand among its details.
const HISTORY: usize = 8;

/// How many locks that are not on the screen are asked about at a time, at most.
const OTHERS_MAX: usize = 200;

/// The least time between two walks through all names.
const WALK_AFTER: Duration = Duration::from_secs(1);

/// A walk may take so much of the time: a part of so many.
const WALK_SHARE: u32 = 20;

/// After what time it is asked again about what has just come into sight.
const SOON: Duration = Duration::from_millis(100);

/// After how long without an answer the mount counts as silent.
pub(super) const SILENT_AFTER: Duration = Duration::from_secs(3);

/// What the list is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Column {
    Path,
    Holder,
    Age,
    Ttl,
    Waiting,
}

impl Column {
    pub(super) const ALL: [Self; 5] = [Self::Path, Self::Holder, Self::Age, Self::Ttl, Self::Waiting];

    /// Its head.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Path => "PATH",
            Self::Holder => "HOLDER",
            Self::Age => "AGE",
            Self::Ttl => "TTL-LEFT",
            Self::Waiting => "WAITING",
        }
    }

    /// Its key.
    pub(super) const fn key(self) -> char {
        match self {
            Self::Path => 'p',
            Self::Holder => 'h',
            Self::Age => 'a',
            Self::Ttl => 't',
            Self::Waiting => 'w',
        }
    }

    fn beside(self, step: isize) -> Self {
        let at = Self::ALL.iter().position(|column| *column == self).unwrap_or(0);
        Self::ALL[at.saturating_add_signed(step).min(Self::ALL.len() - 1)]
    }
}

/// What is known of one lock.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Detail {
    pub(super) holder: String,
    pub(super) state: String,
    /// `flock exclusive`, of an advisory file that somebody has locked.
    pub(super) how: Option<String>,
    pub(super) since: Option<WallTime>,
    pub(super) left: Left,
    pub(super) scope: String,
    pub(super) waiting: u64,
    pub(super) token: Option<String>,
    /// All that the mount says, line by line.
    pub(super) lines: Vec<String>,
}

/// When a lock expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Then; and of how much that is the rest, where it is known.
    Until(WallTime, Option<Duration>),
    Never,
    Unknown,
}

impl Left {
    /// How much is left.
    pub(super) fn at(self, now: WallTime) -> Option<Duration> {
        match self {
            Self::Until(deadline, _) => Some(deadline.since(now)),
            Self::Never | Self::Unknown => None,
        }
    }

    /// For sorting: what goes first is first, and what nobody knows last.
    fn rank(self) -> (u8, i64) {
        match self {
            Self::Until(deadline, _) => (0, deadline.secs()),
            Self::Never => (1, 0),
            Self::Unknown => (2, 0),
        }
    }
}

impl Detail {
    fn parse(text: &str) -> Self {
        let facts = Facts::parse(text);
        let ttl = facts.get("ttl").and_then(|ttl| ttl.parse::<Ttl>().ok()).and_then(Ttl::span);
        let left = match (facts.ttl(), facts.deadline()) {
            (TtlLeft::Never, _) => Left::Never,
            (_, Some(deadline)) => Left::Until(deadline, ttl),
            _ => Left::Unknown,
        };
        let how = match facts.grants() {
            [] => None,
            [only] => Some(only.how()),
            [first, others @ ..] => Some(format!("{}, {} more", first.how(), others.len())),
        };
        Self {
            holder: holder(&facts),
            state: escaped(facts.get("state").unwrap_or("-")),
            how,
            since: facts.since(),
            left,
            scope: escaped(facts.get("scope").unwrap_or("-")),
            waiting: facts.number("waiting").unwrap_or(0),
            token: facts.get("token").map(escaped),
            lines: text.lines().map(on_one_line).collect(),
        }
    }
}

/// Who holds it: a named session itself, for the process that acquired may be long gone; else the process.
fn holder(facts: &Facts) -> String {
    let (owner, host) = (facts.get("owner").unwrap_or("nobody"), facts.get("host").unwrap_or_default());
    match facts.get("session").filter(|_| facts.grants().is_empty()) {
        _ if facts.get("state") == Some("free") => "nobody".to_owned(),
        Some(session) if !is_a_jobs(session, host) => escaped(format!("{owner} {session}")),
        _ => facts.holder(),
    }
}

/// A lock.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) path: PathBuf,
    /// Its name on one line, with nothing that a terminal acts on.
    pub(super) name: String,
    pub(super) detail: Option<Detail>,
}

/// What the keys mean just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    List,
    /// The filter is being typed; with what it was before.
    Filter(String),
    /// All of the selected lock, from this line on.
    Details(usize),
    /// Whether that lock is to be ended.
    Confirm(Doomed),
    Help,
}

/// A lock that may be ended, as it was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Doomed {
    path: PathBuf,
    pub(super) name: String,
    pub(super) holder: String,
    pub(super) token: String,
}

/// How the mount is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It has not answered yet.
    Unknown,
    Answers,
    /// It can't be asked: why.
    Gone(String),
}

/// Something that happens.
#[derive(Clone, Debug)]
pub(super) enum Input {
    Key(KeyEvent),
    Answer(Answer),
    /// Nobody answers any more what was asked; somebody else can be asked.
    Lost,
    /// So many locks have room.
    Room(usize),
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Ask(Ask),
    /// Stop the job, as Ctrl-Z does.
    Stop,
    /// Draw everything anew.
    Redraw,
    Quit,
}

/// All that is known.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) mount: String,
    pub(super) now: Now,
    pub(super) health: Health,
    /// Why not all that was asked about could be read.
    pub(super) trouble: Option<String>,
    /// `.lockfs/status`
    status: Vec<(String, String)>,
    /// By path.
    rows: Vec<Row>,
    /// Those that are listed, in their order, as indices of `rows`.
    listed: Vec<usize>,
    /// The one that is selected, by its path, and where in the list it was last.
    selected: Option<PathBuf>,
    at: usize,
    /// The first that is on the screen, and how many have room there.
    pub(super) first: usize,
    room: usize,
    pub(super) sort: Column,
    pub(super) is_reversed: bool,
    pub(super) filter: String,
    pub(super) mode: Mode,
    pub(super) events: VecDeque<String>,
    /// Who waits for the one whose details are shown.
    door: Option<String>,
    /// What became of the last act.
    pub(super) message: Option<String>,
    pub(super) period: Duration,
    /// Since when an answer is waited for.
    asked: Option<BootTime>,
    answered: Option<BootTime>,
    /// When the last walk ended, and how long it took.
    walked: Option<(BootTime, Duration)>,
    /// How many could not be read in it.
    pub(super) unread: u64,
    /// Where the round through those that are not on the screen goes on.
    round: usize,
    pub(super) is_paused: bool,
}

impl Model {
    pub(super) fn new(mount: &Path, sort: Column, filter: &str, period: Duration) -> Self {
        Self {
            mount: shown(mount),
            now: Now::default(),
            health: Health::Unknown,
            trouble: None,
            status: Vec::new(),
            rows: Vec::new(),
            listed: Vec::new(),
            selected: None,
            at: 0,
            first: 0,
            room: 1,
            sort,
            is_reversed: false,
            filter: filter.to_owned(),
            mode: Mode::List,
            events: VecDeque::new(),
            door: None,
            message: None,
            period,
            asked: None,
            answered: None,
            walked: None,
            unread: 0,
            round: 0,
            is_paused: false,
        }
    }

    /// What comes of `input`.
    pub(super) fn update(&mut self, now: Now, input: Input) -> Vec<Effect> {
        self.now = now;
        match input {
            Input::Key(key) => return self.press(key),
            Input::Room(room) => {
                self.room = room.max(1);
                self.scroll();
            }
            Input::Answer(answer) => self.hear(answer),
            Input::Lost => (self.asked, self.answered) = (None, Some(now.boot)),
            Input::Tick => {}
        }
        self.next_look()
    }

    /// A value of the mount's status.
    pub(super) fn status(&self, key: &str) -> Option<&str> {
        self.status.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// How many locks there are, how many are listed, and of how many of them the details are known.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let known = self.listed.iter().filter(|&&index| self.rows[index].detail.is_some()).count();
        (self.rows.len(), self.listed.len(), known)
    }

    /// Since how long an answer is waited for, once that is longer than it should be.
    pub(super) fn silent_for(&self) -> Option<Duration> {
        let waited = self.now.boot.since(self.asked?);
        (waited >= SILENT_AFTER).then_some(waited)
    }

    /// Whether no answer has come for so long that what is shown may be wrong.
    pub(super) fn is_stale(&self) -> bool {
        self.silent_for().is_some() || matches!(self.health, Health::Gone(_))
    }

    /// The locks on the screen, and whether each is the one that is selected.
    pub(super) fn visible(&self) -> impl Iterator<Item = (&Row, bool)> {
        let rows = self.listed.iter().skip(self.first).take(self.room).map(|&index| &self.rows[index]);
        rows.map(|row| (row, Some(&row.path) == self.selected.as_ref()))
    }

    pub(super) fn selected(&self) -> Option<&Row> {
        let path = self.selected.as_ref()?;
        self.index(path).map(|index| &self.rows[index])
    }

    /// All that is to be said of the selected lock.
    pub(super) fn details(&self) -> Vec<String> {
        let Some(row) = self.selected() else { return vec!["no lock is selected".to_owned()] };
        let mut lines = match &row.detail {
            Some(detail) => detail.lines.clone(),
            None => vec![format!("lock: {}", row.name)],
        };
        // What people look for stands before what is of interest to few.
        let few = lines.iter().position(|line| line.starts_with("kind: ")).unwrap_or(lines.len());
        let few = lines.split_off(few);
        let door = self.door.iter().flat_map(|door| door.lines());
        lines.extend(door.filter(|line| line.starts_with("waiter: ")).map(on_one_line));
        let its = format!(" path={}", row.name);
        let history = self.events.iter().filter_map(|event| event.strip_suffix(&its));
        let history: Vec<_> = history.map(|event| format!("event: {event}")).collect();
        lines.extend_from_slice(&history[history.len().saturating_sub(HISTORY)..]);
        lines.extend(few);
        lines
    }

    /// All locks that the filter may let through.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.rows.iter().map(|row| row.path.clone()).collect()
    }

    fn index(&self, path: &Path) -> Option<usize> {
        self.rows.binary_search_by(|row| row.path.as_path().cmp(path)).ok()
    }

    // What is asked.

    fn next_look(&mut self) -> Vec<Effect> {
        // What has just come into sight is asked about at once.
        let is_wanted = self.trouble.is_none() && self.visible().any(|(row, _)| row.detail.is_none());
        let period = if is_wanted { self.period.min(SOON) } else { self.period };
        let is_time = self.answered.is_none_or(|last| self.now.boot.since(last) >= period);
        if self.asked.is_some() || !is_time || self.is_paused {
            return Vec::new();
        }
        let shown: Vec<_> = self.visible().map(|(row, _)| row.path.clone()).collect();
        let open = matches!(self.mode, Mode::Details(_)).then(|| self.selected.clone()).flatten();
        let look = Look { tree: self.is_walk_due(), others: self.others(&shown), shown, open };
        self.asked = Some(self.now.boot);
        vec![Effect::Ask(Ask::Look(look))]
    }

    /// Names are looked for the less often the longer that takes.
    fn is_walk_due(&self) -> bool {
        self.walked.is_none_or(|(at, took)| {
            self.now.boot.since(at) >= WALK_AFTER.max(took.saturating_mul(WALK_SHARE))
        })
    }

    /// Locks that are not on the screen, and of which more must be known than their names: those of which nothing is
    /// known first, then one after the other.
    fn others(&mut self, shown: &[PathBuf]) -> Vec<PathBuf> {
        let is_name_enough = self.sort == Column::Path && self.filter.is_empty();
        if is_name_enough || self.rows.is_empty() {
            return Vec::new();
        }
        let shown: HashSet<_> = shown.iter().collect();
        let unknown = self.rows.iter().filter(|row| row.detail.is_none() && !shown.contains(&row.path));
        let mut others: Vec<_> = unknown.take(OTHERS_MAX).map(|row| row.path.clone()).collect();
        let more = (OTHERS_MAX - others.len()).min(self.rows.len());
        for _ in 0..more {
            self.round = (self.round + 1) % self.rows.len();
            let row = &self.rows[self.round];
            if row.detail.is_some() && !shown.contains(&row.path) {
                others.push(row.path.clone());
            }
        }
        others
    }

    // What is heard.

    fn hear(&mut self, answer: Answer) {
        match answer {
            Answer::Broken(path, result) => {
                self.message = Some(match result {
                    Ok(()) => format!("broke {}", shown(&path)),
                    Err(why) => why,
                });
                // Its end is seen at once.
                self.walked = None;
                self.answered = None;
            }
            Answer::Gone(why) => {
                self.health = Health::Gone(why);
                self.asked = None;
                self.answered = Some(self.now.boot);
                self.walked = None;
            }
            Answer::Seen(seen) => {
                self.health = Health::Answers;
                self.asked = None;
                self.answered = Some(self.now.boot);
                self.see(*seen);
            }
        }
    }

    fn see(&mut self, seen: Seen) {
        self.status = pairs(&seen.status).map(|(key, value)| (escaped(key), escaped(value))).collect();
        for line in seen.events {
            self.events.push_back(match line {
                Line::Event(line) => on_one_line(&line),
                Line::Forgotten(Some(count)) => format!("# {count} events were forgotten"),
                Line::Forgotten(None) => "# events were forgotten".to_owned(),
            });
        }
        self.events.drain(..self.events.len().saturating_sub(EVENTS_MAX));
        if let Some(tree) = seen.tree {
            self.take(tree);
        }
        for (path, info) in seen.info {
            if let Some(index) = self.index(&path) {
                match info {
                    Some(info) => self.rows[index].detail = Some(Detail::parse(&info)),
                    None => _ = self.rows.remove(index),
                }
            }
        }
        if seen.door.is_some() {
            self.door = seen.door;
        }
        self.trouble = seen.trouble.as_deref().map(on_one_line);
        self.arrange();
    }

    /// The names of now; what is known of those that stay is kept.
    fn take(&mut self, tree: Tree) {
        let mut before = std::mem::take(&mut self.rows).into_iter().peekable();
        self.rows.reserve(tree.names.len());
        for path in tree.names {
            while before.next_if(|row| row.path < path).is_some() {}
            match before.next_if(|row| row.path == path) {
                Some(row) => self.rows.push(row),
                None => self.rows.push(Row { name: shown(&path), path, detail: None }),
            }
        }
        self.walked = Some((self.now.boot, tree.took));
        self.unread = tree.unread;
    }

    // What is listed.

    /// Filters and sorts anew, and keeps the selection where it is.
    fn arrange(&mut self) {
        let mut listed: Vec<_> =
            (0..self.rows.len()).filter(|&index| self.is_meant(&self.rows[index])).collect();
        if self.sort != Column::Path {
            listed.sort_by(|&a, &b| compared(self.sort, &self.rows[a], &self.rows[b]));
        }
        if self.is_reversed {
            listed.reverse();
            // What is not known stays last.
            if self.sort != Column::Path {
                let unknown = listed.iter().take_while(|&&index| self.rows[index].detail.is_none()).count();
                listed.rotate_left(unknown);
            }
        }
        self.listed = listed;
        self.reselect();
    }

    /// Whether the filter lets it through: by a part of its name or of its holder, in either case.
    fn is_meant(&self, row: &Row) -> bool {
        if self.filter.is_empty() {
            return true;
        }
        let wanted = self.filter.to_lowercase();
        let holder = row.detail.as_ref().map_or("", |detail| &detail.holder);
        row.name.to_lowercase().contains(&wanted) || holder.to_lowercase().contains(&wanted)
    }

    /// Finds the selected lock in the list again; where it went, the one in its place is selected.
    fn reselect(&mut self) {
        let selected = self.selected.as_ref().and_then(|path| self.index(path));
        let at = selected.and_then(|selected| self.listed.iter().position(|&index| index == selected));
        self.select(at.unwrap_or(self.at));
    }

    fn select(&mut self, at: usize) {
        self.at = at.min(self.listed.len().saturating_sub(1));
        let before = self.selected.take();
        self.selected = self.listed.get(self.at).map(|&index| self.rows[index].path.clone());
        if self.selected != before {
            self.door = None;
        }
        self.scroll();
    }

    fn scroll(&mut self) {
        let last = self.listed.len().saturating_sub(self.room);
        self.first = self.first.min(self.at).max((self.at + 1).saturating_sub(self.room)).min(last);
    }

    // What is pressed.

    fn press(&mut self, key: KeyEvent) -> Vec<Effect> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            match key.code {
                KeyCode::Char('c') => return vec![Effect::Quit],
                KeyCode::Char('z') => return vec![Effect::Stop],
                KeyCode::Char('l') => return vec![Effect::Redraw],
                _ => {}
            }
        }
        match self.mode.clone() {
            Mode::Filter(before) => self.press_in_filter(key, &before),
            Mode::Confirm(doomed) => return self.press_in_confirm(key, doomed),
            Mode::Help => {
                if key.code == KeyCode::Char('q') || is_back(key) || key.code == KeyCode::Char('?') {
                    self.mode = Mode::List;
                }
            }
            Mode::Details(line) => return self.press_in_details(key, line),
            Mode::List => return self.press_in_list(key),
        }
        Vec::new()
    }

    fn press_in_list(&mut self, key: KeyEvent) -> Vec<Effect> {
        self.message = None;
        let page = self.room.saturating_sub(1).max(1);
        match key.code {
            KeyCode::Char('q') => return vec![Effect::Quit],
            KeyCode::Char('?') | KeyCode::F(1) => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Filter(self.filter.clone()),
            KeyCode::Esc if !self.filter.is_empty() => {
                self.filter.clear();
                self.arrange();
            }
            KeyCode::Enter if self.selected.is_some() => return self.open_details(),
            KeyCode::Char('b') | KeyCode::Delete => self.ask_to_break(),
            KeyCode::Char('r') => {
                self.is_reversed = !self.is_reversed;
                self.arrange();
            }
            KeyCode::Char(' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('<') => self.sort_by(self.sort.beside(-1)),
            KeyCode::Char('>') => self.sort_by(self.sort.beside(1)),
            KeyCode::Char('j') | KeyCode::Down => self.select(self.at.saturating_add(1)),
            KeyCode::Char('k') | KeyCode::Up => self.select(self.at.saturating_sub(1)),
            KeyCode::PageDown => self.select(self.at.saturating_add(page)),
            KeyCode::PageUp => self.select(self.at.saturating_sub(page)),
            KeyCode::Char('g') | KeyCode::Home => self.select(0),
            KeyCode::Char('G') | KeyCode::End => self.select(usize::MAX),
            KeyCode::Char(letter) => {
                if let Some(column) = Column::ALL.into_iter().find(|column| column.key() == letter) {
                    self.sort_by(column);
                }
            }
            _ => {}
        }
        Vec::new()
    }

    fn sort_by(&mut self, column: Column) {
        self.sort = column;
        self.is_reversed = false;
        self.arrange();
    }

    fn open_details(&mut self) -> Vec<Effect> {
        self.mode = Mode::Details(0);
        // They are wanted now.
        self.answered = None;
        self.next_look()
    }

    fn press_in_details(&mut self, key: KeyEvent, line: usize) -> Vec<Effect> {
        let last = self.details().len().saturating_sub(1);
        match key.code {
            KeyCode::Char('j') | KeyCode::Down => self.mode = Mode::Details((line + 1).min(last)),
            KeyCode::Char('k') | KeyCode::Up => self.mode = Mode::Details(line.saturating_sub(1)),
            KeyCode::Char('b') | KeyCode::Delete => self.ask_to_break(),
            KeyCode::Char('?') => self.mode = Mode::Help,
            KeyCode::Char('q') | KeyCode::Enter => self.mode = Mode::List,
            _ if is_back(key) => self.mode = Mode::List,
            _ => {}
        }
        Vec::new()
    }

    fn press_in_filter(&mut self, key: KeyEvent, before: &str) {
        match key.code {
            KeyCode::Enter => self.mode = Mode::List,
            KeyCode::Esc => {
                before.clone_into(&mut self.filter);
                self.mode = Mode::List;
            }
            KeyCode::Backspace => _ = self.filter.pop(),
            KeyCode::Char('u') if key.modifiers.contains(KeyModifiers::CONTROL) => self.filter.clear(),
            KeyCode::Char(letter) if !key.modifiers.contains(KeyModifiers::CONTROL) => {
                self.filter.push(letter)
            }
            _ => {}
        }
        self.arrange();
    }

    /// Asks for the end of the selected lock, by the token that is known of it.
    fn ask_to_break(&mut self) {
        let Some(row) = self.selected() else { return };
        match row.detail.as_ref().and_then(|detail| Some((detail, detail.token.clone()?))) {
            Some((detail, token)) => {
                let (path, name, holder) = (row.path.clone(), row.name.clone(), detail.holder.clone());
                self.mode = Mode::Confirm(Doomed { path, name, holder, token });
            }
            None if row.detail.is_none() => {
                self.message = Some(format!("nothing is known of {} yet: try again", row.name));
            }
            None => {
                let hint = "it was granted by this machine alone";
                self.message = Some(format!("{} has no token to break it by: {hint}", row.name));
            }
        }
    }

    fn press_in_confirm(&mut self, key: KeyEvent, doomed: Doomed) -> Vec<Effect> {
        match key.code {
            KeyCode::Char('y' | 'Y') => {
                self.mode = Mode::List;
                self.message = Some(format!("breaking {} ...", doomed.name));
                vec![Effect::Ask(Ask::Break { path: doomed.path, token: doomed.token })]
            }
            KeyCode::Char('n' | 'N' | 'q') | KeyCode::Enter => {
                self.mode = Mode::List;
                self.message = Some(format!("{} stays as it is", doomed.name));
                Vec::new()
            }
            _ if is_back(key) => {
                self.mode = Mode::List;
                self.message = Some(format!("{} stays as it is", doomed.name));
                Vec::new()
            }
            // A key that was meant for the list must not answer.
            _ => Vec::new(),
        }
    }
}

fn is_back(key: KeyEvent) -> bool {
    matches!(key.code, KeyCode::Esc | KeyCode::Left | KeyCode::Backspace)
}

/// The mount escapes what it prints; a terminal acts on nothing in it all the same.
fn on_one_line(line: &str) -> String {
    line.replace(|c: char| c.is_control(), "?")
}

/// What comes first. The oldest, the next to expire and the most waited for come before others, and what is not known last.
fn compared(column: Column, a: &Row, b: &Row) -> Ordering {
    let (Some(first), Some(second)) = (&a.detail, &b.detail) else {
        return a.detail.is_none().cmp(&b.detail.is_none());
    };
    match column {
        Column::Path => a.path.cmp(&b.path),
        Column::Holder => first.holder.cmp(&second.holder),
        Column::Age => {
            first.since.is_none().cmp(&second.since.is_none()).then(first.since.cmp(&second.since))
        }
        Column::Ttl => first.left.rank().cmp(&second.left.rank()),
        Column::Waiting => second.waiting.cmp(&first.waiting),
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
