//! The network configuration on the plugin's stdin: the runtime's keys and ours.
//!
//! `prevResult` is kept as the text it came as. A key of ours that is misspelt is a fault, for a namespace that was to
//! be excluded and is not would be captured in silence; keys of the specification are none of our business and pass.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::value::RawValue;
use tracing::Level;

use super::members::{Members, similar};
use super::pod::{Annotations, CAPABILITY};
use super::reading;
use crate::input::{Faults, Key, Origin, Raw, Sourced, config};

/// Which pods are captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Selection {
    /// Those into which Istio's injector has put a sidecar.
    #[default]
    Istio,
    /// Those whose annotations of ours say so.
    Annotation,
    /// All but those of excluded namespaces.
    All,
}

impl Selection {
    const WORDS: [(&str, Selection); 3] =
        [("istio", Selection::Istio), ("annotation", Selection::Annotation), ("all", Selection::All)];

    /// The word in the configuration.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Selection::Istio => "istio",
            Selection::Annotation => "annotation",
            Selection::All => "all",
        }
    }
}

/// What becomes of a pod whose annotations nobody tells us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnMissing {
    /// It does not start, and the runtime tries again.
    #[default]
    Fail,
    /// It starts uncaptured.
    Skip,
}

/// An attachment that `GC` is to keep.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// `containerID`.
    pub container_id: String,
    /// `ifname`.
    pub interface: String,
}

/// The result of the plugin before us in the chain.
#[derive(Debug, Clone)]
pub struct PrevResult {
    /// The JSON object, every byte as it came.
    pub text: Box<RawValue>,
    /// Whether it says its version. Go's plugins write the key as `CNIVersion` too, so its case does not count.
    pub has_version: bool,
}

impl PrevResult {
    /// The object as an answer in `version`: untouched, but for its version if the runtime left that out.
    #[must_use]
    pub fn with_version(&self, version: &str) -> String {
        let text = self.text.get();
        let inner = text.strip_prefix('{').unwrap_or(text);
        match (self.has_version, inner.trim_start().starts_with('}')) {
            (true, _) => text.to_owned(),
            (false, true) => format!("{{\"cniVersion\":{}}}", serde_json::Value::from(version)),
            (false, false) => format!("{{\"cniVersion\":{},{inner}", serde_json::Value::from(version)),
        }
    }
}

/// The keys that the specification has for every plugin, as far as we need them.
#[derive(Debug, Clone, Default)]
pub struct Standard {
    /// `cniVersion`; 0.1.0 if there is none, as the specification has it.
    pub cni_version: String,
    /// `name` of the network; empty if there is none.
    pub name: String,
    /// `type` of the plugin; empty if there is none.
    pub plugin: String,
    /// `prevResult`.
    pub prev_result: Option<PrevResult>,
    /// `cni.dev/valid-attachments`, or the older key without `valid-`. None is not an empty list: nothing is said.
    pub valid_attachments: Option<Vec<Attachment>>,
}

/// The whole configuration.
#[derive(Debug, Clone)]
pub struct NetConf {
    /// The specification's keys.
    pub standard: Standard,
    /// The pod's annotations, if the runtime passed them on.
    pub annotations: Annotations,
    /// `selection`.
    pub selection: Selection,
    /// `excludeNamespaces`.
    pub exclude_namespaces: Vec<String>,
    /// `onMissingAnnotations`.
    pub on_missing_annotations: OnMissing,
    /// `agentSocket`: who can be asked for annotations.
    pub agent_socket: Option<PathBuf>,
    /// `logFile`; `None` if it is given as `""`.
    pub log_file: Option<PathBuf>,
    /// `logLevel`.
    pub log_level: Level,
    /// The pod's control group, by the capability `cgroupPath`: a path from the root of the hierarchy.
    pub cgroup_path: Option<String>,
    /// `policy`, `backend`, `cgroup` and `iptablesVariant`: what a pod's annotations leave open.
    pub defaults: Raw,
}

/// Namespaces that are not captured unless `excludeNamespaces` says otherwise: the cluster's own, and that of
/// `deploy/kubernetes`, so that nothing we need waits for us.
pub const EXCLUDED_NAMESPACES: [&str; 2] = ["kube-system", "mesh-init"];
/// Where the log goes unless `logFile` says otherwise.
pub const LOG_FILE: &str = "/var/log/mesh-init/cni.log";

/// Keys of ours.
pub const OURS: [&str; 10] = [
    "selection",
    "excludeNamespaces",
    "onMissingAnnotations",
    "backend",
    "cgroup",
    "iptablesVariant",
    "policy",
    "logFile",
    "logLevel",
    "agentSocket",
];

/// Keys that runtimes and the specification have, beside those that begin with `cni.dev/`.
const THEIRS: [&str; 10] = [
    "cniVersion",
    "name",
    "type",
    "prevResult",
    "runtimeConfig",
    "capabilities",
    "args",
    "ipam",
    "dns",
    "ipMasq",
];

/// The name under which faults speak of the configuration.
const SOURCE: &str = "netconf";

