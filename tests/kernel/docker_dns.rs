//! Docker's resolver at 127.0.0.11 is DNATed in `nat`, like our redirects; both have to work side by side.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::again::CLASSIC;
use crate::harness::Case;
use crate::scoped::{APP, OWNER, PROXY, VM, apply};
use crate::support::command::{Run, mesh_init};
use crate::support::creds::Who;
use crate::support::dial::{dial, dial_udp};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, restore};
use crate::support::serve::Service;
use crate::support::wire::{THERE, two_hosts};

const RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));
/// As in a container of a network that the user defined.
pub(crate) const RULES: &str = "\
*nat
:DOCKER_OUTPUT - [0:0]
:DOCKER_POSTROUTING - [0:0]
-A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT
-A POSTROUTING -d 127.0.0.11/32 -j DOCKER_POSTROUTING
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p tcp -m tcp --dport 53 -j DNAT --to-destination 127.0.0.11:38786
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.11:35949
-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p tcp -m tcp --sport 38786 -j SNAT --to-source :53
-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p udp -m udp --sport 35949 -j SNAT --to-source :53
COMMIT
";

pub(crate) fn cases() -> Vec<Case> {
    Case::all_for_each_variant(&[
        ("docker_dns::classic", |variant| still_answers(variant, &CLASSIC)),
        ("docker_dns::scoped", |variant| still_answers(variant, &VM)),
    ])
}

fn still_answers(variant: Variant, flags: &[&str]) {
    let (here, _there) = hosts();
    restore(&here, variant, Family::V4, RULES);
    answers(&here);
    apply(&here, variant, flags);
    answers(&here);
    dial(&here, OWNER, THERE.port(Family::V4, 80)).captured_by("proxy");
}

fn hosts() -> (Netns, Netns) {
    let (here, there) = two_hosts();
    Service::tcp(&here, PROXY, "proxy", &[15001]);
    Service::tcp(&here, Who::ROOT, "resolver", &[38786]);
    Service::udp_at(&here, Who::ROOT, "resolver", &[SocketAddr::new(RESOLVER, 35949)]);
    Service::tcp(&there, Who::ROOT, "there", &[80]);
    (here, there)
}

/// The same as a table of nftables.
const TABLE: &str = "\
table ip docker-dns {
	chain output {
		type nat hook output priority -100; policy accept;
		ip daddr 127.0.0.11 tcp dport 53 counter dnat to 127.0.0.11:38786
		ip daddr 127.0.0.11 udp dport 53 counter dnat to 127.0.0.11:35949
	}
	chain postrouting {
		type nat hook postrouting priority 100; policy accept;
		ip saddr 127.0.0.11 tcp sport 38786 counter snat to :53
		ip saddr 127.0.0.11 udp sport 35949 counter snat to :53
	}
}
";

/// Puts Docker's rules there.
fn load(here: &Netns, theirs: Variant) {
    match theirs {
        Variant::Legacy | Variant::Nft => restore(here, theirs, Family::V4, RULES),
        Variant::Native => drop(Run::with_input(here, "nft", &["-f", "-"], TABLE).ok()),
    }
}

/// Rules of ours in nftables are beside Docker's and not around them: it is no matter which came first.
pub(crate) fn beside(theirs: Variant, flags: &[&str]) {
    for before in [true, false] {
        let (here, _there) = hosts();
        if before {
            load(&here, theirs);
        }
        apply(&here, Variant::Native, flags);
        if !before {
            load(&here, theirs);
        }
        answers(&here);
        dial(&here, OWNER, THERE.port(Family::V4, 80)).captured_by("proxy");
        mesh_init(&here, &["clean"]).code(0);
        answers(&here);
    }
}

fn answers(here: &Netns) {
    let resolver = SocketAddr::new(RESOLVER, 53);
    for who in [APP, OWNER, PROXY, Who::ROOT] {
        for dialled in [dial(here, who, resolver), dial_udp(here, who, resolver)] {
            let name = dialled.answer.as_ref().map(|greeting| greeting.name.as_str());
            assert_eq!(name, Ok("resolver"), "expected the resolver's answer, seen {dialled}");
        }
    }
}
