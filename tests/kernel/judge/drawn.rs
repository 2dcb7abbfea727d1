//! Policies by chance, always the same ones for a seed.

use super::policies::Policy;

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("a small number");
        usize::try_from(self.next() % end).expect("below a small number")
    }

    /// True once in `times`.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    /// One to `most` of them, as a list.
    fn some(&mut self, of: &[&str], most: usize) -> String {
        let mut of = of.to_vec();
        self.shuffle(&mut of);
        of.truncate(1 + self.below(most));
        of.join(",")
    }

    pub(super) fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            let other = self.below(last + 1);
            list.swap(last, other);
        }
    }
}

/// The first `number` of a seed that are valid.
pub(super) fn policies(seed: u64, number: usize) -> Vec<Policy> {
    let mut dice = Dice::new(seed);
    std::iter::repeat_with(|| draw(&mut dice))
        .filter(|policy| policy.request().is_ok())
        .take(number)
        .collect()
}

const NETS: [&str; 10] = [
    "10.9.0.0/24",
    "fd00:9::/64",
    "10.0.0.2/32",
    "fd00::2/128",
    "10.0.0.0/8",
    "fd00::/16",
    "127.0.0.0/8",
    "::1/128",
    "10.2.0.0/24",
    "10.0.0.1/32",
];
const GROUPS: [&str; 4] = ["1000", "2000", "4000", "4001"];
const INTERFACES: [&str; 5] = ["eth0", "eth1", "eth+", "tap0", "lo"];

fn ports(dice: &mut Dice, letter: bool) -> String {
    let range = if letter { "8000:8100" } else { "8000-8100" };
    dice.some(&["22", "53", "80", "443", range, "9090", "15008", "15021"], 3)
}

fn draw(dice: &mut Dice) -> Policy {
    match dice.below(8) {
        0 => classic(dice),
        1 | 2 => scoped(dice),
        3..6 => today(dice, false),
        _ => today(dice, true),
    }
}

struct Words(Vec<String>);

impl Words {
    fn add(&mut self, flag: &str, value: impl Into<String>) {
        self.0.extend([flag.to_owned(), value.into()]);
    }

    /// The flag once in `times`.
    fn maybe(&mut self, dice: &mut Dice, times: usize, flag: &str, value: impl FnOnce(&mut Dice) -> String) {
        if dice.once_in(times) {
            let value = value(dice);
            self.add(flag, value);
        }
    }

    /// What every layout has: the proxy, which answers as 1337 in any case.
    fn proxy(&mut self, dice: &mut Dice) {
        self.add("-p", dice.one(&["15001", "16001"]));
        self.add("-u", dice.one(&["1337", "1337,1338"]));
        self.maybe(dice, 3, "-g", |dice| dice.one(&["1337", "4000", "1337,4001"]).to_owned());
        self.maybe(dice, 2, "-i", |dice| match dice.below(6) {
            0 => "*".to_owned(),
            1 => "@".to_owned(),
            _ => dice.some(&NETS, 4),
        });
    }

    fn policy(self) -> Policy {
        Policy::new(self.0.join(" "))
    }
}

fn classic(dice: &mut Dice) -> Policy {
    let mut words = Words(Vec::new());
    words.proxy(dice);
    words.policy()
}

fn scoped(dice: &mut Dice) -> Policy {
    let mut words = Words(Vec::new());
    words.proxy(dice);
    words.maybe(dice, 2, "--gid-owner", |dice| dice.some(&["2000", "4000", "1000"], 2));
    words.add("--uid-owner", dice.one(&["1000", "1339", "1000,1339"]));
    words.maybe(dice, 2, "-b", |dice| if dice.once_in(2) { "*".to_owned() } else { ports(dice, false) });
    words.maybe(dice, 4, "-z", |dice| dice.one(&["15006", "16006"]).to_owned());
    words.maybe(dice, 3, "-x", |dice| dice.some(&NETS, 3));
    words.maybe(dice, 3, "-q", |dice| ports(dice, false));
    words.maybe(dice, 3, "-o", |dice| ports(dice, false));
    words.maybe(dice, 4, "-c", |dice| dice.some(&INTERFACES, 2));
    words.policy()
}

fn today(dice: &mut Dice, letter: bool) -> Policy {
    let first = if letter { &["istio-iptables", "--dual-stack"] } else { &["--layout", "istio"] };
    let mut words = Words(first.map(str::to_owned).into());
    words.proxy(dice);
    words.add("-z", dice.one(&["15006", "16006"]));
    match dice.below(4) {
        0 => words.add("-b", ports(dice, letter)),
        1 => words.add("-b", "@"),
        _ => words.add("-b", "*"),
    }
    words.maybe(dice, 4, "-d", |dice| ports(dice, letter));
    words.maybe(dice, 3, "-x", |dice| dice.some(&NETS, 3));
    words.maybe(dice, 3, "-q", |dice| ports(dice, letter));
    words.maybe(dice, 3, "-o", |dice| ports(dice, letter));
    words.maybe(dice, 5, "-c", |dice| dice.some(&INTERFACES, 2));
    words.maybe(dice, 4, "-k", |dice| dice.some(&INTERFACES, 2));
    words.maybe(dice, 6, "-e", |_| "9090".to_owned());
    words.maybe(dice, 3, "-m", |_| "TPROXY".to_owned());
    words.0.extend(dice.once_in(5).then(|| "--drop-invalid".to_owned()));
    if dice.once_in(3) {
        words.0.push("--redirect-dns".to_owned());
        words.0.extend(dice.once_in(2).then(|| "--capture-all-dns".to_owned()));
    }
    let groups = dice.once_in(4).then(|| (dice.once_in(2), dice.some(&GROUPS, 2)));
    match (groups, letter) {
        (None, _) => words.policy(),
        (Some((true, groups)), true) => words.policy().with("ISTIO_OUTBOUND_OWNER_GROUPS", groups),
        (Some((false, groups)), true) => words.policy().with("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", groups),
        (Some((only, groups)), false) => {
            words.add(if only { "--owner-group" } else { "--exclude-owner-group" }, groups);
            words.policy()
        }
    }
}
