//! When a lock ends that nobody let go of: flock(2) and `F_OFD_SETLK` with the last descriptor of their open file
//! description, `F_SETLK` with any descriptor that its process closes; all of them with `kill -9`.
//!
//! The end of a description reaches the file system behind the back of who closed it, so what must come true
//! may take a moment.

use libc::EAGAIN;

use crate::common::eventually;
use crate::ground::on_every_ground;
use crate::puppet::Mode::{Exclusive, None as Unlocked, Shared};
use crate::puppet::{Fd, Puppet, STYLES, Style};

#[track_caller]
fn gets_it(puppet: &Puppet, fd: Fd, style: Style) {
    eventually("the lock of another ends", || puppet.try_lock(fd, style, Exclusive).is_ok());
    puppet.try_lock(fd, style, Unlocked).unwrap();
}

/// Those whose lock belongs to the open file description.
const OF_DESCRIPTIONS: [Style; 2] = [Style::Flock, Style::Ofd];

on_every_ground! {
    fn a_lock_ends_with_the_last_descriptor_of_its_description(place) {
        for style in OF_DESCRIPTIONS {
            let [a, b] = place.roots().map(|root| Puppet::new(&root));
            let (f, g) = (a.open("f"), b.open("f"));
            let copy = a.dup(f);
            a.try_lock(f, style, Exclusive).unwrap();
            a.close(f);
            assert_eq!(b.try_lock(g, style, Shared), Err(EAGAIN), "{style:?}");
            a.close(copy);
            gets_it(&b, g, style);
        }
    }

    fn a_lock_of_a_description_is_let_go_of_by_any_of_its_descriptors(place) {
        for style in OF_DESCRIPTIONS {
            let [a, b] = place.roots().map(|root| Puppet::new(&root));
            let (f, g) = (a.open("f"), b.open("f"));
            let copy = a.dup(f);
            a.try_lock(f, style, Exclusive).unwrap();
            a.try_lock(copy, style, Unlocked).unwrap();
            b.try_lock(g, style, Exclusive).unwrap();
        }
    }

    fn a_lock_of_a_process_ends_with_any_descriptor_that_it_closes(place) {
        let [a, b] = place.roots().map(|root| Puppet::new(&root));
        let (f, g) = (a.open("f"), b.open("f"));
        let other = a.open("f");
        a.try_lock(f, Style::Posix, Exclusive).unwrap();
        assert_eq!(b.try_lock(g, Style::Posix, Shared), Err(EAGAIN));
        a.close(other);
        // This close is done when it returns: it flushes.
        b.try_lock(g, Style::Posix, Exclusive).unwrap();
    }

    fn a_forked_child_keeps_the_lock_of_a_description(place) {
        for style in OF_DESCRIPTIONS {
            let [a, b] = place.roots().map(|root| Puppet::new(&root));
            let (f, g) = (a.open("f"), b.open("f"));
            a.try_lock(f, style, Exclusive).unwrap();
            let child = a.fork();
            a.close(f);
            assert_eq!(b.try_lock(g, style, Shared), Err(EAGAIN), "{style:?}");
            a.kill();
            assert_eq!(b.try_lock(g, style, Shared), Err(EAGAIN), "{style:?}");
            child.kill();
            gets_it(&b, g, style);
        }
    }

    fn a_forked_child_can_let_go_for_its_parent(place) {
        for style in OF_DESCRIPTIONS {
            let [a, b] = place.roots().map(|root| Puppet::new(&root));
            let (f, g) = (a.open("f"), b.open("f"));
            a.try_lock(f, style, Exclusive).unwrap();
            a.fork().try_lock(f, style, Unlocked).unwrap();
            b.try_lock(g, style, Exclusive).unwrap();
        }
    }

    fn a_forked_child_has_no_part_in_the_lock_of_its_parent_process(place) {
        let [a, b] = place.roots().map(|root| Puppet::new(&root));
        let (f, g) = (a.open("f"), b.open("f"));
        a.try_lock(f, Style::Posix, Exclusive).unwrap();
        let child = a.fork();
        assert_eq!(child.try_lock(f, Style::Posix, Shared), Err(EAGAIN));
        child.close(f);
        assert_eq!(b.try_lock(g, Style::Posix, Shared), Err(EAGAIN), "the child's close is not its parent's");
        child.kill();
        assert_eq!(b.try_lock(g, Style::Posix, Shared), Err(EAGAIN), "nor is its end");
        let sibling = a.fork();
        a.kill();
        gets_it(&b, g, Style::Posix);
        drop(sibling);
    }

    fn a_lock_ends_with_its_killed_process(place) {
        for style in STYLES {
            let [a, b] = place.roots().map(|root| Puppet::new(&root));
            let (f, g) = (a.open("f"), b.open("f"));
            a.try_lock(f, style, Exclusive).unwrap();
            assert_eq!(b.try_lock(g, style, Shared), Err(EAGAIN), "{style:?}");
            a.kill();
            gets_it(&b, g, style);
        }
    }

    fn a_killed_waiter_is_no_ghost(place) {
        for style in STYLES {
            let [a, b] = place.roots().map(|root| Puppet::new(&root));
            let waiter = Puppet::new(&place.there());
            let (f, g, h) = (a.open("f"), b.open("f"), waiter.open("f"));
            a.try_lock(f, style, Exclusive).unwrap();
            waiter.begin_lock(h, style, Exclusive);
            waiter.wait_until_it_waits();
            b.begin_lock(g, style, Exclusive);
            b.wait_until_it_waits();
            waiter.kill();
            a.try_lock(f, style, Unlocked).unwrap();
            b.end().unwrap();
            b.kill();
            gets_it(&a, f, style);
        }
    }

    fn a_waiter_gets_what_a_killed_process_held(place) {
        for style in STYLES {
            let [a, b] = place.roots().map(|root| Puppet::new(&root));
            let (f, g) = (a.open("f"), b.open("f"));
            a.try_lock(f, style, Exclusive).unwrap();
            b.begin_lock(g, style, Exclusive);
            b.wait_until_it_waits();
            a.kill();
            b.end().unwrap();
        }
    }
}
