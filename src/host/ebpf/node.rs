//! What a node has once: maps, programs, and their links to control groups.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use mesh_init_abi::{
    AddressKey, CounterKey, ListenerKey, Namespace, NetFlags, NetKey, OwnerFlags, OwnerKey, PairKey,
    PortFlags, PortKey, Present, Sock, Surprise, SurpriseKey,
};

use crate::error::{Class, Error, Result};
use crate::sys::bpf::cgroup::Cgroup;
use crate::sys::bpf::feature;
use crate::sys::bpf::link::{self, State};
use crate::sys::bpf::map::{Map, Plain};
use crate::sys::bpf::object::{Attach, Object};
use crate::sys::bpf::pins::{self, Guard};

/// What is aligned as a file that is mapped into memory: the reader looks at numbers in place.
#[repr(align(8))]
struct Aligned<T: ?Sized>(T);

static CGROUP: &Aligned<[u8]> = &Aligned(*include_bytes!("../../../ebpf/objects/cgroup.o"));
static NETNS: &Aligned<[u8]> = &Aligned(*include_bytes!("../../../ebpf/objects/netns.o"));

/// Changes with the meaning of what is in the maps; `mesh-init-abi` says when.
const FOLDER: &str = "mesh-init";
const VERSION: &str = "v1";

/// The programs for control groups, in the order in which they are attached: what answers comes before what sends
/// elsewhere, so that nobody is sent who is not answered.
pub(super) const PROGRAMS: [(&str, Attach); 13] = [
    ("mesh_getsockopt", Attach::BPF_CGROUP_GETSOCKOPT),
    ("mesh_sockops", Attach::BPF_CGROUP_SOCK_OPS),
    ("mesh_create", Attach::BPF_CGROUP_INET_SOCK_CREATE),
    ("mesh_bind4", Attach::BPF_CGROUP_INET4_POST_BIND),
    ("mesh_bind6", Attach::BPF_CGROUP_INET6_POST_BIND),
    ("mesh_peername4", Attach::BPF_CGROUP_INET4_GETPEERNAME),
    ("mesh_peername6", Attach::BPF_CGROUP_INET6_GETPEERNAME),
    ("mesh_recvmsg4", Attach::BPF_CGROUP_UDP4_RECVMSG),
    ("mesh_recvmsg6", Attach::BPF_CGROUP_UDP6_RECVMSG),
    ("mesh_sendmsg4", Attach::BPF_CGROUP_UDP4_SENDMSG),
    ("mesh_sendmsg6", Attach::BPF_CGROUP_UDP6_SENDMSG),
    ("mesh_connect4", Attach::BPF_CGROUP_INET4_CONNECT),
    ("mesh_connect6", Attach::BPF_CGROUP_INET6_CONNECT),
];

/// The maps.
#[derive(Debug)]
pub(super) struct Maps {
    pub(super) namespaces: Map<u64, Namespace>,
    pub(super) networks: Map<NetKey, NetFlags>,
    pub(super) ports: Map<PortKey, PortFlags>,
    pub(super) owners: Map<OwnerKey, OwnerFlags>,
    pub(super) addresses: Map<AddressKey, Present>,
    pub(super) counters: Map<CounterKey, u64>,
    pub(super) pairs: Map<PairKey, mesh_init_abi::Endpoint>,
    pub(super) listeners: Map<ListenerKey, u64>,
    pub(super) socks: Map<i32, Sock>,
    pub(super) surprises: Map<SurpriseKey, Surprise>,
}

/// What is kept on this node. One run at a time has it.
#[derive(Debug)]
pub struct Node {
    pub(super) root: PathBuf,
    pub(super) maps: Maps,
    _guard: Guard,
}

