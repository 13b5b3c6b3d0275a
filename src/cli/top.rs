//! `lockfs top`: the locks, live on a terminal.
//!
//! In four parts that know little of each other: the [`model`] is what is known and what keys mean, the [`view`] how that
//! looks, both pure; the [`screen`] is the terminal, and the [`source`] a process that reads the mount, so that one that
//! hangs is a line on the screen and no frozen screen. Here they are tied together.

mod model;
mod screen;
mod source;
mod view;
mod wire;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::mounts::{default_mount, mount_at};
use super::out::{print, span, table};
use super::signals::Signals;
use super::{Exit, Failure, Outcome};
use crate::clock::{Clock, SystemClock};
use crate::lock::Ttl;
use model::{Column, Effect, Health, Input, Left, Model};
use screen::{Came, Screen};
use source::{Reader, Source};
use view::Palette;
use wire::{Ask, Look};

/// Show the locks live, and break them
///
/// Who holds what, what is left of each ttl, who waits, and what has just happened; sorted and filtered by keys, with all
/// about one lock behind Enter. Where its output is no terminal, or with --batch, it prints the list once, or as often as
/// --count says, and takes no keys. It reads the mount every two seconds: the names of all locks, less often the more of
/// them there are, and no more than that but of those on the screen.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Keys:
  ?  help            q, Ctrl-C  quit        Enter  all about one lock
  /  filter          < >        sort by     b      break it, after a question
  r  reverse         Space      pause       Ctrl-Z stop; fg goes on

Examples:
  $ lockfs top
  $ lockfs top --sort waiting --filter build /locks
  $ lockfs top --batch --count 3 --delay 10s")]
pub(super) struct Top {
    /// Which mount [default: LOCKFS_MOUNT, the mount around here, or the only one]
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: Option<PathBuf>,
    /// What the list is sorted by at first
    #[arg(long, short, value_name = "COLUMN", value_enum, default_value_t = Column::Path)]
    sort: Column,
    /// Only locks with this in their name or holder, in either case
    #[arg(long, short, value_name = "TEXT", default_value = "", hide_default_value = true)]
    filter: String,
    /// How long between two looks at the mount
    #[arg(long, short, value_name = "TIME", default_value = "2s")]
    delay: Delay,
    /// Print the list and take no keys
    #[arg(long, short)]
    batch: bool,
    /// How often the list is printed: implies --batch
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// A time between two looks.
#[derive(Clone, Copy, Debug)]
struct Delay(Duration);

impl std::str::FromStr for Delay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<Ttl>() {
            Ok(Ttl::For(span)) => Ok(Self(span)),
            _ => Err("write seconds (2) or units (5s, 1m), at least 1s".to_owned()),
        }
    }
}

/// The number of the signal of a terminal that is gone (signal(7)).
const SIGHUP: u8 = 1;

/// How long a turn waits for keys.
const TURN: Duration = Duration::from_millis(100);

impl Top {
    pub(super) fn perform(self) -> Outcome {
        let mount = match &self.mountpoint {
            Some(point) => mount_at(point)?,
            None => default_mount()?,
        };
        let model = Model::new(&mount.point, self.sort, &self.filter, self.delay.0);
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
        let is_screen = io::stdout().is_terminal() && io::stdin().is_terminal() && !is_dumb;
        if self.batch || self.count.is_some() || !is_screen {
            return self.print_lists(&mount.point, model);
        }
        let signals = Signals::hold_for_a_screen();
        let no_process = |error| Failure::new(Exit::Failed, format!("cannot start a process: {error}"));
        let source = Source::start(&mount).map_err(no_process)?;
        let no_screen = |error: io::Error| {
            let hint = "lockfs top --batch prints without drawing";
            Failure::new(Exit::Failed, format!("cannot draw on this terminal: {error} ({hint})"))
        };
        let screen = Screen::open().map_err(no_screen)?;
        Live { model, source, screen, signals, palette: palette() }.run().map_err(no_screen)
    }

    fn print_lists(&self, point: &std::path::Path, mut model: Model) -> Outcome {
        let mut reader = Reader::new(point);
        for number in 0..self.count.unwrap_or(1) {
            if number > 0 {
                if super::out::is_unread_within(self.delay.0) {
                    return Ok(Exit::Unread);
                }
                print("\n")?;
            }
            let mut look = |model: &mut Model, look| {
                let answer = reader.answer(&Ask::Look(look));
                model.update(SystemClock.now(), Input::Answer(answer));
            };
            // The names first, then what there is to say of each.
            look(&mut model, Look { tree: true, ..Look::default() });
            let shown = model.paths();
            look(&mut model, Look { shown, ..Look::default() });
            if let Health::Gone(why) = &model.health {
                return Err(Failure::new(Exit::Unavailable, why));
            }
            model.update(SystemClock.now(), Input::Room(usize::MAX));
            print(as_text(&model))?;
        }
        let is_whole = model.trouble.is_none() && model.unread == 0;
        Ok(if is_whole { Exit::Done } else { Exit::Unavailable })
    }
}

