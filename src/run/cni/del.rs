//! DEL and GC: what is left behind, and that is nothing outside the pod's network namespace.

use super::Work;
use crate::cni::decide::{Decision, decide};
use crate::cni::failure::{self, Failure};
use crate::cni::netconf::{Attachment, NetConf, Standard};
use crate::error::Result;
use crate::host::ebpf::{Node, may_be_here};
use crate::host::{namespace, native};
use crate::policy::settings::{Settings, Variant};
use crate::rules::RuleSet;
use crate::run::{clean, ebpf};
use crate::sys::netns;

/// What is taken out of a namespace that is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Extent {
    /// Whatever ADD can have made with these.
    Everything(Box<Settings>),
    /// Our tables of nftables, which nobody else can have made: it is not known what ADD decided.
    Tables,
}

impl Work {
    /// Undoes ADD as far as there is anything to undo. It cannot fail: what is wrong is logged, and the pod ends.
    ///
    /// Rules live in the pod's namespace and go with it. Where the namespace stays (a container that leaves one of its
    /// networks), they are removed, unless another interface is left that they still capture.
    pub(super) fn del(&self, conf: std::result::Result<NetConf, Failure>) {
        if let Err(failure) = &conf {
            self.journal.note("error", failure.to_string());
        }
        let Some(path) = self.call.netns.as_deref() else { return self.detach(false) };
        let extent = match conf.as_ref().map(|conf| decide(&self.said(conf), conf)) {
            Ok(Decision::Capture(capture)) => Extent::Everything(Box::new(capture.request.settings)),
            // ADD made nothing, and what is there is somebody else's.
            Ok(Decision::Skip(_)) => {
                self.journal.note("reason", "ADD left this pod alone");
                // By the name of an attachment it is known what an ADD of another configuration made.
                return self.detach(false);
            }
            Ok(Decision::Reject(_) | Decision::Unknown(_)) | Err(_) => Extent::Tables,
        };
        self.journal.step("open");
        let mut stays = false;
        let removed = namespace::of_pod(path).map_err(Failure::from).and_then(|pod| {
            let settings = match &extent {
                Extent::Everything(settings) => (**settings).clone(),
                Extent::Tables => Settings { variant: Some(Variant::Native), ..Settings::default() },
            };
            let stays = &mut stays;
            self.inside(&pod, &settings, |work| {
                if netns::has_more_than(&work.call.interface) {
                    work.journal.note("reason", "another interface is left");
                    *stays = true;
                    ebpf::without(&work.call.interface, work.machine().left(settings.wait))?;
                    return Ok(Vec::new());
                }
                work.journal.step("remove");
                work.remove(&extent)
            })
        });
        self.detach(stays);
        match removed {
            Ok(removed) => self.journal.note("removed", removed),
            Err(failure) => self.journal.note("error", failure.to_string()),
        }
    }

    /// Takes away what the pod had at its sockets: that is found by the attachment's name, whether its network namespace is
    /// there or not.
    fn detach(&self, stays: bool) {
        if !may_be_here() {
            return;
        }
        self.journal.step("detach");
        let node = Node::find(self.machine().left(Settings::default().wait));
        let detached = node.and_then(|node| match node {
            Some(node) => node.detach(&self.call.container, &self.call.interface, stays),
            None => Ok(false),
        });
        match detached {
            Ok(detached) => self.journal.note("detached", detached),
            Err(error) => self.journal.note("error", error.to_string()),
        }
    }

    fn remove(&self, extent: &Extent) -> Result<Vec<String>> {
        if *extent == Extent::Tables && !native::are_there()? {
            return Ok(Vec::new());
        }
        let machine = self.machine();
        let settings = Settings::default();
        // As long as it may take: the machine's end limits it.
        let lock = namespace::lock(machine.left(settings.wait))?;
        match extent {
            Extent::Everything(_) => {
                clean::in_place(&settings, RuleSet::default(), machine, lock).map(|cleaned| cleaned.changed)
            }
            Extent::Tables => {
                native::change(&RuleSet::default(), &machine)?;
                Ok(vec!["our tables of nftables".to_owned()])
            }
        }
    }

    fn collect(&self, valid: &[Attachment]) -> Result<()> {
        if !may_be_here() {
            return Ok(());
        }
        let Some(node) = Node::find(self.machine().left(Settings::default().wait))? else { return Ok(()) };
        let valid: Vec<(&str, &str)> =
            valid.iter().map(|of| (of.container_id.as_str(), of.interface.as_str())).collect();
        let removed = node.keep_only(&valid)?;
        self.journal.note("removed", removed);
        Ok(())
    }

    /// Removes what pods had at their sockets that none of the valid attachments names. Rules go with the namespace that
    /// they are in, and there is no other state.
    pub(super) fn gc(&self, text: &[u8]) -> std::result::Result<(), Failure> {
        let standard = Standard::parse(text).map_err(|faults| {
            Failure::faulty(failure::BAD_CONFIG, "the configuration on standard input has faults", &faults)
        })?;
        // What is wrong with the keys of ours is no matter here; how to log is among them.
        self.conf(text).ok();
        match standard.valid_attachments {
            Some(valid) => {
                self.journal.note("validAttachments", valid.len());
                self.collect(&valid)?;
            }
            None => self.journal.note("reason", "no list of valid attachments is given"),
        }
        Ok(())
    }
}
