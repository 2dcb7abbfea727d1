//! Effects, and nothing else: programs, namespaces, netlink, files, capabilities. The only place with `unsafe`. Nothing here knows what a policy or a rule is.

pub mod alloc;
pub mod ask;
pub mod bpf;
pub mod clock;
pub mod exec;
pub mod folder;
pub mod fs;
pub mod holder;
pub mod ipv6;
pub mod journal;
pub mod listing;
pub mod lock;
mod message;
pub mod netns;
pub mod nftables;
pub mod nftrace;
pub mod pause;
pub mod privilege;
pub mod probe;
pub mod routing;
pub mod sandbox;
pub mod sockets;
pub mod terminal;
pub mod userns;
