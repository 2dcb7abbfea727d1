//! Variables of the process environment.
//!
//! Only `MESH_INIT_*` counts here; Istio's own names in a process environment are the business of the
//! `istio-iptables` interface, since an init container's environment is full of them for other reasons.

use std::ffi::{OsStr, OsString};

use super::options::{OPTIONS, Part};
use super::{Faults, Origin, Raw};

/// The variable that sets the log level; it is no capture option.
pub const LOG: &str = "MESH_INIT_LOG";

/// Reads the options out of `variables` that belong to one of `parts`. The second value lists `MESH_INIT_*`
/// names that mean nothing: a warning, not a fault, because Kubernetes invents such variables for a Service
/// called `mesh-init`.
#[must_use]
pub fn parse(variables: &[(OsString, OsString)], parts: &[Part], faults: &mut Faults) -> (Raw, Vec<String>) {
    let mut raw = Raw::default();
    let mut unknown = Vec::new();
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with("MESH_INIT_") && *name != LOG) else {
            continue;
        };
        let Some(opt) = OPTIONS.iter().find(|opt| opt.variable() == name) else {
            unknown.push(name.to_owned());
            continue;
        };
        if !parts.contains(&opt.part) {
            continue;
        }
        let origin = Origin::Variable(name.to_owned());
        match utf8(value) {
            Some(text) => raw.push(opt.key, text, origin),
            None => faults.source(origin, "is not UTF-8", "give plain text"),
        }
    }
    unknown.sort();
    (raw, unknown)
}

fn utf8(value: &OsStr) -> Option<&str> {
    value.to_str()
}

#[cfg(test)]
mod tests {
    use super::super::Key;
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn our_names_count_and_istios_do_not() {
        let mut faults = Faults::default();
        let given = env(&[
            ("MESH_INIT_PROXY_PORT", "15002"),
            ("MESH_INIT_OUTBOUND_CIDR", ""),
            ("ISTIO_SERVICE_CIDR", "10.0.0.0/8"),
            ("MESH_INIT_PORT", "tcp://10.0.0.1:80"),
            ("MESH_INIT_LOG", "debug"),
        ]);
        let (raw, unknown) = parse(&given, &[Part::Policy], &mut faults);
        assert_eq!(raw.get(Key::ProxyPort).unwrap()[0].text, "15002");
        assert_eq!(raw.get(Key::OutboundCidr).unwrap()[0].text, "");
        assert_eq!(raw.keys().count(), 2);
        assert_eq!(unknown, ["MESH_INIT_PORT"]);
        assert!(faults.is_empty());
    }

    #[test]
    fn other_parts_are_left_out() {
        let mut faults = Faults::default();
        let given = env(&[("MESH_INIT_PROXY_PORT", "1"), ("MESH_INIT_WAIT", "3")]);
        let (raw, _) = parse(&given, &[Part::Looking], &mut faults);
        assert_eq!(raw.keys().collect::<Vec<_>>(), [Key::Wait]);
    }

    #[test]
    fn bytes_that_are_no_text_are_a_fault() {
        use std::os::unix::ffi::OsStringExt;
        let mut faults = Faults::default();
        let given = vec![("MESH_INIT_PROXY_PORT".into(), OsString::from_vec(vec![0xff]))];
        let (raw, _) = parse(&given, &[Part::Policy], &mut faults);
        assert!(raw.is_empty());
        assert_eq!(faults.list().len(), 1);
    }
}
