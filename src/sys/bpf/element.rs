//! Commands of bpf(2) for the entries of maps.

#![expect(unsafe_code, reason = "neither the standard library nor nix has bpf(2)")]

use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use super::call::{at, bpf, map_shape, number};

const MAP_LOOKUP_ELEM: u32 = 1;
const MAP_UPDATE_ELEM: u32 = 2;
const MAP_DELETE_ELEM: u32 = 3;
const MAP_GET_NEXT_KEY: u32 = 4;
const MAP_LOOKUP_BATCH: u32 = 24;
const MAP_UPDATE_BATCH: u32 = 26;
const MAP_DELETE_BATCH: u32 = 27;

#[repr(C)]
struct Element {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Reads what `map` has under `key` into `value`.
///
/// # Safety
/// The two are as long as the map's.
///
/// # Errors
/// The kernel's; `ENOENT` if there is nothing.
pub(super) unsafe fn lookup<K, V>(map: BorrowedFd<'_>, key: &K, value: &mut V) -> nix::Result<()> {
    let mut attr = Element {
        map: number(&map),
        reserved: 0,
        key: at(key),
        value: at(std::ptr::from_mut(value)),
        flags: 0,
    };
    // SAFETY: the caller's promise.
    unsafe { bpf(MAP_LOOKUP_ELEM, &mut attr) }.map(drop)
}

/// Writes `value` under `key`.
///
/// # Safety
/// The two are as long as the map's, and have no byte that is not set.
///
/// # Errors
/// The kernel's; `E2BIG` if the map is full.
pub(super) unsafe fn update<K, V>(map: BorrowedFd<'_>, key: &K, value: &V) -> nix::Result<()> {
    let mut attr = Element { map: number(&map), reserved: 0, key: at(key), value: at(value), flags: 0 };
    // SAFETY: the caller's promise.
    unsafe { bpf(MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

/// Takes `key` away.
///
/// # Safety
/// It is as long as the map's keys, and has no byte that is not set.
///
/// # Errors
/// The kernel's; `ENOENT` if there is nothing.
pub(super) unsafe fn delete<K>(map: BorrowedFd<'_>, key: &K) -> nix::Result<()> {
    let mut attr = Element { map: number(&map), reserved: 0, key: at(key), value: 0, flags: 0 };
    // SAFETY: the caller's promise.
    unsafe { bpf(MAP_DELETE_ELEM, &mut attr) }.map(drop)
}

/// Where a reading of many entries goes on: the number of a bucket, or a key, which are no longer than this.
pub(super) type Cursor = [u64; 8];

#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Reads entries into `keys` and `values`, as many as fit, from `from` on, and says how many those are; `to` is where the next
/// call goes on, and whether there is more is said, too.
///
/// # Safety
/// They are as long as the map's, and those no longer than a cursor.
///
/// # Errors
/// The kernel's; `ENOSPC` if it needs more room at once.
pub(super) unsafe fn entries<K, V>(
    map: BorrowedFd<'_>,
    from: Option<&Cursor>,
    to: &mut Cursor,
    keys: &mut [K],
    values: &mut [V],
) -> nix::Result<(usize, bool)> {
    let mut attr = Batch {
        from: from.map_or(0, |from| at(from)),
        to: at(std::ptr::from_mut(to)),
        keys: at(keys.as_mut_ptr()),
        values: at(values.as_mut_ptr()),
        count: u32::try_from(keys.len().min(values.len())).map_err(|_| Errno::E2BIG)?,
        map: number(&map),
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: the caller's promise.
    let more = match unsafe { bpf(MAP_LOOKUP_BATCH, &mut attr) } {
        Ok(_) => true,
        // This was the last of it.
        Err(Errno::ENOENT) => false,
        Err(errno) => return Err(errno),
    };
    Ok((usize::try_from(attr.count).map_err(|_| Errno::E2BIG)?, more))
}

/// Writes as many entries as there are of both.
///
/// # Safety
/// They are as long as the map's, and have no byte that is not set.
///
/// # Errors
/// The kernel's; some may be written then.
pub(super) unsafe fn put_all<K, V>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> nix::Result<()> {
    let count = u32::try_from(keys.len().min(values.len())).map_err(|_| Errno::E2BIG)?;
    let (keys, values) = (at(keys.as_ptr()), at(values.as_ptr()));
    let mut attr =
        Batch { from: 0, to: 0, keys, values, count, map: number(&map), element_flags: 0, flags: 0 };
    // SAFETY: the caller's promise.
    unsafe { bpf(MAP_UPDATE_BATCH, &mut attr) }.map(drop)
}

/// Takes all of the keys away.
///
/// # Safety
/// They are as long as the map's, and have no byte that is not set.
///
/// # Errors
/// The kernel's; `ENOENT` if one is not there, and then those after it still are.
pub(super) unsafe fn delete_all<K>(map: BorrowedFd<'_>, keys: &[K]) -> nix::Result<()> {
    let count = u32::try_from(keys.len()).map_err(|_| Errno::E2BIG)?;
    let keys = at(keys.as_ptr());
    let mut attr =
        Batch { from: 0, to: 0, keys, values: 0, count, map: number(&map), element_flags: 0, flags: 0 };
    // SAFETY: the caller's promise.
    unsafe { bpf(MAP_DELETE_BATCH, &mut attr) }.map(drop)
}

/// Reads the key that comes after `key`, or the first, into `next`.
///
/// # Safety
/// They are as long as the map's keys.
///
/// # Errors
/// The kernel's; `ENOENT` if there is none.
pub(super) unsafe fn next<K>(map: BorrowedFd<'_>, key: Option<&K>, next: &mut K) -> nix::Result<()> {
    let key = key.map_or(0, |key| at(key));
    let mut attr =
        Element { map: number(&map), reserved: 0, key, value: at(std::ptr::from_mut(next)), flags: 0 };
    // SAFETY: the caller's promise.
    unsafe { bpf(MAP_GET_NEXT_KEY, &mut attr) }.map(drop)
}

/// Writes `value` as the first of a map that is an array, filled up with zeros.
///
/// # Errors
/// The kernel's; `E2BIG` if it does not fit.
pub(super) fn fill(map: BorrowedFd<'_>, value: &[u8]) -> nix::Result<()> {
    let length = usize::try_from(map_shape(&map)?.value).map_err(|_| Errno::E2BIG)?;
    let mut whole = value.to_vec();
    if whole.len() > length {
        return Err(Errno::E2BIG);
    }
    whole.resize(length, 0);
    let first = 0_u32;
    let mut attr = Element {
        map: number(&map),
        reserved: 0,
        key: at(&raw const first),
        value: at(whole.as_ptr()),
        flags: 0,
    };
    // SAFETY: an array's key is a number of 32 bits, and the value is as long as the map's.
    unsafe { bpf(MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}
