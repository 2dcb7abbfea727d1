//! `iptables-save` text to rules. Anything printed that we do not model is kept as opaque text, so that a
//! foreign rule is never mistaken for one that we understand.

use std::collections::BTreeMap;

use super::render::is_everything;
use crate::policy::{Cidr, Family, Gid, IfName, Mark, Port, PortRange, Uid};
use crate::rules::{
    Base, Chain, ConnState, Hook, Match, Place, Protocol, Rule, RuleSet, Seen, Table, Test, Verdict,
};

/// What `iptables-save` printed that is no `iptables-save` text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Counted from 1.
    pub line: usize,
    /// The line.
    pub text: String,
}

/// Reads what `iptables-save`, with or without `-c`, prints for `family`.
///
/// # Errors
/// The first line that does not belong to the format, or a table whose end is missing.
pub fn parse(family: Family, text: &str) -> Result<RuleSet, Unreadable> {
    let mut rules = RuleSet::default();
    let mut table: Option<Table> = None;
    // Where the table's chains stand in `rules`, by name.
    let mut chains: BTreeMap<String, usize> = BTreeMap::new();
    let mut last = 0;
    for (number, line) in lines(text) {
        last = number;
        let bad = || Unreadable { line: number, text: line.to_owned() };
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('*') {
            table = Some(Table::from(name.trim_ascii()));
            chains.clear();
        } else if line == "COMMIT" {
            table = None;
        } else if let Some(declared) = line.strip_prefix(':') {
            let table = table.clone().ok_or_else(bad)?;
            let mut words = declared.split_ascii_whitespace();
            let (name, policy) = words.next().zip(words.next()).ok_or_else(bad)?;
            let base = base(&table, name, policy);
            chains.insert(name.to_owned(), rules.chains.len());
            rules.chains.push(Chain { family, table, name: name.to_owned(), base, rules: Vec::new() });
        } else {
            let (counters, rest) = counters(line).ok_or_else(bad)?;
            let rest = rest.strip_prefix("-A ").ok_or_else(bad)?;
            let (name, spec) = rest.split_once(' ').unwrap_or((rest, ""));
            let rule = rule(spec, counters, |target| chains.contains_key(target)).ok_or_else(bad)?;
            let chain = chains.get(name).and_then(|index| rules.chains.get_mut(*index)).ok_or_else(bad)?;
            chain.rules.push(rule);
        }
    }
    match table {
        Some(table) => Err(Unreadable { line: last, text: format!("the end of table {table} is missing") }),
        None => Ok(rules),
    }
}

/// The lines of `text`, each with its number; a quoted comment may hold newlines, which do not end a line.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = text;
    let mut number = 0;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (mut quoted, mut escaped, mut newlines) = (false, false, 1);
        let comment = rest.starts_with('#');
        let end = rest.find(|c: char| {
            match c {
                '\n' if !quoted => return true,
                '\n' => newlines += 1,
                '"' if !escaped && !comment => quoted = !quoted,
                _ => {}
            }
            escaped = quoted && c == '\\' && !escaped;
            false
        });
        let (line, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after.strip_prefix('\n').unwrap_or(after);
        let first = number + 1;
        number += newlines;
        Some((first, line.trim_ascii()))
    })
}

fn base(table: &Table, name: &str, policy: &str) -> Option<Base> {
    let hook = Hook::of_builtin(name).filter(|_| policy != "-")?;
    Some(Base { accepts: policy == "ACCEPT", ..Base::builtin(table, hook) })
}

/// `[packets:bytes] ` in front of a line, as `-c` prints it.
fn counters(line: &str) -> Option<((u64, u64), &str)> {
    let Some(rest) = line.strip_prefix('[') else { return Some(((0, 0), line)) };
    let (counted, rest) = rest.split_once(']')?;
    let (packets, bytes) = counted.split_once(':')?;
    Some(((packets.parse().ok()?, bytes.parse().ok()?), rest.trim_start()))
}

/// The words of a line; quotes and backslashes as libxtables writes them. `None` if a quote does not end.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().push(chars.next()?),
            c if c.is_ascii_whitespace() && !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    (!quoted).then_some(words)
}

