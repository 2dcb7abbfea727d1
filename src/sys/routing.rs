//! Policy routing: the rule, the route and the address that hand a marked packet to a socket of this machine.
//!
//! ip-rule(8), rtnetlink(7), linux/fib_rules.h, linux/if_addr.h; Documentation/networking/tproxy.rst for what
//! they are good for. Everything here is about the network namespace of the calling thread: that is where
//! the socket is opened. Not to be called from inside a tokio runtime, because it waits in one of its own.
//!
//! `rtnetlink`'s own requests do not tell three things that are asked for here: whether a dump came to its
//! end (a lost connection looks like an empty answer), which error it ended with (netlink_dump() in
//! net/netlink/af_netlink.c puts it into `NLMSG_DONE`), and whether it changed while it was read.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use futures_util::StreamExt;
use nix::errno::Errno;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol,
};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, new_connection, new_connection_with_strict_check};
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::error::{Class, Error, Result};

/// Our own routing protocol number (rtnetlink(7), `RTPROT_*`; `FRA_PROTOCOL` of a rule, `IFA_PROTO` of an
/// address): what we made is known by it.
pub const PROTOCOL: u8 = 109;
/// The address of [`Entry::Address`].
pub const ADDRESS: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// `LOOPBACK_IFINDEX` of net/flow.h: `lo`, whatever its name, is the first interface of every namespace
/// (loopback_net_init() in drivers/net/loopback.c insists on it).
const LO: u32 = 1;
/// `IP6_RT_PRIO_USER` of net/ip6_route.h: the metric of an IPv6 route that is given none. IPv4 has 0, unsaid.
const V6_METRIC: u32 = 1024;
/// How long one call may wait for the kernel.
const DEADLINE: Duration = Duration::from_secs(5);
/// How often a dump is begun again that the kernel changed while it was read.
const ATTEMPTS: usize = 8;
/// The connection ended before the answer did.
const CUT: Errno = Errno::ECONNABORTED;

/// Something that belongs to the way of a marked packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    /// `ip rule fwmark MARK lookup TABLE`.
    Rule {
        /// Of IPv6.
        v6: bool,
        /// The packet's whole mark.
        mark: u32,
        /// Where its route is looked up.
        table: u32,
    },
    /// `ip route local default dev lo table TABLE`: every destination is this machine.
    Route {
        /// Of IPv6.
        v6: bool,
        /// Where it stands.
        table: u32,
    },
    /// `ip address ::6/128 dev lo`.
    Address,
}

/// An entry that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub entry: Entry,
    /// Carries [`PROTOCOL`]. Kernels that do not know it (rules before 4.17, addresses before 5.18) ignore
    /// it, and there nothing is ours.
    pub ours: bool,
    /// Of a rule.
    pub priority: Option<u32>,
}

/// A found entry, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    found: Found,
    protocol: u8,
}

impl fmt::Display for Entry {
    /// As `ip` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = |v6| if v6 { "ip -6" } else { "ip" };
        match self {
            Entry::Rule { v6, mark, table } => write!(f, "{} rule fwmark {mark} lookup {table}", ip(*v6)),
            Entry::Route { v6, table } => write!(f, "{} route local default dev lo table {table}", ip(*v6)),
            Entry::Address => write!(f, "ip -6 address {ADDRESS}/128 dev lo"),
        }
    }
}

/// All entries of these shapes in the namespace: rules of both families, routes, the address; each in the
/// kernel's order. Needs no privilege.
///
/// A rule with any other selector is not of the shape, nor is a route with a metric or anything else to it.
/// Routes are read only from the tables that such rules name, and by the kernel's own filter (since 4.20),
/// so that nobody's full routing table is dumped. A route whose rule is gone is therefore not seen: the rule
/// is the first to add and the last to remove.
///
/// # Errors
/// The kernel refuses the question or does not answer.
pub fn list() -> Result<Vec<Found>> {
    let seen = talk(async |mut handle| {
        let mut seen = rules(&mut handle).await?;
        let tables: BTreeSet<_> = seen.iter().filter_map(|rule| looked_up(rule.found.entry)).collect();
        for (v6, table) in tables {
            seen.extend(routes(&mut handle, v6, table).await?);
        }
        seen.extend(address(&mut handle).await?);
        Ok(seen)
    });
    let seen = seen.map_err(|errno| explain("reading the policy routing", false, errno))?;
    Ok(seen.into_iter().map(|seen| seen.found).collect())
}

