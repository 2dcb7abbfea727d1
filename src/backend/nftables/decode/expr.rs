//! Expressions that were read.

use crate::backend::nftables::abi::{
    NFT_REG_VERDICT, NFT_REG32_00, NFT_REG32_15, NFTA_BITWISE_DREG, NFTA_BITWISE_MASK, NFTA_BITWISE_OP,
    NFTA_BITWISE_SREG, NFTA_BITWISE_XOR, NFTA_CMP_DATA, NFTA_CMP_OP, NFTA_CMP_SREG, NFTA_COUNTER_BYTES,
    NFTA_COUNTER_PACKETS, NFTA_CT_DIRECTION, NFTA_CT_DREG, NFTA_CT_KEY, NFTA_CT_SREG, NFTA_DATA_VALUE,
    NFTA_DATA_VERDICT, NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_FIB_DREG, NFTA_FIB_FLAGS, NFTA_FIB_RESULT,
    NFTA_IMMEDIATE_DATA, NFTA_IMMEDIATE_DREG, NFTA_LIST_ELEM, NFTA_LOOKUP_DREG, NFTA_LOOKUP_FLAGS,
    NFTA_LOOKUP_SET, NFTA_LOOKUP_SREG, NFTA_META_DREG, NFTA_META_KEY, NFTA_META_SREG, NFTA_NAT_FAMILY,
    NFTA_NAT_FLAGS, NFTA_NAT_REG_ADDR_MAX, NFTA_NAT_REG_ADDR_MIN, NFTA_NAT_REG_PROTO_MAX,
    NFTA_NAT_REG_PROTO_MIN, NFTA_NAT_TYPE, NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_DREG, NFTA_PAYLOAD_LEN,
    NFTA_PAYLOAD_OFFSET, NFTA_RANGE_FROM_DATA, NFTA_RANGE_OP, NFTA_RANGE_SREG, NFTA_RANGE_TO_DATA,
    NFTA_REDIR_FLAGS, NFTA_REDIR_REG_PROTO_MAX, NFTA_REDIR_REG_PROTO_MIN, NFTA_TPROXY_FAMILY,
    NFTA_TPROXY_REG_ADDR, NFTA_TPROXY_REG_PORT, NFTA_VERDICT_CHAIN, NFTA_VERDICT_CODE,
};
use crate::backend::nftables::set::Code;
use crate::backend::nftables::wire::Attributes;

/// Something that is loaded into a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// Bytes of a header.
    Payload {
        /// `NFT_PAYLOAD_*_HEADER`.
        base: u32,
        /// From its beginning.
        offset: u32,
        /// How many.
        length: u32,
    },
    /// `NFT_META_*`.
    Meta(u32),
    /// `NFT_CT_*`, and of which direction, if that was asked.
    Ct(u32, Option<u8>),
    /// What is looked up (`NFT_FIB_RESULT_*`), and by what (`NFTA_FIB_F_*`).
    Fib(u32, u32),
}

/// An expression. Registers are counted in steps of 4 bytes; the verdict's is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// A field goes to a register.
    Load(usize, Field),
    /// A register goes to the packet or its connection.
    Store(Field, usize),
    /// `to = from & mask`.
    Mask {
        /// From.
        from: usize,
        /// To.
        to: usize,
        /// The bits that stay.
        mask: Vec<u8>,
    },
    /// The rule ends here unless it holds (`NFT_CMP_*`).
    Compare(usize, u32, Vec<u8>),
    /// The rule ends here unless the register lies between, or beside, two values.
    Range {
        /// Of which register.
        register: usize,
        /// It must not lie between.
        negated: bool,
        /// The lowest.
        from: Vec<u8>,
        /// The highest.
        to: Vec<u8>,
    },
    /// The rule ends here unless the register is in, or not in, a set.
    Lookup {
        /// The set's name.
        set: String,
        /// Which register.
        register: usize,
        /// It must not be in it.
        negated: bool,
        /// The set is a map, and its answer goes to a register.
        answer: Option<Option<usize>>,
    },
    /// A value goes to a register.
    Value(usize, Vec<u8>),
    /// A verdict.
    Verdict(Code),
    /// Packets and bytes.
    Counter(u64, u64),
    /// The lowest and the highest port's registers, and flags.
    Redirect(Option<usize>, Option<usize>, u32),
    /// The family (`NFPROTO_*`), the address's and the port's registers.
    Tproxy(u32, Option<usize>, Option<usize>),
    /// DNAT or SNAT.
    Nat {
        /// `NFT_NAT_*`.
        kind: u32,
        /// `NFPROTO_*`.
        family: u32,
        /// The lowest address's register.
        address: Option<usize>,
        /// The lowest port's register.
        port: Option<usize>,
        /// The highest address or port has another register, or there are flags of no meaning here.
        special: bool,
    },
    /// Any other.
    Other(String),
}

/// A rule's expressions.
#[must_use]
pub fn parse(list: Attributes<'_>) -> Vec<Expr> {
    let elements = list.iter().filter(|(kind, _)| *kind == NFTA_LIST_ELEM);
    elements.map(|(_, element)| expression(Attributes::of(element))).collect()
}

/// One expression.
#[must_use]
pub fn expression(element: Attributes<'_>) -> Expr {
    let name = element.text(NFTA_EXPR_NAME).unwrap_or_default();
    known(&name, element.nest(NFTA_EXPR_DATA)).unwrap_or(Expr::Other(name))
}

