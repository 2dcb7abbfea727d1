//! Marking packets for nf_tables' trace, and taking that back whatever happens.

use crate::backend::nftables::trace;
use crate::backend::nftables::trace::listing::Listing;
use crate::backend::nftables::word;
use crate::error::{Class, Error, Result};
use crate::eval::Filter;
use crate::policy::Family;
use crate::rules::RuleSet;
use crate::sys::listing;
use crate::sys::nftables::Nftables;
use crate::sys::nftrace::Listener;

/// A trace that goes on.
#[derive(Debug)]
pub struct Trace {
    /// What is heard.
    pub listener: Listener,
    owner: Nftables,
    families: Vec<Family>,
}

impl Trace {
    /// Listens, then marks the packets that `filter` is about. What a run before this has left, for it was killed, is
    /// taken away first.
    ///
    /// # Errors
    /// Another trace goes on here, or the kernel refuses.
    pub fn begin(filter: &Filter) -> Result<Trace> {
        let owner = Nftables::open()?;
        if let Left::Running(port) = remove_left(&owner)? {
            let problem = format!("another trace goes on in this namespace (netlink port {port})");
            return Err(Error::new(Class::TryAgain, problem).remedy("wait for its end, or end it"));
        }
        let listener = Listener::open()?;
        let commit = |owned: bool| {
            let batch = trace::create(filter, owned)?;
            owner.commit(&batch.bytes(None)?, batch.objects())
        };
        // Older kernels do not know owners (NFT_TABLE_F_OWNER, 5.12). Then it is taken away at the end alone.
        match commit(true) {
            Err(error) if error.class != Class::Privilege => commit(false)?,
            other => other?,
        }
        Ok(Trace { listener, owner, families: trace::families(filter) })
    }

    /// The rules of this namespace, to tell what the kernel names by number, and the generation that they are of.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub fn listing(&self, iptables: &RuleSet) -> Result<(u32, Listing)> {
        let snapshot = self.owner.everything()?;
        Ok((snapshot.generation, Listing::of(&snapshot.messages, iptables)))
    }

    /// The generation of the rules now.
    ///
    /// # Errors
    /// The kernel refuses to tell.
    pub fn generation(&self) -> Result<u32> {
        self.owner.generation()
    }

    /// Takes the marks away.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn end(self) -> Result<()> {
        let batch = trace::removal(&self.families);
        self.owner.commit(&batch.bytes(None)?, batch.objects())
    }
}

/// What of traces was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// Nothing.
    Nothing,
    /// Tables of a run that was killed; they are gone now.
    Removed(Vec<Family>),
    /// A trace goes on; its socket's netlink port.
    Running(u32),
}

impl Left {
    /// What was taken away, in words; `None` if nothing was.
    #[must_use]
    pub fn removed(&self) -> Option<String> {
        let Left::Removed(families) = self else { return None };
        let families: Vec<&str> = families.iter().map(|family| word(*family)).collect();
        Some(format!("table {} of nftables ({})", trace::TABLE, families.join(", ")))
    }
}

/// Takes away what traces have left that do not go on.
///
/// # Errors
/// The kernel refuses.
pub fn clean() -> Result<Left> {
    let any = listing::nft_tables()?.iter().any(|table| table.name == trace::TABLE);
    if any { remove_left(&Nftables::open()?) } else { Ok(Left::Nothing) }
}

fn remove_left(nftables: &Nftables) -> Result<Left> {
    let tables = trace::tables(&nftables.tables(trace::TABLE)?.messages);
    if let Some(port) = tables.iter().find_map(|(_, owner)| *owner) {
        return Ok(Left::Running(port));
    }
    if tables.is_empty() {
        return Ok(Left::Nothing);
    }
    let families: Vec<Family> = tables.into_iter().map(|(family, _)| family).collect();
    let batch = trace::removal(&families);
    nftables.commit(&batch.bytes(None)?, batch.objects())?;
    Ok(Left::Removed(families))
}
