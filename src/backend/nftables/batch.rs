//! A batch: messages that the kernel takes all or not at all.
//!
//! nfnetlink_rcv_batch() in net/netfilter/nfnetlink.c: begin, messages, end. The begin may carry the generation of
//! the rules that the batch was made for (`NFNL_BATCH_GENID`, since 4.16); if that is past, the answer is ERESTART.

use super::abi::{
    NFNL_BATCH_GENID, NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NFNL_SUBSYS_NFTABLES, NLM_F_ACK,
};
use super::wire::{self, Head, Writer};
use crate::error::{Error, Result};

/// Messages to be committed together, and what each of them is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    body: Writer,
    /// Where the last message begins.
    last: usize,
    /// For each message what it is about, and what of the kernel it needs (empty: nothing beyond nf_tables).
    objects: Vec<(String, String)>,
}

/// The sequence number of the batch's begin; its first message has the next.
pub const FIRST_SEQUENCE: u32 = 1;

impl Batch {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Whether there is nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// What the messages are about and need, in order: what `sys::nftables` names when one of them fails.
    #[must_use]
    pub fn objects(&self) -> &[(String, String)] {
        &self.objects
    }

    /// Adds a message of nf_tables about `object`, which needs `needs` of the kernel.
    pub fn push(
        &mut self,
        (message, flags, family): (u16, u16, u8),
        object: impl Into<String>,
        needs: impl Into<String>,
        body: impl FnOnce(&mut Writer),
    ) {
        self.last = self.body.len();
        let sequence = self.sequence(self.objects.len() + 1);
        self.body.message(Head { kind: wire::nft(message), flags, sequence, family, resource: 0 }, body);
        self.objects.push((object.into(), needs.into()));
    }

    fn sequence(&self, position: usize) -> u32 {
        u32::try_from(position).map_or(u32::MAX, |position| position.saturating_add(FIRST_SEQUENCE))
    }

    /// The bytes to send: for whatever rules there are, or only if they are still of that generation.
    ///
    /// # Errors
    /// A message is longer than netlink can say.
    pub fn bytes(&self, generation: Option<u32>) -> Result<Vec<u8>> {
        let frame =
            |kind, sequence| Head { kind, flags: 0, sequence, family: 0, resource: NFNL_SUBSYS_NFTABLES };
        let mut writer = Writer::new();
        writer.message(frame(NFNL_MSG_BATCH_BEGIN, FIRST_SEQUENCE), |body| {
            if let Some(generation) = generation {
                body.u32(NFNL_BATCH_GENID, generation);
            }
        });
        let start = writer.len();
        let too_long = || Error::refused("a message of this batch is longer than netlink allows");
        writer.raw(&self.body.clone().finish().ok_or_else(too_long)?);
        writer.message(frame(NFNL_MSG_BATCH_END, self.sequence(self.objects.len() + 1)), |_| {});
        let mut bytes = writer.finish().ok_or_else(too_long)?;
        // Errors come unasked; that all is well is said where it is asked for, and once is enough.
        let flags = start + self.last + 6;
        if let (false, Some(low)) = (self.is_empty(), bytes.get_mut(flags..flags + 2)) {
            let asked =
                u16::from_ne_bytes([*low.first().unwrap_or(&0), *low.last().unwrap_or(&0)]) | NLM_F_ACK;
            low.copy_from_slice(&asked.to_ne_bytes());
        }
        Ok(bytes)
    }
}

/// The generation after one commit (nf_tables_commit() in net/netfilter/nf_tables_api.c: 0 is left out).
#[must_use]
pub const fn next_generation(generation: u32) -> u32 {
    match generation.wrapping_add(1) {
        0 => 1,
        next => next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_framed_and_asks_once() {
        let mut batch = Batch::new();
        assert!(batch.is_empty());
        for name in ["one", "two"] {
            batch.push((0, 0x400, 2), name, "", |body| body.text(1, name));
        }
        let bytes = batch.bytes(Some(5)).unwrap();
        let read: Vec<_> = wire::messages(&bytes).collect();
        let heads: Vec<_> = read
            .iter()
            .map(|message| (message.head.kind, message.head.flags, message.head.sequence))
            .collect();
        assert_eq!(heads, [(0x10, 1, 1), (0xa00, 0x401, 2), (0xa00, 0x405, 3), (0x11, 1, 4)]);
        assert_eq!(read[0].attributes.u32(NFNL_BATCH_GENID), Some(5));
        assert_eq!((read[0].head.resource, read[3].head.resource), (10, 10));
        assert_eq!(batch.objects()[1].0, "two");
        let any = batch.bytes(None).unwrap();
        assert_eq!(wire::messages(&any).next().unwrap().attributes.u32(NFNL_BATCH_GENID), None);
        assert_eq!((next_generation(1), next_generation(u32::MAX)), (2, 1));
    }
}
