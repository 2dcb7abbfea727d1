//! The rules of a namespace as the tools see them, and rules put there by hand.

use std::fmt::Write as _;

use super::command::Run;
use super::netns::Netns;
use super::wire::await_addresses;

/// What carries the rules: the two implementations of iptables that may be installed side by side, or tables of our own
/// in nftables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Legacy,
    Nft,
    Native,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Variant {
    /// Those of iptables.
    pub(crate) const BOTH: [Self; 2] = [Self::Legacy, Self::Nft];
    pub(crate) const ALL: [Self; 3] = [Self::Legacy, Self::Nft, Self::Native];

    /// As `--iptables-variant` takes it, and cases are called.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Nft => "nft",
            Self::Native => "native",
        }
    }

    /// As the reports name it.
    pub(crate) const fn full_name(self) -> &'static str {
        match self {
            Self::Legacy => "iptables-legacy",
            Self::Nft => "iptables-nft",
            Self::Native => "nftables",
        }
    }

    /// What asks for it.
    pub(crate) const fn flags(self) -> [&'static str; 2] {
        match self {
            Self::Legacy | Self::Nft => ["--iptables-variant", self.name()],
            Self::Native => ["--backend", "nftables"],
        }
    }

    /// As `flags`, by a variable.
    pub(crate) const fn variable(self) -> [&'static str; 2] {
        match self {
            Self::Legacy | Self::Nft => ["MESH_INIT_IPTABLES_VARIANT", self.name()],
            Self::Native => ["MESH_INIT_BACKEND", "nftables"],
        }
    }

    /// Another one, of iptables.
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Legacy => Self::Nft,
            Self::Nft | Self::Native => Self::Legacy,
        }
    }

    /// The one in which others have their rules beside ours.
    pub(crate) const fn iptables(self) -> Self {
        match self {
            Self::Legacy => Self::Legacy,
            Self::Nft | Self::Native => Self::Nft,
        }
    }

    /// `iptables-legacy`, `ip6tables-nft-save` and so on; `verb` is empty, `save` or `restore`.
    #[track_caller]
    pub(crate) fn program(self, family: Family, verb: &str) -> String {
        assert!(self != Self::Native, "nftables has no program of iptables");
        let family = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let dash = if verb.is_empty() { "" } else { "-" };
        format!("{family}-{}{dash}{verb}", self.name())
    }
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// As nft has it.
    pub(crate) const fn of_nft(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }
}

/// Adds `text` to what is there.
#[track_caller]
pub(crate) fn restore(netns: &Netns, variant: Variant, family: Family, text: &str) {
    Run::with_input(netns, &variant.program(family, "restore"), &["--noflush"], text).ok();
}

/// Our table of a family as `nft` with `flags` lists it; empty without one.
#[track_caller]
pub(crate) fn native(netns: &Netns, family: Family, flags: &[&str]) -> String {
    let table = format!("{} mesh_init", family.of_nft());
    if !native_tables(netns).contains(&table) {
        return String::new();
    }
    Run::new(netns, "nft", &[flags, &["list", "table", family.of_nft(), "mesh_init"]].concat()).ok()
}

/// Our table of a family without counters, whatever order its sets and chains were made in.
#[track_caller]
pub(crate) fn native_in_order(netns: &Netns, family: Family) -> String {
    in_order(&native(netns, family, &["-s"]))
}

/// The chains of nftables' text and its sets have no order of their own: the kernel shows them as they came.
fn in_order(table: &str) -> String {
    let Some((head, rest)) = table.split_once('\n') else { return table.to_owned() };
    let body = rest.trim_end().strip_suffix('}').unwrap_or(rest);
    let mut blocks: Vec<_> =
        body.split("\n\n").map(|block| block.trim_matches('\n')).filter(|block| !block.is_empty()).collect();
    blocks.sort_unstable();
    format!("{head}\n\n{}\n\n}}\n", blocks.join("\n\n"))
}

/// How many packets the rules of `chain` in our table of nftables whose text begins with `part` have counted together;
/// none if there is no such rule.
#[track_caller]
pub(crate) fn native_packets(netns: &Netns, family: Family, chain: &str, part: &str) -> Option<u64> {
    let listed = native(netns, family, &[]);
    let head = format!("chain {chain} {{");
    let lines = listed.lines().skip_while(|line| line.trim() != head).take_while(|line| line.trim() != "}");
    let counts = lines.filter_map(|line| line.trim().strip_prefix(part)?.split_once("counter packets "));
    let counts = counts.map(|(_, count)| {
        let packets = count.split(' ').next().and_then(|count| count.parse::<u64>().ok());
        packets.unwrap_or_else(|| panic!("no count in {listed}"))
    });
    counts.reduce(|one, other| one + other)
}

/// `iptables-save` with `args`, as it is.
#[track_caller]
pub(crate) fn save(netns: &Netns, variant: Variant, family: Family, args: &[&str]) -> String {
    Run::new(netns, &variant.program(family, "save"), args).ok()
}

/// How many packets the rules of `table` whose text holds `part` have counted together; none if there is no rule.
#[track_caller]
pub(crate) fn packets(
    netns: &Netns,
    variant: Variant,
    family: Family,
    table: &str,
    part: &str,
) -> Option<u64> {
    let saved = save(netns, variant, family, &["-c", "-t", table]);
    let counted = saved.lines().filter_map(|line| line.strip_prefix('[')?.split_once("] "));
    let counts = counted.filter(|(_, rule)| rule.contains(part)).map(|(counts, _)| {
        let packets = counts.split(':').next().and_then(|count| count.parse::<u64>().ok());
        packets.unwrap_or_else(|| panic!("no count in {saved}"))
    });
    counts.reduce(|one, other| one + other)
}

