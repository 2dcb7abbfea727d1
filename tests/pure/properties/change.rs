//! From any state of a machine to any policy: the plan leads there, touches nobody else's rules, and its undo leads
//! back.

use std::collections::{BTreeMap, BTreeSet};

use mesh_init::backend::Observed;
use mesh_init::backend::claim::Claim;
use mesh_init::backend::iptables::render;
use mesh_init::backend::ownership::is_our_rule;
use mesh_init::backend::plan::{self, Plan, Purpose};
use mesh_init::policy::settings::Variant;
use mesh_init::policy::{Families, Family, Mark};
use mesh_init::rules::compile::compile;
use mesh_init::rules::{Place, Routing, RuleSet, Table, Verdict};
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

/// What is wanted, told by what it is made of.
#[derive(Clone)]
struct Wanted {
    args: Option<Args>,
    families: Families,
    rules: RuleSet,
}

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.args {
            Some(args) => write!(f, "{} ({:?})", args.join(" "), self.families),
            None => f.write_str("nothing"),
        }
    }
}

fn made((args, families): (Args, Families)) -> Wanted {
    Wanted { rules: rules(&args, families), args: Some(args), families }
}

/// What is wanted, or nothing, which is what `clean` wants.
fn wanted() -> impl Strategy<Value = Wanted> {
    let some = (given::ours().prop_map(|(_, args)| args), families()).prop_map(made);
    let nothing = Wanted { args: None, families: Families::Both, rules: RuleSet::default() };
    prop_oneof![6 => some, 1 => Just(nothing)]
}

/// What istio-iptables makes, by its own name.
fn letter() -> impl Strategy<Value = Wanted> {
    (given::letter(), families()).prop_map(made)
}

/// The same without excluded interfaces behind the last jump, which nothing tells from somebody else's: what is
/// rerouted is inserted before them, and no jump for inbound traffic follows.
fn tellable() -> impl Strategy<Value = Wanted> {
    letter().prop_filter("excluded interfaces behind the last jump", |wanted| {
        let args = wanted.args.as_deref().unwrap_or_default();
        let has = |flag: &str| args.iter().any(|word| word == flag);
        let empty = |pair: &[String]| matches!(pair, [flag, value] if flag == "-b" && value.is_empty());
        !(has("-c") && has("-k") && (has("TPROXY") || args.windows(2).any(empty)))
    })
}

fn rules(args: &Args, families: Families) -> RuleSet {
    let request = given::request(args);
    compile(&request.policy, request.layout, families)
}

fn is_our_chain(name: &str) -> bool {
    OUR_CHAINS.contains(&name)
}

fn is_ours(rule: &str) -> bool {
    target(rule).is_some_and(is_our_chain) || rule.contains("--comment \"mesh-init:") || is_bare(rule)
}

