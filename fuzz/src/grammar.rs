//! The lines that may ever reach `iptables-restore`, written down once more and apart from the renderer: whatever
//! was given as input, a word that this grammar does not know never stands in a rule.

use std::net::IpAddr;

use mesh_init::policy::Family;

/// The chains that are ours to make, by table.
const CHAINS: [(&str, &[&str]); 3] = [
    ("raw", &["ISTIO_INBOUND", "ISTIO_OUTPUT_DNS"]),
    ("mangle", &["ISTIO_DIVERT", "ISTIO_DROP", "ISTIO_INBOUND", "ISTIO_TPROXY"]),
    ("nat", &["ISTIO_INBOUND", "ISTIO_IN_REDIRECT", "ISTIO_OUTPUT", "ISTIO_OUTPUT_DNS", "ISTIO_REDIRECT"]),
];
/// The chains that rules of ours are put into.
const HOOKS: [&str; 2] = ["OUTPUT", "PREROUTING"];

/// How a line is spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// As `iptables-save` prints it: every match of an extension after its `-m`, marks in hexadecimal.
    Saved,
    /// As istio-iptables writes it: the matches of a protocol without `-m`, marks in decimal.
    Upstream,
}

type Check = fn(&Line<'_>, &str) -> bool;

/// A condition.
struct Condition {
    option: &'static str,
    /// The extensions that have it; none if it is iptables' own.
    modules: &'static [&'static str],
    /// Whether `!` may stand before it.
    negated: bool,
    value: Check,
}

const fn condition(
    option: &'static str,
    modules: &'static [&'static str],
    negated: bool,
    value: Check,
) -> Condition {
    Condition { option, modules, negated, value }
}

/// Every word that begins a condition, and what must follow it.
const CONDITIONS: [Condition; 17] = [
    condition("-s", &[], false, |line, word| network(line.family, word)),
    condition("-d", &[], true, |line, word| network(line.family, word)),
    condition("-i", &[], false, |_, word| interface(word)),
    condition("-o", &[], false, |_, word| interface(word)),
    condition("-p", &[], false, |_, word| ["tcp", "udp"].contains(&word)),
    condition("--sport", &["tcp", "udp"], false, |_, word| port(word)),
    condition("--dport", &["tcp", "udp"], true, |_, word| ports(word)),
    condition("--dports", &["multiport"], true, |_, word| {
        word.split(',').count() == 2 && word.split(',').all(port)
    }),
    condition("--tcp-flags", &["tcp"], true, |_, word| word == "FIN,SYN,RST,ACK"),
    condition("--uid-owner", &["owner"], true, |_, word| id(word)),
    condition("--gid-owner", &["owner"], true, |_, word| id(word)),
    condition("--dst-type", &["addrtype"], false, |_, word| word == "LOCAL"),
    condition("--ctstate", &["conntrack"], false, |_, word| {
        ["INVALID", "RELATED,ESTABLISHED"].contains(&word)
    }),
    condition("--ctdir", &["conntrack"], false, |_, word| word == "REPLY"),
    condition("--mark", &["mark"], true, |line, word| line.mark(word)),
    condition("--mark", &["connmark"], false, |line, word| line.mark(word)),
    condition("--comment", &["comment"], false, |_, word| comment(word)),
];

/// Whether `text` is one transaction of one table with nothing but lines of ours.
///
/// # Errors
/// The first line that is not.
pub fn check(family: Family, text: &str) -> Result<(), String> {
    let (first, rest) = text.split_once('\n').ok_or("has no line")?;
    let table = first.strip_prefix("* ").ok_or("begins with no table")?;
    let body = rest.strip_suffix("COMMIT\n").ok_or("ends without COMMIT")?;
    match body.split_terminator('\n').find(|line| !is_line(Spelling::Saved, family, table, line)) {
        None => Ok(()),
        Some(line) => Err(format!("not a line of ours in table {table}: {line:?}")),
    }
}

