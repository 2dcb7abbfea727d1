//! The command lines of `install` and `uninstall`. They look at no network namespace, so they share no option of the
//! table with the other verbs.

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command};

/// The texts given for each long name.
pub type Texts = Vec<(&'static str, Vec<String>)>;

/// An option: its long name, its value, what it says.
type Opt = (&'static str, &'static str, &'static str);

const PLACES: [Opt; 3] = [
    ("bin-dir", "DIR", "the runtime's folder of plugins [default: /opt/cni/bin]"),
    ("net-dir", "DIR", "the runtime's folder of configurations [default: /etc/cni/net.d]"),
    ("root", "DIR", "where the host's root is mounted: the other paths are inside it [default: /]"),
];

const ANSWER: Opt = ("output", "text|json", "form of the answer [default: text]");

const INSTALL: [Opt; 11] = [
    (
        "chain",
        "NAME|auto",
        "the network to join; auto: the one that the runtime gives to pods [default: auto]",
    ),
    ("runtime", "containerd|crio", "whose choice of a file is followed [default: containerd]"),
    (
        "drop-in",
        "auto|always|never",
        "a file of our own instead of an edit; auto: only if it is proved to be read [default: auto]",
    ),
    ("runtime-binary", "FILE", "the runtime's program, as proof that it reads drop-ins"),
    ("selection", "istio|annotation|all", "which pods are captured [default: the plugin's, istio]"),
    ("exclude-namespace", "NAMES", "namespaces in which no pod is captured"),
    ("backend", "nftables|iptables|ebpf", "what captures in pods [default: the plugin's, nftables]"),
    ("plugin-config", "FILE", "JSON object with further keys of the plugin's entry"),
    ("wait", "SECONDS", "how long to wait for a configuration to appear [default: 0]"),
    ("every", "SECONDS", "stay, and do it again that often until SIGTERM; all waiting is between two rounds"),
    ANSWER,
];

const UNINSTALL: [Opt; 4] = [
    ("wait-for-pods", "SECONDS", "keep the program until no pod needs it for DEL, at most so long"),
    ("results-dir", "DIR", "libcni's cache [default: /var/lib/cni/results]"),
    ("every", "SECONDS", "stay, and do it again that often until SIGTERM; all waiting is between two rounds"),
    ANSWER,
];

fn arguments(options: &[Opt]) -> impl Iterator<Item = Arg> {
    PLACES.iter().chain(options).map(|(long, value, help)| {
        Arg::new(*long)
            .long(*long)
            .value_name(*value)
            .help(*help)
            .value_parser(ValueParser::string())
            .allow_negative_numbers(true)
            .action(ArgAction::Append)
    })
}

/// What `install` takes.
pub(super) fn installs(command: Command) -> Command {
    command.args(arguments(&INSTALL))
}

/// What `uninstall` takes.
pub(super) fn uninstalls(command: Command) -> Command {
    command.args(arguments(&UNINSTALL))
}

/// What was given of either.
pub(super) fn texts(matches: &ArgMatches) -> Texts {
    let longs = PLACES.iter().chain(&INSTALL).chain(&UNINSTALL).map(|(long, ..)| *long);
    let mut texts = Texts::new();
    for long in longs {
        // Each verb has its own: what one does not have was not given.
        let given = matches.try_get_many::<String>(long).ok().flatten();
        if let Some(values) = given
            && !texts.iter().any(|(known, _)| *known == long)
        {
            texts.push((long, values.cloned().collect()));
        }
    }
    texts
}
