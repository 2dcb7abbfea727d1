//! A resolv.conf of the case's own.

use std::fs;
use std::net::IpAddr;

use nix::mount::{MsFlags, mount};

const FILE: &str = "/run/resolv.conf";

/// From now on `/etc/resolv.conf` names these servers, in the mount namespace of the case.
pub(crate) fn resolvers(servers: &[IpAddr]) {
    let text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    let is_mounted = fs::exists(FILE).expect("/run can be read");
    fs::write(FILE, text).expect("a file in /run");
    if !is_mounted {
        let none = None::<&str>;
        mount(Some(FILE), "/etc/resolv.conf", none, MsFlags::MS_BIND, none).expect("a mount of our own");
    }
}
