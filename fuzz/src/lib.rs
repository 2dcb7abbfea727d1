//! What the fuzz targets do with the bytes they are given, and what must hold whatever those are.
//!
//! The test binary `pure` compiles this file as well and replays `fuzz/seeds`: a crash that was found once goes
//! there and stays found.

#![allow(clippy::panic, reason = "a fuzz target and a test report by panicking")]
#![allow(unreachable_pub, reason = "the same file is the root of a crate and a module of the tests")]

pub mod call;
pub mod conflist;
pub mod decision;
pub mod grammar;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use mesh_init::backend::iptables::transcript::transcript;
use mesh_init::backend::iptables::{parse, render};
use mesh_init::backend::nftables::{Options, create, decode, normal, table as nftables_table};
use mesh_init::backend::{Observed, plan};
use mesh_init::cli::{self, Istio, Parsed, Verb};
use mesh_init::cni::conflist::request;
use mesh_init::eval::{Conn, Filter, Outcome, evaluate, sockets};
use mesh_init::input::istio as flags_of_istio;
use mesh_init::input::{Faults, Key, Origin, Raw, config as config_file, env_file as env_text};
use mesh_init::policy::istio as istio_meant;
use mesh_init::policy::settings::Variant;
use mesh_init::policy::validate::{self, Request};
use mesh_init::policy::{Facts, Families, Family, Layout, json};
use mesh_init::report::{Explained, Explanation, Form, Report, draw};
use mesh_init::rules::compile::compile;
use mesh_init::rules::{Chain, Protocol, RuleSet, Test, Verdict};

/// The most that all that is said about bad input may take: a megabyte that was given is not given back.
const TOLD: usize = 64 << 10;

/// What a target does with some bytes.
pub type Body = fn(&[u8]);

/// The bodies by the names of their targets, which are also the names of the folders of seeds.
pub const TARGETS: [(&str, Body); 12] = [
    ("flags", flags),
    ("istio_iptables", istio_iptables),
    ("env_file", env_file),
    ("config", config),
    ("iptables_save", iptables_save),
    ("connection", connection),
    ("nftables", nftables),
    ("netconf", decision::netconf),
    ("annotations", decision::annotations),
    ("conflist", conflist::conflist),
    ("cni_environment", call::environment),
    ("cni_arguments", call::arguments),
];

/// A command line, its words separated by NUL.
pub fn flags(data: &[u8]) {
    let words = data.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec()));
    match cli::parse(std::iter::once("mesh-init".into()).chain(words)) {
        Parsed::Call {
            verb: Verb::Apply | Verb::Plan { .. } | Verb::Verify { .. }, flags, faults, ..
        } => {
            judge(&flags, faults);
        }
        Parsed::Call {
            verb: Verb::Status | Verb::Clean | Verb::Confirm | Verb::Watch { .. },
            flags,
            faults,
            ..
        } => {
            if let Err(faults) = validate::settings(&flags, faults) {
                told(&faults);
            }
        }
        Parsed::Explain { asked, flags, faults } => {
            asked.connections.iter().for_each(|text| connection(text.as_bytes()));
            judge(&flags, faults);
        }
        Parsed::Trace { filter, flags, .. } => {
            if let Err(why) = filter.parse::<Filter>() {
                assert!(!why.is_empty(), "a fault without words");
            }
            if let Err(faults) = validate::settings(&flags, Faults::default()) {
                told(&faults);
            }
        }
        Parsed::Istio(given) => istio(&given, &[]),
        Parsed::Install(given) => told_if_wrong(request::install(&given, Some(Ok("{}".to_owned())))),
        Parsed::Uninstall(given) => told_if_wrong(request::uninstall(&given)),
        Parsed::Cni => {}
        Parsed::Answer(text) | Parsed::Misuse(text) => assert!(!text.is_empty(), "an answer without words"),
    }
}

/// A connection as people type it: what is read is told so that it is read again, and every policy decides it.
pub fn connection(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let conn = match text.parse::<Conn>() {
        Ok(conn) => conn,
        Err(why) => {
            assert!(!why.is_empty(), "refused without a reason: {text:?}");
            return assert!(why.len() < 8 << 10 && !why.contains(char::is_control), "{why:?}");
        }
    };
    assert_eq!(conn.to_string().parse().as_ref(), Ok(&conn), "told as {conn}");
    for words in [
        "",
        "--mode TPROXY --drop-invalid -k eth0",
        "--uid-owner 1000 -b 80",
        "-u 1337 --redirect-dns --dns-server 10.0.0.53 -b 80",
    ] {
        let Parsed::Call { flags, .. } =
            cli::parse(["mesh-init"].into_iter().chain(words.split_whitespace()).map(Into::into))
        else {
            panic!("{words}");
        };
        let request = validate::request(&flags, &Facts::default(), Faults::default()).expect("a policy");
        let rules = compile(&request.policy, request.layout, Families::Both);
        let decision = evaluate(&[&rules], &conn);
        assert_ne!(decision.outcome, Outcome::CannotTell, "rules of ours are understood: {words}, {conn}");
        let answers = vec![Explanation::of(&conn, &decision, |_| None)];
        let explained = Explained { answers, notes: Vec::new() };
        assert!(explained.text().contains(&conn.to_string()), "{conn}");
        for form in [Form::Mermaid, Form::Svg, Form::Dot] {
            assert!(!draw(&explained, form).is_empty(), "{conn}");
        }
    }
}

