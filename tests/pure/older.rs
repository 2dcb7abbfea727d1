//! Which open connections count as older than the capture.

use mesh_init::eval::sockets::{ESTABLISHED, LISTEN, Socket, older};
use mesh_init::input::{Faults, Key, Origin, Raw};
use mesh_init::policy::{CapturePolicy, Facts, validate};

fn policy(flags: &[(Key, &str)]) -> CapturePolicy {
    let mut raw = Raw::default();
    for (key, text) in flags {
        raw.push(*key, *text, Origin::Default);
    }
    validate::request(&raw, &Facts::default(), Faults::default()).unwrap().policy
}

fn socket(local: &str, remote: &str, state: u8, uid: u32) -> Socket {
    Socket { local: local.parse().unwrap(), remote: remote.parse().unwrap(), state, uid }
}

#[test]
fn what_the_proxy_holds_and_what_is_left_alone_is_not_older() {
    let vm = policy(&[(Key::UidOwner, "1338"), (Key::Inbound, "*"), (Key::ExcludeOutboundPort, "99")]);
    let count = |sockets: &[Socket]| {
        let open = older(sockets, &vm);
        (open.outbound, open.inbound)
    };
    let out = |remote: &str, uid| socket("10.0.0.1:40000", remote, ESTABLISHED, uid);
    assert_eq!(count(&[out("10.0.0.2:80", 1338)]), (1, 0));
    for remote in ["10.0.0.2:53", "10.0.0.2:99", "10.0.0.2:15001"] {
        assert_eq!(count(&[out(remote, 1338)]), (0, 0), "{remote}");
    }
    assert_eq!(count(&[out("10.0.0.2:80", 1000)]), (0, 0));
    // Captured: the proxy's end of it is there too.
    let twin = socket("127.0.0.1:15001", "10.0.0.1:40000", ESTABLISHED, 1337);
    assert_eq!(count(&[out("10.0.0.2:80", 1338), twin]), (0, 0));
    let inbound = |port: u16, remote: &str| {
        let local = format!("10.0.0.1:{port}");
        [socket(&local, "0.0.0.0:0", LISTEN, 0), socket(&local, remote, ESTABLISHED, 0)]
    };
    assert_eq!(count(&inbound(8001, "10.0.0.9:5000")), (0, 1));
    assert_eq!(count(&inbound(8001, "10.0.0.1:5000")), (0, 0));
    assert_eq!(count(&inbound(22, "10.0.0.9:5000")), (0, 0));
}
