//! What the batch log promises, and what happens to it in a hostile world.
//!
//! The traps of rusty-leveldb 4.0.2 that these tests stand for are named where they stand; each was seen to fail with
//! its guard taken out. Segments and buffers are small in tests, so that a few hundred batches pass through all of it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::store::level::feeder::Feeder;
use crate::store::level::home::SYNCS;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// The changes of batch `n` of the standard history: it puts a key or two, deletes one, and counts itself.
fn changes_of(n: u64) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let key = |i: u64| format!("locks/{:03}", i % 150).into_bytes();
    let value = |i: u64| format!("{i:08}").repeat(1 + (i % 40) as usize).into_bytes();
    let mut changes = vec![(key(n * 7919), Some(value(n))), (key(n * 31 + 7), None)];
    if n.is_multiple_of(3) {
        changes.push((key(n * 17 + 3), Some(value(n + 1))));
    }
    changes.push((b"count".to_vec(), Some(n.to_string().into_bytes())));
    changes
}

fn commit(log: &mut BatchLog, n: u64) -> Result<(), LevelError> {
    let changes = changes_of(n);
    let batch: Vec<Change<'_>> = changes.iter().map(|(k, v)| (&k[..], v.as_deref())).collect();
    log.commit(&batch)
}

fn advance(model: &mut Model, batches: std::ops::RangeInclusive<u64>) {
    for (key, value) in batches.flat_map(changes_of) {
        match value {
            Some(value) => model.insert(key, value),
            None => model.remove(&key),
        };
    }
}

/// The entries after the first `n` batches.
fn model_at(n: u64) -> Model {
    let mut model = Model::new();
    advance(&mut model, 1..=n);
    model
}

fn as_model(entries: Vec<Record>) -> Model {
    assert!(entries.is_sorted_by(|a, b| a.0 < b.0));
    entries.into_iter().collect()
}

fn count_of(model: &Model) -> u64 {
    model.get(&b"count"[..]).map_or(0, |text| std::str::from_utf8(text).unwrap().parse().unwrap())
}

fn temp() -> tempfile::TempDir {
    // Memory where there is some: thousands of fsyncs cost nothing there, and mean as much to kill -9.
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { tempfile::tempdir_in(shm).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn open(dir: &Path) -> Opened {
    BatchLog::open(dir, Durability::Process).unwrap()
}

/// A store after `batches` batches, dropped without a close, as by `kill -9`.
fn unclean_store(dir: &Path, durability: Durability, batches: u64) {
    let mut log = BatchLog::open(dir, durability).unwrap().log;
    for n in 1..=batches {
        commit(&mut log, n).unwrap();
    }
}

/// As if the machine had been started again since.
fn reboot(dir: &Path) {
    let path = dir.join("tail");
    let state = Tail::read(&path).unwrap();
    Tail::create(&path, &TailState { boot: BootId([7; 16]), ..state }).unwrap();
}

fn newest_segment(dir: &Path) -> PathBuf {
    segment_path(dir, Tail::read(&dir.join("tail")).unwrap().segment)
}

fn cut(path: &Path, bytes: u64) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() - bytes).unwrap();
}

fn eventually(what: &str, done: impl Fn() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("not within 10 s: {what}");
}

#[test]
fn what_was_committed_is_there_after_every_kind_of_end() {
    let dir = temp();
    let opened = open(dir.path());
    assert!(opened.clean && opened.entries.is_empty());
    let mut log = opened.log;
    let mut n = 0;
    for round in 0..12_u64 {
        for _ in 0..round * 40 {
            n += 1;
            commit(&mut log, n).unwrap();
        }
        let is_clean = round % 2 == 0;
        if is_clean {
            log.close().unwrap()
        } else {
            drop(log)
        }
        let opened = open(dir.path());
        assert_eq!((opened.clean, opened.lost), (is_clean, 0));
        assert_eq!(as_model(opened.entries), model_at(n));
        log = opened.log;
    }
}

