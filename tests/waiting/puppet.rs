//! A process that makes the system calls that the test tells it to, one at a time: a locker of its own.
//!
//! It is forked from the test and holds no file of it. So what it locks ends with what is closed in it, or with it,
//! and nothing else; and calls that wait are its business, while the test looks on or acts.

use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::id;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, fs, ptr};

use libc::{c_long, pid_t};

use crate::common::eventually;
use crate::fork::fork;

/// How long a call may take that the test waits for.
const LIMIT: Duration = Duration::from_secs(20);

/// What a call returned, or its error number.
pub(crate) type Answer = Result<i64, i32>;

/// A descriptor of a puppet's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fd(i64);

impl From<i64> for Fd {
    fn from(answer: i64) -> Self {
        Self(answer)
    }
}

/// Which of Linux's kinds of locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// flock(2): of an open file description, and of the whole file.
    Flock,
    /// fcntl(2), `F_SETLK`: of a process.
    Posix,
    /// fcntl(2), `F_OFD_SETLK`: of an open file description.
    Ofd,
}

/// All of them.
pub(crate) const STYLES: [Style; 3] = [Style::Flock, Style::Posix, Style::Ofd];

/// What to have of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Shared,
    Exclusive,
    /// None: the end of it.
    None,
}

/// A part of a file: its start and its length, where 0 is to the end.
pub(crate) type Range = (i64, i64);

/// All of it.
pub(crate) const ALL: Range = (0, 0);

/// A process that is told what to do.
#[derive(Debug)]
pub(crate) struct Puppet {
    pid: pid_t,
    wire: RefCell<UnixStream>,
    /// Whether the test itself has to wait for its end.
    is_ours: bool,
    has_ended: Cell<bool>,
    /// The number of the call that it was told to make and has not answered.
    busy: Cell<Option<c_long>>,
}

/// A system call: number and arguments; one of these may be the address of the bytes.
struct Call {
    number: c_long,
    arguments: [i64; 6],
    bytes: Vec<u8>,
    address_at: Option<usize>,
}

/// Not a system call: to fork, and to let the child connect to a socket of this name.
const FORK: c_long = -1;

impl Puppet {
    /// Starts one in a job and a login of its own, that works in `root`.
    pub(crate) fn new(root: &Path) -> Self {
        Self::of(0, root)
    }

    /// The same, as a user.
    pub(crate) fn of(uid: u32, root: &Path) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let pid = fork(Some(&theirs), || {
            if uid != 0 {
                // SAFETY: only numbers are passed.
                unsafe {
                    assert!(libc::setgroups(0, ptr::null()) == 0);
                    assert!(libc::setgid(uid) == 0 && libc::setuid(uid) == 0);
                }
            }
            env::set_current_dir(root).unwrap();
            dance(theirs.try_clone().unwrap());
        });
        drop(theirs);
        ours.set_read_timeout(Some(LIMIT)).unwrap();
        Self {
            pid,
            wire: RefCell::new(ours),
            is_ours: true,
            has_ended: Cell::new(false),
            busy: Cell::new(None),
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        u32::try_from(self.pid).unwrap()
    }

    /// open(2), with `O_CREAT`, for reading and writing.
    #[track_caller]
    pub(crate) fn open(&self, path: &str) -> Fd {
        Fd(self.try_open(path, libc::O_RDWR | libc::O_CREAT).unwrap())
    }

    /// open(2), with mode 0666.
    pub(crate) fn try_open(&self, path: &str, flags: i32) -> Answer {
        self.act(with_path(libc::SYS_openat, [libc::AT_FDCWD.into(), 0, flags.into(), 0o666, 0, 0], 1, path))
    }

    /// Begins an open(2) that may wait; [`Puppet::end`] ends it.
    pub(crate) fn begin_open(&self, path: &str, flags: i32) {
        let arguments = [libc::AT_FDCWD.into(), 0, flags.into(), 0o666, 0, 0];
        self.begin(&with_path(libc::SYS_openat, arguments, 1, path));
    }

