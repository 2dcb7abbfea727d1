//! eBPF says the same: what a policy means for a connection is what `decide` makes of the maps that it is lowered to.
//!
//! The maps here are lists of their entries, looked up as the kernel looks them up; beside a policy's entries stand
//! those of another namespace and of an older generation. What the hooks of a socket do otherwise than rules is
//! a [`Difference`], and what they cannot do is taken out of the policy once it is seen to be refused by its name.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mesh_init::backend::ebpf::ask::ask;
use mesh_init::backend::ebpf::lower::{Lowered, Place, lower};
use mesh_init::backend::ebpf::{rule_id, trie};
use mesh_init::eval::probing::Direction;
use mesh_init::eval::{Capture, Conn, Outcome, evaluate};
use mesh_init::policy::{Families, Interfaces, Mode, Port, RuleId, Unable};
use mesh_init::rules::compile::compile;
use mesh_init::rules::{ConnState, Protocol, RuleSet};
use mesh_init_abi::{
    Address, Clause, Flow, Meaning, NetFlags, NetKey, OwnerFlags, OwnerKey, OwnerKind, Policy, PortFlags,
    PortKey, Verdict, Way, decide,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use super::connections::{self, Pick, Pool};
use super::oracle;
use super::policies::{self, Subject};

/// Where the policy is that is asked.
const HERE: Place = Place { netns: 0x1_0000_0002, generation: 7 };
/// What stands beside it in the maps: another namespace, and the policy that was here before.
const ELSEWHERE: [Place; 2] = [Place { netns: 2, generation: 7 }, Place { netns: HERE.netns, generation: 6 }];

/// What a hook does otherwise than rules do, because it is asked for a socket and not for a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    /// Nothing but a first packet is asked about: connections that were open before go on, where rules take up those
    /// that conntrack does not know.
    OpenBefore,
    /// What passes through this host has no socket here, and is not captured.
    PassesThrough,
    /// No conntrack: what begins is captured, whatever an earlier connection of the same addresses and ports was.
    NoConntrack,
    /// What is sent to the unspecified address goes to the loopback one, and is decided as that.
    Unspecified,
    /// An IPv4 address in IPv6's form is that IPv4 address: what the packets carry decides.
    Mapped,
}

/// The connection that a hook is asked about, if one is; and what is otherwise than rules have it.
fn asked(conn: &Conn) -> (Option<Conn>, Vec<Difference>) {
    let mut differences = Vec::new();
    let inbound = conn.direction == Direction::Inbound;
    let tcp = conn.protocol == Protocol::Tcp;
    if tcp && !conn.first {
        return (None, vec![Difference::OpenBefore]);
    }
    if inbound && !conn.local {
        return (None, vec![Difference::PassesThrough]);
    }
    if !tcp && (inbound || conn.protocol != Protocol::Udp) {
        return (None, vec![]);
    }
    let mut asked = conn.clone();
    if conn.state != ConnState::New {
        asked.state = ConnState::New;
        differences.push(Difference::NoConntrack);
    }
    if !inbound {
        let mut to = conn.destination.ip();
        if let IpAddr::V6(address) = to
            && let Some(address) = address.to_ipv4_mapped()
        {
            to = address.into();
            differences.push(Difference::Mapped);
        }
        if to.is_unspecified() {
            to = if to.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            asked.local = true;
            asked.interface = mesh_init::policy::IfName::lo();
            differences.push(Difference::Unspecified);
        }
        asked.destination = SocketAddr::new(to, conn.destination.port());
    }
    (Some(asked), differences)
}

/// The maps, as lists.
#[derive(Default)]
struct Maps {
    policies: Vec<(u64, Policy)>,
    networks: Vec<(NetKey, NetFlags)>,
    ports: Vec<(PortKey, PortFlags)>,
    owners: Vec<(OwnerKey, OwnerFlags)>,
}

/// The bits of a key that a prefix is of, the first one first.
trait Prefixed: Copy {
    fn prefix_len(self) -> u32;
    fn bits(self) -> Vec<u8>;
}

