//! What libcni keeps of every attachment (`/var/lib/cni/results`, libcni/api.go `cachedInfo`), as far as it says who will
//! be called for its DEL.
//!
//! `config` is the configuration at the time of ADD, in base64. CRI-O calls DEL by it; containerd calls those of the
//! present configuration. Drop-ins are no part of it.

use serde_json::Value;

use super::load;

/// An attachment whose DEL may need our program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// The network's name.
    pub network: String,
    /// The container's id.
    pub container: String,
    /// The interface in it.
    pub interface: String,
}

/// The attachment of a file of the cache, if the configuration in it names us. What cannot be read names nobody: libcni
/// cannot use it either.
#[must_use]
pub fn ours(text: &str) -> Option<Attachment> {
    let entry: Value = serde_json::from_str(text).ok()?;
    let part = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let config = String::from_utf8(base64(&part("config"))?).ok()?;
    let list = load::list(&config).is_ok_and(|list| list.has_ours());
    if !list && !load::single(&config).is_ok_and(|single| single.plugin.is_ours()) {
        return None;
    }
    Some(Attachment {
        network: part("networkName"),
        container: part("containerId"),
        interface: part("ifName"),
    })
}

/// The standard alphabet with padding (RFC 4648, section 4), as Go's encoding/json writes bytes.
fn base64(text: &str) -> Option<Vec<u8>> {
    let sextet = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for chunk in digits.chunks(4) {
        let mut bits = 0_u32;
        for n in 0..4 {
            let digit = chunk.get(n).map_or(Some(0), |byte| sextet(*byte))?;
            bits = bits << 6 | u32::from(digit);
        }
        let [_, decoded @ ..] = bits.to_be_bytes();
        bytes.extend(decoded.iter().take(chunk.len() - 1));
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read() {
        for (text, bytes) in
            [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar")]
        {
            assert_eq!(base64(text), Some(bytes.as_bytes().to_vec()));
        }
        assert_eq!(base64("+/+/"), Some(vec![0xfb, 0xff, 0xbf]));
        assert_eq!(base64("Zm9*"), None);
    }

    #[test]
    fn an_attachment_names_us_by_its_configuration() {
        let entry = |config: &str| {
            format!(
                r#"{{"kind":"cniCacheV1","containerId":"c1","config":"{config}","ifName":"eth0","networkName":"n"}}"#
            )
        };
        // {"name":"n","plugins":[{"type":"bridge"},{"type":"mesh-init"}]}
        let with = "eyJuYW1lIjoibiIsInBsdWdpbnMiOlt7InR5cGUiOiJicmlkZ2UifSx7InR5cGUiOiJtZXNoLWluaXQifV19";
        let seen = ours(&entry(with)).unwrap();
        assert_eq!(
            (seen.network.as_str(), seen.container.as_str(), seen.interface.as_str()),
            ("n", "c1", "eth0")
        );
        // {"name":"n","plugins":[{"type":"bridge"}]}
        let without = "eyJuYW1lIjoibiIsInBsdWdpbnMiOlt7InR5cGUiOiJicmlkZ2UifV19";
        assert_eq!(ours(&entry(without)), None);
        assert_eq!(ours("{}"), None);
        assert_eq!(ours("no JSON"), None);
    }
}
