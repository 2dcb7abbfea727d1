//! Untrusted text becomes [`Raw`]: which option was given, with which text, from where.
//!
//! This layer knows formats (flags, variables, env files, JSON, TOML), not meaning: whether `http` is a port
//! is for `policy` to say. No I/O: callers pass the text in.

pub mod config;
pub mod env;
pub mod env_file;
pub mod fault;
pub mod flags;
pub mod istio;
pub mod options;
mod tree;
pub mod yaml;

use std::collections::BTreeMap;
use std::fmt;

pub use fault::{Fault, Faults, plain};
pub use options::{Key, Kind, OPTIONS, Opt};

/// Where a value came from, so that a fault or an explanation can point at it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A flag on the command line, as its long spelling.
    Flag(&'static str),
    /// A variable of the process environment.
    Variable(String),
    /// A variable in an env file.
    EnvFile {
        /// The file as the caller named it.
        path: String,
        /// Counted from 1.
        line: usize,
        /// The variable's name; empty for a line that has none.
        name: String,
    },
    /// A key in a config file.
    Config {
        /// The file as the caller named it.
        path: String,
        /// The dotted path, with `[n]` for array items.
        key: String,
    },
    /// A pod's annotation.
    Annotation {
        /// Its name.
        name: String,
        /// Where in its value, if that has parts of its own: a dotted path; else empty.
        key: String,
    },
    /// Nobody gave it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(long) => write!(f, "--{long}"),
            Origin::Variable(name) => write!(f, "variable {}", plain(name)),
            Origin::EnvFile { path, line, name } if name.is_empty() => write!(f, "{}:{line}", plain(path)),
            Origin::EnvFile { path, line, name } => write!(f, "{}:{line} {}", plain(path), plain(name)),
            Origin::Config { path, key } if key.is_empty() => write!(f, "{}", plain(path)),
            Origin::Config { path, key } => write!(f, "{} {}", plain(path), plain(key)),
            Origin::Annotation { name, key } if key.is_empty() => write!(f, "annotation {}", plain(name)),
            Origin::Annotation { name, key } => write!(f, "annotation {} {}", plain(name), plain(key)),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// One piece of text and where it stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced {
    /// The text, untouched.
    pub text: String,
    /// Where it stood.
    pub origin: Origin,
}

/// What was given, per option, in the order given. An absent key was not given at all; a key with one empty
/// text was *given empty*, which means "none", not "default".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Raw {
    values: BTreeMap<Key, Vec<Sourced>>,
}

impl Raw {
    /// The texts given for `key`, or `None` if it was not given.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&[Sourced]> {
        self.values.get(&key).map(Vec::as_slice)
    }

    /// The first text given for `key`: where a fault of the option as a whole points.
    #[must_use]
    pub fn first(&self, key: Key) -> Option<&Sourced> {
        self.get(key)?.first()
    }

    /// Whether `key` was given, empty or not.
    #[must_use]
    pub fn has(&self, key: Key) -> bool {
        self.values.contains_key(&key)
    }

    /// The keys that were given.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.values.keys().copied()
    }

    /// Whether nothing at all was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Adds one more text for `key`.
    pub fn push(&mut self, key: Key, text: impl Into<String>, origin: Origin) {
        self.values.entry(key).or_default().push(Sourced { text: text.into(), origin });
    }

    /// Takes away what was given for `key`.
    pub fn remove(&mut self, key: Key) {
        self.values.remove(&key);
    }

    /// Replaces whatever was given for `key` before: a later assignment wins inside one env file.
    pub fn set(&mut self, key: Key, text: impl Into<String>, origin: Origin) {
        self.values.insert(key, vec![Sourced { text: text.into(), origin }]);
    }

    /// Fills what `self` lacks from `weaker`. A stronger source replaces a weaker one as a whole: lists are
    /// joined only within one source. Precedence is stated by the order of calls in `run::input`:
    /// flag > variable > env file (a later file wins) > config file > default.
    #[must_use]
    pub fn or(mut self, weaker: Raw) -> Raw {
        for (key, values) in weaker.values {
            self.values.entry(key).or_insert(values);
        }
        self
    }
}