fn rule(spec: &str, (packets, bytes): (u64, u64), is_chain: impl Fn(&str) -> bool) -> Option<Rule> {
    let words = words(spec)?;
    let mut reader =
        Reader { words: &words, at: 0, matches: Vec::new(), comment: None, verdict: Verdict::Continue };
    reader.read(is_chain);
    let Reader { matches, comment, verdict, .. } = reader;
    let seen = Some(Seen { spec: spec.to_owned(), packets, bytes });
    Some(Rule { id: None, matches, verdict, comment, place: Place::Last, seen })
}

struct Reader<'a> {
    words: &'a [String],
    at: usize,
    matches: Vec<Match>,
    comment: Option<String>,
    verdict: Verdict,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.at)?;
        self.at += 1;
        Some(word)
    }

    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.at).map(String::as_str)
    }

    fn read(&mut self, is_chain: impl Fn(&str) -> bool) {
        let mut module = String::new();
        while let Some(mut word) = self.next() {
            let from = self.at - 1;
            let negated = word == "!";
            if negated {
                word = self.next().unwrap_or_default();
            }
            match word {
                "-j" | "-g" => {
                    let target = self.next().unwrap_or_default();
                    self.verdict = self.target(word, target, &is_chain);
                    return;
                }
                "-m" => {
                    module = self.next().unwrap_or_default().to_owned();
                    if !MODELLED.contains(&module.as_str()) {
                        self.opaque(from);
                    }
                }
                "--comment" if module == "comment" => self.comment = self.next().map(str::to_owned),
                option => match self.test(&module, option) {
                    // As a set of which one is enough, iptables has several lines; this is one.
                    Some(Test::DestinationPort(ranges)) if ranges.len() > 1 && !negated => self.opaque(from),
                    // A whole family is no condition, and none is rendered for it.
                    Some(test) if !negated && is_everything(&test) => {}
                    Some(test) => self.matches.push(Match { negated, test }),
                    None => self.opaque(from),
                },
            }
        }
    }

    /// Keeps the words from `from` up to the next module or target as they are.
    fn opaque(&mut self, from: usize) {
        while self.peek().is_some_and(|word| !matches!(word, "-m" | "-j" | "-g")) {
            self.at += 1;
        }
        let text = self.words.get(from..self.at).unwrap_or_default().join(" ");
        self.matches.push(Match::is(Test::Opaque(text)));
    }

    /// Reads an option with its value; on `None` nothing but the option has been consumed.
    fn test(&mut self, module: &str, option: &str) -> Option<Test> {
        let before = self.at;
        let value = self.next().unwrap_or_default();
        let test = match (option, module) {
            ("-s", _) => value.parse::<Cidr>().ok().map(|net| Test::Source(vec![net])),
            ("-d", _) => value.parse::<Cidr>().ok().map(|net| Test::Destination(vec![net])),
            ("-i", _) => value.parse::<IfName>().ok().map(|name| Test::InInterface(vec![name])),
            ("-o", _) => value.parse::<IfName>().ok().map(|name| Test::OutInterface(vec![name])),
            ("-p", _) => Some(Test::Protocol(match value {
                "tcp" | "6" => Protocol::Tcp,
                "udp" | "17" => Protocol::Udp,
                other => Protocol::Other(other.to_owned()),
            })),
            ("--sport", "tcp" | "udp") => range(value).map(|range| Test::SourcePort(vec![range])),
            ("--dport", "tcp" | "udp") => range(value).map(|range| Test::DestinationPort(vec![range])),
            ("--tcp-flags", "tcp") => {
                let set = self.next();
                (value == "FIN,SYN,RST,ACK" && set == Some("SYN")).then_some(Test::FirstPacket)
            }
            ("--uid-owner", "owner") => Uid::parse(value).map(|uid| Test::OwnerUid(vec![uid])),
            ("--gid-owner", "owner") => Gid::parse(value).map(|gid| Test::OwnerGid(vec![gid])),
            ("--dports", "multiport") => {
                value.split(',').map(range).collect::<Option<_>>().map(Test::DestinationPort)
            }
            ("--ctstate", "conntrack") => states(value).map(Test::ConnState),
            ("--ctdir", "conntrack") => (value == "REPLY").then_some(Test::Answer),
            ("--mark", "mark") => value.parse().ok().map(Test::Mark),
            ("--mark", "connmark") => value.parse().ok().map(Test::Connmark),
            ("--dst-type", "addrtype") => (value == "LOCAL").then_some(Test::DestinationIsLocal),
            (_, _) => None,
        };
        if test.is_none() {
            self.at = before;
        }
        test
    }

    fn target(&mut self, option: &str, target: &str, is_chain: impl Fn(&str) -> bool) -> Verdict {
        let rest: Vec<&str> = self.words.iter().skip(self.at).map(String::as_str).collect();
        let opaque = || Verdict::Opaque([&[option, target], rest.as_slice()].concat().join(" "));
        let plain = rest.is_empty();
        match (option, target, rest.as_slice()) {
            ("-j", "ACCEPT", []) => Verdict::Accept,
            ("-j", "DROP", []) => Verdict::Drop,
            ("-j", "RETURN", []) => Verdict::Return,
            ("-j", "REDIRECT", ["--to-ports", port]) => match port.parse::<Port>() {
                Ok(port) => Verdict::Redirect(port),
                Err(_) => opaque(),
            },
            ("-j", "DNAT", ["--to-destination", to]) => to.parse().map_or_else(|_| opaque(), Verdict::Dnat),
            ("-j", "TPROXY", ["--on-port", port, "--on-ip", "0.0.0.0" | "::", "--tproxy-mark", mark]) => {
                let mark = mark.strip_suffix("/0xffffffff").and_then(|mark| mark.parse::<Mark>().ok());
                match (port.parse::<Port>(), mark) {
                    (Ok(port), Some(mark)) => Verdict::Tproxy { port, mark },
                    (_, _) => opaque(),
                }
            }
            ("-j", "MARK", ["--set-xmark", mark]) => {
                match mark.strip_suffix("/0xffffffff").and_then(|mark| mark.parse().ok()) {
                    Some(mark) => Verdict::SetMark(mark),
                    None => opaque(),
                }
            }
            ("-j", "CONNMARK", ["--save-mark", "--nfmask", "0xffffffff", "--ctmask", "0xffffffff"]) => {
                Verdict::SaveMark
            }
            ("-j", "CONNMARK", ["--restore-mark", "--nfmask", "0xffffffff", "--ctmask", "0xffffffff"]) => {
                Verdict::RestoreMark
            }
            ("-j", "CT", ["--zone", zone]) => match zone.parse() {
                Ok(zone) => Verdict::Zone(zone),
                Err(_) => opaque(),
            },
            ("-j", chain, _) if plain && is_chain(chain) => Verdict::Jump(chain.to_owned()),
            ("-g", chain, _) if plain && is_chain(chain) => Verdict::Goto(chain.to_owned()),
            (_, _, _) => opaque(),
        }
    }
}