/// All rules with their packet and byte counters, and handles where there are any, for the question whether a run touched anything at all.
#[track_caller]
pub(crate) fn counted(netns: &Netns) -> String {
    let mut text = each(|variant, family| uncommented(&save(netns, variant, family, &["-c"])));
    for family in Family::BOTH {
        text.push_str(&native(netns, family, &["-a"]));
    }
    text
}

/// Everything in a namespace that `clean` must leave as it was: rules of both variants and families without
/// comments, counters and tables that hold nothing; tables of others in nftables; policy routing, routes and
/// addresses.
#[track_caller]
pub(crate) fn dump(netns: &Netns) -> String {
    await_addresses(netns);
    let mut text = each(|variant, family| held(&save(netns, variant, family, &[])));
    for table in native_tables(netns) {
        let words: Vec<_> = ["-s", "list", "table"].into_iter().chain(table.split(' ')).collect();
        let run = Run::new(netns, "nft", &words);
        // One that has gone since it was listed: somebody waits until things are as they were.
        if run.code == Some(1) && run.stderr.contains("No such file or directory") {
            continue;
        }
        let listed = run.ok();
        text.push_str(&if table.ends_with(" mesh_init") { in_order(&listed) } else { listed });
    }
    let questions =
        ["-4 rule", "-6 rule", "-4 route show table all", "-6 route show table all", "addr", "-d link"];
    for question in questions {
        let words: Vec<_> = question.split(' ').collect();
        let answer = Run::new(netns, "ip", &words).ok();
        let mut lines: Vec<_> = answer.lines().collect();
        if question.contains("route") {
            // Routes have no order of their own; the kernel shows them as they came.
            lines.sort_unstable();
        }
        writeln!(text, "== ip {question}\n{}\n", lines.join("\n")).expect("writing to a string");
    }
    text
}

/// Fails with the lines that differ.
#[track_caller]
pub(crate) fn assert_same(what: &str, expected: &str, seen: &str) {
    assert!(expected == seen, "{what}: expected no difference, seen\n{}", difference(expected, seen));
}

/// Fails when nothing differs.
#[track_caller]
pub(crate) fn assert_differs(what: &str, before: &str, after: &str) {
    assert!(before != after, "{what}: expected a difference, seen the same text again");
}

/// The lines of which one text has more than the other; both texts whole if only their order differs.
pub(crate) fn difference(expected: &str, seen: &str) -> String {
    let missing = surplus(expected, seen);
    let added = surplus(seen, expected);
    if missing.is_empty() && added.is_empty() {
        return format!("another order\n--- expected\n{expected}\n--- seen\n{seen}");
    }
    let lines =
        missing.iter().map(|line| format!("- {line}")).chain(added.iter().map(|line| format!("+ {line}")));
    lines.collect::<Vec<_>>().join("\n")
}

fn surplus<'a>(of: &'a str, over: &str) -> Vec<&'a str> {
    let mut rest: Vec<_> = over.lines().collect();
    let is_extra = |line: &&str| match rest.iter().position(|other| other == line) {
        Some(at) => {
            rest.swap_remove(at);
            false
        }
        None => true,
    };
    of.lines().filter(is_extra).collect()
}

/// The names of the legacy tables of a family that exist; looking does not create them.
pub(crate) fn legacy_tables(netns: &Netns, family: Family) -> String {
    let file = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    netns.run(|| std::fs::read_to_string(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn each(look: impl Fn(Variant, Family) -> String) -> String {
    let mut text = String::new();
    for variant in Variant::BOTH {
        for family in Family::BOTH {
            let program = variant.program(family, "");
            writeln!(text, "== {program}\n{}", look(variant, family)).expect("writing to a string");
        }
    }
    text
}

fn uncommented(saved: &str) -> String {
    saved.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

/// The tables of a save that hold something: a rule, a chain of somebody's, or a policy.
fn held(saved: &str) -> String {
    let plain = uncommented(saved);
    let tables = plain.split_inclusive("COMMIT\n");
    tables.map(without_counters).filter(|table| holds_something(table)).collect()
}

fn without_counters(table: &str) -> String {
    let line = |line: &str| match line.strip_prefix(':').and_then(|chain| chain.rsplit_once(" [")) {
        Some((chain, _)) => format!(":{chain}\n"),
        None => format!("{line}\n"),
    };
    table.lines().map(line).collect()
}

fn holds_something(table: &str) -> bool {
    let is_void = |line: &str| {
        line.is_empty()
            || line.starts_with('*')
            || line == "COMMIT"
            || line.starts_with(':') && line.ends_with(" ACCEPT")
    };
    !table.lines().all(is_void)
}

/// nftables tables that are not iptables-nft's, as `family name`.
fn native_tables(netns: &Netns) -> Vec<String> {
    let listed = Run::new(netns, "nft", &["list", "tables"]).ok();
    let names = listed.lines().filter_map(|line| line.strip_prefix("table "));
    names.filter(|table| !is_of_iptables(table)).map(ToOwned::to_owned).collect()
}

fn is_of_iptables(table: &str) -> bool {
    let tables = ["filter", "nat", "mangle", "raw", "security"];
    table
        .split_once(' ')
        .is_some_and(|(family, name)| ["ip", "ip6"].contains(&family) && tables.contains(&name))
}
