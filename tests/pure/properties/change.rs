//! From any state of a machine to any policy: the plan leads there, touches nobody else's rules, and its undo leads
//! back.

use std::collections::BTreeMap;

use mesh_init::backend::ownership::is_our_rule;
use mesh_init::backend::plan::{self, Plan, Purpose};
use mesh_init::policy::settings::Variant;
use mesh_init::policy::{Families, Family};
use mesh_init::rules::compile::compile;
use mesh_init::rules::{RuleSet, Table};
use proptest::prelude::*;
use proptest::{collection, sample};

use super::cases;
use super::given::{self, Args};
use super::machine::{Content, Machine, target};

/// The chains that `proxy_init` and istio-iptables have made through their history.
const OUR_CHAINS: [&str; 8] = [
    "ISTIO_DIVERT",
    "ISTIO_DROP",
    "ISTIO_INBOUND",
    "ISTIO_IN_REDIRECT",
    "ISTIO_OUTPUT",
    "ISTIO_OUTPUT_DNS",
    "ISTIO_REDIRECT",
    "ISTIO_TPROXY",
];

/// Somebody else's chains; the second begins as ours do.
const FOREIGN_CHAINS: [&str; 4] = ["DOCKER_OUTPUT", "ISTIO_OUTPUT_OLD", "KUBE-SERVICES", "cali-nat"];
const SHARED_CHAINS: [&str; 4] = ["OUTPUT", "PREROUTING", "INPUT", "POSTROUTING"];

/// Rules of somebody else; `{}` is a random number.
const FOREIGN_RULES: [&str; 12] = [
    "-d 127.0.0.11/32 -j DOCKER_OUTPUT",
    "-m comment --comment \"kubernetes \\\"service\\\" portals {}\" -j KUBE-SERVICES",
    "-p tcp -m tcp --dport {} -j RETURN",
    "-m owner --uid-owner {} -j RETURN",
    "-p tcp -m multiport --dports 1,{} -j ACCEPT",
    "-j ACCEPT",
    "-p udp -m udp --dport {} -j DNAT --to-destination 127.0.0.11:35949",
    "-p tcp -m comment --comment istio -j ISTIO_OUTPUT_OLD",
    "-m comment --comment \"istio/install-istio-output\" -j RETURN",
    "-m mark ! --mark 0x{}/0x4000 -j MARK --set-xmark 0x4000/0x4000",
    "-p tcp -g cali-nat",
    "-s 10.{}.0.0/16",
];

/// Damage of the kind that an interrupted run or a helping hand leaves.
#[derive(Debug, Clone, Copy)]
enum Damage {
    RemoveHook,
    RepeatHook,
    RemoveRule,
    RepeatRule,
    StrangeRule,
    EmptyChain,
}

fn damage() -> impl Strategy<Value = Vec<(Damage, sample::Index)>> {
    use Damage::{EmptyChain, RemoveHook, RemoveRule, RepeatHook, RepeatRule, StrangeRule};
    let kinds = sample::select(vec![RemoveHook, RepeatHook, RemoveRule, RepeatRule, StrangeRule, EmptyChain]);
    collection::vec((kinds, any::<sample::Index>()), 0..4)
}

/// Rules of somebody else: chain, rule, and where in the chain.
fn foreign() -> impl Strategy<Value = Vec<(String, String, sample::Index)>> {
    let chain = sample::select([FOREIGN_CHAINS, SHARED_CHAINS].concat());
    let rule = (sample::select(FOREIGN_RULES.to_vec()), 1u8..200);
    let rule = rule.prop_map(|(rule, number)| rule.replace("{}", &number.to_string()));
    collection::vec((chain.prop_map(str::to_owned), rule, any::<sample::Index>()), 0..12)
}

fn variant() -> impl Strategy<Value = Variant> {
    sample::select(Variant::ALL.to_vec())
}

fn families() -> impl Strategy<Value = Families> {
    sample::select(vec![Families::V4, Families::Both])
}

/// What is wanted, or nothing, which is what `clean` wants.
fn wanted() -> impl Strategy<Value = RuleSet> {
    let some = (given::either(), families()).prop_map(|((_, args), families)| rules(&args, families));
    prop_oneof![6 => some, 1 => Just(RuleSet::default())]
}

fn rules(args: &Args, families: Families) -> RuleSet {
    let request = given::request(args);
    compile(&request.policy, request.layout, families)
}

