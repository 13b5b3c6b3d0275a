//! Notes: what is written into a lock, and what others than its holder read where nothing is.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

use super::common::job::{Job, in_job};
use super::common::{Tree, errno, sys};
use super::{OK, number};

const NOTE_MAX: usize = 64 * 1024;

#[test]
fn a_note_is_kept_byte_for_byte() {
    let tree = Tree::new();
    let note: Vec<u8> = (0..NOTE_MAX).map(|at| (at * 7 % 256) as u8).collect();
    fs::write(tree.path("f"), &note).unwrap();
    assert_eq!(fs::metadata(tree.path("f")).unwrap().size(), note.len() as u64);
    in_job(0, || assert_eq!(fs::read(tree.path("f")).unwrap(), note));
}

#[test]
fn the_size_is_zero_at_first_and_then_the_notes() {
    let tree = Tree::new();
    let mut file = File::create_new(tree.path("f")).unwrap();
    assert_eq!(file.metadata().unwrap().size(), 0);
    file.write_all(b"12345").unwrap();
    assert_eq!(file.metadata().unwrap().size(), 5);
    assert_eq!(fs::metadata(tree.path("f")).unwrap().blocks(), 1);
}

#[test]
fn the_holder_reads_what_it_wrote_nothing() {
    let tree = Tree::new();
    in_job(1000, || {
        let mut file = File::options().read(true).write(true).create_new(true).open(tree.path("f")).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "");
        assert_eq!(fs::read(tree.path("f")).unwrap(), b"");
    });
}

#[test]
fn others_read_a_description_of_an_empty_lock_whose_size_is_zero() {
    let tree = Tree::new();
    let holder = tree.holder_as(1000, "mkdir d; umask 022; > d/f");
    let check = || {
        let text = fs::read_to_string(tree.path("d/f")).unwrap();
        let lines: Vec<(&str, &str)> = text.lines().map(|line| line.split_once(": ").unwrap()).collect();
        let keys: Vec<&str> = lines.iter().map(|(key, _)| *key).collect();
        let expected =
            ["lock", "state", "holder", "session", "token", "since", "expires", "ttl", "scope", "waiting"];
        assert_eq!(keys, expected);
        let value = |key| lines.iter().find(|(name, _)| *name == key).unwrap().1.to_owned();
        assert_eq!(value("lock"), "d/f");
        assert_eq!(value("state"), "held");
        assert!(value("holder").ends_with(&format!(" bash[{}]", holder.pid())), "{text}");
        assert_eq!(value("ttl"), "5m");
        assert_eq!(value("scope"), "host");
        assert_eq!(value("waiting"), "0");
        assert_eq!(value("token"), sys::getxattr(tree.path("d/f"), "user.lock.token").unwrap());
        assert_eq!(value("session"), sys::getxattr(tree.path("d/f"), "user.lock.session").unwrap());
        assert_eq!(fs::metadata(tree.path("d/f")).unwrap().size(), 0);
    };
    check();
    in_job(1001, check);
}

#[test]
fn a_description_is_read_in_pieces_of_one_moment() {
    let tree = Tree::new();
    let _holder = tree.holder("> f");
    let file = File::open(tree.path("f")).unwrap();
    let mut whole = Vec::new();
    let mut byte = [0];
    while file.read_at(&mut byte, whole.len() as u64).unwrap() == 1 {
        whole.extend(byte);
    }
    let text = fs::read(tree.path("f")).unwrap();
    let keys = |text: &[u8]| String::from_utf8_lossy(text).lines().count();
    assert_eq!((keys(&whole), whole.first()), (keys(&text), text.first()));
}

#[test]
fn a_note_is_what_everyone_reads() {
    let tree = Tree::new();
    let _holder = tree.holder_as(1000, "umask 022; echo 4711 > f");
    in_job(1001, || assert_eq!(fs::read(tree.path("f")).unwrap(), b"4711\n"));
    assert_eq!(tree.run("cat f").stdout, b"4711\n");
}

#[test]
fn appends_go_to_the_end_that_the_note_has_by_then() {
    let tree = Tree::new();
    File::create_new(tree.path("f")).unwrap();
    // By way of its session it is another inode to the kernel, which knows nothing of the other one's size.
    let session = sys::getxattr(tree.path("f"), "user.lock.session").unwrap();
    let paths = [tree.path("f"), tree.path(format!(".sessions/{session}/f"))];
    let [mut one, mut two] = paths.map(|path| File::options().append(true).open(path).unwrap());
    for round in 0..10 {
        writeln!(one, "one {round}").unwrap();
        writeln!(two, "two {round}").unwrap();
    }
    let expected: String = (0..10).map(|round| format!("one {round}\ntwo {round}\n")).collect();
    assert_eq!(fs::read_to_string(tree.path("f")).unwrap(), expected);
}

