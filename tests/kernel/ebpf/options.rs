//! `getsockopt` answers what the kernel answers, byte by byte, but for the one question that is ours.

#![expect(unsafe_code, reason = "lengths and buffers that no wrapper would ask with")]

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::{Named, POD, Pod, serve_apps};
use crate::istio::{APP, PROXY};
use crate::support::rules::Family;
use crate::support::serve::{Shared, listener};
use crate::support::wire::{HERE, THERE};

pub(super) const CASES: &[Named] =
    &[("options::like_without", like_without), ("options::original", original)];

/// Every level that a socket of the internet may have options of, and one that nobody has.
const LEVELS: [i32; 6] = [libc::SOL_SOCKET, libc::SOL_IP, libc::SOL_IPV6, libc::SOL_TCP, libc::SOL_UDP, 999];
const NAMES: std::ops::Range<i32> = 0..132;
/// Up to and beyond what a page holds, which is all that a program is shown.
const LENGTHS: [i32; 13] = [-1, 0, 1, 3, 4, 8, 15, 16, 28, 256, 4096, 4097, 70_000];
const ORIGINAL: i32 = 80;
const FILLED: u8 = 0xa5;

/// What a question is answered with.
#[derive(Clone, PartialEq, Eq)]
struct Answer {
    code: i32,
    length: i32,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = &self.buffer[..self.buffer.len().min(12)];
        write!(f, "code {} length {} {shown:02x?}", self.code, self.length)
    }
}

fn ask(socket: RawFd, level: i32, name: i32, length: i32) -> Answer {
    let mut buffer = vec![FILLED; usize::try_from(length).unwrap_or(0) + 64];
    let mut told = length.cast_unsigned();
    // SAFETY: the buffer is longer than the kernel is told.
    let code = unsafe { libc::getsockopt(socket, level, name, buffer.as_mut_ptr().cast(), &raw mut told) };
    let code = if code == 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().expect("an error") };
    Answer { code, length: told.cast_signed(), buffer }
}

/// Sockets of the pod's, in states that they stay in.
fn sockets(pod: &Pod) -> Vec<(&'static str, OwnedFd)> {
    let here = &pod.here;
    let port = |family| THERE.port(family, 80);
    // So that nothing more arrives at it.
    let quiet = |mut stream: TcpStream| {
        let mut greeting = [0; 512];
        assert!(stream.read(&mut greeting).expect("a greeting") > 0);
        stream
    };
    let connected =
        |family| here.run_as(PROXY, || quiet(TcpStream::connect(port(family)).expect("it listens")));
    let listening = |text: &str, shared| {
        here.run_as(PROXY, || listener(text.parse::<SocketAddr>().expect("an address"), shared))
    };
    let udp = |text: &str| here.run(|| UdpSocket::bind(text).expect("a free port"));
    let accepting: TcpListener = listening("[::]:7071", Shared::Families);
    let ends = Family::BOTH
        .map(|family| here.run(|| TcpStream::connect(HERE.port(family, 7071)).expect("it listens")));
    let accepted = ends.each_ref().map(|_| accepting.accept().expect("it connected").0);
    let [end4, end6] = ends;
    let [accepted4, accepted6] = accepted;
    let [connected4, connected6] = Family::BOTH.map(connected);
    vec![
        ("connected, IPv4", connected4.into()),
        ("connected, IPv6", connected6.into()),
        ("calling itself, IPv4", end4.into()),
        ("calling itself, IPv6", end6.into()),
        ("accepted, IPv4 in IPv6's form", accepted4.into()),
        ("accepted, IPv6", accepted6.into()),
        ("listening, both", accepting.into()),
        ("listening, IPv4", listening("0.0.0.0:7072", Shared::Nothing).into()),
        ("datagrams, IPv4", udp("0.0.0.0:7073").into()),
        ("datagrams, IPv6", udp("[::]:7074").into()),
    ]
}

type Question = (usize, i32, i32, i32);

fn answers(sockets: &[(&str, OwnedFd)]) -> Vec<(Question, Answer)> {
    let mut answers = Vec::new();
    for (number, (_, socket)) in sockets.iter().enumerate() {
        for level in LEVELS {
            for name in NAMES {
                // Receives, with a buffer's address.
                if level == libc::SOL_TCP && name == libc::TCP_ZEROCOPY_RECEIVE {
                    continue;
                }
                for length in LENGTHS {
                    answers
                        .push(((number, level, name, length), ask(socket.as_raw_fd(), level, name, length)));
                }
            }
        }
    }
    answers
}

