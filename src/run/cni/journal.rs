//! What is known of a call, a line of JSON: on standard error, and in the log file.
//!
//! Whatever cannot be written is not written: a full disk is no reason for a pod not to start.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::cni::failure::Failure;
use crate::cni::protocol::{Call, Verb};
use crate::cni::version::Version;
use crate::report::Answer;
use crate::sys::journal;

/// The form of a line.
const SCHEMA: &str = "mesh-init/cni-log/v1";
/// The first step of every call.
pub(super) const READ: &str = "read";

/// The journal of one call. Clones are the same journal.
#[derive(Clone)]
pub(super) struct Journal(Arc<Mutex<State>>);

struct State {
    verb: Verb,
    version: Version,
    begin: Instant,
    step: (&'static str, Instant),
    steps: Vec<(&'static str, Duration)>,
    facts: Map<String, Value>,
    lines: Vec<u8>,
    /// How many bytes of `lines` have gone to the file.
    kept: usize,
    level: Level,
    file: Option<PathBuf>,
}

impl Journal {
    /// A journal of `call`, which began at `begin` and reads.
    pub(super) fn begin(call: &Call, begin: Instant) -> Journal {
        let mut facts = Map::new();
        let mut put = |key: &str, value: &str| {
            if !value.is_empty() {
                facts.insert(key.to_owned(), json!(value));
            }
        };
        put("containerId", &call.container);
        put("ifname", &call.interface);
        put("netns", &call.netns.as_ref().map(|path| path.to_string_lossy()).unwrap_or_default());
        put("namespace", call.arguments.namespace.as_deref().unwrap_or_default());
        put("pod", call.arguments.name.as_deref().unwrap_or_default());
        put("uid", call.arguments.uid.as_deref().unwrap_or_default());
        Journal(Arc::new(Mutex::new(State {
            verb: call.verb,
            version: Version::NEWEST,
            begin,
            step: (READ, begin),
            steps: Vec::new(),
            facts,
            lines: Vec::new(),
            kept: 0,
            level: Level::INFO,
            file: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration's version: errors are in it.
    pub(super) fn speaks(&self, version: Version) {
        self.state().version = version;
    }

    /// The next step begins.
    pub(super) fn step(&self, name: &'static str) {
        self.state().turn(name);
    }

    /// The step that is under way.
    pub(super) fn at(&self) -> &'static str {
        self.state().step.0
    }

    /// Adds something that is known.
    pub(super) fn note(&self, key: &str, value: impl Into<Value>) {
        self.state().facts.insert(key.to_owned(), value.into());
    }

    /// From now on what is at least as grave as `level` is kept, in `file` too; so is what others say by `tracing`.
    pub(super) fn listen(&self, level: Level, file: Option<PathBuf>) {
        let mut state = self.state();
        (state.level, state.file) = (level, file);
        drop(state);
        let journal = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || Sink(journal.clone()))
            .with_max_level(level)
            .event_format(Line)
            .finish();
        // A second one (a test calling twice) keeps the first.
        tracing::subscriber::set_global_default(subscriber).ok();
    }

    /// Ends the call's line and gives the whole answer.
    pub(super) fn answer(&self, outcome: &Result<String, Failure>) -> Answer {
        let mut state = self.state();
        state.turn("end");
        let level = match outcome {
            Ok(_) if state.facts.contains_key("error") => Level::WARN,
            Ok(_) => Level::INFO,
            Err(_) => Level::ERROR,
        };
        // A runtime asks for the status every five seconds: that all is well is no news.
        let silent = state.verb == Verb::Status && outcome.is_ok();
        if level <= state.level && !silent {
            let line = state.line(level, outcome);
            state.lines.extend(line.as_bytes());
        }
        let (stdout, code) = match outcome {
            Ok(text) => (text.clone(), 0),
            Err(failure) => (failure.json(state.version), 1),
        };
        Answer { stdout, stderr: String::from_utf8_lossy(&state.lines).into_owned(), code }
    }

    /// Adds all lines to the file that are not in it yet.
    pub(super) fn keep(&self) {
        let mut state = self.state();
        let file = state.file.clone();
        let lines = state.lines.get(state.kept..).unwrap_or_default().to_vec();
        state.kept = state.lines.len();
        drop(state);
        if let (Some(file), false) = (file, lines.is_empty()) {
            // There is nobody left to tell.
            journal::add(&file, &lines).ok();
        }
    }
}

impl State {
    fn turn(&mut self, name: &'static str) {
        let (last, since) = std::mem::replace(&mut self.step, (name, Instant::now()));
        self.steps.push((last, since.elapsed()));
    }

    fn line(&self, level: Level, outcome: &Result<String, Failure>) -> String {
        let milliseconds = |took: Duration| json!((took.as_secs_f64() * 1e6).round() / 1e3);
        let mut line = head(level);
        line.insert("verb".to_owned(), json!(self.verb.word()));
        line.extend(self.facts.clone());
        if let Err(failure) = outcome {
            line.insert("code".to_owned(), json!(failure.code));
            line.insert("error".to_owned(), json!(failure.problem));
            line.insert("details".to_owned(), json!(failure.details));
        }
        let steps = self.steps.iter().map(|(name, took)| ((*name).to_owned(), milliseconds(*took)));
        line.insert("stepsMs".to_owned(), Value::Object(steps.collect()));
        line.insert("totalMs".to_owned(), milliseconds(self.begin.elapsed()));
        format!("{}\n", Value::Object(line))
    }
}

fn head(level: Level) -> Map<String, Value> {
    let pairs = [("schema", json!(SCHEMA)), ("time", json!(journal::now()))];
    let level = ("level", json!(level.as_str().to_ascii_lowercase()));
    pairs.into_iter().chain([level]).map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Where `tracing` writes.
struct Sink(Journal);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.state().lines.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What others say, a line of JSON as well.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Fields(head(*event.metadata().level()));
        event.record(&mut line);
        writeln!(writer, "{}", Value::Object(line.0))
    }
}

struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), json!(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), json!(value));
    }
}
