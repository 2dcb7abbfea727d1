//! Whether a runtime loads a configuration, and what it sees in it: the checks of libcni's `NetworkConfFromBytes`,
//! `NetworkPluginConfFromBytes` and `ConfListFromConf` (containernetworking/cni, libcni/conf.go), in their order.

use std::ops::Range;

use super::TYPE;
use super::scan::{Kind, Value, scan};
use crate::input::fault::quote;

/// A version as three numbers (pkg/version `ParseVersion`: what is left out is 0, nothing at all is 0.1.0).
pub type Version = (u32, u32, u32);

/// The newest version that libcni 1.x knows; of `cniVersions` it skips newer ones.
const NEWEST: Version = (1, 1, 0);
/// The versions of configurations that this plugin can stand in: chains begin with 0.3.0.
pub const SUPPORTED: std::ops::RangeInclusive<Version> = (0, 3, 0)..=NEWEST;

/// A list of plugins (`.conflist`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// The network's name; may be empty, as libcni does not mind.
    pub name: String,
    /// The version that the runtime uses.
    pub version: Version,
    /// What stands under `plugins`; `None` without that key, which libcni before 1.3.0 refuses.
    pub plugins: Option<Inlined>,
    /// `loadOnlyInlinedPlugins`: drop-ins are not read.
    pub only_inlined: bool,
}

/// The plugins that stand in the list itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inlined {
    /// Where the array stands, with its brackets.
    pub span: Range<usize>,
    /// Never empty.
    pub items: Vec<Plugin>,
}

/// One plugin of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugin {
    /// The program's name.
    pub kind: String,
    /// Its object.
    pub value: Value,
}

impl Plugin {
    /// Whether it is this program.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.kind == TYPE
    }
}

/// A single plugin (`.conf`, `.json`), or a drop-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Single {
    /// The network's name; empty if there is none.
    pub name: String,
    /// The version as it stands there.
    pub version: Version,
    /// The plugin.
    pub plugin: Plugin,
}

impl List {
    /// The plugins that stand in the list itself.
    #[must_use]
    pub fn items(&self) -> &[Plugin] {
        self.plugins.as_ref().map_or(&[], |inlined| &inlined.items)
    }

    /// Whether we stand in it.
    #[must_use]
    pub fn has_ours(&self) -> bool {
        self.items().iter().any(Plugin::is_ours)
    }
}

/// Reads a list. Drop-ins are not looked at, nor that a list without any plugin is refused in the end.
///
/// # Errors
/// Why a runtime does not load it.
pub fn list(text: &str) -> Result<List, String> {
    let root = scan(text).map_err(|malformed| malformed.to_string())?;
    if !matches!(root.kind, Kind::Object(_)) {
        return Err("is no JSON object".to_owned());
    }
    let string = |key: &str| match root.member(key) {
        None => Ok(None),
        Some(value) => value.text().map(Some).ok_or_else(|| format!("{key} is no string")),
    };
    let name = string("name")?.ok_or("has no name")?.to_owned();
    let declared = string("cniVersion")?;
    let version = match root.member("cniVersions") {
        None => version(declared.unwrap_or_default())?,
        Some(versions) => newest(versions, declared)?,
    };
    boolean(text, &root, "disableCheck")?;
    boolean(text, &root, "disableGC")?;
    let only_inlined = boolean(text, &root, "loadOnlyInlinedPlugins")?;
    let plugins = match root.member("plugins") {
        None if only_inlined => return Err("has no plugins and loads only those it has".to_owned()),
        None => None,
        Some(Value { kind: Kind::Array(items), span }) => {
            let numbered = items.iter().enumerate();
            let read = numbered.map(|(n, item)| {
                plugin(text, item).map_err(|why| format!("plugin {} of the list {why}", n + 1))
            });
            let items = read.collect::<Result<Vec<_>, _>>()?;
            if items.is_empty() {
                return Err("has an empty list of plugins".to_owned());
            }
            Some(Inlined { span: span.clone(), items })
        }
        Some(_) => return Err("plugins is no list".to_owned()),
    };
    Ok(List { name, version, plugins, only_inlined })
}

