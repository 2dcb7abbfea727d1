//! Programs from an object file.
//!
//! aya-obj reads the file and puts descriptors in the place of maps. aya itself would read the types of the whole kernel
//! first, some 30 ms that these programs have no use for.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya_obj::btf::BtfFeatures;
pub use aya_obj::generated::bpf_attach_type as Attach;
use aya_obj::generated::bpf_prog_type;
use aya_obj::{EbpfSectionKind, Map, ProgramSection};
use nix::errno::Errno;

use super::call::{self, Code, Says, Shape, Types};
use super::element;
use crate::error::{Class, Error, Result};

/// `BPF_F_RDONLY_PROG`: programs cannot write, so the verifier knows the values.
const CONSTANT: u32 = 1 << 7;
/// `BPF_MAP_TYPE_SK_STORAGE`.
const STORAGE: u32 = 24;
/// How much is kept of what the verifier says.
const LOG: usize = 64 << 10;
/// A few lines.
const FIGURES: usize = 4 << 10;

/// An object file, read.
#[derive(Debug)]
pub struct Object {
    object: aya_obj::Object,
}

/// A loaded program.
#[derive(Debug)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// `enum bpf_attach_type` of where it is to be attached.
    pub attach: u32,
    /// The program.
    pub fd: OwnedFd,
}

fn broken(why: impl std::fmt::Display) -> Error {
    Error::refused(format!("the BPF programs of this build cannot be read: {why}"))
        .remedy("rebuild them with scripts/build-ebpf.sh")
}

impl Object {
    /// Reads `bytes`. `constants` are values for variables of the programs.
    ///
    /// # Errors
    /// It is no such file.
    pub fn parse(bytes: &[u8], constants: &[(&str, &[u8])]) -> Result<Object> {
        let mut object = aya_obj::Object::parse(bytes).map_err(broken)?;
        let constants: HashMap<&str, (&[u8], bool)> =
            constants.iter().map(|(name, value)| (*name, (*value, true))).collect();
        object.patch_map_data(constants.into_iter().collect()).map_err(broken)?;
        Ok(Object { object })
    }

    /// The names of the maps that the programs share with others.
    pub fn maps(&self) -> impl Iterator<Item = &str> {
        let shared =
            self.object.maps.iter().filter(|(_, map)| map.section_kind() == EbpfSectionKind::BtfMaps);
        shared.map(|(name, _)| name.as_str())
    }

    /// Makes the map `name`.
    ///
    /// # Errors
    /// The kernel has no such maps, or a privilege is missing.
    pub fn make_map(&mut self, name: &str) -> Result<OwnedFd> {
        let map = self.object.maps.get(name).cloned().ok_or_else(|| broken(format!("no map {name}")))?;
        let types = match &map {
            Map::Btf(of) if map.map_type() == STORAGE => {
                Some((of.def.btf_key_type_id, of.def.btf_value_type_id))
            }
            Map::Btf(_) | Map::Legacy(_) => None,
        };
        let made = match types {
            None => call::map_create(name, shape(&map), None),
            Some((key, value)) => {
                let btf = self.types()?;
                call::map_create(name, shape(&map), Some(Types { btf: btf.as_fd(), key, value }))
            }
        };
        made.map_err(|errno| explain(&format!("making the BPF map {name}"), errno))
    }

    fn types(&mut self) -> Result<OwnedFd> {
        // Nothing but the types of keys and values is asked of the kernel: what an old one does not know is left out.
        let btf = self.object.fixup_and_sanitize_btf(&BtfFeatures::default()).map_err(broken)?;
        let bytes = btf.ok_or_else(|| broken("it has no types"))?.to_bytes();
        call::btf_load(&bytes).map_err(|errno| explain("loading the types of BPF maps", errno))
    }

