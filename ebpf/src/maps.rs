//! The maps. A node has one of each, which every namespace shares; `mesh-init-abi` says what is in them.

use core::ffi::c_void;
use core::ptr::{self, NonNull};

use aya_ebpf::bindings::bpf_map_type::{
    BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LPM_TRIE, BPF_MAP_TYPE_LRU_HASH, BPF_MAP_TYPE_SK_STORAGE,
    BPF_MAP_TYPE_SOCKHASH,
};
use aya_ebpf::bindings::{
    BPF_ANY, BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock_ops,
};
use aya_ebpf::helpers::generated::{bpf_sk_storage_delete, bpf_sk_storage_get};
use aya_ebpf::helpers::{
    bpf_map_delete_elem, bpf_map_lookup_elem, bpf_map_update_elem, bpf_sock_hash_update,
};
use aya_ebpf::macros::btf_map;
use mesh_init_abi::{
    AddressKey, CounterKey, Endpoint, ListenerKey, Namespace, NetFlags, NetKey, OwnerFlags, OwnerKey,
    PairKey, PortFlags, PortKey, Present, Sock, Surprise, SurpriseKey,
};

/// A map as BTF describes it to a loader (Documentation/bpf/btf.rst; libbpf's `__uint` and `__type`): the numbers are the
/// lengths of arrays that nothing points to.
#[repr(C)]
pub struct Map<K, V, const KIND: usize, const ENTRIES: usize, const FLAGS: usize> {
    r#type: *const [i32; KIND],
    key: *const K,
    value: *const V,
    max_entries: *const [i32; ENTRIES],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: its pointers are never followed; the loader puts the map in their place.
unsafe impl<K, V, const KIND: usize, const ENTRIES: usize, const FLAGS: usize> Sync
    for Map<K, V, KIND, ENTRIES, FLAGS>
{
}

impl<K, V, const KIND: usize, const ENTRIES: usize, const FLAGS: usize> Map<K, V, KIND, ENTRIES, FLAGS> {
    const NEW: Self = Map {
        r#type: ptr::null(),
        key: ptr::null(),
        value: ptr::null(),
        max_entries: ptr::null(),
        map_flags: ptr::null(),
    };

    #[inline(always)]
    fn map(&self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }

    /// What the map has under `key`.
    #[inline(always)]
    pub fn get(&self, key: &K) -> Option<NonNull<V>> {
        // SAFETY: the map is one, and the key has its size.
        NonNull::new(unsafe { bpf_map_lookup_elem(self.map(), ptr::from_ref(key).cast()) }.cast())
    }

    /// Writes `value` under `key`.
    #[inline(always)]
    pub fn insert(&self, key: &K, value: &V) {
        // SAFETY: the map is one, and key and value have its sizes.
        unsafe {
            bpf_map_update_elem(
                self.map(),
                ptr::from_ref(key).cast(),
                ptr::from_ref(value).cast(),
                BPF_ANY.into(),
            );
        }
    }