fn is_our_chain(name: &str) -> bool {
    OUR_CHAINS.contains(&name)
}

fn is_ours(rule: &str) -> bool {
    target(rule).is_some_and(is_our_chain) || rule.contains("--comment \"mesh-init:")
}

/// What is not ours, in order.
fn foreign_part(content: &Content) -> BTreeMap<String, Vec<String>> {
    let chains = content.chains.iter().filter(|(name, _)| !is_our_chain(name));
    let others = |rules: &Vec<String>| rules.iter().filter(|rule| !is_ours(rule)).cloned().collect();
    chains.map(|(name, rules)| (name.clone(), others(rules))).collect()
}

/// What is ours, in order.
fn our_part(content: &Content) -> BTreeMap<String, Vec<String>> {
    let chain = |(name, rules): (&String, &Vec<String>)| {
        let whole = is_our_chain(name);
        let ours: Vec<String> = rules.iter().filter(|rule| whole || is_ours(rule)).cloned().collect();
        (whole || !ours.is_empty()).then(|| (name.clone(), ours))
    };
    content.chains.iter().filter_map(chain).collect()
}

fn foreign_parts(machine: &Machine) -> Vec<BTreeMap<String, Vec<String>>> {
    machine.0.values().map(foreign_part).collect()
}

/// A machine with somebody else's rules in every table, and the rules of `wanted` among them.
fn machine(variant: Variant, wanted: &RuleSet, others: &[(String, String, sample::Index)]) -> Machine {
    let mut machine = Machine::default();
    let (before, after) = others.split_at(others.len() / 2);
    settle(&mut machine, before);
    let plan = plan::plan(wanted, variant, &machine.observe());
    machine.run_all(&plan).expect("a plan from nothing of ours");
    settle(&mut machine, after);
    machine
}

fn settle(machine: &mut Machine, others: &[(String, String, sample::Index)]) {
    for variant in Variant::ALL {
        for family in Family::both() {
            for table in [Table::Nat, Table::Filter] {
                let content = machine.table(variant, family, &table);
                for chain in FOREIGN_CHAINS {
                    content.chains.entry(chain.to_owned()).or_default();
                }
                for (chain, rule, at) in others {
                    // In the filter table there is no PREROUTING.
                    let Some(rules) = content.chains.get_mut(chain) else { continue };
                    let at = at.index(rules.len() + 1);
                    rules.insert(at, rule.clone());
                }
            }
        }
    }
}

fn harm(content: &mut Content, damage: &[(Damage, sample::Index)]) {
    for (damage, index) in damage {
        let own: Vec<String> = content.chains.keys().filter(|name| is_our_chain(name)).cloned().collect();
        let chain = (!own.is_empty()).then(|| index.get(&own).clone());
        let in_chain = chain.and_then(|chain| content.chains.get_mut(&chain));
        match (damage, in_chain) {
            (Damage::RemoveHook, _) => with_hook(content, |rules, at| drop(rules.remove(at))),
            (Damage::RepeatHook, _) => with_hook(content, |rules, at| {
                rules.insert(index.index(rules.len() + 1), rules[at].clone());
            }),
            (Damage::RemoveRule, Some(rules)) => drop(rules.pop()),
            (Damage::RepeatRule, Some(rules)) => rules.extend(rules.first().cloned()),
            (Damage::StrangeRule, Some(rules)) => rules.insert(0, "-p tcp -j MARK --set-xmark 1".into()),
            (Damage::EmptyChain, Some(rules)) => rules.clear(),
            (_, None) => {}
        }
    }
}

/// Changes a shared chain where the first rule of ours stands.
fn with_hook(content: &mut Content, change: impl FnOnce(&mut Vec<String>, usize)) {
    for chain in SHARED_CHAINS {
        let Some(rules) = content.chains.get_mut(chain) else { continue };
        if let Some(at) = rules.iter().position(|rule| is_ours(rule)) {
            return change(rules, at);
        }
    }
}

/// What `wanted` is on a machine with nothing else.
fn alone(wanted: &RuleSet, variant: Variant) -> Machine {
    let mut machine = Machine::default();
    let plan = plan::plan(wanted, variant, &machine.observe());
    machine.run_all(&plan).expect("a plan from nothing");
    machine
}

