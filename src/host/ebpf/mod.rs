//! Capture at the sockets: what is loaded, attached, written and taken away, in which order.
//!
//! Everything lies in the BPF file system, below `mesh-init/v1`, and stays when the program ends:
//!
//! - `maps/NAME`: the maps, which all namespaces share;
//! - `programs/DIGEST/NAME`: the programs for control groups, of the object with that digest;
//! - `cgroups/ID/NAME`: their links to a control group;
//! - `netns/COOKIE/program-DIGEST`: a namespace's own program, `netns/COOKIE/arrives`, its link, and `netns/COOKIE/cgroup`, which
//!   leads to the control group that its processes are in;
//! - `attachments/CONTAINER@INTERFACE`: leads to the namespace that a container runtime knows by these.
//!
//! Every step can be done again: a run that was killed is completed by the next.

mod adopt;
mod attachment;
mod node;
mod pod;

pub use node::{Node, may_be_here, sweep};
pub use pod::{Capture, Found};
