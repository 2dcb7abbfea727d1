//! Network namespaces that live as long as somebody holds them.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::command::Run;
use super::creds::Who;

/// Where the namespaces get their names; the harness mounts a tmpfs of its own on `/run`.
const NAMES: &str = "/run/netns";

/// A network namespace. Clones are the same namespace.
#[derive(Clone, Debug)]
pub(crate) struct Netns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    handle: File,
}

impl Netns {
    /// A fresh namespace, `lo` up, bound to `/run/netns/<name>`; a second one of a name gets a number, too.
    pub(crate) fn new(name: &str) -> Self {
        Self::named(name, create)
    }

    /// One that is there already, by its file, which is given a name like any other; `lo` is brought up.
    pub(crate) fn of(name: &str, file: &Path) -> Self {
        Self::named(name, |path| {
            fs::create_dir_all(NAMES)?;
            name_it(file, path)
        })
    }

    fn named(name: &str, make: impl FnOnce(&Path) -> io::Result<File> + Send) -> Self {
        let numbered = |number| if number == 1 { name.to_owned() } else { format!("{name}{number}") };
        let free = (1..).map(numbered).find(|name| !Path::new(NAMES).join(name).exists());
        let name = free.expect("there is always one more number");
        let path = Path::new(NAMES).join(&name);
        let handle = thread::scope(|scope| scope.spawn(|| make(&path)).join().expect("the creating thread"))
            .unwrap_or_else(|error| panic!("creating the network namespace `{name}`: {error}"));
        let netns = Self(Arc::new(Inner { name, handle }));
        netns.ip("link set lo up");
        netns
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// The file that names this namespace, as `--netns` and `ip` take it.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new(NAMES).join(self.name())
    }

    /// Takes its name away: it goes with the last one who is inside or holds it.
    pub(crate) fn forget(&self) {
        umount2(&self.path(), MntFlags::MNT_DETACH).expect("a mount of ours");
        fs::remove_file(self.path()).expect("a file of ours");
    }

    /// Runs `work` on a thread inside this namespace.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.run_as(Who::ROOT, work)
    }

    /// Runs `work` on a thread inside this namespace that belongs to `who`.
    pub(crate) fn run_as<T: Send>(&self, who: Who, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter(who);
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a thread inside this namespace that belongs to `who` and lives until it returns.
    pub(crate) fn spawn(&self, who: Who, work: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
        let netns = self.clone();
        thread::spawn(move || {
            netns.enter(who);
            work();
        })
    }

    /// Runs `ip` with one command a line.
    #[track_caller]
    pub(crate) fn ip(&self, lines: &str) {
        Run::with_input(self, "ip", &["-batch", "-"], lines).ok();
    }

    /// Writes below `/proc/sys`.
    pub(crate) fn sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/{key}");
        self.run(|| fs::write(&path, value)).unwrap_or_else(|error| panic!("{path} = {value}: {error}"));
    }

    fn enter(&self, who: Who) {
        setns(self.0.handle.as_fd(), CloneFlags::CLONE_NEWNET).expect("entering a namespace of our own");
        who.assume().unwrap_or_else(|error| panic!("becoming {who}: {error}"));
    }
}

/// Moves the calling thread into a new namespace and gives that a name and a handle.
fn create(path: &Path) -> io::Result<File> {
    const OWN: &str = "/proc/thread-self/ns/net";
    unshare(CloneFlags::CLONE_NEWNET)?;
    fs::create_dir_all(NAMES)?;
    name_it(Path::new(OWN), path)
}

fn name_it(file: &Path, path: &Path) -> io::Result<File> {
    File::create_new(path)?;
    mount(Some(file), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    File::open(file)
}
