//! Our reading of the chains of today's istio-iptables, as a table of its own: steps in the order in which a packet
//! may meet their rules, each rule in the words of `iptables-save`.
//!
//! `{0}` and `{1}` stand for the items of a step's lists, the other names in braces for what they say. A step has its
//! rows for each item, and nothing if a list of it is empty. Rules in built-in chains carry a comment.

use super::generator::{Asked, network};

/// Rows for each item of the lists, if every condition holds.
struct Step {
    when: &'static [When],
    lists: &'static [List],
    rows: &'static [Row],
}

/// Table, chain, where in the chain, matches, comment in a built-in chain, target.
type Row = (&'static str, &'static str, Option<usize>, &'static str, &'static str, &'static str);

#[derive(Clone, Copy)]
enum When {
    Tproxy,
    Redirect,
    DropInvalid,
    InboundAny,
    InboundAll,
    InboundSome,
    OutboundAll,
    OutboundSome,
    /// No network to capture begins at a loopback address.
    NoLoopback,
    Dns,
    NoDns,
    /// This family has servers, or every server counts.
    DnsHere,
    DnsAll,
    OnlyGroups,
}

#[derive(Clone, Copy)]
enum List {
    ExcludedInterfaces,
    ReroutedInterfaces,
    ExcludedInbound,
    Inbound,
    ExcludedPorts,
    /// The proxy's users, then its groups, as words of a rule.
    Proxy,
    ExcludedGroups,
    Servers,
    ExcludedNetworks,
    Ports,
    Networks,
}

use List::{
    ExcludedGroups, ExcludedInbound, ExcludedInterfaces, ExcludedNetworks, ExcludedPorts, Inbound, Networks,
    Ports, Proxy, ReroutedInterfaces, Servers,
};
use When::{
    Dns, DnsAll, DnsHere, DropInvalid, InboundAll, InboundAny, InboundSome, NoDns, NoLoopback, OnlyGroups,
    OutboundAll, OutboundSome, Redirect, Tproxy,
};

const RETURN: &str = "RETURN";

#[rustfmt::skip]
const STEPS: &[Step] = &[
    // Interfaces: left alone in both directions, or what arrives is let past what follows.
    Step { when: &[], lists: &[ExcludedInterfaces], rows: &[
        ("nat", "PREROUTING", None, "-i {0}", "inbound.exclude-interface", RETURN),
        ("nat", "OUTPUT", None, "-o {0}", "outbound.exclude-interface", RETURN),
    ] },
    Step { when: &[Tproxy], lists: &[ExcludedInterfaces], rows: &[
        ("mangle", "PREROUTING", None, "-i {0}", "inbound.exclude-interface", RETURN),
        ("mangle", "OUTPUT", None, "-o {0}", "outbound.exclude-interface", RETURN),
    ] },
    Step { when: &[], lists: &[ReroutedInterfaces], rows: &[
        ("nat", "PREROUTING", Some(1), "-i {0}", "interface.reroute", RETURN),
    ] },
    Step { when: &[DropInvalid], lists: &[], rows: &[
        ("mangle", "PREROUTING", None, "-m conntrack --ctstate INVALID", "drop.invalid", "ISTIO_DROP"),
        ("mangle", "ISTIO_DROP", None, "", "", "DROP"),
    ] },
    Step { when: &[], lists: &[], rows: &[
        ("nat", "ISTIO_INBOUND", None, "-p tcp -m tcp --dport {tunnel}", "", RETURN),
        ("nat", "ISTIO_REDIRECT", None, "-p tcp", "", "REDIRECT --to-ports {port}"),
        ("nat", "ISTIO_IN_REDIRECT", None, "-p tcp", "", "REDIRECT --to-ports {inbound port}"),
    ] },
    // Inbound by REDIRECT.
    Step { when: &[Redirect, InboundAny], lists: &[], rows: &[
        ("nat", "PREROUTING", None, "-p tcp", "inbound.hook", "ISTIO_INBOUND"),
    ] },
    Step { when: &[Redirect, InboundAll], lists: &[ExcludedInbound], rows: &[
        ("nat", "ISTIO_INBOUND", None, "-p tcp -m tcp --dport {0}", "", RETURN),
    ] },
    Step { when: &[Redirect, InboundAll], lists: &[], rows: &[
        ("nat", "ISTIO_INBOUND", None, "-p tcp", "", "ISTIO_IN_REDIRECT"),
    ] },
    Step { when: &[Redirect, InboundSome], lists: &[Inbound], rows: &[
        ("nat", "ISTIO_INBOUND", None, "-p tcp -m tcp --dport {0}", "", "ISTIO_IN_REDIRECT"),
    ] },
    // Inbound by TPROXY. What stays on this host, answers, rerouted interfaces and the tunnel port are exempt.
    Step { when: &[Tproxy, InboundAny], lists: &[], rows: &[
        ("mangle", "ISTIO_DIVERT", None, "", "", "MARK --set-xmark {mark}/0xffffffff"),
        ("mangle", "ISTIO_DIVERT", None, "", "", "ACCEPT"),
        ("mangle", "ISTIO_TPROXY", None, "! -d {loopback} -p tcp", "", "TPROXY --on-port {inbound port} --on-ip {any} --tproxy-mark {mark}/0xffffffff"),
        ("mangle", "PREROUTING", None, "-p tcp", "inbound.hook", "ISTIO_INBOUND"),
        ("mangle", "ISTIO_INBOUND", None, "-i lo -p tcp", "", RETURN),
        ("mangle", "ISTIO_INBOUND", None, "-p tcp -m conntrack --ctdir REPLY", "", RETURN),
    ] },
    Step { when: &[Tproxy, InboundAny], lists: &[ReroutedInterfaces], rows: &[
        ("mangle", "ISTIO_INBOUND", None, "-i {0}", "", RETURN),
    ] },
    Step { when: &[Tproxy, InboundAny], lists: &[], rows: &[
        ("mangle", "ISTIO_INBOUND", None, "-p tcp -m tcp --dport {tunnel}", "", RETURN),
    ] },
    Step { when: &[Tproxy, InboundAll], lists: &[ExcludedInbound], rows: &[
        ("mangle", "ISTIO_INBOUND", None, "-p tcp -m tcp --dport {0}", "", RETURN),
    ] },
    Step { when: &[Tproxy, InboundAll], lists: &[], rows: &[
        ("mangle", "ISTIO_INBOUND", None, "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate RELATED,ESTABLISHED", "", "ISTIO_DIVERT"),
        ("mangle", "ISTIO_INBOUND", None, "-p tcp", "", "ISTIO_TPROXY"),
    ] },
    Step { when: &[Tproxy, InboundSome], lists: &[Inbound], rows: &[
        ("mangle", "ISTIO_INBOUND", None, "-p tcp -m tcp --dport {0} ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate RELATED,ESTABLISHED", "", "ISTIO_DIVERT"),
        ("mangle", "ISTIO_INBOUND", None, "-p tcp -m tcp --dport {0}", "", "ISTIO_TPROXY"),
    ] },
    // Outbound: ports never captured, what the proxy passes through, the proxy itself.
    Step { when: &[], lists: &[], rows: &[
        ("nat", "OUTPUT", None, "", "outbound.hook", "ISTIO_OUTPUT"),
    ] },
    Step { when: &[], lists: &[ExcludedPorts], rows: &[
        ("nat", "ISTIO_OUTPUT", None, "-p tcp -m tcp --dport {0}", "", RETURN),
        ("nat", "ISTIO_OUTPUT", None, "-p udp -m udp --dport {0}", "", RETURN),
    ] },
    Step { when: &[], lists: &[], rows: &[
        ("nat", "ISTIO_OUTPUT", None, "-s {passthrough} -o lo", "", RETURN),
    ] },
    // First all own calls of the proxy, but for what it sends with a client's address, then those of everybody else,
    // then all the rest of the proxy.
    Step { when: &[Tproxy], lists: &[], rows: &[
        ("nat", "ISTIO_OUTPUT", None, "-o lo -p tcp -m mark --mark {mark}", "", RETURN),
    ] },
    Step { when: &[NoDns], lists: &[Proxy], rows: &[
        ("nat", "ISTIO_OUTPUT", None, "! -d {loopback} -o lo -p tcp -m tcp ! --dport {tunnel} -m owner {0}", "", "ISTIO_IN_REDIRECT"),
    ] },
    Step { when: &[Dns], lists: &[Proxy], rows: &[
        ("nat", "ISTIO_OUTPUT", None, "! -d {loopback} -o lo -p tcp -m multiport ! --dports 53,{tunnel} -m owner {0}", "", "ISTIO_IN_REDIRECT"),
    ] },
    Step { when: &[NoDns, NoLoopback], lists: &[], rows: &[
        ("nat", "ISTIO_OUTPUT", None, "-o lo {not the proxy}", "", RETURN),
    ] },
    Step { when: &[Dns, NoLoopback], lists: &[], rows: &[
        ("nat", "ISTIO_OUTPUT", None, "-o lo -p tcp -m tcp ! --dport 53 {not the proxy}", "", RETURN),
    ] },
    Step { when: &[], lists: &[Proxy], rows: &[
        ("nat", "ISTIO_OUTPUT", None, "-m owner {0}", "", RETURN),
    ] },
    Step { when: &[], lists: &[ExcludedGroups], rows: &[
        ("nat", "ISTIO_OUTPUT", None, "-m owner --gid-owner {0}", "", RETURN),
    ] },
    Step { when: &[OnlyGroups], lists: &[], rows: &[
        ("nat", "ISTIO_OUTPUT", None, "{not the groups}", "", RETURN),
    ] },
    // DNS to the agent, which has a conntrack zone of its own towards the resolvers.
    Step { when: &[Dns], lists: &[], rows: &[
        ("raw", "OUTPUT", None, "", "dns.hook", "ISTIO_OUTPUT_DNS"),
    ] },
    Step { when: &[DnsHere], lists: &[], rows: &[
        ("nat", "ISTIO_OUTPUT", None, "", "", "ISTIO_OUTPUT_DNS"),
    ] },
    Step { when: &[DnsAll], lists: &[], rows: &[
        ("nat", "ISTIO_OUTPUT_DNS", None, "-p tcp -m tcp --dport 53", "", "REDIRECT --to-ports {dns port}"),
        ("nat", "ISTIO_OUTPUT_DNS", None, "-p udp -m udp --dport 53", "", "REDIRECT --to-ports {dns port}"),
    ] },
    Step { when: &[], lists: &[Servers], rows: &[
        ("nat", "ISTIO_OUTPUT_DNS", None, "-d {0} -p tcp -m tcp --dport 53", "", "REDIRECT --to-ports {dns port}"),
    ] },
    Step { when: &[], lists: &[Servers], rows: &[
        ("nat", "ISTIO_OUTPUT_DNS", None, "-d {0} -p udp -m udp --dport 53", "", "REDIRECT --to-ports {dns port}"),
    ] },
    Step { when: &[Dns], lists: &[Proxy], rows: &[
        ("raw", "ISTIO_OUTPUT_DNS", None, "-p udp -m udp --dport 53 -m owner {0}", "", "CT --zone 1"),
        ("raw", "ISTIO_OUTPUT_DNS", None, "-p udp -m udp --sport {dns port} -m owner {0}", "", "CT --zone 2"),
    ] },
    Step { when: &[DnsHere], lists: &[], rows: &[
        ("raw", "PREROUTING", None, "", "dns.hook", "ISTIO_INBOUND"),
    ] },
    Step { when: &[DnsAll], lists: &[], rows: &[
        ("raw", "ISTIO_OUTPUT_DNS", None, "-p udp -m udp --dport 53", "", "CT --zone 2"),
        ("raw", "ISTIO_INBOUND", None, "-p udp -m udp --sport 53", "", "CT --zone 1"),
    ] },
    Step { when: &[], lists: &[Servers], rows: &[
        ("raw", "ISTIO_OUTPUT_DNS", None, "-d {0} -p udp -m udp --dport 53", "", "CT --zone 2"),
        ("raw", "ISTIO_INBOUND", None, "-s {0} -p udp -m udp --sport 53", "", "CT --zone 1"),
    ] },
    // Destinations.
    Step { when: &[], lists: &[], rows: &[
        ("nat", "ISTIO_OUTPUT", None, "-d {loopback}", "", RETURN),
    ] },
    Step { when: &[], lists: &[ExcludedNetworks], rows: &[
        ("nat", "ISTIO_OUTPUT", None, "-d {0}", "", RETURN),
    ] },
    Step { when: &[OutboundSome], lists: &[Ports], rows: &[
        ("nat", "ISTIO_OUTPUT", None, "-p tcp -m tcp --dport {0}", "", "ISTIO_REDIRECT"),
    ] },
    Step { when: &[OutboundAll], lists: &[], rows: &[
        ("nat", "ISTIO_OUTPUT", None, "", "", "ISTIO_REDIRECT"),
    ] },
    Step { when: &[OutboundAll], lists: &[ReroutedInterfaces], rows: &[
        ("nat", "PREROUTING", Some(1), "-i {0}", "interface.reroute", "ISTIO_REDIRECT"),
    ] },
    Step { when: &[OutboundSome], lists: &[Networks], rows: &[
        ("nat", "ISTIO_OUTPUT", None, "-d {0}", "", "ISTIO_REDIRECT"),
    ] },
    Step { when: &[OutboundSome], lists: &[Networks, ReroutedInterfaces], rows: &[
        ("nat", "PREROUTING", Some(1), "-d {0} -i {1}", "interface.reroute", "ISTIO_REDIRECT"),
    ] },
    // TPROXY: what the proxy sends gives its connection the mark, and the answers get it back.
    Step { when: &[Tproxy], lists: &[], rows: &[
        ("mangle", "PREROUTING", None, "-i lo -p tcp -m mark --mark {mark}", "tproxy.mark", "CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff"),
        ("mangle", "OUTPUT", None, "-p tcp -m connmark --mark {mark}", "tproxy.mark", "CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff"),
    ] },
];

/// Options that `proxy_init` 0.7.1 had; with any other, the layout is this one.
const CLASSIC: [&str; 6] = ["-p", "-u", "-g", "-i", "--ipv6", "--layout"];

/// Whether the call is for these chains.
pub(super) fn is_meant(asked: &Asked) -> bool {
    match asked.one("--layout", "auto").as_str() {
        "auto" => asked.names().any(|name| !CLASSIC.contains(&name)),
        layout => layout == "istio",
    }
}

/// The text of each table of one family, in the order in which packets come to them.
pub(super) fn tables(asked: &Asked, v6: bool) -> Vec<String> {
    let wanted = Wanted { asked, v6 };
    ["raw", "mangle", "nat"].iter().filter_map(|table| wanted.table(table)).collect()
}

/// What the rules need of routing: packets with the mark are delivered here whatever their destination, and IPv6 has
/// the address that the proxy passes traffic through from.
pub(super) fn routing(asked: &Asked) -> String {
    let families: &[bool] = if asked.one("--ipv6", "auto") == "off" { &[false] } else { &[false, true] };
    let wanted = Wanted { asked, v6: false };
    let mut lines = Vec::new();
    if families.len() == 2 {
        lines.push("IPv6: address ::6/128 on lo".to_owned());
    }
    let (mark, table) = (wanted.mark(), asked.one("-r", "133"));
    if wanted.holds(Tproxy) && wanted.holds(InboundAny) {
        let name = |v6: &bool| if *v6 { "IPv6" } else { "IPv4" };
        let rule = |v6| format!("{}: routing rule fwmark {mark} lookup {table}", name(v6));
        let route = |v6| format!("{}: local default route in table {table}", name(v6));
        lines.extend(families.iter().map(rule));
        lines.extend(families.iter().map(route));
    }
    lines.iter().map(|line| format!("# add {line}\n")).collect()
}

struct Wanted<'a> {
    asked: &'a Asked,
    v6: bool,
}

