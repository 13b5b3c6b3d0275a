//! path: one name for a file in all clones of a repository.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::world::*;

/// Runs git in `directory`, as nobody in particular.
pub(crate) fn git(directory: &Path, words: &[&str]) {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"]);
    command.arg("-C").arg(directory).args(words).stdin(Stdio::null()).stderr(Stdio::piped());
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    let output = command.output().expect("this test needs git");
    assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A repository in `name` with a commit, and with a remote where one is named.
pub(crate) fn repository(world: &World, name: &str, remote: Option<&str>) -> PathBuf {
    let top = world.dir.path().join(name);
    fs::create_dir(&top).unwrap();
    git(&top, &["init", "-q", "-b", "main"]);
    fs::write(top.join("file"), "").unwrap();
    git(&top, &["add", "file"]);
    git(&top, &["commit", "-q", "-m", "begin"]);
    if let Some(remote) = remote {
        git(&top, &["remote", "add", "origin", remote]);
    }
    top
}

fn name(world: &World, file: impl AsRef<OsStr>) -> String {
    let output = world.command(&["path"]).arg(file).output().unwrap();
    let said = Said::from(output).succeeds().stdout;
    said.strip_suffix('\n').unwrap().to_owned()
}

#[test]
fn all_clones_have_one_name_for_a_file() {
    let world = World::new();
    let one = repository(&world, "one", Some("git@example.org:Team/App.git"));
    let other = repository(&world, "other", Some("https://me:secret@example.org/team/app"));
    let expected = "repo/example.org/team/app/src/main.rs";
    assert_eq!(name(&world, one.join("src/main.rs")), expected);
    assert_eq!(name(&world, other.join("src/../src/./main.rs")), expected);
    // A clone of a clone, a worktree, and a place far below that is not there yet.
    git(world.dir.path(), &["clone", "-q", "one", "clone"]);
    git(&one, &["worktree", "add", "-q", "../tree"]);
    assert_eq!(name(&world, world.dir.path().join("clone/src/main.rs")), expected);
    assert_eq!(name(&world, world.dir.path().join("tree/src/main.rs")), expected);
    assert_eq!(name(&world, other.join("a/b/c")), "repo/example.org/team/app/a/b/c");
    assert_eq!(name(&world, &other), "repo/example.org/team/app");
}

#[test]
fn without_a_remote_a_history_is_known_by_its_beginning() {
    let world = World::new();
    let one = repository(&world, "one", None);
    git(world.dir.path(), &["clone", "-q", "--bare", "one", "bare.git"]);
    git(world.dir.path(), &["clone", "-q", "bare.git", "clone"]);
    git(&one, &["commit", "-q", "--allow-empty", "-m", "more"]);
    let [ours, theirs] = [one, world.dir.path().join("clone")].map(|top| name(&world, top.join("x y")));
    assert!(
        ours.starts_with("root/") && ours.ends_with("/x y") && ours.len() == "root/".len() + 40 + 4,
        "{ours}"
    );
    assert_eq!(ours, theirs);
}

#[test]
fn a_name_that_is_set_goes_before_all_others() {
    let world = World::new();
    let top = repository(&world, "one", Some("git@example.org:team/app.git"));
    git(&top, &["config", "lockfs.repository", "team/monorepo"]);
    assert_eq!(name(&world, top.join("x")), "repo/team/monorepo/x");
    git(&top, &["config", "lockfs.repository", "../up"]);
    world.lockfs(&["path", top.join("x").to_str().unwrap()]).fails(1, &["lockfs.repository"]);
}

#[test]
fn what_is_in_no_repository_says_that_it_is_this_hosts() {
    let world = World::new();
    let file = world.dir.path().join("notes");
    let said = name(&world, &file);
    let host = said.strip_prefix("host/").and_then(|rest| rest.split_once('/')).unwrap();
    assert_eq!(format!("/{}", host.1), file.canonicalize().unwrap_or(file).display().to_string());
    let top = repository(&world, "one", Some("git@example.org:team/app.git"));
    assert!(name(&world, top.join(".git/config")).starts_with("host/"));
    let empty = world.dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    git(&empty, &["init", "-q"]);
    assert!(name(&world, empty.join("x")).starts_with("host/"), "without a commit it has no beginning");
}

#[test]
fn a_symlink_is_what_it_leads_to_and_a_submodule_is_itself() {
    let world = World::new();
    let one = repository(&world, "one", Some("git@example.org:team/app.git"));
    let lib = repository(&world, "lib", Some("git@example.org:team/lib.git"));
    symlink("../lib/src", one.join("linked")).unwrap();
    symlink("later", one.join("dangling")).unwrap();
    assert_eq!(name(&world, one.join("linked/x")), "repo/example.org/team/lib/src/x");
    assert_eq!(name(&world, one.join("dangling")), "repo/example.org/team/app/later");
    git(&one, &["submodule", "--quiet", "add", lib.to_str().unwrap(), "deps/lib"]);
    assert_eq!(name(&world, one.join("deps/lib/src/x")), "repo/example.org/team/lib/src/x");
    assert_eq!(name(&world, one.join("deps/x")), "repo/example.org/team/app/deps/x");
}

#[test]
fn odd_names_are_one_line_and_locks_can_be_made_of_them() {
    let world = World::mounted();
    let top = repository(&world, "one", Some("git@example.org:team/app.git"));
    let odd = OsStr::from_bytes(b"a b\nc\xff%");
    assert_eq!(name(&world, top.join(odd)), "repo/example.org/team/app/a b%0Ac%FF%25");
    let long = name(&world, top.join("\n".repeat(200)));
    assert!(long.rsplit('/').next().unwrap().len() <= 255, "{long}");
    let deep: PathBuf = (0..20).map(|_| "d".repeat(200)).collect();
    for file in [Path::new(odd), Path::new("\n\n"), &PathBuf::from("\n".repeat(200)), &deep] {
        let said = world.command(&["path", "--absolute", "--mkdir"]).arg(top.join(file)).output().unwrap();
        let lock = Said::from(said).succeeds().stdout;
        fs::File::create_new(lock.strip_suffix('\n').unwrap()).unwrap();
    }
}

#[test]
fn the_way_to_a_lock_is_open_to_everybody() {
    let world = World::mounted();
    let top = repository(&world, "one", Some("git@example.org:team/app.git"));
    let file = top.join("src/main.rs");
    let said = world.lockfs(&["path", "--mkdir", "--absolute", file.to_str().unwrap()]).succeeds().stdout;
    let lock = world.path("repo/example.org/team/app/src/main.rs");
    assert_eq!(said, format!("{}\n", lock.display()));
    for directory in ["repo", "repo/example.org/team/app/src"] {
        let mode = fs::metadata(world.path(directory)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o1777, "{directory}");
    }
    assert!(!lock.exists());
    world.lockfs_as_nobody(&["run", "repo/example.org/team/app/src/main.rs", "--", "true"]).succeeds();
}

#[test]
fn names_come_as_json_and_with_nul() {
    let world = World::new();
    let top = repository(&world, "one", Some("git@example.org:team/app.git"));
    let [a, b] = ["a", "b"].map(|file| top.join(file).to_str().unwrap().to_owned());
    let said = world.lockfs(&["path", "-0", &a, &b]).succeeds().stdout;
    assert_eq!(said, "repo/example.org/team/app/a\0repo/example.org/team/app/b\0");
    let said = world.lockfs(&["path", "--json", &a]).succeeds().stdout;
    assert!(said.contains("\"path\":\"repo/example.org/team/app/a\",\"repository\":\"repo/example.org/team/app\",\"basis\":\"remote\",\"file\":\"a\""), "{said}");
    world.lockfs(&["path", "--absolute", &a]).fails(69, &["no lockfs is mounted"]);
}

#[test]
fn a_repository_that_git_does_not_tell_has_no_name() {
    let world = World::new();
    let top = repository(&world, "one", Some("git@example.org:team/app.git"));
    std::os::unix::fs::chown(&top, Some(NOBODY), Some(NOBODY)).expect("this test needs root");
    std::os::unix::fs::chown(top.join(".git"), Some(NOBODY), Some(NOBODY)).unwrap();
    let file = top.join("x");
    world.lockfs(&["path", file.to_str().unwrap()]).fails(1, &["cannot tell which repository"]);
    let mut without_git = world.command(&["path", file.to_str().unwrap()]);
    Said::from(without_git.env("PATH", "/nonexistent").output().unwrap()).fails(1, &["cannot run git"]);
    world.lockfs(&["path", ""]).fails(64, &["a value is required"]);
}

#[test]
fn what_is_in_the_mount_is_a_lock_itself() {
    let world = World::mounted();
    world.lockfs(&["path", world.path("x").to_str().unwrap()]).fails(64, &["is a lock itself"]);
}
