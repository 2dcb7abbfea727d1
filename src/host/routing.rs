//! The routing that TPROXY needs, between the kernel's entries and ours.

use crate::backend::observed::Present;
use crate::error::Result;
use crate::policy::{Family, Mark};
use crate::rules::Routing;
use crate::sys::routing::{self, Entry, Found};

fn family(v6: bool) -> Family {
    if v6 { Family::V6 } else { Family::V4 }
}

fn entry(what: &Routing) -> Entry {
    match *what {
        Routing::PassthroughAddress => Entry::Address,
        Routing::Route { family, table } => Entry::Route { v6: family == Family::V6, table },
        Routing::Rule { family, mark, table } => {
            Entry::Rule { v6: family == Family::V6, mark: mark.0, table }
        }
    }
}

/// The routing of that kind that is there, whoever made it.
///
/// # Errors
/// The kernel refuses to tell.
pub fn read() -> Result<Vec<Present>> {
    let present = |found: Found| {
        let what = match found.entry {
            Entry::Address => Routing::PassthroughAddress,
            Entry::Route { v6, table } => Routing::Route { family: family(v6), table },
            Entry::Rule { v6, mark, table } => Routing::Rule { family: family(v6), mark: Mark(mark), table },
        };
        Present { what, ours: found.ours, priority: found.priority }
    };
    Ok(routing::list()?.into_iter().map(present).collect())
}

/// Makes `wanted`, in order.
///
/// # Errors
/// The kernel refuses one; those before it are there.
pub fn make(wanted: &[Present]) -> Result<()> {
    wanted.iter().try_for_each(|present| routing::add(&entry(&present.what)))
}

/// Removes `unwanted`, in order; what is gone already is fine.
///
/// # Errors
/// The kernel refuses one; those before it are gone.
pub fn remove(unwanted: &[Present]) -> Result<()> {
    unwanted.iter().try_for_each(|present| {
        let Present { what, ours, priority } = present;
        routing::remove(&Found { entry: entry(what), ours: *ours, priority: *priority })
    })
}
