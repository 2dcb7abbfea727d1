//! ADD and CHECK: the decision about a pod, and what it means in the pod's network namespace.

use std::time::{Duration, Instant};

use super::Work;
use crate::backend::difference;
use crate::cni::decide::{self, Decision};
use crate::cni::failure::{self, Failure};
use crate::cni::netconf::NetConf;
use crate::cni::pod::{Annotations, PodFacts};
use crate::cni::query;
use crate::cni::version::Version;
use crate::error::{Class, Error, Result};
use crate::host::Machine;
use crate::host::namespace::{self, Pod};
use crate::input::Faults;
use crate::policy::json;
use crate::policy::settings::{Ebpf, Settings, Variant};
use crate::policy::validate::Request;
use crate::report::Applied;
use crate::run::{apply, ebpf};
use crate::sys::ask;
use crate::sys::bpf::cgroup::{self, Cgroup};
use crate::sys::lock::Lock;

/// What the agent has to answer in.
const AGENT: Duration = Duration::from_secs(1);

impl Work {
    /// Captures the pod, if it is to be; the result for the next plugin.
    pub(super) fn add(&self, conf: &NetConf, version: Version) -> std::result::Result<String, Failure> {
        let result = match &conf.standard.prev_result {
            Some(previous) => previous.with_version(version.word()),
            None => serde_json::json!({ "cniVersion": version.word() }).to_string(),
        };
        let pod = self.pod()?;
        let Some(request) = self.decide(conf)? else { return Ok(result + "\n") };
        let request = fit(&pod, request)?;
        let applied = self.inside(&pod, &request.settings, |work| {
            let machine = work.machine();
            work.journal.step("lock");
            let lock = namespace::lock(machine.left(DAY))?;
            if let Some(how) = &request.settings.ebpf {
                return work.at_sockets(&request, how, conf, machine, &lock);
            }
            work.journal.step("look");
            let ready = apply::prepare(&request, machine)?;
            work.journal.step("apply");
            apply::commit(&request, ready, lock)
        })?;
        self.journal.note("backend", applied.by.name());
        self.journal.note("changed", applied.changed);
        if applied.open > 0 {
            self.journal.note("openConnections", applied.open);
        }
        for note in applied.notes {
            tracing::warn!("{note}");
        }
        Ok(result + "\n")
    }

    /// Compares what the kernel holds with what ADD would make.
    pub(super) fn check(&self, conf: &NetConf) -> std::result::Result<(), Failure> {
        if conf.standard.prev_result.is_none() {
            let problem = "the configuration has no prevResult, which CHECK must be told";
            return Err(Failure::new(failure::BAD_CONFIG, problem));
        }
        let pod = self.pod()?;
        let Some(request) = self.decide(conf)? else { return Ok(()) };
        let request = fit(&pod, request)?;
        let wrong = self.inside(&pod, &request.settings, |work| {
            work.journal.step("look");
            if let Some(how) = &request.settings.ebpf {
                let wrong = ebpf::wrong(&request, work.cgroup(how, conf)?, &work.machine())?;
                return Ok(wrong.into_iter().next());
            }
            let ready = apply::prepare(&request, work.machine())?;
            Ok(difference::first(&ready.wanted, ready.choice.variant, &ready.observed))
        })?;
        match wrong {
            None => Ok(()),
            Some(what) => Err(Failure::new(failure::DIFFERS, what).details("another ADD makes it right")),
        }
    }

    /// Captures at the sockets.
    fn at_sockets(
        &self,
        request: &Request,
        how: &Ebpf,
        conf: &NetConf,
        machine: Machine,
        lock: &Lock,
    ) -> Result<Applied> {
        self.journal.step("control group");
        let cgroup = self.cgroup(how, conf)?;
        let left = machine.left(DAY);
        self.journal.step("apply");
        let applied = ebpf::in_place(request, cgroup, machine, lock)?;
        self.journal.step("name");
        ebpf::name(&self.call.container, &self.call.interface, left)?;
        Ok(applied)
    }

    /// The control group that is configured, else that of the pod, as far as pods have one in the hierarchy of version 2.
    fn cgroup(&self, how: &Ebpf, conf: &NetConf) -> Result<Cgroup> {
        match &how.cgroup {
            Some(path) => cgroup::open(path),
            None => cgroup::of_pod(conf.cgroup_path.as_deref(), self.call.arguments.uid.as_deref()),
        }
    }

    /// Opens the pod's namespace.
    fn pod(&self) -> std::result::Result<Pod, Failure> {
        self.journal.step("open");
        // The environment of these verbs has it.
        let path = self.call.netns.clone().unwrap_or_default();
        namespace::of_pod(&path).map_err(no_pod)
    }

