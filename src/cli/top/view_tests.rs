//! What is drawn, on a terminal that is none.

use std::path::PathBuf;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;

use super::super::model::{Effect, Input};
use super::super::wire::{Answer, Seen, Tree};
use super::*;
use crate::clock::{BootTime, Now};

fn now(seconds: u32) -> Now {
    Now {
        boot: BootTime::from_nanos(u64::from(seconds) * 1_000_000_000),
        wall: WallTime::new(1_935_630_121 + i64::from(seconds), 0),
    }
}

fn press(model: &mut Model, keys: &str) -> Vec<Effect> {
    let keys =
        keys.chars().map(|key| if key == '\n' { KEY_ENTER } else { crossterm::event::KeyCode::Char(key) });
    keys.flat_map(|key| model.update(now(10), Input::Key(key.into()))).collect()
}

const KEY_ENTER: crossterm::event::KeyCode = crossterm::event::KeyCode::Enter;

fn model(names: &[&str]) -> Model {
    let mut model = Model::new("/locks".as_ref(), Column::Path, "", Duration::from_secs(2));
    model.update(now(0), Input::Room(50));
    let tree = Tree { names: names.iter().map(PathBuf::from).collect(), ..Tree::default() };
    let info = |name: &&str| {
        let info = "state: held\nsession: dev1-7-k\ntoken: 42\nsince: 2031-05-04T03:01:01Z\n\
            expires: 2031-05-04T03:04:41Z\nttl: 5m\nscope: host\nwaiting: 2\nuser: alice\nhost: dev1\npid: 7\n\
            command: make\n";
        (PathBuf::from(name), Some(format!("lock: {name}\n{info}")))
    };
    let seen = Seen {
        status: "state: ok\nsessions: 3\nwaiting: 2\nbackend: leveldb\n".to_owned(),
        events: vec![super::super::super::follow::Line::Event(
            "2031-05-04T03:01:01Z acquire session=dev1-7-k token=42 path=build/web".to_owned(),
        )],
        tree: Some(tree),
        info: names.iter().map(info).collect(),
        ..Seen::default()
    };
    model.update(now(10), Input::Answer(Answer::Seen(Box::new(seen))));
    model
}

fn drawn(model: &mut Model, palette: Palette, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let room = room(model, Rect::new(0, 0, width, height));
    model.update(now(10), Input::Room(room));
    terminal.draw(|frame| draw(model, palette, frame)).unwrap();
    terminal.backend().buffer().clone()
}

fn lines(buffer: &Buffer) -> Vec<String> {
    let cells = buffer.content().chunks(buffer.area.width.max(1).into());
    cells.map(|line| line.iter().map(ratatui::buffer::Cell::symbol).collect::<String>()).collect()
}

#[test]
fn a_lock_is_a_line_with_a_bar() {
    let mut model = model(&["build/web", "deploy"]);
    let lines = lines(&drawn(&mut model, Palette::Plain, 110, 20));
    assert_eq!(lines[0].trim_end(), "lockfs /locks ok  2 locks, 3 sessions, 2 waiting, leveldb");
    assert!(lines[1].starts_with("PATHv ") && lines[1].contains(" TTL-LEFT "), "{}", lines[1]);
    let words: Vec<_> = lines[2].split_whitespace().collect();
    // 150 of 300 seconds are left.
    let expected = ["build/web", "alice@dev1", "make[7]", "1m10s", "2m30s", "#####-----", "host", "2"];
    assert_eq!(words, expected);
    assert!(lines[14].contains(" events "), "{lines:?}");
    assert_eq!(lines[15].trim_end(), "03:01:01 acquire  build/web session=dev1-7-k token=42");
    assert!(lines[19].starts_with("? help"));
}

#[test]
fn a_bar_is_as_long_as_what_is_left() {
    let seconds = Duration::from_secs;
    for (left, full) in [(0, 0), (1, 1), (30, 1), (150, 5), (299, 9), (300, 10), (400, 10)] {
        assert_eq!(bar(seconds(left), seconds(300)).0, full, "{left}");
    }
    let colours = [10, 100, 200].map(|left| bar(seconds(left), seconds(300)).1);
    assert_eq!(colours, [Color::Red, Color::Yellow, Color::Green]);
    assert_eq!(bar(seconds(1), seconds(0)).0, 10);
}

#[test]
fn every_size_has_a_frame() {
    for keys in ["", "?", "\n", "b", "/x"] {
        for width in [0, 1, 2, 3, 5, 8, 13, 40, 71, 72, 100, 300] {
            for height in [0, 1, 2, 3, 4, 5, 6, 13, 14, 50] {
                let mut model = model(&["a", "b", "c"]);
                press(&mut model, keys);
                drawn(&mut model, Palette::Colours, width, height);
            }
        }
    }
}

#[test]
fn a_question_names_holder_and_token_on_the_smallest_terminals() {
    let mut model = model(&[&format!("{}end", "long/".repeat(40))]);
    press(&mut model, "b");
    for (width, height) in [(80, 24), (30, 5), (30, 4)] {
        let text = lines(&drawn(&mut model, Palette::Plain, width, height)).join("\n");
        assert!(text.contains("break it? y/N"), "{text}");
        if height > 5 {
            assert!(text.contains("holder alice@dev1 make[7]") && text.contains("token  42"), "{text}");
            assert!(text.contains("lock   ...") && text.contains("long/end"), "{text}");
        }
    }
}

#[test]
fn wide_letters_keep_columns_where_they_are() {
    let mut model =
        model(&["a", "\u{6f22}\u{5b57}\u{6f22}\u{5b57}\u{6f22}\u{5b57}\u{6f22}\u{5b57}\u{6f22}\u{5b57}"]);
    let buffer = drawn(&mut model, Palette::Plain, 60, 10);
    let column = |line: u16| (0..60).find(|&x| buffer[(x, line)].symbol() == "@");
    assert!(column(2).is_some() && column(2) == column(3), "{:?}", lines(&buffer));
}

#[test]
fn no_letter_moves_the_cursor() {
    let mut model = model(&["\x1b[2J\nx\u{9b}1m"]);
    for keys in ["", "\n", "b"] {
        press(&mut model, keys);
        let buffer = drawn(&mut model, Palette::Plain, 100, 30);
        assert!(!buffer.content().iter().any(|cell| cell.symbol().contains(char::is_control)), "{keys}");
    }
    assert!(lines(&drawn(&mut model, Palette::Plain, 100, 30)).join("").contains("\\u{1b}[2J\\nx"));
}

#[test]
fn without_colours_nothing_has_one() {
    let mut plain = model(&["a"]);
    let has_colour = |buffer: &Buffer| buffer.content().iter().any(|cell| cell.fg != Color::Reset);
    assert!(has_colour(&drawn(&mut plain, Palette::Colours, 110, 24)));
    for keys in ["", "?", "?\n", "qb"] {
        press(&mut plain, keys);
        assert!(!has_colour(&drawn(&mut plain, Palette::Plain, 110, 24)), "{keys}");
    }
}

#[test]
fn what_is_wrong_has_a_line() {
    let mut model = model(&["a"]);
    model.update(now(10), Input::Answer(Answer::Gone("no lockfs is mounted at /locks".to_owned())));
    let lines = lines(&drawn(&mut model, Palette::Plain, 100, 20));
    assert!(lines[0].starts_with("lockfs /locks gone "), "{lines:?}");
    assert!(
        lines[1].starts_with("no lockfs is mounted at /locks (this goes on when it is back)"),
        "{lines:?}"
    );
    assert!(lines[3].starts_with("a "), "{lines:?}");
}
