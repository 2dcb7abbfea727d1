//! Configurations of CNI runtimes, written in every way that JSON allows: what is joined and left again is the same
//! text, and in between it says the same and ours.

use mesh_init::cni::conflist::{edit, load, scan};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::{cases, fuzz};

/// White space of every kind, mostly what people and programs write.
fn space() -> impl Strategy<Value = &'static str> {
    let odd = select(vec!["\t", "\r\n", "\n\n\n", " \n ", "\r", "   ", "\n\t\t"]);
    prop_oneof![4 => Just(""), 3 => Just(" "), 2 => Just("\n    "), 2 => odd]
}

fn text() -> impl Strategy<Value = String> {
    let plain = select(vec![
        "bridge",
        "portmap",
        "mesh-init",
        "",
        "a,]}",
        "{[\"",
        "\\",
        "é\u{10ffff}",
        "\n",
        "plugins",
    ]);
    prop_oneof![3 => plain.prop_map(str::to_owned), 1 => any::<String>()]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i32>().prop_map(|n| Value::from(f64::from(n) / 8.0)),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(text(), inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

/// With us among them, or without.
fn plugin(ours: bool) -> impl Strategy<Value = Value> {
    let foreign = ["bridge", "calico", "portmap", "istio-cni"];
    let kinds = select(foreign.into_iter().chain(ours.then_some("mesh-init")).collect::<Vec<_>>());
    let more = prop::collection::btree_map("[a-z]{6,9}", value(), 0..3);
    (kinds, more, any::<bool>()).prop_map(|(kind, more, first)| {
        let mut plugin = serde_json::Map::new();
        if first {
            plugin.insert("type".to_owned(), json!(kind));
        }
        plugin.extend(more);
        plugin.insert("type".to_owned(), json!(kind));
        Value::Object(plugin)
    })
}

fn list(ours: bool) -> impl Strategy<Value = Value> {
    let more = prop::collection::btree_map("[a-z]{6}", value(), 0..3);
    let version = select(vec!["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    (prop::collection::vec(plugin(ours), 1..5), more, version, 0..3_usize).prop_map(
        |(plugins, more, version, at)| {
            let mut list: Vec<(String, Value)> = more.into_iter().collect();
            list.insert(at.min(list.len()), ("plugins".to_owned(), json!(plugins)));
            list.insert(at.min(list.len()), ("name".to_owned(), json!("net")));
            list.push(("cniVersion".to_owned(), json!(version)));
            Value::Object(list.into_iter().collect())
        },
    )
}

/// Writes `value` with white space of `spaces`, one after the other, wherever JSON allows some.
fn written(value: &Value, spaces: &mut impl Iterator<Item = &'static str>, out: &mut String) {
    let gap = |out: &mut String, spaces: &mut dyn Iterator<Item = &'static str>| {
        out.push_str(spaces.next().unwrap_or_default());
    };
    gap(out, spaces);
    match value {
        Value::Array(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                out.push_str(if n > 0 { "," } else { "" });
                written(item, spaces, out);
            }
            if items.is_empty() {
                gap(out, spaces);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (n, (key, value)) in members.iter().enumerate() {
                out.push_str(if n > 0 { "," } else { "" });
                written(&json!(key), spaces, out);
                out.push(':');
                written(value, spaces, out);
            }
            if members.is_empty() {
                gap(out, spaces);
            }
            out.push('}');
        }
        leaf @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => {
            out.push_str(&leaf.to_string())
        }
    }
    gap(out, spaces);
}

fn document(ours: bool) -> impl Strategy<Value = (Value, String)> {
    (list(ours), prop::collection::vec(space(), 1..40)).prop_map(|(list, spaces)| {
        let mut text = String::new();
        written(&list, &mut spaces.iter().copied().cycle(), &mut text);
        (list, text)
    })
}

fn entry() -> edit::Entry {
    serde_json::from_str(r#"{"type":"mesh-init","capabilities":{"io.kubernetes.cri.pod-annotations":true}}"#)
        .unwrap()
}

fn kinds(value: &Value) -> Vec<&str> {
    value["plugins"].as_array().unwrap().iter().filter_map(|plugin| plugin["type"].as_str()).collect()
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn joined_and_left_is_the_same_text((list, text) in any::<bool>().prop_flat_map(document)) {
        prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), list.clone());
        fuzz::conflist::conflist(text.as_bytes());
        if kinds(&list).contains(&"mesh-init") {
            return Ok(());
        }
        let with = edit::with(&text, &entry()).map_err(TestCaseError::fail)?;
        let mut expected = list;
        expected["plugins"].as_array_mut().unwrap().push(json!(entry()));
        prop_assert_eq!(serde_json::from_str::<Value>(&with).unwrap(), expected);
        prop_assert_eq!(edit::without(&with), Ok(Some(text.clone())));
        // One place is new, and all before and behind it is as it was.
        let same = with.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
        let end = &text[text.len() - text.bytes().rev().zip(with.bytes().rev()).take_while(|(a, b)| a == b).count()..];
        prop_assert!(same + end.len() >= text.len(), "{text}\n{with}");
    }

    /// What another vendor adds between our coming and going stays.
    #[test]
    fn edits_of_others_in_between_stay((list, text) in document(false), more in plugin(false), front in any::<bool>()) {
        let with = edit::with(&text, &entry()).map_err(TestCaseError::fail)?;
        let seen = load::list(&with).map_err(TestCaseError::fail)?;
        let items = seen.items();
        let theirs = if front {
            let at = items[0].value.span.start;
            format!("{}{more}, {}", &with[..at], &with[at..])
        } else {
            let at = items.last().unwrap().value.span.end;
            format!("{} ,{more}{}", &with[..at], &with[at..])
        };
        let left = edit::without(&theirs).map_err(TestCaseError::fail)?.unwrap();
        let mut expected = list;
        let plugins = expected["plugins"].as_array_mut().unwrap();
        plugins.insert(if front { 0 } else { plugins.len() }, more);
        prop_assert_eq!(serde_json::from_str::<Value>(&left).unwrap(), expected);
        prop_assert_eq!(load::list(&edit::with(&theirs, &entry()).unwrap()).unwrap().items().len(), items.len() + 1);
    }

    /// The scanner and serde_json agree about texts that are nearly JSON too.
    #[test]
    fn broken_text_is_refused((_, text) in document(true), at in any::<Index>(), with in select(vec!["", ",", "]", "}", "\"", "\\", "1e", "\u{0}", "{", "nul", "\u{feff}"]), cut in 0..3_usize) {
        let bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let n = at.index(bounds.len());
        let (from, to) = (bounds[n], bounds[(n + cut).min(bounds.len() - 1)]);
        let broken = format!("{}{with}{}", &text[..from], &text[to..]);
        prop_assert_eq!(scan::scan(&broken).is_ok(), serde_json::from_str::<Value>(&broken).is_ok(), "{}", broken);
        fuzz::conflist::conflist(broken.as_bytes());
    }
}
