//! Joining and leaving a chain of plugins on this machine: under a lock, configuration after program on the way in,
//! program after configuration on the way out.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cni::conflist::join::{Asked, Joined, join};
use crate::cni::conflist::leave::leave;
use crate::cni::conflist::request::{Install, Places, Uninstall};
use crate::cni::conflist::{CILIUM_SUFFIX, Change, Folder, NOWHERE, TYPE, Text, cache, is_configuration};
use crate::error::{Class, Error, Result};
use crate::sys::folder::{self, Put};

/// How long another run is waited for.
const LOCK: Duration = Duration::from_secs(10);
/// How often a change is tried anew because somebody else was faster.
const TRIES: usize = 20;
/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(200);
/// How long runtimes take to read a changed folder (containerd: about a second, measured), with room to spare.
const RELOAD: Duration = Duration::from_secs(2);
/// The key that only a libcni which reads drop-ins knows (1.3.0 and later); Go keeps such names as text.
const DROP_IN_KEY: &[u8] = b"loadOnlyInlinedPlugins";

/// What joining did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct In {
    /// The plan that was carried out; its changes are those that were made.
    pub joined: Joined,
    /// The program.
    pub program: PathBuf,
    /// Whether it was written.
    pub copied: bool,
}

/// What leaving did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Out {
    /// The files that were changed, or taken away.
    pub changed: Vec<Change>,
    /// The program.
    pub program: PathBuf,
    /// Whether it was there.
    pub removed: bool,
    /// Attachments that name us in the runtime's cache.
    pub attachments: Vec<cache::Attachment>,
}

/// Puts the program in place and joins the chain.
///
/// # Errors
/// There is no chain to join, or something cannot be written; what was changed by then is whole in itself.
pub fn enter(request: &Install) -> Result<In> {
    let Places { root, bin_dir, net_dir } = &request.places;
    let end = Instant::now() + request.wait;
    let reads_drop_ins =
        request.runtime_binary.as_ref().map(|path| folder::contains(root, path, DROP_IN_KEY));
    let asked = Asked {
        chain: request.chain.clone(),
        runtime: request.runtime,
        drop_in: request.drop_in,
        reads_drop_ins: reads_drop_ins.transpose()?,
        entry: request.entry.clone(),
    };
    let mut made = Vec::new();
    let mut copied = false;
    let mut tries = 0;
    loop {
        let Some(net) = folder::open(root, net_dir)? else {
            let missing = format!("{} is not there", net_dir.display());
            let remedy = "wait until the network's own installer made it: --wait SECONDS";
            wait(end, Error::new(Class::TryAgain, missing).remedy(remedy))?;
            continue;
        };
        let lock = net.lock(LOCK)?;
        net.sweep();
        let mut joined = match join(&look(&net)?, &asked) {
            Ok(joined) => joined,
            Err(unjoined) if unjoined.passing => {
                drop(lock);
                wait(end, unjoined.error)?;
                continue;
            }
            Err(unjoined) => return Err(unjoined.error),
        };
        // The program first: a runtime that comes to our entry without it fails every pod.
        let bin = folder::make(root, bin_dir)?;
        {
            let _lock = bin.lock(LOCK)?;
            bin.sweep();
            copied |= bin.put_program(TYPE)?;
        }
        if perform(&net, &joined.changes, &mut made)? {
            joined.changes = made;
            return Ok(In { joined, program: bin.path().join(TYPE), copied });
        }
        tries += 1;
        overtaken(tries, net_dir)?;
    }
}

