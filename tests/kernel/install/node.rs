//! A node's folders, and a reader of them that is not ours.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::command::{MESH_INIT, Run, command};

/// Everything about a file that another vendor could miss: text or link, mode, owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) text: String,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
}

/// A node below `/run`, which the case has for itself.
pub(crate) struct Node {
    pub(crate) root: PathBuf,
}

impl Node {
    /// With these files in `etc/cni/net.d`; a text that begins with `->` is a link.
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let root = PathBuf::from("/run/node");
        fs::remove_dir_all(&root).ok();
        let node = Self { root };
        for folder in ["etc/cni/net.d", "opt/cni/bin", "var/lib/cni/results"] {
            fs::create_dir_all(node.root.join(folder)).unwrap();
        }
        files.iter().for_each(|(name, text)| node.put(name, text));
        node
    }

    pub(crate) fn net(&self) -> PathBuf {
        self.root.join("etc/cni/net.d")
    }

    pub(crate) fn program(&self) -> PathBuf {
        self.root.join("opt/cni/bin/mesh-init")
    }

    pub(crate) fn put(&self, name: &str, text: &str) {
        let path = self.net().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match text.strip_prefix("->") {
            Some(target) => symlink(target, &path).unwrap(),
            None => {
                fs::write(&path, text).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
                std::os::unix::fs::chown(&path, Some(0), Some(42)).unwrap();
            }
        }
    }

    pub(crate) fn text(&self, name: &str) -> String {
        let path = self.net().join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Runs the program with the node's folders.
    pub(crate) fn run(&self, verb: &str, args: &[&str]) -> Run {
        run(&self.words(verb, args))
    }

    /// The words of a run.
    pub(crate) fn words(&self, verb: &str, args: &[&str]) -> Vec<String> {
        let folder = |name: &str| self.root.join(name).to_str().unwrap().to_owned();
        let mut words = vec![verb.to_owned(), "--bin-dir".to_owned(), folder("opt/cni/bin")];
        words.extend(["--net-dir".to_owned(), folder("etc/cni/net.d")]);
        if verb == "uninstall" {
            words.extend(["--results-dir".to_owned(), folder("var/lib/cni/results")]);
        }
        words.extend(args.iter().map(ToString::to_string));
        words
    }

    /// All files of the configuration folder and those below it.
    pub(crate) fn seen(&self) -> BTreeMap<String, Seen> {
        let mut seen = BTreeMap::new();
        let net = self.net();
        look(&net, &net, &mut seen);
        seen
    }

    /// What in the folder of plugins is ours.
    pub(crate) fn programs(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.join("opt/cni/bin")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The names of a chain's plugins, as containerd 1.6 (libcni 1.1) loads its network.
    pub(crate) fn containerd(&self) -> Result<Vec<String>, String> {
        runtime(&self.net(), false)
    }

    /// The same with libcni 1.3, which reads drop-ins.
    pub(crate) fn newer(&self) -> Result<Vec<String>, String> {
        runtime(&self.net(), true)
    }

    #[track_caller]
    pub(crate) fn assert_program(&self) {
        let path = self.program();
        let metadata = fs::metadata(&path).expect("the program is in place");
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o755);
        assert!(fs::read(&path).unwrap() == fs::read(MESH_INIT).unwrap(), "the program is this one");
    }
}

pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(words: &[S]) -> Run {
    let output = command(MESH_INIT, words).output().expect("starting the program");
    let words: Vec<String> = words.iter().map(|word| word.as_ref().to_string_lossy().into_owned()).collect();
    let run = Run {
        line: format!("mesh-init {}", words.join(" ")),
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    eprintln!("+ {run}");
    run
}

fn look(top: &Path, folder: &Path, seen: &mut BTreeMap<String, Seen>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            look(top, &path, seen);
            continue;
        }
        let text = match metadata.is_symlink() {
            true => format!("->{}", fs::read_link(&path).unwrap().display()),
            false => String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned(),
        };
        let name = path.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
        let owner = (metadata.uid(), metadata.gid());
        seen.insert(name, Seen { text, mode: metadata.permissions().mode(), owner });
    }
}

/// go-cni's `loadFromConfDir` with one network, and libcni beneath it, told by hand and by another JSON reader.
fn runtime(net: &Path, drop_ins: bool) -> Result<Vec<String>, String> {
    let mut files: Vec<PathBuf> = fs::read_dir(net)
        .map_err(|error| error.to_string())?
        .map(|entry| entry.unwrap())
        .filter(|entry| !entry.file_type().unwrap().is_dir())
        .map(|entry| entry.path())
        .filter(|path| {
            matches!(path.extension().and_then(|of| of.to_str()), Some("conf" | "conflist" | "json"))
        })
        .collect();
    files.sort();
    let first = files.first().ok_or("no network config found")?;
    let json = |path: &Path| -> Result<Value, String> {
        let bytes = fs::read(path).map_err(|error| error.to_string())?;
        serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()))
    };
    let kind = |plugin: &Value| match plugin["type"].as_str() {
        Some(kind) if !kind.is_empty() => Ok(kind.to_owned()),
        _ => Err("missing 'type'".to_owned()),
    };
    let root = json(first)?;
    if first.extension().is_some_and(|extension| extension != "conflist") {
        return Ok(vec![kind(&root)?]);
    }
    let name = root["name"].as_str().ok_or("no name")?;
    let mut kinds = match root.get("plugins").map(Value::as_array) {
        Some(Some(plugins)) if !plugins.is_empty() => {
            plugins.iter().map(kind).collect::<Result<Vec<_>, _>>()?
        }
        None if drop_ins => Vec::new(),
        _ => return Err(format!("no plugins in list: {root}")),
    };
    let only = root["loadOnlyInlinedPlugins"].as_bool().unwrap_or_default();
    if drop_ins && !only && net.join(name).is_dir() {
        let mut more: Vec<PathBuf> =
            fs::read_dir(net.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        more.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
        more.sort();
        for path in more {
            kinds.push(kind(&json(&path)?)?);
        }
    }
    if kinds.is_empty() { Err("no plugin configs found".to_owned()) } else { Ok(kinds) }
}