#[test]
fn the_last_change_of_a_key_in_a_batch_wins() {
    let dir = temp();
    let mut log = open(dir.path()).log;
    log.commit(&[(b"a", Some(b"1")), (b"a", None), (b"b", None), (b"b", Some(b"2")), (b"", Some(b""))])
        .unwrap();
    log.close().unwrap();
    assert_eq!(open(dir.path()).entries, [(b"".to_vec(), b"".to_vec()), (b"b".to_vec(), b"2".to_vec())]);
}

#[test]
fn under_power_journal_and_tail_are_synced_before_the_reply_and_under_process_neither() {
    for (durability, syncs) in [(Durability::Power, 2), (Durability::Process, 0)] {
        let dir = temp();
        let mut log = BatchLog::open(dir.path(), durability).unwrap().log;
        let before = SYNCS.get();
        commit(&mut log, 1).unwrap();
        assert_eq!(SYNCS.get() - before, syncs, "{durability:?}");
    }
}

#[test]
fn a_second_process_is_told_who_has_the_store() {
    let dir = temp();
    let _log = open(dir.path()).log;
    for error in [
        BatchLog::open(dir.path(), Durability::Process).unwrap_err(),
        check(dir.path()).unwrap_err(),
        set_aside(dir.path()).unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(text.contains(&format!("in use by pid {} (", std::process::id())), "{text}");
    }
}

#[test]
fn a_directory_with_other_things_in_it_is_foreign_and_stays_as_it_was() {
    let dir = temp();
    fs::write(dir.path().join("thesis.txt"), "years of work").unwrap();
    let error = BatchLog::open(dir.path(), Durability::Process).unwrap_err();
    assert!(matches!(error, LevelError::Foreign { .. }), "{error}");
    assert!(matches!(set_aside(dir.path()), Err(LevelError::Foreign { .. })));
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["thesis.txt"]);
}

#[test]
fn a_store_of_a_later_version_is_refused_as_newer() {
    let dir = temp();
    drop(open(dir.path()));
    let text = fs::read_to_string(dir.path().join("FORMAT")).unwrap();
    fs::write(dir.path().join("FORMAT"), text.replace("store 2", "store 3")).unwrap();
    let error = BatchLog::open(dir.path(), Durability::Process).unwrap_err();
    assert!(matches!(error, LevelError::Newer { .. }), "{error}");
}

/// What stands between the two versions of the store is said in one line, from the first opening on.
#[test]
fn a_store_of_the_first_version_is_opened_and_refused_by_that_version_from_then_on() {
    let dir = temp();
    unclean_store(dir.path(), Durability::Process, 100);
    let format = || fs::read_to_string(dir.path().join("FORMAT")).unwrap();
    let now = format();
    assert!(now.starts_with("lockfs level store 2\n"), "{now}");
    fs::write(dir.path().join("FORMAT"), now.replace("store 2", "store 1")).unwrap();
    check(dir.path()).unwrap();
    assert_ne!(format(), now, "who only looks changes nothing");
    // As a crash in the middle of it leaves it.
    fs::write(dir.path().join("FORMAT.new"), "lockfs le").unwrap();
    let opened = open(dir.path());
    assert_eq!((as_model(opened.entries), format()), (model_at(100), now));
}

#[test]
fn a_missing_file_is_damage_and_never_an_empty_store() {
    for is_clean in [false, true] {
        let origin = temp();
        unclean_store(origin.path(), Durability::Process, 700);
        if is_clean {
            open(origin.path()).log.close().unwrap();
        }
        let files = files_below(origin.path());
        assert!(files.iter().any(|file| file.extension().is_some_and(|ext| ext == "ldb")), "{files:?}");
        for file in files {
            let dir = temp();
            copy_store(origin.path(), dir.path());
            fs::remove_file(dir.path().join(&file)).unwrap();
            match BatchLog::open(dir.path(), Durability::Process) {
                Ok(opened) => assert_eq!(as_model(opened.entries), model_at(700), "without {file:?}"),
                Err(error) => {
                    assert!(matches!(error, LevelError::Damaged { .. }), "without {file:?}: {error}")
                }
            }
        }
    }
}

