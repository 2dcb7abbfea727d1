//! What `explain --live` says of connections is what becomes of them when they are really made: our rules in every
//! carrier and layout, alone and with those of others beside them.

use std::net::SocketAddr;
use std::time::Duration;

use super::{json, words};
use crate::docker_dns::RULES;
use crate::foreign::{self, FIREWALLD, FIREWALLD_NFT, KUBE_PROXY, load};
use crate::harness::Case;
use crate::scoped::{APP, OWNER, PROXY};
use crate::status::split;
use crate::support::command::{Run, mesh_init};
use crate::support::creds::Who;
use crate::support::dial::{Dialled, dial};
use crate::support::netns::Netns;
use crate::support::rules::{Family, Variant, assert_same, dump, restore};
use crate::support::serve::Service;
use crate::support::wire::{HERE, HERE_FAR, LOOPBACK, THERE, THERE_FAR, two_hosts};
use crate::upstream::calls::Golden;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Case::all_for_each_carrier(&[
        ("explain::dialled::layouts", layouts),
        ("explain::dialled::docker", docker),
        ("explain::dialled::kube_proxy", kube_proxy),
        ("explain::dialled::kube_proxy_in_nft", kube_proxy_in_nft),
        ("explain::dialled::firewalld", firewalld),
        ("explain::dialled::firewalld_in_nft", firewalld_in_nft),
        ("explain::dialled::unknown_match", unknown_match),
    ]);
    cases.extend(Case::each_variant("explain::dialled::upstreams", upstreams));
    cases.into_iter().map(|case| case.within(Duration::from_secs(90))).collect()
}

const CLASSIC: &str = "-p 15001 -u 1337";
const SCOPED: &str = "--uid-owner 1338 -b 80,8001 -z 15006";
const ISTIO: &str = "-p 15001 -z 15006 -u 1337 -b * -i * -d 15090 -x 10.9.0.0/16,fd00:9::/32";
const LISTS: &str = "-p 15001 -z 15006 -u 1337 -b 80,8001 -i 10.0.0.0/16,fd00::/32 -o 22";
const TPROXY: &str = "-p 15001 -z 15006 -u 1337 -g 1337 -b * -i * -m TPROXY";

/// A connection, as it is asked about and as it is made.
struct Asked<'a> {
    text: String,
    from: &'a Netns,
    who: Who,
    to: SocketAddr,
}

/// Two hosts with everybody who could answer.
struct Scene {
    here: Netns,
    there: Netns,
}

impl Scene {
    fn new() -> Self {
        let (here, there) = two_hosts();
        for family in Family::BOTH {
            here.ip(&format!("route add default via {}", THERE.ip(family)));
        }
        Service::tcp(&here, PROXY, "15001", &[15001]);
        Service::transparent(&here, Who::ROOT, "15006", &[15006]);
        Service::tcp(&here, Who::ROOT, "here", &[22, 80, 8001, 8080, 9090, 15090, 31380]);
        Service::tcp(&here, Who::ROOT, "38786", &[38786]);
        Service::tcp(&there, Who::ROOT, "there", &[22, 80, 8001, 8080]);
        Self { here, there }
    }

    fn apply(&self, variant: Variant, flags: &'static str) {
        let words = [split(flags), variant.flags().to_vec()].concat();
        mesh_init(&self.here, &words).ok();
        crate::support::wire::settle(&[&self.here]);
    }

