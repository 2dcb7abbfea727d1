//! Conditions on what was loaded, as the model's tests.

use super::expr::Field;
use super::rule::Scene;
use super::set::Entry;
use crate::backend::nftables::abi::{
    IFNAMSIZ, IPS_DST_NAT, NFT_CT_DIRECTION, NFT_CT_MARK, NFT_CT_STATE, NFT_CT_STATUS,
    NFT_FIB_RESULT_ADDRTYPE, NFT_META_IIFNAME, NFT_META_L4PROTO, NFT_META_MARK, NFT_META_NFPROTO,
    NFT_META_OIFNAME, NFT_META_PROTOCOL, NFT_META_SKGID, NFT_META_SKUID, NFT_PAYLOAD_NETWORK_HEADER,
    NFT_PAYLOAD_TRANSPORT_HEADER, NFTA_FIB_F_DADDR, RTN_LOCAL, TCP_FIRST_MASK, TCP_FLAGS_OFFSET, TCP_SYN,
};
use crate::backend::nftables::decode::INET;
use crate::backend::nftables::encode::rule::{addresses, state_bit};
use crate::backend::nftables::interval::{self, Interval, highest};
use crate::backend::nftables::{nfproto, normal};
use crate::eval::DESTINATION_TRANSLATED;
use crate::policy::{Cidr, Family, Gid, IfName, Mark, PortRange, Uid};
use crate::rules::{ConnState, Match, Protocol, Test};

/// What a field must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// These bytes, or its beginning is; after a mask, if there is one.
    Equal(Option<Vec<u8>>, Vec<u8>),
    /// Between two values, both included.
    Between(Vec<u8>, Vec<u8>),
    /// At least, or at most, a value (`NFT_CMP_*`): half of a [`Wanted::Between`].
    Beyond(u32, Vec<u8>),
    /// In a set.
    In(String),
}

/// What a condition comes to for packets of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// Nothing that such packets would not fulfil.
    Always,
    /// No such packet.
    Never,
    /// Tests.
    These(Vec<Match>),
}

