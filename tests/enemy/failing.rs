//! Bugs, full disks, and a second daemon: what fails says so, and what can go on does.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::Arc;
use std::time::Duration;

use lockfs::clock::{Clock, Now, SystemClock};
use lockfs::fs::{About, LockFs};
use lockfs::fuse::{Mount, MountOptions};
use lockfs::lock::{
    Attributes, Ino, Mount as Served, MountId, RequestId, Session, SessionId, Token, Ttl, Waiter,
};
use lockfs::locks::{LockService, Processes};
use lockfs::store::{EventPage, Health, LockStore, MemoryStore, StoreError, Tenure, Wakes};
use lockfs::table::{Command, Counts, Entry, Outcome, Spot, View};

use super::common::{LOCKFS, Tree, errno};

// A bug.

/// A store with a bug: it panics over some names.
#[derive(Debug)]
struct Buggy(MemoryStore);

fn tremble(spot: &Spot, name: &[u8]) {
    if spot.name.as_bytes() == name {
        // A panic that prints nothing.
        std::panic::resume_unwind(Box::new("a bug, for the test"));
    }
}

impl LockStore for Buggy {
    fn execute_for(&self, request: Option<RequestId>, command: &Command) -> Result<Outcome, StoreError> {
        if let Command::Acquire { spot, .. } | Command::Unlink { spot, .. } = command {
            tremble(spot, b"unmakeable");
        }
        self.0.execute_for(request, command)
    }
    fn recall_opens(&self, mount: MountId, opens: &[(Ino, u64)], ended: &[u64]) -> Result<(), StoreError> {
        self.0.recall_opens(mount, opens, ended)
    }
    fn remembers(&self, request: RequestId) -> Result<bool, StoreError> {
        self.0.remembers(request)
    }
    fn now(&self) -> Now {
        self.0.now()
    }
    fn lookup(&self, spot: &Spot) -> Result<Option<Attributes>, StoreError> {
        tremble(spot, b"unthinkable");
        self.0.lookup(spot)
    }
    fn stat(&self, ino: Ino) -> Result<Option<Attributes>, StoreError> {
        self.0.stat(ino)
    }
    fn view(&self, ino: Ino) -> Result<Option<View>, StoreError> {
        self.0.view(ino)
    }
    fn list(&self, ino: Ino, after: Option<Token>, limit: usize) -> Result<Option<Vec<Entry>>, StoreError> {
        self.0.list(ino, after, limit)
    }
    fn list_held(
        &self,
        id: &SessionId,
        ino: Ino,
        after: Option<Token>,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.0.list_held(id, ino, after, limit)
    }
    fn session(&self, id: &SessionId) -> Result<Option<Session>, StoreError> {
        self.0.session(id)
    }
    fn session_by_number(&self, ino: Ino) -> Result<Option<Session>, StoreError> {
        self.0.session_by_number(ino)
    }
    fn list_sessions(&self, after: Option<Ino>, limit: usize) -> Result<Vec<Session>, StoreError> {
        self.0.list_sessions(after, limit)
    }
    fn shortest_ttls(&self, ids: &[SessionId]) -> Result<Vec<Option<Ttl>>, StoreError> {
        self.0.shortest_ttls(ids)
    }
    fn events(&self, after: u64, limit: usize) -> Result<EventPage, StoreError> {
        self.0.events(after, limit)
    }
    fn queue(&self, spot: &Spot) -> Result<Vec<Waiter>, StoreError> {
        self.0.queue(spot)
    }
    fn mounts(&self) -> Result<Vec<Served>, StoreError> {
        self.0.mounts()
    }
    fn end_wakes(&self) {
        self.0.end_wakes();
    }
    fn await_wakes(&self, limit: Duration) -> Result<Wakes, StoreError> {
        self.0.await_wakes(limit)
    }
    fn counts(&self) -> Result<Counts, StoreError> {
        self.0.counts()
    }
    fn health(&self) -> Health {
        self.0.health()
    }
    fn close(&self) -> Result<(), StoreError> {
        self.0.close()
    }
}

/// The store above, mounted by this process.
fn buggy_mount(root: &Path) -> Mount {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let since = clock.now();
    let store: Arc<dyn LockStore> = Arc::new(Buggy(MemoryStore::empty(clock, 0, 0)));
    let processes = Processes::new("here".parse().unwrap()).unwrap();
    let service = Arc::new(LockService::new(store, processes, Ttl::DEFAULT, Tenure::begin().unwrap()));
    let about = About {
        mountpoint: root.to_owned(),
        namespace: "test".to_owned(),
        host: "here".to_owned(),
        ttl: Ttl::DEFAULT,
        since,
        metrics: None,
    };
    Mount::start(
        Arc::new(LockFs::new(service, about)),
        root,
        &MountOptions { source: "lockfs".to_owned(), ..MountOptions::default() },
    )
    .unwrap()
}

