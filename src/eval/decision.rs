//! What becomes of a connection, and why.

use std::net::SocketAddr;

use crate::policy::{IfName, Port, RuleId};
use crate::rules::{Chain, Match, Rule, Verdict};

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A local socket gets it that it was not meant for.
    Captured {
        /// The socket's port.
        port: Port,
        /// How.
        by: Capture,
    },
    /// It goes where it was meant to go.
    Passed,
    /// Somebody's translation sends it elsewhere.
    Translated(SocketAddr),
    /// It is discarded.
    Dropped,
    /// A rule that is not understood would decide it.
    CannotTell,
}

/// How a connection is captured. Either way the proxy can learn the original destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    /// By NAT; `SO_ORIGINAL_DST` tells the original destination.
    Redirect,
    /// Addresses are left alone: the socket's own address is the original destination.
    Tproxy,
}

/// What becomes of a connection, and how that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision<'a> {
    /// What becomes of it.
    pub outcome: Outcome,
    /// The rule that says so; `None` if none says anything.
    pub by: Option<Place<'a>>,
    /// Everything that was looked at, in order.
    pub trail: Vec<Step<'a>>,
}

impl Decision<'_> {
    /// The clause of the deciding rule, if it is known.
    #[must_use]
    pub fn clause(&self) -> Option<RuleId> {
        self.by.and_then(|place| place.rule.id)
    }
}

/// A rule where it stands.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Its chain.
    pub chain: &'a Chain,
    /// Its index in the chain.
    pub index: usize,
    /// The rule.
    pub rule: &'a Rule,
}

impl PartialEq for Place<'_> {
    /// The very rule, not one like it.
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.rule, other.rule)
    }
}

/// A step of the way.
#[derive(Debug, Clone, PartialEq)]
pub enum Step<'a> {
    /// The kernel calls a base chain.
    Enter(&'a Chain),
    /// The kernel does not call a base chain of the nat table.
    NotCalled(&'a Chain, Reason),
    /// A rule is tried.
    Try {
        /// The rule.
        place: Place<'a>,
        /// How deep in jumps it stands.
        depth: usize,
        /// What came of it.
        result: Tried<'a>,
    },
    /// A chain ends, or a rule returns from a base chain: its policy decides.
    Policy(&'a Chain),
    /// The packet gets another way.
    Way(Way),
}

/// Why a base chain of the nat table is not called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The connection's first packet has decided.
    NotFirst,
    /// Another chain on the hook has translated the connection.
    Translated,
    /// The connection began here, and its destination was decided when it set out.
    BeganHere,
    /// conntrack does not know the packet.
    Invalid,
}

/// What came of trying a rule.
#[derive(Debug, Clone, PartialEq)]
pub enum Tried<'a> {
    /// All its conditions hold.
    Hit,
    /// This one does not.
    Miss(&'a Match),
    /// This one is not understood, and it makes no difference.
    Either(&'a Match),
    /// Its conditions hold, and its verdict is not understood.
    Unknown(&'a Verdict),
}

/// Where a packet goes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Out, and back to this host over lo.
    Back,
    /// To this host itself, over an interface.
    Here(IfName),
    /// On to another host.
    Forward,
    /// Out of this host.
    Away(IfName),
}