impl Scene<'_> {
    /// A condition as tests; `None` if it is not understood. Ports are read as ports whatever the protocol is.
    #[must_use]
    pub fn meaning(&self, field: Field, negated: bool, wanted: &Wanted) -> Option<Meaning> {
        let one = |test: Option<Test>| test.map(|test| Meaning::These(vec![Match { negated, test }]));
        match field {
            Field::Meta(NFT_META_NFPROTO) if self.of == INET => {
                self.of_family(negated, wanted, &[nfproto(self.family)])
            }
            Field::Meta(NFT_META_PROTOCOL) => {
                // linux/if_ether.h, ETH_P_IP and ETH_P_IPV6.
                let ethernet: [u8; 2] = if self.family == Family::V4 { [8, 0] } else { [0x86, 0xdd] };
                self.of_family(negated, wanted, &ethernet)
            }
            Field::Payload { base, offset, length } => self.payload(base, (offset, length), negated, wanted),
            Field::Meta(NFT_META_L4PROTO) => one(protocol(wanted)),
            Field::Meta(NFT_META_IIFNAME) => one(self.names(wanted).map(Test::InInterface)),
            Field::Meta(NFT_META_OIFNAME) => one(self.names(wanted).map(Test::OutInterface)),
            Field::Meta(NFT_META_SKUID) => {
                one(self.numbers(wanted)?.into_iter().map(Uid::of).collect::<Option<_>>().map(Test::OwnerUid))
            }
            Field::Meta(NFT_META_SKGID) => {
                one(self.numbers(wanted)?.into_iter().map(Gid::of).collect::<Option<_>>().map(Test::OwnerGid))
            }
            Field::Meta(NFT_META_MARK) => one(exact(wanted).map(|mark| Test::Mark(Mark(mark)))),
            Field::Ct(NFT_CT_MARK, None) => one(exact(wanted).map(|mark| Test::Connmark(Mark(mark)))),
            Field::Ct(NFT_CT_STATE, None) => self.states(negated, wanted),
            // nft says `ct status dnat` so: the bit is not zero.
            Field::Ct(NFT_CT_STATUS, None) => match wanted {
                Wanted::Equal(Some(mask), value)
                    if *mask == IPS_DST_NAT.to_ne_bytes() && *value == [0; 4] =>
                {
                    let test = Test::Opaque(DESTINATION_TRANSLATED.to_owned());
                    Some(Meaning::These(vec![Match { negated: !negated, test }]))
                }
                Wanted::Equal(..) | Wanted::Between(..) | Wanted::Beyond(..) | Wanted::In(_) => None,
            },
            Field::Ct(NFT_CT_DIRECTION, None) => match wanted {
                // IP_CT_DIR_ORIGINAL and IP_CT_DIR_REPLY: there is no third.
                Wanted::Equal(None, value) if *value == [1] => one(Some(Test::Answer)),
                Wanted::Equal(None, value) if *value == [0] => {
                    Some(Meaning::These(vec![Match { negated: !negated, test: Test::Answer }]))
                }
                Wanted::Equal(..) | Wanted::Between(..) | Wanted::Beyond(..) | Wanted::In(_) => None,
            },
            Field::Fib(NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR) => {
                one((exact(wanted)? == RTN_LOCAL).then_some(Test::DestinationIsLocal))
            }
            Field::Meta(_) | Field::Ct(..) | Field::Fib(..) => None,
        }
    }

    fn of_family(&self, negated: bool, wanted: &Wanted, own: &[u8]) -> Option<Meaning> {
        let Wanted::Equal(None, value) = wanted else { return None };
        Some(if (value == own) != negated { Meaning::Always } else { Meaning::Never })
    }

    fn payload(&self, base: u32, span: (u32, u32), negated: bool, wanted: &Wanted) -> Option<Meaning> {
        if let (Wanted::Equal(None, value), false) = (wanted, negated) {
            return self.joined(base, span, value).map(Meaning::These);
        }
        let test = self.header(base, span, wanted)?;
        Some(Meaning::These(vec![Match { negated, test }]))
    }

    /// nft asks for neighbouring fields at once: taken apart, the last may be but a beginning.
    fn joined(&self, base: u32, (mut offset, length): (u32, u32), value: &[u8]) -> Option<Vec<Match>> {
        if value.len() != usize::try_from(length).ok()? {
            return None;
        }
        let mut rest = value;
        let mut tests = Vec::new();
        while !rest.is_empty() {
            let whole = usize::try_from(self.length_at(base, offset)?).ok()?;
            let (now, after) = rest.split_at(whole.min(rest.len()));
            let taken = u32::try_from(now.len()).ok()?;
            tests.push(Match::is(self.header(base, (offset, taken), &Wanted::Equal(None, now.to_vec()))?));
            (offset, rest) = (offset + taken, after);
        }
        Some(tests)
    }

    /// The length of the field that begins there.
    fn length_at(&self, base: u32, offset: u32) -> Option<u32> {
        let (source, destination, length) = addresses(self.family);
        match (base, offset) {
            (NFT_PAYLOAD_NETWORK_HEADER, offset) if offset == source || offset == destination => Some(length),
            (NFT_PAYLOAD_NETWORK_HEADER, 9) if self.family == Family::V4 => Some(1),
            (NFT_PAYLOAD_TRANSPORT_HEADER, 0 | 2) => Some(2),
            (NFT_PAYLOAD_TRANSPORT_HEADER, TCP_FLAGS_OFFSET) => Some(1),
            _ => None,
        }
    }

    fn header(&self, base: u32, (offset, length): (u32, u32), wanted: &Wanted) -> Option<Test> {
        let (source, destination, whole) = addresses(self.family);
        match (base, offset, length) {
            (NFT_PAYLOAD_NETWORK_HEADER, 9, 1) if self.family == Family::V4 => protocol(wanted),
            (NFT_PAYLOAD_NETWORK_HEADER, _, 1..) if length <= whole && offset == source => {
                self.networks(length, wanted).map(Test::Source)
            }
            (NFT_PAYLOAD_NETWORK_HEADER, _, 1..) if length <= whole && offset == destination => {
                self.networks(length, wanted).map(Test::Destination)
            }
            (NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2) => self.ports(wanted).map(Test::SourcePort),
            (NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2) => self.ports(wanted).map(Test::DestinationPort),
            (NFT_PAYLOAD_TRANSPORT_HEADER, TCP_FLAGS_OFFSET, 1) => {
                let first = Wanted::Equal(Some(vec![TCP_FIRST_MASK]), vec![TCP_SYN]);
                (*wanted == first).then_some(Test::FirstPacket)
            }
            _ => None,
        }
    }

    fn networks(&self, length: u32, wanted: &Wanted) -> Option<Vec<Cidr>> {
        let (.., whole) = addresses(self.family);
        let bits = interval::width(self.family);
        match wanted {
            Wanted::Equal(mask, value) => {
                let size = usize::try_from(length).ok()?;
                let shift = (whole - length) * 8;
                let mask = mask.as_ref().map_or(Some(highest(length * 8)), |mask| number(mask, size))?;
                let (mask, first) = (mask << shift, number(value, size)? << shift);
                // The zeros after the ones.
                let host = if mask == 0 { bits } else { mask.trailing_zeros() };
                let is_prefix = mask | highest(host) == highest(bits) && first & !mask == 0;
                Some(vec![interval::cidr(self.family, first, bits - host).filter(|_| is_prefix)?])
            }
            _ if length != whole => None,
            Wanted::In(_) | Wanted::Between(..) => {
                let intervals = interval::merged(self.intervals(usize::try_from(whole).ok()?, wanted)?);
                Some(
                    intervals
                        .into_iter()
                        .flat_map(|interval| interval::cidrs(self.family, interval))
                        .collect(),
                )
            }
            Wanted::Beyond(..) => None,
        }
    }

    fn ports(&self, wanted: &Wanted) -> Option<Vec<PortRange>> {
        let intervals = interval::merged(self.intervals(2, wanted)?);
        intervals
            .into_iter()
            .map(interval::ports)
            .collect::<Option<Vec<_>>>()
            .filter(|ports| !ports.is_empty())
    }

    fn names(&self, wanted: &Wanted) -> Option<Vec<IfName>> {
        let names: Vec<IfName> = match wanted {
            Wanted::Equal(None, value) => vec![name(value, value.len() < IFNAMSIZ)?],
            Wanted::In(_) => {
                let intervals = self.intervals(IFNAMSIZ, wanted)?;
                intervals.into_iter().map(name_of).collect::<Option<_>>()?
            }
            Wanted::Equal(Some(_), _) | Wanted::Between(..) | Wanted::Beyond(..) => return None,
        };
        Some(names).filter(|names| !names.is_empty())
    }

    /// Numbers in the machine's byte order, none of them an interval.
    fn numbers(&self, wanted: &Wanted) -> Option<Vec<u32>> {
        if let Wanted::Equal(None, _) = wanted {
            return exact(wanted).map(|number| vec![number]);
        }
        let Wanted::In(_) = wanted else { return None };
        let one = |interval: Interval| {
            let single = u32::try_from(interval.first).ok().filter(|_| interval.first == interval.last)?;
            Some(u32::from_ne_bytes(single.to_be_bytes()))
        };
        let mut numbers = self.intervals(4, wanted)?.into_iter().map(one).collect::<Option<Vec<_>>>()?;
        numbers.sort_unstable();
        Some(numbers).filter(|numbers| !numbers.is_empty())
    }

    fn states(&self, negated: bool, wanted: &Wanted) -> Option<Meaning> {
        let (bits, negated) = match wanted {
            Wanted::Equal(Some(mask), value) if *value == [0; 4] => {
                (u32::from_ne_bytes(mask.clone().try_into().ok()?), !negated)
            }
            // A connection has one state: to be it is to have its bit.
            Wanted::Equal(None, value) => {
                let bits = u32::from_ne_bytes(value.clone().try_into().ok()?);
                (Some(bits).filter(|bits| bits.is_power_of_two())?, negated)
            }
            Wanted::In(_) => {
                let all = self.numbers(wanted)?;
                let single = all.iter().all(|bits| bits.is_power_of_two());
                (single.then(|| all.iter().fold(0, |bits, bit| bits | bit))?, negated)
            }
            Wanted::Equal(..) | Wanted::Between(..) | Wanted::Beyond(..) => return None,
        };
        let states: Vec<ConnState> =
            ConnState::ALL.into_iter().filter(|state| bits & state_bit(*state) != 0).collect();
        let known = states.iter().fold(0, |bits, state| bits | state_bit(*state));
        // Untracked, or whatever else there may be, is no state of the model.
        (known == bits && bits != 0)
            .then(|| Meaning::These(vec![Match { negated, test: Test::ConnState(states) }]))
    }

    /// The intervals of keys of so many bytes that are wanted.
    fn intervals(&self, length: usize, wanted: &Wanted) -> Option<Vec<Interval>> {
        let found = match wanted {
            Wanted::Equal(None, value) => {
                let first = number(value, length)?;
                vec![Interval { first, last: first }]
            }
            Wanted::Between(from, to) => {
                vec![Interval { first: number(from, length)?, last: number(to, length)? }]
            }
            Wanted::In(set) => {
                self.entries(set, length)?.into_iter().map(|(interval, ..)| interval).collect()
            }
            Wanted::Equal(Some(_), _) | Wanted::Beyond(..) => return None,
        };
        let sound = found.iter().all(|interval| interval.first <= interval.last);
        Some(found).filter(|found| sound && !found.is_empty())
    }

    /// What a set of the same table holds, if it is known.
    #[must_use]
    pub fn entries(&self, set: &str, length: usize) -> Option<Vec<Entry<'_>>> {
        self.sets.get(&(self.of, self.table.to_owned(), set.to_owned()))?.entries(length)
    }
}

