//! What `istio-iptables` was given, as it means it, turned into a request like any other.
//!
//! Nonsense that upstream takes and that loads is kept, with a warning; what would make its restore fail, or carry
//! words that are not the option's, is a fault.

use std::time::Duration;

use super::facts::Facts;
use super::validate::{self, PROXY_UID, Request};
use crate::input::fault::quote;
use crate::input::istio::{Given, Means, parse_duration};
use crate::input::{Faults, Key, Origin, Raw, Sourced};

/// A valid call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The rules wanted.
    pub request: Request,
    /// What is to be done with them.
    pub task: Task,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Print, change nothing.
    pub dry_run: bool,
    /// Where a dry run writes, too.
    pub dry_run_file: Option<String>,
    /// Make no rules.
    pub skip_rules: bool,
    /// Remove only.
    pub cleanup_only: bool,
    /// See whether capture works.
    pub validate: bool,
    /// The port that validation dials.
    pub probe_port: u16,
    /// How long validation may take.
    pub probe_timeout: Duration,
    /// Use nftables without iptables.
    pub native_nftables: bool,
    /// The machine's first address is IPv6.
    pub v6_host: bool,
}

/// Validates `given`. `extra` holds options of our own (`--host`, `--wait`, `--output` …).
///
/// # Errors
/// Every fault there is.
pub fn call(given: &Given, extra: Raw, facts: &Facts, faults: Faults) -> Result<Call, Faults> {
    let mut meant = Meant { given, faults, raw: extra, warnings: given.warnings.clone() };
    let dual_stack = given.on(Means::DualStack);
    let v6_host = facts.addresses.first().is_some_and(|address| address.is_ipv6());
    let ipv6 = v6_host || (dual_stack && facts.addresses.iter().any(|address| address.is_ipv6()));
    let without_rules = [Means::CleanupOnly, Means::SkipRuleApply, Means::DryRun];
    if let (true, Some(within)) = (
        without_rules.into_iter().any(|means| given.on(means)),
        meant.raw.first(Key::ConfirmWithin).filter(|given| matches!(given.origin, Origin::Flag(_))).cloned(),
    ) {
        let problem = "has nothing to take back: no rules are made";
        meant.faults.option(
            &within,
            problem,
            "leave it out, or --cleanup-only, --skip-rule-apply and --dry-run",
        );
    }
    meant.set(Key::Layout, "istio-iptables");
    meant.set(Key::Ipv6, if ipv6 { "on" } else { "off" });
    if !ipv6 && facts.addresses.iter().any(|address| address.is_ipv6()) {
        meant.warnings.push(
            "IPv6 stays uncaptured, although there are IPv6 addresses: --dual-stack captures it".into(),
        );
    }
    meant.ports_and_mode();
    meant.identities(facts);
    meant.inbound();
    meant.outbound();
    meant.groups();
    meant.dns_and_the_rest();
    let Meant { faults, raw, warnings, .. } = meant;
    let mut request = validate::request(&raw, facts, faults)?;
    request.warnings.splice(0..0, warnings);
    let file = given.text(Means::DryRunFile);
    let task = Task {
        dry_run: given.on(Means::DryRun),
        dry_run_file: (!file.is_empty()).then(|| file.to_owned()),
        skip_rules: given.on(Means::SkipRuleApply),
        cleanup_only: given.on(Means::CleanupOnly),
        validate: given.on(Means::RunValidation),
        probe_port: given.text(Means::ProbePort).parse().unwrap_or(15002),
        probe_timeout: parse_duration(given.text(Means::ProbeTimeout)).unwrap_or(Duration::from_secs(5)),
        native_nftables: given.on(Means::NativeNftables),
        v6_host,
    };
    Ok(Call { request, task })
}

struct Meant<'a> {
    given: &'a Given,
    faults: Faults,
    raw: Raw,
    warnings: Vec<String>,
}

