//! What keys and answers come to, without a terminal or a mount.

use super::*;

/// A model, and the time, which stands still unless it is moved.
struct Bench {
    model: Model,
    seconds: u64,
}

fn now(seconds: u64) -> Now {
    let wall = WallTime::new(1_935_630_121 + i64::try_from(seconds).unwrap(), 0);
    Now { boot: BootTime::from_nanos(seconds * 1_000_000_000), wall }
}

fn info(name: &str, user: &str, token: u64, more: &str) -> String {
    format!(
        "lock: {name}\nstate: held\nsession: {user}-s\ntoken: {token}\nsince: 2031-05-04T03:02:01Z\n\
         expires: 2031-05-04T03:07:01Z\nttl: 5m\nscope: host\nuser: {user}\nhost: dev1\npid: 7\n{more}kind: file\n"
    )
}

impl Bench {
    fn new() -> Self {
        let mut model = Model::new(Path::new("/locks"), Column::Path, "", Duration::from_secs(2));
        model.room = 3;
        Self { model, seconds: 1_000 }
    }

    fn put(&mut self, input: Input) -> Vec<Effect> {
        self.model.update(now(self.seconds), input)
    }

    fn after(&mut self, seconds: u64, input: Input) -> Vec<Effect> {
        self.seconds += seconds;
        self.put(input)
    }

    fn seen(&mut self, seen: Seen) -> Vec<Effect> {
        self.put(Input::Answer(Answer::Seen(Box::new(seen))))
    }

    /// A look that finds these, of which all is known.
    fn sees(&mut self, names: &[&str]) {
        let tree = Tree { names: names.iter().map(PathBuf::from).collect(), ..Tree::default() };
        self.seen(Seen { tree: Some(tree), ..Seen::default() });
        let info = names.iter().zip(1..).map(|(name, token)| {
            ((*name).into(), Some(info(name, "alice", token, &format!("waiting: {}\n", 9 - token))))
        });
        self.seen(Seen { info: info.collect(), ..Seen::default() });
    }

    fn press(&mut self, keys: &str) -> Vec<Effect> {
        let keys = keys.chars().map(|key| match key {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            key => KeyCode::Char(key),
        });
        let effects = keys.map(|key| self.put(Input::Key(key.into()))).collect::<Vec<_>>();
        effects.into_iter().flatten().collect()
    }

    fn shown(&self) -> Vec<&str> {
        self.model.visible().map(|(row, _)| row.name.as_str()).collect()
    }

    fn selected(&self) -> &str {
        self.model.selected().map_or("", |row| &row.name)
    }
}

