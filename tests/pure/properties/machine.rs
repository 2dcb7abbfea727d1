//! A machine's tables in memory, changed by the text that `iptables-restore --noflush` takes and read as
//! `iptables-save` prints them. It refuses what iptables refuses, and then changes nothing.

use std::collections::BTreeMap;

use mesh_init::backend::iptables::parse::parse;
use mesh_init::backend::observed::Present;
use mesh_init::backend::{Observed, Plan, Restore};
use mesh_init::policy::Family;
use mesh_init::policy::settings::Variant;
use mesh_init::rules::{Routing, RuleSet, Table};

/// Targets that are no chains.
#[rustfmt::skip]
const TARGETS: [&str; 12] = [
    "ACCEPT", "DROP", "RETURN", "REDIRECT", "DNAT", "SNAT", "MASQUERADE", "MARK", "LOG", "CONNMARK", "TPROXY", "CT",
];
/// The built-in chains of every table.
const BUILTIN: [(&str, &[&str]); 4] = [
    ("raw", &["PREROUTING", "OUTPUT"]),
    ("mangle", &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]),
    ("nat", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
    ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
];

/// The table of a transaction, by its first line.
fn table_of(text: &str) -> Result<Table, String> {
    let name = text.split('\n').next().and_then(|line| line.strip_prefix("* "));
    let name = name.filter(|name| BUILTIN.iter().any(|(table, _)| table == name));
    name.map(Table::from).ok_or_else(|| format!("no table: {text}"))
}

/// One table of one family: its chains, by name, and their rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    name: &'static str,
    pub(super) chains: BTreeMap<String, Vec<String>>,
}

impl Content {
    fn new(name: &str) -> Content {
        let (name, builtin) = *BUILTIN.iter().find(|(table, _)| *table == name).expect("a table of iptables");
        Content { name, chains: builtin.iter().map(|chain| ((*chain).to_owned(), vec![])).collect() }
    }

    pub(super) fn builtin(&self) -> &'static [&'static str] {
        BUILTIN.iter().find(|(table, _)| *table == self.name).map_or(&[], |(_, builtin)| builtin)
    }

    /// One transaction: all of it or, with an error, nothing.
    pub(super) fn restore(&mut self, text: &str) -> Result<(), String> {
        let body = text.strip_prefix(&format!("* {}\n", self.name)).ok_or("another table")?;
        let body = body.strip_suffix("COMMIT\n").ok_or("no COMMIT at the end")?;
        let mut changed = self.clone();
        for line in body.lines() {
            changed.line(line).map_err(|problem| format!("{problem}: {line:?} in\n{text}{}", self.save()))?;
        }
        *self = changed;
        Ok(())
    }

    pub(super) fn line(&mut self, line: &str) -> Result<(), &'static str> {
        let mut words = line.splitn(3, ' ');
        let (command, chain) = words.next().zip(words.next()).ok_or("no command")?;
        let rest = words.next();
        match (command, rest) {
            ("-N", None) => {
                if self.chains.contains_key(chain) || TARGETS.contains(&chain) {
                    return Err("Chain already exists.");
                }
                self.chains.insert(chain.to_owned(), Vec::new());
                Ok(())
            }
            ("-F", None) => self.chain(chain).map(Vec::clear),
            ("-X", None) => {
                if self.builtin().contains(&chain) || !self.chain(chain)?.is_empty() {
                    return Err("Directory not empty.");
                }
                if self.chains.values().flatten().any(|rule| target(rule) == Some(chain)) {
                    return Err("Too many links.");
                }
                self.chains.remove(chain);
                Ok(())
            }
            ("-A", Some(rule)) => {
                self.has_target(rule)?;
                self.chain(chain)?.push(rule.to_owned());
                Ok(())
            }
            ("-I", Some(rest)) => {
                let (number, rule) = rest.split_once(' ').ok_or("no number")?;
                self.has_target(rule)?;
                let number: usize = number.parse().map_err(|_| "no number")?;
                let rules = self.chain(chain)?;
                if !(1..=rules.len() + 1).contains(&number) {
                    return Err("Index of insertion too big.");
                }
                rules.insert(number - 1, rule.to_owned());
                Ok(())
            }
            ("-D", Some(rule)) => {
                let rules = self.chain(chain)?;
                let at = rules.iter().position(|other| other == rule);
                rules.remove(at.ok_or("Bad rule (does a matching rule exist in that chain?).")?);
                Ok(())
            }
            (_, _) => Err("unknown command"),
        }
    }

    fn chain(&mut self, name: &str) -> Result<&mut Vec<String>, &'static str> {
        self.chains.get_mut(name).ok_or("No chain/target/match by that name.")
    }

    fn has_target(&self, rule: &str) -> Result<(), &'static str> {
        match target(rule) {
            Some(target) if !TARGETS.contains(&target) && !self.chains.contains_key(target) => {
                Err("Couldn't load target: No such file or directory")
            }
            Some(_) | None => Ok(()),
        }
    }

    /// As `iptables-save` prints it: built-in chains first, the others by name.
    pub(super) fn save(&self) -> String {
        let (builtin, own): (Vec<_>, Vec<_>) =
            self.chains.keys().partition(|name| self.builtin().contains(&name.as_str()));
        let mut text = format!("*{}\n", self.name);
        builtin.iter().for_each(|name| text.push_str(&format!(":{name} ACCEPT [3:180]\n")));
        own.iter().for_each(|name| text.push_str(&format!(":{name} - [0:0]\n")));
        for name in builtin.iter().chain(&own) {
            for rule in &self.chains[*name] {
                text.push_str(&format!("[1:60] -A {name} {rule}\n"));
            }
        }
        text + "COMMIT\n"
    }

    pub(super) fn rules(&self, family: Family) -> RuleSet {
        parse(family, &self.save()).expect("what is saved can be read")
    }
}

