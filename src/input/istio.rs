//! The interface of `istio-iptables`: its flags, their variables and its reading of both (pflag and Go's strconv).
//!
//! A flag wins over its variables, a later variable over an earlier one, and a variable that is set but empty over
//! the default. What a value means is for `policy::istio` to say.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use super::fault::quote;
use super::options::Key;
use super::{Faults, Origin, Sourced};

/// What shape of text a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Any text.
    Text,
    /// One of the words of Go's `strconv.ParseBool`.
    Bool,
    /// A number up to 65535.
    Number,
    /// Go's `time.ParseDuration`.
    Duration,
}

/// What a flag speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is documented by its row's help text")]
pub enum Means {
    /// What is captured.
    Capture(Key),
    DualStack,
    EnvoyUser,
    DryRun,
    DryRunFile,
    ProbePort,
    ProbeTimeout,
    SkipRuleApply,
    RunValidation,
    CleanupOnly,
    NativeNftables,
    ForceBinary,
    /// Accepted, and of no consequence here; the row's name tells which it is.
    Nothing(&'static str),
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// The long name; empty if there is only a variable.
    pub long: &'static str,
    /// The short name.
    pub short: Option<char>,
    /// The shape of its text.
    pub shape: Shape,
    /// Its variables; a later one wins.
    pub variables: &'static [&'static str],
    /// What it speaks to.
    pub means: Means,
    /// One line of help.
    pub help: &'static str,
}

type Names = &'static [&'static str];

const fn flag(
    short: Option<char>,
    long: &'static str,
    shape: Shape,
    variables: Names,
    means: Means,
    help: &'static str,
) -> Flag {
    Flag { long, short, shape, variables, means, help }
}

const fn historic(short: Option<char>, long: &'static str, shape: Shape) -> Flag {
    flag(short, long, shape, &[], Means::Nothing(long), "of earlier releases; has no effect")
}

const fn logging(long: &'static str, shape: Shape) -> Flag {
    flag(None, long, shape, &[], Means::Nothing(long), "of pilot-agent's log; has no effect")
}

const fn variable(name: Names, means: Means, help: &'static str) -> Flag {
    flag(None, "", Shape::Text, name, means, help)
}

use Means::Capture;
use Shape::{Bool, Number, Text};

