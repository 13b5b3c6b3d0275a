//! Which lockfs mounts there are, and which one a command means.
//!
//! Nothing here asks a mount anything: the answers come from `/proc/self/mountinfo`, and symlinks are
//! resolved by hand up to the mount and no further. So a mount whose daemon is gone or stuck is found like
//! any other, and can be reported, detached or unmounted.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use super::out::escaped;
use super::{Exit, Failure};

/// The type of a lockfs mount in mountinfo.
const FS_TYPE: &[u8] = b"fuse.lockfs";

/// Where a mount is looked for when nothing says another place.
const USUAL_PLACE: &str = "/locks";

/// As many symlinks as the kernel follows (`MAXSYMLINKS`, path_resolution(7)).
const SYMLINKS_MAX: usize = 40;

/// A lockfs mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Its number, unique among those mounted at one time.
    pub(crate) id: u64,
    /// Where it is mounted.
    pub(crate) point: PathBuf,
}

impl Mount {
    /// The path of `name` in the mount.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        match name.as_ref() {
            root if root == Path::new("") => self.point.clone(),
            name => self.point.join(name),
        }
    }
}

/// A place in a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The mount.
    pub(crate) mount: Mount,
    /// The name in it; empty for its root.
    pub(crate) name: PathBuf,
}

impl Place {
    /// Its absolute path.
    pub(crate) fn path(&self) -> PathBuf {
        self.mount.path(&self.name)
    }

    /// The name of the lock: of one that is named by its session, the name in the tree.
    pub(crate) fn lock(&self) -> &Path {
        let in_session = self.name.strip_prefix(".sessions").ok().and_then(|rest| {
            let mut parts = rest.components();
            parts.next().map(|_session| parts.as_path())
        });
        in_session.unwrap_or(&self.name)
    }

    /// The file that says everything of its lock.
    pub(crate) fn info(&self) -> PathBuf {
        self.mount.path(Path::new(".lockfs/info").join(self.lock()))
    }

    /// The file whose opening waits for its lock.
    pub(crate) fn door(&self) -> PathBuf {
        self.mount.path(Path::new(".wait").join(self.lock()))
    }

    /// Its name as it is shown.
    pub(crate) fn shown(&self) -> String {
        shown(&self.name)
    }

    /// This place, if it can be a lock's: it is not the mount itself, nor of what the mount adds to the tree.
    pub(crate) fn of_a_lock(self) -> Result<Self, Failure> {
        let usage = |what: String| Err(Failure::new(Exit::Usage, what));
        let name = self.shown();
        if self.name.as_os_str().is_empty() {
            return usage(format!("{} is the mount itself: name a lock in it", shown(&self.mount.point)));
        }
        if let Ok(lock) = self.name.strip_prefix(".wait") {
            return usage(format!("{name} is where {} is waited for: name that", shown(lock)));
        }
        if self.lock().as_os_str().is_empty() || self.name.starts_with(".lockfs") {
            return usage(format!("{name} is no place for a lock"));
        }
        Ok(self)
    }
}

/// A path as it is shown: on one line.
pub(crate) fn shown(path: &Path) -> String {
    escaped(path.as_os_str().as_bytes())
}

/// The lockfs mounts that this process sees, the visible one of those that share a mountpoint.
pub(crate) fn mounted() -> Result<Vec<Mount>, Failure> {
    let text = std::fs::read("/proc/self/mountinfo").map_err(|error| {
        Failure::new(Exit::Unavailable, format!("cannot read /proc/self/mountinfo: {error}"))
    })?;
    Ok(parse(&text))
}

/// The lockfs mounts of a mountinfo, whose format is in proc_pid_mountinfo(5).
fn parse(mountinfo: &[u8]) -> Vec<Mount> {
    let mut visible: Vec<(Mount, bool)> = Vec::new();
    for line in mountinfo.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b' ');
        let id = fields.next().and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
        let point = fields.nth(3).map(unescaped);
        // Optional fields end with a single hyphen; the type follows.
        let kind = fields.skip_while(|field| *field != b"-").nth(1);
        let (Some(id), Some(point), Some(kind)) = (id, point, kind) else { continue };
        // A later mount covers an earlier one at the same place.
        visible.retain(|(mount, _)| mount.point != point);
        visible.push((Mount { id, point }, kind == FS_TYPE));
    }
    visible.into_iter().filter_map(|(mount, is_ours)| is_ours.then_some(mount)).collect()
}

