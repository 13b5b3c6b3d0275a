//! First come, first served, over all hosts: with one queue, who came first is known, and so is who gets it next.

use libc::EAGAIN;

use crate::common::eventually;
use crate::ground::{Place, on_every_mount};
use crate::holders::wait_for_waiters;
use crate::puppet::Mode::{self, Exclusive, None as Unlocked, Shared};
use crate::puppet::{Fd, Puppet, STYLES, Style};

/// One who waits, and whom the store knows to wait.
fn queue(place: &Place, side: usize, style: Style, mode: Mode, number: usize) -> (Puppet, Fd) {
    let puppet = Puppet::new(&place.roots()[side % 2]);
    let fd = puppet.open("f");
    puppet.begin_lock(fd, style, mode);
    puppet.wait_until_it_waits();
    wait_for_waiters(place.trees()[0], "f", number);
    (puppet, fd)
}

fn owner(place: &Place, style: Style, mode: Mode) -> (Puppet, Fd) {
    let puppet = Puppet::new(&place.here());
    let fd = puppet.open("f");
    eventually("the test before is over", || puppet.try_lock(fd, style, mode).is_ok());
    (puppet, fd)
}

on_every_mount! {
    fn who_came_first_gets_it_first(place) {
        for style in STYLES {
            let (owner, f) = owner(&place, style, Exclusive);
            let waiters: Vec<_> =
                (0..6).map(|number| queue(&place, number, style, Exclusive, number + 1)).collect();
            owner.try_lock(f, style, Unlocked).unwrap();
            for (index, (waiter, fd)) in waiters.iter().enumerate() {
                waiter.end().unwrap();
                assert!(waiters[index + 1..].iter().all(|(other, _)| other.is_waiting()), "{style:?} {index}");
                waiter.try_lock(*fd, style, Unlocked).unwrap();
            }
        }
    }

    fn a_waiting_writer_stops_new_readers(place) {
        for style in STYLES {
            let (owner, f) = owner(&place, style, Shared);
            let (writer, g) = queue(&place, 1, style, Exclusive, 1);
            let late = Puppet::new(&place.here());
            let h = late.open("f");
            assert_eq!(late.try_lock(h, style, Shared), Err(EAGAIN), "{style:?}");
            let (reader, i) = queue(&place, 0, style, Shared, 2);
            owner.try_lock(f, style, Unlocked).unwrap();
            writer.end().unwrap();
            assert!(reader.is_waiting());
            writer.try_lock(g, style, Unlocked).unwrap();
            reader.end().unwrap();
            reader.try_lock(i, style, Unlocked).unwrap();
        }
    }

    fn readers_at_the_head_get_it_together(place) {
        for style in STYLES {
            let (owner, f) = owner(&place, style, Exclusive);
            let readers: Vec<_> = (0..3).map(|number| queue(&place, number, style, Shared, number + 1)).collect();
            let (writer, _) = queue(&place, 1, style, Exclusive, 4);
            let (last, _) = queue(&place, 0, style, Shared, 5);
            owner.try_lock(f, style, Unlocked).unwrap();
            for (reader, _) in &readers {
                reader.end().unwrap();
            }
            assert!(writer.is_waiting() && last.is_waiting());
            drop(readers);
            writer.end().unwrap();
            assert!(last.is_waiting());
            drop(writer);
            last.end().unwrap();
        }
    }

    fn a_try_overtakes_nobody(place) {
        for style in STYLES {
            for _ in 0..8 {
                let (owner, f) = owner(&place, style, Exclusive);
                let (waiter, _) = queue(&place, 1, style, Exclusive, 1);
                let others = place.roots().map(|root| Puppet::new(&root));
                let fds = [others[0].open("f"), others[1].open("f")];
                owner.try_lock(f, style, Unlocked).unwrap();
                for (other, fd) in others.iter().zip(fds) {
                    assert_eq!(other.try_lock(fd, style, Exclusive), Err(EAGAIN), "{style:?}");
                }
                assert_eq!(owner.try_lock(f, style, Shared), Err(EAGAIN), "{style:?}");
                waiter.end().unwrap();
            }
        }
    }

    fn who_is_gone_is_passed_over(place) {
        for style in STYLES {
            let (owner, f) = owner(&place, style, Exclusive);
            let waiters: Vec<_> =
                (0..4).map(|number| queue(&place, number, style, Exclusive, number + 1)).collect();
            waiters[0].0.kill();
            waiters[2].0.kill();
            wait_for_waiters(place.trees()[0], "f", 2);
            owner.try_lock(f, style, Unlocked).unwrap();
            waiters[1].0.end().unwrap();
            assert!(waiters[3].0.is_waiting());
            waiters[1].0.kill();
            waiters[3].0.end().unwrap();
        }
    }

    fn parts_of_a_file_that_nobody_waits_for_are_given_at_once(place) {
        let style = Style::Posix;
        let (owner, f) = owner(&place, style, Exclusive);
        owner.try_range(f, style, Unlocked, (100, 0)).unwrap();
        let waiter = Puppet::new(&place.there());
        let g = waiter.open("f");
        waiter.begin_range(g, style, Exclusive, (50, 10));
        waiter.wait_until_it_waits();
        let other = Puppet::new(&place.there());
        let h = other.open("f");
        other.try_range(h, style, Exclusive, (100, 10)).unwrap();
        other.begin_range(h, style, Exclusive, (90, 10));
        other.wait_until_it_waits();
        owner.try_range(f, style, Unlocked, (90, 10)).unwrap();
        other.end().unwrap();
        assert!(waiter.is_waiting());
        owner.try_range(f, style, Unlocked, (0, 90)).unwrap();
        waiter.end().unwrap();
    }
}
