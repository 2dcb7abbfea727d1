//! What is known of a pod when the runtime calls.

use std::collections::BTreeMap;
use std::fmt;

use crate::input::plain;

/// The capability under which a runtime passes a pod's annotations on: containerd since 1.6, CRI-O since 1.29.
pub const CAPABILITY: &str = "io.kubernetes.cri.pod-annotations";

/// A pod's annotations at the time its sandbox was made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Annotations {
    /// The runtime passed them on, be it none.
    Delivered(BTreeMap<String, String>),
    /// It did not.
    #[default]
    Absent,
}

impl Annotations {
    /// The value of `name`; nothing if the pod has none of that name or the annotations are not known.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        match self {
            Annotations::Delivered(all) => all.get(name).map(String::as_str),
            Annotations::Absent => None,
        }
    }
}

/// A pod, or a container of a runtime that knows no pods.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodFacts {
    /// `K8S_POD_NAMESPACE`; podman sets none.
    pub namespace: Option<String>,
    /// `K8S_POD_NAME`.
    pub name: Option<String>,
    /// `K8S_POD_UID`.
    pub uid: Option<String>,
    /// The annotations.
    pub annotations: Annotations,
}

/// `namespace/name`, as far as it is known.
impl fmt::Display for PodFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.namespace, &self.name) {
            (Some(namespace), Some(name)) => write!(f, "{}/{}", plain(namespace), plain(name)),
            (None, Some(name)) => f.write_str(&plain(name)),
            (_, None) => f.write_str("without a name"),
        }
    }
}
