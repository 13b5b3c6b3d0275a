//! Who is calling: from a thread's id to a session, a job, a login; and whether a job still lives.
//!
//! A request names only a thread. Its session is looked up in `/proc` once and then remembered for as long
//! as one read of the thread's `stat` says that it is the same process image in the same job: the open file
//! is bound to that very thread, so a reused id reads as gone, and a changed process group or a changed
//! place of the environment (exec moves it) makes the lookup anew.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Requester;
use crate::clock::BootId;
use crate::lock::{Job, Login, Mount, MountId, Origin, SessionError, SessionId, SessionKind, Ttl};
use crate::table::{Begin, Claimant};

/// How many callers are remembered; each keeps one descriptor open.
const KNOWN_MAX: usize = 256;

/// The name of a host among those that share a store: 1 to 64 of `A-Za-z0-9._-`, not starting with a dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostId(String);

impl HostId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostId {
    type Err = HostIdError;

    fn from_str(text: &str) -> Result<Self, HostIdError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=64).contains(&text.len()) && !text.starts_with('.');
        if fits && text.bytes().all(allowed) { Ok(Self(text.to_owned())) } else { Err(HostIdError) }
    }
}

/// Text that names no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostIdError;

impl fmt::Display for HostIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a host id is 1 to 64 of A-Z a-z 0-9 . _ - and does not start with a dot")
    }
}

impl std::error::Error for HostIdError {}

/// The processes of this host, as `/proc` shows them.
#[derive(Debug)]
pub struct Processes {
    host: HostId,
    boot: BootId,
    /// What tells this boot of this machine from all others, within a tag.
    machine: String,
    known: Mutex<HashMap<u32, Arc<Known>>>,
    /// When the leaders of jobs started that were seen alive: a job whose leader has gone keeps its name.
    leaders: Mutex<HashMap<u32, u64>>,
    users: Mutex<HashMap<u32, String>>,
}

#[derive(Debug)]
struct Known {
    stat: File,
    image: Image,
    claimant: Arc<Claimant>,
}

/// What stays the same as long as a process is in the same job and has not called exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Image {
    pgid: u32,
    sid: u32,
    start: u64,
    environment: u64,
}

impl Image {
    /// What an open `stat` says now. It is read for each request: nothing is taken apart but what is compared.
    fn read(file: &File) -> Option<Self> {
        let mut buffer = [0; 2048];
        let length = file.read_at(&mut buffer, 0).ok()?;
        let line = &buffer[..length];
        let close = line.iter().rposition(|byte| *byte == b')')?;
        Self::parse(std::str::from_utf8(&line[close + 1..]).ok()?)
    }

    /// From the fields behind the command.
    fn parse(text: &str) -> Option<Self> {
        // Field 3 of the manual page is the first after the command.
        let mut fields = (3..).zip(text.split_ascii_whitespace());
        let mut field = |number| fields.find(|(at, _)| *at == number).map(|(_, text)| text);
        Some(Self {
            pgid: group(field(5)?)?,
            sid: group(field(6)?)?,
            start: field(22)?.parse().ok()?,
            environment: field(50)?.parse().ok()?,
        })
    }
}

/// A group or session of an outer pid namespace shows as 0 or -1.
fn group(text: &str) -> Option<u32> {
    text.parse::<i64>().ok().map(|id| u32::try_from(id).unwrap_or(0))
}

/// The fields of `/proc/<pid>/stat` that matter here (proc_pid_stat(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stat {
    command: String,
    state: u8,
    parent: u32,
    threads: u64,
    image: Image,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The command stands in parentheses and may hold anything, more of them included.
        let (open, close) = (text.find('(')?, text.rfind(')')?);
        let fields: Vec<&str> = text[close + 1..].split_ascii_whitespace().collect();
        // Field 3 of the manual page, the state, is the first after the command.
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Self {
            command: text[open + 1..close].to_owned(),
            state: *field(3)?.as_bytes().first()?,
            parent: field(4)?.parse().ok()?,
            threads: field(20)?.parse().ok()?,
            image: Image::parse(&text[close + 1..])?,
        })
    }

    fn of(pid: u32) -> Option<Self> {
        Self::parse(&String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat")).ok()?))
    }

    fn read(file: &File) -> Option<Self> {
        // One read at offset 0 makes the kernel write the line anew; 52 numbers and a name fit in the buffer.
        let mut buffer = [0; 2048];
        let length = file.read_at(&mut buffer, 0).ok()?;
        Self::parse(&String::from_utf8_lossy(&buffer[..length]))
    }

    /// A process none of whose threads will run again. A leader that left its threads behind shows as a
    /// zombie too, but counts them.
    fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X') && self.threads <= 1
    }
}

