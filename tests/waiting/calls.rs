//! What the calls mean: that they exclude or share, which kinds see each other, parts of files, conversions, and
//! who is in the way.

use libc::{EAGAIN, EBADF, EDEADLK, O_RDONLY};

use crate::common::sys;
use crate::ground::{Place, on_every_ground, on_every_mount};
use crate::puppet::Mode::{Exclusive, None as Unlocked, Shared};
use crate::puppet::{ALL, Fd, Puppet, STYLES, Style};

/// Two lockers, one on each root, that have the same file open.
fn two(place: &Place) -> [(Puppet, Fd); 2] {
    place.roots().map(|root| {
        let puppet = Puppet::new(&root);
        let fd = puppet.open("f");
        (puppet, fd)
    })
}

on_every_ground! {
    fn an_exclusive_lock_excludes(place) {
        for style in STYLES {
            let [(a, f), (b, g)] = two(&place);
            a.try_lock(f, style, Exclusive).unwrap();
            assert_eq!(b.try_lock(g, style, Exclusive), Err(EAGAIN), "{style:?}");
            assert_eq!(b.try_lock(g, style, Shared), Err(EAGAIN), "{style:?}");
            a.try_lock(f, style, Unlocked).unwrap();
            b.try_lock(g, style, Exclusive).unwrap();
            assert_eq!(a.try_lock(f, style, Shared), Err(EAGAIN), "{style:?}");
        }
    }

    fn shared_locks_share_and_exclude_exclusive_ones(place) {
        for style in STYLES {
            let [(a, f), (b, g)] = two(&place);
            a.try_lock(f, style, Shared).unwrap();
            b.try_lock(g, style, Shared).unwrap();
            let third = Puppet::new(&place.there());
            let h = third.open("f");
            assert_eq!(third.try_lock(h, style, Exclusive), Err(EAGAIN), "{style:?}");
            a.try_lock(f, style, Unlocked).unwrap();
            assert_eq!(third.try_lock(h, style, Exclusive), Err(EAGAIN), "{style:?}");
            b.try_lock(g, style, Unlocked).unwrap();
            third.try_lock(h, style, Exclusive).unwrap();
        }
    }

    fn who_waits_gets_it_when_it_is_let_go_of(place) {
        for style in STYLES {
            let [(a, f), (b, g)] = two(&place);
            a.try_lock(f, style, Exclusive).unwrap();
            b.begin_lock(g, style, Exclusive);
            b.wait_until_it_waits();
            a.try_lock(f, style, Unlocked).unwrap();
            b.end().unwrap();
            assert_eq!(a.try_lock(f, style, Shared), Err(EAGAIN), "{style:?}");
        }
    }

    fn flock_and_fcntl_do_not_see_each_other(place) {
        let [(a, f), (b, g)] = two(&place);
        for fcntl in [Style::Posix, Style::Ofd] {
            a.try_lock(f, Style::Flock, Exclusive).unwrap();
            b.try_lock(g, fcntl, Exclusive).unwrap();
            assert_eq!(a.in_the_way(f, Style::Posix, Shared, ALL).map(|it| it.0), Some(Exclusive));
            a.try_lock(f, Style::Flock, Unlocked).unwrap();
            assert_eq!(a.try_lock(f, fcntl, Exclusive), Err(EAGAIN));
            b.try_lock(g, Style::Flock, Exclusive).unwrap();
            b.try_lock(g, fcntl, Unlocked).unwrap();
            assert_eq!(a.try_lock(f, Style::Flock, Exclusive), Err(EAGAIN));
            b.try_lock(g, Style::Flock, Unlocked).unwrap();
        }
    }

    fn locks_of_processes_and_of_descriptions_see_each_other(place) {
        let [(a, f), (b, g)] = two(&place);
        a.try_lock(f, Style::Posix, Exclusive).unwrap();
        assert_eq!(b.try_lock(g, Style::Ofd, Shared), Err(EAGAIN));
        assert_eq!(a.try_lock(f, Style::Ofd, Shared), Err(EAGAIN), "its own process is another owner");
        a.try_lock(f, Style::Posix, Unlocked).unwrap();
        b.try_lock(g, Style::Ofd, Exclusive).unwrap();
        assert_eq!(a.try_lock(f, Style::Posix, Shared), Err(EAGAIN));
    }

    fn files_are_apart(place) {
        let [(a, f), (b, g)] = two(&place);
        a.try_lock(f, Style::Flock, Exclusive).unwrap();
        let other = b.open("other");
        b.try_lock(other, Style::Flock, Exclusive).unwrap();
        assert_eq!(b.try_lock(g, Style::Flock, Exclusive), Err(EAGAIN));
    }

    fn parts_of_a_file_are_apart_and_can_be_split_and_joined(place) {
        for style in [Style::Posix, Style::Ofd] {
            let [(a, f), (b, g)] = two(&place);
            a.try_range(f, style, Exclusive, (0, 10)).unwrap();
            b.try_range(g, style, Exclusive, (10, 10)).unwrap();
            assert_eq!(b.try_range(g, style, Shared, (9, 1)), Err(EAGAIN));
            assert_eq!(a.try_range(f, style, Shared, (15, 0)), Err(EAGAIN));
            a.try_range(f, style, Unlocked, (3, 4)).unwrap();
            b.try_range(g, style, Exclusive, (3, 4)).unwrap();
            assert_eq!(b.try_range(g, style, Exclusive, (2, 1)), Err(EAGAIN));
            assert_eq!(b.try_range(g, style, Exclusive, (7, 1)), Err(EAGAIN));
            a.try_range(f, style, Shared, (0, 3)).unwrap();
            b.try_range(g, style, Shared, (0, 3)).unwrap();
            a.try_range(f, style, Exclusive, (100, 0)).unwrap();
            assert_eq!(b.try_range(g, style, Shared, (i64::MAX - 1, 1)), Err(EAGAIN), "0 is to the end");
            b.try_range(g, style, Exclusive, (99, 1)).unwrap();
        }
    }

    fn who_waits_for_a_part_gets_it_when_that_part_is_free(place) {
        let [(a, f), (b, g)] = two(&place);
        a.try_range(f, Style::Posix, Exclusive, (0, 100)).unwrap();
        b.begin_range(g, Style::Posix, Exclusive, (40, 10));
        b.wait_until_it_waits();
        a.try_range(f, Style::Posix, Unlocked, (0, 40)).unwrap();
        assert!(b.is_waiting());
        a.try_range(f, Style::Posix, Unlocked, (40, 10)).unwrap();
        b.end().unwrap();
        a.try_range(f, Style::Posix, Shared, (50, 10)).unwrap();
    }

    fn a_downgrade_lets_readers_in(place) {
        for style in STYLES {
            let [(a, f), (b, g)] = two(&place);
            a.try_lock(f, style, Exclusive).unwrap();
            b.begin_lock(g, style, Shared);
            b.wait_until_it_waits();
            a.try_lock(f, style, Shared).unwrap();
            b.end().unwrap();
            assert_eq!(b.try_lock(g, style, Exclusive), Err(EAGAIN), "{style:?}");
        }
    }

    fn an_upgrade_waits_for_the_other_readers(place) {
        for style in STYLES {
            let [(a, f), (b, g)] = two(&place);
            a.try_lock(f, style, Shared).unwrap();
            b.try_lock(g, style, Shared).unwrap();
            a.begin_lock(f, style, Exclusive);
            a.wait_until_it_waits();
            b.try_lock(g, style, Unlocked).unwrap();
            a.end().unwrap();
            assert_eq!(b.try_lock(g, style, Shared), Err(EAGAIN), "{style:?}");
        }
    }

    fn a_refused_upgrade_keeps_the_lock_of_fcntl_and_loses_that_of_flock(place) {
        // flock(2): "the existing lock is first removed, and then a new lock is established".
        for (style, is_kept) in [(Style::Posix, true), (Style::Ofd, true), (Style::Flock, false)] {
            let [(a, f), (b, g)] = two(&place);
            a.try_lock(f, style, Shared).unwrap();
            b.try_lock(g, style, Shared).unwrap();
            assert_eq!(a.try_lock(f, style, Exclusive), Err(EAGAIN), "{style:?}");
            assert_eq!(b.try_lock(g, style, Exclusive).is_err(), is_kept, "{style:?}");
        }
    }

    fn a_lock_of_ones_own_is_taken_again_for_nothing(place) {
        for style in STYLES {
            let [(a, f), (b, g)] = two(&place);
            a.try_lock(f, style, Exclusive).unwrap();
            a.try_lock(f, style, Exclusive).unwrap();
            a.try_lock(f, style, Unlocked).unwrap();
            b.try_lock(g, style, Exclusive).unwrap();
            a.try_lock(f, style, Unlocked).unwrap();
            assert_eq!(a.try_lock(f, style, Exclusive), Err(EAGAIN), "{style:?}");
        }
    }

    fn two_descriptions_of_one_process_exclude_each_other_but_for_locks_of_processes(place) {
        let a = Puppet::new(&place.here());
        let (f, g) = (a.open("f"), a.open("f"));
        for (style, is_refused) in [(Style::Flock, true), (Style::Ofd, true), (Style::Posix, false)] {
            a.try_lock(f, style, Exclusive).unwrap();
            assert_eq!(a.try_lock(g, style, Exclusive).is_err(), is_refused, "{style:?}");
            a.try_lock(f, style, Unlocked).unwrap();
        }
    }

    fn a_lock_of_fcntl_needs_a_file_that_is_open_for_it(place) {
        let a = Puppet::new(&place.here());
        a.open("f");
        let read = Fd::from(a.try_open("f", O_RDONLY).unwrap());
        assert_eq!(a.try_lock(read, Style::Posix, Exclusive), Err(EBADF));
        a.try_lock(read, Style::Posix, Shared).unwrap();
        a.try_lock(read, Style::Flock, Exclusive).unwrap();
    }

    fn a_question_names_what_is_in_the_way(place) {
        let [(a, f), (b, g)] = two(&place);
        assert_eq!(b.in_the_way(g, Style::Posix, Exclusive, ALL), None);
        a.try_range(f, Style::Posix, Shared, (5, 10)).unwrap();
        a.try_range(f, Style::Posix, Exclusive, (30, 0)).unwrap();
        // Of a process on another host there is no number that means anything here.
        let pid = if place.is_of_two_hosts() { 0 } else { i32::try_from(a.pid()).unwrap() };
        assert_eq!(b.in_the_way(g, Style::Posix, Exclusive, (0, 20)), Some((Shared, (5, 10), pid)));
        assert_eq!(b.in_the_way(g, Style::Posix, Shared, (0, 20)), None);
        assert_eq!(b.in_the_way(g, Style::Posix, Shared, ALL), Some((Exclusive, (30, 0), pid)));
        assert_eq!(b.in_the_way(g, Style::Posix, Exclusive, (15, 15)), None);
        assert_eq!(a.in_the_way(f, Style::Posix, Exclusive, ALL), None, "what is its own is not in its way");
    }

    fn a_local_holder_is_named_by_its_process_id(place) {
        let [a, b] = [Puppet::new(&place.there()), Puppet::new(&place.there())];
        let (f, g) = (a.open("f"), b.open("f"));
        a.try_lock(f, Style::Posix, Exclusive).unwrap();
        let pid = i32::try_from(a.pid()).unwrap();
        assert_eq!(b.in_the_way(g, Style::Posix, Exclusive, ALL), Some((Exclusive, ALL, pid)));
    }

    fn a_circle_of_waiting_processes_is_refused(place) {
        let [(a, f), (b, g)] = two(&place);
        let (f2, g2) = (a.open("second"), b.open("second"));
        a.try_lock(f, Style::Posix, Exclusive).unwrap();
        b.try_lock(g2, Style::Posix, Exclusive).unwrap();
        a.begin_lock(f2, Style::Posix, Exclusive);
        a.wait_until_it_waits();
        if let Some(tree) = place.trees().first() {
            crate::holders::wait_for_waiters(tree, "second", 1);
        }
        b.begin_lock(g, Style::Posix, Exclusive);
        assert_eq!(b.end(), Err(EDEADLK));
        b.try_lock(g2, Style::Posix, Unlocked).unwrap();
        a.end().unwrap();
    }

    fn a_lock_follows_its_file_to_another_name(place) {
        let [(a, f), (b, g)] = two(&place);
        a.try_lock(f, Style::Flock, Exclusive).unwrap();
        sys::rename2(place.here().join("f"), place.here().join("moved"), 0).unwrap();
        let moved = b.open("moved");
        assert_eq!(b.try_lock(moved, Style::Flock, Exclusive), Err(EAGAIN));
        assert_eq!(b.try_lock(g, Style::Flock, Exclusive), Err(EAGAIN), "what is open is the same file still");
        let new = b.open("f");
        b.try_lock(new, Style::Flock, Exclusive).unwrap();
    }
}

on_every_mount! {
    fn a_circle_of_waiting_flocks_is_refused(place) {
        let [(a, f), (b, g)] = two(&place);
        let (f2, g2) = (a.open("second"), b.open("second"));
        a.try_lock(f, Style::Flock, Exclusive).unwrap();
        b.try_lock(g2, Style::Flock, Exclusive).unwrap();
        a.begin_lock(f2, Style::Flock, Exclusive);
        a.wait_until_it_waits();
        crate::holders::wait_for_waiters(place.trees()[0], "second", 1);
        b.begin_lock(g, Style::Flock, Exclusive);
        assert_eq!(b.end(), Err(EDEADLK));
        b.close(g2);
        a.end().unwrap();
    }
}