/// The rules of `wanted` are on `machine`, before everybody else's where they must be.
fn there(machine: &Machine, variant: Variant, wanted: &RuleSet) -> Result<(), TestCaseError> {
    let alone = alone(wanted, variant);
    for (key, content) in alone.0.iter().filter(|(_, content)| !our_part(content).is_empty()) {
        prop_assert_eq!(our_part(&machine.0[key]), our_part(content), "{:?}", key);
        for chain in SHARED_CHAINS {
            let (Some(hooks), Some(seen)) = (content.chains.get(chain), machine.0[key].chains.get(chain))
            else {
                continue;
            };
            // The comments of the layout that goes first are its own.
            if hooks.iter().any(|rule| rule.contains("\"mesh-init:")) {
                prop_assert!(seen.starts_with(hooks), "{chain}: expected {hooks:?} first, seen {seen:?}");
            }
        }
    }
    Ok(())
}

/// The rules of ours on `machine` are those of `wanted` and no others.
fn holds(machine: &Machine, variant: Variant, wanted: &RuleSet) -> Result<(), TestCaseError> {
    there(machine, variant, wanted)?;
    let alone = alone(wanted, variant);
    for (key, content) in &machine.0 {
        let expected = alone.0.get(key).map(our_part).unwrap_or_default();
        prop_assert_eq!(our_part(content), expected, "{:?}", key);
    }
    Ok(())
}

fn undo(machine: &mut Machine, plan: &Plan, steps: usize) -> Result<(), TestCaseError> {
    let done: Vec<_> = plan.steps().take(steps).collect();
    done.into_iter().rev().try_for_each(|step| machine.undo(step)).map_err(TestCaseError::fail)
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn a_plan_leads_to_what_is_wanted_and_its_undo_back(
        (from, a) in (variant(), wanted()),
        (to, b) in (variant(), wanted()),
        same in proptest::bool::weighted(0.25),
        others in foreign(),
        damage in damage(),
        stop in any::<sample::Index>(),
    ) {
        // The same policy again, where only others or damage have moved something, is a case of its own.
        let (to, b) = if same { (from, a.clone()) } else { (to, b) };
        let mut machine = machine(from, &a, &others);
        for content in machine.0.values_mut() {
            harm(content, &damage);
        }
        let (before, foreign) = (machine.clone(), foreign_parts(&machine));
        let plan = plan::plan(&b, to, &machine.observe());
        for stage in &plan.stages {
            // Make before break: before anything is removed, what is wanted is there.
            if stage.purpose == Purpose::Remove {
                there(&machine, to, &b)?;
            }
            for step in &stage.steps {
                machine.run(step).map_err(TestCaseError::fail)?;
                prop_assert_eq!(foreign_parts(&machine), foreign.clone(), "{}", step);
            }
        }
        holds(&machine, to, &b)?;
        let again = plan::plan(&b, to, &machine.observe());
        prop_assert!(again.is_empty(), "a second run would do {again:#?}");

        let steps = plan.steps().count();
        undo(&mut machine, &plan, steps)?;
        prop_assert_eq!(&machine, &before);
        // Any number of steps may have been made when one is refused.
        let made = stop.index(steps + 1);
        plan.steps().take(made).try_for_each(|step| machine.run(step)).map_err(TestCaseError::fail)?;
        undo(&mut machine, &plan, made)?;
        prop_assert_eq!(&machine, &before);
    }

    #[test]
    fn what_is_wanted_and_there_needs_no_plan(
        variant in variant(),
        wanted in wanted(),
        others in foreign(),
    ) {
        let mut machine = Machine::default();
        settle(&mut machine, &others);
        let plan = plan::plan(&wanted, variant, &machine.observe());
        machine.run_all(&plan).map_err(TestCaseError::fail)?;
        let again = plan::plan(&wanted, variant, &machine.observe());
        prop_assert!(again.is_empty(), "{again:#?}");
        holds(&machine, variant, &wanted)?;
    }

    /// A rule of ours is recognised by the program exactly where this test recognises it.
    #[test]
    fn ours_is_what_this_test_takes_for_ours(others in foreign(), variant in variant(), wanted in wanted()) {
        let machine = machine(variant, &wanted, &others);
        for rules in machine.observe().rules.values() {
            for rule in rules.chains.iter().flat_map(|chain| &chain.rules) {
                let spec = &rule.seen.as_ref().unwrap().spec;
                prop_assert_eq!(is_our_rule(rule), is_ours(spec), "{}", spec);
            }
        }
    }
}
