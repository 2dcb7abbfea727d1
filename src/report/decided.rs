//! What the CNI plugin decides for a pod, and by which values.

use serde_json::{Value, json};

use super::failure::fault;
use super::{Answer, Explained, Report, lines};
use crate::cni::decide::Decision;
use crate::error::Class;
use crate::input::Raw;
use crate::input::fault::quote;
use crate::input::options::option;
use crate::policy::json::to_json;
use crate::policy::settings::{Output, Variant};

/// A decision that was explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// The pod, as it can be named.
    pub pod: String,
    /// The decision.
    pub decision: Decision,
    /// What is worth saying of where the facts come from, and what they leave out.
    pub notes: Vec<String>,
    /// What becomes of connections.
    pub connections: Explained,
}

/// A value, the option that it is for, and where it comes from.
struct Given {
    option: &'static str,
    text: String,
    origin: String,
}

/// Every value; of a list as one, which it is in an annotation.
fn values(given: &Raw) -> Vec<Given> {
    let mut values: Vec<Given> = Vec::new();
    for key in given.keys() {
        for one in given.get(key).unwrap_or_default() {
            let (option, origin) = (option(key).long, one.origin.to_string());
            match values.last_mut() {
                Some(last) if last.option == option && last.origin == origin => {
                    last.text = format!("{},{}", last.text, one.text);
                }
                Some(_) | None => values.push(Given { option, text: one.text.clone(), origin }),
            }
        }
    }
    values
}

fn carrier(variant: Option<Variant>, iptables: bool) -> &'static str {
    match (variant, iptables) {
        (Some(Variant::Native), _) => "nftables",
        (Some(Variant::Nft), _) => "iptables-nft",
        (Some(Variant::Legacy), _) => "iptables-legacy",
        (None, true) => "iptables",
        (None, false) => "auto",
    }
}

impl Decided {
    /// The answer; a pod that cannot start is bad input, one that nobody can decide about is to be tried again.
    #[must_use]
    pub fn verdict(&self, output: Output) -> Answer {
        let code = match &self.decision {
            Decision::Capture(_) | Decision::Skip(_) => 0,
            Decision::Reject(_) => Class::Usage.exit_code(),
            Decision::Unknown(_) => Class::TryAgain.exit_code(),
        };
        Answer { code, ..self.answer(output) }
    }
}

impl Report for Decided {
    fn text(&self) -> String {
        let mut all = Vec::new();
        let pod = &self.pod;
        match &self.decision {
            Decision::Capture(capture) => {
                let request = &capture.request;
                let by = carrier(request.settings.variant, request.settings.iptables);
                all.push(format!("captured: pod {pod}"));
                all.push(format!("  {}", capture.why));
                all.push(format!("  {}", request.policy));
                all.push(format!("  back end {by}, layout {}", request.layout));
                all.push(String::new());
                let values = values(&capture.given).into_iter();
                all.extend(
                    values.map(|one| format!("  --{} {}  {}", one.option, quote(&one.text), one.origin)),
                );
                all.extend(request.warnings.iter().map(|warning| format!("warning: {warning}")));
            }
            Decision::Skip(skip) => {
                all.push(format!("not captured: pod {pod}"));
                all.push(format!("  {skip}"));
            }
            Decision::Reject(faults) => {
                all.push(format!("does not start: pod {pod}"));
                all.extend(faults.to_string().lines().map(|line| format!("  {line}")));
            }
            Decision::Unknown(faults) => {
                all.push(format!("does not start yet: pod {pod}"));
                all.extend(faults.to_string().lines().map(|line| format!("  {line}")));
            }
        }
        all.extend(self.notes.iter().map(|note| format!("note: {note}")));
        let mut text = lines(all);
        if !self.connections.answers.is_empty() {
            text.push('\n');
            text.push_str(&self.connections.text());
        }
        text
    }

    fn json(&self) -> Value {
        let mut tree = json!({ "schema": "mesh-init/pod/v1", "pod": self.pod });
        let reason = |word: &str, text: String| json!({ "word": word, "text": text });
        let more = match &self.decision {
            Decision::Capture(capture) => {
                let request = &capture.request;
                let value =
                    |one: Given| json!({ "option": one.option, "value": one.text, "origin": one.origin });
                json!({
                    "decision": "capture",
                    "reason": reason(capture.why.word(), capture.why.to_string()),
                    "policy": to_json(&request.policy),
                    "layout": request.layout.to_string(),
                    "backend": carrier(request.settings.variant, request.settings.iptables),
                    "values": values(&capture.given).into_iter().map(value).collect::<Vec<_>>(),
                    "warnings": request.warnings,
                })
            }
            Decision::Skip(skip) => {
                json!({ "decision": "skip", "reason": reason(skip.word(), skip.to_string()) })
            }
            Decision::Reject(faults) | Decision::Unknown(faults) => {
                let unknown = matches!(self.decision, Decision::Unknown(_));
                json!({
                    "decision": if unknown { "unknown" } else { "reject" },
                    "problems": faults.list().iter().map(fault).collect::<Vec<_>>(),
                    "furtherProblems": faults.beyond(),
                })
            }
        };
        if let (Value::Object(tree), Value::Object(more)) = (&mut tree, more) {
            tree.extend(more);
            tree.insert("notes".to_owned(), json!(self.notes));
            if let Some(answers) = self.connections.json().get_mut("answers") {
                tree.insert("answers".to_owned(), answers.take());
            }
        }
        tree
    }
}
