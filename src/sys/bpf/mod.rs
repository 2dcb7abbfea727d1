//! BPF programs, maps and links (bpf(2)), and the file system that keeps them.

mod call;
pub mod cgroup;
mod element;
pub mod feature;
pub mod link;
pub mod listener;
pub mod map;
pub mod object;
pub mod pins;