/// Adds `entry`, as ours. Nothing is done if it is there already, whoever made it.
///
/// # Errors
/// `CAP_NET_ADMIN` is missing, something else stands in its place, the family or `lo` is off, or the kernel
/// refuses it for another reason.
pub fn add(entry: &Entry) -> Result<()> {
    // Without a mark, the rule is for every packet (fib_nl2rule() in net/core/fib_rules.c).
    if let Entry::Rule { mark: 0, .. } = entry {
        return Err(Error::refused(format!("`{entry}` would mean every packet")).remedy("give another mark"));
    }
    // Table 0 is any table that is empty (fib4_rule_configure() in net/ipv4/fib_rules.c).
    if let Entry::Rule { table: 0, .. } | Entry::Route { table: 0, .. } = entry {
        let error = Error::refused(format!("`{entry}`: there is no table 0"));
        return Err(error.remedy("give a number from 1 to 252, or above 255"));
    }
    let done = talk(async |mut handle| {
        if !alike(&mut handle, entry).await?.is_empty() {
            return Ok(());
        }
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        match ask(&mut handle, flags, addition(entry)).await {
            // Somebody was faster.
            Err(Errno::EEXIST) if !alike(&mut handle, entry).await?.is_empty() => Ok(()),
            answer => answer.map(drop),
        }
    });
    done.map_err(|errno| explain(&format!("adding `{entry}`"), entry.is_v6(), errno))
}

/// Removes exactly this entry, of this owner and priority. That it is gone already is fine.
///
/// # Errors
/// `CAP_NET_ADMIN` is missing, or the kernel refuses it for another reason.
pub fn remove(found: &Found) -> Result<()> {
    let done = talk(async |mut handle| {
        let seen = alike(&mut handle, &found.entry).await?.into_iter().find(|seen| seen.found == *found);
        let Some(seen) = seen else { return Ok(()) };
        match ask(&mut handle, NLM_F_ACK, removal(&seen)).await {
            // What the kernel says of a rule, a route and an address that is not there.
            Ok(_) | Err(Errno::ENOENT | Errno::ESRCH | Errno::EADDRNOTAVAIL) => Ok(()),
            Err(errno) => Err(errno),
        }
    });
    done.map_err(|errno| explain(&format!("removing `{}`", found.entry), found.entry.is_v6(), errno))
}

/// The addresses of all interfaces in the kernel's order (IPv4 before IPv6, interface by interface), without
/// the loopback and the link-local ones: what Istio takes as the machine's. [`ADDRESS`] is one of them once
/// it is there. Needs no privilege.
///
/// # Errors
/// The kernel refuses the question or does not answer.
pub fn addresses() -> Result<Vec<IpAddr>> {
    let addresses = talk(async |mut handle| {
        let every = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        dump(&mut handle, every, |message| address_in(message).and_then(machine_address)).await
    });
    addresses.map_err(|errno| explain("reading the addresses", false, errno))
}

impl Entry {
    fn is_v6(self) -> bool {
        !matches!(self, Entry::Rule { v6: false, .. } | Entry::Route { v6: false, .. })
    }
}

// === the conversation ===

/// Opens a socket in the calling thread's namespace, does `work` with it, and waits until that is done.
fn talk<T>(work: impl AsyncFnOnce(Handle) -> nix::Result<T>) -> nix::Result<T> {
    let runtime = Builder::new_current_thread().enable_io().enable_time().build().map_err(errno)?;
    runtime.block_on(async {
        // Kernels before 4.20 cannot filter; what they send too much is left out when it is read.
        let opened = new_connection_with_strict_check().or_else(|_| new_connection()).map_err(errno)?;
        let (mut connection, handle, _) = opened;
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        tokio::spawn(connection);
        timeout(DEADLINE, work(handle)).await.unwrap_or(Err(Errno::ETIMEDOUT))
    })
}

fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO))
}

/// The answers to one request, and whether they are of one moment.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "an overrun or an unknown payload ends it early, like a cut"
)]
async fn ask(
    handle: &mut Handle,
    flags: u16,
    request: RouteNetlinkMessage,
) -> nix::Result<(Vec<RouteNetlinkMessage>, bool)> {
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | flags;
    let mut stream = handle.request(message).map_err(|_| CUT)?;
    let (mut answers, mut consistent) = (Vec::new(), true);
    let code = loop {
        let (header, payload) = stream.next().await.ok_or(CUT)?.into_parts();
        consistent &= header.flags & NLM_F_DUMP_INTR == 0;
        match payload {
            NetlinkPayload::InnerMessage(answer) => answers.push(answer),
            NetlinkPayload::Done(done) => break done.code,
            NetlinkPayload::Error(error) => break error.raw_code(),
            _ => return Err(CUT),
        }
    };
    if code == 0 { Ok((answers, consistent)) } else { Err(Errno::from_raw(code.saturating_neg())) }
}

/// What `read` makes of the answers to a dump; nothing if the kernel has no such table or no such family.
async fn dump<T>(
    handle: &mut Handle,
    request: RouteNetlinkMessage,
    read: impl Fn(&RouteNetlinkMessage) -> Option<T>,
) -> nix::Result<Vec<T>> {
    for _ in 0..ATTEMPTS {
        match ask(handle, NLM_F_DUMP, request.clone()).await {
            Ok((answers, true)) => return Ok(answers.iter().filter_map(&read).collect()),
            Ok((_, false)) => {}
            Err(Errno::ENOENT | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::EINTR)
}

async fn rules(handle: &mut Handle) -> nix::Result<Vec<Seen>> {
    // Of no family: of all that the kernel has, in one answer.
    dump(handle, RouteNetlinkMessage::GetRule(RuleMessage::default()), seen).await
}

async fn routes(handle: &mut Handle, v6: bool, table: u32) -> nix::Result<Vec<Seen>> {
    let mut wanted = RouteMessage::default();
    wanted.header.address_family = family(v6);
    wanted.header.kind = RouteType::Local;
    wanted.attributes.push(RouteAttribute::Table(table));
    let mut routes = dump(handle, RouteNetlinkMessage::GetRoute(wanted), seen).await?;
    routes.retain(|route| route.found.entry == Entry::Route { v6, table });
    Ok(routes)
}

async fn address(handle: &mut Handle) -> nix::Result<Vec<Seen>> {
    let mut wanted = AddressMessage::default();
    wanted.header.family = AddressFamily::Inet6;
    wanted.header.index = LO;
    dump(handle, RouteNetlinkMessage::GetAddress(wanted), seen).await
}

/// What there is of `entry`.
async fn alike(handle: &mut Handle, entry: &Entry) -> nix::Result<Vec<Seen>> {
    let mut seen = match *entry {
        Entry::Rule { .. } => rules(handle).await?,
        Entry::Route { v6, table } => routes(handle, v6, table).await?,
        Entry::Address => address(handle).await?,
    };
    seen.retain(|seen| seen.found.entry == *entry);
    Ok(seen)
}

/// `what` failed with `errno`.
#[expect(clippy::wildcard_enum_match_arm, reason = "there are more errors than can be explained")]
fn explain(what: &str, v6: bool, errno: Errno) -> Error {
    let because = |class, why: &str| Error::new(class, format!("{what}: {why}"));
    match errno {
        Errno::EPERM => Error::new(Class::Privilege, format!("{what} needs CAP_NET_ADMIN"))
            .remedy("run as root, or add the capability NET_ADMIN"),
        // fib6_nh_init() in net/ipv6/route.c and addrconf_add_dev() in net/ipv6/addrconf.c.
        Errno::EACCES if v6 => because(Class::Host, "IPv6 is switched off on lo")
            .remedy("set the sysctls net.ipv6.conf.all.disable_ipv6 and net.ipv6.conf.lo.disable_ipv6 to 0"),
        Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP if v6 => {
            because(Class::Host, "the kernel has no IPv6, or no policy routing for it")
                .remedy("boot without ipv6.disable=1, with CONFIG_IPV6_MULTIPLE_TABLES, or do without IPv6")
        }
        Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP => because(Class::Host, "the kernel has no policy routing")
            .remedy("it needs CONFIG_IP_MULTIPLE_TABLES"),
        Errno::ENETDOWN | Errno::ENETUNREACH => {
            because(Class::Host, "lo is down").remedy("bring lo up first: `ip link set lo up`")
        }
        Errno::EEXIST => because(Class::Refused, "something else stands in its place")
            .remedy("remove that, or choose another table"),
        Errno::EINTR => because(Class::TryAgain, "it changed with every look").remedy("try again"),
        Errno::ETIMEDOUT => {
            because(Class::Refused, &format!("no answer from the kernel within {} s", DEADLINE.as_secs()))
        }
        errno => Error::refused(format!("{what}: {errno}")),
    }
}

// === the messages ===

fn family(v6: bool) -> AddressFamily {
    if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

/// Whether a family is IPv6; `None` for those that are neither (the rules of multicast routing, for one).
fn is_v6(of: AddressFamily) -> Option<bool> {
    [false, true].into_iter().find(|v6| family(*v6) == of)
}

/// The table that a rule's packets look into.
fn looked_up(entry: Entry) -> Option<(bool, u32)> {
    if let Entry::Rule { v6, table, .. } = entry { Some((v6, table)) } else { None }
}

fn rule_message(v6: bool, mark: u32, table: u32, protocol: u8, priority: Option<u32>) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = family(v6);
    rule.header.action = RuleAction::ToTable;
    rule.attributes = vec![
        RuleAttribute::FwMark(mark),
        RuleAttribute::FwMask(u32::MAX),
        RuleAttribute::Table(table),
        RuleAttribute::Protocol(RouteProtocol::from(protocol)),
    ];
    rule.attributes.extend(priority.map(RuleAttribute::Priority));
    rule
}

fn route_message(v6: bool, table: u32, protocol: u8) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = family(v6);
    route.header.kind = RouteType::Local;
    route.header.scope = if v6 { RouteScope::Universe } else { RouteScope::Host }; // IPv6 has none
    route.header.protocol = RouteProtocol::from(protocol);
    route.attributes = vec![RouteAttribute::Table(table), RouteAttribute::Oif(LO)];
    route.attributes.extend(v6.then_some(RouteAttribute::Priority(V6_METRIC)));
    route
}

fn address_message(protocol: u8) -> AddressMessage {
    let mut address = AddressMessage::default();
    address.header.family = AddressFamily::Inet6;
    address.header.prefix_len = 128;
    address.header.index = LO;
    address.header.flags = AddressHeaderFlags::Nodad; // usable at once
    address.attributes = vec![
        AddressAttribute::Local(ADDRESS.into()),
        AddressAttribute::Address(ADDRESS.into()),
        AddressAttribute::Protocol(AddressProtocol::from(protocol)),
    ];
    address
}

fn addition(entry: &Entry) -> RouteNetlinkMessage {
    match *entry {
        Entry::Rule { v6, mark, table } => {
            RouteNetlinkMessage::NewRule(rule_message(v6, mark, table, PROTOCOL, None))
        }
        Entry::Route { v6, table } => RouteNetlinkMessage::NewRoute(route_message(v6, table, PROTOCOL)),
        Entry::Address => RouteNetlinkMessage::NewAddress(address_message(PROTOCOL)),
    }
}

/// Protocol 0 (`RTPROT_UNSPEC`) stands for any in a removal; then the first of its priority goes.
fn removal(seen: &Seen) -> RouteNetlinkMessage {
    let Seen { found: Found { entry, priority, .. }, protocol } = *seen;
    match entry {
        Entry::Rule { v6, mark, table } => {
            RouteNetlinkMessage::DelRule(rule_message(v6, mark, table, protocol, priority))
        }
        Entry::Route { v6, table } => RouteNetlinkMessage::DelRoute(route_message(v6, table, protocol)),
        Entry::Address => RouteNetlinkMessage::DelAddress(address_message(protocol)),
    }
}

/// What a message of the kernel's describes, if it is of one of the three shapes.
fn seen(message: &RouteNetlinkMessage) -> Option<Seen> {
    if let RouteNetlinkMessage::NewRule(rule) = message {
        seen_rule(rule)
    } else if let RouteNetlinkMessage::NewRoute(route) = message {
        seen_route(route)
    } else {
        address_in(message).and_then(seen_address)
    }
}

fn address_in(message: &RouteNetlinkMessage) -> Option<&AddressMessage> {
    if let RouteNetlinkMessage::NewAddress(address) = message { Some(address) } else { None }
}

fn seen_as(entry: Entry, protocol: u8, priority: Option<u32>) -> Seen {
    Seen { found: Found { entry, ours: protocol == PROTOCOL, priority }, protocol }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "whatever else a rule says, it narrows it")]
