//! Inbound: REDIRECT in the nat table, or TPROXY in the mangle table with what it needs around it.

use super::{
    DIVERT, IN_REDIRECT, Recorded, Recorder, SELF_MARK, TPROXY, dports, from_lo, jump, over_lo, source, tcp,
};
use crate::policy::{Gid, Inbound, Mode, RuleId, Uid};
use crate::rules::compile::INBOUND;
use crate::rules::{ConnState, Hook, Match, Rule, Table, Test, Verdict};

impl Recorder<'_> {
    pub(super) fn inbound(&mut self) {
        let policy = self.policy;
        if matches!(&policy.inbound, Inbound::Only(ports) if ports.is_empty()) {
            return;
        }
        match policy.mode {
            Mode::Tproxy => self.tproxy(),
            Mode::Redirect | Mode::None => self.redirect(),
        }
    }

    fn redirect(&mut self) {
        let policy = self.policy;
        self.nat(Hook::Prerouting.builtin(), RuleId::InboundHook, vec![tcp()], jump(INBOUND));
        match &policy.inbound {
            Inbound::AllExcept(excluded) => {
                for range in excluded.ranges() {
                    let matches = vec![tcp(), dports(*range)];
                    self.nat(INBOUND, RuleId::InboundExcludePort, matches, Verdict::Return);
                }
                self.nat(INBOUND, RuleId::InboundAll, vec![tcp()], jump(IN_REDIRECT));
            }
            Inbound::Only(ports) => {
                for range in ports.ranges() {
                    self.nat(INBOUND, RuleId::InboundPort, vec![tcp(), dports(*range)], jump(IN_REDIRECT));
                }
            }
        }
    }

    fn tproxy(&mut self) {
        let policy = self.policy;
        let mark = policy.tproxy_mark;
        self.mangle(DIVERT, RuleId::TproxyMark, vec![], Verdict::SetMark(mark));
        self.mangle(DIVERT, RuleId::InboundDivert, vec![], Verdict::Accept);
        let capture = Verdict::Tproxy { port: policy.proxy.inbound_port, mark };
        self.mangle(TPROXY, RuleId::RedirectInbound, vec![self.not_to_loopback(), tcp()], capture);
        self.mangle(Hook::Prerouting.builtin(), RuleId::InboundHook, vec![tcp()], jump(INBOUND));
        if !self.letter {
            self.never_by_tproxy();
        }
        let letter = self.letter;
        let known = |mut matches: Vec<Match>| {
            if !letter {
                // conntrack may still know an earlier connection with the same addresses and ports.
                matches.push(Match::not(Test::FirstPacket));
            }
            matches.push(Match::is(Test::ConnState(vec![ConnState::Related, ConnState::Established])));
            matches
        };
        match &policy.inbound {
            Inbound::AllExcept(excluded) => {
                for range in excluded.ranges() {
                    let matches = vec![tcp(), dports(*range)];
                    self.mangle(INBOUND, RuleId::InboundExcludePort, matches, Verdict::Return);
                }
                self.mangle(INBOUND, RuleId::InboundDivert, known(vec![tcp()]), jump(DIVERT));
                self.mangle(INBOUND, RuleId::InboundAll, vec![tcp()], jump(TPROXY));
            }
            Inbound::Only(ports) => {
                for range in ports.ranges() {
                    let divert = known(vec![tcp(), dports(*range)]);
                    self.mangle(INBOUND, RuleId::InboundDivert, divert, jump(DIVERT));
                    let matches = vec![tcp(), dports(*range)];
                    self.mangle(INBOUND, RuleId::InboundPort, matches, jump(TPROXY));
                }
            }
        }
    }

    /// What our own reading keeps from the mangle table, because the nat table keeps or takes it: upstream's exempts
    /// the tunnel port there only, takes what comes from a rerouted interface, and diverts answers on their way
    /// through this host.
    fn never_by_tproxy(&mut self) {
        let policy = self.policy;
        self.mangle(INBOUND, RuleId::InboundSelf, vec![tcp(), from_lo()], Verdict::Return);
        self.mangle(INBOUND, RuleId::InboundAnswer, vec![tcp(), Match::is(Test::Answer)], Verdict::Return);
        for name in &policy.interfaces.reroute {
            let arriving = vec![Match::is(Test::InInterface(vec![name.clone()]))];
            self.mangle(INBOUND, RuleId::InterfaceReroute, arriving, Verdict::Return);
        }
        let tunnel = vec![tcp(), super::dport(policy.proxy.tunnel_port)];
        self.mangle(INBOUND, RuleId::InboundTunnel, tunnel, Verdict::Return);
    }

    /// The marks by which the proxy's own packets, sent with a client's address, are known on their way.
    pub(super) fn tproxy_extras(&mut self) {
        let policy = self.policy;
        let mark = policy.tproxy_mark;
        let marked = || Match::is(Test::Mark(mark));
        let connection = || vec![tcp(), Match::is(Test::Connmark(mark))];
        let (prerouting, output) = (Hook::Prerouting.builtin(), Hook::Output.builtin());
        if !self.letter {
            // The answers to what the proxy sent come back to it. Over lo only: where both iptables have TPROXY, the
            // second one sees what the first one has marked.
            let sent = vec![tcp(), from_lo(), marked()];
            self.mangle(prerouting, RuleId::TproxyMark, sent, Verdict::SaveMark);
            self.mangle(output, RuleId::TproxyMark, connection(), Verdict::RestoreMark);
            return;
        }
        self.mangle(prerouting, RuleId::TproxyMark, vec![tcp(), marked()], Verdict::SaveMark);
        self.mangle(output, RuleId::InboundMarked, vec![tcp(), over_lo(), marked()], Verdict::Return);
        let users = policy.proxy.uids.iter().map(|uid: &Uid| Test::OwnerUid(vec![*uid]));
        let groups = policy.proxy.gids.iter().map(|gid: &Gid| Test::OwnerGid(vec![*gid]));
        for owner in users.chain(groups) {
            let matches = vec![self.not_to_loopback(), tcp(), over_lo(), Match::is(owner)];
            self.mangle(output, RuleId::TproxySelf, matches, Verdict::SetMark(SELF_MARK));
        }
        self.mangle(output, RuleId::TproxyMark, connection(), Verdict::RestoreMark);
        let first = [
            (RuleId::InboundMarked, vec![tcp(), marked()]),
            (RuleId::InboundPassthrough, vec![tcp(), source(self.family.passthrough()), from_lo()]),
            (RuleId::InboundSelf, vec![tcp(), from_lo(), Match::not(Test::Mark(SELF_MARK))]),
        ];
        for (index, (id, matches)) in first.into_iter().enumerate() {
            let rule = Rule::new(id, matches, Verdict::Return);
            let insert = Some(index + 1);
            self.recorded.push(Recorded { table: Table::Mangle, chain: INBOUND.to_owned(), insert, rule });
        }
    }
}
