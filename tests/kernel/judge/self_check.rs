//! That the judge can find somebody wrong.

use super::compare::judge;
use super::policies::Policy;
use super::world::World;
use crate::support::command::Run;
use crate::support::rules::{Family, Variant};

/// A rule that somebody removes after the run: the compiled rules are no longer what the kernel does, and those that
/// it shows are.
pub(super) fn a_missing_rule_is_noticed(variant: Variant) {
    let mut world = World::new();
    let policy = Policy::new("--layout istio -p 15001 -z 15006 -u 1337 -b * -i *");
    policy.apply(&world, variant);
    let whole = judge(&mut world, variant, &policy);
    assert_eq!(whole.complaints().next(), None, "with all rules");
    let rule = "-t nat -D ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN";
    let program = variant.program(Family::V4, "");
    Run::new(&world.here, &program, &rule.split(' ').collect::<Vec<_>>()).ok();
    let judged = judge(&mut world, variant, &policy);
    assert_eq!(judged.read, [""; 0], "by the rules that are there");
    let of_proxy = |line: &&String| line.contains(": out tcp uid=1337 ");
    let proxy = judged.compiled.iter().filter(of_proxy).count();
    assert!(proxy > 0, "expected the proxy's calls, seen {:?}", judged.compiled);
    assert_eq!(proxy, judged.compiled.len(), "expected nothing else, seen {:?}", judged.compiled);
}
