//! Cases that have something to tell when they pass: counts that a reader wants to see.
//!
//! What a case prints is shown only when it fails. Such a case is therefore hidden, and a check of the same
//! name runs it and prints the lines that it left in a file.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::child::{self, Verdict};
use crate::harness::{Case, Check};

/// A case with something to tell.
#[derive(Clone, Copy)]
pub(crate) struct Telling {
    pub(crate) name: &'static str,
    /// Returns what is told.
    pub(crate) body: fn() -> String,
    pub(crate) within: Duration,
}

/// How often something is tried in all.
pub(crate) struct Whole {
    pub(crate) number: usize,
    /// For developers and long runs: another number.
    pub(crate) variable: &'static str,
}

impl Whole {
    /// What falls to a case whose share of `number` is `share`.
    pub(crate) fn part(&self, share: usize) -> usize {
        let Self { number, variable } = self;
        let wanted = match env::var(variable) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text}: expected a number")),
            Err(_) => *number,
        };
        wanted * share / number
    }
}

pub(crate) fn cases(list: &[Telling]) -> Vec<Case> {
    let case = |Telling { name, body, .. }: Telling| {
        let run = move || fs::write(file(name), body()).unwrap_or_else(|error| panic!("telling: {error}"));
        Case::new(name, run).hidden()
    };
    list.iter().copied().map(case).collect()
}

pub(crate) fn checks(list: &[Telling]) -> Vec<Check> {
    let check = |Telling { name, within, .. }: Telling| Check {
        name,
        body: Box::new(move || {
            let verdict = child::run(name, within * patience());
            if let Verdict::Passed = verdict {
                let told = fs::read_to_string(file(name));
                println!("{name}: {}", told.unwrap_or_else(|error| format!("told nothing: {error}")));
            }
            verdict
        }),
    };
    list.iter().copied().map(check).collect()
}

/// How many times longer than usual a case may take: `MESH_INIT_TEST_PATIENCE`, for runs with larger numbers.
fn patience() -> u32 {
    let factor = std::env::var("MESH_INIT_TEST_PATIENCE").unwrap_or_else(|_| "1".to_owned());
    factor.parse().expect("MESH_INIT_TEST_PATIENCE is a number")
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.told", name.replace("::", ".")))
}
