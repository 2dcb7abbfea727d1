//! Policies of thousands of networks and ports: they are applied at once, or refused whole.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, getsockopt, setsockopt, socket, sockopt,
};

use crate::child::skip;
use crate::harness::Case;
use crate::scoped::{APP, PROXY};
use crate::support::command::{MESH_INIT, Run, mesh_init};
use crate::support::creds::Who;
use crate::support::dial::dial;
use crate::support::netns::Netns;
use crate::support::rules::{Family, assert_same, dump};
use crate::support::serve::Service;
use crate::support::wire::{THERE, THERE_FAR, two_hosts};

pub(crate) fn cases() -> Vec<Case> {
    let list: [(&str, fn()); 2] = [("thousands", thousands), ("too_many", too_many)];
    let case = |(name, body): (&str, fn())| {
        Case::new(&format!("native::wide::{name}"), body).within(Duration::from_secs(120))
    };
    list.into_iter().map(case).collect()
}

/// Addresses of which no two are neighbours, so that none can be merged.
fn v4(number: u32) -> impl Iterator<Item = String> {
    let begin = u32::from(Ipv4Addr::new(20, 0, 0, 0));
    (0..number).map(move |at| format!("{}/32", Ipv4Addr::from(begin + 2 * at)))
}

fn v6(number: u32) -> impl Iterator<Item = String> {
    let begin = u128::from(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0));
    (0..u128::from(number)).map(move |at| format!("{}/128", Ipv6Addr::from(begin + 2 * at)))
}

/// A file of settings, for more than fits one argument.
fn write(path: &str, cidrs: &[String], ports: &[u16]) {
    let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
    let text = format!(
        "MESH_INIT_EXCLUDE_OUTBOUND_CIDR={}\nMESH_INIT_EXCLUDE_OUTBOUND_PORT={}\n",
        cidrs.join(","),
        ports.join(",")
    );
    fs::write(path, text).expect("a file in /run");
}

/// The elements of the sets in our tables.
fn elements(netns: &Netns) -> usize {
    let listed = Run::new(netns, "nft", &["-j", "list", "ruleset"]).ok();
    let json: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let objects = json["nftables"].as_array().expect("a list");
    objects.iter().filter_map(|object| object["set"]["elem"].as_array()).map(Vec::len).sum()
}

/// Ten thousand networks and a thousand ports, in one run, and each counts for itself.
fn thousands() {
    const FILE: &str = "/run/many.env";
    const FLAGS: [&str; 8] = ["-p", "15001", "-u", "1337", "--backend", "nftables", "--env-file", FILE];
    let (here, there) = two_hosts();
    let empty = dump(&here);
    let ports: Vec<u16> = (0..1000).map(|at| 2000 + 2 * at).collect();
    let mut cidrs: Vec<_> = v4(5000).chain(v6(4998)).collect();
    cidrs.extend(["10.9.0.2/32".to_owned(), "fd00:9::2/128".to_owned()]);
    assert_eq!(cidrs.len(), 10_000);
    write(FILE, &cidrs, &ports);
    let tried = [80, 1999, 2000, 2001, 3002, 3003, 3998, 3999];
    Service::tcp(&here, PROXY, "proxy", &[15001]);
    Service::tcp(&there, Who::ROOT, "there", &tried);
    mesh_init(&here, &FLAGS).code(0).says("\nchanged ");
    // Each family has its networks, and all ports.
    assert_eq!(elements(&here), 10_000 + 2 * 1000);
    mesh_init(&here, &FLAGS).code(0).says("nothing to do");
    mesh_init(&here, &["verify", "--quick"]).code(0);
    for family in Family::BOTH {
        for port in tried {
            let dialled = dial(&here, APP, THERE.port(family, port));
            match ports.contains(&port) {
                true => dialled.untouched_to("there"),
                false => dialled.captured_by("proxy"),
            }
            dial(&here, APP, THERE_FAR.port(family, port)).untouched_to("there");
        }
    }
    for (place, cidr) in [(0, "20.0.0.0"), (4999, "20.0.39.14"), (5000, "2000::"), (9997, "2000::270a")] {
        assert_eq!(cidrs[place].split('/').next(), Some(cidr));
        let target = if cidr.contains(':') { format!("[{cidr}]:80") } else { format!("{cidr}:80") };
        let ask = |target: &str| mesh_init(&here, &["explain", "--live", &format!("out tcp {target}")]);
        ask(&target).code(0).says("not captured: ").says("outbound.exclude-cidr");
    }
    for between in ["20.0.0.1:80", "20.0.39.13:80", "[2000::1]:80", "[2000::2709]:80"] {
        let run = mesh_init(&here, &["explain", "--live", &format!("out tcp {between}")]).code(0);
        assert!(run.stdout.starts_with("captured -> 15001: "), "{run}");
    }
    mesh_init(&here, &["clean"]).code(0).says("removed");
    assert_same("after clean", &empty, &dump(&here));
}