#[test]
fn a_bug_answers_its_own_request_and_the_mount_lives_on() {
    let root = tempfile::Builder::new().prefix("lockfs-test-").tempdir().unwrap();
    let mount = buggy_mount(root.path());
    let at = |name: &str| root.path().join(name);
    File::create_new(at("before")).unwrap();
    // More often than there are threads to answer.
    for _ in 0..20 {
        assert_eq!(errno(fs::metadata(at("unthinkable"))), libc::EIO);
        assert_eq!(errno(File::create_new(at("unmakeable"))), libc::EIO);
        assert_eq!(errno(fs::create_dir(at("unmakeable"))), libc::EIO);
    }
    fs::remove_file(at("before")).unwrap();
    File::create_new(at("after")).unwrap();
    drop(mount);
    assert!(!at("after").exists());
}

// A full disk.

/// A small file system of its own, unmounted at the end.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, size: &str) -> Self {
        fs::create_dir(at).unwrap();
        let mounted = Process::new("mount").args(["-t", "tmpfs", "-o", size, "none"]).arg(at).status();
        assert!(mounted.unwrap().success());
        // The store is for the daemon's user alone.
        fs::set_permissions(at, PermissionsExt::from_mode(0o700)).unwrap();
        Self(at.to_owned())
    }

    /// Fills it but for `spare` bytes.
    fn fill(&self, spare: u64) {
        let mut filler = File::create(self.0.join("filler")).unwrap();
        while filler.write_all(&[0; 4096]).is_ok() {}
        let size = filler.metadata().unwrap().len();
        filler.set_len(size.saturating_sub(spare)).unwrap();
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Process::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

/// Acquires until the disk is found full: the store has some room of its own, and asks now and then. Returns
/// how many it got.
fn acquire_until_full(tree: &Tree) -> u32 {
    for count in 0..20_000 {
        if let Err(error) = File::create_new(tree.path(format!("new-{count}"))) {
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
            return count;
        }
    }
    panic!("the disk never gets full");
}

#[test]
fn a_full_disk_grants_nothing_and_what_is_held_can_be_read_and_released() {
    let mut disk = None;
    let mut tree = Tree::prepared(&[], |data| disk = Some(Disk::mount(data, "size=64m")));
    let disk = disk.unwrap();
    for name in ["read", "released", "kept"] {
        fs::write(tree.path(name), "note").unwrap();
    }
    fs::create_dir(tree.path("d")).unwrap();
    // An eighth is the store's reserve: it takes nothing new from there.
    disk.fill(6 << 20);
    let count = acquire_until_full(&tree);
    let refused = tree.path(format!("new-{count}"));
    assert_eq!(errno(fs::create_dir(&refused)), libc::ENOSPC);
    assert_eq!(errno(fs::hard_link(tree.path("read"), &refused)), libc::ENOSPC);
    assert!(!refused.exists());
    assert_eq!(errno(File::create_new(tree.path("read"))), libc::EEXIST);
    assert_eq!(fs::read(tree.path("read")).unwrap(), b"note");
    assert_eq!(fs::read_dir(tree.root()).unwrap().count(), 7 + count as usize);
    fs::remove_file(tree.path("released")).unwrap();
    fs::remove_dir(tree.path("d")).unwrap();
    disk.free();
    File::create_new(tree.path("after")).unwrap();
    tree.kill();
    tree.mount();
    let there = ["read", "released", "kept", "d", "after"].map(|name| tree.path(name).exists());
    assert_eq!(there, [true, false, true, false, true]);
    assert!((0..count).all(|index| tree.path(format!("new-{index}")).exists()) && !refused.exists());
}

#[test]
fn a_disk_without_a_byte_left_loses_nothing_and_works_again_with_space() {
    let mut disk = None;
    let mut tree = Tree::prepared(&[], |data| disk = Some(Disk::mount(data, "size=64m")));
    let disk = disk.unwrap();
    fs::write(tree.path("kept"), "note").unwrap();
    disk.fill(0);
    let count = acquire_until_full(&tree);
    for _ in 0..50 {
        assert_eq!(errno(File::create_new(tree.path("refused"))), libc::ENOSPC);
    }
    assert_eq!(fs::read(tree.path("kept")).unwrap(), b"note");
    disk.free();
    File::create_new(tree.path("after")).unwrap();
    assert_eq!(tree.status("state"), "ok");
    tree.kill();
    tree.mount();
    assert_eq!(fs::read(tree.path("kept")).unwrap(), b"note");
    assert!((0..count).all(|index| tree.path(format!("new-{index}")).exists()));
    assert!(tree.path("after").exists() && !tree.path("refused").exists());
}

// A second daemon.

#[test]
fn a_second_daemon_on_the_same_store_is_refused_and_told_who_has_it() {
    let tree = Tree::new();
    let other = tree.scratch().join("other");
    fs::create_dir(&other).unwrap();
    File::create_new(tree.path("f")).unwrap();
    let mut second = Process::new("timeout");
    second.args(["20", LOCKFS, "mount", "--foreground", "--data-dir"]).arg(tree.data_dir()).arg(&other);
    let output = second.env("LOCKFS_CONFIG", "/dev/null").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains(&format!("pid {}", tree.pid())), "{said}");
    assert_eq!(fs::read_dir(&other).unwrap().count(), 0, "nothing is mounted there");
    assert!(tree.path("f").exists());
}

#[test]
fn a_second_mount_on_the_same_place_is_refused() {
    let tree = Tree::new();
    let mut second = tree.mount_command();
    let output = second.output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    assert!(tree.path(".lockfs/status").exists());
}
