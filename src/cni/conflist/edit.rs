//! Edits of a list's text: exactly one entry of ours in it, or none. Every other byte stays.
//!
//! Our entry is put behind the last plugin. Where it stands already it stays, also in front of another vendor's
//! plugin that came later: the order of those behind the first does not matter to capture, and moving it would only
//! start a race with the other installer. In front of all others it cannot work (a chain's first plugin makes the
//! interface), so from there it is moved.

use serde_json::{Map, Value};

use super::load::{self, List, Plugin};
use super::style::{self, Style};

/// An entry of ours, as it shall stand in a chain.
pub type Entry = Map<String, Value>;

/// `text`, which is a list that loads, with exactly one entry of ours; the same text if it is so already.
///
/// # Errors
/// The text is no list with plugins of its own.
pub fn with(text: &str, entry: &Entry) -> Result<String, String> {
    let mut text = text.to_owned();
    loop {
        let list = load::list(&text)?;
        let items = list.items();
        // The one that stays: not in front of all others, unless it is alone.
        let kept = (1..items.len()).find(|n| items.get(*n).is_some_and(Plugin::is_ours));
        let spare =
            (0..items.len()).rfind(|n| items.get(*n).is_some_and(Plugin::is_ours) && Some(*n) != kept);
        let (kept, spare) = match (kept, spare) {
            (None, Some(spare)) if items.len() == 1 => (Some(spare), None),
            other => other,
        };
        match (spare, kept) {
            (Some(spare), _) => text = cut(&text, items, spare)?,
            (None, Some(kept)) => return Ok(replaced(&text, items, kept, entry)),
            (None, None) => return inserted(&text, &list, entry),
        }
    }
}

/// `text` without any entry of ours; `None` if nothing would be left in the list.
///
/// # Errors
/// The text is no list that loads.
pub fn without(text: &str) -> Result<Option<String>, String> {
    let mut text = text.to_owned();
    loop {
        let list = load::list(&text)?;
        let items = list.items();
        match items.iter().position(Plugin::is_ours) {
            None => return Ok(Some(text)),
            Some(_) if items.len() == 1 => return Ok(None),
            Some(at) => text = cut(&text, items, at)?,
        }
    }
}

/// The text of a drop-in.
#[must_use]
pub fn drop_in(entry: &Entry) -> String {
    format!("{}\n", style::plain().write(entry))
}

fn inserted(text: &str, list: &List, entry: &Entry) -> Result<String, String> {
    let (Some(inlined), Some(last)) = (&list.plugins, list.items().last()) else {
        return Err("has no plugins of its own".to_owned());
    };
    let style = style::of(text, &last.value);
    let before_last = list.items().iter().rev().nth(1);
    // What stands before the last plugin, behind the comma or the bracket, stands before ours too.
    let from = before_last.map_or(inlined.span.start + 1, |plugin| plugin.value.span.end);
    let before = text.get(from..last.value.span.start).unwrap_or_default();
    let gap = before.split_once(',').map_or(before, |(_, gap)| gap);
    let gap = if gap.is_empty() { style.gap() } else { gap };
    let at = last.value.span.end;
    let (head, tail) = text.split_at_checked(at).unwrap_or((text, ""));
    Ok(format!("{head},{gap}{}{tail}", style.write(entry)))
}

/// Ours in place of what stands at `at`, unless it says the same in another way.
fn replaced(text: &str, items: &[Plugin], at: usize, entry: &Entry) -> String {
    let Some(old) = items.get(at) else { return text.to_owned() };
    let span = old.value.span.clone();
    let said = text.get(span.clone()).and_then(|old| serde_json::from_str::<Value>(old).ok());
    if said.as_ref().and_then(Value::as_object) == Some(entry) {
        return text.to_owned();
    }
    let neighbour = items.iter().rev().find(|plugin| !plugin.is_ours()).unwrap_or(old);
    let style: Style = style::of(text, &neighbour.value);
    let (head, tail) = (text.get(..span.start).unwrap_or_default(), text.get(span.end..).unwrap_or_default());
    format!("{head}{}{tail}", style.write(entry))
}

