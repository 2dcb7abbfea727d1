//! The program beside the golden files of `istio-iptables`.

use std::collections::BTreeMap;
use std::ffi::OsString;

use mesh_init::backend::iptables::transcript::transcript;
use mesh_init::cli::{self, Parsed};
use mesh_init::input::{Faults, istio};
use mesh_init::policy::{Facts, Families, Ipv6, facts, istio as meant};

use super::differences;
use super::upstream::{Case, cases};

fn facts_of(host: &str) -> Facts {
    let mut of = Facts::default();
    for line in host.lines().filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["address", address] => of.addresses.push(address.parse().unwrap()),
            ["nameserver", _] => of.resolvers.extend(facts::parse_resolvers(line)),
            ["user", name, id] => {
                of.users.insert(name.to_owned(), id.parse().unwrap());
            }
            ["group", name, id] => {
                of.groups.insert(name.to_owned(), id.parse().unwrap());
            }
            _ => panic!("{line:?} in a case's host"),
        }
    }
    // The kernel lists IPv4 first; what counts as an address is for the machine's side to say.
    of.addresses.retain(|address| match address {
        std::net::IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
        std::net::IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    });
    of.addresses.sort_by_key(std::net::IpAddr::is_ipv6);
    of
}

fn program(case: &Case) -> String {
    let words = ["mesh-init", "istio-iptables"].into_iter().map(str::to_owned).chain(case.args.clone());
    let Parsed::Istio(given) = cli::parse(words.map(OsString::from)) else {
        return "is not understood".to_owned();
    };
    let texts: BTreeMap<&str, Vec<String>> = given.flags.iter().cloned().collect();
    let environment: Vec<(OsString, OsString)> =
        case.env.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let mut faults = Faults::default();
    let read = istio::parse(|long| texts.get(long).cloned(), &environment, &mut faults);
    match meant::call(&read, given.extra.clone(), &facts_of(&case.host), faults) {
        Err(faults) => faults.to_string(),
        Ok(meant::Call { request, .. }) => {
            let families = if request.policy.ipv6 == Ipv6::Off { Families::V4 } else { Families::Both };
            transcript(&request.policy, request.layout, families)
        }
    }
}

#[test]
fn the_program_makes_upstreams_rules_to_the_letter() {
    let mut wrong = String::new();
    for case in cases() {
        let seen = program(&case);
        if seen != case.expected {
            wrong.push_str(&format!("{}:\n{}", case.name, differences(&case.expected, &seen)));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
