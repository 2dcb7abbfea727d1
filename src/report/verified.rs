//! What `verify` says.

use serde_json::{Value, json};

use super::{Answer, Report};
use crate::error::Class;
use crate::eval::probing::Direction;
use crate::policy::settings::Output;
use crate::policy::{CapturePolicy, Family, json::to_json};

/// How it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// A listener of our own got a random token.
    Probe,
    /// The probe's conntrack entry shows the redirect to a proxy that holds the port.
    Conntrack,
    /// The rules were read back and are those of the policy.
    Rules,
    /// It is not captured.
    NotCaptured,
    /// It is not to be captured.
    NotWanted,
    /// The rules leave the family alone, although the namespace has a stack of it.
    LeftAlone,
}

impl How {
    fn as_str(self) -> &'static str {
        match self {
            How::Probe => "probe",
            How::Conntrack => "conntrack",
            How::Rules => "rules",
            How::NotCaptured => "not captured",
            How::NotWanted => "not wanted",
            How::LeftAlone => "left alone",
        }
    }
}

/// One direction of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The direction.
    pub direction: Direction,
    /// The family.
    pub family: Family,
    /// How it is known.
    pub how: How,
    /// What more there is to say: what was tried, or why nothing could be.
    pub detail: String,
}

/// What is true of capture here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The policy that was looked for; `None` if there is none to look for.
    pub policy: Option<CapturePolicy>,
    /// Each direction of each family.
    pub checked: Vec<Checked>,
    /// What of the rules is not as the policy wants it, whether or not what was tried shows it: as phrases.
    pub wrong: Vec<String>,
    /// Where nothing could be tried, it does not count as captured.
    pub strict: bool,
    /// What a repair changed.
    pub repaired: Vec<String>,
    /// What else is worth saying.
    pub notes: Vec<String>,
}

impl Verified {
    /// Whether capture holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        let holds = |checked: &Checked| match checked.how {
            How::Probe | How::Conntrack | How::NotWanted => true,
            How::Rules | How::LeftAlone => !self.strict,
            How::NotCaptured => false,
        };
        self.policy.is_some() && self.wrong.is_empty() && self.checked.iter().all(holds)
    }

    /// The answer with its exit code.
    #[must_use]
    pub fn verdict(&self, output: Output) -> Answer {
        let code = if self.holds() { 0 } else { Class::NotCaptured.exit_code() };
        Answer { code, ..self.answer(output) }
    }
}

impl Report for Verified {
    fn text(&self) -> String {
        let mut lines = Vec::new();
        if self.policy.is_none() {
            lines.push("not captured: nothing of ours is here".to_owned());
        }
        for Checked { direction, family, how, detail } in &self.checked {
            let state = match how {
                How::NotCaptured => "NOT CAPTURED".to_owned(),
                How::NotWanted => "not to be captured".to_owned(),
                How::LeftAlone => "left alone".to_owned(),
                How::Probe | How::Conntrack | How::Rules => format!("captured ({})", how.as_str()),
            };
            let line = format!("{} {family}: {state}", direction.as_str());
            lines.push(if detail.is_empty() { line } else { format!("{line}: {detail}") });
        }
        if !self.wrong.is_empty() {
            lines.push(format!("NOT WHOLE: {} not as the policy wants it", self.wrong.join(", ")));
        }
        if !self.repaired.is_empty() {
            lines.push(format!("repaired: {}", self.repaired.join(", ")));
        }
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        super::lines(lines)
    }

    fn json(&self) -> Value {
        let checked = |checked: &Checked| {
            let Checked { direction, family, how, detail } = checked;
            json!({
                "direction": direction.as_str(),
                "family": family.to_string(),
                "how": how.as_str(),
                "detail": detail,
            })
        };
        json!({
            "schema": "mesh-init/verify/v1",
            "captured": self.holds(),
            "checked": self.checked.iter().map(checked).collect::<Vec<_>>(),
            "wrong": self.wrong,
            "repaired": self.repaired,
            "policy": self.policy.as_ref().map(to_json),
            "notes": self.notes,
        })
    }
}
