//! Policy and rules say the same: what a policy means for a connection is what its rules do with it.
//!
//! `oracle` answers from the meaning of a policy, `evaluate` from its rules. `MESH_INIT_AGREE_PAIRS` says how many
//! pairs of a policy and a connection are tried; what is ever found becomes a test in `found` or `peculiar`.

mod beside;
mod connections;
mod ebpf;
mod found;
mod native;
mod oracle;
mod peculiar;
mod policies;
mod probes;
mod reach;
mod text;
mod typical;
mod walk;

use mesh_init::eval::{Capture, Conn, Outcome, evaluate};
use mesh_init::policy::RuleId;
use mesh_init::rules::Protocol;
use mesh_init::rules::compile::compile;
use mesh_init::rules::compile::native::native;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;

use super::properties::cases;
use connections::{Pick, Pool};
use policies::Subject;

/// Connections tried with one policy.
const CONNECTIONS: usize = 20;
/// The layouts, each of which takes a part of the pairs.
const LAYOUTS: usize = 4;

/// So many policies of one layout that all pairs are tried in the end.
fn policies_of_a_layout() -> Config {
    let pairs = std::env::var("MESH_INIT_AGREE_PAIRS").unwrap_or_else(|_| "20000".to_owned());
    let pairs: usize = pairs.parse().expect("MESH_INIT_AGREE_PAIRS is a number");
    let policies = pairs.div_ceil(LAYOUTS * CONNECTIONS).max(1);
    let most = u32::try_from(policies).expect("not that many");
    Config { cases: most, max_local_rejects: u32::MAX, ..cases(1) }
}

/// What the policy means, and what its rules do.
fn both(subject: &Subject, conn: &Conn) -> (Outcome, Outcome) {
    let rules = compile(&subject.policy, subject.layout, subject.families);
    let expected = oracle::outcome(&subject.policy, subject.layout, subject.families, conn);
    (expected, evaluate(&[&rules], conn).outcome)
}

/// What nftables' rules do where the layout's do `expected`. Peculiar: only first packets of TCP are captured, so that
/// connections which were open before go on. A later one that conntrack takes for a new connection's goes its way, to
/// this host if it is marked for TPROXY.
fn nftables(expected: &Outcome, conn: &Conn) -> Vec<Outcome> {
    let captured = match expected {
        Outcome::Captured { port, .. } if conn.protocol == Protocol::Tcp && !conn.first => Some(*port),
        Outcome::Captured { .. }
        | Outcome::Passed
        | Outcome::Translated(_)
        | Outcome::Dropped
        | Outcome::CannotTell => None,
    };
    match captured {
        Some(port) => vec![Outcome::Passed, Outcome::Captured { port, by: Capture::Tproxy }],
        None => vec![expected.clone()],
    }
}

fn agree(subject: &Subject, picks: &[Pick]) -> Result<(), TestCaseError> {
    let set = compile(&subject.policy, subject.layout, subject.families);
    let native = native(&subject.policy, subject.layout, subject.families);
    let lowering = ebpf::Lowering::of(subject);
    ebpf::refused_by_name(subject, &lowering)?;
    let pool = Pool::of(subject);
    for pick in picks {
        let conn = pool.conn(pick);
        lowering.agree(&conn)?;
        let expected = oracle::outcome(&subject.policy, subject.layout, subject.families, &conn);
        let decision = evaluate(&[&set], &conn);
        let clause = decision.clause().map(RuleId::as_str);
        let rules = format!("{:?} by {}", decision.outcome, clause.unwrap_or("no rule"));
        prop_assert!(
            decision.outcome == expected,
            "{subject}\n{conn}\nrules: {rules}\nmeaning: {expected:?}"
        );
        let decision = evaluate(&[&native], &conn);
        prop_assert!(
            nftables(&expected, &conn).contains(&decision.outcome),
            "{subject}\n{conn}\nnftables: {:?} by {:?}\nmeaning in the layout: {expected:?}",
            decision.outcome,
            decision.clause().map(RuleId::as_str)
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(policies_of_a_layout())]

    #[test]
    fn classic(subject in policies::classic(), picks in vec(connections::pick(), CONNECTIONS)) {
        agree(&subject, &picks)?;
    }

    #[test]
    fn scoped(subject in policies::scoped(), picks in vec(connections::pick(), CONNECTIONS)) {
        agree(&subject, &picks)?;
    }

    #[test]
    fn istio(subject in policies::istio(), picks in vec(connections::pick(), CONNECTIONS)) {
        agree(&subject, &picks)?;
    }

    #[test]
    fn istio_iptables(subject in policies::letter(), picks in vec(connections::pick(), CONNECTIONS)) {
        agree(&subject, &picks)?;
    }
}