impl Prefixed for NetKey {
    fn prefix_len(self) -> u32 {
        self.prefix_len
    }

    fn bits(self) -> Vec<u8> {
        let words = self.address.0.map(u32::to_ne_bytes);
        [&self.generation.to_ne_bytes()[..], &self.netns.to_ne_bytes(), words.as_flattened()].concat()
    }
}

impl Prefixed for PortKey {
    fn prefix_len(self) -> u32 {
        self.prefix_len
    }

    fn bits(self) -> Vec<u8> {
        [&self.generation.to_ne_bytes()[..], &self.netns.to_ne_bytes(), &self.port.to_ne_bytes()].concat()
    }
}

/// What the longest prefix says that `key` lies in (`trie_lookup_elem`, kernel/bpf/lpm_trie.c).
fn longest<K: Prefixed, V: Copy>(map: &[(K, V)], key: K) -> Option<V> {
    let wanted = key.bits();
    let shared = |entry: &[u8]| -> u32 {
        let mut bits = 0;
        for (one, other) in entry.iter().zip(&wanted) {
            bits += (one ^ other).leading_zeros();
            if one != other {
                break;
            }
        }
        bits
    };
    map.iter()
        .filter(|(entry, _)| {
            entry.prefix_len() <= key.prefix_len() && shared(&entry.bits()) >= entry.prefix_len()
        })
        .max_by_key(|(entry, _)| entry.prefix_len())
        .map(|(_, value)| *value)
}

impl Maps {
    fn write(&mut self, place: Place, lowered: Lowered) {
        let Lowered { policy, networks, ports, owners } = lowered;
        self.policies.retain(|(netns, _)| *netns != place.netns);
        self.policies.push((place.netns, policy));
        self.networks.extend(networks);
        self.ports.extend(ports);
        self.owners.extend(owners);
    }

    /// What a program does, asked about `conn` in `netns`.
    fn ask(&self, netns: u64, conn: &Conn) -> (Outcome, Option<RuleId>) {
        let (_, policy) = self.policies.iter().find(|(of, _)| *of == netns).expect("a policy");
        let generation = policy.generation;
        let destination = trie::address(conn.destination.ip());
        let destination = destination.destination(!destination.is_v4());
        let outbound = conn.direction == Direction::Outbound;
        let port = conn.destination.port();
        let owner = |kind, id: Option<u32>| {
            let key = id.map(|id| OwnerKey::of(netns, generation, kind, id));
            let found = key.and_then(|key| self.owners.iter().find(|(of, _)| *of == key));
            found.map_or(OwnerFlags::NONE, |(_, flags)| *flags)
        };
        let sender = conn.sender.as_ref();
        let flow = Flow {
            way: if outbound { Way::Outbound } else { Way::Inbound },
            tcp: conn.protocol == Protocol::Tcp,
            ipv6: !destination.is_v4(),
            stays: outbound && (conn.local || destination.is_loopback()),
            from_passthrough: outbound && trie::address(conn.source.ip()).is_passthrough(),
            port,
            networks: longest(&self.networks, NetKey::look_up(netns, generation, destination))
                .unwrap_or_default(),
            ports: longest(&self.ports, PortKey::look_up(netns, generation, port)).unwrap_or_default(),
            user: owner(OwnerKind::USER, sender.map(|sender| sender.uid)),
            group: owner(OwnerKind::GROUP, sender.map(|sender| sender.gid)),
        };
        let decision = decide(policy, &flow);
        let outcome = match decision.verdict {
            Verdict::Pass => Outcome::Passed,
            Verdict::Capture(socket) => Outcome::Captured {
                port: Port::of(policy.port(socket)).expect("a port"),
                by: Capture::Redirect,
            },
        };
        (outcome, rule_id(decision.clause))
    }
}

