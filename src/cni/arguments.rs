//! `CNI_ARGS`: `KEY=value;KEY=value`, deprecated by the specification and sent by every runtime.
//!
//! The Go library splits at every `=`, demands exactly two parts and refuses unknown keys unless `IgnoreUnknown` is
//! set. Here a value may hold `=`, the order is no matter, and what is unknown or has no `=` is left out.

/// What the runtime says of the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arguments {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: Option<String>,
    /// `K8S_POD_NAME`.
    pub name: Option<String>,
    /// `K8S_POD_UID`.
    pub uid: Option<String>,
}

impl Arguments {
    /// Reads the text. Nothing in it can fail; an empty value is no value; of a key given twice the last counts, as in
    /// the Go library.
    #[must_use]
    pub fn parse(text: &str) -> Arguments {
        let mut read = Arguments::default();
        for (key, value) in text.split(';').filter_map(|pair| pair.split_once('=')) {
            let place = match key {
                "K8S_POD_NAMESPACE" => &mut read.namespace,
                "K8S_POD_NAME" => &mut read.name,
                "K8S_POD_UID" => &mut read.uid,
                _ => continue,
            };
            *place = Some(value.to_owned()).filter(|value| !value.is_empty());
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(namespace: &str, name: &str, uid: &str) -> Arguments {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Arguments { namespace: some(namespace), name: some(name), uid: some(uid) }
    }

    #[test]
    fn keys_in_any_order() {
        let orders = [
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1",
            "K8S_POD_UID=u-1;K8S_POD_NAME=web;IgnoreUnknown=1;K8S_POD_NAMESPACE=demo",
            "K8S_POD_UID=u-1;K8S_POD_NAME=web;K8S_POD_NAMESPACE=demo;",
            ";;K8S_POD_UID=u-1;nonsense;=;=x;K8S_POD_NAME=web;K8S_POD_NAMESPACE=demo",
        ];
        for text in orders {
            assert_eq!(Arguments::parse(text), of("demo", "web", "u-1"), "{text}");
        }
    }

    #[test]
    fn a_value_goes_from_the_first_equals_sign_to_the_semicolon() {
        assert_eq!(Arguments::parse("K8S_POD_NAME=a=b==c"), of("", "a=b==c", ""));
        assert_eq!(Arguments::parse("K8S_POD_NAME=a b\n-j ACCEPT"), of("", "a b\n-j ACCEPT", ""));
        assert_eq!(Arguments::parse("K8S_POD_NAME=a;K8S_POD_NAME=b"), of("", "b", ""));
        assert_eq!(Arguments::parse("K8S_POD_NAME=a;K8S_POD_NAME="), of("", "", ""));
    }

    #[test]
    fn other_keys_are_kept_out() {
        for text in
            ["", "K8S_POD_NAMES=x", "k8s_pod_name=x", " K8S_POD_NAME=x", "K8S_POD_NAME", "IP=10.0.0.1"]
        {
            assert_eq!(Arguments::parse(text), Arguments::default(), "{text}");
        }
    }
}
