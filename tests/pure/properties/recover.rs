//! Rules that are read back say the policy that they were made of, or another one with the same rules.
//!
//! `status` answers with it; the module is compiled here from its own file, for the program keeps it to itself.

use mesh_init::backend::Observed;
use mesh_init::backend::claim::Claim;
use mesh_init::backend::observed::Present;
use mesh_init::backend::plan;
use mesh_init::policy::Families;
use mesh_init::policy::settings::Variant;
use mesh_init::rules::RuleSet;
use mesh_init::rules::compile::compile;
use mesh_init::rules::compile::native::native;
use proptest::prelude::*;
use proptest::sample;

use super::given::{self, Args};
use super::machine::Machine;
use super::{cases, fuzz};

#[path = "../../../src/run/recover/mod.rs"]
mod recovery;

/// A machine with the rules of `args` and nothing else.
fn machine(args: &Args, families: Families) -> (Machine, RuleSet) {
    let request = given::request(args);
    let wanted = compile(&request.policy, request.layout, families);
    let mut machine = Machine::default();
    let plan = plan::plan(&wanted, Variant::Nft, &machine.observe());
    machine.run_all(&plan).expect("a plan from nothing");
    (machine, wanted)
}

/// What cannot be told from the rules yet: a whole family's place among other networks, and bare rules of IPv4 that
/// only IPv6's jumps explain.
fn untold(args: &Args) -> bool {
    let value = |flag: &str| args.windows(2).find(|pair| pair[0] == flag).map(|pair| pair[1].as_str());
    let networks = value("-i").unwrap_or("*");
    let letter = value("--layout") == Some("istio-iptables");
    networks.contains("/0") || letter && value("-k").is_some() && networks != "*"
}

/// What is said of a machine with the rules of `args` makes those rules.
fn recovers(args: &Args, families: Families) -> Result<(), TestCaseError> {
    if untold(args) {
        return Ok(());
    }
    let (machine, wanted) = machine(args, families);
    // Nobody names anything or claims bare rules where only the state is asked for.
    let observed = machine.observe();
    let Some(found) = recovery::request(&observed.of(Variant::Nft), &observed.routing) else {
        prop_assert!(wanted.chains.is_empty(), "nothing is recognised");
        return Ok(());
    };
    let again = compile(&found.policy, found.layout, families);
    // The rules that are said name their bare ones.
    let observed = Observed { claim: Claim { named: again.clone(), all: false }, ..observed };
    let plan = plan::plan(&again, Variant::Nft, &observed);
    let steps: String = plan.steps().map(|step| format!("{step}\n{}", step.text)).collect();
    let said = format!("{} says {} {}", args.join(" "), found.layout, found.policy);
    prop_assert!(plan.is_empty(), "{said}\nwhich would do {:?}\n{steps}", plan.changes());
    let json = fuzz::through_json(&found);
    prop_assert_eq!(json.as_ref().map(|json| &json.policy), Ok(&found.policy));
    Ok(())
}

/// What is said of nftables' rules makes those rules.
fn recovers_native(args: &Args, families: Families) -> Result<(), TestCaseError> {
    if untold(args) {
        return Ok(());
    }
    let request = given::request(args);
    let rules = native(&request.policy, request.layout, families);
    let routing: Vec<Present> =
        rules.routing.iter().map(|what| Present { what: *what, ours: true, priority: None }).collect();
    let Some(found) = recovery::request(&rules, &routing) else {
        prop_assert!(rules.chains.is_empty(), "nothing is recognised");
        return Ok(());
    };
    let again = native(&found.policy, found.layout, families);
    let said = format!("{} says {} {}", args.join(" "), found.layout, found.policy);
    prop_assert!(plan::same_native(&rules, &again), "{said}\n{rules:#?}\n{again:#?}");
    Ok(())
}

/// IPv4 alone only where nothing was said of IPv6: that it was cannot be seen in its rules.
fn families(args: &Args) -> impl Strategy<Value = Families> + use<> {
    let said = args.iter().any(|word| word.contains(':'));
    sample::select(if said { vec![Families::Both] } else { vec![Families::V4, Families::Both] })
}

fn with_families(args: impl Strategy<Value = Args>) -> impl Strategy<Value = (Args, Families)> {
    args.prop_flat_map(|args| {
        let families = families(&args);
        (Just(args), families)
    })
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn what_was_made_is_said((args, families) in with_families(given::ours().prop_map(|(_, args)| args))) {
        recovers(&args, families)?;
    }

    #[test]
    fn what_nftables_holds_is_said((args, families) in with_families(given::ours().prop_map(|(_, args)| args))) {
        recovers_native(&args, families)?;
    }

    #[test]
    fn what_nftables_holds_in_upstreams_place_is_said((args, families) in with_families(given::letter())) {
        recovers_native(&args, families)?;
    }

    #[test]
    fn what_upstream_made_is_said((args, families) in with_families(given::letter())) {
        recovers(&args, families)?;
    }
}
