//! Policy files: the canonical policy JSON, or the same tree as TOML.
//!
//! The tree is only flattened here into [`Raw`]: the keys are those of the table of options, and what a value
//! means is decided where flags are decided too. Unknown keys are faults (a misspelt exclusion must not
//! vanish). `docs/json.md` describes the format.

use serde_json::Value;

use super::options::{Kind, OPTIONS, Opt};
use super::tree::Tree;
use super::{Faults, Origin, Raw, plain};

/// What `schema` must say if it is given.
pub const SCHEMA: &str = "mesh-init/policy/v1";

/// Reads `text` as TOML if `path` ends in `.toml`, else as JSON.
#[must_use]
pub fn parse(path: &str, text: &str, faults: &mut Faults) -> Raw {
    let whole = Origin::Config { path: path.to_owned(), key: String::new() };
    let tree = if path.ends_with(".toml") {
        toml::from_str::<Tree>(text).map_err(|error| error.message().to_owned())
    } else {
        serde_json::from_str::<Tree>(text).map_err(|error| error.to_string())
    };
    match tree {
        Ok(Tree(tree)) => from_tree(path, &tree, faults),
        Err(problem) => {
            faults.source(
                whole,
                format!("cannot be read: {}", plain(&problem)),
                "see docs/json.md for the format",
            );
            Raw::default()
        }
    }
}

/// Reads an already parsed tree.
#[must_use]
pub fn from_tree(path: &str, tree: &Value, faults: &mut Faults) -> Raw {
    let origin = |key: &str| Origin::Config { path: path.to_owned(), key: key.to_owned() };
    walk(tree, &origin, faults)
}

/// Reads JSON that stands in something else (an annotation, a CNI configuration's `policy`); `origin` says where a
/// dotted path of it is, and where it is itself if the path is empty.
#[must_use]
pub fn inside(text: &str, origin: &dyn Fn(&str) -> Origin, faults: &mut Faults) -> Raw {
    match serde_json::from_str::<Tree>(text) {
        Ok(Tree(tree)) => walk(&tree, origin, faults),
        Err(problem) => {
            let problem = format!("cannot be read: {}", plain(&problem.to_string()));
            faults.source(origin(""), problem, "see docs/json.md for the format");
            Raw::default()
        }
    }
}

fn walk(tree: &Value, origin: &dyn Fn(&str) -> Origin, faults: &mut Faults) -> Raw {
    let mut reader = Reader { origin, raw: Raw::default(), faults };
    reader.walk("", tree);
    reader.raw
}

struct Reader<'a> {
    origin: &'a dyn Fn(&str) -> Origin,
    raw: Raw,
    faults: &'a mut Faults,
}

impl Reader<'_> {
    fn fault(&mut self, key: &str, problem: &str, remedy: &str) {
        let origin = (self.origin)(key);
        self.faults.source(origin, problem, remedy);
    }

    fn walk(&mut self, at: &str, node: &Value) {
        let Value::Object(members) = node else {
            self.fault(at, "is not an object", "see docs/json.md for the format");
            return;
        };
        for (name, value) in members {
            let key = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
            if key == "schema" {
                if value.as_str() != Some(SCHEMA) {
                    self.fault(&key, "is not a schema this version reads", &format!("write {SCHEMA:?}"));
                }
            } else if let Some(opt) = OPTIONS.iter().find(|opt| opt.config == Some(key.as_str())) {
                self.leaf(opt, &key, value);
            } else if OPTIONS.iter().filter_map(|opt| opt.config).any(|path| is_below(path, &key)) {
                self.walk(&key, value);
            } else {
                self.fault(&key, "is not a known key", "see docs/json.md for the keys");
            }
        }
    }

    fn leaf(&mut self, opt: &Opt, key: &str, value: &Value) {
        match (opt.kind, value) {
            (Kind::List, Value::Array(items)) if items.is_empty() => {
                let origin = (self.origin)(key);
                self.raw.push(opt.key, "", origin);
            }
            (Kind::List, Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    self.scalar(opt, &format!("{key}[{index}]"), item, true);
                }
            }
            (_, scalar) => self.scalar(opt, key, scalar, false),
        }
    }

    fn scalar(&mut self, opt: &Opt, key: &str, value: &Value, item: bool) {
        let text = match (opt.kind, value) {
            (Kind::Switch, Value::Bool(on)) => on.to_string(),
            (Kind::One | Kind::List, Value::Number(number)) => number.to_string(),
            // An empty item would read as "given empty", which only the whole list can be.
            (Kind::One | Kind::List, Value::String(text)) if !(item && text.is_empty()) => text.clone(),
            (Kind::Switch, _) => return self.fault(key, "is not true or false", "write true or false"),
            (Kind::One, _) => return self.fault(key, "is not one value", "write a string or a number"),
            (Kind::List, _) => {
                return self.fault(key, "is not a list", "write an array of strings or numbers, or \"*\"");
            }
        };
        let origin = (self.origin)(key);
        self.raw.push(opt.key, text, origin);
    }
}

