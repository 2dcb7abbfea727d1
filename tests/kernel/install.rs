//! Joining and leaving a node's chain of plugins: the real program, real folders, and somebody else's reading of what
//! it leaves behind.

mod attempts;
mod crash;
mod node;
mod places;
mod states;
mod watching;

use crate::harness::Case;

pub(crate) fn cases() -> Vec<Case> {
    [states::cases(), attempts::cases(), places::cases(), crash::cases(), watching::cases()]
        .into_iter()
        .flatten()
        .collect()
}
