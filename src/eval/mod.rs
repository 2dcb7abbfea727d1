//! Questions about connections, answered from policy and rules alone.

pub mod sockets;