/// What no socket hook can do, by its kind.
fn kinds(unable: &[Unable]) -> Vec<&'static str> {
    let kind = |unable: &Unable| match unable {
        Unable::Tproxy => "tproxy",
        Unable::DropInvalid => "drop",
        Unable::ExcludeInterface => "exclude",
        Unable::RerouteInterface => "reroute",
    };
    unable.iter().map(kind).collect()
}

/// The policy without what is refused, and what that was.
fn able(subject: &Subject) -> (Subject, Vec<Unable>) {
    let refused = match lower(&subject.policy, subject.layout, subject.families, HERE) {
        Ok(_) => return (subject.clone(), Vec::new()),
        Err(refused) => refused,
    };
    let mut able = subject.clone();
    able.policy.drop_invalid = false;
    able.policy.interfaces = Interfaces::default();
    if able.policy.mode == Mode::Tproxy {
        able.policy.mode = Mode::Redirect;
    }
    (able, refused)
}

/// A policy, and everything that answers for it.
pub(super) struct Lowering {
    able: Subject,
    refused: Vec<Unable>,
    rules: RuleSet,
    lowered: Lowered,
    maps: Maps,
}

/// What was compared, for a pair.
struct Compared {
    differences: Vec<Difference>,
    clause: Option<RuleId>,
    outcome: Outcome,
}

impl Lowering {
    pub(super) fn of(subject: &Subject) -> Lowering {
        let (able, refused) = able(subject);
        let mut maps = Maps::default();
        // The opposite of nearly everything, where it must not count.
        let other =
            ["--layout", "istio-iptables", "-u", "1000,0", "-i", "", "-o", "1-65535", "-d", "1-65535"];
        let other = Subject::new(&[&other[..], &["-x", "0.0.0.0/0,::/0"]].concat(), Families::Both);
        let places = ELSEWHERE.map(|place| (place, &other)).into_iter().chain([(HERE, &able)]);
        for (place, of) in places {
            maps.write(place, lower(&of.policy, of.layout, of.families, place).expect("nothing is refused"));
        }
        let rules = compile(&able.policy, able.layout, able.families);
        let lowered = lower(&able.policy, able.layout, able.families, HERE).expect("nothing is refused");
        Lowering { able, refused, rules, lowered, maps }
    }

    fn compare(&self, conn: &Conn) -> Result<Compared, TestCaseError> {
        let Lowering { able, rules, maps, .. } = self;
        let meaning = |conn: &Conn| oracle::outcome(&able.policy, able.layout, able.families, conn);
        let (asked, differences) = asked(conn);
        let Some(asked) = asked else {
            let said = ask(&self.lowered, HERE.netns, conn);
            prop_assert!(said.is_err(), "{conn}: {said:?}");
            // Nobody asks; only where that is a difference may the policy have wanted something.
            prop_assert!(
                !differences.is_empty() || meaning(conn) == Outcome::Passed,
                "{able}\n{conn}\nno hook sees it, and it means {:?}",
                meaning(conn)
            );
            return Ok(Compared { differences, clause: None, outcome: Outcome::Passed });
        };
        let expected = meaning(&asked);
        // Without a difference it is the very connection.
        prop_assert!(!differences.is_empty() || asked == *conn, "{conn}");
        let (outcome, clause) = maps.ask(HERE.netns, conn);
        prop_assert!(
            outcome == expected,
            "{able}\n{conn}\neBPF: {outcome:?} by {clause:?}\nmeaning: {expected:?}, {differences:?}"
        );
        // The program says the same of its own maps.
        let said = ask(&self.lowered, HERE.netns, conn).map(|answer| (answer.outcome, answer.clause));
        prop_assert!(
            said == Ok((outcome.clone(), clause)),
            "{able}\n{conn}\n{said:?}, and {outcome:?}, {clause:?}"
        );
        let of_rules = evaluate(&[rules], &asked).clause();
        prop_assert!(clause == of_rules, "{able}\n{conn}\neBPF: by {clause:?}\nrules: by {of_rules:?}");
        Ok(Compared { differences, clause, outcome })
    }

    /// What `decide` says of a connection is what the policy means.
    pub(super) fn agree(&self, conn: &Conn) -> Result<(), TestCaseError> {
        self.compare(conn).map(|_| ())
    }
}

