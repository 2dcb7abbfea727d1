//! Rules to lines. A line is spelled exactly as `iptables-save` prints it, so that what `plan` shows is what a
//! reader finds in the kernel afterwards.

use crate::policy::{Cidr, Family, Mark, PortRange};
use crate::rules::{ConnState, Match, Protocol, Rule, Test, Verdict};

/// The lines of `rule` without `-A CHAIN`: a set becomes a line for each of its members.
#[must_use]
pub fn specs(rule: &Rule, family: Family) -> Vec<String> {
    spread(rule).iter().map(|rule| spec(rule, family)).collect()
}

/// `rule` in one line, for people: of a set only the first members.
#[must_use]
pub fn text(rule: &Rule, family: Family) -> String {
    if let Some(seen) = &rule.seen {
        // What our own comment says is told with the clause.
        let ours = rule.comment.as_ref().filter(|_| rule.id.is_some());
        let comment = ours.map(|comment| format!(" comment \"{comment}\"")).unwrap_or_default();
        return seen.spec.strip_suffix(&comment).unwrap_or(&seen.spec).to_owned();
    }
    if let [only] = specs(rule, family).as_slice() {
        return only.clone();
    }
    let words: Vec<String> = rule.matches.iter().map(condition_text).collect();
    words.into_iter().chain(verdict(&rule.verdict, family)).collect::<Vec<_>>().join(" ")
}

/// A condition for people: of a set only the first members.
#[must_use]
pub fn condition_text(of: &Match) -> String {
    const SHOWN: usize = 3;
    let members = singles(&of.test);
    let shown = members.iter().take(SHOWN);
    let shown = shown.map(|test| condition(&Match { negated: of.negated, test: test.clone() }));
    let shown = shown.collect::<Vec<_>>().join(if of.negated { " " } else { "|" });
    match members.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{shown} (+{more} more)"),
        Some(_) | None => shown,
    }
}

/// `rule` as rules whose sets have one member each: what iptables has instead of sets.
#[must_use]
pub fn spread(rule: &Rule) -> Vec<Rule> {
    let mut spread = vec![Rule { matches: Vec::new(), ..rule.clone() }];
    for condition in &rule.matches {
        let singles = singles(&condition.test);
        if condition.negated && matches!(condition.test, Test::DestinationPort(_)) {
            // The tcp match takes one port; multiport takes them together.
            for rule in &mut spread {
                rule.matches.push(condition.clone());
            }
            continue;
        }
        if condition.negated {
            // "None of them" holds in one rule: every member is excluded in turn.
            for rule in &mut spread {
                rule.matches.extend(singles.iter().cloned().map(Match::not));
            }
            continue;
        }
        // A whole family is no condition, and iptables-save prints none.
        if singles.iter().any(is_everything) {
            continue;
        }
        let with = |rule: &Rule, single: &Test| {
            let mut rule = rule.clone();
            rule.matches.push(Match::is(single.clone()));
            rule
        };
        spread =
            spread.iter().flat_map(|rule| singles.iter().map(move |single| with(rule, single))).collect();
    }
    spread
}

pub(super) fn is_everything(test: &Test) -> bool {
    matches!(test, Test::Source(nets) | Test::Destination(nets) if nets.iter().any(Cidr::is_everything))
}

fn singles(test: &Test) -> Vec<Test> {
    fn each<T: Clone>(items: &[T], test: impl Fn(Vec<T>) -> Test) -> Vec<Test> {
        items.iter().map(|item| test(vec![item.clone()])).collect()
    }
    match test {
        Test::Source(items) => each(items, Test::Source),
        Test::Destination(items) => each(items, Test::Destination),
        Test::InInterface(items) => each(items, Test::InInterface),
        Test::OutInterface(items) => each(items, Test::OutInterface),
        Test::SourcePort(items) => each(items, Test::SourcePort),
        Test::DestinationPort(items) => each(items, Test::DestinationPort),
        Test::OwnerUid(items) => each(items, Test::OwnerUid),
        Test::OwnerGid(items) => each(items, Test::OwnerGid),
        Test::Protocol(_)
        | Test::FirstPacket
        | Test::DestinationIsLocal
        | Test::ConnState(_)
        | Test::Answer
        | Test::Mark(_)
        | Test::Connmark(_)
        | Test::Opaque(_) => vec![test.clone()],
    }
}