    /// The request to make rules, if the pod is to be captured.
    fn decide(&self, conf: &NetConf) -> std::result::Result<Option<Request>, Failure> {
        let (pod, agent) = self.facts(conf);
        self.journal.step("decide");
        let (word, reason) = match decide::decide(&pod, conf) {
            Decision::Capture(capture) => {
                self.journal.note("decision", "capture");
                self.journal.note("reason", capture.why.to_string());
                self.journal.note("policy", capture.request.policy.to_string());
                self.journal.note("policyDigest", json::digest(&capture.request.policy));
                for warning in &capture.request.warnings {
                    tracing::warn!("{warning}");
                }
                return Ok(Some(capture.request));
            }
            Decision::Skip(skip) => {
                self.journal.note("decision", "skip");
                self.journal.note("reason", skip.to_string());
                return Ok(None);
            }
            Decision::Reject(faults) => {
                let problem = format!("pod {pod}: its annotations and the configuration make no policy");
                ("reject", Failure::faulty(failure::BAD_CONFIG, problem, &faults))
            }
            Decision::Unknown(faults) => ("unknown", unknown(&faults, agent.as_deref())),
        };
        self.journal.note("decision", word);
        Err(reason)
    }

    /// What is known of the pod, and what the agent was asked in vain, if it was.
    fn facts(&self, conf: &NetConf) -> (PodFacts, Option<String>) {
        let mut pod = self.said(conf);
        let Some(socket) = conf.agent_socket.as_ref().filter(|_| decide::needs_annotations(&pod, conf))
        else {
            return (pod, None);
        };
        self.journal.step("agent");
        let left = AGENT.min(self.end.saturating_duration_since(Instant::now()));
        let answer = ask::ask(socket, &query::query(&self.call), left).and_then(|line| query::facts(&line));
        let why = match answer {
            Ok(Some(annotations)) => {
                pod.annotations = Annotations::Delivered(annotations);
                return (pod, None);
            }
            Ok(None) => "does not know the pod".to_owned(),
            Err(why) => why,
        };
        let why = format!("the agent at {} {why}", socket.display());
        tracing::warn!("{why}");
        (pod, Some(why))
    }

    /// What the runtime says of the pod.
    pub(super) fn said(&self, conf: &NetConf) -> PodFacts {
        let said = self.call.arguments.clone();
        PodFacts {
            namespace: said.namespace,
            name: said.name,
            uid: said.uid,
            annotations: conf.annotations.clone(),
        }
    }

    /// Works in the pod's namespace, on a thread that ends there; `variant` is what carries its rules, if that is known.
    pub(super) fn inside<T: Send>(
        &self,
        pod: &Pod,
        settings: &Settings,
        work: impl FnOnce(&Self) -> Result<T> + Send,
    ) -> std::result::Result<T, Failure> {
        self.journal.step("enter");
        namespace::may_capture_pods(settings)?;
        let thread = std::thread::scope(|scope| {
            let inside = || -> std::result::Result<T, Failure> {
                // Only there it shows that it is the host's own, or no network at all.
                pod.enter(settings).map_err(no_pod)?;
                Ok(work(self)?)
            };
            std::thread::Builder::new().spawn_scoped(scope, inside).map(|thread| thread.join())
        });
        match thread {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => {
                Err(Error::refused("the work in the pod's namespace ended in an unexpected way").into())
            }
            Err(error) => Err(Error::host(format!("no thread can be started: {error}")).into()),
        }
    }
}

/// Why a namespace cannot be a pod's: code 8, unless a privilege is all that is missing.
fn no_pod(error: Error) -> Failure {
    match error.class {
        Class::Privilege => error.into(),
        Class::Refused | Class::Usage | Class::Host | Class::TryAgain | Class::NotCaptured => {
            Failure { code: failure::BAD_NETNS, ..Failure::from(error) }
        }
    }
}

/// The request as the pod's namespace can take it: where the owner is another user namespace, the kernel refuses the
/// owner match of iptables (EINVAL; measured), so that what decides by itself decides for nftables.
fn fit(pod: &Pod, mut request: Request) -> std::result::Result<Request, Failure> {
    if request.settings.ebpf.is_some() {
        return Ok(request);
    }
    let Settings { variant, iptables, .. } = &mut request.settings;
    match (pod.other_users, *variant, *iptables) {
        (false, ..) | (true, Some(Variant::Native), _) => Ok(request),
        (true, None, false) => {
            *variant = Some(Variant::Native);
            Ok(request)
        }
        (true, ..) => {
            let problem = "the pod's network namespace belongs to another user namespace (hostUsers: false), where the kernel refuses iptables' match of owners";
            Err(Failure::new(failure::HOST, problem).details("set backend to nftables in the configuration"))
        }
    }
}

/// More than any deadline here.
const DAY: Duration = Duration::from_secs(86_400);

fn unknown(faults: &Faults, agent: Option<&str>) -> Failure {
    let told = faults.list().first();
    let problem = told.map_or("the pod's annotations are not known", |fault| fault.problem.as_str());
    let problem = match agent {
        Some(agent) => format!("{problem}; {agent}"),
        None => problem.to_owned(),
    };
    let remedy = told.map_or("", |fault| fault.remedy.as_str());
    Failure::new(failure::TRY_AGAIN, problem).details(remedy)
}
