//! The members of a JSON object, each as the text it came as.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::input::fault::quote;

/// The members in their order; no name stands twice.
#[derive(Debug, Default)]
pub(super) struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Reads bytes.
    ///
    /// # Errors
    /// What they are instead of a JSON object.
    pub(super) fn parse(text: &'a [u8]) -> Result<Members<'a>, String> {
        let text = std::str::from_utf8(text).map_err(|_| "is not UTF-8".to_owned())?;
        match text.trim_start().chars().next() {
            None => Err("is empty".to_owned()),
            Some(_) => serde_json::from_str(text).map_err(|error| told(&error)),
        }
    }

    /// Reads the value of a member.
    ///
    /// # Errors
    /// What it is instead of a JSON object.
    pub(super) fn of(value: &'a RawValue) -> Result<Members<'a>, String> {
        serde_json::from_str(value.get()).map_err(|error| told(&error))
    }

    /// The value of `name`.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(of, _)| of == name).map(|(_, value)| *value)
    }

    /// The value of `name`; `null` is as good as none, for Go writes one for the other.
    pub(super) fn given(&self, name: &str) -> Option<&'a RawValue> {
        self.get(name).filter(|value| value.get() != "null")
    }

    /// The names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Names and values.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }
}

fn told(error: &serde_json::Error) -> String {
    match error.is_data() {
        true if error.to_string().starts_with("invalid type") => "is not an object".to_owned(),
        true => format!("cannot be read: {error}"),
        false => format!("is not JSON: {error}"),
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Members<'de>, A::Error> {
                let mut list: Vec<(String, &'de RawValue)> = Vec::new();
                let mut seen = std::collections::BTreeSet::new();
                while let Some((name, value)) = members.next_entry::<String, &'de RawValue>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("the key {} stands twice", quote(&name))));
                    }
                    list.push((name, value));
                }
                Ok(Members(list))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

/// The one of `known` that `name` is most likely meant to be.
pub(super) fn similar(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    // Beyond any name there is; the comparison takes the product of both lengths.
    const LONGEST: usize = 64;
    // clap's threshold for its own suggestions.
    const ALIKE: f64 = 0.8;
    if name.len() > LONGEST {
        return None;
    }
    let name = name.to_ascii_lowercase();
    let alike = known.map(|of| (strsim::jaro_winkler(&name, &of.to_ascii_lowercase()), of));
    alike
        .filter(|(score, _)| *score > ALIKE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, of)| of)
}
