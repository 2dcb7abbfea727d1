//! The expected rules of a command line, made from `tables` or `today` and from nothing of the program.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::tables::{CLASSIC, List, NAMES, Row, SCOPED, When};
use super::today;

/// The ports that `--inbound '*'` leaves alone on a VM host, beside the capture ports.
const RESERVED: [&str; 5] = ["22", "15000", "15020", "15021", "15090"];

/// What was asked for: the joined values of each flag, by its short name.
pub(super) struct Asked(BTreeMap<String, Vec<String>>);

/// What was asked for, for one family.
struct Wanted<'a> {
    asked: &'a Asked,
    v6: bool,
    scoped: bool,
}

/// The text of `mesh-init plan ARGS`.
pub(super) fn rules(args: &[String]) -> String {
    let asked = Asked::read(args);
    let scoped = ["--uid-owner", "--gid-owner"].iter().any(|owner| asked.0.contains_key(*owner))
        || asked.one("--layout", "") == "scoped";
    let mut text = String::new();
    for (v6, family, program) in [(false, "IPv4", "iptables"), (true, "IPv6", "ip6tables")] {
        let tables = match !scoped && today::is_meant(&asked) {
            true => today::tables(&asked, v6),
            false => {
                let lines = Wanted { asked: &asked, v6, scoped }.lines();
                let table = (!lines.is_empty()).then(|| format!("* nat\n{}COMMIT\n", lines.concat()));
                table.into_iter().collect()
            }
        };
        let left_out =
            v6 && asked.one("--ipv6", "auto") == "off" || asked.one("-m", "").eq_ignore_ascii_case("none");
        for table in tables.iter().filter(|_| !left_out) {
            text.push_str(&format!("# {family}: {program}-restore --noflush\n{table}"));
        }
    }
    if !text.is_empty() && !scoped && today::is_meant(&asked) {
        text.push_str(&today::routing(&asked));
    }
    if text.is_empty() { "# nothing to do\n".to_owned() } else { text }
}

impl Asked {
    fn read(args: &[String]) -> Asked {
        let mut asked = Asked(BTreeMap::new());
        let mut words = args.iter();
        while let Some(word) = words.next() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None => (word.as_str(), words.next().expect("every flag here takes a value").clone()),
            };
            let name = NAMES.iter().find(|(long, _)| *long == name).map_or(name, |(_, short)| short);
            let items = value.split(',').filter(|item| !item.is_empty()).map(|item| match item {
                // The one name that every machine knows.
                "root" => "0".to_owned(),
                item => item.to_owned(),
            });
            asked.0.entry(name.to_owned()).or_default().extend(items);
        }
        asked
    }

    pub(super) fn given(&self, name: &str) -> Option<&[String]> {
        self.0.get(name).map(Vec::as_slice)
    }

    pub(super) fn list(&self, name: &str) -> Vec<String> {
        self.given(name).unwrap_or_default().to_vec()
    }

    pub(super) fn one(&self, name: &str, default: &str) -> String {
        self.given(name).and_then(|values| values.first()).map_or(default, String::as_str).to_owned()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(super) fn port(&self) -> String {
        self.one("-p", "15001")
    }

    pub(super) fn inbound_port(&self) -> String {
        self.one("-z", &self.port())
    }
}

