//! A rule's expressions, followed from register to register.

use std::collections::BTreeMap;

use super::expr::{self, Expr, Field};
use super::field::{Meaning, Wanted, ports_of, stands_on};
use super::set::{Entry, Held, Name};
use crate::backend::nftables::abi::{
    NF_ACCEPT, NF_DROP, NF_NAT_RANGE_PROTO_SPECIFIED, NFT_CMP_EQ, NFT_CMP_GTE, NFT_CMP_LTE, NFT_CMP_NEQ,
    NFT_CONTINUE, NFT_CT_MARK, NFT_CT_ZONE, NFT_GOTO, NFT_JUMP, NFT_META_L4PROTO, NFT_META_MARK,
    NFT_NAT_DNAT, NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER, NFT_RETURN,
    NFTA_RULE_EXPRESSIONS, NFTA_RULE_HANDLE, NFTA_RULE_USERDATA,
};
use crate::backend::nftables::encode::rule::{addresses, protocol_in, protocol_of};
use crate::backend::nftables::interval::{Interval, cidrs};
use crate::backend::nftables::set::Code;
use crate::backend::nftables::wire::Attributes;
use crate::backend::nftables::{comment, nfproto, text, vmap};
use crate::policy::{Family, Mark, Port};
use crate::rules::{Match, Place, Rule, Seen, Test, Verdict};

/// Where a rule stands, and for which packets it is read.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// The packets' family.
    pub family: Family,
    /// The table's (`NFPROTO_*`).
    pub of: u8,
    /// The table's name.
    pub table: &'a str,
    /// All sets.
    pub sets: &'a BTreeMap<Name, Held>,
}

/// A rule, and the kernel's number of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The rule.
    pub rule: Rule,
    /// Its number.
    pub handle: u64,
    /// It is a TPROXY, and what that leaves is not dropped.
    pub waits: bool,
}

fn alike(one: &Rule, other: &Rule) -> bool {
    one.matches == other.matches && one.comment == other.comment
}

/// What a register holds.
#[derive(Debug, Clone)]
enum Content {
    Field(Field, Option<Vec<u8>>),
    Value(Vec<u8>),
}

/// A condition while it is read.
#[derive(Debug, Clone)]
enum Asked {
    Of(Field, bool, Wanted),
    Opaque(String),
}

/// What a rule does, step by step.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Done {
    Verdict(Verdict),
    /// Beside it the register's field, and the map.
    Map(String),
    Tproxy(Port),
}

/// An interval of keys as a test.
type Member = fn(Family, Interval) -> Option<Test>;

/// Expressions that change nothing and let every packet on.
const HARMLESS: [&str; 3] = ["log", "last", "counter"];
/// Expressions that put something into a register that is not followed.
const LOADS: [&str; 14] = [
    "bitwise",
    "byteorder",
    "exthdr",
    "numgen",
    "hash",
    "osf",
    "socket",
    "rt",
    "xfrm",
    "tunnel",
    "inner",
    "meta",
    "ct",
    "fib",
];
/// Expressions that do something.
const DEEDS: [&str; 13] = [
    "reject",
    "masq",
    "queue",
    "dup",
    "fwd",
    "synproxy",
    "notrack",
    "target",
    "flow_offload",
    "payload",
    "redir",
    "nat",
    "tproxy",
];

#[derive(Default)]
struct Reader {
    registers: BTreeMap<usize, Content>,
    /// The last expression that was not followed.
    unfollowed: String,
    asked: Vec<Asked>,
    done: Vec<Done>,
    /// A condition came after something was done: what follows is not read.
    mixed: bool,
    /// What a map is asked about: the fields that stand one behind the other.
    mapped: Vec<Field>,
    counted: (u64, u64),
}

