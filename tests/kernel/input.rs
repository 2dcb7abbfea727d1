//! Bad input, from every source, in a namespace that is captured: all that is wrong is told at once, and not a rule
//! has moved.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use mesh_init::input::options::{Kind, OPTIONS, Opt};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::foreign;
use crate::harness::Case;
use crate::support::call::Call;
use crate::support::command::{Run, mesh_init};
use crate::support::netns::Netns;
use crate::support::rules::{assert_same, dump};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("input::values", || table(VALUES)),
        Case::new("input::contradictions", || table(CONTRADICTIONS)),
        Case::new("input::one_fault_hides_no_other", || table(HIDING)),
        Case::new("input::one_fault_is_told_once", || table(ONCE)),
        Case::new("input::no_words_to_go_by", no_words_to_go_by),
        Case::new("input::smuggled_by_every_option", smuggled_by_every_option),
        Case::new("input::files", files),
        Case::new("input::no_key_twice", no_key_twice),
        Case::new("input::large_values", large_values).within(Duration::from_secs(90)),
    ]
}

/// Words of a command line, and the beginnings of the faults that it has.
type Bad = (&'static [&'static str], &'static [&'static str]);

/// What is no value: ports, networks, users, and the few words that options know.
const VALUES: &[Bad] = &[
    (&["-p", "0"], &[r#"--proxy-port: "0""#]),
    (&["-p", "65536"], &[r#"--proxy-port: "65536""#]),
    (&["-p", "http"], &[r#"--proxy-port: "http""#]),
    (&["-p", "80-70"], &[r#"--proxy-port: "80-70""#]),
    (&["-p", "15001,15002"], &[r#"--proxy-port: "15001,15002""#]),
    (&["-p", "0x3a99"], &[r#"--proxy-port: "0x3a99""#]),
    (&["-p", "１５００１"], &[r#"--proxy-port: "１５００１""#]),
    (&["-p="], &[r#"--proxy-port: is empty"#]),
    (
        &[
            "--uid-owner",
            "1000",
            "-p",
            "0",
            "-z",
            "65536",
            "-b",
            "http,80-70,0,1-65536",
            "-q=-5,1-2-3",
            "-o",
            "80-70",
        ],
        &[
            r#"--proxy-port: "0""#,
            r#"--inbound-capture-port: "65536""#,
            r#"--inbound: "http""#,
            r#"--inbound: "80-70""#,
            r#"--inbound: "0""#,
            r#"--inbound: "1-65536""#,
            r#"--outbound-port: "-5""#,
            r#"--outbound-port: "1-2-3""#,
            r#"--exclude-outbound-port: "80-70""#,
        ],
    ),
    (
        &[
            "--uid-owner",
            "1000",
            "-i",
            "10.0.0.0/33,garbage,fe80::/129,10.0.0.0/8/8,10/8",
            "-x",
            "300.1.1.1,::ffff:10.0.0.0/104",
        ],
        &[
            r#"--outbound-cidr: "10.0.0.0/33""#,
            r#"--outbound-cidr: "garbage""#,
            r#"--outbound-cidr: "fe80::/129""#,
            r#"--outbound-cidr: "10.0.0.0/8/8""#,
            r#"--outbound-cidr: "10/8""#,
            r#"--exclude-outbound-cidr: "300.1.1.1""#,
            r#"--exclude-outbound-cidr: "::ffff:10.0.0.0/104""#,
        ],
    ),
    (
        &[
            "-u",
            "1337,nosuchuser,4294967295,+5",
            "-g",
            "nosuchgroup,-1",
            "--uid-owner",
            "99999999999",
            "--gid-owner",
            "a:b",
        ],
        &[
            r#"--proxy-uid: "nosuchuser""#,
            r#"--proxy-uid: "4294967295""#,
            r#"--proxy-uid: "+5""#,
            r#"--proxy-gid: "nosuchgroup""#,
            r#"--proxy-gid: "-1""#,
            r#"--uid-owner: "99999999999""#,
            r#"--gid-owner: "a:b""#,
        ],
    ),
    (
        &["--uid-owner", "1000", "-c", "eth0,a/b,much-too-long-a-name,.."],
        &[
            r#"--exclude-interface: "a/b""#,
            r#"--exclude-interface: "much-too-long-a-name""#,
            r#"--exclude-interface: "..""#,
        ],
    ),
    (
        &[
            "-p",
            "15001",
            "--wait=-1",
            "--output=xml",
            "--host=maybe",
            "--ipv6=maybe",
            "--iptables-variant=x",
            "--backend=x",
            "--netns=blue",
        ],
        &[
            r#"--wait: "-1""#,
            r#"--output: "xml""#,
            r#"--host: "maybe""#,
            r#"--ipv6: "maybe""#,
            r#"--iptables-variant: "x""#,
            r#"--backend: "x""#,
            r#"--netns: "blue""#,
        ],
    ),
    (&["-p", "15001", "--layout", "x"], &[r#"--layout: "x""#]),
    (
        &[
            "-p=",
            "--ipv6=",
            "--backend=",
            "--netns=",
            "--wait=",
            "--output=",
            "--iptables-variant=",
            "--config=",
            "--env-file=",
            "--host=",
        ],
        &[
            "--proxy-port: is empty",
            "--ipv6: is empty",
            "--backend: is empty",
            "--netns: is empty",
            "--wait: is empty",
            "--output: is empty",
            "--iptables-variant: is empty",
            "--config: is empty",
            "--env-file: is empty",
            "--host: is empty",
        ],
    ),
    (&["--uid-owner", "1000", "-b", "80,,81"], &[r#"--inbound: "80,,81""#]),
];

/// Each value is good, but not beside the other.
const CONTRADICTIONS: &[Bad] = &[
    (&["-p", "15001", "-p", "15002"], &[r#"--proxy-port: "15002""#]),
    (&["--uid-owner", "1337"], &[r#"--uid-owner: "1337""#]),
    (&["-u", "1000,0", "--uid-owner", "0,1000"], &[r#"--uid-owner: "0""#, r#"--uid-owner: "1000""#]),
    (&["-g", "7", "--gid-owner", "7"], &[r#"--gid-owner: "7""#]),
    (&["-u", "", "-p", "15001"], &["no proxy user or group is left"]),
    (&["--layout", "classic", "-b", "80"], &["--inbound: "]),
    (
        &["--layout", "classic", "--uid-owner", "1000", "-x", "10.0.0.0/8"],
        &["--uid-owner: ", "--exclude-outbound-cidr: "],
    ),
    (&["--layout", "scoped", "-p", "15001"], &["the scoped layout captures the traffic of named owners"]),
    (&["--layout", "classic", "-b", "80", "-o", "81"], &["--inbound: ", "--exclude-outbound-port: "]),
    (&["-b", "80", "-d", "81"], &["--exclude-inbound: "]),
    (&["-z", "15006", "-b", "15006"], &[r#"--inbound: "15006""#]),
    (&["-m", "TPROXY", "-r", "254"], &[r#"--tproxy-table: "254""#]),
    (&["--owner-group", "7", "--exclude-owner-group", "8"], &["--exclude-owner-group: "]),
    (&["-o", "81", "--loopback-cidr", "10.0.0.0/8"], &[r#"--loopback-cidr: "10.0.0.0/8""#]),
    (&["--uid-owner", "1000", "-b", "80", "-d", "81"], &["--exclude-inbound: "]),
    (&["--uid-owner", "1000", "-b", "15001"], &[r#"--inbound: "15001""#]),
    (
        &["--uid-owner", "1000", "-b", "15000-15010", "-z", "15006"],
        &[r#"--inbound: "15001""#, r#"--inbound: "15006""#],
    ),
    (&["--uid-owner", "1000", "-b", "*,80"], &[r#"--inbound: "*""#]),
    (&["-i", "*,10.0.0.0/8"], &[r#"--outbound-cidr: "*""#]),
    (&["--ipv6", "off", "-i", "10.0.0.0/8,fd00::/8"], &[r#"--outbound-cidr: "fd00::/8""#]),
    (&["--uid-owner", "1000", "-k", "eth0"], &["--reroute-interface: "]),
    (&["--uid-owner", "1000", "--owner-group", "7"], &["--owner-group: "]),
    (&["--uid-owner", "1000", "--drop-invalid"], &["--drop-invalid: "]),
];

/// A fault that keeps others from being told costs its reader another round.
const HIDING: &[Bad] = &[
    (&["-i", "*,garbage"], &[r#"--outbound-cidr: "*""#, r#"--outbound-cidr: "garbage""#]),
    (&["-u", "*,nosuchuser,1337"], &[r#"--proxy-uid: "*""#, r#"--proxy-uid: "nosuchuser""#]),
    (&["--uid-owner", "1000", "-b", "0,*"], &[r#"--inbound: "*""#, r#"--inbound: "0""#]),
    (
        &["--uid-owner", "1000", "-x", "300.1.1.1,*"],
        &[r#"--exclude-outbound-cidr: "*""#, r#"--exclude-outbound-cidr: "300.1.1.1""#],
    ),
    (&["-p", "15001", "-p", "0"], &[r#"--proxy-port: "0""#]),
];

/// What follows from a fault is no other fault.
const ONCE: &[Bad] = &[
    (&["-u", "nosuchuser"], &[r#"--proxy-uid: "nosuchuser""#]),
    (&["-m", "sideways"], &[r#"--mode: "sideways""#]),
    (&["--layout", "classic", "-m", "TPROXY"], &["--mode: "]),
    (&["-p", "15001", "--layout="], &["--layout: "]),
    (&["--layout", "scoped", "--uid-owner", "nosuchuser"], &[r#"--uid-owner: "nosuchuser""#]),
];

/// A namespace with rules, so that any other rule would show.
struct Captured {
    netns: Netns,
    before: String,
}

impl Captured {
    fn new() -> Self {
        let netns = foreign::namespace();
        mesh_init(&netns, &["-p", "15009", "-u", "1339"]).ok();
        Self { before: dump(&netns), netns }
    }

    fn call<S: AsRef<OsStr>>(&self, args: &[S]) -> Call {
        Call::mesh_init(&self.netns, args)
    }

    #[track_caller]
    fn assert_untouched(&self) {
        assert_same("after bad input", &self.before, &dump(&self.netns));
    }
}

/// What is wrong with the answer to input that has exactly `faults`.
fn judge(run: &Run, faults: &[&str]) -> Option<String> {
    if run.code != Some(64) || !run.stdout.is_empty() {
        return Some(format!("expected 64 and nothing on stdout, seen {run}"));
    }
    let mut lines: Vec<_> = run.stderr.lines().collect();
    for fault in faults {
        // The fault, what is wrong, and what to do about it.
        let is_told = |line: &&str| {
            let said = line.strip_prefix("mesh-init: ").and_then(|line| line.strip_prefix(fault));
            said.and_then(|said| said.rsplit_once(": ")).is_some_and(|(_, remedy)| !remedy.is_empty())
        };
        match lines.iter().position(is_told) {
            Some(at) => drop(lines.remove(at)),
            None => return Some(format!("expected the fault `{fault}` and a remedy, seen {run}")),
        }
    }
    if lines.is_empty() {
        None
    } else {
        Some(format!("expected {} faults and no other, seen {run}", faults.len()))
    }
}

/// Tries all of `list` and tells every answer that is not as it should be.
fn table(list: &[Bad]) {
    let captured = Captured::new();
    let judged = list.iter().filter_map(|(args, faults)| judge(&captured.call(args).run(), faults));
    let wrong: Vec<_> = judged.collect();
    captured.assert_untouched();
    assert!(wrong.is_empty(), "{} answers of {}:\n{}", wrong.len(), list.len(), wrong.join("\n"));
}

/// What is no option, verb or text at all.
fn no_words_to_go_by() {
    let captured = Captured::new();
    let no_text = OsStr::from_bytes(b"\xff\xfe");
    let word = |word: &'static str| OsStr::new(word);
    for args in [
        vec![],
        vec![word("--no-such-option"), word("1")],
        vec![word("-p")],
        vec![word("capture")],
        vec![word("apply"), word("now")],
        vec![word("clean"), word("-p"), word("15001")],
        vec![word("status"), word("--uid-owner"), word("1")],
        vec![word("-p"), no_text],
        vec![no_text],
        vec![word("--iptables-variant"), word("nft")],
    ] {
        let run = captured.call(&args).run();
        assert!(
            run.code == Some(64) && run.stdout.is_empty() && !run.stderr.is_empty(),
            "expected 64, seen {run}"
        );
    }
    for (name, value) in [("MESH_INIT_PROXY_PORT", no_text), ("MESH_INIT_PROXY_UID", no_text)] {
        let run = captured.call(&["-i", "10.0.0.0/8"]).env(name, value).run();
        assert_eq!(judge(&run, &[&format!("variable {name}: is not UTF-8")]), None);
    }
    captured.assert_untouched();
}

/// Text that would be a rule, a command or an option if anything were handed on as it is.
const SMUGGLED: [&str; 3] = ["80\n-A OUTPUT -j ACCEPT", "1337 -j ACCEPT", "x\"; $(id) `id` -F"];

/// By flag, variable, env file and config file, for every option that takes a value: refused, and nothing else.
fn smuggled_by_every_option() {
    let captured = Captured::new();
    let mut tried = 0;
    for opt in OPTIONS.iter().filter(|opt| opt.long != "env-file" && opt.long != "config") {
        for value in SMUGGLED {
            let flag = format!("--{}={value}", opt.long);
            refused(captured.call(&["apply", &flag]), opt, &format!("--{}: ", opt.long));
            let by_variable = captured.call(&["apply"]).env(opt.variable(), value);
            refused(by_variable, opt, &format!("variable {}: ", opt.variable()));
            fs::write("/run/bad.env", format!("{}='{value}'\n", opt.variable())).expect("a file in /run");
            let line = format!("/run/bad.env:1 {}: ", opt.variable());
            refused(captured.call(&["apply", "--env-file", "/run/bad.env"]), opt, &line);
            tried += 3;
            if let Some(path) = opt.config {
                let text = serde_json::Value::from(value).to_string();
                let text = if opt.kind == Kind::List { format!("[{text}]") } else { text };
                let text = path.rsplit('.').fold(text, |inner, key| format!("{{\"{key}\":{inner}}}"));
                fs::write("/run/bad.json", text).expect("a file in /run");
                refused(
                    captured.call(&["apply", "--config", "/run/bad.json"]),
                    opt,
                    &format!("/run/bad.json {path}"),
                );
                tried += 1;
            }
        }
    }
    captured.assert_untouched();
    assert!(tried > 300, "expected every option and source, seen {tried}");
}

/// Every line is one that the program began, and one of them is about `opt` and quotes the value.
#[track_caller]
fn refused(call: Call, opt: &Opt, origin: &str) {
    let run = call.run();
    let begun = run.stderr.lines().all(|line| line.starts_with("mesh-init: "));
    let is_told = |line: &str| line.strip_prefix("mesh-init: ").is_some_and(|line| line.starts_with(origin));
    let told = run.stderr.lines().any(is_told);
    assert!(
        run.code == Some(64) && run.stdout.is_empty() && begun && told,
        "expected that --{} is refused at {origin}, seen {run}",
        opt.long
    );
}

/// What is no file of variables or policy: one fault each, which names it, and no waiting.
fn files() {
    let captured = Captured::new();
    fs::write("/run/huge", vec![b'9'; 10_000_000]).expect("a file in /run");
    fs::write("/run/binary", (0..=255).collect::<Vec<u8>>()).expect("a file in /run");
    fs::create_dir("/run/folder").expect("a folder in /run");
    mkfifo("/run/fifo", Mode::S_IRWXU).expect("a FIFO in /run");
    std::os::unix::fs::symlink("/run/loop", "/run/loop").expect("a link in /run");
    let paths = [
        "/run/missing",
        "/run/huge",
        "/run/binary",
        "/run/folder",
        "/run/fifo",
        "/run/loop",
        "/dev/zero",
        "/dev/tty",
        "/proc/self/mem",
    ];
    for flag in ["--env-file", "--config"] {
        for path in paths {
            let run =
                captured.call(&[flag, path, "-p", "15001"]).start().finish_within(Duration::from_secs(5));
            let run = run.unwrap_or_else(|| panic!("{flag} {path} hangs"));
            assert_eq!(judge(&run, &[&format!("{flag}: {path} ")]), None);
        }
    }
    // All of them, and everything that is wrong elsewhere, at once.
    fs::write("/run/one.env", "ISTIO_SERVICE_CIDR=$(id)\nno assignment\nENVOY_PORT=http\n")
        .expect("a file in /run");
    fs::write("/run/one.json", r#"{"proxi":{},"proxy":{"port":[1],"gids":[{}]},"dns":{"redirect":"yes"}}"#)
        .expect("a file in /run");
    let run = captured
        .call(&[
            "--env-file",
            "/run/missing,/run/one.env,/run/folder",
            "--config",
            "/run/one.json",
            "-u",
            "x,1337",
        ])
        .run();
    let faults = [
        "--env-file: /run/missing ",
        "--env-file: /run/folder ",
        "/run/one.env:1",
        "/run/one.env:2",
        r#"/run/one.env:3 ENVOY_PORT: "http""#,
        "/run/one.json proxi: ",
        "/run/one.json proxy.port: ",
        "/run/one.json proxy.gids[0]: ",
        "/run/one.json dns.redirect: ",
        r#"--proxy-uid: "x""#,
    ];
    assert_eq!(judge(&run, &faults), None);
    for text in ["", "{", "[]", "null", "{\"proxy\":{\"port\":15001}} {}", "\u{feff}{"] {
        fs::write("/run/bad.json", text).expect("a file in /run");
        let run = captured.call(&["--config", "/run/bad.json"]).run();
        assert_eq!(judge(&run, &["/run/bad.json"]), None, "{text}");
    }
    captured.assert_untouched();
}

/// Of two values for one key, neither may win in silence.
fn no_key_twice() {
    let captured = Captured::new();
    let twice = [
        ("/run/twice.json", r#"{"proxy":{"port":15001},"proxy":{"port":15002}}"#),
        ("/run/twice.json", r#"{"proxy":{"port":15001,"port":15002}}"#),
        ("/run/twice.toml", "[proxy]\nport = 15001\nport = 15002\n"),
    ];
    let wrong: Vec<_> = twice
        .into_iter()
        .filter_map(|(path, text)| {
            fs::write(path, text).expect("a file in /run");
            judge(&captured.call(&["plan", "--config", path]).run(), &[path])
        })
        .collect();
    captured.assert_untouched();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Values of megabytes are judged in moments, and hardly given back.
fn large_values() {
    let captured = Captured::new();
    let list =
        |items: usize, item: &dyn Fn(usize) -> String| (0..items).map(item).collect::<Vec<_>>().join(",");
    let nines = "9".repeat(4_000_000);
    let texts = [
        ("one long port", format!("ENVOY_PORT={nines}\n")),
        ("one long network", format!("ISTIO_SERVICE_CIDR={nines}\n")),
        ("no ports", format!("ISTIO_INBOUND_PORTS={}\n", list(1_000_000, &|_| "x".to_owned()))),
        (
            "one bad port",
            format!(
                "ISTIO_OUTBOUND_PORTS={},x\n",
                list(300_000, &|n| format!("{}-{}", n % 600 + 1, n / 600 + 30_000))
            ),
        ),
        ("one bad user", format!("PROXY_UID={},x!\n", list(450_000, &|n| (100_000 + n).to_string()))),
        (
            "one bad network",
            format!(
                "ISTIO_SERVICE_CIDR={},x\n",
                list(250_000, &|n| format!("10.{}.{}.{}/32", n >> 16, n >> 8 & 255, n & 255))
            ),
        ),
        ("an open quote", format!("ISTIO_SERVICE_CIDR='\n{}", "A=1\n".repeat(900_000))),
        ("joined lines", format!("ISTIO_SERVICE_CIDR=\\\n{}x\n", "A\\\n".repeat(900_000))),
        ("no assignments", "x\n".repeat(2_000_000)),
    ];
    let mut wrong = Vec::new();
    for (what, text) in texts {
        assert!(text.len() < 4 << 20, "{what}: {} bytes", text.len());
        fs::write("/run/large.env", text).expect("a file in /run");
        let args = ["--uid-owner", "1000", "--env-file", "/run/large.env"];
        match captured.call(&args).start().finish_within(Duration::from_secs(5)) {
            None => wrong.push(format!("{what}: not done after 5 s")),
            Some(run)
                if run.code != Some(64)
                    || !(1..=51).contains(&run.stderr.lines().count())
                    || run.stderr.len() > 16_384 =>
            {
                let (code, bytes, lines) = (run.code, run.stderr.len(), run.stderr.lines().count());
                wrong.push(format!(
                    "{what}: expected 64 and few words, seen {code:?} and {bytes} bytes in {lines} lines"
                ));
            }
            Some(_) => {}
        }
    }
    let flag = "9".repeat(120_000);
    let run = captured.call(&["-p", &flag]).run();
    assert_eq!(judge(&run, &[r#"--proxy-port: "9999999999"#]), None);
    assert!(run.stderr.len() < 400, "expected a short word on a long value, seen {run}");
    captured.assert_untouched();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