/// The chain or target that a rule goes to.
pub(super) fn target(rule: &str) -> Option<&str> {
    let at = rule.rfind(" -j ").or_else(|| rule.rfind(" -g ")).map(|at| at + 4);
    let at = at.or_else(|| rule.starts_with("-j ").then_some(3))?;
    rule[at..].split(' ').next()
}

/// All tables of both variants and families, and the routing; a table is there once something was put into it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) tables: BTreeMap<(Variant, Family, Table), Content>,
    /// Each with whether it carries our protocol number.
    pub(super) routing: BTreeMap<Routing, bool>,
}

impl Machine {
    pub(super) fn table(&mut self, variant: Variant, family: Family, table: &Table) -> &mut Content {
        let key = (variant, family, table.clone());
        self.tables.entry(key).or_insert_with(|| Content::new(table.as_str()))
    }

    /// One transaction of iptables-nft.
    pub(super) fn restore(&mut self, family: Family, text: &str) -> Result<(), String> {
        let table = table_of(text)?;
        self.table(Variant::Nft, family, &table).restore(text)
    }

    /// What iptables-nft holds.
    pub(super) fn rules(&self) -> RuleSet {
        self.observe().rules.remove(&Variant::Nft).unwrap_or_default()
    }

    pub(super) fn observe(&self) -> Observed {
        let priority = |what: &Routing| matches!(what, Routing::Rule { .. }).then_some(32765);
        let present =
            |(what, ours): (&Routing, &bool)| Present { what: *what, ours: *ours, priority: priority(what) };
        let routing = self.routing.iter().map(present).collect();
        let mut observed = Observed { ipv6: true, routing, ..Observed::default() };
        for ((variant, family, _), content) in &self.tables {
            observed.rules.entry(*variant).or_default().chains.extend(content.rules(*family).chains);
        }
        observed
    }

    pub(super) fn run(&mut self, step: &Restore) -> Result<(), String> {
        self.table(step.variant, step.family, &step.table).restore(&step.text)
    }

    pub(super) fn undo(&mut self, step: &Restore) -> Result<(), String> {
        self.table(step.variant, step.family, &step.table).restore(&step.undo)
    }

    pub(super) fn run_all(&mut self, plan: &Plan) -> Result<(), String> {
        self.route(&plan.routes)?;
        plan.steps().try_for_each(|step| self.run(step))?;
        self.unroute(&plan.unroutes)
    }

    /// Makes routing, which must not be there.
    pub(super) fn route(&mut self, routing: &[Present]) -> Result<(), String> {
        routing.iter().try_for_each(|present| match self.routing.insert(present.what, present.ours) {
            None => Ok(()),
            Some(_) => Err(format!("{}: File exists", present.what)),
        })
    }

    /// Takes routing away, which must be there.
    pub(super) fn unroute(&mut self, routing: &[Present]) -> Result<(), String> {
        routing.iter().try_for_each(|present| match self.routing.remove(&present.what) {
            Some(_) => Ok(()),
            None => Err(format!("{}: No such process", present.what)),
        })
    }
}

#[test]
fn every_table_is_its_own() {
    let mut machine = Machine::default();
    for table in ["raw", "mangle", "nat", "filter"] {
        let text = format!("* {table}\n-N A\n-A OUTPUT -j A\nCOMMIT\n");
        machine.restore(Family::V4, &text).unwrap();
        assert!(machine.restore(Family::V4, &text).is_err(), "the chain is there");
    }
    assert!(machine.restore(Family::V4, "* raw\n-A INPUT -j A\nCOMMIT\n").is_err(), "raw has no INPUT");
    assert!(machine.restore(Family::V4, "* security\nCOMMIT\n").is_err());
    assert_eq!(machine.rules().chains.iter().filter(|chain| !chain.rules.is_empty()).count(), 4);
}

#[test]
fn it_refuses_what_iptables_refuses() {
    let mut nat = Content::new("nat");
    nat.restore("* nat\n-N A\n-N B\n-A A -p tcp -j B\n-A OUTPUT -j A\nCOMMIT\n").unwrap();
    let before = nat.clone();
    for line in [
        "-N A",
        "-N OUTPUT",
        "-N ACCEPT",
        "-F C",
        "-X A",
        "-X B",
        "-X OUTPUT",
        "-A C -j ACCEPT",
        "-A A -j C",
        "-I A 3 -j B",
        "-I A 0 -j B",
        "-D A -j B",
        "-P A DROP",
    ] {
        assert!(nat.restore(&format!("* nat\n-A B -j ACCEPT\n{line}\nCOMMIT\n")).is_err(), "{line}");
        assert_eq!(nat, before, "{line}: all or nothing");
    }
    assert!(nat.restore("* filter\nCOMMIT\n").is_err());
    assert!(nat.restore("* nat\n-N C\n").is_err());
    nat.restore("* nat\n-D A -p tcp -j B\n-X B\n-F OUTPUT\n-X A\n-I OUTPUT 1 -j ACCEPT\nCOMMIT\n").unwrap();
    assert_eq!(nat.chains["OUTPUT"], ["-j ACCEPT"]);
}
