//! Listeners of the proxy's that were there first.

use mesh_init_abi::{LISTENERS, ListenerKey, Sock, SockFlags};

use super::node::Node;
use super::pod::Capture;
use crate::error::{Class, Error, Result};
use crate::sys::bpf::{cgroup, listener};
use crate::sys::sockets;

/// Enters the proxy's listeners that were there before its sockets were looked at: those of the users that the policy names
/// as the proxy's, and of its control group. The kernel does not tell the group of a socket's maker.
///
/// # Errors
/// A process that has one cannot be looked into: what arrives would be refused.
pub(super) fn listeners(node: &Node, netns: u64, capture: &Capture<'_>) -> Result<()> {
    let lowered = capture.lowered;
    let maps = &node.maps;
    let port = lowered.policy.inbound_port;
    let key = |place| ListenerKey { netns, place, port: u32::from(port) };
    let mut known = Vec::new();
    let mut free = Vec::new();
    for place in 0..ListenerKey::PLACES {
        match maps.listeners.get(&key(place))? {
            Some(cookie) => known.push(cookie),
            None => free.push(place),
        }
    }
    let found = sockets::listeners(port)?;
    let is_in_group = |listener: &sockets::Tcp| {
        let group = Some(capture.proxy_group).filter(|group| *group != 0);
        group.zip(listener.cgroup).and_then(|(group, of)| cgroup::is_inside(of, group)) == Some(true)
    };
    let is_proxys = |listener: &&sockets::Tcp| lowered.has_proxy(listener.uid) || is_in_group(listener);
    let new = found.iter().filter(is_proxys).filter(|found| !known.contains(&found.cookie));
    for found in new {
        let first = ListenerKey::first(found.local.is_ipv6());
        // More than fit are no better than those that do.
        let place = free.iter().position(|place| (first..first + LISTENERS).contains(place));
        let Some(place) = place.map(|at| free.swap_remove(at)) else { continue };
        let socket = listener::take(found)?.ok_or_else(|| {
            let problem = format!("the proxy already listens on port {port}, and its socket cannot be taken up");
            Error::new(Class::Privilege, problem)
                .remedy("that needs CAP_SYS_PTRACE and the proxy's process in sight; or start the proxy after mesh-init")
        })?;
        maps.socks.put(&listener::number(&socket), &Sock { flags: SockFlags::PROXYS, ..Sock::NEW })?;
        let value = u64::from(listener::number(&socket).cast_unsigned());
        maps.listeners.put(&key(place), &value).map_err(|error| {
            error.remedy("the kernel gives connections to listeners of TCP alone: if the proxy's is one of MPTCP, have it listen with TCP")
        })?;
    }
    Ok(())
}
