//! What `watch` takes beside the options of every verb.

use clap::{Arg, ArgMatches};

use super::{ARROW, ARROW_KEPT, Parsed, Verb, given};
use crate::input::{Faults, Origin, Sourced, flags};

const INTERVAL: &str = "interval";
const COUNT: &str = "count";
const TRACE: &str = "trace";

pub(super) fn arguments() -> [Arg; 3] {
    let one = |id: &'static str, value: &'static str, help: &'static str| {
        // "-1" is a wrong number, to be told beside the other faults, not an unknown flag.
        Arg::new(id).long(id).value_name(value).help(help).allow_negative_numbers(true)
    };
    let traced = "follow the packets of a connection from rule to rule; what is left out may be anything";
    [
        one(INTERVAL, "SECONDS", "between two looks [default: 1]"),
        one(COUNT, "N", "end after N looks, or packets"),
        one(TRACE, "CONNECTION", traced).num_args(0..),
    ]
}

pub(super) fn parse(matches: &ArgMatches, mut faults: Faults) -> Parsed {
    let interval = number(matches, INTERVAL, 3600, &mut faults);
    let count = number(matches, COUNT, u32::MAX, &mut faults);
    let watch =
        Verb::Watch { interval: interval.and_then(|given| u16::try_from(given).ok()).unwrap_or(1), count };
    let flags = flags::parse(watch.parts(), |long| given(matches, long));
    if !matches.contains_id(TRACE) {
        return Parsed::Call { verb: watch, flags, explicit: true, faults };
    }
    if let Some(text) = matches.get_one::<String>(INTERVAL) {
        let given = Sourced { text: text.clone(), origin: Origin::Flag(INTERVAL) };
        faults.option(&given, "has no effect with --trace: packets are told as they come", "leave it out");
    }
    let words = given(matches, TRACE).unwrap_or_default();
    let filter = words.join(" ").replace(ARROW_KEPT, ARROW);
    Parsed::Trace { filter, count, flags, faults }
}

/// The number from 1 to `most` that was given for `long`.
fn number(matches: &ArgMatches, long: &'static str, most: u32, faults: &mut Faults) -> Option<u32> {
    let text = matches.get_one::<String>(long)?;
    let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let number = number.filter(|number| (1..=most).contains(number));
    if number.is_none() {
        let given = Sourced { text: text.clone(), origin: Origin::Flag(long) };
        faults.value(&given, text, "is not such a number", format!("give a number from 1 to {most}"));
    }
    number
}
