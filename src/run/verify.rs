//! `verify`: does capture hold, and how is that known?

use std::collections::BTreeSet;

use super::{Environment, apply, confirm, ebpf, status};
use crate::backend::choose;
use crate::backend::claim::Claim;
use crate::backend::observed::Present;
use crate::backend::plan::{self, Purpose};
use crate::backend::{Observed, ownership};
use crate::error::Result;
use crate::eval::probing::{self, Direction, Probe};
use crate::eval::sockets::Socket;
use crate::host::probe::{self, Shown};
use crate::host::{self, namespace, observe, preflight};
use crate::policy::settings::{Settings, Variant};
use crate::policy::validate::Request;
use crate::policy::{CapturePolicy, Families, Family, Ipv6, Mode};
use crate::report::{Checked, How, Verified};
use crate::rules::compile::compile_for;
use crate::rules::{Routing, RuleSet};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    /// Nothing may be left untried.
    pub(super) strict: bool,
    /// Read the rules, try nothing.
    pub(super) quick: bool,
    /// Apply again what does not hold.
    pub(super) repair: bool,
}

/// What is to be true, and where.
struct Expected {
    policy: CapturePolicy,
    wanted: RuleSet,
    families: Families,
    variant: Variant,
}

/// `request` is what was asked for; without one, the policy is the one that the rules say.
pub(super) fn run(
    asked: Asked,
    request: Option<&Request>,
    settings: &Settings,
    environment: &Environment,
) -> Result<Verified> {
    namespace::enter_to_probe(settings, request.is_some_and(|request| request.policy.mode != Mode::None))?;
    let lock = namespace::lock_for(settings)?;
    let machine = super::machine(settings, environment);
    // Rules that are asked for are looked for; else what is there decides.
    let at_sockets = match request {
        Some(request) => request.settings.ebpf.as_ref().map(|how| Some((request, how))),
        None => Some(None),
    };
    if let Some(asked_for) = at_sockets
        && let Some(verified) = ebpf::verify(asked, asked_for, settings, &machine, &lock)?
    {
        return Ok(verified);
    }
    let look = observe::look(&machine)?;
    preflight::readable(&look, settings.variant)?;
    let mut observed = look.observed;
    let sockets = observe::sockets()?;
    let mut notes = Vec::new();
    notes.extend(preflight::no_ambient(&observed).err().map(|error| error.problem));
    notes.extend(preflight::no_other_mesh(&observed).err().map(|error| error.problem));
    let expected = match request {
        Some(request) => Some(of_request(request, &mut observed, &machine)?),
        None => of_rules(&mut observed, settings),
    };
    if Variant::ALL.into_iter().any(|variant| confirm::is_marked(&observed.of(variant))) {
        notes.push(confirm::waiting());
    }
    let Some(expected) = expected else {
        if Variant::ALL.into_iter().any(|variant| ownership::holds_ours(&observed.of(variant))) {
            notes.push("chains of Istio are here that no policy of this version makes".to_owned());
        }
        let strict = asked.strict;
        return Ok(Verified {
            policy: None,
            checked: Vec::new(),
            wrong: Vec::new(),
            strict,
            repaired: Vec::new(),
            notes,
        });
    };
    notes.extend(ownership::ahead(&observed.of(expected.variant)).into_iter().map(|ahead| ahead.text));
    for (port, uid) in probing::strangers(&expected.policy, &sockets) {
        notes.push(format!(
            "port {port} is held by uid {uid}, which the rules do not exempt: as a proxy it would get its own connections back"
        ));
    }
    let mut checked = check(asked, &expected, &observed, &sockets);
    let mut repaired = Vec::new();
    let mut wrong = wrong_of(&expected, &observed);
    if let (true, Some(request)) = (asked.repair && !wrong.is_empty(), request) {
        if host::holder_waits() {
            notes.push("not repaired: another change waits to be confirmed".to_owned());
        } else {
            // The lock is apply's own business.
            drop(lock);
            repaired = apply::again(request, environment)?;
            let mut now = observe::look(&machine)?.observed;
            now.claim = observed.claim.clone();
            checked = check(asked, &expected, &now, &sockets);
            wrong = wrong_of(&expected, &now);
        }
    }
    Ok(Verified { policy: Some(expected.policy), checked, wrong, strict: asked.strict, repaired, notes })
}

fn wrong_of(expected: &Expected, observed: &Observed) -> Vec<String> {
    let wrong = plan::differences(&expected.wanted, expected.variant, observed).into_iter();
    let mut wrong: Vec<String> = wrong.map(|(_, what)| what).collect();
    wrong.dedup();
    wrong
}

fn of_request(request: &Request, observed: &mut Observed, machine: &host::Machine) -> Result<Expected> {
    let Request { policy, layout, settings, .. } = request;
    let choice = choose::variant(settings, observed, &machine.tools)?;
    let families = choose::families(policy.ipv6, observed, choice.variant, &machine.tools)?;
    let mut wanted = compile_for(policy, *layout, families, choice.variant);
    if confirm::is_marked(&observed.of(choice.variant)) {
        confirm::mark(&mut wanted, choice.variant);
    }
    observed.claim = Claim { named: wanted.clone(), all: settings.all };
    Ok(Expected { policy: policy.clone(), wanted, families, variant: choice.variant })
}