impl Node {
    /// What is kept, if anything is, once no other run works with it.
    ///
    /// # Errors
    /// It cannot be read, or another run works with it longer than `wait`.
    pub fn find(wait: Duration) -> Result<Option<Node>> {
        let Some(mounted) = pins::find() else { return Ok(None) };
        let folder = mounted.join(FOLDER);
        if !pins::is_there(&folder) {
            return Ok(None);
        }
        let guard = pins::lock(&folder, wait)?;
        let root = folder.join(VERSION);
        let Some(maps) = Maps::open(&root)? else { return Ok(None) };
        Ok(Some(Node { root, maps, _guard: guard }))
    }

    /// The same, and what is missing is made.
    ///
    /// # Errors
    /// The kernel lacks what it needs, or a privilege is missing.
    pub fn make(wait: Duration) -> Result<Node> {
        let folder = pins::mounted()?.join(FOLDER);
        pins::make_folder(&folder)?;
        let guard = pins::lock(&folder, wait)?;
        let root = folder.join(VERSION);
        for folder in [
            root.clone(),
            root.join("maps"),
            root.join("programs"),
            root.join("cgroups"),
            root.join("netns"),
            root.join("attachments"),
        ] {
            pins::make_folder(&folder)?;
        }
        // What the kernel has not been taught yet says why better than what it says of a program.
        load(&root).map_err(|error| match error.class {
            Class::Host => feature::probe().err().unwrap_or(error),
            Class::Refused | Class::Usage | Class::TryAgain | Class::Privilege | Class::NotCaptured => error,
        })?;
        renew(&root)?;
        let maps = Maps::open(&root)?.ok_or_else(|| {
            Error::refused(format!("what was just kept below {} is gone", root.display())).remedy("try again")
        })?;
        Ok(Node { root, maps, _guard: guard })
    }

    /// Attaches the programs to a control group, those that are not there.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn attach(&self, to: &Cgroup) -> Result<()> {
        let folder = self.root.join("cgroups").join(id(to.id));
        pins::make_folder(&folder)?;
        let programs = programs(&self.root);
        for (name, attach) in PROGRAMS {
            let path = folder.join(name);
            let missing = || Error::refused(format!("the BPF program {name} is not loaded"));
            let program = pins::open(&programs.join(name))?.ok_or_else(missing)?;
            link::make(&path, &program, &to.folder, attach)?;
        }
        Ok(())
    }

    /// Which programs are not attached to the control group of that number as they should be, and whether any is that of
    /// another build.
    ///
    /// # Errors
    /// What is kept cannot be read.
    pub(super) fn detached(&self, cgroup: u64) -> Result<(Vec<&'static str>, bool)> {
        let folder = self.root.join("cgroups").join(id(cgroup));
        let ours = programs(&self.root);
        let mut builds = pins::list(&self.root.join("programs"))?;
        builds.sort_by_key(|build| *build != ours);
        let (mut detached, mut older) = (Vec::new(), false);
        for (name, _) in PROGRAMS {
            let attached = |build: &&PathBuf| match pins::open(&build.join(name))? {
                Some(program) => Ok(link::state(&folder.join(name), &program)? == State::Attached),
                None => Ok(false),
            };
            let mut of = None;
            for build in &builds {
                if attached(&build)? {
                    of = Some(build);
                    break;
                }
            }
            match of {
                Some(build) => older |= *build != ours,
                None => detached.push(name),
            }
        }
        Ok((detached, older))
    }

    /// Loads a program for a namespace of its own.
    pub(super) fn arrival(&self, netns: u64) -> Result<OwnedFd> {
        let object = Object::parse(&NETNS.0, &[("NETNS", &netns.to_ne_bytes())])?;
        let maps = open_maps(&self.root, &object)?;
        let program = object.load(&maps)?.into_iter().next();
        program
            .map(|program| program.fd)
            .ok_or_else(|| Error::refused("no BPF program for a network namespace"))
    }

    /// Which programs are not those of this build although they are kept as such: each is loaded anew, and its tag compared
    /// (`tag` of `struct bpf_prog_info`, include/uapi/linux/bpf.h). Of another build's nothing can be told.
    ///
    /// # Errors
    /// They cannot be loaded.
    pub fn altered(&self, netns: u64) -> Result<Vec<String>> {
        let object = Object::parse(&CGROUP.0, &[])?;
        let maps = open_maps(&self.root, &object)?;
        let mut altered = Vec::new();
        let mut compare = |name: &str, path: &Path, program: &OwnedFd| {
            let same = match pins::open(path)? {
                Some(kept) => link::tag(&kept)? == link::tag(program)?,
                None => false,
            };
            if !same {
                altered.push(name.to_owned());
            }
            Ok::<(), Error>(())
        };
        let ours = programs(&self.root);
        let loaded = if pins::is_there(&ours) { object.load(&maps)? } else { Vec::new() };
        for program in loaded {
            compare(&program.name, &ours.join(&program.name), &program.fd)?;
        }
        let own = self.root.join("netns").join(id(netns)).join(arrives());
        if pins::is_there(&own) {
            compare("mesh_arrives", &own, &self.arrival(netns)?)?;
        }
        Ok(altered)
    }

    /// Takes the links to control groups away that no namespace needs.
    ///
    /// # Errors
    /// It cannot be removed.
    pub(super) fn tidy(&self) -> Result<()> {
        let pods = pins::list(&self.root.join("netns"))?;
        let used: Vec<u64> = pods.iter().filter_map(|pod| cgroup_of(pod)).collect();
        for cgroup in pins::list(&self.root.join("cgroups"))? {
            if !number(&cgroup).is_some_and(|of| used.contains(&of)) {
                pins::remove(&cgroup)?;
            }
        }
        Ok(())
    }
}