/// Every flag and variable, today's and earlier releases'.
#[rustfmt::skip]
pub const FLAGS: &[Flag] = &[
    flag(Some('p'), "envoy-port", Text, &[], Capture(Key::ProxyPort), "where captured outbound traffic goes [default: 15001]"),
    flag(Some('z'), "inbound-capture-port", Text, &["INBOUND_CAPTURE_PORT"], Capture(Key::InboundCapturePort), "where captured inbound traffic goes [default: 15006]"),
    flag(Some('e'), "inbound-tunnel-port", Text, &["INBOUND_TUNNEL_PORT"], Capture(Key::InboundTunnelPort), "the HBONE port, never captured inbound [default: 15008]"),
    flag(Some('u'), "proxy-uid", Text, &["PROXY_UID"], Capture(Key::ProxyUid), "users whose traffic is not captured [default: that of ENVOY_USER, else 1337]"),
    flag(Some('g'), "proxy-gid", Text, &["PROXY_GID"], Capture(Key::ProxyGid), "groups whose traffic is not captured [default: as the users]"),
    flag(Some('m'), "istio-inbound-interception-mode", Text, &["ISTIO_INBOUND_INTERCEPTION_MODE"], Capture(Key::Mode), "TPROXY; everything else is REDIRECT"),
    flag(Some('b'), "istio-inbound-ports", Text, &["ISTIO_INBOUND_PORTS"], Capture(Key::Inbound), "inbound ports to capture: '*' or a list [default: none]"),
    flag(Some('d'), "istio-local-exclude-ports", Text, &["ISTIO_LOCAL_EXCLUDE_PORTS"], Capture(Key::ExcludeInbound), "inbound ports that '*' does not capture"),
    flag(Some('c'), "istio-exclude-interfaces", Text, &["ISTIO_EXCLUDE_INTERFACES"], Capture(Key::ExcludeInterface), "interfaces captured in neither direction"),
    flag(Some('i'), "istio-service-cidr", Text, &["ISTIO_SERVICE_CIDR"], Capture(Key::OutboundCidr), "outbound networks to capture: '*' or a list [default: none]"),
    flag(Some('x'), "istio-service-exclude-cidr", Text, &["ISTIO_SERVICE_EXCLUDE_CIDR"], Capture(Key::ExcludeOutboundCidr), "outbound networks not captured"),
    flag(Some('q'), "istio-outbound-ports", Text, &["ISTIO_OUTBOUND_PORTS"], Capture(Key::OutboundPort), "outbound ports captured whatever the address"),
    flag(Some('o'), "istio-local-outbound-ports-exclude", Text, &["ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE"], Capture(Key::ExcludeOutboundPort), "outbound ports never captured"),
    flag(Some('k'), "kube-virt-interfaces", Text, &["KUBE_VIRT_INTERFACES"], Capture(Key::RerouteInterface), "interfaces whose inbound traffic is treated as outbound"),
    flag(Some('t'), "istio-inbound-tproxy-mark", Text, &["ISTIO_INBOUND_TPROXY_MARK"], Capture(Key::TproxyMark), "the packet mark of TPROXY mode [default: 1337]"),
    flag(Some('r'), "istio-inbound-tproxy-route-table", Text, &["ISTIO_INBOUND_TPROXY_ROUTE_TABLE"], Capture(Key::TproxyTable), "the routing table of TPROXY mode [default: 133]"),
    flag(Some('n'), "dry-run", Bool, &["DRY_RUN"], Means::DryRun, "print what would be sent, change nothing"),
    flag(None, "iptables-probe-port", Number, &["IPTABLES_PROBE_PORT"], Means::ProbePort, "the port that validation dials [default: 15002]"),
    flag(None, "probe-timeout", Shape::Duration, &["PROBE_TIMEOUT"], Means::ProbeTimeout, "how long validation may take [default: 5s]"),
    flag(None, "skip-rule-apply", Bool, &["SKIP_RULE_APPLY"], Means::SkipRuleApply, "make no rules"),
    flag(None, "run-validation", Bool, &["RUN_VALIDATION"], Means::RunValidation, "see whether capture works; exit 126 if not"),
    flag(None, "redirect-dns", Bool, &["REDIRECT_DNS", "ISTIO_META_DNS_CAPTURE"], Capture(Key::RedirectDns), "capture DNS to the agent on port 15053"),
    flag(None, "drop-invalid", Bool, &["DROP_INVALID", "INVALID_DROP"], Capture(Key::DropInvalid), "drop packets that conntrack calls INVALID"),
    flag(None, "dual-stack", Bool, &["DUAL_STACK", "ISTIO_DUAL_STACK"], Means::DualStack, "IPv6 counts beside IPv4"),
    flag(None, "capture-all-dns", Bool, &["CAPTURE_ALL_DNS"], Capture(Key::CaptureAllDns), "capture DNS to every server"),
    flag(None, "network-namespace", Text, &["NETWORK_NAMESPACE"], Means::Nothing("network-namespace"), "has no effect: the caller's namespace is worked in"),
    flag(None, "cni-mode", Bool, &["CNI_MODE"], Means::Nothing("cni-mode"), "has no effect: every run is isolated"),
    flag(None, "reconcile", Bool, &["RECONCILE"], Means::Nothing("reconcile"), "always so: other rules are replaced"),
    flag(None, "cleanup-only", Bool, &["CLEANUP_ONLY"], Means::CleanupOnly, "remove every rule, make none"),
    flag(None, "force-apply", Bool, &["FORCE_APPLY"], Means::Nothing("force-apply"), "always so: what is there is no obstacle"),
    flag(None, "native-nftables", Bool, &["NATIVE_NFTABLES"], Means::NativeNftables, "use nftables without iptables"),
    flag(None, "force-iptables-binary", Text, &["FORCE_IPTABLES_BINARY"], Means::ForceBinary, "legacy or nft"),
    variable(&["ISTIO_OUTBOUND_OWNER_GROUPS"], Capture(Key::OwnerGroup), "capture only these groups' outbound traffic [default: '*']"),
    variable(&["ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"], Capture(Key::ExcludeOwnerGroup), "groups whose outbound traffic is not captured"),
    variable(&["ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"], Capture(Key::LoopbackCidr), "IPv4's loopback destination [default: 127.0.0.1/32]"),
    variable(&["ENVOY_USER"], Means::EnvoyUser, "whose uid is the default [default: istio-proxy]"),
    variable(&["DRY_RUN_FILE_PATH"], Means::DryRunFile, "where a dry run writes what it prints"),
    variable(&["ENVOY_PORT"], Means::Nothing("ENVOY_PORT"), "not read since Istio 1.21"),
    historic(Some('f'), "restore-format", Bool),
    historic(None, "iptables-trace-logging", Bool),
    historic(None, "output-paths", Text),
    historic(None, "host-nsenter-exec", Bool),
    historic(None, "iptables-version", Text),
    logging("log_as_json", Bool),
    logging("log_caller", Text),
    logging("log_output_level", Text),
    logging("log_rotate", Text),
    logging("log_rotate_max_age", Text),
    logging("log_rotate_max_backups", Text),
    logging("log_rotate_max_size", Text),
    logging("log_stacktrace_level", Text),
    logging("log_target", Text),
    logging("vklog", Text),
];

/// What was given, by what it speaks to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    values: BTreeMap<Means, Sourced>,
    /// What is accepted but worth saying.
    pub warnings: Vec<String>,
}

impl Given {
    /// The text given.
    #[must_use]
    pub fn get(&self, means: Means) -> Option<&Sourced> {
        self.values.get(&means)
    }

    /// The text given, or nothing.
    #[must_use]
    pub fn text(&self, means: Means) -> &str {
        self.get(means).map_or("", |given| given.text.as_str())
    }

