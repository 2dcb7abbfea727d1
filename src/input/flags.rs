//! Flags, as clap hands them over, become [`Raw`].

use super::options::{OPTIONS, Part};
use super::{Origin, Raw};

/// Reads the options of `parts` through `lookup`, which answers with the texts given for a long name (an
/// empty text for a flag given without a value).
#[must_use]
pub fn parse(parts: &[Part], lookup: impl Fn(&str) -> Option<Vec<String>>) -> Raw {
    let mut raw = Raw::default();
    for opt in OPTIONS.iter().filter(|opt| parts.contains(&opt.part)) {
        for text in lookup(opt.long).into_iter().flatten() {
            raw.push(opt.key, text, Origin::Flag(opt.long));
        }
    }
    raw
}