/// Where a condition stands in the printed line: addresses, interfaces and protocol first, then the extensions.
fn position(test: &Test) -> u8 {
    match test {
        Test::Source(_) => 0,
        Test::Destination(_) => 1,
        Test::InInterface(_) => 2,
        Test::OutInterface(_) => 3,
        Test::Protocol(_) => 4,
        Test::SourcePort(_) => 5,
        Test::DestinationPort(_) => 6,
        Test::FirstPacket => 7,
        Test::ConnState(_) | Test::Answer | Test::Mark(_) | Test::Connmark(_) => 8,
        Test::OwnerUid(_) | Test::OwnerGid(_) => 9,
        Test::DestinationIsLocal => 10,
        Test::Opaque(_) => 11,
    }
}

/// One line of a rule whose sets have one member each.
fn spec(rule: &Rule, family: Family) -> String {
    let mut matches: Vec<&Match> = rule.matches.iter().collect();
    matches.sort_by_key(|condition| position(&condition.test));
    let mut protocol = &Protocol::Tcp;
    for condition in &matches {
        if let Test::Protocol(named) = &condition.test {
            protocol = named;
        }
    }
    let mut words: Vec<String> = Vec::new();
    let mut ports_loaded = false;
    for condition in matches {
        let one_port = matches!(&condition.test, Test::DestinationPort(ranges) if ranges.len() == 1);
        let of_protocol = one_port || matches!(condition.test, Test::SourcePort(_) | Test::FirstPacket);
        if of_protocol && !ports_loaded {
            words.push(format!("-m {}", protocol));
            ports_loaded = true;
        }
        words.push(self::condition(condition));
    }
    if let Some(comment) = &rule.comment {
        words.push(format!("-m comment --comment {}", quote(comment)));
    }
    words.extend(verdict(&rule.verdict, family));
    words.join(" ")
}

fn condition(condition: &Match) -> String {
    fn first<T: ToString>(items: &[T]) -> String {
        items.first().map(ToString::to_string).unwrap_or_default()
    }
    let not = if condition.negated { "! " } else { "" };
    match &condition.test {
        Test::Source(nets) => format!("{not}-s {}", first(nets)),
        Test::Destination(nets) => format!("{not}-d {}", first(nets)),
        Test::InInterface(names) => format!("{not}-i {}", first(names)),
        Test::OutInterface(names) => format!("{not}-o {}", first(names)),
        Test::Protocol(protocol) => format!("{not}-p {protocol}"),
        Test::SourcePort(ranges) => format!("{not}--sport {}", range(ranges)),
        Test::DestinationPort(ranges) if ranges.len() > 1 => {
            let ports: Vec<String> = ranges.iter().map(port_range).collect();
            format!("-m multiport {not}--dports {}", ports.join(","))
        }
        Test::DestinationPort(ranges) => format!("{not}--dport {}", range(ranges)),
        Test::FirstPacket => format!("{not}--tcp-flags FIN,SYN,RST,ACK SYN"),
        Test::OwnerUid(uids) => format!("-m owner {not}--uid-owner {}", first(uids)),
        Test::OwnerGid(gids) => format!("-m owner {not}--gid-owner {}", first(gids)),
        Test::DestinationIsLocal => format!("-m addrtype {not}--dst-type LOCAL"),
        Test::ConnState(states) => format!("-m conntrack {not}--ctstate {}", states_text(states)),
        Test::Answer => format!("-m conntrack {not}--ctdir REPLY"),
        Test::Mark(mark) => format!("-m mark {not}--mark {}", hex(*mark)),
        Test::Connmark(mark) => format!("-m connmark {not}--mark {}", hex(*mark)),
        Test::Opaque(text) => text.clone(),
    }
}

fn range(ranges: &[PortRange]) -> String {
    ranges.first().map(port_range).unwrap_or_default()
}

/// A port or a range as iptables writes it.
#[must_use]
pub fn port_range(range: &PortRange) -> String {
    match range.first == range.last {
        true => range.first.to_string(),
        false => format!("{}:{}", range.first, range.last),
    }
}

/// The states as `--ctstate` takes them.
#[must_use]
pub fn states_text(states: &[ConnState]) -> String {
    states.iter().map(|state| state.as_str()).collect::<Vec<_>>().join(",")
}

fn hex(mark: Mark) -> String {
    format!("0x{:x}", mark.0)
}

