//! Rules as nft writes them, as far as they are known: for people, not to be read back.

use super::decode::expr::Field;
use super::decode::field::Wanted;
use super::encode::rule::protocol_of;
use super::word;
use crate::policy::Family;
use crate::rules::{ConnState, Match, Protocol, Rule, Test, Verdict};

/// So many members of a set are shown.
const SHOWN: usize = 8;

/// A whole rule.
#[must_use]
pub fn rule(family: Family, rule: &Rule) -> String {
    let mut words = conditions(family, rule, SHOWN);
    words.push(verdict(&rule.verdict));
    if let Some(comment) = &rule.comment {
        words.push(format!("comment \"{comment}\""));
    }
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

/// A rule's conditions, of each set so many members.
#[must_use]
pub fn conditions(family: Family, rule: &Rule, shown: usize) -> Vec<String> {
    let protocol = protocol_of(rule);
    let with_ports =
        |test: &Test| matches!(test, Test::SourcePort(_) | Test::DestinationPort(_) | Test::FirstPacket);
    // `tcp dport 80` says the protocol, too.
    let said = rule.matches.iter().any(|condition| with_ports(&condition.test));
    let told = rule.matches.iter().filter(|condition| {
        !(said
            && !condition.negated
            && matches!(&condition.test, Test::Protocol(named) if Some(named) == protocol))
    });
    told.map(|condition| members(family, protocol, condition, shown)).collect()
}

/// A condition, ports being ports of `protocol`.
#[must_use]
pub fn test(family: Family, protocol: Option<&Protocol>, condition: &Match) -> String {
    members(family, protocol, condition, SHOWN)
}

fn members(family: Family, protocol: Option<&Protocol>, condition: &Match, shown: usize) -> String {
    let not = if condition.negated { "!= " } else { "" };
    let of = protocol.map_or("th".to_owned(), Protocol::to_string);
    match &condition.test {
        Test::Source(nets) => format!("{} saddr {not}{}", word(family), set(nets, shown)),
        Test::Destination(nets) => format!("{} daddr {not}{}", word(family), set(nets, shown)),
        Test::InInterface(names) => format!("iifname {not}{}", names_text(names, shown)),
        Test::OutInterface(names) => format!("oifname {not}{}", names_text(names, shown)),
        Test::Protocol(protocol) => format!("meta l4proto {not}{protocol}"),
        Test::SourcePort(ranges) => format!("{of} sport {not}{}", set(ranges, shown)),
        Test::DestinationPort(ranges) => format!("{of} dport {not}{}", set(ranges, shown)),
        Test::FirstPacket => {
            let op = if condition.negated { "!=" } else { "==" };
            format!("tcp flags & (fin | syn | rst | ack) {op} syn")
        }
        Test::OwnerUid(uids) => format!("meta skuid {not}{}", set(uids, shown)),
        Test::OwnerGid(gids) => format!("meta skgid {not}{}", set(gids, shown)),
        Test::DestinationIsLocal => format!("fib daddr type {not}local"),
        Test::ConnState(states) => {
            let words: Vec<&str> = states.iter().map(|state| state_word(*state)).collect();
            match condition.negated {
                true => format!("ct state & ({}) == 0", words.join(" | ")),
                false => format!("ct state {}", words.join(",")),
            }
        }
        Test::Answer => format!("ct direction {not}reply"),
        Test::Mark(mark) => format!("meta mark {not}{:#x}", mark.0),
        Test::Connmark(mark) => format!("ct mark {not}{:#x}", mark.0),
        Test::Opaque(text) => format!("{not}{text}"),
    }
}

fn state_word(state: ConnState) -> &'static str {
    match state {
        ConnState::Invalid => "invalid",
        ConnState::New => "new",
        ConnState::Related => "related",
        ConnState::Established => "established",
    }
}

fn names_text(names: &[crate::policy::IfName], shown: usize) -> String {
    let quoted = |name: &crate::policy::IfName| match name.as_str().strip_suffix('+') {
        Some(beginning) => format!("\"{beginning}*\""),
        None => format!("\"{name}\""),
    };
    set(&names.iter().map(quoted).collect::<Vec<_>>(), shown)
}