/// A path of mountinfo: blank, tab, line feed and backslash are a backslash and three octal digits there.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..3).and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok().filter(|_| first == b'\\')?;
            u8::from_str_radix(digits, 8).ok()
        });
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// `path` without symlinks on the way to a mount of `mounts`, and without `.` and `..`; absolute.
pub(crate) fn resolved(path: &Path, mounts: &[Mount]) -> Result<PathBuf, Failure> {
    let mut todo: VecDeque<OsString> = VecDeque::new();
    let mut done = if path.is_absolute() {
        PathBuf::from("/")
    } else {
        std::env::current_dir()
            .map_err(|error| Failure::new(Exit::Failed, format!("no working directory: {error}")))?
    };
    todo.extend(path.components().map(|part| part.as_os_str().to_owned()));
    let mut links = 0;
    while let Some(part) = todo.pop_front() {
        match Path::new(&part).components().next() {
            Some(Component::RootDir) => done = PathBuf::from("/"),
            Some(Component::ParentDir) => _ = done.pop(),
            Some(Component::Normal(name)) => {
                done.push(name);
                if mount_of(&done, mounts).is_some() {
                    continue;
                }
                if let Ok(target) = std::fs::read_link(&done) {
                    links += 1;
                    if links > SYMLINKS_MAX {
                        let path = shown(path);
                        return Err(Failure::new(Exit::Failed, format!("{path}: too many symbolic links")));
                    }
                    done.pop();
                    for part in target.components().rev() {
                        todo.push_front(part.as_os_str().to_owned());
                    }
                }
            }
            Some(Component::CurDir | Component::Prefix(_)) | None => {}
        }
    }
    Ok(done)
}

/// The innermost of `mounts` that `path`, which is [`resolved`], is in.
pub(crate) fn mount_of<'a>(path: &Path, mounts: &'a [Mount]) -> Option<&'a Mount> {
    let around = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    around.max_by_key(|mount| mount.point.as_os_str().len())
}

fn place_in(path: &Path, mounts: &[Mount]) -> Result<Option<Place>, Failure> {
    let path = resolved(path, mounts)?;
    Ok(mount_of(&path, mounts).map(|mount| {
        let name = path.strip_prefix(&mount.point).expect("the path starts with its mountpoint");
        Place { mount: mount.clone(), name: name.to_owned() }
    }))
}

/// The mount that `point` names, or is inside of.
pub(crate) fn mount_at(point: &Path) -> Result<Mount, Failure> {
    match place_in(point, &mounted()?)? {
        Some(place) => Ok(place.mount),
        None => Err(Failure::new(
            Exit::Unavailable,
            format!("no lockfs is mounted at {0}: lockfs mount {0} mounts one", shown(point)),
        )),
    }
}

/// The mount that is meant when none is named: that of `LOCKFS_MOUNT`, else the one of the working
/// directory, else the only one, else the one at `/locks`.
pub(crate) fn default_mount() -> Result<Mount, Failure> {
    let named = std::env::var_os("LOCKFS_MOUNT").filter(|name| !name.is_empty());
    choose(named.as_deref(), &mounted()?)
}

fn choose(named: Option<&OsStr>, mounts: &[Mount]) -> Result<Mount, Failure> {
    if let Some(named) = named {
        let named = Path::new(named);
        return place_in(named, mounts)?.map(|place| place.mount).ok_or_else(|| {
            let named = shown(named);
            Failure::new(
                Exit::Unavailable,
                format!("no lockfs is mounted at {named}, which LOCKFS_MOUNT names: lockfs mount {named}, or unset it"),
            )
        });
    }
    // A working directory that is gone is in no mount.
    if let Ok(Some(place)) = place_in(Path::new("."), mounts) {
        return Ok(place.mount);
    }
    let usual = mounts.iter().find(|mount| mount.point == Path::new(USUAL_PLACE));
    match (mounts, usual) {
        ([only], _) | (_, Some(only)) => Ok(only.clone()),
        ([], None) => Err(Failure::new(
            Exit::Unavailable,
            format!("no lockfs is mounted here: lockfs mount {USUAL_PLACE} mounts one"),
        )),
        _ => {
            let points: Vec<_> = mounts.iter().map(|mount| shown(&mount.point)).collect();
            let points = points.join(", ");
            Err(Failure::new(
                Exit::Usage,
                format!("several lockfs are mounted: set LOCKFS_MOUNT to one of {points}"),
            ))
        }
    }
}

