//! Questions about connections, answered from policy and rules alone.

pub mod conn;
pub mod decision;
pub mod filter;
mod opaque;
pub mod probing;
pub mod sockets;
pub mod typical;
mod walk;

pub use conn::Conn;
pub use decision::{Capture, Decision, Outcome};
pub use filter::Filter;
pub use opaque::DESTINATION_TRANSLATED;
pub use walk::evaluate;
