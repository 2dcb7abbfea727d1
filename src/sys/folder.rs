//! A folder of configuration that others write too: locked among our own runs, read whole, changed file by file, each
//! change one rename.
//!
//! What is half-written has a name that no CNI runtime reads (`.mesh-init-PID.tmp`: its extension is none of `.conf`,
//! `.conflist`, `.json`); one that a killed run left is swept by the next, which it cannot meet because of the lock.

use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, OpenHow, ResolveFlag, openat2};

use crate::error::{Class, Error, Result};

const TEMPORARY: (&str, &str) = (".mesh-init-", ".tmp");
/// The most that is read of a file here.
const LIMIT: u64 = 4 << 20;
/// The most that a program may have.
const PROGRAM_LIMIT: u64 = 256 << 20;

/// A folder, by the path that it really has.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    root: PathBuf,
}

/// Held as long as it lives; another run on the same folder waits.
#[derive(Debug)]
pub struct Locked {
    _lock: Flock<File>,
}

/// An entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name; what is no UTF-8 in it is replaced.
    pub name: String,
    /// Whether it is a folder, links followed.
    pub folder: bool,
    /// Whether the directory itself says that it is a folder, as a runtime looks at it.
    pub plainly_folder: bool,
}

/// How a change went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It holds.
    Done,
    /// The file was not as it was when it was read, or is not as it was written: nothing of ours overwrote that.
    Overtaken,
}

