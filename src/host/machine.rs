//! The programs of this machine and how they are run.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::backend::Tools;
use crate::backend::observed::Tool;
use crate::policy::Family;
use crate::policy::settings::Variant;
use crate::sys::exec::{self, Ending, Outcome, Program};
use crate::sys::fs;

/// Where distributions put iptables; the caller's PATH is asked after these.
const FOLDERS: [&str; 5] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"];
/// Where iptables-legacy keeps its lock, unless told otherwise (iptables(8), `XTABLES_LOCKFILE`).
const LOCK_FILE: &str = "/run/xtables.lock";
/// The network namespace of the process that opens it.
pub const OWN_NAMESPACE: &str = "/proc/self/ns/net";
/// What a tool gets beyond the time that it may wait for its lock.
const WORK: Duration = Duration::from_secs(10);
/// What is kept for taking back what was done when time is up.
const TO_UNDO: Duration = Duration::from_millis(700);

/// The machine as a run sees it.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The programs that were found.
    pub tools: Tools,
    wait: Duration,
    lock_file: Option<String>,
    /// When all programs must have ended, however long each one may take.
    end: Option<Instant>,
}

impl Machine {
    /// Finds the programs. `path` holds the folders of the caller's `PATH`, `lock_file` its `XTABLES_LOCKFILE`:
    /// the one variable that is handed on.
    #[must_use]
    pub fn look(wait: Duration, path: Vec<PathBuf>, lock_file: Option<String>) -> Machine {
        let mut machine = Machine { tools: Tools::new(), wait, lock_file, end: None };
        let mut folders: Vec<PathBuf> = FOLDERS.iter().map(PathBuf::from).collect();
        folders.extend(path.into_iter().filter(|folder| folder.is_absolute()));
        for variant in Variant::IPTABLES {
            for family in Family::both() {
                let flavour = if variant == Variant::Nft { "nft" } else { "legacy" };
                let program = |what: &str| {
                    let name = format!("{}-{flavour}-{what}", plain_name(family));
                    fs::find_program(&name, folders.iter().map(PathBuf::as_path))
                };
                if let (Some(restore), Some(save)) = (program("restore"), program("save")) {
                    machine.tools.insert((variant, family), Tool { restore, save });
                }
            }
        }
        machine.find_plain(&folders);
        machine
    }

    /// Where only plain `iptables-restore` exists, finds out which variant it is.
    fn find_plain(&mut self, folders: &[PathBuf]) {
        for family in Family::both() {
            if Variant::IPTABLES.iter().any(|variant| self.tools.contains_key(&(*variant, family))) {
                continue;
            }
            let find = |what: &str| {
                fs::find_program(
                    &format!("{}-{what}", plain_name(family)),
                    folders.iter().map(PathBuf::as_path),
                )
            };
            let (Some(restore), Some(save)) = (find("restore"), find("save")) else { continue };
            let variant = match by_name(&restore) {
                Some(variant) => variant,
                None => self.by_version(&restore),
            };
            self.tools.insert((variant, family), Tool { restore, save });
        }
    }

    fn by_version(&self, program: &Path) -> Variant {
        let outcomes = self.run(&[vec![self.program(program, &["--version"])]]);
        let nft = outcomes.iter().flatten().any(|outcome| outcome.stdout.contains("nf_tables"));
        if nft { Variant::Nft } else { Variant::Legacy }
    }

    /// The program at `path` as it is run here to look: without any environment.
    #[must_use]
    pub fn program(&self, path: &Path, arguments: &[&str]) -> Program {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Program { path: path.to_owned(), arguments, input: String::new(), environment: Vec::new() }
    }

    /// The program at `path` as it is run here to write `input`.
    ///
    /// iptables-legacy must open its lock even where /run is read-only. Every process of a namespace can open the
    /// namespace's own file, so it serves as one lock for all of them.
    #[must_use]
    pub fn writer(&self, path: &Path, variant: Variant, input: &str) -> Program {
        let elsewhere =
            || (variant == Variant::Legacy && !fs::lockable(LOCK_FILE)).then(|| OWN_NAMESPACE.to_owned());
        let lock_file = self.lock_file.clone().or_else(elsewhere);
        Program {
            input: input.to_owned(),
            environment: lock_file.into_iter().map(|path| ("XTABLES_LOCKFILE".to_owned(), path)).collect(),
            ..self.program(path, &["--noflush", "--wait", &self.wait_seconds()])
        }
    }

    /// The same, with an end: no program runs longer, and no change is begun again after it.
    #[must_use]
    pub fn until(self, end: Instant) -> Machine {
        Machine { end: Some(end), ..self }
    }

    /// The same as it takes back what was done: past its end it has a moment more.
    #[must_use]
    pub fn to_undo(&self) -> Machine {
        let end = self.end.map(|end| end.max(Instant::now()) + TO_UNDO);
        Machine { end, ..self.clone() }
    }

    /// Whether there is an end, so that no flag of the caller's makes a program wait longer.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.end.is_some()
    }

    /// What is left of `most` before the end.
    #[must_use]
    pub fn left(&self, most: Duration) -> Duration {
        self.end.map_or(most, |end| most.min(end.saturating_duration_since(Instant::now())))
    }

    /// The seconds that a tool may wait for its lock, as its `--wait` takes them.
    #[must_use]
    pub fn wait_seconds(&self) -> String {
        self.wait.as_secs().max(1).to_string()
    }

    /// Runs `chains` at the same time, the programs of each one after the other, each within the deadline.
    #[must_use]
    pub fn run(&self, chains: &[Vec<Program>]) -> Vec<Vec<Outcome>> {
        let outcomes = exec::run_chains(chains, self.left(self.wait + WORK));
        for (program, outcome) in
            chains.iter().zip(&outcomes).flat_map(|(chain, outcomes)| chain.iter().zip(outcomes))
        {
            let Program { path, arguments, .. } = program;
            tracing::debug!(program = %path.display(), ?arguments, ending = ?outcome.ending, stderr = %outcome.stderr.trim());
        }
        outcomes
    }
}

fn plain_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

/// How a program ended, for a message.
#[must_use]
pub fn ending(outcome: &Outcome) -> String {
    let complaint: Vec<&str> =
        outcome.stderr.lines().filter(|line| !line.starts_with("# Warning")).take(4).collect();
    let complaint = complaint.join(" / ");
    let how = match outcome.ending {
        Ending::Exited(code) => format!("exit {code}"),
        Ending::Killed(signal) => format!("killed by signal {signal}"),
        Ending::TimedOut(deadline) => format!("not done after {} s, so it was killed", deadline.as_secs()),
        Ending::TooMuch => "it printed too much, so it was killed".to_owned(),
        Ending::NotStarted => "it did not run".to_owned(),
        Ending::Lost => "it could not be watched, so it was killed".to_owned(),
    };
    if complaint.is_empty() {
        how
    } else {
        format!("{how}: {}", complaint.chars().take(400).collect::<String>())
    }
}

fn by_name(program: &Path) -> Option<Variant> {
    let real = fs::canonical(program)?;
    let name = real.file_name()?.to_str()?;
    match (name.contains("nft"), name.contains("legacy")) {
        (true, false) => Some(Variant::Nft),
        (false, true) => Some(Variant::Legacy),
        (_, _) => None,
    }
}
