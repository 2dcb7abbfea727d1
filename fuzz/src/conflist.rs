//! A configuration of a CNI runtime, whatever is in it: what loads is joined and left again byte for byte.

use mesh_init::cni::conflist::edit::{self, Entry};
use mesh_init::cni::conflist::join::{Asked, How, join};
use mesh_init::cni::conflist::leave::leave;
use mesh_init::cni::conflist::request::DropIn;
use mesh_init::cni::conflist::{Change, Folder, Runtime, choose, load, scan};
use serde_json::{Value, json};

/// Our entry in two versions.
fn entry(older: bool) -> Entry {
    let text = match older {
        true => r#"{"type":"mesh-init","selection":"all","policy":{"a":[1,{"b":null}]}}"#,
        false => r#"{"type":"mesh-init","capabilities":{"io.kubernetes.cri.pod-annotations":true}}"#,
    };
    serde_json::from_str(text).expect("an object")
}

/// A text as the only list, and as the only single plugin, of a folder.
pub fn conflist(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let known = serde_json::from_str::<Value>(text);
    assert_eq!(scan::scan(text).is_ok(), known.is_ok(), "the scanner and serde_json differ: {known:?}");
    for file in ["10-a.conflist", "10-a.conf"] {
        joined_and_left(file, text);
    }
    let Ok(list) = load::list(text) else { return };
    if list.plugins.is_some() {
        edited(text, &known.expect("what loads is JSON"));
    }
}

/// The kinds of a value's plugins.
fn plugins(value: &Value) -> &[Value] {
    value.get("plugins").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// By its kind alone: in a list its own version says nothing, and may be none.
fn is_ours(plugin: &Value) -> bool {
    let mut plugin = plugin.clone();
    if let Some(keys) = plugin.as_object_mut() {
        keys.retain(|key, _| !key.to_ascii_lowercase().starts_with("cniversion"));
    }
    load::single(&plugin.to_string()).is_ok_and(|single| single.plugin.is_ours())
}

/// Edits change what they are to change in the value, and nothing else in the text.
fn edited(text: &str, value: &Value) {
    let with = edit::with(text, &entry(false)).expect("a list can be joined");
    assert_eq!(edit::with(&with, &entry(false)).as_ref(), Ok(&with), "again is no change");
    let foreign =
        |value: &Value| plugins(value).iter().filter(|of| !is_ours(of)).cloned().collect::<Vec<_>>();
    let now: Value = serde_json::from_str(&with).expect("what was edited is JSON");
    assert_eq!(foreign(&now), foreign(value), "others' plugins, in their order");
    let ours: Vec<&Value> = plugins(&now).iter().filter(|of| is_ours(of)).collect();
    assert_eq!(ours, [&json!(entry(false))], "ours, once");
    let rest = |value: &Value| {
        let mut value = value.clone();
        value.as_object_mut().expect("a list is an object").remove("plugins");
        value
    };
    assert_eq!(rest(&now), rest(value), "all other keys");
    let without = edit::without(text).expect("a list can be left");
    if foreign(value).is_empty() {
        return assert_eq!(without, None, "a list may not be left empty");
    }
    assert_eq!(edit::without(&with), Ok(without.clone()), "joined and left is left");
    if foreign(value).len() == plugins(value).len() {
        assert_eq!(without.as_deref(), Some(text), "nothing of ours was there");
    }
    // An older entry is replaced where it stands.
    let older = edit::with(text, &entry(true)).expect("a list can be joined");
    let newer = edit::with(&older, &entry(false)).expect("a list can be joined");
    assert_eq!(serde_json::from_str::<Value>(&newer).expect("JSON"), now, "replaced");
    assert_eq!(edit::without(&newer), Ok(without), "replaced and left");
}

/// Carries changes out on the folder's picture.
fn perform(folder: &mut Folder, changes: &[Change]) {
    for Change { file, before, after, like: _ } in changes {
        let files = if file.contains('/') { &mut folder.drop_ins } else { &mut folder.files };
        let there = files.get(file).map(|text| text.clone().expect("it was read"));
        assert_eq!(&there, before, "{file} is as it was read");
        match after {
            Some(after) => drop(files.insert(file.clone(), Ok(after.clone()))),
            None => drop(files.remove(file)),
        }
    }
}

fn joined_and_left(file: &str, text: &str) {
    let before = Folder { files: [(file.to_owned(), Ok(text.to_owned()))].into(), ..Folder::default() };
    let loads = choose::load(&before, file).is_ok();
    for (drop_in, older) in [(DropIn::Auto, true), (DropIn::Auto, false), (DropIn::Always, false)] {
        let asked = |older| Asked {
            chain: None,
            runtime: Runtime::Containerd,
            drop_in,
            reads_drop_ins: None,
            entry: entry(older),
        };
        let mut folder = before.clone();
        match join(&folder, &asked(older)) {
            Err(unjoined) => {
                assert!(!unjoined.error.problem.is_empty());
                assert_eq!(unjoined.passing, !loads, "{}", unjoined.error);
                continue;
            }
            Ok(joined) => {
                assert!(loads, "joined what does not load");
                perform(&mut folder, &joined.changes);
            }
        }
        let joined = join(&folder, &asked(false)).expect("what was joined can be joined again");
        perform(&mut folder, &joined.changes);
        let again = join(&folder, &asked(false)).expect("what was joined can be joined again");
        assert_eq!(again.changes, [], "again is no change");
        // The runtime comes to our entry, in the same network.
        let chosen = choose::choose(&folder, Runtime::Containerd, None).expect("it still loads");
        assert_eq!(chosen.network(), joined.network);
        let ours = match joined.how {
            How::DropIn => folder.drop_ins_of(&joined.network).any(|(_, text)| {
                text.as_ref().is_ok_and(|text| load::single(text).is_ok_and(|single| single.plugin.is_ours()))
            }),
            How::Inline | How::Wrapped => {
                matches!(&chosen.form, choose::Form::List(list) if list.has_ours())
                    && chosen.file == joined.file
            }
        };
        assert!(ours, "{joined:?} in {folder:?}");
        let left = leave(&folder);
        let had_ours = |before: &Folder| !leave(before).changes.is_empty();
        if had_ours(&before) {
            continue;
        }
        assert_eq!(left.blocked, Vec::<String>::new());
        perform(&mut folder, &left.changes);
        assert_eq!(folder, before, "joined and left");
    }
}