/// The match modules whose options are modelled, some of them in part.
const MODELLED: &[&str] =
    &["tcp", "udp", "owner", "addrtype", "comment", "multiport", "conntrack", "mark", "connmark"];

fn states(text: &str) -> Option<Vec<ConnState>> {
    text.split(',').map(|word| ConnState::ALL.into_iter().find(|state| state.as_str() == word)).collect()
}

fn range(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    let (first, last) = (first.parse::<Port>().ok()?, last.parse::<Port>().ok()?);
    (first <= last).then_some(PortRange { first, last })
}

#[cfg(test)]
mod tests {
    use super::super::render;
    use super::*;

    #[test]
    fn what_save_prints_is_rendered_back_word_for_word() {
        let lines = [
            r#"! -d 127.0.0.1/32 -o lo -m comment --comment "istio/redirect-implicit-loopback" -j ISTIO_REDIRECT"#,
            "-m owner --uid-owner 1337 -j RETURN",
            "-m owner ! --gid-owner 7 -j RETURN",
            "-p tcp -m tcp --dport 8000:8080 --tcp-flags FIN,SYN,RST,ACK SYN -m addrtype --dst-type LOCAL -j ISTIO_REDIRECT",
            "-p tcp -j REDIRECT --to-ports 15001",
            "-s 10.0.0.0/8 -i eth+ -p udp -m udp --sport 53 -g ISTIO_REDIRECT",
            "-m conntrack --ctstate INVALID -j DROP",
            "-p tcp -m tcp --dport 80 -m conntrack --ctstate RELATED,ESTABLISHED -j ISTIO_REDIRECT",
            "! -d 127.0.0.1/32 -o lo -p tcp -m multiport ! --dports 53,15008 -m owner --uid-owner 1337 -j ISTIO_REDIRECT",
            "-m owner ! --gid-owner 1 -m owner ! --gid-owner 2 -j RETURN",
            "-p tcp -m mark --mark 0x539 -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
            "-p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
            "-i lo -p tcp -m mark ! --mark 0x53a -j MARK --set-xmark 0x539/0xffffffff",
            "! -d 127.0.0.1/32 -p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff",
            "-p udp -m udp --dport 53 -m owner --uid-owner 1337 -j CT --zone 1",
            r#"-m comment --comment "quoted \"word\" \\ end" -j ACCEPT"#,
        ];
        let mut text = "*nat\n:OUTPUT ACCEPT [1:2]\n:ISTIO_REDIRECT - [0:0]\n".to_owned();
        for line in lines {
            text.push_str(&format!("[3:4] -A OUTPUT {line}\n"));
        }
        let rules = parse(Family::V4, &(text + "COMMIT\n")).unwrap();
        let output = &rules.chains[0];
        assert_eq!(
            output.base,
            Some(Base { hook: Hook::Output, kind: crate::rules::Kind::Nat, priority: -100, accepts: true })
        );
        for (rule, line) in output.rules.iter().zip(lines) {
            assert_eq!(render::specs(rule, Family::V4), [line]);
            let opaque = rule.matches.iter().any(|m| matches!(m.test, Test::Opaque(_)));
            assert!(
                !opaque && !matches!(rule.verdict, Verdict::Opaque(_)),
                "{line} is not understood: {rule:?}"
            );
            assert_eq!(
                rule.seen.as_ref().map(|seen| (seen.spec.as_str(), seen.packets, seen.bytes)),
                Some((line, 3, 4))
            );
        }
        assert_eq!(output.rules.len(), lines.len());
    }