/// Leaves every chain, waits if asked to, and takes the program away.
///
/// # Errors
/// A file that may name us cannot be changed, or pods still need the program: it stays.
pub fn go(request: &Uninstall) -> Result<Out> {
    let Places { root, bin_dir, net_dir } = &request.places;
    let end = Instant::now() + request.wait_for_pods.unwrap_or_default();
    let mut changed = Vec::new();
    let mut tries = 0;
    let mut waited = false;
    loop {
        let net = folder::open(root, net_dir)?;
        let lock = net.as_ref().map(|net| net.lock(LOCK)).transpose()?;
        let mut made = Vec::new();
        if let Some(net) = &net {
            net.sweep();
            let left = leave(&look(net)?);
            if !perform(net, &left.changes, &mut made)? {
                changed.append(&mut made);
                tries += 1;
                overtaken(tries, net_dir)?;
                continue;
            }
            if !left.blocked.is_empty() {
                let problem =
                    format!("the program stays, for in {}: {}", net_dir.display(), left.blocked.join("; "));
                return Err(Error::refused(problem).remedy("mend these files and run it again"));
            }
        }
        let again = !made.is_empty();
        changed.append(&mut made);
        if request.wait_for_pods.is_some() && (!waited || again) {
            // Others may install meanwhile, so all is looked at again afterwards.
            drop(lock);
            if again {
                std::thread::sleep(RELOAD);
            }
            await_pods(request, end)?;
            waited = true;
            continue;
        }
        let attachments = attachments(request)?;
        let program = bin_dir.join(TYPE);
        let removed = match folder::open(root, bin_dir)? {
            None => false,
            Some(bin) => {
                let _lock = bin.lock(LOCK)?;
                bin.sweep();
                bin.remove(TYPE)?
            }
        };
        return Ok(Out { changed, program, removed, attachments });
    }
}

/// Waits until no attachment of the runtime's cache names us.
fn await_pods(request: &Uninstall, end: Instant) -> Result<()> {
    loop {
        let waiting = attachments(request)?;
        let Some(first) = waiting.first() else { return Ok(()) };
        let more = waiting.len() - 1;
        let problem = format!(
            "no configuration names mesh-init any more, and its program stays: container {} (network {}, {}){} still needs it for DEL",
            first.container,
            first.network,
            first.interface,
            if more == 0 { String::new() } else { format!(" and {more} more") }
        );
        let remedy = "delete or restart those pods, wait longer, or leave --wait-for-pods out";
        wait(end, Error::new(Class::TryAgain, problem).remedy(remedy))?;
    }
}

fn attachments(request: &Uninstall) -> Result<Vec<cache::Attachment>> {
    let Some(results) = folder::open(&request.places.root, &request.results_dir)? else {
        return Ok(Vec::new());
    };
    let files = results.list()?.into_iter().filter(|entry| !entry.folder);
    let mut ours: Vec<_> = files.filter_map(|entry| cache::ours(&results.text(&entry.name).ok()??)).collect();
    ours.sort();
    Ok(ours)
}

/// A little while, if there is time left.
fn wait(end: Instant, error: Error) -> Result<()> {
    if Instant::now() >= end {
        return Err(error);
    }
    std::thread::sleep(LOOK);
    Ok(())
}

fn overtaken(tries: usize, net_dir: &std::path::Path) -> Result<()> {
    if tries < TRIES {
        return Ok(());
    }
    let problem = format!("somebody else changes {} all the time", net_dir.display());
    Err(Error::new(Class::TryAgain, problem).remedy("find out who writes there and try again"))
}

fn text(net: &folder::Folder, file: &str) -> Text {
    net.text(file)?.ok_or_else(|| NOWHERE.to_owned())
}

/// What the configuration folder holds.
fn look(net: &folder::Folder) -> Result<Folder> {
    let mut seen = Folder::default();
    for entry in net.list()? {
        let name = entry.name;
        if !entry.plainly_folder && (is_configuration(&name) || name.ends_with(CILIUM_SUFFIX)) {
            let text = match name.contains(char::REPLACEMENT_CHARACTER) {
                true => Err("has a name that is not UTF-8".to_owned()),
                false => text(net, &name),
            };
            seen.files.insert(name, text);
        } else if entry.folder {
            for below in net.list_of(&name)? {
                // libcni reads `.conf` alone there.
                if !below.plainly_folder && below.name.ends_with(".conf") {
                    let path = format!("{name}/{}", below.name);
                    seen.drop_ins.insert(path.clone(), text(net, &path));
                }
            }
        }
    }
    Ok(seen)
}

/// Makes changes in their order; whether all of them hold. Those that do are added to `made`.
fn perform(net: &folder::Folder, changes: &[Change], made: &mut Vec<Change>) -> Result<bool> {
    for change in changes {
        let Change { file, before, after, like } = change;
        match net.put(file, before.as_deref(), after.as_deref(), like)? {
            Put::Done => made.push(change.clone()),
            Put::Overtaken => return Ok(false),
        }
    }
    Ok(true)
}