fn seen_rule(rule: &RuleMessage) -> Option<Seen> {
    let header = &rule.header;
    let narrowed = header.dst_len != 0 || header.src_len != 0 || header.tos != 0 || !header.flags.is_empty();
    if narrowed || header.action != RuleAction::ToTable {
        return None;
    }
    // fib_nl_fill_rule() in net/core/fib_rules.c: a mark or a priority of 0 is left out.
    let (mut mark, mut mask, mut table, mut priority, mut protocol) = (0, 0, u32::from(header.table), 0, 0);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::FwMark(value) => mark = *value,
            RuleAttribute::FwMask(value) => mask = *value,
            RuleAttribute::Table(value) => table = *value,
            RuleAttribute::Priority(value) => priority = *value,
            RuleAttribute::Protocol(value) => protocol = u8::from(*value),
            // Always there; this is none.
            RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
            _ => return None,
        }
    }
    let entry = Entry::Rule { v6: is_v6(header.family)?, mark, table };
    (mark != 0 && mask == u32::MAX).then(|| seen_as(entry, protocol, Some(priority)))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "whatever else a route says, it is another route")]
fn seen_route(route: &RouteMessage) -> Option<Seen> {
    let v6 = is_v6(route.header.address_family)?;
    let protocol = u8::from(route.header.protocol);
    let (mut table, mut out) = (u32::from(route.header.table), None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Table(value) => table = *value,
            RouteAttribute::Oif(index) => out = Some(*index),
            RouteAttribute::Priority(V6_METRIC) if v6 => {}
            RouteAttribute::CacheInfo(_) | RouteAttribute::Preference(_) => {}
            _ => return None,
        }
    }
    let mut header = route_message(v6, table, protocol).header;
    (header.table, header.flags) = (route.header.table, route.header.flags);
    let same = out == Some(LO) && header == route.header;
    same.then(|| seen_as(Entry::Route { v6, table }, protocol, None))
}