/// How iptables-save prints that all of a mark is copied.
const WHOLE_MARK: &str = "--nfmask 0xffffffff --ctmask 0xffffffff";

fn verdict(verdict: &Verdict, family: Family) -> Option<String> {
    Some(match verdict {
        Verdict::Continue => return None,
        Verdict::Accept => "-j ACCEPT".to_owned(),
        Verdict::Drop => "-j DROP".to_owned(),
        Verdict::Return => "-j RETURN".to_owned(),
        Verdict::Jump(chain) => format!("-j {chain}"),
        Verdict::Goto(chain) => format!("-g {chain}"),
        Verdict::Redirect(port) => format!("-j REDIRECT --to-ports {port}"),
        Verdict::Dnat(to) => format!("-j DNAT --to-destination {to}"),
        Verdict::Tproxy { port, mark } => {
            let any = if family == Family::V4 { "0.0.0.0" } else { "::" };
            format!("-j TPROXY --on-port {port} --on-ip {any} --tproxy-mark {}/0xffffffff", hex(*mark))
        }
        Verdict::SetMark(mark) => format!("-j MARK --set-xmark {}/0xffffffff", hex(*mark)),
        Verdict::SaveMark => format!("-j CONNMARK --save-mark {WHOLE_MARK}"),
        Verdict::RestoreMark => format!("-j CONNMARK --restore-mark {WHOLE_MARK}"),
        Verdict::Zone(zone) => format!("-j CT --zone {zone}"),
        Verdict::Opaque(text) => text.clone(),
    })
}

/// A word as `iptables-save` quotes it (libxtables, `xtables_save_string`).
fn quote(word: &str) -> String {
    let mut quoted = String::with_capacity(word.len() + 2);
    quoted.push('"');
    for c in word.chars() {
        if matches!(c, '"' | '\\' | '\'') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// A transaction of one table: the form that `iptables-restore` takes, one commit.
#[must_use]
pub fn transaction(table: &str, lines: &[String]) -> String {
    format!("* {table}\n{}\nCOMMIT\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::RuleId;
    use crate::rules::Seen;

    fn to(ports: &[&str]) -> Test {
        Test::DestinationPort(ports.iter().map(|port| port.parse().unwrap()).collect())
    }

    #[test]
    fn a_condition_for_people_shows_the_first_members() {
        for (ports, is, not) in [
            (&["80"][..], "--dport 80", "! --dport 80"),
            (&["80", "81-89"], "--dport 80|--dport 81:89", "! --dport 80 ! --dport 81:89"),
            (&["1", "2", "3"], "--dport 1|--dport 2|--dport 3", "! --dport 1 ! --dport 2 ! --dport 3"),
            (
                &["1", "2", "3", "4"],
                "--dport 1|--dport 2|--dport 3 (+1 more)",
                "! --dport 1 ! --dport 2 ! --dport 3 (+1 more)",
            ),
        ] {
            assert_eq!(condition_text(&Match::is(to(ports))), is);
            assert_eq!(condition_text(&Match::not(to(ports))), not);
        }
    }

    #[test]
    fn a_rule_for_people_is_one_line() {
        let redirect = Verdict::Redirect("15001".parse().unwrap());
        let tcp = Match::is(Test::Protocol(Protocol::Tcp));
        let one =
            Rule::new(RuleId::OutboundPort, vec![tcp.clone(), Match::is(to(&["80"]))], redirect.clone());
        assert_eq!(text(&one, Family::V4), "-p tcp -m tcp --dport 80 -j REDIRECT --to-ports 15001");
        let two = Rule { matches: vec![tcp, Match::is(to(&["80", "81"]))], ..one.clone() };
        assert_eq!(text(&two, Family::V4), "-p tcp --dport 80|--dport 81 -j REDIRECT --to-ports 15001");
        // As it was read, but for what our own comment says.
        let seen = |spec: &str| Some(Seen { spec: spec.to_owned(), packets: 0, bytes: 0 });
        let read = Rule { seen: seen("-p tcp accept comment \"mesh-init:x\""), ..one.comment("mesh-init:x") };
        assert_eq!(text(&read, Family::V4), "-p tcp accept");
        let foreign = Rule { id: None, ..read };
        assert_eq!(text(&foreign, Family::V4), "-p tcp accept comment \"mesh-init:x\"");
    }
}
