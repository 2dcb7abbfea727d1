//! The command line's shape, made from the table of options. No meaning here: values stay text.

mod explain;
pub mod install;
mod watch;

use std::ffi::OsString;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::input::istio::{FLAGS, Shape};
use crate::input::options::{Key, Kind, OPTIONS, Part, option};
use crate::input::{Faults, Origin, Raw, flags};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Make the rules hold.
    Apply,
    /// Say what would be done.
    Plan {
        /// By the state of this machine, not from nothing.
        live: bool,
    },
    /// Say what is captured here.
    Status,
    /// Take everything of ours away.
    Clean,
    /// What waits to be confirmed is good.
    Confirm,
    /// Show how often each clause decides, again and again.
    Watch {
        /// Seconds between two looks.
        interval: u16,
        /// After how many looks to end; never if `None`.
        count: Option<u32>,
    },
    /// Say whether capture holds.
    Verify {
        /// Nothing may be left untried.
        strict: bool,
        /// Read the rules, try nothing.
        quick: bool,
        /// Apply again what does not hold.
        repair: bool,
    },
}

impl Verb {
    /// The parts of the table whose options the verb takes.
    #[must_use]
    pub fn parts(self) -> &'static [Part] {
        match self {
            Verb::Apply | Verb::Plan { .. } | Verb::Verify { .. } => ALL_PARTS,
            Verb::Status | Verb::Clean | Verb::Confirm | Verb::Watch { .. } => &[Part::Looking],
        }
    }
}

/// The parts of the table whose options verbs take that make rules, or ask what rules would do.
pub const ALL_PARTS: &[Part] = &[Part::Policy, Part::Making, Part::Looking];

/// What `explain` is asked beside the policy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// By the rules that the kernel holds, not by those that the options would make.
    pub live: bool,
    /// One connection of every kind.
    pub all: bool,
    /// Two policies to compare: files, or flags in one text.
    pub diff: Vec<String>,
    /// By what the CNI plugin would decide for a pod.
    pub pod: Option<Pod>,
    /// Connections, as they were typed.
    pub connections: Vec<String>,
}

/// A pod that `explain` is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// A file, `-` for standard input, or `NAMESPACE/NAME`.
    pub text: String,
    /// The file of the plugin's configuration.
    pub netconf: Option<String>,
    /// Where libcni keeps what it remembers.
    pub cache: String,
}

/// A command line of `istio-iptables`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Istio {
    /// The texts given for each long name.
    pub flags: Vec<(&'static str, Vec<String>)>,
    /// Options of our own that it takes beside upstream's.
    pub extra: Raw,
}

/// A command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// Something to do.
    Call {
        /// What.
        verb: Verb,
        /// With which flags.
        flags: Raw,
        /// Whether the verb was spelled out.
        explicit: bool,
        /// Words that it does not take.
        faults: Faults,
    },
    /// Questions about connections.
    Explain {
        /// Which.
        asked: Asked,
        /// With which flags.
        flags: Raw,
        /// Words that it does not take.
        faults: Faults,
    },
    /// `watch --trace`.
    Trace {
        /// Which packets, as it was typed.
        filter: String,
        /// After how many packets to end; never if `None`.
        count: Option<u32>,
        /// With which flags.
        flags: Raw,
        /// Words that it does not take.
        faults: Faults,
    },
    /// Join a chain of CNI plugins.
    Install(install::Texts),
    /// Leave it.
    Uninstall(install::Texts),
    /// `istio-iptables`, by that name or as the first word.
    Istio(Istio),
    /// A container runtime's call, or what there is to know about such calls.
    Cni,
    /// Help or version, asked for.
    Answer(String),
    /// Nothing that can be understood.
    Misuse(String),
}

/// Options of our own that `istio-iptables` takes.
const EXTRA: [Key; 5] = [Key::Host, Key::ConfirmWithin, Key::All, Key::Wait, Key::Output];

const ABOUT: &str =
    "Decides which traffic of a pod or VM a service mesh's sidecar sees, and makes the kernel agree";

