//! The CNI chained plugin, as far as it is pure: what the runtime says, what follows from it for a pod, what is answered.
//!
//! The specification is that of containernetworking/cni, versions 0.3.0 to 1.1.0 (SPEC.md of each tag). `run::cni` does
//! what the verbs say.

pub mod annotations;
pub mod arguments;
pub mod conflist;
pub mod decide;
pub mod envelope;
pub mod failure;
mod istio;
pub mod manifest;
mod members;
pub mod netconf;
pub mod pod;
pub mod protocol;
pub mod query;
mod reading;
pub mod source;
pub mod version;
