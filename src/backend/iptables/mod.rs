//! iptables: rules as the text that `iptables-restore` takes and `iptables-save` prints, both variants alike.

pub mod diff;
pub mod parse;
pub mod render;
pub mod transcript;
