//! Questions about connections, answered from policy and rules alone.

pub mod conn;
pub mod decision;
mod opaque;
pub mod probing;
pub mod sockets;
pub mod typical;
mod walk;

pub use conn::Conn;
pub use decision::{Capture, Decision, Outcome};
pub use walk::evaluate;