/// The place that `path` means: an absolute path, or one that starts with `./` or `../`, as it stands; any
/// other is relative to the working directory inside the mount, and to the mount outside of it.
pub(crate) fn place(path: &Path) -> Result<Place, Failure> {
    let outside = || {
        let path = shown(path);
        Failure::new(
            Exit::Unavailable,
            format!(
                "{path} is not in a lockfs mount: name a lock below a mountpoint, or mount one with lockfs mount"
            ),
        )
    };
    if path.as_os_str().is_empty() {
        return Err(Failure::new(Exit::Usage, "an empty path names no lock"));
    }
    if !matches!(path.components().next(), Some(Component::Normal(_))) {
        return place_in(path, &mounted()?)?.ok_or_else(outside);
    }
    let mount = default_mount()?;
    let mounts = [mount];
    let base = place_in(Path::new("."), &mounts).ok().flatten().map(|place| place.path());
    let base = base.unwrap_or_else(|| mounts[0].point.clone());
    place_in(&base.join(path), &mounts)?.ok_or_else(outside)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &[u8] = b"\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
40 22 0:40 / /locks rw,nosuid - fuse.lockfs lockfs rw,user_id=0\n\
41 22 0:41 / /mnt/a\\040b\\134c\\012d rw shared:1 master:2 - fuse.lockfs lockfs rw\n\
42 22 0:42 / /covered rw - fuse.lockfs lockfs rw\n\
43 22 0:43 / /covered rw - tmpfs tmpfs rw\n\
44 22 0:44 / /twice rw - fuse.lockfs lockfs rw\n\
45 44 0:45 / /twice rw - fuse.lockfs lockfs rw\n\
46 22 0:46 / /ssh rw - fuse.sshfs host: rw\n";

    fn mount(id: u64, point: impl Into<PathBuf>) -> Mount {
        Mount { id, point: point.into() }
    }

    #[test]
    fn the_visible_lockfs_mounts_are_found() {
        let expected = [mount(40, "/locks"), mount(41, "/mnt/a b\\c\nd"), mount(45, "/twice")];
        assert_eq!(parse(MOUNTINFO), expected);
    }

    #[test]
    fn a_short_line_of_mountinfo_is_skipped() {
        assert_eq!(parse(b"\n1 2\n1 2 3 / /x rw -\nx 1 0:1 / /x rw - fuse.lockfs l rw"), []);
    }

    #[test]
    fn an_escape_is_three_octal_digits() {
        assert_eq!(unescaped(b"a\\040b"), Path::new("a b"));
        assert_eq!(unescaped(b"a\\04"), Path::new("a\\04"));
        assert_eq!(unescaped(b"\\999\\"), Path::new("\\999\\"));
    }

    #[test]
    fn a_symlink_leads_to_the_mount_and_is_not_followed_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let mounts = [mount(1, root.join("real"))];
        // What stands for the mount holds a symlink: it must not be read.
        std::fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink("/", root.join("real/lock")).unwrap();
        std::os::unix::fs::symlink("real", root.join("relative")).unwrap();
        std::os::unix::fs::symlink(root.join("relative"), root.join("absolute")).unwrap();
        std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
        for way in ["real", "relative", "absolute", "absolute/../absolute", "nothing/../real"] {
            let place = place_in(&root.join(way).join("a/./lock"), &mounts).unwrap().unwrap();
            assert_eq!(place.name, Path::new("a/lock"), "{way}");
        }
        assert_eq!(place_in(&root.join("real/.."), &mounts).unwrap(), None);
        assert!(place_in(&root.join("loop/x"), &mounts).is_err());
    }

    #[test]
    fn a_lock_that_is_named_by_its_session_is_the_one_in_the_tree() {
        let lock = |name: &str| Place { mount: mount(1, "/locks"), name: name.into() }.lock().to_owned();
        assert_eq!(lock("build/web"), Path::new("build/web"));
        assert_eq!(lock(".sessions/agent-7/build/web"), Path::new("build/web"));
        assert_eq!(lock(".sessions/agent-7"), Path::new(""));
        assert_eq!(lock(".sessions"), Path::new(".sessions"));
    }

    #[test]
    fn the_default_mount_is_the_named_the_only_or_the_usual_one() {
        let [usual, other, third] = [mount(1, "/locks"), mount(2, "/other"), mount(3, "/third")];
        let all = [other.clone(), usual.clone()];
        assert_eq!(choose(Some(OsStr::new("/other")), &all), Ok(other.clone()));
        assert_eq!(choose(None, std::slice::from_ref(&other)), Ok(other.clone()));
        assert_eq!(choose(None, &all), Ok(usual));
        let none = choose(None, &[]).unwrap_err();
        assert_eq!((none.exit, none.message.contains("lockfs mount /locks")), (Exit::Unavailable, true));
        let several = choose(None, &[other, third]).unwrap_err();
        assert_eq!((several.exit, several.message.contains("/other, /third")), (Exit::Usage, true));
        assert_eq!(choose(Some(OsStr::new("/nowhere")), &all).unwrap_err().exit, Exit::Unavailable);
    }
}
