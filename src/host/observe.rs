//! Reading what is there. Never creates a table: only tables that the kernel lists are read.

use super::machine::{self, Machine};
use super::{native, routing};
use crate::backend::iptables::parse;
use crate::backend::{Observed, nftables, ownership};
use crate::error::{Error, Result};
use crate::eval::sockets::{self, Socket};
use crate::policy::Family;
use crate::policy::settings::Variant;
use crate::sys::exec::{Outcome, Program};
use crate::sys::fs;
use crate::sys::listing::{self, NftTable};

/// The tables that both iptables know.
const TABLES: [&str; 5] = ["raw", "mangle", "nat", "filter", "security"];

/// `NFPROTO_IPV4` and `NFPROTO_IPV6` (linux/netfilter.h).
const FAMILIES: [u8; 2] = [2, 10];

/// What was read, and what could not be.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// What was read.
    pub observed: Observed,
    /// Variants that have tables here which cannot be read, and why.
    pub unreadable: Vec<(Variant, Family, &'static str)>,
    /// A chain of ours among what cannot be read, if the kernel lists one.
    pub unreadable_ours: Option<String>,
}

/// Looks at everything. A namespace without tables is recognised without running any program.
///
/// # Errors
/// A table exists and its program fails, or prints something unreadable.
pub fn look(machine: &Machine) -> Result<Look> {
    let observed = Observed {
        ipv6: has_ipv6(),
        lo_without_ipv6: fs::read_system("/proc/sys/net/ipv6/conf/lo/disable_ipv6")?
            .is_some_and(|off| off.trim() == "1"),
        routing: routing::read()?,
        ..Observed::default()
    };
    let mut look = Look { observed, ..Look::default() };
    let tables = listing::nft_tables()?;
    if tables.iter().any(|table| FAMILIES.contains(&table.family) && table.name == nftables::TABLE) {
        look.observed.rules.insert(Variant::Native, native::read()?);
    }
    let (readable, without): (Vec<_>, Vec<_>) =
        with_tables(&tables)?.into_iter().partition(|source| machine.tools.contains_key(source));
    let without =
        without.into_iter().map(|(variant, family)| (variant, family, "its iptables-save is not installed"));
    look.unreadable.extend(without);
    let chains =
        readable.iter().map(|source| Ok(vec![reader(machine, *source)?])).collect::<Result<Vec<_>>>()?;
    let outcomes = machine.run(&chains);
    for (source, outcome) in readable.iter().zip(outcomes.iter().flatten()) {
        match is_incompatible(outcome) {
            true => look.unreadable.push((source.0, source.1, INCOMPATIBLE)),
            false => absorb(*source, outcome, &mut look.observed)?,
        }
    }
    if look.unreadable.iter().any(|(variant, ..)| *variant == Variant::Nft) {
        let chains = listing::nft_chains()?.into_iter();
        look.unreadable_ours = chains.map(|chain| chain.name).find(|name| ownership::is_our_chain(name));
    }
    Ok(look)
}

const INCOMPATIBLE: &str = "nft made them in a form that iptables cannot read";

/// iptables-nft-save answers 0 and leaves a table out that native nft rules are in; only a comment tells.
fn is_incompatible(outcome: &Outcome) -> bool {
    let mut remarks =
        outcome.stdout.lines().chain(outcome.stderr.lines()).filter(|line| line.starts_with("# Table"));
    remarks.any(|line| line.contains("is incompatible"))
}

/// Reads `sources` into `observed`, in the place of what was known of them.
///
/// # Errors
/// A program fails, or prints something unreadable.
pub fn read(machine: &Machine, sources: &[(Variant, Family)], observed: &mut Observed) -> Result<()> {
    let chains =
        sources.iter().map(|source| Ok(vec![reader(machine, *source)?])).collect::<Result<Vec<_>>>()?;
    let outcomes = machine.run(&chains);
    for (source, outcome) in sources.iter().zip(outcomes.iter().flatten()) {
        absorb(*source, outcome, observed)?;
    }
    Ok(())
}

/// The program that reads the rules of `source`.
///
/// # Errors
/// It is not installed.
pub fn reader(machine: &Machine, source: (Variant, Family)) -> Result<Program> {
    let (variant, family) = source;
    let tool = machine.tools.get(&source).ok_or_else(|| {
        Error::host(format!("{family} rules of {variant} cannot be read: its iptables-save is not installed"))
            .remedy("install the iptables package that has it")
    })?;
    Ok(machine.program(&tool.save, &["-c"]))
}

/// Puts what the reader of `source` printed in the place of what was known of it.
///
/// # Errors
/// The reader failed, or printed something unreadable.
pub fn absorb(source: (Variant, Family), outcome: &Outcome, observed: &mut Observed) -> Result<()> {
    let (variant, family) = source;
    if !outcome.succeeded() {
        return Err(Error::refused(format!(
            "reading the {family} rules of {variant}: {}",
            machine::ending(outcome)
        )));
    }
    if is_incompatible(outcome) {
        return Err(Error::host(format!("the {family} rules of {variant} cannot be read: {INCOMPATIBLE}")));
    }
    let read = parse::parse(family, &outcome.stdout).map_err(|parse::Unreadable { line, text }| {
        let problem =
            format!("reading the {family} rules of {variant}: line {line} is no iptables-save text");
        Error::refused(format!("{problem}: {}", text.chars().take(200).collect::<String>()))
    })?;
    let rules = observed.rules.entry(variant).or_default();
    rules.chains.retain(|chain| chain.family != family);
    rules.chains.extend(read.chains);
    Ok(())
}

/// Whether there is any table of nf_tables, whoever made it.
///
/// # Errors
/// The kernel refuses to list them.
pub fn has_nftables() -> Result<bool> {
    Ok(!listing::nft_tables()?.is_empty())
}

/// The variants and families that have tables in this namespace, by the kernel's own lists.
fn with_tables(tables: &[NftTable]) -> Result<Vec<(Variant, Family)>> {
    let mut found = Vec::new();
    for (family, names) in [(Family::V4, "ip_tables_names"), (Family::V6, "ip6_tables_names")] {
        let names = fs::read_system(&format!("/proc/thread-self/net/{names}"))?.unwrap_or_default();
        if names.lines().any(|name| TABLES.contains(&name)) {
            found.push((Variant::Legacy, family));
        }
    }
    for (family, number) in [(Family::V4, 2), (Family::V6, 10)] {
        if tables.iter().any(|table| table.family == number && TABLES.contains(&table.name.as_str())) {
            found.push((Variant::Nft, family));
        }
    }
    Ok(found)
}

/// Whether this namespace has an IPv6 stack, whatever addresses it has (proc(5); absent with ipv6.disable=1).
fn has_ipv6() -> bool {
    fs::exists("/proc/thread-self/net/if_inet6")
}

/// The TCP sockets of this namespace.
///
/// Listing them walks the host's whole hash table, some milliseconds; a namespace without any, as a pod's is
/// before its first process, is recognised by its counters.
///
/// # Errors
/// /proc cannot be read.
pub fn sockets() -> Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for (counters, list) in [("sockstat", "tcp"), ("sockstat6", "tcp6")] {
        let counters = fs::read_system(&format!("/proc/thread-self/net/{counters}"))?.unwrap_or_default();
        if !sockets::any_in_use(&counters) {
            continue;
        }
        let list = fs::read_system(&format!("/proc/thread-self/net/{list}"))?.unwrap_or_default();
        sockets.extend(sockets::parse(&list));
    }
    Ok(sockets)
}
