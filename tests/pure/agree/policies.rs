//! Random policies: the command lines that every property is tried on, with more that makes them interesting.

use std::fmt;

use mesh_init::input::Faults;
use mesh_init::policy::validate::{self, Request};
use mesh_init::policy::{CapturePolicy, Facts, Families, Layout};
use proptest::prelude::*;
use proptest::{sample, strategy};

use crate::properties::given::{self, Args};

/// A policy, and how it is to be made.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    args: Args,
    pub(super) policy: CapturePolicy,
    pub(super) layout: Layout,
    pub(super) families: Families,
}

impl fmt::Display for Subject {
    /// What [`Subject::new`] takes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.args, self.families)
    }
}

fn request(args: &[String]) -> Option<Request> {
    validate::request(&given::flags(args), &Facts::default(), Faults::default()).ok()
}

impl Subject {
    /// The policy of a command line.
    #[track_caller]
    pub(super) fn new(args: &[&str], families: Families) -> Subject {
        let args: Args = args.iter().map(|word| (*word).to_owned()).collect();
        let Request { policy, layout, .. } = given::request(&args);
        Subject { args, policy, layout, families }
    }

    /// With `more` where that can be said beside the rest.
    fn spiced(args: Args, more: Args, families: Families) -> Subject {
        let spiced = [args.clone(), more].concat();
        let (args, request) = match request(&spiced) {
            Some(request) => (spiced, request),
            None => {
                let request = given::request(&args);
                (args, request)
            }
        };
        Subject { args, policy: request.policy, layout: request.layout, families }
    }
}

/// Words that random ones hardly ever are: they meet what a layout treats in its own way, or meet each other.
const INTERESTING: &[&[&str]] = &[
    &["-c", "lo"],
    &["-c", "eth0"],
    &["-c", "e+"],
    &["-k", "eth0"],
    &["-k", "tap0,eth+"],
    &["-c", "eth1", "-k", "eth1"],
    &["-o", "53"],
    &["-q", "53"],
    &["-q", "80,443"],
    &["-x", "127.0.0.0/8,::/127"],
    &["-x", "10.0.0.0/8,fd00::/8"],
    &["-i", "127.0.0.6/32"],
    &["-i", "::1/128,10.0.0.0/8"],
    &["-i", "0.0.0.0/0"],
    &["-i", "::/0"],
    &["-d", "15006,22"],
    &["-b", "53"],
    &["--exclude-owner-group", "1000,1004"],
    &["--owner-group", "1001,0"],
    &["--gid-owner", "0"],
    &["--redirect-dns"],
    &["--redirect-dns", "--capture-all-dns"],
    &["--redirect-dns", "--dns-server", "127.0.0.53,10.0.0.5"],
    &["--redirect-dns", "--dns-server", "::1"],
    &["--drop-invalid"],
    &["-m", "TPROXY"],
    &["-m", "TPROXY", "-b", ""],
    &["-m", "NONE"],
    &["-e", "80"],
    &["-z", "15006"],
    &["-u", "0", "-g", "1337"],
    &["-u", "1000,1001"],
];

fn subject(args: impl Strategy<Value = Args> + 'static) -> impl Strategy<Value = Subject> {
    let more = proptest::collection::vec(sample::select(INTERESTING), 0..4);
    let families = prop_oneof![3 => strategy::Just(Families::Both), 1 => strategy::Just(Families::V4)];
    (args, more, families).prop_map(|(args, more, families)| {
        let more = more.into_iter().flatten().map(|word| (*word).to_owned()).collect();
        Subject::spiced(args, more, families)
    })
}

/// Only those of the layout that is asked for: an interesting word may choose another.
fn of(layout: Layout, args: impl Strategy<Value = Args> + 'static) -> BoxedStrategy<Subject> {
    subject(args).prop_filter("another layout", move |subject| subject.layout == layout).boxed()
}

pub(super) fn classic() -> BoxedStrategy<Subject> {
    of(Layout::Classic, given::classic().prop_map(|args| [args, named("classic")].concat()))
}

pub(super) fn scoped() -> BoxedStrategy<Subject> {
    of(Layout::Scoped, given::scoped())
}

pub(super) fn istio() -> BoxedStrategy<Subject> {
    of(Layout::Istio, given::istio())
}

pub(super) fn letter() -> BoxedStrategy<Subject> {
    of(Layout::IstioIptables, given::letter())
}

fn named(layout: &str) -> Args {
    vec!["--layout".to_owned(), layout.to_owned()]
}
