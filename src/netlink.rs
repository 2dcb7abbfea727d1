//! Netlink's framing: messages and attributes one behind the other, each with its length and padded to 4 bytes.
//!
//! netlink(7); struct nlmsghdr and struct nlattr of linux/netlink.h, whose numbers are in the machine's byte order.
//! What is read may be any bytes.

/// The size of struct nlmsghdr.
pub const HEADER: usize = 16;
/// The size of struct nlattr.
pub const ATTRIBUTE: usize = 4;
/// `NLA_TYPE_MASK`: the kernel marks nests and byte order in the two highest bits of a type.
pub const TYPE_MASK: u16 = 0x3fff;

/// A message that is cut, or whose length is no length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut;

/// The messages in `bytes`, headers included and padding left out; the last one is [`Cut`] if it is not whole.
pub fn messages(bytes: &[u8]) -> impl Iterator<Item = Result<&[u8], Cut>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(rest, 0)?).unwrap_or(usize::MAX);
        let message = rest.get(..length).filter(|message| message.len() >= HEADER);
        // Nothing is read behind what is cut.
        rest = message.and_then(|_| rest.get(length.next_multiple_of(4)..)).unwrap_or_default();
        Some(message.ok_or(Cut))
    })
}

/// Type and value of each attribute in `bytes`, up to the first that is cut.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & TYPE_MASK;
        let value = rest.get(ATTRIBUTE..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of a type.
#[must_use]
pub fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// A text up to its NUL.
#[must_use]
pub fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// An attribute, padded; `value` is a few bytes, or a few attributes.
#[must_use]
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = ATTRIBUTE + value.len();
    let mut bytes = Vec::with_capacity(length.next_multiple_of(4));
    bytes.extend(u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// A number of two bytes.
#[must_use]
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

/// A number of four bytes.
#[must_use]
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A message as the kernel would send it.
    pub(crate) fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn attributes_are_found_again() {
        let inner = [attribute(1, &[7]), attribute(2, b"text\0")].concat();
        let bytes = [attribute(9, &[]), attribute(0x8000 | 4, &inner)].concat();
        assert_eq!(bytes.len() % 4, 0);
        let nest = find(&bytes, 4).unwrap();
        assert_eq!(find(nest, 2).map(text).as_deref(), Some("text"));
        assert_eq!((find(nest, 1), find(nest, 3)), (Some(&[7][..]), None));
        assert_eq!(find(&bytes, 9), Some(&[][..]));
    }

    #[test]
    fn messages_end_with_the_first_that_is_cut() {
        let one = message(5, 0, 1, &[1, 2, 3]);
        let bytes = [&one[..], &one].concat();
        assert_eq!(messages(&bytes).collect::<Vec<_>>(), [Ok(&one[..19]), Ok(&one[..19])]);
        for end in 1..bytes.len() {
            let found: Vec<_> = messages(&bytes[..end]).collect();
            let whole = found.iter().filter(|message| message.is_ok()).count();
            // The last one's padding may be left out.
            assert_eq!(whole, usize::from(end >= 19) + usize::from(end >= 39), "{end}");
            assert!(found.len() <= whole + 1, "{end}");
        }
        assert_eq!(messages(&[0; 64]).collect::<Vec<_>>(), [Err(Cut)]);
        assert_eq!(messages(&[255; 64]).collect::<Vec<_>>(), [Err(Cut)]);
        assert_eq!(messages(&[1, 2]).count(), 0);
    }

    #[test]
    fn garbage_ends() {
        for length in 0..80 {
            for byte in [0, 1, 3, 4, 5, 16, 20, 255] {
                let bytes = vec![byte; length];
                assert!(messages(&bytes).count() <= length);
                assert!(attributes(&bytes).count() <= length);
            }
        }
        assert_eq!(find(&[5, 0, 2, 0, 9], 1), None);
    }
}
