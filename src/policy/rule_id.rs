//! The closed list of policy clauses: one word for a clause in every layout, back end, counter and answer.

use std::fmt;

macro_rules! rule_ids {
    ($($name:ident = $text:literal, $meaning:literal;)*) => {
        /// A policy clause that a rule stands for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum RuleId {
            $(#[doc = $meaning] $name,)*
        }

        impl RuleId {
            /// Every clause, in the order of the declaration: of clauses whose rules stand side by side, that of the chains.
            pub const ALL: &'static [RuleId] = &[$(RuleId::$name),*];

            /// The clause's word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(RuleId::$name => $text),* }
            }

            /// What the clause means, as a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(RuleId::$name => $meaning),* }
            }
        }
    };
}

rule_ids! {
    OutboundHook = "outbound.hook", "outbound traffic enters the capture chain";
    OutboundExcludeInterface = "outbound.exclude-interface", "traffic leaving by an excluded interface is not captured";
    OutboundExcludePort = "outbound.exclude-port", "traffic to an excluded port is not captured";
    OutboundLoopback = "outbound.loopback", "traffic to the loopback address is not captured";
    OutboundExcludeCidr = "outbound.exclude-cidr", "traffic to an excluded network is not captured";
    OutboundOwnAddress = "outbound.own-address", "traffic over lo to any address but the loopback one is captured";
    ProxyUid = "proxy.uid", "the proxy's own traffic, known by its user, is not captured";
    ProxyGid = "proxy.gid", "the proxy's own traffic, known by its group, is not captured";
    OutboundCapturePort = "outbound.capture-port", "traffic to the proxy's own ports on this host is not captured";
    OutboundDns = "outbound.dns", "DNS over TCP is not captured";
    OutboundPort = "outbound.port", "traffic to an included port is captured";
    OutboundCidr = "outbound.cidr", "traffic to an included network is captured";
    OutboundAll = "outbound.all", "all remaining outbound traffic is captured";
    OutboundRest = "outbound.rest", "all remaining outbound traffic is not captured";
    OutboundPassthrough = "outbound.passthrough", "what the proxy passes through is not captured again";
    ProxySelf = "proxy.self", "the proxy's calls to this host's own addresses go to its inbound side";
    OutboundSelf = "outbound.self", "applications' calls to this host's own addresses are not captured";
    OutboundGroup = "outbound.group", "only some groups' traffic is captured";
    OutboundExcludeGroup = "outbound.exclude-group", "a group's traffic is not captured";
    DnsHook = "dns.hook", "DNS traffic enters the DNS chain";
    DnsCapture = "dns.capture", "DNS queries go to the DNS port";
    DnsZone = "dns.zone", "DNS to and from the proxy's agent is tracked apart from the application's";
    InterfaceReroute = "interface.reroute", "what arrives on the interface is treated as outbound";
    DropInvalid = "drop.invalid", "packets that fit no connection are dropped";
    InboundTunnel = "inbound.tunnel", "inbound traffic to the tunnel port is not captured";
    InboundHook = "inbound.hook", "inbound traffic enters the capture chain";
    InboundExcludeInterface = "inbound.exclude-interface", "traffic arriving on an excluded interface is not captured";
    InboundReserved = "inbound.reserved", "inbound ports of the proxy and of SSH are never captured by '*'";
    InboundExcludePort = "inbound.exclude-port", "inbound traffic to an excluded port is not captured";
    InboundPort = "inbound.port", "inbound traffic to a named port is captured";
    InboundAll = "inbound.all", "all inbound traffic is captured";
    RedirectOutbound = "redirect.outbound", "captured traffic goes to the proxy's port";
    InboundAnswer = "inbound.answer", "answers to connections opened from here, or through here, are not inbound";
    InboundDivert = "inbound.divert", "packets of a captured connection go on to the proxy";
    InboundMarked = "inbound.marked", "inbound packets that the proxy sent are not captured again";
    InboundPassthrough = "inbound.passthrough", "inbound traffic that the proxy passes through is not captured again";
    InboundSelf = "inbound.self", "applications' calls to this host's own addresses are not captured inbound";
    TproxyMark = "tproxy.mark", "captured packets and their connections carry the mark";
    TproxySelf = "tproxy.self", "the proxy's calls to this host's own addresses are captured inbound";
    RedirectInbound = "redirect.inbound", "captured inbound traffic goes to the proxy's inbound port";
}

/// What our own comments begin with; the clause's word follows.
pub const COMMENT_PREFIX: &str = "mesh-init:";

impl RuleId {
    /// The comment that a rule of ours carries in the layouts that are ours to shape.
    #[must_use]
    pub fn comment(self) -> String {
        format!("{COMMENT_PREFIX}{self}")
    }

    /// The clause that a comment of ours names; `None` for anybody else's comment.
    #[must_use]
    pub fn of_comment(comment: &str) -> Option<RuleId> {
        let word = comment.strip_prefix(COMMENT_PREFIX)?;
        RuleId::ALL.iter().copied().find(|id| id.as_str() == word)
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_name_clauses_and_nothing_else_does() {
        for id in RuleId::ALL {
            assert_eq!(RuleId::of_comment(&id.comment()), Some(*id));
        }
        for comment in ["", "mesh-init:", "mesh-init:nonsense", "outbound.all", "mesh-init:outbound.all "] {
            assert_eq!(RuleId::of_comment(comment), None, "{comment}");
        }
    }
}
