//! `watch`: how often each clause decides, again and again.

use std::time::{Duration, Instant};

use super::{Environment, status};
use crate::error::Result;
use crate::host::namespace;
use crate::policy::settings::{Output, Settings};
use crate::report::{Report, Status, Watched};
use crate::sys::terminal;

pub(super) fn run(
    settings: &Settings,
    interval: u16,
    count: Option<u32>,
    environment: &Environment,
) -> Result<()> {
    namespace::enter(settings, false)?;
    let machine = super::machine(settings, environment);
    let in_place = terminal::is_terminal() && settings.output == Output::Text;
    let mut before: Option<(Instant, Status)> = None;
    let mut shown = 0;
    let mut looks = 0_u32;
    loop {
        let now = Instant::now();
        let status = status::here(settings, &machine)?;
        let since = before.as_ref().map(|(then, status)| (now.duration_since(*then), status));
        let watched = Watched::between(since, &status);
        let text = match in_place {
            true => watched.text(),
            false => format!("{}\n", watched.json()),
        };
        let back = if in_place { shown } else { 0 };
        if !terminal::show(&text, back)? {
            // Nobody reads any more.
            return Ok(());
        }
        shown = text.lines().count();
        before = Some((now, status));
        looks += 1;
        if count.is_some_and(|count| looks >= count) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(u64::from(interval)));
    }
}
