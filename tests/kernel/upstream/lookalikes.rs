//! Rules and routing of others that resemble what upstream leaves bare in built-in chains: none of them is touched,
//! whether upstream's own stand among them or nothing of upstream's is there.

use std::time::Duration;

use super::calls::{self, Golden};
use super::scene::{Others, Remains, everything, same, try_all};
use crate::harness::Case;
use crate::support::command::mesh_init;
use crate::support::rules::{Family, Variant};

/// Calls whose marks, interfaces and proxies the rules below come close to: 1400 or 1337, net1 and net2, uid 1337.
const CALLS: [&str; 4] = [
    "tproxy-all-features",
    "tproxy-reroute-interface",
    "reroute-interfaces-dual-stack",
    "injector-call-tproxy-dns-ipv6",
];

/// Calls whose bare rules somebody else has too.
const SAME: [&str; 7] = [
    "custom-tproxy-mark",
    "exclude-and-reroute-interface",
    "exclude-interface-tproxy",
    "exclude-interfaces",
    "reroute-interface-with-cidrs",
    "tproxy-all-features",
    "tproxy-dns-capture-all-dual-stack",
];

pub(super) fn cases() -> Vec<Case> {
    let cases = Case::all_for_each_variant(&[
        ("upstream::lookalikes", |variant| try_all(&CALLS, variant, among_upstreams)),
        ("upstream::lookalikes_of_identities", |variant| try_all(&CALLS, variant, of_other_identities)),
        ("upstream::bare_rules_alone", |variant| try_all(&with_bare_rules(), variant, alone)),
        ("upstream::bare_rules_of_others", |variant| try_all(&SAME, variant, same_as_others)),
    ]);
    cases.into_iter().map(|case| case.within(Duration::from_secs(120))).collect()
}

/// With `@M@` for a call's mark: other marks, protocols, chains, tables, interfaces, verdicts, or a comment.
const RULES: &str = "\
*mangle
:MINE - [0:0]
-A PREROUTING -p tcp -m mark --mark 1336 -j CONNMARK --save-mark
-A PREROUTING -p tcp -m mark --mark @M@/0xfff -j CONNMARK --save-mark
-A PREROUTING -p tcp -m mark ! --mark @M@ -j CONNMARK --save-mark
-A PREROUTING -p udp -m mark --mark @M@ -j CONNMARK --save-mark
-A PREROUTING -m mark --mark @M@ -j CONNMARK --save-mark
-A PREROUTING -p tcp -m mark --mark @M@ -j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff
-A PREROUTING -p tcp -m mark --mark @M@ -m comment --comment mine -j CONNMARK --save-mark
-A PREROUTING -p tcp -i eth0 -m mark --mark @M@ -j CONNMARK --save-mark
-A PREROUTING -p tcp -m mark --mark @M@ -j CONNMARK --restore-mark
-A INPUT -p tcp -m mark --mark @M@ -j CONNMARK --save-mark
-A FORWARD -p tcp -m mark --mark @M@ -j CONNMARK --save-mark
-A POSTROUTING -p tcp -m connmark --mark @M@ -j CONNMARK --restore-mark
-A OUTPUT -p tcp -o lo -m mark --mark 1336 -j RETURN
-A OUTPUT -p tcp -o eth0 -m mark --mark @M@ -j RETURN
-A OUTPUT -p tcp -m mark --mark @M@ -j RETURN
-A OUTPUT -p tcp -o lo -m mark --mark @M@ -j ACCEPT
-A OUTPUT -p tcp -o lo -m mark --mark @M@ -m comment --comment mine -j RETURN
-A OUTPUT -p tcp -o lo -m mark --mark @M@ -m owner --uid-owner 0 -j RETURN
-A OUTPUT ! -d @LO@ -p tcp -o lo -m owner --uid-owner 1337 -j MARK --set-mark 1339
-A OUTPUT ! -d @LO@ -p tcp -o lo -m owner --uid-owner 1337 -j MARK --set-xmark 1338/0xfff
-A OUTPUT ! -d @LO@ -p tcp -o lo -m owner --uid-owner 1337 -m comment --comment mine -j MARK --set-mark 1338
-A OUTPUT ! -d @LO@ -p tcp -o lo -m owner ! --uid-owner 1337 -j MARK --set-mark 1338
-A OUTPUT ! -d @LO@ -p udp -o lo -m owner --uid-owner 1337 -j MARK --set-mark 1338
-A OUTPUT -d @LO@ -p tcp -o lo -m owner --uid-owner 1337 -j MARK --set-mark 1338
-A OUTPUT -p tcp -o lo -m owner --uid-owner 1337 -j MARK --set-mark 1338
-A OUTPUT ! -d @LO@ -p tcp -o lo -j MARK --set-mark 1338
-A OUTPUT -p tcp -m connmark --mark 1336 -j CONNMARK --restore-mark
-A OUTPUT -p udp -m connmark --mark @M@ -j CONNMARK --restore-mark
-A OUTPUT -p tcp -m connmark --mark @M@/0xfff -j CONNMARK --restore-mark
-A OUTPUT -p tcp -m connmark --mark @M@ -m comment --comment mine -j CONNMARK --restore-mark
-A OUTPUT -p tcp -m connmark --mark @M@ -j MINE
-A MINE -p tcp -m mark --mark @M@ -j CONNMARK --save-mark
-A MINE -p tcp -o lo -m mark --mark @M@ -j RETURN
-A MINE ! -d @LO@ -p tcp -o lo -m owner --uid-owner 1337 -j MARK --set-mark 1338
-A MINE -p tcp -m connmark --mark @M@ -j CONNMARK --restore-mark
COMMIT
*nat
:MINE - [0:0]
-A PREROUTING -i net1 -p tcp -j RETURN
-A PREROUTING -i net1 -j ACCEPT
-A PREROUTING -i net1 -m comment --comment mine -j RETURN
-A PREROUTING ! -i net1 -j MINE
-A PREROUTING -i net11 -p tcp -j MINE
-A POSTROUTING -o net1 -j RETURN
-A OUTPUT -o eth1 -p tcp -j RETURN
-A OUTPUT -o eth1 -m comment --comment mine -j RETURN
-A MINE -i net1 -j RETURN
COMMIT
*raw
-A PREROUTING -i net1 -j RETURN
-A OUTPUT -o eth1 -j RETURN
COMMIT
*filter
-A INPUT -i net1 -j RETURN
-A OUTPUT -o eth1 -j RETURN
COMMIT
";

