//! Expressions: what a rule is made of in nf_tables, written one behind the other.

use crate::backend::nftables::abi::{
    NFT_CMP_EQ, NFT_CMP_GTE, NFT_CMP_LTE, NFT_CMP_NEQ, NFT_FIB_RESULT_ADDRTYPE, NFT_LOOKUP_F_INV, NFT_REG_1,
    NFT_REG_VERDICT, NFTA_BITWISE_DREG, NFTA_BITWISE_LEN, NFTA_BITWISE_MASK, NFTA_BITWISE_SREG,
    NFTA_BITWISE_XOR, NFTA_CMP_DATA, NFTA_CMP_OP, NFTA_CMP_SREG, NFTA_CT_DREG, NFTA_CT_KEY, NFTA_CT_SREG,
    NFTA_DATA_VALUE, NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_FIB_DREG, NFTA_FIB_F_DADDR, NFTA_FIB_FLAGS,
    NFTA_FIB_RESULT, NFTA_IMMEDIATE_DATA, NFTA_IMMEDIATE_DREG, NFTA_LIST_ELEM, NFTA_LOOKUP_DREG,
    NFTA_LOOKUP_FLAGS, NFTA_LOOKUP_SET, NFTA_LOOKUP_SREG, NFTA_META_DREG, NFTA_META_KEY, NFTA_META_SREG,
    NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_DREG, NFTA_PAYLOAD_LEN, NFTA_PAYLOAD_OFFSET, NFTA_RANGE_FROM_DATA,
    NFTA_RANGE_OP, NFTA_RANGE_SREG, NFTA_RANGE_TO_DATA,
};
use crate::backend::nftables::set::Code;
use crate::backend::nftables::wire::Writer;

/// A rule's expressions while they are written, and what they need of the kernel.
#[derive(Debug, Default)]
pub struct Expressions {
    writer: Writer,
    /// In words, each once.
    pub needs: Vec<&'static str>,
}

impl Expressions {
    /// The list's attributes.
    ///
    /// # Errors
    /// They are more than an attribute may hold.
    pub fn finish(self) -> Result<(Vec<u8>, Vec<&'static str>), String> {
        let bytes = self.writer.finish().filter(|bytes| bytes.len() < usize::from(u16::MAX) - 4);
        Ok((bytes.ok_or("it has too many conditions")?, self.needs))
    }

    fn push(&mut self, name: &str, data: impl FnOnce(&mut Writer)) {
        self.writer.nest(NFTA_LIST_ELEM, |one| {
            one.text(NFTA_EXPR_NAME, name);
            one.nest(NFTA_EXPR_DATA, data);
        });
    }

    /// An expression beyond those that nf_tables always has.
    pub fn special(&mut self, name: &str, needs: &'static str, data: impl FnOnce(&mut Writer)) {
        self.need(needs);
        self.push(name, data);
    }

    fn need(&mut self, needs: &'static str) {
        if !self.needs.contains(&needs) {
            self.needs.push(needs);
        }
    }

    /// Bytes of a packet's header.
    pub fn payload(&mut self, base: u32, offset: u32, length: u32) {
        self.push("payload", |data| {
            data.u32(NFTA_PAYLOAD_DREG, NFT_REG_1);
            data.u32(NFTA_PAYLOAD_BASE, base);
            data.u32(NFTA_PAYLOAD_OFFSET, offset);
            data.u32(NFTA_PAYLOAD_LEN, length);
        });
    }

    /// Something that the kernel knows of a packet (`NFT_META_*`).
    pub fn meta(&mut self, key: u32) {
        self.push("meta", |data| {
            data.u32(NFTA_META_DREG, NFT_REG_1);
            data.u32(NFTA_META_KEY, key);
        });
    }

    /// Writes it.
    pub fn meta_set(&mut self, key: u32) {
        self.push("meta", |data| {
            data.u32(NFTA_META_KEY, key);
            data.u32(NFTA_META_SREG, NFT_REG_1);
        });
    }

    /// Something that conntrack knows of a connection (`NFT_CT_*`).
    pub fn ct(&mut self, key: u32) {
        self.special("ct", CT, |data| {
            data.u32(NFTA_CT_DREG, NFT_REG_1);
            data.u32(NFTA_CT_KEY, key);
        });
    }

