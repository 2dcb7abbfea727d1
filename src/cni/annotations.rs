//! The pod's annotations as they are read: which there are of ours, and how long one may be.

use std::collections::BTreeMap;

use super::members::similar;
use crate::input::{Faults, Origin, Sourced};

/// `enabled` or `disabled`: whether the pod is captured, with `selection: annotation`.
pub const CAPTURE: &str = "mesh-init.io/capture";
/// A policy, as `docs/json.md` has it.
pub const POLICY: &str = "mesh-init.io/policy";
/// The proxy's user.
pub const PROXY_UID: &str = "mesh-init.io/proxy-uid";
/// The proxy's group.
pub const PROXY_GID: &str = "mesh-init.io/proxy-gid";

const OURS: [&str; 4] = [CAPTURE, POLICY, PROXY_UID, PROXY_GID];
const PREFIX: &str = "mesh-init.io/";

/// The longest value that is read: what Kubernetes allows all of an object's annotations together
/// (`TotalAnnotationSizeLimitB` in apimachinery's `validation/objectmeta.go`).
pub const LONGEST: usize = 256 << 10;

/// The annotations that a pod has, and what is wrong with them.
pub(super) struct Given<'a> {
    pub(super) all: &'a BTreeMap<String, String>,
    pub(super) faults: &'a mut Faults,
}

/// Where the annotation `name` stands.
pub(super) fn origin(name: &str) -> Origin {
    Origin::Annotation { name: name.to_owned(), key: String::new() }
}

impl Given<'_> {
    /// The value of `name`, unless it is too long.
    pub(super) fn read(&mut self, name: &str) -> Option<Sourced> {
        let text = self.all.get(name)?;
        if text.len() > LONGEST {
            let problem = format!("is {} bytes long, and at most {LONGEST} are read", text.len());
            let remedy = "shorten it: Kubernetes takes no more for all annotations together";
            self.faults.source(origin(name), problem, remedy);
            return None;
        }
        Some(Sourced { text: text.clone(), origin: origin(name) })
    }

    /// A fault for each annotation under our prefix that there is not, and for a word that `capture` does not have.
    pub(super) fn only_known(&mut self) {
        let under = self.all.range(PREFIX.to_owned()..).map(|(name, _)| name);
        let wrong =
            under.take_while(|name| name.starts_with(PREFIX)).filter(|name| !OURS.contains(&name.as_str()));
        for name in wrong {
            let meant = match self.faults.are_many() {
                true => None,
                false => similar(name, OURS.into_iter()),
            };
            let remedy = match meant {
                Some(meant) => format!("did you mean {meant}?"),
                None => "take it out, or see docs/annotations.md".to_owned(),
            };
            self.faults.source(origin(name), "is not a known annotation", remedy);
        }
        if let Some(given) = self.read(CAPTURE)
            && !matches!(given.text.as_str(), "enabled" | "disabled")
        {
            self.faults.option(&given, "is not one of its values", "give enabled or disabled");
        }
    }
}
