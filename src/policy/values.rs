//! Reading values out of [`Raw`]: one small parser per shape, each of which reports every fault it meets.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::ports::NotAPort;
use super::{Cidr, Facts, Family, Gid, IfName, Mark, Port, PortRange, PortSet, Uid};
use crate::input::fault::quote;
use crate::input::istio::parse_duration;
use crate::input::options::{Key, option};
use crate::input::{Faults, Raw, Sourced};

const PORT_REMEDY: &str = "give a number from 1 to 65535";

/// The values given, the machine's answers, and the faults met so far.
pub(super) struct Values<'a> {
    pub(super) raw: &'a Raw,
    pub(super) facts: &'a Facts,
    pub(super) faults: &'a mut Faults,
    /// istio-iptables is meant to the letter: what it takes is taken, repetitions are kept, and what makes no sense
    /// but loads is a warning.
    pub(super) letter: bool,
    /// What is accepted but worth saying.
    pub(super) warnings: Vec<String>,
}

/// A list that may be `*`.
pub(super) enum Listed<T> {
    Absent,
    All,
    These(Vec<T>),
}

impl<'a> Values<'a> {
    /// A fault, unless istio-iptables is meant to the letter and would take it: then a warning.
    pub(super) fn nonsense(&mut self, given: &Sourced, part: &str, problem: &str, remedy: &str) {
        match self.letter {
            true => self.warnings.push(format!("{}: {} {problem}", given.origin, quote(part))),
            false => self.faults.value(given, part, problem, remedy),
        }
    }