/// The folder at `path` inside `root`; `None` if it is not there.
///
/// # Errors
/// It cannot be reached, or is no folder.
pub fn open(root: &Path, path: &Path) -> Result<Option<Folder>> {
    match resolve(root, path) {
        Ok(real) if real.is_dir() => Ok(Some(Folder { path: real, root: root.to_owned() })),
        Ok(_) => Err(Error::new(Class::Usage, format!("{} is no folder", path.display()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&error, "reading", path)),
    }
}

/// The folder at `path` inside `root`, made if it is not there.
///
/// # Errors
/// It cannot be made.
pub fn make(root: &Path, path: &Path) -> Result<Folder> {
    if let Some(folder) = open(root, path)? {
        return Ok(folder);
    }
    let inside = root.join(path.strip_prefix("/").unwrap_or(path));
    fs::create_dir_all(&inside).map_err(|error| failed(&error, "making", &inside))?;
    open(root, path)?.ok_or_else(|| Error::refused(format!("{} went away", inside.display())))
}

/// Where `path` leads inside `root`, links followed as they are inside it (openat2(2), `RESOLVE_IN_ROOT`): a link of the
/// host to `/var/lib/…` leads elsewhere in a container.
fn resolve(root: &Path, path: &Path) -> std::io::Result<PathBuf> {
    if root == Path::new("/") {
        return path.canonicalize();
    }
    let root = File::open(root)?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let found: OwnedFd = openat2(&root, path, how)?;
    fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

/// An error of the system: what it was about, and what helps.
fn failed(error: &std::io::Error, doing: &str, path: &Path) -> Error {
    let problem = format!("{doing} {}: {error}", path.display());
    let privilege = "run as root; a file of another owner also needs the capabilities CHOWN and DAC_OVERRIDE";
    let read_only = "mount the folder writable; where it is read-only by design, give the folder that the runtime has instead";
    let known = [
        (Errno::EROFS, Class::Host, read_only),
        (Errno::EACCES, Class::Privilege, privilege),
        (Errno::EPERM, Class::Privilege, privilege),
        (Errno::EBUSY, Class::Refused, "mount the folder, not the single file"),
        (Errno::ENOSPC, Class::Refused, "make room and run it again; the file is as it was"),
    ];
    match known.into_iter().find(|(errno, ..)| Some(*errno as i32) == error.raw_os_error()) {
        Some((_, class, remedy)) => Error::new(class, problem).remedy(remedy),
        None => Error::refused(problem),
    }
}

impl Folder {
    /// Where it really is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until no other run works here.
    ///
    /// # Errors
    /// One still does.
    pub fn lock(&self, wait: Duration) -> Result<Locked> {
        let end = Instant::now() + wait;
        let mut file = File::open(&self.path).map_err(|error| failed(&error, "opening", &self.path))?;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Locked { _lock: lock }),
                Err((again, Errno::EAGAIN | Errno::EINTR)) if Instant::now() < end => {
                    file = again;
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err((_, Errno::EAGAIN | Errno::EINTR)) => {
                    let problem = format!("another run works on {}", self.path.display());
                    return Err(Error::new(Class::TryAgain, problem).remedy("try again in a moment"));
                }
                Err((_, error)) => return Err(failed(&error.into(), "locking", &self.path)),
            }
        }
    }

    /// Takes away what a killed run left here. Only with the lock held.
    pub fn sweep(&self) {
        sweep(&self.path);
    }

    /// What is in it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>> {
        self.list_of("")
    }

    /// What is in a folder of it; nothing if that is not there.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn list_of(&self, below: &str) -> Result<Vec<Listed>> {
        let path = self.path.join(below);
        let path = resolve(&self.root, &self.within(&path)).unwrap_or(path);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound && !below.is_empty() => return Ok(Vec::new()),
            Err(error) => return Err(failed(&error, "reading", &path)),
        };
        let mut listed = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| failed(&error, "reading", &path))?;
            let plainly_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            let leads = || resolve(&self.root, &self.within(&entry.path())).is_ok_and(|path| path.is_dir());
            let folder = plainly_folder || (is_link && leads());
            listed.push(Listed {
                name: entry.file_name().to_string_lossy().into_owned(),
                folder,
                plainly_folder,
            });
        }
        Ok(listed)
    }

    /// A path of ours as it is seen from the root.
    fn within(&self, path: &Path) -> PathBuf {
        let real_root = self.root.canonicalize().unwrap_or_else(|_| self.root.clone());
        match path.strip_prefix(&real_root) {
            Ok(inside) => Path::new("/").join(inside),
            Err(_) => path.to_owned(),
        }
    }

    /// Where a file of it really is; where it would be if it is not there.
    fn place(&self, file: &str) -> PathBuf {
        let name = self.name(file);
        resolve(&self.root, &self.within(&name)).unwrap_or(name)
    }

    /// The name of a file of it: folders before it are where they really are, and it may itself be a link.
    fn name(&self, file: &str) -> PathBuf {
        match file.rsplit_once('/') {
            None => self.path.join(file),
            Some((below, name)) => {
                let folder = self.path.join(below);
                resolve(&self.root, &self.within(&folder)).unwrap_or(folder).join(name)
            }
        }
    }

    /// The text of a file, links followed, byte order mark and all; `None` if it is not there, or a link to nothing.
    ///
    /// # Errors
    /// What is wrong, without the file's name.
    pub fn text(&self, file: &str) -> std::result::Result<Option<String>, String> {
        let bytes = match read(&self.place(file), LIMIT) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("cannot be read: {error}")),
        };
        String::from_utf8(bytes).map(Some).map_err(|_| "is not UTF-8".to_owned())
    }

    /// Makes `file` hold `after`, or takes it away, if it still holds `before`. A link stays one: the file that it leads
    /// to is changed, for that is what the runtime reads. Mode and owner stay; those of a new file are `like`'s.
    ///
    /// # Errors
    /// It cannot be changed; it is as it was.
    pub fn put(&self, file: &str, before: Option<&str>, after: Option<&str>, like: &str) -> Result<Put> {
        let path = self.place(file);
        let place = path.parent().unwrap_or(&self.path).to_owned();
        let is_below = file.contains('/');
        if is_below && after.is_some() {
            fs::create_dir_all(&place).map_err(|error| failed(&error, "making", &place))?;
        }
        // Runtimes watch the folder and not those in it, so a drop-in comes from it and goes by way of it: the rename
        // is what makes them read all again.
        let staging = if is_below { self.path.clone() } else { place.clone() };
        if staging != self.path {
            sweep(&staging);
        }
        let temporary = temporary(&staging);
        // The look at the name comes last: it tells that what was read is not replaced by now.
        let is_named = |seen| fs::metadata(&path).is_ok_and(|now| identity(&now) == seen);
        let is_as = |text: Option<&str>| match (read_known(&path, LIMIT), text) {
            (Ok((bytes, seen)), Some(text)) => bytes == text.as_bytes() && is_named(seen),
            (Err(error), None) => error.kind() == ErrorKind::NotFound,
            (_, _) => false,
        };
        let changed = |error: &std::io::Error| {
            fs::remove_file(&temporary).ok();
            failed(error, "changing", &path)
        };
        if let Some(after) = after {
            let model = fs::metadata(&path).or_else(|_| fs::metadata(self.place(like))).ok();
            write(&temporary, after.as_bytes(), model.as_ref()).map_err(|error| changed(&error))?;
            if !is_as(before) {
                fs::remove_file(&temporary).ok();
                return Ok(Put::Overtaken);
            }
            fs::rename(&temporary, &path).map_err(|error| changed(&error))?;
        } else {
            // Not where a link leads: the name goes.
            let name = self.name(file);
            if !is_as(before) {
                return Ok(Put::Overtaken);
            }
            match is_below {
                true => fs::rename(&name, &temporary).and_then(|()| fs::remove_file(&temporary)),
                false => fs::remove_file(&name),
            }
            .map_err(|error| changed(&error))?;
            if let Some((below, _)) = file.rsplit_once('/') {
                // It stays if others have files there, or if it is a link, which others made.
                fs::remove_dir(self.path.join(below)).ok();
            }
        }
        for folder in [&place, &staging] {
            settle(folder).map_err(|error| failed(&error, "syncing", folder))?;
        }
        Ok(if is_as(after) { Put::Done } else { Put::Overtaken })
    }

    /// Makes `name` this very program, executable for all; whether that was a change.
    ///
    /// # Errors
    /// It cannot be written; what was there is as it was.
    pub fn put_program(&self, name: &str) -> Result<bool> {
        let own = Path::new("/proc/self/exe");
        let program = read(own, PROGRAM_LIMIT).map_err(|error| failed(&error, "reading", own))?;
        let path = self.path.join(name);
        let mode =
            |path: &Path| fs::symlink_metadata(path).map(|metadata| metadata.permissions().mode() & 0o7777);
        let is_ours = |path: &Path| read(path, PROGRAM_LIMIT).is_ok_and(|bytes| bytes == program);
        if mode(&path).is_ok_and(|mode| mode == 0o755) && is_ours(&path) {
            return Ok(false);
        }
        let temporary = temporary(&self.path);
        let written = write(&temporary, &program, None)
            .and_then(|()| fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755)))
            .and_then(|()| fs::rename(&temporary, &path))
            .and_then(|()| settle(&self.path));
        written.map_err(|error| {
            fs::remove_file(&temporary).ok();
            failed(&error, "writing", &path)
        })?;
        match is_ours(&path) {
            true => Ok(true),
            false => Err(Error::refused(format!("{} does not read back as it was written", path.display()))),
        }
    }

    /// Takes a file away; whether it was there.
    ///
    /// # Errors
    /// It cannot be taken away.
    pub fn remove(&self, name: &str) -> Result<bool> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Ok(()) => {
                settle(&self.path).map_err(|error| failed(&error, "syncing", &self.path)).map(|()| true)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(&error, "removing", &path)),
        }
    }
}