const EXAMPLES: &str = "\
Examples:
  mesh-init -p 15001 -u 1337                    capture a pod (init container)
  mesh-init --uid-owner 1338 --inbound 8001     capture one user and one port of a VM
  mesh-init plan -p 15001 -u 1337               show the rules, change nothing
  mesh-init status                              what is captured here
  mesh-init verify                              does it hold: tries connections
  mesh-init explain --live out tcp 10.1.2.3:80  what becomes of it here, and by which rule
  mesh-init watch --trace out tcp :80           the way of each packet through the rules
  mesh-init clean                               take it all away
  mesh-init istio-iptables -p 15001 -z 15006 …  as istio-iptables, rule for rule

Every option FLAG-NAME can also be given as the variable MESH_INIT_FLAG_NAME, in an env file or (the policy)
in a config file. A flag wins over a variable, a variable over an env file, an env file over a config file.

Exit codes: 0 done or nothing to do; 1 refused, nothing left half-done; 64 bad input; 69 the host lacks
something; 75 try again; 77 missing privilege; 126 capture does not hold.";

fn arguments(parts: &[Part]) -> Vec<Arg> {
    let mut arguments = Vec::new();
    for opt in OPTIONS.iter().filter(|opt| parts.contains(&opt.part)) {
        let heading = match opt.part {
            Part::Policy => "What is captured",
            Part::Making => "How rules are made",
            Part::Looking => "Where and how",
        };
        let mut argument = Arg::new(opt.long)
            .long(opt.long)
            .aliases(opt.aliases.iter().copied())
            .help(opt.help)
            .help_heading(heading)
            .value_parser(ValueParser::string())
            // "-1" is a wrong number, to be told beside the other faults, not an unknown flag.
            .allow_negative_numbers(true)
            .action(ArgAction::Append);
        if let Some(short) = opt.short {
            argument = argument.short(short);
        }
        argument = match opt.kind {
            Kind::Switch => {
                argument.num_args(0..=1).require_equals(true).default_missing_value("true").value_name("BOOL")
            }
            Kind::One | Kind::List => argument.value_name(opt.value),
        };
        arguments.push(argument);
    }
    arguments
}

fn command() -> Command {
    // Deferred: a run builds the arguments of its own verb only, which is most of its start-up time.
    let verb = |name: &'static str, about: &'static str| Command::new(name).about(about);
    let rules = |command: Command| command.args(arguments(Verb::Apply.parts()));
    let looks = |command: Command| command.args(arguments(Verb::Status.parts()));
    let watches = |command: Command| command.args(arguments(Verb::Status.parts())).args(watch::arguments());
    let live = |command: Command| {
        let help = "what apply would send now, by the state of this machine";
        command
            .args(arguments(Verb::Apply.parts()))
            .arg(Arg::new("live").long("live").action(ArgAction::SetTrue).help(help))
    };
    let tries = |command: Command| {
        let switch = |name: &'static str, help: &'static str| {
            Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
        };
        command
            .args(arguments(Verb::Apply.parts()))
            .arg(switch("strict", "what could not be tried does not count as captured"))
            .arg(switch("quick", "read the rules only, try no connection"))
            .arg(switch("repair", "apply again what does not hold; needs the policy's flags or files"))
    };
    let explains = |command: Command| command.args(explain::arguments());
    Command::new("mesh-init")
        .about(ABOUT)
        .version(env!("CARGO_PKG_VERSION"))
        .after_help(EXAMPLES)
        .args_conflicts_with_subcommands(true)
        .disable_help_subcommand(true)
        .term_width(100)
        .args(arguments(Verb::Apply.parts()))
        .subcommand(verb("apply", "Make the rules hold (the default)").defer(rules))
        .subcommand(verb("plan", "Show the rules; needs no privileges").defer(live))
        .subcommand(verb("status", "Say what is captured here").defer(looks))
        .subcommand(verb("clean", "Take everything of ours away").defer(looks))
        .subcommand(verb("verify", "Say whether capture holds, by trying it; exit 126 if not").defer(tries))
        .subcommand(verb("explain", "Say what becomes of a connection, and by which rule").defer(explains))
        .subcommand(verb("watch", "Show how often each clause decides, again and again").defer(watches))
        .subcommand(verb(
            "cni",
            "Answer a container runtime: CNI_COMMAND in the environment says what it wants",
        ))
        .subcommand(verb("confirm", "Keep what was applied with --confirm-within").defer(looks))
        .subcommand(verb("install", "Join a node's chain of CNI plugins").defer(install::installs))
        .subcommand(verb("uninstall", "Leave it, configuration first").defer(install::uninstalls))
}

