//! Reading what is there. Never creates a table: only tables that the kernel lists are read.

use super::machine::{self, Machine};
use super::{native, preflight, routing};
use crate::backend::iptables::parse;
use crate::backend::{Observed, nftables, ownership};
use crate::error::{Class, Error, Result};
use crate::eval::sockets::{Socket, any_in_use, parse as parse_sockets};
use crate::policy::Family;
use crate::policy::settings::Variant;
use crate::rules::Chain;
use crate::sys::exec::{Outcome, Program};
use crate::sys::listing::{self, NftTable};
use crate::sys::{fs, ipv6, sockets};

/// The tables that both iptables know.
const TABLES: [&str; 5] = ["raw", "mangle", "nat", "filter", "security"];

/// What the kernel tells of the calling thread's namespace (proc(5)).
const NET: &str = "/proc/thread-self/net";

/// `NFPROTO_IPV4` and `NFPROTO_IPV6` (linux/netfilter.h).
const FAMILIES: [u8; 2] = [2, 10];

/// The rules of one variant and family.
type Source = (Variant, Family);

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
        ipv6: ipv6::is_there(),
        lo_without_ipv6: ipv6::is_off_on_lo(),
        routing: routing::read()?,
        ..Observed::default()
    };
    let mut look = Look { observed, ..Look::default() };
    let tables = listing::nft_tables()?;
    if tables.iter().any(|table| FAMILIES.contains(&table.family) && table.name == nftables::TABLE) {
        native::read_into(&mut look.observed)?;
    }
    let (found, unlisted) = with_tables(&tables)?;
    look.observed.unlisted = unlisted;
    let (readable, without): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|source| machine.tools.contains_key(source));
    let without = without_contents(without)?
        .into_iter()
        .map(|(variant, family)| (variant, family, "its iptables-save is not installed"));
    look.unreadable.extend(without);
    if readable.iter().any(|(variant, _)| *variant == Variant::Legacy) {
        preflight::raw_sockets()?;
    }
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

/// The variants and families that have tables in this namespace, by the kernel's own lists; and why that of
/// iptables-legacy cannot be had, if it cannot.
fn with_tables(tables: &[NftTable]) -> Result<(Vec<Source>, Option<Error>)> {
    let untold = |why: &str| format!("whether iptables-legacy has tables here cannot be told: {why}");
    let mut found = Vec::new();
    let mut unlisted = None;
    if !fs::exists(NET) {
        unlisted = Some(Error::host(untold("/proc is not mounted")).remedy("mount /proc"));
    }
    for (family, names) in [(Family::V4, "ip_tables_names"), (Family::V6, "ip6_tables_names")] {
        let names = match fs::read_system(&format!("{NET}/{names}")) {
            Ok(names) => names.unwrap_or_default(),
            // A network namespace that is older than the map of its user namespace: global root's.
            Err(error) if error.class == Class::Privilege => {
                unlisted = unlisted.or(Some(Error { problem: untold(&error.problem), ..error }));
                continue;
            }
            Err(error) => return Err(error),
        };
        if names.lines().any(|name| TABLES.contains(&name)) {
            found.push((Variant::Legacy, family));
        }
    }
    for (family, number) in [(Family::V4, 2), (Family::V6, 10)] {
        if tables.iter().any(|table| table.family == number && TABLES.contains(&table.name.as_str())) {
            found.push((Variant::Nft, family));
        }
    }
    Ok((found, unlisted))
}

/// What of `sources`, which no program here can read, is not known to hold nothing. nf_tables itself shows whether the
/// tables of iptables-nft do, as those that it leaves behind once it was used.
fn without_contents(sources: Vec<Source>) -> Result<Vec<Source>> {
    if sources.iter().all(|(variant, _)| *variant != Variant::Nft) {
        return Ok(sources);
    }
    let (rules, _) = native::everything()?;
    let holds = |(variant, family): &Source| {
        let mut chains = rules
            .chains
            .iter()
            .filter(|chain| chain.family == *family && native::is_of_iptables(&chain.table));
        *variant != Variant::Nft || !chains.all(Chain::is_untouched)
    };
    Ok(sources.into_iter().filter(holds).collect())
}

/// The TCP sockets of this namespace.
///
/// Listing them walks the host's whole hash table, some milliseconds; a namespace without any, as a pod's is
/// before its first process, is recognised by its counters.
///
/// # Errors
/// Neither /proc nor the kernel lists them.
pub fn sockets() -> Result<Vec<Socket>> {
    if !fs::exists(NET) {
        let listed = sockets::tcp()?.into_iter();
        return Ok(listed
            .map(|sockets::Tcp { local, remote, state, uid, .. }| Socket { local, remote, state, uid })
            .collect());
    }
    let mut sockets = Vec::new();
    for (counters, list) in [("sockstat", "tcp"), ("sockstat6", "tcp6")] {
        let counters = fs::read_system(&format!("{NET}/{counters}"))?.unwrap_or_default();
        if !any_in_use(&counters) {
            continue;
        }
        let list = fs::read_system(&format!("{NET}/{list}"))?.unwrap_or_default();
        sockets.extend(parse_sockets(&list));
    }
    Ok(sockets)
}
