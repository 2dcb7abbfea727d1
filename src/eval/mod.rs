//! Questions about connections, answered from policy and rules alone.

pub mod probing;
pub mod sockets;