    /// Takes `key` away.
    #[inline(always)]
    pub fn remove(&self, key: &K) {
        // SAFETY: the map is one, and the key has its size.
        unsafe {
            bpf_map_delete_elem(self.map(), ptr::from_ref(key).cast());
        }
    }
}

const HASH: usize = BPF_MAP_TYPE_HASH as usize;
const LRU: usize = BPF_MAP_TYPE_LRU_HASH as usize;
const TRIE: usize = BPF_MAP_TYPE_LPM_TRIE as usize;
const STORAGE: usize = BPF_MAP_TYPE_SK_STORAGE as usize;
const SOCKETS: usize = BPF_MAP_TYPE_SOCKHASH as usize;
const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

/// More than a node has namespaces with a policy. A hash has its buckets from the beginning: 16 bytes an entry.
const PODS: usize = 4096;
/// More than a node has addresses, and users of proxies.
const IDS: usize = 1 << 16;
/// More than all policies of a node have; a trie has nothing from the beginning.
const PREFIXES: usize = 1 << 24;

/// Namespaces that have a policy.
#[btf_map]
pub static NAMESPACES: Map<u64, Namespace, HASH, PODS, ON_DEMAND> = Map::NEW;
/// Networks.
#[btf_map]
pub static NETWORKS: Map<NetKey, NetFlags, TRIE, PREFIXES, ON_DEMAND> = Map::NEW;
/// Ports.
#[btf_map]
pub static PORTS: Map<PortKey, PortFlags, TRIE, PREFIXES, ON_DEMAND> = Map::NEW;
/// Users and groups.
#[btf_map]
pub static OWNERS: Map<OwnerKey, OwnerFlags, HASH, IDS, ON_DEMAND> = Map::NEW;
/// Addresses of the host's own.
#[btf_map]
pub static ADDRESSES: Map<AddressKey, Present, HASH, IDS, ON_DEMAND> = Map::NEW;
/// Counters.
#[btf_map]
pub static COUNTERS: Map<CounterKey, u64, HASH, { PODS * 32 }, ON_DEMAND> = Map::NEW;
/// Connections between `connect` and `accept`. One that is not accepted at once, by a full backlog, may go in time: each
/// takes as long as a handshake over `lo` takes.
#[btf_map]
pub static PAIRS: Map<PairKey, Endpoint, LRU, 16384, 0> = Map::NEW;
/// The proxy's listeners. The socket takes itself away when it closes. Who reads it from outside gets the socket's cookie, as
/// the value has 8 bytes.
#[btf_map]
pub static LISTENERS: Map<ListenerKey, u64, SOCKETS, { PODS * 4 }, 0> = Map::NEW;
/// What a policy did not foresee: as much as people read.
#[btf_map]
pub static SURPRISES: Map<SurpriseKey, Surprise, LRU, 1024, 0> = Map::NEW;
/// Sockets. It goes with its socket.
#[btf_map]
pub static SOCKS: Map<i32, Sock, STORAGE, 0, { ON_DEMAND | BPF_F_CLONE as usize }> = Map::NEW;

impl<V, const FLAGS: usize> Map<i32, V, STORAGE, 0, FLAGS> {
    /// What is remembered of the socket, which is one or the context of a program for sockets.
    #[inline(always)]
    pub fn of<S>(&self, socket: *mut S) -> Option<NonNull<V>> {
        // SAFETY: the verifier takes the program only if `socket` is one.
        NonNull::new(unsafe { bpf_sk_storage_get(self.map(), socket.cast(), ptr::null_mut(), 0) }.cast())
    }

    /// The same, and zeros if nothing is; nothing if there is no memory.
    #[inline(always)]
    pub fn of_or_new<S>(&self, socket: *mut S) -> Option<NonNull<V>> {
        let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
        // SAFETY: the verifier takes the program only if `socket` is one.
        NonNull::new(unsafe { bpf_sk_storage_get(self.map(), socket.cast(), ptr::null_mut(), create) }.cast())
    }

    /// Forgets what is remembered of it.
    #[inline(always)]
    pub fn forget<S>(&self, socket: *mut S) {
        // SAFETY: the verifier takes the program only if `socket` is one.
        unsafe {
            bpf_sk_storage_delete(self.map(), socket.cast());
        }
    }
}

impl<K, const ENTRIES: usize, const FLAGS: usize> Map<K, u64, SOCKETS, ENTRIES, FLAGS> {
    /// Enters the socket of the callback, unless there is one under `key`; says whether it did.
    #[inline(always)]
    pub fn enter(&self, ops: *mut bpf_sock_ops, key: &mut K) -> bool {
        // SAFETY: the map is one, and the key has its size.
        unsafe { bpf_sock_hash_update(ops, self.map(), ptr::from_mut(key).cast(), BPF_NOEXIST.into()) == 0 }
    }

    /// Enters it whatever there is.
    #[inline(always)]
    pub fn replace(&self, ops: *mut bpf_sock_ops, key: &mut K) {
        // SAFETY: the map is one, and the key has its size.
        unsafe {
            bpf_sock_hash_update(ops, self.map(), ptr::from_mut(key).cast(), BPF_ANY.into());
        }
    }
}