/// How much a netlink socket of the calling thread may send at once, however much it asks for (socket(7), `SO_SNDBUF`).
fn room() -> u32 {
    let none = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, none, SockProtocol::NetlinkNetFilter);
    let fd = fd.expect("a netlink socket");
    setsockopt(&fd, sockopt::SndBuf, &(1 << 29)).expect("whatever is asked for is cut");
    getsockopt(&fd, sockopt::SndBuf).expect("a number").try_into().expect("bytes")
}

/// What a user namespace may send at once is bounded by a sysctl of the host. A policy that needs more is refused, which
/// says how much it is, how much there may be, and what to do; nothing is changed.
fn too_many() {
    const FILE: &str = "/run/too-many.env";
    let netns = Netns::new("here");
    let limit = netns.run_as(APP, room);
    // Two elements of more than 30 bytes each are one network of IPv6, which takes at most 17 bytes of text.
    let number = limit / 50;
    if number > 230_000 {
        skip(&format!("net.core.wmem_max lets {limit} bytes through at once: no policy file is that large"));
    }
    write(FILE, &v6(number).collect::<Vec<_>>(), &[]);
    let script = format!(
        "ip link set lo up
        {MESH_INIT} -p 15001 --backend nftables --env-file {FILE} > /dev/null; echo first $?
        nft list ruleset; ip -6 addr show lo | grep -c ' ::6/'
        {MESH_INIT} -p 15001 -u 1337 > /dev/null; echo small $?
        before=$(nft -s list ruleset; ip -6 rule; ip addr)
        {MESH_INIT} -p 15001 --env-file {FILE} > /dev/null; echo second $?
        test \"$before\" = \"$(nft -s list ruleset; ip -6 rule; ip addr)\" && echo unchanged
        {MESH_INIT} verify --quick > /dev/null; echo verified $?
        {MESH_INIT} clean > /dev/null; nft list ruleset"
    );
    let run = Run::as_user(&netns, APP, "unshare", &["-Urn", "sh", "-c", &script], "").code(0);
    let lines: Vec<_> = run.stdout.lines().collect();
    assert_eq!(lines, ["first 69", "0", "small 0", "second 69", "unchanged", "verified 0"], "{run}");
    let told: Vec<_> = run.stderr.lines().filter(|line| line.starts_with("mesh-init: ")).collect();
    assert_eq!(told.len(), 2, "{run}");
    for line in told {
        let words: Vec<_> = line.split(' ').collect();
        let after = |word: &str| -> Option<u64> {
            let at = words.iter().position(|seen| *seen == word)?;
            words.get(at + 1)?.trim_end_matches(|of: char| !of.is_ascii_digit()).parse().ok()
        };
        // "the rules are N bytes of netlink messages in one step, of which this socket may send L; ..."
        let (size, room, needed) = (after("are"), after("send"), after("least"));
        assert_eq!(room, Some(u64::from(limit)), "{line}");
        assert!(size > room && size.is_some_and(|size| needed > Some(size / 2)), "{line}");
        assert!(line.contains("set the sysctl net.core.wmem_max of the host to at least "), "{line}");
        assert!(line.ends_with("or give fewer networks"), "{line}");
    }
}
