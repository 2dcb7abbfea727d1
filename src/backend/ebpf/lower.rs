//! A policy as the maps of the BPF programs hold it, so that one look-up decides addresses, one ports, and one each the
//! user and the group.

use std::collections::BTreeMap;

use mesh_init_abi::{
    Meaning, NetFlags, NetKey, OwnerFlags, OwnerKey, OwnerKind, Policy, PolicyFlags, PortFlags, PortKey,
};

use super::{ports, trie};
use crate::policy::validate::reserved_inbound;
use crate::policy::{
    CapturePolicy, Cidr, Destinations, Dns, Families, Family, Groups, Inbound, Layout, Mode, Owners, PortSet,
    Unable,
};

/// Where a policy is written: the namespace, and the generation of what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The namespace's cookie (`SO_NETNS_COOKIE`, include/uapi/asm-generic/socket.h).
    pub netns: u64,
    /// The generation.
    pub generation: u32,
}

/// What the maps hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lowered {
    /// What holds of the whole namespace.
    pub policy: Policy,
    /// The networks.
    pub networks: Vec<(NetKey, NetFlags)>,
    /// The ports.
    pub ports: Vec<(PortKey, PortFlags)>,
    /// The users and groups.
    pub owners: Vec<(OwnerKey, OwnerFlags)>,
}

impl Lowered {
    /// Puts everything in the order of its numbers: maps have none that lasts.
    pub fn sort(&mut self) {
        let Lowered { networks, ports, owners, .. } = self;
        networks.sort_unstable_by_key(|(key, _)| (key.address.0.map(u32::from_be), key.prefix_len));
        ports.sort_unstable_by_key(|(key, _)| (u16::from_be(key.port), key.prefix_len));
        owners.sort_unstable_by_key(|(key, _)| (key.kind, key.id));
    }

    /// Whether the proxy is known by the user, as the initial user namespace has the id.
    #[must_use]
    pub fn has_proxy(&self, uid: u32) -> bool {
        let mut users = self.owners.iter().filter(|(key, _)| key.kind == OwnerKind::USER && key.id == uid);
        users.any(|(_, flags)| flags.has(OwnerFlags::PROXY))
    }

    /// The same under another generation.
    #[must_use]
    pub fn at(&self, generation: u32) -> Lowered {
        let Lowered { policy, networks, ports, owners } = self;
        Lowered {
            policy: Policy { generation, ..*policy },
            networks: networks.iter().map(|(key, flags)| (NetKey { generation, ..*key }, *flags)).collect(),
            ports: ports.iter().map(|(key, flags)| (PortKey { generation, ..*key }, *flags)).collect(),
            owners: owners.iter().map(|(key, flags)| (OwnerKey { generation, ..*key }, *flags)).collect(),
        }
    }
}

/// Lowers `policy`, as `layout` means it, for `families`.
///
/// # Errors
/// Everything that it asks for and no hook of a socket can do.
pub fn lower(
    policy: &CapturePolicy,
    layout: Layout,
    families: Families,
    place: Place,
) -> Result<Lowered, Vec<Unable>> {
    let Place { netns, generation } = place;
    let unable = Unable::of(policy);
    if !unable.is_empty() {
        return Err(unable);
    }
    let net = |(address, len, flags): trie::Entry| (NetKey::network(netns, generation, address, len), flags);
    let port = |(port, len, flags): ports::Entry| (PortKey::range(netns, generation, port, len), flags);
    let mut lowered = Lowered {
        policy: scalars(policy, layout, families, generation),
        networks: Vec::new(),
        ports: Vec::new(),
        owners: Vec::new(),
    };
    if policy.mode != Mode::None {
        lowered.networks = networks(policy, families).into_iter().map(net).collect();
        lowered.ports = named_ports(policy, layout).into_iter().map(port).collect();
        lowered.owners = owners(policy, place);
    }
    Ok(lowered)
}

fn scalars(policy: &CapturePolicy, layout: Layout, families: Families, generation: u32) -> Policy {
    let proxy = &policy.proxy;
    let meaning = match (policy.mode, layout) {
        (Mode::None, _) => Meaning::NOTHING,
        (Mode::Redirect | Mode::Tproxy, Layout::Classic) => Meaning::CLASSIC,
        (Mode::Redirect | Mode::Tproxy, Layout::Scoped) => Meaning::SCOPED,
        (Mode::Redirect | Mode::Tproxy, Layout::Istio) => Meaning::ISTIO,
        (Mode::Redirect | Mode::Tproxy, Layout::IstioIptables) => Meaning::ISTIO_IPTABLES,
    };
    let to_loopback = match &policy.outbound.destinations {
        Destinations::All { .. } => false,
        Destinations::Some { cidrs, .. } => cidrs.iter().any(Cidr::begins_at_loopback),
    };
    let inbound = !matches!(&policy.inbound, Inbound::Only(ports) if ports.is_empty());
    let flags = [
        PolicyFlags::IPV6.only_if(families == Families::Both),
        PolicyFlags::OUTBOUND_V4.only_if(looks_outbound(policy, layout, Family::V4)),
        PolicyFlags::OUTBOUND_V6.only_if(looks_outbound(policy, layout, Family::V6)),
        PolicyFlags::TO_ALL.only_if(matches!(policy.outbound.destinations, Destinations::All { .. })),
        PolicyFlags::TO_LOOPBACK.only_if(to_loopback),
        PolicyFlags::DNS.only_if(policy.dns != Dns::Off),
        PolicyFlags::DNS_ALL.only_if(matches!(policy.dns, Dns::All { .. })),
        PolicyFlags::GROUPS_ONLY.only_if(matches!(policy.outbound.groups, Groups::Only(_))),
        PolicyFlags::INBOUND.only_if(inbound),
        PolicyFlags::INBOUND_ALL.only_if(matches!(policy.inbound, Inbound::AllExcept(_))),
    ];
    Policy {
        generation,
        meaning,
        flags: flags.into_iter().fold(PolicyFlags::NONE, PolicyFlags::and),
        outbound_port: proxy.port.number(),
        // proxy_init 0.7.1 knew one port for both directions.
        inbound_port: if layout == Layout::Classic { proxy.port } else { proxy.inbound_port }.number(),
        tunnel_port: proxy.tunnel_port.number(),
        dns_port: match &policy.dns {
            Dns::Off => 0,
            Dns::Servers { port, .. } | Dns::All { port } => port.number(),
        },
    }
}