/// What tells this boot of this machine from all others: the id of the machine (machine-id(5)) and of its boot.
pub fn machine_id(boot: &BootId) -> String {
    let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    format!("{}/{}", machine.trim(), boot.as_str())
}

impl Processes {
    /// The processes of this host, which is called `host`.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn new(host: HostId) -> std::io::Result<Self> {
        let boot = BootId::current()?;
        Ok(Self {
            machine: machine_id(&boot),
            host,
            boot,
            known: Mutex::default(),
            leaders: Mutex::default(),
            users: Mutex::default(),
        })
    }

    pub(super) fn host(&self) -> &HostId {
        &self.host
    }

    /// The mount that this process serves; what it has in a store outlives the process by `ttl`.
    pub(super) fn mount(&self, id: MountId, ttl: Ttl) -> Mount {
        let pid = std::process::id();
        let start = Stat::of(pid).map_or(0, |stat| stat.image.start);
        Mount { id, host: self.host.to_string(), pid, start, boot: self.boot.clone(), ttl }
    }

    /// Whether the process that serves a mount of this host may live.
    pub(super) fn is_served(&self, mount: &Mount) -> bool {
        mount.boot == self.boot && Stat::of(mount.pid).is_some_and(|stat| stat.image.start == mount.start)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<u32, Arc<Known>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session of a caller: of its environment, else of its job, else of its user.
    pub(super) fn claimant(&self, who: Requester, ttl: Ttl) -> Result<Arc<Claimant>, SessionError> {
        let caller = self.known().get(&who.pid).cloned();
        if let Some(caller) = caller
            && Image::read(&caller.stat) == Some(caller.image)
        {
            return Ok(Arc::clone(&caller.claimant));
        }
        self.known().remove(&who.pid);
        // The thread's own line: the process' sums over all threads, which takes the kernel longer.
        let file = File::open(format!("/proc/{0}/task/{0}/stat", who.pid)).ok();
        let Some((file, stat)) = file.and_then(|file| Stat::read(&file).map(|stat| (file, stat))) else {
            return Ok(Arc::new(self.unseen_claimant(who, ttl)));
        };
        let job = self.job_claimant(who, &stat, ttl);
        let claimant = Arc::new(match session_of_environment(who.pid)? {
            Some(id) => Claimant { id, kind: SessionKind::Named, ..job },
            None => job,
        });
        let mut known = self.known();
        if known.len() >= KNOWN_MAX {
            known.retain(|_, caller| Image::read(&caller.stat).is_some());
        }
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        let caller = Known { stat: file, image: stat.image, claimant: Arc::clone(&claimant) };
        known.insert(who.pid, Arc::new(caller));
        Ok(claimant)
    }

    /// The session of a caller, or that of its user where its environment makes no sense.
    pub(super) fn onlooker(&self, who: Requester, ttl: Ttl) -> Arc<Claimant> {
        self.claimant(who, ttl).unwrap_or_else(|_| Arc::new(self.unseen_claimant(who, ttl)))
    }

    /// The claimant of a session that is named by a path: it must exist.
    pub(super) fn named_claimant(&self, who: Requester, id: SessionId, ttl: Ttl) -> Claimant {
        let own = self.onlooker(who, ttl);
        Claimant { id, kind: SessionKind::Named, begin: Begin::Never, ..Claimant::clone(&own) }
    }

    fn job_claimant(&self, who: Requester, stat: &Stat, ttl: Ttl) -> Claimant {
        let pgid = stat.image.pgid;
        if pgid == 0 {
            return self.unseen_claimant(who, ttl);
        }
        let leader = Stat::of(pgid);
        let mut leaders = self.leaders.lock().unwrap_or_else(PoisonError::into_inner);
        let start = match &leader {
            Some(leader) => {
                leaders.insert(pgid, leader.image.start);
                leader.image.start
            }
            None => leaders.get(&pgid).copied().unwrap_or(0),
        };
        drop(leaders);
        let command = leader.as_ref().map_or(&stat.command, |leader| &leader.command);
        Claimant {
            id: self.session_id(&format!("{}-{pgid}-{}", self.host, self.tag(start))),
            kind: SessionKind::Job(Job { pgid, start, boot: self.boot.clone() }),
            origin: self.origin(who.uid, pgid, command),
            login: self.login(stat.image.sid),
            ttl,
            begin: Begin::WhereMissing,
        }
    }

    fn unseen_claimant(&self, who: Requester, ttl: Ttl) -> Claimant {
        Claimant {
            id: self.session_id(&format!("{}@{}", who.uid, self.host)),
            kind: SessionKind::Unseen,
            origin: self.origin(who.uid, 0, ""),
            login: None,
            ttl,
            begin: Begin::WhereMissing,
        }
    }

    fn session_id(&self, text: &str) -> SessionId {
        SessionId::parse(text.as_bytes()).expect("a host id with numbers and a tag makes a session name")
    }

    fn login(&self, sid: u32) -> Option<Login> {
        let start = Stat::of(sid).map_or(0, |leader| leader.image.start);
        (sid != 0).then(|| Login::new(&format!("{}-{sid}-{}", self.host, self.tag(start))))
    }

    fn origin(&self, uid: u32, pid: u32, command: &str) -> Origin {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let user = users.entry(uid).or_insert_with(|| user_name(uid).unwrap_or_else(|| uid.to_string()));
        Origin { user: user.clone(), host: self.host.to_string(), pid, command: command.to_owned() }
    }

    /// Seven characters that tell a start time on this boot of this machine from others.
    fn tag(&self, start: u64) -> String {
        let sum = crc32c::crc32c(format!("{} {start}", self.machine).as_bytes());
        let digit = |index| b"0123456789abcdefghijklmnopqrstuv"[(sum >> (5 * index)) as usize & 31] as char;
        (0..7).map(digit).collect()
    }

    /// Whether a job has a process.
    pub(super) fn is_alive(&self, job: &Job) -> bool {
        if job.boot != self.boot {
            return false;
        }
        let group = -libc::pid_t::try_from(job.pgid).unwrap_or(libc::pid_t::MAX);
        // SAFETY: signal 0 is sent to nobody; kill(2) only says whether the group has a process.
        let answer = unsafe { libc::kill(group, 0) };
        let nobody = answer != 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH);
        if nobody {
            return false;
        }
        match Stat::of(job.pgid) {
            // The number is free for a new process only once nobody is left in the group.
            Some(leader) if leader.image.start != job.start => false,
            Some(leader) if leader.image.pgid == job.pgid && !leader.is_dead() => true,
            // The leader has gone, or waits to be reaped: kill(2) counts zombies, a job does not.
            _ => all_processes().any(|stat| stat.image.pgid == job.pgid && !stat.is_dead()),
        }
    }

    /// Notes a job that was met in a store: it keeps its name though its leader may have gone.
    pub(super) fn recall(&self, job: &Job) {
        let mut leaders = self.leaders.lock().unwrap_or_else(PoisonError::into_inner);
        leaders.insert(job.pgid, job.start);
    }

    /// Forgets a job that has ended.
    pub(super) fn forget(&self, job: &Job) {
        let mut leaders = self.leaders.lock().unwrap_or_else(PoisonError::into_inner);
        if leaders.get(&job.pgid) == Some(&job.start) {
            leaders.remove(&job.pgid);
        }
    }

    /// Whether a process is of a job, or an ancestor of it is.
    pub(super) fn descends_from(&self, pid: u32, job: &Job) -> bool {
        let mut ancestor = pid;
        // Parents can't form a circle, but may be reused while they are walked.
        for _ in 0..1_000 {
            let Some(stat) = Stat::of(ancestor).filter(|_| ancestor != 0) else {
                return false;
            };
            if stat.image.pgid == job.pgid {
                return Stat::of(job.pgid).is_none_or(|leader| leader.image.start == job.start);
            }
            ancestor = stat.parent;
        }
        false
    }

    /// Whether a thread is about to end, with its process: a signal that ends a process leaves SIGKILL pending on
    /// each of its threads (`complete_signal` of kernel/signal.c).
    pub(super) fn is_dying(&self, pid: u32) -> bool {
        let status = fs::read_to_string(format!("/proc/{pid}/task/{pid}/status"));
        let Ok(status) = status else {
            return pid != 0;
        };
        let pending = status_field(&status, "SigPnd:").and_then(|text| u64::from_str_radix(text, 16).ok());
        let is_ending = status_field(&status, "State:").is_some_and(|state| state.starts_with(['Z', 'X']));
        is_ending || pending.is_some_and(|pending| pending & 1 << (libc::SIGKILL - 1) != 0)
    }

    /// The permission bits that a process takes from what it makes; the usual ones where it can't be seen.
    pub(super) fn umask(&self, pid: u32) -> u16 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let umask = status_field(&status, "Umask:").and_then(|text| u16::from_str_radix(text, 8).ok());
        umask.unwrap_or(0o022)
    }

    /// Whether a thread is all that a job has to act with: it, and ancestors in the job that wait for their only
    /// child. What such a job holds nobody lets go of before the thread goes on.
    ///
    /// One that lost its parent within the job is not seen.
    pub(super) fn is_alone(&self, pid: u32, kind: &SessionKind) -> bool {
        let SessionKind::Job(job) = kind else {
            return false;
        };
        let (mut at, mut child) = (pid, None);
        loop {
            let Some(stat) = Stat::of(at) else {
                return false;
            };
            if stat.image.pgid != job.pgid {
                return child.is_some();
            }
            let children = fs::read_to_string(format!("/proc/{at}/task/{at}/children")).unwrap_or_default();
            let children: Vec<u32> = children.split_whitespace().filter_map(|id| id.parse().ok()).collect();
            let is_waiting = child.is_none_or(|_: u32| waits_for_a_child(at));
            if stat.threads != 1 || children != child.into_iter().collect::<Vec<_>>() || !is_waiting {
                return false;
            }
            (at, child) = (stat.parent, Some(at));
        }
    }

    pub(super) fn boot(&self) -> &BootId {
        &self.boot
    }
}

fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Whether a process is in wait(2), by the system call that it is in (proc_pid_syscall(5)).
fn waits_for_a_child(pid: u32) -> bool {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let number = call.split_whitespace().next().and_then(|text| text.parse::<i64>().ok());
    [libc::SYS_wait4, libc::SYS_waitid].map(Some).contains(&number)
}

fn all_processes() -> impl Iterator<Item = Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(Stat::of)
}

/// The session that `LOCKFS_SESSION` names in the environment of a process, if it is set and not empty.
fn session_of_environment(pid: u32) -> Result<Option<SessionId>, SessionError> {
    let mut environment = Vec::new();
    let file = File::open(format!("/proc/{pid}/environ"));
    if file.and_then(|mut file| file.read_to_end(&mut environment)).is_err() {
        return Ok(None);
    }
    let mut variables = environment.split(|byte| *byte == 0);
    match variables.find_map(|variable| variable.strip_prefix(b"LOCKFS_SESSION=")) {
        None | Some([]) => Ok(None),
        Some(name) => SessionId::parse(name).map(Some),
    }
}

fn user_name(uid: u32) -> Option<String> {
    let mut buffer = vec![0; 16 * 1024];
    // SAFETY: a passwd of null pointers is a valid value for getpwuid_r(3) to fill.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // SAFETY: every pointer is to a live local, and the length is the buffer's.
    let error =
        unsafe { libc::getpwuid_r(uid, &raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found) };
    if error != 0 || found.is_null() {
        return None;
    }
    // SAFETY: the call succeeded, so the name is a string that ends with NUL and lives in the buffer.
    let name = unsafe { std::ffi::CStr::from_ptr(entry.pw_name) };
    name.to_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn processes() -> Processes {
        Processes::new("dev1".parse().unwrap()).unwrap()
    }

    fn requester(pid: u32) -> Requester {
        Requester { uid: 0, gid: 0, pid, request: 0, resent: false }
    }

    /// A shell in a job of its own that has printed a line; what it printed.
    fn job_of(script: &str) -> (Child, String) {
        let mut command = Command::new("bash");
        command.args(["-c", script]).process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        (child, line.trim().to_owned())
    }

    fn job(processes: &Processes, pid: u32) -> Job {
        match &processes.claimant(requester(pid), Ttl::DEFAULT).unwrap().kind {
            SessionKind::Job(job) => job.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_process_may_be_called_anything() {
        let line = "42 (a) R 1 (b)) S 7 40 41 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 3 0 12345 1 2 3 4 5 6 7 8 9 \
                    10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 777 29 30";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(
            (stat.command.as_str(), stat.state, stat.parent, stat.threads),
            ("a) R 1 (b)", b'S', 7, 3)
        );
        assert_eq!(stat.image.pgid, 40);
        assert_eq!(stat.image.sid, 41);
        assert_eq!((stat.image.start, stat.image.environment), (12345, 777));
    }

    #[test]
    fn all_processes_of_a_job_are_one_session() {
        let processes = processes();
        let (mut shell, child) = job_of("sleep 1000 & echo $!; read -r _; kill %1");
        let id = |pid| processes.claimant(requester(pid), Ttl::DEFAULT).unwrap().id.clone();
        assert_eq!(id(shell.id()), id(child.parse().unwrap()));
        assert!(id(shell.id()).as_str().starts_with(&format!("dev1-{}-", shell.id())));
        assert_ne!(id(shell.id()), id(std::process::id()));
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }

    #[test]
    fn a_job_lives_as_long_as_it_has_a_process_that_is_no_zombie() {
        let processes = processes();
        // The shell ends at once and waits to be reaped; what it started is in its job.
        let (mut shell, child) = job_of("sleep 1000 & echo $!");
        let child: u32 = child.parse().unwrap();
        let job = job(&processes, child);
        assert!(processes.is_alive(&job));
        // SAFETY: kill(2) of a process that this test started.
        unsafe { libc::kill(libc::pid_t::try_from(child).unwrap(), libc::SIGKILL) };
        while processes.is_alive(&job) {
            std::thread::yield_now();
        }
        assert!(fs::exists(format!("/proc/{}", shell.id())).unwrap(), "its leader was not reaped yet");
        shell.wait().unwrap();
    }

    #[test]
    fn a_job_of_another_start_or_boot_is_dead() {
        let processes = processes();
        let own = job(&processes, std::process::id());
        assert!(processes.is_alive(&own));
        assert!(!processes.is_alive(&Job { start: own.start + 1, ..own.clone() }));
        assert!(!processes.is_alive(&Job { boot: BootId::new("earlier"), ..own }));
    }

    #[test]
    fn a_child_in_a_job_of_its_own_descends_from_the_parents() {
        let processes = processes();
        let own = job(&processes, std::process::id());
        let (mut shell, _) = job_of("echo; read -r _");
        assert!(processes.descends_from(shell.id(), &own));
        let child = job(&processes, shell.id());
        assert!(!processes.descends_from(std::process::id(), &child));
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }

    #[test]
    fn an_exec_with_another_environment_is_seen() {
        let processes = processes();
        let (mut shell, _) = job_of("echo; read -r _; LOCKFS_SESSION=agent exec bash -c 'echo; read -r _'");
        let pid = shell.id();
        let id = || processes.claimant(requester(pid), Ttl::DEFAULT).unwrap().id.clone();
        assert!(id().as_str().starts_with("dev1-"));
        std::io::Write::write_all(shell.stdin.as_mut().unwrap(), b"\n").unwrap();
        while id().as_str() != "agent" {
            std::thread::yield_now();
        }
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }

    #[test]
    fn a_caller_that_cannot_be_seen_is_a_session_of_its_user() {
        let claimant = processes()
            .claimant(Requester { uid: 77, gid: 7, pid: 0, request: 0, resent: false }, Ttl::DEFAULT)
            .unwrap();
        assert_eq!((claimant.id.as_str(), &claimant.kind), ("77@dev1", &SessionKind::Unseen));
    }
}
