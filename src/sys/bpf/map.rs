//! Maps with keys and values of their types.

#![expect(unsafe_code, reason = "the kernel copies keys and values as bytes")]

use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mesh_init_abi::{
    AddressKey, CounterKey, Endpoint, ListenerKey, Namespace, NetFlags, NetKey, OwnerFlags, OwnerKey,
    PairKey, PortFlags, PortKey, Sock, Surprise, SurpriseKey,
};
use nix::errno::Errno;

use super::call;
use super::object::explain;
use crate::error::{Error, Result};

/// What is nothing but its bytes.
///
/// # Safety
/// It has no padding, and any bytes are a value of it.
pub unsafe trait Plain: Copy {
    /// Any value, to be written over.
    const ANY: Self;
}

macro_rules! plain {
    ($($type:ty),* $(,)?) => {
        $(
            // SAFETY: numbers, side by side: mesh-init-abi asserts the layouts.
            unsafe impl Plain for $type {
                // SAFETY: any bytes are a value.
                const ANY: Self = unsafe { std::mem::zeroed() };
            }
        )*
    };
}

plain!(
    u32,
    u64,
    i32,
    AddressKey,
    CounterKey,
    Endpoint,
    ListenerKey,
    Namespace,
    NetFlags,
    NetKey,
    OwnerFlags,
    OwnerKey,
    PairKey,
    PortFlags,
    PortKey,
    Sock,
    Surprise,
    SurpriseKey,
);

/// A map.
#[derive(Debug)]
pub struct Map<K, V> {
    fd: OwnedFd,
    name: &'static str,
    types: PhantomData<(K, V)>,
}

impl<K: Plain, V: Plain> Map<K, V> {
    /// The map of `fd`, if its keys and values have the sizes of these.
    ///
    /// # Errors
    /// It has others.
    pub fn new(name: &'static str, fd: OwnedFd) -> Result<Map<K, V>> {
        let shape = call::map_shape(&fd)
            .map_err(|errno| explain(&format!("looking at the BPF map {name}"), errno))?;
        let fits = |told: u32, size: usize| usize::try_from(told).is_ok_and(|told| told == size);
        match fits(shape.key, size_of::<K>()) && fits(shape.value, size_of::<V>()) {
            true => Ok(Map { fd, name, types: PhantomData }),
            false => Err(Error::refused(format!("the BPF map {name} is of another version")).remedy(
                "take all of it away with mesh-init clean of the version that made it, and apply again",
            )),
        }
    }

    fn failed(&self, verb: &str, errno: Errno) -> Error {
        explain(&format!("{verb} the BPF map {}", self.name), errno)
    }

    /// What it has under `key`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        let mut value = V::ANY;
        // SAFETY: `new` has compared the sizes.
        match unsafe { call::map_lookup(self.fd.as_fd(), key, &mut value) } {
            Ok(()) => Ok(Some(value)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(self.failed("reading", errno)),
        }
    }

    /// Writes `value` under `key`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn put(&self, key: &K, value: &V) -> Result<()> {
        // SAFETY: `new` has compared the sizes, and what is plain has no padding.
        unsafe { call::map_update(self.fd.as_fd(), key, value) }
            .map_err(|errno| self.failed("writing to", errno))
    }

    /// Takes `key` away, if it is there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self, key: &K) -> Result<()> {
        // SAFETY: `new` has compared the sizes, and what is plain has no padding.
        match unsafe { call::map_delete(self.fd.as_fd(), key) } {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(self.failed("removing from", errno)),
        }
    }

    /// All keys, as far as nobody changes them meanwhile: after one that has gone the kernel begins again.
    ///
    /// # Errors
    /// The kernel's.
    pub fn keys(&self) -> Result<Vec<K>>
    where
        K: PartialEq,
    {
        let mut keys: Vec<K> = Vec::new();
        loop {
            let mut next = K::ANY;
            // SAFETY: `new` has compared the sizes.
            match unsafe { call::map_next(self.fd.as_fd(), keys.last(), &mut next) } {
                Ok(()) if keys.first() == Some(&next) => return Ok(keys),
                Ok(()) => keys.push(next),
                Err(Errno::ENOENT) => return Ok(keys),
                Err(errno) => return Err(self.failed("reading", errno)),
            }
        }
    }
}

impl<K, V> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