/// The place of a register; `NFT_REG_1` to `NFT_REG_4` are four of the 16 small ones each.
fn place(register: u32) -> Option<usize> {
    let place = match register {
        1..=4 => (register - 1) * 4,
        NFT_REG32_00..=NFT_REG32_15 => register - NFT_REG32_00,
        _ => return None,
    };
    usize::try_from(place).ok()
}

fn known(name: &str, data: Attributes<'_>) -> Option<Expr> {
    let register = |kind| data.u32(kind).and_then(place);
    let value = |kind| data.nest(kind).get(NFTA_DATA_VALUE).map(<[u8]>::to_vec);
    Some(match name {
        "payload" => {
            let field = Field::Payload {
                base: data.u32(NFTA_PAYLOAD_BASE)?,
                offset: data.u32(NFTA_PAYLOAD_OFFSET)?,
                length: data.u32(NFTA_PAYLOAD_LEN)?,
            };
            Expr::Load(register(NFTA_PAYLOAD_DREG)?, field)
        }
        "meta" => {
            moved(Field::Meta(data.u32(NFTA_META_KEY)?), register(NFTA_META_DREG), register(NFTA_META_SREG))?
        }
        "ct" => {
            let direction = match data.get(NFTA_CT_DIRECTION) {
                None => None,
                Some(bytes) => Some(*bytes.first()?),
            };
            let field = Field::Ct(data.u32(NFTA_CT_KEY)?, direction);
            moved(field, register(NFTA_CT_DREG), register(NFTA_CT_SREG))?
        }
        "fib" => {
            let field = Field::Fib(data.u32(NFTA_FIB_RESULT)?, data.u32(NFTA_FIB_FLAGS)?);
            Expr::Load(register(NFTA_FIB_DREG)?, field)
        }
        "bitwise" => {
            let plain = data.u32(NFTA_BITWISE_OP).is_none_or(|op| op == 0) // NFT_BITWISE_MASK_XOR
                && value(NFTA_BITWISE_XOR)?.iter().all(|byte| *byte == 0);
            let (from, to) = (register(NFTA_BITWISE_SREG)?, register(NFTA_BITWISE_DREG)?);
            plain.then_some(Expr::Mask { from, to, mask: value(NFTA_BITWISE_MASK)? })?
        }
        "cmp" => Expr::Compare(register(NFTA_CMP_SREG)?, data.u32(NFTA_CMP_OP)?, value(NFTA_CMP_DATA)?),
        "range" => Expr::Range {
            register: register(NFTA_RANGE_SREG)?,
            negated: data.u32(NFTA_RANGE_OP)? != 0,
            from: value(NFTA_RANGE_FROM_DATA)?,
            to: value(NFTA_RANGE_TO_DATA)?,
        },
        "lookup" => Expr::Lookup {
            set: data.text(NFTA_LOOKUP_SET)?,
            register: register(NFTA_LOOKUP_SREG)?,
            negated: data.u32(NFTA_LOOKUP_FLAGS).unwrap_or(0) & 1 != 0,
            answer: data.u32(NFTA_LOOKUP_DREG).map(place),
        },
        "immediate" if data.u32(NFTA_IMMEDIATE_DREG)? == NFT_REG_VERDICT => {
            Expr::Verdict(verdict(data.nest(NFTA_IMMEDIATE_DATA).nest(NFTA_DATA_VERDICT))?)
        }
        "immediate" => Expr::Value(register(NFTA_IMMEDIATE_DREG)?, value(NFTA_IMMEDIATE_DATA)?),
        "counter" => Expr::Counter(
            data.u64(NFTA_COUNTER_PACKETS).unwrap_or(0),
            data.u64(NFTA_COUNTER_BYTES).unwrap_or(0),
        ),
        "redir" => Expr::Redirect(
            register(NFTA_REDIR_REG_PROTO_MIN),
            register(NFTA_REDIR_REG_PROTO_MAX),
            data.u32(NFTA_REDIR_FLAGS).unwrap_or(0),
        ),
        "tproxy" => Expr::Tproxy(
            data.u32(NFTA_TPROXY_FAMILY)?,
            register(NFTA_TPROXY_REG_ADDR),
            register(NFTA_TPROXY_REG_PORT),
        ),
        "nat" => {
            let (address, port) = (register(NFTA_NAT_REG_ADDR_MIN), register(NFTA_NAT_REG_PROTO_MIN));
            let ranges = register(NFTA_NAT_REG_ADDR_MAX).is_some_and(|max| Some(max) != address)
                || register(NFTA_NAT_REG_PROTO_MAX).is_some_and(|max| Some(max) != port);
            // NF_NAT_RANGE_MAP_IPS and NF_NAT_RANGE_PROTO_SPECIFIED say what the registers say.
            let special = ranges || data.u32(NFTA_NAT_FLAGS).unwrap_or(0) & !3 != 0;
            Expr::Nat {
                kind: data.u32(NFTA_NAT_TYPE)?,
                family: data.u32(NFTA_NAT_FAMILY)?,
                address,
                port,
                special,
            }
        }
        _ => return None,
    })
}

fn moved(field: Field, to: Option<usize>, from: Option<usize>) -> Option<Expr> {
    match (to, from) {
        (Some(to), None) => Some(Expr::Load(to, field)),
        (None, Some(from)) => Some(Expr::Store(field, from)),
        _ => None,
    }
}

/// A verdict's attributes.
#[must_use]
pub fn verdict(data: Attributes<'_>) -> Option<Code> {
    let code = data.u32(NFTA_VERDICT_CODE)?.cast_signed();
    Some(Code { code, chain: data.text(NFTA_VERDICT_CHAIN) })
}
