//! One method a request: decode, call, reply.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, PollEvents, PollFlags,
    PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};

use super::intercept::RESENT;
use super::{Adapter, errno, handshake, lock};
use crate::clock::WallTime;
use crate::fs::{Access, Error, Found, Keep, LockFs, Opened, SetMode};
use crate::lock::{Attributes, Kind, Name};
use crate::locks::Requester;
use crate::table::{AttributeChange, RenameMode};

/// How long the kernel may remember what is kept briefly: directories that are names and no locks.
const BRIEFLY: Duration = Duration::from_secs(1);

/// What stat(2) calls the best size of a read.
const BLOCK_SIZE: u32 = 4096;

/// How many entries are listed for one reply: as many with short names as fit into the 32 KiB that
/// readdir(3) asks for.
const LISTING: usize = 1024;

/// Inode numbers are never used again, so their generation never changes.
const GENERATION: Generation = Generation(0);

impl Adapter {
    /// Counts and carries out one request, and turns what went wrong into its number.
    fn serve<T>(&self, request: &str, call: impl FnOnce() -> Result<T, Error>) -> Result<T, Errno> {
        self.fs.meters().count(request);
        self.guard(request, call)
    }

    /// Carries out one request that is answered when it is answered. Whatever becomes of it, it is answered once: what
    /// is dropped without an answer, as a panic does, is answered EIO.
    fn park<R: Send + 'static, T: 'static>(
        &self,
        request: &'static str,
        reply: R,
        send: fn(R, Result<T, Errno>),
        call: impl FnOnce(&Arc<LockFs>, Box<dyn FnOnce(Result<T, Error>) + Send>),
    ) {
        let mut parked = Parked { request, reply: Some(reply), send };
        let answer = Box::new(move |answer: Result<T, Error>| parked.answer(answer));
        if catch_unwind(AssertUnwindSafe(|| call(&self.fs, answer))).is_err() {
            log::error!("a request ended in a bug request={request}");
        }
    }

    /// Carries out a request that makes something. A caller that was killed while it waited for the store never learns
    /// that something was made for it: then nothing was.
    fn make<T>(
        &self,
        name: &str,
        request: &Request,
        make: impl FnOnce() -> Result<T, Error>,
        undo: impl FnOnce(&T) -> Result<(), Error>,
    ) -> Result<T, Errno> {
        let began = self.fs.now().boot;
        let made = self.serve(name, make)?;
        let lasted = self.fs.now().boot.since(began);
        let who = who(request);
        if !self.fs.was_killed(who, who.request, lasted) {
            return Ok(made);
        }
        log::debug!("undone: its caller was killed pid={}", request.pid());
        self.guard("undo", || undo(&made)).ok();
        Err(Errno::EINTR)
    }

    fn guard<T>(&self, request: &str, call: impl FnOnce() -> Result<T, Error>) -> Result<T, Errno> {
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                log::trace!("request={request} error={error:?}");
                Err(errno::of(&error))
            }
            Err(_) => {
                log::error!("a request ended in a bug, and was answered EIO request={request}");
                Err(Errno::EIO)
            }
        }
    }

    fn reply_entry(reply: ReplyEntry, answer: Result<Found, Errno>) {
        match answer {
            Ok(found) => reply.entry(&validity(found.keep), &file_attr(&found.attributes), GENERATION),
            Err(errno) => reply.error(errno),
        }
    }

    fn reply_attr(reply: ReplyAttr, answer: Result<Found, Errno>) {
        match answer {
            Ok(found) => reply.attr(&validity(found.keep), &file_attr(&found.attributes)),
            Err(errno) => reply.error(errno),
        }
    }

    fn reply_empty(reply: ReplyEmpty, answer: Result<(), Errno>) {
        match answer {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn reply_xattr(reply: ReplyXattr, size: u32, answer: Result<Vec<u8>, Errno>) {
        let length = |value: &Vec<u8>| u32::try_from(value.len()).unwrap_or(u32::MAX);
        match answer {
            Ok(value) if size == 0 => reply.size(length(&value)),
            Ok(value) if length(&value) > size => reply.error(Errno::ERANGE),
            Ok(value) => reply.data(&value),
            Err(errno) => reply.error(errno),
        }
    }
}

/// A reply that is sent later, by whomever.
struct Parked<R, T> {
    request: &'static str,
    reply: Option<R>,
    send: fn(R, Result<T, Errno>),
}

impl<R, T> Parked<R, T> {
    fn answer(&mut self, answer: Result<T, Error>) {
        let answer = answer.map_err(|error| {
            log::trace!("request={} error={error:?}", self.request);
            errno::of(&error)
        });
        if let Some(reply) = self.reply.take() {
            (self.send)(reply, answer);
        }
    }
}

impl<R, T> Drop for Parked<R, T> {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            (self.send)(reply, Err(Errno::EIO));
        }
    }
}

