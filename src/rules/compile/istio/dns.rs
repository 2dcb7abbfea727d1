//! DNS: queries go to the agent, and conntrack keeps the agent's own queries apart from the application's.
//!
//! Without zones a query that the agent repeats to the resolver from the same port would find the application's
//! conntrack entry and go back to the agent, or an answer past it.

use std::net::IpAddr;

use super::{OUTPUT, OUTPUT_DNS, Recorder, dport, jump};
use crate::policy::{Cidr, Dns, Family, Port, RuleId};
use crate::rules::compile::INBOUND;
use crate::rules::{Hook, Match, Protocol, Test, Verdict};

const DNS: Option<Port> = Port::of(53);
/// The agent and the resolvers.
const UPSTREAM: u16 = 1;
/// The application and the agent.
const DOWNSTREAM: u16 = 2;

fn udp() -> Match {
    Match::is(Test::Protocol(Protocol::Udp))
}

fn sport(port: Port) -> Match {
    Match::is(Test::SourcePort(vec![port.into()]))
}

impl Recorder<'_> {
    pub(super) fn dns(&mut self) {
        let policy = self.policy;
        let (Some(dns), family) = (DNS, self.family) else { return };
        let (port, servers): (Port, Option<Vec<Cidr>>) = match &policy.dns {
            Dns::Off => return,
            Dns::All { port } => (*port, None),
            Dns::Servers { port, servers } => {
                let of_family = |server: &&IpAddr| server.is_ipv4() == (family == Family::V4);
                (*port, Some(servers.iter().filter(of_family).map(|server| Cidr::from(*server)).collect()))
            }
        };
        let here = servers.as_ref().is_none_or(|servers| !servers.is_empty());
        self.raw(Hook::Output.builtin(), RuleId::DnsHook, vec![], jump(OUTPUT_DNS));
        if here {
            self.nat(OUTPUT, RuleId::DnsHook, vec![], jump(OUTPUT_DNS));
        }
        // Nothing stands for every server.
        let servers: Vec<Option<Cidr>> = match servers {
            None => vec![None],
            Some(servers) => servers.into_iter().map(Some).collect(),
        };
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for server in &servers {
                let mut matches = vec![Match::is(Test::Protocol(protocol.clone())), dport(dns)];
                matches.extend(server.map(super::destination));
                self.nat(OUTPUT_DNS, RuleId::DnsCapture, matches, Verdict::Redirect(port));
            }
        }
        let users = policy.proxy.uids.iter().map(|uid| Test::OwnerUid(vec![*uid]));
        let groups = policy.proxy.gids.iter().map(|gid| Test::OwnerGid(vec![*gid]));
        for owner in users.chain(groups).map(Match::is) {
            let asks = vec![udp(), dport(dns), owner.clone()];
            self.raw(OUTPUT_DNS, RuleId::DnsZone, asks, Verdict::Zone(UPSTREAM));
            let answers = vec![udp(), sport(port), owner];
            self.raw(OUTPUT_DNS, RuleId::DnsZone, answers, Verdict::Zone(DOWNSTREAM));
        }
        if here {
            self.raw(Hook::Prerouting.builtin(), RuleId::DnsHook, vec![], jump(INBOUND));
        }
        for server in &servers {
            let mut asks = vec![udp(), dport(dns)];
            asks.extend(server.map(super::destination));
            self.raw(OUTPUT_DNS, RuleId::DnsZone, asks, Verdict::Zone(DOWNSTREAM));
            let mut answers = vec![udp(), sport(dns)];
            answers.extend(server.map(super::source));
            self.raw(INBOUND, RuleId::DnsZone, answers, Verdict::Zone(UPSTREAM));
        }
    }
}