fn seen_address(address: &AddressMessage) -> Option<Seen> {
    let header = &address.header;
    let same = (header.family, header.index, header.prefix_len) == (AddressFamily::Inet6, LO, 128)
        && own_address(address) == Some(ADDRESS.into());
    let protocol = address.attributes.iter().find_map(|attribute| {
        if let AddressAttribute::Protocol(protocol) = attribute { Some(u8::from(*protocol)) } else { None }
    });
    same.then(|| seen_as(Entry::Address, protocol.unwrap_or(0), None))
}

/// The interface's own address; of the two ends of a point-to-point link `IFA_ADDRESS` is the other one
/// (linux/if_addr.h).
#[expect(clippy::wildcard_enum_match_arm, reason = "the other attributes are no addresses of the interface")]
fn own_address(address: &AddressMessage) -> Option<IpAddr> {
    let mut far = None;
    for attribute in &address.attributes {
        match attribute {
            AddressAttribute::Local(own) => return Some(*own),
            AddressAttribute::Address(address) => far = Some(*address),
            _ => {}
        }
    }
    far
}

/// The address, if it can be meant by somebody elsewhere (`IsLoopback`, `IsLinkLocalUnicast` and
/// `IsLinkLocalMulticast` of Go's net/netip, which Istio asks).
fn machine_address(address: &AddressMessage) -> Option<IpAddr> {
    let address = own_address(address)?.to_canonical();
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.octets().starts_with(&[224, 0, 0]),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_bits() >> 112 & 0xff0f == 0xff02,
    };
    (!address.is_loopback() && !link_local).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Entry = Entry::Rule { v6: false, mark: 1337, table: 133 };

    /// As the kernel tells a rule: with `FRA_SUPPRESS_PREFIXLEN`, the compatibility table and a priority.
    fn told() -> RuleMessage {
        let mut rule = rule_message(false, 1337, 133, PROTOCOL, Some(32765));
        rule.header.table = 133;
        rule.attributes.push(RuleAttribute::SuppressPrefixLen(u32::MAX));
        rule
    }

    #[test]
    fn what_is_added_is_seen_as_ours() {
        let route = |v6| Entry::Route { v6, table: 4_000_000_000 };
        for entry in
            [RULE, Entry::Rule { v6: true, mark: 1, table: 300 }, route(false), route(true), Entry::Address]
        {
            let seen = seen(&addition(&entry)).unwrap();
            assert_eq!((seen.found.entry, seen.found.ours, seen.protocol), (entry, true, PROTOCOL));
        }
    }

    #[test]
    fn removal_names_owner_and_priority() {
        let rule = seen_rule(&told()).unwrap();
        assert_eq!(rule.found, Found { entry: RULE, ours: true, priority: Some(32765) });
        let RouteNetlinkMessage::DelRule(removed) = removal(&Seen { protocol: 3, ..rule }) else { panic!() };
        assert!(removed.attributes.contains(&RuleAttribute::Protocol(RouteProtocol::Boot)));
        assert!(removed.attributes.contains(&RuleAttribute::Priority(32765)));
        // The kernel leaves out a priority of 0, and takes none for any.
        let mut first = told();
        first.attributes.retain(|attribute| !matches!(attribute, RuleAttribute::Priority(_)));
        let RouteNetlinkMessage::DelRule(removed) = removal(&seen_rule(&first).unwrap()) else { panic!() };
        assert!(removed.attributes.contains(&RuleAttribute::Priority(0)));
    }

    #[test]
    fn other_rules_are_not_seen() {
        let with = |change: &dyn Fn(&mut RuleMessage)| {
            let mut rule = told();
            change(&mut rule);
            seen_rule(&rule)
        };
        assert!(with(&|_| ()).is_some());
        for attribute in [
            RuleAttribute::FwMask(0xffff),
            RuleAttribute::FwMark(0),
            RuleAttribute::Iifname("lo".into()),
            RuleAttribute::Oifname("lo".into()),
            RuleAttribute::Source(ADDRESS.into()),
            RuleAttribute::Goto(1),
            RuleAttribute::L3MDev(true),
            RuleAttribute::SuppressPrefixLen(0),
            RuleAttribute::TunId(1),
        ] {
            assert_eq!(with(&|rule| rule.attributes.push(attribute.clone())), None, "{attribute:?}");
        }
        assert_eq!(with(&|rule| rule.header.dst_len = 32), None);
        assert_eq!(with(&|rule| rule.header.src_len = 32), None);
        assert_eq!(with(&|rule| rule.header.tos = 4), None);
        assert_eq!(with(&|rule| rule.header.action = RuleAction::Prohibit), None);
        assert_eq!(with(&|rule| rule.header.flags = rtnetlink::packet_route::rule::RuleFlags::Invert), None);
        assert_eq!(with(&|rule| rule.header.family = AddressFamily::Other(128)), None);
    }

    #[test]
    fn other_routes_are_not_seen() {
        for v6 in [false, true] {
            let with = |change: &dyn Fn(&mut RouteMessage)| {
                let mut route = route_message(v6, 133, 3);
                change(&mut route);
                seen_route(&route)
            };
            assert_eq!(with(&|_| ()).unwrap().found.entry, Entry::Route { v6, table: 133 });
            assert!(!with(&|_| ()).unwrap().found.ours);
            assert_eq!(with(&|route| route.attributes.push(RouteAttribute::Oif(2))), None);
            assert_eq!(with(&|route| route.attributes.push(RouteAttribute::Priority(5))), None);
            assert_eq!(with(&|route| route.attributes.push(RouteAttribute::NhId(5))), None);
            assert_eq!(with(&|route| route.header.destination_prefix_length = 8), None);
            assert_eq!(with(&|route| route.header.source_prefix_length = 8), None);
            assert_eq!(with(&|route| route.header.kind = RouteType::Unicast), None);
            assert_eq!(with(&|route| route.header.tos = 4), None);
        }
    }

    #[test]
    fn other_addresses_are_not_seen() {
        let with = |change: &dyn Fn(&mut AddressMessage)| {
            let mut address = address_message(0);
            change(&mut address);
            seen_address(&address)
        };
        assert!(!with(&|_| ()).unwrap().found.ours);
        assert_eq!(with(&|address| address.header.prefix_len = 64), None);
        assert_eq!(with(&|address| address.header.index = 2), None);
        assert_eq!(with(&|address| address.attributes.clear()), None);
    }

    #[test]
    fn addresses_of_the_machine() {
        let machine = |address: &str| {
            let address: IpAddr = address.parse().unwrap();
            let mut message = AddressMessage::default();
            message.attributes.push(AddressAttribute::Address(address));
            machine_address(&message).map(|address| address.to_string())
        };
        for address in ["127.0.0.1", "::1", "169.254.1.1", "fe80::1", "224.0.0.1", "ff02::1", "ff12::1"] {
            assert_eq!(machine(address), None, "{address}");
        }
        for address in ["10.0.0.1", "224.0.1.1", "2001:db8::1", "fec0::1", "ff05::1", "::6"] {
            assert_eq!(machine(address).as_deref(), Some(address));
        }
        assert_eq!(machine("::ffff:10.0.0.1").as_deref(), Some("10.0.0.1"));
        assert_eq!(machine("::ffff:127.0.0.1"), None);
        // The other end of a point-to-point link is not the machine's.
        let mut tunnel = AddressMessage::default();
        let (peer, own) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        tunnel.attributes = vec![AddressAttribute::Address(peer), AddressAttribute::Local(own)];
        assert_eq!(machine_address(&tunnel), Some(own));
    }

    #[test]
    fn errors_name_the_way_out() {
        let told = |v6, errno| explain(&format!("adding `{RULE}`"), v6, errno);
        assert_eq!(told(false, Errno::EPERM).class, Class::Privilege);
        assert!(told(false, Errno::EPERM).to_string().contains("CAP_NET_ADMIN"));
        assert!(told(true, Errno::EACCES).to_string().contains("disable_ipv6"));
        assert_eq!(told(false, Errno::EACCES).class, Class::Refused);
        for errno in [Errno::ENETDOWN, Errno::ENETUNREACH] {
            assert!(told(true, errno).to_string().contains("bring lo up first"));
        }
        let refused = told(false, Errno::ENOMEM).to_string();
        assert_eq!(refused, "adding `ip rule fwmark 1337 lookup 133`: ENOMEM: Out of memory");
    }

    #[test]
    fn senseless_entries_are_refused() {
        for entry in [
            Entry::Rule { v6: false, mark: 0, table: 133 },
            Entry::Rule { v6: true, mark: 1337, table: 0 },
            Entry::Route { v6: true, table: 0 },
        ] {
            assert_eq!(add(&entry).unwrap_err().class, Class::Refused);
        }
    }
}