fn set<T: ToString>(items: &[T], most: usize) -> String {
    if let [one] = items {
        return one.to_string();
    }
    let mut shown: Vec<String> = items.iter().take(most).map(ToString::to_string).collect();
    if items.len() > most {
        shown.push(format!("... {} in all", items.len()));
    }
    format!("{{ {} }}", shown.join(", "))
}

/// What happens then.
#[must_use]
pub fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Continue => String::new(),
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Return => "return".to_owned(),
        Verdict::Jump(chain) => format!("jump {chain}"),
        Verdict::Goto(chain) => format!("goto {chain}"),
        Verdict::Redirect(port) => format!("redirect to :{port}"),
        Verdict::Dnat(to) => format!("dnat to {to}"),
        Verdict::Tproxy { port, mark } => format!("tproxy to :{port} meta mark set {:#x} accept", mark.0),
        Verdict::SetMark(mark) => format!("meta mark set {:#x}", mark.0),
        Verdict::SaveMark => "ct mark set meta mark".to_owned(),
        Verdict::RestoreMark => "meta mark set ct mark".to_owned(),
        Verdict::Zone(zone) => format!("ct zone set {zone}"),
        Verdict::Opaque(text) => text.clone(),
    }
}

/// What is loaded, where the model has no word for it.
#[must_use]
pub fn field(field: Field) -> String {
    match field {
        Field::Payload { base: 2, offset: 0, length: 2 } => "th sport".to_owned(),
        Field::Payload { base: 2, offset: 2, length: 2 } => "th dport".to_owned(),
        Field::Payload { base, offset, length } => {
            let base = match base {
                0 => "ll",
                1 => "nh",
                2 => "th",
                _ => "ih",
            };
            format!("@{base},{},{}", u64::from(offset) * 8, u64::from(length) * 8)
        }
        Field::Meta(key) => match META.iter().find(|(number, _)| *number == key) {
            Some((_, word)) => format!("meta {word}"),
            None => format!("meta key {key}"),
        },
        Field::Ct(key, _) => match CT.iter().find(|(number, _)| *number == key) {
            Some((_, word)) => format!("ct {word}"),
            None => format!("ct key {key}"),
        },
        Field::Fib(result, flags) => format!("fib result {result} flags {flags}"),
    }
}

/// `NFT_META_*`.
const META: [(u32, &str); 16] = [
    (0, "length"),
    (1, "protocol"),
    (2, "priority"),
    (3, "mark"),
    (4, "iif"),
    (5, "oif"),
    (6, "iifname"),
    (7, "oifname"),
    (8, "iiftype"),
    (9, "oiftype"),
    (10, "skuid"),
    (11, "skgid"),
    (15, "nfproto"),
    (16, "l4proto"),
    (19, "pkttype"),
    (23, "cgroup"),
];

/// `NFT_CT_*`.
const CT: [(u32, &str); 10] = [
    (0, "state"),
    (1, "direction"),
    (2, "status"),
    (3, "mark"),
    (5, "expiration"),
    (6, "helper"),
    (8, "saddr"),
    (9, "daddr"),
    (17, "zone"),
    (18, "event"),
];

