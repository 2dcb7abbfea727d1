//! Gathering the input. Precedence is stated here, once: flag > `MESH_INIT_*` > env file (a later one wins) >
//! config file > default.

use std::path::Path;

use super::Environment;
use crate::cli::Verb;
use crate::host;
use crate::input::{Faults, Key, Origin, Raw, config, env, env_file};
use crate::policy::facts::Questions;
use crate::policy::settings::Settings;
use crate::policy::validate::{self, Request};
use crate::sys::fs;

/// Everything that was given, and what is wrong with its form.
pub(super) struct Given {
    pub(super) raw: Raw,
    pub(super) faults: Faults,
}

pub(super) fn gather(verb: Verb, flags: Raw, environment: &Environment) -> Given {
    let mut faults = Faults::default();
    let (variables, unknown) = env::parse(environment, verb.parts(), &mut faults);
    if !unknown.is_empty() {
        tracing::warn!("no such option, ignored: {}", unknown.join(", "));
    }
    let mut raw = flags.or(variables);
    let files: Vec<(String, Origin)> = paths(&raw, Key::EnvFile);
    for (path, origin) in files.iter().rev() {
        let Some(text) = read(path, origin, &mut faults) else { continue };
        let (given, unknown) = env_file::parse(path, &text, &mut faults);
        if !unknown.is_empty() {
            tracing::warn!("{path}: without effect here: {}", unknown.join(", "));
        }
        raw = raw.or(given);
    }
    for (path, origin) in paths(&raw, Key::Config) {
        let Some(text) = read(&path, &origin, &mut faults) else { continue };
        let given = config::parse(&path, &text, &mut faults);
        raw = raw.or(given);
    }
    Given { raw, faults }
}

fn paths(raw: &Raw, key: Key) -> Vec<(String, Origin)> {
    let given = raw.get(key).unwrap_or_default().iter();
    given
        .flat_map(|given| given.text.split(',').map(|path| (path.trim().to_owned(), given.origin.clone())))
        .collect()
}

fn read(path: &str, origin: &Origin, faults: &mut Faults) -> Option<String> {
    if path.is_empty() {
        faults.source(origin.clone(), "is empty", "give a file's path");
        return None;
    }
    match fs::read(Path::new(path)) {
        Ok(text) => Some(text),
        Err(error) => {
            faults.source(origin.clone(), error.problem, "give a readable text file");
            None
        }
    }
}

impl Given {
    /// Validates for verbs that make rules.
    pub(super) fn request(self) -> Result<Request, Faults> {
        let facts = host::facts::answer(Questions::of(&self.raw));
        let request = validate::request(&self.raw, &facts, self.faults)?;
        for warning in &request.warnings {
            tracing::warn!("{warning}");
        }
        Ok(request)
    }

    /// Validates for verbs that make none.
    pub(super) fn settings(self) -> Result<Settings, Faults> {
        validate::settings(&self.raw, self.faults)
    }
}
