//! Each store beside the table: the same acts at the same times, the same answers.
//!
//! Two stores number alike only as far as their epochs do. So answers are compared as text in which every
//! token is replaced by its rank: which number it was that was seen first, second and so on.

use std::collections::HashMap;
use std::time::Duration;

use lockfs::clock::Now;
use lockfs::lock::{Ino, Mount, SessionId, Token, WaitId};
use lockfs::store::{LockStore, Wakes};
use lockfs::table::{Spot, View};

use crate::house::{Ground, House, Tenant};
use crate::search::every_history_from;
use crate::shadow::{ALL, Shadow, ensure};
use crate::world::{Act, Bench, SESSIONS, Stand, Story, later, names, session_id};

/// After how many acts everything is looked at.
const LOOK: usize = 10;

impl Stand for &dyn LockStore {
    fn now(&self) -> Now {
        LockStore::now(*self)
    }

    fn lookup(&self, spot: &Spot) -> Option<Ino> {
        LockStore::lookup(*self, spot).expect("the store works").map(|attributes| attributes.ino)
    }

    fn token(&self, ino: Ino) -> Option<Token> {
        self.view(ino).expect("the store works").map(|view| view.record.token)
    }
}

/// The numbers of one side, by rank.
#[derive(Debug, Default)]
pub(crate) struct Ranks(HashMap<u64, usize>);

impl Ranks {
    /// `text` with each token replaced by its rank.
    pub(crate) fn rank(&mut self, text: &str) -> String {
        let mut ranked = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
            let (before, digits) = rest.split_at(start);
            let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
            ranked.push_str(before);
            match digits[..end].parse::<u64>() {
                Ok(number) if Token::from_u64(number).epoch() >= Token::EPOCH_MIN => {
                    let next = self.0.len();
                    ranked.push_str(&format!("#{}", self.0.entry(number).or_insert(next)));
                }
                _ => ranked.push_str(&digits[..end]),
            }
            rest = &digits[end..];
        }
        ranked + rest
    }
}

/// The same with its grants in one order: theirs says nothing.
fn in_order(mut view: View) -> View {
    view.grants.sort_by_key(|grant| (grant.style, grant.owner, grant.range));
    view
}

fn mounts_in_order(mut mounts: Vec<Mount>) -> Vec<Mount> {
    mounts.sort_by_key(|mount| mount.id);
    mounts
}

/// What can be asked of both sides.
macro_rules! everything {
    (
        $story:expr, $view:expr, $list:expr, $held:expr, $session:expr, $shortest:expr, $sessions:expr, $counts:expr,
        $queue:expr, $mounts:expr
    ) => {{
        let mut text = String::new();
        for ino in $story.seen() {
            text += &format!("{:?} {:?}\n", $view(*ino).map(in_order), $list(*ino));
            for name in names() {
                text += &format!("{:?}\n", $queue(&Spot { parent: *ino, name }));
            }
            for session in &$sessions {
                text += &format!("{}: {:?}\n", session.id, $held(&session.id, *ino));
            }
        }
        for id in SESSIONS.map(session_id) {
            text += &format!("{id}: {:?} {:?}\n", $session(&id), $shortest(&id));
        }
        text + &format!("{:?} {:?} {:?}", $sessions, $counts, mounts_in_order($mounts))
    }};
}

pub(crate) fn seen_in_table(Bench { table, now }: &Bench, story: &Story) -> String {
    everything!(
        story,
        |ino| table.view(*now, ino),
        |ino| table.list(*now, ino, None, ALL),
        |id, ino| table.list_held(*now, id, ino, None, ALL),
        |id| table.session(*now, id),
        |id| table.shortest_ttl(id),
        table.list_sessions(*now, None, ALL),
        table.counts(),
        |spot: &Spot| table.queue(*now, spot),
        table.mounts()
    )
}

pub(crate) fn seen_in_store(store: &dyn LockStore, story: &Story) -> String {
    const WORKS: &str = "the store works";
    everything!(
        story,
        |ino| store.view(ino).expect(WORKS),
        |ino| store.list(ino, None, ALL).expect(WORKS),
        |id: &SessionId, ino| store.list_held(id, ino, None, ALL).expect(WORKS),
        |id: &SessionId| store.session(id).expect(WORKS),
        |id: &SessionId| store.shortest_ttls(std::slice::from_ref(id)).expect(WORKS)[0],
        store.list_sessions(None, ALL).expect(WORKS),
        store.counts().expect(WORKS),
        |spot: &Spot| store.queue(spot).expect(WORKS),
        store.mounts().expect(WORKS)
    )
}

/// How long a store that tells from afar may take.
const TOLD: Duration = Duration::from_secs(2);