    /// A connection of `who` from here, and what is said of where it leaves.
    fn out(&self, who: Who, from: SocketAddr, to: SocketAddr, dev: &str) -> Asked<'_> {
        let text = format!("out tcp uid={} gid={} src={from} dev={dev} {to}", who.uid, who.gid);
        Asked { text, from: &self.here, who, to }
    }

    fn connections(&self) -> Vec<Asked<'_>> {
        let mut asked = Vec::new();
        for family in Family::BOTH {
            for who in [APP, OWNER, PROXY] {
                for (from, to, port, dev) in [
                    (HERE, THERE, 80, "eth0"),
                    (HERE, THERE, 22, "eth0"),
                    (HERE_FAR, THERE_FAR, 8001, "eth0"),
                    (HERE, HERE, 80, "lo"),
                    (LOOPBACK, LOOPBACK, 80, "lo"),
                ] {
                    asked.push(self.out(who, from.port(family, 40000), to.port(family, port), dev));
                }
            }
            for port in [22, 80, 8001, 8080, 9090, 15090, 31380] {
                let (from, to) = (THERE.port(family, 40000), HERE.port(family, port));
                let text = format!("in tcp src={from} dev=eth0 {to}");
                asked.push(Asked { text, from: &self.there, who: APP, to });
            }
        }
        asked
    }

    /// Asks about all of them and makes each; what is said, in the order of the question.
    #[track_caller]
    fn holds(&self, what: &str, asked: &[Asked<'_>]) -> Vec<String> {
        let before = dump(&self.here);
        let texts: Vec<_> = asked.iter().map(|asked| asked.text.as_str()).collect();
        let question = [&["explain", "--live", "--output", "json"], &texts[..]].concat();
        let answer = json(&mesh_init(&self.here, &question).ok());
        assert_same("after `explain`", &before, &dump(&self.here));
        let answers = answer["answers"].as_array().expect("a list");
        assert_eq!(answers.len(), asked.len(), "{answer:#}");
        let said: Vec<_> = answers.iter().map(|answer| words(&answer["outcome"])).collect();
        let mut wrong = Vec::new();
        for (asked, said) in asked.iter().zip(&said).filter(|(_, said)| *said != "cannot tell") {
            let dialled = dial(asked.from, asked.who, asked.to);
            let seen = outcome(&dialled);
            if short(said) != seen {
                wrong.push(format!("{}: said {said}, seen {seen}: {dialled}", asked.text));
            }
        }
        assert!(
            wrong.is_empty(),
            "{what}: {} of {} are wrong:\n{}",
            wrong.len(),
            asked.len(),
            wrong.join("\n")
        );
        said
    }

    /// As `holds`, of connections of every kind: at least `told` can be told, captured ones and others.
    #[track_caller]
    fn agrees(&self, what: &str, told: usize) {
        let asked = self.connections();
        let said = self.holds(what, &asked);
        let count = |begin: &str| said.iter().filter(|said| said.starts_with(begin)).count();
        let (captured, unknown) = (count("captured -> "), count("cannot tell"));
        assert!(captured >= 2 && count("captured -> ") < said.len(), "{what}: seen {said:?}");
        assert!(said.len() - unknown >= told, "{what}: {unknown} cannot be told: {said:?}");
    }

    /// Nobody can tell, and the rule that is to blame is named.
    #[track_caller]
    fn cannot_tell(&self, conn: &str, because: &str) {
        let text = mesh_init(&self.here, &["explain", "--live", conn]).ok();
        assert!(text.starts_with("cannot tell: "), "{conn}: {text}");
        let blamed = text.lines().nth(1).unwrap_or_default();
        assert!(blamed.contains("because of ") && blamed.contains(because), "{conn}: {because}: {text}");
    }
}

/// What is said, without how it is captured.
fn short(said: &str) -> String {
    let said = said.strip_suffix(" (TPROXY)").unwrap_or(said);
    let elsewhere =
        said.strip_prefix("not captured, sent to ").and_then(|rest| rest.strip_suffix(" instead"));
    match elsewhere.and_then(|to| to.rsplit(':').next()).or(said.strip_prefix("captured -> ")) {
        Some("15001" | "15006") | None => said.to_owned(),
        // Also a redirect that is somebody else's.
        Some(port) => format!("sent to port {port}"),
    }
}

/// What became of it, in the same words.
fn outcome(dialled: &Dialled) -> String {
    let proxies = ["15001", "15006"].into_iter().find(|name| dialled.is_captured_by(name));
    match (proxies, &dialled.answer) {
        (Some(name), _) => format!("captured -> {name}"),
        (None, Err(_)) => "dropped".to_owned(),
        (None, Ok(_)) if ["here", "there"].iter().any(|name| dialled.is_untouched_to(name)) => {
            "not captured".to_owned()
        }
        (None, Ok(greeting)) => format!("sent to port {}", greeting.local.port()),
    }
}

fn layouts(variant: Variant) {
    for flags in [CLASSIC, SCOPED, ISTIO, LISTS, TPROXY] {
        let scene = Scene::new();
        scene.apply(variant, flags);
        scene.agrees(flags, 44);
    }
    // Rules that upstream would make for it.
    let scene = Scene::new();
    let upstream = [&["istio-iptables", "--dual-stack"], &split(ISTIO)[..]].concat();
    let more: &[&str] = match variant {
        Variant::Native => &["--native-nftables"],
        Variant::Legacy | Variant::Nft => &["--force-iptables-binary", variant.name()],
    };
    mesh_init(&scene.here, &[&upstream, more].concat()).ok();
    crate::support::wire::settle(&[&scene.here]);
    scene.agrees("istio-iptables", 44);
}

/// Upstream's own text of today, which its init container loads.
fn upstreams(variant: Variant) {
    let scene = Scene::new();
    Golden::read("injector-call").load(&scene.here, variant);
    scene.agrees("injector-call", 44);
}

