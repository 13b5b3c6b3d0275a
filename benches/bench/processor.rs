//! Who runs where: processors and niceness.

use std::fs;
use std::io;

/// How many processors there are for this process.
pub(crate) fn count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The set of one processor, the last, or of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    /// The last processor alone.
    One,
    /// All of them.
    Any,
}

impl On {
    /// The word for it, for the processes that measure.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Any => "any",
        }
    }

    /// What that word says.
    pub(crate) fn said(word: &str) -> Self {
        if word == "one" { Self::One } else { Self::Any }
    }
}

/// Puts all threads of a process on a set of processors; 0 is this process.
pub(crate) fn place(pid: u32, on: On) -> io::Result<()> {
    let tasks = if pid == 0 { "/proc/self/task".to_owned() } else { format!("/proc/{pid}/task") };
    for task in fs::read_dir(tasks)? {
        let thread = task?.file_name().to_str().and_then(|name| name.parse().ok()).unwrap_or(0);
        // SAFETY: a zeroed set is the empty one, and the numbers are below its size.
        let set = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            let last = count_of_machine() - 1;
            let first = if on == On::One { last } else { 0 };
            (first..=last).for_each(|processor| libc::CPU_SET(processor, &mut set));
            set
        };
        // SAFETY: the set lives, and its size is told.
        let result = unsafe { libc::sched_setaffinity(thread, size_of_val(&set), &raw const set) };
        // A thread that ended meanwhile needs no place.
        if result != 0 && io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH) {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Puts all processes of a group on a set of processors: a daemon and what it started.
pub(crate) fn place_group(group: u32, on: On) -> io::Result<()> {
    let group = group.to_string();
    for process in fs::read_dir("/proc")? {
        let Some(pid) = process?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Field 5 is the group (proc_pid_stat(5)); the third behind the command, which may hold anything. A process
        // that ended meanwhile is of no group.
        let line = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = line.rsplit_once(')').map_or("", |(_, fields)| fields);
        if fields.split_ascii_whitespace().nth(2) == Some(&*group) {
            place(pid, on)?;
        }
    }
    Ok(())
}

fn count_of_machine() -> usize {
    // SAFETY: sysconf(3) takes a number.
    let count = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    usize::try_from(count).unwrap_or(1).clamp(1, 1_024)
}

/// Goes before whatever else runs on the machine, as far as allowed; what this process starts does too.
pub(crate) fn be_urgent() -> bool {
    // SAFETY: setpriority(2) takes numbers.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) == 0 }
}