#[test]
fn without_current_no_store_is_begun_over_the_old_one() {
    let dir = temp();
    unclean_store(dir.path(), Durability::Process, 300);
    fs::remove_file(dir.path().join("tables/CURRENT")).unwrap();
    let before = files_below(dir.path());
    let text = BatchLog::open(dir.path(), Durability::Process).unwrap_err().to_string();
    assert!(text.contains("tables/CURRENT is missing") && text.contains("lockfs check --repair"), "{text}");
    assert_eq!(files_below(dir.path()), before);
}

#[test]
fn journal_and_tail_of_version_1_can_be_read_for_ever() {
    let dir = temp();
    let mut record = Vec::new();
    assert!(encode_record(
        &mut record,
        0x0123_4567_89ab_cdef,
        7,
        &[(b"key", Some(b"value")), (b"gone", None)]
    ));
    assert_eq!(hex(&record), GOLDEN_RECORD);
    let header = encode_header(0x0123_4567_89ab_cdef, Header { number: 3, first: 7, before: 2 });
    assert_eq!(hex(&header), GOLDEN_HEADER);
    let path = dir.path().join("tail");
    let state = TailState {
        last: 7,
        segment: 3,
        store: 0x0123_4567_89ab_cdef,
        durability: Durability::Power,
        clean: true,
        boot: BootId([9; 16]),
    };
    Tail::create(&path, &state).unwrap();
    assert_eq!(hex(&fs::read(&path).unwrap()[..64]), GOLDEN_TAIL);
}

const GOLDEN_RECORD: &str = "4c4b52011f0000000700000000000000a3ab33d04ee52ad501030000006b65790a000000011fda33bb76616c75650204000000676f6e65";
const GOLDEN_HEADER: &str = "4c4b4a4f55524e4c0100000000000000efcdab8967452301030000000000000007000000000000000200000000000000c4babea3";
const GOLDEN_TAIL: &str = "4c4b540101010000020000000000000007000000000000000300000000000000efcdab89674523010909090909090909090909090909090900000000dd7b9bf6";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_store_that_was_never_finished_is_begun_again() {
    let dir = temp();
    drop(open(dir.path()));
    fs::rename(dir.path().join("FORMAT"), dir.path().join("FORMAT.new")).unwrap();
    assert!(open(dir.path()).entries.is_empty());
}

#[test]
fn a_store_without_its_format_is_damaged_though_it_says_it_was_never_finished() {
    let dir = temp();
    unclean_store(dir.path(), Durability::Process, 3);
    fs::rename(dir.path().join("FORMAT"), dir.path().join("FORMAT.new")).unwrap();
    assert!(matches!(BatchLog::open(dir.path(), Durability::Process), Err(LevelError::Damaged { .. })));
}

#[test]
fn a_journal_cut_short_is_refused_unless_the_power_may_have_done_it() {
    for (durability, is_rebooted, is_accepted) in [
        (Durability::Process, false, false),
        (Durability::Process, true, true),
        (Durability::Power, false, false),
        (Durability::Power, true, false),
    ] {
        // In the middle of the last record, and exactly between the last two.
        for bytes in [20, last_record_len(50)] {
            let dir = temp();
            unclean_store(dir.path(), durability, 50);
            if is_rebooted {
                reboot(dir.path());
            }
            cut(&newest_segment(dir.path()), bytes);
            match BatchLog::open(dir.path(), durability) {
                Ok(opened) => {
                    assert!(is_accepted, "{durability:?} rebooted: {is_rebooted} cut: {bytes}");
                    assert_eq!((opened.clean, opened.lost), (false, 1));
                    assert_eq!(as_model(opened.entries), model_at(49));
                }
                Err(error) => {
                    assert!(!is_accepted, "{durability:?} rebooted: {is_rebooted} cut: {bytes}: {error}");
                    assert!(error.to_string().contains("cut short"), "{error}");
                }
            }
        }
    }
}

fn last_record_len(n: u64) -> u64 {
    let changes = changes_of(n);
    let batch: Vec<Change<'_>> = changes.iter().map(|(k, v)| (&k[..], v.as_deref())).collect();
    let mut record = Vec::new();
    assert!(encode_record(&mut record, 0, n, &batch));
    record.len() as u64
}

