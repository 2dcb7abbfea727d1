//! Pairs on which meaning and rules once disagreed, and which of the two was wrong.

use mesh_init::eval::Outcome;
use mesh_init::policy::Families;

use super::policies::Subject;

#[track_caller]
fn agree(args: &[&str], conn: &str) -> Outcome {
    let subject = Subject::new(args, Families::Both);
    let (expected, found) = super::both(&subject, &conn.parse().expect("a connection"));
    assert_eq!(found, expected, "{conn}");
    found
}

/// The oracle was wrong: it knew the packet's mark only, and the mark of a connection is put on its packets before
/// anything else is decided.
#[test]
fn a_connections_mark_is_its_packets_mark() {
    let args = ["-x", "0.0.0.0/0", "-m", "TPROXY", "--layout", "istio", "-i", "127.0.0.6/32"];
    let conn = "out tcp uid=1337 gid=1000 mark=0x53a connmark=0x539 state=new packet=later 127.0.0.2:53 -> 127.0.0.2:53";
    assert_eq!(agree(&args, conn), Outcome::Passed);
}