/// The very rules of an excluded or rerouted interface, for others: only `--all` takes such rules.
const INTERFACES: &str = "\
*nat
-A PREROUTING -i eth9 -j RETURN
-A PREROUTING -i net+ -j RETURN
-A OUTPUT -o eth9 -j RETURN
-A OUTPUT -o net1 -j RETURN
COMMIT
*mangle
-A PREROUTING -i eth9 -j RETURN
-A PREROUTING -i net1 -j RETURN
-A OUTPUT -o eth9 -j RETURN
COMMIT
";

/// The very rule that marks the proxy's calls to this host, for users and destinations that are not the proxy's.
const IDENTITIES: &str = "\
*mangle
-A OUTPUT ! -d @LO@ -p tcp -o lo -m owner --uid-owner 4242 -j MARK --set-mark 1338
-A OUTPUT ! -d @LO@ -p tcp -o lo -m owner --gid-owner 4242 -j MARK --set-mark 1338
-A OUTPUT ! -d @NET@ -p tcp -o lo -m owner --uid-owner 1337 -j MARK --set-mark 1338
COMMIT
";

/// Another mark, a mask, an interface, another table; routes that are not all of a family; other addresses.
const ROUTING: [&str; 10] = [
    "-4 rule add fwmark 1336 lookup 134 priority 900",
    "-6 rule add fwmark 1336 lookup 134 priority 900",
    "-4 rule add fwmark 1337/0xfff lookup 133 priority 901",
    "-4 rule add fwmark 1400/0xfff lookup 133 priority 902",
    "-4 rule add fwmark 1337 iif eth0 lookup 133 priority 903",
    "-4 rule add fwmark 1337 lookup 135 priority 904",
    "-4 route add local default dev lo table 134",
    "-4 route add local 10.5.0.0/16 dev lo table 133",
    "-4 addr add 127.0.0.6/32 dev lo",
    "-6 addr add ::7/128 dev lo nodad",
];

fn others(call: &Golden, rules: &str) -> Others {
    let rules = rules.replace("@M@", call.mark().unwrap_or("1337"));
    Others { before: rules.clone(), after: rules, routing: &ROUTING }
}

fn among_upstreams(call: &Golden, variant: Variant) -> Vec<String> {
    let mut wrong = Vec::new();
    for rules in [RULES.to_owned(), [RULES, INTERFACES].concat()] {
        let others = others(call, &rules);
        let expect = |remains| everything(&others.scene(call, variant, remains));
        let (left, none) = (expect(Remains::Untold), expect(Remains::None));

        let here = others.scene(call, variant, Remains::All);
        let run = mesh_init(&here, &["clean"]);
        wrong.extend(same("after clean", &left, &here, &run));

        let here = others.scene(call, variant, Remains::All);
        let run = call.run(&here, variant, &["--cleanup-only"]);
        wrong.extend(same("after --cleanup-only", &none, &here, &run));

        let here = others.scene(call, variant, Remains::None);
        call.run(&here, variant, &[]).ok();
        let run = call.run(&here, variant, &["--cleanup-only"]);
        wrong.extend(same("after ours and --cleanup-only", &none, &here, &run));

        let here = others.scene(call, variant, Remains::All);
        let policy = ["-p", "15001", "-z", "15006", "-u", "1337", "-m", "TPROXY"];
        mesh_init(&here, &[&policy[..], &["--iptables-variant", variant.name()]].concat()).ok();
        let run = mesh_init(&here, &["clean"]);
        wrong.extend(same("after another policy and clean", &left, &here, &run));

        // Beside rules of excluded interfaces, `--all` has its own case.
        let untold = Family::BOTH.into_iter().any(|family| !call.untold(family).is_empty());
        if rules == RULES && !untold {
            let here = others.scene(call, variant, Remains::All);
            let run = mesh_init(&here, &["clean", "--all"]);
            wrong.extend(same("after clean --all", &none, &here, &run));
        }
    }
    wrong
}

