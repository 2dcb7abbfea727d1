//! What carries the rules, and for which families: decided from what is on the machine, never by trying a write.

use super::ownership::holds_ours;
use super::{Observed, Tools};
use crate::error::{Error, Result};
use crate::policy::settings::{Settings, Variant};
use crate::policy::{Families, Family, Ipv6};

/// A choice and why it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What carries the rules.
    pub variant: Variant,
    /// Why that one: a phrase.
    pub reason: &'static str,
}

/// What holds ours, else the iptables with nat rules, else iptables-nft, else legacy, else nftables.
///
/// # Errors
/// No iptables at all where one is asked for, or not the one asked for.
pub fn variant(settings: &Settings, observed: &Observed, tools: &Tools) -> Result<Choice> {
    let installed = |variant: &Variant| tools.contains_key(&(*variant, Family::V4));
    let usable =
        |variant: &Variant| *variant == Variant::Native || observed.unlisted.is_none() && installed(variant);
    if let Some(variant) = settings.variant {
        if variant != Variant::Native && !installed(&variant) {
            return Err(Error::host(format!(
                "{variant} is asked for, but {variant}-restore and -save are not installed"
            ))
            .remedy("install the iptables package that has them, or leave --iptables-variant out"));
        }
        if let (false, Some(why)) = (usable(&variant), &observed.unlisted) {
            return Err(unlisted(&variant.to_string(), why));
        }
        return Ok(Choice { variant, reason: "asked for" });
    }
    let preferred: &[Variant] = match settings.iptables {
        true => &[Variant::Nft, Variant::Legacy],
        false => &[Variant::Nft, Variant::Legacy, Variant::Native],
    };
    let holds = preferred.iter().find(|variant| holds_ours(&observed.of(**variant)));
    if let Some(variant) = holds.filter(|variant| usable(variant)) {
        return Ok(Choice { variant: *variant, reason: "it holds our rules already" });
    }
    let has_nat = |variant: &Variant| *variant != Variant::Native && observed.has_nat_rules(*variant);
    if let Some(variant) = preferred.iter().find(|variant| usable(variant) && has_nat(variant)) {
        return Ok(Choice { variant: *variant, reason: "it has nat rules" });
    }
    match preferred.iter().find(|variant| usable(variant)) {
        Some(Variant::Nft) => Ok(Choice { variant: Variant::Nft, reason: "it is installed" }),
        Some(Variant::Native) => {
            let reason = match Variant::IPTABLES.iter().any(installed) {
                true => "no iptables can be used where its tables cannot be listed",
                false => "no iptables is installed",
            };
            Ok(Choice { variant: Variant::Native, reason })
        }
        Some(variant) => Ok(Choice { variant: *variant, reason: "it is the only one installed" }),
        None if let (true, Some(why)) = (Variant::IPTABLES.iter().any(installed), &observed.unlisted) => {
            Err(unlisted("iptables", why))
        }
        None => Err(Error::host("no usable iptables: iptables-restore and iptables-save were not found")
            .remedy("install the iptables package in the image or on the host, or leave --backend out")),
    }
}

/// Rules of iptables-legacy that nobody sees would capture beside those of any iptables.
fn unlisted(what: &str, why: &Error) -> Error {
    let remedy = why.remedy.clone().unwrap_or_default();
    let error = Error::new(why.class, format!("{what} cannot be used here: {}", why.problem));
    error.remedy(format!("{remedy}, or choose nftables with --backend nftables"))
}

/// The families to capture.
///
/// # Errors
/// IPv6 is wanted or present, and cannot be captured: a stack that is left out would be a way around.
pub fn families(ipv6: Ipv6, observed: &Observed, variant: Variant, tools: &Tools) -> Result<Families> {
    match (ipv6, observed.ipv6) {
        (Ipv6::Off, _) | (Ipv6::Auto, false) => Ok(Families::V4),
        (Ipv6::On, false) => Err(Error::host("--ipv6 on is given, but the namespace has no IPv6 stack")
            .remedy("give --ipv6 auto or off, or boot without ipv6.disable=1")),
        (Ipv6::On | Ipv6::Auto, true) if variant == Variant::Native => Ok(Families::Both),
        (Ipv6::On | Ipv6::Auto, true) if tools.contains_key(&(variant, Family::V6)) => Ok(Families::Both),
        (Ipv6::On | Ipv6::Auto, true) => Err(Error::host(format!(
            "the namespace has an IPv6 stack, and no ip6tables-restore and -save of {variant} is here to capture it"
        ))
        .remedy("install ip6tables, or give --ipv6 off to leave IPv6 uncaptured")),
    }
}
