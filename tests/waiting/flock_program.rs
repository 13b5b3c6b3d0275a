//! flock(1), in all its forms.

use libc::{EAGAIN, SYS_flock};

use crate::common::eventually;
use crate::common::programs::succeeds;
use crate::ground::{on_every_ground, on_grounds};
use crate::puppet::Mode::{Exclusive, None as Unlocked, Shared};
use crate::puppet::{Puppet, Style};
use crate::script::{Script, prints, run, status};

/// A user that is not root. It needs no entry in `/etc/passwd`.
const ALICE: u32 = 1001;

on_every_ground! {
    fn what_is_free_is_locked_while_the_command_runs_whose_status_it_has(place) {
        assert_eq!(prints(&place.here(), "flock f echo in"), "in\n");
        assert_eq!(prints(&place.here(), "flock f -c 'echo in; echo there'"), "in\nthere\n");
        assert_eq!(prints(&place.here(), "flock --no-fork f echo in"), "in\n");
        assert_eq!(status(&place.there(), "flock f sh -c 'exit 7'"), 7);
        let mut script = Script::start(&place.here(), "flock f sh -c 'echo in; read -r _'");
        script.says("in");
        let other = Puppet::new(&place.there());
        let f = other.open("f");
        assert_eq!(other.try_lock(f, Style::Flock, Shared), Err(EAGAIN));
        script.go();
        succeeds(&script.end());
        eventually("it is free", || other.try_lock(f, Style::Flock, Exclusive).is_ok());
    }

    fn a_try_is_refused_with_1_or_with_what_was_asked_for(place) {
        let owner = Puppet::new(&place.here());
        let f = owner.open("f");
        owner.try_lock(f, Style::Flock, Exclusive).unwrap();
        for (script, expected) in [
            ("flock -n f true", 1),
            ("flock --nonblock -E 9 f true", 9),
            ("flock -n -s f true", 1),
            ("flock -w 0 f true", 1),
            ("( flock -n 9 || exit 5 ) 9> f", 5),
            ("exec 9> f; flock -n -E 4 9", 4),
        ] {
            let output = run(&place.there(), script);
            assert_eq!(output.status.code(), Some(expected), "{script}: {output:?}");
            assert!(output.stderr.is_empty(), "{script}: {output:?}");
        }
    }

    fn shared_locks_share(place) {
        let owner = Puppet::new(&place.here());
        let f = owner.open("f");
        owner.try_lock(f, Style::Flock, Shared).unwrap();
        assert_eq!(status(&place.there(), "flock -n -s f true"), 0);
        assert_eq!(status(&place.there(), "flock -n --shared f flock -n -s f true"), 0);
        assert_eq!(status(&place.there(), "flock -n -x f true"), 1);
        assert_eq!(status(&place.there(), "flock -n f true"), 1);
    }

    fn a_limit_ends_the_wait_with_1(place) {
        let owner = Puppet::new(&place.here());
        let f = owner.open("f");
        owner.try_lock(f, Style::Flock, Exclusive).unwrap();
        for (script, expected) in [
            ("flock -w 1 f true", 1),
            ("flock --timeout 0.2 -E 9 f true", 9),
            ("( flock -w 0.2 9 || exit 5 ) 9> f", 5),
            ("timeout 0.2 flock f true", 124),
        ] {
            let output = run(&place.there(), script);
            assert_eq!(output.status.code(), Some(expected), "{script}: {output:?}");
            assert!(output.stderr.is_empty(), "{script}: {output:?}");
        }
        owner.try_lock(f, Style::Flock, Unlocked).unwrap();
        assert_eq!(status(&place.there(), "flock -n f true"), 0, "nobody waits any more");
    }

    fn who_waits_gets_it(place) {
        let owner = Puppet::new(&place.here());
        let f = owner.open("f");
        for script in [
            "flock f echo in",
            "flock -w 30 f echo in",
            "flock -s f echo in",
            "( flock 9; echo in ) 9> f",
            "exec 9>> f; flock -x 9; echo in; flock -u 9",
            "exec 9< f; flock -s 9 && echo in",
        ] {
            owner.try_lock(f, Style::Flock, Exclusive).unwrap();
            let mut waiter = Script::start(&place.there(), script);
            waiter.wait_until_it_waits_in(SYS_flock);
            owner.try_lock(f, Style::Flock, Unlocked).unwrap();
            waiter.says("in");
            succeeds(&waiter.end());
            eventually("it is free", || owner.try_lock(f, Style::Flock, Exclusive).is_ok());
            owner.try_lock(f, Style::Flock, Unlocked).unwrap();
        }
    }

    fn a_descriptor_of_the_shell_keeps_the_lock_that_flock_took_and_left(place) {
        // The program closes its copy of the descriptor when it ends, and that is no end of the lock.
        let mut script = Script::start(
            &place.here(),
            "exec 9> f; flock 9; echo locked; read -r _; flock -u 9; echo unlocked; read -r _; flock 9; echo again",
        );
        script.says("locked");
        let other = Puppet::new(&place.there());
        let f = other.open("f");
        assert_eq!(other.try_lock(f, Style::Flock, Exclusive), Err(EAGAIN));
        script.go();
        script.says("unlocked");
        other.try_lock(f, Style::Flock, Exclusive).unwrap();
        script.go();
        script.wait_until_it_waits_in(SYS_flock);
        other.try_lock(f, Style::Flock, Unlocked).unwrap();
        script.says("again");
        succeeds(&script.end());
    }

    fn a_background_child_keeps_it_but_with_close(place) {
        let (here, other) = (place.here(), Puppet::new(&place.there()));
        let f = other.open("f");
        let mut script = Script::start(&here, "flock f sh -c 'sleep 600 & echo in'; read -r _; kill $(jobs -p)");
        script.says("in");
        assert_eq!(other.try_lock(f, Style::Flock, Exclusive), Err(EAGAIN), "the child has the descriptor");
        drop(script);
        eventually("it ends with the child", || other.try_lock(f, Style::Flock, Exclusive).is_ok());
        other.try_lock(f, Style::Flock, Unlocked).unwrap();
        let mut script = Script::start(&here, "flock -o f sh -c 'sleep 600 & echo in'; read -r _");
        script.says("in");
        eventually("the child has no descriptor", || other.try_lock(f, Style::Flock, Exclusive).is_ok());
    }

    fn another_user_locks_what_it_may_only_read(place) {
        let owner = Puppet::new(&place.here());
        let f = owner.open("f");
        owner.chmod("f", 0o644).unwrap();
        owner.try_lock(f, Style::Flock, Exclusive).unwrap();
        assert_eq!(Script::start_as(ALICE, &place.there(), "flock -n f true").end().status.code(), Some(1));
        owner.try_lock(f, Style::Flock, Unlocked).unwrap();
        succeeds(&Script::start_as(ALICE, &place.there(), "flock -n f true").end());
    }
}

on_grounds! {
    [Plain Mount]

    fn one_after_the_other_finds_it_free(place) {
        // The end of a description is told to the file system without anybody waiting for it; whoever tries next
        // must not be refused for that.
        let script = "for ((i = 0; i < 60; i++)); do flock -n f true || { echo \"refused in round $i\"; exit 1; }; done";
        succeeds(&run(&place.here(), script));
    }

    fn a_directory_is_locked_on_its_own_host(place) {
        // The kernel keeps locks of directories to itself: fuse_dir_operations has no flock.
        let script = "mkdir d; exec 9< d; flock -n 9 && ! flock -n d true && flock -u 9 && flock -n d true";
        succeeds(&run(&place.here(), script));
    }
}
