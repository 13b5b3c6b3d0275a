//! The law as properties of random histories: what holds after every step, whoever did what when.

use std::time::Duration;

use lockfs::clock::Now;
use lockfs::lock::{Attributes, Kind, Session};
use lockfs::table::{Command, LockTable, Outcome, Reply, Step};

use crate::crowd::Crowd;
use crate::model::Model;
use crate::rights::Deed;
use crate::search::every_history;
use crate::shadow::{ALL, Shadow, ensure};
use crate::world::{Act, Bench, MOUNTS, OWNER, Patience, SESSIONS, Story, dawn, later, mount_id, session_id};

/// How many histories each property is tried on by default.
const CASES: u64 = 1_000;

#[test]
fn every_step_keeps_the_law() {
    every_history(CASES, |acts| {
        let mut bench = Bench::new();
        let mut story = Story::new();
        let mut shadow = Shadow::of(&bench.table);
        let mut model = Model::default();
        let mut crowd = Crowd::default();
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
                let scene = crowd.scene(&bench, &command);
                let step = bench.table.execute(bench.now, &command);
                crowd.follow(&command, &step, &scene, &bench)?;
                shadow.apply(&bench.table, &step.changes);
                story.hear(&step.outcome);
                story.hear_wakes(&step.wakes);
                Deed { command: &command, step: &step, before: &before, after: &shadow, living: &living }
                    .check()?;
                model.follow(&command, &step, &shadow, &crowd, &bench, last)?;
                if let Ok(Reply::Count(count)) = step.outcome {
                    shadow.check_swept(&bench, &command, count)?;
                }
                same = step.changes.is_empty();
            }
            // What was asked before is not asked again.
            if !same {
                shadow.check(&bench)?;
                model.check(&shadow, &crowd, &bench, &story)?;
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
                story.hear_wakes(&step.wakes);
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
            // Whoever waits is told when what is in the way is found dead. That can be told apart.
            let command = story.command(&lazy, &impatient(act));
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

/// The same, and not waiting; what can do nothing else is left out.
fn impatient(act: &Act) -> Act {
    match act {
        Act::Lock { who, what, ask, .. } => {
            Act::Lock { who: *who, what: what.clone(), ask: *ask, patience: Patience::None }
        }
        Act::Await { .. } => Act::Wait(Duration::ZERO),
        _ => act.clone(),
    }
}

/// All that anybody can see, as text.
fn answers(bench: &Bench, story: &Story) -> Vec<String> {
    let Bench { table, now } = bench;
    let mut answers = Vec::new();
    for ino in story.seen() {
        let view = table.view(*now, *ino).map(|view| {
            let session = view.session.map(remembered);
            (shown(view.attributes), view.path, session, view.deadline, view.grants)
        });
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
                let step = bench.table.execute(bench.now, &command);
                story.hear(&step.outcome);
                story.hear_wakes(&step.wakes);
            }
        }
        let sweep = Command::Sweep { limit: ALL };
        let ends = SESSIONS.iter().map(|text| Command::EndSession { caller: None, id: session_id(text) });
        for command in [sweep.clone()].into_iter().chain(ends).chain([sweep]) {
            bench.table.execute(bench.now, &command).outcome.ok();
        }
        let mounts = (0..MOUNTS).map(mount_id).collect();
        bench.table.execute(bench.now, &Command::Leave { mounts }).outcome.ok();
        let Shadow { records, sessions, .. } = Shadow::of(&bench.table);
        let of_nobody = |record: &lockfs::lock::Record| {
            record.session.is_none() && (record.body.kind() == Kind::Directory || record.is_advisory())
        };
        ensure!(records.values().all(of_nobody), "something was left: {records:?}");
        ensure!(bench.table.mounts().is_empty(), "{:?}", bench.table.mounts());
        ensure!(bench.table.counts().waits == 0, "{:?}", bench.table.counts());
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
