//! That the judge can find somebody wrong.

use super::compare::judge;
use super::policies::Policy;
use super::world::World;
use crate::support::command::Run;
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, native};

/// A rule that somebody removes after the run: the compiled rules are no longer what the kernel does, and those that
/// it shows are.
pub(super) fn a_missing_rule_is_noticed(variant: Variant) {
    let mut world = World::new();
    let policy = Policy::new("--layout istio -p 15001 -z 15006 -u 1337 -b * -i *");
    policy.apply(&world, variant);
    let whole = judge(&mut world, variant, &policy);
    assert_eq!(whole.complaints().next(), None, "with all rules");
    without_the_proxy(&world.here, variant);
    let judged = judge(&mut world, variant, &policy);
    assert_eq!(judged.read, [""; 0], "by the rules that are there");
    let of_proxy = |line: &&String| line.contains(": out tcp uid=1337 ");
    let proxy = judged.compiled.iter().filter(of_proxy).count();
    assert!(proxy > 0, "expected the proxy's calls, seen {:?}", judged.compiled);
    assert_eq!(proxy, judged.compiled.len(), "expected nothing else, seen {:?}", judged.compiled);
}

/// An element of a verdict map that somebody gives another verdict.
pub(super) fn a_changed_map_is_noticed() {
    let mut world = World::new();
    let policy = Policy::new("--layout istio -p 15001 -z 15006 -u 1337 -b * -i * -d 15021,8080,9090");
    policy.apply(&world, Variant::Native);
    let listed = native(&world.here, Family::V4, &["-s"]);
    let map = listed.lines().find_map(|line| line.trim().strip_prefix("tcp dport vmap @"));
    let map = map.unwrap_or_else(|| panic!("no map in\n{listed}"));
    let script = format!(
        "delete element ip mesh_init {map} {{ 8080 : return }}\n\
         add element ip mesh_init {map} {{ 8080 : goto nat_redirect_inbound }}\n"
    );
    Run::with_input(&world.here, "nft", &["-f", "-"], &script).ok();
    let judged = judge(&mut world, Variant::Native, &policy);
    assert_eq!(judged.read, [""; 0], "by the rules that are there");
    let wrong: Vec<_> = judged.complaints().collect();
    assert!(!wrong.is_empty(), "expected the connections to port 8080");
    assert!(wrong.iter().all(|line| line.contains(":8080")), "expected nothing else, seen {wrong:?}");
}

/// Takes the rule for the proxy's user away.
fn without_the_proxy(here: &Netns, variant: Variant) {
    let line = if variant == Variant::Native {
        let listed = native(here, Family::V4, &["-a"]);
        let of_user = |line: &&str| line.trim_start().starts_with("meta skuid 1337 counter");
        let rule =
            listed.lines().find(of_user).unwrap_or_else(|| panic!("no rule for the user in\n{listed}"));
        let (_, handle) = rule.split_once("# handle ").expect("a handle");
        format!("nft delete rule ip mesh_init nat_outbound handle {handle}")
    } else {
        let program = variant.program(Family::V4, "");
        format!("{program} -t nat -D ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN")
    };
    let words: Vec<_> = line.split(' ').collect();
    Run::new(here, words[0], &words[1..]).ok();
}
