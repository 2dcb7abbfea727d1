//! What `explain` takes beside the options of every verb.

use clap::{Arg, ArgAction, ArgMatches};

use super::{ALL_PARTS, ARROW, ARROW_KEPT, Asked, BEGINS, Parsed, Pod, arguments as of, given};
use crate::input::options::{Key, option};
use crate::input::{Faults, Origin, Sourced, flags};

const LIVE: &str = "explain-live";
const MATRIX: &str = "explain-all";
const DIFF: &str = "explain-diff";
const CONNECTION: &str = "connection";
const POD: &str = "explain-pod";
const NETCONF: &str = "explain-netconf";
const CACHE: &str = "explain-cache";
/// Options that `explain` has no use for.
const OUT_OF_PLACE: [Key; 3] = [Key::Host, Key::ConfirmWithin, Key::All];
/// Where libcni keeps what it knows of attachments, unless told otherwise.
const CACHE_FOLDER: &str = "/var/lib/cni";

pub(super) fn arguments() -> Vec<Arg> {
    let switch = |id: &'static str, long: &'static str, help: &'static str| {
        Arg::new(id).long(long).action(ArgAction::SetTrue).help(help)
    };
    let one = |id: &'static str, long: &'static str, value: &'static str, help: &'static str| {
        Arg::new(id).long(long).value_name(value).help(help)
    };
    let output = |argument: Arg| match argument.get_id().as_str() == option(Key::Output).long {
        true => argument.value_name("text|json|mermaid|svg|dot"),
        false => argument,
    };
    let in_place = |argument: &Arg| in_place(argument.get_id().as_str());
    let mut arguments: Vec<Arg> = of(ALL_PARTS).into_iter().filter(in_place).map(output).collect();
    arguments.extend([
        switch(LIVE, "live", "by the rules that the kernel holds now, whoever made them"),
        switch(MATRIX, "all", "one connection of every kind, as a table"),
        Arg::new(DIFF)
            .long("diff")
            .num_args(2)
            .value_names(["A", "B"])
            .allow_hyphen_values(true)
            .help("what two policies (files, or flags in quotes) decide differently"),
        one(
            POD,
            "pod",
            "FILE|NAMESPACE/NAME",
            "what the CNI plugin decides for a pod: its manifest, a network configuration, or - for standard input",
        ),
        one(
            NETCONF,
            "netconf",
            "FILE",
            "the plugin's configuration: a conflist, or its part of one [default: the defaults]",
        ),
        one(
            CACHE,
            "cni-cache",
            "DIR",
            "where libcni keeps attachments, for NAMESPACE/NAME [default: /var/lib/cni]",
        ),
        Arg::new(CONNECTION)
            .num_args(0..)
            .value_name("CONNECTION")
            .help("out|in PROTOCOL [uid=N] [INTERFACE] [SOURCE ->] DESTINATION; in docs/explain.md"),
    ]);
    arguments
}

fn in_place(long: &str) -> bool {
    !OUT_OF_PLACE.iter().any(|key| option(*key).long == long)
}

pub(super) fn parse(matches: &ArgMatches, mut faults: Faults) -> Parsed {
    let texts = |id: &str| given(matches, id).unwrap_or_default();
    let one = |id: &str| texts(id).into_iter().next();
    let pod = one(POD).map(|text| Pod {
        text,
        netconf: one(NETCONF),
        cache: one(CACHE).unwrap_or_else(|| CACHE_FOLDER.to_owned()),
    });
    for (id, long) in [(NETCONF, "netconf"), (CACHE, "cni-cache")] {
        if let Some(text) = one(id).filter(|_| pod.is_none()) {
            let given = Sourced { text, origin: Origin::Flag(long) };
            faults.option(&given, "is for --pod", "name a pod, or leave it out");
        }
    }
    let (live, all, diff) = (matches.get_flag(LIVE), matches.get_flag(MATRIX), texts(DIFF));
    if pod.is_some() {
        for (is_given, long) in [(live, "--live"), (all, "--all"), (!diff.is_empty(), "--diff")] {
            if is_given {
                faults.word(long, "is another question than --pod", "ask one of them");
            }
        }
    }
    let asked = Asked { live, all, diff, pod, connections: connections(&texts(CONNECTION)) };
    let flags = flags::parse(ALL_PARTS, |long| in_place(long).then(|| given(matches, long)).flatten());
    Parsed::Explain { asked, flags, faults }
}

/// Connections in quotes, or word by word: each begins with its direction.
fn connections(words: &[String]) -> Vec<String> {
    let mut connections: Vec<String> = Vec::new();
    for word in words.iter().flat_map(|text| text.split_whitespace()) {
        let word = if word == ARROW_KEPT { ARROW } else { word };
        match connections.last_mut() {
            Some(last) if !BEGINS.contains(&word) => {
                last.push(' ');
                last.push_str(word);
            }
            Some(_) | None => connections.push(word.to_owned()),
        }
    }
    connections
}