/// A call of `istio-iptables`: variables `NAME=value`, then the words of the command line, all separated by NUL.
pub fn istio_iptables(data: &[u8]) {
    let words: Vec<&[u8]> = data.split(|byte| *byte == 0).collect();
    let variable = |word: &&[u8]| !word.starts_with(b"-") && word.contains(&b'=');
    let variables = words.iter().take_while(|word| variable(word)).count();
    let (variables, words) = words.split_at(variables);
    let environment: Vec<(OsString, OsString)> = variables
        .iter()
        .filter_map(|word| {
            let (name, value) = word.split_at(word.iter().position(|byte| *byte == b'=')?);
            let value = value.strip_prefix(b"=")?;
            Some((OsString::from_vec(name.to_vec()), OsString::from_vec(value.to_vec())))
        })
        .collect();
    let words = words.iter().map(|word| OsString::from_vec(word.to_vec()));
    match cli::parse(std::iter::once("istio-iptables".into()).chain(words)) {
        Parsed::Istio(given) => istio(&given, &environment),
        Parsed::Answer(text) | Parsed::Misuse(text) => assert!(!text.is_empty(), "an answer without words"),
        other @ (Parsed::Call { .. }
        | Parsed::Explain { .. }
        | Parsed::Trace { .. }
        | Parsed::Install(_)
        | Parsed::Uninstall(_)
        | Parsed::Cni) => {
            panic!("called by its name it is {other:?}")
        }
    }
}

fn istio(given: &Istio, environment: &[(OsString, OsString)]) {
    let mut faults = Faults::default();
    let texts = |long: &str| given.flags.iter().find(|(of, _)| *of == long).map(|(_, texts)| texts.clone());
    let given_texts = flags_of_istio::parse(texts, environment, &mut faults);
    match istio_meant::call(&given_texts, given.extra.clone(), &facts(), faults) {
        Ok(call) => {
            let request = &call.request;
            assert_eq!(request.layout, Layout::IstioIptables, "upstream is meant to the letter");
            for warning in &request.warnings {
                assert!(!warning.contains(char::is_control), "a warning is one plain line: {warning:?}");
            }
            holds(request);
            for (families, v6) in [(Families::V4, false), (Families::Both, true)] {
                let text = transcript(&request.policy, request.layout, families);
                if let Err(problem) = grammar::check_transcript(v6, &text) {
                    panic!("{problem}\n{text}");
                }
            }
        }
        Err(faults) => told(&faults),
    }
}

/// An env file; the same text beside an owner, where more options have rules.
pub fn env_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for owner in [false, true] {
        let mut faults = Faults::default();
        let (mut raw, _) = env_text::parse("sidecar.env", text, &mut faults);
        if owner && !raw.has(Key::UidOwner) {
            raw.push(Key::UidOwner, "4242", Origin::Flag("uid-owner"));
        }
        judge(&raw, faults);
    }
}

/// A config file, read as JSON and as TOML.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for path in ["policy.json", "policy.toml"] {
        let mut faults = Faults::default();
        let raw = config_file::parse(path, text, &mut faults);
        judge(&raw, faults);
    }
}