fn is_below(path: &str, key: &str) -> bool {
    path.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::super::Key;
    use super::*;

    fn read(path: &str, text: &str) -> Result<Raw, Faults> {
        let mut faults = Faults::default();
        let raw = parse(path, text, &mut faults);
        faults.into_result(raw)
    }

    fn texts(raw: &Raw, key: Key) -> Vec<&str> {
        raw.get(key).unwrap().iter().map(|given| given.text.as_str()).collect()
    }

    #[test]
    fn json_and_toml_say_the_same() {
        let json = r#"{"schema":"mesh-init/policy/v1","proxy":{"port":15001,"uids":[1337,"envoy"]},
                       "outbound":{"cidrs":"*","ports":[],"owners":{"uids":[1338]}},"dns":{"redirect":true}}"#;
        let toml = "schema = \"mesh-init/policy/v1\"\n[proxy]\nport = 15001\nuids = [1337, \"envoy\"]\n\
                    [outbound]\ncidrs = \"*\"\nports = []\nowners.uids = [1338]\n[dns]\nredirect = true\n";
        for raw in [read("p.json", json).unwrap(), read("p.toml", toml).unwrap()] {
            assert_eq!(texts(&raw, Key::ProxyPort), ["15001"]);
            assert_eq!(texts(&raw, Key::ProxyUid), ["1337", "envoy"]);
            assert_eq!(texts(&raw, Key::OutboundCidr), ["*"]);
            assert_eq!(texts(&raw, Key::OutboundPort), [""]);
            assert_eq!(texts(&raw, Key::UidOwner), ["1338"]);
            assert_eq!(texts(&raw, Key::RedirectDns), ["true"]);
            assert_eq!(raw.keys().count(), 6);
        }
    }

    #[test]
    fn every_fault_names_its_key() {
        let faults = read(
            "p.json",
            r#"{"schema":"v0","proxi":{},"proxy":{"port":[1],"uids":[""],"x":1},"dns":{"redirect":"yes"},"outbound":3}"#,
        )
        .unwrap_err();
        let told = faults.to_string();
        for key in ["schema", "proxi", "proxy.port", "proxy.uids[0]", "proxy.x", "dns.redirect", "outbound"] {
            assert!(told.contains(&format!("p.json {key}:")), "{key} missing in\n{told}");
        }
        assert_eq!(faults.list().len(), 7, "{told}");
    }

    #[test]
    fn text_that_is_no_tree_is_one_fault() {
        for (path, text) in [
            ("a.json", "{"),
            ("a.json", "[]"),
            ("a.json", r#"{"proxy":{"port":1,"port":2}}"#),
            ("a.toml", "x=1\nx=2"),
            ("a.toml", "= 1"),
            ("a.json", ""),
        ] {
            assert_eq!(read(path, text).unwrap_err().list().len(), 1, "{path} {text}");
        }
    }
}
