//! The terminal while something is drawn on it, and as it was before.
//!
//! The invariant: whenever this process ends, stops or panics, the terminal is as it was found; SIGKILL alone is beyond
//! that. What a terminal does on signals it does not do meanwhile: Ctrl-C and Ctrl-Z come as keys.

use std::io::{self, Stdout, Write};
use std::time::Duration;

use crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use ratatui::backend::CrosstermBackend;
use ratatui::{Frame, Terminal};

use super::super::signals::Signals;

/// How long crossterm looks for what is there: with no time at all it does not look (`use-dev-tty`, without which it
/// forgets keys that come with a change of the size).
const MOMENT: Duration = Duration::from_millis(1);

/// A terminal that is drawn on.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

/// What came from the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    Key(KeyEvent),
    Resized,
}

impl Screen {
    /// Takes the terminal, and sees to it that a panic gives it back before it says what happened.
    ///
    /// # Errors
    /// Where stdout is no terminal that can be drawn on.
    pub(super) fn open() -> io::Result<Self> {
        // Half of it may be taken where the rest can't be.
        let terminal = ratatui::try_init().inspect_err(|_| ratatui::restore())?;
        Ok(Self { terminal })
    }

    /// Draws a frame.
    ///
    /// # Errors
    /// Where the terminal is gone.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(draw).map(drop)
    }

    /// How large it is.
    ///
    /// # Errors
    /// Where the terminal is gone.
    pub(super) fn area(&mut self) -> io::Result<ratatui::layout::Rect> {
        self.terminal.autoresize()?;
        Ok(self.terminal.get_frame().area())
    }

    /// The next frame is drawn in full.
    ///
    /// # Errors
    /// Where the terminal is gone.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        // Not the terminal's own way to do so, which asks it where its cursor is and waits for the answer.
        crossterm::execute!(io::stdout(), crossterm::terminal::Clear(crossterm::terminal::ClearType::All))?;
        self.terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
        Ok(())
    }

    /// What comes within `limit`, and all that came with it; `None` once the terminal is gone.
    ///
    /// # Errors
    /// Where the terminal can't be read.
    pub(super) fn came(&mut self, limit: Duration) -> io::Result<Option<Vec<Came>>> {
        let mut came = Vec::new();
        // The end of file of a terminal that is gone is no event for crossterm: it is not asked then.
        match heard_of_stdin(limit) {
            0 => return Ok(Some(came)),
            events if events & libc::POLLIN == 0 || events & libc::POLLHUP != 0 => return Ok(None),
            _ => {}
        }
        while event::poll(MOMENT)? {
            match event::read()? {
                // Some terminals tell of the release of a key too.
                Event::Key(key) if key.kind != KeyEventKind::Release => came.push(Came::Key(key)),
                Event::Resize(..) => came.push(Came::Resized),
                _ => {}
            }
        }
        Ok(Some(came))
    }

    /// Gives the terminal back, stops this job as the terminal would have, and takes the terminal again when it goes on.
    ///
    /// # Errors
    /// Where the terminal is gone.
    pub(super) fn stop(&mut self, signals: &Signals) -> io::Result<()> {
        self.leave();
        signals.stop_job();
        self.enter()
    }

    /// Takes the terminal again, which somebody may have had meanwhile.
    ///
    /// # Errors
    /// Where the terminal is gone.
    pub(super) fn enter(&mut self) -> io::Result<()> {
        // What is raw already is left as it is by crossterm, whatever a shell has made of it since.
        crossterm::terminal::disable_raw_mode()?;
        crossterm::terminal::enable_raw_mode()?;
        crossterm::execute!(
            io::stdout(),
            crossterm::terminal::EnterAlternateScreen,
            crossterm::cursor::Hide
        )?;
        self.clear()
    }

    fn leave(&mut self) {
        let _ = self.terminal.show_cursor();
        ratatui::restore();
        let _ = io::stdout().flush();
    }
}

/// What there is to hear of stdin within `limit` (poll(2)); nothing where a signal came, as one of another size.
fn heard_of_stdin(limit: Duration) -> libc::c_short {
    let mut poll = libc::pollfd { fd: libc::STDIN_FILENO, events: libc::POLLIN, revents: 0 };
    let millis = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: `poll` is one pollfd and lives.
    let ready = unsafe { libc::poll(&raw mut poll, 1, millis) };
    if ready > 0 { poll.revents } else { 0 }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const NAME: &str = "cli::top::screen::tests::a_panic_is_said_on_the_terminal_as_it_was";

    /// In whose environment this is, the test is the program that panics.
    const PANICS: &str = "LOCKFS_TEST_PANICS";

    #[test]
    fn a_panic_is_said_on_the_terminal_as_it_was() {
        if std::env::var_os(PANICS).is_some() {
            let mut screen = Screen::open().unwrap();
            screen.draw(|frame| frame.render_widget("drawn", frame.area())).unwrap();
            panic!("said aloud");
        }
        let me = std::env::current_exe().unwrap();
        let line = format!(
            "stty rows 24 cols 80; stty -g; {PANICS}=1 {} --exact --nocapture {NAME}; stty -g",
            me.display()
        );
        // script(1) gives it a terminal.
        let mut command = Command::new("script");
        command
            .args(["--quiet", "--command", &line, "/dev/null"])
            .env("TERM", "xterm")
            .env("SHELL", "/bin/sh");
        let said = command.stdin(std::process::Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let at = |part: &str| said.find(part).unwrap_or_else(|| panic!("no {part:?} in {said:?}"));
        let (taken, left) = (at("\x1b[?1049h"), at("\x1b[?1049l"));
        assert!(taken < at("drawn") && at("drawn") < left && left < at("said aloud"), "{said:?}");
        let shown = said.rfind("\x1b[?25h");
        assert!(shown > said.rfind("\x1b[?25l"), "{said:?}");
        let modes: Vec<_> = said.lines().filter(|line| line.matches(':').count() > 20).collect();
        assert!(modes.len() == 2 && modes[0] == modes[1], "{said:?}");
    }
}
