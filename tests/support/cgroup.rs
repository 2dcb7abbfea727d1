//! Control groups of version 2 that live as long as somebody holds them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::child::skip;

const PREFIX: &str = "mesh-init-test.";

/// A control group that this process is in. Its sockets belong to it from then on; those that it has already do not.
#[derive(Debug)]
pub(crate) struct Cgroup {
    root: PathBuf,
    parent: PathBuf,
    folder: PathBuf,
}

impl Cgroup {
    /// A group in a group, both fresh, and moves this process there.
    pub(crate) fn enter() -> Self {
        let root = root().unwrap_or_else(|| skip("no control groups of version 2 are mounted"));
        sweep(&root);
        let parent = root.join(format!("{PREFIX}{}", std::process::id()));
        let folder = parent.join("pod");
        if let Err(error) = fs::create_dir_all(&folder) {
            skip(&format!("cannot make a control group: {error}"));
        }
        let cgroup = Self { root, parent, folder };
        cgroup.come_in();
        cgroup
    }

    pub(crate) fn folder(&self) -> &str {
        self.folder.to_str().expect("a path of ours")
    }

    /// The group that this one is in.
    pub(crate) fn parent(&self) -> &Path {
        &self.parent
    }

    /// Another group beside it, with nobody in it.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        let folder = self.parent.join(name);
        fs::create_dir(&folder).expect("a group of ours");
        folder
    }

    /// Runs `work` while this process is in the root of the hierarchy, so that the sockets it makes belong there.
    pub(crate) fn outside<T>(&self, work: impl FnOnce() -> T) -> T {
        join(&self.root);
        let answer = work();
        self.come_in();
        answer
    }

    /// Runs `work` while this process is in a group inside this one, so that the sockets it makes belong there.
    pub(crate) fn inside<T>(&self, name: &str, work: impl FnOnce() -> T) -> T {
        let inner = self.inner(name);
        join(&inner);
        let answer = work();
        self.come_in();
        answer
    }

    /// A group inside this one.
    pub(crate) fn inner(&self, name: &str) -> PathBuf {
        let inner = self.folder.join(name);
        fs::create_dir_all(&inner).expect("a group of ours");
        inner
    }

    fn come_in(&self) {
        join(&self.folder);
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        join(&self.root);
        // A thread that is ending is in it until it has ended; a socket of one that still runs does not hold it.
        let end = Instant::now() + Duration::from_secs(3);
        for folder in groups(&self.folder).iter().chain([&self.parent]) {
            while let Err(error) = fs::remove_dir(folder) {
                assert!(Instant::now() < end, "removing {}: {error}", folder.display());
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// A group, after all that are in it.
fn groups(folder: &Path) -> Vec<PathBuf> {
    let inner = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all: Vec<_> = inner.filter(|path| path.is_dir()).flat_map(|path| groups(&path)).collect();
    all.push(folder.to_owned());
    all
}

fn join(group: &Path) {
    let procs = group.join("cgroup.procs");
    fs::write(&procs, std::process::id().to_string())
        .unwrap_or_else(|error| panic!("{}: {error}", procs.display()));
}

/// Where the whole hierarchy is mounted.
fn root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let mut places =
        mounts.lines().filter(|line| line.contains(" - cgroup2 ")).map(|line| line.split(' ').skip(3));
    places.find_map(|mut place| (place.next()? == "/").then(|| place.next().map(PathBuf::from))?)
}

/// Groups of cases that failed, which end without a word.
fn sweep(root: &Path) {
    for left in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = left.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        if !Path::new("/proc").join(pid).exists() {
            let inner = fs::read_dir(left.path()).into_iter().flatten().flatten();
            let groups = inner.map(|entry| entry.path()).filter(|path| path.is_dir()).chain([left.path()]);
            // Another case may be as quick.
            groups.for_each(|group| drop(fs::remove_dir(group)));
        }
    }
}
