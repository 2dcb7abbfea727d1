//! `explain`: what becomes of connections, and by which rule.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{Environment, NO_MACHINE, OF_A_MACHINE, ebpf, input, status};
use crate::backend::claim::Claim;
use crate::backend::ebpf::ask::ask;
use crate::backend::ebpf::lower::{Lowered, Place, lower};
use crate::backend::{Observed, ownership};
use crate::cli::{self, Asked, Parsed, Verb};
use crate::eval;
use crate::eval::{Conn, typical::typical};
use crate::host::{self, namespace, observe};
use crate::input::{Faults, Key, Origin, Raw};
use crate::policy::cause::cause;
use crate::policy::settings::{Settings, Variant};
use crate::policy::validate::{self, Request};
use crate::policy::{CapturePolicy, Facts, Families, Family, Ipv6};
use crate::report::{Answer, Differences, Explained, Explanation, Failure, Form, Matrix, Report, draw};
use crate::rules::RuleSet;
use crate::rules::compile::compile_for;

/// Rules to judge by, and what is known of them.
pub(super) struct Rules {
    sets: Vec<RuleSet>,
    /// What the maps of BPF programs hold, and of which namespace, where they capture.
    at_sockets: Option<(Lowered, u64)>,
    policy: Option<CapturePolicy>,
    families: Families,
    /// What was given, to say what brought a clause about; nothing is known of rules that are here already.
    given: Option<Raw>,
    notes: Vec<String>,
}

impl Rules {
    /// Those of nobody.
    pub(super) fn none() -> Rules {
        let sets = vec![RuleSet::default()];
        Rules {
            sets,
            at_sockets: None,
            policy: None,
            families: Families::Both,
            given: None,
            notes: Vec::new(),
        }
    }

    pub(super) fn explain(&self, conn: &Conn) -> Explanation {
        let sets: Vec<&RuleSet> = self.sets.iter().collect();
        let cause = |id| self.given.as_ref().and_then(|given| cause(id, given));
        let explanation = Explanation::of(conn, &eval::evaluate(&sets, conn), cause);
        match &self.at_sockets {
            Some((lowered, netns)) => {
                explanation.at_sockets(conn.direction, &ask(lowered, *netns, conn), cause)
            }
            None => explanation,
        }
    }
}

pub(super) fn main(asked: &Asked, flags: Raw, faults: Faults, environment: &Environment) -> Answer {
    let mut given = input::gather(cli::ALL_PARTS, flags, faults, environment);
    let form = form(&mut given.raw);
    let output = given.output();
    if let Some(pod) = &asked.pod {
        let answer = super::explain_pod::answer(pod, &asked.connections, form, given, environment);
        return answer.unwrap_or_else(|failure| failure.answer(output));
    }
    answer(asked, form, given, environment).unwrap_or_else(|failure| failure.answer(output))
}

/// Drawings are forms of the answer that `explain` alone has.
fn form(raw: &mut Raw) -> Option<Form> {
    let given = raw.first(Key::Output)?;
    let form = match given.text.to_ascii_lowercase().as_str() {
        "mermaid" => Form::Mermaid,
        "svg" => Form::Svg,
        "dot" => Form::Dot,
        _ => return None,
    };
    // A second one stays, to be told.
    if raw.get(Key::Output).is_some_and(|given| given.len() == 1) {
        raw.remove(Key::Output);
    }
    Some(form)
}

fn answer(
    asked: &Asked,
    form: Option<Form>,
    mut given: input::Given,
    environment: &Environment,
) -> Result<Answer, Failure> {
    if asked.connections.is_empty() && !asked.all && asked.diff.is_empty() {
        let remedy = "give one such as `out tcp uid=1000 10.1.2.3:80`, or --all, or --diff A B";
        given.faults.whole("no connection is asked about", remedy);
    }
    if asked.all && !asked.connections.is_empty() {
        given.faults.whole("--all asks about connections of its own", "leave it out, or the connections");
    }
    if !asked.diff.is_empty() && (asked.all || asked.live || !asked.connections.is_empty()) {
        let remedy = "leave it out, or --live, --all and the connections";
        given.faults.whole("--diff compares two policies, on connections of its own", remedy);
    }
    if form.is_some() && asked.connections.is_empty() {
        given.faults.whole("there is no way to draw", "ask about connections, or leave out --output");
    }
    let conns = connections(&asked.connections, &mut given.faults);
    if let [one, other] = asked.diff.as_slice() {
        return diff([one, other], given);
    }
    if asked.live {
        // All that says which rules to make, and with what.
        let made: Vec<Key> =
            given.raw.keys().filter(|key| !matches!(key, Key::Netns | Key::Wait | Key::Output)).collect();
        let remedy = "leave it out, or --live: then the rules are those that the options would make";
        given.without_effect(&made, "says nothing of the rules that are here", remedy);
    } else {
        given.without_effect(&OF_A_MACHINE, NO_MACHINE.0, NO_MACHINE.1);
    }
    let (rules, settings) = match asked.live {
        true => {
            let settings = given.settings()?;
            (live(&settings, environment)?, settings)
        }
        false => {
            let raw = given.raw.clone();
            let request = given.request()?;
            let settings = request.settings.clone();
            (wanted(&request, raw), settings)
        }
    };
    if asked.all {
        return Ok(matrix(&rules)?.answer(settings.output));
    }
    let answers = conns.iter().map(|conn| rules.explain(conn)).collect();
    let explained = Explained { answers, notes: rules.notes };
    Ok(match form {
        Some(form) => Answer { stdout: draw(&explained, form), ..Answer::default() },
        None => explained.answer(settings.output),
    })
}

