//! `docs/json.md` says what the program does: its examples are the golden files, its keys those of the table.

use std::collections::BTreeSet;
use std::path::Path;

use mesh_init::input::OPTIONS;
use serde_json::Value;

use super::json::golden;
use super::{folder, read};
use crate::cli::program::{Files, mesh_init};

fn document() -> String {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md"))
}

/// The fenced examples in `language`, each with the last line of text before it.
fn examples<'a>(text: &'a str, language: &str) -> Vec<(&'a str, &'a str)> {
    let fence = format!("```{language}\n");
    let parts: Vec<&str> = text.split(&fence).collect();
    let ends = parts.iter().skip(1).map(|part| part.split_once("```").expect("a fence that ends").0);
    let heads = parts.iter().map(|part| part.trim_end().lines().last().unwrap_or_default());
    heads.zip(ends).collect()
}

#[test]
fn every_example_is_a_golden_file_and_every_golden_file_an_example() {
    let text = document();
    let mut shown = BTreeSet::new();
    for (head, example) in examples(&text, "json") {
        let name = head.strip_prefix("<!-- tests/golden/json/").and_then(|name| name.strip_suffix(" -->"));
        let name = name.unwrap_or_else(|| panic!("expected the name of a golden file, seen {head:?}"));
        let seen: Value = serde_json::from_str(example).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected: Value = serde_json::from_str(&golden(name)).unwrap();
        assert_eq!(seen, expected, "{name}");
        shown.insert(name.to_owned());
    }
    let files = std::fs::read_dir(folder("json")).unwrap();
    let files: BTreeSet<String> =
        files.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(shown, files);
}

#[test]
fn the_example_in_toml_is_the_one_in_json() {
    let text = document();
    let examples = examples(&text, "toml");
    let files = Files::new();
    let toml = files.write("policy.toml", examples.first().expect("an example in TOML").1);
    let json = files.write("policy.json", golden("policy.json"));
    let plan = mesh_init(&["plan", "--config", &json, "--output", "json"]).ok();
    assert_eq!(mesh_init(&["plan", "--config", &toml, "--output", "json"]).ok(), plan);
}

#[test]
fn every_key_of_a_policy_has_a_row_with_its_flag_and_default() {
    let text = document();
    for opt in OPTIONS {
        let Some(key) = opt.config else { continue };
        let row = text.lines().find(|line| line.starts_with(&format!("| `{key}` |")));
        let row = row.unwrap_or_else(|| panic!("expected a row for {key}"));
        assert!(row.contains(&format!("`--{}`", opt.long)), "expected --{} in {row:?}", opt.long);
        assert_eq!(row.matches(" |").count(), 4, "expected key, flag, value and default in {row:?}");
        if let Some((_, default)) = opt.help.split_once("[default: ") {
            let default = default.trim_end_matches(']');
            let number = default.bytes().all(|byte| byte.is_ascii_digit());
            assert!(!number || row.contains(&format!("| {default} |")), "expected {default} in {row:?}");
        }
    }
    let rows = text.lines().filter(|line| line.starts_with("| `")).count();
    let keys = OPTIONS.iter().filter(|opt| opt.config.is_some()).count() + 1;
    assert_eq!(rows, keys, "a row for each key and one for `schema`");
}
