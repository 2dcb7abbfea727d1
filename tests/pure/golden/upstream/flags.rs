//! The words of a call and its environment, read as upstream reads them: command line, then environment, then
//! default.

use std::collections::HashMap;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// `true` or `false`; alone on the command line it is `true`.
    Switch,
}

struct Flag {
    long: &'static str,
    short: Option<char>,
    kind: Kind,
    /// A later one wins.
    env: &'static [&'static str],
    default: &'static str,
}

const fn text(long: &'static str, short: char, env: &'static [&'static str], default: &'static str) -> Flag {
    Flag { long, short: Some(short), kind: Kind::Text, env, default }
}

const fn switch(long: &'static str, env: &'static [&'static str]) -> Flag {
    Flag { long, short: None, kind: Kind::Switch, env, default: "false" }
}

const fn ignored(long: &'static str, kind: Kind) -> Flag {
    Flag { long, short: None, kind, env: &[], default: "" }
}

/// Every flag there is or was; those that change no rule have to be known all the same, as they may take a
/// word.
const FLAGS: &[Flag] = &[
    // Its variable is documented and has not been read since 1.21.
    text("envoy-port", 'p', &[], "15001"),
    text("inbound-capture-port", 'z', &["INBOUND_CAPTURE_PORT"], "15006"),
    text("inbound-tunnel-port", 'e', &["INBOUND_TUNNEL_PORT"], "15008"),
    text("proxy-uid", 'u', &["PROXY_UID"], ""),
    text("proxy-gid", 'g', &["PROXY_GID"], ""),
    text("istio-inbound-interception-mode", 'm', &["ISTIO_INBOUND_INTERCEPTION_MODE"], ""),
    text("istio-inbound-ports", 'b', &["ISTIO_INBOUND_PORTS"], ""),
    text("istio-local-exclude-ports", 'd', &["ISTIO_LOCAL_EXCLUDE_PORTS"], ""),
    text("istio-exclude-interfaces", 'c', &["ISTIO_EXCLUDE_INTERFACES"], ""),
    text("istio-service-cidr", 'i', &["ISTIO_SERVICE_CIDR"], ""),
    text("istio-service-exclude-cidr", 'x', &["ISTIO_SERVICE_EXCLUDE_CIDR"], ""),
    text("istio-outbound-ports", 'q', &["ISTIO_OUTBOUND_PORTS"], ""),
    text("istio-local-outbound-ports-exclude", 'o', &["ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE"], ""),
    text("kube-virt-interfaces", 'k', &["KUBE_VIRT_INTERFACES"], ""),
    text("istio-inbound-tproxy-mark", 't', &["ISTIO_INBOUND_TPROXY_MARK"], "1337"),
    text("istio-inbound-tproxy-route-table", 'r', &["ISTIO_INBOUND_TPROXY_ROUTE_TABLE"], "133"),
    Flag { long: "dry-run", short: Some('n'), kind: Kind::Switch, env: &["DRY_RUN"], default: "false" },
    switch("redirect-dns", &["REDIRECT_DNS", "ISTIO_META_DNS_CAPTURE"]),
    switch("drop-invalid", &["DROP_INVALID", "INVALID_DROP"]),
    switch("dual-stack", &["DUAL_STACK", "ISTIO_DUAL_STACK"]),
    switch("capture-all-dns", &["CAPTURE_ALL_DNS"]),
    // What follows changes how rules are installed, not which.
    ignored("iptables-probe-port", Kind::Text),
    ignored("probe-timeout", Kind::Text),
    ignored("network-namespace", Kind::Text),
    ignored("force-iptables-binary", Kind::Text),
    switch("cni-mode", &["CNI_MODE"]),
    switch("reconcile", &["RECONCILE"]),
    switch("force-apply", &["FORCE_APPLY"]),
    // What follows are flags of earlier releases.
    Flag { long: "restore-format", short: Some('f'), kind: Kind::Switch, env: &[], default: "true" },
    ignored("iptables-trace-logging", Kind::Switch),
    ignored("output-paths", Kind::Text),
    ignored("host-nsenter-exec", Kind::Switch),
    ignored("iptables-version", Kind::Text),
    // What follows belongs to the program around it.
    ignored("log_output_level", Kind::Text),
    ignored("log_target", Kind::Text),
    ignored("log_caller", Kind::Text),
    ignored("log_stacktrace_level", Kind::Text),
    ignored("log_as_json", Kind::Switch),
];

/// What holds after all three have been read.
pub(super) struct Flags(HashMap<&'static str, String>);

impl Flags {
    pub(super) fn read(args: &[String], env: &[(String, String)]) -> Self {
        let mut values: HashMap<_, _> =
            FLAGS.iter().map(|flag| (flag.long, flag.default.to_owned())).collect();
        for flag in FLAGS {
            for value in flag.env.iter().filter_map(|name| variable(env, name)) {
                let value = match flag.kind {
                    Kind::Switch => boolean(value).map(|on| on.to_string()),
                    // One that is set but empty counts.
                    Kind::Text => Some(value.to_owned()),
                };
                values.extend(value.map(|value| (flag.long, value)));
            }
        }
        let mut words = args.iter();
        while let Some(word) = words.next() {
            if word == "--" {
                break;
            }
            if let Some(long) = word.strip_prefix("--") {
                let (long, value) = long.split_once('=').map_or((long, None), |(l, v)| (l, Some(v)));
                let flag = known(|flag| flag.long == long, word);
                let value = match (flag.kind, value) {
                    (_, Some(value)) => value,
                    (Kind::Switch, None) => "true",
                    (Kind::Text, None) => words.next().expect("a flag has its value"),
                };
                values.insert(flag.long, checked(flag, value));
            } else if let Some(letters) = word.strip_prefix('-') {
                let mut letters = letters.chars();
                while let Some(letter) = letters.next() {
                    let flag = known(|flag| flag.short == Some(letter), word);
                    let attached = letters.as_str();
                    if flag.kind == Kind::Switch && !attached.starts_with('=') {
                        values.insert(flag.long, "true".to_owned());
                        continue;
                    }
                    let value = match attached.strip_prefix('=').unwrap_or(attached) {
                        "" if attached.is_empty() => words.next().expect("a flag has its value"),
                        value => value,
                    };
                    values.insert(flag.long, checked(flag, value));
                    break;
                }
            }
            // Any other word is ignored.
        }
        Self(values)
    }

    pub(super) fn text(&self, long: &str) -> &str {
        &self.0[long]
    }

    pub(super) fn on(&self, long: &str) -> bool {
        self.text(long) == "true"
    }
}

fn known(is: impl Fn(&Flag) -> bool, word: &str) -> &'static Flag {
    FLAGS.iter().find(|flag| is(flag)).unwrap_or_else(|| panic!("{word} is no flag"))
}

fn checked(flag: &Flag, value: &str) -> String {
    match flag.kind {
        Kind::Switch => boolean(value).expect("a switch is true or false").to_string(),
        Kind::Text => value.to_owned(),
    }
}

/// As Go reads it; anything else in the environment is as good as absent.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

pub(super) fn variable<'a>(env: &'a [(String, String)], name: &str) -> Option<&'a str> {
    env.iter().rev().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
}