/// Docker's resolver, before ours and after them.
fn docker(variant: Variant) {
    let resolver: SocketAddr = "127.0.0.11:53".parse().expect("an address");
    for flags in [CLASSIC, SCOPED, ISTIO] {
        for first in [true, false] {
            let scene = Scene::new();
            let load = || restore(&scene.here, variant.iptables(), Family::V4, RULES);
            if first {
                load();
            }
            scene.apply(variant, flags);
            if !first {
                load();
            }
            let mut asked = scene.connections();
            for who in [APP, OWNER, PROXY] {
                asked.push(scene.out(who, "127.0.0.1:40000".parse().expect("an address"), resolver, "lo"));
            }
            let said = scene.holds(&format!("{flags}, Docker first: {first}"), &asked);
            assert!(!said.iter().any(|said| said == "cannot tell"), "{flags}: {said:?}");
            let there = said.iter().any(|said| said.contains("sent to 127.0.0.11:38786"));
            assert!(there || !first, "{flags}: expected Docker's resolver, seen {said:?}");
        }
    }
}

/// As iptables has it: which back end is chosen by chance, everything else can be told.
fn kube_proxy(variant: Variant) {
    for flags in [CLASSIC, SCOPED] {
        let scene = Scene::new();
        load(&scene.here, variant, KUBE_PROXY);
        scene.apply(variant, flags);
        scene.agrees(flags, 42);
        scene.cannot_tell("out tcp uid=1000 10.1.0.10:80", "-m statistic --mode random");
    }
}

/// As nft has it: maps of verdicts, and sets.
fn kube_proxy_in_nft(variant: Variant) {
    for flags in [CLASSIC, SCOPED] {
        let scene = Scene::new();
        scene.apply(variant, flags);
        foreign::load_kube_proxy(&scene.here, HERE, THERE);
        if variant != Variant::Native && flags == CLASSIC {
            // At the same priority as iptables' nat, nobody knows which comes first.
            scene.holds(flags, &scene.connections());
            continue;
        }
        scene.agrees(flags, 42);
        let service = ["10.0.9.9:81", "[fd00::99]:81"].map(|to| to.parse().expect("an address"));
        let from = Family::BOTH.map(|family| HERE.port(family, 40000));
        let asked: Vec<_> = (0..2).map(|at| scene.out(APP, from[at], service[at], "eth0")).collect();
        let said = scene.holds("a service with one back end", &asked);
        assert!(said.iter().all(|said| said.contains(":8080 instead")), "{flags}: {said:?}");
        for to in ["10.0.9.9:80", "[fd00::99]:80"] {
            scene.cannot_tell(&format!("out tcp uid=1000 {to}"), "numgen");
        }
    }
}

fn firewalld(variant: Variant) {
    for flags in [CLASSIC, SCOPED] {
        let scene = Scene::new();
        load(&scene.here, variant, FIREWALLD);
        // As it lets them in: neighbours that cannot be asked for their addresses cannot be reached.
        let program = variant.iptables().program(Family::V6, "");
        Run::new(&scene.here, &program, &split("-I INPUT -p ipv6-icmp -j ACCEPT")).ok();
        scene.apply(variant, flags);
        scene.agrees(flags, 44);
    }
}

fn firewalld_in_nft(variant: Variant) {
    for flags in [CLASSIC, SCOPED] {
        let scene = Scene::new();
        scene.apply(variant, flags);
        Run::with_input(&scene.here, "nft", &["-f", "-"], FIREWALLD_NFT).ok();
        // What comes in by IPv6, over lo too, depends on the way back, which is not looked up; that is told. What is
        // redirected of IPv6 when it leaves is dropped: it goes to ::1, not over lo yet.
        scene.agrees(flags, 31);
        let from_there =
            format!("in tcp src={} {}", THERE.port(Family::V6, 40000), HERE.port(Family::V6, 22));
        scene.cannot_tell(&from_there, "inet firewalld filter_PREROUTING rule 2: fib ");
    }
}

/// A condition that is not understood counts where it makes a difference, and is named.
fn unknown_match(variant: Variant) {
    let scene = Scene::new();
    scene.apply(variant, CLASSIC);
    for family in Family::BOTH {
        let ip = family.of_nft();
        let theirs = format!(
            "table {ip} theirs {{
                chain out {{
                    type nat hook output priority -110; policy accept;
                    tcp dport 22 meta random & 1 == 0 accept
                    tcp dport 22 numgen random mod 2 == 0 redirect to :4242
                }}
            }}"
        );
        Run::with_input(&scene.here, "nft", &["-f", "-"], &theirs).ok();
        let to = THERE.port(family, 22);
        scene.cannot_tell(&format!("out tcp uid=1000 {to}"), "theirs out rule ");
    }
    // Whatever is not asked about those conditions can be told all the same.
    scene.agrees("beside conditions of nobody knows what", 38);
}
