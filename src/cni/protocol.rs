//! The environment of a call, read and judged as a whole.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

use super::arguments::Arguments;
use super::failure::{BAD_ENVIRONMENT, Failure};
use super::version::Version;
use crate::input::fault::quote;

/// What the runtime wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Capture this attachment's pod.
    Add,
    /// Undo that.
    Del,
    /// Say whether it still holds.
    Check,
    /// Remove what is left of attachments that are gone.
    Gc,
    /// Say whether ADD can work.
    Status,
    /// Say which versions are spoken.
    Version,
}

impl Verb {
    /// Every one.
    pub const ALL: [Verb; 6] = [Verb::Add, Verb::Del, Verb::Check, Verb::Gc, Verb::Status, Verb::Version];

    /// As `CNI_COMMAND` names it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Verb::Add => "ADD",
            Verb::Del => "DEL",
            Verb::Check => "CHECK",
            Verb::Gc => "GC",
            Verb::Status => "STATUS",
            Verb::Version => "VERSION",
        }
    }

    /// The version that it came with.
    #[must_use]
    pub fn since(self) -> Version {
        match self {
            Verb::Add | Verb::Del | Verb::Version => Version::V0_3_0,
            Verb::Check => Version::V0_4_0,
            Verb::Gc | Verb::Status => Version::V1_1_0,
        }
    }

    /// What it must be told by the environment. `CNI_PATH`, which the specification lists for GC and the Go library for
    /// everything, is of use only to plugins that call others.
    fn needs(self) -> &'static [&'static str] {
        match self {
            Verb::Add | Verb::Check => &[CONTAINER, NETNS, INTERFACE],
            Verb::Del => &[CONTAINER, INTERFACE],
            Verb::Gc | Verb::Status | Verb::Version => &[],
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The variable that makes a call one of a runtime.
pub const COMMAND: &str = "CNI_COMMAND";
const CONTAINER: &str = "CNI_CONTAINERID";
const NETNS: &str = "CNI_NETNS";
const INTERFACE: &str = "CNI_IFNAME";
const ARGUMENTS: &str = "CNI_ARGS";

/// The most bytes of a container id that are taken: runtimes use 64.
const LONGEST_ID: usize = 1024;
/// `IFNAMSIZ` of linux/if.h, less the NUL.
const LONGEST_INTERFACE: usize = 15;

/// What the environment says, and nothing wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What is wanted.
    pub verb: Verb,
    /// Whose attachment it is; empty where the verb is about none.
    pub container: String,
    /// The pod's network namespace; `None` if it is gone (DEL).
    pub netns: Option<PathBuf>,
    /// The attachment's interface; empty where the verb is about none.
    pub interface: String,
    /// What is said of the pod.
    pub arguments: Arguments,
}

impl Call {
    /// Reads the environment; `None` if nothing is asked (no `CNI_COMMAND`, or an empty one).
    ///
    /// # Errors
    /// Every variable that is missing or bad, in one message (code 4).
    pub fn read(environment: &[(OsString, OsString)]) -> Result<Option<Call>, Failure> {
        let find = |name: &str| {
            let value = environment.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_os_str());
            value.filter(|value| !value.is_empty())
        };
        let Some(asked) = find(COMMAND) else { return Ok(None) };
        let verb = Verb::ALL.into_iter().find(|verb| asked == verb.word()).ok_or_else(|| {
            let words = Verb::ALL.map(Verb::word).join(", ");
            Failure::new(BAD_ENVIRONMENT, format!("unknown {COMMAND} {}", quote(&asked.to_string_lossy())))
                .details(format!("this plugin knows {words}"))
        })?;
        let missing: Vec<&str> = verb.needs().iter().copied().filter(|name| find(name).is_none()).collect();
        let mut wrong = Vec::new();
        if !missing.is_empty() {
            wrong.push(format!("missing from the environment of {verb}: {}", missing.join(", ")));
        }
        let mut taken = |name: &str, judge: fn(&str) -> Option<&'static str>| {
            let value = find(name).filter(|_| verb.needs().contains(&name)).map(OsStr::to_string_lossy);
            let value = value.unwrap_or_default();
            if let (false, Some(why)) = (value.is_empty(), judge(&value)) {
                wrong.push(format!("{name} {} {why}", quote(&value)));
            }
            value.into_owned()
        };
        let container = taken(CONTAINER, wrong_id);
        let interface = taken(INTERFACE, wrong_interface);
        if !wrong.is_empty() {
            return Err(Failure::new(BAD_ENVIRONMENT, wrong.join("; ")));
        }
        let arguments = find(ARGUMENTS).map(OsStr::to_string_lossy).unwrap_or_default();
        let netns = find(NETNS).map(PathBuf::from);
        Ok(Some(Call { verb, container, netns, interface, arguments: Arguments::parse(&arguments) }))
    }
}

/// What is wrong with a container id (SPEC.md: alphanumeric, then also `_`, `.` and `-`).
fn wrong_id(id: &str) -> Option<&'static str> {
    if id.len() > LONGEST_ID {
        return Some("is too long for a container id");
    }
    (!is_name(id)).then_some("is no container id: letters, digits, _ . and -, a letter or digit first")
}

/// Whether `text` is what container ids and names of networks are: `^[A-Za-z0-9][A-Za-z0-9_.-]*$`.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// What is wrong with the name of an interface (`dev_valid_name()` in net/core/dev.c).
fn wrong_interface(name: &str) -> Option<&'static str> {
    if name.len() > LONGEST_INTERFACE {
        return Some("is longer than 15 bytes");
    }
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    (name == "." || name == ".." || name.contains(bad)).then_some("is no name of an interface")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Call>, Failure> {
        let pairs = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        Call::read(&pairs.collect::<Vec<_>>())
    }

    #[test]
    fn nothing_asked() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("CNI_COMMAND", ""), ("CNI_IFNAME", "eth0")]), Ok(None));
    }

    #[test]
    fn everything_that_is_wrong_is_one_message() {
        let failure = read(&[("CNI_COMMAND", "ADD"), ("CNI_IFNAME", "a b"), ("CNI_NETNS", "")]).unwrap_err();
        assert_eq!(failure.code, 4);
        assert_eq!(
            failure.problem,
            "missing from the environment of ADD: CNI_CONTAINERID, CNI_NETNS; CNI_IFNAME \"a b\" is no name of an interface"
        );
    }

    #[test]
    fn what_a_verb_does_not_need_is_not_judged() {
        for verb in ["GC", "STATUS", "VERSION"] {
            let call = read(&[("CNI_COMMAND", verb), ("CNI_CONTAINERID", "/"), ("CNI_IFNAME", "/")])
                .unwrap()
                .unwrap();
            assert_eq!((call.container.as_str(), call.interface.as_str()), ("", ""), "{verb}");
        }
    }

    #[test]
    fn names() {
        for good in ["a", "0", "a.b_c-d", "A9.", "cnitool-0123456789abcdef0123"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "-a", "_a", "a/b", "a b", "a\n", "ä", "a:b", "..", "a\u{661}"] {
            assert!(!is_name(bad), "{bad:?}");
        }
        for good in ["eth0", "a", "eth0.100", "123456789012345", "-", "é"] {
            assert_eq!(wrong_interface(good), None, "{good}");
        }
        for bad in [".", "..", "a/b", "a:b", "a b", "a\tb", "1234567890123456", "a\u{a0}b", "a\0"] {
            assert!(wrong_interface(bad).is_some(), "{bad:?}");
        }
    }
}
