//! What can't be shown from outside: jobs of an earlier boot, and a clock that is told the time.

use super::*;
use crate::clock::{BootId, BootTime, ManualClock, Now, WallTime};
use crate::lock::{Ino, Job, MountId, Name, Origin};
use crate::store::MemoryStore;
use crate::table::{Begin, Claimant, Existing, New, Opening, Spot};

use std::time::Duration;

const TTL: Duration = Duration::from_secs(30);

/// A service over an empty store, and the clock of both.
fn service() -> (LockService, Arc<ManualClock>) {
    let now = Now { wall: WallTime::new(2_000_000_000, 0), boot: BootTime::from_nanos(1) };
    let clock = Arc::new(ManualClock::new(now));
    let store = MemoryStore::empty(Arc::clone(&clock) as Arc<dyn crate::clock::Clock>, 0, 0);
    let processes = Processes::new("here".parse().expect("a host id")).expect("/proc is mounted");
    (LockService::new(Arc::new(store), processes, Ttl::For(TTL), Tenure::Begun(MountId::from_u64(7))), clock)
}

fn session(name: &str) -> SessionId {
    SessionId::parse(name.as_bytes()).expect("a session name")
}

fn spot(name: &str) -> Spot {
    Spot { parent: Ino::ROOT, name: Name::parse(name.as_bytes()).expect("a name") }
}

/// This process's job, as the service would describe it, but of another boot.
fn job_of(boot: &str) -> SessionKind {
    // SAFETY: getpgrp(2) takes nothing and can't fail.
    let pgid = u32::try_from(unsafe { libc::getpgrp() }).expect("a process group");
    SessionKind::Job(Job { pgid, start: 1, boot: BootId::new(boot) })
}

/// Acquires a lock of the session's name, for a session of that kind, as an earlier daemon has.
fn acquire(service: &LockService, name: &str, kind: SessionKind) {
    let claimant = Claimant {
        id: session(name),
        kind,
        origin: Origin { user: "u".into(), host: "here".into(), pid: 1, command: "c".into() },
        login: None,
        ttl: Ttl::For(TTL),
        begin: Begin::WhereMissing,
    };
    let caller =
        Caller { uid: 0, gid: 0, session: Arc::new(claimant), also: Vec::new(), mount: MountId::from_u64(1) };
    let new = New::File(Opening::Closed);
    let command = Command::Acquire { caller, spot: spot(name), new, mode: 0o644, existing: Existing::Refuse };
    service.store().execute(&command).expect("the store works").expect("the name is free");
}

fn is_held(service: &LockService, name: &str) -> bool {
    service.store().lookup(&spot(name)).expect("the store works").is_some()
}

/// The job of this test, alive and of this boot, as the service itself sees it.
fn living_job(service: &LockService) -> SessionKind {
    let who = Requester { uid: 0, gid: 0, pid: std::process::id(), request: 0, resent: false };
    service.caller(who).expect("no session in the environment").session.kind.clone()
}

#[test]
fn a_job_of_an_earlier_boot_is_released_at_once_and_no_other() {
    let (service, _) = service();
    acquire(&service, "earlier", job_of("an earlier boot"));
    acquire(&service, "named", SessionKind::Named);
    acquire(&service, "unseen", SessionKind::Unseen);
    acquire(&service, "alive", living_job(&service));
    service.take_up().expect("the store works");
    assert_eq!(
        ["earlier", "named", "unseen", "alive"].map(|name| is_held(&service, name)),
        [false, true, true, true]
    );
}

#[test]
fn a_job_of_this_boot_that_has_ended_is_marked_and_keeps_its_locks_for_a_ttl() {
    let (service, clock) = service();
    let SessionKind::Job(job) = living_job(&service) else { panic!("a test is a job") };
    // The number is this job's, the start is not: that job has ended, and its number was given again.
    acquire(&service, "ended", SessionKind::Job(Job { start: job.start + 1, ..job }));
    service.take_up().expect("the store works");
    assert!(service.store().session(&session("ended")).expect("the store works").expect("it is there").ended);
    assert!(is_held(&service, "ended"));
    clock.advance(TTL);
    assert!(!is_held(&service, "ended"));
}

#[test]
fn what_was_taken_up_is_renewed_from_then_on() {
    let (service, clock) = service();
    acquire(&service, "alive", living_job(&service));
    clock.advance(TTL - Duration::from_secs(1));
    service.take_up().expect("the store works");
    for _ in 0..100 {
        clock.advance(Duration::from_secs(1));
        service.tend().expect("the store works");
    }
    assert!(is_held(&service, "alive"));
}

#[test]
fn a_named_session_that_was_taken_up_is_renewed_once_and_no_more() {
    let (service, clock) = service();
    acquire(&service, "named", SessionKind::Named);
    clock.advance(TTL - Duration::from_secs(1));
    service.take_up().expect("the store works");
    clock.advance(TTL - Duration::from_secs(1));
    service.tend().expect("the store works");
    assert!(is_held(&service, "named"));
    clock.advance(Duration::from_secs(2));
    service.tend().expect("the store works");
    assert!(!is_held(&service, "named"));
}

#[test]
fn what_is_past_its_deadline_is_not_taken_up() {
    let (service, clock) = service();
    acquire(&service, "alive", living_job(&service));
    clock.advance(TTL);
    service.take_up().expect("the store works");
    assert!(!is_held(&service, "alive"));
}
