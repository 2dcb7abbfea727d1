//! Control groups of version 2 (cgroups(7)): where programs are attached.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::error::{Class, Error, Result};
use crate::sys::fs;

/// A control group.
#[derive(Debug)]
pub struct Cgroup {
    /// Its folder.
    pub folder: File,
    /// Its number, which is its folder's inode.
    pub id: u64,
}

/// Where file systems of a kind are mounted, in the order of the mounts (proc_pid_mountinfo(5)).
fn mounts(kind: &str) -> Result<Vec<PathBuf>> {
    let text = fs::read_system("/proc/thread-self/mountinfo")?
        .ok_or_else(|| Error::host("where file systems are mounted cannot be told: /proc is not mounted"))?;
    Ok(text.lines().filter_map(|line| mount(line, kind)).collect())
}

/// The place of a line, if the file system is of `kind`.
fn mount(line: &str, kind: &str) -> Option<PathBuf> {
    let (place, file_system) = line.split_once(" - ")?;
    if file_system.split(' ').next() != Some(kind) {
        return None;
    }
    let mut fields = place.split(' ');
    // What is mounted is the whole of it, and not a folder.
    let (root, at) = (fields.nth(3)?, fields.next()?);
    (root == "/").then(|| PathBuf::from(unescape(at)))
}

/// Spaces, tabs, line ends and backslashes are written as three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = code.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (first, code) {
            (b'\\', Some(code)) => {
                bytes.push(code);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The root of the hierarchy of version 2, as far as this namespace of control groups shows it.
///
/// # Errors
/// It is mounted nowhere.
pub fn root() -> Result<Cgroup> {
    let mounted = mounts("cgroup2")?.into_iter().next().ok_or_else(|| {
        Error::host("no control groups of version 2 are mounted").remedy(
            "mount -t cgroup2 none /sys/fs/cgroup/unified, or give the one to attach to with --cgroup",
        )
    })?;
    open(&mounted)
}

/// How deep kubelets put the control groups of pods, both with systemd and without.
const DEPTH: usize = 5;

/// The control group of a pod: where the runtime says, if it is there in this hierarchy; else that of a kubelet for the
/// pod's `uid`; else the root.
///
/// # Errors
/// No hierarchy of version 2 is mounted.
pub fn of_pod(said: Option<&str>, uid: Option<&str>) -> Result<Cgroup> {
    let mounted = mounts("cgroup2")?.into_iter().next();
    if let Some(mounted) = mounted {
        let inside =
            |path: &str| Path::new(path).components().all(|part| !matches!(part, Component::ParentDir));
        let said = said.filter(|said| inside(said)).map(|said| mounted.join(said.trim_start_matches('/')));
        let found = said.and_then(|said| open(&said).ok());
        let found = found.or_else(|| find(&mounted, uid?, DEPTH));
        if let Some(found) = found {
            return Ok(found);
        }
    }
    root()
}

/// The folder that a kubelet has made for the pod: `pod<uid>`, or with systemd `…pod<uid>.slice` with `_` for `-`.
fn find(folder: &Path, uid: &str, depth: usize) -> Option<Cgroup> {
    let (plain, slice) = (format!("pod{uid}"), format!("pod{}.slice", uid.replace('-', "_")));
    // What is not a folder, or has just gone.
    let inner: Vec<PathBuf> = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    let named = |path: &&PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name == plain || name.ends_with(&slice)
    };
    if let Some(found) = inner.iter().find(named).and_then(|path| open(path).ok()) {
        return Some(found);
    }
    let deeper = depth.checked_sub(1)?;
    let kubelets = |path: &&PathBuf| path.to_string_lossy().contains("kube");
    inner.iter().filter(kubelets).find_map(|path| find(path, uid, deeper))
}

/// How deep control groups are looked for: more than anybody nests them.
const NESTED: usize = 16;

/// Whether the control group of the number `of` is that of `group`, or one inside it; nothing if either is not to be seen.
#[must_use]
pub fn is_inside(of: u64, group: u64) -> Option<bool> {
    let mounted = mounts("cgroup2").ok()?.into_iter().next()?;
    let group = by_number(&mounted, group, NESTED)?;
    match by_number(&group, of, NESTED) {
        Some(_) => Some(true),
        None => by_number(&mounted, of, NESTED).map(|_| false),
    }
}

/// Whether there is a control group of that number, as far as can be seen.
#[must_use]
pub fn is_there(number: u64) -> bool {
    let mounted = mounts("cgroup2").ok().and_then(|mounts| mounts.into_iter().next());
    mounted.is_some_and(|mounted| by_number(&mounted, number, NESTED).is_some())
}

/// The folder of that number, at `folder` or below.
fn by_number(folder: &Path, number: u64, depth: usize) -> Option<PathBuf> {
    if std::fs::metadata(folder).is_ok_and(|about| about.ino() == number) {
        return Some(folder.to_owned());
    }
    let deeper = depth.checked_sub(1)?;
    let inner = std::fs::read_dir(folder).ok()?.flatten();
    let mut folders = inner.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.find_map(|entry| by_number(&entry.path(), number, deeper))
}

/// The control group of the folder `path`.
///
/// # Errors
/// It is none of version 2.
pub fn open(path: &Path) -> Result<Cgroup> {
    let problem = |why: String| {
        Error::new(Class::Usage, format!("the control group {} {why}", path.display()))
            .remedy("give the folder of one of version 2, as /proc/PID/cgroup and the mount of cgroup2 tell")
    };
    let folder = File::open(path).map_err(|error| problem(format!("cannot be opened: {error}")))?;
    let kind = nix::sys::statfs::fstatfs(&folder)
        .map_err(|errno| problem(format!("cannot be looked at: {errno}")))?;
    if kind.filesystem_type() != nix::sys::statfs::CGROUP2_SUPER_MAGIC {
        return Err(problem("is none of version 2".into()));
    }
    let about = folder.metadata().map_err(|error| problem(format!("cannot be looked at: {error}")))?;
    Ok(Cgroup { id: about.ino(), folder })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo() {
        let line = |root: &str, at: &str, kind: &str| {
            format!("36 35 0:30 {root} {at} rw,nosuid shared:9 - {kind} none rw")
        };
        let of = |line: &str| mount(line, "cgroup2");
        assert_eq!(
            of(&line("/", "/sys/fs/cgroup/unified", "cgroup2")),
            Some("/sys/fs/cgroup/unified".into())
        );
        assert_eq!(of(&line("/", "/a\\040b\\134c", "cgroup2")), Some("/a b\\c".into()));
        assert_eq!(of(&line("/kubepods", "/x", "cgroup2")), None);
        assert_eq!(of(&line("/", "/x", "cgroup")), None);
        assert_eq!(of(""), None);
    }
}
