//! Events to packets: which belong together, and where a packet's way ends.

use std::time::{Duration, Instant};

use super::event::{Deed, Event, Header};
use super::{TABLE, chain_name};
use crate::backend::nftables::abi::NF_DROP;
use crate::rules::Hook;

/// A packet, from where it sets out or arrives to where it leaves or is delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The table's family of the first message (`NFPROTO_*`).
    pub of: u8,
    /// Where it was first seen: [`Hook::Output`] or [`Hook::Prerouting`].
    pub begun: Hook,
    /// As it was first seen.
    pub header: Header,
    /// Its mark when it was first seen.
    pub mark: u32,
    /// What happened to it in chains that are not of our table.
    pub steps: Vec<Step>,
    /// Where its way ended.
    pub end: End,
    /// The kernel had no room for all that it had to say meanwhile.
    pub incomplete: bool,
}

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// In a chain.
    Event(Event),
    /// It went out over lo, and came back in.
    Back,
}

/// Where a packet's way ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// To a socket of this host: what [`Hook::Input`] has let through.
    Delivered(Header, u32),
    /// To another host: what [`Hook::Postrouting`] has let through.
    Sent(Header, u32),
    /// A rule or a policy dropped it.
    Dropped,
    /// No chain has seen it again: dropped by something else than a rule, or kept by a rule that queues.
    Unknown,
}

/// `LOOPBACK_IFINDEX` of the kernel's net/net_namespace.h: lo is the first interface of every namespace.
const LOOPBACK: u32 = 1;
/// After so long without a word of a packet nothing more is expected. It is one run through the kernel's network stack.
pub const QUIET: Duration = Duration::from_millis(300);

/// A packet whose way has not ended.
#[derive(Debug)]
struct Open {
    id: u32,
    packet: Packet,
    last: Instant,
    /// As what it left by lo: it comes back under another id.
    back: Option<Header>,
}

/// Collects events.
#[derive(Debug, Default)]
pub struct Assembler {
    open: Vec<Open>,
}

impl Assembler {
    /// Takes an event that was read at `now`; the packet whose way it ends, and one that was given up for it.
    pub fn take(&mut self, event: Event, now: Instant) -> Vec<Packet> {
        match (event.table == TABLE, event.header) {
            (true, Some(header)) => self.frame(&event, header, now),
            (true, None) => Vec::new(),
            (false, _) => self.step(event, now).into_iter().collect(),
        }
    }

    /// The packets of which nothing was heard for [`QUIET`]; all of them if there is no `now`.
    pub fn quiet(&mut self, now: Option<Instant>) -> Vec<Packet> {
        let is_quiet = |open: &Open| now.is_none_or(|now| now.duration_since(open.last) >= QUIET);
        self.open.extract_if(.., |open| is_quiet(open)).map(|open| open.packet).collect()
    }

    /// Messages were lost.
    pub fn lost(&mut self) {
        self.open.iter_mut().for_each(|open| open.packet.incomplete = true);
    }

    /// An event of our own chains that tells what the packet looks like.
    fn frame(&mut self, event: &Event, header: Header, now: Instant) -> Vec<Packet> {
        let at = |hook: Hook| event.chain == chain_name(hook);
        if at(Hook::Input) || at(Hook::Postrouting) {
            let Some(index) = self.open.iter().position(|open| open.id == event.id) else {
                return Vec::new();
            };
            if at(Hook::Postrouting) && header.leaves == Some(LOOPBACK) {
                if let Some(open) = self.open.get_mut(index) {
                    (open.back, open.last) = (Some(header), now);
                    open.packet.steps.push(Step::Back);
                }
                return Vec::new();
            }
            let mut open = self.open.remove(index);
            open.packet.end = match at(Hook::Input) {
                true => End::Delivered(header, event.mark),
                false => End::Sent(header, event.mark),
            };
            return vec![open.packet];
        }
        let began = if at(Hook::Output) { Hook::Output } else { Hook::Prerouting };
        // The rule of ours marks it; that the chain ends is all it says of what was marked before.
        let is_marked_here = matches!(event.deed, Deed::Rule { .. });
        let back = |open: &Open| open.back.is_some_and(|back| back.same(&header));
        if began == Hook::Prerouting
            && header.arrived == Some(LOOPBACK)
            && let Some(open) = self.open.iter_mut().find(|open| back(open))
        {
            (open.id, open.back, open.last) = (event.id, None, now);
            return Vec::new();
        }
        if !is_marked_here {
            return Vec::new();
        }
        // The kernel's ids are of the place in memory: the one before is gone.
        let before = self.open.extract_if(.., |open| open.id == event.id && open.back.is_none());
        let before = before.map(|open| open.packet).collect();
        let packet = Packet {
            of: event.of,
            begun: began,
            header,
            mark: event.mark,
            steps: Vec::new(),
            end: End::Unknown,
            incomplete: false,
        };
        self.open.push(Open { id: event.id, packet, last: now, back: None });
        before
    }