impl Scene<'_> {
    /// Reads a rule's message and adds what it comes to; nothing if no packet of the family can fulfil it. The names
    /// of the sets that it looks into.
    pub fn read(&self, message: Attributes<'_>, rules: &mut Vec<Taken>) -> Vec<String> {
        let handle = message.u64(NFTA_RULE_HANDLE).unwrap_or(0);
        let comment = message.get(NFTA_RULE_USERDATA).and_then(comment::read);
        let mut reader = Reader::default();
        let mut sets = Vec::new();
        for expression in expr::parse(message.nest(NFTA_RULE_EXPRESSIONS)) {
            if let Expr::Lookup { set, .. } = &expression {
                sets.push(set.clone());
            }
            reader.step(self, expression);
        }
        for asked in self.each_protocol(reader.asked.clone()) {
            let Some(matches) = self.matches(&asked) else { continue };
            self.take(&reader, matches, comment.clone(), handle, rules);
        }
        sets
    }

    /// Adds what the rule comes to under these conditions.
    fn take(
        &self,
        reader: &Reader,
        matches: Vec<Match>,
        comment: Option<String>,
        handle: u64,
        rules: &mut Vec<Taken>,
    ) {
        let base =
            Rule { id: None, matches, verdict: Verdict::Continue, comment, place: Place::Last, seen: None };
        let read = match reader.done.as_slice() {
            [Done::Map(map)] if !reader.mixed => self
                .expand(&base, map, &reader.mapped)
                .or_else(|| self.joined_keys(&base, map, &reader.mapped)),
            _ => None,
        };
        let read = read.unwrap_or_else(|| vec![Rule { verdict: reader.verdict(), ..base }]);
        for mut rule in read {
            rule.id = rule.comment.as_deref().and_then(comment::id_of);
            let spec = text::rule(self.family, &rule);
            let (packets, bytes) = rule.seen.map_or(reader.counted, |seen| (seen.packets, seen.bytes));
            rule.seen = Some(Seen { spec, packets, bytes });
            // What TPROXY has left is dropped by the rule behind it: both are one.
            match rules.last_mut() {
                Some(last) if last.waits && rule.verdict == Verdict::Drop && alike(&last.rule, &rule) => {
                    last.waits = false;
                }
                _ => {
                    let waits = matches!(rule.verdict, Verdict::Tproxy { .. });
                    rules.push(Taken { rule, handle, waits });
                }
            }
        }
    }

    /// The model's rules name one protocol: one that names a set of them is a rule for each, which exclude each other.
    fn each_protocol(&self, asked: Vec<Asked>) -> Vec<Vec<Asked>> {
        let of_set = |asked: &Asked| match asked {
            Asked::Of(Field::Meta(NFT_META_L4PROTO), false, Wanted::In(set)) => self.entries(set, 1),
            Asked::Of(..) | Asked::Opaque(_) => None,
        };
        let found = asked.iter().enumerate().find_map(|(at, asked)| Some((at, of_set(asked)?)));
        let Some((at, entries)) = found else { return vec![asked] };
        let single = |(of, ..): &Entry<'_>| u8::try_from(of.first).ok().filter(|_| of.first == of.last);
        let Some(protocols) = entries.iter().map(single).collect::<Option<Vec<u8>>>() else {
            return vec![asked];
        };
        let named = |protocol: u8| {
            let mut asked = asked.clone();
            if let Some(Asked::Of(.., wanted)) = asked.get_mut(at) {
                *wanted = Wanted::Equal(None, vec![protocol]);
            }
            asked
        };
        protocols.into_iter().map(named).collect()
    }

    /// The tests that the conditions come to; `None` if no packet of the family fulfils them.
    fn matches(&self, asked: &[Asked]) -> Option<Vec<Match>> {
        let mut matches = Vec::new();
        for condition in asked {
            match condition {
                Asked::Opaque(text) => matches.push(Match::is(Test::Opaque(text.clone()))),
                Asked::Of(field, negated, wanted) => match self.meaning(*field, *negated, wanted) {
                    Some(Meaning::Always) => {}
                    Some(Meaning::Never) => return None,
                    Some(Meaning::These(tests)) => matches.extend(tests),
                    None => matches.push(Match::is(Test::Opaque(text::condition(*field, *negated, wanted)))),
                },
            }
        }
        let protocol = protocol_in(&matches).cloned();
        for condition in &mut matches {
            if !stands_on(&condition.test, protocol.as_ref()) {
                let said = text::test(self.family, None, condition);
                *condition = Match::is(Test::Opaque(said));
            }
        }
        Some(matches)
    }

    /// What a key of a map on that field asks for, and the key's length; `None` if it is neither port nor address.
    fn member(&self, base: &Rule, field: Field) -> Option<(Member, usize)> {
        let Field::Payload { base: header, offset, length } = field else { return None };
        let (source, destination, width) = addresses(self.family);
        let has_ports = stands_on(&Test::DestinationPort(Vec::new()), protocol_of(base));
        // In a table for both families it may be the beginning of an address of the other one.
        let own = self.of == nfproto(self.family) && length == width;
        let member: Member = match header {
            NFT_PAYLOAD_TRANSPORT_HEADER if has_ports && length == 2 && offset == 0 => {
                |_, interval| Some(Test::SourcePort(vec![ports_of(interval)?]))
            }
            NFT_PAYLOAD_TRANSPORT_HEADER if has_ports && length == 2 && offset == 2 => {
                |_, interval| Some(Test::DestinationPort(vec![ports_of(interval)?]))
            }
            NFT_PAYLOAD_NETWORK_HEADER if own && offset == source => {
                |family, interval| Some(Test::Source(cidrs(family, interval)))
            }
            NFT_PAYLOAD_NETWORK_HEADER if own && offset == destination => {
                |family, interval| Some(Test::Destination(cidrs(family, interval)))
            }
            _ => return None,
        };
        Some((member, usize::try_from(length).ok()?))
    }

    /// A look-up of a port or an address as the rules that it stands for; `None` if it is another, or the map is not
    /// known.
    fn expand(&self, base: &Rule, map: &str, fields: &[Field]) -> Option<Vec<Rule>> {
        let (test, length) = self.member(base, *fields.first()?)?;
        let mut rules = Vec::new();
        for (interval, code, userdata, [packets, bytes]) in self.entries(map, length)? {
            let mut rule = Rule { verdict: verdict(code?), ..base.clone() };
            rule.matches.push(Match::is(test(self.family, interval)?));
            rule.comment = comment::read(userdata).or(rule.comment);
            rule.id = rule.comment.as_deref().and_then(comment::id_of);
            rule.seen = Some(Seen { spec: String::new(), packets, bytes });
            rules.push(rule);
        }
        Some(vmap::together(self.family, &rules))
    }
}

