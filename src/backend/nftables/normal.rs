//! Rules as the kernel keeps them: sets in order and without repetition, comments as they are written, and rules that
//! a verdict map may hold together in the order of their clauses.
//!
//! What is read back is this form, so that equal rules are equal values.

use super::{comment, interval, vmap};
use crate::policy::Family;
use crate::rules::{Chain, ConnState, Match, Place, Protocol, Rule, RuleSet, Test};

/// The same rules in the form in which they are read back.
#[must_use]
pub fn normal(rules: &RuleSet) -> RuleSet {
    let chain = |Chain { family, table, name, base, rules }: &Chain| {
        let rules = rules.iter().map(|rule| normal_rule(*family, rule)).collect();
        let rules = vmap::ordered(*family, rules);
        Chain { family: *family, table: table.clone(), name: name.clone(), base: *base, rules }
    };
    RuleSet { chains: rules.chains.iter().map(chain).collect(), routing: rules.routing.clone() }
}

/// One rule of a family's chain in the form in which it is read back.
#[must_use]
pub fn normal_rule(family: Family, rule: &Rule) -> Rule {
    let comment = comment::of(rule);
    let id = rule.id.or_else(|| comment::id_of(comment.as_deref()?));
    let mut matches: Vec<Match> = rule
        .matches
        .iter()
        .map(|condition| Match { negated: condition.negated, test: normal_test(family, &condition.test) })
        .collect();
    // A port is a port of some protocol: that is asked first.
    let of_transport = |condition: &Match| {
        matches!(condition.test, Test::SourcePort(_) | Test::DestinationPort(_) | Test::FirstPacket)
    };
    let protocol = |condition: &Match| !condition.negated && matches!(condition.test, Test::Protocol(_));
    let first = matches.iter().position(of_transport);
    let asked = matches.iter().position(protocol);
    if let (Some(first), Some(asked)) = (first, asked)
        && first < asked
    {
        let condition = matches.remove(asked);
        matches.insert(first, condition);
    }
    Rule { id, matches, verdict: rule.verdict.clone(), comment, place: Place::Last, seen: None }
}

fn normal_test(family: Family, test: &Test) -> Test {
    match test {
        Test::Source(nets) => Test::Source(interval::merged_cidrs(family, nets)),
        Test::Destination(nets) => Test::Destination(interval::merged_cidrs(family, nets)),
        Test::SourcePort(ranges) => Test::SourcePort(interval::merged_ports(ranges)),
        Test::DestinationPort(ranges) => Test::DestinationPort(interval::merged_ports(ranges)),
        Test::InInterface(names) => Test::InInterface(covered(names)),
        Test::OutInterface(names) => Test::OutInterface(covered(names)),
        Test::OwnerUid(uids) => Test::OwnerUid(sorted(uids)),
        Test::OwnerGid(gids) => Test::OwnerGid(sorted(gids)),
        Test::ConnState(states) => {
            Test::ConnState(ConnState::ALL.into_iter().filter(|state| states.contains(state)).collect())
        }
        Test::Protocol(Protocol::Other(name)) => match number(name) {
            Some(number) => Test::Protocol(protocol(number)),
            None => test.clone(),
        },
        Test::Protocol(_)
        | Test::FirstPacket
        | Test::DestinationIsLocal
        | Test::Answer
        | Test::Mark(_)
        | Test::Connmark(_)
        | Test::Opaque(_) => test.clone(),
    }
}

fn sorted<T: Ord + Clone>(items: &[T]) -> Vec<T> {
    let mut items = items.to_vec();
    items.sort_unstable();
    items.dedup();
    items
}

/// Names in order, without those that another one covers.
fn covered(names: &[crate::policy::IfName]) -> Vec<crate::policy::IfName> {
    let all = sorted(names);
    let mut kept: Vec<_> = all
        .iter()
        .filter(|name| !all.iter().any(|other| other != *name && other.covers(name)))
        .cloned()
        .collect();
    kept.sort_by_key(super::set::names_interval);
    kept
}

/// Protocols that have a name of their own here, as iptables and nft write it (/etc/protocols).
const PROTOCOLS: [(&str, u8); 10] = [
    ("icmp", 1),
    ("igmp", 2),
    ("ipip", 4),
    ("dccp", 33),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("ipv6-icmp", 58),
    ("sctp", 132),
    ("udplite", 136),
];

/// The number of a protocol that is neither TCP nor UDP by name; `None` for a name that is not known here.
#[must_use]
pub fn number(name: &str) -> Option<u8> {
    match name {
        "tcp" => Some(6),
        "udp" => Some(17),
        "icmpv6" => Some(58),
        _ => PROTOCOLS
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, number)| *number)
            .or(name.parse().ok()),
    }
}

/// The protocol of a number.
#[must_use]
pub fn protocol(number: u8) -> Protocol {
    match number {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _ => Protocol::Other(match PROTOCOLS.iter().find(|(_, known)| *known == number) {
            Some((name, _)) => (*name).to_owned(),
            None => number.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::IfName;
    use crate::rules::Verdict;

    fn rule(tests: Vec<Test>) -> Rule {
        let matches = tests.into_iter().map(Match::is).collect();
        Rule { id: None, matches, verdict: Verdict::Accept, comment: None, place: Place::First, seen: None }
    }

    #[test]
    fn sets_lose_order_and_repetition() {
        let links =
            |list: &[&str]| -> Vec<IfName> { list.iter().map(|name| name.parse().unwrap()).collect() };
        let given = rule(vec![
            Test::DestinationPort(vec![
                "443".parse().unwrap(),
                "80-90".parse().unwrap(),
                "85".parse().unwrap(),
            ]),
            Test::Protocol(Protocol::Other("6".into())),
            Test::InInterface(links(&["lo", "eth0", "eth+", "lo"])),
            Test::ConnState(vec![ConnState::Established, ConnState::New, ConnState::New]),
        ]);
        let want = rule(vec![
            Test::Protocol(Protocol::Tcp),
            Test::DestinationPort(vec!["80-90".parse().unwrap(), "443".parse().unwrap()]),
            Test::InInterface(links(&["eth+", "lo"])),
            Test::ConnState(vec![ConnState::New, ConnState::Established]),
        ]);
        let normal = normal_rule(Family::V4, &given);
        assert_eq!(normal, Rule { place: Place::Last, ..want });
        assert_eq!(normal_rule(Family::V4, &normal), normal);
    }

    #[test]
    fn protocols_have_one_name() {
        for number in 0..=255 {
            let name = protocol(number).to_string();
            assert_eq!(super::number(&name), Some(number), "{name}");
        }
        assert_eq!(number("no-such"), None);
        assert_eq!(number("256"), None);
    }
}