fn temporary(folder: &Path) -> PathBuf {
    let (head, tail) = TEMPORARY;
    folder.join(format!("{head}{}{tail}", std::process::id()))
}

fn sweep(folder: &Path) {
    let (head, tail) = TEMPORARY;
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(head)?.strip_suffix(tail));
        if number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
        {
            // What cannot be removed now is in nobody's way.
            fs::remove_file(entry.path()).ok();
        }
    }
}

/// Writes a new file, on the disk before it has its name.
fn write(path: &Path, bytes: &[u8], model: Option<&Metadata>) -> std::io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    if let Some(model) = model {
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (model.uid(), model.gid()) {
            fchown(&file, Some(model.uid()), Some(model.gid()))?;
        }
        // Behind chown(2), which clears bits of the mode.
        file.set_permissions(fs::Permissions::from_mode(model.permissions().mode() & 0o7777))?;
    }
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes what was renamed survive a loss of power.
fn settle(folder: &Path) -> std::io::Result<()> {
    match File::open(folder) {
        Ok(folder) => folder.sync_all(),
        // Taken away as it was empty.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens a file to be read. A FIFO would block, a device never end.
fn plain_file(path: &Path) -> std::io::Result<File> {
    let file = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::Error::new(ErrorKind::InvalidInput, "it is no plain file")),
    }
}

fn read(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    read_known(path, limit).map(|(bytes, _)| bytes)
}

/// What tells a file from the one that comes in its place, or is written over it.
type Identity = (u64, u64, i64, i64);

fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}

/// Reads a file; also what it was before it was read.
fn read_known(path: &Path, limit: u64) -> std::io::Result<(Vec<u8>, Identity)> {
    let file = plain_file(path)?;
    let metadata = file.metadata()?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(std::io::Error::other(format!("it is larger than {} MiB", limit >> 20))),
        false => Ok((bytes, identity(&metadata))),
    }
}

/// Whether a file has `needle` in it anywhere, which is shorter than a megabyte.
///
/// # Errors
/// It cannot be read, or is no plain file.
pub fn contains(root: &Path, path: &Path, needle: &[u8]) -> Result<bool> {
    let cannot = |error: std::io::Error| match error.kind() == ErrorKind::InvalidInput {
        true => Error::new(Class::Usage, format!("{}: {error}", path.display())),
        false => failed(&error, "reading", path),
    };
    let mut file = plain_file(&resolve(root, path).map_err(cannot)?).map_err(cannot)?;
    let mut window = Vec::new();
    loop {
        let read = Read::by_ref(&mut file).take(1 << 20).read_to_end(&mut window).map_err(cannot)?;
        if window.windows(needle.len()).any(|part| part == needle) {
            return Ok(true);
        }
        if read == 0 {
            return Ok(false);
        }
        // It may lie across two parts.
        window.drain(..window.len().saturating_sub(needle.len()));
    }
}