/// Between a source and a destination, and what stands for it while flags are read.
const ARROW: &str = "->";
const ARROW_KEPT: &str = "\u{2192}";
/// The verbs' names.
const VERBS: [&str; 11] = [
    "apply",
    "plan",
    "status",
    "clean",
    "verify",
    "explain",
    "watch",
    "confirm",
    "cni",
    "install",
    "uninstall",
];
/// How a connection begins.
const BEGINS: [&str; 4] = ["out", "in", "outbound", "inbound"];
/// The help text.
#[must_use]
pub fn help() -> String {
    command().render_help().to_string()
}

/// The words of a command line that are `istio-iptables`' own, if it is one: called by that name, with that name as
/// its first word as pilot-agent takes it, or both. `istio-clean-iptables` is the same with `--cleanup-only`, and so
/// is the first word `clean` of the shell script of old.
fn istio_words(words: &[OsString]) -> Option<Vec<OsString>> {
    let (program, rest) = words.split_first()?;
    let name = std::path::Path::new(program).file_name()?.to_str()?;
    let leading = rest.first().is_some_and(|word| word == "istio-iptables");
    let called = matches!(name, "istio-iptables" | "istio-clean-iptables");
    if !called && !leading {
        return None;
    }
    let rest = rest.get(usize::from(leading)..).unwrap_or_default();
    let clean = rest.first().is_some_and(|word| word == "clean");
    let mut own = vec![OsString::from("istio-iptables")];
    own.extend_from_slice(rest.get(usize::from(clean)..).unwrap_or_default());
    if clean || name == "istio-clean-iptables" {
        own.push("--cleanup-only".into());
    }
    Some(own)
}

fn istio_command() -> Command {
    let mut command = Command::new("istio-iptables")
        .about("istio-iptables, rule for rule; see mesh-init --help for the rest")
        .disable_help_subcommand(true)
        .term_width(100)
        // Upstream has no positional arguments and ignores them.
        .arg(Arg::new("ignored").num_args(0..).hide(true).value_parser(ValueParser::os_string()));
    for flag in FLAGS.iter().filter(|flag| !flag.long.is_empty()) {
        let mut argument = Arg::new(flag.long)
            .long(flag.long)
            .help(flag.help)
            .value_parser(ValueParser::string())
            .allow_negative_numbers(true)
            .action(ArgAction::Append);
        if let Some(short) = flag.short {
            argument = argument.short(short);
        }
        argument = match flag.shape {
            Shape::Bool => {
                argument.num_args(0..=1).require_equals(true).default_missing_value("true").value_name("BOOL")
            }
            Shape::Text | Shape::Number | Shape::Duration => argument.value_name("VALUE"),
        };
        command = command.arg(argument);
    }
    let extra = |argument: &Arg| EXTRA.iter().any(|key| option(*key).long == argument.get_id().as_str());
    command.args(arguments(&[Part::Making, Part::Looking]).into_iter().filter(extra))
}

fn parse_istio(words: Vec<OsString>) -> Parsed {
    let matches = match istio_command().try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(error) if error.use_stderr() => return Parsed::Misuse(shortened(&error.render().to_string())),
        Err(error) => return Parsed::Answer(error.render().to_string()),
    };
    let mut istio = Istio::default();
    for flag in FLAGS.iter().filter(|flag| !flag.long.is_empty()) {
        istio.flags.extend(given(&matches, flag.long).map(|texts| (flag.long, texts)));
    }
    for key in EXTRA {
        let long = option(key).long;
        for text in given(&matches, long).into_iter().flatten() {
            istio.extra.push(key, text, Origin::Flag(long));
        }
    }
    Parsed::Istio(istio)
}