/// What istio-iptables leaves in chains of others without a comment or a jump; no foreign rule here looks like it.
fn is_bare(rule: &str) -> bool {
    let interface = rule.starts_with("-i ") || rule.starts_with("-o ");
    let returns = interface && rule.split(' ').count() == 4 && rule.ends_with(" -j RETURN");
    let marked = rule.starts_with("-o lo -p tcp -m mark --mark ") && rule.ends_with(" -j RETURN");
    returns
        || marked
        || rule.contains(" -j CONNMARK ")
        || rule.ends_with(" -j MARK --set-xmark 0x53a/0xffffffff")
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
    machine.tables.values().map(foreign_part).collect()
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
            for table in [Table::Raw, Table::Mangle, Table::Nat, Table::Filter] {
                let content = machine.table(variant, family, &table);
                for chain in FOREIGN_CHAINS {
                    content.chains.entry(chain.to_owned()).or_default();
                }
                for (chain, rule, at) in others {
                    // Not every table has every chain.
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
    for (key, content) in alone.tables.iter().filter(|(_, content)| !our_part(content).is_empty()) {
        prop_assert_eq!(our_part(&machine.tables[key]), our_part(content), "{:?}", key);
        let (_, family, table) = key;
        for chain in SHARED_CHAINS {
            let Some(of_chain) = wanted.chain(*family, table, chain) else { continue };
            let first = of_chain.rules.iter().filter(|rule| rule.place == Place::First);
            let first = first.flat_map(render::spread).count();
            let (hooks, seen) = (&content.chains[chain][..first], &machine.tables[key].chains[chain]);
            prop_assert!(seen.starts_with(hooks), "{chain}: expected {hooks:?} first, seen {seen:?}");
        }
    }
    for what in &wanted.routing {
        prop_assert!(machine.routing.contains_key(what), "expected {}", what);
    }
    Ok(())
}

/// The rules of ours on `machine` are those of `wanted` and no others.
fn holds(machine: &Machine, variant: Variant, wanted: &RuleSet) -> Result<(), TestCaseError> {
    there(machine, variant, wanted)?;
    let alone = alone(wanted, variant);
    for (key, content) in &machine.tables {
        let expected = alone.tables.get(key).map(our_part).unwrap_or_default();
        prop_assert_eq!(our_part(content), expected, "{:?}", key);
    }
    let routing = machine.routing.iter().filter(|(_, ours)| **ours).map(|(what, _)| *what);
    prop_assert_eq!(routing.collect::<BTreeSet<_>>(), wanted.routing.iter().copied().collect());
    Ok(())
}

/// Takes back the first `steps` transactions of a plan and the routing that it made.
fn undo(machine: &mut Machine, plan: &Plan, steps: usize) -> Result<(), TestCaseError> {
    let done: Vec<_> = plan.steps().take(steps).collect();
    done.into_iter().rev().try_for_each(|step| machine.undo(step)).map_err(TestCaseError::fail)?;
    machine.unroute(&plan.routes).map_err(TestCaseError::fail)
}

/// Somebody else's routing of the same kind.
const FOREIGN_ROUTING: [Routing; 2] = [
    Routing::Route { family: Family::V4, table: 4711 },
    Routing::Rule { family: Family::V4, mark: Mark(0x4711), table: 4711 },
];

/// Changes `machine` to `wanted` as the program would, and back; `stop` says after how many steps one is refused.
fn change(
    mut machine: Machine,
    wanted: &RuleSet,
    variant: Variant,
    claim: &Claim,
    stop: sample::Index,
) -> Result<(), TestCaseError> {
    let observe = |machine: &Machine| Observed { claim: claim.clone(), ..machine.observe() };
    machine.routing.extend(FOREIGN_ROUTING.map(|what| (what, false)));
    let (before, foreign) = (machine.clone(), foreign_parts(&machine));
    let plan = plan::plan(wanted, variant, &observe(&machine));
    machine.route(&plan.routes).map_err(TestCaseError::fail)?;
    // While both iptables have TPROXY, the new one does not save marks yet, which captures nothing.
    let mut first = wanted.clone();
    if plan.stages.iter().any(|stage| stage.purpose == Purpose::Prepare) {
        let rules = first.chains.iter_mut().map(|chain| &mut chain.rules);
        rules.for_each(|rules| rules.retain(|rule| rule.verdict != Verdict::SaveMark));
    }
    for stage in &plan.stages {
        // Make before break: before anything is removed, what is wanted is there.
        if stage.purpose == Purpose::Remove {
            there(&machine, variant, &first)?;
        }
        for step in &stage.steps {
            machine.run(step).map_err(TestCaseError::fail)?;
            prop_assert_eq!(foreign_parts(&machine), foreign.clone(), "{}", step);
        }
    }
    machine.unroute(&plan.unroutes).map_err(TestCaseError::fail)?;
    holds(&machine, variant, wanted)?;
    for what in FOREIGN_ROUTING {
        prop_assert!(machine.routing.contains_key(&what), "{} is somebody else's", what);
    }
    let again = plan::plan(wanted, variant, &observe(&machine));
    prop_assert!(again.is_empty(), "a second run would do {again:#?}");
    let differences = plan::differences(wanted, variant, &observe(&machine));
    prop_assert!(differences.is_empty(), "said to differ: {differences:?}");

    let steps = plan.steps().count();
    machine.route(&plan.unroutes).map_err(TestCaseError::fail)?;
    undo(&mut machine, &plan, steps)?;
    prop_assert_eq!(&machine, &before);
    // Any number of steps may have been made when one is refused.
    let made = stop.index(steps + 1);
    machine.route(&plan.routes).map_err(TestCaseError::fail)?;
    plan.steps().take(made).try_for_each(|step| machine.run(step)).map_err(TestCaseError::fail)?;
    undo(&mut machine, &plan, made)?;
    prop_assert_eq!(&machine, &before);
    Ok(())
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
        all: bool,
        stop in any::<sample::Index>(),
    ) {
        // The same policy again, where only others or damage have moved something, is a case of its own.
        let (to, b) = if same { (from, a.clone()) } else { (to, b) };
        let mut machine = machine(from, &a.rules, &others);
        for content in machine.tables.values_mut() {
            harm(content, &damage);
        }
        let claim = Claim { named: b.rules.clone(), all };
        change(machine, &b.rules, to, &claim, stop)?;
    }

    /// What istio-iptables made is replaced and removed, rules without a comment included, and it replaces ours.
    #[test]
    fn upstreams_own_rules_are_replaced(
        (from, a) in (variant(), tellable()),
        (to, b) in (variant(), prop_oneof![wanted(), letter()]),
        same in proptest::bool::weighted(0.25),
        others in foreign(),
        stop in any::<sample::Index>(),
    ) {
        let (to, b) = if same { (from, a.clone()) } else { (to, b) };
        let claim = Claim { named: b.rules.clone(), all: true };
        change(machine(from, &a.rules, &others), &b.rules, to, &claim, stop)?;
    }

    #[test]
    fn what_is_wanted_and_there_needs_no_plan(
        variant in variant(),
        wanted in prop_oneof![3 => wanted(), 1 => letter()],
        others in foreign(),
    ) {
        let mut machine = Machine::default();
        settle(&mut machine, &others);
        let wanted = wanted.rules;
        let plan = plan::plan(&wanted, variant, &machine.observe());
        machine.run_all(&plan).map_err(TestCaseError::fail)?;
        let claim = Claim { named: wanted.clone(), all: false };
        let again = plan::plan(&wanted, variant, &Observed { claim, ..machine.observe() });
        prop_assert!(again.is_empty(), "{again:#?}");
        holds(&machine, variant, &wanted)?;
    }

    /// A rule of ours is recognised by the program exactly where this test recognises it.
    #[test]
    fn ours_is_what_this_test_takes_for_ours(
        others in foreign(),
        variant in variant(),
        wanted in prop_oneof![3 => wanted(), 1 => letter()],
    ) {
        let machine = machine(variant, &wanted.rules, &others);
        let observed = Observed { claim: Claim { named: wanted.rules, all: false }, ..machine.observe() };
        for variant in Variant::ALL {
            // Rules inside our chains are ours by their chain.
            let shared = observed.of(variant).chains.into_iter().filter(|chain| chain.base.is_some());
            for rule in shared.flat_map(|chain| chain.rules) {
                let spec = &rule.seen.as_ref().unwrap().spec;
                prop_assert!(is_our_rule(&rule) == is_ours(spec), "{}", spec);
            }
        }
    }
}