/// Reads connections.
pub(super) fn connections(texts: &[String], faults: &mut Faults) -> Vec<Conn> {
    let mut conns = Vec::new();
    for text in texts {
        match text.parse::<Conn>() {
            Ok(conn) => conns.push(conn),
            Err(why) => {
                let problem = format!("connection {}: {why}", crate::input::fault::quote(text));
                let remedy =
                    "write it such as `in tcp eth0 192.0.2.7 -> 10.0.0.5:8001`; docs/explain.md has the rest";
                faults.whole(problem, remedy);
            }
        }
    }
    conns
}

/// The rules that the options would make.
pub(super) fn wanted(request: &Request, given: Raw) -> Rules {
    let families = match request.policy.ipv6 {
        Ipv6::Off => Families::V4,
        Ipv6::On | Ipv6::Auto => Families::Both,
    };
    let variant = request.settings.variant.unwrap_or(Variant::Nft);
    // What cannot be lowered was refused before.
    let place = Place { netns: 0, generation: 0 };
    let lowered = request.settings.ebpf.as_ref().and_then(|_| {
        let lowered = lower(&request.policy, request.layout, families, place).ok()?;
        Some((lowered, place.netns))
    });
    let sets = match lowered {
        Some(_) => vec![RuleSet::default()],
        None => vec![compile_for(&request.policy, request.layout, families, variant)],
    };
    let shown = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    let ebpf = request.settings.ebpf.as_ref();
    let limits = ebpf.into_iter().flat_map(|how| ebpf::limits(shown(&how.cgroup), shown(&how.proxy_cgroup)));
    Rules {
        sets,
        at_sockets: lowered,
        policy: Some(request.policy.clone()),
        families: Families::Both,
        given: Some(given),
        notes: limits.collect(),
    }
}

/// The rules that are here, whoever made them.
fn live(settings: &Settings, environment: &Environment) -> crate::error::Result<Rules> {
    namespace::enter(settings, false)?;
    let machine = super::machine(settings, environment);
    let look = observe::look(&machine)?;
    let unread = |variant: Variant, family: Family| {
        look.unreadable.iter().any(|(of, in_family, _)| (*of, *in_family) == (variant, family))
    };
    let mut notes: Vec<String> = look
        .unreadable
        .iter()
        .map(|(variant, family, why)| match variant {
            Variant::Nft | Variant::Native => {
                format!("{family} rules of {variant} are read without it, in part as text: {why}")
            }
            Variant::Legacy => format!("{family} rules of {variant} are here and do not count: {why}"),
        })
        .collect();
    notes.extend(look.observed.unlisted.as_ref().map(|why| why.problem.clone()));
    // nft's own tables, and those of iptables-nft that it cannot read itself.
    let mut native = RuleSet::default();
    if observe::has_nftables()? {
        let (rules, beyond) = host::native::everything()?;
        native = rules;
        native.chains.retain(|chain| {
            !host::native::is_of_iptables(&chain.table) || unread(Variant::Nft, chain.family)
        });
        notes.extend(
            beyond
                .into_iter()
                .map(|chain| format!("{chain} does not count: it is called at a hook that is not modelled")),
        );
    }
    let mut policy = None;
    let mut sets = Vec::new();
    for variant in Variant::ALL {
        let (mut set, found) = annotated(&look.observed, variant);
        policy = policy.or(found);
        if variant == Variant::Native {
            native.chains.retain(|chain| !ownership::is_our_table(&chain.table));
            set.chains.append(&mut native.chains);
        }
        if !set.chains.is_empty() {
            sets.push(set);
        }
    }
    let routing = look.observed.routing.iter().map(|present| present.what).collect();
    sets.push(RuleSet { chains: Vec::new(), routing });
    let families = if look.observed.ipv6 { Families::Both } else { Families::V4 };
    let at_sockets = ebpf::here(settings.wait)?;
    if let Some((found, _)) = &at_sockets {
        policy = ebpf::policy_of(&found.lowered).or(policy);
        notes.extend(ebpf::limits_of(found));
        if !found.detached.is_empty() {
            notes.push(format!("not attached: {}; apply again", found.detached.join(", ")));
        }
    }
    let at_sockets = at_sockets.map(|(found, netns)| (found.lowered, netns));
    Ok(Rules { sets, at_sockets, policy, families, given: None, notes })
}

