//! The verbs of the CNI specification: one call of the runtime, from its environment to the answer on standard output.
//!
//! A call is CNI's if `CNI_COMMAND` is set and no argument is given, as runtimes call, or if the verb `cni` is given.
//! Whoever types a verb or a flag means that, whatever the environment holds.
//!
//! The work is done by a thread of its own, so that the answer is given in time whatever hangs: standard input, a
//! file system, a tool. What the work itself can limit ends early enough that what was done is taken back.

mod add;
mod del;
mod journal;
mod status;

use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::journal::Journal;
use super::{Environment, variable};
use crate::cni::envelope::Envelope;
use crate::cni::failure::{self, Failure};
use crate::cni::netconf::NetConf;
use crate::cni::protocol::{self, Call, Verb};
use crate::cni::version::{self, Version};
use crate::host::Machine;
use crate::host::machine::OWN_NAMESPACE;
use crate::report::Answer;

/// From the call to the answer, for every verb.
const DEADLINE: Duration = Duration::from_secs(5);
/// When what has not ended counts as hung: what is left is for saying so.
const HUNG: Duration = Duration::from_millis(4750);
/// When work ends that can end: what is left is for taking it back.
const WORK: Duration = Duration::from_millis(4200);
/// How long an answer that is ready waits for the log to be written.
const LOGGING: Duration = Duration::from_millis(250);
/// What iptables may wait for its lock, which is the pod's own.
const WAIT: Duration = Duration::from_secs(3);
/// The most that is read of standard input: what Kubernetes allows a pod in annotations is a hundredth of it.
const LIMIT: u64 = 32 << 20;

/// Whether a command line is the call of a container runtime, which gives no arguments.
pub(super) fn is_asked(words: &[OsString], environment: &Environment) -> bool {
    let [program] = words else { return false };
    // That name has a meaning of its own.
    let called = std::path::Path::new(program).file_name();
    let istio = called.is_some_and(|name| name.to_string_lossy().contains("iptables"));
    !istio && variable(environment, protocol::COMMAND).is_some()
}

/// Answers a call.
pub(super) fn main(environment: &Environment) -> Answer {
    let begin = Instant::now();
    let call = match Call::read(environment) {
        Ok(Some(call)) => call,
        Ok(None) => return Answer { stderr: about(), ..Answer::default() },
        Err(failure) => {
            return Answer { stdout: failure.json(Version::NEWEST), code: 1, ..Answer::default() };
        }
    };
    if call.verb == Verb::Version {
        return Answer { stdout: version::answer(), ..Answer::default() };
    }
    let journal = Journal::begin(&call, begin);
    let (tell, wait) = channel();
    let path: Vec<PathBuf> =
        variable(environment, "PATH").into_iter().flat_map(std::env::split_paths).collect();
    let work = Work { call: call.clone(), path, journal: journal.clone(), end: begin + WORK };
    let answer = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&answer);
    let started = std::thread::Builder::new().name(call.verb.word().to_owned()).spawn(move || {
        let outcome = work.run();
        let answer = work.journal.answer(&outcome);
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        work.journal.keep();
        // Nobody listens any more once the deadline has passed.
        tell.send(()).ok();
    });
    if let Err(error) = started {
        let failure = Failure::new(failure::HOST, format!("no thread can be started: {error}"));
        return journal.answer(&Err(failure));
    }
    // One wake-up in the good case: on a busy machine each costs more than the work.
    let failure = loop {
        let left = HUNG.saturating_sub(begin.elapsed());
        let told = wait.recv_timeout(LOGGING.min(left));
        let ready = answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (ready, told) {
            (Some(answer), Ok(()) | Err(RecvTimeoutError::Disconnected)) => return answer,
            (Some(answer), Err(RecvTimeoutError::Timeout)) => {
                wait.recv_timeout(LOGGING).ok();
                return answer;
            }
            (None, Err(RecvTimeoutError::Timeout)) if !left.is_zero() => {}
            (None, Err(RecvTimeoutError::Timeout)) => break overdue(call.verb, journal.at()),
            (None, Ok(()) | Err(RecvTimeoutError::Disconnected)) => {
                let problem = format!("{} ended in an unexpected way", call.verb);
                break Failure::new(failure::REFUSED, problem);
            }
        }
    };
    // A pod's end is not held up by what hangs; only a call that was never read cannot be said to be done.
    let outcome = match call.verb == Verb::Del && journal.at() != journal::READ {
        true => {
            journal.note("error", failure.problem.as_str());
            Ok(String::new())
        }
        false => Err(failure),
    };
    let answer = journal.answer(&outcome);
    // What hangs may be the file system of the log, too.
    let (tell, wait) = channel();
    let writer = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
        journal.keep();
        tell.send(()).ok();
    });
    if writer.is_ok() {
        wait.recv_timeout(DEADLINE.saturating_sub(begin.elapsed())).ok();
    }
    answer
}