#[test]
fn a_cleanly_closed_journal_cut_short_is_refused_even_after_a_reboot() {
    let dir = temp();
    let mut log = open(dir.path()).log;
    (1..=20).for_each(|n| commit(&mut log, n).unwrap());
    log.close().unwrap();
    reboot(dir.path());
    cut(&newest_segment(dir.path()), last_record_len(20));
    let text = BatchLog::open(dir.path(), Durability::Process).unwrap_err().to_string();
    assert!(text.contains("cut short: it ends at batch 19, not at 20"), "{text}");
}

#[test]
fn after_a_torn_tail_new_batches_are_not_lost_behind_it() {
    // Appended behind a torn record (reuse_logs), they would be gone at the next opening.
    let dir = temp();
    unclean_store(dir.path(), Durability::Process, 30);
    reboot(dir.path());
    cut(&newest_segment(dir.path()), 5);
    for n in 30..60 {
        let mut opened = open(dir.path());
        assert_eq!(as_model(opened.entries), model_at(n - 1));
        commit(&mut opened.log, n).unwrap();
    }
}

#[test]
fn a_page_the_power_cut_kept_from_the_disk_ends_the_log_but_a_flipped_bit_is_damage() {
    let dir = temp();
    let mut log = open(dir.path()).log;
    // One segment of some pages.
    for n in 1..=45 {
        commit(&mut log, n).unwrap();
    }
    drop(log);
    reboot(dir.path());
    let segment = newest_segment(dir.path());
    let bytes = fs::read(&segment).unwrap();
    assert!(bytes.len() > 2 * 4096 + 100, "{}", bytes.len());
    let mut unwritten = bytes.clone();
    unwritten[4096..8192].fill(0);
    fs::write(&segment, &unwritten).unwrap();
    let opened = BatchLog::open(dir.path(), Durability::Process).unwrap();
    let kept = 45 - opened.lost;
    assert!(!opened.clean && (1..45).contains(&kept));
    assert_eq!(as_model(opened.entries), model_at(kept));
    drop(opened.log);

    let dir = temp();
    unclean_store(dir.path(), Durability::Process, 40);
    reboot(dir.path());
    let segment = newest_segment(dir.path());
    let mut flipped = fs::read(&segment).unwrap();
    flipped[5000] ^= 4;
    fs::write(&segment, &flipped).unwrap();
    let error = BatchLog::open(dir.path(), Durability::Process).unwrap_err();
    assert!(matches!(error, LevelError::Damaged { .. }), "{error}");
}

#[test]
fn a_lock_taken_and_released_within_a_segment_never_reaches_leveldb() {
    let dir = temp();
    let mut log = open(dir.path()).log;
    for n in 0..2000 {
        let key = format!("short-lived/{n}").into_bytes();
        log.commit(&[(&key, Some(b"held"))]).unwrap();
        log.commit(&[(&key, None)]).unwrap();
    }
    drop(log);
    let contents = crate::store::level::tables::read_all(&dir.path().join("tables")).unwrap();
    assert!(contents.meta.applied > 1000, "{:?}", contents.meta);
    assert_eq!(contents.records.len() as u64, contents.meta.applied % 2);
    let bytes: u64 =
        fs::read_dir(dir.path().join("tables")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 8_000, "{bytes} bytes in tables/");
}

#[test]
fn segments_are_deleted_once_leveldb_has_them() {
    let dir = temp();
    let mut log = open(dir.path()).log;
    (1..=2000).for_each(|n| commit(&mut log, n).unwrap());
    let newest = log.segment.number;
    eventually("only the newest segment and its spares are left", || {
        log.home.segments().unwrap().iter().all(|number| *number >= newest)
    });
    log.close().unwrap();
    assert_eq!(as_model(open(dir.path()).entries), model_at(2000));
}