/// Whether there are colours, as everywhere.
fn palette() -> Palette {
    match super::out::has_colours() {
        true => {
            // crossterm reads NO_COLOR itself, and --color is above that.
            crossterm::style::force_color_output(true);
            Palette::Colours
        }
        false => Palette::Plain,
    }
}

fn as_text(model: &Model) -> String {
    let now = model.now.wall;
    let rows: Vec<_> = model
        .visible()
        .map(|(row, _)| {
            let Some(detail) = &row.detail else {
                return [row.name.clone(), "-".into(), "-".into(), "-".into(), "-".into(), "-".into()];
            };
            let age = detail.since.map_or("-".to_owned(), |since| span(now.since(since).as_secs()));
            let left = match detail.left.at(now) {
                Some(left) => span(left.as_secs()),
                None if detail.left == Left::Never => "never".to_owned(),
                None => "-".to_owned(),
            };
            let (scope, waiting) = (detail.scope.clone(), detail.waiting.to_string());
            [row.name.clone(), view::who(detail), age, left, scope, waiting]
        })
        .collect();
    let head = view::summary(model);
    let trouble = view::trouble(model).map_or(String::new(), |trouble| trouble + "\n");
    format!("{head}\n{trouble}{}", table(["PATH", "HOLDER", "AGE", "TTL-LEFT", "SCOPE", "WAITING"], &rows))
}

/// The parts at work.
struct Live {
    model: Model,
    source: Source,
    screen: Screen,
    signals: Signals,
    palette: Palette,
}

impl Live {
    /// Draws, and does what the keys say, until one says to quit.
    fn run(mut self) -> io::Result<Exit> {
        loop {
            let room = view::room(&self.model, self.screen.area()?);
            let mut inputs = vec![Input::Room(room)];
            inputs.extend(self.answers()?);
            inputs.push(Input::Tick);
            if let Some(exit) = self.take(inputs)? {
                return Ok(exit);
            }
            self.screen.draw(|frame| view::draw(&self.model, self.palette, frame))?;
            // Whoever sat there hung up.
            let Some(came) = self.screen.came(TURN)? else { return Ok(Exit::Code(128 + SIGHUP)) };
            let keys = came.into_iter().filter_map(|came| match came {
                Came::Key(key) => Some(Input::Key(key)),
                Came::Resized => None,
            });
            let keys = keys.collect();
            if let Some(exit) = self.take(keys)? {
                return Ok(exit);
            }
            while let Some(signal) = self.signals.next(Duration::ZERO) {
                match signal.number {
                    libc::SIGTSTP => self.screen.stop(&self.signals)?,
                    // Somebody else stopped it, and the terminal may have been another's meanwhile.
                    libc::SIGCONT => self.screen.enter()?,
                    number => return Ok(Exit::Code(128 + u8::try_from(number).unwrap_or(0))),
                }
            }
        }
    }

    /// The answers that have come. A reader that ended, or that hangs in a mount in whose place there is another by now,
    /// is followed by a new one.
    fn answers(&mut self) -> io::Result<Vec<Input>> {
        let mut answers = Vec::new();
        loop {
            match self.source.answer() {
                Ok(Some(answer)) => answers.push(Input::Answer(answer)),
                Ok(None) if self.model.silent_for().is_some() && self.source.is_of_the_past() => break,
                Ok(None) => return Ok(answers),
                Err(_) => break,
            }
        }
        self.source = self.source.again()?;
        answers.push(Input::Lost);
        Ok(answers)
    }

    fn take(&mut self, inputs: Vec<Input>) -> io::Result<Option<Exit>> {
        for input in inputs {
            for effect in self.model.update(SystemClock.now(), input) {
                match effect {
                    // Nobody there to ask is seen when the answer is looked for.
                    Effect::Ask(ask) => _ = self.source.ask(&ask),
                    Effect::Stop => self.screen.stop(&self.signals)?,
                    Effect::Redraw => self.screen.clear()?,
                    Effect::Quit => return Ok(Some(Exit::Done)),
                }
            }
        }
        Ok(None)
    }
}