impl Wanted<'_> {
    /// The lines of one transaction: chains, their rules chain by chain, and the jumps into them.
    fn lines(&self) -> Vec<String> {
        let table = if self.scoped { SCOPED } else { CLASSIC };
        let (mut create, mut fill, mut hook) = (Vec::new(), Vec::new(), Vec::new());
        for row in table.iter().filter(|row| self.holds(row.when)) {
            let own = row.chain.starts_with("ISTIO_");
            let command = match (own, self.scoped) {
                (false, true) => format!("-I {} 1", row.chain),
                (_, _) => format!("-A {}", row.chain),
            };
            let specs = self.specs(row);
            let name = format!("-N {}\n", row.chain);
            if own && !specs.is_empty() && !create.contains(&name) {
                create.push(name);
            }
            let lines = specs.iter().map(|spec| format!("{command} {spec}\n"));
            if own { fill.extend(lines) } else { hook.extend(lines) }
        }
        [create, fill, hook].concat()
    }

    fn specs(&self, row: &Row) -> Vec<String> {
        let comment = if self.scoped { format!("mesh-init:{}", row.comment) } else { row.comment.to_owned() };
        let blank = if row.matches.is_empty() { "" } else { " " };
        let spec = format!("{}{blank}-m comment --comment \"{comment}\" -j {}", row.matches, row.target);
        let inbound = if self.own_inbound_port() { "ISTIO_IN_REDIRECT" } else { "ISTIO_REDIRECT" };
        let spec = spec
            .replace("{loopback}", if self.v6 { "::1/128" } else { "127.0.0.1/32" })
            .replace("{inbound port}", &self.inbound_port())
            .replace("{inbound}", inbound)
            .replace("{port}", &self.port());
        let mut specs = vec![spec];
        for (number, list) in row.lists.iter().enumerate() {
            let items = self.items(*list);
            let place = format!("{{{number}}}");
            specs =
                specs.iter().flat_map(|spec| items.iter().map(|item| spec.replace(&place, item))).collect();
        }
        specs
    }

    fn holds(&self, when: When) -> bool {
        let to_anywhere = match self.asked.given("-i") {
            None => self.asked.given("-q").is_none(),
            Some(networks) => networks == ["*"],
        };
        let to_some = match self.scoped {
            true => !(self.items(List::Networks).is_empty() && self.items(List::Ports).is_empty()),
            // There a network of the other family is enough for the chain to be there.
            false => self.asked.given("-i").is_some_and(|networks| !networks.is_empty()),
        };
        let nobody = self.items(List::OwnerUids).is_empty() && self.items(List::OwnerGids).is_empty();
        let someone = !self.scoped || !nobody;
        let inbound = self.asked.given("-b").unwrap_or_default();
        match when {
            When::Always => true,
            When::Outbound => someone && (to_anywhere || to_some),
            When::OutboundAll => someone && to_anywhere,
            When::OutboundSome => someone && !to_anywhere && to_some,
            When::Inbound => !inbound.is_empty(),
            When::InboundAll => inbound == ["*"],
            When::InboundSome => !inbound.is_empty() && inbound != ["*"],
            When::InboundOwnPort => !inbound.is_empty() && self.own_inbound_port(),
            When::ProxyPort => {
                self.holds(When::Outbound) || self.holds(When::Inbound) && !self.own_inbound_port()
            }
        }
    }

    fn port(&self) -> String {
        self.asked.port()
    }

    fn inbound_port(&self) -> String {
        self.asked.inbound_port()
    }

    fn own_inbound_port(&self) -> bool {
        self.inbound_port() != self.port()
    }

    fn items(&self, list: List) -> Vec<String> {
        let ports = |name: &str| -> Vec<String> {
            self.asked
                .list(name)
                .iter()
                .filter(|port| *port != "*")
                .map(|port| port.replace('-', ":"))
                .collect()
        };
        let networks = |name: &str| -> Vec<String> {
            let networks = self.asked.list(name).into_iter().filter(|text| text != "*");
            networks.filter_map(|text| network(&text, self.v6)).collect()
        };
        let capture_ports = || match self.own_inbound_port() {
            true => vec![self.port(), self.inbound_port()],
            false => vec![self.port()],
        };
        match list {
            List::ProxyUids if self.asked.given("-u").is_none() => vec!["1337".to_owned()],
            List::ProxyUids => self.asked.list("-u"),
            List::ProxyGids => self.asked.list("-g"),
            List::OwnerUids => self.asked.list("--uid-owner"),
            List::OwnerGids => self.asked.list("--gid-owner"),
            List::Networks => networks("-i"),
            List::ExcludedNetworks => networks("-x"),
            List::Ports => ports("-q"),
            List::ExcludedPorts => ports("-o"),
            List::InboundPorts => ports("-b"),
            List::ExcludedInboundPorts => ports("-d"),
            List::Interfaces => self.asked.list("-c"),
            List::CapturePorts => capture_ports(),
            List::ReservedPorts => {
                let mut reserved = RESERVED.map(str::to_owned).to_vec();
                reserved
                    .extend(capture_ports().into_iter().filter(|port| !RESERVED.contains(&port.as_str())));
                reserved
            }
        }
    }
}

/// A network as `iptables-save` prints it, if it is of that family: host bits cleared, the length always there.
pub(super) fn network(text: &str, v6: bool) -> Option<String> {
    let (address, length) =
        text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let length = |default: u32| length.map_or(default, |length| length.parse().expect("a prefix length"));
    match address.parse().expect("an address") {
        IpAddr::V4(address) if !v6 => {
            let length = length(32);
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            Some(format!("{}/{length}", Ipv4Addr::from_bits(address.to_bits() & mask)))
        }
        IpAddr::V6(address) if v6 => {
            let length = length(128);
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            Some(format!("{}/{length}", Ipv6Addr::from_bits(address.to_bits() & mask)))
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}
