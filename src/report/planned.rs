//! What `plan` says: the rules as `iptables-restore` takes them.

use serde_json::{Value, json};

use super::Report;
use crate::policy::{CapturePolicy, Family, Layout, json::to_json};

/// What is changed at once.
pub type Transaction = (Option<Family>, String, String);

/// A plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// What is wanted.
    pub policy: CapturePolicy,
    /// In which layout.
    pub layout: Layout,
    /// The transactions: the family that each is of, if it is of one; what else there is to say of it; text.
    pub transactions: Vec<Transaction>,
    /// What routing gains before, and loses after, as phrases.
    pub routing: Vec<String>,
    /// By the state of this machine, not from nothing.
    pub live: bool,
}

impl Report for Planned {
    fn text(&self) -> String {
        if self.transactions.is_empty() && self.routing.is_empty() {
            return "# nothing to do\n".to_owned();
        }
        let text = |(family, what, text): &Transaction| {
            let family = family.map_or_else(String::new, |family| format!("{family}: "));
            format!("# {family}{what}\n{text}")
        };
        let routing = self.routing.iter().map(|what| format!("# {what}\n"));
        self.transactions.iter().map(text).chain(routing).collect()
    }

    fn json(&self) -> Value {
        let transaction = |(family, what, text): &Transaction| json!({ "family": family.map(|family| family.to_string()), "what": what, "text": text });
        json!({
            "schema": "mesh-init/plan/v1",
            "live": self.live,
            "layout": self.layout.to_string(),
            "policy": to_json(&self.policy),
            "transactions": self.transactions.iter().map(transaction).collect::<Vec<_>>(),
            "routing": self.routing,
        })
    }
}
