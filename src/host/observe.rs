//! Reading what is there. Never creates a table: only tables that the kernel lists are read.

use super::machine::{self, Machine};
use crate::backend::Observed;
use crate::backend::iptables::parse;
use crate::error::{Error, Result};
use crate::eval::sockets::{Socket, parse as parse_sockets};
use crate::policy::Family;
use crate::policy::settings::Variant;
use crate::sys::{fs, netlink};

/// The tables that both iptables know.
const TABLES: [&str; 5] = ["raw", "mangle", "nat", "filter", "security"];

/// What was read, and what could not be.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// What was read.
    pub observed: Observed,
    /// Variants that have tables here but no program to read them.
    pub unreadable: Vec<(Variant, Family)>,
}

/// Looks at everything. A namespace without tables is recognised without running any program.
///
/// # Errors
/// A table exists and its program fails, or prints something unreadable.
pub fn look(machine: &Machine) -> Result<Look> {
    let mut look =
        Look { observed: Observed { ipv6: has_ipv6(), ..Observed::default() }, unreadable: Vec::new() };
    let mut readable = Vec::new();
    for source in with_tables()? {
        match machine.tools.contains_key(&source) {
            true => readable.push(source),
            false => look.unreadable.push(source),
        }
    }
    read(machine, &readable, &mut look.observed)?;
    Ok(look)
}

/// Reads `sources` again into `observed`, which keeps what it knows of the others.
///
/// # Errors
/// As [`look`].
pub fn again(machine: &Machine, sources: &[(Variant, Family)], observed: &mut Observed) -> Result<()> {
    for (variant, family) in sources {
        if let Some(rules) = observed.rules.get_mut(variant) {
            rules.chains.retain(|chain| chain.family != *family);
        }
    }
    read(machine, sources, observed)
}

fn read(machine: &Machine, sources: &[(Variant, Family)], observed: &mut Observed) -> Result<()> {
    let mut programs = Vec::new();
    let mut of = Vec::new();
    for source in sources {
        if let Some(tool) = machine.tools.get(source) {
            programs.push(machine.program(&tool.save, &["-c"], String::new()));
            of.push((source, &tool.save));
        }
    }
    let outcomes = machine.run(programs)?;
    for (((variant, family), program), outcome) in of.into_iter().zip(outcomes) {
        if !outcome.succeeded() {
            return Err(Error::refused(format!(
                "{} failed: {}",
                program.display(),
                machine::ending(&outcome)
            )));
        }
        let rules = parse::parse(*family, &outcome.stdout).map_err(|unreadable| {
            let parse::Unreadable { line, text } = unreadable;
            Error::refused(format!(
                "{} printed something unreadable in line {line}: {text:?}",
                program.display()
            ))
        })?;
        observed.rules.entry(*variant).or_default().chains.extend(rules.chains);
    }
    Ok(())
}

/// The variants and families that have tables in this namespace, by the kernel's own lists.
fn with_tables() -> Result<Vec<(Variant, Family)>> {
    let mut found = Vec::new();
    for (family, names) in [(Family::V4, "ip_tables_names"), (Family::V6, "ip6_tables_names")] {
        let names = fs::read_system(&format!("/proc/thread-self/net/{names}"))?.unwrap_or_default();
        if names.lines().any(|name| TABLES.contains(&name)) {
            found.push((Variant::Legacy, family));
        }
    }
    let tables = netlink::nft_tables()?;
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
/// # Errors
/// /proc cannot be read.
pub fn sockets() -> Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for file in ["tcp", "tcp6"] {
        let text = fs::read_system(&format!("/proc/thread-self/net/{file}"))?;
        sockets.extend(parse_sockets(&text.unwrap_or_default()));
    }
    Ok(sockets)
}
