//! What is known of verdicts that are kept as text.

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
/// What is known of a verdict that is kept as text.
pub(super) enum Known {
    /// The next rule follows.
    Nothing,
    /// The packet is answered with an error.
    Dropped,
    /// Nothing is known.
    No,
}

pub(super) fn opaque(text: &str) -> Known {
    let target = text.strip_prefix("-j ").unwrap_or_default().split(' ').next().unwrap_or_default();
    match target {
        "REJECT" => Known::Dropped,
        // It may set the packet's mark (iptables-extensions(8), SET).
        "SET" if text.contains("--map-set") => Known::No,
        _ if HARMLESS.contains(&target) => Known::Nothing,
        _ => Known::No,
    }
}