/// Who was told to ask again since the last time; `expected` are, and it may be that they are told a moment late.
pub(crate) fn wakes_of(store: &dyn LockStore, expected: usize) -> Vec<WaitId> {
    let mut wakes = Vec::new();
    loop {
        let limit = if wakes.len() < expected { TOLD } else { Duration::ZERO };
        match store.await_wakes(limit).expect("the store works") {
            Wakes::These(more) if more.is_empty() => return wakes,
            Wakes::These(more) => wakes.extend(more),
            Wakes::All => panic!("nothing was missed"),
        }
    }
}

/// Whether a store keeps anything when it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// All of it.
    Durably,
    /// Nothing.
    InMemory,
}

/// Carries out `cases` random histories on the store and on the table.
pub(crate) fn store_is_the_table<G: Ground>(cases: u64, kept: Kept) {
    store_is_the_table_from::<G>(1, cases, kept);
}

/// The same, of the histories that begin with the seed `first`.
pub(crate) fn store_is_the_table_from<G: Ground>(first: u64, cases: u64, kept: Kept) {
    every_history_from(first, cases, |acts| {
        let mut house = House::<G>::new();
        let mut bench = Bench::at(G::dawn());
        let (mut stories, mut ranks) = ([Story::new(), Story::new()], [Ranks::default(), Ranks::default()]);
        let (mut events, mut heard) = (Vec::new(), 0);
        for (nth, act) in acts.iter().enumerate() {
            match act {
                Act::Wait(span) => {
                    house.wait(*span);
                    bench.now = later(bench.now, *span);
                }
                Act::Reopen if kept == Kept::Durably => {
                    house.reopen(Duration::ZERO);
                    bench = reopened(&bench);
                    (events, heard) = (Vec::new(), 0);
                }
                _ => {}
            }
            let commands = (stories[0].command(&bench, act), stories[1].command(&house.store(), act));
            if let (Some(for_table), Some(for_store)) = commands {
                let step = bench.table.execute(bench.now, &for_table);
                let outcome = house.store().execute(&for_store).map_err(|error| error.to_string())?;
                let told = ranks[0].rank(&format!("{:?}", step.outcome));
                let got = ranks[1].rank(&format!("{outcome:?}"));
                ensure!(told == got, "{for_table:?} answers {told}, the store {got}");
                stories[0].hear(&step.outcome);
                stories[1].hear(&outcome);
                events.extend(step.events);
                // In the order in which they were told on each mount: between mounts there is none.
                let mut wakes = [step.wakes.clone(), wakes_of(house.store(), step.wakes.len())];
                wakes.iter_mut().for_each(|wakes| wakes.sort_by_key(|id| id.mount));
                let [told, got] = &wakes;
                ensure!(told == got, "{for_table:?} wakes {told:?}, the store {got:?}");
                stories.iter_mut().for_each(|story| story.hear_wakes(&step.wakes));
            }
            let page = house.store().events(heard, ALL).map_err(|error| error.to_string())?;
            let expected: Vec<_> = events.iter().skip(usize::try_from(heard).expect("few events")).collect();
            let told = ranks[0].rank(&format!("{expected:?}"));
            let got = ranks[1].rank(&format!("{:?}", page.events));
            ensure!(told == got, "{act:?} tells {told}, the store {got}");
            heard = events.len() as u64;
            if nth % LOOK == 0 || nth + 1 == acts.len() {
                let told = ranks[0].rank(&seen_in_table(&bench, &stories[0]));
                let got = ranks[1].rank(&seen_in_store(house.store(), &stories[1]));
                ensure!(told == got, "the table shows\n{told}\nand the store\n{got}");
            }
        }
        Ok(())
    });
}

/// The table of what a store has kept.
pub(crate) fn reopened(Bench { table, now }: &Bench) -> Bench {
    let epoch = table.last_token().epoch() + 1;
    Bench { table: Shadow::of(table).opened(epoch, *now), now: *now }
}

/// The store's time is the clock's that it was given.
pub(crate) fn store_asks_its_clock<G: Ground>() {
    let house = House::<G>::new();
    let before = house.store().now();
    house.wait(Duration::from_secs(3));
    assert_eq!(house.store().now(), later(before, Duration::from_secs(3)));
}

#[test]
fn tokens_are_compared_by_rank_and_other_numbers_as_they_are() {
    let token = Token::new(Token::EPOCH_MIN, 7);
    let mut ranks = Ranks::default();
    assert_eq!(ranks.rank(&format!("a {token} 12 {}", token.next())), "a #0 12 #1");
    assert_eq!(ranks.rank(&format!("{token}")), "#0");
}
