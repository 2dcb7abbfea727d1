//! The rules of the classic layout, line by line, against what `proxy_init` 0.7.1 left behind.

use crate::harness::Case;
use crate::support::command::{Run, mesh_init};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_same, restore, save};

/// `iptables-save -t nat` of a container of the time, taken on 7 November 2018, without counters.
const SAVED_IN_2018: &str = r#"*nat
:PREROUTING ACCEPT
:INPUT ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
:DOCKER_OUTPUT -
:DOCKER_POSTROUTING -
:ISTIO_OUTPUT -
:ISTIO_REDIRECT -
-A PREROUTING -m comment --comment "istio/install-istio-prerouting" -j ISTIO_REDIRECT
-A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT
-A OUTPUT -p tcp -m comment --comment "istio/install-istio-output" -j ISTIO_OUTPUT
-A POSTROUTING -d 127.0.0.11/32 -j DOCKER_POSTROUTING
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p tcp -m tcp --dport 53 -j DNAT --to-destination 127.0.0.11:38786
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.11:35949
-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p tcp -m tcp --sport 38786 -j SNAT --to-source :53
-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p udp -m udp --sport 35949 -j SNAT --to-source :53
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -m comment --comment "istio/redirect-implicit-loopback" -j ISTIO_REDIRECT
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -m comment --comment "istio/bypass-envoy" -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -m comment --comment "istio/bypass-explicit-loopback" -j RETURN
-A ISTIO_OUTPUT -m comment --comment "istio/redirect-default-outbound" -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -m comment --comment "istio/redirect-to-envoy-port" -j REDIRECT --to-ports 15001
COMMIT
"#;

/// The same rules for IPv6, which `proxy_init` never wrote.
const IPV6: &str = r#"*nat
:PREROUTING ACCEPT
:INPUT ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
:ISTIO_OUTPUT -
:ISTIO_REDIRECT -
-A PREROUTING -m comment --comment "istio/install-istio-prerouting" -j ISTIO_REDIRECT
-A OUTPUT -p tcp -m comment --comment "istio/install-istio-output" -j ISTIO_OUTPUT
-A ISTIO_OUTPUT ! -d ::1/128 -o lo -m comment --comment "istio/redirect-implicit-loopback" -j ISTIO_REDIRECT
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -m comment --comment "istio/bypass-envoy" -j RETURN
-A ISTIO_OUTPUT -d ::1/128 -m comment --comment "istio/bypass-explicit-loopback" -j RETURN
-A ISTIO_OUTPUT -m comment --comment "istio/redirect-default-outbound" -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -m comment --comment "istio/redirect-to-envoy-port" -j REDIRECT --to-ports 15001
COMMIT
"#;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![Case::new("golden::iptables_finds_each_rule", iptables_finds_each_rule)];
    cases.extend(Case::each_variant("golden::alone", alone));
    cases.extend(Case::each_variant("golden::beside_docker", beside_docker));
    cases
}

pub(crate) fn capture(netns: &Netns, variant: Variant) {
    mesh_init(netns, &["-p", "15001", "-u", "1337", "--iptables-variant", variant.name()]).ok();
}

/// In a namespace that held nothing, there is nothing but ours.
fn alone(variant: Variant) {
    let netns = Netns::new("here");
    capture(&netns, variant);
    assert_same("IPv4", &without("DOCKER_", SAVED_IN_2018), &nat(&netns, variant, Family::V4));
    assert_same("IPv6", IPV6, &nat(&netns, variant, Family::V6));
    for family in Family::BOTH {
        let tables = save(&netns, variant, family, &[]);
        let tables: Vec<_> = tables.lines().filter(|line| line.starts_with('*')).collect();
        assert_eq!(tables, ["*nat"], "expected no other table of {family:?}");
        let other = save(&netns, variant.other(), family, &[]);
        assert_eq!(other, "", "expected nothing of {family:?} in {}", variant.other().name());
    }
}

/// Beside Docker's rules the whole table equals what was saved then.
fn beside_docker(variant: Variant) {
    let netns = Netns::new("here");
    restore(&netns, variant, Family::V4, &without("ISTIO_", SAVED_IN_2018));
    capture(&netns, variant);
    assert_same("IPv4", SAVED_IN_2018, &nat(&netns, variant, Family::V4));
}

/// Asks iptables itself, rule by rule, with the variant that this machine has under the plain name.
fn iptables_finds_each_rule() {
    let netns = Netns::new("here");
    let is_nft = Run::new(&netns, "iptables", &["--version"]).ok().contains("nf_tables");
    capture(&netns, if is_nft { Variant::Nft } else { Variant::Legacy });
    for (is_ipv6, saved) in [(false, without("DOCKER_", SAVED_IN_2018)), (true, IPV6.to_owned())] {
        netns.run(|| {
            let tables = iptables::new(is_ipv6).expect("iptables is installed");
            for rule in saved.lines().filter_map(|line| line.strip_prefix("-A ")) {
                let (chain, rule) = rule.split_once(' ').expect("a chain and a rule");
                let found = tables.exists("nat", chain, rule);
                assert!(matches!(found, Ok(true)), "expected `-C {chain} {rule}` to find it, seen {found:?}");
                let absent = tables.exists("nat", chain, &rule.replace("istio/", "mesh/"));
                assert!(
                    matches!(absent, Ok(false)),
                    "expected `-C` of another rule to fail, seen {absent:?}"
                );
            }
        });
    }
}

fn nat(netns: &Netns, variant: Variant, family: Family) -> String {
    let saved = save(netns, variant, family, &["-t", "nat"]);
    let line = |line: &str| line.strip_suffix("[0:0]").map_or(line, str::trim_end).to_owned() + "\n";
    saved.lines().filter(|line| !line.starts_with('#')).map(line).collect()
}

fn without(word: &str, saved: &str) -> String {
    saved.split_inclusive('\n').filter(|line| !line.contains(word)).collect()
}
