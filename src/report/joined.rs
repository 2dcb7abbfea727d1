//! What `install` and `uninstall` say.

use serde_json::{Value, json};

use super::{Report, plural};
use crate::cni::conflist::Change;
use crate::cni::conflist::cache::Attachment;
use crate::cni::conflist::join::{How, Joined};

/// What `install` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The chain that was joined; its changes are those that were made.
    pub joined: Joined,
    /// The program's path.
    pub program: String,
    /// Whether the program was written.
    pub copied: bool,
}

impl Installed {
    /// Whether anything was changed.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.copied || !self.joined.changes.is_empty()
    }
}

fn files(changes: &[Change]) -> Vec<Value> {
    let told = |change: &Change| {
        let what = match (&change.before, &change.after) {
            (None, Some(_)) => "created",
            (_, Some(_)) => "changed",
            (_, None) => "removed",
        };
        json!({ "file": change.file, "what": what })
    };
    changes.iter().map(told).collect()
}

fn told(changes: &[Change]) -> impl Iterator<Item = String> {
    files(changes).into_iter().map(|change| {
        let text = |key: &str| change.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        format!("{} {}", text("what"), text("file"))
    })
}

impl Report for Installed {
    fn text(&self) -> String {
        let Installed { joined, program, copied } = self;
        let how = match joined.how {
            How::Inline => "in its list",
            How::DropIn => "by a file of its own beside the list",
            How::Wrapped => "by a list around its single plugin",
        };
        let mut lines = vec![
            format!(
                "network {}: mesh-init stands in {} ({how}; {})",
                joined.network, joined.file, joined.reason
            ),
            format!("{} {program}", if *copied { "wrote" } else { "up to date:" }),
        ];
        lines.extend(told(&joined.changes));
        if !self.changed() {
            lines.push("nothing to do: all is in place".to_owned());
        }
        lines.extend(joined.notes.iter().map(|note| format!("note: {note}")));
        super::lines(lines)
    }

    fn json(&self) -> Value {
        let Installed { joined, program, copied } = self;
        let how = match joined.how {
            How::Inline => "inline",
            How::DropIn => "dropIn",
            How::Wrapped => "wrapped",
        };
        json!({
            "schema": "mesh-init/install/v1",
            "network": joined.network,
            "file": joined.file,
            "how": how,
            "reason": joined.reason,
            "changed": files(&joined.changes),
            "program": program,
            "programWritten": copied,
            "notes": joined.notes,
        })
    }
}

/// What `uninstall` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uninstalled {
    /// The files that were changed or taken away.
    pub changed: Vec<Change>,
    /// The program's path.
    pub program: String,
    /// Whether the program was there and is gone.
    pub removed: bool,
    /// Attachments that still name us in the runtime's cache.
    pub attachments: Vec<Attachment>,
}

impl Report for Uninstalled {
    fn text(&self) -> String {
        let mut lines: Vec<String> = told(&self.changed).collect();
        lines.extend(self.removed.then(|| format!("removed {}", self.program)));
        if lines.is_empty() {
            lines.push("nothing to do: nothing of ours is here".to_owned());
        }
        lines.extend((!self.attachments.is_empty()).then(|| {
            let count = plural(self.attachments.len(), "attachment");
            format!(
                "note: {count} in the runtime's cache may still need the program for DEL (CRI-O calls by its cache): --wait-for-pods waits for that"
            )
        }));
        super::lines(lines)
    }

    fn json(&self) -> Value {
        let attachment = |of: &Attachment| json!({ "network": of.network, "container": of.container, "interface": of.interface });
        json!({
            "schema": "mesh-init/uninstall/v1",
            "changed": files(&self.changed),
            "program": self.program,
            "programRemoved": self.removed,
            "attachments": self.attachments.iter().map(attachment).collect::<Vec<_>>(),
        })
    }
}
