//! STATUS: can ADD work here? Asked every few seconds, so it costs milliseconds and says nothing if all is well.

use std::collections::BTreeMap;

use super::Work;
use crate::backend::{Observed, choose};
use crate::cni::decide::{Decision, decide};
use crate::cni::failure::{self, Failure};
use crate::cni::netconf::{NetConf, OnMissing, Selection};
use crate::cni::pod::{Annotations, PodFacts};
use crate::error::Error;
use crate::host::{able, namespace};
use crate::input::{Key, Sourced};
use crate::policy::Families;
use crate::policy::settings::Variant;
use crate::rules::compile::compile_for;
use crate::sys::{ask, ipv6};

impl Work {
    /// Looks whether ADD has what it needs: privileges, the agent if pods cannot be judged without it, and the kernel's
    /// parts or the tools.
    pub(super) fn status(&self, conf: &NetConf) -> Result<(), Failure> {
        let unable = |error: Error| {
            let failure = Failure::from(error);
            Failure { code: failure::NOT_AVAILABLE, ..failure }
        };
        self.journal.step("decide");
        let request = match decide(&anybody(), &for_anybody(conf)) {
            Decision::Capture(capture) => capture.request,
            Decision::Skip(_) => return Ok(()),
            Decision::Reject(faults) | Decision::Unknown(faults) => {
                let problem = "the configuration makes no policy";
                return Err(Failure::faulty(failure::BAD_CONFIG, problem, &faults));
            }
        };
        self.journal.step("privileges");
        namespace::may_capture_pods(&request.settings).map_err(unable)?;
        self.journal.step("agent");
        let needed = conf.on_missing_annotations == OnMissing::Fail && conf.selection != Selection::All;
        if let Some(socket) = conf.agent_socket.as_ref().filter(|_| needed) {
            ask::listens(socket).map_err(|why| {
                let problem = format!("the agent at {} {why}", socket.display());
                let remedy = "start it, or take agentSocket out of the configuration if the runtime passes annotations on";
                Failure::new(failure::NOT_AVAILABLE, problem).details(remedy)
            })?;
        }
        self.journal.step("try");
        if request.settings.ebpf.is_some() {
            return able::ebpf().map_err(unable);
        }
        let machine = self.machine();
        let observed = Observed { ipv6: ipv6::is_there(), ..Observed::default() };
        let tools = &machine.tools;
        let variant = choose::variant(&request.settings, &observed, tools).map_err(unable)?.variant;
        let families: Families =
            choose::families(request.policy.ipv6, &observed, variant, tools).map_err(unable)?;
        if variant == Variant::Native {
            let rules = compile_for(&request.policy, request.layout, families, variant);
            able::nftables(&rules, &machine).map_err(unable)?;
        }
        Ok(())
    }
}

/// The configuration with which a pod without annotations is captured: where it captures nothing by itself (mode NONE), a
/// pod's annotations may ask for capture all the same.
fn for_anybody(conf: &NetConf) -> NetConf {
    let mut conf = NetConf { selection: Selection::All, ..conf.clone() };
    let is_none = |mode: &Sourced| mode.text.eq_ignore_ascii_case("NONE");
    if conf.defaults.first(Key::Mode).is_some_and(is_none) {
        conf.defaults.remove(Key::Mode);
    }
    conf
}

/// A pod without annotations.
fn anybody() -> PodFacts {
    PodFacts { annotations: Annotations::Delivered(BTreeMap::new()), ..PodFacts::default() }
}
