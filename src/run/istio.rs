//! `istio-iptables`: upstream's interface, on the way that everything else goes.

use super::{Environment, apply, clean};
use crate::backend::iptables::transcript::transcript;
use crate::backend::nftables::script::script;
use crate::cli::Istio;
use crate::error::{Class, Error};
use crate::host;
use crate::input::options::{Key, Part};
use crate::input::{Faults, Raw, env, istio};
use crate::policy::facts::Questions;
use crate::policy::istio::{Call, Task, call};
use crate::policy::settings::Output;
use crate::policy::validate::Request;
use crate::policy::{Families, Ipv6};
use crate::report::{Answer, Failure, Report};
use crate::rules::compile::{compile, native};
use crate::sys::{fs, probe};

pub(super) fn main(given: &Istio, environment: &Environment) -> Answer {
    let (extra, mut faults) = extra(given, environment);
    let json = extra.first(Key::Output).is_some_and(|given| given.text.eq_ignore_ascii_case("json"));
    let flags = |long: &str| given.flags.iter().find(|(of, _)| *of == long).map(|(_, texts)| texts.clone());
    let given = istio::parse(flags, environment, &mut faults);
    let output = if json { Output::Json } else { Output::Text };
    answer(&given, extra, faults, environment).unwrap_or_else(|failure| failure.answer(output))
}

/// Options of our own: flags, and their variables.
fn extra(given: &Istio, environment: &Environment) -> (Raw, Faults) {
    let mut faults = Faults::default();
    let (variables, _) = env::parse(environment, &[Part::Making, Part::Looking], &mut faults);
    let mut raw = given.extra.clone().or(variables);
    // The layout and the namespace are upstream's business here, and files are not read.
    for key in [Key::Layout, Key::Netns, Key::EnvFile, Key::Config] {
        raw.remove(key);
    }
    (raw, faults)
}

fn answer(
    given: &istio::Given,
    extra: Raw,
    faults: Faults,
    environment: &Environment,
) -> Result<Answer, Failure> {
    let facts = host::facts::answer(Questions::of_istio(given));
    let Call { request, task } = call(given, extra, &facts, faults)?;
    for warning in &request.warnings {
        tracing::warn!("{warning}");
    }
    if facts.addresses.is_empty() && !task.cleanup_only && !task.skip_rules {
        let error = Error::host("no interface has an address beside loopback and link-local ones");
        return Err(error
            .remedy("wait until the network is there: whether IPv6 is captured depends on it")
            .into());
    }
    let mut answer = match &task {
        Task { dry_run: true, .. } => dry_run(&request, &task)?,
        Task { cleanup_only: true, .. } => {
            let families = families(&request);
            let named = compile(&request.policy, request.layout, families);
            clean::run(&request.settings, named, environment)?.answer(request.settings.output)
        }
        Task { skip_rules: true, .. } => Answer::default(),
        Task { .. } => apply::run(&request, environment)?.answer(request.settings.output),
    };
    if task.validate && !task.dry_run {
        validate(&request, &task)?;
        if request.settings.output == Output::Text {
            answer.stdout.push_str("validated: the proxy's calls to this pod are redirected\n");
        }
    }
    Ok(answer)
}

fn families(request: &Request) -> Families {
    match request.policy.ipv6 {
        Ipv6::Off => Families::V4,
        Ipv6::On | Ipv6::Auto => Families::Both,
    }
}

/// The transcript, printed, and written where `DRY_RUN_FILE_PATH` says.
fn dry_run(request: &Request, task: &Task) -> Result<Answer, Failure> {
    let text = match task.cleanup_only || task.skip_rules {
        true => String::new(),
        false if task.native_nftables => {
            let wanted = native::native(&request.policy, request.layout, families(request));
            let options = host::native::options()?;
            script(&wanted, options).into_iter().map(|(_, table)| table).collect()
        }
        false => transcript(&request.policy, request.layout, families(request)),
    };
    if let Some(path) = &task.dry_run_file {
        fs::write_over(path, &text)?;
    }
    Ok(Answer { stdout: text, ..Answer::default() })
}

fn validate(request: &Request, task: &Task) -> Result<(), Failure> {
    let proxy = &request.policy.proxy;
    let (out, inbound) = (proxy.port.number(), proxy.inbound_port.number());
    probe::validate(out, inbound, task.probe_port, task.v6_host, task.probe_timeout).map_err(|why| {
        let problem = format!("capture does not hold: {why}");
        let remedy = "the rules are missing or others are in their way; with a CNI plugin, delete the pod so that the \
                      plugin runs again (cni.repair.deletePods=true does it by itself)";
        Error::new(Class::NotCaptured, problem).remedy(remedy).into()
    })
}
