//! BPF as the kernel tells of it, and programs written as instructions: nothing of ours reads or loads them.

#![expect(unsafe_code, reason = "neither the standard library nor nix has bpf(2)")]

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

const MAP_GET_NEXT_KEY: u32 = 4;
const PROG_LOAD: u32 = 5;
const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;
const PROG_ATTACH: u32 = 8;
const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;
const LINK_DETACH: u32 = 34;

/// One command with its attributes as 64-bit words, which is how they all can be written.
fn bpf(command: u32, attributes: &mut [u64]) -> io::Result<i32> {
    let size = std::mem::size_of_val(attributes);
    // SAFETY: the callers write what the command reads (`union bpf_attr`), and every address in it is of what they hold.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size) };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(i32::try_from(answer).expect("a small number"))
    }
}

fn descriptor(command: u32, attributes: &mut [u64]) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the kernel has just made it for us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn at<T: ?Sized>(what: *const T) -> u64 {
    what.cast::<()>().expose_provenance() as u64
}

fn number(fd: &impl AsFd) -> u64 {
    u64::from(fd.as_fd().as_raw_fd().cast_unsigned())
}

/// Two 32-bit fields side by side.
fn pair(low: u64, high: u64) -> u64 {
    low | high << 32
}

/// What is kept under `path`.
pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.to_str().expect("a path of ours")).expect("no zero byte");
    descriptor(OBJ_GET, &mut [at(path.as_ptr()), 0])
}

/// Whether the map that is kept under `path` has anything of a socket (`BPF_MAP_TYPE_SK_STORAGE`).
pub(crate) fn knows(path: &Path, socket: &impl AsFd) -> bool {
    const MAP_LOOKUP_ELEM: u32 = 1;
    let map = open(path).unwrap_or_else(|error| panic!("opening {}: {error}", path.display()));
    let key = socket.as_fd().as_raw_fd();
    let mut value = [0_u64; 32];
    match bpf(MAP_LOOKUP_ELEM, &mut [number(&map), at(&raw const key), at(value.as_mut_ptr())]) {
        Ok(_) => true,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => false,
        Err(error) => panic!("asking {}: {error}", path.display()),
    }
}

/// How many entries the map has that is kept under `path`, as far as nobody changes it meanwhile.
pub(crate) fn entries(path: &Path) -> usize {
    let map = open(path).unwrap_or_else(|error| panic!("opening {}: {error}", path.display()));
    let info =
        fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd())).expect("a descriptor of ours");
    let size = info.lines().find_map(|line| line.strip_prefix("key_size:")).expect("a map");
    let mut key = vec![0_u8; size.trim().parse().expect("a number")];
    let mut next = key.clone();
    for count in 0.. {
        let before = if count == 0 { 0 } else { at(key.as_ptr()) };
        match bpf(MAP_GET_NEXT_KEY, &mut [number(&map), before, at(next.as_mut_ptr())]) {
            Ok(_) => std::mem::swap(&mut key, &mut next),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return count,
            Err(error) => panic!("listing {}: {error}", path.display()),
        }
    }
    unreachable!("counting ends with the map")
}

/// An instruction (`struct bpf_insn`, include/uapi/linux/bpf.h).
pub(crate) const fn insn(code: u8, dst: u8, src: u8, offset: i16, value: i32) -> u64 {
    let (offset, value) = (offset.cast_unsigned() as u64, value.cast_unsigned() as u64);
    code as u64 | (dst as u64) << 8 | (src as u64) << 12 | offset << 16 | value << 32
}

/// A program's types, as `enum bpf_prog_type` and `enum bpf_attach_type` have them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) program: u32,
    pub(crate) attach: u32,
}

/// How programs share a hook of a control group (include/uapi/linux/bpf.h).
pub(crate) const ALLOW_OVERRIDE: u64 = 1;
pub(crate) const ALLOW_MULTI: u64 = 1 << 1;
/// Before those of the groups inside it, since Linux 6.15.
pub(crate) const PREORDER: u64 = 1 << 6;

/// Loads a program and attaches it to what `target` is; it stays while the answer is held.
pub(crate) fn attach(kind: Kind, instructions: &[u64], target: &impl AsFd) -> OwnedFd {
    let program = load(kind, instructions);
    let mut attributes = [pair(number(&program), number(target)), pair(u64::from(kind.attach), 0)];
    descriptor(LINK_CREATE, &mut attributes).unwrap_or_else(|error| panic!("attaching {kind:?}: {error}"))
}

/// The same without a link, as older programs do it: it stays as long as the control group, `how` as the flags say.
pub(crate) fn attach_for_good(
    kind: Kind,
    instructions: &[u64],
    target: &impl AsFd,
    how: u64,
) -> io::Result<()> {
    let program = load(kind, instructions);
    let mut attributes = [pair(number(target), number(&program)), pair(u64::from(kind.attach), how)];
    bpf(PROG_ATTACH, &mut attributes).map(drop)
}

/// Puts another program in the place of the one that the link under `path` attaches.
pub(crate) fn replace(path: &Path, kind: Kind, instructions: &[u64]) {
    let link = open(path).unwrap_or_else(|error| panic!("opening {}: {error}", path.display()));
    let program = load(kind, instructions);
    let mut attributes = [pair(number(&link), number(&program)), 0];
    bpf(LINK_UPDATE, &mut attributes).unwrap_or_else(|error| panic!("updating {}: {error}", path.display()));
}

/// The same, and keeps the program under `to`.
pub(crate) fn replace_and_keep(path: &Path, kind: Kind, instructions: &[u64], to: &Path) {
    let link = open(path).unwrap_or_else(|error| panic!("opening {}: {error}", path.display()));
    let program = load(kind, instructions);
    bpf(LINK_UPDATE, &mut [pair(number(&link), number(&program)), 0]).expect("a link of that kind");
    let to = CString::new(to.to_str().expect("a path of ours")).expect("no zero byte");
    bpf(OBJ_PIN, &mut [at(to.as_ptr()), number(&program)]).expect("nothing is there");
}

/// Detaches what the link under `path` attaches; the link stays.
pub(crate) fn detach(path: &Path) {
    let link = open(path).unwrap_or_else(|error| panic!("opening {}: {error}", path.display()));
    bpf(LINK_DETACH, &mut [number(&link)])
        .unwrap_or_else(|error| panic!("detaching {}: {error}", path.display()));
}

fn load(kind: Kind, instructions: &[u64]) -> OwnedFd {
    let mut log = vec![0_u8; 1 << 16];
    let length = instructions.len() as u64;
    let mut attributes = [
        pair(u64::from(kind.program), length),
        at(instructions.as_ptr()),
        at(c"GPL".as_ptr()),
        pair(1, log.len() as u64),
        at(log.as_mut_ptr()),
        0,
        0,
        0,
        // The index of an interface, and `expected_attach_type`.
        pair(0, u64::from(kind.attach)),
    ];
    let loaded = descriptor(PROG_LOAD, &mut attributes);
    loaded.unwrap_or_else(|error| panic!("{kind:?}: {error}\n{}", String::from_utf8_lossy(&log)))
}
