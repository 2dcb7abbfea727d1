//! Many pods at once, as after a node's restart.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use super::runtime::{ALL, Call, conf_after_add};
use crate::harness::{Case, Check};
use crate::support::netns::Netns;
use crate::telling::{self, Telling, Whole};

/// Pods in all.
const PODS: Whole = Whole { number: 250, variable: "MESH_INIT_PODS" };
/// Calls at the same time; fewer where each runs eight programs.
const AT_ONCE: usize = 50;
const AT_ONCE_BY_IPTABLES: usize = 10;

const CASES: [Telling; 3] = [
    Telling { name: "cni::many::nftables", body: || many(""), within: Duration::from_secs(120) },
    Telling {
        name: "cni::many::iptables_legacy",
        body: || many(r#","backend":"iptables","iptablesVariant":"legacy""#),
        within: Duration::from_secs(120),
    },
    Telling {
        name: "cni::many::iptables_nft",
        body: || many(r#","backend":"iptables","iptablesVariant":"nft""#),
        within: Duration::from_secs(120),
    },
];

pub(crate) fn cases() -> Vec<Case> {
    telling::cases(&CASES)
}

pub(crate) fn checks() -> Vec<Check> {
    telling::checks(&CASES)
}

/// Every ADD succeeds, and CHECK finds every pod as it must be. The back ends of iptables get a fifth of the pods.
fn many(backend: &str) -> String {
    let (share, at_once) = match backend.is_empty() {
        true => (PODS.number, AT_ONCE),
        false => (PODS.number / 5, AT_ONCE_BY_IPTABLES),
    };
    let pods = PODS.part(share);
    let netns: Vec<Netns> = (0..pods).map(|number| Netns::new(&format!("pod-{number}"))).collect();
    let text = conf_after_add("1.1.0", &format!("{ALL}{backend}"));
    let queue = Mutex::new(netns.iter());
    let took = Mutex::new(Vec::with_capacity(pods));
    let begin = Instant::now();
    let next = || queue.lock().expect("no call panics").next();
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(pod) = next() {
                    let answer = Call::about("ADD", pod).conf(text.clone()).run();
                    answer.ok();
                    took.lock().expect("no call panics").push(answer.took);
                }
            });
        }
    });
    let whole = begin.elapsed();
    for pod in &netns {
        Call::about("CHECK", pod).conf(text.clone()).run().silent();
    }
    let mut took = took.into_inner().expect("no call panicked");
    took.sort();
    assert_eq!(took.len(), pods);
    let milliseconds = |part: usize| took[(took.len() - 1) * part / 100].as_secs_f64() * 1e3;
    format!(
        "{pods} ADDs, {at_once} at a time, in {:.2} s, each verified by CHECK; one took {:.1} ms (p50), {:.1} ms (p99)",
        whole.as_secs_f64(),
        milliseconds(50),
        milliseconds(99)
    )
}
