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
