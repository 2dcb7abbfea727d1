//! A host of a golden file with rules and routing of others, and what upstream left among them.

use std::thread;
use std::time::{Duration, Instant};

use super::calls::Golden;
use crate::support::command::Run;
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, difference, dump, restore};

/// How much of upstream's is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remains {
    All,
    /// The rules that stand in built-in chains without a jump to a chain of upstream's.
    Bare,
    /// Only what could be anybody's.
    Untold,
    None,
}

/// What others have.
#[derive(Clone, Debug, Default)]
pub(super) struct Others {
    /// Rules that were there before upstream's, and after them; `@LO@` and `@NET@` are a family's networks.
    pub(super) before: String,
    pub(super) after: String,
    /// Commands for `ip`, each for one family.
    pub(super) routing: &'static [&'static str],
}

impl Others {
    pub(super) fn scene(&self, call: &Golden, variant: Variant, remains: Remains) -> Netns {
        let netns = call.namespace();
        load(&netns, variant, &self.before);
        for line in self.routing {
            ip(&netns, line);
        }
        match remains {
            Remains::All => {
                call.load(&netns, variant);
                route(&netns, call);
            }
            Remains::Bare => load_rules(&netns, variant, |family| call.bare(family)),
            Remains::Untold => load_rules(&netns, variant, |family| call.untold(family)),
            Remains::None => {}
        }
        load(&netns, variant, &self.after);
        netns
    }
}

pub(super) fn load(netns: &Netns, variant: Variant, rules: &str) {
    let addresses = |family| match family {
        Family::V4 => [
            ("@LO@", "127.0.0.1/32"),
            ("@LOOPBACK@", "127.0.0.0/8"),
            ("@NET@", "10.1.0.0/24"),
            ("@HOST@", "10.1.0.10/32"),
            ("@HOST:@", "10.1.0.10:"),
            ("@DNS@", "127.0.0.11/32"),
            ("@DNS:@", "127.0.0.11:"),
        ],
        Family::V6 => [
            ("@LO@", "::1/128"),
            ("@LOOPBACK@", "::1/128"),
            ("@NET@", "fd00:1::/64"),
            ("@HOST@", "fd00:1::10/128"),
            ("@HOST:@", "[fd00:1::10]:"),
            ("@DNS@", "fd00:11::11/128"),
            ("@DNS:@", "[fd00:11::11]:"),
        ],
    };
    for family in Family::BOTH.into_iter().filter(|_| !rules.is_empty()) {
        let text =
            addresses(family).into_iter().fold(rules.to_owned(), |text, (token, of)| text.replace(token, of));
        restore(netns, variant, family, &text);
    }
}

fn load_rules<'a>(netns: &Netns, variant: Variant, rules: impl Fn(Family) -> Vec<(&'a str, &'a str)>) {
    for family in Family::BOTH {
        let rules = rules(family);
        let text =
            rules.iter().map(|(table, rule)| format!("*{table}\n{rule}\nCOMMIT\n")).collect::<String>();
        if !text.is_empty() {
            restore(netns, variant, family, &text);
        }
    }
}

/// What upstream makes beside rules, in its order and without a protocol number.
fn route(netns: &Netns, call: &Golden) {
    if !call.v6.is_empty() {
        // As ours is made, so that one can be compared with the other.
        ip(netns, "addr add ::6/128 dev lo nodad");
    }
    let Some(mark) = call.mark() else { return };
    for (family, text) in [("-4", &call.v4), ("-6", &call.v6)] {
        if !text.is_empty() {
            ip(netns, &format!("{family} rule add fwmark {mark} lookup 133"));
            ip(netns, &format!("{family} route add local default dev lo table 133"));
        }
    }
}

fn ip(netns: &Netns, line: &str) {
    Run::new(netns, "ip", &line.split(' ').collect::<Vec<_>>()).ok();
}

/// Everything, but for two things that the kernel has its own reasons for: the order of tables, which is that of
/// their making, and the numbers of our own routing rules, which count down from what is there.
pub(super) fn everything(netns: &Netns) -> String {
    let line = |line: &str| match line.split_once(":\t") {
        Some((_, rule)) if rule.ends_with(" proto 109") => format!("{rule}\n"),
        _ => format!("{line}\n"),
    };
    let text: String = settled(netns).lines().map(line).collect();
    let by_name = |section: &str| {
        let Some((header, tables)) = section.split_once("\n*") else { return section.to_owned() };
        let (tables, rest) = tables.rsplit_once("COMMIT\n").unwrap_or((tables, ""));
        let mut tables: Vec<_> = tables.split("COMMIT\n*").collect();
        tables.sort_unstable();
        format!("{header}\n*{}COMMIT\n{rest}", tables.join("COMMIT\n*"))
    };
    text.split("\n== ").map(by_name).collect::<Vec<_>>().join("\n== ")
}

/// Everything, once each IPv6 address is in use: the kernel makes it so in its own time, on `lo` too.
fn settled(netns: &Netns) -> String {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let text = dump(netns);
        let addresses =
            text.lines().filter_map(|line| line.trim_start().strip_prefix("inet6 ")?.split('/').next());
        let unused = addresses.into_iter().find(|address| !text.contains(&format!("local {address} dev ")));
        let Some(unused) = unused.or(text.contains(" tentative").then_some("an address")) else {
            return text;
        };
        assert!(Instant::now() < end, "{unused} never came into use:\n{text}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What is not as expected after `run`, which succeeded.
pub(super) fn same(what: &str, expected: &str, netns: &Netns, run: &Run) -> Vec<String> {
    let seen = everything(netns);
    let mut wrong = Vec::new();
    if run.code != Some(0) {
        wrong.push(format!("{what}: expected code 0, seen {run}"));
    }
    if expected != seen {
        wrong.push(format!(
            "{what}: expected no difference, seen\n{}\nafter {run}",
            difference(expected, &seen)
        ));
    }
    wrong
}

/// Tries every call, whatever becomes of those before it.
pub(super) fn try_all(names: &[&str], variant: Variant, trial: fn(&Golden, Variant) -> Vec<String>) {
    let mut wrong = Vec::new();
    for name in names {
        let call = Golden::read(name);
        wrong.extend(trial(&call, variant).into_iter().map(|what| format!("{name}: {what}")));
    }
    assert!(wrong.is_empty(), "{} things are wrong:\n\n{}", wrong.len(), wrong.join("\n\n"));
}