    /// Loads all programs, with these maps for their names.
    ///
    /// # Errors
    /// The verifier takes one not, or a privilege is missing.
    pub fn load(mut self, given: &[(String, OwnedFd)]) -> Result<Vec<Program>> {
        let of = |name: &str| given.iter().find(|(of, _)| of == name).map(|(_, fd)| fd);
        let maps: Vec<(String, Map)> = self.object.maps.drain().collect();
        let mut own = Vec::new();
        let mut found = Vec::new();
        for (name, map) in &maps {
            let fd = match map.section_kind() {
                EbpfSectionKind::BtfMaps => {
                    of(name).ok_or_else(|| broken(format!("no map {name}")))?.as_raw_fd()
                }
                EbpfSectionKind::Rodata => {
                    let fd = constants(map)
                        .map_err(|errno| explain("making the constants of BPF programs", errno))?;
                    let raw = fd.as_raw_fd();
                    own.push(fd);
                    raw
                }
                EbpfSectionKind::Undefined
                | EbpfSectionKind::Maps
                | EbpfSectionKind::Program
                | EbpfSectionKind::Data
                | EbpfSectionKind::Bss
                | EbpfSectionKind::Text
                | EbpfSectionKind::Btf
                | EbpfSectionKind::BtfExt
                | EbpfSectionKind::License
                | EbpfSectionKind::Version => return Err(broken(format!("what {name} is"))),
            };
            found.push((name.as_str(), fd, map));
        }
        let sections: HashSet<usize> = self.object.functions.keys().map(|(section, _)| *section).collect();
        let sections = sections.into_iter().collect();
        self.object.relocate_maps(found.into_iter(), &sections).map_err(broken)?;
        self.object.relocate_calls(&sections).map_err(broken)?;
        let mut programs = Vec::new();
        for (name, program) in &self.object.programs {
            let function = self.object.functions.get(&program.function_key());
            let function = function.ok_or_else(|| broken(format!("no program {name}")))?;
            let (kind, attach) = place(&program.section).ok_or_else(|| broken(format!("what {name} is")))?;
            let instructions: Vec<[u8; 8]> = function.instructions.iter().map(encode).collect();
            let fd = load(name, kind, attach, &program.license, &instructions)?;
            programs.push(Program { name: name.clone(), attach, fd });
        }
        programs.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(programs)
    }
}

fn shape(map: &Map) -> Shape {
    Shape {
        kind: map.map_type(),
        key: map.key_size(),
        value: map.value_size(),
        entries: map.max_entries(),
        flags: map.map_flags(),
    }
}

/// A map of one entry, which programs read as their own memory.
fn constants(map: &Map) -> nix::Result<OwnedFd> {
    let shape = Shape { flags: map.map_flags() | CONSTANT, ..shape(map) };
    let fd = call::map_create(".rodata", shape, None)?;
    element::fill(fd.as_fd(), map.data())?;
    call::map_freeze(fd.as_fd())?;
    Ok(fd)
}

/// Which programs there are, and where they are attached.
#[expect(clippy::wildcard_enum_match_arm, reason = "of the programs that there are, these are ours")]
fn place(section: &ProgramSection) -> Option<(u32, u32)> {
    use Attach as attach;
    use bpf_prog_type as kind;
    let (kind, attach) = match section {
        ProgramSection::CgroupSockAddr { attach_type } => {
            (kind::BPF_PROG_TYPE_CGROUP_SOCK_ADDR, attach::from(*attach_type))
        }
        ProgramSection::CgroupSock { attach_type } => {
            (kind::BPF_PROG_TYPE_CGROUP_SOCK, attach::from(*attach_type))
        }
        ProgramSection::CgroupSockopt { attach_type } => {
            (kind::BPF_PROG_TYPE_CGROUP_SOCKOPT, attach::from(*attach_type))
        }
        ProgramSection::SockOps => (kind::BPF_PROG_TYPE_SOCK_OPS, attach::BPF_CGROUP_SOCK_OPS),
        ProgramSection::SkLookup => (kind::BPF_PROG_TYPE_SK_LOOKUP, attach::BPF_SK_LOOKUP),
        _ => return None,
    };
    Some((kind as u32, attach as u32))
}