/// The sockets are the same before and after the programs come: they are the control group's from the beginning.
fn like_without() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    let sockets = sockets(&pod);
    let without = answers(&sockets);
    let again = answers(&sockets);
    pod.apply(POD);
    let with = answers(&sockets);
    pod.clean();
    let afterwards = answers(&sockets);
    // What tells the time or the processor, or counts questions: it is not always the same without us, either.
    let whatever_length = |(number, level, name, _): Question| (number, level, name);
    let pairs = without.iter().zip(&again).chain(again.iter().zip(&afterwards));
    // The programs go some time after their links: until then a negative length is refused as it is below.
    let moved = pairs.filter(|(one, other)| one != other && one.0.3 >= 0);
    let moving: BTreeSet<_> = moved.map(|((question, _), _)| whatever_length(*question)).collect();
    let mut differ = Vec::new();
    for ((question, without), (_, with)) in without.iter().zip(&with) {
        let (number, level, name, length) = *question;
        let same = match moving.contains(&whatever_length(*question)) {
            true => (without.code, without.length) == (with.code, with.length),
            false => without == with,
        };
        // The kernel refuses a negative length, which IPv6 takes for a large one, wherever any program is asked: another's of
        // all processes may come or go at any time.
        let by_program = length < 0 && (with.code == libc::EINVAL || without.code == libc::EINVAL);
        let same = same || (by_program && with.buffer == without.buffer);
        if !same {
            differ.push(format!(
                "{}: level {level} name {name} length {length}\n  {without:?}\n  {with:?}",
                sockets[number].0
            ));
        }
    }
    let good = without.iter().filter(|(_, answer)| answer.code == 0).count();
    assert!(good > 2000 && moving.len() < 40, "{good} good answers, {} that move", moving.len());
    assert!(
        differ.is_empty(),
        "{} of {} differ:\n{}",
        differ.len(),
        with.len(),
        differ[..differ.len().min(20)].join("\n")
    );
}

/// The one that is: of the length of an address, or of none.
fn original() {
    let pod = Pod::bare();
    serve_apps(&pod.here, &pod.there);
    pod.apply(POD);
    let accepting =
        pod.here.run_as(PROXY, || listener("[::]:15001".parse().expect("an address"), Shared::Families));
    for (family, level, size) in [(Family::V4, libc::SOL_IP, 16), (Family::V6, libc::SOL_IPV6, 28)] {
        let to = THERE.port(family, 8443);
        let client = pod.here.run_as(APP, || TcpStream::connect(to).expect("captured"));
        let (accepted, _) = accepting.accept().expect("it connected");
        for length in LENGTHS {
            let answer = ask(accepted.as_raw_fd(), level, ORIGINAL, length);
            if length < size {
                assert!(answer.code != 0 && answer.length == length, "{length}: {answer:?}");
                continue;
            }
            assert_eq!((answer.code, answer.length), (0, size), "{length}: {answer:?}");
            let text = format!("{:?}", super::race::token(to));
            let address = match family {
                Family::V4 => [&[0; 10][..], &[0xff; 2], &answer.buffer[4..8], &answer.buffer[2..4]].concat(),
                Family::V6 => [&answer.buffer[8..24], &answer.buffer[2..4]].concat(),
            };
            assert_eq!(format!("{address:?}"), text, "{length}");
            let kind = u16::from_ne_bytes([answer.buffer[0], answer.buffer[1]]);
            assert_eq!(i32::from(kind), if size == 16 { libc::AF_INET } else { libc::AF_INET6 });
            let behind = usize::try_from(size).expect("positive");
            assert!(answer.buffer[behind..].iter().all(|byte| *byte == FILLED), "{length}: more was written");
        }
        // Of the other family, on another level, of another name, and of the one who called, there is no such answer.
        let other = if level == libc::SOL_IP { libc::SOL_IPV6 } else { libc::SOL_IP };
        for (socket, level, name) in [
            (accepted.as_raw_fd(), other, ORIGINAL),
            (accepted.as_raw_fd(), libc::SOL_UDP, ORIGINAL),
            (accepted.as_raw_fd(), level, ORIGINAL + 2),
            (client.as_raw_fd(), level, ORIGINAL),
            (accepting.as_raw_fd(), level, ORIGINAL),
        ] {
            let answer = ask(socket, level, name, 64);
            assert_ne!(answer.code, 0, "level {level} name {name}: {answer:?}");
        }
    }
}