    fn step(&mut self, event: Event, now: Instant) -> Option<Packet> {
        let index = self.open.iter().position(|open| open.id == event.id && open.back.is_none())?;
        let dropped = match &event.deed {
            Deed::Rule { verdict, .. } => verdict.code == NF_DROP,
            Deed::Policy(accepts) => !accepts,
            Deed::End => false,
        };
        let open = self.open.get_mut(index)?;
        open.last = now;
        open.packet.steps.push(Step::Event(event));
        dropped.then(|| {
            let mut open = self.open.remove(index);
            open.packet.end = End::Dropped;
            open.packet
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::nftables::abi::{NF_ACCEPT, NFT_CONTINUE};
    use crate::backend::nftables::set::Code;

    fn header(to: [u8; 4], interface: [Option<u32>; 2]) -> Header {
        let [arrived, leaves] = interface;
        let ports = Some((40_000, 80));
        Header { protocol: 6, source: [10, 0, 0, 1].into(), destination: to.into(), ports, arrived, leaves }
    }

    fn event(id: u32, table: &str, chain: &str, deed: Deed, header: Option<Header>) -> Event {
        Event { id, of: 2, table: table.into(), chain: chain.into(), deed, mark: 0, header }
    }

    fn rule(code: i32) -> Deed {
        Deed::Rule { handle: 5, verdict: Code { code, chain: None } }
    }

    fn ours(id: u32, chain: &str, header: Header) -> Event {
        let deed = if header.arrived.is_none() && chain == "output" {
            rule(NFT_CONTINUE)
        } else {
            Deed::Policy(true)
        };
        event(id, TABLE, chain, deed, Some(header))
    }

    const OUT: [Option<u32>; 2] = [None, Some(3)];
    const OVER_LO: [Option<u32>; 2] = [None, Some(1)];

    #[test]
    fn a_packet_is_framed() {
        let now = Instant::now();
        let mut assembler = Assembler::default();
        let first = header([10, 1, 2, 3], OUT);
        // Somebody else's, before and beside ours.
        assert!(assembler.take(event(9, "nat", "OUTPUT", rule(NF_ACCEPT), None), now).is_empty());
        assert!(
            assembler.take(ours(9, "prerouting", header([10, 9, 9, 9], [Some(2), None])), now).is_empty()
        );
        assert!(assembler.take(ours(7, "output", first), now).is_empty());
        let step = event(7, "nat", "OUTPUT", rule(NF_ACCEPT), Some(first));
        assert!(assembler.take(step.clone(), now).is_empty());
        let ended = assembler.take(ours(7, "postrouting", first), now);
        let [packet] = ended.as_slice() else { panic!("{ended:?}") };
        assert_eq!((packet.begun, packet.end), (Hook::Output, End::Sent(first, 0)));
        assert_eq!(packet.steps, [Step::Event(step)]);
        assert!(assembler.quiet(None).is_empty());
    }

    #[test]
    fn one_that_comes_back_is_one() {
        let now = Instant::now();
        let mut assembler = Assembler::default();
        assembler.take(ours(7, "output", header([10, 1, 2, 3], OUT)), now);
        let captured = header([127, 0, 0, 1], OVER_LO);
        assert!(assembler.take(ours(7, "postrouting", captured), now).is_empty());
        let arriving = header([127, 0, 0, 1], [Some(1), None]);
        // Another one of another address does not take its place.
        assembler.take(ours(8, "prerouting", header([127, 0, 0, 9], [Some(1), None])), now);
        assembler.take(ours(8, "prerouting", arriving), now);
        let step = event(8, "raw", "PREROUTING", Deed::Policy(true), Some(arriving));
        assembler.take(step.clone(), now);
        let ended = assembler.take(ours(8, "input", arriving), now);
        let [packet] = ended.as_slice() else { panic!("{ended:?}") };
        assert_eq!(packet.end, End::Delivered(arriving, 0));
        assert_eq!(packet.steps, [Step::Back, Step::Event(step)]);
    }

    #[test]
    fn what_ends_without_a_word_is_told() {
        let now = Instant::now();
        let mut assembler = Assembler::default();
        let first = header([10, 1, 2, 3], OUT);
        assembler.take(ours(7, "output", first), now);
        let dropped = assembler.take(event(7, "filter", "OUTPUT", rule(NF_DROP), Some(first)), now);
        assert_eq!(dropped.iter().map(|packet| packet.end).collect::<Vec<_>>(), [End::Dropped]);
        assembler.take(ours(7, "output", first), now);
        let policy = event(7, "filter", "OUTPUT", Deed::Policy(false), Some(first));
        assert_eq!(assembler.take(policy, now).len(), 1);
        // The same id again: the first is given up.
        assembler.take(ours(7, "output", first), now);
        let before = assembler.take(ours(7, "output", first), now);
        assert_eq!(before.iter().map(|packet| packet.end).collect::<Vec<_>>(), [End::Unknown]);
        assembler.lost();
        assert!(assembler.quiet(Some(now)).is_empty());
        let quiet = assembler.quiet(Some(now + QUIET));
        assert_eq!(quiet.iter().map(|packet| packet.incomplete).collect::<Vec<_>>(), [true]);
    }
}