/// An instruction as it lies in memory (`struct bpf_insn`).
fn encode(instruction: &aya_obj::generated::bpf_insn) -> [u8; 8] {
    let [off, off_end] = instruction.off.to_ne_bytes();
    let [imm, imm_1, imm_2, imm_3] = instruction.imm.to_ne_bytes();
    let registers = instruction.dst_reg() | instruction.src_reg() << 4;
    [instruction.code, registers, off, off_end, imm, imm_1, imm_2, imm_3]
}

fn load(name: &str, kind: u32, attach: u32, license: &CString, instructions: &[[u8; 8]]) -> Result<OwnedFd> {
    let code = Code { name, kind, attach, license, instructions };
    // Who asks for that is told what each costs: scripts/bpf-budget.sh compares it.
    let tell = tracing::enabled!(tracing::Level::DEBUG);
    let mut figures = vec![0; if tell { FIGURES } else { 0 }];
    match call::prog_load(code, tell.then_some((Says::Figures, &mut figures))) {
        Ok(fd) => {
            if tell {
                let said: Vec<&str> = said(&figures).lines().collect();
                tracing::debug!(program = name, "verified: {}", said.join("; "));
            }
            Ok(fd)
        }
        Err(errno @ (Errno::EACCES | Errno::EINVAL)) => {
            let mut log = vec![0; LOG];
            // The last that it says is why.
            call::prog_load(code, Some((Says::Steps, &mut log))).ok();
            let said = said(&log);
            tracing::debug!(program = name, "the verifier: {said}");
            let why = said.lines().rev().find(|line| is_reason(line)).unwrap_or_default().to_owned();
            let error = Error::new(
                Class::Host,
                format!("the kernel does not take the BPF program {name}: {errno}: {why}"),
            );
            Err(error.remedy(
                "it needs Linux 5.17 or later; MESH_INIT_LOG=debug prints all that the verifier says",
            ))
        }
        Err(errno) => Err(explain(&format!("loading the BPF program {name}"), errno)),
    }
}

/// What the verifier has written.
fn said(log: &[u8]) -> &str {
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    str::from_utf8(log.get(..end).unwrap_or_default()).unwrap_or("its words are no text")
}

/// Whether a line of the verifier's is what it found, and no instruction, comment or figure.
fn is_reason(line: &str) -> bool {
    let begins = line.chars().next();
    let figure = ["processed ", "verification time", "stack depth", "from ", "mark_precise"];
    begins.is_some_and(|first| !first.is_ascii_digit() && first != ';')
        && !figure.iter().any(|word| line.starts_with(word))
}

/// What the kernel's answer to a command of bpf(2) means.
#[expect(clippy::wildcard_enum_match_arm, reason = "there are more errors than can be explained")]
pub fn explain(what: &str, errno: Errno) -> Error {
    match errno {
        Errno::EPERM => Error::new(Class::Privilege, format!("{what} needs CAP_BPF and CAP_NET_ADMIN")).remedy(
            "run as root of the host, or add both: a container that has NET_ADMIN alone cannot use --backend ebpf, but nftables",
        ),
        Errno::ENOSYS => Error::host(format!("{what}: the kernel has no bpf(2)")).remedy("it needs CONFIG_BPF_SYSCALL"),
        Errno::E2BIG | Errno::ENOSPC => Error::host(format!("{what}: the map is full")),
        Errno::ENOMEM => Error::host(format!("{what}: the kernel has no memory for it")),
        Errno::EBUSY => Error::new(Class::TryAgain, format!("{what}: somebody else is at it")).remedy("try again"),
        _ => Error::refused(format!("{what}: {}", errno.desc())),
    }
}
