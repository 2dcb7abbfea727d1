//! The calls of `tests/golden/istio`: how they are made, on which host, and what upstream sends to the kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::mount::{MsFlags, mount};

use crate::support::call::Call;
use crate::support::command::Run;
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, restore};

/// A call of `istio-iptables`.
#[derive(Clone, Debug)]
pub(crate) struct Golden {
    pub(crate) name: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    host: String,
    /// What upstream hands to `iptables-restore`.
    pub(super) v4: String,
    /// The same for `ip6tables-restore`; empty if IPv6 is off.
    pub(super) v6: String,
}

/// The names of all calls, in order.
pub(crate) fn names() -> Vec<String> {
    let entries = fs::read_dir(folder()).expect("the golden files are there");
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

impl Golden {
    pub(crate) fn read(name: &str) -> Self {
        let text = |file: &str| {
            let path = folder().join(name).join(file);
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let assignment = |line: &str| {
            let (name, value) = line.split_once('=').expect("NAME=value");
            (name.to_owned(), value.to_owned())
        };
        let (v4, v6) = texts(&text("expected.txt"));
        Self {
            name: name.to_owned(),
            args: text("args").lines().map(str::to_owned).collect(),
            env: text("env").lines().map(assignment).collect(),
            host: text("host"),
            v4,
            v6,
        }
    }

    /// The bare rules that nothing beside them tells to be upstream's: of excluded interfaces, and of rerouted
    /// ones where nothing is captured. As they are loaded, by table.
    pub(super) fn untold(&self, family: Family) -> Vec<(&str, &str)> {
        let (mut untold, mut table) = (Vec::new(), "");
        for line in self.text(family).lines() {
            table = line.strip_prefix("* ").unwrap_or(table);
            let words: Vec<_> = line.split(' ').collect();
            let is_untold = match words[..] {
                ["-A", "PREROUTING", "-i", _, "-j", "RETURN"] | ["-A", "OUTPUT", "-o", _, "-j", "RETURN"] => {
                    true
                }
                ["-I", "PREROUTING", "1", "-i", name, "-j", "RETURN"] => {
                    let captured = |line: &str| {
                        line.starts_with(&format!("-I PREROUTING 1 -i {name} "))
                            && line.ends_with(" ISTIO_REDIRECT")
                    };
                    !self.text(family).lines().any(captured)
                }
                _ => false,
            };
            if is_untold {
                untold.push((table, line));
            }
        }
        untold
    }

    /// The rules in built-in chains that jump to no chain of upstream's, by table.
    pub(super) fn bare(&self, family: Family) -> Vec<(&str, &str)> {
        let (mut bare, mut table) = (Vec::new(), "");
        for line in self.text(family).lines() {
            table = line.strip_prefix("* ").unwrap_or(table);
            let built_in = ["PREROUTING", "OUTPUT"].iter().any(|chain| line.split(' ').nth(1) == Some(chain));
            if built_in && !line.contains(" -j ISTIO_") {
                bare.push((table, line));
            }
        }
        bare
    }

    /// The packet mark of TPROXY, if inbound traffic is captured that way.
    pub(crate) fn mark(&self) -> Option<&str> {
        self.v4.lines().find_map(|line| line.strip_prefix("-A ISTIO_DIVERT -j MARK --set-mark "))
    }

    pub(super) fn text(&self, family: Family) -> &str {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Loads what upstream would, as upstream would.
    #[track_caller]
    pub(crate) fn load(&self, netns: &Netns, variant: Variant) {
        for family in Family::BOTH {
            if !self.text(family).is_empty() {
                restore(netns, variant, family, self.text(family));
            }
        }
    }

    /// `istio-iptables` with the flags and the variables of the call, and `more` flags, on the call's host.
    pub(crate) fn run(&self, netns: &Netns, variant: Variant, more: &[&str]) -> Run {
        self.answer_files();
        let mut words = vec!["istio-iptables"];
        words.extend(self.args.iter().map(String::as_str));
        // What was a dry run is not one here.
        words.extend(more.iter().copied().chain(["--dry-run=false"]));
        let mut call = Call::mesh_init(netns, &words);
        for (name, value) in &self.env {
            call = call.env(name, value);
        }
        call.env("FORCE_IPTABLES_BINARY", variant.name()).run()
    }

    /// What `mesh-init` is called with to make the same without a kernel.
    pub(crate) fn words(&self) -> (&[String], &[(String, String)]) {
        (&self.args, &self.env)
    }

    /// A namespace with the addresses of the call's host. Its link never carries a packet, so that no counter
    /// moves by itself.
    pub(crate) fn namespace(&self) -> Netns {
        let netns = Netns::new("here");
        netns.ip(
            "link add eth0 address 02:00:00:00:00:01 type veth peer name far address 02:00:00:00:00:02\n\
             link set eth0 arp off multicast off\nlink set eth0 up",
        );
        let lines = self.facts("address").filter_map(|address| match address {
            // `lo` has its own.
            "127.0.0.1" | "::1" => None,
            v6 if v6.contains(':') => Some(format!("addr add {v6}/64 dev eth0 nodad\n")),
            v4 => Some(format!("addr add {v4}/24 dev eth0\n")),
        });
        netns.ip(&lines.collect::<String>());
        netns
    }

    fn facts<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a str> {
        self.host.lines().filter_map(move |line| line.strip_prefix(kind)?.strip_prefix(' '))
    }

    /// Puts the host's answers into the files that are asked.
    pub(crate) fn answer_files(&self) {
        let folder = own_files();
        let servers = self.facts("nameserver").map(|server| format!("nameserver {server}\n"));
        fs::write(folder.join("resolv.conf"), servers.collect::<String>()).expect("our resolv.conf");
        let entry = |fact: &str| {
            let (name, id) = fact.split_once(' ').expect("a name and a number");
            (name.to_owned(), id.to_owned())
        };
        let users =
            self.facts("user").map(entry).map(|(name, id)| format!("{name}:x:{id}:{id}::/:/bin/false\n"));
        let users = format!("root:x:0:0::/root:/bin/sh\n{}", users.collect::<String>());
        fs::write(folder.join("passwd"), users).expect("our passwd");
        let groups = self.facts("group").map(entry).map(|(name, id)| format!("{name}:x:{id}:\n"));
        let groups = format!("root:x:0:\n{}", groups.collect::<String>());
        fs::write(folder.join("group"), groups).expect("our group");
    }
}

/// Files of the case's own in the place of the machine's, in the mount namespace of the case.
fn own_files() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = PathBuf::from("/run/own-etc");
        fs::create_dir(&folder).expect("a folder in /run");
        for name in ["resolv.conf", "passwd", "group"] {
            let (own, none) = (folder.join(name), None::<&str>);
            fs::write(&own, "").expect("a file in /run");
            mount(Some(&own), &Path::new("/etc").join(name), none, MsFlags::MS_BIND, none)
                .unwrap_or_else(|error| panic!("binding {name}: {error}"));
        }
        folder
    })
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/istio")
}

/// The two restores of a transcript. Each has its tables by name, so that the second begins where a name is no
/// later than the one before.
fn texts(transcript: &str) -> (String, String) {
    let (mut texts, mut at) = ([String::new(), String::new()], 0);
    let mut last = "";
    for line in transcript.lines().filter(|line| !line.ends_with("tables-save")) {
        if let Some(table) = line.strip_prefix("* ") {
            at += usize::from(table <= last);
            last = table;
        }
        texts[at].push_str(line);
        texts[at].push('\n');
    }
    let [v4, v6] = texts;
    assert_eq!(!v6.is_empty(), transcript.ends_with("ip6tables-save\n"), "an odd transcript:\n{transcript}");
    (v4, v6)
}