    #[test]
    fn a_comment_may_hold_a_newline() {
        let text = "*nat\n:O - [0:0]\n-A O -m comment --comment \"one\n-A O \\\" two\" -j ACCEPT\n# it\"s\n-A O -j DROP\nCOMMIT\n";
        let rules = parse(Family::V4, text).unwrap();
        assert_eq!(rules.chains[0].rules.len(), 2);
        assert_eq!(rules.chains[0].rules[0].comment.as_deref(), Some("one\n-A O \" two"));
        assert_eq!(rules.chains[0].rules[1].verdict, Verdict::Drop);
    }

    #[test]
    fn what_is_not_modelled_stays_opaque() {
        for line in [
            "-d 127.0.0.11/32 -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.11",
            "-p tcp -m conntrack --ctstate RELATED,SNAT -j ACCEPT",
            "-p tcp -m mark --mark 0x1/0xff -j ACCEPT",
            "-j MARK --set-xmark 0x1/0xff",
            "-j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff",
            "-j CT --zone-orig 1",
            "-m owner --uid-owner 1000-1999 -j RETURN",
            "-m owner --uid-owner 0 --suppl-groups -j RETURN",
            "-d 10.0.0.0/255.0.0.255 -j RETURN",
            "-p tcp -m multiport --dports 53,15008 -j RETURN",
            "-p tcp -j REDIRECT --to-ports 1-2",
            "-j UNKNOWN",
        ] {
            let rule = rule(line, (0, 0), |_| false).unwrap();
            let opaque = rule.matches.iter().any(|m| matches!(m.test, Test::Opaque(_)));
            assert!(opaque || matches!(rule.verdict, Verdict::Opaque(_)), "{line}: {rule:?}");
        }
    }

    #[test]
    fn text_of_another_kind_is_refused() {
        for text in [
            ":X - [0:0]",
            "-A OUTPUT -j ACCEPT",
            "*nat\n-A NOWHERE -j ACCEPT",
            "iptables: error",
            "*nat\n:O - [0:0]\n-A O \"x",
        ] {
            assert!(parse(Family::V4, text).is_err(), "{text}");
        }
    }
}