/// A condition that is not understood.
#[must_use]
pub fn condition(of: Field, negated: bool, wanted: &Wanted) -> String {
    let not = if negated { "!= " } else { "" };
    let hex = |bytes: &[u8]| bytes.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"));
    let of = field(of);
    match wanted {
        Wanted::Equal(None, value) => format!("{of} {not}{}", hex(value)),
        Wanted::Equal(Some(mask), value) => format!("{of} & {} {not}{}", hex(mask), hex(value)),
        Wanted::Between(from, to) => format!("{of} {not}{}-{}", hex(from), hex(to)),
        Wanted::Beyond(op, value) => {
            let op =
                ["==", "!=", "<", "<=", ">", ">="].get(usize::try_from(*op).unwrap_or(9)).unwrap_or(&"?");
            format!("{of} {op} {}", hex(value))
        }
        Wanted::In(set) => format!("{of} {not}lookup @{set}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::RuleId;

    #[test]
    fn rules_read_like_nfts() {
        let ports = Test::DestinationPort(vec!["80".parse().unwrap(), "90-99".parse().unwrap()]);
        let matches = vec![
            Match::is(Test::Protocol(Protocol::Tcp)),
            Match::not(Test::OutInterface(vec!["eth+".parse().unwrap()])),
            Match::is(ports),
            Match::not(Test::ConnState(vec![ConnState::New, ConnState::Related])),
        ];
        let given =
            Rule::new(RuleId::ProxyUid, matches, Verdict::Redirect("15001".parse().unwrap())).comment("why");
        assert_eq!(
            rule(Family::V4, &given),
            "oifname != \"eth*\" tcp dport { 80, 90-99 } ct state & (new | related) == 0 redirect to :15001 comment \"why\""
        );
    }

    #[test]
    fn a_protocol_is_said_with_its_ports() {
        let port = Match::is(Test::DestinationPort(vec!["80".parse().unwrap()]));
        let tcp = Match::is(Test::Protocol(Protocol::Tcp));
        let not_udp = Match::not(Test::Protocol(Protocol::Udp));
        let of = |matches: &[&Match]| {
            let matches = matches.iter().map(|condition| (*condition).clone()).collect();
            conditions(Family::V4, &Rule::new(RuleId::OutboundPort, matches, Verdict::Accept), SHOWN)
        };
        assert_eq!(of(&[&tcp, &port]), ["tcp dport 80"]);
        assert_eq!(of(&[&tcp]), ["meta l4proto tcp"]);
        assert_eq!(of(&[&tcp, &not_udp, &port]), ["meta l4proto != udp", "tcp dport 80"]);
        assert_eq!(of(&[&not_udp, &port]), ["meta l4proto != udp", "th dport 80"]);
        assert_eq!(test(Family::V4, Some(&Protocol::Udp), &port), "udp dport 80");
    }

    #[test]
    fn so_many_members_are_shown() {
        let uids = |count: u32| (1..=count).filter_map(crate::policy::Uid::of).collect::<Vec<_>>();
        let of = |count| test(Family::V4, None, &Match::is(Test::OwnerUid(uids(count))));
        assert_eq!(of(1), "meta skuid 1");
        assert_eq!(of(8), "meta skuid { 1, 2, 3, 4, 5, 6, 7, 8 }");
        assert_eq!(of(9), "meta skuid { 1, 2, 3, 4, 5, 6, 7, 8, ... 9 in all }");
    }

    #[test]
    fn what_is_not_understood_is_told_as_it_is() {
        for (of, text) in [
            (Field::Payload { base: 2, offset: 0, length: 2 }, "th sport"),
            (Field::Payload { base: 2, offset: 2, length: 2 }, "th dport"),
            (Field::Payload { base: 0, offset: 6, length: 6 }, "@ll,48,48"),
            (Field::Payload { base: 1, offset: 9, length: 1 }, "@nh,72,8"),
            (Field::Payload { base: 2, offset: 13, length: 1 }, "@th,104,8"),
            (Field::Payload { base: 3, offset: 1, length: 1 }, "@ih,8,8"),
            (Field::Meta(23), "meta cgroup"),
            (Field::Meta(99), "meta key 99"),
            (Field::Ct(17, None), "ct zone"),
            (Field::Ct(99, None), "ct key 99"),
            (Field::Fib(1, 2), "fib result 1 flags 2"),
        ] {
            assert_eq!(field(of), text);
        }
        let mark = Field::Meta(3);
        for (negated, wanted, text) in [
            (false, Wanted::Equal(None, vec![0, 0x1f]), "meta mark 0x001f"),
            (true, Wanted::Equal(None, vec![1]), "meta mark != 0x01"),
            (false, Wanted::Equal(Some(vec![0xf0]), vec![0x10]), "meta mark & 0xf0 0x10"),
            (true, Wanted::Between(vec![1], vec![2]), "meta mark != 0x01-0x02"),
            (false, Wanted::Beyond(3, vec![9]), "meta mark <= 0x09"),
            (false, Wanted::Beyond(77, vec![9]), "meta mark ? 0x09"),
            (true, Wanted::In("s".to_owned()), "meta mark != lookup @s"),
        ] {
            assert_eq!(condition(mark, negated, &wanted), text);
        }
    }
}
