//! The proxy's identity, and calls from this host to itself.
//!
//! (a) what the proxy sends over lo to an own address goes to its inbound side, (b) what anybody else sends over lo
//! goes its way, (c) everything else of the proxy goes its way.

use super::{IN_REDIRECT, OUTPUT, Recorder, jump, over_lo, tcp};
use crate::policy::{Mode, Port, RuleId};
use crate::rules::{Match, Test, Verdict};

/// A user or a group of the proxy.
#[derive(Clone)]
struct Owner {
    test: Test,
    clause: RuleId,
    user: bool,
}

/// DNS.
const DNS: Option<Port> = Port::of(53);

impl Recorder<'_> {
    pub(super) fn identities(&mut self) {
        let proxy = &self.policy.proxy;
        let users = proxy.uids.iter().map(|uid| (Test::OwnerUid(vec![*uid]), RuleId::ProxyUid, true));
        let groups = proxy.gids.iter().map(|gid| (Test::OwnerGid(vec![*gid]), RuleId::ProxyGid, false));
        let owners: Vec<Owner> =
            users.chain(groups).map(|(test, clause, user)| Owner { test, clause, user }).collect();
        if self.letter {
            // Upstream's (b) names one identity at a time, so it also lets the next one's calls past its own (a).
            for owner in &owners {
                self.own_calls(owner);
                self.calls_of_others(std::slice::from_ref(owner));
                self.all_other(owner);
            }
            return;
        }
        if self.policy.mode == Mode::Tproxy {
            // What the proxy sends on to the application with a client's address goes over lo, too: redirected here,
            // it would come back to the proxy for ever.
            let sent = vec![over_lo(), tcp(), Match::is(Test::Mark(self.policy.tproxy_mark))];
            self.nat(OUTPUT, RuleId::InboundMarked, sent, Verdict::Return);
        }
        for owner in &owners {
            self.own_calls(owner);
        }
        self.calls_of_others(&owners);
        for owner in &owners {
            self.all_other(owner);
        }
    }

    fn own_calls(&mut self, owner: &Owner) {
        let tunnel = self.policy.proxy.tunnel_port;
        let ports = match DNS.filter(|_| self.captures_dns() && (owner.user || !self.letter)) {
            // The agent's own queries to a resolver on this host must not come back.
            Some(dns) => vec![dns.into(), tunnel.into()],
            None => vec![tunnel.into()],
        };
        let ports = Match::not(Test::DestinationPort(ports));
        let own = Match::is(owner.test.clone());
        let matches = vec![over_lo(), self.not_to_loopback(), tcp(), ports, own];
        self.nat(OUTPUT, RuleId::ProxySelf, matches, jump(IN_REDIRECT));
    }

    fn calls_of_others(&mut self, owners: &[Owner]) {
        if self.includes_loopback() {
            return;
        }
        let mut matches = vec![over_lo()];
        if let Some(dns) = DNS.filter(|_| self.captures_dns()) {
            // Leaves queries to a resolver on this host to be captured.
            matches.extend([tcp(), Match::not(Test::DestinationPort(vec![dns.into()]))]);
        }
        matches.extend(owners.iter().map(|owner| Match::not(owner.test.clone())));
        self.nat(OUTPUT, RuleId::OutboundSelf, matches, Verdict::Return);
    }

    fn all_other(&mut self, owner: &Owner) {
        self.nat(OUTPUT, owner.clause, vec![Match::is(owner.test.clone())], Verdict::Return);
    }
}