/// A chain's rules as they stand in the end, and how many of them were inserted at its head.
struct Chain {
    name: &'static str,
    rules: Vec<String>,
    inserted: usize,
}

impl Wanted<'_> {
    fn table(&self, table: &str) -> Option<String> {
        let mut chains: Vec<Chain> = Vec::new();
        for step in STEPS.iter().filter(|step| step.when.iter().all(|when| self.holds(*when))) {
            for items in self.combinations(step.lists) {
                for (_, name, insert, matches, comment, target) in
                    step.rows.iter().filter(|row| row.0 == table)
                {
                    let rule = self.rule(matches, comment, target, &items);
                    let at = chains.iter().position(|chain| chain.name == *name).unwrap_or(chains.len());
                    if at == chains.len() {
                        chains.push(Chain { name, rules: Vec::new(), inserted: 0 });
                    }
                    let chain = &mut chains[at];
                    match insert {
                        Some(number) => chain.rules.insert(number - 1, rule),
                        None => chain.rules.push(rule),
                    }
                    chain.inserted += usize::from(insert.is_some());
                }
            }
        }
        chains.sort_by_key(|chain| chain.name);
        let (own, shared): (Vec<_>, Vec<_>) =
            chains.iter().partition(|chain| chain.name.starts_with("ISTIO_"));
        let create = own.iter().map(|chain| format!("-N {}\n", chain.name));
        // A chain that is made is filled in order; into a shared one what was inserted goes by its number.
        let fill =
            own.iter().flat_map(|chain| chain.rules.iter().map(|rule| format!("-A {} {rule}\n", chain.name)));
        let hook = shared.iter().flat_map(|chain| {
            chain.rules.iter().enumerate().map(|(index, rule)| match index < chain.inserted {
                true => format!("-I {} {} {rule}\n", chain.name, index + 1),
                false => format!("-A {} {rule}\n", chain.name),
            })
        });
        let lines: String = create.chain(fill).chain(hook).collect();
        (!lines.is_empty()).then(|| format!("* {table}\n{lines}COMMIT\n"))
    }

    fn rule(&self, matches: &str, comment: &str, target: &str, items: &[String]) -> String {
        let comment = match comment {
            "" => String::new(),
            word => format!("-m comment --comment \"mesh-init:{word}\""),
        };
        let target = format!("-j {target}");
        let words = [matches, &comment, &target].map(|words| self.filled(words, items));
        words.into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>().join(" ")
    }

    fn filled(&self, words: &str, items: &[String]) -> String {
        let own = |v4: &str, v6: &str| if self.v6 { v6.to_owned() } else { v4.to_owned() };
        let loopback = network(&self.asked.one("--loopback-cidr", "127.0.0.1/32"), false);
        let not = |owners: &[String]| {
            owners.iter().map(|owner| format!("-m owner ! {owner}")).collect::<Vec<_>>().join(" ")
        };
        let groups: Vec<String> =
            self.asked.list("--owner-group").iter().map(|gid| format!("--gid-owner {gid}")).collect();
        let mut words = words
            .replace("{loopback}", &own(&loopback.expect("IPv4"), "::1/128"))
            .replace("{passthrough}", &own("127.0.0.6/32", "::6/128"))
            .replace("{any}", &own("0.0.0.0", "::"))
            .replace("{port}", &self.asked.port())
            .replace("{inbound port}", &self.asked.inbound_port())
            .replace("{tunnel}", &self.asked.one("-e", "15008"))
            .replace("{dns port}", &self.asked.one("--dns-port", "15053"))
            .replace("{mark}", &format!("0x{:x}", self.mark()))
            .replace("{not the proxy}", &not(&self.items(Proxy)))
            .replace("{not the groups}", &not(&groups));
        for (number, item) in items.iter().enumerate() {
            words = words.replace(&format!("{{{number}}}"), item);
        }
        // A network of all addresses is no condition.
        let everything = own("-d 0.0.0.0/0", "-d ::/0");
        words.strip_prefix(&everything).map_or(words.clone(), |rest| rest.trim_start().to_owned())
    }

    fn mark(&self) -> u32 {
        let mark = self.asked.one("-t", "1337");
        let number = match mark.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => mark.parse(),
        };
        number.expect("a mark")
    }

    /// Every choice of one item from each list; one empty choice of no lists.
    fn combinations(&self, lists: &[List]) -> Vec<Vec<String>> {
        lists.iter().fold(vec![Vec::new()], |chosen, list| {
            let items = self.items(*list);
            let with = |before: &Vec<String>, item: &String| {
                [before.as_slice(), std::slice::from_ref(item)].concat()
            };
            chosen.iter().flat_map(|before| items.iter().map(move |item| with(before, item))).collect()
        })
    }

    fn holds(&self, when: When) -> bool {
        let asked = self.asked;
        let switched = |name: &str| asked.one(name, "false") == "true";
        let tproxy = asked.one("-m", "redirect").eq_ignore_ascii_case("tproxy");
        let inbound = asked.given("-b").map_or(vec!["*".to_owned()], <[String]>::to_vec);
        let all = match asked.given("-i") {
            None => asked.given("-q").is_none(),
            // Both families whole are everything.
            Some(networks) => {
                networks == ["*"]
                    || ["0.0.0.0/0", "::/0"].iter().all(|whole| networks.iter().any(|of| of == whole))
            }
        };
        match when {
            Tproxy => tproxy,
            Redirect => !tproxy,
            DropInvalid => switched("--drop-invalid"),
            InboundAny => !inbound.is_empty(),
            InboundAll => inbound == ["*"],
            InboundSome => !inbound.is_empty() && inbound != ["*"],
            OutboundAll => all,
            OutboundSome => !all,
            NoLoopback => {
                !asked.list("-i").iter().any(|text| text.starts_with("127.") || text.starts_with("::1"))
            }
            Dns => switched("--redirect-dns"),
            NoDns => !switched("--redirect-dns"),
            DnsAll => switched("--redirect-dns") && switched("--capture-all-dns"),
            DnsHere => self.holds(DnsAll) || !self.items(Servers).is_empty(),
            OnlyGroups => asked.given("--owner-group").is_some_and(|groups| groups != ["*"]),
        }
    }

    fn items(&self, list: List) -> Vec<String> {
        let asked = self.asked;
        let ports = |name: &str| asked.list(name).iter().map(|port| port.replace('-', ":")).collect();
        let networks = |name: &str| {
            asked
                .list(name)
                .iter()
                .filter(|text| *text != "*")
                .filter_map(|text| network(text, self.v6))
                .collect()
        };
        match list {
            ExcludedInterfaces => asked.list("-c"),
            ReroutedInterfaces => asked.list("-k"),
            ExcludedInbound => ports("-d"),
            Inbound => ports("-b"),
            ExcludedPorts => ports("-o"),
            Proxy => {
                let uids = asked.given("-u").map_or(vec!["1337".to_owned()], <[String]>::to_vec);
                let uids = uids.iter().map(|uid| format!("--uid-owner {uid}"));
                uids.chain(asked.list("-g").iter().map(|gid| format!("--gid-owner {gid}"))).collect()
            }
            ExcludedGroups => asked.list("--exclude-owner-group"),
            Servers => networks("--dns-server"),
            ExcludedNetworks => networks("-x"),
            Ports => ports("-q"),
            Networks => networks("-i"),
        }
    }
}
