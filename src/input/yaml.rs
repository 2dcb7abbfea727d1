//! YAML 1.2, as far as manifests and annotations use it: into the tree that JSON makes.
//!
//! Aliases are refused, since with them a kilobyte of text can mean a gigabyte, and so are tags but `!!str`. No key
//! stands twice.

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Map, Value};

use super::fault::{plain, quote};

/// How deep a tree may be; deeper ones are no manifests.
const DEEPEST: usize = 64;

/// Reads the documents of `text`.
///
/// # Errors
/// What is wrong, in words that follow the name of the source.
pub fn parse(text: &str) -> Result<Vec<Value>, String> {
    let mut documents = Vec::new();
    let mut open: Vec<Node> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, at) = event.map_err(|error| format!("is not YAML: {}", plain(&error.to_string())))?;
        let line = at.start.line();
        let done = match event {
            Event::Alias(_) => return Err(format!("line {line} has an alias, which is not read here")),
            Event::Scalar(text, style, _, tag) => scalar(&text, style, tag.as_deref(), line)?,
            Event::SequenceStart(_, tag) => {
                begin(&mut open, Node::List(Vec::new()), tag.as_deref(), line)?;
                continue;
            }
            Event::MappingStart(_, tag) => {
                begin(&mut open, Node::Object(Map::new(), None), tag.as_deref(), line)?;
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Node::List(items)) => Value::Array(items),
                Some(Node::Object(members, _)) => Value::Object(members),
                None => return Err(format!("is not YAML: line {line} ends what has not begun")),
            },
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => continue,
        };
        match open.last_mut() {
            None => documents.push(done),
            Some(node) => node.take(done, line)?,
        }
    }
    Ok(documents)
}

/// A sequence or mapping that has not ended; a mapping may have a key that waits for its value.
enum Node {
    List(Vec<Value>),
    Object(Map<String, Value>, Option<String>),
}

impl Node {
    fn take(&mut self, value: Value, line: usize) -> Result<(), String> {
        match self {
            Node::List(items) => items.push(value),
            Node::Object(members, key) => match key.take() {
                Some(name) => {
                    members.insert(name, value);
                }
                None => {
                    let name = match value {
                        Value::String(name) => name,
                        Value::Bool(_) | Value::Number(_) => value.to_string(),
                        Value::Null | Value::Array(_) | Value::Object(_) => {
                            return Err(format!("line {line} has a key that is not plain text"));
                        }
                    };
                    if members.contains_key(&name) {
                        return Err(format!("line {line} has the key {} a second time", quote(&name)));
                    }
                    *key = Some(name);
                }
            },
        }
        Ok(())
    }
}

fn begin(open: &mut Vec<Node>, node: Node, tag: Option<&Tag>, line: usize) -> Result<(), String> {
    if tag.is_some() {
        return Err(format!("line {line} has a tag, which is not read here"));
    }
    if open.len() >= DEEPEST {
        return Err(format!("line {line} is deeper than {DEEPEST} levels"));
    }
    open.push(node);
    Ok(())
}

/// The core schema (YAML 1.2.2 section 10.3.2), without its other bases of numbers, infinities and NaN.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, line: usize) -> Result<Value, String> {
    match tag {
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => return Ok(text.into()),
        Some(_) => return Err(format!("line {line} has a tag, which is not read here")),
        None if style != ScalarStyle::Plain => return Ok(text.into()),
        None => {}
    }
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ if text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte)) => {
            let number = text.parse::<i64>().ok().map(Value::from);
            number.or_else(|| text.parse::<f64>().ok().map(Value::from)).unwrap_or_else(|| text.into())
        }
        _ => text.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_manifests_use_is_read() {
        let text = "---\n# a comment\napiVersion: v1\nmetadata: {name: \"a b\", labels: {}}\nspec:\n  containers:\n  - name: x\n    \
                    args: [proxy, 'sidecar', 5, -1, 1.5, ~, yes, \"true\", true]\n  text: |\n    one\n    two\n  folded: >-\n    one\n    \
                    two\n  none:\n  1: !!str 2\n---\nsecond\n";
        let want = json!({
            "apiVersion": "v1",
            "metadata": { "name": "a b", "labels": {} },
            "spec": {
                "containers": [{
                    "name": "x",
                    "args": ["proxy", "sidecar", 5, -1, 1.5, null, "yes", "true", true],
                }],
                "text": "one\ntwo\n",
                "folded": "one two",
                "none": null,
                "1": "2",
            },
        });
        assert_eq!(parse(text), Ok(vec![want, json!("second")]));
        assert_eq!(parse(""), Ok(Vec::new()));
        assert_eq!(parse(r#"{"a": ["b", 1, null]}"#), Ok(vec![json!({"a": ["b", 1, null]})]));
    }

    #[test]
    fn what_could_hide_or_grow_is_refused() {
        let deep = "[".repeat(DEEPEST + 1);
        for (text, says) in [
            ("a: &x 1\nb: *x\n", "line 2 has an alias"),
            ("a: 1\na: 2\n", "line 2 has the key \"a\" a second time"),
            ("a: !!binary aGk=\n", "line 1 has a tag"),
            ("a: !x {b: c}\n", "line 1 has a tag"),
            ("? [a]\n: b\n", "a key that is not plain text"),
            (deep.as_str(), "line 1 is deeper than 64 levels"),
            ("a: [", "is not YAML"),
            ("a: b: c", "is not YAML"),
            ("\"", "is not YAML"),
        ] {
            let why = parse(text).unwrap_err();
            assert!(why.contains(says), "{text:?}: {why}");
        }
    }
}