    /// close(2).
    #[track_caller]
    pub(crate) fn close(&self, fd: Fd) {
        self.act(plain(libc::SYS_close, &[fd.0])).unwrap();
    }

    /// dup(2).
    pub(crate) fn dup(&self, fd: Fd) -> Fd {
        Fd(self.act(plain(libc::SYS_dup, &[fd.0])).unwrap())
    }

    /// unlink(2).
    pub(crate) fn unlink(&self, path: &str) -> Answer {
        self.act(with_path(libc::SYS_unlinkat, [libc::AT_FDCWD.into(), 0, 0, 0, 0, 0], 1, path))
    }

    /// chmod(2).
    pub(crate) fn chmod(&self, path: &str, mode: i64) -> Answer {
        self.act(with_path(libc::SYS_fchmodat, [libc::AT_FDCWD.into(), 0, mode, 0, 0, 0], 1, path))
    }

    /// utimensat(2) to now.
    pub(crate) fn touch(&self, path: &str) -> Answer {
        self.act(with_path(libc::SYS_utimensat, [libc::AT_FDCWD.into(), 0, 0, 0, 0, 0], 1, path))
    }

    /// write(2).
    pub(crate) fn write(&self, fd: Fd, bytes: &[u8]) -> Answer {
        let length = i64::try_from(bytes.len()).unwrap();
        let arguments = [fd.0, 0, length, 0, 0, 0];
        self.act(Call { number: libc::SYS_write, arguments, bytes: bytes.to_vec(), address_at: Some(1) })
    }

    /// fstat(2): how many names the file has.
    pub(crate) fn links(&self, fd: Fd) -> u64 {
        // SAFETY: a stat is made of numbers.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        let arguments = [fd.0, 0, 0, 0, 0, 0];
        let mut call = Call {
            number: libc::SYS_fstat,
            arguments,
            bytes: vec![0; size_of::<libc::stat>()],
            address_at: Some(1),
        };
        self.begin(&call);
        let (answer, bytes) = self.listen();
        answer.unwrap();
        call.bytes = bytes;
        // SAFETY: as many bytes as a stat has, which the kernel filled.
        unsafe {
            ptr::copy_nonoverlapping(call.bytes.as_ptr(), (&raw mut stat).cast(), size_of::<libc::stat>())
        };
        stat.st_nlink
    }

    /// Locks, or lets go, without waiting.
    pub(crate) fn try_lock(&self, fd: Fd, style: Style, mode: Mode) -> Answer {
        self.try_range(fd, style, mode, ALL)
    }

    /// The same, for a part of a file.
    pub(crate) fn try_range(&self, fd: Fd, style: Style, mode: Mode, range: Range) -> Answer {
        self.act(locking(fd, style, mode, range, false))
    }

    /// Begins to lock, and to wait where it has to; [`Puppet::end`] ends it.
    pub(crate) fn begin_lock(&self, fd: Fd, style: Style, mode: Mode) {
        self.begin(&locking(fd, style, mode, ALL, true));
    }

    /// The same, for a part of a file.
    pub(crate) fn begin_range(&self, fd: Fd, style: Style, mode: Mode, range: Range) {
        self.begin(&locking(fd, style, mode, range, true));
    }

    /// `F_GETLK` or `F_OFD_GETLK`: what would be in the way, with its holder's process id.
    pub(crate) fn in_the_way(
        &self,
        fd: Fd,
        style: Style,
        mode: Mode,
        range: Range,
    ) -> Option<(Mode, Range, i32)> {
        let mut call = locking(fd, style, mode, range, false);
        call.arguments[1] = match style {
            Style::Flock => unreachable!("flock(2) has no such question"),
            Style::Posix => libc::F_GETLK.into(),
            Style::Ofd => libc::F_OFD_GETLK.into(),
        };
        self.begin(&call);
        let (answer, bytes) = self.listen();
        answer.unwrap();
        // SAFETY: as many bytes as a flock has; it is made of numbers.
        let found: libc::flock = unsafe { bytes.as_ptr().cast::<libc::flock>().read_unaligned() };
        let mode = match i32::from(found.l_type) {
            libc::F_UNLCK => return None,
            libc::F_RDLCK => Mode::Shared,
            _ => Mode::Exclusive,
        };
        Some((mode, (found.l_start, found.l_len), found.l_pid))
    }