    /// The one text given for `key`.
    pub(super) fn one(&mut self, key: Key) -> Option<&'a Sourced> {
        let given = self.raw.get(key)?;
        let first = given.first()?;
        if let Some(second) = given.get(1) {
            let long = option(key).long;
            self.faults.value(second, &second.text, "is a second value", format!("give --{long} once"));
        }
        if first.text.is_empty() {
            self.faults.source(
                first.origin.clone(),
                "is empty",
                "give a value, or leave it out for the default",
            );
            return None;
        }
        Some(first)
    }

    /// Whether `key` was given, and only as nothing.
    pub(super) fn given_empty(&self, key: Key) -> bool {
        self.raw.get(key).is_some_and(|given| given.iter().all(|given| given.text.trim().is_empty()))
    }

    fn parse<T>(
        &mut self,
        key: Key,
        default: T,
        what: &str,
        remedy: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> T {
        let Some(given) = self.one(key) else { return default };
        match parse(given.text.trim()) {
            Some(value) => value,
            None => {
                self.faults.value(given, &given.text, format!("is not {what}"), remedy);
                default
            }
        }
    }

    pub(super) fn port(&mut self, key: Key, default: Port) -> Port {
        self.parse(key, default, "a port", PORT_REMEDY, |text| text.parse().ok())
    }

    pub(super) fn number(&mut self, key: Key, default: u32, max: u32) -> u32 {
        let remedy = format!("give a number from 0 to {max}");
        self.parse(key, default, "such a number", &remedy, |text| {
            let plain = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|number| plain && *number <= max)
        })
    }

    pub(super) fn mark(&mut self, key: Key, default: Mark) -> Mark {
        let remedy = "give a number from 1 to 4294967295, decimal or 0x…";
        self.parse(key, default, "a packet mark", remedy, |text| {
            text.parse().ok().filter(|mark: &Mark| mark.0 != 0)
        })
    }

    pub(super) fn switch(&mut self, key: Key) -> bool {
        self.parse(key, false, "true or false", "give true or false", |text| match text {
            "true" | "1" | "t" | "T" | "TRUE" | "True" => Some(true),
            "false" | "0" | "f" | "F" | "FALSE" | "False" => Some(false),
            _ => None,
        })
    }

    /// One of a few words, in any case.
    pub(super) fn word<T: Copy>(&mut self, key: Key, default: T, words: &[(&str, T)]) -> T {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let remedy = format!("give {}", names.join(", "));
        self.parse(key, default, "one of its values", &remedy, |text| {
            words.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, value)| *value)
        })
    }

    /// The items of a list: texts joined, split at commas, blanks around items ignored.
    fn items(&mut self, key: Key) -> Option<Vec<(&'a Sourced, &'a str)>> {
        let mut items = Vec::new();
        for given in self.raw.get(key)? {
            if given.text.trim().is_empty() {
                continue;
            }
            let before = items.len();
            let mut count = 0;
            for item in given.text.split(',').map(str::trim) {
                count += 1;
                if !item.is_empty() {
                    items.push((given, item));
                }
            }
            if items.len() - before < count {
                self.faults.value(given, &given.text, "has an empty item", "take the extra comma out");
            }
        }
        Some(items)
    }

    /// A list, or `*` standing alone.
    fn listed<T>(
        &mut self,
        key: Key,
        wildcard: bool,
        mut parse: impl FnMut(&mut Self, &'a Sourced, &'a str) -> Option<T>,
    ) -> Listed<T> {
        let Some(items) = self.items(key) else { return Listed::Absent };
        let many = items.len() > 1;
        let (stars, items): (Vec<_>, Vec<_>) = items.into_iter().partition(|(_, item)| *item == "*");
        let these = items.into_iter().filter_map(|(given, item)| parse(self, given, item)).collect();
        let Some((given, star)) = stars.first() else { return Listed::These(these) };
        if !wildcard {
            self.faults.value(given, star, "cannot be everything here", "name the items");
        } else if many {
            self.faults.value(given, star, "stands beside other items", "give '*' alone, or only the items");
        }
        Listed::All
    }

    pub(super) fn port_list(&mut self, key: Key, wildcard: bool) -> Listed<PortRange> {
        self.listed(key, wildcard, |this, given, item| {
            let problem = match item.parse() {
                Ok(range) => return Some(range),
                Err(NotAPort::Number) => "is not a port or a range of ports",
                Err(NotAPort::Backwards) => "is a range that ends before it begins",
            };
            this.faults.value(given, item, problem, format!("{PORT_REMEDY}, or a range a-b"));
            None
        })
    }

    pub(super) fn ports(&mut self, key: Key) -> PortSet {
        match self.port_list(key, false) {
            Listed::These(ranges) => self.port_set(ranges),
            Listed::All | Listed::Absent => PortSet::default(),
        }
    }

    pub(super) fn port_set(&self, ranges: Vec<PortRange>) -> PortSet {
        if self.letter { PortSet::with_repetitions(ranges) } else { ranges.into_iter().collect() }
    }

    /// Takes repeated items once, unless the letter counts.
    fn once<T: Ord + Clone>(&self, items: Vec<T>) -> Vec<T> {
        if self.letter { items } else { unique(items) }
    }

    pub(super) fn cidr_list(&mut self, key: Key, wildcard: bool) -> Listed<Cidr> {
        let list = self.listed(key, wildcard, |this, given, item| {
            let Ok(cidr) = item.parse::<Cidr>() else {
                this.faults.value(
                    given,
                    item,
                    "is not a network",
                    "give an address/prefix such as 10.0.0.0/8",
                );
                return None;
            };
            if cidr.is_mapped_ipv4() {
                this.nonsense(
                    given,
                    item,
                    "is IPv4 written as IPv6, which no packet carries",
                    "write it as IPv4",
                );
            }
            if Cidr::was_truncated(item) {
                this.warnings.push(format!("{}: {item} is taken as the network {cidr}", given.origin));
            }
            Some(cidr)
        });
        match list {
            Listed::These(cidrs) => Listed::These(self.once(cidrs)),
            other @ (Listed::All | Listed::Absent) => other,
        }
    }

    /// A time from a second to a day, as `60s`, `5m` or plain seconds.
    pub(super) fn duration(&mut self, key: Key) -> Option<Duration> {
        let remedy = "give a time from 1s to 24h, such as 60s or 5m";
        self.parse(key, None, "such a time", remedy, |text| {
            let plain = text.parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()));
            let time = plain.or_else(|| parse_duration(text))?;
            let sensible = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
            sensible.contains(&time).then_some(Some(time))
        })
    }

    /// The IPv4 loopback network, 127.0.0.0/8 or a part of it.
    pub(super) fn loopback(&mut self) -> Cidr {
        let remedy = "give a part of 127.0.0.0/8 such as 127.0.0.1/32";
        self.parse(Key::LoopbackCidr, Family::V4.loopback(), "a loopback network", remedy, |text| {
            let cidr = text.parse::<Cidr>().ok().filter(|_| text.contains('/'))?;
            let inside = cidr.family() == Family::V4 && cidr.begins_at_loopback() && cidr.prefix_len() >= 8;
            inside.then_some(cidr)
        })
    }

    pub(super) fn interfaces(&mut self, key: Key) -> Vec<IfName> {
        let list = self.listed(key, false, |this, given, item| {
            let name = item.parse().ok();
            if name.is_none() {
                let remedy = "give a name of at most 15 letters, digits and _ . - @, with + at its end for all that begin so";
                this.faults.value(given, item, "is not an interface name", remedy);
            }
            name
        });
        self.once(these(list))
    }

    pub(super) fn addresses(&mut self, key: Key) -> Option<Vec<IpAddr>> {
        let list = self.listed(key, false, |this, given, item| {
            let address = item.parse().ok();
            if address.is_none() {
                this.faults.value(given, item, "is not an address", "give an IPv4 or IPv6 address");
            }
            address
        });
        match list {
            Listed::Absent => None,
            list @ (Listed::All | Listed::These(_)) => Some(self.once(these(list))),
        }
    }

    pub(super) fn uids(&mut self, key: Key) -> Option<Vec<Uid>> {
        let facts = self.facts;
        self.ids(key, false, "user", "/etc/passwd", Uid::parse, |name| Uid::of(*facts.users.get(name)?))
            .map(these)
    }

    pub(super) fn gids(&mut self, key: Key) -> Option<Vec<Gid>> {
        self.gid_list(key, false).map(these)
    }

    pub(super) fn gid_list(&mut self, key: Key, wildcard: bool) -> Option<Listed<Gid>> {
        let facts = self.facts;
        let by_name = |name: &str| Gid::of(*facts.groups.get(name)?);
        self.ids(key, wildcard, "group", "/etc/group", Gid::parse, by_name)
    }

    fn ids<T: Ord + Clone>(
        &mut self,
        key: Key,
        wildcard: bool,
        what: &str,
        file: &str,
        number: impl Fn(&str) -> Option<T>,
        by_name: impl Fn(&str) -> Option<T>,
    ) -> Option<Listed<T>> {
        let list = self.listed(key, wildcard, |this, given, item| {
            let id = number(item).or_else(|| by_name(item));
            if id.is_none() {
                let problem = if item.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+') {
                    format!("is not a {what} id")
                } else {
                    format!("is not a {what} in {file}")
                };
                this.faults.value(
                    given,
                    item,
                    problem,
                    format!("give a number from 0 to 4294967294 or a {what} name"),
                );
            }
            id
        });
        match list {
            Listed::Absent => None,
            Listed::All => Some(Listed::All),
            Listed::These(ids) => Some(Listed::These(self.once(ids))),
        }
    }
}

fn these<T>(list: Listed<T>) -> Vec<T> {
    match list {
        Listed::These(items) => items,
        Listed::All | Listed::Absent => Vec::new(),
    }
}

fn unique<T: Ord + Clone>(items: Vec<T>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    items.into_iter().filter(|item| seen.insert(item.clone())).collect()
}