/// Takes everything away.
///
/// # Errors
/// It cannot be removed.
pub(super) fn remove_all(root: &Path) -> Result<()> {
    // Programs before maps: what is half gone is not taken for whole. Namespaces before links: who is gone has no policy.
    for folder in ["programs", "attachments", "netns", "cgroups", "maps"] {
        pins::remove(&root.join(folder))?;
    }
    pins::remove(root)
}

/// Takes away what is kept although no namespace has a policy: a run was killed. Whether there was anything.
///
/// # Errors
/// It cannot be removed.
pub fn sweep(wait: Duration) -> Result<bool> {
    let Some(mounted) = pins::find() else { return Ok(false) };
    let folder = mounted.join(FOLDER);
    if !pins::is_there(&folder) {
        return Ok(false);
    }
    let _guard = pins::lock(&folder, wait)?;
    let root = folder.join(VERSION);
    if !pins::is_there(&root) || !pins::list(&root.join("netns"))?.is_empty() {
        return Ok(false);
    }
    remove_all(&root).map(|()| true)
}

/// Whether anything may be kept on this node, as far as can be told without a privilege.
#[must_use]
pub fn may_be_here() -> bool {
    pins::is_there(&Path::new(pins::MOUNT).join(FOLDER))
}

/// The number of the control group of a namespace.
pub(super) fn cgroup_of(pod: &Path) -> Option<u64> {
    number(&pins::pointed(&pod.join("cgroup"))?)
}

/// A number as a name.
pub(super) fn id(number: u64) -> String {
    format!("{number:016x}")
}

/// The number that a path ends with, as such a name.
pub(super) fn number(path: &Path) -> Option<u64> {
    path.file_name().and_then(|name| u64::from_str_radix(name.to_str()?, 16).ok())
}

/// The programs of this build.
fn programs(root: &Path) -> PathBuf {
    root.join("programs").join(id(*CGROUP_DIGEST))
}

