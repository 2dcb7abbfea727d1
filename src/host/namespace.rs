//! Getting to the namespace to work in, with no more privileges than the work needs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ebpf;
use crate::error::{Class, Error, Result};
use crate::policy::settings::{NetnsRef, Settings, Variant};
use crate::sys::netns::{self, FIRST, OWN};
use crate::sys::privilege::{self, Need};
use crate::sys::{exec, fs, lock};

/// Enters the namespace that `settings` name, checks that the privileges for the work are there, and drops
/// every other one. `makes_rules` is whether the work captures anything: only then is the host's own namespace,
/// named by `--netns`, one that nobody can have meant without `--host`.
///
/// # Errors
/// The namespace is not what the caller can mean, or a privilege is missing; nothing has been changed.
pub fn enter(settings: &Settings, makes_rules: bool) -> Result<()> {
    enter_with(settings, makes_rules, &[])
}

/// As [`enter`], but keeps, if they are there, the privileges by which connections are tried: as other users
/// (`CAP_SETUID`, `CAP_SETGID`) and from a namespace of their own (`CAP_SYS_ADMIN`).
///
/// # Errors
/// As [`enter`].
pub fn enter_to_probe(settings: &Settings, makes_rules: bool) -> Result<()> {
    enter_with(settings, makes_rules, &[Need::CAP_SETUID, Need::CAP_SETGID, Need::CAP_SYS_ADMIN])
}

/// What capture at the sockets needs besides, if it is there: to load and attach, to mount the BPF file system, and to take
/// up a socket of the proxy's. Nothing needs `CAP_PERFMON`, but programs that are loaded with it have no barriers against
/// speculation (`bpf_bypass_spec_v4`, include/linux/bpf.h), which every connection would pay for.
const AT_SOCKETS: [Need; 5] =
    [Need::CAP_BPF, Need::CAP_PERFMON, Need::CAP_SYS_ADMIN, Need::CAP_SYS_PTRACE, Need::CAP_DAC_READ_SEARCH];

fn enter_with(settings: &Settings, makes_rules: bool, also: &[Need]) -> Result<()> {
    exec::keep_descriptors();
    let sockets = settings.ebpf.is_some() || ebpf::may_be_here();
    let also = &[also, if sockets { &AT_SOCKETS } else { &[] }].concat();
    let native = settings.variant == Some(Variant::Native);
    let mut needed = vec![Need::CAP_NET_ADMIN];
    // What the kernel or iptables need besides, if it turns out that it is needed: see `preflight::iptables`.
    let likely: &[Need] = match (settings.ebpf.is_some(), native) {
        (true, _) => &[Need::CAP_BPF],
        (false, true) => &[],
        (false, false) => &[Need::CAP_NET_RAW],
    };
    if let Some(reference) = &settings.netns {
        needed.push(Need::CAP_SYS_ADMIN);
        privilege::require(&needed, likely)?;
        needed.pop();
        let path = path(reference);
        open(&path)?.enter()?;
        if makes_rules
            && !settings.host
            && settings.confirm_within.is_none()
            && netns::is_initial() == Some(true)
        {
            let problem = format!("--netns {} is the host's own network namespace", path.display());
            return Err(Error::new(Class::Usage, problem).remedy("give --host too if that one is meant"));
        }
    }
    privilege::require(&needed, likely)?;
    drop_all_but(needed, native, also)
}

fn drop_all_but(mut needed: Vec<Need>, native: bool, also: &[Need]) -> Result<()> {
    needed.push(Need::CAP_NET_RAW);
    // iptables-legacy loads ip_tables by itself if the kernel has not: the one thing that needs this.
    let loaded = ["ip", "ip6"]
        .iter()
        .all(|family| fs::exists(&format!("/proc/thread-self/net/{family}_tables_names")));
    if !native && !loaded {
        needed.push(Need::CAP_SYS_MODULE);
    }
    needed.extend(also);
    privilege::keep_only(&needed)
}

