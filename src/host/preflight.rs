//! What must be true of the machine before anything is changed.

use super::observe::Look;
use crate::backend::plan::Purpose;
use crate::backend::{Observed, Plan, ownership};
use crate::error::{Class, Error, Result};
use crate::eval::sockets::Socket;
use crate::policy::settings::{Settings, Variant};
use crate::policy::{CapturePolicy, Layout, Owners};
use crate::sys::privilege::{self, Need};
use crate::sys::sandbox;

/// Capturing the whole of the host's own namespace is rarely meant, and takes SSH away. `hosts_own` is `None` if it
/// cannot be told whether this is that one.
///
/// # Errors
/// It would, or might, and `--host` does not say so.
pub fn not_the_host(layout: Layout, settings: &Settings, hosts_own: Option<bool>) -> Result<()> {
    if settings.host || settings.confirm_within.is_some() {
        return Ok(());
    }
    let which = match (layout, hosts_own) {
        (Layout::Scoped, _) | (_, Some(false)) => return Ok(()),
        (_, Some(true)) => "this is the host's own network namespace",
        (_, None) => {
            "whether this is the host's own network namespace cannot be told without /proc/sys/net and the kernel's connector"
        }
    };
    Err(Error::new(
        Class::Usage,
        format!("{which}, and the {layout} layout would capture all of it, SSH too"),
    )
    .remedy("give --host if that is meant, --confirm-within 60s to have it taken back unless you confirm, or --uid-owner and --inbound to capture only a user and a port"))
}

/// What a sandboxed pod does is done with sockets of another kernel, which no hook of this one sees.
///
/// # Errors
/// This is the network namespace of one.
pub fn no_sandbox() -> Result<()> {
    let Some(sandbox) = sandbox::find() else { return Ok(()) };
    Err(Error::new(Class::Usage, format!("this is {sandbox}, whose sockets are none of this kernel's"))
        .remedy("capture inside: give the pod an init container of mesh-init, and leave it out here"))
}

/// iptables opens raw sockets (iptables(8)); nftables does without.
///
/// # Errors
/// `plan` changes rules of iptables, and `CAP_NET_RAW` is missing.
pub fn iptables(plan: &Plan) -> Result<()> {
    let mut steps = plan.stages.iter().filter(|stage| !stage.steps.is_empty()).peekable();
    if steps.peek().is_none() {
        return Ok(());
    }
    // What only takes rules of iptables away was asked for by another back end, or by clean.
    let makes = steps.any(|stage| stage.purpose != Purpose::Remove);
    raw_sockets().map_err(|error| match (makes, &error.remedy) {
        (true, Some(remedy)) => {
            let remedy = format!("{remedy}, or --backend nftables, which needs NET_ADMIN alone");
            error.remedy(remedy)
        }
        (_, _) => error,
    })
}

/// # Errors
/// `CAP_NET_RAW` is missing.
pub fn raw_sockets() -> Result<()> {
    privilege::require(&[Need::CAP_NET_RAW], &[])
}

/// Rules that cannot be read cannot be judged: ours may be among them.
///
/// # Errors
/// There are some, and the caller has not chosen the other variant, or the kernel lists a chain of ours among them.
pub fn readable(look: &Look, asked: Option<Variant>) -> Result<()> {
    if let Some(why) = &look.observed.unlisted {
        tracing::warn!("{}; rules of ours may be there", why.problem);
    }
    for (variant, family, why) in &look.unreadable {
        let problem = format!("there are {family} tables of {variant} that cannot be read: {why}");
        if let (Variant::Nft, Some(chain)) = (variant, &look.unreadable_ours) {
            return Err(Error::host(format!("{problem}; chain {chain} is among them"))
                .remedy("move the native rules to a table of another name, then run the command again"));
        }
        if asked.is_none_or(|asked| asked == *variant) {
            return Err(Error::host(problem).remedy(format!(
                "install the iptables package that has {variant}-save or move native rules to a table of another name, or choose the other iptables with --iptables-variant"
            )));
        }
        tracing::warn!("{problem}; rules of ours may be among them");
    }
    Ok(())
}

/// Istio's ambient agent uses chain names of ours for its own purposes.
///
/// # Errors
/// Its chains are here.
pub fn no_ambient(observed: &Observed) -> Result<()> {
    for rules in observed.rules.values() {
        if let Some(chain) = ownership::ambient(rules) {
            return Err(Error::host(format!(
                "chain {chain} belongs to Istio's ambient agent, which captures this pod already"
            ))
            .remedy("take the pod out of the ambient mesh first (label istio.io/dataplane-mode=none)"));
        }
    }
    Ok(())
}

/// Two meshes in one namespace would capture each other's proxies.
///
/// # Errors
/// Another mesh's chains are here.
pub fn no_other_mesh(observed: &Observed) -> Result<()> {
    for rules in observed.rules.values() {
        if let Some((chain, mesh)) = ownership::other_mesh(rules) {
            return Err(Error::host(format!(
                "chain {chain} belongs to {mesh}, which captures this namespace already"
            ))
            .remedy(format!("take the {mesh} proxy and its rules out first")));
        }
    }
    Ok(())
}

/// A proxy that runs as one of those it serves would get its own connections back, without end.
///
/// # Errors
/// It does.
pub fn proxy_is_no_owner(policy: &CapturePolicy, sockets: &[Socket]) -> Result<()> {
    let Owners::Only { uids, .. } = &policy.outbound.owners else { return Ok(()) };
    let ports = [policy.proxy.port.number(), policy.proxy.inbound_port.number()];
    let captured = sockets.iter().find(|socket| {
        let owner = uids.iter().any(|uid| uid.number() == socket.uid);
        socket.is_listening() && ports.contains(&socket.local.port()) && owner
    });
    match captured {
        Some(socket) => Err(Error::host(format!(
            "the process that listens on the proxy port {} runs as uid {}, whose traffic is to be captured: it would get its own connections back",
            socket.local.port(),
            socket.uid
        ))
        .remedy("run the proxy as a user of its own and give it with -u")),
        None => Ok(()),
    }
}