#[test]
fn after_a_torn_manifest_new_tables_are_not_lost_behind_it() {
    // Appended behind a torn record (reuse_manifest), what LevelDB says of its tables would be gone at the next open.
    let dir = temp();
    let mut n = 0;
    for _ in 0..4 {
        let opened = open(dir.path());
        assert_eq!(as_model(opened.entries), model_at(n));
        let mut log = opened.log;
        for _ in 0..400 {
            n += 1;
            commit(&mut log, n).unwrap();
        }
        drop(log);
        let name = fs::read_to_string(dir.path().join("tables/CURRENT")).unwrap();
        let path = dir.path().join("tables").join(name.trim_end());
        fs::OpenOptions::new()
            .append(true)
            .open(path)
            .unwrap()
            .write_all(&[0x5a, 0x5a, 0x5a, 0x5a, 90, 0, 1])
            .unwrap();
    }
    assert_eq!(as_model(open(dir.path()).entries), model_at(n));
}

#[test]
fn a_table_whose_footer_points_nowhere_is_damage_and_not_a_matter_of_memory() {
    let dir = temp();
    unclean_store(dir.path(), Durability::Process, 900);
    for table in
        files_below(dir.path()).into_iter().filter(|file| file.extension().is_some_and(|ext| ext == "ldb"))
    {
        let path = dir.path().join(table);
        let mut bytes = fs::read(&path).unwrap();
        // Both blocks: at 0, and 2^50 bytes long.
        let handle = [0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02];
        let footer = bytes.len() - 48;
        bytes[footer..footer + 9].copy_from_slice(&handle);
        bytes[footer + 9..footer + 18].copy_from_slice(&handle);
        fs::write(&path, bytes).unwrap();
    }
    let text = BatchLog::open(dir.path(), Durability::Process).unwrap_err().to_string();
    assert!(text.contains("has no sound footer"), "{text}");
}

#[test]
fn a_child_that_was_just_forked_does_not_keep_the_store_locked() {
    let dir = temp();
    let log = open(dir.path()).log;
    // As in a child between fork and exec: the lock's descriptor, once more.
    let path = dir.path().join("lock").canonicalize().unwrap();
    let is_lock = |fd: &PathBuf| fs::read_link(fd).is_ok_and(|target| target == path);
    let fd = fs::read_dir("/proc/self/fd").unwrap().map(|fd| fd.unwrap().path()).find(is_lock).unwrap();
    let fd: i32 = fd.file_name().unwrap().to_str().unwrap().parse().unwrap();
    // SAFETY: the log keeps the descriptor open during the call.
    let copy = unsafe { libc::dup(fd) };
    assert!(copy >= 0);
    drop(log);
    drop(open(dir.path()));
    // SAFETY: it is ours, and nobody else's.
    unsafe { libc::close(copy) };
}

#[test]
fn a_check_changes_nothing_and_counts_right() {
    let dir = temp();
    assert!(matches!(check(&dir.path().join("nowhere")), Err(LevelError::Absent { .. })));
    assert!(matches!(check(dir.path()), Err(LevelError::Absent { .. })));
    unclean_store(dir.path(), Durability::Power, 600);
    let before = contents_below(dir.path());
    let (report, _) = check(dir.path()).unwrap();
    assert_eq!(
        report,
        Report {
            records: model_at(600).len() as u64,
            batches: 600,
            clean: false,
            lost: 0,
            durability: Durability::Power
        }
    );
    assert_eq!(contents_below(dir.path()), before);
}