/// The rules of `variant`, each of ours with the clause that it stands for.
pub(super) fn annotated(observed: &Observed, variant: Variant) -> (RuleSet, Option<CapturePolicy>) {
    let rules = observed.of(variant);
    let families = match rules.chains.iter().any(|chain| chain.family == Family::V6) {
        true => Families::Both,
        false => Families::V4,
    };
    let Some((request, _)) = status::policy_of(&rules, variant, families, observed) else {
        return (rules, None);
    };
    let wanted = compile_for(&request.policy, request.layout, families, variant);
    let claim = Claim { named: wanted.clone(), all: false };
    let mut rules = Observed { claim, ..observed.clone() }.of(variant);
    status::annotate(&mut rules, &wanted);
    (rules, Some(request.policy))
}

fn matrix(rules: &Rules) -> Result<Matrix, Failure> {
    let policy = match &rules.policy {
        Some(policy) => policy.clone(),
        // Kinds that every policy has.
        None => validate::request(&Raw::default(), &Facts::default(), Faults::default())?.policy,
    };
    let rows = typical(&policy, rules.families).into_iter();
    Ok(Matrix {
        policy: rules.policy.as_ref().map(ToString::to_string),
        rows: rows.map(|typical| (typical.kind, rules.explain(&typical.conn))).collect(),
        notes: rules.notes.clone(),
    })
}

/// What two policies decide differently, on connections of every kind that either has.
fn diff(texts: [&String; 2], mut given: input::Given) -> Result<Answer, Failure> {
    let flag = |key: Key| {
        key != Key::Output
            && given.raw.first(key).is_some_and(|given| matches!(given.origin, Origin::Flag(_)))
    };
    if given.raw.keys().any(flag) {
        given.faults.whole(
            "--diff takes its policies from A and B alone",
            "put the other flags into A or B, in quotes",
        );
    }
    let both = Faults::both(policy(texts[0]), policy(texts[1]));
    let (settings, (one, other)) = Faults::both(given.settings(), both)?;
    let mut rows: Vec<(String, [Explanation; 2])> = Vec::new();
    let mut compared = BTreeSet::new();
    for rules in [&one, &other] {
        let Some(policy) = &rules.policy else { continue };
        for typical in typical(policy, Families::Both) {
            if !compared.insert(typical.conn.to_string()) {
                continue;
            }
            let both = [one.explain(&typical.conn), other.explain(&typical.conn)];
            if both[0].outcome != both[1].outcome {
                rows.push((typical.kind, both));
            }
        }
    }
    let policies =
        [&one, &other].map(|rules| rules.policy.as_ref().map(ToString::to_string).unwrap_or_default());
    Ok(Differences { policies, compared: compared.len(), rows }.answer(settings.output))
}

/// The rules of a policy file, or of flags in one text.
fn policy(text: &str) -> Result<Rules, Faults> {
    let misused = |why: &str| {
        let mut faults = Faults::default();
        let problem = format!("--diff {}: {why}", crate::input::fault::quote(text));
        faults.whole(problem, "give a policy file, or the flags of a policy in quotes");
        faults
    };
    let (flags, faults) = if text.trim_start().starts_with('-') || text.trim().is_empty() {
        let words = ["mesh-init", "plan"].into_iter().chain(text.split_whitespace());
        match cli::parse(words.map(Into::into)) {
            Parsed::Call { verb: Verb::Plan { live: false }, flags, faults, .. } => (flags, faults),
            Parsed::Misuse(why) => return Err(misused(why.lines().next().unwrap_or_default())),
            Parsed::Call { .. }
            | Parsed::Explain { .. }
            | Parsed::Trace { .. }
            | Parsed::Istio(_)
            | Parsed::Install(_)
            | Parsed::Uninstall(_)
            | Parsed::Cni
            | Parsed::Answer(_) => {
                return Err(misused("is no policy"));
            }
        }
    } else {
        let mut flags = Raw::default();
        let is_env = std::path::Path::new(text).extension().is_some_and(|of| of.eq_ignore_ascii_case("env"));
        let key = if is_env { Key::EnvFile } else { Key::Config };
        flags.push(key, text, Origin::Flag("diff"));
        (flags, Faults::default())
    };
    let mut given = input::gather(cli::ALL_PARTS, flags, faults, &[]);
    given.without_effect(&OF_A_MACHINE, "has no effect: policies are compared", "leave it out");
    given.without_effect(&[Key::Output], "has no effect there", "give --output beside --diff");
    let raw = given.raw.clone();
    Ok(wanted(&given.request()?, raw))
}