/// Nothing is refused but what a hook cannot do, and that always.
pub(super) fn refused_by_name(subject: &Subject, lowering: &Lowering) -> Result<(), TestCaseError> {
    let policy = &subject.policy;
    let asked = [
        ("tproxy", policy.mode == Mode::Tproxy),
        ("drop", policy.drop_invalid),
        ("exclude", !policy.interfaces.exclude.is_empty()),
        ("reroute", !policy.interfaces.reroute.is_empty()),
    ];
    let any = policy.mode != Mode::None;
    let expected: Vec<&str> =
        asked.into_iter().filter(|(_, asks)| any && *asks).map(|(kind, _)| kind).collect();
    prop_assert_eq!(kinds(&lowering.refused), expected, "{}", subject);
    Ok(())
}

/// The pairs are not idle: every difference and every clause comes up.
#[test]
fn every_difference_and_clause_comes_up() {
    let mut differences: BTreeMap<Difference, u32> = BTreeMap::new();
    let mut changed: BTreeMap<Difference, u32> = BTreeMap::new();
    let mut clauses: BTreeMap<Option<RuleId>, u32> = BTreeMap::new();
    let mut captured = 0;
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(crate::properties::cases(1), rng);
    for subjects in [policies::classic(), policies::scoped(), policies::istio(), policies::letter()] {
        for _ in 0..250 {
            let pairs = (subjects.clone(), vec(connections::pick(), 20)).new_tree(&mut runner);
            let (subject, picks): (Subject, Vec<Pick>) = pairs.expect("a pair").current();
            let lowering = Lowering::of(&subject);
            let able = &lowering.able;
            let pool = Pool::of(&subject);
            for conn in picks.iter().map(|pick| pool.conn(pick)) {
                let compared = lowering.compare(&conn).expect("they agree");
                let rules = oracle::outcome(&able.policy, able.layout, able.families, &conn);
                for difference in compared.differences {
                    *differences.entry(difference).or_default() += 1;
                    *changed.entry(difference).or_default() += u32::from(compared.outcome != rules);
                }
                *clauses.entry(compared.clause).or_default() += 1;
                captured += u32::from(compared.outcome != Outcome::Passed);
            }
        }
    }
    use Difference::{NoConntrack, OpenBefore, PassesThrough};
    // The others are rare: they have tests of their own.
    for difference in [OpenBefore, PassesThrough, NoConntrack] {
        assert!(changed.get(&difference).is_some_and(|count| *count >= 20), "{changed:?} of {differences:?}");
    }
    for clause in Clause::ALL {
        let count = clauses.get(&rule_id(*clause)).copied().unwrap_or_default();
        assert!(count >= 5, "{clause:?} decides {count} times");
    }
    assert!(captured >= 3000, "{captured} of 20,000 captured");
}

#[track_caller]
fn outcome(args: &[&str], conn: &str) -> (Outcome, Option<RuleId>) {
    let lowering = Lowering::of(&Subject::new(args, Families::Both));
    let conn: Conn = conn.parse().expect("a connection");
    lowering.agree(&conn).expect("they agree");
    lowering.maps.ask(HERE.netns, &conn)
}