    /// Whether a switch is on.
    #[must_use]
    pub fn on(&self, means: Means) -> bool {
        self.get(means).and_then(|given| parse_bool(&given.text)).unwrap_or(false)
    }
}

/// Reads flags through `lookup` (the texts given for a long name, the last of which counts) and `environment`.
#[must_use]
pub fn parse(
    lookup: impl Fn(&str) -> Option<Vec<String>>,
    environment: &[(OsString, OsString)],
    faults: &mut Faults,
) -> Given {
    let mut given = Given::default();
    for flag in FLAGS {
        for name in flag.variables {
            let Some((_, value)) = environment.iter().find(|(of, _)| of == name) else { continue };
            let origin = Origin::Variable((*name).to_owned());
            let Some(text) = value.to_str() else {
                faults.source(origin, "is not UTF-8", "give plain text");
                continue;
            };
            if !fits(flag.shape, text) {
                given.warnings.push(format!("{origin}: {} cannot be read and is ignored", quote(text)));
                continue;
            }
            if flag.means == Means::Nothing("ENVOY_PORT") {
                given.warnings.push(format!("{origin}: not read since Istio 1.21: give -p"));
            }
            given.values.insert(flag.means, Sourced { text: text.to_owned(), origin });
        }
        if flag.long.is_empty() {
            continue;
        }
        let Some(text) = lookup(flag.long).and_then(|texts| texts.last().cloned()) else { continue };
        let sourced = Sourced { text, origin: Origin::Flag(flag.long) };
        if !fits(flag.shape, &sourced.text) {
            let (problem, remedy) = match flag.shape {
                Shape::Bool => ("is not true or false", "give true or false"),
                Shape::Duration => ("is not a duration", "give one such as 5s or 500ms"),
                Shape::Number | Shape::Text => ("is not a port", "give a number from 0 to 65535"),
            };
            faults.value(&sourced, &sourced.text, problem, remedy);
            continue;
        }
        given.values.insert(flag.means, sourced);
    }
    given
}

fn fits(shape: Shape, text: &str) -> bool {
    match shape {
        Shape::Text => true,
        Shape::Bool => parse_bool(text).is_some(),
        Shape::Number => text.parse::<u16>().is_ok() && !text.starts_with('+'),
        Shape::Duration => parse_duration(text).is_some(),
    }
}

/// Go's `strconv.ParseBool`.
#[must_use]
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Go's `time.ParseDuration`, for durations that are not negative: `1m30s`, `1.5s`, `500ms`, `0`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 7] =
        [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(digits)?;
        let unit_length = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(unit_length)?;
        let (_, scale) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        seconds += number.parse::<f64>().ok()? * scale;
        rest = after;
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &[(&str, &str)], environment: &[(&str, &str)]) -> (Given, Faults) {
        let mut faults = Faults::default();
        let environment: Vec<(OsString, OsString)> =
            environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let lookup = |long: &str| {
            let texts: Vec<String> =
                flags.iter().filter(|(of, _)| *of == long).map(|(_, text)| (*text).to_owned()).collect();
            (!texts.is_empty()).then_some(texts)
        };
        let given = parse(lookup, &environment, &mut faults);
        (given, faults)
    }

    #[test]
    fn no_name_stands_twice() {
        let mut names: Vec<String> = Vec::new();
        for flag in FLAGS {
            names.extend(flag.short.map(String::from));
            names.extend((!flag.long.is_empty()).then(|| flag.long.to_owned()));
            names.extend(flag.variables.iter().map(ToString::to_string));
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn the_last_flag_wins_over_the_last_variable() {
        let environment = [("REDIRECT_DNS", "true"), ("ISTIO_META_DNS_CAPTURE", "false"), ("PROXY_UID", "")];
        let (given, faults) = read(&[("envoy-port", "1"), ("envoy-port", "2")], &environment);
        assert!(faults.is_empty());
        assert_eq!(given.text(Capture(Key::ProxyPort)), "2");
        assert!(!given.on(Capture(Key::RedirectDns)));
        assert_eq!(given.get(Capture(Key::ProxyUid)).map(|given| given.text.as_str()), Some(""));
        let (given, _) = read(&[("redirect-dns", "t")], &environment);
        assert!(given.on(Capture(Key::RedirectDns)));
    }

    #[test]
    fn what_cannot_be_read_is_ignored_in_a_variable_and_a_fault_in_a_flag() {
        let (given, faults) = read(&[], &[("REDIRECT_DNS", "true"), ("ISTIO_META_DNS_CAPTURE", "yes")]);
        assert!(given.on(Capture(Key::RedirectDns)) && faults.is_empty());
        assert_eq!(given.warnings.len(), 1);
        let wrong = [("redirect-dns", "yes"), ("probe-timeout", "5"), ("iptables-probe-port", "65536")];
        assert_eq!(read(&wrong, &[]).1.list().len(), 3);
    }

    #[test]
    fn durations_are_gos() {
        for (text, millis) in
            [("5s", 5000), ("1m30s", 90_000), ("1.5s", 1500), ("500ms", 500), ("0", 0), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "5", "s", "5 s", "-5s", "5x", "1..2s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