/// Reads a command line, program name first.
#[must_use]
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Parsed {
    let words: Vec<OsString> = words.into_iter().collect();
    if let Some(words) = istio_words(&words) {
        return parse_istio(words);
    }
    let words = match words.get(1).is_some_and(|word| word == "explain" || word == "watch") {
        // It looks like a flag, and would take those after it for connections.
        true => words.into_iter().map(|word| if word == ARROW { ARROW_KEPT.into() } else { word }).collect(),
        false => words,
    };
    let (matches, faults) = match known(words) {
        Ok(known) => known,
        Err(answer) => return *answer,
    };
    let (verb, matches, explicit) = match matches.subcommand() {
        None => (Verb::Apply, &matches, false),
        Some(("plan", matches)) => (Verb::Plan { live: matches.get_flag("live") }, matches, true),
        Some(("status", matches)) => (Verb::Status, matches, true),
        Some(("clean", matches)) => (Verb::Clean, matches, true),
        Some(("verify", matches)) => {
            let (strict, quick) = (matches.get_flag("strict"), matches.get_flag("quick"));
            (Verb::Verify { strict, quick, repair: matches.get_flag("repair") }, matches, true)
        }
        Some(("cni", _)) if faults.is_empty() => return Parsed::Cni,
        Some(("explain", matches)) => return explain::parse(matches, faults),
        Some(("cni" | "install" | "uninstall", _)) if !faults.is_empty() => {
            let lines: String = faults.list().iter().map(|fault| format!("error: {fault}\n")).collect();
            return Parsed::Misuse(lines);
        }
        Some(("install", matches)) => return Parsed::Install(install::texts(matches)),
        Some(("uninstall", matches)) => return Parsed::Uninstall(install::texts(matches)),
        Some(("confirm", matches)) => (Verb::Confirm, matches, true),
        Some(("watch", matches)) => return watch::parse(matches, faults),
        Some((_, matches)) => (Verb::Apply, matches, true),
    };
    let flags = flags::parse(verb.parts(), |long| given(matches, long));
    Parsed::Call { verb, flags, explicit, faults }
}

/// What is known of a command line, and a fault for each word that is not. clap stops at the first of those, so it is
/// asked again without it.
fn known(mut words: Vec<OsString>) -> Result<(ArgMatches, Faults), Box<Parsed>> {
    // Each word costs a round.
    const ROUNDS: usize = 20;
    let mut faults = Faults::default();
    let mut rounds = 0;
    loop {
        rounds += 1;
        let error = match command().try_get_matches_from(&words) {
            Ok(matches) => return Ok((matches, faults)),
            Err(error) => error,
        };
        if !error.use_stderr() {
            return Err(Box::new(Parsed::Answer(error.render().to_string())));
        }
        let text = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.as_str()),
            Some(_) | None => None,
        };
        let unknown = text(ContextKind::InvalidArg).filter(|_| error.kind() == ErrorKind::UnknownArgument);
        let unknown = unknown.filter(|_| rounds <= ROUNDS);
        let place = unknown.and_then(|unknown| words.iter().skip(1).position(|word| is_it(word, unknown)));
        let (Some(unknown), Some(place)) = (unknown, place) else {
            let lines: String = faults.list().iter().map(|fault| format!("error: {fault}\n")).collect();
            return Err(Box::new(Parsed::Misuse(lines + &shortened(&error.render().to_string()))));
        };
        let remedy = match text(ContextKind::SuggestedArg) {
            Some(meant) => format!("give {meant} if that is meant"),
            None => "leave it out, or see --help".to_owned(),
        };
        faults.word(unknown, "is not taken here", remedy);
        let gone = words.remove(place + 1);
        let is_value = |word: &&OsString| {
            let text = word.to_string_lossy();
            !text.starts_with('-')
                && !text.contains(' ')
                && !VERBS.contains(&&*text)
                && !BEGINS.contains(&&*text)
        };
        // What follows a flag that nobody knows is taken for its value.
        let alone = !gone.to_string_lossy().starts_with('-') || gone.to_string_lossy().contains('=');
        if !alone && words.get(place + 1).is_some_and(|word| is_value(&word)) {
            words.remove(place + 1);
        }
    }
}

/// Whether a word is what clap calls `unknown`: a flag is named without its value, or alone out of a cluster.
fn is_it(word: &OsString, unknown: &str) -> bool {
    let word = word.to_string_lossy();
    let flag = word.split_once('=').map_or(&*word, |(flag, _)| flag);
    let in_cluster = unknown.len() == 2 && unknown != "--" && word.starts_with(unknown);
    *word == *unknown || unknown.starts_with('-') && (flag == unknown || in_cluster)
}

/// clap quotes what it does not know in full, and an argument may be 128 KiB.
fn shortened(text: &str) -> String {
    const LINE: usize = 400;
    text.lines().map(|line| line.chars().take(LINE).chain(['\n']).collect::<String>()).collect()
}

fn given(matches: &ArgMatches, long: &str) -> Option<Vec<String>> {
    matches.get_many::<String>(long).map(|values| values.cloned().collect())
}
