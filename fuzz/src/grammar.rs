//! The lines that may ever reach `iptables-restore`, written down once more and apart from the renderer: whatever
//! was given as input, a word that this grammar does not know never stands in a rule.

use std::net::IpAddr;

use mesh_init::policy::Family;

/// The chains that are ours to make.
const CHAINS: [&str; 4] = ["ISTIO_INBOUND", "ISTIO_IN_REDIRECT", "ISTIO_OUTPUT", "ISTIO_REDIRECT"];
/// The chains that rules of ours are put into.
const HOOKS: [&str; 2] = ["OUTPUT", "PREROUTING"];

type Check = fn(Family, &str) -> bool;

/// Every word that begins a condition, and what must follow it.
const CONDITIONS: [(&str, Check); 11] = [
    ("-d", network),
    ("-i", |_, word| interface(word)),
    ("-o", |_, word| interface(word)),
    ("-p", |_, word| word == "tcp"),
    ("-m", |_, word| ["tcp", "owner", "addrtype", "comment"].contains(&word)),
    ("--dport", |_, word| ports(word)),
    ("--tcp-flags", |_, word| word == "FIN,SYN,RST,ACK"),
    ("--uid-owner", |_, word| id(word)),
    ("--gid-owner", |_, word| id(word)),
    ("--dst-type", |_, word| word == "LOCAL"),
    ("--comment", |_, word| comment(word)),
];

/// Whether `text` is one transaction of the nat table with nothing but lines of ours.
///
/// # Errors
/// The first line that is not.
pub fn check(family: Family, text: &str) -> Result<(), String> {
    let body = text.strip_prefix("* nat\n").and_then(|text| text.strip_suffix("COMMIT\n"));
    let body = body.ok_or("is not one transaction of the nat table")?;
    match body.split_terminator('\n').find(|line| !is_line(family, line)) {
        None => Ok(()),
        Some(line) => Err(format!("not a line of ours: {line:?}")),
    }
}

fn is_line(family: Family, line: &str) -> bool {
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        ["-N" | "-F" | "-X", chain] => CHAINS.contains(chain),
        ["-A", chain, rule @ ..] => {
            (CHAINS.contains(chain) || HOOKS.contains(chain)) && is_rule(family, rule)
        }
        ["-I", chain, number, rule @ ..] => HOOKS.contains(chain) && *number == "1" && is_rule(family, rule),
        _ => false,
    }
}

fn is_rule(family: Family, words: &[&str]) -> bool {
    match words {
        ["-j", "RETURN"] => true,
        ["-j", "REDIRECT", "--to-ports", number] => port(number),
        ["-j", chain] => CHAINS.contains(chain),
        ["!", rest @ ..] => rest.first() == Some(&"-d") && is_rule(family, rest),
        ["--tcp-flags", "FIN,SYN,RST,ACK", "SYN", rest @ ..] => is_rule(family, rest),
        [option, value, rest @ ..] => {
            let known = CONDITIONS.iter().find(|(name, _)| name == option);
            known.is_some_and(|(_, check)| check(family, value)) && is_rule(family, rest)
        }
        [] | [_] => false,
    }
}

fn network(family: Family, word: &str) -> bool {
    let Some((address, length)) = word.split_once('/') else { return false };
    let (Ok(address), Some(length)) = (address.parse::<IpAddr>(), number(length)) else { return false };
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

fn number(word: &str) -> Option<u32> {
    let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    word.parse().ok().filter(|_| digits && (word == "0" || !word.starts_with('0')))
}

fn id(word: &str) -> bool {
    number(word).is_some_and(|id| id != u32::MAX)
}

fn port(word: &str) -> bool {
    number(word).is_some_and(|port| (1..=65535).contains(&port))
}

fn ports(word: &str) -> bool {
    match word.split_once(':') {
        Some((first, last)) => port(first) && port(last) && number(first) < number(last),
        None => port(word),
    }
}

fn comment(word: &str) -> bool {
    let Some(text) = word.strip_prefix('"').and_then(|word| word.strip_suffix('"')) else { return false };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-./:".contains(c);
    (text.starts_with("istio/") || text.starts_with("mesh-init:")) && text.chars().all(plain)
}
