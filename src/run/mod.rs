//! The verbs, one thin file each: they wire input, policy, plan, host and report together.

mod apply;
mod clean;
mod cni;
mod confirm;
mod ebpf;
mod explain;
mod explain_pod;
mod input;
mod install;
mod istio;
mod plan;
mod recover;
mod status;
mod trace;
mod verify;
mod watch;

use std::ffi::OsString;
use std::path::PathBuf;

use crate::cli::{self, Parsed, Verb};
use crate::error::{Class, Error};
use crate::host::Machine;
use crate::input::env::LOG;
use crate::input::fault::quote;
use crate::input::options::{Key, Part, option};
use crate::policy::settings::{Output, Settings};
use crate::report::{Answer, Failure, Report};
use crate::rules::RuleSet;

/// The process environment.
pub type Environment = [(OsString, OsString)];

/// Runs one command line.
#[must_use]
pub fn main(words: Vec<OsString>, environment: &Environment) -> Answer {
    if cni::is_asked(&words, environment) {
        return cni::main(environment);
    }
    let json = asks_for_json(&words);
    let parsed = cli::parse(words);
    // A runtime's call logs in a form of its own.
    if parsed != Parsed::Cni {
        log(environment);
    }
    let (verb, flags, explicit, faults) = match parsed {
        Parsed::Call { verb, flags, explicit, faults } => (verb, flags, explicit, faults),
        Parsed::Explain { asked, flags, faults } => {
            return explain::main(&asked, flags, faults, environment);
        }
        Parsed::Trace { filter, count, flags, faults } => {
            let watch = Verb::Watch { interval: 1, count };
            let given = input::gather(watch.parts(), flags, faults, environment);
            return trace::main(&filter, count, given, environment);
        }
        Parsed::Install(given) => return install::install(&given),
        Parsed::Uninstall(given) => return install::uninstall(&given),
        Parsed::Cni => return cni::main(environment),
        Parsed::Istio(given) => return istio::main(&given, environment),
        Parsed::Answer(text) => return Answer { stdout: text, ..Answer::default() },
        Parsed::Misuse(text) if !json => return Answer { stderr: text, code: 64, ..Answer::default() },
        Parsed::Misuse(text) => {
            let problem = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            let error = Error::new(Class::Usage, problem).remedy("see mesh-init --help");
            return Failure::from(error).answer(Output::Json);
        }
    };
    let mut given = input::gather(verb.parts(), flags, faults, environment);
    // What says only where to look, how to answer or that a file is to be read does not say that anything is to be
    // captured.
    let says_nothing = [Key::Host, Key::ConfirmWithin, Key::EnvFile, Key::Config];
    let idle = given.raw.keys().all(|key| option(key).part == Part::Looking || says_nothing.contains(&key));
    if !explicit && idle && given.faults.is_empty() {
        return Answer { stderr: cli::help(), code: 64, ..Answer::default() };
    }
    without_effect(verb, &mut given);
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
            let applied = match &request.settings.ebpf {
                Some(how) => ebpf::apply(&request, how, environment)?,
                None => apply::run(&request, environment)?,
            };
            Ok(applied.answer(request.settings.output))
        }
        Verb::Plan { live } => {
            let request = given.request()?;
            let planned = match (&request.settings.ebpf, live) {
                (Some(how), true) => ebpf::plan_live(&request, how, environment)?,
                (Some(_), false) => ebpf::plan(&request)?,
                (None, true) => plan::live(&request, environment)?,
                (None, false) => plan::pure(&request),
            };
            Ok(planned.answer(request.settings.output))
        }
        Verb::Status => {
            let settings = given.settings()?;
            Ok(status::run(&settings, environment)?.answer(settings.output))
        }
        Verb::Verify { strict, quick, repair } => {
            let asked = verify::Asked { strict, quick, repair };
            if says_policy(&given) {
                let request = given.request()?;
                let output = request.settings.output;
                return Ok(
                    verify::run(asked, Some(&request), &request.settings, environment)?.verdict(output)
                );
            }
            let settings = given.settings()?;
            Ok(verify::run(asked, None, &settings, environment)?.verdict(settings.output))
        }
        Verb::Watch { interval, count } => {
            let settings = given.settings()?;
            watch::run(&settings, interval, count, environment)?;
            Ok(Answer::default())
        }
        Verb::Confirm => {
            let settings = given.settings()?;
            Ok(confirm::run(&settings, environment)?.answer(settings.output))
        }
        Verb::Clean => {
            let settings = given.settings()?;
            Ok(clean::run(&settings, RuleSet::default(), environment)?.answer(settings.output))
        }
    }
}

