//! The seeds of the fuzz targets, crashes that were found among them, are replayed here.

use std::path::Path;

use super::fuzz;

#[test]
fn no_target_fails_on_its_seeds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (name, target) in fuzz::TARGETS {
        let mut seeds = 0;
        for entry in std::fs::read_dir(folder.join(name)).expect("every target has seeds") {
            target(&std::fs::read(entry.unwrap().path()).unwrap());
            seeds += 1;
        }
        assert!(seeds >= 3, "{name} has {seeds} seeds");
    }
}

/// The grammar would not be worth much if it took everything.
#[test]
fn the_grammar_refuses_what_is_not_ours() {
    use mesh_init::policy::Family;
    let check = |line: &str| fuzz::grammar::check(Family::V4, &format!("* nat\n{line}\nCOMMIT\n"));
    for line in [
        "-N ISTIO_OUTPUT",
        "-A ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -m comment --comment \"istio/x\" -j ISTIO_REDIRECT",
        "-I OUTPUT 1 -p tcp -j ISTIO_OUTPUT",
        "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001",
        "-A ISTIO_OUTPUT -p tcp -m tcp --dport 1:2 --tcp-flags FIN,SYN,RST,ACK SYN -j RETURN",
    ] {
        assert_eq!(check(line), Ok(()), "{line}");
    }
    for line in [
        "",
        "-A ISTIO_OUTPUT -j ACCEPT",
        "-A ISTIO_OUTPUT -j RETURN -j ACCEPT",
        "-A ISTIO_OUTPUT -o eth0 -j ACCEPT -j RETURN",
        "-A INPUT -j RETURN",
        "-P OUTPUT DROP",
        "-A ISTIO_OUTPUT  -j RETURN",
        "-A ISTIO_OUTPUT -d fd00::/8 -j RETURN",
        "-A ISTIO_OUTPUT -o eth0\n-j RETURN",
        "-A ISTIO_OUTPUT -o \"eth0\" -j RETURN",
        "-A ISTIO_OUTPUT -m comment --comment \"a b\" -j RETURN",
        "-A ISTIO_OUTPUT -m owner --uid-owner 4294967295 -j RETURN",
        "-A ISTIO_OUTPUT -p tcp -m tcp --dport 0 -j RETURN",
        "-A ISTIO_OUTPUT -p tcp -m tcp --dport 2:1 -j RETURN",
        "-A ISTIO_OUTPUT -o",
        "COMMIT",
    ] {
        assert!(check(line).is_err(), "{line}");
    }
}