    /// fork(2): another puppet, that has all its descriptors.
    pub(crate) fn fork(&self) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let socket = env::temp_dir().join(format!("lockfs-puppet-{}-{number}", id()));
        let listener = UnixListener::bind(&socket).unwrap();
        self.begin(&with_path(FORK, [0; 6], 0, socket.to_str().unwrap()));
        let pid = self.end().unwrap();
        let (wire, _) = listener.accept().unwrap();
        fs::remove_file(socket).unwrap();
        wire.set_read_timeout(Some(LIMIT)).unwrap();
        Self {
            pid: pid_t::try_from(pid).unwrap(),
            wire: RefCell::new(wire),
            is_ours: false,
            has_ended: Cell::new(false),
            busy: Cell::new(None),
        }
    }

    /// Waits until the call that it makes waits: it sleeps in the call, and so that signals can wake it.
    #[track_caller]
    pub(crate) fn wait_until_it_waits(&self) {
        let number = self.busy.get().expect("it was told to make a call");
        eventually("a call waits", || is_asleep_in(self.pid(), self.pid(), number));
    }

    /// Whether the call that it was told to make waits still: it is neither answered, nor anywhere but asleep.
    pub(crate) fn is_waiting(&self) -> bool {
        let number = self.busy.get().expect("it was told to make a call");
        is_asleep_in(self.pid(), self.pid(), number)
    }

    /// What the call that has begun returned, as soon as it did.
    pub(crate) fn end(&self) -> Answer {
        self.listen().0
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(&self) {
        if self.has_ended.replace(true) {
            return;
        }
        // SAFETY: kill(2) and waitpid(2) of a process that was started here, without a place for its status.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            if self.is_ours {
                libc::waitpid(self.pid, ptr::null_mut(), 0);
                return;
            }
        }
        let stat = PathBuf::from(format!("/proc/{}/stat", self.pid));
        eventually("a killed process is gone", || {
            fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "))
        });
    }

    fn act(&self, call: Call) -> Answer {
        self.begin(&call);
        self.end()
    }

    fn begin(&self, call: &Call) {
        assert_eq!(self.busy.replace(Some(call.number)), None, "it makes one call at a time");
        let address_at = call.address_at.map_or(-1, |at| i64::try_from(at).unwrap());
        let length = i64::try_from(call.bytes.len()).unwrap();
        let mut words = vec![call.number];
        words.extend(call.arguments);
        words.extend([address_at, length]);
        let mut message: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        message.extend(&call.bytes);
        self.wire.borrow_mut().write_all(&message).unwrap();
    }

    fn listen(&self) -> (Answer, Vec<u8>) {
        let mut wire = self.wire.borrow_mut();
        let answer = number(&mut wire).expect("a call is answered in time");
        let length = usize::try_from(number(&mut wire).unwrap()).unwrap();
        let mut bytes = vec![0; length];
        wire.read_exact(&mut bytes).unwrap();
        self.busy.set(None);
        let answer = if answer < 0 { Err(i32::try_from(-answer).unwrap()) } else { Ok(answer) };
        (answer, bytes)
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether a thread sleeps in this call, in the state that every signal ends (`S` of proc_pid_stat(5)).
pub(crate) fn is_asleep_in(pid: u32, thread: u32, number: c_long) -> bool {
    let of = |file: &str| fs::read_to_string(format!("/proc/{pid}/task/{thread}/{file}")).unwrap_or_default();
    state_of(&of("stat")) == Some('S') && of("syscall").split(' ').next() == Some(&number.to_string())
}

/// The letter of the state in what proc_pid_stat(5) says.
pub(crate) fn state_of(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

fn plain(number: c_long, given: &[i64]) -> Call {
    let mut arguments = [0; 6];
    arguments[..given.len()].copy_from_slice(given);
    Call { number, arguments, bytes: Vec::new(), address_at: None }
}

fn with_path(number: c_long, arguments: [i64; 6], at: usize, path: &str) -> Call {
    let bytes = CString::new(Path::new(path).as_os_str().as_bytes()).unwrap().into_bytes_with_nul();
    Call { number, arguments, bytes, address_at: Some(at) }
}

fn locking(fd: Fd, style: Style, mode: Mode, (start, length): Range, waits: bool) -> Call {
    if style == Style::Flock {
        let operation = match mode {
            Mode::Shared => libc::LOCK_SH,
            Mode::Exclusive => libc::LOCK_EX,
            Mode::None => libc::LOCK_UN,
        };
        let operation = if waits { operation } else { operation | libc::LOCK_NB };
        return plain(libc::SYS_flock, &[fd.0, operation.into()]);
    }
    let command = match (style, waits) {
        (Style::Posix, false) => libc::F_SETLK,
        (Style::Posix, true) => libc::F_SETLKW,
        (_, false) => libc::F_OFD_SETLK,
        (_, true) => libc::F_OFD_SETLKW,
    };
    let kind = match mode {
        Mode::Shared => libc::F_RDLCK,
        Mode::Exclusive => libc::F_WRLCK,
        Mode::None => libc::F_UNLCK,
    };
    // SAFETY: a flock is made of numbers.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = i16::try_from(kind).unwrap();
    lock.l_whence = i16::try_from(libc::SEEK_SET).unwrap();
    lock.l_start = start;
    lock.l_len = length;
    let mut bytes = vec![0; size_of::<libc::flock>()];
    // SAFETY: the buffer is as long as the struct.
    unsafe { ptr::copy_nonoverlapping((&raw const lock).cast(), bytes.as_mut_ptr(), bytes.len()) };
    let arguments = [fd.0, command.into(), 0, 0, 0, 0];
    Call { number: libc::SYS_fcntl, arguments, bytes, address_at: Some(2) }
}

fn number(wire: &mut UnixStream) -> Option<i64> {
    let mut word = [0; 8];
    wire.read_exact(&mut word).ok()?;
    Some(i64::from_ne_bytes(word))
}

/// The puppet's own part: it makes calls until the test is gone.
fn dance(mut wire: UnixStream) -> ! {
    loop {
        let mut words = [0; 9];
        for word in &mut words {
            let Some(next) = number(&mut wire) else {
                // SAFETY: _exit(2) ends the process without unwinding into the test's frames.
                unsafe { libc::_exit(0) }
            };
            *word = next;
        }
        let [what, mut arguments @ .., address_at, length] = words;
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        wire.read_exact(&mut bytes).unwrap();
        if let Ok(at) = usize::try_from(address_at) {
            arguments[at] = bytes.as_mut_ptr() as i64;
        }
        let answer = if what == FORK {
            // SAFETY: this process has one thread.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                let path = Path::new(std::ffi::OsStr::from_bytes(&bytes[..bytes.len() - 1]));
                wire = UnixStream::connect(path).unwrap();
                continue;
            }
            i64::from(pid)
        } else {
            let [a, b, c, d, e, f] = arguments;
            // SAFETY: the test asks for calls whose only address is that of `bytes`, which live until it returns.
            let returned = unsafe { libc::syscall(what, a, b, c, d, e, f) };
            if returned < 0 {
                -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap())
            } else {
                returned
            }
        };
        let length = i64::try_from(bytes.len()).unwrap();
        let message = [answer.to_ne_bytes(), length.to_ne_bytes()].concat();
        wire.write_all(&[&message[..], &bytes].concat()).unwrap();
    }
}
