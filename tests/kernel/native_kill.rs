//! Killed at any instant under nftables: the rules are old or new, with sets of no use at most, nothing that both
//! policies capture gets through, and the next run completes the change.

use std::time::Duration;

use crate::harness::{Case, Check};
use crate::kill::kills;
use crate::replace::{CLASSIC, OTHER_CLASSIC, OTHER_SCOPED, SCOPED, State};
use crate::support::rules::Variant;
use crate::telling::{self, Telling, Whole};

/// All kills of a run; the shares below add up to it.
const KILLS: Whole = Whole { number: 84, variable: "MESH_INIT_TEST_NATIVE_KILLS" };

/// Sets of each kind, others than in the policies of the replacements.
const SETS: &str = "--uid-owner 1000,2001 --gid-owner 3001 -p 15001 -u 1338 -z 15006 -b 23,7900-8100 -q 80,444 \
    -x 10.8.0.0/16,fd00:8::/32 -o 9444,9446";

/// Verdict maps beside sets, other ones than [`SETS`] has.
const MAPS: &str = "--uid-owner 1000,2001 -p 15001 -u 1338 -z 15006 -b * -d 23,7900-8000 -q 80,444 \
    -x 10.8.0.0/16,fd00:8::/32 -o 9444,9446";
const OTHER_MAPS: &str = "-p 15001 -z 15001 -u 1337 -g 1337 -b * -d 22,7000-7010,15021 -i 10.0.0.0/25,10.8.0.0/16,\
    fd00::/65,fd00:8::/32 -x 10.78.0.0/16,10.80.0.0/16,fd78::/32,fd7a::/32 -o 444,9444";

const LIST: [Telling; 5] = [
    telling("native::kill::sets", || between(24, native(SETS), native(OTHER_SCOPED))),
    telling("native::kill::maps", || between(24, native(MAPS), native(OTHER_MAPS))),
    telling("native::kill::layouts", || between(12, native(OTHER_CLASSIC), native(SCOPED))),
    telling("native::kill::from_legacy", || between(12, (Variant::Legacy, CLASSIC), native(SETS))),
    telling("native::kill::from_nft", || between(12, (Variant::Nft, OTHER_CLASSIC), native(OTHER_SCOPED))),
];

const fn telling(name: &'static str, body: fn() -> String) -> Telling {
    Telling { name, body, within: Duration::from_secs(120) }
}

pub(crate) fn cases() -> Vec<Case> {
    telling::cases(&LIST)
}

pub(crate) fn checks() -> Vec<Check> {
    telling::checks(&LIST)
}

const fn native(flags: &'static str) -> State {
    (Variant::Native, flags)
}

fn between(share: usize, one: State, other: State) -> String {
    kills(KILLS.part(share), [one, other])
}