fn look(effects: &[Effect]) -> &Look {
    match effects {
        [Effect::Ask(Ask::Look(look))] => look,
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_question_is_on_its_way_at_most() {
    let mut bench = Bench::new();
    assert!(look(&bench.put(Input::Tick)).tree);
    assert_eq!(bench.after(60, Input::Tick), []);
    // What has just come into sight is asked about at once, and then there is peace for a while.
    let tree = Tree { names: vec!["a".into()], ..Tree::default() };
    bench.seen(Seen { tree: Some(tree), ..Seen::default() });
    let effects = bench.after(1, Input::Tick);
    assert_eq!(look(&effects).shown, [PathBuf::from("a")]);
    let info = [("a".into(), Some(info("a", "alice", 1, "")))].into();
    bench.seen(Seen { info, ..Seen::default() });
    assert_eq!(bench.after(1, Input::Tick), []);
    assert_eq!(look(&bench.after(1, Input::Tick)).shown, [PathBuf::from("a")]);
}

#[test]
fn only_what_is_on_the_screen_is_asked_about() {
    let mut bench = Bench::new();
    let names: Vec<_> = (0..100_000).map(|number| PathBuf::from(format!("{number:06}"))).collect();
    let tree = Tree { names, took: Duration::from_secs(1), unread: 0 };
    bench.seen(Seen { tree: Some(tree), ..Seen::default() });
    let effects = bench.after(2, Input::Tick);
    let Look { tree, shown, others, .. } = look(&effects);
    assert_eq!((*tree, shown.len(), others.len()), (false, 3, 0));
    // To sort or to filter by more than names takes more, bit by bit.
    bench.seen(Seen::default());
    bench.press("w");
    let effects = bench.after(2, Input::Tick);
    let Look { shown, others, .. } = look(&effects);
    assert_eq!((shown.len(), others.len()), (3, OTHERS_MAX));
    assert!(shown.iter().all(|path| !others.contains(path)));
}

#[test]
fn names_are_looked_for_the_less_often_the_longer_it_takes() {
    let mut bench = Bench::new();
    bench.put(Input::Tick);
    let tree = Tree { took: Duration::from_secs(1), ..Tree::default() };
    bench.seen(Seen { tree: Some(tree), ..Seen::default() });
    for _ in 0..9 {
        assert!(!look(&bench.after(2, Input::Tick)).tree);
        bench.seen(Seen::default());
    }
    assert!(look(&bench.after(2, Input::Tick)).tree);
}

#[test]
fn the_selection_stays_on_its_lock() {
    let mut bench = Bench::new();
    bench.sees(&["a", "b", "c", "d", "e"]);
    assert_eq!((bench.selected(), bench.shown()), ("a", vec!["a", "b", "c"]));
    bench.press("jjj");
    assert_eq!((bench.selected(), bench.shown()), ("d", vec!["b", "c", "d"]));
    bench.sees(&["0", "a", "b", "c", "d", "e"]);
    assert_eq!(bench.selected(), "d");
    bench.press("r");
    assert_eq!((bench.selected(), bench.shown()), ("d", vec!["d", "c", "b"]));
    // In the place of one that went is its neighbour, and of the last its predecessor.
    bench.press("r");
    bench.sees(&["a", "b", "c", "e"]);
    assert_eq!(bench.selected(), "e");
    bench.press("G");
    bench.sees(&["a", "b"]);
    assert_eq!(bench.selected(), "b");
    bench.sees(&[]);
    assert_eq!((bench.selected(), bench.shown().len()), ("", 0));
    bench.press("jkGg\nb");
}

#[test]
fn columns_sort_and_the_filter_picks() {
    let mut bench = Bench::new();
    bench.sees(&["a", "b", "c"]);
    for (keys, first) in [("w", "a"), ("r", "c"), ("p", "a"), ("r", "c"), (">", "a"), ("<", "a")] {
        bench.press(keys);
        assert_eq!(bench.shown()[0], first, "{keys}");
    }
    assert_eq!(bench.model.sort, Column::Path);
    bench.press("<<>>>>>>>");
    assert_eq!(bench.model.sort, Column::Waiting);
    bench.press("/B");
    assert_eq!((bench.shown(), bench.model.filter.as_str()), (vec!["b"], "B"));
    bench.press("\x1b");
    assert_eq!((bench.shown().len(), bench.model.filter.as_str()), (3, ""));
    // A key that means something elsewhere is a letter there, and a holder is found too.
    bench.press("/aliceq");
    assert_eq!(bench.shown().len(), 0);
    bench.put(Input::Key(KeyCode::Backspace.into()));
    bench.press("\n");
    assert_eq!((bench.shown().len(), bench.model.mode.clone()), (3, Mode::List));
    bench.press("\x1b");
    assert_eq!(bench.model.filter, "");
}

#[test]
fn a_break_names_the_token_that_was_shown() {
    let mut bench = Bench::new();
    bench.sees(&["a", "b"]);
    bench.press("jb");
    assert!(matches!(&bench.model.mode, Mode::Confirm(doomed) if doomed.name == "b" && doomed.token == "2"));
    // Meanwhile it is another's.
    let newer = [("b".into(), Some(info("b", "bob", 77, "")))].into();
    bench.seen(Seen { info: newer, ..Seen::default() });
    assert_eq!(bench.press("jxG7"), []);
    let ask = Ask::Break { path: "b".into(), token: "2".into() };
    assert_eq!(bench.press("y"), [Effect::Ask(ask)]);
    let answer = Answer::Broken("b".into(), Err("no more".into()));
    bench.put(Input::Answer(answer));
    assert_eq!(bench.model.message.as_deref(), Some("no more"));
    for no in ["n", "N", "\n", "\x1b", "q"] {
        assert_eq!((bench.press("b"), bench.press(no)), (vec![], vec![]));
        assert_eq!(bench.model.message.as_deref(), Some("b stays as it is"));
    }
}

#[test]
fn what_has_no_token_is_not_broken() {
    let mut bench = Bench::new();
    bench.sees(&["a"]);
    let alone = [("a".into(), Some(info("a", "bob", 7, "").replace("token: 7\n", "")))].into();
    bench.seen(Seen { info: alone, ..Seen::default() });
    assert_eq!(bench.press("b"), []);
    assert!(bench.model.message.as_deref().is_some_and(|message| message.contains("has no token")));
    assert_eq!(bench.model.mode, Mode::List);
}

#[test]
fn a_mount_that_hangs_or_goes_is_told_and_asked_again() {
    let mut bench = Bench::new();
    bench.sees(&["a"]);
    bench.after(2, Input::Tick);
    assert!(!bench.model.is_stale());
    bench.after(3, Input::Tick);
    assert_eq!(bench.model.silent_for(), Some(Duration::from_secs(3)));
    bench.put(Input::Answer(Answer::Gone("it is gone".into())));
    assert!(bench.model.is_stale() && bench.model.silent_for().is_none());
    assert_eq!(bench.shown(), ["a"]);
    assert!(look(&bench.after(2, Input::Tick)).tree);
    // Nobody is there to answer that: another is asked.
    bench.put(Input::Lost);
    assert!(look(&bench.after(2, Input::Tick)).tree);
    bench.sees(&["b"]);
    assert_eq!((bench.shown(), bench.model.is_stale()), (vec!["b"], false));
}

#[test]
fn keys_of_the_terminal_do_what_they_do_elsewhere() {
    let mut bench = Bench::new();
    let control = |letter| Input::Key(KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL));
    for mode in ["", "/", "?"] {
        bench.press(mode);
        assert_eq!(bench.put(control('z')), [Effect::Stop]);
        assert_eq!(bench.put(control('l')), [Effect::Redraw]);
        assert_eq!(bench.put(control('c')), [Effect::Quit]);
        bench.press("\x1b");
    }
    assert_eq!(bench.press("?q"), []);
    assert_eq!(bench.press("q"), [Effect::Quit]);
}

#[test]
fn details_have_who_waits_and_what_happened() {
    let mut bench = Bench::new();
    bench.sees(&["a", "b"]);
    bench.after(1, Input::Tick);
    let effects = bench.press("\n");
    assert_eq!(look(&effects).open, Some("a".into()));
    let events = [
        "2031-05-04T03:02:01Z acquire session=s token=1 path=a",
        "2031-05-04T03:02:02Z acquire session=s token=2 path=b",
    ];
    bench.seen(Seen {
        door: Some("state: held\nwaiter: bob exclusive since then\n".into()),
        events: events.map(|event| Line::Event(event.into())).into(),
        ..Seen::default()
    });
    let details = bench.model.details();
    let at = |line: &str| details.iter().position(|other| other == line);
    let event = at("event: 2031-05-04T03:02:01Z acquire session=s token=1");
    assert!(at("waiter: bob exclusive since then") < event && event < at("kind: file"), "{details:?}");
    assert!(event.is_some() && !details.iter().any(|line| line.contains("token=2")), "{details:?}");
    // It is of the one that is selected, and of no other.
    bench.press("qj");
    assert!(!bench.model.details().iter().any(|line| line.starts_with("waiter")));
}
