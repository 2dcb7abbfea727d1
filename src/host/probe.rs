//! Trying connections, between the policy's words and the kernel's.

use std::time::Duration;

use crate::eval::probing::Probe;
use crate::policy::{CapturePolicy, Family, Mode};
pub use crate::sys::probe::NEIGHBOUR;
use crate::sys::probe::{self, Answer, Inbound, Outbound};

/// What one probe may take.
const DEADLINE: Duration = Duration::from_millis(600);

/// What a probe has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Our own listener got the token.
    Token,
    /// conntrack shows the redirect to the proxy.
    Conntrack,
    /// It was not captured; what was seen.
    Contradicts(String),
    /// It could not be tried, and why.
    Untried(String),
}

/// Tries `probe`. `held` is whether somebody listens on the capture port.
#[must_use]
pub fn run(probe: &Probe, policy: &CapturePolicy, family: Family, held: bool) -> Shown {
    // A redirect that nothing can follow: what is captured arrives over lo.
    if held && matches!(probe, Probe::Outbound { .. }) && !probe::loopback_is_up(family == Family::V6) {
        return Shown::Contradicts("lo is down, and what is redirected goes over it".to_owned());
    }
    let answer = match probe {
        Probe::Outbound { destination, uid, gid } => probe::outbound(
            &Outbound {
                destination: *destination,
                uid: uid.map(|uid| uid.number()),
                gid: gid.map(|gid| gid.number()),
                capture_port: policy.proxy.port.number(),
                held,
            },
            DEADLINE,
        ),
        Probe::Inbound { port } => probe::inbound(
            &Inbound {
                v6: family == Family::V6,
                port: port.number(),
                capture_port: policy.proxy.inbound_port.number(),
                held,
                transparent: policy.mode == Mode::Tproxy,
            },
            DEADLINE,
        ),
    };
    match answer {
        Answer::Token => Shown::Token,
        Answer::Conntrack => Shown::Conntrack,
        Answer::Contradicts(seen) => Shown::Contradicts(seen),
        Answer::Untried(why) => Shown::Untried(why),
    }
}

/// Begins a connection from here as `probe` says, which whoever captures at the sockets sees.
///
/// # Errors
/// A phrase that says why it cannot be begun.
pub fn begin(probe: &Probe) -> Result<(), String> {
    match probe {
        Probe::Outbound { destination, uid, gid } => {
            probe::begin(*destination, uid.map(|uid| uid.number()), gid.map(|gid| gid.number()))
        }
        Probe::Inbound { .. } => Err("it begins elsewhere".to_owned()),
    }
}
