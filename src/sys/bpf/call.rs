//! The system call, a function each command.
//!
//! `union bpf_attr` of include/uapi/linux/bpf.h: each command reads the member of its own and requires what lies behind it
//! to be zero, so a structure that ends with the last field that is used is enough.

#![expect(unsafe_code, reason = "neither the standard library nor nix has bpf(2)")]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

const MAP_CREATE: u32 = 0;
const PROG_LOAD: u32 = 5;
const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;
const OBJ_GET_INFO_BY_FD: u32 = 15;
const BTF_LOAD: u32 = 18;
const MAP_FREEZE: u32 = 22;
const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;

/// What a program is called, as far as the kernel keeps it (`BPF_OBJ_NAME_LEN`).
type Name = [u8; 16];

/// The address of what the kernel reads or writes.
pub(super) fn at<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}

/// # Safety
/// `attr` is what the command reads: a structure without padding, with addresses of what is as long as the kernel takes it
/// to be.
pub(super) unsafe fn bpf<T>(command: u32, attr: &mut T) -> nix::Result<i32> {
    // SAFETY: the caller's promise; the kernel reads no more than the size that it is told.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    Errno::result(answer).map(|answer| i32::try_from(answer).unwrap_or(i32::MAX))
}

/// # Safety
/// As of [`bpf`], and the command answers with a descriptor.
unsafe fn descriptor<T>(command: u32, attr: &mut T) -> nix::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: the kernel has just made it for us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// By reference: a descriptor that is taken is closed before the call.
pub(super) fn number(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

fn name_of(text: &str) -> Name {
    let mut name = Name::default();
    // The last byte stays zero.
    for (to, from) in name.iter_mut().take(15).zip(text.bytes()) {
        *to = from;
    }
    name
}

/// What a map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// `enum bpf_map_type`.
    pub(super) kind: u32,
    /// Bytes of a key.
    pub(super) key: u32,
    /// Bytes of a value.
    pub(super) value: u32,
    /// How many entries fit.
    pub(super) entries: u32,
    /// `BPF_F_…`.
    pub(super) flags: u32,
}

/// The types of key and value, where the kernel wants to know them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Types<'a> {
    /// The loaded BTF.
    pub(super) btf: BorrowedFd<'a>,
    /// The number of the key's type.
    pub(super) key: u32,
    /// The number of the value's type.
    pub(super) value: u32,
}

/// Makes a map.
///
/// # Errors
/// The kernel's.
pub(super) fn map_create(name: &str, shape: Shape, types: Option<Types<'_>>) -> nix::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        kind: u32,
        key: u32,
        value: u32,
        entries: u32,
        flags: u32,
        inner: u32,
        node: u32,
        name: Name,
        ifindex: u32,
        btf: u32,
        key_type: u32,
        value_type: u32,
    }
    let mut attr = Attr {
        kind: shape.kind,
        key: shape.key,
        value: shape.value,
        entries: shape.entries,
        flags: shape.flags,
        inner: 0,
        node: 0,
        name: name_of(name),
        ifindex: 0,
        btf: types.map_or(0, |types| number(&types.btf)),
        key_type: types.map_or(0, |types| types.key),
        value_type: types.map_or(0, |types| types.value),
    };
    // SAFETY: numbers alone.
    unsafe { descriptor(MAP_CREATE, &mut attr) }
}

/// Lets nobody but programs write to the map any more.
///
/// # Errors
/// The kernel's.
pub(super) fn map_freeze(map: BorrowedFd<'_>) -> nix::Result<()> {
    let mut attr = number(&map);
    // SAFETY: one number.
    unsafe { bpf(MAP_FREEZE, &mut attr) }.map(drop)
}

/// Loads type information.
///
/// # Errors
/// The kernel's.
pub(super) fn btf_load(bytes: &[u8]) -> nix::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        btf: u64,
        log: u64,
        size: u32,
        log_size: u32,
        log_level: u32,
        reserved: u32,
    }
    let size = u32::try_from(bytes.len()).map_err(|_| Errno::E2BIG)?;
    let mut attr = Attr { btf: at(bytes.as_ptr()), log: 0, size, log_size: 0, log_level: 0, reserved: 0 };
    // SAFETY: the bytes are as many as told.
    unsafe { descriptor(BTF_LOAD, &mut attr) }
}

/// What a program is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Code<'a> {
    /// What it is called.
    pub(super) name: &'a str,
    /// `enum bpf_prog_type`.
    pub(super) kind: u32,
    /// `enum bpf_attach_type` of where it is to be attached.
    pub(super) attach: u32,
    /// Its licence.
    pub(super) license: &'a CString,
    /// Its instructions, 8 bytes each.
    pub(super) instructions: &'a [[u8; 8]],
}

/// How much the verifier says (include/linux/bpf_verifier.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    /// `BPF_LOG_LEVEL1`: every instruction, and why it does not take one.
    Steps = 1,
    /// `BPF_LOG_STATS`: what the program costs.
    Figures = 4,
}