/// Reads a single plugin.
///
/// # Errors
/// Why a runtime does not load it.
pub fn single(text: &str) -> Result<Single, String> {
    let root = scan(text).map_err(|malformed| malformed.to_string())?;
    let has_plugins = root.member("plugins").is_some();
    let plugin = plugin(text, &root).map_err(|why| match has_plugins {
        true => format!("{why}: a list of plugins belongs in a file called .conflist"),
        false => why,
    })?;
    let string = |key| field(&root, key).and_then(Value::text).unwrap_or_default();
    Ok(Single { name: string("name").to_owned(), version: version(string("cniVersion"))?, plugin })
}

/// The member that Go's decoder takes for a field: letters in any case, the exact spelling first, the last one wins.
#[must_use]
pub fn field<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    let folded = || object.members().iter().rev().find(|member| member.key.eq_ignore_ascii_case(key));
    object.member(key).or_else(|| folded().map(|member| &member.value))
}

/// What every plugin must be so that Go decodes it into `types.PluginConf`.
fn plugin(text: &str, value: &Value) -> Result<Plugin, String> {
    if !matches!(value.kind, Kind::Object(_)) {
        return Err("is no JSON object".to_owned());
    }
    let null = |value: &Value| text.get(value.span.clone()) == Some("null");
    let given = |object: &'_ Value, key: &str| field(object, key).filter(|value| !null(value)).cloned();
    for key in ["cniVersion", "name", "type"] {
        if given(value, key).is_some_and(|value| value.text().is_none()) {
            return Err(format!("has a {key} that is no string"));
        }
    }
    if let Some(capabilities) = given(value, "capabilities") {
        let boolean = |value: &Value| matches!(text.get(value.span.clone()), Some("true" | "false" | "null"));
        let fits = matches!(capabilities.kind, Kind::Object(_))
            && capabilities.members().iter().all(|member| boolean(&member.value));
        if !fits {
            return Err("has capabilities that are no object of booleans".to_owned());
        }
    }
    for key in ["ipam", "dns"] {
        if given(value, key).is_some_and(|value| !matches!(value.kind, Kind::Object(_))) {
            return Err(format!("has a key {key} that is no object"));
        }
    }
    match field(value, "type").and_then(Value::text) {
        None | Some("") => Err("has no type".to_owned()),
        Some(kind) => Ok(Plugin { kind: kind.to_owned(), value: value.clone() }),
    }
}

/// A boolean of a list: also the words in quotes, in any case.
fn boolean(text: &str, root: &Value, key: &str) -> Result<bool, String> {
    let Some(value) = root.member(key) else { return Ok(false) };
    let word = match &value.kind {
        Kind::Text(word) => word.to_lowercase(),
        Kind::Plain => text.get(value.span.clone()).unwrap_or_default().to_owned(),
        Kind::Object(_) | Kind::Array(_) => String::new(),
    };
    match word.as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("{key} is neither true nor false")),
    }
}

/// The highest of `cniVersions` and `cniVersion` that is not above what libcni knows.
fn newest(versions: &Value, declared: Option<&str>) -> Result<Version, String> {
    let Kind::Array(items) = &versions.kind else { return Err("cniVersions is no list".to_owned()) };
    let texts = items.iter().map(|item| item.text().ok_or("an entry of cniVersions is no string"));
    let mut texts = texts.collect::<Result<Vec<_>, _>>()?;
    texts.extend(declared.filter(|text| !text.is_empty()));
    let mut known = texts.into_iter().map(version).collect::<Result<Vec<_>, _>>()?;
    known.retain(|version| *version <= NEWEST);
    Ok(known.into_iter().max().unwrap_or(version(declared.unwrap_or_default())?))
}