fn of_rules(observed: &mut Observed, settings: &Settings) -> Option<Expected> {
    let holding = |variant: &Variant| ownership::holds_ours(&observed.of(*variant));
    let asked = |variant: &Variant| match settings.variant {
        Some(asked) => asked == *variant,
        None => !settings.iptables || Variant::IPTABLES.contains(variant),
    };
    let variant = Variant::ALL.into_iter().rfind(|variant| holding(variant) && asked(variant))?;
    let rules = observed.of(variant);
    let (request, _) = status::policy_of(&rules, variant, Families::Both, observed)
        .into_iter()
        .chain(status::policy_of(&rules, variant, Families::V4, observed))
        .max_by_key(|(_, whole)| *whole)?;
    // What the policy says of IPv6 counts, not what is left of its rules.
    let of_v6 = |present: &Present| {
        let v6 = match present.what {
            Routing::PassthroughAddress => true,
            Routing::Route { family, .. } | Routing::Rule { family, .. } => family == Family::V6,
        };
        v6 && present.ours
    };
    let left = observed.routing.iter().any(of_v6);
    let meant =
        left || request.policy.ipv6 != Ipv6::Off || ownership::holds_ours(&of_family(&rules, Family::V6));
    let families = if observed.ipv6 && meant { Families::Both } else { Families::V4 };
    let mut wanted = compile_for(&request.policy, request.layout, families, variant);
    if confirm::is_marked(&rules) {
        confirm::mark(&mut wanted, variant);
    }
    observed.claim = Claim { named: wanted.clone(), all: settings.all };
    Some(Expected { policy: request.policy, wanted, families, variant })
}

/// Judges each direction of each family.
fn check(asked: Asked, expected: &Expected, observed: &Observed, sockets: &[Socket]) -> Vec<Checked> {
    let differences = plan::differences(&expected.wanted, expected.variant, observed);
    let mut checked = Vec::new();
    let mut families = expected.families.list().to_vec();
    // A stack that nobody captures is told, whatever the policy says.
    if observed.ipv6 && !families.contains(&Family::V6) {
        families.push(Family::V6);
    }
    for family in families {
        let prefix = format!("{family}: ");
        let missing = differences.iter().find(|(of, what)| *of == Purpose::Make && what.starts_with(&prefix));
        let missing = missing.map(|(_, what)| what.clone());
        for direction in [Direction::Outbound, Direction::Inbound] {
            let (how, detail) = match expected.families.list().contains(&family) {
                true => one(asked, expected, direction, family, missing.as_deref(), observed, sockets),
                false => {
                    (How::LeftAlone, "no rules are meant for IPv6, and there is an IPv6 stack".to_owned())
                }
            };
            checked.push(Checked { direction, family, how, detail });
        }
    }
    checked
}

fn one(
    asked: Asked,
    expected: &Expected,
    direction: Direction,
    family: Family,
    missing: Option<&str>,
    observed: &Observed,
    sockets: &[Socket],
) -> (How, String) {
    let policy = &expected.policy;
    let listening: BTreeSet<u16> =
        sockets.iter().filter(|socket| socket.is_listening()).map(|socket| socket.local.port()).collect();
    let (probe, port) = match direction {
        Direction::Outbound => (probing::outbound(policy, family, host::own_ids()), policy.proxy.port),
        Direction::Inbound => {
            (probing::inbound(policy, &listening, probe::NEIGHBOUR), policy.proxy.inbound_port)
        }
    };
    let by_rules = |why: &str| match missing {
        Some(missing) => (How::NotCaptured, format!("{missing} is not as it should be; {why}")),
        None => (How::Rules, why.to_owned()),
    };
    let ours = of_family(&observed.of(expected.variant), family);
    let probe = match probe {
        Ok(None) => return (How::NotWanted, String::new()),
        Err(why) => return by_rules(&why),
        Ok(Some(_)) if asked.quick => return by_rules("read back"),
        Ok(Some(_)) if !ownership::holds_ours(&ours) => {
            return (How::NotCaptured, "there are no rules".to_owned());
        }
        Ok(Some(probe)) => probe,
    };
    let tried = described(&probe);
    let held = listening.contains(&port.number());
    match probe::run(&probe, policy, family, held) {
        Shown::Token => (How::Probe, tried),
        Shown::Conntrack => (How::Conntrack, tried),
        Shown::Contradicts(seen) => (How::NotCaptured, format!("{tried}: {seen}")),
        Shown::Untried(why) => by_rules(&format!("not tried: {why}")),
    }
}

fn of_family(rules: &RuleSet, family: Family) -> RuleSet {
    let chains = rules.chains.iter().filter(|chain| chain.family == family).cloned().collect();
    RuleSet { chains, routing: Vec::new() }
}

fn described(probe: &Probe) -> String {
    match probe {
        Probe::Outbound { destination, uid, gid } => {
            let uid = uid.map(|uid| format!(" as uid {uid}")).unwrap_or_default();
            let gid = gid.map(|gid| format!(" as gid {gid}")).unwrap_or_default();
            format!("tried {destination}{uid}{gid}")
        }
        Probe::Inbound { port } => format!("tried port {port}"),
    }
}
