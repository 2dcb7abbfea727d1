//! Hosts and the wires between them.
//!
//! ```text
//!   behind 10.2.0.2 ── eth1 10.2.0.1  here  10.0.0.1, 10.0.9.1 eth0 ── eth0 10.0.0.2, 10.0.9.2  there
//! ```
//!
//! Every IPv4 address `10.x.0.y` has a companion `fd00:x::y`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::thread;
use std::time::{Duration, Instant};

use super::command::Run;
use super::netns::Netns;
use super::rules::Family;

/// One host's address in both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl Addresses {
    const fn on(net: u8, host: u8) -> Self {
        let (wide_net, wide_host) = (net as u16, host as u16);
        Self {
            v4: Ipv4Addr::new(10, net, 0, host),
            v6: Ipv6Addr::new(0xfd00, wide_net, 0, 0, 0, 0, 0, wide_host),
        }
    }

    pub(crate) const fn ip(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(self.v4),
            Family::V6 => IpAddr::V6(self.v6),
        }
    }

    pub(crate) const fn port(self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(family), port)
    }
}

/// The host whose traffic is captured, and a second address of the same interface.
pub(crate) const HERE: Addresses = Addresses::on(0, 1);
pub(crate) const HERE_FAR: Addresses = Addresses::on(9, 1);
/// The other host, and its address in a second network.
pub(crate) const THERE: Addresses = Addresses::on(0, 2);
pub(crate) const THERE_FAR: Addresses = Addresses::on(9, 2);
/// The second network, as a list that a flag takes.
pub(crate) const FAR_NETS: &str = "10.9.0.0/24,fd00:9::/64";
/// What is routed through the captured host, and the captured host's address there.
pub(crate) const BEHIND: Addresses = Addresses::on(2, 2);
pub(crate) const HERE_INNER: Addresses = Addresses::on(2, 1);
pub(crate) const LOOPBACK: Addresses = Addresses { v4: Ipv4Addr::LOCALHOST, v6: Ipv6Addr::LOCALHOST };

/// `here` and `there`, on one wire with two networks.
pub(crate) fn two_hosts() -> (Netns, Netns) {
    let (here, there) = (Netns::new("here"), Netns::new("there"));
    connect(&here, "eth0", &there, "eth0");
    address(&here, "eth0", &[HERE, HERE_FAR]);
    address(&there, "eth0", &[THERE, THERE_FAR]);
    settle(&[&here, &there]);
    (here, there)
}

/// `here`, `there` and `behind`, which reaches `there` only through `here`.
pub(crate) fn three_hosts() -> (Netns, Netns, Netns) {
    let (here, there) = two_hosts();
    let behind = Netns::new("behind");
    connect(&here, "eth1", &behind, "eth0");
    address(&here, "eth1", &[HERE_INNER]);
    address(&behind, "eth0", &[BEHIND]);
    settle(&[&here, &behind]);
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        here.sysctl(key, "1");
    }
    for family in Family::BOTH {
        let default = HERE_INNER.ip(family);
        behind.ip(&format!("route add default via {default}"));
        let (back, gateway) = (BEHIND.ip(family), HERE.ip(family));
        there.ip(&format!("route add {back} via {gateway}"));
    }
    (here, there, behind)
}

/// The link-local address of `of`'s `eth0`, as `from` dials it through its own `eth0`.
pub(crate) fn link_local(of: &Netns, from: &Netns, port: u16) -> SocketAddr {
    let shown = Run::new(of, "ip", &["-6", "-o", "addr", "show", "dev", "eth0", "scope", "link"]).ok();
    let address = shown.split_whitespace().nth(3).and_then(|word| word.split('/').next()?.parse().ok());
    let address: Ipv6Addr = address.unwrap_or_else(|| panic!("no link-local address in {shown:?}"));
    let index = from.run(|| nix::net::if_::if_nametoindex("eth0")).expect("`eth0`");
    SocketAddr::V6(SocketAddrV6::new(address, port, 0, index))
}

/// A veth pair, one end in each namespace, both up.
pub(crate) fn connect(left: &Netns, left_name: &str, right: &Netns, right_name: &str) {
    for netns in [left, right] {
        // Nobody waits for duplicates.
        netns.sysctl("net/ipv6/conf/default/accept_dad", "0");
    }
    let far_end = right.path();
    let far_end = far_end.display();
    left.ip(&format!(
        "link add {left_name} type veth peer name {right_name} netns {far_end}\nlink set {left_name} up"
    ));
    right.ip(&format!("link set {right_name} up"));
}

pub(crate) fn address(netns: &Netns, device: &str, all: &[Addresses]) {
    let line = |addresses: &Addresses| {
        let Addresses { v4, v6 } = addresses;
        format!("addr add {v4}/24 dev {device}\naddr add {v6}/64 dev {device} nodad\n")
    };
    netns.ip(&all.iter().map(line).collect::<String>());
}

/// Waits until every link is up and every address is in use: the kernel brings up links and IPv6 addresses in
/// its own time, each with routes that would otherwise come while a test looks.
pub(crate) fn settle(hosts: &[&Netns]) {
    let end = Instant::now() + Duration::from_secs(5);
    for netns in hosts {
        while let Err(unsettled) = is_settled(netns) {
            assert!(Instant::now() < end, "`{}` never settled: {unsettled}", netns.name());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn is_settled(netns: &Netns) -> Result<(), String> {
    let ip = |words: &str| Run::new(netns, "ip", &words.split(' ').collect::<Vec<_>>()).ok();
    let links = ip("-o link show type veth");
    if let Some(down) = links.lines().find(|link| !link.contains(" state UP ")) {
        return Err(down.to_owned());
    }
    let link_local = ip("-6 -o addr show scope link");
    if link_local.lines().count() < links.lines().count() {
        return Err(format!("no link-local address on each link, seen {link_local:?}"));
    }
    match unused_address(netns) {
        Some(address) => Err(format!("{address} is not in use")),
        None => Ok(()),
    }
}

/// Waits a while until every IPv6 address is in use. Where a link is down, or somebody else has the address, that never
/// comes, and is no fault.
pub(crate) fn await_addresses(netns: &Netns) {
    let end = Instant::now() + Duration::from_millis(1500);
    while unused_address(netns).is_some() && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
    }
}

/// An address that has no route yet: that comes a little later, also on lo (addrconf_dad_work() in
/// net/ipv6/addrconf.c); or of which is not known yet whether somebody else has it.
fn unused_address(netns: &Netns) -> Option<String> {
    let ip = |words: &str| Run::new(netns, "ip", &words.split(' ').collect::<Vec<_>>()).ok();
    let routes = ip("-6 route show table all");
    let waits = |line: &str| {
        let address = line.split_whitespace().nth(3)?.split('/').next()?;
        let tentative = line.contains(" tentative") && !line.contains(" dadfailed");
        let routed = routes.contains(&format!("local {address} dev "));
        (tentative || !routed).then(|| address.to_owned())
    };
    ip("-6 -o addr show").lines().find_map(waits)
}