/// What `iptables-save` prints, or somebody in its place; the lines of /proc/net/tcp are read from it as well.
pub fn iptables_save(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let sockets = sockets::parse(&text);
    assert!(sockets.len() <= text.lines().count(), "more sockets than lines");
    let Ok(rules) = parse::parse(Family::V4, &text) else { return };
    for rule in rules.chains.iter().flat_map(|chain| &chain.rules) {
        let opaque = matches!(rule.verdict, Verdict::Opaque(_))
            || rule.matches.iter().any(|condition| {
                // No tool prints ports of a protocol that is not the rule's, which only such a name could hide.
                matches!(condition.test, Test::Opaque(_) | Test::Protocol(Protocol::Other(_)))
            });
        let specs = render::specs(rule, Family::V4);
        assert_eq!(specs.len(), 1, "a rule that was read has sets of one: {rule:?}");
        for spec in specs.iter().filter(|_| !opaque) {
            // Rendered, declared and read again, it must be the same rule.
            let target = rule.target().map(|chain| format!(":{chain} - [0:0]\n")).unwrap_or_default();
            let again = format!("*nat\n{target}:HERE - [0:0]\n-A HERE {spec}\nCOMMIT\n");
            let again = parse::parse(Family::V4, &again);
            let seen = again.as_ref().ok().and_then(|rules| rules.chains.last()?.rules.first());
            assert!(seen.is_some_and(|seen| seen.same(rule)), "{rule:?}\nrendered {spec}\nread {again:?}");
        }
    }
    // Whatever is there, taking ours away is a plan, and each of its lines one of the text's own.
    let observed = Observed { rules: [(Variant::Nft, rules)].into(), ipv6: true, ..Observed::default() };
    for step in plan::plan(&RuleSet::default(), Variant::Nft, &observed).steps() {
        for line in step.text.lines().filter_map(|line| line.strip_prefix("-D ")) {
            assert!(text.contains(line), "{line:?} was not read anywhere");
        }
    }
}

/// What the kernel answers of nf_tables, or somebody in its place.
pub fn nftables(data: &[u8]) {
    let read = decode(data);
    let rules = read.rules.chains.iter().flat_map(|chain| &chain.rules);
    for rule in rules {
        let spec = rule.seen.as_ref().map_or("", |seen| seen.spec.as_str());
        assert!(spec.len() <= TOLD, "a rule is told in {} bytes", spec.len());
    }
    assert_eq!(read.handles.len(), read.rules.chains.len(), "each chain has its handles");
    let ours = |chain: &&Chain| chain.table == nftables_table();
    let chains = read.rules.chains.iter().filter(ours).cloned().collect();
    let again = RuleSet { chains, ..RuleSet::default() };
    // What of ours is understood is written as what is read as the same.
    if let Ok(bytes) = create(&again, Options { maps: true }).and_then(|batch| batch.bytes(None)) {
        let unseen = |rules: &RuleSet| normal(rules).chains;
        assert_eq!(unseen(&decode(&bytes).rules), unseen(&again), "written and read");
    }
}

/// Validates what was given; a policy must have rules of our grammar only and read back from its own JSON.
pub fn judge(raw: &Raw, faults: Faults) {
    match validate::request(raw, &facts(), faults) {
        Ok(request) => holds(&request),
        Err(faults) => told(&faults),
    }
}

fn facts() -> Facts {
    let ids = |names: &[(&str, u32)]| names.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect();
    Facts {
        users: ids(&[("root", 0), ("envoy", 1337)]),
        groups: ids(&[("root", 0), ("envoy", 1337)]),
        resolvers: vec![[127, 0, 0, 11].into(), [0xfd00, 0, 0, 0, 0, 0, 0, 10].into()],
        addresses: vec![[10, 0, 0, 5].into()],
    }
}

fn holds(request: &Request) {
    let Request { policy, layout, .. } = request;
    for (family, text) in plan::from_nothing(&compile(policy, *layout, Families::Both)) {
        if let Err(problem) = grammar::check(family, &text) {
            panic!("{problem}\n{text}");
        }
    }
    assert!(!policy.to_string().contains(char::is_control), "{policy}");
    assert_eq!(through_json(request).as_ref().map(|again| &again.policy), Ok(policy), "by way of JSON");
}

/// The request that the policy's JSON makes in the same layout.
///
/// # Errors
/// What is wrong with the JSON, which must be nothing.
pub fn through_json(request: &Request) -> Result<Request, Faults> {
    let mut faults = Faults::default();
    let mut raw = config_file::from_tree("policy.json", &json::to_json(&request.policy), &mut faults);
    raw.push(Key::Layout, request.layout.to_string(), Origin::Default);
    validate::request(&raw, &Facts::default(), faults)
}

fn told_if_wrong<T>(read: Result<T, Faults>) {
    if let Err(faults) = read {
        told(&faults);
    }
}

/// What is said about bad input: something, a line for a fault, in bounds.
fn told(faults: &Faults) {
    assert!(!faults.is_empty(), "refused without a fault");
    for fault in faults.list() {
        assert!(!fault.problem.is_empty() && !fault.remedy.is_empty(), "{fault:?}");
        let line = fault.to_string();
        assert!(!line.contains(char::is_control), "a fault is one plain line: {line:?}");
    }
    let length = faults.to_string().len();
    assert!(length <= TOLD, "{length} bytes are said about bad input");
}
