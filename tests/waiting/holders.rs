//! Who is shown to hold a lock, how, and how many wait for it: by `ls`, `cat`, `getfattr` and `.lockfs/info`.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::common::{Tree, eventually, sys};
use crate::ground::{Place, on_every_mount};
use crate::puppet::Mode::{Exclusive, None as Unlocked, Shared};
use crate::puppet::{Puppet, STYLES, Style};
use crate::script::prints;

/// Waits until so many wait for a file.
#[track_caller]
pub(crate) fn wait_for_waiters(tree: &Tree, name: &str, count: usize) {
    let count = count.to_string();
    eventually(&format!("{count} wait for {name}"), || {
        sys::getxattr(tree.path(name), "user.lock.waiting").is_ok_and(|waiting| waiting == count)
    });
}

fn attribute(place: &Place, name: &str) -> String {
    sys::getxattr(place.there().join("f"), &format!("user.lock.{name}")).unwrap()
}

/// The name of the first host, as the mount says it.
fn host(place: &Place) -> String {
    place.trees()[0].status("host")
}

on_every_mount! {
    fn the_holder_is_shown_on_every_host(place) {
        for style in STYLES {
            let holder = Puppet::new(&place.here());
            let f = holder.open("f");
            holder.try_lock(f, style, Exclusive).unwrap();
            let (host, pid) = (host(&place), holder.pid().to_string());
            assert_eq!(attribute(&place, "owner"), format!("root@{host}"), "{style:?}");
            assert_eq!(attribute(&place, "host"), host, "{style:?}");
            assert_eq!(attribute(&place, "pid"), pid, "{style:?}");
            assert_eq!(attribute(&place, "waiting"), "0", "{style:?}");
            let getfattr = prints(&place.there(), "getfattr -d f 2> /dev/null");
            assert!(getfattr.contains(&format!("user.lock.owner=\"root@{host}\"")), "{getfattr}");
            let info = fs::read_to_string(place.there().join(".lockfs/info/f")).unwrap();
            let kind = if style == Style::Flock { "flock" } else { "fcntl" };
            for word in [&format!("root@{host}"), &pid, kind, "exclusive"] {
                assert!(info.contains(word), "{style:?}: no {word} in\n{info}");
            }
            holder.unlink("f").unwrap();
        }
    }

    fn all_who_share_it_are_shown(place) {
        let holders = place.roots().map(|root| Puppet::new(&root));
        for holder in &holders {
            let f = holder.open("f");
            holder.try_lock(f, Style::Flock, Shared).unwrap();
        }
        let info = fs::read_to_string(place.here().join(".lockfs/info/f")).unwrap();
        for holder in &holders {
            assert!(info.contains(&holder.pid().to_string()), "not all in\n{info}");
        }
        assert!(info.contains("shared"), "{info}");
    }

    fn the_part_of_a_file_is_shown(place) {
        let holder = Puppet::new(&place.here());
        let f = holder.open("f");
        holder.try_range(f, Style::Posix, Exclusive, (1234, 10)).unwrap();
        let info = fs::read_to_string(place.there().join(".lockfs/info/f")).unwrap();
        assert!(info.contains("1234"), "{info}");
    }

    fn who_waits_is_counted(place) {
        let [a, b] = place.roots().map(|root| Puppet::new(&root));
        let (f, g) = (a.open("f"), b.open("f"));
        a.try_lock(f, Style::Flock, Exclusive).unwrap();
        b.begin_lock(g, Style::Flock, Exclusive);
        b.wait_until_it_waits();
        for tree in place.trees() {
            wait_for_waiters(tree, "f", 1);
        }
        let info = fs::read_to_string(place.here().join(".lockfs/info/f")).unwrap();
        assert!(info.lines().any(|line| line.starts_with("waiting: 1")), "{info}");
        a.try_lock(f, Style::Flock, Unlocked).unwrap();
        b.end().unwrap();
        wait_for_waiters(place.trees()[0], "f", 0);
        assert_eq!(attribute(&place, "pid"), b.pid().to_string());
    }

    fn cat_shows_what_is_written_in_it_and_nothing_else(place) {
        // What it says is between the programs that lock it: one that finds it empty begins it.
        let holder = Puppet::new(&place.here());
        let f = holder.open("f");
        holder.try_lock(f, Style::Flock, Exclusive).unwrap();
        assert_eq!(prints(&place.there(), "cat f"), "");
        fs::write(place.there().join("f"), "7\n").unwrap();
        assert_eq!(prints(&place.here(), "cat f"), "7\n");
    }

    fn ls_shows_whose_the_file_is_and_a_lock_moves_no_time(place) {
        let maker = Puppet::of(1001, &place.here());
        let f = maker.open("f");
        let before = fs::metadata(place.there().join("f")).unwrap();
        assert_eq!(prints(&place.there(), "ls -ln f | cut -d ' ' -f 3"), "1001\n");
        maker.try_lock(f, Style::Flock, Exclusive).unwrap();
        let after = fs::metadata(place.there().join("f")).unwrap();
        let times = |of: &fs::Metadata| (of.mtime(), of.mtime_nsec(), of.ino(), of.uid(), of.mode());
        assert_eq!(times(&before), times(&after));
    }

    fn nobody_is_shown_when_nobody_has_it(place) {
        let holder = Puppet::new(&place.here());
        let f = holder.open("f");
        holder.try_lock(f, Style::Flock, Exclusive).unwrap();
        let held = attribute(&place, "state");
        holder.try_lock(f, Style::Flock, Unlocked).unwrap();
        assert_ne!(attribute(&place, "state"), held, "its state tells whether somebody has it");
        let info = fs::read_to_string(place.there().join(".lockfs/info/f")).unwrap();
        assert!(!info.contains(&holder.pid().to_string()), "{info}");
    }
}
