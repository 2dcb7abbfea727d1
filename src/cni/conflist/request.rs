//! What `install` and `uninstall` are asked, validated: every fault at once.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::Runtime;
use super::edit::Entry;
use super::entry::{self, Options};
use crate::cni::netconf::NetConf;
use crate::input::fault::Faults;
use crate::input::{Origin, Sourced};
use crate::policy::settings::Output;

/// The texts given for each long name.
pub type Given = [(&'static str, Vec<String>)];

/// Where things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Where the host's root is mounted; links are followed inside it.
    pub root: PathBuf,
    /// The folder of plugins.
    pub bin_dir: PathBuf,
    /// The folder of configurations.
    pub net_dir: PathBuf,
}

/// Whether our entry gets a file of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DropIn {
    /// Where it is certain that the runtime reads it.
    #[default]
    Auto,
    /// In any case.
    Always,
    /// Never.
    Never,
}

/// What `install` is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    /// Where.
    pub places: Places,
    /// The network's name; the runtime's default one if `None`.
    pub chain: Option<String>,
    /// Whose choice of a file is followed.
    pub runtime: Runtime,
    /// The runtime's program, to see whether it reads drop-ins.
    pub runtime_binary: Option<PathBuf>,
    /// Whether a file of our own is made.
    pub drop_in: DropIn,
    /// Our entry.
    pub entry: Entry,
    /// How long to wait for a configuration to appear.
    pub wait: Duration,
    /// To stay, and look again that often.
    pub every: Option<Duration>,
    /// The form of the answer.
    pub output: Output,
}

/// What `uninstall` is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uninstall {
    /// Where.
    pub places: Places,
    /// The folder in which libcni keeps what it will call DEL with.
    pub results_dir: PathBuf,
    /// How long to wait until no pod needs the program any more; `None` does not look.
    pub wait_for_pods: Option<Duration>,
    /// To stay, and look again that often.
    pub every: Option<Duration>,
    /// The form of the answer.
    pub output: Output,
}

/// The file that `--plugin-config` names.
#[must_use]
pub fn plugin_config(given: &Given) -> Option<&str> {
    given.iter().find(|(long, _)| *long == "plugin-config")?.1.first().map(String::as_str)
}

/// The form of the answer, as far as it can be known before everything is validated.
#[must_use]
pub fn output(given: &Given) -> Output {
    let json = |(long, texts): &(&str, Vec<String>)| {
        *long == "output" && texts.first().is_some_and(|text| text.eq_ignore_ascii_case("json"))
    };
    if given.iter().any(json) { Output::Json } else { Output::Text }
}

/// Validates what `install` was given; `file` is what `--plugin-config` holds.
///
/// # Errors
/// Everything that is wrong.
pub fn install(given: &Given, file: Option<Result<String, String>>) -> Result<Install, Faults> {
    let mut reader = Reader { given, faults: Faults::default() };
    let places = reader.places();
    let chain = reader.one("chain").filter(|chain| chain.text != "auto");
    if let Some(name) = chain.as_ref().filter(|name| !super::is_network_name(&name.text)) {
        let remedy =
            "give the name that stands in the configuration: letters, digits, and _ . - behind the first";
        reader.faults.value(name, &name.text, "is no network's name", remedy);
    }
    let runtimes = [("containerd", Runtime::Containerd), ("crio", Runtime::Crio), ("cri-o", Runtime::Crio)];
    let runtime = reader.word("runtime", "containerd or crio", &runtimes).unwrap_or_default();
    let runtime_binary = reader.path("runtime-binary", None);
    let kinds = [("auto", DropIn::Auto), ("always", DropIn::Always), ("never", DropIn::Never)];
    let drop_in = reader.word("drop-in", "auto, always or never", &kinds).unwrap_or_default();
    let selections = ["istio", "annotation", "all"].map(|word| (word, word));
    let backends = ["nftables", "iptables", "ebpf"].map(|word| (word, word));
    let options = Options {
        selection: reader.word("selection", "istio, annotation or all", &selections).map(str::to_owned),
        exclude_namespaces: reader.namespaces(),
        backend: reader.word("backend", "nftables, iptables or ebpf", &backends).map(str::to_owned),
    };
    let file = match (reader.one("plugin-config"), file) {
        (Some(given), Some(Ok(text))) => entry::read(&given, &text, &mut reader.faults),
        (Some(given), Some(Err(why))) => {
            reader.faults.value(&given, &given.text, why, "give a file of JSON that can be read");
            None
        }
        (_, _) => None,
    };
    let wait = reader.seconds("wait", 0).unwrap_or_default();
    let every = reader.seconds("every", 1);
    // Rounds wait for each other, not in themselves: a request to end comes between two.
    let wait = if every.is_some() { Duration::ZERO } else { wait };
    let output = reader.output();
    let entry = entry::entry(&options, file);
    if reader.faults.is_empty() {
        // What the plugin would refuse, it would refuse for every pod of the node.
        let text = Value::Object(entry.clone()).to_string();
        reader.faults.extend(NetConf::parse(text.as_bytes()).err().unwrap_or_default());
    }
    let chain = chain.map(|chain| chain.text);
    let install = Install { places, chain, runtime, runtime_binary, drop_in, entry, wait, every, output };
    reader.faults.into_result(install)
}