    /// Writes it.
    pub fn ct_set(&mut self, key: u32) {
        self.special("ct", CT, |data| {
            data.u32(NFTA_CT_KEY, key);
            data.u32(NFTA_CT_SREG, NFT_REG_1);
        });
    }

    /// The type of the destination's route.
    pub fn fib_type(&mut self) {
        self.special("fib", "expression fib (CONFIG_NFT_FIB_IPV4, CONFIG_NFT_FIB_IPV6)", |data| {
            data.u32(NFTA_FIB_DREG, NFT_REG_1);
            data.u32(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
            data.u32(NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR);
        });
    }

    /// Keeps some of the register's bits.
    pub fn mask(&mut self, mask: &[u8]) {
        self.push("bitwise", |data| {
            data.u32(NFTA_BITWISE_SREG, NFT_REG_1);
            data.u32(NFTA_BITWISE_DREG, NFT_REG_1);
            data.u32(NFTA_BITWISE_LEN, u32::try_from(mask.len()).unwrap_or(0));
            data.nest(NFTA_BITWISE_MASK, |value| value.bytes(NFTA_DATA_VALUE, mask));
            data.nest(NFTA_BITWISE_XOR, |value| value.bytes(NFTA_DATA_VALUE, &vec![0; mask.len()]));
        });
    }

    /// The register is, or is not, `value`; of its beginning, if `value` is shorter.
    pub fn compare(&mut self, negated: bool, value: &[u8]) {
        self.cmp(if negated { NFT_CMP_NEQ } else { NFT_CMP_EQ }, value);
    }

    fn cmp(&mut self, op: u32, value: &[u8]) {
        self.push("cmp", |data| {
            data.u32(NFTA_CMP_SREG, NFT_REG_1);
            data.u32(NFTA_CMP_OP, op);
            data.nest(NFTA_CMP_DATA, |data| data.bytes(NFTA_DATA_VALUE, value));
        });
    }

    /// The register lies, or does not lie, between two values, both included; as nft writes it.
    pub fn range(&mut self, negated: bool, from: &[u8], to: &[u8]) {
        if !negated {
            self.cmp(NFT_CMP_GTE, from);
            self.cmp(NFT_CMP_LTE, to);
            return;
        }
        self.push("range", |data| {
            data.u32(NFTA_RANGE_SREG, NFT_REG_1);
            data.u32(NFTA_RANGE_OP, 1); // NFT_RANGE_NEQ
            data.nest(NFTA_RANGE_FROM_DATA, |data| data.bytes(NFTA_DATA_VALUE, from));
            data.nest(NFTA_RANGE_TO_DATA, |data| data.bytes(NFTA_DATA_VALUE, to));
        });
    }

    /// The register is, or is not, in a set of this table.
    pub fn lookup(&mut self, negated: bool, set: &str) {
        self.push("lookup", |data| {
            data.text(NFTA_LOOKUP_SET, set);
            data.u32(NFTA_LOOKUP_SREG, NFT_REG_1);
            if negated {
                data.u32(NFTA_LOOKUP_FLAGS, NFT_LOOKUP_F_INV);
            }
        });
    }

    /// The verdict that a map of this table has for the register; the rule ends if it has none.
    pub fn vmap(&mut self, map: &str) {
        self.push("lookup", |data| {
            data.text(NFTA_LOOKUP_SET, map);
            data.u32(NFTA_LOOKUP_SREG, NFT_REG_1);
            data.u32(NFTA_LOOKUP_DREG, NFT_REG_VERDICT);
        });
    }

    /// Counts from 0.
    pub fn counter(&mut self) {
        self.push("counter", |_| {});
    }

    /// Puts a value into a register.
    pub fn immediate(&mut self, register: u32, value: &[u8]) {
        self.push("immediate", |data| {
            data.u32(NFTA_IMMEDIATE_DREG, register);
            data.nest(NFTA_IMMEDIATE_DATA, |data| data.bytes(NFTA_DATA_VALUE, value));
        });
    }

    /// Gives a verdict.
    pub fn verdict(&mut self, code: i32, chain: Option<&str>) {
        self.push("immediate", |data| {
            data.u32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
            data.nest(NFTA_IMMEDIATE_DATA, |data| Code { code, chain: chain.map(str::to_owned) }.write(data));
        });
    }
}

const CT: &str = "expression ct (CONFIG_NFT_CT)";
