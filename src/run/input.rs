//! Gathering the input. Precedence is stated here, once: flag > `MESH_INIT_*` > env file (a later one wins) >
//! config file > default.

use std::path::Path;

use super::Environment;
use crate::host;
use crate::input::options::Part;
use crate::input::{Faults, Key, Origin, Raw, Sourced, config, env, env_file, plain};
use crate::policy::facts::Questions;
use crate::policy::settings::Settings;
use crate::policy::validate::{self, Request};
use crate::sys::fs;

/// Everything that was given, and what is wrong with its form.
pub(super) struct Given {
    pub(super) raw: Raw,
    pub(super) faults: Faults,
}

/// What flags, variables and files say of the options of `parts`.
pub(super) fn gather(parts: &[Part], flags: Raw, mut faults: Faults, environment: &Environment) -> Given {
    let (variables, unknown) = env::parse(environment, parts, &mut faults);
    warn("the environment", &unknown);
    let mut raw = flags.or(variables);
    // A list like any other: split at commas.
    let given = raw.get(Key::EnvFile).unwrap_or_default().iter();
    let split = |given: &Sourced| {
        let origin = given.origin.clone();
        let paths = given
            .text
            .split(',')
            .map(|path| Sourced { text: path.trim().to_owned(), origin: origin.clone() });
        paths.collect::<Vec<_>>()
    };
    let files: Vec<Sourced> = given.flat_map(split).collect();
    for file in files.iter().rev() {
        let Some(text) = read(file, &mut faults) else { continue };
        let (given, unknown) = env_file::parse(&file.text, &text, &mut faults);
        warn(&file.text, &unknown);
        raw = raw.or(given);
    }
    // A second one is a fault, told where every single value is read.
    if let Some(file) = raw.first(Key::Config).cloned()
        && let Some(text) = read(&file, &mut faults)
    {
        let given = config::parse(&file.text, &text, &mut faults);
        raw = raw.or(given);
    }
    Given { raw, faults }
}

fn read(file: &Sourced, faults: &mut Faults) -> Option<String> {
    if file.text.is_empty() {
        faults.option(file, "is empty", "give a file's path");
        return None;
    }
    match fs::read(Path::new(&file.text)) {
        Ok(text) => Some(text),
        Err(error) => {
            let problem = format!("{} {}", plain(&file.text), error.problem);
            faults.source(file.origin.clone(), problem, "give a readable text file");
            None
        }
    }
}

fn warn(source: &str, names: &[String]) {
    const TOLD: usize = 20;
    if names.is_empty() {
        return;
    }
    let told: Vec<_> = names.iter().take(TOLD).map(|name| plain(name)).collect();
    let more = match names.len().checked_sub(TOLD) {
        Some(more) if more > 0 => format!(" and {more} more"),
        Some(_) | None => String::new(),
    };
    tracing::warn!("{}: without effect here: {}{more}", plain(source), told.join(", "));
}

impl Given {
    /// Tells each flag of `keys` that is there although it has no effect. Variables and files are read by several
    /// commands, so what they say to others is no fault.
    pub(super) fn without_effect(&mut self, keys: &[Key], why: &str, remedy: &str) {
        for given in keys.iter().filter_map(|key| self.raw.first(*key)) {
            if matches!(given.origin, Origin::Flag(_)) {
                self.faults.option(given, why, remedy);
            }
        }
    }

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
