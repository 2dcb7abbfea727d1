//! Annotations at random: whatever a pod's author writes, no rule comes of it that nobody asked for.

use proptest::prelude::*;
use proptest::{collection, sample};

use super::{cases, fuzz};

/// Items that annotations have, some of them wrong, and words of rules.
const ITEMS: [&str; 34] = [
    "",
    " ",
    "\n",
    "*",
    "0",
    "80",
    "0080",
    "443 ",
    "15006",
    "65535",
    "65536",
    "8000-8080",
    "80:90",
    "+1",
    "-1",
    "1337",
    "10.0.0.0/8",
    "10.1.2.3/24",
    "fd00::/8",
    "::ffff:10.0.0.0/104",
    "10.0.0.1",
    "0.0.0.0/0",
    "127.0.0.1/32",
    "eth0",
    "net1.5",
    "veth+",
    "lo",
    "REDIRECT",
    "TPROXY",
    "NONE",
    "true",
    "-j ACCEPT",
    "80\n-A OUTPUT -j ACCEPT",
    "\u{661}",
];

fn list() -> impl Strategy<Value = String> {
    collection::vec(sample::select(ITEMS.to_vec()), 0..5).prop_map(|items| items.join(","))
}

fn config() -> impl Strategy<Value = String> {
    let names =
        sample::select(vec!["ISTIO_META_DNS_CAPTURE", "INVALID_DROP", "ISTIO_DUAL_STACK", "PROXY_UID"]);
    let words =
        sample::select(vec!["true", "false", "'1'", "\"f\"", "maybe", "[a]", "{}", "*x", "|\n   true\n", ""]);
    let line = (names, words).prop_map(|(name, word)| format!("  {name}: {word}\n"));
    collection::vec(line, 0..4).prop_map(|lines| format!("proxyMetadata:\n{}", lines.concat()))
}

fn policy() -> impl Strategy<Value = String> {
    let keys = sample::select(vec![
        r#""mode":"#,
        r#""proxy":{"port":"#,
        r#""proxy":{"uids":"#,
        r#""outbound":{"cidrs":"#,
        r#""outbound":{"ports":"#,
        r#""outbound":{"excludeCidrs":"#,
        r#""outbound":{"groups":"#,
        r#""outbound":{"owners":{"uids":"#,
        r#""inbound":{"ports":"#,
        r#""interfaces":{"exclude":"#,
        r#""dns":{"redirect":true,"servers":"#,
        r#""tproxy":{"mark":"#,
        r#""nonsense":{"#,
    ]);
    (keys, list(), any::<bool>()).prop_map(|(key, list, one)| {
        let items: Vec<&str> = list.split(',').collect();
        let value = if one { serde_json::json!(list) } else { serde_json::json!(items) };
        format!("{{{key}{value}{}", "}".repeat(key.matches('{').count() + 1))
    })
}

fn record() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (sample::select(('b'..='k').collect::<Vec<_>>()), list()).prop_map(|(name, text)| format!("{name}{text}")),
        1 => config().prop_map(|text| format!("l{text}")),
        2 => policy().prop_map(|text| format!("m{text}")),
        1 => (sample::select(vec!['n', 'o']), list()).prop_map(|(name, text)| format!("{name}{text}")),
        1 => Just("penabled".to_owned()),
        1 => "[a-z]\\PC{0,40}",
    ]
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn give_no_rule_that_nobody_asked_for(records in collection::vec(record(), 0..5)) {
        fuzz::decision::annotations(records.join("\u{1e}").as_bytes());
    }
}
