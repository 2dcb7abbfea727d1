//! The list of cases, and what becomes of it.

use std::env;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::child::{self, Verdict};
use crate::support::rules::Variant;

const DEADLINE: Duration = Duration::from_secs(30);
/// A case above this is named at the end.
const SLOW: Duration = Duration::from_secs(1);

/// Something to try in namespaces of its own. It fails by panicking.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) body: Box<dyn Fn()>,
    deadline: Duration,
    /// Not in the list; only the harness's own checks start it.
    hidden: bool,
}

/// The body of a case that is tried with each variant of iptables, or with nftables.
pub(crate) type PerVariant = fn(Variant);

impl Case {
    pub(crate) fn new(name: &str, body: impl Fn() + 'static) -> Self {
        Self { name: name.to_owned(), body: Box::new(body), deadline: DEADLINE, hidden: false }
    }

    /// The same for both variants of iptables, as `name::legacy` and `name::nft`.
    pub(crate) fn each_variant(name: &str, body: PerVariant) -> [Self; 2] {
        Variant::BOTH.map(|variant| Self::new(&format!("{name}::{}", variant.name()), move || body(variant)))
    }

    pub(crate) fn all_for_each_variant(list: &[(&str, PerVariant)]) -> Vec<Self> {
        list.iter().flat_map(|(name, body)| Self::each_variant(name, *body)).collect()
    }

    /// The same for whatever carries the rules, as `name::native` too.
    pub(crate) fn all_for_each_carrier(list: &[(&str, PerVariant)]) -> Vec<Self> {
        let of_iptables = Self::all_for_each_variant(list);
        of_iptables.into_iter().chain(Self::all_native(list)).collect()
    }

    /// With nftables alone.
    pub(crate) fn all_native(list: &[(&str, PerVariant)]) -> Vec<Self> {
        let native = |(name, body): &(&str, PerVariant)| {
            let body = *body;
            Self::new(&format!("{name}::{}", Variant::Native.name()), move || body(Variant::Native))
        };
        list.iter().map(native).collect()
    }

    pub(crate) fn within(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    pub(crate) fn hidden(self) -> Self {
        Self { hidden: true, ..self }
    }
}

/// Something to try in the parent: what the harness itself does with its cases.
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) body: Box<dyn Fn() -> Verdict + Send>,
}

/// Runs one case as the child it is, or all cases and checks as the parent.
pub(crate) fn main(cases: &[Case], checks: Vec<Check>) -> ExitCode {
    if let Some(name) = child::wanted() {
        let case = cases.iter().find(|case| case.name == name);
        return child::be(case.unwrap_or_else(|| panic!("no case is called `{name}`")));
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(2);
    let book = Arc::new(Book::default());
    let visible = cases.iter().filter(|case| !case.hidden);
    let trials = visible.map(|case| {
        let (name, deadline) = (case.name.clone(), case.deadline);
        trial(&case.name, &book, move || child::run(&name, deadline))
    });
    let trials = trials.chain(checks.into_iter().map(|check| trial(check.name, &book, check.body))).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    book.print();
    conclusion.exit_code()
}

fn trial(name: &str, book: &Arc<Book>, run: impl FnOnce() -> Verdict + Send + 'static) -> Trial {
    let (noted_as, book) = (name.to_owned(), Arc::clone(book));
    Trial::ignorable_test(name, move || {
        let started = Instant::now();
        let verdict = run();
        book.note(&noted_as, started.elapsed(), &verdict);
        judge(verdict, under_ci())
    })
}

/// A skip is a failure where nobody reads the output.
pub(crate) fn judge(verdict: Verdict, under_ci: bool) -> Result<Completion, Failed> {
    match verdict {
        Verdict::Passed => Ok(Completion::Completed),
        Verdict::Skipped(reason) if under_ci => Err(format!("skipped under CI: {reason}").into()),
        Verdict::Skipped(reason) => Ok(Completion::ignored_with(format!("skipped: {reason}"))),
        Verdict::Failed(text) => Err(text.into()),
    }
}

fn under_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

/// What is worth a line after the summary.
#[derive(Default)]
struct Book {
    slow: Mutex<Vec<(Duration, String)>>,
    skipped: Mutex<Vec<String>>,
}

impl Book {
    fn note(&self, name: &str, took: Duration, verdict: &Verdict) {
        if took > SLOW {
            self.slow.lock().expect("no noting panics").push((took, name.to_owned()));
        }
        if let Verdict::Skipped(reason) = verdict {
            self.skipped.lock().expect("no noting panics").push(reason.clone());
        }
    }

    fn print(&self) {
        let mut slow = self.slow.lock().expect("no noting panics").clone();
        slow.sort();
        for (took, name) in slow.iter().rev() {
            println!("{:6.2} s  {name}", took.as_secs_f64());
        }
        let mut reasons = self.skipped.lock().expect("no noting panics").clone();
        reasons.sort();
        for same in reasons.chunk_by(|one, next| one == next) {
            println!("{} skipped: {}", same.len(), same[0]);
        }
    }
}
