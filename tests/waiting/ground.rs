//! Where a test runs: on a plain file system, on one mount, or on two mounts that are two hosts.
//!
//! A claim that Linux makes of every local disk is tried on all of them (`on_every_ground!`): what fails on the
//! plain file system is an error of the test's. `LOCKFS_WAITING_ON=plain` puts all tests there, to try the tests
//! themselves without a daemon; those that need `.wait` or `.lockfs` fail then.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::cluster::Hosts;
use crate::common::Tree;

/// A kind of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ground {
    /// A directory on tmpfs.
    Plain,
    /// One mount, on LevelDB.
    Mount,
    /// Two hosts over one Redis.
    Hosts,
}

/// A place that a test has for itself.
pub(crate) struct Place(Kind);

enum Kind {
    Plain { dir: TempDir, scratch: TempDir },
    Mount(Tree),
    Hosts(Box<Hosts>),
}

impl Ground {
    /// Lays it.
    pub(crate) fn lay(self) -> Place {
        self.lay_with(&[])
    }

    /// The same, with more options of `lockfs mount`.
    pub(crate) fn lay_with(self, options: &[&str]) -> Place {
        let is_plain = env::var_os("LOCKFS_WAITING_ON").is_some_and(|ground| ground == "plain");
        Place(match self {
            _ if is_plain => Self::plain(),
            Self::Plain => Self::plain(),
            Self::Mount => Kind::Mount(Tree::with(options)),
            Self::Hosts => Kind::Hosts(Box::new(Hosts::with(2, options, &[]))),
        })
    }

    fn plain() -> Kind {
        let dir = tempfile::Builder::new().prefix("lockfs-plain-").tempdir_in("/dev/shm").expect("a tmpfs");
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
        let scratch = tempfile::Builder::new().prefix("lockfs-test-").tempdir().expect("a directory");
        fs::set_permissions(scratch.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Kind::Plain { dir, scratch }
    }
}

impl Place {
    /// The root of the tree, as the first host sees it.
    pub(crate) fn here(&self) -> PathBuf {
        match &self.0 {
            Kind::Plain { dir, .. } => dir.path().to_owned(),
            Kind::Mount(tree) => tree.root(),
            Kind::Hosts(hosts) => hosts[0].root(),
        }
    }

    /// The same tree, as the other host sees it, where there is another.
    pub(crate) fn there(&self) -> PathBuf {
        if let Kind::Hosts(hosts) = &self.0 { hosts[1].root() } else { self.here() }
    }

    /// Both.
    pub(crate) fn roots(&self) -> [PathBuf; 2] {
        [self.here(), self.there()]
    }

    /// A directory of the test's own, outside.
    pub(crate) fn scratch(&self) -> &Path {
        match &self.0 {
            Kind::Plain { scratch, .. } => scratch.path(),
            Kind::Mount(tree) => tree.scratch(),
            Kind::Hosts(hosts) => hosts[0].scratch(),
        }
    }

    /// Whether the two roots are those of two hosts.
    pub(crate) fn is_of_two_hosts(&self) -> bool {
        matches!(self.0, Kind::Hosts(_))
    }

    /// Whether it is a mount at all, with dot directories and attributes.
    pub(crate) fn is_mounted(&self) -> bool {
        !matches!(self.0, Kind::Plain { .. })
    }

    /// The hosts, to kill one of them or to ask their server; fails where there are none.
    pub(crate) fn hosts(&mut self) -> &mut Hosts {
        if let Kind::Hosts(hosts) = &mut self.0 { hosts } else { panic!("it is not a place of two hosts") }
    }

    /// The mount of the first root, to kill its daemon or to start another; fails where there is none.
    pub(crate) fn first(&mut self) -> &mut Tree {
        match &mut self.0 {
            Kind::Plain { .. } => panic!("it is no mount"),
            Kind::Mount(tree) => tree,
            Kind::Hosts(hosts) => hosts.host(0),
        }
    }

    /// The mounts that there are.
    pub(crate) fn trees(&self) -> Vec<&Tree> {
        match &self.0 {
            Kind::Plain { .. } => Vec::new(),
            Kind::Mount(tree) => vec![tree],
            Kind::Hosts(hosts) => hosts.trees().iter().collect(),
        }
    }
}

/// Makes tests of claims: each is a function of a [`Place`], and is tried on each of the grounds.
macro_rules! on_grounds {
    ($grounds:tt $(#[$doc:meta])* fn $name:ident($place:pat_param) $body:block $($rest:tt)*) => {
        mod $name {
            use super::*;
            $(#[$doc])*
            #[track_caller]
            fn claim($place: $crate::ground::Place) $body
            $crate::ground::on_grounds!(@each $grounds);
        }
        $crate::ground::on_grounds!($grounds $($rest)*);
    };
    ($grounds:tt) => {};
    (@each [$($ground:ident)*]) => { $($crate::ground::on_grounds!(@test $ground);)* };
    (@test Plain) => {
        #[test]
        fn on_a_plain_file_system() {
            claim($crate::ground::Ground::Plain.lay());
        }
    };
    (@test Mount) => {
        #[test]
        fn on_one_mount() {
            claim($crate::ground::Ground::Mount.lay());
        }
    };
    (@test Hosts) => {
        #[test]
        fn over_two_hosts() {
            claim($crate::ground::Ground::Hosts.lay());
        }
    };
}

/// What Linux says of every file system.
macro_rules! on_every_ground {
    ($($claims:tt)*) => { $crate::ground::on_grounds!([Plain Mount Hosts] $($claims)*); };
}

/// What only a mount has.
macro_rules! on_every_mount {
    ($($claims:tt)*) => { $crate::ground::on_grounds!([Mount Hosts] $($claims)*); };
}

pub(crate) use {on_every_ground, on_every_mount, on_grounds};