impl Reader {
    fn step(&mut self, scene: &Scene<'_>, expression: Expr) {
        match expression {
            Expr::Load(to, field) => self.put(to, Content::Field(field, None)),
            Expr::Value(to, value) => self.put(to, Content::Value(value)),
            Expr::Mask { from, to, mask } => match self.registers.get(&from) {
                Some(Content::Field(field, None)) => {
                    let field = *field;
                    self.put(to, Content::Field(field, Some(mask)));
                }
                _ => self.lose("bitwise"),
            },
            Expr::Compare(register, op, value) => self.compare(register, op, value),
            Expr::Range { register, negated, from, to } => {
                self.ask(register, negated, |mask| mask.is_none().then_some(Wanted::Between(from, to)))
            }
            Expr::Lookup { set, register, negated, answer: None } => {
                self.ask(register, negated, |mask| mask.is_none().then_some(Wanted::In(set)));
            }
            Expr::Lookup { set, register, answer: Some(None), .. } => {
                self.mapped = self.joined(register);
                self.done.push(Done::Map(set));
            }
            Expr::Lookup { .. } => self.lose("lookup"),
            Expr::Verdict(code) if code.code == NFT_CONTINUE => {}
            Expr::Verdict(code) => self.done.push(Done::Verdict(verdict(&code))),
            Expr::Counter(packets, bytes) => self.counted = (packets, bytes),
            Expr::Store(field, from) => {
                let verdict = self.stored(field, from);
                self.done.push(Done::Verdict(verdict));
            }
            Expr::Redirect(min, max, flags) => {
                let plain = (max.is_none() || max == min) && flags & !NF_NAT_RANGE_PROTO_SPECIFIED == 0;
                let port = self.port(min).filter(|_| plain).map(Verdict::Redirect);
                self.done
                    .push(Done::Verdict(port.unwrap_or_else(|| Verdict::Opaque("expr redir".to_owned()))));
            }
            Expr::Tproxy(family, address, port) => {
                let known = [u32::from(nfproto(scene.family)), 0].contains(&family) && address.is_none();
                let done = match self.port(port).filter(|_| known) {
                    Some(port) => Done::Tproxy(port),
                    None => Done::Verdict(Verdict::Opaque("expr tproxy".to_owned())),
                };
                self.done.push(done);
            }
            Expr::Nat { kind, family, address, port, special } => {
                let known = kind == NFT_NAT_DNAT && family == u32::from(nfproto(scene.family)) && !special;
                let target = self.address(scene.family, address).zip(self.port(port)).filter(|_| known);
                let verdict = target.map(|(address, port)| Verdict::Dnat((address, port.number()).into()));
                self.done
                    .push(Done::Verdict(verdict.unwrap_or_else(|| Verdict::Opaque("expr nat".to_owned()))));
            }
            Expr::Other(name) if HARMLESS.contains(&name.as_str()) => {}
            Expr::Other(name) if LOADS.contains(&name.as_str()) => self.lose(&name),
            Expr::Other(name) if DEEDS.contains(&name.as_str()) => {
                self.done.push(Done::Verdict(Verdict::Opaque(format!("expr {name}"))));
            }
            Expr::Other(name) => {
                self.lose(&name);
                self.push(Asked::Opaque(format!("expr {name}")));
            }
        }
    }

