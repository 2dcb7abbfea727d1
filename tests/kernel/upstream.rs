//! Upstream's own rules in the kernel: the golden files loaded and made, remains of istio-iptables taken over and
//! taken away, rules that only look like them, and moves between all layouts.

mod beside;
pub(crate) mod calls;
mod golden;
mod lookalikes;
mod moves;
mod remains;
mod scene;

use crate::harness::Case;

pub(crate) fn cases() -> Vec<Case> {
    let cases = [golden::cases(), remains::cases(), lookalikes::cases(), beside::cases(), moves::cases()];
    cases.into_iter().flatten().collect()
}
