//! Rules to lines. A line is spelled exactly as `iptables-save` prints it, so that what `plan` shows is what a
//! reader finds in the kernel afterwards.

use crate::policy::{Cidr, PortRange};
use crate::rules::{Match, Protocol, Rule, Test, Verdict};

/// The lines of `rule` without `-A CHAIN`: a set becomes a line for each of its members.
#[must_use]
pub fn specs(rule: &Rule) -> Vec<String> {
    spread(rule).iter().map(spec).collect()
}

/// `rule` as rules whose sets have one member each: what iptables has instead of sets.
#[must_use]
pub fn spread(rule: &Rule) -> Vec<Rule> {
    let mut spread = vec![Rule { matches: Vec::new(), ..rule.clone() }];
    for condition in &rule.matches {
        let singles = singles(&condition.test);
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

fn is_everything(test: &Test) -> bool {
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
        Test::Protocol(_) | Test::FirstPacket | Test::DestinationIsLocal | Test::Opaque(_) => {
            vec![test.clone()]
        }
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
        Test::OwnerUid(_) | Test::OwnerGid(_) => 8,
        Test::DestinationIsLocal => 9,
        Test::Opaque(_) => 10,
    }
}

/// One line of a rule whose sets have one member each.
fn spec(rule: &Rule) -> String {
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
        if matches!(condition.test, Test::SourcePort(_) | Test::DestinationPort(_) | Test::FirstPacket)
            && !ports_loaded
        {
            words.push(format!("-m {}", protocol));
            ports_loaded = true;
        }
        words.push(self::condition(condition));
    }
    if let Some(comment) = &rule.comment {
        words.push(format!("-m comment --comment {}", quote(comment)));
    }
    words.extend(verdict(&rule.verdict));
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
        Test::DestinationPort(ranges) => format!("{not}--dport {}", range(ranges)),
        Test::FirstPacket => format!("{not}--tcp-flags FIN,SYN,RST,ACK SYN"),
        Test::OwnerUid(uids) => format!("-m owner {not}--uid-owner {}", first(uids)),
        Test::OwnerGid(gids) => format!("-m owner {not}--gid-owner {}", first(gids)),
        Test::DestinationIsLocal => format!("-m addrtype {not}--dst-type LOCAL"),
        Test::Opaque(text) => text.clone(),
    }
}

fn range(ranges: &[PortRange]) -> String {
    match ranges.first() {
        Some(range) if range.first == range.last => range.first.to_string(),
        Some(range) => format!("{}:{}", range.first, range.last),
        None => String::new(),
    }
}

fn verdict(verdict: &Verdict) -> Option<String> {
    Some(match verdict {
        Verdict::Continue => return None,
        Verdict::Accept => "-j ACCEPT".to_owned(),
        Verdict::Drop => "-j DROP".to_owned(),
        Verdict::Return => "-j RETURN".to_owned(),
        Verdict::Jump(chain) => format!("-j {chain}"),
        Verdict::Goto(chain) => format!("-g {chain}"),
        Verdict::Redirect(port) => format!("-j REDIRECT --to-ports {port}"),
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
