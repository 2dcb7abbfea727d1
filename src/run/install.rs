//! `install` and `uninstall`: joining and leaving a node's chain of CNI plugins.

use std::path::Path;
use std::time::Duration;

use crate::cli::install::Texts;
use crate::cni::conflist::request::{self, Install, Uninstall};
use crate::error::{Error, Result};
use crate::host::chain::{self, In, Out};
use crate::policy::settings::Output;
use crate::report::{Answer, Failure, Installed, Report, Uninstalled};
use crate::sys::pause::Pause;
use crate::sys::{fs, terminal};

/// After so many rounds of which each had to change something, somebody else changes it back.
const QUARREL: u32 = 3;
/// The longest that rounds are drawn apart: a pod that starts meanwhile may start uncaptured.
const APART: Duration = Duration::from_secs(30);

pub(super) fn install(given: &Texts) -> Answer {
    let output = request::output(given);
    let file =
        request::plugin_config(given).map(|path| fs::read(Path::new(path)).map_err(|error| error.problem));
    let request = match request::install(given, file) {
        Ok(request) => request,
        Err(faults) => return Failure::from(faults).answer(output),
    };
    let once = || enter(&request).map(|installed| (installed.changed(), installed));
    let done = match request.every {
        None => once().map(|(_, installed)| installed.answer(output)),
        Some(every) => again(every, output, once),
    };
    done.unwrap_or_else(|error| Failure::from(error).answer(output))
}

pub(super) fn uninstall(given: &Texts) -> Answer {
    let output = request::output(given);
    let request = match request::uninstall(given) {
        Ok(request) => request,
        Err(faults) => return Failure::from(faults).answer(output),
    };
    let once = || leave(&request).map(|left| (left.removed || !left.changed.is_empty(), left));
    let done = match request.every {
        None => once().map(|(_, left)| left.answer(output)),
        Some(every) => again(every, output, once),
    };
    done.unwrap_or_else(|error| Failure::from(error).answer(output))
}

fn enter(request: &Install) -> Result<Installed> {
    let In { joined, program, copied } = chain::enter(request)?;
    Ok(Installed { joined, program: program.display().to_string(), copied })
}

fn leave(request: &Uninstall) -> Result<Uninstalled> {
    let Out { changed, program, removed, attachments } = chain::go(request)?;
    Ok(Uninstalled { changed, program: program.display().to_string(), removed, attachments })
}

/// One round after the other until SIGTERM or SIGINT, which leave everything as it is. The first answer is shown, and
/// every one of a round that changed something; an error is told once and does not end it. If each round finds its work
/// undone, rounds are drawn apart: two that write against each other help nobody.
fn again<T: Report>(every: Duration, output: Output, once: impl Fn() -> Result<(bool, T)>) -> Result<Answer> {
    let pause = Pause::new()?;
    let mut told: Option<Error> = None;
    let mut shown = false;
    let mut changes = 0;
    loop {
        match once() {
            Ok((changed, report)) => {
                told = None;
                changes = if changed { changes + 1 } else { 0 };
                if changed || !shown {
                    let text = match output {
                        Output::Text => report.text(),
                        Output::Json => format!("{}\n", report.json()),
                    };
                    shown = true;
                    // Nobody may be reading, and the work goes on.
                    terminal::show(&text, 0)?;
                }
            }
            Err(error) => {
                if told.as_ref() != Some(&error) {
                    tracing::error!("{error}");
                }
                told = Some(error);
            }
        }
        if changes == QUARREL {
            tracing::warn!("somebody else undoes this every time: rounds are drawn apart");
        }
        if pause.ended(until_next(every, changes)) {
            return Ok(Answer::default());
        }
    }
}

/// The time to the next round, behind so many `changes` of which each round had one: as told, and more and more if
/// somebody changes it back.
fn until_next(every: Duration, changes: u32) -> Duration {
    let factor = 2_u32.saturating_pow(changes.saturating_sub(QUARREL - 1));
    every.saturating_mul(factor).min(APART.max(every))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_drawn_apart_within_bounds() {
        let seconds = |every, changes| until_next(Duration::from_secs(every), changes).as_secs();
        let of_ten: Vec<u64> = [0, 1, 2, 3, 4, 5, 40, u32::MAX].map(|changes| seconds(10, changes)).into();
        assert_eq!(of_ten, [10, 10, 10, 20, 30, 30, 30, 30]);
        assert_eq!([0, 2, 3, 4, 5, 6, 7].map(|changes| seconds(1, changes)), [1, 1, 2, 4, 8, 16, 30]);
        assert_eq!([0, 3, 9].map(|changes| seconds(300, changes)), [300; 3], "never more often than told");
    }
}
