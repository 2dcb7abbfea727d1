//! The BPF file system, as the running case has it.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

const MOUNT: &str = "/sys/fs/bpf";
/// What the program keeps there.
const FOLDER: &str = "/sys/fs/bpf/mesh-init";

/// Mounts one of the case's own: nobody else sees what is kept there, and it goes with the case.
pub(crate) fn mount_own() {
    mount(Some("bpf"), MOUNT, Some("bpf"), MsFlags::empty(), None::<&str>).expect("a BPF file system");
}

/// Everything that the program keeps, but for folders.
pub(crate) fn kept() -> Vec<PathBuf> {
    let mut kept = Vec::new();
    let mut folders = vec![PathBuf::from(FOLDER)];
    while let Some(folder) = folders.pop() {
        if !folder.exists() {
            continue;
        }
        for entry in fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry")) {
            let list = if is_folder(&entry.path()) { &mut folders } else { &mut kept };
            list.push(entry.path());
        }
    }
    kept
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).expect("what is listed").is_dir()
}

/// The program of that name that is attached to a control group or a namespace, as it is kept.
pub(crate) fn link(name: &str) -> PathBuf {
    let named = |path: &Path| path.file_name().is_some_and(|of| of == name);
    let is_it = |path: &PathBuf| named(path) && !path.iter().any(|part| part == "programs");
    let mut links = kept().into_iter().filter(is_it);
    links.next().unwrap_or_else(|| panic!("no `{name}` among {:?}", kept()))
}