fn reply_open(reply: ReplyOpen, answer: Result<u64, Errno>) {
    match answer {
        // Past the page cache, so that a read is of now, and whatever the size says.
        Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO),
        Err(errno) => reply.error(errno),
    }
}

fn who(request: &Request) -> Requester {
    let number: u64 = request.unique().into();
    Requester {
        uid: request.uid(),
        gid: request.gid(),
        pid: request.pid(),
        request: number & !RESENT,
        resent: number & RESENT != 0,
    }
}

fn validity(keep: Keep) -> Duration {
    match keep {
        Keep::No => Duration::ZERO,
        Keep::Briefly => BRIEFLY,
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
    }
}

fn file_attr(attributes: &Attributes) -> FileAttr {
    let mtime = SystemTime::from(attributes.mtime);
    FileAttr {
        ino: INodeNo(attributes.ino.as_u64()),
        size: attributes.size,
        blocks: attributes.size.div_ceil(512),
        atime: mtime,
        mtime,
        ctime: SystemTime::from(attributes.ctime),
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(attributes.kind),
        perm: attributes.mode,
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// The moment that the kernel sent. A `timespec` before 1970 counts its nanoseconds forward from its second;
/// the crate counts them backward (`system_time_from_time` in its `time.rs`).
fn as_sent(decoded: SystemTime) -> WallTime {
    match decoded.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(_) => WallTime::from(decoded),
        Err(error) => {
            let before = error.duration();
            let secs = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            WallTime::new(-secs, before.subsec_nanos())
        }
    }
}

/// `st_mode & 07777`; the type bits of `mode` are not its business.
fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).unwrap_or(0)
}

