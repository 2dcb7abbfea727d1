//! What a dry run of istio-iptables records: the commands, and the restore texts in upstream's own spelling.

use super::render::{port_range, states_text};
use crate::policy::{CapturePolicy, Families, Family, Layout};
use crate::rules::compile::istio::{Recorded, record};
use crate::rules::{Hook, Match, Protocol, Rule, Test, Verdict};

/// The whole record.
#[must_use]
pub fn transcript(policy: &CapturePolicy, layout: Layout, families: Families) -> String {
    let mut lines: Vec<String> = vec!["iptables-save".into(), "ip6tables-save".into()];
    for family in families.list() {
        lines.extend(restore(&record(policy, layout, *family)));
    }
    for family in families.list() {
        lines.push(if *family == Family::V4 { "iptables-save".into() } else { "ip6tables-save".into() });
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

/// The restore text of one family: tables in alphabetical order, chains in the order of their first rule, those that
/// are only jumped to after them.
fn restore(recorded: &[Recorded]) -> Vec<String> {
    let mut tables: Vec<&str> = recorded.iter().map(|recorded| recorded.table.as_str()).collect();
    tables.sort_unstable();
    tables.dedup();
    let mut lines = Vec::new();
    for table in tables {
        let rules: Vec<&Recorded> = recorded.iter().filter(|rule| rule.table.as_str() == table).collect();
        let targets = rules.iter().filter_map(|recorded| recorded.rule.target());
        let chains = rules.iter().map(|recorded| recorded.chain.as_str()).chain(targets);
        let mut made: Vec<&str> = Vec::new();
        for chain in chains.filter(|chain| Hook::of_builtin(chain).is_none()) {
            if !made.contains(&chain) {
                made.push(chain);
            }
        }
        lines.push(format!("* {table}"));
        lines.extend(made.iter().map(|chain| format!("-N {chain}")));
        for Recorded { chain, insert, rule, .. } in rules {
            let at = match insert {
                Some(number) => format!("-I {chain} {number}"),
                None => format!("-A {chain}"),
            };
            lines.push(std::iter::once(at).chain(words(rule)).collect::<Vec<_>>().join(" "));
        }
        lines.push("COMMIT".into());
    }
    lines
}

fn words(rule: &Rule) -> Vec<String> {
    let mut words: Vec<String> = rule.matches.iter().map(condition).collect();
    let udp = rule.matches.iter().any(|of| of.test == Test::Protocol(Protocol::Udp));
    words.extend(verdict(&rule.verdict, udp));
    words
}

fn condition(condition: &Match) -> String {
    fn first<T: ToString>(items: &[T]) -> String {
        items.first().map(ToString::to_string).unwrap_or_default()
    }
    let not = if condition.negated { "! " } else { "" };
    let ports =
        |ranges: &[crate::policy::PortRange]| ranges.iter().map(port_range).collect::<Vec<_>>().join(",");
    match &condition.test {
        Test::Source(nets) => format!("{not}-s {}", first(nets)),
        Test::Destination(nets) => format!("{not}-d {}", first(nets)),
        Test::InInterface(names) => format!("{not}-i {}", first(names)),
        Test::OutInterface(names) => format!("{not}-o {}", first(names)),
        Test::Protocol(protocol) => format!("{not}-p {protocol}"),
        Test::SourcePort(ranges) => format!("{not}--sport {}", ports(ranges)),
        Test::DestinationPort(ranges) if ranges.len() > 1 => {
            format!("-m multiport {not}--dports {}", ports(ranges))
        }
        Test::DestinationPort(ranges) => format!("{not}--dport {}", ports(ranges)),
        Test::OwnerUid(uids) => format!("-m owner {not}--uid-owner {}", first(uids)),
        Test::OwnerGid(gids) => format!("-m owner {not}--gid-owner {}", first(gids)),
        Test::ConnState(states) => format!("-m conntrack {not}--ctstate {}", states_text(states)),
        Test::Answer => format!("-m conntrack {not}--ctdir REPLY"),
        Test::Mark(mark) => format!("-m mark {not}--mark {mark}"),
        Test::Connmark(mark) => format!("-m connmark {not}--mark {mark}"),
        Test::FirstPacket => format!("{not}--syn"),
        Test::DestinationIsLocal => format!("-m addrtype {not}--dst-type LOCAL"),
        Test::Opaque(text) => text.clone(),
    }
}

fn verdict(verdict: &Verdict, udp: bool) -> Option<String> {
    Some(match verdict {
        Verdict::Continue => return None,
        Verdict::Accept => "-j ACCEPT".into(),
        Verdict::Drop => "-j DROP".into(),
        Verdict::Return => "-j RETURN".into(),
        Verdict::Jump(chain) => format!("-j {chain}"),
        Verdict::Goto(chain) => format!("-g {chain}"),
        // Upstream spells the option in two ways.
        Verdict::Redirect(port) if udp => format!("-j REDIRECT --to-port {port}"),
        Verdict::Redirect(port) => format!("-j REDIRECT --to-ports {port}"),
        Verdict::Dnat(to) => format!("-j DNAT --to-destination {to}"),
        Verdict::Tproxy { port, mark } => {
            format!("-j TPROXY --tproxy-mark {mark}/0xffffffff --on-port {port}")
        }
        Verdict::SetMark(mark) => format!("-j MARK --set-mark {mark}"),
        Verdict::SaveMark => "-j CONNMARK --save-mark".into(),
        Verdict::RestoreMark => "-j CONNMARK --restore-mark".into(),
        Verdict::Zone(zone) => format!("-j CT --zone {zone}"),
        Verdict::Opaque(text) => text.clone(),
    })
}
