//! The kernel as the judge of `evaluate`: what it says becomes of a connection, and what becomes of it.
//!
//! Each policy is applied by the program. Then `evaluate` says what becomes of every connection that the world has
//! (`attempt::all`), by the rules that were compiled and by those that the kernel shows; the two must agree. Of each
//! kind of answer some connections are made, and who answers, at which address, with which original destination and
//! which peer must be what was said.
//!
//! Left out, because the evaluator knows nothing of them: sockets bound to devices, link-local addresses, and packets
//! that do not open a connection.

mod attempt;
mod beyond;
mod compare;
mod drawn;
pub(crate) mod policies;
mod self_check;
mod sockets;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use mesh_init::policy::RuleId;

use crate::harness::{Case, Check};
use crate::support::rules::Variant;
use crate::telling::{self, Telling};
use compare::{Judged, judge};
use policies::Policy;
use sockets::Difference;
use world::World;

/// Where the random policies come from. Another number, other policies.
const SEED: u64 = 0x6d65_7368_2d69_6e69;
/// How many there are of them.
const DRAWN: usize = 27;

const fn telling(name: &'static str, body: fn() -> String) -> Telling {
    Telling { name, body, within: Duration::from_secs(90) }
}

const CASES: [Telling; 20] = [
    telling("judge::classic_and_scoped::legacy", || of(policies::classic_and_scoped(), Variant::Legacy)),
    telling("judge::classic_and_scoped::nft", || of(policies::classic_and_scoped(), Variant::Nft)),
    telling("judge::classic_and_scoped::native", || of(policies::classic_and_scoped(), Variant::Native)),
    telling("judge::classic_and_scoped::ebpf", || {
        sockets::of(policies::classic_and_scoped(), &Difference::ALL)
    }),
    telling("judge::redirect::legacy", || of(policies::redirect(), Variant::Legacy)),
    telling("judge::redirect::nft", || of(policies::redirect(), Variant::Nft)),
    telling("judge::redirect::native", || of(policies::redirect(), Variant::Native)),
    telling("judge::redirect::ebpf", || sockets::of(policies::redirect(), &Difference::ALL)),
    telling("judge::tproxy_and_dns::legacy", || of(policies::tproxy_and_dns(), Variant::Legacy)),
    telling("judge::tproxy_and_dns::nft", || of(policies::tproxy_and_dns(), Variant::Nft)),
    telling("judge::tproxy_and_dns::native", || of(policies::tproxy_and_dns(), Variant::Native)),
    telling("judge::tproxy_and_dns::ebpf", || sockets::of(policies::tproxy_and_dns(), &Difference::ALL)),
    telling("judge::letter::legacy", || of(policies::letter(), Variant::Legacy)),
    telling("judge::letter::nft", || of(policies::letter(), Variant::Nft)),
    telling("judge::letter::native", || of(policies::letter(), Variant::Native)),
    telling("judge::letter::ebpf", || sockets::of(policies::letter(), &Difference::ALL)),
    telling("judge::drawn::legacy", || of(drawn::policies(SEED, DRAWN), Variant::Legacy)),
    telling("judge::drawn::nft", || of(drawn::policies(SEED, DRAWN), Variant::Nft)),
    telling("judge::drawn::native", || of(drawn::policies(SEED, DRAWN), Variant::Native)),
    telling("judge::drawn::ebpf", || sockets::of(drawn::policies(SEED, DRAWN), &Difference::ALL)),
];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = telling::cases(&CASES);
    cases.extend(Case::all_for_each_carrier(&[(
        "judge::a_missing_rule_is_noticed",
        self_check::a_missing_rule_is_noticed,
    )]));
    let map = Case::new("judge::a_changed_map_is_noticed::native", self_check::a_changed_map_is_noticed);
    cases.push(map);
    cases.extend(beyond::cases());
    cases.push(Case::new("judge::every_clause_decides", every_clause_decides));
    cases
}

pub(crate) fn checks() -> Vec<Check> {
    telling::checks(&CASES)
}

/// Tries every policy, whatever becomes of those before it.
fn of(policies: Vec<Policy>, variant: Variant) -> String {
    let mut world = World::new();
    let (mut wrong, mut sum) = (Vec::new(), Judged::default());
    let number = policies.len();
    for policy in policies {
        policy.apply(&world, variant);
        let mut judged = judge(&mut world, variant, &policy);
        wrong.extend(judged.complaints().map(|what| format!("{policy}\n  {what}")));
        judged.forget_complaints();
        sum.add(judged);
        world.clean();
    }
    assert!(wrong.is_empty(), "{} things are wrong:\n\n{}", wrong.len(), wrong.join("\n\n"));
    format!("{number} policies, {sum}")
}

/// Clauses of rules that only lead to another one, or change what others look at.
const NEVER_DECIDE: [RuleId; 10] = [
    RuleId::OutboundHook,
    RuleId::InboundHook,
    RuleId::DnsHook,
    RuleId::DnsZone,
    RuleId::RedirectOutbound,
    RuleId::RedirectInbound,
    RuleId::TproxyMark,
    RuleId::TproxySelf,
    // Of packets that do not open a connection.
    RuleId::InboundAnswer,
    RuleId::InboundDivert,
];

/// That the policies made by hand leave no clause out.
fn every_clause_decides() {
    let all = [
        policies::classic_and_scoped(),
        policies::redirect(),
        policies::tproxy_and_dns(),
        policies::letter(),
    ];
    let mut seen = BTreeSet::new();
    for policy in all.iter().flatten() {
        seen.extend(compare::deciding(policy));
    }
    let expected = RuleId::ALL.iter().filter(|id| !NEVER_DECIDE.contains(id) && **id != RuleId::DropInvalid);
    let missing: Vec<_> = expected.filter(|id| !seen.contains(id)).collect();
    assert!(missing.is_empty(), "no connection is decided by {missing:?}");
}
