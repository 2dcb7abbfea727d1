//! `explain --pod`: what the CNI plugin decides for a pod, and what becomes of its connections. Offline: files only.

use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::explain::{Rules, connections, wanted};
use super::{Environment, input, variable};
use crate::cli::Pod;
use crate::cni::decide::{Decision, Skip, decide};
use crate::cni::netconf::NetConf;
use crate::cni::pod::{Annotations, PodFacts};
use crate::cni::source::{self, Source};
use crate::error::{Class, Error, Result};
use crate::input::fault::quote;
use crate::input::{Faults, Key};
use crate::report::{Answer, Decided, Explained, Failure, Form};
use crate::sys::fs;

/// What was found out about the pod.
struct Found {
    pod: PodFacts,
    conf: NetConf,
    manifest: Option<Box<crate::cni::manifest::Manifest>>,
    notes: Vec<String>,
}

pub(super) fn answer(
    asked: &Pod,
    texts: &[String],
    form: Option<Form>,
    mut given: input::Given,
    environment: &Environment,
) -> std::result::Result<Answer, Failure> {
    if form.is_some() {
        given.faults.whole("a pod's decision is not drawn", "give --output text or json");
    }
    let own = [Key::Output, Key::Wait];
    if let Some(key) = given.raw.keys().find(|key| !own.contains(key))
        && let Some(other) = given.raw.first(key).cloned()
    {
        let remedy =
            "leave it out: a pod's annotations and the configuration of --netconf say what is captured";
        given.faults.option(&other, "has no meaning beside --pod", remedy);
    }
    let conns = connections(texts, &mut given.faults);
    let output = given.settings()?.output;
    let found = find(asked, environment)?;
    let mut notes = found.notes;
    let host_network = found.manifest.as_ref().is_some_and(|manifest| manifest.host_network);
    let decision = match host_network {
        true => Decision::Skip(Skip::HostNetwork),
        false => decide(&found.pod, &found.conf),
    };
    if let Some(manifest) = &found.manifest {
        notes.extend(manifest.unheard(&decision));
    }
    let rules = match &decision {
        Decision::Capture(capture) => Some(wanted(&capture.request, capture.given.clone())),
        Decision::Skip(_) if !host_network => Some(Rules::none()),
        Decision::Skip(_) | Decision::Reject(_) | Decision::Unknown(_) => None,
    };
    if rules.is_none() && !conns.is_empty() {
        notes.push("nothing is said of connections: there are none of which the plugin decides".to_owned());
    }
    let answers = rules.map(|rules| conns.iter().map(|conn| rules.explain(conn)).collect());
    let connections = Explained { answers: answers.unwrap_or_default(), notes: Vec::new() };
    Ok(Decided { pod: found.pod.to_string(), decision, notes, connections }.verdict(output))
}

fn misused(problem: String) -> Error {
    Error::new(Class::Usage, problem).remedy("see docs/explain.md")
}

fn find(asked: &Pod, environment: &Environment) -> std::result::Result<Found, Failure> {
    let text = match asked.text.as_str() {
        "-" => stdin()?,
        path if fs::is_there(Path::new(path)) => read(path)?,
        other => cached(other, &asked.cache)?,
    };
    let source = source::read(&text).map_err(|why| misused(format!("--pod {} {why}", quote(&asked.text))))?;
    let given = match &asked.netconf {
        Some(path) => {
            let text = read(path)?;
            let conf = serde_json::from_str::<Value>(&text).map_err(|why| format!("is not JSON: {why}"));
            let conf = conf.and_then(|conf| source::plugin(&conf));
            Some(conf.map_err(|why| misused(format!("--netconf {} {why}", quote(path))))?)
        }
        None => None,
    };
    let mut notes = Vec::new();
    let (mut pod, own, manifest) = match source {
        Source::Manifest(manifest) => {
            notes.extend(manifest.assumed.iter().cloned());
            (manifest.pod.clone(), None, Some(manifest))
        }
        Source::Conf(conf) => {
            let plugin = source::plugin(&conf)
                .map_err(|why| misused(format!("--pod {} {why}", quote(&asked.text))))?;
            (named(environment), Some(plugin), None)
        }
        Source::Cached(cached) => {
            if cached.conf.is_none() && given.is_none() {
                notes.push("the plugin was not in the chain when the pod was attached".to_owned());
            }
            (cached.pod, cached.conf, None)
        }
    };
    let is_given = given.is_some();
    let conf = match given.or(own) {
        Some(conf) => {
            if is_given && manifest.is_some() && !source::declares(&conf) {
                notes.push(
                    "the configuration does not declare the capability io.kubernetes.cri.pod-annotations"
                        .to_owned(),
                );
                pod.annotations = Annotations::Absent;
            }
            NetConf::parse(conf.to_string().as_bytes())?
        }
        None => {
            notes.push("by the defaults of the plugin: --netconf names the configuration in use".to_owned());
            NetConf::parse(br#"{"cniVersion":"1.1.0"}"#)?
        }
    };
    if conf.annotations != Annotations::Absent {
        pod.annotations = conf.annotations.clone();
    }
    if pod.namespace.is_none() && pod.name.is_none() {
        notes.push("no pod is named: CNI_ARGS in the environment can, such as K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart".to_owned());
    }
    Ok(Found { pod, conf, manifest, notes })
}

/// The pod that the runtime would name.
fn named(environment: &Environment) -> PodFacts {
    let args = variable(environment, "CNI_ARGS").and_then(|args| args.to_str()).unwrap_or_default();
    source::named(args.split(';').filter_map(|pair| pair.split_once('=')))
}

fn read(path: &str) -> std::result::Result<String, Failure> {
    fs::read(Path::new(path)).map_err(|error| {
        let mut faults = Faults::default();
        let problem = format!("{} {}", crate::input::plain(path), error.problem);
        faults.whole(problem, "give a readable text file");
        faults.into()
    })
}

fn stdin() -> Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(fs::LIMIT + 1).read_to_string(&mut text);
    match read {
        Ok(length) if length as u64 <= fs::LIMIT => Ok(text),
        Ok(_) => Err(misused(format!("standard input is larger than {} MiB", fs::LIMIT >> 20))),
        Err(error) => Err(misused(format!("standard input cannot be read: {error}"))),
    }
}

/// What libcni keeps of the pod `text`.
fn cached(text: &str, folder: &str) -> Result<String> {
    let results = Path::new(folder).join("results");
    let missing = || misused(source::not_found(text, &results.display().to_string()));
    let (namespace, name) = source::name(text).ok_or_else(missing)?;
    let is_it = |text: &String| match source::read(text) {
        Ok(Source::Cached(cached)) => {
            let PodFacts { namespace: of, name: pod, .. } = &cached.pod;
            of.as_deref() == Some(namespace) && pod.as_deref() == Some(name)
        }
        Ok(Source::Manifest(_) | Source::Conf(_)) | Err(_) => false,
    };
    // What cannot be read is somebody else's, or is gone by now.
    fs::list(&results)?.iter().filter_map(|path| fs::read(path).ok()).find(is_it).ok_or_else(missing)
}
