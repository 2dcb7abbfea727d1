//! Comments, and the other things that nft keeps in userdata: type, length and value, a byte each but the value
//! (libnftnl, udata.h).

use super::abi::{
    NFTNL_UDATA_RULE_COMMENT, NFTNL_UDATA_SET_ELEM_FLAGS, NFTNL_UDATA_SET_KEYBYTEORDER,
    SET_ELEM_F_INTERVAL_OPEN,
};
use crate::policy::RuleId;
use crate::policy::rule_id::COMMENT_PREFIX;
use crate::rules::Rule;

/// nft's own limit, `NFTNL_UDATA_COMMENT_MAXLEN`, without the NUL.
pub const LONGEST: usize = 128;

/// What a rule of ours says in the kernel: `mesh-init:<clause>: <reason>`, where the reason is the rule's comment.
#[must_use]
pub fn of(rule: &Rule) -> Option<String> {
    let text = match (rule.id, &rule.comment) {
        (None, comment) => comment.clone()?,
        (Some(id), None) => id.comment(),
        (Some(id), Some(reason)) if id_of(reason) == Some(id) => reason.clone(),
        (Some(id), Some(reason)) => format!("{}: {reason}", id.comment()),
    };
    Some(cut(&text))
}

/// The clause that a comment of ours names, with or without a reason behind it.
#[must_use]
pub fn id_of(comment: &str) -> Option<RuleId> {
    let rest = comment.strip_prefix(COMMENT_PREFIX)?;
    let word = rest.split_once(": ").map_or(rest, |(word, _)| word);
    RuleId::ALL.iter().copied().find(|id| id.as_str() == word)
}

/// At most [`LONGEST`] bytes, whole letters, none of them a NUL or a line's end.
fn cut(text: &str) -> String {
    // Nearly every comment fits as it is.
    if text.len() <= LONGEST && text.is_ascii() && !text.bytes().any(|byte| byte.is_ascii_control()) {
        return text.to_owned();
    }
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let end = plain.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= LONGEST).last();
    plain.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

/// Userdata that is a comment: of a rule, and of an element as well (`NFTNL_UDATA_SET_ELEM_COMMENT` is 0, too).
#[must_use]
pub fn userdata(comment: Option<&str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(comment) = comment {
        let mut text = cut(comment).into_bytes();
        text.push(0);
        entry(&mut bytes, NFTNL_UDATA_RULE_COMMENT, &text);
    }
    bytes
}

/// Adds nft's word for an interval that ends where the keys end.
pub fn with_open_end(bytes: &mut Vec<u8>) {
    entry(bytes, NFTNL_UDATA_SET_ELEM_FLAGS, &SET_ELEM_F_INTERVAL_OPEN.to_ne_bytes());
}

/// nft's word for the byte order of a set's keys.
#[must_use]
pub fn key_order(order: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    entry(&mut bytes, NFTNL_UDATA_SET_KEYBYTEORDER, &order.to_ne_bytes());
    bytes
}

fn entry(bytes: &mut Vec<u8>, kind: u8, value: &[u8]) {
    // Nothing here is longer than a comment.
    bytes.extend([kind, u8::try_from(value.len()).unwrap_or(u8::MAX)]);
    bytes.extend(value);
}

/// The comment in userdata.
#[must_use]
pub fn read(userdata: &[u8]) -> Option<String> {
    let text = find(userdata, NFTNL_UDATA_RULE_COMMENT)?.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

fn find(mut rest: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        let (kind, length) = (*rest.first()?, usize::from(*rest.get(1)?));
        let value = rest.get(2..2 + length)?;
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(2 + length..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Verdict;

    #[test]
    fn a_rule_says_its_clause_and_its_reason() {
        let rule = Rule::new(RuleId::ProxyUid, Vec::new(), Verdict::Return);
        assert_eq!(of(&rule).as_deref(), Some("mesh-init:proxy.uid"));
        let rule = rule.comment("its own traffic: not captured");
        assert_eq!(of(&rule).as_deref(), Some("mesh-init:proxy.uid: its own traffic: not captured"));
        let again = rule.clone().comment(of(&rule).unwrap());
        assert_eq!(of(&again), of(&rule));
        let foreign = Rule { id: None, ..rule };
        assert_eq!(of(&foreign).as_deref(), Some("its own traffic: not captured"));
        for id in RuleId::ALL {
            assert_eq!(id_of(&id.comment()), Some(*id));
            assert_eq!(id_of(&format!("{}: why", id.comment())), Some(*id));
        }
        for other in [
            "mesh-init:",
            "mesh-init:nonsense: x",
            "proxy.uid",
            "mesh-init:proxy.uid:x",
            "mesh-init:proxy.uid x",
        ] {
            assert_eq!(id_of(other), None, "{other}");
        }
    }

    #[test]
    fn userdata_is_nfts() {
        assert_eq!(userdata(Some("hello")), b"\x00\x06hello\x00");
        assert_eq!(userdata(None), b"");
        let mut bytes = userdata(Some(&"é".repeat(100)));
        with_open_end(&mut bytes);
        assert_eq!(read(&bytes), Some("é".repeat(64)));
        assert_eq!(read(b"\x05\x01x\x00\x02"), None);
        assert_eq!(cut("a\nb\0c"), "a b c");
        for end in 0..bytes.len() {
            drop((read(&bytes[..end]), read(&bytes[end..])));
        }
    }
}
