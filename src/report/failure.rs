//! Failures: faults of the input, or an error on the way.

use serde_json::{Value, json};

use super::{Answer, lines, pretty};
use crate::error::{Class, Error};
use crate::input::{Fault, Faults};
use crate::policy::settings::Output;

/// Why a verb did not do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The input is bad; nothing was changed.
    Input(Faults),
    /// Something else.
    Run(Error),
}

impl From<Faults> for Failure {
    fn from(faults: Faults) -> Self {
        Failure::Input(faults)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Run(error)
    }
}

impl Failure {
    /// The answer: text on stderr in any case; with JSON asked for, also the failure as JSON on stdout.
    #[must_use]
    pub fn answer(&self, output: Output) -> Answer {
        let (class, stderr) = match self {
            Failure::Input(faults) => (
                Class::Usage,
                faults.to_string().lines().map(|line| format!("mesh-init: {line}\n")).collect(),
            ),
            Failure::Run(error) => {
                (error.class, lines(format!("mesh-init: {error}").lines().map(str::to_owned).collect()))
            }
        };
        let stdout = match output {
            Output::Text => String::new(),
            Output::Json => pretty(&self.json(class)),
        };
        Answer { stdout, stderr, code: class.exit_code() }
    }

    fn json(&self, class: Class) -> Value {
        let problems: Vec<Value> = match self {
            Failure::Input(faults) => faults.list().iter().map(fault).collect(),
            Failure::Run(error) => vec![json!({ "problem": error.problem, "remedy": error.remedy })],
        };
        let beyond = match self {
            Failure::Input(faults) => faults.beyond(),
            Failure::Run(_) => 0,
        };
        json!({
            "schema": "mesh-init/error/v1",
            "exitCode": class.exit_code(),
            "problems": problems,
            "furtherProblems": beyond,
        })
    }
}

pub(super) fn fault(fault: &Fault) -> Value {
    let Fault { origin, value, problem, remedy } = fault;
    json!({
        "origin": origin.as_ref().map(ToString::to_string),
        "value": (!value.is_empty()).then_some(value),
        "problem": problem,
        "remedy": remedy,
    })
}