    /// The fields that stand one behind the other from a register on.
    fn joined(&self, mut register: usize) -> Vec<Field> {
        let mut fields = Vec::new();
        while let Some(Content::Field(field, None)) = self.registers.get(&register) {
            fields.push(*field);
            register += field.registers();
        }
        fields
    }

    /// A register is written; what overlaps it is gone. Addresses and names take four of the small ones.
    fn put(&mut self, to: usize, content: Content) {
        let size = |content: &Content| match content {
            Content::Field(field, _) => field.registers(),
            Content::Value(value) => value.len().div_ceil(4),
        };
        let end = to + size(&content);
        self.registers.retain(|from, old| *from >= end || *from + size(old) <= to);
        self.registers.insert(to, content);
    }

    fn lose(&mut self, name: &str) {
        self.registers.clear();
        self.unfollowed = name.to_owned();
    }

    fn push(&mut self, asked: Asked) {
        self.mixed |= !self.done.is_empty();
        if !self.mixed {
            self.asked.push(asked);
        }
    }

    fn ask(
        &mut self,
        register: usize,
        negated: bool,
        wanted: impl FnOnce(Option<Vec<u8>>) -> Option<Wanted>,
    ) {
        let asked = match self.registers.get(&register) {
            Some(Content::Field(field, mask)) => match wanted(mask.clone()) {
                Some(wanted) => Asked::Of(*field, negated, wanted),
                None => Asked::Opaque(format!("{} & mask", text::field(*field))),
            },
            Some(Content::Value(_)) | None => Asked::Opaque(format!("expr {}", self.unfollowed)),
        };
        self.push(asked);
    }

    fn compare(&mut self, register: usize, op: u32, value: Vec<u8>) {
        match op {
            NFT_CMP_EQ | NFT_CMP_NEQ => {
                self.ask(register, op == NFT_CMP_NEQ, |mask| Some(Wanted::Equal(mask, value)));
            }
            _ => self.ask(register, false, |mask| mask.is_none().then_some(Wanted::Beyond(op, value))),
        }
        // `>= a`, then `<= b` of the same.
        if let [
            ..,
            Asked::Of(one, _, Wanted::Beyond(NFT_CMP_GTE, from)),
            Asked::Of(other, _, Wanted::Beyond(NFT_CMP_LTE, to)),
        ] = self.asked.as_slice()
            && one == other
        {
            let both = Asked::Of(*one, false, Wanted::Between(from.clone(), to.clone()));
            self.asked.truncate(self.asked.len() - 2);
            self.asked.push(both);
        }
    }