fn origin(key: &str) -> Origin {
    Origin::Config { path: SOURCE.to_owned(), key: key.to_owned() }
}

impl Standard {
    /// Reads the specification's keys alone: what `DEL` and an error message need, whatever is wrong with ours.
    ///
    /// # Errors
    /// What is not JSON, not an object, or not of the type that the specification has.
    pub fn parse(text: &[u8]) -> Result<Standard, Faults> {
        let mut faults = Faults::default();
        let standard = match Members::parse(text) {
            Ok(members) => standard(&members, &mut faults),
            Err(why) => {
                undecodable(&why, &mut faults);
                Standard::default()
            }
        };
        faults.into_result(standard)
    }
}

impl NetConf {
    /// Reads everything.
    ///
    /// # Errors
    /// Every fault there is.
    pub fn parse(text: &[u8]) -> Result<NetConf, Faults> {
        let mut faults = Faults::default();
        let members = match Members::parse(text) {
            Ok(members) => members,
            Err(why) => {
                undecodable(&why, &mut faults);
                Members::default()
            }
        };
        unknown(&members, &mut faults);
        let mut reader = Reader { members: &members, faults: &mut faults };
        let conf = NetConf {
            standard: standard(&members, reader.faults),
            annotations: annotations(&members, reader.faults),
            selection: reader.word("selection", &Selection::WORDS),
            exclude_namespaces: reader.namespaces(),
            on_missing_annotations: reader
                .word("onMissingAnnotations", &[("fail", OnMissing::Fail), ("skip", OnMissing::Skip)]),
            agent_socket: reader.path("agentSocket"),
            cgroup_path: reader.cgroup_path(),
            log_file: match reader.text("logFile") {
                Some(text) if text.is_empty() => None,
                Some(_) => reader.path("logFile"),
                None => Some(PathBuf::from(LOG_FILE)),
            },
            log_level: reader.level(),
            defaults: reader.defaults(),
        };
        // What no pod can be captured by is told before there is one.
        if faults.is_empty() {
            reading::request(&BTreeMap::new(), &conf)?;
        }
        faults.into_result(conf)
    }
}

fn undecodable(why: &str, faults: &mut Faults) {
    faults.source(origin(""), why, "give the plugin's network configuration, one JSON object");
}

fn unknown(members: &Members<'_>, faults: &mut Faults) {
    let known = |name: &str| OURS.contains(&name) || THEIRS.contains(&name) || name.starts_with("cni.dev/");
    for name in members.names().filter(|name| !known(name)) {
        // A configuration of a million such keys has to be refused within the deadline.
        let meant = match faults.are_many() {
            true => None,
            false => similar(name, OURS.into_iter().chain(THEIRS)),
        };
        let remedy = match meant {
            Some(meant) => format!("did you mean {meant}?"),
            None => "take it out, or see docs/cni.md for the keys".to_owned(),
        };
        faults.source(origin(name), "is not a known key", remedy);
    }
}

fn standard(members: &Members<'_>, faults: &mut Faults) -> Standard {
    let mut reader = Reader { members, faults };
    Standard {
        cni_version: reader.text("cniVersion").filter(|text| !text.is_empty()).unwrap_or("0.1.0".to_owned()),
        name: reader.text("name").unwrap_or_default(),
        plugin: reader.text("type").unwrap_or_default(),
        prev_result: reader.prev_result(),
        valid_attachments: reader
            .attachments("cni.dev/valid-attachments")
            .or_else(|| reader.attachments("cni.dev/attachments")),
    }
}

/// Delivered is what the key is there for, whatever it holds: a pod without annotations comes as `{}` or `null`.
fn annotations(members: &Members<'_>, faults: &mut Faults) -> Annotations {
    let key = format!("runtimeConfig[{CAPABILITY:?}]");
    let delivered = match members.given("runtimeConfig").map(Members::of) {
        None => return Annotations::Absent,
        Some(Ok(inner)) => inner.get(CAPABILITY).map(|value| (value, Members::of(value))),
        Some(Err(why)) => {
            faults.source(origin("runtimeConfig"), why, "this comes from the runtime: give an object");
            return Annotations::Absent;
        }
    };
    match delivered {
        None => Annotations::Absent,
        Some((_, Ok(all))) => {
            let mut map = BTreeMap::new();
            for (name, value) in all.iter() {
                match serde_json::from_str::<String>(value.get()) {
                    Ok(text) => {
                        map.insert(name.to_owned(), text);
                    }
                    Err(_) => {
                        let origin = Origin::Annotation { name: name.to_owned(), key: String::new() };
                        faults.source(
                            origin,
                            "is not a string",
                            "this comes from the runtime: give a string",
                        );
                    }
                }
            }
            Annotations::Delivered(map)
        }
        Some((value, Err(_))) if value.get() == "null" => Annotations::Delivered(BTreeMap::new()),
        Some((_, Err(why))) => {
            faults.source(origin(&key), why, "this comes from the runtime: give an object");
            Annotations::Absent
        }
    }
}

struct Reader<'a, 'b> {
    members: &'a Members<'a>,
    faults: &'b mut Faults,
}

