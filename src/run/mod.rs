//! The verbs, one thin file each: they wire input, policy, plan, host and report together.

mod apply;
mod clean;
mod input;
mod plan;
mod recover;
mod status;

use std::ffi::OsString;
use std::path::PathBuf;

use crate::cli::{self, Parsed, Verb};
use crate::error::Result;
use crate::host::Machine;
use crate::input::env::LOG;
use crate::input::options::{Part, option};
use crate::policy::settings::{Output, Settings};
use crate::report::{Answer, Failure, Report};

/// The process environment.
pub type Environment = [(OsString, OsString)];

/// Runs one command line.
#[must_use]
pub fn main(words: Vec<OsString>, environment: &Environment) -> Answer {
    log(environment);
    let (verb, flags, explicit) = match cli::parse(words) {
        Parsed::Call { verb, flags, explicit } => (verb, flags, explicit),
        Parsed::Answer(text) => return Answer { stdout: text, ..Answer::default() },
        Parsed::Misuse(text) => return Answer { stderr: text, code: 64, ..Answer::default() },
    };
    let given = input::gather(verb, flags, environment);
    // What says only where to look or how to answer does not say that anything is to be captured.
    let idle = given.raw.keys().all(|key| option(key).part == Part::Looking);
    if !explicit && idle && given.faults.is_empty() {
        return Answer { stderr: cli::help(), code: 64, ..Answer::default() };
    }
    let output = given.output();
    answer(verb, given, environment).unwrap_or_else(|failure| failure.answer(output))
}

fn answer(
    verb: Verb,
    given: input::Given,
    environment: &Environment,
) -> std::result::Result<Answer, Failure> {
    match verb {
        Verb::Apply => {
            let request = given.request()?;
            Ok(apply::run(&request, environment)?.answer(request.settings.output))
        }
        Verb::Plan { live } => {
            let request = given.request()?;
            let planned = if live { plan::live(&request, environment)? } else { plan::pure(&request) };
            Ok(planned.answer(request.settings.output))
        }
        Verb::Status => {
            let settings = given.settings()?;
            Ok(status::run(&settings, environment)?.answer(settings.output))
        }
        Verb::Clean => {
            let settings = given.settings()?;
            Ok(clean::run(&settings, environment)?.answer(settings.output))
        }
    }
}

fn variable<'a>(environment: &'a Environment, name: &str) -> Option<&'a OsString> {
    environment.iter().find(|(of, _)| of == name).map(|(_, value)| value)
}

fn machine(settings: &Settings, environment: &Environment) -> Result<Machine> {
    let folders: Vec<PathBuf> =
        variable(environment, "PATH").into_iter().flat_map(std::env::split_paths).collect();
    let lock_file =
        variable(environment, "XTABLES_LOCKFILE").and_then(|path| path.to_str()).map(str::to_owned);
    Machine::look(settings.wait, folders, lock_file)
}

/// Logs go to stderr; stdout is for the answer.
fn log(environment: &Environment) {
    let level =
        variable(environment, LOG).and_then(|level| level.to_str()).and_then(|level| level.parse().ok());
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level.unwrap_or(tracing::Level::WARN))
        .with_target(false)
        .with_ansi(false)
        .without_time()
        .finish();
    // A second initialisation (a test calling twice) keeps the first.
    tracing::subscriber::set_global_default(subscriber).ok();
}

impl input::Given {
    /// The form of the answer, as far as it can be known before everything is validated.
    fn output(&self) -> Output {
        let given = self.raw.first(crate::input::Key::Output);
        match given.is_some_and(|given| given.text.eq_ignore_ascii_case("json")) {
            true => Output::Json,
            false => Output::Text,
        }
    }
}