fn overdue(verb: Verb, at: &str) -> Failure {
    let seconds = DEADLINE.as_secs();
    let problem =
        format!("{verb} was not done within its deadline of {seconds} s: it hung at the step {at:?}");
    Failure::new(failure::DEADLINE, problem)
        .details("what may be left in the pod's network namespace goes with DEL, or with the next ADD")
}

fn about() -> String {
    format!(
        "mesh-init {}: a CNI plugin that captures a pod's traffic for a service mesh; it is called by a container runtime, with CNI_COMMAND set\nCNI protocol versions supported: {}\n",
        env!("CARGO_PKG_VERSION"),
        version::list()
    )
}

/// A call at work.
struct Work {
    call: Call,
    /// The folders of `PATH`.
    path: Vec<PathBuf>,
    journal: Journal,
    /// When it has to end.
    end: Instant,
}

impl Work {
    /// What goes to standard output.
    fn run(&self) -> Result<String, Failure> {
        let outcome = self.verb();
        outcome.map_err(|failure| match Instant::now() < self.end || failure.code == failure::DEADLINE {
            true => failure,
            false => {
                let Call { verb, .. } = self.call;
                let problem = format!(
                    "{verb} was not done within its deadline of {} s: {}",
                    DEADLINE.as_secs(),
                    failure.problem
                );
                Failure { code: failure::DEADLINE, problem, ..failure }
            }
        })
    }

    fn verb(&self) -> Result<String, Failure> {
        let text = read()?;
        let envelope = Envelope::read(&text)?;
        if let Ok(version) = envelope.version() {
            self.journal.speaks(version);
        }
        let version = envelope.judge(self.call.verb)?;
        self.journal.step("decode");
        match self.call.verb {
            Verb::Add => self.add(&self.conf(&text)?, version),
            Verb::Check => self.check(&self.conf(&text)?).map(|()| String::new()),
            Verb::Del => {
                self.del(self.conf(&text));
                Ok(String::new())
            }
            Verb::Gc => self.gc(&text).map(|()| String::new()),
            Verb::Status => self.status(&self.conf(&text)?).map(|()| String::new()),
            Verb::Version => Ok(version::answer()),
        }
    }

    /// Reads the keys of ours, and logs as they say from now on.
    fn conf(&self, text: &[u8]) -> Result<NetConf, Failure> {
        let conf = NetConf::parse(text).map_err(|faults| {
            Failure::faulty(failure::BAD_CONFIG, "the configuration on standard input has faults", &faults)
        })?;
        self.journal.listen(conf.log_level, conf.log_file.clone());
        Ok(conf)
    }

    /// The programs that can be run, none longer than the call may take. The lock of iptables-legacy is the pod's own
    /// namespace, so that pods do not wait for each other.
    fn machine(&self) -> Machine {
        Machine::look(WAIT, self.path.clone(), Some(OWN_NAMESPACE.to_owned())).until(self.end)
    }
}

fn read() -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let count = std::io::stdin()
        .take(LIMIT + 1)
        .read_to_end(&mut text)
        .map_err(|error| Failure::new(failure::IO, format!("reading standard input: {error}")))?;
    match count as u64 > LIMIT {
        true => {
            let problem = format!("the configuration on standard input is larger than {} MiB", LIMIT >> 20);
            Err(Failure::new(failure::UNDECODABLE, problem))
        }
        false => Ok(text),
    }
}
