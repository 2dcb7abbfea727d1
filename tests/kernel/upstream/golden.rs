//! Every golden file, in both iptables: what upstream's text leaves in the kernel is what we leave there, a second
//! run finds nothing to do, `status` knows it again, and upstream's own way to remove it leaves nothing.

use std::time::Duration;

use super::calls::{self, Golden};
use super::scene::everything;
use crate::harness::Case;
use crate::support::command::{Run, mesh_init};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, difference, save};

/// How many calls a case has: a child of its own for each would take longer than the calls.
const SHARE: usize = 20;

pub(super) fn cases() -> Vec<Case> {
    let names = calls::names();
    let shares = names.chunks(SHARE).enumerate().flat_map(|(number, names)| {
        Variant::BOTH.map(|variant| {
            let names = names.to_vec();
            let body = move || all(&names, variant);
            Case::new(&format!("upstream::golden_{}::{}", number + 1, variant.name()), body)
                .within(Duration::from_secs(120))
        })
    });
    shares.collect()
}

/// Tries every call, whatever becomes of those before it.
fn all(names: &[String], variant: Variant) {
    let mut wrong = Vec::new();
    for name in names {
        let call = Golden::read(name);
        wrong.extend(one(&call, variant).into_iter().map(|what| format!("{name}: {what}")));
    }
    assert!(wrong.is_empty(), "{} things are wrong:\n\n{}", wrong.len(), wrong.join("\n\n"));
}

fn one(call: &Golden, variant: Variant) -> Vec<String> {
    let theirs = Netns::new("theirs");
    call.load(&theirs, variant);
    let expected = tables(&theirs, variant);

    let mut wrong = Vec::new();
    let mut expect = |holds: bool, what: String| {
        if !holds {
            wrong.push(what);
        }
    };
    let here = call.namespace();
    let before = everything(&here);
    let run = call.run(&here, variant, &[]);
    if run.code != Some(0) {
        return vec![format!("expected code 0, seen {run}")];
    }
    let seen = tables(&here, variant);
    expect(expected == seen, format!("other rules than upstream's:\n{}", difference(&expected, &seen)));

    let counted = counted(&here, variant);
    let again = call.run(&here, variant, &[]);
    let said = again.code == Some(0) && again.stdout.contains("nothing to do");
    expect(said, format!("expected `nothing to do` of a second run, seen {again}"));
    let recounted = self::counted(&here, variant);
    expect(counted == recounted, format!("a second run changed:\n{}", difference(&counted, &recounted)));

    let status = mesh_init(&here, &["status"]);
    let whole = is_whole(call, &status) || UNTOLD.contains(&call.name.as_str());
    expect(whole, format!("expected `captured` and whole, seen {status}"));

    let clean = call.run(&here, variant, &["--cleanup-only"]);
    let after = everything(&here);
    expect(clean.code == Some(0), format!("expected code 0, seen {clean}"));
    expect(before == after, format!("--cleanup-only left:\n{}", difference(&before, &after)));
    wrong
}

/// Calls of which the rules do not say everything: servers and networks of a family that is not captured, and an
/// interface named twice.
const UNTOLD: [&str; 3] =
    ["dns-ipv6-servers-on-ipv4-host", "duplicates-kept", "loopback-include-of-the-unused-family"];

/// Notes there may be on rules that could be anybody's, and on IPv6 where it is not to be captured.
fn is_whole(call: &Golden, status: &Run) -> bool {
    let mut known: Vec<_> = Family::BOTH
        .into_iter()
        .flat_map(|family| call.untold(family))
        .map(|(table, rule)| format!("{table} {}", rule.replace("-I PREROUTING 1", "-A PREROUTING")))
        .collect();
    known.extend(call.v6.is_empty().then(|| "IPv6 is not captured".to_owned()));
    let is_known = |note: &str| known.iter().any(|known| note.contains(known));
    status.code == Some(0)
        && status.stdout.starts_with("captured: ")
        && !status.stdout.contains("NOT WHOLE")
        && status.stdout.lines().filter(|line| line.starts_with("note: ")).all(is_known)
}

/// Rules and counters of one variant.
fn counted(netns: &Netns, variant: Variant) -> String {
    let saved = Family::BOTH.map(|family| save(netns, variant, family, &["-c"]));
    saved.concat().lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

/// Both families' tables by name, the chains of each by name, and the rules of each chain in order.
fn tables(netns: &Netns, variant: Variant) -> String {
    Family::BOTH.map(|family| ordered(&save(netns, variant, family, &[]))).concat()
}

fn ordered(saved: &str) -> String {
    let mut tables: Vec<Vec<&str>> = Vec::new();
    for line in saved.lines() {
        match tables.last_mut() {
            _ if line.starts_with('#') || line == "COMMIT" => {}
            _ if line.starts_with('*') => tables.push(vec![line]),
            Some(table) => table.push(line.split(" [").next().unwrap_or_default()),
            None => panic!("a line before any table: {line}"),
        }
    }
    for table in &mut tables {
        table.sort_by_key(|line| {
            let mut words = line.split(' ');
            match words.next() {
                Some("-A") => (2, words.next()),
                Some(table) if table.starts_with('*') => (0, Some(table)),
                chain => (1, chain),
            }
        });
    }
    tables.sort();
    tables.concat().into_iter().map(|line| format!("{line}\n")).collect()
}
