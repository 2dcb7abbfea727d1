//! The CNI chained plugin, as far as it is pure: what the runtime says, and what follows from it for a pod.

pub mod annotations;
pub mod conflist;
pub mod decide;
mod istio;
pub mod manifest;
mod members;
pub mod netconf;
pub mod pod;
mod reading;
pub mod source;