/// Ports of an interval of keys.
#[must_use]
pub fn ports_of(interval: Interval) -> Option<PortRange> {
    interval::ports(interval)
}

fn protocol(wanted: &Wanted) -> Option<Test> {
    let Wanted::Equal(None, value) = wanted else { return None };
    let [number] = value.as_slice() else { return None };
    Some(Test::Protocol(normal::protocol(*number)))
}

/// Whether a protocol has the two ports, and whether it has the flags.
#[must_use]
pub fn stands_on(test: &Test, protocol: Option<&Protocol>) -> bool {
    match test {
        Test::SourcePort(_) | Test::DestinationPort(_) => {
            protocol.is_some_and(crate::backend::nftables::encode::rule::has_ports)
        }
        Test::FirstPacket => protocol == Some(&Protocol::Tcp),
        Test::Source(_)
        | Test::Destination(_)
        | Test::InInterface(_)
        | Test::OutInterface(_)
        | Test::Protocol(_)
        | Test::OwnerUid(_)
        | Test::OwnerGid(_)
        | Test::DestinationIsLocal
        | Test::ConnState(_)
        | Test::Answer
        | Test::Mark(_)
        | Test::Connmark(_)
        | Test::Opaque(_) => true,
    }
}

/// A number of 4 bytes in the machine's byte order, no mask.
fn exact(wanted: &Wanted) -> Option<u32> {
    let Wanted::Equal(None, value) = wanted else { return None };
    value.as_slice().try_into().ok().map(u32::from_ne_bytes)
}

/// Bytes in network order as a number, if they are so many.
fn number(bytes: &[u8], length: usize) -> Option<u128> {
    let known = bytes.len() == length && length <= 16;
    known.then(|| bytes.iter().fold(0, |number, byte| number << 8 | u128::from(*byte)))
}

/// A name up to its NULs, or the beginning of names.
fn name(bytes: &[u8], may_begin: bool) -> Option<IfName> {
    let text = bytes.split(|byte| *byte == 0).next()?;
    let begins = text.len() == bytes.len();
    let clean = bytes.iter().skip(text.len()).all(|byte| *byte == 0) && (!begins || may_begin);
    let text = std::str::from_utf8(text).ok().filter(|text| clean && !text.ends_with('+'))?;
    if begins { format!("{text}+").parse().ok() } else { text.parse().ok() }
}

fn name_of(interval: Interval) -> Option<IfName> {
    let (first, last) = (interval.first.to_be_bytes(), interval.last.to_be_bytes());
    if first == last {
        return name(&first, false);
    }
    let beginning = first.split(|byte| *byte == 0).next()?;
    let name = name(beginning, true)?;
    let same = crate::backend::nftables::set::names_interval(&name) == interval;
    same.then_some(name)
}