fn version(text: &str) -> Result<Version, String> {
    if text.is_empty() {
        return Ok((0, 1, 0));
    }
    let wrong = || format!("{} is no CNI version", quote(text));
    let mut parts = text.split('.').map(|part| part.parse::<u32>().map_err(|_| wrong()));
    let version =
        (parts.next().unwrap_or(Ok(0))?, parts.next().unwrap_or(Ok(0))?, parts.next().unwrap_or(Ok(0))?);
    match parts.next() {
        None => Ok(version),
        Some(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_libcni_reads_it() {
        let seen =
            list(r#"{"name":"n","cniVersion":"0.3.1","plugins":[{"type":"bridge"},{"Type":"mesh-init"}]}"#);
        let seen = seen.unwrap();
        assert_eq!((seen.name.as_str(), seen.version, seen.only_inlined), ("n", (0, 3, 1), false));
        assert_eq!(seen.items().iter().map(Plugin::is_ours).collect::<Vec<_>>(), [false, true]);
        for (more, version) in [
            (r#""cniVersions":["0.4.0","1.0.0","9.9.9"]"#, (1, 0, 0)),
            (r#""cniVersions":["0.4.0"],"cniVersion":"1.1.0""#, (1, 1, 0)),
            (r#""cniVersion":"1""#, (1, 0, 0)),
            (r#""x":0"#, (0, 1, 0)),
        ] {
            let text = format!(r#"{{"name":"n",{more},"plugins":[{{"type":"a"}}]}}"#);
            assert_eq!(list(&text).unwrap().version, version, "{text}");
        }
        let last =
            list(r#"{"name":"a","name":"b","plugins":[{"type":"x"}],"plugins":[{"type":"y"}]}"#).unwrap();
        assert_eq!((last.name.as_str(), last.items()[0].kind.as_str()), ("b", "y"));
        assert_eq!(list(r#"{"name":"n"}"#).unwrap().plugins, None);
        assert!(
            list(r#"{"name":"n","loadOnlyInlinedPlugins":"TRUE","plugins":[{"type":"a"}]}"#)
                .unwrap()
                .only_inlined
        );
    }

    #[test]
    fn what_libcni_refuses_is_refused() {
        for (text, why) in [
            ("[]", "is no JSON object"),
            (r#"{"plugins":[{"type":"a"}]}"#, "has no name"),
            (r#"{"name":7,"plugins":[{"type":"a"}]}"#, "name is no string"),
            (r#"{"name":"n","cniVersion":1,"plugins":[{"type":"a"}]}"#, "cniVersion is no string"),
            (r#"{"name":"n","cniVersion":"a.b","plugins":[{"type":"a"}]}"#, "\"a.b\" is no CNI version"),
            (
                r#"{"name":"n","cniVersions":["1.0.0.0"],"plugins":[{"type":"a"}]}"#,
                "\"1.0.0.0\" is no CNI version",
            ),
            (r#"{"name":"n","plugins":[]}"#, "has an empty list of plugins"),
            (r#"{"name":"n","plugins":{}}"#, "plugins is no list"),
            (r#"{"name":"n","plugins":[{"type":"a"},{}]}"#, "plugin 2 of the list has no type"),
            (r#"{"name":"n","plugins":[null]}"#, "plugin 1 of the list is no JSON object"),
            (
                r#"{"name":"n","plugins":[{"type":"a","capabilities":{"x":1}}]}"#,
                "plugin 1 of the list has capabilities that are no object of booleans",
            ),
            (
                r#"{"name":"n","plugins":[{"type":"a","ipam":"x"}]}"#,
                "plugin 1 of the list has a key ipam that is no object",
            ),
            (
                r#"{"name":"n","disableCheck":1,"plugins":[{"type":"a"}]}"#,
                "disableCheck is neither true nor false",
            ),
            (r#"{"name":"n","loadOnlyInlinedPlugins":true}"#, "has no plugins and loads only those it has"),
            (r#"{"name":"n","plugins":[{"type":"a"},]}"#, "line 1 column 37: a value is expected"),
        ] {
            assert_eq!(list(text).unwrap_err(), why, "{text}");
        }
        assert_eq!(single(r#"{"name":"n"}"#).unwrap_err(), "has no type");
        let misnamed = single(r#"{"name":"n","plugins":[]}"#).unwrap_err();
        assert_eq!(misnamed, "has no type: a list of plugins belongs in a file called .conflist");
        let seen = single(r#"{"Name":"n","cniVersion":"0.2.0","type":"bridge"}"#).unwrap();
        assert_eq!((seen.name.as_str(), seen.version), ("n", (0, 2, 0)));
    }
}