/// Where rules see an address that no packet carries, a hook sees the one that they will carry.
#[test]
fn an_address_is_what_packets_carry() {
    let args = ["-x", "10.0.0.0/8", "-u", "1337", "--layout", "istio"];
    let excluded = (Outcome::Passed, Some(RuleId::OutboundExcludeCidr));
    assert_eq!(outcome(&args, "out tcp uid=7 [::ffff:10.1.2.3]:80"), excluded);
    let (captured, clause) = outcome(&args, "out tcp uid=7 [::ffff:11.1.2.3]:80");
    assert_eq!((captured != Outcome::Passed, clause), (true, Some(RuleId::OutboundAll)));
    let own = (Outcome::Passed, Some(RuleId::OutboundSelf));
    for to in ["0.0.0.0:80", "[::]:80", "[::ffff:0.0.0.0]:80", "127.0.0.1:80", "[::1]:80"] {
        assert_eq!(outcome(&args, &format!("out tcp uid=7 {to}")), own, "{to}");
    }
    // IPv4 in IPv6's form is captured where IPv6 is not.
    let subject = Subject::new(&["-u", "1337", "--layout", "istio"], Families::V4);
    let lowering = Lowering::of(&subject);
    for (to, captured) in [("[::ffff:11.1.2.3]:80", true), ("[fd00::1]:80", false)] {
        let conn = format!("out tcp uid=7 {to}").parse().expect("a connection");
        lowering.agree(&conn).expect("they agree");
        assert_eq!(lowering.maps.ask(HERE.netns, &conn).0 != Outcome::Passed, captured, "{to}");
    }
}

/// All that is asked for and cannot be is told at once, each with what to do.
#[test]
fn what_no_socket_hook_can_do_is_refused_by_name() {
    let args = ["-m", "TPROXY", "-c", "eth7,eth8", "-k", "tap0", "--drop-invalid"];
    let refused = |args: &[&str]| -> Vec<String> {
        let Subject { policy, layout, families, .. } = Subject::new(args, Families::Both);
        let refused = lower(&policy, layout, families, HERE).err().unwrap_or_default();
        refused.iter().map(ToString::to_string).collect()
    };
    let told = refused(&args);
    for (told, names) in told.iter().zip([
        ["--mode TPROXY", "give REDIRECT"],
        ["--drop-invalid", "--backend iptables or nftables"],
        ["--exclude-interface", "--backend iptables or nftables"],
        ["--reroute-interface", "--backend iptables or nftables"],
    ]) {
        assert!(names.iter().all(|name| told.contains(name)), "{told}");
    }
    assert_eq!(told.len(), 4, "{told:?}");
    assert_eq!(refused(&["-u", "1337", "-z", "15006"]), Vec::<String>::new());
    // What captures nothing asks for nothing.
    assert_eq!(refused(&["-m", "NONE", "-c", "eth7"]), Vec::<String>::new());
}

/// What a namespace's maps hold, entry by entry.
#[test]
fn a_policy_is_few_entries() {
    let args = ["-u", "1337", "-g", "1338", "-x", "10.0.0.0/8", "-o", "25,1000-1999", "-z", "15006"];
    let Subject { policy, layout, families, .. } = Subject::new(&args, Families::V4);
    let lowered = lower(&policy, layout, families, HERE).expect("nothing is refused");
    let Place { netns, generation } = HERE;
    assert_eq!(lowered.policy.meaning, Meaning::ISTIO);
    assert_eq!((lowered.policy.generation, lowered.policy.inbound_port), (generation, 15006));
    let net = |octets, len, flags| (NetKey::network(netns, generation, Address::v4(octets), len), flags);
    let of = |octets: [u8; 4]| u32::from_ne_bytes(octets);
    assert_eq!(
        lowered.networks,
        [
            net(of([0, 0, 0, 0]), 96, NetFlags::NONE),
            net(of([10, 0, 0, 0]), 104, NetFlags::EXCLUDED),
            net(of([127, 0, 0, 1]), 128, NetFlags::LOOPBACK),
        ]
    );
    let excluded = |port, len| (PortKey::range(netns, generation, port, len), PortFlags::OUT_EXCLUDED);
    let ports = [(25, 16), (1000, 13), (1008, 12), (1024, 7), (1536, 8), (1792, 9), (1920, 10), (1984, 12)];
    assert_eq!(lowered.ports, ports.map(|(port, len)| excluded(port, len)));
    let first = OwnerFlags::PROXY.and(OwnerFlags::FIRST);
    assert_eq!(
        lowered.owners,
        [
            (OwnerKey::of(netns, generation, OwnerKind::USER, 1337), first),
            (OwnerKey::of(netns, generation, OwnerKind::GROUP, 1338), OwnerFlags::PROXY),
        ]
    );
}