/// Whether a policy was given, not only where to look for one.
fn says_policy(given: &input::Given) -> bool {
    let says = |key: Key| {
        option(key).part == Part::Policy || matches!(key, Key::Layout | Key::EnvFile | Key::Config)
    };
    given.raw.keys().any(says)
}

/// Options of a machine, which `plan` and `explain` look at with `--live` only.
const OF_A_MACHINE: [Key; 6] =
    [Key::IptablesVariant, Key::Netns, Key::Host, Key::ConfirmWithin, Key::All, Key::Wait];
/// Why they are faults without it.
const NO_MACHINE: (&str, &str) =
    ("has no effect: without --live no machine is looked at", "leave it out, or give --live");

/// Tells the flags that a verb takes for its other forms.
fn without_effect(verb: Verb, given: &mut input::Given) {
    match verb {
        Verb::Plan { live: false } => given.without_effect(&OF_A_MACHINE, NO_MACHINE.0, NO_MACHINE.1),
        Verb::Status | Verb::Confirm | Verb::Watch { .. } => {
            given.without_effect(
                &[Key::All],
                "has no effect here: it is for apply and clean",
                "leave it out",
            );
        }
        Verb::Verify { repair, strict, quick } => {
            if strict && quick {
                let problem = "--quick tries nothing, and --strict asks that everything was tried";
                given.faults.whole(problem, "leave one of the two out");
            }
            let remedy = "leave it out: a repair brings back what is meant to be there";
            // A timer's environment must not turn it into something that waits for a confirmation, either.
            if let Some(confirm) = given.raw.first(Key::ConfirmWithin) {
                given.faults.option(confirm, "is for apply", remedy);
            }
            if says_policy(given) {
                return;
            }
            let why = "has no effect: without a policy nothing is made";
            given.without_effect(&[Key::Host], why, "leave it out, or give the policy");
            if repair {
                let remedy = "give the flags, --config or --env-file that the rules were made with";
                given.faults.whole("--repair needs the policy: rules that are gone do not say it", remedy);
            }
        }
        Verb::Apply | Verb::Plan { live: true } | Verb::Clean => {}
    }
}

/// Whether a command line that cannot be read as a whole asks for JSON all the same.
fn asks_for_json(words: &[OsString]) -> bool {
    let follows =
        words.windows(2).any(|pair| matches!(pair, [flag, form] if flag == "--output" && form == "json"));
    follows || words.iter().any(|word| word == "--output=json")
}

fn variable<'a>(environment: &'a Environment, name: &str) -> Option<&'a OsString> {
    environment.iter().find(|(of, _)| of == name).map(|(_, value)| value)
}

fn machine(settings: &Settings, environment: &Environment) -> Machine {
    let folders: Vec<PathBuf> =
        variable(environment, "PATH").into_iter().flat_map(std::env::split_paths).collect();
    let lock_file = variable(environment, "XTABLES_LOCKFILE").and_then(|path| path.to_str());
    let lock_file = lock_file.filter(|path| !path.is_empty()).map(str::to_owned);
    Machine::look(settings.wait, folders, lock_file)
}

/// Logs go to stderr; stdout is for the answer.
fn log(environment: &Environment) {
    let asked = variable(environment, LOG).and_then(|level| level.to_str());
    let level = asked.and_then(|level| level.parse().ok());
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level.unwrap_or(tracing::Level::WARN))
        .with_target(false)
        .with_ansi(false)
        .without_time()
        .finish();
    // A second initialisation (a test calling twice) keeps the first.
    tracing::subscriber::set_global_default(subscriber).ok();
    if let (Some(asked), None) = (asked, level) {
        tracing::warn!("{LOG}: {} is not a level: give error, warn, info, debug or trace", quote(asked));
    }
}

impl input::Given {
    /// The form of the answer, as far as it can be known before everything is validated.
    fn output(&self) -> Output {
        let given = self.raw.first(Key::Output);
        match given.is_some_and(|given| given.text.eq_ignore_ascii_case("json")) {
            true => Output::Json,
            false => Output::Text,
        }
    }
}
