//! Messages of nf_tables, written and read.
//!
//! struct nfgenmsg of linux/netfilter/nfnetlink.h. The headers are in the machine's byte order, the values of
//! nf_tables in the network's. The reader takes any bytes: it ends at the first that do not add up.

use super::abi::{NFNL_SUBSYS_NFTABLES, NLA_F_NESTED, NLM_F_REQUEST};
use crate::netlink::{self, HEADER, u16_at, u32_at};

/// struct nfgenmsg.
const NFGENMSG: usize = 4;

/// What stands in front of a message's attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`, `NLM_F_REQUEST` understood.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub sequence: u32,
    /// `nfgen_family`.
    pub family: u8,
    /// `res_id`.
    pub resource: u16,
}

/// The `nlmsg_type` of a message of nf_tables.
#[must_use]
pub const fn nft(message: u16) -> u16 {
    NFNL_SUBSYS_NFTABLES << 8 | message
}

/// Writes messages and attributes one behind the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Writer {
    bytes: Vec<u8>,
    overflow: bool,
}

impl Writer {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Writer {
        Writer::default()
    }

    /// What was written. `None` if an attribute was too long for its 16 bits of length.
    #[must_use]
    pub fn finish(self) -> Option<Vec<u8>> {
        (!self.overflow).then_some(self.bytes)
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// A message; its length is known once `body` has written its attributes.
    pub fn message(&mut self, head: Head, body: impl FnOnce(&mut Writer)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(head.kind.to_ne_bytes());
        self.bytes.extend((head.flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend(head.sequence.to_ne_bytes());
        self.bytes.extend([0; 4]); // the port: the kernel knows ours
        self.bytes.extend([head.family, 0]);
        self.bytes.extend(head.resource.to_be_bytes());
        body(self);
        match u32::try_from(self.bytes.len() - start) {
            Ok(length) => self.patch(start, &length.to_ne_bytes()),
            Err(_) => self.overflow = true,
        }
    }

    /// An attribute of plain bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |writer| writer.bytes.extend(value));
    }

    /// A text with its NUL.
    pub fn text(&mut self, kind: u16, value: &str) {
        self.attribute(kind, |writer| {
            writer.bytes.extend(value.as_bytes());
            writer.bytes.push(0);
        });
    }

    /// A number.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A number of twice the size.
    pub fn u64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// An attribute of attributes.
    pub fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Writer)) {
        self.attribute(kind | NLA_F_NESTED, body);
    }

    /// Attributes that were written elsewhere.
    pub fn raw(&mut self, attributes: &[u8]) {
        self.bytes.extend(attributes);
    }

    fn attribute(&mut self, kind: u16, value: impl FnOnce(&mut Writer)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        value(self);
        match u16::try_from(self.bytes.len() - start) {
            Ok(length) => self.patch(start, &length.to_ne_bytes()),
            Err(_) => self.overflow = true,
        }
        // Messages begin at multiples of 4, so this is also a multiple from the message's start.
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn patch(&mut self, at: usize, value: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + value.len()) {
            place.copy_from_slice(value);
        }
    }
}

/// A message that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its head.
    pub head: Head,
    /// What follows it.
    pub attributes: Attributes<'a>,
}

impl Message<'_> {
    /// Which message of nf_tables it is, if it is one.
    #[must_use]
    pub fn nft(&self) -> Option<u16> {
        (self.head.kind >> 8 == NFNL_SUBSYS_NFTABLES).then_some(self.head.kind & 0xff)
    }
}

/// The messages in `bytes`, up to the first that is cut or too short to be one.
pub fn messages(bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    netlink::messages(bytes).map_while(|message| {
        let message = message.ok()?;
        let head = Head {
            kind: u16_at(message, 4)?,
            flags: u16_at(message, 6)?,
            sequence: u32_at(message, 8)?,
            family: *message.get(HEADER)?,
            resource: u16::from_be_bytes(message.get(HEADER + 2..HEADER + NFGENMSG)?.try_into().ok()?),
        };
        Some(Message { head, attributes: Attributes(message.get(HEADER + NFGENMSG..)?) })
    })
}

/// Attributes that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// `bytes` as attributes.
    #[must_use]
    pub fn of(bytes: &'a [u8]) -> Attributes<'a> {
        Attributes(bytes)
    }

    /// Type and value of each, up to the first that is cut.
    pub fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        netlink::attributes(self.0)
    }

    /// The value of the first attribute of a type.
    #[must_use]
    pub fn get(self, wanted: u16) -> Option<&'a [u8]> {
        netlink::find(self.0, wanted)
    }

    /// The attributes inside one; none if there is none.
    #[must_use]
    pub fn nest(self, kind: u16) -> Attributes<'a> {
        Attributes(self.get(kind).unwrap_or_default())
    }

    /// A text, up to its NUL.
    #[must_use]
    pub fn text(self, kind: u16) -> Option<String> {
        self.get(kind).map(netlink::text)
    }

    /// A number.
    #[must_use]
    pub fn u32(self, kind: u16) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A number of twice the size.
    #[must_use]
    pub fn u64(self, kind: u16) -> Option<u64> {
        self.get(kind)?.try_into().ok().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Head = Head { kind: nft(3), flags: 0x400, sequence: 7, family: 2, resource: 10 };

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::new();
        for _ in 0..2 {
            writer.message(HEAD, |body| {
                body.text(1, "abc");
                body.nest(4, |inner| {
                    inner.u32(1, 5);
                    inner.bytes(2, &[9]);
                });
                body.u64(3, 1 << 40);
            });
        }
        let bytes = writer.finish().unwrap();
        let read: Vec<_> = messages(&bytes).collect();
        assert_eq!(read.len(), 2);
        for message in read {
            assert_eq!(message.head, Head { flags: 0x401, ..HEAD });
            assert_eq!(message.nft(), Some(3));
            let attributes = message.attributes;
            assert_eq!(attributes.text(1).as_deref(), Some("abc"));
            assert_eq!(attributes.nest(4).u32(1), Some(5));
            assert_eq!(attributes.nest(4).get(2), Some(&[9][..]));
            assert_eq!(attributes.u64(3), Some(1 << 40));
            assert_eq!((attributes.u32(3), attributes.get(9)), (None, None));
        }
    }

    #[test]
    fn an_attribute_that_is_too_long_is_no_message() {
        let mut writer = Writer::new();
        writer.bytes(1, &vec![0; 65_531]);
        assert!(writer.clone().finish().is_some());
        writer.bytes(1, &vec![0; 65_532]);
        assert_eq!(writer.finish(), None);
    }

    #[test]
    fn garbage_ends() {
        for length in 0..64 {
            for byte in [0, 1, 3, 4, 16, 20, 255] {
                let bytes = vec![byte; length];
                assert!(messages(&bytes).count() <= length);
                assert!(Attributes::of(&bytes).iter().count() <= length);
            }
        }
        // Cut anywhere, it is shorter or nothing.
        let mut writer = Writer::new();
        writer.message(HEAD, |body| body.nest(4, |inner| inner.text(1, "abc")));
        let bytes = writer.finish().unwrap();
        for end in 0..bytes.len() {
            assert_eq!(messages(&bytes[..end]).count(), 0);
        }
    }
}