/// Whether the layout looks at what goes out in `family` at all.
fn looks_outbound(policy: &CapturePolicy, layout: Layout, family: Family) -> bool {
    let outbound = &policy.outbound;
    match (layout, &outbound.destinations) {
        (Layout::Istio | Layout::IstioIptables, _) | (Layout::Classic, Destinations::All { .. }) => true,
        (Layout::Classic, Destinations::Some { cidrs, ports }) => !cidrs.is_empty() || !ports.is_empty(),
        (Layout::Scoped, destinations) => {
            let owners = match &outbound.owners {
                Owners::Everyone => false,
                Owners::Only { uids, gids } => !uids.is_empty() || !gids.is_empty(),
            };
            let somewhere = match destinations {
                Destinations::All { .. } => true,
                Destinations::Some { cidrs, ports } => {
                    !ports.is_empty() || cidrs.iter().any(|cidr| cidr.family() == family)
                }
            };
            owners && somewhere
        }
    }
}

fn networks(policy: &CapturePolicy, families: Families) -> Vec<trie::Entry> {
    let included: &[Cidr] = match &policy.outbound.destinations {
        Destinations::All { .. } => &[],
        Destinations::Some { cidrs, .. } => cidrs,
    };
    let servers: Vec<Cidr> = match &policy.dns {
        Dns::Servers { servers, .. } => servers.iter().map(|server| Cidr::from(*server)).collect(),
        Dns::Off | Dns::All { .. } => Vec::new(),
    };
    let loopback = [policy.loopback, Family::V6.loopback()];
    trie::flatten(
        families.list(),
        &[
            (&loopback, NetFlags::LOOPBACK),
            (&policy.outbound.exclude_cidrs, NetFlags::EXCLUDED),
            (included, NetFlags::INCLUDED),
            (&servers, NetFlags::DNS_SERVER),
        ],
    )
}

fn named_ports(policy: &CapturePolicy, layout: Layout) -> Vec<ports::Entry> {
    let outbound = &policy.outbound;
    let (Destinations::All { ports: included } | Destinations::Some { ports: included, .. }) =
        &outbound.destinations;
    let (Inbound::AllExcept(inbound) | Inbound::Only(inbound)) = &policy.inbound;
    let reserved = match layout {
        Layout::Scoped => reserved_inbound(&policy.proxy),
        Layout::Classic | Layout::Istio | Layout::IstioIptables => PortSet::default(),
    };
    // All of 0.7.1's inbound was captured: a list beside it says no more.
    let nothing = PortSet::default();
    let inbound = if layout == Layout::Classic { &nothing } else { inbound };
    ports::flatten(&[
        (&outbound.exclude_ports, PortFlags::OUT_EXCLUDED),
        (included, PortFlags::OUT_INCLUDED),
        (inbound, PortFlags::IN_NAMED),
        (&reserved, PortFlags::IN_RESERVED),
    ])
}

fn owners(policy: &CapturePolicy, place: Place) -> Vec<(OwnerKey, OwnerFlags)> {
    let proxy = &policy.proxy;
    let user = |uid: u32| (OwnerKind::USER.0, uid);
    let group = |gid: u32| (OwnerKind::GROUP.0, gid);
    let mut owners: BTreeMap<(u32, u32), OwnerFlags> = BTreeMap::new();
    let mut say = |id: (u32, u32), flags: OwnerFlags| {
        let said = owners.entry(id).or_default();
        *said = said.and(flags);
    };
    let identities: Vec<(u32, u32)> = {
        let users = proxy.uids.iter().map(|uid| user(uid.number()));
        users.chain(proxy.gids.iter().map(|gid| group(gid.number()))).collect()
    };
    identities.iter().for_each(|id| say(*id, OwnerFlags::PROXY));
    identities.first().into_iter().for_each(|id| say(*id, OwnerFlags::FIRST));
    if let Owners::Only { uids, gids } = &policy.outbound.owners {
        uids.iter().for_each(|uid| say(user(uid.number()), OwnerFlags::OWNER));
        gids.iter().for_each(|gid| say(group(gid.number()), OwnerFlags::OWNER));
    }
    let (Groups::AllExcept(gids) | Groups::Only(gids)) = &policy.outbound.groups;
    gids.iter().for_each(|gid| say(group(gid.number()), OwnerFlags::GROUP));
    let key = |kind, id| OwnerKey::of(place.netns, place.generation, OwnerKind(kind), id);
    owners.into_iter().map(|((kind, id), flags)| (key(kind, id), flags)).collect()
}
