//! Errors as the runtime reads them: JSON with a number (SPEC.md, "Error"). 0 to 99 are the specification's, the others
//! are ours and listed in `docs/cni.md`.

use std::fmt;

use serde_json::json;

use super::version::Version;
use crate::error::{Class, Error};
use crate::input::Faults;

/// The configuration's version is not spoken here.
pub const INCOMPATIBLE_VERSION: u32 = 1;
/// A variable of the environment is missing or bad.
pub const BAD_ENVIRONMENT: u32 = 4;
/// Reading standard input failed.
pub const IO: u32 = 5;
/// The configuration is no JSON of the right shape.
pub const UNDECODABLE: u32 = 6;
/// The configuration, or a pod's annotations, say something that cannot be.
pub const BAD_CONFIG: u32 = 7;
/// `CNI_NETNS` is no namespace that a pod can have (`ErrInvalidNetNS` of the Go library).
pub const BAD_NETNS: u32 = 8;
/// It may work later.
pub const TRY_AGAIN: u32 = 11;
/// STATUS: ADD cannot work here.
pub const NOT_AVAILABLE: u32 = 50;
/// The kernel or a tool refused; nothing is left.
pub const REFUSED: u32 = 102;
/// The deadline passed.
pub const DEADLINE: u32 = 104;
/// The host lacks something, which is named.
pub const HOST: u32 = 105;
/// A privilege is missing, which is named.
pub const PRIVILEGE: u32 = 106;
/// CHECK: the kernel holds something else than the policy.
pub const DIFFERS: u32 = 110;

/// Why a verb failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The number.
    pub code: u32,
    /// What failed: lower case, no full stop.
    pub problem: String,
    /// More of it, and what to do.
    pub details: String,
}

impl Failure {
    /// A failure with nothing to add.
    #[must_use]
    pub fn new(code: u32, problem: impl Into<String>) -> Failure {
        Failure { code, problem: problem.into(), details: String::new() }
    }

    /// Adds more of it, or what to do.
    #[must_use]
    pub fn details(self, details: impl Into<String>) -> Failure {
        Failure { details: details.into(), ..self }
    }

    /// A failure whose details are faults, one after the other.
    #[must_use]
    pub fn faulty(code: u32, problem: impl Into<String>, faults: &Faults) -> Failure {
        let told = faults.to_string();
        Failure::new(code, problem).details(told.lines().collect::<Vec<_>>().join("; "))
    }

    /// The JSON that goes to standard output, a line. `version` is the configuration's, the newest while that is unknown.
    #[must_use]
    pub fn json(&self, version: Version) -> String {
        let mut value = json!({ "cniVersion": version.word(), "code": self.code, "msg": self.problem });
        if let (false, Some(keys)) = (self.details.is_empty(), value.as_object_mut()) {
            keys.insert("details".to_owned(), json!(self.details));
        }
        format!("{value}\n")
    }
}

/// What failed, and more of it.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)?;
        match self.details.as_str() {
            "" => Ok(()),
            details => write!(f, "; {details}"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let code = match error.class {
            Class::Refused => REFUSED,
            Class::Usage => BAD_CONFIG,
            Class::Host => HOST,
            Class::TryAgain => TRY_AGAIN,
            Class::Privilege => PRIVILEGE,
            Class::NotCaptured => DIFFERS,
        };
        Failure::new(code, error.problem).details(error.remedy.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_stand_only_where_there_are_some() {
        let bare = Failure::new(7, "a\n\"b\"");
        assert_eq!(
            bare.json(Version::V0_4_0),
            "{\"cniVersion\":\"0.4.0\",\"code\":7,\"msg\":\"a\\n\\\"b\\\"\"}\n"
        );
        let more = bare.details("mend it").json(Version::NEWEST);
        assert!(more.ends_with(",\"details\":\"mend it\"}\n"), "{more}");
    }
}