    fn value(&self, register: Option<usize>) -> Option<&[u8]> {
        match self.registers.get(&register?)? {
            Content::Value(value) => Some(value),
            Content::Field(..) => None,
        }
    }

    fn port(&self, register: Option<usize>) -> Option<Port> {
        self.value(register)?.try_into().ok().map(u16::from_be_bytes).and_then(Port::of)
    }

    fn address(&self, family: Family, register: Option<usize>) -> Option<std::net::IpAddr> {
        let value = self.value(register)?;
        match family {
            Family::V4 => <[u8; 4]>::try_from(value).ok().map(Into::into),
            Family::V6 => <[u8; 16]>::try_from(value).ok().map(Into::into),
        }
    }

    fn stored(&self, field: Field, from: usize) -> Verdict {
        let value = self.value(Some(from)).unwrap_or_default();
        let mark = value.try_into().ok().map(|mark| Mark(u32::from_ne_bytes(mark)));
        let zone = value.try_into().ok().map(u16::from_ne_bytes);
        let known = match (field, self.registers.get(&from)) {
            (Field::Meta(NFT_META_MARK), Some(Content::Field(Field::Ct(NFT_CT_MARK, None), None))) => {
                Some(Verdict::RestoreMark)
            }
            (Field::Ct(NFT_CT_MARK, None), Some(Content::Field(Field::Meta(NFT_META_MARK), None))) => {
                Some(Verdict::SaveMark)
            }
            (Field::Meta(NFT_META_MARK), _) => mark.map(Verdict::SetMark),
            (Field::Ct(NFT_CT_ZONE, None), _) => zone.map(Verdict::Zone),
            _ => None,
        };
        known.unwrap_or_else(|| Verdict::Opaque(format!("{} set", text::field(field))))
    }

    /// All that is done as one verdict.
    fn verdict(&self) -> Verdict {
        match self.done.as_slice() {
            [] => Verdict::Continue,
            [Done::Verdict(verdict)] if !self.mixed => verdict.clone(),
            [Done::Tproxy(port), Done::Verdict(Verdict::SetMark(mark)), Done::Verdict(Verdict::Accept)]
            | [Done::Verdict(Verdict::SetMark(mark)), Done::Tproxy(port), Done::Verdict(Verdict::Accept)]
                if !self.mixed =>
            {
                Verdict::Tproxy { port: *port, mark: *mark }
            }
            all => {
                let words = all.iter().map(|done| match done {
                    Done::Verdict(verdict) => text::verdict(verdict),
                    Done::Map(map) => match self.mapped.is_empty() {
                        true => format!("expr {} vmap @{map}", self.unfollowed),
                        false => {
                            let fields: Vec<_> = self.mapped.iter().copied().map(text::field).collect();
                            format!("{} vmap @{map}", fields.join(" . "))
                        }
                    },
                    Done::Tproxy(port) => format!("tproxy to :{port}"),
                });
                let mut words: Vec<String> = words.collect();
                if self.mixed {
                    words.push("and more".to_owned());
                }
                Verdict::Opaque(words.join(" "))
            }
        }
    }
}

pub(super) fn verdict(code: &Code) -> Verdict {
    match (code.code, &code.chain) {
        (NF_ACCEPT, _) => Verdict::Accept,
        (NF_DROP, _) => Verdict::Drop,
        (NFT_RETURN, _) => Verdict::Return,
        (NFT_JUMP, Some(chain)) => Verdict::Jump(chain.clone()),
        (NFT_GOTO, Some(chain)) => Verdict::Goto(chain.clone()),
        (code, _) => Verdict::Opaque(format!("verdict {code}")),
    }
}