/// Takes one item and one comma out: what stands between it and the item before it, or behind it if it is the first.
fn cut(text: &str, items: &[Plugin], at: usize) -> Result<String, String> {
    let span = |n: usize| items.get(n).map(|plugin| plugin.value.span.clone());
    let missing = || "has no such plugin".to_owned();
    let own = span(at).ok_or_else(missing)?;
    let range = match at.checked_sub(1) {
        Some(before) => span(before).ok_or_else(missing)?.end..own.end,
        None => own.start..span(1).ok_or_else(missing)?.start,
    };
    let (head, tail) =
        (text.get(..range.start).unwrap_or_default(), text.get(range.end..).unwrap_or_default());
    Ok(format!("{head}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(more: &str) -> Entry {
        let text = format!(r#"{{"type":"mesh-init","capabilities":{{"a":true}}{more}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[track_caller]
    fn edits(text: &str, expected: &str) {
        let seen = with(text, &entry("")).unwrap();
        assert_eq!(seen, expected);
        assert_eq!(with(&seen, &entry("")).unwrap(), seen, "twice");
        assert_eq!(without(&seen).unwrap().as_deref(), Some(text), "and back");
        // An older entry of ours is replaced in its place.
        let older = with(text, &entry(r#","selection":"all""#)).unwrap();
        assert_eq!(with(&older, &entry("")).unwrap(), expected, "replaced");
        assert_eq!(without(&older).unwrap().as_deref(), Some(text), "older and back");
    }

    #[test]
    fn the_neighbours_way_of_writing_is_ours() {
        edits(
            "{\n  \"name\": \"n\",\n  \"plugins\": [\n    {\n      \"type\": \"bridge\"\n    },\n    {\n      \"type\": \"portmap\"\n    }\n  ]\n}\n",
            "{\n  \"name\": \"n\",\n  \"plugins\": [\n    {\n      \"type\": \"bridge\"\n    },\n    {\n      \"type\": \"portmap\"\n    },\n    {\n      \"type\": \"mesh-init\",\n      \"capabilities\": {\n        \"a\": true\n      }\n    }\n  ]\n}\n",
        );
        edits(
            r#"{"name":"n","plugins":[{"type":"bridge"}]}"#,
            r#"{"name":"n","plugins":[{"type":"bridge"},{"type":"mesh-init","capabilities":{"a":true}}]}"#,
        );
        edits(
            r#"{ "name": "n", "plugins": [ { "type": "bridge" }, { "type": "portmap" } ] }"#,
            r#"{ "name": "n", "plugins": [ { "type": "bridge" }, { "type": "portmap" }, { "type": "mesh-init", "capabilities": { "a": true } } ] }"#,
        );
        edits(
            "{\r\n\t\"name\": \"n\",\r\n\t\"plugins\": [{\r\n\t\t\"type\": \"bridge\"\r\n\t}]\r\n}\r\n",
            "{\r\n\t\"name\": \"n\",\r\n\t\"plugins\": [{\r\n\t\t\"type\": \"bridge\"\r\n\t}, {\r\n\t\t\"type\": \"mesh-init\",\r\n\t\t\"capabilities\": {\r\n\t\t\t\"a\": true\r\n\t\t}\r\n\t}]\r\n}\r\n",
        );
        edits(
            "{\"plugins\":[ {\"type\":\"a,]}\"} ,\n\n {\"type\":\"b\"} \n] , \"name\":\"n\"}",
            "{\"plugins\":[ {\"type\":\"a,]}\"} ,\n\n {\"type\":\"b\"},\n\n {\"type\":\"mesh-init\",\"capabilities\":{\"a\":true}} \n] , \"name\":\"n\"}",
        );
    }

    #[test]
    fn ours_stays_where_it_is_and_is_there_once() {
        let list = |types: &[&str]| {
            let items: Vec<String> = types.iter().map(|kind| format!(r#"{{"type":"{kind}"}}"#)).collect();
            format!(r#"{{"name":"n","plugins":[{}]}}"#, items.join(", "))
        };
        let entry: Entry = serde_json::from_str(r#"{"type":"mesh-init"}"#).unwrap();
        for (before, after) in [
            (&["bridge", "mesh-init", "istio-cni"][..], &["bridge", "mesh-init", "istio-cni"][..]),
            (&["mesh-init", "bridge"], &["bridge", "mesh-init"]),
            (&["mesh-init", "bridge", "mesh-init"], &["bridge", "mesh-init"]),
            (&["bridge", "mesh-init", "portmap", "mesh-init"], &["bridge", "mesh-init", "portmap"]),
            (&["mesh-init"], &["mesh-init"]),
            (&["mesh-init", "mesh-init"], &["mesh-init"]),
        ] {
            let seen = with(&list(before), &entry).unwrap();
            let kinds: Vec<String> =
                load::list(&seen).unwrap().items().iter().map(|p| p.kind.clone()).collect();
            assert_eq!(kinds, after, "{before:?}");
            let foreign: Vec<&str> = before.iter().copied().filter(|kind| *kind != "mesh-init").collect();
            let left = without(&list(before)).unwrap();
            assert_eq!(left, (!foreign.is_empty()).then(|| list(&foreign)), "{before:?}");
        }
    }
}
