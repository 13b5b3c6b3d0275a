//! The null file system: what the FUSE crate and the kernel cost, and a map in memory.
//!
//! It answers as `src/fuse/adapter.rs` does, so that the kernel sends the same requests: directories are
//! kept for a second and files not at all; files are opened past the page cache, those made by `O_EXCL` without a
//! FLUSH at close; and it is mounted with the same options and as many threads. flock(2) asks it too, and gets what it
//! asks for.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyCreate, ReplyEmpty, ReplyEntry, Request,
    Session, SessionACL,
};

/// As many as `src/fuse/mount.rs` has.
const THREADS: usize = 4;

/// Serves the null file system until SIGTERM.
pub(crate) fn run(mountpoint: &Path) -> io::Result<()> {
    // SAFETY: a zeroed set is memory for sigemptyset(3), and the numbers are signals.
    let signals = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        set
    };
    let mut config = Config::default();
    config.n_threads = Some(THREADS);
    config.mount_options = vec![
        MountOption::FSName("nullfs".to_owned()),
        MountOption::Subtype("nullfs".to_owned()),
        MountOption::DefaultPermissions,
    ];
    // SAFETY: geteuid(2) takes nothing and can't fail.
    if unsafe { libc::geteuid() == 0 } {
        config.acl = SessionACL::All;
    }
    let session = Session::new(Null::default(), mountpoint, &config)?.spawn()?;
    let mut signal = 0;
    // SAFETY: the set was made above, and `signal` lives.
    unsafe { libc::sigwait(&raw const signals, &raw mut signal) };
    session.umount_and_join()
}

struct Null(Mutex<Tree>);

struct Tree {
    last: u64,
    objects: HashMap<u64, FileAttr>,
    names: HashMap<(u64, OsString), u64>,
}

impl Default for Null {
    fn default() -> Self {
        let mut tree = Tree { last: 1, objects: HashMap::new(), names: HashMap::new() };
        tree.objects.insert(1, attributes(1, FileType::Directory, 0o1777, (0, 0)));
        Self(Mutex::new(tree))
    }
}

fn attributes(ino: u64, kind: FileType, mode: u32, (uid, gid): (u32, u32)) -> FileAttr {
    let now = SystemTime::now();
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: SystemTime::UNIX_EPOCH,
        kind,
        perm: u16::try_from(mode & 0o7777).unwrap_or(0),
        nlink: 1,
        uid,
        gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn keep(attributes: &FileAttr) -> Duration {
    if attributes.kind == FileType::Directory { Duration::from_secs(1) } else { Duration::ZERO }
}

impl Null {
    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        kind: FileType,
        mode: u32,
    ) -> Result<FileAttr, Errno> {
        let mut tree = self.tree();
        let key = (parent.0, name.to_owned());
        if tree.names.contains_key(&key) {
            return Err(Errno::EEXIST);
        }
        tree.last += 1;
        let ino = tree.last;
        let made = attributes(ino, kind, mode, (request.uid(), request.gid()));
        tree.objects.insert(ino, made);
        tree.names.insert(key, ino);
        Ok(made)
    }
}

impl Filesystem for Null {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_FLOCK_LOCKS,
            InitFlags::FUSE_POSIX_LOCKS,
        ];
        for wanted in wanted {
            config.add_capabilities(wanted).ok();
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = {
            let tree = self.tree();
            let ino = tree.names.get(&(parent.0, name.to_owned()));
            ino.and_then(|ino| tree.objects.get(ino)).copied()
        };
        match found {
            Some(found) => reply.entry(&keep(&found), &found, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let found = self.tree().objects.get(&ino.0).copied();
        match found {
            Some(found) => reply.attr(&keep(&found), &found),
            None => reply.error(Errno::ESTALE),
        }
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        match self.make(request, parent, name, FileType::Directory, mode) {
            Ok(made) => reply.entry(&keep(&made), &made, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
        match self.make(request, parent, name, FileType::RegularFile, mode) {
            Ok(made) => reply.created(&keep(&made), &made, Generation(0), FileHandle(0), flags),
            Err(errno) => reply.error(errno),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let is_there = {
            let mut tree = self.tree();
            let ino = tree.names.remove(&(parent.0, name.to_owned()));
            ino.and_then(|ino| tree.objects.remove(&ino)).is_some()
        };
        if is_there { reply.ok() } else { reply.error(Errno::ENOENT) }
    }

    fn setlk(
        &self,
        _: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        _start: u64,
        _end: u64,
        _typ: i32,
        _pid: u32,
        _sleep: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }
}
