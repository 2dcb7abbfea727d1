//! What every configuration must have before anything else of it counts: its version and the network's name.
//!
//! Everything beside is the business of `netconf`. DEL needs no more than this, so that nothing wrong with the rest keeps
//! a pod from ending.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::failure::{BAD_CONFIG, Failure, UNDECODABLE};
use super::protocol::{Verb, is_name};
use super::version::Version;
use crate::input::fault::quote;

/// The outside of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// `cniVersion` as it is written.
    said: String,
    /// The network's name; empty if none is given.
    pub name: String,
}

impl Envelope {
    /// Reads the configuration's outermost keys.
    ///
    /// # Errors
    /// It is no JSON object, or the version or the name is no text (code 6).
    pub fn read(text: &[u8]) -> Result<Envelope, Failure> {
        let undecodable = |why: String| {
            Failure::new(UNDECODABLE, format!("the configuration on standard input cannot be decoded: {why}"))
        };
        let keys: BTreeMap<String, &RawValue> =
            serde_json::from_slice(text).map_err(|error| undecodable(error.to_string()))?;
        let text_of = |key: &str| match keys
            .get(key)
            .map(|value| serde_json::from_str::<Option<String>>(value.get()))
        {
            None => Ok(String::new()),
            Some(Ok(text)) => Ok(text.unwrap_or_default()),
            Some(Err(_)) => Err(undecodable(format!("{key} is no text"))),
        };
        let (said, name) = (text_of("cniVersion")?, text_of("name")?);
        Ok(Envelope { said, name })
    }

    /// The configuration's version.
    ///
    /// # Errors
    /// It is not spoken here (code 1).
    pub fn version(&self) -> Result<Version, Failure> {
        Version::parse(&self.said)
    }

    /// Judges name and version as every verb but VERSION needs them.
    ///
    /// # Errors
    /// The network's name is missing or bad (code 7), or the version is not spoken here or has no `verb` (code 1).
    pub fn judge(&self, verb: Verb) -> Result<Version, Failure> {
        match self.name.as_str() {
            "" => return Err(Failure::new(BAD_CONFIG, "the configuration has no name of a network")),
            name if !is_name(name) => {
                let problem = format!("the name {} is no name of a network", quote(name));
                let remedy = "letters, digits, _ . and -, a letter or digit first";
                return Err(Failure::new(BAD_CONFIG, problem).details(remedy));
            }
            _ => {}
        }
        let version = self.version()?;
        version.allows(verb)?;
        Ok(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_configuration() {
        for bad in [
            "",
            "{",
            "[]",
            "1",
            "null",
            "{\"name\":1}",
            "{\"cniVersion\":[]}",
            "{}x",
            "{\"name\":\"\\ud800\"}",
        ] {
            assert_eq!(
                Envelope::read(bad.as_bytes()).map(drop).map_err(|failure| failure.code),
                Err(6),
                "{bad}"
            );
        }
        for (name, code) in [("", 7), ("a/b", 7), ("-", 7), ("net", 1)] {
            let text = format!("{{\"name\":\"{name}\"}}");
            assert_eq!(
                Envelope::read(text.as_bytes()).unwrap().judge(Verb::Add).unwrap_err().code,
                code,
                "{name}"
            );
        }
    }
}