fn of_other_identities(call: &Golden, variant: Variant) -> Vec<String> {
    let others = others(call, IDENTITIES);
    let untold = everything(&others.scene(call, variant, Remains::Untold));
    let here = others.scene(call, variant, Remains::All);
    let run = mesh_init(&here, &["clean"]);
    same("after clean", &untold, &here, &run)
}

/// The calls that leave bare rules in built-in chains.
fn with_bare_rules() -> Vec<&'static str> {
    let names = calls::names().into_iter().filter(|name| {
        let call = Golden::read(name);
        Family::BOTH.iter().any(|family| !call.bare(*family).is_empty())
    });
    names.map(|name| &*name.leak()).collect()
}

/// Where no chain is upstream's, no rule is: whatever is asked for, nothing is done.
fn alone(call: &Golden, variant: Variant) -> Vec<String> {
    let here = Others::default().scene(call, variant, Remains::Bare);
    let before = everything(&here);
    let mut wrong = Vec::new();
    for words in [&["status"][..], &["clean"], &["clean", "--all"]] {
        let run = mesh_init(&here, words);
        wrong.extend(same(&format!("after {}", words.join(" ")), &before, &here, &run));
        if !(run.stdout.contains("nothing to do") || run.stdout.contains("nothing of ours")) {
            wrong.push(format!("expected nothing of ours, seen {run}"));
        }
    }
    let run = call.run(&here, variant, &["--cleanup-only"]);
    wrong.extend(same("after --cleanup-only", &before, &here, &run));
    wrong
}

/// Beside others' rules that are the very same as upstream's bare ones, ours come and go.
fn same_as_others(call: &Golden, variant: Variant) -> Vec<String> {
    const AFTER: &str = "*nat\n-A OUTPUT -p tcp --dport 8080 -j RETURN\n\
        -A PREROUTING -p tcp --dport 8080 -j RETURN\nCOMMIT\n\
        *mangle\n-A OUTPUT -p tcp --dport 8080 -j RETURN\n-A PREROUTING -p tcp --dport 8080 -j RETURN\nCOMMIT\n";
    const POLICIES: [&str; 4] = [
        "-p 15001 -u 1337",
        "-p 15001 -z 15006 -u 1337 -i 10.0.0.0/8",
        "--uid-owner 1338 --inbound 8001",
        "-p 15001 -z 15006 -u 1337 -m TPROXY -k net1",
    ];
    let others = Others { after: AFTER.to_owned(), ..Others::default() };
    let before = everything(&others.scene(call, variant, Remains::Bare));
    let mut wrong = Vec::new();
    for policy in POLICIES {
        let here = others.scene(call, variant, Remains::Bare);
        let words: Vec<_> = policy.split(' ').chain(["--iptables-variant", variant.name()]).collect();
        let run = mesh_init(&here, &words);
        if run.code != Some(0) {
            wrong.extend(same(&format!("after {policy}"), &before, &here, &run));
            continue;
        }
        let run = mesh_init(&here, &["clean"]);
        wrong.extend(same(&format!("after {policy} and clean"), &before, &here, &run));
    }
    let here = others.scene(call, variant, Remains::Bare);
    let run = call.run(&here, variant, &[]);
    if run.code != Some(0) {
        wrong.extend(same("after the call", &before, &here, &run));
        return wrong;
    }
    let again = call.run(&here, variant, &[]);
    if !again.stdout.contains("nothing to do") {
        wrong.push(format!("expected `nothing to do` of a second run, seen {again}"));
    }
    let run = call.run(&here, variant, &["--cleanup-only"]);
    // iptables deletes the first of equal rules: where somebody's rule and ours are the same, the one that stays has
    // the place of ours. Everything is there as often as before.
    let seen = everything(&here);
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    if run.code != Some(0) || sorted(&before) != sorted(&seen) {
        wrong.extend(same("after the call and --cleanup-only", &before, &here, &run));
    }
    wrong
}