/// Whether `text` is what a dry run of istio-iptables records: the commands, and between them the texts of IPv4 and,
/// with `v6`, of IPv6, each with its tables in the order of the alphabet and its chains before its rules.
///
/// # Errors
/// The first line that is not.
pub fn check_transcript(v6: bool, text: &str) -> Result<(), String> {
    let saves = if v6 { "iptables-save\nip6tables-save\n" } else { "iptables-save\n" };
    let body =
        text.strip_prefix("iptables-save\nip6tables-save\n").ok_or("does not begin with both saves")?;
    let body = body.strip_suffix(saves).ok_or("does not end with the saves of its families")?;
    let mut seen: Vec<(Family, &str)> = Vec::new();
    let mut made: Option<(Family, &str, Vec<&str>)> = None;
    let mut filling = false;
    for line in body.split_terminator('\n') {
        let bad = || format!("not a line of istio-iptables: {line:?} after {seen:?}");
        match (line.strip_prefix("* "), made.as_mut()) {
            (Some(table), None) => {
                let family = match seen.last() {
                    None => Family::V4,
                    Some((family, last)) if *last < table => *family,
                    Some((Family::V4, _)) if v6 => Family::V6,
                    Some(_) => return Err(bad()),
                };
                made = Some((family, table, Vec::new()));
                filling = false;
            }
            (None, Some((family, table, _))) if line == "COMMIT" => {
                seen.push((*family, *table));
                made = None;
            }
            (None, Some((family, table, chains))) => {
                let chain = line.split(' ').nth(1).unwrap_or_default();
                let declared = line.starts_with("-N ");
                let known = HOOKS.contains(&chain) || chains.contains(&chain);
                if known == declared
                    || filling && declared
                    || !is_line(Spelling::Upstream, *family, table, line)
                {
                    return Err(bad());
                }
                if declared {
                    chains.push(chain);
                }
                filling |= !declared;
            }
            (_, _) => return Err(bad()),
        }
    }
    let nat = |family| seen.contains(&(family, "nat"));
    let whole = made.is_none() && nat(Family::V4) && nat(Family::V6) == v6;
    whole.then_some(()).ok_or_else(|| format!("the nat tables are not {seen:?}"))
}

fn is_line(spelling: Spelling, family: Family, table: &str, line: &str) -> bool {
    let Some((_, chains)) = CHAINS.iter().find(|(name, _)| *name == table) else { return false };
    let words: Vec<&str> = line.split(' ').collect();
    let rule = |chain: &str, words: &[&str]| {
        let line = Line { spelling, family, table, chain, chains };
        line.is_rule(words)
    };
    match words.as_slice() {
        ["-N", chain] => chains.contains(chain),
        ["-F" | "-X", chain] => spelling == Spelling::Saved && chains.contains(chain),
        ["-A", chain, words @ ..] => (chains.contains(chain) || HOOKS.contains(chain)) && rule(chain, words),
        ["-I", chain, number, words @ ..] => {
            // istio-iptables inserts into a chain of its own, too.
            let own = spelling == Spelling::Upstream && table == "mangle" && *chain == "ISTIO_INBOUND";
            (own || HOOKS.contains(chain))
                && number_of(number).is_some_and(|number| number > 0)
                && rule(chain, words)
        }
        _ => false,
    }
}

/// Where a rule stands.
struct Line<'a> {
    spelling: Spelling,
    family: Family,
    table: &'a str,
    chain: &'a str,
    chains: &'a [&'a str],
}

