//! Versions of the specification.

use std::fmt;

use super::failure::{self, Failure};
use super::protocol::Verb;

/// A version of the specification that is spoken here; later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 0.3.0
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: with CHECK.
    V0_4_0,
    /// 1.0.0
    V1_0_0,
    /// 1.1.0: with GC and STATUS.
    V1_1_0,
}

impl Version {
    /// Every one, the oldest first.
    pub const ALL: [Version; 5] =
        [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];
    /// The newest.
    pub const NEWEST: Version = Version::V1_1_0;
    /// What a configuration without a version means (libcni, `GetConfigVersion`); it knows no chains.
    const UNSAID: &str = "0.1.0";

    /// As it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Version::V0_3_0 => "0.3.0",
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// The version that a configuration names: exactly one of those spoken here, as plugins compare them.
    ///
    /// # Errors
    /// It is another one (code 1).
    pub fn parse(said: &str) -> Result<Version, Failure> {
        let said = if said.is_empty() { Self::UNSAID } else { said };
        let known = Version::ALL.into_iter().find(|version| version.word() == said);
        known.ok_or_else(|| {
            let said: String = said.chars().take(64).collect();
            let problem = format!("incompatible CNI version: the configuration is {said:?}");
            Failure::new(failure::INCOMPATIBLE_VERSION, problem)
                .details(format!("this plugin speaks {}", list()))
        })
    }

    /// Whether `verb` is part of this version.
    ///
    /// # Errors
    /// It is not (code 1).
    pub fn allows(self, verb: Verb) -> Result<(), Failure> {
        let since = verb.since();
        if self >= since {
            return Ok(());
        }
        let problem =
            format!("the configuration is version {self}, which has no {verb}: it came with {since}");
        Err(Failure::new(failure::INCOMPATIBLE_VERSION, problem))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// All versions, for people.
#[must_use]
pub fn list() -> String {
    Version::ALL.map(Version::word).join(", ")
}

/// The answer to VERSION, a line of JSON.
#[must_use]
pub fn answer() -> String {
    let words = Version::ALL.map(Version::word);
    format!("{}\n", serde_json::json!({ "cniVersion": Version::NEWEST.word(), "supportedVersions": words }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_words_are_versions() {
        for version in Version::ALL {
            assert_eq!(Version::parse(version.word()), Ok(version));
        }
        for said in [
            "", "0.1.0", "0.2.0", "0.3", "1.0", "1.1", "1.2.0", "2.0.0", "v1.0.0", " 1.0.0", "1.0.0 ",
            "01.0.0",
        ] {
            assert_eq!(Version::parse(said).map_err(|failure| failure.code), Err(1), "{said:?}");
        }
    }

    #[test]
    fn each_verb_came_with_a_version() {
        for version in Version::ALL {
            assert!(version.allows(Verb::Add).is_ok() && version.allows(Verb::Del).is_ok());
            assert_eq!(version.allows(Verb::Check).is_ok(), version >= Version::V0_4_0, "{version}");
            assert_eq!(version.allows(Verb::Gc).is_ok(), version >= Version::V1_1_0, "{version}");
            assert_eq!(version.allows(Verb::Status).is_ok(), version >= Version::V1_1_0, "{version}");
        }
    }
}