/// Loads a program, which the verifier judges. With `log`, what it says is written there, as much as fits.
///
/// # Errors
/// The kernel's; `EACCES` or `EINVAL` if the verifier does not take it.
pub(super) fn prog_load(code: Code<'_>, log: Option<(Says, &mut [u8])>) -> nix::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        version: u32,
        flags: u32,
        name: Name,
        ifindex: u32,
        attach: u32,
    }
    let mut attr = Attr {
        kind: code.kind,
        count: u32::try_from(code.instructions.len()).map_err(|_| Errno::E2BIG)?,
        instructions: at(code.instructions.as_ptr()),
        license: at(code.license.as_ptr()),
        log_level: 0,
        log_size: 0,
        log: 0,
        version: 0,
        flags: 0,
        name: name_of(code.name),
        ifindex: 0,
        attach: code.attach,
    };
    if let Some((says, log)) = log {
        attr.log_level = says as u32;
        attr.log_size = u32::try_from(log.len()).map_err(|_| Errno::E2BIG)?;
        attr.log = at(log.as_mut_ptr());
    }
    // SAFETY: the instructions are as many as told, the licence ends with a zero, and the log is as long as told.
    unsafe { descriptor(PROG_LOAD, &mut attr) }
}

#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

fn path_of(path: &Path) -> nix::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)
}

/// Keeps `fd`, a map, program or link, under `path`.
///
/// # Errors
/// The kernel's; `EEXIST` if there is something.
pub(super) fn pin(fd: &impl AsFd, path: &Path) -> nix::Result<()> {
    let path = path_of(path)?;
    let mut attr = Object { path: at(path.as_ptr()), fd: number(fd), flags: 0 };
    // SAFETY: the path ends with a zero.
    unsafe { bpf(OBJ_PIN, &mut attr) }.map(drop)
}

/// Opens what is kept under `path`.
///
/// # Errors
/// The kernel's; `ENOENT` if there is nothing.
pub(super) fn open(path: &Path) -> nix::Result<OwnedFd> {
    let path = path_of(path)?;
    let mut attr = Object { path: at(path.as_ptr()), fd: 0, flags: 0 };
    // SAFETY: the path ends with a zero.
    unsafe { descriptor(OBJ_GET, &mut attr) }
}

/// Attaches `program` to `target`, a cgroup's folder or a network namespace. It is detached when nobody has the link any
/// more. A link of a cgroup is beside others, always (`BPF_F_ALLOW_MULTI` is implied).
///
/// # Errors
/// The kernel's.
pub(super) fn link_create(program: &impl AsFd, target: &impl AsFd, attach: u32) -> nix::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        program: u32,
        target: u32,
        attach: u32,
        flags: u32,
    }
    let mut attr = Attr { program: number(program), target: number(target), attach, flags: 0 };
    // SAFETY: numbers alone.
    unsafe { descriptor(LINK_CREATE, &mut attr) }
}

/// Puts `program` in the place of the link's, at once.
///
/// # Errors
/// The kernel's; `ENOLINK` if what it was attached to is gone.
pub(super) fn link_update(link: &impl AsFd, program: &impl AsFd) -> nix::Result<()> {
    #[repr(C)]
    struct Attr {
        link: u32,
        program: u32,
        flags: u32,
        old: u32,
    }
    let mut attr = Attr { link: number(link), program: number(program), flags: 0, old: 0 };
    // SAFETY: numbers alone.
    unsafe { bpf(LINK_UPDATE, &mut attr) }.map(drop)
}

#[repr(C)]
struct Info {
    fd: u32,
    length: u32,
    info: u64,
}

/// # Safety
/// `T` is the beginning of the structure that the kernel has for what `fd` is, and any bytes are one.
unsafe fn info<T: Default>(fd: &impl AsFd) -> nix::Result<T> {
    let mut info = T::default();
    let length = u32::try_from(size_of::<T>()).map_err(|_| Errno::E2BIG)?;
    let mut attr = Info { fd: number(fd), length, info: at(std::ptr::from_mut(&mut info)) };
    // SAFETY: the caller's promise; the kernel writes no more than the length that it is told.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}

/// What the kernel tells of a program: the beginning of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ProgramInfo {
    /// `enum bpf_prog_type`.
    pub(super) kind: u32,
    /// Its number.
    pub(super) id: u32,
    /// A digest of its instructions, in which maps do not count.
    pub(super) tag: [u8; 8],
}

/// What the kernel tells of a program.
///
/// # Errors
/// The kernel's.
pub(super) fn program_info(program: &impl AsFd) -> nix::Result<ProgramInfo> {
    // SAFETY: numbers and bytes.
    unsafe { info(program) }
}

/// What the kernel tells of a link: `struct bpf_link_info` of one to a cgroup or a network namespace.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LinkInfo {
    /// `enum bpf_link_type`.
    pub(super) kind: u32,
    /// Its number.
    pub(super) id: u32,
    /// The number of its program.
    pub(super) program: u32,
    reserved: u32,
    /// Of a cgroup: the lower half of its number; zero if it is gone. Of a namespace: the inode of its file in nsfs; zero
    /// if it is gone.
    pub(super) target: u32,
    /// Of a cgroup: the upper half. Of a namespace: the attach type.
    pub(super) target_end: u32,
    /// Of a cgroup: the attach type.
    pub(super) attach: u32,
    reserved_end: u32,
}

/// What the kernel tells of a link.
///
/// # Errors
/// The kernel's.
pub(super) fn link_info(link: &impl AsFd) -> nix::Result<LinkInfo> {
    // SAFETY: numbers.
    unsafe { info(link) }
}

/// What the kernel tells of a map: the beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}

/// What a map is.
///
/// # Errors
/// The kernel's.
pub(super) fn map_shape(map: &impl AsFd) -> nix::Result<Shape> {
    // SAFETY: numbers.
    let MapInfo { kind, id: _, key, value, entries, flags } = unsafe { info(map) }?;
    Ok(Shape { kind, key, value, entries, flags })
}