fn access(flags: i32) -> Access {
    Access {
        writes: OpenFlags(flags).acc_mode() != OpenAccMode::O_RDONLY,
        emptied: flags & libc::O_TRUNC != 0,
        exclusive: flags & libc::O_EXCL != 0,
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        handshake::ask_for(config);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let answer = self.serve("lookup", || self.fs.lookup(parent.0, name.as_bytes()));
        Self::reply_entry(reply, answer);
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.serve("forget", || {
            self.fs.forget(ino.0, count);
            Ok(())
        })
        .ok();
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        Self::reply_attr(reply, self.serve("getattr", || self.fs.getattr(ino.0)));
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mtime = mtime.map(|time| match time {
            TimeOrNow::SpecificTime(time) => as_sent(time),
            TimeOrNow::Now => self.fs.now().wall,
        });
        let change = AttributeChange { mode: mode.map(permissions), uid, gid, mtime };
        let answer = self.serve("setattr", || self.fs.setattr(who(request), ino.0, change, size));
        Self::reply_attr(reply, answer);
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.serve("readlink", || self.fs.readlink(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let make = || {
            if mode & libc::S_IFMT != libc::S_IFREG {
                return Err(Error::NotALock);
            }
            self.fs.mknod(who(request), parent.0, name.as_bytes(), permissions(mode))
        };
        let undo = |_: &Found| self.fs.unlink(who(request), parent.0, name.as_bytes());
        Self::reply_entry(reply, self.make("mknod", request, make, undo));
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
        let make = || self.fs.mkdir(who(request), parent.0, name.as_bytes(), permissions(mode));
        let undo = |_: &Found| self.fs.rmdir(who(request), parent.0, name.as_bytes());
        Self::reply_entry(reply, self.make("mkdir", request, make, undo));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let answer = self.serve("unlink", || self.fs.unlink(who(request), parent.0, name.as_bytes()));
        Self::reply_empty(reply, answer);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let answer = self.serve("rmdir", || self.fs.rmdir(who(request), parent.0, name.as_bytes()));
        Self::reply_empty(reply, answer);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes();
        let make = || self.fs.symlink(who(request), parent.0, name.as_bytes(), target);
        let undo = |_: &Found| self.fs.unlink(who(request), parent.0, name.as_bytes());
        Self::reply_entry(reply, self.make("symlink", request, make, undo));
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (exchange, no_replace) = (RenameFlags::RENAME_EXCHANGE, RenameFlags::RENAME_NOREPLACE);
        let answer = self.serve("rename", || {
            let mode = match flags {
                _ if flags.is_empty() => RenameMode::Replace,
                _ if flags == no_replace => RenameMode::NoReplace,
                _ if flags == exchange => RenameMode::Exchange,
                _ => return Err(Error::BadValue),
            };
            let (from, to) = ((parent.0, name.as_bytes()), (new_parent.0, new_name.as_bytes()));
            self.fs.rename(who(request), from, to, mode)
        });
        Self::reply_empty(reply, answer);
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let make = || self.fs.link(who(request), ino.0, new_parent.0, new_name.as_bytes());
        let undo = |_: &Found| self.fs.unlink(who(request), new_parent.0, new_name.as_bytes());
        Self::reply_entry(reply, self.make("link", request, make, undo));
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (who, access) = (who(request), access(flags.0));
        if access.writes && self.fs.is_door(ino.0) {
            self.fs.meters().count("open");
            return self
                .park("open", reply, reply_open, |fs, answer| fs.open_door(who, ino.0, who.request, answer));
        }
        reply_open(reply, self.serve("open", || self.fs.open(who, ino.0, access)));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let access = access(flags);
        let make = || self.fs.create(who(request), parent.0, name.as_bytes(), permissions(mode), access);
        let undo = |opened: &Opened| {
            self.fs.release(who(request), opened.handle);
            match opened.was_made {
                true => self.fs.unlink(who(request), parent.0, name.as_bytes()),
                false => Ok(()),
            }
        };
        match self.make("create", request, make, undo) {
            Ok(opened) => {
                // What O_EXCL makes is locked by being there: nothing is to be dropped at close.
                let no_flush = if access.exclusive { FopenFlags::FOPEN_NOFLUSH } else { FopenFlags::empty() };
                reply.created(
                    &validity(opened.found.keep),
                    &file_attr(&opened.found.attributes),
                    GENERATION,
                    FileHandle(opened.handle),
                    FopenFlags::FOPEN_DIRECT_IO | no_flush,
                );
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        match self.serve("read", || self.fs.read(who(request), ino.0, handle.0, offset, size)) {
            Ok(data) => reply.data(&data),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The kernel's idea of the end of the file may be old; the store's is not.
        let offset = (flags.0 & libc::O_APPEND == 0).then_some(offset);
        match self.serve("write", || self.fs.write(who(request), (ino.0, handle.0), offset, data)) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, handle: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        let flush = || {
            self.fs.flush(handle.0, owner.0);
            Ok(())
        };
        Self::reply_empty(reply, self.serve("flush", flush));
    }

    fn getlk(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let blocker = self.serve("getlk", || match lock::read((start, end), kind, owner.0, pid)? {
            lock::Request::Lock(claim) => self.fs.getlk(ino.0, handle.0, &claim),
            lock::Request::Unlock(..) => Err(Error::BadValue),
        });
        match blocker {
            Ok(Some(grant)) => {
                let (start, end, kind, pid) = lock::write(&grant, self.fs.is_of_this_mount(&grant));
                reply.locked(start, end, kind, pid);
            }
            Ok(None) => reply.locked(start, end, libc::F_UNLCK, 0),
            Err(errno) => reply.error(errno),
        }
    }

    fn setlk(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        waits: bool,
        reply: ReplyEmpty,
    ) {
        let (who, at) = (who(request), (ino.0, handle.0));
        let asked = self.serve("setlk", || lock::read((start, end), kind, owner.0, pid));
        match asked {
            Ok(lock::Request::Lock(claim)) => {
                let waits = waits.then_some(who.request);
                self.park("setlk", reply, Self::reply_empty, |fs, answer| {
                    fs.setlk(who, at, claim, waits, answer)
                });
            }
            Ok(lock::Request::Unlock(style, range)) => {
                let unlock = || self.fs.unlock(who, at, style, owner.0, range);
                Self::reply_empty(reply, self.guard("setlk", unlock));
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn release(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let release = || {
            self.fs.release(who(request), handle.0);
            Ok(())
        };
        Self::reply_empty(reply, self.serve("release", release));
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // Every step is already as durable as the mount promises.
        Self::reply_empty(reply, self.serve("fsync", || Ok(())));
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.serve("opendir", || self.fs.opendir(who(request), ino.0)) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        // What does not fit in the reply is asked for again, by its offset.
        match self.serve("readdir", || self.fs.readdir(ino.0, offset, LISTING)) {
            Ok(entries) => {
                for entry in entries {
                    let name = OsStr::from_bytes(&entry.name);
                    let is_full = reply.add(INodeNo(entry.ino), entry.offset, file_type(entry.kind), name);
                    if is_full {
                        break;
                    }
                }
                reply.ok();
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn releasedir(&self, request: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        let release = || {
            self.fs.release(who(request), handle.0);
            Ok(())
        };
        Self::reply_empty(reply, self.serve("releasedir", release));
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        Self::reply_empty(reply, self.serve("fsyncdir", || Ok(())));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match self.serve("statfs", || self.fs.usage()) {
            Ok(usage) => {
                // Locks take no blocks; some are free, for programs that look before they write.
                let blocks = 1 << 20;
                let longest = u32::try_from(Name::MAX).unwrap_or(u32::MAX);
                let files = usage.used.saturating_add(usage.free);
                reply.statfs(blocks, blocks, blocks, files, usage.free, BLOCK_SIZE, longest, BLOCK_SIZE);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            libc::XATTR_CREATE => SetMode::Create,
            libc::XATTR_REPLACE => SetMode::Replace,
            _ => SetMode::Any,
        };
        let set = || self.fs.setxattr(who(request), ino.0, name.as_bytes(), value, mode);
        Self::reply_empty(reply, self.serve("setxattr", set));
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let answer = self.serve("getxattr", || self.fs.getxattr(ino.0, name.as_bytes()));
        Self::reply_xattr(reply, size, answer);
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        Self::reply_xattr(reply, size, self.serve("listxattr", || self.fs.listxattr(ino.0)));
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || self.fs.removexattr(who(request), ino.0, name.as_bytes());
        Self::reply_empty(reply, self.serve("removexattr", remove));
    }

    fn ioctl(
        &self,
        _: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _size: u32,
        reply: ReplyIoctl,
    ) {
        self.fs.meters().count("ioctl");
        // Python and Perl ask every file that they open whether it is a terminal.
        reply.error(Errno::ENOTTY);
    }

    // For the four below the kernel remembers ENOSYS and does without the file system, which is right:
    // it copies by reading, refuses to preallocate, seeks in a file without holes, and finds it always ready.

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }
}