#[test]
fn a_refused_store_is_left_byte_for_byte_as_it_was() {
    let dir = temp();
    unclean_store(dir.path(), Durability::Process, 600);
    // One flip may hit what newer tables hide; not all of them.
    for table in
        files_below(dir.path()).into_iter().filter(|file| file.extension().is_some_and(|ext| ext == "ldb"))
    {
        let path = dir.path().join(table);
        let mut bytes = fs::read(&path).unwrap();
        bytes[100] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let before = contents_below(dir.path());
    assert!(matches!(BatchLog::open(dir.path(), Durability::Process), Err(LevelError::Damaged { .. })));
    let mut after = contents_below(dir.path());
    after.insert("lock".into(), before[Path::new("lock")].clone());
    assert_eq!(after, before);
}

#[test]
fn a_damaged_store_set_aside_is_whole_and_a_new_one_begins() {
    let dir = temp();
    for round in 1..=3 {
        unclean_store(dir.path(), Durability::Process, 100);
        fs::remove_file(dir.path().join("tables/CURRENT")).unwrap();
        assert!(matches!(check(dir.path()), Err(LevelError::Damaged { .. })));
        let aside = set_aside(dir.path()).unwrap();
        assert_eq!(aside, dir.path().join(format!("damaged-{round}")));
        assert!(
            aside.join("tail").is_file() && aside.join("FORMAT").is_file() && aside.join("tables").is_dir()
        );
    }
    assert!(open(dir.path()).entries.is_empty());
}

#[test]
fn a_failed_feeder_fails_the_log_until_it_is_opened_again() {
    let dir = temp();
    let mut log = open(dir.path()).log;
    // LevelDB finds its directory gone: an error inside a put.
    let (tables, elsewhere) = (dir.path().join("tables"), dir.path().join("damaged-0"));
    fs::rename(&tables, &elsewhere).unwrap();
    let mut n = 0;
    let error = loop {
        match commit(&mut log, n + 1) {
            Ok(()) => n += 1,
            Err(error) => break error,
        }
        assert!(n < 200_000);
    };
    assert!(matches!(error, LevelError::Failed(_)), "{error}");
    assert!(matches!(commit(&mut log, n + 1), Err(LevelError::Failed(_))));
    assert!(matches!(log.close(), Err(LevelError::Failed(_))));
    let _ = fs::remove_dir_all(&tables);
    fs::rename(&elsewhere, &tables).unwrap();
    assert_eq!(as_model(open(dir.path()).entries), model_at(n));
}

#[test]
fn a_batch_log_may_move_to_another_thread() {
    fn assert_send<T: Send>() {}
    assert_send::<BatchLog>();
    assert_send::<Feeder>();
    assert_send::<LevelError>();
}

/// A tmpfs of eight megabytes, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "lockfs-test"])
            .arg(dir.path())
            .output();
        let is_mounted = mounted.is_ok_and(|output| output.status.success());
        assert!(
            is_mounted || !std::env::var("LOCKFS_REQUIRE").is_ok_and(|r| r.split(',').any(|r| r == "fuse")),
            "a test that needs to mount cannot"
        );
        is_mounted.then_some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_refuses_puts_but_loses_nothing_and_goes_on_when_there_is_space() {
    let Some(disk) = SmallDisk::mount() else { return };
    let store = disk.path().join("store");
    let mut log = open(&store).log;
    let ballast = disk.path().join("ballast");
    let mut n = 0;
    for round in 0..3 {
        fs::write(&ballast, vec![1; 6_300_000]).unwrap();
        let refused = loop {
            match log.commit(&[(format!("{n}").as_bytes(), Some(&[n as u8; 500]))]) {
                Ok(()) => n += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, LevelError::NoSpace { .. }), "{refused}");
        // A full disk is no reason to keep locks.
        log.commit(&[(b"0", None)]).unwrap();
        fs::remove_file(&ballast).unwrap();
        log.commit(&[(b"0", Some(&[0; 500]))]).unwrap();
        if round == 1 {
            drop(log);
            log = open(&store).log;
        }
    }
    drop(log);
    let opened = open(&store);
    assert_eq!(opened.entries.len(), n);
    for i in 0..n {
        assert!(opened.entries.contains(&(i.to_string().into_bytes(), vec![i as u8; 500])), "{i} of {n}");
    }
}

#[test]
fn a_journal_write_that_finds_no_space_is_taken_back_and_fails_nothing() {
    let Some(disk) = SmallDisk::mount() else { return };
    let store = disk.path().join("store");
    let mut log = open(&store).log;
    log.commit(&[(b"first", Some(&[1; 100]))]).unwrap();
    // All of it, behind the back of the floor, which was asked just now.
    let ballast = disk.path().join("ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    while file.write(&[1; 4096]).is_ok_and(|n| n > 0) {}
    drop(file);
    for _ in 0..3 {
        let refused = log.commit(&[(b"second", Some(&[2; 9000]))]).unwrap_err();
        assert!(matches!(refused, LevelError::NoSpace { .. }), "{refused}");
    }
    fs::remove_file(&ballast).unwrap();
    log.commit(&[(b"third", Some(&[3; 100]))]).unwrap();
    drop(log);
    assert_eq!(open(&store).entries, [(b"first".to_vec(), vec![1; 100]), (b"third".to_vec(), vec![3; 100])]);
}

#[test]
fn a_disk_that_others_fill_to_the_last_byte_loses_nothing() {
    // Behind the floor's back: the journal's own write, or LevelDB's, is the first to notice.
    let Some(disk) = SmallDisk::mount() else { return };
    let store = disk.path().join("store");
    let mut n = 0;
    for round in 0..10_usize {
        let mut opened = open(&store);
        assert_eq!(as_model(opened.entries), model_at(n), "round {round}");
        let ballast = disk.path().join("ballast");
        for i in 0.. {
            if i == round * 8 {
                let mut file = fs::File::create(&ballast).unwrap();
                while file.write(&[1; 4096]).is_ok_and(|n| n > 0) {}
            }
            match commit(&mut opened.log, n + 1) {
                Ok(()) => n += 1,
                Err(LevelError::NoSpace { .. } | LevelError::Failed(_)) => break,
                Err(error) => panic!("{error}"),
            }
        }
        drop(opened.log);
        fs::remove_file(&ballast).unwrap();
    }
    assert_eq!(as_model(open(&store).entries), model_at(n));
}

const CHILD: &str = "LOCKFS_LEVEL_TEST_CHILD";

/// Not a test of its own: what `kill_dash_nine_loses_nothing_acknowledged` starts and kills.
#[test]
fn child_that_commits_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let opened = open(Path::new(&dir));
    let (mut log, mut n) = (opened.log, count_of(&as_model(opened.entries)));
    loop {
        n += 1;
        commit(&mut log, n).unwrap();
        // One write(2), so that a line is whole or absent.
        std::io::stdout().write_all(format!("ack {n}\n").as_bytes()).unwrap();
    }
}

#[test]
fn kill_dash_nine_loses_nothing_acknowledged() {
    let rounds = 100;
    let dir = temp();
    let me = module_path!().split_once("::").unwrap().1;
    let mut random = Random(std::process::id().into());
    let (mut model, mut at) = (Model::new(), 0);
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", &format!("{me}::child_that_commits_until_it_is_killed")])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = at;
        let mut ack = |line: Option<std::io::Result<String>>| {
            let line = line?.ok()?;
            if let Some((_, n)) = line.split_once("ack ") {
                acknowledged = n.parse().unwrap();
            }
            Some(())
        };
        // Some die while they open the store; the others between any two of their writes.
        if round % 4 == 0 {
            std::thread::sleep(Duration::from_micros(random.below(20_000)));
        } else {
            for _ in 0..random.below(400) {
                ack(lines.next());
            }
            std::thread::sleep(Duration::from_micros(random.below(300)));
        }
        child.kill().unwrap();
        while ack(lines.next()).is_some() {}
        child.wait().unwrap();

        let opened = open(dir.path());
        let entries = as_model(opened.entries);
        let n = count_of(&entries);
        assert!(
            n == acknowledged || n == acknowledged + 1,
            "round {round}: acknowledged {acknowledged}, found {n}"
        );
        advance(&mut model, at + 1..=n);
        assert_eq!(entries, model, "round {round}, batch {n}");
        at = n;
        if round % 5 == 0 {
            opened.log.close().unwrap();
        }
    }
    assert!(at > 1000, "only {at} batches in {rounds} rounds");
}