/// What a call of a container runtime needs: to enter a pod's namespace and to make rules there. As long as it is
/// open by what it may be iptables, which opens raw sockets.
///
/// # Errors
/// What is missing.
pub fn may_capture_pods(settings: &Settings) -> Result<()> {
    let mut needed = vec![Need::CAP_NET_ADMIN, Need::CAP_SYS_ADMIN];
    if settings.ebpf.is_some() {
        needed.push(Need::CAP_BPF);
        return privilege::require(&needed, &[]);
    }
    if settings.variant == Some(Variant::Native) {
        return privilege::require(&needed, &[]);
    }
    privilege::require(&needed, &[Need::CAP_NET_RAW])?;
    privilege::require(&[Need::CAP_NET_RAW], &[]).map_err(|error| {
        let remedy = error.remedy.clone().unwrap_or_default();
        error.remedy(format!("{remedy}, or set backend to nftables, which does without"))
    })
}

/// A pod's network namespace, open: it stays even if the pod ends meanwhile.
#[derive(Debug)]
pub struct Pod {
    netns: netns::Netns,
    /// Whether it belongs to another user namespace than ours (`hostUsers: false`).
    pub other_users: bool,
}

/// Opens the namespace of a pod. That of the caller and that of process 1 are nobody's pod.
///
/// # Errors
/// It is one of these, it is none, or it cannot be opened.
pub fn of_pod(path: &Path) -> Result<Pod> {
    let target = netns::open(path)?;
    for (whose, own) in [("the one that the runtime works in itself", OWN), ("that of process 1", FIRST)] {
        if netns::identity(own) == Some(target.identity) {
            let problem = format!("the network namespace {} is {whose}", path.display());
            return Err(Error::new(Class::Usage, problem)
                .remedy("nothing was changed: a pod on the host network is not captured by CNI"));
        }
    }
    if !target.is_of_networks() {
        let problem = format!("{} is a namespace of another kind than that of networks", path.display());
        return Err(Error::new(Class::Usage, problem));
    }
    let other_users = target.is_of_other_users();
    Ok(Pod { netns: target, other_users })
}

impl Pod {
    /// Moves the calling thread there, for good, and drops every privilege that rules do not need. With
    /// `other_users` root's files in /proc are another user's, so `CAP_DAC_OVERRIDE` stays.
    ///
    /// # Errors
    /// It is the host's own after all, it is no *network* namespace, or a privilege is missing.
    pub fn enter(&self, settings: &Settings) -> Result<()> {
        exec::keep_descriptors();
        self.netns.enter()?;
        // Where process 1 is a container's, this tells.
        if is_hosts_own() == Some(true) {
            return Err(Error::new(Class::Usage, "this is the host's own network namespace"));
        }
        let sockets = settings.ebpf.is_some() || ebpf::may_be_here();
        let sockets: &[Need] = if sockets { &AT_SOCKETS } else { &[] };
        let of_others: &[Need] = if self.other_users { &[Need::CAP_DAC_OVERRIDE] } else { &[] };
        drop_all_but(vec![Need::CAP_NET_ADMIN], false, &[of_others, sockets].concat())
    }
}

fn path(reference: &NetnsRef) -> PathBuf {
    match reference {
        NetnsRef::Pid(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        NetnsRef::Path(path) => path.clone(),
    }
}

fn open(path: &Path) -> Result<netns::Netns> {
    let target = netns::open(path)?;
    if netns::identity(OWN) == Some(target.identity) {
        let problem = format!("--netns {} is the namespace that the command already runs in", path.display());
        return Err(Error::new(Class::Usage, problem).remedy("leave --netns out if that one is meant"));
    }
    Ok(target)
}

/// Whether this is the host's own network namespace; `None` if that cannot be told.
#[must_use]
pub fn is_hosts_own() -> Option<bool> {
    netns::is_initial()
}

/// Waits, at most as long as told, until no other run works in this namespace.
///
/// # Errors
/// Another one still does.
pub fn lock(wait: Duration) -> Result<lock::Lock> {
    lock::take(wait)
}

/// As [`lock()`], for as long as `--wait` says.
///
/// # Errors
/// As [`lock()`].
pub fn lock_for(settings: &Settings) -> Result<lock::Lock> {
    lock(settings.wait).map_err(|error| match error.class {
        Class::TryAgain => error.remedy("try again, or wait longer with --wait"),
        Class::Refused | Class::Usage | Class::Host | Class::Privilege | Class::NotCaptured => error,
    })
}
