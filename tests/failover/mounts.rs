//! The same on real mounts: what programs see when Redis fails.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::acks::replicated;
use crate::common::{Tree, errno};
use crate::servers::net::Net;
use crate::servers::redis::RedisServer;
use crate::servers::sentinel::{SERVICE, SentinelSet};
use crate::servers::{eventually, within};

/// What a program hears while nobody can say: never that a file is there, or is not.
fn assert_honest(error: &io::Error) {
    let number = error.raw_os_error().expect("an errno");
    assert!([libc::EHOSTDOWN, libc::ETIMEDOUT].contains(&number), "{error}");
}

/// The locks in the root.
fn names(tree: &Tree) -> io::Result<Vec<String>> {
    let names = fs::read_dir(tree.root())?.map(|entry| Ok(entry?.file_name().into_string().unwrap()));
    names.filter(|name| name.as_ref().is_ok_and(|name| !name.starts_with('.'))).collect()
}

#[test]
fn a_mount_goes_on_with_the_next_primary() {
    let net = Net::new(7);
    let set = SentinelSet::options().on(&net).start();
    let old = set.primary_address();
    let nodes: Vec<_> =
        set.sentinels.iter().map(|sentinel| format!("{}:{}", sentinel.address(), sentinel.port())).collect();
    let url = format!("redis+sentinel://{}/{SERVICE}", nodes.join(","));
    let tree = net.host(6).run(|| Tree::with(&["--backend", "redis", "--redis-url", &url]));
    assert_eq!(tree.status("acks"), "1", "with Sentinel");
    File::create_new(tree.path("kept")).unwrap();
    let kept = fs::metadata(tree.path("kept")).unwrap().ino();
    net.host(0).isolate();
    within(Duration::from_secs(60), "files are created again", || match File::create_new(tree.path("new")) {
        Ok(_) => true,
        Err(error) => {
            assert_honest(&error);
            false
        }
    });
    assert_ne!(set.wait_for_failover(old), old);
    assert_eq!(fs::metadata(tree.path("kept")).unwrap().ino(), kept);
    assert_eq!(errno(File::create_new(tree.path("kept"))), libc::EEXIST);
    assert!(fs::metadata(tree.path("new")).unwrap().ino() > kept, "the number is the token");
    fs::remove_file(tree.path("kept")).unwrap();
    assert_eq!(names(&tree).unwrap(), ["new"]);
}

#[test]
fn a_program_does_not_hang_at_a_stopped_server_nor_get_a_lock_later() {
    let mut server = RedisServer::start();
    let tree = Tree::with(&["--backend", "redis", "--redis-url", &server.url()]);
    File::create_new(tree.path("kept")).unwrap();
    server.pause();
    let start = Instant::now();
    let error = File::create_new(tree.path("lock")).unwrap_err();
    assert_honest(&error);
    // Looking and making have the command timeout each: 5 s.
    assert!(start.elapsed() < Duration::from_secs(11), "{:?}", start.elapsed());
    assert_honest(&File::create_new(tree.path("lock")).unwrap_err());
    let start = Instant::now();
    assert_honest(&File::create_new(tree.path("lock")).unwrap_err());
    assert!(start.elapsed() < Duration::from_secs(1), "it is known by now: {:?}", start.elapsed());
    assert!(fs::read_to_string(tree.path(".lockfs/status")).unwrap().contains("redis is gone"));
    server.resume();
    eventually("the mount goes on", || File::create_new(tree.path("after")).is_ok());
    assert_eq!(names(&tree).unwrap(), ["kept", "after"]);
}

/// Kills a shell that runs `script` while the store has granted what it makes, and waits for a replica to have it.
fn kill_while_it_waits(tree: &Tree, replica: &mut RedisServer, primary: &Tree, name: &str, script: &str) {
    replica.pause();
    let mut shell = Command::new("bash");
    shell.args(["-c", script]).env("LOCK", tree.path(name));
    let mut child = shell.stdout(Stdio::null()).spawn().unwrap();
    eventually("the primary has it", || primary.path(name).symlink_metadata().is_ok());
    child.kill().unwrap();
    replica.resume();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL), "{script}");
    eventually("it is undone", || primary.path(name).symlink_metadata().is_err());
    let is_there = |path: &Path| path.symlink_metadata().is_ok();
    assert!(!is_there(&tree.path(name)), "{script}");
}

/// Bug: a program that was killed in an acquire which waited for a slow store left the lock behind.
#[test]
fn who_is_killed_in_an_acquire_gets_no_lock() {
    let (primary, mut replicas) = replicated(1);
    let mount = |acks, host: &str| {
        let arguments =
            ["--backend", "redis", "--redis-url", &primary.url(), "--acks", acks, "--host-id", host];
        Tree::with(&arguments)
    };
    let (tree, other) = (mount("1", "a"), mount("0", "b"));
    for (name, script) in [
        ("o_excl", r#"exec perl -e 'use Fcntl; sysopen(my $f, $ENV{LOCK}, O_CREAT|O_EXCL|O_WRONLY)'"#),
        ("touched", r#"exec touch "$LOCK""#),
        ("made", r#"exec mkdir "$LOCK""#),
        ("symlink", r#"exec ln -s target "$LOCK""#),
        ("node", r#"exec python3 -c 'import os; os.mknod(os.environ["LOCK"])'"#),
    ] {
        kill_while_it_waits(&tree, &mut replicas[0], &other, name, script);
    }
    // It is the killed one's alone: what went well stays.
    File::create_new(tree.path("after")).unwrap();
    assert!(other.path("after").exists());
}
