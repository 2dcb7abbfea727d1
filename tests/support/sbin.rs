//! A `/usr/sbin` of the case's own, where tools are missing or stand-ins take their places.
//!
//! It is mounted in the mount namespace of the case. Looking with the real tools comes after it is lifted.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::rules::{Family, Variant};

const SBIN: &str = "/usr/sbin";
/// Where the machine's own is meanwhile.
pub(crate) const REAL: &str = "/run/real";

/// In place as long as it lives.
#[derive(Debug)]
pub(crate) struct Sbin(());

impl Sbin {
    /// With everything that the machine has.
    pub(crate) fn new() -> Self {
        let none = None::<&str>;
        fs::create_dir_all(REAL).expect("a folder in /run");
        mount(Some(SBIN), REAL, none, MsFlags::MS_BIND, none).expect("binding /usr/sbin elsewhere");
        mount(Some("tmpfs"), SBIN, Some("tmpfs"), MsFlags::empty(), none).expect("a /usr/sbin of our own");
        for entry in fs::read_dir(REAL).expect("/usr/sbin can be listed").flatten() {
            symlink(entry.path(), Path::new(SBIN).join(entry.file_name())).expect("a link");
        }
        Self(())
    }

    pub(crate) fn without(self, names: &[String]) -> Self {
        for name in names {
            // Not every machine has every plain name.
            drop(fs::remove_file(Path::new(SBIN).join(name)));
        }
        self
    }

    /// Puts a shell script in the place of `name`; the real one is `$real`.
    pub(crate) fn with(self, name: &str, script: &str) -> Self {
        let path = Path::new(SBIN).join(name);
        let sbin = self.without(&[name.to_owned()]);
        write_script(&path, &format!("real={REAL}/{name}\n{script}"));
        sbin
    }

    /// Gives `name` to a program of the machine, by a link.
    pub(crate) fn link(self, name: &str, real: &str) -> Self {
        let sbin = self.without(&[name.to_owned()]);
        symlink(Path::new(REAL).join(real), Path::new(SBIN).join(name)).expect("a link");
        sbin
    }

    /// Gives `name` to a copy, which has no other name.
    pub(crate) fn copy(self, name: &str, real: &str) -> Self {
        let sbin = self.without(&[name.to_owned()]);
        fs::copy(Path::new(REAL).join(real), Path::new(SBIN).join(name)).expect("a copy");
        sbin
    }
}

impl Drop for Sbin {
    fn drop(&mut self) {
        umount2(SBIN, MntFlags::MNT_DETACH).expect("lifting our /usr/sbin");
        umount2(REAL, MntFlags::MNT_DETACH).expect("lifting the other name of /usr/sbin");
    }
}

/// A shell script with nothing but the usual folders in its PATH.
pub(crate) fn write_script(path: &Path, script: &str) {
    let text = format!("#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n");
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .expect("a script");
}

/// All names under which a program of iptables is known: plain and of each variant.
pub(crate) fn names(families: &[Family], verb: &str) -> Vec<String> {
    let of_family = |family: &Family| {
        let of_variant = Variant::BOTH.map(|variant| variant.program(*family, verb));
        let plain = of_variant[0].replace("-legacy", "");
        [plain].into_iter().chain(of_variant)
    };
    families.iter().flat_map(of_family).collect()
}