impl Line<'_> {
    fn is_rule(&self, mut words: &[&str]) -> bool {
        // What was named so far: the protocol, and the extension whose matches may follow.
        let (mut protocol, mut module) = ("", "");
        loop {
            let (negated, option, rest) = match words {
                ["-j", target @ ..] => return self.is_target(protocol, target),
                ["-m", name, rest @ ..] => {
                    let known = CONDITIONS.iter().any(|condition| condition.modules.contains(name));
                    let of_protocol = ["tcp", "udp"].contains(name);
                    if !known || of_protocol && (self.spelling == Spelling::Upstream || protocol != *name) {
                        return false;
                    }
                    (module, words) = (name, rest);
                    continue;
                }
                ["!", option, rest @ ..] => (true, *option, rest),
                [option, rest @ ..] => (false, *option, rest),
                [] => return false,
            };
            let known = CONDITIONS.iter().find(|condition| {
                let of_protocol =
                    self.spelling == Spelling::Upstream && condition.modules.contains(&protocol);
                let loaded = condition.modules.contains(&module) || of_protocol;
                condition.option == option && (condition.modules.is_empty() || loaded)
            });
            let (Some(condition), [value, rest @ ..]) = (known, rest) else { return false };
            if negated && !condition.negated || !(condition.value)(self, value) {
                return false;
            }
            words = match rest {
                ["SYN", rest @ ..] if option == "--tcp-flags" => rest,
                _ if option == "--tcp-flags" => return false,
                rest => rest,
            };
            if option == "-p" {
                protocol = value;
            }
        }
    }

    fn is_target(&self, protocol: &str, words: &[&str]) -> bool {
        let upstream = self.spelling == Spelling::Upstream;
        let whole = |word: &str| word.strip_suffix("/0xffffffff").is_some_and(|mark| self.mark(mark));
        let tcp = protocol == "tcp";
        match (self.table, words) {
            ("nat" | "mangle", ["RETURN"]) => true,
            ("mangle", ["ACCEPT"]) => self.chain == "ISTIO_DIVERT",
            ("mangle", ["DROP"]) => self.chain == "ISTIO_DROP",
            // Upstream has two spellings.
            ("nat", ["REDIRECT", "--to-port", number]) => upstream && protocol == "udp" && port(number),
            ("nat", ["REDIRECT", "--to-ports", number]) => {
                (tcp || protocol == "udp" && !upstream) && port(number)
            }
            ("mangle", ["TPROXY", "--on-port", number, "--on-ip", any, "--tproxy-mark", mark]) => {
                let here = if self.family == Family::V4 { "0.0.0.0" } else { "::" };
                !upstream && tcp && port(number) && *any == here && whole(mark)
            }
            ("mangle", ["TPROXY", "--tproxy-mark", mark, "--on-port", number]) => {
                upstream && tcp && port(number) && whole(mark)
            }
            ("mangle", ["MARK", "--set-xmark", mark]) => !upstream && whole(mark),
            ("mangle", ["MARK", "--set-mark", mark]) => upstream && self.mark(mark),
            ("mangle", ["CONNMARK", "--save-mark" | "--restore-mark", rest @ ..]) => match rest {
                ["--nfmask", "0xffffffff", "--ctmask", "0xffffffff"] => !upstream,
                rest => upstream && rest.is_empty(),
            },
            ("raw", ["CT", "--zone", zone]) => ["1", "2"].contains(zone),
            (_, [chain]) => self.chains.contains(chain),
            (_, _) => false,
        }
    }

    /// A whole mark that is not 0, as the spelling writes it.
    fn mark(&self, word: &str) -> bool {
        match self.spelling {
            Spelling::Upstream => number_of(word).is_some_and(|mark| mark != 0),
            Spelling::Saved => word.strip_prefix("0x").is_some_and(|digits| {
                let hexadecimal = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
                (1..=8).contains(&digits.len()) && !digits.starts_with('0') && digits.chars().all(hexadecimal)
            }),
        }
    }
}

fn network(family: Family, word: &str) -> bool {
    let Some((address, length)) = word.split_once('/') else { return false };
    let (Ok(address), Some(length)) = (address.parse::<IpAddr>(), number_of(length)) else { return false };
    match family {
        Family::V4 => address.is_ipv4() && length <= 32,
        Family::V6 => address.is_ipv6() && length <= 128,
    }
}

fn interface(word: &str) -> bool {
    let name = word.strip_suffix('+').unwrap_or(word);
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-@".contains(c);
    !name.is_empty() && word.len() <= 15 && !name.starts_with(['-', '.', '@']) && name.chars().all(plain)
}

fn number_of(word: &str) -> Option<u32> {
    let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    word.parse().ok().filter(|_| digits && (word == "0" || !word.starts_with('0')))
}

fn id(word: &str) -> bool {
    number_of(word).is_some_and(|id| id != u32::MAX)
}

fn port(word: &str) -> bool {
    number_of(word).is_some_and(|port| (1..=65535).contains(&port))
}

fn ports(word: &str) -> bool {
    match word.split_once(':') {
        Some((first, last)) => port(first) && port(last) && number_of(first) < number_of(last),
        None => port(word),
    }
}

fn comment(word: &str) -> bool {
    let Some(text) = word.strip_prefix('"').and_then(|word| word.strip_suffix('"')) else { return false };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-./:".contains(c);
    (text.starts_with("istio/") || text.starts_with("mesh-init:")) && text.chars().all(plain)
}
