//! The law as properties of random histories: what holds after every step, whoever did what when.

use lockfs::clock::Now;
use lockfs::lock::{Attributes, Kind, MountId, Session};
use lockfs::table::{Command, LockTable, Outcome, Reply, Step};

use crate::model::Model;
use crate::rights::Deed;
use crate::search::every_history;
use crate::shadow::{ALL, Shadow, ensure};
use crate::world::{Act, Bench, OWNER, SESSIONS, Story, dawn, later, session_id};

/// How many histories each property is tried on by default.
const CASES: u64 = 1_000;

#[test]
fn every_step_keeps_the_law() {
    every_history(CASES, |acts| {
        let mut bench = Bench::new();
        let mut story = Story::new();
        let mut shadow = Shadow::of(&bench.table);
        let mut model = Model::default();
        for act in acts {
            let mut same = true;
            if let Act::Wait(span) = act {
                bench.now = later(bench.now, *span);
                same = false;
            }
            if let Some(command) = story.command(&bench, act) {
                let last = bench.table.last_token();
                let before = shadow.clone();
                let living = bench.table.list_sessions(bench.now, None, ALL);
                let living: Vec<_> = living.into_iter().map(|session| session.id).collect();
                let step = bench.table.execute(bench.now, &command);
                shadow.apply(&bench.table, &step.changes);
                story.hear(&step.outcome);
                Deed { command: &command, step: &step, before: &before, after: &shadow, living: &living }
                    .check()?;
                model.follow(&command, &step, &shadow, &bench, last)?;
                if let Ok(Reply::Count(count)) = step.outcome {
                    shadow.check_swept(&bench, &command, count)?;
                }
                same = step.changes.is_empty();
            }
            // What was asked before is not asked again.
            if !same {
                shadow.check(&bench)?;
                model.check(&shadow, &bench, &story)?;
            }
        }
        Ok(())
    });
}

#[test]
fn the_same_commands_at_the_same_times_give_the_same_steps() {
    every_history(CASES, |acts| {
        let mut bench = Bench::new();
        let mut story = Story::new();
        let mut script: Vec<(Now, Command, Step)> = Vec::new();
        for act in acts {
            if let Act::Wait(span) = act {
                bench.now = later(bench.now, *span);
            }
            if let Some(command) = story.command(&bench, act) {
                let step = bench.table.execute(bench.now, &command);
                story.hear(&step.outcome);
                script.push((bench.now, command, step));
            }
        }
        let Bench { mut table, .. } = Bench::new();
        for (now, command, step) in script {
            let again = table.execute(now, &command);
            ensure!(again == step, "{command:?} did {step:?}, then {again:?}");
        }
        Ok(())
    });
}

#[test]
fn nobody_can_tell_when_the_dead_were_swept() {
    every_history(CASES / 2, |acts| {
        let [mut lazy, mut eager] = [Bench::new(), Bench::new()];
        let mut story = Story::new();
        for act in acts {
            if let Act::Wait(span) = act {
                lazy.now = later(lazy.now, *span);
                eager.now = lazy.now;
            }
            eager.table.execute(eager.now, &Command::Sweep { limit: ALL }).outcome.ok();
            let command = story.command(&lazy, act);
            if let Some(command) = command.filter(|command| !matches!(command, Command::Sweep { .. })) {
                let [late, early] =
                    [&mut lazy, &mut eager].map(|bench| bench.table.execute(bench.now, &command));
                story.hear(&late.outcome);
                let [late, early] = [late, early].map(|step| without_dead(step.outcome));
                ensure!(late == early, "{command:?} answered {late:?}, and after a sweep {early:?}");
            }
            let [late, early] = [&lazy, &eager].map(|bench| answers(bench, &story));
            ensure!(late == early, "one sees {late:?}, and after a sweep {early:?}");
        }
        Ok(())
    });
}

/// All that anybody can see, as text.
fn answers(bench: &Bench, story: &Story) -> Vec<String> {
    let Bench { table, now } = bench;
    let mut answers = Vec::new();
    for ino in story.seen() {
        let view = table
            .view(*now, *ino)
            .map(|view| (shown(view.attributes), view.path, view.session.map(remembered), view.deadline));
        let entries = table.list(*now, *ino, None, ALL);
        let names = entries
            .map(|entries| entries.into_iter().map(|entry| (entry.cookie, entry.name)).collect::<Vec<_>>());
        answers.push(format!("{view:?} {names:?}"));
    }
    let sessions = table.list_sessions(*now, None, ALL).into_iter().map(remembered);
    answers.push(format!("{:?}", sessions.collect::<Vec<_>>()));
    answers
}

/// A directory counts its entries, and notes the time, when the dead among them are swept.
fn shown(attributes: Attributes) -> Attributes {
    match attributes.kind {
        Kind::Directory => {
            Attributes { nlink: 0, mtime: Default::default(), ctime: Default::default(), ..attributes }
        }
        Kind::File | Kind::Symlink => attributes,
    }
}

/// A session's losses are noted when they are swept.
fn remembered(session: Session) -> Session {
    Session { lost: Vec::new(), ..session }
}

fn without_dead(outcome: Outcome) -> Outcome {
    outcome.map(|reply| match reply {
        Reply::Entry(attributes) => Reply::Entry(shown(attributes)),
        Reply::Opened(attributes) => Reply::Opened(shown(attributes)),
        Reply::Session(session) => Reply::Session(Box::new(remembered(*session))),
        Reply::Count(_) | Reply::Waits | Reply::Done => reply,
    })
}

#[test]
fn the_end_of_every_history_is_an_empty_table() {
    every_history(CASES, |acts| {
        let mut bench = Bench::new();
        let mut story = Story::new();
        for act in acts {
            if let Act::Wait(span) = act {
                bench.now = later(bench.now, *span);
            }
            if let Some(command) = story.command(&bench, act) {
                story.hear(&bench.table.execute(bench.now, &command).outcome);
            }
        }
        let sweep = Command::Sweep { limit: ALL };
        let ends = SESSIONS.iter().map(|text| Command::EndSession { caller: None, id: session_id(text) });
        for command in [sweep.clone()].into_iter().chain(ends).chain([sweep]) {
            bench.table.execute(bench.now, &command).outcome.ok();
        }
        for ino in story.seen() {
            for _ in acts {
                bench
                    .table
                    .execute(bench.now, &Command::Close { mount: MountId::from_u64(1), ino: *ino })
                    .outcome
                    .ok();
            }
        }
        let Shadow { records, sessions } = Shadow::of(&bench.table);
        let directory = |record: &&lockfs::lock::Record| {
            record.body.kind() == Kind::Directory && record.session.is_none()
        };
        ensure!(records.values().all(|record| directory(&record)), "something was left: {records:?}");
        ensure!(sessions.is_empty(), "sessions were left: {sessions:?}");
        ensure!(bench.table.counts().locks as usize == records.len() - 1, "{:?}", bench.table.counts());
        let live = story.seen().iter().filter(|ino| bench.table.stat(bench.now, **ino).is_some());
        ensure!(live.count() <= records.len(), "something unlinked was left");
        Ok(())
    });
}

#[test]
fn a_new_table_is_its_root() {
    let Bench { table, now } = Bench::new();
    assert_eq!(Shadow::of(&table).records.len(), 1);
    assert_eq!(table.next_check(), None);
    assert_eq!(now, dawn());
    assert_eq!(LockTable::new(0, OWNER, OWNER, now).last_token().epoch(), lockfs::lock::Token::EPOCH_MIN);
}
