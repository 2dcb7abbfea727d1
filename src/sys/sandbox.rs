//! Runtimes that keep the network of a pod to themselves: what its processes do is not done with sockets of this kernel.

use std::fmt;
use std::path::PathBuf;

use nix::net::if_::if_nameindex;

use super::{fs, netns};

/// A runtime, and how it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sandbox {
    /// Kata Containers: the tap device of its virtual machine, by its name.
    Kata(String),
    /// gVisor: its process, by its number.
    Gvisor(i32),
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sandbox::Kata(device) => write!(f, "a sandbox of Kata (interface {device})"),
            Sandbox::Gvisor(pid) => write!(f, "a sandbox of gVisor (process {pid}, runsc-sandbox)"),
        }
    }
}

/// The runtime that has the calling thread's network namespace for itself, as far as can be told.
#[must_use]
pub fn find() -> Option<Sandbox> {
    kata().or_else(gvisor)
}

/// Kata connects the pod's interface with a device of this name (`virtcontainers/network_linux.go`, "tap%d_kata").
fn kata() -> Option<Sandbox> {
    let interfaces = if_nameindex().ok()?;
    let mut names = interfaces.iter().filter_map(|interface| interface.name().to_str().ok());
    names
        .find(|name| name.starts_with("tap") && name.ends_with("_kata"))
        .map(|name| Sandbox::Kata(name.to_owned()))
}

/// gVisor takes the addresses off the interfaces, and reads packets from them itself (`runsc/sandbox/network.go`). Only where
/// that is so are processes looked at: the one that does it has this name.
fn gvisor() -> Option<Sandbox> {
    const NAME: &[u8] = b"runsc-sandbox";
    let addresses = netns::own_addresses(None).ok()?;
    let packets = fs::read_system("/proc/thread-self/net/packet").ok()??;
    if addresses.iter().any(|address| !netns::is_link_local(address)) || packets.lines().count() < 2 {
        return None;
    }
    let own = netns::identity(netns::OWN)?;
    let is_it = |process: &PathBuf| {
        let words = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let program = words.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let there = process.join("ns/net");
        name == NAME && there.to_str().and_then(netns::identity) == Some(own)
    };
    fs::processes().ok()?.into_iter().find(|(_, process)| is_it(process)).map(|(pid, _)| Sandbox::Gvisor(pid))
}
