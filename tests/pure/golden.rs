//! Golden files: what the program prints, beside what it ought to print.
//!
//! `tests/golden/rules/CASE` holds the `args` after `plan`, one a line, and `rules.txt`, which the generator beside
//! this file writes when `MESH_INIT_WRITE_GOLDEN` is set; it knows nothing of the compiler. `tests/golden/json` is
//! written by hand. Neither is ever written from what the program prints.

mod document;
mod generator;
mod istio;
mod json;
mod tables;
mod today;
mod upstream;

use std::fs;
use std::path::{Path, PathBuf};

use crate::cli::program::mesh_init;

/// A folder of `tests/golden/rules`.
struct Case {
    name: String,
    args: Vec<String>,
    rules: PathBuf,
}

pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = fs::read_dir(folder("rules"))
        .expect("the golden files are there")
        .map(|entry| entry.unwrap().path())
        .map(|path| Case {
            name: path.file_name().unwrap().to_string_lossy().into_owned(),
            // An empty line is an empty argument.
            args: read(&path.join("args")).lines().map(str::to_owned).collect(),
            rules: path.join("rules.txt"),
        })
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

#[test]
fn the_generator_the_files_and_the_program_agree() {
    let cases = cases();
    assert!(cases.len() >= 70, "only {} cases are left", cases.len());
    let mut wrong = String::new();
    for Case { name, args, rules } in cases {
        let generated = generator::rules(&args);
        if std::env::var_os("MESH_INIT_WRITE_GOLDEN").is_some() {
            fs::write(&rules, &generated).unwrap();
        }
        let expected = read(&rules);
        let words: Vec<&str> = std::iter::once("plan").chain(args.iter().map(String::as_str)).collect();
        let run = mesh_init(&words).code(0);
        for (what, seen) in [("the generator", &generated), ("the program", &run.stdout)] {
            if *seen != expected {
                wrong.push_str(&format!(
                    "{name}: {what} differs from rules.txt\n{}",
                    differences(&expected, seen)
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// The lines that differ, with what was expected first.
fn differences(expected: &str, seen: &str) -> String {
    let (expected, seen): (Vec<_>, Vec<_>) = (expected.lines().collect(), seen.lines().collect());
    let lines = (0..expected.len().max(seen.len())).filter(|at| expected.get(*at) != seen.get(*at));
    let show = |lines: &[&str], at: usize| lines.get(at).copied().unwrap_or("(no line)").to_owned();
    lines.map(|at| format!("  {}\n- {}\n+ {}\n", at + 1, show(&expected, at), show(&seen, at))).collect()
}

/// The rules of a container of 7 November 2018, as `iptables-save` printed them then.
const SEEN_IN_2018: &str = r#"
-A PREROUTING -m comment --comment "istio/install-istio-prerouting" -j ISTIO_REDIRECT
-A OUTPUT -p tcp -m comment --comment "istio/install-istio-output" -j ISTIO_OUTPUT
-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -m comment --comment "istio/redirect-implicit-loopback" -j ISTIO_REDIRECT
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -m comment --comment "istio/bypass-envoy" -j RETURN
-A ISTIO_OUTPUT -d 127.0.0.1/32 -m comment --comment "istio/bypass-explicit-loopback" -j RETURN
-A ISTIO_OUTPUT -m comment --comment "istio/redirect-default-outbound" -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -m comment --comment "istio/redirect-to-envoy-port" -j REDIRECT --to-ports 15001
"#;

/// The generator is held to a kernel of the time, chain by chain.
#[test]
fn the_generator_knows_what_proxy_init_left_behind() {
    let generated = generator::rules(&["-p", "15001", "-u", "1337"].map(str::to_owned));
    let ipv4 = generated.split("COMMIT\n").next().unwrap();
    for chain in ["PREROUTING", "OUTPUT", "ISTIO_OUTPUT", "ISTIO_REDIRECT"] {
        let of_chain = |text: &str| -> Vec<String> {
            let start = format!("-A {chain} ");
            text.lines().filter(|line| line.starts_with(&start)).map(str::to_owned).collect()
        };
        assert_eq!(of_chain(ipv4), of_chain(SEEN_IN_2018), "{chain}");
    }
}
