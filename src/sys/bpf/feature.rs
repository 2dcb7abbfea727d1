//! What the kernel can do, found out by trying.

use std::ffi::CString;

use nix::errno::Errno;

use super::call::{self, Code};
use super::object::{Attach, explain};
use crate::error::{Error, Result};

/// A part of the kernel, and the smallest program that needs it.
struct Part {
    name: &'static str,
    since: &'static str,
    /// `enum bpf_prog_type`.
    kind: u32,
    attach: Attach,
    /// Before the value 1 is given back.
    code: &'static [[u8; 8]],
}

/// `r0 = 1` and `exit` (Documentation/bpf/standardization/instruction-set.rst).
const END: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 1, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
/// `call bpf_get_netns_cookie`.
const NETNS_COOKIE: [u8; 8] = [0x85, 0, 0, 0, 122, 0, 0, 0];
/// `r0 = *(u32 *)(r1 + 64)`: `ingress_ifindex` of `struct bpf_sk_lookup`.
const INGRESS_IFINDEX: [u8; 8] = [0x61, 0x10, 64, 0, 0, 0, 0, 0];

/// The newest first: who has that has all.
const PARTS: [Part; 4] = [
    Part {
        name: "the interface that a connection arrives at, for sk_lookup",
        since: "5.17",
        kind: 30,
        attach: Attach::BPF_SK_LOOKUP,
        code: &[INGRESS_IFINDEX],
    },
    Part {
        name: "the cookie of a network namespace, for sock_ops",
        since: "5.15",
        kind: 13,
        attach: Attach::BPF_CGROUP_SOCK_OPS,
        code: &[NETNS_COOKIE],
    },
    Part {
        name: "hooks of getpeername",
        since: "5.8",
        kind: 18,
        attach: Attach::BPF_CGROUP_INET4_GETPEERNAME,
        code: &[],
    },
    Part {
        name: "hooks of getsockopt",
        since: "5.3",
        kind: 25,
        attach: Attach::BPF_CGROUP_GETSOCKOPT,
        code: &[],
    },
];

/// Tries every part.
///
/// # Errors
/// What is missing, all of it, with the version of Linux that brought it; or a privilege.
pub fn probe() -> Result<()> {
    let license = CString::from(c"Dual MIT/GPL");
    let mut missing = Vec::new();
    for part in &PARTS {
        let instructions = [part.code, &END].concat();
        let code = Code {
            name: "mesh_probe",
            kind: part.kind,
            attach: part.attach as u32,
            license: &license,
            instructions: &instructions,
        };
        match call::prog_load(code, None) {
            Ok(_) => {}
            Err(Errno::EINVAL | Errno::EACCES) => {
                missing.push(format!("{} (Linux {})", part.name, part.since))
            }
            Err(errno) => return Err(explain("trying a BPF program", errno)),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::host(format!("the kernel lacks {}", missing.join(", ")))
        .remedy("--backend ebpf needs Linux 5.17 or later; give --backend nftables"))
}
