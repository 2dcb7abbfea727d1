//! What is asked of the node's agent, and what it answers: facts, never verdicts.
//!
//! Over a unix stream socket: one line of JSON there, one back, and the connection is closed. `docs/cni.md` has both.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::protocol::Call;

/// The form of a question.
pub const QUERY: &str = "mesh-init/pod-query/v1";
/// The form of an answer.
pub const FACTS: &str = "mesh-init/pod-facts/v1";

/// The question about a call's pod, a line.
#[must_use]
pub fn query(call: &Call) -> String {
    let question = json!({
        "schema": QUERY,
        "containerId": call.container,
        "namespace": call.arguments.namespace,
        "name": call.arguments.name,
        "uid": call.arguments.uid,
    });
    format!("{question}\n")
}

/// Reads the answer: the pod's annotations, or `None` if the agent does not know the pod (`null`).
///
/// # Errors
/// It is no answer of this form; what is wrong with it.
pub fn facts(line: &str) -> Result<Option<BTreeMap<String, String>>, String> {
    let keys: BTreeMap<String, Value> =
        serde_json::from_str(line).map_err(|error| format!("its answer is no JSON object: {error}"))?;
    if keys.get("schema") != Some(&json!(FACTS)) {
        return Err(format!("its answer is not of the form {FACTS}"));
    }
    if let Some(unknown) = keys.keys().find(|key| !["schema", "annotations"].contains(&key.as_str())) {
        return Err(format!(
            "its answer has the key {}, which is none of {FACTS}",
            crate::input::fault::quote(unknown)
        ));
    }
    match keys.get("annotations") {
        None => Err("its answer has no annotations".to_owned()),
        Some(Value::Null) => Ok(None),
        Some(Value::Object(pairs)) => {
            let text = |(key, value): (&String, &Value)| {
                let value = value.as_str().ok_or_else(|| {
                    format!("its answer's annotation {} is no text", crate::input::fault::quote(key))
                })?;
                Ok((key.clone(), value.to_owned()))
            };
            pairs.iter().map(text).collect::<Result<_, _>>().map(Some)
        }
        Some(_) => Err("its answer's annotations are no object".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_and_nothing_else() {
        let with = |rest: &str| facts(&format!("{{\"schema\":\"mesh-init/pod-facts/v1\"{rest}}}"));
        assert_eq!(with(",\"annotations\":null"), Ok(None));
        assert_eq!(with(",\"annotations\":{}"), Ok(Some(BTreeMap::new())));
        assert_eq!(with(",\"annotations\":{\"a\":\"b\"}"), Ok(Some([("a".into(), "b".into())].into())));
        for bad in
            ["", ",\"annotations\":[]", ",\"annotations\":{\"a\":1}", ",\"annotations\":{},\"capture\":false"]
        {
            assert!(with(bad).is_err(), "{bad}");
        }
        for bad in [
            "",
            "{}",
            "[]",
            "{\"schema\":\"mesh-init/pod-facts/v2\",\"annotations\":{}}",
            "{\"annotations\":{}}",
        ] {
            assert!(facts(bad).is_err(), "{bad}");
        }
    }
}