#[test]
fn a_write_beyond_the_end_leaves_zeros() {
    let tree = Tree::new();
    let mut file = File::create_new(tree.path("f")).unwrap();
    file.write_all(b"ab").unwrap();
    file.write_all_at(b"z", 5).unwrap();
    file.write_all_at(b"B", 1).unwrap();
    assert_eq!(fs::read(tree.path("f")).unwrap(), b"aB\0\0\0z");
}

#[test]
fn truncate_cuts_and_extends() {
    let tree = Tree::new();
    fs::write(tree.path("f"), b"abcdef").unwrap();
    sys::truncate(tree.path("f"), 3).unwrap();
    assert_eq!(fs::read(tree.path("f")).unwrap(), b"abc");
    File::options().write(true).open(tree.path("f")).unwrap().set_len(5).unwrap();
    assert_eq!(fs::read(tree.path("f")).unwrap(), b"abc\0\0");
    File::create(tree.path("f")).unwrap();
    assert_eq!(fs::metadata(tree.path("f")).unwrap().size(), 0);
}

#[test]
fn a_note_of_64_kib_is_kept_and_a_longer_one_is_refused() {
    let tree = Tree::new();
    let note = vec![b'n'; NOTE_MAX];
    fs::write(tree.path("f"), &note).unwrap();
    let mut file = File::options().append(true).open(tree.path("f")).unwrap();
    assert_eq!(errno(file.write_all(b"x")), libc::EFBIG);
    let file = File::options().write(true).open(tree.path("f")).unwrap();
    assert_eq!(errno(file.write_all_at(b"x", u64::try_from(i64::MAX).unwrap() - 1)), libc::EFBIG);
    assert_eq!(errno(sys::truncate(tree.path("f"), NOTE_MAX as i64 + 1)), libc::EFBIG);
    assert_eq!(errno(fs::write(tree.path("g"), vec![0; NOTE_MAX + 1])), libc::EFBIG);
    assert_eq!(fs::read(tree.path("f")).unwrap(), note);
}

#[test]
fn fsync_and_seek_and_dup_work_as_on_any_file() {
    let tree = Tree::new();
    let mut file = File::options().read(true).write(true).create_new(true).open(tree.path("f")).unwrap();
    let mut copy = file.try_clone().unwrap();
    file.write_all(b"hello").unwrap();
    sys::sync(&file).unwrap();
    sys::sync(&File::open(tree.root()).unwrap()).unwrap();
    copy.seek(SeekFrom::Start(1)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "ello");
    assert_eq!(file.seek(SeekFrom::End(-1)).unwrap(), 4);
}

#[test]
fn an_unlinked_open_file_goes_on_being_readable_and_writable() {
    let tree = Tree::new();
    let mut file = File::options().read(true).write(true).create_new(true).open(tree.path("f")).unwrap();
    file.write_all(b"one ").unwrap();
    fs::remove_file(tree.path("f")).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    file.write_all(b"two").unwrap();
    file.set_len(6).unwrap();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one tw");
    assert_eq!(number(File::create_new(tree.path("f"))), OK);
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    assert_ne!(file.metadata().unwrap().ino(), fs::metadata(tree.path("f")).unwrap().ino());
}

#[test]
fn a_file_that_a_rename_covered_lives_on_for_its_descriptors() {
    let tree = Tree::new();
    let mut file = File::options().read(true).write(true).create_new(true).open(tree.path("f")).unwrap();
    File::create_new(tree.path("g")).unwrap();
    fs::rename(tree.path("g"), tree.path("f")).unwrap();
    file.write_all(b"still here").unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    assert_eq!(fs::metadata(tree.path("f")).unwrap().size(), 0);
}

#[test]
fn another_who_has_it_open_reads_on_after_its_release() {
    let tree = Tree::new();
    let mut holder = Job::start(0, |turn| {
        fs::write(tree.path("f"), b"note").unwrap();
        turn.pause();
        fs::remove_file(tree.path("f")).unwrap();
        turn.pause();
    });
    let mut file = File::open(tree.path("f")).unwrap();
    holder.resume();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), file.metadata().unwrap().nlink()), ("note", 0));
}