/// xorshift64*, seeded by hand so that a failure can be run again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.max(1);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit.max(1)
    }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        contents_below(dir).into_keys().filter(|path| path != Path::new("lock")).collect();
    files.sort();
    files
}

fn contents_below(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for sub in ["", "tables"] {
        for entry in fs::read_dir(dir.join(sub)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                found.insert(path.strip_prefix(dir).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn copy_store(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("tables")).unwrap();
    for (path, bytes) in contents_below(from) {
        fs::write(to.join(path), bytes).unwrap();
    }
}

/// Does one random harm to one random file, and says which.
fn harm(dir: &Path, random: &mut Random) -> String {
    let files = files_below(dir);
    let file = &files[random.below(files.len() as u64) as usize];
    let path = dir.join(file);
    let mut bytes = fs::read(&path).unwrap();
    let len = bytes.len() as u64;
    let at = random.below(len) as usize;
    let what = match random.below(10) {
        0..=3 if len > 0 => {
            bytes[at] ^= 1 << random.below(8);
            format!("flip in byte {at}")
        }
        4 | 5 => {
            bytes.truncate(at);
            format!("cut from {len} to {at}")
        }
        6 if len > 0 => {
            let end = (at + 1 + random.below(5000) as usize).min(bytes.len());
            bytes[at..end].fill(0);
            format!("zeros from {at} to {end}")
        }
        7 => {
            let extra = 1 + random.below(100);
            bytes.extend((0..extra).map(|_| random.next() as u8));
            format!("{extra} bytes of garbage behind {len}")
        }
        8 => {
            let other = &files[random.below(files.len() as u64) as usize];
            bytes = fs::read(dir.join(other)).unwrap();
            format!("overwritten with {}", other.display())
        }
        _ => {
            fs::remove_file(&path).unwrap();
            return format!("{} removed", file.display());
        }
    };
    fs::write(&path, bytes).unwrap();
    format!("{}: {what}", file.display())
}

/// Harms copies of `origin` and opens each: exactly the acknowledged entries, or a refusal. Returns how many were refused.
fn harm_and_open(origin: &Path, times: u64, seed: u64, is_right: impl Fn(&Opened, &str) -> bool) -> u64 {
    let mut random = Random(seed);
    let mut refused = 0;
    for time in 0..times {
        let dir = temp();
        copy_store(origin, dir.path());
        let done = harm(dir.path(), &mut random);
        match BatchLog::open(dir.path(), Durability::Process) {
            Ok(opened) => assert!(
                is_right(&opened, &done),
                "seed {seed}, time {time}: {done}: opened with other entries"
            ),
            Err(LevelError::Damaged { .. } | LevelError::Newer { .. }) => refused += 1,
            Err(error) => panic!("seed {seed}, time {time}: {done}: {error}"),
        }
    }
    refused
}

#[test]
fn a_harmed_store_gives_exactly_what_was_acknowledged_or_is_refused() {
    for (kind, seed) in [("killed", 11), ("closed", 22), ("power", 33)] {
        let origin = temp();
        let durability = if kind == "power" { Durability::Power } else { Durability::Process };
        let mut log = BatchLog::open(origin.path(), durability).unwrap().log;
        (1..=900).for_each(|n| commit(&mut log, n).unwrap());
        if kind == "closed" {
            log.close().unwrap()
        } else {
            drop(log)
        }
        if kind != "killed" {
            reboot(origin.path());
        }
        let right = model_at(900);
        let refused = harm_and_open(origin.path(), 200, seed, |opened, _| {
            opened.entries.iter().cloned().collect::<Model>() == right
        });
        assert!(refused > 80, "{kind}: only {refused} of 200 were refused");
    }
}

#[test]
fn a_harmed_store_after_a_power_cut_gives_a_past_of_it_and_says_so_or_is_refused() {
    let origin = temp();
    unclean_store(origin.path(), Durability::Process, 900);
    reboot(origin.path());
    let refused = harm_and_open(origin.path(), 200, 44, |opened, done| {
        let entries: Model = opened.entries.iter().cloned().collect();
        let n = count_of(&entries);
        // Only what looks like a page or an end of a file that was never written may cost batches, and it is counted.
        let may_lose = ["cut", "zeros", "garbage", "overwritten"].iter().any(|harm| done.contains(harm));
        !opened.clean && entries == model_at(n) && opened.lost == 900 - n && (n == 900 || may_lose)
    });
    assert!(refused > 50, "only {refused} of 200 were refused");
}
