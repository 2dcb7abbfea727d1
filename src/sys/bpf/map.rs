//! Maps with keys and values of their types.

#![expect(unsafe_code, reason = "the kernel copies keys and values as bytes")]

use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mesh_init_abi::{
    AddressKey, CounterKey, Endpoint, ListenerKey, Namespace, NetFlags, NetKey, OwnerFlags, OwnerKey,
    PairKey, PortFlags, PortKey, Sock, Surprise, SurpriseKey,
};
use nix::errno::Errno;

use super::object::explain;
use super::{call, element};
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
        match unsafe { element::lookup(self.fd.as_fd(), key, &mut value) } {
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
        unsafe { element::update(self.fd.as_fd(), key, value) }
            .map_err(|errno| self.failed("writing to", errno))
    }

    /// Takes `key` away, if it is there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self, key: &K) -> Result<()> {
        // SAFETY: `new` has compared the sizes, and what is plain has no padding.
        match unsafe { element::delete(self.fd.as_fd(), key) } {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(self.failed("removing from", errno)),
        }
    }

    /// Writes all of `entries`.
    ///
    /// # Errors
    /// The kernel's; some may be written then.
    pub fn put_all(&self, entries: &[(K, V)]) -> Result<()> {
        let (keys, values): (Vec<K>, Vec<V>) = entries.iter().copied().unzip();
        if keys.is_empty() {
            return Ok(());
        }
        // SAFETY: `new` has compared the sizes, and what is plain has no padding.
        unsafe { element::put_all(self.fd.as_fd(), &keys, &values) }
            .map_err(|errno| self.failed("writing to", errno))
    }

    /// Takes `keys` away, which are there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_all(&self, keys: &[K]) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        // SAFETY: `new` has compared the sizes, and what is plain has no padding.
        match unsafe { element::delete_all(self.fd.as_fd(), keys) } {
            Ok(()) => Ok(()),
            // Somebody else has taken one of them.
            Err(Errno::ENOENT) => keys.iter().try_for_each(|key| self.remove(key)),
            Err(errno) => Err(self.failed("removing from", errno)),
        }
    }

    /// All entries; of those that come or go meanwhile some.
    ///
    /// # Errors
    /// The kernel's.
    pub fn entries(&self) -> Result<Vec<(K, V)>> {
        // A bucket is read at once, and has few; so few namespaces are read by one call.
        let mut room = 512;
        let mut entries = Vec::new();
        let mut from: Option<element::Cursor> = None;
        loop {
            let (mut keys, mut values) = (vec![K::ANY; room], vec![V::ANY; room]);
            let mut to = element::Cursor::default();
            // SAFETY: `new` has compared the sizes, of which none is larger than a cursor.
            let read =
                unsafe { element::entries(self.fd.as_fd(), from.as_ref(), &mut to, &mut keys, &mut values) };
            match read {
                Ok((count, more)) => {
                    entries.extend(keys.into_iter().zip(values).take(count));
                    if !more {
                        return Ok(entries);
                    }
                    from = Some(to);
                    room = room.saturating_mul(2).min(1 << 16);
                }
                Err(Errno::ENOSPC) if room < 1 << 24 => room *= 2,
                Err(errno) => return Err(self.failed("reading", errno)),
            }
        }
    }

    /// What it has under the keys of `entries`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn those_of(&self, entries: &[(K, V)]) -> Result<Vec<(K, V)>> {
        let mut there = Vec::new();
        for (key, _) in entries {
            there.extend(self.get(key)?.map(|value| (*key, value)));
        }
        Ok(there)
    }

    /// Takes away all whose key `is_it`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_where(&self, is_it: impl Fn(&K) -> bool) -> Result<()> {
        let keys: Vec<K> = self.entries()?.into_iter().map(|(key, _)| key).filter(is_it).collect();
        self.remove_all(&keys)
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
            match unsafe { element::next(self.fd.as_fd(), keys.last(), &mut next) } {
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
