//! Rules of others that are kept as text, as far as what they do is known.

use crate::policy::Mark;
use crate::rules::ConnState;

/// Targets of iptables after which the next rule follows, and which change nothing that is looked at here.
const HARMLESS: [&str; 21] = [
    "LOG",
    "NFLOG",
    "ULOG",
    "TRACE",
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "TCPMSS",
    "TCPOPTSTRIP",
    "TTL",
    "HL",
    "DSCP",
    "TOS",
    "SECMARK",
    "CONNSECMARK",
    "IDLETIMER",
    "LED",
    "RATEEST",
    "SET",
    "TEE",
    "ECN",
];

/// Expressions of nf_tables of that kind, as `backend::nftables` calls them; the source of a packet is not looked at
/// any more once it leaves.
const HARMLESS_OF_NFT: [&str; 3] = ["expr dup", "expr masq", "expr flow_offload"];

/// nft's condition that the connection's destination was translated (net/netfilter/nft_ct.c, `NFT_CT_STATUS`).
pub const DESTINATION_TRANSLATED: &str = "ct status dnat";

/// What is known of a verdict that is kept as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// The next rule follows.
    Nothing,
    /// The packet is answered with an error.
    Dropped,
    /// The mark becomes what is kept of it with some bits flipped; the next rule follows.
    Mark { keep: u32, flip: u32 },
    /// Nothing is known.
    No,
}

/// What is known of a target, as iptables-save prints it.
pub(super) fn target(text: &str) -> Known {
    match text {
        "expr reject" => return Known::Dropped,
        _ if HARMLESS_OF_NFT.contains(&text) => return Known::Nothing,
        _ => {}
    }
    let words: Vec<&str> = text.strip_prefix("-j ").unwrap_or_default().split(' ').collect();
    match words.as_slice() {
        ["REJECT", ..] => Known::Dropped,
        // It may set the packet's mark (iptables-extensions(8), SET).
        ["SET", rest @ ..] if rest.contains(&"--map-set") => Known::No,
        ["MARK", "--set-xmark", bits] => flips(bits).unwrap_or(Known::No),
        [target, ..] if HARMLESS.contains(target) => Known::Nothing,
        _ => Known::No,
    }
}

/// `VALUE/MASK` of MARK (net/netfilter/xt_mark.c, `mark_tg`).
fn flips(bits: &str) -> Option<Known> {
    let (value, mask) = bits.split_once('/')?;
    let [flip, mask] = [value, mask].map(|text| text.parse::<Mark>().ok());
    Some(Known::Mark { keep: !mask?.0, flip: flip?.0 })
}

/// Whether a condition holds: `--ctstate` with words that are no states of conntrack's, as firewalls of hosts have
/// them (net/netfilter/xt_conntrack.c, `conntrack_mt`). `translated` is whether the connection's destination is.
pub(super) fn condition(text: &str, state: ConnState, translated: bool) -> Option<bool> {
    if text == DESTINATION_TRANSLATED {
        return condition("--ctstate DNAT", state, translated);
    }
    let negated = text.strip_prefix("! ");
    let words = negated.unwrap_or(text).strip_prefix("--ctstate ").filter(|words| !words.contains(' '))?;
    let (mut holds, mut unclear) = (false, false);
    for word in words.split(',') {
        match word {
            "DNAT" if translated => holds = true,
            // How an earlier packet was translated is not known.
            "DNAT" => unclear |= state == ConnState::Established,
            "SNAT" => unclear = true,
            // What has a state is tracked.
            "UNTRACKED" => {}
            word => holds |= word == state.as_str(),
        }
    }
    (holds || !unclear).then_some(holds != negated.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_of_marks_are_read() {
        let mark = |text: &str, before: u32| match target(text) {
            Known::Mark { keep, flip } => Some((before & keep) ^ flip),
            Known::Nothing | Known::Dropped | Known::No => None,
        };
        assert_eq!(mark("-j MARK --set-xmark 0x4000/0x4000", 0x1), Some(0x4001));
        assert_eq!(mark("-j MARK --set-xmark 0x4000/0x0", 0x4001), Some(1));
        assert_eq!(mark("-j MARK --set-xmark 0x1/0xffffffff", 0x4001), Some(1));
        assert_eq!(mark("-j MARK --set-xmark 0x1", 0), None);
        assert_eq!(target("-j REJECT --reject-with icmp-port-unreachable"), Known::Dropped);
        assert_eq!(target("expr reject"), Known::Dropped);
        assert_eq!(target("expr queue"), Known::No);
        assert_eq!(target("-j LOG"), Known::Nothing);
        assert_eq!(target("-j NFQUEUE --queue-num 7"), Known::No);
    }

    #[test]
    fn states_beside_translation_are_read() {
        let kube = "! --ctstate RELATED,ESTABLISHED,DNAT";
        assert_eq!(condition(kube, ConnState::New, false), Some(true));
        assert_eq!(condition(kube, ConnState::New, true), Some(false));
        assert_eq!(condition(kube, ConnState::Established, false), Some(false));
        assert_eq!(condition("--ctstate NEW,UNTRACKED", ConnState::New, false), Some(true));
        assert_eq!(condition("--ctstate SNAT", ConnState::New, false), None);
        for dnat in ["--ctstate DNAT", DESTINATION_TRANSLATED] {
            assert_eq!(condition(dnat, ConnState::Established, false), None);
            assert_eq!(condition(dnat, ConnState::New, false), Some(false));
            assert_eq!(condition(dnat, ConnState::New, true), Some(true));
        }
        assert_eq!(condition("--ctstate NEW --ctdir ORIGINAL", ConnState::New, false), None);
        assert_eq!(condition("-m statistic --mode random", ConnState::New, false), None);
    }
}