impl Reader<'_, '_> {
    fn fault(&mut self, key: &str, problem: &str, remedy: &str) {
        self.faults.source(origin(key), problem, remedy);
    }

    /// A string.
    fn text(&mut self, key: &str) -> Option<String> {
        let value = self.members.given(key)?;
        match serde_json::from_str(value.get()) {
            Ok(text) => Some(text),
            Err(_) => {
                self.fault(key, "is not a string", "write a string");
                None
            }
        }
    }

    fn word<T: Copy + Default>(&mut self, key: &str, words: &[(&str, T)]) -> T {
        let Some(text) = self.text(key) else { return T::default() };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let given = Sourced { text, origin: origin(key) };
        let remedy = format!("write {}", names.join(", "));
        self.faults.value(&given, &given.text, "is not one of its values", remedy);
        T::default()
    }

    fn level(&mut self) -> Level {
        const WORDS: [(&str, Option<Level>); 5] = [
            ("error", Some(Level::ERROR)),
            ("warn", Some(Level::WARN)),
            ("info", Some(Level::INFO)),
            ("debug", Some(Level::DEBUG)),
            ("trace", Some(Level::TRACE)),
        ];
        self.word("logLevel", &WORDS).unwrap_or(Level::INFO)
    }

    /// The plugin runs wherever the runtime does: a path is absolute.
    fn path(&mut self, key: &str) -> Option<PathBuf> {
        let text = self.text(key)?;
        if Path::new(&text).is_absolute() && !text.contains('\0') {
            return Some(PathBuf::from(text));
        }
        let given = Sourced { text, origin: origin(key) };
        self.faults.value(&given, &given.text, "is not an absolute path", "write one that begins with /");
        None
    }

    fn namespaces(&mut self) -> Vec<String> {
        const KEY: &str = "excludeNamespaces";
        let Some(value) = self.members.given(KEY) else {
            return EXCLUDED_NAMESPACES.map(str::to_owned).to_vec();
        };
        let Ok(names) = serde_json::from_str::<Vec<String>>(value.get()) else {
            self.fault(KEY, "is not a list of strings", "write an array of names");
            return Vec::new();
        };
        // RFC 1123: what a namespace may be called, so that a pattern or a typing error does not exclude nothing.
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        for (index, name) in names.iter().enumerate() {
            if name.is_empty() || name.len() > 63 || !name.bytes().all(plain) {
                let given = Sourced { text: name.clone(), origin: origin(&format!("{KEY}[{index}]")) };
                let remedy = "write one of at most 63 lower-case letters, digits and -";
                self.faults.value(&given, name, "is not a namespace's name", remedy);
            }
        }
        names
    }

    fn defaults(&mut self) -> Raw {
        let mut raw = match self.members.given("policy") {
            Some(value) => {
                let at = |key: &str| {
                    origin(if key.is_empty() { "policy".into() } else { format!("policy.{key}") }.as_str())
                };
                config::inside(value.get(), &at, self.faults)
            }
            None => Raw::default(),
        };
        for (key, of) in
            [("backend", Key::Backend), ("cgroup", Key::Cgroup), ("iptablesVariant", Key::IptablesVariant)]
        {
            if let Some(text) = self.text(key) {
                raw.push(of, text, origin(key));
            }
        }
        raw
    }

    /// A capability like any other: whoever passes it on may know the pod's control group under another hierarchy, so
    /// that a path which is not there is no fault.
    fn cgroup_path(&mut self) -> Option<String> {
        const KEY: &str = "cgroupPath";
        let inner = Members::of(self.members.given("runtimeConfig")?).ok()?;
        let value = inner.get(KEY).filter(|value| value.get() != "null")?;
        match serde_json::from_str::<String>(value.get()) {
            Ok(path) => Some(path).filter(|path| !path.is_empty()),
            Err(_) => {
                self.fault(
                    &format!("runtimeConfig[{KEY:?}]"),
                    "is not a string",
                    "this comes from the runtime: give a path",
                );
                None
            }
        }
    }

    fn prev_result(&mut self) -> Option<PrevResult> {
        let value = self.members.given("prevResult")?;
        match Members::of(value) {
            Ok(members) => {
                let has_version = members.names().any(|name| name.eq_ignore_ascii_case("cniVersion"));
                Some(PrevResult { text: value.to_owned(), has_version })
            }
            Err(why) => {
                self.fault("prevResult", &why, "this comes from the runtime: give an object");
                None
            }
        }
    }

    fn attachments(&mut self, key: &str) -> Option<Vec<Attachment>> {
        let value = self.members.given(key)?;
        let read = serde_json::from_str::<Vec<&RawValue>>(value.get()).ok().and_then(|items| {
            let attachment = |item: &RawValue| {
                let members = Members::of(item).ok()?;
                let text = |name| serde_json::from_str(members.get(name)?.get()).ok();
                Some(Attachment { container_id: text("containerID")?, interface: text("ifname")? })
            };
            items.into_iter().map(attachment).collect()
        });
        if read.is_none() {
            self.fault(key, "is not a list of attachments", "give objects with containerID and ifname");
        }
        read
    }
}
