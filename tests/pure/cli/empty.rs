//! Absent is the default, given empty is none; lists, ranges and `*`.

use super::program::{lines_with, mesh_init};

#[test]
fn outbound_absent_is_everything_and_empty_is_nothing() {
    let everything = mesh_init(&["plan"]).ok();
    assert_eq!(mesh_init(&["plan", "-i", "*"]).ok(), everything);
    assert_eq!(lines_with(&everything, "istio/redirect-default-outbound").len(), 2, "{everything}");

    let nothing = mesh_init(&["plan", "-i", ""]).ok();
    assert_eq!(mesh_init(&["plan", "--outbound-cidr="]).ok(), nothing);
    assert_eq!(lines_with(&nothing, "OUTPUT").len(), 0, "nothing outbound is looked at:\n{nothing}");
    assert_eq!(lines_with(&nothing, "-A PREROUTING").len(), 2, "inbound stays:\n{nothing}");
}

#[test]
fn on_a_vm_inbound_absent_or_empty_is_nothing() {
    let absent = mesh_init(&["plan", "--uid-owner", "1338"]).ok();
    assert_eq!(lines_with(&absent, "PREROUTING").len(), 0, "{absent}");
    assert_eq!(mesh_init(&["plan", "--uid-owner", "1338", "-b", ""]).ok(), absent);
    let all = mesh_init(&["plan", "--uid-owner", "1338", "-b", "*"]).ok();
    assert_eq!(lines_with(&all, "mesh-init:inbound.all").len(), 2, "{all}");
}

#[test]
fn outbound_ports_alone_narrow() {
    let ports = mesh_init(&["plan", "--uid-owner", "1338", "-q", "80"]).ok();
    assert_eq!(lines_with(&ports, "mesh-init:outbound.all").len(), 0, "{ports}");
    assert_eq!(lines_with(&ports, "--dport 80 ").len(), 2, "{ports}");
    // Beside everything they add nothing, beside networks they do.
    let all = mesh_init(&["plan", "--uid-owner", "1338"]).ok();
    assert_eq!(mesh_init(&["plan", "--uid-owner", "1338", "-q", "80", "-i", "*"]).ok(), all);
    let both = mesh_init(&["plan", "--uid-owner", "1338", "-q", "80", "-i", "10.0.0.0/8"]).ok();
    assert_eq!(lines_with(&both, "--dport 80 ").len(), 2, "{both}");
    assert_eq!(lines_with(&both, "-d 10.0.0.0/8 ").len(), 1, "{both}");
}

#[test]
fn ids_given_empty_are_none() {
    let by_group = mesh_init(&["plan", "-u", "", "-g", "7"]).ok();
    assert_eq!(lines_with(&by_group, "--uid-owner").len(), 0, "{by_group}");
    assert_eq!(lines_with(&by_group, "--gid-owner 7 ").len(), 2, "{by_group}");
    // With neither, the proxy's own connections would come back to it.
    let run = mesh_init(&["plan", "-u", ""]);
    run.refused(&["no proxy user or group is left"]);
}

#[test]
fn ranges_hold_both_ends_and_blanks_around_items_do_not_count() {
    let plan =
        mesh_init(&["plan", "--uid-owner", "1338", "-b", "8000-8080, 9000-9000 ,1-2", "-o", "1-65535"]).ok();
    for (ports, lines) in [("8000:8080", 2), ("9000", 2), ("1:2", 2), ("1:65535", 2)] {
        assert_eq!(lines_with(&plan, &format!("--dport {ports} ")).len(), lines, "{ports} in\n{plan}");
    }
    let run = mesh_init(&["plan", "--uid-owner", "1338", "-b", "8080-8000", "-o", "80-", "-q", "1-2-3"]);
    run.refused(&[
        "--outbound-port: \"1-2-3\" is not a port or a range",
        "--inbound: \"8080-8000\" is a range that ends before it begins",
        "--exclude-outbound-port: \"80-\" is not a port or a range",
    ]);
}

#[test]
fn more_items_than_a_multiport_match_holds_are_all_there() {
    let ports: Vec<String> = (1..=200).map(|port| (port * 11).to_string()).collect();
    let plan = mesh_init(&["plan", "--uid-owner", "1338", "-o", &ports.join(",")]).ok();
    for port in ports {
        assert_eq!(lines_with(&plan, &format!("--dport {port} ")).len(), 2, "port {port}");
    }
}

#[test]
fn an_item_twice_is_one_rule() {
    for (flag, item) in [
        ("-u", "7"),
        ("-g", "7"),
        ("-i", "10.0.0.0/8"),
        ("-x", "10.0.0.0/8"),
        ("-q", "80-90"),
        ("-o", "80"),
        ("-b", "80"),
        ("-c", "eth0"),
        ("--gid-owner", "7"),
    ] {
        let plan = |value: &str| mesh_init(&["plan", "--uid-owner", "1338", flag, value]).ok();
        assert_eq!(plan(&format!("{item},{item}")), plan(item), "{flag}");
    }
}

#[test]
fn host_bits_are_cleared_with_a_warning() {
    let run = mesh_init(&["plan", "-i", "10.1.2.3/8"]).code(0);
    assert_eq!(run.stdout, mesh_init(&["plan", "-i", "10.0.0.0/8"]).ok());
    assert!(run.stderr.contains("10.1.2.3/8 is taken as the network 10.0.0.0/8"), "{run}");
}

#[test]
fn ipv6_off_leaves_one_family() {
    let plan = mesh_init(&["plan", "--ipv6", "off"]).ok();
    assert!(plan.starts_with("# IPv4") && !plan.contains("IPv6") && !plan.contains("::1"), "{plan}");
    assert_eq!(mesh_init(&["plan", "--ipv6", "ON"]).ok(), mesh_init(&["plan"]).ok());
    let run = mesh_init(&["plan", "--ipv6", "off", "-i", "10.0.0.0/8,fd00::/8"]);
    run.refused(&["--outbound-cidr: \"fd00::/8\" is IPv6, which --ipv6 off leaves uncaptured"]);
}
