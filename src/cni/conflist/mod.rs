//! Joining and leaving a chain of plugins: which file of `/etc/cni/net.d` a runtime reads, and what becomes of it.
//!
//! Pure: a [`Folder`] is what the folder held when it was read, and [`join::join`] and [`leave::leave`] say what is to be
//! changed in it. Everything that is not ours keeps every byte, which is why files are edited as text ([`scan`]) and not
//! written anew from a parsed value.

pub mod cache;
pub mod choose;
pub mod edit;
pub mod entry;
pub mod join;
pub mod leave;
pub mod load;
pub mod request;
pub mod scan;
mod style;
pub mod wrap;

use std::collections::BTreeMap;

pub use choose::Runtime;
pub use load::{List, Plugin, Single};

/// Our `type` in a chain, which is also the name of the program in the plugin folder.
pub const TYPE: &str = "mesh-init";

/// Our file in the folder of a network, which libcni 1.3.0 and later append to its chain. They are read in byte
/// order, and ours is to come late.
pub const DROP_IN: &str = "90-mesh-init.conf";

/// What Cilium's agent appends to the name of every configuration that is not its own while `cni.exclusive` is on.
pub const CILIUM_SUFFIX: &str = ".cilium_bak";

/// The largest file that containerd's go-cni reads, in bytes.
pub const MAX_FILE: usize = 2 << 20;

/// What is said of a link to nothing: no runtime loads it, and it names nobody.
pub const NOWHERE: &str = "is a link that leads nowhere";

/// A file's text, or why it cannot be read.
pub type Text = Result<String, String>;

/// What the configuration folder holds, names in byte order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folder {
    /// The files right in it that are of interest: configurations, and those that Cilium set aside.
    pub files: BTreeMap<String, Text>,
    /// `NETWORK/FILE.conf`: what libcni 1.3.0 and later append to the chain of that network.
    pub drop_ins: BTreeMap<String, Text>,
}

impl Folder {
    /// The files that a runtime looks at (libcni `ConfFiles` with the extensions that go-cni and ocicni give).
    pub fn configurations(&self) -> impl DoubleEndedIterator<Item = (&str, &Text)> {
        self.files.iter().filter(|(name, _)| is_configuration(name)).map(|(name, text)| (name.as_str(), text))
    }

    /// The drop-ins of one network, by file name.
    pub fn drop_ins_of(&self, network: &str) -> impl Iterator<Item = (&str, &Text)> {
        self.drop_ins.iter().filter_map(move |(path, text)| {
            let name = path.strip_prefix(network)?.strip_prefix('/')?;
            Some((name, text))
        })
    }

    /// What Cilium set aside.
    pub fn set_aside(&self) -> impl Iterator<Item = (&str, &Text)> {
        let aside = self.files.iter().filter(|(name, _)| name.ends_with(CILIUM_SUFFIX));
        aside.map(|(name, text)| (name.as_str(), text))
    }
}

/// Whether a runtime takes a file of that name for a configuration. The extension is what follows the last dot, also
/// when nothing precedes it (Go's `filepath.Ext`).
#[must_use]
pub fn is_configuration(name: &str) -> bool {
    [".conf", ".conflist", ".json"].iter().any(|extension| name.ends_with(extension))
}

/// Whether `name` may be a network's, and so the name of a folder (spec, section 1: "must start with an alphanumeric
/// character, optionally followed by any combination of one or more alphanumeric characters, underscore, dot or hyphen").
#[must_use]
pub fn is_network_name(name: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && name.bytes().all(rest)
}

/// One change of a file, relative to the configuration folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The file.
    pub file: String,
    /// Its text as it was read; `None` if it was not there. The change holds only for exactly that text.
    pub before: Option<String>,
    /// Its text from now on; `None` takes it away.
    pub after: Option<String>,
    /// The file whose mode and owner a new one gets.
    pub like: String,
}
