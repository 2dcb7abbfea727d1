//! What `apply` and `clean` say.

use serde_json::{Value, json};

use super::{Report, families, plural};
use crate::backend::choose::Choice;
use crate::policy::settings::Variant;
use crate::policy::{CapturePolicy, Families, Layout, Mode, json::to_json};

/// What `apply` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// What is captured now.
    pub policy: CapturePolicy,
    /// In which layout.
    pub layout: Layout,
    /// By what.
    pub by: By,
    /// The families.
    pub families: Families,
    /// The transactions that were made; none if the rules were in place.
    pub changed: Vec<String>,
    /// Connections that were open before and that the proxy does not hold.
    pub open: usize,
    /// Seconds in which the change has to be confirmed.
    pub confirm_within: Option<u64>,
    /// What else is worth saying.
    pub notes: Vec<String>,
}

/// What captures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// Rules, and why those.
    Rules(Choice),
    /// Programs at the sockets.
    Ebpf,
}

impl By {
    /// The name of it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            By::Rules(choice) => choice.variant.to_string(),
            By::Ebpf => "ebpf".to_owned(),
        }
    }

    /// Why that one: a phrase.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            By::Rules(choice) => choice.reason,
            By::Ebpf => "asked for",
        }
    }
}

impl Applied {
    fn open_connections(&self) -> Option<String> {
        if self.open == 0 || self.changed.is_empty() {
            return None;
        }
        let open = plural(self.open, "open connection");
        let spares = match &self.by {
            By::Rules(choice) => choice.variant == Variant::Native,
            By::Ebpf => true,
        };
        if spares {
            return Some(format!("{open} go on uncaptured until they end"));
        }
        Some(match self.layout {
            // conntrack adopts a live connection as new when NAT appears (nf_conntrack_tcp_loose).
            Layout::Classic | Layout::Istio | Layout::IstioIptables => {
                format!("{open} may be reset: this layout captures them in mid-flow")
            }
            Layout::Scoped => format!("{open} go on uncaptured until they end"),
        })
    }
}

impl Report for Applied {
    fn text(&self) -> String {
        let Applied { policy, layout, by, changed, .. } = self;
        let how = format!("layout {layout} on {} ({}), {}", by.name(), by.reason(), families(self.families));
        let done = match changed.as_slice() {
            [] if policy.mode == Mode::None => "nothing to do: nothing of ours is here".to_owned(),
            [] => "nothing to do: the rules are in place".to_owned(),
            changed => format!("changed {}", changed.join(", ")),
        };
        let mut lines = vec![policy.to_string(), how, done];
        lines.extend(self.open_connections());
        lines.extend(self.confirm_within.map(|seconds| {
            format!(
                "run mesh-init confirm within {seconds} s to keep this; else what was there before comes back"
            )
        }));
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        super::lines(lines)
    }

    fn json(&self) -> Value {
        json!({
            "schema": "mesh-init/apply/v1",
            "changed": self.changed,
            "layout": self.layout.to_string(),
            "variant": self.by.name(),
            "reason": self.by.reason(),
            "families": self.families.list().iter().map(ToString::to_string).collect::<Vec<_>>(),
            "openConnections": self.open,
            "confirmWithinSeconds": self.confirm_within,
            "policy": to_json(&self.policy),
            "notes": self.notes,
        })
    }
}

/// What `clean` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleaned {
    /// The transactions that were made; none if nothing of ours was there.
    pub changed: Vec<String>,
    /// What else is worth saying.
    pub notes: Vec<String>,
}

impl Report for Cleaned {
    fn text(&self) -> String {
        let done = match self.changed.as_slice() {
            [] => "nothing to do: nothing of ours is here".to_owned(),
            changed => format!("removed from {}", changed.join(", ")),
        };
        super::lines(
            std::iter::once(done).chain(self.notes.iter().map(|note| format!("note: {note}"))).collect(),
        )
    }

    fn json(&self) -> Value {
        json!({ "schema": "mesh-init/clean/v1", "changed": self.changed, "notes": self.notes })
    }
}

/// What `confirm` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmed {
    /// Somebody would have taken the change back, and was told not to.
    pub held: bool,
}

impl Report for Confirmed {
    fn text(&self) -> String {
        let how = match self.held {
            true => "confirmed: the rules stay",
            false => "confirmed: the rules stay (what would have taken them back was gone already)",
        };
        format!("{how}\n")
    }

    fn json(&self) -> Value {
        json!({ "schema": "mesh-init/confirm/v1", "confirmed": true, "held": self.held })
    }
}