impl<'a> Meant<'a> {
    fn get(&self, key: Key) -> Option<&'a Sourced> {
        self.given.get(Means::Capture(key))
    }

    fn text(&self, key: Key) -> &'a str {
        self.given.text(Means::Capture(key))
    }

    fn set(&mut self, key: Key, text: impl Into<String>) {
        self.raw.set(key, text, Origin::Default);
    }

    /// Takes over one value, or its default.
    fn one(&mut self, key: Key, default: &str) {
        match self.get(key) {
            Some(given) => self.raw.set(key, given.text.clone(), given.origin.clone()),
            None => self.set(key, default),
        }
    }

    fn warn(&mut self, given: &Sourced, what: &str) {
        self.warnings.push(format!("{}: {} {what}", given.origin, quote(&given.text)));
    }

    /// The items of a list as upstream splits it: empty ones dropped, blanks around the others left, which the
    /// restore format ignores.
    fn items(&mut self, given: &'a Sourced) -> Vec<&'a str> {
        let items: Vec<&str> = given.text.split(',').collect();
        if !given.text.is_empty() && items.iter().any(|item| item.is_empty()) {
            self.warn(given, "has an empty item, which is dropped");
        }
        if items.iter().any(|item| !item.is_empty() && item.trim() != *item) {
            self.warn(given, "has blanks around its items, which are dropped");
        }
        items.into_iter().filter(|item| !item.is_empty()).collect()
    }

    /// Takes over a list; given empty if it is, or if nothing is given.
    fn list(&mut self, key: Key, item: impl Fn(&mut Self, &'a Sourced, &'a str) -> Option<String>) {
        let Some(given) = self.get(key) else { return };
        let mut any = false;
        for text in self.items(given) {
            any = true;
            if let Some(text) = item(self, given, text) {
                self.raw.push(key, text, given.origin.clone());
            }
        }
        if !any {
            self.raw.set(key, "", given.origin.clone());
        }
    }

    fn ports_and_mode(&mut self) {
        self.one(Key::ProxyPort, "15001");
        self.one(Key::InboundCapturePort, "15006");
        self.one(Key::InboundTunnelPort, "15008");
        let tproxy = self.text(Key::Mode) == "TPROXY";
        self.set(Key::Mode, if tproxy { "TPROXY" } else { "REDIRECT" });
        if let Some(given) =
            self.get(Key::Mode).filter(|given| !matches!(&*given.text, "" | "TPROXY" | "REDIRECT"))
        {
            self.warn(given, "is not TPROXY and therefore REDIRECT");
        }
        for key in [Key::TproxyMark, Key::TproxyTable] {
            let Some(given) = self.get(key) else { continue };
            let decimal = !given.text.is_empty() && given.text.bytes().all(|byte| byte.is_ascii_digit());
            match (tproxy, decimal) {
                (true, true) => self.raw.set(key, given.text.clone(), given.origin.clone()),
                (true, false) => {
                    self.faults.value(given, &given.text, "is not a decimal number", "give one such as 1337");
                }
                (false, true) => {}
                (false, false) => self.warn(given, "is no number, and has no effect without TPROXY"),
            }
        }
    }

    fn identities(&mut self, facts: &Facts) {
        if self.text(Key::ProxyUid).is_empty() {
            let name = self.given.get(Means::EnvoyUser).map_or("istio-proxy", |given| given.text.as_str());
            let uid = facts.users.get(name).copied().unwrap_or(PROXY_UID);
            self.set(Key::ProxyUid, uid.to_string());
        } else {
            self.list(Key::ProxyUid, plain);
        }
        if !self.text(Key::ProxyGid).is_empty() {
            return self.list(Key::ProxyGid, plain);
        }
        // The text, not the users: a user's name is then a group's.
        let users = self.raw.get(Key::ProxyUid).unwrap_or_default().to_vec();
        for Sourced { text, origin } in users {
            self.raw.push(Key::ProxyGid, text, origin);
        }
    }

    fn inbound(&mut self) {
        let included = self.text(Key::Inbound);
        if included.is_empty() {
            self.set(Key::Inbound, "");
        } else {
            self.list(Key::Inbound, port);
        }
        match self.get(Key::ExcludeInbound) {
            Some(given) if included != "*" && !given.text.is_empty() => {
                self.warn(given, "has no effect unless all inbound ports are captured");
            }
            Some(_) if included == "*" => self.list(Key::ExcludeInbound, port),
            Some(_) | None => {}
        }
    }

    fn outbound(&mut self) {
        if self.text(Key::OutboundCidr).is_empty() {
            self.set(Key::OutboundCidr, "");
        } else {
            self.list(Key::OutboundCidr, network);
        }
        self.list(Key::ExcludeOutboundCidr, network);
        self.list(Key::OutboundPort, port);
        self.list(Key::ExcludeOutboundPort, port);
        self.list(Key::ExcludeInterface, plain);
        self.list(Key::RerouteInterface, plain);
        if let Some(given) = self.get(Key::LoopbackCidr) {
            self.raw.set(Key::LoopbackCidr, given.text.clone(), given.origin.clone());
        }
    }

    fn groups(&mut self) {
        let everyone = matches!(self.get(Key::OwnerGroup).map(|given| given.text.as_str()), None | Some("*"));
        if everyone {
            return self.list(Key::ExcludeOwnerGroup, plain);
        }
        self.list(Key::OwnerGroup, plain);
        if let Some(given) = self.get(Key::ExcludeOwnerGroup).filter(|given| !given.text.is_empty()) {
            self.warn(given, "has no effect beside a list of groups to capture");
        }
    }

    fn dns_and_the_rest(&mut self) {
        for key in [Key::RedirectDns, Key::CaptureAllDns, Key::DropInvalid] {
            if self.given.on(Means::Capture(key))
                && let Some(given) = self.get(key)
            {
                self.raw.set(key, "true", given.origin.clone());
            }
        }
        let forced = self.given.get(Means::ForceBinary).filter(|given| !given.text.is_empty());
        if self.given.on(Means::NativeNftables) {
            let origin =
                self.given.get(Means::NativeNftables).map_or(Origin::Default, |given| given.origin.clone());
            self.raw.set(Key::Backend, "nftables", origin);
            if let Some(given) = forced {
                self.warn(given, "has no effect beside native nftables");
            }
        } else if let Some(given) = forced {
            match given.text.as_str() {
                "legacy" | "nft" => {
                    self.raw.set(Key::IptablesVariant, given.text.clone(), given.origin.clone());
                }
                other => self.faults.value(given, other, "is no iptables", "give legacy or nft"),
            }
        }
    }
}

fn plain(_: &mut Meant<'_>, _: &Sourced, item: &str) -> Option<String> {
    Some(item.to_owned())
}

/// iptables writes a range with a colon, and may leave out an end; with a hyphen its restore fails. Port 0, which an
/// open beginning includes, is in no packet.
fn port(meant: &mut Meant<'_>, given: &Sourced, item: &str) -> Option<String> {
    if item.contains('-') {
        meant.faults.value(given, item, "is not a port or a range of ports", "write a range as first:last");
        return None;
    }
    Some(match item.trim().split_once(':') {
        Some((first, last)) => {
            let or = |text: &str, open: &str| if text.is_empty() { open.to_owned() } else { text.to_owned() };
            format!("{}-{}", or(first, "1"), or(last, "65535"))
        }
        None => item.to_owned(),
    })
}

/// Go's `netip.ParsePrefix` takes no bare address and no blanks.
fn network(meant: &mut Meant<'_>, given: &Sourced, item: &str) -> Option<String> {
    let fits = item == "*" || (item.contains('/') && item.trim() == item);
    if !fits {
        meant.faults.value(given, item, "is not a network", "give an address/prefix such as 10.0.0.0/8");
    }
    fits.then(|| item.to_owned())
}
