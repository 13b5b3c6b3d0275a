//! What contenders fight over: a counter that nothing but the lock under test keeps them from losing work at,
//! and all that watches over it. It stands outside of every mount.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory with `counter`, and `wrong`, in which contenders write what must not be.
#[derive(Debug)]
pub struct Arena(PathBuf);

impl Arena {
    /// Makes it in `dir`, for all users.
    pub fn new(dir: &Path) -> Self {
        let arena = dir.join("arena");
        fs::create_dir(&arena).unwrap();
        fs::set_permissions(&arena, Permissions::from_mode(0o777)).unwrap();
        for (file, content) in [("counter", "0\n"), ("wrong", "")] {
            fs::write(arena.join(file), content).unwrap();
            fs::set_permissions(arena.join(file), Permissions::from_mode(0o666)).unwrap();
        }
        // Nobody ever writes into it: reading it with a timeout is a sleep that starts no process.
        let made = Command::new("mkfifo").args(["-m", "666"]).arg(arena.join("never")).status().unwrap();
        assert!(made.success());
        Self(arena)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What is in a file; nothing where it is not there.
    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap_or_default()
    }

    /// Adds a line to a file, in one write.
    pub fn note(&self, file: &str, line: &str) {
        let mut file = File::options().create(true).append(true).open(self.0.join(file)).unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// How often the counter was raised.
    pub fn count(&self) -> usize {
        // It is written in place, and may be empty for a moment.
        self.read("counter").trim().parse().unwrap_or_default()
    }

    /// Fails where somebody saw what must not be, or where work was lost.
    #[track_caller]
    pub fn judge(&self, raised: usize) {
        let wrong = self.read("wrong");
        let first = wrong.lines().take(10).collect::<Vec<_>>().join("\n");
        assert!(
            wrong.is_empty(),
            "it let two in, or lost its holder, {} times:\n{first}",
            wrong.lines().count()
        );
        assert_eq!(self.read("counter").trim(), raised.to_string(), "work was lost");
    }
}