/// Validates what `uninstall` was given.
///
/// # Errors
/// Everything that is wrong.
pub fn uninstall(given: &Given) -> Result<Uninstall, Faults> {
    let mut reader = Reader { given, faults: Faults::default() };
    let places = reader.places();
    let results_dir = reader.path("results-dir", Some("/var/lib/cni/results")).unwrap_or_default();
    let wait_for_pods = reader.seconds("wait-for-pods", 0);
    let every = reader.seconds("every", 1);
    let wait_for_pods = wait_for_pods.map(|wait| if every.is_some() { Duration::ZERO } else { wait });
    let output = reader.output();
    reader.faults.into_result(Uninstall { places, results_dir, wait_for_pods, every, output })
}

struct Reader<'a> {
    given: &'a Given,
    faults: Faults,
}

impl Reader<'_> {
    fn all(&self, long: &'static str) -> impl Iterator<Item = Sourced> + use<'_> {
        let texts = self.given.iter().filter(move |(name, _)| *name == long).flat_map(|(_, texts)| texts);
        texts.map(move |text| Sourced { text: text.clone(), origin: Origin::Flag(long) })
    }

    /// What a flag that may be given once says.
    fn one(&mut self, long: &'static str) -> Option<Sourced> {
        let mut all = self.all(long);
        let (first, second) = (all.next(), all.next());
        drop(all);
        if let Some(second) = second {
            self.faults.option(&second, "is given more than once", "give it once");
        }
        first
    }

    fn word<T: Copy>(&mut self, long: &'static str, words: &str, known: &[(&str, T)]) -> Option<T> {
        let given = self.one(long)?;
        let found = known.iter().find(|(word, _)| given.text.eq_ignore_ascii_case(word));
        if found.is_none() {
            self.faults.value(&given, &given.text, "is not known", format!("give {words}"));
        }
        found.map(|(_, meant)| *meant)
    }

    fn output(&mut self) -> Output {
        let words = [("text", Output::Text), ("json", Output::Json)];
        self.word("output", "text or json", &words).unwrap_or_default()
    }

    fn path(&mut self, long: &'static str, default: Option<&str>) -> Option<PathBuf> {
        let given = self.one(long);
        if let Some(given) =
            given.as_ref().filter(|given| !given.text.starts_with('/') || given.text.contains('\0'))
        {
            self.faults.value(given, &given.text, "is no absolute path", "begin it with a slash");
        }
        given.map(|given| given.text).or_else(|| default.map(str::to_owned)).map(PathBuf::from)
    }

    fn places(&mut self) -> Places {
        let mut path = |long, default| self.path(long, Some(default)).unwrap_or_default();
        let places = Places {
            root: path("root", "/"),
            bin_dir: path("bin-dir", "/opt/cni/bin"),
            net_dir: path("net-dir", "/etc/cni/net.d"),
        };
        if places.bin_dir == places.net_dir {
            let remedy = "give the folder of programs and the folder of configurations";
            self.faults.whole("--bin-dir and --net-dir name the same folder", remedy);
        }
        places
    }

    /// Whole seconds, at most a day.
    fn seconds(&mut self, long: &'static str, least: u64) -> Option<Duration> {
        let given = self.one(long)?;
        let digits = given.text.bytes().all(|byte| byte.is_ascii_digit());
        let number = given.text.parse().ok().filter(|seconds| digits && (least..=86_400).contains(seconds));
        if number.is_none() {
            let remedy = format!("give whole seconds from {least} to 86400");
            self.faults.value(&given, &given.text, "is no such time", remedy);
        }
        number.map(Duration::from_secs)
    }

    /// Names of namespaces, which are DNS labels (RFC 1123).
    fn namespaces(&mut self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let given: Vec<Sourced> = self.all("exclude-namespace").collect();
        for given in &given {
            for name in given.text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
                let is_label = name.len() <= 63
                    && name.bytes().all(fits)
                    && !name.starts_with('-')
                    && !name.ends_with('-');
                if !is_label {
                    let remedy = "give names of small letters, digits and hyphens, 63 at most";
                    self.faults.value(given, name, "is no namespace's name", remedy);
                } else if !names.iter().any(|known| known == name) {
                    names.push(name.to_owned());
                }
            }
        }
        names
    }
}