/// FNV-1a of 64 bits: it tells one build's object from another's, and nobody can choose it who could not do worse.
fn digest(bytes: &[u8]) -> u64 {
    let step = |digest: u64, byte: &u8| (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

static CGROUP_DIGEST: LazyLock<u64> = LazyLock::new(|| digest(&CGROUP.0));
static NETNS_DIGEST: LazyLock<u64> = LazyLock::new(|| digest(&NETNS.0));

/// How the names of a namespace's own programs begin; what follows tells the builds apart.
pub(super) const ARRIVES: &str = "program-";

/// The name of a namespace's own program, of this build.
pub(super) fn arrives() -> String {
    format!("{ARRIVES}{}", id(*NETNS_DIGEST))
}

/// Puts the programs of this build in the place of another's, at every control group, and takes the others away.
fn renew(root: &Path) -> Result<()> {
    let ours = programs(root);
    let others: Vec<PathBuf> =
        pins::list(&root.join("programs"))?.into_iter().filter(|folder| *folder != ours).collect();
    if others.is_empty() {
        return Ok(());
    }
    for cgroup in pins::list(&root.join("cgroups"))? {
        for (name, _) in PROGRAMS {
            if let Some(program) = pins::open(&ours.join(name))? {
                link::renew(&cgroup.join(name), &program)?;
            }
        }
    }
    others.iter().try_for_each(|folder| pins::remove(folder))
}

/// Loads what is not loaded: all or nothing of the programs.
fn load(root: &Path) -> Result<()> {
    let folder = programs(root);
    if PROGRAMS.iter().all(|(name, _)| pins::is_there(&folder.join(name))) {
        return Ok(());
    }
    let mut object = Object::parse(&CGROUP.0, &[])?;
    let names: Vec<String> = object.maps().map(str::to_owned).collect();
    let mut maps = Vec::new();
    for name in names {
        let path = root.join("maps").join(&name);
        let fd = match pins::open(&path)? {
            Some(fd) => fd,
            None => {
                let fd = object.make_map(&name)?;
                pins::keep(&fd, &path)?;
                fd
            }
        };
        maps.push((name, fd));
    }
    let loaded = object.load(&maps)?;
    pins::remove(&folder)?;
    pins::make_folder(&folder)?;
    for program in loaded {
        pins::keep(&program.fd, &folder.join(&program.name))?;
    }
    Ok(())
}

/// The maps that the object's programs use, which are kept.
fn open_maps(root: &Path, object: &Object) -> Result<Vec<(String, OwnedFd)>> {
    let open = |name: &str| {
        let path = root.join("maps").join(name);
        let fd = pins::open(&path)?;
        let fd = fd.ok_or_else(|| Error::refused(format!("there is no {}", path.display())))?;
        Ok((name.to_owned(), fd))
    };
    object.maps().map(open).collect()
}

impl Maps {
    /// Those that are kept; nothing if one is missing.
    fn open(root: &Path) -> Result<Option<Maps>> {
        fn one<K: Plain, V: Plain>(root: &Path, name: &'static str) -> Result<Option<Map<K, V>>> {
            let fd = pins::open(&root.join("maps").join(name))?;
            fd.map(|fd| Map::new(name, fd)).transpose()
        }
        let maps = (
            one(root, "NAMESPACES")?,
            one(root, "NETWORKS")?,
            one(root, "PORTS")?,
            one(root, "OWNERS")?,
            one(root, "ADDRESSES")?,
            one(root, "COUNTERS")?,
            one(root, "PAIRS")?,
            one(root, "LISTENERS")?,
            one(root, "SOCKS")?,
            one(root, "SURPRISES")?,
        );
        let (
            Some(namespaces),
            Some(networks),
            Some(ports),
            Some(owners),
            Some(addresses),
            Some(counters),
            Some(pairs),
            Some(listeners),
            Some(socks),
            Some(surprises),
        ) = maps
        else {
            return Ok(None);
        };
        Ok(Some(Maps {
            namespaces,
            networks,
            ports,
            owners,
            addresses,
            counters,
            pairs,
            listeners,
            socks,
            surprises,
        }))
    }
}
